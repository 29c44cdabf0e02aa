//! What becomes of a group that the server divides: who comes in, what its beat changes, who leaves or is put out, when.
//!
//! Called by: `Machine::change_members` (beats), `Machine::end_lease`, `Machine::expire`. Read `Machine::beat` first, then `Consumers::settled`.

use super::assign::{Seat, Set, range, uniform};
use super::{Consumers, Ends, Group, Id, Member, Parts, parts, shares, split};
use crate::offsets::RETENTION;
use crate::streams::StreamId;
use crate::{Machine, Now, Outputs};
use quorate_types::beats::SHARED_MAX;
use quorate_types::membership::MEMBERS_MAX;
use quorate_types::{Assignor, Beat, Beaten, Blob, GroupFault, GroupName, LeaseId, LogTime, Millis};
use std::collections::{BTreeMap, BTreeSet};

/// Most groups of this kind.
const GROUPS_MAX: usize = 100_000;
/// The largest epoch: what Kafka's protocol can say.
const EPOCH_MAX: u32 = i32::MAX as u32;

/// Where a beat finds its member.
enum Found {
    /// It is to come in.
    New,
    /// It is in.
    Known(Id),
    /// It comes back in the place of this one, who is away.
    Back(Id),
}

impl Consumers {
    fn found(&self, beat: &Beat) -> Result<Found, GroupFault> {
        let joins = beat.epoch.is_none();
        let Some(group) = self.groups.get(&beat.group) else {
            return if joins { Ok(Found::New) } else { Err(GroupFault::UnknownMember) };
        };
        let id = Id { group: group.number, member: beat.member.clone() };
        let instance = beat.instance.as_ref();
        let owner = instance.and_then(|name| self.instances.get(&(group.number, name.clone())));
        match owner {
            Some(owner) if *owner == id.member => {}
            Some(_) if !joins => return Err(GroupFault::Fenced),
            Some(owner) => {
                let old = Id { member: owner.clone(), ..id };
                let away = self.members.get(&old).is_some_and(|row| row.away);
                return if away { Ok(Found::Back(old)) } else { Err(GroupFault::Unreleased) };
            }
            None if instance.is_some() && !joins => return Err(GroupFault::UnknownMember),
            None => {}
        }
        match self.members.get(&id) {
            Some(row) => row.is_in(beat).map(|()| Found::Known(id)),
            None if joins => Ok(Found::New),
            None => Err(GroupFault::UnknownMember),
        }
    }

    /// A member as it is after a beat in which it said, or did not, what it has: a step nearer to its target, if there is one to make now.
    fn settled(&self, group: &Group, id: &Id, row: &Member, owned: Option<&Parts>, now: LogTime) -> Member {
        let lets_go =
            |of: &Parts| owned.is_some_and(|owned| of.iter().all(|part| owned.binary_search(part).is_err()));
        let mut next = row.clone();
        if !row.giving_up.is_empty() && !lets_go(&row.giving_up) {
            return next;
        }
        let (keeps, gives) = split(&row.has, &row.target);
        if !gives.is_empty() && !lets_go(&gives) {
            (next.has, next.giving_up, next.waits) = (keeps, gives, false);
            next.due = Some(now.plus(row.rebalance));
            return next;
        }
        let is_free = |part: &_| {
            let owner = self.owners.get(&(id.group, *part));
            owner.is_none_or(|owner| *owner == id.member)
        };
        let (_, wanted) = split(&row.target, &row.has);
        let (gets, others): (Parts, Parts) = wanted.iter().partition(|part| is_free(part));
        next.has = keeps;
        next.has.extend(gets);
        next.has.sort_unstable();
        (next.giving_up, next.due, next.waits) = (Parts::new(), None, !others.is_empty());
        if next.epoch != group.target_epoch {
            (next.previous, next.epoch) = (next.epoch, group.target_epoch);
        }
        next
    }

    /// How many partitions a group has to divide.
    fn shared(group: &Group) -> u64 {
        group.topics.iter().map(|(_, count)| u64::from(*count)).sum()
    }
}

