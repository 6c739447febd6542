//! From values of the top level to how operators are served, and which combinations are refused.
//!
//! Invariant: what comes out asks for a login wherever somebody else than a user of this host can connect.

use super::error::ConfigError;
use super::findings::Findings;
use super::security::listener_tls;
use super::settings::Values;
use crate::admin::access::{AdminSettings, ListenerAddress};
use crate::admin::guard::Scheme;
use crate::admin::role::{PrincipalFault, Principals};
use crate::security::{ClientCertificates, TlsSettings, TrustSource};
use std::fmt;
use std::path::PathBuf;

const LISTENERS: &str = "admin.listeners";

/// Why operators cannot be served as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminFault {
    Listener {
        entry: String,
    },
    Twice {
        entry: String,
    },
    /// http where others than users of this host can listen in.
    PlainBeyondLoopback {
        entry: String,
    },
    /// http on loopback without anything to log in by.
    LoopbackWithoutTokens,
    NoKeystore,
    /// https without anything to log in by.
    NoLogin,
    /// Certificates are asked for, and nobody says whose authority is believed.
    NoTruststore,
    /// Certificates are asked for, and open nothing.
    NoPrincipals,
    /// Certificates have roles, and nobody is asked for one.
    NotAsked,
    Principal(PrincipalFault),
    Host {
        entry: String,
    },
}

impl fmt::Display for AdminFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener { entry } => write!(
                f,
                "{entry:?} is neither https://ADDRESS:PORT nor http://ADDRESS:PORT; write an IP address of this \
                 host (0.0.0.0 for all, [::1] for IPv6) and a port from 1 to 65535"
            ),
            Self::Twice { entry } => write!(f, "{entry} stands twice; leave one of the two"),
            Self::PlainBeyondLoopback { entry } => write!(
                f,
                "{entry} would send tokens in the clear to whoever listens; use https there, or 127.0.0.1"
            ),
            Self::LoopbackWithoutTokens => write!(
                f,
                "http on loopback asks for a token, and there are none: give admin.tokens.file, or let every user \
                 of this host in with admin.loopback.authentication = none"
            ),
            Self::NoKeystore => {
                write!(f, "https needs a certificate and its key: give admin.ssl.keystore.location")
            }
            Self::NoLogin => write!(
                f,
                "nobody could log in by https: give admin.tokens.file, or admin.ssl.client.auth with \
                 admin.ssl.truststore.location and admin.ssl.principals"
            ),
            Self::NoTruststore => write!(
                f,
                "every public authority could make operators: name the one that signs their certificates in \
                 admin.ssl.truststore.location"
            ),
            Self::NoPrincipals => write!(
                f,
                "certificates are asked for and none has a role: give admin.ssl.principals, or admin.tokens.file"
            ),
            Self::NotAsked => write!(
                f,
                "nobody is asked for the certificates that it names: set admin.ssl.client.auth to requested or \
                 required"
            ),
            Self::Principal(why) => write!(f, "{why}"),
            Self::Host { entry } => write!(
                f,
                "{entry:?} is no host name; write names without port and scheme, such as twinlog.example"
            ),
        }
    }
}

fn refuse(key: &'static str, value: &str, why: AdminFault) -> ConfigError {
    ConfigError::Admin { key, value: value.to_owned(), why }
}

