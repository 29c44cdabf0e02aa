//! Byte strings in one buffer: what small collections are, and the leaves of large lists.
//!
//! An item is its length, its bytes, and its length again, written so that it can be read from behind; walking goes both ways. A small
//! collection is one allocation of the exact size, rebuilt at each change: below a kilobyte that costs less than keeping slack, and
//! most collections are small and many.
//!
//! Invariant: every buffer here was written here. Bytes from a disk are read as elements and inserted one by one.
//! Called by: the collections of this folder.
//! Source: the idea of a list walked both ways in one buffer is Redis' listpack.

use quorate_types::Blob;

/// Most items that a small collection packs; a field and its value are two.
pub(super) const ITEMS_MAX: usize = 64;
/// Most bytes that a small collection packs.
pub(super) const BYTES_MAX: usize = 1024;

/// Bytes that an item of `len` bytes takes.
pub(super) fn size(len: usize) -> usize {
    let bits = (usize::BITS - (len | 1).leading_zeros()) as usize;
    len + 2 * bits.div_ceil(7)
}

/// Appends an item made of `parts`.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let (mut len_bytes, width) = length(parts.iter().map(|part| part.len()).sum());
    out.extend_from_slice(&len_bytes[..width]);
    for part in parts {
        out.extend_from_slice(part);
    }
    len_bytes[..width].reverse();
    out.extend_from_slice(&len_bytes[..width]);
}

/// Writes an item over bytes of exactly its size.
pub(super) fn write(over: &mut [u8], item: &[u8]) {
    let (mut len_bytes, width) = length(item.len());
    over[..width].copy_from_slice(&len_bytes[..width]);
    over[width..width + item.len()].copy_from_slice(item);
    len_bytes[..width].reverse();
    over[width + item.len()..].copy_from_slice(&len_bytes[..width]);
}

/// A length, low bits first, and how many bytes it takes.
fn length(mut len: usize) -> ([u8; 10], usize) {
    let (mut bytes, mut width) = ([0; 10], 0);
    while len >= 0x80 {
        bytes[width] = len as u8 | 0x80;
        len >>= 7;
        width += 1;
    }
    bytes[width] = len as u8;
    (bytes, width + 1)
}

/// The item at `at`, which is moved behind it.
pub(super) fn next<'a>(bytes: &'a [u8], at: &mut usize) -> &'a [u8] {
    let (mut len, mut shift, mut here) = (0usize, 0, *at);
    loop {
        let byte = bytes[here];
        here += 1;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let prefix = here - *at;
    *at = here + len + prefix;
    &bytes[here..here + len]
}

/// The item that ends at `end`, which is moved to its start.
pub(super) fn previous<'a>(bytes: &'a [u8], end: &mut usize) -> &'a [u8] {
    let (mut len, mut shift, mut here) = (0usize, 0, *end);
    loop {
        here -= 1;
        let byte = bytes[here];
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let suffix = *end - here;
    *end = here - len - suffix;
    &bytes[here - len..here]
}

/// Where the item number `at` of `count` starts, counted from the nearer end.
pub(super) fn offset(bytes: &[u8], count: usize, at: usize) -> usize {
    if at <= count / 2 {
        let mut here = 0;
        for _ in 0..at {
            next(bytes, &mut here);
        }
        here
    } else {
        let mut here = bytes.len();
        for _ in at..count {
            previous(bytes, &mut here);
        }
        here
    }
}

/// A short sequence: a byte that counts the items, then the items. Nothing at all when it is empty.
#[derive(Clone, Default)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// How many items.
    pub(super) fn count(&self) -> usize {
        self.0.first().map_or(0, |count| usize::from(*count))
    }
    /// Bytes of the items.
    pub(super) fn raw(&self) -> usize {
        self.body().len()
    }
    /// Whether `items` more with `bytes` more have room.
    pub(super) fn fits(&self, items: usize, bytes: usize) -> bool {
        self.count() + items <= ITEMS_MAX && self.raw() + bytes <= BYTES_MAX
    }
    /// An item.
    pub(super) fn get(&self, at: usize) -> Option<&[u8]> {
        let mut here = (at < self.count()).then(|| offset(self.body(), self.count(), at))?;
        Some(next(self.body(), &mut here))
    }
    /// All items.
    pub(super) fn iter(&self) -> Items<'_> {
        Items { bytes: self.body(), left: self.count() }
    }
    /// Items `from` to before `to`, which are within bounds.
    pub(super) fn range(&self, from: usize, to: usize) -> Items<'_> {
        let (body, count) = (self.body(), self.count());
        let start = offset(body, count, from);
        Items { bytes: &body[start..offset(body, count, to)], left: to - from }
    }
    /// Replaces `gone` items from number `at` on by `items`, each given in parts.
    pub(super) fn splice(&mut self, at: usize, gone: usize, items: &[&[&[u8]]]) {
        let (body, count) = (self.body(), self.count());
        let left = count - gone + items.len();
        if left == 0 {
            self.0 = Box::default();
            return;
        }
        let from = offset(body, count, at);
        let mut to = from;
        for _ in 0..gone {
            next(body, &mut to);
        }
        let added: usize = items.iter().map(|parts| size(parts.iter().map(|part| part.len()).sum())).sum();
        let mut bytes = Vec::with_capacity(1 + body.len() - (to - from) + added);
        bytes.push(u8::try_from(left).expect("a small collection holds at most ITEMS_MAX items"));
        bytes.extend_from_slice(&body[..from]);
        for parts in items {
            put(&mut bytes, parts);
        }
        bytes.extend_from_slice(&body[to..]);
        self.0 = bytes.into_boxed_slice();
    }

    fn body(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }
}

