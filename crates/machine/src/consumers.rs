//! Groups whose partitions the server divides: who is in, what each is to have, what each has, and how one comes to the other.
//!
//! A group has an epoch, which moves on whenever its members, what they want, or the partitions of that change. The next beat of a member then
//! computes for all of them what they are to have (the target). A member comes to its target by itself, one beat at a time:
//!
//! | a member | told by | becomes |
//! | --- | --- | --- |
//! | settled | it is in the target's epoch and has all of its target | as below, when the target changes |
//! | gives up | it has something that it is not to have, is told what is left, and has not said that it let go | the next two, by its word; out, when its rebalance timeout is up |
//! | waits | it has let go, is in the target's epoch, and something of its target is another's still | settled, by a beat after the other has let go |
//! | away | a static member that said that it comes back | settled under another id; out, when its session ends |
//!
//! A session is a lease, a beat that changes nothing is a keep-alive of it, and deadlines are in log time: so a new leader of the log revokes
//! nothing. A beat that changes something is a command, which every replica decides at apply; [`Machine::beat_alone`] tells one from the other.
//! Groups of the other kind are in `members`; a name is in one of both, and changes over only while nobody is in.
//!
//! Invariant: no partition of a group is had by two members, given up ones included until they are let go.
//! Invariant: epochs of a group and of its members only grow, as long as they are known; no member is ahead of its group.
//! Invariant: targets of a group do not overlap, and hold all that its members want as long as those are computed.
//! Invariant: each member hangs on a lease of its own, and each name of an instance on one member.
//! Called by: `members` (changes), `show` (reads), `keep` (undo, snapshots), each of which says by whom it is called.
//! Source: KIP-848, "The Next Generation of the Consumer Rebalance Protocol".

mod assign;
mod decide;
mod keep;
mod show;

pub use show::{ConsumerView, ConsumersView, Progress};

use crate::members::Id;
use crate::streams::{StreamId, Streams};
use crate::table::{Sections, Table};
use quorate_types::{
    Assignor, Blob, GroupFault, GroupName, Key, Keyspace, LeaseId, LogTime, Membership, Millis, Shares,
    wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    stream: StreamId,
    partition: u32,
}
wire_struct!(Part { stream, partition });

/// Partitions in order, none twice.
type Parts = Vec<Part>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    number: u64,
    epoch: u32,
    /// The epoch for which the targets of its members were computed.
    target_epoch: u32,
    /// By which.
    assignor: Assignor,
    /// Over which streams, each with its partitions, in order.
    topics: Vec<(StreamId, u32)>,
    /// When it is forgotten; nothing while it has members.
    due: Option<LogTime>,
}
wire_struct!(Group { number, epoch, target_epoch, assignor, topics, due });

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    lease: LeaseId,
    instance: Option<Blob>,
    rack: Option<Blob>,
    client: Blob,
    host: Blob,
    session: Millis,
    rebalance: Millis,
    /// Streams that it names, in order.
    names: Vec<Blob>,
    /// Its expression, and what that matches, in order.
    regex: Blob,
    matched: Vec<Blob>,
    assignor: Option<Assignor>,
    epoch: u32,
    /// The epoch before: the answer that told of this one may have been lost.
    previous: u32,
    /// It comes back under its name.
    away: bool,
    /// Something of its target is another's still.
    waits: bool,
    target: Parts,
    has: Parts,
    /// What it is to let go of.
    giving_up: Parts,
    /// When it has to have let go.
    due: Option<LogTime>,
}
wire_struct!(Member {
    lease,
    instance,
    rack,
    client,
    host,
    session,
    rebalance,
    names,
    regex,
    matched,
    assignor,
    epoch,
    previous,
    away,
    waits,
    target,
    has,
    giving_up,
    due,
});

impl Member {
    /// What it is in the order of, wherever members are put in order: the name that it keeps, if it has one.
    fn rank<'a>(&'a self, id: &'a Id) -> &'a Blob {
        self.instance.as_ref().unwrap_or(&id.member)
    }

    fn wants(&self) -> impl Iterator<Item = &Blob> {
        let more = self.matched.iter().filter(|name| self.names.binary_search(name).is_err());
        self.names.iter().chain(more)
    }
}

/// What ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ends {
    Group(GroupName),
    Member(Id),
}

