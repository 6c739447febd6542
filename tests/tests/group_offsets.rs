//! Group offsets between real clusters: what a consumer of the source left off at is where it goes on.
//!
//! One source, one destination of three brokers, one daemon; each part has groups of its own.

use std::path::Path;
use twinlog_tests::cli::{Program, Running};
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::groups::{GroupClient, Positions};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const ALL: [usize; 3] = [1, 2, 3];
const GROUPS: usize = 2_000;
const PARTITIONS: i32 = 4;

/// Both clusters with a client of their groups each.
struct Site {
    source: Cluster,
    destination: Cluster,
    there: GroupClient,
    here: GroupClient,
    mirror: GuestMirror,
}

impl Site {
    /// What a group holds at the destination becomes this.
    #[track_caller]
    fn poll_until_held(&mut self, group: &str, topic: &str, expected: &[(i32, i64)]) {
        let expected = positions(topic, expected);
        let mut last = Positions::new();
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.here.positions(group);
            (last == expected).then_some(())
        });
        assert!(came.is_some(), "{group}: {last:?} in place of {expected:?}\n{}", self.described(group));
    }

    fn described(&self, group: &str) -> String {
        let told = self.mirror.command(&["groups", "describe", group]);
        format!("{}{}", told.stdout, told.stderr)
    }

    #[track_caller]
    fn poll_until_verdict(&self, group: &str, verdict: &str) {
        let mut last = String::new();
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            let told = self.mirror.command(&["groups", "describe", group, "--output", "json"]);
            last = told.stdout.clone();
            (told.code() == Some(0) && told.json()["data"][0]["state"] == verdict).then_some(())
        });
        assert!(came.is_some(), "{group} is not {verdict}: {last}");
    }

    /// Rounds go on: so many more are over.
    fn poll_for_rounds(&self, count: u64) {
        let rounds =
            || self.mirror.command(&["status", "--output", "json"]).json()["offset_sync"]["rounds"].as_u64();
        let first = poll::poll_for("a round is told", rounds);
        poll::poll_until("rounds go on", || rounds() >= Some(first + count));
    }
}

fn positions(topic: &str, rows: &[(i32, i64)]) -> Positions {
    rows.iter().map(|(index, offset)| ((topic.to_owned(), *index), *offset)).collect()
}

fn fill(source: &Cluster, topic: &str, partitions: u32, count: u32) {
    source.scenario().create_topic(topic, partitions, 1, &[]);
    source.scenario().produce_mixed(&Produce { count, ..Produce::to(topic) });
}

#[test]
fn groups_of_the_source_go_on_at_the_destination() {
    let source = Cluster::start(ClusterOptions::default());
    let options = ClusterOptions::destination(1).with_override("offsets.topic.replication.factor", "3");
    let destination = Cluster::start(options);
    for topic in ["many", "ahead", "moves", "fails"] {
        fill(&source, topic, PARTITIONS.cast_unsigned(), 400);
    }
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[".*"], &[]);
    let (there, here) = (GroupClient::of(&source, &[1]), GroupClient::of(&destination, &ALL));
    let mut site = Site { source, destination, there, here, mirror };
    let daemon = site.mirror.start();
    thousands_of_groups_are_copied(&mut site);
    a_reset_is_followed_and_another_hand_is_not(&mut site);
    a_group_ahead_of_its_data_is_held_back_and_released(&mut site);
    a_group_that_is_active_at_the_destination_is_left_alone(&mut site);
    groups_are_deleted_and_made_anew(&mut site);
    a_dead_coordinator_delays_its_groups_only(&mut site);
    a_consumer_moves_in_the_middle_of_a_topic(&mut site);
    let daemon = a_reset_while_no_daemon_ran_is_followed(&mut site, daemon);
    a_failover_clamps_groups_to_what_is_committed_here(&mut site);
    daemon.terminate();
    daemon.wait().expect_code(0);
    filters_and_prefix_choose_groups_and_their_names(&mut site);
    a_store_keeps_positions_and_a_file_takes_them_into_a_cluster(&mut site);
}

fn thousands_of_groups_are_copied(site: &mut Site) {
    println!("thousands of groups");
    let of = |group: usize| -> Vec<(i32, i64)> {
        (0..PARTITIONS).map(|index| (index, (group as i64 + i64::from(index)) % 60)).collect()
    };
    for group in 0..GROUPS {
        site.there.commit(&format!("app-{group}"), "many", &of(group)).expect("committed");
    }
    for group in 0..GROUPS {
        site.poll_until_held(&format!("app-{group}"), "many", &of(group));
    }
    for group in (0..GROUPS).step_by(100) {
        site.there.commit(&format!("app-{group}"), "many", &[(0, 61), (3, 62)]).expect("committed");
    }
    for group in (0..GROUPS).step_by(100) {
        let mut expected = of(group);
        (expected[0].1, expected[3].1) = (61, 62);
        site.poll_until_held(&format!("app-{group}"), "many", &expected);
    }
}

