//! Streams as Redis' commands read and change them.
//!
//! A stream that no other protocol protects is a key as any other: it has a row of `keys`, so that expiry, scanning, WATCH and waiting
//! come with it. Its records are in `streams`, its groups in `xgroups`.
//!
//! Invariant: since version 2 of the rules, a row of the kind `stream` and an unprotected stream go together.
//! Called by: the handlers of `quorate_calls::streams`.

use super::{Effects, View, not_internal, passed};
use crate::bodies::BodyId;
use crate::keys::{Hang, Kind};
use crate::streams::{INLINE, NotPlain, PartKey, StreamId};
use crate::{CALLS_SINCE, Event, Machine, Now, Times};
use bytes::Bytes;
use quorate_calls::streams::{
    ChangeStreams, Consumer, Entry, Facts, Group, Idempotency, LookStreams, Pending, Said, Trim,
};
use quorate_calls::{Error, Session, fields};
use quorate_types::{Blob, Key, LogTime, OpError, PayloadRef, RecordId, Reply, record};

impl Machine {
    /// The bytes of a payload that is in the state and not in the log: of a record that a script appended.
    #[must_use]
    pub fn inline_payload(&self, at: PayloadRef) -> Option<Bytes> {
        self.streams.inline(at).map(|bytes| Bytes::copy_from_slice(bytes))
    }

    /// Whether an XREAD or XREADGROUP would be answered now, be it with an error.
    #[must_use]
    pub fn stream_ready(&self, times: Times, session: &Session, words: &[Blob]) -> bool {
        quorate_calls::streams::ready(&self.view_at(times), session, words)
    }

    /// The words of an XREAD with the newest ids of now for every `$`.
    #[must_use]
    pub fn stream_pinned(&self, times: Times, session: &Session, words: &[Blob]) -> Vec<Blob> {
        quorate_calls::streams::pinned(&self.view_at(times), session, words)
    }

    /// A reply that needs no log: records that are in the state are put in, others remain named.
    #[must_use]
    pub fn resolve_inline(&self, reply: Reply) -> Reply {
        let named = quorate_calls::streams::refs(&reply);
        if named.is_empty() || named.iter().any(|at| at.sub < INLINE) {
            return reply;
        }
        quorate_calls::streams::resolve(reply, &mut |at| self.inline_payload(at))
    }

    fn view_at(&self, times: Times) -> View<'_> {
        let times = Times { wall: times.wall.max(self.wall), time: times.time.max(self.time) };
        View { machine: self, times, rights: &crate::Rights::Everything, notes: true }
    }

    /// Notes in the row of a stream that it changes; makes the row. A protected stream has none.
    pub(crate) fn touch_stream(&mut self, stream: &Key, now: &Now) {
        let protected = self.streams.is_protected(stream);
        if self.version < CALLS_SINCE || protected || !self.streams.is_there(stream) {
            return;
        }
        let revision = self.revision_now();
        let slot = self.keys.find(stream);
        self.shed(slot, stream);
        match (slot, self.keys.live_at(slot)) {
            (Some(slot), Some(_)) => self.keys.touch_body(slot, revision, now.time),
            _ => {
                let of = (Kind::Stream, BodyId::NONE);
                self.keys.put_body(slot, stream, of, Hang::Nothing, revision, now.time);
                self.note_change(stream, quorate_calls::events::What::Changed { emptied: false }, true);
            }
        }
    }

    /// Gives every stream that may have one its row: when the rules begin to know them.
    pub(crate) fn give_rows(&mut self, now: &Now) {
        let all: Vec<Key> = self.streams.iter().map(|(name, _)| name.clone()).collect();
        for stream in all {
            self.touch_stream(&stream, now);
        }
    }

    /// Takes the row of a stream that has just become protected, or was deleted.
    pub(crate) fn take_row(&mut self, stream: &Key, now: &Now) {
        if self.keys.get(stream).is_some_and(|row| row.kind == Kind::Stream) {
            let revision = self.revision_now();
            self.keys.delete(stream, revision, now.time);
        }
    }

    /// Deletes a stream, with its records, groups and row.
    pub(crate) fn remove_stream(&mut self, stream: &Key, now: &Now) -> Result<(), OpError> {
        let id = self.streams.delete(stream)?;
        self.groups.drop_stream(&mut self.streams, id);
        self.xgroups.drop_stream(id);
        self.producers.drop_stream(id);
        self.offsets.drop_stream(id);
        self.revision_now();
        self.take_row(stream, now);
        Ok(())
    }

    /// Streams of a keyspace that have a row.
    pub(crate) fn streams_of(&self, space: quorate_types::Keyspace) -> Vec<Key> {
        let of = self.streams.iter().filter(|(name, stream)| name.space == space && !stream.protected);
        of.map(|(name, _)| name.clone()).collect()
    }

    /// Whether rows of keys and streams go together.
    pub(crate) fn rows_fit_streams(&self) -> bool {
        let rows = self.keys.of_kind(Kind::Stream);
        if self.version < CALLS_SINCE {
            return rows.is_empty();
        }
        let mut wanted: Vec<&Key> =
            self.streams.iter().filter(|(_, s)| !s.protected).map(|(name, _)| name).collect();
        let mut rows = rows;
        wanted.sort_unstable();
        rows.sort_unstable();
        rows == wanted
    }

    fn part(&self, key: &Key) -> PartKey {
        let single = self.streams.single(key).and_then(Result::ok);
        single.expect("a handler looked at the facts of the stream first")
    }
}

