//! What a secured broker needs: an authority, certificates, listeners, users.
//!
//! Owns the files below the cluster's directory and the one password of its users. A secured cluster is one
//! broker with a listener for each way to connect; its PLAINTEXT one stays, for the scenario's client.

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
/// Sessions by PLAIN on SASL_PLAINTEXT end after so long unless they are renewed.
pub const SESSION_MS: u32 = 2_000;
/// The only name that certificates of a cluster are for.
const HOST: &str = "127.0.0.1";

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

/// The listeners of a secured broker.
#[derive(Debug)]
pub struct Secured {
    pub authority: Authority,
    ports: Vec<(&'static str, Port)>,
}

impl Secured {
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

    /// Users by SCRAM exist before the first start.
    pub fn format_arguments() -> Vec<String> {
        let user = |mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]");
        ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .into_iter()
            .flat_map(|mechanism| ["--add-scram".to_owned(), user(mechanism)])
            .collect()
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
        let renewed = "listener.name.sasl_plaintext.plain.connections.max.reauth.ms";
        line(renewed, &SESSION_MS.to_string());
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
