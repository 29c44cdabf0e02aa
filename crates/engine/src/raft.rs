//! A replica: the consensus library (raft-rs), on our log, with our clocks.
//!
//! The library is a synchronous state machine: inputs are ticks, messages and proposals, and [`Raft::pump`] turns what it has ready
//! into appended entries, votes to be written and messages to be sent. A leader's messages leave at once, beside its own disk write; a
//! follower's leave when what they promise is on disk. [`Engine::take_job`] gathers everything since the last job into one write and
//! one sync.
//!
//! Invariant: a term, a vote or an entry is on disk (`interval`: entries with the operating system) before a message tells of it.
//! Invariant: batches become one entry, and a queued message is never changed: the library's `batch_append` stays off, since with
//! reordered messages a follower may then acknowledge entries that it does not have (tests/batch_append.rs).
//! Invariant: log time goes on from the newest that a leader of the log's last term was heard to tell, never from another term's.
//! Invariant: a replica that may have lost what it acknowledged neither votes nor campaigns until it has caught up.
//! Called by: `node`, through [`Engine`] and directly for what only a replica has.
//! Source: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", ATC 2014; Ongaro's thesis, §3.10 (transfer),
//! §4 (membership), §6.4 (reads), §9.6 (pre-vote), §10.2.1 (writing in parallel).

mod identity;
mod members;
mod message;
mod open;
mod storage;

pub use identity::Identity;
pub use members::{Change, ChangeError, Member, Members, Role};
pub use message::Message;
pub use open::RaftConfig;

use crate::{Durability, Engine, EngineError, Instant, Job, JobDone, Proposal, Standing};
use message::{put_extents, take_extents, to_body};
use quorate_log::{AppendEntry, Disk, DiskLock, Import, Index, Log, SlotFile, WriteJob};
use quorate_types::codec::{Writer, encode};
use quorate_types::{Entry, LogIndex, LogTime, NodeId, Term, WallTime};
use raft::eraftpb::{ConfChangeV2, Entry as RaftEntry, EntryType, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use storage::Storage;

/// Nanoseconds of a tick: what election and heartbeat timeouts are counted in.
const TICK_NS: u64 = 25_000_000;
/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 3;
/// Ticks without a leader before the first of the others campaigns: 450 ms. A fault is over within a second; a loaded machine that
/// stalls for a few hundred milliseconds costs nothing.
const ELECTION_TICKS: usize = 18;
/// Ticks after which a campaign that came to nothing is repeated: a tie, or a voter that had just heard the leader.
const CAMPAIGN_TICKS: usize = 8;
/// Ticks between the first to campaign and the next, so that two rarely campaign at once.
const STAGGER_TICKS: u64 = 2;
/// Far beyond any count of ticks: elections are begun here, not by the library, whose timeouts ask the thread for entropy.
const NEVER: usize = 1 << 40;
/// Bytes of entries in one append to a peer.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Appends on their way to one peer.
const APPENDS_MAX: usize = 64;
/// Bytes read ahead for applying.
const READ_BYTES: u64 = 4 << 20;
/// How far a learner may be behind when it becomes a voter.
const PROMOTE_ENTRIES: u64 = 64;

/// A copy of the log that this replica needs: it is too far behind for the leader's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyWanted {
    /// The leader that has it.
    pub from: NodeId,
    /// Its term: a copy taken from a leader of another term must not be installed.
    pub term: Term,
    /// The snapshot that it must reach at least.
    pub index: LogIndex,
}

/// How far a peer's log agrees with the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub node: NodeId,
    /// The last entry known to be on its disk.
    pub matched: LogIndex,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
    /// Whether it takes entries as they come.
    pub streaming: bool,
    /// Whether it needs a copy of the log.
    pub copying: bool,
}

