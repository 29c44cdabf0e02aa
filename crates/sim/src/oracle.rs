//! The history as it was written: a follower reads the log's own bytes, applies them to a machine that has never stopped, and holds
//! every answer, every recovery and every read against them.
//!
//! The follower starts from nothing and keeps every entry, so "digest of replay = digest of live state" covers the whole log, cleaned
//! segments included. When a power loss may cost a suffix (`interval`, `none`), history is cut there and told anew.
//!
//! Invariant: an entry is followed only once the node has applied it: what is not certain is nobody's history.
//! Called by: the driver.

use crate::calls::model::{Told as Message, told};
use crate::calls::{JUDGED, call, words};
use crate::model::{Check, Model, ensure};
use crate::plant::Plant;
use crate::probes::Probes;
use crate::random::Random;
use quorate_calls::Deadline;
use quorate_engine::Durability;
use quorate_log::{Index, LogReader};
use quorate_machine::{Event, Hand, Machine, Outputs, RestoreError, Restorer};
use quorate_node::{Config, Reply};
use quorate_types::codec::encode;
use quorate_types::{
    Blob, Command, CommandBody, Commit, Entry, Key, KeyValue, LeaseId, LockName, LogIndex, LogTime, Millis,
    Mode, Offset, Op, OpError, Outcome, PayloadRef, Produce, Refusal, Revision, TRANSACTION_MS_MAX, Term,
    WallTime, record,
};
use std::collections::{BTreeMap, BTreeSet};

/// Names one proposal; it travels as the client's name in the command.
pub(crate) type OpId = u64;

/// Hash seed of the follower: other than any node's, so that order by hash cannot hide.
pub(crate) const FOLLOWER: u64 = 0x00f0_110e;

/// So few keys of a keyspace are told of when it is emptied: with more they fall at once, and are swept.
pub(crate) const EMPTY_WHOLE: u64 = 3;

/// The section of a snapshot that holds the elements of collections (docs/formats/snapshot.md): its number, how many pieces, and whether the
/// first goes on where the last chunk ended.
const BODIES: u8 = 12;

/// A machine that starts from nothing and never stops.
pub(crate) fn follower() -> Machine {
    Machine::new(FOLLOWER).with_interpreter((Config::default().interpreter)()).with_empty_whole(EMPTY_WHOLE)
}

/// An entry and what it came to when it was followed.
struct Told {
    entry: Entry,
    body_hash: u64,
}

/// A machine under a copied snapshot.
struct Copy {
    digest: u128,
    chunks: Vec<Vec<u8>>,
}

/// What was read at a revision.
struct Sample {
    key: Key,
    at: Revision,
    found: Option<KeyValue>,
}

/// See the module's documentation.
pub(crate) struct Oracle {
    plant: Option<Plant>,
    machine: Machine,
    model: Model,
    told: Vec<Told>,
    /// Proposals as they were sent and not seen in the log yet.
    sent: BTreeMap<OpId, Command>,
    /// Proposals in the log, with their place and what came of them.
    outcomes: BTreeMap<OpId, (LogIndex, Outcome)>,
    /// How waits in queues ended.
    waits: BTreeMap<Wait, Vec<(LogIndex, Outcome)>>,
    /// Answers to be compared once the history has come so far.
    answers: Vec<(OpId, Reply)>,
    /// What each entry told subscribers.
    messages: BTreeMap<LogIndex, Vec<Message>>,
    /// A planted bug is to restart deadlines with the next entry.
    rearm: bool,
    samples: Vec<Sample>,
    copy: Option<Copy>,
    out: Outputs,
    /// Hash of all answers in order.
    pub(crate) answers_hash: u64,
    /// The latest readings that the node was given.
    pub(crate) office: LogTime,
    pub(crate) wall_max: WallTime,
}

