//! The state file: what is kept survives, what is forbidden is refused, what is foreign is told.

use super::audit::AUDIT_ROWS_KEPT;
use super::links::HISTORY_ROWS_KEPT;
use super::schema::SCHEMA;
use super::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::lifecycle::{
    DeletionEvent, DeletionStep, HandOverEvent, HandOverStep, HandOverWay, MirrorEvent, MirrorState,
};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn open(directory: &TempDir) -> StateDatabase {
    StateDatabase::open(directory.path()).unwrap()
}

fn link() -> Link {
    let (source, destination) = ("source-id".to_owned(), "destination-id".to_owned());
    Link {
        link: "dr".into(),
        source_cluster_id: source,
        destination_cluster_id: destination,
        paused: None,
        created_ms: 1,
    }
}

fn new_mirror(topic: &str) -> NewMirror {
    let wanted_configs = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
    let (topic, reason) = (topic.to_owned(), "asked for".to_owned());
    NewMirror { topic, source_topic_id: TopicId([7; 16]), wanted_configs, replication_factor: 3, reason }
}

fn changed(topic: &str, event: MirrorEvent) -> Vec<Change> {
    vec![Change { topic: topic.to_owned(), event, reason: event.name().to_owned(), code: "CODE".to_owned() }]
}

fn promote(topic: &str) -> NewHandOver {
    let options = json!({ "allow_moving_source": false });
    NewHandOver { topic: topic.to_owned(), kind: HandOverKind::Promote, options }
}

async fn with_active(state: &StateDatabase, topics: &[&str]) {
    state.put_link(link()).await.unwrap();
    state.create_mirrors("dr", topics.iter().map(|topic| new_mirror(topic)).collect(), 2).await.unwrap();
    for topic in topics {
        state.transition("dr", changed(topic, MirrorEvent::Established), 3).await.unwrap();
    }
}

/// The events of a way from its first step to its last.
fn forward(way: HandOverWay) -> Vec<HandOverEvent> {
    let rows = way.transitions().iter().filter(|row| row.event != HandOverEvent::Abandon);
    rows.map(|row| row.event).collect()
}

#[test]
fn a_store_goes_its_own_way_and_no_step_of_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
        for event in forward(HandOverWay::Store) {
            let other = Advance::new("orders", HandOverWay::Store, HandOverEvent::Reassign);
            assert!(matches!(
                state.advance("dr", vec![other], 5).await,
                Err(StateError::HandOverForbidden { .. })
            ));
            let next = Advance::new("orders", HandOverWay::Store, event);
            state.advance("dr", vec![next], 6).await.unwrap();
        }
        assert_eq!(state.mirror("dr", "orders").await.unwrap().state, MirrorState::Stopped);
    });
}

#[test]
fn what_was_kept_is_there_after_the_thread_was_lost_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = HandOverStep::Requested;
    run(async {
        let state = open(&directory);
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
    });
    for (index, event) in forward(HandOverWay::Guest).into_iter().enumerate() {
        // A second connection reads what a new process would, while the first is never closed: what it
        // sees has reached the file and its log.
        let state = open(&directory);
        let found = run(state.hand_overs("dr")).unwrap();
        assert_eq!(found[0].step, expected);
        let mut next = Advance::new("orders", HandOverWay::Guest, event);
        if event == HandOverEvent::Capture {
            next.captured_ends = Some(BTreeMap::from([(0, 1000), (1, i64::MAX)]));
            next.target_replicas = Some(BTreeMap::from([(0, vec![1, 2, 3]), (1, vec![2, 3, 1])]));
        }
        expected = run(state.advance("dr", vec![next], 5 + index as i64)).unwrap()[0];
        std::mem::forget(state);
    }
    let state = open(&directory);
    let kept = run(state.hand_overs("dr")).unwrap().remove(0);
    assert_eq!((kept.step, kept.captured_ends[&1]), (HandOverStep::Done, i64::MAX));
    assert_eq!((kept.target_replicas[&1].clone(), kept.started_ms), (vec![2, 3, 1], 4));
    assert_eq!(run(state.mirror("dr", "orders")).unwrap().state, MirrorState::Stopped);
}