impl LookStreams for View<'_> {
    fn facts(&self, key: &Key) -> Result<Facts, Error> {
        match self.machine.streams.single(key) {
            None => Err(Error::reply("ERR no such stream")),
            Some(Ok(part)) => Ok(self.machine.streams.facts(part)),
            Some(Err(NotPlain::Compacted)) => Err(Error::reply(
                "ERR this stream is compacted by key, which Redis' commands do not know: use another protocol",
            )),
            Some(Err(NotPlain::Partitions(partitions))) => Err(Error::reply(format!(
                "ERR this stream has {partitions} partitions and Redis' commands know one: use another protocol"
            ))),
        }
    }

    fn entries(&self, key: &Key, from: RecordId, to: RecordId, newest_first: bool, max: u64) -> Vec<Entry> {
        self.machine.streams.entries(self.machine.part(key), from, to, newest_first, max)
    }

    fn payload(&self, at: PayloadRef) -> Option<Bytes> {
        self.machine.inline_payload(at)
    }

    fn groups(&self, key: &Key) -> Vec<(Blob, Group)> {
        self.machine.xgroups.groups(self.machine.part(key).stream)
    }

    fn group(&self, key: &Key, group: &Blob) -> Option<Group> {
        self.machine.xgroups.group(self.machine.part(key).stream, group)
    }

    fn consumers(&self, key: &Key, group: &Blob) -> Vec<(Blob, Consumer)> {
        self.machine.xgroups.consumers(self.machine.part(key).stream, group)
    }

    fn consumer(&self, key: &Key, group: &Blob, consumer: &Blob) -> Option<Consumer> {
        self.machine.xgroups.consumer(self.machine.part(key).stream, group, consumer)
    }

    fn pending(&self, key: &Key, group: &Blob, id: RecordId) -> Option<Pending> {
        self.machine.xgroups.pending(self.machine.part(key).stream, group, id)
    }

    fn last_pending(&self, key: &Key, group: &Blob) -> Option<RecordId> {
        self.machine.xgroups.last_pending(self.machine.part(key).stream, group)
    }

    fn pendings(
        &self,
        key: &Key,
        group: &Blob,
        consumer: Option<&Blob>,
        from: RecordId,
        to: RecordId,
        max: u64,
    ) -> Vec<(RecordId, Pending)> {
        self.machine.xgroups.pendings(self.machine.part(key).stream, group, consumer, (from, to), max)
    }

    fn idempotency(&self, key: &Key) -> Option<Idempotency> {
        let stream = self.machine.part(key).stream;
        let (seconds, ids_max) = self.bounds(stream)?;
        let own = self.machine.producers.group(stream, &OWN)?;
        let repeated = self.machine.producers.consumer(stream, &OWN, &OWN).map_or(0, |own| own.seen);
        let producers = self.machine.producers.groups(stream);
        Some(Idempotency {
            seconds,
            ids_max,
            producers: producers.len() as u64 - 1,
            ids: producers.iter().map(|(_, producer)| producer.pending).sum(),
            added: own.read.unwrap_or_default(),
            repeated,
        })
    }

    fn said(&self, key: &Key, said: Said<'_>) -> Option<RecordId> {
        let stream = self.machine.part(key).stream;
        let (seconds, _) = self.bounds(stream)?;
        let every = (RecordId::ZERO, RecordId::MAX);
        let found = self.machine.producers.pendings(stream, said.producer, Some(said.id), every, 1);
        let (record, remembered) = found.first()?;
        let until = remembered.at.saturating_add(seconds * 1000);
        (until > millis(self.machine.time)).then_some(*record)
    }
}

