//! Groups of members: who joins, syncs, leaves and dies among everything else, and what must be true of it whatever was lost on the way.
//!
//! Invariant: what a generation was given is what the first that was given anything had said, for every member of it.
//! Invariant: no offset is moved by a generation that is older than one that somebody has asked in.
//! Invariant: one that comes back under its name is given what it was given before.
//! Called by: `workload` (what is sent), `model` (what may come of it).

use crate::consumers::{self, Consumers};
use crate::model::{Check, ensure};
use crate::random::Random;
use quorate_machine::{Machine, Phase};
use quorate_types::{
    Blob, CommandBody, Commit, CommittedOffset, GroupFault, GroupName, Join, Key, MemberAnswer, MemberChange,
    Membership, Millis, Offset, OffsetCommit, Op, OpError, OpResult, StreamOffsets, StreamSettings,
};
use std::collections::{BTreeMap, BTreeSet};

/// A stream of this module's own, made and deleted now and then.
const STREAM: &str = "s/marks";
const PARTITIONS: u32 = 2;

/// What the log has made of the groups so far.
#[derive(Default)]
pub(crate) struct Members {
    marks: BTreeMap<(GroupName, Key, u32), CommittedOffset>,
    /// By group and generation: what its leader gave.
    gave: BTreeMap<(GroupName, u32), BTreeMap<Blob, Blob>>,
    /// The newest generation in which somebody has asked.
    newest: BTreeMap<GroupName, u32>,
    /// By group and name: the member that has it.
    named: BTreeMap<(GroupName, Blob), Blob>,
    /// Members that came under a name that another had.
    back: BTreeSet<Blob>,
    consumers: Consumers,
}

/// Something that a consumer may send.
pub(crate) fn act(random: &mut Random, machine: &Machine) -> CommandBody {
    if random.chance(3) {
        return consumers::act(random, machine, [STREAM, "s/plain"]);
    }
    let group = GroupName::from(["g/0", "g/1"][random.below(2) as usize]);
    let view = machine.member_group(&group);
    let members: Vec<Blob> =
        view.iter().flat_map(|view| view.members.iter().map(|member| member.member.clone())).collect();
    let generation = view.as_ref().map_or(0, |view| view.generation);
    // At times of a generation that was, or is to be.
    let generation = match random.below(8) {
        0 => generation.saturating_sub(1),
        1 => generation + 1,
        _ => generation,
    };
    let some = |random: &mut Random| match members.len() {
        0 => Blob::EMPTY,
        count => members[random.below(count as u64) as usize].clone(),
    };
    let member = some(random);
    let names = view.iter().flat_map(|view| &view.members);
    let name = names.filter(|_| random.chance(2)).find_map(|member| member.instance.clone());
    let by = Membership { generation: Some(generation), member: member.clone(), instance: name };
    let back = view.iter().flat_map(|view| &view.members).find(|member| member.instance.is_some());
    let stable = view.as_ref().is_some_and(|view| view.phase == Phase::Stable);
    let op = match random.below(20) {
        // One that was restarted comes back to a group that is at rest, and asks for what it had.
        0..=3 if stable && back.is_some() => {
            let mut change = join(random, group, Blob::EMPTY);
            if let (MemberChange::Join { join }, Some(back)) = (&mut change, back) {
                (join.instance, join.named_first) = (back.instance.clone(), false);
                join.protocols.sort();
            }
            change
        }
        4..=9 if stable => {
            let by = Membership { instance: None, ..by };
            MemberChange::Sync { group, by, agreed: None, given: Vec::new() }
        }
        0..=2 if members.len() < 4 => join(random, group, Blob::EMPTY),
        0..=6 => join(random, group, member),
        7..=10 => {
            let given = members.iter().map(|member| (member.clone(), Random::bytes(random.next(), 4).into()));
            let given = given.collect();
            MemberChange::Sync { group, by, agreed: None, given }
        }
        11 => MemberChange::Leave { group, members: vec![(member, None)] },
        12 => {
            let partitions = vec![(STREAM.into(), random.below(2) as u32)];
            if random.chance(2) {
                MemberChange::Delete { group }
            } else {
                MemberChange::Forget { group, partitions }
            }
        }
        13 => {
            let settings =
                StreamSettings { partitions: PARTITIONS, protected: true, ..StreamSettings::default() };
            let stream = Key::from(STREAM);
            let delete = machine.stream(&stream).is_some() && random.chance(4);
            let op = if delete { Op::DeleteStream { stream } } else { Op::CreateStream { stream, settings } };
            return CommandBody::Commit { commit: Commit::of(vec![op]) };
        }
        14 | 15 => {
            let lease = match random.chance(2) {
                true => machine.member_session(&group, &member).map(|(lease, _)| lease),
                false => consumers::session(machine, random),
            };
            return CommandBody::KeepAlive { leases: lease.into_iter().collect() };
        }
        _ => {
            let by = if members.is_empty() { Membership::default() } else { by };
            let mark = CommittedOffset {
                offset: Offset(random.below(100)),
                epoch: random.chance(2).then_some(1),
                metadata: Random::bytes(random.next(), 6).into(),
            };
            let partitions = vec![(random.below(3) as u32, mark)];
            let stream = [STREAM, "s/plain"][random.below(2) as usize].into();
            let offsets = vec![StreamOffsets { stream, partitions }];
            let op = Op::CommitOffsets { commit: Box::new(OffsetCommit { group, by, offsets }) };
            return CommandBody::Commit { commit: Commit::of(vec![op]) };
        }
    };
    CommandBody::Commit { commit: Commit::of(vec![Op::Member { change: Box::new(op) }]) }
}

