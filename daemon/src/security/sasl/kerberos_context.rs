//! The client's side of one exchange by Kerberos.
//!
//! ```text
//!   ticket for the broker, and proof that it is ours     ->
//!                                                        <-  proof that the broker has the service's key
//!   (nothing)                                            ->
//!                                                        <-  wrapped: layers that are offered, largest message
//!   wrapped: no layer, and as nobody else                ->
//!                                                        <-  (nothing), and how long the session lives
//! ```
//! Owns one context of the system's library. What it needs lies in memory when it begins: no call here asks the
//! network. Must never end well without the broker's proof. ref: RFC 4752 3.1

use super::kerberos::{Ticket, told};
use super::kerberos_login::KerberosFault;
use crate::security::{SaslMechanism, SecurityError};
use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext};
use libgssapi::error::Error;
use libgssapi::oid::GSS_MECH_KRB5;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest message in either direction; a ticket that lists a user's hundreds of groups has some ten thousand.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The one layer that Kafka speaks: none.
const LAYER_NONE: u8 = 1;

enum Stage {
    AwaitsProof,
    AwaitsLayers,
    AwaitsEnd,
    Over,
}

/// See the file's header.
pub struct KerberosClient {
    context: ClientCtx,
    stage: Stage,
    /// Its cache must outlive the context.
    _ticket: Arc<Ticket>,
}

impl KerberosClient {
    /// The client and its first message.
    pub fn begin(ticket: &Arc<Ticket>) -> Result<(Self, Zeroizing<Vec<u8>>), KerberosFault> {
        let library = |error: Error| KerberosFault::Library { told: told(&error) };
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG | CtxFlags::GSS_C_INTEG_FLAG;
        let (credential, target) = (ticket.credential(), ticket.target().duplicate().map_err(library)?);
        let mut context = ClientCtx::new(Some(credential), target, flags, Some(GSS_MECH_KRB5));
        let first = context.step(None, None).map_err(library)?;
        let first = bounded(first.as_deref().unwrap_or_default())?;
        Ok((Self { context, stage: Stage::AwaitsProof, _ticket: ticket.clone() }, first))
    }

    /// What to say to an answer; `None`: nothing more. After an error it is over.
    pub fn answer(&mut self, message: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, SecurityError> {
        if message.len() > MESSAGE_BYTES_MAX {
            let (bytes, bytes_max) = (message.len(), MESSAGE_BYTES_MAX);
            return Err(kerberos(KerberosFault::TooLong { bytes, bytes_max }));
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::AwaitsProof => self.take_proof(message).map(Some),
            Stage::AwaitsLayers => self.take_layers(message).map(Some),
            Stage::AwaitsEnd if message.is_empty() => Ok(None),
            Stage::AwaitsEnd => Err(malformed("a message behind the last one")),
            Stage::Over => Err(malformed("an answer to nothing")),
        }
    }

    fn take_proof(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
        if message.is_empty() {
            return Err(malformed("an empty answer to a ticket"));
        }
        let next = self.context.step(Some(message), None).map_err(not_proven)?;
        if !self.context.is_complete() {
            return Err(malformed("a context of more than two messages"));
        }
        self.stage = Stage::AwaitsLayers;
        bounded(next.as_deref().unwrap_or_default()).map_err(kerberos)
    }

    fn take_layers(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
        let plain = self.context.unwrap(message).map_err(not_proven)?;
        let Ok([offered, _, _, _]) = <[u8; 4]>::try_from(&plain[..]) else {
            return Err(malformed("the layers are not four bytes"));
        };
        if offered & LAYER_NONE == 0 {
            return Err(kerberos(KerberosFault::Layers { offered }));
        }
        let library = |error: Error| kerberos(KerberosFault::Library { told: told(&error) });
        let wrapped = self.context.wrap(false, &[LAYER_NONE, 0, 0, 0]).map_err(library)?;
        self.stage = Stage::AwaitsEnd;
        bounded(&wrapped).map_err(kerberos)
    }
}

fn malformed(what: &'static str) -> SecurityError {
    SecurityError::SaslMalformed { mechanism: SaslMechanism::Gssapi, what }
}

/// It is not made with the key of the service that the ticket is for.
fn not_proven(_: Error) -> SecurityError {
    SecurityError::ServerNotProven { mechanism: SaslMechanism::Gssapi }
}

fn kerberos(why: KerberosFault) -> SecurityError {
    SecurityError::Kerberos { why }
}

fn bounded(message: &[u8]) -> Result<Zeroizing<Vec<u8>>, KerberosFault> {
    let (bytes, bytes_max) = (message.len(), MESSAGE_BYTES_MAX);
    if bytes > bytes_max {
        return Err(KerberosFault::TooLong { bytes, bytes_max });
    }
    Ok(Zeroizing::new(message.to_vec()))
}
