//! A realm of Kerberos on this machine, for as long as a test needs it.
//!
//! Owns a directory with its configuration, its database and its keytabs, and the KDC as a process. No file of the
//! system is read or written: programs find the realm by `KRB5_CONFIG` and `KRB5_KDC_PROFILE` alone.

use super::artifacts;
use super::ports::{self, Port};
use super::watchdog::Watchdog;
use crate::poll;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const REALM: &str = "TWINLOG.TEST";
const MASTER_PASSWORD: &str = "of-the-database";
/// What the KDC writes into its log when it serves.
const READY: &str = "commencing operation";

/// See the file's header.
pub struct Realm {
    directory: PathBuf,
    port: Port,
    kdc: Option<Child>,
    /// Last: it removes the directory.
    watchdog: Watchdog,
}

impl Realm {
    /// A realm without principals, and its KDC.
    pub fn start() -> Self {
        if program("kadmin.local").is_none() || program("krb5kdc").is_none() {
            artifacts::install("a KDC of Kerberos (krb5-kdc comes with it)", &["krb5-admin-server"]);
        }
        let directory =
            tempfile::Builder::new().prefix("twinlog-realm-").tempdir().expect("a directory").keep();
        let watchdog = Watchdog::over(&directory);
        let mut realm = Self { directory, port: ports::take(), kdc: None, watchdog };
        realm.configure();
        realm.run("kdb5_util", &["create", "-s", "-r", REALM, "-P", MASTER_PASSWORD]);
        realm.start_kdc();
        realm
    }

    /// The `krb5.conf` of whoever takes part.
    pub fn configuration(&self) -> PathBuf {
        self.path("krb5.conf")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Adds a principal with a random key; `attributes` as the administrator's program takes them.
    pub fn add(&self, principal: &str, attributes: &str) {
        self.administer(&format!("addprinc -randkey {attributes} {principal}"));
    }

    pub fn remove(&self, principal: &str) {
        self.administer(&format!("delprinc -force {principal}"));
    }

    /// A keytab with a new key of the principal, which ends the one before.
    pub fn export(&self, principal: &str, file: &str) -> PathBuf {
        let path = self.path(file);
        self.administer(&format!("ktadd -k {} {principal}", path.display()));
        path
    }

    /// Logs a user in: its ticket lies in the file that is returned.
    pub fn log_in(&self, principal: &str, keytab: &Path) -> PathBuf {
        let cache = self.path("user.cache");
        let (keytab, name) = (keytab.display().to_string(), cache.display().to_string());
        self.run("kinit", &["-c", &name, "-k", "-t", &keytab, principal]);
        cache
    }

    pub fn start_kdc(&mut self) {
        assert!(self.kdc.is_none(), "the KDC is running already");
        let served = self.printed().matches(READY).count();
        let child =
            self.command("krb5kdc").args(["-n", "-r", REALM]).spawn().expect("the KDC can be started");
        self.watchdog.watch(child.id());
        self.kdc = Some(child);
        poll::poll_until("the KDC serves", || {
            let ended = self.kdc.as_mut().and_then(|kdc| kdc.try_wait().expect("a child can be asked"));
            assert!(ended.is_none(), "the KDC ended with {ended:?}:\n{}", self.printed());
            self.printed().matches(READY).count() > served
        });
    }

    pub fn kill_kdc(&mut self) {
        let Some(mut kdc) = self.kdc.take() else { return };
        kdc.kill().expect("a child can be killed");
        kdc.wait().expect("a child can be waited for");
        self.watchdog.forget(kdc.id());
    }

    /// What the KDC was asked and what it answered, a line each.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.path("kdc.log")).unwrap_or_default()
    }

    fn administer(&self, request: &str) {
        self.run("kadmin.local", &["-r", REALM, "-q", request]);
    }

    fn run(&self, name: &str, arguments: &[&str]) {
        let output = self.command(name).args(arguments).output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The administrator's program ends well whatever became of the request.
        let failed = !output.status.success() || said.contains("while");
        assert!(!failed, "{name} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name).unwrap_or_else(|| panic!("{name} is not installed")));
        command.env("KRB5_CONFIG", self.configuration()).env("KRB5_KDC_PROFILE", self.path("kdc.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn configure(&self) {
        let (folder, port) = (self.directory.display(), self.port.number);
        let client = format!(
            "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
             dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n\
             [realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
        );
        let server = format!(
            "[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n\
             [realms]\n {REALM} = {{\n  database_name = {folder}/principal\n  key_stash_file = {folder}/stash\n  \
             acl_file = {folder}/acl\n  max_life = 1h\n  default_principal_flags = +preauth\n }}\n\
             [logging]\n kdc = FILE:{folder}/kdc.log\n admin_server = FILE:{folder}/admin.log\n \
             default = FILE:{folder}/default.log\n"
        );
        fs::write(self.configuration(), client).expect("the directory can be written");
        fs::write(self.path("kdc.conf"), server).expect("the directory can be written");
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        self.kill_kdc();
    }
}

/// Programs of administrators are not on everybody's path.
fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    artifacts::on_path(name).or_else(|| folders.into_iter().find(|path| path.is_file()))
}
