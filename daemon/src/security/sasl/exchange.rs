//! One exchange: its frames, its order, its end.

use super::aws::{self, AwsKey};
use super::kerberos::{KerberosClient, Ticket};
use super::scram::{ScramClient, ScramFault};
use crate::security::attempts::Attempts;
use crate::security::{SaslMechanism, Secret, SecurityError};
use aws_lc_rs::rand;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
/// Both requests; see the header of the module.
const VERSION: i16 = 1;
/// Correlation ids of exchanges begin here: requests of a connection count from 0 and never come so far.
const CORRELATION_ID_MIN: i32 = 0x5A5A_0000;
/// Kafka's code for a user or password that is refused.
const AUTHENTICATION_FAILED: i16 = 58;
const UNSUPPORTED_MECHANISM: i16 = 33;
/// What a broker says of a refusal is shown up to so many characters.
const MESSAGE_CHARS_MAX: usize = 200;
/// Mechanisms of a broker that are shown.
const MECHANISMS_MAX: usize = 16;
/// Kafka takes a renewal within a second of the last one for a request that makes no sense, and closes. Lowered, a
/// token whose last second has come costs the connection.
const RENEWAL_PAUSE_MIN: Duration = Duration::from_millis(1_050);
const CLIENT_ID: &str = "twinlog";

/// What is shown to the broker.
#[derive(Clone, Debug)]
pub enum Credential {
    Password {
        user: String,
        password: Secret,
        /// They are id and HMAC of a delegation token.
        is_token: bool,
    },
    /// A bearer token; `user` is a name for messages.
    Token { user: String, token: Secret },
    /// A key that signs who we are; nothing of it is shown but its id.
    Aws { key: AwsKey, region: String },
    /// A ticket for the broker's host.
    Kerberos { ticket: Arc<Ticket> },
}

/// What the mechanism still has to say or to hear.
enum Mechanism {
    Plain,
    Scram(Box<ScramClient>),
    /// Holds what the broker said of the token, once it refused it.
    Oauth {
        refused: Option<String>,
    },
    Aws,
    /// `None` before the first message.
    Kerberos(Option<Box<KerberosClient>>),
}

enum State {
    /// To be sent.
    Handshake,
    AwaitsHandshake,
    Token(Zeroizing<Vec<u8>>),
    AwaitsToken,
    Done,
    Failed,
}

/// See the header of the module.
pub struct SaslExchange {
    host: String,
    mechanism: SaslMechanism,
    credential: Credential,
    attempts: Arc<Attempts>,
    inner: Mechanism,
    state: State,
    correlation_id: i32,
    session_lifetime_ms: i64,
}

impl SaslExchange {
    pub(super) fn new(
        host: &str,
        mechanism: SaslMechanism,
        credential: Credential,
        attempts: Arc<Attempts>,
    ) -> Self {
        let inner = match mechanism {
            SaslMechanism::Plain => Mechanism::Plain,
            SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => {
                Mechanism::Scram(Box::new(ScramClient::new(mechanism == SaslMechanism::ScramSha512)))
            }
            SaslMechanism::OauthBearer => Mechanism::Oauth { refused: None },
            SaslMechanism::AwsMskIam => Mechanism::Aws,
            SaslMechanism::Gssapi => Mechanism::Kerberos(None),
        };
        Self {
            host: host.to_owned(),
            mechanism,
            credential,
            attempts,
            inner,
            state: State::Handshake,
            correlation_id: CORRELATION_ID_MIN,
            session_lifetime_ms: 0,
        }
    }

