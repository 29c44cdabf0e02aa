//! How fast the machine alone decides commits, and how much memory a small key takes.
//!
//! `cargo run --release -p quorate-machine --example commits [keys] [commits per round]`
//!
//! Entries of 64 commands are built in memory, eight at a time, before the clock starts: as they are when they were just
//! decoded. A million random 20-byte keys with 16-byte values, default settings. Rows are medians of five rounds of CPU
//! time; bare and five-part rounds alternate, so that a neighbour's load on caches falls on both. The five-part commit has an
//! idempotency key, a fence and a limit as guards, and puts and appends.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock; the machine does not")]

use quorate_machine::{Machine, Outputs};
use quorate_types::*;
use std::sync::LazyLock;
use std::time::Instant;

const COMMANDS: u64 = 64;
const ENTRIES: u64 = 8;
const ROUNDS: usize = 5;

fn main() {
    let number = |place: usize| std::env::args().nth(place).and_then(|arg| arg.parse::<u64>().ok());
    let mut bench = Bench::new(number(1).unwrap_or(1_000_000), number(2).unwrap_or(400_000));
    bench.load();
    let (mut bare, mut five) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(bench.round(Bench::bare));
        five.push(bench.round(Bench::five_part));
    }
    let (bare, five) = (median(bare), median(five));
    println!("bare put        {bare:7.0} ns/commit   {:.2} M commits/s", 1000.0 / bare);
    println!("five-part       {five:7.0} ns/commit   {:.2} x the bare put", five / bare);
}

struct Bench {
    machine: Machine,
    out: Outputs,
    keys: u64,
    commits: u64,
    index: u64,
    random: u64,
    sequence: u64,
    token: FencingToken,
}

impl Bench {
    fn new(keys: u64, commits: u64) -> Self {
        let machine = Machine::new(42);
        let token = FencingToken::ZERO;
        let (index, random, sequence) = (0, 0x0139_408d_cbbf_7a44, 0);
        Self { machine, out: Outputs::default(), keys, commits, index, random, sequence, token }
    }

    /// Writes every key once, and takes the lock for the fence.
    fn load(&mut self) {
        let before = resident();
        let (keys, mut next) = (self.keys, 0);
        let mut took = Vec::new();
        while next < keys {
            // A slice at a time: what the entries take must not count as the machine's.
            let upto = (next + 64_000).min(keys);
            // In scattered order, as keys come.
            let commands: Vec<Command> =
                (next..upto).map(|n| put((n * 2_654_435_761) % keys).into()).collect();
            next = upto;
            let entry = self.entry(commands);
            took.push(self.time(&[entry]));
        }
        let bytes = (resident() - before) as f64 / keys as f64;
        println!("new keys        {:7.0} ns/commit", median(took));
        println!("memory          {bytes:7.0} bytes per key, {:.0} beyond its 36 bytes", bytes - 36.0);
        let grant = Op::LeaseGrant { lease: LeaseId(7), ttl: Millis(1_000_000_000) };
        let (lock, lease, mode) = ("lock".into(), LeaseId(7), LockMode::Exclusive);
        let acquire = Op::Acquire { lock, lease, mode, request: 1, value: Blob::EMPTY };
        let entry = self.entry(vec![Commit::of(vec![grant, acquire]).into()]);
        self.time(&[entry]);
        self.token = FencingToken(self.machine.revision().0);
    }

    fn bare(&mut self) -> Commit {
        let key = self.random_key();
        put(key)
    }

    fn five_part(&mut self) -> Commit {
        self.sequence += 1;
        let key = self.random_key();
        let mut commit = put(key);
        commit.then.push(Op::Append {
            append: Append {
                stream: "events".into(),
                partition: PartitionChoice::Any,
                format: Format::Records,
                records: 1,
                payload: Payload::from(bytes::Bytes::from_static(b"an event of some bytes")),
                create: true,
            },
        });
        let second = Millis(1000);
        let policy = LimitPolicy::Bucket { count: 10_000_000, period: second, burst: 10_000_000 };
        commit.guards = vec![
            Guard::Fence { lock: "lock".into(), token: self.token },
            Guard::Limit { name: "tenant/acme".into(), policy, cost: 1 },
        ];
        let fingerprint = commit.fingerprint();
        let key = format!("pay-{:012x}", self.sequence).as_str().into();
        commit.idempotency = Some(Idempotency { key, ttl: Millis(86_400_000), fingerprint });
        commit
    }

    fn random_key(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % self.keys
    }

    /// Applies commits; nanoseconds per commit.
    fn round(&mut self, mut make: impl FnMut(&mut Self) -> Commit) -> f64 {
        let slices = (self.commits / COMMANDS / ENTRIES).max(1);
        let mut took = 0.0;
        for _ in 0..slices {
            let mut entries = Vec::new();
            for _ in 0..ENTRIES {
                let commands = (0..COMMANDS).map(|_| make(self).into()).collect();
                entries.push(self.entry(commands));
            }
            took += self.time(&entries);
        }
        took / slices as f64
    }

    fn entry(&mut self, commands: Vec<Command>) -> Entry {
        self.index += 1;
        let (index, ms) = (LogIndex(self.index), self.index);
        let (wall, time) = (WallTime(1_700_000_000_000 + ms), LogTime(ms * 1_000_000));
        let (term, seed, decided) = (Term(1), self.index, Vec::new());
        let mut entry = Entry {
            index,
            term,
            wall,
            time,
            seed,
            machine_version: 1,
            commands,
            decided,
            origins: Vec::new(),
        };
        entry.seal();
        entry
    }

    /// Applies entries; nanoseconds per commit.
    fn time(&mut self, entries: &[Entry]) -> f64 {
        let mut commits = 0;
        let start = clock();
        for entry in entries {
            self.out.clear();
            self.machine.apply(entry, &mut self.out);
            commits += self.out.outcomes.len();
        }
        let took = (clock() - start) as f64;
        let done = |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. });
        assert!(self.out.outcomes.iter().all(done), "nothing is refused: {:?}", self.out.outcomes[0]);
        took / commits as f64
    }
}

/// Nanoseconds that this thread was on a core: what a neighbour takes does not count. Elapsed time where the kernel does
/// not tell.
fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_core = told.split(' ').next().and_then(|ns| ns.parse().ok()).filter(|ns| *ns > 0);
    on_core.unwrap_or_else(|| START.elapsed().as_nanos() as u64)
}

fn put(key: u64) -> Commit {
    let (key, value) = (Key::new(format!("key:{key:016}").as_str()), "0123456789abcdef".into());
    Commit::of(vec![Op::Put { key, value, lease: LeaseId::ZERO, prev: false }])
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// Resident memory of this process in bytes; 0 where `/proc` is not there.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    resident.unwrap_or(0) * 4096
}
