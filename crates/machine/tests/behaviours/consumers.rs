//! Groups whose partitions the server divides: epochs, targets, giving up before getting, static members, and who may set offsets.

use crate::common::*;
use proptest::prelude::*;
use quorate_machine::{ConsumersView, Progress};
use quorate_types::*;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "g";
const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 3_000;

/// A beat of one that joins and wants these streams.
fn joins(member: &str, names: &[&str]) -> Beat {
    Beat {
        group: GROUP.into(),
        member: member.into(),
        client: "c".into(),
        host: "/127.0.0.1".into(),
        session: Millis(SESSION_MS),
        rebalance: Some(Millis(REBALANCE_MS)),
        names: Some(names.iter().map(|name| Blob::from(*name)).collect()),
        owned: Some(vec![]),
        ..Beat::default()
    }
}

/// A beat that says nothing new.
fn beats(member: &str, epoch: u32) -> Beat {
    let plain = Beat { epoch: Some(epoch), rebalance: None, names: None, owned: None, ..Beat::default() };
    Beat {
        group: GROUP.into(),
        member: member.into(),
        client: "c".into(),
        host: "/127.0.0.1".into(),
        session: Millis(SESSION_MS),
        ..plain
    }
}

/// One that says what it has.
fn has(member: &str, epoch: u32, owned: &[(u64, &[u32])]) -> Beat {
    let owned = owned.iter().map(|(stream, parts)| (*stream, parts.to_vec())).collect();
    Beat { owned: Some(owned), ..beats(member, epoch) }
}

fn op(change: MemberChange) -> Op {
    Op::Member { change: Box::new(change) }
}

fn beat_op(beat: &Beat) -> Op {
    op(MemberChange::Beat { beat: Box::new(beat.clone()) })
}

fn part_op(member: &str, instance: Option<&str>, returns: bool) -> Op {
    let (member, instance) = (member.into(), instance.map(Blob::from));
    op(MemberChange::Part { group: GROUP.into(), member, instance, returns })
}

fn create(stream: &str, partitions: u32) -> Op {
    let settings = StreamSettings { partitions, ..StreamSettings::default() };
    Op::CreateStream { stream: stream.into(), settings }
}

trait Consumers {
    fn beat(&mut self, beat: &Beat) -> (u32, Option<Shares>);
    fn refused(&mut self, op: Op) -> GroupFault;
    fn view(&self) -> ConsumersView;
    fn number(&self, stream: &str) -> u64;
    fn owned(&self) -> Vec<usize>;
    fn commit_by(&mut self, member: &str, epoch: Option<u32>) -> Result<(), GroupFault>;
}

