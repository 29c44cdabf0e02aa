//! The machine beside a naive model of it, on random commands with steps of time.
//!
//! The model keeps plain lists and looks through all of them: a commit that fails is undone by going back to a copy, a limit
//! is the list of everything ever taken from it, a state at a revision is found by reading every change ever made. After
//! each entry outcomes, events and all that can be read are compared; refused entries are compared, by digest, with the same
//! entry without its commands; snapshots are taken in small slices while entries go on, restored under another hash seed,
//! and the restored machine must decide the rest alike. (Streams and groups have a model of their own in `src/streams`.)

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use crate::common;

use common::*;
use proptest::prelude::*;
use quorate_machine::{Due, Event, Machine, Outputs};
use quorate_types::*;
use std::collections::{BTreeMap, BTreeSet};

const HISTORY_REVISIONS: u64 = 12;
const HISTORY_MS: u64 = 6000;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    value: Blob,
    created: u64,
    modified: u64,
    version: u64,
    lease: u64,
}

#[derive(Clone, Debug)]
struct Hold {
    lease: u64,
    request: u64,
    mode: LockMode,
    token: u64,
}

#[derive(Clone, Debug)]
struct Wait {
    lease: u64,
    request: u64,
    mode: LockMode,
    until: Option<u64>,
    number: u64,
}

#[derive(Clone, Debug)]
enum Kept {
    Answer(Box<Committed>),
    Claim { token: u64, lease: u64 },
    Done(Blob),
    Cancelled,
}

#[derive(Clone, Debug)]
struct Record {
    fingerprint: Fingerprint,
    expires: u64,
    number: u64,
    kept: Kept,
}

#[derive(Clone, Debug)]
struct Task {
    /// Milliseconds of log time, or of wall time.
    due: Result<u64, u64>,
    principal: String,
    commit: Commit,
    on_refused: OnRefused,
    refused: u32,
}

#[derive(Clone, Default)]
struct Model {
    revision: u64,
    time: u64,
    wall: u64,
    keys: BTreeMap<Key, Row>,
    /// Every change ever: revision, log time, key, what it became.
    changes: Vec<(u64, u64, Key, Option<Row>)>,
    /// How many of them the machine has forgotten, and the newest revision among those.
    forgotten: usize,
    compacted: u64,
    /// Time to live and deadline.
    leases: BTreeMap<u64, (u64, u64)>,
    holds: BTreeMap<String, Vec<Hold>>,
    waits: BTreeMap<String, Vec<Wait>>,
    next_wait: u64,
    records: BTreeMap<(String, String), Record>,
    next_record: u64,
    /// Everything ever taken: limit, policy, when, how much.
    takes: Vec<(String, LimitPolicy, u64, u64)>,
    slots: BTreeSet<(String, u64, String)>,
    tasks: BTreeMap<String, Task>,
    streams: BTreeMap<Key, u64>,
    /// The seed of the entry.
    seed: u64,
    /// Numbers given to producers.
    given: Vec<u64>,
    transactions: BTreeMap<String, Transaction>,
    /// How often streams were deleted.
    deleted: BTreeMap<Key, u64>,
    /// Every batch that a producer has numbered, ever: stream, producer, epoch, first record, records, offset; [`HELD`] without.
    numbered: Vec<(Key, u64, u16, u32, u32, u64)>,
    moved: bool,
    freed: BTreeSet<String>,
    granted: Vec<String>,
    events: Vec<Event>,
}

/// Stands for the offset of a batch that a transaction holds, or held.
const HELD: u64 = u64::MAX;

/// A name of transactions.
#[derive(Clone, Debug, Default)]
struct Transaction {
    producer: u64,
    epoch: u16,
    before: Option<(ProducerId, u16)>,
    timeout: u64,
    /// When it is dropped, while it is open.
    until: Option<u64>,
    /// Whether the last one ended well.
    ended: Option<bool>,
    /// Streams, each with how often one of its name was deleted before.
    named: BTreeSet<(Key, u64)>,
    held: Vec<((Key, u64), u32)>,
    riders: Vec<Commit>,
}

/// A refusal, without the words.
#[derive(Clone, Debug, PartialEq)]
enum No {
    Guards(Vec<u32>),
    Operation(u32),
    Other,
}

/// An outcome as far as the model tells it.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Committed(Box<Committed>),
    No(No),
    Plain(Outcome),
}

fn told(outcome: &Outcome) -> Told {
    match outcome {
        Outcome::Committed { committed } => Told::Committed(Box::new(plain(committed))),
        Outcome::Resolved { resolution: Resolution::Committed { committed } } => {
            Told::Committed(Box::new(plain(committed)))
        }
        Outcome::Refused { refusal } => Told::No(match refusal {
            Refusal::Guards { failed } => No::Guards(failed.iter().map(|(number, _)| *number).collect()),
            Refusal::Operation { op, .. } => No::Operation(*op),
            _ => No::Other,
        }),
        other => Told::Plain(other.clone()),
    }
}

/// Without the parts of limit reports that other tests look at, and without the words of failures.
fn plain(committed: &Committed) -> Committed {
    let mut plain = committed.clone();
    for report in &mut plain.limits {
        (report.retry_after, report.reset) = (Millis(0), Millis(0));
    }
    plain.results.iter_mut().for_each(wordless);
    plain
}

fn wordless(result: &mut OpResult) {
    match result {
        OpResult::Failed { error } => *error = no_error(),
        OpResult::Nested { results, .. } => results.iter_mut().for_each(wordless),
        _ => {}
    }
}

fn no_error() -> OpError {
    OpError::LeaseMissing { lease: LeaseId(0) }
}

impl Model {
    fn lease_live(&self, lease: u64) -> Result<(), ()> {
        if self.leases.contains_key(&lease) { Ok(()) } else { Err(()) }
    }

    fn next_revision(&mut self) -> u64 {
        self.moved = true;
        self.revision + 1
    }

    fn write(&mut self, key: &Key, value: Option<(Blob, u64)>) {
        let revision = self.next_revision();
        let before = self.keys.remove(key);
        let row = value.map(|(value, lease)| Row {
            value,
            created: before.as_ref().map_or(revision, |row| row.created),
            modified: revision,
            version: before.map_or(1, |row| row.version + 1),
            lease,
        });
        if let Some(row) = &row {
            self.keys.insert(key.clone(), row.clone());
        }
        self.changes.push((revision, self.time, key.clone(), row));
    }