#[test]
fn every_row_comes_back_as_it_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let identity = GuestIdentity { broker_id: 900, incarnation: [1; 16], directory: [2; 16] };
    run(async {
        let state = open(&directory);
        with_active(&state, &["orders"]).await;
        state.put_guest_identities("dr", vec![identity], 4).await.unwrap();
        let ids = vec![("orders".to_owned(), TopicId([9; 16]))];
        state.set_destination_topic_ids("dr", ids, 5).await.unwrap();
        let mut skipped = ProducerIdRanges::default();
        skipped.add(2000, 4000);
        let raised = ProducerIdFloor { floor: 4000, highest_mirrored: 20, skipped };
        state.raise_producer_id_floor("dr", raised, 6).await.unwrap();
    });
    let state = open(&directory);
    run(async {
        assert_eq!(state.links().await.unwrap(), [link()]);
        assert_eq!(state.guest_identities("dr").await.unwrap(), [identity]);
        let mirror = state.mirrors(Some("dr")).await.unwrap().remove(0);
        assert_eq!((mirror.state, mirror.since_ms, mirror.code.as_str()), (MirrorState::Active, 3, "CODE"));
        assert_eq!(mirror.destination_topic_id, Some(TopicId([9; 16])));
        assert_eq!((mirror.replication_factor, mirror.wanted_configs.len()), (3, 1));
        assert!(state.mirrors(Some("other")).await.unwrap().is_empty());
        let mut skipped = ProducerIdRanges::default();
        skipped.add(0, 1000);
        let lower = ProducerIdFloor { floor: 10, highest_mirrored: 30, skipped };
        let floor = state.raise_producer_id_floor("dr", lower, 7).await.unwrap();
        assert_eq!((floor.floor, floor.highest_mirrored), (4000, 30));
        assert!(floor.skipped.contains(999) && !floor.skipped.contains(1000) && floor.skipped.contains(2000));
        assert_eq!(state.producer_id_floor("dr").await.unwrap(), floor);
    });
}

#[test]
fn what_the_table_forbids_changes_nothing_of_all_that_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        with_active(&state, &["orders", "bills"]).await;
        let before = state.history("dr", None, 100).await.unwrap().len();
        let mut both = changed("orders", MirrorEvent::SourceLost);
        both.extend(changed("bills", MirrorEvent::Resumed));
        let refused = state.transition("dr", both, 9).await.unwrap_err();
        assert_eq!(refused.to_string(), "mirror topic bills is ACTIVE, where \"resumed\" is not possible");
        assert_eq!(state.mirror("dr", "orders").await.unwrap().state, MirrorState::Active);
        assert_eq!(state.history("dr", None, 100).await.unwrap().len(), before);
        let unknown = state.transition("dr", changed("nothing", MirrorEvent::Failed), 9).await;
        assert!(matches!(unknown, Err(StateError::NoSuchMirror { .. })));
    });
}

