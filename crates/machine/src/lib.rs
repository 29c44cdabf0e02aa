//! The machine: every primitive, in memory, decided entry by entry. `(state, entry) -> (state', outcomes, events)`.
//!
//! Start at [`Machine::apply`]. A commit is decided in `commit.rs`; each primitive has a module of its own; `snapshot.rs`
//! turns the state into bytes while it goes on changing. Effects are made in place and undone if the commit is refused:
//! nobody reads between two operations, so that is an overlay published whole or dropped, without its copies.
//!
//! Invariant: no clock, no entropy, no I/O, no thread and no iteration whose order differs between processes: the same
//! state and the same entry give the same outcomes, byte for byte, on every replica and every replay.
//! Invariant: `apply` never fails. A refused command is an outcome.
//! Called by: `node`, which owns one machine per partition, and by the simulator.

mod alarms;
mod bodies;
mod calls;
mod commit;
mod consumers;
mod groups;
mod idempotency;
mod keys;
mod leases;
mod libraries;
mod limits;
mod locks;
mod members;
mod memory;
mod names;
mod near;
mod offsets;
mod producers;
mod reads;
mod recency;
mod riders;
mod roles;
mod rows;
mod services;
mod slab;
mod snapshot;
mod streams;
mod table;
mod tasks;
mod transactions;
mod users;
mod xgroups;

pub use alarms::{CORRUPT, grows};
pub use calls::{CALLS_SINCE, Times};
pub use consumers::{ConsumerView, ConsumersView, Progress};
pub use groups::{GroupPartition, GroupView};
pub use keys::{Change, Changes, Kind, RangeAnswer, Selection};
pub use locks::{LockView, Waiter};
pub use members::{Agreed, Expected, MemberView, MembersView, Phase, Standing};
pub use memory::{Hand, KEY_BYTES, MemoryView, Victims};
pub use near::NEAR;
pub use producers::ProducerView;
pub use reads::{LeaseView, Sizes};
pub use services::{registered, service_range, services_range};
pub use snapshot::{RestoreError, Restorer, Snapshot};
pub use streams::{BatchRef, Batches, PartitionView, StreamId, StreamView};
pub use tasks::{Due, TaskView};
pub use transactions::{Stage, TransactionView};
pub use users::{Access, Rights};

use quorate_calls::events::{Classes, KeyChange};
use quorate_calls::{Interpreter, NoScripts};
use quorate_types::codec::{Wire, Writer};
use quorate_types::{
    AlarmKind, Blob, Command, CommandBody, Commit, Entry, FencingToken, GroupName, Key, Keyspace, LeaseId,
    LockName, LogIndex, LogTime, MemoryLimit, Millis, NodeId, OnRefused, OpError, Outcome, Principal,
    Refusal, RequestId, Resolution, Revision, Settings, TaskName, WaitRequest, WallTime,
};

/// The newest version of the rules by which entries are decided that this build knows. A state follows the version that its log last
/// raised it to ([`Machine::version`]), so that replicas of different builds decide alike.
pub const MACHINE_VERSION: u32 = 2;

/// Keys that a flush deletes one by one, each with a line of the history: some 10 ms.
pub const EMPTY_WHOLE: u64 = 4_000;

/// Largest revision that a command may raise to: what commits add to it never comes near the end of 64 bits.
const REVISION_MAX: Revision = Revision(1 << 62);

/// What an entry tells the machine beside its commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) index: LogIndex,
    pub(crate) wall: WallTime,
    pub(crate) time: LogTime,
    pub(crate) seed: u64,
}

/// What applying an entry gives.
#[derive(Debug, Default)]
pub struct Outputs {
    /// One outcome for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// What happened beside the outcomes, in order.
    pub events: Vec<Event>,
    /// Tasks that fired.
    pub fired: Vec<Fired>,
}

impl Outputs {
    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        self.outcomes.clear();
        self.events.clear();
        self.fired.clear();
    }
}

