//! Alarms that are raised and taken down by hand, and what they refuse, by a rule simple enough to be believed.
//!
//! Invariant: while CORRUPT is up no commit is taken and nothing is compacted; while NOSPACE is up nothing is taken that adds a key, a record or a
//! lease. What only reads, deletes and lets go is refused by no alarm but CORRUPT, and by none at all while none is up.
//! Invariant: after each entry the machine shows exactly the alarms that the log has raised and not taken down.
//! Called by: `workload` (what is sent), `model` (what may come of it), `oracle` (after each entry).

use crate::random::Random;
use quorate_machine::Machine;
use quorate_types::{
    AlarmKind, Command, CommandBody, Commit, NodeId, Op, OpError, Outcome, Principal, Refusal,
};
use std::collections::BTreeSet;

/// Members that raise alarms.
const MEMBERS: u64 = 2;

/// What the log has made of it so far.
#[derive(Default)]
pub(crate) struct Alarms {
    up: BTreeSet<(NodeId, AlarmKind)>,
}

/// An alarm that goes up or down: down mostly, so that everybody else gets on.
pub(crate) fn act(random: &mut Random, machine: &Machine) -> (CommandBody, Principal) {
    let up: Vec<(NodeId, AlarmKind)> = machine.alarms().collect();
    let (member, kind, raise) = if !up.is_empty() && !random.chance(4) {
        let (member, kind) = up[random.below(up.len() as u64) as usize];
        (member, kind, false)
    } else {
        let kind = match random.below(6) {
            0 => AlarmKind::None,
            1 | 2 => AlarmKind::Corrupt,
            _ => AlarmKind::NoSpace,
        };
        (NodeId(1 + random.below(MEMBERS)), kind, !random.chance(6))
    };
    (CommandBody::Alarm { member, kind, up: raise }, "server".into())
}

impl Alarms {
    /// Takes a command and what came of it; `known` says whether its idempotency key was used before. Which probe it is, if any.
    ///
    /// # Errors
    /// It was taken though an alarm speaks against it, or refused though none does.
    pub(crate) fn take(
        &mut self,
        command: &Command,
        outcome: &Outcome,
        known: bool,
    ) -> Result<Option<&'static str>, String> {
        if let (CommandBody::Alarm { member, kind, up }, Outcome::Done { .. }) = (&command.body, outcome) {
            let alarm = (*member, *kind);
            let changed = if *up { self.up.insert(alarm) } else { self.up.remove(&alarm) };
            let last = !*up && changed && !self.is_up(*kind);
            return Ok(last.then_some("alarm: the last of a kind taken down"));
        }
        let refused = refused_by(outcome);
        let wanted = self.speaks_against(&command.body);
        match (refused, wanted) {
            (Some(by), Verdict::Free) => {
                Err(format!("{:?} was refused by {by:?}, and {:?} are up", command.body, self.up))
            }
            (Some(by), Verdict::Refused(why) | Verdict::Maybe(why)) if by != why => {
                Err(format!("{:?} was refused by {by:?} instead of {why:?}", command.body))
            }
            (None, Verdict::Refused(why)) if !known && !is_denied(outcome) => {
                Err(format!("{:?} came to {outcome:?}, though {why:?} is up", command.body))
            }
            (Some(AlarmKind::Corrupt), _) => Ok(Some("alarm: refused for corruption")),
            (Some(_), _) => Ok(Some("alarm: refused for want of room")),
            (None, Verdict::Free) if self.is_up(AlarmKind::NoSpace) => {
                Ok(Some("alarm: let go on for want of room"))
            }
            (None, Verdict::Refused(_)) if known => Ok(Some("alarm: answered again")),
            _ => Ok(None),
        }
    }

    fn is_up(&self, wanted: AlarmKind) -> bool {
        self.up.iter().any(|(_, kind)| *kind == wanted)
    }

    /// What the alarms that are up say to a command.
    fn speaks_against(&self, body: &CommandBody) -> Verdict {
        let commits = matches!(body, CommandBody::Commit { .. } | CommandBody::Wait { .. });
        if self.is_up(AlarmKind::Corrupt) && (commits || matches!(body, CommandBody::Compact { .. })) {
            return Verdict::Refused(AlarmKind::Corrupt);
        }
        let judged = match body {
            CommandBody::Commit { commit } => size(commit),
            CommandBody::Wait { .. } | CommandBody::Resolve { .. } => Size::Grows,
            _ => Size::Shrinks,
        };
        let full = self.is_up(AlarmKind::NoSpace);
        match judged {
            Size::Grows if full => Verdict::Refused(AlarmKind::NoSpace),
            Size::Unknown if full => Verdict::Maybe(AlarmKind::NoSpace),
            _ => Verdict::Free,
        }
    }

    /// Compares the alarms that are up with the machine's.
    ///
    /// # Errors
    /// They differ.
    pub(crate) fn agrees(&self, machine: &Machine) -> Result<(), String> {
        let found: BTreeSet<(NodeId, AlarmKind)> = machine.alarms().collect();
        if found == self.up {
            return Ok(());
        }
        Err(format!("the alarms {found:?} are up, and the log has raised {:?}", self.up))
    }
}

enum Verdict {
    Refused(AlarmKind),
    /// Refused or not: what it adds is not known here.
    Maybe(AlarmKind),
    Free,
}

/// What a commit does to what is kept, as far as it is plain to see.
enum Size {
    Grows,
    Shrinks,
    Unknown,
}

fn size(commit: &Commit) -> Size {
    let (mut grows, mut unknown) = (commit.idempotency.is_some(), false);
    commit.for_each_op(&mut |op| match op {
        Op::Put { .. }
        | Op::Write { .. }
        | Op::Increment { .. }
        | Op::Append { .. }
        | Op::LeaseGrant { .. } => {
            grows = true;
        }
        Op::Get { .. }
        | Op::Range { .. }
        | Op::Select { .. }
        | Op::Delete { .. }
        | Op::DeleteRange { .. }
        | Op::Erase { .. }
        | Op::Trim { .. }
        | Op::Ack { .. }
        | Op::LeaseRevoke { .. }
        | Op::LeaseKeepAlive { .. }
        | Op::Release { .. } => {}
        _ => unknown = true,
    });
    match (grows, unknown) {
        (true, _) => Size::Grows,
        (false, true) => Size::Unknown,
        (false, false) => Size::Shrinks,
    }
}

/// The kind of alarm that refused a command, if one did.
fn refused_by(outcome: &Outcome) -> Option<AlarmKind> {
    let Outcome::Refused { refusal: Refusal::Command { error: OpError::Call { text } } } = outcome else {
        return None;
    };
    let kinds = [(AlarmKind::Corrupt, "the alarm CORRUPT"), (AlarmKind::NoSpace, "the alarm NOSPACE")];
    let text = text.as_text().unwrap_or_default();
    kinds.into_iter().find(|(_, words)| text.contains(words)).map(|(kind, _)| kind)
}

fn is_denied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { refusal: Refusal::Denied { .. } })
}
