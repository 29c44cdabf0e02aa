//! Opening a replica's folder: who it is, its log, and what may have been lost.
//!
//! How much of the log is committed is not on disk: a leader tells. One thing is known without it: a change of membership is only
//! proposed once the one before it is applied, so all but the last change in the log are committed. Until those are applied the
//! library refuses to campaign, and with them a replica is at most one change behind: then every quorum of its members meets every
//! quorum of the newer ones.
//!
//! Invariant: a replica that may have lost what it acknowledged is marked as recovering before it takes any message.
//! Invariant: damaged files are set aside, never cut: they may hold the only copy of something committed.
//! Called by: the node, once per life of a replica.
//! Source: single-step changes, Ongaro's thesis §4.1; Alagappan et al., "Protocol-Aware Recovery", FAST 2018.

use super::identity::{FILE, Identity, log_folder};
use super::members::{Member, Members};
use super::message::from_body;
use super::storage::Storage;
use super::{APPEND_BYTES_MAX, APPENDS_MAX, ELECTION_TICKS, HEARTBEAT_TICKS, NEVER, Raft};
use crate::{Durability, EngineError, Opened, Replay};
use bytes::Bytes;
use quorate_log::{Disk, DiskLock, Index, Log, LogConfig, LogError, Recovery, SlotFile};
use quorate_types::codec::{Writer, decode};
use quorate_types::{ClusterId, DecodeError, LogIndex, LogTime, NodeId, Term, WallTime};
use raft::eraftpb::{EntryType, HardState};
use raft::{Config, RawNode};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// How a replica is opened.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The node's number, 1 or more.
    pub node: NodeId,
    /// When commits are answered; `none` is refused.
    pub durability: Durability,
    /// Sizes of the log.
    pub log: LogConfig,
    /// The operating system's boot (Linux: /proc/sys/kernel/random/boot_id); another one than last time, without a close in good order,
    /// is a power loss.
    pub boot: String,
    /// Entropy: spreads elections, and names the folder when it is made.
    pub seed: u64,
}

impl Raft {
    /// Opens a replica's folder, or begins one that is no member of any cluster yet.
    ///
    /// # Errors
    /// [`EngineError::Identity`]: the folder is another node's, or its identity cannot be read; [`EngineError::Log`] as for
    /// [`crate::Local::open`], when there is no peer to copy from.
    pub fn open(root: Arc<dyn Disk>, config: &RaftConfig) -> Result<(Self, Opened), EngineError> {
        if config.durability == Durability::None {
            let text = "a cluster cannot promise anything with durability none: use always, or interval";
            return Err(EngineError::Identity(text.to_owned()));
        }
        let (file, content) = SlotFile::open(Arc::clone(&root), FILE)?;
        let identity_file = Arc::new(Mutex::new(file));
        let mut identity = read_identity(content, config)?;
        let rebooted = !identity.boot.is_empty() && identity.boot != config.boot && !identity.clean;
        let member = identity.cluster != ClusterId::ZERO;
        if !member {
            // Members that its log tells of are those of another cluster; where its own will begin is said when it does.
            identity.first_at = LogIndex(u64::MAX);
        }
        let mut notes = Vec::new();
        let others = identity
            .known
            .iter()
            .any(|known| known.node != identity.node && known.role != super::Role::Learner {});
        // The only voter has nobody to catch up from: what it lost is lost.
        if member && rebooted && identity.interval && others && !identity.recovering {
            identity.recovering = true;
            notes.push(
                "the machine went down unexpectedly and durability is interval: this replica does not vote until it has caught up".to_owned(),
            );
        }
        identity.boot.clone_from(&config.boot);
        identity.clean = false;
        identity.interval = config.durability == Durability::Interval;
        // The folder itself stays locked while its log lives in a sub-folder.
        let lock = match identity.log_folder() {
            Some(_) => Some(root.lock()?),
            None => None,
        };
        let read =
            open_log(&root, &identity, config).and_then(|(log, recovery)| read_log(log, recovery, &identity));
        let (found, opened) = match read {
            Ok(read) => read,
            Err(EngineError::Log(error)) if member && others && is_damage(&error) => {
                let folder = identity.log_folder().unwrap_or_else(|| "the data folder".to_owned());
                notes.push(format!(
                    "{error}. This replica is copied anew from its peers and does not vote until it has caught up; the damaged files stay in {folder} and may be deleted then"
                ));
                identity.log += 1;
                identity.recovering = true;
                // What an interrupted copy left there is not known to be whole.
                let half = log_folder(identity.log);
                if root.folders().map_err(no("list the folder"))?.contains(&half) {
                    root.remove_folder(&half).map_err(no("remove a half copied log"))?;
                }
                let (log, recovery) = open_log(&root, &identity, config)?;
                read_log(log, recovery, &identity)?
            }
            Err(error) => return Err(error),
        };
        write(&identity_file, &identity)?;
        remove_old(&root, &identity);
        let raft = assemble(root, lock, identity, identity_file, found, config)?;
        let opened = Opened { notes: [opened.notes, notes].concat(), ..opened };
        Ok((raft, opened))
    }

