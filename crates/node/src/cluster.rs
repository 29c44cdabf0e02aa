//! What the nodes of a cluster tell each other beside consensus: commands for the leader, reads to confirm, and how each one is.
//!
//! A command goes to the leader once and is answered where its client is: every replica applies the same entries, and an entry says
//! which node took which of its commands ([`quorate_types::Origin`]). So nothing has to come back, and the loss of the leader needs no
//! special case: entries of a term end where those of a later term begin, and what was sent in a term and is not among its entries by
//! then never will be. It is sent again.
//!
//! Invariant: a batch is ordered at most once: only the leader of the term it was sent in takes it, and takes each number once.
//! Invariant: bytes from a peer decode or are refused; they never panic.
//! Called by: `Partition`.

use quorate_engine::{Change, Member, Message};
use quorate_types::codec::{self, Wire, Writer};
use quorate_types::{Blob, ClusterId, Command, DecodeError, LogIndex, NodeId, Term, wire_enum, wire_struct};
use std::collections::{BTreeMap, VecDeque};

/// Nanoseconds between two pings to a peer.
pub(crate) const PING_NS: u64 = 200_000_000;
/// A peer that was not heard of for so long counts as unreachable.
pub(crate) const SILENT_NS: u64 = 1_500_000_000;
/// Without a leader for so long, commands and reads are refused at once.
pub(crate) const LEADERLESS_NS: u64 = 1_000_000_000;
/// A read that was not confirmed for so long is asked for again.
pub(crate) const READ_AGAIN_NS: u64 = 300_000_000;
/// A command that was ordered or sent so long ago and is not applied is said to be indeterminate.
pub(crate) const UNANSWERED_NS: u64 = 10_000_000_000;
/// A read that could not be answered for so long is refused.
pub(crate) const UNREAD_NS: u64 = 5_000_000_000;
/// What was sent to the leader so long ago and is not applied is sent once more.
pub(crate) const FORWARD_AGAIN_NS: u64 = 1_000_000_000;
/// How far from the others' median a wall clock may be on a node that leads, in milliseconds.
pub(crate) const CLOCK_OFF_MS: i64 = 1000;
/// Entries between two compared trails.
pub(crate) const TRAIL_ENTRIES: u64 = 256;
/// Trails kept for comparing.
const TRAILS_MAX: usize = 256;
/// Trails told with each ping.
const TRAILS_TOLD: usize = 4;
/// Bytes of messages that go into one frame, about.
const FRAME_BYTES: usize = 1 << 20;

/// One thing that a node tells another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PeerMessage {
    /// Of the consensus library.
    Consensus { message: Message },
    /// Commands to be ordered by the leader of this term. All keep-alives, or none. `before` is the number of the batch sent before it
    /// in this term, 0 for the first: one that was lost on the way is missed.
    Forward { term: Term, life: u64, before: u64, batch: u64, commands: Vec<Command> },
    /// Asks the leader for an index that a read from now on must wait for.
    AskRead { id: u64 },
    /// The index.
    MayRead { id: u64, index: LogIndex },
    /// How the sender is. The answer tells how far its clock is.
    Ping { sent_ns: u64, how: Box<How> },
    /// The answer to a ping.
    /// When the sender leads, also what it had committed so many nanoseconds ago, when a quorum confirmed that it led.
    Pong { sent_ns: u64, wall_ms: u64, term: Term, led: Option<(u64, LogIndex)> },
    /// The receiver's folder was admitted to the sender's cluster, which began with `first` after entry `first_at` and has these
    /// `members` now.
    Adopt { cluster: ClusterId, first: Vec<Member>, first_at: LogIndex, members: Vec<Member> },
    /// The members as of a change at this index: a receiver that has not applied it yet might not know whom to answer.
    Members { changed: LogIndex, members: Vec<Member> },
    /// A change of membership or leadership, for the leader.
    Admin { id: u64, request: AdminRequest },
    /// What became of it: nothing, or why it was refused.
    AdminDone { id: u64, refused: Option<String> },
    /// Something for the subscribers of a channel. It may be lost.
    Publish { channel: Blob, message: Blob, sharded: bool },
}
wire_enum!(PeerMessage {
    1 = Consensus { message },
    2 = Forward { term, life, before, batch, commands },
    3 = AskRead { id },
    4 = MayRead { id, index },
    5 = Ping { sent_ns, how },
    6 = Pong { sent_ns, wall_ms, term, led },
    7 = Adopt { cluster, first, first_at, members },
    8 = Admin { id, request },
    9 = AdminDone { id, refused },
    10 = Members { changed, members },
    11 = Publish { channel, message, sharded },
});

