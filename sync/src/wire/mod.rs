//! The few Kafka messages of the data path: ApiVersions and Fetch, written and read by hand.
//!
//! Everything else on the wire is decoded by a library on the control core. These two are here
//! because the streaming decoder must know where a records field begins before the frame has
//! arrived, which no whole-frame decoder can tell. Answers to OffsetFetch are here because they bring
//! 200,000 positions a second, of which hardly any is new: they are compared where they lie. Never
//! trusts a length: each is checked against the rest of its frame before it is used.

pub mod api_versions;
pub mod fetch_request;
pub mod fetch_response;
mod follower_frame;
pub mod follower_request;
pub mod follower_response;
pub mod offset_fetch;
mod primitives;

pub use follower_frame::Walk;

pub use primitives::{Reader, Writer};

use core::fmt;

/// Kafka's API key of Fetch.
pub const API_KEY_FETCH: i16 = 1;
/// Kafka's API key of ApiVersions.
pub const API_KEY_API_VERSIONS: i16 = 18;

/// A frame that cannot be what Kafka would send; the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame claims a length that is negative, too small for its header, or beyond the bound.
    FrameLength { length: i32, bound: u32 },
    /// A field would pass the end of its frame.
    BeyondFrame { field: &'static str, needed: u64, remaining: u64 },
    /// A count or length field has a value that no broker sends.
    BadLength { field: &'static str, value: i64, bound: i64 },
    /// The answer carries another correlation id than the only request under way.
    CorrelationId { expected: i32, found: i32 },
    /// The frame goes on after its last field.
    TrailingBytes { remaining: u64 },
    /// A variable-length integer of more than five bytes.
    Varint { field: &'static str },
    /// A text that is not UTF-8.
    Text { field: &'static str },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameLength { length, bound } => {
                write!(f, "frame length {length} is outside 4..={bound}; is the port a Kafka listener?")
            }
            Self::BeyondFrame { field, needed, remaining } => {
                write!(f, "field {field} needs {needed} bytes but its frame has {remaining} left")
            }
            Self::BadLength { field, value, bound } => {
                write!(f, "field {field} has the length {value}, outside 0..={bound}")
            }
            Self::CorrelationId { expected, found } => {
                write!(f, "answer to request {found} although request {expected} is the one under way")
            }
            Self::TrailingBytes { remaining } => {
                write!(f, "{remaining} bytes follow the last field of a frame")
            }
            Self::Varint { field } => write!(f, "field {field} is a varint of more than 5 bytes"),
            Self::Text { field } => write!(f, "field {field} is not UTF-8"),
        }
    }
}
