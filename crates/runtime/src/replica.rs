//! A replica at run time: its peers, the thread that writes, and the copying of a log.
//!
//! Frames from peers and commands from clients are handled by whoever brings them, under the partition's lock; only writing and syncing
//! happen on a thread of their own, and what arrives meanwhile gathers for the next entry. So a slow disk delays neither heartbeats nor
//! votes, and a message costs no hand-over between threads: what clients bring is handled by a task that runs after theirs, and frames
//! leave on the thread that made them.
//!
//! Invariant: at most one job is under way; while it is, nothing is ordered.
//! Invariant: frames are queued under the lock and written without it, in the order of the queue; whoever queued some flushes.
//! Invariant: a folder is opened anew only when no job and no slow work is under way, and never while the lock is held.
//! Called by: `handle`; the links call [`Peers`].

use crate::answers::{self, Ticket};
use crate::driver::{Core, SLEEP_MAX, Shared, Threads, sleep, spawn, work};
use crate::error::RuntimeError;
use bytes::Bytes;
use quorate_engine::{Change, CopyWanted, Job};
use quorate_log::{Disk, Export, ExportFile, FileDisk, Import};
use quorate_node::{AdminRequest, Config, OpenError, Partition, ReplicaConfig, Work};
use quorate_peers::{BoxFuture, Hello, Host, Links, LinksConfig, PeerTls};
use quorate_types::codec::{decode, encode};
use quorate_types::{ClusterId, LogIndex, NodeId, wire_enum, wire_struct};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// In a hello: the folder holds entries. A stranger that says so cannot join, only begin a cluster.
const HAS_DATA: u8 = 1;
/// Bytes asked for at a time while a log is copied.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces asked for ahead of the one that is written.
const PIECES_AHEAD: usize = 4;
/// How long one piece may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Copies of the log offered at the same time; the oldest is forgotten first.
const OFFERS_MAX: usize = 4;
/// A write that takes so long is a disk that hangs: another should lead.
const JOB_MAX: Duration = Duration::from_secs(3);
/// How long after a copy failed the next is begun.
const COPY_PAUSE: Duration = Duration::from_secs(1);
/// How long a copy is offered after it was last asked for.
const OFFER_MAX: Duration = Duration::from_secs(120);
/// How long a replica that stops waits for another to take over, and for what it admitted.
const STOP_MAX: Duration = Duration::from_secs(3);

/// What makes a node part of a cluster.
pub struct ClusterConfig {
    /// The node's number, 1 or more, its own in the cluster.
    pub node: NodeId,
    /// Where peers are accepted.
    pub listener: TcpListener,
    /// Where peers dial this node.
    pub address: String,
    /// The nodes that `cluster init` at this node adds.
    pub peers: Vec<(NodeId, String)>,
    /// Where clients reach this node, as its peers tell theirs.
    pub url: String,
    /// Mutual TLS between the nodes.
    pub tls: Option<PeerTls>,
}

/// The peers' side of a replica.
pub(crate) struct Peers {
    shared: OnceLock<Weak<Shared>>,
    links: OnceLock<Links>,
    /// Taken when the replica ends: the writing thread ends with it.
    jobs: Mutex<Option<SyncSender<Job>>>,
    pub(crate) runtime: tokio::runtime::Handle,
    replica: ReplicaConfig,
    address: String,
    others: Vec<(NodeId, String)>,
    folder: PathBuf,
    hello: Mutex<Hello>,
    /// Copies of the log that peers are fetching.
    offers: Mutex<VecDeque<Offer>>,
    next_offer: AtomicU64,
    /// A copy of another's log is being fetched.
    copying: AtomicBool,
}

struct Offer {
    number: u64,
    export: Arc<Export>,
    asked: std::time::Instant,
}

