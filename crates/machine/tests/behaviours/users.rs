//! Users: who may do what is decided by the log, the same on every replica.

use crate::common::*;
use proptest::prelude::*;
use quorate_types::*;
use std::collections::BTreeMap;

fn driver() -> Driver {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

fn change(d: &mut Driver, name: &str, changes: Vec<UserChange>) -> Outcome {
    d.send_as("operator", CommandBody::ChangeUser { name: name.into(), changes, may_lock_out: false })
}

fn command(text: &str) -> UserChange {
    UserChange::Command { rule: CommandRule { allow: text.starts_with('+'), what: text[1..].into() } }
}

fn name(allow: bool, verbs: Verbs, pattern: &str) -> UserChange {
    UserChange::Name { rule: NameRule { allow, verbs, space: None, pattern: pattern.into() } }
}

fn enabled(rules: &[UserChange]) -> Vec<UserChange> {
    let hash = Digest([1; 32]);
    [UserChange::Reset {}, UserChange::Enable { on: true }, UserChange::AddSha256 { hash }]
        .into_iter()
        .chain(rules.iter().cloned())
        .collect()
}

const BOTH: Verbs = Verbs(3);

#[test]
fn a_right_that_is_taken_away_counts_from_its_place_in_the_log() {
    let mut d = driver();
    change(&mut d, "ann", enabled(&[command("+@all"), name(true, BOTH, "orders/*")]));
    assert!(d.commit_as("user:ann", Commit::of(vec![put("orders/1", "x")])).is_ok());
    let denied = d.commit_as("user:ann", Commit::of(vec![put("orders/1", "y"), put("other", "z")]));
    let wanted = Denied::Name { user: "ann".into(), verbs: Verbs::WRITE, name: "other".into() };
    assert_eq!(denied, Err(Refusal::Operation { op: 1, error: OpError::Denied { denied: wanted } }));
    // In one entry: the command after the change is refused, the one before it is not.
    let mine = || Command::new("user:ann".into(), Commit::of(vec![add("orders/2", 1)]).into_body());
    let disable = CommandBody::ChangeUser {
        name: "ann".into(),
        changes: vec![UserChange::Enable { on: false }],
        may_lock_out: false,
    };
    let outcomes = d.entry(vec![mine(), Command::new("operator".into(), disable), mine()]);
    assert!(matches!(outcomes[0], Outcome::Committed { .. }));
    assert!(matches!(outcomes[1], Outcome::Done { .. }));
    let gone = Denied::Gone { user: "ann".into() };
    assert_eq!(outcomes[2], Outcome::Refused { refusal: Refusal::Denied { denied: gone } });
}

trait IntoBody {
    fn into_body(self) -> CommandBody;
}
impl IntoBody for Commit {
    fn into_body(self) -> CommandBody {
        CommandBody::Commit { commit: self }
    }
}

#[test]
fn who_is_no_user_any_more_may_do_nothing() {
    let mut d = driver();
    change(&mut d, "ann", enabled(&[command("+@all"), name(true, BOTH, "*")]));
    d.send_as("operator", CommandBody::RemoveUsers { names: vec!["ann".into()], may_lock_out: false });
    for body in [
        Commit::of(vec![put("k", "v")]).into_body(),
        Commit::of(vec![]).into_body(),
        CommandBody::KeepAlive { leases: vec![LeaseId(1)] },
        CommandBody::Compact { before: Revision(1) },
        CommandBody::ChangeUser { name: "ann".into(), changes: vec![], may_lock_out: true },
    ] {
        let outcome = d.send_as("user:ann", body.clone());
        let refused = matches!(&outcome, Outcome::Refused { refusal: Refusal::Denied { .. } });
        assert!(refused, "{body:?} gave {outcome:?}");
        let command = Command::new("user:ann".into(), body);
        assert!(d.machine.forbids(&command).is_some(), "it is refused before it is logged too");
    }
}

#[test]
fn nobody_is_locked_out_unseen() {
    let mut d = driver();
    let off = |d: &mut Driver, may_lock_out| {
        let changes = vec![UserChange::Enable { on: false }];
        d.send_as("operator", CommandBody::ChangeUser { name: "default".into(), changes, may_lock_out })
    };
    let locked_out = Outcome::Refused { refusal: Refusal::LockOut {} };
    assert_eq!(off(&mut d, false), locked_out);
    change(&mut d, "root", vec![UserChange::Enable { on: true }, command("+@all")]);
    assert_eq!(off(&mut d, false), locked_out, "root has no password yet");
    change(&mut d, "root", vec![UserChange::AddToken { hash: Digest([3; 32]) }]);
    assert!(matches!(off(&mut d, false), Outcome::Done { .. }));
    assert!(!d.machine.door_is_open());
    let gone = CommandBody::RemoveUsers { names: vec!["root".into()], may_lock_out: false };
    assert_eq!(d.send_as("user:root", gone), locked_out);
    let refused = d.commit(Commit::of(vec![put("k", "v")]));
    assert!(matches!(refused, Err(Refusal::Denied { .. })), "the door is closed: {refused:?}");
    // An operator has another way in.
    assert!(matches!(off(&mut d, true), Outcome::Done { .. }));
}

#[test]
fn a_task_acts_with_the_rights_that_its_user_has_when_it_fires() {
    let mut d = driver();
    change(&mut d, "ann", enabled(&[command("+@all"), name(true, BOTH, "*")]));
    let later = schedule("t", 1000, Commit::of(vec![put("k", "v")]), OnRefused::Drop);
    d.commit_as("user:ann", Commit::of(vec![later])).unwrap();
    change(&mut d, "ann", vec![command("-set")]);
    d.sleep(2000);
    let wanted = Denied::Command { user: "ann".into(), command: "set".into() };
    let error = OpError::Denied { denied: wanted };
    assert_eq!(d.fired[0].outcome, Outcome::Refused { refusal: Refusal::Operation { op: 0, error } });
    // A dead letter is an append of whoever asked for it.
    change(&mut d, "ann", vec![UserChange::ForgetNames {}, name(true, BOTH, "mine/*")]);
    let Op::Append { append: letter } = append("letters", "x") else { panic!("an append") };
    let letters = OnRefused::DeadLetter { letter: Box::new(letter) };
    let op = schedule("mine/t", 1000, Commit::of(vec![]), letters);
    assert!(d.commit_as("user:ann", Commit::of(vec![op])).is_err());
}

#[test]
fn a_lease_is_ended_only_by_who_may_write_what_hangs_on_it() {
    let mut d = driver();
    change(&mut d, "ann", enabled(&[command("+@all"), name(true, BOTH, "a/*")]));
    d.lease(1, 60_000);
    d.run(vec![put_on("b/k", "v", 1)]);
    let revoke = |lease| Commit::of(vec![Op::LeaseRevoke { lease: LeaseId(lease) }]);
    assert!(d.commit_as("user:ann", revoke(1)).is_err());
    d.lease(2, 60_000);
    d.run(vec![put_on("a/k", "v", 2), acquire("a/l", 2)]);
    assert!(d.commit_as("user:ann", revoke(2)).is_ok());
}

#[test]
fn a_range_has_to_be_allowed_from_end_to_end() {
    let mut d = driver();
    change(
        &mut d,
        "ann",
        enabled(&[command("+@all"), name(true, BOTH, "a/*"), name(false, Verbs::WRITE, "a/secret*")]),
    );
    let access = d.machine.user(b"ann").unwrap();
    let range = |start: &str, end: Option<&str>| KeyRange { start: start.into(), end: end.map(Blob::from) };
    for (start, end, reads, writes) in [
        ("a/", Some("a0"), true, false),
        ("a/b", Some("a/c"), true, true),
        ("a/", Some("a/s"), true, true),
        ("a/z", Some("a0"), true, true),
        ("a", Some("a0"), false, false),
        ("a/", Some("b"), false, false),
        ("a/", None, false, false),
        ("", None, false, false),
        ("a/secret", Some("a/secret\0"), true, false),
    ] {
        let range = range(start, end);
        assert_eq!(access.may_range(Verbs::READ, &range), reads, "{start} to {end:?}, reading");
        assert_eq!(access.may_range(Verbs::WRITE, &range), writes, "{start} to {end:?}, writing");
    }
}

#[test]
fn a_call_is_held_to_its_keys_and_a_scan_shows_what_is_ones_own() {
    let mut d = driver();
    change(
        &mut d,
        "ann",
        enabled(&[command("+@all"), name(true, Verbs::READ, "r*"), name(true, BOTH, "w*")]),
    );
    let words = |text: &str| text.split(' ').map(Blob::from).collect::<Vec<_>>();
    let call = |text: &str| Op::Call { space: Keyspace::DEFAULT, words: words(text), record: None };
    d.run(vec![call("MSET r1 1 w1 2 x1 3")]);
    for (text, allowed) in [
        ("SET w2 v", true),
        ("SET r2 v", false),
        ("COPY r1 w3", true),
        ("COPY w1 r3", false),
        ("COPY x1 w4", false),
        ("GETDEL r1", false),
        ("TYPE r1", true),
        ("TYPE x1", false),
        ("FLUSHALL", false),
        ("FLUSHDB", false),
        ("SORT w1 GET x*", false),
        ("RENAME w2 w5", true),
        ("MSET w1 1 x1 2", false),
    ] {
        let found = d.commit_as("user:ann", Commit::of(vec![call(text)]));
        let refused = |refusal: &Refusal| refusal.to_string().contains("NOPERM");
        assert_eq!(!found.as_ref().is_err_and(refused), allowed, "{text}: {found:?}");
    }
    let mut session = quorate_calls::Session::new(Keyspace::DEFAULT);
    let rights = d.machine.rights(&"user:ann".into());
    let shown = d.machine.call_as(&rights, Default::default(), &mut session, &words("KEYS *"), 1).unwrap();
    let Reply::Array { items } = shown else { panic!("names") };
    assert!(!items.0.is_empty() && !items.0.contains(&Reply::bulk("x1")), "{items:?}");
}

/// What the model knows of a user.
#[derive(Clone, Debug, Default)]
struct Known {
    on: bool,
    commands: Vec<(bool, String)>,
    names: Vec<(bool, u8, String)>,
}

impl Known {
    /// Rules one after the other, each overruling those before it.
    fn may_run(&self, command: &str, categories: &[&str]) -> bool {
        let mut may = false;
        for (allow, what) in &self.commands {
            let of = what.strip_prefix('@');
            if what == command || of.is_some_and(|of| of == "all" || categories.contains(&of)) {
                may = *allow;
            }
        }
        may
    }
    fn may(&self, verb: u8, key: &str) -> bool {
        let speaks = |(_, verbs, pattern): &&(bool, u8, String)| {
            let fits = match pattern.strip_suffix('*') {
                Some(prefix) => key.starts_with(prefix),
                None => key == pattern,
            };
            verbs & verb != 0 && fits
        };
        self.names.iter().filter(|rule| rule.0).any(|rule| speaks(&rule))
            && !self.names.iter().filter(|rule| !rule.0).any(|rule| speaks(&rule))
    }
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has few of them")]
enum Step {
    Change(usize, UserChange),
    Remove(usize),
    Do(usize, usize, usize),
    Restore,
}

const USERS: [&str; 3] = ["ann", "bob", "default"];
const KEYS: [&str; 4] = ["a1", "a2", "b1", "b2"];
const COMMANDS: [&str; 8] = ["+@all", "-@all", "+@read", "-@write", "+get", "-get", "+set", "-set"];
const PATTERNS: [&str; 5] = ["*", "a*", "b*", "a1", "b2"];

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        Just(UserChange::Enable { on: true }),
        Just(UserChange::Enable { on: true }),
        Just(UserChange::Enable { on: false }),
        Just(UserChange::Reset {}),
        (0..COMMANDS.len()).prop_map(|at| command(COMMANDS[at])),
        (0..COMMANDS.len()).prop_map(|at| command(COMMANDS[at])),
        (any::<bool>(), 1u8..4, 0..PATTERNS.len()).prop_map(|(allow, verbs, at)| name(
            allow,
            Verbs(verbs),
            PATTERNS[at]
        )),
        (1u8..4, 0..PATTERNS.len()).prop_map(|(verbs, at)| name(true, Verbs(verbs), PATTERNS[at])),
        Just(UserChange::ForgetNames {}),
    ];
    prop_oneof![
        4 => (0..USERS.len(), change).prop_map(|(user, change)| Step::Change(user, change)),
        1 => (0..USERS.len()).prop_map(Step::Remove),
        8 => (0..USERS.len(), 0..4usize, 0..KEYS.len()).prop_map(|(user, what, key)| Step::Do(user, what, key)),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rights_are_those_of_a_simple_model(steps in proptest::collection::vec(step(), 1..60)) {
        let mut d = driver();
        let mut model: BTreeMap<&str, Known> = BTreeMap::new();
        let open = Known {
            on: true,
            commands: vec![(true, "@all".into())],
            names: vec![(true, 3, "*".into())],
        };
        model.insert("default", open);
        for step in steps {
            match step {
                Step::Change(user, change) => {
                    let user = USERS[user];
                    let known = model.entry(user).or_default();
                    match &change {
                        UserChange::Enable { on } => known.on = *on,
                        UserChange::Reset {} => *known = Known::default(),
                        UserChange::Command { rule } => {
                            known.commands.push((rule.allow, String::from_utf8_lossy(&rule.what).into_owned()));
                        }
                        UserChange::Name { rule } => {
                            let pattern = String::from_utf8_lossy(&rule.pattern).into_owned();
                            known.names.retain(|other| other.0 == rule.allow || other.1 != rule.verbs.0 || other.2 != pattern);
                            known.names.push((rule.allow, rule.verbs.0, pattern));
                        }
                        _ => known.names.clear(),
                    }
                    let body = CommandBody::ChangeUser { name: user.into(), changes: vec![change], may_lock_out: true };
                    let outcome = d.send_as("operator", body);
                    let done = matches!(outcome, Outcome::Done { .. });
                    prop_assert!(done, "{:?}", outcome);
                }
                Step::Remove(user) => {
                    model.remove(USERS[user]);
                    let names = vec![USERS[user].into()];
                    d.send_as("operator", CommandBody::RemoveUsers { names, may_lock_out: true });
                }
                Step::Restore => d.restore_both(),
                Step::Do(user, what, key) => {
                    let (user, key) = (USERS[user], KEYS[key]);
                    let (op, command, categories, verb) = match what {
                        0 => (Op::Get { key: key.into() }, "get", ["read", "string"], 1),
                        1 => (put(key, "v"), "set", ["write", "string"], 2),
                        2 => (Op::Call { space: Keyspace::DEFAULT, words: vec!["GET".into(), key.into()], record: None }, "get", ["read", "string"], 1),
                        _ => (Op::Call { space: Keyspace::DEFAULT, words: vec!["SET".into(), key.into(), "v".into()], record: None }, "set", ["write", "string"], 2),
                    };
                    let known = model.get(user).cloned().unwrap_or_default();
                    let wanted = known.on && known.may_run(command, &categories) && known.may(verb, key);
                    let principal = Principal::of_user(&user.into());
                    let asked = Command::new(principal.clone(), Commit::of(vec![op.clone()]).into_body());
                    prop_assert_eq!(d.machine.forbids(&asked).is_none(), wanted, "before the log: {} {} {}", user, command, key);
                    let found = d.commit_as(&principal.to_string(), Commit::of(vec![op])).is_ok();
                    prop_assert_eq!(found, wanted, "{} {} {}", user, command, key);
                }
            }
        }
    }
}
