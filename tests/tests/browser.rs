//! The page at `/` in a real browser: somebody logs in, sees a mirror topic of two real clusters, opens its
//! partitions, pauses and resumes it by its name, looks at what a promote would do, and makes topics writable.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use twinlog_tests::browser::{Browser, Screen};
use twinlog_tests::cli::{Running, new_token};
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::groups::GroupClient;
use twinlog_tests::kafka::ports::{self, Port};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// Where the pictures are left for a look at them.
const PICTURES: &str = env!("CARGO_TARGET_TMPDIR");
const TOPIC: &str = "orders";
const OTHERS: [&str; 3] = ["billing.invoices", "clickstream.pages", "shipments"];
const PARTITIONS: i32 = 3;
/// What the source gets while the topic is paused.
const MISSED: u32 = 1_234;

const DESK: Screen = Screen { width: 1440, height: 900, is_phone: false, is_dark: false };
const WALL: Screen = Screen { width: 1920, height: 1080, is_phone: false, is_dark: true };
const PHONE: Screen = Screen { width: 390, height: 844, is_phone: true, is_dark: false };

/// Enter, as the protocol writes it.
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

struct Daemon {
    source: Cluster,
    destination: Cluster,
    mirror: GuestMirror,
    port: Port,
    _files: tempfile::TempDir,
    viewer: String,
    operator: String,
}

impl Daemon {
    fn new() -> Self {
        let source = Cluster::start(ClusterOptions::default());
        let destination = Cluster::start(ClusterOptions::destination(1));
        source.scenario().create_topic(TOPIC, PARTITIONS as u32, 1, &[]);
        for topic in OTHERS {
            source.scenario().create_topic(topic, 1, 1, &[]);
            source.scenario().produce_mixed(&Produce { count: 400, ..Produce::to(topic) });
        }
        source.scenario().produce_mixed(&Produce { count: 900, ..Produce::to(TOPIC) });
        let (files, port) = (tempfile::tempdir().expect("a directory"), ports::take());
        let ((viewer, first), (operator, second)) =
            (new_token(PROGRAM, "wall", "viewer"), new_token(PROGRAM, "ops", "operator"));
        let tokens = files.path().join("tokens");
        fs::write(&tokens, format!("{first}\n{second}\n")).expect("written");
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).expect("a mode");
        let keys = format!(
            "admin.listeners = \"http://127.0.0.1:{}\"\nadmin.tokens.file = {:?}\nmemory.bytes",
            port.number,
            tokens.display().to_string()
        );
        let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[".*"], &[])
            .with_replaced("memory.bytes", &keys);
        Self { source, destination, mirror, port, _files: files, viewer, operator }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    fn start(&self) -> Running {
        let running = self.mirror.start();
        self.mirror.poll_until_state(TOPIC, "ACTIVE");
        running
    }
}

#[test]
fn somebody_looks_at_the_page_and_gives_orders_by_it() {
    let daemon = Daemon::new();
    let mut running = daemon.start();
    let browser = Browser::start();
    browser.show_on(DESK);
    browser.open(&daemon.address());
    a_login_is_asked_for_and_a_wrong_one_is_told(&daemon, &browser);
    let topic = format!("[data-topic=\"dr:{TOPIC}\"]");
    the_topic_is_shown_with_its_lag(&browser, &topic);
    one_click_opens_its_partitions(&browser, &topic);
    a_pause_needs_the_name_of_the_topic(&daemon, &browser, &topic);
    a_backlog_is_shown_on_every_screen(&daemon, &browser, &topic);
    a_resume_by_keyboard_lets_it_go_on(&daemon, &browser, &topic);
    what_a_promote_would_do_is_shown_and_nothing_is_done(&daemon, &browser, &topic);
    groups_that_should_be_looked_at_come_first(&daemon, &browser);
    for (verb, name) in [("promote", OTHERS[2]), ("failover", OTHERS[0])] {
        a_topic_becomes_writable_once_its_name_is_typed(&daemon, &browser, verb, name);
    }
    words_are_no_markup_and_nothing_leaves_the_host(&daemon, &browser);
    a_viewer_is_told_that_he_may_not(&daemon, &browser, &topic);
    a_screen_without_a_terminal_is_told(&daemon);
    running.expect_running();
    a_daemon_that_is_gone_is_told_and_what_was_shown_stays(&browser, &topic, running);
}