/// Something that happened to others than the sender of a command. Changes of keys are read from history instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A waiter holds its lock now.
    Granted {
        /// The lock.
        lock: LockName,
        /// The session.
        lease: LeaseId,
        /// Its request.
        request: RequestId,
        /// The token.
        token: FencingToken,
    },
    /// A waiter left the queue without the lock.
    WaitEnded {
        /// The lock.
        lock: LockName,
        /// The session.
        lease: LeaseId,
        /// Its request.
        request: RequestId,
        /// Why.
        error: OpError,
    },
    /// Records were appended.
    StreamAppended {
        /// The stream.
        stream: Key,
        /// Its partition.
        partition: u32,
    },
    /// Records of a shared group may be taken.
    GroupReady {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
    },
    /// A group's phase or members have changed, which somebody may wait for.
    GroupMoved {
        /// The group.
        group: GroupName,
    },
    /// A lease ended.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
    },
    /// A call has emptied a keyspace.
    Flushed {
        /// The keyspace.
        space: Keyspace,
    },
    /// A call told the subscribers of a channel something.
    Published {
        /// The channel.
        channel: Blob,
        /// What it told them.
        message: Blob,
        /// Whether it is a sharded channel (SPUBLISH).
        sharded: bool,
    },
    /// A key was deleted to make room.
    Evicted {
        /// The key.
        key: Key,
    },
    /// Something that listeners to keys are told, while there are some.
    Happened {
        /// The key.
        key: Key,
        /// The class of the event.
        class: Classes,
        /// Its name, in Redis' words.
        event: &'static str,
    },
}

/// A task that fired, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Its name.
    pub task: TaskName,
    /// Whose commit it was.
    pub principal: Principal,
    /// The commit.
    pub commit: Commit,
    /// What came of it.
    pub outcome: Outcome,
}

/// The state of one partition. See the crate's documentation.
pub struct Machine {
    settings: Settings,
    /// The version of the rules in force.
    version: u32,
    applied: LogIndex,
    revision: Revision,
    wall: WallTime,
    time: LogTime,
    keys: keys::Keys,
    /// Elements of keys that are no plain values.
    /// What streams remember of their producers: those are the groups, their messages the consumers, and the records what is pending.
    producers: xgroups::XGroups,
    bodies: bodies::Bodies,
    /// Producers that number their batches.
    numbered: producers::Producers,
    /// What they send in transactions.
    transactions: transactions::Transactions,
    /// Scripts that EVALSHA may name, by the SHA-1 of their text.
    scripts: table::Table<Blob, Blob>,
    /// Libraries of functions.
    libraries: libraries::Libraries,
    /// What keyspaces may hold.
    limits_of_memory: table::Table<Keyspace, MemoryLimit>,
    /// Alarms that were raised by hand.
    alarms: table::Table<(NodeId, AlarmKind), bool>,
    interpreter: Box<dyn Interpreter>,
    /// Whether somebody on this node listens to what happens to keys; no state.
    listens: bool,
    /// What the call in hand has done to keys, while somebody listens.
    key_changes: Vec<KeyChange>,
    /// See [`Machine::with_empty_whole`].
    empty_whole: u64,
    /// Random numbers drawn in the entry in hand.
    draws: u64,
    /// Elements that the commit in hand has touched.
    touches: u64,
    /// Records that scripts of the entry in hand have appended.
    inline_records: u32,
    leases: leases::Leases,
    users: users::Users,
    locks: locks::Locks,
    idempotency: idempotency::Idempotency,
    limits: limits::Limits,
    tasks: tasks::Tasks,
    streams: streams::Streams,
    groups: groups::Groups,
    /// Groups as Redis has them.
    xgroups: xgroups::XGroups,
    /// How far groups of members are.
    offsets: offsets::Offsets,
    members: members::Members,
    /// Groups whose partitions the server divides.
    consumers: consumers::Consumers,
    /// Whether the commit in hand has changed something that counts as a revision.
    moved: bool,
    /// Locks given back by the command in hand, whose queues have to be looked at when it is done.
    touched: Vec<LockName>,
    /// See [`Machine::trail`].
    trail: u128,
    snapshot: Option<snapshot::Progress>,
    /// Memory to encode in; holds nothing between commands.
    scratch: Writer,
}

