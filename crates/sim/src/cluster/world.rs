//! The driver of a cluster: machines, network, clients, and the order in which everything happens to them.
//!
//! Read [`World::run`], then [`World::handle`] and [`World::after`]. Every event has a moment of true time; between two events nothing
//! happens. What an event does to a node is one call into the production partition, after which its promises are checked, its frames
//! go to the network and its answers to the clients.
//!
//! Invariant: the nodes are the production `Partition`; only disks, clocks, network and clients are made up.
//! Invariant: everything follows from the seed and the options.
//! Called by: `cluster::run`.

use super::frame::{self, Part};
use super::network::Network;
use super::plant::ClusterPlant;
use super::safety::{RATE_MAX, RATE_MIN, Safety};
use super::server::{Copying, Server};
use super::truth::Truth;
use super::{ClusterOptions, ClusterReport};
use crate::calls::model::{Told, ask, passed};
use crate::model::{Check, ensure};
use crate::oracle::OpId;
use crate::plant::{Counts, Plant, Seam};
use crate::probes::Probes;
use crate::random::Random;
use crate::workload::{Client, Hope, View, command};
use crate::world::{config, queues};
use bytes::Bytes;
use quorate_calls::Deadline;
use quorate_engine::{Durability, Instant, Member, Role};
use quorate_log::{Disk, Import, Index};
use quorate_machine::Times;
use quorate_node::{Config, Partition, ReadBarrier, Refused, ReplicaConfig, Reply};
use quorate_types::{
    ClusterId, Command, CommandBody, Key, LogIndex, LogTime, NodeId, Op, Principal, Revision, Term, WallTime,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) type Process = Partition<OpId>;

pub(crate) const MS: u64 = 1_000_000;
/// How long clients wait before they give a proposal up.
const CLIENT_NS: u64 = 3_000 * MS;
/// Bytes of a copied log in one piece.
const PIECE_BYTES: usize = 8 << 10;
/// How long the healed cluster may take to bring everything to an end.
const HEAL_NS: u64 = 120_000 * MS;

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Turn(NodeId),
    Look(NodeId, u64),
    Deliver(NodeId, NodeId, u64),
    Redial(NodeId, NodeId),
    RunJob(NodeId, u64),
    DoneJob(NodeId, u64),
    RunWork(NodeId, u64),
    DoneWork(NodeId, u64),
    Copy(NodeId, u64),
    Restart(NodeId),
    Act(usize),
    Fault,
    Uncut(NodeId, NodeId),
    Unstall(NodeId, NodeId, bool),
    Unslow(NodeId),
    Unskew(NodeId),
    Retire(NodeId),
}

/// What a ticket is for.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are commands")]
pub(crate) enum Flight {
    Command {
        client: usize,
        hope: Hope,
        command: Command,
    },
    /// A read that was asked for when `floor` had been applied somewhere, at those times of its node, after so many elections.
    Read {
        floor: LogIndex,
        asked: Asked,
    },
    Admin {
        removes: Option<NodeId>,
        adds: Option<NodeId>,
    },
}

/// When a read was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    at_ns: u64,
    /// By the clock of the node, if it led then; none otherwise.
    times: Times,
    elections: u64,
}

pub(crate) struct Seat {
    pub(crate) client: Client,
    node: NodeId,
    since_ns: u64,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) options: ClusterOptions,
    pub(crate) durability: Durability,
    pub(crate) config: Config,
    pub(crate) now_ns: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(crate) servers: BTreeMap<NodeId, Server>,
    pub(crate) network: Network,
    pub(crate) truth: Truth,
    pub(crate) safety: Safety,
    pub(crate) seats: Vec<Seat>,
    pub(crate) flights: BTreeMap<OpId, (NodeId, Flight)>,
    pub(crate) next_op: OpId,
    pub(crate) probes: Probes,
    /// Nanoseconds between two acts of a client, and between two faults, about.
    pace_ns: u64,
    pub(crate) trouble_ns: u64,
    jobs_max: usize,
    pub(crate) healing: bool,
    /// A change of membership was asked for and not answered.
    pub(crate) changing: Option<u64>,
    /// The node whose removal was asked for last.
    pub(crate) removing: Option<NodeId>,
    steps: u64,
    restarts: u64,
    reads: u64,
    /// Deadlines that some read has found passed, when it was answered, and after how many elections; named by key and its last change.
    lapsed: BTreeMap<(Key, Revision), (Deadline, u64)>,
    frames_hash: u64,
    compared_ns: u64,
    /// Retries without a new number, for a planted bug.
    again: Vec<(OpId, Command)>,
}

impl World {
    pub(crate) fn new(seed: u64, options: ClusterOptions) -> Self {
        let mut random = Random::new(seed ^ 0xc1u64.rotate_left(56));
        let by_seed = if random.chance(3) { Durability::Interval } else { Durability::Always };
        let durability = options.durability.unwrap_or(by_seed);
        let nodes = options.nodes.unwrap_or(if random.chance(3) { 5 } else { 3 });
        let mut config = config(&mut random, durability, None);
        config.snapshot_bytes = 1 << 40;
        let pace_ns = [2, 4, 10, 40][random.below(4) as usize] * MS;
        let trouble_ns = [60, 150, 400, 1500][random.below(4) as usize] * MS;
        let jobs_max = random.between(1, 2) as usize;
        let scripts = random.chance(options.scenario.scripts_one_in());
        let seats = (0..random.between(4, 7))
            .map(|number| Seat {
                client: Client::new(number, scripts).transacting(),
                node: NodeId(1 + number % nodes),
                since_ns: 0,
            })
            .collect();
        let mut world = Self {
            random,
            options,
            durability,
            config,
            now_ns: 1_000 * MS,
            events: BTreeMap::new(),
            next_event: 0,
            servers: BTreeMap::new(),
            network: Network::default(),
            truth: Truth::new(),
            safety: Safety::default(),
            seats,
            flights: BTreeMap::new(),
            next_op: 1,
            probes: Probes::default(),
            pace_ns,
            trouble_ns,
            jobs_max,
            healing: false,
            changing: None,
            removing: None,
            steps: 0,
            restarts: 0,
            reads: 0,
            lapsed: BTreeMap::new(),
            frames_hash: 0,
            compared_ns: 0,
            again: Vec::new(),
        };
        for node in 1..=nodes {
            world.add_server(NodeId(node));
        }
        world
    }

    pub(crate) fn run(mut self, steps: u64, at: &std::cell::Cell<u64>) -> Result<ClusterReport, String> {
        self.form(at)?;
        for seat in 0..self.seats.len() {
            self.after_ns(MS, Event::Act(seat));
        }
        self.after_ns(self.trouble_ns, Event::Fault);
        while self.steps < steps {
            at.set(self.steps);
            self.next()?;
        }
        self.heal(at)?;
        let images =
            self.servers.values().fold(0u64, |hash, server| hash.rotate_left(7) ^ server.disk.image_hash());
        if self.safety.carried > 0 {
            self.probes.hit("time: carried to a new leader by heartbeats");
        }
        Ok(ClusterReport {
            steps: self.steps,
            simulated_ms: self.now_ns / MS,
            commands: self.truth.commands(),
            reads: self.reads,
            entries: self.truth.applied().0,
            restarts: self.restarts,
            elections: self.safety.elections(),
            images_hash: images,
            frames_hash: self.frames_hash,
            answers_hash: self.truth.answers_hash,
            digest: self.truth.machine().digest(),
            probes: self.probes,
        })
    }

