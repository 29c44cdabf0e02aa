//! A commit is decided here: idempotency first, then every other guard against one state, then the operations in order.
//!
//! Read [`Machine::commit`] first. Effects are made in place; [`Savepoint`] takes them back when an operation fails.
//!
//! Invariant: a refused commit leaves the state as it was, to the byte, and takes no revision.
//! Invariant: limit tokens and slots are taken only when every guard passed.
//! Invariant: a commit touches at most [`COMMIT_TOUCH_MAX`] elements: over it, it is refused whole; in mode `apart` that holds for each operation.
//! Invariant: a replayed answer charges nothing and changes nothing.
//! Called by: `Machine::execute` and `Machine::fire`.

use crate::idempotency::{self, Kind, Scope};
use crate::keys::{self, view};
use crate::locks::{self, Asked};
use crate::rows::Slot;
use crate::services;
use crate::tasks::{Due, Task};
use crate::{
    Event, Machine, Now, Outputs, consumers, groups, limits, lock_row, members, offsets, producers, streams,
    transactions, xgroups,
};
use quorate_calls::{COMMIT_TOUCH_MAX, OPERATION};
use quorate_types::{
    Append, Branch, Commit, Committed, FencingToken, GroupMode, Guard, GuardFailed, Key, KeyField, KeyValue,
    LeaseId, LockMode, LockName, Mode, Op, OpError, OpResult, Order, Outcome, PayloadRef, Principal, Refusal,
    RequestId, Revision, Sort, When,
};

/// The state to go back to when what follows is refused.
struct Savepoint {
    keys: keys::Mark,
    bodies: usize,
    scripts: usize,
    libraries: usize,
    leases: usize,
    locks: locks::Mark,
    idempotency: idempotency::Mark,
    limits: limits::Mark,
    tasks: usize,
    streams: streams::Mark,
    xgroups: xgroups::Mark,
    producers: xgroups::Mark,
    offsets: offsets::Mark,
    members: members::Mark,
    consumers: consumers::Mark,
    numbered: producers::Mark,
    transactions: transactions::Mark,
    groups: groups::Mark,
    moved: bool,
    touched: usize,
    events: usize,
}

/// Who commits, and the place of the commit in its entry.
pub(crate) struct Context<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) place: u64,
    pub(crate) now: &'a Now,
    /// Under which idempotency key the answer will be kept.
    pub(crate) remembers: Option<&'a Scope>,
}

/// What it costs to delete a key, in elements touched.
const DELETION: u64 = 8;
/// What it costs to erase a plain value, in elements touched, so that a commit erases at most 62,499. Those hold the thread for 30 ms with values of
/// 100 B, and for 36 to 47 ms with 4 KiB, when the history has no room and forgets as many lines (two busy cores; 97 to 107 while three compilers
/// run on them); a quarter of an election's timeout is 112 ms. The values are freed by later entries, or it were 44 to 65 (`examples/erase.rs`).
const ERASURE: u64 = 4;

/// What a list of operations came to.
type Ran = Result<Vec<OpResult>, (u32, OpError)>;

