//! What is said of each copier, and which of it is worse than another's: pure, from the runs alone.
//!
//! GB: 10^9 bytes of record batches as the source sends them. Flow: after the first record was at the destination, so
//! that no start of a process is in it. Invariant: a copier with one wrong copy of a set has no figures in it.

use crate::compare::copiers::{Copier, Run};
use crate::compare::sets::{Filled, Set};
use crate::spread::Spread;

/// All runs of one copier with one set.
#[derive(Clone, Debug)]
pub struct Row {
    pub set: Set,
    pub filled: Filled,
    pub copier: Copier,
    pub runs: Vec<Run>,
}

/// One column of the tables.
#[derive(Clone, Copy)]
pub struct Figure {
    pub name: &'static str,
    pub places: usize,
    pub more_is_better: bool,
    /// It is known of a floor.
    is_of_floor: bool,
    of: fn(&Row, &Run) -> f64,
}

/// In the order of the columns.
pub const FIGURES: [Figure; 9] = [
    Figure { name: "MB/s flow", places: 0, more_is_better: true, is_of_floor: true, of: Row::flow_rate },
    Figure { name: "MB/s whole", places: 0, more_is_better: true, is_of_floor: true, of: Row::whole_rate },
    Figure { name: "CPU-s/GB flow", places: 3, more_is_better: false, is_of_floor: true, of: Row::flow_cost },
    Figure {
        name: "CPU-s/GB whole",
        places: 3,
        more_is_better: false,
        is_of_floor: true,
        of: Row::whole_cost,
    },
    Figure {
        name: "CPU-s/GB of values",
        places: 3,
        more_is_better: false,
        is_of_floor: true,
        of: Row::value_cost,
    },
    Figure {
        name: "source CPU-s/GB",
        places: 2,
        more_is_better: false,
        is_of_floor: false,
        of: Row::source_cost,
    },
    Figure {
        name: "destination CPU-s/GB",
        places: 2,
        more_is_better: false,
        is_of_floor: false,
        of: Row::destination_cost,
    },
    Figure { name: "start s", places: 1, more_is_better: false, is_of_floor: false, of: Row::start_seconds },
    Figure {
        name: "peak MiB",
        places: 0,
        more_is_better: false,
        is_of_floor: false,
        of: Row::peak_mebibytes,
    },
];
/// The one that the aims speak of.
pub const COST: &Figure = &FIGURES[2];
pub const WHOLE_COST: &Figure = &FIGURES[3];
pub const RATE: &Figure = &FIGURES[0];
pub const PEAK: &Figure = &FIGURES[8];

/// More than this many times the floor is said.
const FLOOR_MAX: f64 = 1.5;
/// CPU seconds per GB that each mode aims at.
const AIMS: [(Copier, f64); 2] = [(Copier::Store, 0.2), (Copier::Guest, 0.5)];
/// How many times less than a peer our modes aim to cost, where the codec is this; for any without one.
const RATIOS: [(Copier, Option<&str>, f64); 3] = [
    (Copier::FranzGo, Some("none"), 5.0),
    (Copier::FranzGo, Some("zstd"), 30.0),
    (Copier::MirrorMaker, None, 30.0),
];

impl Row {
    fn gigabytes(&self) -> f64 {
        self.filled.wire_bytes as f64 / 1e9
    }

    fn flow_rate(&self, run: &Run) -> f64 {
        self.gigabytes() * 1e3 / (run.used.seconds - run.used.first_seconds)
    }

    fn whole_rate(&self, run: &Run) -> f64 {
        self.gigabytes() * 1e3 / run.used.seconds
    }

    fn flow_cost(&self, run: &Run) -> f64 {
        (run.used.cpu_seconds - run.used.first_cpu_seconds) / self.gigabytes()
    }

    fn whole_cost(&self, run: &Run) -> f64 {
        run.used.cpu_seconds / self.gigabytes()
    }

    fn value_cost(&self, run: &Run) -> f64 {
        self.flow_cost(run) * self.filled.wire_bytes as f64 / self.filled.value_bytes as f64
    }

    fn source_cost(&self, run: &Run) -> f64 {
        run.source_cpu_seconds / self.gigabytes()
    }

    fn destination_cost(&self, run: &Run) -> f64 {
        run.destination_cpu_seconds / self.gigabytes()
    }

    fn start_seconds(&self, run: &Run) -> f64 {
        run.used.first_seconds
    }

    fn peak_mebibytes(&self, run: &Run) -> f64 {
        run.used.peak_bytes as f64 / f64::from(1 << 20)
    }

    /// Why it scores nothing, if so.
    pub fn wrong(&self) -> Option<&str> {
        self.runs.iter().find_map(|run| run.wrong.as_deref())
    }

    /// `None` when a copy was wrong, or where it means nothing.
    pub fn spread(&self, figure: &Figure) -> Option<Spread> {
        let known = !self.copier.is_floor() || figure.is_of_floor;
        let right = self.wrong().is_none() && !self.runs.is_empty();
        (known && right).then(|| Spread::of(self.runs.iter().map(|run| (figure.of)(self, run))))
    }

    fn title(&self) -> String {
        format!("{}, {}", self.set.name(), self.copier.name())
    }
}