    /// The first node begins the cluster, the others join it.
    fn form(&mut self, at: &std::cell::Cell<u64>) -> Check {
        let nodes: Vec<NodeId> = self.servers.keys().copied().collect();
        for node in &nodes {
            self.start(*node)?;
        }
        let cluster = ClusterId(self.random.next() | 1);
        let mut refused = None;
        self.call(nodes[0], |process, _| {
            refused = process.init_cluster(cluster, "node-1".into()).err();
        })?;
        ensure!(refused.is_none(), "a cluster cannot be begun: {refused:?}");
        let deadline = self.now_ns + 60_000 * MS;
        loop {
            at.set(self.steps);
            self.next()?;
            let voters = self.members().iter().filter(|m| m.role == (Role::Voter {})).count();
            if voters == nodes.len() {
                return Ok(());
            }
            ensure!(self.now_ns < deadline, "after a minute {voters} of {} nodes have joined", nodes.len());
            let missing = nodes.iter().find(|node| !self.members().iter().any(|m| m.node == **node));
            if let (None, Some(node)) = (self.changing, missing) {
                let leads = self.leader();
                if leads.is_some() {
                    self.learn(*node, true)?;
                }
            }
        }
    }

    pub(crate) fn after_ns(&mut self, ns: u64, event: Event) {
        self.at(self.now_ns + ns, event);
    }

    pub(crate) fn at(&mut self, at_ns: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((at_ns.max(self.now_ns), self.next_event), event);
    }

    fn next(&mut self) -> Check {
        let ((at_ns, _), event) = self.events.pop_first().ok_or("nothing will ever happen again")?;
        self.now_ns = self.now_ns.max(at_ns);
        self.steps += 1;
        if let Some(until) = self.paused(&event) {
            let later = until + self.random.below(MS);
            self.at(later, event);
            return Ok(());
        }
        if self.options.trace {
            eprintln!("{:>12} us {event:?}", self.now_ns / 1000);
        }
        self.handle(event)?;
        if self.now_ns > self.compared_ns + 700 * MS {
            self.compared_ns = self.now_ns;
            self.compare()?;
        }
        Ok(())
    }

