//! Where an element lies, by hash, in segments: growing splits one segment at a time, so that no insertion ever waits for a table of millions.
//!
//! Invariant: nothing that shows depends on a hash or on the seed.
//! Invariant: an entry lies in the segment that the low bits of its hash name: all of them below the next power of two, or one bit
//! fewer where that segment does not exist yet.
//! Called by: `dense` and `sorted`.
//! Source: Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

/// Entries in a segment on average; twice as many before it is split. Just below what a table of 4096 has room for (seven eighths), so that a
/// segment is well filled both before and after.
const SEGMENT: usize = 3400;

static HASHER: OnceLock<FixedState> = OnceLock::new();

/// Sets the seed of all hashes of this process, so that nobody can choose members that collide. It never shows, and may differ between
/// replicas. To be called before the first collection is made; whether it was in time.
pub fn seed_hashes(seed: u64) -> bool {
    HASHER.set(FixedState::with_seed(seed)).is_ok()
}

/// The hash of an element's name.
pub(super) fn hash_of(name: &[u8]) -> u32 {
    let hash = HASHER.get_or_init(|| FixedState::with_seed(0x9e37_79b9_7f4a_7c15)).hash_one(name);
    (hash >> 32) as u32 ^ hash as u32
}

/// What the index keeps for an element.
pub(super) trait Entry: Copy {
    /// The hash of the element's name.
    fn hash(&self) -> u32;
}

/// The index. Cloning shares the segments; a change copies the one it touches.
#[derive(Clone)]
pub(super) struct Index<E> {
    segments: Vec<Arc<HashTable<E>>>,
    len: usize,
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }
}

impl<E: Entry> Index<E> {
    /// The entry of this hash that is the `same`.
    pub(super) fn find(&self, hash: u32, mut same: impl FnMut(&E) -> bool) -> Option<&E> {
        let segment = self.segments.get(self.segment(hash))?;
        segment.find(inner(hash), |entry| entry.hash() == hash && same(entry))
    }

    /// The same, to be changed; its hash stays.
    pub(super) fn find_mut(&mut self, hash: u32, mut same: impl FnMut(&E) -> bool) -> Option<&mut E> {
        let at = self.segment(hash);
        let segment = Arc::make_mut(self.segments.get_mut(at)?);
        segment.find_mut(inner(hash), |entry| entry.hash() == hash && same(entry))
    }

    /// Adds an entry that is not there yet.
    pub(super) fn insert(&mut self, entry: E) {
        if self.len >= self.segments.len() * SEGMENT {
            self.split();
        }
        let at = self.segment(entry.hash());
        Arc::make_mut(&mut self.segments[at]).insert_unique(inner(entry.hash()), entry, |e| inner(e.hash()));
        self.len += 1;
    }

    /// Removes the entry of this hash that is the `same`; whether it was there.
    pub(super) fn remove(&mut self, hash: u32, mut same: impl FnMut(&E) -> bool) -> bool {
        let at = self.segment(hash);
        let Some(segment) = self.segments.get_mut(at) else { return false };
        let segment = Arc::make_mut(segment);
        let Ok(found) = segment.find_entry(inner(hash), |e| e.hash() == hash && same(e)) else {
            return false;
        };
        found.remove();
        if segment.len() * 8 < segment.capacity() && segment.capacity() > 64 {
            segment.shrink_to(segment.len() * 2, |e| inner(e.hash()));
        }
        self.len -= 1;
        if self.segments.len() > 1 && self.len < self.segments.len() * SEGMENT / 4 {
            self.merge();
        }
        true
    }

    /// Frees up to `max` segments; how many are left.
    pub(super) fn drop_some(&mut self, max: usize) -> usize {
        self.segments.truncate(self.segments.len().saturating_sub(max));
        self.segments.len()
    }

    fn segment(&self, hash: u32) -> usize {
        let mask = self.segments.len().next_power_of_two() - 1;
        let at = hash as usize & mask;
        if at < self.segments.len() { at } else { at & (mask >> 1) }
    }

    /// One more segment, and into it what belongs there from the one that had it.
    fn split(&mut self) {
        let new = self.segments.len();
        if new == 0 {
            self.segments.push(Arc::default());
            return;
        }
        let bit = 1 << new.ilog2();
        let (mut stays, mut goes) = (Vec::new(), Vec::new());
        for entry in self.segments[new - bit].iter() {
            if entry.hash() as usize & bit == 0 { stays.push(*entry) } else { goes.push(*entry) }
        }
        self.segments[new - bit] = Arc::new(table(&stays));
        self.segments.push(Arc::new(table(&goes)));
    }

    /// One segment fewer: what was in the last goes back to where it came from.
    fn merge(&mut self) {
        let last = self.segments.pop().expect("there are two at least");
        let at = self.segments.len();
        let to = Arc::make_mut(&mut self.segments[at - (1 << at.ilog2())]);
        for entry in last.iter() {
            to.insert_unique(inner(entry.hash()), *entry, |e| inner(e.hash()));
        }
    }
}

fn table<E: Entry>(entries: &[E]) -> HashTable<E> {
    let mut table = HashTable::with_capacity(entries.len());
    for entry in entries {
        table.insert_unique(inner(entry.hash()), *entry, |e| inner(e.hash()));
    }
    table
}

/// The hash inside a segment. All entries there share their low bits, so those are spread over the word again.
fn inner(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    struct Number(u32, u32);
    impl Entry for Number {
        fn hash(&self) -> u32 {
            self.0
        }
    }

    #[test]
    fn entries_are_found_while_segments_split_and_merge() {
        let hash = |n: u32| hash_of(&n.to_le_bytes());
        let mut index = Index::default();
        let found = |index: &Index<Number>, n| index.find(hash(n), |e| e.1 == n).is_some();
        for n in 0..40_000 {
            index.insert(Number(hash(n), n));
        }
        assert_eq!(index.segments.len(), 12);
        let shared = index.clone();
        assert!((0..40_000).all(|n| found(&index, n)) && !found(&index, 40_000));
        for n in 0..39_990 {
            assert!(index.remove(hash(n), |e| e.1 == n) && !index.remove(hash(n), |e| e.1 == n));
        }
        assert_eq!(index.segments.len(), 1);
        assert!((39_990..40_000).all(|n| found(&index, n)) && !found(&index, 7));
        assert!((0..40_000).all(|n| found(&shared, n)), "a clone keeps what it had");
    }
}
