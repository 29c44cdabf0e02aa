//! Groups as Redis has them: what was delivered to which consumer and not acknowledged. Kafka's and our own groups are in `groups`.
//!
//! What streams remember of their producers is rows of the same kind, in an instance of its own: a producer, its messages, and their records.
//!
//! A group has a number, never used again: what is left of a deleted one never shows in a new one of its name, and is freed in slices.
//!
//! Invariant: every pending record is its consumer's; a group and a consumer count what is pending of them.
//! Invariant: `by_consumer` holds what `pending` holds.
//! Called by: `calls::streams`; `Machine::remove_stream`; snapshots.

use crate::streams::{StreamId, combine, restore_section, section};
use crate::table::{Sections, TAG_NEXT, Table};
use quorate_calls::streams::{Consumer, Group, Pending};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{Blob, DecodeError, RecordId, wire_struct};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Rows of deleted groups that are freed with each entry.
const FREED_PER_ENTRY: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    stream: StreamId,
    group: Blob,
}
wire_struct!(Name { stream, group });

#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupRow {
    number: u64,
    last: RecordId,
    read: Option<u64>,
    pending: u64,
    consumers: u64,
}
wire_struct!(GroupRow { number, last, read, pending, consumers });

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    group: u64,
    name: Blob,
}
wire_struct!(Member { group, name });

#[derive(Clone, Debug, PartialEq, Eq)]
struct MemberRow {
    seen: u64,
    active: Option<u64>,
    pending: u64,
}
wire_struct!(MemberRow { seen, active, pending });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    group: u64,
    id: RecordId,
}
wire_struct!(Place { group, id });

#[derive(Clone, Debug, PartialEq, Eq)]
struct PendingRow {
    consumer: Blob,
    at: u64,
    count: u64,
}
wire_struct!(PendingRow { consumer, at, count });

impl PendingRow {
    fn shown(&self) -> Pending {
        Pending { consumer: self.consumer.clone(), at: self.at, count: self.count }
    }
}

/// All groups of all streams.
#[derive(Default)]
pub(crate) struct XGroups {
    groups: Table<Name, GroupRow>,
    members: Table<Member, MemberRow>,
    pending: Table<Place, PendingRow>,
    /// Numbers of groups that are gone and not yet freed.
    dropped: Table<u64, bool>,
    by_consumer: BTreeSet<(Member, RecordId)>,
    next: u64,
    walk: Option<Sections>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    groups: usize,
    members: usize,
    pending: usize,
    dropped: usize,
    next: u64,
}

/// Reading.
impl XGroups {
    pub(crate) fn groups(&self, stream: StreamId) -> Vec<(Blob, Group)> {
        self.of(stream).map(|(name, row)| (name.group.clone(), shown(row))).collect()
    }

    /// Names of groups after one, and around to the first; never that of nothing.
    pub(crate) fn after(&self, stream: StreamId, group: &Blob, max: usize) -> Vec<Blob> {
        let from = Bound::Excluded(Name { stream, group: group.clone() });
        let after = self.groups.range((from, Bound::Unbounded)).take_while(|(name, _)| name.stream == stream);
        let around = after.chain(self.of(stream)).map(|(name, _)| &name.group);
        around.filter(|name| !name.is_empty() && *name != group).take(max).cloned().collect()
    }

    pub(crate) fn group(&self, stream: StreamId, group: &Blob) -> Option<Group> {
        self.row(stream, group).map(shown)
    }

    pub(crate) fn consumers(&self, stream: StreamId, group: &Blob) -> Vec<(Blob, Consumer)> {
        let Some(row) = self.row(stream, group) else { return Vec::new() };
        let of = self.members_of(row.number);
        of.map(|(member, row)| (member.name.clone(), shown_member(row))).collect()
    }

    pub(crate) fn consumer(&self, stream: StreamId, group: &Blob, consumer: &Blob) -> Option<Consumer> {
        let group = self.row(stream, group)?.number;
        self.members.get(&Member { group, name: consumer.clone() }).map(shown_member)
    }

