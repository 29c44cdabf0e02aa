//! What streams and groups promise: named behaviours, and a comparison with a naive model.
//!
//! The model keeps every record in plain lists and looks through all of them each time. It is compared with the real state
//! after every step; at random steps a change is rolled back, and a snapshot is walked while the state goes on changing.

use super::*;
use crate::Event;
use crate::groups::{GroupPartition, Groups};
use bytes::Bytes;
use proptest::prelude::*;
use quorate_types::{
    Delivery, GroupMode, GroupName, GroupSettings, LogTime, Millis, Payload, Record, Retention, Taken,
};

/// Streams and groups at a time.
#[derive(Default)]
struct World {
    streams: Streams,
    groups: Groups,
    now: Now,
    sub: u32,
    events: Vec<Event>,
}

impl World {
    fn with(settings: StreamSettings) -> Self {
        let mut world = Self::default();
        world.now = Now { index: LogIndex(1), wall: WallTime(1000), time: LogTime(0), ..world.now };
        world.streams.create(&"s".into(), &settings).unwrap();
        world
    }
    /// Lets milliseconds pass by both clocks, and ends what is due.
    fn pass(&mut self, millis: u64) {
        self.now.index = self.now.index.next();
        self.sub = 0;
        self.now.wall = self.now.wall.plus(Millis(millis));
        self.now.time = self.now.time.plus(Millis(millis));
        self.settle();
    }
    fn settle(&mut self) {
        while self.groups.next_due().is_some_and(|due| due <= self.now.time) {
            assert!(self.groups.expire(&mut self.streams, &self.now, 3, &mut self.events) > 0);
        }
        while self.streams.next_due_wall().is_some_and(|due| due <= self.now.wall) {
            assert!(self.streams.expire(&self.now, 3) > 0, "what is due is done");
        }
        self.check();
    }
    fn check(&mut self) {
        self.streams.forget();
        self.groups.forget();
        self.streams.check();
        self.groups.check();
        assert!(self.streams.reservations().eq(self.groups.dead_letters()));
    }
    fn append(
        &mut self,
        stream: &str,
        partition: PartitionChoice,
        records: &[Record],
    ) -> Result<OpResult, OpError> {
        let mut payload = record::encode(records);
        payload.sub = self.sub;
        self.sub += 1;
        let append = Append {
            stream: stream.into(),
            partition,
            format: Format::Records,
            records: records.len() as u32,
            payload,
            create: false,
        };
        let result = self.streams.append(&append, &self.now);
        self.streams.check();
        result
    }
    /// Appends records without keys to partition 0.
    fn put(&mut self, count: usize) {
        let records = vec![Record { value: Some(Bytes::from_static(b"value")), ..Record::default() }; count];
        self.append("s", PartitionChoice::Number { partition: 0 }, &records).unwrap();
    }
    fn put_keyed(&mut self, records: &[(&str, Option<&'static str>)]) {
        let records: Vec<Record> = records.iter().map(|(key, value)| keyed(key, *value)).collect();
        self.append("s", PartitionChoice::Any, &records).unwrap();
    }
    fn read(&self, stream: &str, partition: u32, from: u64) -> Result<Batches, OpError> {
        self.streams.records(&stream.into(), partition, Offset(from), u64::MAX, u64::MAX)
    }
    /// Offsets of partition 0 that are served.
    fn offsets(&self, stream: &str) -> Vec<u64> {
        let first = self.streams.view(&stream.into()).unwrap().partitions[0].first;
        let batches = self.read(stream, 0, first.0).unwrap().batches;
        batches.iter().flat_map(served).filter(|offset| *offset >= first.0).collect()
    }
    fn group(&mut self, name: &str, mode: GroupMode) {
        let settings = GroupSettings { mode, from_start: true };
        self.groups.create(&mut self.streams, &"s".into(), &name.into(), &settings).unwrap();
    }
    fn take(&mut self, group: &str, max: u32) -> Vec<Taken> {
        let (streams, events) = (&mut self.streams, &mut self.events);
        let consumer = Blob::from("worker");
        match self.groups.take(streams, &"s".into(), &group.into(), &consumer, max, None, &self.now, events) {
            Ok(OpResult::Taken { deliveries }) => deliveries,
            other => panic!("{other:?}"),
        }
    }
    fn ack(&mut self, group: &str, deliveries: &[Delivery]) -> (u64, Vec<Delivery>) {
        settled(self.groups.ack(&self.streams, &"s".into(), &group.into(), deliveries))
    }
    fn nack(&mut self, group: &str, deliveries: &[Delivery], delay: u64) -> (u64, Vec<Delivery>) {
        let (streams, events) = (&mut self.streams, &mut self.events);
        let delay = Millis(delay);
        settled(self.groups.nack(streams, &"s".into(), &group.into(), deliveries, delay, &self.now, events))
    }
    fn extend(&mut self, group: &str, deliveries: &[Delivery], visibility: u64) -> (u64, Vec<Delivery>) {
        let visibility = Millis(visibility);
        settled(self.groups.extend(
            &self.streams,
            &"s".into(),
            &group.into(),
            deliveries,
            visibility,
            &self.now,
        ))
    }
    fn has_ready(&self, group: &str) -> bool {
        self.groups.has_ready(&self.streams, &"s".into(), &group.into())
    }
    fn partition(&self, group: &str) -> GroupPartition {
        self.groups.view(&self.streams, &"s".into(), &group.into()).unwrap().partitions[0]
    }
    fn digest(&self) -> (u128, u128) {
        let mut scratch = Writer::default();
        (self.streams.digest(&mut scratch), self.groups.digest(&mut scratch))
    }
}

fn keyed(key: &str, value: Option<&'static str>) -> Record {
    Record { key: Some(key.into()), value: value.map(|v| Bytes::from_static(v.as_bytes())), headers: vec![] }
}
fn served(batch: &BatchRef) -> impl Iterator<Item = u64> {
    let (base, dead) = (batch.base.0, batch.dead.clone());
    (base..batch.end().0).filter(move |offset| !dead.contains(&((offset - base) as u32)))
}
fn settled(result: Result<OpResult, OpError>) -> (u64, Vec<Delivery>) {
    match result {
        Ok(OpResult::Settled { settled, lost }) => (settled, lost),
        other => panic!("{other:?}"),
    }
}
fn shared(visibility: u64, deliveries_max: u32, dead_letter: Option<&str>) -> GroupMode {
    GroupMode::Shared {
        visibility: Millis(visibility),
        deliveries_max,
        dead_letter: dead_letter.map(Key::from),
    }
}
fn compacted(age: Option<u64>) -> StreamSettings {
    let retention = Retention { age: age.map(Millis), bytes: None };
    StreamSettings { compact: true, retention, ..StreamSettings::default() }
}
fn kept(bytes: Option<u64>, age: Option<u64>) -> StreamSettings {
    StreamSettings { retention: Retention { bytes, age: age.map(Millis) }, ..StreamSettings::default() }
}
fn offsets_of(taken: &[Taken]) -> Vec<(u64, u32)> {
    taken.iter().map(|taken| (taken.delivery.offset.0, taken.delivery.attempt)).collect()
}
fn deliveries_of(taken: &[Taken]) -> Vec<Delivery> {
    taken.iter().map(|taken| taken.delivery).collect()
}

#[test]
fn offsets_are_dense_and_partitions_take_turns() {
    let mut world = World::with(StreamSettings { partitions: 2, ..StreamSettings::default() });
    let two = vec![Record::default(); 2];
    let mut places = Vec::new();
    for choice in [
        PartitionChoice::Any,
        PartitionChoice::Any,
        PartitionChoice::Any,
        PartitionChoice::Hash { hash: 7 },
        PartitionChoice::Number { partition: 0 },
    ] {
        match world.append("s", choice, &two).unwrap() {
            OpResult::Appended { partition, first, next } => places.push((partition, first.0, next.0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(places, [(0, 0, 2), (1, 0, 2), (0, 2, 4), (1, 2, 4), (0, 4, 6)]);
    assert_eq!(world.streams.next_offset(&"s".into(), 1), Offset(4));
    assert_eq!(world.streams.next_offset(&"s".into(), 9), Offset(0));
    let bounds = vec![(Offset(0), Offset(6)), (Offset(0), Offset(4))];
    assert_eq!(world.streams.info(&"s".into()), Ok(OpResult::Stream { partitions: bounds }));
}

#[test]
fn what_fails_changes_nothing() {
    let mut world = World::with(compacted(None));
    world.put_keyed(&[("a", Some("1"))]);
    world.group("p", GroupMode::Partitioned);
    world.check();
    let before = world.digest();
    let stream = Key::from("s");
    assert_eq!(
        world.append("none", PartitionChoice::Any, &[Record::default()]),
        Err(OpError::StreamMissing { stream: "none".into() })
    );
    assert_eq!(
        world.append("s", PartitionChoice::Number { partition: 3 }, &[keyed("a", None)]),
        Err(OpError::PartitionMissing { stream: stream.clone(), partitions: 1, asked: 3 })
    );
    assert_eq!(
        world.append("s", PartitionChoice::Any, &[keyed("a", None), Record::default()]),
        Err(OpError::KeylessRecord { stream: stream.clone() })
    );
    let mut append = Append {
        stream: stream.clone(),
        partition: PartitionChoice::Any,
        format: Format::Records,
        records: 2,
        payload: record::encode(&[keyed("a", None)]),
        create: false,
    };
    assert!(matches!(world.streams.append(&append, &world.now), Err(OpError::BadPayload { records: 2, .. })));
    append.format = Format::RecordBatch;
    let refused = world.streams.append(&append, &world.now).unwrap_err().to_string();
    assert!(refused.contains("goes by keys"), "{refused}");
    append.format = Format::Records;
    append.records = COMPACT_RECORDS_MAX + 1;
    assert!(matches!(world.streams.append(&append, &world.now), Err(OpError::Range { .. })));
    append.stream = "new".into();
    append.create = true;
    append.partition = PartitionChoice::Number { partition: 1 };
    assert!(matches!(world.streams.append(&append, &world.now), Err(OpError::PartitionMissing { .. })));
    assert_eq!(
        world.streams.create(&stream, &StreamSettings::default()),
        Err(OpError::StreamExists { stream: stream.clone() })
    );
    let fewer = StreamSettings { partitions: 0, ..compacted(None) };
    assert!(world.streams.alter(&stream, &fewer).is_err());
    let plain = world.streams.alter(&stream, &StreamSettings::default()).unwrap_err().to_string();
    assert!(plain.contains("s is a compacted stream that holds records"), "{plain}");
    assert!(matches!(world.streams.trim(&stream, 0, Offset(2)), Err(OpError::OffsetOutOfRange { .. })));
    let commit = |world: &mut World, offset, expected: Option<u64>| {
        let (groups, streams) = (&mut world.groups, &world.streams);
        groups.cursor_commit(streams, &"s".into(), &"p".into(), 0, Offset(offset), expected.map(Offset))
    };
    assert!(matches!(commit(&mut world, 2, None), Err(OpError::OffsetOutOfRange { .. })));
    assert_eq!(
        commit(&mut world, 1, Some(1)),
        Err(OpError::CursorMoved { found: Offset(0), expected: Offset(1) })
    );
    let (streams, events) = (&mut world.streams, &mut world.events);
    let taken = world
        .groups
        .take(streams, &stream, &"p".into(), &Blob::EMPTY, 1, None, &world.now, events)
        .unwrap_err();
    assert_eq!(taken.to_string(), "group p of stream s is partitioned: this operation is for shared groups");
    assert_eq!(world.digest(), before);
}

#[test]
fn an_append_makes_a_stream_when_asked() {
    let mut world = World::with(StreamSettings::default());
    let mut append = Append {
        stream: "new".into(),
        partition: PartitionChoice::Any,
        format: Format::Records,
        records: 1,
        payload: Payload::from(Bytes::from_static(b"anything: the machine does not look inside")),
        create: true,
    };
    append.payload.at = Some(PayloadRef { index: LogIndex(77), sub: 3 });
    world.streams.append(&append, &world.now).unwrap();
    world.check();
    assert!(world.streams.exists(&"new".into()) && !world.streams.exists(&"other".into()));
    let found = world.read("new", 0, 0).unwrap().batches;
    assert_eq!(
        found[0].at,
        PayloadRef { index: LogIndex(77), sub: 3 },
        "a kept payload stays where it was logged"
    );
    assert_eq!(world.streams.live(LogIndex(77), LogIndex(77)), [found[0].at]);
    assert_eq!(world.streams.live_bytes(LogIndex(0), LogIndex(76)), 0);
}

#[test]
fn a_partition_is_found_by_time() {
    for settings in [StreamSettings::default(), compacted(None)] {
        let mut world = World::with(settings);
        let stream = Key::from("s");
        let at = |world: &World, wall| world.streams.offset_at(&stream, 0, WallTime(wall)).unwrap();
        assert_eq!(at(&world, 0), None, "nothing is there yet");
        for (wall, keys) in [(10, ["a", "b"]), (10, ["c", "d"]), (20, ["a", "b"]), (40, ["e", "f"])] {
            world.now.wall = WallTime(wall);
            world.put_keyed(&keys.map(|key| (key, Some("v"))));
        }
        // Of the compacted one the first batch is gone.
        let first = world.read("s", 0, 0).unwrap().batches[0].base;
        assert_eq!(at(&world, 0).unwrap().max(first), first);
        assert_eq!(at(&world, 10).unwrap().max(first), first);
        for wall in 11..=20 {
            assert_eq!(at(&world, wall), Some(Offset(4)), "{wall}");
        }
        assert_eq!(
            (at(&world, 21), at(&world, 40), at(&world, 41)),
            (Some(Offset(6)), Some(Offset(6)), None)
        );
        world.streams.trim(&stream, 0, Offset(5)).unwrap();
        assert_eq!(at(&world, 0), Some(Offset(5)), "what was trimmed is never named");
        world.streams.trim(&stream, 0, Offset(8)).unwrap();
        assert_eq!(at(&world, 0), None);
        let missing = world.streams.offset_at(&stream, 1, WallTime(0));
        assert!(matches!(missing, Err(OpError::PartitionMissing { asked: 1, .. })));
    }
}

#[test]
fn a_read_gives_whole_batches_and_at_least_one() {
    let mut world = World::with(StreamSettings::default());
    world.put(3);
    world.put(2);
    world.put(1);
    let bases = |from, records, bytes| {
        let found = world.streams.records(&"s".into(), 0, Offset(from), records, bytes).unwrap();
        found.batches.iter().map(|batch| batch.base.0).collect::<Vec<_>>()
    };
    assert_eq!(bases(0, 100, 1 << 20), [0, 3, 5]);
    assert_eq!(bases(4, 100, 1 << 20), [3, 5]);
    assert_eq!(bases(1, 3, 1 << 20), [0]);
    assert_eq!(bases(1, 4, 1 << 20), [0, 3]);
    assert_eq!(bases(0, 100, 1), [0]);
    assert_eq!(bases(6, 1, 1), [] as [u64; 0]);
    assert_eq!(
        world.read("s", 0, 7).unwrap_err().to_string(),
        "stream s partition 0 holds offsets 0 to 6 (excluded), asked for 7"
    );
}

#[test]
fn retention_by_bytes_never_keeps_less_than_its_bound() {
    let mut world = World::with(StreamSettings::default());
    world.put(1);
    let one = world.streams.view(&"s".into()).unwrap().partitions[0].bytes;
    world.streams.alter(&"s".into(), &kept(Some(2 * one + 1), None)).unwrap();
    for _ in 0..5 {
        world.put(1);
    }
    let found = world.streams.view(&"s".into()).unwrap().partitions[0];
    assert_eq!((found.first, found.next, found.bytes), (Offset(3), Offset(6), 3 * one));
    assert!(matches!(world.read("s", 0, 2), Err(OpError::OffsetOutOfRange { first: Offset(3), .. })));
    world.check();
}

#[test]
fn retention_by_age_drops_the_newest_batch_too() {
    let mut world = World::with(kept(None, Some(50)));
    world.put(2);
    world.pass(20);
    world.put(1);
    world.pass(29);
    assert_eq!(world.offsets("s"), [0, 1, 2]);
    world.pass(1);
    assert_eq!(world.offsets("s"), [2]);
    assert_eq!(world.streams.next_due_wall(), Some(WallTime(1070)));
    world.pass(20);
    assert_eq!(world.offsets("s"), [] as [u64; 0]);
    assert_eq!(world.streams.next_due_wall(), None);
    world.put(1);
    assert_eq!(world.offsets("s"), [3], "offsets go on");
    let all = (LogIndex(0), LogIndex(u64::MAX));
    assert_eq!(world.streams.live(all.0, all.1).len(), 1);
}

#[test]
fn a_shorter_age_takes_hold_of_what_is_there() {
    let mut world = World::with(StreamSettings::default());
    world.put(1);
    world.pass(1000);
    assert_eq!(world.streams.next_due_wall(), None);
    world.streams.alter(&"s".into(), &kept(None, Some(10))).unwrap();
    world.pass(0);
    assert_eq!(world.offsets("s"), [] as [u64; 0]);
}

#[test]
fn a_trim_moves_the_first_offset_and_frees_whole_batches() {
    let mut world = World::with(StreamSettings::default());
    for _ in 0..200 {
        world.put(3);
    }
    world.streams.trim(&"s".into(), 0, Offset(598)).unwrap();
    assert_eq!(world.offsets("s"), [598, 599]);
    assert_eq!(world.streams.next_due_wall(), Some(WallTime::ZERO), "a long trim is freed in slices");
    world.pass(0);
    assert_eq!(world.streams.live(LogIndex(0), LogIndex(9)).len(), 1);
    assert_eq!(world.read("s", 0, 598).unwrap().batches[0].base, Offset(597), "a batch is served whole");
    world.streams.trim(&"s".into(), 0, Offset(5)).unwrap();
    assert_eq!(world.offsets("s"), [598, 599], "a trim never goes back");
}

#[test]
fn compaction_keeps_the_newest_record_of_each_key() {
    let mut world = World::with(compacted(None));
    world.put_keyed(&[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))]);
    assert_eq!(world.offsets("s"), [1, 2], "within a batch too");
    world.put_keyed(&[("b", Some("2"))]);
    assert_eq!(world.read("s", 0, 0).unwrap().batches[0].dead, [0, 1]);
    world.put_keyed(&[("a", Some("3"))]);
    assert_eq!(world.offsets("s"), [3, 4]);
    let found = world.read("s", 0, 0).unwrap();
    assert_eq!(found.batches.len(), 2, "a batch without live records leaves the index");
    assert_eq!(world.streams.live(LogIndex(0), LogIndex(9)).len(), 2, "and its payload can be cleaned");
    world.check();
}

#[test]
fn a_tombstone_deletes_its_key_and_goes_when_its_age_ends() {
    let mut world = World::with(compacted(Some(100)));
    world.put_keyed(&[("a", Some("1")), ("b", Some("1"))]);
    world.pass(1000);
    assert_eq!(world.offsets("s"), [0, 1], "values stay, whatever their age");
    world.put_keyed(&[("a", None)]);
    assert_eq!(world.offsets("s"), [1, 2]);
    world.pass(99);
    assert_eq!(world.offsets("s"), [1, 2]);
    world.pass(1);
    assert_eq!(world.offsets("s"), [1]);
    assert_eq!(world.streams.next_due_wall(), None);
    world.put_keyed(&[("a", None)]);
    world.put_keyed(&[("a", Some("back"))]);
    world.pass(1000);
    assert_eq!(world.offsets("s"), [1, 4], "a tombstone that was overwritten takes nothing with it");
}

#[test]
fn trimming_a_compacted_stream_forgets_its_keys() {
    let mut world = World::with(compacted(None));
    world.put_keyed(&[("a", Some("1")), ("b", Some("1"))]);
    world.put_keyed(&[("c", Some("1"))]);
    world.streams.trim(&"s".into(), 0, Offset(2)).unwrap();
    world.check();
    assert_eq!(world.offsets("s"), [2]);
    world.put_keyed(&[("a", Some("2"))]);
    world.check();
    assert_eq!(world.offsets("s"), [2, 3]);
}

#[test]
fn a_deleted_stream_is_freed_in_slices_and_its_name_at_once() {
    let mut world = World::with(StreamSettings { partitions: 3, ..StreamSettings::default() });
    for _ in 0..50 {
        world.put(1);
    }
    world.group("g", shared(10, 0, Some("dead")));
    world.take("g", 20);
    let id = world.streams.delete(&"s".into()).unwrap();
    world.groups.drop_stream(&mut world.streams, id);
    assert!(!world.streams.exists(&"s".into()) && !world.streams.exists(&"dead".into()));
    world.streams.create(&"s".into(), &StreamSettings::default()).unwrap();
    world.put(1);
    assert_eq!(world.offsets("s"), [0]);
    assert!(world.groups.view(&world.streams, &"s".into(), &"g".into()).is_none());
    assert_eq!(world.streams.expire(&world.now, 10), 10);
    assert_eq!(world.streams.live(LogIndex(0), LogIndex(9)).len(), 41);
    world.pass(0);
    assert_eq!(world.streams.live(LogIndex(0), LogIndex(9)).len(), 1);
    assert_eq!((world.streams.next_due_wall(), world.groups.next_due()), (None, None));
}

#[test]
fn a_delivery_is_hidden_until_it_times_out_and_then_counted() {
    let mut world = World::with(StreamSettings::default());
    world.put(3);
    world.group("g", shared(100, 0, None));
    assert!(world.has_ready("g"));
    let first = world.take("g", 2);
    assert_eq!(offsets_of(&first), [(0, 1), (1, 1)]);
    assert_eq!((first[1].record, first[1].records, first[1].wall), (1, 3, WallTime(1000)));
    assert_eq!(offsets_of(&world.take("g", 9)), [(2, 1)]);
    assert!(!world.has_ready("g"));
    assert_eq!(world.take("g", 9), []);
    world.pass(99);
    assert!(world.events.is_empty() && !world.has_ready("g"), "never early");
    world.pass(1);
    let ready = Event::GroupReady { stream: "s".into(), group: "g".into() };
    assert_eq!(world.events, [ready], "waiters are told once");
    let again = world.take("g", 2);
    assert_eq!(offsets_of(&again), [(0, 2), (1, 2)]);
    let late = world.ack("g", &deliveries_of(&first));
    assert_eq!(late, (0, deliveries_of(&first)), "another delivery is out");
    assert_eq!(world.ack("g", &deliveries_of(&again)), (2, vec![]));
    assert_eq!(world.partition("g"), GroupPartition { cursor: Offset(3), floor: Offset(2), in_flight: 1 });
}

#[test]
fn a_late_ack_counts_while_nobody_else_was_given_the_record() {
    let mut world = World::with(StreamSettings::default());
    world.put(1);
    world.group("g", shared(100, 0, None));
    let taken = deliveries_of(&world.take("g", 1));
    world.pass(500);
    assert!(world.has_ready("g"));
    assert_eq!(world.ack("g", &taken), (1, vec![]));
    assert!(!world.has_ready("g"));
    assert_eq!(world.ack("g", &taken), (0, taken), "once");
}

#[test]
fn a_nack_gives_the_record_back_after_its_delay() {
    let mut world = World::with(StreamSettings::default());
    world.put(2);
    world.group("g", shared(1000, 0, None));
    let taken = deliveries_of(&world.take("g", 2));
    assert_eq!(world.nack("g", &taken[..1], 50), (1, vec![]));
    assert_eq!(world.ack("g", &taken[..1]), (0, taken[..1].to_vec()), "it was given back");
    assert_eq!(world.nack("g", &taken[1..], 0), (1, vec![]));
    assert_eq!(offsets_of(&world.take("g", 9)), [(1, 2)]);
    world.pass(49);
    assert_eq!(world.take("g", 9), []);
    world.pass(1);
    assert_eq!(offsets_of(&world.take("g", 9)), [(0, 2)]);
}

#[test]
fn an_extension_hides_the_record_longer() {
    let mut world = World::with(StreamSettings::default());
    world.put(1);
    world.group("g", shared(100, 0, None));
    let taken = deliveries_of(&world.take("g", 1));
    world.pass(90);
    assert_eq!(world.extend("g", &taken, 100), (1, vec![]));
    world.pass(99);
    assert!(!world.has_ready("g"));
    world.pass(1);
    assert_eq!(offsets_of(&world.take("g", 1)), [(0, 2)]);
    assert_eq!(world.extend("g", &taken, 100), (0, taken));
}

#[test]
fn a_record_delivered_too_often_goes_to_the_dead_letters_by_reference() {
    let mut world = World::with(StreamSettings::default());
    world.put(3);
    world.group("g", shared(100, 2, Some("dead")));
    assert!(world.streams.exists(&"dead".into()), "its name is taken from the start");
    let original = world.take("g", 9)[1].at;
    world.pass(100);
    let taken = deliveries_of(&world.take("g", 9));
    world.ack("g", &[taken[0]]);
    assert_eq!(world.nack("g", &[taken[1]], 5000), (1, vec![]), "its deliveries are used up: no delay");
    assert_eq!(world.offsets("dead"), [0]);
    world.pass(100);
    let dead = world.read("dead", 0, 0).unwrap().batches;
    let which: Vec<(PayloadRef, Option<u32>, u32)> =
        dead.iter().map(|b| (b.at, b.record, b.records)).collect();
    assert_eq!(which, [(original, Some(1), 3), (original, Some(2), 3)]);
    let appended = Event::StreamAppended { stream: "dead".into(), partition: 0 };
    assert_eq!(world.events.iter().filter(|event| **event == appended).count(), 2);
    assert!(!world.has_ready("g"));

    let bytes = world.streams.live_bytes(LogIndex(0), LogIndex(9));
    let id = world.streams.delete(&"s".into()).unwrap();
    world.groups.drop_stream(&mut world.streams, id);
    world.pass(0);
    assert_eq!(
        world.streams.live_bytes(LogIndex(0), LogIndex(9)),
        bytes,
        "the payload lives on, counted once"
    );
    let settings = GroupSettings { mode: shared(10, 0, None), from_start: true };
    world.groups.create(&mut world.streams, &"dead".into(), &"fix".into(), &settings).unwrap();
    let (streams, events) = (&mut world.streams, &mut world.events);
    let taken =
        world.groups.take(streams, &"dead".into(), &"fix".into(), &Blob::EMPTY, 1, None, &world.now, events);
    let Ok(OpResult::Taken { deliveries }) = taken else { panic!("{taken:?}") };
    assert_eq!((deliveries[0].record, deliveries[0].at), (1, original));
}

#[test]
fn dead_letters_cannot_go_back_to_their_own_stream() {
    let mut world = World::with(StreamSettings::default());
    let settings = GroupSettings { mode: shared(10, 1, Some("s")), from_start: true };
    let refused = world.groups.create(&mut world.streams, &"s".into(), &"g".into(), &settings);
    assert!(matches!(refused, Err(OpError::WrongType { .. })));
}

#[test]
fn a_dead_letter_on_a_compacted_stream_is_kept_beside_the_keys() {
    let mut world = World::with(StreamSettings::default());
    world.streams.create(&"dead".into(), &compacted(Some(10))).unwrap();
    world.put(1);
    world.group("g", shared(10, 1, Some("dead")));
    world.take("g", 1);
    world.pass(10);
    world.append("dead", PartitionChoice::Any, &[keyed("a", Some("1"))]).unwrap();
    world.pass(1000);
    assert_eq!(world.offsets("dead"), [0, 1]);
    world.streams.trim(&"dead".into(), 0, Offset(1)).unwrap();
    world.check();
    assert_eq!(world.offsets("dead"), [1]);
}

#[test]
fn records_that_are_gone_are_skipped() {
    let mut world = World::with(compacted(None));
    world.put_keyed(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
    world.group("g", shared(10, 0, None));
    world.take("g", 2);
    world.pass(10);
    world.put_keyed(&[("a", Some("2")), ("c", Some("2"))]);
    assert_eq!(offsets_of(&world.take("g", 9)), [(1, 2), (3, 1), (4, 1)]);
    world.streams.trim(&"s".into(), 0, Offset(5)).unwrap();
    world.pass(10);
    assert!(!world.has_ready("g"));
    assert_eq!(world.partition("g"), GroupPartition { cursor: Offset(5), floor: Offset(5), in_flight: 0 });
}

#[test]
fn new_records_come_from_each_partition_in_turn() {
    let mut world = World::with(StreamSettings { partitions: 3, ..StreamSettings::default() });
    for partition in 0..3 {
        let records = vec![Record::default(); 4];
        world.append("s", PartitionChoice::Number { partition }, &records).unwrap();
    }
    world.group("g", shared(10, 0, None));
    let order: Vec<Vec<(u32, u64)>> = (0..4)
        .map(|_| world.take("g", 4))
        .map(|taken| taken.iter().map(|t| (t.delivery.partition, t.delivery.offset.0)).collect())
        .collect();
    assert_eq!(order[0], [(0, 0), (1, 0), (2, 0), (0, 1)]);
    assert_eq!(order[1], [(1, 1), (2, 1), (0, 2), (1, 2)]);
    assert_eq!(order[2], [(2, 2), (0, 3), (1, 3), (2, 3)]);
    assert_eq!(order[3], []);
}

#[test]
fn a_group_may_start_at_the_end() {
    let mut world = World::with(StreamSettings::default());
    world.put(2);
    let settings = GroupSettings { mode: shared(10, 0, None), from_start: false };
    world.groups.create(&mut world.streams, &"s".into(), &"g".into(), &settings).unwrap();
    assert!(!world.has_ready("g"));
    world.put(1);
    assert_eq!(offsets_of(&world.take("g", 9)), [(2, 1)]);
}

#[test]
fn a_cursor_moves_only_from_where_it_is_expected() {
    let mut world = World::with(StreamSettings::default());
    world.put(5);
    let mut commit = |offset, expected: Option<u64>| {
        let expected = expected.map(Offset);
        world.groups.cursor_commit(&world.streams, &"s".into(), &"p".into(), 0, Offset(offset), expected)
    };
    assert_eq!(commit(3, Some(0)), Ok(OpResult::Done {}), "the group is made");
    assert_eq!(commit(4, Some(0)), Err(OpError::CursorMoved { found: Offset(3), expected: Offset(0) }));
    assert_eq!(commit(5, Some(3)), Ok(OpResult::Done {}));
    assert_eq!(commit(1, None), Ok(OpResult::Done {}), "a reader may go back");
    assert_eq!(world.partition("p"), GroupPartition { cursor: Offset(1), floor: Offset(1), in_flight: 0 });
    let names: Vec<&GroupName> =
        world.groups.iter(&world.streams, &"s".into()).map(|(name, _)| name).collect();
    assert_eq!(names, [&GroupName::from("p")]);
    world.groups.delete(&mut world.streams, &"s".into(), &"p".into()).unwrap();
    world.pass(0);
    assert!(world.groups.delete(&mut world.streams, &"s".into(), &"p".into()).is_err());
}

/// The naive model: lists of everything, looked through from the start.
#[derive(Clone, Default)]
struct Model {
    streams: BTreeMap<&'static str, Vec<ModelPart>>,
    /// Of the shared group "g" of each stream: deliveries by partition and offset.
    flights: BTreeMap<(&'static str, u32, u64), ModelFlight>,
    cursors: BTreeMap<(&'static str, u32), u64>,
    acked: BTreeSet<(&'static str, u32, u64)>,
    dead: Vec<(PayloadRef, u32)>,
}
#[derive(Clone, Default)]
struct ModelPart {
    batches: Vec<ModelBatch>,
    first: u64,
    next: u64,
}
#[derive(Clone)]
struct ModelBatch {
    base: u64,
    keys: Vec<(String, bool)>,
    bytes: u64,
    wall: u64,
    at: PayloadRef,
}
#[derive(Clone, Debug, PartialEq)]
struct ModelFlight {
    attempt: u32,
    until: u64,
    hidden: bool,
    nacked: bool,
}

const PLAIN: &str = "plain";
const KEYED: &str = "keyed";
const PLAIN_BYTES: u64 = 60;
const AGE: u64 = 40;
const VISIBILITY: u64 = 10;
const DELIVERIES_MAX: u32 = 2;

impl ModelPart {
    /// Offsets that are served, each with its payload and record.
    fn served(&self, compact: bool, wall: u64) -> BTreeMap<u64, (PayloadRef, u32)> {
        let mut newest = BTreeMap::new();
        let mut all = BTreeMap::new();
        for batch in &self.batches {
            for (record, (key, tombstone)) in batch.keys.iter().enumerate() {
                let offset = batch.base + record as u64;
                let gone = *tombstone && batch.wall + AGE <= wall;
                newest.insert(key.clone(), (offset, gone));
                if offset >= self.first {
                    all.insert(offset, (batch.at, record as u32));
                }
            }
        }
        if compact {
            let live: BTreeSet<u64> =
                newest.values().filter(|(_, gone)| !gone).map(|(offset, _)| *offset).collect();
            all.retain(|offset, _| live.contains(offset));
        }
        all
    }
}

/// A model beside the real thing.
struct Pair {
    world: World,
    model: Model,
}

impl Pair {
    fn new() -> Self {
        let mut world = World::with(StreamSettings::default());
        let plain = StreamSettings { partitions: 2, ..kept(Some(PLAIN_BYTES), Some(AGE)) };
        world.streams.create(&PLAIN.into(), &plain).unwrap();
        world.streams.create(&KEYED.into(), &compacted(Some(AGE))).unwrap();
        for (stream, max, dead) in [(PLAIN, DELIVERIES_MAX, Some("dead")), (KEYED, 0, None)] {
            let settings = GroupSettings { mode: shared(VISIBILITY, max, dead), from_start: true };
            world.groups.create(&mut world.streams, &stream.into(), &"g".into(), &settings).unwrap();
        }
        let mut model = Model::default();
        model.streams.insert(PLAIN, vec![ModelPart::default(); 2]);
        model.streams.insert(KEYED, vec![ModelPart::default()]);
        world.check();
        Self { world, model }
    }

    fn step(&mut self, step: &Step) {
        let stream = if step.a.is_multiple_of(2) { PLAIN } else { KEYED };
        let partition = if stream == PLAIN { u32::from(step.b % 2) } else { 0 };
        match step.what % 8 {
            0..=2 => self.append(stream, partition, step),
            3 | 4 => self.take(stream, u32::from(step.b % 5) + 1),
            5 => self.settle(stream, step),
            6 => self.trim(stream, partition, u64::from(step.c % 4)),
            _ => self.pass(u64::from(step.b % 16)),
        }
        self.world.check();
        self.compare();
    }

    fn append(&mut self, stream: &'static str, partition: u32, step: &Step) {
        let keys: Vec<(String, bool)> = (0..step.b % 3 + 1)
            .map(|n| (format!("k{}", (step.c + n * 3) % 5), (step.c + n).is_multiple_of(4)))
            .collect();
        let records: Vec<Record> =
            keys.iter().map(|(key, dead)| keyed(key, (!dead).then_some("some value"))).collect();
        let at = PayloadRef { index: self.world.now.index, sub: self.world.sub };
        let bytes = record::encode(&records).bytes.len() as u64;
        let result = self.world.append(stream, PartitionChoice::Number { partition }, &records).unwrap();
        let part = &mut self.model.streams.get_mut(stream).unwrap()[partition as usize];
        let (first, next) = (Offset(part.next), Offset(part.next + keys.len() as u64));
        assert_eq!(result, OpResult::Appended { partition, first, next }, "offsets are dense");
        let wall = self.world.now.wall.0;
        part.batches.push(ModelBatch { base: part.next, keys, bytes, wall, at });
        part.next = next.0;
        while stream == PLAIN
            && part.batches.iter().skip(1).map(|batch| batch.bytes).sum::<u64>() >= PLAIN_BYTES
        {
            part.batches.remove(0);
            part.first = part.first.max(part.batches[0].base);
        }
    }

    fn trim(&mut self, stream: &'static str, partition: u32, by: u64) {
        let part = &mut self.model.streams.get_mut(stream).unwrap()[partition as usize];
        let before = part.next.min(part.first + by);
        self.world.streams.trim(&stream.into(), partition, Offset(before)).unwrap();
        part.first = before;
        part.batches.retain(|batch| batch.base + batch.keys.len() as u64 > before);
    }

    /// Takes, and holds the result against the promises.
    fn take(&mut self, stream: &'static str, max: u32) {
        let (streams, events) = (&mut self.world.streams, &mut self.world.events);
        let result = self
            .world
            .groups
            .take(streams, &stream.into(), &"g".into(), &"me".into(), max, None, &self.world.now, events)
            .unwrap();
        let OpResult::Taken { deliveries } = result else { panic!("{result:?}") };
        let now = self.world.now;
        let parts = self.model.streams[stream].clone();
        let served: Vec<_> = parts.iter().map(|part| part.served(stream == KEYED, now.wall.0)).collect();
        let is_served = |partition: u32, offset: u64| served[partition as usize].contains_key(&offset);
        let mut ready: Vec<_> = self
            .model
            .flights
            .iter()
            .filter(|((s, _, _), flight)| *s == stream && !flight.hidden)
            .map(|(place, flight)| (flight.until, *place))
            .collect();
        ready.sort();
        let mut again = Vec::new();
        for (_, place) in ready {
            if again.len() == max as usize {
                break;
            } else if is_served(place.1, place.2) {
                again.push((place.1, place.2));
            } else {
                self.model.flights.remove(&place);
            }
        }
        let found = deliveries.iter().map(|taken| (taken.delivery.partition, taken.delivery.offset.0));
        assert!(
            found.take(again.len()).eq(again.iter().copied()),
            "redeliveries first, the longest waiting first"
        );
        let again = again.len();
        let fresh: usize = (0u32..)
            .zip(&served)
            .map(|(p, offsets)| {
                offsets.range(self.model.cursors.get(&(stream, p)).copied().unwrap_or(0)..).count()
            })
            .sum();
        assert_eq!(deliveries.len(), (max as usize).min(again + fresh), "all that is ready, up to the asked");
        for Taken { delivery, at, record, .. } in &deliveries {
            let Delivery { partition, offset, attempt } = *delivery;
            let key = (stream, partition, offset.0);
            assert_eq!(served[partition as usize].get(&offset.0), Some(&(*at, *record)), "the right record");
            assert!(!self.model.acked.contains(&key), "never again after its ack");
            let before = self.model.flights.get(&key).cloned();
            assert_eq!(attempt, before.as_ref().map_or(0, |flight| flight.attempt) + 1);
            if let Some(before) = before {
                assert!(!before.hidden, "at most one live delivery");
            } else {
                let cursor = self.model.cursors.entry((stream, partition)).or_default();
                let wanted = served[partition as usize].range(*cursor..).next().map(|(offset, _)| *offset);
                assert_eq!(wanted, Some(offset.0), "in order, none left out");
                *cursor = offset.0 + 1;
            }
            let until = now.time.plus(Millis(VISIBILITY)).0;
            self.model.flights.insert(key, ModelFlight { attempt, until, hidden: true, nacked: false });
        }
    }

    /// Acks, nacks or extends some deliveries, the current one or an old one of each.
    fn settle(&mut self, stream: &'static str, step: &Step) {
        let mut deliveries: Vec<Delivery> = self
            .model
            .flights
            .iter()
            .filter(|((s, _, _), _)| *s == stream)
            .map(|((_, partition, offset), flight)| Delivery {
                partition: *partition,
                offset: Offset(*offset),
                attempt: flight.attempt - u32::from(step.c.is_multiple_of(5) && flight.attempt > 1),
            })
            .skip(usize::from(step.c % 3))
            .take(usize::from(step.b % 3) + 1)
            .collect();
        deliveries.push(Delivery { partition: 0, offset: Offset(u64::MAX), attempt: 1 });
        let (valid, lost): (Vec<Delivery>, Vec<Delivery>) = deliveries.iter().partition(|delivery| {
            let flight = self.model.flights.get(&(stream, delivery.partition, delivery.offset.0));
            flight.is_some_and(|flight| flight.attempt == delivery.attempt && !flight.nacked)
        });
        let (key, group): (Key, GroupName) = (stream.into(), "g".into());
        let delay = Millis(u64::from(step.c % 2) * 7);
        let now = self.world.now;
        let World { streams, groups, events, .. } = &mut self.world;
        let result = match step.b % 4 {
            0 | 1 => groups.ack(streams, &key, &group, &deliveries),
            2 => groups.nack(streams, &key, &group, &deliveries, delay, &now, events),
            _ => groups.extend(streams, &key, &group, &deliveries, Millis(30), &now),
        };
        assert_eq!(settled(result), (valid.len() as u64, lost));
        for Delivery { partition, offset, .. } in valid {
            let place = (stream, partition, offset.0);
            let flight = self.model.flights.get_mut(&place).unwrap();
            match step.b % 4 {
                0 | 1 => {
                    self.model.flights.remove(&place);
                    self.model.acked.insert(place);
                }
                2 if stream == PLAIN && flight.attempt == DELIVERIES_MAX => self.bury(place),
                2 => {
                    flight.nacked = true;
                    flight.hidden = delay.0 > 0;
                    flight.until = now.time.plus(delay).0;
                }
                _ => {
                    flight.hidden = true;
                    flight.until = now.time.plus(Millis(30)).0;
                }
            }
        }
    }

    /// The record is dead, unless it is gone.
    fn bury(&mut self, place: (&'static str, u32, u64)) {
        self.model.flights.remove(&place);
        let part = &self.model.streams[place.0][place.1 as usize];
        let served = part.served(place.0 == KEYED, self.world.now.wall.0);
        self.model.dead.extend(served.get(&place.2));
    }

    fn pass(&mut self, millis: u64) {
        self.world.pass(millis);
        let now = self.world.now;
        // In the order of the deadlines. The real groups look at deliveries before the streams drop what is too old.
        let mut due: Vec<_> = self
            .model
            .flights
            .iter()
            .filter(|(_, flight)| flight.hidden && flight.until <= now.time.0)
            .map(|(place, flight)| (flight.until, place.0 == KEYED, *place))
            .collect();
        due.sort();
        let before = WallTime(now.wall.0 - millis);
        for (_, _, place) in due {
            let served = self.model.streams[place.0][place.1 as usize].served(place.0 == KEYED, before.0);
            let flight = self.model.flights.get_mut(&place).unwrap();
            match served.get(&place.2) {
                None => drop(self.model.flights.remove(&place)),
                Some(record) if place.0 == PLAIN && flight.attempt == DELIVERIES_MAX => {
                    self.model.dead.push(*record);
                    self.model.flights.remove(&place);
                }
                Some(_) => flight.hidden = false,
            }
        }
        for part in self.model.streams.get_mut(PLAIN).unwrap() {
            while part.batches.first().is_some_and(|batch| batch.wall + AGE <= now.wall.0) {
                let batch = part.batches.remove(0);
                part.first = part.first.max(batch.base + batch.keys.len() as u64);
            }
        }
    }

    fn compare(&self) {
        for (stream, parts) in &self.model.streams {
            for (partition, part) in (0u32..).zip(parts) {
                let found = self.world.read(stream, partition, part.first).unwrap();
                assert_eq!((found.first.0, found.next.0), (part.first, part.next));
                let offsets = found.batches.iter().flat_map(served).filter(|offset| *offset >= part.first);
                let wanted = part.served(*stream == KEYED, self.world.now.wall.0);
                assert_eq!(offsets.collect::<Vec<_>>(), wanted.into_keys().collect::<Vec<_>>());
            }
        }
        if !self.model.dead.is_empty() {
            let found = self.world.read("dead", 0, 0).unwrap();
            let dead: Vec<_> = found.batches.iter().map(|batch| (batch.at, batch.record.unwrap())).collect();
            assert_eq!(dead, self.model.dead);
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    what: u8,
    a: u8,
    b: u8,
    c: u8,
}

fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..=254, 0u8..12, 0u8..64, 0u8..64).prop_map(|(what, a, b, c)| Step { what, a, b, c });
    proptest::collection::vec(step, 1..max)
}

/// A change of any kind, whether or not it succeeds, without settling what follows: for undo.
fn disturb(world: &mut World, step: &Step) {
    let stream: Key = [PLAIN, KEYED, "s", "dead", "other"][usize::from(step.a) % 5].into();
    let group: GroupName = "g".into();
    let settings = StreamSettings { partitions: u32::from(step.b % 4), ..compacted(None) };
    let now =
        Now { wall: world.now.wall.plus(Millis(15)), time: world.now.time.plus(Millis(15)), ..world.now };
    let _ = match step.what % 9 {
        0 => world.streams.delete(&stream).map(|id| {
            world.groups.drop_stream(&mut world.streams, id);
            OpResult::Done {}
        }),
        1 => world.streams.create(&stream, &settings),
        2 => world.streams.alter(&stream, &StreamSettings { compact: step.c.is_multiple_of(2), ..settings }),
        3 => world.groups.delete(&mut world.streams, &stream, &group),
        4 => {
            let settings =
                GroupSettings { mode: shared(5, 1, Some("dead")), from_start: step.b.is_multiple_of(2) };
            world.groups.create(&mut world.streams, &stream, &group, &settings)
        }
        5 => {
            let (streams, events) = (&mut world.streams, &mut world.events);
            world.groups.take(streams, &stream, &group, &Blob::EMPTY, 5, None, &now, events)
        }
        6 => {
            world.groups.expire(&mut world.streams, &now, 5, &mut world.events);
            world.streams.expire(&now, 5);
            Ok(OpResult::Done {})
        }
        7 => {
            let end = world.streams.next_offset(&stream, 0);
            world.streams.trim(&stream, 0, Offset(end.0.saturating_sub(u64::from(step.b % 3))))
        }
        _ => world.append(&String::from_utf8_lossy(&stream.name), PartitionChoice::Any, &[keyed("k1", None)]),
    };
}

/// Walks that are begun, fed and compared while a state goes on changing.
#[derive(Default)]
struct Walked {
    wanted: (u128, u128),
    streams: Vec<Bytes>,
    groups: Vec<Bytes>,
    over: (bool, bool),
}

impl Walked {
    fn begin(world: &mut World) -> Self {
        world.streams.walk_begin();
        world.groups.walk_begin();
        Self { wanted: world.digest(), ..Self::default() }
    }
    fn next(&mut self, world: &mut World, rows: usize) {
        if !self.over.0 {
            let mut out = Writer::default();
            self.over.0 = world.streams.walk_next(rows, &mut out);
            self.streams.push(out.buffer.into());
        }
        if !self.over.1 {
            let mut out = Writer::default();
            self.over.1 = world.groups.walk_next(rows, &mut out);
            self.groups.push(out.buffer.into());
        }
    }
    fn finish(mut self, world: &mut World, rows: usize) {
        while !self.over.0 || !self.over.1 {
            self.next(world, rows);
        }
        world.streams.walk_end();
        world.groups.walk_end();
        let mut back = restore(&self.streams, &self.groups).unwrap();
        back.check();
        assert_eq!(back.digest(), self.wanted, "the snapshot is the state as the walk began");
    }
}

fn restore(streams: &[Bytes], groups: &[Bytes]) -> Result<World, DecodeError> {
    let mut world = World::default();
    for chunk in streams {
        let mut from = Reader::new(chunk);
        world.streams.restore(&mut from)?;
        from.finish()?;
    }
    world.streams.restored()?;
    for chunk in groups {
        let mut from = Reader::new(chunk);
        world.groups.restore(&mut from)?;
        from.finish()?;
    }
    world.groups.restored()?;
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn streams_and_groups_do_as_the_naive_model(steps in steps(120), rows in 1usize..20) {
        let mut pair = Pair::new();
        let mut walked: Option<Walked> = None;
        for step in &steps {
            pair.step(step);
            let before = pair.world.digest();
            let marks = (pair.world.streams.mark(), pair.world.groups.mark());
            disturb(&mut pair.world, step);
            disturb(&mut pair.world, &Step { what: step.c, a: step.b, b: step.a, c: step.what % 64 });
            pair.world.groups.rollback(marks.1);
            pair.world.streams.rollback(marks.0);
            pair.world.check();
            prop_assert_eq!(pair.world.digest(), before, "a rollback leaves no trace");
            if step.what % 16 == 15 && walked.is_none() {
                walked = Some(Walked::begin(&mut pair.world));
            } else if step.what % 16 == 14 {
                if let Some(walked) = walked.take() { walked.finish(&mut pair.world, rows); }
            } else if let Some(walked) = &mut walked {
                walked.next(&mut pair.world, rows);
            }
        }
        if let Some(walked) = walked { walked.finish(&mut pair.world, rows); }
    }

    #[test]
    fn a_walk_is_not_disturbed_by_any_change(steps in steps(60), then in steps(60), rows in 1usize..9) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        let mut walked = Walked::begin(&mut pair.world);
        for step in &then {
            disturb(&mut pair.world, step);
            pair.world.settle();
            walked.next(&mut pair.world, rows);
        }
        walked.finish(&mut pair.world, rows);
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_sound_and_never_panics(
        steps in steps(40), at: prop::sample::Index, byte: u8, rows in 1usize..40, of_groups: bool
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        let mut walked = Walked::begin(&mut pair.world);
        while !walked.over.0 || !walked.over.1 {
            walked.next(&mut pair.world, rows);
        }
        let chunks = if of_groups { &mut walked.groups } else { &mut walked.streams };
        let chunk = at.index(chunks.len());
        let mut bytes = chunks[chunk].to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        chunks[chunk] = bytes.into();
        if let Ok(mut world) = restore(&walked.streams, &walked.groups) {
            world.streams.check();
            world.groups.check();
            world.now = pair.world.now;
            for step in &steps {
                disturb(&mut world, step);
            }
        }
    }
}
