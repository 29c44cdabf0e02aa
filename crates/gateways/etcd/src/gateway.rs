//! What all services share: the way to the runtime, the header of every answer, and who asks.
//!
//! Invariant: no lock here is held across an `await`.
//! Invariant: revisions begin at 1, as etcd's do, before the first answer is given.
//! Called by: `serve` makes it, every service uses it.

use crate::config::Config;
use crate::error;
use crate::probe::Seen;
use crate::protocol::etcdserverpb::ResponseHeader;
use crate::queue::Queues;
use crate::snapshot::SNAPSHOTS_MAX;
use crate::watch::Hub;
use quorate_machine::Machine;
use quorate_runtime::{Consistency, Handle};
use quorate_types::{Blob, Command, CommandBody, Commit, Committed, Outcome, Principal, Revision};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Semaphore, watch};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// The cluster that a node is which runs alone: no real one has it, since they are drawn at random.
const ALONE: u64 = 0x71_756f_7261_7465;

/// See the module's documentation.
pub(crate) struct Gateway {
    pub(crate) handle: Handle,
    pub(crate) config: Config,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) hub: Arc<Hub>,
    pub(crate) seen: Seen,
    pub(crate) queues: Queues,
    /// Snapshots that may still begin.
    pub(crate) snapshots: Arc<Semaphore>,
    /// Becomes true when the gateway ends.
    pub(crate) stopping: watch::Receiver<bool>,
    cluster: AtomicU64,
    member: AtomicU64,
    begun: AtomicBool,
}

impl Gateway {
    pub(crate) fn new(
        handle: Handle,
        config: Config,
        address: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            hub: Arc::new(Hub::new(config.watch_bytes_max)),
            handle,
            config,
            address,
            seen: Seen::default(),
            queues: Queues::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            stopping,
            cluster: AtomicU64::new(0),
            member: AtomicU64::new(1),
            begun: AtomicBool::new(false),
        }
    }

    /// The header of an answer at a revision.
    pub(crate) fn header(&self, revision: Revision) -> ResponseHeader {
        if self.cluster.load(Ordering::Relaxed) == 0 {
            self.learn_cluster();
        }
        ResponseHeader {
            cluster_id: self.cluster.load(Ordering::Relaxed),
            member_id: self.member.load(Ordering::Relaxed),
            revision: shown(revision),
            raft_term: self.handle.term(),
        }
    }

    fn learn_cluster(&self) {
        match self.handle.cluster_status() {
            None => self.cluster.store(ALONE, Ordering::Relaxed),
            Some(status) => {
                self.member.store(status.node.0, Ordering::Relaxed);
                self.cluster.store(status.cluster.0, Ordering::Relaxed);
            }
        }
    }

    /// Who asks, once the revision has begun. A request that wants a leader is refused where there is none.
    ///
    /// # Errors
    /// The token is nobody's; a secret is wanted; the node has no leader.
    pub(crate) async fn enter<T>(self: &Arc<Self>, request: &Request<T>) -> Result<Principal, Status> {
        self.ready_for(request.metadata()).await?;
        self.principal(request.metadata(), request.extensions().get()).await
    }

    /// Waits until the revision has begun. A request that wants a leader is refused where there is none.
    ///
    /// # Errors
    /// The node has no leader.
    pub(crate) async fn ready_for(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let wants_leader = metadata.get("hasleader").is_some_and(|value| value == "true");
        if wants_leader && self.handle.cluster_status().is_some_and(|status| status.standing.leader.is_none())
        {
            return Err(error::no_leader());
        }
        self.begin().await
    }

    /// Takes revision 1 where nothing has taken a revision yet: to clients, 0 means "none".
    async fn begin(&self) -> Result<(), Status> {
        if self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let revision = self.look(Consistency::Stale, Machine::revision).await?;
        if revision == Revision::ZERO {
            self.command(&"server".into(), CommandBody::RaiseRevision { to: Revision(1) }).await?;
        }
        self.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Commits, and waits until the answer is certain or the time is over.
    ///
    /// # Errors
    /// etcd's status for it.
    pub(crate) async fn commit(&self, who: &Principal, commit: Commit) -> Result<Committed, Status> {
        match self.command(who, CommandBody::Commit { commit }).await? {
            Outcome::Committed { committed } => Ok(committed),
            other => Err(Status::internal(format!("a commit was answered with {other:?}"))),
        }
    }

    /// Sends any command but a wait.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    pub(crate) async fn command(&self, who: &Principal, body: CommandBody) -> Result<Outcome, Status> {
        match self.outcome(who, body).await? {
            Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
            outcome => Ok(outcome),
        }
    }

    /// As [`Gateway::command`], refusals being an outcome.
    ///
    /// # Errors
    /// There is no outcome, or none yet.
    pub(crate) async fn outcome(&self, who: &Principal, body: CommandBody) -> Result<Outcome, Status> {
        let command = Command { principal: who.clone(), client: "etcd".into(), trace: Blob::EMPTY, body };
        match tokio::time::timeout(self.config.command_timeout, self.handle.command(command)).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(why)) => Err(error::runtime(&why)),
            Err(_) => Err(error::timed_out()),
        }
    }

    /// Reads the state as fresh as asked for.
    ///
    /// # Errors
    /// The node has stopped, or no leader can be reached in time.
    pub(crate) async fn look<R>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&Machine) -> R,
    ) -> Result<R, Status> {
        match tokio::time::timeout(self.config.command_timeout, self.handle.read_with(consistency, look))
            .await
        {
            Ok(read) => read.map_err(|why| error::runtime(&why)),
            Err(_) => Err(error::timed_out()),
        }
    }

    /// Resolves once the gateway ends.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // Whoever could say it is gone: that says it too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Where clients are told to find this gateway.
    pub(crate) fn advertised(&self) -> String {
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        match &self.config.advertise {
            Some(told) => format!("{scheme}://{told}"),
            None => format!("{scheme}://{}", self.address),
        }
    }
}

/// A revision as clients see it.
pub(crate) fn shown(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
