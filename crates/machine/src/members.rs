//! Groups whose members divide partitions among themselves: who is in, in which generation, and what each was given. How far a group is, is in
//! `offsets`.
//!
//! A group is in one of these phases:
//!
//! | phase | told by | becomes |
//! | --- | --- | --- |
//! | empty | nobody is in | joining, when somebody comes; gone, after the retention of offsets |
//! | joining | members come back one by one | assigning, once all have, or those who have not are put out at the deadline |
//! | assigning | the generation is agreed on, and its leader has not said who reads what | stable, by the leader's word |
//! | stable | everybody can ask for what it was given | joining, whenever a member comes, goes or wants something else |
//!
//! A member's session is a lease: heartbeats are keep-alives of it, and its end puts the member out. So no heartbeat is more than a keep-alive, and
//! a new leader of the log, which ends no lease early, revokes nothing. Deadlines are in log time. Waiting for an answer is no state: who waits
//! looks at the group again when an event tells of it.
//!
//! Invariant: generations of a group only grow, as long as it is known.
//! Invariant: each member hangs on a lease of its own, and each name of an instance on one member.
//! Invariant: in a stable group everything that was given was given by the leader of this very generation.
//! Invariant: who is put out, and who is not of this generation, moves no offset.
//! Called by: `decide` (changes), `show` (reads), `keep` (undo, snapshots), each of which says by whom it is called.
//! Source: Kafka's group protocol (KIP-62, KIP-345 static members, KIP-394 ids before joining).

mod decide;
mod expects;
mod keep;
mod show;

pub use expects::Expected;
pub use show::{Agreed, MemberView, MembersView, Standing};

use crate::table::{Sections, Table};
use quorate_types::{
    Blob, GroupFault, GroupName, LeaseId, LogTime, Membership, Millis, wire_enum, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long the first members of a group wait for others, so that those who start together make one generation and not several.
const GATHER: Millis = Millis(100);

/// What a group is doing; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody is in.
    Empty,
    /// Members come back to make a generation; `first` when there was none of them in one.
    Joining {
        /// Whether it waits for more to come, and not for those who were in.
        first: bool,
    },
    /// The leader is to say who reads what.
    Assigning,
    /// It has said so.
    Stable,
}
wire_enum!(Phase { 0 = Empty {}, 1 = Joining { first }, 2 = Assigning {}, 3 = Stable {} });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    number: u64,
    kind: Blob,
    generation: u32,
    phase: Phase,
    leader: Blob,
    protocol: Blob,
    /// When the phase began.
    since: LogTime,
    /// When it ends whoever is missing.
    deadline: Option<LogTime>,
}
wire_struct!(Group { number, kind, generation, phase, leader, protocol, since, deadline });

/// A member of a group, of either protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) group: u64,
    pub(crate) member: Blob,
}
wire_struct!(Id { group, member });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    /// In the order in which they came.
    number: u64,
    lease: LeaseId,
    instance: Option<Blob>,
    client: Blob,
    host: Blob,
    session: Millis,
    rebalance: Millis,
    protocols: Vec<(Blob, Blob)>,
    /// It has come back, and waits for the generation to be made.
    waits: bool,
    /// It has asked for what this generation gave it.
    asked: bool,
    given: Blob,
}
wire_struct!(Member {
    number,
    lease,
    instance,
    client,
    host,
    session,
    rebalance,
    protocols,
    waits,
    asked,
    given,
});

/// All groups with members.
#[derive(Default)]
pub(crate) struct Members {
    groups: Table<GroupName, Group>,
    members: Table<Id, Member>,
    /// Ids that were given to clients who are to come back with them, with the leases by which they end.
    named: Table<Id, LeaseId>,
    names: BTreeMap<u64, GroupName>,
    instances: BTreeMap<(u64, Blob), Blob>,
    leases: BTreeMap<LeaseId, Id>,
    due: BTreeSet<(LogTime, GroupName)>,
    next: u64,
    walk: Option<Sections>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    groups: usize,
    members: usize,
    named: usize,
    next: u64,
}

