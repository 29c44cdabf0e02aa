//! Groups whose members divide partitions: generations, sessions, static members, and the offsets that only the present generation moves.

use crate::common::*;
use quorate_machine::{Phase, Standing};
use quorate_types::*;

const GROUP: &str = "g";
const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 30_000;

fn join_of(member: &Blob) -> Join {
    Join {
        group: GROUP.into(),
        member: member.clone(),
        client: "c".into(),
        host: "/127.0.0.1".into(),
        session: Millis(SESSION_MS),
        rebalance: Millis(REBALANCE_MS),
        kind: "consumer".into(),
        protocols: vec![("range".into(), "topics".into())],
        ..Join::default()
    }
}

fn by(member: &Blob, generation: u32) -> Membership {
    Membership { generation: Some(generation), member: member.clone(), instance: None }
}

fn member_op(change: MemberChange) -> Op {
    Op::Member { change: Box::new(change) }
}

fn create(stream: &str, partitions: u32) -> Op {
    Op::CreateStream {
        stream: stream.into(),
        settings: StreamSettings { partitions, ..StreamSettings::default() },
    }
}

fn sync(member: &Blob, generation: u32, given: &[(&Blob, &str)]) -> Op {
    let given = given.iter().map(|(member, given)| ((*member).clone(), Blob::from(*given))).collect();
    member_op(MemberChange::Sync { group: GROUP.into(), by: by(member, generation), agreed: None, given })
}

fn offset(by: Membership, stream: &str, partition: u32, offset: u64) -> Op {
    let mark = CommittedOffset { offset: Offset(offset), epoch: Some(3), metadata: "m".into() };
    let offsets = vec![StreamOffsets { stream: stream.into(), partitions: vec![(partition, mark)] }];
    Op::CommitOffsets { commit: Box::new(OffsetCommit { group: GROUP.into(), by, offsets }) }
}

trait Groups {
    fn join(&mut self, join: Join) -> Blob;
    fn settle(&mut self) -> &mut Self;
    fn fault(&mut self, op: Op) -> GroupFault;
    fn standing(&self, member: &Blob) -> Result<Standing, GroupFault>;
    fn phase(&self) -> (Phase, u32, usize);
    fn given(&mut self, op: Op) -> Option<String>;
    fn two(&mut self) -> (Blob, Blob);
    fn committed(&self, stream: &str) -> Option<u64>;
}

impl Groups for Driver {
    fn join(&mut self, join: Join) -> Blob {
        match self.op(member_op(MemberChange::Join { join: Box::new(join) })) {
            OpResult::Member {
                answer: MemberAnswer::Joined { member, .. } | MemberAnswer::Named { member },
            } => member,
            other => panic!("{other:?}"),
        }
    }

    /// The first members wait no longer for others.
    fn settle(&mut self) -> &mut Self {
        self.sleep(100);
        self
    }

    #[track_caller]
    fn fault(&mut self, op: Op) -> GroupFault {
        match self.fails(op) {
            OpError::Group { why, .. } => why,
            other => panic!("{other}"),
        }
    }

    fn standing(&self, member: &Blob) -> Result<Standing, GroupFault> {
        self.machine.standing(&GROUP.into(), &by(member, 0))
    }

    fn phase(&self) -> (Phase, u32, usize) {
        let view = self.machine.member_group(&GROUP.into()).unwrap();
        (view.phase, view.generation, view.members.len())
    }

