//! The embedded database, and the handle that gateways hold.
//!
//! Invariant: a wait for a lock whose caller goes away leaves its queue.
//! Called by: programs, gateways, the command line.

use crate::driver::{Shared, Threads, Ticket};
use crate::error::RuntimeError;
use crate::metrics;
use bytes::Bytes;
use quorate_log::{BackupReport, FileDisk, Index, LogReader};
use quorate_machine::Machine;
use quorate_node::{
    Config, Interest, OpenError, OpenReport, Partition, PartitionId, Reply, Router, Status, WatchId,
    WhyQuery, WhyRecord, search,
};
use quorate_types::{
    Command, CommandBody, Commit, Committed, Limits, Outcome, PayloadRef, Principal, Refusal, Subject,
    WaitRequest,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A folder of data, open: the embedded database. Dropping it finishes what was admitted and closes the folder.
pub struct Quorate {
    threads: Threads,
    handle: Handle,
    report: OpenReport,
}

/// Growth is refused when the process takes more than this part of the machine's memory.
const MEMORY_PART: u64 = 80;

impl Quorate {
    /// Opens a folder, or begins one; `progress` is told (entries replayed, entries in all).
    ///
    /// # Errors
    /// [`OpenError`] names the file, the offset and what to do.
    pub fn open(
        folder: impl AsRef<Path>,
        config: Config,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let disk = Arc::new(FileDisk::open(folder.as_ref())?);
        let seeds = entropy().map_err(|error| no_system("read entropy", &error))?;
        let (partition, report) = Partition::open(disk, config, seeds[0], &mut progress)?;
        let memory = memory_bytes().map_or(u64::MAX, |bytes| bytes / 100 * MEMORY_PART);
        let threads = Threads::start(partition, seeds[1], memory)
            .map_err(|error| no_system("start a thread", &error))?;
        let handle =
            Handle { shared: Arc::clone(&threads.shared), router: Arc::new(Router::new(&[PartitionId(0)])) };
        Ok(Self { threads, handle, report })
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// A handle for async code. It refuses everything once the database is closed.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Commits, and waits until the answer is certain.
    ///
    /// # Errors
    /// [`CommitError::Refused`]: nothing happened, and why. [`CommitError::Runtime`] says whether it happened.
    pub fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        match self.execute(commit.into())? {
            Outcome::Committed { committed } => Ok(committed),
            Outcome::Refused { refusal } => Err(CommitError::Refused(refusal)),
            other => unreachable!("a commit is committed or refused, not {other:?}"),
        }
    }

    /// Sends any command, and waits for its outcome. A [`CommandBody::Wait`] returns once granted, refused or timed out.
    ///
    /// # Errors
    /// [`RuntimeError`] says whether it happened.
    pub fn execute(&self, command: Command) -> Result<Outcome, RuntimeError> {
        let (send, receive) = oneshot::channel();
        let shared = &self.handle.shared;
        let mut core = shared.lock();
        if let Some(denied) = core.partition.deny(&command, shared.now()) {
            return Ok(denied);
        }
        core.partition.propose(command, send).map_err(|(_, refused)| refused)?;
        shared.round(core);
        outcome(receive.blocking_recv())
    }

    /// Reads the state. Linearizable: it sees every commit answered before.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> Result<R, RuntimeError> {
        let shared = &self.handle.shared;
        if shared.lock().partition.overdue(shared.now()) {
            self.execute(barrier())?;
        }
        Ok(read(shared.lock().partition.machine()))
    }

    /// Reads a payload of a stream.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub fn payload(&self, at: PayloadRef) -> Result<Bytes, RuntimeError> {
        Ok(payload(&self.handle.reader(), at)?)
    }

    /// Closes the folder: finishes what was admitted first.
    pub fn close(mut self) {
        self.threads.stop();
    }
}

/// Why a commit did not take effect, or cannot be told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing happened.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It says whether it happened.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A handle on an open database, for async code. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    router: Arc<Router>,
}

impl Handle {
    /// Sends a command and waits for its outcome. A [`CommandBody::Wait`] is answered once granted, refused or timed out;
    /// dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`RuntimeError`] says whether it happened.
    pub async fn command(&self, command: Command) -> Result<Outcome, RuntimeError> {
        let mut leave = match &command.body {
            CommandBody::Wait { wait } => {
                Some(LeaveQueue { handle: self, wait: Some((command.principal.clone(), wait.clone())) })
            }
            _ => None,
        };
        let receive = self.propose(command)?;
        let outcome = outcome(receive.await);
        if let Some(leave) = &mut leave {
            leave.wait = None;
        }
        outcome
    }

