//! Locks: who may enter, in which order, and the token that proves it. Elections are locks with a value.
//!
//! A try (inside a commit) takes a lock only when it is free and nobody waits. A wait (a command of its own) stands in a
//! queue; whenever a lock is given back, the waiters at its head that fit are granted, one revision each. The public
//! rows `NAME/<lease hex>` show holders and waiters to readers and watchers.
//!
//! Invariant: along the grants of one lock, fencing tokens strictly increase, across restarts too: a token is the
//! revision of its grant, and one commit grants a lock at most once.
//! Invariant: every holder and every waiter belongs to a live session.
//! Invariant: no waiter at the head of a queue fits its lock once a command has been applied.
//! Called by: `commit` (try, release, elections), `Machine::wait`, `Machine::settle` (grants), `leases` ending.
//! Source: Burrows, "The Chubby lock service", OSDI 2006, §2.4 (sequencers).

use crate::Now;
use crate::table::Table;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    Blob, DecodeError, FencingToken, Holder, LeaseId, LockMode, LockName, LogTime, OpError, RequestId,
    Revision, WaitRequest, WallTime,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) lease: LeaseId,
    pub(crate) request: RequestId,
    pub(crate) mode: LockMode,
    pub(crate) value: Blob,
    pub(crate) since: WallTime,
}
quorate_types::wire_struct!(Hold { lease, request, mode, value, since });

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) lease: LeaseId,
    pub(crate) request: RequestId,
    pub(crate) mode: LockMode,
    pub(crate) value: Blob,
    pub(crate) since: WallTime,
    /// When it gives up; the largest time for never.
    pub(crate) until: LogTime,
}
quorate_types::wire_struct!(Wait { lease, request, mode, value, since, until });

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    holding: u64,
    waiting: u64,
}
quorate_types::wire_struct!(Count { holding, waiting });

/// A waiter as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its session.
    pub lease: LeaseId,
    /// Its request.
    pub request: RequestId,
    /// How it wants to hold the lock.
    pub mode: LockMode,
    /// Since when it waits, by wall time.
    pub since: WallTime,
}

/// A lock or election as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockView {
    /// Who holds it, in order of their tokens.
    pub holders: Vec<Holder>,
    /// Who waits, in order of the queue.
    pub waiting: Vec<Waiter>,
}

/// What a session holds, by token, and what it waits for, by number.
type OfLease = (Vec<(LockName, FencingToken)>, Vec<(LockName, u64)>);

/// What a request for a lock came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was granted before, with this token.
    Holds(FencingToken),
    /// It waits already, or would have to: so many stand before it.
    Waits(u64),
    /// It may be granted now.
    Free,
}

#[derive(Default)]
pub(crate) struct Locks {
    holds: Table<(LockName, FencingToken), Hold>,
    waits: Table<(LockName, u64), Wait>,
    counts: Table<LockName, Count>,
    /// Number of the next waiter; never reused.
    next_wait: u64,
    /// Locks that the command in hand has granted.
    granted: Vec<LockName>,
    // Indexes over the tables above.
    holds_by_lease: BTreeSet<(LeaseId, LockName, RequestId, FencingToken)>,
    waits_by_lease: BTreeSet<(LeaseId, LockName, RequestId, u64)>,
    due: BTreeSet<(LogTime, LockName, u64)>,
}

pub(crate) struct Mark {
    holds: usize,
    waits: usize,
    counts: usize,
    next_wait: u64,
    granted: usize,
}

impl Locks {
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether `token` is held right now.
    pub(crate) fn hold(&self, lock: &LockName, token: FencingToken) -> Option<&Hold> {
        self.holds.get(&(lock.clone(), token))
    }

    /// The newest token held; 0 when nobody holds the lock.
    pub(crate) fn newest(&self, lock: &LockName) -> FencingToken {
        self.holders_of(lock).next_back().map_or(FencingToken::ZERO, |((_, token), _)| *token)
    }

    /// The lease of the only or first holder.
    pub(crate) fn leader(&self, election: &LockName) -> Option<LeaseId> {
        self.holders_of(election).next().map(|(_, hold)| hold.lease)
    }

    pub(crate) fn waiting(&self, lock: &LockName) -> u64 {
        self.counts.get(lock).map_or(0, |count| count.waiting)
    }

    pub(crate) fn holders(&self, lock: &LockName) -> Vec<Holder> {
        let show = |((_, token), hold): (&(LockName, FencingToken), &Hold)| Holder {
            lease: hold.lease,
            request: hold.request,
            token: *token,
            mode: hold.mode,
            value: hold.value.clone(),
            since: hold.since,
        };
        self.holders_of(lock).map(show).collect()
    }

