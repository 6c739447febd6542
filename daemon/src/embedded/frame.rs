//! A response as a list of chunks: what was written here, and references to record bytes between.
//!
//! Owns the primitive types of Kafka's wire in the direction that a broker writes. Record bytes are never
//! copied: a chunk is a counted reference, and the sender hands all of them to one `writev`.
//!
//! ```text
//!   text     ├ length, header, fields ┤       ├ fields ┤       ├ fields ┤
//!   chunks   │ text 0..a              │ records │ a..b │ records │ b..c │
//! ```
//! Invariant: the first four bytes say the length of everything after them.

use bytes::Bytes;

/// Writes one response frame. See the file's header.
#[derive(Default)]
pub struct FrameWriter {
    text: Vec<u8>,
    /// Where in `text` a reference stands, in order.
    references: Vec<(usize, Bytes)>,
    referenced_bytes: usize,
}

impl FrameWriter {
    /// Starts a frame: its length is patched at the end.
    pub fn start(correlation_id: i32, flexible: bool) -> FrameWriter {
        let mut writer = FrameWriter { text: Vec::with_capacity(256), ..FrameWriter::default() };
        writer.i32(0);
        writer.i32(correlation_id);
        writer.no_tags(flexible);
        writer
    }

    pub fn i16(&mut self, value: i16) {
        self.text.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.text.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.text.extend_from_slice(&value.to_be_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.text.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.text.push(value as u8);
    }

    /// A length, classic (`i32`) or compact (a varint of it plus one).
    pub fn length(&mut self, flexible: bool, length: usize) {
        let length = u32::try_from(length).expect("a response is smaller than 4 GiB");
        if flexible {
            self.unsigned_varint(length + 1);
        } else {
            self.i32(length.cast_signed());
        }
    }

    /// The length of a list that is absent, which is not the same as an empty one.
    pub fn null_length(&mut self, flexible: bool) {
        if flexible {
            self.unsigned_varint(0);
        } else {
            self.i32(-1);
        }
    }

    pub fn string(&mut self, flexible: bool, text: &str) {
        let length = i16::try_from(text.len()).expect("names are short");
        if flexible {
            self.unsigned_varint(text.len() as u32 + 1);
        } else {
            self.i16(length);
        }
        self.raw(text.as_bytes());
    }

    pub fn no_tags(&mut self, flexible: bool) {
        if flexible {
            self.text.push(0);
        }
    }

    /// One tagged field: its number, its size and its content, which must be complete.
    pub fn tag(&mut self, number: u32, content: &FrameWriter) {
        self.unsigned_varint(number);
        self.unsigned_varint(content.text.len() as u32);
        self.raw(&content.text);
    }

    /// Bytes that are sent from where they lie.
    pub fn reference(&mut self, bytes: Bytes) {
        self.referenced_bytes += bytes.len();
        self.references.push((self.text.len(), bytes));
    }

    /// Patches the length and cuts the text where the references stand.
    pub fn finish(mut self) -> Vec<Bytes> {
        let length = i32::try_from(self.text.len() + self.referenced_bytes - 4).expect("below 2 GiB");
        self.text[..4].copy_from_slice(&length.to_be_bytes());
        let text = Bytes::from(self.text);
        let mut chunks = Vec::with_capacity(2 * self.references.len() + 1);
        let mut at = 0;
        for (place, bytes) in self.references {
            if place > at {
                chunks.push(text.slice(at..place));
                at = place;
            }
            chunks.push(bytes);
        }
        if at < text.len() {
            chunks.push(text.slice(at..));
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stand_where_they_were_put_and_the_length_counts_them() {
        let mut writer = FrameWriter::start(7, true);
        writer.reference(Bytes::from_static(b"abc"));
        writer.reference(Bytes::from_static(b"de"));
        writer.i16(1);
        writer.reference(Bytes::from_static(b"f"));
        let chunks = writer.finish();
        assert_eq!(chunks.len(), 5);
        let all = chunks.concat();
        assert_eq!(all, [&[0, 0, 0, 13, 0, 0, 0, 7, 0][..], b"abcde", &[0, 1], b"f"].concat());
    }
}
