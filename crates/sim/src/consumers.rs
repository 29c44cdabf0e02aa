//! Groups that the server divides: members who beat, let go, leave and come back among everything else, and what must be true of it whatever was
//! lost on the way.
//!
//! Invariant: whatever a member may be reading by what it was told, and has not said that it let go, is its own by the machine's word, and nobody's else.
//! Invariant: a member's epoch is the one that it was told last; no offset is moved in another, and none goes back.
//! Called by: `members` (what is sent), `model` through it (what may come of it).

use crate::model::{Check, ensure};
use crate::random::Random;
use quorate_machine::{ConsumerView, Machine};
use quorate_types::{
    Assignor, Beat, Beaten, Blob, CommandBody, Commit, CommittedOffset, GroupName, LeaseId, MemberChange,
    Membership, Millis, Offset, OffsetCommit, Op, Shares, StreamOffsets,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long one that has beaten may be silent.
const SESSION: Millis = Millis(1500);

type Parts = BTreeSet<(u64, u32)>;

/// What the log has made of these groups so far.
#[derive(Default)]
pub(crate) struct Consumers {
    /// By group and member: what it may be reading, what it was told last to have, and in which epoch.
    members: BTreeMap<(GroupName, Blob), (Parts, Parts, u32)>,
    /// The newest epoch that somebody was told.
    newest: BTreeMap<GroupName, u32>,
}

fn parts(shares: &Shares) -> Parts {
    shares.iter().flat_map(|(stream, each)| each.iter().map(|partition| (*stream, *partition))).collect()
}

/// Something that such a consumer may send.
pub(crate) fn act(random: &mut Random, machine: &Machine, streams: [&str; 2]) -> CommandBody {
    let group = GroupName::from(["c/0", "c/1"][random.below(2) as usize]);
    let members = machine.consumers_group(&group).map_or(Vec::new(), |view| view.members);
    let some = match members.len() {
        0 => None,
        count => Some(&members[random.below(count as u64) as usize]),
    };
    let change = match (random.below(16), some) {
        (0..=1, _) | (_, None) if members.len() < 5 => {
            MemberChange::Beat { beat: joins(random, group, streams) }
        }
        (0..=10, Some(member)) => MemberChange::Beat { beat: beats(random, group, member, streams) },
        (11, Some(member)) => {
            let returns = random.chance(2);
            let (member, instance) = (member.member.clone(), member.instance.clone());
            MemberChange::Part { group, member, instance, returns }
        }
        (12, _) => MemberChange::Delete { group },
        (_, member) => {
            let generation = member.map(|member| member.epoch + u32::from(random.chance(8)));
            let by = member.map_or(Blob::EMPTY, |member| member.member.clone());
            let by = Membership { generation, member: by, instance: None };
            let mark = CommittedOffset { offset: Offset(random.below(100)), ..CommittedOffset::default() };
            let stream = streams[random.below(2) as usize].into();
            let offsets = vec![StreamOffsets { stream, partitions: vec![(random.below(2) as u32, mark)] }];
            let op = Op::CommitOffsets { commit: Box::new(OffsetCommit { group, by, offsets }) };
            return CommandBody::Commit { commit: Commit::of(vec![op]) };
        }
    };
    CommandBody::Commit { commit: Commit::of(vec![Op::Member { change: Box::new(change) }]) }
}

/// The session of some member, to be kept alive.
pub(crate) fn session(machine: &Machine, random: &mut Random) -> Option<LeaseId> {
    let group = GroupName::from(["c/0", "c/1"][random.below(2) as usize]);
    let view = machine.consumers_group(&group)?;
    let member = view.members.get(random.below(view.members.len().max(1) as u64) as usize)?;
    let (member, epoch) = (member.member.clone(), Some(member.epoch));
    let beat = Beat { group, member, epoch, session: SESSION, ..Beat::default() };
    machine.beat_alone(&beat).ok().flatten().map(|(lease, _)| lease)
}

fn joins(random: &mut Random, group: GroupName, streams: [&str; 2]) -> Box<Beat> {
    let mut names: Vec<Blob> = streams.iter().map(|name| Blob::from(*name)).collect();
    names.truncate(random.between(1, 2) as usize);
    Box::new(Beat {
        group,
        member: format!("m{}", random.below(1000)).into(),
        instance: random.chance(2).then(|| ["i/0", "i/1", "i/2"][random.below(3) as usize].into()),
        session: Millis(random.between(300, 3000)),
        rebalance: Some(Millis(random.between(200, 2000))),
        names: Some(names),
        assignor: random.chance(2).then_some(Assignor::Range),
        owned: Some(Vec::new()),
        ..Beat::default()
    })
}

/// One that has let go of what it is to let go of, or has not, or says nothing of it; sometimes in another epoch, or with other wishes.
fn beats(random: &mut Random, group: GroupName, of: &ConsumerView, streams: [&str; 2]) -> Box<Beat> {
    let mut beat = joins(random, group, streams);
    (beat.member, beat.instance) = (of.member.clone(), of.instance.clone().filter(|_| random.chance(2)));
    let epoch = match random.below(12) {
        0 => of.epoch.saturating_sub(1),
        1 => of.epoch + 1,
        _ => of.epoch,
    };
    beat.epoch = (epoch > 0 && !random.chance(12)).then_some(epoch);
    if !random.chance(6) {
        (beat.names, beat.rebalance, beat.assignor) = (None, None, None);
    }
    beat.session = SESSION;
    beat.owned = match random.below(3) {
        0 => None,
        1 => Some(of.has.iter().chain(&of.giving_up).cloned().collect()),
        _ => Some(of.has.clone()),
    };
    beat
}

impl Consumers {
    /// Takes a beat that was answered: which probe it is, if it is one.
    ///
    /// # Errors
    /// It may not have been answered so.
    pub(crate) fn told(&mut self, beat: &Beat, told: &Beaten) -> Check<Option<&'static str>> {
        let at = (beat.group.clone(), told.member.clone());
        let newest = self.newest.entry(beat.group.clone()).or_default();
        *newest = told.epoch.max(*newest);
        let before = self.members.remove(&at);
        let joins = beat.epoch.is_none();
        let (mut reads, mut wanted, epoch) = before.filter(|_| !joins).unwrap_or_default();
        ensure!(told.epoch >= epoch, "{} was told epoch {} after {epoch}", told.member, told.epoch);
        if let Some(owned) = &beat.owned {
            let owned = parts(owned);
            reads.retain(|part| owned.contains(part));
        }
        let mut probe = None;
        if let Some(given) = &told.given {
            let given = parts(given);
            probe = match (given.is_subset(&wanted), wanted.is_subset(&given)) {
                (true, false) => Some("consumers: told to let go"),
                (false, _) if !joins => Some("consumers: given what another let go of"),
                _ => None,
            };
            wanted = given;
        }
        reads.extend(&wanted);
        self.members.insert(at, (reads, wanted, told.epoch));
        let back =
            joins && beat.instance.is_some() && told.given.as_ref().is_some_and(|given| !given.is_empty());
        Ok(probe.or(back.then_some("consumers: one with a name has its own at once")))
    }

    /// A member moved offsets.
    ///
    /// # Errors
    /// It is in another epoch by what it was told.
    pub(crate) fn moved(&self, group: &GroupName, by: &Membership) -> Check {
        if let (Some(epoch), Some((.., told))) =
            (by.generation, self.members.get(&(group.clone(), by.member.clone())))
        {
            ensure!(epoch == *told, "{} moved offsets in epoch {epoch}, it is in {told}", by.member);
        }
        Ok(())
    }

    pub(crate) fn forget(&mut self, group: &GroupName) {
        self.members.retain(|(of, _), _| of != group);
        self.newest.remove(group);
    }

    /// Compares a machine that has applied the same entries.
    pub(crate) fn agrees(&self, machine: &Machine) -> Check {
        for (group, _) in machine.consumers_groups() {
            let Some(view) = machine.consumers_group(&group) else { continue };
            let newest = self.newest.get(&group).copied().unwrap_or_default();
            ensure!(view.epoch >= newest, "{group} is in epoch {}, it was in {newest}", view.epoch);
            let mut owners: BTreeMap<(u64, u32), Blob> = BTreeMap::new();
            for member in &view.members {
                let (has, giving_up) = (parts(&member.has), parts(&member.giving_up));
                for part in has.union(&giving_up) {
                    let other = owners.insert(*part, member.member.clone());
                    ensure!(other.is_none(), "{part:?} of {group} is had by {other:?} and {}", member.member);
                }
                // One that is away reads nothing, and what it has waits for it.
                let Some((reads, ..)) = self.members.get(&(group.clone(), member.member.clone())) else {
                    continue;
                };
                let own = |part: &(u64, u32)| has.contains(part) || giving_up.contains(part);
                ensure!(
                    member.away || reads.iter().all(own),
                    "{} of {group} may read {reads:?}, it has {has:?} and gives up {giving_up:?}",
                    member.member
                );
            }
        }
        Ok(())
    }
}
