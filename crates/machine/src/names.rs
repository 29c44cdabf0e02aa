//! Names in order, by the slots of their rows: the index that serves ranges.
//!
//! A name stands in its row already. Here a leaf is the slots of some names that follow each other, in their order, and of each name four bytes:
//! those behind what all names of the leaf begin with. They tell most names apart; where they do not, the rows are asked. A copy of each name
//! would take six times the memory, and without the four bytes each step of a search would be a cache miss.
//!
//! Whoever calls hands in how a slot's name is found. Every slot that is indexed has its row, and keeps its name.
//!
//! Invariant: leaf by leaf, the names are in order; a leaf's names are at least its `first`, and below the next leaf's.
//! Invariant: a leaf's names and its `first` begin with the same `skip` bytes, and each head is the four bytes behind those.
//! Invariant: the leaf that begins with the empty name is always there, unless nothing is. No other is empty.
//! Called by: `keys`.

use crate::rows::Slot;
use quorate_types::Blob;
use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;
use std::ops::Bound;

/// Most names of a leaf.
const NAMES: usize = 64;
/// Room is made for so many more at a time: most leaves are between half full and full.
const ROOM: usize = 16;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Names {
    /// By their `first`: a name that was their lowest when they came to be, or lower than that.
    leaves: BTreeMap<Blob, Leaf>,
    len: usize,
}

/// Leaves to be freed.
pub(crate) type Leaves = IntoIter<Blob, Leaf>;

/// Names that follow each other.
#[derive(Default)]
pub(crate) struct Leaf {
    skip: usize,
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    head: u32,
    slot: Slot,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot of a name.
    pub(crate) fn get<'a>(&self, name: &Blob, named: impl Fn(Slot) -> &'a Blob) -> Option<Slot> {
        let (first, leaf) = self.leaves.range::<Blob, _>(..=name).next_back()?;
        let at = leaf.find(first, name, named).ok()?;
        Some(leaf.places[at].slot)
    }

    /// Enters the slot of a name that is not there yet.
    pub(crate) fn insert<'a>(&mut self, name: &Blob, slot: Slot, named: impl Fn(Slot) -> &'a Blob) {
        if self.leaves.is_empty() {
            self.leaves.insert(Blob::EMPTY, Leaf::default());
        }
        let (first, leaf) = self.leaf_mut(name).expect("the leaf of the empty name takes every name");
        let (Ok(at) | Err(at)) = leaf.find(first, name, &named);
        if leaf.places.len() < NAMES {
            leaf.insert(first, at, name, slot, named);
        } else {
            // Names that come in order leave full leaves behind.
            let mut right = if at == NAMES { Vec::new() } else { leaf.places.split_off(NAMES / 2) };
            let left = leaf.places.len();
            let begins = if right.is_empty() || at == left { name } else { named(right[0].slot) }.clone();
            if at < left {
                leaf.insert(first, at, name, slot, &named);
            } else {
                right.insert(at - left, Place { head: 0, slot });
            }
            leaf.settle(first, &named);
            let mut right = Leaf { skip: 0, places: right };
            right.settle(&begins, &named);
            self.leaves.insert(begins, right);
        }
        self.len += 1;
    }

    /// Takes a name out; nothing happens when it is not there.
    pub(crate) fn remove<'a>(&mut self, name: &Blob, named: impl Fn(Slot) -> &'a Blob) {
        let Some((first, leaf)) = self.leaf_mut(name) else { return };
        let Ok(at) = leaf.find(first, name, &named) else { return };
        leaf.places.remove(at);
        let sparse = leaf.places.len() <= NAMES / 4 && !first.is_empty();
        let first = sparse.then(|| first.clone());
        self.len -= 1;
        if self.len == 0 {
            self.leaves.clear();
        } else if let Some(first) = first {
            self.merge(&first, named);
        }
    }

    /// Gives what a sparse leaf has to the one before it, where there is room.
    fn merge<'a>(&mut self, first: &Blob, named: impl Fn(Slot) -> &'a Blob) {
        let sparse = self.leaves.remove(first).expect("the leaf was just found");
        let before = self.leaves.range_mut::<Blob, _>(..first).next_back();
        let (begins, before) = before.expect("the leaf of the empty name comes before every other");
        if sparse.places.is_empty() {
            return;
        }
        if before.places.len() + sparse.places.len() <= NAMES * 3 / 4 {
            before.places.extend(sparse.places);
            before.settle(begins, named);
        } else {
            self.leaves.insert(first.clone(), sparse);
        }
    }

    /// The slots of the names within bounds, in order. A range that ends before it starts has none.
    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&Blob>,
        to: Bound<&Blob>,
        named: impl Fn(Slot) -> &'a Blob,
    ) -> impl DoubleEndedIterator<Item = Slot> {
        let from = match from {
            Bound::Unbounded => Some((&Blob::EMPTY, 0)),
            Bound::Included(name) => self.before(name, false, &named),
            Bound::Excluded(name) => self.before(name, true, &named),
        };
        let to = match to {
            Bound::Unbounded => self.leaves.last_key_value().map(|(first, leaf)| (first, leaf.places.len())),
            Bound::Included(name) => self.before(name, true, &named),
            Bound::Excluded(name) => self.before(name, false, &named),
        };
        let within = from.zip(to).filter(|(from, to)| from <= to);
        let slots = within.map(|((first, from), (last, to))| {
            self.leaves.range::<Blob, _>(first..=last).flat_map(move |(begins, leaf)| {
                let from = if begins == first { from } else { 0 };
                let to = if begins == last { to } else { leaf.places.len() };
                leaf.places[from..to].iter().map(|place| place.slot)
            })
        });
        slots.into_iter().flatten()
    }

    /// The leaf where a name is or would be, and how many of its names come before it; with `over`, before what follows it.
    fn before<'a>(
        &'a self,
        name: &Blob,
        over: bool,
        named: impl Fn(Slot) -> &'a Blob,
    ) -> Option<(&'a Blob, usize)> {
        let (first, leaf) = self.leaves.range::<Blob, _>(..=name).next_back()?;
        let at = match leaf.find(first, name, named) {
            Ok(at) => at + usize::from(over),
            Err(at) => at,
        };
        Some((first, at))
    }

    fn leaf_mut(&mut self, name: &Blob) -> Option<(&Blob, &mut Leaf)> {
        self.leaves.range_mut::<Blob, _>(..=name).next_back()
    }

    /// What is left of an index that nobody sees any more, to be freed a leaf at a time.
    pub(crate) fn into_leaves(self) -> Leaves {
        self.leaves.into_iter()
    }
}