    fn given(&mut self, op: Op) -> Option<String> {
        match self.op(op) {
            OpResult::Member { answer: MemberAnswer::Given { given } } => {
                given.map(|given| given.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of two in generation 1, the first its leader.
    fn two(&mut self) -> (Blob, Blob) {
        let a = self.join(join_of(&Blob::EMPTY));
        let b = self.join(join_of(&Blob::EMPTY));
        self.settle();
        self.given(sync(&a, 1, &[(&a, "0"), (&b, "1")]));
        self.given(sync(&b, 1, &[]));
        (a, b)
    }

    fn committed(&self, stream: &str) -> Option<u64> {
        self.machine.committed_offset(&GROUP.into(), &stream.into(), 0).map(|mark| mark.offset.0)
    }
}

#[test]
fn members_who_come_together_make_one_generation_and_its_leader_gives() {
    let mut d = Driver::new();
    let a = d.join(join_of(&Blob::EMPTY));
    let b = d.join(join_of(&Blob::EMPTY));
    assert_eq!(d.phase(), (Phase::Joining { first: true }, 0, 2));
    assert_eq!(d.standing(&a), Ok(Standing::Waits));
    d.settle();
    assert_eq!(d.phase(), (Phase::Assigning, 1, 2));
    let Ok(Standing::In(agreed)) = d.standing(&a) else { panic!("the generation is made") };
    assert_eq!((agreed.leader.clone(), agreed.protocol.to_string()), (a.clone(), "range".to_owned()));
    let mut told: Vec<Blob> = agreed.members.iter().map(|(member, ..)| member.clone()).collect();
    told.sort_unstable();
    let mut wanted = vec![a.clone(), b.clone()];
    wanted.sort_unstable();
    assert_eq!(told, wanted, "the leader is told of all");
    let Ok(Standing::In(agreed)) = d.standing(&b) else { panic!("the generation is made") };
    assert!(agreed.members.is_empty(), "and nobody else is");
    // A follower asks before the leader has given; what a follower gives is not heard.
    assert_eq!(d.given(sync(&b, 1, &[(&a, "x"), (&b, "x")])), None);
    assert_eq!(d.machine.given(&GROUP.into(), &by(&b, 1)), Ok(None));
    assert_eq!(d.given(sync(&a, 1, &[(&a, "0"), (&b, "1")])).as_deref(), Some("0"));
    let (given, kind, protocol) = d.machine.given(&GROUP.into(), &by(&b, 1)).unwrap().unwrap();
    assert_eq!([given, kind, protocol], ["1".into(), "consumer".into(), Blob::from("range")]);
    assert_eq!(d.phase(), (Phase::Stable, 1, 2));
    d.restart();
    assert_eq!(d.phase(), (Phase::Stable, 1, 2));
    assert_eq!(d.given(sync(&b, 1, &[])).as_deref(), Some("1"), "asked again, the same");
}

#[test]
fn an_id_is_given_first_and_awaited() {
    let mut d = Driver::new();
    let named = Join { named_first: true, ..join_of(&Blob::EMPTY) };
    let a = d.join(named.clone());
    assert_eq!(d.phase(), (Phase::Empty, 0, 0), "who has an id is no member yet");
    assert_eq!(d.join(join_of(&a)), a);
    d.settle();
    d.given(sync(&a, 1, &[(&a, "all")]));
    assert_eq!(d.phase(), (Phase::Stable, 1, 1));
    // While another is to come back, the generation waits for it, and ends with its session at the latest.
    let b = d.join(named);
    d.join(Join { protocols: vec![("range".into(), "more".into())], ..join_of(&a) });
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 1));
    d.restart();
    assert_eq!(d.join(join_of(&b)), b);
    assert_eq!(d.phase(), (Phase::Assigning, 2, 2));
    // What nobody was given is nobody's.
    let stranger = MemberChange::Join { join: Box::new(join_of(&"c-0".into())) };
    assert_eq!(d.fault(member_op(stranger)), GroupFault::UnknownMember);
}

#[test]
fn an_id_can_be_sent_back_however_long_the_name_of_its_client_is() {
    let mut d = Driver::new();
    let name = Blob::from("é".repeat(2048));
    let member = d.join(Join { client: name.clone(), ..join_of(&Blob::EMPTY) });
    assert!(member.len() < 300 && member.as_text().is_some(), "{member}");
    let instance = Some(name);
    let member = d.join(Join { instance, ..join_of(&Blob::EMPTY) });
    assert!(member.len() < 300 && member.as_text().is_some(), "{member}");
}

#[test]
fn a_retried_join_whose_answer_was_lost_is_told_the_same_and_disturbs_nobody() {
    let mut d = Driver::new();
    let (a, b) = d.two();
    d.join(join_of(&b));
    assert_eq!(d.phase(), (Phase::Stable, 1, 2), "a follower who says nothing new");
    let Ok(Standing::In(agreed)) = d.standing(&b) else { panic!("it is in") };
    assert_eq!(agreed.generation, 1);
    // The leader asks for a new generation, whatever it says.
    d.join(join_of(&a));
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 2));
    assert_eq!(d.standing(&a), Ok(Standing::Waits));
    assert_eq!(d.fault(sync(&b, 1, &[])), GroupFault::Rebalancing);
    d.join(join_of(&b));
    assert_eq!(d.phase(), (Phase::Assigning, 2, 2));
    // And once more while the leader has not given: the same again, no other generation.
    d.join(join_of(&a));
    d.join(join_of(&b));
    assert_eq!(d.phase(), (Phase::Assigning, 2, 2));
    assert_eq!(d.fault(sync(&b, 1, &[])), GroupFault::OtherGeneration);
}