    pub(crate) fn pending(&self, stream: StreamId, group: &Blob, id: RecordId) -> Option<Pending> {
        let group = self.row(stream, group)?.number;
        self.pending.get(&Place { group, id }).map(PendingRow::shown)
    }

    pub(crate) fn last_pending(&self, stream: StreamId, group: &Blob) -> Option<RecordId> {
        let group = self.row(stream, group)?.number;
        self.pending.range(all(group)).next_back().map(|(place, _)| place.id)
    }

    pub(crate) fn pendings(
        &self,
        stream: StreamId,
        group: &Blob,
        consumer: Option<&Blob>,
        (from, to): (RecordId, RecordId),
        max: u64,
    ) -> Vec<(RecordId, Pending)> {
        let Some(row) = self.row(stream, group).filter(|_| from <= to) else { return Vec::new() };
        let group = row.number;
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let Some(consumer) = consumer else {
            let range = Place { group, id: from }..=Place { group, id: to };
            return self.pending.range(range).take(max).map(|(place, row)| (place.id, row.shown())).collect();
        };
        let member = Member { group, name: consumer.clone() };
        let own = self.by_consumer.range((member.clone(), from)..=(member, to)).take(max);
        own.filter_map(|(_, id)| Some((*id, self.pending.get(&Place { group, id: *id })?.shown()))).collect()
    }
}

/// Changing.
impl XGroups {
    pub(crate) fn put_group(&mut self, stream: StreamId, group: &Blob, last: RecordId, read: Option<u64>) {
        let name = Name { stream, group: group.clone() };
        let changed = self.groups.update(&name, |row| (row.last, row.read) = (last, read));
        if !changed {
            let row = GroupRow { number: self.next, last, read, pending: 0, consumers: 0 };
            self.next += 1;
            self.groups.set(name, Some(row));
        }
    }

    pub(crate) fn drop_group(&mut self, stream: StreamId, group: &Blob) {
        if let Some(row) = self.groups.set(Name { stream, group: group.clone() }, None) {
            self.dropped.set(row.number, Some(true));
        }
    }

    /// The stream is gone, and all its groups with it.
    pub(crate) fn drop_stream(&mut self, stream: StreamId) {
        let all: Vec<Blob> = self.of(stream).map(|(name, _)| name.group.clone()).collect();
        for group in &all {
            self.drop_group(stream, group);
        }
    }

    pub(crate) fn put_consumer(
        &mut self,
        stream: StreamId,
        group: &Blob,
        consumer: &Blob,
        seen: u64,
        active: Option<u64>,
    ) {
        let Some(row) = self.row(stream, group) else { return };
        let member = Member { group: row.number, name: consumer.clone() };
        if !self.members.update(&member, |row| (row.seen, row.active) = (seen, active)) {
            self.members.set(member, Some(MemberRow { seen, active, pending: 0 }));
            self.count(stream, group, |row| row.consumers += 1);
        }
    }

    pub(crate) fn drop_consumer(&mut self, stream: StreamId, group: &Blob, consumer: &Blob) {
        let Some(row) = self.row(stream, group) else { return };
        let member = Member { group: row.number, name: consumer.clone() };
        if self.members.set(member, None).is_some() {
            self.count(stream, group, |row| row.consumers -= 1);
        }
    }

    pub(crate) fn put_pending(
        &mut self,
        stream: StreamId,
        group: &Blob,
        id: RecordId,
        pending: Option<Pending>,
    ) {
        let Some(number) = self.row(stream, group).map(|row| row.number) else { return };
        let row = pending.map(|Pending { consumer, at, count }| PendingRow { consumer, at, count });
        let new = row.as_ref().map(|row| row.consumer.clone());
        let before = self.pending.set(Place { group: number, id }, row).map(|row| row.consumer);
        if before == new {
            return;
        }
        if let Some(name) = &before {
            let member = Member { group: number, name: name.clone() };
            self.members.update(&member, |row| row.pending -= 1);
            self.by_consumer.remove(&(member, id));
        }
        if let Some(name) = &new {
            let member = Member { group: number, name: name.clone() };
            self.members.update(&member, |row| row.pending += 1);
            self.by_consumer.insert((member, id));
        }
        match (before, new) {
            (None, Some(_)) => self.count(stream, group, |row| row.pending += 1),
            (Some(_), None) => self.count(stream, group, |row| row.pending -= 1),
            _ => {}
        }
    }

