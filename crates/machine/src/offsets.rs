//! How far groups of members are in streams: committed offsets, as Kafka's consumers keep them. Who the members are is in `members`.
//!
//! An offset is a mark that the group sets where it likes; it is not held against the stream. A group that has neither members nor new marks for
//! [`RETENTION`] of log time is forgotten with all its marks together: earlier than that, none is. Marks go with their stream, whose number is
//! never used again: what is left of a deleted one shows nowhere, and is freed in slices, as is that of a deleted group.
//!
//! Invariant: a shelf is in `due` exactly while nobody holds it.
//! Invariant: `by_stream` holds what `rows` holds; each row's shelf is there, or is being freed.
//! Called by: `commit` (offsets, what members do), transactions when they end, `Machine::remove_stream`, `Machine::expire`; snapshots.

use crate::streams::{StreamId, Streams, combine, restore_section, section};
use crate::table::{Sections, TAG_NEXT, Table};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    CommittedOffset, DecodeError, GroupFault, GroupName, Key, LogTime, Millis, StreamOffsets, WallTime,
    wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long the marks of a group without members are kept after the last was set, or the last member left: Kafka's default of seven days.
pub(crate) const RETENTION: Millis = Millis(7 * 24 * 3600 * 1000);
/// Most groups that have marks.
const GROUPS_MAX: usize = 100_000;
/// Rows of deleted groups and streams that are freed with each entry.
const FREED_PER_ENTRY: usize = 2_000;

/// A group that has marks, or had.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shelf {
    number: u64,
    /// When it is forgotten; nothing while the group has members.
    due: Option<LogTime>,
}
wire_struct!(Shelf { number, due });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    group: u64,
    stream: StreamId,
    partition: u32,
}
wire_struct!(Place { group, stream, partition });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    mark: CommittedOffset,
    /// When it was set.
    wall: WallTime,
}
wire_struct!(Row { mark, wall });

/// All marks of all groups.
#[derive(Default)]
pub(crate) struct Offsets {
    shelves: Table<GroupName, Shelf>,
    rows: Table<Place, Row>,
    /// Numbers of groups that are gone and not yet freed.
    dropped: Table<u64, bool>,
    /// Streams that are gone and not yet freed.
    gone: Table<StreamId, bool>,
    by_stream: BTreeSet<(StreamId, u64, u32)>,
    due: BTreeSet<(LogTime, GroupName)>,
    next: u64,
    walk: Option<Sections>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    shelves: usize,
    rows: usize,
    dropped: usize,
    gone: usize,
    next: u64,
}

/// Reading.
impl Offsets {
    pub(crate) fn has(&self, group: &GroupName) -> bool {
        self.shelves.get(group).is_some()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.shelves.iter().map(|(name, _)| name)
    }

    pub(crate) fn get(
        &self,
        group: &GroupName,
        stream: StreamId,
        partition: u32,
    ) -> Option<&CommittedOffset> {
        let group = self.shelves.get(group)?.number;
        self.rows.get(&Place { group, stream, partition }).map(|row| &row.mark)
    }

    /// Marks of a group in streams that are there.
    pub(crate) fn all<'a>(
        &'a self,
        group: &GroupName,
        streams: &'a Streams,
    ) -> impl Iterator<Item = (&'a Key, u32, &'a CommittedOffset)> {
        let number = self.shelves.get(group).map(|shelf| shelf.number);
        let rows = number.into_iter().flat_map(|number| self.rows.range(of_group(number)));
        rows.filter_map(|(place, row)| Some((streams.name(place.stream)?, place.partition, &row.mark)))
    }

    /// When the next group is forgotten.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        self.due.first().map(|(time, _)| *time)
    }
}

/// Changing.
impl Offsets {
    /// Sets marks; the places, in the order asked, of those whose stream or partition is not there. Who may is asked before, by `may_commit`.
    ///
    /// # Errors
    /// [`GroupFault::Full`]: there are too many groups.
    pub(crate) fn put(
        &mut self,
        streams: &Streams,
        group: &GroupName,
        offsets: &[StreamOffsets],
        (now, wall): (LogTime, WallTime),
    ) -> Result<Vec<u32>, GroupFault> {
        let number = self.shelf(group, now)?;
        let (mut place, mut missing) = (0, Vec::new());
        for of in offsets {
            let found = streams.id(&of.stream).ok();
            let partitions = found.map_or(0, |id| streams.bounds(id).count() as u32);
            for (partition, mark) in &of.partitions {
                match found.filter(|_| *partition < partitions) {
                    Some(stream) => {
                        self.by_stream.insert((stream, number, *partition));
                        let row = Row { mark: mark.clone(), wall };
                        self.rows.set(Place { group: number, stream, partition: *partition }, Some(row));
                    }
                    None => missing.push(place),
                }
                place += 1;
            }
        }
        Ok(missing)
    }

