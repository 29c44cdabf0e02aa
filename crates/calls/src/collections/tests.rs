//! Random changes, rollbacks, pins and damage, against models of plain vectors.
//!
//! Invariant: a story runs long enough to pass from packed to large, through splits and merges, and back.

use super::*;
use crate::{Deadline, Found};
use proptest::prelude::*;
use quorate_types::codec::{Reader, Writer};
use quorate_types::{DecodeError, LogTime, WallTime};

/// Elements as vectors hold them: (name or value, value of a field, score).
type Model = Vec<(Blob, Blob, Score)>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Hash,
    List,
    Set,
    Sorted,
}

/// Numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn blob(&mut self, names: u64) -> Blob {
        let name = self.below(names);
        // The length is a function of the name, so that the same name comes again.
        match name % 40 {
            0 => Blob::from(vec![name as u8; 300 + name as usize]),
            1..4 => Blob::from(format!("{name:060}")),
            _ => Blob::from(name.to_string()),
        }
    }
}

fn empty(kind: Kind) -> Value {
    match kind {
        Kind::Hash => Value::Hash(Hash::new()),
        Kind::List => Value::List(List::new()),
        Kind::Set => Value::Set(Set::new()),
        Kind::Sorted => Value::Sorted(Sorted::new()),
    }
}

fn shown(value: &Value) -> Model {
    let score = Score::default();
    match value {
        Value::Bloom(_) => vec![],
        Value::String(value) => vec![(value.clone(), Blob::EMPTY, score)],
        Value::Hash(hash) => hash.iter().map(|(field, value)| (field, value, score)).collect(),
        Value::Timed(timed) => timed.hash.iter().map(|(field, value)| (field, value, score)).collect(),
        Value::List(list) => list.iter().map(|value| (value, Blob::EMPTY, score)).collect(),
        Value::Set(set) => set.iter().map(|member| (member, Blob::EMPTY, score)).collect(),
        Value::Sorted(sorted) => sorted.iter().map(|(member, score)| (member, Blob::EMPTY, score)).collect(),
    }
}

/// A change, made to the model too, and what it must answer.
fn change(kind: Kind, model: &mut Model, dice: &mut Dice, names: u64, adds: bool) -> (Change, Changed) {
    let name = match (adds, model.len() as u64) {
        (false, len) if len > 0 && dice.below(4) > 0 => model[dice.below(len) as usize].0.clone(),
        _ => dice.blob(names),
    };
    let place = model.iter().position(|element| element.0 == name);
    let none = Score::default();
    match (kind, adds) {
        (Kind::Hash, true) => {
            let value = dice.blob(names);
            let before = place.map(|place| std::mem::replace(&mut model[place].1, value.clone()));
            if place.is_none() {
                model.push((name.clone(), value.clone(), none));
            }
            (Change::HashSet { field: name, value }, Changed::Value(before))
        }
        (Kind::Hash, false) => {
            let before = place.map(|place| model.swap_remove(place).1);
            (Change::HashRemove { field: name }, Changed::Value(before))
        }
        (Kind::Set, true) => {
            if place.is_none() {
                model.push((name.clone(), Blob::EMPTY, none));
            }
            (Change::SetAdd { member: name }, Changed::Flag(place.is_none()))
        }
        (Kind::Set, false) => {
            place.map(|place| model.swap_remove(place));
            (Change::SetRemove { member: name }, Changed::Flag(place.is_some()))
        }
        (Kind::Sorted, adds) => {
            let before = place.map(|place| model.remove(place).2);
            if !adds {
                return (Change::SortedRemove { member: name }, Changed::Score(before));
            }
            let score = Score::from_bits((dice.below(20) << 60) | dice.below(2)).unwrap_or(Score::MIN);
            model.push((name.clone(), Blob::EMPTY, score));
            model.sort_by(|a, b| (a.2, &a.0).cmp(&(b.2, &b.0)));
            (Change::SortedSet { member: name, score }, Changed::Score(before))
        }
        (Kind::List, adds) => {
            let len = model.len() as u64;
            let at = match dice.below(4) {
                0 => 0,
                1 => len.saturating_sub(u64::from(!adds)),
                _ => dice.below(len + 1),
            };
            let there = at < len;
            if adds && dice.below(4) > 0 {
                model.insert(at as usize, (name.clone(), Blob::EMPTY, none));
                (Change::ListInsert { at, value: name }, Changed::Done)
            } else if adds {
                let before = there.then(|| std::mem::replace(&mut model[at as usize].0, name.clone()));
                (Change::ListSet { at, value: name }, Changed::Value(before))
            } else {
                let before = there.then(|| model.remove(at as usize).0);
                (Change::ListRemove { at }, Changed::Value(before))
            }
        }
    }
}

