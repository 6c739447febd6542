//! The few groups that somebody should look at, of the many there are.

use super::answer::GroupView;

/// States by how much they want to be looked at; those that are not named here come last.
const WORST_FIRST: [&str; 11] = [
    "NOT_WRITABLE",
    "NOT_READABLE",
    "TOO_LARGE",
    "BACK_AT_SOURCE",
    "AHEAD_AT_DESTINATION",
    "DELETED_AT_DESTINATION",
    "ACTIVE_AT_DESTINATION",
    "HELD_BACK",
    "PENDING",
    "NOT_SUPPORTED",
    "GONE_AT_SOURCE",
];

/// Which of them are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worst {
    pub limit: usize,
    /// In the name at the source; case does not count.
    pub contains: String,
}

impl Worst {
    /// Leaves those, the worst first: by their states, then by how old their copies are, then by name.
    pub fn cut(&self, groups: &mut Vec<GroupView>) {
        let wanted = self.contains.to_lowercase();
        if !wanted.is_empty() {
            groups.retain(|group| group.group_id.to_lowercase().contains(&wanted));
        }
        let rank = |group: &GroupView| {
            let place = WORST_FIRST.iter().position(|state| *state == group.state);
            let age = std::cmp::Reverse(group.offset_staleness_ms);
            (place.unwrap_or(WORST_FIRST.len()), age, group.group_id.clone())
        };
        groups.sort_by_cached_key(rank);
        groups.truncate(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_sync::group_offsets::Verdict;

    fn group(name: &str, state: &str, staleness_ms: Option<u64>) -> GroupView {
        GroupView {
            group_id: name.to_owned(),
            state: state.to_owned(),
            offset_staleness_ms: staleness_ms,
            ..GroupView::default()
        }
    }

    #[test]
    fn the_worst_come_first_and_no_more_than_are_asked_for() {
        let all = || {
            vec![
                group("app-1", "SYNCED", Some(5)),
                group("App-2", "HELD_BACK", Some(5)),
                group("app-3", "SYNCED", Some(900)),
                group("other", "NOT_READABLE", None),
                group("app-4", "SYNCED", Some(900)),
            ]
        };
        let told = |limit, contains: &str| {
            let mut groups = all();
            Worst { limit, contains: contains.to_owned() }.cut(&mut groups);
            groups.into_iter().map(|group| group.group_id).collect::<Vec<_>>()
        };
        assert_eq!(told(9, ""), ["other", "App-2", "app-3", "app-4", "app-1"]);
        assert_eq!(told(2, ""), ["other", "App-2"]);
        assert_eq!(told(9, "APP"), ["App-2", "app-3", "app-4", "app-1"]);
        assert!(told(9, "none").is_empty());
    }

    #[test]
    fn every_state_that_is_named_is_one() {
        let known = Verdict::ALL.map(Verdict::name);
        assert!(WORST_FIRST.iter().all(|state| known.contains(state)));
    }
}