impl Member {
    /// Whether a beat is of the epoch in which the member is. Of the one before it may be if the answer that told of this one was lost: then it
    /// says what it has, which is nothing but what it was given.
    fn is_in(&self, beat: &Beat) -> Result<(), GroupFault> {
        let Some(epoch) = beat.epoch else { return Ok(()) };
        let behind = || {
            let owned = beat.owned.as_ref().map(parts);
            let has_it = owned.is_some_and(|owned| split(&owned, &self.has).1.is_empty());
            epoch == self.previous && has_it
        };
        if !self.away && (epoch == self.epoch || (epoch < self.epoch && behind())) {
            Ok(())
        } else {
            Err(GroupFault::OtherEpoch)
        }
    }

    /// Takes what a beat says.
    fn hear(&mut self, beat: &Beat) {
        let in_order = |names: &Vec<Blob>| {
            let names: BTreeSet<&Blob> = names.iter().collect();
            names.into_iter().cloned().collect::<Vec<_>>()
        };
        (self.client, self.host) = (beat.client.clone(), beat.host.clone());
        self.away = false;
        if let Some(rebalance) = beat.rebalance {
            self.rebalance = rebalance;
        }
        for (to, from) in [(&mut self.rack, &beat.rack), (&mut self.instance, &beat.instance)] {
            if from.is_some() {
                to.clone_from(from);
            }
        }
        if let Some(names) = &beat.names {
            self.names = in_order(names);
        }
        if let Some(regex) = beat.regex.as_ref().filter(|regex| **regex != self.regex) {
            (self.regex, self.matched) = (regex.clone(), Vec::new());
        }
        if let Some(matched) = beat.matched.as_ref().filter(|_| !self.regex.is_empty()) {
            self.matched = in_order(matched);
        }
        if beat.assignor.is_some() {
            self.assignor = beat.assignor;
        }
    }
}

impl Machine {
    /// A beat that changes nothing: whose lease it renews, and what it is told. Nothing when it changes something, or may.
    ///
    /// # Errors
    /// [`GroupFault`]: it is out, or in another epoch.
    pub fn beat_alone(&self, beat: &Beat) -> Result<Option<(LeaseId, Beaten)>, GroupFault> {
        let Found::Known(id) = self.consumers.found(beat)? else { return Ok(None) };
        let group = self.consumers.groups.get(&beat.group).expect("its member was just found");
        let row = self.consumers.members.get(&id).expect("it was just found");
        let mut heard = row.clone();
        heard.hear(beat);
        let moves = group.epoch != group.target_epoch
            || self.consumers.has_other_topics(&self.streams, group, row)
            || heard != *row
            || row.session != beat.session;
        let owned = beat.owned.as_ref().map(parts);
        if beat.epoch.is_none()
            || moves
            || self.consumers.settled(group, &id, row, owned.as_ref(), LogTime::ZERO) != *row
        {
            return Ok(None);
        }
        Ok(Some((row.lease, row.told(&id, beat, false))))
    }

