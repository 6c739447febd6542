//! Catching up with everything that a source has: rates, CPU time, memory, and the ratio to the floor.
//!
//! ```text
//!   per combination:  source ─▶ (mirror, floor) x repeats ─▶ proof of the last copy
//! ```
//! Mirror and floor take turns, so that whatever else the machine does meets both. What the mirror used before its
//! first record came (its whole memory is made resident at the start) is shown by itself, and left out of the
//! columns that say flow.

use crate::Bench;
use crate::children::{self, Beside, Role};
use crate::error::BenchError;
use crate::floor::{self, FloorRun};
use crate::load::{Load, STREAM, Shape};
use crate::mirror::{self, MirrorRun, Origin};
use crate::proof;
use crate::spread::Spread;
use crate::table::Table;

const KIB: usize = 1 << 10;
/// Partitions of the row that the aim speaks of.
pub const AIM_PARTITIONS: u32 = 6;
/// Record bytes, partitions, batch bytes. Six partitions with batches of 1 MiB are the aim's row.
const COMBINATIONS: [(usize, u32, usize); 9] = [
    (KIB, 1, 64 * KIB),
    (KIB, AIM_PARTITIONS, KIB * KIB),
    (KIB, 40, 64 * KIB),
    (KIB, 1_000, 16 * KIB),
    (KIB, 10_000, 16 * KIB),
    (16 * KIB, 1, 64 * KIB),
    (16 * KIB, AIM_PARTITIONS, KIB * KIB),
    (16 * KIB, 40, 64 * KIB),
    (16 * KIB, 1_000, 16 * KIB),
];

/// More of them take longer to make than quick mode has.
const QUICK_PARTITIONS_MAX: u32 = 1_000;

/// Times the floor that are still near it; the reports tell of what is beyond.
pub const FLOOR_RATIO_MAX: f64 = 1.5;

/// One combination, measured.
struct Measured {
    load: Load,
    runs: Vec<Turn>,
}

/// A mirror's run and the floor's after it.
struct Turn {
    mirror: MirrorRun,
    /// While records flowed, as the source saw it.
    stream_seconds: f64,
    /// CPU time of the mirror before that.
    start_cpu_seconds: f64,
    floor: FloorRun,
}

/// A size as people write it.
pub fn size(bytes: usize) -> String {
    if bytes >= KIB * KIB { format!("{}MiB", bytes / KIB / KIB) } else { format!("{}KiB", bytes / KIB) }
}

/// Measures what was asked for; hands back a sentence on each row that costs more than [`FLOOR_RATIO_MAX`] floors.
pub fn measure(bench: &mut Bench<'_>) -> Result<Vec<String>, BenchError> {
    let mut measured = Vec::new();
    for (record_bytes, partitions, batch_bytes) in COMBINATIONS {
        let name = format!("catch-up/{}/{partitions}", size(record_bytes));
        let aim = partitions == AIM_PARTITIONS;
        let in_quick = (record_bytes == KIB && partitions <= QUICK_PARTITIONS_MAX) || aim;
        let left_out = bench.arguments.quick && !in_quick && !bench.arguments.names(&name);
        if left_out || !bench.arguments.wants(&name) {
            continue;
        }
        let shape = Shape { record_bytes, batch_bytes, partitions, total_bytes: bench.arguments.run_bytes() };
        let usual = if !bench.arguments.quick { 3 } else { 1 + u64::from(aim) };
        eprintln!("measuring {name}");
        measured.push(combination(bench, shape, bench.arguments.repeats.unwrap_or(usual))?);
    }
    if !measured.is_empty() {
        tell(bench, &measured);
    }
    Ok(measured.iter().filter_map(Measured::beyond_floor).collect())
}

fn combination(bench: &Bench<'_>, shape: Shape, repeats: u64) -> Result<Measured, BenchError> {
    let load = Load::new(shape);
    let bytes = load.total_bytes();
    let mut source = Beside::start(Role::Source, &[bench.cores.control.to_string(), shape.to_string()])?;
    let hello = source.answer()?;
    let refused = || BenchError::Answer { role: Role::Source.name(), answer: hello.clone() };
    let (bootstrap, sender) = hello.split_once(' ').ok_or_else(refused)?;
    // Both leave room for what is reserved ahead of the data.
    let copy = bench.scratch.place("copy", bytes * 3)?;
    let floor_directory = bench.scratch.place("floor", bytes * 2)?;
    let mut runs = Vec::new();
    for repeat in 0..repeats {
        bench.scratch.clear(&copy)?;
        source.ask("stream")?;
        let origin = Origin::Plaintext { bootstrap, topic: STREAM };
        let watch = |id| source.ask(&format!("watch {id}")).map(drop);
        let mirror = mirror::run(bench.cores, origin, &copy, watch)?;
        let figures = children::numbers(Role::Source, &source.ask("stream")?, 3)?;
        if mirror.bytes != bytes {
            let problem = format!("{} bytes instead of {bytes}", mirror.bytes);
            return Err(BenchError::Copy { problem });
        }
        if repeat + 1 == repeats {
            proof::copy_is_right(&copy, &load)?;
        }
        bench.scratch.clear(&copy)?;
        let made = std::fs::create_dir(&floor_directory);
        made.map_err(|error| BenchError::File { action: "making", path: floor_directory.clone(), error })?;
        let floor = floor::run(bench.cores, sender, bytes, &floor_directory.join("bytes"), &[])?;
        bench.scratch.clear(&floor_directory)?;
        runs.push(Turn { mirror, stream_seconds: figures[1], start_cpu_seconds: figures[2], floor });
    }
    Ok(Measured { load, runs })
}