/// See the module's documentation.
pub struct Raft {
    raw: RawNode<Storage>,
    log: Log,
    root: Arc<dyn Disk>,
    /// Held for its drop.
    #[allow(dead_code)]
    lock: Option<Box<dyn DiskLock>>,
    identity: Identity,
    identity_file: Arc<Mutex<SlotFile>>,
    /// The identity changed since the last job.
    identity_dirty: bool,
    durability: Durability,
    members: Members,
    /// Proposed here and not yet given back, oldest first, kept so that applying them needs no decoding.
    proposed: VecDeque<Entry>,
    /// Proposed here, and overtaken by another leader's entries.
    superseded: Vec<Entry>,
    /// Committed entries read back from the log for applying.
    ahead: VecDeque<RaftEntry>,
    /// The last entry given back.
    applied: u64,
    outbox: Vec<Message>,
    /// Readies handled and not yet on disk: (number, messages that wait for it).
    waiting: VecDeque<(u64, Vec<Message>)>,
    /// The jobs under way: how many of `waiting` each covers, and whether it writes the identity.
    jobs: VecDeque<(usize, bool)>,
    /// A change of membership was appended since the last job: it is synced whatever the durability.
    must_sync: bool,
    /// The log refused an entry, or a leader contradicts what is committed: nothing can go on.
    fault: Option<String>,
    /// The folder has another log or cluster by now: this replica says nothing more.
    left: bool,
    reads: VecDeque<(u64, LogIndex)>,
    reads_waiting: Vec<u64>,
    ticked_ns: Option<u64>,
    /// Log time as this node counts it while it leads.
    time: LogTime,
    /// The newest log time heard, and from which term's leader.
    heard: (u64, LogTime),
    led: bool,
    /// The clocks to go on from, set when leadership was won.
    office: (WallTime, LogTime),
    /// The newest change of membership of which a peer has told the outcome.
    heard_members: LogIndex,
    /// Whether the wall clock is too far off to lead.
    clock_off: bool,
    copy: Option<CopyWanted>,
    /// The last entry acknowledged to the leader of a term.
    acknowledged: (u64, u64),
    jitter: u64,
    scratch: Writer,
    body: Vec<u8>,
}

impl Raft {
    /// Who this folder is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The members, as of the last entry given back.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Lets time pass: counts ticks, campaigns, sends heartbeats. `time` is log time, which heartbeats carry while this node leads.
    pub fn tick(&mut self, now: Instant, time: LogTime) {
        if self.left {
            return;
        }
        self.time = time;
        if self.is_leader() && time > LogTime::ZERO {
            // What it told itself counts as heard: it may lose its office and win it again with nobody in between.
            self.heard = (self.raw.raft.term, time);
        }
        let before = *self.ticked_ns.get_or_insert(now.monotonic_ns);
        let passed = now.monotonic_ns.saturating_sub(before) / TICK_NS;
        if passed == 0 {
            return;
        }
        // After a stall the messages that came meanwhile are looked at before anybody is given up: only two ticks count.
        let ticks = passed.min(2);
        self.ticked_ns = Some(if passed > 2 { now.monotonic_ns } else { before + passed * TICK_NS });
        for _ in 0..ticks {
            self.raw.tick();
        }
        if self.may_campaign() && self.raw.raft.election_elapsed as u64 >= self.patience() {
            self.raw.raft.election_elapsed = 0;
            // A refusal (a change of membership is being applied) is tried again at the next timeout.
            let _ = self.raw.campaign();
        }
        self.promote();
        self.pump();
    }

    /// Nanoseconds until the next tick.
    #[must_use]
    pub fn next_tick(&self, now: Instant) -> u64 {
        self.ticked_ns.map_or(0, |at| (at + TICK_NS).saturating_sub(now.monotonic_ns))
    }

