//! The screen of `twinlog top` as letters: what stands where, and what keys ask for.

use super::top_screen::{Look, Order, Screen, Wish};
use crate::admin::answer::*;
use crate::admin::client::ClientError;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::{Duration, Instant};

fn topic(name: &str, state: &str, lag: Option<i64>, log_end: i64) -> MirrorTopicView {
    let marks = LagMarks { lag_age_ms: Some(400), lag_bytes_estimated: true, ..LagMarks::default() };
    let partition = PartitionView {
        lag,
        log_end: Some(log_end),
        state: state.into(),
        reason: "as it is".into(),
        followers: vec![FollowerView { broker_id: 1, in_sync: true, ..FollowerView::default() }],
        ..PartitionView::default()
    };
    MirrorTopicView {
        link_name: "dr".into(),
        mirror_topic_name: name.into(),
        state: state.into(),
        lag,
        lag_ms: lag.map(|lag| lag * 10),
        lag_bytes: lag.map(|lag| lag * 100),
        marks,
        partitions: vec![partition.clone(), PartitionView { partition_id: 1, ..partition }],
        ..MirrorTopicView::default()
    }
}

fn look(orders: i64, log_end: i64) -> Look {
    let status = StatusView {
        version: "0.1.0".into(),
        uptime_ms: 61_000,
        totals: TotalsView { mirror_topics: 3, partitions: 6, ..TotalsView::default() },
        alarms: vec![AlarmView { code: "GAP".into(), message: "bills-0 is stopped".into(), since_ms: 1 }],
        ..StatusView::default()
    };
    let link = LinkView {
        link_name: "dr".into(),
        link_state: "ACTIVE".into(),
        mode: "guest".into(),
        lag: Some(orders),
        ..LinkView::default()
    };
    let topics = vec![
        topic("bills", "PAUSED", Some(3), 10),
        topic("orders", "ACTIVE", Some(orders), log_end),
        topic("silent", "SOURCE_UNAVAILABLE", None, 10),
    ];
    Look { status, links: vec![link], topics }
}

fn drawn(screen: &mut Screen, now: Instant) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(140, 20)).unwrap();
    terminal.draw(|frame| screen.draw(frame, now)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..140).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..20).map(row).collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> Option<Wish> {
    screen.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[track_caller]
fn line_of<'a>(lines: &'a [String], word: &str) -> &'a str {
    lines.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word} is not in {lines:#?}"))
}

#[test]
fn topics_stand_in_the_order_of_their_lag_with_rates_and_what_is_unknown() {
    let start = Instant::now();
    let mut screen = Screen::new(look(50, 1_000), start);
    let first = drawn(&mut screen, start);
    assert!(line_of(&first, "orders").contains("unknown"), "one look has no rate: {first:#?}");
    let now = start + Duration::from_secs(2);
    screen.renew(Ok(look(20, 1_100)), now);
    let lines = drawn(&mut screen, now);
    assert!(
        lines[0]
            .starts_with("twinlog 0.1.0 up 1 min 1 s, 3 topics, 6 partitions, 0 stopped, at risk unknown"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("link dr ACTIVE guest, lag 20 records, unknown bytes, unknown, 100 records/s"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2].trim_end(), "alarm GAP: bills-0 is stopped");
    let places = ["silent", "orders", "bills"]
        .map(|name| lines.iter().position(|line| line.contains(&format!("{name} "))).unwrap());
    assert!(places.is_sorted(), "unknown first, then the largest: {lines:#?}");
    let orders = line_of(&lines, "orders ");
    for word in ["ACTIVE", " 20 ", "0.2 s", "~2000", " 100 ", "█▄", "0.4 s ago"] {
        assert!(orders.contains(word), "{word} is not in {orders}");
    }
    assert!(line_of(&lines, "silent").matches("unknown").count() >= 3, "{lines:#?}");
    assert!(lines[19].starts_with("q quit"));
}

#[test]
fn keys_move_open_and_close() {
    let now = Instant::now();
    let mut screen = Screen::new(look(50, 1_000), now);
    let chosen = |screen: &mut Screen| line_of(&drawn(screen, now), "> ").to_owned();
    assert!(chosen(&mut screen).contains("silent"), "the first is chosen");
    press(&mut screen, KeyCode::Down);
    assert!(chosen(&mut screen).contains("orders"));
    press(&mut screen, KeyCode::PageDown);
    assert!(chosen(&mut screen).contains("bills"), "there is an end");
    press(&mut screen, KeyCode::Up);
    // The choice stays with the topic when the order changes.
    screen.renew(Ok(look(1, 1_000)), now);
    assert!(chosen(&mut screen).contains("orders"));
    press(&mut screen, KeyCode::Enter);
    let lines = drawn(&mut screen, now);
    assert!(line_of(&lines, "Log end").contains("In sync"), "{lines:#?}");
    let first = line_of(&lines, "> ");
    assert!(first.contains("1000") && first.contains("1 of 1") && first.contains("as it is"), "{first}");
    press(&mut screen, KeyCode::Esc);
    assert!(line_of(&drawn(&mut screen, now), "Mirror topics by lag").contains(", 3 "));
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Some(Wish::Quit));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.press(interrupt), Some(Wish::Quit));
}