fn a_reset_is_followed_and_another_hand_is_not(site: &mut Site) {
    println!("a reset");
    site.there.commit("app-7", "many", &[(0, 50)]).expect("committed");
    site.poll_until_held("app-7", "many", &[(0, 50), (1, 8), (2, 9), (3, 10)]);
    site.there.commit("app-7", "many", &[(0, 5)]).expect("committed");
    site.poll_until_held("app-7", "many", &[(0, 5), (1, 8), (2, 9), (3, 10)]);
    site.here.commit("app-7", "many", &[(1, 70)]).expect("somebody else");
    site.there.commit("app-7", "many", &[(1, 30), (2, 31)]).expect("committed");
    site.poll_until_held("app-7", "many", &[(0, 5), (1, 70), (2, 31), (3, 10)]);
    site.poll_until_verdict("app-7", "AHEAD_AT_DESTINATION");
    site.there.commit("app-7", "many", &[(1, 71)]).expect("committed");
    site.poll_until_held("app-7", "many", &[(0, 5), (1, 71), (2, 31), (3, 10)]);
    site.poll_until_verdict("app-7", "SYNCED");
}

fn a_group_ahead_of_its_data_is_held_back_and_released(site: &mut Site) {
    println!("ahead of its data");
    let end = site.source.scenario().end_offsets("ahead", Isolation::ReadUncommitted)[1];
    site.mirror.poll_until_followed(&site.source, &site.destination, "ahead", &ALL);
    site.there.commit("ahead", "ahead", &[(1, end + 30)]).expect("committed");
    site.poll_until_held("ahead", "ahead", &[(1, end)]);
    site.poll_until_verdict("ahead", "HELD_BACK");
    let more = Produce { partition: Some(1), count: 100, ..Produce::to("ahead") };
    site.source.scenario().produce_mixed(&more);
    site.poll_until_held("ahead", "ahead", &[(1, end + 30)]);
    site.poll_until_verdict("ahead", "SYNCED");
}

fn a_group_that_is_active_at_the_destination_is_left_alone(site: &mut Site) {
    println!("active at the destination");
    let here = site.destination.scenario();
    here.create_topic("local", 1, 3, &[]);
    site.here.commit("busy", "local", &[(0, 0)]).expect("a position to begin with");
    here.join_group("m", "busy", "local");
    site.there.commit("busy", "many", &[(0, 33)]).expect("committed");
    site.poll_until_verdict("busy", "ACTIVE_AT_DESTINATION");
    site.poll_for_rounds(2);
    assert_eq!(site.here.positions("busy"), positions("local", &[(0, 0)]));
    site.destination.scenario().leave_group("m");
    let mut expected = positions("local", &[(0, 0)]);
    expected.extend(positions("many", &[(0, 33)]));
    poll::poll_until("an empty group goes on", || site.here.positions("busy") == expected);
}

fn groups_are_deleted_and_made_anew(site: &mut Site) {
    println!("deleted");
    site.there.commit("again", "many", &[(0, 40), (1, 41)]).expect("committed");
    site.poll_until_held("again", "many", &[(0, 40), (1, 41)]);
    site.here.delete("again");
    site.poll_until_verdict("again", "DELETED_AT_DESTINATION");
    site.poll_for_rounds(2);
    assert_eq!(site.here.positions("again"), Positions::new(), "it does not come back by itself");
    site.there.commit("again", "many", &[(0, 42)]).expect("committed");
    site.poll_until_held("again", "many", &[(0, 42), (1, 41)]);
    site.there.delete("again");
    site.poll_until_verdict("again", "GONE_AT_SOURCE");
    assert_eq!(site.here.positions("again").len(), 2, "it is kept");
    site.there.commit("again", "many", &[(0, 3)]).expect("committed");
    site.poll_until_held("again", "many", &[(0, 3), (1, 41)]);
    let delete = "consumer.offset.deleted.groups=delete";
    site.mirror.command(&["link", "update", "dr", delete]).expect_code(0);
    site.there.delete("again");
    poll::poll_until("it goes there, too", || site.here.positions("again").is_empty());
}

