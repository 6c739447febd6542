//! Who has used the machine's CPU: each process by the kernel's own count, so that what the rest leaves is known.

use crate::guest::Clusters;
use crate::table::Table;

/// The kernel's ticks in a second, for all that is told to programs.
const TICKS: f64 = 100.0;

/// CPU seconds so far, by who used them.
#[derive(Clone, Debug)]
pub struct Processes(Vec<(String, f64)>);

fn fields_behind_name(path: &str) -> Vec<u64> {
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    behind_name.split_whitespace().map(|text| text.parse().unwrap_or(0)).collect()
}

fn seconds(path: &str) -> f64 {
    let fields = fields_behind_name(path);
    let ticks = |at: usize| fields.get(at).copied().unwrap_or(0);
    (ticks(11) + ticks(12)) as f64 / TICKS
}

/// Of all cores, whatever they did but nothing; stolen time is somebody else's.
fn machine_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).map(|text| text.parse().unwrap_or(0)).collect();
    let at = |place: usize| ticks.get(place).copied().unwrap_or(0);
    (at(0) + at(1) + at(2) + at(5) + at(6)) as f64 / TICKS
}

impl Processes {
    pub fn look(clusters: &Clusters, brokers: &[usize], daemon: u32) -> Self {
        let of = |process: Option<u32>| process.map_or(0.0, |id| seconds(&format!("/proc/{id}/stat")));
        let control = seconds(&format!("/proc/{daemon}/task/{daemon}/stat"));
        let destination = brokers.iter().map(|broker| of(clusters.destination.broker_process(*broker))).sum();
        let rows = [
            ("source broker", of(clusters.source.broker_process(1))),
            ("destination brokers", destination),
            ("committers and probes", seconds("/proc/self/stat")),
            ("daemon, control core", control),
            ("daemon, all else", of(Some(daemon)) - control),
            ("whole machine", machine_seconds()),
        ];
        Self(rows.into_iter().map(|(name, used)| (name.to_owned(), used)).collect())
    }

    /// What was used from `before` on, within so many seconds.
    pub fn table_since(&self, before: &Self, window_seconds: f64) -> Table {
        let mut table = Table::new(&["CPU of", "CPU-s", "% of one core"]);
        for ((name, after), (_, before)) in self.0.iter().zip(&before.0) {
            let used = after - before;
            table.row(vec![
                name.clone(),
                format!("{used:.1}"),
                format!("{:.1}", 100.0 * used / window_seconds),
            ]);
        }
        table
    }
}
