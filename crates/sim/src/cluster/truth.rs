//! The one history that all replicas must share, and everything that was said about it.
//!
//! Entries are read from each node's own log as that node applies them. The first to apply an entry settles what it is; everybody else,
//! and every later life, must agree to the byte. A machine that never stops applies them too, under another hash seed, and a naive
//! model tells every primitive a second time. The log is a total order, so that linearizability needs no search: an answer must be what
//! the log came to, a command's place must be after everything that was applied anywhere when it was sent, and a read's state must
//! contain all of that too.
//!
//! Invariant: an entry is taken only once a node has applied it: what is not certain is nobody's history.
//! Called by: the cluster's world.
//! Source: Herlihy & Wing, "Linearizability", TOPLAS 1990; state-machine safety, Ongaro & Ousterhout, ATC 2014, §5.4.3.

use crate::calls::model::{Told as Message, told};
use crate::model::{Check, Model, ensure};
use crate::oracle::{OpId, Wait, follower, op_of, same, wait_end};
use crate::probes::Probes;
use quorate_log::{Index, LogReader};
use quorate_machine::{Machine, Outputs};
use quorate_node::Reply;
use quorate_types::codec::encode;
use quorate_types::{Command, CommandBody, Entry, LogIndex, LogTime, Outcome, Term, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// An entry that somebody has applied.
pub(crate) struct Told {
    pub(crate) term: Term,
    body_hash: u64,
    /// Of an entry of commands.
    pub(crate) entry: Option<Entry>,
    /// The reference machine's trail after it.
    trail: u128,
}

/// See the module's documentation.
pub(crate) struct Truth {
    machine: Machine,
    model: Model,
    told: Vec<Told>,
    /// Commands as they were sent and not seen in the log yet, with what was applied anywhere by then.
    sent: BTreeMap<OpId, (Command, LogIndex)>,
    outcomes: BTreeMap<OpId, (LogIndex, Outcome)>,
    /// Commands of which a client was told that they did not happen.
    refused: BTreeSet<OpId>,
    /// How waits in queues ended.
    waits: BTreeMap<Wait, Vec<Outcome>>,
    /// What each entry told subscribers.
    messages: BTreeMap<LogIndex, Vec<Message>>,
    out: Outputs,
    wall: WallTime,
    time: LogTime,
    pub(crate) answers_hash: u64,
    /// The latest wall time that any node could read.
    pub(crate) wall_max: WallTime,
}

/// What is new to everybody.
pub(crate) struct Fresh {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Log time, of an entry of commands.
    pub(crate) time: Option<LogTime>,
}

impl Truth {
    pub(crate) fn new() -> Self {
        Self {
            machine: follower(),
            messages: BTreeMap::new(),
            model: Model::default(),
            told: Vec::new(),
            sent: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            refused: BTreeSet::new(),
            waits: BTreeMap::new(),
            out: Outputs::default(),
            wall: WallTime::ZERO,
            time: LogTime::ZERO,
            answers_hash: 0,
            wall_max: WallTime::ZERO,
        }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The last entry that any node has applied.
    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.told.len() as u64)
    }

    pub(crate) fn told(&self, index: LogIndex) -> Option<&Told> {
        self.told.get((index.0 as usize).wrapping_sub(1))
    }

    /// The last entry that was ordered before `term`.
    pub(crate) fn last_before(&self, term: Term) -> LogIndex {
        LogIndex(self.told.partition_point(|told| told.term < term) as u64)
    }

    /// Log time of the last entry.
    pub(crate) fn time(&self) -> LogTime {
        self.time
    }

    pub(crate) fn commands(&self) -> u64 {
        self.outcomes.len() as u64
    }

    pub(crate) fn outcome(&self, op: OpId) -> Option<&Outcome> {
        self.outcomes.get(&op).map(|(_, outcome)| outcome)
    }

    /// What entries after `from`, up to `last`, told subscribers.
    pub(crate) fn messages(&self, from: LogIndex, last: LogIndex) -> impl Iterator<Item = &Message> {
        let told = self.messages.range(from.next()..).take_while(move |(index, _)| **index <= last);
        told.flat_map(|(_, messages)| messages)
    }

    /// Notes a command that was admitted somewhere.
    pub(crate) fn sent(&mut self, op: OpId, command: Command) {
        let floor = self.applied();
        self.sent.insert(op, (command, floor));
    }

    /// Takes what a node has applied from `from` to its last entry, and gives what nobody had applied before.
    pub(crate) fn follow(
        &mut self,
        node: &Machine,
        log: &LogReader,
        from: LogIndex,
        probes: &mut Probes,
    ) -> Check<Vec<Fresh>> {
        let mut fresh = Vec::new();
        let end = node.applied();
        let mut next = from.next();
        while next <= end {
            let rows = log
                .range(Index(next.0), Index(end.0 + 1), 1 << 20)
                .map_err(|error| format!("what was applied cannot be read: {error}"))?;
            for row in rows {
                let (index, term) = (LogIndex(row.index.0), Term(row.term.0));
                let body_hash = xxhash_rust::xxh3::xxh3_64(&row.body);
                if let Some(told) = self.told(index) {
                    ensure!(
                        (told.term, told.body_hash) == (term, body_hash),
                        "entry {index} was committed twice: first with term {}, now with term {term}",
                        told.term
                    );
                } else {
                    let time = self.take(index, term, &row.body, body_hash, probes)?;
                    fresh.push(Fresh { index, term, time });
                }
                next = index.next();
            }
        }
        if let Some(told) = self.told(end) {
            ensure!(node.trail() == told.trail, "at entry {end} the state went another way than the history");
        }
        Ok(fresh)
    }

    fn take(
        &mut self,
        index: LogIndex,
        term: Term,
        body: &bytes::Bytes,
        body_hash: u64,
        probes: &mut Probes,
    ) -> Check<Option<LogTime>> {
        ensure!(
            index == self.applied().next(),
            "entry {index} was applied, nobody has told entry {}",
            self.applied().next()
        );
        if let Some(last) = self.told.last() {
            ensure!(term >= last.term, "entry {index} has term {term}, the one before it {}", last.term);
        }
        // What consensus adds for itself is empty or begins with a zero.
        let commands = body.first().is_some_and(|first| *first != 0);
        self.out.clear();
        if !commands {
            let entry = Entry { index, term, ..Entry::default() };
            self.machine.apply(&entry, &mut self.out);
            // The machine leaves the clocks alone at such an entry; the model is told them.
            let clocked = Entry { wall: self.wall, time: self.time, ..entry };
            self.model.take(&clocked, &self.out, probes)?;
            // What was left over of the last entry's expiries may end here.
            self.note_waits();
            self.told.push(Told { term, body_hash, entry: None, trail: self.machine.trail() });
            return Ok(None);
        }
        let body = bytes::Bytes::copy_from_slice(body);
        let entry = Entry::decode_body(index, term, &body)
            .map_err(|error| format!("entry {index} cannot be read: {error}"))?;
        self.arrived(&entry)?;
        self.machine.apply(&entry, &mut self.out);
        for (command, outcome) in entry.commands.iter().zip(&self.out.outcomes) {
            if let Some(op) = op_of(command) {
                self.outcomes.insert(op, (index, outcome.clone()));
            }
        }
        self.note_waits();
        let messages: Vec<Message> = self.out.events.iter().filter_map(told).collect();
        if !messages.is_empty() {
            probes.hit("calls: a message told");
            self.messages.insert(index, messages);
        }
        self.model.take(&entry, &self.out, probes)?;
        (self.wall, self.time) = (entry.wall, entry.time);
        let time = entry.time;
        self.told.push(Told { term, body_hash, entry: Some(entry), trail: self.machine.trail() });
        Ok(Some(time))
    }

    /// How waits in queues have ended.
    fn note_waits(&mut self) {
        for (wait, outcome) in self.out.events.iter().filter_map(wait_end) {
            self.waits.entry(wait).or_default().push(outcome);
        }
    }

    /// What is checked of an entry when it is first seen.
    fn arrived(&mut self, entry: &Entry) -> Check {
        let index = entry.index;
        ensure!(entry.wall <= self.wall_max, "wall time {} was never read: {}", entry.wall, self.wall_max);
        for command in &entry.commands {
            let Some(op) = op_of(command) else { continue };
            if let Some((first, _)) = self.outcomes.get(&op) {
                let term = |index| self.told(index).map(|told| told.term);
                let origins = |entry: &Entry| format!("{:?}", entry.origins);
                return Err(format!(
                    "command {op} is in the log twice: at {first} of term {:?}, taken by {:?}, and at {index} of term {}, taken by {}",
                    term(*first),
                    self.told(*first).and_then(|told| told.entry.as_ref()).map(origins),
                    entry.term,
                    origins(entry)
                ));
            }
            ensure!(
                !self.refused.contains(&op),
                "command {op} is entry {index}'s, its client was told that it did not happen"
            );
            let Some((sent, floor)) = self.sent.remove(&op) else {
                return Err(format!("command {op} is in the log and was never sent: {command:?}"));
            };
            ensure!(same(&sent, command), "command {op} was sent as {sent:?}, logged as {command:?}");
            ensure!(
                index > floor,
                "command {op} was sent after entry {floor} had been applied, and stands before it, at {index}"
            );
        }
        Ok(())
    }

    /// Holds an answer against the history.
    pub(crate) fn answered(&mut self, op: OpId, reply: &Reply) -> Check {
        let mut bytes = op.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.answers_hash.to_le_bytes());
        match reply {
            Reply::Outcome(outcome) => bytes.extend_from_slice(&encode(outcome)),
            other => bytes.extend_from_slice(format!("{other:?}").as_bytes()),
        }
        self.answers_hash = xxhash_rust::xxh3::xxh3_64(&bytes);
        match reply {
            Reply::Outcome(answer) => {
                let Some((_, outcome)) = self.outcomes.get(&op) else {
                    return Err(format!(
                        "command {op} was answered with {answer:?} and nobody has applied it"
                    ));
                };
                if outcome == answer {
                    return Ok(());
                }
                // A queued wait is answered by what ended it.
                let queued = matches!(outcome, Outcome::Queued { .. });
                let ended = queued && self.waits.values().flatten().any(|ended| ended == answer);
                ensure!(ended, "command {op} came to {outcome:?}, its client was told {answer:?}");
            }
            Reply::Refused(why) => {
                ensure!(
                    !self.outcomes.contains_key(&op),
                    "command {op} is in the log, its client was told that it did not happen: {why}"
                );
                self.refused.insert(op);
            }
            Reply::Changed | Reply::Indeterminate | Reply::MayRead | Reply::Admin(_) => {}
        }
        Ok(())
    }

    /// Compares a node with the history, where both have come as far: by state, by model, by payloads.
    pub(crate) fn agrees(&self, node: &Machine, log: &LogReader, probes: &mut Probes) -> Check {
        node.check();
        let at = node.applied();
        if let Some(told) = self.told(at) {
            ensure!(node.trail() == told.trail, "at entry {at} the state went another way than the history");
        }
        if at != self.applied() {
            return Ok(());
        }
        ensure!(node.digest() == self.machine.digest(), "at entry {at} two states have different digests");
        self.model.agrees(node, probes)?;
        let mut sent: BTreeMap<u64, Vec<bytes::Bytes>> = BTreeMap::new();
        for place in node.live_payloads(LogIndex(1), at) {
            let wanted = sent.entry(place.index.0).or_insert_with(|| self.payloads_of(place.index));
            let Some(wanted) = wanted.get(place.sub as usize) else {
                return Err(format!("the state refers to payload {place:?}, which nobody sent"));
            };
            let found = log
                .payload(Index(place.index.0), place.sub)
                .map_err(|error| format!("payload {place:?} cannot be read: {error}"))?;
            ensure!(found == *wanted, "payload {place:?} has come back changed");
        }
        Ok(())
    }

    fn payloads_of(&self, index: LogIndex) -> Vec<bytes::Bytes> {
        let mut payloads = Vec::new();
        for command in self.told(index).and_then(|told| told.entry.as_ref()).iter().flat_map(|e| &e.commands)
        {
            if let CommandBody::Commit { commit } = &command.body {
                commit.clone().for_each_payload(&mut |payload| payloads.push(payload.bytes.clone()));
            }
        }
        payloads
    }
}