fn check(value: &Value, model: &Model) {
    assert_eq!(&shown(value), model);
    assert_eq!(value.timed().map_or_else(|| value.elements(), |timed| timed.hash.len()), model.len() as u64);
    assert_eq!(value.is_empty(), model.is_empty());
    match value {
        Value::String(_) | Value::Bloom(_) => {}
        Value::Hash(hash) => hash.check(),
        Value::Timed(timed) => timed.check(),
        Value::List(list) => list.check(),
        Value::Set(set) => set.check(),
        Value::Sorted(sorted) => sorted.check(),
    }
}

/// What a pin tells, in slices of `step`.
fn slices(mut pin: Pinned, step: usize) -> Vec<Vec<u8>> {
    let mut slices = Vec::new();
    loop {
        let mut out = Writer::default();
        let done = pin.put_next(step, &mut out);
        slices.push(out.buffer);
        if done {
            return slices;
        }
    }
}

fn rebuilt(tag: u64, len: u64, slices: &[Vec<u8>]) -> Result<Value, DecodeError> {
    let mut builder = Builder::new(tag, len)?;
    for slice in slices {
        let bytes = slice.clone().into();
        let mut reader = Reader::new(&bytes);
        builder.take_next(&mut reader)?;
        reader.finish()?;
    }
    builder.finish()
}

fn told(value: &Value) -> Vec<u8> {
    let mut all = Vec::new();
    value.digest(&mut Writer::default(), &mut |slice| all.extend_from_slice(slice));
    all
}

fn story(kind: Kind, seed: u64, steps: u64, names: u64) {
    let mut dice = Dice(seed | 1);
    let (mut value, mut model) = (empty(kind), Model::new());
    let mut pins = Vec::new();
    let mut adding = 3;
    for step in 0..steps {
        let (before, mut undos) = (model.clone(), Vec::new());
        for _ in 0..dice.below(12) {
            if dice.below(120) == 0 {
                adding = dice.below(5);
            }
            let adds = dice.below(4) < adding;
            let whole = value.clone();
            let (change, wanted) = change(kind, &mut model, &mut dice, names, adds);
            let (changed, undo) = value.apply(change).expect("the type is right");
            assert_eq!(changed, wanted);
            assert_eq!(undo.is_none(), whole == value, "an undo for a change, and none for none");
            undos.extend(undo);
        }
        if dice.below(3) == 0 {
            undos.into_iter().rev().for_each(|undo| value.revert(undo));
            model = before;
        }
        if dice.below(20) == 0 {
            pins.push((value.pin(), model.clone()));
        }
        if step % 16 == 0 {
            check(&value, &model);
        }
    }
    check(&value, &model);
    let (from, to) = (dice.below(50), dice.below(300));
    reads(&value, &model, from, to);
    for (pin, model) in pins {
        let (tag, len) = (pin.tag(), pin.len());
        assert_eq!(len, model.len() as u64);
        let back = rebuilt(tag, len, &slices(pin.clone(), 7)).expect("what was written is read");
        check(&back, &model);
        assert_eq!(
            back.bytes(),
            pin.value_for_tests().bytes(),
            "memory is counted alike, however it came to be"
        );
        assert_eq!(told(&back), told(pin.value_for_tests()));
    }
    let mut turns = 0;
    while !value.drop_some(10) {
        turns += 1;
        assert!(turns < 10_000, "freeing ends");
    }
    assert_eq!(value, empty(kind));
}

