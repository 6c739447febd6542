//! AWS_MSK_IAM against a verifier of our own, over TLS: it is not AWS, but it checks each signature by what AWS
//! documents, with code of its own, and ends sessions as a broker does.

use aws_lc_rs::{digest, hmac};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsResponse, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Encodable;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use twinlog_daemon::control::source_client::{Connection, ConnectionOptions};
use twinlog_daemon::security::{
    AwsSettings, ClientSecurity, SaslMechanism, SaslSettings, SecurityProtocol, SecuritySettings,
    TlsSettings, TrustSource,
};
use twinlog_tests::kafka::security::{Authority, HOST};
use twinlog_tests::poll;

const REGION: &str = "eu-west-1";
/// Sessions end after so long unless they are renewed.
const SESSION_MS: i64 = 2_000;
const METADATA: i16 = 3;
const SASL_HANDSHAKE: i16 = 17;
const API_VERSIONS: i16 = 18;
const SASL_AUTHENTICATE: i16 = 36;
const METADATA_VERSION: i16 = 9;

/// Keys that the verifier knows, each with its secret and session token, and what it saw.
struct Verifier {
    keys: Vec<(&'static str, &'static str, &'static str)>,
    /// Ids of keys that were believed, in their order.
    believed: Mutex<Vec<String>>,
    connections: AtomicU32,
}

/// What is wrong with a message; `Ok` holds the id of its key.
fn verified(keys: &[(&'static str, &'static str, &'static str)], message: &[u8]) -> Result<String, String> {
    let fields: Value = serde_json::from_slice(message).map_err(|error| error.to_string())?;
    let field = |name: &str| fields[name].as_str().map(str::to_owned).ok_or(format!("no {name}"));
    for (name, value) in [
        ("version", "2020_10_22"),
        ("host", HOST),
        ("action", "kafka-cluster:Connect"),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-signedheaders", "host"),
        ("x-amz-expires", "900"),
    ] {
        if field(name)? != value {
            return Err(format!("{name} is {:?}", field(name)));
        }
    }
    if !field("user-agent")?.starts_with("twinlog/") {
        return Err("no user agent".to_owned());
    }
    let (credential, date) = (field("x-amz-credential")?, field("x-amz-date")?);
    let parts: Vec<&str> = credential.split('/').collect();
    let [id, day, REGION, "kafka-cluster", "aws4_request"] = parts[..] else {
        return Err(format!("the credential is {credential}"));
    };
    if date.len() != 16 || !date.starts_with(day) || !date.ends_with('Z') {
        return Err(format!("the date is {date}"));
    }
    let known = keys.iter().find(|(known, ..)| *known == id);
    let (_, secret, session_token) = known.ok_or(format!("nobody knows {id}"))?;
    let mut query = vec![
        ("Action", field("action")?),
        ("X-Amz-Algorithm", field("x-amz-algorithm")?),
        ("X-Amz-Credential", credential.clone()),
        ("X-Amz-Date", date.clone()),
        ("X-Amz-Expires", field("x-amz-expires")?),
        ("X-Amz-SignedHeaders", field("x-amz-signedheaders")?),
    ];
    if !session_token.is_empty() {
        let shown = field("x-amz-security-token")?;
        if shown != *session_token {
            return Err("another session's token".to_owned());
        }
        query.insert(5, ("X-Amz-Security-Token", shown));
    }
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let body = hexadecimal(digest::digest(&digest::SHA256, b"").as_ref());
    let request = format!("GET\n/\n{}\nhost:{HOST}\n\nhost\n{body}", query.join("&"));
    let hash = hexadecimal(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{day}/{REGION}/kafka-cluster/aws4_request\n{hash}");
    let mac = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let derived = [REGION, "kafka-cluster", "aws4_request"];
    let first = mac(format!("AWS4{secret}").as_bytes(), day);
    let key = derived.into_iter().fold(first, |key, part| mac(&key, part));
    if field("x-amz-signature")? == hexadecimal(&mac(&key, &text)) {
        Ok(id.to_owned())
    } else {
        Err("the signature is another one".to_owned())
    }
}

fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Verifier {
    /// Serves connections until the test's process ends. Returns its port.
    fn start(self: Arc<Self>, config: Arc<ServerConfig>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (verifier, config) = (self.clone(), config.clone());
                std::thread::spawn(move || {
                    verifier.connections.fetch_add(1, Ordering::Relaxed);
                    let tls = ServerConnection::new(config).expect("a configuration");
                    verifier.serve(StreamOwned::new(tls, stream))
                });
            }
        });
        port
    }

    /// One connection, until somebody is refused, asks after the end of the session, or goes.
    fn serve(&self, mut stream: StreamOwned<ServerConnection, TcpStream>) -> Option<()> {
        let mut session_end = Instant::now();
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length).ok()?;
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut frame).ok()?;
            let mut request = Bytes::from(frame);
            let (api_key, version, correlation_id) =
                (request.get_i16(), request.get_i16(), request.get_i32());
            let client = usize::try_from(request.get_i16()).expect("a client's name");
            request.advance(client);
            let mut answer = BytesMut::new();
            answer.put_i32(correlation_id);
            match api_key {
                SASL_HANDSHAKE => {
                    assert_eq!(request, Bytes::from_static(b"\0\x0bAWS_MSK_IAM"));
                    answer.put_slice(b"\0\0\0\0\0\x01\0\x0bAWS_MSK_IAM");
                }
                SASL_AUTHENTICATE => {
                    let message = request.split_off(4);
                    let known = verified(&self.keys, &message);
                    self.answer_login(&known, &mut answer);
                    session_end = Instant::now() + Duration::from_millis(SESSION_MS as u64);
                    if let Ok(id) = known {
                        self.believed.lock().expect("no panic").push(id);
                    }
                }
                _ if Instant::now() > session_end => return None,
                API_VERSIONS => {
                    let range = |key, max| {
                        ApiVersion::default().with_api_key(key).with_min_version(0).with_max_version(max)
                    };
                    let keys = vec![range(API_VERSIONS, version), range(METADATA, METADATA_VERSION)];
                    let versions = ApiVersionsResponse::default().with_api_keys(keys);
                    versions.encode(&mut answer, version).expect("versions can be written");
                }
                METADATA => {
                    // The header of a flexible answer has tagged fields, none here.
                    answer.put_u8(0);
                    MetadataResponse::default()
                        .encode(&mut answer, METADATA_VERSION)
                        .expect("it can be written");
                }
                other => panic!("request {other} was not asked for"),
            }
            let mut framed = BytesMut::new();
            framed.put_u32(answer.len() as u32);
            framed.put_slice(&answer);
            stream.write_all(&framed).ok()?;
        }
    }

    fn answer_login(&self, known: &Result<String, String>, answer: &mut BytesMut) {
        match known {
            Ok(_) => {
                let said = br#"{"version":"2020_10_22","request-id":"1"}"#;
                answer.put_i16(0);
                answer.put_i16(-1);
                answer.put_i32(said.len() as i32);
                answer.put_slice(said);
                answer.put_i64(SESSION_MS);
            }
            Err(why) => {
                answer.put_i16(58);
                answer.put_i16(why.len() as i16);
                answer.put_slice(why.as_bytes());
                answer.put_i32(0);
                answer.put_i64(0);
            }
        }
    }
}