#[test]
fn a_hand_over_skips_no_step_and_is_taken_back_only_before_the_point_of_no_return() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
        let skip = state
            .advance("dr", vec![Advance::new("orders", HandOverWay::Guest, HandOverEvent::HandOver)], 5)
            .await;
        assert!(matches!(skip, Err(StateError::HandOverForbidden { .. })));
        let twice = state.begin_hand_overs("dr", vec![promote("orders")], 5).await;
        assert!(matches!(twice, Err(StateError::HandOverOpen { step: HandOverStep::Requested, .. })));
        assert!(state.delete_mirrors("dr", vec!["orders".into()], "", 5).await.is_err());
        let mut abandon = Advance::new("orders", HandOverWay::Guest, HandOverEvent::Abandon);
        abandon.detail = "the source moved".to_owned();
        abandon.result = Some(json!({ "lag": 3 }));
        state.advance("dr", vec![abandon], 6).await.unwrap();
        let mirror = state.mirror("dr", "orders").await.unwrap();
        assert_eq!(
            (mirror.state, mirror.reason.as_str()),
            (MirrorState::PendingMirror, "promote abandoned: the source moved")
        );
        assert_eq!(mirror.last_promote, Some(json!({ "lag": 3 })));
        // Another one may follow; it goes past the point of no return.
        state.transition("dr", changed("orders", MirrorEvent::Established), 7).await.unwrap();
        state.begin_hand_overs("dr", vec![promote("orders")], 8).await.unwrap();
        let steps = forward(HandOverWay::Guest).into_iter();
        for event in steps.take_while(|event| *event != HandOverEvent::Verify) {
            state.advance("dr", vec![Advance::new("orders", HandOverWay::Guest, event)], 9).await.unwrap();
        }
        let late = state
            .advance("dr", vec![Advance::new("orders", HandOverWay::Guest, HandOverEvent::Abandon)], 10)
            .await;
        let step = HandOverStep::HandedOver;
        let event = HandOverEvent::Abandon;
        assert_eq!(late, Err(StateError::HandOverForbidden { topic: "orders".into(), step, event }));
    });
}

#[test]
fn history_tells_everything_once_and_cannot_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
        for _ in 0..3 {
            state.explain_hand_over("dr", "orders", Some("a follower is behind"), 5).await.unwrap();
            state.explain_mirror("dr", "orders", ("LATE", "waits for a follower"), 5).await.unwrap();
        }
        state
            .advance("dr", vec![Advance::new("orders", HandOverWay::Guest, HandOverEvent::Capture)], 6)
            .await
            .unwrap();
        let told: Vec<String> = state
            .history("dr", Some("orders"), 100)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.event)
            .collect();
        let expected = ["promote", "reason", "promote", "promote requested", "established", "mirror created"];
        assert_eq!(told, expected);
        assert_eq!(state.history("dr", None, 2).await.unwrap().len(), 2);
        let error = state.hand_overs("dr").await.unwrap().remove(0).error;
        assert_eq!(error, None, "a step that is taken has no old error");
    });
    let other = rusqlite::Connection::open(state.path()).unwrap();
    assert!(other.execute("DELETE FROM history", []).unwrap_err().to_string().contains("only added to"));
    assert!(other.execute("UPDATE history SET event = ''", []).is_err());
}

#[test]
fn a_link_never_comes_to_join_other_clusters_nor_a_guest_another_directory() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        state.put_link(link()).await.unwrap();
        state.put_link(Link { created_ms: 50, ..link() }).await.unwrap();
        assert_eq!(state.links().await.unwrap()[0].created_ms, 1);
        let other = Link { source_cluster_id: "elsewhere".into(), ..link() };
        assert!(matches!(state.put_link(other).await, Err(StateError::OtherClusters { .. })));
        let first = GuestIdentity { broker_id: 900, incarnation: [1; 16], directory: [2; 16] };
        state.put_guest_identities("dr", vec![first], 2).await.unwrap();
        let restarted = GuestIdentity { incarnation: [3; 16], ..first };
        state.put_guest_identities("dr", vec![restarted], 3).await.unwrap();
        assert_eq!(state.guest_identities("dr").await.unwrap(), [restarted]);
        let moved = GuestIdentity { directory: [9; 16], ..first };
        let refused = state.put_guest_identities("dr", vec![moved], 4).await;
        assert_eq!(refused, Err(StateError::OtherDirectory { link: "dr".into(), broker_id: 900 }));
        state.forget_guest_identities("dr", 5).await.unwrap();
        state.put_guest_identities("dr", vec![moved], 6).await.unwrap();
    });
}

