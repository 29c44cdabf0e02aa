//! Groups: readers of a stream and how far they are.
//!
//! A `partitioned` group is a cursor per partition, moved by its readers (as Kafka's groups are). A `shared` group is a
//! queue: a record is handed to one consumer, hidden from the others for a while, and delivered again unless it is acked
//! (as in Amazon SQS). Deliveries are numbered; only the newest delivery of a record can be settled, so that a consumer
//! that was too slow learns that the record may be somebody else's now. A record delivered too often without an ack goes to
//! the dead-letter stream, as a reference to the same payload: no byte is copied.
//!
//! Invariant: a record at or after the cursor of a shared group was never delivered; one before it is in flight or done.
//! Invariant: a record is hidden by at most one delivery at a time; each delivery of it has a higher attempt.
//! Invariant: `due` and `ready` hold exactly the hidden and the ready rows of `flights`.
//! Invariant: visibility runs in log time, and never ends early.
//! Called by: `commit` (operations) and `apply` (what is due). Read [`Groups::take`] first.

use crate::streams::{Found, StreamId, Streams, combine, restore_section, section};
use crate::table::Table;
use crate::{Event, Now};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    Blob, DecodeError, Delivery, GroupMode, GroupName, GroupSettings, Key, LogTime, Millis, Offset, OpError,
    OpResult, Taken, wire_enum, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of deleted groups that one step of [`Groups::expire`] frees at most.
const FREED_AT_ONCE: usize = 64;
/// Records that are gone and that one take passes over at most: no operation may hold the thread for long.
const SKIPPED_MAX: usize = 10_000;

/// A group as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its settings.
    pub settings: GroupSettings,
    /// Its partitions, by number.
    pub partitions: Vec<GroupPartition>,
}

/// How far a group is in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupPartition {
    /// `partitioned`: the committed cursor. `shared`: the first record that was never delivered.
    pub cursor: Offset,
    /// Everything before it is done: the cursor, or the lowest record that is in flight.
    pub floor: Offset,
    /// Records delivered and not acked; always 0 for a `partitioned` group.
    pub in_flight: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    stream: StreamId,
    name: GroupName,
}
wire_struct!(GroupKey { stream, name });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    id: u64,
    /// The stream's name, for events.
    stream: Key,
    settings: GroupSettings,
    /// The partition from which the next take begins with new records.
    turn: u32,
}
wire_struct!(Group { id, stream, settings, turn });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CursorKey {
    group: u64,
    partition: u32,
}
wire_struct!(CursorKey { group, partition });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FlightKey {
    group: u64,
    partition: u32,
    offset: Offset,
}
wire_struct!(FlightKey { group, partition, offset });

/// A record that was delivered and not acked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flight {
    /// How often it was delivered.
    attempt: u32,
    /// Until when it is hidden; once ready, since when it is.
    until: LogTime,
    /// Who has, or had, it.
    consumer: Blob,
    phase: Phase,
    /// The consumer gave it back: its delivery is settled.
    nacked: bool,
}
wire_struct!(Flight { attempt, until, consumer, phase, nacked });

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody is given it before `until`.
    Hidden,
    /// It waits to be delivered again.
    Ready,
}
wire_enum!(Phase { 0 = Hidden {}, 1 = Ready {} });

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    groups: usize,
    cursors: usize,
    flights: usize,
    dropped: usize,
    next_id: u64,
}

/// All groups of all streams.
#[derive(Default)]
pub(crate) struct Groups {
    groups: Table<GroupKey, Group>,
    /// `partitioned`: the committed cursor. `shared`: the first offset never delivered. Absent: 0.
    cursors: Table<CursorKey, Offset>,
    flights: Table<FlightKey, Flight>,
    /// Deleted groups whose rows are still being freed.
    dropped: Table<u64, bool>,
    next_id: u64,
    ids: BTreeMap<u64, GroupKey>,
    order: Order,
    stage: Stage,
    next_id_walked: u64,
}

/// The flights in order of time.
#[derive(Default)]
struct Order {
    /// Hidden ones, by the end of their visibility.
    due: BTreeSet<(LogTime, FlightKey)>,
    /// Ready ones, by group, the longest waiting first.
    ready: BTreeSet<(u64, LogTime, u32, Offset)>,
}

