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
//! Called by: `commit` (changes), `Machine::end_lease`, `Machine::expire`; `reads` of gateways. Read `Machine::join` first.
//! Source: Kafka's group protocol (KIP-62, KIP-345 static members, KIP-394 ids before joining).

use crate::commit::Context;
use crate::offsets::RETENTION;
use crate::streams::{combine, section};
use crate::table::Table;
use crate::{Event, Machine, Now, Outputs};
use quorate_types::codec::{Reader, Writer};
use quorate_types::membership::MEMBERS_MAX;
use quorate_types::{
    Blob, CommittedOffset, DecodeError, GroupFault, GroupName, Join, Key, LeaseId, LogTime, MemberAnswer,
    MemberChange, Membership, Millis, OffsetCommit, OpError, OpResult, wire_enum, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long the first members of a group wait for others, so that those who start together make one generation and not several.
const GATHER: Millis = Millis(100);
/// Bytes of a client's name that its members' ids begin with.
const ID_NAME_BYTES_MAX: usize = 200;
/// Most groups.
const GROUPS_MAX: usize = 100_000;

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

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    group: u64,
    member: Blob,
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
    walk: Option<Walk>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    groups: usize,
    members: usize,
    named: usize,
    next: u64,
}

struct Walk {
    tag: u64,
    next: u64,
}

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

/// Finding.
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

/// Deciding.
impl Machine {
    /// Keeps offsets of a group.
    pub(crate) fn commit_offsets(&mut self, commit: &OffsetCommit, now: &Now) -> Result<OpResult, OpError> {
        let fault = |why| OpError::Group { group: commit.group.0.clone(), why };
        let lease = self.members.may_commit(&commit.group, &commit.by, false).map_err(fault)?;
        if let Some(lease) = lease {
            // Who says how far it is, is alive.
            self.leases.keep_alive(lease, now)?;
        }
        let when = (now.time, now.wall);
        let missing = self.offsets.put(&self.streams, &commit.group, &commit.offsets, when).map_err(fault)?;
        Ok(OpResult::Kept { missing })
    }

    /// Changes who is in a group.
    pub(crate) fn change_members(
        &mut self,
        context: &Context<'_>,
        change: &MemberChange,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        let now = context.now;
        let answer = match change {
            MemberChange::Join { join } => self.join(join, context.place, now, out),
            MemberChange::Sync { group, by, agreed, given } => self
                .sync(group, by, agreed.as_ref(), given, now, out)
                .map(|given| MemberAnswer::Given { given }),
            MemberChange::Leave { group, members } => {
                let faults = members.iter().map(|one| self.leave(group, one, now, out).err()).collect();
                Ok(MemberAnswer::Left { faults })
            }
            MemberChange::Delete { group } => return self.delete_members(group, now, out),
            MemberChange::Forget { group, partitions } => {
                let fault = |why| OpError::Group { group: group.0.clone(), why };
                self.unused(group).map_err(fault)?;
                for (stream, partition) in partitions {
                    if let Ok(stream) = self.streams.id(stream) {
                        self.offsets.forget_one(group, stream, *partition);
                    }
                }
                return Ok(OpResult::Done {});
            }
        };
        let answer = answer.map_err(|why| OpError::Group { group: change.group().0.clone(), why })?;
        Ok(OpResult::Member { answer })
    }

