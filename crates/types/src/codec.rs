//! The binary form of everything that is logged or sent between nodes.
//!
//! Integers are LEB128 varints, byte strings are length-prefixed, enums carry an explicit tag that is never reused,
//! structs are their fields in order. The container (entry, snapshot chunk) carries the version.
//!
//! Invariant: reading never panics, and never reserves more memory than a small multiple of the bytes that are there.
//! Invariant: nesting (a commit in a commit) is bounded by [`DEPTH_MAX`] on both sides.

use bytes::Bytes;

/// Deepest nesting of commits that is read or written.
pub const DEPTH_MAX: u8 = 8;

/// Why bytes could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside a value.
    #[error("the input ends at byte {at}, inside a value of {wanted} more bytes")]
    Short {
        /// Where reading stopped.
        at: usize,
        /// How many more bytes the value needs.
        wanted: u64,
    },
    /// A varint longer than 64 bits.
    #[error("the number at byte {at} is longer than 64 bits")]
    Varint {
        /// Where it starts.
        at: usize,
    },
    /// A tag that this version does not know.
    #[error("{what} has unknown tag {found}: written by a newer version, or damaged")]
    Tag {
        /// The type that was read.
        what: &'static str,
        /// The tag found.
        found: u64,
    },
    /// A number outside its type's range.
    #[error("{what} is {found}, which is out of range")]
    Range {
        /// The type that was read.
        what: &'static str,
        /// The number found.
        found: u64,
    },
    /// Commits nested deeper than [`DEPTH_MAX`].
    #[error("commits are nested deeper than {DEPTH_MAX}")]
    Depth,
    /// Bytes left over after the value.
    #[error("{left} bytes are left over after the value")]
    Left {
        /// How many.
        left: usize,
    },
    /// A format version that this build does not read.
    #[error(
        "{what} has format version {found}, this build reads {wanted}: upgrade, or open it with the release that wrote it"
    )]
    Version {
        /// The container.
        what: &'static str,
        /// The version found.
        found: u64,
        /// The version this build reads.
        wanted: u64,
    },
}

/// A value with a binary form.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Writer);
    /// Reads one value.
    ///
    /// # Errors
    /// [`DecodeError`] says where and why.
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Encodes one value.
#[must_use]
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut out = Writer::default();
    value.put(&mut out);
    out.buffer
}

/// Decodes one value that fills `bytes`.
///
/// # Errors
/// [`DecodeError`], [`DecodeError::Left`] when bytes remain.
pub fn decode<T: Wire>(bytes: &Bytes) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = T::take(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Where a payload lies inside an encoded entry: the log serves stream records from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the start of the entry's body.
    pub offset: u32,
    /// Bytes of the payload.
    pub len: u32,
}

/// A growing buffer, and the extents of the payloads written into it.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// What was written.
    pub buffer: Vec<u8>,
    /// The payloads in it, in order: the sub-index of a payload is its place here.
    pub extents: Vec<Extent>,
}

impl Writer {
    /// Empties both, keeping the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.extents.clear();
    }
    /// A LEB128 varint.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }
    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
    /// Length-prefixed bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }
    /// Length-prefixed bytes whose place is remembered as the next extent.
    pub fn payload(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        let offset =
            u32::try_from(self.buffer.len()).expect("an entry is smaller than 4 GiB: admission bounds it");
        let len = u32::try_from(bytes.len()).expect("a payload is smaller than 4 GiB: admission bounds it");
        self.extents.push(Extent { offset, len });
        self.raw(bytes);
    }
}

/// Reads values from one buffer.
pub struct Reader<'a> {
    from: &'a Bytes,
    at: usize,
    depth: u8,
    payloads: u32,
}