    /// Takes a message from a peer.
    pub fn step(&mut self, message: Message) {
        let Message { mut inner, time } = message;
        if inner.to != self.raw.raft.id || self.left || self.contradicts(&inner) {
            return;
        }
        let kind = inner.get_msg_type();
        let from_leader =
            matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgAppend | MessageType::MsgSnapshot);
        match kind {
            // What it once acknowledged may be lost: its vote could elect somebody who lacks it.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow
                if self.identity.recovering =>
            {
                return;
            }
            MessageType::MsgTimeoutNow if self.clock_off => return,
            // Only what comes before the first entry has term 0; the library takes the claim for a fact, and panics.
            MessageType::MsgAppend if inner.index > 0 && inner.log_term == 0 => return,
            MessageType::MsgSnapshot => {
                let metadata = inner.get_snapshot().get_metadata();
                let (term, index) = (Term(inner.term), LogIndex(metadata.index));
                let from = NodeId(inner.from);
                // The body comes by another way; all that this message says to the library is who leads.
                let mut beat = raft::eraftpb::Message {
                    to: inner.to,
                    from: inner.from,
                    term: inner.term,
                    ..Default::default()
                };
                beat.set_msg_type(MessageType::MsgHeartbeat);
                inner = beat;
                if term.0 >= self.raw.raft.term && index.0 > self.raw.raft.raft_log.committed {
                    self.copy = Some(CopyWanted { from, term, index });
                }
            }
            // A replica that lost its tail has less than its leader believes, or something else in that place: only what it has
            // acknowledged to this leader may be committed by a number alone.
            MessageType::MsgHeartbeat => {
                let known = self.acknowledged_in(inner.term);
                inner.commit = inner.commit.min(known.max(self.raw.raft.raft_log.committed));
            }
            _ => {}
        }
        let term = inner.term;
        // Messages from nodes that are no members any more are refused by the library; there is nobody to tell.
        let _ = self.raw.step(inner);
        if from_leader && term == self.raw.raft.term && time > LogTime::ZERO {
            let known = if self.heard.0 == term { self.heard.1 } else { LogTime::ZERO };
            self.heard = (term, known.max(time));
        }
        self.pump();
    }

    /// Messages that may leave now, in order.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    /// The clocks to go on from after winning leadership: not before any entry of the log, nor before what its last leader was heard
    /// to tell.
    #[must_use]
    pub fn office(&self) -> (WallTime, LogTime) {
        self.office
    }

    /// Asks for an index that every read from now on must wait for: it comes back by [`Raft::next_read`] once a quorum has
    /// confirmed that this node still leads. Only on a leader; asked again after a while, or forgotten when it leads no more.
    pub fn read(&mut self, id: u64) {
        if !self.is_leader() {
            return;
        }
        // The library forgets requests that come before the term's first entry is committed.
        if self.raw.raft.commit_to_current_term() {
            self.raw.read_index(id.to_le_bytes().to_vec());
            self.pump();
        } else {
            self.reads_waiting.push(id);
        }
    }

    /// A read that is confirmed: what it reads must have the entry applied.
    pub fn next_read(&mut self) -> Option<(u64, LogIndex)> {
        self.reads.pop_front()
    }

    /// Proposals of this node that another leader's entries have overtaken: they never take effect.
    pub fn take_superseded(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.superseded)
    }

    /// Changes the membership; several changes take effect together.
    ///
    /// # Errors
    /// [`ChangeError`]: nothing happened.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), ChangeError> {
        if !self.is_leader() {
            return Err(ChangeError::NotLeader);
        }
        self.members.check(self.id(), changes)?;
        let pending = self.raw.raft.has_pending_conf() || self.members.is_joint();
        if pending || !self.standing().orders {
            return Err(ChangeError::UnderWay);
        }
        let (change, context) = self.members.conf_change(changes);
        self.raw.propose_conf_change(context, change).map_err(|_| ChangeError::UnderWay)?;
        self.pump();
        Ok(())
    }

    /// Hands leadership to another voter.
    pub fn transfer(&mut self, to: NodeId) {
        self.raw.transfer_leader(to.0);
        self.pump();
    }

    /// How far the peers are, on a leader.
    #[must_use]
    pub fn progress(&self) -> Vec<PeerProgress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let progress = |(node, progress): (&u64, &raft::Progress)| PeerProgress {
            node: NodeId(*node),
            matched: LogIndex(progress.matched),
            active: progress.recent_active || *node == self.id().0,
            streaming: progress.state == ProgressState::Replicate,
            copying: progress.state == ProgressState::Snapshot,
        };
        let mut all: Vec<PeerProgress> = self.raw.raft.prs().iter().map(progress).collect();
        all.sort_unstable_by_key(|peer| peer.node);
        all
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// A peer's process began anew, with a log that ends at `last`: what it was sent before may be lost.
    pub fn peer_restarted(&mut self, node: NodeId, last: LogIndex) {
        if !self.is_leader() || node == self.id() {
            return;
        }
        let end = self.raw.raft.raft_log.last_index();
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(node.0) {
            // Under `interval` a power loss takes back what was acknowledged. Counting it on would be wrong.
            progress.matched = progress.matched.min(last.0);
            progress.become_probe();
            progress.next_idx = (progress.matched + 1).max(last.0.min(end) + 1);
        }
        self.pump();
    }

    /// A peer cannot be reached just now.
    pub fn peer_unreachable(&mut self, node: NodeId) {
        if self.is_leader() {
            self.raw.report_unreachable(node.0);
        }
    }

    /// The copy that a peer needs is not being fetched: it is offered anew. That one is complete shows when the peer begins anew with it.
    pub fn copy_failed(&mut self, node: NodeId) {
        let copying = self.raw.raft.prs().get(node.0).is_some_and(|p| p.state == ProgressState::Snapshot);
        if self.is_leader() && copying {
            self.raw.report_snapshot(node.0, SnapshotStatus::Failure);
            self.pump();
        }
    }

    /// The copy that this replica needs, if any.
    #[must_use]
    pub fn copy_wanted(&self) -> Option<CopyWanted> {
        let committed = self.raw.raft.raft_log.committed;
        self.copy.filter(|copy| copy.term.0 == self.raw.raft.term && copy.index.0 > committed && !self.left)
    }

    /// Whether a snapshot should be taken soon: a peer needs a copy and there is none to begin it with.
    pub fn take_snapshot_wanted(&mut self) -> bool {
        self.raw.mut_store().take_snapshot_wanted()
    }

    /// A snapshot of the state after `index` is on disk.
    pub fn snapshot_taken(&mut self, index: LogIndex, meta: &[u8]) {
        if let Ok(Some((term, members))) = open::read_meta(meta) {
            self.raw.mut_store().set_snapshot(index.0, term.0, members.conf().clone());
        }
    }

    /// Says whether the wall clock is too far from the others' to lead.
    pub fn set_clock_off(&mut self, off: bool) {
        self.clock_off = off;
    }

    /// Whether this replica has to catch up before it may vote.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        self.identity.recovering
    }

    /// It has caught up with everything that was acknowledged anywhere when it asked.
    pub fn recovered(&mut self) {
        self.identity.recovering = false;
        self.identity_dirty = true;
    }

    /// Where a copy of a leader's log is gathered: a folder of its own that survives a restart.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn staging(&self) -> Result<Arc<dyn Disk>, EngineError> {
        let name = identity::log_folder(self.identity.log + 1);
        let no = |error| EngineError::Identity(format!("folder {name} cannot be made: {error}"));
        let folder = self.root.folder(&name).map_err(no)?;
        let files = folder.list().map_err(no)?;
        if files.is_empty() || Import::is_under_way(&files) {
            return Ok(folder);
        }
        // A copy that was complete and not installed: it came too late, or the process died in between. It is of no use any more, and in
        // the way of the next.
        self.root.remove_folder(&name).map_err(no)?;
        self.root.folder(&name).map_err(no)
    }

    /// The members as this folder last knew them: whom to dial before the log has told.
    #[must_use]
    pub fn known(&self) -> &[Member] {
        &self.identity.known
    }

    /// Hears of the members as of a later change than the last one applied here: whom to dial, until the log tells. A replica that was
    /// away while members were replaced could not answer a leader that it does not know.
    pub fn hear_members(&mut self, changed: LogIndex, members: Vec<Member>) {
        if changed > self.identity.changed && changed > self.heard_members && !self.left {
            self.heard_members = changed;
            self.identity.known = members;
            self.identity_dirty = true;
        }
    }

    /// Makes the gathered copy, which ends at `last`, this replica's log. The replica is of no further use: open the folder again.
    /// `Ok(false)`: another leader rules by now, or the copy is older than what was acknowledged; it must not be used.
    ///
    /// # Errors
    /// The identity cannot be written.
    pub fn install(&mut self, wanted: CopyWanted, last: LogIndex) -> Result<bool, EngineError> {
        let acknowledged = self.acknowledged_in(wanted.term.0);
        let old = wanted.term.0 != self.raw.raft.term || last < wanted.index || last.0 < acknowledged;
        if old || last < self.committed() {
            return Ok(false);
        }
        let mut identity = self.identity.clone();
        identity.log += 1;
        identity.clean = false;
        // The copy's snapshot knows the members better.
        identity.known.clear();
        open::write(&self.identity_file, &identity)?;
        // A vote that is written from now on must not bring the old log back.
        self.identity = identity;
        // An acknowledgement from now on would speak of a log that is about to be left.
        self.leave();
        Ok(true)
    }

    /// Notes that the folder is closed in good order, if everything is synced.
    ///
    /// # Errors
    /// The identity cannot be written.
    pub fn close(&mut self) -> Result<(), EngineError> {
        self.identity.clean = self.log.synced() == self.log.last();
        open::write(&self.identity_file, &self.identity)
    }

    pub(crate) fn leave(&mut self) {
        self.left = true;
        self.outbox.clear();
        self.waiting.clear();
    }

    /// Whether a leader offers other entries than those that are committed here. That cannot be, unless a peer is faulty; the library
    /// would panic.
    fn contradicts(&mut self, message: &raft::eraftpb::Message) -> bool {
        // A leader of an earlier term that does not know it yet may: the library refuses it.
        if message.get_msg_type() != MessageType::MsgAppend || message.term < self.raw.raft.term {
            return false;
        }
        let committed = self.raw.raft.raft_log.committed;
        let known = message.entries.iter().take_while(|entry| entry.index <= committed);
        let other = known.into_iter().find(|entry| {
            let term = raft::Storage::term(self.raw.store(), entry.index);
            term.is_ok_and(|term| term != entry.term)
        });
        let Some(other) = other else { return false };
        self.fault.get_or_insert(format!(
            "node {} offers entry {} of term {} in the place of a committed one: its log or this one is broken",
            message.from, other.index, other.term
        ));
        true
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn may_campaign(&self) -> bool {
        // What is not on disk yet must not be led with.
        let written = self.waiting.is_empty() && self.jobs.is_empty();
        !self.is_leader()
            && self.raw.raft.promotable()
            && !self.identity.recovering
            && !self.clock_off
            && written
    }

    /// Ticks without a leader after which this node campaigns. The order changes with the term, so that a node that cannot win does not
    /// always go first; the only voter does not wait.
    fn patience(&self) -> u64 {
        let voters = self.members.voters();
        if voters.len() <= 1 {
            return 0;
        }
        let place = voters.iter().position(|node| *node == self.id()).unwrap_or(0) as u64;
        let term = self.raw.raft.term;
        let rank = (place + term) % voters.len() as u64;
        let jitter = (self.jitter ^ term).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
        // The leader was given up before the first campaign; only the tie has to be broken now.
        let tried = matches!(self.raw.raft.state, StateRole::Candidate | StateRole::PreCandidate);
        let ticks = if tried { CAMPAIGN_TICKS } else { ELECTION_TICKS };
        ticks as u64 + rank * STAGGER_TICKS + jitter
    }

    /// Learners that have caught up become voters, one at a time.
    fn promote(&mut self) {
        if !self.members.has_learners() {
            return;
        }
        if !self.is_leader() || self.raw.raft.has_pending_conf() || self.members.is_joint() {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let learners = self.members.list().into_iter().filter(|m| m.role == (Role::Learner {}) && m.vote);
        let progress = self.progress();
        let caught_up = |learner: &Member| {
            let peer = progress.iter().find(|peer| peer.node == learner.node);
            // One that has answered to nothing yet could cost the cluster its quorum. One that has everything is sent nothing more while
            // nothing is written, and does not stream.
            let near = |peer: &PeerProgress| peer.streaming && peer.matched.0 + PROMOTE_ENTRIES >= last;
            peer.is_some_and(|peer| peer.active && (near(peer) || peer.matched.0 == last))
        };
        let ready = learners.into_iter().find(caught_up);
        if let Some(learner) = ready {
            // A refusal (a hand-over is under way) is tried again at the next tick.
            let _ = self.change(&[Change::Promote { node: learner.node }]);
        }
    }

    /// Handles everything that the library has ready.
    fn pump(&mut self) {
        if !self.reads_waiting.is_empty() && self.is_leader() && self.raw.raft.commit_to_current_term() {
            for id in std::mem::take(&mut self.reads_waiting) {
                self.raw.read_index(id.to_le_bytes().to_vec());
            }
        }
        while self.raw.has_ready() {
            self.handle_ready();
        }
        if self.led && !self.is_leader() {
            self.led = false;
            self.reads_waiting.clear();
        }
    }

    fn handle_ready(&mut self) {
        // Before the first message of the term leaves: it tells the log time too, so that a leader that dies right after winning hands
        // on what it had heard.
        if self.is_leader() && !self.led {
            self.led = true;
            self.take_office();
            self.time = self.office.1;
        }
        let mut ready = self.raw.ready();
        let number = ready.number();
        let mut must_write = false;
        if let Some(hard) = ready.hs() {
            let (term, vote) = (Term(hard.term), NodeId(hard.vote));
            if (term, vote) != (self.identity.term, self.identity.vote) {
                (self.identity.term, self.identity.vote) = (term, vote);
                self.identity_dirty = true;
                must_write = true;
            }
        }
        let vote_owed = self.identity_dirty || self.jobs.iter().any(|(_, identity)| *identity);
        // The only voter becomes leader without asking anybody, before its term is on disk: what it sends in that term must wait, or it
        // could lead the same term again after a crash.
        let mut held = Vec::new();
        for message in ready.take_messages() {
            let message = self.stamped(message);
            if vote_owed { &mut held } else { &mut self.outbox }.push(message);
        }
        for entry in ready.take_entries() {
            self.append(entry);
            must_write = true;
        }
        for state in ready.take_read_states() {
            if let Ok(id) = <[u8; 8]>::try_from(&state.request_ctx[..]) {
                self.reads.push_back((u64::from_le_bytes(id), LogIndex(state.index)));
            }
        }
        // The engine reads committed entries itself, at the pace of whoever applies them.
        drop(ready.take_committed_entries());
        for message in ready.take_persisted_messages() {
            held.push(self.stamped(message));
        }
        self.raw.advance_append_async(ready);
        let idle = self.waiting.is_empty() && self.jobs.is_empty();
        if must_write || !idle {
            let (now, later) = if vote_owed || must_write {
                (Vec::new(), held)
            } else {
                // Telling a leader that it is heard promises nothing about the entries that are being written.
                held.into_iter().partition(|m| m.inner.get_msg_type() == MessageType::MsgHeartbeatResponse)
            };
            self.outbox.extend(now);
            self.waiting.push_back((number, later));
        } else {
            self.outbox.extend(held);
            self.raw.on_persist_ready(number);
        }
    }

    /// A job for a piece of the log and the identity, when there is either.
    fn job(&mut self, write: Option<WriteJob>) -> Option<Job> {
        // A log without room for now must not hold a vote back.
        let identity = self.identity_dirty.then(|| self.identity.encode());
        if identity.is_none() && write.is_none() {
            return None;
        }
        self.identity_dirty = false;
        self.must_sync &= self.log.buffered_bytes() > 0;
        // With a batch still in the log's buffer (it waits for a segment, or was too large for one write) nothing is covered yet.
        let covered = if self.log.buffered_bytes() == 0 { self.waiting.len() } else { 0 };
        let before: usize = self.jobs.iter().map(|(covered, _)| covered).sum();
        self.jobs.push_back((covered.saturating_sub(before), identity.is_some()));
        let identity = identity.map(|content| (Arc::clone(&self.identity_file), content));
        Some(Job { identity, write })
    }

    /// Lets go of what waited for a write that covered so many readies. With nothing left to write, nothing has to be waited for: what
    /// came without a write of its own behind a write is on disk too.
    fn release(&mut self, covered: usize) {
        let written = self.jobs.is_empty() && !self.identity_dirty && self.log.buffered_bytes() == 0;
        // One that has left its log waits for nothing any more, whatever its jobs covered.
        let covered = if written { self.waiting.len() } else { covered.min(self.waiting.len()) };
        let mut last = None;
        for (number, messages) in self.waiting.drain(..covered) {
            self.outbox.extend(messages);
            last = Some(number);
        }
        if let Some(number) = last {
            self.raw.on_persist_ready(number);
        }
    }

    fn stamped(&mut self, message: raft::eraftpb::Message) -> Message {
        let kind = message.get_msg_type();
        let leads = matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgAppend);
        if kind == MessageType::MsgAppendResponse && !message.reject {
            let known = self.acknowledged_in(message.term);
            self.acknowledged = (message.term, known.max(message.index));
        }
        Message { inner: message, time: if leads { self.time } else { LogTime::ZERO } }
    }

    /// The last entry acknowledged to the leader of this term.
    fn acknowledged_in(&self, term: u64) -> u64 {
        if self.acknowledged.0 == term { self.acknowledged.1 } else { 0 }
    }

    /// Appends to the log; an entry in the place of another voids that one and all after it.
    fn append(&mut self, entry: RaftEntry) {
        if self.fault.is_some() {
            return;
        }
        if entry.index <= self.log.last().0 {
            self.log.rewind(Index(entry.index - 1));
            self.ahead.retain(|ahead| ahead.index < entry.index);
            while self.proposed.back().is_some_and(|own| own.index.0 >= entry.index) {
                self.superseded.extend(self.proposed.pop_back());
            }
        }
        let extents;
        let body: &[u8] = if to_body(&entry, &mut self.body) {
            extents = Vec::new();
            self.must_sync = true;
            &self.body
        } else {
            let read = take_extents(&entry.context, entry.data.len());
            extents = read.expect("reading a message checks the extents in it, and proposing makes them");
            &entry.data
        };
        let appended = AppendEntry {
            index: Index(entry.index),
            term: quorate_log::Term(entry.term),
            body,
            extents: &extents,
        };
        if let Err(error) = self.log.append(appended) {
            self.fault.get_or_insert_with(|| error.to_string());
            return;
        }
        self.raw.mut_store().append(entry);
    }

    /// Finds the clocks to go on from: those of the last entry before this term's own, and what was heard beyond them.
    fn take_office(&mut self) {
        self.office = (WallTime::ZERO, LogTime::ZERO);
        let first_own = self.raw.raft.raft_log.last_index();
        let mut index = first_own.saturating_sub(1);
        let last_term = raft::Storage::term(self.raw.store(), index).unwrap_or(0);
        if self.heard.0 == last_term {
            self.office.1 = self.heard.1;
        }
        while index > self.applied {
            let Ok(rows) = self.raw.store().read(index, index + 1, 0) else { break };
            let clocks = rows.first().and_then(|row| {
                let own = row.entry_type != EntryType::EntryNormal;
                if own { None } else { Entry::peek_clocks(&row.data).ok().flatten() }
            });
            if let Some((wall, time)) = clocks {
                self.office = (wall, self.office.1.max(time));
                break;
            }
            index -= 1;
        }
    }

    fn certain(&self) -> u64 {
        let log = &self.raw.raft.raft_log;
        log.committed.min(log.persisted)
    }

    /// The committed entry after the last one given back, from memory or the log.
    fn read_next(&mut self) -> Result<RaftEntry, EngineError> {
        let index = self.applied + 1;
        if self.ahead.front().is_none_or(|entry| entry.index != index) {
            self.ahead.clear();
            let found = self.raw.store().read(index, self.certain() + 1, READ_BYTES);
            self.ahead = found.map_err(|error| self.consensus(&error))?.into();
        }
        self.ahead.pop_front().ok_or_else(|| EngineError::Consensus(format!("entry {index} is not there")))
    }

    fn consensus(&self, error: &raft::Error) -> EngineError {
        EngineError::Consensus(self.raw.store().fault().unwrap_or_else(|| error.to_string()))
    }

    fn apply_change(&mut self, entry: &RaftEntry) -> Result<(), EngineError> {
        let mut change = ConfChangeV2::default();
        protobuf::Message::merge_from_bytes(&mut change, &entry.data)
            .map_err(|error| EngineError::Consensus(format!("entry {}: {error}", entry.index)))?;
        let conf =
            self.raw.apply_conf_change(&change).map_err(|error| EngineError::Consensus(error.to_string()))?;
        // Elected while its removal was under way: the library panics when such a leader counts acknowledgements.
        if self.is_leader() && self.raw.raft.prs().get(self.raw.raft.id).is_none() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        let index = LogIndex(entry.index);
        self.members.apply(conf, &entry.context).map_err(|error| EngineError::Entry { index, error })?;
        // Right after opening these are the members of long ago: what the folder or a peer knows is newer.
        if index >= self.identity.changed.max(self.heard_members) {
            self.identity.known = self.members.list();
            self.identity.changed = index;
            self.identity_dirty = true;
        }
        Ok(())
    }
}

