//! Users: what one of them may do, by a rule simple enough to be believed, and changes of it among everything else.
//!
//! Invariant: a commit of a user is decided by the changes that stand before it in the log, whatever was in force where it was sent.
//! Called by: `workload` (what is sent), `model` (what may come of it).

use crate::door::{self, Door};
use crate::random::Random;
use quorate_machine::Machine;
use quorate_types::{
    AccessChange, AccessRefusal, Blob, Command, CommandBody, CommandRule, Commit, Denied, Digest, Key,
    LeaseId, NameRule, Op, OpError, Outcome, Principal, RangeRule, Refusal, UserChange, Verbs,
};
use std::collections::BTreeSet;

/// The user that everything here is about.
const NAME: &str = "sam";
/// The role that it has at times, and the only range that the role speaks of: names that begin with `u/a`.
const ROLE: &str = "writers";
const RANGE: (&str, &str) = ("u/a", "u/b");

/// What the log has made of the user so far.
#[derive(Default)]
pub(crate) struct Users {
    there: bool,
    enabled: bool,
    /// The last word about the command `set`; none when nothing was said, so that a role decides.
    may_set: Option<bool>,
    /// Whether names that begin with `u/a` may be written, and whether those with `u/ab` may not.
    allowed: bool,
    denied: bool,
    has_role: bool,
    role: Role,
    /// The secrets by which it enters.
    secrets: BTreeSet<u8>,
    pub(crate) door: Door,
}

/// What the log has made of the role.
#[derive(Clone, Copy, Default)]
struct Role {
    there: bool,
    writes: bool,
}

/// Something about users, as whoever may send it.
pub(crate) fn act(random: &mut Random, machine: &Machine) -> (CommandBody, Principal) {
    if random.chance(3) {
        return door::act(random, machine, NAME);
    }
    let user = Principal::of_user(&NAME.into());
    if random.chance(2) {
        let key = Key::new(["u/aa", "u/ab", "u/b"][random.below(3) as usize]);
        let value = Blob::from(format!("{}", random.below(9)));
        let op = Op::Put { key, value, lease: LeaseId::ZERO, prev: false };
        return (CommandBody::Commit { commit: Commit::of(vec![op]) }, user);
    }
    let names: Vec<Blob> = vec![NAME.into()];
    if random.chance(3) {
        return (CommandBody::ChangeAccess { change: access(random), may_lock_out: true }, "server".into());
    }
    if random.chance(12) {
        return (CommandBody::RemoveUsers { names, may_lock_out: true }, "server".into());
    }
    let change = match random.below(8) {
        0 => UserChange::Enable { on: false },
        1 | 2 => UserChange::Enable { on: true },
        3 => UserChange::Command { rule: CommandRule { allow: random.chance(2), what: "set".into() } },
        4 => UserChange::Command { rule: CommandRule { allow: true, what: "@write".into() } },
        5 => UserChange::ForgetNames {},
        6 => UserChange::Name { rule: rule(false, "u/ab*") },
        _ => UserChange::Name { rule: rule(true, "u/a*") },
    };
    let mut changes = vec![change];
    if random.chance(3) {
        changes.push(UserChange::AddSha256 { hash: Digest([random.below(3) as u8; 32]) });
        changes.push(UserChange::Name { rule: rule(true, "u/a*") });
        changes.push(UserChange::Command { rule: CommandRule { allow: true, what: "set".into() } });
        changes.push(UserChange::Enable { on: true });
    }
    (CommandBody::ChangeUser { name: NAME.into(), changes, may_lock_out: true }, "server".into())
}

fn access(random: &mut Random) -> AccessChange {
    let (user, role) = (Blob::from(NAME), Blob::from(ROLE));
    let (start, end) = (Blob::from(RANGE.0), Blob::from(RANGE.1));
    match random.below(10) {
        0 => AccessChange::AddUser { name: user, scram: None },
        1 if random.chance(2) => AccessChange::RemoveUser { name: user },
        2 | 3 => AccessChange::AddRole { name: role },
        4 if random.chance(2) => AccessChange::RemoveRole { name: role },
        5 => AccessChange::RevokeRole { user, role },
        6 => AccessChange::Forbid { role, start, end },
        7 => {
            AccessChange::Allow { role, rule: RangeRule { start, end, verbs: Verbs::WRITE.and(Verbs::READ) } }
        }
        _ => AccessChange::GrantRole { user, role },
    }
}

fn rule(allow: bool, pattern: &str) -> NameRule {
    NameRule { allow, verbs: Verbs::WRITE, space: None, pattern: pattern.into() }
}

