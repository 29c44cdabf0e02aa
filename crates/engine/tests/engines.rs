//! One suite, every engine: entries come out in order, each once, as proposed, and unchanged after a restart.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use quorate_engine::{Durability, Engine, Instant, Local, Member, Opened, Proposal, Raft, RaftConfig, Role};
use quorate_log::{LogConfig, SimDisk};
use quorate_types::{ClusterId, Command, Commit, Entry, LeaseId, LogIndex, LogTime, NodeId, Op, WallTime};
use std::sync::Arc;

fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 16,
        segments_ready: 0,
        batch_bytes_max: 30 << 10,
        entry_bytes_max: 24 << 10,
        reserve_bytes: 0,
    }
}

/// An engine under test, and those that it needs to make a quorum.
struct Under {
    name: &'static str,
    durability: Durability,
    disks: Vec<SimDisk>,
    raft: bool,
    engines: Vec<Box<dyn Engine>>,
    /// What each has given back since it was opened.
    given: Vec<Vec<Entry>>,
    lives: u64,
    ms: u64,
}

impl Under {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for durability in [Durability::Always, Durability::Interval] {
            all.push(Self::begin("local", durability, 1, false));
            all.push(Self::begin("one replica", durability, 1, true));
            all.push(Self::begin("three replicas", durability, 3, true));
        }
        all
    }

    fn begin(name: &'static str, durability: Durability, nodes: u64, raft: bool) -> Self {
        let disks: Vec<SimDisk> = (1..=nodes).map(SimDisk::new).collect();
        let given = vec![Vec::new(); disks.len()];
        let mut under =
            Self { name, durability, disks, raft, engines: Vec::new(), given, lives: 0, ms: 1000 };
        if raft {
            let member = |node: u64| Member {
                node: NodeId(node),
                address: format!("n{node}:1"),
                instance: node,
                role: Role::Voter {},
                vote: true,
            };
            let first: Vec<Member> = (1..=nodes).map(member).collect();
            for node in 0..under.disks.len() {
                let (mut raft, _) = under.replica(node);
                raft.adopt(ClusterId(7), first.clone(), LogIndex::ZERO, first.clone()).unwrap();
            }
        }
        under.open();
        under
    }

    fn replica(&self, node: usize) -> (Raft, Opened) {
        let config = RaftConfig {
            node: NodeId(node as u64 + 1),
            durability: self.durability,
            log: log_config(),
            boot: "boot".into(),
            seed: (self.lives << 8) + node as u64 + 1,
        };
        Raft::open(Arc::new(self.disks[node].clone()), &config).unwrap()
    }

    /// Opens all, and takes what opening gives back.
    fn open(&mut self) {
        self.lives += 1;
        for node in 0..self.disks.len() {
            let (engine, opened): (Box<dyn Engine>, Opened) = if self.raft {
                let (engine, opened) = self.replica(node);
                (Box::new(engine), opened)
            } else {
                let disk = Arc::new(self.disks[node].clone());
                let (engine, opened) = Local::open(disk, log_config(), self.durability).unwrap();
                (Box::new(engine), opened)
            };
            self.given[node] = opened.entries.map(Result::unwrap).collect();
            self.engines.push(engine);
        }
        self.rounds(80);
        assert!(self.leader().is_some(), "{}: somebody leads", self.name);
    }

    /// The processes die and begin anew; the disks keep what they were given.
    fn restart(&mut self) {
        self.engines.clear();
        self.disks.iter().for_each(SimDisk::process_kill);
        self.open();
    }

    fn leader(&self) -> Option<usize> {
        self.engines.iter().position(|engine| engine.standing().orders)
    }

    /// Lets time pass, jobs run, messages arrive and entries come back.
    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.ms += 25;
            let now = Instant { monotonic_ns: self.ms * 1_000_000, wall_ms: self.ms };
            for engine in &mut self.engines {
                if let Some(raft) = engine.replica() {
                    raft.tick(now, LogTime(self.ms));
                }
            }
            for _ in 0..4 {
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        let mut messages = Vec::new();
        for (engine, given) in self.engines.iter_mut().zip(&mut self.given) {
            while let Some(job) = engine.take_job() {
                engine.complete(job.run()).unwrap();
            }
            while let Some(entry) = engine.next_committed().unwrap() {
                given.push(entry);
            }
            messages.extend(engine.replica().map(Raft::take_messages).unwrap_or_default());
        }
        for message in messages {
            let to = message.to().0 as usize - 1;
            if let Some(raft) = self.engines[to].replica() {
                raft.step(message);
            }
        }
    }

    fn propose(&mut self, number: u64) -> LogIndex {
        let value = format!("value {number}");
        let put = Op::Put { key: "k".into(), value: value.into(), lease: LeaseId(0), prev: false };
        let commands = vec![Command::commit(Commit::of(vec![put]))];
        let (wall, time) = (WallTime(number), LogTime(number));
        let leader = self.leader().unwrap();
        let proposal = Proposal { wall, time, seed: number, commands, ..Proposal::default() };
        self.engines[leader].propose(proposal).unwrap()
    }

    /// What carries commands, of all that an engine has given back: consensus adds empty entries.
    fn commands(&self, node: usize) -> Vec<&Entry> {
        self.given[node].iter().filter(|entry| !entry.commands.is_empty()).collect()
    }
}