impl Engine for Raft {
    fn standing(&self) -> Standing {
        let raft = &self.raw.raft;
        let leads = self.is_leader() && !self.left;
        let orders = leads && raft.lead_transferee.is_none() && raft.prs().get(raft.id).is_some();
        let leader = (raft.leader_id != 0).then_some(NodeId(raft.leader_id));
        Standing { term: Term(raft.term), leader, leads, orders }
    }

    fn propose(&mut self, proposal: Proposal) -> Result<LogIndex, EngineError> {
        if !self.standing().orders {
            return Err(EngineError::NotLeader);
        }
        let index = LogIndex(self.raw.raft.raft_log.last_index() + 1);
        let entry = proposal.into_entry(index, Term(self.raw.raft.term));
        self.scratch.clear();
        entry.encode_body(&mut self.scratch);
        let context = put_extents(self.scratch.extents.iter().map(|extent| (extent.offset, extent.len)));
        let proposed = self.raw.propose(context, std::mem::take(&mut self.scratch.buffer));
        proposed.map_err(|error| EngineError::Consensus(error.to_string()))?;
        self.proposed.push_back(entry);
        self.pump();
        Ok(index)
    }

    fn take_job(&mut self) -> Option<Job> {
        let sync = self.durability == Durability::Always || self.must_sync;
        let write = if self.log.buffered_bytes() > 0 { self.log.take_job(sync) } else { None };
        self.job(write)
    }

