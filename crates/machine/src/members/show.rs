//! What a group is, as gateways show it.
//!
//! Called by: `reads` of gateways.

use super::{Id, Member, Phase};
use crate::Machine;
use quorate_types::{Blob, CommittedOffset, GroupFault, GroupName, Key, LeaseId, Membership, Millis};
use std::collections::BTreeMap;

/// What a member that joined is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The generation is not made yet.
    Waits,
    /// It is in a generation.
    In(Box<Agreed>),
}

/// What a generation has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Its number.
    pub generation: u32,
    /// The kind of group.
    pub kind: Blob,
    /// The protocol.
    pub protocol: Blob,
    /// The id of its leader.
    pub leader: Blob,
    /// For the leader: all members, each with its instance and what it said in that protocol.
    pub members: Vec<(Blob, Option<Blob>, Blob)>,
}

/// A group as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersView {
    /// What it is doing.
    pub phase: Phase,
    /// The kind of group.
    pub kind: Blob,
    /// The protocol of its generation.
    pub protocol: Blob,
    /// Its generation.
    pub generation: u32,
    /// Its members, in the order of their ids.
    pub members: Vec<MemberView>,
}

/// A member as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub member: Blob,
    /// The name that it keeps over restarts.
    pub instance: Option<Blob>,
    /// What the client calls itself.
    pub client: Blob,
    /// Where it comes from.
    pub host: Blob,
    /// What it said in the group's protocol.
    pub metadata: Blob,
    /// What it was given.
    pub given: Blob,
}

impl Machine {
    /// What a member that has joined is told now.
    ///
    /// # Errors
    /// [`GroupFault`]: it is out, or replaced.
    pub fn standing(&self, group: &GroupName, by: &Membership) -> Result<Standing, GroupFault> {
        let (row, id, member) = self.members.known(group, by)?;
        if member.waits {
            return Ok(Standing::Waits);
        }
        let said = |member: &Member| {
            let found = member.protocols.iter().find(|(name, _)| *name == row.protocol);
            found.map_or(Blob::EMPTY, |(_, said)| said.clone())
        };
        let members = if row.leader == id.member {
            let all = self.members.of(row.number);
            all.map(|(id, member)| (id.member.clone(), member.instance.clone(), said(member))).collect()
        } else {
            Vec::new()
        };
        Ok(Standing::In(Box::new(Agreed {
            generation: row.generation,
            kind: row.kind.clone(),
            protocol: row.protocol.clone(),
            leader: row.leader.clone(),
            members,
        })))
    }

    /// What a member of this generation was given, with the kind of group and its protocol; nothing while its leader has not given yet.
    ///
    /// # Errors
    /// [`GroupFault`]: it is out, or of another generation, or there will be another.
    pub fn given(
        &self,
        group: &GroupName,
        by: &Membership,
    ) -> Result<Option<(Blob, Blob, Blob)>, GroupFault> {
        let (row, _, member) = self.members.current(group, by)?;
        match row.phase {
            Phase::Stable => Ok(Some((member.given.clone(), row.kind.clone(), row.protocol.clone()))),
            Phase::Assigning => Ok(None),
            Phase::Joining { .. } | Phase::Empty => Err(GroupFault::Rebalancing),
        }
    }

    /// The session of a member of this generation, and whether a new generation is being made.
    ///
    /// # Errors
    /// [`GroupFault`]: it is out, or of another generation.
    pub fn session_of(&self, group: &GroupName, by: &Membership) -> Result<(LeaseId, bool), GroupFault> {
        let (row, _, member) = self.members.current(group, by)?;
        Ok((member.lease, matches!(row.phase, Phase::Joining { .. })))
    }

    /// The session of a member, whatever its generation, with its time to live.
    #[must_use]
    pub fn member_session(&self, group: &GroupName, member: &Blob) -> Option<(LeaseId, Millis)> {
        let row = self.members.members.get(&self.members.id(group, member)?)?;
        Some((row.lease, row.session))
    }

    /// Leases that are the sessions of members, or of ids that were given out.
    pub fn member_sessions(&self) -> impl Iterator<Item = LeaseId> {
        self.members.leases.keys().copied().chain(self.consumers.sessions())
    }

    /// How far a group of members is in a partition.
    #[must_use]
    pub fn committed_offset(
        &self,
        group: &GroupName,
        stream: &Key,
        partition: u32,
    ) -> Option<&CommittedOffset> {
        self.offsets.get(group, self.streams.id(stream).ok()?, partition)
    }

    /// How far a group of members is in all partitions of which it has said it.
    #[must_use]
    pub fn committed_offsets(&self, group: &GroupName) -> Vec<(Key, u32, CommittedOffset)> {
        let all = self.offsets.all(group, &self.streams);
        all.map(|(stream, partition, mark)| (stream.clone(), partition, mark.clone())).collect()
    }

    /// A group with its members; one that only has offsets is empty.
    #[must_use]
    pub fn member_group(&self, group: &GroupName) -> Option<MembersView> {
        let Some(row) = self.members.groups.get(group) else {
            let view = || MembersView {
                phase: Phase::Empty,
                kind: Blob::EMPTY,
                protocol: Blob::EMPTY,
                generation: 0,
                members: Vec::new(),
            };
            return (self.offsets.has(group) && !self.consumers.has(group)).then(view);
        };
        let view = |(id, member): (&Id, &Member)| MemberView {
            member: id.member.clone(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            host: member.host.clone(),
            metadata: member
                .protocols
                .iter()
                .find(|(name, _)| *name == row.protocol)
                .map_or(Blob::EMPTY, |(_, said)| said.clone()),
            given: member.given.clone(),
        };
        Some(MembersView {
            phase: row.phase,
            kind: row.kind.clone(),
            protocol: row.protocol.clone(),
            generation: row.generation,
            members: self.members.of(row.number).map(view).collect(),
        })
    }

    /// All groups that have members or offsets, or had, but for those that the server divides: each with its phase and kind, in the order of their names.
    #[must_use]
    pub fn member_groups(&self) -> Vec<(GroupName, Phase, Blob)> {
        let mut all: BTreeMap<GroupName, (Phase, Blob)> = self
            .offsets
            .groups()
            .filter(|name| !self.consumers.has(name))
            .map(|name| (name.clone(), (Phase::Empty, Blob::EMPTY)))
            .collect();
        let rows = self.members.groups.iter();
        all.extend(rows.map(|(name, row)| (name.clone(), (row.phase, row.kind.clone()))));
        all.into_iter().map(|(name, (phase, kind))| (name, phase, kind)).collect()
    }
}
