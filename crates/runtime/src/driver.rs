//! Who drives the partition: a thread of its own, or a caller that finds it idle. A replica is driven in `replica.rs`, with the same
//! lock and the same background thread.
//!
//! A round is: order what has arrived, write and sync it as one batch, apply, answer. A lone caller of the blocking interface
//! does the round itself, so that a commit costs one sync and no thread switch. So do the tasks of a runtime, all that are ready in one
//! round, while the disk takes less than [`WRITE_HERE_MAX`]: to wake the thread and be woken by it costs more than to wait for such a
//! disk. On a slower one the thread does the rounds, and each takes what has gathered during the one before (group commit).
//!
//! Invariant: at most one round is under way; the lock is free while it waits for the disk.
//! Invariant: whoever ends a round with more to do wakes the thread.
//! Invariant: where a sync is owed ([`SYNC_EVERY`]) rounds are the thread's, so that others' cannot keep it from syncing.
//! Called by: `handle`.

use crate::answers::{Answers, Ticket};
use crate::door::Remembered;
use crate::error::RuntimeError;
use crate::metrics::Syncs;
use crate::replica::Peers;
use quorate_calls::events::Classes;
use quorate_engine::{Durability, Instant, Job};
use quorate_node::{Changes, Config, Done, Doors, Partition, Published, Work};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// How long the thread sleeps at most: log time must be ticked well within the second that a stall counts.
pub(crate) const SLEEP_MAX: Duration = Duration::from_millis(200);
/// How often unsynced writes are synced under [`Durability::Interval`].
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How long writes may take, on the average, for the tasks of a runtime to wait for them there: its other tasks wait with them.
const WRITE_HERE_MAX: Duration = Duration::from_micros(300);
/// How long the lock is left to those who wait for it, at most: there may always be one more.
const GIVE_WAY_MAX: Duration = Duration::from_millis(1);
/// How often free disk and memory are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Core {
    /// Absent while a replica opens its folder anew.
    pub(crate) partition: Option<Partition<Ticket>>,
    pub(crate) answers: Answers,
    pub(crate) syncs: Syncs,
    /// A round is under way; of a replica, a job.
    pub(crate) driving: bool,
    /// The thread sleeps, or is about to.
    pub(crate) asleep: bool,
    /// When it wakes by itself, in nanoseconds of the monotonic clock.
    pub(crate) wakes_at: u64,
    /// A task of a caller's runtime settles soon.
    pub(crate) settling: bool,
    /// Slow work is under way.
    pub(crate) working: bool,
    pub(crate) stopping: bool,
    /// When the job of a replica was begun, and when unsynced writes were last synced.
    pub(crate) job_since: std::time::Instant,
    pub(crate) synced: std::time::Instant,
    /// What a job took of late: a moving average, of which the last is an eighth.
    write_took: Duration,
    /// A replica that could not open its folder again, and why.
    pub(crate) broken: Option<String>,
    /// What operators should hear of, oldest first.
    pub(crate) notes: Vec<String>,
    /// Who is told what is published; they pass it on to the subscribers, who are many.
    pub(crate) subscribers: Vec<mpsc::UnboundedSender<Published>>,
    /// Whether somebody at this node remembers what it has read, and who is told what has changed.
    pub(crate) follows: bool,
    pub(crate) followers: Vec<mpsc::UnboundedSender<Changes>>,
    /// Whom a change of users is told, and which of them was told last.
    users: watch::Sender<u64>,
    users_told: u64,
    /// The classes of events of keys that they listen to; kept here, since a replica may open its folder anew.
    pub(crate) listening: Classes,
    /// Where clients of this node's gateways reach it; kept here likewise.
    pub(crate) doors: Doors,
    /// What those who ask often want to know.
    seen: Arc<Seen>,
    entropy: u64,
}