/// Opens a replica's folder and starts its threads.
pub(crate) fn start(
    folder: &Path,
    config: Config,
    cluster: ClusterConfig,
    seeds: [u64; 3],
    memory_bytes_max: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Threads, quorate_node::OpenReport), OpenError> {
    let no = |what: &str, why: &dyn std::fmt::Display| {
        OpenError::Log(quorate_log::LogError::Config(format!("cannot {what}: {why}")))
    };
    let ClusterConfig { node, listener, address, peers, url, tls } = cluster;
    let replica = ReplicaConfig { node, life: seeds[2] | 1, boot: boot_id(), url };
    let disk = Arc::new(FileDisk::open(folder)?);
    let (partition, report) = Partition::open_replica(disk, config, replica.clone(), seeds[0], progress)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no("start the peers' runtime", &error))?;
    let (send_job, jobs) = sync_channel(1);
    let host = Arc::new(Peers {
        shared: OnceLock::new(),
        links: OnceLock::new(),
        jobs: Mutex::new(Some(send_job)),
        runtime: runtime.handle().clone(),
        address,
        others: peers.into_iter().filter(|(other, _)| *other != node).collect(),
        folder: folder.to_owned(),
        hello: Mutex::new(hello(&partition, &replica)),
        replica,
        offers: Mutex::default(),
        next_offer: AtomicU64::new(1),
        copying: AtomicBool::new(false),
    });
    let shared = Shared::new(partition, seeds[1], memory_bytes_max);
    let _ = host.shared.set(Arc::downgrade(&shared));
    let _ = shared.peers.set(Arc::clone(&host));
    let link_config = LinksConfig { tls, ..LinksConfig::default() };
    let as_host: Arc<dyn Host> = Arc::clone(&host) as Arc<dyn Host>;
    let links = Links::start(runtime.handle(), listener, as_host, link_config)
        .map_err(|error| no("listen for peers", &error))?;
    let _ = host.links.set(links);
    let thread = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
        spawn(name, &shared, run).map_err(|error| no("start a thread", &error))
    };
    let (send_work, works) = sync_channel::<Work>(1);
    let (peers_end, ended) = tokio::sync::oneshot::channel::<()>();
    let threads = vec![
        thread("quorate-partition", Box::new(move |shared| drive(shared, &send_work, peers_end)))?,
        thread("quorate-sync", Box::new(move |shared| write_jobs(shared, &jobs)))?,
        thread("quorate-background", Box::new(move |shared| work(shared, &works)))?,
        thread(
            "quorate-peers",
            Box::new(move |_| {
                // Dropping the sender ends it, whoever does.
                let _ = runtime.block_on(ended);
            }),
        )?,
    ];
    Ok((Threads { shared, threads }, report))
}

impl Shared {
    /// Handles what has arrived: orders it unless a job is under way, sends, answers, and starts the next job.
    pub(crate) fn settle(&self, core: &mut Core) {
        let Some(peers) = self.peers.get() else { return };
        let (now, seed) = (self.now(), core.entropy());
        let driving = core.driving;
        let Some(partition) = &mut core.partition else { return };
        // A failed log answers everybody; there is nothing else to do about it here.
        let _ = if driving { partition.pulse(now) } else { partition.turn(now, seed) };
        self.ship(core, peers);
    }

    /// Writes to the peers what was sent. Not while the lock is held: others need it, and the kernel takes its time.
    pub(crate) fn flush(&self) {
        if let Some(links) = self.peers.get().and_then(|peers| peers.links.get()) {
            links.flush();
        }
    }

    /// Sends and answers what is ready, and starts the next job; what is sent is to be flushed.
    fn ship(&self, core: &mut Core, peers: &Peers) {
        core.answer();
        let Some(partition) = &mut core.partition else { return };
        if let Some(links) = peers.links.get() {
            for (node, frame) in partition.take_frames() {
                // What is dropped here is sent again by the protocol above.
                links.queue(node.0, frame);
            }
        }
        if core.driving {
            return;
        }
        if let Some(job) = partition.take_job() {
            self.hand_out(core, peers, job);
        }
    }

    fn hand_out(&self, core: &mut Core, peers: &Peers, job: Job) {
        core.driving = true;
        core.job_since = std::time::Instant::now();
        let jobs = peers.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // It takes one at a time and is idle now, so there is room.
        if jobs.as_ref().is_none_or(|jobs| jobs.try_send(job).is_err()) {
            core.notes.push("the writing thread has ended: nothing is written any more".into());
            if let Some(partition) = &mut core.partition {
                partition.stop("the writing thread has ended");
            }
            core.answer();
        }
    }
}

