//! Producers: what numbers, transactions and riders may come to.
//!
//! Invariant: a batch is appended once, after those before it, and with what rides along, or not at all.
//! Invariant: what is held under a name appears in order when its owner ends well, and only then; one whose time is up is dropped, and its owner fenced off.
//! Invariant: guards that ride along hold when their records appear; nothing that rides along is done twice.
//! Called by: [`Model`].

use super::{Check, Model, ensure};
use crate::probes::Probes;
use quorate_machine::{Machine, Stage};
use quorate_types::{
    Append, Blob, Branch, Commit, Fingerprint, IdempotencyKey, Key, LogTime, Millis, Numbered, OffsetCommit,
    Op, OpResult, PartitionChoice, PayloadRef, Principal, Produce, ProduceError, ProducerId, Revision,
};
use std::collections::{BTreeMap, BTreeSet};

/// Stands for the offset of a batch that a transaction holds, or held, or that was known by its key.
const HELD: u64 = u64::MAX;

/// Stream, partition, producer, epoch.
type Line = (Key, u32, ProducerId, u16);

/// A name of transactions.
#[derive(Clone, Debug, Default)]
struct Transaction {
    producer: ProducerId,
    epoch: u16,
    open: bool,
    /// Since when it is open.
    since: LogTime,
    /// How long it may be.
    timeout: Millis,
    /// Entries since its time was up. Each ends so much at most, so that it may still be open in some of them.
    late: u32,
    /// Whether the last one ended well.
    ended: Option<bool>,
    /// What it holds, in order.
    held: Vec<(Append, u32)>,
    /// How far groups are, once it ends well.
    marks: Vec<OffsetCommit>,
    riders: Vec<Commit>,
}

