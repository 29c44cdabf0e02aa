//! Rows found by hash in one step: a slab of rows, and a hash index of slot numbers over it.
//!
//! Keys and idempotency records can be many millions, and the cost of a write is the cache misses of its look-up; a hash
//! index over a slab touches three lines where an ordered tree of that size touches a dozen. Order, where it is needed,
//! is a separate index. Undo, snapshot walk and digest as in [`crate::table`].
//!
//! The index keeps each row's hash beside its slot: growing it touches no row, and two keys of like hashes are told apart
//! without a look at either's row, mostly. It grows by a segment at a time: one table of ten million places would hold everybody up for as long
//! as it takes to fill a larger one.
//!
//! A row keeps its slot for as long as it lives, a new one takes the lowest that is free, and a snapshot keeps slots: so they are the same on
//! every replica, and a scan by slots may go on anywhere.
//!
//! Invariant: the hash never decides anything but where a row is found; no result depends on the seed.
//! Invariant: `free` holds exactly the empty slots below the slab's end, and rolling back restores it.

use crate::slab::Slab;
use foldhash::quality::FixedState;
use quorate_calls::collections::{Entry, Index, Spot};
use quorate_types::DecodeError;
use quorate_types::codec::{Reader, Wire, Writer};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};

/// Memory ends before so many rows; a snapshot that claims more is damaged.
const SLOTS_MAX: u32 = 1 << 30;

/// A row's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// Where a row lies, and half of its hash.
#[derive(Clone, Copy)]
struct Place {
    slot: u32,
    hash: u32,
}

impl Entry for Place {
    fn spot(&self) -> Spot {
        self.hash.into()
    }
}

pub(crate) struct Rows<K, V> {
    index: Index<Place>,
    hasher: FixedState,
    slab: Slab<(K, V)>,
    free: Free,
    undo: Vec<Undo<K, V>>,
    walk: Option<Walk<K, V>>,
}

enum Undo<K, V> {
    Inserted(Slot),
    Replaced(Slot, V),
    Removed(Slot, K, V),
}

struct Walk<K, V> {
    next: u32,
    end: u32,
    /// Rows in `next..end` that have changed, as they were when the walk began.
    saved: BTreeMap<u32, Option<(K, V)>>,
}

impl<K: Eq + Hash + Clone + Wire, V: Clone + Wire> Rows<K, V> {
    /// `seed` keeps an attacker from choosing keys that collide; it is the same on every replica, and never shows.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            index: Index::default(),
            hasher: FixedState::with_seed(seed),
            slab: Slab::default(),
            free: Free::default(),
            undo: Vec::new(),
            walk: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn find<Q>(&self, key: &Q) -> Option<Slot>
    where
        Q: Hash + ?Sized,
        K: PartialEq<Q>,
    {
        let hash = self.hash(key);
        let same = |place: &Place| self.slab.get(place.slot).is_some_and(|(k, _)| k == key);
        self.index.find(hash, same).map(|place| Slot(place.slot))
    }

    /// Half of a key's hash.
    pub(crate) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    /// Where a key of this hash seems to be: a look at the index alone, so that its memory is near when it is needed.
    pub(crate) fn probe(&self, hash: u32) -> Option<Slot> {
        self.index.find(hash, |_| true).map(|place| Slot(place.slot))
    }

    pub(crate) fn at(&self, slot: Slot) -> &(K, V) {
        self.slab.get(slot.0).expect("a slot that was found, or that an index names, holds a row")
    }

    /// What a slot holds now, if it exists at all.
    pub(crate) fn holds(&self, slot: Slot) -> Option<&(K, V)> {
        self.slab.get(slot.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &K, &V)> {
        self.slab.iter().map(|(slot, (key, value))| (Slot(slot), key, value))
    }

    /// One more than the highest slot that is held: what rows that were read back know too, unlike the highest ever taken.
    pub(crate) fn slots(&self) -> u32 {
        self.free.tail(self.slab.end())
    }

    /// Adds a row whose key is not there yet.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Slot {
        let slot = self.add(key, value);
        self.undo.push(Undo::Inserted(slot));
        slot
    }

    /// Replaces a row's value.
    pub(crate) fn replace(&mut self, slot: Slot, value: V) {
        let before = self.swap(slot, value);
        self.undo.push(Undo::Replaced(slot, before));
    }

    /// Replaces a row's value and gives the old one back; the caller knows by itself how to take that back.
    pub(crate) fn swap(&mut self, slot: Slot, value: V) -> V {
        let row = self.slab.get_mut(slot.0).expect("a slot that was found holds a row");
        let before = std::mem::replace(&mut row.1, value);
        if self.walk.is_some() {
            let key = self.at(slot).0.clone();
            self.save(slot.0, Some((key, before.clone())));
        }
        before
    }

    /// Adds a row whose key is not there yet; the caller knows by itself how to take that back.
    pub(crate) fn add(&mut self, key: K, value: V) -> Slot {
        let slot = self.place(key, value);
        self.save(slot, None);
        Slot(slot)
    }