    /// The next whole request frame, length prefix included; `None` while an answer is awaited and after
    /// the end.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Handshake => {
                self.state = State::AwaitsHandshake;
                let mut body = Vec::new();
                put_string(&mut body, self.mechanism.name());
                Some(self.frame(SASL_HANDSHAKE, &body))
            }
            State::Token(token) => {
                self.state = State::AwaitsToken;
                let mut body = Zeroizing::new(Vec::with_capacity(4 + token.len()));
                let length = i32::try_from(token.len()).expect("bounded where it was made");
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(&token);
                Some(self.frame(SASL_AUTHENTICATE, &body))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// A whole answer frame without its length prefix. After an error the exchange is over.
    pub fn answer(&mut self, frame: &[u8]) -> Result<(), SecurityError> {
        let taken = self.take_answer(frame);
        match &taken {
            Ok(()) if self.is_done() => self.attempts.believed(&self.host),
            Ok(()) => {}
            Err(error) => {
                self.state = State::Failed;
                if error.is_authentication() {
                    self.attempts.refused(&self.host, error, Instant::now());
                    if let Credential::Kerberos { ticket } = &self.credential {
                        ticket.refuse();
                    }
                }
            }
        }
        taken
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How long the broker believes us, once it is done; 0: as long as the connection lasts.
    pub fn session_lifetime_ms(&self) -> i64 {
        self.session_lifetime_ms
    }

    /// After how long the session is to be renewed: 85 to 95 percent of it, so that connections that were
    /// opened together are not renewed together. ref: KIP-368
    /// Kafka takes a renewal that comes late, behind an answer that was waited for, but no other request then.
    pub fn renew_after(&self) -> Option<Duration> {
        let lifetime_ms = u64::try_from(self.session_lifetime_ms).ok().filter(|lifetime| *lifetime > 0)?;
        let mut chance = [0u8; 1];
        // Without a random byte all are renewed at 85 percent, which is as safe.
        let _ = rand::fill(&mut chance);
        let after_ms =
            lifetime_ms / 1_000 * (850 + u64::from(chance[0]) * 100 / 255) + lifetime_ms % 1_000 * 85 / 100;
        Some(Duration::from_millis(after_ms).max(RENEWAL_PAUSE_MIN))
    }

    /// As whom; for messages.
    pub fn user(&self) -> &str {
        match &self.credential {
            Credential::Password { user, .. } | Credential::Token { user, .. } => user,
            Credential::Aws { key, .. } => &key.id,
            Credential::Kerberos { ticket } => ticket.user(),
        }
    }

    fn frame(&self, api_key: i16, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 4];
        // One allocation: growing would leave copies of the body behind that nobody overwrites.
        frame.reserve_exact(10 + CLIENT_ID.len() + body.len());
        frame.extend_from_slice(&api_key.to_be_bytes());
        frame.extend_from_slice(&VERSION.to_be_bytes());
        frame.extend_from_slice(&self.correlation_id.to_be_bytes());
        put_string(&mut frame, CLIENT_ID);
        frame.extend_from_slice(body);
        let length = i32::try_from(frame.len() - 4).expect("requests are far below 2 GiB");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame
    }

    fn malformed(&self, what: &'static str) -> SecurityError {
        SecurityError::SaslMalformed { mechanism: self.mechanism, what }
    }

    fn take_answer(&mut self, frame: &[u8]) -> Result<(), SecurityError> {
        let mut reader = Reader(frame);
        let correlation_id = reader.i32().ok_or_else(|| self.malformed("no correlation id"))?;
        if correlation_id != self.correlation_id {
            return Err(self.malformed("another request's answer"));
        }
        self.correlation_id += 1;
        match self.state {
            State::AwaitsHandshake => self.take_handshake(reader),
            State::AwaitsToken => self.take_token(reader),
            State::Handshake | State::Token(_) | State::Done | State::Failed => {
                Err(self.malformed("an answer to nothing"))
            }
        }
    }

    fn take_handshake(&mut self, mut reader: Reader<'_>) -> Result<(), SecurityError> {
        let (code, offered) =
            reader.handshake().ok_or_else(|| self.malformed("SaslHandshake v1 ends early"))?;
        match code {
            0 => {}
            UNSUPPORTED_MECHANISM => {
                return Err(SecurityError::MechanismRefused { mechanism: self.mechanism, offered });
            }
            code => return Err(SecurityError::SaslRefused { mechanism: self.mechanism, code }),
        }
        let first = self.first_token()?;
        self.state = State::Token(first);
        Ok(())
    }

    fn first_token(&mut self) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
        let mut token = Zeroizing::new(Vec::new());
        match (&mut self.inner, &self.credential) {
            (Mechanism::Plain, Credential::Password { user, password, .. }) => {
                token.reserve_exact(2 + user.len() + password.expose().len());
                token.push(0);
                token.extend_from_slice(user.as_bytes());
                token.push(0);
                token.extend_from_slice(password.expose().as_bytes());
            }
            (Mechanism::Scram(scram), Credential::Password { user, is_token, .. }) => {
                token.extend_from_slice(scram.client_first(user, *is_token).as_bytes());
            }
            (Mechanism::Oauth { .. }, Credential::Token { token: bearer, .. }) => {
                token.reserve_exact(20 + bearer.expose().len());
                token.extend_from_slice(b"n,,\x01auth=Bearer ");
                token.extend_from_slice(bearer.expose().as_bytes());
                token.extend_from_slice(b"\x01\x01");
            }
            (Mechanism::Aws, Credential::Aws { key, region }) => {
                // Signed only now: a signature is good for minutes, and connecting may take some.
                token = aws::message(key, region, &self.host, SystemTime::now());
            }
            (Mechanism::Kerberos(client), Credential::Kerberos { ticket }) => {
                let begun = KerberosClient::begin(ticket).map_err(|why| {
                    // Not every reason ends by itself: the next attempt is made with another ticket.
                    ticket.refuse();
                    SecurityError::Kerberos { why }
                })?;
                *client = Some(Box::new(begun.0));
                token = begun.1;
            }
            _ => unreachable!("the login gives each mechanism its kind of credential"),
        }
        Ok(token)
    }

    fn take_token(&mut self, mut reader: Reader<'_>) -> Result<(), SecurityError> {
        let answer = reader.authenticate().ok_or_else(|| self.malformed("SaslAuthenticate v1 ends early"))?;
        match answer.code {
            0 => {}
            AUTHENTICATION_FAILED => {
                let told = match &mut self.inner {
                    Mechanism::Oauth { refused } => refused.take(),
                    _ => None,
                };
                let message = told.or(answer.message).unwrap_or_default();
                return Err(self.refused(&message));
            }
            code => return Err(SecurityError::SaslRefused { mechanism: self.mechanism, code }),
        }
        let next = match (&mut self.inner, &self.credential) {
            (Mechanism::Scram(scram), Credential::Password { password, .. }) => {
                let step = scram.answer(answer.bytes, password);
                step.map_err(|fault| self.scram_fault(fault))?
            }
            (Mechanism::Oauth { refused }, _) if !answer.bytes.is_empty() => {
                if refused.is_some() {
                    return Err(self.malformed("a second refusal of one token"));
                }
                // The broker says why, and ends only after one more word of ours. ref: RFC 7628 3.2.3
                *refused = Some(printable(&String::from_utf8_lossy(answer.bytes)));
                Some(Zeroizing::new(vec![1]))
            }
            (Mechanism::Kerberos(client), _) => {
                let client = client.as_mut().expect("it said the first word");
                client.answer(answer.bytes)?
            }
            // What AWS's own client asks for, too: an empty word would be somebody who did not look.
            (Mechanism::Aws, _) if answer.bytes.is_empty() => {
                return Err(self.malformed("an empty answer to a signature"));
            }
            _ => None,
        };
        self.state = match next {
            Some(token) => State::Token(token),
            None => State::Done,
        };
        self.session_lifetime_ms = answer.session_lifetime_ms;
        Ok(())
    }

    fn refused(&self, message: &str) -> SecurityError {
        let message = printable(message);
        SecurityError::AuthenticationFailed {
            mechanism: self.mechanism,
            user: self.user().to_owned(),
            message,
        }
    }

    fn scram_fault(&self, fault: ScramFault) -> SecurityError {
        match fault {
            ScramFault::ServerNotProven => SecurityError::ServerNotProven { mechanism: self.mechanism },
            ScramFault::Refused { message } => self.refused(&message),
            ScramFault::Malformed { what } => self.malformed(what),
        }
    }
}