impl Members {
    fn id(&self, group: &GroupName, member: &Blob) -> Option<Id> {
        Some(Id { group: self.groups.get(group)?.number, member: member.clone() })
    }

    fn of(&self, group: u64) -> impl Iterator<Item = (&Id, &Member)> {
        self.members.range(Id { group, member: Blob::EMPTY }..).take_while(move |(id, _)| id.group == group)
    }

    fn named_of(&self, group: u64) -> impl Iterator<Item = (&Id, &LeaseId)> {
        self.named.range(Id { group, member: Blob::EMPTY }..).take_while(move |(id, _)| id.group == group)
    }

    pub(crate) fn has(&self, group: &GroupName) -> bool {
        self.groups.get(group).is_some()
    }

    fn is_empty(&self, group: u64) -> bool {
        self.of(group).next().is_none()
    }

    /// The member that speaks, if it is one.
    fn known(&self, group: &GroupName, by: &Membership) -> Result<(&Group, Id, &Member), GroupFault> {
        let row = self.groups.get(group).ok_or(GroupFault::UnknownMember)?;
        if let Some(instance) = &by.instance {
            let owner = self.instances.get(&(row.number, instance.clone()));
            let owner = owner.ok_or(GroupFault::UnknownMember)?;
            if *owner != by.member {
                return Err(GroupFault::Fenced);
            }
        }
        let id = Id { group: row.number, member: by.member.clone() };
        let member = self.members.get(&id).ok_or(GroupFault::UnknownMember)?;
        Ok((row, id, member))
    }

    /// The member that speaks, if it is one of this generation.
    fn current(&self, group: &GroupName, by: &Membership) -> Result<(&Group, Id, &Member), GroupFault> {
        let found = self.known(group, by)?;
        if by.generation != Some(found.0.generation) {
            return Err(GroupFault::OtherGeneration);
        }
        Ok(found)
    }

    /// The one rule of who may set offsets of a group, and whose lease that renews. Whoever is no member may while nobody is; `in_transaction` also
    /// when the producer does not say for whom it speaks, as older ones do not.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub(crate) fn may_commit(
        &self,
        group: &GroupName,
        by: &Membership,
        in_transaction: bool,
    ) -> Result<Option<LeaseId>, GroupFault> {
        let row = self.groups.get(group);
        let is_empty = row.is_none_or(|row| self.is_empty(row.number));
        if by.generation.is_none() && is_empty {
            return Ok(None);
        }
        if row.is_none() {
            return Err(GroupFault::OtherGeneration);
        }
        if in_transaction && *by == Membership::default() {
            return Ok(None);
        }
        let (row, _, member) = self.current(group, by)?;
        // It knows of the new generation, and has not been given anything in it yet.
        if row.phase == Phase::Assigning && !in_transaction {
            return Err(GroupFault::Rebalancing);
        }
        Ok(Some(member.lease))
    }

    /// Whether `protocols` would go with those of all other members.
    fn fits(&self, group: &Group, except: Option<&Blob>, kind: &Blob, protocols: &[(Blob, Blob)]) -> bool {
        let mut others = self.of(group.number).filter(|(id, _)| Some(&id.member) != except).peekable();
        if others.peek().is_none() {
            return true;
        }
        let speaks = |member: &Member, name: &Blob| member.protocols.iter().any(|(other, _)| other == name);
        let mut common: Vec<&Blob> = protocols.iter().map(|(name, _)| name).collect();
        for (_, member) in others {
            common.retain(|name| speaks(member, name));
        }
        group.kind == *kind && !common.is_empty()
    }

    /// The protocol that most members like best of those that all speak; between equals, the one that the oldest member names first.
    fn elected(&self, group: u64) -> Blob {
        let mut all: Vec<&Member> = self.of(group).map(|(_, member)| member).collect();
        all.sort_unstable_by_key(|member| member.number);
        let Some(oldest) = all.first() else { return Blob::EMPTY };
        let speaks = |member: &Member, name: &Blob| member.protocols.iter().any(|(other, _)| other == name);
        let common = |name: &Blob| all.iter().all(|member| speaks(member, name));
        let candidates: Vec<&Blob> =
            oldest.protocols.iter().map(|(name, _)| name).filter(|name| common(name)).collect();
        let mut votes = vec![0u32; candidates.len()];
        for member in &all {
            let best =
                member.protocols.iter().find_map(|(name, _)| candidates.iter().position(|c| *c == name));
            if let Some(best) = best {
                votes[best] += 1;
            }
        }
        let most = votes.iter().max().copied().unwrap_or_default();
        let chosen = votes.iter().position(|count| *count == most);
        chosen.and_then(|at| candidates.get(at)).map_or(Blob::EMPTY, |name| (*name).clone())
    }

    /// The longest that the others wait for a member.
    fn patience(&self, group: u64) -> Millis {
        self.of(group).map(|(_, member)| member.rebalance).max().unwrap_or(GATHER)
    }

    /// When the next phase ends by itself.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        self.due.first().map(|(time, _)| *time)
    }

    /// The groups that hang on a lease: those whose member's session it is, or is to be.
    pub(crate) fn group_of(&self, lease: LeaseId) -> Option<&GroupName> {
        self.names.get(&self.leases.get(&lease)?.group)
    }
}