fn a_login_is_asked_for_and_a_wrong_one_is_told(daemon: &Daemon, browser: &Browser) {
    browser.poll_for_text("#login h2", "a login is asked for", |text| text == "Who asks?");
    assert_eq!(browser.text("#page"), None);
    browser.type_into("#token", "twl_wrong\n");
    browser.poll_for_text("#login-why", "the daemon refuses it", |text| text.contains("code 40101"));
    assert_eq!(browser.value("sessionStorage.length"), 0);
    // Without a login the page asks and is refused; a browser writes that down as an error.
    let told = browser.told();
    assert!(told.complaints.iter().all(|complaint| complaint.contains("status of 401")), "{told:?}");
    browser.type_into("#token", &format!("{}\n", daemon.operator));
    browser.poll_for_text("#topics-count", "mirror topics are shown", |text| text.starts_with('4'));
    assert_eq!(browser.text("#login"), None);
    let kept = "[sessionStorage.length, localStorage.length, document.cookie, location.href]";
    assert_eq!(browser.value(kept), json!([1, 0, "", format!("{}/", daemon.address())]));
    browser.told();
}

/// The cells of a row by the names of their columns.
fn cell(topic: &str, name: &str) -> String {
    format!("{topic} > .row > [data-name=\"{name}\"]")
}

fn the_topic_is_shown_with_its_lag(browser: &Browser, topic: &str) {
    browser.poll_for_text(&cell(topic, "State"), "it is ACTIVE", |text| text.starts_with("ACTIVE"));
    for (name, nothing) in [("Lag, records", "0"), ("Lag, time", "0 ms"), ("Lag, bytes", "0 B")] {
        browser.poll_for_text(&cell(topic, name), "nothing is missing", |text| text == nothing);
    }
    browser
        .poll_for_text(&cell(topic, "Confirmed"), "the figures have an age", |text| text.ends_with(" ago"));
    let line = format!("{topic} .spark .line");
    poll::poll_until("the line of its lag has points", || {
        let drawn =
            browser.value(&format!("document.querySelector({line:?}).getAttribute('d').split('L').length"));
        drawn.as_u64() >= Some(3)
    });
    let heard =
        browser.value(&format!("document.querySelector('{topic} .spark').getAttribute('aria-label')"));
    assert!(heard.as_str().is_some_and(|text| text.contains("now 0")), "{heard}");
    for (selector, words) in [
        ("#tiles", "of one core"),
        ("#links", "TopicDiscovery"),
        ("#links", &format!("guest {GUEST}")),
        ("#cores", "dr 0"),
    ] {
        browser.poll_for_text(selector, words, |text| text.contains(words));
    }
    // Counters are rates from the second look on.
    browser.poll_for_text("#cores", "all of it is known", |text| !text.contains("unknown"));
}

fn one_click_opens_its_partitions(browser: &Browser, topic: &str) {
    let rows = format!("document.querySelectorAll('{topic} .partitions tbody tr').length");
    assert_eq!(browser.value(&rows), 0);
    browser.click(&format!("{topic} .fold"));
    assert_eq!(browser.value(&rows), PARTITIONS);
    let expanded = format!("document.querySelector('{topic} .fold').getAttribute('aria-expanded')");
    assert_eq!(browser.value(&expanded), "true");
    let first = format!("{topic} .partitions tbody tr:first-child");
    let led = format!("led by {GUEST}");
    browser.poll_for_text(&first, "its leader and follower are shown", |text| {
        text.contains(&led) && text.contains("1 in sync") && text.contains("ACTIVE")
    });
    unnamed_fields_are_none(browser);
}

/// What a screen reader says of a field is its label or its text: none is without.
fn unnamed_fields_are_none(browser: &Browser) {
    let unnamed = "[...document.querySelectorAll('button, input, select, svg[role=img]')].filter((node) => \
                   !(node.labels?.length || node.textContent.trim() || node.getAttribute('aria-label')) \
                   && node.checkVisibility()).map((node) => node.outerHTML)";
    assert_eq!(browser.value(unnamed), json!([]));
}

