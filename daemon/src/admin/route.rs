//! Which path means which request.
//!
//! ```text
//!   GET    /kafka/v3/clusters
//!   GET    /kafka/v3/clusters/{cluster}/links[/{link}]              {cluster}: an id, or - for ours
//!   GET    /kafka/v3/clusters/{cluster}/links/{link}/mirrors[/{topic}]   {link}: a name; - for all lists
//!   GET    /kafka/v3/clusters/{cluster}/links/{link}/groups[/{group}], groups?limit=N[&contains=TEXT]
//!   POST   /kafka/v3/clusters/{cluster}/links/{link}/mirrors
//!   POST   /kafka/v3/clusters/{cluster}/links/{link}/mirrors:promote | :failover | :pause | :resume
//!   POST   /kafka/v3/clusters/{cluster}/links?link_name=NAME       PATCH, DELETE .../links/{link}
//!   GET    /kafka/v3/clusters/{cluster}/links/{link}/configs       PUT .../links/{link}/configs:alter
//!   DELETE /kafka/v3/clusters/{cluster}/links/{link}/mirrors/{topic}
//!   POST   /kafka/v3/clusters/{cluster}/links/{link}/guest:leave
//!   GET    /     /web/{file}     /openapi.json          the page, and the description of all this
//!   GET    /twinlog/v1/status     /twinlog/v1/audit?limit=N     /metrics     /healthz     /readyz
//! ```
//! Lists take `page_size` and `page_token`.
//! Names of links and topics and ids of clusters need no escapes; a path with one is none of ours, but for a group's
//! name, which may hold anything.

use super::body::{BodyError, ConfigOrder, LINK_PAUSED, LinkOrder, MirrorOrder, Query};
use super::group_list::Worst;
use super::group_name::unescaped;
use super::page::Page;
use super::web::WebFile;
use super::{
    AdminError, Allowed, ErrorCode, LinkAddress, LinkChange, OpenTransactions, ReleaseOrder, Selection,
};
use crate::config::TopicPattern;
use hyper::Method;
use twinlog_log_segment::files::check_topic_name;

/// Stands for "whichever" in a path.
const ANY: &str = "-";
/// Rows of the audit when nobody says how many.
const AUDIT_ROWS_DEFAULT: u32 = 100;
/// The words that a list takes.
const PAGING: [&str; 2] = ["page_size", "page_token"];