    fn state_at(&self, revision: u64) -> BTreeMap<Key, Row> {
        let mut state = BTreeMap::new();
        for (_, _, key, row) in self.changes.iter().filter(|(at, ..)| *at <= revision) {
            match row {
                Some(row) => state.insert(key.clone(), row.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    fn range(&self, read: &RangeRead) -> Result<Vec<KeyValue>, ()> {
        let shown = self.revision + u64::from(self.moved);
        let at = read.at.map_or(shown, |at| at.0);
        if at < self.compacted || at > shown {
            return Err(());
        }
        let state = self.state_at(at);
        Ok(state
            .iter()
            .filter(|(key, _)| read.range.contains(key))
            .map(|(key, row)| view(key, row))
            .collect())
    }

    fn within(&self, range: &KeyRange) -> impl Iterator<Item = &Row> {
        self.keys.iter().filter(|(key, _)| range.contains(key)).map(|(_, row)| row)
    }

    fn select(&self, select: &Select) -> Result<OpResult, ()> {
        let at = RangeRead { at: select.at, ..RangeRead::of(select.range.clone()) };
        let mut keys = self.range(&at)?;
        let count = keys.len() as u64;
        let limit = if select.limit == 0 { usize::MAX } else { select.limit as usize };
        let bounded = [select.modified, select.created].iter().any(|bound| bound.0.0 + bound.1.0 > 0);
        if select.order.is_none() && !bounded {
            keys.truncate(limit.saturating_add(1));
        }
        let fits =
            |(min, max): (Revision, Revision), found: Revision| found >= min && (max.0 == 0 || found <= max);
        keys.retain(|key| {
            fits(select.modified, key.mod_revision) && fits(select.created, key.create_revision)
        });
        match select.sort {
            Sort::Key => {}
            Sort::Version => keys.sort_by_key(|key| key.version),
            Sort::Create => keys.sort_by_key(|key| key.create_revision),
            Sort::Mod => keys.sort_by_key(|key| key.mod_revision),
            Sort::Value => keys.sort_by_key(|key| key.value.clone()),
        }
        if select.order == Some(Order::Descending) {
            // Equal ones stay in the order of their names.
            let mut groups: Vec<Vec<KeyValue>> = vec![];
            let same = |a: &KeyValue, b: &KeyValue| match select.sort {
                Sort::Key => false,
                Sort::Version => a.version == b.version,
                Sort::Create => a.create_revision == b.create_revision,
                Sort::Mod => a.mod_revision == b.mod_revision,
                Sort::Value => a.value == b.value,
            };
            for key in keys {
                match groups.last_mut() {
                    Some(group) if same(&group[0], &key) => group.push(key),
                    _ => groups.push(vec![key]),
                }
            }
            keys = groups.into_iter().rev().flatten().collect();
        }
        let more = keys.len() > limit && !select.count_only;
        keys.truncate(if select.count_only { 0 } else { limit });
        if select.keys_only {
            keys.iter_mut().for_each(|key| key.value = Blob::EMPTY);
        }
        Ok(OpResult::Keys { keys, count, more })
    }

    // Locks.

    fn fits(&self, lock: &str, mode: LockMode) -> bool {
        let holds = self.holds.get(lock).map_or(&[][..], Vec::as_slice);
        match (holds.first().map(|hold| hold.mode), mode) {
            (None, _) | (Some(LockMode::Shared), LockMode::Shared) => true,
            (Some(LockMode::Semaphore { permits }), LockMode::Semaphore { .. }) => {
                holds.len() < permits as usize
            }
            _ => false,
        }
    }

    /// The token if it is held already, the place in the queue if it has to wait, or nothing if it is free.
    fn ask(
        &self,
        lock: &str,
        lease: u64,
        request: u64,
        mode: LockMode,
    ) -> Result<Result<u64, Option<u64>>, ()> {
        self.lease_live(lease)?;
        let counted = |mode| matches!(mode, LockMode::Semaphore { .. });
        let holds: Vec<&Hold> =
            self.holds.get(lock).into_iter().flatten().filter(|h| h.lease == lease).collect();
        let waits = self.waits.get(lock).map_or(&[][..], Vec::as_slice);
        if let Some(hold) = holds.iter().find(|hold| hold.request == request) {
            return Ok(Ok(hold.token));
        }
        if let Some(place) = waits.iter().position(|wait| wait.lease == lease && wait.request == request) {
            return Ok(Err(Some(place as u64)));
        }
        let mine = waits.iter().filter(|wait| wait.lease == lease).map(|wait| wait.mode);
        if holds.iter().map(|hold| hold.mode).chain(mine).any(|other| !counted(mode) || !counted(other)) {
            return Err(());
        }
        Ok(Err((!waits.is_empty() || !self.fits(lock, mode)).then_some(waits.len() as u64)))
    }

    fn grant(&mut self, lock: &str, lease: u64, request: u64, mode: LockMode) -> u64 {
        self.write(&lock_row(lock, lease, request, mode), Some((Blob::EMPTY, lease)));
        let token = self.revision + 1;
        let holds = self.holds.entry(lock.into()).or_default();
        let mode = match (holds.first(), mode) {
            (Some(first), LockMode::Semaphore { .. }) => first.mode,
            _ => mode,
        };
        holds.push(Hold { lease, request, mode, token });
        self.granted.push(lock.into());
        token
    }

    fn release(&mut self, lock: &str, token: u64) -> Result<(), ()> {
        let holds = self.holds.get_mut(lock).ok_or(())?;
        let place = holds.iter().position(|hold| hold.token == token).ok_or(())?;
        let hold = holds.remove(place);
        if holds.is_empty() {
            self.holds.remove(lock);
        }
        self.write(&lock_row(lock, hold.lease, hold.request, hold.mode), None);
        self.freed.insert(lock.into());
        Ok(())
    }

    fn end_wait(&mut self, lock: &str, number: u64) {
        let waits = self.waits.get_mut(lock).unwrap();
        let place = waits.iter().position(|wait| wait.number == number).unwrap();
        let wait = waits.remove(place);
        if waits.is_empty() {
            self.waits.remove(lock);
        }
        self.write(&lock_row(lock, wait.lease, wait.request, wait.mode), None);
        self.freed.insert(lock.into());
        self.events.push(Event::WaitEnded {
            lock: lock.into(),
            lease: LeaseId(wait.lease),
            request: wait.request,
            error: no_error(),
        });
    }

    fn end_lease(&mut self, lease: u64) {
        self.leases.remove(&lease);
        let mut waits: Vec<(String, u64, u64)> = vec![];
        let mut holds: Vec<(String, u64, u64)> = vec![];
        for (lock, queue) in &self.waits {
            waits.extend(
                queue.iter().filter(|w| w.lease == lease).map(|w| (lock.clone(), w.request, w.number)),
            );
        }
        for (lock, held) in &self.holds {
            holds
                .extend(held.iter().filter(|h| h.lease == lease).map(|h| (lock.clone(), h.request, h.token)));
        }
        waits.sort();
        for (lock, _, number) in waits {
            self.end_wait(&lock, number);
        }
        holds.sort();
        for (lock, _, token) in holds {
            self.release(&lock, token).unwrap();
        }
        self.slots.retain(|(_, of, _)| *of != lease);
        self.records.retain(|_, record| !matches!(record.kept, Kept::Claim { lease: of, .. } if of == lease));
        let keys: Vec<Key> =
            self.keys.iter().filter(|(_, row)| row.lease == lease).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.write(&key, None);
        }
        self.events.push(Event::LeaseEnded { lease: LeaseId(lease) });
    }

    // Limits: by all that was ever taken.

    /// What is left for a limit, by going through its whole life.
    fn left(&self, name: &str, policy: LimitPolicy) -> u64 {
        // What was taken under another policy of another kind began it anew; each name has one policy here.
        let takes: Vec<(u64, u64)> =
            self.takes.iter().filter(|(of, ..)| of == name).map(|(_, _, at, cost)| (*at, *cost)).collect();
        let within = |from: u64, to: u64| -> u64 {
            takes.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, cost)| *cost).sum()
        };
        match policy {
            LimitPolicy::Bucket { count, period, burst } => {
                // A bucket of `burst` units that fills by `count` per period, in units of 1/period.
                let (mut level, mut last) = (burst * period.0, 0);
                for (at, cost) in takes.into_iter().chain([(self.time, 0)]) {
                    level = (level + (at - last) * count).min(burst * period.0) - cost * period.0;
                    last = at;
                }
                level / period.0
            }
            LimitPolicy::FixedWindow { count, window } => {
                let start = self.time / window.0 * window.0;
                count - within(start, start + window.0)
            }
            LimitPolicy::SlidingWindow { count, window } => {
                let start = self.time / window.0 * window.0;
                let before = if start == 0 { 0 } else { within(start - window.0, start) };
                let share = (before * (start + window.0 - self.time)).div_ceil(window.0);
                (count - within(start, start + window.0)).saturating_sub(share)
            }
        }
    }

    /// No stretch of time ever saw more than the policy allows.
    fn check_limits(&self) {
        for (name, policy, from, _) in &self.takes {
            let LimitPolicy::Bucket { count, period, burst } = *policy else { continue };
            let mut sum = 0;
            for (_, _, at, cost) in self.takes.iter().filter(|(of, _, at, _)| of == name && at >= from) {
                sum += cost;
                assert!(
                    sum * period.0 <= burst * period.0 + (at - from) * count,
                    "{name}: {sum} from {from} to {at}"
                );
            }
        }
    }

    // Commits.

    fn guard(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Key { key, field, compare, wanted } => {
                let found = self.keys.get(key).map_or(0, |row| number(row, *field));
                compare.holds(&found, wanted)
            }
            Guard::Value { key, compare, wanted } => {
                self.keys.get(key).is_some_and(|row| compare.holds(&row.value, wanted))
            }
            Guard::Keys { range, field, compare, wanted } => {
                let mut found: Vec<u64> = self.within(range).map(|row| number(row, *field)).collect();
                if found.is_empty() {
                    found.push(0);
                }
                found.iter().all(|found| compare.holds(found, wanted))
            }
            Guard::Values { range, compare, wanted } => {
                self.within(range).count() > 0
                    && self.within(range).all(|row| compare.holds(&row.value, wanted))
            }
            Guard::RangeUnchanged { range, since } => {
                (self.compacted..=self.revision).contains(&since.0)
                    && !self.changes.iter().any(|(at, _, key, _)| *at > since.0 && range.contains(key))
            }
            Guard::Fence { lock, token } => {
                self.holds.get(&lock.to_string()).into_iter().flatten().any(|hold| hold.token == token.0)
            }
            Guard::Leadership { election, lease } => {
                self.holds.get(&election.to_string()).is_some_and(|holds| holds[0].lease == lease.0)
            }
            Guard::Limit { name, policy, cost } => *cost <= self.left(&name.to_string(), *policy),
            Guard::Slots { name, max, lease, slot } => {
                let key = (name.to_string(), lease.0, slot.to_string());
                let used = self.slots.iter().filter(|(of, ..)| *of == key.0).count() as u64;
                self.lease_live(lease.0).is_ok() && (self.slots.contains(&key) || used < *max)
            }
            Guard::StreamAt { stream, next, .. } => self.streams.get(stream).copied().unwrap_or(0) == next.0,
            Guard::NotAfter { deadline } => self.wall <= deadline.0,
        }
    }

    fn charge(&mut self, guard: &Guard) -> Option<LimitReport> {
        match guard {
            Guard::Limit { name, policy, cost } => {
                self.takes.push((name.to_string(), *policy, self.time, *cost));
                let limit = match *policy {
                    LimitPolicy::Bucket { burst, .. } => burst,
                    LimitPolicy::FixedWindow { count, .. } | LimitPolicy::SlidingWindow { count, .. } => {
                        count
                    }
                };
                let remaining = self.left(&name.to_string(), *policy);
                let name = name.clone();
                Some(LimitReport { name, limit, remaining, ..LimitReport::default() })
            }
            Guard::Slots { name, lease, slot, .. } => {
                self.slots.insert((name.to_string(), lease.0, slot.to_string()));
                None
            }
            _ => None,
        }
    }

    fn commit(&mut self, principal: &str, commit: &Commit) -> Result<Committed, No> {
        let remember =
            commit.idempotency.as_ref().map(|wanted| (principal.to_string(), wanted.key.to_string()));
        if let Some(record) = remember.as_ref().and_then(|key| self.records.get(key)) {
            let same = record.fingerprint == commit.idempotency.as_ref().unwrap().fingerprint;
            return match &record.kept {
                Kept::Answer(answer) if same => Ok(Committed { replayed: true, ..(**answer).clone() }),
                _ => Err(No::Other),
            };
        }
        let saved = self.clone();
        match self.guarded(principal, commit, remember.as_ref()) {
            Ok((branch, results, limits)) => {
                let revision = Revision(self.revision + u64::from(self.moved));
                let done = Committed { revision, branch, results, limits, replayed: false };
                if let Some(key) = remember {
                    let wanted = commit.idempotency.as_ref().unwrap();
                    self.remember(
                        key,
                        wanted.fingerprint,
                        wanted.ttl.0,
                        Kept::Answer(Box::new(done.clone())),
                    );
                }
                Ok(done)
            }
            Err(no) => {
                *self = saved;
                Err(no)
            }
        }
    }