#[test]
fn a_mirror_exists_once_and_comes_again_after_it_was_handed_over_or_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        let nowhere = state.create_mirrors("dr", vec![new_mirror("orders")], 1).await;
        assert_eq!(nowhere, Err(StateError::NoSuchLink { link: "dr".into() }));
        with_active(&state, &["orders"]).await;
        let twice = state.create_mirrors("dr", vec![new_mirror("orders")], 4).await;
        assert!(matches!(twice, Err(StateError::MirrorExists { state: MirrorState::Active, .. })));
        state.delete_mirrors("dr", vec!["orders".into()], "data kept", 5).await.unwrap();
        state.create_mirrors("dr", vec![new_mirror("orders")], 6).await.unwrap();
        assert_eq!(state.mirror("dr", "orders").await.unwrap().state, MirrorState::PendingMirror);
    });
}

#[test]
fn a_file_of_a_later_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = open(&directory).path().to_owned();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("INSERT INTO schema_version (version) VALUES (?1)", [SCHEMA + 1]).unwrap();
    drop(connection);
    let refused = StateDatabase::open(directory.path()).err().unwrap();
    assert_eq!(refused, StateError::Newer { path, found: SCHEMA + 1, known: SCHEMA });
    assert!(refused.to_string().contains("run the later program again"), "{refused}");
}

#[test]
fn a_damaged_or_foreign_file_gets_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".twinlog").join(STATE_FILE);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "this is a letter, and no database at all\n".repeat(200)).unwrap();
    let refused = StateDatabase::open(directory.path()).err().unwrap();
    assert_eq!(refused, StateError::Corrupt { path: path.clone() });
    assert!(refused.to_string().contains("no sound state file"), "{refused}");

    // A page of a good file is overwritten.
    std::fs::remove_file(&path).unwrap();
    let connection = super::schema::open(&path).unwrap();
    for index in 0..200 {
        let values = (index, "x".repeat(500));
        let statement = "INSERT INTO history (time_ms, link, event, detail) VALUES (?1, 'dr', 'e', ?2)";
        connection.execute(statement, values).unwrap();
    }
    connection.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(StateDatabase::open(directory.path()).err().unwrap(), StateError::Corrupt { path });
}

#[test]
fn only_its_owner_reads_the_file_and_it_is_flushed_at_each_change() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(state.put_link(link())).unwrap();
    for suffix in ["", "-wal"] {
        let path = format!("{}{suffix}", state.path().display());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
    let settings = run(state.transact(|transaction| {
        let number = |pragma: &str| transaction.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let mode: String = transaction.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        Ok((mode, number("PRAGMA synchronous")?, number("PRAGMA foreign_keys")?))
    }));
    assert_eq!(settings.unwrap(), ("wal".to_owned(), 2, 1));
}

#[test]
fn thousands_of_topics_are_one_transaction_and_a_lost_caller_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    let names: Vec<String> = (0..2000).map(|index| format!("topic-{index}")).collect();
    run(async {
        state.put_link(link()).await.unwrap();
        let mirrors = names.iter().map(|name| new_mirror(name)).collect();
        state.create_mirrors("dr", mirrors, 2).await.unwrap();
        let changes = names.iter().flat_map(|name| changed(name, MirrorEvent::Established)).collect();
        assert_eq!(state.transition("dr", changes, 3).await.unwrap().len(), 2000);
        // Queued, then nobody waits for the answer.
        let clone = state.clone();
        let lost = tokio::spawn(async move { clone.record_event("dr", None, "lost", "", 4).await });
        tokio::task::yield_now().await;
        lost.abort();
        let newest = state.history("dr", None, 1).await.unwrap();
        assert_eq!(newest[0].event, "lost");
    });
}

fn deletion(topic: &str, delete_data: bool) -> Deletion {
    Deletion {
        topic: topic.to_owned(),
        step: DeletionStep::Marked,
        delete_data,
        destination_topic_id: delete_data.then_some(TopicId([9; 16])),
        started_ms: 5,
    }
}

