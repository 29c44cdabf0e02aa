//! The embedded database, and the handle that gateways hold.
//!
//! Invariant: a wait for a lock whose caller goes away leaves its queue.
//! Called by: programs, gateways, the command line.

use crate::answers::Ticket;
use crate::door::Remembered;
use crate::driver::{Core, Shared, Threads, soon};
use crate::error::RuntimeError;
use crate::metrics;
use crate::replica::{self, ClusterConfig};
use bytes::Bytes;
use quorate_batch::Bad;
use quorate_engine::{Change, Identity};
use quorate_log::{BackupReport, FileDisk, Index, LogReader};
use quorate_machine::{Machine, Times};
use quorate_node::{
    ALONE, AdminRequest, Changes, ClusterStatus, Config, Doors, Interest, OpenError, OpenReport, Partition,
    PartitionId, Published, ReadBarrier, Reply, Router, Status, WatchId, WhyQuery, WhyRecord, search,
};
use quorate_types::{
    AlarmKind, Command, CommandBody, Commit, Committed, Limits, NodeId, Outcome, PayloadRef, Principal,
    Refusal, Revision, Subject, WaitRequest,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

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
        hide_hashes();
        let (partition, report) = Partition::open(disk, config, seeds[0], &mut progress)?;
        let threads = Threads::start(partition, seeds[1], memory_max())
            .map_err(|error| no_system("start a thread", &error))?;
        Ok(Self::with(threads, report))
    }

    /// Opens the folder of a cluster's node, or begins one that waits to become a member. Its handle works as that of an embedded
    /// database does: whatever only the leader can do is passed on.
    ///
    /// # Errors
    /// As [`Quorate::open`]; the folder belongs to another node, or the peers' listener cannot be used.
    pub fn open_cluster(
        folder: impl AsRef<Path>,
        config: Config,
        cluster: ClusterConfig,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let seeds = entropy().map_err(|error| no_system("read entropy", &error))?;
        hide_hashes();
        let folder = folder.as_ref();
        let (threads, report) = replica::start(folder, config, cluster, seeds, memory_max(), &mut progress)?;
        Ok(Self::with(threads, report))
    }

    fn with(threads: Threads, report: OpenReport) -> Self {
        let router = Arc::new(Router::new(&[PartitionId(0)]));
        let handle = Handle { shared: Arc::clone(&threads.shared), router };
        Self { threads, handle, report }
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
        let (send, receive) = Ticket::alone();
        let shared = &self.handle.shared;
        let mut core = shared.lock();
        let now = shared.now();
        let partition = core.open()?;
        if let Some(denied) = partition.deny(&command, now) {
            return Ok(denied);
        }
        partition.propose(command, send).map_err(|(_, refused)| refused)?;
        shared.handle_here(core);
        outcome(receive.blocking_recv())
    }

    /// Reads the state. Linearizable: it sees every commit answered before.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped, or no leader can be reached.
    pub fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> Result<R, RuntimeError> {
        let shared = &self.handle.shared;
        let now = shared.now();
        match shared.lock().open()?.read_barrier(now) {
            ReadBarrier::Free => {}
            ReadBarrier::Entry => drop(self.execute(barrier())?),
            ReadBarrier::Quorum => may_read(self.handle.request_read()?.blocking_recv())?,
        }
        Ok(read(shared.lock().open()?.machine()))
    }

    /// Reads a payload of a stream.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub fn payload(&self, at: PayloadRef) -> Result<Bytes, RuntimeError> {
        let inline = self.handle.shared.lock().open()?.machine().inline_payload(at);
        match inline {
            Some(bytes) => Ok(bytes),
            None => Ok(payload(&self.handle.reader()?, at)?),
        }
    }

    /// Closes the folder: finishes what was admitted first.
    pub fn close(mut self) {
        self.threads.stop();
    }
}

/// What became of a folder whose cluster was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The node it was.
    pub node: NodeId,
    /// The cluster it belonged to.
    pub cluster: u64,
    /// The revision that its state had reached.
    pub revision: Revision,
    /// The revision that the next commit is beyond: no token given by the lost cluster is ever given again.
    pub raised_to: Revision,
}