    /// The number of a group, which is made if need be; its time to be forgotten begins anew.
    fn shelf(&mut self, group: &GroupName, now: LogTime) -> Result<u64, GroupFault> {
        let due = Some(now.plus(RETENTION));
        match self.shelves.get(group) {
            // While it has members, it is not forgotten.
            Some(shelf) if shelf.due.is_none() => Ok(shelf.number),
            Some(shelf) => {
                let number = shelf.number;
                self.set(group, Some(Shelf { number, due }));
                Ok(number)
            }
            None if self.shelves.len() >= GROUPS_MAX => Err(GroupFault::Full),
            None => {
                let number = self.next;
                self.next += 1;
                self.set(group, Some(Shelf { number, due }));
                Ok(number)
            }
        }
    }

    /// The group has members: it is not forgotten while it has.
    pub(crate) fn hold(&mut self, group: &GroupName) {
        let number = match self.shelves.get(group) {
            Some(shelf) => shelf.number,
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        self.set(group, Some(Shelf { number, due: None }));
    }

    /// The group has no members any more: its time to be forgotten begins.
    pub(crate) fn release(&mut self, group: &GroupName, now: LogTime) {
        if let Some(number) = self.shelves.get(group).map(|shelf| shelf.number) {
            self.set(group, Some(Shelf { number, due: Some(now.plus(RETENTION)) }));
        }
    }

    pub(crate) fn is_held(&self, group: &GroupName) -> bool {
        self.shelves.get(group).is_some_and(|shelf| shelf.due.is_none())
    }

    /// Forgets a mark; whether there was one.
    pub(crate) fn forget_one(&mut self, group: &GroupName, stream: StreamId, partition: u32) -> bool {
        let Some(group) = self.shelves.get(group).map(|shelf| shelf.number) else { return false };
        self.by_stream.remove(&(stream, group, partition));
        self.rows.set(Place { group, stream, partition }, None).is_some()
    }

    /// Forgets a group; whether it was there.
    pub(crate) fn drop_group(&mut self, group: &GroupName) -> bool {
        let Some(shelf) = self.set(group, None) else { return false };
        self.dropped.set(shelf.number, Some(true));
        true
    }

    /// Forgets a group that has neither members nor marks.
    pub(crate) fn drop_bare(&mut self, group: &GroupName) {
        let is_bare =
            |shelf: &Shelf| shelf.due.is_some() && self.rows.range(of_group(shelf.number)).next().is_none();
        if self.shelves.get(group).is_some_and(is_bare) {
            self.set(group, None);
        }
    }

    /// The stream is gone, and all marks in it.
    pub(crate) fn drop_stream(&mut self, stream: StreamId) {
        if self.of_stream(stream).next().is_some() {
            self.gone.set(stream, Some(true));
        }
    }

    /// Forgets the next group that is due.
    pub(crate) fn expire_next(&mut self) {
        if let Some((_, group)) = self.due.first().cloned() {
            self.drop_group(&group);
        }
    }

    /// Frees some of what deleted groups and streams left. Between commits: it cannot be taken back.
    pub(crate) fn free_some(&mut self) {
        let mut left = FREED_PER_ENTRY;
        while left > 0 {
            let group = self.dropped.iter().next().map(|(number, _)| *number);
            let stream = self.gone.iter().next().map(|(stream, _)| *stream);
            let places: Vec<Place> = match (group, stream) {
                (Some(number), _) => {
                    self.rows.range(of_group(number)).take(left).map(|(at, _)| *at).collect()
                }
                (None, Some(stream)) => self.of_stream(stream).take(left).collect(),
                (None, None) => break,
            };
            for place in &places {
                self.rows.set(*place, None);
                self.by_stream.remove(&(place.stream, place.group, place.partition));
            }
            left -= places.len();
            if left > 0 {
                match (group, stream) {
                    (Some(number), _) => drop(self.dropped.set(number, None)),
                    (None, Some(stream)) => drop(self.gone.set(stream, None)),
                    (None, None) => {}
                }
                left -= 1;
            }
        }
        self.forget();
    }

    fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = Place> {
        let range = (stream, 0, 0)..=(stream, u64::MAX, u32::MAX);
        self.by_stream.range(range).map(|(stream, group, partition)| Place {
            group: *group,
            stream: *stream,
            partition: *partition,
        })
    }

    fn set(&mut self, group: &GroupName, value: Option<Shelf>) -> Option<Shelf> {
        let to = value.as_ref().and_then(|shelf| shelf.due);
        let before = self.shelves.set(group.clone(), value);
        let from = before.as_ref().and_then(|shelf| shelf.due);
        reindex(&mut self.due, group, from, to);
        before
    }
}

/// Undo, snapshot, digest.
impl Offsets {
    pub(crate) fn mark(&self) -> Mark {
        let Self { shelves, rows, dropped, gone, next, .. } = self;
        Mark {
            shelves: shelves.mark(),
            rows: rows.mark(),
            dropped: dropped.mark(),
            gone: gone.mark(),
            next: *next,
        }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { shelves, rows, by_stream, due, .. } = self;
        shelves.rollback(mark.shelves, |group, undone, back| {
            let time = |shelf: Option<&Shelf>| shelf.and_then(|shelf| shelf.due);
            reindex(due, group, time(undone), time(back));
        });
        rows.rollback(mark.rows, |place, _, back| {
            let entry = (place.stream, place.group, place.partition);
            if back.is_some() {
                by_stream.insert(entry)
            } else {
                by_stream.remove(&entry)
            };
        });
        self.dropped.rollback(mark.dropped, |_, _, _| {});
        self.gone.rollback(mark.gone, |_, _, _| {});
        self.next = mark.next;
    }

