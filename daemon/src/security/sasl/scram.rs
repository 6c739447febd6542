//! SCRAM, client side: three messages of ours and of the server, and the proof that each knows the password.
//!
//! ```text
//!   n,,n=user,r=NONCE            ->
//!                                <-  r=NONCE+THEIRS,s=SALT,i=ITERATIONS
//!   c=biws,r=NONCE+THEIRS,p=PROOF ->
//!                                <-  v=SIGNATURE, or e=why not
//! ```
//! ref: RFC 5802, RFC 7677, KIP-84. Who logs in by a delegation token adds `,tokenauth=true` to the first
//! message (ref: KIP-48). Names are not prepared by SASLprep, as Kafka's own clients do not.
//! Must never end well without the server's signature: without it anybody could be the broker.

use crate::security::Secret;
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// Below it RFC 7677 calls a password badly kept; Kafka refuses to store such a credential.
const ITERATIONS_MIN: u32 = 4_096;
/// Raised, a hostile broker keeps our core busy for longer with one answer. Kafka stores 16384 at most.
const ITERATIONS_MAX: u32 = 100_000;
/// Bytes of our nonce.
const NONCE_BYTES: usize = 24;
/// Longest message of a server that is looked at.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Why an answer of the server is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScramFault {
    Malformed {
        what: &'static str,
    },
    /// `e=` of the server's last message.
    Refused {
        message: String,
    },
    ServerNotProven,
}

enum Step {
    AwaitsFirst,
    /// Holds the signature that only who knows the password can send.
    AwaitsFinal {
        signature: Vec<u8>,
    },
    Over,
}

/// See the file's header.
pub struct ScramClient {
    algorithms: &'static Algorithms,
    nonce: String,
    /// Our first message without its prefix: part of what is signed.
    first_bare: String,
    step: Step,
}

struct Algorithms {
    hmac: &'static hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    digest: &'static digest::Algorithm,
}

static SHA_256: Algorithms =
    Algorithms { hmac: &hmac::HMAC_SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256, digest: &digest::SHA256 };
static SHA_512: Algorithms =
    Algorithms { hmac: &hmac::HMAC_SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512, digest: &digest::SHA512 };

impl ScramClient {
    pub fn new(is_512: bool) -> Self {
        let mut bytes = [0; NONCE_BYTES];
        rand::fill(&mut bytes).expect("the kernel gives random bytes");
        Self::with_nonce(is_512, STANDARD.encode(bytes))
    }

    fn with_nonce(is_512: bool, nonce: String) -> Self {
        let algorithms = if is_512 { &SHA_512 } else { &SHA_256 };
        Self { algorithms, nonce, first_bare: String::new(), step: Step::AwaitsFirst }
    }

    /// Our first message; `is_token`: the user is the id of a delegation token.
    pub fn client_first(&mut self, user: &str, is_token: bool) -> String {
        let escaped = user.replace('=', "=3D").replace(',', "=2C");
        let extension = if is_token { ",tokenauth=true" } else { "" };
        self.first_bare = format!("n={escaped},r={}{extension}", self.nonce);
        format!("n,,{}", self.first_bare)
    }