/// Declaring and removing.
impl Groups {
    /// Declares a group. The name of its dead-letter stream belongs to streams from now on ([`Streams::exists`]); the
    /// caller has made sure that no key has it.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::GroupExists`], [`OpError::WrongType`] when the dead letters of a stream
    /// would go to that stream itself.
    pub(crate) fn create(
        &mut self,
        streams: &mut Streams,
        stream: &Key,
        group: &GroupName,
        settings: &GroupSettings,
    ) -> Result<OpResult, OpError> {
        let key = GroupKey { stream: streams.id(stream)?, name: group.clone() };
        if self.groups.get(&key).is_some() {
            return Err(OpError::GroupExists { stream: stream.clone(), group: group.0.clone() });
        }
        if dead_letter(settings) == Some(stream) {
            return Err(OpError::WrongType {
                key: stream.clone(),
                found: "stream that this group reads".into(),
                wanted: "stream for its dead letters".into(),
            });
        }
        if let Some(dead_letter) = dead_letter(settings) {
            streams.reserve(dead_letter);
        }
        self.declare(streams, key, stream, settings.clone());
        Ok(OpResult::Done {})
    }

    /// Removes a group. Its rows are freed in slices by [`Groups::expire`].
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::GroupMissing`].
    pub(crate) fn delete(
        &mut self,
        streams: &mut Streams,
        stream: &Key,
        group: &GroupName,
    ) -> Result<OpResult, OpError> {
        let key = self.find(streams, stream, group)?.0;
        self.remove(streams, key);
        Ok(OpResult::Done {})
    }

    /// Removes all groups of a stream that was deleted.
    pub(crate) fn drop_stream(&mut self, streams: &mut Streams, stream: StreamId) {
        let keys: Vec<GroupKey> = self.rows_of(stream).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(streams, key);
        }
    }
}

/// `partitioned` groups.
impl Groups {
    /// Moves the cursor of a partition: everything before `offset` has been handled. Makes the group with the default
    /// settings when it is missing.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`], [`OpError::GroupMode`] for a shared group,
    /// [`OpError::OffsetOutOfRange`] beyond the end, [`OpError::CursorMoved`] when it is not where it was expected.
    pub(crate) fn cursor_commit(
        &mut self,
        streams: &Streams,
        stream: &Key,
        group: &GroupName,
        partition: u32,
        offset: Offset,
        expected: Option<Offset>,
    ) -> Result<OpResult, OpError> {
        let key = GroupKey { stream: streams.id(stream)?, name: group.clone() };
        let bounds: Vec<(Offset, Offset)> = streams.bounds(key.stream).collect();
        let Some((first, next)) = bounds.get(partition as usize).copied() else {
            let partitions = bounds.len() as u32;
            return Err(OpError::PartitionMissing { stream: stream.clone(), partitions, asked: partition });
        };
        let row = self.groups.get(&key);
        if let Some(row) = row
            && row.settings.mode != GroupMode::Partitioned
        {
            return Err(wrong_mode(stream, group, "shared", "partitioned"));
        }
        if offset > next {
            return Err(OpError::OffsetOutOfRange {
                stream: stream.clone(),
                partition,
                first,
                next,
                asked: offset,
            });
        }
        let found = row.map_or(Offset::ZERO, |row| self.cursor_of(row.id, partition));
        if let Some(expected) = expected
            && expected != found
        {
            return Err(OpError::CursorMoved { found, expected });
        }
        let id = match row {
            Some(row) => row.id,
            None => self.declare(streams, key, stream, GroupSettings::default()),
        };
        self.cursors.set(CursorKey { group: id, partition }, Some(offset));
        Ok(OpResult::Done {})
    }
}