fn a_dead_coordinator_delays_its_groups_only(site: &mut Site) {
    println!("a dead coordinator");
    let broker = site.here.coordinator("app-11");
    let other = (0..GROUPS).map(|group| format!("app-{group}"));
    let other =
        other.into_iter().find(|group| site.here.coordinator(group) != broker).expect("three brokers");
    let before = site.here.positions(&other);
    site.destination.kill_broker(usize::try_from(broker).expect("an id"));
    for group in ["app-11", &other] {
        site.there.commit(group, "many", &[(0, 77)]).expect("committed");
    }
    let expected = |mut held: Positions| {
        held.insert(("many".to_owned(), 0), 77);
        held
    };
    let (other_held, moved_held) = (expected(before), expected(site.there.positions("app-11")));
    poll::poll_until("groups of others go on", || site.here.positions(&other) == other_held);
    poll::poll_until("its own go on elsewhere", || site.here.positions("app-11") == moved_held);
    site.destination.restart_broker(usize::try_from(broker).expect("an id"));
    site.there.commit("app-11", "many", &[(0, 78)]).expect("committed");
    poll::poll_until("and when it is back", || {
        site.here.positions("app-11").get(&("many".to_owned(), 0)) == Some(&78)
    });
}

fn a_consumer_moves_in_the_middle_of_a_topic(site: &mut Site) {
    println!("a consumer moves");
    let ends = site.source.scenario().end_offsets("moves", Isolation::ReadUncommitted);
    let starts: Vec<(i32, i64)> = (0..PARTITIONS).map(|index| (index, 0)).collect();
    site.there.commit("mover", "moves", &starts).expect("committed");
    let first = site.source.scenario().consume("mover", "moves", 150);
    let left_off = site.there.positions("mover");
    poll::poll_until("its position is copied", || site.here.positions("mover") == left_off);
    site.mirror.poll_until_followed(&site.source, &site.destination, "moves", &ALL);
    // One that is ahead of all there is, and one whose group is busy at the destination.
    site.there.commit("dreamer", "moves", &[(2, ends[2] + 5)]).expect("committed");
    site.poll_until_held("dreamer", "moves", &[(2, ends[2])]);
    site.destination.scenario().join_group("m", "busy", "local");
    site.there.commit("busy", "moves", &[(1, 3)]).expect("committed");
    site.poll_until_verdict("busy", "ACTIVE_AT_DESTINATION");
    // Written a moment before: the last reading of the source has it.
    site.there.commit("late", "moves", &[(3, 11)]).expect("committed");
    let told = site.mirror.command(&["mirror", "promote", "moves"]).expect_code(0);
    for words in [
        format!("moves-2: group dreamer is left at offset {} of {}, clamped by 5", ends[2], ends[2] + 5),
        "moves-1: group busy is left at no offset of 3 (ACTIVE_AT_DESTINATION)".to_owned(),
        "moves: positions of 4 groups were written for the last time".to_owned(),
    ] {
        assert!(told.stdout.contains(&words), "{words}: {}", told.stdout);
    }
    assert_eq!(site.here.positions("late"), positions("moves", &[(3, 11)]));
    site.destination.scenario().leave_group("m");
    site.there.commit("late", "moves", &[(3, 12)]).expect("committed");
    site.poll_for_rounds(3);
    assert_eq!(site.here.positions("late"), positions("moves", &[(3, 11)]), "it is its own from now on");
    let total: i64 = ends.iter().sum();
    let read: u64 = first.iter().map(|row| row.3).sum();
    let rest = u32::try_from(total).expect("few") - u32::try_from(read).expect("few");
    let second = site.destination.scenario().consume("mover", "moves", rest);
    for (index, end) in (0..PARTITIONS).zip(&ends) {
        let of = |rows: &[(i32, i64, i64, u64)]| rows.iter().find(|row| row.0 == index).copied();
        let (before, after) = (of(&first), of(&second));
        let next = before.map_or(0, |row| row.2 + 1);
        assert!(after.is_none_or(|row| row.1 == next && row.2 + 1 == *end), "{before:?} {after:?}");
        let count = before.map_or(0, |row| row.3) + after.map_or(0, |row| row.3);
        assert_eq!(i64::try_from(count), Ok(*end), "{index}: {before:?} {after:?}");
    }
}

