//! Groups whose members divide partitions among themselves, and how far a group is in each: what changes them, and why that is refused.
//!
//! A group has members, each with a session (a lease); each time that the members change, a new generation agrees on who reads what. What a
//! member says is held against its generation, so that one who was left behind moves nothing. These groups are those of Kafka's clients; a
//! stream's own groups ([`crate::Op::CreateGroup`]) and those of Redis are apart, whatever they are called.

use crate::beats::{Beat, Beaten};
use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::units::{GroupName, Key, Millis, Offset};
use crate::{wire_enum, wire_struct};

/// Most offsets of one commit, in all its streams.
pub const OFFSETS_MAX: u64 = 10_000;
/// Most members of a group.
pub const MEMBERS_MAX: u64 = 1_000;
/// Most protocols that a member names.
pub const PROTOCOLS_MAX: u64 = 100;
/// Longest text that goes with an offset, in bytes.
pub const METADATA_BYTES_MAX: u64 = 4 << 10;

/// Who speaks for a group. Nothing at all: somebody who is no member, and keeps the offsets of a group that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The generation that the member takes itself to be in.
    pub generation: Option<u32>,
    /// The member's id; empty for none.
    pub member: Blob,
    /// The name that the member keeps over restarts, if it has one.
    pub instance: Option<Blob>,
}
wire_struct!(Membership { generation, member, instance });

/// How far a group is in some partitions: all of it is kept, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The group; made when it does not exist.
    pub group: GroupName,
    /// Who says so.
    pub by: Membership,
    /// How far.
    pub offsets: Vec<StreamOffsets>,
}
wire_struct!(OffsetCommit { group, by, offsets });

/// How far a group is in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOffsets {
    /// The stream.
    pub stream: Key,
    /// Partitions, each with how far.
    pub partitions: Vec<(u32, CommittedOffset)>,
}
wire_struct!(StreamOffsets { stream, partitions });

/// How far a group is in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read. The machine does not hold it against the stream: it is the group's own mark.
    pub offset: Offset,
    /// The term of the last record that was read, if the reader says it.
    pub epoch: Option<u32>,
    /// What the reader wants to find beside it.
    pub metadata: Blob,
}
wire_struct!(CommittedOffset { offset, epoch, metadata });

impl OffsetCommit {
    /// How many offsets it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.offsets.iter().map(|stream| stream.partitions.len() as u64).sum()
    }

    /// Bytes that it takes in an entry, never less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |stream: &StreamOffsets| {
            let each = stream.partitions.iter().map(|(_, offset)| 32 + offset.metadata.len());
            stream.stream.name.len() + 16 + each.sum::<usize>()
        };
        self.group.0.len() + self.by.bytes() + self.offsets.iter().map(of).sum::<usize>() + 32
    }
}

impl Membership {
    fn bytes(&self) -> usize {
        self.member.len() + self.instance.as_ref().map_or(0, |instance| instance.len()) + 16
    }
}