/// `shared` groups.
impl Groups {
    /// Hands up to `max` records to a consumer: first those to be delivered again, the longest waiting first, then new ones
    /// from each partition in turn. Each stays hidden for `visibility`, or the group's own. A record that was trimmed or
    /// compacted away in the meantime is skipped. Dead letters that this finds are moved, with events.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::GroupMissing`], [`OpError::GroupMode`] for a partitioned group.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of one operation, and what it works on"
    )]
    pub(crate) fn take(
        &mut self,
        streams: &mut Streams,
        stream: &Key,
        group: &GroupName,
        consumer: &Blob,
        max: u32,
        visibility: Option<Millis>,
        now: &Now,
        events: &mut Vec<Event>,
    ) -> Result<OpResult, OpError> {
        let (key, row, shared) = self.find_shared(streams, stream, group)?;
        let until = now.time.plus(visibility.unwrap_or(shared.visibility));
        let mut deliveries = Vec::new();
        let mut skipped = 0;
        while deliveries.len() < max as usize
            && skipped < SKIPPED_MAX
            && let Some(flight) = self.order.first_ready(row.id)
        {
            let before = self.flights.get(&flight).expect("ready and flights hold the same rows").clone();
            let Some(found) = record_at(streams, key.stream, &flight) else {
                self.set_flight(flight, None);
                skipped += 1;
                continue;
            };
            if used_up(shared.deliveries_max, before.attempt) {
                self.set_flight(flight, None);
                bury(streams, shared.dead_letter.as_ref(), &found, now, events);
                skipped += 1;
                continue;
            }
            let attempt = before.attempt + 1;
            deliveries.push(taken(flight, attempt, &found));
            self.set_flight(flight, Some(Flight::hidden(attempt, until, consumer.clone())));
        }
        self.take_new(streams, &key, &row, consumer, max, until, &mut deliveries);
        Ok(OpResult::Taken { deliveries })
    }

    /// Finishes deliveries. One whose visibility has ended still counts while nobody else was given the record.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::GroupMissing`], [`OpError::GroupMode`] for a partitioned group.
    pub(crate) fn ack(
        &mut self,
        streams: &Streams,
        stream: &Key,
        group: &GroupName,
        deliveries: &[Delivery],
    ) -> Result<OpResult, OpError> {
        let (_, row, _) = self.find_shared(streams, stream, group)?;
        Ok(self.settle(row.id, deliveries, |groups, key, _| groups.set_flight(key, None)))
    }

    /// Gives deliveries back, to be delivered again after `delay`; those that have used up their deliveries are dead.
    ///
    /// # Errors
    /// As [`Groups::ack`].
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of one operation, and what it works on"
    )]
    pub(crate) fn nack(
        &mut self,
        streams: &mut Streams,
        stream: &Key,
        group: &GroupName,
        deliveries: &[Delivery],
        delay: Millis,
        now: &Now,
        events: &mut Vec<Event>,
    ) -> Result<OpResult, OpError> {
        let (key, row, shared) = self.find_shared(streams, stream, group)?;
        let mut ready = false;
        let result = self.settle(row.id, deliveries, |groups, at, flight| {
            if used_up(shared.deliveries_max, flight.attempt) {
                groups.set_flight(at, None);
                if let Some(found) = record_at(streams, key.stream, &at) {
                    bury(streams, shared.dead_letter.as_ref(), &found, now, events);
                }
                return;
            }
            let phase = if delay == Millis::ZERO { Phase::Ready } else { Phase::Hidden };
            ready |= phase == Phase::Ready;
            let until = now.time.plus(delay);
            groups.set_flight(at, Some(Flight { until, phase, nacked: true, ..flight }));
        });
        if ready {
            events.push(Event::GroupReady { stream: stream.clone(), group: group.clone() });
        }
        Ok(result)
    }

    /// Hides deliveries for `visibility` from now; one whose visibility has ended is hidden again while nobody else was
    /// given the record.
    ///
    /// # Errors
    /// As [`Groups::ack`].
    pub(crate) fn extend(
        &mut self,
        streams: &Streams,
        stream: &Key,
        group: &GroupName,
        deliveries: &[Delivery],
        visibility: Millis,
        now: &Now,
    ) -> Result<OpResult, OpError> {
        let (_, row, _) = self.find_shared(streams, stream, group)?;
        let until = now.time.plus(visibility);
        Ok(self.settle(row.id, deliveries, |groups, key, flight| {
            groups.set_flight(key, Some(Flight { until, phase: Phase::Hidden, ..flight }));
        }))
    }

    /// Whether a take would find a record now.
    pub(crate) fn has_ready(&self, streams: &Streams, stream: &Key, group: &GroupName) -> bool {
        let Ok((key, row, _)) = self.find_shared(streams, stream, group) else { return false };
        self.order.first_ready(row.id).is_some()
            || (0u32..).zip(streams.bounds(key.stream)).any(|(partition, (_, next))| {
                let cursor = self.cursor_of(row.id, partition);
                cursor < next && streams.record_from(key.stream, partition, cursor).is_some()
            })
    }

    /// When [`Groups::expire`] has something to do; 0 when it has now.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        let freeing = (self.dropped.len() > 0).then_some(LogTime::ZERO);
        freeing.or_else(|| self.order.due.first().map(|(until, _)| *until))
    }

    /// Takes up to `max` steps of what is due at `now`, and gives back how many it took. A step frees some rows of deleted
    /// groups, or ends the delivery whose visibility was over first: its record is ready again, or dead if its
    /// deliveries are used up.
    pub(crate) fn expire(
        &mut self,
        streams: &mut Streams,
        now: &Now,
        max: usize,
        events: &mut Vec<Event>,
    ) -> usize {
        for done in 0..max {
            if self.dropped.len() > 0 {
                for _ in 0..FREED_AT_ONCE {
                    self.free_one();
                }
            } else if let Some((until, at)) = self.order.due.first().copied()
                && until <= now.time
            {
                self.end_visibility(streams, at, now, events);
            } else {
                return done;
            }
        }
        max
    }
}

