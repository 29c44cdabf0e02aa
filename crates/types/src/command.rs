//! A command: one request to the machine, with who asks.
//!
//! Only commands are logged. What they lead to is decided when the entry is applied, the same on every replica.

use crate::blob::Blob;
use crate::commit::{Commit, LockMode, Op};
use crate::roles::AccessChange;
use crate::units::{
    IdempotencyKey, Keyspace, LeaseId, LimitName, LockName, Millis, NodeId, Principal, Revision,
};
use crate::users::UserChange;
use crate::{wire_enum, wire_struct};

/// One request, and who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The authenticated user.
    pub principal: Principal,
    /// What the client calls itself, for `why`; empty when it does not say.
    pub client: Blob,
    /// W3C `traceparent` (Trace Context §3.2), for `why`; empty when there is none. Not part of the fingerprint.
    pub trace: Blob,
    /// What is asked for.
    pub body: CommandBody,
}
wire_struct!(Command { principal, client, trace, body });

impl Command {
    /// A command without client name and trace.
    #[must_use]
    pub fn new(principal: Principal, body: CommandBody) -> Self {
        Self { principal, client: Blob::EMPTY, trace: Blob::EMPTY, body }
    }
    /// A commit by `anonymous`: what a program that embeds Quorate sends.
    #[must_use]
    pub fn commit(commit: Commit) -> Self {
        Self::new("anonymous".into(), CommandBody::Commit { commit })
    }
}

impl From<Commit> for Command {
    fn from(commit: Commit) -> Self {
        Self::commit(commit)
    }
}

/// Tells one waiting request of a session from another.
pub type RequestId = u64;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandBody {
    /// A commit.
    Commit {
        /// The commit.
        commit: Commit,
    },
    /// Waits for a lock or leadership in its fair queue.
    Wait {
        /// Which, and for how long.
        wait: WaitRequest,
    },
    /// Leaves the queue of a lock; a grant that came first stays.
    CancelWait {
        /// The lock.
        lock: LockName,
        /// The waiting session.
        lease: LeaseId,
        /// Which of its requests.
        request: RequestId,
    },
    /// Renews leases; logged ahead of expiries.
    KeepAlive {
        /// The leases.
        leases: Vec<LeaseId>,
    },
    /// Answers what became of an idempotency key, or cancels the late original.
    Resolve {
        /// The key.
        key: IdempotencyKey,
        /// How long a cancellation is remembered, in log time.
        ttl: Millis,
    },
    /// Forgets the history of keys before a revision.
    Compact {
        /// The first revision that stays readable.
        before: Revision,
    },
    /// Counts denials by a limit that were answered without being logged.
    Denied {
        /// The limit.
        name: LimitName,
        /// How many.
        count: u64,
    },
    /// Raises revisions past any that may have been given out, after a restore from a backup.
    RaiseRevision {
        /// The least value of the next revision.
        to: Revision,
    },
    /// Raises the version of the rules by which entries are decided, once every replica knows them.
    RaiseVersion {
        /// The version.
        to: u32,
    },
    /// Changes the settings of the machine; logged, so that every replica and every replay has the same.
    Configure {
        /// The new settings.
        settings: Settings,
    },
    /// Changes a user, or makes it; all changes or none.
    ChangeUser {
        /// Its name.
        name: Blob,
        /// In this order.
        changes: Vec<UserChange>,
        /// Allowed even if nobody who may change users could enter afterwards: the sender has another way in.
        may_lock_out: bool,
    },
    /// Removes users; those that are not there are no error. The user `default` goes back to nothing instead.
    RemoveUsers {
        /// Their names.
        names: Vec<Blob>,
        /// As for [`CommandBody::ChangeUser`].
        may_lock_out: bool,
    },
    /// Changes users or roles, if what is spoken of is there.
    ChangeAccess {
        /// The change.
        change: AccessChange,
        /// As for [`CommandBody::ChangeUser`].
        may_lock_out: bool,
    },
    /// Sets what a keyspace may hold in memory, and what is done beyond; what is absent stays as it is.
    LimitMemory {
        /// The keyspace.
        space: Keyspace,
        /// Bytes; 0 for no limit.
        bytes_max: Option<u64>,
        /// What makes room.
        eviction: Option<Eviction>,
    },
    /// Deletes keys to make room: what the leader has chosen, on every replica the same.
    Evict {
        /// The keyspace.
        space: Keyspace,
        /// Their names.
        keys: Vec<Blob>,
    },
    /// Raises an alarm by hand, or takes it down; one that is up already, or is not, is no error.
    Alarm {
        /// Of which member, as whoever raises it says.
        member: NodeId,
        /// What it speaks against.
        kind: AlarmKind,
        /// Whether it is to be up.
        up: bool,
    },
}
wire_enum!(CommandBody {
    1 = Commit { commit },
    2 = Wait { wait },
    3 = CancelWait { lock, lease, request },
    4 = KeepAlive { leases },
    5 = Resolve { key, ttl },
    6 = Compact { before },
    7 = Denied { name, count },
    8 = RaiseRevision { to },
    9 = Configure { settings },
    10 = RaiseVersion { to },
    11 = ChangeUser { name, changes, may_lock_out },
    12 = RemoveUsers { names, may_lock_out },
    13 = LimitMemory { space, bytes_max, eviction },
    14 = Evict { space, keys },
    15 = ChangeAccess { change, may_lock_out },
    16 = Alarm { member, kind, up },
});