    /// Takes an [`Rows::add`] back: nothing has seen the row.
    pub(crate) fn take_back(&mut self, slot: Slot) -> K {
        self.clear(slot.0).0
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let (key, value) = self.clear(slot.0);
        if self.walk.is_some() {
            self.save(slot.0, Some((key.clone(), value.clone())));
        }
        self.undo.push(Undo::Removed(slot, key, value));
    }

    pub(crate) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Restores the rows at `mark`. `each` sees the slot, the key, and the value rolled back from and to.
    pub(crate) fn rollback(&mut self, mark: usize, mut each: impl FnMut(Slot, &K, Option<&V>, Option<&V>)) {
        while self.undo.len() > mark {
            match self.undo.pop().expect("the length was just checked") {
                Undo::Inserted(slot) => {
                    let (key, undone) = self.clear(slot.0);
                    each(slot, &key, Some(&undone), None);
                }
                Undo::Replaced(slot, value) => {
                    let row = self.slab.get_mut(slot.0).expect("a replaced row is still there");
                    let undone = std::mem::replace(&mut row.1, value);
                    each(slot, &row.0, Some(&undone), Some(&row.1));
                }
                Undo::Removed(slot, key, value) => {
                    each(slot, &key, None, Some(&value));
                    self.free.take(slot.0);
                    self.place_at(slot.0, key, value);
                }
            }
        }
    }

    pub(crate) fn forget(&mut self) {
        self.undo.clear();
    }

    pub(crate) fn walk_begin(&mut self) {
        assert!(self.undo.is_empty(), "a snapshot begins between commits");
        self.walk = Some(Walk { next: 0, end: self.slab.end(), saved: BTreeMap::new() });
    }

    /// Emits rows from up to `slots_max` slots; returns the rows emitted and whether the walk is over.
    pub(crate) fn walk_next(&mut self, slots_max: usize, out: &mut Writer) -> (usize, bool) {
        let Some(mut walk) = self.walk.take() else { return (0, true) };
        let stop = walk.end.min(walk.next.saturating_add(slots_max as u32));
        let mut emitted = 0;
        for slot in walk.next..stop {
            let saved = walk.saved.remove(&slot);
            let row = match &saved {
                Some(was) => was.as_ref(),
                None => self.slab.get(slot),
            };
            if let Some((key, value)) = row {
                slot.put(out);
                key.put(out);
                value.put(out);
                emitted += 1;
            }
        }
        walk.next = stop;
        let over = walk.next == walk.end;
        self.walk = Some(walk);
        (emitted, over)
    }

    pub(crate) fn walk_end(&mut self) {
        self.walk = None;
    }

    /// Reads a row back. Rows come in the order of their slots.
    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<Slot, DecodeError> {
        let slot = u32::take(from)?;
        self.restore_at(slot, from, V::take)
    }

    /// Reads a row as the first formats wrote it: without its slot, and maybe another form of value.
    pub(crate) fn restore_first(
        &mut self,
        from: &mut Reader<'_>,
        value: impl FnOnce(&mut Reader<'_>) -> Result<V, DecodeError>,
    ) -> Result<Slot, DecodeError> {
        self.restore_at(self.slab.end(), from, value)
    }

    fn restore_at(
        &mut self,
        slot: u32,
        from: &mut Reader<'_>,
        value: impl FnOnce(&mut Reader<'_>) -> Result<V, DecodeError>,
    ) -> Result<Slot, DecodeError> {
        if slot < self.slab.end() || slot >= SLOTS_MAX {
            return Err(DecodeError::Range { what: "slot of a row", found: u64::from(slot) });
        }
        let key = K::take(from)?;
        let value = value(from)?;
        if self.find(&key).is_some() {
            return Err(DecodeError::Range {
                what: "a row that came before, at byte",
                found: from.position() as u64,
            });
        }
        self.free.add(self.slab.end()..slot);
        self.place_at(slot, key, value);
        Ok(Slot(slot))
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let mut sum = 0u128;
        for (_, key, value) in self.iter() {
            scratch.clear();
            key.put(scratch);
            value.put(scratch);
            sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&scratch.buffer));
        }
        sum
    }

    fn place(&mut self, key: K, value: V) -> u32 {
        let slot = self.free.pop_first().unwrap_or_else(|| {
            let slot = self.slab.end();
            assert!(slot < SLOTS_MAX, "memory ends long before 2^30 rows");
            slot
        });
        self.place_at(slot, key, value);
        slot
    }

    /// Puts a row into a slot that is neither free nor held.
    fn place_at(&mut self, slot: u32, key: K, value: V) {
        let hash = self.hash(&key);
        self.slab.put(slot, (key, value));
        self.index.insert(Place { slot, hash });
    }

    fn clear(&mut self, slot: u32) -> (K, V) {
        let row = self.slab.take(slot).expect("a slot that was found holds a row");
        let found = self.index.remove(self.hash(&row.0), |place| place.slot == slot);
        assert!(found, "every row is in the index");
        self.free.add(slot..slot + 1);
        row
    }

