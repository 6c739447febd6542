//! A token endpoint: client credentials go in, a bearer token comes out, renewed before it ends.
//!
//! Owns the token that the endpoint gave last. The control core fetches ([`TokenEndpoint::refresh`]); every
//! thread reads ([`TokenEndpoint::token`]) without waiting for anybody.
//! ref: RFC 6749 4.4, KIP-768, KIP-1139

use super::token::{EndpointFault, TOKEN_BYTES_MAX, TokenFault, checked};
use crate::security::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// From connecting to the last byte of the answer. Raised, a silent endpoint delays every new connection.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt, as Kafka's clients back off at most.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Life of a token whose endpoint does not tell it.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);
/// Longest life that is believed: the broker ends the session by the token's own anyway.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// What an endpoint says of a refusal is shown up to so many characters.
const TOLD_CHARS_MAX: usize = 160;

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    pub client_id: String,
    pub client_secret: Secret,
    pub scope: String,
    pub refresh_percent: u64,
}

/// `https://host:port/path`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    text: String,
    is_https: bool,
    host: String,
    port: u16,
    path: String,
}

impl EndpointUrl {
    /// `None`: not a URL to which a secret may be sent.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_https = scheme == "https";
        let (authority, path) = match rest.find('/') {
            Some(index) => rest.split_at(index),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if is_https { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "::1");
        // Bare HTTP would tell the secret to everybody on the way.
        let is_allowed = is_https || (scheme == "http" && is_here);
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_graphic()) && !host.is_empty() && !text.contains('@');
        (is_allowed && is_plain).then(|| Self {
            text: text.to_owned(),
            is_https,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }
}

struct Held {
    token: Secret,
    refresh_at: Instant,
    ends_at: Instant,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<(Instant, TokenFault)>,
}

/// See the file's header.
pub struct TokenEndpoint {
    url: EndpointUrl,
    credentials: ClientCredentials,
    /// `None` for bare HTTP to this host itself.
    tls: Option<Arc<ClientConfig>>,
    state: Mutex<State>,
    /// Held while somebody fetches: the others wait for its token and do not ask for ten of them.
    fetching: tokio::sync::Mutex<()>,
}

impl TokenEndpoint {
    pub fn new(url: EndpointUrl, credentials: ClientCredentials, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { url, credentials, tls, state: Mutex::default(), fetching: tokio::sync::Mutex::default() }
    }

    /// The current token, while it is good.
    pub fn token(&self) -> Result<Secret, TokenFault> {
        let state = self.state();
        match (&state.held, &state.failed) {
            (Some(held), _) if Instant::now() < held.ends_at => Ok(held.token.clone()),
            (_, Some((_, fault))) => Err(fault.clone()),
            _ => Err(TokenFault::NotYet),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Whether nothing is to be done now: the token is young, or an attempt failed a moment ago.
    fn is_settled(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        let is_young = state.held.as_ref().is_some_and(|held| now < held.refresh_at);
        is_young || state.failed.as_ref().is_some_and(|(at, _)| now < *at + RETRY_PAUSE)
    }

    /// Fetches a token when the one at hand is missing or old. A failure is kept for [`Self::token`].
    pub async fn refresh(&self) {
        if self.is_settled() {
            return;
        }
        let _one_at_a_time = self.fetching.lock().await;
        if self.is_settled() {
            return;
        }
        let fetched = timeout(FETCH_TIMEOUT, self.fetch()).await;
        let fetched = fetched.unwrap_or(Err(EndpointFault::TimedOut { after: FETCH_TIMEOUT }));
        let now = Instant::now();
        let mut state = self.state();
        match fetched {
            Ok((token, life)) => {
                let refresh_at =
                    now + life / 100 * u32::try_from(self.credentials.refresh_percent).unwrap_or(80);
                state.held = Some(Held { token, refresh_at, ends_at: now + life });
                state.failed = None;
            }
            Err(why) => {
                let fault = TokenFault::Endpoint { url: self.url.text.clone(), why };
                tracing::warn!("no new bearer token: {fault}");
                state.failed = Some((now, fault));
            }
        }
    }

    async fn fetch(&self) -> Result<(Secret, Duration), EndpointFault> {
        let network = |error: std::io::Error| EndpointFault::Network { error: error.kind() };
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await.map_err(network)?;
        let Some(config) = &self.tls else { return self.ask(stream).await };
        let name = ServerName::try_from(self.url.host.clone()).map_err(|_| EndpointFault::Tls {
            why: "its name is none that a certificate can be for".to_owned(),
        })?;
        match TlsConnector::from(config.clone()).connect(name, stream).await {
            Ok(stream) => self.ask(stream).await,
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(inner) => Err(EndpointFault::Tls { why: inner.to_string() }),
                None => Err(network(error)),
            },
        }
    }

    async fn ask<S>(&self, stream: S) -> Result<(Secret, Duration), EndpointFault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let not_http = |_| EndpointFault::NotHttp;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
        let connection = tokio::spawn(connection);
        let answered = async {
            let answer = sender.send_request(self.request()?).await.map_err(not_http)?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), TOKEN_BYTES_MAX).collect().await;
            let body = Zeroizing::new(body.map_err(|_| EndpointFault::NotHttp)?.to_bytes().to_vec());
            Ok((status, body))
        };
        let answered = answered.await;
        connection.abort();
        let (status, body) = answered?;
        if status != 200 {
            return Err(EndpointFault::Status { status, told: told(&body) });
        }
        read_answer(&body)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, EndpointFault> {
        let ClientCredentials { client_id, client_secret, scope, .. } = &self.credentials;
        let pair = Zeroizing::new(format!("{client_id}:{}", client_secret.expose()));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut authorization = HeaderValue::from_str(&basic).expect("Base64 is printable");
        authorization.set_sensitive(true);
        let mut form = "grant_type=client_credentials".to_owned();
        if !scope.is_empty() {
            let _ = write!(form, "&scope={}", url_encoded(scope));
        }
        Request::builder()
            .method(Method::POST)
            .uri(&self.url.path)
            .header(HOST, format!("{}:{}", self.url.host, self.url.port))
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))
            .map_err(|_| EndpointFault::NotHttp)
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<u64>,
}

