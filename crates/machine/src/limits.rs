//! Limits: how much of something may happen in log time, and how many at once.
//!
//! A limit's policy travels with the guard; the state belongs to the name. A limit that is full again is the same as one
//! that was never used, so its row goes: every new row lets a hand sweep over two old ones.
//!
//! Invariant: along the log, never more than the policy allows is taken in any stretch of log time.
//! Invariant: `slots_used` counts the rows of `slots`, and every slot hangs on a live lease.
//! Called by: `commit` (check, then take once all guards passed), `leases` ending (slots).
//! Source: generic cell rate algorithm, ITU-T I.371 (virtual scheduling); sliding window with two counters.

use crate::table::Table;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{Blob, DecodeError, LeaseId, LimitName, LimitPolicy, LimitReport, LogTime, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The theoretical arrival time of the next conforming unit, in nanoseconds of log time.
    Bucket { tat: u64 },
    /// Taken in the window of that number, and in the one before.
    Window { number: u64, taken: u64, before: u64, window: Millis },
}
quorate_types::wire_enum!(State { 1 = Bucket { tat }, 2 = Window { number, taken, before, window } });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    state: State,
    /// When it is full again.
    full: LogTime,
    /// Denials, the unlogged ones included.
    denied: u64,
}
quorate_types::wire_struct!(Limit { state, full, denied });

/// A slot: which set, on which lease, by which name.
type Slot = (LimitName, (LeaseId, Blob));

#[derive(Default)]
pub(crate) struct Limits {
    table: Table<LimitName, Limit>,
    /// The last row the sweep has looked at.
    hand: LimitName,
    /// Where the hand was before, for rolling back.
    hands: Vec<LimitName>,
    slots: Table<Slot, u64>,
    slots_used: BTreeMap<LimitName, u64>,
    slots_by_lease: BTreeSet<(LeaseId, LimitName, Blob)>,
}

pub(crate) struct Mark {
    table: usize,
    slots: usize,
    hands: usize,
}

impl Limits {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// What the limit has left for a cost of `cost`, taking nothing. `retry_after` is 0 when it could pass now.
    pub(crate) fn report(
        &self,
        name: &LimitName,
        policy: &LimitPolicy,
        cost: u64,
        now: LogTime,
    ) -> LimitReport {
        let state = self.table.get(name).map(|limit| &limit.state);
        Sums::of(policy, state, now).report(name, policy, cost, now)
    }

    /// Takes `cost` from the limit.
    ///
    /// # Errors
    /// What it has left, when that is less.
    pub(crate) fn take(
        &mut self,
        name: &LimitName,
        policy: &LimitPolicy,
        cost: u64,
        now: LogTime,
    ) -> Result<LimitReport, LimitReport> {
        let mut taken = None;
        let there = self.table.update(name, |limit| {
            let found = Sums::of(policy, Some(&limit.state), now);
            let sums = if cost <= found.remaining {
                let state = found.after(policy, cost, now);
                let sums = Sums::of(policy, Some(&state), now);
                (limit.state, limit.full) = (state, sums.full);
                Ok(sums)
            } else {
                Err(found)
            };
            taken = Some(sums);
        });
        let taken = match taken {
            Some(taken) if there => taken,
            _ => self.take_first(name, policy, cost, now),
        };
        let report = |sums: Sums| sums.report(name, policy, cost, now);
        taken.map(report).map_err(report)
    }

    /// Takes from a limit that has no row yet.
    fn take_first(
        &mut self,
        name: &LimitName,
        policy: &LimitPolicy,
        cost: u64,
        now: LogTime,
    ) -> Result<Sums, Sums> {
        let found = Sums::of(policy, None, now);
        if cost > found.remaining {
            return Err(found);
        }
        let state = found.after(policy, cost, now);
        let sums = Sums::of(policy, Some(&state), now);
        self.sweep(now);
        self.table.set(name.clone(), Some(Limit { state, full: sums.full, denied: 0 }));
        Ok(sums)
    }

