//! Control batches: which end of a transaction a marker says, read from at most 64 bytes.
//!
//! Owns the parser of the first record of a control batch. It is the one place where a record is looked at,
//! because only the record's key tells an abort from a commit. ref: KIP-98
//!
//! ```text
//! record   length varint │ attributes i8 │ timestamp delta varlong │ offset delta varint │ key length varint │ key ...
//! key      version i16 │ type i16   0 = abort, 1 = commit, more are KRaft's
//! ```
//!
//! Must never panic, and must never guess: what cannot be read is [`ControlKind::UNREADABLE`]. Markers that
//! the cleaner emptied (record count 0) are unreadable in this sense, and change no transaction.

use core::fmt;

/// Bytes of a control batch's body that are kept. The five numbers in front of the key need at most 26
/// bytes and its first two fields 4; raising it only costs memory per partition.
pub const CONTROL_BODY_BYTES_KEPT: usize = 64;

/// What a control batch marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    Abort,
    Commit,
    /// A type that ends no transaction, or `UNREADABLE`.
    Other(i16),
}

impl ControlKind {
    /// No record, a compressed one, or one that ends too early.
    pub const UNREADABLE: ControlKind = ControlKind::Other(-1);

    /// Reads the kind from the first bytes behind the header of an uncompressed control batch.
    pub fn parse(body: &[u8]) -> ControlKind {
        parse_key(body).unwrap_or(ControlKind::UNREADABLE)
    }
}

impl fmt::Display for ControlKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlKind::Abort => f.write_str("abort"),
            ControlKind::Commit => f.write_str("commit"),
            ControlKind::Other(kind) => write!(f, "control type {kind}"),
        }
    }
}

fn parse_key(body: &[u8]) -> Option<ControlKind> {
    let (_length, rest) = variable_length(body)?;
    let (_attributes, rest) = rest.split_first()?;
    let (_timestamp_delta, rest) = variable_length(rest)?;
    let (_offset_delta, rest) = variable_length(rest)?;
    let (key_bytes, rest) = variable_length(rest)?;
    if key_bytes < 4 {
        return None;
    }
    let key: &[u8; 4] = rest.first_chunk()?;
    let version = i16::from_be_bytes([key[0], key[1]]);
    let kind = i16::from_be_bytes([key[2], key[3]]);
    if version < 0 {
        return None;
    }
    Some(match kind {
        0 => ControlKind::Abort,
        1 => ControlKind::Commit,
        other => ControlKind::Other(other),
    })
}

/// A zigzag number of 1 to 10 bytes, and what follows it.
fn variable_length(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let decoded = (value >> 1) as i64 ^ -((value & 1) as i64);
            return Some((decoded, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_marker_of_a_real_broker_is_read() {
        // length 16, attributes, timestamp delta, offset delta, key length 4, version 0, type, value ...
        let mut body = [0x20, 0, 0, 0, 0x08, 0, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(ControlKind::parse(&body), ControlKind::Abort);
        body[8] = 1;
        assert_eq!(ControlKind::parse(&body), ControlKind::Commit);
        body[8] = 3;
        assert_eq!(ControlKind::parse(&body), ControlKind::Other(3));
        body[5] = 0xff;
        assert_eq!(ControlKind::parse(&body), ControlKind::UNREADABLE);
    }

    #[test]
    fn an_emptied_marker_is_unreadable() {
        assert_eq!(ControlKind::parse(&[]), ControlKind::UNREADABLE);
    }

    #[test]
    fn an_endless_varint_is_unreadable() {
        assert_eq!(ControlKind::parse(&[0xff; 64]), ControlKind::UNREADABLE);
    }

    #[test]
    fn the_longest_numbers_that_a_broker_can_write_fit_into_what_is_kept() {
        let mut body = alloc::vec![0x80, 0x80, 0x80, 0x80, 0x01, 0];
        body.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
        body.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x01]);
        body.extend_from_slice(&[0x88, 0x80, 0x80, 0x80, 0x00, 0, 0, 0, 1]);
        assert!(body.len() <= CONTROL_BODY_BYTES_KEPT);
        assert_eq!(ControlKind::parse(&body), ControlKind::Commit);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ControlKind::parse(&body);
        }
    }
}