    fn take_sync_job(&mut self) -> Option<Job> {
        let write = self.log.take_job(true);
        self.job(write)
    }

    fn take_mark_job(&mut self) -> Option<Job> {
        let write = self.log.mark_job()?;
        self.jobs.push_back((0, false));
        Some(Job::of(write))
    }

    fn complete(&mut self, done: JobDone) -> Result<(), EngineError> {
        done.identity?;
        if let Some(done) = done.write {
            self.log.complete(done)?;
        }
        let (covered, _) = self.jobs.pop_front().unwrap_or_default();
        self.release(covered);
        let (written, first) = (self.log.written().0, self.log.first().0);
        self.raw.mut_store().trim(written, first);
        self.pump();
        match self.fault.clone().or_else(|| self.raw.store().fault()) {
            Some(fault) => Err(EngineError::Consensus(fault)),
            None => Ok(()),
        }
    }

    fn next_committed(&mut self) -> Result<Option<Entry>, EngineError> {
        if !self.has_committed() {
            return Ok(None);
        }
        let index = self.applied + 1;
        let term = raft::Storage::term(self.raw.store(), index).map_err(|error| self.consensus(&error))?;
        while self.proposed.front().is_some_and(|own| own.index.0 <= index && own.term.0 != term) {
            self.superseded.extend(self.proposed.pop_front());
        }
        let entry = if self.proposed.front().is_some_and(|own| own.index.0 == index) {
            self.proposed.pop_front().expect("it was just seen")
        } else {
            let row = self.read_next()?;
            if row.entry_type == EntryType::EntryNormal {
                let index = LogIndex(index);
                Entry::decode_body(index, Term(term), &row.data)
                    .map_err(|error| EngineError::Entry { index, error })?
            } else {
                if index > self.identity.first_at.0 {
                    self.apply_change(&row)?;
                }
                Entry { index: LogIndex(index), term: Term(term), ..Entry::default() }
            }
        };
        self.applied = index;
        self.raw.advance_apply_to(index);
        self.raw.mut_store().applied(index);
        self.pump();
        Ok(Some(entry))
    }

