//! As whom we log in: credentials out of the settings, read again when their files change.
//!
//! Owns the credentials of one cluster. Who gets an exchange from here may make one attempt with it.

use super::aws::{AwsKey, region_of};
use super::aws_credentials::{AwsFault, of_process, read_key, shared_file};
use super::endpoint::{ClientCredentials, EndpointUrl, TokenEndpoint};
use super::exchange::{Credential, SaslExchange};
use super::jaas::JaasConfig;
use super::kerberos::Kerberos;
use super::kerberos_login::KerberosLogin;
use super::token::{TokenFault, TokenSource};
use crate::security::attempts::Attempts;
use crate::security::material::resolve;
use crate::security::reload::Reloading;
use crate::security::tls::endpoint_config;
use crate::security::{SaslMechanism, SaslSettings, Secret, SecurityError, TlsSettings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const JAAS: &str = "sasl.jaas.config";
const CLIENT_ID: &str = "sasl.oauthbearer.client.credentials.client.id";
const CLIENT_SECRET: &str = "sasl.oauthbearer.client.credentials.client.secret";

/// See the file's header.
pub struct SaslLogin {
    mechanism: SaslMechanism,
    current: Reloading<Login, SecurityError>,
}

/// Credentials as they were read, and what came of showing them.
struct Login {
    source: Source,
    attempts: Arc<Attempts>,
}

enum Source {
    Password { user: String, password: Secret, is_token: bool },
    Token { user: String, tokens: TokenSource },
    Aws { key: AwsKey, region: String },
    Kerberos(Kerberos),
}

impl SaslLogin {
    pub fn new(settings: &SaslSettings, tls: &TlsSettings) -> Result<Self, SecurityError> {
        let mechanism = settings.mechanism.expect("the configuration demands a mechanism");
        let (owned, tls) = (settings.clone(), tls.clone());
        // New credentials begin with a clean sheet: the old ones' refusals say nothing of them.
        let load = move || {
            let source = read(&owned, &tls, mechanism)?;
            Ok(Login { source, attempts: Arc::new(Attempts::default()) })
        };
        let current = Reloading::new("SASL credentials", files(settings), load)?;
        Ok(Self { mechanism, current })
    }

    /// Fetches what [`SaslLogin::exchange`] needs and cannot wait for: a token or a ticket that a network gives.
    pub async fn prepare(&self, host: &str) {
        match &self.current.current().source {
            Source::Token { tokens: TokenSource::Endpoint(endpoint), .. } => endpoint.refresh().await,
            Source::Kerberos(kerberos) => kerberos.prepare(host).await,
            Source::Token { .. } | Source::Password { .. } | Source::Aws { .. } => {}
        }
    }

    /// The same for every host that was asked for so far.
    pub async fn keep(&self) {
        match &self.current.current().source {
            Source::Token { tokens: TokenSource::Endpoint(endpoint), .. } => endpoint.refresh().await,
            Source::Kerberos(kerberos) => kerberos.keep().await,
            Source::Token { .. } | Source::Password { .. } | Source::Aws { .. } => {}
        }
    }

    /// Whether somebody has to call [`SaslLogin::keep`] now and then.
    pub fn needs_care(&self) -> bool {
        let source = &self.current.current().source;
        matches!(source, Source::Token { tokens: TokenSource::Endpoint(_), .. } | Source::Kerberos(_))
    }

    /// One attempt at `host`.
    pub fn exchange(&self, host: &str) -> Result<SaslExchange, SecurityError> {
        let login = self.current.current();
        let credential = match &login.source {
            Source::Password { user, password, is_token } => {
                Credential::Password { user: user.clone(), password: password.clone(), is_token: *is_token }
            }
            Source::Aws { key, region } => {
                let told =
                    Some(region.as_str()).filter(|region| !region.is_empty()).or_else(|| region_of(host));
                let unknown = || AwsFault::NoRegion { host: host.to_owned() };
                let region = told.ok_or_else(unknown).map_err(|why| SecurityError::Aws { why })?;
                Credential::Aws { key: key.clone(), region: region.to_owned() }
            }
            Source::Token { user, tokens } => {
                let token = tokens.token().map_err(|why| SecurityError::Token { why })?;
                Credential::Token { user: user.clone(), token }
            }
            Source::Kerberos(kerberos) => Credential::Kerberos { ticket: kerberos.ticket(host)? },
        };
        login.attempts.ask(host, Instant::now())?;
        Ok(SaslExchange::new(host, self.mechanism, credential, login.attempts.clone()))
    }
}

fn files(settings: &SaslSettings) -> Vec<PathBuf> {
    let secrets = [&settings.jaas_config, &settings.password, &settings.oauth.client_secret];
    let shared = match settings.mechanism {
        Some(SaslMechanism::AwsMskIam) => shared_file(settings.aws.credentials_file.as_deref(), &of_process),
        _ => None,
    };
    let keytab = match settings.mechanism {
        Some(SaslMechanism::Gssapi) => read_jaas(settings, SaslMechanism::Gssapi)
            .and_then(|jaas| KerberosLogin::read(&settings.kerberos, jaas.as_ref()))
            .ok()
            .and_then(|login| login.keytab),
        _ => None,
    };
    secrets.into_iter().flat_map(Secret::files).chain(shared).chain(keytab).collect()
}

fn read_jaas(settings: &SaslSettings, mechanism: SaslMechanism) -> Result<Option<JaasConfig>, SecurityError> {
    if settings.jaas_config.is_empty() {
        return Ok(None);
    }
    let text = resolve(JAAS, &settings.jaas_config)?;
    JaasConfig::parse(&text, mechanism).map(Some).map_err(|why| SecurityError::Jaas { why })
}

fn read(
    settings: &SaslSettings,
    tls: &TlsSettings,
    mechanism: SaslMechanism,
) -> Result<Source, SecurityError> {
    let jaas = read_jaas(settings, mechanism)?;
    let is_scram = matches!(mechanism, SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512);
    if settings.is_delegation_token && !is_scram {
        return Err(SecurityError::DelegationToken { mechanism });
    }
    match mechanism {
        SaslMechanism::OauthBearer => read_oauth(settings, tls, jaas.as_ref()),
        SaslMechanism::AwsMskIam => read_aws(settings, jaas.as_ref()),
        SaslMechanism::Gssapi => {
            let login = KerberosLogin::read(&settings.kerberos, jaas.as_ref())?;
            Kerberos::new(login, settings.oauth.refresh_percent).map(Source::Kerberos)
        }
        SaslMechanism::Plain | SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => {
            read_password(settings, mechanism, jaas.as_ref())
        }
    }
}

fn read_aws(settings: &SaslSettings, jaas: Option<&JaasConfig>) -> Result<Source, SecurityError> {
    let option = |name: &str| jaas.and_then(|jaas| jaas.option(name)).map(Secret::expose);
    if option("awsRoleArn").is_some() {
        return Err(SecurityError::Aws { why: AwsFault::Role });
    }
    let key = read_key(option("awsProfileName"), settings.aws.credentials_file.as_deref(), &of_process)
        .map_err(|why| SecurityError::Aws { why })?;
    Ok(Source::Aws { key, region: settings.aws.region.clone() })
}

fn read_password(
    settings: &SaslSettings,
    mechanism: SaslMechanism,
    jaas: Option<&JaasConfig>,
) -> Result<Source, SecurityError> {
    if let Some(jaas) = jaas {
        let option = |name| jaas.required(name).map_err(|why| SecurityError::Jaas { why });
        let user = option("username")?.expose().to_owned();
        let is_token =
            jaas.option("tokenauth").is_some_and(|value| value.expose().eq_ignore_ascii_case("true"));
        return Ok(Source::Password { user, password: option("password")?.clone(), is_token });
    }
    let password = resolve("sasl.password", &settings.password)?;
    for (key, is_empty) in
        [("sasl.username", settings.username.is_empty()), ("sasl.password", password.is_empty())]
    {
        if is_empty {
            return Err(SecurityError::MissingCredential { mechanism, key });
        }
    }
    let (user, is_token) = (settings.username.clone(), settings.is_delegation_token);
    Ok(Source::Password { user, password, is_token })
}

fn read_oauth(
    settings: &SaslSettings,
    tls: &TlsSettings,
    jaas: Option<&JaasConfig>,
) -> Result<Source, SecurityError> {
    let oauth = &settings.oauth;
    if let Some(tokens) = TokenSource::file(&oauth.token_endpoint_url) {
        return Ok(Source::Token { user: "the bearer of the token".to_owned(), tokens });
    }
    let wrong = || TokenFault::Url { url: oauth.token_endpoint_url.clone() };
    let url = EndpointUrl::parse(&oauth.token_endpoint_url).ok_or_else(wrong);
    let url = url.map_err(|why| SecurityError::Token { why })?;
    let option = |name: &str| jaas.and_then(|jaas| jaas.option(name));
    let mechanism = SaslMechanism::OauthBearer;
    let client_id = option("clientId").map_or(oauth.client_id.as_str(), Secret::expose).to_owned();
    let client_secret = match option("clientSecret") {
        Some(secret) => secret.clone(),
        None => resolve(CLIENT_SECRET, &oauth.client_secret)?,
    };
    for (key, is_empty) in [(CLIENT_ID, client_id.is_empty()), (CLIENT_SECRET, client_secret.is_empty())] {
        if is_empty {
            return Err(SecurityError::MissingCredential { mechanism, key });
        }
    }
    let credentials = ClientCredentials {
        client_id: client_id.clone(),
        client_secret,
        scope: option("scope").map_or(oauth.scope.as_str(), Secret::expose).to_owned(),
        refresh_percent: oauth.refresh_percent,
    };
    let tls = url.is_https().then(|| endpoint_config(tls).map(Arc::new)).transpose()?;
    let endpoint = TokenEndpoint::new(url, credentials, tls);
    Ok(Source::Token { user: client_id, tokens: TokenSource::Endpoint(Box::new(endpoint)) })
}