/// Reads for people.
impl Groups {
    /// A group as it is shown.
    pub(crate) fn view(&self, streams: &Streams, stream: &Key, group: &GroupName) -> Option<GroupView> {
        let (key, row) = self.find(streams, stream, group).ok()?;
        let partitions = (0u32..)
            .zip(streams.bounds(key.stream))
            .map(|(partition, _)| {
                let cursor = self.cursor_of(row.id, partition);
                let mut flights = self.flights_of(row.id, partition).map(|(at, _)| at.offset);
                let lowest = flights.next();
                GroupPartition {
                    cursor,
                    floor: lowest.unwrap_or(cursor),
                    in_flight: u64::from(lowest.is_some()) + flights.count() as u64,
                }
            })
            .collect();
        Some(GroupView { settings: row.settings.clone(), partitions })
    }

    /// Groups of a stream, in order of name; none when the stream is missing.
    pub(crate) fn iter<'a>(
        &'a self,
        streams: &Streams,
        stream: &Key,
    ) -> impl Iterator<Item = (&'a GroupName, &'a GroupSettings)> {
        let rows = streams.id(stream).ok().map(|id| self.rows_of(id));
        rows.into_iter().flatten().map(|(key, row)| (&key.name, &row.settings))
    }
}

/// Undo, snapshot, digest: as [`Table`] has them.
impl Groups {
    /// A point to roll back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            groups: self.groups.mark(),
            cursors: self.cursors.mark(),
            flights: self.flights.mark(),
            dropped: self.dropped.mark(),
            next_id: self.next_id,
        }
    }

    /// Restores the state at `mark`.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        let Self { groups, flights, ids, order, .. } = self;
        groups.rollback(mark.groups, |key, undone, back| {
            if let Some(undone) = undone {
                ids.remove(&undone.id);
            }
            if let Some(back) = back {
                ids.insert(back.id, key.clone());
            }
        });
        flights.rollback(mark.flights, |key, undone, back| order.change(*key, undone, back));
        self.cursors.rollback(mark.cursors, |_, _, _| {});
        self.dropped.rollback(mark.dropped, |_, _, _| {});
        self.next_id = mark.next_id;
    }

    /// Makes everything since the last call permanent.
    pub(crate) fn forget(&mut self) {
        self.groups.forget();
        self.cursors.forget();
        self.flights.forget();
        self.dropped.forget();
    }

    /// Begins a snapshot walk over the groups as they are now.
    pub(crate) fn walk_begin(&mut self) {
        self.groups.walk_begin();
        self.cursors.walk_begin();
        self.flights.walk_begin();
        self.dropped.walk_begin();
        self.stage = Stage::NextId;
        self.next_id_walked = self.next_id;
    }

    /// Emits one chunk of up to `rows_max` rows (1 or more) into `out`; returns whether the walk is over. Each chunk is
    /// read by one [`Groups::restore`], in order.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let mut left = rows_max.max(1);
        while left > 0 && self.stage != Stage::Over {
            let (emitted, over) = match self.stage {
                Stage::NextId => {
                    out.varint(TAG_NEXT_ID);
                    out.varint(self.next_id_walked);
                    (0, true)
                }
                Stage::Groups => section(&mut self.groups, TAG_GROUPS, left, out),
                Stage::Cursors => section(&mut self.cursors, TAG_CURSORS, left, out),
                Stage::Flights => section(&mut self.flights, TAG_FLIGHTS, left, out),
                Stage::Dropped => section(&mut self.dropped, TAG_DROPPED, left, out),
                Stage::Over => (0, true),
            };
            if !over {
                break;
            }
            self.stage = self.stage.next();
            left = left.saturating_sub(emitted);
        }
        out.varint(TAG_END);
        self.stage == Stage::Over
    }

    /// Ends a walk, finished or not.
    pub(crate) fn walk_end(&mut self) {
        self.groups.walk_end();
        self.cursors.walk_end();
        self.flights.walk_end();
        self.dropped.walk_end();
        self.stage = Stage::Over;
    }

    /// Reads one chunk into an empty or partly restored state. After the last one, [`Groups::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        loop {
            match from.varint()? {
                TAG_END => return Ok(()),
                TAG_NEXT_ID => self.next_id = from.varint()?,
                TAG_GROUPS => {
                    for _ in 0..from.varint()? {
                        let (key, row) = self.groups.restore_row(from)?;
                        self.ids.insert(row.id, key);
                    }
                }
                TAG_CURSORS => restore_section(&mut self.cursors, from)?,
                TAG_FLIGHTS => {
                    for _ in 0..from.varint()? {
                        let (key, row) = self.flights.restore_row(from)?;
                        self.order.change(key, None, Some(&row));
                    }
                }
                TAG_DROPPED => restore_section(&mut self.dropped, from)?,
                found => return Err(DecodeError::Tag { what: "section of groups", found }),
            }
        }
    }

    /// Checks what was restored.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(&self) -> Result<(), DecodeError> {
        self.verify().map_err(|what| DecodeError::Range { what, found: 0 })
    }

    /// Hash of the state; the same on every replica that has applied the same entries.
    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [
            self.groups.digest(scratch),
            self.cursors.digest(scratch),
            self.flights.digest(scratch),
            self.dropped.digest(scratch),
        ];
        combine(u128::from(self.next_id), &tables)
    }

    /// Panics when rows and indexes disagree. For tests and the simulator: it looks at everything.
    pub(crate) fn check(&self) {
        if let Err(what) = self.verify() {
            panic!("groups: {what} does not fit");
        }
    }

    /// Names of dead-letter streams, each with how many groups send there.
    #[cfg(test)]
    pub(crate) fn dead_letters(&self) -> BTreeMap<&Key, u32> {
        let mut names = BTreeMap::new();
        for name in self.groups.iter().filter_map(|(_, row)| dead_letter(&row.settings)) {
            *names.entry(name).or_default() += 1;
        }
        names
    }

    fn verify(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        sound(self.ids.len() == self.groups.len(), "count of groups")?;
        for (key, row) in self.groups.iter() {
            sound(self.ids.get(&row.id) == Some(key) && row.id < self.next_id, "number of a group")?;
            sound(self.dropped.get(&row.id).is_none(), "number of a deleted group")?;
        }
        let known = |id: u64| self.ids.contains_key(&id) || self.dropped.get(&id).is_some();
        sound(self.cursors.iter().all(|(key, _)| known(key.group)), "group of a cursor")?;
        sound(self.order.due.len() + self.order.ready.len() == self.flights.len(), "count of deliveries")?;
        for (key, flight) in self.flights.iter() {
            let group = self.ids.get(&key.group).and_then(|name| self.groups.get(name));
            let shared = group.is_none_or(|row| row.settings.mode != GroupMode::Partitioned);
            sound(known(key.group) && shared && flight.attempt > 0, "group of a delivery")?;
            let cursor = self.cursor_of(key.group, key.partition);
            // A dropped group's cursors may be freed before its flights.
            sound(key.offset < cursor || self.dropped.get(&key.group).is_some(), "cursor behind a delivery")?;
            sound(self.order.holds(*key, flight), "order of deliveries")?;
        }
        Ok(())
    }
}