fn a_reset_while_no_daemon_ran_is_followed(site: &mut Site, daemon: Running) -> Running {
    println!("a reset while no daemon ran");
    for group in ["app-31", "app-32"] {
        site.there.commit(group, "many", &[(0, 60), (1, 61), (2, 62), (3, 63)]).expect("committed");
        site.poll_until_held(group, "many", &[(0, 60), (1, 61), (2, 62), (3, 63)]);
    }
    // What was written is remembered at the end of its round.
    site.poll_for_rounds(2);
    daemon.terminate();
    daemon.wait().expect_code(0);
    for group in ["app-31", "app-32"] {
        site.there.commit(group, "many", &[(0, 20), (1, 21)]).expect("reset");
    }
    site.here.commit("app-32", "many", &[(1, 64)]).expect("somebody else");
    let daemon = site.mirror.start();
    site.poll_until_held("app-31", "many", &[(0, 20), (1, 21), (2, 62), (3, 63)]);
    site.poll_until_held("app-32", "many", &[(0, 20), (1, 64), (2, 62), (3, 63)]);
    site.poll_until_verdict("app-31", "SYNCED");
    site.poll_until_verdict("app-32", "AHEAD_AT_DESTINATION");
    daemon
}

/// Of two transactions the later one is open: the copy ends behind the first one's records, and before its end.
fn a_failover_clamps_groups_to_what_is_committed_here(site: &mut Site) {
    println!("failover");
    let stable = || site.source.scenario().end_offsets("fails", Isolation::ReadCommitted)[1];
    let before = stable();
    let open = Produce { partition: Some(1), count: 5, ..Produce::to("fails") };
    site.source.scenario().open_transaction("first", &open);
    site.source.scenario().open_transaction("second", &open);
    site.source.scenario().finish_transaction("first", true);
    poll::poll_until("the first one's end is written", || stable() > before);
    let end = stable();
    site.mirror.poll_until_followed(&site.source, &site.destination, "fails", &ALL);
    // One that has read on at the source, and one whose group is busy at the destination until just before.
    site.there.commit("reader", "fails", &[(1, end + 5)]).expect("committed");
    site.poll_until_held("reader", "fails", &[(1, end)]);
    site.here.commit("waiter", "local", &[(0, 0)]).expect("a position to begin with");
    site.destination.scenario().join_group("m", "waiter", "local");
    site.there.commit("waiter", "fails", &[(1, end), (2, 7)]).expect("committed");
    site.poll_until_verdict("waiter", "ACTIVE_AT_DESTINATION");
    let pace = |interval: &str| {
        let interval = format!("consumer.offset.sync.ms={interval}");
        site.mirror.command(&["link", "update", "dr", &interval]).expect_code(0);
    };
    pace("3600000");
    site.poll_for_rounds(1);
    site.destination.scenario().leave_group("m");
    let told = site.mirror.command(&["mirror", "failover", "fails"]).expect_code(0);
    for words in [
        format!("fails-1: group reader is left at offset {end} of {}, clamped by 5", end + 5),
        format!("fails-1: group waiter is left at offset {before} of {end}, clamped by {}", end - before),
        "fails: positions of 2 groups were written for the last time".to_owned(),
    ] {
        assert!(told.stdout.contains(&words), "{words}: {}", told.stdout);
    }
    let held = site.here.positions("waiter");
    assert_eq!(held.get(&("fails".to_owned(), 1)), Some(&before), "records of a transaction without an end");
    assert_eq!(held.get(&("fails".to_owned(), 2)), Some(&7));
    site.source.scenario().finish_transaction("second", true);
    pace("1000");
}

