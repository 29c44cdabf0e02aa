//! Roles, tokens, and changes of users that depend on what is there.
//!
//! A role is ranges of names with verbs. What a user's roles allow is merged into stretches of names, one list for each verb, so that a range is
//! allowed when the roles cover it together; `users` asks here beside the user's own rules, and a denial among those outweighs this too.
//!
//! Invariant: stretches of one list are in order, and do not touch.
//! Invariant: a token that is valid belongs to a user that is there and has the password by which the token was given.
//! Called by: `users` (what is granted), `Machine::execute` (changes).
//! Source: etcd's authentication, whose answers clients know: which change needs what, and what counts as one.

use crate::table::Table;
use crate::users::Row;
use crate::{Machine, Now};
use quorate_calls::permissions::Categories;
use quorate_types::{
    AccessChange, AccessRefusal, Blob, DEFAULT_USER, Digest, LogIndex, LogTime, Outcome, ROOT, RULES_MAX,
    RangeRule, Refusal, Role, Scram, TOKENS_MAX, Token, User, UserChange, Verbs,
};
use std::collections::BTreeSet;

/// Stretches of names, each from one to before another, or open.
#[derive(Debug, Default)]
pub(crate) struct Stretches(Vec<(Blob, Option<Blob>)>);

impl Stretches {
    fn of(mut all: Vec<(Blob, Option<Blob>)>) -> Self {
        all.sort_unstable();
        let mut merged: Vec<(Blob, Option<Blob>)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            if end.as_ref().is_some_and(|end| *end <= start) {
                continue; // It holds no name.
            }
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if start <= *last => match end {
                    Some(end) if end <= *last => {}
                    end => merged.last_mut().expect("it was just looked at").1 = end,
                },
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    /// Whether one of them holds the name.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        let next = self.0.partition_point(|(start, _)| start.as_slice() <= name);
        next.checked_sub(1).is_some_and(|at| self.0[at].1.as_ref().is_none_or(|end| name < end.as_slice()))
    }

    /// Whether one of them holds everything from `start` to before `end`.
    pub(crate) fn covers(&self, start: &[u8], end: Option<&Blob>) -> bool {
        let next = self.0.partition_point(|(from, _)| from.as_slice() <= start);
        let Some(at) = next.checked_sub(1) else { return false };
        match (&self.0[at].1, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(to), Some(end)) => end <= to && start < to.as_slice(),
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a user's roles allow.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    /// Everything.
    pub(crate) root: bool,
    pub(crate) read: Stretches,
    pub(crate) write: Stretches,
}

impl Granted {
    pub(crate) fn of(user: &User, roles: &Table<Blob, Role>) -> Self {
        if user.roles.is_empty() {
            return Self::default();
        }
        let rules = || user.roles.iter().filter_map(|name| roles.get(name)).flat_map(|role| &role.rules);
        let stretches = |verb| {
            Stretches::of(rules().filter(|rule| rule.verbs.has(verb)).map(RangeRule::stretch).collect())
        };
        let root = user.roles.iter().any(|role| **role == *ROOT.as_bytes());
        Self { root, read: stretches(Verbs::READ), write: stretches(Verbs::WRITE) }
    }

    /// Whether roles bring a command along that no rule of the user speaks of: those that read or write, as the verbs do, and those that a
    /// connection needs.
    pub(crate) fn runs(&self, categories: Categories) -> bool {
        let is = |name: &str| Categories::named(name.as_bytes()).is_some_and(|one| categories.has(one));
        let (reads, writes) = (!self.read.is_empty(), !self.write.is_empty());
        self.root
            || (!is("admin")
                && !is("dangerous")
                && ((reads && is("read"))
                    || (writes && is("write"))
                    || ((reads || writes) && (is("connection") || is("transaction")))))
    }