    fn remember(&mut self, key: (String, String), fingerprint: Fingerprint, ttl: u64, kept: Kept) {
        let record = Record { fingerprint, expires: self.time + ttl, number: self.next_record, kept };
        self.next_record += 1;
        assert!(self.records.insert(key, record).is_none(), "a key is remembered once");
    }

    fn guarded(
        &mut self,
        principal: &str,
        commit: &Commit,
        mine: Option<&(String, String)>,
    ) -> Result<(Branch, Vec<OpResult>, Vec<LimitReport>), No> {
        if commit.mode == Mode::Foreseen {
            let (branch, results) = self.foreseen(principal, commit, mine)?;
            return Ok((branch, results, vec![]));
        }
        let mut failed: Vec<u32> =
            (0u32..).zip(&commit.guards).filter(|(_, guard)| !self.guard(guard)).map(|(n, _)| n).collect();
        let saved = self.clone();
        let mut limits = vec![];
        if failed.is_empty() {
            for (number, guard) in (0u32..).zip(&commit.guards) {
                let takes = matches!(guard, Guard::Limit { .. } | Guard::Slots { .. });
                if takes && !self.guard(guard) {
                    *self = saved.clone();
                    limits.clear();
                    failed = vec![number];
                    break;
                }
                limits.extend(self.charge(guard));
            }
        }
        let (branch, ops) = match (&commit.otherwise, failed.is_empty()) {
            (_, true) => (Branch::Then, &commit.then),
            (Some(ops), false) => (Branch::Else, ops),
            (None, false) => return Err(No::Guards(failed)),
        };
        let mut results = vec![];
        for (number, op) in (0u32..).zip(ops) {
            let saved = self.clone();
            match (self.op(principal, op, mine), commit.mode) {
                (Ok(result), _) => results.push(result),
                (Err(()), Mode::Atomic | Mode::Foreseen) => return Err(No::Operation(number)),
                (Err(()), Mode::Each | Mode::Apart) => {
                    *self = saved;
                    results.push(OpResult::Failed { error: no_error() });
                }
            }
        }
        Ok((branch, results, limits))
    }

    /// Everything is decided by `self` as it is now, and done to a copy.
    fn foreseen(
        &mut self,
        principal: &str,
        commit: &Commit,
        mine: Option<&(String, String)>,
    ) -> Result<(Branch, Vec<OpResult>), No> {
        let before = self.clone();
        for checked in [Model::written, Model::shown] {
            before.checked(commit, checked).map_err(No::Operation)?;
        }
        self.along(&before, principal, commit, mine).map_err(No::Operation)
    }