/// Where clients of a node's other gateways reach it; empty without one, or until it was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// The Redis gateway, `host:port`.
    pub redis: String,
    /// The etcd gateway, `scheme://host:port`.
    pub etcd: String,
    /// The Kafka gateway, `host:port`.
    pub kafka: String,
}
wire_struct!(Doors { redis, etcd, kafka });

/// How a node is, told to its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct How {
    /// The life of its process.
    pub(crate) life: u64,
    /// The end of its log.
    pub(crate) last: LogIndex,
    /// The last entry it has applied.
    pub(crate) applied: LogIndex,
    /// It is copying the leader's log.
    pub(crate) copying: bool,
    /// It may have lost what it acknowledged, and does not vote.
    pub(crate) recovering: bool,
    /// Its disk or memory is nearly full.
    pub(crate) disk_low: bool,
    pub(crate) memory_low: bool,
    /// The newest rules that its build knows.
    pub(crate) machine_version: u32,
    /// Where clients reach it.
    pub(crate) url: String,
    /// Where clients of its other gateways do.
    pub(crate) doors: Doors,
    /// Trails of its machine: (entry, high half, low half).
    pub(crate) trails: Vec<(LogIndex, (u64, u64))>,
}
wire_struct!(How {
    life,
    last,
    applied,
    copying,
    recovering,
    disk_low,
    memory_low,
    machine_version,
    url,
    doors,
    trails,
});

impl Wire for Box<How> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut codec::Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(How::take(from)?))
    }
}

/// A request that changes the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// Changes the membership.
    Change {
        /// The changes, which take effect together.
        changes: Vec<Change>,
    },
    /// Hands leadership to another voter; the best one when it is zero.
    Transfer {
        /// To whom.
        to: NodeId,
    },
}
wire_enum!(AdminRequest { 1 = Change { changes }, 2 = Transfer { to } });

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// What it last told.
    pub(crate) how: How,
    /// When it was last heard, by this node's monotonic clock.
    pub(crate) heard_ns: Option<u64>,
    /// How far its wall clock is ahead of ours, in milliseconds.
    pub(crate) ahead_ms: Option<i64>,
    /// The last moment at which it is known to have led, with all that it had committed then.
    pub(crate) led: Option<(u64, LogIndex)>,
    /// It has answered a ping of this life: it knows who we are, and that we began anew.
    pub(crate) answered: bool,
}

impl Peer {
    pub(crate) fn is_heard(&self, now_ns: u64) -> bool {
        self.heard_ns.is_some_and(|heard| now_ns.saturating_sub(heard) < SILENT_NS)
    }
}

/// The middle of how far the clocks are ahead of ours, ours included; the lower one of two.
pub(crate) fn median_ahead_ms(peers: impl Iterator<Item = i64>) -> i64 {
    let mut all: Vec<i64> = peers.chain([0]).collect();
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}

/// Trails of our machine and of others, by which a replica that went astray is found.
#[derive(Default)]
pub(crate) struct Trails {
    ours: VecDeque<(LogIndex, u128)>,
    /// What others told that differs from ours, by entry.
    differing: BTreeMap<LogIndex, BTreeMap<NodeId, u128>>,
}

impl Trails {
    pub(crate) fn note(&mut self, index: LogIndex, trail: u128) {
        if index.0.is_multiple_of(TRAIL_ENTRIES) {
            self.ours.push_back((index, trail));
            if self.ours.len() > TRAILS_MAX {
                self.ours.pop_front();
            }
        }
    }

    pub(crate) fn told(&self) -> Vec<(LogIndex, (u64, u64))> {
        let halves = |(index, trail): &(LogIndex, u128)| (*index, ((*trail >> 64) as u64, *trail as u64));
        self.ours.iter().rev().take(TRAILS_TOLD).map(halves).collect()
    }

    /// Compares what a peer told; when so many of the others agree on another trail than ours, it is this replica that went
    /// astray: the entry, and who differs.
    pub(crate) fn compare(
        &mut self,
        peer: NodeId,
        told: &[(LogIndex, (u64, u64))],
        quorum: usize,
    ) -> Option<(LogIndex, Vec<NodeId>)> {
        for (index, (high, low)) in told {
            let Ok(at) = self.ours.binary_search_by_key(index, |(index, _)| *index) else { continue };
            let theirs = u128::from(*high) << 64 | u128::from(*low);
            if self.ours[at].1 == theirs {
                continue;
            }
            let others = self.differing.entry(*index).or_default();
            others.insert(peer, theirs);
            let agreeing: Vec<NodeId> =
                others.iter().filter(|(_, trail)| **trail == theirs).map(|(node, _)| *node).collect();
            if agreeing.len() >= quorum {
                return Some((*index, agreeing));
            }
            while self.differing.len() > TRAILS_MAX {
                self.differing.pop_first();
            }
        }
        None
    }
}