impl fmt::Debug for SaslExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaslExchange({} as {:?} at {})", self.mechanism, self.user(), self.host)
    }
}

/// What a broker says may come from anybody: no control characters, and not endless.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

fn put_string(into: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("names of ours are short");
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

struct AuthenticateAnswer<'a> {
    code: i16,
    message: Option<String>,
    bytes: &'a [u8],
    session_lifetime_ms: i64,
}

/// Foreign bytes, each length checked against what is there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take(2).map(|bytes| i16::from_be_bytes(bytes.try_into().expect("two bytes")))
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4).map(|bytes| i32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    fn i64(&mut self) -> Option<i64> {
        self.take(8).map(|bytes| i64::from_be_bytes(bytes.try_into().expect("eight bytes")))
    }

    fn nullable_string(&mut self) -> Option<Option<String>> {
        match self.i16()? {
            -1 => Some(None),
            length => {
                let bytes = self.take(usize::try_from(length).ok()?)?;
                Some(Some(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
    }

    fn handshake(&mut self) -> Option<(i16, Vec<String>)> {
        let code = self.i16()?;
        let count = self.i32()?;
        let mut offered = Vec::new();
        for _ in 0..count.max(0) {
            let name = self.nullable_string()??;
            if offered.len() < MECHANISMS_MAX {
                offered.push(printable(&name));
            }
        }
        self.0.is_empty().then_some((code, offered))
    }

    fn authenticate(&mut self) -> Option<AuthenticateAnswer<'a>> {
        let code = self.i16()?;
        let message = self.nullable_string()?;
        let bytes = match self.i32()? {
            -1 => &[][..],
            length => self.take(usize::try_from(length).ok()?)?,
        };
        let session_lifetime_ms = self.i64()?;
        self.0.is_empty().then_some(AuthenticateAnswer { code, message, bytes, session_lifetime_ms })
    }
}
