//! What went wrong once between replicas, each as a story of its own: the engine alone, messages carried by hand.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use quorate_engine::{
    Change, Durability, Engine, EngineError, Instant, Job, Local, Member, Proposal, Raft, RaftConfig, Role,
};
use quorate_log::{FileDisk, LogConfig};
use quorate_types::{ClusterId, Command, Commit, Entry, LeaseId, LogIndex, LogTime, NodeId, Op, WallTime};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const TICK_MS: u64 = 25;

fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        batch_bytes_max: 1 << 18,
        entry_bytes_max: 1 << 16,
        ..LogConfig::default()
    }
}

fn open(folder: &Path, node: u64, durability: Durability, boot: &str) -> Raft {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let (boot, seed) = (boot.to_owned(), node * 7919);
    let config = RaftConfig { node: NodeId(node), durability, log: log_config(), boot, seed };
    Raft::open(disk, &config).unwrap().0
}

fn member(node: u64) -> Member {
    let address = format!("n{node}:1");
    Member { node: NodeId(node), address, instance: node, role: Role::Voter {}, vote: true }
}

fn proposal(value: &str) -> Proposal {
    let put = Op::Put { key: "k".into(), value: value.to_owned().into(), lease: LeaseId(0), prev: false };
    let commands = vec![Command::commit(Commit::of(vec![put]))];
    Proposal { wall: WallTime(1), time: LogTime(1), commands, ..Proposal::default() }
}

/// Replicas with numbers from 1, and a clock for all of them.
struct Replicas {
    folders: Vec<TempDir>,
    durability: Durability,
    all: Vec<Raft>,
    applied: Vec<Vec<Entry>>,
    ms: u64,
}

impl Replicas {
    /// As many replicas, of which the first `voters` began the cluster.
    fn of(count: u64, voters: u64, durability: Durability) -> Self {
        let folders: Vec<TempDir> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let first: Vec<Member> = (1..=voters).map(member).collect();
        let at = LogIndex::ZERO;
        let begin = |(folder, node): (&TempDir, u64)| {
            open(folder.path(), node, durability, "boot")
                .adopt(ClusterId(9), first.clone(), at, first.clone())
                .unwrap();
            open(folder.path(), node, durability, "boot")
        };
        let all: Vec<Raft> = folders.iter().zip(1..).map(begin).collect();
        let applied = vec![Vec::new(); all.len()];
        Self { folders, durability, all, applied, ms: 1000 }
    }

    fn at(&mut self, node: usize) -> &mut Raft {
        &mut self.all[node - 1]
    }

    /// Ends the process of a node, without any good order, and begins it again.
    fn restart(&mut self, node: usize) {
        self.applied[node - 1].clear();
        let elsewhere = tempfile::tempdir().unwrap();
        let stand_in = open(elsewhere.path(), 99, self.durability, "boot");
        drop(std::mem::replace(&mut self.all[node - 1], stand_in));
        self.all[node - 1] = open(self.folders[node - 1].path(), node as u64, self.durability, "boot");
    }

    fn tick(&mut self, nodes: &[usize]) {
        self.ms += TICK_MS;
        let now = Instant { monotonic_ns: self.ms * 1_000_000, wall_ms: self.ms };
        for node in nodes {
            self.all[node - 1].tick(now, LogTime(self.ms));
        }
    }

    fn write(&mut self, node: usize) {
        while let Some(job) = self.all[node - 1].take_job() {
            self.all[node - 1].complete(job.run()).unwrap();
        }
    }

    fn apply(&mut self, node: usize) {
        while let Some(entry) = self.all[node - 1].next_committed().unwrap() {
            self.applied[node - 1].push(entry);
        }
    }

    /// Carries what is ready among these nodes; what is for others is lost.
    fn carry(&mut self, nodes: &[usize]) {
        for node in nodes {
            for message in self.all[node - 1].take_messages() {
                let to = message.to().0 as usize;
                if nodes.contains(&to) {
                    self.all[to - 1].step(message);
                }
            }
        }
    }

    /// Rounds in which these nodes tick, talk, and, but for those whose disk hangs, write and apply.
    fn rounds(&mut self, count: usize, nodes: &[usize], hanging: &[usize]) {
        for _ in 0..count {
            self.tick(nodes);
            for _ in 0..6 {
                for node in nodes.iter().filter(|node| !hanging.contains(node)) {
                    self.write(*node);
                    self.apply(*node);
                }
                self.carry(nodes);
            }
        }
    }