/// Look-ups.
impl Groups {
    fn find(
        &self,
        streams: &Streams,
        stream: &Key,
        group: &GroupName,
    ) -> Result<(GroupKey, &Group), OpError> {
        let key = GroupKey { stream: streams.id(stream)?, name: group.clone() };
        match self.groups.get(&key) {
            Some(row) => Ok((key, row)),
            None => Err(OpError::GroupMissing { stream: stream.clone(), group: group.0.clone() }),
        }
    }

    fn find_shared(
        &self,
        streams: &Streams,
        stream: &Key,
        group: &GroupName,
    ) -> Result<(GroupKey, Row, Shared), OpError> {
        let (key, row) = self.find(streams, stream, group)?;
        match &row.settings.mode {
            GroupMode::Partitioned => Err(wrong_mode(stream, group, "partitioned", "shared")),
            GroupMode::Shared { visibility, deliveries_max, dead_letter } => {
                let shared = Shared {
                    visibility: *visibility,
                    deliveries_max: *deliveries_max,
                    dead_letter: dead_letter.clone(),
                };
                Ok((key, Row { id: row.id, turn: row.turn }, shared))
            }
        }
    }

    fn rows_of(&self, stream: StreamId) -> impl Iterator<Item = (&GroupKey, &Group)> {
        let first = GroupKey { stream, name: GroupName::default() };
        self.groups.range(first..).take_while(move |(key, _)| key.stream == stream)
    }