impl Machine {
    pub(crate) fn commit(
        &mut self,
        principal: &Principal,
        commit: &Commit,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Outcome {
        match self.decide(&Context { principal, place, now, remembers: None }, commit, out) {
            Ok(committed) => Outcome::Committed { committed },
            Err(refusal) => Outcome::Refused { refusal },
        }
    }

    pub(crate) fn decide(
        &mut self,
        context: &Context<'_>,
        commit: &Commit,
        out: &mut Outputs,
    ) -> Result<Committed, Refusal> {
        let remember = match &commit.idempotency {
            None => None,
            Some(wanted) => {
                let scope = Scope { principal: context.principal.clone(), key: wanted.key.clone() };
                if let Some((_, record)) = self.idempotency.find(&scope) {
                    return remembered(&scope, record, wanted.fingerprint);
                }
                // Checked before anything is done: an answer that could not be remembered must not take effect.
                if let Err((kept, max)) = self.room_for(&scope, &Kind::Cancelled {}) {
                    return Err(Refusal::IdempotencyFull { kept, max });
                }
                Some((scope, wanted))
            }
        };
        self.touches = 0;
        let savepoint = self.savepoint(out);
        let remembers = remember.as_ref().map(|(scope, _)| scope);
        let decided = self.guarded(&Context { remembers, ..*context }, commit, out);
        let refusal = match decided {
            Ok((branch, results, limits)) => {
                let revision = if self.moved { self.revision.next() } else { self.revision };
                let committed = Committed { revision, branch, results, limits, replayed: false };
                let Some((scope, wanted)) = remember else { return Ok(committed) };
                let kind = Kind::answered(&committed, &mut self.scratch);
                match self.room_for(&scope, &kind) {
                    Ok(()) => {
                        self.idempotency.insert(
                            scope,
                            wanted.fingerprint,
                            wanted.ttl,
                            context.now.time,
                            kind,
                        );
                        return Ok(committed);
                    }
                    Err((kept, max)) => Refusal::IdempotencyFull { kept, max },
                }
            }
            Err(Refused::Guards(failed)) => Refusal::Guards { failed },
            Err(Refused::Operation(op, error)) => Refusal::Operation { op, error },
            Err(Refused::Denied(denied)) => Refusal::Denied { denied },
        };
        self.rollback(&savepoint, out);
        Err(refusal)
    }

    /// Guards, then one of the lists. On an error the caller rolls back.
    fn guarded(
        &mut self,
        context: &Context<'_>,
        commit: &Commit,
        out: &mut Outputs,
    ) -> Result<(Branch, Vec<OpResult>, Vec<quorate_types::LimitReport>), Refused> {
        if commit.mode == Mode::Foreseen {
            return self.foreseen(context, commit, out);
        }
        self.guards_allowed(&self.rights(context.principal), commit).map_err(Refused::Denied)?;
        self.touches = self.looked_at(commit, self.touches).map_err(|error| Refused::Operation(0, error))?;
        let mut failed = Vec::new();
        for (number, guard) in commit.guards.iter().enumerate() {
            if let Err(why) = self.check_guard(guard, context.now) {
                failed.push((number as u32, why));
            }
        }
        let limited = |guard: &&Guard| matches!(guard, Guard::Limit { .. });
        let mut limits = Vec::with_capacity(commit.guards.iter().filter(limited).count());
        if failed.is_empty() {
            let before = self.limits.mark();
            for (number, guard) in commit.guards.iter().enumerate() {
                match self.charge(guard, context.now) {
                    Ok(report) => limits.extend(report),
                    // Two guards on one limit, each of which passes alone: the `else` list must not pay for the first.
                    Err(why) => {
                        self.limits.rollback(&before);
                        limits.clear();
                        failed.push((number as u32, why));
                        break;
                    }
                }
            }
        }
        let (branch, ops) = match (&commit.otherwise, failed.is_empty()) {
            (_, true) => (Branch::Then, &commit.then),
            (Some(otherwise), false) => (Branch::Else, otherwise),
            (None, false) => return Err(Refused::Guards(failed)),
        };
        let results =
            self.run(context, ops, commit.mode, out).map_err(|(op, error)| Refused::Operation(op, error))?;
        Ok((branch, results, limits))
    }

    /// A commit whose branches, inner ones included, are decided before anything is done; as is whether what they write and read is there.
    fn foreseen(
        &mut self,
        context: &Context<'_>,
        commit: &Commit,
        out: &mut Outputs,
    ) -> Result<(Branch, Vec<OpResult>, Vec<quorate_types::LimitReport>), Refused> {
        self.foreseen_allowed(&self.rights(context.principal), commit).map_err(Refused::Denied)?;
        let mut path = Vec::new();
        let mut touches = self.touches;
        self.foresee(context, commit, &mut path, &mut touches)?;
        self.touches = touches;
        let refused = |(op, error)| Refused::Operation(op, error);
        each_on(commit, &mut path.iter(), &mut |op| self.written(op)).map_err(refused)?;
        each_on(commit, &mut path.iter(), &mut |op| self.shown(op)).map_err(refused)?;
        let (branch, results) = self.along(context, commit, &mut path.iter(), out).map_err(refused)?;
        Ok((branch, results, Vec::new()))
    }

    /// Which lists run: of this commit, then of the inner ones in it, in order.
    fn foresee(
        &self,
        context: &Context<'_>,
        commit: &Commit,
        path: &mut Vec<bool>,
        touches: &mut u64,
    ) -> Result<(), Refused> {
        *touches = self.looked_at(commit, *touches).map_err(|error| Refused::Operation(0, error))?;
        let holds = commit.guards.iter().all(|guard| self.check_guard(guard, context.now).is_ok());
        path.push(holds);
        for op in list(commit, holds) {
            if let Op::Nested { commit } = op {
                self.foresee(context, commit, path, touches)?;
            }
        }
        Ok(())
    }

    /// Whether a write can be made, by the state before the commit.
    fn written(&self, op: &Op) -> Result<(), OpError> {
        let Op::Write { key, value, lease, .. } = op else { return Ok(()) };
        if (value.is_none() || lease.is_none()) && self.keys.get(key).is_none() {
            return Err(OpError::KeyMissing { key: key.clone() });
        }
        lease.filter(|lease| *lease != LeaseId::ZERO).map_or(Ok(()), |lease| self.leases.live(lease))
    }

    /// Whether a read can be made, by the state before the commit.
    fn shown(&self, op: &Op) -> Result<(), OpError> {
        let Op::Select { select } = op else { return Ok(()) };
        let Some(at) = select.at else { return Ok(()) };
        let oldest = self.oldest_shown();
        if at < oldest {
            return Err(OpError::Compacted { asked: at, oldest });
        }
        self.keys.readable(at, self.revision)
    }

    /// The oldest revision that reads of plain values are shown: once something was forgotten, the first whose own changes are all there.
    #[must_use]
    pub fn oldest_shown(&self) -> Revision {
        let compacted = self.keys.compacted();
        if compacted == Revision::ZERO { compacted } else { compacted.next() }
    }

    /// What a commit in mode `foreseen` would read now, without an entry: its operations are selects and inner commits of such.
    ///
    /// # Errors
    /// As if it were committed; an operation that changes something is refused.
    pub fn read_foreseen(
        &self,
        principal: &Principal,
        commit: &Commit,
    ) -> Result<(Branch, Vec<OpResult>), Refusal> {
        let now = Now { index: self.applied, wall: self.wall, time: self.time, seed: 0 };
        let context = Context { principal, place: 0, now: &now, remembers: None };
        let rights = self.rights(principal);
        let (mut path, mut touches) = (Vec::new(), 0);
        let mut read = || {
            self.foreseen_allowed(&rights, commit).map_err(Refused::Denied)?;
            self.foresee(&context, commit, &mut path, &mut touches)?;
            let mut allowed = |op: &Op| {
                touches = affordable(touches.saturating_add(self.cost(op)))?;
                self.shown(op)
            };
            each_on(commit, &mut path.iter(), &mut allowed)
                .and_then(|()| self.read_along(commit, &mut path.iter()))
                .map_err(|(op, error)| Refused::Operation(op, error))
        };
        read().map_err(|refused| match refused {
            Refused::Guards(failed) => Refusal::Guards { failed },
            Refused::Operation(op, error) => Refusal::Operation { op, error },
            Refused::Denied(denied) => Refusal::Denied { denied },
        })
    }

    fn read_along(
        &self,
        commit: &Commit,
        path: &mut std::slice::Iter<'_, bool>,
    ) -> Result<(Branch, Vec<OpResult>), (u32, OpError)> {
        let holds = *path.next().expect("each commit on the path has its turn");
        let mut results = Vec::new();
        for (number, op) in list(commit, holds).iter().enumerate() {
            results.push(match op {
                Op::Nested { commit } => {
                    let inner = self.read_along(commit, path);
                    let (branch, results) = inner.map_err(|(_, error)| (number as u32, error))?;
                    OpResult::Nested { branch, results }
                }
                Op::Select { select } => {
                    let found =
                        self.keys.select(select, self.revision).map_err(|error| (number as u32, error))?;
                    OpResult::Keys { keys: found.keys, count: found.count, more: found.more }
                }
                _ => return Err((number as u32, OpError::OutermostOnly { what: "a change".into() })),
            });
        }
        Ok((if holds { Branch::Then } else { Branch::Else }, results))
    }

    fn along(
        &mut self,
        context: &Context<'_>,
        commit: &Commit,
        path: &mut std::slice::Iter<'_, bool>,
        out: &mut Outputs,
    ) -> Result<(Branch, Vec<OpResult>), (u32, OpError)> {
        let holds = *path.next().expect("each commit on the path has its turn");
        let ops = list(commit, holds);
        let mut results = Vec::with_capacity(ops.len());
        for (number, op) in ops.iter().enumerate() {
            results.push(match op {
                Op::Nested { commit } => {
                    let inner = self.along(context, commit, path, out);
                    let (branch, results) = inner.map_err(|(_, error)| (number as u32, error))?;
                    OpResult::Nested { branch, results }
                }
                op => self.op(context, op, Mode::Atomic, out).map_err(|error| (number as u32, error))?,
            });
        }
        Ok((if holds { Branch::Then } else { Branch::Else }, results))
    }

    fn run(&mut self, context: &Context<'_>, ops: &[Op], mode: Mode, out: &mut Outputs) -> Ran {
        let mut results = Vec::with_capacity(ops.len());
        for (number, op) in ops.iter().enumerate() {
            match mode {
                Mode::Atomic | Mode::Foreseen => {
                    results.push(self.op(context, op, mode, out).map_err(|error| (number as u32, error))?)
                }
                Mode::Each | Mode::Apart => {
                    if mode == Mode::Apart {
                        self.touches = 0;
                    }
                    let savepoint = self.savepoint(out);
                    match self.op(context, op, mode, out) {
                        Ok(result) => results.push(result),
                        Err(error) if self.touches > COMMIT_TOUCH_MAX && mode == Mode::Each => {
                            return Err((number as u32, error));
                        }
                        Err(error) => {
                            self.rollback(&savepoint, out);
                            results.push(OpResult::Failed { error });
                        }
                    }
                }
            }
        }
        Ok(results)
    }

    /// Says before the work how many elements it will touch.
    pub(crate) fn touch(&mut self, elements: u64) -> Result<(), OpError> {
        self.touches = self.touches.saturating_add(elements);
        affordable(self.touches).map(drop)
    }

    /// How many elements a commit has touched once its guards were looked at. Rows are counted no further than the budget reaches.
    fn looked_at(&self, commit: &Commit, touches: u64) -> Result<u64, OpError> {
        let most = COMMIT_TOUCH_MAX + 1;
        commit.guards.iter().try_fold(touches, |touches, guard| match guard {
            Guard::Keys { range, .. } | Guard::Values { range, .. } => {
                affordable(touches.saturating_add(OPERATION + self.keys.count_up_to(range, most)))
            }
            _ => Ok(touches),
        })
    }

    /// What an operation costs that is no call. Rows are counted no further than the budget reaches.
    fn cost(&self, op: &Op) -> u64 {
        let most = COMMIT_TOUCH_MAX + 1;
        OPERATION
            + match op {
                Op::Range { read } => {
                    let ordered =
                        read.sort == Sort::Key && read.order == Order::Ascending && !read.count_only;
                    let shown =
                        if ordered && read.limit > 0 { most.min(u64::from(read.limit) + 1) } else { most };
                    self.keys.count_up_to(&read.range, shown)
                }
                Op::Select { select } => {
                    let shown = select.enough().filter(|_| !select.count_only);
                    self.keys.count_up_to(&select.range, shown.map_or(most, |shown| shown.min(most)))
                }
                Op::CommitOffsets { commit } => DELETION * commit.count(),
                Op::Member { change } => change.cost(),
                Op::DeleteRange { range, .. } => DELETION * self.keys.count_up_to(range, most),
                Op::Erase { range, .. } => ERASURE * self.keys.count_up_to(range, most),
                _ => 0,
            }
    }

    /// Checks a guard, changing nothing.
    pub(crate) fn check_guard(&self, guard: &Guard, now: &Now) -> Result<(), GuardFailed> {
        match guard {
            Guard::Key { key, field, compare, wanted } => {
                let row = self.keys.get(key);
                let found = row.map_or(0, |row| number_of(row, *field));
                let failed = GuardFailed::Key {
                    key: key.clone(),
                    field: *field,
                    compare: *compare,
                    found,
                    wanted: *wanted,
                };
                if compare.holds(&found, wanted) { Ok(()) } else { Err(failed) }
            }
            Guard::Value { key, compare, wanted } => {
                let row = self.keys.get(key);
                if row.is_some_and(|row| compare.holds(&row.value, wanted)) {
                    return Ok(());
                }
                let found = row.map_or(Revision::ZERO, |row| row.modified);
                Err(GuardFailed::Value { key: key.clone(), compare: *compare, found })
            }
            Guard::Keys { range, field, compare, wanted } => {
                let mut rows = self.keys.plain_rows(range).peekable();
                if rows.peek().is_none() {
                    return if compare.holds(&0, wanted) {
                        Ok(())
                    } else {
                        Err(GuardFailed::Some { key: None })
                    };
                }
                match rows.find(|(_, row)| !compare.holds(&number_of(row, *field), wanted)) {
                    None => Ok(()),
                    Some((key, _)) => Err(GuardFailed::Some { key: Some(key.clone()) }),
                }
            }
            Guard::Values { range, compare, wanted } => {
                let mut rows = self.keys.plain_rows(range).peekable();
                if rows.peek().is_none() {
                    return Err(GuardFailed::Some { key: None });
                }
                match rows.find(|(_, row)| !compare.holds(&row.value, wanted)) {
                    None => Ok(()),
                    Some((key, _)) => Err(GuardFailed::Some { key: Some(key.clone()) }),
                }
            }
            Guard::RangeUnchanged { range, since } => {
                match self.keys.changed_since(range, *since, self.revision) {
                    Ok(None) => Ok(()),
                    Ok(Some((key, changed))) => Err(GuardFailed::Range { key, changed, since: *since }),
                    Err(oldest) => {
                        Err(GuardFailed::RangeUnknown { since: *since, oldest, current: self.revision })
                    }
                }
            }
            Guard::Fence { lock, token } => {
                if self.locks.hold(lock, *token).is_some() {
                    return Ok(());
                }
                Err(GuardFailed::Fence { lock: lock.clone(), held: self.locks.newest(lock), offered: *token })
            }
            Guard::Leadership { election, lease } => {
                let leader = self.locks.leader(election).unwrap_or_default();
                let failed = GuardFailed::Leadership { election: election.clone(), leader, wanted: *lease };
                if leader == *lease && leader != LeaseId::ZERO { Ok(()) } else { Err(failed) }
            }
            Guard::Limit { name, policy, cost } => {
                if self.limits.has(name, policy, *cost, now.time) {
                    return Ok(());
                }
                let report = self.limits.report(name, policy, *cost, now.time);
                Err(GuardFailed::Limit { report, cost: *cost })
            }
            Guard::Slots { name, max, lease, slot } => {
                if self.leases.live(*lease).is_err() {
                    return Err(GuardFailed::LeaseGone { lease: *lease });
                }
                let (mine, used) = self.limits.slots(name, *lease, slot);
                if mine || used < *max {
                    Ok(())
                } else {
                    Err(GuardFailed::Slots { name: name.clone(), max: *max })
                }
            }
            Guard::StreamAt { stream, partition, next } => {
                let found = self.streams.next_offset(stream, *partition);
                let failed = GuardFailed::StreamAt {
                    stream: stream.clone(),
                    partition: *partition,
                    found,
                    wanted: *next,
                };
                if found == *next { Ok(()) } else { Err(failed) }
            }
            Guard::NotAfter { deadline } => {
                let failed = GuardFailed::NotAfter { now: now.wall, deadline: *deadline };
                if now.wall <= *deadline { Ok(()) } else { Err(failed) }
            }
        }
    }

    /// Takes what a guard that passed is to take.
    fn charge(
        &mut self,
        guard: &Guard,
        now: &Now,
    ) -> Result<Option<quorate_types::LimitReport>, GuardFailed> {
        match guard {
            Guard::Limit { name, policy, cost } => match self.limits.take(name, policy, *cost, now.time) {
                Ok(report) => Ok(Some(report)),
                Err(report) => Err(GuardFailed::Limit { report, cost: *cost }),
            },
            Guard::Slots { name, max, lease, slot } => {
                let (mine, used) = self.limits.slots(name, *lease, slot);
                if !mine && used >= *max {
                    return Err(GuardFailed::Slots { name: name.clone(), max: *max });
                }
                self.limits.take_slot(name, *lease, slot);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Runs one operation. On an error it may have changed something: the caller rolls back.
    fn op(
        &mut self,
        context: &Context<'_>,
        op: &Op,
        mode: Mode,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let now = context.now;
        // A call is asked for word by word, where those that a script makes are too.
        if !matches!(op, Op::Call { .. }) {
            let rights = self.rights(context.principal);
            self.op_allowed(&rights, op).map_err(|denied| OpError::Denied { denied })?;
            self.touch(self.cost(op))?;
        }
        match op {
            Op::Get { key } => Ok(OpResult::Key { found: self.get_plain(key)? }),
            Op::Range { read } => {
                let found = self.keys.range(read, self.revision_shown())?;
                Ok(OpResult::Keys { keys: found.keys, count: found.count, more: found.more })
            }
            Op::Put { key, value, lease, prev } => {
                self.has_room(key.space)?;
                let place = self.writable(key)?;
                if *lease != LeaseId::ZERO {
                    self.leases.live(*lease)?;
                }
                let revision = self.revision_now();
                let before = self.keys.put_at(place, key, value.clone(), *lease, revision, now.time);
                if *prev {
                    Ok(OpResult::Key { found: before.map(|row| view(key, row, false)) })
                } else {
                    Ok(OpResult::Done {})
                }
            }
            Op::Delete { key, prev } => {
                not_internal(key)?;
                let gone: Vec<KeyValue> = self.delete(key, now).into_iter().collect();
                Ok(OpResult::Deleted {
                    count: gone.len() as u64,
                    prev: if *prev { gone } else { Vec::new() },
                })
            }
            Op::DeleteRange { range, prev } => {
                not_internal(&range.start)?;
                // A stream is no value: it goes with DeleteStream.
                let is_value =
                    |key: &Key| self.keys.get(key).is_some_and(|row| row.kind != keys::Kind::Stream);
                let mut keys = self.keys.keys_in(range);
                keys.retain(is_value);
                let mut gone = Vec::new();
                for key in &keys {
                    let before = self.delete(key, now);
                    if *prev {
                        gone.extend(before);
                    }
                }
                Ok(OpResult::Deleted { count: keys.len() as u64, prev: gone })
            }
            Op::Select { select } => {
                let found = self.keys.select(select, self.revision_shown())?;
                Ok(OpResult::Keys { keys: found.keys, count: found.count, more: found.more })
            }
            Op::Write { key, value, lease, prev, keep } => {
                self.has_room(key.space)?;
                let place = self.writable(key)?;
                if let Some(lease) = lease.filter(|lease| *lease != LeaseId::ZERO) {
                    self.leases.live(lease)?;
                }
                let found = self.keys.live_at(place);
                let missing = || OpError::KeyMissing { key: key.clone() };
                let value = match (value, found) {
                    (Some(value), _) => value.clone(),
                    (None, row) => row.ok_or_else(missing)?.value.clone(),
                };
                let hang = match (lease, found) {
                    (Some(lease), _) => keys::Hang::from(*lease),
                    (None, row) => row.ok_or_else(missing)?.hang(),
                };
                let revision = self.revision_now();
                if *keep {
                    self.note_kept(key.space, now);
                }
                let before = self.keys.put_at(place, key, value, hang, revision, now.time);
                if *prev {
                    Ok(OpResult::Key { found: before.map(|row| view(key, row, false)) })
                } else {
                    Ok(OpResult::Done {})
                }
            }
            Op::Erase { range, prev } => {
                not_internal(&range.start)?;
                // By their places: finding each again by its name would cost as much as all the rest.
                let slots = self.keys.plain_slots(range);
                let mut gone = Vec::with_capacity(if *prev { slots.len() } else { 0 });
                for slot in &slots {
                    let revision = self.revision_now();
                    if *prev {
                        let (key, row) = self.keys.held(*slot);
                        gone.push(view(key, row, false));
                    }
                    self.keys.delete_at(*slot, revision, now.time);
                }
                Ok(OpResult::Deleted { count: slots.len() as u64, prev: gone })
            }
            Op::Increment { key, by, min, max } => {
                self.has_room(key.space)?;
                self.increment(key, *by, *min, *max, now)
            }
            Op::CreateStream { stream, settings } => {
                self.not_a_key(stream)?;
                self.streams.create(stream, settings)?;
                self.revision_now();
                self.touch_stream(stream, now);
                Ok(OpResult::Done {})
            }
            Op::AlterStream { stream, settings } => {
                let compacts = self.streams.compacts(stream);
                if compacts.is_some_and(|(id, compact)| {
                    compact != settings.compact && self.transactions.holds_for(id)
                }) {
                    let found = "stream that an open transaction appends to".into();
                    return Err(OpError::WrongType {
                        key: stream.clone(),
                        found,
                        wanted: "stream that nobody waits to append to".into(),
                    });
                }
                self.streams.alter(stream, settings)?;
                self.revision_now();
                if settings.protected {
                    self.take_row(stream, now);
                }
                self.touch_stream(stream, now);
                Ok(OpResult::Done {})
            }
            Op::DeleteStream { stream } => {
                self.remove_stream(stream, now)?;
                Ok(OpResult::Done {})
            }
            Op::Append { append } => self.append(append, now, out),
            Op::Produce { produce } => self.produce(context, produce, out),
            Op::Trim { stream, partition, before } => {
                self.streams.trim(stream, *partition, *before)?;
                self.revision_now();
                self.touch_stream(stream, now);
                Ok(OpResult::Done {})
            }
            Op::StreamInfo { stream } => self.streams.info(stream),
            Op::CreateGroup { stream, group, settings } => {
                if let GroupMode::Shared { dead_letter: Some(letters), .. } = &settings.mode {
                    self.not_a_key(letters)?;
                }
                self.groups.create(&mut self.streams, stream, group, settings)
            }
            Op::DeleteGroup { stream, group } => self.groups.delete(&mut self.streams, stream, group),
            Op::CursorCommit { stream, group, partition, offset, expected } => {
                self.groups.cursor_commit(&self.streams, stream, group, *partition, *offset, *expected)
            }
            Op::Take { stream, group, consumer, max, visibility } => {
                let (groups, before) = (&mut self.groups, out.events.len());
                let taken = groups.take(
                    &mut self.streams,
                    stream,
                    group,
                    consumer,
                    *max,
                    *visibility,
                    now,
                    &mut out.events,
                )?;
                self.count_letters(now, out, before);
                Ok(taken)
            }
            Op::Ack { stream, group, deliveries } => {
                self.groups.ack(&self.streams, stream, group, deliveries)
            }
            Op::Nack { stream, group, deliveries, delay } => {
                let (groups, before) = (&mut self.groups, out.events.len());
                let settled = groups.nack(
                    &mut self.streams,
                    stream,
                    group,
                    deliveries,
                    *delay,
                    now,
                    &mut out.events,
                )?;
                self.count_letters(now, out, before);
                Ok(settled)
            }
            Op::Extend { stream, group, deliveries, visibility } => {
                self.groups.extend(&self.streams, stream, group, deliveries, *visibility, now)
            }
            Op::LeaseGrant { lease, ttl } => {
                let salt =
                    context.place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.leases.len() as u64);
                let lease = self.leases.grant(*lease, *ttl, now, salt)?;
                Ok(OpResult::Lease { lease, ttl: *ttl, left: *ttl })
            }
            Op::LeaseKeepAlive { lease } => {
                let ttl = self.leases.keep_alive(*lease, now)?;
                Ok(OpResult::Lease { lease: *lease, ttl, left: ttl })
            }
            Op::LeaseRevoke { lease } => {
                self.end_lease(*lease, now, out)?;
                Ok(OpResult::Done {})
            }
            Op::LeaseInfo { lease } => {
                self.leases.live(*lease)?;
                let found = self.leases.get(*lease).expect("it is live");
                Ok(OpResult::Lease {
                    lease: *lease,
                    ttl: found.ttl,
                    left: found.deadline.millis_since(now.time),
                })
            }
            Op::Acquire { lock, lease, mode, request, value } => {
                self.acquire(lock, *lease, *mode, *request, value, now)
            }
            Op::Campaign { election, lease, request, value } => {
                self.acquire(election, *lease, LockMode::Exclusive, *request, value, now)
            }
            Op::Release { lock, token } | Op::Resign { election: lock, token } => {
                self.release(lock, *token, now)?;
                Ok(OpResult::Done {})
            }
            Op::Proclaim { election, token, value } => {
                let hold = self.locks.proclaim(election, *token, value.clone())?;
                let (row, lease) = (lock_row(election, hold.lease, hold.mode, hold.request), hold.lease);
                let revision = self.revision_now();
                self.keys.put(&row, value.clone(), lease, revision, now.time);
                Ok(OpResult::Done {})
            }
            Op::LockInfo { lock } => {
                Ok(OpResult::Lock { holders: self.locks.holders(lock), waiting: self.locks.waiting(lock) })
            }
            Op::Schedule { task, when, commit, on_refused } => {
                if commit.idempotency.is_some() {
                    return Err(OpError::OutermostOnly { what: "an idempotency key".into() });
                }
                let due = match when {
                    When::In { after } => Due::Log { time: now.time.plus(*after) },
                    When::At { time } => Due::Wall { time: *time },
                };
                let mut row = Task {
                    due,
                    principal: context.principal.clone(),
                    commit: (**commit).clone(),
                    on_refused: on_refused.clone(),
                    refused: 0,
                };
                // The bytes stay where they were logged, now; the firing refers to them there.
                row.for_each_payload(&mut |payload| {
                    payload.at.get_or_insert(PayloadRef { index: now.index, sub: payload.sub });
                    // Bytes of its own: a slice would keep the whole entry in memory until the task fires.
                    payload.bytes = bytes::Bytes::copy_from_slice(&payload.bytes);
                });
                Ok(OpResult::Scheduled { replaced: self.tasks.schedule(task.clone(), row) })
            }
            Op::Cancel { task } => match self.tasks.take(task) {
                Some(_) => Ok(OpResult::Done {}),
                None => Err(OpError::TaskMissing { task: task.clone() }),
            },
            Op::Register { service, instance, lease, info } => {
                self.leases.live(*lease)?;
                let revision = self.revision_now();
                self.keys.put(
                    &services::key(service, instance),
                    services::value(info),
                    *lease,
                    revision,
                    now.time,
                );
                Ok(OpResult::Done {})
            }
            Op::Deregister { service, instance } => match self.delete(&services::key(service, instance), now)
            {
                Some(_) => Ok(OpResult::Done {}),
                None => Err(OpError::InstanceMissing { service: service.clone() }),
            },
            Op::Claim { key, ttl, lease, fingerprint } => {
                if *lease != LeaseId::ZERO {
                    self.leases.live(*lease)?;
                }
                let scope = Scope { principal: context.principal.clone(), key: key.clone() };
                if context.remembers == Some(&scope) {
                    return Err(OpError::ClaimOther { key: key.clone() }); // This commit's own answer goes there.
                }
                if let Some((_, record)) = self.idempotency.find(&scope) {
                    return match &record.kind {
                        _ if record.fingerprint != *fingerprint => {
                            Err(OpError::ClaimOther { key: key.clone() })
                        }
                        Kind::Completed { answer } => {
                            Ok(OpResult::Claim { answer: Some(answer.clone()), token: FencingToken::ZERO })
                        }
                        Kind::Claimed { token, .. } => {
                            Err(OpError::ClaimHeld { key: key.clone(), token: *token })
                        }
                        Kind::Answered { .. } | Kind::Cancelled {} => {
                            Err(OpError::ClaimOther { key: key.clone() })
                        }
                    };
                }
                // A number that no claim had before; it is no revision, since a claim changes nothing that has one.
                let token = FencingToken(self.idempotency.next_number().saturating_add(1));
                let kind = Kind::Claimed { token, lease: *lease };
                self.room_for(&scope, &kind).map_err(|(kept, max)| OpError::IdempotencyFull { kept, max })?;
                self.idempotency.insert(scope, *fingerprint, *ttl, now.time, kind);
                Ok(OpResult::Claim { answer: None, token })
            }
            Op::Complete { key, token, answer } => {
                let scope = Scope { principal: context.principal.clone(), key: key.clone() };
                let lost = || OpError::ClaimLost { key: key.clone(), token: *token };
                let (slot, record) = self.idempotency.find(&scope).ok_or_else(lost)?;
                if !matches!(&record.kind, Kind::Claimed { token: held, .. } if held == token) {
                    return Err(lost());
                }
                let kind = Kind::Completed { answer: answer.clone() };
                self.room_for(&scope, &kind).map_err(|(kept, max)| OpError::IdempotencyFull { kept, max })?;
                self.idempotency.replace(slot, kind);
                Ok(OpResult::Done {})
            }
            Op::FreeSlot { name, lease, slot } => {
                if self.limits.free_slot(name, *lease, slot) {
                    return Ok(OpResult::Done {});
                }
                Err(OpError::SlotMissing { name: name.clone() })
            }
            Op::LimitPeek { name, policy } => {
                Ok(OpResult::Limit { report: self.limits.report(name, policy, 1, now.time) })
            }
            Op::Call { space, words, record } => {
                self.call_op(context, (*space, words, record.as_ref()), mode, out)
            }
            Op::CommitOffsets { commit } => self.commit_offsets(commit, now),
            Op::Member { change } => self.change_members(context, change, out),
            Op::Nested { commit } => {
                if commit.idempotency.is_some() {
                    return Err(OpError::OutermostOnly { what: "an idempotency key".into() });
                }
                match self.guarded(context, commit, out) {
                    Ok((branch, results, _)) => Ok(OpResult::Nested { branch, results }),
                    Err(Refused::Guards(failed)) => Err(OpError::Guards { failed }),
                    Err(Refused::Operation(op, error)) => Err(OpError::Inner { op, error: Box::new(error) }),
                    Err(Refused::Denied(denied)) => Err(OpError::Denied { denied }),
                }
            }
        }
    }

    /// Appends a batch, and tells those who wait for it.
    pub(crate) fn append(
        &mut self,
        append: &Append,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        if append.create && !self.streams.exists(&append.stream) {
            self.not_a_key(&append.stream)?;
        }
        let result = self.streams.append(append, now)?;
        if let OpResult::Appended { partition, .. } = &result {
            out.events.push(Event::StreamAppended { stream: append.stream.clone(), partition: *partition });
        }
        self.revision_now();
        self.touch_stream(&append.stream, now);
        Ok(result)
    }

    fn acquire(
        &mut self,
        lock: &LockName,
        lease: LeaseId,
        mode: LockMode,
        request: RequestId,
        value: &quorate_types::Blob,
        now: &Now,
    ) -> Result<OpResult, OpError> {
        self.leases.live(lease)?;
        let held = self.locks.newest(lock);
        let busy = |waiting| OpError::LockHeld { lock: lock.clone(), held, waiting };
        match self.locks.ask(lock, lease, request, mode)? {
            Asked::Holds(token) => return Ok(OpResult::Token { token }),
            Asked::Waits(_) => return Err(busy(self.locks.waiting(lock))),
            Asked::Free => {}
        }
        let token = FencingToken(self.revision_now().0);
        if held >= token || self.locks.was_granted(lock) {
            // Granted once already by this commit, though it may have been given back: a second token would be no newer.
            return Err(busy(self.locks.waiting(lock)));
        }
        let hold = locks::Hold { lease, request, mode, value: value.clone(), since: now.wall };
        self.grant(lock, token, hold, now);
        Ok(OpResult::Token { token })
    }

    fn increment(&mut self, key: &Key, by: i64, min: i64, max: i64, now: &Now) -> Result<OpResult, OpError> {
        let place = self.writable(key)?;
        let (found, hang) = match self.keys.live_at(place) {
            None => (0, keys::Hang::Nothing),
            Some(row) => {
                let number = row.value.as_text().and_then(|text| text.parse::<i64>().ok());
                (number.ok_or_else(|| OpError::NotInteger { key: key.clone() })?, row.hang())
            }
        };
        let sum = found.checked_add(by).filter(|sum| (min..=max).contains(sum));
        let value = sum.ok_or_else(|| OpError::OutOfBounds { key: key.clone(), found, by, min, max })?;
        let revision = self.revision_now();
        self.keys.put_at(place, key, value.to_string().into(), hang, revision, now.time);
        Ok(OpResult::Number { value })
    }

    /// Notes that a keyspace holds what those who flush it do not know of.
    fn note_kept(&mut self, space: quorate_types::Keyspace, now: &Now) {
        let note = kept(space);
        if self.keys.get(&note).is_none() {
            let revision = self.revision_now();
            self.keys.put(&note, quorate_types::Blob::EMPTY, LeaseId::ZERO, revision, now.time);
        }
    }

    /// Whether a keyspace may not be flushed.
    pub(crate) fn is_kept(&self, space: quorate_types::Keyspace) -> bool {
        self.keys.get(&kept(space)).is_some()
    }

    fn delete(&mut self, key: &Key, now: &Now) -> Option<KeyValue> {
        // Deleting nothing is no change, and takes no revision.
        let row = self.keys.get(key).filter(|row| row.kind != keys::Kind::Stream)?;
        let gone = view(key, row, false);
        self.drop_key(key, now);
        Some(gone)
    }

    /// Where a key has its row, if it may be written. One name has one type: a new key must not bear a stream's name.
    fn writable(&mut self, key: &Key) -> Result<Option<Slot>, OpError> {
        not_internal(key)?;
        let place = self.keys.find(key);
        self.shed(place, key);
        if let Some(row) = self.keys.live_at(place) {
            return is_plain(key, row.kind).map(|()| place);
        }
        if !self.streams.exists(key) {
            return Ok(place);
        }
        Err(OpError::WrongType { key: key.clone(), found: "stream".into(), wanted: "plain value".into() })
    }

    fn not_a_key(&self, stream: &Key) -> Result<(), OpError> {
        not_internal(stream)?;
        let row = self.keys.get(stream).filter(|row| row.kind != keys::Kind::Stream);
        let Some(row) = row else { return Ok(()) };
        let found = row.kind.name().into();
        Err(OpError::WrongType { key: stream.clone(), found, wanted: "stream".into() })
    }

    /// A key of another type has no value that could be read whole.
    pub(crate) fn plain(&self, key: &Key) -> Result<(), OpError> {
        self.keys.get(key).map_or(Ok(()), |row| is_plain(key, row.kind))
    }

    /// The revision that reads inside the commit in hand see.
    fn revision_shown(&self) -> Revision {
        if self.moved { self.revision.next() } else { self.revision }
    }

    fn savepoint(&self, out: &Outputs) -> Savepoint {
        Savepoint {
            keys: self.keys.mark(),
            bodies: self.bodies.mark(),
            scripts: self.scripts.mark(),
            libraries: self.libraries.mark(),
            leases: self.leases.mark(),
            locks: self.locks.mark(),
            idempotency: self.idempotency.mark(),
            limits: self.limits.mark(),
            tasks: self.tasks.mark(),
            streams: self.streams.mark(),
            xgroups: self.xgroups.mark(),
            producers: self.producers.mark(),
            offsets: self.offsets.mark(),
            members: self.members.mark(),
            consumers: self.consumers.mark(),
            numbered: self.numbered.mark(),
            transactions: self.transactions.mark(),
            groups: self.groups.mark(),
            moved: self.moved,
            touched: self.touched.len(),
            events: out.events.len(),
        }
    }

    fn rollback(&mut self, to: &Savepoint, out: &mut Outputs) {
        self.keys.rollback(&to.keys);
        self.bodies.rollback(to.bodies);
        self.scripts.rollback(to.scripts, |_, _, _| {});
        self.libraries.rollback(to.libraries);
        self.leases.rollback(to.leases);
        self.locks.rollback(&to.locks);
        self.idempotency.rollback(&to.idempotency);
        self.limits.rollback(&to.limits);
        self.tasks.rollback(to.tasks);
        self.streams.rollback(to.streams);
        self.xgroups.rollback(&to.xgroups);
        self.producers.rollback(&to.producers);
        self.offsets.rollback(&to.offsets);
        self.members.rollback(&to.members);
        self.consumers.rollback(&to.consumers);
        self.numbered.rollback(&to.numbered);
        self.transactions.rollback(&to.transactions);
        self.groups.rollback(to.groups);
        self.moved = to.moved;
        self.touched.truncate(to.touched);
        out.events.truncate(to.events);
    }
}

/// The number of elements a commit touches, if it is within the budget.
fn affordable(touches: u64) -> Result<u64, OpError> {
    if touches <= COMMIT_TOUCH_MAX {
        return Ok(touches);
    }
    let what = "the number of elements that this commit would touch, of which nothing happened,".into();
    Err(OpError::Range { what, found: touches, min: 0, max: COMMIT_TOUCH_MAX })
}

fn number_of(row: &keys::Row, field: KeyField) -> u64 {
    match field {
        KeyField::Version => row.version,
        KeyField::CreateRevision => row.created.0,
        KeyField::ModRevision => row.modified.0,
        KeyField::Lease => row.lease().0,
    }
}

/// The note that a keyspace is not to be flushed.
fn kept(space: quorate_types::Keyspace) -> Key {
    Key { space: quorate_types::Keyspace::NOTES, name: format!("kept/{}", space.0).into() }
}

/// The list of a foreseen commit that runs.
fn list(commit: &Commit, holds: bool) -> &[Op] {
    if holds { &commit.then } else { commit.otherwise.as_deref().unwrap_or_default() }
}

/// Looks at each operation of the lists that run, in order.
fn each_on(
    commit: &Commit,
    path: &mut std::slice::Iter<'_, bool>,
    look: &mut dyn FnMut(&Op) -> Result<(), OpError>,
) -> Result<(), (u32, OpError)> {
    let holds = *path.next().expect("each commit on the path has its turn");
    for (number, op) in list(commit, holds).iter().enumerate() {
        match op {
            Op::Nested { commit } => {
                each_on(commit, path, look).map_err(|(_, error)| (number as u32, error))?;
            }
            op => look(op).map_err(|error| (number as u32, error))?,
        }
    }
    Ok(())
}

pub(crate) fn is_plain(key: &Key, kind: keys::Kind) -> Result<(), OpError> {
    if kind == keys::Kind::Plain {
        return Ok(());
    }
    Err(OpError::WrongType { key: key.clone(), found: kind.name().into(), wanted: "plain value".into() })
}

fn not_internal(key: &Key) -> Result<(), OpError> {
    if key.space.is_internal() { Err(OpError::Internal { space: u64::from(key.space.0) }) } else { Ok(()) }
}

enum Refused {
    Guards(Vec<(u32, GuardFailed)>),
    Operation(u32, OpError),
    Denied(quorate_types::Denied),
}

/// What a used key means for the commit that brings it again.
fn remembered(
    scope: &Scope,
    record: &idempotency::Record,
    fingerprint: quorate_types::Fingerprint,
) -> Result<Committed, Refusal> {
    let key = scope.key.clone();
    match &record.kind {
        Kind::Cancelled {} => Err(Refusal::Cancelled { key }),
        Kind::Claimed { .. } | Kind::Completed { .. } => Err(Refusal::Claimed { key }),
        Kind::Answered { .. } if record.fingerprint != fingerprint => Err(Refusal::OtherRequest { key }),
        Kind::Answered { answer } => Ok(idempotency::answer(answer)),
    }
}