    /// Whether the limit has `cost` to spare.
    pub(crate) fn has(&self, name: &LimitName, policy: &LimitPolicy, cost: u64, now: LogTime) -> bool {
        cost <= Sums::of(policy, self.table.get(name).map(|limit| &limit.state), now).remaining
    }

    /// Counts denials; only a limit that is in use keeps a count.
    pub(crate) fn deny(&mut self, name: &LimitName, count: u64) {
        self.table.update(name, |limit| limit.denied = limit.denied.saturating_add(count));
    }

    /// Denials counted since the limit was last full.
    pub(crate) fn denied(&self, name: &LimitName) -> u64 {
        self.table.get(name).map_or(0, |limit| limit.denied)
    }

    /// Whether the slot is taken already, and how many are.
    pub(crate) fn slots(&self, name: &LimitName, lease: LeaseId, slot: &Blob) -> (bool, u64) {
        let taken = self.slots.get(&(name.clone(), (lease, slot.clone()))).is_some();
        (taken, self.slots_used.get(name).copied().unwrap_or(0))
    }

    /// Takes a slot; taking it again changes nothing.
    pub(crate) fn take_slot(&mut self, name: &LimitName, lease: LeaseId, slot: &Blob) {
        let key = (name.clone(), (lease, slot.clone()));
        if self.slots.get(&key).is_none() {
            self.slots.set(key, Some(1));
            index_slot(&mut self.slots_used, &mut self.slots_by_lease, name, lease, slot, true);
        }
    }

    /// Frees a slot; whether it was taken.
    pub(crate) fn free_slot(&mut self, name: &LimitName, lease: LeaseId, slot: &Blob) -> bool {
        let taken = self.slots.set((name.clone(), (lease, slot.clone())), None).is_some(); // No change if it was not.
        if taken {
            index_slot(&mut self.slots_used, &mut self.slots_by_lease, name, lease, slot, false);
        }
        taken
    }

    /// Slots that hang on a lease.
    pub(crate) fn slots_of(&self, lease: LeaseId) -> Vec<(LimitName, Blob)> {
        let from = (lease, LimitName::default(), Blob::EMPTY);
        let mine = self.slots_by_lease.range(from..).take_while(|(of, ..)| *of == lease);
        mine.map(|(_, name, slot)| (name.clone(), slot.clone())).collect()
    }

    fn sweep(&mut self, now: LogTime) {
        for _ in 0..2 {
            let after = (Bound::Excluded(self.hand.clone()), Bound::Unbounded);
            let next = self.table.range(after).next().map(|(name, limit)| (name.clone(), limit.full <= now));
            match next {
                Some((name, full)) => {
                    if full {
                        self.table.set(name.clone(), None);
                    }
                    self.move_hand(name);
                }
                None => self.move_hand(LimitName::default()),
            }
        }
    }

