//! The driver: one node on one simulated disk, its clients, its clock and everything that goes wrong.
//!
//! Read [`run`] and `World::step` first. Each step is one event: a proposal, a turn, a part of an I/O job, a passage of time, a fault.
//! The order of steps is the latency of the disk: a job that is taken, run and completed far apart was slow.
//!
//! Invariant: the node under test is the production `Partition`; only its disk, its clock and its clients are made up.
//! Invariant: everything follows from the seed and the options.
//! Called by: the binary and the tests.

use crate::calls::FREE;
use crate::calls::model::{Calls, Told, ask, passed};
use crate::model::{Check, ensure};
use crate::oracle::{OpId, Oracle};
use crate::plant::{Counts, Plant, Seam};
use crate::probes::Probes;
use crate::random::Random;
use crate::workload::{Client, Hope, Scenario, View, command};
use quorate_calls::Session;
use quorate_engine::{Durability, Instant, Job, JobDone};
use quorate_log::{LogConfig, SimDisk};
use quorate_machine::{Machine, Times};
use quorate_node::{Config, Done, Partition, Refused, Reply, Work};
use quorate_types::{
    Command, CommandBody, FencingToken, Guard, Key, LogIndex, LogTime, Millis, Op, OpResult, Outcome,
    Revision, Settings, WallTime,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a run is about, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When commits are answered; by the seed when absent.
    pub durability: Option<Durability>,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// What the workload dwells on.
    pub scenario: Scenario,
    /// Tell every step on standard error.
    pub trace: bool,
}

/// What a run that found nothing has been through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events simulated, those of the healing at the end included.
    pub steps: u64,
    /// Commands in the log.
    pub commands: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Times the node was started again.
    pub restarts: u64,
    /// Rare paths reached.
    pub probes: Probes,
    /// Hash of every name and byte on the disk at the end.
    pub image_hash: u64,
    /// Digest of the state at the end.
    pub digest: u128,
    /// Hash of every answer, in order.
    pub answers_hash: u64,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The binary's subcommand, with a space after it; empty for a node alone.
    pub command: &'static str,
    /// The seed.
    pub seed: u64,
    /// Steps asked for.
    pub steps: u64,
    /// The step at which it was found.
    pub step: u64,
    /// What was found.
    pub what: String,
    /// The options that are not the default, as arguments.
    pub arguments: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, seed, steps, step, what, arguments } = self;
        writeln!(f, "seed {seed:#x}, step {step}: {what}")?;
        write!(
            f,
            "replay: cargo run --release -p quorate-sim -- {command}--seed {seed:#x} --steps {steps}{arguments}"
        )
    }
}
impl std::error::Error for Failure {}

/// Runs one seed for so many steps, then heals everything and demands progress.
///
/// # Errors
/// [`Failure`]: what was found, and the line that replays it. A panic below is a finding too.
pub fn run(seed: u64, steps: u64, options: Options) -> Result<Report, Failure> {
    let step = std::cell::Cell::new(0);
    let ran = caught(|| World::new(seed, options).run(steps, &step));
    ran.map_err(|what| Failure {
        command: "",
        seed,
        steps,
        step: step.get(),
        what,
        arguments: arguments(&options),
    })
}

/// Runs a world; a panic in it is a finding like any other.
pub(crate) fn caught<R>(run: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words");
        Err(format!("panic: {text}"))
    })
}

/// The name of a durability on the command line.
#[must_use]
pub fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Always => "always",
        Durability::Interval => "interval",
        Durability::None => "none",
    }
}

fn arguments(options: &Options) -> String {
    let mut text = String::new();
    if let Some(durability) = options.durability {
        text += &format!(" --durability {}", durability_name(durability));
    }
    if let Some(plant) = options.plant {
        text += &format!(" --plant {}", plant.name());
    }
    if options.scenario != Scenario::Mixed {
        text += &format!(" --scenario {}", options.scenario.name());
    }
    text
}

type Node = Partition<OpId>;

/// Something proposed and not answered.
struct Flight {
    client: usize,
    hope: Hope,
}

struct World {
    random: Random,
    options: Options,
    /// What clients are promised.
    durability: Durability,
    config: Config,
    disk: SimDisk,
    counts: Arc<Counts>,
    node: Option<Node>,
    jobs: VecDeque<Job>,
    jobs_done: VecDeque<JobDone>,
    works: VecDeque<Work>,
    works_done: VecDeque<Done>,
    now_ns: u64,
    /// Where this life's monotonic clock began, and its reading at the last turn.
    origin_ns: u64,
    ticked_ns: Option<u64>,
    turns: u64,
    skew_ms: u64,
    oracle: Oracle,
    clients: Vec<Client>,
    flights: BTreeMap<OpId, Flight>,
    next_op: OpId,
    /// What this life has told subscribers since the log was followed to `told_from`.
    told: Vec<Told>,
    told_from: LogIndex,
    /// Keys as they were last changed that a read has found gone.
    gone: BTreeSet<(Key, Revision)>,
    /// A full disk, until it is given room.
    squeezed: bool,
    /// The next byte that is written and not synced is to be flipped.
    flip_next: bool,
    /// A write or sync was told to fail.
    failing: Option<quorate_log::Op>,
    /// A power loss has cost answered commits, as it may.
    lossy: bool,
    healing: bool,
    restarts: u64,
    probes: Probes,
    steps: u64,
}