    pub(crate) fn view(&self, lock: &LockName) -> Option<LockView> {
        self.counts.get(lock)?;
        let wait = |(_, wait): (&(LockName, u64), &Wait)| Waiter {
            lease: wait.lease,
            request: wait.request,
            mode: wait.mode,
            since: wait.since,
        };
        Some(LockView { holders: self.holders(lock), waiting: self.queue(lock).map(wait).collect() })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &LockName> {
        self.counts.iter().map(|(name, _)| name)
    }

    /// What a session that asks for a lock would get.
    ///
    /// # Errors
    /// [`OpError::LockHeldByYou`]: it holds the lock, or (token 0) waits for it, by another request and would wait for
    /// itself. Permits of a semaphore are apart: a session may ask for several.
    pub(crate) fn ask(
        &self,
        lock: &LockName,
        lease: LeaseId,
        request: RequestId,
        mode: LockMode,
    ) -> Result<Asked, OpError> {
        let mine = (lease, lock.clone(), 0, FencingToken(0))
            ..=(lease, lock.clone(), u64::MAX, FencingToken(u64::MAX));
        let counted = |mode| matches!(mode, LockMode::Semaphore { .. });
        let mut other = None;
        for (_, _, held_by, token) in self.holds_by_lease.range(mine) {
            if *held_by == request {
                return Ok(Asked::Holds(*token));
            }
            let held = self.holds.get(&(lock.clone(), *token)).expect("holds and holds_by_lease agree");
            if !counted(mode) || !counted(held.mode) {
                other = Some(*token);
            }
        }
        if let Some(number) = self.waiter(lock, lease, request) {
            let ahead = self.queue(lock).take_while(|((_, other), _)| *other < number).count();
            return Ok(Asked::Waits(ahead as u64));
        }
        // Waiting twice is waiting for oneself as well; and a session has one public row.
        let waits = (lease, lock.clone(), 0, 0)..=(lease, lock.clone(), u64::MAX, u64::MAX);
        for (_, _, _, number) in self.waits_by_lease.range(waits) {
            let wait = self.waits.get(&(lock.clone(), *number)).expect("waits and waits_by_lease agree");
            if !counted(mode) || !counted(wait.mode) {
                other.get_or_insert(FencingToken::ZERO);
            }
        }
        if let Some(held) = other {
            return Err(OpError::LockHeldByYou { lock: lock.clone(), lease, held });
        }
        let waiting = self.waiting(lock);
        if waiting == 0 && self.fits(lock, mode) { Ok(Asked::Free) } else { Ok(Asked::Waits(waiting)) }
    }

    /// Whether the command in hand has granted the lock already, whatever became of that grant: its revision is a token
    /// that must not be given twice.
    pub(crate) fn was_granted(&self, lock: &LockName) -> bool {
        self.granted.contains(lock)
    }

    /// Grants the lock to a session that may have it now. The caller writes the public row.
    pub(crate) fn grant(&mut self, lock: &LockName, token: FencingToken, mut hold: Hold) {
        assert!(self.newest(lock) < token, "tokens of one lock strictly increase");
        if let (Some((_, first)), LockMode::Semaphore { .. }) = (self.holders_of(lock).next(), hold.mode) {
            hold.mode = first.mode; // Its number of permits stands, also once it has left before others.
        }
        self.granted.push(lock.clone());
        self.holds_by_lease.insert((hold.lease, lock.clone(), hold.request, token));
        self.holds.set((lock.clone(), token), Some(hold));
        self.count(lock, 1, 0);
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// [`OpError::NotHolder`].
    pub(crate) fn release(&mut self, lock: &LockName, token: FencingToken) -> Result<Hold, OpError> {
        let key = (lock.clone(), token);
        let Some(hold) = self.holds.get(&key).cloned() else {
            return Err(OpError::NotHolder { lock: lock.clone(), offered: token });
        };
        self.holds.set(key, None);
        self.holds_by_lease.remove(&(hold.lease, lock.clone(), hold.request, token));
        self.count(lock, -1, 0);
        Ok(hold)
    }

    /// Changes the value of a holder.
    ///
    /// # Errors
    /// [`OpError::NotHolder`].
    pub(crate) fn proclaim(
        &mut self,
        lock: &LockName,
        token: FencingToken,
        value: Blob,
    ) -> Result<&Hold, OpError> {
        let key = (lock.clone(), token);
        if !self.holds.update(&key, |hold| hold.value = value) {
            return Err(OpError::NotHolder { lock: lock.clone(), offered: token });
        }
        Ok(self.holds.get(&key).expect("it was just updated"))
    }

    /// Puts a session at the end of the queue.
    pub(crate) fn enqueue(&mut self, request: &WaitRequest, now: &Now) {
        let number = self.next_wait;
        self.next_wait += 1;
        let until = request.timeout.map_or(LogTime(u64::MAX), |timeout| now.time.plus(timeout));
        let wait = Wait {
            lease: request.lease,
            request: request.request,
            mode: request.mode,
            value: request.value.clone(),
            since: now.wall,
            until,
        };
        index_wait(&mut self.waits_by_lease, &mut self.due, &request.lock, number, &wait, true);
        self.waits.set((request.lock.clone(), number), Some(wait));
        self.count(&request.lock, 0, 1);
    }

    /// Number of a waiting request.
    pub(crate) fn waiter(&self, lock: &LockName, lease: LeaseId, request: RequestId) -> Option<u64> {
        let mine = (lease, lock.clone(), request, 0)..=(lease, lock.clone(), request, u64::MAX);
        self.waits_by_lease.range(mine).next().map(|(_, _, _, number)| *number)
    }

    /// Takes a waiter out of the queue.
    pub(crate) fn dequeue(&mut self, lock: &LockName, number: u64) -> Option<Wait> {
        let wait = self.waits.set((lock.clone(), number), None)?;
        index_wait(&mut self.waits_by_lease, &mut self.due, lock, number, &wait, false);
        self.count(lock, 0, -1);
        Some(wait)
    }

    /// The waiter at the head of the queue, if the lock has room for it.
    pub(crate) fn next_fitting(&self, lock: &LockName) -> Option<u64> {
        let ((_, number), wait) = self.queue(lock).next()?;
        self.fits(lock, wait.mode).then_some(*number)
    }

    /// The next waiter to give up, and when.
    pub(crate) fn next_due(&self) -> Option<(LogTime, LockName, u64)> {
        self.due.first().cloned()
    }

    /// What a session holds and waits for, in the order of the locks' names.
    pub(crate) fn of_lease(&self, lease: LeaseId) -> OfLease {
        let first = LockName::default();
        let holds = self.holds_by_lease.range((lease, first.clone(), 0, FencingToken(0))..);
        let waits = self.waits_by_lease.range((lease, first, 0, 0)..);
        (
            holds
                .take_while(|(of, ..)| *of == lease)
                .map(|(_, lock, _, token)| (lock.clone(), *token))
                .collect(),
            waits
                .take_while(|(of, ..)| *of == lease)
                .map(|(_, lock, _, number)| (lock.clone(), *number))
                .collect(),
        )
    }

    fn fits(&self, lock: &LockName, mode: LockMode) -> bool {
        let Some((_, first)) = self.holders_of(lock).next() else { return true };
        let holding = self.counts.get(lock).map_or(0, |count| count.holding);
        match (first.mode, mode) {
            (LockMode::Shared, LockMode::Shared) => true,
            // The first holder's number of permits stands until all have left.
            (LockMode::Semaphore { permits }, LockMode::Semaphore { .. }) => holding < u64::from(permits),
            _ => false,
        }
    }

    fn holders_of(
        &self,
        lock: &LockName,
    ) -> impl DoubleEndedIterator<Item = (&(LockName, FencingToken), &Hold)> {
        self.holds.range((lock.clone(), FencingToken(0))..=(lock.clone(), FencingToken(u64::MAX)))
    }

    fn queue(&self, lock: &LockName) -> impl DoubleEndedIterator<Item = (&(LockName, u64), &Wait)> {
        self.waits.range((lock.clone(), 0)..=(lock.clone(), u64::MAX))
    }

    fn count(&mut self, lock: &LockName, holding: i64, waiting: i64) {
        let mut count = self.counts.get(lock).cloned().unwrap_or_default();
        count.holding = count.holding.checked_add_signed(holding).expect("holders are counted one by one");
        count.waiting = count.waiting.checked_add_signed(waiting).expect("waiters are counted one by one");
        let gone = count == Count::default();
        self.counts.set(lock.clone(), (!gone).then_some(count));
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            holds: self.holds.mark(),
            waits: self.waits.mark(),
            counts: self.counts.mark(),
            next_wait: self.next_wait,
            granted: self.granted.len(),
        }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { holds_by_lease, waits_by_lease, due, .. } = self;
        self.holds.rollback(mark.holds, |(lock, token), from, to| {
            if let Some(hold) = from {
                holds_by_lease.remove(&(hold.lease, lock.clone(), hold.request, *token));
            }
            if let Some(hold) = to {
                holds_by_lease.insert((hold.lease, lock.clone(), hold.request, *token));
            }
        });
        self.waits.rollback(mark.waits, |(lock, number), from, to| {
            if let Some(wait) = from {
                index_wait(waits_by_lease, due, lock, *number, wait, false);
            }
            if let Some(wait) = to {
                index_wait(waits_by_lease, due, lock, *number, wait, true);
            }
        });
        self.counts.rollback(mark.counts, |_, _, _| {});
        self.next_wait = mark.next_wait;
        self.granted.truncate(mark.granted);
    }

    pub(crate) fn forget(&mut self) {
        self.holds.forget();
        self.waits.forget();
        self.counts.forget();
        self.granted.clear();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.holds.walk_begin();
        self.waits.walk_begin();
    }
    pub(crate) fn walk_holds(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.holds.walk_next(rows, out)
    }
    pub(crate) fn walk_waits(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.waits.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.holds.walk_end();
        self.waits.walk_end();
    }
    pub(crate) fn next_wait(&self) -> u64 {
        self.next_wait
    }
    pub(crate) fn restore_next_wait(&mut self, next: u64) {
        self.next_wait = next;
    }
    pub(crate) fn restore_hold(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let ((lock, token), hold) = self.holds.restore_row(from)?;
        self.holds_by_lease.insert((hold.lease, lock.clone(), hold.request, token));
        self.count(&lock, 1, 0);
        self.counts.forget();
        Ok(())
    }
    pub(crate) fn restore_wait(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let ((lock, number), wait) = self.waits.restore_row(from)?;
        index_wait(&mut self.waits_by_lease, &mut self.due, &lock, number, &wait, true);
        self.count(&lock, 0, 1);
        self.counts.forget();
        Ok(())
    }
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let rows = self.holds.digest(scratch).wrapping_add(self.waits.digest(scratch));
        rows.wrapping_add(self.counts.digest(scratch)).wrapping_add(u128::from(self.next_wait))
    }
    /// Whether a restored state is of one piece; otherwise what is not.
    pub(crate) fn verify(
        &self,
        live: impl Fn(LeaseId) -> bool,
        revision: Revision,
    ) -> Result<(), &'static str> {
        let held = |((_, token), hold): (&(LockName, FencingToken), &Hold)| {
            live(hold.lease) && (1..=revision.0).contains(&token.0)
        };
        let waits =
            |((_, number), wait): (&(LockName, u64), &Wait)| live(wait.lease) && *number < self.next_wait;
        if self.next_wait > 1 << 62 || !self.holds.iter().all(held) || !self.waits.iter().all(waits) {
            return Err("holder or waiter of a lock");
        }
        let stuck = self.names().any(|lock| self.next_fitting(lock).is_some());
        if stuck { Err("queue of a lock") } else { Ok(()) }
    }
    pub(crate) fn check(&self, live: impl Fn(LeaseId) -> bool) {
        for ((lock, token), hold) in self.holds.iter() {
            assert!(live(hold.lease), "the holder {token} of {lock} belongs to a live session");
            assert!(self.holds_by_lease.contains(&(hold.lease, lock.clone(), hold.request, *token)));
        }
        for ((lock, number), wait) in self.waits.iter() {
            assert!(live(wait.lease), "waiter {number} of {lock} belongs to a live session");
            assert!(self.waits_by_lease.contains(&(wait.lease, lock.clone(), wait.request, *number)));
            assert_eq!(wait.until.0 < u64::MAX, self.due.contains(&(wait.until, lock.clone(), *number)));
        }
        assert_eq!(self.holds.len(), self.holds_by_lease.len(), "an index entry for each hold");
        assert_eq!(self.waits.len(), self.waits_by_lease.len(), "an index entry for each waiter");
        let mut counts = BTreeMap::<&LockName, Count>::new();
        for ((lock, _), _) in self.holds.iter() {
            counts.entry(lock).or_default().holding += 1;
        }
        for ((lock, _), _) in self.waits.iter() {
            counts.entry(lock).or_default().waiting += 1;
        }
        assert!(self.counts.iter().eq(counts.iter().map(|(lock, count)| (*lock, count))), "counts count");
        for lock in self.names() {
            assert_eq!(self.next_fitting(lock), None, "nobody waits for lock {lock} although it has room");
        }
    }
}

fn index_wait(
    by_lease: &mut BTreeSet<(LeaseId, LockName, RequestId, u64)>,
    due: &mut BTreeSet<(LogTime, LockName, u64)>,
    lock: &LockName,
    number: u64,
    wait: &Wait,
    there: bool,
) {
    let mine = (wait.lease, lock.clone(), wait.request, number);
    let deadline = (wait.until, lock.clone(), number);
    if there {
        by_lease.insert(mine);
        if wait.until.0 < u64::MAX {
            due.insert(deadline);
        }
    } else {
        by_lease.remove(&mine);
        due.remove(&deadline);
    }
}
