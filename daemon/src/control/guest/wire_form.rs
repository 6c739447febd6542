//! Our values in the form in which the library of Kafka messages wants them.

use kafka_protocol::protocol::StrBytes;
use std::hash::{BuildHasher, Hasher, RandomState};
use twinlog_sync::metadata::record::Uuid;

/// Sixteen bytes as the library's id type, which is reached by what it is assigned to.
pub fn wire_id<T: TryFrom<Vec<u8>>>(id: Uuid) -> T {
    let converted = T::try_from(id.to_vec());
    converted.unwrap_or_else(|_| unreachable!("every sixteen bytes are an id"))
}

pub fn wire_text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// An id that no other process has. The hasher's keys come from the kernel's random numbers.
pub fn random_uuid() -> Uuid {
    let half = || RandomState::new().build_hasher().finish().to_be_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half());
    id[8..].copy_from_slice(&half());
    // Version 4 of RFC 9562: never one of the small ids that Kafka reserves.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