    fn flights_of(&self, group: u64, partition: u32) -> impl Iterator<Item = (&FlightKey, &Flight)> {
        let at = |offset| FlightKey { group, partition, offset };
        self.flights.range(at(Offset::ZERO)..=at(Offset(u64::MAX)))
    }

    fn cursor_of(&self, group: u64, partition: u32) -> Offset {
        self.cursors.get(&CursorKey { group, partition }).copied().unwrap_or_default()
    }
}

/// Changes.
impl Groups {
    fn declare(&mut self, streams: &Streams, key: GroupKey, stream: &Key, settings: GroupSettings) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if !settings.from_start {
            for (partition, (_, next)) in (0u32..).zip(streams.bounds(key.stream)) {
                self.cursors.set(CursorKey { group: id, partition }, Some(next));
            }
        }
        self.ids.insert(id, key.clone());
        self.groups.set(key, Some(Group { id, stream: stream.clone(), settings, turn: 0 }));
        id
    }

    fn remove(&mut self, streams: &mut Streams, key: GroupKey) {
        if let Some(row) = self.groups.set(key, None) {
            if let Some(dead_letter) = dead_letter(&row.settings) {
                streams.unreserve(dead_letter);
            }
            self.ids.remove(&row.id);
            self.dropped.set(row.id, Some(true));
        }
    }

    fn set_flight(&mut self, key: FlightKey, flight: Option<Flight>) {
        let before = self.flights.set(key, flight.clone());
        self.order.change(key, before.as_ref(), flight.as_ref());
    }

    /// Delivers records for the first time, one from each partition in turn, until `max` are taken in all.
    #[expect(clippy::too_many_arguments, reason = "the second half of `take`, split for reading")]
    fn take_new(
        &mut self,
        streams: &Streams,
        key: &GroupKey,
        row: &Row,
        consumer: &Blob,
        max: u32,
        until: LogTime,
        deliveries: &mut Vec<Taken>,
    ) {
        if deliveries.len() >= max as usize {
            return;
        }
        let partitions = streams.bounds(key.stream).count() as u32;
        let start = row.turn % partitions.max(1);
        // Partitions that may have more, the next one first, with their cursors.
        let mut open: Vec<(u32, Offset)> = (0..partitions)
            .map(|number| (start + number) % partitions)
            .map(|partition| (partition, self.cursor_of(row.id, partition)))
            .collect();
        let mut turn = start;
        while !open.is_empty() && deliveries.len() < max as usize {
            open.retain_mut(|(partition, cursor)| {
                if deliveries.len() >= max as usize {
                    return true;
                }
                let Some(found) = streams.record_from(key.stream, *partition, *cursor) else { return false };
                *cursor = found.offset.next();
                turn = (*partition + 1) % partitions;
                let at = FlightKey { group: row.id, partition: *partition, offset: found.offset };
                deliveries.push(taken(at, 1, &found));
                true
            });
        }
        self.record_new(row.id, consumer, until, deliveries);
        if turn != row.turn {
            self.groups.update(key, |row| row.turn = turn);
        }
    }

    /// Enters first deliveries as flights, and moves the cursors behind them.
    fn record_new(&mut self, group: u64, consumer: &Blob, until: LogTime, deliveries: &[Taken]) {
        let mut cursors = BTreeMap::new();
        for Delivery { partition, offset, attempt } in deliveries.iter().map(|taken| taken.delivery) {
            if attempt == 1 {
                cursors.insert(partition, offset.next());
                let at = FlightKey { group, partition, offset };
                self.set_flight(at, Some(Flight::hidden(1, until, consumer.clone())));
            }
        }
        for (partition, cursor) in cursors {
            self.cursors.set(CursorKey { group, partition }, Some(cursor));
        }
    }

    /// Calls `each` for every delivery that is still its record's newest and was not given back.
    fn settle(
        &mut self,
        group: u64,
        deliveries: &[Delivery],
        mut each: impl FnMut(&mut Self, FlightKey, Flight),
    ) -> OpResult {
        let mut settled = 0;
        let mut lost = Vec::new();
        for delivery in deliveries {
            let at = FlightKey { group, partition: delivery.partition, offset: delivery.offset };
            match self.flights.get(&at) {
                Some(flight) if flight.attempt == delivery.attempt && !flight.nacked => {
                    let flight = flight.clone();
                    each(self, at, flight);
                    settled += 1;
                }
                _ => lost.push(*delivery),
            }
        }
        OpResult::Settled { settled, lost }
    }

    fn end_visibility(&mut self, streams: &mut Streams, at: FlightKey, now: &Now, events: &mut Vec<Event>) {
        let flight = self.flights.get(&at).expect("due and flights hold the same rows").clone();
        let key =
            self.ids.get(&at.group).expect("rows of deleted groups are freed before others are looked at");
        let row = self.groups.get(key).expect("ids and groups hold the same groups");
        let GroupMode::Shared { deliveries_max, dead_letter, .. } = &row.settings.mode else {
            unreachable!("only shared groups deliver")
        };
        let found = record_at(streams, key.stream, &at);
        if found.is_some() && !used_up(*deliveries_max, flight.attempt) {
            let ready = Event::GroupReady { stream: row.stream.clone(), group: key.name.clone() };
            if events.last() != Some(&ready) {
                events.push(ready);
            }
            self.set_flight(at, Some(Flight { phase: Phase::Ready, ..flight }));
            return;
        }
        if let Some(found) = found {
            bury(streams, dead_letter.as_ref(), &found, now, events);
        }
        self.set_flight(at, None);
    }

    /// Frees one row of a deleted group, if there is any.
    fn free_one(&mut self) {
        let Some((&group, _)) = self.dropped.iter().next() else { return };
        let next = FlightKey { group, partition: 0, offset: Offset::ZERO };
        let flight = self.flights.range(next..).next().map(|(key, _)| *key).filter(|key| key.group == group);
        let first = CursorKey { group, partition: 0 };
        let cursor = self.cursors.range(first..).next().map(|(key, _)| *key).filter(|key| key.group == group);
        if let Some(flight) = flight {
            self.set_flight(flight, None);
        } else if let Some(cursor) = cursor {
            self.cursors.set(cursor, None);
        } else {
            self.dropped.set(group, None);
        }
    }
}

