//! Bloom filters: whether something was added before, with few bits for each item and a known rate of wrong yeses. No wrong no.
//!
//! A filter is layers of bits. When the last has as many items as it is for, a larger one with half its rate of errors follows, so the rates of
//! all add up to less than what was asked for. A layer's bits lie in chunks, made when their first bit is set: making a filter for a billion
//! items writes no gigabyte at once, and a snapshot copies no more than what changes meanwhile.
//!
//! Invariant: a chunk is there iff a bit of it is set, so that the memory that is counted is a function of the bits.
//! Invariant: the bits that stand for an item are the same on every machine, forever: they are in snapshots.
//! Called by: `collections::value`, `pin`, `calls::bloom`.
//! Source: Bloom, "Space/time trade-offs in hash coding with allowable errors", CACM 13(7), 1970; Almeida et al., "Scalable Bloom filters",
//! IPL 101(6), 2007; Kirsch, Mitzenmacher, "Less hashing, same performance", ESA 2006.

use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{DecodeError, Score};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a chunk; a small layer has one that is shorter.
const CHUNK: u64 = 4096;
/// Most bits of a layer: two gigabytes.
const BITS_MAX: u64 = 1 << 34;
/// Most layers.
const LAYERS_MAX: usize = 64;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bloom {
    /// The rate of wrong yeses that was asked for.
    error: Score,
    /// How many times larger each layer is than the one before; nothing when there is only one.
    expansion: Option<u32>,
    layers: Vec<Layer>,
    /// Chunks that are there, and their bytes.
    chunks: u64,
    chunk_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    /// For how many items it is.
    capacity: u64,
    /// How many it has.
    items: u64,
    bits: u64,
    hashes: u32,
    chunks: Vec<Option<Arc<Chunk>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    ones: u32,
    bytes: Vec<u8>,
}

/// Why an item is not in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has as many as it is for, and does not grow.
    Full,
    /// It would be larger than a filter may be.
    TooLarge,
}

/// What adding an item has changed, so that it can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    bits: Vec<u64>,
    grown: bool,
}

impl Layer {
    fn new(error: Score, halvings: u32, capacity: u64) -> Option<Self> {
        let (bits, hashes) = error.filter_shape(halvings, capacity)?;
        if bits > BITS_MAX {
            return None;
        }
        let chunks = vec![None; (bits / 8).div_ceil(CHUNK) as usize];
        Some(Self { capacity, items: 0, bits, hashes, chunks })
    }

    /// The bits that stand for an item.
    fn places(&self, (one, other): (u64, u64)) -> impl Iterator<Item = u64> + use<> {
        let bits = self.bits;
        (0..u64::from(self.hashes)).map(move |at| one.wrapping_add(at.wrapping_mul(other)) % bits)
    }

    fn has(&self, place: u64) -> bool {
        let byte = place / 8;
        let chunk = self.chunks[(byte / CHUNK) as usize].as_ref();
        chunk.is_some_and(|chunk| chunk.bytes[(byte % CHUNK) as usize] & 1 << (place % 8) != 0)
    }

    fn has_all(&self, item: (u64, u64)) -> bool {
        self.places(item).all(|place| self.has(place))
    }

    /// Bytes of a chunk of this number.
    fn chunk_len(&self, at: u64) -> u64 {
        (self.bits / 8 - at * CHUNK).min(CHUNK)
    }
}

/// Two numbers of which all bits of an item are made.
fn hashed(item: &[u8]) -> (u64, u64) {
    let hash = xxh3_128(item);
    // An odd step goes through many places whatever their number.
    (hash as u64, (hash >> 64) as u64 | 1)
}

impl Bloom {
    /// For `capacity` items at first, with a rate of wrong yeses of `error`; `expansion` is how many times larger each further layer is,
    /// nothing for a filter that does not grow. Nothing when it would be larger than a filter may be.
    #[must_use]
    pub fn new(capacity: u64, error: Score, expansion: Option<u32>) -> Option<Self> {
        let mut filter = Self { error, expansion, layers: Vec::new(), chunks: 0, chunk_bytes: 0 };
        filter.layers.push(filter.layer(0, capacity)?);
        Some(filter)
    }

