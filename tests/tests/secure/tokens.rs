//! Bearer tokens that nobody signed, and a token endpoint on this host that gives them away.
//!
//! Kafka's validator of unsigned tokens believes them: it is the one that a broker has without a key set.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twinlog_tests::kafka::security::{PASSWORD, USER};

/// `{"alg":"none"}` and claims that end after so long.
pub fn unsigned_token(life: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let claims = format!("{{\"sub\":\"{USER}\",\"iat\":{now},\"exp\":{}}}", now + life.as_secs());
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims))
}

/// Client credentials go in, tokens come out.
pub struct TokenServer {
    pub url: String,
    issued: Arc<AtomicU32>,
}

impl TokenServer {
    /// Tokens live for `life`; the client is the user of secured clusters.
    pub fn start(life: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let issued = Arc::new(AtomicU32::new(0));
        let counted = issued.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if serve(stream, life).is_some() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { url: format!("http://127.0.0.1:{port}/token"), issued }
    }

    /// Tokens so far.
    pub fn issued(&self) -> u32 {
        self.issued.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, life: Duration) -> Option<()> {
    let mut asked = Vec::new();
    while !String::from_utf8_lossy(&asked).contains("grant_type=client_credentials") {
        let mut piece = [0; 4_096];
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        asked.extend_from_slice(&piece[..length]);
    }
    let login = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let (status, body) = if String::from_utf8_lossy(&asked).contains(&login) {
        let token = unsigned_token(life);
        ("200 OK", format!("{{\"access_token\":\"{token}\",\"expires_in\":{}}}", life.as_secs()))
    } else {
        ("401 Unauthorized", "{\"error\":\"invalid_client\"}".to_owned())
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).ok()?;
    (status == "200 OK").then_some(())
}