    /// Whether roles allow each of the verbs, or any where there is none, by what is asked of their stretches.
    pub(crate) fn allows(&self, verb: Verbs, ask: impl Fn(&Stretches) -> bool) -> bool {
        self.root
            || match verb {
                Verbs::READ => ask(&self.read),
                Verbs::WRITE => ask(&self.write),
                _ => ask(&self.read) || ask(&self.write),
            }
    }
}

/// Tokens, and in which order they end.
#[derive(Default)]
pub(crate) struct Tokens {
    pub(crate) rows: Table<Digest, Token>,
    due: BTreeSet<(LogTime, Digest)>,
}

impl Tokens {
    fn set(&mut self, hash: Digest, token: Option<Token>) {
        let due = token.as_ref().map(|token| (token.until, hash));
        if let Some(before) = self.rows.set(hash, token) {
            self.due.remove(&(before.until, hash));
        }
        self.due.extend(due);
    }

    fn open(&mut self, hash: Digest, user: &Blob, until: LogTime) {
        if self.rows.len() >= TOKENS_MAX && self.rows.get(&hash).is_none() {
            self.expire_next();
        }
        self.set(hash, Some(Token { user: user.clone(), until }));
    }

    /// When the next one ends.
    pub(crate) fn next_due(&self) -> Option<LogTime> {
        self.due.first().map(|(ends, _)| *ends)
    }

    /// Forgets the one that ends next.
    pub(crate) fn expire_next(&mut self) {
        if let Some((_, hash)) = self.due.first() {
            let hash = *hash;
            self.set(hash, None);
        }
    }

    pub(crate) fn forget_user(&mut self, user: &Blob) {
        let gone: Vec<Digest> =
            self.rows.iter().filter(|(_, token)| token.user == *user).map(|(hash, _)| *hash).collect();
        gone.into_iter().for_each(|hash| self.set(hash, None));
    }

    fn forget_all(&mut self) {
        let gone: Vec<Digest> = self.rows.iter().map(|(hash, _)| *hash).collect();
        gone.into_iter().for_each(|hash| self.set(hash, None));
    }

    pub(crate) fn restored(&mut self) {
        self.due = self.rows.iter().map(|(hash, token)| (token.until, *hash)).collect();
    }
}

impl Machine {
    /// How often users or roles have changed, from 1 on: what clients of etcd know as the revision of its authentication.
    #[must_use]
    pub fn access_revision(&self) -> u64 {
        self.users.revision()
    }

    /// A role.
    #[must_use]
    pub fn role(&self, name: &[u8]) -> Option<&Role> {
        self.users.roles.get(&Blob::copy_from(name))
    }

    /// Names of all roles, in order.
    #[must_use]
    pub fn role_names(&self) -> Vec<Blob> {
        self.users.roles.iter().map(|(name, _)| name.clone()).collect()
    }

    /// A token that is valid at the log time of the last entry.
    #[must_use]
    pub fn token(&self, hash: &Digest) -> Option<&Token> {
        self.users.given.rows.get(hash).filter(|token| token.until > self.time)
    }

    /// Executes a change of users or roles.
    pub(crate) fn change_access(&mut self, change: &AccessChange, may_lock_out: bool, now: &Now) -> Outcome {
        if let AccessChange::Enter { user, token, ttl, revision } = change {
            return match self.enter(user, *token, now.time.plus(*ttl), *revision) {
                Ok(()) => Outcome::Done { revision: self.revision },
                Err(why) => Outcome::Refused { refusal: Refusal::Access { why } },
            };
        }
        let mark = self.users.mark();
        match self.changed_access(change, now.index) {
            Err(why) => {
                // Nothing was set: every rule is looked at before the first change.
                return Outcome::Refused { refusal: Refusal::Access { why } };
            }
            Ok(false) => return Outcome::Done { revision: self.revision },
            Ok(true) => self.users.compile(),
        }
        if !may_lock_out && !self.somebody_manages(|_| None) {
            self.users.rollback(mark);
            self.users.compile();
            return Outcome::Refused { refusal: Refusal::LockOut {} };
        }
        if !matches!(change, AccessChange::CloseDoor {}) {
            self.users.count();
        }
        match change {
            AccessChange::ChangePassword { name, .. } | AccessChange::RemoveUser { name } => {
                self.users.given.forget_user(name);
            }
            AccessChange::OpenDoor {} => self.users.given.forget_all(),
            _ => {}
        }
        self.users.touched(now.index);
        Outcome::Done { revision: self.revision }
    }

