//! The door: whether somebody who does not say who it is may do anything, and which tokens say who somebody is.
//!
//! Invariant: `anonymous` is let in while the door is open, and refused while it is closed, as of the place in the log.
//! Invariant: after each entry the machine holds valid exactly the tokens that were given and have not ended: by their time in log time, with the
//! secret or the user by which they were given, or with the opening of the door.
//! Invariant: a token is given by what the secrets were at the last change of users, never by what they were before.
//! Called by: `users` (what is sent, what came of it), `oracle` (after each entry).

use crate::random::Random;
use quorate_machine::Machine;
use quorate_types::{
    AccessChange, AccessRefusal, Blob, Command, CommandBody, Commit, Digest, Key, LeaseId, LogTime, Millis,
    Op, OpError, Outcome, Principal, ROOT, Refusal,
};
use std::collections::BTreeMap;

/// Who has not said who it is.
const ANYBODY: &str = "anonymous";
/// Tokens that are ever given.
const TOKENS: u8 = 4;

/// What the log has made of it so far.
#[derive(Default)]
pub(crate) struct Door {
    time: LogTime,
    closed: bool,
    root: bool,
    root_may: bool,
    /// When each ends.
    tokens: BTreeMap<u8, LogTime>,
    /// The newest count of changes at which a token was given, and the one that is known to be over.
    given_at: Option<u64>,
    over: Option<u64>,
}

/// Something about the door, as whoever may send it; `user` is whom tokens are given to.
pub(crate) fn act(random: &mut Random, machine: &Machine, user: &str) -> (CommandBody, Principal) {
    if random.chance(3) {
        let put = Op::Put { key: Key::new("u/d"), value: Blob::EMPTY, lease: LeaseId::ZERO, prev: false };
        return (CommandBody::Commit { commit: Commit::of(vec![put]) }, ANYBODY.into());
    }
    let root = || Blob::from(ROOT);
    let change = match random.below(12) {
        0 | 1 => AccessChange::AddUser { name: root(), scram: None },
        2 | 3 => AccessChange::GrantRole { user: root(), role: root() },
        4 if random.chance(2) => AccessChange::RemoveUser { name: root() },
        5 if random.chance(2) => AccessChange::OpenDoor {},
        4..=6 => AccessChange::CloseDoor {},
        _ => {
            // At times by a secret that was looked at before the last change; what is late on its way is another such.
            let revision = machine.access_revision() - u64::from(random.chance(4));
            let token = Digest([random.below(u64::from(TOKENS)) as u8; 32]);
            AccessChange::Enter { user: user.into(), token, ttl: Millis(random.below(20_000)), revision }
        }
    };
    (CommandBody::ChangeAccess { change, may_lock_out: true }, "server".into())
}

impl Door {
    /// Another entry is applied: what ends by then has ended.
    pub(crate) fn begin(&mut self, time: LogTime) {
        self.time = time;
        self.tokens.retain(|_, until| *until > time);
    }