    fn move_hand(&mut self, to: LimitName) {
        self.hands.push(std::mem::replace(&mut self.hand, to));
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { table: self.table.mark(), slots: self.slots.mark(), hands: self.hands.len() }
    }
    pub(crate) fn rollback(&mut self, mark: &Mark) {
        self.table.rollback(mark.table, |_, _, _| {});
        let Self { slots_used, slots_by_lease, .. } = self;
        self.slots.rollback(mark.slots, |(name, (lease, slot)), _, to| {
            index_slot(slots_used, slots_by_lease, name, *lease, slot, to.is_some());
        });
        if let Some(hand) = self.hands.drain(mark.hands..).next() {
            self.hand = hand;
        }
    }
    pub(crate) fn forget(&mut self) {
        self.table.forget();
        self.slots.forget();
        self.hands.clear();
    }
    pub(crate) fn walk_begin(&mut self) {
        self.table.walk_begin();
        self.slots.walk_begin();
    }
    pub(crate) fn walk_limits(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.table.walk_next(rows, out)
    }
    pub(crate) fn walk_slots(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.slots.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.table.walk_end();
        self.slots.walk_end();
    }
    pub(crate) fn hand(&self) -> LimitName {
        self.hand.clone()
    }
    pub(crate) fn restore_hand(&mut self, hand: LimitName) {
        self.hand = hand;
    }
    pub(crate) fn restore_limit(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.table.restore_row(from).map(drop)
    }
    pub(crate) fn restore_slot(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let ((name, (lease, slot)), _) = self.slots.restore_row(from)?;
        index_slot(&mut self.slots_used, &mut self.slots_by_lease, &name, lease, &slot, true);
        Ok(())
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let rows = self.table.digest(scratch).wrapping_add(self.slots.digest(scratch));
        scratch.clear();
        scratch.bytes(&self.hand.0);
        rows.wrapping_add(crate::table_digest(scratch))
    }
    /// Whether a restored state is of one piece; otherwise what is not.
    pub(crate) fn verify(&self, live: impl Fn(LeaseId) -> bool) -> Result<(), &'static str> {
        let sound = self.slots.iter().all(|((_, (lease, _)), _)| live(*lease));
        if sound { Ok(()) } else { Err("lease of a slot") }
    }
    pub(crate) fn check(&self, live: impl Fn(LeaseId) -> bool) {
        let mut used = BTreeMap::<LimitName, u64>::new();
        for ((name, (lease, slot)), _) in self.slots.iter() {
            assert!(live(*lease), "a slot of {name} hangs on a live lease");
            assert!(self.slots_by_lease.contains(&(*lease, name.clone(), slot.clone())));
            *used.entry(name.clone()).or_default() += 1;
        }
        assert_eq!(self.slots_used, used, "slots are counted");
        assert_eq!(self.slots_by_lease.len(), self.slots.len(), "an index entry for each slot");
    }
}

/// What a policy and its state amount to now.
struct Sums {
    limit: u64,
    remaining: u64,
    full: LogTime,
    state: State,
}

impl Sums {
    fn of(policy: &LimitPolicy, state: Option<&State>, now: LogTime) -> Self {
        match (*policy, state) {
            (LimitPolicy::Bucket { burst, .. }, state) => {
                let (interval, tolerance) = cells(policy);
                let tat = match state {
                    Some(State::Bucket { tat }) => (*tat).max(now.0),
                    _ => now.0, // Another kind of policy under this name: it begins anew.
                };
                let room = tolerance.saturating_sub(u128::from(tat - now.0));
                let remaining = match (u64::try_from(room), u64::try_from(interval)) {
                    (Ok(room), Ok(interval)) => room / interval, // Nearly always, and many times faster.
                    _ => u64::try_from(room / interval).unwrap_or(u64::MAX),
                };
                let remaining = remaining.min(burst);
                Self { limit: burst, remaining, full: LogTime(tat), state: State::Bucket { tat } }
            }
            (
                LimitPolicy::FixedWindow { count, window } | LimitPolicy::SlidingWindow { count, window },
                state,
            ) => {
                let length = window_ns(window);
                let number = now.0 / length;
                let (taken, before) = match state {
                    Some(State::Window { number: n, taken, before, window: w }) if *w == window => {
                        match number.saturating_sub(*n) {
                            0 => (*taken, *before),
                            1 => (0, *taken),
                            _ => (0, 0),
                        }
                    }
                    _ => (0, 0),
                };
                let sliding = matches!(policy, LimitPolicy::SlidingWindow { .. });
                let overlap = if sliding { share(before, length - now.0 % length, length) } else { 0 };
                let windows = if !sliding || taken == 0 { 1 } else { 2 };
                let idle = taken == 0 && (!sliding || before == 0);
                let full = if idle { now.0 } else { number.saturating_add(windows).saturating_mul(length) };
                Self {
                    limit: count,
                    remaining: count.saturating_sub(taken).saturating_sub(overlap),
                    full: LogTime(full),
                    state: State::Window { number, taken, before, window },
                }
            }
        }
    }

