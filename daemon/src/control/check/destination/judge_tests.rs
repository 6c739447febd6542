//! What each fact is judged to be; images are made of the records that a controller writes.

use super::*;
use crate::security::ClientSecurity;
use std::net::Ipv4Addr;
use std::time::Duration;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::metadata::MetadataRecord;
use twinlog_sync::metadata::image::TOPIC_RESOURCE;
use twinlog_sync::metadata::record::{Listener, NewPartition, RegisterBroker, Uuid};

/// ref: org.apache.kafka.common.security.auth.SecurityProtocol
const PLAINTEXT: i16 = 0;

const CLUSTER: &str = "cluster-of-the-test";

fn at(host: &str, port: u16) -> HostPort {
    HostPort { host: host.to_owned(), port }
}

fn guest() -> GuestSettings {
    GuestSettings {
        bootstrap_servers: vec![at("b", 1)],
        bootstrap_controllers: vec![at("c", 1)],
        inter_broker_listener_name: "INTERNAL".to_owned(),
        serving_ids: vec![(900, at("g", 1)), (901, at("g", 2))],
        reserve_id: 902,
        ids_of_other_links: Vec::new(),
        durable_replicas: 1,
        allow_placement_eviction: false,
        mirror_replication_factor: None,
        store_retention_bytes: 1 << 30,
        client_id: "test".to_owned(),
        request_timeout: Duration::from_secs(1),
        security: ClientSecurity::plaintext(),
        controller_security: ClientSecurity::plaintext(),
        listener_security: crate::security::ListenerSecurity::plaintext(),
    }
}

fn broker(id: i32, listener: &str, security_protocol: i16, directory: Uuid, fenced: bool) -> MetadataRecord {
    let name = listener.to_owned();
    MetadataRecord::RegisterBroker(RegisterBroker {
        broker: id,
        listeners: vec![Listener { name, host: "10.0.0.1".to_owned(), port: 9_092, security_protocol }],
        directories: vec![directory],
        fenced,
        ..RegisterBroker::default()
    })
}

fn stock(id: i32) -> MetadataRecord {
    broker(id, "INTERNAL", PLAINTEXT, [id as u8; 16], false)
}

fn feature(name: &str, level: i16) -> MetadataRecord {
    MetadataRecord::FeatureLevel { name: name.to_owned(), level }
}

fn config(resource_type: i8, resource: &str, key: &str, value: &str) -> MetadataRecord {
    let value = Some(value.to_owned());
    MetadataRecord::Config { resource_type, resource: resource.to_owned(), key: key.to_owned(), value }
}

fn topic(name: &str, id: u8, replicas: &[i32]) -> [MetadataRecord; 2] {
    let partition = NewPartition {
        topic: TopicId([id; 16]),
        index: 0,
        replicas: replicas.to_vec(),
        isr: replicas.to_vec(),
        removing: Vec::new(),
        adding: Vec::new(),
        leader: replicas[0],
        leader_epoch: 0,
        partition_epoch: 0,
        recovery: 0,
        directories: Vec::new(),
        eligible_leaders: Vec::new(),
        last_known_eligible: Vec::new(),
    };
    let topic = MetadataRecord::Topic { name: name.to_owned(), id: TopicId([id; 16]) };
    [topic, MetadataRecord::Partition(partition)]
}

fn good() -> Vec<MetadataRecord> {
    let features = [feature("metadata.version", 30), feature("eligible.leader.replicas.version", 1)];
    (1..=3).map(stock).chain(features).collect()
}

fn judged(records: Vec<MetadataRecord>, guest: &GuestSettings, factor: Option<i16>) -> (Vec<String>, bool) {
    let mut image = ClusterImage::default();
    records.into_iter().for_each(|record| image.apply(record).unwrap());
    let names = ["orders".to_owned(), "bills".to_owned()];
    let (lines, in_use) = image_lines(&image, guest, CLUSTER, factor, &names);
    (lines.iter().map(ToString::to_string).collect(), in_use)
}

#[track_caller]
fn assert_told(lines: &[String], level: &str, words: &str) {
    assert!(lines.iter().any(|line| line.starts_with(level) && line.contains(words)), "{words}: {lines:#?}");
}

