//! Names of consumer groups in paths: they may hold any character, unlike those of topics and links.

/// A name as one segment of a path, and as a page token.
pub fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The name behind a segment; `None` where it is not one.
pub fn unescaped(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (byte, behind) = match first {
            b'%' => {
                let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
                let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                (u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?, &behind[2..])
            }
            // What needs no escape has none, and everything else has one.
            byte if byte.is_ascii_alphanumeric() || b"._-".contains(byte) => (*byte, behind),
            _ => return None,
        };
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_its_escapes_and_what_is_none_is_refused() {
        for name in ["app", "a/b c?d", "größe", "100%", "..", "+1"] {
            let segment = escaped(name);
            assert!(!segment.contains(['/', '?', ' ']), "{segment}");
            assert_eq!(unescaped(&segment).as_deref(), Some(name));
        }
        for segment in ["", "%", "%4", "%zz", "%+1", "%ff", "a%", "a:b", "a b"] {
            assert_eq!(unescaped(segment), None, "{segment}");
        }
    }
}