/// Frames for the peers: messages to one peer, gathered.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: BTreeMap<NodeId, Vec<Writer>>,
}

impl Outbox {
    pub(crate) fn push(&mut self, to: NodeId, message: &PeerMessage) {
        let frames = self.frames.entry(to).or_default();
        if frames.last().is_none_or(|frame| frame.buffer.len() >= FRAME_BYTES) {
            let mut frame = Writer::default();
            frame.varint(FRAME_VERSION);
            frame.varint(PARTITION);
            frames.push(frame);
        }
        message.put(frames.last_mut().expect("one was pushed when there was none with room"));
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = (NodeId, bytes::Bytes)> + use<> {
        let frames = std::mem::take(&mut self.frames);
        frames.into_iter().flat_map(|(to, frames)| {
            frames.into_iter().map(move |frame| (to, bytes::Bytes::from(frame.buffer)))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Version of what nodes tell each other.
const FRAME_VERSION: u64 = 1;
/// The partition that the messages of a frame are for. There is one.
const PARTITION: u64 = 0;

/// The messages of a frame.
pub(crate) fn read_frame(frame: &bytes::Bytes) -> Result<Vec<PeerMessage>, DecodeError> {
    let mut from = codec::Reader::new(frame);
    let found = from.varint()?;
    if found != FRAME_VERSION {
        return Err(DecodeError::Version { what: "message between nodes", found, wanted: FRAME_VERSION });
    }
    let partition = from.varint()?;
    if partition != PARTITION {
        return Err(DecodeError::Range { what: "partition of a message", found: partition });
    }
    let mut messages = Vec::new();
    while from.left() > 0 {
        messages.push(PeerMessage::take(&mut from)?);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_clock_counts_our_own_and_one_liar_does_not_move_it() {
        assert_eq!(median_ahead_ms([5000, 10].into_iter()), 10);
        assert_eq!(median_ahead_ms([5000, 5100].into_iter()), 5000, "two agree that we are late");
        assert_eq!(median_ahead_ms([5000].into_iter()), 0, "of two, one may lead");
        assert_eq!(median_ahead_ms([-5000].into_iter()), -5000, "and one may not");
        assert_eq!(median_ahead_ms(std::iter::empty()), 0);
    }

    #[test]
    fn the_replica_that_differs_from_a_quorum_is_the_one_that_went_astray() {
        let (index, halves) =
            (LogIndex(TRAIL_ENTRIES), |trail: u64| vec![(LogIndex(TRAIL_ENTRIES), (0, trail))]);
        let mut trails = Trails::default();
        trails.note(index, 7);
        assert_eq!(trails.compare(NodeId(2), &halves(7), 2), None);
        assert_eq!(trails.compare(NodeId(2), &halves(8), 2), None, "one against one tells nothing");
        assert_eq!(trails.compare(NodeId(3), &halves(9), 2), None, "three different ones neither");
        assert_eq!(trails.compare(NodeId(3), &halves(8), 2), Some((index, vec![NodeId(2), NodeId(3)])));
    }

    #[test]
    fn a_frame_reads_back_as_written_and_no_other_bytes_pass() {
        let mut outbox = Outbox::default();
        let messages = [
            PeerMessage::AskRead { id: 7 },
            PeerMessage::Ping { sent_ns: 1, how: Box::new(How { url: "http://x".into(), ..How::default() }) },
            PeerMessage::AdminDone { id: 3, refused: Some("no".into()) },
        ];
        messages.iter().for_each(|message| outbox.push(NodeId(2), message));
        let frames: Vec<_> = outbox.take().collect();
        assert_eq!(frames.len(), 1);
        assert_eq!(read_frame(&frames[0].1).unwrap(), messages);
        let whole = &frames[0].1;
        let ends: Vec<usize> =
            (0..whole.len()).filter(|end| read_frame(&whole.slice(..*end)).is_ok()).collect();
        assert!(
            ends.len() <= messages.len(),
            "only between two messages does a shorter frame read: {ends:?}"
        );
    }
}
