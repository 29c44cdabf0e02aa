//! What must be true of any history, told from commands and outcomes alone: a second, naive account of every primitive.
//!
//! Fed with each entry and what it came to, in order. It never asks the machine; [`Model::agrees`] compares the machine with it.
//!
//! Invariant: nothing here shares code with the machine; where the two disagree, one of them is wrong.
//! Called by: the oracle.

use crate::alarms::Alarms;
use crate::calls::model::Calls;
use crate::door::Door;
use crate::members::Members;
use crate::probes::Probes;
use crate::users::Users;
use quorate_machine::{Due, Event, Machine, Outputs};
use quorate_types::{
    Append, Blob, Branch, Command, CommandBody, Commit, Committed, Entry, Fingerprint, GroupMode, GroupName,
    GroupSettings, Guard, GuardFailed, IdempotencyKey, Key, KeyField, KeyRange, KeyValue, LeaseId, LimitName,
    LimitPolicy, LockMode, LockName, LogIndex, LogTime, Millis, Mode, OnRefused, Op, OpError, OpResult,
    Outcome, PayloadRef, Principal, RangeRead, Refusal, Resolution, Revision, StreamSettings, TaskName,
    WallTime, When,
};
use std::collections::{BTreeMap, BTreeSet};

mod producing;

/// A finding, in words.
pub(crate) type Check<T = ()> = Result<T, String>;

/// Refuses with a text when a condition does not hold.
macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}
pub(crate) use ensure;

/// Streams under this prefix are given dead letters, whose offsets no command's outcome tells.
const DEAD: &[u8] = b"dead/";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    value: Blob,
    version: u64,
    created: Revision,
    modified: Revision,
    lease: LeaseId,
}

impl Row {
    fn number(&self, field: KeyField) -> u64 {
        match field {
            KeyField::Version => self.version,
            KeyField::CreateRevision => self.created.0,
            KeyField::ModRevision => self.modified.0,
            KeyField::Lease => self.lease.0,
        }
    }
}

#[derive(Clone, Debug)]
enum Memory {
    Answered(Committed),
    Claimed { token: u64, lease: LeaseId },
    Completed(Blob),
    Cancelled,
}

#[derive(Clone, Debug)]
struct Remembered {
    fingerprint: Fingerprint,
    expires: LogTime,
    what: Memory,
}

#[derive(Clone, Debug)]
struct Task {
    due: Due,
    on_refused: OnRefused,
    refused: u32,
}

#[derive(Clone, Debug)]
struct Batch {
    at: PayloadRef,
    records: u32,
}

#[derive(Clone, Debug, Default)]
struct Delivered {
    attempt: u32,
    hidden: LogTime,
    acked: bool,
}

/// What a limit has given, in units times the period's nanoseconds, so that no division loses anything.
#[derive(Clone, Debug, Default)]
struct Taken {
    level: u128,
    since: LogTime,
    windows: BTreeMap<u64, u64>,
}

type Record = (Key, GroupName, u32, u64);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Model {
    index: LogIndex,
    time: LogTime,
    wall: WallTime,
    revision: Revision,
    compacted: Revision,
    rows: BTreeMap<Key, Row>,
    memory: BTreeMap<(Principal, IdempotencyKey), Remembered>,
    claims: u64,
    tokens: BTreeMap<LockName, u64>,
    holds: BTreeMap<(LockName, u64), (LeaseId, u64, LockMode)>,
    /// How those who were ever queued want to hold their lock.
    waits: BTreeMap<(LockName, LeaseId, u64), LockMode>,
    leases: BTreeMap<LeaseId, (LogTime, Millis)>,
    tasks: BTreeMap<TaskName, Task>,
    limits: BTreeMap<LimitName, Taken>,
    slots: BTreeMap<LimitName, BTreeSet<(LeaseId, Blob)>>,
    streams: BTreeMap<Key, StreamSettings>,
    batches: BTreeMap<(Key, u32), BTreeMap<u64, Batch>>,
    next: BTreeMap<(Key, u32), u64>,
    groups: BTreeMap<(Key, GroupName), GroupSettings>,
    delivered: BTreeMap<Record, Delivered>,
    producing: producing::Producing,
    expiries_max: u64,
    calls: Calls,
    users: Users,
    alarms: Alarms,
    members: Members,
    /// Leases that have ended.
    ended: BTreeSet<LeaseId>,
}

/// Events of an entry, taken as far as the commands have come.
struct Happened<'a> {
    events: &'a [Event],
    /// Leases that a command later in this entry revokes.
    revoked_later: BTreeSet<LeaseId>,
    expired: u64,
}

/// Under what the idempotency of a commit is remembered, if it has any.
fn remembered_as(principal: &Principal, commit: &Commit) -> Option<(Principal, IdempotencyKey)> {
    commit.idempotency.as_ref().map(|wanted| (principal.clone(), wanted.key.clone()))
}

impl Model {
    /// Tasks that have not fired, and leases that have not ended.
    pub(crate) fn unfinished(&self) -> (usize, usize) {
        (self.tasks.len(), self.leases.len())
    }

    /// What is known of the door and of tokens.
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    pub(crate) fn door(&self) -> &Door {
        &self.users.door
    }

    /// What is known of the keys that calls are about.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The decimal number under a key.
    pub(crate) fn number(&self, key: &Key) -> i64 {
        self.rows.get(key).and_then(|row| row.value.as_text()?.parse().ok()).unwrap_or(0)
    }

    /// For each key of a compacted partition: the offset of its newest record, and whether that is a tombstone.
    pub(crate) fn newest_of(
        &self,
        stream: &Key,
        partition: u32,
        payload: impl Fn(PayloadRef) -> Option<bytes::Bytes>,
    ) -> Check<BTreeMap<Blob, (u64, bool)>> {
        let mut newest = BTreeMap::new();
        for (base, batch) in self.batches.get(&(stream.clone(), partition)).into_iter().flatten() {
            let bytes = payload(batch.at).ok_or_else(|| format!("payload {:?} was never sent", batch.at))?;
            let keys =
                quorate_types::record::keys(&bytes, batch.records).map_err(|error| error.to_string())?;
            for (place, (key, tombstone)) in keys.into_iter().enumerate() {
                if let Some(key) = key {
                    newest.insert(key, (base + place as u64, tombstone));
                }
            }
        }
        Ok(newest)
    }