impl Transaction {
    /// Dropped for its time: its owner is fenced off.
    fn dropped(&self) -> Self {
        let Self { producer, epoch, timeout, .. } = *self;
        Self { producer, epoch: epoch + 1, timeout, ended: Some(false), ..Self::default() }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Producing {
    /// Numbers given to producers: each is given once.
    numbers: BTreeSet<ProducerId>,
    /// Those of before this entry.
    before: BTreeSet<ProducerId>,
    /// Where each batch went that a producer has numbered, by its first record.
    numbered: BTreeMap<Line, BTreeMap<u32, (u32, u64)>>,
    transactions: BTreeMap<Blob, Transaction>,
    /// The keys under which something rode along, for so long that none is forgotten.
    ridden: BTreeMap<(Principal, IdempotencyKey), Fingerprint>,
}

impl Producing {
    /// The stream is gone, and what was to be appended to it.
    pub(super) fn drop_stream(&mut self, stream: &Key) {
        self.numbered.retain(|(of, ..), _| of != stream);
        let transactions = self.transactions.values_mut();
        transactions.for_each(|one| one.held.retain(|(append, _)| append.stream != *stream));
    }

    /// An entry begins: what has been open for too long is dropped by one of the next.
    pub(super) fn begin(&mut self, time: LogTime) {
        self.before.clone_from(&self.numbers);
        for one in self.transactions.values_mut() {
            if one.open && one.since.plus(one.timeout) <= time {
                one.late += 1;
                if one.late > LATE_MAX {
                    *one = one.dropped();
                }
            }
        }
    }

    /// What the machine holds.
    pub(super) fn agrees(&self, machine: &Machine) -> Check {
        for (name, one) in &self.transactions {
            let view = machine.transaction(name).ok_or_else(|| format!("transactions of {name} are lost"))?;
            let is = (view.producer, view.epoch, view.stage == Stage::Open);
            let dropped = one.late > 0 && is == (one.producer, one.epoch + 1, false);
            ensure!(
                dropped || is == (one.producer, one.epoch, one.open),
                "transactions of {name}: machine {view:?}, model {one:?}"
            );
            let held = one.held.len() as u64;
            ensure!(
                view.stage != Stage::Open || view.batches >= held,
                "{name} holds {} batches, {held} were taken",
                view.batches
            );
        }
        Ok(())
    }
}

/// Entries in which all is ended that may be due at once in the simulation.
const LATE_MAX: u32 = 20;

impl Model {
    /// A number is given once; a batch is appended once, after those before it, or answered as it was.
    pub(super) fn produced(
        &mut self,
        principal: &Principal,
        produce: &Produce,
        result: &OpResult,
        revision: Revision,
        probes: &mut Probes,
    ) -> Check {
        match (produce, result) {
            (Produce::Begin {}, OpResult::Producer { producer, epoch }) => {
                let given = self.producing.numbers.insert(*producer);
                ensure!(given && *epoch == 0, "number {producer} was given twice");
                Ok(())
            }
            (Produce::Append { append, by }, OpResult::Appended { partition, first, next }) => {
                let again = self.counted(append, *by, *partition, first.0, probes)?;
                if again { Ok(()) } else { self.appended(append, *partition, first.0, next.0) }
            }
            (Produce::AppendWith { append, by, rider }, _) => {
                self.rode(principal, append, *by, rider, result, revision, probes)
            }
            // A batch that a transaction held comes again outside of one, which no client does; and all steps of transactions.
            (produce, result) => self.transacted(principal, produce, result, revision, probes),
        }
    }

    /// Counts a batch among those of its producer: whether it came again.
    fn counted(
        &mut self,
        append: &Append,
        by: Numbered,
        partition: u32,
        first: u64,
        probes: &mut Probes,
    ) -> Check<bool> {
        let Numbered { producer, epoch, first: number } = by;
        let line = (append.stream.clone(), partition, producer, epoch);
        let sent = self.producing.numbered.entry(line).or_default();
        if let Some((records, base)) = sent.get(&number) {
            let same = (*records, *base) == (append.records, first);
            ensure!(same, "{by:?} was appended at {base} with {records} records, then at {first}");
            probes.hit("producer: a batch that came again");
            return Ok(true);
        }
        let follows = sent.last_key_value().map_or(0, |(last, (records, _))| last + records);
        ensure!(number == follows, "{by:?} was appended, record {follows} is missing");
        sent.insert(number, (append.records, first));
        let (stream, of) = (append.stream.clone(), (producer, epoch));
        let later =
            (stream.clone(), partition, producer, epoch + 1)..=(stream, partition, producer, u16::MAX);
        let later = self.producing.numbered.range(later).next();
        ensure!(later.is_none(), "{of:?} appended after a later life");
        Ok(false)
    }

    /// A batch that was appended with what rode along; or it had happened before, by its number or by its key.
    #[expect(clippy::too_many_arguments, reason = "the parts of one operation and of its place")]
    fn rode(
        &mut self,
        principal: &Principal,
        append: &Append,
        by: Option<Numbered>,
        rider: &Commit,
        result: &OpResult,
        revision: Revision,
        probes: &mut Probes,
    ) -> Check {
        let partition = number(append)?;
        let first = match result {
            OpResult::Appended { first, .. } => first.0,
            OpResult::Done {} => HELD,
            other => return Err(format!("{append:?} was answered with {other:?}")),
        };
        if let Some(by) = by
            && self.counted(append, by, partition, first, probes)?
        {
            probes.hit("rider: its batch came again");
            return Ok(());
        }
        if self.known(principal, rider)? {
            probes.hit("rider: known by its key");
            return Ok(());
        }
        ensure!(first != HELD, "{append:?} was appended, and no place was told");
        // Guards are judged by the state before the batch, which no guard of these is about.
        let next = first + u64::from(append.records);
        self.appended(append, partition, first, next)?;
        self.branch(rider, Branch::Then, probes)?;
        self.happens(rider, revision)?;
        self.remember(principal, rider);
        probes.hit("rider: done with its batch");
        Ok(())
    }

    /// Whether a rider has happened under its key.
    fn known(&self, principal: &Principal, rider: &Commit) -> Check<bool> {
        let Some(of) = &rider.idempotency else { return Ok(false) };
        let known = self.producing.ridden.get(&(principal.clone(), of.key.clone()));
        let same = known.is_none_or(|fingerprint| *fingerprint == of.fingerprint);
        ensure!(same, "the key {:?} of another request was taken", of.key);
        Ok(known.is_some())
    }

    fn remember(&mut self, principal: &Principal, rider: &Commit) {
        if let Some(of) = &rider.idempotency {
            self.producing.ridden.insert((principal.clone(), of.key.clone()), of.fingerprint);
        }
    }

    /// What a rider does to keys.
    fn happens(&mut self, rider: &Commit, revision: Revision) -> Check {
        for op in &rider.then {
            match op {
                Op::Put { key, value, lease, .. } => self.put(key, value.clone(), *lease, revision),
                Op::Delete { key, .. } => drop(self.rows.remove(key)),
                Op::Increment { key, by, min, max } => {
                    let sum = self.number(key) + by;
                    ensure!((*min..=*max).contains(&sum), "{key} was incremented to {sum}");
                    let lease = self.rows.get(key).map_or(quorate_types::LeaseId::ZERO, |row| row.lease);
                    self.put(key, sum.to_string().into(), lease, revision);
                }
                other => return Err(format!("{other:?} rode along")),
            }
        }
        Ok(())
    }

    /// What is held under a name appears in order when its owner ends well, and only then.
    fn transacted(
        &mut self,
        principal: &Principal,
        produce: &Produce,
        result: &OpResult,
        revision: Revision,
        probes: &mut Probes,
    ) -> Check {
        if let (Produce::TakeOver { name, timeout, .. }, OpResult::Producer { producer, epoch }) =
            (produce, result)
        {
            let found = self.producing.transactions.get(name);
            // One life further, and another one if what was open had been dropped for its time.
            let lives = |one: &Transaction| epoch.checked_sub(one.epoch).unwrap_or(0);
            let follows = |one: &Transaction| lives(one) == 1 || (lives(one) == 2 && one.late > 0);
            let follows = found.is_none_or(|one| one.producer == *producer && follows(one));
            if found.is_some_and(|one| lives(one) == 2) {
                probes.hit("transaction: dropped for its time");
            }
            ensure!(follows, "{name:?} was given {producer}/{epoch} after {found:?}");
            if found.is_some_and(|one| !one.held.is_empty()) {
                probes.hit("transaction: dropped by the next owner of its name");
            }
            self.producing.numbers.insert(*producer);
            let (producer, epoch, timeout) = (*producer, *epoch, *timeout);
            let taken = Transaction { producer, epoch, timeout, ..Transaction::default() };
            self.producing.transactions.insert(name.clone(), taken);
            return Ok(());
        }
        let (name, producer, epoch) = match produce {
            Produce::Hold { name, by, .. } | Produce::HoldWith { name, by, .. } => {
                (name, by.producer, by.epoch)
            }
            Produce::Enlist { author, .. }
            | Produce::HoldOffsets { author, .. }
            | Produce::End { author, .. } => (&author.name, author.producer, author.epoch),
            other => return Err(format!("{other:?} was answered with {result:?}")),
        };
        let mut one = self.producing.transactions.get(name).cloned().unwrap_or_default();
        if one.late > 0 && epoch == one.epoch + 1 {
            // It was dropped, and this is of the life that follows: one that was given before a power loss took that back.
            one = one.dropped();
        }
        ensure!(
            (one.producer, one.epoch) == (producer, epoch),
            "{produce:?} was taken, the owner is {one:?}"
        );
        match produce {
            Produce::Enlist { .. } if !one.open => (one.open, one.since) = (true, self.time),
            Produce::HoldOffsets { commit, .. } => {
                ensure!(one.open, "{produce:?} was taken, and nothing is open");
                one.marks.push((**commit).clone());
            }
            Produce::Hold { append, by, .. } | Produce::HoldWith { append, by, .. } => {
                let rider = produce.rider().cloned();
                self.holds_one(&mut one, append, *by, rider, probes)?;
            }
            Produce::End { commits, .. } => {
                if one.open {
                    let ended = std::mem::take(&mut one);
                    let Transaction { producer, epoch, timeout, .. } = ended;
                    let now = Some(*commits);
                    one = Transaction { producer, epoch, timeout, ended: now, ..Transaction::default() };
                    if *commits {
                        self.ended_well(principal, ended, revision, probes)?;
                    }
                } else {
                    ensure!(one.ended == Some(*commits), "{produce:?} was answered, it had ended as {one:?}");
                    probes.hit("transaction: its end asked for again");
                }
            }
            _ => {}
        }
        self.producing.transactions.insert(name.clone(), one);
        Ok(())
    }

    fn holds_one(
        &mut self,
        one: &mut Transaction,
        append: &Append,
        by: Numbered,
        rider: Option<Commit>,
        probes: &mut Probes,
    ) -> Check {
        let partition = number(append)?;
        let line = (append.stream.clone(), partition, by.producer, by.epoch);
        let sent = self.producing.numbered.entry(line).or_default();
        if let Some((records, _)) = sent.get(&by.first) {
            ensure!(*records == append.records, "{by:?} was held with {records} records");
            probes.hit("transaction: a batch that came again");
            return Ok(());
        }
        ensure!(one.open, "{by:?} was held, and nothing is open");
        let follows = sent.last_key_value().map_or(0, |(last, (records, _))| last + records);
        ensure!(by.first == follows, "{by:?} was held, record {follows} is missing");
        sent.insert(by.first, (append.records, HELD));
        let mut append = append.clone();
        append.payload.at.get_or_insert(PayloadRef { index: self.index, sub: append.payload.sub });
        one.held.push((append, partition));
        one.riders.extend(rider);
        Ok(())
    }

    fn ended_well(
        &mut self,
        principal: &Principal,
        ended: Transaction,
        revision: Revision,
        probes: &mut Probes,
    ) -> Check {
        probes.hit("transaction: ended well");
        let whole = whole(&ended.riders);
        let known = self.known(principal, &whole)?;
        for commit in ended.marks {
            let op = Op::CommitOffsets { commit: Box::new(commit) };
            self.members.take(&op, &OpResult::Kept { missing: Vec::new() })?;
        }
        if known {
            probes.hit("rider: a transaction known by its key");
            return Ok(());
        }
        self.branch(&whole, Branch::Then, probes)?;
        for (append, partition) in ended.held {
            let first = self.next.get(&(append.stream.clone(), partition)).copied().unwrap_or(0);
            self.appended(&append, partition, first, first + u64::from(append.records))?;
        }
        self.happens(&whole, revision)?;
        self.remember(principal, &whole);
        if !ended.riders.is_empty() {
            probes.hit("rider: done with its transaction");
        }
        Ok(())
    }

    /// A step of a producer that was refused.
    pub(super) fn producer_refused(&self, why: &ProduceError, probes: &mut Probes) -> Check {
        let producing = &self.producing;
        match why {
            ProduceError::Unknown { producer } => {
                ensure!(!producing.before.contains(producer), "number {producer} was given, and refused");
            }
            ProduceError::Epoch { producer, found, .. } => {
                // Judged when all of the entry is taken: the name may have gone on to another life since.
                let of = |one: &&Transaction| {
                    one.producer == *producer && one.epoch + u16::from(one.late > 0) >= *found
                };
                let named = producing.transactions.values().find(of);
                let numbered =
                    producing.numbered.keys().any(|(_, _, of, epoch)| (of, epoch) == (producer, found));
                ensure!(named.is_some() || numbered, "producer {producer} has no life {found}");
                probes.hit("producer: an earlier life fenced off");
                if named.is_some_and(|one| one.late > 0 && one.epoch < *found) {
                    probes.hit("transaction: its owner fenced off after its time");
                }
            }
            ProduceError::Order { .. } => probes.hit("producer: a batch that does not follow"),
            ProduceError::OtherNumber { .. } | ProduceError::NotOpen { .. } => {}
            ProduceError::SecondKey { .. } => probes.hit("rider: a second key refused"),
            ProduceError::TooMuch { .. } | ProduceError::Full { .. } => {
                return Err("there is room for all producers".into());
            }
        }
        Ok(())
    }
}

/// What riders come to together: a guard that several have is one, unless each is to be charged.
fn whole(riders: &[Commit]) -> Commit {
    let mut whole = Commit::default();
    for rider in riders {
        for guard in &rider.guards {
            let charged = matches!(guard, quorate_types::Guard::Limit { .. });
            if charged || !whole.guards.contains(guard) {
                whole.guards.push(guard.clone());
            }
        }
        whole.then.extend(rider.then.iter().cloned());
        if let Some(of) = &rider.idempotency {
            let before = whole.idempotency.as_ref().map_or(0, |before| before.fingerprint.0);
            let fingerprint = Fingerprint(before.wrapping_add(of.fingerprint.0));
            whole.idempotency = Some(quorate_types::Idempotency { fingerprint, ..of.clone() });
        }
    }
    whole
}

/// The partition that an append names.
fn number(append: &Append) -> Check<u32> {
    match append.partition {
        PartitionChoice::Number { partition } => Ok(partition),
        ref other => Err(format!("{other:?} was taken")),
    }
}