/// A change to who is in a group, and what each was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Enters the group, or the generation to come.
    Join {
        /// Who.
        join: Box<Join>,
    },
    /// Asks for what this generation gave the member; its leader gives.
    Sync {
        /// The group.
        group: GroupName,
        /// Who asks.
        by: Membership,
        /// The kind of group and the protocol that the member takes to be agreed on, if it says so.
        agreed: Option<(Blob, Blob)>,
        /// Members with what each is given; nobody's word counts but the leader's.
        given: Vec<(Blob, Blob)>,
    },
    /// Leaves the group.
    Leave {
        /// The group.
        group: GroupName,
        /// Ids of members, each with its instance if it has one; of an instance alone the id may be empty.
        members: Vec<(Blob, Option<Blob>)>,
    },
    /// Removes a group without members, with all that is known of how far it is.
    Delete {
        /// The group.
        group: GroupName,
    },
    /// Forgets how far a group is in some partitions: one without members, or one that the server divides, of streams that nobody in it wants.
    Forget {
        /// The group.
        group: GroupName,
        /// Which.
        partitions: Vec<(Key, u32)>,
    },
    /// Says that a member of a group that the server divides is alive, and what has changed for it.
    Beat {
        /// What it says.
        beat: Box<Beat>,
    },
    /// Leaves a group that the server divides.
    Part {
        /// The group.
        group: GroupName,
        /// The member's id.
        member: Blob,
        /// The name that it keeps over restarts, if it has one.
        instance: Option<Blob>,
        /// One that keeps its name comes back under it: what it has is kept for it until its session ends.
        returns: bool,
    },
}
wire_enum!(MemberChange {
    1 = Join { join },
    2 = Sync { group, by, agreed, given },
    3 = Leave { group, members },
    4 = Delete { group },
    5 = Forget { group, partitions },
    6 = Beat { beat },
    7 = Part { group, member, instance, returns },
});

/// A member that enters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// The group; made when it does not exist.
    pub group: GroupName,
    /// Its id; empty for one that has none yet.
    pub member: Blob,
    /// The name that it keeps over restarts, if it has one.
    pub instance: Option<Blob>,
    /// What the client calls itself: its id begins with that.
    pub client: Blob,
    /// Where it comes from, for people to read.
    pub host: Blob,
    /// How long it may be silent, in log time.
    pub session: Millis,
    /// How long the others wait for it when a new generation is made, in log time.
    pub rebalance: Millis,
    /// The kind of group: all members are of one kind.
    pub kind: Blob,
    /// The protocols that it speaks, the best first, each with what it has to say in it.
    pub protocols: Vec<(Blob, Blob)>,
    /// One without an id is only given one now, to come back with, so that a lost answer leaves no member behind.
    pub named_first: bool,
}
wire_struct!(Join {
    group,
    member,
    instance,
    client,
    host,
    session,
    rebalance,
    kind,
    protocols,
    named_first,
});

impl Wire for Box<Join> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Join::take(from)?))
    }
}

impl MemberChange {
    /// The group that is changed.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        match self {
            Self::Join { join } => &join.group,
            Self::Beat { beat } => &beat.group,
            Self::Part { group, .. }
            | Self::Sync { group, .. }
            | Self::Leave { group, .. }
            | Self::Delete { group }
            | Self::Forget { group, .. } => group,
        }
    }

    /// What it costs, in elements touched.
    #[must_use]
    pub fn cost(&self) -> u64 {
        let each = match self {
            // A generation may be made of everybody.
            Self::Join { .. } | Self::Sync { .. } | Self::Beat { .. } => MEMBERS_MAX,
            Self::Part { .. } => 8,
            Self::Leave { members, .. } => 8 * members.len() as u64 + MEMBERS_MAX,
            Self::Delete { .. } => MEMBERS_MAX,
            Self::Forget { partitions, .. } => 8 * partitions.len() as u64,
        };
        8 + each
    }

    /// Which change it is, in a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::Sync { .. } => "sync",
            Self::Leave { .. } => "leave",
            Self::Delete { .. } => "delete",
            Self::Forget { .. } => "forget",
            Self::Beat { .. } => "beat",
            Self::Part { .. } => "part",
        }
    }

    /// Bytes that it takes in an entry, never less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let pairs = |pairs: &[(Blob, Blob)]| {
            pairs.iter().map(|(name, value)| name.len() + value.len() + 16).sum::<usize>()
        };
        let own = match self {
            Self::Join { join } => {
                let words = [&join.member, &join.client, &join.host, &join.kind];
                let words: usize = words.iter().map(|word| word.len()).sum();
                words + join.instance.as_ref().map_or(0, |name| name.len()) + pairs(&join.protocols) + 96
            }
            Self::Sync { by, agreed, given, .. } => {
                by.bytes() + agreed.as_ref().map_or(0, |(a, b)| a.len() + b.len()) + pairs(given)
            }
            Self::Leave { members, .. } => members
                .iter()
                .map(|(id, instance)| id.len() + instance.as_ref().map_or(0, |name| name.len()) + 16)
                .sum(),
            Self::Delete { .. } => 0,
            Self::Beat { beat } => beat.bytes(),
            Self::Part { member, instance, .. } => {
                member.len() + instance.as_ref().map_or(0, |name| name.len()) + 16
            }
            Self::Forget { partitions, .. } => {
                partitions.iter().map(|(stream, _)| stream.name.len() + 16).sum()
            }
        };
        self.group().0.len() + own + 32
    }
}