    /// The layer of a number.
    fn layer(&self, at: usize, capacity: u64) -> Option<Layer> {
        let halvings = if self.expansion.is_some() { at as u32 + 1 } else { 0 };
        (at < LAYERS_MAX).then(|| Layer::new(self.error, halvings, capacity))?
    }

    /// Whether an item was added, or seems to have been.
    #[must_use]
    pub fn contains(&self, item: &[u8]) -> bool {
        let item = hashed(item);
        self.layers.iter().rev().any(|layer| layer.has_all(item))
    }

    /// Adds an item; nothing when it seems to be there already.
    ///
    /// # Errors
    /// It has no room for it; nothing happened.
    pub fn add(&mut self, item: &[u8]) -> Result<Option<Set>, Refused> {
        let item = hashed(item);
        if self.layers.iter().rev().any(|layer| layer.has_all(item)) {
            return Ok(None);
        }
        let last = self.layers.last().expect("a filter has a layer");
        let grown = last.items >= last.capacity;
        if grown {
            let factor = self.expansion.ok_or(Refused::Full)?;
            let capacity = last.capacity.checked_mul(u64::from(factor)).ok_or(Refused::TooLarge)?;
            let next = self.layer(self.layers.len(), capacity).ok_or(Refused::TooLarge)?;
            self.layers.push(next);
        }
        let layer = self.layers.last_mut().expect("a filter has a layer");
        layer.items += 1;
        let places: Vec<u64> = layer.places(item).collect();
        let bits = places.into_iter().filter(|place| self.flip(*place, true)).collect();
        Ok(Some(Set { bits, grown }))
    }

    /// Takes the newest [`Bloom::add`] back.
    pub(super) fn take_back(&mut self, set: Set) {
        for place in set.bits {
            self.flip(place, false);
        }
        if set.grown {
            self.layers.pop();
        } else {
            self.layers.last_mut().expect("a filter has a layer").items -= 1;
        }
    }

    /// Sets or clears a bit of the last layer; whether it was otherwise.
    fn flip(&mut self, place: u64, on: bool) -> bool {
        let layer = self.layers.last_mut().expect("a filter has a layer");
        let at = place / 8 / CHUNK;
        let len = layer.chunk_len(at);
        let slot = &mut layer.chunks[at as usize];
        if slot.is_none() {
            if !on {
                return false;
            }
            *slot = Some(Arc::new(Chunk { ones: 0, bytes: vec![0; len as usize] }));
            (self.chunks, self.chunk_bytes) = (self.chunks + 1, self.chunk_bytes + len);
        }
        let chunk = Arc::make_mut(slot.as_mut().expect("it was just made"));
        let (byte, bit) = ((place / 8 % CHUNK) as usize, 1 << (place % 8));
        if (chunk.bytes[byte] & bit != 0) == on {
            return false;
        }
        chunk.bytes[byte] ^= bit;
        chunk.ones = if on { chunk.ones + 1 } else { chunk.ones - 1 };
        if chunk.ones == 0 {
            *slot = None;
            (self.chunks, self.chunk_bytes) = (self.chunks - 1, self.chunk_bytes - len);
        }
        true
    }