/// What is known without the lock, as of what was last applied here: a gateway asks for it with every request.
pub(crate) struct Seen {
    /// Whether some keyspace holds too much for commands that need more.
    pub(crate) full: AtomicBool,
    /// Whether everybody enters without saying who it is.
    pub(crate) open: AtomicBool,
    pub(crate) term: AtomicU64,
}

impl Seen {
    fn of(partition: &Partition<Ticket>) -> Self {
        let machine = partition.machine();
        Self {
            full: AtomicBool::new(machine.is_any_full()),
            open: AtomicBool::new(machine.door_is_open()),
            term: AtomicU64::new(partition.engine().standing().term.0),
        }
    }
}

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// How many threads wait for the lock.
    waiting: AtomicUsize,
    pub(crate) wake: Condvar,
    pub(crate) started: std::time::Instant,
    pub(crate) memory_bytes_max: u64,
    pub(crate) config: Config,
    /// The last change of users that is applied here.
    pub(crate) users: watch::Sender<u64>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) remembered: Remembered,
    /// Of a replica.
    pub(crate) peers: OnceLock<Arc<Peers>>,
}

impl Shared {
    pub(crate) fn new(partition: Partition<Ticket>, entropy: u64, memory_bytes_max: u64) -> Arc<Self> {
        let config = partition.config().clone();
        let users_told = partition.machine().users_changed().0;
        let (users, _) = watch::channel(users_told);
        let seen = Arc::new(Seen::of(&partition));
        let core = Core {
            partition: Some(partition),
            answers: Answers::default(),
            syncs: Syncs::default(),
            driving: false,
            asleep: false,
            wakes_at: 0,
            settling: false,
            working: false,
            stopping: false,
            job_since: std::time::Instant::now(),
            synced: std::time::Instant::now(),
            write_took: Duration::ZERO,
            broken: None,
            notes: Vec::new(),
            subscribers: Vec::new(),
            follows: false,
            followers: Vec::new(),
            users: users.clone(),
            users_told,
            listening: Classes::default(),
            doors: Doors::default(),
            seen: Arc::clone(&seen),
            entropy,
        };
        Arc::new(Self {
            core: Mutex::new(core),
            waiting: AtomicUsize::new(0),
            wake: Condvar::new(),
            started: std::time::Instant::now(),
            memory_bytes_max,
            config,
            users,
            seen,
            remembered: Remembered::new(entropy),
            peers: OnceLock::new(),
        })
    }

    /// Sees to it that something new is looked at soon: by whoever is at it, or by the thread.
    pub(crate) fn stir(&self, core: &mut Core) {
        if self.peers.get().is_some() { self.wake_driver(core) } else { self.nudge(core) }
    }

    /// Wakes the thread, whoever is driving.
    pub(crate) fn wake_driver(&self, core: &mut Core) {
        if core.asleep {
            core.asleep = false;
            self.wake.notify_one();
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        if let Ok(core) = self.core.try_lock() {
            return core;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let core = self.core.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // A panic while the lock is held is a bug of ours; the state may be half changed, so nobody may go on with it.
        core.expect("no thread panics while it holds the partition")
    }

    /// Lets those have the lock who wait for it. To release it is not enough: who takes it again at once has it before the one that was woken
    /// for it runs, round after round.
    pub(crate) fn give_way<'a>(&'a self, core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return core;
        }
        drop(core);
        let until = std::time::Instant::now() + GIVE_WAY_MAX;
        while self.waiting.load(Ordering::Relaxed) > 0 && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        self.lock()
    }

    pub(crate) fn now(&self) -> Instant {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Instant { monotonic_ns: self.started.elapsed().as_nanos() as u64, wall_ms: wall.as_millis() as u64 }
    }

    /// Sees to it that what a task proposed is ordered: together with what others of its runtime propose now, or by the thread.
    pub(crate) fn round_soon(self: &Arc<Self>, mut core: MutexGuard<'_, Core>) {
        if core.write_took > WRITE_HERE_MAX || self.owes_sync(&core) {
            self.nudge(&mut core);
        } else if core.asleep && !core.driving {
            soon(self, core);
        }
    }