    fn enter(
        &mut self,
        user: &Blob,
        token: Digest,
        until: LogTime,
        revision: u64,
    ) -> Result<(), AccessRefusal> {
        if revision != self.users.revision() {
            return Err(AccessRefusal::OldRevision {});
        }
        if self.door_is_open() {
            return Err(AccessRefusal::DoorIsOpen {});
        }
        if self.user(user).is_none() {
            return Err(AccessRefusal::UserMissing {});
        }
        self.users.given.open(token, user, until);
        Ok(())
    }

    /// Makes a change, once all that it needs is there; whether there was anything to change.
    fn changed_access(&mut self, change: &AccessChange, index: LogIndex) -> Result<bool, AccessRefusal> {
        use AccessRefusal as Why;
        let closed = !self.door_is_open();
        let is_root = |name: &Blob| **name == *ROOT.as_bytes();
        match change {
            AccessChange::AddUser { name, .. } if name.is_empty() => return Err(Why::UserEmpty {}),
            AccessChange::AddUser { name, scram } => {
                // The user `default` is always there.
                if self.user(name).is_some() {
                    return Err(Why::UserExists {});
                }
                let user = User { enabled: true, scram: scram.iter().cloned().collect(), ..User::default() };
                self.users.put(name, Some(Row { user, created: index }));
            }
            AccessChange::ChangePassword { name, scram } => {
                let mut row = self.own_row(name)?;
                change_password(&mut row.user, scram);
                self.users.put(name, Some(row));
            }
            AccessChange::RemoveUser { name } => {
                if closed && is_root(name) {
                    return Err(Why::Protected {});
                }
                self.own_row(name)?;
                self.users.put(name, None);
            }
            AccessChange::GrantRole { user, role } => {
                let mut row = self.own_row(user)?;
                if !is_root(role) && self.users.roles.get(role).is_none() {
                    return Err(Why::RoleMissing {});
                }
                let Err(at) = row.user.roles.binary_search(role) else { return Ok(false) };
                row.user.roles.insert(at, role.clone());
                few(row.user.roles.len())?;
                self.users.put(user, Some(row));
            }
            AccessChange::RevokeRole { user, role } => {
                if closed && is_root(user) && is_root(role) {
                    return Err(Why::Protected {});
                }
                let mut row = self.own_row(user)?;
                let at = row.user.roles.binary_search(role).map_err(|_| Why::RoleNotGranted {})?;
                row.user.roles.remove(at);
                self.users.put(user, Some(row));
            }
            AccessChange::AddRole { name } if name.is_empty() => return Err(Why::RoleEmpty {}),
            AccessChange::AddRole { name } => {
                if self.users.roles.get(name).is_some() {
                    return Err(Why::RoleExists {});
                }
                self.users.roles.set(name.clone(), Some(Role::default()));
            }
            AccessChange::RemoveRole { name } => {
                if closed && is_root(name) {
                    return Err(Why::Protected {});
                }
                if self.users.roles.set(name.clone(), None).is_none() {
                    return Err(Why::RoleMissing {});
                }
                self.users.take_role_from_all(name);
            }
            AccessChange::Allow { role, rule } => {
                if !rule.is_range() {
                    return Err(Why::Protected {});
                }
                let mut row = self.users.roles.get(role).cloned().ok_or(Why::RoleMissing {})?;
                let same = |other: &RangeRule| other.start == rule.start && other.end == rule.end;
                row.rules.retain(|other| !same(other));
                let at =
                    row.rules.partition_point(|other| (&other.start, &other.end) < (&rule.start, &rule.end));
                row.rules.insert(at, rule.clone());
                few(row.rules.len())?;
                self.users.roles.set(role.clone(), Some(row));
            }
            AccessChange::Forbid { role, start, end } => {
                let mut row = self.users.roles.get(role).cloned().ok_or(Why::RoleMissing {})?;
                let before = row.rules.len();
                row.rules.retain(|rule| rule.start != *start || rule.end != *end);
                if row.rules.len() == before {
                    return Err(Why::RuleMissing {});
                }
                self.users.roles.set(role.clone(), Some(row));
            }
            AccessChange::CloseDoor {} if closed => return Ok(false),
            AccessChange::CloseDoor {} => {
                let root = self.user(ROOT.as_bytes()).ok_or(Why::RootMissing {})?;
                if !root.user().roles.iter().any(is_root) {
                    return Err(Why::RootWithoutRole {});
                }
                self.change_default(index, |user| user.enabled = false);
            }
            AccessChange::OpenDoor {} if !closed => return Ok(false),
            AccessChange::OpenDoor {} => self.change_default(index, |user| {
                if user.commands.is_empty() && user.names.is_empty() && user.roles.is_empty() {
                    // Whoever entered could do nothing: as it is in the beginning.
                    *user = User::open_door();
                }
                user.enabled = true;
                user.change(&UserChange::NoPassword { on: true });
            }),
            AccessChange::Enter { .. } => {}
        }
        Ok(true)
    }