    /// A member says that it is alive, and what has changed for it.
    pub(crate) fn beat(
        &mut self,
        beat: &Beat,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<Beaten, GroupFault> {
        let name = &beat.group;
        let (id, is_new) = match self.consumers.found(beat)? {
            Found::New => (self.first_beat(beat, place, now, out)?, true),
            Found::Known(id) => (id, false),
            Found::Back(old) => (self.return_as(&old, beat, place, now, out), false),
        };
        let before = self.consumers.members.get(&id).expect("it is in").clone();
        let mut row = before.clone();
        row.hear(beat);
        if row.session == beat.session {
            let _ = self.leases.keep_alive(row.lease, now);
        } else {
            row.lease = self.beating(beat.session, place, now);
            row.session = beat.session;
        }
        let lease = row.lease;
        let wants_other = is_new || row.names != before.names || row.matched != before.matched;
        self.consumers.set_member(&id, Some(row));
        if lease != before.lease {
            self.end_lease(before.lease, now, out).expect("a member's lease is there");
        }
        self.retarget(name, &id, wants_other)?;
        let group = self.consumers.groups.get(name).expect("it has a member");
        let row = self.consumers.members.get(&id).expect("it is in");
        // Who joins has nothing.
        let owned = beat.owned.as_ref().filter(|_| beat.epoch.is_some()).map(parts);
        let owned = owned.or(beat.epoch.is_none().then(Parts::new));
        let next = self.consumers.settled(group, &id, row, owned.as_ref(), now.time);
        let told = next.told(&id, beat, next.has != before.has);
        self.consumers.set_member(&id, Some(next));
        Ok(told)
    }

    /// Computes what everybody is to have, if what it goes by has changed.
    fn retarget(&mut self, name: &GroupName, id: &Id, wants_other: bool) -> Result<(), GroupFault> {
        let group = self.consumers.groups.get(name).expect("it has a member");
        let row = self.consumers.members.get(id).expect("it is in");
        let moves = wants_other
            || self.consumers.elected(group.number) != group.assignor
            || self.consumers.has_other_topics(&self.streams, group, row);
        if !moves && group.epoch == group.target_epoch {
            return Ok(());
        }
        let mut group = group.clone();
        if moves {
            group.epoch = Some(group.epoch + 1).filter(|next| *next <= EPOCH_MAX).ok_or(GroupFault::Full)?;
        }
        let before = Consumers::shared(&group);
        self.divide(&mut group);
        if wants_other && Consumers::shared(&group) > SHARED_MAX.max(before) {
            return Err(GroupFault::Full);
        }
        self.consumers.set_group(name, Some(group));
        Ok(())
    }

    /// Gives every member its target.
    fn divide(&mut self, group: &mut Group) {
        let consumers = &self.consumers;
        let assignor = consumers.elected(group.number);
        let mut sets: Vec<Set> = Vec::new();
        let mut numbers: BTreeMap<(&[Blob], &[Blob]), usize> = BTreeMap::new();
        let seats = consumers.of(group.number).map(|(id, member)| {
            let set = *numbers.entry((&member.names, &member.matched)).or_insert_with(|| {
                sets.push(Consumers::wanted(&self.streams, member));
                sets.len() - 1
            });
            Seat { rank: member.rank(id), set, before: &member.target }
        });
        let seats: Vec<Seat<'_>> = seats.collect();
        let given = match assignor {
            Assignor::Uniform => uniform(&seats, &sets),
            Assignor::Range => range(&seats, &sets),
        };
        let topics: BTreeSet<(StreamId, u32)> = sets.into_iter().flatten().collect();
        let changed =
            consumers.of(group.number).zip(given).filter(|((_, member), given)| member.target != *given);
        let changed: Vec<(Id, Member)> =
            changed.map(|((id, member), target)| (id.clone(), Member { target, ..member.clone() })).collect();
        for (id, member) in changed {
            self.consumers.set_member(&id, Some(member));
        }
        group.topics = topics.into_iter().collect();
        (group.assignor, group.target_epoch) = (assignor, group.epoch);
    }

    /// A new member comes in, and its group with the first.
    fn first_beat(
        &mut self,
        beat: &Beat,
        place: u64,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<Id, GroupFault> {
        let name = &beat.group;
        if !self.consumers.has(name) {
            if self.consumers.groups.len() >= GROUPS_MAX {
                return Err(GroupFault::Full);
            }
            // An empty group of the other kind goes on as one of this; generations were its epochs.
            let epoch = self.retire_members(name, now, out)?;
            let number = self.consumers.next;
            self.consumers.next += 1;
            let (assignor, topics) = (Assignor::default(), Vec::new());
            let row = Group { number, epoch, target_epoch: epoch, assignor, topics, due: None };
            self.consumers.set_group(name, Some(row));
        }
        let mut group = self.consumers.groups.get(name).expect("it was just made").clone();
        if self.consumers.of(group.number).count() as u64 >= MEMBERS_MAX {
            return Err(GroupFault::Full);
        }
        self.offsets.hold(name);
        group.due = None;
        let lease = self.beating(beat.session, place, now);
        let id = Id { group: group.number, member: self.beating_id(beat, place, now) };
        self.consumers.set_group(name, Some(group));
        let row = Member {
            lease,
            instance: None,
            rack: None,
            client: Blob::EMPTY,
            host: Blob::EMPTY,
            session: beat.session,
            rebalance: beat.session,
            names: Vec::new(),
            regex: Blob::EMPTY,
            matched: Vec::new(),
            assignor: None,
            epoch: 0,
            previous: 0,
            away: false,
            waits: false,
            target: Parts::new(),
            has: Parts::new(),
            giving_up: Parts::new(),
            due: None,
        };
        self.consumers.set_member(&id, Some(row));
        Ok(id)
    }

    /// One that was away comes back, perhaps under another id: to all that it had.
    fn return_as(&mut self, old: &Id, beat: &Beat, place: u64, now: &Now, out: &mut Outputs) -> Id {
        let lease = self.beating(beat.session, place, now);
        let id = Id { group: old.group, member: self.beating_id(beat, place, now) };
        let before = self.consumers.set_member(old, None).expect("who is away is in");
        let (gone, session) = (before.lease, beat.session);
        let row = Member { lease, session, epoch: 0, previous: 0, away: false, ..before };
        self.consumers.set_member(&id, Some(row));
        self.end_lease(gone, now, out).expect("a member's lease is there");
        id
    }

    /// The member's own id; one that nobody can know who was not told, where it has none.
    fn beating_id(&mut self, beat: &Beat, place: u64, now: &Now) -> Blob {
        if !beat.member.is_empty() {
            return beat.member.clone();
        }
        let mut seed = [0; 24];
        seed[..8].copy_from_slice(&now.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&place.to_le_bytes());
        seed[16..].copy_from_slice(&self.consumers.next.to_le_bytes());
        self.consumers.next += 1;
        format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&seed)).into()
    }