/// What an operation needs of a group's row.
struct Row {
    id: u64,
    turn: u32,
}

/// The settings of a shared group.
struct Shared {
    visibility: Millis,
    deliveries_max: u32,
    dead_letter: Option<Key>,
}

impl Flight {
    fn hidden(attempt: u32, until: LogTime, consumer: Blob) -> Self {
        Self { attempt, until, consumer, phase: Phase::Hidden, nacked: false }
    }
}

impl Order {
    /// Mends the place of a row that changed.
    fn change(&mut self, key: FlightKey, before: Option<&Flight>, after: Option<&Flight>) {
        if let Some(flight) = before {
            match flight.phase {
                Phase::Hidden => self.due.remove(&(flight.until, key)),
                Phase::Ready => self.ready.remove(&ready(key, flight)),
            };
        }
        if let Some(flight) = after {
            match flight.phase {
                Phase::Hidden => self.due.insert((flight.until, key)),
                Phase::Ready => self.ready.insert(ready(key, flight)),
            };
        }
    }

    fn first_ready(&self, group: u64) -> Option<FlightKey> {
        let (found, _, partition, offset) =
            *self.ready.range((group, LogTime::ZERO, 0, Offset::ZERO)..).next()?;
        (found == group).then_some(FlightKey { group, partition, offset })
    }