    /// Makes this folder the only member of a new cluster; its log may hold entries of an embedded past. The replica is of no
    /// further use: open the folder again.
    ///
    /// # Errors
    /// It is a member of a cluster already; the identity cannot be written.
    pub fn init(&mut self, cluster: ClusterId, address: String) -> Result<(), EngineError> {
        let (node, instance) = (self.id(), self.identity.instance);
        let first = vec![Member { node, address, instance, role: super::Role::Voter {}, vote: true }];
        let first_at = LogIndex(self.log.last().0);
        self.adopt(cluster, first.clone(), first_at, first)
    }

    /// Makes this folder part of a cluster that has admitted it: `first` are the members that the cluster began with after entry
    /// `first_at`, `known` those of now, whom to dial before the log has told. The replica is of no further use: open the folder again.
    ///
    /// # Errors
    /// It is a member of a cluster already; the identity cannot be written.
    pub fn adopt(
        &mut self,
        cluster: ClusterId,
        first: Vec<Member>,
        first_at: LogIndex,
        known: Vec<Member>,
    ) -> Result<(), EngineError> {
        if self.identity.cluster != ClusterId::ZERO {
            return Err(EngineError::Identity(format!(
                "node {} is a member of cluster {:016x} already: nothing was changed",
                self.id(),
                self.identity.cluster.0
            )));
        }
        let own_past = self.log.last() > Index::ZERO || !self.log.snapshots().is_empty();
        if own_past && first.iter().all(|member| member.node != self.id()) {
            return Err(EngineError::Identity(format!(
                "node {} has data of its own, which is not the cluster's: nothing was changed. Give it an empty folder",
                self.id()
            )));
        }
        let mut identity = self.identity.clone();
        identity.cluster = cluster;
        identity.known = known;
        (identity.first, identity.first_at) = (first, first_at);
        write(&self.identity_file, &identity)?;
        self.identity = identity;
        self.leave();
        Ok(())
    }
}

/// What a snapshot's metadata tell beside the state: the term of its last entry, and the members then; nothing for a snapshot of an
/// embedded past.
pub(crate) fn read_meta(meta: &[u8]) -> Result<Option<(Term, Members)>, DecodeError> {
    if meta.is_empty() {
        return Ok(None);
    }
    decode(&Bytes::copy_from_slice(meta)).map(Some)
}

pub(crate) fn write(file: &Mutex<SlotFile>, identity: &Identity) -> Result<(), EngineError> {
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(file.write(&identity.encode())?)
}

fn read_identity(content: Option<Bytes>, config: &RaftConfig) -> Result<Identity, EngineError> {
    let Some(content) = content else {
        // Never zero: that is how "no folder" is told from a folder.
        let instance = (config.seed ^ 0x5175_6f72_6174_6521) | 1;
        return Ok(Identity { node: config.node, instance, ..Identity::default() });
    };
    let identity = Identity::decode(&content)
        .map_err(|error| EngineError::Identity(format!("the folder's {FILE} cannot be read: {error}")))?;
    if identity.node != config.node {
        let text = format!(
            "the data folder belongs to node {}, this is node {}: nothing was changed. Start it with --node-id {}, or give this node a folder of its own",
            identity.node, config.node, identity.node
        );
        return Err(EngineError::Identity(text));
    }
    Ok(identity)
}

fn open_log(
    root: &Arc<dyn Disk>,
    identity: &Identity,
    config: &RaftConfig,
) -> Result<(Log, Recovery), EngineError> {
    let disk = match identity.log_folder() {
        None => Arc::clone(root),
        Some(name) => root.folder(&name).map_err(no("open the log's folder"))?,
    };
    Ok(Log::open(disk, config.log)?)
}

fn no(what: &str) -> impl FnOnce(std::io::Error) -> EngineError + '_ {
    move |error| EngineError::Identity(format!("cannot {what}: {error}"))
}

/// What can be mended by copying: the bytes are wrong. A full disk or a missing right is not.
fn is_damage(error: &LogError) -> bool {
    matches!(error, LogError::Damage { .. } | LogError::Missing { .. } | LogError::Foreign { .. })
}

/// The log, and what reading it through has told.
struct Found {
    log: Log,
    storage: Storage,
    members: Members,
    snapshot: u64,
}

