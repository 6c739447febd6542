//! What secured brokers need: an authority, certificates, listeners, users.
//!
//! Owns the files below the cluster's directory and the one password of its users. A secured cluster is one
//! broker with a listener for each way to connect; its PLAINTEXT one stays, for the scenario's client.

use super::cluster::ClusterOptions;
use super::ports::{self, Port};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may log in, by PLAIN and both kinds of SCRAM.
pub const USER: &str = "twin";
/// Its password: whatever a program prints must not hold it.
pub const PASSWORD: &str = "hunter2-of-this-test";
/// Sessions by PLAIN and SCRAM-SHA-256 on SASL_PLAINTEXT end after so long unless they are renewed.
pub const SESSION_MS: u32 = 2_000;
/// The only name that certificates of a cluster are for.
pub const HOST: &str = "127.0.0.1";

/// Name, protocol.
const LISTENERS: [(&str, &str); 5] = [
    ("SSL", "SSL"),
    ("MTLS", "SSL"),
    ("EXPIRED", "SSL"),
    ("SASL_PLAINTEXT", "SASL_PLAINTEXT"),
    ("SASL_SSL", "SASL_SSL"),
];

/// Signs certificates of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    /// A new one, whose files lie in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        fs::create_dir_all(directory).expect("its directory can be made");
        let authority = Self { issuer, directory: directory.to_owned() };
        fs::write(authority.certificate(), authority.issuer.pem()).expect("it can be written");
        authority
    }

    /// The file that others trust.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// Key and certificate for a name in one PEM file, good now or in the past.
    pub fn sign(&self, file: &str, name: &str, is_expired: bool) -> PathBuf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        let path = self.directory.join(file);
        let text = format!("{}{}", key.serialize_pem(), certificate.pem());
        // Replaced at once, as those do who renew certificates.
        let new = self.directory.join(format!("{file}.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("it can be written");
        path
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.directory.display())
    }
}

/// What has to be said when a data directory is formatted so that users by SCRAM exist before the first start.
pub(super) fn format_arguments(users: &[(&str, &str)]) -> Vec<String> {
    let both = |(name, password): &(&str, &str)| {
        ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| {
            ["--add-scram".to_owned(), format!("{mechanism}=[name={name},password={password}]")]
        })
    };
    users.iter().flat_map(both).flatten().collect()
}

/// A destination whose every listener speaks SASL_SSL: clients' and brokers' with SCRAM-SHA-512, controllers' with
/// PLAIN. Its users are [`USER`] and `broker`, with one password; sessions end after `session_ms`.
pub fn sasl_ssl_everywhere(
    options: ClusterOptions,
    authority: &Authority,
    session_ms: u32,
) -> ClusterOptions {
    let module = "org.apache.kafka.common.security";
    let scram = |user: &str| {
        format!("{module}.scram.ScramLoginModule required username=\"{user}\" password=\"{PASSWORD}\";")
    };
    let plain = format!(
        "{module}.plain.PlainLoginModule required username=\"broker\" password=\"{PASSWORD}\" \
         user_broker=\"{PASSWORD}\" user_{USER}=\"{PASSWORD}\";"
    );
    let keys = authority.sign("broker.pem", HOST, false).display().to_string();
    let trusted = authority.certificate().display().to_string();
    let client = format!(
        "security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location={trusted}\n\
         sasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={}\n",
        scram(USER)
    );
    let session = session_ms.to_string();
    let lines = [
        ("listener.security.protocol.map", "CONTROLLER:SASL_SSL,INTERNAL:SASL_SSL,EXTERNAL:SASL_SSL"),
        ("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512"),
        ("sasl.mechanism.controller.protocol", "PLAIN"),
        ("listener.name.internal.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.internal.scram-sha-512.sasl.jaas.config", &scram("broker")),
        ("listener.name.external.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.external.scram-sha-512.sasl.jaas.config", &scram("broker")),
        ("listener.name.controller.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.controller.plain.sasl.jaas.config", &plain),
        ("connections.max.reauth.ms", &session),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", &keys),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", &trusted),
    ];
    let users = vec![(USER, PASSWORD), ("broker", PASSWORD)];
    let options = ClusterOptions { users, client, ..options };
    lines.into_iter().fold(options, |options, (name, value)| options.with_override(name, value))
}

/// The listeners of a secured broker.
#[derive(Debug)]
pub struct Secured {
    pub authority: Authority,
    ports: Vec<(&'static str, Port)>,
}

impl Secured {
    /// Who may log in by SCRAM.
    pub const USERS: [(&str, &str); 1] = [(USER, PASSWORD)];

    pub fn new(cluster: &Path) -> Self {
        let authority = Authority::new(&cluster.join("security"), "of the cluster");
        authority.sign("broker.pem", HOST, false);
        authority.sign("expired.pem", HOST, true);
        let ports = LISTENERS.iter().map(|(name, _)| (*name, ports::take())).collect();
        Self { authority, ports }
    }

    /// `host:port` of one listener.
    pub fn address(&self, listener: &str) -> String {
        let found = self.ports.iter().find(|(name, _)| *name == listener);
        format!("{HOST}:{}", found.expect("a listener of a secured broker").1.number)
    }

    /// To be added to the broker's own listeners.
    pub fn listeners(&self) -> String {
        let mut text = String::new();
        for (name, port) in &self.ports {
            write!(text, ",{name}://{HOST}:{}", port.number).expect("a string takes everything");
        }
        text
    }

    /// Lines of the broker's properties.
    pub fn properties(&self) -> String {
        let file = |name: &str| self.authority.directory.join(name).display().to_string();
        let mut text = String::from(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT,SSL:SSL,MTLS:SSL,\
             EXPIRED:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
             sasl.mechanism.controller.protocol=PLAIN\n\
             ssl.keystore.type=PEM\nssl.truststore.type=PEM\n",
        );
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name}={value}").expect("a string takes everything");
        };
        line("ssl.keystore.location", &file("broker.pem"));
        line("ssl.truststore.location", &file("authority.pem"));
        line("listener.name.expired.ssl.keystore.location", &file("expired.pem"));
        line("listener.name.expired.ssl.keystore.type", "PEM");
        line("listener.name.mtls.ssl.client.auth", "required");
        for mechanism in ["plain", "scram-sha-256"] {
            let renewed = format!("listener.name.sasl_plaintext.{mechanism}.connections.max.reauth.ms");
            line(&renewed, &SESSION_MS.to_string());
        }
        line("delegation.token.secret.key", "of-the-tokens-of-this-test");
        let module = "org.apache.kafka.common.security";
        let plain = format!("{module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\"");
        let as_itself = format!("{plain} username=\"{USER}\" password=\"{PASSWORD}\";");
        // Each mechanism that a listener offers must be described for it.
        line("listener.name.controller.sasl.enabled.mechanisms", "PLAIN");
        line("listener.name.controller.plain.sasl.jaas.config", &as_itself);
        for listener in ["sasl_plaintext", "sasl_ssl"] {
            let key = |mechanism: &str| format!("listener.name.{listener}.{mechanism}.sasl.jaas.config");
            line(&key("plain"), &format!("{plain};"));
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                line(&key(mechanism), &format!("{module}.scram.ScramLoginModule required;"));
            }
            // Kafka's validator of unsigned tokens, which is the one it has without further settings.
            let oauth = format!(
                "{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
            );
            line(&key("oauthbearer"), &oauth);
        }
        text
    }
}