    /// Takes a command and what came of it, if it is about the door; `there` says whether the user of tokens is. Which probe it is, if any.
    ///
    /// # Errors
    /// It came to something else than it has to.
    pub(crate) fn take(
        &mut self,
        command: &Command,
        outcome: &Outcome,
        there: bool,
    ) -> Result<Option<Option<&'static str>>, String> {
        match &command.body {
            CommandBody::Commit { .. } if command.principal == Principal::from(ANYBODY) => {
                let denied = matches!(
                    outcome,
                    Outcome::Refused {
                        refusal: Refusal::Denied { .. }
                            | Refusal::Operation { error: OpError::Denied { .. }, .. }
                    }
                );
                if denied != self.closed {
                    let door = if self.closed { "closed" } else { "open" };
                    return Err(format!("the door is {door}, and {ANYBODY} came to {outcome:?}"));
                }
                Ok(Some(Some(if denied { "door: anybody refused" } else { "door: anybody let in" })))
            }
            CommandBody::ChangeAccess { change, .. } if is_of_door(change) => {
                let found = match outcome {
                    Outcome::Done { .. } => Ok(()),
                    Outcome::Refused { refusal: Refusal::Access { why } } => Err(why.clone()),
                    other => return Err(format!("{change:?} came to {other:?}")),
                };
                self.changed(change, found, there).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn changed(
        &mut self,
        change: &AccessChange,
        found: Result<(), AccessRefusal>,
        there: bool,
    ) -> Result<Option<&'static str>, String> {
        use AccessRefusal as Why;
        let need = |so: bool, why: Why| if so { Ok(()) } else { Err(why) };
        let wanted = match change {
            AccessChange::AddUser { .. } => need(!self.root, Why::UserExists {}),
            AccessChange::GrantRole { .. } => need(self.root, Why::UserMissing {}),
            AccessChange::RemoveUser { .. } if self.closed => Err(Why::Protected {}),
            AccessChange::RemoveUser { .. } => need(self.root, Why::UserMissing {}),
            AccessChange::CloseDoor {} if !self.closed => need(self.root, Why::RootMissing {})
                .and_then(|()| need(self.root_may, Why::RootWithoutRole {})),
            // Only that it was too old is for the machine to say: which changes count is its own.
            AccessChange::Enter { .. } if found == Err(Why::OldRevision {}) => found.clone(),
            AccessChange::Enter { .. } if !self.closed => Err(Why::DoorIsOpen {}),
            AccessChange::Enter { .. } => need(there, Why::UserMissing {}),
            _ => Ok(()),
        };
        if found != wanted {
            return Err(format!("{change:?} came to {found:?}, not to {wanted:?}"));
        }
        if let Err(why) = found {
            let old = matches!(why, Why::OldRevision {});
            return Ok(old.then_some("door: a secret of before the last change refused"));
        }
        match change {
            AccessChange::AddUser { .. } => {
                self.root = true;
                self.counted();
            }
            AccessChange::RemoveUser { .. } => {
                (self.root, self.root_may) = (false, false);
                self.counted();
            }
            // Neither is known to count: it may have had the role, and to close the door makes no secret another.
            AccessChange::GrantRole { .. } => self.root_may = true,
            AccessChange::CloseDoor {} => self.closed = true,
            AccessChange::OpenDoor {} => {
                let ends = self.closed && !self.tokens.is_empty();
                if self.closed {
                    self.tokens.clear();
                    self.counted();
                }
                self.closed = false;
                return Ok(ends.then_some("door: tokens end as it opens"));
            }
            AccessChange::Enter { token, ttl, revision, .. } => {
                if self.over.is_some_and(|over| *revision <= over) {
                    return Err(format!(
                        "a token was given at {revision}, which was over at {:?}",
                        self.over
                    ));
                }
                self.given_at = self.given_at.max(Some(*revision));
                let until = self.time.plus(*ttl);
                if until > self.time {
                    self.tokens.insert(token.0[0], until);
                } else {
                    self.tokens.remove(&token.0[0]);
                }
                return Ok(Some("door: a token given"));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Users have changed: secrets that were found right before must be looked at again.
    pub(crate) fn counted(&mut self) {
        self.over = self.given_at;
    }

    /// The user of the tokens is gone, or enters by something else: its tokens end.
    pub(crate) fn forget(&mut self) -> Option<&'static str> {
        let any = !self.tokens.is_empty();
        self.tokens.clear();
        any.then_some("door: tokens end with their user's secret")
    }

    /// Compares the tokens that are valid with the machine's.
    ///
    /// # Errors
    /// One of them differs.
    pub(crate) fn agrees(&self, machine: &Machine) -> Result<(), String> {
        for token in 0..TOKENS {
            let found = machine.token(&Digest([token; 32])).map(|token| token.until);
            let wanted = self.tokens.get(&token).copied();
            if found != wanted {
                return Err(format!("token {token} is valid until {found:?}, not until {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// Whether a change is one of those that are sent here.
fn is_of_door(change: &AccessChange) -> bool {
    let is_root = |name: &Blob| **name == *ROOT.as_bytes();
    match change {
        AccessChange::CloseDoor {} | AccessChange::OpenDoor {} | AccessChange::Enter { .. } => true,
        AccessChange::AddUser { name, .. } | AccessChange::RemoveUser { name } => is_root(name),
        AccessChange::GrantRole { user, .. } => is_root(user),
        _ => false,
    }
}