    fn save(&mut self, slot: u32, before: Option<(K, V)>) {
        if let Some(walk) = &mut self.walk
            && (walk.next..walk.end).contains(&slot)
        {
            walk.saved.entry(slot).or_insert(before);
        }
    }
}

/// Free slots, as the first and the end of each stretch.
#[derive(Default)]
struct Free {
    stretches: BTreeMap<u32, u32>,
}

impl Free {
    /// Adds slots none of which is free.
    fn add(&mut self, slots: std::ops::Range<u32>) {
        if slots.is_empty() {
            return;
        }
        let (mut first, mut end) = (slots.start, slots.end);
        if let Some(after) = self.stretches.remove(&end) {
            end = after;
        }
        if let Some((start, stop)) = self.stretches.range_mut(..first).next_back()
            && *stop == first
        {
            first = *start;
        }
        self.stretches.insert(first, end);
    }

    fn pop_first(&mut self) -> Option<u32> {
        let (first, end) = self.stretches.pop_first()?;
        if first + 1 < end {
            self.stretches.insert(first + 1, end);
        }
        Some(first)
    }

    /// Where the free slots that reach up to `end` begin; `end` when the slot below it is held.
    fn tail(&self, end: u32) -> u32 {
        self.stretches.last_key_value().filter(|(_, stop)| **stop == end).map_or(end, |(first, _)| *first)
    }

    /// Takes one that is free.
    fn take(&mut self, slot: u32) {
        let (first, end) =
            self.stretches.range(..=slot).next_back().map(|(f, e)| (*f, *e)).expect("it is free");
        assert!(slot < end, "slot {slot} is free");
        self.stretches.remove(&first);
        self.add(first..slot);
        self.add(slot + 1..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn apply(rows: &mut Rows<u64, u64>, key: u64, value: Option<u64>) {
        match (rows.find(&key), value) {
            (Some(slot), Some(value)) => rows.replace(slot, value),
            (Some(slot), None) => rows.remove(slot),
            (None, Some(value)) => {
                rows.insert(key, value);
            }
            (None, None) => {}
        }
    }

    fn sorted(rows: &Rows<u64, u64>) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = rows.iter().map(|(_, k, v)| (*k, *v)).collect();
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn rollback_restores_and_a_walk_emits_the_state_it_began_with(
            first in proptest::collection::vec((0u64..40, proptest::option::of(0u64..9)), 0..60),
            second in proptest::collection::vec((0u64..40, proptest::option::of(0u64..9)), 0..60),
            step in 1usize..8,
        ) {
            let mut rows = Rows::<u64, u64>::new(7);
            for (key, value) in first {
                apply(&mut rows, key, value);
            }
            rows.forget();
            let began = sorted(&rows);
            let digest = rows.digest(&mut Writer::default());
            rows.walk_begin();
            let mut out = Writer::default();
            let mut emitted = 0;
            for (at, (key, value)) in second.into_iter().enumerate() {
                let before = sorted(&rows);
                let mark = rows.mark();
                apply(&mut rows, key, value);
                apply(&mut rows, (key + 1) % 40, value.map(|v| v + 1));
                if at % 3 == 0 {
                    rows.rollback(mark, |_, _, _, _| {});
                    prop_assert_eq!(sorted(&rows), before);
                }
                rows.forget();
                emitted += rows.walk_next(step, &mut out).0;
            }
            loop {
                let (some, over) = rows.walk_next(step, &mut out);
                emitted += some;
                if over { break; }
            }
            let bytes = Bytes::from(out.buffer);
            let mut from = Reader::new(&bytes);
            let mut restored = Rows::<u64, u64>::new(8);
            for _ in 0..emitted {
                restored.restore_row(&mut from).unwrap();
            }
            prop_assert_eq!(sorted(&restored), began);
            prop_assert_eq!(restored.digest(&mut Writer::default()), digest);
        }

        #[test]
        fn slots_are_kept_by_rows_and_given_lowest_first(
            steps in proptest::collection::vec((0u64..40, any::<bool>()), 0..200),
        ) {
            let mut rows = Rows::<u64, u64>::new(7);
            let mut held = BTreeMap::new();
            for (key, put) in steps {
                if put && !held.contains_key(&key) {
                    let lowest = (0u32..).find(|slot| !held.values().any(|taken| taken == slot)).unwrap();
                    prop_assert_eq!(rows.insert(key, 0), Slot(lowest));
                    held.insert(key, lowest);
                } else if !put && let Some(slot) = held.remove(&key) {
                    rows.remove(Slot(slot));
                }
                prop_assert!(held.iter().all(|(key, slot)| rows.find(key) == Some(Slot(*slot))));
                // Scans end here and random picks are drawn below it, on replicas that were restored as on those that were not.
                prop_assert_eq!(rows.slots(), held.values().max().map_or(0, |slot| slot + 1));
            }
        }
    }
}