#[test]
fn a_good_image_has_only_good_lines() {
    let (lines, in_use) = judged(good(), &guest(), Some(3));
    assert!(lines.iter().all(|line| line.starts_with("ok")) && !in_use, "{lines:#?}");
    assert_told(&lines, "ok", "metadata.version 30, of Kafka 4.3");
    assert_told(&lines, "ok", "the reserve, broker id 902 is free");
    assert_told(&lines, "ok", "2 would be created, 0 are mirrors already");
}

#[test]
fn an_old_metadata_version_is_named_with_its_release() {
    for (level, release) in [(29, "4.2"), (27, "4.1"), (25, "4.0"), (21, "3.9 or older")] {
        let (lines, _) = judged(vec![stock(1), feature("metadata.version", level)], &guest(), Some(1));
        assert_told(&lines, "fail", &format!("metadata.version {level}, of Kafka {release}; below 30"));
        assert_told(&lines, "ok", "ELR            off");
        let allowing = GuestSettings { allow_placement_eviction: true, ..guest() };
        let (lines, _) = judged(vec![stock(1), feature("metadata.version", level)], &allowing, Some(1));
        assert_told(&lines, "warn", "what it places on us is moved away again, as allowed");
    }
}

#[test]
fn a_listener_must_be_there_and_speak_as_we_do_on_every_stock_broker() {
    let with = |record| judged([good(), vec![record]].concat(), &guest(), Some(3)).0;
    let lines = with(broker(4, "OTHER", PLAINTEXT, [4; 16], false));
    assert_told(&lines, "fail", "brokers 4 have no such listener, there are INTERNAL, OTHER");
    let lines = with(broker(4, "INTERNAL", 2, [4; 16], false));
    assert_told(&lines, "fail", "INTERNAL of brokers 4 is not PLAINTEXT");
    // A guest of ours has but one listener, whatever it is called.
    let lines = with(broker(900, "OTHER", PLAINTEXT, derived_directory(CLUSTER, 900), true));
    assert_told(&lines, "ok", "INTERNAL is a PLAINTEXT listener of all 3 brokers");
}

#[test]
fn replicas_need_as_many_live_brokers() {
    let mut more = guest();
    more.mirror_replication_factor = Some(4);
    assert_told(&judged(good(), &more, Some(3)).0, "fail", "mirror.replication.factor is 4, brokers 1, 2, 3");
    assert_told(&judged(good(), &guest(), Some(1)).0, "warn", "one copy");
    assert_told(&judged(good(), &guest(), None).0, "warn", "is not told");
    let fenced = [good(), vec![broker(3, "INTERNAL", PLAINTEXT, [3; 16], true)]].concat();
    assert_told(&judged(fenced, &guest(), Some(3)).0, "fail", "brokers 1, 2 can take replicas");
}

#[test]
fn an_id_is_free_ours_in_use_or_somebody_elses() {
    let own = |fenced| broker(900, "INTERNAL", PLAINTEXT, derived_directory(CLUSTER, 900), fenced);
    let with = |record| judged([good(), vec![record]].concat(), &guest(), Some(3));
    let (lines, in_use) = with(own(true));
    assert_told(&lines, "ok", "broker id 900 is registered by a guest that is stopped");
    assert!(!in_use);
    let (lines, in_use) = with(own(false));
    assert_told(&lines, "fail", "broker id 900 is in use by a running guest (INTERNAL at 10.0.0.1:9092)");
    assert!(in_use);
    let (lines, in_use) = with(broker(902, "INTERNAL", PLAINTEXT, [7; 16], true));
    assert_told(&lines, "fail", "the reserve, broker id 902 is registered by a broker that is not ours");
    assert!(!in_use);
}

#[test]
fn topics_are_mirrors_of_ours_or_in_the_way() {
    let mirror = topic("orders", 1, &[900, 1, 2]).into_iter();
    let guarded = config(TOPIC_RESOURCE, "orders", "max.message.bytes", "1");
    let records = [good(), mirror.clone().chain([guarded]).collect(), topic("bills", 2, &[1, 2]).to_vec()];
    let (lines, _) = judged(records.concat(), &guest(), Some(3));
    assert_told(&lines, "warn", "1 of 2 exist at the destination and are no mirrors of these ids");
    assert!(!lines.iter().any(|line| line.starts_with("fail")), "{lines:#?}");
    let (lines, _) = judged([good(), mirror.clone().collect()].concat(), &guest(), Some(3));
    assert_told(
        &lines,
        "fail",
        "replicas on guest.broker.ids that were never ours: orders-0; take other ids",
    );
    let own = broker(900, "INTERNAL", PLAINTEXT, derived_directory(CLUSTER, 900), true);
    let (lines, _) = judged([good(), vec![own], mirror.collect()].concat(), &guest(), Some(3));
    assert_told(&lines, "warn", "are moved to stock brokers by the guest: orders-0");
    assert!(!lines.iter().any(|line| line.starts_with("fail")), "{lines:#?}");
}