    /// Frees some of what deleted groups left. Between commits: it cannot be taken back.
    pub(crate) fn free_some(&mut self) {
        let mut left = FREED_PER_ENTRY;
        while left > 0 {
            let Some(number) = self.dropped.iter().next().map(|(number, _)| *number) else { break };
            let places: Vec<Place> = self.pending.range(all(number)).take(left).map(|(at, _)| *at).collect();
            for place in &places {
                if let Some(row) = self.pending.set(*place, None) {
                    self.by_consumer.remove(&(Member { group: number, name: row.consumer }, place.id));
                }
            }
            left -= places.len();
            let members: Vec<Member> =
                self.members_of(number).take(left).map(|(member, _)| member.clone()).collect();
            left -= members.len();
            for member in members {
                self.members.set(member, None);
            }
            if left > 0 {
                self.dropped.set(number, None);
                left -= 1;
            }
        }
        self.forget();
    }
}

/// Undo, snapshot, digest.
impl XGroups {
    pub(crate) fn mark(&self) -> Mark {
        let Self { groups, members, pending, dropped, next, .. } = self;
        Mark {
            groups: groups.mark(),
            members: members.mark(),
            pending: pending.mark(),
            dropped: dropped.mark(),
            next: *next,
        }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        self.groups.rollback(mark.groups, |_, _, _| {});
        self.members.rollback(mark.members, |_, _, _| {});
        self.dropped.rollback(mark.dropped, |_, _, _| {});
        let Self { pending, by_consumer, .. } = self;
        pending.rollback(mark.pending, |place, undone, back| {
            let own =
                |row: &PendingRow| (Member { group: place.group, name: row.consumer.clone() }, place.id);
            if let Some(undone) = undone {
                by_consumer.remove(&own(undone));
            }
            if let Some(back) = back {
                by_consumer.insert(own(back));
            }
        });
        self.next = mark.next;
    }

    pub(crate) fn forget(&mut self) {
        self.groups.forget();
        self.members.forget();
        self.pending.forget();
        self.dropped.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.groups.walk_begin();
        self.members.walk_begin();
        self.pending.walk_begin();
        self.dropped.walk_begin();
        self.walk = Some(Sections::new(self.next));
    }