/// Parses and compares; reads no file yet.
pub(super) fn admin_settings(values: &Values) -> Result<AdminSettings, ConfigError> {
    let path = |name| Some(values.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (tls, clients) = listener_tls(values, "admin");
    let principals = values.text("admin.ssl.principals");
    let parsed = Principals::parse(&principals)
        .map_err(|why| refuse("admin.ssl.principals", &principals, AdminFault::Principal(why)));
    let mut findings = Findings::default();
    let listeners = findings.take(listeners(&values.text(LISTENERS)));
    let principals = findings.take(parsed);
    let hosts = findings.take(hosts(&values.text("admin.allowed.hosts"))).unwrap_or_default();
    let Some((listeners, principals)) = listeners.zip(principals) else { return Err(findings.into_error()) };
    let settings = AdminSettings {
        listeners,
        clients,
        principals,
        tokens_file: path("admin.tokens.file"),
        is_loopback_open: values.choice_or_empty("admin.loopback.authentication") == "none",
        hosts,
        tls,
    };
    findings.take(check(&settings, values));
    findings.end().map(|()| settings)
}

fn check(settings: &AdminSettings, values: &Values) -> Result<(), ConfigError> {
    if settings.listeners.is_empty() {
        return Ok(());
    }
    let said = values.text(LISTENERS);
    let wrong = |why| Err(refuse(LISTENERS, &said, why));
    let has = |scheme| settings.listeners.iter().any(|listener| listener.scheme == scheme);
    let has_tokens = settings.tokens_file.is_some();
    if has(Scheme::Http) && !has_tokens && !settings.is_loopback_open {
        return wrong(AdminFault::LoopbackWithoutTokens);
    }
    if !has(Scheme::Https) {
        return Ok(());
    }
    let asks = settings.clients != ClientCertificates::NotAsked;
    let auth =
        |why| Err(refuse("admin.ssl.client.auth", values.choice_or_empty("admin.ssl.client.auth"), why));
    match settings {
        AdminSettings { tls: TlsSettings { key: None, .. }, .. } => wrong(AdminFault::NoKeystore),
        _ if !asks && !has_tokens => wrong(AdminFault::NoLogin),
        _ if !asks && !settings.principals.is_empty() => {
            Err(refuse("admin.ssl.principals", &values.text("admin.ssl.principals"), AdminFault::NotAsked))
        }
        AdminSettings { tls: TlsSettings { trust: TrustSource::System, .. }, .. } if asks => {
            auth(AdminFault::NoTruststore)
        }
        _ if asks && !has_tokens && settings.principals.is_empty() => auth(AdminFault::NoPrincipals),
        _ => Ok(()),
    }
}

fn listeners(text: &str) -> Result<Vec<ListenerAddress>, ConfigError> {
    let (mut all, mut findings) = (Vec::<ListenerAddress>::new(), Findings::default());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let wrong = |why| refuse(LISTENERS, text, why);
        let found = [Scheme::Http, Scheme::Https].into_iter().find_map(|scheme| {
            let rest = entry.strip_prefix(scheme.name())?.strip_prefix("://")?;
            let address: std::net::SocketAddr = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
            (address.port() != 0).then_some(ListenerAddress { scheme, address })
        });
        let entry = entry.to_owned();
        let Some(listener) = found else {
            findings.add(wrong(AdminFault::Listener { entry }));
            continue;
        };
        let is_loopback = listener.address.ip().to_canonical().is_loopback();
        if listener.scheme == Scheme::Http && !is_loopback {
            findings.add(wrong(AdminFault::PlainBeyondLoopback { entry }));
        } else if all.iter().any(|other| other.address == listener.address) {
            findings.add(wrong(AdminFault::Twice { entry }));
        }
        all.push(listener);
    }
    findings.end().map(|()| all)
}

