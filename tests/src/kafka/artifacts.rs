//! Java, Maven and the jars of Kafka: found, or fetched once and kept outside the source tree.
//!
//! Owns the cache directories `<cache>/twinlog-tests/kafka-<version>/`, and `connect-<version>/` for MirrorMaker 2:
//!
//! ```text
//!   lock       held by the one process that is setting things up
//!   pom.xml    what Maven resolves
//!   libs/      every jar; appears by rename, so that it is complete when it exists
//! ```
//!
//! It never skips: what can neither be found nor installed fails with the sentence that says what to
//! install. It never writes into the source tree.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The broker that everything here is proven against.
pub const KAFKA_VERSION: &str = "4.3.1";

/// Oldest Java that Kafka 4 brokers run on. ref: KIP-1013
const JAVA_MAJOR_MIN: u32 = 17;

/// Maven is asked this often: a registry that stumbles once must not fail a whole run.
const RESOLVE_ATTEMPTS: u32 = 3;

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>twinlog</groupId><artifactId>kafka-under-test</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>KAFKA</version></dependency>
TOOLS    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;

/// Of the newest version only: tools of other versions are never run.
const TOOLS: &str = "    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>\
                     <version>KAFKA</version></dependency>\n";

/// What MirrorMaker 2 is run from, by the benches alone.
const CONNECT_POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>twinlog</groupId><artifactId>connect-beside</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-mirror</artifactId><version>KAFKA</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>KAFKA</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;

/// Where Java and Kafka's jars are on this machine.
#[derive(Debug)]
pub struct Artifacts {
    java: PathBuf,
    libraries: PathBuf,
}

/// The artifacts of [`KAFKA_VERSION`], set up by the first caller of the process.
pub fn kafka() -> &'static Artifacts {
    kafka_of(KAFKA_VERSION)
}

/// The artifacts of one version, for brokers that are older than our tools.
pub fn kafka_of(version: &str) -> &'static Artifacts {
    let tools = if version == KAFKA_VERSION { TOOLS } else { "" };
    known_of(&format!("kafka-{version}"), &POM.replace("TOOLS", tools).replace("KAFKA", version))
}

/// What MirrorMaker 2 of [`KAFKA_VERSION`] needs.
pub fn mirror_maker() -> &'static Artifacts {
    known_of(&format!("connect-{KAFKA_VERSION}"), &CONNECT_POM.replace("KAFKA", KAFKA_VERSION))
}

fn known_of(name: &str, pom: &str) -> &'static Artifacts {
    static KNOWN: Mutex<BTreeMap<String, &'static Artifacts>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("setting up panics at most once");
    known.entry(name.to_owned()).or_insert_with(|| {
        // A handful of paths, once for each name of a process that ends with its tests.
        Box::leak(Box::new(Artifacts::set_up(name, pom)))
    })
}

/// Says what is being set up, past the capture of the test runner: a first run takes a while and a
/// silent one looks hung.
pub fn say(sentence: &str) {
    // Nobody reading standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "twinlog-tests: {sentence}");
}

impl Artifacts {
    fn set_up(name: &str, pom: &str) -> Self {
        let cache = &cache_directory(name);
        fs::create_dir_all(cache)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", cache.display()));
        let lock = File::create(cache.join("lock")).expect("the lock file of the cache can be created");
        // Several test binaries may start at once; all but one wait here and then find the work done.
        lock.lock().expect("the lock of the cache can be taken");
        let java = find_java().unwrap_or_else(|| {
            install(
                &format!("a Java {JAVA_MAJOR_MIN} development kit, or a newer one in JAVA_HOME,"),
                &["openjdk-17-jdk-headless", "default-jdk-headless"],
            );
            find_java().expect("the Java that was just installed is 17 or newer and found on PATH")
        });
        let libraries = cache.join("libs");
        if !libraries.exists() {
            resolve(name, pom, cache, &libraries);
        }
        Self { java, libraries }
    }

    /// A JVM with Kafka on its class path and a small heap, for a tool that ends by itself.
    ///
    /// The first compiler tier only: these JVMs live for seconds, and the second would spend more
    /// time compiling than it saves.
    pub fn java(&self, heap_megabytes: u32) -> Command {
        let mut command = Command::new(&self.java);
        command.arg(format!("-Xmx{heap_megabytes}m")).args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg("-cp").arg(self.libraries.join("*"));
        command
    }

