//! SCRAM, server side: a follower proves that it knows the password whose keys the metadata log holds.
//!
//! ```text
//!   follower  n,,n=user,r=NONCE            ->  the credential of user is looked up
//!             <- r=NONCE+OURS,s=SALT,i=ITERATIONS
//!             c=biws,r=NONCE+OURS,p=PROOF  ->  H(PROOF xor HMAC(stored key, all of it)) = stored key?
//!             <- v=SIGNATURE
//! ```
//! ref: RFC 5802, RFC 7677, KIP-84. It knows no password and never logs a key. Must never say why a proof is
//! wrong: whoever guesses learns nothing but that.

use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use twinlog_sync::metadata::record::ScramCredential;

/// Bytes of our nonce.
const NONCE_BYTES: usize = 24;
/// Longest message that is looked at. Raised, a stranger makes us hold as much for each connection.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Every credential of the destination, by user and mechanism (1 is SCRAM-SHA-256, 2 is SCRAM-SHA-512).
pub type Credentials = Arc<BTreeMap<(String, i8), ScramCredential>>;

/// Why a follower is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofFault {
    Malformed,
    UnknownUser,
    WrongProof,
}

impl fmt::Display for ProofFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "what it sent is no message of its mechanism",
            Self::UnknownUser => "nobody of that name has a credential for the mechanism",
            Self::WrongProof => "its password is wrong",
        })
    }
}

enum Step {
    AwaitsFirst,
    AwaitsProof { credential: ScramCredential, signed: String, nonce: String },
    Over,
}

/// See the file's header.
pub struct ScramServer {
    is_512: bool,
    nonce: String,
    step: Step,
}

/// What is answered, and who it is once that is proven.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub message: Vec<u8>,
    pub proven: Option<String>,
}

impl ScramServer {
    pub fn new(is_512: bool) -> Self {
        let mut bytes = [0; NONCE_BYTES];
        rand::fill(&mut bytes).expect("the kernel gives random bytes");
        Self { is_512, nonce: STANDARD.encode(bytes), step: Step::AwaitsFirst }
    }

    pub fn answer(&mut self, message: &[u8], credentials: &Credentials) -> Result<Answer, ProofFault> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ProofFault::Malformed);
        }
        let text = std::str::from_utf8(message).map_err(|_| ProofFault::Malformed)?;
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::AwaitsFirst => self.first(text, credentials),
            Step::AwaitsProof { credential, signed, nonce } => self.last(text, &credential, &signed, &nonce),
            Step::Over => Err(ProofFault::Malformed),
        }
    }

    fn first(&mut self, text: &str, credentials: &Credentials) -> Result<Answer, ProofFault> {
        // "n,," or "n,a=NAME,": no channel binding, perhaps a name to act for, which must be its own.
        let rest = text.strip_prefix("n,").ok_or(ProofFault::Malformed)?;
        let (acting, bare) = rest.split_once(',').ok_or(ProofFault::Malformed)?;
        let mut parts = bare.split(',');
        let user = parts.next().and_then(|part| part.strip_prefix("n=")).ok_or(ProofFault::Malformed)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(ProofFault::Malformed)?;
        if nonce.is_empty() || !acting.is_empty() && acting.strip_prefix("a=") != Some(user) {
            return Err(ProofFault::Malformed);
        }
        let name = unescaped(user).ok_or(ProofFault::Malformed)?;
        let key = (name, if self.is_512 { 2 } else { 1 });
        let credential = credentials.get(&key).ok_or(ProofFault::UnknownUser)?.clone();
        let nonce = format!("{nonce}{}", self.nonce);
        let salt = STANDARD.encode(&credential.salt);
        let first = format!("r={nonce},s={salt},i={}", credential.iterations);
        let signed = format!("{bare},{first}");
        self.step = Step::AwaitsProof { credential, signed, nonce };
        Ok(Answer { message: first.into_bytes(), proven: None })
    }

    fn last(
        &self,
        text: &str,
        credential: &ScramCredential,
        signed: &str,
        nonce: &str,
    ) -> Result<Answer, ProofFault> {
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(ProofFault::Malformed)?;
        let mut parts = unproven.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(ProofFault::Malformed)?;
        let binding = STANDARD.decode(binding).map_err(|_| ProofFault::Malformed)?;
        let echoed = parts.next().and_then(|part| part.strip_prefix("r="));
        if !binding.starts_with(b"n,") || echoed != Some(nonce) {
            return Err(ProofFault::Malformed);
        }
        let proof = STANDARD.decode(proof).map_err(|_| ProofFault::Malformed)?;
        let (algorithm, hash) = match self.is_512 {
            false => (hmac::HMAC_SHA256, &digest::SHA256),
            true => (hmac::HMAC_SHA512, &digest::SHA512),
        };
        let signed = format!("{signed},{unproven}");
        let signature = hmac::sign(&hmac::Key::new(algorithm, &credential.stored_key), signed.as_bytes());
        if proof.len() != signature.as_ref().len() {
            return Err(ProofFault::WrongProof);
        }
        let client_key: Vec<u8> =
            proof.iter().zip(signature.as_ref()).map(|(one, other)| one ^ other).collect();
        let stored = digest::digest(hash, &client_key);
        constant_time::verify_slices_are_equal(stored.as_ref(), &credential.stored_key)
            .map_err(|_| ProofFault::WrongProof)?;
        let ours = hmac::sign(&hmac::Key::new(algorithm, &credential.server_key), signed.as_bytes());
        let message = format!("v={}", STANDARD.encode(ours.as_ref())).into_bytes();
        Ok(Answer { message, proven: Some(credential.name.clone()) })
    }
}

