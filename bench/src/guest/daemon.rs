//! The product in guest mode as a process of its own: its configuration, its log with the time of every line.
//!
//! Owns a data directory and the port that followers reach. The program is this very one, which plays the product
//! when its first word is one of the product's. Invariant: no daemon outlives its value.

use crate::children::Cores;
use crate::error::BenchError;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::ports::{self, Port};

/// Words with which this program is the product.
pub const PRODUCT_WORDS: [&str; 5] = ["run", "mirror", "status", "guest", "link"];
/// The listener by which brokers of the bench's clusters reach each other.
pub const LISTENER: &str = "INTERNAL";
/// Anything that is waited for takes less, or hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the log; its lines carry their own times.
const LOOK: Duration = Duration::from_millis(2);

/// What a link is between.
pub struct Ends<'a> {
    pub source: &'a str,
    pub destination: &'a str,
    pub controllers: &'a str,
    /// The id that leads; the one after it is kept back.
    pub guest: i32,
    pub topics: &'a str,
    pub replicas: usize,
}

/// A configuration and its directory.
pub struct Link {
    configuration: PathBuf,
    cores: Option<Cores>,
    port: Port,
}

impl Link {
    /// Below `directory`, which must not exist. `cores`: who shares them with nobody is pinned.
    pub fn create(directory: &Path, ends: &Ends<'_>, cores: Option<Cores>) -> Result<Link, BenchError> {
        let failed = |error| BenchError::File { action: "making", path: directory.to_path_buf(), error };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let port = ports::take();
        let Ends { source, destination, controllers, guest, topics, replicas } = ends;
        let text = format!(
            "data.dir = {:?}\n[link.dr]\ntopics = [{topics:?}]\n[link.dr.source]\nbootstrap.servers = {source:?}\n\
             metadata.max.age.ms = 1000\n[link.dr.destination]\nmode = \"guest\"\n\
             bootstrap.servers = {destination:?}\nbootstrap.controllers = {controllers:?}\n\
             inter.broker.listener.name = \"{LISTENER}\"\nguest.broker.ids = \"{guest}-{}\"\n\
             guest.listener = \"{}\"\nmirror.replication.factor = {replicas}\n",
            directory.join("data").display().to_string(),
            guest + 1,
            address(&port),
        );
        let configuration = directory.join("twinlog.toml");
        std::fs::write(&configuration, text).map_err(failed)?;
        Ok(Link { configuration, cores, port })
    }

    /// Where followers reach it.
    pub fn listener(&self) -> String {
        address(&self.port)
    }

    pub fn start(&self) -> Result<Daemon, BenchError> {
        let started = Instant::now();
        let mut child = self.run_command()?.spawn().map_err(failed)?;
        let lines = Arc::<Mutex<Vec<(Instant, String)>>>::default();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("its output is a pipe")),
            Box::new(child.stderr.take().expect("its errors are a pipe")),
        ];
        for stream in streams {
            let lines = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    lines.lock().expect("nobody panics with it").push((Instant::now(), line));
                }
            });
        }
        Ok(Daemon { child, started, lines })
    }

    /// The daemon's command line; its output is a pipe.
    pub fn run_command(&self) -> Result<Command, BenchError> {
        let mut words = vec!["run".to_owned()];
        if let Some(cores) = self.cores {
            let (data, control) = (cores.data.to_string(), cores.control.to_string());
            words.extend(["--data-cores".to_owned(), data, "--control-core".to_owned(), control]);
        }
        self.command(&words)
    }

    fn command(&self, words: &[String]) -> Result<Command, BenchError> {
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(words).arg("--config").arg(&self.configuration);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Another command of the product beside the daemon, to its end; what it printed.
    pub fn ask(&self, words: &[&str]) -> Result<String, BenchError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let output = self.command(&words)?.output().map_err(failed)?;
        if !output.status.success() {
            let all = [output.stdout, output.stderr].concat();
            let words = String::from_utf8_lossy(&all).into_owned();
            return Err(BenchError::RoleFailed { role: "product", status: output.status, words });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn failed(error: std::io::Error) -> BenchError {
    BenchError::Role { role: "product", error }
}

fn address(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number)
}

/// The product while it runs. Dropping it kills it.
pub struct Daemon {
    child: Child,
    pub started: Instant,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Daemon {
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// When it first said something with this in it, as far as it has.
    pub fn said(&self, text: &str) -> Option<Instant> {
        let lines = self.lines.lock().expect("nobody panics with it");
        lines.iter().find(|(_, line)| line.contains(text)).map(|(at, _)| *at)
    }

    /// Waits until it says something.
    pub fn wait_for(&mut self, text: &str) -> Result<Instant, BenchError> {
        let began = Instant::now();
        loop {
            if let Some(at) = self.said(text) {
                return Ok(at);
            }
            let ended = self.child.try_wait().map_err(failed)?;
            if let Some(status) = ended {
                return Err(BenchError::RoleFailed { role: "product", status, words: self.last_words() });
            }
            if began.elapsed() > PATIENCE {
                eprintln!("{}", self.last_words());
                return Err(BenchError::Slow { what: "a line of the daemon's log", limit: PATIENCE });
            }
            thread::sleep(LOOK);
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let lines = self.lines.lock().expect("nobody panics with it");
        let shown = lines.len().saturating_sub(20);
        lines[shown..].iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