/// Changing rows, and the indexes with them.
impl Members {
    fn set_group(&mut self, name: &GroupName, row: Option<Group>) {
        let to = row.as_ref().map(|row| (row.number, row.deadline));
        let before = self.groups.set(name.clone(), row);
        index_group(&mut self.names, &mut self.due, name, before.as_ref(), to);
    }

    fn update_group(&mut self, name: &GroupName, change: impl FnOnce(&mut Group)) {
        let Some(mut row) = self.groups.get(name).cloned() else { return };
        change(&mut row);
        self.set_group(name, Some(row));
    }

    fn set_member(&mut self, id: Id, row: Option<Member>) -> Option<Member> {
        let to = row.clone();
        let before = self.members.set(id.clone(), row);
        index_member(&mut self.instances, &mut self.leases, &id, before.as_ref(), to.as_ref());
        before
    }

    fn set_named(&mut self, id: Id, lease: Option<LeaseId>) -> Option<LeaseId> {
        let before = self.named.set(id.clone(), lease);
        if let Some(before) = before {
            self.leases.remove(&before);
        }
        if let Some(lease) = lease {
            self.leases.insert(lease, id);
        }
        before
    }
}

fn index_group(
    names: &mut BTreeMap<u64, GroupName>,
    due: &mut BTreeSet<(LogTime, GroupName)>,
    name: &GroupName,
    from: Option<&Group>,
    to: Option<(u64, Option<LogTime>)>,
) {
    if let Some(from) = from {
        names.remove(&from.number);
        from.deadline.map(|time| due.remove(&(time, name.clone())));
    }
    if let Some((number, deadline)) = to {
        names.insert(number, name.clone());
        deadline.map(|time| due.insert((time, name.clone())));
    }
}

fn index_member(
    instances: &mut BTreeMap<(u64, Blob), Blob>,
    leases: &mut BTreeMap<LeaseId, Id>,
    id: &Id,
    from: Option<&Member>,
    to: Option<&Member>,
) {
    if let Some(from) = from {
        leases.remove(&from.lease);
        // Another one may have the name by now.
        if let Some(instance) = &from.instance
            && instances.get(&(id.group, instance.clone())) == Some(&id.member)
        {
            instances.remove(&(id.group, instance.clone()));
        }
    }
    if let Some(to) = to {
        leases.insert(to.lease, id.clone());
        if let Some(instance) = &to.instance {
            instances.insert((id.group, instance.clone()), id.member.clone());
        }
    }
}
