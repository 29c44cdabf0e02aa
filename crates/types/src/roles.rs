//! Roles: named bundles of rights over ranges of keys, and the changes of users and roles that depend on what is there.
//!
//! A user has its own rules (`users`) and those of its roles together. A role speaks of ranges of names in the default keyspace, and brings the
//! commands of its verbs along. The role [`ROOT`] allows everything, whether it was made or not.
//!
//! Invariant: a range is kept as it was given, so that it is shown and taken back as it was given.
//! Called by: gateways make changes, the machine keeps roles and decides.
//! Source: etcd's authentication (etcd.io, "Role-based access control"); Redis' ACL for the rest of a user.

use crate::blob::Blob;
use crate::scram::Scram;
use crate::units::{LogTime, Millis};
use crate::users::{Digest, Verbs};
use crate::{wire_enum, wire_struct};

/// The role that allows everything, and the user that has to have it before the door can be closed by [`AccessChange::CloseDoor`].
pub const ROOT: &str = "root";

/// Tokens that are valid at once; beyond, the one that ends first goes.
pub const TOKENS_MAX: usize = 10_000;

/// What a role allows to be done to a range of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRule {
    /// The first name.
    pub start: Blob,
    /// The name after the last; empty for the one name `start`, a zero byte for all from `start` on.
    pub end: Blob,
    /// Read, write or both.
    pub verbs: Verbs,
}
wire_struct!(RangeRule { start, end, verbs });

impl RangeRule {
    /// From which name to before which, which is open when absent.
    #[must_use]
    pub fn stretch(&self) -> (Blob, Option<Blob>) {
        let end = match self.end.as_slice() {
            [] => Some(after(&self.start)),
            [0] => None,
            _ => Some(self.end.clone()),
        };
        (self.start.clone(), end)
    }

    /// Whether there is a name in it.
    #[must_use]
    pub fn is_range(&self) -> bool {
        let (start, end) = self.stretch();
        !start.is_empty() && end.is_none_or(|end| start < end)
    }
}

/// The name right after a name.
fn after(name: &Blob) -> Blob {
    let mut after = name.to_vec();
    after.push(0);
    after.into()
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// What it allows, in order of their names.
    pub rules: Vec<RangeRule>,
}
wire_struct!(Role { rules });

/// A token that was given to somebody who had entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose.
    pub user: Blob,
    /// When it ends.
    pub until: LogTime,
}
wire_struct!(Token { user, until });

/// A change of users or roles that is only made when what it speaks of is there, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessChange {
    /// Makes a user.
    AddUser {
        /// Its name.
        name: Blob,
        /// Its password; without one nobody enters as it by password.
        scram: Option<Scram>,
    },
    /// Gives a user another password, the only one from then on.
    ChangePassword {
        /// Whose.
        name: Blob,
        /// The password.
        scram: Scram,
    },
    /// Removes a user.
    RemoveUser {
        /// Its name.
        name: Blob,
    },
    /// Gives a user a role.
    GrantRole {
        /// The user.
        user: Blob,
        /// The role.
        role: Blob,
    },
    /// Takes a role from a user.
    RevokeRole {
        /// The user.
        user: Blob,
        /// The role.
        role: Blob,
    },
    /// Makes a role that allows nothing.
    AddRole {
        /// Its name.
        name: Blob,
    },
    /// Removes a role, from all users too.
    RemoveRole {
        /// Its name.
        name: Blob,
    },
    /// Has a role allow something; a rule of the same range is replaced.
    Allow {
        /// The role.
        role: Blob,
        /// What.
        rule: RangeRule,
    },
    /// Takes a rule back.
    Forbid {
        /// The role.
        role: Blob,
        /// The start of its range.
        start: Blob,
        /// The end of its range, as it was given.
        end: Blob,
    },
    /// Disables the user `default`, so that everybody has to say who it is; the user `root` has to be there with its role.
    CloseDoor {},
    /// Lets everybody in as the user `default` again, without a password. All tokens end.
    OpenDoor {},
    /// Makes a token valid, or renews it, for a user whose secret was found right.
    Enter {
        /// The user.
        user: Blob,
        /// The hash of the token.
        token: Digest,
        /// How long it lives.
        ttl: Millis,
        /// The count of changes at which the secret was found right.
        revision: u64,
    },
}
wire_enum!(AccessChange {
    1 = AddUser { name, scram },
    2 = ChangePassword { name, scram },
    3 = RemoveUser { name },
    4 = GrantRole { user, role },
    5 = RevokeRole { user, role },
    6 = AddRole { name },
    7 = RemoveRole { name },
    8 = Allow { role, rule },
    9 = Forbid { role, start, end },
    10 = CloseDoor {},
    11 = OpenDoor {},
    12 = Enter { user, token, ttl, revision },
});