impl Command {
    /// Whether a member whose rules are of the first version could not read it: some operation is a call, or it is about users or memory.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        let mut calls = matches!(
            self.body,
            CommandBody::ChangeUser { .. }
                | CommandBody::RemoveUsers { .. }
                | CommandBody::ChangeAccess { .. }
                | CommandBody::LimitMemory { .. }
                | CommandBody::Evict { .. }
                | CommandBody::Alarm { .. }
        );
        if let CommandBody::Commit { commit } = &self.body {
            calls |= commit.is_of_calls();
            commit.for_each_op(&mut |op| {
                calls |= match op {
                    Op::Call { .. } | Op::Select { .. } | Op::Write { .. } | Op::Erase { .. } => true,
                    Op::CommitOffsets { .. } | Op::Member { .. } | Op::Produce { .. } => true,
                    Op::Nested { commit } | Op::Schedule { commit, .. } => commit.is_of_calls(),
                    _ => false,
                };
            });
        }
        calls
    }
}

impl CommandBody {
    /// Whether it renews leases: such commands go ahead of all others, and of expiries.
    #[must_use]
    pub fn is_keep_alive(&self) -> bool {
        matches!(self, Self::KeepAlive { .. })
    }
}

/// What an alarm that was raised by hand speaks against. In the order of etcd's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// Nothing: it is only shown.
    None,
    /// Whatever adds to what is kept.
    NoSpace,
    /// Every commit.
    Corrupt,
}
wire_enum!(AlarmKind {
    0 = None {},
    1 = NoSpace {},
    2 = Corrupt {},
});

impl AlarmKind {
    /// Its name, the one that etcd has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// What makes room in a keyspace that holds more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Nothing: growth is refused.
    #[default]
    None,
    /// The keys that were not used for longest.
    AllLru,
    /// Of the keys with a deadline, those that were not used for longest.
    VolatileLru,
    /// The keys that are used least often.
    AllLfu,
    /// Of the keys with a deadline, those that are used least often.
    VolatileLfu,
    /// Any keys.
    AllRandom,
    /// Any keys with a deadline.
    VolatileRandom,
    /// Of the keys with a deadline, those that end first.
    VolatileTtl,
}
wire_enum!(Eviction {
    0 = None {},
    1 = AllLru {},
    2 = VolatileLru {},
    3 = AllLfu {},
    4 = VolatileLfu {},
    5 = AllRandom {},
    6 = VolatileRandom {},
    7 = VolatileTtl {},
});

impl Eviction {
    /// Every policy, in the order in which Redis names them.
    pub const ALL: [Self; 8] = [
        Self::VolatileLru,
        Self::VolatileLfu,
        Self::VolatileRandom,
        Self::VolatileTtl,
        Self::AllLru,
        Self::AllLfu,
        Self::AllRandom,
        Self::None,
    ];

    /// Its name, the one that Redis has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "noeviction",
            Self::AllLru => "allkeys-lru",
            Self::VolatileLru => "volatile-lru",
            Self::AllLfu => "allkeys-lfu",
            Self::VolatileLfu => "volatile-lfu",
            Self::AllRandom => "allkeys-random",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }

    /// The policy of that name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|eviction| eviction.name().eq_ignore_ascii_case(name))
    }

    /// Whether only keys with a deadline go.
    #[must_use]
    pub fn is_volatile(self) -> bool {
        matches!(self, Self::VolatileLru | Self::VolatileLfu | Self::VolatileRandom | Self::VolatileTtl)
    }
}

/// What a keyspace may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes of its keys with all that is theirs; 0 for no limit.
    pub bytes_max: u64,
    /// What makes room.
    pub eviction: Eviction,
}
wire_struct!(MemoryLimit { bytes_max, eviction });

/// A wait for a lock or for leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitRequest {
    /// The lock or election.
    pub lock: LockName,
    /// The session that will hold it.
    pub lease: LeaseId,
    /// How it is held.
    pub mode: LockMode,
    /// Repeating the request gives the same place in the queue, or the same token.
    pub request: RequestId,
    /// A value to show beside the holder; what a leader proclaims.
    pub value: Blob,
    /// How long to wait, in log time; for ever when absent.
    pub timeout: Option<Millis>,
}
wire_struct!(WaitRequest { lock, lease, mode, request, value, timeout });

/// Bounds that decide what the machine keeps: part of the state, changed only by a logged command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Revisions of history kept.
    pub history_revisions: u64,
    /// Age of history kept, in log time.
    pub history_age: Millis,
    /// Bytes of history kept, whatever the other bounds say.
    pub history_bytes_max: u64,
    /// Bytes of idempotency records kept; beyond it new keys are refused, none is forgotten early.
    pub idempotency_bytes_max: u64,
    /// Expiries that one entry ends at most; the rest follows in the next.
    pub expiries_per_entry: u64,
}
wire_struct!(Settings {
    history_revisions,
    history_age,
    history_bytes_max,
    idempotency_bytes_max,
    expiries_per_entry,
});

impl Default for Settings {
    fn default() -> Self {
        Self {
            history_revisions: 1_000_000,
            history_age: Millis(3_600_000),
            history_bytes_max: 32 << 20,
            idempotency_bytes_max: 1 << 30,
            expiries_per_entry: 10_000,
        }
    }
}