/// How far revisions are raised when a cluster is given up, or a backup becomes a new one.
pub const REVISIONS_RAISED: u64 = 1 << 32;

/// Gives up a cluster that has lost its quorum for good: its folder, with everything that is in its log, becomes a member of none, and
/// may begin a new cluster. What only the lost nodes had acknowledged is lost; nothing may run on the folder.
///
/// # Errors
/// The folder is in use, was never a cluster's, or cannot be read.
pub fn forget_cluster(folder: &Path, config: Config) -> Result<Forgotten, OpenError> {
    let disk: Arc<dyn quorate_log::Disk> = Arc::new(FileDisk::open(folder)?);
    let held = disk.lock()?;
    let instance = entropy().map_err(|error| no_system("read entropy", &error))?[0];
    let Some(old) = Identity::forget(&disk, instance)? else {
        let why = format!("{} was never a node of a cluster: nothing was changed", folder.display());
        return Err(OpenError::Engine(quorate_engine::EngineError::Identity(why)));
    };
    drop(held);
    let log = old.log_folder().map_or_else(|| folder.to_owned(), |name| folder.join(name));
    let quorate = Quorate::open(log, config, |_, _| {})?;
    let stopped = |error: RuntimeError| no_system("raise the revision", &error);
    let revision = quorate.read(Machine::revision).map_err(stopped)?;
    let raised_to = Revision(revision.0 + REVISIONS_RAISED);
    let raise = CommandBody::RaiseRevision { to: raised_to };
    quorate.execute(Command::new("server".into(), raise)).map_err(stopped)?;
    quorate.close();
    Ok(Forgotten { node: old.node, cluster: old.cluster.0, revision, raised_to })
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

/// Most bytes that one [`Handle::records`] unpacks.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// Why a payload of a stream cannot be read as records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The log cannot be read there; what was dropped meanwhile is gone.
    #[error("{0}")]
    Log(#[from] quorate_log::LogError),
    /// Its producer packed something else than records.
    #[error("{0}")]
    Batch(Bad),
    /// Together with what else was asked for it is too much.
    #[error("the batches unpack to more than {UNPACKED_BYTES_MAX} bytes: ask for fewer records at once")]
    Much {},
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
        self.read_with(Consistency::Linearizable, read).await
    }

    /// Reads the state as fresh as asked for.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped, or no leader can be reached that the read would need.
    pub async fn read_with<R>(
        &self,
        consistency: Consistency,
        read: impl FnOnce(&Machine) -> R,
    ) -> Result<R, RuntimeError> {
        self.read_at(consistency, |machine, _| read(machine)).await
    }

    /// As [`Handle::read_with`], with the times at which a deadline has to be looked at.
    ///
    /// # Errors
    /// As [`Handle::read_with`].
    pub async fn read_at<R>(
        &self,
        consistency: Consistency,
        read: impl FnOnce(&Machine, Times) -> R,
    ) -> Result<R, RuntimeError> {
        if !self.is_enough(consistency)? {
            self.barrier().await?;
        }
        let now = self.shared.now();
        let mut core = self.shared.lock();
        let partition = core.open()?;
        Ok(read(partition.machine(), partition.times(now)))
    }

    /// Tells the subscribers of a channel on every node, without an entry: those that are away do not hear of it.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub fn publish(&self, published: Published) -> Result<(), RuntimeError> {
        let mut core = self.shared.lock();
        core.open()?.publish(published);
        core.answer();
        self.shared.stir(&mut core);
        Ok(())
    }

    /// Whether a keyspace holds more than it may, by what was last applied here: a command that may need more would be refused.
    #[must_use]
    pub fn is_full(&self, space: quorate_types::Keyspace) -> bool {
        self.shared.seen.full.load(std::sync::atomic::Ordering::Relaxed)
            && self
                .shared
                .lock()
                .partition
                .as_ref()
                .is_some_and(|partition| partition.machine().is_full(space))
    }

    /// Says which events of keys the subscribers of this node listen to: they are told as if they were published. None are made otherwise.
    pub fn listen(&self, classes: quorate_calls::events::Classes) {
        let mut core = self.shared.lock();
        core.listening = classes;
        if let Some(partition) = &mut core.partition {
            partition.listen(classes);
        }
    }

    /// Says where clients of a gateway of this node reach it: the other nodes of its cluster hear of it with its next ping.
    pub fn announce(&self, door: impl FnOnce(&mut Doors)) {
        let mut core = self.shared.lock();
        door(&mut core.doors);
        let Core { partition, doors, .. } = &mut *core;
        if let Some(partition) = partition {
            partition.announce(doors);
        }
    }

    /// Everything that is published from now on, by this node and the others, and by calls once they are applied. To be taken quickly.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Published> {
        let (send, receive) = mpsc::unbounded_channel();
        self.shared.lock().subscribers.push(send);
        receive
    }

    /// Names of what changes on this node's state, by whatever protocol and node, once [`Handle::follow`] is on. To be taken quickly.
    #[must_use]
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Changes> {
        let (send, receive) = mpsc::unbounded_channel();
        self.shared.lock().followers.push(send);
        receive
    }

    /// Begins or ends to tell what changes. A read that begins after this returns misses no change after it.
    pub fn follow(&self, on: bool) {
        let mut core = self.shared.lock();
        core.follows = on;
        if let Some(partition) = &mut core.partition {
            partition.follow(on);
        }
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
        look: impl FnMut(&Machine) -> Option<R>,
    ) -> Result<Option<R>, RuntimeError> {
        self.barrier().await?;
        self.wait_here(interest, timeout, look).await
    }

    /// As [`Handle::wait`], but asks nobody first whether others are further: for who goes on from what was read here.
    ///
    /// # Errors
    /// As [`Handle::wait`].
    pub async fn wait_here<R>(
        &self,
        interest: Interest,
        timeout: Duration,
        mut look: impl FnMut(&Machine) -> Option<R>,
    ) -> Result<Option<R>, RuntimeError> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let (receive, _registered) = {
                let mut core = self.shared.lock();
                if let Some(found) = look(core.open()?.machine()) {
                    return Ok(Some(found));
                }
                let (send, receive) = core.answers.ticket();
                let id = core.open()?.watch(interest.clone(), send);
                (receive, Registered { handle: self, id })
            };
            match tokio::time::timeout_at(deadline, receive).await {
                Err(_) => return Ok(None),
                Ok(Ok(Reply::Changed)) => {}
                // A replica that opens its folder anew goes on afterwards; a node that stops does not.
                Ok(_) => return Err(self.shared.lock().open().err().unwrap_or(RuntimeError::Restarting)),
            }
        }
    }

    /// Waits until what is applied here has a revision beyond this one, and tells it; it asks nobody whether others are further.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node stops.
    pub async fn beyond(&self, revision: Revision) -> Result<Revision, RuntimeError> {
        loop {
            let (receive, _registered) = {
                let mut core = self.shared.lock();
                let found = core.open()?.machine().revision();
                if found > revision {
                    return Ok(found);
                }
                let (send, receive) = core.answers.ticket();
                let id = core.open()?.watch(Interest::Revision, send);
                (receive, Registered { handle: self, id })
            };
            if !matches!(receive.await, Ok(Reply::Changed)) {
                return Err(self.shared.lock().open().err().unwrap_or(RuntimeError::Restarting));
            }
        }
    }

    /// The term in force, as far as this node knows; it costs no lock.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.shared.seen.term.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether whoever does not say who it is enters as the user `default`, by what is applied here; it costs no lock. Whoever was told that
    /// the door was closed finds it closed here.
    #[must_use]
    pub fn door_is_open(&self) -> bool {
        self.shared.seen.open.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Reads payloads of streams as records ([`quorate_types::record`]), whatever protocol they came by: batches are unpacked, off this thread,
    /// to no more than [`UNPACKED_BYTES_MAX`] bytes in all. In the order asked for; what cannot be read says why.
    ///
    /// # Errors
    /// [`RuntimeError`] when the node has stopped.
    pub async fn records(&self, at: Vec<PayloadRef>) -> Result<Vec<Result<Bytes, Unreadable>>, RuntimeError> {
        let (reader, inline) = self.inline(&at)?;
        if inline.iter().all(Option::is_some) {
            return Ok(inline.into_iter().flatten().map(Ok).collect());
        }
        off_thread(move || {
            let mut left = UNPACKED_BYTES_MAX;
            let mut read = |(at, inline): (PayloadRef, Option<Bytes>)| {
                if let Some(inline) = inline {
                    return Ok(inline);
                }
                let found = payload(&reader, at)?;
                if !quorate_batch::is_batch(&found) {
                    return Ok(found);
                }
                let records = quorate_batch::to_records(&found, left).map_err(|why| match why {
                    Bad::Large { max } if max == left => Unreadable::Much {},
                    why => Unreadable::Batch(why),
                })?;
                left = left.saturating_sub(records.len());
                Ok(records)
            };
            Ok(at.into_iter().zip(inline).map(&mut read).collect())
        })
        .await
    }

    /// A reader of the log, and those of the payloads that are in the state and need no disk: what scripts appended.
    fn inline(&self, at: &[PayloadRef]) -> Result<(LogReader, Vec<Option<Bytes>>), RuntimeError> {
        let mut core = self.shared.lock();
        let partition = core.open()?;
        let inline = at.iter().map(|at| partition.machine().inline_payload(*at)).collect();
        Ok((partition.reader(), inline))
    }

    /// Reads payloads of streams as they are stored, off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`] for the first that cannot be read.
    pub async fn payloads(&self, at: Vec<PayloadRef>) -> Result<Vec<Bytes>, RuntimeError> {
        let (reader, inline) = self.inline(&at)?;
        if inline.iter().all(Option::is_some) {
            return Ok(inline.into_iter().flatten().collect());
        }
        off_thread(move || {
            let all = at.into_iter().zip(inline);
            let found = all.map(|(at, inline)| inline.map_or_else(|| payload(&reader, at), Ok));
            Ok(found.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Reads one payload of a stream, off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub async fn payload(&self, at: PayloadRef) -> Result<Bytes, RuntimeError> {
        let mut found = self.payloads(vec![at]).await?;
        Ok(found.pop().expect("as many come back as were asked for"))
    }

    /// The newest `max` steps of a subject's history, oldest first, read from the log off this thread.
    ///
    /// # Errors
    /// [`RuntimeError::Log`].
    pub async fn why(&self, subject: Subject, max: usize) -> Result<Vec<WhyRecord>, RuntimeError> {
        self.barrier().await?;
        let (reader, pending) = {
            let mut core = self.shared.lock();
            let partition = core.open()?;
            (partition.reader(), partition.decided())
        };
        off_thread(move || Ok(search(&reader, &WhyQuery { subject, max }, &pending)?)).await
    }

    /// Copies the data, as it is now, into an empty folder, while commits go on.
    ///
    /// # Errors
    /// [`RuntimeError::Log`]: the folder is not empty, or cannot be written.
    pub async fn backup(&self, folder: PathBuf) -> Result<BackupReport, RuntimeError> {
        let job = self.shared.lock().open()?.engine().log().backup()?;
        off_thread(move || Ok(job.run(&FileDisk::open(folder)?, &mut |_, _| {})?)).await
    }

    /// How the partition is.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut core = self.shared.lock();
        match core.open() {
            Ok(partition) => partition.status(),
            Err(why) => {
                Status { stopped: core.broken.as_ref().map(|_| why.to_string()), ..Status::default() }
            }
        }
    }

    /// The alarms that were raised by hand, as of what is applied here; none while the folder is opened anew.
    #[must_use]
    pub fn alarms(&self) -> Vec<(NodeId, AlarmKind)> {
        self.shared.lock().open().map(|partition| partition.machine().alarms().collect()).unwrap_or_default()
    }

    /// How the cluster is, as this node sees it; nothing when it runs alone.
    #[must_use]
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        self.shared.lock().open().ok()?.cluster_status()
    }

    /// Where clients reach the leader, when this node is part of a cluster and knows.
    #[must_use]
    pub fn leader_url(&self) -> Option<String> {
        self.shared.peers.get()?;
        self.cluster_status()?.leader_url
    }

    /// Begins a cluster with this node as its only member, then adds the others that it was started with, in the background.
    ///
    /// # Errors
    /// [`RuntimeError::Cluster`]: it is a member already, or runs alone.
    pub async fn cluster_init(&self) -> Result<(), RuntimeError> {
        Arc::clone(self.peers()?).init().await
    }

    /// Adds the node that answers at `address`; with `vote` it becomes a voter by itself once it has caught up.
    ///
    /// # Errors
    /// [`RuntimeError::Cluster`]: nobody answers there, or another node, or it is not free.
    pub async fn cluster_add(&self, node: NodeId, address: String, vote: bool) -> Result<(), RuntimeError> {
        self.peers()?.add(node, address, vote).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// [`RuntimeError::Cluster`]: it is none, or the last voter, or the leader, or another change is under way.
    pub async fn cluster_remove(&self, node: NodeId) -> Result<(), RuntimeError> {
        self.change(vec![Change::Remove { node }]).await
    }

    /// Makes a learner a voter and removes another member, in one joint change.
    ///
    /// # Errors
    /// As [`Handle::cluster_remove`].
    pub async fn cluster_swap(&self, remove: NodeId, promote: NodeId) -> Result<(), RuntimeError> {
        self.change(vec![Change::Promote { node: promote }, Change::Remove { node: remove }]).await
    }

    /// Hands leadership to a voter; to the one best up to date when none is named.
    ///
    /// # Errors
    /// [`RuntimeError::Cluster`]: it cannot lead.
    pub async fn cluster_transfer(&self, to: Option<NodeId>) -> Result<(), RuntimeError> {
        self.peers()?.administer(AdminRequest::Transfer { to: to.unwrap_or(NodeId::ZERO) }).await
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), RuntimeError> {
        self.peers()?.administer(AdminRequest::Change { changes }).await
    }

    fn peers(&self) -> Result<&Arc<replica::Peers>, RuntimeError> {
        self.shared.peers.get().ok_or_else(|| RuntimeError::Cluster { why: ALONE.to_owned() })
    }

    /// Whether this node serves linearizable requests now.
    ///
    /// # Errors
    /// What is missing.
    pub async fn ready(&self) -> Result<(), RuntimeError> {
        let waited = tokio::time::timeout(Duration::from_secs(1), self.barrier()).await;
        waited.unwrap_or_else(|_| {
            let missing = self.cluster_status().and_then(|status| status.missing);
            let why = missing.unwrap_or_else(|| "no read was confirmed within a second".to_owned());
            Err(RuntimeError::NoLeader { why })
        })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Config {
        self.shared.config.clone()
    }

    /// Bounds of what clients send.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.config.limits.clone()
    }

    /// Metrics in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let (status, syncs) = (self.status(), self.shared.lock().syncs.clone());
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
        if let Ok(partition) = core.open() {
            partition.snapshot_soon();
        }
        self.shared.stir(&mut core);
    }

    /// Looks at what is applied here, without asking whether others are further.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Machine) -> R) -> Result<R, RuntimeError> {
        Ok(look(self.shared.lock().open()?.machine()))
    }

    pub(crate) fn remembered(&self) -> &Remembered {
        &self.shared.remembered
    }

    pub(crate) fn users_receiver(&self) -> watch::Receiver<u64> {
        self.shared.users.subscribe()
    }

    pub(crate) fn reader(&self) -> Result<LogReader, RuntimeError> {
        Ok(self.shared.lock().open()?.reader())
    }

    pub(crate) fn request_read(&self) -> Result<oneshot::Receiver<Reply>, RuntimeError> {
        self.ask_to_read(self.shared.lock())
    }

    fn ask_to_read(&self, mut core: MutexGuard<'_, Core>) -> Result<oneshot::Receiver<Reply>, RuntimeError> {
        let (send, receive) = core.answers.ticket();
        core.open()?.request_read(send);
        // Not asked at once: what other readers bring meanwhile is confirmed by the same question.
        soon(&self.shared, core);
        Ok(receive)
    }

    fn propose(&self, command: Command) -> Result<oneshot::Receiver<Reply>, RuntimeError> {
        let mut core = self.shared.lock();
        let (ticket, receive) = core.answers.ticket();
        let now = self.shared.now();
        let partition = core.open()?;
        if let Some(denied) = partition.deny(&command, now) {
            ticket.answer(Reply::Outcome(denied));
            return Ok(receive);
        }
        partition.propose(command, ticket).map_err(|(_, refused)| refused)?;
        let leads = partition.engine().standing().orders;
        match self.shared.peers.get() {
            None => self.shared.round_soon(core),
            // The end of the write that is under way will see to what has gathered.
            Some(_) if leads && core.driving => {}
            Some(_) => soon(&self.shared, core),
        }
        Ok(receive)
    }

    /// Whether what is applied here is fresh enough as it is.
    fn is_enough(&self, consistency: Consistency) -> Result<bool, RuntimeError> {
        Ok(match consistency {
            Consistency::Linearizable => false,
            Consistency::Stale => true,
            Consistency::Bounded(staleness) => {
                let now = self.shared.now();
                self.shared.lock().open()?.is_fresh(now, staleness.as_nanos() as u64)
            }
        })
    }

    /// Waits until what is applied here is all that was answered anywhere before.
    async fn barrier(&self) -> Result<(), RuntimeError> {
        let now = self.shared.now();
        let asked = {
            let mut core = self.shared.lock();
            let partition = core.open()?;
            if let Some(fatal) = partition.stopped() {
                return Err(RuntimeError::Stopped { why: fatal.why.clone() });
            }
            match partition.read_barrier(now) {
                ReadBarrier::Free => return Ok(()),
                ReadBarrier::Entry => None,
                ReadBarrier::Quorum => Some(self.ask_to_read(core)?),
            }
        };
        match asked {
            None => drop(self.command(barrier()).await?),
            Some(asked) => may_read(asked.await)?,
        }
        Ok(())
    }
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every commit answered before it began, anywhere. The default.
    #[default]
    Linearizable,
    /// It sees every commit answered so long before it began.
    Bounded(Duration),
    /// It sees what this node has applied.
    Stale,
}

fn may_read(received: Result<Reply, oneshot::error::RecvError>) -> Result<(), RuntimeError> {
    match received {
        Ok(Reply::MayRead) => Ok(()),
        Ok(Reply::Refused(refused)) => Err(refused.into()),
        _ => Err(RuntimeError::Restarting),
    }
}

/// An empty commit: its entry ends what is due.
fn barrier() -> Command {
    Command::new("server".into(), CommandBody::Commit { commit: Commit::default() })
}

fn outcome(received: Result<Reply, oneshot::error::RecvError>) -> Result<Outcome, RuntimeError> {
    match received {
        Ok(Reply::Outcome(outcome)) => Ok(outcome),
        Ok(Reply::Refused(refused)) => Err(refused.into()),
        Ok(Reply::Indeterminate | Reply::Changed | Reply::MayRead | Reply::Admin(_)) | Err(_) => {
            Err(RuntimeError::Indeterminate)
        }
    }
}

fn payload(reader: &LogReader, at: PayloadRef) -> Result<Bytes, quorate_log::LogError> {
    reader.payload(Index(at.index.0), at.sub)
}

pub(crate) async fn off_thread<R: Send + 'static>(
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
        if let Ok(partition) = self.handle.shared.lock().open() {
            partition.unwatch(self.id);
        }
    }
}

/// Hides where elements lie from those who choose them. The first folder that a process opens decides; later ones find it done.
fn hide_hashes() {
    if let Ok(seed) = getrandom::u64() {
        let _ = quorate_calls::collections::seed_hashes(seed);
    }
}

fn entropy() -> Result<[u64; 3], getrandom::Error> {
    Ok([getrandom::u64()?, getrandom::u64()?, getrandom::u64()?])
}

fn memory_max() -> u64 {
    memory_bytes().map_or(u64::MAX, |bytes| bytes / 100 * MEMORY_PART)
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