impl AccessChange {
    /// What it is, and about which user or role: for people who read a log.
    #[must_use]
    pub fn told(&self) -> (&'static str, Option<&Blob>) {
        match self {
            Self::AddUser { name, .. } => ("add_user", Some(name)),
            Self::ChangePassword { name, .. } => ("change_password", Some(name)),
            Self::RemoveUser { name } => ("remove_user", Some(name)),
            Self::GrantRole { user, .. } => ("grant_role", Some(user)),
            Self::RevokeRole { user, .. } => ("revoke_role", Some(user)),
            Self::AddRole { name } => ("add_role", Some(name)),
            Self::RemoveRole { name } => ("remove_role", Some(name)),
            Self::Allow { role, .. } => ("allow", Some(role)),
            Self::Forbid { role, .. } => ("forbid", Some(role)),
            Self::CloseDoor {} => ("close_door", None),
            Self::OpenDoor {} => ("open_door", None),
            Self::Enter { user, .. } => ("enter", Some(user)),
        }
    }

    /// Bytes that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let own = match self {
            Self::AddUser { scram, .. } => scram.as_ref().map_or(0, Scram::bytes),
            Self::ChangePassword { scram, .. } => scram.bytes(),
            Self::GrantRole { role, .. } | Self::RevokeRole { role, .. } => role.len(),
            Self::Allow { rule, .. } => rule.start.len() + rule.end.len() + 8,
            Self::Forbid { start, end, .. } => start.len() + end.len(),
            _ => 0,
        };
        own + self.told().1.map_or(0, |name| name.len()) + 64
    }
}

/// Why a change of users or roles was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    /// A user has to have a name.
    #[error("the name of the user is empty")]
    UserEmpty {},
    /// There is a user of that name.
    #[error("there is a user of that name already")]
    UserExists {},
    /// There is no such user.
    #[error("there is no such user: make it first")]
    UserMissing {},
    /// A role has to have a name.
    #[error("the name of the role is empty")]
    RoleEmpty {},
    /// There is a role of that name.
    #[error("there is a role of that name already")]
    RoleExists {},
    /// There is no such role.
    #[error("there is no such role: make it first")]
    RoleMissing {},
    /// The user does not have the role.
    #[error("the user does not have that role")]
    RoleNotGranted {},
    /// The role has no rule of that range.
    #[error("the role has no rule of that range")]
    RuleMissing {},
    /// The door is closed only once there is a user `root`.
    #[error("there is no user root: make it, and give it the role root, before the door is closed")]
    RootMissing {},
    /// The door is closed only once the user `root` has the role `root`.
    #[error("the user root does not have the role root: give it before the door is closed")]
    RootWithoutRole {},
    /// What keeps the door manageable is not taken away while it is closed; nor is a range allowed that holds nothing.
    #[error("that is not allowed while the door is closed, or the range holds no name: nothing was changed")]
    Protected {},
    /// Users or roles changed since the secret was found right.
    #[error("users or roles have changed meanwhile: enter again")]
    OldRevision {},
    /// Nobody has to say who it is.
    #[error("the door is open: nobody has to enter")]
    DoorIsOpen {},
    /// Too many rules, or roles of one user.
    #[error("{found} rules or roles, allowed are {max}: take some back first")]
    TooMany {
        /// How many there would be.
        found: u64,
        /// How many there may be.
        max: u64,
    },
}
wire_enum!(AccessRefusal {
    1 = UserEmpty {},
    2 = UserExists {},
    3 = UserMissing {},
    4 = RoleEmpty {},
    5 = RoleExists {},
    6 = RoleMissing {},
    7 = RoleNotGranted {},
    8 = RuleMissing {},
    9 = RootMissing {},
    10 = RootWithoutRole {},
    11 = Protected {},
    12 = OldRevision {},
    13 = DoorIsOpen {},
    14 = TooMany { found, max },
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_ranges_are_read_as_clients_write_them() {
        let rule =
            |start: &str, end: &str| RangeRule { start: start.into(), end: end.into(), verbs: Verbs::READ };
        assert_eq!(rule("a", "").stretch(), ("a".into(), Some("a\0".into())));
        assert_eq!(rule("a", "c").stretch(), ("a".into(), Some("c".into())));
        assert_eq!(rule("a", "\0").stretch(), ("a".into(), None));
        assert!(rule("a", "").is_range() && rule("a", "b").is_range() && rule("\0", "\0").is_range());
        assert!(!rule("b", "a").is_range() && !rule("a", "a").is_range() && !rule("", "a").is_range());
    }
}