/// Ranges, ranks and places, read one by one and from both ends.
fn reads(value: &Value, model: &Model, from: u64, to: u64) {
    let end = (to as usize).min(model.len());
    let part = &model[(from as usize).min(end)..end];
    match value {
        Value::String(_) | Value::Timed(_) | Value::Bloom(_) => {}
        Value::Hash(hash) => {
            assert!(hash.iter().rev().eq(model.iter().rev().map(|e| (e.0.clone(), e.1.clone()))));
            for (place, (field, value, _)) in model.iter().enumerate() {
                assert_eq!(hash.at(place as u64), Some((field.clone(), value.clone())));
                assert_eq!(hash.get(field).as_ref(), Some(value));
            }
            assert_eq!((hash.at(model.len() as u64), hash.get(b"absent")), (None, None));
        }
        Value::Set(set) => {
            assert!(set.iter().rev().eq(model.iter().rev().map(|e| e.0.clone())));
            for (place, (member, ..)) in model.iter().enumerate() {
                assert_eq!(set.at(place as u64).as_ref(), Some(member));
                assert!(set.contains(member));
            }
            assert!(set.at(model.len() as u64).is_none() && !set.contains(b"absent"));
        }
        Value::List(list) => {
            assert!(list.range(from, to).eq(part.iter().map(|e| e.0.clone())));
            assert!(list.range(from, to).rev().eq(part.iter().rev().map(|e| e.0.clone())));
            for (at, (value, ..)) in model.iter().enumerate() {
                assert_eq!(list.get(at as u64).as_ref(), Some(value));
            }
            assert_eq!(list.get(model.len() as u64), None);
        }
        Value::Sorted(sorted) => {
            assert!(sorted.range(from, to).eq(part.iter().map(|e| (e.0.clone(), e.2))));
            assert!(sorted.range(from, to).rev().eq(part.iter().rev().map(|e| (e.0.clone(), e.2))));
            for (rank, (member, _, score)) in model.iter().enumerate() {
                assert_eq!(sorted.at(rank as u64), Some((member.clone(), *score)));
                assert_eq!((sorted.rank(member), sorted.score(member)), (Some(rank as u64), Some(*score)));
                let below = model.iter().filter(|e| e.2 < *score).count() as u64;
                let upto = model.iter().filter(|e| e.2 <= *score).count() as u64;
                assert_eq!(
                    (sorted.rank_by_score(*score, false), sorted.rank_by_score(*score, true)),
                    (below, upto)
                );
            }
            assert_eq!((sorted.rank(b"absent"), sorted.score(b"absent")), (None, None));
            assert_eq!(sorted.rank_by_score(Score::MIN, false), 0);
            assert_eq!(sorted.rank_by_score(Score::MAX, true), model.len() as u64);
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Hash), Just(Kind::List), Just(Kind::Set), Just(Kind::Sorted)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn changes_rollbacks_and_pins_do_as_a_plain_vector(
        kind in kinds(), seed: u64, steps in 1u64..260, names in prop_oneof![Just(30u64), Just(900)],
    ) {
        story(kind, seed, steps, names);
    }

    #[test]
    fn damaged_slices_are_read_as_something_or_refused_and_never_panic(
        kind in kinds(), seed: u64, len in 1u64..300, flips in proptest::collection::vec((any::<usize>(), 1u8..), 0..3), cut: usize,
    ) {
        let mut dice = Dice(seed | 1);
        let (mut value, mut model) = (empty(kind), Model::new());
        for _ in 0..len {
            value.apply(change(kind, &mut model, &mut dice, 900, true).0);
        }
        let mut slices = slices(value.pin(), 1000);
        let first = &mut slices[0];
        for (at, with) in flips {
            let at = at % first.len();
            first[at] ^= with;
        }
        if cut % 2 == 0 {
            first.truncate(cut % first.len());
        }
        if let Ok(back) = rebuilt(value.tag(), value.elements(), &slices) {
            check(&back, &shown(&back));
        }
    }
}

#[test]
fn a_large_collection_grows_and_shrinks_through_every_form() {
    for kind in [Kind::Hash, Kind::List, Kind::Set, Kind::Sorted] {
        let (mut value, mut pins) = (empty(kind), Vec::new());
        let add = |n: u64| {
            let name = Blob::from(n.wrapping_mul(0x9e37_79b9).to_string());
            match kind {
                Kind::Hash => Change::HashSet { field: name, value: Blob::EMPTY },
                Kind::List => Change::ListInsert { at: n / 2, value: name },
                Kind::Set => Change::SetAdd { member: name },
                Kind::Sorted => {
                    Change::SortedSet { member: name, score: Score::from_i64((n * 7919 % 1000) as i64) }
                }
            }
        };
        let mut undos = Vec::new();
        for n in 0..40_000 {
            if n % 9_000 == 0 {
                pins.push((value.pin(), told(&value)));
            }
            undos.extend(value.apply(add(n)).unwrap().1);
        }
        let full = shown(&value);
        check(&value, &full);
        pins.push((value.pin(), told(&value)));
        for undo in undos.into_iter().rev() {
            value.revert(undo);
        }
        check(&value, &Model::new());
        assert_eq!(value, empty(kind));
        assert_eq!(value.bytes(), 0, "what is empty is packed again");
        for (pin, then) in pins {
            assert_eq!(told(pin.value_for_tests()), then, "a pin shows what was there when it was taken");
        }
    }
}

#[test]
fn a_queue_in_one_place_does_not_grow() {
    let mut list = List::new();
    for n in 0..100u64 {
        list.push_back(Blob::from(format!("job {n:020}")));
    }
    for n in 100..200_000u64 {
        list.push_back(Blob::from(format!("job {n:020}")));
        assert_eq!(list.remove(0), Some(Blob::from(format!("job {:020}", n - 100))));
    }
    assert!(list.held_for_tests() < 64 * 1024, "{}", list.held_for_tests());
}

#[test]
fn values_that_are_replaced_by_longer_ones_do_not_make_a_leaf_without_bound() {
    let mut list = List::new();
    (0..1000).for_each(|_| list.push_back(Blob::from("short")));
    (0..1000).for_each(|at| assert_eq!(list.set(at, Blob::from(vec![7; 3000])), Some(Blob::from("short"))));
    assert!(list.longest_leaf_for_tests() < 16 * 1024, "{}", list.longest_leaf_for_tests());
    list.check();
}

#[test]
fn ranks_by_bytes_count_members_of_one_score() {
    let mut sorted = Sorted::new();
    for n in 0..500 {
        sorted.insert(Blob::from(format!("m{n:04}")), Score::default());
    }
    assert_eq!((sorted.rank_by_lex(b"m0100", false), sorted.rank_by_lex(b"m0100", true)), (100, 101));
    assert_eq!((sorted.rank_by_lex(b"", true), sorted.rank_by_lex(b"n", false)), (0, 500));
}

#[test]
fn an_element_that_comes_twice_or_out_of_order_is_refused() {
    let slice = |parts: &[&[u8]]| vec![parts.concat()];
    let one = Score::from_i64(1).to_bits().to_le_bytes();
    let zero = Score::default().to_bits().to_le_bytes();
    assert!(rebuilt(3, 2, &slice(&[b"\x02\x01a\x01b"])).is_ok());
    assert!(rebuilt(3, 2, &slice(&[b"\x02\x01a\x01a"])).is_err());
    assert!(rebuilt(1, 2, &slice(&[b"\x02\x01a\x01v\x01a\x01w"])).is_err());
    assert!(rebuilt(4, 2, &slice(&[b"\x02\x01a", &zero, b"\x01b", &one])).is_ok());
    assert!(rebuilt(4, 2, &slice(&[b"\x02\x01b", &one, b"\x01a", &zero])).is_err());
    assert!(rebuilt(4, 2, &slice(&[b"\x02\x01a", &zero, b"\x01a", &one])).is_err());
    assert!(rebuilt(3, 3, &slice(&[b"\x02\x01a\x01b"])).is_err(), "one is missing");
    assert!(rebuilt(3, 1, &slice(&[b"\x02\x01a\x01b"])).is_err(), "one too many");
    assert!(rebuilt(9, 1, &[]).is_err() && rebuilt(0, 2, &[]).is_err());
}

#[test]
fn a_change_for_another_type_is_refused_and_changes_nothing() {
    let mut value = Value::String("text".into());
    assert_eq!(value.apply(Change::SetAdd { member: "a".into() }), None);
    assert_eq!(value, Value::String("text".into()));
}

#[test]
fn a_value_is_three_words() {
    assert_eq!(size_of::<Value>(), 24);
}

/// A hash with deadlines as a map has it.
type Ending = std::collections::BTreeMap<Blob, (Blob, Option<Deadline>)>;

fn check_ending(value: &Value, model: &Ending) {
    check(value, &shown(value));
    let timed = value.timed();
    let found: Ending = shown(value)
        .into_iter()
        .map(|(field, text, _)| (field.clone(), (text, timed.and_then(|timed| timed.deadline(&field)))))
        .collect();
    assert_eq!(&found, model);
    assert_eq!(timed.is_some(), model.values().any(|(_, deadline)| deadline.is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn deadlines_of_fields_do_as_a_plain_map(seed: u64, steps in 1u64..200, names in prop_oneof![Just(20u64), Just(400)]) {
        let mut dice = Dice(seed | 1);
        let (mut value, mut model) = (empty(Kind::Hash), Ending::new());
        let mut pins = Vec::new();
        for _ in 0..steps {
            let (before, mut undos) = (model.clone(), Vec::new());
            for _ in 0..dice.below(9) {
                let field = dice.blob(names);
                let text = dice.blob(names);
                let deadline = match dice.below(4) {
                    0 => None,
                    1 => Some(Deadline::Wall(WallTime(dice.below(30)))),
                    _ => Some(Deadline::Log(LogTime(dice.below(30)))),
                };
                let whole = value.clone();
                let change = match dice.below(6) {
                    0 | 1 => {
                        model.insert(field.clone(), (text.clone(), None));
                        Change::HashSet { field, value: text }
                    }
                    2 => {
                        model.entry(field.clone()).or_default().0 = text.clone();
                        Change::HashKeep { field, value: text }
                    }
                    3 => {
                        model.remove(&field);
                        Change::HashRemove { field }
                    }
                    _ => {
                        if let Some(kept) = model.get_mut(&field) {
                            kept.1 = deadline;
                        }
                        Change::HashDeadline { field, deadline }
                    }
                };
                let (_, undo) = value.apply(change).unwrap();
                prop_assert_eq!(undo.is_none(), whole == value);
                undos.extend(undo);
            }
            if dice.below(3) == 0 {
                undos.into_iter().rev().for_each(|undo| value.revert(undo));
                model = before;
            }
            if dice.below(12) == 0 {
                pins.push((value.pin(), model.clone()));
            }
            let (wall, time) = (WallTime(dice.below(32)), LogTime(dice.below(32)));
            let due: std::collections::BTreeSet<&Blob> = model.iter().filter(|(_, (_, deadline))| match deadline {
                Some(Deadline::Log(at)) => *at <= time,
                Some(Deadline::Wall(at)) => *at <= wall,
                None => false,
            }).map(|(field, _)| field).collect();
            let told = value.timed().map(|timed| timed.due(wall, time, usize::MAX)).unwrap_or_default();
            prop_assert_eq!(told.iter().collect::<std::collections::BTreeSet<_>>(), due.clone());
            let Found::Hash(live) = value.found(wall, time) else { panic!("it is a hash") };
            prop_assert_eq!(live.len() as usize, model.len() - due.len());
            prop_assert_eq!(live.iter().count() as u64, live.len());
            prop_assert!(model.keys().all(|field| live.contains(field) != due.contains(field)));
        }
        check_ending(&value, &model);
        for (pin, model) in pins {
            let back = rebuilt(pin.tag(), pin.len(), &slices(pin.clone(), 5)).expect("what was written is read");
            check_ending(&back, &model);
            let slices = slices(pin.clone(), 1000);
            for at in 0..slices[0].len().min(40) {
                let mut damaged = slices.clone();
                damaged[0][at] ^= 1 << dice.below(8);
                if let Ok(value) = rebuilt(pin.tag(), pin.len(), &damaged) {
                    check(&value, &shown(&value));
                }
            }
        }
        while !value.drop_some(10) {}
    }
}