#[test]
fn a_member_that_is_silent_is_out_and_the_others_go_on() {
    let mut d = Driver::new();
    let (a, b) = d.two();
    let (lease, rebalancing) = d.machine.session_of(&GROUP.into(), &by(&b, 1)).unwrap();
    assert!(!rebalancing);
    d.pass(SESSION_MS - 1);
    // At the head of the entry that would have ended it: in time.
    d.send(CommandBody::KeepAlive { leases: vec![lease] });
    d.sleep(1);
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 1), "the silent one is out");
    assert_eq!(d.standing(&a), Err(GroupFault::UnknownMember));
    assert!(d.machine.session_of(&GROUP.into(), &by(&b, 1)).unwrap().1, "the other is told to come back");
    d.join(join_of(&b));
    let Ok(Standing::In(agreed)) = d.standing(&b) else { panic!("it is in") };
    assert_eq!((agreed.generation, agreed.leader), (2, b), "and leads");
}

#[test]
fn a_leader_that_dies_before_it_gives_is_put_out() {
    let mut d = Driver::new();
    let a = d.join(Join { session: Millis(60_000), ..join_of(&Blob::EMPTY) });
    let b = d.join(Join { session: Millis(60_000), ..join_of(&Blob::EMPTY) });
    d.settle();
    assert_eq!(d.given(sync(&b, 1, &[])), None);
    // Its session is longer than anybody waits.
    d.sleep(REBALANCE_MS);
    assert_eq!(d.standing(&a), Err(GroupFault::UnknownMember));
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 1));
    d.join(join_of(&b));
    assert_eq!(d.given(sync(&b, 2, &[(&b, "all")])).as_deref(), Some("all"));
}

#[test]
fn who_does_not_come_back_in_time_is_left_behind() {
    let mut d = Driver::new();
    let long = |member: &Blob| Join { session: Millis(600_000), ..join_of(member) };
    let a = d.join(long(&Blob::EMPTY));
    let b = d.join(long(&Blob::EMPTY));
    d.settle();
    d.given(sync(&a, 1, &[(&a, "0"), (&b, "1")]));
    d.given(sync(&b, 1, &[]));
    d.join(long(&a));
    d.sleep(REBALANCE_MS - 1);
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 2));
    d.sleep(1);
    assert_eq!(d.phase(), (Phase::Assigning, 2, 1));
    assert_eq!(d.standing(&b), Err(GroupFault::UnknownMember));
    // It comes back as somebody new.
    let again = MemberChange::Join { join: Box::new(long(&b)) };
    assert_eq!(d.fault(member_op(again)), GroupFault::UnknownMember);
}

#[test]
fn a_static_member_that_comes_back_keeps_what_it_had_and_fences_the_one_before() {
    let mut d = Driver::new();
    let of = |name: &str| Join { instance: Some(name.into()), named_first: true, ..join_of(&Blob::EMPTY) };
    let (a, b) = (d.join(of("one")), d.join(of("two")));
    d.settle();
    d.given(sync(&a, 1, &[(&a, "0"), (&b, "1")]));
    d.given(sync(&b, 1, &[]));
    let answer = d.op(member_op(MemberChange::Join { join: Box::new(of("one")) }));
    let OpResult::Member { answer: MemberAnswer::Joined { member: again, leader } } = answer else {
        panic!("{answer:?}")
    };
    assert_ne!(again, a);
    assert_eq!(leader, Some(a.clone()), "it must not take itself to have to give anything");
    assert_eq!(d.phase(), (Phase::Stable, 1, 2), "no new generation");
    d.restart();
    let of_one = |member: &Blob| Membership { instance: Some("one".into()), ..by(member, 1) };
    let stale = MemberChange::Sync { group: GROUP.into(), by: of_one(&a), agreed: None, given: vec![] };
    assert_eq!(d.fault(member_op(stale)), GroupFault::Fenced);
    assert_eq!(d.fault(offset(of_one(&a), "s", 0, 1)), GroupFault::Fenced);
    assert_eq!(d.fault(offset(by(&a, 1), "s", 0, 1)), GroupFault::UnknownMember);
    let now = MemberChange::Sync { group: GROUP.into(), by: of_one(&again), agreed: None, given: vec![] };
    assert_eq!(d.given(member_op(now)).as_deref(), Some("0"));
    // Under its name alone somebody puts it out.
    let gone = |member: Blob| vec![(member, Some("one".into()))];
    let leave = |member| member_op(MemberChange::Leave { group: GROUP.into(), members: gone(member) });
    let left = |answer| match answer {
        OpResult::Member { answer: MemberAnswer::Left { faults } } => faults[0],
        other => panic!("{other:?}"),
    };
    assert_eq!(left(d.op(leave(a))), Some(GroupFault::Fenced));
    assert_eq!(left(d.op(leave(Blob::EMPTY))), None);
    assert_eq!(left(d.op(leave(Blob::EMPTY))), Some(GroupFault::UnknownMember));
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 1));
}

