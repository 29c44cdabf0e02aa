//! The protocol's primitive types: numbers, texts, bytes, lists and tagged fields, in both encodings.
//!
//! From a version on, each kind of request is "flexible": lengths are varints of one more than the length, and structures end with tagged fields.
//!
//! Invariant: nothing is reserved for what a client says that it sends; a list has no more elements than there are bytes for, and one request
//! no more than [`ELEMENTS_MAX`] in all.
//! Called by: `frame`, `api`. Source: Kafka's protocol guide, "Protocol Primitive Types"; KIP-482 (flexible versions).

use bytes::{Buf, Bytes};

/// Elements of all lists of one request: topics, partitions, and what hangs on them.
pub const ELEMENTS_MAX: usize = 100_000;

/// The bytes are no request: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Reads a request. What follows its last field is not looked at, as brokers do not: librdkafka 2.16 sends three bytes too many when it asks for
/// all topics.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    /// In which encoding.
    pub flexible: bool,
    elements: usize,
}

impl Reader {
    /// Reads these bytes, not flexible.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, flexible: false, elements: ELEMENTS_MAX }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let found = self.bytes.first_chunk::<N>().copied().ok_or(Malformed("it ends early"))?;
        self.bytes.advance(N);
        Ok(found)
    }

    /// A byte that tells yes or no.
    ///
    /// # Errors
    /// [`Malformed`], as all of these.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.i8()? != 0)
    }
    /// One byte.
    #[allow(clippy::missing_errors_doc)]
    pub fn i8(&mut self) -> Result<i8, Malformed> {
        self.fixed().map(i8::from_be_bytes)
    }
    /// Two bytes.
    #[allow(clippy::missing_errors_doc)]
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.fixed().map(i16::from_be_bytes)
    }
    /// Four bytes.
    #[allow(clippy::missing_errors_doc)]
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }
    /// Eight bytes.
    #[allow(clippy::missing_errors_doc)]
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }
    /// A UUID.
    #[allow(clippy::missing_errors_doc)]
    pub fn uuid(&mut self) -> Result<[u8; 16], Malformed> {
        self.fixed()
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed()?;
            let bits = u32::from(byte & 0x7f);
            value |= bits.checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    /// A length; nothing for "none".
    fn length(&mut self, long: bool) -> Result<Option<usize>, Malformed> {
        let length = if self.flexible {
            i64::from(self.varint()?) - 1
        } else if long {
            i64::from(self.i32()?)
        } else {
            i64::from(self.i16()?)
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed("a length is negative")),
        }
    }

    fn taken(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.bytes.len() {
            return Err(Malformed("a length goes beyond its end"));
        }
        Ok(self.bytes.split_to(length))
    }

    /// A text, or none.
    #[allow(clippy::missing_errors_doc)]
    pub fn maybe_text(&mut self) -> Result<Option<String>, Malformed> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let bytes = self.taken(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Malformed("a text is not UTF-8"))?;
        Ok(Some(text.to_owned()))
    }
    /// A text.
    #[allow(clippy::missing_errors_doc)]
    pub fn text(&mut self) -> Result<String, Malformed> {
        self.maybe_text()?.ok_or(Malformed("a text is missing"))
    }
    /// Bytes, or none.
    #[allow(clippy::missing_errors_doc)]
    pub fn maybe_bytes(&mut self) -> Result<Option<Bytes>, Malformed> {
        self.length(true)?.map(|length| self.taken(length)).transpose()
    }

    /// A topic and numbers of its partitions, as many requests name them.
    pub(crate) fn numbered(&mut self) -> Result<(String, Vec<i32>), Malformed> {
        let topic = (self.text()?, self.list(Self::i32)?);
        self.tags()?;
        Ok(topic)
    }
    /// A list, or none.
    #[allow(clippy::missing_errors_doc)]
    pub fn maybe_list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<Vec<T>>, Malformed> {
        let Some(length) = self.length(true)? else { return Ok(None) };
        if length > self.bytes.len() || length > self.elements {
            return Err(Malformed("a list is too long"));
        }
        self.elements -= length;
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(each(self)?);
        }
        Ok(Some(list))
    }
    /// A list.
    #[allow(clippy::missing_errors_doc)]
    pub fn list<T>(
        &mut self,
        each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        self.maybe_list(each)?.ok_or(Malformed("a list is missing"))
    }

    /// The tagged fields that end a structure, none of which is needed here.
    #[allow(clippy::missing_errors_doc)]
    pub fn tags(&mut self) -> Result<(), Malformed> {
        if self.flexible {
            for _ in 0..self.varint()? {
                self.varint()?;
                let length = self.varint()?;
                self.taken(length as usize)?;
            }
        }
        Ok(())
    }
}