/// Wall time at the beginning: some day in 2023.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Steps between two looks at the log.
const FOLLOW: u64 = 24;
/// Steps between two comparisons of everything.
const COMPARE: u64 = 700;

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let by_seed = match random.below(4) {
            0 | 1 => Durability::Always,
            2 => Durability::Interval,
            _ => Durability::None,
        };
        let durability = options.durability.unwrap_or(by_seed);
        let scripts = random.chance(options.scenario.scripts_one_in());
        let clients =
            (0..random.between(4, 8)).map(|number| Client::new(number, scripts).transacting()).collect();
        let config = config(&mut random, durability, options.plant);
        Self {
            disk: SimDisk::new(random.next()),
            counts: Arc::new(Counts::default()),
            config,
            durability,
            options,
            node: None,
            jobs: VecDeque::new(),
            jobs_done: VecDeque::new(),
            works: VecDeque::new(),
            works_done: VecDeque::new(),
            now_ns: 0,
            origin_ns: 0,
            ticked_ns: None,
            turns: 0,
            skew_ms: 10_000_000,
            oracle: Oracle::new(options.plant),
            clients,
            flights: BTreeMap::new(),
            next_op: 1,
            told: Vec::new(),
            told_from: LogIndex::ZERO,
            gone: BTreeSet::new(),
            squeezed: false,
            flip_next: false,
            failing: None,
            lossy: false,
            healing: false,
            restarts: 0,
            probes: Probes::default(),
            steps: 0,
            random,
        }
    }

    fn run(mut self, steps: u64, at: &std::cell::Cell<u64>) -> Result<Report, String> {
        self.open(false)?;
        for step in 1..=steps {
            at.set(step);
            self.step()?;
        }
        self.heal(at)?;
        let node = self.node.take().expect("a healed world has its node");
        let digest = node.machine().digest();
        let entries = node.machine().applied().0;
        drop(node);
        Ok(Report {
            steps: self.steps,
            commands: self.oracle.commands(),
            entries,
            restarts: self.restarts,
            image_hash: self.disk.image_hash(),
            digest,
            answers_hash: self.oracle.answers_hash,
            probes: self.probes,
        })
    }

    fn step(&mut self) -> Check {
        self.steps += 1;
        match self.random.below(1000) {
            0..=379 => self.propose()?,
            380..=549 => self.turn()?,
            550..=769 => self.disk_step()?,
            770..=869 => self.work_step()?,
            870..=993 => self.pass_time(),
            _ if !self.healing => self.fault()?,
            _ => {}
        }
        self.afterwards()
    }

    /// What follows every step: answers are delivered, a dead node is started again, the history is followed.
    fn afterwards(&mut self) -> Check {
        self.deliver();
        if self.disk.crashed() {
            self.restart(true)?;
        } else if self.flip_next && self.disk.flip_unsynced() {
            self.flip_next = false;
            self.probes.hit("disk: unsynced byte flipped");
            self.restart(true)?;
        } else if self.node.as_ref().is_some_and(|node| node.stopped().is_some()) {
            self.stopped_why();
            let power_loss = self.random.chance(2);
            self.restart(power_loss)?;
        }
        if self.steps.is_multiple_of(FOLLOW) {
            self.follow()?;
            self.oracle.slice();
        }
        if self.steps.is_multiple_of(COMPARE) {
            self.compare()?;
        }
        Ok(())
    }

    // The life of a command.

    fn propose(&mut self) -> Check {
        if self.random.chance(24) {
            return self.read();
        }
        let number = self.random.below(self.clients.len() as u64) as usize;
        let Some(node) = &self.node else { return Ok(()) };
        let view = view(node, &self.oracle, self.options.plant);
        let (body, principal, hope) =
            self.clients[number].act(self.options.scenario, &mut self.random, &view);
        self.send(number, body, principal, hope)
    }

    fn send(
        &mut self,
        number: usize,
        body: CommandBody,
        principal: quorate_types::Principal,
        hope: Hope,
    ) -> Check {
        let Some(node) = &mut self.node else { return Ok(()) };
        let op = self.next_op;
        self.next_op += 1;
        let sent = command(op, principal, body);
        let mut wired = sent.clone();
        if self.options.plant == Some(Plant::TokenOffByOne) {
            off_by_one(&mut wired);
        }
        if self.options.trace {
            eprintln!("{:>6} client {number} proposes {op}: {:?}", self.steps, sent.body);
        }
        match node.propose(wired, op) {
            Ok(()) => {
                self.oracle.sent(op, sent);
                if !matches!(hope, Hope::Nothing) {
                    self.clients[number].busy = Some((op, hope.clone()));
                }
                self.flights.insert(op, Flight { client: number, hope });
            }
            Err((_, refused)) => {
                match refused {
                    Refused::Overloaded { .. } => self.probes.hit("overload refused"),
                    Refused::Full { .. } => self.probes.hit("disk: nearly full, growth refused"),
                    Refused::Stopped { .. } => {}
                    Refused::NoLeader { why } => {
                        return Err(format!("a node alone waits for a leader: {why}"));
                    }
                    Refused::Invalid(why) => return Err(format!("a client's command is invalid: {why}")),
                }
                self.clients[number].not_admitted(&hope);
            }
        }
        Ok(())
    }

    /// A client reads what calls have written: at once where nothing is due, and then nothing past its deadline may be there; what the state
    /// holds is read in any case, and must be what the last entry says, whatever the clock says meanwhile.
    fn read(&mut self) -> Check {
        self.follow()?;
        let Some(node) = self.node.as_ref().filter(|_| !self.disk.crashed()) else { return Ok(()) };
        let elapsed = self.ticked_ns.map_or(0, |ticked| self.now_ns - ticked).min(1_000_000_000);
        let wall_ms = self.wall_ms();
        let now = Instant { monotonic_ns: self.now_ns - self.origin_ns, wall_ms };
        let (times, overdue) = (node.times(now), node.overdue(now));
        if !matches!(self.options.plant, Some(Plant::ClockJump | Plant::StuckClock)) {
            let office = LogTime(self.oracle.office.0 + elapsed);
            ensure!(times.time == office, "a read was at log time {}, in office were {office}", times.time);
            let wall_max = self.oracle.wall_max.max(WallTime(wall_ms));
            let wall = WallTime(wall_ms)..=wall_max;
            ensure!(wall.contains(&times.wall), "a read was at wall time {}, not in {wall:?}", times.wall);
        }
        let calls = self.oracle.model().calls();
        let keys: Vec<_> = calls.known().collect();
        let last = Times { wall: node.machine().wall(), time: node.machine().log_time() };
        for _ in 0..3 {
            let Some((key, deadline, _)) = self.random.pick(&keys) else { break };
            calls.shows(node.machine(), times, key)?;
            if deadline.is_some_and(|deadline| passed(deadline, times) && !passed(deadline, last)) {
                ensure!(
                    overdue,
                    "{key} is past its deadline by the clock, and a read would not wait for an entry"
                );
                self.probes.hit("calls: a read past a deadline, before its entry");
            }
        }
        let by_clock = self.options.plant == Some(Plant::ReadByClock);
        for (key, deadline, touched) in &keys {
            let Some(deadline) = deadline else { continue };
            let name = key.name.as_text().unwrap_or_default();
            let there =
                ask(node.machine(), times, key.space, &["EXISTS", name])? == quorate_types::Reply::integer(1);
            let this = ((*key).clone(), *touched);
            // Under the other durabilities a power loss may take back what a read has seen.
            if !there || (by_clock && passed(*deadline, times)) {
                self.gone.insert(this);
            } else if self.durability == Durability::Always {
                ensure!(
                    !self.gone.contains(&this),
                    "{key} is there until {deadline:?} at log time {}, after a read had found it gone",
                    times.time
                );
            }
        }
        // What reads at random may not change: the state is behind a shared reference. That it answers is all there is to see.
        let words: &[&str] = [&["RANDOMKEY"][..], &["SRANDMEMBER", "k0", "3"], &["SCAN", "0"], &["DBSIZE"]]
            [self.random.below(4) as usize];
        let words: Vec<_> = words.iter().map(|word| quorate_types::Blob::from(*word)).collect();
        let seed = self.random.next();
        let answer = node.machine().call(times, &mut Session::new(FREE), &words, seed);
        let wrong_type = |error: &quorate_calls::Error| error.text().starts_with(b"WRONGTYPE");
        ensure!(answer.as_ref().map_or_else(wrong_type, |_| true), "{words:?} was answered with {answer:?}");
        Ok(())
    }

    fn turn(&mut self) -> Check {
        let now = self.clock();
        let seed = self.random.next();
        let Some(node) = &mut self.node else { return Ok(()) };
        // An error has answered everybody; `afterwards` starts the node again.
        let _ = node.turn(now, seed);
        Ok(())
    }

    /// A part of the path from memory to disk: a job is taken, run, or completed.
    fn disk_step(&mut self) -> Check {
        let Some(node) = &mut self.node else { return Ok(()) };
        if !self.jobs_done.is_empty() && self.random.chance(2) {
            if let Some(done) = self.jobs_done.pop_front() {
                let _ = node.complete(done);
            }
            return Ok(());
        }
        if !self.jobs.is_empty() && self.random.chance(2) {
            if let Some(job) = self.jobs.pop_front() {
                self.jobs_done.push_back(job.run());
            }
            return Ok(());
        }
        if self.jobs.len() + self.jobs_done.len() < 2 {
            let lazy = self.config.durability != Durability::Always;
            let job = node.take_job();
            let job = if job.is_none() && lazy && self.random.chance(6) { node.take_sync_job() } else { job };
            let job = if job.is_none() && self.random.chance(8) { node.take_mark_job() } else { job };
            self.jobs.extend(job);
        }
        Ok(())
    }

    fn work_step(&mut self) -> Check {
        if !self.works_done.is_empty() && self.random.chance(2) {
            let Some(done) = self.works_done.pop_front() else { return Ok(()) };
            let moved = matches!(&done, Done::Clean(_));
            let Some(node) = &mut self.node else { return Ok(()) };
            let failed = node.work_done(done);
            if failed.is_some() {
                self.probes.hit("disk: background work fails, the node goes on");
            } else if moved && self.counts.kept.load(Ordering::Relaxed) > 0 {
                self.probes.hit("log: cleaned, live payloads moved");
            }
            return Ok(());
        }
        if let Some(work) = self.works.pop_front() {
            self.works_done.push_back(work.run());
            return Ok(());
        }
        // What is cleaned away can be followed no more.
        self.follow()?;
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut work = node.take_work();
        if let (Some(Work::Clean(job)), Some(Plant::LivePayloadCleaned)) = (&mut work, self.options.plant) {
            job.planted_forget_payload();
        }
        self.works.extend(work);
        Ok(())
    }

    /// Answers on their way to the clients.
    fn deliver(&mut self) {
        let Some(node) = &mut self.node else { return };
        let mut replies: Vec<(OpId, Reply)> = node.take_replies().collect();
        if self.options.plant == Some(Plant::SwappedAnswers)
            && replies.len() > 1
            && self.steps.is_multiple_of(16)
        {
            let first = replies[0].0;
            replies[0].0 = replies[1].0;
            replies[1].0 = first;
        }
        for (op, reply) in replies {
            if self.options.trace {
                eprintln!("{:>6} {op} is answered: {reply:?}", self.steps);
            }
            self.oracle.answered(op, &reply);
            let Some(flight) = self.flights.remove(&op) else { continue };
            let client = &mut self.clients[flight.client];
            let waited = client.busy.as_ref().is_some_and(|(busy, _)| *busy == op);
            if waited {
                client.busy = None;
            }
            match &reply {
                Reply::Outcome(outcome) => {
                    client.answered(&flight.hope, outcome, &mut self.random);
                    if let (Outcome::Committed { committed }, true) = (outcome, self.restarts > 0)
                        && committed.replayed
                        && matches!(flight.hope, Hope::Must)
                    {
                        self.probes.hit("ask: a retry after a crash got the first answer");
                    }
                }
                Reply::Changed | Reply::MayRead | Reply::Refused(_) | Reply::Admin(_) => {}
                Reply::Indeterminate if waited => client.lost(),
                Reply::Indeterminate => {}
            }
        }
    }

    // Time.

    fn clock(&mut self) -> Instant {
        let elapsed = self.ticked_ns.map_or(0, |ticked| self.now_ns - ticked);
        self.ticked_ns = Some(self.now_ns);
        self.turns += 1;
        self.oracle.office = LogTime(self.oracle.office.0 + elapsed.min(1_000_000_000));
        let wall_ms = self.wall_ms();
        self.oracle.wall_max = self.oracle.wall_max.max(WallTime(wall_ms));
        let mut monotonic_ns = self.now_ns - self.origin_ns;
        match self.options.plant {
            Some(Plant::ClockJump) if self.restarts > 0 && self.turns > 1 => monotonic_ns += 700_000_000,
            Some(Plant::StuckClock) => monotonic_ns = 0,
            _ => {}
        }
        Instant { monotonic_ns, wall_ms }
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.now_ns / 1_000_000 + self.skew_ms - 10_000_000
    }

    fn pass_time(&mut self) {
        let ns = match self.random.below(100) {
            0..=59 => self.random.below(3_000_000),
            60..=93 => self.random.below(40_000_000),
            94..=98 => self.random.below(400_000_000),
            _ if self.random.chance(4) => {
                self.probes.hit("clock: stall over a second");
                1_000_000_000 + self.random.below(20_000_000_000)
            }
            _ => {
                if self.random.chance(2) {
                    self.probes.hit("clock: wall time jumps back");
                    self.skew_ms -= self.random.below(2000).min(self.skew_ms);
                } else {
                    self.skew_ms += self.random.below(2000);
                }
                0
            }
        };
        self.now_ns += ns;
    }

    // What goes wrong.

    fn fault(&mut self) -> Check {
        use quorate_log::Op as DiskOp;
        match self.random.below(12) {
            0..=2 => self.disk.crash_at(self.random.below(60)),
            3 => self.restart(true)?,
            4 => self.restart(false)?,
            5 | 6 => {
                let ops = [
                    DiskOp::Write,
                    DiskOp::Sync,
                    DiskOp::Sync,
                    DiskOp::Create,
                    DiskOp::Rename,
                    DiskOp::SyncDir,
                    DiskOp::Remove,
                ];
                let op = *self.random.pick(&ops).expect("there are some");
                self.failing = Some(op);
                self.disk.fail_next(op);
            }
            7 => self.squeeze(),
            8 | 9 if self.durability == Durability::Always => self.flip_next = true,
            10 => {
                if let Some(node) = &mut self.node {
                    node.snapshot_soon();
                }
            }
            _ => self.damage_a_copy()?,
        }
        Ok(())
    }

    /// The disk is as good as full, or is given room again.
    fn squeeze(&mut self) {
        let Some(node) = &mut self.node else { return };
        self.squeezed = !self.squeezed;
        if self.squeezed {
            let used = (1u64 << 40) - node.engine().log().space().map_or(0, |space| space.free);
            self.disk.set_capacity(used + self.random.below(40_000));
        } else {
            self.disk.set_capacity(1 << 40);
        }
        // Half of the time nobody has looked yet, and the node runs into the wall.
        if !self.squeezed || self.random.chance(2) {
            let low = node.engine().log().space().is_ok_and(|space| space.low);
            node.set_pressure(low, false);
        }
    }

    fn stopped_why(&mut self) {
        if self.squeezed {
            self.probes.hit("disk: full, the node stops");
        }
        match self.failing {
            Some(quorate_log::Op::Write) => self.probes.hit("disk: a write fails, the node stops"),
            Some(quorate_log::Op::Sync) => self.probes.hit("disk: a sync fails, the node stops"),
            _ => {}
        }
    }

    /// Flips a byte that was synced, in a copy of the folder: opening it must refuse, or lose nothing.
    fn damage_a_copy(&mut self) -> Check {
        self.drain_disk();
        self.follow()?;
        let Some(node) = &mut self.node else { return Ok(()) };
        // Only a mark tells the last synced batch from one that was never finished.
        let Some(mark) = node.take_mark_job() else { return Ok(()) };
        let _ = node.complete(mark.run());
        if node.stopped().is_some() || self.disk.crashed() {
            return Ok(());
        }
        let (applied, digest) = (node.machine().applied(), node.machine().digest());
        let copy = self.disk.fork(self.random.next());
        let files: Vec<(String, u64)> = list(&copy);
        let Some((name, bytes)) = self.random.pick(&files).cloned() else { return Ok(()) };
        if bytes == 0 {
            return Ok(());
        }
        // Near the beginning, where the bytes in use are.
        let span = if self.random.chance(2) { bytes } else { bytes.min(4096) };
        let offset = self.random.below(span);
        copy.flip(&name, offset, 1 << self.random.below(8));
        let opened = Partition::<OpId>::open(Arc::new(copy), self.config.clone(), 99, &mut |_, _| {});
        match opened {
            Err(error) => {
                let text = error.to_string();
                ensure!(
                    text.len() > 20,
                    "damage to {name} at {offset} was refused without a word of help: {text}"
                );
                self.probes.hit("log: damage refused");
            }
            Ok((node, report)) => {
                ensure!(
                    node.machine().applied() == applied && node.machine().digest() == digest,
                    "{name} was damaged at {offset}, opened as if it was sound, at entry {} instead of {applied}: {:?}",
                    node.machine().applied(),
                    report.notes
                );
                if name.ends_with(".qsnap") && report.notes.iter().any(|note| note.contains(&name)) {
                    self.probes.hit("log: a damaged snapshot passed over");
                }
            }
        }
        Ok(())
    }

    /// The node dies and is started again on what the disk has kept.
    fn restart(&mut self, power_loss: bool) -> Check {
        self.restarts += 1;
        let node = self.node.take().expect("a node dies only once");
        let (applied, digest) = (node.machine().applied(), node.machine().digest());
        let synced = LogIndex(node.engine().log().synced().0);
        if self.options.trace {
            eprintln!(
                "{:>6} the node dies at {applied}, synced {synced}, power loss: {power_loss}",
                self.steps
            );
        }
        self.jobs.clear();
        self.jobs_done.clear();
        self.works.clear();
        self.works_done.clear();
        drop(node);
        self.cut_power(power_loss);
        let lost = self.open(power_loss)?;
        let node = self.node.as_ref().expect("it was just opened");
        let power_loss = power_loss || lost;
        self.oracle.recovered(
            node.machine(),
            &node.reader(),
            self.durability,
            power_loss,
            applied,
            digest,
            synced,
            &mut self.probes,
        )?;
        self.told.clear();
        self.told_from = node.machine().applied();
        self.lossy |= node.machine().applied() < applied;
        let reached = node.machine().log_time();
        ensure!(
            reached <= self.oracle.office,
            "log time {reached} is ahead of the office's {}",
            self.oracle.office
        );
        self.oracle.office = reached;
        if node.reader().first().0 > 1 {
            self.probes.hit("log: entries before the first whole one are gone");
        }
        for (op, flight) in std::mem::take(&mut self.flights) {
            let client = &mut self.clients[flight.client];
            if client.busy.as_ref().is_some_and(|(busy, _)| *busy == op) {
                client.busy = None;
                client.lost();
            }
        }
        Ok(())
    }

    fn cut_power(&mut self, power_loss: bool) {
        if power_loss {
            self.probes.hit("restart: power loss");
            self.disk.power_loss();
        } else {
            self.probes.hit("restart: process killed");
            self.disk.process_kill();
        }
        self.failing = None;
    }

    /// Opens the folder, through crashes within recovery; tells whether the power was lost on the way.
    fn open(&mut self, _after_power_loss: bool) -> Check<bool> {
        let mut lost = false;
        self.origin_ns = self.now_ns - self.random.below(self.now_ns + 1);
        self.ticked_ns = None;
        self.turns = 0;
        for attempt in 0.. {
            if !self.healing && self.restarts > 0 && attempt < 3 && self.random.chance(4) {
                self.disk.crash_at(self.random.below(12));
            }
            let counts = Arc::clone(&self.counts);
            let seam = Seam::new(self.disk.clone(), self.options.plant, counts, self.options.trace);
            let mut config = self.config.clone();
            if self.options.plant == Some(Plant::EarlyAnswer) {
                config.durability = Durability::None;
            }
            match Partition::open(Arc::new(seam), config, self.random.next(), &mut |_, _| {}) {
                Ok((node, report)) if !self.disk.crashed() => {
                    if self.options.trace {
                        eprintln!("{:>6} opened at {}: {report:?}", self.steps, node.machine().applied());
                    }
                    if report.snapshot.is_some() {
                        self.probes.hit("restart: from a snapshot");
                    }
                    if report.notes.iter().any(|note| note.contains("a write a crash left unfinished")) {
                        self.probes.hit("log: a torn tail cut");
                    }
                    self.node = Some(node);
                    return Ok(lost);
                }
                Ok(_) => {}
                Err(error) if !self.disk.crashed() && !self.squeezed => {
                    return Err(format!("a folder that nobody damaged is refused: {error}"));
                }
                Err(_) => {}
            }
            if self.disk.crashed() {
                self.probes.hit("restart: crash within recovery");
                lost = true;
                self.cut_power(true);
            } else {
                // Recovery may need room; an operator makes some.
                self.squeezed = false;
                self.disk.set_capacity(1 << 40);
                self.disk.process_kill();
            }
        }
        unreachable!("an attempt without a fault ends the loop")
    }

    // Looking.

    fn follow(&mut self) -> Check {
        let Some(node) = &mut self.node else { return Ok(()) };
        // A disk that is off cannot be read; what is missing is followed after the restart.
        if self.disk.crashed() {
            return Ok(());
        }
        self.told.extend(node.take_published().map(|told| (told.channel, told.message)));
        let applied = node.machine().applied();
        self.oracle.follow(&node.reader(), applied, &mut self.probes)?;
        let wanted: Vec<&Told> = self.oracle.messages(self.told_from).collect();
        ensure!(
            self.told.iter().eq(wanted.iter().copied()),
            "since entry {} the node told subscribers {:?}, the log says {wanted:?}",
            self.told_from,
            self.told
        );
        self.told.clear();
        self.told_from = applied;
        Ok(())
    }

    fn compare(&mut self) -> Check {
        self.follow()?;
        if self.disk.crashed() {
            return Ok(());
        }
        if self.counts.recycled.load(Ordering::Relaxed) > 0 {
            self.probes.hit("log: a segment recycled");
        }
        let Some(node) = &self.node else { return Ok(()) };
        self.oracle.agrees(node.machine(), &node.reader(), &mut self.random, &mut self.probes)?;
        if self.random.chance(4) {
            self.open_twice()?;
        }
        Ok(())
    }

    /// Two recoveries of one folder, under different hash seeds, come to the same state.
    fn open_twice(&mut self) -> Check {
        let mut digests = Vec::new();
        for hash_seed in [1, self.random.next()] {
            let copy = self.disk.fork(7);
            let opened =
                Partition::<OpId>::open(Arc::new(copy), self.config.clone(), hash_seed, &mut |_, _| {});
            let (node, _) = opened.map_err(|error| format!("a copy of the folder is refused: {error}"))?;
            node.machine().check();
            digests.push((node.machine().applied(), node.machine().digest()));
        }
        ensure!(digests[0] == digests[1], "two recoveries of one folder differ: {digests:?}");
        Ok(())
    }

    // Healing.

    fn drain_disk(&mut self) {
        let Some(node) = &mut self.node else { return };
        for _ in 0..64 {
            if let Some(job) = self.jobs.pop_front() {
                self.jobs_done.push_back(job.run());
            }
            if let Some(done) = self.jobs_done.pop_front() {
                let _ = node.complete(done);
            }
            if self.jobs.is_empty() && self.jobs_done.is_empty() {
                let Some(job) = node.take_job().or_else(|| node.take_sync_job()) else { return };
                self.jobs.push_back(job);
            }
        }
    }

    fn round(&mut self) -> Check {
        self.steps += 1;
        self.turn()?;
        self.drain_disk();
        while let Some(done) = self.works_done.pop_front() {
            if let Some(node) = &mut self.node {
                node.work_done(done);
            }
        }
        if let Some(work) = self.works.pop_front() {
            self.works_done.push_back(work.run());
        } else {
            self.work_step()?;
        }
        self.deliver();
        if let Some(why) = self.node.as_ref().and_then(Partition::stopped) {
            return Err(format!("a node on a sound disk has stopped: {why}"));
        }
        self.now_ns += 100_000_000;
        self.follow()
    }

    /// No more faults: everybody must get what is due to them.
    fn heal(&mut self, at: &std::cell::Cell<u64>) -> Check {
        self.healing = true;
        self.flip_next = false;
        self.squeezed = false;
        self.disk.set_capacity(1 << 40);
        self.restart(false)?;
        for client in &mut self.clients {
            client.finish();
        }
        for round in 0..600 {
            at.set(self.steps);
            for number in 0..self.clients.len() {
                let Some(node) = &self.node else { break };
                let view = view(node, &self.oracle, self.options.plant);
                if let Some((body, principal, hope)) = self.clients[number].conclude(&view) {
                    self.send(number, body, principal, hope)?;
                }
            }
            // Whoever heals takes the alarms down, until they are.
            let up: Vec<_> = self.oracle.machine().alarms().collect();
            for (member, kind) in up {
                self.send(0, CommandBody::Alarm { member, kind, up: false }, "server".into(), Hope::Nothing)?;
            }
            if round % 3 == 0 {
                self.drain_queue()?;
            }
            self.round()?;
            if round > 20 && self.is_done() {
                break;
            }
        }
        self.compare()?;
        self.all_is_well()
    }

    /// A consumer that takes and acks whatever the queue still holds.
    fn drain_queue(&mut self) -> Check {
        let (stream, group) = (quorate_types::Key::new("s/queue"), quorate_types::GroupName::from("workers"));
        if self.oracle.machine().group(&stream, &group).is_none() {
            return Ok(());
        }
        let mut last = None;
        if let Some(Outcome::Committed { committed }) = self.oracle.outcome(self.next_op.saturating_sub(1)) {
            last = Some(committed.results.clone());
        }
        let taken = last.iter().flatten().filter_map(|result| match result {
            OpResult::Taken { deliveries } => Some(deliveries.iter().map(|taken| taken.delivery)),
            _ => None,
        });
        let deliveries: Vec<_> = taken.flatten().collect();
        let mut then = Vec::new();
        if !deliveries.is_empty() {
            then.push(Op::Ack { stream: stream.clone(), group: group.clone(), deliveries });
        }
        let visibility = Some(Millis(2_000));
        then.push(Op::Take { stream, group, consumer: "last".into(), max: 100, visibility });
        let commit = quorate_types::Commit::of(then);
        self.send(0, CommandBody::Commit { commit }, "last".into(), Hope::Nothing)
    }

    fn is_done(&self) -> bool {
        let finished = self.clients.iter().all(|client| client.finished);
        finished && self.oracle.model().unfinished() == (0, 0) && self.queue_left() == 0
    }

    fn queue_left(&self) -> u64 {
        let machine = self.oracle.machine();
        let (stream, group) = (quorate_types::Key::new("s/queue"), quorate_types::GroupName::from("workers"));
        let (Some(stream), Some(group)) = (machine.stream(&stream), machine.group(&stream, &group)) else {
            return 0;
        };
        let parts = stream.partitions.iter().zip(&group.partitions);
        parts.map(|(part, group)| part.next.0 - group.floor.0.min(part.next.0)).sum()
    }

    fn all_is_well(&mut self) -> Check {
        let unfinished = self.clients.iter().filter(|client| !client.finished).count();
        ensure!(unfinished == 0, "{unfinished} clients never got the answer to their last commit");
        let (tasks, leases) = self.oracle.model().unfinished();
        ensure!(
            (tasks, leases) == (0, 0),
            "after a minute of peace {tasks} tasks and {leases} leases are left"
        );
        ensure!(
            self.queue_left() == 0,
            "the queue was never drained: {} records are left",
            self.queue_left()
        );
        let machine: &Machine = self.oracle.machine();
        let locks: Vec<_> = machine.locks().collect();
        ensure!(
            locks.is_empty(),
            "every lease has ended, and yet these locks are held or waited for: {locks:?}"
        );
        if !self.lossy {
            queues(self.clients.iter(), self.oracle.model().calls())?;
        }
        for client in &self.clients {
            let value = self.oracle.model().number(&client.counter()) as u64;
            let counter = client.counter();
            let (acked, unknown) = (client.acked, client.unknown);
            ensure!(
                value >= acked || self.lossy,
                "{counter} is {value}, {acked} increments were acknowledged"
            );
            ensure!(
                value <= acked + unknown || self.lossy,
                "{counter} is {value}, {acked} increments were acknowledged and {unknown} unknown: one was doubled"
            );
        }
        Ok(())
    }
}