/// Opens the dialog of an order and waits for its dry run.
fn ask(browser: &Browser, topic: &str, verb: &str) -> String {
    browser.click(&format!("{topic} [data-verb={verb}]"));
    browser.poll_for_text("#dry", "the dry run is shown", |text| text.contains("The daemon would"))
}

fn is_disabled(browser: &Browser) -> bool {
    browser.value("document.querySelector('#confirm-yes').disabled") == true
}

fn a_pause_needs_the_name_of_the_topic(daemon: &Daemon, browser: &Browser, topic: &str) {
    let dry = ask(browser, topic, "pause");
    assert!(dry.contains("The daemon would do it") && dry.contains("until resumed"), "{dry}");
    assert_eq!(browser.value("document.activeElement.id"), "typed");
    assert!(is_disabled(browser));
    browser.type_into("#typed", &format!("{TOPIC}x{ENTER}"));
    assert!(is_disabled(browser), "another name confirms nothing");
    assert_eq!(daemon.mirror.describe(TOPIC)["state"], "ACTIVE");
    browser.type_into("#typed", "\u{e003}");
    assert!(!is_disabled(browser));
    browser.click("#confirm-yes");
    browser.poll_for_text(&cell(topic, "State"), "it is PAUSED", |text| text.starts_with("PAUSED"));
    daemon.mirror.poll_until_state(TOPIC, "PAUSED");
    // What came of it may have to be read first.
    if browser.text("#confirm").is_some() {
        browser.press(ESCAPE);
    }
    assert_eq!(browser.text("#confirm"), None);
}

fn a_backlog_is_shown_on_every_screen(daemon: &Daemon, browser: &Browser, topic: &str) {
    daemon.source.scenario().produce_mixed(&Produce {
        count: MISSED,
        value_bytes: 200,
        ..Produce::to(TOPIC)
    });
    browser.poll_for_text(&cell(topic, "Lag, records"), "the backlog is known", |text| text == "1,234");
    // All of it came at once, before the daemon looked at it for the first time: that is enough for a mean.
    browser
        .poll_for_text(&cell(topic, "Lag, bytes"), "an estimate of the bytes", |text| text.starts_with('≈'));
    browser.poll_for_text(&cell(topic, "Lag, time"), "its age is known", |text| text.ends_with(" s"));
    let picture = |name: &str| PathBuf::from(PICTURES).join(format!("page-{name}.png"));
    browser.photograph(&picture("desk-light"), true);
    browser.show_on(Screen { is_dark: true, ..DESK });
    browser.photograph(&picture("desk-dark"), true);
    browser.show_on(WALL);
    browser.photograph(&picture("wall"), false);
    for is_dark in [false, true] {
        browser.show_on(Screen { is_dark, ..PHONE });
        let width = browser.value("document.documentElement.scrollWidth");
        assert_eq!(width, PHONE.width, "nothing is wider than a phone");
        browser.photograph(&picture(if is_dark { "phone-dark" } else { "phone-light" }), true);
    }
    browser.show_on(DESK);
}

fn a_resume_by_keyboard_lets_it_go_on(daemon: &Daemon, browser: &Browser, topic: &str) {
    browser.value(&format!("document.querySelector('{topic} [data-verb=resume]').focus()"));
    browser.press(ENTER);
    browser.poll_for_text("#dry", "the dry run is shown", |text| text.contains("The daemon would do it"));
    browser.press(&format!("{TOPIC}{ENTER}"));
    browser.poll_for_text(&cell(topic, "State"), "it is ACTIVE", |text| text.starts_with("ACTIVE"));
    browser.poll_for_text(&cell(topic, "Lag, records"), "nothing is missing", |text| text == "0");
    daemon.mirror.poll_until_state(TOPIC, "ACTIVE");
    if browser.text("#confirm").is_some() {
        browser.press(ESCAPE);
    }
}

