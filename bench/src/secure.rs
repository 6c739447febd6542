//! What TLS costs: the same bytes over plaintext and over TLS 1.3, in turns.
//!
//! ```text
//!   two sources, one of them with TLS ─▶ (mirror over plaintext, mirror over TLS) x repeats ─▶ proof of the last
//! ```
//! The source encrypts on its own core and in its own process: the figures are the mirror's alone.

use crate::Bench;
use crate::catch_up::{AIM_PARTITIONS, size};
use crate::children::{self, Beside, Role};
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::mirror::{self, MirrorRun, Origin};
use crate::proof;
use crate::spread::Spread;
use crate::table::Table;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIB: usize = 1 << 10;
/// Record bytes, partitions, batch bytes.
const COMBINATIONS: [(usize, u32, usize); 3] =
    [(KIB, AIM_PARTITIONS, KIB * KIB), (KIB, 40, 64 * KIB), (16 * KIB, AIM_PARTITIONS, KIB * KIB)];
/// A plaintext run and a run over TLS, at least so often: their ratio is what is asked for.
const REPEATS: u64 = 3;

/// A run and what it had used when the first record came.
struct Run {
    mirror: MirrorRun,
    start_cpu_seconds: f64,
}

struct Measured {
    load: Load,
    /// Plaintext, TLS.
    turns: Vec<(Run, Run)>,
}

/// A source with its way in.
struct Source {
    process: Beside,
    bootstrap: String,
}

/// A certificate for this machine alone, written to `file` for whoever is to trust it.
pub fn identity(file: &Path) -> Result<Arc<ServerConfig>, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Certificate { why: error.to_string() };
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let written = std::fs::write(file, certificate.pem());
    written.map_err(|error| BenchError::File { action: "writing", path: file.to_owned(), error })?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        );
    config.map(Arc::new).map_err(|error| failed(&error))
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let mut measured = Vec::new();
    for (index, (record_bytes, partitions, batch_bytes)) in COMBINATIONS.into_iter().enumerate() {
        let name = format!("tls/{}/{partitions}", size(record_bytes));
        let left_out = bench.arguments.quick && index > 0 && !bench.arguments.names(&name);
        if left_out || !bench.arguments.wants(&name) {
            continue;
        }
        eprintln!("measuring {name}");
        let shape = Shape { record_bytes, batch_bytes, partitions, total_bytes: bench.arguments.run_bytes() };
        measured.push(combination(bench, shape)?);
    }
    if !measured.is_empty() {
        tell(bench, &measured);
    }
    Ok(())
}

fn start(bench: &Bench<'_>, shape: Shape, certificate: Option<&Path>) -> Result<Source, BenchError> {
    let mut words = vec![bench.cores.control.to_string(), shape.to_string()];
    words.extend(certificate.map(|file| file.to_string_lossy().into_owned()));
    let mut process = Beside::start(Role::Source, &words)?;
    let hello = process.answer()?;
    let bootstrap = hello.split(' ').next().unwrap_or_default().to_owned();
    Ok(Source { process, bootstrap })
}

/// What `twinlog run` needs to know beside its options.
fn configure(bench: &Bench<'_>, source: &Source, certificate: &Path) -> Result<PathBuf, BenchError> {
    let path = bench.scratch.place("secure.toml", 0)?;
    let text = format!(
        "[link.default]\ntopics = [\"{STREAM}\"]\n[link.default.source]\nbootstrap.servers = [\"{}\"]\n\
         security.protocol = \"SSL\"\nssl.truststore.location = \"{}\"\n",
        source.bootstrap,
        certificate.display()
    );
    let written = std::fs::write(&path, text);
    written.map_err(|error| BenchError::File { action: "writing", path: path.clone(), error })?;
    Ok(path)
}

fn combination(bench: &Bench<'_>, shape: Shape) -> Result<Measured, BenchError> {
    let load = Load::new(shape);
    let certificate = bench.scratch.place("certificate.pem", 0)?;
    let mut plain = start(bench, shape, None)?;
    let mut secure = start(bench, shape, Some(&certificate))?;
    let config = configure(bench, &secure, &certificate)?;
    let copy = bench.scratch.place("copy", load.total_bytes() * 3)?;
    let mut turns = Vec::new();
    let bootstrap = plain.bootstrap.clone();
    for _ in 0..bench.arguments.repeats.unwrap_or(REPEATS) {
        let origin = Origin::Plaintext { bootstrap: &bootstrap, topic: STREAM };
        let first = run(bench, &mut plain, origin, &load, &copy)?;
        let second = run(bench, &mut secure, Origin::Config(&config), &load, &copy)?;
        turns.push((first, second));
    }
    proof::copy_is_right(&copy, &load)?;
    bench.scratch.clear(&copy)?;
    Ok(Measured { load, turns })
}

fn run(
    bench: &Bench<'_>,
    source: &mut Source,
    origin: Origin<'_>,
    load: &Load,
    copy: &Path,
) -> Result<Run, BenchError> {
    bench.scratch.clear(copy)?;
    source.process.ask("stream")?;
    let watch = |id| source.process.ask(&format!("watch {id}")).map(drop);
    let mirror = mirror::run(bench.cores, origin, copy, watch)?;
    let figures = children::numbers(Role::Source, &source.process.ask("stream")?, 3)?;
    let bytes = load.total_bytes();
    if mirror.bytes != bytes {
        let problem = format!("{} bytes instead of {bytes}", mirror.bytes);
        return Err(BenchError::Copy { problem });
    }
    Ok(Run { mirror, start_cpu_seconds: figures[2] })
}

impl Measured {
    fn row(&self) -> Vec<String> {
        let gigabytes = self.load.total_bytes() as f64 / 1e9;
        let whole = |run: &Run| run.mirror.cpu_seconds() / gigabytes;
        let flow = |run: &Run| (run.mirror.cpu_seconds() - run.start_cpu_seconds) / gigabytes;
        let rate = |run: &Run| gigabytes * 1e3 / run.mirror.seconds;
        let spread = |figure: &dyn Fn(&(Run, Run)) -> f64| Spread::of(self.turns.iter().map(figure));
        let shape = self.load.shape;
        let mut cells = vec![size(shape.record_bytes), shape.partitions.to_string(), size(shape.batch_bytes)];
        cells.extend([
            format!("{:.0}", spread(&|turn| rate(&turn.0))),
            format!("{:.0}", spread(&|turn| rate(&turn.1))),
            format!("{:.3}", spread(&|turn| whole(&turn.0))),
            format!("{:.3}", spread(&|turn| whole(&turn.1))),
            format!("{:.2}", spread(&|turn| whole(&turn.1) / whole(&turn.0))),
            format!("{:.2}", spread(&|turn| flow(&turn.1) / flow(&turn.0))),
        ]);
        cells
    }
}

fn tell(bench: &mut Bench<'_>, measured: &[Measured]) {
    bench.report.line(&format!(
        "\n## TLS\n\n{:.1} GB per run over plaintext and over TLS 1.3 in turns, median (least..most). Whole: start, \
         discovery, flush and end included. Flow: CPU time after the first record. The last copy was verified.",
        bench.arguments.run_bytes() as f64 / 1e9
    ));
    let mut table = Table::new(&[
        "record",
        "partitions",
        "batch",
        "plaintext MB/s",
        "TLS MB/s",
        "plaintext CPU-s/GB",
        "TLS CPU-s/GB",
        "ratio",
        "flow ratio",
    ]);
    measured.iter().for_each(|one| table.row(one.row()));
    bench.report.table(&table);
}
