//! Who belongs to the cluster, in which role, and where each member is dialled.
//!
//! Invariant: the roles are those that the consensus library holds after the same changes; addresses come with the changes.
//! Called by: `Raft`; the encoded form stands in snapshots and in entries that change the membership.
//! Source: joint consensus, Ongaro's thesis §4.3.

use quorate_types::codec::{self, Wire, Writer};
use quorate_types::{DecodeError, NodeId, wire_enum, wire_struct};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::BTreeMap;

/// Members that a cluster may have, learners included: what a folder remembers of them has to fit one sector of its identity.
const MEMBERS_MAX: usize = 12;
/// Bytes that an address may have.
const ADDRESS_BYTES_MAX: usize = 128;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It counts for the quorum.
    Voter {},
    /// It is replicated to, and does not count.
    Learner {},
    /// It counted until the change under way is complete.
    Leaving {},
}
wire_enum!(Role { 1 = Voter {}, 2 = Learner {}, 3 = Leaving {} });

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Where its peers dial it, as `host:port`.
    pub address: String,
    /// The data folder that joined.
    pub instance: u64,
    /// What it may do.
    pub role: Role,
    /// Whether it becomes a voter by itself once it has caught up.
    pub vote: bool,
}
wire_struct!(Member { node, address, instance, role, vote });

/// A change of membership. Several given together take effect together, by joint consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is replicated to from now on; one that is a member already gets the new address.
    Learn {
        /// The node.
        node: NodeId,
        /// Where it is dialled.
        address: String,
        /// Its data folder.
        instance: u64,
        /// Whether it becomes a voter by itself once it has caught up.
        vote: bool,
    },
    /// A learner becomes a voter.
    Promote {
        /// The node.
        node: NodeId,
    },
    /// A node is a member no more.
    Remove {
        /// The node.
        node: NodeId,
    },
}
wire_enum!(Change {
    1 = Learn { node, address, instance, vote },
    2 = Promote { node },
    3 = Remove { node },
});

/// Why a change of membership is refused: nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another one is under way.
    #[error("another change of membership is under way: nothing happened, try again when it is done")]
    UnderWay,
    /// Only the leader changes the membership.
    #[error("this node does not lead: nothing happened, ask the leader")]
    NotLeader,
    /// The cluster would have no voter left.
    #[error(
        "node {node} is the last voter: removing it would end the cluster. Nothing happened; stop the node instead, or add another voter first"
    )]
    LastVoter {
        /// The node.
        node: NodeId,
    },
    /// The leader would remove itself.
    #[error(
        "node {node} leads: transfer leadership first, then remove it from the new leader. Nothing happened"
    )]
    Leader {
        /// The node.
        node: NodeId,
    },
    /// It is not a member.
    #[error("node {node} is not a member of this cluster: nothing happened")]
    Unknown {
        /// The node.
        node: NodeId,
    },
    /// Another data folder has that number.
    #[error(
        "node {node} is a member with another data folder: nothing happened. If its folder was lost, remove node {node} first, then add it again"
    )]
    Taken {
        /// The node.
        node: NodeId,
    },
    /// More than a cluster may have, or a longer address than fits.
    #[error(
        "a cluster has at most {MEMBERS_MAX} members, with addresses of at most {ADDRESS_BYTES_MAX} bytes: nothing happened"
    )]
    TooMuch,
    /// Number 0 is nobody's.
    #[error("a node's number is 1 or more")]
    Zero,
}

/// What is known of a member beside its role.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    address: String,
    instance: u64,
    vote: bool,
}
wire_struct!(Known { address, instance, vote });

/// The members, and the roles as the consensus library has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    all: BTreeMap<NodeId, Known>,
    conf: ConfState,
}

