//! Users: who may do what, over every protocol alike.
//!
//! A user has credentials (verifiers, never a secret itself), a list of rules about commands, and rules about names. A command is allowed when
//! the last rule that speaks of it allows it; a name is allowed when some rule allows what is done to it and none denies it.
//!
//! Invariant: what is kept of a secret is a verifier; a change carries one too, so that no secret is ever logged.
//! Called by: gateways make changes, the machine keeps users and decides.
//! Source: rules follow Redis' ACL, which this is a superset of.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::scram::{Scram, ScramHash};
use crate::units::{Key, Keyspace, Principal};
use crate::{wire_enum, wire_struct};

/// What a principal of a user begins with in the log. Other principals are the server itself, operators that a token file names, and
/// `anonymous`, which has the rights of the user [`DEFAULT_USER`].
pub const USER_PREFIX: &str = "user:";
/// The user that a client is before it says who it is.
pub const DEFAULT_USER: &str = "default";

/// Most rules about commands, rules about names, or credentials of a kind that a user has.
pub const RULES_MAX: usize = 1024;

impl Principal {
    /// The principal of a user.
    #[must_use]
    pub fn of_user(name: &Blob) -> Self {
        if **name == *DEFAULT_USER.as_bytes() {
            return "anonymous".into();
        }
        let mut text = USER_PREFIX.as_bytes().to_vec();
        text.extend_from_slice(name);
        Self(text.into())
    }

    /// The user whose principal this is; nothing for the server itself and for operators, who may do everything.
    #[must_use]
    pub fn user(&self) -> Option<&[u8]> {
        if self.0.as_slice() == b"anonymous" {
            return Some(DEFAULT_USER.as_bytes());
        }
        self.0.strip_prefix(USER_PREFIX.as_bytes())
    }
}

/// A SHA-256 hash (FIPS 180-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Wire for Digest {
    fn put(&self, out: &mut Writer) {
        out.raw(&self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(from.raw(32)?.try_into().expect("raw(32) gives 32 bytes")))
    }
}

/// What is done to a name: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(pub u8);

impl Wire for Verbs {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(u8::take(from)?))
    }
}

impl Verbs {
    /// None: the name is looked at without telling what it holds.
    pub const NONE: Self = Self(0);
    /// Reads what it holds.
    pub const READ: Self = Self(1);
    /// Changes what it holds.
    pub const WRITE: Self = Self(2);
    /// Tells the subscribers of a channel something.
    pub const PUBLISH: Self = Self(4);
    /// Listens to a channel.
    pub const SUBSCRIBE: Self = Self(8);

    /// Whether all of these are among them.
    #[must_use]
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
    /// Whether any of these is among them.
    #[must_use]
    pub fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
    /// Both.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
    /// Whether they are about channels.
    #[must_use]
    pub fn of_channels(self) -> bool {
        self.any(Self(12))
    }

    /// The names of these verbs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Self::READ, "read"),
            (Self::WRITE, "write"),
            (Self::PUBLISH, "publish"),
            (Self::SUBSCRIBE, "subscribe"),
        ];
        all.into_iter().filter(move |(verb, _)| self.has(*verb)).map(|(_, name)| name)
    }

    /// The verb of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "read" => Some(Self::READ),
            "write" => Some(Self::WRITE),
            "publish" => Some(Self::PUBLISH),
            "subscribe" => Some(Self::SUBSCRIBE),
            _ => None,
        }
    }
}

/// A rule about commands: `+get`, `-@dangerous`, `+config|get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRule {
    /// Whether it allows.
    pub allow: bool,
    /// `@category`, or a command's name in lower case; `container|name` for a subcommand.
    pub what: Blob,
}
wire_struct!(CommandRule { allow, what });

/// A rule about names: of keys, streams, locks, elections, limits, timers and services alike, or of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// Whether it allows; one that denies outweighs all that allow.
    pub allow: bool,
    /// What it allows or denies.
    pub verbs: Verbs,
    /// The only keyspace it speaks of; of every one when absent. What is in no keyspace (locks, limits, timers, services) counts as in the default one.
    pub space: Option<Keyspace>,
    /// Which names, as a pattern with `*`, `?`, `[a-z]` and `\`.
    pub pattern: Blob,
}
wire_struct!(NameRule { allow, verbs, space, pattern });

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Whether it may enter and act.
    pub enabled: bool,
    /// Whether it enters without a password.
    pub nopass: bool,
    /// Passwords, by SCRAM.
    pub scram: Vec<Scram>,
    /// Passwords of which only the SHA-256 is known, as Redis keeps them: they open every door but those that speak SCRAM.
    pub sha256: Vec<Digest>,
    /// Hashes of bearer tokens.
    pub tokens: Vec<Digest>,
    /// Rules about commands; the last that speaks of one decides.
    pub commands: Vec<CommandRule>,
    /// Rules about names.
    pub names: Vec<NameRule>,
    /// Roles, in order of their names: what they allow is allowed beside the rules.
    pub roles: Vec<Blob>,
}
wire_struct!(User { enabled, nopass, scram, sha256, tokens, commands, names, roles });