impl Oracle {
    pub(crate) fn new(plant: Option<Plant>) -> Self {
        Self {
            plant,
            machine: follower(),
            model: Model::default(),
            told: Vec::new(),
            messages: BTreeMap::new(),
            rearm: false,
            sent: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            waits: BTreeMap::new(),
            answers: Vec::new(),
            samples: Vec::new(),
            copy: None,
            out: Outputs::default(),
            answers_hash: 0,
            office: LogTime::ZERO,
            wall_max: WallTime::ZERO,
        }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The follower's state: what the history came to.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn commands(&self) -> u64 {
        self.outcomes.len() as u64
    }

    /// What came of a proposal, if it is in the log.
    pub(crate) fn outcome(&self, op: OpId) -> Option<&Outcome> {
        self.outcomes.get(&op).map(|(_, outcome)| outcome)
    }

    /// Notes a proposal that was admitted.
    pub(crate) fn sent(&mut self, op: OpId, command: Command) {
        self.sent.insert(op, command);
    }

    /// Notes an answer, in the order in which answers left.
    pub(crate) fn answered(&mut self, op: OpId, reply: &Reply) {
        let mut bytes = op.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.answers_hash.to_le_bytes());
        match reply {
            Reply::Outcome(outcome) => bytes.extend_from_slice(&encode(outcome)),
            Reply::Changed => bytes.push(1),
            Reply::Indeterminate => bytes.push(2),
            // Of a replica only.
            Reply::MayRead | Reply::Refused(_) | Reply::Admin(_) => bytes.push(3),
        }
        self.answers_hash = xxhash_rust::xxh3::xxh3_64(&bytes);
        self.answers.push((op, reply.clone()));
    }

    /// Follows the log to `last`, and compares the answers given so far.
    pub(crate) fn follow(&mut self, log: &LogReader, last: LogIndex, probes: &mut Probes) -> Check {
        let next = self.machine.applied().next();
        if next <= last {
            let entries =
                log.entries(Index(next.0)).map_err(|error| format!("following the log: {error}"))?;
            for entry in entries.take((last.0 - next.0 + 1) as usize) {
                let entry = entry.map_err(|error| format!("following the log: {error}"))?;
                // Copied out: a slice would keep the whole window that it was read with.
                let body = bytes::Bytes::copy_from_slice(&entry.body);
                let body_hash = xxhash_rust::xxh3::xxh3_64(&body);
                let entry = Entry::decode_body(LogIndex(entry.index.0), Term(entry.term.0), &body)
                    .map_err(|error| format!("entry {} cannot be read: {error}", entry.index))?;
                self.arrived(&entry)?;
                self.apply(&entry, probes)?;
                self.told.push(Told { entry, body_hash });
            }
            ensure!(self.machine.applied() == last, "the log ends at {}, not {last}", self.machine.applied());
        }
        self.compare_answers()
    }

    /// What is checked of an entry when it is first seen.
    fn arrived(&mut self, entry: &Entry) -> Check {
        ensure!(
            entry.time <= self.office,
            "log time ran ahead: entry {} says {}, in office were {}",
            entry.index,
            entry.time,
            self.office
        );
        ensure!(entry.wall <= self.wall_max, "wall time {} was never read: {}", entry.wall, self.wall_max);
        for command in &entry.commands {
            let Some(op) = op_of(command) else { continue };
            ensure!(!self.outcomes.contains_key(&op), "proposal {op} is in the log twice");
            let Some(sent) = self.sent.remove(&op) else {
                return Err(format!("proposal {op} is in the log and was never sent: {command:?}"));
            };
            ensure!(same(&sent, command), "proposal {op} was sent as {sent:?}, logged as {command:?}");
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, probes: &mut Probes) -> Check {
        self.out.clear();
        if self.follows_badly() {
            // A broken follower's answers are nobody's: its state is what has to be found out.
            self.machine.apply(&self.broken(entry), &mut self.out);
            return Ok(());
        }
        match self.tampered(entry) {
            Some(tampered) => self.machine.apply(&tampered, &mut self.out),
            None => self.machine.apply(entry, &mut self.out),
        }
        self.out.outcomes.truncate(entry.commands.len());
        let flushed = self.out.events.iter().any(|event| matches!(event, Event::Flushed { .. }));
        if flushed && self.machine.sweeps() {
            probes.hit("calls: a keyspace emptied at once");
        }
        let messages: Vec<Message> = self.out.events.iter().filter_map(told).collect();
        if !messages.is_empty() {
            probes.hit("calls: a message told");
            self.messages.insert(entry.index, messages);
        }
        for (command, outcome) in entry.commands.iter().zip(&self.out.outcomes) {
            if let Some(op) = op_of(command) {
                self.outcomes.insert(op, (entry.index, outcome.clone()));
            }
        }
        for (wait, outcome) in self.out.events.iter().filter_map(wait_end) {
            self.waits.entry(wait).or_default().push((entry.index, outcome));
        }
        self.model.take(entry, &self.out, probes)?;
        self.model.alarms().agrees(&self.machine)?;
        self.model.door().agrees(&self.machine)
    }

    fn follows_badly(&self) -> bool {
        matches!(self.plant, Some(Plant::ReplayDrops | Plant::ReplaySwaps | Plant::ReplayRepeats))
    }

    /// The entry as a follower takes it whose handling of calls is broken: only what judges calls may find it.
    fn tampered(&mut self, entry: &Entry) -> Option<Entry> {
        let mut tampered = entry.clone();
        let again = |op: Op| {
            let commit = Commit { mode: Mode::Each, ..Commit::of(vec![op]) };
            Command::new("planted".into(), CommandBody::Commit { commit })
        };
        match self.plant? {
            Plant::OwnClock => tampered.wall = entry.wall.plus(Millis(700)),
            // Leases are named from it too: an entry that could show that is left alone.
            Plant::OwnSeed if entry.commands.iter().all(only_calls) => tampered.seed ^= 0x5eed,
            Plant::UndoForgotten => {
                for command in &entry.commands {
                    let CommandBody::Commit { commit } = &command.body else { continue };
                    if commit.mode == Mode::Atomic && commit.then.last() == Some(&words::bogus()) {
                        tampered.commands.push(again(commit.then[0].clone()));
                    }
                }
            }
            Plant::OwnEviction => {
                for command in &mut tampered.commands {
                    let CommandBody::Evict { space, keys } = &mut command.body else { continue };
                    let (bounds, times) = ((u64::MAX, keys.len()), (entry.wall, entry.time));
                    let (going, mut hand) = (BTreeSet::new(), Hand::default());
                    *keys = self.machine.victims(*space, bounds, times, 7, &going, &mut hand).names;
                }
            }
            Plant::DeadlineRestarts if std::mem::take(&mut self.rearm) => {
                let keys = self.model.calls().known().filter(|(key, deadline, _)| {
                    key.space == JUDGED && matches!(deadline, Some(Deadline::Log(at)) if *at > entry.time)
                });
                let keys = keys.filter_map(|(key, ..)| key.name.as_text());
                tampered.commands.extend(keys.map(|name| again(call(JUDGED, &["PEXPIRE", name, "900"]))));
            }
            Plant::AlarmForgotten if std::mem::take(&mut self.rearm) => {
                let down = |(member, kind)| CommandBody::Alarm { member, kind, up: false };
                let bodies: Vec<CommandBody> = self.machine.alarms().map(down).collect();
                tampered.commands.extend(bodies.into_iter().map(|body| Command::new("planted".into(), body)));
            }
            Plant::AlarmTooWide => {
                for command in &mut tampered.commands {
                    let CommandBody::Commit { commit } = &mut command.body else { continue };
                    // What never runs: a rule that looks at it takes each delete for something that grows.
                    if commit.guards.is_empty() && commit.otherwise.is_none() && commit.mode == Mode::Atomic {
                        let key = Key::new("u/never");
                        let put = Op::Put { key, value: Blob::EMPTY, lease: LeaseId::ZERO, prev: false };
                        commit.otherwise = Some(vec![put]);
                    }
                }
            }
            Plant::TransactionOverdue | Plant::RiderForgotten | Plant::RiderUnguarded => {
                for command in &mut tampered.commands {
                    let CommandBody::Commit { commit } = &mut command.body else { continue };
                    commit.then.iter_mut().for_each(|op| self.produces_wrongly(op));
                }
            }
            _ => return None,
        }
        Some(tampered)
    }

    /// A producer's operation as a follower takes it whose transactions or riders are broken.
    fn produces_wrongly(&self, op: &mut Op) {
        let Op::Produce { produce } = op else { return };
        match (self.plant, &mut **produce) {
            (Some(Plant::TransactionOverdue), Produce::TakeOver { timeout, .. }) => {
                *timeout = Millis(TRANSACTION_MS_MAX);
            }
            (
                Some(Plant::RiderForgotten),
                Produce::AppendWith { rider, .. } | Produce::HoldWith { rider, .. },
            ) => {
                rider.then.clear();
            }
            (
                Some(Plant::RiderUnguarded),
                Produce::AppendWith { rider, .. } | Produce::HoldWith { rider, .. },
            ) => {
                rider.guards.clear();
            }
            _ => {}
        }
    }

    /// Whether a planted bug is one that the judge of calls has to find alone, from the follower's answers.
    fn judges_alone(&self) -> bool {
        matches!(
            self.plant,
            Some(
                Plant::OwnClock
                    | Plant::UndoForgotten
                    | Plant::DeadlineRestarts
                    | Plant::AlarmForgotten
                    | Plant::AlarmTooWide
                    | Plant::TransactionOverdue
                    | Plant::RiderForgotten
                    | Plant::RiderUnguarded
            )
        )
    }

    /// What entries after `from` told subscribers.
    pub(crate) fn messages(&self, from: LogIndex) -> impl Iterator<Item = &Message> {
        self.messages.range(from.next()..).flat_map(|(_, messages)| messages)
    }

    /// The entry as a broken follower takes it.
    fn broken(&self, entry: &Entry) -> Entry {
        let mut followed = entry.clone();
        if entry.commands.len() > 1 && entry.index.0.is_multiple_of(16) {
            match self.plant {
                Some(Plant::ReplayDrops) => drop(followed.commands.pop()),
                Some(Plant::ReplaySwaps) => followed.commands.reverse(),
                _ => followed.commands.push(entry.commands[0].clone()),
            }
        }
        followed
    }

    fn compare_answers(&mut self) -> Check {
        for (op, reply) in std::mem::take(&mut self.answers) {
            let Reply::Outcome(answer) = reply else { continue };
            if self.follows_badly() || self.judges_alone() {
                continue;
            }
            let Some((_, outcome)) = self.outcomes.get(&op) else {
                return Err(format!("proposal {op} was answered with {answer:?} and is not in the log"));
            };
            if *outcome == answer {
                continue;
            }
            // A queued wait is answered by what ended it.
            let queued = matches!(outcome, Outcome::Queued { .. });
            let ended = queued && self.waits.values().flatten().any(|(_, ended)| *ended == answer);
            ensure!(ended, "proposal {op} came to {outcome:?}, its client was told {answer:?}");
        }
        Ok(())
    }

    /// Checks what a recovery has given: `applied` and `digest` are those of the node that died, `synced` what its log had synced.
    #[expect(clippy::too_many_arguments, reason = "two lives of a node, seen from outside")]
    pub(crate) fn recovered(
        &mut self,
        node: &Machine,
        log: &LogReader,
        durability: Durability,
        power_loss: bool,
        applied: LogIndex,
        digest: u128,
        synced: LogIndex,
        probes: &mut Probes,
    ) -> Check {
        let last = node.applied();
        ensure!(last >= synced, "the log was synced to {synced}, recovery ends at {last}");
        let may_lose = power_loss && durability != Durability::Always;
        ensure!(
            last >= applied || may_lose,
            "commits up to entry {applied} were acknowledged, recovery ends at entry {last}"
        );
        if last < applied {
            probes.hit("restart: power loss cost an unsynced suffix");
            self.cut(last)?;
        }
        self.compare_log(log)?;
        self.follow(log, applied.min(last), probes)?;
        self.rearm = true;
        if last >= applied && !self.judges_alone() {
            ensure!(
                self.machine.digest() == digest,
                "at entry {applied} the state that died and the log's replay have different digests"
            );
        }
        self.follow(log, last, probes)?;
        ensure!(
            self.judges_alone() || self.machine.digest() == node.digest(),
            "at entry {last} the recovered state and the whole log's replay have different digests"
        );
        // What was sent and is not in the log has not happened and never will.
        self.sent.clear();
        Ok(())
    }

    /// Entries that are still whole are, byte for byte, those that were followed.
    fn compare_log(&self, log: &LogReader) -> Check {
        let first = log.first();
        let told = self.told.len() as u64;
        if first.0 > told {
            return Ok(());
        }
        let entries = log.entries(first).map_err(|error| format!("reading the log: {error}"))?;
        for entry in entries.take((told + 1 - first.0) as usize) {
            let entry = entry.map_err(|error| format!("reading the log: {error}"))?;
            let known = &self.told[entry.index.0 as usize - 1];
            let same = known.body_hash == xxhash_rust::xxh3::xxh3_64(&entry.body);
            ensure!(same, "entry {} has come back changed", entry.index);
        }
        Ok(())
    }

    /// Forgets everything after `last`, which a power loss was allowed to cost.
    fn cut(&mut self, last: LogIndex) -> Check {
        if last >= self.machine.applied() {
            // What had been acknowledged and not followed yet is gone too, and its answers with it.
            self.answers.clear();
            return Ok(());
        }
        self.told.truncate(last.0 as usize);
        self.outcomes.retain(|_, (index, _)| *index <= last);
        for ended in self.waits.values_mut() {
            ended.retain(|(index, _)| *index <= last);
        }
        self.answers.clear();
        self.copy = None;
        self.messages.retain(|index, _| *index <= last);
        self.machine = follower();
        self.model = Model::default();
        let told = std::mem::take(&mut self.told);
        for Told { entry, .. } in &told {
            self.out.clear();
            self.machine.apply(entry, &mut self.out);
            self.model.take(entry, &self.out, &mut Probes::default())?;
        }
        self.told = told;
        let revision = self.machine.revision();
        self.samples.retain(|sample| sample.at <= revision);
        Ok(())
    }

    /// Compares a live node, which the follower has caught up with, by state, by model, by payloads and by old reads.
    pub(crate) fn agrees(
        &mut self,
        node: &Machine,
        log: &LogReader,
        random: &mut Random,
        probes: &mut Probes,
    ) -> Check {
        node.check();
        ensure!(
            self.judges_alone() || node.digest() == self.machine.digest(),
            "at entry {} the live state and the log's replay have different digests",
            node.applied()
        );
        if !self.follows_badly() && !self.judges_alone() {
            self.model.agrees(node, probes)?;
        }
        self.payloads(node, log)?;
        self.compacted_streams(node, log)?;
        self.old_reads(node, random, probes)?;
        self.copy_snapshot(probes)
    }

    /// Every payload that the state refers to is there, with the bytes that were sent.
    fn payloads(&self, node: &Machine, log: &LogReader) -> Check {
        let mut sent: BTreeMap<u64, Vec<bytes::Bytes>> = BTreeMap::new();
        for at in node.live_payloads(LogIndex(1), node.applied()) {
            let wanted = sent.entry(at.index.0).or_insert_with(|| self.payloads_of(at.index));
            let Some(wanted) = wanted.get(at.sub as usize) else {
                return Err(format!("the state refers to payload {at:?}, which nobody sent"));
            };
            let found = log.payload(Index(at.index.0), at.sub);
            let found = found.map_err(|error| format!("payload {at:?} cannot be read: {error}"))?;
            ensure!(found == *wanted, "payload {at:?} has come back changed");
        }
        Ok(())
    }

    fn payloads_of(&self, index: LogIndex) -> Vec<bytes::Bytes> {
        let mut payloads = Vec::new();
        let Some(told) = self.told.get(index.0 as usize - 1) else { return payloads };
        for command in &told.entry.commands {
            if let CommandBody::Commit { commit } = &command.body {
                commit.clone().for_each_payload(&mut |payload| payloads.push(payload.bytes.clone()));
            }
        }
        payloads
    }

    /// The newest record of every key of a compacted stream is served.
    fn compacted_streams(&self, node: &Machine, log: &LogReader) -> Check {
        for stream in node.streams() {
            let Some(view) = node.stream(&stream).filter(|view| view.settings.compact) else { continue };
            if view.settings.retention.bytes.is_some() || view.settings.retention.age.is_some() {
                continue;
            }
            for partition in 0..view.partitions.len() as u32 {
                let served = served(node, log, &stream, partition)?;
                let newest = self.model.newest_of(&stream, partition, |at| {
                    self.payloads_of(at.index).get(at.sub as usize).cloned()
                })?;
                for (key, (offset, tombstone)) in newest {
                    let there = served.get(&key) == Some(&offset);
                    ensure!(
                        there || tombstone,
                        "{stream}/{partition}: the newest record of key {key} at {offset} is not served"
                    );
                }
            }
        }
        Ok(())
    }

    fn old_reads(&mut self, node: &Machine, random: &mut Random, probes: &mut Probes) -> Check {
        for sample in &self.samples {
            match node.get_at(&sample.key, sample.at) {
                Ok(found) => {
                    probes.hit("keys: read at an old revision");
                    ensure!(
                        found == sample.found,
                        "{} at revision {} was {:?}, is now read as {found:?}",
                        sample.key,
                        sample.at,
                        sample.found
                    );
                }
                Err(OpError::Compacted { .. }) => {
                    probes.hit("keys: read below the oldest revision refused");
                    ensure!(
                        sample.at < node.oldest_revision(),
                        "revision {} is retained and refused",
                        sample.at
                    );
                }
                Err(error) => return Err(format!("{} at revision {}: {error}", sample.key, sample.at)),
            }
        }
        for _ in 0..4 {
            let key = Key::new(format!("k/{}", random.below(40)));
            let found = node.get(&key);
            self.samples.push(Sample { key, at: node.revision(), found });
        }
        let old = self.samples.len().saturating_sub(48);
        self.samples.drain(..old);
        Ok(())
    }

    /// A snapshot taken while the state goes on, and read back, is the state it was begun at.
    fn copy_snapshot(&mut self, probes: &mut Probes) -> Check {
        let Some(mut copy) = self.copy.take() else {
            self.machine.snapshot_begin();
            self.copy = Some(Copy { digest: self.machine.digest(), chunks: Vec::new() });
            return Ok(());
        };
        while let Some(chunk) = self.machine.snapshot_next(7) {
            copy.chunks.push(chunk);
        }
        if copy.chunks.iter().any(|chunk| matches!(chunk[..], [BODIES, _, 1, ..])) {
            probes.hit("snapshot: a collection in slices");
        }
        if self.plant == Some(Plant::SnapshotUnpinned) {
            self.write_as_it_is(&mut copy.chunks);
        }
        if self.plant == Some(Plant::SnapshotChunkLost) {
            // From the middle, where the order of sections does not show it.
            copy.chunks.remove(copy.chunks.len() / 3);
        }
        let restored =
            restore(&copy.chunks).map_err(|error| format!("a snapshot cannot be read back: {error}"))?;
        restored.check();
        ensure!(
            restored.digest() == copy.digest,
            "a snapshot read back differs from the state it was taken of"
        );
        probes.hit("snapshot: copied while the state went on");
        Ok(())
    }

    /// Puts the elements of now in the place of those that were pinned: a planted bug.
    fn write_as_it_is(&mut self, chunks: &mut Vec<Vec<u8>>) {
        let is_elements = |chunk: &Vec<u8>| chunk[0] == BODIES;
        let Some(place) = chunks.iter().position(is_elements) else { return };
        chunks.retain(|chunk| !is_elements(chunk));
        self.machine.snapshot_begin();
        let mut elements = Vec::new();
        while let Some(chunk) = self.machine.snapshot_next(7) {
            elements.extend(is_elements(&chunk).then_some(chunk));
        }
        chunks.splice(place..place, elements);
    }

    /// A slice of the snapshot under way, as the node takes them between turns.
    pub(crate) fn slice(&mut self) {
        if let Some(copy) = &mut self.copy
            && copy.chunks.len() < 40
            && let Some(chunk) = self.machine.snapshot_next(7)
        {
            copy.chunks.push(chunk);
        }
    }
}