    fn runs<'a>(&self, commit: &'a Commit) -> (Branch, &'a [Op]) {
        if commit.guards.iter().all(|guard| self.guard(guard)) {
            (Branch::Then, &commit.then)
        } else {
            (Branch::Else, commit.otherwise.as_deref().unwrap_or_default())
        }
    }

    fn checked(&self, commit: &Commit, check: fn(&Self, &Op) -> bool) -> Result<(), u32> {
        for (number, op) in (0u32..).zip(self.runs(commit).1) {
            let fine = match op {
                Op::Nested { commit } => self.checked(commit, check).is_ok(),
                op => check(self, op),
            };
            if !fine {
                return Err(number);
            }
        }
        Ok(())
    }

    fn written(&self, op: &Op) -> bool {
        let Op::Write { key, value, lease, .. } = op else { return true };
        let whole = value.is_some() && lease.is_some();
        (whole || self.keys.contains_key(key))
            && lease.is_none_or(|lease| lease.0 == 0 || self.lease_live(lease.0).is_ok())
    }

    fn shown(&self, op: &Op) -> bool {
        let Op::Select { select } = op else { return true };
        let oldest = if self.compacted == 0 { 0 } else { self.compacted + 1 };
        select.at.is_none_or(|at| (oldest..=self.revision).contains(&at.0))
    }

    fn along(
        &mut self,
        before: &Self,
        principal: &str,
        commit: &Commit,
        mine: Option<&(String, String)>,
    ) -> Result<(Branch, Vec<OpResult>), u32> {
        let (branch, ops) = before.runs(commit);
        let mut results = vec![];
        for (number, op) in (0u32..).zip(ops) {
            results.push(match op {
                Op::Nested { commit } => {
                    let (branch, results) =
                        self.along(before, principal, commit, mine).map_err(|_| number)?;
                    OpResult::Nested { branch, results }
                }
                op => self.op(principal, op, mine).map_err(|()| number)?,
            });
        }
        Ok((branch, results))
    }

    fn op(&mut self, principal: &str, op: &Op, mine: Option<&(String, String)>) -> Result<OpResult, ()> {
        let done = Ok(OpResult::Done {});
        match op {
            Op::Get { key } => Ok(OpResult::Key { found: self.keys.get(key).map(|row| view(key, row)) }),
            Op::Range { read } => {
                let keys = self.range(read)?;
                Ok(OpResult::Keys { count: keys.len() as u64, keys, more: false })
            }
            Op::Put { key, value, lease, prev } => {
                if lease.0 != 0 {
                    self.lease_live(lease.0)?;
                }
                if self.streams.contains_key(key) {
                    return Err(());
                }
                let before = self.keys.get(key).map(|row| view(key, row));
                self.write(key, Some((value.clone(), lease.0)));
                Ok(if *prev { OpResult::Key { found: before } } else { OpResult::Done {} })
            }
            Op::Delete { key, prev } => {
                let before = self.keys.get(key).map(|row| view(key, row));
                if before.is_some() {
                    self.write(key, None);
                }
                Ok(deleted(before.into_iter().collect(), *prev))
            }
            Op::DeleteRange { range, prev } => {
                let gone: Vec<KeyValue> = self
                    .keys
                    .iter()
                    .filter(|(key, _)| range.contains(key))
                    .map(|(key, row)| view(key, row))
                    .collect();
                for row in &gone {
                    self.write(&row.key, None);
                }
                Ok(deleted(gone, *prev))
            }
            Op::Select { select } => self.select(select),
            Op::Write { key, value, lease, prev, .. } => {
                let row = self.keys.get(key);
                let value = value.clone().or_else(|| row.map(|row| row.value.clone())).ok_or(())?;
                let lease = lease.map(|lease| lease.0).or_else(|| row.map(|row| row.lease)).ok_or(())?;
                self.op(
                    principal,
                    &Op::Put { key: key.clone(), value, lease: LeaseId(lease), prev: *prev },
                    mine,
                )
            }
            Op::Erase { range, prev } => {
                self.op(principal, &Op::DeleteRange { range: range.clone(), prev: *prev }, mine)
            }
            Op::Increment { key, by, min, max } => {
                if self.streams.contains_key(key) {
                    return Err(());
                }
                let row = self.keys.get(key);
                let found: i64 = row.map_or(Ok(0), |row| row.value.to_string().parse()).map_err(drop)?;
                let lease = row.map_or(0, |row| row.lease);
                let value = found.checked_add(*by).filter(|sum| (min..=max).contains(&sum)).ok_or(())?;
                self.write(key, Some((value.to_string().into(), lease)));
                Ok(OpResult::Number { value })
            }
            Op::Append { append } => {
                if self.keys.contains_key(&append.stream) {
                    return Err(());
                }
                let next = self.streams.entry(append.stream.clone()).or_default();
                let first = Offset(*next);
                *next += u64::from(append.records);
                let next = Offset(*next);
                self.next_revision();
                self.events.push(Event::StreamAppended { stream: append.stream.clone(), partition: 0 });
                Ok(OpResult::Appended { partition: 0, first, next })
            }
            Op::Produce { produce } => match &**produce {
                Produce::Begin {} => Ok(OpResult::Producer { producer: ProducerId(self.give()), epoch: 0 }),
                Produce::Append { append, by } => self.append_once(principal, append, *by),
                Produce::TakeOver { name, timeout, known } => self.take_over(name, timeout.0, *known),
                Produce::Enlist { author, parts, .. } => self.enlist(author, parts),
                Produce::Hold { name, append, by } => self.hold(name, append, *by),
                Produce::AppendWith { append, by, rider } => {
                    self.append_with(principal, append, *by, rider, mine.is_some())
                }
                Produce::HoldWith { name, append, by, rider } => {
                    let again = self.numbered.len();
                    let result = self.hold(name, append, *by)?;
                    if self.numbered.len() > again {
                        self.hold_rider(name, by.producer, by.epoch, rider)?;
                    }
                    Ok(result)
                }
                Produce::HoldOffsets { .. } => unreachable!("groups have tests of their own"),
                Produce::End { author, commits } => {
                    self.end_with(principal, author, *commits, mine.is_some())
                }
            },
            Op::DeleteStream { stream } => {
                self.streams.remove(stream).ok_or(())?;
                self.numbered.retain(|(of, ..)| of != stream);
                *self.deleted.entry(stream.clone()).or_default() += 1;
                self.next_revision();
                done
            }
            Op::LeaseGrant { lease, ttl } => {
                if self.leases.contains_key(&lease.0) {
                    return Err(());
                }
                self.leases.insert(lease.0, (ttl.0, self.time + ttl.0));
                Ok(OpResult::Lease { lease: *lease, ttl: *ttl, left: *ttl })
            }
            Op::LeaseKeepAlive { lease } => {
                let ttl = Millis(self.keep_alive(lease.0).ok_or(())?);
                Ok(OpResult::Lease { lease: *lease, ttl, left: ttl })
            }
            Op::LeaseRevoke { lease } => {
                self.lease_live(lease.0)?;
                self.end_lease(lease.0);
                done
            }
            Op::LeaseInfo { lease } => {
                let (ttl, deadline) = *self.leases.get(&lease.0).ok_or(())?;
                let left = Millis(deadline.saturating_sub(self.time));
                Ok(OpResult::Lease { lease: *lease, ttl: Millis(ttl), left })
            }
            Op::Acquire { lock, lease, mode, request, .. } => {
                match self.ask(&lock.to_string(), lease.0, *request, *mode)? {
                    Ok(token) => Ok(OpResult::Token { token: FencingToken(token) }),
                    Err(Some(_)) => Err(()),
                    Err(None) if self.granted.contains(&lock.to_string()) => Err(()),
                    Err(None) => {
                        let token = self.grant(&lock.to_string(), lease.0, *request, *mode);
                        Ok(OpResult::Token { token: FencingToken(token) })
                    }
                }
            }
            Op::Release { lock, token } => {
                self.release(&lock.to_string(), token.0)?;
                done
            }
            Op::Schedule { task, when, commit, on_refused } => {
                let due = match when {
                    When::In { after } => Ok(self.time + after.0),
                    When::At { time } => Err(time.0),
                };
                let row = Task {
                    due,
                    principal: principal.into(),
                    commit: (**commit).clone(),
                    on_refused: on_refused.clone(),
                    refused: 0,
                };
                Ok(OpResult::Scheduled { replaced: self.tasks.insert(task.to_string(), row).is_some() })
            }
            Op::Cancel { task } => self.tasks.remove(&task.to_string()).map(|_| OpResult::Done {}).ok_or(()),
            Op::Register { service, instance, lease, info } => {
                self.lease_live(lease.0)?;
                let value = Blob::from(codec::encode(info));
                self.write(&service_row(service, instance), Some((value, lease.0)));
                done
            }
            Op::Deregister { service, instance } => {
                let key = service_row(service, instance);
                if !self.keys.contains_key(&key) {
                    return Err(());
                }
                self.write(&key, None);
                done
            }
            Op::Claim { key, ttl, lease, fingerprint } => {
                if lease.0 != 0 {
                    self.lease_live(lease.0)?;
                }
                let scope = (principal.to_string(), key.to_string());
                if mine == Some(&scope) {
                    return Err(());
                }
                if let Some(record) = self.records.get(&scope) {
                    return match &record.kept {
                        Kept::Done(answer) if record.fingerprint == *fingerprint => {
                            Ok(OpResult::Claim { answer: Some(answer.clone()), token: FencingToken(0) })
                        }
                        _ => Err(()),
                    };
                }
                let token = self.next_record + 1;
                self.remember(scope, *fingerprint, ttl.0, Kept::Claim { token, lease: lease.0 });
                Ok(OpResult::Claim { answer: None, token: FencingToken(token) })
            }
            Op::Complete { key, token, answer } => {
                let record = self.records.get_mut(&(principal.to_string(), key.to_string())).ok_or(())?;
                if !matches!(record.kept, Kept::Claim { token: held, .. } if held == token.0) {
                    return Err(());
                }
                record.kept = Kept::Done(answer.clone());
                done
            }
            Op::FreeSlot { name, lease, slot } => {
                let there = self.slots.remove(&(name.to_string(), lease.0, slot.to_string()));
                if there { done } else { Err(()) }
            }
            Op::Nested { commit } => {
                let (branch, results, _) = self.guarded(principal, commit, mine).map_err(drop)?;
                Ok(OpResult::Nested { branch, results })
            }
            other => unreachable!("the generator makes no {other:?}"),
        }
    }

    fn give(&mut self) -> u64 {
        let drawn = xxhash_rust::xxh3::xxh3_64(&self.seed.to_le_bytes()) >> 44;
        let producer = (self.given.len() as u64) << 20 | drawn;
        self.given.push(producer);
        producer
    }

    fn take_over(
        &mut self,
        name: &Blob,
        timeout: u64,
        known: Option<(ProducerId, u16)>,
    ) -> Result<OpResult, ()> {
        let told = |producer: u64, epoch| Ok(OpResult::Producer { producer: ProducerId(producer), epoch });
        let found = self.transactions.get(&name.to_string()).cloned();
        let (producer, epoch) = match &found {
            None => (self.give(), 0),
            Some(found) if known.is_some() && found.before == known => {
                return told(found.producer, found.epoch);
            }
            Some(found) => {
                if known.is_some_and(|(producer, epoch)| (producer.0, epoch) != (found.producer, found.epoch))
                {
                    return Err(());
                }
                (found.producer, found.epoch + 1)
            }
        };
        let before = if found.is_some() { known } else { None };
        let taken = Transaction { producer, epoch, before, timeout, ..Transaction::default() };
        self.transactions.insert(name.to_string(), taken);
        told(producer, epoch)
    }

    fn owned(&mut self, name: &Blob, producer: ProducerId, epoch: u16) -> Result<&mut Transaction, ()> {
        let found = self.transactions.get_mut(&name.to_string());
        found.filter(|found| (found.producer, found.epoch) == (producer.0, epoch)).ok_or(())
    }

    fn place(&self, stream: &Key) -> Result<(Key, u64), ()> {
        let deleted = self.deleted.get(stream).copied().unwrap_or(0);
        self.streams.get(stream).map(|_| (stream.clone(), deleted)).ok_or(())
    }

    fn enlist(&mut self, author: &Author, parts: &[(Key, u32)]) -> Result<OpResult, ()> {
        let places: Vec<_> = parts.iter().map(|(stream, _)| self.place(stream)).collect::<Result<_, _>>()?;
        let now = self.time;
        let found = self.owned(&author.name, author.producer, author.epoch)?;
        if found.until.is_none() {
            found.named.clear();
            found.ended = None;
            found.until = Some(now + found.timeout);
        }
        found.named.extend(places);
        Ok(OpResult::Done {})
    }

    fn hold(&mut self, name: &Blob, append: &Append, by: Numbered) -> Result<OpResult, ()> {
        let place = self.place(&append.stream)?;
        let found = self.owned(name, by.producer, by.epoch)?.clone();
        let mine = |batch: &&(Key, u64, u16, u32, u32, u64)| {
            (&batch.0, batch.1, batch.2) == (&append.stream, by.producer.0, by.epoch)
        };
        let newest =
            self.numbered.iter().filter(|batch| (&batch.0, batch.1) == (&append.stream, by.producer.0));
        if newest.map(|batch| batch.2).max().is_some_and(|newest| by.epoch < newest) {
            return Err(());
        }
        let alike: Vec<_> = self.numbered.iter().filter(mine).collect();
        let mut last = alike.iter().rev().take(5);
        if last.any(|batch| (batch.3, batch.4) == (by.first, append.records)) {
            return Ok(OpResult::Done {});
        }
        let follows = by.first == alike.last().map_or(0, |last| last.3 + last.4);
        if !follows || found.until.is_none() || !found.named.contains(&place) {
            return Err(());
        }
        let batch = (append.stream.clone(), by.producer.0, by.epoch, by.first, append.records, HELD);
        self.numbered.push(batch);
        self.owned(name, by.producer, by.epoch)?.held.push((place, append.records));
        Ok(OpResult::Done {})
    }

    fn end_transaction(&mut self, author: &Author, commits: bool) -> Result<OpResult, ()> {
        let found = self.owned(&author.name, author.producer, author.epoch)?;
        if found.until.take().is_none() {
            return if found.ended == Some(commits) { Ok(OpResult::Done {}) } else { Err(()) };
        }
        found.ended = Some(commits);
        let held = std::mem::take(&mut found.held);
        let mut grown = BTreeSet::new();
        for (place, records) in held {
            if commits && self.place(&place.0) == Ok(place.clone()) {
                *self.streams.get_mut(&place.0).unwrap() += u64::from(records);
                grown.insert(place.0);
            }
        }
        for stream in grown {
            self.next_revision();
            self.events.push(Event::StreamAppended { stream, partition: 0 });
        }
        Ok(OpResult::Done {})
    }

    fn hold_rider(
        &mut self,
        name: &Blob,
        producer: ProducerId,
        epoch: u16,
        rider: &Commit,
    ) -> Result<(), ()> {
        let found = self.owned(name, producer, epoch)?;
        let key = |rider: &Commit| rider.idempotency.as_ref().map(|of| of.key.clone());
        let others: Vec<_> = found.riders.iter().filter_map(key).collect();
        if key(rider).is_some_and(|mine| others.iter().any(|other| *other != mine)) {
            return Err(());
        }
        found.riders.push(rider.clone());
        Ok(())
    }

    /// The riders of a transaction are one commit with its end, or stay with it.
    fn end_with(
        &mut self,
        principal: &str,
        author: &Author,
        commits: bool,
        keyed: bool,
    ) -> Result<OpResult, ()> {
        let found = self.owned(&author.name, author.producer, author.epoch)?;
        let open = found.until.is_some();
        let riders = if open { std::mem::take(&mut found.riders) } else { Vec::new() };
        if !commits || riders.is_empty() {
            return self.end_transaction(author, commits);
        }
        let end = Produce::End { author: author.clone(), commits };
        let mut whole = Commit::of(vec![Op::Produce { produce: Box::new(end) }]);
        for rider in riders {
            whole.guards.extend(rider.guards);
            whole.then.extend(rider.then);
            if let Some(next) = rider.idempotency {
                let before =
                    whole.idempotency.take().map_or(0, |of: quorate_types::Idempotency| of.fingerprint.0);
                let fingerprint = Fingerprint(next.fingerprint.0.wrapping_add(before));
                whole.idempotency = Some(quorate_types::Idempotency { fingerprint, ..next });
            }
        }
        if keyed && whole.idempotency.is_some() {
            return Err(());
        }
        if self.commit(principal, &whole).map_err(drop)?.replayed {
            let found = self.owned(&author.name, author.producer, author.epoch)?;
            (found.until, found.ended) = (None, Some(true));
            found.held.clear();
        }
        Ok(OpResult::Done {})
    }

    fn append_with(
        &mut self,
        principal: &str,
        append: &Append,
        by: Option<Numbered>,
        rider: &Commit,
        keyed: bool,
    ) -> Result<OpResult, ()> {
        let mut whole = rider.clone();
        let Some(by) = by else {
            whole.then.insert(0, Op::Append { append: append.clone() });
            if !self.streams.contains_key(&append.stream) || keyed && rider.idempotency.is_some() {
                return Err(());
            }
            return Ok(self.commit(principal, &whole).map_err(drop)?.results.remove(0));
        };
        let before = (self.clone(), self.numbered.len());
        // As without a rider, to know whether it may be appended at all, and whether it was.
        let plain = self.append_once(principal, append, by)?;
        if self.numbered.len() == before.1 {
            return Ok(plain);
        }
        *self = before.0;
        if keyed && rider.idempotency.is_some() {
            return Err(());
        }
        whole.then.insert(0, Op::Append { append: append.clone() });
        let result = self.commit(principal, &whole).map_err(drop)?.results.remove(0);
        let OpResult::Appended { first, .. } = result else { return Err(()) };
        self.numbered.push((
            append.stream.clone(),
            by.producer.0,
            by.epoch,
            by.first,
            append.records,
            first.0,
        ));
        Ok(result)
    }

    /// By all that was ever sent: no row, no epoch in force, nothing forgotten but what is further back than five batches.
    fn append_once(&mut self, principal: &str, append: &Append, by: Numbered) -> Result<OpResult, ()> {
        let (stream, producer) = (&append.stream, by.producer.0);
        if producer >> 20 >= self.given.len() as u64 || !self.streams.contains_key(stream) {
            return Err(());
        }
        let mine = |batch: &&(Key, u64, u16, u32, u32, u64)| (&batch.0, batch.1) == (stream, producer);
        let newest = self.numbered.iter().filter(mine).map(|batch| batch.2).max();
        if newest.is_some_and(|newest| by.epoch < newest) {
            return Err(());
        }
        let alike: Vec<_> = self.numbered.iter().filter(mine).filter(|batch| batch.2 == by.epoch).collect();
        let again = alike.iter().rev().take(5).find(|batch| (batch.3, batch.4) == (by.first, append.records));
        if let Some((.., HELD)) = again {
            return Ok(OpResult::Done {});
        }
        if let Some((.., first)) = again {
            let next = Offset(first + u64::from(append.records));
            return Ok(OpResult::Appended { partition: 0, first: Offset(*first), next });
        }
        if by.first != alike.last().map_or(0, |last| last.3 + last.4) {
            return Err(());
        }
        let result = self.op(principal, &Op::Append { append: append.clone() }, None)?;
        if let OpResult::Appended { first, .. } = result {
            self.numbered.push((stream.clone(), producer, by.epoch, by.first, append.records, first.0));
        }
        Ok(result)
    }

    fn keep_alive(&mut self, lease: u64) -> Option<u64> {
        let (ttl, deadline) = self.leases.get_mut(&lease)?;
        *deadline = (*deadline).max(self.time + *ttl);
        Some(*ttl)
    }

    // Entries.

    fn execute(&mut self, command: &Command) -> Told {
        let principal = command.principal.to_string();
        match &command.body {
            CommandBody::Commit { commit } => match self.commit(&principal, commit) {
                Ok(done) => Told::Committed(Box::new(done)),
                Err(no) => Told::No(no),
            },
            CommandBody::Wait { wait } => {
                let (lock, lease) = (wait.lock.to_string(), wait.lease.0);
                match self.ask(&lock, lease, wait.request, wait.mode) {
                    Err(()) => Told::No(No::Other),
                    Ok(Ok(token)) => Told::Plain(Outcome::Granted { token: FencingToken(token) }),
                    Ok(Err(None)) => {
                        let token = FencingToken(self.grant(&lock, lease, wait.request, wait.mode));
                        Told::Plain(Outcome::Granted { token })
                    }
                    Ok(Err(Some(ahead))) => {
                        let queue = self.waits.entry(lock.clone()).or_default();
                        if !queue.iter().any(|w| w.lease == lease && w.request == wait.request) {
                            let until = wait.timeout.map(|timeout| self.time + timeout.0);
                            let number = self.next_wait;
                            let (request, mode) = (wait.request, wait.mode);
                            queue.push(Wait { lease, request, mode, until, number });
                            self.next_wait += 1;
                            self.write(&lock_row(&lock, lease, request, mode), Some((Blob::EMPTY, lease)));
                        }
                        Told::Plain(Outcome::Queued { ahead })
                    }
                }
            }
            CommandBody::CancelWait { lock, lease, request } => {
                let lock = lock.to_string();
                let queue = self.waits.get(&lock).into_iter().flatten();
                match queue.clone().find(|w| w.lease == lease.0 && w.request == *request).map(|w| w.number) {
                    Some(number) => {
                        self.end_wait(&lock, number);
                        Told::Plain(Outcome::Done { revision: Revision(self.revision) })
                    }
                    None => Told::No(No::Other),
                }
            }
            CommandBody::KeepAlive { leases } => {
                let leases =
                    leases.iter().map(|lease| (*lease, self.keep_alive(lease.0).map(Millis))).collect();
                Told::Plain(Outcome::Alive { leases })
            }
            CommandBody::Resolve { key, ttl } => {
                let scope = (principal, key.to_string());
                let resolution = match self.records.get(&scope).map(|record| &record.kept) {
                    Some(Kept::Answer(answer)) => {
                        return Told::Committed(Box::new(Committed { replayed: true, ..(**answer).clone() }));
                    }
                    Some(Kept::Done(answer)) => Resolution::Completed { answer: answer.clone() },
                    Some(Kept::Claim { token, .. }) => Resolution::InProgress { token: FencingToken(*token) },
                    Some(Kept::Cancelled) => Resolution::Cancelled {},
                    None => {
                        self.remember(scope, Fingerprint::default(), ttl.0, Kept::Cancelled);
                        Resolution::Cancelled {}
                    }
                };
                Told::Plain(Outcome::Resolved { resolution })
            }
            CommandBody::Compact { before } => {
                if before.0 > self.revision + 1 || before.0 <= self.compacted {
                    return Told::No(No::Other);
                }
                while self.changes.get(self.forgotten).is_some_and(|(at, ..)| *at < before.0) {
                    self.forgotten += 1;
                }
                self.compacted = before.0 - 1;
                Told::Plain(Outcome::Done { revision: Revision(self.revision) })
            }
            other => unreachable!("the generator makes no {other:?}"),
        }
    }

    fn finish(&mut self) {
        self.revision += u64::from(std::mem::take(&mut self.moved));
        while let Some(lock) = self.freed.pop_first() {
            while let Some(wait) =
                self.waits.get(&lock).map(|queue| queue[0].clone()).filter(|w| self.fits(&lock, w.mode))
            {
                let queue = self.waits.get_mut(&lock).unwrap();
                queue.remove(0);
                if queue.is_empty() {
                    self.waits.remove(&lock);
                }
                let token = FencingToken(self.grant(&lock, wait.lease, wait.request, wait.mode));
                self.revision += u64::from(std::mem::take(&mut self.moved));
                let (lock, lease, request) = (lock.as_str().into(), LeaseId(wait.lease), wait.request);
                self.events.push(Event::Granted { lock, lease, request, token });
            }
        }
        self.granted.clear();
        while let Some((at, time, ..)) = self.changes.get(self.forgotten) {
            if at + HISTORY_REVISIONS >= self.revision && time + HISTORY_MS >= self.time {
                break;
            }
            self.compacted = self.compacted.max(*at);
            self.forgotten += 1;
        }
    }

    /// What is due first by log time: when, and which kind; of one kind the one that the machine names first.
    fn next_due(&self) -> Option<(u64, u8)> {
        let leases = self.leases.values().map(|(_, deadline)| (*deadline, 0));
        let waits = self.waits.values().flatten().filter_map(|wait| Some((wait.until?, 1)));
        let records = self.records.values().map(|record| (record.expires, 2));
        let tasks = self.tasks.values().filter_map(|task| Some((task.due.ok()?, 4)));
        let open = self.transactions.values().filter_map(|one| Some((one.until?, 11)));
        leases.chain(waits).chain(records).chain(tasks).chain(open).min()
    }

    fn expire(&mut self) {
        while let Some((at, kind)) = self.next_due().filter(|(at, _)| *at <= self.time) {
            match kind {
                0 => {
                    let lease = *self.leases.iter().find(|(_, (_, deadline))| *deadline == at).unwrap().0;
                    self.end_lease(lease);
                }
                1 => {
                    let due = |wait: &&Wait| wait.until == Some(at);
                    let found = self
                        .waits
                        .iter()
                        .find_map(|(lock, queue)| Some((lock.clone(), queue.iter().find(due)?.number)));
                    let (lock, number) = found.unwrap();
                    self.end_wait(&lock, number);
                }
                2 => {
                    let due = self.records.iter().filter(|(_, record)| record.expires == at);
                    let key = due.min_by_key(|(_, record)| record.number).unwrap().0.clone();
                    self.records.remove(&key);
                }
                11 => {
                    let one = self.transactions.values_mut().find(|one| one.until == Some(at)).unwrap();
                    let (producer, epoch, timeout) = (one.producer, one.epoch + 1, one.timeout);
                    let ended = Some(false);
                    *one = Transaction { producer, epoch, timeout, ended, ..Transaction::default() };
                }
                _ => {
                    let name = self.tasks.iter().find(|(_, task)| task.due == Ok(at)).unwrap().0.clone();
                    self.fire(&name);
                }
            }
            self.finish();
        }
        while let Some((_, name)) = self
            .tasks
            .iter()
            .filter_map(|(name, task)| Some((task.due.err()?, name.clone())))
            .min()
            .filter(|(at, _)| *at <= self.wall)
        {
            self.fire(&name);
            self.finish();
        }
        self.finish();
    }

    fn fire(&mut self, name: &str) {
        let mut task = self.tasks.remove(name).unwrap();
        self.finish();
        if self.commit(&task.principal.clone(), &task.commit).is_ok() {
            return;
        }
        task.refused += 1;
        match &task.on_refused {
            OnRefused::Drop => {}
            OnRefused::Retry { attempts, backoff } => {
                if task.refused < *attempts {
                    task.due = Ok(self.time + (backoff.0 << (task.refused - 1)));
                    self.tasks.insert(name.into(), task);
                }
            }
            OnRefused::DeadLetter { letter } => {
                let _ = self.op("", &Op::Append { append: (**letter).clone() }, None);
            }
        }
    }

    fn apply(&mut self, time: u64, wall: u64, seed: u64, commands: &[Command]) -> Vec<Told> {
        self.seed = seed;
        (self.time, self.wall) = (time, wall);
        self.events.clear();
        let alive = |command: &&Command| matches!(command.body, CommandBody::KeepAlive { .. });
        let head = commands.iter().take_while(alive).count();
        let mut outcomes: Vec<Told> = commands[..head].iter().map(|command| self.execute(command)).collect();
        self.expire();
        for command in &commands[head..] {
            outcomes.push(self.execute(command));
            self.finish();
        }
        outcomes
    }

    /// All that can be read of the machine is what the model says.
    fn compare(&self, machine: &Machine) {
        assert_eq!(machine.revision().0, self.revision, "revision");
        assert_eq!(machine.oldest_revision().0, self.compacted, "oldest revision");
        for space in [Keyspace::DEFAULT, Keyspace::LOCKS, Keyspace::SERVICES] {
            let range = KeyRange { start: Key { space, name: Blob::EMPTY }, end: None };
            let mut read = RangeRead::of(range.clone());
            assert_eq!(machine.range(&read).unwrap().keys, self.range(&read).unwrap(), "keys");
            for at in self.compacted..=self.revision {
                read.at = Some(Revision(at));
                assert_eq!(machine.range(&read).unwrap().keys, self.range(&read).unwrap(), "keys at {at}");
            }
            let told = machine.changes(&range, Revision(self.compacted + 1), usize::MAX).unwrap().changes;
            let told: Vec<(u64, Key, Option<KeyValue>)> =
                told.into_iter().map(|change| (change.revision.0, change.key, change.now)).collect();
            let wanted: Vec<(u64, Key, Option<KeyValue>)> = self
                .changes
                .iter()
                .filter(|(at, _, key, _)| *at > self.compacted && range.contains(key))
                .map(|(at, _, key, row)| (*at, key.clone(), row.as_ref().map(|row| view(key, row))))
                .collect();
            assert_eq!(told, wanted, "changes");
        }
        assert_eq!(machine.sizes().keys as usize, self.keys.len(), "count of keys");
        let leases: Vec<(u64, u64)> =
            machine.leases().map(|l| (l.0, machine.lease(l).unwrap().left.0)).collect();
        let wanted: Vec<(u64, u64)> =
            self.leases.iter().map(|(l, (_, deadline))| (*l, deadline - self.time)).collect();
        assert_eq!(leases, wanted, "leases");
        let locks: BTreeSet<String> = machine.locks().map(ToString::to_string).collect();
        assert_eq!(locks, self.holds.keys().chain(self.waits.keys()).cloned().collect(), "locks");
        for lock in &locks {
            let found = machine.lock(&lock.as_str().into()).unwrap();
            let holders: Vec<(u64, u64, u64)> =
                found.holders.iter().map(|h| (h.lease.0, h.request, h.token.0)).collect();
            let wanted: Vec<(u64, u64, u64)> =
                self.holds.get(lock).into_iter().flatten().map(|h| (h.lease, h.request, h.token)).collect();
            assert_eq!(holders, wanted, "holders of {lock}");
            let queue: Vec<(u64, u64)> = found.waiting.iter().map(|w| (w.lease.0, w.request)).collect();
            let wanted: Vec<(u64, u64)> =
                self.waits.get(lock).into_iter().flatten().map(|w| (w.lease, w.request)).collect();
            assert_eq!(queue, wanted, "queue of {lock}");
        }
        assert_eq!(machine.sizes().idempotency_records as usize, self.records.len(), "idempotency records");
        let tasks: Vec<(String, Due, u32)> =
            machine.tasks(99).into_iter().map(|t| (t.task.to_string(), t.due, t.refused)).collect();
        let wanted: Vec<(String, Due, u32)> = self
            .tasks
            .iter()
            .map(|(name, task)| {
                let due = match task.due {
                    Ok(ms) => Due::Log { time: LogTime(ms * 1_000_000) },
                    Err(ms) => Due::Wall { time: WallTime(ms) },
                };
                (name.clone(), due, task.refused)
            })
            .collect();
        assert_eq!(tasks, wanted, "tasks");
        let streams: Vec<(Key, u64)> = machine
            .streams()
            .into_iter()
            .map(|name| (name.clone(), machine.stream(&name).unwrap().partitions[0].next.0))
            .collect();
        assert_eq!(streams, self.streams.clone().into_iter().collect::<Vec<_>>(), "streams");
        for (name, policy) in POLICIES {
            let report = machine.limit_report(&name.into(), &policy, 1).0;
            assert_eq!(report.remaining, self.left(name, policy), "left of {name}");
        }
        self.check_limits();
    }
}