#[test]
fn a_deletion_is_kept_step_by_step_and_leaves_a_mark() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let state = open(&directory);
        with_active(&state, &["orders", "bills"]).await;
        state.command_topics("dr", vec!["orders".into()], 4).await.unwrap();
        let both = vec![deletion("bills", false), deletion("orders", true)];
        state.begin_deletions("dr", both.clone(), 5).await.unwrap();
        let twice = state.begin_deletions("dr", vec![deletion("orders", true)], 6).await;
        assert!(matches!(twice, Err(StateError::DeletionOpen { step: DeletionStep::Marked, .. })));
        assert!(state.command_topics("dr", vec!["orders".into()], 6).await.is_err());
        state.advance_deletion("dr", "orders", DeletionEvent::Delete, 7).await.unwrap();
        std::mem::forget(state);
    });
    let state = open(&directory);
    run(async {
        let [bills, orders] = state.deletions("dr").await.unwrap().try_into().unwrap();
        assert_eq!((bills, orders.step), (deletion("bills", false), DeletionStep::Deleting));
        let skipped = state.advance_deletion("dr", "orders", DeletionEvent::Forget, 8).await;
        assert!(matches!(skipped, Err(StateError::DeletionForbidden { step: DeletionStep::Deleting, .. })));
        for event in [DeletionEvent::Remove, DeletionEvent::Forget] {
            state.advance_deletion("dr", "orders", event, 9).await.unwrap();
        }
        state.advance_deletion("dr", "bills", DeletionEvent::Forget, 9).await.unwrap();
        assert!(
            state.deletions("dr").await.unwrap().is_empty() && state.mirrors(None).await.unwrap().is_empty()
        );
        let marks = state.commanded_topics("dr").await.unwrap();
        assert_eq!(
            marks,
            [("bills".into(), TopicCommand::Deleted), ("orders".into(), TopicCommand::Deleted)]
        );
        state.command_topics("dr", vec!["orders".into()], 10).await.unwrap();
        let marks = state.commanded_topics("dr").await.unwrap();
        assert_eq!(marks[1], ("orders".into(), TopicCommand::Created));
        assert!(!state.history("dr", Some("orders"), 100).await.unwrap().is_empty(), "its history stays");
    });
}

#[test]
fn what_a_hand_over_left_out_is_kept_with_its_end_and_cancelled_with_its_topic() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(async {
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
        let repair = ReplicaRepair {
            topic: "orders".into(),
            partition: 2,
            destination_topic_id: TopicId([9; 16]),
            wanted: vec![1, 2, 3],
            expected: vec![1, 2],
            sent: None,
            since_ms: 9,
        };
        state.note_in_hand_over("dr", "orders", ("cuts", json!({ "0": 1 })), 5).await.unwrap();
        for event in forward(HandOverWay::Guest) {
            let mut next = Advance::new("orders", HandOverWay::Guest, event);
            next.full_replicas =
                (event == HandOverEvent::Capture).then(|| BTreeMap::from([(2, vec![1, 2, 3])]));
            next.repairs = if event == HandOverEvent::Finish { vec![repair.clone()] } else { Vec::new() };
            state.advance("dr", vec![next], 9).await.unwrap();
        }
        let row = state.hand_overs("dr").await.unwrap().remove(0);
        assert_eq!((row.full_replicas[&2].len(), row.options["cuts"]["0"].as_i64()), (3, Some(1)));
        assert_eq!(row.options["allow_moving_source"], false, "what was asked for stays");
        assert!(
            state.note_in_hand_over("dr", "orders", ("cuts", json!({})), 10).await.is_err(),
            "it is over"
        );
        assert_eq!(state.repairs("dr").await.unwrap(), std::slice::from_ref(&repair));
        let sent = ReplicaRepair { sent: Some(vec![1, 2, 3]), ..repair.clone() };
        state.keep_repairs("dr", vec![sent.clone()], 10).await.unwrap();
        assert_eq!(state.repairs("dr").await.unwrap(), std::slice::from_ref(&sent));
        state.begin_deletions("dr", vec![deletion("orders", false)], 11).await.unwrap();
        state.advance_deletion("dr", "orders", DeletionEvent::Forget, 12).await.unwrap();
        assert!(state.repairs("dr").await.unwrap().is_empty());
        state.keep_repairs("dr", vec![sent], 13).await.unwrap();
        assert!(state.repairs("dr").await.unwrap().is_empty(), "what was cancelled stays cancelled");
    });
}