fn what_a_promote_would_do_is_shown_and_nothing_is_done(daemon: &Daemon, browser: &Browser, topic: &str) {
    let rows = "document.querySelectorAll('#dry tbody th').length";
    ask(browser, topic, "promote");
    poll::poll_until("each partition stands in the dry run", || browser.value(rows) == PARTITIONS);
    browser.show_on(Screen { is_dark: true, ..DESK });
    browser.photograph(&PathBuf::from(PICTURES).join("page-promote.png"), false);
    browser.show_on(PHONE);
    browser.photograph(&PathBuf::from(PICTURES).join("page-promote-phone.png"), false);
    browser.show_on(DESK);
    // An option is part of what is tried.
    browser.click("#option-allow_moving_source");
    browser.poll_for_text("#dry", "it is asked again", |text| text.contains("The daemon would"));
    browser.click("#confirm-no");
    assert_eq!(browser.text("#confirm"), None);
    let told = daemon.mirror.describe(TOPIC);
    assert!(told["hand_over"].is_null() && told["state"] == "ACTIVE", "{told}");
    let orders = daemon.mirror.command(&["audit", "--output", "json"]).expect_code(0).json();
    let rows: Vec<&Value> = orders["data"].as_array().expect("rows").iter().collect();
    let promotes: Vec<_> = rows
        .iter()
        .filter(|row| row["path"].as_str().is_some_and(|path| path.ends_with(":promote")))
        .collect();
    assert!(promotes.len() >= 2 && promotes.iter().all(|row| row["validate_only"] == true), "{rows:?}");
    assert!(rows.iter().any(|row| row["who"] == "token ops" && row["validate_only"] == false), "{rows:?}");
}

fn a_topic_becomes_writable_once_its_name_is_typed(
    daemon: &Daemon,
    browser: &Browser,
    verb: &str,
    name: &str,
) {
    let topic = format!("[data-topic=\"dr:{name}\"]");
    browser.click(&format!("{topic} .fold"));
    let dry = ask(browser, &topic, verb);
    assert!(dry.contains("The daemon would do it"), "{dry}");
    for wrong in [TOPIC, &name.to_uppercase(), &name[1..], &format!("{name}x")] {
        browser.value("document.querySelector('#typed').value = ''");
        browser.type_into("#typed", &format!("{wrong}{ENTER}"));
        assert!(is_disabled(browser), "{wrong:?} does not confirm {name:?}");
    }
    browser.press(ESCAPE);
    assert_eq!(browser.text("#confirm"), None);
    let told = daemon.mirror.describe(name);
    assert!(told["hand_over"].is_null() && told["state"] == "ACTIVE", "{told}");
    assert_eq!(carried_out(daemon, verb), 0, "nothing but dry runs came");
    let dry = ask(browser, &topic, verb);
    assert!(is_disabled(browser), "what was typed before is forgotten: {dry}");
    browser.type_into("#typed", name);
    assert!(!is_disabled(browser));
    browser.click("#confirm-yes");
    browser.poll_for_text(&cell(&topic, "State"), "it is STOPPED", |text| text.starts_with("STOPPED"));
    daemon.mirror.poll_until_state(name, "STOPPED");
    if browser.text("#confirm").is_some() {
        browser.press(ESCAPE);
    }
    assert_eq!(carried_out(daemon, verb), 1);
    let hidden = format!("document.querySelector('{topic} [data-verb={verb}]').hidden");
    assert_eq!(browser.value(&hidden), true, "it is not offered again");
    let to = daemon.destination.scenario();
    for partition in to.describe_topic(name) {
        assert!(partition.replicas.iter().all(|broker| *broker < GUEST), "{name}: {partition:?}");
    }
    assert!(to.produce_mixed(&Produce { count: 10, seed: 9, ..Produce::to(name) }) > 0, "it is writable");
}

/// Orders of a kind that were no dry runs, as the daemon has written them down.
fn carried_out(daemon: &Daemon, verb: &str) -> usize {
    let audit = daemon.mirror.command(&["audit", "--output", "json"]).expect_code(0).json();
    let is_meant = |row: &&Value| {
        let path = row["path"].as_str().expect("a path");
        path.ends_with(&format!(":{verb}")) && row["validate_only"] == false
    };
    audit["data"].as_array().expect("rows").iter().filter(is_meant).count()
}