    /// Takes the server's message. `Some`: what to send; `None`: it proved itself and all is said.
    pub fn answer(
        &mut self,
        message: &[u8],
        password: &Secret,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ScramFault> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ScramFault::Malformed { what: "a message that is too long" });
        }
        let text = std::str::from_utf8(message).map_err(|_| ScramFault::Malformed { what: "not UTF-8" })?;
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::AwaitsFirst => self.client_final(text, password).map(Some),
            Step::AwaitsFinal { signature } => check_final(text, &signature).map(|()| None),
            Step::Over => Err(ScramFault::Malformed { what: "a message after the last" }),
        }
    }

    fn client_final(&mut self, first: &str, password: &Secret) -> Result<Zeroizing<Vec<u8>>, ScramFault> {
        let (nonce, salt, iterations) = self.read_first(first)?;
        let Algorithms { hmac: algorithm, pbkdf2: derivation, digest } = self.algorithms;
        let mut salted = Zeroizing::new(vec![0; digest.output_len()]);
        pbkdf2::derive(*derivation, iterations, &salt, password.expose().as_bytes(), &mut salted);
        let key = hmac::Key::new(**algorithm, &salted);
        let client_key = hmac::sign(&key, b"Client Key");
        let server_key = hmac::sign(&key, b"Server Key");
        let stored_key = digest::digest(digest, client_key.as_ref());
        // "biws" is "n,," in Base64: no channel binding, as Kafka has none.
        let mut last = format!("c=biws,r={nonce}");
        let signed = format!("{},{first},{last}", self.first_bare);
        let client_signature =
            hmac::sign(&hmac::Key::new(**algorithm, stored_key.as_ref()), signed.as_bytes());
        let pairs = client_key.as_ref().iter().zip(client_signature.as_ref());
        let proof: Zeroizing<Vec<u8>> = Zeroizing::new(pairs.map(|(one, other)| one ^ other).collect());
        let _ = write!(last, ",p={}", STANDARD.encode(proof.as_slice()));
        let expected = hmac::sign(&hmac::Key::new(**algorithm, server_key.as_ref()), signed.as_bytes());
        self.step = Step::AwaitsFinal { signature: expected.as_ref().to_vec() };
        Ok(Zeroizing::new(last.into_bytes()))
    }

    /// Nonce, salt and iterations of the server's first message.
    fn read_first<'a>(&self, first: &'a str) -> Result<(&'a str, Vec<u8>, NonZeroU32), ScramFault> {
        let malformed = |what| ScramFault::Malformed { what };
        if let Some(message) = first.strip_prefix("e=") {
            return Err(ScramFault::Refused { message: message.to_owned() });
        }
        let mut parts = first.split(',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce = part("r=").ok_or(malformed("no r= in its first message"))?;
        let salt = part("s=").ok_or(malformed("no s= in its first message"))?;
        let iterations = part("i=").ok_or(malformed("no i= in its first message"))?;
        // A nonce that does not begin with ours belongs to an exchange that somebody recorded.
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(malformed("a nonce that does not go on from ours"));
        }
        let salt = STANDARD.decode(salt).map_err(|_| malformed("a salt that is not Base64"))?;
        let iterations: u32 = iterations.parse().map_err(|_| malformed("iterations that are no number"))?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(malformed("iterations outside of 4096 to 100000"));
        }
        Ok((nonce, salt, NonZeroU32::new(iterations).expect("at least 4096")))
    }
}

fn check_final(text: &str, expected: &[u8]) -> Result<(), ScramFault> {
    if let Some(message) = text.strip_prefix("e=") {
        return Err(ScramFault::Refused { message: message.to_owned() });
    }
    let value = text.strip_prefix("v=").and_then(|rest| rest.split(',').next());
    let value = value.ok_or(ScramFault::Malformed { what: "no v= in its last message" })?;
    let signature = STANDARD
        .decode(value)
        .map_err(|_| ScramFault::Malformed { what: "a signature that is not Base64" })?;
    constant_time::verify_slices_are_equal(&signature, expected).map_err(|_| ScramFault::ServerNotProven)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begun() -> ScramClient {
        let mut client = ScramClient::with_nonce(false, NONCE.to_owned());
        assert_eq!(client.client_first("user", false), format!("n,,n=user,r={NONCE}"));
        client
    }

    #[test]
    fn the_exchange_of_the_rfc_is_the_one_that_we_make() {
        let mut client = begun();
        let password = Secret::from("pencil");
        let last = client.answer(SERVER_FIRST.as_bytes(), &password).unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&last),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(client.answer(proof, &password), Ok(None));
        assert!(client.answer(proof, &password).is_err(), "it is over");
    }

    #[test]
    fn a_server_without_the_password_is_an_impostor() {
        let password = Secret::from("pencil");
        for (last, fault) in [
            (
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
                ScramFault::Malformed { what: "a signature that is not Base64" },
            ),
            ("v=AAAA", ScramFault::ServerNotProven),
            ("v=", ScramFault::ServerNotProven),
            ("", ScramFault::Malformed { what: "no v= in its last message" }),
            ("e=other-error", ScramFault::Refused { message: "other-error".to_owned() }),
        ] {
            let mut client = begun();
            client.answer(SERVER_FIRST.as_bytes(), &password).unwrap();
            assert_eq!(client.answer(last.as_bytes(), &password), Err(fault), "{last}");
        }
    }

    #[test]
    fn first_messages_that_are_replayed_weak_or_broken_are_refused() {
        let long = format!("r={NONCE}x,s={},i=4096", "A".repeat(MESSAGE_BYTES_MAX));
        for first in [
            "",
            "r=,s=,i=",
            "r=another,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
            "m=1,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            &long,
        ] {
            let answer = begun().answer(first.as_bytes(), &Secret::from("pencil"));
            assert!(matches!(answer, Err(ScramFault::Malformed { .. })), "{first}: {answer:?}");
        }
    }

    #[test]
    fn names_are_escaped_so_that_none_ends_its_own_field() {
        let mut client = ScramClient::with_nonce(true, NONCE.to_owned());
        assert_eq!(client.client_first("a=b,c", false), format!("n,,n=a=3Db=2Cc,r={NONCE}"));
        let token = client.client_first("id", true);
        assert_eq!(token, format!("n,,n=id,r={NONCE},tokenauth=true"));
    }
}