fn read_log(log: Log, recovery: Recovery, identity: &Identity) -> Result<(Found, Opened), EngineError> {
    let Recovery { snapshot, entries, torn, notes, damaged_snapshots, last, .. } = recovery;
    let mut members = Members::of(&identity.first);
    let mut base = (0, 0);
    if let Some(snapshot) = &snapshot {
        let index = snapshot.index();
        let read = read_meta(snapshot.meta());
        let term = match read.map_err(|error| EngineError::Entry { index: LogIndex(index.0), error })? {
            Some((term, then)) => {
                if index.0 > identity.first_at.0 {
                    members = then;
                }
                term.0
            }
            None => log.reader().term(index)?.0,
        };
        base = (index.0, term);
    }
    let hard = HardState::default();
    let mut storage = Storage::new(log.reader(), log.first().0, base, hard, members.conf().clone());
    storage.set_first(identity.first_at.0);
    if let Some(snapshot) = &snapshot {
        storage.set_snapshot(snapshot.index().0, base.1, members.conf().clone());
    }
    let mut changes: VecDeque<u64> = VecDeque::new();
    for entry in entries {
        let entry = entry?;
        let index = entry.index.0;
        let row = from_body(index, entry.term.0, &entry.body, &entry.extents)
            .map_err(|error| EngineError::Entry { index: LogIndex(index), error })?;
        while changes.back().is_some_and(|change| *change >= index) {
            changes.pop_back();
        }
        if row.entry_type != EntryType::EntryNormal && index > identity.first_at.0 {
            changes.push_back(index);
        }
        // What was read shares big buffers: copied, it holds no more than it needs.
        storage.append(super::message::copied(row));
        storage.trim(last.0, 0);
    }
    let before_last = changes.len().checked_sub(2).map_or(0, |at| changes[at]);
    // Without it, a cluster that went down whole would need the voters of before its last change: one of them may never come back.
    let applied = changes.iter().find(|change| **change == identity.changed.0).copied().unwrap_or(0);
    let newest_term = raft::Storage::term(&storage, storage.last()).unwrap_or(0);
    storage.set_hard(HardState {
        term: identity.term.0.max(newest_term),
        vote: if identity.term.0 >= newest_term { identity.vote.0 } else { 0 },
        commit: base.0.max(before_last).max(applied),
        ..HardState::default()
    });
    let mut said = notes;
    said.extend(damaged_snapshots.iter().map(LogError::to_string));
    let opened = Opened { snapshot, entries: Replay(None), torn, notes: said, last: LogIndex(base.0) };
    Ok((Found { log, storage, members, snapshot: base.0 }, opened))
}

fn assemble(
    root: Arc<dyn Disk>,
    lock: Option<Box<dyn DiskLock>>,
    mut identity: Identity,
    identity_file: Arc<Mutex<SlotFile>>,
    found: Found,
    config: &RaftConfig,
) -> Result<Raft, EngineError> {
    let Found { log, storage, members, snapshot } = found;
    let library = Config {
        id: identity.node.0,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied: snapshot,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_inflight_msgs: APPENDS_MAX,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: NEVER,
        max_election_tick: NEVER + 1,
        batch_append: false,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let raw = RawNode::new(&library, storage, &logger)
        .map_err(|error| EngineError::Consensus(error.to_string()))?;
    identity.term = identity.term.max(Term(raw.raft.term));
    let unsaid = identity.known.is_empty() && identity.cluster != ClusterId::ZERO;
    if unsaid {
        identity.known = members.list();
    }
    Ok(Raft {
        raw,
        log,
        root,
        lock,
        identity,
        identity_file,
        identity_dirty: unsaid,
        durability: config.durability,
        members,
        proposed: VecDeque::new(),
        superseded: Vec::new(),
        ahead: VecDeque::new(),
        applied: snapshot,
        outbox: Vec::new(),
        waiting: VecDeque::new(),
        jobs: VecDeque::new(),
        must_sync: false,
        fault: None,
        left: false,
        reads: VecDeque::new(),
        reads_waiting: Vec::new(),
        ticked_ns: None,
        time: LogTime::ZERO,
        heard: (0, LogTime::ZERO),
        led: false,
        office: (WallTime::ZERO, LogTime::ZERO),
        heard_members: LogIndex::ZERO,
        clock_off: false,
        copy: None,
        acknowledged: (0, 0),
        jitter: config.seed,
        scratch: Writer::default(),
        body: Vec::new(),
    })
}

/// Logs that this folder has left behind after a copy was installed. Those that were set aside as damaged stay until the replica has
/// caught up.
fn remove_old(root: &Arc<dyn Disk>, identity: &Identity) {
    if identity.recovering || identity.log == 0 {
        return;
    }
    // What cannot be removed now is tried again at the next opening; it only costs room.
    let _ = quorate_log::remove(&**root);
    for name in root.folders().unwrap_or_default() {
        let number = name.strip_prefix("log-").and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| number < identity.log) {
            let _ = root.remove_folder(&name);
        }
    }
}
