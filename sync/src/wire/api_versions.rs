//! ApiVersions v0, asked once per connection: which Fetch version this broker speaks.
//!
//! Version 0 is answered by every broker since 0.10, before and without any negotiation (KIP-35).

use super::{API_KEY_API_VERSIONS, API_KEY_FETCH, Reader, WireError, Writer};
use alloc::vec::Vec;

/// Highest Fetch version that this decoder reads; v18 only adds a tag for followers.
pub const FETCH_VERSION_MAX: i16 = 17;
/// Lowest Fetch version whose answer holds v2 batches unconverted (Kafka 0.11).
pub const FETCH_VERSION_MIN: i16 = 4;
/// An ApiVersions answer beyond this is not one: a broker lists about a hundred keys of 6 bytes.
/// A larger bound would let a hostile peer fill the receive scratch.
pub const API_VERSIONS_BYTES_MAX: u32 = 16 * 1024;

/// Appends the request to `out`.
pub fn write_request(out: &mut Vec<u8>, correlation_id: i32, client_id: &str) {
    let mut writer = Writer::start(out);
    writer.request_header(API_KEY_API_VERSIONS, 0, correlation_id, client_id, false);
    writer.finish();
}

/// What a broker said of Fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiated {
    /// Use this Fetch version.
    Fetch(i16),
    /// The broker's range of Fetch versions does not meet ours.
    NoCommonVersion { lowest: i16, highest: i16 },
    /// The broker answered with an error code.
    Refused(i16),
}

/// Reads the whole answer from `bytes`. `None`: more bytes are needed.
pub fn read_response(bytes: &[u8], correlation_id: i32) -> Result<Option<(usize, Negotiated)>, WireError> {
    let mut reader = Reader::new(bytes);
    let Some(length) = reader.i32() else { return Ok(None) };
    if length < 10 || length as u32 > API_VERSIONS_BYTES_MAX {
        return Err(WireError::FrameLength { length, bound: API_VERSIONS_BYTES_MAX });
    }
    let Some(frame) = reader.take(length as usize) else { return Ok(None) };
    let negotiated = read_body(frame, correlation_id)?;
    Ok(Some((reader.consumed(), negotiated)))
}

fn read_body(frame: &[u8], correlation_id: i32) -> Result<Negotiated, WireError> {
    let mut reader = Reader::new(frame);
    let short = WireError::BeyondFrame { field: "api_keys", needed: 6, remaining: 0 };
    let found = reader.i32().ok_or(short)?;
    if found != correlation_id {
        return Err(WireError::CorrelationId { expected: correlation_id, found });
    }
    let error = reader.i16().ok_or(short)?;
    if error != 0 {
        return Ok(Negotiated::Refused(error));
    }
    let count = reader.i32().ok_or(short)?;
    if count < 0 || i64::from(count) * 6 > frame.len() as i64 {
        return Err(WireError::BadLength {
            field: "api_keys",
            value: count.into(),
            bound: frame.len() as i64 / 6,
        });
    }
    let mut fetch = Negotiated::NoCommonVersion { lowest: -1, highest: -1 };
    for _ in 0..count {
        let key = reader.i16().ok_or(short)?;
        let lowest = reader.i16().ok_or(short)?;
        let highest = reader.i16().ok_or(short)?;
        if key == API_KEY_FETCH {
            let version = highest.min(FETCH_VERSION_MAX);
            fetch = if version >= lowest.max(FETCH_VERSION_MIN) {
                Negotiated::Fetch(version)
            } else {
                Negotiated::NoCommonVersion { lowest, highest }
            };
        }
    }
    Ok(fetch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(keys: &[(i16, i16, i16)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::start(&mut out);
        writer.i32(7);
        writer.i16(0);
        writer.i32(keys.len() as i32);
        for (key, lowest, highest) in keys {
            writer.i16(*key);
            writer.i16(*lowest);
            writer.i16(*highest);
        }
        writer.finish();
        out
    }

    #[test]
    fn the_highest_common_fetch_version_is_chosen() {
        let bytes = answer(&[(0, 0, 13), (1, 4, 18), (3, 0, 13)]);
        assert_eq!(read_response(&bytes, 7), Ok(Some((bytes.len(), Negotiated::Fetch(17)))));
        let bytes = answer(&[(1, 0, 11)]);
        assert_eq!(read_response(&bytes, 7), Ok(Some((bytes.len(), Negotiated::Fetch(11)))));
        let old = answer(&[(1, 0, 3)]);
        let none = Negotiated::NoCommonVersion { lowest: 0, highest: 3 };
        assert_eq!(read_response(&old, 7), Ok(Some((old.len(), none))));
    }

    #[test]
    fn every_prefix_asks_for_more_and_hostile_counts_are_refused() {
        let bytes = answer(&[(1, 4, 18)]);
        for cut in 0..bytes.len() {
            assert_eq!(read_response(&bytes[..cut], 7), Ok(None));
        }
        assert!(matches!(read_response(&bytes, 8), Err(WireError::CorrelationId { .. })));
        let mut hostile = bytes.clone();
        hostile[10..14].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(read_response(&hostile, 7), Err(WireError::BadLength { .. })));
        let http = b"HTTP/1.1 400 Bad Request\r\n";
        assert!(matches!(read_response(http, 7), Err(WireError::FrameLength { .. })));
    }
}