    /// Takes the next entry and what it came to.
    pub(crate) fn take(&mut self, entry: &Entry, out: &Outputs, probes: &mut Probes) -> Check {
        ensure!(entry.index == self.index.next(), "entry {} follows entry {}", entry.index, self.index);
        ensure!(entry.time >= self.time, "log time {} follows {}", entry.time, self.time);
        ensure!(entry.wall >= self.wall, "wall time {} follows {}", entry.wall, self.wall);
        ensure!(
            entry.commands.len() == out.outcomes.len(),
            "entry {}: an outcome for each command",
            entry.index
        );
        (self.index, self.time, self.wall) = (entry.index, entry.time, entry.wall);
        self.calls.begin(entry.wall, entry.time);
        self.users.door.begin(entry.time);
        self.producing.begin(entry.time);
        let held_before = self.holds.clone();
        let live_before: BTreeSet<LeaseId> = self.leases.keys().copied().collect();
        let mut happened = Happened { events: &out.events, revoked_later: revoked(entry, out), expired: 0 };
        let keep_alive = |command: &Command| matches!(command.body, CommandBody::KeepAlive { .. });
        let head = entry.commands.iter().take_while(|command| keep_alive(command)).count();
        for (command, outcome) in entry.commands.iter().zip(&out.outcomes).take(head) {
            self.command(command, outcome, &mut happened, probes)?;
        }
        for fired in &out.fired {
            self.fired(fired, &mut happened, probes)?;
            happened.expired += 1;
        }
        for (command, outcome) in entry.commands.iter().zip(&out.outcomes).skip(head) {
            self.command(command, outcome, &mut happened, probes)?;
        }
        happened.revoked_later.clear();
        self.events(&mut happened, u64::MAX, probes)?;
        if self.expiries_max > 0 && happened.expired >= self.expiries_max {
            probes.hit("clock: expiries left over for the next entry");
        }
        self.calls.end(&out.events)?;
        for outcome in &out.outcomes {
            self.refusal(outcome, &held_before, &live_before, probes)?;
        }
        Ok(())
    }

    fn command(
        &mut self,
        command: &Command,
        outcome: &Outcome,
        happened: &mut Happened<'_>,
        probes: &mut Probes,
    ) -> Check {
        if let Some(probe) = self.users.take(command, outcome)? {
            probes.hit(probe);
        }
        let known = match &command.body {
            CommandBody::Commit { commit } => remembered_as(&command.principal, commit)
                .is_some_and(|scope| self.memory.contains_key(&scope)),
            _ => false,
        };
        if let Some(probe) = self.alarms.take(command, outcome, known)? {
            probes.hit(probe);
        }
        match (&command.body, outcome) {
            (CommandBody::ChangeUser { .. }, Outcome::Done { .. })
            | (CommandBody::ChangeAccess { .. }, Outcome::Done { .. })
            | (CommandBody::RemoveUsers { .. }, Outcome::Committed { .. }) => Ok(()),
            (CommandBody::Commit { commit }, Outcome::Committed { committed }) => {
                self.committed(&command.principal, commit, committed, happened, probes)
            }
            (CommandBody::Wait { wait }, Outcome::Granted { token }) => {
                self.events(happened, token.0, probes)?;
                self.granted(&wait.lock, token.0, wait.lease, wait.request, wait.mode)
            }
            (CommandBody::Wait { wait }, Outcome::Queued { .. }) => {
                self.waits.insert((wait.lock.clone(), wait.lease, wait.request), wait.mode);
                Ok(())
            }
            (CommandBody::KeepAlive { .. }, Outcome::Alive { leases }) => {
                for (lease, ttl) in leases {
                    match (ttl, self.leases.get_mut(lease)) {
                        (Some(ttl), Some((deadline, of))) => {
                            ensure!(ttl == of, "lease {lease} was renewed for {ttl} ms, granted for {of}");
                            *deadline = self.time.plus(*ttl).max(*deadline);
                        }
                        (Some(_), None) => {
                            // The session of a member: no answer has told of its lease.
                            ensure!(!self.ended.contains(lease), "lease {lease} was renewed after its end");
                        }
                        (None, Some((deadline, _))) => {
                            return Err(format!(
                                "lease {lease} was gone at {}, its deadline is {deadline}",
                                self.time
                            ));
                        }
                        (None, None) => {}
                    }
                }
                Ok(())
            }
            (CommandBody::Resolve { key, ttl }, Outcome::Resolved { resolution }) => {
                self.resolved(&command.principal, key, *ttl, resolution, probes)
            }
            (CommandBody::Compact { before }, Outcome::Done { .. }) => {
                self.compacted = self.compacted.max(*before);
                probes.hit("keys: compacted by command");
                Ok(())
            }
            (CommandBody::RaiseRevision { to }, Outcome::Done { .. }) => {
                self.revision = self.revision.max(*to);
                Ok(())
            }
            (CommandBody::RaiseVersion { to }, Outcome::Done { .. }) => {
                self.calls.raised(*to);
                Ok(())
            }
            (CommandBody::Configure { settings }, Outcome::Done { .. }) => {
                self.expiries_max = settings.expiries_per_entry;
                Ok(())
            }
            (CommandBody::Commit { commit }, Outcome::Refused { refusal: Refusal::Operation { op, .. } }) => {
                if *op > 0 && matches!(commit.then.first(), Some(Op::Call { .. })) {
                    probes.hit("calls: a commit refused after its first change");
                }
                Ok(())
            }
            (CommandBody::Evict { space, keys }, Outcome::Done { .. }) => {
                // Where every key is known, nothing has a limit.
                if crate::calls::is_judged(*space) {
                    return Err(format!("{keys:?} of {space:?} were evicted, which has no limit"));
                }
                probes.hit("calls: keys were evicted");
                Ok(())
            }
            (CommandBody::LimitMemory { .. } | CommandBody::Denied { .. }, Outcome::Done { .. })
            | (CommandBody::Alarm { .. }, Outcome::Done { .. })
            | (CommandBody::CancelWait { .. }, Outcome::Done { .. })
            | (_, Outcome::Refused { .. }) => Ok(()),
            (body, outcome) => Err(format!("{body:?} was answered with {outcome:?}")),
        }
    }