    /// Items that were added, as far as it could tell.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.layers.iter().map(|layer| layer.items).sum()
    }

    /// Items for which all layers are.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.layers.iter().map(|layer| layer.capacity).fold(0, u64::saturating_add)
    }

    /// How many layers.
    #[must_use]
    pub fn layers(&self) -> u64 {
        self.layers.len() as u64
    }

    /// How many times larger each layer is than the one before.
    #[must_use]
    pub fn expansion(&self) -> Option<u32> {
        self.expansion
    }

    /// Bytes of the bits of all layers, set or not.
    #[must_use]
    pub fn bit_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bits / 8).sum()
    }

    /// Bytes in memory, nearly: a function of the bits alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let slots: u64 = self.layers.iter().map(|layer| layer.chunks.len() as u64).sum();
        96 + self.layers.len() as u64 * size_of::<Layer>() as u64
            + slots * 8
            + self.chunks * 56
            + self.chunk_bytes
    }

    /// Pieces in which it is written: what it is, and each chunk that is there.
    pub(super) fn parts(&self) -> u64 {
        1 + self.chunks
    }

    /// Writes pieces from a number on, while `more` says so.
    pub(super) fn put(&self, from: u64, out: &mut Writer, mut more: impl FnMut(&Writer) -> bool) {
        if from == 0 {
            self.error.put(out);
            self.expansion.put(out);
            out.varint(self.layers.len() as u64);
            for layer in &self.layers {
                out.varint(layer.capacity);
                out.varint(layer.items);
            }
            if !more(out) {
                return;
            }
        }
        let all = self.layers.iter().enumerate().flat_map(|(number, layer)| {
            layer.chunks.iter().enumerate().filter_map(move |(at, chunk)| Some((number, at, chunk.as_ref()?)))
        });
        for (number, at, chunk) in all.skip(from.saturating_sub(1) as usize) {
            out.varint(number as u64);
            out.varint(at as u64);
            out.bytes(&chunk.bytes);
            if !more(out) {
                return;
            }
        }
    }

    /// Reads what it is: a filter without its chunks.
    pub(super) fn take_first(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let wrong = |found: u64| DecodeError::Range { what: "a layer of a Bloom filter", found };
        let error = Score::take(from)?;
        let expansion = <Option<u32> as Wire>::take(from)?;
        let count = from.varint()?;
        if count == 0
            || count > LAYERS_MAX as u64
            || expansion == Some(0)
            || (expansion.is_none() && count > 1)
        {
            return Err(wrong(count));
        }
        let mut filter = Self { error, expansion, layers: Vec::new(), chunks: 0, chunk_bytes: 0 };
        for at in 0..count as usize {
            let (capacity, items) = (from.varint()?, from.varint()?);
            let before = filter.layers.last().map(|layer| layer.capacity);
            let follows = before.is_none_or(|before| {
                before.checked_mul(u64::from(expansion.unwrap_or_default())) == Some(capacity)
            });
            if !follows || items > capacity {
                return Err(wrong(capacity));
            }
            let mut layer = filter.layer(at, capacity).ok_or_else(|| wrong(capacity))?;
            layer.items = items;
            filter.layers.push(layer);
        }
        Ok(filter)
    }

    /// Reads a chunk.
    pub(super) fn take_next(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let at = from.position() as u64;
        let wrong = DecodeError::Range { what: "a chunk of a Bloom filter, at byte", found: at };
        let (number, place) = (from.varint()?, from.varint()?);
        let bytes = from.bytes()?;
        let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
        let layer =
            self.layers.get_mut(usize::try_from(number).unwrap_or(usize::MAX)).ok_or(wrong.clone())?;
        let len = bytes.len() as u64;
        let slot = match usize::try_from(place) {
            Ok(at) if at < layer.chunks.len() && layer.chunk_len(place) == len && ones > 0 => {
                &mut layer.chunks[at]
            }
            _ => return Err(wrong),
        };
        if slot.is_some() {
            return Err(wrong);
        }
        *slot = Some(Arc::new(Chunk { ones, bytes: bytes.to_vec() }));
        (self.chunks, self.chunk_bytes) = (self.chunks + 1, self.chunk_bytes + len);
        Ok(())
    }

    /// Frees some chunks, as many as cost what `max` elements do; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        let mut left = (max / 4).max(1);
        while let Some(layer) = self.layers.last_mut() {
            while layer.chunks.pop().is_some() {
                left -= 1;
                if left == 0 {
                    return false;
                }
            }
            self.layers.pop();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(capacity: u64, error: &str, expansion: Option<u32>) -> Bloom {
        Bloom::new(capacity, Score::parse(error.as_bytes()).unwrap(), expansion).unwrap()
    }

    fn name(kind: &str, at: u32) -> Vec<u8> {
        format!("{kind}:{at}").into_bytes()
    }

    #[test]
    fn what_was_added_is_always_there_and_wrong_yeses_are_as_rare_as_asked_for() {
        // Full to the brim and through several layers; each bound has room for five standard deviations.
        for (capacity, error, expansion, added, wrong_max) in [
            (20_000, "0.01", None, 20_000, 1170_u32),
            (1000, "0.01", Some(2), 31_000, 1100),
            (100, "0.001", Some(4), 20_000, 150),
            (5000, "0.1", Some(1), 20_000, 10_500),
        ] {
            let mut filter = filter(capacity, error, expansion);
            let mut skipped = 0;
            for at in 0..added {
                skipped += u32::from(filter.add(&name("in", at)).unwrap().is_none());
            }
            assert!((0..added).all(|at| filter.contains(&name("in", at))), "no wrong no");
            let wrong = (0..100_000).filter(|at| filter.contains(&name("out", *at))).count() as u32;
            assert!(wrong <= wrong_max, "{capacity} {error} {expansion:?}: {wrong} wrong yeses of 100000");
            assert!(wrong > 0, "a filter that is full errs sometimes: {capacity} {error}");
            assert_eq!(filter.items(), u64::from(added - skipped));
        }
    }

    #[test]
    fn a_filter_that_does_not_grow_is_full_when_it_is() {
        let mut filter = filter(3, "0.01", None);
        for at in 0..3 {
            filter.add(&name("in", at)).unwrap().unwrap();
        }
        let before = filter.clone();
        assert_eq!(filter.add(b"more"), Err(Refused::Full));
        assert_eq!(filter.add(&name("in", 1)), Ok(None), "what is there needs no room");
        assert_eq!(filter, before);
    }

    #[test]
    fn changes_are_taken_back_to_the_bit_and_pieces_make_the_same_filter() {
        let mut filter = filter(300, "0.001", Some(2));
        let mut steps = vec![(filter.clone(), None)];
        for at in 0..3000 {
            if let Some(set) = filter.add(&name("in", at)).unwrap() {
                steps.push((filter.clone(), Some(set)));
            }
        }
        let mut out = Writer::default();
        filter.put(0, &mut out, |_| true);
        let bytes = out.buffer.into();
        let mut reader = Reader::new(&bytes);
        let mut back = Bloom::take_first(&mut reader).unwrap();
        for _ in 1..filter.parts() {
            back.take_next(&mut reader).unwrap();
        }
        reader.finish().unwrap();
        assert_eq!((&back, back.bytes()), (&filter, filter.bytes()));
        while let Some((then, set)) = steps.pop() {
            assert_eq!(filter, then);
            if let Some(set) = set {
                filter.take_back(set);
            }
        }
        assert_eq!(filter.parts(), 1, "nothing is left of what was taken back");
        for at in 0..bytes.len().min(400) {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x11;
            let damaged = damaged.into();
            let mut reader = Reader::new(&damaged);
            if let Ok(mut filter) = Bloom::take_first(&mut reader) {
                while filter.take_next(&mut reader).is_ok() {}
                assert_eq!(filter.contains(b"x"), filter.contains(b"x"));
            }
        }
    }

    #[test]
    fn a_filter_for_very_many_costs_little_before_it_has_any() {
        let filter = filter(1 << 30, "0.01", Some(2));
        assert!(filter.bytes() < 4 << 20);
        assert_eq!(Bloom::new(u64::MAX, Score::parse(b"0.01").unwrap(), None), None);
    }
}