fn hosts(text: &str) -> Result<Vec<String>, ConfigError> {
    let is_host = |host: &str| {
        host.parse::<std::net::IpAddr>().is_ok()
            || host.strip_prefix("*.").unwrap_or(host).split('.').all(|label| {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                !label.is_empty() && label.bytes().all(fits)
            })
    };
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let mut findings = Findings::default();
    let wrong = entries.clone().filter(|entry| !is_host(entry));
    let wrong = wrong.map(|entry| AdminFault::Host { entry: entry.to_owned() });
    wrong.for_each(|why| findings.add(refuse("admin.allowed.hosts", text, why)));
    findings.end().map(|()| entries.map(str::to_ascii_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, Settings};
    use std::path::Path;

    /// Settings of a guest with more keys at the top level.
    fn with(keys: &str) -> Result<AdminSettings, String> {
        in_mode("guest", keys)
    }

    fn in_mode(mode: &str, keys: &str) -> Result<AdminSettings, String> {
        let text = format!(
            "data.dir = \"/d\"\n{keys}\n[link.dr]\ntopics = \"orders\"\n[link.dr.source]\n\
             bootstrap.servers = \"a:1\"\n[link.dr.destination]\nmode = \"{mode}\"\nbootstrap.servers = \"b:1\"\n\
             bootstrap.controllers = \"c:1\"\ninter.broker.listener.name = \"I\"\nguest.broker.ids = \"900-901\"\n\
             guest.listener = \"127.0.0.1:9192\"\n"
        );
        let raw = RawConfig::parse(Path::new("twinlog.toml"), &text).map_err(|error| error.to_string())?;
        Settings::from_raw(&raw, None)
            .map(|settings| settings.daemon.admin)
            .map_err(|error| error.to_string())
    }

    const TOKENS: &str = "admin.tokens.file = \"/t\"\n";
    const KEYSTORE: &str = "admin.ssl.keystore.location = \"/k\"\n";
    const HTTPS: &str = "admin.listeners = \"https://0.0.0.0:8443\"\n";
    const CLIENTS: &str = "admin.ssl.client.auth = \"required\"\nadmin.ssl.truststore.location = \"/c\"\n\
                           admin.ssl.principals = \"operator=CN=ops\"\n";

    #[test]
    fn nothing_is_listened_on_unless_somebody_says_so() {
        assert!(with("").unwrap().listeners.is_empty());
        let both = "admin.listeners = \"http://127.0.0.1:8090, https://[::]:8443\"\n";
        let settings = with(&[both, TOKENS, KEYSTORE].concat()).unwrap();
        let told: Vec<String> = settings.listeners.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["http://127.0.0.1:8090", "https://[::]:8443"]);
        assert!(with(&[HTTPS, KEYSTORE, CLIENTS].concat()).is_ok(), "certificates alone are a login");
        let open = "admin.listeners = \"http://[::1]:8090\"\nadmin.loopback.authentication = \"none\"\n";
        assert!(with(open).unwrap().is_loopback_open);
        let hosts = with("admin.allowed.hosts = \"Twinlog.example, 10.0.0.1\"\n").unwrap().hosts;
        assert_eq!(hosts, ["twinlog.example", "10.0.0.1"]);
    }

    #[test]
    fn whatever_lets_in_too_many_is_refused_with_key_value_reason_and_cure() {
        let http = |address: &str| format!("admin.listeners = \"http://{address}\"\n{TOKENS}");
        for (keys, words) in [
            (
                http("10.0.0.5:8090"),
                "admin.listeners = \"http://10.0.0.5:8090\" is refused: http://10.0.0.5:8090 would",
            ),
            (http("0.0.0.0:8090"), "use https there"),
            (http("[::]:8090"), "use https there"),
            (http("127.0.0.1:0"), "a port from 1"),
            (http("localhost:8090"), "an IP address"),
            (http("127.0.0.1:1, http://127.0.0.1:1"), "twice"),
            (HTTPS.replace("https", "ftp"), "neither https"),
            (http("127.0.0.1:8090").replace(TOKENS, ""), "admin.loopback.authentication = none"),
            ([HTTPS, TOKENS].concat(), "admin.ssl.keystore.location"),
            ([HTTPS, KEYSTORE].concat(), "nobody could log in"),
            ([HTTPS, KEYSTORE, "admin.loopback.authentication = \"none\"\n"].concat(), "nobody could log in"),
            (
                [HTTPS, KEYSTORE, &CLIENTS.replace("admin.ssl.truststore.location = \"/c\"\n", "")].concat(),
                "admin.ssl.client.auth = \"required\" is refused: every public authority",
            ),
            ([HTTPS, KEYSTORE, &CLIENTS.replace("operator=CN=ops", "")].concat(), "none has a role"),
            (
                [HTTPS, KEYSTORE, TOKENS, "admin.ssl.principals = \"viewer=CN=a\"\n"].concat(),
                "requested or required",
            ),
            (
                "admin.ssl.principals = \"root=CN=a\"\n".to_owned(),
                "admin.ssl.principals = \"root=CN=a\" is refused",
            ),
            ("admin.allowed.hosts = \"http://a\"\n".to_owned(), "without port and scheme"),
        ] {
            let refused = with(&keys).unwrap_err();
            assert!(refused.contains(words), "{keys}: {refused}");
        }
        assert!(in_mode("store", &http("127.0.0.1:8090")).is_ok(), "a store has operators, too");
    }
}
