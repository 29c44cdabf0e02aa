//! Who a data folder is: its cluster, its node, its vote. Small, synced at every change, and apart from the log, so that damage to the
//! log never costs a vote.
//!
//! Invariant: a term or vote is in this file, synced, before any message tells of it.
//! Source: Raft §5.2 (currentTerm and votedFor are persistent state).
//! Called by: `Raft`.

use super::Member;
use crate::EngineError;
use quorate_log::{Disk, SlotFile};
use quorate_types::codec::{self, Wire, Writer};
use quorate_types::{ClusterId, DecodeError, LogIndex, NodeId, Term, wire_struct};
use std::sync::Arc;

const VERSION: u64 = 1;
/// The file in the data folder.
pub(crate) const FILE: &str = "cluster.qid";

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; zero until the node is a member of one.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The folder itself, drawn at random when it was made: a folder that was wiped is not the member it was.
    pub instance: u64,
    /// The newest term seen.
    pub term: Term,
    /// Whom this node voted for in that term; zero for nobody.
    pub vote: NodeId,
    /// The operating system's boot in which the folder was last opened.
    pub boot: String,
    /// Whether it then acknowledged entries before they were synced.
    pub interval: bool,
    /// Whether it was closed in good order after that.
    pub clean: bool,
    /// Which sub-folder holds the log: `log-N`, or the folder itself for 0.
    pub log: u64,
    /// The members that the cluster began with, before any change of membership in the log.
    pub first: Vec<Member>,
    /// The last entry of the past that the cluster began with: changes of membership up to it are those of a cluster that is no more.
    pub first_at: LogIndex,
    /// The members last known: whom to dial before the log has told.
    pub known: Vec<Member>,
    /// The last change of membership that was applied: it is committed, though the log alone cannot tell.
    pub changed: LogIndex,
    /// Set while this replica may have lost what it once acknowledged: it neither votes nor campaigns until it has caught up.
    pub recovering: bool,
}
wire_struct!(Identity {
    cluster,
    node,
    instance,
    term,
    vote,
    boot,
    interval,
    clean,
    log,
    first,
    first_at,
    known,
    changed,
    recovering
});

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.varint(VERSION);
        self.put(&mut out);
        out.buffer
    }

    pub(crate) fn decode(bytes: &bytes::Bytes) -> Result<Self, DecodeError> {
        let mut from = codec::Reader::new(bytes);
        let found = from.varint()?;
        if found != VERSION {
            return Err(DecodeError::Version { what: "cluster identity", found, wanted: VERSION });
        }
        let identity = Self::take(&mut from)?;
        from.finish()?;
        Ok(identity)
    }

    /// What a data folder says of itself; nothing when it never was a node of a cluster.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(disk: &Arc<dyn Disk>) -> Result<Option<Self>, EngineError> {
        let there = disk.list().map_err(|error| unreadable(&error))?.iter().any(|file| file.name == FILE);
        if !there {
            return Ok(None);
        }
        let (_, content) = SlotFile::open(Arc::clone(disk), FILE)?;
        content.map(|content| Self::decode(&content)).transpose().map_err(|error| unreadable(&error))
    }

    /// Makes a folder that was a cluster's a member of none again; its log stays. It says who the folder was.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn forget(disk: &Arc<dyn Disk>, instance: u64) -> Result<Option<Self>, EngineError> {
        let Some(old) = Self::read(disk)? else { return Ok(None) };
        let (mut file, _) = SlotFile::open(Arc::clone(disk), FILE)?;
        let (node, term, log) = (old.node, old.term, old.log);
        file.write(&Self { node, term, log, instance: instance | 1, ..Self::default() }.encode())?;
        Ok(Some(old))
    }

    /// The sub-folder of the log; the data folder itself when there is none.
    #[must_use]
    pub fn log_folder(&self) -> Option<String> {
        (self.log > 0).then(|| log_folder(self.log))
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Identity(format!("the folder's {FILE} cannot be read: {why}"))
}

pub(crate) fn log_folder(number: u64) -> String {
    format!("log-{number}")
}