#[test]
fn a_static_member_that_says_something_else_makes_a_new_generation() {
    let mut d = Driver::new();
    let of = |name: &str, protocols: &[&str]| Join {
        instance: Some(name.into()),
        protocols: protocols.iter().map(|name| (Blob::from(*name), Blob::EMPTY)).collect(),
        ..join_of(&Blob::EMPTY)
    };
    let (a, b) = (d.join(of("one", &["x", "y"])), d.join(of("two", &["x", "y"])));
    d.settle();
    d.given(sync(&a, 1, &[(&a, "0")]));
    d.given(sync(&b, 1, &[]));
    let again = d.join(of("two", &["y"]));
    assert_eq!(d.phase(), (Phase::Joining { first: false }, 1, 2), "they would agree on another protocol");
    assert_eq!(d.standing(&again), Ok(Standing::Waits));
    // One that is away and keeps its name is not put out by the wait, only by the end of its session.
    let (lease, _) = d.machine.member_session(&GROUP.into(), &a).unwrap();
    for _ in 0..4 {
        d.pass(REBALANCE_MS / 4);
        let (other, _) = d.machine.member_session(&GROUP.into(), &again).unwrap();
        d.send(CommandBody::KeepAlive { leases: vec![lease, other] });
    }
    assert_eq!(d.phase(), (Phase::Assigning, 2, 2));
    let Ok(Standing::In(agreed)) = d.standing(&again) else { panic!("it is in") };
    assert_eq!((agreed.leader, agreed.protocol), (again, "y".into()), "one that is there leads");
}

#[test]
fn members_elect_the_protocol_that_most_like_best_of_those_all_speak() {
    let mut d = Driver::new();
    let of = |protocols: &[&str]| Join {
        protocols: protocols.iter().map(|name| (Blob::from(*name), Blob::EMPTY)).collect(),
        ..join_of(&Blob::EMPTY)
    };
    let a = d.join(of(&["mine", "x", "y"]));
    d.join(of(&["y", "x"]));
    d.join(of(&["y", "x"]));
    d.settle();
    let Ok(Standing::In(agreed)) = d.standing(&a) else { panic!("it is in") };
    assert_eq!(agreed.protocol, "y".into());
    for bad in [of(&["mine"]), of(&[]), Join { kind: "connect".into(), ..of(&["x"]) }] {
        let join = MemberChange::Join { join: Box::new(bad) };
        assert_eq!(d.fault(member_op(join)), GroupFault::Inconsistent);
    }
    let agreed = Some(("consumer".into(), "x".into()));
    let other = MemberChange::Sync { group: GROUP.into(), by: by(&a, 1), agreed, given: vec![] };
    assert_eq!(d.fault(member_op(other)), GroupFault::Inconsistent);
}

