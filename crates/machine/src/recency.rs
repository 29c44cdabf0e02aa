//! Recency: when each key was last used here, and about how often. A note beside the state, never a part of it.
//!
//! A leader chooses by it which keys of a keyspace go when memory is short, and orders their eviction; every replica then deletes exactly
//! those. So nodes may note different things, and a new leader begins with what it has seen itself.
//!
//! Invariant: nothing that is decided at apply looks at it, and no digest or snapshot holds it.
//! Invariant: it takes four bytes per slot while some keyspace evicts by use, one more while one evicts by frequency, and nothing else ever.
//! Called by: `keys` (what is written), `calls` (what is read), `memory` (who goes).
//! Source: the approximated LRU and LFU of Redis: a counter that grows with the logarithm of the uses and halves its growth with time.

use crate::rows::Slot;
use quorate_types::LogTime;
use std::cell::Cell;

/// The counter of a key that is new: above 0, so that it is not the first to go.
const COUNT_NEW: u8 = 5;
/// How slowly a counter grows: it reaches 255 after about a million uses.
const LOG_FACTOR: u64 = 10;
/// A counter goes down by one for each of these (1.07 minutes), in units of a stamp.
const DECAY_UNITS: u32 = 1 << 12;
/// A stamp is log time in units of 2^24 ns, about 17 ms; it comes round after more than two years.
const UNIT_BITS: u32 = 24;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Recency {
    stamps: Vec<Cell<u32>>,
    counts: Vec<Cell<u8>>,
    on: bool,
    counting: bool,
    /// Draws for the counters; where it stands matters to nobody.
    dice: Cell<u64>,
}

/// How a key was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Nanoseconds since its last use, about.
    pub(crate) idle_ns: u64,
    /// About the logarithm of how often it was used of late.
    pub(crate) count: u8,
}

impl Recency {
    /// Whether anything is noted.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Begins or ends to note; what is there counts as used now, so that nothing goes for having been there before.
    pub(crate) fn set(&mut self, on: bool, counting: bool, slots: u32, now: LogTime) {
        if on != self.on {
            let all = if on { slots as usize } else { 0 };
            self.stamps = vec![Cell::new(stamp(now)); all];
        }
        if (on && counting) != self.counting {
            let all = if on && counting { slots as usize } else { 0 };
            self.counts = vec![Cell::new(COUNT_NEW); all];
        }
        (self.on, self.counting) = (on, on && counting);
    }

    /// A key was read.
    pub(crate) fn used(&self, slot: Slot, now: LogTime) {
        let Some(last) = self.stamps.get(slot.0 as usize) else { return };
        if let Some(count) = self.counts.get(slot.0 as usize) {
            let decayed = decayed(count.get(), stamp(now).wrapping_sub(last.get()));
            count.set(if self.grows(decayed) { decayed.saturating_add(1) } else { decayed });
        }
        last.set(stamp(now));
    }

    /// A key was written; `new` when there was none.
    pub(crate) fn written(&mut self, slot: Slot, new: bool, now: LogTime) {
        if !self.on {
            return;
        }
        let room = slot.0 as usize + 1;
        if self.stamps.len() < room {
            self.stamps.resize(room, Cell::new(stamp(now)));
        }
        if self.counting && self.counts.len() < room {
            self.counts.resize(room, Cell::new(COUNT_NEW));
        }
        if new && let Some(count) = self.counts.get(slot.0 as usize) {
            count.set(COUNT_NEW);
            self.stamps[slot.0 as usize].set(stamp(now));
        } else {
            self.used(slot, now);
        }
    }

    /// How a key was used.
    pub(crate) fn of(&self, slot: Slot, now: LogTime) -> Use {
        let Some(last) = self.stamps.get(slot.0 as usize) else { return Use::default() };
        let units = stamp(now).wrapping_sub(last.get());
        let count = self.counts.get(slot.0 as usize).map_or(0, |count| decayed(count.get(), units));
        Use { idle_ns: u64::from(units) << UNIT_BITS, count }
    }

    /// One use in so many counts, ever fewer the more there were.
    fn grows(&self, count: u8) -> bool {
        let above = u64::from(count.saturating_sub(COUNT_NEW));
        let draw = self.dice.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.dice.set(draw);
        (draw >> 33).is_multiple_of(above * LOG_FACTOR + 1)
    }
}

fn stamp(now: LogTime) -> u32 {
    (now.0 >> UNIT_BITS) as u32
}

fn decayed(count: u8, units: u32) -> u8 {
    count.saturating_sub(u8::try_from(units / DECAY_UNITS).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn noted(counting: bool) -> Recency {
        let mut recency = Recency::default();
        recency.set(true, counting, 2, LogTime(0));
        recency
    }

    #[test]
    fn a_use_is_noted_and_grows_old() {
        let recency = noted(false);
        recency.used(Slot(1), LogTime(100 * SECOND));
        let idle = |slot| recency.of(Slot(slot), LogTime(160 * SECOND)).idle_ns / SECOND;
        assert_eq!((idle(0), idle(1)), (159, 59));
    }

    #[test]
    fn the_counter_grows_with_the_logarithm_of_uses_and_fades() {
        let recency = noted(true);
        for _ in 0..1_000 {
            recency.used(Slot(0), LogTime(0));
        }
        let few = recency.of(Slot(0), LogTime(0)).count;
        for _ in 0..100_000 {
            recency.used(Slot(0), LogTime(0));
        }
        let many = recency.of(Slot(0), LogTime(0)).count;
        assert!((10..40).contains(&few) && (90..200).contains(&many), "{few} {many}");
        let later = recency.of(Slot(0), LogTime(3600 * SECOND)).count;
        assert!((40..60).contains(&(many - later)), "an hour takes some fifty: {many} {later}");
    }

    #[test]
    fn a_new_key_in_an_old_place_begins_anew() {
        let mut recency = noted(true);
        for _ in 0..100_000 {
            recency.used(Slot(0), LogTime(0));
        }
        recency.written(Slot(0), true, LogTime(9));
        assert_eq!(recency.of(Slot(0), LogTime(9)).count, COUNT_NEW);
        recency.written(Slot(7), true, LogTime(9));
        assert_eq!(recency.of(Slot(7), LogTime(9)), Use { idle_ns: 0, count: COUNT_NEW });
    }

    #[test]
    fn nothing_is_kept_while_nobody_evicts() {
        let mut recency = noted(true);
        recency.set(false, true, 2, LogTime(0));
        recency.written(Slot(0), true, LogTime(0));
        assert!(recency.stamps.is_empty() && recency.counts.is_empty() && !recency.is_on());
    }
}