    /// A JVM as operators run it, with all compilers and the collector that it chooses: for what is measured. It may
    /// be killed, see [`Artifacts::java_in`].
    pub fn java_at_full_speed(&self, scratch: &Path, heap_megabytes: u32) -> Command {
        let mut command = Command::new(&self.java);
        command.arg(format!("-Xmx{heap_megabytes}m")).arg(format!("-Djava.io.tmpdir={}", scratch.display()));
        command.arg("-cp").arg(self.libraries.join("*"));
        command
    }

    /// The first line of what Java says of itself.
    pub fn java_version(&self) -> String {
        let output = Command::new(&self.java).arg("-version").output().expect("Java can be started");
        String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned()
    }

    /// [`Artifacts::java`] for a process that may be killed: the codec libraries that it unpacks stay
    /// behind, so `scratch` must be a directory that goes with the test.
    pub fn java_in(&self, scratch: &Path, heap_megabytes: u32) -> Command {
        let mut command = self.java(heap_megabytes);
        command.arg(format!("-Djava.io.tmpdir={}", scratch.display()));
        command
    }
}

fn cache_directory(name: &str) -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(env::temp_dir);
    base.join("twinlog-tests").join(name)
}

fn find_java() -> Option<PathBuf> {
    let of_home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    of_home.into_iter().chain(on_path("java")).find(|java| is_development_kit(java))
}

/// New enough, and with the compiler inside: the scenarios are started from their source.
fn is_development_kit(java: &Path) -> bool {
    let Ok(version) = Command::new(java).arg("-version").stdin(Stdio::null()).output() else { return false };
    let major = java_major(&String::from_utf8_lossy(&version.stderr));
    let modules = Command::new(java).arg("--list-modules").stdin(Stdio::null()).output();
    let compiler =
        modules.is_ok_and(|modules| String::from_utf8_lossy(&modules.stdout).contains("jdk.compiler"));
    major.is_some_and(|major| major >= JAVA_MAJOR_MIN) && compiler
}

/// The major version in what `java -version` prints: `openjdk version "17.0.15" 2025-04-15`.
fn java_major(printed: &str) -> Option<u32> {
    let version = printed.split('"').nth(1)?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Installs the first of `packages` that the system's package manager has, or fails with what to do.
pub(crate) fn install(what: &str, packages: &[&str]) {
    let first = packages[0];
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    assert!(
        is_root && on_path("apt-get").is_some(),
        "these tests need {what}: install {first} with the system's package manager, and run them again"
    );
    say(&format!("installing {what} with apt-get"));
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    // A stale package list is not fatal by itself: the install below tells whether it matters.
    apt_get(&["update"]);
    let installed = packages.iter().any(|package| apt_get(&["install", "-y", package]));
    assert!(
        installed,
        "apt-get could not install {what} (tried {packages:?}): install it by hand and run again"
    );
}

fn resolve(name: &str, text: &str, cache: &Path, libraries: &Path) {
    let maven = on_path("mvn").unwrap_or_else(|| {
        install("Maven 3.6 or newer", &["maven"]);
        on_path("mvn").expect("the Maven that was just installed is found on PATH")
    });
    say(&format!("resolving {name} into {} (about 55 MB, once)", cache.display()));
    let pom = cache.join("pom.xml");
    fs::write(&pom, text).expect("the POM can be written into the cache");
    let partial = cache.join("libs.partial");
    let mut printed = String::new();
    for _ in 0..RESOLVE_ATTEMPTS {
        // What an interrupted attempt left may be half a jar.
        let _ = fs::remove_dir_all(&partial);
        let mut command = Command::new(&maven);
        command.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        command.arg(format!("-DoutputDirectory={}", partial.display())).stdin(Stdio::null());
        let output = command.output().expect("Maven can be started");
        if output.status.success() {
            fs::rename(&partial, libraries).expect("the resolved jars can be renamed into place");
            return;
        }
        printed = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    panic!("Maven could not resolve {name} in {RESOLVE_ATTEMPTS} attempts; it printed:\n{printed}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_old_and_new_are_read() {
        assert_eq!(java_major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(java_major("java version \"21\" 2023-09-19 LTS"), Some(21));
        assert_eq!(java_major("openjdk version \"1.8.0_392\""), Some(1));
        assert_eq!(java_major("no such thing"), None);
    }

    #[test]
    fn the_cache_lies_outside_the_source_tree() {
        assert!(!cache_directory("kafka").starts_with(env!("CARGO_MANIFEST_DIR")));
    }
}