impl User {
    /// The user `default` as it is until somebody changes it: everybody may do everything, without a password.
    #[must_use]
    pub fn open_door() -> Self {
        let every = |verbs| NameRule { allow: true, verbs, space: None, pattern: "*".into() };
        Self {
            enabled: true,
            nopass: true,
            commands: vec![CommandRule { allow: true, what: "@all".into() }],
            names: vec![every(Verbs::READ.and(Verbs::WRITE)), every(Verbs::PUBLISH.and(Verbs::SUBSCRIBE))],
            ..Self::default()
        }
    }

    /// Rules of a kind, or credentials of one, that it has most of.
    #[must_use]
    pub fn longest(&self) -> usize {
        let credentials = self.scram.len().max(self.sha256.len()).max(self.tokens.len());
        self.commands.len().max(self.names.len()).max(self.roles.len()).max(credentials)
    }

    /// Whether its passwords are those of another, so that whoever had entered by them is still in.
    #[must_use]
    pub fn enters_as(&self, other: &Self) -> bool {
        (self.nopass, &self.scram, &self.sha256) == (other.nopass, &other.scram, &other.sha256)
    }

    /// Whether somebody could enter as it.
    #[must_use]
    pub fn can_enter(&self) -> bool {
        self.enabled
            && (self.nopass || !self.scram.is_empty() || !self.sha256.is_empty() || !self.tokens.is_empty())
    }

    /// Makes one change. Saying twice what is so already changes nothing.
    pub fn change(&mut self, change: &UserChange) {
        match change {
            UserChange::Reset {} => *self = Self::default(),
            UserChange::Enable { on } => self.enabled = *on,
            UserChange::NoPassword { on } => {
                self.nopass = *on;
                if *on {
                    (self.scram, self.sha256) = (Vec::new(), Vec::new());
                }
            }
            UserChange::ForgetPasswords {} => {
                (self.scram, self.sha256, self.nopass) = (Vec::new(), Vec::new(), false);
            }
            UserChange::AddScram { scram } => {
                add(&mut self.scram, scram);
                self.nopass = false;
            }
            UserChange::RemoveScram { stored_key } => {
                self.scram.retain(|scram| scram.mark() != *stored_key);
            }
            UserChange::PutScram { scram } => {
                let hashes =
                    [scram.sha256().map(|_| ScramHash::Sha256), scram.sha512().map(|_| ScramHash::Sha512)];
                hashes.into_iter().flatten().for_each(|hash| self.drop_scram(hash));
                self.scram.push(scram.clone());
                self.nopass = false;
            }
            UserChange::DropScram { hash } => self.drop_scram(*hash),
            UserChange::AddSha256 { hash } => {
                add(&mut self.sha256, hash);
                self.nopass = false;
            }
            UserChange::RemoveSha256 { hash } => self.sha256.retain(|other| other != hash),
            UserChange::AddToken { hash } => add(&mut self.tokens, hash),
            UserChange::RemoveToken { hash } => self.tokens.retain(|other| other != hash),
            UserChange::ForgetTokens {} => self.tokens.clear(),
            UserChange::Command { rule } => self.command(rule),
            UserChange::Name { rule } => {
                // The opposite rule is taken back; what it was wider or narrower than stays.
                self.names.retain(|other| {
                    other.allow == rule.allow
                        || other.verbs != rule.verbs
                        || other.space != rule.space
                        || other.pattern != rule.pattern
                });
                add(&mut self.names, rule);
            }
            UserChange::RemoveName { rule } => self.names.retain(|other| other != rule),
            UserChange::ForgetNames {} => self.names.retain(|rule| rule.verbs.of_channels()),
            UserChange::ForgetChannels {} => self.names.retain(|rule| !rule.verbs.of_channels()),
        }
    }

    /// Forgets what proofs by a hash are checked by; a password that has no other verifier goes with it.
    fn drop_scram(&mut self, hash: ScramHash) {
        self.scram = self.scram.drain(..).filter_map(|scram| scram.without(hash)).collect();
    }