fn read_answer(body: &[u8]) -> Result<(Secret, Duration), EndpointFault> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| EndpointFault::NotJson)?;
    let token = checked(Secret::new(answer.access_token)).map_err(|_| EndpointFault::NotJson)?;
    let life = answer.expires_in.map_or(LIFE_DEFAULT, Duration::from_secs);
    Ok((token, life.min(LIFE_MAX)))
}

/// `error` and `error_description` of a refusal; nothing else of it, for it may repeat what was sent.
fn told(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let parts = ["error", "error_description"].map(|name| value[name].as_str().unwrap_or_default());
    let text = parts.join(" ");
    let text: String =
        text.trim().chars().filter(|letter| !letter.is_control()).take(TOLD_CHARS_MAX).collect();
    if text.is_empty() { "without a reason".to_owned() } else { text }
}

/// Every byte but the letters, digits and marks that RFC 3986 calls unreserved.
pub(super) fn url_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn a_secret_is_only_sent_where_nobody_listens_in() {
        let url = EndpointUrl::parse("https://idp.example/realms/a/token").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("idp.example", 443, "/realms/a/token"));
        assert_eq!(EndpointUrl::parse("https://idp:8443").unwrap().port, 8443);
        assert_eq!(EndpointUrl::parse("http://[::1]:80/t").unwrap().host, "::1");
        for bad in
            ["http://idp.example/token", "ftp://a/", "https://", "https://u:p@h/", "https://h:x/", "idp"]
        {
            assert_eq!(EndpointUrl::parse(bad), None, "{bad}");
        }
    }

    /// Answers each request with the next of these, and gives back what was asked.
    async fn serve(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !String::from_utf8_lossy(&bytes).contains("scope=") {
                stream.read_buf(&mut bytes).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked.push(String::from_utf8(bytes).unwrap());
        }
        asked
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    async fn endpoint() -> (TcpListener, TokenEndpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/token", listener.local_addr().unwrap().port());
        let credentials = ClientCredentials {
            client_id: "twin".to_owned(),
            client_secret: "hunter2".into(),
            scope: "kafka read".to_owned(),
            refresh_percent: 80,
        };
        (listener, TokenEndpoint::new(EndpointUrl::parse(&url).unwrap(), credentials, None))
    }

    #[tokio::test]
    async fn a_token_is_fetched_once_and_kept_while_it_is_young() {
        let (listener, endpoint) = endpoint().await;
        assert_eq!(endpoint.token(), Err(TokenFault::NotYet));
        let good = http("200 OK", r#"{"access_token":"a.b.c","expires_in":60}"#);
        let served = tokio::spawn(serve(listener, vec![good]));
        tokio::join!(endpoint.refresh(), endpoint.refresh());
        endpoint.refresh().await;
        assert_eq!(endpoint.token().unwrap().expose(), "a.b.c");
        let asked = served.await.unwrap();
        assert_eq!(asked.len(), 1);
        assert!(asked[0].starts_with("POST /token HTTP/1.1\r\n"), "{asked:?}");
        assert!(
            asked[0].contains(&STANDARD.encode("twin:hunter2")) && asked[0].contains("scope=kafka%20read")
        );
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_the_secret_and_not_repeated_at_once() {
        let (listener, endpoint) = endpoint().await;
        let body = r#"{"error":"invalid_client","error_description":"who?","echo":"hunter2"}"#;
        let served = tokio::spawn(serve(listener, vec![http("401 Unauthorized", body)]));
        endpoint.refresh().await;
        endpoint.refresh().await;
        let text = endpoint.token().unwrap_err().to_string();
        assert!(text.contains("401") && text.contains("invalid_client who?"), "{text}");
        assert!(!text.contains("hunter2"));
        assert_eq!(served.await.unwrap().len(), 1);
    }

    #[test]
    fn answers_without_a_token_are_refused() {
        for body in ["", "{}", r#"{"access_token":""}"#, r#"{"access_token":"a b"}"#, r#"{"access_token":1}"#]
        {
            assert_eq!(read_answer(body.as_bytes()).err(), Some(EndpointFault::NotJson), "{body}");
        }
        let forever = br#"{"access_token":"a","expires_in":18446744073709551615}"#;
        assert_eq!(read_answer(forever).unwrap().1, LIFE_MAX);
    }
}
