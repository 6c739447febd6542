//! What the destination's answers mean for a guest: facts in, lines out, no network.

use super::{Asked, BrokerSays, CLUSTER_AUTHORIZATION_FAILED, ControllerSays};
use crate::config::{GuestSettings, HostPort};
use crate::control::check::line::Line;
use crate::control::guest::destination_view::{candidates, is_mirror};
use crate::control::guest::{CORDON_METADATA_VERSION, SESSION_TIMEOUT};
use crate::control::source_client::ClientError;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::metadata::image::BROKER_RESOURCE;
use twinlog_sync::metadata::membership::derived_directory;

/// The setting that lets a broker with less than was acknowledged lead.
pub(super) const UNCLEAN: &str = "unclean.leader.election.enable";
/// What to do about it before a promote; until then nothing is.
const UNCLEAN_CURE: &str =
    "mirror topics override it until they are promoted; set false where that is not wanted";
/// Names that one line shows; the rest is a count.
const NAMES_SHOWN: usize = 10;
/// Kafka's code of a listener that is not one of controllers. ref: KIP-919
const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
/// First metadata version of each release since 4.0.
const RELEASES: [(i16, &str); 4] = [(30, "4.3"), (28, "4.2"), (26, "4.1"), (22, "4.0")];

/// The setting [`UNCLEAN`] of each broker, or the error code of its answer.
pub(super) type UncleanSettings = BTreeMap<i32, Result<String, i16>>;

fn ok(subject: &'static str, text: impl Into<String>) -> Line {
    Line::ok(subject, text)
}

