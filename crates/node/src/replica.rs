//! What only a replica does: hears its peers, passes commands to the leader, has reads confirmed, watches clocks and trails.
//!
//! Invariant: a read is answered only when a quorum has confirmed, after the read was asked for, that the leader still leads, and
//! everything committed by then is applied here.
//! Invariant: without a leader nothing waits for longer than [`LEADERLESS_NS`] to be told so; what was already sent is said to be
//! indeterminate after twice that.
//! Invariant: a replica whose machine went another way than a quorum's stops and says at which entry.
//! Called by: `Partition`, and the runtime and the simulator through it.
//! Source: reads: Ongaro's thesis §6.4 (read index).

use crate::admission::{Pressure, Refused, Waiting};
use crate::cluster::{
    AdminRequest, CLOCK_OFF_MS, Doors, FORWARD_AGAIN_NS, How, LEADERLESS_NS, Outbox, PING_NS, Peer,
    PeerMessage, READ_AGAIN_NS, Trails, UNANSWERED_NS, UNREAD_NS, median_ahead_ms, read_frame,
};
use crate::partition::{Fatal, InFlight, Partition, Published, Reply};
use crate::rounds::Rounds;
use bytes::Bytes;
use quorate_engine::{CopyWanted, EngineError, Identity, Instant, Member, Raft, Role, Standing};
use quorate_log::Disk;
use quorate_types::{ClusterId, Command, LogIndex, LogTime, NodeId, Origin, Term, WallTime};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Groups of reads that wait for a confirmation at the same time.
const READS_ASKED_MAX: usize = 4;
/// Reads of peers that may wait at the leader.
const PEER_READS_MAX: usize = 1024;
/// The oldest batches under way, which tell whether something has to be sent once more.
const FORWARDS_LOOKED_AT: usize = 4;
/// How long a change of the cluster waits for the leader's answer.
const ADMIN_NS: u64 = 5_000_000_000;
/// Pings after which a peer that needs a copy and does not fetch one is offered it anew.
const COPY_IDLE_PINGS: u32 = 10;

/// Why a node that is no replica has no cluster to show or change.
pub const ALONE: &str = "this node runs alone: start it with --node-id to make it part of a cluster";

/// Who a replica is.
#[derive(Clone, Debug, Default)]
pub struct ReplicaConfig {
    /// The node's number, 1 or more.
    pub node: NodeId,
    /// The life of this process, drawn at random, never zero.
    pub life: u64,
    /// The operating system's boot.
    pub boot: String,
    /// Where clients reach this node, as peers are to tell theirs.
    pub url: String,
}

/// What a read has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBarrier {
    /// Nothing: what is applied is all there is.
    Free,
    /// An entry, which ends what is due.
    Entry,
    /// The quorum: ask with [`Partition::request_read`].
    Quorum,
}

/// How a member of the cluster is, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub member: Member,
    /// Where clients reach it; empty until it was heard.
    pub url: String,
    /// Where clients of its other gateways do.
    pub doors: Doors,
    /// Milliseconds since it was last heard; nothing when it never was, 0 for this node.
    pub heard_ms: Option<u64>,
    /// The last entry it told to have applied.
    pub applied: LogIndex,
    /// The last entry that the leader knows to be on its disk; on a leader only.
    pub matched: Option<LogIndex>,
    /// It is copying the leader's log.
    pub copying: bool,
    /// It may have lost what it acknowledged, and does not vote until it has caught up.
    pub recovering: bool,
    /// Milliseconds that its wall clock is ahead of this node's.
    pub ahead_ms: Option<i64>,
}

/// How the cluster is, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// This node.
    pub node: NodeId,
    /// The cluster; zero until the node is a member of one.
    pub cluster: ClusterId,
    /// Term and leader.
    pub standing: Standing,
    /// The last entry known to be committed.
    pub committed: LogIndex,
    /// The last entry of this node's log.
    pub last: LogIndex,
    /// The members, by number.
    pub members: Vec<MemberStatus>,
    /// This replica may have lost what it acknowledged, and does not vote until it has caught up.
    pub recovering: bool,
    /// What is missing, when nothing can be served.
    pub missing: Option<String>,
    /// Where clients reach the leader, when that is known.
    pub leader_url: Option<String>,
}

/// Wall time and log time.
type Clocks = (WallTime, LogTime);

enum ReadFor<T> {
    Here(T),
    Peer(NodeId, u64),
    /// To know that this replica has caught up.
    Recovery,
    /// To know that this node still leads: followers may answer bounded reads by it.
    Office,
}

/// Reads that wait for the same confirmation.
struct Asked<T> {
    id: u64,
    since_ns: u64,
    at_ns: u64,
    /// An entry that must be applied too: it ends what was due.
    floor: LogIndex,
    /// What is due by these clocks must have ended: the leader's when it asked its quorum. Nothing on a follower, whom the leader tells
    /// an entry by which it has.
    due_by: Option<Clocks>,
    reads: Vec<ReadFor<T>>,
}

/// Reads that a quorum has confirmed, and that wait for an entry to be applied.
struct Confirmed<T> {
    since_ns: u64,
    /// As in [`Asked`].
    due_by: Option<Clocks>,
    reads: Vec<ReadFor<T>>,
}

struct Arrived {
    origin: Origin,
    commands: Vec<Command>,
}

/// See the module's documentation.
pub(crate) struct Replica<T> {
    config: ReplicaConfig,
    /// Where clients of this node's gateways reach it, as peers are to tell theirs.
    doors: Doors,
    peers: BTreeMap<NodeId, Peer>,
    standing: Standing,
    leaderless_since: Option<u64>,
    now: Instant,
    /// Batches of other nodes, to be ordered here: keep-alives, and the rest.
    arrived: [VecDeque<Arrived>; 2],
    /// Of each node, the life of its process and the newest batch taken in this term.
    taken: BTreeMap<NodeId, (u64, u64)>,
    /// The batch last sent in this term, and when something was last sent once more.
    forwarded: u64,
    forwarded_again_ns: u64,
    rounds: Rounds,
    waiting: Vec<ReadFor<T>>,
    asked: VecDeque<Asked<T>>,
    /// By the entry that they wait for.
    confirmed: BTreeMap<LogIndex, Confirmed<T>>,
    /// When a quorum last confirmed that this node leads, as of when it was asked, and what was committed then.
    office: Option<(u64, LogIndex)>,
    handed_over_ns: Option<u64>,
    next_read: u64,
    recovery_asked: bool,
    pinged_ns: Option<u64>,
    trails: Trails,
    outbox: Outbox,
    admin: BTreeMap<u64, (T, u64)>,
    next_admin: u64,
    copying: bool,
    copy_idle: BTreeMap<NodeId, u32>,
    reopen: bool,
    notes: Vec<String>,
}

