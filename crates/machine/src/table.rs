//! An ordered table that can be rolled back, walked for a snapshot while it changes, and digested.
//!
//! Modules with some thousands of rows (locks, limits, tasks, groups) keep them here. Every change goes through
//! [`Table::set`], so that three mechanisms are written once:
//! - undo: the row's earlier content is remembered until [`Table::forget`]; [`Table::rollback`] restores it;
//! - snapshot: a row ahead of the walk that changes is saved first, so the walk emits the state as it began;
//! - digest: a sum of row hashes, whatever the order in which rows came to be.
//!
//! Invariant: after `rollback(mark)` the rows equal those at `mark()`.
//! Invariant: the rows a walk emits equal the rows when it began.

use quorate_types::DecodeError;
use quorate_types::codec::{Reader, Wire, Writer};
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

pub(crate) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    undo: Vec<(K, Option<V>)>,
    walk: Option<Walk<K, V>>,
}

struct Walk<K, V> {
    /// The last key emitted; rows up to it may change freely.
    done: Option<K>,
    /// Rows after `done` that have changed, as they were when the walk began.
    saved: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), undo: Vec::new(), walk: None }
    }
}

impl<K: Ord + Clone + Wire, V: Clone + Wire> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }
    pub(crate) fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range)
    }

    /// Puts or removes a row and gives back what was there.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) -> Option<V> {
        let before = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            // Removing what is not there is no change: a rollback must not hear of it.
            None => Some(self.rows.remove(&key)?),
        };
        if let Some(walk) = &mut self.walk
            && walk.done.as_ref().is_none_or(|done| key > *done)
        {
            walk.saved.entry(key.clone()).or_insert_with(|| before.clone());
        }
        self.undo.push((key, before.clone()));
        before
    }

    /// Changes a row in place; nothing happens when it is absent.
    pub(crate) fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) -> bool {
        let Some(row) = self.rows.get_mut(key) else { return false };
        let before = row.clone();
        change(row);
        if let Some(walk) = &mut self.walk
            && walk.done.as_ref().is_none_or(|done| key > done)
            && !walk.saved.contains_key(key)
        {
            walk.saved.insert(key.clone(), Some(before.clone()));
        }
        self.undo.push((key.clone(), Some(before)));
        true
    }

    /// A point to roll back to.
    pub(crate) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Restores the rows at `mark`, newest change first. `each` sees every restored key with its row as it was rolled
    /// back from and as it is again, so that the caller can mend its indexes.
    pub(crate) fn rollback(&mut self, mark: usize, mut each: impl FnMut(&K, Option<&V>, Option<&V>)) {
        while self.undo.len() > mark {
            let (key, before) = self.undo.pop().expect("the length was just checked");
            each(&key, self.rows.get(&key), before.as_ref());
            match before {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    /// Makes everything since the last call permanent.
    pub(crate) fn forget(&mut self) {
        self.undo.clear();
    }

    /// Begins a snapshot walk over the rows as they are now.
    pub(crate) fn walk_begin(&mut self) {
        assert!(self.undo.is_empty(), "a snapshot begins between commits");
        self.walk = Some(Walk { done: None, saved: BTreeMap::new() });
    }

    /// Goes on by up to `rows_max` rows; returns how many of them it emitted into `out`, and whether the walk is over. A row
    /// that came after the walk began is a step too, though it emits nothing: there may be as many of them as of any.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> (usize, bool) {
        let Some(walk) = &mut self.walk else { return (0, true) };
        let after = walk.done.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut live = self.rows.range((after, Bound::Unbounded)).peekable();
        let mut emitted = 0;
        for _ in 0..rows_max {
            let row = live.peek().map(|(row, _)| *row);
            let saved_is_next = match (row, walk.saved.first_key_value()) {
                (None, None) => break,
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(row), Some((was, _))) => was <= row,
            };
            if saved_is_next {
                let (key, value) = walk.saved.pop_first().expect("it was just seen");
                if row == Some(&key) {
                    live.next();
                }
                if let Some(value) = value {
                    key.put(out);
                    value.put(out);
                    emitted += 1;
                }
                walk.done = Some(key);
            } else {
                let (key, value) = live.next().expect("it was just seen");
                key.put(out);
                value.put(out);
                emitted += 1;
                walk.done = Some(key.clone());
            }
        }
        (emitted, live.peek().is_none() && walk.saved.is_empty())
    }

    /// Ends a walk, finished or not.
    pub(crate) fn walk_end(&mut self) {
        self.walk = None;
    }

    /// Reads one emitted row.
    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<(K, V), DecodeError> {
        let key = K::take(from)?;
        let value = V::take(from)?;
        if self.rows.insert(key.clone(), value.clone()).is_some() {
            return Err(DecodeError::Range {
                what: "a row that came before, at byte",
                found: from.position() as u64,
            });
        }
        Ok((key, value))
    }

    /// Sum of the rows' hashes.
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let mut sum = 0u128;
        for (key, value) in &self.rows {
            scratch.clear();
            key.put(scratch);
            value.put(scratch);
            sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&scratch.buffer));
        }
        sum
    }
}