/// What is asked for, understood as far as it can be without the daemon's state.
#[derive(Debug)]
pub(super) enum Asked {
    Page(&'static WebFile),
    Description,
    Health,
    Readiness,
    Metrics,
    Status,
    Audit {
        limit: u32,
    },
    Clusters {
        page: Page,
    },
    Links {
        cluster: Option<String>,
        page: Page,
    },
    Link {
        at: LinkAddress,
    },
    Mirrors {
        cluster: Option<String>,
        link: Option<String>,
        page: Page,
    },
    Mirror {
        at: LinkAddress,
        topic: String,
    },
    Groups {
        at: LinkAddress,
        page: Page,
    },
    WorstGroups {
        at: LinkAddress,
        worst: Worst,
    },
    Group {
        at: LinkAddress,
        group: String,
    },
    Create {
        at: LinkAddress,
        names: Vec<String>,
        validate_only: bool,
    },
    Promote {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
        allowed: Allowed,
    },
    Failover {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
        open_transactions: OpenTransactions,
    },
    Pause {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
    },
    Resume {
        at: LinkAddress,
        selection: Selection,
        release: Option<ReleaseOrder>,
        validate_only: bool,
    },
    PauseLink {
        at: LinkAddress,
        paused: bool,
        validate_only: bool,
    },
    LinkConfigs {
        at: LinkAddress,
        page: Page,
    },
    CreateLink {
        cluster: Option<String>,
        link: String,
        changes: Vec<LinkChange>,
        validate_only: bool,
    },
    AlterLink {
        at: LinkAddress,
        changes: Vec<LinkChange>,
        validate_only: bool,
    },
    DeleteLink {
        at: LinkAddress,
        force: bool,
        validate_only: bool,
    },
    Delete {
        at: LinkAddress,
        topic: String,
        delete_data: bool,
        validate_only: bool,
    },
    Leave {
        at: LinkAddress,
        validate_only: bool,
    },
}

impl Asked {
    /// Which topics an order means, and whether it only looks.
    pub(super) fn said(&self) -> (String, bool) {
        let chosen = |selection: &Selection| match selection {
            Selection::Names(names) => names.join(" "),
            Selection::Pattern(TopicPattern::Literal(name)) => name.clone(),
            Selection::Pattern(TopicPattern::Regex(regex)) => format!("pattern {}", regex.as_str()),
        };
        match self {
            Self::Create { names, validate_only, .. } => (names.join(" "), *validate_only),
            Self::Promote { selection, validate_only, .. }
            | Self::Failover { selection, validate_only, .. }
            | Self::Pause { selection, validate_only, .. }
            | Self::Resume { selection, release: None, validate_only, .. } => {
                (chosen(selection), *validate_only)
            }
            Self::Resume { selection, release: Some(order), validate_only, .. } => {
                let partition =
                    order.partition.map(|index| format!(" partition {index}")).unwrap_or_default();
                (format!("{}{partition}, {:?}", chosen(selection), order.release), *validate_only)
            }
            Self::PauseLink { paused, validate_only, .. } => {
                (format!("{LINK_PAUSED}={paused}"), *validate_only)
            }
            // Names only: a value may be a secret that somebody sent by mistake.
            Self::CreateLink { link, changes, validate_only, .. } => {
                (format!("link {link}: {}", configs(changes)), *validate_only)
            }
            Self::AlterLink { changes, validate_only, .. } => (configs(changes), *validate_only),
            Self::DeleteLink { force, validate_only, .. } => {
                (if *force { "by force" } else { "" }.to_owned(), *validate_only)
            }
            Self::Delete { topic, delete_data, validate_only, .. } => {
                let more = if *delete_data { " with its data" } else { "" };
                (format!("{topic}{more}"), *validate_only)
            }
            Self::Leave { validate_only, .. } => (String::new(), *validate_only),
            _ => (String::new(), false),
        }
    }
}

fn configs(changes: &[LinkChange]) -> String {
    changes.iter().map(|change| change.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn no_such_path(path: &str) -> AdminError {
    AdminError::new(ErrorCode::NoSuchPath, &format!("{path} is no path of this interface"))
}

fn malformed(error: BodyError) -> AdminError {
    AdminError::new(ErrorCode::Malformed, &error)
}

fn named(segment: &str) -> Option<String> {
    (segment != ANY).then(|| segment.to_owned())
}

/// Understands a request. `body` is whole.
pub(super) fn route(
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Asked, AdminError> {
    let query = Query::parse(query).map_err(malformed)?;
    if let Some(file) = WebFile::at(path) {
        if method != Method::GET {
            return Err(wrong_method(method, path));
        }
        nothing_said(&query, &[], body)?;
        return Ok(Asked::Page(file));
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let asked = match (method, segments.as_slice()) {
        (&Method::GET, ["openapi.json"]) => Asked::Description,
        (&Method::GET, ["healthz"]) => Asked::Health,
        (&Method::GET, ["readyz"]) => Asked::Readiness,
        (&Method::GET, ["metrics"]) => Asked::Metrics,
        (&Method::GET, ["twinlog", "v1", "status"]) => Asked::Status,
        (&Method::GET, ["twinlog", "v1", "audit"]) => {
            nothing_said(&query, &["limit"], body)?;
            return Ok(Asked::Audit { limit: query.limit.unwrap_or(AUDIT_ROWS_DEFAULT) });
        }
        (&Method::GET, ["kafka", "v3", "clusters"]) => {
            nothing_said(&query, &PAGING, body)?;
            return Ok(Asked::Clusters { page: Page::of(query) });
        }
        (&Method::GET, ["kafka", "v3", "clusters", cluster, "links"]) => {
            nothing_said(&query, &PAGING, body)?;
            return Ok(Asked::Links { cluster: named(cluster), page: Page::of(query) });
        }
        (&Method::POST, ["kafka", "v3", "clusters", cluster, "links"]) => {
            return create_link(named(cluster), query, body).map_err(malformed);
        }
        (_, ["kafka", "v3", "clusters", cluster, "links", link, rest @ ..]) => {
            return of_link(method, path, (*cluster, *link, rest), query, body);
        }
        (
            _,
            ["openapi.json" | "healthz" | "readyz" | "metrics"]
            | ["twinlog", "v1", "status" | "audit"]
            | ["kafka", "v3", "clusters"]
            | ["kafka", "v3", "clusters", _, "links"],
        ) => {
            return Err(wrong_method(method, path));
        }
        _ => return Err(no_such_path(path)),
    };
    nothing_said(&query, &[], body)?;
    Ok(asked)
}

fn wrong_method(method: &Method, path: &str) -> AdminError {
    AdminError::new(ErrorCode::NoSuchMethod, &format!("{path} does not take {method}"))
}

/// A question carries no orders.
fn nothing_said(query: &Query, allowed: &[&'static str], body: &[u8]) -> Result<(), AdminError> {
    query.allow(allowed).map_err(malformed)?;
    match body.is_empty() {
        true => Ok(()),
        false => Err(malformed(BodyError::NotHere { field: "a body" })),
    }
}

fn of_link(
    method: &Method,
    path: &str,
    (cluster, link, rest): (&str, &str, &[&str]),
    query: Query,
    body: &[u8],
) -> Result<Asked, AdminError> {
    // A link's name obeys the rules of a topic's; `-` is one of them, and means all of them in lists.
    let is_name = |name: &&str| check_topic_name(name).is_ok();
    if !is_name(&link) || !is_name(&cluster) {
        return Err(no_such_path(path));
    }
    let at = LinkAddress { cluster: named(cluster), link: link.to_owned() };
    let asked = match (method, rest) {
        (&Method::GET, []) => Asked::Link { at },
        (&Method::GET, ["mirrors"]) => {
            nothing_said(&query, &PAGING, body)?;
            return Ok(Asked::Mirrors { cluster: at.cluster, link: named(link), page: Page::of(query) });
        }
        (&Method::GET, ["mirrors", topic]) if is_name(topic) => {
            Asked::Mirror { at, topic: (*topic).to_owned() }
        }
        (&Method::GET, ["groups"]) => {
            let Query { limit, contains, .. } = &query;
            let Some(limit) = limit else {
                nothing_said(&query, &PAGING, body)?;
                return Ok(Asked::Groups { at, page: Page::of(query) });
            };
            nothing_said(&query, &["limit", "contains"], body)?;
            let limit = usize::try_from(*limit).expect("a few");
            let worst = Worst { limit, contains: contains.clone().unwrap_or_default() };
            return Ok(Asked::WorstGroups { at, worst });
        }
        (&Method::GET, ["groups", group]) => {
            let group = unescaped(group).ok_or_else(|| no_such_path(path))?;
            Asked::Group { at, group }
        }
        (&Method::POST, [order]) if ORDERS.contains(order) => {
            return ordered(order, at, &query, body).map_err(malformed);
        }
        (&Method::PUT, ["configs:alter"]) | (&Method::PATCH, []) => {
            return alter_link(at, &query, body).map_err(malformed);
        }
        (&Method::GET, ["configs"]) => {
            nothing_said(&query, &PAGING, body)?;
            return Ok(Asked::LinkConfigs { at, page: Page::of(query) });
        }
        (&Method::DELETE, []) => {
            nothing_said(&query, &["validate_only", "force"], body)?;
            let Query { validate_only, force, .. } = query;
            return Ok(Asked::DeleteLink { at, force, validate_only });
        }
        (&Method::DELETE, ["mirrors", topic]) if is_name(topic) => {
            if !body.is_empty() {
                return Err(malformed(BodyError::NotHere { field: "a body" }));
            }
            query.allow(&["validate_only", "delete_data"]).map_err(malformed)?;
            let Query { validate_only, delete_data, .. } = query;
            return Ok(Asked::Delete { at, topic: (*topic).to_owned(), delete_data, validate_only });
        }
        (_, [] | ["configs:alter" | "configs" | "groups"] | ["groups", _]) => {
            return Err(wrong_method(method, path));
        }
        (_, [order]) if ORDERS.contains(order) => return Err(wrong_method(method, path)),
        (_, ["mirrors", topic]) if is_name(topic) => return Err(wrong_method(method, path)),
        _ => return Err(no_such_path(path)),
    };
    nothing_said(&query, &[], body)?;
    Ok(asked)
}

fn create_link(cluster: Option<String>, query: Query, body: &[u8]) -> Result<Asked, BodyError> {
    query.allow(&["validate_only", "link_name"])?;
    let order = LinkOrder::parse(body)?;
    let validate_only = order.is_dry_run(&query)?;
    let link = query.link_name.ok_or(BodyError::NoLinkName)?;
    Ok(Asked::CreateLink { cluster, link, changes: order.changes()?, validate_only })
}

fn alter_link(at: LinkAddress, query: &Query, body: &[u8]) -> Result<Asked, BodyError> {
    let order = ConfigOrder::parse(body)?;
    let validate_only = order.is_dry_run(query)?;
    match order.pause()? {
        Some(paused) => Ok(Asked::PauseLink { at, paused, validate_only }),
        None => Ok(Asked::AlterLink { at, changes: order.changes()?, validate_only }),
    }
}

/// What is posted to a link.
const ORDERS: [&str; 6] =
    ["mirrors", "mirrors:promote", "mirrors:failover", "mirrors:pause", "mirrors:resume", "guest:leave"];

fn ordered(order: &str, at: LinkAddress, query: &Query, body: &[u8]) -> Result<Asked, BodyError> {
    let said = MirrorOrder::parse(body)?;
    let validate_only = said.is_dry_run(query)?;
    query.allow(&["validate_only"])?;
    match order {
        "mirrors" => {
            said.allow(&["source_topic_name"])?;
            Ok(Asked::Create { at, names: said.names()?, validate_only })
        }
        "mirrors:promote" => {
            said.allow(&["mirror_topic_name_pattern", "allow_moving_source", "allow_producer_overlap"])?;
            let allowed = Allowed {
                moving_source: said.allow_moving_source.unwrap_or(false),
                producer_overlap: said.allow_producer_overlap.unwrap_or(false),
            };
            Ok(Asked::Promote { at, selection: said.selection()?, validate_only, allowed })
        }
        "mirrors:pause" => {
            said.allow(&["mirror_topic_name_pattern"])?;
            Ok(Asked::Pause { at, selection: said.selection()?, validate_only })
        }
        "mirrors:resume" => {
            said.allow(&["mirror_topic_name_pattern", "release", "partition_id"])?;
            let release = said.release.map(|release| ReleaseOrder { release, partition: said.partition_id });
            if release.is_none() && said.partition_id.is_some() {
                return Err(BodyError::NotHere { field: "partition_id" });
            }
            Ok(Asked::Resume { at, selection: said.selection()?, release, validate_only })
        }
        "mirrors:failover" => {
            said.allow(&["mirror_topic_name_pattern", "open_transactions"])?;
            let open_transactions = said.open_transactions.unwrap_or_default();
            Ok(Asked::Failover { at, selection: said.selection()?, validate_only, open_transactions })
        }
        _ => {
            said.allow(&[])?;
            if !said.mirror_topic_names.is_empty() {
                return Err(BodyError::NotHere { field: "mirror_topic_names" });
            }
            Ok(Asked::Leave { at, validate_only })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::control::instruction::Release;

    const LINK: &str = "/kafka/v3/clusters/abc/links/dr";

    fn get(path: &str) -> Result<Asked, AdminError> {
        route(&Method::GET, path, None, b"")
    }

    fn code(outcome: Result<Asked, AdminError>) -> u32 {
        outcome.unwrap_err().code.number()
    }

    #[test]
    fn questions_are_understood() {
        assert!(matches!(get("/kafka/v3/clusters"), Ok(Asked::Clusters { .. })));
        assert!(matches!(get("/kafka/v3/clusters/-/links"), Ok(Asked::Links { cluster: None, .. })));
        assert!(matches!(get(LINK), Ok(Asked::Link { at }) if at.cluster.as_deref() == Some("abc")));
        let all = get("/kafka/v3/clusters/abc/links/-/mirrors");
        assert!(matches!(all, Ok(Asked::Mirrors { link: None, .. })));
        let one = get(&format!("{LINK}/mirrors/orders"));
        assert!(matches!(one, Ok(Asked::Mirror { topic, .. }) if topic == "orders"));
        assert!(matches!(get("/twinlog/v1/status"), Ok(Asked::Status)));
        assert!(matches!(get("/metrics"), Ok(Asked::Metrics)));
        assert!(matches!(get("/twinlog/v1/audit"), Ok(Asked::Audit { limit: AUDIT_ROWS_DEFAULT })));
        let few = route(&Method::GET, "/twinlog/v1/audit", Some("limit=5"), b"");
        assert!(matches!(few, Ok(Asked::Audit { limit: 5 })));
    }

    #[test]
    fn orders_are_understood_with_their_bodies() {
        let post =
            |path: &str, body: &str| route(&Method::POST, &format!("{LINK}{path}"), None, body.as_bytes());
        let named = r#"{"mirror_topic_names":["orders"],"allow_moving_source":true}"#;
        let named_only = r#"{"mirror_topic_names":["orders"]}"#;
        let promoted = post("/mirrors:promote", named);
        assert!(matches!(
            promoted,
            Ok(Asked::Promote {
                allowed: Allowed { moving_source: true, producer_overlap: false },
                validate_only: false,
                ..
            })
        ));
        let overlapping = r#"{"mirror_topic_names":["orders"],"allow_producer_overlap":true}"#;
        assert!(matches!(
            post("/mirrors:promote", overlapping),
            Ok(Asked::Promote { allowed: Allowed { moving_source: false, producer_overlap: true }, .. })
        ));
        let lost =
            post("/mirrors:failover", r#"{"mirror_topic_name_pattern":".*","open_transactions":"truncate"}"#);
        let truncate = OpenTransactions::Truncate;
        assert!(
            matches!(lost, Ok(Asked::Failover { open_transactions, .. }) if open_transactions == truncate)
        );
        assert_eq!(code(post("/mirrors:failover", named)), 40001);
        assert!(matches!(post("/guest:leave", ""), Ok(Asked::Leave { validate_only: false, .. })));
        assert_eq!(code(post("/guest:leave", named)), 40001);
        assert!(matches!(post("/mirrors", r#"{"source_topic_name":"a"}"#), Ok(Asked::Create { .. })));
        assert_eq!(code(post("/mirrors:reverse", "{}")), 40404);
        assert!(matches!(post("/mirrors:pause", named_only), Ok(Asked::Pause { .. })));
        let released = r#"{"mirror_topic_names":["a"],"partition_id":3,"release":{"restart_from":12}}"#;
        let release = ReleaseOrder { release: Release::RestartFrom(12), partition: Some(3) };
        assert!(
            matches!(post("/mirrors:resume", released), Ok(Asked::Resume { release: Some(found), .. }) if found == release)
        );
        let nothing = r#"{"mirror_topic_names":["a"],"partition_id":3}"#;
        assert_eq!(code(post("/mirrors:resume", nothing)), 40001);
        let put = |body: &str| route(&Method::PUT, &format!("{LINK}/configs:alter"), None, body.as_bytes());
        let paused = r#"{"data":[{"name":"cluster.link.paused","value":"true"}]}"#;
        assert!(matches!(put(paused), Ok(Asked::PauseLink { paused: true, validate_only: false, .. })));
        for bad in
            [r#"{"data":[]}"#, &paused.replace("true", "yes"), "{}", r#"{"data":[{"name":"flush.ms"}]}"#]
        {
            assert_eq!(code(put(bad)), 40001, "{bad}");
        }
        let both = r#"{"data":[{"name":"flush.ms","value":"7","operation":"SET"},
                       {"name":"on.gap","operation":"DELETE"}],"validate_only":true}"#;
        let Ok(Asked::AlterLink { changes, validate_only: true, .. }) = put(both) else { panic!("{both}") };
        assert_eq!(changes[0].value.as_deref(), Some("7"));
        assert_eq!((changes[1].name.as_str(), &changes[1].value), ("on.gap", &None));
        let patched = route(&Method::PATCH, LINK, None, both.as_bytes());
        assert!(matches!(patched, Ok(Asked::AlterLink { .. })));
        let path = format!("{LINK}/mirrors/orders");
        let deleted = route(&Method::DELETE, &path, Some("delete_data=true&validate_only=true"), b"");
        assert!(matches!(deleted, Ok(Asked::Delete { delete_data: true, validate_only: true, .. })));
    }

    #[test]
    fn links_are_created_looked_at_and_deleted() {
        let links = "/kafka/v3/clusters/-/links";
        let body = br#"{"configs":[{"name":"sasl.password","value":"hunter2"}]}"#;
        let made = route(&Method::POST, links, Some("link_name=west&validate_only=true"), body).unwrap();
        assert!(!format!("{made:?} {:?}", made.said()).contains("hunter2"));
        assert_eq!(made.said(), ("link west: sasl.password".to_owned(), true));
        assert!(matches!(made, Asked::CreateLink { cluster: None, link, .. } if link == "west"));
        assert_eq!(code(route(&Method::POST, links, None, body)), 40001);
        assert_eq!(code(route(&Method::POST, links, Some("link_name=west"), br#"{"configs":[]}"#)), 40001);
        let taken_back = br#"{"configs":[{"name":"on.gap","operation":"DELETE"}]}"#;
        assert_eq!(code(route(&Method::POST, links, Some("link_name=west"), taken_back)), 40001);
        assert!(matches!(get(&format!("{LINK}/configs")), Ok(Asked::LinkConfigs { .. })));
        let deleted = route(&Method::DELETE, LINK, Some("force=true"), b"");
        assert!(matches!(deleted, Ok(Asked::DeleteLink { force: true, validate_only: false, .. })));
        assert_eq!(code(route(&Method::DELETE, LINK, Some("delete_data=true"), b"")), 40001);
    }

    #[test]
    fn what_is_not_understood_is_never_taken_for_something_else() {
        assert_eq!(code(get("//")), 40404);
        assert_eq!(code(get("/web/nothing.js")), 40404);
        assert_eq!(code(route(&Method::POST, "/", None, b"")), 40501);
        assert_eq!(code(get(&format!("{LINK}/mirrors/a/b"))), 40404);
        assert_eq!(code(get(&format!("{LINK}/mirrors/%2e%2e"))), 40404);
        assert_eq!(code(get(&format!("{LINK}/mirrors:promote"))), 40501);
        assert_eq!(code(route(&Method::DELETE, &format!("{LINK}/mirrors"), None, b"")), 40501);
        assert_eq!(code(route(&Method::POST, "/healthz", None, b"")), 40501);
        assert_eq!(code(route(&Method::GET, LINK, Some("validate_only=true"), b"")), 40001);
        assert_eq!(code(route(&Method::GET, LINK, None, b"{}")), 40001);
        assert_eq!(code(route(&Method::GET, LINK, Some("page_size=5"), b"")), 40001);
        assert_eq!(code(route(&Method::POST, &format!("{LINK}/mirrors"), Some("limit=5"), b"{}")), 40001);
    }
}