/// All groups of this kind that have members, or had.
#[derive(Default)]
pub(crate) struct Consumers {
    groups: Table<GroupName, Group>,
    members: Table<Id, Member>,
    names: BTreeMap<u64, GroupName>,
    instances: BTreeMap<(u64, Blob), Blob>,
    leases: BTreeMap<LeaseId, Id>,
    /// Who has a partition of a group, or is to let go of it.
    owners: BTreeMap<(u64, Part), Blob>,
    due: BTreeSet<(LogTime, Ends)>,
    next: u64,
    walk: Option<Sections>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    groups: usize,
    members: usize,
    next: u64,
}

impl Consumers {
    pub(crate) fn has(&self, group: &GroupName) -> bool {
        self.groups.get(group).is_some()
    }

    pub(crate) fn has_members(&self, group: &GroupName) -> bool {
        self.groups.get(group).is_some_and(|group| group.due.is_none())
    }

    fn of(&self, group: u64) -> impl Iterator<Item = (&Id, &Member)> {
        self.members.range(Id { group, member: Blob::EMPTY }..).take_while(move |(id, _)| id.group == group)
    }

    fn is_empty(&self, group: u64) -> bool {
        self.of(group).next().is_none()
    }

    /// The member that speaks, if it is one.
    fn known(
        &self,
        group: &GroupName,
        member: &Blob,
        instance: Option<&Blob>,
    ) -> Result<(&Group, Id, &Member), GroupFault> {
        let row = self.groups.get(group).ok_or(GroupFault::UnknownMember)?;
        if let Some(instance) = instance {
            let owner =
                self.instances.get(&(row.number, instance.clone())).ok_or(GroupFault::UnknownMember)?;
            if owner != member {
                return Err(GroupFault::Fenced);
            }
        }
        let id = Id { group: row.number, member: member.clone() };
        let member = self.members.get(&id).ok_or(GroupFault::UnknownMember)?;
        Ok((row, id, member))
    }

    /// Who may set offsets of a group, as `Members::may_commit` has it for the other kind: a member in its present epoch, and who is no member
    /// while nobody is.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub(crate) fn may_commit(
        &self,
        group: &GroupName,
        by: &Membership,
        in_transaction: bool,
    ) -> Result<Option<LeaseId>, GroupFault> {
        if by.generation.is_none() && !self.has_members(group) {
            return Ok(None);
        }
        if in_transaction && *by == Membership::default() {
            return Ok(None);
        }
        let (_, _, member) = self.known(group, &by.member, by.instance.as_ref())?;
        if by.generation != Some(member.epoch) {
            return Err(GroupFault::StaleEpoch);
        }
        // Who is away comes back under another id.
        if member.away { Err(GroupFault::StaleEpoch) } else { Ok(Some(member.lease)) }
    }

    /// Who may be told how far a group is.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub(crate) fn may_fetch(&self, group: &GroupName, member: &Blob, epoch: u32) -> Result<(), GroupFault> {
        if !self.has(group) {
            return Ok(());
        }
        let (_, _, found) = self.known(group, member, None)?;
        if found.epoch == epoch { Ok(()) } else { Err(GroupFault::StaleEpoch) }
    }

    /// When the next member has to have let go, or the next group is forgotten.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        self.due.first().map(|(time, _)| *time)
    }

    /// The group whose member's session a lease is.
    pub(crate) fn group_of(&self, lease: LeaseId) -> Option<&GroupName> {
        self.names.get(&self.leases.get(&lease)?.group)
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.keys().copied()
    }

    /// Whether some member of a group wants a stream.
    pub(crate) fn wants(&self, group: &GroupName, stream: &Key) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        let is = |name: &Blob| stream.space == Keyspace::DEFAULT && *name == stream.name;
        self.of(group.number).any(|(_, member)| member.wants().any(is))
    }

    /// Streams that a member wants and that are there, with their partitions, in order.
    fn wanted(streams: &Streams, member: &Member) -> Vec<(StreamId, u32)> {
        let found = member.wants().filter_map(|name| {
            let key = Key { space: Keyspace::DEFAULT, name: name.clone() };
            streams.id(&key).ok().zip(streams.partitions(&key))
        });
        let mut found: Vec<(StreamId, u32)> = found.collect();
        found.sort_unstable();
        found
    }

    /// Whether the streams that a member wants, or those of its group, are others than those over which the targets were computed.
    fn has_other_topics(&self, streams: &Streams, group: &Group, member: &Member) -> bool {
        let as_it_was = |(stream, count): &(StreamId, u32)| {
            streams.name(*stream).and_then(|name| streams.partitions(name)) == Some(*count)
        };
        !group.topics.iter().all(as_it_was)
            || Self::wanted(streams, member).iter().any(|topic| group.topics.binary_search(topic).is_err())
    }

    /// The assignor that most members want; between equals, and where nobody wants one, uniform.
    fn elected(&self, group: u64) -> Assignor {
        let votes = |assignor| self.of(group).filter(|(_, m)| m.assignor == Some(assignor)).count();
        if votes(Assignor::Range) > votes(Assignor::Uniform) { Assignor::Range } else { Assignor::Uniform }
    }
}