fn server_config(authority: &Authority) -> Arc<ServerConfig> {
    let pem = std::fs::read(authority.sign("aws.pem", HOST, false)).expect("just written");
    let certificate = CertificateDer::from_pem_slice(&pem).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&pem).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).expect("they belong together"))
}

#[test]
fn a_signature_of_aws_is_believed_and_made_anew_before_the_session_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&directory.path().join("authority"), "of the verifier");
    let verifier = Arc::new(Verifier {
        keys: vec![("AKIDFIRST", "first/secret+", ""), ("ASIASECOND", "second-secret", "to/ken+=")],
        believed: Mutex::default(),
        connections: AtomicU32::new(0),
    });
    let port = verifier.clone().start(server_config(&authority));
    let file = directory.path().join("credentials");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("[default]\naws_access_key_id = AKIDFIRST\naws_secret_access_key = first/secret+\n");
    let trust = std::fs::read_to_string(authority.certificate()).expect("readable");
    let settings = SecuritySettings {
        protocol: SecurityProtocol::SaslSsl,
        tls: TlsSettings { trust: TrustSource::Inline(trust), ..TlsSettings::default() },
        sasl: SaslSettings {
            mechanism: Some(SaslMechanism::AwsMskIam),
            aws: AwsSettings { region: REGION.to_owned(), credentials_file: Some(file.clone()) },
            ..SaslSettings::default()
        },
    };
    let options = ConnectionOptions {
        client_id: "test".to_owned(),
        request_timeout: Duration::from_secs(30),
        security: ClientSecurity::from_settings(&settings).expect("a key in the file"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = format!("{HOST}:{port}").parse().expect("an address");
    let mut connection = runtime.block_on(Connection::open(&server, &options)).expect("it is believed");
    let mut poll_until = |what: &str, is_so: &dyn Fn(&Connection) -> bool| {
        poll::poll_until(what, || {
            let asked = runtime.block_on(connection.exchange(&MetadataRequest::default(), METADATA_VERSION));
            asked.expect("the session is renewed before it ends");
            is_so(&connection)
        });
    };
    poll_until("the session was renewed twice", &|connection| connection.logins() > 2);
    let second = "aws_access_key_id = ASIASECOND\naws_secret_access_key = second-secret\n";
    write(&format!("[default]\n{second}aws_session_token = to/ken+=\n"));
    let last = || verifier.believed.lock().expect("no panic").last().cloned();
    poll_until("the renewed key is used", &|_| last().as_deref() == Some("ASIASECOND"));
    assert_eq!(verifier.connections.load(Ordering::Relaxed), 1, "it is the same connection all the time");
    write("[default]\naws_access_key_id = AKIDFIRST\naws_secret_access_key = hunter2\n");
    let refused = poll::poll_for("the wrong key is refused", || {
        runtime.block_on(Connection::open(&server, &options)).err().map(|error| error.to_string())
    });
    assert!(
        refused.contains("AWS_MSK_IAM as \"AKIDFIRST\" is refused (the signature is another one)"),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"), "{refused}");
}
