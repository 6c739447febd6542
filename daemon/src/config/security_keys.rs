//! The keys of security, which stand in three places: at the source, at the destination, at its controllers.
//!
//! Owns their one list, and how the controllers' are completed by the destination's: the CONTROLLER listener
//! of a cluster is often secured otherwise than the one of its clients.

use super::file::RawValues;
use super::key::{Key, Kind, Scope};
use super::value::RawValue;

/// Text that is long enough for a chain of certificates.
const PEM_BYTES_MAX: usize = 256 << 10;
const TEXT: Kind = Kind::Text { bytes_max: 1_024 };
const SECRET: Kind = Kind::Secret { bytes_max: 64 << 10 };
const PEM: Kind = Kind::Text { bytes_max: PEM_BYTES_MAX };
const STORE_TYPE: Kind = Kind::Choice(&["", "PEM", "PKCS12", "JKS"]);
const PROTOCOLS: &[&str] = &["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
/// The empty one is the destination's.
const PROTOCOLS_OF_CONTROLLERS: &[&str] = &["", "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
/// Refused with what to do instead where the program is built without it.
pub(super) const KERBEROS: &str = "GSSAPI";
const MECHANISMS: &[&str] =
    &["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM", KERBEROS];

/// Places in which each of them may stand.
pub(super) const SCOPES: [Scope; 3] = [Scope::Source, Scope::Destination, Scope::Controllers];
pub(super) const COUNT: usize = LIST.len();

type Row = (&'static str, Kind, &'static str, &'static str);

const LIST: [Row; 28] = [
    (
        "security.protocol",
        Kind::Choice(PROTOCOLS),
        "PLAINTEXT",
        "How connections are made; controllers: empty for what the destination says here and below.",
    ),
    ("ssl.truststore.type", STORE_TYPE, "", "What the truststore is; empty = its first bytes tell."),
    (
        "ssl.truststore.location",
        Kind::File,
        "",
        "File with the authorities that sign the cluster's certificates; without one this host's count.",
    ),
    ("ssl.truststore.password", SECRET, "", "Opens a PKCS12 truststore."),
    ("ssl.truststore.certificates", PEM, "", "The same authorities as PEM text instead of a file."),
    ("ssl.keystore.type", STORE_TYPE, "", "What the keystore is; empty = its first bytes tell."),
    (
        "ssl.keystore.location",
        Kind::File,
        "",
        "File with our certificate, its chain and its key: PEM or PKCS12, read again when it changes.",
    ),
    ("ssl.keystore.password", SECRET, "", "Opens a PKCS12 keystore."),
    ("ssl.keystore.key", SECRET, "", "Our private key as PEM text instead of a file."),
    ("ssl.keystore.certificate.chain", PEM, "", "Our certificate and its chain as PEM text."),
    ("ssl.key.password", SECRET, "", "Opens an encrypted private key in PEM."),
    (
        "ssl.endpoint.identification.algorithm",
        Kind::Choice(&["https", ""]),
        "https",
        "https = a certificate must be for the host we connect to; empty believes it for any host.",
    ),
    ("ssl.enabled.protocols", Kind::TlsVersions, "TLSv1.2,TLSv1.3", "Versions of TLS that are spoken."),
    (
        "sasl.mechanism",
        Kind::Choice(MECHANISMS),
        "",
        "How we log in; SASL protocols need it. GSSAPI (Kerberos) needs a program that is built with it.",
    ),
    ("sasl.jaas.config", SECRET, "", "Login module and its options, as in client files of Kafka."),
    ("sasl.username", TEXT, "", "User of PLAIN and SCRAM, where there is no sasl.jaas.config."),
    (
        "sasl.password",
        SECRET,
        "",
        "Its password: itself, ${env:NAME}, ${directory:DIR:FILE}, ${credential:NAME}.",
    ),
    (
        "sasl.delegation.token",
        Kind::Choice(&["false", "true"]),
        "false",
        "true = sasl.username and sasl.password are id and HMAC of a delegation token; SCRAM only.",
    ),
    (
        "sasl.oauthbearer.token.endpoint.url",
        TEXT,
        "",
        "Where bearer tokens come from: https://HOST/PATH, or file:///PATH that somebody else renews.",
    ),
    ("sasl.oauthbearer.client.credentials.client.id", TEXT, "", "Client at the token endpoint."),
    ("sasl.oauthbearer.client.credentials.client.secret", SECRET, "", "Its secret."),
    ("sasl.oauthbearer.scope", TEXT, "", "Scope that is asked for at the token endpoint."),
    (
        "sasl.login.refresh.window.percent",
        Kind::Number { min: 50, max: 95 },
        "80",
        "Part of the life of a token or a ticket after which the next one is fetched.",
    ),
    (
        "sasl.aws.credentials.file",
        Kind::File,
        "",
        "Shared credentials file of AWS_MSK_IAM; empty = the environment, then ~/.aws/credentials.",
    ),
    (
        "sasl.kerberos.service.name",
        TEXT,
        "kafka",
        "What brokers call themselves in front of their host's name.",
    ),
    (
        "sasl.kerberos.keytab",
        Kind::File,
        "",
        "File with the key of sasl.kerberos.principal, where there is no sasl.jaas.config.",
    ),
    ("sasl.kerberos.principal", TEXT, "", "As whom we log in by Kerberos: NAME@REALM."),
    ("sasl.aws.region", TEXT, "", "AWS region of AWS_MSK_IAM, where the brokers' names do not tell it."),
];

/// The keys of one place.
pub(super) const fn of(scope: Scope) -> [Key; COUNT] {
    let mut keys =
        [Key { name: "", scope, kind: SECRET, default: "", reloadable: false, required: false, help: "" };
            COUNT];
    let mut index = 0;
    while index < COUNT {
        let (name, mut kind, mut default, help) = LIST[index];
        if index == 0 && matches!(scope, Scope::Controllers) {
            (kind, default) = (Kind::Choice(PROTOCOLS_OF_CONTROLLERS), "");
        }
        keys[index] = Key { name, scope, kind, default, reloadable: false, required: false, help };
        index += 1;
    }
    keys
}

/// Whether a key is one of these.
pub(super) fn is_security(name: &str) -> bool {
    LIST.iter().any(|row| row.0 == name)
}

/// Keys that only mean something together: whoever gives one of them gives all.
fn group(name: &str) -> &str {
    const GROUPS: [&str; 3] = ["sasl.", "ssl.truststore.", "ssl.key"];
    GROUPS.into_iter().find(|group| name.starts_with(group)).unwrap_or(name)
}

/// The controllers' values, and the destination's where they say nothing.
pub(super) fn completed(controllers: &RawValues, destination: &RawValues) -> RawValues {
    // An empty text says nothing, but for the one key whose emptiness has a meaning.
    let says =
        |name: &str, value: &RawValue| name == "ssl.endpoint.identification.algorithm" || !value.is_empty();
    let mut all = controllers.clone();
    all.retain(|name, value| says(name, value));
    let own: Vec<&str> = all.keys().map(|name| group(name)).collect();
    let inherited: Vec<_> = destination
        .iter()
        .filter(|(name, _)| is_security(name) && !own.contains(&group(name)))
        .map(|(name, value)| (*name, value.clone()))
        .collect();
    all.extend(inherited);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(given: &[(&'static str, &str)]) -> RawValues {
        given.iter().map(|(name, value)| (*name, RawValue::Text((*value).to_owned()))).collect()
    }

    #[test]
    fn controllers_say_only_what_differs_and_a_login_is_never_mixed() {
        let destination = values(&[
            ("mode", "guest"),
            ("security.protocol", "SASL_SSL"),
            ("ssl.truststore.location", "/ca.pem"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.jaas.config", "x"),
        ]);
        assert_eq!(completed(&values(&[]), &destination).len(), 4, "all but the mode");
        let own =
            values(&[("sasl.mechanism", "PLAIN"), ("sasl.username", "u"), ("ssl.truststore.location", "")]);
        let all = completed(&own, &destination);
        assert!(!all.contains_key("sasl.jaas.config"));
        assert_eq!(all["ssl.truststore.location"], RawValue::Text("/ca.pem".into()));
        assert_eq!(all["security.protocol"], RawValue::Text("SASL_SSL".into()));
    }
}