fn groups_that_should_be_looked_at_come_first(daemon: &Daemon, browser: &Browser) {
    let mut there = GroupClient::of(&daemon.source, &[1]);
    for group in ["app-1", "app-2", "other <b>"] {
        there.commit(group, TOPIC, &[(0, 5)]).expect("committed");
    }
    there.commit("app-2", TOPIC, &[(1, 100_000)]).expect("ahead of all there is");
    browser.poll_for_text("#groups-count", "all are known", |text| text.starts_with('3'));
    browser.poll_for_text("#group-facts", "and counted by state", |text| text.contains("HELD_BACK"));
    assert_eq!(browser.text("#group-table"), None, "nobody has asked for them");
    browser.click("#groups-fold");
    browser.poll_for_text("#group-rows tr:first-child", "the worst is the first", |text| {
        text.contains("app-2") && text.contains("HELD_BACK") && text.contains("waits for data")
    });
    browser.poll_for_text("#group-rows", "others are behind it", |text| text.contains("other <b>"));
    browser.type_into("#group-filter", &format!("er <{ENTER}"));
    browser.poll_for_text("#group-rows", "one is found by its name", |text| {
        text.contains("other <b>") && !text.contains("app-")
    });
    unnamed_fields_are_none(browser);
    browser.photograph(&PathBuf::from(PICTURES).join("page-groups.png"), true);
    browser.show_on(PHONE);
    let width = browser.value("document.documentElement.scrollWidth");
    assert_eq!(width, PHONE.width, "nothing is wider than a phone");
    browser.show_on(DESK);
}

fn words_are_no_markup_and_nothing_leaves_the_host(daemon: &Daemon, browser: &Browser) {
    browser.type_into("#filter", "<b>");
    browser.poll_for_text("#no-topics", "nothing is found", |text| text.contains("No topic"));
    browser.value("(document.querySelector('#filter').value = '', document.querySelector('#filter').dispatchEvent(new Event('input')))");
    let told = browser.told();
    assert_eq!(told.complaints, Vec::<String>::new());
    assert!(told.requests.len() > 20, "{told:?}");
    let here = daemon.address();
    for request in &told.requests {
        assert!(request.starts_with(&format!("{here}/")), "{request} is not here");
        assert!(!request.contains("twl_"), "a token in an address: {request}");
    }
}

fn a_viewer_is_told_that_he_may_not(daemon: &Daemon, browser: &Browser, topic: &str) {
    browser.click("#leave");
    browser.poll_for_text("#login h2", "a login is asked for", |text| text == "Who asks?");
    assert_eq!(browser.text("#page"), None);
    browser.photograph(&PathBuf::from(PICTURES).join("page-login.png"), false);
    browser.type_into("#token", &format!("{}\n", daemon.viewer));
    browser.poll_for_text(&cell(topic, "State"), "it is shown again", |text| text.starts_with("ACTIVE"));
    browser.click(&format!("{topic} [data-verb=failover]"));
    browser
        .poll_for_text("#dry", "a viewer may not", |text| text.contains("viewer") && text.contains("40301"));
    browser.type_into("#typed", TOPIC);
    assert!(is_disabled(browser));
    browser.press(ESCAPE);
}

fn a_screen_without_a_terminal_is_told(daemon: &Daemon) {
    let refused = daemon.mirror.command(&["top"]).expect_code(2);
    assert!(refused.stderr.contains("top draws on a terminal") && refused.stdout.is_empty(), "{refused:?}");
}

fn a_daemon_that_is_gone_is_told_and_what_was_shown_stays(browser: &Browser, topic: &str, running: Running) {
    running.kill_hard();
    browser.poll_for_text("#trouble", "it is told", |text| text.contains("cannot be reached"));
    assert!(browser.text(&cell(topic, "Lag, records")).is_some(), "the last answer stays");
    browser.photograph(&PathBuf::from(PICTURES).join("page-gone.png"), false);
}