fn warn(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Line {
    Line::warn(subject, text, cure)
}

fn fail(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Line {
    Line::fail(subject, text, cure)
}

/// The first few, and how many there are.
pub(in crate::control::check) fn shown<T: std::fmt::Display>(names: &[T]) -> String {
    let first: Vec<String> = names.iter().take(NAMES_SHOWN).map(ToString::to_string).collect();
    match names.len() {
        0..=NAMES_SHOWN => first.join(", "),
        count => format!("{}, ... ({count} in all)", first.join(", ")),
    }
}

pub(super) fn broker_lines(asked: &Asked<BrokerSays>) -> Vec<Line> {
    let first = asked.iter().find_map(|(_, said)| said.as_ref().ok()).map(|said| said.cluster_id.clone());
    let line = |(server, said): &(HostPort, Result<BrokerSays, ClientError>)| match said {
        Ok(said) if said.code != 0 => fail(
            "destination",
            format!("{server} does not describe its cluster (error code {})", said.code),
            "name brokers in destination bootstrap.servers",
        ),
        Ok(said) if Some(&said.cluster_id) != first.as_ref() => fail(
            "destination",
            format!(
                "{server} is of cluster {}, the first of bootstrap.servers of {}",
                said.cluster_id,
                first.as_deref().unwrap_or_default()
            ),
            "name servers of one cluster",
        ),
        Ok(said) => ok(
            "destination",
            format!("{server}: cluster {}, live brokers {}", said.cluster_id, shown(&said.brokers)),
        ),
        Err(error) => fail(
            "destination",
            error.to_string(),
            "check destination bootstrap.servers and its keys of security, and firewalls",
        ),
    };
    asked.iter().map(line).collect()
}

pub(super) fn controller_lines(asked: &Asked<ControllerSays>, of_brokers: Option<&str>) -> Vec<Line> {
    asked.iter().map(|(server, said)| controller_line(server, said.as_ref(), of_brokers)).collect()
}

fn controller_line(
    server: &HostPort,
    said: Result<&ControllerSays, &ClientError>,
    of_brokers: Option<&str>,
) -> Line {
    let said = match said {
        Ok(said) => said,
        Err(error) => {
            let cure = "bootstrap.controllers must name the controllers' own listener, reachable from this host, \
                        with the keys of security in [link.NAME.destination.controllers] that it asks for";
            return fail("controllers", error.to_string(), cure);
        }
    };
    match &said.cluster {
        Err(MISMATCHED_ENDPOINT_TYPE) => fail(
            "controllers",
            format!("{server} is a listener of brokers"),
            "bootstrap.controllers needs one of controllers",
        ),
        Err(CLUSTER_AUTHORIZATION_FAILED) => warn(
            "controllers",
            format!("{server} answers, and tells its cluster to nobody without ALTER"),
            "see the lines about rights",
        ),
        Err(code) => fail(
            "controllers",
            format!("{server} does not describe its cluster (error code {code})"),
            "look into the log of that controller",
        ),
        Ok(id) if of_brokers.is_some_and(|other| other != id) => fail(
            "controllers",
            format!("{server} is of cluster {id}, bootstrap.servers of {}", of_brokers.unwrap_or_default()),
            "name the controllers of that one",
        ),
        Ok(_) if !said.lacks.is_empty() => fail(
            "controllers",
            format!("{server} does not know {}", said.lacks.join(", ")),
            "upgrade it: Kafka 4.3 knows all that a guest needs",
        ),
        Ok(id) => ok("controllers", format!("{server}: cluster {id}, all requests of a guest are known")),
    }
}

/// A link from a cluster to itself would mirror what it has just mirrored.
pub(super) fn same_cluster_line(source: Option<&str>, destination: Option<&str>) -> Option<Line> {
    let (source, destination) = (source?, destination?);
    Some(if source == destination {
        let text = format!("source and destination are both {source}");
        fail("clusters", text, "name another destination: a cluster cannot be mirrored into itself")
    } else {
        ok("clusters", "source and destination are different ones")
    })
}

pub(super) fn log_not_read(may_be_read: bool) -> Line {
    if may_be_read {
        fail(
            "metadata log",
            "no leader of the quorum gave it in time, what depends on it was not looked at",
            "look that a majority of the controllers are up, and reachable at the addresses that they advertise",
        )
    } else {
        fail(
            "metadata log",
            "it cannot be read before the controllers answer and the rights are there; what depends on it was not \
             looked at",
            "check again then",
        )
    }
}

/// Everything that the metadata log tells, and whether one of our ids is in use.
pub(super) fn image_lines(
    image: &ClusterImage,
    guest: &GuestSettings,
    cluster_id: &str,
    default_factor: Option<i16>,
    names: &[String],
) -> (Vec<Line>, bool) {
    let text =
        format!("read, as a guest does: {} brokers, {} topics", image.brokers().len(), image.topics().len());
    let mut lines = vec![ok("metadata log", text), version_line(image, guest), elr_line(image)];
    lines.push(listener_line(image, guest));
    lines.push(replicas_line(image, guest, default_factor));
    lines.extend(dynamic_election_line(image));
    let mut in_use = false;
    for (id, address) in &guest.serving_ids {
        let (line, used) = id_line(image, *id, cluster_id, Some(address));
        in_use |= used;
        lines.push(line);
    }
    let (line, used) = id_line(image, guest.reserve_id, cluster_id, None);
    lines.push(line);
    lines.extend(foreign_replicas_lines(image, guest, cluster_id));
    lines.extend(topics_line(image, guest, names));
    (lines, in_use || used)
}

fn version_line(image: &ClusterImage, guest: &GuestSettings) -> Line {
    let level = image.feature("metadata.version").unwrap_or(0);
    let release = RELEASES.iter().find(|(first, _)| level >= *first).map_or("3.9 or older", |(_, name)| name);
    let told = format!("metadata.version {level}, of Kafka {release}");
    if level >= CORDON_METADATA_VERSION {
        return ok("version", told);
    }
    let told =
        format!("{told}; below {CORDON_METADATA_VERSION} a cluster cannot be told to place nothing on us");
    if guest.allow_placement_eviction {
        let text = format!("{told}: what it places on us is moved away again, as allowed");
        return warn("version", text, "upgrade all nodes to 4.3 for a cluster that places nothing on us");
    }
    let cure = "upgrade all nodes to 4.3, then kafka-features.sh --bootstrap-server HOST:PORT upgrade \
                --release-version 4.3; or set guest.allow.placement.eviction = true, and it is moved away again";
    fail("version", told, cure)
}

fn elr_line(image: &ClusterImage) -> Line {
    match image.feature("eligible.leader.replicas.version") {
        Some(1..) => ok("ELR", "on; mirror topics are kept out of it by min.insync.replicas=1"),
        _ => ok("ELR", "off"),
    }
}

fn listener_line(image: &ClusterImage, guest: &GuestSettings) -> Line {
    let wanted = &guest.inter_broker_listener_name;
    let stock = || image.brokers().values().filter(|broker| !guest.has_id(broker.broker));
    let mut names = BTreeSet::new();
    let spoken = guest.listener_security.protocol();
    let (mut without, mut others) = (Vec::new(), Vec::new());
    for broker in stock() {
        names.extend(broker.listeners.iter().map(|listener| listener.name.as_str()));
        match broker.listeners.iter().find(|listener| listener.name == *wanted) {
            None => without.push(broker.broker),
            Some(listener) if listener.security_protocol != spoken.number() => others.push(broker.broker),
            Some(_) => {}
        }
    }
    if !without.is_empty() {
        let names: Vec<&str> = names.into_iter().collect();
        let text = format!(
            "inter.broker.listener.name = {wanted:?}: brokers {} have no such listener, there are {}",
            shown(&without),
            names.join(", ")
        );
        return fail("listener", text, "take the value of the brokers' own inter.broker.listener.name");
    }
    if !others.is_empty() {
        let text = format!(
            "{wanted} of brokers {} is not {spoken}, as guest.followers.security.protocol has it",
            shown(&others)
        );
        let cure = "set that key to what the listener speaks: followers speak to us as to each other";
        return fail("listener", text, cure);
    }
    ok("listener", format!("{wanted} is a {spoken} listener of all {} brokers", stock().count()))
}

fn replicas_line(image: &ClusterImage, guest: &GuestSettings, default_factor: Option<i16>) -> Line {
    let live: Vec<i32> =
        candidates(image, |id| guest.has_id(id)).iter().map(|candidate| candidate.broker).collect();
    let (key, factor) = match (guest.mirror_replication_factor, default_factor) {
        (Some(factor), _) => ("mirror.replication.factor", factor as usize),
        (None, Some(factor)) => ("the destination's default.replication.factor", factor.max(0) as usize),
        (None, None) => {
            let text = "the destination's default.replication.factor is not told";
            return warn("replicas", text, "set mirror.replication.factor");
        }
    };
    let text = format!("{key} is {factor}, brokers {} can take replicas", shown(&live));
    match factor {
        factor if factor > live.len() => {
            fail("replicas", text, "lower mirror.replication.factor, or bring brokers back")
        }
        0 | 1 => warn("replicas", format!("{text}: one copy"), "set mirror.replication.factor"),
        _ => ok("replicas", text),
    }
}

fn dynamic_election_line(image: &ClusterImage) -> Option<Line> {
    let value = image.configs(BROKER_RESOURCE, "").and_then(|configs| configs.get(UNCLEAN))?;
    let text = format!("{UNCLEAN} = {value} for all brokers, set at run time");
    Some(if value == "true" { warn("elections", text, UNCLEAN_CURE) } else { ok("elections", text) })
}

/// The setting as each broker has it.
pub(super) fn election_lines(settings: &UncleanSettings) -> Vec<Line> {
    let having = |wanted: &str| -> Vec<i32> {
        let found = settings.iter().filter(|(_, value)| value.as_deref() == Ok(wanted));
        found.map(|(broker, _)| *broker).collect()
    };
    let hidden: Vec<i32> = settings.iter().filter(|(_, value)| value.is_err()).map(|(id, _)| *id).collect();
    let mut lines = Vec::new();
    if !having("true").is_empty() {
        let text = format!("{UNCLEAN} = true on brokers {}", shown(&having("true")));
        lines.push(warn("elections", text, UNCLEAN_CURE));
    }
    if !having("false").is_empty() {
        lines.push(ok("elections", format!("{UNCLEAN} = false on brokers {}", shown(&having("false")))));
    }
    if !hidden.is_empty() || settings.is_empty() {
        let cure = "grant DESCRIBE_CONFIGS on the cluster to see it; mirroring does not need it, for mirror topics \
                    override it";
        lines.push(warn("elections", format!("{UNCLEAN} is not told"), cure));
    }
    lines
}

/// Whether an id may be ours, and whether it is in use.
fn id_line(image: &ClusterImage, id: i32, cluster_id: &str, address: Option<&HostPort>) -> (Line, bool) {
    let what = if address.is_some() { "broker id" } else { "the reserve, broker id" };
    let Some(found) = image.broker(id) else {
        return (ok("guest ids", format!("{what} {id} is free")), false);
    };
    let at: Vec<String> =
        found.listeners.iter().map(|each| format!("{} at {}:{}", each.name, each.host, each.port)).collect();
    let at = at.join(", ");
    let is_twinlog = found.directories == [derived_directory(cluster_id, id)];
    match (is_twinlog, found.fenced) {
        (false, _) => {
            let text = format!("{what} {id} is registered by a broker that is not ours ({at})");
            (fail("guest ids", text, "take other guest.broker.ids"), false)
        }
        (true, true) => {
            (ok("guest ids", format!("{what} {id} is registered by a guest that is stopped ({at})")), false)
        }
        (true, false) => {
            let text = format!("{what} {id} is in use by a running guest ({at})");
            let cure = format!(
                "stop that one and wait {} s, or take other guest.broker.ids",
                SESSION_TIMEOUT.as_secs()
            );
            (fail("guest ids", text, cure), true)
        }
    }
}

/// Partitions on our ids that are no mirrors. On an id that was ours they were placed by the cluster and are
/// moved away by the guest; on any other they are somebody's data, and a guest would be asked for it.
fn foreign_replicas_lines(image: &ClusterImage, guest: &GuestSettings, cluster_id: &str) -> Vec<Line> {
    let was_ours = |id: i32| {
        image.broker(id).is_some_and(|broker| broker.directories == [derived_directory(cluster_id, id)])
    };
    let (mut placed, mut foreign) = (Vec::new(), Vec::new());
    for topic in image.topics().values() {
        if is_mirror(image, &topic.name, topic, |id| guest.has_id(id)) {
            continue;
        }
        for (index, at) in &topic.partitions {
            let mut held = at.replicas.iter().filter(|id| guest.has_id(**id)).peekable();
            if held.peek().is_some() {
                let all_ours = held.all(|id| was_ours(*id));
                let list = if all_ours { &mut placed } else { &mut foreign };
                list.push(format!("{}-{index}", topic.name));
            }
        }
    }
    let mut lines = Vec::new();
    if !placed.is_empty() {
        placed.sort();
        let text =
            "partitions that are no mirrors are on our ids, and are moved to stock brokers by the guest";
        lines.push(warn(
            "guest ids",
            format!("{text}: {}", shown(&placed)),
            "let it run until they are gone",
        ));
    }
    if !foreign.is_empty() {
        foreign.sort();
        let text =
            format!("partitions have replicas on guest.broker.ids that were never ours: {}", shown(&foreign));
        let cure = "take other ids, or move them away with kafka-reassign-partitions.sh";
        lines.push(fail("guest ids", text, cure));
    }
    lines
}

fn topics_line(image: &ClusterImage, guest: &GuestSettings, names: &[String]) -> Option<Line> {
    if names.is_empty() {
        return None;
    }
    let (mut ours, mut taken) = (0, Vec::new());
    for name in names {
        match image.topic_named(name) {
            Some((_, topic)) if is_mirror(image, name, topic, |id| guest.has_id(id)) => ours += 1,
            Some(_) => taken.push(name),
            None => {}
        }
    }
    if taken.is_empty() {
        let new = names.len() - ours;
        return Some(ok("topics", format!("{new} would be created, {ours} are mirrors already")));
    }
    let text = format!(
        "{} of {} exist at the destination and are no mirrors of these ids, so they are not mirrored: {}",
        taken.len(),
        names.len(),
        shown(&taken)
    );
    let cure = "delete or rename them there, or leave them out (promoted ones are meant to be here)";
    Some(warn("topics", text, cure))
}

/// Whether a broker lives on another host than this one, as far as its address says.
pub(super) fn brokers_are_elsewhere(image: &ClusterImage, guest: &GuestSettings) -> bool {
    let stock = image.brokers().values().filter(|broker| !guest.has_id(broker.broker));
    stock.flat_map(|broker| &broker.listeners).any(|listener| {
        let is_loopback = listener.host.parse::<IpAddr>().map(|address| address.is_loopback());
        !is_loopback.unwrap_or(listener.host == "localhost")
    })
}

/// Whether followers can reach us: each address with what became of listening there.
pub(super) fn guest_listener_lines(
    bound: &[(HostPort, Result<IpAddr, Error>)],
    ids_in_use: bool,
    brokers_elsewhere: bool,
) -> Vec<Line> {
    let subject = "guest.listener";
    let line = |(address, bound): &(HostPort, Result<IpAddr, Error>)| match bound {
        Ok(ip) if ip.is_unspecified() => fail(
            subject,
            format!("{address} is no address that a broker can connect to"),
            "name one of this host",
        ),
        Ok(ip) if ip.is_loopback() && brokers_elsewhere => warn(
            subject,
            format!("{address} is a loopback address and brokers are on other hosts: they cannot follow"),
            "name an address of this host that they reach",
        ),
        Ok(_) => ok(subject, format!("{address} can be listened on")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && ids_in_use => {
            ok(subject, format!("{address} is taken, as the running guest's should be"))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            fail(subject, format!("{address} is taken by another process"), "name free ports")
        }
        Err(error) => fail(
            subject,
            format!("{address} cannot be listened on: {error}"),
            "name an address of this host that brokers reach",
        ),
    };
    bound.iter().map(line).collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