/// What a member says that it has, in order.
fn parts(shares: &Shares) -> Parts {
    let each = |(stream, partitions): &(u64, Vec<u32>)| {
        let stream = StreamId(*stream);
        partitions.iter().map(|partition| Part { stream, partition: *partition }).collect::<Vec<_>>()
    };
    let mut found: Parts = shares.iter().flat_map(each).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn shares(parts: &Parts) -> Shares {
    let mut found: Shares = Vec::new();
    for part in parts {
        match found.last_mut() {
            Some((stream, partitions)) if *stream == part.stream.0 => partitions.push(part.partition),
            _ => found.push((part.stream.0, vec![part.partition])),
        }
    }
    found
}

/// Those of `these` for which it is told that they are in `those`, or are not.
fn split(these: &Parts, those: &Parts) -> (Parts, Parts) {
    these.iter().partition(|part| those.binary_search(part).is_ok())
}

/// Changing rows, and the indexes with them.
impl Consumers {
    fn set_group(&mut self, name: &GroupName, row: Option<Group>) {
        let to = row.clone();
        let before = self.groups.set(name.clone(), row);
        index_group(&mut self.names, &mut self.due, name, before.as_ref(), to.as_ref());
    }

    fn set_member(&mut self, id: &Id, row: Option<Member>) -> Option<Member> {
        let to = row.clone();
        let before = self.members.set(id.clone(), row);
        let Self { instances, leases, owners, due, .. } = self;
        index_member(&mut Indexes { instances, leases, owners, due }, id, before.as_ref(), to.as_ref());
        before
    }
}

fn index_group(
    names: &mut BTreeMap<u64, GroupName>,
    due: &mut BTreeSet<(LogTime, Ends)>,
    name: &GroupName,
    from: Option<&Group>,
    to: Option<&Group>,
) {
    if let Some(from) = from {
        names.remove(&from.number);
        from.due.map(|time| due.remove(&(time, Ends::Group(name.clone()))));
    }
    if let Some(to) = to {
        names.insert(to.number, name.clone());
        to.due.map(|time| due.insert((time, Ends::Group(name.clone()))));
    }
}

/// The indexes over members.
struct Indexes<'a> {
    instances: &'a mut BTreeMap<(u64, Blob), Blob>,
    leases: &'a mut BTreeMap<LeaseId, Id>,
    owners: &'a mut BTreeMap<(u64, Part), Blob>,
    due: &'a mut BTreeSet<(LogTime, Ends)>,
}

fn index_member(indexes: &mut Indexes<'_>, id: &Id, from: Option<&Member>, to: Option<&Member>) {
    let all = |member: Option<&Member>| -> Vec<Part> {
        member.into_iter().flat_map(|member| member.has.iter().chain(&member.giving_up).copied()).collect()
    };
    let same = from.zip(to).is_some_and(|(from, to)| from.has == to.has && from.giving_up == to.giving_up);
    if !same {
        for part in all(from) {
            let at = (id.group, part);
            // Another one may have it by now.
            if indexes.owners.get(&at) == Some(&id.member) {
                indexes.owners.remove(&at);
            }
        }
        for part in all(to) {
            indexes.owners.insert((id.group, part), id.member.clone());
        }
    }
    if let Some(from) = from {
        indexes.leases.remove(&from.lease);
        from.due.map(|time| indexes.due.remove(&(time, Ends::Member(id.clone()))));
        if let Some(instance) = &from.instance
            && indexes.instances.get(&(id.group, instance.clone())) == Some(&id.member)
        {
            indexes.instances.remove(&(id.group, instance.clone()));
        }
    }
    if let Some(to) = to {
        indexes.leases.insert(to.lease, id.clone());
        to.due.map(|time| indexes.due.insert((time, Ends::Member(id.clone()))));
        if let Some(instance) = &to.instance {
            indexes.instances.insert((id.group, instance.clone()), id.member.clone());
        }
    }
}