    fn join(
        &mut self,
        join: &Join,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<MemberAnswer, GroupFault> {
        let name = &join.group;
        if join.kind.is_empty() || join.protocols.is_empty() {
            return Err(GroupFault::Inconsistent);
        }
        let owner = self.members.groups.get(name).and_then(|group| {
            let instance = join.instance.clone()?;
            self.members.instances.get(&(group.number, instance)).cloned()
        });
        let known = self.members.id(name, &join.member).filter(|id| self.members.members.get(id).is_some());
        let given = self.members.id(name, &join.member).filter(|id| self.members.named.get(id).is_some());
        let except = owner.as_ref().or(known.as_ref().map(|id| &id.member));
        if let Some(group) = self.members.groups.get(name)
            && !self.members.fits(group, except, &join.kind, &join.protocols)
        {
            return Err(GroupFault::Inconsistent);
        }
        if join.member.is_empty() {
            return match owner {
                Some(owner) => self.replace(join, &owner, place, now, out),
                None if join.instance.is_none() && join.named_first => {
                    let id = self.new_id(join, place, now)?;
                    let lease = self.session(join.session, place, now);
                    let member = id.member.clone();
                    self.members.set_named(id, Some(lease));
                    Ok(MemberAnswer::Named { member })
                }
                None => {
                    let id = self.new_id(join, place, now)?;
                    let lease = self.session(join.session, place, now);
                    self.come_in(join, id, lease, now, out)
                }
            };
        }
        match (known, given) {
            _ if join.instance.is_some() && owner.is_none() => Err(GroupFault::UnknownMember),
            _ if join.instance.is_some() && owner.as_ref() != Some(&join.member) => Err(GroupFault::Fenced),
            (Some(id), _) => self.rejoin(join, id, place, now, out),
            (None, Some(id)) => {
                let lease = self.members.set_named(id.clone(), None).expect("it was just found");
                self.come_in(join, id, lease, now, out)
            }
            (None, None) => Err(GroupFault::UnknownMember),
        }
    }

    /// An id for a new member, and its group if that is new.
    fn new_id(&mut self, join: &Join, place: u64, now: &Now) -> Result<Id, GroupFault> {
        let name = &join.group;
        let number = match self.members.groups.get(name) {
            Some(group) => group.number,
            None if self.members.groups.len() >= GROUPS_MAX => return Err(GroupFault::Full),
            None => self.new_group(name, now),
        };
        let there = self.members.of(number).count() + self.members.named_of(number).count();
        if there as u64 >= MEMBERS_MAX {
            return Err(GroupFault::Full);
        }
        // Nobody can know it who was not told: what it is made of is in the log alone.
        let mut seed = [0; 24];
        seed[..8].copy_from_slice(&now.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&place.to_le_bytes());
        seed[16..].copy_from_slice(&self.members.next.to_le_bytes());
        self.members.next += 1;
        // However long its client's name is, the id can be sent back as any name.
        let own = String::from_utf8_lossy(join.instance.as_ref().unwrap_or(&join.client));
        let own = &own[..own.floor_char_boundary(ID_NAME_BYTES_MAX)];
        let member = format!("{own}-{:032x}", xxhash_rust::xxh3::xxh3_128(&seed));
        Ok(Id { group: number, member: member.into() })
    }

    fn new_group(&mut self, name: &GroupName, now: &Now) -> u64 {
        let number = self.members.next;
        self.members.next += 1;
        let row = Group {
            number,
            kind: Blob::EMPTY,
            generation: 0,
            phase: Phase::Empty,
            leader: Blob::EMPTY,
            protocol: Blob::EMPTY,
            since: now.time,
            deadline: Some(now.time.plus(RETENTION)),
        };
        self.members.set_group(name, Some(row));
        number
    }

    fn session(&mut self, ttl: Millis, place: u64, now: &Now) -> LeaseId {
        let salt = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.members.next);
        self.members.next += 1;
        self.leases.grant(LeaseId::ZERO, ttl, now, salt).expect("an id that is chosen is free")
    }