fn deleted(gone: Vec<KeyValue>, prev: bool) -> OpResult {
    OpResult::Deleted { count: gone.len() as u64, prev: if prev { gone } else { vec![] } }
}

fn number(row: &Row, field: KeyField) -> u64 {
    match field {
        KeyField::Version => row.version,
        KeyField::CreateRevision => row.created,
        KeyField::ModRevision => row.modified,
        KeyField::Lease => row.lease,
    }
}

fn view(key: &Key, row: &Row) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: row.value.clone(),
        create_revision: Revision(row.created),
        mod_revision: Revision(row.modified),
        version: Version(row.version),
        lease: LeaseId(row.lease),
    }
}

fn lock_row(lock: &str, lease: u64, request: u64, mode: LockMode) -> Key {
    let name = match mode {
        LockMode::Semaphore { .. } => format!("{lock}/{lease:x}:{request:x}"),
        _ => format!("{lock}/{lease:x}"),
    };
    Key { space: Keyspace::LOCKS, name: name.into() }
}

fn service_row(service: &ServiceName, instance: &InstanceName) -> Key {
    let mut name = vec![service.0.len() as u8];
    name.extend_from_slice(&service.0);
    name.extend_from_slice(&instance.0);
    Key { space: Keyspace::SERVICES, name: name.into() }
}