/// "=2C" and "=3D" are comma and equals sign; any other "=" is an error.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = part
            .strip_prefix("2C")
            .map(|rest| (',', rest))
            .or(part.strip_prefix("3D").map(|rest| ('=', rest)))?;
        text.push(sign);
        text.push_str(rest);
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::pbkdf2;
    use std::num::NonZeroU32;

    /// The exchange of RFC 7677, section 3.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn credentials() -> Credentials {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut salted = [0; 32];
        let iterations = NonZeroU32::new(4_096).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, b"pencil", &mut salted);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let stored_key = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
        let credential = ScramCredential {
            name: "user".to_owned(),
            mechanism: 1,
            salt,
            stored_key: stored_key.as_ref().to_vec(),
            server_key: hmac::sign(&key, b"Server Key").as_ref().to_vec(),
            iterations: 4_096,
        };
        Arc::new(BTreeMap::from([(("user".to_owned(), 1), credential)]))
    }

    fn server() -> ScramServer {
        ScramServer { is_512: false, nonce: NONCE.to_owned(), step: Step::AwaitsFirst }
    }

    #[test]
    fn the_exchange_of_the_rfc_proves_the_user_and_us() {
        let (mut server, credentials) = (server(), credentials());
        let first = server.answer(CLIENT_FIRST, &credentials).unwrap();
        let expected =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!((std::str::from_utf8(&first.message).unwrap(), first.proven), (expected, None));
        let last = server.answer(PROOF.as_bytes(), &credentials).unwrap();
        assert_eq!(last.message, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(last.proven.as_deref(), Some("user"));
        assert_eq!(server.answer(PROOF.as_bytes(), &credentials), Err(ProofFault::Malformed), "it is over");
    }

    #[test]
    fn a_wrong_proof_proves_nothing_and_ends_the_exchange() {
        let (mut server, credentials) = (server(), credentials());
        server.answer(CLIENT_FIRST, &credentials).unwrap();
        let wrong = PROOF.replace("p=dHzb", "p=dHzc");
        assert_eq!(server.answer(wrong.as_bytes(), &credentials), Err(ProofFault::WrongProof));
        assert_eq!(server.answer(PROOF.as_bytes(), &credentials), Err(ProofFault::Malformed));
    }

    #[test]
    fn messages_that_are_replayed_or_broken_are_refused() {
        let credentials = credentials();
        let long = format!("n,,n=user,r={}", "x".repeat(MESSAGE_BYTES_MAX));
        for first in
            ["", "n,,", "y,,n=user,r=x", "n,a=other,n=user,r=x", "n,,n=us=er,r=x", "n,,n=,r=x", &long]
        {
            assert_eq!(
                server().answer(first.as_bytes(), &credentials),
                Err(ProofFault::Malformed),
                "{first}"
            );
        }
        let unknown = server().answer(b"n,,n=nobody,r=x", &credentials);
        assert_eq!(unknown, Err(ProofFault::UnknownUser));
        for last in ["", "c=biws,r=other,p=AAAA", "c=biws,p=AAAA", "r=x,p=AAAA"] {
            let mut server = server();
            server.answer(CLIENT_FIRST, &credentials).unwrap();
            assert_eq!(server.answer(last.as_bytes(), &credentials), Err(ProofFault::Malformed), "{last}");
        }
        let mut other = ScramServer::new(true);
        assert_eq!(other.answer(CLIENT_FIRST, &credentials), Err(ProofFault::UnknownUser), "of SHA-512");
    }

    #[test]
    fn names_come_out_as_they_went_in() {
        assert_eq!(unescaped("a=3Db=2Cc").as_deref(), Some("a=b,c"));
        assert_eq!((unescaped("a=b"), unescaped("")), (None, None));
    }
}
