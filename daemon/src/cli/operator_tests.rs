//! Whole command lines against a daemon of which only the operator's side is real.

use super::main_with;
use crate::admin::test_backend::TestDaemon;
use std::ffi::OsString;
use std::process::ExitCode;

fn line(daemon: &TestDaemon, words: &str) -> ExitCode {
    let end = format!("--data-dir {}", daemon.directory.path().display());
    let words = format!("twinlog {words} {end}");
    main_with(words.split_whitespace().map(OsString::from))
}

const DONE: ExitCode = ExitCode::SUCCESS;

fn failed() -> ExitCode {
    ExitCode::from(super::FAILED)
}

fn usage() -> ExitCode {
    ExitCode::from(super::USAGE)
}

#[test]
fn every_command_reaches_the_daemon_with_its_flags() {
    let daemon = TestDaemon::start();
    for (words, code, asked) in [
        ("status", DONE, "Status"),
        (
            "mirror create orders bills --link dr --dry-run",
            DONE,
            "CreateMirrors { at: LinkAddress { cluster: None, link: dr }, names: [orders, bills], validate_only: true",
        ),
        ("mirror list", DONE, "ListMirrors { cluster: None, link: None"),
        ("mirror list --link dr --output json", DONE, "ListMirrors { cluster: None, link: Some(dr)"),
        (
            "mirror describe orders --link dr",
            DONE,
            "DescribeMirror { at: LinkAddress { cluster: None, link: dr }, topic: orders",
        ),
        ("groups list --link dr", DONE, "ListGroups { at: LinkAddress { cluster: None, link: dr }"),
        (
            "groups describe a/b --link dr",
            DONE,
            "DescribeGroup { at: LinkAddress { cluster: None, link: dr }, group: a/b",
        ),
        (
            "mirror promote orders --link dr --dry-run --allow-moving-source",
            DONE,
            "Promote { at: LinkAddress { cluster: None, link: dr }, selection: Names([orders]), \
          validate_only: true, allowed: Allowed { moving_source: true, producer_overlap: false }",
        ),
        (
            "mirror failover orders --link dr --no-wait --open-transactions truncate",
            DONE,
            "Failover { at: LinkAddress { cluster: None, link: dr }, selection: Names([orders]), \
          validate_only: false, open_transactions: Truncate",
        ),
        (
            "mirror delete orders --link dr --delete-data --no-wait",
            DONE,
            "DeleteMirrors { at: LinkAddress { cluster: None, link: dr }, names: [orders], delete_data: true, \
          validate_only: false",
        ),
        (
            "guest leave --link dr --dry-run",
            failed(),
            "GuestLeave { at: LinkAddress { cluster: None, link: dr }, validate_only: true",
        ),
    ] {
        assert_eq!(line(&daemon, words), code, "{words}");
        assert_eq!(daemon.asked().pop().as_deref(), Some(asked), "{words}");
    }
}

#[test]
fn a_deletion_is_waited_for_until_the_topic_is_not_known_any_more() {
    let daemon = TestDaemon::start();
    assert_eq!(line(&daemon, "mirror delete orders --link dr"), DONE);
    let last = daemon.asked().pop().unwrap();
    assert_eq!(last, "DescribeMirror { at: LinkAddress { cluster: None, link: dr }, topic: orders");
}

#[test]
fn the_only_link_need_not_be_named() {
    let daemon = TestDaemon::start();
    assert_eq!(line(&daemon, "mirror describe orders"), DONE);
    assert_eq!(daemon.asked()[0], "ListLinks { cluster: None");
}

#[test]
fn exit_codes_tell_done_from_failed_from_misunderstood() {
    let daemon = TestDaemon::start();
    assert_eq!(line(&daemon, "mirror promote orders nothing --no-wait"), failed());
    assert_eq!(line(&daemon, "mirror promote no-such-.*"), failed());
    assert_eq!(line(&daemon, "mirror describe orders --link other"), failed());
    assert_eq!(line(&daemon, "mirror delete .*"), usage());
    assert_eq!(line(&daemon, "mirror promote ("), usage());
    assert_eq!(line(&daemon, "mirror promote"), usage());
    assert_eq!(line(&daemon, "status --link ../x"), usage());
    assert_eq!(line(&daemon, "status --config twinlog.toml"), usage());
    assert_eq!(main_with(["twinlog", "status"].map(OsString::from)), usage());
    let empty = tempfile::tempdir().unwrap();
    let words = ["twinlog", "status", "--data-dir", empty.path().to_str().unwrap()];
    assert_eq!(main_with(words.map(OsString::from)), failed());
}

#[test]
fn a_configuration_names_the_daemon_and_its_link() {
    let daemon = TestDaemon::start();
    let path = daemon.directory.path().join("twinlog.toml");
    let text = format!(
        "data.dir = \"{}\"\n[link.dr]\ntopics = [\"orders\"]\n[link.dr.source]\nbootstrap.servers = \"a:1\"\n",
        daemon.directory.path().display()
    );
    std::fs::write(&path, text).unwrap();
    let words = ["twinlog", "mirror", "list", "--config", path.to_str().unwrap()];
    assert_eq!(main_with(words.map(OsString::from)), DONE);
    assert_eq!(daemon.asked(), ["ListMirrors { cluster: None, link: Some(dr)"]);
}