/// Errors of waits in words are for other tests.
fn wordless_events(events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        if let Event::WaitEnded { error, .. } = event {
            *error = no_error();
        }
    }
    events
}

/// A limit of each kind. Periods that counts divide, so that the naive sums are exact.
const POLICIES: [(&str, LimitPolicy); 4] = [
    ("bucket", LimitPolicy::Bucket { count: 4, period: Millis(1000), burst: 3 }),
    ("slow", LimitPolicy::Bucket { count: 1, period: Millis(5000), burst: 2 }),
    ("fixed", LimitPolicy::FixedWindow { count: 3, window: Millis(700) }),
    ("sliding", LimitPolicy::SlidingWindow { count: 5, window: Millis(900) }),
];

/// Chooses commands by a seed and the model's state, so that names and tokens meet often.
struct Chooser<'a> {
    state: u64,
    model: &'a Model,
    /// Commands under idempotency keys that were sent before.
    sent: &'a [Command],
}

impl Chooser<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
    fn key(&mut self) -> Key {
        self.one(&["a", "b", "ba", "c", "s"]).into()
    }
    fn value(&mut self) -> Blob {
        self.one(&["1", "5", "x", "a value too long to be kept inline"]).into()
    }
    fn lease(&mut self) -> u64 {
        1 + self.below(4)
    }
    fn lease_or_none(&mut self) -> u64 {
        self.below(3).min(1) * self.lease()
    }
    fn lock(&mut self) -> String {
        self.one(&["l", "m", "l/1"]).into()
    }
    fn mode(&mut self) -> LockMode {
        let permits = 1 + self.below(3) as u32;
        self.one(&[
            LockMode::Exclusive,
            LockMode::Exclusive,
            LockMode::Shared,
            LockMode::Semaphore { permits },
        ])
    }
    fn token(&mut self, lock: &str) -> FencingToken {
        let held: Vec<u64> =
            self.model.holds.get(lock).into_iter().flatten().map(|hold| hold.token).collect();
        if held.is_empty() || self.below(6) == 0 {
            FencingToken(self.below(40))
        } else {
            FencingToken(self.one(&held))
        }
    }
    fn range(&mut self) -> KeyRange {
        let (start, end) = (self.key(), self.key().name);
        if self.below(2) == 0 { KeyRange::prefix(start) } else { KeyRange { start, end: Some(end) } }
    }
    fn revision(&mut self) -> Revision {
        Revision((self.model.revision + 2).saturating_sub(self.below(16)))
    }
    fn idempotency_key(&mut self) -> String {
        self.one(&["i", "j"]).into()
    }
    fn slot(&mut self) -> Blob {
        self.one(&["s1", "s2"]).into()
    }

    fn guard(&mut self) -> Guard {
        let lease = LeaseId(self.lease());
        let compare = self.one(&[Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater]);
        match self.below(12) {
            number @ (0 | 1 | 10) => {
                let field = self.one(&[
                    KeyField::Version,
                    KeyField::CreateRevision,
                    KeyField::ModRevision,
                    KeyField::Lease,
                ]);
                let wanted = if field == KeyField::Version { self.below(3) } else { self.revision().0 };
                if number == 10 {
                    return Guard::Keys { range: self.range(), field, compare, wanted };
                }
                Guard::Key { key: self.key(), field, compare, wanted }
            }
            11 => Guard::Values { range: self.range(), compare, wanted: self.value() },
            2 => Guard::Value { key: self.key(), compare, wanted: self.value() },
            3 => Guard::RangeUnchanged { range: self.range(), since: self.revision() },
            4 => {
                let lock = self.lock();
                Guard::Fence { token: self.token(&lock), lock: lock.into() }
            }
            5 => Guard::Leadership { election: self.lock().into(), lease },
            6 | 7 => {
                let (name, policy) = self.one(&POLICIES);
                Guard::Limit { name: name.into(), policy, cost: 1 + self.below(2) }
            }
            8 => Guard::Slots { name: "n".into(), max: 2, lease, slot: self.slot() },
            _ => {
                if self.below(2) == 0 {
                    let next =
                        Offset(self.model.streams.get(&"s".into()).copied().unwrap_or(0) + self.below(4) / 3);
                    Guard::StreamAt { stream: "s".into(), partition: 0, next }
                } else {
                    Guard::NotAfter { deadline: WallTime(self.model.wall + self.below(900)) }
                }
            }
        }
    }

    /// What etcd's clients do.
    fn plain_op(&mut self) -> Op {
        let prev = self.below(2) == 0;
        match self.below(4) {
            0 => Op::Erase { range: self.range(), prev },
            1 => {
                let bound = |chooser: &mut Self| {
                    if chooser.below(4) == 0 { chooser.revision() } else { Revision::ZERO }
                };
                let select = Select {
                    limit: self.below(4),
                    keys_only: self.below(4) == 0,
                    count_only: self.below(6) == 0,
                    sort: self.one(&[Sort::Key, Sort::Version, Sort::Create, Sort::Mod, Sort::Value]),
                    order: self.one(&[None, Some(Order::Ascending), Some(Order::Descending)]),
                    at: if prev { Some(self.revision()) } else { None },
                    modified: (bound(self), bound(self)),
                    created: (bound(self), bound(self)),
                    ..Select::of(self.range())
                };
                Op::Select { select: Box::new(select) }
            }
            _ => {
                let value = if self.below(4) > 0 { Some(self.value()) } else { None };
                let lease = if self.below(4) > 0 { Some(LeaseId(self.lease_or_none())) } else { None };
                Op::Write { key: self.key(), value, lease, prev, keep: false }
            }
        }
    }

    /// A commit in mode `foreseen`, of anything but what is charged or is a commit of another mode.
    fn foreseen(&mut self, depth: u32) -> Commit {
        let guards = (0..self.below(4).saturating_sub(1)).map(|_| self.guard());
        let charged = |guard: &Guard| matches!(guard, Guard::Limit { .. } | Guard::Slots { .. });
        let guards = guards.filter(|guard| !charged(guard)).collect();
        let ops = |chooser: &mut Self, least| {
            let choose = |chooser: &mut Self| match chooser.below(5) {
                0 if depth > 0 => nested(chooser.foreseen(depth - 1)),
                0 | 1 => chooser.op(0),
                _ => chooser.plain_op(),
            };
            (0..least + chooser.below(3)).map(|_| choose(chooser)).collect()
        };
        let then = ops(self, 1);
        let otherwise = if self.below(3) > 0 { Some(ops(self, 0)) } else { None };
        Commit { idempotency: None, guards, then, otherwise, mode: Mode::Foreseen }
    }

    /// A batch of a producer: mostly the next one, now and then one that was sent before, or one that does not follow.
    fn produce(&mut self) -> Op {
        if self.below(4) == 0 {
            return Op::Produce { produce: Box::new(Produce::Begin {}) };
        }
        if self.below(2) == 0 {
            return self.transact();
        }
        let unknown = (self.model.given.len() as u64) << 20;
        let given: Vec<u64> = self.model.given.iter().rev().take(3).copied().chain([unknown]).collect();
        let (stream, producer) = (Key::from(self.one(&["s", "t", "t"])), self.one(&given));
        let sent: Vec<_> =
            self.model.numbered.iter().filter(|batch| batch.0 == stream && batch.1 == producer).collect();
        let last = sent.last().map_or((0, 0), |last| (last.2, last.3 + last.4));
        let (epoch, first) = match self.below(8) {
            0..=3 => last,
            4 | 5 if !sent.is_empty() => {
                let batch = self.one(&sent);
                (batch.2, batch.3)
            }
            6 => (last.0 + 1, 0),
            _ => (self.below(3) as u16, self.below(12) as u32),
        };
        let Op::Append { mut append } = append("", "text") else { unreachable!() };
        let one = quorate_types::Record { key: None, value: None, headers: vec![] };
        append.records = 1 + self.below(2) as u32;
        append.payload = record::encode(&vec![one; append.records as usize]);
        let append =
            Append { stream, partition: PartitionChoice::Number { partition: 0 }, create: false, ..append };
        let by = Numbered { producer: ProducerId(producer), epoch, first };
        let produce = match self.below(3) {
            0 => Produce::AppendWith { append, by: Some(by), rider: Box::new(self.rider()) },
            1 if self.below(3) == 0 => {
                Produce::AppendWith { append, by: None, rider: Box::new(self.rider()) }
            }
            _ => Produce::Append { append, by },
        };
        Op::Produce { produce: Box::new(produce) }
    }

    fn rider(&mut self) -> Commit {
        let guards = (0..self.below(4).saturating_sub(1)).map(|_| self.guard()).collect();
        let then = (0..self.below(3)).map(|_| match self.below(3) {
            0 => Op::Put { key: self.key(), value: self.value(), lease: LeaseId(0), prev: false },
            1 => Op::Delete { key: self.key(), prev: false },
            _ => Op::Increment { key: self.key(), by: 1, min: i64::MIN, max: i64::MAX },
        });
        let commit = Commit { guards, then: then.collect(), ..Commit::default() };
        if self.below(3) > 0 {
            return commit;
        }
        // Two fingerprints, so that a key comes again both for the same and for another request.
        let key = self.idempotency_key().into();
        let (ttl, fingerprint) =
            (Millis(1 + self.below(2000)), Fingerprint(1 + u128::from(self.below(4) / 3)));
        Commit { idempotency: Some(quorate_types::Idempotency { key, ttl, fingerprint }), ..commit }
    }

    /// A step of a transaction: mostly one that is in order, by whoever has the name.
    fn transact(&mut self) -> Op {
        let name = self.one(&["x", "y"]);
        let found = self.model.transactions.get(name).cloned().unwrap_or_default();
        let epoch = if self.below(8) == 0 { found.epoch.saturating_sub(1) } else { found.epoch };
        let producer = ProducerId(found.producer);
        let author = Author { name: name.into(), producer, epoch };
        let stream = Key::from(self.one(&["s", "t"]));
        let produce = match self.below(if found.until.is_some() { 12 } else { 6 }) {
            0 => {
                let known = self.one(&[None, None, Some((producer, epoch)), found.before]);
                Produce::TakeOver { name: name.into(), timeout: Millis(300 + self.below(8) * 300), known }
            }
            1..=4 => Produce::Enlist { author, parts: vec![(stream, 0)], groups: vec![] },
            5 | 6 => Produce::End { author, commits: self.below(3) > 0 },
            _ => {
                let sent = self
                    .model
                    .numbered
                    .iter()
                    .rfind(|batch| (&batch.0, batch.1, batch.2) == (&stream, found.producer, epoch));
                let next = sent.map_or(0, |last| last.3 + last.4);
                let first = if self.below(6) == 0 { self.below(6) as u32 } else { next };
                let Op::Append { append } = append("", "text") else { unreachable!() };
                let partition = PartitionChoice::Number { partition: 0 };
                let append = Append { stream, partition, create: false, ..append };
                let (name, by) = (name.into(), Numbered { producer, epoch, first });
                if self.below(2) == 0 {
                    Produce::HoldWith { name, append, by, rider: Box::new(self.rider()) }
                } else {
                    Produce::Hold { name, append, by }
                }
            }
        };
        Op::Produce { produce: Box::new(produce) }
    }

    fn op(&mut self, depth: u32) -> Op {
        let lease = LeaseId(self.lease());
        let prev = self.below(2) == 0;
        match self.below(if depth == 0 { 30 } else { 36 }) {
            25 | 26 => self.plain_op(),
            33..=35 if depth > 0 => self.produce(),
            27..=29 if depth == 0 => self.produce(),
            0..=2 => {
                Op::Put { key: self.key(), value: self.value(), lease: LeaseId(self.lease_or_none()), prev }
            }
            3 => Op::Delete { key: self.key(), prev },
            4 => Op::DeleteRange { range: self.range(), prev },
            5 => Op::Increment { key: self.key(), by: 3, min: 0, max: 20 },
            6 => Op::Get { key: self.key() },
            7 => {
                let at = if prev { Some(self.revision()) } else { None };
                Op::Range { read: RangeRead { at, ..RangeRead::of(self.range()) } }
            }
            8 => append(self.one(&["s", "a", "t"]), "text"),
            9 => Op::DeleteStream { stream: self.key() },
            10 | 11 => Op::LeaseGrant { lease, ttl: Millis(200 + self.below(40) * 200) },
            12 => Op::LeaseKeepAlive { lease },
            13 => Op::LeaseRevoke { lease },
            14 => Op::LeaseInfo { lease },
            15..=17 => acquire_as(&self.lock(), lease.0, 1 + self.below(2), self.mode()),
            18 | 19 => {
                let lock = self.lock();
                release(&lock, self.token(&lock))
            }
            20 => Op::Register {
                service: self.one(&["svc", "sv"]).into(),
                instance: self.one(&["c", "d"]).into(),
                lease,
                info: Instance { weight: self.below(3) as u32, ..Instance::default() },
            },
            21 => Op::Deregister { service: "svc".into(), instance: "c".into() },
            22 => {
                // What was claimed and completed is claimed again now and then.
                let records = &self.model.records;
                let done = records.iter().find(|(_, record)| matches!(record.kept, Kept::Done(_)));
                let (key, fingerprint) = match done {
                    Some(((_, key), record)) if prev => (key.clone(), record.fingerprint.0),
                    _ => (self.idempotency_key(), u128::from(self.below(2))),
                };
                claim(&key, self.lease_or_none(), fingerprint)
            }
            23 => {
                let claims: Vec<(String, u64)> = self
                    .model
                    .records
                    .iter()
                    .filter_map(|((_, key), record)| match record.kept {
                        Kept::Claim { token, .. } => Some((key.clone(), token)),
                        _ => None,
                    })
                    .chain([("i".into(), 1)])
                    .collect();
                let (key, token) = self.one(&claims);
                Op::Complete { key: key.into(), token: FencingToken(token), answer: self.value() }
            }
            24 => Op::FreeSlot { name: "n".into(), lease, slot: self.slot() },
            27 | 28 => {
                let when = if prev {
                    When::In { after: Millis(self.below(15) * 100) }
                } else {
                    When::At { time: WallTime(self.model.wall + self.below(15) * 100) }
                };
                let on_refused = match self.below(3) {
                    0 => OnRefused::Drop,
                    1 => OnRefused::Retry { attempts: 3, backoff: Millis(150) },
                    _ => OnRefused::DeadLetter { letter: letter("letters") },
                };
                let task = self.one(&["t", "u", "v"]).into();
                Op::Schedule { task, when, commit: Box::new(self.commit(depth - 1)), on_refused }
            }
            29 => Op::Cancel { task: self.one(&["t", "u"]).into() },
            _ => nested(self.commit(depth - 1)),
        }
    }

    fn commit(&mut self, depth: u32) -> Commit {
        if self.below(4) == 0 {
            return self.foreseen(depth);
        }
        let guards = (0..self.below(5).saturating_sub(2)).map(|_| self.guard()).collect();
        let ops =
            |chooser: &mut Self, least| (0..least + chooser.below(3)).map(|_| chooser.op(depth)).collect();
        let then = ops(self, 1);
        let otherwise = if self.below(3) == 0 { Some(ops(self, 0)) } else { None };
        let mode = if self.below(3) == 0 { Mode::Each } else { Mode::Atomic };
        Commit { idempotency: None, guards, then, otherwise, mode }
    }

    fn command(&mut self) -> Command {
        let lease = LeaseId(self.lease());
        if !self.sent.is_empty() && self.below(8) == 0 {
            return self.one(self.sent); // A retry.
        }
        let body = match self.below(18) {
            0 | 1 | 16 | 17 => {
                let timeout = if self.below(2) == 0 { None } else { Some(self.below(12) * 100) };
                let wait = waiting(&self.lock(), lease.0, 1 + self.below(2), self.mode(), timeout);
                CommandBody::Wait { wait }
            }
            2 => {
                let waits: Vec<(String, u64, u64)> = self
                    .model
                    .waits
                    .iter()
                    .flat_map(|(lock, queue)| queue.iter().map(|w| (lock.clone(), w.lease, w.request)))
                    .chain([("l".into(), 1, 1)])
                    .collect();
                let (lock, lease, request) = self.one(&waits);
                CommandBody::CancelWait { lock: lock.into(), lease: LeaseId(lease), request }
            }
            3 => CommandBody::KeepAlive { leases: vec![lease, LeaseId(self.lease())] },
            4 => CommandBody::Resolve { key: self.idempotency_key().into(), ttl: Millis(700) },
            5 if self.below(3) == 0 => CommandBody::Compact { before: self.revision() },
            6 | 7 => {
                let commit = self.commit(2);
                CommandBody::Commit {
                    commit: keyed_for(&self.idempotency_key(), 1 + self.below(2000), commit),
                }
            }
            _ => CommandBody::Commit { commit: self.commit(2) },
        };
        Command::new(self.one(&["ann", "ann", "bob"]).into(), body)
    }
}

