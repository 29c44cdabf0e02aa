//! Admission: what is refused before the log, quickly, as "did not happen".
//!
//! Invariant: the commands and bytes that wait never exceed their bounds; keep-alives and the node's own commands have room
//! reserved above them, so that overload does not cost clients their leases.
//! Invariant: near a full disk or memory bound, growth is refused while reads, deletes and compaction go on.
//! Called by: `Partition::propose`.

use quorate_machine::grows;
use quorate_types::{Command, CommandBody, Invalid, Limits};

/// Why a command was not admitted. It did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It breaks a bound.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Too much waits already.
    #[error(
        "overloaded: {waiting} commands wait, {max} may: it did not happen, try again in {retry_after_ms} ms"
    )]
    Overloaded {
        /// Commands that wait.
        waiting: u64,
        /// Commands that may wait.
        max: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The disk or the memory bound is nearly full.
    #[error(
        "{what} is nearly full: growth is refused while deletes, reads and compaction go on; it did not happen. Delete something, shorten retention, or make room"
    )]
    Full {
        /// Disk or memory.
        what: &'static str,
    },
    /// There is no leader, or none that can be reached.
    #[error("{why}: it did not happen, try again later or at another node")]
    NoLeader {
        /// What is missing.
        why: String,
    },
    /// The node does not take commands any more.
    #[error("the node has stopped ({why}): it did not happen")]
    Stopped {
        /// Why.
        why: String,
    },
}

/// Bounds on what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) commands_max: u64,
    pub(crate) bytes_max: u64,
}

/// What waits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
}

impl std::ops::SubAssign for Waiting {
    fn sub_assign(&mut self, other: Self) {
        self.commands -= other.commands;
        self.bytes -= other.bytes;
    }
}

/// What is nearly full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) disk: bool,
    pub(crate) memory: bool,
}

/// Whether a command may enter, and the bytes it takes.
pub(crate) fn admit(
    command: &Command,
    limits: &Limits,
    bounds: Bounds,
    waiting: Waiting,
    pressure: Pressure,
) -> Result<u64, Refused> {
    let bytes = limits.weigh(command)?;
    if let CommandBody::Commit { commit } = &command.body {
        limits.check(commit)?;
    }
    // A quarter more is there for what keeps things alive, or makes room.
    let reserved = matches!(
        command.body,
        CommandBody::KeepAlive { .. }
            | CommandBody::CancelWait { .. }
            | CommandBody::Compact { .. }
            | CommandBody::LimitMemory { .. }
            | CommandBody::Evict { .. }
            | CommandBody::Configure { .. }
            | CommandBody::ChangeUser { .. }
            | CommandBody::RemoveUsers { .. }
            | CommandBody::ChangeAccess { .. }
            | CommandBody::Alarm { .. }
    );
    let stretch = |bound: u64| if reserved { bound + bound / 4 } else { bound };
    if waiting.commands >= stretch(bounds.commands_max) || waiting.bytes + bytes > stretch(bounds.bytes_max) {
        return Err(Refused::Overloaded {
            waiting: waiting.commands,
            max: bounds.commands_max,
            retry_after_ms: 50,
        });
    }
    if (pressure.disk || pressure.memory) && grows(command) {
        return Err(Refused::Full { what: if pressure.disk { "the disk" } else { "memory" } });
    }
    Ok(bytes)
}