fn restore(chunks: &[Vec<u8>]) -> Result<Machine, RestoreError> {
    let mut restorer = Restorer::new(FOLLOWER ^ 1);
    for chunk in chunks {
        restorer.push(&bytes::Bytes::copy_from_slice(chunk))?;
    }
    restorer.finish()
}

/// The offsets that a reader of a compacted partition is served, by key.
fn served(node: &Machine, log: &LogReader, stream: &Key, partition: u32) -> Check<BTreeMap<Blob, u64>> {
    let found = node
        .records(stream, partition, Offset::ZERO, u64::MAX, u64::MAX)
        .map_err(|error| error.to_string())?;
    let mut served = BTreeMap::new();
    for batch in found.batches {
        let PayloadRef { index, sub } = batch.at;
        let payload = log.payload(Index(index.0), sub).map_err(|error| error.to_string())?;
        let keys = record::keys(&payload, batch.records).map_err(|error| error.to_string())?;
        for (place, (key, _)) in keys.into_iter().enumerate() {
            let place = place as u32;
            if let Some(key) = key.filter(|_| !batch.dead.contains(&place)) {
                served.insert(key, batch.base.0 + u64::from(place));
            }
        }
    }
    Ok(served)
}

/// A wait in the queue of a lock.
pub(crate) type Wait = (LockName, LeaseId, u64);

