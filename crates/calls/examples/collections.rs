//! How fast the collections behind keys are, and how much memory they take.
//!
//! `cargo run --release -p quorate-calls --example collections [case]`
//!
//! Each case runs in a process of its own, so that none uses the memory that another has freed. Nanoseconds are CPU time per operation
//! (Linux, /proc/thread-self/schedstat); "longest" is that of the longest hundred in a row, so that a stall shows; the kernel counts it in
//! ticks of a few milliseconds. Memory is what the process grew by (/proc/self/statm), beside what the collection says of itself.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock; the collections do not")]

use quorate_calls::collections::{Bloom, Change, Hash, List, Set, Sorted, Value};
use quorate_calls::{Deadline, Found};
use quorate_types::codec::Writer;
use quorate_types::{Blob, LogTime, Score, WallTime};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MILLION: u64 = 1_000_000;

const LARGEST: u64 = 10 * MILLION;

const CASES: [(&str, fn()); 10] = [
    ("small", small_hashes),
    ("hash", hash),
    ("timed", timed),
    ("bloom", bloom),
    ("sorted", sorted),
    ("queue16", || queue(16)),
    ("queue256", || queue(256)),
    ("list10m", || pin_and_free(large_list(LARGEST))),
    ("set10m", || pin_and_free(large_set(LARGEST))),
    ("sorted10m", || pin_and_free(large_sorted(LARGEST))),
];

fn main() {
    match std::env::args().nth(1) {
        Some(case) => {
            let (_, run) =
                CASES.iter().find(|(name, _)| *name == case).expect("one of the cases named in the source");
            run();
        }
        None => {
            let this = std::env::current_exe().expect("a running program has a path");
            for (case, _) in CASES {
                std::process::Command::new(&this).arg(case).status().expect("this program runs again");
            }
        }
    }
}

fn small_hashes() {
    let before = resident();
    time("making a name, in most below", MILLION, |n| {
        black_box(name(n));
    });
    let mut all = Vec::with_capacity(MILLION as usize);
    let start = busy();
    for n in 0..MILLION {
        let mut hash = Hash::new();
        for field in 0..5 {
            hash.insert(Blob::from(format!("field{field}")), Blob::from((n + field).to_string()));
        }
        all.push(hash);
    }
    let nanos = (busy() - start) / (5 * MILLION);
    let said = all.iter().map(Hash::bytes).sum::<u64>() / MILLION;
    println!(
        "1M hashes of 5   {nanos} ns per field; {} B per hash resident, {said} + 16 said",
        grown(before) / MILLION
    );
    time("  get", MILLION, |n| {
        black_box(all[spread(n, MILLION) as usize].get(b"field3"));
    });
    time("  set", MILLION, |n| {
        all[spread(n, MILLION) as usize].insert(Blob::from("field3"), Blob::from(&b"1234567"[..]));
    });
}

fn hash() {
    let before = resident();
    let mut hash = Hash::new();
    time("hash of 1M: insert", MILLION, |n| {
        hash.insert(name(n), Blob::from("0123456789"));
    });
    println!("  {} B per field resident, {} said", grown(before) / MILLION, hash.bytes() / MILLION);
    time("  get", MILLION, |n| {
        black_box(hash.get(&name(spread(n, MILLION))));
    });
    time("  replace", MILLION, |n| {
        hash.insert(name(spread(n, MILLION)), Blob::from("9876543210"));
    });
    time("  remove", MILLION, |n| {
        hash.remove(&name(spread(n, MILLION)));
    });
}

fn timed() {
    let mut value = Value::Hash(Hash::new());
    let mut change = |change| black_box(value.apply(change).expect("it is a hash"));
    (0..MILLION).for_each(|n| {
        change(Change::HashSet { field: name(n), value: Blob::from("0123456789") });
    });
    let before = resident();
    time("hash of 1M: deadlines for all", MILLION, |n| {
        let at = LogTime(1 + spread(n, MILLION));
        change(Change::HashDeadline { field: name(n), deadline: Some(Deadline::Log(at)) });
    });
    println!("  {} B per deadline resident", grown(before) / MILLION);
    time("  how many are due, and one field", MILLION, |n| {
        let Found::Hash(live) = value.found(WallTime(0), LogTime(n)) else { return };
        black_box((live.len(), live.get(&name(n))));
    });
    let start = Instant::now();
    let due = value.timed().map(|timed| timed.due(WallTime(0), LogTime(MILLION), 10_000));
    due.unwrap_or_default().into_iter().for_each(|field| {
        value.apply(Change::HashRemove { field });
    });
    println!("  10 000 that are due at once: found and removed in {:?}", start.elapsed());
}

fn bloom() {
    let error = Score::parse(b"0.01").expect("a number");
    let start = Instant::now();
    let mut filter = Bloom::new(1 << 30, error, Some(2)).expect("not too large");
    println!("filter for 2^30 items made in {:?}, {} B", start.elapsed(), filter.bytes());
    let before = resident();
    time("  add", MILLION, |n| {
        let _ = black_box(filter.add(&name(n)));
    });
    println!("  {} MiB resident", grown(before) >> 20);
    time("  contains", MILLION, |n| {
        black_box(filter.contains(&name(spread(n, MILLION))));
    });
    let start = Instant::now();
    let pin = Value::Bloom(Box::new(filter)).pin();
    println!("  pinned in {:?}, {} pieces", start.elapsed(), pin.len());
}