#[test]
fn unclean_elections_are_warned_of_wherever_they_are_allowed() {
    let records = [good(), vec![config(BROKER_RESOURCE, "", UNCLEAN, "true")]].concat();
    assert_told(&judged(records, &guest(), Some(3)).0, "warn", "= true for all brokers");
    let values = [(1, Ok("true".to_owned())), (2, Ok("false".to_owned())), (3, Err(31))];
    let lines = election_lines(&values.into_iter().collect());
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    assert_told(&lines, "warn", "= true on brokers 1; mirror topics override it");
    assert_told(&lines, "ok", "= false on brokers 2");
    assert_told(&lines, "warn", "is not told");
}

#[test]
fn listeners_of_another_cluster_of_brokers_or_of_nobody_fail() {
    let said = |id: &str| BrokerSays { code: 0, cluster_id: id.to_owned(), brokers: vec![1], operations: 0 };
    let error = ClientError::Connect { server: at("b", 3), error: ErrorKind::ConnectionRefused };
    let asked =
        vec![(at("b", 1), Ok(said("a"))), (at("b", 2), Ok(said("x"))), (at("b", 3), Err(error.clone()))];
    let levels: Vec<bool> = broker_lines(&asked).iter().map(Line::is_failure).collect();
    assert_eq!(levels, [false, true, true]);
    let said = |cluster: Result<&str, i16>, lacks: &[&'static str]| {
        let cluster = cluster.map(str::to_owned);
        Ok(ControllerSays { lacks: lacks.to_vec(), cluster, fetch: Some(0) })
    };
    let asked = vec![
        (at("c", 1), said(Ok("a"), &[])),
        (at("c", 2), said(Ok("x"), &[])),
        (at("c", 3), said(Err(MISMATCHED_ENDPOINT_TYPE), &[])),
        (at("c", 4), said(Ok("a"), &["AlterPartition"])),
        (at("c", 5), said(Err(CLUSTER_AUTHORIZATION_FAILED), &[])),
        (at("c", 6), Err(error)),
    ];
    let lines = controller_lines(&asked, Some("a"));
    let levels: Vec<bool> = lines.iter().map(Line::is_failure).collect();
    // A missing right has a line of its own, with its cure.
    assert_eq!(levels, [false, true, true, true, false, true]);
    assert!(lines[3].to_string().contains("does not know AlterPartition"), "{}", lines[3]);
}

#[test]
fn a_cluster_is_not_mirrored_into_itself() {
    assert!(same_cluster_line(Some("a"), Some("a")).is_some_and(|line| line.is_failure()));
    assert!(same_cluster_line(Some("a"), Some("b")).is_some_and(|line| !line.is_failure()));
    assert_eq!(same_cluster_line(None, Some("b")), None);
}

#[test]
fn followers_must_be_able_to_reach_us() {
    let line = |bound: Result<[u8; 4], ErrorKind>, in_use, elsewhere| {
        let bound = bound.map(|octets| IpAddr::V4(Ipv4Addr::from(octets))).map_err(Error::from);
        guest_listener_lines(&[(at("g", 1), bound)], in_use, elsewhere)[0].to_string()
    };
    assert!(line(Ok([127, 0, 0, 1]), false, false).starts_with("ok"));
    assert!(line(Ok([127, 0, 0, 1]), false, true).starts_with("warn"));
    assert!(line(Ok([10, 0, 0, 9]), false, true).starts_with("ok"));
    assert!(line(Ok([0, 0, 0, 0]), false, true).starts_with("fail"));
    assert!(line(Err(ErrorKind::AddrInUse), true, true).starts_with("ok"));
    assert!(line(Err(ErrorKind::AddrInUse), false, true).starts_with("fail"));
    assert!(line(Err(ErrorKind::AddrNotAvailable), true, true).starts_with("fail"));
}

#[test]
fn long_lists_show_their_beginning_and_their_length() {
    let many: Vec<i32> = (0..11).collect();
    assert_eq!(shown(&many), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (11 in all)");
    assert_eq!(shown(&many[..10]), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
}
