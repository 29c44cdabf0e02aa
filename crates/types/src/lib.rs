//! Quorate's vocabulary: ids, units, commands and outcomes, and the one binary form they travel in.
//!
//! Depends on nothing of ours; every other crate depends on it. Read [`commit`] first: a [`Commit`] is what every
//! gateway builds and what the machine decides.
//!
//! Invariant: no type here knows a clock, a socket, a file or a protocol.
//! Invariant: `decode(encode(x)) == x`, and decoding any bytes never panics nor allocates beyond a small multiple of them.

pub mod beats;
pub mod blob;
pub mod codec;
pub mod command;
pub mod commit;
pub mod entry;
pub mod geo;
pub mod limits;
pub mod membership;
pub mod outcome;
pub mod producers;
pub mod record;
pub mod reply;
pub mod roles;
pub mod score;
pub mod scram;
pub mod subjects;
pub mod units;
pub mod users;

pub use beats::{Assignor, Beat, Beaten, Shares};
pub use blob::Blob;
pub use codec::DecodeError;
pub use command::{AlarmKind, Command, CommandBody, Eviction, MemoryLimit, RequestId, Settings, WaitRequest};
pub use commit::{
    Append, Commit, Compare, Delivery, Format, GroupMode, GroupSettings, Guard, Idempotency, Instance,
    KeyField, KeyRange, LimitPolicy, LockMode, Mode, OnRefused, Op, Order, PartitionChoice, Payload,
    PayloadRef, RangeRead, Retention, Select, Sort, StreamSettings, When,
};
pub use entry::{AutomaticChange, Decided, Entry, FiredTask, Origin, Subject, Verdict};
pub use limits::{Invalid, Limits};
pub use membership::{
    CommittedOffset, GroupFault, Join, MemberAnswer, MemberChange, Membership, OffsetCommit, StreamOffsets,
};
pub use outcome::{
    Branch, Committed, GuardFailed, Holder, KeyValue, LimitReport, OpError, OpResult, Outcome, Refusal,
    Refused, Registered, Resolution, Taken,
};
pub use producers::{
    Author, EPOCH_MAX, Numbered, Produce, ProduceError, ProducerId, SEQUENCE_MAX, TRANSACTION_MS_MAX,
};
pub use record::{Header, Record, RecordId};
pub use reply::{Replies, Reply};
pub use roles::{AccessChange, AccessRefusal, ROOT, RangeRule, Role, TOKENS_MAX, Token};
pub use score::Score;
pub use scram::{Scram, ScramHash, Verifier};
pub use units::*;
pub use users::{CommandRule, DEFAULT_USER, Denied, Digest, NameRule, RULES_MAX, User, UserChange, Verbs};