    /// Until when the process that an event is for stands still.
    fn paused(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Turn(node)
            | Event::Look(node, _)
            | Event::Deliver(_, node, _)
            | Event::RunJob(node, _)
            | Event::DoneJob(node, _)
            | Event::RunWork(node, _)
            | Event::DoneWork(node, _)
            | Event::Copy(node, _)
            | Event::Redial(node, _) => node,
            _ => return None,
        };
        self.servers.get(node).map(|server| server.paused_until).filter(|until| *until > self.now_ns)
    }

    fn handle(&mut self, event: Event) -> Check {
        match event {
            Event::Turn(node) => self.turn(node),
            Event::Look(node, life) => self.look(node, life),
            Event::Deliver(from, to, number) => self.deliver(from, to, number),
            Event::Redial(from, to) => self.redial(from, to),
            Event::RunJob(node, life) => self.run_job(node, life),
            Event::DoneJob(node, life) => self.done_job(node, life),
            Event::RunWork(node, life) => self.run_work(node, life),
            Event::DoneWork(node, life) => self.done_work(node, life),
            Event::Copy(node, life) => self.copy(node, life),
            Event::Restart(node) => self.restart(node),
            Event::Act(seat) => self.act(seat),
            Event::Fault => {
                if !self.healing {
                    let pause = self.trouble_ns / 2 + self.random.below(self.trouble_ns);
                    self.after_ns(pause, Event::Fault);
                    self.fault()?;
                }
                Ok(())
            }
            Event::Uncut(from, to) => {
                self.network.link(from, to).cut = false;
                Ok(())
            }
            Event::Unstall(from, to, breaks) => self.unstall(from, to, breaks),
            Event::Unslow(node) => {
                self.unslow(node);
                Ok(())
            }
            Event::Unskew(node) => {
                // Healing sets all clocks right at once, and then one wrong again.
                if let Some(server) = self.servers.get_mut(&node).filter(|_| !self.healing) {
                    server.skew_ms = 0;
                }
                Ok(())
            }
            Event::Retire(node) => {
                // That the change was begun does not say that it is done: a leader may lose it with its office.
                if self.members().iter().any(|member| member.node == node) {
                    return Ok(());
                }
                self.retire(node)
            }
        }
    }

    // A node and what follows each call to it.

    /// One call into a node, and everything that follows it.
    pub(crate) fn call(&mut self, node: NodeId, act: impl FnOnce(&mut Process, Instant)) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let instant = server.instant(self.now_ns);
        self.truth.wall_max = self.truth.wall_max.max(WallTime(instant.wall_ms));
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        let before = process.engine().last();
        act(process, instant);
        self.observe(node, before)?;
        self.after(node)
    }

    /// Holds consensus to its own promises.
    fn observe(&mut self, node: NodeId, before: LogIndex) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(process) = server.process.as_ref() else { return Ok(()) };
        if process.engine().as_replica().is_some_and(|raft| raft.members().is_joint()) {
            self.probes.hit("members: seen in a joint change");
        }
        let standing = process.engine().standing();
        if !standing.leads {
            server.ordered = None;
            return Ok(());
        }
        let term = standing.term;
        let last = process.engine().last();
        if self.safety.leads(node, term)? {
            self.probes.hit("election: won");
            let needed = self.truth.last_before(term);
            ensure!(
                last >= needed,
                "node {node} leads term {term} with {last} entries, {needed} were committed in earlier terms"
            );
            let log = process.engine().log().reader();
            if let (Some(told), Ok(found)) = (self.truth.told(needed), log.term(Index(needed.0))) {
                ensure!(
                    told.term.0 == found.0,
                    "node {node} leads term {term}: its entry {needed} is of term {}, committed was one of term {}",
                    found.0,
                    told.term
                );
            }
            let heard = log.term(Index(before.0)).ok().and_then(|last_term| {
                let term = Term(last_term.0);
                server.heard.get(&term).map(|at| (term, *at))
            });
            self.safety.won(term, self.now_ns, &self.truth, heard);
            server.beat_ns = self.now_ns;
        }
        let from = server.ordered.filter(|(of, _)| *of == term).map_or(before, |(_, last)| last);
        self.safety.orders(term, from, last, self.now_ns);
        server.ordered = Some((term, last));
        Ok(())
    }

    /// What follows a call: crashes are noticed, the history is followed, frames and answers leave, I/O is begun.
    fn after(&mut self, node: NodeId) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        if server.disk.crashed() {
            return self.die(node, true);
        }
        if let Some(why) = process.stopped() {
            let why = why.to_string();
            ensure!(server.failing, "node {node} has stopped, on a sound disk: {why}");
            self.probes.hit("disk: a write or sync fails, the node stops");
            let power = self.durability == Durability::Always && self.random.chance(2);
            return self.die(node, power);
        }
        let (log, from) = (process.engine().log().reader(), server.followed);
        let fresh = self
            .truth
            .follow(process.machine(), &log, from, &mut self.probes)
            .map_err(|why| format!("node {node}: {why}"))?;
        server.followed = process.machine().applied();
        let told: Vec<Told> = process.take_published().map(|told| (told.channel, told.message)).collect();
        let wanted: Vec<&Told> = self.truth.messages(from, server.followed).collect();
        ensure!(
            told.iter().eq(wanted.iter().copied()),
            "node {node} told subscribers {told:?} of the entries after {from}, the log says {wanted:?}"
        );
        for fresh in fresh {
            self.safety.committed(&fresh)?;
        }
        let (frames, replies): (Vec<_>, Vec<_>) = (process.take_frames(), process.take_replies().collect());
        for note in process.take_replica_notes() {
            self.noted(node, &note);
        }
        for (to, bytes) in frames {
            self.send(node, to, bytes)?;
        }
        self.answer(node, replies)?;
        self.begin_io(node)?;
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        if process.has_arrivals() {
            let soon = self.now_ns + self.random.below(MS / 2);
            self.want_turn(node, soon);
        }
        let Some(server) = self.servers.get(&node) else { return Ok(()) };
        if server.is_idle() && server.process.as_ref().is_some_and(|process| process.wants_reopening()) {
            return self.reopen(node);
        }
        Ok(())
    }

    fn noted(&mut self, node: NodeId, note: &str) {
        if self.options.trace {
            eprintln!("             node {node}: {note}");
        }
        if note.contains("votes again") {
            self.probes.hit("recovery: caught up and votes again");
        } else if note.contains("hands leadership over") {
            self.probes.hit("clock: a wrong wall clock gives leadership up");
        }
    }

    fn begin_io(&mut self, node: NodeId) -> Check {
        loop {
            let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
            if server.jobs.len() + server.jobs_done.len() >= self.jobs_max {
                return Ok(());
            }
            let Some(process) = server.process.as_mut() else { return Ok(()) };
            let Some(job) = process.take_job() else { return Ok(()) };
            self.begin_job(node, job);
        }
    }

    fn begin_job(&mut self, node: NodeId, job: quorate_engine::Job) {
        let most = if self.random.chance(20) { 20 * MS } else { MS };
        let latency = 30_000 + self.random.below(most);
        let Some(server) = self.servers.get_mut(&node) else { return };
        let Some(process) = server.process.as_ref() else { return };
        let promise = process
            .identity()
            .map(|identity| (identity.term, identity.vote, identity.recovering))
            .unwrap_or_default();
        server.promises.push_back(promise);
        server.jobs.push_back(job);
        let at = server.disk_free_ns.max(self.now_ns) + latency * server.slowness;
        server.disk_free_ns = at;
        let life = server.life;
        self.at(at, Event::RunJob(node, life));
    }

    fn run_job(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get_mut(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(job) = server.jobs.pop_front() else { return Ok(()) };
        server.jobs_done.push_back(job.run());
        if server.disk.crashed() {
            return self.die(node, true);
        }
        // Completions keep their order: a job is done before the next one ends.
        let at = self.now_ns + 1000;
        self.at(at, Event::DoneJob(node, life));
        Ok(())
    }

    fn done_job(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get_mut(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(done) = server.jobs_done.pop_front() else { return Ok(()) };
        if let (Some(promise), true) = (server.promises.pop_front(), done.is_ok()) {
            server.durable = promise;
        }
        // A failure has answered everybody; `after` sees it.
        self.call(node, |process, _| drop(process.complete(done)))
    }

    fn run_work(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get_mut(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(work) = server.works.pop_front() else { return Ok(()) };
        server.works_done.push_back(work.run());
        if server.disk.crashed() {
            return self.die(node, true);
        }
        let pause = self.random.below(3 * MS);
        self.after_ns(pause, Event::DoneWork(node, life));
        Ok(())
    }

    fn done_work(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get_mut(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(done) = server.works_done.pop_front() else { return Ok(()) };
        self.call(node, |process, _| drop(process.work_done(done)))
    }

    pub(crate) fn want_turn(&mut self, node: NodeId, at_ns: u64) {
        let Some(server) = self.servers.get_mut(&node) else { return };
        if at_ns < server.turn_at {
            server.turn_at = at_ns;
            self.at(at_ns, Event::Turn(node));
        }
    }

    fn turn(&mut self, node: NodeId) -> Check {
        let leap = self.options.plant == Some(ClusterPlant::ClockLeaps) && self.random.chance(40);
        let seed = self.random.next();
        let pulse = self.random.chance(2);
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        // A turn that was wanted earlier has come since; or the pause has moved this one.
        if server.turn_at > self.now_ns || server.process.is_none() {
            return Ok(());
        }
        server.turn_at = u64::MAX;
        let standing = server.process.as_ref().map(|process| process.engine().standing()).unwrap_or_default();
        if leap && standing.leads {
            server.origin_ns += 300 * MS;
        }
        let gap = self.now_ns - server.beat_ns;
        server.beat_ns = self.now_ns;
        if standing.leads {
            self.safety.beats(standing.term, self.now_ns, gap);
            server.heard.insert(standing.term, self.now_ns);
        }
        let busy = !server.jobs.is_empty() || !server.jobs_done.is_empty();
        self.call(node, |process, now| {
            // A failure has answered everybody; `after` sees it.
            let _ = if busy && pulse { process.pulse(now) } else { process.turn(now, seed) };
        })?;
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(process) = server.process.as_ref() else { return Ok(()) };
        let wake = process.next_wake(server.instant(self.now_ns)).unwrap_or(25 * MS).min(25 * MS);
        let next = self.now_ns + wake.max(MS / 5) + self.random.below(MS);
        self.want_turn(node, next);
        Ok(())
    }

    /// What the runtime does now and then: dials, slow work, copies, syncs.
    fn look(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get_mut(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        // That it has caught up counts once it is on disk.
        server.lossy &= server.durable.2 || server.armed;
        let members: Vec<NodeId> = process.members().iter().map(|member| member.node).collect();
        let wants_copy = process.copy_wanted().is_some() && !process.wants_reopening();
        let idle = server.jobs.is_empty() && server.jobs_done.is_empty();
        let work = if server.works.is_empty() && server.works_done.is_empty() && !process.wants_reopening() {
            process.take_work()
        } else {
            None
        };
        let (sync, mark) =
            (self.durability == Durability::Interval && self.random.chance(8), self.random.chance(16));
        let job = match () {
            () if idle && sync => process.take_sync_job(),
            () if idle && mark => process.take_mark_job(),
            () => None,
        };
        let begins_copy = wants_copy && server.copying.is_none();
        if let Some(work) = work {
            server.works.push_back(work);
            let slowness = server.slowness;
            let pause = self.random.below(4 * MS) * slowness;
            self.after_ns(pause, Event::RunWork(node, life));
        }
        if let Some(job) = job {
            self.begin_job(node, job);
        }
        // Who it is is about to change, and is said once, at the beginning of a link.
        if !self.server_reopens(node) {
            self.dial(node, &members);
        }
        if matches!(self.options.plant, Some(ClusterPlant::ForgottenVote | ClusterPlant::TailDropped)) {
            self.remember(node);
        }
        if begins_copy {
            self.begin_copy(node)?;
        }
        let pause = (10 + self.random.below(40)) * MS;
        self.after_ns(pause, Event::Look(node, life));
        Ok(())
    }

    // The network.

    fn dial(&mut self, node: NodeId, members: &[NodeId]) {
        let known: Vec<NodeId> =
            self.network.links.keys().filter(|(from, _)| *from == node).map(|(_, to)| *to).collect();
        for to in known {
            let link = self.network.link(node, to);
            if link.up && !members.contains(&to) {
                link.end();
            }
        }
        for to in members.iter().filter(|to| **to != node) {
            let link = self.network.link(node, *to);
            if !link.up && link.redial_at.is_none() {
                let at = self.now_ns + MS + self.random.below(30 * MS);
                self.network.link(node, *to).redial_at = Some(at);
                self.at(at, Event::Redial(node, *to));
            }
        }
    }

    /// Dials, as the links of production do: both ends look at who the other is.
    fn redial(&mut self, from: NodeId, to: NodeId) -> Check {
        let link = self.network.link(from, to);
        link.redial_at = None;
        if link.up || link.cut || link.stalled {
            return Ok(());
        }
        let (Some(caller), Some(called)) = (self.servers.get(&from), self.servers.get(&to)) else {
            return Ok(());
        };
        let paused = called.paused_until > self.now_ns;
        let (Some(caller), Some(called)) = (&caller.process, &called.process) else { return Ok(()) };
        if paused || !welcomes(called, caller, from) || !welcomes(caller, called, to) {
            return Ok(());
        }
        let cluster =
            |process: &Process| process.identity().map(|identity| identity.cluster).unwrap_or_default();
        let (ours, stranger) = (cluster(caller), cluster(called) == ClusterId::ZERO);
        let link = self.network.link(from, to);
        link.up = true;
        link.number += 1;
        link.cluster = ours;
        link.frames.clear();
        if link.number > 1 {
            self.probes.hit("link: stands anew");
        }
        self.call(from, |process, _| process.peer_up(to, stranger))
    }

    /// A connection ends, with everything on its way.
    pub(crate) fn break_link(&mut self, from: NodeId, to: NodeId) -> Check {
        let link = self.network.link(from, to);
        if !link.up {
            return Ok(());
        }
        link.end();
        self.call(from, |process, _| process.peer_down(to))
    }

    fn unstall(&mut self, from: NodeId, to: NodeId, breaks: bool) -> Check {
        let link = self.network.link(from, to);
        link.stalled = false;
        if breaks {
            return self.break_link(from, to);
        }
        let number = link.number;
        self.at(self.now_ns, Event::Deliver(from, to, number));
        Ok(())
    }

    fn unslow(&mut self, node: NodeId) {
        if let Some(server) = self.servers.get_mut(&node) {
            server.slowness = 1;
        }
        for ((from, to), link) in &mut self.network.links {
            if *from == node || *to == node {
                link.slowness = 0;
            }
        }
    }

    /// A frame leaves a node: what it promises is noted.
    fn send(&mut self, from: NodeId, to: NodeId, bytes: Bytes) -> Check {
        let parts = frame::parts(&bytes)
            .map_err(|error| format!("a frame of node {from} cannot be read: {error}"))?;
        let mut tells_time = false;
        let mut changes = Vec::new();
        for part in &parts {
            let message = match part {
                Part::Consensus(message) => message,
                Part::Forward => {
                    self.probes.hit("forward: a batch sent to the leader");
                    continue;
                }
                Part::Ping { life_at } => {
                    if self.options.plant == Some(ClusterPlant::RestartUnnoticed) {
                        changes.push((life_at.clone(), frame::number(7)));
                    }
                    continue;
                }
                Part::Other => continue,
            };
            if self.options.trace {
                let frame::Consensus { kind, term, index, reject, .. } = message;
                eprintln!(
                    "             {from} -> {to}: kind {kind} term {term} index {index} reject {reject}"
                );
            }
            match message.kind {
                frame::VOTE => self.safety.votes(from, message.term, from.0)?,
                frame::VOTE_RESPONSE if !message.reject => {
                    self.safety.votes(from, message.term, message.to)?
                }
                frame::PRE_VOTE => self.probes.hit("election: a pre-vote asked for"),
                frame::PRE_VOTE_RESPONSE if message.reject => self.probes.hit("election: a pre-vote refused"),
                frame::APPEND_RESPONSE if message.reject => self.probes.hit("log: an append refused"),
                frame::TIMEOUT_NOW => self.probes.hit("transfer: the successor is told to campaign"),
                frame::APPEND | frame::HEARTBEAT => {
                    tells_time = true;
                    match self.options.plant {
                        Some(ClusterPlant::TimeRestarts) => {
                            changes.push((message.time_at.clone(), frame::number(0)));
                        }
                        Some(ClusterPlant::Misapplied) if to == NodeId(2) => {
                            changes.extend(message.bodies.iter().filter_map(|body| misapplied(&bytes, body)));
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
            let forged =
                self.options.plant == Some(ClusterPlant::ForgedAck)
                    && self.servers.get(&to).and_then(|server| server.process.as_ref()).is_some_and(
                        |process| message.index > 0 && message.index < process.engine().last().0,
                    );
            if forged && message.kind == frame::APPEND_RESPONSE && !message.reject {
                changes.push((message.index_at.clone(), frame::number(message.index + 1)));
            }
        }
        let bytes = if changes.is_empty() { bytes } else { frame::spliced(&bytes, changes) };
        let mut hashed = [from.0.to_le_bytes(), to.0.to_le_bytes(), self.frames_hash.to_le_bytes()].concat();
        hashed.extend_from_slice(&bytes);
        self.frames_hash = xxhash_rust::xxh3::xxh3_64(&hashed);
        let office = self.servers.get(&from).and_then(|server| {
            let standing = server.process.as_ref()?.engine().standing();
            (standing.leads && tells_time).then_some((standing.term, server.beat_ns))
        });
        self.put(from, to, bytes, office);
        Ok(())
    }

    fn put(&mut self, from: NodeId, to: NodeId, bytes: Bytes, office: Option<(Term, u64)>) {
        let jitter = 30_000 + self.random.below(400_000);
        let link = self.network.link(from, to);
        if !link.up {
            return;
        }
        let at = self.now_ns + jitter * (1 + link.slowness);
        let (at, number) = (link.send(at, bytes, office), link.number);
        self.at(at, Event::Deliver(from, to, number));
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, number: u64) -> Check {
        loop {
            let now_ns = self.now_ns;
            let link = self.network.link(from, to);
            let due = link.frames.front().is_some_and(|sent| sent.at_ns <= now_ns);
            if !link.up || link.number != number || link.stalled || !due {
                return Ok(());
            }
            let Some(sent) = link.frames.pop_front() else { return Ok(()) };
            let named = link.cluster;
            let ours = self.servers.get(&to).and_then(|server| server.process.as_ref()?.identity());
            let ours = ours.map(|identity| identity.cluster).unwrap_or_default();
            if ours != ClusterId::ZERO && named != ours {
                continue;
            }
            // A failure has answered everybody; `after` sees it.
            self.call(to, |process, now| drop(process.receive(from, &sent.bytes, now)))?;
            let Some(server) = self.servers.get_mut(&to) else { return Ok(()) };
            let standing = server.process.as_ref().map(|process| process.engine().standing());
            if let (Some((term, at)), Some(standing)) = (sent.office, standing)
                && standing.term == term
                && standing.leader == Some(from)
            {
                server.heard.insert(term, at);
            }
        }
    }

    // Copies of a log.

    fn begin_copy(&mut self, node: NodeId) -> Check {
        let Some(wanted) = self.servers.get(&node).and_then(|server| server.process.as_ref()?.copy_wanted())
        else {
            return Ok(());
        };
        if !self.network.passes(node, wanted.from) {
            return Ok(());
        }
        let now_ns = self.now_ns;
        let Some(source) = self.servers.get(&wanted.from).filter(|source| source.paused_until <= now_ns)
        else {
            return Ok(());
        };
        let Some(Ok(export)) = source.process.as_ref().map(|process| process.engine().log().export()) else {
            return Ok(());
        };
        let (life, files) = (source.life, export.files().to_vec());
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(process) = server.process.as_mut() else { return Ok(()) };
        let import = process
            .staging()
            .map_err(|error| error.to_string())
            .and_then(|staging| Import::begin(staging, &files).map_err(|error| error.to_string()));
        match import {
            Ok(import) => {
                process.set_copying(true);
                let node_life = server.life;
                server.copying =
                    Some(Copying { wanted, life, export: Arc::new(export), import: Some(import) });
                self.probes.hit("copy: begun");
                self.after_ns(MS, Event::Copy(node, node_life));
                Ok(())
            }
            Err(_) if server.disk.crashed() => self.die(node, true),
            Err(_) if server.failing => Ok(()),
            Err(why) => Err(format!("node {node} cannot begin a copy: {why}")),
        }
    }

    /// One piece of a copy on its way, or its end.
    fn copy(&mut self, node: NodeId, life: u64) -> Check {
        let Some(server) = self.servers.get(&node).filter(|server| server.life == life) else {
            return Ok(());
        };
        let Some(copying) = &server.copying else { return Ok(()) };
        let source = self.servers.get(&copying.wanted.from);
        let there = source.is_some_and(|source| {
            source.life == copying.life && source.process.is_some() && source.paused_until <= self.now_ns
        });
        if !there || !self.network.passes(node, copying.wanted.from) {
            self.probes.hit("copy: broken off");
            return self.end_copy(node);
        }
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(copying) = server.copying.as_mut() else { return Ok(()) };
        let Some(mut import) = copying.import.take() else { return Ok(()) };
        let export = Arc::clone(&copying.export);
        let next = export.files().iter().enumerate().find(|(number, file)| import.have(*number) < file.bytes);
        let Some((number, _)) = next else { return self.finish_copy(node, import) };
        let offset = import.have(number);
        let moved = export
            .read(number, offset, PIECE_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|piece| import.write(number, offset, &piece).map_err(|error| error.to_string()));
        copying.import = Some(import);
        match moved {
            Ok(()) => {
                let pause = self.random.below(3 * MS);
                self.after_ns(pause, Event::Copy(node, life));
                Ok(())
            }
            Err(_) if server.disk.crashed() => self.die(node, true),
            // The disk at the other end, or an injected failure: begun again later.
            Err(_) => self.end_copy(node),
        }
    }

    fn end_copy(&mut self, node: NodeId) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        server.copying = None;
        self.call(node, |process, _| process.set_copying(false))
    }

    fn finish_copy(&mut self, node: NodeId, import: Import) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(copying) = server.copying.take() else { return Ok(()) };
        let last = match import.finish() {
            Ok(last) => last,
            Err(_) if server.disk.crashed() => return self.die(node, true),
            Err(_) if server.failing => return self.end_copy(node),
            Err(error) => return Err(format!("node {node} cannot finish a copy: {error}")),
        };
        ensure!(
            last == copying.export.last(),
            "a copy ends at {last}, offered was {}",
            copying.export.last()
        );
        let mut installed = Ok(false);
        self.call(node, |process, _| {
            installed = process.install(copying.wanted, LogIndex(last.0));
            process.set_copying(false);
        })?;
        match installed {
            Ok(true) => self.probes.hit("copy: installed"),
            Ok(false) => self.probes.hit("copy: out of date, not installed"),
            // The disk crashed or failed: the node has died of it, or tries again.
            Err(_) => {}
        }
        Ok(())
    }

    // Life and death.

    pub(crate) fn add_server(&mut self, node: NodeId) {
        let disk = quorate_log::SimDisk::new(self.random.next());
        let rate = RATE_MIN + self.random.below(RATE_MAX - RATE_MIN + 1);
        let origin = self.random.below(1 << 40);
        self.servers.insert(node, Server::new(node, disk, rate, origin, self.now_ns));
    }

    /// Starts a process on a machine.
    pub(crate) fn start(&mut self, node: NodeId) -> Check {
        for attempt in 0.. {
            let crash = !self.healing && self.restarts > 0 && attempt < 2 && self.random.chance(6);
            let crash = crash && self.may_lose(node);
            let at = self.random.below(16);
            let (life, hash_seed) = (self.random.next() | 1, self.random.next());
            let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
            if crash {
                // With little to recover it comes later, in the middle of something else.
                server.disk.crash_at(at);
                server.armed = true;
                server.lossy |= self.durability == Durability::Interval;
            }
            let replica = ReplicaConfig {
                node,
                life,
                boot: format!("boot-{}", server.boot),
                url: format!("http://node-{node}"),
            };
            let disk: Arc<dyn Disk> = if self.options.plant == Some(ClusterPlant::LyingSync) {
                let counts = Arc::new(Counts::default());
                Arc::new(Seam::new(server.disk.clone(), Some(Plant::LyingSync), counts, false))
            } else {
                Arc::new(server.disk.clone())
            };
            let opened = Process::open_replica(disk, self.config.clone(), replica, hash_seed, &mut |_, _| {});
            if server.disk.crashed() {
                drop(opened);
                self.probes.hit("restart: crash within recovery");
                self.cut_power(node, true);
                continue;
            }
            let (process, report) = match opened {
                Ok(opened) => opened,
                Err(error) => return Err(format!("node {node}: its folder is refused: {error}")),
            };
            self.opened(node, life, process, &report.notes)?;
            return Ok(());
        }
        unreachable!("an attempt without a fault ends the loop")
    }

    fn opened(&mut self, node: NodeId, life: u64, process: Process, notes: &[String]) -> Check {
        for note in notes {
            if self.options.trace {
                eprintln!("             node {node}: {note}");
            }
            if note.contains("is copied anew") {
                self.probes.hit("disk: a damaged log set aside");
            } else if note.contains("went down unexpectedly") {
                self.probes.hit("recovery: does not vote until caught up");
            }
        }
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let (term, vote, _) = server.durable;
        if let Some(identity) = process.identity() {
            let kept = identity.term > term
                || (identity.term == term && (vote == NodeId::ZERO || identity.vote == vote));
            ensure!(
                kept,
                "node {node} had voted for node {vote} in term {term} and synced it; it came back with {} in term {}",
                identity.vote,
                identity.term
            );
        }
        server.life = life;
        server.lives += 1;
        server.followed = process.machine().applied();
        server.beat_ns = self.now_ns;
        let recovering = process.engine().as_replica().is_some_and(|raft| raft.is_recovering());
        if let Some((name, offset, mask)) = server.flipped.take()
            && !notes.iter().any(|note| note.contains("is copied anew"))
            && server.disk.bytes(&name).is_some()
        {
            // Nothing that opening reads: a scrub finds it, which is not simulated.
            server.disk.flip(&name, offset, mask);
        }
        server.lossy |= recovering;
        server.durable.2 = recovering;
        server.process = Some(Box::new(process));
        let soon = self.random.below(2 * MS);
        self.after_ns(soon, Event::Look(node, life));
        let at = self.now_ns + self.random.below(5 * MS);
        self.want_turn(node, at);
        Ok(())
    }

    /// The folder is opened anew by the same process: its log or its cluster is another one now.
    fn reopen(&mut self, node: NodeId) -> Check {
        let breaks = self.random.chance(2);
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let Some(mut old) = server.process.take() else { return Ok(()) };
        old.stop("the folder is opened anew");
        let replies: Vec<(OpId, Reply)> = old.take_replies().collect();
        drop(old);
        server.forget_process();
        self.answer(node, replies)?;
        self.lose_flights(node);
        // Its own links begin with who it is, and that has changed; those of others may go on.
        match breaks {
            true => self.end_links(node)?,
            false => self.network.leaves(node),
        }
        self.start(node)
    }

    fn server_reopens(&self, node: NodeId) -> bool {
        let process = self.servers.get(&node).and_then(|server| server.process.as_ref());
        process.is_some_and(|process| process.wants_reopening())
    }

    fn end_links(&mut self, node: NodeId) -> Check {
        for (from, to) in self.network.gone(node) {
            if from != node {
                self.call(from, |process, _| process.peer_down(to))?;
            }
        }
        Ok(())
    }

    /// A process dies, with its machine's power or alone.
    pub(crate) fn die(&mut self, node: NodeId, power: bool) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        if server.process.is_none() {
            return Ok(());
        }
        if self.options.trace {
            eprintln!("             node {node} dies, power {power}");
        }
        self.restarts += 1;
        server.forget_process();
        server.failing = false;
        server.paused_until = 0;
        self.cut_power(node, power);
        self.lose_flights(node);
        self.end_links(node)?;
        let pause = match self.random.below(4) {
            0 => self.random.below(20 * MS),
            1 | 2 => self.random.below(600 * MS),
            _ => self.random.below(3_000 * MS),
        };
        let pause = if self.healing { self.random.below(20 * MS) } else { pause };
        self.after_ns(pause, Event::Restart(node));
        Ok(())
    }

    fn cut_power(&mut self, node: NodeId, power: bool) {
        let origin = self.random.below(1 << 40);
        let Some(server) = self.servers.get_mut(&node) else { return };
        server.armed = false;
        if power {
            self.probes.hit("restart: power loss");
            server.disk.power_loss();
            if self.options.plant != Some(ClusterPlant::RebootUnnoticed) {
                server.boot += 1;
            }
            server.lossy |= self.durability == Durability::Interval;
            (server.origin_ns, server.booted_ns) = (origin, self.now_ns);
        } else {
            self.probes.hit("restart: process killed");
            server.disk.process_kill();
        }
    }

    fn restart(&mut self, node: NodeId) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        if server.process.is_some() || server.retired {
            return Ok(());
        }
        self.spoil(node);
        self.start(node)
    }

    pub(crate) fn retire(&mut self, node: NodeId) -> Check {
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        server.retired = true;
        server.forget_process();
        self.lose_flights(node);
        self.end_links(node)
    }

    /// Nobody will ever know what became of what a dead process had taken.
    fn lose_flights(&mut self, node: NodeId) {
        let lost: Vec<OpId> =
            self.flights.iter().filter(|(_, (at, _))| *at == node).map(|(op, _)| *op).collect();
        for op in lost {
            let Some((_, flight)) = self.flights.remove(&op) else { continue };
            self.unknown(op, flight);
        }
    }

    fn unknown(&mut self, op: OpId, flight: Flight) {
        match flight {
            Flight::Command { client, command, .. } => {
                let seat = &mut self.seats[client];
                if seat.client.busy.as_ref().is_some_and(|(busy, _)| *busy == op) {
                    seat.client.busy = None;
                    seat.client.lost();
                }
                if self.options.plant == Some(ClusterPlant::SentTwice) {
                    self.again.push((op, command));
                }
            }
            Flight::Read { .. } => {}
            Flight::Admin { .. } => self.changing = None,
        }
    }

    // The clients.

    fn act(&mut self, number: usize) -> Check {
        if self.healing && self.seats[number].client.finished {
            return Ok(());
        }
        let pause = self.pace_ns / 2 + self.random.below(self.pace_ns);
        let pause = if self.healing { pause.max(20 * MS) } else { pause };
        self.after_ns(pause, Event::Act(number));
        let others: Vec<NodeId> = self.members().iter().map(|member| member.node).collect();
        let seat = &mut self.seats[number];
        if let Some((busy, _)) = seat.client.busy
            && self.now_ns > seat.since_ns + CLIENT_NS
        {
            self.probes.hit("client: gave a proposal up");
            seat.client.busy = None;
            seat.client.lost();
            if let (true, Some((_, Flight::Command { command, .. }))) =
                (self.options.plant == Some(ClusterPlant::SentTwice), self.flights.get(&busy))
            {
                self.again.push((busy, command.clone()));
            }
            self.move_on(number, &others);
        }
        let node = self.seats[number].node;
        let reachable = self.servers.get(&node).is_some_and(|server| {
            server.process.is_some() && server.paused_until <= self.now_ns && others.contains(&node)
        });
        if !reachable {
            self.move_on(number, &others);
            return Ok(());
        }
        if let Some((op, command)) = self.again.pop() {
            return self.call(node, |process, _| drop(process.propose(command, op)));
        }
        if self.random.chance(4) || (self.healing && self.random.chance(2)) {
            return self.read(node);
        }
        let (healing, scenario) = (self.healing, self.options.scenario);
        let (time, wall) =
            (LogTime(self.now_ns * 11 / 10), WallTime(super::server::EPOCH_MS + self.now_ns / MS));
        let seat = &mut self.seats[number];
        let Some(process) = self.servers.get(&node).and_then(|server| server.process.as_deref()) else {
            return Ok(());
        };
        let view = View { machine: process.machine(), time, wall, keyless: false };
        let wanted = if healing {
            seat.client.conclude(&view)
        } else {
            Some(seat.client.act(scenario, &mut self.random, &view))
        };
        match wanted {
            None => Ok(()),
            Some((body, principal, hope)) => self.propose(number, node, body, principal, hope),
        }
    }

    fn move_on(&mut self, number: usize, members: &[NodeId]) {
        if let Some(node) = self.random.pick(members) {
            self.seats[number].node = *node;
        }
    }

    fn propose(
        &mut self,
        number: usize,
        node: NodeId,
        body: CommandBody,
        principal: Principal,
        hope: Hope,
    ) -> Check {
        let op = self.next_op;
        self.next_op += 1;
        let sent = command(op, principal, body);
        let told_refused = self.options.plant == Some(ClusterPlant::RefusedYetSent) && self.random.chance(60);
        let mut proposed = Ok(());
        let (now, wired) = (self.now_ns, sent.clone());
        // What arrives is known before anything can come of it.
        self.truth.sent(op, sent.clone());
        self.flights
            .insert(op, (node, Flight::Command { client: number, hope: hope.clone(), command: sent }));
        self.call(node, |process, _| proposed = process.propose(wired, op).map_err(|(_, refused)| refused))?;
        let seat = &mut self.seats[number];
        match proposed {
            Ok(()) => {
                if !matches!(hope, Hope::Nothing) && self.flights.contains_key(&op) {
                    seat.client.busy = Some((op, hope));
                    seat.since_ns = now;
                }
                if told_refused {
                    let why = Refused::NoLeader { why: "a planted bug says so".into() };
                    return self.truth.answered(op, &Reply::Refused(why));
                }
            }
            Err(refused) => {
                self.flights.remove(&op);
                seat.client.not_admitted(&hope);
                match &refused {
                    Refused::Overloaded { .. } | Refused::Full { .. } | Refused::Stopped { .. } => {}
                    Refused::NoLeader { .. } => {
                        self.probes.hit("client: refused, there is no leader");
                        let members: Vec<NodeId> = self.members().iter().map(|member| member.node).collect();
                        self.move_on(number, &members);
                    }
                    Refused::Invalid(why) => return Err(format!("a client's command is invalid: {why}")),
                }
                return self.truth.answered(op, &Reply::Refused(refused));
            }
        }
        Ok(())
    }

    fn read(&mut self, node: NodeId) -> Check {
        let op = self.next_op;
        self.next_op += 1;
        let floor = self.truth.applied();
        let newest = self.leader();
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let instant = server.instant(self.now_ns);
        let Some(process) = server.process.as_ref() else { return Ok(()) };
        ensure!(
            process.read_barrier(instant) == ReadBarrier::Quorum,
            "a replica would read without its quorum"
        );
        let leads = process.engine().standing().leads;
        let unasked = match self.options.plant {
            Some(ClusterPlant::StaleRead) => leads,
            Some(ClusterPlant::FollowerRead) => !leads,
            _ => false,
        };
        let (at_ns, elections) = (self.now_ns, self.safety.elections());
        // One that was deposed and has not heard of it goes by a clock that is nobody's any more.
        let times = if newest == Some(node) { process.times(instant) } else { Times::default() };
        let asked = Asked { at_ns, times, elections };
        self.flights.insert(op, (node, Flight::Read { floor, asked }));
        if unasked {
            return self.answer(node, vec![(op, Reply::MayRead)]);
        }
        self.call(node, |process, _| process.request_read(op))
    }

    /// Answers on their way to the clients, each held against the history.
    fn answer(&mut self, node: NodeId, mut replies: Vec<(OpId, Reply)>) -> Check {
        if self.options.plant == Some(ClusterPlant::SwappedAnswers)
            && replies.len() > 1
            && matches!((&replies[0].1, &replies[1].1), (Reply::Outcome(_), Reply::Outcome(_)))
        {
            let first = replies[0].0;
            replies[0].0 = replies[1].0;
            replies[1].0 = first;
        }
        for (op, reply) in replies {
            if self.options.trace {
                eprintln!("             node {node} answers {op}: {reply:?}");
            }
            let Some((_, flight)) = self.flights.remove(&op) else { continue };
            match flight {
                Flight::Read { floor, asked } => self.may_read(node, floor, asked, &reply)?,
                Flight::Admin { removes, adds } => self.admin_done(removes, adds, &reply),
                Flight::Command { client, hope, command } => {
                    self.truth.answered(op, &reply)?;
                    let seat = &mut self.seats[client];
                    let waited = seat.client.busy.as_ref().is_some_and(|(busy, _)| *busy == op);
                    if waited {
                        seat.client.busy = None;
                    }
                    match &reply {
                        Reply::Outcome(outcome) if waited || matches!(hope, Hope::Nothing) => {
                            seat.client.answered(&hope, outcome, &mut self.random);
                        }
                        Reply::Refused(_) => {
                            self.probes.hit("client: refused after a wait, it did not happen");
                            seat.client.not_admitted(&hope);
                        }
                        Reply::Indeterminate => {
                            self.probes.hit("client: told that nobody knows");
                            if waited {
                                seat.client.lost();
                            }
                            if self.options.plant == Some(ClusterPlant::SentTwice) {
                                self.again.push((op, command));
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn may_read(&mut self, node: NodeId, floor: LogIndex, asked: Asked, reply: &Reply) -> Check {
        if *reply != Reply::MayRead {
            return Ok(());
        }
        let Some(server) = self.servers.get(&node) else { return Ok(()) };
        let Some(process) = server.process.as_ref() else { return Ok(()) };
        let times = process.times(server.instant(self.now_ns));
        let found = process.machine().applied();
        ensure!(
            found >= floor,
            "a read at node {node} was asked for after entry {floor} had been applied, and was answered from the state of entry {found}"
        );
        self.reads += 1;
        if !process.engine().standing().leads {
            self.probes.hit("read: answered by a follower");
        }
        self.deadlines_read(node, asked, times)
    }

    /// Reads the keys that have a deadline. One that a read has found gone is there for no read that is asked for afterwards, anywhere, unless
    /// it was written meanwhile, whoever leads. And none is there for a read that was asked for past its deadline, by the clock in office then.
    fn deadlines_read(&mut self, node: NodeId, asked: Asked, times: Times) -> Check {
        let process = self.servers.get(&node).and_then(|server| server.process.as_ref());
        let Some(process) = process.filter(|process| process.machine().applied() == self.truth.applied())
        else {
            return Ok(());
        };
        let same_office = asked.elections == self.safety.elections();
        let machine = process.machine();
        let last = Times { wall: machine.wall(), time: machine.log_time() };
        let calls = self.truth.model().calls();
        for (key, deadline, touched) in calls.known() {
            let Some(deadline) = deadline else { continue };
            calls.shows(machine, times, key).map_err(|why| format!("node {node}: {why}"))?;
            if passed(deadline, times) && !passed(deadline, last) {
                self.probes.hit("calls: a read past a deadline, before its entry");
            }
            let name = key.name.as_text().unwrap_or_default();
            let there =
                ask(machine, times, key.space, &["EXISTS", name])? == quorate_types::Reply::integer(1);
            if !there {
                self.lapsed.entry((key.clone(), touched)).or_insert((deadline, self.now_ns));
                continue;
            }
            ensure!(
                !same_office || !passed(deadline, asked.times),
                "node {node} shows {key} until {deadline:?} to a read that was asked for at {} / {}",
                asked.times.time,
                asked.times.wall
            );
            if let Some((first, at_ns)) = self.lapsed.get(&(key.clone(), touched))
                && *first == deadline
            {
                ensure!(
                    *at_ns > asked.at_ns,
                    "node {node} shows {key} until {first:?} again at log time {}, to a read asked for {} us after another had found it gone",
                    times.time,
                    (asked.at_ns - at_ns) / 1000
                );
            }
        }
        Ok(())
    }

    // Looking.

    /// The members, as whoever has applied most knows them.
    pub(crate) fn members(&self) -> Vec<Member> {
        let best = self
            .servers
            .values()
            .filter_map(|server| server.process.as_ref())
            .filter(|process| process.identity().is_some_and(|identity| identity.cluster != ClusterId::ZERO))
            .max_by_key(|process| process.machine().applied());
        let raft = best.and_then(|process| process.engine().as_replica());
        raft.map(|raft| raft.members().list()).unwrap_or_default()
    }

    /// The leader of the newest term that leads.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let standing = |server: &Server| server.process.as_ref().map(|process| process.engine().standing());
        let leading = self.servers.values().filter_map(|server| {
            let standing = standing(server).filter(|standing| standing.leads)?;
            Some((standing.term, server.node))
        });
        leading.max().map(|(_, node)| node)
    }

    fn compare(&mut self) -> Check {
        for server in self.servers.values() {
            let Some(process) = server.process.as_ref().filter(|_| !server.disk.crashed()) else { continue };
            self.truth
                .agrees(process.machine(), &process.engine().log().reader(), &mut self.probes)
                .map_err(|why| format!("node {}: {why}", server.node))?;
            if process.engine().log().first().0 > 1 {
                self.probes.hit("log: entries before the first whole one are gone");
            }
        }
        Ok(())
    }

    /// No more faults: everybody must get what is due to them, everywhere.
    fn heal(&mut self, at: &std::cell::Cell<u64>) -> Check {
        self.healing = true;
        let nodes: Vec<NodeId> = self.servers.keys().copied().collect();
        for node in &nodes {
            self.unslow(*node);
            let Some(server) = self.servers.get_mut(node) else { continue };
            server.paused_until = 0;
            server.skew_ms = 0;
            if !server.retired && server.process.is_none() {
                self.after_ns(MS, Event::Restart(*node));
            }
        }
        let pairs: Vec<(NodeId, NodeId)> = self.network.links.keys().copied().collect();
        for (from, to) in pairs {
            self.network.link(from, to).cut = false;
            if self.network.link(from, to).stalled {
                self.unstall(from, to, false)?;
            }
        }
        for seat in &mut self.seats {
            seat.client.finish();
        }
        let deadline = self.now_ns + HEAL_NS;
        let mut looked_ns = 0;
        loop {
            at.set(self.steps);
            self.next()?;
            if self.now_ns < looked_ns {
                continue;
            }
            looked_ns = self.now_ns + 250 * MS;
            self.retire_strangers()?;
            let Err(missing) = self.is_well() else { break };
            ensure!(self.now_ns < deadline, "two minutes after the last fault: {missing}");
        }
        queues(self.seats.iter().map(|seat| &seat.client), self.truth.model().calls())?;
        if self.random.chance(3) {
            self.set_a_clock_wrong(at)?;
        }
        self.serve_everywhere(at)?;
        self.compare()
    }

    /// Nodes that were removed stop for good: their operator does that.
    fn retire_strangers(&mut self) -> Check {
        let members: BTreeSet<NodeId> = self.members().iter().map(|member| member.node).collect();
        if self.leader().is_none() || self.changing.is_some() || members.is_empty() {
            return Ok(());
        }
        let strangers: Vec<NodeId> = self
            .servers
            .values()
            .filter(|server| !server.retired && !members.contains(&server.node))
            .map(|server| server.node)
            .collect();
        for node in strangers {
            self.retire(node)?;
        }
        // One that was thought to be removed, and had only not been admitted yet.
        for node in members {
            if let Some(server) = self.servers.get_mut(&node).filter(|server| server.retired) {
                server.retired = false;
                self.after_ns(MS, Event::Restart(node));
            }
        }
        Ok(())
    }

    fn is_well(&self) -> Check {
        self.is_at_peace().map_err(|why| {
            let mut text = why;
            for server in self.servers.values().filter(|server| !server.retired) {
                let Some(process) = &server.process else {
                    text += &format!("\n  node {}: down", server.node);
                    continue;
                };
                let status = process.cluster_status();
                let told = status.map(|s| (s.standing, s.committed, s.last, s.recovering, s.members.len()));
                let log = process.engine().log();
                let disk = (log.last().0, log.written().0, log.synced().0, log.buffered_bytes());
                let io = (server.jobs.len(), server.jobs_done.len(), server.works.len(), server.works_done.len());
                text += &format!(
                    "\n  node {}: applied {}, {told:?}; log (last, written, synced, buffered) {disk:?}, I/O {io:?}, first {}, snapshots {:?}, progress {:?}",
                    server.node,
                    process.machine().applied(),
                    log.first().0,
                    log.snapshots(),
                    process.engine().as_replica().map(|raft| raft.progress()),
                );
            }
            text
        })
    }

    fn is_at_peace(&self) -> Check {
        let unfinished = self.seats.iter().filter(|seat| !seat.client.finished).count();
        ensure!(unfinished == 0, "{unfinished} clients never got the answer to their last commit");
        let waiting = self.flights.len();
        ensure!(
            self.flights.values().all(|(_, flight)| matches!(flight, Flight::Read { .. })),
            "of {waiting} requests some were never answered: {:?}",
            self.flights
                .iter()
                .find(|(_, (_, f))| !matches!(f, Flight::Read { .. }))
                .map(|(op, (node, _))| (op, node))
        );
        let (tasks, leases) = self.truth.model().unfinished();
        ensure!((tasks, leases) == (0, 0), "{tasks} tasks and {leases} leases are left");
        let leader = self.leader();
        ensure!(leader.is_some(), "there is no leader");
        for member in self.members() {
            let process = self.servers.get(&member.node).and_then(|server| server.process.as_ref());
            let Some(process) = process else { return Err(format!("node {} is not up", member.node)) };
            let recovering = process.engine().as_replica().is_some_and(|raft| raft.is_recovering());
            ensure!(!recovering, "node {} has not caught up", member.node);
            let applied = process.machine().applied();
            ensure!(
                applied.0 + 8 >= self.truth.applied().0,
                "node {} has applied {applied} of {} entries; the leader is {leader:?}, it sees {:?}",
                member.node,
                self.truth.applied(),
                process.engine().standing()
            );
        }
        Ok(())
    }

    /// The leader's wall clock goes wrong by seconds: somebody else has to lead, and time stays right.
    fn set_a_clock_wrong(&mut self, at: &std::cell::Cell<u64>) -> Check {
        let voters = self.members().iter().filter(|member| member.role == (Role::Voter {})).count();
        let Some(node) = self.leader().filter(|_| voters >= 3) else { return Ok(()) };
        let ahead = self.random.chance(2);
        if let Some(server) = self.servers.get_mut(&node) {
            server.skew_ms = if ahead { 5_000 } else { -5_000 };
        }
        // One attempt may fail, and the next is made five seconds later.
        let until = self.now_ns + 12_000 * MS;
        while self.now_ns < until {
            at.set(self.steps);
            self.next()?;
        }
        ensure!(
            self.leader() != Some(node),
            "node {node} leads, twelve seconds after its wall clock went wrong by five"
        );
        if let Some(server) = self.servers.get_mut(&node) {
            server.skew_ms = 0;
        }
        Ok(())
    }

    /// At every member a write and a read are asked for, and must be answered; what is refused is asked for again, as a client would.
    fn serve_everywhere(&mut self, at: &std::cell::Cell<u64>) -> Check {
        let mut asked: BTreeMap<NodeId, (OpId, u64)> = BTreeMap::new();
        let deadline = self.now_ns + 10_000 * MS;
        loop {
            let members: Vec<NodeId> = self.members().iter().map(|member| member.node).collect();
            let served = |world: &Self, node: &NodeId| {
                let op = asked.get(node).map(|(op, _)| *op);
                op.is_some_and(|op| world.truth.outcome(op).is_some() && !world.flights.contains_key(&op))
            };
            let unserved: Vec<NodeId> = members.iter().filter(|node| !served(self, node)).copied().collect();
            let level = members.iter().all(|node| {
                let process = self.servers.get(node).and_then(|server| server.process.as_ref());
                process.is_some_and(|process| process.machine().applied() == self.truth.applied())
            });
            if unserved.is_empty() && level && self.flights.is_empty() {
                return Ok(());
            }
            ensure!(
                self.now_ns < deadline,
                "ten seconds after it was asked in peace: {unserved:?} have not answered a write, {} requests wait, all replicas equal: {level}",
                self.flights.len()
            );
            for node in unserved {
                let (op, tried_ns) = asked.get(&node).copied().unwrap_or_default();
                if self.now_ns < tried_ns + 300 * MS || self.flights.contains_key(&op) {
                    continue;
                }
                asked.insert(node, (self.next_op, self.now_ns));
                let key = quorate_types::Key::new(format!("last/{node}"));
                let lease = quorate_types::LeaseId::ZERO;
                let put = Op::Put { key, value: "x".into(), lease, prev: false };
                let body = CommandBody::Commit { commit: quorate_types::Commit::of(vec![put]) };
                self.propose(0, node, body, "last".into(), Hope::Nothing)?;
                self.read(node)?;
            }
            at.set(self.steps);
            self.next()?;
        }
    }
}

/// Whether `host` takes or keeps a connection with `peer`, by the rules of the runtime's links.
fn welcomes(host: &Process, peer: &Process, number: NodeId) -> bool {
    let (Some(ours), Some(theirs)) = (host.identity(), peer.identity()) else { return false };
    if ours.cluster == ClusterId::ZERO {
        return true;
    }
    if theirs.cluster != ClusterId::ZERO && theirs.cluster != ours.cluster {
        return false;
    }
    match host.members().into_iter().find(|member| member.node == number) {
        Some(member) => member.instance == theirs.instance,
        None => !host.engine().standing().leads && theirs.cluster != ClusterId::ZERO,
    }
}

/// One key in an entry becomes another one.
fn misapplied(bytes: &Bytes, body: &std::ops::Range<usize>) -> Option<(std::ops::Range<usize>, Vec<u8>)> {
    let at = bytes[body.clone()].windows(3).position(|window| window == b"k/1")?;
    let at = body.start + at;
    Some((at..at + 3, b"k/2".to_vec()))
}