impl Machine {
    /// An empty machine. `hash_seed` hides where rows lie from those who choose keys; it never shows in any outcome.
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        Self {
            settings: Settings::default(),
            version: 1,
            applied: LogIndex::ZERO,
            revision: Revision::ZERO,
            wall: WallTime::ZERO,
            time: LogTime::ZERO,
            keys: keys::Keys::new(hash_seed),
            producers: xgroups::XGroups::default(),
            bodies: bodies::Bodies::default(),
            numbered: producers::Producers::default(),
            transactions: transactions::Transactions::default(),
            scripts: table::Table::default(),
            libraries: libraries::Libraries::default(),
            limits_of_memory: table::Table::default(),
            alarms: table::Table::default(),
            interpreter: Box::new(NoScripts),
            listens: false,
            key_changes: Vec::new(),
            empty_whole: EMPTY_WHOLE,
            draws: 0,
            touches: 0,
            inline_records: 0,
            leases: leases::Leases::default(),
            users: users::Users::default(),
            locks: locks::Locks::default(),
            idempotency: idempotency::Idempotency::new(hash_seed),
            limits: limits::Limits::default(),
            tasks: tasks::Tasks::default(),
            streams: streams::Streams::default(),
            groups: groups::Groups::default(),
            xgroups: xgroups::XGroups::default(),
            offsets: offsets::Offsets::default(),
            members: members::Members::default(),
            consumers: consumers::Consumers::default(),
            moved: false,
            touched: Vec::new(),
            trail: 0,
            snapshot: None,
            scratch: Writer::default(),
        }
    }

    /// Hands in what runs scripts; without one, they are refused. It must be the same on every replica.
    #[must_use]
    pub fn with_interpreter(mut self, interpreter: Box<dyn Interpreter>) -> Self {
        self.interpreter = interpreter;
        self
    }

    /// How many keys an emptied keyspace has at most for each to be a line of the history; of more there is none, and watchers begin anew. It must be
    /// the same on every replica, so it is for tests, which reach the other way with few keys.
    #[must_use]
    pub fn with_empty_whole(mut self, keys: u64) -> Self {
        self.empty_whole = keys;
        self
    }

    /// Whether something is left to be freed that every entry frees a part of: an idle partition should make some.
    #[must_use]
    pub fn sweeps(&self) -> bool {
        self.keys.sweeps() || self.keys.frees()
    }

    /// Applies one entry. Same state and same entry: same outcomes, byte for byte, on every replica and every replay.
    /// An entry of the engine's own has both clocks at zero and moves neither.
    ///
    /// Keep-alives at the head of the entry come first: they arrived before it was stamped, and must not lose to the
    /// expiry it brings. Then everything due at its log time ends, then the other commands run in order.
    ///
    /// # Panics
    /// When the entry does not follow the last one, or its clocks run backwards: the engine is broken.
    pub fn apply(&mut self, entry: &Entry, out: &mut Outputs) {
        assert!(
            entry.index == self.applied.next(),
            "log gap: applied {}, offered {}",
            self.applied,
            entry.index
        );
        let engines =
            entry.commands.is_empty() && entry.wall == WallTime::ZERO && entry.time == LogTime::ZERO;
        let (wall, time) = if engines { (self.wall, self.time) } else { (entry.wall, entry.time) };
        assert!(time >= self.time, "log time ran backwards: {time} after {}", self.time);
        assert!(wall >= self.wall, "wall time ran backwards: {wall} after {}", self.wall);
        self.wall = wall;
        self.time = time;
        self.draws = 0;
        self.inline_records = 0;
        let now = Now { index: entry.index, wall, time, seed: entry.seed };
        let (told, revision) = (out.outcomes.len(), self.revision);
        // Ahead of what this entry does: the lines of its own changes stay, for those who wake watchers by them.
        self.sweep();
        let head = entry.commands.iter().take_while(|command| command.body.is_keep_alive()).count();
        for (place, command) in entry.commands.iter().enumerate() {
            if place % NEAR == 0 {
                self.bring_near(&entry.commands[place..entry.commands.len().min(place + NEAR)]);
            }
            if place == head {
                self.expire(&now, out);
            }
            let outcome = self.execute(command, place as u64, &now, out);
            self.finish(&now, out);
            out.outcomes.push(outcome);
        }
        if head == entry.commands.len() {
            self.expire(&now, out);
        }
        self.keys.free_some();
        self.bodies.free_some();
        self.producers.free_some();
        self.xgroups.free_some();
        self.offsets.free_some();
        self.applied = entry.index;
        if out.outcomes.len() > told || self.revision > revision {
            self.follow_trail(&out.outcomes[told..]);
        }
    }

    /// Says whether somebody on this node listens to what happens to keys: then [`Event::Happened`] tells. No outcome depends on it.
    pub fn listen(&mut self, listens: bool) {
        self.listens = listens;
    }

    /// Ends a key that is due. One that has fallen is no key any more: nobody is told.
    fn end_key(&mut self, key: &Key, now: &Now, out: &mut Outputs) {
        let lived = self.keys.get(key).is_some();
        self.drop_key(key, now);
        if lived {
            self.tell_expired(key, out);
        }
    }

    /// Tells that a key has ended by itself.
    fn tell_expired(&self, key: &Key, out: &mut Outputs) {
        if self.listens && !key.space.is_internal() {
            let (class, event) = (Classes::EXPIRED, "expired");
            out.events.push(Event::Happened { key: key.clone(), class, event });
        }
    }

    /// The version of the rules in force: that of the entries to come.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A digest of everything that entries have come to so far, carried in snapshots: replicas that applied the same entries to the same
    /// state have the same trail, so one that went astray is found by comparing a number.
    #[must_use]
    pub fn trail(&self) -> u128 {
        self.trail
    }

    /// Takes what an entry came to into the trail. Answers alone would leave out what happens by itself: the revision tells of it.
    fn follow_trail(&mut self, outcomes: &[Outcome]) {
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.raw(&self.trail.to_le_bytes());
        self.applied.put(scratch);
        self.revision.put(scratch);
        self.time.put(scratch);
        for outcome in outcomes {
            outcome.put(scratch);
        }
        self.trail = xxhash_rust::xxh3::xxh3_128(&scratch.buffer);
        scratch.clear();
    }

    /// When something is due next: by log time, and by wall time. Either may be a little early, never late.
    #[must_use]
    pub fn next_due(&self) -> (Option<LogTime>, Option<WallTime>) {
        let (key_log, key_wall) = self.keys.next_due();
        let (field_log, field_wall) = self.bodies.next_due();
        let log = [
            key_log,
            field_log,
            self.leases.next_due().map(|(time, _)| time),
            self.locks.next_due().map(|(time, ..)| time),
            self.tasks.next_due_log().map(|(time, _)| *time),
            self.groups.next_due(),
            self.idempotency.next_due_hint(),
            self.users.given.next_due(),
            self.offsets.next_due(),
            self.members.next_due(),
            self.consumers.next_due(),
            self.numbered.next_due(),
            self.transactions.next_due(),
        ];
        let task_wall = self.tasks.next_due_wall().map(|(time, _)| *time);
        let wall = [key_wall, field_wall, task_wall, self.streams.next_due_wall()];
        (log.into_iter().flatten().min(), wall.into_iter().flatten().min())
    }

    fn execute(&mut self, command: &Command, place: u64, now: &Now, out: &mut Outputs) -> Outcome {
        let rights = self.rights(&command.principal);
        if let Err(denied) = self.body_allowed(&rights, &command.body) {
            return Outcome::Refused { refusal: Refusal::Denied { denied } };
        }
        if let Some(error) = self.alarmed(command) {
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        match &command.body {
            CommandBody::Commit { commit } => self.commit(&command.principal, commit, place, now, out),
            CommandBody::Wait { wait } => self.wait(wait, now),
            CommandBody::CancelWait { lock, lease, request } => {
                self.cancel_wait(lock, *lease, *request, now, out)
            }
            CommandBody::KeepAlive { leases } => {
                let renew = |lease: &LeaseId| (*lease, self.leases.keep_alive(*lease, now).ok());
                Outcome::Alive { leases: leases.iter().map(renew).collect() }
            }
            CommandBody::Resolve { key, ttl } => self.resolve(&command.principal, key, *ttl, now),
            CommandBody::Compact { before } => self.compact(*before),
            CommandBody::Denied { name, count } => {
                self.limits.deny(name, *count);
                Outcome::Done { revision: self.revision }
            }
            CommandBody::RaiseRevision { to } => {
                if *to > REVISION_MAX {
                    let (what, found, min) = ("revision to raise to".into(), to.0, self.revision.0);
                    let error = OpError::Range { what, found, min, max: REVISION_MAX.0 };
                    return Outcome::Refused { refusal: Refusal::Command { error } };
                }
                self.revision = self.revision.max(*to);
                Outcome::Done { revision: self.revision }
            }
            CommandBody::RaiseVersion { to } => {
                let before = self.version;
                self.version = before.max(*to);
                if (before..self.version).contains(&(CALLS_SINCE - 1)) {
                    self.give_rows(now);
                }
                Outcome::Done { revision: self.revision }
            }
            CommandBody::Configure { settings } => {
                self.settings = settings.clone();
                Outcome::Done { revision: self.revision }
            }
            CommandBody::ChangeUser { name, changes, may_lock_out } => {
                self.change_user(name, changes, *may_lock_out, now)
            }
            CommandBody::RemoveUsers { names, may_lock_out } => self.remove_users(names, *may_lock_out, now),
            CommandBody::ChangeAccess { change, may_lock_out } => {
                self.change_access(change, *may_lock_out, now)
            }
            CommandBody::LimitMemory { space, bytes_max, eviction } => {
                self.limit_memory(*space, *bytes_max, *eviction, now)
            }
            CommandBody::Evict { space, keys } => self.evict(*space, keys, now, out),
            CommandBody::Alarm { member, kind, up } => self.set_alarm(*member, *kind, *up),
        }
    }

    fn wait(&mut self, wait: &WaitRequest, now: &Now) -> Outcome {
        let refuse = |error| Outcome::Refused { refusal: Refusal::Command { error } };
        if let Err(error) = self.leases.live(wait.lease) {
            return refuse(error);
        }
        match self.locks.ask(&wait.lock, wait.lease, wait.request, wait.mode) {
            Err(error) => refuse(error),
            Ok(locks::Asked::Holds(token)) => Outcome::Granted { token },
            Ok(locks::Asked::Waits(ahead)) => {
                if self.locks.waiter(&wait.lock, wait.lease, wait.request).is_none() {
                    self.locks.enqueue(wait, now);
                    let revision = self.revision_now();
                    let row = lock_row(&wait.lock, wait.lease, wait.mode, wait.request);
                    self.keys.put(&row, wait.value.clone(), wait.lease, revision, now.time);
                }
                Outcome::Queued { ahead }
            }
            Ok(locks::Asked::Free) => {
                let token = FencingToken(self.revision_now().0);
                let hold = locks::Hold {
                    lease: wait.lease,
                    request: wait.request,
                    mode: wait.mode,
                    value: wait.value.clone(),
                    since: now.wall,
                };
                self.grant(&wait.lock, token, hold, now);
                Outcome::Granted { token }
            }
        }
    }

    fn cancel_wait(
        &mut self,
        lock: &LockName,
        lease: LeaseId,
        request: RequestId,
        now: &Now,
        out: &mut Outputs,
    ) -> Outcome {
        match self.locks.waiter(lock, lease, request) {
            Some(number) => {
                let error = OpError::NotWaiting { lock: lock.clone(), lease };
                self.end_wait(lock, number, error, now, out);
                Outcome::Done { revision: self.revision }
            }
            None => {
                let error = OpError::NotWaiting { lock: lock.clone(), lease };
                Outcome::Refused { refusal: Refusal::Command { error } }
            }
        }
    }

    fn resolve(
        &mut self,
        principal: &Principal,
        key: &quorate_types::IdempotencyKey,
        ttl: Millis,
        now: &Now,
    ) -> Outcome {
        use idempotency::Kind;
        let scope = idempotency::Scope { principal: principal.clone(), key: key.clone() };
        if let Some((_, record)) = self.idempotency.find(&scope) {
            let resolution = match &record.kind {
                Kind::Answered { answer } => Resolution::Committed { committed: idempotency::answer(answer) },
                Kind::Completed { answer } => Resolution::Completed { answer: answer.clone() },
                Kind::Claimed { token, .. } => Resolution::InProgress { token: *token },
                Kind::Cancelled {} => Resolution::Cancelled {},
            };
            return Outcome::Resolved { resolution };
        }
        let kind = Kind::Cancelled {};
        if let Err((kept, max)) = self.room_for(&scope, &kind) {
            return Outcome::Refused { refusal: Refusal::IdempotencyFull { kept, max } };
        }
        self.idempotency.insert(scope, quorate_types::Fingerprint::default(), ttl, now.time, kind);
        Outcome::Resolved { resolution: Resolution::Cancelled {} }
    }

    fn compact(&mut self, before: Revision) -> Outcome {
        if before > self.revision.next() {
            let error = OpError::Future { asked: before, current: self.revision };
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        if before <= self.keys.compacted() {
            let error = OpError::Compacted { asked: before, oldest: self.keys.compacted() };
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        self.keys.compact_before(before);
        Outcome::Done { revision: self.revision }
    }

    /// Whether a record fits under the cap on idempotency memory.
    fn room_for(&self, scope: &idempotency::Scope, kind: &idempotency::Kind) -> Result<(), (u64, u64)> {
        let kept = self.idempotency.bytes() + idempotency::Idempotency::cost(scope, kind);
        let max = self.settings.idempotency_bytes_max;
        if kept > max { Err((kept, max)) } else { Ok(()) }
    }

    /// The revision of the commit in hand; asking for it makes the commit one that counts.
    fn revision_now(&mut self) -> Revision {
        self.moved = true;
        self.revision.next()
    }

    /// Gives a lock to a session, and shows it.
    fn grant(&mut self, lock: &LockName, token: FencingToken, hold: locks::Hold, now: &Now) {
        let row = lock_row(lock, hold.lease, hold.mode, hold.request);
        self.keys.put(&row, hold.value.clone(), hold.lease, Revision(token.0), now.time);
        self.locks.grant(lock, token, hold);
    }

    /// Takes a lock back; whoever waits for it is looked at when the command is done.
    fn release(&mut self, lock: &LockName, token: FencingToken, now: &Now) -> Result<(), OpError> {
        let hold = self.locks.release(lock, token)?;
        let revision = self.revision_now();
        self.keys.delete(&lock_row(lock, hold.lease, hold.mode, hold.request), revision, now.time);
        self.touched.push(lock.clone());
        Ok(())
    }

    fn end_wait(&mut self, lock: &LockName, number: u64, error: OpError, now: &Now, out: &mut Outputs) {
        let Some(wait) = self.locks.dequeue(lock, number) else { return };
        let revision = self.revision_now();
        self.keys.delete(&lock_row(lock, wait.lease, wait.mode, wait.request), revision, now.time);
        self.touched.push(lock.clone());
        out.events.push(Event::WaitEnded {
            lock: lock.clone(),
            lease: wait.lease,
            request: wait.request,
            error,
        });
    }

    /// Ends a lease and everything that hangs on it, at one revision if any of that counts.
    fn end_lease(&mut self, lease: LeaseId, now: &Now, out: &mut Outputs) -> Result<(), OpError> {
        self.leases.remove(lease)?;
        let (holds, waits) = self.locks.of_lease(lease);
        for (lock, number) in waits {
            self.end_wait(&lock, number, OpError::LeaseMissing { lease }, now, out);
        }
        for (lock, token) in holds {
            self.release(&lock, token, now).expect("of_lease names what is held");
        }
        for (name, slot) in self.limits.slots_of(lease) {
            self.limits.free_slot(&name, lease, &slot);
        }
        for slot in self.idempotency.claims_of(lease) {
            self.idempotency.remove(slot);
        }
        let keys = self.keys.keys_of(lease);
        if !keys.is_empty() {
            let revision = self.revision_now();
            for key in keys {
                self.keys.delete(&key, revision, now.time); // Only plain values hang on leases.
            }
        }
        out.events.push(Event::LeaseEnded { lease });
        self.member_ended(lease, now, out);
        self.consumer_ended(lease, now);
        Ok(())
    }

    /// Ends everything that is due at the entry's times, in order of deadlines, at most so much per entry.
    fn expire(&mut self, now: &Now, out: &mut Outputs) {
        // At least one, or nothing would ever end.
        let expiries_max = self.settings.expiries_per_entry.max(1);
        let mut left = expiries_max;
        while left > 0 {
            // Ties fall in this fixed order: what ends first frees what follows.
            let due = [
                self.leases.next_due().map(|(time, _)| (time, 0)),
                self.locks.next_due().map(|(time, ..)| (time, 1)),
                self.idempotency.next_due().map(|time| (time, 2)),
                self.groups.next_due().map(|time| (time, 3)),
                self.tasks.next_due_log().map(|(time, _)| (*time, 4)),
                self.keys.next_due().0.map(|time| (time, 5)),
                self.bodies.next_due().0.map(|time| (time, 6)),
                self.users.given.next_due().map(|time| (time, 7)),
                self.offsets.next_due().map(|time| (time, 8)),
                self.members.next_due().map(|time| (time, 9)),
                self.numbered.next_due().map(|time| (time, 10)),
                self.transactions.next_due().map(|time| (time, 11)),
                self.consumers.next_due().map(|time| (time, 12)),
            ];
            let Some((_, kind)) = due.into_iter().flatten().filter(|(time, _)| *time <= now.time).min()
            else {
                break;
            };
            left -= 1;
            match kind {
                0 => {
                    let (_, lease) = self.leases.next_due().expect("it is due");
                    self.end_lease(lease, now, out).expect("a lease that is due is there");
                }
                1 => {
                    let (_, lock, number) = self.locks.next_due().expect("it is due");
                    let held = self.locks.newest(&lock);
                    let waiting = self.locks.waiting(&lock).saturating_sub(1);
                    self.end_wait(
                        &lock,
                        number,
                        OpError::LockHeld { lock: lock.clone(), held, waiting },
                        now,
                        out,
                    );
                }
                2 => self.idempotency.expire_next(),
                3 => {
                    let before = out.events.len();
                    self.groups.expire(&mut self.streams, now, 1, &mut out.events);
                    self.count_letters(now, out, before);
                }
                5 => {
                    let key = self.keys.due(WallTime::ZERO, now.time).expect("it is due");
                    self.end_key(&key, now, out);
                }
                6 => {
                    let count = self.drop_fields(WallTime::ZERO, now.time, left as usize + 1, now);
                    left = left.saturating_sub(count as u64 - 1);
                }
                7 => self.users.given.expire_next(),
                8 => self.offsets.expire_next(),
                9 => self.end_phase(now, out),
                10 => self.numbered.expire_next(),
                11 => self.expire_transaction(now.time),
                12 => self.end_consumer(now, out),
                _ => {
                    let name = self.tasks.next_due_log().expect("it is due").1.clone();
                    self.fire(&name, now, out);
                }
            }
            self.finish(now, out);
        }
        for _ in 0..expiries_max {
            let Some((time, name)) = self.tasks.next_due_wall() else { break };
            if *time > now.wall {
                break;
            }
            let name = name.clone();
            self.fire(&name, now, out);
            self.finish(now, out);
        }
        for _ in 0..expiries_max {
            let Some(key) = self.keys.due(now.wall, LogTime::ZERO) else { break };
            self.end_key(&key, now, out);
            self.finish(now, out);
        }
        let mut left = expiries_max as usize;
        while left > 0 {
            let count = self.drop_fields(now.wall, LogTime::ZERO, left, now);
            if count == 0 {
                break;
            }
            left -= count;
            self.finish(now, out);
        }
        if self.streams.next_due_wall().is_some_and(|due| due <= now.wall) {
            self.streams.expire(now, expiries_max as usize);
        }
        self.finish(now, out);
    }

    /// A dead letter is an append: it counts as a revision.
    fn count_letters(&mut self, now: &Now, out: &Outputs, events_before: usize) {
        for event in &out.events[events_before..] {
            if let Event::StreamAppended { stream, .. } = event {
                self.revision_now();
                self.touch_stream(stream, now);
            }
        }
    }

    /// Runs the commit of a due task, once.
    fn fire(&mut self, name: &TaskName, now: &Now, out: &mut Outputs) {
        let mut task = self.tasks.take(name).expect("a task that is due is there");
        // What the commit schedules under the same name must stand: the row is gone before it runs.
        self.finish(now, out);
        // Ids it chooses differ from those of the entry's own commands and of other tasks.
        let place = xxhash_rust::xxh3::xxh3_64(&name.0) | 1 << 63;
        let outcome = self.commit(&task.principal.clone(), &task.commit, place, now, out);
        let fired = Fired {
            task: name.clone(),
            principal: task.principal.clone(),
            commit: task.commit.clone(),
            outcome: outcome.clone(),
        };
        out.fired.push(fired);
        if !matches!(outcome, Outcome::Refused { .. }) {
            return;
        }
        self.finish(now, out);
        task.refused = task.refused.saturating_add(1);
        match task.on_refused.clone() {
            OnRefused::Drop => {}
            OnRefused::Retry { attempts, backoff } => {
                if task.refused < attempts {
                    let doublings = (task.refused - 1).min(20);
                    let wait = Millis(backoff.0.saturating_mul(1 << doublings));
                    task.due = tasks::Due::Log { time: now.time.plus(wait) };
                    self.tasks.schedule(name.clone(), task);
                }
            }
            OnRefused::DeadLetter { letter } => {
                // A letter to what is no stream is dropped; `why` still tells of the firing and its refusal.
                let _ = self.append(&letter, now, out);
            }
        }
    }

    /// What follows every command: queues of locks that were given back, history's window, and no way back.
    fn finish(&mut self, now: &Now, out: &mut Outputs) {
        self.close_revision();
        if !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            touched.sort_unstable();
            touched.dedup();
            for lock in touched {
                self.settle(&lock, now, out);
            }
        }
        let window = keys::Window {
            revisions: self.settings.history_revisions,
            age_ns: self.settings.history_age.0.saturating_mul(1_000_000),
            bytes: self.settings.history_bytes_max,
        };
        self.keys.compact(window, self.revision, self.time);
        self.forget();
    }

    /// Grants a lock to those at the head of its queue that fit: each grant takes its own revision.
    fn settle(&mut self, lock: &LockName, now: &Now, out: &mut Outputs) {
        while let Some(number) = self.locks.next_fitting(lock) {
            let wait = self.locks.dequeue(lock, number).expect("it was just found");
            let token = FencingToken(self.revision_now().0);
            let (lease, request) = (wait.lease, wait.request);
            let hold = locks::Hold { lease, request, mode: wait.mode, value: wait.value, since: now.wall };
            self.grant(lock, token, hold, now);
            self.close_revision();
            out.events.push(Event::Granted { lock: lock.clone(), lease, request, token });
        }
    }

    fn close_revision(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.revision = self.revision.next();
        }
    }

    fn forget(&mut self) {
        self.keys.forget();
        self.bodies.forget();
        self.scripts.forget();
        self.libraries.forget();
        self.limits_of_memory.forget();
        self.alarms.forget();
        self.leases.forget();
        self.users.forget();
        self.locks.forget();
        self.idempotency.forget();
        self.limits.forget();
        self.tasks.forget();
        self.streams.forget();
        self.xgroups.forget();
        self.offsets.forget();
        self.members.forget();
        self.consumers.forget();
        self.producers.forget();
        self.numbered.forget();
        self.transactions.forget();
        self.groups.forget();
    }
}

/// The public row of a holder or waiter: `NAME/<lease hex>`; a semaphore's is `NAME/<lease hex>:<request hex>`.
fn lock_row(lock: &LockName, lease: LeaseId, mode: quorate_types::LockMode, request: RequestId) -> Key {
    let mut name = lock.0.to_vec();
    name.extend_from_slice(format!("/{:x}", lease.0).as_bytes());
    if matches!(mode, quorate_types::LockMode::Semaphore { .. }) {
        // No slash: what follows the last one names the session, whatever slashes the lock's own name has.
        name.extend_from_slice(format!(":{request:x}").as_bytes());
    }
    Key { space: Keyspace::LOCKS, name: Blob::from(name) }
}

/// Hash of what was written into `scratch`.
fn table_digest(scratch: &Writer) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&scratch.buffer)
}