impl<'a> Reader<'a> {
    /// Reads `from` from its start.
    #[must_use]
    pub fn new(from: &'a Bytes) -> Self {
        Self { from, at: 0, depth: 0, payloads: 0 }
    }
    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }
    /// Bytes not yet read.
    #[must_use]
    pub fn left(&self) -> usize {
        self.from.len() - self.at
    }
    /// # Errors
    /// [`DecodeError::Left`] when bytes remain.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.left() == 0 { Ok(()) } else { Err(DecodeError::Left { left: self.left() }) }
    }
    /// # Errors
    /// The input ends, or the number is longer than 64 bits.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.from.get(self.at).ok_or(DecodeError::Short { at: self.at, wanted: 1 })?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at: start })
    }
    /// # Errors
    /// The input is shorter than `len`.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.left() {
            return Err(DecodeError::Short { at: self.at, wanted: (len - self.left()) as u64 });
        }
        let bytes = &self.from[self.at..self.at + len];
        self.at += len;
        Ok(bytes)
    }
    /// Length-prefixed bytes.
    ///
    /// # Errors
    /// The input ends.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.length()?;
        self.raw(len)
    }
    /// Length-prefixed bytes as a slice that shares the buffer.
    ///
    /// # Errors
    /// The input ends.
    pub fn shared(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.length()?;
        let start = self.at;
        self.raw(len)?;
        Ok(self.from.slice(start..start + len))
    }
    /// The number of the next payload of this buffer, counting from 0.
    pub fn next_payload(&mut self) -> u32 {
        let number = self.payloads;
        self.payloads += 1;
        number
    }
    /// A length or count: never more than the bytes that are left, since every element takes at least one.
    ///
    /// # Errors
    /// It is more than that.
    pub fn length(&mut self) -> Result<usize, DecodeError> {
        let len = self.varint()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => Ok(len),
            _ => Err(DecodeError::Short { at: self.at, wanted: len.saturating_sub(self.left() as u64) }),
        }
    }
    /// Reads something nested one level deeper.
    ///
    /// # Errors
    /// [`DecodeError::Depth`] below [`DEPTH_MAX`].
    pub fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        if self.depth == DEPTH_MAX {
            return Err(DecodeError::Depth);
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }
}

macro_rules! wire_unsigned {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Writer) {
                out.varint(u64::from(*self));
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let found = from.varint()?;
                Self::try_from(found).map_err(|_| DecodeError::Range { what: stringify!($type), found })
            }
        }
    )*};
}
wire_unsigned!(u8, u16, u32, u64);

impl Wire for i64 {
    // Zigzag, so that small negative numbers stay short.
    fn put(&self, out: &mut Writer) {
        out.varint(((self << 1) ^ (self >> 63)) as u64);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = from.varint()?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Writer) {
        out.varint(u64::from(*self));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match from.varint()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::Range { what: "bool", found }),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Writer) {
        out.bytes(self.as_bytes());
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = from.position();
        let bytes = from.bytes()?;
        Self::from_utf8(bytes.to_vec())
            .map_err(|_| DecodeError::Range { what: "text that is not UTF-8, at byte", found: at as u64 })
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Writer) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if bool::take(from)? { Ok(Some(T::take(from)?)) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Writer) {
        out.varint(self.len() as u64);
        for value in self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = from.length()?;
        // Every element takes a byte or more, yet may be large in memory: reserve little, and grow by what is read.
        let mut values = Self::with_capacity(len.min(64));
        for _ in 0..len {
            values.push(T::take(from)?);
        }
        Ok(values)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

/// Gives a struct its binary form: the named fields, in this order.
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut $crate::codec::Writer) {
                let Self { $($field),* } = self;
                $($crate::codec::Wire::put($field, out);)*
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::DecodeError> {
                Ok(Self { $($field: $crate::codec::Wire::take(from)?),* })
            }
        }
    };
}

/// Gives an enum its binary form: an explicit tag, then the variant's fields in order. A tag is never reused.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($tag:literal = $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut $crate::codec::Writer) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.varint($tag);
                        $($crate::codec::Wire::put($field, out);)*
                    })*
                }
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::DecodeError> {
                match from.varint()? {
                    $($tag => Ok(Self::$variant { $($field: $crate::codec::Wire::take(from)?),* }),)*
                    found => Err($crate::DecodeError::Tag { what: stringify!($name), found }),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back_as_written(value: u64, signed: i64) {
            prop_assert_eq!(decode::<u64>(&encode(&value).into()), Ok(value));
            prop_assert_eq!(decode::<i64>(&encode(&signed).into()), Ok(signed));
        }
    }

    #[test]
    fn a_number_longer_than_64_bits_is_refused() {
        let bytes = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]);
        assert_eq!(decode::<u64>(&bytes), Err(DecodeError::Varint { at: 0 }));
    }

    #[test]
    fn a_claimed_length_beyond_the_input_is_refused_before_any_allocation() {
        let mut out = Writer::default();
        out.varint(u64::MAX);
        assert!(matches!(decode::<Vec<u64>>(&out.buffer.into()), Err(DecodeError::Short { .. })));
    }
}