impl<T> Replica<T> {
    pub(crate) fn new(config: ReplicaConfig) -> Self {
        // An answer to an earlier life of this process must not be taken for one to this life: it knows less.
        let first_request = config.life >> 1;
        Self {
            config,
            doors: Doors::default(),
            peers: BTreeMap::new(),
            standing: Standing::default(),
            leaderless_since: None,
            now: Instant::default(),
            arrived: [VecDeque::new(), VecDeque::new()],
            taken: BTreeMap::new(),
            forwarded: 0,
            forwarded_again_ns: 0,
            rounds: Rounds::default(),
            waiting: Vec::new(),
            asked: VecDeque::new(),
            confirmed: BTreeMap::new(),
            office: None,
            handed_over_ns: None,
            next_read: first_request,
            recovery_asked: false,
            pinged_ns: None,
            trails: Trails::default(),
            outbox: Outbox::default(),
            admin: BTreeMap::new(),
            next_admin: first_request,
            copying: false,
            copy_idle: BTreeMap::new(),
            reopen: false,
            notes: Vec::new(),
        }
    }

    /// Everybody who waits for something.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let asked = self.asked.drain(..).flat_map(|asked| asked.reads);
        let confirmed =
            std::mem::take(&mut self.confirmed).into_values().flat_map(|confirmed| confirmed.reads);
        let reads = self.waiting.drain(..).chain(asked).chain(confirmed);
        let here =
            reads.filter_map(|read| if let ReadFor::Here(ticket) = read { Some(ticket) } else { None });
        here.chain(std::mem::take(&mut self.admin).into_values().map(|(ticket, _)| ticket)).collect()
    }

    /// How far the middle of all clocks is ahead of ours, in milliseconds.
    fn median_ahead(&self) -> i64 {
        let heard = self.peers.values().filter(|peer| peer.is_heard(self.now.monotonic_ns));
        median_ahead_ms(heard.filter_map(|peer| peer.ahead_ms))
    }

    /// Sends a batch to the leader of its term; what was ordered here has no commands to send.
    fn forward(&mut self, leader: NodeId, life: u64, batch: &mut InFlight<T>) {
        let Some(commands) = batch.commands.take() else { return };
        let InFlight { term, before, batch: number, .. } = *batch;
        let message = PeerMessage::Forward { term, life, before, batch: number, commands };
        self.outbox.push(leader, &message);
        let PeerMessage::Forward { commands, .. } = message else { unreachable!("it was just made") };
        batch.commands = Some(commands);
    }

    /// Confirmed reads that an entry up to `applied` lets go on.
    fn next_confirmed(&mut self, applied: LogIndex) -> Option<Confirmed<T>> {
        let first = self.confirmed.first_entry().filter(|entry| *entry.key() <= applied)?;
        Some(first.remove())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now.monotonic_ns
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

impl<T> Partition<T> {
    /// What a read has to wait for now.
    #[must_use]
    pub fn read_barrier(&self, now: Instant) -> ReadBarrier {
        if self.replica.is_some() {
            ReadBarrier::Quorum
        } else if self.overdue(now) {
            ReadBarrier::Entry
        } else {
            ReadBarrier::Free
        }
    }

    /// Asks for a linearizable read: the ticket comes back as [`Reply::MayRead`] when the state may be read, or as
    /// [`Reply::Refused`].
    pub fn request_read(&mut self, ticket: T) {
        let leaderless = self.leaderless();
        match (&mut self.replica, leaderless) {
            (None, _) => self.replies.push((ticket, Reply::MayRead)),
            (Some(_), Some(why)) => {
                self.replies.push((ticket, Reply::Refused(Refused::NoLeader { why })));
            }
            (Some(replica), None) => replica.waiting.push(ReadFor::Here(ticket)),
        }
    }

    /// Whether what is applied is at most `staleness_ns` old: everything committed so long ago is in it.
    #[must_use]
    pub fn is_fresh(&self, now: Instant, staleness_ns: u64) -> bool {
        let Some(replica) = &self.replica else { return true };
        let applied = self.machine.applied();
        let fresh = |(at, committed): (u64, LogIndex)| {
            committed <= applied && now.monotonic_ns.saturating_sub(at) <= staleness_ns
        };
        replica.peers.values().filter_map(|peer| peer.led).any(fresh)
    }

    /// Takes a frame from a peer.
    ///
    /// # Errors
    /// [`Fatal`] when this replica went astray or its disk failed.
    pub fn receive(&mut self, from: NodeId, frame: &Bytes, now: Instant) -> Result<(), Fatal> {
        self.alive()?;
        let messages = match read_frame(frame) {
            Ok(messages) => messages,
            Err(error) => {
                if let Some(replica) = &mut self.replica {
                    replica.note(format!("node {from} sent what this build cannot read: {error}"));
                }
                return Ok(());
            }
        };
        let Some(replica) = &mut self.replica else { return Ok(()) };
        replica.now = now;
        replica.peers.entry(from).or_default().heard_ns = Some(now.monotonic_ns);
        for message in messages {
            self.take_message(from, message, now)?;
        }
        self.look_around(now)
    }

    /// The link to a peer stands anew: what was sent before may be lost. `stranger` when its folder is no member of any cluster yet.
    pub fn peer_up(&mut self, node: NodeId, stranger: bool) {
        let Some(replica) = &mut self.replica else { return };
        let Some(raft) = self.engine.as_replica() else { return };
        let identity = raft.identity();
        if stranger && identity.cluster != ClusterId::ZERO && raft.members().member(node).is_some() {
            let (cluster, first, first_at) = (identity.cluster, identity.first.clone(), identity.first_at);
            let members = raft.members().list();
            replica.outbox.push(node, &PeerMessage::Adopt { cluster, first, first_at, members });
        } else if !stranger && identity.changed > LogIndex::ZERO {
            let (changed, members) = (identity.changed, raft.known().to_vec());
            replica.outbox.push(node, &PeerMessage::Members { changed, members });
        }
        // A leader must learn that this process is a new one before anything else that it is asked: it may have lost what it acknowledged.
        replica.pinged_ns = None;
        let standing = self.engine.standing();
        if standing.leader == Some(node) {
            self.forward_again(node, standing.term);
        }
    }

    /// Sends the leader once more, in order, what it was sent in its term and may not have received; it takes each number once.
    fn forward_again(&mut self, leader: NodeId, term: Term) {
        let Some(replica) = &mut self.replica else { return };
        replica.forwarded_again_ns = replica.now_ns();
        for batch in self.in_flight.iter_mut().filter(|batch| batch.term == term) {
            replica.forward(leader, self.life, batch);
        }
    }

    /// The link to a peer is gone.
    pub fn peer_down(&mut self, node: NodeId) {
        if let Some(raft) = self.engine.replica() {
            raft.peer_unreachable(node);
        }
    }

    /// Tells the other members something for their subscribers.
    pub(crate) fn spread(&mut self, published: &Published) {
        let (Some(replica), Some(raft)) = (self.replica.as_mut(), self.engine.as_replica()) else { return };
        let Published { channel, message, sharded } = published.clone();
        let message = PeerMessage::Publish { channel, message, sharded };
        for member in raft.members().list().iter().filter(|member| member.node != self.node) {
            replica.outbox.push(member.node, &message);
        }
    }

    /// Frames for the peers, in order.
    pub fn take_frames(&mut self) -> Vec<(NodeId, Bytes)> {
        let Some(replica) = &mut self.replica else { return Vec::new() };
        if let Some(raft) = self.engine.replica() {
            for message in raft.take_messages() {
                replica.outbox.push(message.to(), &PeerMessage::Consensus { message });
            }
        }
        if replica.outbox.is_empty() { Vec::new() } else { replica.outbox.take().collect() }
    }

    /// Changes the cluster, here or by the leader; the ticket comes back as [`Reply::Admin`].
    pub fn admin(&mut self, request: AdminRequest, ticket: T) {
        let standing = self.engine.standing();
        let Some(replica) = &mut self.replica else {
            return self.replies.push((ticket, Reply::Admin(Some(ALONE.to_owned()))));
        };
        match standing.leader {
            _ if standing.leads => {
                let refused = self.administer(request);
                self.replies.push((ticket, Reply::Admin(refused)));
            }
            Some(leader) => {
                let id = replica.next_admin;
                replica.next_admin += 1;
                replica.admin.insert(id, (ticket, replica.now.monotonic_ns));
                replica.outbox.push(leader, &PeerMessage::Admin { id, request });
            }
            None => {
                let why = self.leaderless_now();
                self.replies.push((ticket, Reply::Admin(Some(why))));
            }
        }
    }

    /// The copy of the leader's log that this replica needs, if any.
    #[must_use]
    pub fn copy_wanted(&self) -> Option<CopyWanted> {
        self.engine.as_replica().and_then(Raft::copy_wanted)
    }

    /// Says whether a copy is being fetched.
    pub fn set_copying(&mut self, copying: bool) {
        if let Some(replica) = &mut self.replica {
            replica.copying = copying;
        }
    }

    /// Where a copy is gathered.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn staging(&self) -> Result<Arc<dyn Disk>, EngineError> {
        let raft = self.engine.as_replica();
        raft.ok_or_else(|| EngineError::Identity("this node is not part of a cluster".to_owned()))?.staging()
    }

    /// Makes a gathered copy this replica's log. When it says yes, open the folder again.
    ///
    /// # Errors
    /// The folder's identity cannot be written.
    pub fn install(&mut self, wanted: CopyWanted, last: LogIndex) -> Result<bool, EngineError> {
        let Some(raft) = self.engine.replica() else { return Ok(false) };
        let installed = raft.install(wanted, last)?;
        if let Some(replica) = &mut self.replica {
            replica.reopen |= installed;
        }
        Ok(installed)
    }

    /// Begins a cluster with this node as its only member, dialled at `address`. Then open the folder again.
    ///
    /// # Errors
    /// It is a member of a cluster already, or not a replica.
    pub fn init_cluster(&mut self, cluster: ClusterId, address: String) -> Result<(), EngineError> {
        let Some(raft) = self.engine.replica() else {
            return Err(EngineError::Identity(ALONE.to_owned()));
        };
        raft.init(cluster, address)?;
        if let Some(replica) = &mut self.replica {
            replica.reopen = true;
        }
        Ok(())
    }

    /// Whether the folder has to be opened again: its log or its cluster is another one now.
    #[must_use]
    pub fn wants_reopening(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.reopen)
    }

    /// Ends the replica's life in good order: everything is on disk.
    ///
    /// # Errors
    /// The folder's identity cannot be written.
    pub fn close(&mut self) -> Result<(), EngineError> {
        match self.engine.replica() {
            Some(raft) if !self.replica.as_ref().is_some_and(|replica| replica.reopen) => raft.close(),
            _ => Ok(()),
        }
    }

    /// Hands leadership to the best other voter, if there is one that can take it; whether it was handed on.
    pub fn hand_over(&mut self) -> bool {
        let to = self.successor();
        match self.engine.replica() {
            Some(raft) => {
                to.into_iter().for_each(|to| raft.transfer(to));
                to.is_some()
            }
            None => false,
        }
    }

    /// The voter best up to date that may lead: heard of, with nothing to recover and a clock that is not off.
    fn successor(&self) -> Option<NodeId> {
        let (replica, raft) = (self.replica.as_ref()?, self.engine.as_replica()?);
        let now_ns = replica.now_ns();
        let median = replica.median_ahead();
        let fit = |node: NodeId| {
            let peer = replica.peers.get(&node).filter(|peer| peer.is_heard(now_ns) && !peer.how.recovering);
            let off = |peer: &Peer| peer.ahead_ms.is_some_and(|ahead| (ahead - median).abs() > CLOCK_OFF_MS);
            peer.is_some_and(|peer| !off(peer))
        };
        let voters = raft.members().voters();
        let peers = raft.progress().into_iter();
        let fit = peers.filter(|peer| {
            voters.contains(&peer.node) && peer.node != self.node && peer.active && fit(peer.node)
        });
        fit.max_by_key(|peer| peer.matched).map(|peer| peer.node)
    }

    /// Who this folder is; nothing when the node runs alone.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.engine.as_replica().map(Raft::identity)
    }

    /// The members of the cluster, as far as this folder knows them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let Some(raft) = self.engine.as_replica() else { return Vec::new() };
        // Right after opening, changes in the log are not applied yet, and the folder knows more: without it the leader of now might not
        // even be dialled. Once they are, both are the same.
        let mut members: BTreeMap<NodeId, Member> =
            raft.known().iter().map(|member| (member.node, member.clone())).collect();
        for member in raft.members().list() {
            members.entry(member.node).or_insert(member);
        }
        members.into_values().collect()
    }

    /// Operators should hear of these, oldest first.
    pub fn take_replica_notes(&mut self) -> Vec<String> {
        self.replica.as_mut().map(|replica| std::mem::take(&mut replica.notes)).unwrap_or_default()
    }

    /// Says where clients of this node's gateways reach it, for its peers to know.
    pub fn announce(&mut self, doors: &Doors) {
        if let Some(replica) = self.replica.as_mut().filter(|replica| replica.doors != *doors) {
            replica.doors = doors.clone();
        }
    }

    /// How the cluster is, as this node sees it; nothing when it runs alone.
    #[must_use]
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        let (replica, raft) = (self.replica.as_ref()?, self.engine.as_replica()?);
        let progress = raft.progress();
        let now_ns = replica.now.monotonic_ns;
        let status = |member: Member| {
            let node = member.node;
            let matched = progress.iter().find(|peer| peer.node == node).map(|peer| peer.matched);
            if node == self.node {
                return MemberStatus {
                    url: replica.config.url.clone(),
                    doors: replica.doors.clone(),
                    heard_ms: Some(0),
                    applied: self.machine.applied(),
                    matched,
                    copying: replica.copying,
                    recovering: raft.is_recovering(),
                    ahead_ms: Some(0),
                    member,
                };
            }
            let peer = replica.peers.get(&node);
            let how = peer.map(|peer| peer.how.clone()).unwrap_or_default();
            let heard = peer.and_then(|peer| peer.heard_ns);
            MemberStatus {
                url: how.url,
                doors: how.doors,
                heard_ms: heard.map(|heard| now_ns.saturating_sub(heard) / 1_000_000),
                applied: how.applied,
                matched,
                copying: how.copying,
                recovering: how.recovering,
                ahead_ms: peer.and_then(|peer| peer.ahead_ms),
                member,
            }
        };
        let standing = self.engine.standing();
        let members: Vec<MemberStatus> = self.members().into_iter().map(status).collect();
        let leader_url =
            members.iter().find(|m| Some(m.member.node) == standing.leader).map(|m| m.url.clone());
        Some(ClusterStatus {
            node: self.node,
            cluster: raft.identity().cluster,
            standing,
            committed: raft.committed(),
            last: self.engine.last(),
            recovering: raft.is_recovering(),
            missing: standing.leader.is_none().then(|| self.leaderless_now()),
            leader_url: leader_url.filter(|url| !url.is_empty()),
            members,
        })
    }

    /// What a replica does while a write is under way: everything but ordering, so that what arrives gathers for the next entry.
    ///
    /// # Errors
    /// [`Fatal`] once the log has failed.
    pub fn pulse(&mut self, now: Instant) -> Result<(), Fatal> {
        self.alive()?;
        self.beat(now)?;
        if !self.engine.standing().orders {
            self.forward_all();
        }
        self.apply_certain()
    }

    /// Lets time pass for a replica: ticks, pings, reads. Nothing for a node that runs alone.
    pub(crate) fn beat(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.replica.is_none() {
            return Ok(());
        }
        let time = self.office_clocks(now).map_or(LogTime::ZERO, |(_, time)| time);
        if let Some(raft) = self.engine.replica() {
            raft.tick(now, time);
        }
        if let Some(replica) = &mut self.replica {
            replica.now = now;
        }
        self.look_around(now)?;
        self.ping(now);
        self.watch_clock(now);
        self.drive_reads(now)?;
        self.give_up(now);
        Ok(())
    }

    /// What nearly everything is full of, here or at the leader: growth is refused.
    pub(crate) fn pressure(&self) -> Pressure {
        let leader = self.replica.as_ref().and_then(|replica| {
            let leader = replica.standing.leader?;
            replica.peers.get(&leader)
        });
        Pressure {
            disk: self.pressure.disk || leader.is_some_and(|peer| peer.how.disk_low),
            memory: self.pressure.memory || leader.is_some_and(|peer| peer.how.memory_low),
        }
    }

    /// Why nothing can be served, once that has lasted a while.
    pub(crate) fn leaderless(&self) -> Option<String> {
        let replica = self.replica.as_ref()?;
        let since = replica.leaderless_since?;
        let lasted = replica.now.monotonic_ns.saturating_sub(since);
        (lasted >= LEADERLESS_NS).then(|| self.leaderless_now())
    }

    fn leaderless_now(&self) -> String {
        let (Some(replica), Some(raft)) = (&self.replica, self.engine.as_replica()) else {
            return String::new();
        };
        if raft.identity().cluster == ClusterId::ZERO {
            return format!(
                "node {} is not a member of a cluster yet: run `quorate cluster init` here, or `quorate cluster add` at a member",
                self.node
            );
        }
        let now_ns = replica.now.monotonic_ns;
        let members = self.members();
        let voters = members.iter().filter(|member| member.role != Role::Learner {});
        let silent: Vec<String> = voters
            .clone()
            .filter(|member| member.node != self.node)
            .filter(|member| !replica.peers.get(&member.node).is_some_and(|peer| peer.is_heard(now_ns)))
            .map(|member| format!("node {} at {}", member.node, member.address))
            .collect();
        let count = voters.count();
        let quorum = count / 2 + 1;
        let reachable = count - silent.len();
        if reachable < quorum {
            format!(
                "the quorum is lost: {reachable} of {count} voters can be reached from node {}, {quorum} are needed; nothing is heard of {}",
                self.node,
                silent.join(", ")
            )
        } else {
            format!(
                "no leader is elected yet: {reachable} of {count} voters can be reached from node {}",
                self.node
            )
        }
    }

    /// Newer rules than those in force that every member knows: then nobody is left behind by them.
    pub(crate) fn version_for_all(&self) -> Option<u32> {
        let now = self.machine.version();
        if self.config.machine_version <= now {
            return None;
        }
        let Some(replica) = &self.replica else { return Some(self.config.machine_version) };
        let others = self.members().into_iter().filter(|member| member.node != self.node);
        let known = others.map(|member| {
            let peer = replica.peers.get(&member.node);
            let heard = peer.filter(|peer| peer.is_heard(replica.now.monotonic_ns));
            heard.map_or(0, |peer| peer.how.machine_version)
        });
        known.chain([self.config.machine_version]).min().filter(|all| *all > now)
    }

    /// Whether batches of other nodes wait to be ordered.
    pub(crate) fn has_arrived(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.arrived.iter().any(|queue| !queue.is_empty()))
    }

    /// Notes that an entry was ordered, for those that come after it.
    pub(crate) fn ordered_one(&mut self, index: LogIndex) {
        if let Some(replica) = &mut self.replica {
            replica.rounds.ordered(index, replica.now.monotonic_ns);
        }
    }

    /// Whether what has arrived had better wait for the entry that is under way.
    pub(crate) fn waits_for_round(&self) -> bool {
        let Some(replica) = &self.replica else { return false };
        let [keep_alives, others] = &replica.arrived;
        let commands = || self.queue.len() + others.iter().map(|batch| batch.commands.len()).sum::<usize>();
        self.keep_alives.is_empty()
            && keep_alives.is_empty()
            && replica.rounds.waits(commands(), replica.now.monotonic_ns)
    }

    /// Takes batches of other nodes into an entry.
    pub(crate) fn gather_arrived(
        &mut self,
        keep_alives: bool,
        room: &mut u64,
        commands: &mut Vec<Command>,
        origins: &mut Vec<Origin>,
    ) {
        let Some(replica) = &mut self.replica else { return };
        let queue = &mut replica.arrived[usize::from(!keep_alives)];
        while *room > 0
            && let Some(batch) = queue.pop_front()
        {
            let weigh = |command| self.config.limits.weigh(command).unwrap_or(0);
            *room = room.saturating_sub(batch.commands.iter().map(weigh).sum());
            origins.push(batch.origin);
            commands.extend(batch.commands);
        }
    }

    /// Sends what has arrived from clients to the leader, when there is one.
    pub(crate) fn forward_all(&mut self) {
        let standing = self.engine.standing();
        let Some(leader) = standing.leader.filter(|leader| *leader != self.node) else { return };
        for keep_alives in [true, false] {
            while let Some((commands, tickets, taken)) = self.gather_own(keep_alives, self.config.entry_bytes)
            {
                self.launch(commands.len(), standing.term, tickets, taken, Some(commands));
                let launched = self.in_flight.back_mut().expect("it was just launched");
                let Some(replica) = &mut self.replica else { return };
                launched.before = std::mem::replace(&mut replica.forwarded, launched.batch);
                replica.forward(leader, self.life, launched);
            }
        }
    }

    /// After an entry was applied.
    pub(crate) fn applied_one(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.trails.note(self.machine.applied(), self.machine.trail());
            replica.rounds.applied(self.machine.applied(), replica.now.monotonic_ns);
        }
    }

    /// Answers reads whose index is applied. One that would still find what was due when it was asked for is asked for anew: only now
    /// is all applied that could have brought it.
    pub(crate) fn answer_reads(&mut self) {
        let applied = self.machine.applied();
        let mut recovered = false;
        while let Some(mut confirmed) =
            self.replica.as_mut().and_then(|replica| replica.next_confirmed(applied))
        {
            let due = confirmed.due_by.is_some_and(|clocks| self.due(clocks));
            let Some(replica) = &mut self.replica else { break };
            if due {
                replica.waiting.append(&mut confirmed.reads);
            }
            for read in confirmed.reads {
                match read {
                    ReadFor::Here(ticket) => self.replies.push((ticket, Reply::MayRead)),
                    // What was due may have ended after the index that the quorum confirmed: the peer must have come as far as this node.
                    ReadFor::Peer(node, id) => {
                        replica.outbox.push(node, &PeerMessage::MayRead { id, index: applied });
                    }
                    ReadFor::Recovery => recovered = true,
                    ReadFor::Office => {}
                }
            }
        }
        if recovered
            && let Some(raft) = self.engine.replica()
            && let Some(replica) = &mut self.replica
        {
            raft.recovered();
            replica.note("this replica has caught up and votes again".to_owned());
        }
    }

    fn take_message(&mut self, from: NodeId, message: PeerMessage, now: Instant) -> Result<(), Fatal> {
        match message {
            PeerMessage::Consensus { message } => {
                if message.from() == from
                    && let Some(raft) = self.engine.replica()
                {
                    raft.step(message);
                }
            }
            PeerMessage::Forward { term, life, before, batch, commands } => {
                self.take_batch(from, term, life, (before, batch), commands);
            }
            PeerMessage::AskRead { id } => {
                let leads = self.engine.standing().leads;
                if let Some(replica) = self.replica.as_mut().filter(|_| leads)
                    && replica.waiting.len() < PEER_READS_MAX
                {
                    replica.waiting.push(ReadFor::Peer(from, id));
                }
            }
            PeerMessage::MayRead { id, index } => self.confirm(id, index),
            PeerMessage::Publish { channel, message, sharded } => {
                self.published.push(Published { channel, message, sharded });
            }
            PeerMessage::Ping { sent_ns, how } => return self.take_ping(from, sent_ns, *how, now),
            PeerMessage::Pong { sent_ns, wall_ms, term, led } => {
                let led = led.filter(|_| term == self.engine.standing().term);
                self.take_pong(from, sent_ns, wall_ms, led, now);
            }
            PeerMessage::Adopt { cluster, first, first_at, members } => {
                if let Some(raft) = self.engine.replica()
                    && raft.identity().cluster == ClusterId::ZERO
                    && let Some(replica) = &mut self.replica
                {
                    match raft.adopt(cluster, first, first_at, members) {
                        Ok(()) => replica.reopen = true,
                        Err(error) => replica.note(format!("joining the cluster failed: {error}")),
                    }
                }
            }
            PeerMessage::Members { changed, members } => {
                if let Some(raft) = self.engine.replica() {
                    raft.hear_members(changed, members);
                }
            }
            PeerMessage::Admin { id, request } => {
                let refused = if self.engine.standing().leads {
                    self.administer(request)
                } else {
                    Some("leadership has just moved: nothing happened, try again".to_owned())
                };
                if let Some(replica) = &mut self.replica {
                    replica.outbox.push(from, &PeerMessage::AdminDone { id, refused });
                }
            }
            PeerMessage::AdminDone { id, refused } => {
                let waited = self.replica.as_mut().and_then(|replica| replica.admin.remove(&id));
                self.replies.extend(waited.map(|(ticket, _)| (ticket, Reply::Admin(refused))));
            }
        }
        Ok(())
    }

    /// A batch of another node's clients: taken once, and only in the term it was sent in.
    fn take_batch(
        &mut self,
        from: NodeId,
        term: Term,
        life: u64,
        (before, batch): (u64, u64),
        commands: Vec<Command>,
    ) {
        let standing = self.engine.standing();
        let Some(replica) = self.replica.as_mut() else { return };
        if !standing.leads || standing.term != term || commands.is_empty() {
            return;
        }
        let taken = replica.taken.entry(from).or_default();
        if taken.0 != life {
            *taken = (life, 0);
        }
        // One that is behind a gap comes again, with what was lost.
        if batch <= taken.1 || before > taken.1 {
            return;
        }
        taken.1 = batch;
        let queue = usize::from(!commands.iter().all(|command| command.body.is_keep_alive()));
        let count = u32::try_from(commands.len()).expect("a frame holds fewer than 2^32 commands");
        let origin = Origin { node: from, life, batch, commands: count };
        replica.arrived[queue].push_back(Arrived { origin, commands });
    }

    fn take_ping(&mut self, from: NodeId, sent_ns: u64, how: How, now: Instant) -> Result<(), Fatal> {
        let standing = self.engine.standing();
        let Some(replica) = self.replica.as_mut() else { return Ok(()) };
        let Some(raft) = self.engine.replica() else { return Ok(()) };
        let office = replica.office.filter(|_| standing.leads);
        let led = office.map(|(at, committed)| (now.monotonic_ns.saturating_sub(at), committed));
        let pong = PeerMessage::Pong { sent_ns, wall_ms: now.wall_ms, term: standing.term, led };
        replica.outbox.push(from, &pong);
        let peer = replica.peers.entry(from).or_default();
        let restarted = peer.how.life != how.life;
        let needs_copy = raft.progress().iter().any(|progress| progress.node == from && progress.copying);
        let idle = replica.copy_idle.entry(from).or_default();
        *idle = if needs_copy && !how.copying { *idle + 1 } else { 0 };
        if restarted {
            raft.peer_restarted(from, how.last);
        } else if *idle >= COPY_IDLE_PINGS {
            *idle = 0;
            raft.copy_failed(from);
        }
        let members = raft.members();
        let (quorum, voters) = (members.quorum(), members.voters());
        // Of two, the one that follows gives way: it can be copied anew.
        let enough = if voters.len() == 2 && !standing.leads { 1 } else { quorum };
        let astray = replica.trails.compare(from, &how.trails, enough);
        peer.how = how;
        if let Some((index, others)) = astray {
            let others: Vec<String> = others.iter().map(NodeId::to_string).collect();
            return Err(self.fail(format!(
                "this replica's state differs at entry {index} from that of nodes {}: it must not be trusted. Stop this node, keep its folder for diagnosis, and start it with an empty one after `quorate cluster remove {}` and `add`",
                others.join(", "),
                self.node
            )));
        }
        Ok(())
    }

    fn take_pong(
        &mut self,
        from: NodeId,
        sent_ns: u64,
        wall_ms: u64,
        led: Option<(u64, LogIndex)>,
        now: Instant,
    ) {
        let Some(replica) = self.replica.as_mut() else { return };
        let trip_ns = now.monotonic_ns.saturating_sub(sent_ns);
        let peer = replica.peers.entry(from).or_default();
        peer.answered = true;
        // A slow answer says little about the clock.
        if trip_ns < 500_000_000 {
            let here = now.wall_ms as i64 - (trip_ns / 2_000_000) as i64;
            peer.ahead_ms = Some(wall_ms as i64 - here);
        }
        if let Some((ago_ns, committed)) = led {
            // It was answered after it was sent, so what was true so long before the answer was true no earlier than this.
            peer.led = Some((sent_ns.saturating_sub(ago_ns), committed));
        }
    }

    /// Looks at what the engine has come to: leadership, confirmed reads, committed entries.
    fn look_around(&mut self, now: Instant) -> Result<(), Fatal> {
        let standing = self.engine.standing();
        // Time counts from winning on, not from the first entry.
        self.office_clocks(now);
        let mut found = None;
        let (Some(replica), Some(raft)) = (self.replica.as_mut(), self.engine.replica()) else {
            return Ok(());
        };
        if (standing.term, standing.leader, standing.leads)
            != (replica.standing.term, replica.standing.leader, replica.standing.leads)
        {
            replica.arrived.iter_mut().for_each(VecDeque::clear);
            replica.taken.clear();
            replica.rounds.end();
            replica.office = None;
            // What they waited for to end was due by clocks that are another office's now: they are asked for again.
            let Replica { confirmed, waiting, .. } = &mut **replica;
            confirmed.retain(|_, confirmed| {
                if confirmed.due_by.is_some() {
                    waiting.append(&mut confirmed.reads);
                }
                confirmed.due_by.is_none()
            });
            if standing.term != replica.standing.term {
                replica.forwarded = 0;
            }
            replica.waiting.retain(|read| !matches!(read, ReadFor::Peer(..)));
            // They are asked for again, of the new leader.
            for asked in &mut replica.asked {
                asked.at_ns = 0;
                asked.reads.retain(|read| !matches!(read, ReadFor::Peer(..)));
            }
            // The link may have broken and come back while no leader was known: nobody has sent again what was lost with it.
            found = standing.leader.filter(|leader| *leader != self.node);
        }
        replica.standing = standing;
        replica.leaderless_since = match standing.leader {
            Some(_) => None,
            None => replica.leaderless_since.or(Some(now.monotonic_ns)),
        };
        let wanted = raft.take_snapshot_wanted();
        let mut confirmed = Vec::new();
        while let Some(read) = raft.next_read() {
            confirmed.push(read);
        }
        if let Some(leader) = found {
            self.forward_again(leader, standing.term);
        }
        if wanted {
            self.snapshot_soon();
        }
        for (id, index) in confirmed {
            self.confirm(id, index);
        }
        self.apply_certain()
    }

    fn confirm(&mut self, id: u64, index: LogIndex) {
        let Some(replica) = self.replica.as_mut() else { return };
        let Some(at) = replica.asked.iter().position(|asked| asked.id == id) else { return };
        let Asked { since_ns, floor, due_by, mut reads, .. } =
            replica.asked.remove(at).expect("it was just found");
        if replica.standing.leads {
            replica.office = Some((since_ns, index));
        }
        let waits = Confirmed { since_ns, due_by, reads: Vec::new() };
        let waits = replica.confirmed.entry(index.max(floor)).or_insert(waits);
        waits.due_by = waits.due_by.max(due_by);
        waits.reads.append(&mut reads);
        self.answer_reads();
    }

    fn ping(&mut self, now: Instant) {
        let due = |replica: &Replica<T>| {
            replica.pinged_ns.is_none_or(|at| now.monotonic_ns.saturating_sub(at) >= PING_NS)
        };
        if !self.replica.as_ref().is_some_and(|replica| due(replica)) {
            return;
        }
        let (last, applied) = (self.engine.last(), self.machine.applied());
        let members = self.members();
        let (Some(replica), Some(raft)) = (self.replica.as_mut(), self.engine.as_replica()) else { return };
        replica.pinged_ns = Some(now.monotonic_ns);
        if replica.standing.leads && members.len() > 1 {
            replica.waiting.push(ReadFor::Office);
        }
        let how = How {
            life: self.life,
            last,
            applied,
            copying: replica.copying,
            recovering: raft.is_recovering(),
            disk_low: self.pressure.disk,
            memory_low: self.pressure.memory,
            machine_version: self.config.machine_version,
            url: replica.config.url.clone(),
            doors: replica.doors.clone(),
            trails: replica.trails.told(),
        };
        let message = PeerMessage::Ping { sent_ns: now.monotonic_ns, how: Box::new(how) };
        let changed = raft.identity().changed;
        for member in members.iter().filter(|member| member.node != self.node) {
            replica.outbox.push(member.node, &message);
            // One that has not applied the last change of membership might not know whom to answer.
            let applied = replica.peers.get(&member.node).map_or(LogIndex::ZERO, |peer| peer.how.applied);
            if applied < changed {
                let members = raft.known().to_vec();
                replica.outbox.push(member.node, &PeerMessage::Members { changed, members });
            }
        }
    }

    /// A node whose wall clock is far from the others' does not lead: its entries would date everybody's records.
    fn watch_clock(&mut self, now: Instant) {
        let (Some(replica), Some(raft)) = (self.replica.as_mut(), self.engine.replica()) else { return };
        let median = replica.median_ahead();
        let off = median.abs() > CLOCK_OFF_MS;
        raft.set_clock_off(off);
        // One attempt takes about an election timeout: when it fails, work has to go on before the next.
        let tried = |at: u64| now.monotonic_ns.saturating_sub(at) < ADMIN_NS;
        if !off || replica.handed_over_ns.is_some_and(tried) || !self.engine.standing().orders {
            return;
        }
        // With nobody to hand it to just now, the next beat tries again.
        if self.hand_over()
            && let Some(replica) = &mut self.replica
        {
            replica.handed_over_ns = Some(now.monotonic_ns);
            replica.note(format!(
                "this node's wall clock is {median} ms behind the others' median: it hands leadership over. Set the clock (NTP)"
            ));
        }
    }

    fn drive_reads(&mut self, now: Instant) -> Result<(), Fatal> {
        let standing = self.engine.standing();
        let recovering = self.engine.as_replica().is_some_and(Raft::is_recovering);
        let Some(replica) = self.replica.as_mut() else { return Ok(()) };
        // A leader that has answered a ping knows that this process began anew, and counts nothing of what it may have lost.
        let knows = |leader: &NodeId| replica.peers.get(leader).is_some_and(|peer| peer.answered);
        if recovering && !replica.recovery_asked && standing.leader.as_ref().is_some_and(knows) {
            replica.recovery_asked = true;
            replica.waiting.push(ReadFor::Recovery);
        }
        let may_ask = !replica.waiting.is_empty() && replica.asked.len() < READS_ASKED_MAX;
        let clocks = self.office_clocks(now);
        let due = may_ask && clocks.is_some_and(|clocks| self.due(clocks));
        let Some(replica) = self.replica.as_mut() else { return Ok(()) };
        // A leader that hands over orders nothing: what is due cannot end, so a read that must not find it waits for whoever leads then.
        if may_ask && standing.leader.is_some() && (!due || standing.orders) {
            let id = replica.next_read;
            replica.next_read += 1;
            let reads = std::mem::take(&mut replica.waiting);
            let at_ns = now.monotonic_ns;
            let floor = LogIndex::ZERO;
            replica.asked.push_back(Asked { id, since_ns: at_ns, at_ns, floor, due_by: clocks, reads });
            if due && let Some((wall, time)) = clocks {
                // What is due already ends beside the question, and not only after it.
                self.order(Vec::new(), Vec::new(), (wall, time, id))?;
                let floor = self.engine.last();
                let replica = self.replica.as_mut().expect("it was there a moment ago");
                replica.asked.back_mut().expect("it was just pushed").floor = floor;
            }
            self.ask(id, standing);
        }
        let Some(replica) = self.replica.as_mut() else { return Ok(()) };
        let mut again = Vec::new();
        for asked in &mut replica.asked {
            if now.monotonic_ns.saturating_sub(asked.at_ns) >= READ_AGAIN_NS {
                asked.at_ns = now.monotonic_ns;
                asked.due_by = clocks;
                again.push(asked.id);
            }
        }
        for id in again {
            self.ask(id, standing);
        }
        self.look_around(now)
    }

    fn ask(&mut self, id: u64, standing: Standing) {
        let (Some(replica), Some(raft)) = (self.replica.as_mut(), self.engine.replica()) else { return };
        match standing.leader {
            _ if standing.leads => raft.read(id),
            Some(leader) => replica.outbox.push(leader, &PeerMessage::AskRead { id }),
            None => {}
        }
    }

    /// Tells those who wait in vain.
    fn give_up(&mut self, now: Instant) {
        let leaderless = self.leaderless();
        let Some(replica) = self.replica.as_mut() else { return };
        let late = |(_, (_, at)): &(&u64, &(T, u64))| now.monotonic_ns.saturating_sub(*at) >= ADMIN_NS;
        let late: Vec<u64> = replica.admin.iter().filter(late).map(|(id, _)| *id).collect();
        for id in late {
            let why = "the leader did not answer in time: see `quorate cluster status` for what became of it";
            let waited = replica.admin.remove(&id);
            self.replies.extend(waited.map(|(ticket, _)| (ticket, Reply::Admin(Some(why.to_owned())))));
        }
        let age = |since: u64| now.monotonic_ns.saturating_sub(since);
        let mut unread = Vec::new();
        while replica
            .asked
            .front()
            .is_some_and(|asked| leaderless.is_some() || age(asked.since_ns) >= UNREAD_NS)
        {
            unread.extend(replica.asked.pop_front().into_iter().flat_map(|asked| asked.reads));
        }
        let behind: Vec<LogIndex> = replica
            .confirmed
            .iter()
            .filter(|(_, confirmed)| age(confirmed.since_ns) >= UNREAD_NS)
            .map(|(index, _)| *index)
            .collect();
        for index in behind {
            unread.extend(replica.confirmed.remove(&index).into_iter().flat_map(|it| it.reads));
        }
        if leaderless.is_some() {
            unread.append(&mut replica.waiting);
        }
        replica.recovery_asked &= !unread.iter().any(|read| matches!(read, ReadFor::Recovery));
        for read in unread {
            if let ReadFor::Here(ticket) = read {
                let why = leaderless.clone().unwrap_or_else(|| {
                    format!(
                        "node {} could not confirm the read in time: it is cut off from the leader, or far behind",
                        self.node
                    )
                });
                self.replies.push((ticket, Reply::Refused(Refused::NoLeader { why })));
            }
        }
        let lasted = replica.leaderless_since.map_or(0, age);
        let given_up = |batch: &InFlight<T>| {
            age(batch.at_ns) >= UNANSWERED_NS || (leaderless.is_some() && lasted >= 2 * LEADERLESS_NS)
        };
        while let Some(replica) = self.replica.as_mut()
            && self.in_flight.front().is_some_and(given_up)
        {
            let batch = self.in_flight.pop_front().expect("it was just seen");
            // The leader waits for what a batch names as the one before it: what is given up must not be named any more.
            if let Some(next) = self.in_flight.iter_mut().find(|next| next.before == batch.batch) {
                next.before = batch.before;
            }
            if replica.forwarded == batch.batch {
                replica.forwarded = batch.before;
            }
            self.leave_open(batch.taken, batch.tickets);
        }
        let Some(replica) = self.replica.as_ref() else { return };
        let standing = replica.standing;
        let Some(why) = leaderless else {
            // A frame may have been dropped on the way: what is not applied after a while goes once more.
            let late = |batch: &InFlight<T>| {
                batch.term == standing.term
                    && batch.commands.is_some()
                    && age(batch.at_ns) >= FORWARD_AGAIN_NS
            };
            if let Some(leader) = standing.leader.filter(|leader| *leader != self.node)
                && age(replica.forwarded_again_ns) >= FORWARD_AGAIN_NS
                && self.in_flight.iter().take(FORWARDS_LOOKED_AT).any(late)
            {
                self.forward_again(leader, standing.term);
            }
            return;
        };
        let queued: Vec<(Command, T)> = self.keep_alives.drain(..).chain(self.queue.drain(..)).collect();
        for (command, ticket) in queued {
            let bytes = self.config.limits.weigh(&command).unwrap_or(0);
            self.waiting -= Waiting { commands: 1, bytes };
            self.replies.push((ticket, Reply::Refused(Refused::NoLeader { why: why.clone() })));
        }
    }

    /// Does what the leader alone may: nothing, or why it is refused.
    fn administer(&mut self, request: AdminRequest) -> Option<String> {
        let successor = self.successor();
        let raft = self.engine.replica()?;
        match request {
            AdminRequest::Change { changes } => raft.change(&changes).err().map(|error| error.to_string()),
            AdminRequest::Transfer { to } => {
                let Some(to) = (if to == NodeId::ZERO { successor } else { Some(to) }) else {
                    return Some("no other voter can be reached: leadership stays where it is".to_owned());
                };
                if to == self.node {
                    return Some(format!("node {to} leads already"));
                }
                match raft.members().member(to) {
                    Some(member) if member.role == (Role::Voter {}) => {
                        raft.transfer(to);
                        None
                    }
                    Some(_) => Some(format!("node {to} is not a voter: it cannot lead")),
                    None => Some(format!("node {to} is not a member of this cluster")),
                }
            }
        }
    }
}
