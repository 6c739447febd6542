//! Kafka's primitive types, big endian, read from a piece of a frame and written to a request.
//!
//! [`Reader`] answers `None` when the piece ends before the value does: the caller keeps the bytes
//! and tries again with more. It never panics and never allocates.

use alloc::vec::Vec;

/// Reads primitive values from the front of a byte slice.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn consumed(&self) -> usize {
        self.at
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn i8(&mut self) -> Option<i8> {
        self.array::<1>().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    /// An unsigned varint of at most 32 bits. `None`: more bytes are needed; `Some(Err)`: over-long.
    pub fn unsigned_varint(&mut self) -> Option<Result<u32, ()>> {
        let mut value: u32 = 0;
        for (index, shift) in (0..35).step_by(7).enumerate() {
            let byte = *self.bytes.get(self.at + index)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return Some(Err(()));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.at += index + 1;
                return Some(Ok(value));
            }
        }
        Some(Err(()))
    }
}

/// Appends primitive values to a request; the frame length is patched by [`Writer::finish`].
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Starts a frame at the end of `out`: four bytes are kept for its length.
    pub fn start(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Self { out, start }
    }

    pub fn i8(&mut self, value: i8) {
        self.out.push(value as u8);
    }

    pub fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A string in the classic (`i16` length) or the compact (varint length + 1) form.
    pub fn string(&mut self, flexible: bool, text: &str) {
        assert!(text.len() <= i16::MAX as usize, "a string of {} bytes in a request", text.len());
        if flexible {
            self.unsigned_varint(text.len() as u32 + 1);
        } else {
            self.i16(text.len() as i16);
        }
        self.raw(text.as_bytes());
    }

    /// An array length in the classic (`i32`) or the compact form.
    pub fn array_length(&mut self, flexible: bool, length: usize) {
        assert!(length < i32::MAX as usize);
        if flexible {
            self.unsigned_varint(length as u32 + 1);
        } else {
            self.i32(length as i32);
        }
    }

    /// An empty tagged-field section, where the message version has one.
    pub fn no_tags(&mut self, flexible: bool) {
        if flexible {
            self.out.push(0);
        }
    }

    /// Request header: v1 for classic, v2 for flexible messages.
    pub fn request_header(
        &mut self,
        api_key: i16,
        version: i16,
        correlation_id: i32,
        client_id: &str,
        flexible: bool,
    ) {
        self.i16(api_key);
        self.i16(version);
        self.i32(correlation_id);
        // The client id keeps its classic form in header v2 (ref: KIP-482).
        self.string(false, client_id);
        self.no_tags(flexible);
    }

    /// Patches the frame length and returns the frame's size with it.
    pub fn finish(self) -> usize {
        let length = self.out.len() - self.start - 4;
        let text = i32::try_from(length).expect("a request is far smaller than 2 GiB").to_be_bytes();
        self.out[self.start..self.start + 4].copy_from_slice(&text);
        length + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_over_long_ones_are_refused() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX] {
            let mut out = Vec::new();
            let mut writer = Writer::start(&mut out);
            writer.unsigned_varint(value);
            writer.finish();
            assert_eq!(Reader::new(&out[4..]).unsigned_varint(), Some(Ok(value)));
            for cut in 4..out.len() {
                assert_eq!(Reader::new(&out[4..cut]).unsigned_varint(), None);
            }
        }
        assert_eq!(Reader::new(&[0xff; 6]).unsigned_varint(), Some(Err(())));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).unsigned_varint(), Some(Err(())));
    }

    #[test]
    fn a_value_that_is_not_there_yet_consumes_nothing() {
        let mut reader = Reader::new(&[0, 0, 1]);
        assert_eq!(reader.i32(), None);
        assert_eq!(reader.consumed(), 0);
        assert_eq!(reader.i16(), Some(0));
    }
}
