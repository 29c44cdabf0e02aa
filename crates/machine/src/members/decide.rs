//! What becomes of a group: who joins, what a generation agrees on, who leaves or is put out, when.
//!
//! Called by: `commit` (changes), `Machine::end_lease`, `Machine::expire`. Read `Machine::join` first.

use super::{GATHER, Group, Id, Member, Phase};
use crate::commit::Context;
use crate::offsets::RETENTION;
use crate::{Event, Machine, Now, Outputs};
use quorate_types::membership::MEMBERS_MAX;
use quorate_types::{
    Blob, GroupFault, GroupName, Join, LeaseId, MemberAnswer, MemberChange, Membership, Millis, OffsetCommit,
    OpError, OpResult,
};
use std::collections::BTreeMap;

/// Bytes of a client's name that its members' ids begin with.
const ID_NAME_BYTES_MAX: usize = 200;
/// Most groups.
const GROUPS_MAX: usize = 100_000;
/// The largest generation: what Kafka's protocol can say.
const GENERATION_MAX: u32 = i32::MAX as u32;

impl Machine {
    /// Keeps offsets of a group.
    pub(crate) fn commit_offsets(&mut self, commit: &OffsetCommit, now: &Now) -> Result<OpResult, OpError> {
        let fault = |why| OpError::Group { group: commit.group.0.clone(), why };
        let lease = self.may_commit(&commit.group, &commit.by, false).map_err(fault)?;
        if let Some(lease) = lease {
            // Who says how far it is, is alive.
            self.leases.keep_alive(lease, now)?;
        }
        let when = (now.time, now.wall);
        let missing = self.offsets.put(&self.streams, &commit.group, &commit.offsets, when).map_err(fault)?;
        Ok(OpResult::Kept { missing })
    }

    /// Who may set offsets of a group, whichever kind it is of, and whose lease that renews.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub(crate) fn may_commit(
        &self,
        group: &GroupName,
        by: &Membership,
        in_transaction: bool,
    ) -> Result<Option<LeaseId>, GroupFault> {
        if self.consumers.has(group) {
            return self.consumers.may_commit(group, by, in_transaction);
        }
        self.members.may_commit(group, by, in_transaction)
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
            MemberChange::Beat { beat } => {
                self.beat(beat, context.place, now, out).map(|beaten| MemberAnswer::Beaten { beaten })
            }
            MemberChange::Part { group, member, instance, returns } => {
                let parted = self.part_with(group, (member, instance.as_ref()), *returns, now, out);
                parted.map(|()| MemberAnswer::Parted {})
            }
            MemberChange::Delete { group } => return self.delete_members(group, now, out),
            MemberChange::Forget { group, partitions } => {
                let fault = |why| OpError::Group { group: group.0.clone(), why };
                if self.consumers.has_members(group) {
                    if partitions.iter().any(|(stream, _)| self.consumers.wants(group, stream)) {
                        return Err(fault(GroupFault::Subscribed));
                    }
                } else {
                    self.unused(group).map_err(fault)?;
                }
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
        if join.kind.is_empty() || join.protocols.is_empty() || self.consumers.has_members(name) {
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
        // One of the other kind without members goes on as one of this; its epochs were generations.
        let generation = self.retire_consumers(name);
        let row = Group {
            number,
            kind: Blob::EMPTY,
            generation,
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
        if self.consumers.has_members(group) {
            return Err(GroupFault::NotEmpty);
        }
        if row.is_some() || self.consumers.has(group) || self.offsets.has(group) {
            Ok(())
        } else {
            Err(GroupFault::Missing)
        }
    }

    fn delete_members(
        &mut self,
        group: &GroupName,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<OpResult, OpError> {
        self.unused(group).map_err(|why| OpError::Group { group: group.0.clone(), why })?;
        self.remove_group(group, now, out);
        self.retire_consumers(group);
        self.offsets.drop_group(group);
        Ok(OpResult::Done {})
    }

    /// Makes way for a group of the other kind; the generation that this one was in.
    ///
    /// # Errors
    /// [`GroupFault::Missing`]: it has members, so there is no group of the other kind of this name.
    pub(crate) fn retire_members(
        &mut self,
        name: &GroupName,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<u32, GroupFault> {
        let Some(group) = self.members.groups.get(name) else { return Ok(0) };
        if !self.members.is_empty(group.number) {
            return Err(GroupFault::Missing);
        }
        let generation = group.generation;
        self.remove_group(name, now, out);
        Ok(generation)
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
