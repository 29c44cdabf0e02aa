//! Producers that number their batches: what was sent twice is appended once.
//!
//! A producer is given a number out of the log, and counts its records in each partition. Of every producer in every partition the last five
//! batches are kept with their offsets: one of them that comes again is answered as it was, one that leaves a gap is refused. A producer
//! that begins a new life (epoch) counts from 0; its earlier lives are fenced off.
//!
//! A producer that nothing is known of in a partition begins with record 0, unless its number is so old that what it sent may have been
//! forgotten; then it goes on with any. (Kafka takes any record of it at once, and so loses the order when its first batch is refused and
//! its second is not.)
//!
//! Forgotten is who has sent nothing for [`KEPT`] of log time. When [`Producers`] holds as many rows as it may, whoever was silent for longest makes
//! room, if that is [`QUIET`] or more; else a new one is refused, for forgetting one that may be about to send again would break the
//! promise. Rows of a stream that was deleted are forgotten like all others: its number is never used again.
//!
//! Invariant: of one producer in one partition, epochs never go back, and within one the batches kept follow each other without a gap.
//! Invariant: `silent` holds every row once, by when it last sent something.
//! Invariant: a number is given once, and only those that were given are taken.
//! Called by: `commit` ([`Machine::produce`]) and `Machine::expire`. Source: KIP-98, KIP-360.

mod show;

pub use show::ProducerView;

use crate::commit::Context;
use crate::streams::{PartKey, StreamId};
use crate::table::Table;
use crate::{Machine, Now, Outputs};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    Append, DecodeError, LogTime, Millis, Numbered, Offset, OpError, OpResult, PartitionChoice, Produce,
    ProduceError, ProducerId, wire_struct,
};
use std::collections::BTreeSet;

/// How long the batches of a silent producer are remembered, in log time: as Kafka's `producer.id.expiration.ms` has it.
pub(crate) const KEPT: Millis = Millis(24 * 3600 * 1000);
/// How long a producer must have been silent to be forgotten for want of memory.
const QUIET: Millis = Millis(10 * 60 * 1000);
/// How often it is noted which numbers have been given.
const NOTED: Millis = Millis(3600 * 1000);
/// Rows at most: some 30 MB.
const ROWS_MAX: usize = 100_000;
/// Low bits of a number that are drawn: where the end of a log may be lost (without syncs), a number that is given anew is another one.
const DRAWN_BITS: u32 = 20;
/// Batches that are remembered of a producer in a partition: clients have no more than these under way.
const BATCHES: usize = 5;

/// A producer in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    stream: StreamId,
    partition: u32,
    producer: ProducerId,
}
wire_struct!(Place { stream, partition, producer });

/// What a producer has sent to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    epoch: u16,
    /// When it last did.
    last: LogTime,
    /// Of this epoch, the oldest first; never none.
    batches: Vec<Batch>,
}
wire_struct!(Sent { epoch, last, batches });

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    /// Number of its first record.
    first: u32,
    records: u32,
    /// Offset of its first record; none of what waits, or waited, for the end of a transaction.
    base: Option<Offset>,
}
wire_struct!(Batch { first, records, base });

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To be appended.
    New,
    /// It was appended, from this offset on; or held for the end of a transaction.
    Again(Option<Offset>),
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    sent: usize,
    count: usize,
    given: usize,
}

/// All producers that number their batches.
pub(crate) struct Producers {
    sent: Table<Place, Sent>,
    silent: BTreeSet<(LogTime, Place)>,
    /// How many numbers were given, in its one row.
    count: Table<u8, u64>,
    /// When it was that a number had not been given yet: some of them, no older than [`KEPT`].
    given: Table<ProducerId, LogTime>,
    rows_max: usize,
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            sent: Table::default(),
            silent: BTreeSet::new(),
            count: Table::default(),
            given: Table::default(),
            rows_max: ROWS_MAX,
        }
    }
}