#[test]
fn the_oldest_history_goes_and_the_trigger_guards_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    run(state.put_link(link())).unwrap();
    let other = rusqlite::Connection::open(state.path()).unwrap();
    // As if that many rows had come since the first.
    let last = HISTORY_ROWS_KEPT + 1;
    let statement = "INSERT INTO history (id, time_ms, link, event, detail) VALUES (?1, 1, 'dr', 'e', '')";
    for id in [2, 3, last] {
        other.execute(statement, [id]).unwrap();
    }
    assert!(other.execute("DELETE FROM history WHERE id = 2", []).is_err(), "it is one of those that stay");
    run(state.record_event("dr", None, "newest", "", 5)).unwrap();
    let ids: Vec<i64> =
        run(state.history("dr", None, 100)).unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [last + 1, last, 3]);
}

#[test]
fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".twinlog").join(STATE_FILE);
    run(async {
        let state = open(&directory);
        with_active(&state, &["orders"]).await;
        state.begin_hand_overs("dr", vec![promote("orders")], 4).await.unwrap();
    });
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "DROP TABLE commanded_topics; DROP TABLE deletions; DROP TABLE replica_repairs; DROP TABLE audit; \
         DROP TABLE created_links; DROP TABLE link_configs; DROP TABLE group_offsets; \
         DROP TABLE written_offsets; \
         ALTER TABLE links DROP COLUMN paused; \
         ALTER TABLE hand_overs DROP COLUMN full_replicas; \
         ALTER TABLE producer_id_floors DROP COLUMN skipped; DELETE FROM schema_version WHERE version > 1;",
    )
    .unwrap();
    old.close().unwrap();
    let state = open(&directory);
    run(async {
        assert!(state.hand_overs("dr").await.unwrap()[0].full_replicas.is_empty());
        assert_eq!(state.producer_id_floor("dr").await.unwrap(), ProducerIdFloor::default());
        state.command_topics("dr", vec!["bills".into()], 5).await.unwrap();
        assert!(state.audit(10).await.unwrap().is_empty() && state.kept_links().await.unwrap().is_empty());
    });
}

#[test]
fn orders_are_kept_newest_first_and_only_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    let order = |who: &str| AuditRow {
        time_ms: 7,
        who: who.to_owned(),
        peer: "10.0.0.7".into(),
        method: "POST".into(),
        path: "/p".into(),
        what: "orders".into(),
        is_dry_run: true,
        status: 403,
        error_code: "40301".into(),
        ..AuditRow::default()
    };
    run(state.add_audit(order("first"))).unwrap();
    let other = rusqlite::Connection::open(state.path()).unwrap();
    let last = AUDIT_ROWS_KEPT + 1;
    let statement = "INSERT INTO audit SELECT ?1, time_ms, 'filled', peer, method, path, what, is_dry_run, status, \
                     error_code FROM audit WHERE id = 1";
    for id in [2, 3, last] {
        other.execute(statement, [id]).unwrap();
    }
    assert!(other.execute("DELETE FROM audit WHERE id = 2", []).is_err(), "it is one of those that stay");
    assert!(other.execute("UPDATE audit SET who = 'nobody'", []).is_err(), "nothing is rewritten");
    run(state.add_audit(order("newest"))).unwrap();
    let rows = run(state.audit(u32::MAX)).unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [last + 1, last, 3]);
    assert_eq!(rows[0], AuditRow { id: last + 1, ..order("newest") });
    assert_eq!(run(state.audit(1)).unwrap().len(), 1);
}