    fn beating(&mut self, ttl: Millis, place: u64, now: &Now) -> LeaseId {
        let salt = place.wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(self.consumers.next);
        self.consumers.next += 1;
        self.leases.grant(LeaseId::ZERO, ttl, now, salt).expect("an id that is chosen is free")
    }

    /// A member leaves, for good or to come back under its name.
    pub(crate) fn part_with(
        &mut self,
        group: &GroupName,
        (member, instance): (&Blob, Option<&Blob>),
        returns: bool,
        now: &Now,
        out: &mut Outputs,
    ) -> Result<(), GroupFault> {
        let (_, id, row) = self.consumers.known(group, member, instance)?;
        let lease = row.lease;
        if !returns || row.instance.is_none() {
            self.end_lease(lease, now, out).expect("a member's lease is there");
            return Ok(());
        }
        let mut row = row.clone();
        // It reads no more: what it was to let go of, it has.
        (row.away, row.waits, row.giving_up, row.due) = (true, false, Parts::new(), None);
        self.consumers.set_member(&id, Some(row));
        let _ = self.leases.keep_alive(lease, now);
        Ok(())
    }

    /// A session is over: its member is out, and has nothing any more.
    pub(crate) fn consumer_ended(&mut self, lease: LeaseId, now: &Now) {
        let Some(id) = self.consumers.leases.get(&lease).cloned() else { return };
        let name = self.consumers.names.get(&id.group).expect("a member has a group").clone();
        self.consumers.set_member(&id, None);
        let mut group =
            self.consumers.groups.get(&name).expect("names and groups hold the same groups").clone();
        // Those who are left are given theirs by the next beat: many may end at once.
        group.epoch = EPOCH_MAX.min(group.epoch + 1);
        if self.consumers.is_empty(id.group) {
            (group.target_epoch, group.topics) = (group.epoch, Vec::new());
            group.due = Some(now.time.plus(RETENTION));
            self.offsets.release(&name, now.time);
        }
        self.consumers.set_group(&name, Some(group));
    }

    /// Ends what is due next: a member that has not let go in time is out, a group without members is forgotten.
    pub(crate) fn end_consumer(&mut self, now: &Now, out: &mut Outputs) {
        match self.consumers.due.first().cloned() {
            Some((_, Ends::Group(name))) => self.consumers.set_group(&name, None),
            Some((_, Ends::Member(id))) => {
                let lease = self.consumers.members.get(&id).expect("due and members hold the same").lease;
                self.end_lease(lease, now, out).expect("a member's lease is there");
            }
            None => {}
        }
    }

    /// Forgets a group without members, as which it was, or as one of the other kind that it is to be; its epoch.
    pub(crate) fn retire_consumers(&mut self, name: &GroupName) -> u32 {
        let epoch =
            self.consumers.groups.get(name).filter(|group| group.due.is_some()).map(|group| group.epoch);
        if epoch.is_some() {
            self.consumers.set_group(name, None);
        }
        epoch.unwrap_or(0)
    }
}

impl Member {
    fn told(&self, id: &Id, beat: &Beat, changed: bool) -> Beaten {
        let given = changed || beat.is_full() || beat.epoch != Some(self.epoch);
        Beaten { member: id.member.clone(), epoch: self.epoch, given: given.then(|| shares(&self.has)) }
    }
}