    fn committed(
        &mut self,
        principal: &Principal,
        commit: &Commit,
        committed: &Committed,
        happened: &mut Happened<'_>,
        probes: &mut Probes,
    ) -> Check {
        let scope = remembered_as(principal, commit);
        let known = scope.as_ref().and_then(|scope| self.memory.get(scope));
        if committed.replayed {
            let Some(Remembered { fingerprint, what: Memory::Answered(first), .. }) = known else {
                return Err(format!("an answer was replayed under {scope:?}, where none was given"));
            };
            let same = Committed { replayed: true, ..first.clone() } == *committed;
            ensure!(same, "the answer under {scope:?} was {first:?}, its retry got {committed:?}");
            let wanted = commit.idempotency.as_ref().map(|wanted| wanted.fingerprint);
            ensure!(
                wanted == Some(*fingerprint),
                "another request under {scope:?} got the first one's answer"
            );
            return Ok(());
        }
        if let Some(known) = known {
            ensure!(
                known.expires <= self.time,
                "a second commit took effect under {scope:?}: once {:?}, now {committed:?}",
                known.what
            );
        }
        ensure!(
            committed.revision >= self.revision,
            "revision {} follows revision {}",
            committed.revision,
            self.revision
        );
        self.events(happened, committed.revision.0, probes)?;
        self.revision = self.revision.max(committed.revision);
        if commit.mode == Mode::Foreseen {
            self.foresaw(commit, committed.branch, &committed.results, probes)?;
        }
        let ops = self.branch(commit, committed.branch, probes)?;
        self.ops(principal, ops, &committed.results, committed.revision, happened, probes)?;
        if let (Some(scope), Some(wanted)) = (scope, &commit.idempotency) {
            let what = Memory::Answered(committed.clone());
            let expires = self.time.plus(wanted.ttl);
            self.memory.insert(scope, Remembered { fingerprint: wanted.fingerprint, expires, what });
        }
        Ok(())
    }