impl Consumers for Driver {
    #[track_caller]
    fn beat(&mut self, beat: &Beat) -> (u32, Option<Shares>) {
        match self.op(beat_op(beat)) {
            OpResult::Member { answer: MemberAnswer::Beaten { beaten } } => (beaten.epoch, beaten.given),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(&mut self, op: Op) -> GroupFault {
        match self.fails(op) {
            OpError::Group { why, .. } => why,
            other => panic!("{other}"),
        }
    }

    fn view(&self) -> ConsumersView {
        self.machine.consumers_group(&GROUP.into()).expect("the group is there")
    }

    fn number(&self, stream: &str) -> u64 {
        self.machine.stream(&stream.into()).expect("the stream is there").id.0
    }

    /// How many partitions each member has.
    fn owned(&self) -> Vec<usize> {
        let count = |shares: &Shares| shares.iter().map(|(_, each)| each.len()).sum();
        self.view().members.iter().map(|member| count(&member.has)).collect()
    }

    fn commit_by(&mut self, member: &str, epoch: Option<u32>) -> Result<(), GroupFault> {
        let mark = CommittedOffset { offset: Offset(1), ..CommittedOffset::default() };
        let offsets = vec![StreamOffsets { stream: "s".into(), partitions: vec![(0, mark)] }];
        let by = Membership { generation: epoch, member: member.into(), instance: None };
        let commit = Box::new(OffsetCommit { group: GROUP.into(), by, offsets });
        match self.commit(Commit::of(vec![Op::CommitOffsets { commit }])) {
            Ok(_) => Ok(()),
            Err(Refusal::Operation { error: OpError::Group { why, .. }, .. }) => Err(why),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A stream of four partitions, and its number.
fn with_stream() -> (Driver, u64) {
    let mut d = Driver::new();
    d.op(create("s", 4));
    let s = d.number("s");
    (d, s)
}

#[test]
fn a_partition_is_let_go_before_another_has_it() {
    let (mut d, s) = with_stream();
    assert_eq!(d.beat(&joins("a", &["s"])), (1, Some(vec![(s, vec![0, 1, 2, 3])])));
    // The second is in, and has nothing while the first has not let go.
    assert_eq!(d.beat(&joins("b", &["s"])), (2, Some(vec![])));
    assert_eq!((d.view().progress, d.owned()), (Progress::Reconciling, vec![4, 0]));
    // The first is told at its next beat, stays in its epoch, and keeps what it was told to keep.
    assert_eq!(d.beat(&beats("a", 1)), (1, Some(vec![(s, vec![0, 1])])));
    assert_eq!(d.beat(&beats("b", 2)), (2, None));
    assert_eq!(d.beat(&has("a", 1, &[(s, &[0, 1, 3])])), (1, None), "it has one of them still");
    assert_eq!(d.beat(&beats("b", 2)), (2, None));
    // It has let go: it is in the new epoch, and the other gets them with its next beat.
    assert_eq!(d.beat(&has("a", 1, &[(s, &[0, 1])])), (2, Some(vec![(s, vec![0, 1])])));
    assert_eq!(d.beat(&beats("b", 2)), (2, Some(vec![(s, vec![2, 3])])));
    assert_eq!((d.view().progress, d.owned()), (Progress::Stable, vec![2, 2]));
    // One that leaves gives all back.
    d.op(part_op("b", None, false));
    assert_eq!(d.view().progress, Progress::Assigning);
    assert_eq!(d.beat(&beats("a", 2)), (3, Some(vec![(s, vec![0, 1, 2, 3])])));
}

#[test]
fn a_beat_that_changes_nothing_is_a_keep_alive() {
    let (mut d, s) = with_stream();
    d.beat(&joins("a", &["s"]));
    let (lease, told) = d.machine.beat_alone(&beats("a", 1)).unwrap().expect("nothing changes");
    assert_eq!((told.epoch, told.given), (1, None));
    let full = Beat { epoch: Some(1), owned: Some(vec![(s, vec![0, 1, 2, 3])]), ..joins("a", &["s"]) };
    let told = d.machine.beat_alone(&full).unwrap().expect("nothing changes").1;
    assert_eq!(told.given, Some(vec![(s, vec![0, 1, 2, 3])]), "who says all is told all");
    for _ in 0..3 {
        d.sleep(SESSION_MS - 1);
        d.send(CommandBody::KeepAlive { leases: vec![lease] });
    }
    assert_eq!(d.owned(), [4]);
    // What changes something has to be logged.
    for beat in [
        joins("a", &["s"]),
        joins("b", &["s"]),
        Beat { names: Some(vec!["t".into()]), ..beats("a", 1) },
        Beat { assignor: Some(Assignor::Range), ..beats("a", 1) },
        Beat { session: Millis(SESSION_MS + 1), ..beats("a", 1) },
    ] {
        assert_eq!(d.machine.beat_alone(&beat), Ok(None), "{beat:?}");
    }
    let settings = StreamSettings { partitions: 5, ..StreamSettings::default() };
    d.op(Op::AlterStream { stream: "s".into(), settings });
    assert_eq!(d.machine.beat_alone(&beats("a", 1)), Ok(None), "there is more to read");
    assert_eq!(d.beat(&beats("a", 1)), (2, Some(vec![(s, vec![0, 1, 2, 3, 4])])));
    d.sleep(SESSION_MS);
    assert_eq!(d.view().progress, Progress::Empty);
    assert_eq!(d.machine.beat_alone(&beats("a", 2)), Err(GroupFault::UnknownMember));
}

#[test]
fn who_does_not_let_go_in_time_is_out() {
    let (mut d, s) = with_stream();
    d.beat(&joins("a", &["s"]));
    d.beat(&joins("b", &["s"]));
    d.beat(&beats("a", 1));
    d.sleep(REBALANCE_MS - 1);
    d.beat(&beats("a", 1));
    assert_eq!(d.owned(), [2, 0], "beats alone are no letting go");
    d.sleep(1);
    assert_eq!(d.refused(beat_op(&beats("a", 1))), GroupFault::UnknownMember);
    assert_eq!(d.beat(&beats("b", 2)), (3, Some(vec![(s, vec![0, 1, 2, 3])])));
}

#[test]
fn a_lost_answer_is_told_again_and_other_epochs_are_fenced() {
    let (mut d, s) = with_stream();
    d.beat(&joins("a", &["s"]));
    d.beat(&joins("b", &["s"]));
    d.beat(&beats("a", 1));
    d.beat(&has("a", 1, &[(s, &[0, 1])]));
    // That answer was lost: it is in epoch 1, as far as it knows.
    assert_eq!(d.beat(&has("a", 1, &[(s, &[0, 1])])), (2, Some(vec![(s, vec![0, 1])])));
    let bad = [has("a", 1, &[(s, &[0, 2])]), has("a", 0, &[(s, &[0, 1])])];
    for bad in [beats("a", 1), beats("a", 0), beats("a", 3)].into_iter().chain(bad) {
        assert_eq!(d.refused(beat_op(&bad)), GroupFault::OtherEpoch, "{bad:?}");
    }
    assert_eq!(d.refused(beat_op(&beats("x", 1))), GroupFault::UnknownMember);
    // Who gives all up joins again under its id, to what it had.
    assert_eq!(d.beat(&joins("a", &["s"])), (2, Some(vec![(s, vec![0, 1])])));
}

#[test]
fn only_a_member_in_its_epoch_moves_offsets() {
    let (mut d, _) = with_stream();
    assert_eq!(d.commit_by("", None), Ok(()), "nobody is in");
    d.beat(&joins("a", &["s"]));
    assert_eq!(d.commit_by("", None), Err(GroupFault::UnknownMember));
    assert_eq!(d.commit_by("x", Some(1)), Err(GroupFault::UnknownMember));
    for epoch in [0, 2] {
        assert_eq!(d.commit_by("a", Some(epoch)), Err(GroupFault::StaleEpoch));
    }
    assert_eq!(d.commit_by("a", Some(1)), Ok(()));
    let may =
        |d: &Driver, member: &str, epoch| d.machine.may_fetch_offsets(&GROUP.into(), &member.into(), epoch);
    assert_eq!(may(&d, "a", 1), Ok(()));
    assert_eq!(may(&d, "a", 2), Err(GroupFault::StaleEpoch));
    assert_eq!(may(&d, "x", 1), Err(GroupFault::UnknownMember));
    // Who commits is alive.
    d.sleep(SESSION_MS - 1);
    assert_eq!(d.commit_by("a", Some(1)), Ok(()));
    d.sleep(SESSION_MS - 1);
    assert_eq!(d.owned(), [4]);
    d.sleep(1);
    assert_eq!(d.commit_by("", None), Ok(()), "nobody is in any more");
}

#[test]
fn offsets_of_what_nobody_wants_may_be_forgotten_while_somebody_is_in() {
    let (mut d, _) = with_stream();
    d.op(create("t", 1));
    let forget =
        |stream: &str| op(MemberChange::Forget { group: GROUP.into(), partitions: vec![(stream.into(), 0)] });
    d.beat(&joins("a", &["s", "t"]));
    d.commit_by("a", Some(1)).unwrap();
    assert_eq!(d.refused(forget("s")), GroupFault::Subscribed);
    let (epoch, _) = d.beat(&Beat { names: Some(vec!["t".into()]), owned: Some(vec![]), ..beats("a", 1) });
    assert_eq!(d.refused(forget("t")), GroupFault::Subscribed);
    assert_eq!(d.machine.committed_offsets(&GROUP.into()).len(), 1);
    d.op(forget("s"));
    assert_eq!(d.machine.committed_offsets(&GROUP.into()), vec![]);
    assert_eq!(d.commit_by("a", Some(epoch)), Ok(()), "it is in all the same");
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let (mut d, s) = with_stream();
    let named =
        |member: &str, instance: &str| Beat { instance: Some(instance.into()), ..joins(member, &["s"]) };
    d.beat(&named("a", "one"));
    d.beat(&named("b", "two"));
    d.beat(&beats("a", 1));
    d.beat(&has("a", 1, &[(s, &[0, 1])]));
    d.beat(&beats("b", 2));
    assert_eq!(d.refused(beat_op(&named("x", "one"))), GroupFault::Unreleased);
    let fenced = Beat { instance: Some("one".into()), ..beats("b", 2) };
    assert_eq!(d.refused(beat_op(&fenced)), GroupFault::Fenced);
    let stranger = Beat { instance: Some("three".into()), ..beats("b", 2) };
    assert_eq!(d.refused(beat_op(&stranger)), GroupFault::UnknownMember);
    // It is away: nobody gets what it had, and the others are told nothing.
    d.op(part_op("a", Some("one"), true));
    assert_eq!(d.refused(beat_op(&beats("a", 2))), GroupFault::OtherEpoch);
    assert_eq!(d.commit_by("a", Some(2)), Err(GroupFault::StaleEpoch));
    d.sleep(SESSION_MS - 1);
    let (lease, _) = d.machine.beat_alone(&beats("b", 2)).unwrap().expect("nothing changes for the other");
    d.send(CommandBody::KeepAlive { leases: vec![lease] });
    assert_eq!(d.beat(&named("c", "one")), (2, Some(vec![(s, vec![0, 1])])));
    assert_eq!(d.refused(beat_op(&beats("a", 2))), GroupFault::UnknownMember);
    assert!(d.machine.beat_alone(&beats("b", 2)).unwrap().is_some());
    // One that does not come back is out when its session ends.
    d.op(part_op("c", Some("one"), true));
    d.sleep(SESSION_MS - 1);
    d.send(CommandBody::KeepAlive { leases: vec![lease] });
    d.sleep(1);
    assert_eq!(d.beat(&beats("b", 2)), (3, Some(vec![(s, vec![0, 1, 2, 3])])));
    // And one without a name does not stay behind.
    d.beat(&joins("z", &["s"]));
    d.op(part_op("z", None, true));
    assert_eq!(d.owned(), [4]);
}

#[test]
fn a_group_is_of_one_kind_while_somebody_is_in() {
    let (mut d, s) = with_stream();
    let join = Join {
        group: GROUP.into(),
        session: Millis(SESSION_MS),
        rebalance: Millis(REBALANCE_MS),
        kind: "consumer".into(),
        protocols: vec![("range".into(), "x".into())],
        ..Join::default()
    };
    let join = |d: &mut Driver| {
        let result = d.op(op(MemberChange::Join { join: Box::new(join.clone()) }));
        let OpResult::Member { answer: MemberAnswer::Joined { member, .. } } = result else {
            panic!("{result:?}")
        };
        member
    };
    let member = join(&mut d);
    d.sleep(100);
    assert_eq!(d.refused(beat_op(&joins("a", &["s"]))), GroupFault::Missing);
    d.op(op(MemberChange::Leave { group: GROUP.into(), members: vec![(member, None)] }));
    let generation = d.machine.member_group(&GROUP.into()).unwrap().generation;
    assert_eq!(d.beat(&joins("a", &["s"])), (generation + 1, Some(vec![(s, vec![0, 1, 2, 3])])));
    assert_eq!(d.machine.member_group(&GROUP.into()), None);
    assert_eq!(d.machine.member_groups(), vec![]);
    let other = Join { group: GROUP.into(), kind: "consumer".into(), ..Join::default() };
    let other = Join {
        session: Millis(SESSION_MS),
        rebalance: Millis(1),
        protocols: vec![("a".into(), "".into())],
        ..other
    };
    assert_eq!(d.refused(op(MemberChange::Join { join: Box::new(other) })), GroupFault::Inconsistent);
    let delete = || op(MemberChange::Delete { group: GROUP.into() });
    assert_eq!(d.refused(delete()), GroupFault::NotEmpty);
    d.commit_by("a", Some(generation + 1)).unwrap();
    d.op(part_op("a", None, false));
    join(&mut d);
    d.sleep(100);
    let view = d.machine.member_group(&GROUP.into()).unwrap();
    assert!(view.generation > generation + 1, "generations go on from epochs: {view:?}");
    assert_eq!(d.machine.consumers_group(&GROUP.into()), None);
    assert_eq!(d.machine.committed_offsets(&GROUP.into()).len(), 1, "offsets are the name's");
}

#[test]
fn an_empty_group_is_forgotten_or_deleted() {
    let (mut d, _) = with_stream();
    d.beat(&joins("a", &["s"]));
    d.op(part_op("a", None, false));
    d.op(op(MemberChange::Delete { group: GROUP.into() }));
    assert_eq!(d.machine.consumers_groups(), vec![]);
    d.beat(&joins("a", &["s"]));
    d.commit_by("a", Some(1)).unwrap();
    d.op(part_op("a", None, false));
    let week = 7 * 24 * 3600 * 1000;
    d.sleep(week - 1);
    assert_eq!(d.machine.consumers_groups(), vec![(GROUP.into(), Progress::Empty)]);
    d.sleep(1);
    assert_eq!(d.machine.consumers_groups(), vec![]);
    assert_eq!(d.machine.committed_offsets(&GROUP.into()), vec![]);
}

#[test]
fn an_expression_counts_by_what_it_matches() {
    let (mut d, s) = with_stream();
    let by = |regex: &str, matched: &[&str]| Beat {
        names: None,
        regex: Some(regex.into()),
        matched: Some(matched.iter().map(|name| Blob::from(*name)).collect()),
        ..joins("a", &[])
    };
    assert_eq!(d.beat(&by("s|t", &["s"])), (1, Some(vec![(s, vec![0, 1, 2, 3])])));
    assert_eq!(d.machine.consumer_regex(&GROUP.into(), &"a".into()), Some(("s|t".into(), vec!["s".into()])));
    d.op(create("t", 1));
    let t = d.number("t");
    let more = Beat { matched: Some(vec!["t".into(), "s".into()]), ..beats("a", 1) };
    assert_eq!(d.machine.beat_alone(&more), Ok(None));
    assert_eq!(d.beat(&more), (2, Some(vec![(s, vec![0, 1, 2, 3]), (t, vec![0])])));
    // Without an expression nothing matches.
    let none = Beat { regex: Some(Blob::EMPTY), names: Some(vec!["t".into()]), ..beats("a", 2) };
    assert_eq!(d.beat(&none), (2, Some(vec![(t, vec![0])])), "it is to let go of the other");
    assert_eq!(d.machine.consumer_regex(&GROUP.into(), &"a".into()), None);
}

#[test]
fn a_group_has_bounds() {
    let mut d = Driver::new();
    let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    for name in &names {
        d.op(create(name, 4096));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(d.refused(beat_op(&joins("a", &names))), GroupFault::Full);
    d.beat(&joins("a", &names[..4]));
    assert_eq!(d.refused(beat_op(&joins("b", &names[3..]))), GroupFault::Full);
    d.beat(&joins("b", &names[..1]));
}

#[test]
fn a_refused_commit_takes_back_what_beats_did() {
    let (mut d, s) = with_stream();
    let bad = || Op::LeaseKeepAlive { lease: LeaseId(99) };
    let named = Beat { instance: Some("one".into()), ..joins("a", &["s"]) };
    // The driver compares the state to the byte, and `check` compares every index.
    assert!(d.commit(Commit::of(vec![beat_op(&named), beat_op(&joins("b", &["s"])), bad()])).is_err());
    d.beat(&named);
    d.beat(&joins("b", &["s"]));
    d.beat(&beats("a", 1));
    let back = Beat { instance: Some("one".into()), ..joins("c", &["s"]) };
    for ops in [
        vec![beat_op(&has("a", 1, &[(s, &[0, 1])])), beat_op(&beats("b", 2)), bad()],
        vec![part_op("a", Some("one"), true), beat_op(&back), beat_op(&beats("b", 2)), bad()],
        vec![
            part_op("a", None, false),
            part_op("b", None, false),
            op(MemberChange::Delete { group: GROUP.into() }),
            bad(),
        ],
    ] {
        assert!(d.commit(Commit::of(ops)).is_err());
    }
    assert_eq!(d.beat(&has("a", 1, &[(s, &[0, 1])])), (2, Some(vec![(s, vec![0, 1])])));
}

/// A client of the story below: what it takes itself to have, and what it was told.
#[derive(Default)]
struct Client {
    member: String,
    instance: Option<&'static str>,
    epoch: Option<u32>,
    wants: BTreeSet<&'static str>,
    has: BTreeSet<(u64, u32)>,
    told: BTreeSet<(u64, u32)>,
    /// Its last beat had no answer. It said what it had, so it begins nothing that it was told of before, until it has one: the protocol has no
    /// word for "what you told me, and I have not begun".
    unanswered: bool,
}

const STREAMS: [&str; 3] = ["s", "t", "u"];

#[derive(Clone, Debug)]
enum Act {
    Beat {
        client: usize,
        lost: bool,
    },
    /// Lets go of what it is not to have, and begins to read what it is to have.
    Follow {
        client: usize,
    },
    Kill {
        client: usize,
    },
    Leave {
        client: usize,
    },
    Want {
        client: usize,
        stream: usize,
    },
    Sleep {
        ms: u64,
    },
    Grow {
        stream: usize,
    },
    Drop {
        stream: usize,
    },
    Restore,
}

fn act() -> impl Strategy<Value = Act> {
    let client = 0usize..4;
    let stream = 0usize..3;
    prop_oneof![
        12 => (client.clone(), prop::bool::weighted(0.2)).prop_map(|(client, lost)| Act::Beat { client, lost }),
        8 => client.clone().prop_map(|client| Act::Follow { client }),
        1 => client.clone().prop_map(|client| Act::Kill { client }),
        1 => client.clone().prop_map(|client| Act::Leave { client }),
        2 => (client, stream.clone()).prop_map(|(client, stream)| Act::Want { client, stream }),
        3 => (1u64..5000).prop_map(|ms| Act::Sleep { ms }),
        2 => stream.clone().prop_map(|stream| Act::Grow { stream }),
        1 => stream.prop_map(|stream| Act::Drop { stream }),
        1 => Just(Act::Restore),
    ]
}

struct Story {
    d: Driver,
    clients: Vec<Client>,
    born: u32,
    assignor: Assignor,
    /// The newest epoch of the group, and of each member.
    epochs: BTreeMap<String, u32>,
}

impl Story {
    fn new(assignor: Assignor) -> Self {
        let mut d = Driver::new();
        d.op(create("s", 3));
        let mut story = Self { d, clients: vec![], born: 0, assignor, epochs: BTreeMap::new() };
        for number in 0..4 {
            let client = story.client([None, Some("one"), None, Some("two")][number]);
            story.clients.push(client);
        }
        story
    }

    fn client(&mut self, instance: Option<&'static str>) -> Client {
        self.born += 1;
        Client {
            member: format!("m{}", self.born),
            instance,
            wants: BTreeSet::from(["s"]),
            ..Client::default()
        }
    }

    fn beat(&mut self, number: usize, lost: bool) {
        let client = &mut self.clients[number];
        if client.epoch.is_none() {
            client.has.clear();
        }
        let mut owned: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (stream, partition) in &client.has {
            owned.entry(*stream).or_default().push(*partition);
        }
        let names: Vec<&str> = client.wants.iter().copied().collect();
        let beat = Beat {
            epoch: client.epoch,
            instance: client.instance.map(Blob::from),
            owned: Some(owned.into_iter().collect()),
            assignor: Some(self.assignor),
            ..joins(&client.member, &names)
        };
        let alone = self.d.machine.beat_alone(&beat);
        let before = self.d.machine.consumers_group(&GROUP.into());
        let told = match self.d.commit(Commit::of(vec![beat_op(&beat)])) {
            Ok(committed) => match committed.results.into_iter().next() {
                Some(OpResult::Member { answer: MemberAnswer::Beaten { beaten } }) => Ok(beaten),
                other => panic!("{other:?}"),
            },
            Err(Refusal::Operation { error: OpError::Group { why, .. }, .. }) => Err(why),
            Err(other) => panic!("{other}"),
        };
        match alone {
            Ok(Some((_, alone))) => {
                assert_eq!(told.as_ref(), Ok(&alone), "a keep-alive would have said the same");
                assert_eq!(self.d.machine.consumers_group(&GROUP.into()), before, "and changed as little");
            }
            Ok(None) => {}
            Err(fault) => assert_eq!(told, Err(fault)),
        }
        let client = &mut self.clients[number];
        client.unanswered = false;
        match told {
            _ if lost => client.unanswered = true,
            Ok(told) => {
                client.epoch = Some(told.epoch);
                if let Some(given) = told.given {
                    let each = given.into_iter().flat_map(|(s, each)| each.into_iter().map(move |p| (s, p)));
                    client.told = each.collect();
                }
            }
            Err(GroupFault::Unreleased) => {}
            Err(GroupFault::UnknownMember | GroupFault::OtherEpoch | GroupFault::Fenced) => {
                (client.epoch, client.has, client.told) = (None, BTreeSet::new(), BTreeSet::new());
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Beat { client, lost } => self.beat(*client, *lost),
            Act::Follow { client } => {
                let client = &mut self.clients[*client];
                if !client.unanswered {
                    client.has = client.told.clone();
                }
            }
            Act::Kill { client } => {
                let next = self.client(self.clients[*client].instance);
                self.clients[*client] = next;
            }
            Act::Leave { client: number } => {
                let client = &self.clients[*number];
                let part = part_op(&client.member, client.instance, client.instance.is_some());
                let _ = self.d.commit(Commit::of(vec![part]));
                let next = self.client(client.instance);
                self.clients[*number] = next;
            }
            Act::Want { client, stream } => {
                let wants = &mut self.clients[*client].wants;
                if !wants.insert(STREAMS[*stream]) && wants.len() > 1 {
                    wants.remove(STREAMS[*stream]);
                }
            }
            Act::Sleep { ms } => drop(self.d.sleep(*ms)),
            Act::Grow { stream } => {
                let name = STREAMS[*stream];
                match self.d.machine.stream(&name.into()) {
                    Some(view) => {
                        let settings =
                            StreamSettings { partitions: view.settings.partitions + 1, ..view.settings };
                        self.d.op(Op::AlterStream { stream: name.into(), settings });
                    }
                    None => drop(self.d.op(create(name, 2))),
                }
            }
            Act::Drop { stream } => {
                let stream = STREAMS[*stream].into();
                if self.d.machine.stream(&stream).is_some() {
                    self.d.op(Op::DeleteStream { stream });
                }
            }
            Act::Restore => self.d.restore_both(),
        }
        self.check();
    }

    /// What must hold at any time, whatever was lost.
    fn check(&mut self) {
        let Some(view) = self.d.machine.consumers_group(&GROUP.into()) else { return };
        let mut owners: BTreeMap<(u64, u32), Blob> = BTreeMap::new();
        for member in &view.members {
            let all = member.has.iter().chain(&member.giving_up);
            let all: BTreeSet<(u64, u32)> =
                all.flat_map(|(s, each)| each.iter().map(move |p| (*s, *p))).collect();
            for part in &all {
                let other = owners.insert(*part, member.member.clone());
                assert_eq!(other, None, "{part:?} is had by {} too", member.member);
            }
            let client =
                self.clients.iter().find(|client| member.member == Blob::from(client.member.as_str()));
            if let Some(client) = client {
                assert!(
                    client.has.is_subset(&all),
                    "{} reads what is another's: {:?}, {all:?}",
                    client.member,
                    client.has
                );
            }
            let newest = self.epochs.entry(member.member.to_string()).or_default();
            assert!(member.epoch >= *newest, "{} went back from {newest} to {}", member.member, member.epoch);
            *newest = member.epoch;
        }
        let newest = self.epochs.entry(GROUP.into()).or_default();
        assert!(view.epoch >= *newest, "the group went back from {newest} to {}", view.epoch);
        *newest = view.epoch;
    }

    /// Everybody beats and does as it is told: in the end all is read, by one each.
    fn settle(&mut self) {
        // Those who were killed are out after their session; who lives beats all the while.
        for _ in 0..20 {
            self.act(&Act::Sleep { ms: SESSION_MS / 10 });
            for client in 0..self.clients.len() {
                self.act(&Act::Beat { client, lost: false });
                self.act(&Act::Follow { client });
            }
        }
        let view = self.d.view();
        assert_eq!(view.progress, Progress::Stable, "{view:?}");
        let mut wanted = BTreeSet::new();
        for name in self.clients.iter().flat_map(|client| &client.wants) {
            if let Some(found) = self.d.machine.stream(&(*name).into()) {
                wanted.extend((0..found.settings.partitions).map(|partition| (found.id.0, partition)));
            }
        }
        let read: Vec<(u64, u32)> =
            self.clients.iter().flat_map(|client| client.has.iter().copied()).collect();
        assert_eq!(read.len(), wanted.len());
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), wanted, "all is read, by one each");
        let same = self.clients.iter().all(|client| client.wants == self.clients[0].wants);
        if same && self.assignor == Assignor::Uniform {
            let counts: Vec<usize> = self.clients.iter().map(|client| client.has.len()).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_read_by_two_and_in_the_end_all_is_read(acts in prop::collection::vec(act(), 1..80), ranges: bool) {
        let mut story = Story::new(if ranges { Assignor::Range } else { Assignor::Uniform });
        for act in &acts {
            story.act(act);
        }
        story.settle();
    }
}
