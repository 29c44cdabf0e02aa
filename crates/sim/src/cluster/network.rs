//! The network between the nodes: a stream of frames for each direction of each pair, as the links of production are.
//!
//! Each node dials those it knows and sends on what it dialled. Within a connection frames arrive in order, each at most once: it is TCP.
//! So loss is the end of a connection with everything on its way, and what raft calls reordering and duplication can only happen
//! between links, and by what nodes send again once a connection stands anew; nothing else reaches a node in production either.
//!
//! Invariant: no frame of an older connection is delivered once a newer one stands.
//! Called by: the cluster's world.

use bytes::Bytes;
use quorate_types::{ClusterId, NodeId, Term};
use std::collections::{BTreeMap, VecDeque};

/// A frame on its way.
pub(crate) struct Sent {
    pub(crate) at_ns: u64,
    pub(crate) bytes: Bytes,
    /// The sender's term as a leader, and when it had read its clock last: what its log time in the frame is of.
    pub(crate) office: Option<(Term, u64)>,
}

/// One direction between two nodes.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// Connections so far.
    pub(crate) number: u64,
    /// The cluster that the sender named when it dialled.
    pub(crate) cluster: ClusterId,
    pub(crate) frames: VecDeque<Sent>,
    /// No connection is possible.
    pub(crate) cut: bool,
    /// Bytes stand still, and arrive later.
    pub(crate) stalled: bool,
    /// How much slower than usual.
    pub(crate) slowness: u64,
    pub(crate) redial_at: Option<u64>,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<(NodeId, NodeId), Link>,
}

impl Network {
    pub(crate) fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// Whether requests and answers may pass between two nodes, beside their frames.
    pub(crate) fn passes(&self, one: NodeId, other: NodeId) -> bool {
        let open = |pair| self.links.get(&pair).is_none_or(|link| !link.cut && !link.stalled);
        open((one, other)) && open((other, one))
    }

    /// Ends the connections that a node has dialled.
    pub(crate) fn leaves(&mut self, node: NodeId) {
        self.links.iter_mut().filter(|((from, _), _)| *from == node).for_each(|(_, link)| link.end());
    }

    /// Ends everything of a node, which is gone: the connections that were up towards others and from them.
    pub(crate) fn gone(&mut self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let mut broken = Vec::new();
        for ((from, to), link) in &mut self.links {
            if (*from == node || *to == node) && link.up {
                link.end();
                broken.push((*from, *to));
            }
        }
        broken
    }
}

impl Link {
    /// Puts a frame on its way, behind those before it.
    pub(crate) fn send(&mut self, at_ns: u64, bytes: Bytes, office: Option<(Term, u64)>) -> u64 {
        let at_ns = self.frames.back().map_or(at_ns, |last| last.at_ns.max(at_ns));
        self.frames.push_back(Sent { at_ns, bytes, office });
        at_ns
    }

    /// The connection is no more, and with it all that was on its way.
    pub(crate) fn end(&mut self) {
        self.up = false;
        self.frames.clear();
    }
}