/// Bytes per second of one run of a shape while records flow: what a fixed rate is chosen by.
pub fn stream_rate(bench: &Bench<'_>, shape: Shape) -> Result<f64, BenchError> {
    let measured = combination(bench, shape, 1)?;
    let turn = measured.runs.first().expect("one repeat was asked for");
    Ok(turn.mirror.bytes as f64 / turn.stream_seconds)
}

impl Measured {
    fn spread(&self, figure: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure))
    }

    fn gigabytes(&self) -> f64 {
        self.load.total_bytes() as f64 / 1e9
    }

    fn name(&self) -> Vec<String> {
        let shape = self.load.shape;
        vec![size(shape.record_bytes), shape.partitions.to_string(), size(shape.batch_bytes)]
    }

    fn flow(&self, turn: &Turn) -> f64 {
        (turn.mirror.cpu_seconds() - turn.start_cpu_seconds) / self.gigabytes()
    }

    fn beyond_floor(&self) -> Option<String> {
        let floor = |turn: &Turn| turn.floor.cpu_seconds() / (turn.floor.bytes as f64 / 1e9);
        let flow = self.spread(|turn| self.flow(turn) / floor(turn));
        let whole = self.spread(|turn| turn.mirror.cpu_seconds() / self.gigabytes() / floor(turn));
        let name = self.name().join(", ");
        (flow.middle > FLOOR_RATIO_MAX).then(|| {
            format!("without brokers, {name}: {flow:.2} times the floor's CPU while records flow, {whole:.2} whole")
        })
    }

    fn rates(&self) -> Vec<String> {
        let megabytes = self.gigabytes() * 1e3;
        let figures = [
            self.spread(|turn| megabytes / turn.stream_seconds),
            self.spread(|turn| megabytes / turn.mirror.seconds),
            self.spread(|turn| turn.floor.bytes as f64 / 1e6 / turn.floor.stream_seconds),
            self.spread(|turn| turn.floor.bytes as f64 / 1e6 / turn.floor.seconds),
        ];
        let memory = self.spread(|turn| turn.mirror.peak_resident_bytes as f64 / (1 << 20) as f64);
        let mut cells = self.name();
        cells.extend(figures.iter().map(|figure| format!("{figure:.0}")));
        cells.push(format!("{memory:.0}"));
        cells
    }

    fn processor_time(&self) -> Vec<String> {
        let gigabytes = self.gigabytes();
        let floor = |turn: &Turn| turn.floor.cpu_seconds() / (turn.floor.bytes as f64 / 1e9);
        let figures = [
            self.spread(|turn| turn.mirror.cpu_seconds() / gigabytes),
            self.spread(|turn| turn.mirror.user_seconds / gigabytes),
            self.spread(|turn| turn.mirror.system_seconds / gigabytes),
            self.spread(|turn| self.flow(turn)),
            self.spread(floor),
        ];
        let ratios = [
            self.spread(|turn| turn.mirror.cpu_seconds() / gigabytes / floor(turn)),
            self.spread(|turn| self.flow(turn) / floor(turn)),
        ];
        let mut cells = self.name();
        cells.extend(figures.iter().map(|figure| format!("{figure:.3}")));
        cells.extend(ratios.iter().map(|ratio| format!("{ratio:.2}")));
        cells.push(format!("{:.2}", self.spread(|turn| turn.start_cpu_seconds)));
        cells
    }
}

fn tell(bench: &mut Bench<'_>, measured: &[Measured]) {
    let repeats = measured.iter().map(|one| one.runs.len()).max().unwrap_or(0);
    bench.report.line(&format!(
        "\n## Catch-up\n\n{:.1} GB per run, up to {repeats} runs, median (least..most). Stream: while records flow. \
         Whole: start, discovery, flush and end included. Flow: CPU time after the first record. The last copy of each row was verified.",
        bench.arguments.run_bytes() as f64 / 1e9
    ));
    let mut rates = Table::new(&[
        "record",
        "partitions",
        "batch",
        "stream MB/s",
        "whole MB/s",
        "floor stream MB/s",
        "floor whole MB/s",
        "peak MiB",
    ]);
    let mut processor_time = Table::new(&[
        "record",
        "partitions",
        "batch",
        "CPU-s/GB",
        "user",
        "system",
        "flow",
        "floor",
        "ratio",
        "flow ratio",
        "start CPU-s",
    ]);
    for one in measured {
        rates.row(one.rates());
        processor_time.row(one.processor_time());
    }
    bench.report.table(&rates);
    bench.report.table(&processor_time);
}