const _: () = assert!(ITEMS_MAX <= 255, "the count is one byte");

/// Items of a [`Packed`], from both ends.
#[derive(Clone)]
pub(super) struct Items<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let mut at = 0;
        let item = next(self.bytes, &mut at);
        self.bytes = &self.bytes[at..];
        Some(item)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Items<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut end = self.bytes.len();
        let item = previous(self.bytes, &mut end);
        self.bytes = &self.bytes[..end];
        Some(item)
    }
}
impl ExactSizeIterator for Items<'_> {}

/// One of two iterators: over a small collection, or over a large one.
pub(super) enum Either<A, B> {
    Small(A),
    Large(B),
}

impl<A: Iterator, B: Iterator<Item = A::Item>> Iterator for Either<A, B> {
    type Item = A::Item;
    fn next(&mut self) -> Option<A::Item> {
        match self {
            Self::Small(iter) => iter.next(),
            Self::Large(iter) => iter.next(),
        }
    }
}
impl<A: DoubleEndedIterator, B: DoubleEndedIterator<Item = A::Item>> DoubleEndedIterator for Either<A, B> {
    fn next_back(&mut self) -> Option<A::Item> {
        match self {
            Self::Small(iter) => iter.next_back(),
            Self::Large(iter) => iter.next_back(),
        }
    }
}

/// What an allocation of `bytes` costs: a header of eight, in steps of sixteen, at least 32; nothing for nothing.
pub(super) fn allocated(bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

/// What a blob keeps beyond its own 24 bytes.
pub(super) fn heap(blob: &Blob) -> u64 {
    allocated(blob.heap_bytes() as u64)
}

/// What a small collection of so many bytes of items costs.
pub(super) fn packed_bytes(raw: u64) -> u64 {
    if raw == 0 { 0 } else { allocated(raw + 1) }
}

/// The same of a collection that is large now; nothing when it would not be small if it were made anew. So the memory that is counted
/// is a function of the elements, whichever way they came.
pub(super) fn small_bytes(items: u64, raw: u64) -> Option<u64> {
    (items <= ITEMS_MAX as u64 && raw <= BYTES_MAX as u64).then(|| packed_bytes(raw))
}

/// Whether a large collection has shrunk so far that it is packed again: well below the bounds, so that it does not go back and forth.
pub(super) fn packs_again(items: u64, raw: u64) -> bool {
    items <= ITEMS_MAX as u64 / 2 && raw <= BYTES_MAX as u64 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_all_lengths_are_walked_both_ways_and_take_the_size_foretold() {
        let lens = [0, 1, 126, 127, 128, 129, 16_383, 16_384, 100_000];
        let mut bytes = Vec::new();
        for (at, len) in lens.iter().enumerate() {
            let before = bytes.len();
            put(&mut bytes, &[&vec![at as u8; len / 2], &vec![at as u8; len - len / 2]]);
            assert_eq!(bytes.len() - before, size(*len), "{len}");
        }
        let items = Items { bytes: &bytes, left: lens.len() };
        assert!(items.clone().map(<[u8]>::len).eq(lens));
        assert!(items.rev().map(<[u8]>::len).eq(lens.iter().rev().copied()));
        for at in 0..=lens.len() {
            let expected: usize = lens[..at].iter().map(|len| size(*len)).sum();
            assert_eq!(offset(&bytes, lens.len(), at), expected);
        }
    }

    #[test]
    fn splicing_puts_and_takes_anywhere() {
        let mut packed = Packed::default();
        packed.splice(0, 0, &[&[b"a"], &[b"c"]]);
        packed.splice(1, 0, &[&[b"b", b"b"]]);
        assert!(packed.iter().eq([&b"a"[..], b"bb", b"c"]));
        assert!(packed.range(1, 3).eq([&b"bb"[..], b"c"]));
        packed.splice(0, 2, &[&[b"x"]]);
        assert!(packed.iter().eq([&b"x"[..], b"c"]));
        packed.splice(0, 2, &[]);
        assert_eq!((packed.count(), packed.raw()), (0, 0));
    }
}