    fn report(&self, name: &LimitName, policy: &LimitPolicy, cost: u64, now: LogTime) -> LimitReport {
        LimitReport {
            name: name.clone(),
            limit: self.limit,
            remaining: self.remaining,
            retry_after: self.retry_after(policy, cost, now),
            reset: self.full.millis_since(now),
        }
    }

    fn after(&self, policy: &LimitPolicy, cost: u64, now: LogTime) -> State {
        match self.state {
            State::Bucket { tat } => {
                let (interval, _) = cells(policy);
                let added = u64::try_from(interval.saturating_mul(u128::from(cost))).unwrap_or(u64::MAX);
                State::Bucket { tat: tat.max(now.0).saturating_add(added) }
            }
            State::Window { number, taken, before, window } => {
                State::Window { number, taken: taken.saturating_add(cost), before, window }
            }
        }
    }

    fn retry_after(&self, policy: &LimitPolicy, cost: u64, now: LogTime) -> Millis {
        if cost <= self.remaining || cost > self.limit {
            return Millis::ZERO; // Now; or never, which the caller sees from the limit.
        }
        match (&self.state, *policy) {
            (State::Bucket { tat }, _) => {
                let (interval, tolerance) = cells(policy);
                let at = (u128::from(*tat) + interval * u128::from(cost)).saturating_sub(tolerance);
                LogTime(u64::try_from(at).unwrap_or(u64::MAX)).millis_since(now)
            }
            (State::Window { taken, before, .. }, LimitPolicy::SlidingWindow { count, window }) => {
                let length = window_ns(window);
                let left_of_window = length - now.0 % length;
                // The previous window's share shrinks evenly; past this window, this one's does.
                let room = |used: u64| count.saturating_sub(cost).saturating_sub(used);
                let wait_until = |weighted: u64, room: u64, left: u64| {
                    left.saturating_sub(
                        (u128::from(length) * u128::from(room) / u128::from(weighted.max(1))) as u64,
                    )
                };
                let wait = if taken.saturating_add(cost) <= count {
                    wait_until(*before, room(*taken), left_of_window)
                } else {
                    left_of_window.saturating_add(wait_until(*taken, room(0), length))
                };
                Millis(wait.div_ceil(1_000_000).max(1))
            }
            (State::Window { number, .. }, policy) => {
                let LimitPolicy::FixedWindow { window, .. } = policy else { return Millis(1) };
                let next = number.saturating_add(1).saturating_mul(window_ns(window));
                LogTime(next).millis_since(now)
            }
        }
    }
}

/// Nanoseconds of a window; never 0, whatever an entry says.
fn window_ns(window: Millis) -> u64 {
    window.0.saturating_mul(1_000_000).max(1)
}

/// Nanoseconds between two units of a bucket, and how far ahead of now it may run. Rounded up to whole nanoseconds, so that
/// rounding never lets more pass: a rate of up to a million per second is met within 0.1 %.
fn cells(policy: &LimitPolicy) -> (u128, u128) {
    let LimitPolicy::Bucket { count, period, burst } = policy else { return (1, 0) };
    let interval = window_ns(*period).div_ceil((*count).max(1));
    (u128::from(interval), u128::from(interval) * u128::from(*burst))
}

/// `amount * part / whole`, rounded up: rounding never lets more pass.
fn share(amount: u64, part: u64, whole: u64) -> u64 {
    (u128::from(amount) * u128::from(part)).div_ceil(u128::from(whole)) as u64
}

fn index_slot(
    used: &mut BTreeMap<LimitName, u64>,
    by_lease: &mut BTreeSet<(LeaseId, LimitName, Blob)>,
    name: &LimitName,
    lease: LeaseId,
    slot: &Blob,
    there: bool,
) {
    let key = (lease, name.clone(), slot.clone());
    if there {
        by_lease.insert(key);
        *used.entry(name.clone()).or_default() += 1;
        return;
    }
    by_lease.remove(&key);
    let count = used.get_mut(name).expect("a taken slot is counted");
    *count -= 1;
    if *count == 0 {
        used.remove(name);
    }
}