    fn leader(&self) -> usize {
        self.all.iter().position(|raft| raft.standing().leads).expect("a leader") + 1
    }
}

#[test]
fn a_follower_whose_write_was_overtaken_by_a_commit_still_votes() {
    let mut replicas = Replicas::of(3, 3, Durability::Always);
    replicas.rounds(60, &[1, 2, 3], &[]);
    let leader = replicas.leader();
    let [fast, slow] = [1, 2, 3].into_iter().filter(|node| *node != leader).collect::<Vec<_>>()[..] else {
        unreachable!("two of three follow")
    };
    replicas.at(leader).propose(proposal("a")).unwrap();
    replicas.carry(&[1, 2, 3]);
    let job = replicas.at(slow).take_job().expect("the entry is to be written");
    replicas.write(leader);
    replicas.write(fast);
    // The commit reaches the slow follower while its write is under way: a message without a write of its own, behind a write.
    (0..3).for_each(|_| replicas.carry(&[1, 2, 3]));
    replicas.at(slow).complete(job.run()).unwrap();
    replicas.rounds(60, &[fast, slow], &[]);
    assert!([fast, slow].iter().any(|node| replicas.at(*node).standing().leads), "nobody was elected");
}

#[test]
fn the_only_voter_sends_nothing_of_a_term_that_is_not_on_its_disk() {
    let mut replicas = Replicas::of(2, 1, Durability::Always);
    replicas.rounds(8, &[1, 2], &[]);
    for learner in [2, 3] {
        let address = format!("n{learner}:1");
        let learn = Change::Learn { node: NodeId(learner), address, instance: learner, vote: false };
        replicas.at(1).change(&[learn]).unwrap();
        replicas.rounds(20, &[1, 2], &[]);
    }
    for value in ["first", "second"] {
        replicas.restart(1);
        replicas.tick(&[1]);
        replicas.apply(1);
        replicas.tick(&[1]);
        replicas.tick(&[1]);
        assert!(replicas.at(1).standing().leads);
        replicas.at(1).propose(proposal(value)).unwrap();
        // The first time its disk hangs, and the process is killed before a byte of the new term is written.
        let hanging: &[usize] = if value == "first" { &[1] } else { &[] };
        replicas.rounds(20, &[1, 2], hanging);
    }
    let ends: Vec<Option<&Entry>> = replicas.applied.iter().map(|entries| entries.last()).collect();
    assert_eq!(ends[0].map(|entry| &entry.commands), ends[1].map(|entry| &entry.commands));
}

#[test]
fn a_folder_with_data_of_its_own_does_not_join_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    {
        let disk = Arc::new(FileDisk::open(folder.path()).unwrap());
        let (mut alone, _) = Local::open(disk, log_config(), Durability::Always).unwrap();
        alone.propose(proposal("its own")).unwrap();
        alone.take_job().map(Job::run).into_iter().for_each(|done| alone.complete(done).unwrap());
    }
    let mut raft = open(folder.path(), 2, Durability::Always, "boot");
    let refused = raft.adopt(ClusterId(9), vec![member(1)], LogIndex::ZERO, vec![member(1)]).unwrap_err();
    assert!(matches!(&refused, EngineError::Identity(why) if why.contains("empty folder")), "{refused}");
    assert!(raft.init(ClusterId(9), "n2:1".into()).is_ok(), "it may begin a cluster with what it has");
}

#[test]
fn the_only_voter_leads_again_after_a_power_loss_under_interval() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), 1, Durability::Interval, "boot 1").init(ClusterId(9), "n1:1".into()).unwrap();
    drop(open(folder.path(), 1, Durability::Interval, "boot 1"));
    let mut raft = open(folder.path(), 1, Durability::Interval, "boot 2");
    assert!(!raft.is_recovering(), "there is nobody to catch up from");
    raft.tick(Instant { monotonic_ns: 1, wall_ms: 1 }, LogTime(1));
    raft.tick(Instant { monotonic_ns: 30_000_000, wall_ms: 30 }, LogTime(1));
    assert!(raft.standing().leads);
}

