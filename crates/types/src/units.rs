//! Ids and units. A bare `u64` in a signature is a question; these types are the answers.
//!
//! Invariant: arithmetic that could overflow saturates or is checked; time never runs backwards through these types.

use crate::blob::Blob;
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
        impl $name {
            /// Zero: before everything, or absent, as the type's documentation says.
            pub const ZERO: Self = Self(0);
            /// The value one above; saturates at the top.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl crate::codec::Wire for $name {
            fn put(&self, out: &mut crate::codec::Writer) {
                out.varint(self.0);
            }
            fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
                Ok(Self(from.varint()?))
            }
        }
    };
}

number!(
    /// Place of an entry in a partition's log. The first entry is 1; 0 is before all.
    LogIndex
);
number!(
    /// Term of the leader that ordered an entry (Raft §5.1). A single node stays in term 1.
    Term
);
number!(
    /// Number of the last commit that changed a key, stream, lock or leadership; 0 before the first.
    Revision
);
number!(
    /// How often a key was written since it was created; 0 means that it does not exist.
    Version
);
number!(
    /// Id of a lease; 0 means "no lease".
    LeaseId
);
number!(
    /// A record's place in a stream partition; the first record is 0.
    Offset
);
number!(
    /// The revision that granted a lock or leadership. Tokens of one lock strictly increase, so a store that keeps the
    /// newest it has seen can refuse the rest (Burrows, "Chubby", OSDI 2006, §2.4, sequencers).
    FencingToken
);
number!(
    /// Wall time in milliseconds since the Unix epoch, as the orderer stamped it; never decreasing along the log.
    WallTime
);
number!(
    /// Log time in nanoseconds: advances only while an orderer is in office, by its monotonic clock.
    LogTime
);
number!(
    /// A duration in milliseconds.
    Millis
);
number!(
    /// A node of a cluster; 0 stands for the one node there is without a cluster.
    NodeId
);
number!(
    /// A cluster, told from every other by chance: drawn at random when it is made; 0 means "none yet".
    ClusterId
);

impl LogTime {
    /// The instant `after` this one; saturates.
    #[must_use]
    pub fn plus(self, after: Millis) -> Self {
        Self(self.0.saturating_add(after.0.saturating_mul(1_000_000)))
    }
    /// Milliseconds from `earlier` to this instant, rounded up; 0 when this one is not later.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).div_ceil(1_000_000))
    }
}

impl WallTime {
    /// The instant `after` this one; saturates.
    #[must_use]
    pub fn plus(self, after: Millis) -> Self {
        Self(self.0.saturating_add(after.0))
    }
}

/// Number of a keyspace: a namespace of keys and streams with settings of its own.
///
/// `DEFAULT` is the one every protocol shares; the numbers from `INTERNAL` up belong to the machine and cannot be
/// written by a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyspace(pub u16);

impl Keyspace {
    /// The keyspace that all protocols share.
    pub const DEFAULT: Self = Self(0);
    /// The first number that belongs to the machine alone.
    pub const INTERNAL: Self = Self(0xff00);
    /// Service instances, keyed `SERVICE/INSTANCE`.
    pub const SERVICES: Self = Self(0xff00);
    /// Holders and waiters of locks and elections, keyed `NAME/<lease hex>`, in order of create revision.
    pub const LOCKS: Self = Self(0xff01);
    /// What the machine notes of the keyspaces of clients, under their numbers.
    pub const NOTES: Self = Self(0xff02);
    /// Whether only the machine may write here.
    #[must_use]
    pub fn is_internal(self) -> bool {
        self >= Self::INTERNAL
    }
}

impl crate::codec::Wire for Keyspace {
    fn put(&self, out: &mut crate::codec::Writer) {
        out.varint(u64::from(self.0));
    }
    fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
        let found = from.varint()?;
        u16::try_from(found).map(Self).map_err(|_| crate::DecodeError::Range { what: "keyspace", found })
    }
}

/// A key or stream: its keyspace and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where it lives.
    pub space: Keyspace,
    /// Its name, any bytes.
    pub name: Blob,
}

impl Key {
    /// A key of the default keyspace.
    pub fn new(name: impl Into<Blob>) -> Self {
        Self { space: Keyspace::DEFAULT, name: name.into() }
    }
}

impl<T: Into<Blob>> From<T> for Key {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.space != Keyspace::DEFAULT {
            write!(f, "{}:", self.space.0)?;
        }
        self.name.fmt(f)
    }
}
crate::wire_struct!(Key { space, name });

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Blob);
        impl<T: Into<Blob>> From<T> for $name {
            fn from(name: T) -> Self {
                Self(name.into())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl crate::codec::Wire for $name {
            fn put(&self, out: &mut crate::codec::Writer) {
                self.0.put(out);
            }
            fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
                Ok(Self(Blob::take(from)?))
            }
        }
    };
}

name!(
    /// Name of a lock or an election; both live in one namespace, since an election is a lock with a value.
    LockName
);
name!(
    /// Name of a consumer group.
    GroupName
);
name!(
    /// Name of a limit or of a set of concurrency slots.
    LimitName
);
name!(
    /// Name of a task (a timer).
    TaskName
);
name!(
    /// Name of a service.
    ServiceName
);
name!(
    /// Name of one instance of a service.
    InstanceName
);
name!(
    /// An idempotency key as the client sent it; scoped by its principal.
    IdempotencyKey
);
name!(
    /// Who sends a command: the authenticated user, or `anonymous`.
    Principal
);

/// 128-bit hash of a canonical commit (xxh3 of its wire form without idempotency and trace).
///
/// It tells a retry from another request under the same key. It is no defence against a principal that attacks itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl crate::codec::Wire for Fingerprint {
    fn put(&self, out: &mut crate::codec::Writer) {
        out.raw(&self.0.to_le_bytes());
    }
    fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
        let bytes: [u8; 16] = from.raw(16)?.try_into().expect("raw(16) gives 16 bytes");
        Ok(Self(u128::from_le_bytes(bytes)))
    }
}