    fn has_committed(&self) -> bool {
        self.certain() > self.applied
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    fn in_flight(&self) -> usize {
        self.proposed.len()
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    fn snapshot_meta(&self) -> Vec<u8> {
        let term = raft::Storage::term(self.raw.store(), self.applied)
            .expect("the last applied entry is in the log");
        encode(&(Term(term), self.members.clone()))
    }

    fn replica(&mut self) -> Option<&mut Raft> {
        Some(self)
    }

    fn as_replica(&self) -> Option<&Raft> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_log::{FileDisk, LogConfig};
    use std::sync::Arc;

    #[test]
    fn entries_said_to_follow_one_without_a_term_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(FileDisk::open(folder.path()).expect("a disk"));
        let config = RaftConfig {
            node: NodeId(1),
            durability: Durability::Always,
            log: LogConfig {
                segment_bytes: 1 << 20,
                batch_bytes_max: 1 << 18,
                entry_bytes_max: 1 << 16,
                ..LogConfig::default()
            },
            boot: "boot".to_owned(),
            seed: 1,
        };
        let (mut raft, _) = Raft::open(disk, &config).expect("a replica");
        let mut append =
            raft::eraftpb::Message { to: 1, from: 2, term: 9, index: 100, commit: 100, ..Default::default() };
        append.set_msg_type(MessageType::MsgAppend);
        raft.step(Message { inner: append, time: LogTime::ZERO });
        assert_eq!(raft.last(), LogIndex::ZERO);
    }
}
