//! Where one JSON value of a body ends and the next begins, as the bytes arrive.
//!
//! Invariant: each byte is looked at once, and no more bytes wait than one value may have.
//! Called by: `json`.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a body that are not yet a whole value.
pub(super) struct Values {
    waiting: BytesMut,
    /// How far `waiting` was looked at.
    seen: usize,
    depth: u32,
    kind: Kind,
    escaped: bool,
    bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Between values.
    Nothing,
    /// In an object or an array.
    Nested,
    /// In a string, in an object or not.
    String,
    /// In a number, a word, or what is no JSON at all.
    Bare,
}

/// A value is larger than it may be.
pub(super) struct TooLarge;

impl Values {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: BytesMut::new(), seen: 0, depth: 0, kind: Kind::Nothing, escaped: false, bytes_max }
    }

    /// Takes bytes as they came.
    ///
    /// # Errors
    /// More would wait than a value may have.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<(), TooLarge> {
        if self.waiting.len() + bytes.len() > self.bytes_max {
            return Err(TooLarge);
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole value.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        while self.seen < self.waiting.len() {
            let byte = self.waiting[self.seen];
            let (ends, taken) = self.step(byte);
            self.seen += usize::from(taken);
            if ends {
                return Some(self.cut());
            }
            if self.kind == Kind::Nothing {
                self.waiting.advance(self.seen);
                self.seen = 0;
            }
        }
        None
    }

    /// What is left when no more bytes come: a value that nothing delimits, or a part of one.
    pub(super) fn last(&mut self) -> Option<Bytes> {
        self.next().or_else(|| (self.kind != Kind::Nothing).then(|| self.cut()))
    }

    fn cut(&mut self) -> Bytes {
        let value = self.waiting.split_to(self.seen).freeze();
        (self.seen, self.depth, self.kind, self.escaped) = (0, 0, Kind::Nothing, false);
        value
    }

    /// Looks at a byte: whether the value ends here, and whether the byte belongs to it.
    fn step(&mut self, byte: u8) -> (bool, bool) {
        match self.kind {
            Kind::String => {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.kind = Kind::Nested;
                        return (self.depth == 0, true);
                    }
                    _ => {}
                }
                (false, true)
            }
            Kind::Bare if byte.is_ascii_whitespace() || matches!(byte, b'{' | b'[' | b'"') => (true, false),
            Kind::Bare => (false, true),
            Kind::Nothing | Kind::Nested => {
                match byte {
                    b'"' => self.kind = Kind::String,
                    b'{' | b'[' => (self.depth, self.kind) = (self.depth + 1, Kind::Nested),
                    b'}' | b']' if self.kind == Kind::Nested => {
                        self.depth -= 1;
                        return (self.depth == 0, true);
                    }
                    byte if self.kind == Kind::Nothing && !byte.is_ascii_whitespace() => {
                        self.kind = Kind::Bare;
                    }
                    _ => {}
                }
                (false, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_however_they_are_cut() {
        let text = r#" {"a":"}\"{"}{"b":[1,{}]} 12 "x]" nope{}  {"open":"#;
        let wanted = [r#"{"a":"}\"{"}"#, r#"{"b":[1,{}]}"#, "12", r#""x]""#, "nope", "{}", r#"{"open":"#];
        for step in 1..text.len() {
            let mut values = Values::new(1000);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                assert!(values.take(&Bytes::copy_from_slice(piece)).is_ok());
                found.extend(std::iter::from_fn(|| values.next()));
            }
            found.extend(values.last());
            assert_eq!(found, wanted, "in pieces of {step}");
        }
    }

    #[test]
    fn a_value_has_a_bound() {
        let mut values = Values::new(8);
        assert!(values.take(&Bytes::from_static(b"{\"a\":1")).is_ok());
        assert!(values.next().is_none());
        assert!(values.take(&Bytes::from_static(b"111")).is_err());
    }
}