/// Sentences on all that is wrong, worse than a peer, or short of an aim.
pub fn findings(rows: &[Row]) -> Vec<String> {
    let mut said: Vec<String> = rows.iter().filter_map(wrong).collect();
    let ours = rows.iter().filter(|row| row.copier.is_ours());
    for row in ours {
        let same = || rows.iter().filter(|other| other.set == row.set);
        let floor = same().find(|other| Some(other.copier) == row.copier.floor());
        said.extend(floor.and_then(|floor| beyond_floor(row, floor)));
        let peers = same().filter(|peer| !peer.copier.is_ours() && !peer.copier.is_floor());
        let peers: Vec<&Row> = peers.collect();
        for figure in &FIGURES {
            said.extend(peers.iter().filter_map(|peer| worse(row, peer, figure)));
        }
        said.extend(short_of_aim(row));
        said.extend(peers.iter().filter_map(|peer| short_of_ratio(row, peer)));
    }
    said
}

fn wrong(row: &Row) -> Option<String> {
    Some(format!("{}: the copy is wrong and scores nothing: {}", row.title(), row.wrong()?))
}

fn worse(row: &Row, peer: &Row, figure: &Figure) -> Option<String> {
    let (ours, theirs) = (row.spread(figure)?, peer.spread(figure)?);
    let is_worse =
        if figure.more_is_better { ours.middle < theirs.middle } else { ours.middle > theirs.middle };
    let (places, peer) = (figure.places, peer.copier.name());
    let sentence = || format!("{}: {} {ours:.places$}, {peer} {theirs:.places$}", row.title(), figure.name);
    is_worse.then(sentence)
}

fn beyond_floor(row: &Row, floor: &Row) -> Option<String> {
    let (ours, least) = (row.spread(COST)?, floor.spread(COST)?);
    let ratio = ours.middle / least.middle;
    (ratio > FLOOR_MAX).then(|| {
        let name = COST.name;
        format!("{}: {name} {ours:.3}, {ratio:.2} times the floor of {least:.3}", row.title())
    })
}

fn short_of_aim(row: &Row) -> Option<String> {
    let (_, aim) = AIMS.iter().find(|(copier, _)| *copier == row.copier)?;
    let cost = row.spread(COST)?;
    (cost.middle > *aim).then(|| format!("{}: {} {cost:.3}, the aim is {aim}", row.title(), COST.name))
}

fn short_of_ratio(row: &Row, peer: &Row) -> Option<String> {
    let applies = |codec: &Option<&str>| codec.is_none_or(|codec| codec == row.set.codec.name());
    let (_, _, aim) = RATIOS.iter().find(|(copier, codec, _)| *copier == peer.copier && applies(codec))?;
    let ratio = peer.spread(COST)?.middle / row.spread(COST)?.middle;
    let peer = peer.copier.name();
    (ratio < *aim)
        .then(|| format!("{}: {ratio:.1} times less CPU than {peer}, the aim is {aim} times", row.title()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::process_tree::Used;
    use crate::compare::sets::QUICK;

    fn row(copier: Copier, cpu_seconds: f64, peak_bytes: u64) -> Row {
        let used = Used { seconds: 3.0, cpu_seconds, first_seconds: 1.0, first_cpu_seconds: 0.5, peak_bytes };
        let run = Run { used, source_cpu_seconds: 1.0, ..Run::default() };
        let filled = Filled { records: 1, value_bytes: 6_000_000_000, wire_bytes: 2_000_000_000 };
        Row { set: QUICK[0], filled, copier, runs: vec![run] }
    }

    #[test]
    fn flow_leaves_the_start_out_and_values_are_another_measure() {
        let row = row(Copier::Store, 2.5, 1 << 20);
        let figure = |index: usize| row.spread(&FIGURES[index]).unwrap().middle;
        assert_eq!((figure(0), figure(2), figure(3)), (1_000.0, 1.0, 1.25));
        assert_eq!((figure(4), figure(5), figure(7), figure(8)), (1.0 / 3.0, 0.5, 1.0, 1.0));
    }

    #[test]
    fn a_floor_is_no_peer_and_more_than_one_and_a_half_of_it_is_said() {
        let ours = row(Copier::Store, 0.8, 9 << 20);
        let said = |floor| findings(&[ours.clone(), row(Copier::StoreFloor, floor, 1)]);
        assert_eq!(said(0.72), Vec::<String>::new());
        let beyond = said(0.68);
        assert_eq!(beyond.len(), 1, "{beyond:?}");
        assert!(beyond[0].ends_with("CPU-s/GB flow 0.150, 1.67 times the floor of 0.090"), "{beyond:?}");
        assert_eq!(findings(&[ours.clone(), row(Copier::GuestFloor, 0.6, 1)]), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_copy_scores_nothing_and_is_told_of() {
        let (ours, mut peer) = (row(Copier::Store, 2.5, 1), row(Copier::FranzGo, 1.0, 1));
        peer.runs.push(Run { wrong: Some("partition 3".to_owned()), ..peer.runs[0].clone() });
        assert_eq!(peer.spread(COST), None);
        let said = findings(&[ours, peer]);
        assert!(said[0].contains("franz-go: the copy is wrong") && said[0].contains("partition 3"));
        assert!(!said.iter().any(|line| line.contains("0.25")), "{said:?}");
    }

    #[test]
    fn what_is_worse_than_a_peer_or_short_of_an_aim_is_said_and_nothing_else() {
        let said = findings(&[row(Copier::Store, 0.7, 9 << 20), row(Copier::FranzGo, 2.5, 5 << 20)]);
        assert_eq!(said, ["1KiB/none/6, twinlog-store: peak MiB 9, franz-go 5"]);
        let said = findings(&[row(Copier::Store, 1.5, 1 << 20), row(Copier::FranzGo, 2.5, 5 << 20)]);
        assert_eq!(said.len(), 2);
        assert!(said[0].ends_with("CPU-s/GB flow 0.500, the aim is 0.2"), "{said:?}");
        assert!(said[1].ends_with("2.0 times less CPU than franz-go, the aim is 5 times"), "{said:?}");
    }
}
