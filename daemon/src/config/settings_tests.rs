//! What is refused of a configuration, and with which words.

use super::*;
use crate::config::ValueError;

fn minimal() -> RawConfig {
    let mut raw = RawConfig::default();
    raw.set("west", "data.dir", RawValue::Text("/d".into()));
    raw.set("west", "topics", RawValue::List(vec!["orders".into()]));
    raw.set("west", "bootstrap.servers", RawValue::Text("a:1,b:2".into()));
    raw
}

fn with(name: &str, value: &str) -> Result<Settings, ConfigError> {
    let mut raw = minimal();
    raw.set("west", name, RawValue::Text(value.into()));
    Settings::from_raw(&raw, None)
}

#[test]
fn three_values_are_enough_and_the_rest_are_the_documented_defaults() {
    let settings = Settings::from_raw(&minimal(), None).unwrap();
    assert_eq!(settings.link_directory(), PathBuf::from("/d/west"));
    assert_eq!(settings.daemon.memory_bytes, 512 << 20);
    let link = &settings.link;
    assert_eq!(link.source.bootstrap_servers.len(), 2);
    assert_eq!((link.flush_ms, link.flush_catch_up_ms), (250, 5_000));
    assert_eq!(link.truncation, TruncationPolicy::default());
    assert_eq!((link.fetch_bytes_max, link.fetch_response_bytes_max), (4 << 20, 16 << 20));
    assert_eq!(link.isolation_level, IsolationLevel::ReadCommitted);
}

#[test]
fn each_missing_value_is_named() {
    for name in ["data.dir", "bootstrap.servers"] {
        let mut raw = minimal();
        raw.daemon.remove(name);
        let link = raw.links.get_mut("west").unwrap();
        link.link.remove(name);
        link.source.remove(name);
        let error = Settings::from_raw(&raw, None).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{name} is missing")), "{error}");
    }
}

#[test]
fn a_link_without_topics_and_filters_is_refused_and_filters_are_enough() {
    let mut raw = minimal();
    raw.links.get_mut("west").unwrap().link.remove("topics");
    let error = Settings::from_raw(&raw, None).unwrap_err();
    assert!(matches!(error, ConfigError::NothingToMirror), "{error}");
    let filter = r#"{"name":"a","patternType":"PREFIXED","filterType":"INCLUDE"}"#;
    raw.set("west", "auto.create.mirror.topics.filters", RawValue::Text(filter.into()));
    assert!(Settings::from_raw(&raw, None).is_err(), "filters alone create nothing");
    raw.set("west", "auto.create.mirror.topics.enable", RawValue::Text("true".into()));
    assert!(Settings::from_raw(&raw, None).unwrap().link.topic_filters.matches("ab", false));
}

#[test]
fn guest_mode_asks_for_what_it_needs_and_gives_each_id_a_port() {
    let given = [
        ("mode", "guest"),
        ("bootstrap.servers", "b:9094"),
        ("bootstrap.controllers", "c:9093"),
        ("inter.broker.listener.name", "INTERNAL"),
        ("guest.broker.ids", "900-902"),
        ("guest.listener", "10.0.0.5:9192"),
    ];
    let mut raw = minimal();
    for (index, (name, value)) in given.iter().enumerate() {
        let destination = &mut raw.links.get_mut("west").unwrap().destination;
        let key = key_in(Scope::Destination, name).unwrap();
        destination.insert(key.name, RawValue::Text((*value).into()));
        let settings = Settings::from_raw(&raw, None);
        if index + 1 < given.len() {
            let lines: Vec<String> = settings.unwrap_err().findings().lines().collect();
            let missing: Vec<&str> = given[index + 1..].iter().map(|(name, _)| *name).collect();
            assert_eq!(lines.len(), missing.len(), "{lines:?}");
            for (line, name) in lines.iter().zip(missing) {
                assert!(line.starts_with(name) && line.contains("mode = guest"), "{line}");
            }
        } else {
            let guest = settings.unwrap().link.guest.unwrap();
            let addresses: Vec<String> =
                guest.serving_ids.iter().map(|(id, address)| format!("{id} {address}")).collect();
            assert_eq!(addresses, ["900 10.0.0.5:9192", "901 10.0.0.5:9193"]);
            assert_eq!((guest.reserve_id, guest.mirror_replication_factor), (902, None));
        }
    }
}