impl Members {
    /// Members with these roles.
    #[must_use]
    pub fn of(list: &[Member]) -> Self {
        let mut members = Self::default();
        for member in list {
            let Member { address, instance, vote, .. } = member.clone();
            members.all.insert(member.node, Known { address, instance, vote });
            match member.role {
                Role::Voter {} => members.conf.mut_voters().push(member.node.0),
                Role::Learner {} => members.conf.mut_learners().push(member.node.0),
                Role::Leaving {} => members.conf.mut_voters_outgoing().push(member.node.0),
            }
        }
        members
    }

    /// Every member, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Member> {
        self.all.keys().filter_map(|node| self.member(*node)).collect()
    }

    /// One member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<Member> {
        let Known { address, instance, vote } = self.all.get(&node)?.clone();
        Some(Member { node, address, instance, role: self.role(node), vote })
    }

    /// The voters, by number.
    #[must_use]
    pub fn voters(&self) -> Vec<NodeId> {
        let mut voters: Vec<NodeId> = self.conf.voters.iter().map(|node| NodeId(*node)).collect();
        voters.sort_unstable();
        voters
    }

    /// Whether somebody is replicated to without a vote.
    #[must_use]
    pub fn has_learners(&self) -> bool {
        !self.conf.learners.is_empty()
    }

    /// How many voters make a quorum.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.conf.voters.len() / 2 + 1
    }

    /// Whether a change is half way: two majorities are needed until it is complete.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.conf.voters_outgoing.is_empty()
    }

    fn role(&self, node: NodeId) -> Role {
        if self.conf.voters.contains(&node.0) {
            Role::Voter {}
        } else if self.conf.voters_outgoing.contains(&node.0) {
            Role::Leaving {}
        } else {
            Role::Learner {}
        }
    }

    pub(crate) fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// Checks a change against the members of now.
    pub(crate) fn check(&self, me: NodeId, changes: &[Change]) -> Result<(), ChangeError> {
        let mut voters = self.voters();
        for change in changes {
            match change {
                Change::Learn { node, .. } if *node == NodeId::ZERO => return Err(ChangeError::Zero),
                Change::Learn { node, address, .. }
                    if address.len() > ADDRESS_BYTES_MAX
                        || (self.all.len() >= MEMBERS_MAX && !self.all.contains_key(node)) =>
                {
                    return Err(ChangeError::TooMuch);
                }
                Change::Learn { node, instance, .. } => match self.all.get(node) {
                    Some(known) if known.instance != *instance => {
                        return Err(ChangeError::Taken { node: *node });
                    }
                    _ => {}
                },
                Change::Promote { node } if !self.all.contains_key(node) => {
                    return Err(ChangeError::Unknown { node: *node });
                }
                Change::Promote { node } => voters.push(*node),
                Change::Remove { node } if !self.all.contains_key(node) => {
                    return Err(ChangeError::Unknown { node: *node });
                }
                Change::Remove { node } => {
                    voters.retain(|voter| voter != node);
                    if voters.is_empty() {
                        return Err(ChangeError::LastVoter { node: *node });
                    }
                    if *node == me {
                        return Err(ChangeError::Leader { node: *node });
                    }
                }
            }
        }
        Ok(())
    }

    /// The consensus library's form of a change; the context carries ours.
    pub(crate) fn conf_change(&self, changes: &[Change]) -> (ConfChangeV2, Vec<u8>) {
        let single = |kind: ConfChangeType, node: NodeId| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = node.0;
            single
        };
        let singles: Vec<ConfChangeSingle> = changes
            .iter()
            .map(|change| match change {
                // Learning a voter anew would demote it: a new address leaves the role alone.
                Change::Learn { node, .. } if matches!(self.role_of_member(*node), Some(Role::Voter {})) => {
                    single(ConfChangeType::AddNode, *node)
                }
                Change::Learn { node, .. } => single(ConfChangeType::AddLearnerNode, *node),
                Change::Promote { node } => single(ConfChangeType::AddNode, *node),
                Change::Remove { node } => single(ConfChangeType::RemoveNode, *node),
            })
            .collect();
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Auto);
        change.set_changes(singles.into());
        let mut context = Writer::default();
        changes.to_vec().put(&mut context);
        (change, context.buffer)
    }

    /// Takes a change that the consensus library has applied: its new roles, and our context.
    pub(crate) fn apply(&mut self, conf: ConfState, context: &bytes::Bytes) -> Result<(), DecodeError> {
        // Leaving a joint configuration has no context.
        let changes: Vec<Change> = if context.is_empty() { Vec::new() } else { codec::decode(context)? };
        for change in changes {
            match change {
                Change::Learn { node, address, instance, vote } => {
                    self.all.insert(node, Known { address, instance, vote });
                }
                Change::Promote { .. } | Change::Remove { .. } => {}
            }
        }
        self.conf = conf;
        let conf = &self.conf;
        self.all.retain(|node, _| {
            [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next]
                .iter()
                .any(|list| list.contains(&node.0))
        });
        Ok(())
    }

    fn role_of_member(&self, node: NodeId) -> Option<Role> {
        self.all.contains_key(&node).then(|| self.role(node))
    }
}

