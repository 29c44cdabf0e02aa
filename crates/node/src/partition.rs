//! A partition: one log, one machine, driven in turns. What only a replica does is in `replica.rs`.
//!
//! Invariant: outcomes leave in the order of the log; a ticket is answered exactly once.
//! Invariant: once the log has failed, nothing is acknowledged any more.
//! Called by: `runtime` and the simulator. Read [`Partition::turn`] and [`Partition::complete`] first.

use crate::admission::{Bounds, Pressure, Refused, Waiting, admit};
use crate::background::{Background, Done, Work};
use crate::config::Config;
use crate::evictor::Evictor;
use crate::replica::{Replica, ReplicaConfig};
use crate::waiters::{Interest, Waiters, WatchId};
use crate::why::Decisions;
use quorate_calls::events::Classes;
use quorate_engine::{
    Clock, Engine, EngineError, Instant, Job, JobDone, Local, Opened, Proposal, Raft, RaftConfig,
};
use quorate_log::{Disk, LogReader};
use quorate_machine::{CALLS_SINCE, Event, Machine, Outputs, RestoreError, Restorer, Times};
use quorate_types::{
    Blob, Command, CommandBody, Decided, Entry, GuardFailed, Key, LimitName, LogIndex, LogTime, NodeId,
    Origin, Outcome, Refusal, Revision, Term, WallTime,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What opening found, worth saying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The snapshot that was restored.
    pub snapshot: Option<LogIndex>,
    /// Entries replayed after it.
    pub entries: u64,
    /// Commands replayed.
    pub commands: u64,
    /// What a crash left unfinished and was cut, and other repairs, in words.
    pub notes: Vec<String>,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log or an entry of it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The snapshot's contents.
    #[error(
        "snapshot {file}: {error}. Nothing was changed: open it with the release that wrote it, or restore a backup"
    )]
    Snapshot {
        /// The file.
        file: String,
        /// Why.
        error: RestoreError,
    },
    /// The snapshot's file.
    #[error(transparent)]
    Log(#[from] quorate_log::LogError),
    /// The log was written by newer rules.
    #[error("entry {index} asks for machine version {found}, this build has {wanted}: upgrade")]
    MachineVersion {
        /// The entry.
        index: LogIndex,
        /// The version it asks for.
        found: u32,
        /// The version of this build.
        wanted: u32,
    },
}

/// The log failed: nothing is acknowledged any more, the process should say so and end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log failed, nothing is acknowledged any more: {why}. What was not answered may or may not have happened; start again on a sound disk and ask by idempotency key"
)]
pub struct Fatal {
    /// What failed.
    pub why: String,
}

/// An answer to a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a command.
    Outcome(Outcome),
    /// To a registered interest: look again.
    Changed,
    /// The node stops, or lost its leader: a command may or may not have happened.
    Indeterminate,
    /// To a read: the state may be read now.
    MayRead,
    /// To a command or read that was admitted, and then never was sent anywhere: it did not happen.
    Refused(Refused),
    /// To a change of the cluster: nothing, or why it was refused.
    Admin(Option<String>),
}

/// How the partition is, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Last entry applied.
    pub applied: LogIndex,
    /// Current revision.
    pub revision: Revision,
    /// Oldest revision that can be read.
    pub oldest_revision: Revision,
    /// The version of the rules in force.
    pub machine_version: u32,
    /// Log time in nanoseconds.
    pub log_time: LogTime,
    /// Wall time in milliseconds since the epoch.
    pub wall: WallTime,
    /// Commands applied since the start.
    pub commands: u64,
    /// Commands refused by a guard, an operation or an idempotency key since the start.
    pub refused: u64,
    /// Commands refused before the log since the start.
    pub not_admitted: u64,
    /// Entries applied since the start.
    pub entries: u64,
    /// Keys evicted since the start, to make room in their keyspace.
    pub evicted: u64,
    /// Commands that wait for their entry.
    pub waiting: u64,
    /// Readers that wait for a change.
    pub readers: u64,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// First entry that is still whole.
    pub log_first: LogIndex,
    /// Index of the newest snapshot; 0 for none.
    pub snapshot: LogIndex,
    /// Whether growth is refused because the disk is nearly full.
    pub disk_low: bool,
    /// Whether growth is refused because the memory bound is near.
    pub memory_low: bool,
    /// Why nothing is taken any more, once the log has failed or the node was stopped.
    pub stopped: Option<String>,
    /// How much the machine holds.
    pub sizes: quorate_machine::Sizes,
}

/// Names of which unlogged denials are counted until the next entry.
const DENIED_NAMES_MAX: usize = 1024;
/// Commands applied in one slice, about: a few milliseconds.
const SLICE_COMMANDS: u64 = 8192;