impl Users {
    /// Takes a command and what came of it: nothing when it is about no user, or as it has to be; else which probe it is.
    ///
    /// # Errors
    /// It was allowed where it may not be, or refused where it may.
    pub(crate) fn take(
        &mut self,
        command: &Command,
        outcome: &Outcome,
    ) -> Result<Option<&'static str>, String> {
        if let Some(probe) = self.door.take(command, outcome, self.there)? {
            return Ok(probe);
        }
        match (&command.body, outcome) {
            (CommandBody::ChangeUser { changes, .. }, Outcome::Done { .. }) => {
                self.there = true;
                let before = self.secrets.clone();
                changes.iter().for_each(|change| self.change(change));
                self.door.counted();
                Ok(if self.secrets == before { None } else { self.door.forget() })
            }
            (CommandBody::ChangeAccess { change, .. }, outcome) => {
                let found = match outcome {
                    Outcome::Done { .. } => Ok(()),
                    Outcome::Refused { refusal: Refusal::Access { why } } => Err(why.clone()),
                    other => return Err(format!("{change:?} came to {other:?}")),
                };
                let wanted = self.access(change);
                if found != wanted {
                    return Err(format!("{change:?} came to {found:?}, not to {wanted:?}"));
                }
                if found.is_err() {
                    return Ok(Some("users: a change of roles refused"));
                }
                // One that it has already is granted anew without being counted.
                if !matches!(change, AccessChange::GrantRole { .. }) {
                    self.door.counted();
                }
                Ok(if self.there { None } else { self.door.forget() })
            }
            (CommandBody::RemoveUsers { .. }, Outcome::Committed { .. }) => {
                if self.there {
                    self.door.counted();
                }
                self.remove();
                Ok(self.door.forget())
            }
            (CommandBody::Commit { commit }, outcome)
                if command.principal == Principal::of_user(&NAME.into()) =>
            {
                let [Op::Put { key, .. }] = commit.then.as_slice() else { return Ok(None) };
                let may = self.there
                    && self.enabled
                    && self.may_set.unwrap_or(self.writes())
                    && self.may_write(key);
                let found = !matches!(
                    outcome,
                    Outcome::Refused {
                        refusal: Refusal::Denied { .. }
                            | Refusal::Operation { error: OpError::Denied { .. }, .. }
                    }
                );
                if may != found {
                    return Err(format!(
                        "{NAME} {} write {key}, and it came to {outcome:?}",
                        if may { "may" } else { "may not" }
                    ));
                }
                Ok(Some(match outcome {
                    Outcome::Refused { refusal: Refusal::Denied { denied: Denied::Gone { .. } } } => {
                        "users: one that is gone refused"
                    }
                    Outcome::Refused { .. } => "users: an operation refused",
                    _ => "users: an operation allowed",
                }))
            }
            _ => Ok(None),
        }
    }

    fn remove(&mut self) {
        let door = std::mem::take(&mut self.door);
        *self = Self { role: self.role, door, ..Self::default() };
    }

    /// Whether its role has it write.
    fn writes(&self) -> bool {
        self.has_role && self.role.writes
    }

    fn access(&mut self, change: &AccessChange) -> Result<(), AccessRefusal> {
        use AccessRefusal as Why;
        let need = |so: bool, why: Why| if so { Ok(()) } else { Err(why) };
        match change {
            AccessChange::AddUser { .. } => {
                need(!self.there, Why::UserExists {})?;
                (self.there, self.enabled) = (true, true);
            }
            AccessChange::RemoveUser { .. } => {
                need(self.there, Why::UserMissing {})?;
                self.remove();
            }
            AccessChange::AddRole { .. } => {
                need(!self.role.there, Why::RoleExists {})?;
                self.role = Role { there: true, writes: false };
            }
            AccessChange::RemoveRole { .. } => {
                need(self.role.there, Why::RoleMissing {})?;
                (self.role, self.has_role) = (Role::default(), false);
            }
            AccessChange::GrantRole { .. } => {
                need(self.there, Why::UserMissing {})?;
                need(self.role.there, Why::RoleMissing {})?;
                self.has_role = true;
            }
            AccessChange::RevokeRole { .. } => {
                need(self.there, Why::UserMissing {})?;
                need(self.has_role, Why::RoleNotGranted {})?;
                self.has_role = false;
            }
            AccessChange::Allow { .. } => {
                need(self.role.there, Why::RoleMissing {})?;
                self.role.writes = true;
            }
            AccessChange::Forbid { .. } => {
                need(self.role.there, Why::RoleMissing {})?;
                need(self.role.writes, Why::RuleMissing {})?;
                self.role.writes = false;
            }
            AccessChange::ChangePassword { .. }
            | AccessChange::CloseDoor {}
            | AccessChange::OpenDoor {}
            | AccessChange::Enter { .. } => {} // Those that are sent are `door`'s.
        }
        Ok(())
    }

    fn change(&mut self, change: &UserChange) {
        match change {
            UserChange::Enable { on } => self.enabled = *on,
            UserChange::AddSha256 { hash } => drop(self.secrets.insert(hash.0[0])),
            UserChange::Command { rule } => self.may_set = Some(rule.allow),
            UserChange::ForgetNames {} => (self.allowed, self.denied) = (false, false),
            UserChange::Name { rule } if rule.allow => self.allowed = true,
            UserChange::Name { .. } => self.denied = true,
            _ => {}
        }
    }

    fn may_write(&self, key: &Key) -> bool {
        let name = key.name.as_slice();
        (self.allowed || self.writes())
            && name.starts_with(b"u/a")
            && !(self.denied && name.starts_with(b"u/ab"))
    }
}