    fn holds(&self, key: FlightKey, flight: &Flight) -> bool {
        match flight.phase {
            Phase::Hidden => self.due.contains(&(flight.until, key)),
            Phase::Ready => self.ready.contains(&ready(key, flight)),
        }
    }
}

fn ready(key: FlightKey, flight: &Flight) -> (u64, LogTime, u32, Offset) {
    (key.group, flight.until, key.partition, key.offset)
}

/// Whether a record delivered this often is not delivered again.
fn used_up(deliveries_max: u32, attempt: u32) -> bool {
    attempt == u32::MAX || (deliveries_max > 0 && attempt >= deliveries_max)
}

fn record_at(streams: &Streams, stream: StreamId, at: &FlightKey) -> Option<Found> {
    streams.record_from(stream, at.partition, at.offset).filter(|found| found.offset == at.offset)
}

/// Moves a dead record to the dead-letter stream, or drops it.
fn bury(streams: &mut Streams, dead_letter: Option<&Key>, found: &Found, now: &Now, events: &mut Vec<Event>) {
    if let Some(stream) = dead_letter {
        let partition = streams.append_reference(stream, found, now);
        events.push(Event::StreamAppended { stream: stream.clone(), partition });
    }
}

fn taken(at: FlightKey, attempt: u32, found: &Found) -> Taken {
    Taken {
        delivery: Delivery { partition: at.partition, offset: at.offset, attempt },
        at: found.at,
        record: found.record,
        records: found.records,
        wall: found.wall,
    }
}

fn dead_letter(settings: &GroupSettings) -> Option<&Key> {
    match &settings.mode {
        GroupMode::Partitioned => None,
        GroupMode::Shared { dead_letter, .. } => dead_letter.as_ref(),
    }
}

fn wrong_mode(stream: &Key, group: &GroupName, found: &str, wanted: &str) -> OpError {
    OpError::GroupMode {
        stream: stream.clone(),
        group: group.0.clone(),
        found: found.into(),
        wanted: wanted.into(),
    }
}

const TAG_END: u64 = 0;
const TAG_NEXT_ID: u64 = 1;
const TAG_GROUPS: u64 = 2;
const TAG_CURSORS: u64 = 3;
const TAG_FLIGHTS: u64 = 4;
const TAG_DROPPED: u64 = 5;

/// What a walk emits next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    NextId,
    Groups,
    Cursors,
    Flights,
    Dropped,
    #[default]
    Over,
}

impl Stage {
    fn next(self) -> Self {
        match self {
            Self::NextId => Self::Groups,
            Self::Groups => Self::Cursors,
            Self::Cursors => Self::Flights,
            Self::Flights => Self::Dropped,
            Self::Dropped | Self::Over => Self::Over,
        }
    }
}
