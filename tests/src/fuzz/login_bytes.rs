//! What servers answer to a login, and what operators give us to log in with: SASL answers, tokens, JAAS, PEM.
//!
//! ```text
//!   sasl_answers  mechanism 1 │ answers: length 2, bytes ...      %NONCE% in one is the client's own nonce
//!   token_answer  the whole of what a token endpoint sends, over a connection to ourselves
//!   jaas_text     mechanism 1 │ the text of sasl.jaas.config
//!   pem_material  what is given 1 │ PEM text as key, chain, or authorities
//!   scram_server  messages: length 2, bytes ...    to the verifier that followers meet
//! ```
//! A login may fail in any way it has a sentence for; it never succeeds without the proof that it waits for, and
//! what is said of it never holds the password.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use twinlog_daemon::security::{
    ClientSecurity, Credentials, KeySource, ListenerSecurity, OauthSettings, SaslAcceptor, SaslExchange,
    SaslMechanism, SaslSettings, Secret, SecurityProtocol, SecuritySettings, TlsSettings, TrustSource,
};

const PASSWORD: &str = "hunter2-of-fuzz";
const MECHANISMS: [SaslMechanism; 3] =
    [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
const NONCE: &str = "%NONCE%";
/// Longer than any machine needs for a loopback exchange.
const HANG: Duration = Duration::from_secs(120);

fn sasl(sasl: SaslSettings) -> SecuritySettings {
    SecuritySettings { protocol: SecurityProtocol::SaslPlaintext, sasl, ..SecuritySettings::default() }
}

fn chosen(choice: u8) -> SaslMechanism {
    MECHANISMS[usize::from(choice) % MECHANISMS.len()]
}

/// Pieces behind their lengths of two bytes.
fn messages(mut input: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let (message, behind) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        found.push(message);
        input = behind;
    }
    found
}

fn script(choice: u8, answers: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![choice];
    bytes.extend(lengths(answers));
    bytes
}

fn lengths(pieces: &[&[u8]]) -> Vec<u8> {
    let with = |piece: &&[u8]| [&(piece.len() as u16).to_be_bytes()[..], piece].concat();
    pieces.iter().flat_map(with).collect()
}

pub fn sasl_answers(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let settings = SaslSettings {
        mechanism: Some(chosen(*choice)),
        username: "twin".to_owned(),
        password: Secret::from(PASSWORD),
        ..SaslSettings::default()
    };
    let security = ClientSecurity::from_settings(&sasl(settings)).expect("a user and a password");
    let mut exchange = security.sasl("b").expect("a first attempt").expect("SASL is spoken");
    let mut nonce = String::new();
    for answer in messages(rest) {
        let Some(frame) = exchange.poll_frame() else { break };
        if let Some(at) = frame.windows(3).position(|found| found == b",r=") {
            nonce = String::from_utf8_lossy(&frame[at + 3..]).into_owned();
        }
        let answer = with_nonce(answer, &nonce);
        // Behind length, key and version: the correlation id, which only a broken server changes.
        let answer = [&frame[8..12], &answer].concat();
        if let Err(error) = exchange.answer(&answer) {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
            assert!(!exchange.is_done());
            return;
        }
    }
    proven(*choice, &exchange);
}

/// No server knows the stored key here: whoever proves itself by SCRAM would have had to guess it.
fn proven(choice: u8, exchange: &SaslExchange) {
    assert!(!exchange.is_done() || chosen(choice) == SaslMechanism::Plain, "a proof was guessed");
}

fn with_nonce(answer: &[u8], nonce: &str) -> Vec<u8> {
    match answer.windows(NONCE.len()).position(|found| found == NONCE.as_bytes()) {
        Some(at) => [&answer[..at], nonce.as_bytes(), &answer[at + NONCE.len()..]].concat(),
        None => answer.to_vec(),
    }
}

/// An answer of SaslAuthenticate v1: code, no sentence, bytes, lifetime.
fn authenticated(code: i16, bytes: &[u8], lifetime_ms: i64) -> Vec<u8> {
    let mut answer = code.to_be_bytes().to_vec();
    answer.extend((-1_i16).to_be_bytes());
    answer.extend((bytes.len() as i32).to_be_bytes());
    answer.extend_from_slice(bytes);
    answer.extend(lifetime_ms.to_be_bytes());
    answer
}

pub fn sasl_scripts() -> Vec<Vec<u8>> {
    // Code 0 and one mechanism; code 33 and three.
    let accepted = [&[0, 0, 0, 0, 0, 1, 0, 5][..], b"PLAIN"].concat();
    let other = [&[0, 33, 0, 0, 0, 1, 0, 3][..], b"XYZ"].concat();
    let first = authenticated(0, b"r=%NONCE%abc,s=QSXCR+Q6sek8bf92,i=4096", 0);
    let few = authenticated(0, b"r=%NONCE%abc,s=QSXCR+Q6sek8bf92,i=1", 0);
    let last = authenticated(0, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", 3_600_000);
    let refused = authenticated(58, b"", 0);
    vec![
        script(0, &[&accepted, &authenticated(0, b"", 60_000)]),
        script(0, &[&accepted, &refused]),
        script(0, &[&other]),
        script(1, &[&accepted, &first, &last]),
        script(1, &[&accepted, &few, &last]),
        script(2, &[&accepted, &first, &authenticated(0, b"e=other-error", 0)]),
        script(2, &[&accepted, &first, &refused]),
    ]
}

pub fn token_answer(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of our own");
        let port = listener.local_addr().expect("it is bound").port();
        let settings = SaslSettings {
            mechanism: Some(SaslMechanism::OauthBearer),
            oauth: OauthSettings {
                token_endpoint_url: format!("http://127.0.0.1:{port}/token"),
                client_id: "twin".to_owned(),
                client_secret: Secret::from(PASSWORD),
                scope: String::new(),
                refresh_percent: 80,
            },
            ..SaslSettings::default()
        };
        let security = ClientSecurity::from_settings(&sasl(settings)).expect("an endpoint of this host");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("the listener stays");
            // The head of the request may come in pieces; what is answered does not depend on it.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(input).await;
        };
        let asked = async { tokio::join!(security.prepare("b"), serve) };
        tokio::time::timeout(HANG, asked).await.expect("an answer that ends is judged");
        if let Err(error) = security.sasl("b") {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
        }
    });
}