/// Writes an answer.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
    /// In which encoding.
    pub flexible: bool,
}

impl Writer {
    pub(crate) fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }
    pub(crate) fn i8(&mut self, value: i8) {
        self.bytes.push(value as u8);
    }
    pub(crate) fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn uuid(&mut self, value: [u8; 16]) {
        self.bytes.extend_from_slice(&value);
    }

    fn varint(&mut self, mut value: u32) {
        while value > 0x7f {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Texts and lists that are answered are bounded by what was asked, far below 2 GiB.
    fn length(&mut self, length: Option<usize>, long: bool) {
        if self.flexible {
            self.varint(length.map_or(0, |length| length as u32 + 1));
        } else if long {
            self.i32(length.map_or(-1, |length| length as i32));
        } else {
            self.i16(length.map_or(-1, |length| length as i16));
        }
    }

    pub(crate) fn maybe_text(&mut self, text: Option<&str>) {
        // What names the longest is an error text; those beyond 16 bits are cut.
        let text = text.map(|text| &text.as_bytes()[..text.floor_char_boundary(i16::MAX as usize)]);
        self.length(text.map(<[u8]>::len), false);
        self.bytes.extend_from_slice(text.unwrap_or_default());
    }
    pub(crate) fn text(&mut self, text: &str) {
        self.maybe_text(Some(text));
    }
    pub(crate) fn maybe_bytes(&mut self, bytes: Option<&[u8]>) {
        self.length(bytes.map(<[u8]>::len), true);
        self.bytes.extend_from_slice(bytes.unwrap_or_default());
    }
    pub(crate) fn list<T>(
        &mut self,
        list: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        let list = list.into_iter();
        self.length(Some(list.len()), true);
        list.for_each(|one| each(self, one));
    }
    pub(crate) fn no_list(&mut self) {
        self.length(None, true);
    }
    pub(crate) fn tags(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_encodings_read_back() {
        for flexible in [false, true] {
            let mut out = Writer { flexible, ..Writer::default() };
            out.text("é");
            out.maybe_text(None);
            out.maybe_bytes(Some(&[7; 300]));
            out.list([1, 2, 3], Writer::i32);
            out.no_list();
            out.tags();
            let mut from = Reader { flexible, ..Reader::new(out.bytes.into()) };
            assert_eq!((from.text(), from.maybe_text()), (Ok("é".to_owned()), Ok(None)));
            assert_eq!(from.maybe_bytes().unwrap().unwrap(), vec![7; 300]);
            assert_eq!(from.list(Reader::i32), Ok(vec![1, 2, 3]));
            assert_eq!(from.maybe_list(Reader::i32), Ok(None));
            assert_eq!(from.tags(), Ok(()));
            assert!(from.bytes.is_empty());
        }
    }

    #[test]
    fn a_list_that_cannot_be_is_refused_before_it_is_made() {
        let claims = |count: i32, bytes: usize| {
            let mut all = count.to_be_bytes().to_vec();
            all.resize(4 + bytes, 0);
            Reader::new(all.into()).list(Reader::i8)
        };
        assert_eq!(claims(3, 2), Err(Malformed("a list is too long")));
        assert_eq!(claims(i32::MAX, 100), Err(Malformed("a list is too long")));
        assert_eq!(claims(-2, 100), Err(Malformed("a length is negative")));
        assert_eq!(claims(-1, 100), Err(Malformed("a list is missing")));
        assert!(claims(ELEMENTS_MAX as i32, ELEMENTS_MAX).is_ok());
        assert!(claims(ELEMENTS_MAX as i32 + 1, ELEMENTS_MAX + 1).is_err());
        // Lists in a list count together.
        let mut nested = Writer::default();
        nested.list(0..400, |out, _| out.list([0; 300], Writer::i8));
        assert!(Reader::new(nested.bytes.into()).list(|from| from.list(Reader::i8)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100), flexible: bool) {
            let mut from = Reader { flexible, ..Reader::new(bytes.into()) };
            let _ = from.maybe_text();
            let _ = from.maybe_bytes();
            let _ = from.list(|from| { let found = from.maybe_text(); from.tags()?; found });
            let _ = from.tags();
        }
    }
}
