//! Scans that miss nothing, and ranges against plain models.
#![allow(clippy::unwrap_used)]

use crate::common;

use common::Redis;
use proptest::prelude::*;
use quorate_types::{Blob, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// A step of a scan's answer: its cursor and its items.
fn scanned(reply: Reply) -> (Blob, Vec<Blob>) {
    let Reply::Array { items } = reply else { panic!("{reply:?}") };
    let [Reply::Bulk { value: cursor }, Reply::Array { items }] = &items.0[..] else { panic!("{items:?}") };
    let items = items.0.iter().map(|item| match item {
        Reply::Bulk { value } => value.clone(),
        other => panic!("{other:?}"),
    });
    (cursor.clone(), items.collect())
}

/// Scans a collection of 600 members while others come and go: all that stay are seen.
fn scan_sees_what_stays(
    scan: &str,
    per_member: usize,
    add: fn(u64) -> String,
    remove: fn(u64) -> String,
    changes: &[(bool, u16)],
) {
    let mut redis = Redis::new();
    (0..600).for_each(|n| drop(redis.run(&add(n))));
    let mut stays: BTreeSet<u64> = (0..600).collect();
    let (mut seen, mut cursor, mut steps) = (BTreeSet::new(), "0".to_owned(), 0);
    let mut changes = changes.iter().cycle();
    loop {
        let reply = redis.call(&common::words(&format!("{scan} c {cursor} COUNT 20")));
        let (next, items) = scanned(reply);
        seen.extend(items.iter().step_by(per_member).cloned());
        cursor = next.to_string();
        if cursor == "0" {
            break;
        }
        for _ in 0..10 {
            let (adds, n) = changes.next().unwrap();
            let n = u64::from(*n) % 900;
            if *adds && n >= 600 {
                redis.run(&add(n));
            } else if n >= 300 {
                // The first half is never touched.
                redis.run(&remove(n));
                stays.remove(&n);
            }
        }
        steps += 1;
        assert!(steps < 2000, "the scan does not end");
    }
    for n in stays {
        assert!(seen.contains(&Blob::from(format!("m{n}"))), "{scan} missed m{n}");
    }
}

/// As [`scan_sees_what_stays`], for members whose scores change from one end to the other.
fn scan_sees_what_moves(changes: &[(bool, u16)]) {
    let mut redis = Redis::new();
    for n in 0..600_i64 {
        redis.run(&format!("ZADD c {} m{n}", n % 7));
    }
    let (mut seen, mut cursor, mut at) = (BTreeMap::new(), "0".to_owned(), 0);
    loop {
        let reply = redis.call(&common::words(&format!("ZSCAN c {cursor} COUNT 10")));
        let (next, items) = scanned(reply);
        for pair in items.chunks(2) {
            *seen.entry(pair[0].clone()).or_insert(0) += 1;
        }
        cursor = next.to_string();
        if cursor == "0" {
            break;
        }
        for n in 0..600_i64 {
            let (up, by) = changes[(at + n as usize) % changes.len()];
            if n % 3 == i64::from(by) % 3 {
                redis.run(&format!("ZADD c {}{} m{n}", if up { "" } else { "-" }, i64::from(by) + 1_000 * n));
            }
        }
        at += 601;
        assert!(at < 601 * 2_000, "the scan does not end");
    }
    for n in 0..600 {
        assert_eq!(seen.get(&Blob::from(format!("m{n}"))), Some(&1), "each is seen once: m{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_scan_misses_no_member_that_stays(changes in prop::collection::vec((any::<bool>(), any::<u16>()), 50..400)) {
        scan_sees_what_stays("SSCAN", 1, |n| format!("SADD c m{n}"), |n| format!("SREM c m{n}"), &changes);
        scan_sees_what_stays("HSCAN", 2, |n| format!("HSET c m{n} v"), |n| format!("HDEL c m{n}"), &changes);
        // Scores all over the place, some negative, some equal.
        // And scores that change all the time, of members that stay as well.
        scan_sees_what_moves(&changes);
        scan_sees_what_stays("ZSCAN", 2, |n| format!("ZADD c {} m{n}", (n * 7919 % 601) as i64 - 300), |n| format!("ZREM c m{n}"), &changes);
    }

    #[test]
    fn ranges_by_score_are_those_of_a_model(
        members in prop::collection::btree_map("[a-f]{1,2}", -4_i64..5, 0..40),
        (low, low_out) in (-5_i64..6, any::<bool>()),
        (high, high_out) in (-5_i64..6, any::<bool>()),
        (offset, limit) in (-1_i64..6, -1_i64..6),
        reverse in any::<bool>(),
    ) {
        let mut redis = Redis::new();
        for (member, score) in &members {
            redis.run(&format!("ZADD z {score} {member}"));
        }
        let mut wanted: Vec<(i64, &String)> = members.iter().map(|(member, score)| (*score, member)).collect();
        wanted.sort();
        wanted.retain(|(score, _)| {
            (*score > low || *score == low && !low_out) && (*score < high || *score == high && !high_out)
        });
        if reverse {
            wanted.reverse();
        }
        let edge = |value: i64, out: bool| format!("{}{value}", if out { "(" } else { "" });
        let (from, to) = if reverse { (edge(high, high_out), edge(low, low_out)) } else { (edge(low, low_out), edge(high, high_out)) };
        prop_assert_eq!(redis.run(&format!("ZCOUNT z {} {}", edge(low, low_out), edge(high, high_out))), wanted.len().to_string());
        let shown: Vec<String> = match usize::try_from(offset) {
            Err(_) => Vec::new(),
            Ok(offset) => {
                let take = usize::try_from(limit).unwrap_or(usize::MAX);
                wanted.iter().skip(offset).take(take).map(|(_, member)| format!("\"{member}\"")).collect()
            }
        };
        let rev = if reverse { "REV" } else { "" };
        let line = format!("ZRANGE z {from} {to} BYSCORE {rev} LIMIT {offset} {limit}");
        prop_assert_eq!(redis.run(&line), format!("[{}]", shown.join(" ")));
    }

    #[test]
    fn lists_are_those_of_a_model(steps in prop::collection::vec((0_u8..7, -6_i64..7, 0_u8..3), 1..60)) {
        let mut redis = Redis::new();
        let mut model: Vec<String> = Vec::new();
        for (kind, n, value) in steps {
            let value = format!("v{value}");
            let at = if n < 0 { n + model.len() as i64 } else { n };
            let inside = usize::try_from(at).ok().filter(|at| *at < model.len());
            match kind {
                0 => { redis.run(&format!("LPUSH l {value}")); model.insert(0, value); }
                1 => { redis.run(&format!("RPUSH l {value}")); model.push(value); }
                2 => {
                    redis.run(&format!("LSET l {n} {value}"));
                    if let Some(at) = inside { model[at] = value; }
                }
                3 => {
                    redis.run(&format!("LREM l {n} {value}"));
                    let most = if n == 0 { usize::MAX } else { n.unsigned_abs() as usize };
                    let mut gone = 0;
                    let mut keep = |each: &String| { let go = *each == value && gone < most; gone += usize::from(go); !go };
                    if n < 0 { model.reverse(); model.retain(&mut keep); model.reverse(); } else { model.retain(&mut keep); }
                }
                4 => {
                    redis.run(&format!("LINSERT l BEFORE {value} new"));
                    if let Some(at) = model.iter().position(|each| *each == value) { model.insert(at, "new".into()); }
                }
                5 => {
                    redis.run(&format!("LTRIM l {n} -2"));
                    let from = at.max(0).min(model.len() as i64) as usize;
                    let to = model.len().saturating_sub(1).max(from);
                    model = model[from..to].to_vec();
                }
                _ => {
                    let shown = inside.map_or("nil".into(), |at| format!("\"{}\"", model[at]));
                    prop_assert_eq!(redis.run(&format!("LINDEX l {n}")), shown);
                }
            }
            let shown: Vec<_> = model.iter().map(|each| format!("\"{each}\"")).collect();
            prop_assert_eq!(redis.run("LRANGE l 0 -1"), format!("[{}]", shown.join(" ")));
        }
    }

    #[test]
    fn keys_end_when_a_model_says_so(steps in prop::collection::vec((0_u8..6, 0_u8..3, 1_u64..50), 1..60)) {
        let mut redis = Redis::new();
        let start = redis.store.wall.0;
        let mut model: BTreeMap<String, Option<u64>> = BTreeMap::new();
        let mut now = 0;
        for (kind, name, n) in steps {
            let name = format!("k{name}");
            match kind {
                0 => { redis.run(&format!("SET {name} 1")); model.insert(name, None); }
                1 => { redis.run(&format!("SET {name} 1 PX {n}")); model.insert(name, Some(now + n)); }
                2 => {
                    redis.run(&format!("PEXPIRE {name} {n} NX"));
                    model.entry(name).and_modify(|end| *end = end.or(Some(now + n)));
                }
                3 => {
                    redis.run(&format!("PEXPIREAT {name} {} GT", start + now + n));
                    model.entry(name).and_modify(|end| *end = end.map(|end| end.max(now + n)));
                }
                4 => { redis.run(&format!("PERSIST {name}")); model.entry(name).and_modify(|end| *end = None); }
                _ => {
                    redis.store.advance(n);
                    now += n;
                    model.retain(|_, end| end.is_none_or(|end| end > now));
                }
            }
            for name in ["k0", "k1", "k2"] {
                let wanted = match model.get(name) { None => -2, Some(None) => -1, Some(Some(end)) => (end - now) as i64 };
                prop_assert_eq!(redis.run(&format!("PTTL {name}")), wanted.to_string());
            }
        }
    }
}