#[test]
fn a_pause_is_tried_first_and_needs_a_yes() {
    let now = Instant::now();
    let mut screen = Screen::new(look(50, 1_000), now);
    press(&mut screen, KeyCode::Down);
    let order = Order { link: "dr".into(), topic: "orders".into(), is_resume: false };
    assert_eq!(press(&mut screen, KeyCode::Char('p')), Some(Wish::Try(order.clone())));
    assert_eq!(press(&mut screen, KeyCode::Char('y')), None, "the dry run is not back");
    let action = MirrorActionView { note: Some("until resumed".into()), ..MirrorActionView::default() };
    screen.tried(&order, Ok(vec![action.clone()]));
    let lines = drawn(&mut screen, now);
    assert!(line_of(&lines, "pause orders of link dr?").contains('│'), "{lines:#?}");
    assert!(line_of(&lines, "Dry run").contains("until resumed"), "{lines:#?}");
    assert_eq!(press(&mut screen, KeyCode::Enter), None, "only y is a yes");
    assert_eq!(press(&mut screen, KeyCode::Char('y')), Some(Wish::Carry(order.clone())));
    screen.done(&order, Ok(vec![action]));
    assert!(drawn(&mut screen, now)[19].contains("pause orders: until resumed"));
    // What is paused is resumed.
    press(&mut screen, KeyCode::Down);
    let resume = Order { link: "dr".into(), topic: "bills".into(), is_resume: true };
    assert_eq!(press(&mut screen, KeyCode::Char('p')), Some(Wish::Try(resume.clone())));
    let why = ClientError::Refused { code: 40301, message: "a viewer".into() };
    screen.tried(&resume, Err(why));
    assert_eq!(press(&mut screen, KeyCode::Char('y')), None, "what is refused is not ordered");
    assert!(line_of(&drawn(&mut screen, now), "refused").contains("a viewer"));
    assert_eq!(press(&mut screen, KeyCode::Char('n')), None);
    assert!(!drawn(&mut screen, now).iter().any(|line| line.contains("Confirm ─")));
}

#[test]
fn a_daemon_that_does_not_answer_is_told_and_the_last_figures_stay() {
    let start = Instant::now();
    let mut screen = Screen::new(look(50, 1_000), start);
    let later = start + Duration::from_secs(75);
    screen.renew(Err(ClientError::Broken { at: "here".into() }), later);
    let lines = drawn(&mut screen, later);
    assert!(lines[0].contains("answered 1 min 15 s ago"), "{}", lines[0]);
    assert!(line_of(&lines, "no answer: ").contains("here"));
    assert!(line_of(&lines, "orders ").contains(" 50 "));
}

#[test]
fn a_small_terminal_is_drawn_without_a_fault() {
    let now = Instant::now();
    let mut screen = Screen::new(look(50, 1_000), now);
    press(&mut screen, KeyCode::Char('p'));
    for (width, height) in [(1, 1), (10, 3), (40, 6), (300, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, now)).unwrap();
    }
    let mut nothing = Screen::new(Look::default(), now);
    for key in [KeyCode::Enter, KeyCode::Down, KeyCode::Char('p'), KeyCode::Up] {
        assert_eq!(press(&mut nothing, key), None);
    }
}