    pub(crate) fn forget(&mut self) {
        self.shelves.forget();
        self.rows.forget();
        self.dropped.forget();
        self.gone.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.shelves.walk_begin();
        self.rows.walk_begin();
        self.dropped.walk_begin();
        self.gone.walk_begin();
        self.walk = Some(Sections::new(self.next));
    }

    /// Emits one chunk of up to `rows_max` rows; returns whether the walk is over.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let Self { walk, shelves, rows, dropped, gone, .. } = self;
        let Some(walk) = walk else { return true };
        walk.go_on(TAG_GONE, rows_max, out, |tag, left, out| match tag {
            TAG_SHELVES => section(shelves, tag, left, out),
            TAG_ROWS => section(rows, tag, left, out),
            TAG_DROPPED => section(dropped, tag, left, out),
            _ => section(gone, tag, left, out),
        })
    }

    pub(crate) fn walk_end(&mut self) {
        self.shelves.walk_end();
        self.rows.walk_end();
        self.dropped.walk_end();
        self.gone.walk_end();
        self.walk = None;
    }

    /// Reads one section into an empty or partly restored state. After the last one, [`Offsets::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        match from.varint()? {
            TAG_NEXT => self.next = from.varint()?,
            TAG_SHELVES => {
                for _ in 0..from.varint()? {
                    let (group, shelf) = self.shelves.restore_row(from)?;
                    reindex(&mut self.due, &group, None, shelf.due);
                }
            }
            TAG_ROWS => {
                for _ in 0..from.varint()? {
                    let (place, _) = self.rows.restore_row(from)?;
                    self.by_stream.insert((place.stream, place.group, place.partition));
                }
            }
            TAG_DROPPED => restore_section(&mut self.dropped, from)?,
            TAG_GONE => restore_section(&mut self.gone, from)?,
            found => return Err(DecodeError::Tag { what: "section of committed offsets", found }),
        }
        Ok(())
    }

    /// Checks what was restored. `has_members` tells whether a group has some.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(&self, is_stream: impl Fn(StreamId) -> bool) -> Result<(), DecodeError> {
        self.verify(is_stream).map_err(|what| DecodeError::Range { what, found: 0 })
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [
            self.shelves.digest(scratch),
            self.rows.digest(scratch),
            self.dropped.digest(scratch),
            self.gone.digest(scratch),
        ];
        combine(u128::from(self.next), &tables)
    }

    /// Panics when rows and indexes disagree.
    pub(crate) fn check(&self, is_stream: impl Fn(StreamId) -> bool) {
        if let Err(what) = self.verify(is_stream) {
            panic!("committed offsets: {what} does not fit");
        }
    }

    fn verify(&self, is_stream: impl Fn(StreamId) -> bool) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut numbers = BTreeMap::new();
        let mut due = 0;
        for (name, shelf) in self.shelves.iter() {
            sound(shelf.number < self.next, "number of a group")?;
            sound(numbers.insert(shelf.number, name).is_none(), "number of a group, twice")?;
            if let Some(time) = shelf.due {
                due += 1;
                sound(self.due.contains(&(time, name.clone())), "time at which a group is forgotten")?;
            }
        }
        sound(self.due.len() == due, "count of groups that are forgotten")?;
        for (number, _) in self.dropped.iter() {
            sound(*number < self.next && !numbers.contains_key(number), "number of a deleted group")?;
        }
        for (stream, _) in self.gone.iter() {
            sound(!is_stream(*stream), "a deleted stream that is there")?;
        }
        for (place, _) in self.rows.iter() {
            let known = numbers.contains_key(&place.group) || self.dropped.get(&place.group).is_some();
            sound(known, "group of a mark")?;
            sound(is_stream(place.stream) || self.gone.get(&place.stream).is_some(), "stream of a mark")?;
            let entry = (place.stream, place.group, place.partition);
            sound(self.by_stream.contains(&entry), "mark of a stream")?;
        }
        sound(self.by_stream.len() == self.rows.len(), "count of marks")
    }
}

const TAG_SHELVES: u64 = 2;
const TAG_ROWS: u64 = 3;
const TAG_DROPPED: u64 = 4;
const TAG_GONE: u64 = 5;

fn of_group(group: u64) -> std::ops::RangeInclusive<Place> {
    let first = Place { group, stream: StreamId(0), partition: 0 };
    first..=Place { group, stream: StreamId(u64::MAX), partition: u32::MAX }
}

fn reindex(
    due: &mut BTreeSet<(LogTime, GroupName)>,
    group: &GroupName,
    from: Option<LogTime>,
    to: Option<LogTime>,
) {
    if let Some(from) = from {
        due.remove(&(from, group.clone()));
    }
    if let Some(to) = to {
        due.insert((to, group.clone()));
    }
}