pub fn token_answers() -> Vec<Vec<u8>> {
    let answer = |head: &str, body: &str| {
        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        answer("200 OK", r#"{"access_token":"a.b.c","expires_in":3600,"token_type":"Bearer"}"#),
        answer("200 OK", r#"{"access_token":"a.b.c","expires_in":99999999999999999999}"#),
        answer("200 OK", r#"{"access_token":"","expires_in":-1}"#),
        answer("401 Unauthorized", r#"{"error":"invalid_client","error_description":"no"}"#),
        answer("302 Found", ""),
        format!("{chunked}1d\r\n{{\"access_token\":\"a\",\"x\":[[[\r\n0\r\n\r\n").into_bytes(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{".to_vec(),
    ]
}

pub fn jaas_text(input: &[u8]) {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let settings = SaslSettings {
        mechanism: Some(chosen(*choice)),
        jaas_config: Secret::from(text),
        ..SaslSettings::default()
    };
    if let Err(error) = ClientSecurity::from_settings(&sasl(settings)) {
        assert!(!error.to_string().is_empty() && !error.to_string().contains(PASSWORD), "{error}");
    }
}

pub fn jaas_texts() -> Vec<Vec<u8>> {
    let module = "org.apache.kafka.common.security";
    let texts = [
        format!("{module}.plain.PlainLoginModule required username=\"twin\" password=\"{PASSWORD}\";"),
        format!("{module}.scram.ScramLoginModule required\n username='a b' password=\"x\\\"y\" ;"),
        format!("{module}.scram.ScramLoginModule sufficient username=a;"),
        format!("{module}.plain.PlainLoginModule required a=\"b;"),
    ];
    let with_choice = |(index, text): (usize, String)| [&[index as u8][..], text.as_bytes()].concat();
    texts.into_iter().enumerate().map(with_choice).collect()
}

pub fn pem_material(input: &[u8]) {
    let Some((what, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (key, chain) = text.split_once("-----BEGIN CERTIFICATE").unwrap_or((text, ""));
    let chain = format!("-----BEGIN CERTIFICATE{chain}");
    let mut tls = TlsSettings { trust: TrustSource::Inline(String::new()), ..TlsSettings::default() };
    match what % 3 {
        0 => tls.trust = TrustSource::Inline(text.to_owned()),
        1 => tls.key = Some(KeySource::Inline { key: Secret::from(key), chain }),
        _ => {
            tls.key = Some(KeySource::Inline { key: Secret::from(text), chain: text.to_owned() });
            tls.trust = TrustSource::Inline(text.to_owned());
        }
    }
    let settings = SecuritySettings { protocol: SecurityProtocol::Ssl, tls, ..SecuritySettings::default() };
    if let Err(error) = ClientSecurity::from_settings(&settings) {
        let said = error.to_string();
        assert!(!said.is_empty() && !said.contains("PRIVATE KEY-----\n"), "{said}");
    }
}

pub fn pem_texts() -> Vec<Vec<u8>> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["b".to_owned()]).expect("a name").self_signed(&key);
    let (certificate, key) = (certificate.expect("it signs itself").pem(), key.serialize_pem());
    let both = format!("{key}{certificate}");
    let twice = format!("{certificate}{key}{certificate}{key}");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY") + &certificate;
    let texts = [(0, certificate.clone()), (1, both.clone()), (2, both), (2, twice), (1, encrypted)];
    texts.into_iter().map(|(what, text)| [&[what][..], text.as_bytes()].concat()).collect()
}

/// A follower that does not know the password.
pub fn scram_server(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let listener = ListenerSecurity::plaintext();
    let mut acceptor = SaslAcceptor::default();
    let name = chosen(*choice).name();
    if !acceptor.choose(name.as_bytes(), &listener) {
        return;
    }
    for message in messages(rest) {
        match acceptor.answer(message, &listener, &Credentials::default()) {
            Ok(answer) => assert_eq!(answer.proven, None, "nobody is known here"),
            Err(fault) => {
                assert!(!fault.to_string().is_empty());
                return;
            }
        }
    }
}

pub fn scram_messages() -> Vec<Vec<u8>> {
    let first = b"n,,n=broker,r=fyko+d2lbbFgONRv9qkxdawL";
    let last = b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3r,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
    vec![
        script(1, &[first, last]),
        script(2, &[b"n,a=broker,n=broker,r=x", last]),
        script(0, &[b"\0broker\0x"]),
    ]
}