impl Machine {
    /// Does what a producer asks for.
    pub(crate) fn produce(
        &mut self,
        context: &Context<'_>,
        produce: &Produce,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        match produce {
            Produce::Begin {} => {
                Ok(OpResult::Producer { producer: self.numbered.give(context.now), epoch: 0 })
            }
            Produce::Append { append, by } => self.append_once(context, append, *by, out),
            Produce::TakeOver { name, timeout, known } => {
                self.take_over(context, name, *timeout, *known).map_err(|why| OpError::Produce { why })
            }
            Produce::Enlist { author, parts, groups } => self.enlist(context, author, parts, groups),
            Produce::Hold { name, append, by } => self.hold(context, name, append, *by, None),
            Produce::AppendWith { append, by, rider } => self.append_with(context, append, *by, rider, out),
            Produce::HoldWith { name, append, by, rider } => {
                self.hold(context, name, append, *by, Some(&**rider))
            }
            Produce::HoldOffsets { author, commit } => self.hold_offsets(context, author, commit),
            Produce::End { author, commits } => self.end_transaction(context, author, *commits, out),
        }
    }

    /// Appends a batch, unless it was appended before.
    fn append_once(
        &mut self,
        context: &Context<'_>,
        append: &Append,
        by: Numbered,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let part = self.part_of(append)?;
        let now = context.now.time;
        match self.numbered.kind(part, by, append.records, now).map_err(|why| OpError::Produce { why })? {
            // As a batch that was not held: its producer has sent it in a transaction before.
            Kind::Again(None) => Ok(OpResult::Done {}),
            Kind::Again(Some(first)) => {
                let next = Offset(first.0 + u64::from(append.records));
                Ok(OpResult::Appended { partition: part.partition, first, next })
            }
            Kind::New => {
                let result = self.append(append, context.now, out)?;
                if let OpResult::Appended { first, .. } = result {
                    self.numbered.note(part, by, append.records, Some(first), now);
                }
                Ok(result)
            }
        }
    }

    /// The partition that a numbered batch goes to: it is there, and was chosen by its producer.
    pub(crate) fn part_of(&self, append: &Append) -> Result<PartKey, OpError> {
        match append.partition {
            PartitionChoice::Number { partition } => self.streams.place(&append.stream, partition),
            PartitionChoice::Any | PartitionChoice::Hash { .. } => {
                let why = "a batch that is numbered goes to a partition of its producer's choice".to_owned();
                Err(OpError::BadPayload { records: append.records, why })
            }
        }
    }
}

impl Producers {
    /// How many numbers were given.
    fn count(&self) -> u64 {
        self.count.get(&0).copied().unwrap_or(0)
    }

    /// Numbers are below this one when they were given.
    pub(crate) fn next(&self) -> ProducerId {
        ProducerId(self.count() << DRAWN_BITS)
    }

    /// Gives a number that nobody has.
    pub(crate) fn give(&mut self, now: &Now) -> ProducerId {
        let drawn = xxhash_rust::xxh3::xxh3_64(&now.seed.to_le_bytes()) >> (u64::BITS - DRAWN_BITS);
        let (producer, count, now) = (ProducerId(self.next().0 | drawn), self.count() + 1, now.time);
        let latest = self.given.iter().next_back().map(|(_, time)| *time);
        if latest.is_none_or(|latest| latest.plus(NOTED) <= now) {
            self.given.set(producer, Some(now));
            let is_old = |(_, time): &(&ProducerId, &LogTime)| time.plus(KEPT) <= now;
            let old: Vec<_> = self.given.iter().take_while(is_old).map(|(producer, _)| *producer).collect();
            for producer in old {
                self.given.set(producer, None);
            }
        }
        self.count.set(0, Some(count));
        producer
    }

    /// Whether a number was given so lately that nothing its producer sent can have been forgotten for its age.
    fn is_young(&self, producer: ProducerId, now: LogTime) -> bool {
        // By the order in which they are given: what is drawn beside that says nothing.
        let latest = ProducerId(producer.0 | ((1 << DRAWN_BITS) - 1));
        let noted = self.given.range(..=latest).next_back();
        noted.is_some_and(|(_, time)| time.plus(KEPT) > now)
    }

