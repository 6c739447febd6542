//! SASL as frames, client side: what to send, what the answers mean. Knows nothing of sockets.
//!
//! ```text
//!   poll_frame -> SaslHandshake v1 (mechanism)      answer <- error or the mechanisms that are offered
//!   poll_frame -> SaslAuthenticate v1 (bytes)       answer <- error 58, or bytes of the mechanism
//!   ... once (PLAIN, OAUTHBEARER, AWS_MSK_IAM), twice (SCRAM) or three times (GSSAPI), then is_done
//! ```
//! Version 1 of both is spoken by every broker since 2.2, and needs no ApiVersions before it (ref: KIP-43,
//! KIP-152, KIP-368). Must never let a secret out but in those bytes, which are overwritten afterwards.

mod aws;
mod aws_credentials;
mod endpoint;
mod exchange;
#[cfg(test)]
mod exchange_tests;
mod jaas;
#[cfg(feature = "gssapi")]
mod kerberos;
#[cfg(not(feature = "gssapi"))]
#[path = "kerberos_absent.rs"]
mod kerberos;
#[cfg(feature = "gssapi")]
mod kerberos_context;
mod kerberos_login;
mod login;
mod scram;
mod token;

pub use aws_credentials::AwsFault;
pub use exchange::SaslExchange;
pub use jaas::JaasFault;
pub use kerberos_login::KerberosFault;
pub use login::SaslLogin;
pub use token::TokenFault;