fn join(random: &mut Random, group: GroupName, member: Blob) -> MemberChange {
    let mut protocols: Vec<(Blob, Blob)> = vec![("a".into(), "x".into()), ("b".into(), "y".into())];
    if random.chance(4) {
        protocols.swap(0, 1);
    }
    MemberChange::Join {
        join: Box::new(Join {
            group,
            member,
            instance: random.chance(3).then(|| ["i/0", "i/1"][random.below(2) as usize].into()),
            client: "c".into(),
            session: Millis(random.between(300, 3000)),
            rebalance: Millis(random.between(200, 2000)),
            kind: "consumer".into(),
            protocols,
            named_first: random.chance(4),
            ..Join::default()
        }),
    }
}

impl Members {
    /// Takes an operation that took effect: which probe it is, if it is one.
    ///
    /// # Errors
    /// It may not have come to that.
    pub(crate) fn take(&mut self, op: &Op, result: &OpResult) -> Check<Option<&'static str>> {
        match (op, result) {
            (Op::CommitOffsets { commit }, OpResult::Kept { missing }) => {
                let newest = self.newest.get(&commit.group).copied().unwrap_or(0);
                if let Some(generation) = commit.by.generation {
                    ensure!(generation >= newest, "generation {generation} moved offsets after {newest}");
                }
                self.consumers.moved(&commit.group, &commit.by)?;
                let mut place = 0;
                for of in &commit.offsets {
                    for (partition, mark) in &of.partitions {
                        if !missing.contains(&place) {
                            let at = (commit.group.clone(), of.stream.clone(), *partition);
                            self.marks.insert(at, mark.clone());
                        }
                        place += 1;
                    }
                }
                Ok(Some("groups: offsets kept"))
            }
            (Op::Member { change }, OpResult::Member { answer: MemberAnswer::Given { given } }) => {
                let MemberChange::Sync { group, by, given: said, .. } = &**change else {
                    return Err(format!("{change:?} was answered with what was given"));
                };
                self.given(group, by, said, given.as_ref())
            }
            (Op::Member { change }, OpResult::Member { answer: MemberAnswer::Joined { member, .. } }) => {
                let MemberChange::Join { join } = &**change else {
                    return Err(format!("{change:?} was answered as a join"));
                };
                Ok(self.joined(join, member))
            }
            (Op::Member { change }, OpResult::Member { answer: MemberAnswer::Beaten { beaten } }) => {
                let MemberChange::Beat { beat } = &**change else {
                    return Err(format!("{change:?} was answered as a beat"));
                };
                self.consumers.told(beat, beaten)
            }
            (Op::Member { change }, OpResult::Done {}) => {
                match &**change {
                    MemberChange::Delete { group } => {
                        self.consumers.forget(group);
                        self.named.retain(|(of, _), _| of != group);
                        self.marks.retain(|(of, ..), _| of != group);
                        self.gave.retain(|(of, _), _| of != group);
                        self.newest.remove(group);
                    }
                    MemberChange::Forget { group, partitions } => {
                        for (stream, partition) in partitions {
                            self.marks.remove(&(group.clone(), stream.clone(), *partition));
                        }
                    }
                    other => return Err(format!("{other:?} has nothing to tell")),
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// A member came in; under a name that another had, what that was given in a generation is its own.
    fn joined(&mut self, join: &Join, member: &Blob) -> Option<&'static str> {
        let name = join.instance.clone()?;
        let before = self.named.insert((join.group.clone(), name), member.clone())?;
        if before == *member {
            return None;
        }
        let of = self.gave.iter_mut().filter(|((group, _), _)| *group == join.group);
        for gave in of.map(|(_, gave)| gave) {
            if let Some(given) = gave.get(&before).cloned() {
                gave.insert(member.clone(), given);
                self.back.insert(member.clone());
            }
        }
        Some("groups: another came under a name")
    }

    fn given(
        &mut self,
        group: &GroupName,
        by: &Membership,
        said: &[(Blob, Blob)],
        given: Option<&Blob>,
    ) -> Check<Option<&'static str>> {
        let Some(generation) = by.generation else {
            return Err("who is in no generation was answered".to_owned());
        };
        let newest = self.newest.entry(group.clone()).or_default();
        ensure!(generation >= *newest, "generation {generation} was given something after {newest}");
        *newest = generation;
        let at = (group.clone(), generation);
        let Some(given) = given else {
            ensure!(!self.gave.contains_key(&at), "generation {generation} lost what it was given");
            return Ok(None);
        };
        let probe = match self.gave.contains_key(&at) {
            false => Some("groups: a generation was given"),
            true if self.back.contains(&by.member) => Some("groups: one that came back was given its own"),
            true => None,
        };
        let gave = self.gave.entry(at).or_insert_with(|| said.iter().cloned().collect());
        let wanted = gave.get(&by.member).cloned().unwrap_or_default();
        ensure!(*given == wanted, "{} was given {given}, its leader gave {wanted}", by.member);
        Ok(probe)
    }

    /// The stream is gone, and the marks in it.
    pub(crate) fn drop_stream(&mut self, stream: &Key) {
        self.marks.retain(|(_, of, _), _| of != stream);
    }

    /// Which probe a refusal is.
    pub(crate) fn refused(error: &OpError) -> Option<&'static str> {
        match error {
            OpError::Group { why: GroupFault::OtherGeneration, .. } => {
                Some("groups: another generation refused")
            }
            OpError::Group { why: GroupFault::UnknownMember, .. } => Some("groups: one that is out refused"),
            OpError::Group { why: GroupFault::Rebalancing, .. } => {
                Some("groups: told of the next generation")
            }
            OpError::Group { why: GroupFault::Fenced, .. } => {
                Some("groups: fenced off by another of its name")
            }
            OpError::Group { why: GroupFault::OtherEpoch, .. } => Some("consumers: another epoch refused"),
            OpError::Group { why: GroupFault::StaleEpoch, .. } => {
                Some("consumers: offsets of another epoch refused")
            }
            OpError::Group { why: GroupFault::Unreleased, .. } => {
                Some("consumers: a name that is another's refused")
            }
            _ => None,
        }
    }

    /// Compares a machine that has applied the same entries.
    pub(crate) fn agrees(&self, machine: &Machine) -> Check {
        let mut found = BTreeMap::new();
        let names = machine.member_groups().into_iter().map(|(group, ..)| group);
        for group in names.chain(machine.consumers_groups().into_iter().map(|(group, _)| group)) {
            for (stream, partition, mark) in machine.committed_offsets(&group) {
                found.insert((group.clone(), stream, partition), mark);
            }
        }
        self.consumers.agrees(machine)?;
        ensure!(found == self.marks, "offsets: machine {found:?}, model {:?}", self.marks);
        for (group, newest) in &self.newest {
            let generation = machine.member_group(group).map_or(0, |view| view.generation);
            ensure!(generation >= *newest, "{group} is in generation {generation}, it was in {newest}");
        }
        Ok(())
    }
}