    /// Whether unsynced writes have waited long enough.
    pub(crate) fn owes_sync(&self, core: &Core) -> bool {
        self.config.durability == Durability::Interval && core.synced.elapsed() >= SYNC_EVERY
    }

    /// Sees to it that what was just proposed is ordered.
    pub(crate) fn nudge(&self, core: &mut Core) {
        if core.asleep && !core.driving {
            core.asleep = false;
            self.wake.notify_one();
        }
    }

    /// Handles what has arrived on the caller's thread.
    pub(crate) fn handle_here(&self, mut core: MutexGuard<'_, Core>) {
        if self.peers.get().is_none() {
            return self.round(core);
        }
        self.settle(&mut core);
        drop(core);
        self.flush();
    }

    /// One round by the caller, if nobody is at it: its own command is in it.
    fn round<'a>(&'a self, mut core: MutexGuard<'a, Core>) {
        if core.driving || !core.asleep {
            return self.nudge(&mut core);
        }
        core.driving = true;
        core = self.order_and_write(core);
        core.driving = false;
        let now = self.now();
        let Some(partition) = &core.partition else { return };
        let due = partition.next_wake(now).map(|wake| now.monotonic_ns.saturating_add(wake));
        if !partition.is_quiet() || due.is_some_and(|due| due < core.wakes_at) {
            self.nudge(&mut core);
        }
    }

    /// Orders what has arrived, and writes, syncs and applies it.
    fn order_and_write<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        let seed = core.entropy();
        let now = self.now();
        if let Some(partition) = &mut core.partition {
            // A failed log answers everybody; there is nothing else to do about it here.
            let _ = partition.turn(now, seed);
        }
        core.answer();
        while let Some(job) = core.partition.as_mut().and_then(Partition::take_job) {
            core = self.write(core, job);
        }
        core
    }

    fn write<'a>(&'a self, core: MutexGuard<'a, Core>, job: Job) -> MutexGuard<'a, Core> {
        drop(core);
        let mut core = self.run(job);
        core.answer();
        core
    }

    /// Does a job, without the lock, and takes its outcome with it.
    pub(crate) fn run(&self, job: Job) -> MutexGuard<'_, Core> {
        let syncs = job.syncs();
        let begun = std::time::Instant::now();
        let done = job.run();
        let took = begun.elapsed();
        let mut core = self.lock();
        if syncs {
            core.syncs.note(took.as_micros() as u64);
        }
        core.write_took = (core.write_took * 7 + took) / 8;
        core.complete(done);
        core
    }
}