/// The thread that writes and syncs. Under load it drives the rounds: what gathered during one write goes into the next.
fn write_jobs(shared: &Shared, jobs: &Receiver<Job>) {
    while let Ok(mut job) = jobs.recv() {
        loop {
            let mut core = shared.run(job);
            let (now, seed) = (shared.now(), core.entropy());
            // Under steady load one job follows another: every so often one of them has to sync.
            let owed = shared.owes_sync(&core);
            if owed {
                core.synced = std::time::Instant::now();
            }
            let mut next = None;
            if let Some(partition) = &mut core.partition {
                let _ = partition.turn(now, seed);
                next = if owed { partition.take_sync_job() } else { partition.take_job() };
            }
            core.driving = next.is_some();
            core.job_since = std::time::Instant::now();
            let (Some(peers), driving) = (shared.peers.get(), core.driving) else { return };
            // The next job is in hand: shipping must not take another.
            core.driving = true;
            shared.ship(&mut core, peers);
            core.driving = driving;
            if next.is_none()
                && (core.stopping || core.partition.as_ref().is_some_and(Partition::wants_reopening))
            {
                shared.wake_driver(&mut core);
            }
            drop(core);
            shared.flush();
            match next {
                Some(next) => job = next,
                None => break,
            }
        }
    }
}

/// The replica's own thread: ticks, slow work, opening the folder anew, the end.
fn drive(shared: &Shared, work: &SyncSender<Work>, peers_end: tokio::sync::oneshot::Sender<()>) {
    let Some(peers) = shared.peers.get().map(Arc::clone) else { return };
    let mut looked = None;
    let mut slow_until = std::time::Instant::now();
    let mut stop_by: Option<std::time::Instant> = None;
    let mut dialled = Vec::new();
    let mut core = shared.lock();
    loop {
        shared.settle(&mut core);
        peers.dial(&core, &mut dialled);
        peers.copy_if_wanted(&mut core);
        peers.withdraw_offers();
        shared.look(&mut core, &mut looked);
        core.hand_out_work(work);
        if let Some(partition) = &mut core.partition {
            let notes = partition.take_replica_notes();
            core.notes.extend(notes);
        }
        let idle = !core.driving && !core.working;
        if idle && core.partition.as_ref().is_some_and(Partition::wants_reopening) {
            core = peers.reopen(shared, core);
            dialled.clear();
            continue;
        }
        let stuck = core.driving && core.job_since.elapsed() >= JOB_MAX && slow_until.elapsed() >= JOB_MAX;
        if stuck {
            // Heartbeats go on while a disk hangs, so that nobody else would ever lead.
            slow_until = std::time::Instant::now();
            if core.partition.as_mut().is_some_and(Partition::hand_over) {
                core.notes.push("the disk has not answered for seconds: leadership is handed over".into());
            }
            shared.settle(&mut core);
        }
        if idle && shared.owes_sync(&core) {
            core.synced = std::time::Instant::now();
            start(shared, &peers, &mut core, Partition::take_sync_job);
        } else if idle && core.is_quiet() {
            start(shared, &peers, &mut core, Partition::take_mark_job);
        }
        if core.stopping {
            let by = *stop_by.get_or_insert_with(|| {
                if let Some(partition) = &mut core.partition {
                    partition.hand_over();
                }
                std::time::Instant::now() + STOP_MAX
            });
            let leads = core.partition.as_ref().is_some_and(|partition| {
                let standing = partition.engine().standing();
                standing.leads && partition.members().len() > 1
            });
            let done = core.is_quiet() && !core.driving && !core.working && !leads;
            if done || std::time::Instant::now() >= by {
                break;
            }
        }
        // Seldom, and before it sleeps: the lock may be held for it.
        shared.flush();
        let now = shared.now();
        let wake = core.partition.as_ref().and_then(|partition| partition.next_wake(now));
        let wake = wake.map_or(SLEEP_MAX, Duration::from_nanos).min(SLEEP_MAX);
        if wake.is_zero() {
            core = shared.give_way(core);
        } else {
            core = sleep(shared, core, wake);
        }
    }
    let driving = core.driving;
    if let Some(partition) = &mut core.partition {
        // Nothing is acknowledged any more, so the lock may be held while the disk is waited for.
        while !driving && let Some(job) = partition.take_sync_job() {
            if partition.complete(job.run()).is_err() {
                break;
            }
        }
        let closed = if driving { Ok(()) } else { partition.close() };
        partition.stop("it was asked to");
        core.notes.extend(closed.err().map(|error| error.to_string()));
    }
    core.answer();
    drop(core);
    shared.flush();
    if let Some(links) = peers.links.get() {
        links.stop();
    }
    drop(peers_end);
    // The writing thread ends when nobody can give it a job any more.
    peers.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();

    fn start(
        shared: &Shared,
        peers: &Peers,
        core: &mut Core,
        take: impl FnOnce(&mut Partition<Ticket>) -> Option<Job>,
    ) {
        if let Some(job) = core.partition.as_mut().and_then(take) {
            shared.hand_out(core, peers, job);
        }
    }
}