    /// What a batch is, by what its producer has sent before.
    pub(crate) fn kind(
        &self,
        part: PartKey,
        by: Numbered,
        records: u32,
        now: LogTime,
    ) -> Result<Kind, ProduceError> {
        let Numbered { producer, epoch, first } = by;
        if producer >= self.next() {
            return Err(ProduceError::Unknown { producer });
        }
        let Some(sent) = self.sent.get(&place(part, producer)) else {
            if first != 0 && self.is_young(producer, now) {
                return Err(ProduceError::Order { producer, wanted: 0, offered: first });
            }
            return self.has_room(now).map(|()| Kind::New);
        };
        if epoch < sent.epoch {
            return Err(ProduceError::Epoch { producer, found: sent.epoch, offered: epoch });
        }
        if epoch > sent.epoch {
            let ordered = first == 0;
            return if ordered {
                Ok(Kind::New)
            } else {
                Err(ProduceError::Order { producer, wanted: 0, offered: first })
            };
        }
        if let Some(batch) =
            sent.batches.iter().find(|batch| (batch.first, batch.records) == (first, records))
        {
            return Ok(Kind::Again(batch.base));
        }
        let wanted = sent.batches.last().map_or(0, |last| Numbered::after(last.first, last.records));
        if first == wanted {
            Ok(Kind::New)
        } else {
            Err(ProduceError::Order { producer, wanted, offered: first })
        }
    }

    /// Whether one more row fits, with one that may be forgotten for it.
    fn has_room(&self, now: LogTime) -> Result<(), ProduceError> {
        let quiet = self.silent.first().is_some_and(|(last, _)| last.plus(QUIET) <= now);
        if self.sent.len() < self.rows_max || quiet {
            return Ok(());
        }
        Err(ProduceError::Full { kept: self.sent.len() as u64 })
    }

    /// Remembers a batch that was appended, or is held.
    pub(crate) fn note(
        &mut self,
        part: PartKey,
        by: Numbered,
        records: u32,
        base: Option<Offset>,
        now: LogTime,
    ) {
        let place = place(part, by.producer);
        let before = self.sent.get(&place).filter(|sent| sent.epoch == by.epoch);
        let mut batches = Vec::with_capacity(BATCHES);
        if let Some(before) = before {
            let forgotten = (before.batches.len() + 1).saturating_sub(BATCHES);
            batches.extend_from_slice(&before.batches[forgotten..]);
        }
        batches.push(Batch { first: by.first, records, base });
        if self.sent.get(&place).is_none() && self.sent.len() >= self.rows_max {
            self.expire_next();
        }
        self.set(place, Some(Sent { epoch: by.epoch, last: now, batches }));
    }

    /// When somebody is to be forgotten.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        self.silent.first().map(|(last, _)| last.plus(KEPT))
    }

    /// Forgets who was silent for longest.
    pub(crate) fn expire_next(&mut self) {
        if let Some((_, place)) = self.silent.first().copied() {
            self.set(place, None);
        }
    }

    fn set(&mut self, place: Place, sent: Option<Sent>) {
        let to = sent.as_ref().map(|sent| sent.last);
        let from = self.sent.set(place, sent).map(|sent| sent.last);
        reindex(&mut self.silent, place, from, to);
    }
}

/// Undo, snapshot, digest: as [`Table`] has them.
impl Producers {
    pub(crate) fn mark(&self) -> Mark {
        Mark { sent: self.sent.mark(), count: self.count.mark(), given: self.given.mark() }
    }
    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let silent = &mut self.silent;
        self.sent.rollback(mark.sent, |place, from, to| {
            reindex(silent, *place, from.map(|sent| sent.last), to.map(|sent| sent.last));
        });
        self.count.rollback(mark.count, |_, _, _| {});
        self.given.rollback(mark.given, |_, _, _| {});
    }
    pub(crate) fn forget(&mut self) {
        self.sent.forget();
        self.count.forget();
        self.given.forget();
    }
    pub(crate) fn walk_begin(&mut self) {
        self.sent.walk_begin();
        self.count.walk_begin();
        self.given.walk_begin();
    }
    pub(crate) fn walk_sent(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.sent.walk_next(rows, out)
    }
    pub(crate) fn walk_count(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.count.walk_next(rows, out)
    }
    pub(crate) fn walk_given(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.given.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.sent.walk_end();
        self.count.walk_end();
        self.given.walk_end();
    }
    pub(crate) fn restore_sent(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (place, sent) = self.sent.restore_row(from)?;
        self.silent.insert((sent.last, place));
        Ok(())
    }
    pub(crate) fn restore_count(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.count.restore_row(from).map(drop)
    }
    pub(crate) fn restore_given(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.given.restore_row(from).map(drop)
    }
    pub(crate) fn digests(&self, scratch: &mut Writer) -> [u128; 3] {
        [self.sent.digest(scratch), self.count.digest(scratch), self.given.digest(scratch)]
    }

    /// Whether what is held is of one piece; otherwise what is not.
    pub(crate) fn verify(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let next = self.next();
        sound(self.count.iter().all(|(row, _)| *row == 0), "next number of a producer")?;
        sound(self.given.iter().all(|(producer, _)| *producer < next), "note of a producer's number")?;
        for (place, sent) in self.sent.iter() {
            sound(place.producer < next, "number of a producer")?;
            sound((1..=BATCHES).contains(&sent.batches.len()), "count of a producer's batches")?;
            let follows = |pair: &[Batch]| pair[1].first == Numbered::after(pair[0].first, pair[0].records);
            sound(sent.batches.windows(2).all(follows), "order of a producer's batches")?;
        }
        Ok(())
    }

    pub(crate) fn check(&self) {
        if let Err(what) = self.verify() {
            panic!("producers: {what} does not fit");
        }
        let wanted: BTreeSet<_> = self.sent.iter().map(|(place, sent)| (sent.last, *place)).collect();
        assert_eq!(self.silent, wanted, "the silent ones in order of time");
        assert!(self.sent.len() <= self.rows_max, "no more rows than there is memory for");
    }
}

