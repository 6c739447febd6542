//! What stands in for Kerberos where the program is built without the system's library: values that cannot exist.
//!
//! Owns nothing. It has the shape of `kerberos.rs`, so that nobody else has to ask which of the two there is.

use super::kerberos_login::{KerberosFault, KerberosLogin};
use crate::security::SecurityError;
use std::sync::Arc;
use zeroize::Zeroizing;

pub enum Kerberos {}

#[derive(Debug)]
pub enum Ticket {}

pub enum KerberosClient {}

impl Kerberos {
    pub fn new(_login: KerberosLogin, _refresh_percent: u64) -> Result<Self, SecurityError> {
        Err(SecurityError::Kerberos { why: KerberosFault::Absent })
    }

    pub fn ticket(&self, _host: &str) -> Result<Arc<Ticket>, SecurityError> {
        match *self {}
    }

    pub async fn prepare(&self, _host: &str) {
        match *self {}
    }

    pub async fn keep(&self) {
        match *self {}
    }
}

impl Ticket {
    pub fn user(&self) -> &str {
        match *self {}
    }

    pub fn refuse(&self) {
        match *self {}
    }
}

impl KerberosClient {
    pub fn begin(ticket: &Arc<Ticket>) -> Result<(Self, Zeroizing<Vec<u8>>), KerberosFault> {
        match **ticket {}
    }

    pub fn answer(&mut self, _message: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, SecurityError> {
        match *self {}
    }
}