impl Leaf {
    /// Where a name is, or else would be; it is not below `first`, with which the leaf begins.
    fn find<'a>(&self, first: &Blob, name: &Blob, named: impl Fn(Slot) -> &'a Blob) -> Result<usize, usize> {
        if shared(first, name) < self.skip {
            return Err(self.places.len());
        }
        let head = head(name, self.skip);
        self.places.binary_search_by(|place| place.head.cmp(&head).then_with(|| named(place.slot).cmp(name)))
    }

    fn insert<'a>(
        &mut self,
        first: &Blob,
        at: usize,
        name: &Blob,
        slot: Slot,
        named: impl Fn(Slot) -> &'a Blob,
    ) {
        if self.places.len() == self.places.capacity() {
            self.places.reserve_exact(ROOM);
        }
        self.places.insert(at, Place { head: head(name, self.skip), slot });
        if shared(first, name) < self.skip {
            self.settle(first, named);
        }
    }

    /// Looks anew at what all names begin with, and takes the heads behind that.
    fn settle<'a>(&mut self, first: &Blob, named: impl Fn(Slot) -> &'a Blob) {
        let Some(last) = self.places.last() else { return };
        // What the first and the last of an order begin with, all between do.
        self.skip = shared(first, named(last.slot));
        for place in &mut self.places {
            place.head = head(named(place.slot), self.skip);
        }
        self.places.shrink_to(self.places.len().next_multiple_of(ROOM));
    }
}