    /// Reads the state. Linearizable: it sees every commit answered before.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub async fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> Result<R, RuntimeError> {
        self.barrier().await?;
        Ok(read(self.shared.lock().partition.machine()))
    }

    /// Looks at the state now and after each change that touches `interest`, until `look` finds something; nothing when
    /// `timeout` passes first.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node stops.
    pub async fn wait<R>(
        &self,
        interest: Interest,
        timeout: Duration,
        mut look: impl FnMut(&Machine) -> Option<R>,
    ) -> Result<Option<R>, RuntimeError> {
        self.barrier().await?;
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let (receive, _registered) = {
                let mut core = self.shared.lock();
                if let Some(found) = look(core.partition.machine()) {
                    return Ok(Some(found));
                }
                let (send, receive) = oneshot::channel();
                let id = core.partition.watch(interest.clone(), send);
                (receive, Registered { handle: self, id })
            };
            match tokio::time::timeout_at(deadline, receive).await {
                Err(_) => return Ok(None),
                Ok(Ok(Reply::Changed)) => {}
                Ok(_) => return Err(RuntimeError::Stopped { why: "it was asked to".into() }),
            }
        }
    }

    /// Reads payloads of streams, off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`] for the first that cannot be read.
    pub async fn payloads(&self, at: Vec<PayloadRef>) -> Result<Vec<Bytes>, RuntimeError> {
        let reader = self.reader();
        off_thread(move || {
            Ok(at.into_iter().map(|at| payload(&reader, at)).collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Reads one payload of a stream, off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub async fn payload(&self, at: PayloadRef) -> Result<Bytes, RuntimeError> {
        let reader = self.reader();
        off_thread(move || Ok(payload(&reader, at)?)).await
    }

    /// The newest `max` steps of a subject's history, oldest first, read from the log off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub async fn why(&self, subject: Subject, max: usize) -> Result<Vec<WhyRecord>, RuntimeError> {
        self.barrier().await?;
        let (reader, pending) = {
            let core = self.shared.lock();
            (core.partition.reader(), core.partition.decided())
        };
        off_thread(move || Ok(search(&reader, &WhyQuery { subject, max }, &pending)?)).await
    }

    /// Copies the data, as it is now, into an empty folder, while commits go on.
    ///
    /// # Errors
    /// [`RuntimeError::Log`]: the folder is not empty, or cannot be written.
    pub async fn backup(&self, folder: PathBuf) -> Result<BackupReport, RuntimeError> {
        use quorate_engine::Engine;
        let job = self.shared.lock().partition.engine().log().backup()?;
        off_thread(move || Ok(job.run(&FileDisk::open(folder)?, &mut |_, _| {})?)).await
    }

    /// How the partition is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.lock().partition.status()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Config {
        self.shared.lock().partition.config().clone()
    }

    /// Bounds of what clients send.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.lock().partition.config().limits.clone()
    }

    /// Metrics in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let (status, syncs) = {
            let core = self.shared.lock();
            (core.partition.status(), core.syncs.clone())
        };
        metrics::text(&status, &syncs)
    }

    /// What operators should hear of since the last call, oldest first.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().notes)
    }

    /// The router from keys to partitions.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Waits until the partition takes nothing any more, and tells why: the process should end then.
    pub async fn stopped(&self) -> String {
        loop {
            if let Some(why) = self.status().stopped {
                return why;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes a snapshot soon, whatever the configuration says.
    pub fn snapshot_soon(&self) {
        let mut core = self.shared.lock();
        core.partition.snapshot_soon();
        self.shared.nudge(&mut core);
    }

    pub(crate) fn reader(&self) -> LogReader {
        self.shared.lock().partition.reader()
    }

    fn propose(&self, command: Command) -> Result<oneshot::Receiver<Reply>, RuntimeError> {
        let (send, receive): (Ticket, _) = oneshot::channel();
        let mut core = self.shared.lock();
        if let Some(denied) = core.partition.deny(&command, self.shared.now()) {
            // Whoever asks holds the other end.
            let _ = send.send(Reply::Outcome(denied));
            return Ok(receive);
        }
        core.partition.propose(command, send).map_err(|(_, refused)| refused)?;
        self.shared.nudge(&mut core);
        Ok(receive)
    }

    /// Waits for an entry when something is due that no entry has ended yet.
    async fn barrier(&self) -> Result<(), RuntimeError> {
        if let Some(fatal) = self.shared.lock().partition.stopped() {
            return Err(RuntimeError::Stopped { why: fatal.why.clone() });
        }
        if self.shared.lock().partition.overdue(self.shared.now()) {
            self.command(barrier()).await?;
        }
        Ok(())
    }
}

/// An empty commit: its entry ends what is due.
fn barrier() -> Command {
    Command::new("server".into(), CommandBody::Commit { commit: Commit::default() })
}

fn outcome(received: Result<Reply, oneshot::error::RecvError>) -> Result<Outcome, RuntimeError> {
    match received {
        Ok(Reply::Outcome(outcome)) => Ok(outcome),
        Ok(Reply::Indeterminate | Reply::Changed) | Err(_) => Err(RuntimeError::Indeterminate),
    }
}

fn payload(reader: &LogReader, at: PayloadRef) -> Result<Bytes, quorate_log::LogError> {
    reader.payload(Index(at.index.0), at.sub)
}

async fn off_thread<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, RuntimeError> + Send + 'static,
) -> Result<R, RuntimeError> {
    // The task is never aborted, so it can only be missing when it panicked or the process is ending.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(RuntimeError::Stopped { why: error.to_string() }))
}

/// Leaves the queue of a lock when the future that waits is dropped.
struct LeaveQueue<'a> {
    handle: &'a Handle,
    wait: Option<(Principal, WaitRequest)>,
}

impl Drop for LeaveQueue<'_> {
    fn drop(&mut self) {
        if let Some((principal, wait)) = self.wait.take() {
            let body = CommandBody::CancelWait { lock: wait.lock, lease: wait.lease, request: wait.request };
            // Should it not be admitted, the wait ends with its timeout or its session.
            let _ = self.handle.propose(Command::new(principal, body));
        }
    }
}

/// Takes a registration back when the future that waits is done or dropped.
struct Registered<'a> {
    handle: &'a Handle,
    id: WatchId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.handle.shared.lock().partition.unwatch(self.id);
    }
}

fn entropy() -> Result<[u64; 2], getrandom::Error> {
    Ok([getrandom::u64()?, getrandom::u64()?])
}

fn no_system(what: &str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Log(quorate_log::LogError::Config(format!("cannot {what}: {error}")))
}

/// Memory of the machine (Linux: proc(5), meminfo).
fn memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
