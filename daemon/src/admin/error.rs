//! Why a request is not done: a code for programs, a sentence for people.
//!
//! The first three digits of a code are the HTTP status, as everywhere in Kafka's REST interface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// A path, query or body that cannot be understood.
    Malformed,
    /// Nobody that is known asks.
    NotLoggedIn,
    /// Who asks may look and not change, or may do neither.
    NotAllowed,
    /// A change that the page of another site sends.
    CrossSite,
    NoSuchCluster,
    NoSuchLink,
    NoSuchMirrorTopic,
    NoSuchGroup,
    NoSuchPath,
    NoSuchMethod,
    /// The body did not arrive in time.
    SlowBody,
    /// Its state does not allow it now.
    Conflict,
    BodyTooLarge,
    WrongContentType,
    /// Meant for another host.
    WrongHost,
    /// Wrong logins came one after the other.
    HeldBack,
    /// Understood, and a condition for it does not hold.
    Refused,
    /// We failed.
    Internal,
    /// This daemon does something else: a store has no guests.
    NotInThisMode,
    /// As many requests wait as fit, or the daemon is starting or ending.
    Busy,
    /// The destination or the source cannot be asked.
    Unreachable,
    /// No answer in time; what was asked for may still be done.
    SlowAnswer,
}

impl ErrorCode {
    pub const fn number(self) -> u32 {
        match self {
            Self::Malformed => 40001,
            Self::NotLoggedIn => 40101,
            Self::NotAllowed => 40301,
            Self::CrossSite => 40302,
            Self::NoSuchCluster => 40401,
            Self::NoSuchLink => 40402,
            Self::NoSuchMirrorTopic => 40403,
            Self::NoSuchPath => 40404,
            Self::NoSuchGroup => 40405,
            Self::NoSuchMethod => 40501,
            Self::SlowBody => 40801,
            Self::Conflict => 40901,
            Self::BodyTooLarge => 41301,
            Self::WrongContentType => 41501,
            Self::WrongHost => 42101,
            Self::Refused => 42201,
            Self::HeldBack => 42901,
            Self::Internal => 50001,
            Self::NotInThisMode => 50101,
            Self::Unreachable => 50201,
            Self::Busy => 50301,
            Self::SlowAnswer => 50401,
        }
    }

    /// The HTTP status of the class.
    pub const fn status(self) -> u16 {
        (self.number() / 100) as u16
    }
}

/// The answer of a request that is not done. The sentence is made by whoever knows what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminError {
    pub code: ErrorCode,
    pub message: String,
}

/// How it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    pub error_code: u32,
    pub message: String,
}

impl AdminError {
    pub fn new(code: ErrorCode, why: &dyn fmt::Display) -> Self {
        Self { code, message: why.to_string() }
    }

    pub fn body(&self) -> ErrorBody {
        ErrorBody { error_code: self.code.number(), message: self.message.clone() }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code.number())
    }
}

impl std::error::Error for AdminError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_carries_its_status() {
        assert_eq!(ErrorCode::NoSuchLink.status(), 404);
        assert_eq!(ErrorCode::BodyTooLarge.status(), 413);
        assert_eq!(ErrorCode::SlowAnswer.status(), 504);
        let error = AdminError::new(ErrorCode::NoSuchLink, &"there is no link dr");
        let text = serde_json::to_string(&error.body()).unwrap();
        assert_eq!(text, r#"{"error_code":40402,"message":"there is no link dr"}"#);
    }
}