/// Where a stream's own numbers are among its producers, whose names are never empty.
const OWN: Blob = Blob::EMPTY;
/// Messages that are forgotten with each that is remembered, beside those that are too many; and other producers that are looked at meanwhile,
/// so that one that says nothing any more is forgotten too.
const FORGOTTEN_AT_ONCE: u64 = 8;
const OTHERS_AT_ONCE: usize = 2;

fn millis(time: LogTime) -> u64 {
    time.0 / 1_000_000
}

impl View<'_> {
    /// Messages ever remembered, and those that came again.
    fn idempotency_numbers(self, stream: StreamId) -> (u64, u64) {
        let producers = &self.machine.producers;
        let added = producers.group(stream, &OWN).and_then(|own| own.read).unwrap_or_default();
        (added, producers.consumer(stream, &OWN, &OWN).map_or(0, |own| own.seen))
    }

    /// For how long and how many messages are remembered.
    fn bounds(self, stream: StreamId) -> Option<(u64, u64)> {
        self.machine.producers.group(stream, &OWN).map(|own| (own.last.ms, own.last.seq))
    }
}

impl Effects<'_, '_> {
    /// Forgets a producer's oldest messages: those that are too many, and some that are too old; and the producer with the last.
    fn forget_said(&mut self, stream: StreamId, producer: &Blob, (seconds, ids_max): (u64, u64)) {
        let now = millis(self.now().time);
        let producers = &mut self.machine.producers;
        let Some(group) = producers.group(stream, producer) else { return };
        let over = group.pending.saturating_sub(ids_max);
        let oldest = (RecordId::ZERO, RecordId::MAX);
        let found = producers.pendings(stream, producer, None, oldest, over + FORGOTTEN_AT_ONCE);
        let old = |at: u64| at.saturating_add(seconds * 1000) <= now;
        let gone = found.iter().enumerate().filter(|(at, (_, said))| (*at as u64) < over || old(said.at));
        let gone: Vec<(RecordId, Blob)> = gone.map(|(_, (id, said))| (*id, said.consumer.clone())).collect();
        let all = gone.len() as u64 == group.pending;
        for (record, id) in gone {
            producers.put_pending(stream, producer, record, None);
            producers.drop_consumer(stream, producer, &id);
        }
        if all {
            producers.drop_group(stream, producer);
        }
    }
}

impl Effects<'_, '_> {
    /// Checks that a stream may be here; what has passed its deadline is ended first.
    fn may_stream(&mut self, key: &Key) -> Result<(), Error> {
        not_internal(key.space)?;
        match self.machine.keys.get(key) {
            Some(row) if passed(row, self.times()) => self.machine.drop_key(key, self.context.now),
            Some(row) if row.kind != Kind::Stream => return Err(Error::wrong_type()),
            _ => {}
        }
        Ok(())
    }
}

impl Effects<'_, '_> {
    /// A change of a stream counts as a revision, whether or not it has a row that could tell.
    fn stream_changed(&mut self, key: &Key) {
        self.machine.revision_now();
        self.machine.touch_stream(key, self.context.now);
    }
}

impl ChangeStreams for Effects<'_, '_> {
    fn create(&mut self, key: &Key) -> Result<(), Error> {
        self.may_stream(key)?;
        self.machine.streams.make(key);
        self.machine.touch_stream(key, self.context.now);
        Ok(())
    }

    fn append(&mut self, key: &Key, id: RecordId, words: &[Blob]) -> Result<(), Error> {
        let (at, bytes, inline) = match (self.record, words) {
            (Some(record), []) => {
                let here = PayloadRef { index: self.now().index, sub: record.sub };
                (record.at.unwrap_or(here), record.bytes.len(), None)
            }
            (None, []) => {
                return Err(Error::reply("ERR no record came with this XADD: nothing was appended"));
            }
            (_, words) => {
                let payload = record::encode(&[fields::to_record(words)]).bytes;
                let sub = INLINE + self.machine.inline_records;
                let at = PayloadRef { index: self.now().index, sub };
                (at, payload.len(), Some(Blob::copy_from(&payload)))
            }
        };
        let bytes = u32::try_from(bytes)
            .map_err(|_| Error::reply("ERR Elements are too large to be stored: 4 GiB is the most"))?;
        self.may_stream(key)?;
        self.machine.inline_records += u32::from(inline.is_some());
        self.machine.streams.append_record(key, id, at, bytes, inline, self.context.now);
        self.out.events.push(Event::StreamAppended { stream: key.clone(), partition: 0 });
        self.stream_changed(key);
        Ok(())
    }