/// How many bytes two names begin with alike.
fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Four bytes of a name, as a number of the same order.
fn head(name: &[u8], skip: usize) -> u32 {
    let mut head = [0; 4];
    let rest = name.get(skip..).unwrap_or_default();
    let len = rest.len().min(4);
    head[..len].copy_from_slice(&rest[..len]);
    u32::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Names of all lengths that begin alike, with bytes of zero in them: their heads are often no help.
    fn name(number: u16) -> Blob {
        let digits: Vec<u8> = (0..6).map(|at| (number >> (2 * at) & 3) as u8).collect();
        let used = digits.iter().rposition(|digit| *digit > 0).map_or(0, |at| at + 1);
        let text: Vec<u8> = digits[..used].iter().flat_map(|digit| [*digit; 3]).collect();
        Blob::from(text)
    }

    fn bound(kind: u8, name: &Blob) -> Bound<&Blob> {
        match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(name),
            _ => Bound::Excluded(name),
        }
    }

    fn check(names: &Names, rows: &[Blob], known: &BTreeMap<Blob, Slot>) {
        let named = |slot: Slot| &rows[slot.0 as usize];
        assert_eq!(names.len(), known.len());
        assert_eq!(names.is_empty(), known.is_empty());
        assert!(
            names.leaves.keys().next().is_none_or(|first| first.is_empty()),
            "the first leaf takes every name"
        );
        let mut leaves = names.leaves.iter().peekable();
        while let Some((first, leaf)) = leaves.next() {
            assert!(leaf.places.len() <= NAMES);
            assert!(first.is_empty() || !leaf.places.is_empty(), "an empty leaf goes");
            let within: Vec<&Blob> = leaf.places.iter().map(|place| named(place.slot)).collect();
            assert!(within.is_sorted_by(|a, b| a < b));
            assert!(within.iter().all(|name| *name >= first));
            assert!(within.iter().all(|name| shared(first, name) >= leaf.skip));
            assert!(leaf.places.iter().zip(&within).all(|(place, name)| place.head == head(name, leaf.skip)));
            if let Some((next, _)) = leaves.peek() {
                assert!(within.iter().all(|name| name < next));
            }
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_holds(
            steps in proptest::collection::vec((0u16..700, 0u8..5), 0..3000),
            ranges in proptest::collection::vec((0u16..800, 0u8..3, 0u16..800, 0u8..3), 40),
        ) {
            let rows: Vec<Blob> = (0..700).map(name).collect();
            let named = |slot: Slot| &rows[slot.0 as usize];
            let mut names = Names::default();
            let mut known = BTreeMap::new();
            let half = steps.len() / 2;
            for (at, (number, kind)) in steps.into_iter().enumerate() {
                let (name, slot) = (name(number), Slot(u32::from(number)));
                // First mostly more, then mostly fewer.
                if (kind > 0) == (at < half) {
                    if known.insert(name.clone(), slot).is_none() {
                        names.insert(&name, slot, named);
                    }
                } else {
                    known.remove(&name);
                    names.remove(&name, named);
                }
                if at % 64 == 0 {
                    check(&names, &rows, &known);
                }
                prop_assert_eq!(names.get(&name, named), known.get(&name).copied());
            }
            check(&names, &rows, &known);
            for (from, from_kind, to, to_kind) in ranges {
                let (from, to) = (name(from), name(to));
                let (from, to) = (bound(from_kind, &from), bound(to_kind, &to));
                let within = known.iter().filter(|(name, _)| {
                    (match from { Bound::Included(from) => *name >= from, Bound::Excluded(from) => *name > from, Bound::Unbounded => true })
                        && match to { Bound::Included(to) => *name <= to, Bound::Excluded(to) => *name < to, Bound::Unbounded => true }
                });
                let within: Vec<Slot> = within.map(|(_, slot)| *slot).collect();
                prop_assert_eq!(names.range(from, to, named).collect::<Vec<_>>(), within.clone());
                let back: Vec<Slot> = names.range(from, to, named).rev().collect();
                prop_assert_eq!(back, within.into_iter().rev().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn names_that_come_in_order_fill_their_leaves() {
        let rows: Vec<Blob> = (0..10_000).map(|n: u32| Blob::from(format!("{n:05}"))).collect();
        let mut names = Names::default();
        for (slot, name) in rows.iter().enumerate() {
            names.insert(name, Slot(slot as u32), |slot| &rows[slot.0 as usize]);
        }
        assert_eq!(names.leaves.len(), 10_000usize.div_ceil(NAMES));
        let room: usize = names.leaves.values().map(|leaf| leaf.places.capacity()).sum();
        assert!(room <= 10_000 + NAMES, "{room} slots of room");
    }
}