    /// The row of a user that these changes may be about: any but `default`, which stands for the door.
    fn own_row(&self, name: &Blob) -> Result<Row, AccessRefusal> {
        let row = if **name == *DEFAULT_USER.as_bytes() { None } else { self.users.row(name) };
        row.cloned().ok_or(AccessRefusal::UserMissing {})
    }

    fn change_default(&mut self, index: LogIndex, change: impl FnOnce(&mut User)) {
        let name = Blob::from(DEFAULT_USER);
        let new = || Row { user: User::open_door(), created: index };
        let mut row = self.users.row(&name).cloned().unwrap_or_else(new);
        change(&mut row.user);
        self.users.put(&name, Some(row));
    }
}

fn change_password(user: &mut User, scram: &Scram) {
    user.change(&UserChange::ForgetPasswords {});
    user.change(&UserChange::AddScram { scram: scram.clone() });
}

fn few(found: usize) -> Result<(), AccessRefusal> {
    if found > RULES_MAX {
        return Err(AccessRefusal::TooMany { found: found as u64, max: RULES_MAX as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stretches(all: &[(&str, Option<&str>)]) -> Stretches {
        Stretches::of(all.iter().map(|(start, end)| ((*start).into(), end.map(Into::into))).collect())
    }

    #[test]
    fn stretches_that_touch_are_one() {
        let all =
            stretches(&[("m", None), ("c", Some("e")), ("a", Some("c")), ("x", Some("y")), ("f", Some("f"))]);
        assert_eq!(all.0, [("a".into(), Some("e".into())), ("m".into(), None)]);
        assert!(all.covers(b"b", Some(&"d".into())) && !all.covers(b"b", Some(&"f".into())));
        assert!(all.covers(b"n", None) && !all.covers(b"a", None));
        assert!(all.has(b"dz") && !all.has(b"e") && all.has(b"zzz") && !all.has(b"A"));
    }

    proptest! {
        #[test]
        fn a_stretch_holds_what_some_range_holds(
            ranges in proptest::collection::vec((0u8..12, proptest::option::of(0u8..13)), 0..6),
            start in 0u8..12,
            end in proptest::option::of(0u8..13),
        ) {
            let blob = |at: u8| Blob::copy_from(&[at]);
            let all = Stretches::of(ranges.iter().map(|(from, to)| (blob(*from), to.map(blob))).collect());
            let held = |at: u8| ranges.iter().any(|(from, to)| *from <= at && to.is_none_or(|to| at < to));
            prop_assert_eq!(all.has(&[start]), held(start));
            // Names between two of one byte belong with the first, so single bytes tell of whole ranges.
            let wanted = match end {
                Some(end) => start < end && (start..end).all(held),
                None => (start..12).all(held) && ranges.iter().any(|(_, to)| to.is_none()),
            };
            if end.is_none_or(|end| start < end) {
                prop_assert_eq!(all.covers(&[start], end.map(blob).as_ref()), wanted);
            }
        }
    }
}
