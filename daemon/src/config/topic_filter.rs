//! Which topics become mirror topics by themselves, and which groups are followed: Cluster Linking's filters.
//!
//! ```text
//!   TOML   [{ name = "orders", patternType = "PREFIXED", filterType = "INCLUDE" }, ...]
//!   JSON   {"topicFilters": [{"name": "*", "patternType": "LITERAL", "filterType": "INCLUDE"}]}
//!          {"groupFilters": [...]} where groups are meant
//! ```
//! A topic is meant when at least one filter includes it and none excludes it. A literal `*` is every
//! topic. Internal topics are never meant: their records belong to their cluster.

use serde::Deserialize;
use std::fmt;

/// Filters of one link; beyond it every new topic costs more comparisons than a metadata answer has bytes.
const FILTERS_MAX: usize = 1_000;
/// Every topic.
const WILDCARD: &str = "*";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum PatternType {
    Literal,
    Prefixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum FilterType {
    Include,
    Exclude,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TopicFilter {
    name: String,
    pattern_type: PatternType,
    filter_type: FilterType,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wrapped {
    #[serde(alias = "groupFilters")]
    topic_filters: Vec<TopicFilter>,
}

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicFilters(Vec<TopicFilter>);

/// Why a text is no list of filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// The reader's own words.
    Syntax {
        text: String,
        why: String,
    },
    EmptyName,
    TooMany {
        found: usize,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { text, why } => {
                write!(
                    f,
                    "{text} is no filter: {why}; write {{name, patternType = LITERAL or PREFIXED, filterType = \
                     INCLUDE or EXCLUDE}}"
                )
            }
            Self::EmptyName => write!(f, "a filter's name is empty; * with LITERAL means every topic"),
            Self::TooMany { found } => write!(f, "{found} filters are more than {FILTERS_MAX}"),
        }
    }
}

impl TopicFilters {
    /// Each text is one filter, a list of them, or Kafka's object around the list.
    pub fn parse(texts: &[String]) -> Result<Self, FilterError> {
        let mut filters = Vec::new();
        for text in texts {
            let syntax =
                |error: serde_json::Error| FilterError::Syntax { text: text.clone(), why: error.to_string() };
            if text.trim_start().starts_with('[') {
                filters.extend(serde_json::from_str::<Vec<TopicFilter>>(text).map_err(syntax)?);
            } else if text.contains("topicFilters") || text.contains("groupFilters") {
                filters.extend(serde_json::from_str::<Wrapped>(text).map_err(syntax)?.topic_filters);
            } else {
                filters.push(serde_json::from_str::<TopicFilter>(text).map_err(syntax)?);
            }
        }
        if filters.len() > FILTERS_MAX {
            return Err(FilterError::TooMany { found: filters.len() });
        }
        if filters.iter().any(|filter| filter.name.is_empty()) {
            return Err(FilterError::EmptyName);
        }
        Ok(Self(filters))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of filters that include topics, and whether each is a prefix.
    pub fn included(&self) -> impl Iterator<Item = (&str, bool)> {
        let included = self.0.iter().filter(|filter| filter.filter_type == FilterType::Include);
        included.map(|filter| (filter.name.as_str(), filter.pattern_type == PatternType::Prefixed))
    }

    /// Whether the filters mean this group; without any, every group is meant.
    pub fn matches_group(&self, group: &str) -> bool {
        self.is_empty() || self.matches(group, false)
    }

    /// Whether the filters mean this topic.
    pub fn matches(&self, topic: &str, is_internal: bool) -> bool {
        let hits = |filter: &&TopicFilter| match filter.pattern_type {
            PatternType::Literal => filter.name == topic || filter.name == WILDCARD,
            PatternType::Prefixed => topic.starts_with(&filter.name),
        };
        let mut include = false;
        for filter in self.0.iter().filter(hits) {
            match filter.filter_type {
                FilterType::Include => include = true,
                FilterType::Exclude => return false,
            }
        }
        include && !is_internal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Result<TopicFilters, FilterError> {
        TopicFilters::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    const ORDERS: &str = r#"{"name":"orders","patternType":"PREFIXED","filterType":"INCLUDE"}"#;
    const NO_TESTS: &str = r#"{"name":"orders.test","patternType":"LITERAL","filterType":"EXCLUDE"}"#;

    #[test]
    fn an_exclusion_wins_wherever_it_stands() {
        for texts in [[ORDERS, NO_TESTS], [NO_TESTS, ORDERS]] {
            let filters = parsed(&texts).unwrap();
            assert!(filters.matches("orders.eu", false) && filters.matches("orders", false));
            assert!(!filters.matches("orders.test", false) && !filters.matches("bills", false));
        }
    }

    #[test]
    fn the_three_ways_to_write_filters_mean_the_same() {
        let one = parsed(&[ORDERS, NO_TESTS]).unwrap();
        assert_eq!(parsed(&[&format!("[{ORDERS},{NO_TESTS}]")]).unwrap(), one);
        assert_eq!(parsed(&[&format!("{{\"topicFilters\":[{ORDERS},{NO_TESTS}]}}")]).unwrap(), one);
    }

    #[test]
    fn filters_of_groups_are_written_alike_and_none_means_all() {
        let wrapped = format!("{{\"groupFilters\":[{ORDERS},{NO_TESTS}]}}");
        let filters = parsed(&[&wrapped]).unwrap();
        assert!(filters.matches_group("orders.eu") && !filters.matches_group("orders.test"));
        assert!(!filters.matches_group("bills") && TopicFilters::default().matches_group("bills"));
    }

    #[test]
    fn the_wildcard_means_every_topic_but_internal_ones() {
        let all = parsed(&[r#"{"name":"*","patternType":"LITERAL","filterType":"INCLUDE"}"#]).unwrap();
        assert!(all.matches("bills", false) && !all.matches("__consumer_offsets", true));
        assert!(!TopicFilters::default().matches("bills", false));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_a_sentence() {
        let text = parsed(&[r#"{"name":"a","patternType":"REGEX","filterType":"INCLUDE"}"#]).unwrap_err();
        assert!(text.to_string().contains("REGEX") && text.to_string().contains("PREFIXED"), "{text}");
        assert!(parsed(&["hello"]).is_err());
        let empty = r#"{"name":"","patternType":"LITERAL","filterType":"INCLUDE"}"#;
        assert_eq!(parsed(&[empty]), Err(FilterError::EmptyName));
    }
}
