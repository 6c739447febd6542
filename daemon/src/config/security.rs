//! From values of one place to how its connections are secured.
//!
//! Invariant: what comes out can be used now; every file that it names was read once.

use super::error::ConfigError;
use super::key::{Scope, key_in};
use super::security_keys::KERBEROS;
use super::settings::Values;
use crate::security::{
    AwsSettings, ClientCertificates, ClientSecurity, KerberosSettings, KeySource, ListenerSecurity,
    ListenerSettings, OauthSettings, SaslMechanism, SaslSettings, SecurityProtocol, SecuritySettings,
    StoreType, TlsSettings, TrustSource,
};
use std::path::PathBuf;

/// Reads the files that the values name.
pub(super) fn client_security(values: &Values, scope: Scope) -> Result<ClientSecurity, ConfigError> {
    let settings = security_settings(values, scope)?;
    ClientSecurity::from_settings(&settings).map_err(|why| ConfigError::Security { scope, why })
}

/// What a listener of ours shows and asks for by TLS; `prefix` is what its keys begin with.
pub(super) fn listener_tls(values: &Values, prefix: &str) -> (TlsSettings, ClientCertificates) {
    let name = |rest: &str| format!("{prefix}.ssl.{rest}");
    let path = |rest: &str| Some(values.text(&name(rest))).filter(|path| !path.is_empty()).map(PathBuf::from);
    let key = path("keystore.location").map(|path| KeySource::File {
        path,
        store_type: StoreType::ByContent,
        password: values.secret(&name("keystore.password")),
    });
    let trust = path("truststore.location").map(|path| TrustSource::File {
        path,
        store_type: StoreType::ByContent,
        password: values.secret(&name("truststore.password")),
    });
    let tls = TlsSettings {
        key,
        key_password: values.secret(&name("key.password")),
        trust: trust.unwrap_or_default(),
        ..TlsSettings::default()
    };
    let clients = match values.choice_or_empty(&name("client.auth")) {
        "required" => ClientCertificates::Required,
        "requested" => ClientCertificates::Requested,
        _ => ClientCertificates::NotAsked,
    };
    (tls, clients)
}

/// The same of the listener that followers reach.
pub(super) fn listener_security(values: &Values) -> Result<ListenerSecurity, ConfigError> {
    let scope = Scope::Destination;
    let protocol = SecurityProtocol::named(values.choice_or_empty("guest.followers.security.protocol"));
    let protocol = protocol.unwrap_or_default();
    let (tls, clients) = listener_tls(values, "guest.followers");
    let principals = values.text("guest.followers.principals");
    let principals = principals.split(';').map(str::trim).filter(|name| !name.is_empty());
    let (user, password) = (
        values.text("guest.followers.sasl.plain.username"),
        values.secret("guest.followers.sasl.plain.password"),
    );
    let settings = ListenerSettings {
        protocol,
        tls,
        clients,
        plain_users: (!user.is_empty()).then_some((user, password)).into_iter().collect(),
        principals: principals.map(str::to_owned).collect(),
    };
    if protocol != SecurityProtocol::Plaintext && settings.principals.is_empty() {
        let key = key_in(scope, "guest.followers.principals").expect("a key of the table");
        return Err(ConfigError::MissingFor { key, because: "guest.followers.security.protocol" });
    }
    ListenerSecurity::from_settings(&settings).map_err(|why| ConfigError::Security { scope, why })
}

fn security_settings(values: &Values, scope: Scope) -> Result<SecuritySettings, ConfigError> {
    let protocol = SecurityProtocol::named(values.choice_or_empty("security.protocol")).unwrap_or_default();
    if protocol.has_sasl()
        && values.choice_or_empty("sasl.mechanism") == KERBEROS
        && !cfg!(feature = "gssapi")
    {
        return Err(ConfigError::Kerberos { scope });
    }
    let mechanism = SaslMechanism::named(values.choice_or_empty("sasl.mechanism"));
    if protocol.has_sasl() && mechanism.is_none() {
        let key = key_in(scope, "sasl.mechanism").expect("a key of the table");
        return Err(ConfigError::MissingFor { key, because: "security.protocol = SASL_*" });
    }
    Ok(SecuritySettings {
        protocol,
        tls: tls_settings(values),
        sasl: SaslSettings {
            mechanism,
            jaas_config: values.secret("sasl.jaas.config"),
            username: values.text("sasl.username"),
            password: values.secret("sasl.password"),
            is_delegation_token: values.choice_or_empty("sasl.delegation.token") == "true",
            aws: AwsSettings {
                region: values.text("sasl.aws.region"),
                credentials_file: Some(values.text("sasl.aws.credentials.file"))
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
            },
            kerberos: KerberosSettings {
                service_name: values.text("sasl.kerberos.service.name"),
                keytab: Some(values.text("sasl.kerberos.keytab"))
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
                principal: values.text("sasl.kerberos.principal"),
            },
            oauth: OauthSettings {
                token_endpoint_url: values.text("sasl.oauthbearer.token.endpoint.url"),
                client_id: values.text("sasl.oauthbearer.client.credentials.client.id"),
                client_secret: values.secret("sasl.oauthbearer.client.credentials.client.secret"),
                scope: values.text("sasl.oauthbearer.scope"),
                refresh_percent: values.number("sasl.login.refresh.window.percent"),
            },
        },
    })
}

fn tls_settings(values: &Values) -> TlsSettings {
    let store_type = |name| match values.choice_or_empty(name) {
        "PEM" => StoreType::Pem,
        "PKCS12" => StoreType::Pkcs12,
        "JKS" => StoreType::Jks,
        _ => StoreType::ByContent,
    };
    let path = |name| Some(values.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let file = path("ssl.keystore.location").map(|path| KeySource::File {
        path,
        store_type: store_type("ssl.keystore.type"),
        password: values.secret("ssl.keystore.password"),
    });
    let key = values.secret("ssl.keystore.key");
    let chain = values.text("ssl.keystore.certificate.chain");
    let inline = (!key.is_empty() || !chain.is_empty()).then_some(KeySource::Inline { key, chain });
    let certificates = values.text("ssl.truststore.certificates");
    let trust = match path("ssl.truststore.location") {
        Some(path) => TrustSource::File {
            path,
            store_type: store_type("ssl.truststore.type"),
            password: values.secret("ssl.truststore.password"),
        },
        None if certificates.is_empty() => TrustSource::System,
        None => TrustSource::Inline(certificates),
    };
    TlsSettings {
        key: file.or(inline),
        key_password: values.secret("ssl.key.password"),
        trust,
        any_host_name: values.choice_or_empty("ssl.endpoint.identification.algorithm").is_empty(),
        versions: values.tls_versions("ssl.enabled.protocols"),
    }
}