/// What became of a change to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberAnswer {
    /// It has an id now, and is to join with it.
    Named {
        /// The id.
        member: Blob,
    },
    /// It is in the group. What the generation agrees on is read from the state, once it does.
    Joined {
        /// Its id.
        member: Blob,
        /// In the place of one of the same instance, without a new generation: who is to be told as the leader, where that was the leader, so that
        /// this one does not take itself to have to give anything.
        leader: Option<Blob>,
    },
    /// What it was given; nothing while the leader has not given yet.
    Given {
        /// The leader's bytes for it.
        given: Option<Blob>,
    },
    /// What became of each that was to leave.
    Left {
        /// Nothing for one that has left.
        faults: Vec<Option<GroupFault>>,
    },
    /// Where it stands in a group that the server divides.
    Beaten {
        /// What it is told.
        beaten: Beaten,
    },
    /// It has left a group that the server divides.
    Parted {},
}
wire_enum!(MemberAnswer {
    1 = Named { member },
    2 = Joined { member, leader },
    3 = Given { given },
    4 = Left { faults },
    5 = Beaten { beaten },
    6 = Parted {},
});

/// Why a group does not do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupFault {
    /// There is no such member: its session has ended, or it has left.
    #[error("there is no such member: its session ended or it left; join again without an id")]
    UnknownMember,
    /// The group is in another generation.
    #[error("the group is in another generation: join again")]
    OtherGeneration,
    /// A new generation is being made.
    #[error("a new generation is being made: join it")]
    Rebalancing,
    /// Another has come under the same instance.
    #[error(
        "another member has come under the same instance: two clients have one name, or this one was replaced"
    )]
    Fenced,
    /// Another kind of group, or no protocol that all members speak.
    #[error("the group is of another kind, or its members speak no common protocol with this one")]
    Inconsistent,
    /// No more members, or no more groups.
    #[error("there is no room for another member or group")]
    Full,
    /// There is no such group.
    #[error("there is no such group")]
    Missing,
    /// It has members.
    #[error("the group has members: they have to leave first")]
    NotEmpty,
    /// Its member is in an epoch that is over, or has not been.
    #[error("the member is in another epoch: it gives up what it has, and joins again")]
    OtherEpoch,
    /// The member has moved on to another epoch.
    #[error("the member is in another epoch by now: ask again in that")]
    StaleEpoch,
    /// One that lives has the instance.
    #[error("the instance is another member's, which has not left")]
    Unreleased,
    /// Somebody in the group wants the stream.
    #[error("a member of the group wants the stream: how far the group is there stays")]
    Subscribed,
}
wire_enum!(GroupFault {
    1 = UnknownMember {},
    2 = OtherGeneration {},
    3 = Rebalancing {},
    4 = Fenced {},
    5 = Inconsistent {},
    6 = Full {},
    7 = Missing {},
    8 = NotEmpty {},
    9 = OtherEpoch {},
    10 = StaleEpoch {},
    11 = Unreleased {},
    12 = Subscribed {},
});

impl Wire for Box<OffsetCommit> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(OffsetCommit::take(from)?))
    }
}

impl Wire for Box<MemberChange> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(MemberChange::take(from)?))
    }
}
