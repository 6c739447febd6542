//! The digest of a log: one number by which two copies are compared, whoever cut them into segments.
//!
//! It is the CRC-32C over 17 bytes of every batch: base offset (i64), length (i32), magic (i8 = 2) and CRC
//! (u32), big endian, in log order; that is bytes 0..12 and 16..21 of each. Each body was checked against
//! its CRC before, so the digest stands for every byte but the leader epochs, which differ between clusters.
//!
//! Invariants: it depends on the batches and their order alone; equal logs have equal digests on any machine.
//! Must never be fed a batch whose CRC was not checked.

use core::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use crate::batch::BatchHeader;

const CRC32C_INITIAL_STATE: u32 = u32::MAX;

/// See the file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDigest {
    state: u32,
}

impl LogDigest {
    pub const fn new() -> LogDigest {
        LogDigest { state: CRC32C_INITIAL_STATE }
    }

    /// Adds a batch whose CRC is right.
    pub fn on_batch(&mut self, header: &BatchHeader) {
        let mut bytes = [0u8; 17];
        bytes[..8].copy_from_slice(&header.base_offset.value().to_be_bytes());
        bytes[8..12].copy_from_slice(&header.length_bytes.to_be_bytes());
        bytes[12] = 2;
        bytes[13..].copy_from_slice(&header.crc.to_be_bytes());
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(self.state));
        digest.update(&bytes);
        self.state = digest.get_state() as u32;
    }

    pub const fn value(&self) -> u32 {
        !self.state
    }
}

impl Default for LogDigest {
    fn default() -> LogDigest {
        LogDigest::new()
    }
}

impl fmt::Display for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.value())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::BatchBuilder;

    #[test]
    fn it_is_the_crc32c_of_the_named_bytes() {
        let batches = [BatchBuilder::at(0).records(3, 10).build(), BatchBuilder::at(9).records(1, 0).build()];
        let mut digest = LogDigest::new();
        let mut named = Vec::new();
        for batch in &batches {
            digest.on_batch(&BatchHeader::parse(batch.first_chunk().unwrap(), 1 << 20).unwrap());
            named.extend_from_slice(&batch[..12]);
            named.extend_from_slice(&batch[16..21]);
        }
        assert_eq!(digest.value(), crc32c::crc32c(&named));
    }

    #[test]
    fn the_digest_of_nothing_is_zero() {
        assert_eq!(LogDigest::new().value(), 0);
    }

    #[test]
    fn the_leader_epoch_does_not_count_and_the_order_does() {
        let digest = |batches: &[Vec<u8>]| {
            let mut digest = LogDigest::new();
            for batch in batches {
                digest.on_batch(&BatchHeader::parse(batch.first_chunk().unwrap(), 1 << 20).unwrap());
            }
            digest
        };
        let first = BatchBuilder::at(0).records(1, 5);
        let second = BatchBuilder::at(1).records(1, 5).build();
        let stamped = first.clone().leader_epoch(9).build();
        let first = first.build();
        assert_eq!(digest(&[first.clone(), second.clone()]), digest(&[stamped, second.clone()]));
        assert_ne!(digest(&[first.clone(), second.clone()]), digest(&[second, first]));
    }
}