/// The section before all tables: the number that is given next.
pub(crate) const TAG_NEXT: u64 = 1;

/// Where a walk over several tables stands, each a section with a tag of its own; they follow [`TAG_NEXT`] without a gap.
pub(crate) struct Sections {
    tag: u64,
    next: u64,
}

impl Sections {
    /// Begins one; `next` is the number that is given next.
    pub(crate) fn new(next: u64) -> Self {
        Self { tag: TAG_NEXT, next }
    }

    /// Goes on by up to `rows_max` rows, through the sections up to `last`; returns whether the walk is over. `section` emits rows of the
    /// table of a tag, as [`crate::streams::section`] does.
    pub(crate) fn go_on(
        &mut self,
        last: u64,
        rows_max: usize,
        out: &mut Writer,
        mut section: impl FnMut(u64, usize, &mut Writer) -> (usize, bool),
    ) -> bool {
        let mut left = rows_max.max(1);
        while left > 0 && self.tag <= last {
            let (emitted, over) = if self.tag == TAG_NEXT {
                out.varint(TAG_NEXT);
                out.varint(self.next);
                (0, true)
            } else {
                section(self.tag, left, out)
            };
            if !over {
                break;
            }
            self.tag += 1;
            left = left.saturating_sub(emitted);
        }
        self.tag > last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn rows_that_came_after_a_walk_began_are_passed_in_slices() {
        let mut table = Table::<u64, u64>::default();
        table.set(9_999, Some(1));
        table.forget();
        table.walk_begin();
        for key in 0..1_000 {
            table.set(key, Some(key));
        }
        table.forget();
        let mut out = Writer::default();
        let slices: Vec<(usize, bool)> = (0..11).map(|_| table.walk_next(100, &mut out)).collect();
        assert_eq!(slices[..10], [(0, false); 10], "a hundred of them with each slice, none emitted");
        assert_eq!(slices[10], (1, true));
    }

    proptest! {
        #[test]
        fn rollback_restores_and_a_walk_emits_the_state_it_began_with(
            first in proptest::collection::vec((0u64..40, proptest::option::of(0u64..9)), 0..60),
            second in proptest::collection::vec((0u64..40, proptest::option::of(0u64..9)), 0..60),
            step in 1usize..8,
        ) {
            let mut table = Table::<u64, u64>::default();
            for (key, value) in first {
                table.set(key, value);
            }
            table.forget();
            let began: Vec<(u64, u64)> = table.iter().map(|(k, v)| (*k, *v)).collect();
            table.walk_begin();
            let mut out = Writer::default();
            let mut emitted = 0;
            for (at, (key, value)) in second.into_iter().enumerate() {
                let mark = table.mark();
                table.set(key, value);
                table.update(&((key + 1) % 40), |v| *v += 1);
                if at % 3 == 0 {
                    table.rollback(mark, |_, _, _| {});
                }
                table.forget();
                emitted += table.walk_next(step, &mut out).0;
            }
            loop {
                let (some, over) = table.walk_next(step, &mut out);
                emitted += some;
                if over { break; }
            }
            let bytes = Bytes::from(out.buffer);
            let mut from = Reader::new(&bytes);
            let mut restored = Table::<u64, u64>::default();
            for _ in 0..emitted {
                restored.restore_row(&mut from).unwrap();
            }
            let rows: Vec<(u64, u64)> = restored.iter().map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(rows, began);
        }
    }
}