    /// Emits one chunk of up to `rows_max` rows; returns whether the walk is over.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let Self { walk, groups, members, pending, dropped, .. } = self;
        let Some(walk) = walk else { return true };
        walk.go_on(TAG_DROPPED, rows_max, out, |tag, left, out| match tag {
            TAG_GROUPS => section(groups, tag, left, out),
            TAG_MEMBERS => section(members, tag, left, out),
            TAG_PENDING => section(pending, tag, left, out),
            _ => section(dropped, tag, left, out),
        })
    }

    pub(crate) fn walk_end(&mut self) {
        self.groups.walk_end();
        self.members.walk_end();
        self.pending.walk_end();
        self.dropped.walk_end();
        self.walk = None;
    }

    /// Reads one section into an empty or partly restored state. After the last one, [`XGroups::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        match from.varint()? {
            TAG_NEXT => self.next = from.varint()?,
            TAG_GROUPS => restore_section(&mut self.groups, from)?,
            TAG_MEMBERS => restore_section(&mut self.members, from)?,
            TAG_PENDING => {
                for _ in 0..from.varint()? {
                    let (place, row) = self.pending.restore_row(from)?;
                    self.by_consumer.insert((Member { group: place.group, name: row.consumer }, place.id));
                }
            }
            TAG_DROPPED => restore_section(&mut self.dropped, from)?,
            found => return Err(DecodeError::Tag { what: "section of Redis' groups", found }),
        }
        Ok(())
    }

    /// Checks what was restored.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(&self, is_stream: impl Fn(StreamId) -> bool) -> Result<(), DecodeError> {
        self.verify(is_stream).map_err(|what| DecodeError::Range { what, found: 0 })
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [
            self.groups.digest(scratch),
            self.members.digest(scratch),
            self.pending.digest(scratch),
            self.dropped.digest(scratch),
        ];
        combine(u128::from(self.next), &tables)
    }

    /// Panics when rows and indexes disagree.
    pub(crate) fn check(&self, is_stream: impl Fn(StreamId) -> bool) {
        if let Err(what) = self.verify(is_stream) {
            panic!("groups of Redis: {what} does not fit");
        }
    }

    fn verify(&self, is_stream: impl Fn(StreamId) -> bool) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut pending: BTreeMap<u64, u64> = BTreeMap::new();
        let mut owned: BTreeMap<Member, u64> = BTreeMap::new();
        for (place, row) in self.pending.iter() {
            let member = Member { group: place.group, name: row.consumer.clone() };
            sound(self.by_consumer.contains(&(member.clone(), place.id)), "owner of a pending record")?;
            *pending.entry(place.group).or_default() += 1;
            *owned.entry(member).or_default() += 1;
        }
        sound(self.by_consumer.len() == self.pending.len(), "count of owned records")?;
        let mut members: BTreeMap<u64, u64> = BTreeMap::new();
        for (member, row) in self.members.iter() {
            *members.entry(member.group).or_default() += 1;
            let freed = self.dropped.get(&member.group).is_some();
            sound(freed || owned.get(member).copied().unwrap_or(0) == row.pending, "count of a consumer")?;
        }
        let mut numbers = BTreeSet::new();
        for (name, row) in self.groups.iter() {
            sound(is_stream(name.stream), "stream of a group")?;
            sound(row.number < self.next && numbers.insert(row.number), "number of a group")?;
            let counted = |counts: &BTreeMap<u64, u64>| counts.get(&row.number).copied().unwrap_or(0);
            sound(counted(&pending) == row.pending, "count of pending records")?;
            sound(counted(&members) == row.consumers, "count of consumers")?;
        }
        for (number, _) in self.dropped.iter() {
            sound(numbers.insert(*number) && *number < self.next, "number of a deleted group")?;
        }
        let known = |numbers: &BTreeSet<u64>, counts: &BTreeMap<u64, u64>| {
            counts.keys().all(|number| numbers.contains(number))
        };
        sound(known(&numbers, &pending) && known(&numbers, &members), "group of a row")?;
        sound(
            owned.keys().all(|member| {
                self.members.get(member).is_some() || self.dropped.get(&member.group).is_some()
            }),
            "consumer of a record",
        )
    }

    fn row(&self, stream: StreamId, group: &Blob) -> Option<&GroupRow> {
        self.groups.get(&Name { stream, group: group.clone() })
    }

    fn count(&mut self, stream: StreamId, group: &Blob, change: impl FnOnce(&mut GroupRow)) {
        self.groups.update(&Name { stream, group: group.clone() }, change);
    }

    fn of(&self, stream: StreamId) -> impl Iterator<Item = (&Name, &GroupRow)> {
        let from = Name { stream, group: Blob::EMPTY };
        self.groups.range(from..).take_while(move |(name, _)| name.stream == stream)
    }

    fn members_of(&self, group: u64) -> impl Iterator<Item = (&Member, &MemberRow)> {
        let from = Member { group, name: Blob::EMPTY };
        self.members.range(from..).take_while(move |(member, _)| member.group == group)
    }
}

const TAG_GROUPS: u64 = 2;
const TAG_MEMBERS: u64 = 3;
const TAG_PENDING: u64 = 4;
const TAG_DROPPED: u64 = 5;

fn all(group: u64) -> std::ops::RangeInclusive<Place> {
    Place { group, id: RecordId::ZERO }..=Place { group, id: RecordId::MAX }
}

fn shown(row: &GroupRow) -> Group {
    Group { last: row.last, read: row.read, pending: row.pending, consumers: row.consumers }
}

fn shown_member(row: &MemberRow) -> Consumer {
    Consumer { seen: row.seen, active: row.active, pending: row.pending }
}
