//! How many handshakes an address may begin: a handshake costs a data thread more than any request after it.
//!
//! Pure: time goes in. One bucket for each address that came lately; an address that is over its rate is closed
//! before a byte of it is read, which costs next to nothing. Followers try again by themselves, so a broker that
//! shares its address with a flood is slowed down, never shut out. It must never know more addresses than its bound.

use std::collections::BTreeMap;
use std::net::IpAddr;
use twinlog_sync::{Nanoseconds, SECOND};

/// Handshakes at once from one address. Lowered, a broker with many fetchers waits at its start; raised, a flood
/// holds up the thread for some 2 ms more for each.
const BURST: u32 = 64;
/// Handshakes per second after that. Raised, a flood from one address takes as many times 2 ms of each second.
const PER_SECOND: u64 = 32;
/// Addresses that are remembered. Beyond it the one that has been away for the longest begins anew.
const ADDRESSES_MAX: usize = 4_096;

struct Bucket {
    left: u32,
    filled_at: Nanoseconds,
}

/// See the file's header.
#[derive(Default)]
pub(in crate::shard) struct Admission {
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl Admission {
    /// Whether an address may begin one more handshake now.
    pub fn admits(&mut self, now: Nanoseconds, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if !self.buckets.contains_key(&address) && self.buckets.len() == ADDRESSES_MAX {
            let oldest = self.buckets.iter().min_by_key(|(_, bucket)| bucket.filled_at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.buckets.remove(&oldest);
            }
        }
        let bucket = self.buckets.entry(address).or_insert(Bucket { left: BURST, filled_at: now });
        let each = SECOND / PER_SECOND;
        let earned = now.saturating_sub(bucket.filled_at) / each;
        bucket.left = u32::try_from(earned).unwrap_or(u32::MAX).saturating_add(bucket.left).min(BURST);
        bucket.filled_at += earned * each;
        let admitted = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_flood_from_one_address_is_slowed_down_and_no_other_notices() {
        let mut admission = Admission::default();
        let admitted =
            |admission: &mut Admission, now| (0..1_000).filter(|_| admission.admits(now, address(1))).count();
        assert_eq!(admitted(&mut admission, 0), BURST as usize);
        assert!(admission.admits(0, address(2)));
        assert_eq!(admitted(&mut admission, SECOND), PER_SECOND as usize);
        assert_eq!(
            admitted(&mut admission, 100 * SECOND),
            BURST as usize,
            "no more than a burst is saved up"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_whoever_comes() {
        let mut admission = Admission::default();
        for number in 0..3 * ADDRESSES_MAX as u32 {
            assert!(admission.admits(u64::from(number), address(number)));
        }
        assert_eq!(admission.buckets.len(), ADDRESSES_MAX);
    }
}