impl Core {
    /// SplitMix64 from a seed of the operating system: entropy for entries, not for secrets.
    pub(crate) fn entropy(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.entropy;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// The partition, unless its folder is being opened anew.
    pub(crate) fn open(&mut self) -> Result<&mut Partition<Ticket>, RuntimeError> {
        match (&mut self.partition, &self.broken) {
            (Some(partition), _) => Ok(partition),
            (None, Some(why)) => Err(RuntimeError::Stopped { why: why.clone() }),
            (None, None) => Err(RuntimeError::Restarting),
        }
    }

    pub(crate) fn complete(&mut self, done: quorate_engine::JobDone) {
        if let Some(partition) = &mut self.partition
            && let Err(fatal) = partition.complete(done)
        {
            self.notes.push(fatal.to_string());
        }
    }

    pub(crate) fn answer(&mut self) {
        if let Some(partition) = &mut self.partition {
            let machine = partition.machine();
            self.seen.full.store(machine.is_any_full(), Ordering::Relaxed);
            self.seen.term.store(partition.engine().standing().term.0, Ordering::Relaxed);
            let changed = machine.users_changed().0;
            // Told before the change is answered: who was told of it finds it in force on every connection here.
            if self.users_told != changed {
                self.users_told = changed;
                self.seen.open.store(machine.door_is_open(), Ordering::Release);
                self.users.send_replace(changed);
            }
            self.answers.give(partition.take_replies());
            partition.listen(self.listening);
            partition.announce(&self.doors);
            for published in partition.take_published() {
                self.subscribers.retain(|subscriber| subscriber.send(published.clone()).is_ok());
            }
            if self.follows {
                // A partition that was opened anew has not kept what came with its snapshot.
                let kept = partition.follow(true);
                let changes = partition.take_changes();
                let changes = if kept { changes } else { Some(Changes { all: true, ..Changes::default() }) };
                if let Some(changes) = changes {
                    self.followers.retain(|follower| follower.send(changes.clone()).is_ok());
                }
            }
        }
    }
}

/// Has what clients brought handled after what the caller's runtime has ready: its tasks run first, so that they share an entry, a sync, a
/// frame and a question to the quorum, and nobody is woken for it. Outside of a runtime the partition's own thread does it.
pub(crate) fn soon(shared: &Arc<Shared>, mut core: MutexGuard<'_, Core>) {
    if core.settling {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return shared.wake_driver(&mut core) };
    core.settling = true;
    // A runtime that ends drops the task at once, and that takes the lock.
    drop(core);
    let soon = Soon { shared: Arc::clone(shared), settled: false };
    runtime.spawn(async move {
        tokio::task::yield_now().await;
        soon.settle();
    });
}

/// Somebody is going to settle; should the task be dropped first, the partition's own thread does.
struct Soon {
    shared: Arc<Shared>,
    settled: bool,
}

impl Soon {
    fn settle(mut self) {
        self.settled = true;
        let mut core = self.shared.lock();
        core.settling = false;
        self.shared.handle_here(core);
    }
}

impl Drop for Soon {
    fn drop(&mut self) {
        if !self.settled {
            let mut core = self.shared.lock();
            core.settling = false;
            self.shared.wake_driver(&mut core);
        }
    }
}

impl Core {
    pub(crate) fn is_quiet(&self) -> bool {
        self.partition.as_ref().is_none_or(Partition::is_quiet)
    }

    /// Gives the background thread its next piece, when it is idle.
    pub(crate) fn hand_out_work(&mut self, work: &SyncSender<Work>) {
        if self.working {
            return;
        }
        if let Some(next) = self.partition.as_mut().and_then(Partition::take_work) {
            self.working = true;
            // The worker takes one at a time and is idle now, so there is room.
            if work.try_send(next).is_err() {
                self.notes.push("the background thread has ended: no snapshots, no cleaning".into());
            }
        }
    }
}

impl Shared {
    /// Looks every so often whether disk or memory are nearly full.
    pub(crate) fn look(&self, core: &mut Core, looked: &mut Option<std::time::Instant>) {
        if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        *looked = Some(std::time::Instant::now());
        if let Some(partition) = &mut core.partition {
            let disk = partition.disk_is_low();
            let memory = resident_bytes().is_some_and(|bytes| bytes > self.memory_bytes_max);
            partition.set_pressure(disk, memory);
        }
    }
}

/// The threads of a partition.
pub(crate) struct Threads {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(
        partition: Partition<Ticket>,
        entropy: u64,
        memory_bytes_max: u64,
    ) -> std::io::Result<Self> {
        let shared = Shared::new(partition, entropy, memory_bytes_max);
        let (send, receive) = sync_channel::<Work>(1);
        let worker = spawn("quorate-background", &shared, move |shared| work(shared, &receive))?;
        let driver = spawn("quorate-partition", &shared, move |shared| drive(shared, &send))?;
        Ok(Self { shared, threads: vec![driver, worker] })
    }