    /// Adds a rule about commands; what it outdoes goes, so that the list stays as short as it can be said.
    fn command(&mut self, rule: &CommandRule) {
        if *rule.what == *b"@all" {
            self.commands.clear();
            if !rule.allow {
                return; // Nothing is allowed to begin with.
            }
        }
        let container = |name: &[u8]| name.split(|byte| *byte == b'|').next().map(<[u8]>::to_vec);
        self.commands.retain(|other| {
            other.what != rule.what
                && container(&other.what).is_none_or(|of| of != *rule.what || *other.what == of)
        });
        self.commands.push(rule.clone());
    }
}

fn add<T: Clone + PartialEq>(all: &mut Vec<T>, one: &T) {
    if !all.contains(one) {
        all.push(one.clone());
    }
}

/// One change of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// Back to nothing: disabled, without credentials and rights.
    Reset {},
    /// Lets it in, or not.
    Enable {
        /// Whether it may enter.
        on: bool,
    },
    /// Whether it needs no password. Its passwords are forgotten when it needs none.
    NoPassword {
        /// It needs none.
        on: bool,
    },
    /// Forgets all passwords; it needs one then, and has none.
    ForgetPasswords {},
    /// A further password.
    AddScram {
        /// Its verifier.
        scram: Scram,
    },
    /// Takes a password back.
    RemoveScram {
        /// Which: its mark ([`Scram::mark`]).
        stored_key: Digest,
    },
    /// A further password of which only the hash is known.
    AddSha256 {
        /// The hash.
        hash: Digest,
    },
    /// Takes such a password back.
    RemoveSha256 {
        /// Which.
        hash: Digest,
    },
    /// A further bearer token.
    AddToken {
        /// Its hash.
        hash: Digest,
    },
    /// Takes a token back.
    RemoveToken {
        /// Which.
        hash: Digest,
    },
    /// Takes all tokens back.
    ForgetTokens {},
    /// A further rule about commands.
    Command {
        /// The rule.
        rule: CommandRule,
    },
    /// A further rule about names.
    Name {
        /// The rule.
        rule: NameRule,
    },
    /// Takes a rule about names back.
    RemoveName {
        /// The rule.
        rule: NameRule,
    },
    /// Takes all rules about names but channels back.
    ForgetNames {},
    /// Takes all rules about channels back.
    ForgetChannels {},
    /// A password that takes the place of all that are checked by the same hash; verifiers by the other one stay.
    PutScram {
        /// Its verifier.
        scram: Scram,
    },
    /// Forgets what proofs by a hash are checked by; verifiers by the other one stay.
    DropScram {
        /// Which.
        hash: ScramHash,
    },
}
impl UserChange {
    /// What it is about, without what it carries: for people who read a log.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Reset {} => "reset",
            Self::Enable { on: true } => "enable",
            Self::Enable { on: false } => "disable",
            Self::NoPassword { .. } => "nopass",
            Self::ForgetPasswords {} => "forget_passwords",
            Self::AddScram { .. } | Self::AddSha256 { .. } | Self::PutScram { .. } => "add_password",
            Self::RemoveScram { .. } | Self::RemoveSha256 { .. } | Self::DropScram { .. } => {
                "remove_password"
            }
            Self::AddToken { .. } => "add_token",
            Self::RemoveToken { .. } => "remove_token",
            Self::ForgetTokens {} => "forget_tokens",
            Self::Command { .. } => "command_rule",
            Self::Name { .. } => "name_rule",
            Self::RemoveName { .. } => "remove_name_rule",
            Self::ForgetNames {} => "forget_names",
            Self::ForgetChannels {} => "forget_channels",
        }
    }
}
wire_enum!(UserChange {
    1 = Reset {},
    2 = Enable { on },
    3 = NoPassword { on },
    4 = ForgetPasswords {},
    5 = AddScram { scram },
    6 = RemoveScram { stored_key },
    7 = AddSha256 { hash },
    8 = RemoveSha256 { hash },
    9 = AddToken { hash },
    10 = RemoveToken { hash },
    11 = ForgetTokens {},
    12 = Command { rule },
    13 = Name { rule },
    14 = RemoveName { rule },
    15 = ForgetNames {},
    16 = ForgetChannels {},
    17 = PutScram { scram },
    18 = DropScram { hash },
});

