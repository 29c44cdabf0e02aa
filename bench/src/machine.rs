//! The machine alone: decoded entries in, outcomes out, one core, no disk.

use crate::processes::resident_bytes;
use crate::report::{Report, median, thousands};
use quorate_machine::{Machine, Outputs};
use quorate_types::{
    Append, Blob, Command, CommandBody, Commit, Entry, FencingToken, Fingerprint, Format, Guard, Idempotency,
    Key, LeaseId, LimitPolicy, LockMode, LogIndex, LogTime, Millis, Op, OpResult, Outcome, PartitionChoice,
    Payload, Term, WallTime,
};
use std::time::Instant;

const KEYS: u64 = 1_000_000;
const PER_ENTRY: u64 = 64;
const COMMITS: u64 = 1_000_000;
const PORTION: u64 = 4000;

pub(crate) fn run(report: &mut Report, rounds: usize) {
    let mut driver = Driver { machine: Machine::new(0x5eed), out: Outputs::default(), index: 0, random: 1 };
    let before = resident_bytes("self");
    // In small portions, so that what is measured is the machine and not the commands that wait for it.
    let mut fill = 0.0;
    for first in (0..KEYS).step_by(PORTION as usize) {
        let portion = (first..first + PORTION).map(|key| put(key.wrapping_mul(0x9e37_79b9) % KEYS)).collect();
        fill += driver.time(portion) * PORTION as f64 / KEYS as f64;
    }
    let per_key = (resident_bytes("self").saturating_sub(before)) as f64 / KEYS as f64;
    let mut bare = Vec::new();
    let mut five = Vec::new();
    let token = driver.lock();
    let mut sequence = 0;
    for _ in 0..rounds {
        let puts = (0..COMMITS).map(|_| put(driver.random() % KEYS)).collect();
        bare.push(driver.time(puts));
        let parts = (0..COMMITS / 4).map(|_| {
            sequence += 1;
            five_part(driver.random() % KEYS, sequence, token)
        });
        let parts = parts.collect();
        five.push(driver.time(parts));
    }
    let (bare, five) = (median(bare), median(five));
    report.row("machine: 1 M keys created, single-put commits", format!("{}/s", thousands(1e9 / fill)));
    report.goal(
        "machine: overwrites of 1 M random keys, single-put commits, one core",
        format!("{}/s ({bare:.0} ns)", thousands(1e9 / bare)),
        "≥ 1 M/s",
        bare <= 1000.0,
    );
    report.goal(
        "machine: five-part commit (idempotency + fence + limit, put + append) against a bare put",
        format!("{:.2}× ({five:.0} ns)", five / bare),
        "≤ 1.5×",
        five <= bare * 1.5,
    );
    let own = 20.0 + 16.0;
    report.goal(
        "machine: memory of a key of 20 + 16 bytes beyond its bytes, history of its creation included",
        format!("{:.0} B", per_key - own),
        "≤ 200 B",
        per_key - own <= 200.0,
    );
}

struct Driver {
    machine: Machine,
    out: Outputs,
    index: u64,
    random: u64,
}

impl Driver {
    /// xorshift64 (Marsaglia, 2003).
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Nanoseconds per commit.
    fn time(&mut self, commands: Vec<Command>) -> f64 {
        let count = commands.len();
        let entries = self.entries(commands);
        let begun = Instant::now();
        for entry in &entries {
            self.out.clear();
            self.machine.apply(entry, &mut self.out);
        }
        let took = begun.elapsed();
        let refused = self.out.outcomes.iter().find(|outcome| matches!(outcome, Outcome::Refused { .. }));
        assert!(refused.is_none(), "a measured commit was refused: {refused:?}");
        took.as_nanos() as f64 / count as f64
    }

    fn entries(&mut self, commands: Vec<Command>) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut commands = commands.into_iter();
        loop {
            let batch: Vec<Command> = commands.by_ref().take(PER_ENTRY as usize).collect();
            if batch.is_empty() {
                return entries;
            }
            self.index += 1;
            let (wall, time) = (WallTime(self.index), LogTime(self.index * 1000));
            let mut entry = Entry {
                index: LogIndex(self.index),
                term: Term(1),
                wall,
                time,
                commands: batch,
                ..Entry::default()
            };
            entry.seal();
            entries.push(entry);
        }
    }

    fn lock(&mut self) -> FencingToken {
        let lease = Op::LeaseGrant { lease: LeaseId(1), ttl: Millis(1 << 40) };
        let (lock, value) = ("orders".into(), Blob::EMPTY);
        let acquire = Op::Acquire { lock, lease: LeaseId(1), mode: LockMode::Exclusive, request: 1, value };
        self.time(vec![Commit::of(vec![lease, acquire]).into()]);
        match self.out.outcomes.first() {
            Some(Outcome::Committed { committed }) => match committed.results[1] {
                OpResult::Token { token } => token,
                ref other => panic!("an acquire gives a token, not {other:?}"),
            },
            other => panic!("the lock is free: {other:?}"),
        }
    }
}

fn put(key: u64) -> Command {
    let key = Key::new(format!("key:{key:016}"));
    let op = Op::Put { key, value: "0123456789abcdef".into(), lease: LeaseId(0), prev: false };
    Command::commit(Commit::of(vec![op]))
}

fn five_part(key: u64, sequence: u64, token: FencingToken) -> Command {
    let mut command = put(key);
    let CommandBody::Commit { commit } = &mut command.body else { unreachable!("put makes a commit") };
    let key = format!("request-{sequence:012}").into();
    commit.idempotency =
        Some(Idempotency { key, ttl: Millis(86_400_000), fingerprint: Fingerprint(u128::from(sequence)) });
    let policy = LimitPolicy::Bucket { count: 1_000_000_000, period: Millis(1000), burst: 1_000_000_000 };
    commit.guards = vec![
        Guard::Fence { lock: "orders".into(), token },
        Guard::Limit { name: "tenant".into(), policy, cost: 1 },
    ];
    let append = Append {
        stream: "orders-events".into(),
        partition: PartitionChoice::Number { partition: 0 },
        format: Format::Records,
        records: 1,
        payload: Payload::from(bytes::Bytes::from_static(b"{\"type\":\"OrderPaid\"}")),
        create: true,
    };
    commit.then.push(Op::Append { append });
    command
}