#[test]
fn every_key_refuses_what_lies_beyond_its_bound_and_takes_the_bound() {
    let with = |key: &'static super::super::key::Key, value: &str| {
        let mut raw = minimal();
        let link = raw.links.get_mut("west").unwrap();
        let values = match key.scope {
            Scope::Daemon => &mut raw.daemon,
            Scope::Link => &mut link.link,
            Scope::Source => &mut link.source,
            Scope::Destination => &mut link.destination,
            Scope::Controllers => &mut link.controllers,
        };
        values.insert(key.name, RawValue::Text(value.into()));
        Settings::from_raw(&raw, None)
    };
    for key in KEYS {
        match key.kind {
            Kind::Bytes { min, max } | Kind::Milliseconds { min, max } | Kind::Number { min, max } => {
                let beyond = max.checked_add(1).unwrap().to_string();
                let error = with(key, &beyond).unwrap_err();
                assert!(matches!(error, ConfigError::Value { why: ValueError::OutOfBound, .. }), "{error}");
                assert!(error.to_string().contains(key.name) && error.to_string().contains(&beyond));
                if min > 0 {
                    assert!(with(key, &(min - 1).to_string()).is_err(), "{}", key.name);
                }
                for bound in [min, max] {
                    let taken = with(key, &bound.to_string());
                    let is_conflict = |error: &ConfigError| matches!(error, ConfigError::Conflict { .. });
                    let fits = |refused: &ConfigError| refused.findings().iter().all(is_conflict);
                    assert!(taken.as_ref().err().is_none_or(fits), "{} = {bound}: {taken:?}", key.name);
                }
            }
            Kind::Choice(choices) => {
                assert!(with(key, "neither").is_err(), "{}", key.name);
                let is_missing = |error: &ConfigError| matches!(error, ConfigError::MissingFor { .. });
                let taken = |choice: &&str| {
                    let refused = with(key, choice).err();
                    refused.is_none_or(|refused| refused.findings().iter().all(is_missing))
                };
                assert!(choices.iter().all(taken), "{}", key.name);
            }
            Kind::Text { bytes_max } | Kind::Secret { bytes_max } => {
                assert!(with(key, &"x".repeat(bytes_max + 1)).is_err())
            }
            Kind::Path
            | Kind::Cores
            | Kind::Core
            | Kind::Servers
            | Kind::Server
            | Kind::BrokerIds
            | Kind::Topics
            | Kind::TopicConfigs
            | Kind::TopicFilters
            | Kind::File
            | Kind::TlsVersions => {
                assert!(with(key, "\0,(").is_err(), "{}", key.name);
            }
        }
    }
}

#[test]
fn values_that_exclude_each_other_are_refused_with_both() {
    let text = with("replica.fetch.max.bytes", "32MiB").unwrap_err().to_string();
    assert!(text.contains("replica.fetch.response.max.bytes = 16777216"), "{text}");
    assert!(matches!(with("request.timeout.ms", "900"), Err(ConfigError::Conflict { .. })));
}

#[test]
fn a_refused_value_is_shown_as_far_as_it_fits_in_a_sentence() {
    let text = with("flush.ms", &"é".repeat(1_000_000)).unwrap_err().to_string();
    assert!(text.len() < 1_000 && text.contains("(2000002 bytes)"), "{text}");
}

#[test]
fn a_login_needs_a_mechanism_and_a_password_that_no_error_shows() {
    let text = with("security.protocol", "GSSAPI").unwrap_err().to_string();
    assert!(text.contains("GSSAPI") && text.contains("allowed: PLAINTEXT | SSL"), "{text}");
    let text = with("security.protocol", "SASL_PLAINTEXT").unwrap_err().to_string();
    assert!(text.starts_with("sasl.mechanism is missing") && text.contains("SASL_*"), "{text}");
    let mut raw = minimal();
    let mut step = |name: &str, value: &str| {
        raw.set("west", name, RawValue::Text(value.into()));
        Settings::from_raw(&raw, None)
    };
    let _ = step("security.protocol", "SASL_PLAINTEXT");
    let text = step("sasl.mechanism", "GSSAPI").unwrap_err().to_string();
    if cfg!(feature = "gssapi") {
        assert!(text.contains("sasl.mechanism = GSSAPI needs sasl.kerberos.keytab"), "{text}");
    } else {
        assert!(
            text.contains("SCRAM-SHA-512 or OAUTHBEARER") && text.contains("--features gssapi"),
            "{text}"
        );
    }
    let text = step("sasl.mechanism", "SCRAM-SHA-512").unwrap_err().to_string();
    assert!(text.starts_with("[link.NAME.source]") && text.contains("sasl.username"), "{text}");
    let _ = step("sasl.username", "twin");
    let settings = step("sasl.password", "hunter2").unwrap();
    assert_eq!(settings.link.source.security.protocol().number(), 2);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let text = step("sasl.password", &"hunter2".repeat(20_000)).unwrap_err().to_string();
    assert!(text.contains("140000 bytes") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_link_is_chosen_by_name_and_its_name_is_a_safe_directory() {
    let mut raw = minimal();
    raw.set("east", "topics", RawValue::Text("x".into()));
    assert!(matches!(Settings::from_raw(&raw, None), Err(ConfigError::SeveralLinks { .. })));
    assert_eq!(Settings::from_raw(&raw, Some("west")).unwrap().link.name, "west");
    assert!(matches!(Settings::from_raw(&raw, Some("north")), Err(ConfigError::NoSuchLink { .. })));
    for bad in ["", "..", ".twinlog", "cuts", "state.db", "admin.sock", "-", "a/b", "a b"] {
        assert!(check_link_name(bad).is_err(), "{bad}");
    }
}