/// See the module's documentation. `T` is the driver's ticket for an answer.
pub struct Partition<T> {
    pub(crate) config: Config,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) machine: Machine,
    clock: Clock,
    /// The term of the office that the clock was resumed in.
    clocked: Term,
    /// Admitted and not yet ordered: keep-alives first.
    pub(crate) keep_alives: VecDeque<(Command, T)>,
    pub(crate) queue: VecDeque<(Command, T)>,
    pub(crate) waiting: Waiting,
    pub(crate) pressure: Pressure,
    /// Denials answered without an entry, to be counted in the next.
    denied: BTreeMap<LimitName, u64>,
    /// This node, and the life of its process, as origins of commands name them.
    pub(crate) node: NodeId,
    pub(crate) life: u64,
    next_batch: u64,
    /// Batches ordered here or sent to the leader, and not yet applied, by number.
    pub(crate) in_flight: VecDeque<InFlight<T>>,
    /// The term of the last entry applied.
    applied_term: Term,
    pub(crate) waiters: Waiters<T>,
    pub(crate) replies: Vec<(T, Reply)>,
    /// What was told to subscribers and not yet taken.
    pub(crate) published: Vec<Published>,
    /// Whether somebody remembers what it has read, and what has changed and was not taken.
    follows: bool,
    changes: Changes,
    outputs: Outputs,
    pub(crate) decisions: Decisions,
    background: Background,
    pub(crate) evictor: Evictor,
    fatal: Option<Fatal>,
    /// What only a replica has.
    pub(crate) replica: Option<Box<Replica<T>>>,
    commands: u64,
    refused: u64,
    not_admitted: u64,
    entries: u64,
    evicted: u64,
    /// The classes of events that somebody on this node listens to.
    listening: Classes,
}

/// Makes the messages of something that happened to a key. Each node makes its own: nothing is sent between them.
fn happened(classes: Classes, key: &Key, event: &str, published: &mut Vec<Published>) {
    let mut tell = |kind: &str, channel: &[u8], message: Blob| {
        let channel = [format!("__{kind}@{}__:", key.space.0).as_bytes(), channel].concat();
        published.push(Published { channel: channel.into(), message, sharded: false });
    };
    if classes.has(Classes::KEYSPACE) {
        tell("keyspace", &key.name, event.into());
    }
    if classes.has(Classes::KEYEVENT) {
        tell("keyevent", event.as_bytes(), key.name.clone());
    }
}

/// Commands on their way into the log.
pub(crate) struct InFlight<T> {
    pub(crate) batch: u64,
    /// The term in which they were ordered or sent: among the entries of another they cannot be.
    pub(crate) term: Term,
    pub(crate) tickets: Vec<T>,
    pub(crate) taken: Waiting,
    /// When it was, by the monotonic clock of a replica.
    pub(crate) at_ns: u64,
    /// The batch that was sent before it in its term.
    pub(crate) before: u64,
    /// The commands, when they were sent to another node; the engine keeps those that were ordered here.
    pub(crate) commands: Option<Vec<Command>>,
}

/// What has changed, for who remembers what it has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose values may have changed.
    pub keys: Vec<quorate_types::Key>,
    /// Everything may have changed.
    pub all: bool,
    /// What was applied when they were taken: whoever read after it has read all of them.
    pub until: LogIndex,
}

/// Keys that are told of one by one, between two times that changes are taken: of more, everything may have changed.
const CHANGES_MAX: usize = 10_000;

/// Something that subscribers of a channel are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The channel.
    pub channel: Blob,
    /// What they are told.
    pub message: Blob,
    /// Whether it is a sharded channel.
    pub sharded: bool,
}

/// A command that was not admitted, with its ticket.
pub type NotAdmitted<T> = (T, Refused);

