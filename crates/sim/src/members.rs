//! Groups of members: who joins, syncs, leaves and dies among everything else, and what must be true of it whatever was lost on the way.
//!
//! Invariant: what a generation was given is what the first that was given anything had said, for every member of it.
//! Invariant: no offset is moved by a generation that is older than one that somebody has asked in.
//! Called by: `workload` (what is sent), `model` (what may come of it).

use crate::model::{Check, ensure};
use crate::random::Random;
use quorate_machine::Machine;
use quorate_types::{
    Blob, CommandBody, Commit, CommittedOffset, GroupFault, GroupName, Join, Key, MemberAnswer, MemberChange,
    Membership, Millis, Offset, OffsetCommit, Op, OpError, OpResult, StreamOffsets, StreamSettings,
};
use std::collections::BTreeMap;

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
}

/// Something that a consumer may send.
pub(crate) fn act(random: &mut Random, machine: &Machine) -> CommandBody {
    let group = GroupName::from(["g/0", "g/1"][random.below(2) as usize]);
    let view = machine.member_group(&group);
    let members: Vec<Blob> =
        view.iter().flat_map(|view| view.members.iter().map(|member| member.member.clone())).collect();
    let generation = view.map_or(0, |view| view.generation);
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
    let by = Membership { generation: Some(generation), member: member.clone(), instance: None };
    let op = match random.below(20) {
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
            let lease = machine.member_session(&group, &member).map(|(lease, _)| lease);
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
            (Op::Member { change }, OpResult::Done {}) => {
                match &**change {
                    MemberChange::Delete { group } => {
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
        let probe = if self.gave.contains_key(&at) { None } else { Some("groups: a generation was given") };
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
            _ => None,
        }
    }

    /// Compares a machine that has applied the same entries.
    pub(crate) fn agrees(&self, machine: &Machine) -> Check {
        let mut found = BTreeMap::new();
        for (group, ..) in machine.member_groups() {
            for (stream, partition, mark) in machine.committed_offsets(&group) {
                found.insert((group.clone(), stream, partition), mark);
            }
        }
        ensure!(found == self.marks, "offsets: machine {found:?}, model {:?}", self.marks);
        for (group, newest) in &self.newest {
            let generation = machine.member_group(group).map_or(0, |view| view.generation);
            ensure!(generation >= *newest, "{group} is in generation {generation}, it was in {newest}");
        }
        Ok(())
    }
}