#[test]
fn entries_come_back_in_order_each_once_and_as_proposed() {
    for mut under in Under::all() {
        let places: Vec<LogIndex> = (1..=40).map(|number| under.propose(number)).collect();
        under.rounds(20);
        for node in 0..under.engines.len() {
            let given = under.commands(node);
            let found: Vec<LogIndex> = given.iter().map(|entry| entry.index).collect();
            assert_eq!(found, places, "{} node {node}", under.name);
            assert!(given.iter().zip(1..).all(|(entry, number)| entry.seed == number), "{}", under.name);
            let all: Vec<u64> = under.given[node].iter().map(|entry| entry.index.0).collect();
            assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{} node {node}: {all:?}", under.name);
        }
        assert!(under.engines.iter().all(|engine| engine.in_flight() == 0 && !engine.has_committed()));
    }
}

#[test]
fn nothing_is_certain_before_it_is_written() {
    for mut under in Under::all() {
        let leader = under.leader().unwrap();
        let place = under.propose(1);
        assert!(!under.engines[leader].has_committed(), "{}", under.name);
        let job = under.engines[leader].take_job().unwrap();
        assert!(!under.engines[leader].has_committed(), "{}: taken is not written", under.name);
        let done = job.run();
        assert!(!under.engines[leader].has_committed(), "{}: written and not told", under.name);
        under.engines[leader].complete(done).unwrap();
        let alone = under.engines.len() == 1;
        assert_eq!(under.engines[leader].has_committed(), alone, "{}: one of three is no quorum", under.name);
        under.rounds(8);
        assert_eq!(under.commands(leader).last().map(|entry| entry.index), Some(place), "{}", under.name);
    }
}

#[test]
fn a_restart_gives_back_the_same_entries_and_goes_on_after_them() {
    for mut under in Under::all() {
        (1..=25).for_each(|number| {
            under.propose(number);
        });
        under.rounds(20);
        let before: Vec<Vec<Entry>> = (0..under.engines.len())
            .map(|node| under.commands(node).into_iter().cloned().collect())
            .collect();
        for life in 0..3 {
            under.restart();
            under.rounds(20);
            for (node, before) in before.iter().enumerate() {
                let found: Vec<Entry> = under.commands(node).into_iter().take(25).cloned().collect();
                assert_eq!(found, *before, "{} node {node}, life {life}", under.name);
            }
            under.propose(100 + life);
            under.rounds(20);
            let last = under.commands(0).last().map(|entry| entry.seed);
            assert_eq!(last, Some(100 + life), "{}", under.name);
        }
    }
}

#[test]
fn a_power_loss_costs_nothing_that_was_certain_under_always() {
    for mut under in Under::all().into_iter().filter(|under| under.durability == Durability::Always) {
        (1..=25).for_each(|number| {
            under.propose(number);
        });
        under.rounds(20);
        let before: Vec<Entry> = under.commands(0).into_iter().cloned().collect();
        assert_eq!(before.len(), 25, "{}", under.name);
        under.engines.clear();
        under.disks.iter().for_each(SimDisk::power_loss);
        under.open();
        under.rounds(20);
        let found: Vec<Entry> = under.commands(0).into_iter().cloned().collect();
        assert_eq!(found, before, "{}", under.name);
    }
}
