//! How an example is damaged: bits, bytes, lengths, order, and parts of another example.
//!
//! Owns the choice among the ways. Length fields are not searched for: numbers that hurt are written over
//! any four or eight bytes, and examples are small enough that many of them hit one.

use crate::sim::random::Random;

/// Longer inputs only make each run slower: no bound of the product that matters here is above it.
pub const INPUT_BYTES_MAX: usize = 64 << 10;
/// Damages of one input at most. More of them leave nothing that any parser would look at.
const DAMAGES_MAX: u64 = 6;

/// Numbers at the edges of types, of the product's own bounds and of its headers.
const EDGES: &[i64] = &[
    0,
    1,
    -1,
    -2,
    2,
    4,
    7,
    12,
    14,
    16,
    17,
    48,
    49,
    50,
    60,
    61,
    62,
    127,
    128,
    249,
    250,
    255,
    256,
    512,
    4_095,
    4_096,
    16_383,
    16_384,
    32_767,
    32_768,
    65_535,
    65_536,
    1 << 20,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
];

/// Variable-length numbers that are too long, too large, or almost.
const VARINTS: &[&[u8]] = &[
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x00],
    &[0x00],
    &[0x80],
];

/// Characters that mean something to some parser.
const WORDS: &[&[u8]] = &[
    b"\n",
    b" ",
    b"\0",
    b"=",
    b"[",
    b"]",
    b"(",
    b")*",
    b"\"",
    b"'",
    b"..",
    b"/",
    b"-",
    b"--",
    b",",
    b":",
    b"{9999}",
    b"99999999999999999999",
    b"-1",
    b"\xff",
    b"\xc3\x28",
    b"a.",
];

/// A damaged copy of one of the examples; once in a while an undamaged one, or noise.
pub fn damage(examples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if random.one_in(50) {
        let length = random.below(300) as usize;
        return (0..length).map(|_| random.number() as u8).collect();
    }
    let mut bytes = random.pick(examples).clone();
    for _ in 0..random.below(DAMAGES_MAX + 1) {
        damage_once(&mut bytes, examples, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn damage_once(bytes: &mut Vec<u8>, examples: &[Vec<u8>], random: &mut Random) {
    let at = place(bytes, random);
    match random.below(12) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.number() as u8;
            }
        }
        3 => overwrite(bytes, at, &(*random.pick(EDGES) as i32).to_be_bytes()),
        4 => overwrite(bytes, at, &random.pick(EDGES).to_be_bytes()),
        5 => overwrite(bytes, at, &(*random.pick(EDGES) as i16).to_be_bytes()),
        6 => nudge_a_length(bytes, at, random),
        7 => overwrite(bytes, at, random.pick::<&[u8]>(VARINTS)),
        8 => bytes.truncate(at),
        9 => {
            let end = (at + 1 + random.below(64) as usize).min(bytes.len());
            bytes.drain(at..end);
        }
        10 => {
            let piece: Vec<u8> = match random.below(3) {
                0 => random.pick::<&[u8]>(WORDS).to_vec(),
                1 => vec![0; 1 + random.below(80) as usize],
                _ => some_range(bytes, random).to_vec(),
            };
            bytes.splice(at..at, piece);
        }
        _ => {
            let other = random.pick(examples);
            let from = place(other, random);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// From 0 to the length: one behind the last byte is a place too.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    random.below(bytes.len() as u64 + 1) as usize
}

fn some_range<'a>(bytes: &'a [u8], random: &mut Random) -> &'a [u8] {
    let (one, other) = (place(bytes, random), place(bytes, random));
    &bytes[one.min(other)..one.max(other)]
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
}

/// A length that is wrong by a little passes more checks than one that is absurd.
fn nudge_a_length(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        let by = random.below(9) as i32 - 4;
        *field = i32::from_be_bytes(*field).wrapping_add(by).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_damage_goes_out_of_bounds_or_beyond_the_largest_input() {
        let mut random = Random::new(1);
        for examples in [vec![vec![]], vec![vec![7]], vec![vec![1; 100], vec![2; INPUT_BYTES_MAX]]] {
            for _ in 0..5_000 {
                assert!(damage(&examples, &mut random).len() <= INPUT_BYTES_MAX);
            }
        }
    }

    #[test]
    fn some_examples_stay_whole() {
        let mut random = Random::new(2);
        let example = vec![5; 40];
        let whole =
            (0..500).filter(|_| damage(std::slice::from_ref(&example), &mut random) == example).count();
        assert!((10..250).contains(&whole), "{whole} of 500");
    }
}