fn place(part: PartKey, producer: ProducerId) -> Place {
    Place { stream: part.stream, partition: part.partition, producer }
}

fn reindex(
    silent: &mut BTreeSet<(LogTime, Place)>,
    place: Place,
    from: Option<LogTime>,
    to: Option<LogTime>,
) {
    if let Some(from) = from {
        silent.remove(&(from, place));
    }
    if let Some(to) = to {
        silent.insert((to, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: PartKey = PartKey { stream: StreamId(1), partition: 0 };

    fn by(producer: ProducerId, first: u32) -> Numbered {
        Numbered { producer, epoch: 0, first }
    }

    fn at(minutes: u64) -> LogTime {
        LogTime::ZERO.plus(Millis(minutes * 60_000))
    }

    fn now(minutes: u64) -> Now {
        Now { time: at(minutes), seed: minutes, ..Now::default() }
    }

    #[test]
    fn at_the_bound_the_longest_silent_makes_room_and_a_lively_one_does_not() {
        let mut producers = Producers { rows_max: 2, ..Producers::default() };
        let [a, b, c] = [0, 1, 2].map(|_| producers.give(&now(0)));
        producers.note(HERE, by(a, 0), 1, Some(Offset(0)), at(0));
        producers.note(HERE, by(b, 0), 1, Some(Offset(1)), at(5));
        assert_eq!(producers.kind(HERE, by(c, 0), 1, at(9)), Err(ProduceError::Full { kept: 2 }));
        assert_eq!(producers.kind(HERE, by(a, 1), 1, at(9)), Ok(Kind::New), "who is known goes on");
        assert_eq!(producers.kind(HERE, by(c, 0), 1, at(10)), Ok(Kind::New));
        producers.note(HERE, by(c, 0), 1, Some(Offset(2)), at(10));
        producers.check();
        assert_eq!(
            producers.kind(HERE, by(b, 0), 1, at(10)),
            Ok(Kind::Again(Some(Offset(1)))),
            "b was not the one"
        );
        assert_eq!(producers.kind(HERE, by(a, 0), 1, at(10)), Err(ProduceError::Full { kept: 2 }));
    }

    #[test]
    fn an_old_number_goes_on_with_any_record_and_a_young_one_begins_with_the_first() {
        let mut producers = Producers::default();
        let old = producers.give(&now(0));
        let same = producers.give(&now(59));
        let later = producers.give(&now(60));
        let refused = |producer| Err(ProduceError::Order { producer, wanted: 0, offered: 7 });
        let day = KEPT.0 / 60_000;
        assert_eq!(producers.kind(HERE, by(old, 7), 1, at(day - 1)), refused(old));
        assert_eq!(producers.kind(HERE, by(old, 7), 1, at(day)), Ok(Kind::New));
        assert_eq!(producers.kind(HERE, by(same, 7), 1, at(day)), Ok(Kind::New), "given when nobody looked");
        assert_eq!(producers.kind(HERE, by(later, 7), 1, at(day + 59)), refused(later));
        // What is noted is bounded, however many are given.
        for minute in 0..100 * 60 {
            producers.give(&now(61 + minute));
        }
        assert!(producers.given.len() <= 25, "{}", producers.given.len());
        producers.check();
    }
}