    /// Takes what the guards of a commit that took effect have taken, and tells which operations ran.
    fn branch<'a>(&mut self, commit: &'a Commit, branch: Branch, probes: &mut Probes) -> Check<&'a [Op]> {
        if branch == Branch::Else {
            probes.hit("commit: an else list ran");
            return commit.otherwise.as_deref().ok_or_else(|| "an else list ran where there is none".into());
        }
        for guard in &commit.guards {
            match guard {
                Guard::Fence { lock, token } => {
                    ensure!(
                        self.holds.contains_key(&(lock.clone(), token.0)),
                        "a commit passed the fence of {lock} with token {token}, which is not held"
                    );
                    probes.hit("lock: a fence held");
                }
                Guard::Leadership { election, lease } => {
                    let first = self.holds_of(election).next().map(|(_, (lease, ..))| *lease);
                    ensure!(first == Some(*lease), "{lease} led {election}, whose leader is {first:?}");
                }
                Guard::Key { key, field, compare, wanted } => {
                    let found = self.rows.get(key).map_or(0, |row| row.number(*field));
                    let ours = key.space.0 < 0xff00;
                    ensure!(!ours || compare.holds(&found, wanted), "a guard on {key} passed with {found}");
                }
                Guard::Limit { name, policy, cost } => self.spent(name, policy, *cost)?,
                Guard::Slots { name, max, lease, slot } => {
                    ensure!(self.leases.contains_key(lease), "a slot of {name} hangs on ended lease {lease}");
                    let slots = self.slots.entry(name.clone()).or_default();
                    slots.insert((*lease, slot.clone()));
                    ensure!(
                        slots.len() as u64 <= *max,
                        "{} slots of {name} are in use, of {max}",
                        slots.len()
                    );
                }
                Guard::StreamAt { stream, partition, next } => {
                    let at = self.next.get(&(stream.clone(), *partition)).copied().unwrap_or(0);
                    ensure!(at == next.0, "{stream}/{partition} is at {at}, a guard passed for {next}");
                }
                Guard::NotAfter { deadline } => {
                    ensure!(self.wall <= *deadline, "a commit passed {} after {deadline}", self.wall);
                }
                Guard::RangeUnchanged { range, since } => self.calls.unchanged(range, *since, probes)?,
                // Only in commits whose branches are foreseen, which have been looked at before.
                Guard::Value { .. } | Guard::Keys { .. } | Guard::Values { .. } => {}
            }
        }
        Ok(&commit.then)
    }

    /// Whether each branch of a commit, inner ones too, is the one that the state before it asks for.
    fn foresaw(&self, commit: &Commit, branch: Branch, results: &[OpResult], probes: &mut Probes) -> Check {
        let holds = commit.guards.iter().all(|guard| self.holds_plainly(guard));
        let ran = if holds { Branch::Then } else { Branch::Else };
        ensure!(branch == ran, "{:?} let {branch:?} run, their state asks for {ran:?}", commit.guards);
        for (op, result) in self::ran(commit, branch).iter().zip(results) {
            if let (Op::Nested { commit }, OpResult::Nested { branch, results }) = (op, result) {
                probes.hit("commit: a branch within a foreseen branch");
                self.foresaw(commit, *branch, results, probes)?;
            }
        }
        Ok(())
    }

    fn within<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(|(key, _)| range.contains(key)).map(|(_, row)| row)
    }

    /// Whether a guard on plain keys holds now.
    fn holds_plainly(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Key { key, field, compare, wanted } => {
                compare.holds(&self.rows.get(key).map_or(0, |row| row.number(*field)), wanted)
            }
            Guard::Value { key, compare, wanted } => {
                self.rows.get(key).is_some_and(|row| compare.holds(&row.value, wanted))
            }
            Guard::Keys { range, field, compare, wanted } => {
                let mut found: Vec<u64> = self.within(range).map(|row| row.number(*field)).collect();
                if found.is_empty() {
                    // It is compared as an absent key is.
                    found.push(0);
                }
                found.iter().all(|found| compare.holds(found, wanted))
            }
            Guard::Values { range, compare, wanted } => {
                self.within(range).next().is_some()
                    && self.within(range).all(|row| compare.holds(&row.value, wanted))
            }
            _ => true,
        }
    }

    fn ops(
        &mut self,
        principal: &Principal,
        ops: &[Op],
        results: &[OpResult],
        revision: Revision,
        happened: &mut Happened<'_>,
        probes: &mut Probes,
    ) -> Check {
        ensure!(ops.len() == results.len(), "{} operations have {} results", ops.len(), results.len());
        for (op, result) in ops.iter().zip(results) {
            if let OpResult::Failed { error } = result {
                if let (Op::Call { space, words, .. }, OpError::Call { text }) = (op, error) {
                    self.calls.judge(*space, words, Err(text), revision, probes)?;
                }
                probes.hit("commit: an operation failed in mode each");
                continue;
            }
            self.op(principal, op, result, revision, happened, probes)?;
        }
        Ok(())
    }

    fn op(
        &mut self,
        principal: &Principal,
        op: &Op,
        result: &OpResult,
        revision: Revision,
        happened: &mut Happened<'_>,
        probes: &mut Probes,
    ) -> Check {
        match (op, result) {
            (Op::Get { key }, OpResult::Key { found }) if key.space.0 < 0xff00 => {
                let wanted = self.rows.get(key).map(|row| shown(key, row));
                ensure!(*found == wanted, "{key} was read as {found:?}, it is {wanted:?}");
            }
            (Op::Range { read }, OpResult::Keys { keys, .. }) => self.range_read(read, keys)?,
            (Op::Put { key, value, lease, .. }, _) => self.put(key, value.clone(), *lease, revision),
            (Op::Select { select }, OpResult::Keys { keys, count, .. }) => {
                self.range_read(&RangeRead::of(select.range.clone()), keys)?;
                ensure!(*count == keys.len() as u64, "{count} keys were counted, {} were shown", keys.len());
            }
            (Op::Write { key, value, lease, .. }, _) => {
                let row = self.rows.get(key);
                let value = value.clone().or_else(|| row.map(|row| row.value.clone()));
                let lease = lease.or_else(|| row.map(|row| row.lease));
                let (Some(value), Some(lease)) = (value, lease) else {
                    return Err(format!("{key} was written with what it had, and it was not there"));
                };
                self.put(key, value, lease, revision);
            }
            (Op::Delete { key, .. }, OpResult::Deleted { count, .. }) => {
                let there = u64::from(self.rows.remove(key).is_some());
                ensure!(*count == there, "{count} keys were deleted as {key}, there were {there}");
            }
            (Op::DeleteRange { range, .. } | Op::Erase { range, .. }, OpResult::Deleted { count, .. }) => {
                let before = self.rows.len();
                self.rows.retain(|key, _| !range.contains(key));
                let gone = (before - self.rows.len()) as u64;
                ensure!(*count == gone, "{count} keys were deleted from {}, there were {gone}", range.start);
            }
            (Op::Increment { key, by, .. }, OpResult::Number { value }) => {
                let sum = self.number(key) + by;
                ensure!(*value == sum, "{key} was incremented to {value}, from {} by {by}", sum - by);
                let lease = self.rows.get(key).map_or(LeaseId::ZERO, |row| row.lease);
                self.put(key, value.to_string().into(), lease, revision);
            }
            (Op::CreateStream { stream, settings } | Op::AlterStream { stream, settings }, _) => {
                self.streams.insert(stream.clone(), settings.clone());
            }
            (Op::DeleteStream { stream }, _) => {
                self.drop_stream(stream);
                self.members.drop_stream(stream);
            }
            (Op::CommitOffsets { .. } | Op::Member { .. }, _) => {
                if let Some(probe) = self.members.take(op, result)? {
                    probes.hit(probe);
                }
            }
            (Op::Append { append }, OpResult::Appended { partition, first, next }) => {
                self.appended(append, *partition, first.0, next.0)?;
            }
            (Op::Produce { produce }, result) => {
                self.produced(principal, produce, result, revision, probes)?;
            }
            (Op::CreateGroup { stream, group, settings }, _) => {
                self.groups.insert((stream.clone(), group.clone()), settings.clone());
            }
            (Op::DeleteGroup { stream, group }, _) => {
                self.groups.remove(&(stream.clone(), group.clone()));
                self.delivered.retain(|(of, by, ..), _| of != stream || by != group);
            }
            (Op::Take { stream, group, visibility, .. }, OpResult::Taken { deliveries }) => {
                self.delivered(stream, group, *visibility, deliveries, probes)?;
            }
            (Op::Ack { stream, group, deliveries }, OpResult::Settled { lost, .. }) => {
                self.settle(stream, group, deliveries, lost, |record| record.acked = true)?;
            }
            (Op::Nack { stream, group, deliveries, delay }, OpResult::Settled { lost, .. }) => {
                let until = self.time.plus(*delay);
                self.settle(stream, group, deliveries, lost, |record| record.hidden = until)?;
            }
            (Op::Extend { stream, group, deliveries, visibility }, OpResult::Settled { lost, .. }) => {
                let until = self.time.plus(*visibility);
                self.settle(stream, group, deliveries, lost, |record| record.hidden = until)?;
            }
            (Op::LeaseGrant { .. }, OpResult::Lease { lease, ttl, .. }) => {
                let fresh = self.leases.insert(*lease, (self.time.plus(*ttl), *ttl)).is_none();
                ensure!(fresh, "lease {lease} was granted while it lives");
            }
            (Op::LeaseKeepAlive { lease }, OpResult::Lease { ttl, .. }) => {
                let until = self.time.plus(*ttl);
                let renewed =
                    self.leases.get_mut(lease).map(|(deadline, _)| *deadline = until.max(*deadline));
                ensure!(renewed.is_some(), "lease {lease} was renewed after its end");
            }
            (Op::LeaseRevoke { lease }, _) => {
                happened.revoked_later.remove(lease);
                ensure!(self.leases.contains_key(lease), "lease {lease} was revoked after its end");
                self.end_lease(*lease);
            }
            (Op::Acquire { lock, lease, mode, request, .. }, OpResult::Token { token }) => {
                self.granted(lock, token.0, *lease, *request, *mode)?;
            }
            (Op::Campaign { election, lease, request, .. }, OpResult::Token { token }) => {
                self.granted(election, token.0, *lease, *request, LockMode::Exclusive)?;
            }
            (Op::Release { lock, token } | Op::Resign { election: lock, token }, _) => {
                let held = self.holds.remove(&(lock.clone(), token.0)).is_some();
                ensure!(held, "{lock} was released with token {token}, which is not held");
            }
            (Op::Proclaim { election, token, .. }, _) => {
                let held = self.holds.contains_key(&(election.clone(), token.0));
                ensure!(held, "{election} was proclaimed with token {token}, which is not held");
            }
            (Op::Schedule { task, when, on_refused, .. }, OpResult::Scheduled { replaced }) => {
                let due = match when {
                    When::In { after } => Due::Log { time: self.time.plus(*after) },
                    When::At { time } => Due::Wall { time: *time },
                };
                let row = Task { due, on_refused: on_refused.clone(), refused: 0 };
                let there = self.tasks.insert(task.clone(), row).is_some();
                ensure!(*replaced == there, "task {task} was replaced: said {replaced}, is {there}");
            }
            (Op::Cancel { task }, _) => {
                ensure!(self.tasks.remove(task).is_some(), "task {task} was cancelled, which is not there");
            }
            (Op::Claim { key, ttl, lease, fingerprint }, OpResult::Claim { answer, token }) => {
                self.claimed(principal, key, *ttl, *lease, *fingerprint, answer.as_ref(), token.0)?;
            }
            (Op::Complete { key, token, answer }, _) => {
                let scope = (principal.clone(), key.clone());
                let Some(record) = self.memory.get_mut(&scope) else {
                    return Err(format!("claim {key} was completed, which nobody holds"));
                };
                let held = matches!(record.what, Memory::Claimed { token: of, .. } if of == token.0);
                ensure!(held, "claim {key} was completed with token {token}, it is {:?}", record.what);
                record.what = Memory::Completed(answer.clone());
                probes.hit("ask: a claim completed");
            }
            (Op::Call { space, words, .. }, OpResult::Reply { reply }) => {
                self.calls.judge(*space, words, Ok(reply), revision, probes)?;
            }
            (Op::FreeSlot { name, lease, slot }, _) => {
                let taken = self.slots.entry(name.clone()).or_default().remove(&(*lease, slot.clone()));
                ensure!(taken, "a slot of {name} was freed, which was not taken");
            }
            (Op::Nested { commit }, OpResult::Nested { branch, results }) => {
                let ops = match commit.mode {
                    Mode::Foreseen => ran(commit, *branch),
                    _ => self.branch(commit, *branch, probes)?,
                };
                self.ops(principal, ops, results, revision, happened, probes)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn fired(
        &mut self,
        fired: &quorate_machine::Fired,
        happened: &mut Happened<'_>,
        probes: &mut Probes,
    ) -> Check {
        let Some(mut task) = self.tasks.remove(&fired.task) else {
            return Err(format!("task {} fired, which was not scheduled: twice?", fired.task));
        };
        let (early, probe) = match task.due {
            Due::Log { time } => (time > self.time, "task: fired by log time"),
            Due::Wall { time } => (time > self.wall, "task: fired by wall time"),
        };
        ensure!(!early, "task {} fired at {} / {}, due {:?}", fired.task, self.time, self.wall, task.due);
        probes.hit(probe);
        if let Outcome::Committed { committed } = &fired.outcome {
            return self.committed(&fired.principal, &fired.commit, committed, happened, probes);
        }
        task.refused += 1;
        match task.on_refused.clone() {
            OnRefused::Drop => {}
            OnRefused::Retry { attempts, backoff } => {
                if task.refused < attempts {
                    probes.hit("task: tried again");
                    let wait = Millis(backoff.0 << (task.refused - 1));
                    task.due = Due::Log { time: self.time.plus(wait) };
                    self.tasks.insert(fired.task.clone(), task);
                }
            }
            OnRefused::DeadLetter { .. } => probes.hit("task: a dead letter"),
        }
        Ok(())
    }

    /// Takes the events that came before the commit of `revision`.
    fn events(&mut self, happened: &mut Happened<'_>, revision: u64, probes: &mut Probes) -> Check {
        while let Some((event, rest)) = happened.events.split_first() {
            match event {
                Event::Granted { token, .. } if token.0 > revision => return Ok(()),
                Event::LeaseEnded { lease } if happened.revoked_later.contains(lease) => return Ok(()),
                Event::Granted { lock, lease, request, token } => {
                    probes.hit("lock: granted from the queue");
                    let Some(mode) = self.waits.get(&(lock.clone(), *lease, *request)).copied() else {
                        return Err(format!(
                            "{lock} was granted to lease {lease}, which did not wait for it"
                        ));
                    };
                    self.granted(lock, token.0, *lease, *request, mode)?;
                }
                Event::LeaseEnded { lease } => {
                    if let Some((deadline, _)) = self.leases.get(lease) {
                        ensure!(
                            *deadline <= self.time,
                            "lease {lease} ended at {}, due {deadline}",
                            self.time
                        );
                        probes.hit("lease: expired");
                        happened.expired += 1;
                        self.end_lease(*lease);
                    }
                }
                Event::WaitEnded { error: OpError::LockHeld { .. }, .. } => {
                    probes.hit("lock: a wait timed out");
                }
                Event::WaitEnded { .. }
                | Event::GroupReady { .. }
                | Event::GroupMoved { .. }
                | Event::Flushed { .. }
                | Event::Published { .. }
                | Event::Evicted { .. }
                | Event::Happened { .. } => {}
                Event::StreamAppended { stream, .. } => {
                    if stream.name.starts_with(DEAD) {
                        probes.hit("group: a dead letter");
                    }
                }
            }
            happened.events = rest;
        }
        Ok(())
    }

    fn granted(
        &mut self,
        lock: &LockName,
        token: u64,
        lease: LeaseId,
        request: u64,
        mode: LockMode,
    ) -> Check {
        if let Some((of, by, _)) = self.holds.get(&(lock.clone(), token)) {
            ensure!((*of, *by) == (lease, request), "token {token} of {lock} was given to two");
            return Ok(());
        }
        let newest = self.tokens.get(lock).copied().unwrap_or(0);
        ensure!(token > newest, "{lock} was granted with token {token}, after token {newest}");
        ensure!(self.leases.contains_key(&lease), "{lock} was granted to lease {lease}, which has ended");
        let alone = self
            .holds_of(lock)
            .all(|(_, (_, _, held))| mode != LockMode::Exclusive && *held != LockMode::Exclusive);
        ensure!(alone, "{lock} was granted to {lease} with {token} while it is held: {:?}", self.holds);
        self.tokens.insert(lock.clone(), token);
        self.holds.insert((lock.clone(), token), (lease, request, mode));
        self.revision = self.revision.max(Revision(token));
        Ok(())
    }

    fn holds_of(
        &self,
        lock: &LockName,
    ) -> impl Iterator<Item = (&(LockName, u64), &(LeaseId, u64, LockMode))> {
        self.holds.range((lock.clone(), 0)..=(lock.clone(), u64::MAX))
    }

    fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        self.ended.insert(lease);
        self.holds.retain(|_, (of, ..)| *of != lease);
        self.rows.retain(|_, row| row.lease != lease);
        self.memory
            .retain(|_, record| !matches!(record.what, Memory::Claimed { lease: of, .. } if of == lease));
        for slots in self.slots.values_mut() {
            slots.retain(|(of, _)| *of != lease);
        }
    }

    fn put(&mut self, key: &Key, value: Blob, lease: LeaseId, revision: Revision) {
        let (version, created) = self.rows.get(key).map_or((0, revision), |row| (row.version, row.created));
        let row = Row { value, version: version + 1, created, modified: revision, lease };
        self.rows.insert(key.clone(), row);
    }

    fn range_read(&self, read: &RangeRead, keys: &[KeyValue]) -> Check {
        let whole = read.limit == 0 && read.at.is_none() && !read.count_only && !read.keys_only;
        if !whole || read.range.start.space.0 >= 0xff00 {
            return Ok(());
        }
        let wanted: Vec<KeyValue> = self
            .rows
            .iter()
            .filter(|(key, _)| read.range.contains(key))
            .map(|(key, row)| shown(key, row))
            .collect();
        let mut found = keys.to_vec();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        ensure!(
            found == wanted,
            "the range from {} was read as {found:?}, it is {wanted:?}",
            read.range.start
        );
        Ok(())
    }

    fn resolved(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        ttl: Millis,
        resolution: &Resolution,
        probes: &mut Probes,
    ) -> Check {
        let scope = (principal.clone(), key.clone());
        let known = self.memory.get(&scope);
        match (resolution, known.map(|known| &known.what)) {
            (Resolution::Committed { committed }, Some(Memory::Answered(first))) => {
                let same = Committed { replayed: committed.replayed, ..first.clone() } == *committed;
                ensure!(same, "the answer under {key} was {first:?}, resolve found {committed:?}");
                probes.hit("ask: a resolve found the answer");
            }
            (Resolution::Completed { answer }, Some(Memory::Completed(first))) => {
                ensure!(answer == first, "claim {key} was completed with {first}, resolve found {answer}");
            }
            (Resolution::InProgress { token }, Some(Memory::Claimed { token: held, .. })) => {
                ensure!(token.0 == *held, "claim {key} is held with {held}, resolve found {token}");
            }
            (Resolution::Cancelled {}, Some(Memory::Cancelled)) => {}
            (Resolution::Cancelled {}, known_what) => {
                let live = known.is_some_and(|known| known.expires > self.time);
                ensure!(!live, "{key} was cancelled, though {known_what:?} is remembered");
                let (fingerprint, expires) = (Fingerprint::default(), self.time.plus(ttl));
                self.memory.insert(scope, Remembered { fingerprint, expires, what: Memory::Cancelled });
                probes.hit("ask: a resolve cancelled");
            }
            (resolution, known) => {
                return Err(format!("resolve of {key} found {resolution:?}, remembered is {known:?}"));
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one operation and its result")]
    fn claimed(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        ttl: Millis,
        lease: LeaseId,
        fingerprint: Fingerprint,
        answer: Option<&Blob>,
        token: u64,
    ) -> Check {
        let scope = (principal.clone(), key.clone());
        let known = self.memory.get(&scope);
        if let Some(answer) = answer {
            let first = known.map(|known| &known.what);
            let same = matches!(first, Some(Memory::Completed(first)) if first == answer);
            ensure!(same, "claim {key} was answered with {answer}, remembered is {first:?}");
            return Ok(());
        }
        let live = known.is_some_and(|known| known.expires > self.time);
        ensure!(!live, "claim {key} was given twice: {known:?}");
        ensure!(token > self.claims, "claim {key} was given token {token}, after {}", self.claims);
        self.claims = token;
        let what = Memory::Claimed { token, lease };
        self.memory.insert(scope, Remembered { fingerprint, expires: self.time.plus(ttl), what });
        Ok(())
    }

    /// A leaky bucket in exact arithmetic, and plain counts per window.
    fn spent(&mut self, name: &LimitName, policy: &LimitPolicy, cost: u64) -> Check {
        let taken = self.limits.entry(name.clone()).or_default();
        match *policy {
            LimitPolicy::Bucket { count, period, burst } => {
                let period_ns = u128::from(period.0) * 1_000_000;
                let drained = u128::from(self.time.0 - taken.since.0) * u128::from(count);
                taken.level = taken.level.saturating_sub(drained) + u128::from(cost) * period_ns;
                taken.since = self.time;
                // A cell's length in whole nanoseconds may be short by less than one.
                let slack = u128::from(count) * u128::from(burst + 1);
                ensure!(
                    taken.level <= u128::from(burst) * period_ns + slack,
                    "limit {name} of {count} per {period} ms gave more than its burst of {burst}"
                );
            }
            LimitPolicy::FixedWindow { count, window } | LimitPolicy::SlidingWindow { count, window } => {
                let number = self.time.0 / (window.0 * 1_000_000);
                let sum = taken.windows.entry(number).or_default();
                *sum += cost;
                ensure!(*sum <= count, "limit {name} of {count} per {window} ms gave {sum} in one window");
            }
        }
        Ok(())
    }

    fn drop_stream(&mut self, stream: &Key) {
        self.streams.remove(stream);
        self.batches.retain(|(of, _), _| of != stream);
        self.next.retain(|(of, _), _| of != stream);
        self.producing.drop_stream(stream);
        self.groups.retain(|(of, _), _| of != stream);
        self.delivered.retain(|(of, ..), _| of != stream);
    }

    fn appended(&mut self, append: &Append, partition: u32, first: u64, next: u64) -> Check {
        let stream = &append.stream;
        self.streams.entry(stream.clone()).or_default();
        let at = append.payload.at.unwrap_or(PayloadRef { index: self.index, sub: append.payload.sub });
        let expected = self.next.entry((stream.clone(), partition)).or_default();
        let in_order = if stream.name.starts_with(DEAD) { first >= *expected } else { first == *expected };
        ensure!(in_order, "{stream}/{partition}: appended at {first}, the next offset is {expected}");
        let records = append.records;
        ensure!(
            next == first + u64::from(records),
            "{stream}/{partition}: {records} records took {first}..{next}"
        );
        *expected = next;
        self.batches.entry((stream.clone(), partition)).or_default().insert(first, Batch { at, records });
        Ok(())
    }

    fn delivered(
        &mut self,
        stream: &Key,
        group: &GroupName,
        visibility: Option<Millis>,
        deliveries: &[quorate_types::Taken],
        probes: &mut Probes,
    ) -> Check {
        let settings = self.groups.get(&(stream.clone(), group.clone()));
        let Some(GroupMode::Shared { visibility: usual, deliveries_max, .. }) = settings.map(|s| &s.mode)
        else {
            return Err(format!("group {group} of {stream} is not shared, yet gave deliveries"));
        };
        for taken in deliveries {
            let quorate_types::Delivery { partition, offset, attempt } = taken.delivery;
            let record =
                self.delivered.entry((stream.clone(), group.clone(), partition, offset.0)).or_default();
            let which = format!("{stream}/{partition}@{offset} of group {group}");
            ensure!(!record.acked, "{which} was delivered again after its ack");
            ensure!(
                record.hidden <= self.time,
                "{which} was delivered twice at once, until {}",
                record.hidden
            );
            ensure!(attempt == record.attempt + 1, "{which}: delivery {attempt} follows {}", record.attempt);
            ensure!(
                *deliveries_max == 0 || attempt <= *deliveries_max,
                "{which}: delivery {attempt} is too many"
            );
            if attempt > 1 {
                probes.hit("group: a redelivery");
            }
            *record =
                Delivered { attempt, hidden: self.time.plus(visibility.unwrap_or(*usual)), acked: false };
        }
        Ok(())
    }

    fn settle(
        &mut self,
        stream: &Key,
        group: &GroupName,
        deliveries: &[quorate_types::Delivery],
        lost: &[quorate_types::Delivery],
        change: impl Fn(&mut Delivered),
    ) -> Check {
        // Named twice, a delivery is settled once and lost once.
        let times = |list: &[quorate_types::Delivery], of: &quorate_types::Delivery| {
            list.iter().filter(|other| *other == of).count()
        };
        let named: BTreeSet<_> = deliveries.iter().collect();
        for delivery in
            named.into_iter().filter(|delivery| times(deliveries, delivery) > times(lost, delivery))
        {
            let at = (stream.clone(), group.clone(), delivery.partition, delivery.offset.0);
            let Some(record) = self.delivered.get_mut(&at) else {
                return Err(format!("{stream}: {delivery:?} was settled, which was not delivered"));
            };
            ensure!(
                record.attempt == delivery.attempt,
                "{stream}: {delivery:?} was settled, it is {record:?}"
            );
            change(record);
        }
        Ok(())
    }

    /// What a refusal claims must be so.
    fn refusal(
        &self,
        outcome: &Outcome,
        held_before: &BTreeMap<(LockName, u64), (LeaseId, u64, LockMode)>,
        live_before: &BTreeSet<LeaseId>,
        probes: &mut Probes,
    ) -> Check {
        let Outcome::Refused { refusal } = outcome else { return Ok(()) };
        let live = |lease: &LeaseId| live_before.contains(lease) && self.leases.contains_key(lease);
        match refusal {
            Refusal::Guards { failed } => self.guards_refused(failed, held_before, &live, probes)?,
            Refusal::Operation { error, .. } | Refusal::Command { error } => {
                probes.hit("commit: an operation refused the commit");
                if let Some(probe) = Members::refused(error) {
                    probes.hit(probe);
                }
                match error {
                    OpError::LeaseMissing { lease } => {
                        ensure!(!live(lease), "lease {lease} was said to be gone while it lives");
                    }
                    OpError::ClaimHeld { .. } => probes.hit("ask: a claim held by another"),
                    OpError::IdempotencyFull { .. } => probes.hit("ask: idempotency memory full"),
                    OpError::Produce { why } => self.producer_refused(why, probes)?,
                    OpError::Guards { failed } => {
                        self.guards_refused(failed, held_before, &live, probes)?;
                        probes.hit("rider: a guard refused it");
                    }
                    _ => {}
                }
            }
            Refusal::OtherRequest { .. } => probes.hit("ask: the key used for another request"),
            Refusal::Cancelled { .. } => probes.hit("ask: a late original refused after its cancellation"),
            Refusal::IdempotencyFull { kept, max } => {
                ensure!(kept > max, "{kept} bytes of idempotency records are no more than {max}");
                probes.hit("ask: idempotency memory full");
            }
            // Whether that is right is for `users` to say.
            Refusal::Claimed { .. }
            | Refusal::Denied { .. }
            | Refusal::LockOut {}
            | Refusal::Access { .. } => {}
        }
        Ok(())
    }

    /// Whether guards may have refused.
    fn guards_refused(
        &self,
        failed: &[(u32, GuardFailed)],
        held_before: &BTreeMap<(LockName, u64), (LeaseId, u64, LockMode)>,
        live: &impl Fn(&LeaseId) -> bool,
        probes: &mut Probes,
    ) -> Check {
        for (_, why) in failed {
            match why {
                GuardFailed::Fence { lock, offered, .. } => {
                    let at = (lock.clone(), offered.0);
                    let held = held_before.contains_key(&at) && self.holds.contains_key(&at);
                    ensure!(!held, "the fence of {lock} refused its holder's token {offered}");
                    probes.hit("lock: a fence refused");
                }
                GuardFailed::Limit { .. } => probes.hit("limit: refused"),
                GuardFailed::Slots { .. } => probes.hit("limit: slots refused"),
                GuardFailed::LeaseGone { lease } => {
                    ensure!(!live(lease), "lease {lease} was said to be gone while it lives");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares a machine that has applied the same entries.
    pub(crate) fn agrees(&self, machine: &Machine, probes: &mut Probes) -> Check {
        ensure!(machine.applied() == self.index, "machine at {}, model at {}", machine.applied(), self.index);
        ensure!(
            machine.revision() >= self.revision,
            "the machine is at revision {}, an answer told of {}",
            machine.revision(),
            self.revision
        );
        if machine.oldest_revision() > self.compacted {
            probes.hit("keys: compacted by the byte budget");
        }
        self.agree_rows(machine)?;
        self.calls.agrees(machine)?;
        self.members.agrees(machine)?;
        self.producing.agrees(machine)?;
        let sessions: BTreeSet<LeaseId> = machine.member_sessions().collect();
        let leases: Vec<LeaseId> = machine.leases().filter(|lease| !sessions.contains(lease)).collect();
        ensure!(
            leases.iter().eq(self.leases.keys()),
            "leases: machine {leases:?}, model {:?}",
            self.leases.keys().collect::<Vec<_>>()
        );
        let tasks = machine.tasks(usize::MAX);
        ensure!(
            tasks
                .iter()
                .map(|task| (&task.task, task.due))
                .eq(self.tasks.iter().map(|(name, t)| (name, t.due))),
            "tasks: machine {:?}, model {:?}",
            tasks.iter().map(|task| (&task.task, task.due)).collect::<Vec<_>>(),
            self.tasks.iter().map(|(name, t)| (name, t.due)).collect::<Vec<_>>()
        );
        let mut held = BTreeSet::new();
        for name in machine.locks() {
            let view = machine.lock(name).ok_or_else(|| format!("lock {name} is listed and not there"))?;
            held.extend(view.holders.iter().map(|holder| (name.clone(), holder.token.0)));
        }
        ensure!(
            held.iter().eq(self.holds.keys()),
            "locks held: machine {held:?}, model {:?}",
            self.holds.keys().collect::<Vec<_>>()
        );
        self.agree_streams(machine)
    }

    fn agree_rows(&self, machine: &Machine) -> Check {
        let all = KeyRange { start: Key::new(Blob::EMPTY), end: None };
        let found = machine.range(&RangeRead::of(all)).map_err(|error| error.to_string())?.keys;
        for (key, row) in &self.rows {
            let wanted = shown(key, row);
            let there = machine.get(key);
            ensure!(there.as_ref() == Some(&wanted), "{key}: machine {there:?}, model {wanted:?}");
        }
        ensure!(
            found.len() == self.rows.len(),
            "the machine has {} keys, not {}",
            found.len(),
            self.rows.len()
        );
        Ok(())
    }

    fn agree_streams(&self, machine: &Machine) -> Check {
        for (stream, settings) in &self.streams {
            let view = machine.stream(stream).ok_or_else(|| format!("stream {stream} is lost"))?;
            let letters = stream.name.starts_with(DEAD);
            for (partition, part) in view.partitions.iter().enumerate() {
                let at = (stream.clone(), partition as u32);
                let next = self.next.get(&at).copied().unwrap_or(0);
                let grown = part.next.0 == next || (letters && part.next.0 > next);
                ensure!(grown, "{stream}/{partition} is at {}, not at {next}", part.next);
                let found = machine
                    .records(stream, partition as u32, part.first, u64::MAX, u64::MAX)
                    .map_err(|error| error.to_string())?;
                let none = BTreeMap::new();
                let batches = self.batches.get(&at).unwrap_or(&none);
                for batch in &found.batches {
                    match batches.get(&batch.base.0) {
                        Some(wanted) => ensure!(
                            (wanted.at, wanted.records) == (batch.at, batch.records),
                            "{stream}/{partition}@{}: machine {batch:?}, model {wanted:?}",
                            batch.base
                        ),
                        None => ensure!(letters, "{stream}/{partition}: a batch nobody appended: {batch:?}"),
                    }
                }
                let kept: BTreeSet<u64> = found.batches.iter().map(|batch| batch.base.0).collect();
                let whole = |base: u64, batch: &Batch| base + u64::from(batch.records) > part.first.0;
                let lost = batches.iter().find(|(base, batch)| whole(**base, batch) && !kept.contains(base));
                ensure!(
                    settings.compact || lost.is_none(),
                    "{stream}/{partition}: a batch is lost: {lost:?}"
                );
                let bounded = settings.retention.bytes.is_some() || settings.retention.age.is_some();
                ensure!(bounded || part.first.0 == 0, "{stream}/{partition} lost its first records");
            }
        }
        Ok(())
    }
}

fn shown(key: &Key, row: &Row) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: row.value.clone(),
        create_revision: row.created,
        mod_revision: row.modified,
        version: quorate_types::Version(row.version),
        lease: row.lease,
    }
}

/// Leases that a command of the entry has revoked.
fn revoked(entry: &Entry, out: &Outputs) -> BTreeSet<LeaseId> {
    fn look(ops: &[Op], results: &[OpResult], revoked: &mut BTreeSet<LeaseId>) {
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (Op::LeaseRevoke { lease }, OpResult::Done {}) => drop(revoked.insert(*lease)),
                (Op::Nested { commit }, OpResult::Nested { branch, results }) => {
                    look(ran(commit, *branch), results, revoked);
                }
                _ => {}
            }
        }
    }
    let mut revoked = BTreeSet::new();
    for (command, outcome) in entry.commands.iter().zip(&out.outcomes) {
        if let (CommandBody::Commit { commit }, Outcome::Committed { committed }) = (&command.body, outcome)
            && !committed.replayed
        {
            look(ran(commit, committed.branch), &committed.results, &mut revoked);
        }
    }
    revoked
}

fn ran(commit: &Commit, branch: Branch) -> &[Op] {
    match branch {
        Branch::Then => &commit.then,
        Branch::Else => commit.otherwise.as_deref().unwrap_or_default(),
    }
}