#[test]
fn a_voter_back_from_a_power_loss_under_interval_does_not_vote_before_it_has_caught_up() {
    let mut replicas = Replicas::of(3, 3, Durability::Interval);
    replicas.rounds(60, &[1, 2, 3], &[]);
    let leader = replicas.leader();
    let [other, lost] = [1, 2, 3].into_iter().filter(|node| *node != leader).collect::<Vec<_>>()[..] else {
        unreachable!("two of three follow")
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let stand_in = open(elsewhere.path(), 99, Durability::Interval, "boot");
    drop(std::mem::replace(replicas.at(lost), stand_in));
    let path = replicas.folders[lost - 1].path().to_owned();
    // Whatever the durability says now: what was acknowledged then may be lost.
    *replicas.at(lost) = open(&path, lost as u64, Durability::Always, "another boot");
    assert!(replicas.at(lost).is_recovering());
    replicas.rounds(200, &[other, lost], &[]);
    assert!(!replicas.at(other).standing().leads && !replicas.at(lost).standing().leads);
    replicas.at(lost).recovered();
    replicas.rounds(60, &[other, lost], &[]);
    assert!([other, lost].iter().any(|node| replicas.at(*node).standing().leads));
}

#[test]
fn a_replica_that_leaves_its_log_acknowledges_nothing_more_into_it() {
    let mut replicas = Replicas::of(2, 2, Durability::Always);
    replicas.rounds(60, &[1, 2], &[]);
    let leader = replicas.leader();
    let follower = 3 - leader;
    let last = replicas.at(leader).last();
    let term = replicas.at(leader).standing().term;
    let wanted = quorate_engine::CopyWanted { from: NodeId(leader as u64), term, index: last };
    assert!(replicas.at(follower).install(wanted, last).unwrap());
    replicas.at(leader).propose(proposal("later")).unwrap();
    for _ in 0..40 {
        replicas.tick(&[leader, follower]);
        replicas.write(leader);
        // Its old log may still be written; nothing that promises must leave.
        replicas.write(follower);
        assert!(replicas.at(follower).take_messages().is_empty());
        replicas.carry(&[leader]);
    }
    assert_eq!(replicas.at(leader).committed(), last, "one of two is no quorum");
}

#[test]
fn a_copy_of_another_leaders_log_or_of_less_than_was_acknowledged_is_not_installed() {
    let mut replicas = Replicas::of(2, 2, Durability::Always);
    replicas.rounds(60, &[1, 2], &[]);
    let leader = replicas.leader();
    let (from, term) = (NodeId(leader as u64), replicas.at(leader).standing().term);
    replicas.at(leader).propose(proposal("a")).unwrap();
    replicas.rounds(4, &[1, 2], &[]);
    let last = replicas.at(leader).last();
    let follower = replicas.at(3 - leader);
    let wanted = quorate_engine::CopyWanted { from, term, index: LogIndex(1) };
    assert!(!follower.install(wanted, LogIndex(last.0 - 1)).unwrap(), "less than was acknowledged");
    let older = quorate_engine::CopyWanted { term: quorate_types::Term(term.0 - 1), ..wanted };
    assert!(!follower.install(older, last).unwrap(), "of another term");
    assert!(follower.install(wanted, last).unwrap());
}

#[test]
fn a_cluster_that_begins_with_the_log_of_one_that_was_lost_has_none_of_its_members() {
    let mut replicas = Replicas::of(2, 1, Durability::Always);
    replicas.rounds(8, &[1, 2], &[]);
    let learn = |vote| Change::Learn { node: NodeId(2), address: "n2:1".into(), instance: 2, vote };
    replicas.at(1).change(&[learn(true)]).unwrap();
    replicas.rounds(60, &[1, 2], &[]);
    assert_eq!(replicas.at(1).members().voters(), [NodeId(1), NodeId(2)]);
    // Node 2 is lost for good.
    let folder = replicas.folders.swap_remove(0);
    drop(replicas);
    let disk: Arc<dyn quorate_log::Disk> = Arc::new(FileDisk::open(folder.path()).unwrap());
    quorate_engine::Identity::forget(&disk, 77).unwrap().expect("it was a member");
    let mut stranger = open(folder.path(), 1, Durability::Always, "boot");
    assert!(stranger.members().list().is_empty(), "it belongs to nobody until it begins a cluster");
    stranger.init(ClusterId(10), "n1:1".into()).unwrap();
    drop(stranger);
    let mut alone = open(folder.path(), 1, Durability::Always, "boot");
    for ms in (0..200).step_by(TICK_MS as usize) {
        alone.tick(Instant { monotonic_ns: ms * 1_000_000, wall_ms: ms }, LogTime(ms));
        while let Some(job) = alone.take_job() {
            alone.complete(job.run()).unwrap();
        }
        while alone.next_committed().unwrap().is_some() {}
    }
    assert!(alone.standing().leads);
    assert_eq!(alone.members().voters(), [NodeId(1)]);
}