/// Whether a command is a commit of calls and of nothing else.
fn only_calls(command: &Command) -> bool {
    let CommandBody::Commit { commit } = &command.body else { return false };
    commit.then.iter().all(|op| matches!(op, Op::Call { .. }))
}

/// How a wait has ended, if that is what happened.
pub(crate) fn wait_end(event: &Event) -> Option<(Wait, Outcome)> {
    match event {
        Event::Granted { lock, lease, request, token } => {
            Some(((lock.clone(), *lease, *request), Outcome::Granted { token: *token }))
        }
        Event::WaitEnded { lock, lease, request, error } => {
            let refusal = Refusal::Command { error: error.clone() };
            Some(((lock.clone(), *lease, *request), Outcome::Refused { refusal }))
        }
        _ => None,
    }
}

/// The proposal that a command belongs to.
pub(crate) fn op_of(command: &Command) -> Option<OpId> {
    command.client.as_text()?.parse().ok()
}

/// Whether two commands ask for the same, but for the fingerprint that admission sets.
pub(crate) fn same(sent: &Command, logged: &Command) -> bool {
    let mut sent = sent.clone();
    if let (CommandBody::Commit { commit: sent }, CommandBody::Commit { commit: logged }) =
        (&mut sent.body, &logged.body)
        && let (Some(sent), Some(logged)) = (&mut sent.idempotency, &logged.idempotency)
    {
        sent.fingerprint = logged.fingerprint;
    }
    sent == *logged
}