/// What was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The user is disabled or is not there any more.
    #[error(
        "user {user} is disabled or was removed: nothing was done; enter as another user, or ask the operator"
    )]
    Gone {
        /// The user.
        user: Blob,
    },
    /// The command.
    #[error(
        "user {user} may not run '{command}': nothing was done; the operator can allow it (`quorate user allow {user} +{command}`)"
    )]
    Command {
        /// The user.
        user: Blob,
        /// The command's name.
        command: Blob,
    },
    /// What the command does to a name.
    #[error("user {user} may not {} {name}: nothing was done; the operator can allow it (`quorate user allow {user} {} PATTERN`)", verbs_text(*.verbs), verbs_text(*.verbs))]
    Name {
        /// The user.
        user: Blob,
        /// What would have been done.
        verbs: Verbs,
        /// To what.
        name: Key,
    },
    /// What the command does to a channel.
    #[error("user {user} may not {} channel {channel}: nothing was done; the operator can allow it (`quorate user allow {user} {} PATTERN`)", verbs_text(*.verbs), verbs_text(*.verbs))]
    Channel {
        /// The user.
        user: Blob,
        /// What would have been done.
        verbs: Verbs,
        /// To which.
        channel: Blob,
    },
}
wire_enum!(Denied {
    1 = Gone { user },
    2 = Command { user, command },
    3 = Name { user, verbs, name },
    4 = Channel { user, verbs, channel },
});

fn verbs_text(verbs: Verbs) -> String {
    let names: Vec<&str> = verbs.names().collect();
    if names.is_empty() { "see".into() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(user: &User) -> String {
        let shown = |rule: &CommandRule| format!("{}{}", if rule.allow { '+' } else { '-' }, rule.what);
        user.commands.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_rule_takes_the_place_of_those_that_it_outdoes() {
        let mut user = User::default();
        for (text, wanted) in [
            ("+get", "+get"),
            ("-get", "-get"),
            ("+config|get", "-get +config|get"),
            ("-config|set", "-get +config|get -config|set"),
            ("+config", "-get +config"),
            ("+@read", "-get +config +@read"),
            ("-config|set", "-get +config +@read -config|set"),
            ("+@all", "+@all"),
            ("-@dangerous", "+@all -@dangerous"),
            ("-@all", ""),
        ] {
            let rule = CommandRule { allow: text.starts_with('+'), what: text[1..].into() };
            user.change(&UserChange::Command { rule });
            assert_eq!(rules(&user), wanted, "{text}");
        }
    }

    #[test]
    fn principals_of_users_are_told_from_all_others() {
        assert_eq!(Principal::of_user(&"ann".into()), "user:ann".into());
        assert_eq!(Principal::from("user:ann").user(), Some(&b"ann"[..]));
        assert_eq!(Principal::of_user(&"default".into()).user(), Some(&b"default"[..]));
        assert_eq!(Principal::from("ann").user(), None);
        assert_eq!(Principal::from("server").user(), None);
    }

    #[test]
    fn verifiers_by_one_hash_are_set_and_dropped_beside_those_by_the_other() {
        use crate::scram::Verifier;
        fn by<const N: usize>(of: u8) -> Verifier<N> {
            Verifier { salt: "salt".into(), iterations: 1, stored_key: [of; N], server_key: [of; N] }
        }
        let mut user = User { nopass: true, ..User::default() };
        user.change(&UserChange::AddScram { scram: Scram::Both(by(1), by(2)) });
        user.change(&UserChange::AddScram { scram: Scram::Sha256(by(3)) });
        let wide = Scram::Sha512(by(4));
        user.change(&UserChange::PutScram { scram: wide.clone() });
        assert_eq!(user.scram, [Scram::Sha256(by(1)), Scram::Sha256(by(3)), wide.clone()]);
        user.change(&UserChange::PutScram { scram: Scram::Sha256(by(5)) });
        assert_eq!(user.scram, [wide.clone(), Scram::Sha256(by(5))]);
        user.change(&UserChange::DropScram { hash: ScramHash::Sha256 });
        assert_eq!(user.scram, std::slice::from_ref(&wide));
        user.change(&UserChange::RemoveScram { stored_key: wide.mark() });
        assert!(user.scram.is_empty() && !user.nopass && !user.can_enter());
    }

    #[test]
    fn a_password_ends_that_none_is_needed_and_the_other_way_round() {
        let mut user = User::open_door();
        let hash = Digest([7; 32]);
        user.change(&UserChange::AddSha256 { hash });
        assert!(!user.nopass && user.can_enter());
        user.change(&UserChange::NoPassword { on: true });
        assert!(user.sha256.is_empty() && user.can_enter());
        user.change(&UserChange::ForgetPasswords {});
        assert!(!user.can_enter());
    }
}