    fn trim(&mut self, key: &Key, trim: Trim, max: u64) -> u64 {
        let cut = self.machine.streams.cut(self.machine.part(key), trim, max);
        if cut > 0 {
            self.stream_changed(key);
        }
        cut
    }

    fn remove(&mut self, key: &Key, ids: &[RecordId]) -> Result<u64, Error> {
        let part = self.machine.part(key);
        let removed = self.machine.streams.remove_records(part, ids).map_err(|(id, records)| {
            Error::reply(format!(
                "ERR record {id} was appended in a batch of {records}, which is kept whole: nothing was removed, trim the stream instead"
            ))
        })?;
        if removed > 0 {
            self.stream_changed(key);
        }
        Ok(removed)
    }

    fn set_id(
        &mut self,
        key: &Key,
        last: RecordId,
        added: Option<u64>,
        max_deleted: Option<RecordId>,
    ) -> Result<(), Error> {
        if !self.machine.streams.set_ids(self.machine.part(key), last, added, max_deleted) {
            return Err(Error::reply(
                "ERR The ID specified in XSETID is smaller than that of a removed record which still has its place: \
                 take a greater one, or trim the stream first",
            ));
        }
        self.stream_changed(key);
        Ok(())
    }

    fn set_idempotency(&mut self, key: &Key, seconds: u64, ids_max: u64) {
        let stream = self.machine.part(key).stream;
        let own = self.machine.producers.group(stream, &OWN);
        for (producer, _) in self.machine.producers.groups(stream) {
            if producer != OWN {
                self.machine.producers.drop_group(stream, &producer);
            }
        }
        let last = RecordId { ms: seconds, seq: ids_max };
        let added = own.map_or(0, |own| own.read.unwrap_or_default());
        self.machine.producers.put_group(stream, &OWN, last, Some(added));
    }

    fn say(&mut self, key: &Key, said: Said<'_>, record: Option<RecordId>) {
        let stream = self.machine.part(key).stream;
        let bounds = self.view().bounds(stream).unwrap_or_else(|| {
            let default = Idempotency::default();
            (default.seconds, default.ids_max)
        });
        let (own, at) = (self.view().idempotency_numbers(stream), millis(self.now().time));
        let producers = &mut self.machine.producers;
        let last = RecordId { ms: bounds.0, seq: bounds.1 };
        producers.put_group(stream, &OWN, last, Some(own.0 + u64::from(record.is_some())));
        let Some(record) = record else {
            producers.put_consumer(stream, &OWN, &OWN, own.1 + 1, None);
            return;
        };
        // A message that was said before, longer ago than is remembered, is a new one.
        let every = (RecordId::ZERO, RecordId::MAX);
        for (old, _) in producers.pendings(stream, said.producer, Some(said.id), every, u64::MAX) {
            producers.put_pending(stream, said.producer, old, None);
        }
        if producers.group(stream, said.producer).is_none() {
            producers.put_group(stream, said.producer, RecordId::ZERO, None);
        }
        producers.put_consumer(stream, said.producer, said.id, at, None);
        let pending = Pending { consumer: said.id.clone(), at, count: 1 };
        producers.put_pending(stream, said.producer, record, Some(pending));
        let others = producers.after(stream, said.producer, OTHERS_AT_ONCE);
        self.forget_said(stream, said.producer, bounds);
        for other in others {
            self.forget_said(stream, &other, bounds);
        }
    }

    fn put_group(&mut self, key: &Key, group: &Blob, last: RecordId, read: Option<u64>) {
        self.machine.xgroups.put_group(self.machine.part(key).stream, group, last, read);
    }

    fn drop_group(&mut self, key: &Key, group: &Blob) {
        self.machine.xgroups.drop_group(self.machine.part(key).stream, group);
        // Who waits as one of its consumers must hear of it.
        self.machine.touch_stream(key, self.context.now);
    }

    fn put_consumer(&mut self, key: &Key, group: &Blob, consumer: &Blob, seen: u64, active: Option<u64>) {
        let stream = self.machine.part(key).stream;
        if self.machine.listens && self.machine.xgroups.consumer(stream, group, consumer).is_none() {
            self.machine.note_change(key, quorate_calls::events::What::Consumer, false);
        }
        self.machine.xgroups.put_consumer(stream, group, consumer, seen, active);
    }

    fn drop_consumer(&mut self, key: &Key, group: &Blob, consumer: &Blob) {
        self.machine.xgroups.drop_consumer(self.machine.part(key).stream, group, consumer);
    }

    fn put_pending(&mut self, key: &Key, group: &Blob, id: RecordId, pending: Option<Pending>) {
        self.machine.xgroups.put_pending(self.machine.part(key).stream, group, id, pending);
    }
}