/// What a replica asks of another that has what it lacks.
enum CopyRequest {
    /// A consistent set of files, held until it is fetched.
    Begin {},
    /// A piece of one of them.
    Read { offer: u64, file: u64, offset: u64, bytes: u64 },
}
wire_enum!(CopyRequest { 1 = Begin {}, 2 = Read { offer, file, offset, bytes } });

struct CopyOffer {
    offer: u64,
    last: LogIndex,
    files: Vec<(String, u64)>,
}
wire_struct!(CopyOffer { offer, last, files });

impl Peers {
    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get()?.upgrade()
    }

    fn hello(&self) -> MutexGuard<'_, Hello> {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dials the members of now.
    fn dial(&self, core: &Core, dialled: &mut Vec<(u64, String)>) {
        let (Some(partition), Some(links)) = (&core.partition, self.links.get()) else { return };
        // Who we are is about to change, and is said once, at the beginning of a link.
        if partition.wants_reopening() {
            return;
        }
        let others = partition.members().into_iter().filter(|member| member.node != self.replica.node);
        let wanted: Vec<(u64, String)> = others.map(|member| (member.node.0, member.address)).collect();
        if wanted != *dialled {
            links.set_peers(wanted.clone());
            *dialled = wanted;
        }
    }

    /// Opens the folder anew: it has another log, or another cluster.
    fn reopen<'a>(&self, shared: &'a Shared, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        let Some(mut old) = core.partition.take() else { return core };
        let life = core.entropy() | 1;
        let hash_seed = core.entropy();
        drop(core);
        // Links begin with who we are, and that has changed.
        if let Some(links) = self.links.get() {
            links.set_peers(Vec::new());
        }
        old.stop("the folder is opened anew");
        answers::each(old.take_replies());
        drop(old);
        let replica = ReplicaConfig { life, ..self.replica.clone() };
        let opened = FileDisk::open(&self.folder).map_err(OpenError::from).and_then(|disk| {
            let config = shared.config.clone();
            Partition::open_replica(Arc::new(disk), config, replica.clone(), hash_seed, &mut |_, _| {})
        });
        let mut core = shared.lock();
        match opened {
            Ok((partition, report)) => {
                *self.hello() = hello(&partition, &replica);
                core.notes.extend(report.notes);
                core.partition = Some(partition);
            }
            Err(error) => {
                core.notes.push(format!("the folder cannot be opened again: {error}"));
                core.broken = Some(error.to_string());
            }
        }
        core
    }

    /// Lets go of copies that nobody asks for any more: they keep dead segments on the disk.
    fn withdraw_offers(&self) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.asked.elapsed() < OFFER_MAX);
    }

    /// Begins to fetch a copy of the leader's log when this replica needs one.
    fn copy_if_wanted(self: &Arc<Self>, core: &mut Core) {
        let Some(partition) = &mut core.partition else { return };
        let Some(wanted) = partition.copy_wanted().filter(|_| !partition.wants_reopening()) else { return };
        if self.copying.swap(true, Ordering::SeqCst) {
            return;
        }
        let staging = match partition.staging() {
            Ok(staging) => staging,
            Err(error) => {
                core.notes.push(error.to_string());
                return self.copying.store(false, Ordering::SeqCst);
            }
        };
        partition.set_copying(true);
        core.notes.push(format!("too far behind: copying the log of node {}", wanted.from));
        let peers = Arc::clone(self);
        self.runtime.spawn(async move {
            let begun = std::time::Instant::now();
            let copied = peers.copy(wanted, staging).await;
            if copied.is_err() {
                tokio::time::sleep(COPY_PAUSE).await;
            }
            let Some(shared) = peers.shared() else { return };
            let mut core = shared.lock();
            let note = match (copied, &mut core.partition) {
                (_, None) => None,
                (Ok((last, bytes)), Some(partition)) => {
                    let ms = begun.elapsed().as_millis().max(1) as u64;
                    Some(match partition.install(wanted, last) {
                        Ok(true) => format!("copied {bytes} bytes in {ms} ms ({} MB/s)", bytes / ms / 1000),
                        Ok(false) => "the copy is out of date: copying again".to_owned(),
                        Err(error) => error.to_string(),
                    })
                }
                (Err(why), Some(_)) => Some(format!("copying the log failed, trying again: {why}")),
            };
            core.notes.extend(note);
            if let Some(partition) = &mut core.partition {
                partition.set_copying(false);
            }
            peers.copying.store(false, Ordering::SeqCst);
            shared.wake_driver(&mut core);
        });
    }

    /// Fetches every file that is not here yet; the last entry of the copy, and the bytes fetched.
    async fn copy(
        self: &Arc<Self>,
        wanted: CopyWanted,
        staging: Arc<dyn Disk>,
    ) -> Result<(LogIndex, u64), String> {
        let ask = |request: CopyRequest| {
            let (peers, from) = (Arc::clone(self), wanted.from.0);
            // On its own, so that several are on their way at once.
            let asked = self.runtime.spawn(async move {
                let links = peers.links.get().ok_or("the links have ended")?;
                links.fetch(from, Bytes::from(encode(&request)), PIECE_TIMEOUT).await.map_err(text)
            });
            async move { asked.await.unwrap_or_else(|error| Err(error.to_string())) }
        };
        let offer = ask(CopyRequest::Begin {}).await?;
        let CopyOffer { offer, last, files } = decode(&offer).map_err(text)?;
        let list: Vec<ExportFile> =
            files.into_iter().map(|(name, bytes)| ExportFile { name, bytes }).collect();
        let mut import = {
            let list = list.clone();
            blocking(move || Import::begin(staging, &list).map_err(text)).await?
        };
        let mut pieces = VecDeque::new();
        for (number, file) in list.iter().enumerate() {
            let mut at = import.have(number);
            while at < file.bytes {
                let bytes = PIECE_BYTES.min(file.bytes - at);
                pieces.push_back((number, at, bytes));
                at += bytes;
            }
        }
        let total = pieces.iter().map(|(_, _, bytes)| bytes).sum();
        let mut under_way = VecDeque::new();
        loop {
            while under_way.len() < PIECES_AHEAD
                && let Some((file, offset, bytes)) = pieces.pop_front()
            {
                let request = CopyRequest::Read { offer, file: file as u64, offset, bytes };
                under_way.push_back((file, offset, bytes, ask(request)));
            }
            let Some((file, offset, bytes, asked)) = under_way.pop_front() else { break };
            let piece = asked.await?;
            if piece.len() as u64 != bytes {
                return Err(format!("a piece of {bytes} bytes came with {}", piece.len()));
            }
            import = blocking(move || {
                import.write(file, offset, &piece).map_err(text)?;
                Ok(import)
            })
            .await?;
        }
        let reached = blocking(move || import.finish().map_err(text)).await?;
        if reached.0 != last.0 {
            return Err(format!("the copy ends at entry {reached}, the leader said {last}"));
        }
        Ok((last, total))
    }

    async fn serve_copy(self: Arc<Self>, request: Bytes) -> Result<Bytes, String> {
        let shared = self.shared().ok_or("the node stops")?;
        match decode(&request).map_err(text)? {
            CopyRequest::Begin {} => {
                let export = {
                    let mut core = shared.lock();
                    let partition = core.open().map_err(text)?;
                    partition.engine().log().export().map_err(text)?
                };
                let offer = self.next_offer.fetch_add(1, Ordering::SeqCst);
                let files = export.files().iter().map(|file| (file.name.clone(), file.bytes)).collect();
                let answer = CopyOffer { offer, last: LogIndex(export.last().0), files };
                let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
                offers.push_back(Offer {
                    number: offer,
                    export: Arc::new(export),
                    asked: std::time::Instant::now(),
                });
                while offers.len() > OFFERS_MAX {
                    offers.pop_front();
                }
                Ok(encode(&answer).into())
            }
            CopyRequest::Read { offer, file, offset, bytes } => {
                let export = {
                    let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
                    offers.iter_mut().find(|known| known.number == offer).map(|known| {
                        known.asked = std::time::Instant::now();
                        Arc::clone(&known.export)
                    })
                };
                let export = export.ok_or("this copy is not offered any more: begin again")?;
                let file = usize::try_from(file).ok().filter(|file| *file < export.files().len());
                let file = file.ok_or("the copy has no such file")?;
                blocking(move || export.read(file, offset, bytes.min(PIECE_BYTES) as usize).map_err(text))
                    .await
            }
        }
    }

    /// Begins a cluster with this node alone, then adds the others that were named at the start.
    pub(crate) async fn init(self: Arc<Self>) -> Result<(), RuntimeError> {
        let shared = self.shared().ok_or(RuntimeError::Restarting)?;
        {
            let mut core = shared.lock();
            let cluster = ClusterId(core.entropy() | 1);
            let address = self.address.clone();
            core.open()?.init_cluster(cluster, address).map_err(refused)?;
            shared.wake_driver(&mut core);
        }
        let adding = Arc::clone(&self);
        self.runtime.spawn(async move {
            for (node, address) in adding.others.clone() {
                // A node that is not up yet is waited for; the operator sees the list grow in `cluster status`.
                while let Err(why) = adding.add(node, address.clone(), true).await {
                    let Some(shared) = adding.shared() else { return };
                    let ended = {
                        let mut core = shared.lock();
                        let members = core.open().map(|partition| partition.members()).unwrap_or_default();
                        if members.iter().any(|member| member.node == node) {
                            break;
                        }
                        core.stopping
                    };
                    if ended {
                        return;
                    }
                    adding.note(format!("adding node {node} at {address}, trying again: {why}"));
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        });
        Ok(())
    }

    /// Adds a node that answers at `address` and is no member of any cluster.
    pub(crate) async fn add(&self, node: NodeId, address: String, vote: bool) -> Result<(), RuntimeError> {
        let links = self.links.get().ok_or(RuntimeError::Restarting)?;
        let hello = links.probe(&address).await.map_err(refused)?;
        let ours = self.hello().cluster;
        if hello.node != node.0 {
            let why = format!("at {address} node {} answers, not node {node}: nothing happened", hello.node);
            return Err(RuntimeError::Cluster { why });
        }
        if hello.cluster != 0 && hello.cluster != ours {
            let why = format!(
                "node {node} at {address} is a member of cluster {:016x} already, this is {ours:016x}: nothing happened. Give it an empty folder to make it join this one",
                hello.cluster
            );
            return Err(RuntimeError::Cluster { why });
        }
        if hello.cluster == 0 && hello.features.first() == Some(&HAS_DATA) {
            let why = format!(
                "node {node} at {address} has data of its own, which is not this cluster's: nothing happened. Give it an empty folder"
            );
            return Err(RuntimeError::Cluster { why });
        }
        let change = Change::Learn { node, address, instance: hello.instance, vote };
        self.administer(AdminRequest::Change { changes: vec![change] }).await
    }

    /// Has the leader change the cluster.
    pub(crate) async fn administer(&self, request: AdminRequest) -> Result<(), RuntimeError> {
        let shared = self.shared().ok_or(RuntimeError::Restarting)?;
        let receive = {
            let mut core = shared.lock();
            let (send, receive) = core.answers.ticket();
            core.open()?.admin(request, send);
            shared.settle(&mut core);
            drop(core);
            shared.flush();
            receive
        };
        match receive.await {
            Ok(quorate_node::Reply::Admin(None)) => Ok(()),
            Ok(quorate_node::Reply::Admin(Some(why))) => Err(RuntimeError::Cluster { why }),
            _ => Err(RuntimeError::Indeterminate),
        }
    }
}

impl Host for Peers {
    fn hello(&self) -> Hello {
        Peers::hello(self).clone()
    }

    fn accept(&self, peer: &Hello, _dialled: Option<u64>) -> Result<(), String> {
        let ours = Peers::hello(self).clone();
        if peer.node == ours.node {
            return Err(format!(
                "two nodes have the number {}: give one of them another --node-id",
                ours.node
            ));
        }
        // Not a member yet: whoever has admitted this folder may call.
        if ours.cluster == 0 {
            return Ok(());
        }
        if peer.cluster != 0 && peer.cluster != ours.cluster {
            return Err(format!(
                "node {} belongs to cluster {:016x}, node {} to {:016x}: check the addresses",
                peer.node, peer.cluster, ours.node, ours.cluster
            ));
        }
        let Some(shared) = self.shared() else { return Err("the node stops".to_owned()) };
        let mut core = shared.lock();
        let Ok(partition) = core.open() else { return Err("the node opens its folder anew".to_owned()) };
        let leads = partition.engine().standing().leads;
        match partition.members().into_iter().find(|member| member.node.0 == peer.node) {
            Some(member) if member.instance != peer.instance => Err(format!(
                "node {} has another data folder than the one that joined: a second process has its number, or its folder was lost. Then remove node {} from the cluster and add it again",
                peer.node, peer.node
            )),
            Some(_) => Ok(()),
            // A replica that lags behind may not know the newest members; the leader does.
            None if leads || peer.cluster == 0 => {
                Err(format!("node {} is not a member of this cluster (any more)", peer.node))
            }
            None => Ok(()),
        }
    }

    fn up(&self, node: u64, hello: Hello, _link: u64) {
        self.with(|partition| partition.peer_up(NodeId(node), hello.cluster == 0));
    }

    fn down(&self, node: u64, _link: u64, _why: &str) {
        self.with(|partition| partition.peer_down(NodeId(node)));
    }

    fn frames(&self, node: u64, hello: &Hello, frames: &mut Vec<Bytes>) {
        let ours = Peers::hello(self).cluster;
        if ours != 0 && hello.cluster != ours {
            return frames.clear();
        }
        let Some(shared) = self.shared() else { return };
        let mut core = shared.lock();
        let now = shared.now();
        for frame in frames.drain(..) {
            if let Some(partition) = &mut core.partition {
                // A replica that must stop has answered everybody already.
                let _ = partition.receive(NodeId(node), &frame, now);
            }
        }
        shared.settle(&mut core);
        if core.partition.as_ref().is_some_and(Partition::wants_reopening) {
            shared.wake_driver(&mut core);
        }
        drop(core);
        shared.flush();
    }

    fn fetch(&self, _node: u64, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let Some(peers) = self.shared().and_then(|shared| shared.peers.get().map(Arc::clone)) else {
            return Box::pin(async { Err("the node stops".to_owned()) });
        };
        Box::pin(peers.serve_copy(request))
    }

    fn note(&self, text: String) {
        if let Some(shared) = self.shared() {
            shared.lock().notes.push(text);
        }
    }
}

impl Peers {
    fn with(&self, act: impl FnOnce(&mut Partition<Ticket>)) {
        let Some(shared) = self.shared() else { return };
        let mut core = shared.lock();
        if let Some(partition) = &mut core.partition {
            act(partition);
        }
        shared.handle_here(core);
    }
}

fn hello(partition: &Partition<Ticket>, replica: &ReplicaConfig) -> Hello {
    let (cluster, instance) =
        partition.identity().map_or((0, 0), |identity| (u128::from(identity.cluster.0), identity.instance));
    let features = if partition.engine().last() > LogIndex::ZERO { vec![HAS_DATA] } else { Vec::new() };
    Hello { cluster, node: replica.node.0, instance, incarnation: replica.life, features: features.into() }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn refused(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Cluster { why: error.to_string() }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, String> + Send + 'static,
) -> Result<R, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The operating system's boot (Linux: proc(5), random/boot_id); empty where it cannot be told: then every start counts as the same.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