/// A snapshot that is being taken while entries go on.
struct Walk {
    digest: u128,
    chunks: Vec<Vec<u8>>,
    rows: usize,
    /// Entries and what they came to since it began.
    later: Vec<(Entry, Vec<Outcome>)>,
}

impl Walk {
    fn check(self, machine: &Machine) {
        let mut restored = restore(&self.chunks, 77);
        restored.check();
        assert_eq!(restored.digest(), self.digest, "a snapshot is of the state at its beginning");
        for (entry, outcomes) in self.later {
            let mut out = Outputs::default();
            restored.apply(&entry, &mut out);
            assert_eq!(out.outcomes, outcomes, "a restored machine decides alike");
        }
        assert_eq!(restored.digest(), machine.digest(), "and comes to the same state");
    }
}

/// Runs an entry per seed; which rare things happened.
fn run(seeds: &[u64]) -> BTreeSet<&'static str> {
    let mut marks = BTreeSet::new();
    let mut driver = Driver::with(|settings| {
        settings.history_revisions = HISTORY_REVISIONS;
        settings.history_age = Millis(HISTORY_MS);
    });
    let mut model = Model { wall: driver.wall_ms, ..Model::default() };
    let mut walk: Option<Walk> = None;
    let mut sent: Vec<Command> = vec![];
    let mut idle = restore(&snapshot_of(&mut driver.machine, 100), 3);
    for seed in seeds {
        let mut chooser = Chooser { state: *seed, model: &model, sent: &sent };
        let step = chooser.one(&[0, 0, 1, 50, 100, 100, 250, 400, 1000]);
        let commands: Vec<Command> = (0..chooser.below(4)).map(|_| chooser.command()).collect();
        let (begin, rows) = (chooser.below(8) == 0, 1 + chooser.below(5) as usize);
        let is_keyed = |command: &&Command| matches!(&command.body, CommandBody::Commit { commit } if commit.idempotency.is_some());
        sent.extend(commands.iter().filter(is_keyed).cloned());
        sent.drain(..sent.len().saturating_sub(4));
        driver.pass(step);
        if walk.is_none() && begin {
            let digest = driver.machine.digest();
            driver.machine.snapshot_begin();
            walk = Some(Walk { digest, chunks: vec![], rows, later: vec![] });
        }
        let outcomes = driver.entry(commands.clone());
        let seed = driver.entries.last().unwrap().seed;
        let wanted = model.apply(driver.time_ms, driver.wall_ms, seed, &commands);
        assert_eq!(outcomes.iter().map(told).collect::<Vec<_>>(), wanted, "{commands:#?}");
        assert_eq!(wordless_events(&driver.events), model.events, "{commands:#?}");
        model.compare(&driver.machine);
        mark(&driver, &outcomes, &mut marks);
        let entry = driver.entries.last().unwrap();
        let nothing = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused { .. }));
        idle.apply(
            &if nothing { Entry { commands: vec![], ..entry.clone() } } else { entry.clone() },
            &mut Outputs::default(),
        );
        assert_eq!(idle.digest(), driver.machine.digest(), "refused commands change nothing: {commands:#?}");
        if let Some(mut taking) = walk.take() {
            taking.later.push((entry.clone(), outcomes));
            match driver.machine.snapshot_next(taking.rows) {
                Some(chunk) => {
                    taking.chunks.push(chunk);
                    walk = Some(taking);
                }
                None => taking.check(&driver.machine),
            }
        }
    }
    if let Some(mut taking) = walk.take() {
        while let Some(chunk) = driver.machine.snapshot_next(taking.rows) {
            taking.chunks.push(chunk);
        }
        taking.check(&driver.machine);
    }
    marks
}

