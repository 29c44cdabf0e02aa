//! Alarms that somebody has raised: while one is up, what they speak against is refused, on every protocol.
//!
//! They are state, so that a failover or a restart does not take them down; a disk that is nearly full is no state, but the node's own finding,
//! and is refused at admission by the same rule ([`grows`]).
//!
//! Invariant: what an alarm refuses is decided at its place in the log, the same on every replica: after the answer to who raised it, no
//! node makes such a change, until the last alarm of its kind is taken down.
//! Invariant: a commit that has happened is answered again under its idempotency key, whatever is up.
//! Called by: `Machine::execute`, `snapshot`; gateways, which show them; the node ([`grows`]).

use crate::Machine;
use crate::idempotency::Scope;
use quorate_types::{
    AlarmKind, Command, CommandBody, Commit, MemberChange, NodeId, Op, OpError, Outcome, Produce, Refusal,
};

/// Alarms at once: a member has two kinds at most, and names of members that are none are allowed, as etcd allows them.
const ALARMS_MAX: usize = 128;
/// What is refused for want of room begins so, as with a keyspace that is full: gateways know it by this.
const NO_SPACE: &str =
    "OOM command not allowed: the alarm NOSPACE is raised, deletes and reads go on until it is disarmed";
/// What is refused because the data may be corrupt begins so.
pub const CORRUPT: &str = "CORRUPT";

impl Machine {
    /// The alarms that are up, by member.
    pub fn alarms(&self) -> impl Iterator<Item = (NodeId, AlarmKind)> {
        self.alarms.iter().map(|(alarm, _)| *alarm)
    }

    /// Raises an alarm or takes it down; one that is up already, or is not, is no error.
    pub(crate) fn set_alarm(&mut self, member: NodeId, kind: AlarmKind, up: bool) -> Outcome {
        let is_new = self.alarms.get(&(member, kind)).is_none();
        if up && is_new && self.alarms.len() >= ALARMS_MAX {
            let what = "the number of alarms that are raised".into();
            let error = OpError::Range { what, found: ALARMS_MAX as u64 + 1, min: 0, max: ALARMS_MAX as u64 };
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        self.alarms.set((member, kind), up.then_some(true));
        Outcome::Done { revision: self.revision }
    }

    /// Why an alarm refuses a command, if one does.
    pub(crate) fn alarmed(&self, command: &Command) -> Option<OpError> {
        if self.alarms.len() == 0 {
            return None;
        }
        let is_up = |wanted| self.alarms.iter().any(|((_, kind), _)| *kind == wanted);
        let text = if is_up(AlarmKind::Corrupt {}) && changes(command) {
            format!("{CORRUPT} the alarm CORRUPT is raised: nothing is changed until it is disarmed")
        } else if is_up(AlarmKind::NoSpace {}) && grows(command) {
            NO_SPACE.to_owned()
        } else {
            return None;
        };
        (!self.has_happened(command)).then(|| OpError::Call { text: text.into() })
    }

    /// Whether it is the repetition of a commit whose answer is remembered.
    fn has_happened(&self, command: &Command) -> bool {
        let CommandBody::Commit { commit } = &command.body else { return false };
        commit.idempotency.as_ref().is_some_and(|wanted| {
            let scope = Scope { principal: command.principal.clone(), key: wanted.key.clone() };
            self.idempotency.find(&scope).is_some()
        })
    }
}

/// Whether a command is one of those that etcd refuses where data may be corrupt: who manages it, and keeps alive what is there, goes on.
fn changes(command: &Command) -> bool {
    matches!(
        command.body,
        CommandBody::Commit { .. } | CommandBody::Wait { .. } | CommandBody::Compact { .. }
    )
}

/// Whether a command adds to what is kept.
#[must_use]
pub fn grows(command: &Command) -> bool {
    match &command.body {
        CommandBody::Commit { commit } => commit.idempotency.is_some() || adds(commit),
        CommandBody::Wait { .. } | CommandBody::Resolve { .. } => true,
        CommandBody::CancelWait { .. }
        | CommandBody::KeepAlive { .. }
        | CommandBody::Compact { .. }
        | CommandBody::Denied { .. }
        | CommandBody::RaiseRevision { .. }
        | CommandBody::RaiseVersion { .. }
        | CommandBody::Configure { .. }
        | CommandBody::ChangeUser { .. }
        | CommandBody::RemoveUsers { .. }
        | CommandBody::ChangeAccess { .. }
        | CommandBody::LimitMemory { .. }
        | CommandBody::Alarm { .. }
        | CommandBody::Evict { .. } => false,
    }
}

fn adds(commit: &Commit) -> bool {
    let mut adds = false;
    commit.for_each_op(&mut |op| {
        adds |= match op {
            Op::Put { .. }
            | Op::Write { .. }
            | Op::Increment { .. }
            | Op::CreateStream { .. }
            | Op::AlterStream { .. }
            | Op::Append { .. }
            | Op::CreateGroup { .. }
            | Op::LeaseGrant { .. }
            | Op::Acquire { .. }
            | Op::Campaign { .. }
            | Op::Proclaim { .. }
            | Op::Schedule { .. }
            | Op::Register { .. }
            | Op::Claim { .. }
            | Op::Complete { .. } => true,
            Op::Member { change } => match &**change {
                MemberChange::Join { .. } => true,
                MemberChange::Beat { beat } => beat.epoch.is_none(),
                _ => false,
            },
            // Whoever has read as a member has to be able to say so.
            Op::CommitOffsets { commit } => commit.by.generation.is_none(),
            Op::Get { .. }
            | Op::Range { .. }
            | Op::Delete { .. }
            | Op::DeleteRange { .. }
            | Op::Select { .. }
            | Op::Erase { .. }
            | Op::DeleteStream { .. }
            | Op::Trim { .. }
            | Op::StreamInfo { .. }
            | Op::DeleteGroup { .. }
            | Op::CursorCommit { .. }
            | Op::Take { .. }
            | Op::Ack { .. }
            | Op::Nack { .. }
            | Op::Extend { .. }
            | Op::LeaseKeepAlive { .. }
            | Op::LeaseRevoke { .. }
            | Op::LeaseInfo { .. }
            | Op::Release { .. }
            | Op::LockInfo { .. }
            | Op::Resign { .. }
            | Op::Cancel { .. }
            | Op::Deregister { .. }
            | Op::FreeSlot { .. }
            | Op::LimitPeek { .. }
            | Op::Nested { .. } => false,
            // What ends takes no room that it had not taken before.
            Op::Produce { produce } => !matches!(**produce, Produce::End { .. }),
            Op::Call { words, .. } => words
                .first()
                .and_then(|name| quorate_calls::lookup(name))
                .is_some_and(|spec| spec.flags.has(quorate_calls::Flags::DENYOOM)),
        };
    });
    adds
}
