//! Where an element lies, by hash, in segments: growing splits one segment at a time, so that no insertion ever waits for a table of millions.
//!
//! Invariant: nothing that shows depends on the seed.
//! Invariant: an entry lies in the segment that the low bits of its spot's `segment` name: all of them below the next power of two, or one bit
//! fewer where that segment does not exist yet. So a segment holds a range of these numbers with their bits reversed, and a split cuts it in two.
//! Called by: `dense` and `sorted`, and the machine for the rows of its keys.
//! Source: Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

/// Entries in a segment on average; twice as many before it is split. Just below what a table of 4096 has room for (seven eighths), so that a
/// segment is well filled both before and after.
pub(super) const SEGMENT: usize = 3400;

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

/// Where an entry belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Names the segment, and the entry's place in the order of [`Index::walk`].
    pub segment: u32,
    /// The hash of the element's name, seeded: finds the entry in its segment.
    pub hash: u32,
}

impl From<u32> for Spot {
    fn from(hash: u32) -> Self {
        Self { segment: hash, hash }
    }
}

/// What the index keeps for an element.
pub trait Entry: Clone {
    /// By which it is found; it never changes.
    fn spot(&self) -> Spot;
}

/// The index. Cloning shares the segments; a change copies the one it touches.
#[derive(Clone)]
pub struct Index<E> {
    segments: Vec<Arc<HashTable<E>>>,
    len: usize,
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }
}

impl<E: Entry> Index<E> {
    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of this spot that is the `same`.
    pub fn find(&self, spot: impl Into<Spot>, mut same: impl FnMut(&E) -> bool) -> Option<&E> {
        let spot = spot.into();
        let segment = self.segments.get(self.segment(spot.segment))?;
        segment.find(inner(spot.hash), |entry| entry.spot() == spot && same(entry))
    }

    /// The same, to be changed; its spot stays.
    pub(super) fn find_mut(
        &mut self,
        spot: impl Into<Spot>,
        mut same: impl FnMut(&E) -> bool,
    ) -> Option<&mut E> {
        let spot = spot.into();
        let at = self.segment(spot.segment);
        let segment = Arc::make_mut(self.segments.get_mut(at)?);
        segment.find_mut(inner(spot.hash), |entry| entry.spot() == spot && same(entry))
    }

    /// Adds an entry that is not there yet.
    pub fn insert(&mut self, entry: E) {
        if self.len >= self.segments.len() * SEGMENT {
            self.split();
        }
        let spot = entry.spot();
        let at = self.segment(spot.segment);
        Arc::make_mut(&mut self.segments[at]).insert_unique(inner(spot.hash), entry, refind);
        self.len += 1;
    }

    /// Removes the entry of this spot that is the `same`; whether it was there.
    pub fn remove(&mut self, spot: impl Into<Spot>, mut same: impl FnMut(&E) -> bool) -> bool {
        let spot = spot.into();
        let at = self.segment(spot.segment);
        let Some(segment) = self.segments.get_mut(at) else { return false };
        let segment = Arc::make_mut(segment);
        let Ok(found) = segment.find_entry(inner(spot.hash), |e| e.spot() == spot && same(e)) else {
            return false;
        };
        found.remove();
        if segment.len() * 8 < segment.capacity() && segment.capacity() > 64 {
            segment.shrink_to(segment.len() * 2, refind);
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

    /// The next `count` entries, and those that share the last one's number, in the order of their segment numbers with the bits reversed: an order
    /// that no split or merge changes. `from` is where to begin in it; also gives where to go on, nothing at the end. It looks at one segment at
    /// least.
    pub(super) fn walk(&self, from: u32, count: usize) -> (Vec<&E>, Option<u32>) {
        let order = |entry: &&E| entry.spot().segment.reverse_bits();
        let (mut found, mut next) = (Vec::new(), Some(from));
        while let Some(from) = next.filter(|_| found.len() < count && !self.segments.is_empty()) {
            let at = self.segment(from.reverse_bits());
            let mut here: Vec<&E> = self.segments[at].iter().filter(|entry| order(entry) >= from).collect();
            here.sort_unstable_by_key(order);
            let left = count - found.len();
            next = if here.len() > left {
                let last = order(&here[left - 1]);
                here.truncate(here.partition_point(|entry| order(entry) <= last));
                last.checked_add(1)
            } else {
                self.ends(at).checked_add(1)
            };
            found.append(&mut here);
        }
        (found, next.filter(|_| !self.segments.is_empty()))
    }

    /// The last number, with its bits reversed, that belongs to a segment.
    fn ends(&self, at: usize) -> u32 {
        let bits = self.segments.len().next_power_of_two().trailing_zeros();
        let half = (1 << bits) >> 1;
        let halved = at + half < self.segments.len() || at >= half;
        let bits = if halved { bits } else { bits - 1 };
        (at as u32).reverse_bits() | u32::MAX.checked_shr(bits).unwrap_or(0)
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
            let side = if entry.spot().segment as usize & bit == 0 { &mut stays } else { &mut goes };
            side.push(entry.clone());
        }
        self.segments[new - bit] = Arc::new(table(stays));
        self.segments.push(Arc::new(table(goes)));
    }

    /// One segment fewer: what was in the last goes back to where it came from.
    fn merge(&mut self) {
        let last = self.segments.pop().expect("there are two at least");
        let at = self.segments.len();
        let to = Arc::make_mut(&mut self.segments[at - (1 << at.ilog2())]);
        for entry in last.iter() {
            to.insert_unique(refind(entry), entry.clone(), refind);
        }
    }
}

fn table<E: Entry>(entries: Vec<E>) -> HashTable<E> {
    let mut table = HashTable::with_capacity(entries.len());
    for entry in entries {
        table.insert_unique(refind(&entry), entry, refind);
    }
    table
}

fn refind<E: Entry>(entry: &E) -> u64 {
    inner(entry.spot().hash)
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
        fn spot(&self) -> Spot {
            self.0.into()
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

    #[test]
    fn a_walk_sees_each_entry_once_while_segments_split_and_merge() {
        let hash = |n: u32| n.wrapping_mul(0x9e37_79b9) ^ n >> 3;
        for (first, then) in [(2_000, 60_000), (60_000, 2_000), (41_000, 41_000), (1, 20_000), (9_000, 300)] {
            let mut index = Index::default();
            (0..first).for_each(|n| index.insert(Number(hash(n), n)));
            let (mut seen, mut next, mut steps) = (Vec::new(), Some(0), 0);
            while let Some(from) = next {
                let (found, after) = index.walk(from, 100);
                assert!(found.len() >= 100 || after.is_none());
                seen.extend(found.iter().map(|entry| entry.1));
                next = after;
                steps += 1;
                if steps == 3 {
                    (first..then).for_each(|n| index.insert(Number(hash(n), n)));
                    (then..first).for_each(|n| assert!(index.remove(hash(n), |e| e.1 == n)));
                }
            }
            seen.sort_unstable();
            let twice = seen.windows(2).find(|two| two[0] == two[1]);
            assert_eq!(twice, None);
            assert!((0..first.min(then)).all(|n| seen.binary_search(&n).is_ok()), "{first} {then}");
        }
        let mut one = Index::default();
        (0..5_000).for_each(|n| one.insert(Number(7, n)));
        assert_eq!(
            (one.walk(0, 10).0.len(), one.walk(0, 10).1.is_some()),
            (5_000, true),
            "of one number all come"
        );
        assert_eq!(
            (Index::<Number>::default().walk(0, 10).0.len(), Index::<Number>::default().walk(0, 10).1),
            (0, None)
        );
    }
}