fn mark(driver: &Driver, outcomes: &[Outcome], marks: &mut BTreeSet<&'static str>) {
    for event in &driver.events {
        marks.insert(match event {
            Event::Granted { .. } => "granted from the queue",
            Event::WaitEnded { error: OpError::LockHeld { .. }, .. } => "gave up waiting",
            Event::WaitEnded { error: OpError::NotWaiting { .. }, .. } => "cancelled a wait",
            Event::WaitEnded { .. } => "a waiter's lease ended",
            Event::LeaseEnded { .. } => "a lease ended",
            _ => continue,
        });
    }
    for fired in &driver.fired {
        let dropped = driver.machine.task(&fired.task).is_none();
        marks.insert(match fired.outcome {
            Outcome::Committed { .. } => "a task fired",
            _ if dropped => "a task was refused and dropped",
            _ => "a task was refused and is tried again",
        });
    }
    for outcome in outcomes {
        marks.insert(match outcome {
            Outcome::Committed { committed } if committed.replayed => "replayed",
            Outcome::Committed { committed: Committed { branch: Branch::Else, .. } } => "an else list ran",
            Outcome::Committed { committed } if committed.limits.len() > 1 => "two limits were charged",
            Outcome::Refused { refusal: Refusal::OtherRequest { .. } } => "another request",
            Outcome::Refused { refusal: Refusal::Cancelled { .. } } => "cancelled by a resolve",
            Outcome::Refused { refusal: Refusal::Claimed { .. } } => "claimed",
            Outcome::Refused { refusal: Refusal::Guards { .. } } => "guards failed",
            Outcome::Refused { refusal: Refusal::Operation { error: OpError::Inner { .. }, .. } } => {
                "an inner one failed"
            }
            Outcome::Resolved { resolution: Resolution::Committed { .. } } => "resolved as committed",
            Outcome::Granted { .. } => "granted at once",
            Outcome::Queued { ahead: 1.. } => "queued behind another",
            _ => continue,
        });
        if let Outcome::Committed { committed } = outcome {
            for result in &committed.results {
                marks.insert(match result {
                    OpResult::Claim { answer: Some(_), .. } => "a claim was answered",
                    OpResult::Failed { .. } => "one operation of each failed",
                    OpResult::Nested { branch: Branch::Else, .. } => "an inner else list ran",
                    OpResult::Token { .. } => "a token was given",
                    OpResult::Producer { .. } => "a producer was given a number",
                    _ => continue,
                });
            }
        }
    }
}

#[test]
fn the_random_commands_reach_the_rare_paths() {
    let mut chooser = Chooser { state: 7, model: &Model::default(), sent: &[] };
    let mut reached = BTreeSet::new();
    for _ in 0..400 {
        let seeds: Vec<u64> = (0..100).map(|_| chooser.below(u64::MAX)).collect();
        reached.extend(run(&seeds));
    }
    assert_eq!(reached.len(), 24, "every mark is reached: {reached:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_machine_does_as_the_naive_model(seeds in prop::collection::vec(any::<u64>(), 1..120)) {
        run(&seeds);
    }
}
