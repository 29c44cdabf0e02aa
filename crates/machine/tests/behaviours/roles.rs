//! Roles, tokens and the door: each change is made exactly when what it needs is there, and what roles allow is what their ranges hold.

use crate::common::*;
use proptest::prelude::*;
use quorate_types::*;
use std::collections::{BTreeMap, BTreeSet};

fn driver() -> Driver {
    let mut d = Driver::new();
    d.send(CommandBody::RaiseVersion { to: 2 });
    d
}

fn change(d: &mut Driver, who: &str, change: AccessChange) -> Outcome {
    d.send_as(who, CommandBody::ChangeAccess { change, may_lock_out: false })
}

fn scram(of: u8) -> Scram {
    let digest = [of; 32];
    Scram::Sha256(Verifier { salt: "salt".into(), iterations: 1, stored_key: digest, server_key: digest })
}

fn refused(why: AccessRefusal) -> Outcome {
    Outcome::Refused { refusal: Refusal::Access { why } }
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

fn closed() -> Driver {
    let mut d = driver();
    let root = || Blob::from(ROOT);
    let name = Blob::from("ann");
    for one in [
        AccessChange::AddUser { name: root(), scram: Some(scram(1)) },
        AccessChange::GrantRole { user: root(), role: root() },
        AccessChange::AddUser { name, scram: Some(scram(2)) },
        AccessChange::CloseDoor {},
    ] {
        let outcome = change(&mut d, "anonymous", one);
        assert!(is_done(&outcome), "{outcome:?}");
    }
    d
}

fn enter(d: &mut Driver, user: &str, token: u8, ttl: u64) -> Outcome {
    let revision = d.machine.access_revision();
    let change =
        AccessChange::Enter { user: user.into(), token: Digest([token; 32]), ttl: Millis(ttl), revision };
    d.send_as("server", CommandBody::ChangeAccess { change, may_lock_out: false })
}

#[test]
fn the_door_closes_only_behind_a_root_who_can_come_back() {
    let mut d = driver();
    let root = || Blob::from(ROOT);
    let close = || AccessChange::CloseDoor {};
    assert_eq!(change(&mut d, "anonymous", close()), refused(AccessRefusal::RootMissing {}));
    assert!(is_done(&change(&mut d, "anonymous", AccessChange::AddUser { name: root(), scram: None })));
    assert_eq!(change(&mut d, "anonymous", close()), refused(AccessRefusal::RootWithoutRole {}));
    let grant = AccessChange::GrantRole { user: root(), role: root() };
    assert!(is_done(&change(&mut d, "anonymous", grant)));
    // Nobody could enter as root: it has no password.
    let locked_out = Outcome::Refused { refusal: Refusal::LockOut {} };
    assert_eq!(change(&mut d, "anonymous", close()), locked_out);
    assert!(d.machine.door_is_open());
    let password = AccessChange::ChangePassword { name: root(), scram: scram(1) };
    assert!(is_done(&change(&mut d, "anonymous", password)));
    assert!(is_done(&change(&mut d, "anonymous", close())));
    assert!(!d.machine.door_is_open());
    // Who may not manage users may not open it again; root may, and what it needs for that is not taken from it.
    let denied = change(&mut d, "anonymous", AccessChange::OpenDoor {});
    assert!(matches!(denied, Outcome::Refused { refusal: Refusal::Denied { .. } }), "{denied:?}");
    for protected in [
        AccessChange::RemoveUser { name: root() },
        AccessChange::RevokeRole { user: root(), role: root() },
        AccessChange::RemoveRole { name: root() },
    ] {
        assert_eq!(change(&mut d, "user:root", protected), refused(AccessRefusal::Protected {}));
    }
    assert!(is_done(&change(&mut d, "user:root", AccessChange::OpenDoor {})));
    assert!(d.machine.door_is_open() && d.commit(Commit::of(vec![put("k", "v")])).is_ok());
}

#[test]
fn the_door_opens_as_it_was_before_it_was_closed() {
    let mut d = driver();
    let only_read = vec![
        UserChange::Command { rule: CommandRule { allow: false, what: "@all".into() } },
        UserChange::Command { rule: CommandRule { allow: true, what: "@read".into() } },
    ];
    let root = || Blob::from(ROOT);
    change(&mut d, "server", AccessChange::AddUser { name: root(), scram: Some(scram(1)) });
    change(&mut d, "server", AccessChange::GrantRole { user: root(), role: root() });
    let body = CommandBody::ChangeUser { name: "default".into(), changes: only_read, may_lock_out: false };
    assert!(is_done(&d.send_as("server", body)));
    change(&mut d, "user:root", AccessChange::CloseDoor {});
    change(&mut d, "user:root", AccessChange::OpenDoor {});
    let get = || Op::Get { key: "k".into() };
    assert!(d.commit(Commit::of(vec![get()])).is_ok());
    assert!(d.commit(Commit::of(vec![put("k", "v")])).is_err());
    // One that was taken back to nothing would be a door that leads nowhere.
    let body = CommandBody::RemoveUsers { names: vec!["default".into()], may_lock_out: false };
    d.send_as("server", body);
    change(&mut d, "user:root", AccessChange::OpenDoor {});
    assert!(d.commit(Commit::of(vec![put("k", "v")])).is_ok());
}

#[test]
fn a_token_ends_in_time_with_its_password_and_with_its_user() {
    let mut d = closed();
    let known = |d: &Driver, of: u8| d.machine.user_of_token(&Digest([of; 32])).is_some();
    assert!(is_done(&enter(&mut d, "ann", 1, 1000)) && is_done(&enter(&mut d, "root", 2, 1_000_000)));
    assert!(known(&d, 1) && known(&d, 2) && !known(&d, 3));
    d.restore_both();
    assert!(known(&d, 1) && known(&d, 2));
    // Its end is due like a lease's, so that an entry comes for it even where nothing else happens.
    assert_eq!(d.machine.next_due().0, Some(LogTime((d.time_ms + 1000) * 1_000_000)));
    d.sleep(1001);
    assert_ne!(d.machine.next_due().0, Some(LogTime((d.time_ms - 1) * 1_000_000)), "it is over");
    assert!(!known(&d, 1) && known(&d, 2), "it ends by log time");
    // Renewed, it lives on from there.
    enter(&mut d, "ann", 1, 1000);
    enter(&mut d, "ann", 4, 1000);
    assert!(known(&d, 1) && known(&d, 4));
    change(&mut d, "user:root", AccessChange::ChangePassword { name: "ann".into(), scram: scram(3) });
    assert!(!known(&d, 1) && !known(&d, 4) && known(&d, 2), "all of hers, and of nobody else");
    enter(&mut d, "ann", 1, 1000);
    let changes = vec![UserChange::ForgetPasswords {}];
    d.send_as("user:root", CommandBody::ChangeUser { name: "ann".into(), changes, may_lock_out: false });
    assert!(!known(&d, 1), "whoever changes the password");
    enter(&mut d, "ann", 1, 1000);
    change(&mut d, "user:root", AccessChange::RemoveUser { name: "ann".into() });
    change(&mut d, "user:root", AccessChange::AddUser { name: "ann".into(), scram: Some(scram(2)) });
    assert!(!known(&d, 1), "another user of the name");
    assert_eq!(enter(&mut d, "ghost", 5, 9), refused(AccessRefusal::UserMissing {}));
    let old = AccessChange::Enter {
        user: "ann".into(),
        token: Digest([1; 32]),
        ttl: Millis(9),
        revision: d.machine.access_revision() - 1,
    };
    let outcome = change(&mut d, "server", old.clone());
    assert_eq!(outcome, refused(AccessRefusal::OldRevision {}));
    let denied = change(&mut d, "user:ann", old);
    assert!(
        matches!(denied, Outcome::Refused { refusal: Refusal::Denied { .. } }),
        "only a gateway gives tokens"
    );
    change(&mut d, "user:root", AccessChange::OpenDoor {});
    assert!(!known(&d, 2), "nobody has to say who it is any more");
    assert_eq!(enter(&mut d, "root", 2, 9), refused(AccessRefusal::DoorIsOpen {}));
}

#[test]
fn a_role_brings_the_commands_of_its_verbs_along_but_none_that_is_dangerous() {
    let mut d = closed();
    let all = |verbs| RangeRule { start: Blob::copy_from(&[0]), end: Blob::copy_from(&[0]), verbs };
    change(&mut d, "user:root", AccessChange::AddRole { name: "wide".into() });
    let rule = all(Verbs::READ.and(Verbs::WRITE));
    change(&mut d, "user:root", AccessChange::Allow { role: "wide".into(), rule });
    change(&mut d, "user:root", AccessChange::AddUser { name: "bob".into(), scram: Some(scram(4)) });
    change(&mut d, "user:root", AccessChange::GrantRole { user: "bob".into(), role: "wide".into() });
    let rights = d.machine.rights(&"user:bob".into());
    let may = |name: &str| rights.command(name).is_ok();
    assert!(may("get") && may("set") && may("multi"));
    // Each of them reads or writes too.
    for name in ["keys", "flushdb", "flushall", "config|set", "acl|setuser"] {
        assert!(!may(name), "{name}");
    }
}

#[test]
fn a_lease_that_one_may_not_end_is_not_hung_on() {
    let mut d = closed();
    let name = Blob::from("r");
    let rule = RangeRule { start: "a".into(), end: "b".into(), verbs: Verbs(3) };
    for one in [
        AccessChange::AddRole { name: name.clone() },
        AccessChange::Allow { role: name.clone(), rule },
        AccessChange::GrantRole { user: "ann".into(), role: name },
    ] {
        change(&mut d, "user:root", one);
    }
    let write = |key: &str| Op::Write {
        key: key.into(),
        value: Some("v".into()),
        lease: Some(LeaseId(7)),
        prev: false,
        keep: false,
    };
    let grant = Op::LeaseGrant { lease: LeaseId(7), ttl: Millis(60_000) };
    assert!(d.commit_as("user:ann", Commit::of(vec![grant, write("a1")])).is_ok());
    assert!(d.commit_as("user:root", Commit::of(vec![write("z")])).is_ok());
    assert!(d.commit_as("user:ann", Commit::of(vec![write("a2")])).is_err());
    // All of a transaction has to be allowed, whichever of its lists runs.
    let branches = Commit {
        otherwise: Some(vec![Op::Erase { range: KeyRange::single("z".into()), prev: false }]),
        mode: Mode::Foreseen,
        ..Commit::of(vec![Op::Erase { range: KeyRange::single("a1".into()), prev: false }])
    };
    assert!(d.commit_as("user:ann", branches.clone()).is_err());
    assert!(d.commit_as("user:root", branches).is_ok());
}

/// Users, roles and the door as simply as they can be said: names are single letters.
#[derive(Default)]
struct Model {
    users: BTreeMap<&'static str, BTreeSet<&'static str>>,
    roles: BTreeMap<&'static str, BTreeMap<(u8, u8), u8>>,
    closed: bool,
    revision: u64,
}

const USERS: [&str; 3] = ["root", "ann", "bob"];
const ROLES: [&str; 3] = ["root", "r1", "r2"];

#[derive(Clone, Debug)]
enum Step {
    AddUser(usize),
    RemoveUser(usize),
    Grant(usize, usize),
    Revoke(usize, usize),
    AddRole(usize),
    RemoveRole(usize),
    Allow(usize, u8, u8, u8),
    Forbid(usize, u8, u8),
    Close,
    Open,
    Do(usize, u8, u8, u8),
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    // From a letter to before another; the end 0 is open, 1 the one letter alone.
    let range = || (0u8..5, prop_oneof![Just(0u8), Just(1u8), 2u8..7]);
    prop_oneof![
        3 => (0..3usize).prop_map(Step::AddUser),
        1 => (0..3usize).prop_map(Step::RemoveUser),
        4 => (0..3usize, 0..3usize).prop_map(|(user, role)| Step::Grant(user, role)),
        1 => (0..3usize, 0..3usize).prop_map(|(user, role)| Step::Revoke(user, role)),
        3 => (0..3usize).prop_map(Step::AddRole),
        1 => (0..3usize).prop_map(Step::RemoveRole),
        6 => (0..3usize, range(), 1u8..4).prop_map(|(role, (from, to), verbs)| Step::Allow(role, from, to, verbs)),
        1 => (0..3usize, range()).prop_map(|(role, (from, to))| Step::Forbid(role, from, to)),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
        8 => (0..3usize, range(), 1u8..4).prop_map(|(user, (from, to), verbs)| Step::Do(user, from, to, verbs)),
        1 => Just(Step::Restore),
    ]
}

fn letter(at: u8) -> Blob {
    Blob::copy_from(&[b'a' + at])
}

fn end(to: u8) -> Blob {
    match to {
        0 => "\0".into(),
        1 => Blob::EMPTY,
        to => letter(to - 2),
    }
}

/// Letters of a range, and whether it is open.
fn letters(from: u8, to: u8) -> (std::ops::Range<u8>, bool) {
    match to {
        0 => (from..40, true),
        1 => (from..from + 1, false),
        to => (from..to - 2, false),
    }
}

impl Model {
    fn take(&mut self, step: &Step) -> Result<bool, AccessRefusal> {
        use AccessRefusal as Why;
        let missing = |user: &str, users: &BTreeMap<&str, BTreeSet<&str>>| !users.contains_key(user);
        match *step {
            Step::AddUser(at) => {
                if self.users.contains_key(USERS[at]) {
                    return Err(Why::UserExists {});
                }
                self.users.insert(USERS[at], BTreeSet::new());
            }
            Step::RemoveUser(at) => {
                if self.closed && at == 0 {
                    return Err(Why::Protected {});
                }
                self.users.remove(USERS[at]).ok_or(Why::UserMissing {})?;
            }
            Step::Grant(user, role) => {
                if missing(USERS[user], &self.users) {
                    return Err(Why::UserMissing {});
                }
                if role != 0 && !self.roles.contains_key(ROLES[role]) {
                    return Err(Why::RoleMissing {});
                }
                return Ok(self.users.get_mut(USERS[user]).unwrap().insert(ROLES[role]));
            }
            Step::Revoke(user, role) => {
                if self.closed && user == 0 && role == 0 {
                    return Err(Why::Protected {});
                }
                let roles = self.users.get_mut(USERS[user]).ok_or(Why::UserMissing {})?;
                if !roles.remove(ROLES[role]) {
                    return Err(Why::RoleNotGranted {});
                }
            }
            Step::AddRole(at) => {
                if self.roles.contains_key(ROLES[at]) {
                    return Err(Why::RoleExists {});
                }
                self.roles.insert(ROLES[at], BTreeMap::new());
            }
            Step::RemoveRole(at) => {
                if self.closed && at == 0 {
                    return Err(Why::Protected {});
                }
                self.roles.remove(ROLES[at]).ok_or(Why::RoleMissing {})?;
                self.users.values_mut().for_each(|roles| {
                    roles.remove(ROLES[at]);
                });
            }
            Step::Allow(at, from, to, verbs) => {
                if letters(from, to).0.is_empty() {
                    return Err(Why::Protected {});
                }
                self.roles.get_mut(ROLES[at]).ok_or(Why::RoleMissing {})?.insert((from, to), verbs);
            }
            Step::Forbid(at, from, to) => {
                let role = self.roles.get_mut(ROLES[at]).ok_or(Why::RoleMissing {})?;
                role.remove(&(from, to)).ok_or(Why::RuleMissing {})?;
            }
            Step::Close => {
                if self.closed {
                    return Ok(false);
                }
                if !self.users.get("root").ok_or(Why::RootMissing {})?.contains("root") {
                    return Err(Why::RootWithoutRole {});
                }
                self.closed = true;
                // As with etcd, that is no change of users.
                self.revision = self.revision.wrapping_sub(1);
            }
            Step::Open => {
                if !self.closed {
                    return Ok(false);
                }
                self.closed = false;
            }
            Step::Do(..) | Step::Restore => return Ok(false),
        }
        Ok(true)
    }

    fn may(&self, user: &str, from: u8, to: u8, verbs: u8) -> bool {
        let Some(roles) = self.users.get(user) else { return false };
        if roles.contains("root") {
            return true;
        }
        let rules = || roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        let (wanted, open) = letters(from, to);
        [1, 2].into_iter().filter(|verb| verbs & verb != 0).all(|verb| {
            let of =
                || rules().filter(|(_, verbs)| *verbs & verb != 0).map(|((from, to), _)| letters(*from, *to));
            wanted.clone().all(|letter| {
                // A rule of one name holds that name alone, not what lies between two letters.
                of().any(|(held, _)| held.contains(&letter))
            }) && (!open || of().any(|(_, open)| open))
        })
    }
}

fn body(step: &Step) -> Option<AccessChange> {
    Some(match *step {
        Step::AddUser(at) => AccessChange::AddUser { name: USERS[at].into(), scram: Some(scram(at as u8)) },
        Step::RemoveUser(at) => AccessChange::RemoveUser { name: USERS[at].into() },
        Step::Grant(user, role) => {
            AccessChange::GrantRole { user: USERS[user].into(), role: ROLES[role].into() }
        }
        Step::Revoke(user, role) => {
            AccessChange::RevokeRole { user: USERS[user].into(), role: ROLES[role].into() }
        }
        Step::AddRole(at) => AccessChange::AddRole { name: ROLES[at].into() },
        Step::RemoveRole(at) => AccessChange::RemoveRole { name: ROLES[at].into() },
        Step::Allow(at, from, to, verbs) => AccessChange::Allow {
            role: ROLES[at].into(),
            rule: RangeRule { start: letter(from), end: end(to), verbs: Verbs(verbs) },
        },
        Step::Forbid(at, from, to) => {
            AccessChange::Forbid { role: ROLES[at].into(), start: letter(from), end: end(to) }
        }
        Step::Close => AccessChange::CloseDoor {},
        Step::Open => AccessChange::OpenDoor {},
        Step::Do(..) | Step::Restore => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn roles_are_those_of_a_simple_model(steps in proptest::collection::vec(step(), 1..80)) {
        let mut d = driver();
        let mut model = Model { revision: 1, ..Model::default() };
        for step in steps {
            if let Some(change) = body(&step) {
                let found = d.send_as("server", CommandBody::ChangeAccess { change, may_lock_out: false });
                match model.take(&step) {
                    Ok(changed) => {
                        model.revision = model.revision.wrapping_add(u64::from(changed));
                        prop_assert!(is_done(&found), "{:?}: {:?}", step, found);
                    }
                    Err(why) => prop_assert_eq!(found, refused(why), "{:?}", step),
                }
                prop_assert_eq!(d.machine.access_revision(), model.revision, "{:?}", step);
                prop_assert_eq!(d.machine.door_is_open(), !model.closed);
            }
            match step {
                Step::Restore => d.restore_both(),
                Step::Do(user, from, to, verbs) if to != 1 && !letters(from, to).0.is_empty() => {
                    // A range is asked for; rules of one name do not make one up.
                    let ranges = |rule: &(u8, u8)| rule.1 != 1;
                    let mut whole = Model { closed: model.closed, revision: 0, users: model.users.clone(), ..Model::default() };
                    whole.roles = model.roles.iter().map(|(name, rules)| {
                        (*name, rules.iter().filter(|(rule, _)| ranges(rule)).map(|(rule, verbs)| (*rule, *verbs)).collect())
                    }).collect();
                    let end = end(to);
                    let end = (to != 0).then_some(end);
                    let range = KeyRange { start: Key { space: Keyspace::DEFAULT, name: letter(from) }, end };
                    let rights = d.machine.rights(&Principal::of_user(&USERS[user].into()));
                    let wanted = whole.may(USERS[user], from, to, verbs);
                    prop_assert_eq!(rights.range(Verbs(verbs), &range).is_ok(), wanted, "{:?}", step);
                }
                Step::Do(user, from, _, verbs) => {
                    let rights = d.machine.rights(&Principal::of_user(&USERS[user].into()));
                    let wanted = model.may(USERS[user], from, 1, verbs);
                    let found = rights.name(Verbs(verbs), Keyspace::DEFAULT, &letter(from)).is_ok();
                    prop_assert_eq!(found, wanted, "{:?}", step);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn roles_speak_of_the_default_keyspace_alone() {
    let mut d = closed();
    let verbs = Verbs::READ.and(Verbs::WRITE);
    let rule = RangeRule { start: Blob::copy_from(&[0]), end: Blob::copy_from(&[0]), verbs };
    change(&mut d, "user:root", AccessChange::AddRole { name: "all".into() });
    change(&mut d, "user:root", AccessChange::Allow { role: "all".into(), rule });
    change(&mut d, "user:root", AccessChange::GrantRole { user: "ann".into(), role: "all".into() });
    let rights = d.machine.rights(&Principal::of_user(&"ann".into()));
    let range = |space| KeyRange { start: Key { space, name: "a".into() }, end: None };
    assert!(rights.name(verbs, Keyspace::DEFAULT, &"a".into()).is_ok());
    assert!(rights.range(verbs, &range(Keyspace::DEFAULT)).is_ok());
    let other = Keyspace(Keyspace::DEFAULT.0 + 1);
    for verb in [Verbs::READ, Verbs::WRITE] {
        assert!(rights.name(verb, other, &"a".into()).is_err(), "{verb:?}");
        assert!(rights.range(verb, &range(other)).is_err(), "{verb:?}");
        assert!(rights.everything(verb).is_err(), "{verb:?}: what all keyspaces hold is more");
    }
}

#[test]
fn the_user_default_stands_for_the_door_and_is_none_of_these_changes() {
    let mut d = closed();
    let name = || Blob::from("default");
    let missing = || refused(AccessRefusal::UserMissing {});
    let role = || Blob::from(ROOT);
    change(&mut d, "user:root", AccessChange::AddRole { name: "r".into() });
    for what in [
        AccessChange::ChangePassword { name: name(), scram: scram(9) },
        AccessChange::RemoveUser { name: name() },
        AccessChange::GrantRole { user: name(), role: role() },
        AccessChange::RevokeRole { user: name(), role: role() },
    ] {
        assert_eq!(change(&mut d, "user:root", what), missing());
    }
    // It is always there: one that were added, with a password, would close the door.
    let mut d = driver();
    let add = AccessChange::AddUser { name: name(), scram: Some(scram(9)) };
    assert_eq!(change(&mut d, "anonymous", add), refused(AccessRefusal::UserExists {}));
    assert!(d.machine.door_is_open());
}

#[test]
fn a_door_that_is_closed_already_is_left_as_it_was_closed() {
    let mut d = driver();
    // By a password: who has it goes on entering as `default`. There is no root, and none is asked for.
    let changes = vec![UserChange::NoPassword { on: false }, UserChange::AddScram { scram: scram(7) }];
    let body = CommandBody::ChangeUser { name: "default".into(), changes, may_lock_out: false };
    assert!(is_done(&d.send_as("server", body)));
    let default = |d: &Driver| d.machine.user(b"default").expect("it is always there").user().clone();
    let before = default(&d);
    assert!(!d.machine.door_is_open() && before.enabled);
    assert!(is_done(&change(&mut d, "server", AccessChange::CloseDoor {})));
    assert_eq!(default(&d), before);
}

#[test]
fn a_range_that_a_role_is_given_again_has_what_it_was_given_last() {
    let mut d = closed();
    change(&mut d, "user:root", AccessChange::AddRole { name: "r".into() });
    change(&mut d, "user:root", AccessChange::GrantRole { user: "ann".into(), role: "r".into() });
    for verbs in [Verbs::READ, Verbs::WRITE] {
        let rule = RangeRule { start: "a".into(), end: "c".into(), verbs };
        assert!(is_done(&change(&mut d, "user:root", AccessChange::Allow { role: "r".into(), rule })));
    }
    let rights = d.machine.rights(&Principal::of_user(&"ann".into()));
    assert!(rights.name(Verbs::WRITE, Keyspace::DEFAULT, &"b".into()).is_ok());
    assert!(rights.name(Verbs::READ, Keyspace::DEFAULT, &"b".into()).is_err());
    assert_eq!(d.machine.role(b"r").map(|role| role.rules.len()), Some(1));
}