#[test]
fn only_the_present_generation_moves_offsets() {
    let mut d = Driver::new();
    d.op(create("s", 2));
    // Somebody who is no member, while nobody is.
    assert_eq!(d.op(offset(Membership::default(), "s", 0, 5)), OpResult::Kept { missing: vec![] });
    assert_eq!(d.op(offset(Membership::default(), "s", 2, 5)), OpResult::Kept { missing: vec![0] });
    assert_eq!(d.op(offset(Membership::default(), "t", 0, 5)), OpResult::Kept { missing: vec![0] });
    assert_eq!(d.fault(offset(by(&"x".into(), 1), "s", 0, 6)), GroupFault::OtherGeneration);
    let (a, b) = d.two();
    assert_eq!(d.fault(offset(Membership::default(), "s", 0, 6)), GroupFault::UnknownMember);
    assert_eq!(d.fault(offset(by(&a, 0), "s", 0, 6)), GroupFault::OtherGeneration);
    d.op(offset(by(&a, 1), "s", 0, 7));
    assert_eq!(d.committed("s"), Some(7));
    // What was read before the others came is kept until the new generation is made, and not after.
    d.join(join_of(&a));
    d.op(offset(by(&b, 1), "s", 0, 8));
    d.join(join_of(&b));
    assert_eq!(d.fault(offset(by(&b, 1), "s", 0, 9)), GroupFault::OtherGeneration);
    assert_eq!(d.fault(offset(by(&b, 2), "s", 0, 9)), GroupFault::Rebalancing);
    d.restart();
    let mark = d.machine.committed_offset(&GROUP.into(), &"s".into(), 0).unwrap();
    assert_eq!((mark.offset, mark.epoch, mark.metadata.clone()), (Offset(8), Some(3), "m".into()));
}

#[test]
fn a_commit_keeps_a_member_alive() {
    let mut d = Driver::new();
    d.op(create("s", 1));
    let (a, b) = d.two();
    d.pass(SESSION_MS - 1);
    d.op(offset(by(&a, 1), "s", 0, 1));
    d.sleep(SESSION_MS - 1);
    assert_eq!(d.standing(&b), Err(GroupFault::UnknownMember));
    assert!(d.standing(&a).is_ok());
}

#[test]
fn offsets_go_with_their_stream_and_with_their_group() {
    let mut d = Driver::new();
    for stream in ["s", "t"] {
        d.op(create(stream, 1));
        d.op(offset(Membership::default(), stream, 0, 5));
    }
    d.op(Op::DeleteStream { stream: "s".into() });
    d.op(create("s", 1));
    assert_eq!((d.committed("s"), d.committed("t")), (None, Some(5)), "a new stream of that name is another");
    assert_eq!(d.machine.committed_offsets(&GROUP.into()).len(), 1);
    d.restart();
    let forget = |partitions| member_op(MemberChange::Forget { group: GROUP.into(), partitions });
    d.op(forget(vec![("t".into(), 0), ("none".into(), 1)]));
    assert_eq!(d.committed("t"), None);
    d.op(offset(Membership::default(), "t", 0, 5));
    let delete = || member_op(MemberChange::Delete { group: GROUP.into() });
    let (a, b) = d.two();
    assert_eq!(d.fault(delete()), GroupFault::NotEmpty);
    assert_eq!(d.fault(forget(vec![("t".into(), 0)])), GroupFault::NotEmpty);
    let members = vec![(a, None), (b, None)];
    d.op(member_op(MemberChange::Leave { group: GROUP.into(), members }));
    assert_eq!(d.phase(), (Phase::Empty, 2, 0));
    assert_eq!(d.committed("t"), Some(5), "they are for the next who come");
    d.op(delete());
    assert_eq!(d.machine.member_groups(), vec![]);
    assert_eq!(d.committed("t"), None);
    assert_eq!(d.fault(delete()), GroupFault::Missing);
}

#[test]
fn offsets_are_forgotten_a_week_after_the_last_member_left_or_mark_was_set() {
    const WEEK: u64 = 7 * 24 * 3600 * 1000;
    let mut d = Driver::new();
    d.op(create("s", 1));
    d.op(offset(Membership::default(), "s", 0, 5));
    d.sleep(WEEK - 1);
    d.op(offset(Membership::default(), "s", 0, 6));
    d.sleep(WEEK - 1);
    assert_eq!(d.committed("s"), Some(6));
    // While somebody is in, nothing is forgotten.
    let a = d.join(Join { session: Millis(3 * WEEK), ..join_of(&Blob::EMPTY) });
    d.settle();
    d.given(sync(&a, 1, &[]));
    d.sleep(2 * WEEK);
    d.restart();
    assert_eq!(d.committed("s"), Some(6));
    let members = vec![(a, None)];
    d.op(member_op(MemberChange::Leave { group: GROUP.into(), members }));
    d.sleep(WEEK - 1);
    assert_eq!(d.committed("s"), Some(6));
    d.sleep(1);
    assert_eq!(d.committed("s"), None);
    d.sleep(1);
    assert_eq!(d.machine.member_groups(), vec![]);
}