    /// A new member comes in.
    fn come_in(
        &mut self,
        join: &Join,
        id: Id,
        lease: LeaseId,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<MemberAnswer, GroupFault> {
        let name = &join.group;
        let was_empty = self.members.is_empty(id.group);
        let number = self.members.next;
        self.members.next += 1;
        let row = Member {
            number,
            lease,
            instance: join.instance.clone(),
            client: join.client.clone(),
            host: join.host.clone(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols.clone(),
            waits: true,
            asked: false,
            given: Blob::EMPTY,
        };
        let member = id.member.clone();
        let group = id.group;
        self.members.set_member(id, Some(row));
        let (time, patience) = (now.time, self.members.patience(group));
        let phase = self.members.groups.get(name).map_or(Phase::Empty, |group| group.phase);
        match phase {
            _ if was_empty => {
                self.offsets.hold(name);
                self.members.update_group(name, |group| {
                    group.kind = join.kind.clone();
                    group.phase = Phase::Joining { first: true };
                    group.since = time;
                    group.deadline = Some(time.plus(GATHER));
                });
            }
            Phase::Joining { first: true } => self.members.update_group(name, |group| {
                group.deadline = Some(time.plus(GATHER).min(group.since.plus(patience)));
            }),
            Phase::Joining { first: false } => {}
            Phase::Empty | Phase::Assigning | Phase::Stable => self.regroup(name, now, out),
        }
        self.go_on(name, now, out);
        Ok(MemberAnswer::Joined { member, leader: None })
    }

    /// A member comes back: for a new generation, or because it lost the answer.
    fn rejoin(
        &mut self,
        join: &Join,
        id: Id,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<MemberAnswer, GroupFault> {
        let name = &join.group;
        let mut row = self.members.members.get(&id).expect("it is known").clone();
        let group = self.members.groups.get(name).expect("it has members");
        let changed = row.protocols != join.protocols;
        let anew = match group.phase {
            Phase::Joining { .. } | Phase::Empty => false,
            Phase::Assigning => changed,
            // The leader asks for a new generation when what there is to read has changed.
            Phase::Stable => changed || group.leader == id.member,
        };
        let joining = matches!(group.phase, Phase::Joining { .. });
        let before = row.lease;
        if row.session == join.session {
            let _ = self.leases.keep_alive(row.lease, now);
        } else {
            row.lease = self.session(join.session, place, now);
            row.session = join.session;
        }
        row.rebalance = join.rebalance;
        row.client = join.client.clone();
        row.host = join.host.clone();
        row.protocols = join.protocols.clone();
        let lease = row.lease;
        self.members.set_member(id.clone(), Some(row));
        if lease != before {
            self.end_lease(before, now, out).expect("a member's lease is there");
        }
        if anew {
            self.regroup(name, now, out);
        }
        if anew || joining {
            self.come_back(&id);
            self.go_on(name, now, out);
        }
        Ok(MemberAnswer::Joined { member: id.member, leader: None })
    }

    /// A member of the same instance takes the place of the one before.
    fn replace(
        &mut self,
        join: &Join,
        owner: &Blob,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<MemberAnswer, GroupFault> {
        let name = &join.group;
        let id = self.new_id(join, place, now)?;
        let lease = self.session(join.session, place, now);
        let old = Id { group: id.group, member: owner.clone() };
        let before = self.members.set_member(old, None).expect("an instance is a member");
        let row = Member {
            lease,
            client: join.client.clone(),
            host: join.host.clone(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols.clone(),
            ..before.clone()
        };
        self.members.set_member(id.clone(), Some(row));
        let group = self.members.groups.get(name).expect("it has members").clone();
        let led = group.leader == *owner;
        if led {
            self.members.update_group(name, |group| group.leader = id.member.clone());
        }
        self.end_lease(before.lease, now, out).expect("a member's lease is there");
        // Whoever waits under the old id is told.
        out.events.push(Event::GroupMoved { group: name.clone() });
        // What it was given stands, if the generation would agree on the same.
        let stays = group.phase == Phase::Stable && self.members.elected(id.group) == group.protocol;
        if stays {
            let leader = led.then(|| owner.clone());
            return Ok(MemberAnswer::Joined { member: id.member, leader });
        }
        if !matches!(group.phase, Phase::Joining { .. }) {
            self.regroup(name, now, out);
        }
        self.come_back(&id);
        self.go_on(name, now, out);
        Ok(MemberAnswer::Joined { member: id.member, leader: None })
    }

    fn come_back(&mut self, id: &Id) {
        if let Some(mut row) = self.members.members.get(id).cloned() {
            row.waits = true;
            self.members.set_member(id.clone(), Some(row));
        }
    }

    /// Begins to make a generation: everybody has to come back.
    fn regroup(&mut self, name: &GroupName, now: &Now, out: &mut Outputs) {
        let Some(number) = self.members.groups.get(name).map(|group| group.number) else { return };
        let patience = self.members.patience(number);
        self.members.update_group(name, |group| {
            group.phase = Phase::Joining { first: false };
            group.since = now.time;
            group.deadline = Some(now.time.plus(patience));
        });
        out.events.push(Event::GroupMoved { group: name.clone() });
    }

    /// Makes the generation if nobody is missing.
    fn go_on(&mut self, name: &GroupName, now: &Now, out: &mut Outputs) {
        let Some(group) = self.members.groups.get(name) else { return };
        let Phase::Joining { first } = group.phase else { return };
        let number = group.number;
        let all = self.members.of(number).all(|(_, member)| member.waits);
        let named = self.members.named_of(number).next().is_some();
        if self.members.is_empty(number) || (all && !first && !named) {
            self.agree(name, now, out);
        }
    }

    /// Makes the generation of those who have come back; of nobody, where none is left.
    fn agree(&mut self, name: &GroupName, now: &Now, out: &mut Outputs) {
        let Some(mut group) = self.members.groups.get(name).cloned() else { return };
        let mut all: Vec<(Id, Member)> =
            self.members.of(group.number).map(|(id, member)| (id.clone(), member.clone())).collect();
        group.generation =
            group.generation.checked_add(1).filter(|next| *next <= GENERATION_MAX).unwrap_or(1);
        group.since = now.time;
        out.events.push(Event::GroupMoved { group: name.clone() });
        if all.is_empty() {
            group.phase = Phase::Empty;
            (group.leader, group.protocol) = (Blob::EMPTY, Blob::EMPTY);
            group.deadline = Some(now.time.plus(RETENTION));
            self.offsets.release(name, now.time);
            self.members.set_group(name, Some(group));
            return;
        }
        let leads = all.iter().any(|(id, member)| id.member == group.leader && member.waits);
        if !leads {
            let first = all.iter().filter(|(_, member)| member.waits).min_by_key(|(_, member)| member.number);
            group.leader = first.map_or(Blob::EMPTY, |(id, _)| id.member.clone());
        }
        group.protocol = self.members.elected(group.number);
        group.phase = Phase::Assigning;
        group.deadline = Some(now.time.plus(self.members.patience(group.number)));
        for (id, mut member) in all.drain(..) {
            (member.waits, member.asked, member.given) = (false, false, Blob::EMPTY);
            self.members.set_member(id, Some(member));
        }
        self.members.set_group(name, Some(group));
    }

    fn sync(
        &mut self,
        name: &GroupName,
        by: &Membership,
        agreed: Option<&(Blob, Blob)>,
        given: &[(Blob, Blob)],
        now: &Now,
        out: &mut Outputs,
    ) -> Result<Option<Blob>, GroupFault> {
        let (group, id, member) = self.members.current(name, by)?;
        let other = |(kind, protocol): &(Blob, Blob)| *kind != group.kind || *protocol != group.protocol;
        if agreed.is_some_and(other) {
            return Err(GroupFault::Inconsistent);
        }
        if matches!(group.phase, Phase::Joining { .. } | Phase::Empty) {
            return Err(GroupFault::Rebalancing);
        }
        let leads = group.phase == Phase::Assigning && group.leader == id.member;
        let (number, lease) = (group.number, member.lease);
        let mut row = member.clone();
        row.asked = true;
        self.members.set_member(id.clone(), Some(row));
        let _ = self.leases.keep_alive(lease, now);
        if leads {
            let given: BTreeMap<&Blob, &Blob> = given.iter().map(|(member, given)| (member, given)).collect();
            let all: Vec<(Id, Member)> =
                self.members.of(number).map(|(id, member)| (id.clone(), member.clone())).collect();
            for (id, mut member) in all {
                member.given = given.get(&id.member).map_or(Blob::EMPTY, |given| (*given).clone());
                self.members.set_member(id, Some(member));
            }
            self.members.update_group(name, |group| group.phase = Phase::Stable);
            out.events.push(Event::GroupMoved { group: name.clone() });
        }
        let stable = self.members.groups.get(name).is_some_and(|group| group.phase == Phase::Stable);
        if stable && self.members.of(number).all(|(_, member)| member.asked) {
            self.members.update_group(name, |group| group.deadline = None);
        }
        Ok(self.members.members.get(&id).filter(|_| stable).map(|member| member.given.clone()))
    }

    fn leave(
        &mut self,
        name: &GroupName,
        (member, instance): &(Blob, Option<Blob>),
        now: &Now,
        out: &mut Outputs,
    ) -> Result<(), GroupFault> {
        let group = self.members.groups.get(name).ok_or(GroupFault::UnknownMember)?.number;
        let mut id = Id { group, member: member.clone() };
        if let Some(instance) = instance {
            let owner = self.members.instances.get(&(group, instance.clone()));
            let owner = owner.ok_or(GroupFault::UnknownMember)?;
            if !member.is_empty() && owner != member {
                return Err(GroupFault::Fenced);
            }
            id.member = owner.clone();
        }
        let lease = self.members.members.get(&id).map(|row| row.lease);
        let lease = lease.or(self.members.named.get(&id).copied()).ok_or(GroupFault::UnknownMember)?;
        self.end_lease(lease, now, out).expect("a member's lease is there");
        Ok(())
    }

    /// A session is over: its member is out.
    pub(crate) fn member_ended(&mut self, lease: LeaseId, now: &Now, out: &mut Outputs) {
        let Some(id) = self.members.leases.get(&lease).cloned() else { return };
        let name = self.members.names.get(&id.group).expect("a member has a group").clone();
        if self.members.set_named(id.clone(), None).is_none() {
            self.members.set_member(id, None);
            // Whoever waits as this member is told.
            out.events.push(Event::GroupMoved { group: name.clone() });
            if matches!(
                self.members.groups.get(&name).map(|group| group.phase),
                Some(Phase::Assigning | Phase::Stable)
            ) {
                self.regroup(&name, now, out);
            }
        }
        self.go_on(&name, now, out);
    }

    /// Ends the phase that is due next.
    pub(crate) fn end_phase(&mut self, now: &Now, out: &mut Outputs) {
        let Some((_, name)) = self.members.due.first().cloned() else { return };
        let group = self.members.groups.get(&name).expect("due and groups hold the same groups").clone();
        let late = |found: &dyn Fn(&Member) -> bool| -> Vec<LeaseId> {
            let of = self.members.of(group.number);
            of.filter(|(_, member)| found(member)).map(|(_, member)| member.lease).collect()
        };
        match group.phase {
            Phase::Empty => {
                self.remove_group(&name, now, out);
                return;
            }
            Phase::Joining { first: true } => return self.agree(&name, now, out),
            Phase::Joining { first: false } => {
                // One that keeps its name over restarts may be away until its session ends.
                for lease in late(&|member| !member.waits && member.instance.is_none()) {
                    self.end_lease(lease, now, out).expect("a member's lease is there");
                }
            }
            Phase::Assigning | Phase::Stable => {
                for lease in late(&|member| !member.asked) {
                    self.end_lease(lease, now, out).expect("a member's lease is there");
                }
            }
        }
        // Putting somebody out may have begun or ended a phase already; then there is another deadline.
        let same = self.members.groups.get(&name).is_some_and(|after| {
            after.phase == group.phase && after.since == group.since && after.deadline == group.deadline
        });
        if !same {
            return;
        }
        let somebody = self.members.of(group.number).any(|(_, member)| member.waits);
        match group.phase {
            Phase::Joining { .. } if somebody => self.agree(&name, now, out),
            Phase::Joining { .. } => {
                let deadline = now.time.plus(self.members.patience(group.number));
                self.members.update_group(&name, |group| group.deadline = Some(deadline));
            }
            _ => self.members.update_group(&name, |group| group.deadline = None),
        }
    }

    /// Whether a group is there and has no members.
    fn unused(&self, group: &GroupName) -> Result<(), GroupFault> {
        let row = self.members.groups.get(group);
        if row.is_some_and(|row| !self.members.is_empty(row.number)) {
            return Err(GroupFault::NotEmpty);
        }
        if row.is_some() || self.offsets.has(group) { Ok(()) } else { Err(GroupFault::Missing) }
    }

    fn delete_members(
        &mut self,
        group: &GroupName,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        self.unused(group).map_err(|why| OpError::Group { group: group.0.clone(), why })?;
        self.remove_group(group, now, out);
        self.offsets.drop_group(group);
        Ok(OpResult::Done {})
    }

    /// Removes a group without members; those who were to come are not awaited.
    fn remove_group(&mut self, name: &GroupName, now: &Now, out: &mut Outputs) {
        let Some(number) = self.members.groups.get(name).map(|group| group.number) else { return };
        let named: Vec<LeaseId> = self.members.named_of(number).map(|(_, lease)| *lease).collect();
        for lease in named {
            self.end_lease(lease, now, out).expect("the lease of an id is there");
        }
        self.members.set_group(name, None);
    }
}

/// The largest generation: what Kafka's protocol can say.
const GENERATION_MAX: u32 = i32::MAX as u32;

/// Reading.
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
        self.members.leases.keys().copied()
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
            return self.offsets.has(group).then(view);
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

    /// All groups that have members or offsets, or had: each with its phase and kind, in the order of their names.
    #[must_use]
    pub fn member_groups(&self) -> Vec<(GroupName, Phase, Blob)> {
        let mut all: BTreeMap<GroupName, (Phase, Blob)> =
            self.offsets.groups().map(|name| (name.clone(), (Phase::Empty, Blob::EMPTY))).collect();
        let rows = self.members.groups.iter();
        all.extend(rows.map(|(name, row)| (name.clone(), (row.phase, row.kind.clone()))));
        all.into_iter().map(|(name, (phase, kind))| (name, phase, kind)).collect()
    }
}

/// Undo, snapshot, digest.
impl Members {
    pub(crate) fn mark(&self) -> Mark {
        let Self { groups, members, named, next, .. } = self;
        Mark { groups: groups.mark(), members: members.mark(), named: named.mark(), next: *next }
    }

    pub(crate) fn rollback(&mut self, mark: &Mark) {
        let Self { groups, members, named, names, instances, leases, due, .. } = self;
        groups.rollback(mark.groups, |name, undone, back| {
            let to = back.map(|row| (row.number, row.deadline));
            index_group(names, due, name, undone, to);
        });
        // Members first: one that came in with its id has the lease of that.
        members.rollback(mark.members, |id, undone, back| {
            index_member(instances, leases, id, undone, back);
        });
        named.rollback(mark.named, |id, undone, back| {
            undone.map(|lease| leases.remove(lease));
            back.map(|lease| leases.insert(*lease, id.clone()));
        });
        self.next = mark.next;
    }

    pub(crate) fn forget(&mut self) {
        self.groups.forget();
        self.members.forget();
        self.named.forget();
    }

    pub(crate) fn walk_begin(&mut self) {
        self.groups.walk_begin();
        self.members.walk_begin();
        self.named.walk_begin();
        self.walk = Some(Walk { tag: TAG_NEXT, next: self.next });
    }

    /// Emits one chunk of up to `rows_max` rows; returns whether the walk is over.
    pub(crate) fn walk_next(&mut self, rows_max: usize, out: &mut Writer) -> bool {
        let Some(mut walk) = self.walk.take() else { return true };
        let mut left = rows_max.max(1);
        while left > 0 && walk.tag <= TAG_NAMED {
            let emitted = match walk.tag {
                TAG_NEXT => {
                    out.varint(TAG_NEXT);
                    out.varint(walk.next);
                    0
                }
                TAG_GROUPS => section(&mut self.groups, TAG_GROUPS, left, out),
                TAG_MEMBERS => section(&mut self.members, TAG_MEMBERS, left, out),
                _ => section(&mut self.named, TAG_NAMED, left, out),
            };
            if emitted < left {
                walk.tag += 1;
            }
            left -= emitted;
        }
        let over = walk.tag > TAG_NAMED;
        self.walk = Some(walk);
        over
    }

    pub(crate) fn walk_end(&mut self) {
        self.groups.walk_end();
        self.members.walk_end();
        self.named.walk_end();
        self.walk = None;
    }

    /// Reads one section into an empty or partly restored state. After the last one, [`Members::restored`].
    ///
    /// # Errors
    /// [`DecodeError`] says what could not be read.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        match from.varint()? {
            TAG_NEXT => self.next = from.varint()?,
            TAG_GROUPS => {
                for _ in 0..from.varint()? {
                    let (name, row) = self.groups.restore_row(from)?;
                    let to = Some((row.number, row.deadline));
                    index_group(&mut self.names, &mut self.due, &name, None, to);
                }
            }
            TAG_MEMBERS => {
                for _ in 0..from.varint()? {
                    let (id, row) = self.members.restore_row(from)?;
                    index_member(&mut self.instances, &mut self.leases, &id, None, Some(&row));
                }
            }
            TAG_NAMED => {
                for _ in 0..from.varint()? {
                    let (id, lease) = self.named.restore_row(from)?;
                    self.leases.insert(lease, id);
                }
            }
            found => return Err(DecodeError::Tag { what: "section of members", found }),
        }
        Ok(())
    }

    /// Checks what was restored.
    ///
    /// # Errors
    /// [`DecodeError::Range`]: the rows do not fit together; the snapshot is damaged.
    pub(crate) fn restored(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
    ) -> Result<(), DecodeError> {
        self.verify(live, held).map_err(|what| DecodeError::Range { what, found: 0 })
    }

    pub(crate) fn digest(&self, scratch: &mut Writer) -> u128 {
        let tables = [self.groups.digest(scratch), self.members.digest(scratch), self.named.digest(scratch)];
        combine(u128::from(self.next), &tables)
    }

    /// Panics when rows and indexes disagree.
    pub(crate) fn check(&self, live: impl Fn(LeaseId) -> bool, held: impl Fn(&GroupName) -> bool) {
        if let Err(what) = self.verify(live, held) {
            panic!("members of groups: {what} does not fit");
        }
    }

    fn verify(
        &self,
        live: impl Fn(LeaseId) -> bool,
        held: impl Fn(&GroupName) -> bool,
    ) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let mut due = 0;
        for (name, group) in self.groups.iter() {
            sound(group.number < self.next, "number of a group")?;
            sound(self.names.get(&group.number) == Some(name), "name of a group")?;
            if let Some(time) = group.deadline {
                due += 1;
                sound(self.due.contains(&(time, name.clone())), "deadline of a group")?;
            }
            let empty = self.is_empty(group.number);
            sound(empty == (group.phase == Phase::Empty), "phase of a group without members")?;
            sound(held(name) != empty, "hold of a group with members")?;
            let leader = Id { group: group.number, member: group.leader.clone() };
            let led = self.members.get(&leader).is_some();
            let wanted = matches!(group.phase, Phase::Assigning | Phase::Stable);
            sound(led || !wanted, "leader of a group")?;
            let timed = group.deadline.is_some() || group.phase == Phase::Stable;
            sound(timed, "deadline of a phase")?;
        }
        sound(self.due.len() == due && self.names.len() == self.groups.len(), "count of groups")?;
        let mut instances = 0;
        for (id, member) in self.members.iter() {
            sound(self.names.contains_key(&id.group) && member.number < self.next, "group of a member")?;
            let hangs = live(member.lease) && self.leases.get(&member.lease) == Some(id);
            sound(hangs, "session of a member")?;
            if let Some(instance) = &member.instance {
                instances += 1;
                let owner = self.instances.get(&(id.group, instance.clone()));
                sound(owner == Some(&id.member), "instance of a member")?;
            }
        }
        for (id, lease) in self.named.iter() {
            sound(self.names.contains_key(&id.group), "group of an id")?;
            sound(live(*lease) && self.leases.get(lease) == Some(id), "session of an id")?;
            sound(self.members.get(id).is_none(), "an id that is a member's")?;
        }
        sound(self.instances.len() == instances, "count of instances")?;
        sound(self.leases.len() == self.members.len() + self.named.len(), "count of sessions")
    }
}

const TAG_NEXT: u64 = 1;
const TAG_GROUPS: u64 = 2;
const TAG_MEMBERS: u64 = 3;
const TAG_NAMED: u64 = 4;