/// What became of the elements that clients pushed into queues, by what they were answered.
pub(crate) fn queues<'a>(clients: impl Iterator<Item = &'a Client> + Clone, calls: &Calls) -> Check {
    let mut given = BTreeSet::new();
    for element in clients.clone().flat_map(|client| &client.caller.popped) {
        ensure!(given.insert(element), "{element} was given to two who popped");
    }
    for element in clients.flat_map(|client| &client.caller.pushed) {
        calls.accounts_for(element)?;
    }
    Ok(())
}

fn view<'a>(node: &'a Node, oracle: &Oracle, plant: Option<Plant>) -> View<'a> {
    View {
        machine: node.machine(),
        time: oracle.office,
        wall: oracle.wall_max,
        keyless: plant == Some(Plant::KeylessRetry),
    }
}

/// Sizes so small that everything rare happens all the time.
pub(crate) fn config(random: &mut Random, durability: Durability, _plant: Option<Plant>) -> Config {
    let segment_bytes = [32, 48, 64][random.below(3) as usize] << 10;
    Config {
        durability,
        settings: Settings {
            history_revisions: 100_000,
            history_age: Millis(60_000),
            history_bytes_max: random.between(4_000, 40_000),
            idempotency_bytes_max: random.between(20_000, 80_000),
            expiries_per_entry: random.between(2, 20),
        },
        log: LogConfig {
            segment_bytes,
            segments_ready: random.below(3) as usize,
            batch_bytes_max: 30 << 10,
            entry_bytes_max: 24 << 10,
            reserve_bytes: 64 << 10,
        },
        waiting_commands_max: random.between(10, 30),
        waiting_bytes_max: 16 << 10,
        entry_bytes: random.between(500, 4_000),
        snapshot_commands: random.between(150, 900),
        snapshot_bytes: 256 << 10,
        snapshot_rows: random.between(2, 12) as usize,
        empty_whole: crate::oracle::EMPTY_WHOLE,
        audit_age: Millis(random.between(500, 20_000)),
        audit_bytes: random.between(32 << 10, 128 << 10),
        refusals_per_name: 5,
        ..Config::default()
    }
}

fn list(disk: &SimDisk) -> Vec<(String, u64)> {
    use quorate_log::Disk;
    disk.list().unwrap_or_default().into_iter().map(|file| (file.name, file.bytes)).collect()
}

/// Makes the tokens of a command one too low: a planted bug.
fn off_by_one(command: &mut Command) {
    let lower = |token: &mut FencingToken| token.0 = token.0.saturating_sub(1);
    let CommandBody::Commit { commit } = &mut command.body else { return };
    for guard in &mut commit.guards {
        if let Guard::Fence { token, .. } = guard {
            lower(token);
        }
    }
    for op in &mut commit.then {
        if let Op::Release { token, .. } | Op::Resign { token, .. } = op {
            lower(token);
        }
    }
}