    /// Finishes what was admitted, and ends the threads.
    pub(crate) fn stop(&mut self) {
        if let Ok(mut core) = self.shared.core.lock() {
            core.stopping = true;
            core.asleep = false;
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A panic in there has been printed by its hook already.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a named thread that shares the partition.
pub(crate) fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    run: impl FnOnce(&Shared) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name(name.into()).spawn(move || run(&shared))
}

/// The partition's own thread.
fn drive(shared: &Shared, work: &SyncSender<Work>) {
    let mut looked: Option<std::time::Instant> = None;
    let mut core = shared.lock();
    loop {
        if core.driving {
            shared.look(&mut core, &mut looked);
            core.hand_out_work(work);
            core = sleep(shared, core, SLEEP_MAX);
            continue;
        }
        core.driving = true;
        core = shared.order_and_write(core);
        if shared.owes_sync(&core) {
            core.synced = std::time::Instant::now();
            while let Some(job) = core.partition.as_mut().and_then(Partition::take_sync_job) {
                core = shared.write(core, job);
            }
        }
        shared.look(&mut core, &mut looked);
        core.hand_out_work(work);
        if core.is_quiet() {
            if let Some(job) = core.partition.as_mut().and_then(Partition::take_mark_job) {
                core = shared.write(core, job);
            }
            if core.stopping && core.is_quiet() {
                if let Some(partition) = &mut core.partition {
                    partition.stop("it was asked to");
                }
                core.answer();
                core.driving = false;
                return;
            }
        }
        core.driving = false;
        let Some(partition) = &core.partition else { return };
        let wake = partition.next_wake(shared.now()).map_or(SLEEP_MAX, Duration::from_nanos);
        if partition.has_arrivals() || wake.is_zero() {
            core = shared.give_way(core);
        } else {
            // Not quiet and nothing to write: the log waits for a segment, and the background thread will wake us.
            core = sleep(shared, core, wake.min(SLEEP_MAX));
        }
    }
}

pub(crate) fn sleep<'a>(
    shared: &'a Shared,
    mut core: MutexGuard<'a, Core>,
    most: Duration,
) -> MutexGuard<'a, Core> {
    if core.stopping && !core.driving {
        drop(core);
        std::thread::yield_now();
        return shared.lock();
    }
    core.asleep = true;
    core.wakes_at = shared.now().monotonic_ns.saturating_add(most.as_nanos() as u64);
    let (mut core, _) = shared.wake.wait_timeout(core, most).unwrap_or_else(PoisonError::into_inner);
    core.asleep = false;
    core
}

/// The thread for slow I/O.
pub(crate) fn work(shared: &Shared, receive: &Receiver<Work>) {
    while let Ok(mut next) = receive.recv() {
        loop {
            let done: Done = next.run();
            let mut core = shared.lock();
            let note = core.partition.as_mut().and_then(|partition| partition.work_done(done));
            core.notes.extend(note);
            // A folder that is about to be opened anew is left alone.
            let next_work = core.partition.as_mut().filter(|partition| !partition.wants_reopening());
            match next_work.and_then(Partition::take_work) {
                Some(more) if !core.stopping => next = more,
                _ => {
                    core.working = false;
                    shared.stir(&mut core);
                    break;
                }
            }
        }
    }
}

/// Resident memory of this process (Linux: proc(5), statm); nothing where it cannot be told.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_log::FileDisk;
    use quorate_types::{Command, Commit, LeaseId, Op};

    /// A partition whose thread sleeps for good, so that whatever happens was done by a task.
    fn without_thread(durability: Durability) -> (tempfile::TempDir, Arc<Shared>) {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(FileDisk::open(folder.path()).expect("a disk"));
        let mut config = Config { durability, ..Config::default() };
        config.log.segment_bytes = 4 << 20;
        config.log.batch_bytes_max = 2 << 20;
        config.log.entry_bytes_max = 1 << 20;
        config.log.reserve_bytes = 0;
        let (partition, _) = Partition::open(disk, config, 1, &mut |_, _| {}).expect("a partition");
        let shared = Shared::new(partition, 1, u64::MAX);
        {
            let mut core = shared.lock();
            core.asleep = true;
            core.wakes_at = u64::MAX;
        }
        (folder, shared)
    }