impl<T> Partition<T> {
    /// Opens a folder: restores the newest good snapshot and replays the log after it.
    ///
    /// `progress` is told (entries replayed, entries in all). `hash_seed` as for [`Machine::new`].
    ///
    /// # Errors
    /// [`OpenError`] names the file, the offset and what to do; nothing was lost by asking.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        hash_seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, OpenReport), OpenError> {
        let (engine, opened) = Local::open(disk, config.log, config.durability)?;
        Self::assemble(Box::new(engine), opened, config, (NodeId::ZERO, hash_seed), hash_seed, progress)
    }

    /// Opens the folder of a replica, or begins one that is no member of a cluster yet. What is after its snapshot is applied once
    /// a leader has told how far the log is certain.
    ///
    /// # Errors
    /// As [`Partition::open`]; the folder belongs to another node.
    pub fn open_replica(
        disk: Arc<dyn Disk>,
        config: Config,
        replica: ReplicaConfig,
        hash_seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, OpenReport), OpenError> {
        let raft = RaftConfig {
            node: replica.node,
            durability: config.durability,
            log: config.log,
            boot: replica.boot.clone(),
            seed: replica.life,
        };
        let (engine, opened) = Raft::open(disk, &raft)?;
        let who = (replica.node, replica.life);
        let (mut partition, report) =
            Self::assemble(Box::new(engine), opened, config, who, hash_seed, progress)?;
        partition.replica = Some(Box::new(Replica::new(replica)));
        Ok((partition, report))
    }

    fn assemble(
        engine: Box<dyn Engine>,
        opened: Opened,
        config: Config,
        (node, life): (NodeId, u64),
        hash_seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut report = OpenReport { notes: opened.notes, ..OpenReport::default() };
        report.notes.extend(opened.torn.map(|torn| torn.to_string()));
        let mut machine = match opened.snapshot {
            None => Machine::new(hash_seed),
            Some(snapshot) => {
                let file = snapshot.name().to_owned();
                let mut restorer = Restorer::new(hash_seed);
                let damaged = |error| OpenError::Snapshot { file: file.clone(), error };
                for chunk in snapshot {
                    restorer.push(&chunk?).map_err(damaged)?;
                }
                let machine = restorer.finish().map_err(damaged)?;
                report.snapshot = Some(machine.applied());
                machine
            }
        };
        machine = machine.with_interpreter((config.interpreter)()).with_empty_whole(config.empty_whole);
        let mut outputs = Outputs::default();
        let mut decisions =
            Decisions::new(config.refusals_per_name, u64::from(config.log.entry_bytes_max) / 4);
        let mut background = Background::new(machine.applied());
        let total = opened.last.0.saturating_sub(machine.applied().0);
        for entry in opened.entries {
            let entry = entry?;
            if entry.machine_version > config.machine_version {
                let (found, wanted) = (entry.machine_version, config.machine_version);
                return Err(OpenError::MachineVersion { index: entry.index, found, wanted });
            }
            outputs.clear();
            let before = machine.revision();
            machine.apply(&entry, &mut outputs);
            decisions.note(&entry, &outputs, &machine, before);
            background.applied(&entry);
            report.entries += 1;
            report.commands += entry.commands.len() as u64;
            if report.entries.is_multiple_of(1024) {
                progress(report.entries, total);
            }
        }
        progress(report.entries, total);
        let clock = Clock::resume(machine.wall(), machine.log_time());
        let mut partition = Self {
            config,
            engine,
            machine,
            clock,
            clocked: Term::default(),
            keep_alives: VecDeque::new(),
            queue: VecDeque::new(),
            waiting: Waiting::default(),
            pressure: Pressure::default(),
            denied: BTreeMap::new(),
            node,
            life,
            next_batch: 1,
            in_flight: VecDeque::new(),
            applied_term: Term::ZERO,
            waiters: Waiters::default(),
            replies: Vec::new(),
            published: Vec::new(),
            follows: false,
            changes: Changes::default(),
            outputs,
            decisions,
            background,
            evictor: Evictor::default(),
            fatal: None,
            replica: None,
            commands: 0,
            refused: 0,
            not_admitted: 0,
            entries: 0,
            evicted: 0,
            listening: Classes::default(),
        };
        partition.background.resume(partition.engine.log());
        Ok((partition, report))
    }

    /// Admits a command, to be ordered by the next turn; its ticket comes back in [`Partition::take_replies`].
    ///
    /// The fingerprint of a commit with an idempotency key is set here.
    ///
    /// # Errors
    /// [`Refused`]: it did not happen and never will.
    pub fn propose(&mut self, mut command: Command, ticket: T) -> Result<(), NotAdmitted<T>> {
        if let Some(fatal) = &self.fatal {
            return Err((ticket, Refused::Stopped { why: fatal.why.clone() }));
        }
        if let Some(why) = self.leaderless() {
            self.not_admitted += 1;
            return Err((ticket, Refused::NoLeader { why }));
        }
        if let Some(why) = self.unknown_to_some(&command) {
            self.not_admitted += 1;
            return Err((ticket, Refused::NoLeader { why }));
        }
        let bounds = Bounds {
            commands_max: self.config.waiting_commands_max,
            bytes_max: self.config.waiting_bytes_max,
        };
        let bytes = match admit(&command, &self.config.limits, bounds, self.waiting, self.pressure()) {
            Ok(bytes) => bytes,
            Err(refused) => {
                self.not_admitted += 1;
                return Err((ticket, refused));
            }
        };
        if let CommandBody::Commit { commit } = &mut command.body
            && commit.idempotency.is_some()
        {
            let fingerprint = commit.fingerprint();
            commit.idempotency.as_mut().expect("it was just seen").fingerprint = fingerprint;
        }
        self.waiting.commands += 1;
        self.waiting.bytes += bytes;
        self.queue_of(&command).push_back((command, ticket));
        Ok(())
    }

    /// Answers at once a command that a limit alone denies: a flood of them costs no log. The denials are counted in the next entry.
    /// A replica would have to ask its quorum first whether it still leads, so it lets the log decide.
    pub fn deny(&mut self, command: &Command, now: Instant) -> Option<Outcome> {
        if self.fatal.is_none()
            && let Some(refusal) = self.machine.forbids(command)
        {
            self.refused += 1;
            return Some(Outcome::Refused { refusal });
        }
        let CommandBody::Commit { commit } = &command.body else { return None };
        if commit.guards.is_empty() || self.fatal.is_some() || self.replica.is_some() {
            return None;
        }
        let (wall, time) = self.clock.clone().tick(now);
        let refusal = self.machine.denied_by_limits(commit, wall, time)?;
        let Refusal::Guards { failed } = &refusal else { return None };
        for (_, why) in failed {
            if let GuardFailed::Limit { report, .. } = why
                && (self.denied.len() < DENIED_NAMES_MAX || self.denied.contains_key(&report.name))
            {
                *self.denied.entry(report.name.clone()).or_default() += 1;
            }
        }
        self.refused += 1;
        Some(Outcome::Refused { refusal })
    }

    /// Orders what has arrived, and what is due. Call it when something has arrived, and at [`Partition::next_wake`].
    /// `seed` is fresh entropy.
    ///
    /// # Errors
    /// [`Fatal`] once the log has failed.
    pub fn turn(&mut self, now: Instant, seed: u64) -> Result<(), Fatal> {
        self.alive()?;
        self.beat(now)?;
        if self.engine.standing().orders {
            self.order_all(now, seed)?;
        } else {
            self.evictor.rest();
            self.forward_all();
        }
        self.apply_certain()?;
        self.background.turn(&mut self.machine, self.engine.as_ref(), &self.config);
        Ok(())
    }

    /// The orderer's clocks at `now`; nothing where nothing is ordered. Whatever others come to hear of the clocks is read here, so that
    /// they are resumed once an office, before their first reading.
    pub(crate) fn office_clocks(&mut self, now: Instant) -> Option<(WallTime, LogTime)> {
        let standing = self.engine.standing();
        if !standing.leads {
            return None;
        }
        if let Some(raft) = self.engine.as_replica()
            && self.clocked != standing.term
        {
            let (wall, time) = raft.office();
            self.clock = Clock::resume(wall.max(self.machine.wall()), time.max(self.machine.log_time()));
            self.clocked = standing.term;
        }
        Some(self.clock.tick(now))
    }

    /// Orders what every turn of a leader does. Requires: this node orders.
    fn order_all(&mut self, now: Instant, seed: u64) -> Result<(), Fatal> {
        let Some((wall, time)) = self.office_clocks(now) else { return Ok(()) };
        // Logged at the very first too: what a later release holds for a default must not change what this log means.
        let unsaid =
            self.machine.applied() == LogIndex::ZERO || self.machine.settings() != &self.config.settings;
        let up_to_date = self.is_up_to_date();
        if unsaid && up_to_date {
            let settings = self.config.settings.clone();
            let configure = Command::new("server".into(), CommandBody::Configure { settings });
            self.order(vec![configure], Vec::new(), (wall, time, seed))?;
        }
        // Ahead of the commands that arrived with it: they may need the newer rules.
        if up_to_date && let Some(to) = self.version_for_all() {
            let raise = Command::new("server".into(), CommandBody::RaiseVersion { to });
            self.order(vec![raise], Vec::new(), (wall, time, seed))?;
        }
        let mut salt = seed;
        let may_wait = self.waits_for_round() && !self.due((wall, time));
        while !may_wait && self.has_arrivals() {
            let (mut commands, origins) = self.gather();
            self.make_room(&commands, (wall, time, salt))?;
            // They have no origin: nobody waits for them.
            commands.extend(
                std::mem::take(&mut self.denied)
                    .into_iter()
                    .map(|(name, count)| Command::new("server".into(), CommandBody::Denied { name, count })),
            );
            self.order(commands, origins, (wall, time, salt))?;
            salt = salt.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        }
        let wants_entry = self.wants_sweep()
            || self.due((wall, time))
            || self.background.wants_entry(self.decisions.logged());
        if wants_entry && self.is_up_to_date() {
            self.order(Vec::new(), Vec::new(), (wall, time, salt))?;
        } else if self.is_up_to_date() {
            self.make_room(&[], (wall, time, salt))?;
        }
        Ok(())
    }

    /// Commands for one entry, and whose they are: keep-alives first, wherever they came from.
    fn gather(&mut self) -> (Vec<Command>, Vec<Origin>) {
        let mut commands = Vec::with_capacity((self.queue.len() + self.keep_alives.len()).min(1024));
        let mut origins = Vec::new();
        let mut room = self.config.entry_bytes.min(self.batch_room());
        for keep_alives in [true, false] {
            self.gather_arrived(keep_alives, &mut room, &mut commands, &mut origins);
            let Some((own, tickets, taken)) = self.gather_own(keep_alives, room) else { continue };
            room = room.saturating_sub(taken.bytes);
            let term = self.engine.standing().term;
            origins.push(self.launch(own.len(), term, tickets, taken, None));
            commands.extend(own);
        }
        (commands, origins)
    }

    /// Commands of this node's clients, up to about `room` bytes and at least one.
    pub(crate) fn gather_own(
        &mut self,
        keep_alives: bool,
        room: u64,
    ) -> Option<(Vec<Command>, Vec<T>, Waiting)> {
        let queue = if keep_alives { &mut self.keep_alives } else { &mut self.queue };
        if queue.is_empty() || room == 0 {
            return None;
        }
        let (mut commands, mut tickets, mut taken) = (Vec::new(), Vec::new(), Waiting::default());
        while taken.bytes < room
            && let Some((command, ticket)) = queue.pop_front()
        {
            taken.commands += 1;
            taken.bytes += self.config.limits.weigh(&command).unwrap_or(0);
            commands.push(command);
            tickets.push(ticket);
        }
        Some((commands, tickets, taken))
    }

    /// Numbers a batch of commands, so that it is found again in its entry.
    pub(crate) fn launch(
        &mut self,
        count: usize,
        term: Term,
        tickets: Vec<T>,
        taken: Waiting,
        commands: Option<Vec<Command>>,
    ) -> Origin {
        let batch = self.next_batch;
        self.next_batch += 1;
        let at_ns = self.replica.as_ref().map_or(0, |replica| replica.now_ns());
        self.in_flight.push_back(InFlight { batch, term, tickets, taken, at_ns, before: 0, commands });
        let commands = u32::try_from(count).expect("an entry has fewer than 2^32 commands");
        Origin { node: self.node, life: self.life, batch, commands }
    }

    /// I/O to be run now; one at a time makes the largest batches. Its outcome comes back by [`Partition::complete`].
    pub fn take_job(&mut self) -> Option<Job> {
        self.engine.take_job()
    }

    /// I/O that syncs what was written before: every so often under [`Durability::Interval`].
    pub fn take_sync_job(&mut self) -> Option<Job> {
        self.engine.take_sync_job()
    }

    /// I/O that notes on disk, without a sync, that everything is synced: when idle, and at the end.
    pub fn take_mark_job(&mut self) -> Option<Job> {
        self.engine.take_mark_job()
    }

    /// Takes the outcome of a job and applies what is certain now.
    ///
    /// # Errors
    /// [`Fatal`] when the job failed: all tickets are answered as indeterminate.
    pub fn complete(&mut self, done: JobDone) -> Result<(), Fatal> {
        if let Err(error) = self.engine.complete(done) {
            return Err(self.fail(error.to_string()));
        }
        self.apply_certain()?;
        self.background.turn(&mut self.machine, self.engine.as_ref(), &self.config);
        Ok(())
    }

    /// Applies what is certain, up to a slice: a replica that catches up must not hold its thread for long.
    pub(crate) fn apply_certain(&mut self) -> Result<(), Fatal> {
        let until = self.commands + self.entries + SLICE_COMMANDS;
        while self.commands + self.entries < until {
            match self.engine.next_committed() {
                Ok(Some(entry)) if entry.machine_version > self.config.machine_version => {
                    let (found, wanted) = (entry.machine_version, self.config.machine_version);
                    let index = entry.index;
                    return Err(self.fail(OpenError::MachineVersion { index, found, wanted }.to_string()));
                }
                Ok(Some(entry)) => self.apply(&entry),
                Ok(None) => break,
                Err(error) => return Err(self.fail(error.to_string())),
            }
        }
        self.answer_reads();
        Ok(())
    }

    /// Answers that are ready, in order.
    pub fn take_replies(&mut self) -> std::vec::Drain<'_, (T, Reply)> {
        self.replies.drain(..)
    }

    /// Tells the subscribers on every node, without an entry: whoever is away does not hear of it.
    pub fn publish(&mut self, published: Published) {
        self.spread(&published);
        self.published.push(published);
    }

    /// Says which events of keys somebody on this node listens to: those are told as if they were published, and nothing else is computed.
    pub fn listen(&mut self, classes: Classes) {
        if self.listening != classes {
            self.listening = classes;
            self.machine.listen(classes.tells());
        }
    }

    /// What subscribers are to be told, in order.
    pub fn take_published(&mut self) -> std::vec::Drain<'_, Published> {
        self.published.drain(..)
    }

    /// Whether changes are kept to be taken from now on; whether they were. Those of the time before are not told.
    pub fn follow(&mut self, on: bool) -> bool {
        if !on {
            self.changes = Changes::default();
        }
        std::mem::replace(&mut self.follows, on)
    }

    /// What has changed, if something has.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let some = self.changes.all || !self.changes.keys.is_empty();
        let until = self.machine.applied();
        some.then(|| Changes { until, ..std::mem::take(&mut self.changes) })
    }

    fn note_changes(&mut self, before: Revision) {
        let Self { changes, machine, outputs, .. } = self;
        for event in &outputs.events {
            match event {
                Event::Flushed { .. } => changes.all = true,
                Event::StreamAppended { stream, .. } => changes.keys.push(stream.clone()),
                _ => {}
            }
        }
        if machine.revision() > before && !changes.all {
            // What history has forgotten already cannot be told.
            changes.all = machine.compacted() > before;
            let left = CHANGES_MAX.saturating_sub(changes.keys.len());
            let keys = machine.touched_since(before.next()).filter(|key| !key.space.is_internal());
            changes.keys.extend(keys.take(left + 1).cloned());
            changes.all |= changes.keys.len() > CHANGES_MAX;
        }
        if changes.all {
            changes.keys = Vec::new();
        }
    }

    /// The times of now, as far as this node knows them and never before those of the last entry: they tell a reader how much is left of what
    /// is there. What is there is decided by the last entry alone.
    #[must_use]
    pub fn times(&self, now: Instant) -> Times {
        let (wall, time) = if self.engine.standing().orders {
            self.clock.clone().tick(now)
        } else {
            (WallTime::ZERO, LogTime::ZERO)
        };
        Times { wall: wall.max(self.machine.wall()), time: time.max(self.machine.log_time()) }
    }

    /// Slow I/O to be run where it may wait: segments made ahead, snapshots, cleaning.
    pub fn take_work(&mut self) -> Option<Work> {
        let logged = self.decisions.logged();
        self.background.take_work(&self.machine, self.engine.log_mut(), &self.config, logged)
    }

    /// Takes the outcome of slow work; what is worth telling an operator comes back in words.
    pub fn work_done(&mut self, done: Done) -> Option<String> {
        self.background.done(done, self.engine.as_mut())
    }

    /// The state, for reading. What is applied is certain, so reading it is linearizable unless [`Partition::overdue`].
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether something is due at `now` that no entry has ended yet: a read must wait for an entry first.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> bool {
        if !self.engine.standing().orders {
            return false;
        }
        self.due(self.clock.clone().tick(now))
    }

    /// Nanoseconds of monotonic time until a turn is needed though nothing arrives; 0 for now.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Option<u64> {
        let makes_room = self.evictor.more && self.is_up_to_date();
        if self.background.wants_turn() || self.engine.has_committed() || makes_room {
            return Some(0);
        }
        let tick = self.engine.as_replica().map(|replica| replica.next_tick(now));
        if !self.engine.standing().orders {
            return tick;
        }
        let (wall, time) = self.clock.clone().tick(now);
        let (due_log, due_wall) = self.machine.next_due();
        if self.wants_sweep() {
            return Some(0);
        }
        let log = due_log.map(|due| due.0.saturating_sub(time.0));
        let wall = due_wall.map(|due| due.0.saturating_sub(wall.0).saturating_mul(1_000_000));
        log.into_iter().chain(wall).chain(tick).min()
    }

    /// Registers for one change; the ticket comes back as [`Reply::Changed`]. Look at the machine first, in the same breath.
    pub fn watch(&mut self, interest: Interest, ticket: T) -> WatchId {
        self.waiters.register(interest, ticket)
    }

    /// Takes a registration back.
    pub fn unwatch(&mut self, id: WatchId) -> Option<T> {
        self.waiters.unregister(id)
    }

    /// Tells what is nearly full, as the driver found it: growth is refused until it says otherwise.
    pub fn set_pressure(&mut self, disk: bool, memory: bool) {
        self.pressure = Pressure { disk, memory };
    }

    /// A handle for reading the log on any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.engine.log().reader()
    }

    /// The engine, for backups and free space.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Whether the disk has too little room for growth; an unanswered question counts as no.
    #[must_use]
    pub fn disk_is_low(&self) -> bool {
        self.engine.log().space().is_ok_and(|space| space.low)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What entries came to that is not in the log yet, for `why`.
    #[must_use]
    pub fn decided(&self) -> Vec<Decided> {
        self.decisions.pending()
    }

    /// Takes a snapshot as soon as it can, whatever the configuration says.
    pub fn snapshot_soon(&mut self) {
        self.background.snapshot_soon();
    }

    /// Whether something has arrived that no turn has ordered yet.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        !self.queue.is_empty() || !self.keep_alives.is_empty() || self.has_arrived()
    }

    /// Whether everything proposed is applied, or never will be.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.fatal.is_some()
            || (!self.has_arrivals() && self.in_flight.is_empty() && self.engine.in_flight() == 0)
    }

    /// Why nothing is acknowledged any more; nothing while the partition serves.
    #[must_use]
    pub fn stopped(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// Stops taking commands and answers everyone who waits; what is in flight may or may not have happened.
    pub fn stop(&mut self, why: &str) {
        self.fail(why.to_owned());
    }

    /// How the partition is.
    #[must_use]
    pub fn status(&self) -> Status {
        let log = self.engine.log();
        Status {
            applied: self.machine.applied(),
            revision: self.machine.revision(),
            oldest_revision: self.machine.oldest_revision(),
            machine_version: self.machine.version(),
            log_time: self.machine.log_time(),
            wall: self.machine.wall(),
            commands: self.commands,
            refused: self.refused,
            not_admitted: self.not_admitted,
            entries: self.entries,
            evicted: self.evicted,
            waiting: self.waiting.commands,
            readers: self.waiters.readers() as u64,
            log_bytes: log.file_bytes(),
            log_first: LogIndex(log.first().0),
            snapshot: LogIndex(log.snapshots().last().map_or(0, |index| index.0)),
            disk_low: self.pressure.disk,
            memory_low: self.pressure.memory,
            stopped: self.fatal.as_ref().map(|fatal| fatal.why.clone()),
            sizes: self.machine.sizes(),
        }
    }

    /// Whether everything ordered is applied: what the machine shows is all there is.
    fn is_up_to_date(&self) -> bool {
        self.engine.last() == self.machine.applied()
    }

    pub(crate) fn order(
        &mut self,
        commands: Vec<Command>,
        origins: Vec<Origin>,
        (wall, time, seed): (WallTime, LogTime, u64),
    ) -> Result<(), Fatal> {
        let decided = self.decisions.take();
        let machine_version = self.machine.version();
        let proposal = Proposal { wall, time, seed, machine_version, commands, origins, decided };
        match self.engine.propose(proposal) {
            Ok(index) => {
                self.ordered_one(index);
                Ok(())
            }
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    /// Why a command must not be logged yet: a member of another build could not read it.
    fn unknown_to_some(&self, command: &Command) -> Option<String> {
        let known = self.machine.version().max(self.version_for_all().unwrap_or_default());
        if known >= CALLS_SINCE || !command.has_calls() {
            return None;
        }
        Some(format!(
            "not every node of the cluster knows calls yet (machine version {known}, wanted {CALLS_SINCE})"
        ))
    }

    fn apply(&mut self, entry: &Entry) {
        if entry.term > self.applied_term {
            self.applied_term = entry.term;
            self.send_again();
        }
        let before = self.machine.revision();
        self.outputs.clear();
        self.machine.apply(entry, &mut self.outputs);
        self.evictor.applied(entry.index);
        self.entries += 1;
        self.commands += entry.commands.len() as u64;
        self.decisions.note(entry, &self.outputs, &self.machine, before);
        self.background.applied(entry);
        // Outcomes before events: a waiter must be parked before its grant is told.
        let mut outcomes = self.outputs.outcomes.drain(..).zip(&entry.commands);
        for origin in &entry.origins {
            let count = origin.commands as usize;
            let own = (origin.node, origin.life) == (self.node, self.life);
            let found = self.in_flight.binary_search_by_key(&origin.batch, |batch| batch.batch);
            let batch = found.ok().filter(|_| own).and_then(|at| self.in_flight.remove(at));
            let Some(batch) = batch else {
                outcomes.by_ref().take(count).for_each(drop);
                continue;
            };
            self.waiting -= batch.taken;
            for ((outcome, command), ticket) in outcomes.by_ref().take(count).zip(batch.tickets) {
                self.refused += u64::from(matches!(outcome, Outcome::Refused { .. }));
                match (&outcome, &command.body) {
                    (Outcome::Queued { .. }, CommandBody::Wait { wait }) => {
                        self.waiters.park(wait.lock.clone(), wait.lease, wait.request, ticket);
                    }
                    _ => self.replies.push((ticket, Reply::Outcome(outcome))),
                }
            }
        }
        drop(outcomes);
        if self.follows {
            self.note_changes(before);
        }
        let (mut told, mut answered) = (Vec::new(), Vec::new());
        for event in &self.outputs.events {
            self.waiters.happened(event, &mut told, &mut answered);
            match event {
                Event::Published { channel, message, sharded } => {
                    let (channel, message) = (channel.clone(), message.clone());
                    self.published.push(Published { channel, message, sharded: *sharded });
                }
                Event::Evicted { .. } => self.evicted += 1,
                Event::Happened { key, class, event } if self.listening.has(*class) => {
                    happened(self.listening, key, event, &mut self.published);
                }
                _ => {}
            }
        }
        if self.machine.revision() > before {
            if self.machine.compacted() > before {
                self.waiters.forgotten(&mut told);
            }
            self.waiters.changed(self.machine.touched_since(before.next()), &mut told);
            self.waiters.moved(&mut told);
        }
        self.replies.extend(answered.into_iter().map(|(ticket, outcome)| (ticket, Reply::Outcome(outcome))));
        self.replies.extend(told.into_iter().map(|ticket| (ticket, Reply::Changed)));
        self.applied_one();
    }

    /// Takes back what was ordered or sent in an earlier term and is not among its entries: it never will be, so it goes again. Its
    /// order among itself stays.
    fn send_again(&mut self) {
        let term = self.applied_term;
        let mut own: BTreeMap<u64, Vec<Command>> = BTreeMap::new();
        for entry in self.engine.replica().map(Raft::take_superseded).unwrap_or_default() {
            self.decisions.give_back(entry.decided);
            let mut commands = entry.commands.into_iter();
            for origin in entry.origins {
                let taken: Vec<Command> = commands.by_ref().take(origin.commands as usize).collect();
                // Other nodes number their batches alike, and send theirs again themselves.
                if (origin.node, origin.life) == (self.node, self.life) {
                    own.insert(origin.batch, taken);
                }
            }
        }
        if self.in_flight.front().is_none_or(|batch| batch.term >= term) {
            return;
        }
        // Numbers rise with terms, so that the old ones are all in front.
        let old = self.in_flight.partition_point(|batch| batch.term < term);
        let lost: Vec<InFlight<T>> = self.in_flight.drain(..old).collect();
        for batch in lost.into_iter().rev() {
            let Some(commands) = batch.commands.or_else(|| own.remove(&batch.batch)) else {
                // Nobody else can tell what it was.
                self.leave_open(batch.taken, batch.tickets);
                continue;
            };
            for (command, ticket) in commands.into_iter().zip(batch.tickets).rev() {
                self.queue_of(&command).push_front((command, ticket));
            }
        }
    }

    /// Where a command of this node's clients waits.
    fn queue_of(&mut self, command: &Command) -> &mut VecDeque<(Command, T)> {
        if command.body.is_keep_alive() { &mut self.keep_alives } else { &mut self.queue }
    }

    /// Tells the clients of a batch that it may or may not have happened, and counts it no longer.
    pub(crate) fn leave_open(&mut self, taken: Waiting, tickets: Vec<T>) {
        self.waiting -= taken;
        self.replies.extend(tickets.into_iter().map(|ticket| (ticket, Reply::Indeterminate)));
    }

    /// Whether an entry is needed that frees a part of what emptied keyspaces left: one at a time, others' commands join it.
    fn wants_sweep(&self) -> bool {
        self.machine.sweeps() && self.is_up_to_date()
    }

    pub(crate) fn due(&self, (wall, time): (WallTime, LogTime)) -> bool {
        let (due_log, due_wall) = self.machine.next_due();
        due_log.is_some_and(|due| due <= time) || due_wall.is_some_and(|due| due <= wall)
    }

    pub(crate) fn alive(&self) -> Result<(), Fatal> {
        self.fatal.clone().map_or(Ok(()), Err)
    }

    /// Ends everything; what was not answered is indeterminate.
    pub(crate) fn fail(&mut self, why: String) -> Fatal {
        let fatal = self.fatal.get_or_insert(Fatal { why }).clone();
        let queued = self.keep_alives.drain(..).chain(self.queue.drain(..)).map(|(_, ticket)| ticket);
        let in_flight = self.in_flight.drain(..).flat_map(|batch| batch.tickets);
        let reads = self.replica.as_mut().map(|replica| replica.drain()).unwrap_or_default();
        let tickets: Vec<T> = in_flight.chain(queued).chain(self.waiters.drain()).chain(reads).collect();
        self.replies.extend(tickets.into_iter().map(|ticket| (ticket, Reply::Indeterminate)));
        self.waiting = Waiting::default();
        fatal
    }
}
