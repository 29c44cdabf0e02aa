//! A byte string that is cheap to clone: short ones live inline, long ones are shared.
//!
//! Keys, values and names are blobs. 22 bytes cover most keys and counters, so the hot path of the machine allocates
//! nothing for them; a clone of a longer one is a reference count.
//!
//! The counters of a shared byte string stand in front of its bytes, in one piece of memory, but where they would push it over into the
//! allocator's next size: 256 bytes and 16 of counters take 320. There they are a piece of their own, and both together take 288.
//!
//! Invariant: a blob owns its bytes. It never keeps an entry's whole buffer alive because of one small value.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Longest byte string that is stored without an allocation.
pub const INLINE_MAX: usize = 22;

/// An immutable byte string of 24 bytes in memory. See the module's documentation.
#[derive(Clone)]
pub struct Blob(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE_MAX]),
    Shared(Arc<[u8]>),
    /// Of a length that is [`counted_apart`].
    Apart(Arc<Box<[u8]>>),
}

const _: () = assert!(size_of::<Blob>() == 24);

/// Bytes of the two counters that an `Arc` keeps in front of what it shares.
const COUNTERS: usize = 2 * size_of::<usize>();
/// Bytes of a piece of counters by themselves, with the place and the length of what they count.
const APART: usize = COUNTERS + size_of::<Box<[u8]>>();

/// Whether so many bytes take less memory without the counters in front of them.
fn counted_apart(len: usize) -> bool {
    allocated(len) + APART < allocated(len + COUNTERS)
}

/// What an allocator takes for so many bytes: mimalloc and jemalloc have four sizes to each doubling (beyond 64 bytes).
fn allocated(len: usize) -> usize {
    if len <= 64 { len } else { len.next_multiple_of(1 << ((len - 1).ilog2() - 2)) }
}

impl Blob {
    /// The empty byte string.
    pub const EMPTY: Self = Self(Repr::Inline(0, [0; INLINE_MAX]));

    /// Copies `bytes`.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        if bytes.len() <= INLINE_MAX {
            let mut inline = [0; INLINE_MAX];
            inline[..bytes.len()].copy_from_slice(bytes);
            Self(Repr::Inline(bytes.len() as u8, inline))
        } else if counted_apart(bytes.len()) {
            Self(Repr::Apart(Arc::new(bytes.into())))
        } else {
            Self(Repr::Shared(bytes.into()))
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
            Repr::Apart(bytes) => bytes,
        }
    }

    /// Bytes on the heap that this blob refers to, beyond its own 24: its length and two counters. Memory limits are decided by it, on every
    /// replica alike, so it does not tell what an allocator makes of them.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        if self.len() <= INLINE_MAX { 0 } else { self.len() + COUNTERS }
    }

    /// The text, where the bytes are UTF-8.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(self.as_slice()).ok()
    }
}

impl Default for Blob {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::borrow::Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl Eq for Blob {}
impl PartialOrd for Blob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Blob {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}
impl Hash for Blob {
    // As `[u8]` hashes, because of `Borrow<[u8]>`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from(bytes)
    }
}
impl<const N: usize> From<&[u8; N]> for Blob {
    fn from(bytes: &[u8; N]) -> Self {
        Self::copy_from(bytes)
    }
}
impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        Self::copy_from(text.as_bytes())
    }
}
impl From<String> for Blob {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}
impl From<&String> for Blob {
    fn from(text: &String) -> Self {
        Self::copy_from(text.as_bytes())
    }
}
impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() <= INLINE_MAX {
            Self::copy_from(&bytes)
        } else if counted_apart(bytes.len()) {
            Self(Repr::Apart(Arc::new(bytes.into())))
        } else {
            Self(Repr::Shared(bytes.into()))
        }
    }
}
impl From<bytes::Bytes> for Blob {
    fn from(bytes: bytes::Bytes) -> Self {
        Self::copy_from(&bytes)
    }
}

impl fmt::Display for Blob {
    /// Text as it is; other bytes as `\xNN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}
impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.as_slice().escape_ascii())
    }
}

impl crate::codec::Wire for Blob {
    fn put(&self, out: &mut crate::codec::Writer) {
        out.bytes(self.as_slice());
    }
    fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
        Ok(Self::copy_from(from.bytes()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_blobs_compare_by_their_bytes() {
        for len in [0, 1, INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, 240, 241, 256, 257, 4096] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let blob = Blob::from(bytes.clone());
            assert_eq!(blob.as_slice(), &bytes[..]);
            assert_eq!(blob, Blob::copy_from(&bytes));
            assert_eq!(blob.clone(), blob);
            assert_eq!(blob.heap_bytes(), if len > INLINE_MAX { len + 16 } else { 0 });
        }
        assert!(Blob::from("b") > Blob::from("a".repeat(100)));
    }

    #[test]
    fn counters_stand_apart_where_they_would_cost_a_larger_piece() {
        let pieces = [(24, 40), (240, 256), (241, 288), (256, 288), (257, 320), (1024, 1056), (4096, 4128)];
        for (len, wanted) in pieces {
            let takes = match Blob::from(vec![1; len]).0 {
                Repr::Inline(..) => 0,
                Repr::Shared(bytes) => allocated(bytes.len() + COUNTERS),
                Repr::Apart(bytes) => allocated(bytes.len()) + APART,
            };
            assert_eq!(takes, wanted, "{len} bytes");
            assert!((0..len).all(|len| !counted_apart(len) || len > 240), "short ones are in one piece");
        }
        assert_eq!(Blob::from("x".repeat(256)), Blob::copy_from(&[b'x'; 256]));
    }

    #[test]
    fn display_shows_text_and_escapes_the_rest() {
        assert_eq!(Blob::from(&b"a\xffb"[..]).to_string(), "a\\xffb");
    }
}