#[test]
fn a_refused_commit_takes_back_what_members_did() {
    let mut d = Driver::new();
    d.op(create("s", 1));
    let named = Join { named_first: true, ..join_of(&Blob::EMPTY) };
    let a = d.join(named.clone());
    let change = |join: Join| member_op(MemberChange::Join { join: Box::new(join) });
    let of = |name: &str| Join { instance: Some(name.into()), ..join_of(&Blob::EMPTY) };
    let bad = Op::LeaseKeepAlive { lease: LeaseId(99) };
    // The driver compares the state to the byte, and `check` compares every index.
    for ops in [
        vec![change(named.clone()), change(of("one")), bad.clone()],
        vec![change(join_of(&a)), offset(Membership::default(), "s", 0, 1), bad.clone()],
        vec![change(join_of(&a)), change(of("one")), change(of("one")), bad.clone()],
    ] {
        assert!(d.commit(Commit::of(ops)).is_err());
    }
    let (a, b) = (d.join(of("one")), d.join(join_of(&a)));
    d.settle();
    let leave = MemberChange::Leave { group: GROUP.into(), members: vec![(b.clone(), None)] };
    for ops in [
        vec![change(of("one")), bad.clone()],
        vec![sync(&a, 1, &[(&a, "x")]), sync(&b, 1, &[]), bad.clone()],
        vec![offset(by(&a, 1), "s", 0, 1), bad.clone()],
        vec![member_op(leave), change(of("one")), bad.clone()],
        vec![change(Join { session: Millis(5000), ..join_of(&b) }), bad],
    ] {
        assert!(d.commit(Commit::of(ops)).is_err());
        assert_eq!(d.phase(), (Phase::Assigning, 1, 2));
    }
}

#[test]
fn snapshots_in_between_hold_who_is_in() {
    let mut d = Driver::new();
    let named = d.join(Join { named_first: true, ..join_of(&Blob::EMPTY) });
    d.restart();
    d.join(join_of(&named));
    d.restart();
    d.settle();
    d.restart();
    assert_eq!(d.given(sync(&named, 1, &[(&named, "all")])).as_deref(), Some("all"));
    d.restart();
    d.sleep(SESSION_MS);
    assert_eq!(d.phase(), (Phase::Empty, 2, 0));
}

#[test]
fn a_user_needs_the_group_and_its_topics() {
    let mut d = Driver::new();
    d.op(create("s", 1));
    let rule = |pattern: &str, verbs| UserChange::Name {
        rule: NameRule { allow: true, verbs, space: None, pattern: pattern.into() },
    };
    let all = UserChange::Command { rule: CommandRule { allow: true, what: "@all".into() } };
    let changes = vec![
        UserChange::Enable { on: true },
        all,
        rule("g", Verbs::READ.and(Verbs::WRITE)),
        rule("s", Verbs::READ),
    ];
    d.send(CommandBody::ChangeUser { name: "u".into(), changes, may_lock_out: true });
    let of = |group: &str, stream: &str| {
        let mark = CommittedOffset { offset: Offset(1), ..CommittedOffset::default() };
        let offsets = vec![StreamOffsets { stream: stream.into(), partitions: vec![(0, mark)] }];
        let by = Membership::default();
        Commit::of(vec![Op::CommitOffsets {
            commit: Box::new(OffsetCommit { group: group.into(), by, offsets }),
        }])
    };
    assert!(d.commit_as("user:u", of("g", "s")).is_ok());
    for (group, stream) in [("other", "s"), ("g", "t")] {
        let refused = d.commit_as("user:u", of(group, stream)).unwrap_err();
        assert!(matches!(refused, Refusal::Operation { error: OpError::Denied { .. }, .. }), "{refused}");
    }
    // A member's session is the group's: who may not touch that does not end it.
    let join = Join { group: "other".into(), ..join_of(&Blob::EMPTY) };
    let member = d.join(join);
    let (lease, _) = d.machine.member_session(&"other".into(), &member).unwrap();
    let revoke = Commit::of(vec![Op::LeaseRevoke { lease }]);
    let refused = d.commit_as("user:u", revoke).unwrap_err();
    assert!(matches!(refused, Refusal::Operation { error: OpError::Denied { .. }, .. }), "{refused}");
}