impl Wire for Members {
    fn put(&self, out: &mut Writer) {
        out.varint(self.all.len() as u64);
        for (node, known) in &self.all {
            node.put(out);
            known.put(out);
        }
        put_conf(&self.conf, out);
    }

    fn take(from: &mut codec::Reader<'_>) -> Result<Self, DecodeError> {
        let mut all = BTreeMap::new();
        for _ in 0..from.length()? {
            all.insert(NodeId::take(from)?, Known::take(from)?);
        }
        Ok(Self { all, conf: take_conf(from)? })
    }
}

pub(crate) fn put_conf(conf: &ConfState, out: &mut Writer) {
    conf.voters.to_vec().put(out);
    conf.learners.to_vec().put(out);
    conf.voters_outgoing.to_vec().put(out);
    conf.learners_next.to_vec().put(out);
    conf.auto_leave.put(out);
}

pub(crate) fn take_conf(from: &mut codec::Reader<'_>) -> Result<ConfState, DecodeError> {
    let mut conf = ConfState::default();
    conf.set_voters(Vec::take(from)?);
    conf.set_learners(Vec::take(from)?);
    conf.set_voters_outgoing(Vec::take(from)?);
    conf.set_learners_next(Vec::take(from)?);
    conf.set_auto_leave(bool::take(from)?);
    Ok(conf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Members {
        let member = |node| Member {
            node: NodeId(node),
            address: format!("n{node}:1"),
            instance: node * 10,
            role: Role::Voter {},
            vote: true,
        };
        Members::of(&[member(1), member(2), member(3)])
    }

    #[test]
    fn wrong_changes_are_refused_with_what_to_do() {
        let members = three();
        let check = |change: Change| members.check(NodeId(1), &[change]);
        let learn = |node, instance| Change::Learn {
            node: NodeId(node),
            address: "x:1".into(),
            instance,
            vote: true,
        };
        assert_eq!(check(learn(4, 40)), Ok(()));
        assert_eq!(check(learn(0, 40)), Err(ChangeError::Zero));
        assert_eq!(check(learn(2, 99)), Err(ChangeError::Taken { node: NodeId(2) }));
        assert_eq!(check(Change::Remove { node: NodeId(9) }), Err(ChangeError::Unknown { node: NodeId(9) }));
        assert_eq!(check(Change::Remove { node: NodeId(1) }), Err(ChangeError::Leader { node: NodeId(1) }));
        let one = Members::of(&three().list()[..1]);
        let last = one.check(NodeId(2), &[Change::Remove { node: NodeId(1) }]);
        assert_eq!(last, Err(ChangeError::LastVoter { node: NodeId(1) }));
    }

    #[test]
    fn members_read_back_as_written() {
        let members = three();
        assert_eq!(codec::decode::<Members>(&codec::encode(&members).into()), Ok(members));
    }
}