    fn propose(shared: &Arc<Shared>) -> tokio::sync::oneshot::Receiver<quorate_node::Reply> {
        let mut core = shared.lock();
        let (ticket, receive) = core.answers.ticket();
        let put = Op::Put { key: "k".into(), value: "v".into(), lease: LeaseId(0), prev: false };
        let command = Command::commit(Commit::of(vec![put]));
        assert!(core.open().expect("it is open").propose(command, ticket).is_ok());
        shared.round_soon(core);
        receive
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn what_the_tasks_of_a_runtime_propose_is_one_round_of_theirs() {
        let (_folder, shared) = without_thread(Durability::Always);
        runtime().block_on(async {
            let waiting: Vec<_> = (0..50)
                .map(|_| {
                    tokio::spawn({
                        let shared = Arc::clone(&shared);
                        async move { propose(&shared).await }
                    })
                })
                .collect();
            for task in waiting {
                assert!(task.await.expect("it ends").is_ok(), "a round answers");
            }
        });
        let mut core = shared.lock();
        assert!(core.asleep, "the thread was not needed");
        let revision = core.open().expect("it is open").machine().revision();
        assert_eq!((revision.0, core.syncs.count()), (50, 1), "50 commits share a sync");
    }

    #[test]
    fn a_slow_disk_is_waited_for_by_the_thread_and_by_tasks_again_once_it_is_quick() {
        let (_folder, shared) = without_thread(Durability::Always);
        shared.lock().write_took = WRITE_HERE_MAX * 2;
        let runtime = runtime();
        let _inside = runtime.enter();
        let _waits = propose(&shared);
        let mut core = shared.lock();
        assert!(!core.asleep && !core.settling, "the thread is woken, and no task");
        core.write_took = WRITE_HERE_MAX;
        core.asleep = true;
        drop(core);
        let _waits = propose(&shared);
        let core = shared.lock();
        assert!(core.asleep && core.settling, "a task is at it, and the thread sleeps on");
    }

    #[test]
    fn who_waits_for_the_lock_has_it_before_the_thread_that_gives_way_takes_it_again() {
        let (_folder, shared) = without_thread(Durability::None);
        let mut first = 0;
        for _ in 0..100 {
            let had = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let core = shared.lock();
                scope.spawn(|| {
                    let _core = shared.lock();
                    had.store(true, Ordering::Relaxed);
                });
                while shared.waiting.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                let _core = shared.give_way(core);
                first += u32::from(had.load(Ordering::Relaxed));
            });
        }
        // A busy machine may not let the one that was woken run for as long as way is given.
        assert!(first > 50, "who waited had the lock first {first} times of 100");
    }

    #[test]
    fn rounds_are_the_threads_while_a_sync_is_owed() {
        for (durability, waited, by_task) in [
            (Durability::Interval, SYNC_EVERY, false),
            (Durability::Interval, Duration::ZERO, true),
            (Durability::None, SYNC_EVERY, true),
        ] {
            let (_folder, shared) = without_thread(durability);
            shared.lock().synced =
                std::time::Instant::now().checked_sub(waited).expect("the machine runs for so long");
            let runtime = runtime();
            let _inside = runtime.enter();
            let _waits = propose(&shared);
            let core = shared.lock();
            assert_eq!((core.settling, core.asleep), (by_task, by_task), "{durability:?} after {waited:?}");
        }
    }

    #[test]
    fn a_runtime_that_ends_before_its_round_leaves_it_to_the_thread() {
        let (_folder, shared) = without_thread(Durability::Always);
        let runtime = runtime();
        let inside = runtime.enter();
        let _waits = propose(&shared);
        assert!(shared.lock().settling);
        drop(inside);
        drop(runtime);
        let core = shared.lock();
        assert!(!core.settling && !core.asleep, "the thread is woken");
    }
}