fn sorted() {
    let before = resident();
    let mut sorted = Sorted::new();
    time("sorted set of 1M: insert", MILLION, |n| {
        sorted.insert(name(n), Score::from_i64(spread(n, MILLION) as i64));
    });
    println!("  {} B per member resident, {} said", grown(before) / MILLION, sorted.bytes() / MILLION);
    time("  score", MILLION, |n| {
        black_box(sorted.score(&name(spread(n, MILLION))));
    });
    time("  at a rank", MILLION, |n| {
        black_box(sorted.at(spread(n, MILLION)));
    });
    time("  move", MILLION, |n| {
        sorted.insert(name(n), Score::from_i64(spread(n + 7, MILLION) as i64));
    });
    time("  remove", MILLION, |n| {
        sorted.remove(&name(spread(n, MILLION)));
    });
}

fn queue(bytes: usize) {
    let value = Blob::from(vec![b'x'; bytes]);
    let before = resident();
    let mut list = List::new();
    time(&format!("list of 1M times {bytes} B: push in front"), MILLION, |_| list.push_front(value.clone()));
    println!("  {} B per value resident, {} said", grown(before) / MILLION, list.bytes() / MILLION);
    time("  in front, then off the end", MILLION, |_| {
        list.push_front(value.clone());
        list.remove(list.len() - 1);
    });
    time("  get anywhere", MILLION, |n| {
        black_box(list.get(spread(n, MILLION)));
    });
    time("  range of 100", 10_000, |n| {
        let from = spread(n, MILLION);
        black_box(list.range(from, from + 100).count());
    });
    time("  off the front", MILLION / 2, |_| {
        list.remove(0);
    });
}

fn large_list(largest: u64) -> Value {
    let before = resident();
    let mut list = List::new();
    time(&format!("list of {largest}: append"), largest, |n| list.push_back(name(n)));
    println!("  {} B per value resident, {} said", grown(before) / largest, list.bytes() / largest);
    time("  insert anywhere", MILLION, |n| list.insert(spread(n, largest), name(n)));
    Value::List(list)
}

fn large_set(largest: u64) -> Value {
    let before = resident();
    let mut set = Set::new();
    time(&format!("set of {largest}: insert"), largest, |n| {
        set.insert(name(n));
    });
    println!("  {} B per member resident, {} said", grown(before) / largest, set.bytes() / largest);
    time("  contains", MILLION, |n| {
        black_box(set.contains(&name(spread(n, largest))));
    });
    Value::Set(set)
}

fn large_sorted(largest: u64) -> Value {
    let before = resident();
    let mut sorted = Sorted::new();
    time(&format!("sorted set of {largest}: insert"), largest, |n| {
        sorted.insert(name(n), Score::from_i64(spread(n, largest) as i64));
    });
    println!("  {} B per member resident, {} said", grown(before) / largest, sorted.bytes() / largest);
    Value::Sorted(sorted)
}

/// A pin, changes beside it, a snapshot of it in slices, and the freeing of both.
fn pin_and_free(mut value: Value) {
    let start = Instant::now();
    let mut pin = value.pin();
    println!("  pin: {:?}", start.elapsed());
    time("  change while pinned", 100_000, |n| match &mut value {
        Value::List(list) => list.push_front(name(n)),
        Value::Set(set) => {
            set.remove(&name(spread(n, MILLION)));
        }
        Value::Sorted(sorted) => {
            sorted.insert(name(spread(n, MILLION)), Score::from_i64(n as i64));
        }
        Value::String(_) | Value::Hash(_) | Value::Timed(_) | Value::Bloom(_) => {}
    });
    let (mut out, mut longest, start) = (Writer::default(), 0, busy());
    loop {
        out.clear();
        let slice = busy();
        let done = pin.put_next(1000, &mut out);
        longest = longest.max(busy() - slice);
        if done {
            break;
        }
    }
    let [all, longest] = [busy() - start, longest].map(Duration::from_nanos);
    println!("  written by thousands in {all:?}, longest {longest:?}");
    free("pin", |max| pin.drop_some(max));
    free("value", |max| value.drop_some(max));
}

fn free(what: &str, mut some: impl FnMut(usize) -> bool) {
    let (mut longest, start) = (0, busy());
    loop {
        let slice = busy();
        let done = some(10_000);
        longest = longest.max(busy() - slice);
        if done {
            break;
        }
    }
    let [all, longest] = [busy() - start, longest].map(Duration::from_nanos);
    println!("  {what} freed by ten thousands in {all:?}, longest {longest:?}");
}

fn name(n: u64) -> Blob {
    Blob::from(format!("m:{n:09}"))
}

/// Numbers in an order that caches do not like.
fn spread(n: u64, below: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % below
}

fn time(what: &str, times: u64, mut each: impl FnMut(u64)) {
    let (mut longest, start) = (0, busy());
    for hundred in 0..times / 100 {
        let began = busy();
        for n in hundred * 100..(hundred + 1) * 100 {
            each(n);
        }
        longest = longest.max(busy() - began);
    }
    println!("{what}: {} ns, longest {:?}", (busy() - start) / times, Duration::from_nanos(longest));
}

/// CPU time of this thread so far, in nanoseconds.
fn busy() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn grown(before: u64) -> u64 {
    resident().saturating_sub(before)
}