fn filters_and_prefix_choose_groups_and_their_names(site: &mut Site) {
    println!("filters and prefix");
    let keys = "segment.bytes = \"1MiB\"\nconsumer.group.prefix.enable = true\n\
                consumer.offset.group.filters = '{\"groupFilters\":[{\"name\":\"app-1\",\"patternType\":\"PREFIXED\",\
                \"filterType\":\"INCLUDE\"},{\"name\":\"app-12\",\"patternType\":\"LITERAL\",\"filterType\":\"EXCLUDE\"}]}'";
    site.mirror.replace("segment.bytes = \"1MiB\"", keys);
    let daemon = site.mirror.start();
    let expected = site.there.positions("app-13");
    poll::poll_until("a chosen group is copied under its new name", || {
        site.here.positions("dr.app-13") == expected
    });
    site.poll_for_rounds(2);
    for group in ["dr.app-12", "dr.app-2", "dr.mover"] {
        assert!(site.here.positions(group).is_empty(), "{group}");
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn a_store_keeps_positions_and_a_file_takes_them_into_a_cluster(site: &mut Site) {
    println!("a store");
    let root = tempfile::tempdir().expect("a directory");
    let (data, file) = (root.path().join("data"), root.path().join("twinlog.toml"));
    let text = format!(
        "data.dir = {:?}\nmemory.bytes = \"96MiB\"\n[link.st]\ntopics = [\"many\"]\n\
         consumer.offset.group.filters = ['{{\"name\":\"app-13\",\"patternType\":\"LITERAL\",\
         \"filterType\":\"INCLUDE\"}}']\n[link.st.source]\nbootstrap.servers = {:?}\n",
        data.display().to_string(),
        site.source.bootstrap()
    );
    std::fs::write(&file, text).expect("written");
    let start =
        || -> Running { Program::new(PROGRAM).arguments(["run", "--config"]).argument(&file).spawn() };
    let exported = || {
        let told = Program::new(PROGRAM).arguments(["offsets", "export", "--data-dir"]).argument(&data).run();
        if told.code() == Some(0) { told.stdout } else { String::new() }
    };
    let expected = |positions: &Positions| -> String {
        positions
            .iter()
            .map(|((topic, index), offset)| format!("app-13,{topic},{index},{offset}\n"))
            .collect()
    };
    let daemon = start();
    let first = site.there.positions("app-13");
    poll::poll_until("positions are kept", || exported() == expected(&first));
    let written = data.join(".twinlog/st/offsets.csv");
    poll::poll_until("and written as a file", || std::fs::read_to_string(&written).is_ok());
    daemon.kill_hard();
    site.there.commit("app-13", "many", &[(2, 55)]).expect("committed");
    let daemon = start();
    let second = site.there.positions("app-13");
    poll::poll_until("a restart goes on with what was kept", || exported() == expected(&second));
    kafkas_own_tool_takes_the_file(site, &data, &second);
    daemon.terminate();
    daemon.wait().expect_code(0);
    let lines = root.path().join("lines.csv");
    let configuration = site.mirror.configuration().to_path_buf();
    let import = |more: &[&str]| {
        let program = Program::new(PROGRAM).arguments(["offsets", "import", "--config"]);
        program.argument(&configuration).argument(&lines).arguments(more.iter().copied()).run()
    };
    std::fs::write(&lines, expected(&second).replace("app-13", "\"moved, here\"")).expect("written");
    let told = import(&["--dry-run"]).expect_code(0);
    assert!(told.stdout.contains("WOULD_BE_WRITTEN"), "{}", told.stdout);
    assert!(site.here.positions("moved, here").is_empty());
    import(&[]).expect_code(0);
    assert_eq!(site.here.positions("moved, here"), second);
    std::fs::write(&lines, "\"moved, here\",many,2,54\n\"moved, here\",many,0,60\n").expect("written");
    let told = import(&[]).expect_code(1);
    assert!(told.stdout.contains("WOULD_GO_BACK"), "{}", told.stdout);
    import(&["--allow-rewind"]).expect_code(0);
    let held = site.here.positions("moved, here");
    assert_eq!((held[&("many".to_owned(), 0)], held[&("many".to_owned(), 2)]), (60, 54));
}

/// Of one group without its name, and of two or more with their names: so it wants them. It asks the leaders for the
/// logs' starts, so it is run where clients reach them.
fn kafkas_own_tool_takes_the_file(site: &mut Site, data: &Path, positions: &Positions) {
    println!("kafka-consumer-groups --from-file");
    let file = data.with_file_name("tool.csv");
    let bootstrap = site.source.bootstrap();
    let run = |site: &Site, groups: &[&str]| {
        let mut words = vec!["--bootstrap-server", &bootstrap, "--reset-offsets", "--execute"];
        groups.iter().for_each(|group| words.extend(["--group", group]));
        let path = file.display().to_string();
        words.extend(["--from-file", &path]);
        let told = site.source.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &words);
        assert!(told.status.success(), "{told:?}");
        format!("{told:?}")
    };
    let export = Program::new(PROGRAM).arguments(["offsets", "export", "--group", "app-13", "--data-dir"]);
    export.argument(data).arguments(["--file"]).argument(&file).run().expect_code(0);
    let told = run(site, &["tool-alone"]);
    assert_eq!(&site.there.positions("tool-alone"), positions, "{told}");
    let export = Program::new(PROGRAM).arguments(["offsets", "export", "--data-dir"]).argument(data).run();
    let one = export.expect_code(0).stdout;
    let both = format!("{}{}", one.replace("app-13", "tool-a"), one.replace("app-13", "\"tool, b\""));
    std::fs::write(&file, both).expect("written");
    let told = run(site, &["tool-a", "tool, b"]);
    for group in ["tool-a", "tool, b"] {
        assert_eq!(&site.there.positions(group), positions, "{group}: {told}");
    }
}
