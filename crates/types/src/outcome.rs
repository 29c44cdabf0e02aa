//! What became of a command: an answer, or a refusal that says what was found, what was wanted, and what to do.
//!
//! Every error answers two questions: did it happen, and may I retry? All refusals here mean that nothing happened.

use crate::blob::Blob;
use crate::commit::{Compare, Delivery, Instance, KeyField, LockMode, PayloadRef};
use crate::membership::{GroupFault, MemberAnswer};
use crate::producers::{ProduceError, ProducerId};
use crate::reply::Reply;
use crate::roles::AccessRefusal;
use crate::units::{
    FencingToken, IdempotencyKey, Key, LeaseId, LimitName, LockName, Millis, Offset, Revision, ServiceName,
    TaskName, Version, WallTime,
};
use crate::users::Denied;
use crate::{wire_enum, wire_struct};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The commit took effect, or its `else` list did.
    Committed {
        /// The answer.
        committed: Committed,
    },
    /// Nothing happened.
    Refused {
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The lock is held by the waiter now.
    Granted {
        /// The token of the grant.
        token: FencingToken,
    },
    /// The waiter stands in the queue; a later event tells of its grant.
    Queued {
        /// How many stand before it.
        ahead: u64,
    },
    /// For each lease of a keep-alive: its time to live, or nothing once it is gone.
    Alive {
        /// In the order asked.
        leases: Vec<(LeaseId, Option<Millis>)>,
    },
    /// What became of an idempotency key.
    Resolved {
        /// The finding.
        resolution: Resolution,
    },
    /// Done, with nothing to tell.
    Done {
        /// The revision after it.
        revision: Revision,
    },
}
wire_enum!(Outcome {
    1 = Committed { committed },
    2 = Refused { refusal },
    3 = Granted { token },
    4 = Queued { ahead },
    5 = Alive { leases },
    6 = Resolved { resolution },
    7 = Done { revision },
});

/// A commit that took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The revision after it: its own if it changed a key, stream, lock or leadership, else the one before.
    pub revision: Revision,
    /// Which list ran.
    pub branch: Branch,
    /// A result for each operation, in order.
    pub results: Vec<OpResult>,
    /// What each limit guard has left.
    pub limits: Vec<LimitReport>,
    /// Whether this is the remembered answer of an earlier commit under the same idempotency key.
    pub replayed: bool,
}
wire_struct!(Committed { revision, branch, results, limits, replayed });

/// Which list of a commit ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Branch {
    /// All guards held.
    #[default]
    Then,
    /// A guard failed.
    Else,
}
wire_enum!(Branch { 0 = Then {}, 1 = Else {} });

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Done, with nothing to tell.
    Done {},
    /// In mode `each`: it failed, and changed nothing.
    Failed {
        /// Why.
        error: OpError,
    },
    /// A read key, or what was there before.
    Key {
        /// Absent if it does not (did not) exist.
        found: Option<KeyValue>,
    },
    /// Keys of a range.
    Keys {
        /// The keys that fit the limit.
        keys: Vec<KeyValue>,
        /// How many keys the range holds: exact when only a count was asked for, or nothing was cut off by the limit.
        count: u64,
        /// Whether there are more than were given.
        more: bool,
    },
    /// Keys were deleted.
    Deleted {
        /// How many.
        count: u64,
        /// What they were, if asked.
        prev: Vec<KeyValue>,
    },
    /// The sum.
    Number {
        /// After the addition.
        value: i64,
    },
    /// Records were appended.
    Appended {
        /// The partition.
        partition: u32,
        /// Offset of the first record.
        first: Offset,
        /// The offset after the last.
        next: Offset,
    },
    /// Bounds of a stream.
    Stream {
        /// For each partition: first offset kept, next offset.
        partitions: Vec<(Offset, Offset)>,
    },
    /// Records handed to a consumer.
    Taken {
        /// Each with where its payload lies.
        deliveries: Vec<Taken>,
    },
    /// Deliveries were acked, nacked or extended.
    Settled {
        /// How many still belonged to the caller.
        settled: u64,
        /// Those that had timed out or been settled before: another consumer may have them.
        lost: Vec<Delivery>,
    },
    /// A lease.
    Lease {
        /// Its id.
        lease: LeaseId,
        /// Its time to live.
        ttl: Millis,
        /// What is left of it.
        left: Millis,
    },
    /// A lock or leadership was granted.
    Token {
        /// The token.
        token: FencingToken,
    },
    /// A lock or election.
    Lock {
        /// Who holds it.
        holders: Vec<Holder>,
        /// How many wait.
        waiting: u64,
    },
    /// A task was scheduled.
    Scheduled {
        /// Whether it replaced one of the same name.
        replaced: bool,
    },
    /// A claim.
    Claim {
        /// The stored answer when the work is done already; otherwise do it and complete with the token.
        answer: Option<Blob>,
        /// The token to complete the claim with; 0 beside an answer.
        token: FencingToken,
    },
    /// What a limit has left.
    Limit {
        /// The report.
        report: LimitReport,
    },
    /// An inner commit ran.
    Nested {
        /// Which of its lists.
        branch: Branch,
        /// Its results.
        results: Vec<OpResult>,
    },
    /// What a call answered.
    Reply {
        /// The answer.
        reply: Reply,
    },
    /// Offsets of a group were kept.
    Kept {
        /// Places, in the order asked, of those whose stream or partition does not exist: they were not.
        missing: Vec<u32>,
    },
    /// A group's members were changed.
    Member {
        /// What became of it.
        answer: MemberAnswer,
    },
    /// A producer was given a number, or another life.
    Producer {
        /// The number.
        producer: ProducerId,
        /// The life.
        epoch: u16,
    },
}
wire_enum!(OpResult {
    0 = Done {},
    1 = Failed { error },
    2 = Key { found },
    3 = Keys { keys, count, more },
    4 = Deleted { count, prev },
    5 = Number { value },
    6 = Appended { partition, first, next },
    7 = Stream { partitions },
    8 = Taken { deliveries },
    9 = Settled { settled, lost },
    10 = Lease { lease, ttl, left },
    11 = Token { token },
    12 = Lock { holders, waiting },
    13 = Scheduled { replaced },
    14 = Claim { answer, token },
    15 = Limit { report },
    16 = Nested { branch, results },
    17 = Reply { reply },
    18 = Kept { missing },
    19 = Member { answer },
    20 = Producer { producer, epoch },
});

/// A key with its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// Its value; empty when only keys were asked for.
    pub value: Blob,
    /// Revision of its creation.
    pub create_revision: Revision,
    /// Revision of its last write.
    pub mod_revision: Revision,
    /// Writes since its creation.
    pub version: Version,
    /// The lease it hangs on; 0 for none.
    pub lease: LeaseId,
}
wire_struct!(KeyValue { key, value, create_revision, mod_revision, version, lease });

/// A record handed to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// To settle it with.
    pub delivery: Delivery,
    /// The payload that holds it.
    pub at: PayloadRef,
    /// Which record of the payload.
    pub record: u32,
    /// Records in the payload.
    pub records: u32,
    /// When it was appended.
    pub wall: WallTime,
}
wire_struct!(Taken { delivery, at, record, records, wall });

/// A holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its session.
    pub lease: LeaseId,
    /// Its request.
    pub request: u64,
    /// Its token.
    pub token: FencingToken,
    /// How it holds the lock.
    pub mode: LockMode,
    /// Its value; what a leader proclaims.
    pub value: Blob,
    /// Since when, by wall time.
    pub since: WallTime,
}
wire_struct!(Holder { lease, request, token, mode, value, since });

/// What a limit has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitReport {
    /// The limit.
    pub name: LimitName,
    /// Units it allows: the burst of a bucket, the count of a window.
    pub limit: u64,
    /// Units left now.
    pub remaining: u64,
    /// When the same cost could pass; 0 if now.
    pub retry_after: Millis,
    /// When it is full again.
    pub reset: Millis,
}
wire_struct!(LimitReport { name, limit, remaining, retry_after, reset });

/// What became of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The commit took effect: its answer.
    Committed {
        /// The remembered answer.
        committed: Committed,
    },
    /// The claim was completed: its answer.
    Completed {
        /// The remembered answer.
        answer: Blob,
    },
    /// A claim is held and not completed.
    InProgress {
        /// Its token.
        token: FencingToken,
    },
    /// Nothing had happened, and now nothing will: a late original is refused.
    Cancelled {},
}
wire_enum!(Resolution {
    1 = Committed { committed },
    2 = Completed { answer },
    3 = InProgress { token },
    4 = Cancelled {},
});

/// Why nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Guards failed, and there was no `else` list.
    #[error("{}", guards_text(.failed))]
    Guards {
        /// Which, and why.
        failed: Vec<(u32, GuardFailed)>,
    },
    /// An operation failed.
    #[error("operation {op} failed: {error}")]
    Operation {
        /// Its place in the list that ran; for an inner commit, of that commit.
        op: u32,
        /// Why.
        error: OpError,
    },
    /// The idempotency key was used for another request.
    #[error(
        "idempotency key {key} was used for another request: send the same request again, or choose a new key"
    )]
    OtherRequest {
        /// The key.
        key: IdempotencyKey,
    },
    /// The idempotency key was cancelled by `resolve`.
    #[error("idempotency key {key} was cancelled by a resolve: choose a new key to try again")]
    Cancelled {
        /// The key.
        key: IdempotencyKey,
    },
    /// The idempotency key belongs to a claim.
    #[error("idempotency key {key} belongs to a claim: complete that claim, or choose a new key")]
    Claimed {
        /// The key.
        key: IdempotencyKey,
    },
    /// The memory for idempotency keys is full; forgetting one early would break its promise.
    #[error(
        "{kept} bytes of idempotency keys are kept, {max} are allowed: wait for some to expire, use shorter times to live, or raise the bound"
    )]
    IdempotencyFull {
        /// Bytes kept.
        kept: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The command itself was refused.
    #[error("{error}")]
    Command {
        /// Why.
        error: OpError,
    },
    /// The sender may not do this.
    #[error("{denied}")]
    Denied {
        /// Who may not do what.
        denied: Denied,
    },
    /// A change of users after which nobody could change them again.
    #[error(
        "after this nobody who may manage users could enter: nothing was changed; first give somebody else `+acl|setuser` and a password or token, or change it with an operator's token of --token-file"
    )]
    LockOut {},
    /// A change of users or roles does not fit what is there.
    #[error("{why}")]
    Access {
        /// Why.
        why: AccessRefusal,
    },
}
wire_enum!(Refusal {
    1 = Guards { failed },
    2 = Operation { op, error },
    3 = OtherRequest { key },
    4 = Cancelled { key },
    5 = Claimed { key },
    6 = IdempotencyFull { kept, max },
    7 = Command { error },
    8 = Denied { denied },
    9 = LockOut {},
    10 = Access { why },
});

/// A refusal, as a result.
pub type Refused<T> = Result<T, Refusal>;

fn guards_text(failed: &[(u32, GuardFailed)]) -> String {
    let texts: Vec<String> = failed.iter().map(|(guard, why)| format!("guard {guard}: {why}")).collect();
    texts.join("; ")
}

/// Why a guard failed: what was found, what was wanted, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardFailed {
    /// A number of a key.
    #[error("key {key} has {} {found}, wanted {} {wanted}: read it again and decide again", field_name(*.field), compare_name(*.compare))]
    Key {
        /// The key.
        key: Key,
        /// Which number.
        field: KeyField,
        /// How it was compared.
        compare: Compare,
        /// What is there.
        found: u64,
        /// What was wanted.
        wanted: u64,
    },
    /// A value.
    #[error("key {key} {}, wanted {} another value: read it again and decide again", found_name(.found), compare_name(*.compare))]
    Value {
        /// The key.
        key: Key,
        /// How it was compared.
        compare: Compare,
        /// The revision of what is there; 0 when absent. (The value itself may be large or secret.)
        found: Revision,
    },
    /// A range changed.
    #[error("key {key} changed at revision {changed}, after {since}: read the range again and decide again")]
    Range {
        /// The first key found to have changed.
        key: Key,
        /// When.
        changed: Revision,
        /// Since when it had to be unchanged.
        since: Revision,
    },
    /// Whether a range changed cannot be told any more, or not yet.
    #[error(
        "revision {since} is not retained (history holds {oldest} to {current}): read the range again and decide again"
    )]
    RangeUnknown {
        /// Since when it had to be unchanged.
        since: Revision,
        /// The oldest revision retained.
        oldest: Revision,
        /// The current revision.
        current: Revision,
    },
    /// The token is not the one of a live holder.
    #[error("{}", fence_text(.lock, *.held, *.offered))]
    Fence {
        /// The lock or election.
        lock: LockName,
        /// The newest token held; 0 when nobody holds it.
        held: FencingToken,
        /// The token offered.
        offered: FencingToken,
    },
    /// Somebody else leads, or nobody.
    #[error(
        "election {election} is led by lease {leader} (0: by nobody), wanted {wanted}: look who leads and decide again"
    )]
    Leadership {
        /// The election.
        election: LockName,
        /// The leader's lease; 0 for nobody.
        leader: LeaseId,
        /// The lease that was wanted.
        wanted: LeaseId,
    },
    /// The limit has too little left.
    #[error("limit {} has {} of {} left, wanted {cost}: {}", .report.name, .report.remaining, .report.limit, retry_text(.report, *.cost))]
    Limit {
        /// What it has left.
        report: LimitReport,
        /// What was wanted.
        cost: u64,
    },
    /// All slots are in use.
    #[error("all {max} slots of {name} are in use: try again when one is freed")]
    Slots {
        /// The set of slots.
        name: LimitName,
        /// How many there are.
        max: u64,
    },
    /// The lease that was to hold a slot is gone.
    #[error("lease {lease} has ended: everything it held is lost, grant a new one")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// Something was appended, or nothing is there.
    #[error("stream {stream} partition {partition} is at {found}, wanted {wanted}: read on and decide again")]
    StreamAt {
        /// The stream.
        stream: Key,
        /// The partition.
        partition: u32,
        /// Its next offset; 0 when it does not exist.
        found: Offset,
        /// What was wanted.
        wanted: Offset,
    },
    /// The deadline has passed.
    #[error("it is {now} ms, after the deadline {deadline} ms: the request came too late")]
    NotAfter {
        /// The entry's wall time.
        now: WallTime,
        /// The deadline.
        deadline: WallTime,
    },
    /// A key of a range is not as wanted, or the range is empty.
    #[error("{}: read the range again and decide again", .key.as_ref().map_or("no key of the range is there".to_owned(), |key| format!("key {key} is not as wanted")))]
    Some {
        /// The first that is not; absent where there is none.
        key: Option<Key>,
    },
}
wire_enum!(GuardFailed {
    1 = Key { key, field, compare, found, wanted },
    2 = Value { key, compare, found },
    3 = Range { key, changed, since },
    4 = RangeUnknown { since, oldest, current },
    5 = Fence { lock, held, offered },
    6 = Leadership { election, leader, wanted },
    7 = Limit { report, cost },
    8 = Slots { name, max },
    9 = LeaseGone { lease },
    10 = StreamAt { stream, partition, found, wanted },
    11 = NotAfter { now, deadline },
    12 = Some { key },
});

fn fence_text(lock: &LockName, held: FencingToken, offered: FencingToken) -> String {
    if held == FencingToken::ZERO {
        format!(
            "nobody holds lock {lock}, offered token {offered}: the lease ended or it was released, acquire the lock again"
        )
    } else {
        format!(
            "lock {lock} is held with token {held}, offered {offered}: the lease ended or it was released, acquire the lock again"
        )
    }
}

fn retry_text(report: &LimitReport, cost: u64) -> String {
    if cost > report.limit {
        "it can never pass, ask for less".into()
    } else {
        format!("retry after {} ms", report.retry_after)
    }
}

fn field_name(field: KeyField) -> &'static str {
    match field {
        KeyField::Version => "version",
        KeyField::CreateRevision => "create revision",
        KeyField::ModRevision => "mod revision",
        KeyField::Lease => "lease",
    }
}

fn compare_name(compare: Compare) -> &'static str {
    match compare {
        Compare::Equal => "exactly",
        Compare::NotEqual => "anything but",
        Compare::Less => "less than",
        Compare::Greater => "more than",
    }
}

fn held_name(held: FencingToken) -> String {
    if held == FencingToken::ZERO { "waits for".into() } else { format!("holds with token {held}") }
}

fn found_name(found: &Revision) -> String {
    if *found == Revision::ZERO {
        "does not exist".into()
    } else {
        format!("was written at revision {found}")
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The lease has ended or never was.
    #[error(
        "lease {lease} is not there: it ended or was never granted, and everything it held is lost; grant a new one"
    )]
    LeaseMissing {
        /// The lease.
        lease: LeaseId,
    },
    /// The lease id is taken.
    #[error("lease {lease} exists already: choose another id, or 0 to be given one")]
    LeaseExists {
        /// The lease.
        lease: LeaseId,
    },
    /// The value is not a decimal integer of 64 bits.
    #[error("key {key} does not hold a decimal integer of 64 bits: increment works on integers only")]
    NotInteger {
        /// The key.
        key: Key,
    },
    /// The sum would leave its bounds.
    #[error("key {key} is {found}; adding {by} would leave {min} to {max}")]
    OutOfBounds {
        /// The key.
        key: Key,
        /// What is there.
        found: i64,
        /// What was to be added.
        by: i64,
        /// Smallest sum allowed.
        min: i64,
        /// Largest sum allowed.
        max: i64,
    },
    /// The name belongs to something of another type.
    #[error("{key} is a {found}, not a {wanted}: one name has one type, choose another name")]
    WrongType {
        /// The name.
        key: Key,
        /// What is there.
        found: String,
        /// What the operation works on.
        wanted: String,
    },
    /// The keyspace belongs to the machine.
    #[error("keyspace {space} belongs to the server: use the operations of locks and services")]
    Internal {
        /// The keyspace.
        space: u64,
    },
    /// The revision is no longer retained.
    #[error("revision {asked} has been compacted: the oldest retained is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest retained.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {asked} has not happened yet: the newest is {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        current: Revision,
    },
    /// Someone else holds the lock.
    #[error("lock {lock} is held with token {held} and {waiting} wait: wait for it, or try again later")]
    LockHeld {
        /// The lock.
        lock: LockName,
        /// The newest token held.
        held: FencingToken,
        /// How many wait.
        waiting: u64,
    },
    /// The session holds it, or waits for it, by another request already.
    #[error("lease {lease} {} lock {lock} already: a session does not wait for itself", held_name(*.held))]
    LockHeldByYou {
        /// The lock.
        lock: LockName,
        /// The session.
        lease: LeaseId,
        /// Its token; 0 when it stands in the queue.
        held: FencingToken,
    },
    /// The token is not held.
    #[error("lock {lock} is not held with token {offered}: the lease ended or it was released before")]
    NotHolder {
        /// The lock.
        lock: LockName,
        /// The token offered.
        offered: FencingToken,
    },
    /// The waiter is not in the queue.
    #[error("lease {lease} does not wait for lock {lock} with this request")]
    NotWaiting {
        /// The lock.
        lock: LockName,
        /// The session.
        lease: LeaseId,
    },
    /// The stream does not exist.
    #[error("stream {stream} does not exist: create it first")]
    StreamMissing {
        /// The stream.
        stream: Key,
    },
    /// The stream exists.
    #[error("stream {stream} exists already")]
    StreamExists {
        /// The stream.
        stream: Key,
    },
    /// The stream has fewer partitions.
    #[error("stream {stream} has {partitions} partitions, there is no partition {asked}")]
    PartitionMissing {
        /// The stream.
        stream: Key,
        /// How many it has.
        partitions: u32,
        /// Which was asked for.
        asked: u32,
    },
    /// Partitions cannot be taken away.
    #[error("stream {stream} has {partitions} partitions: they can be added, not removed")]
    PartitionsRemoved {
        /// The stream.
        stream: Key,
        /// How many it has.
        partitions: u32,
    },
    /// The offset is not in the partition.
    #[error(
        "stream {stream} partition {partition} holds offsets {first} to {next} (excluded), asked for {asked}"
    )]
    OffsetOutOfRange {
        /// The stream.
        stream: Key,
        /// The partition.
        partition: u32,
        /// First offset kept.
        first: Offset,
        /// Next offset.
        next: Offset,
        /// What was asked for.
        asked: Offset,
    },
    /// A record on a compacted stream has no key, or the payload cannot be read.
    #[error("stream {stream} is compacted by key: every record needs one")]
    KeylessRecord {
        /// The stream.
        stream: Key,
    },
    /// The payload does not hold what the append says.
    #[error("the payload does not hold {records} records: {why}")]
    BadPayload {
        /// Records announced.
        records: u32,
        /// Why it cannot be read.
        why: String,
    },
    /// The group does not exist.
    #[error("group {group} of stream {stream} does not exist: create it first")]
    GroupMissing {
        /// The stream.
        stream: Key,
        /// The group.
        group: Blob,
    },
    /// The group exists.
    #[error("group {group} of stream {stream} exists already")]
    GroupExists {
        /// The stream.
        stream: Key,
        /// The group.
        group: Blob,
    },
    /// The group has the other mode.
    #[error("group {group} of stream {stream} is {found}: this operation is for {wanted} groups")]
    GroupMode {
        /// The stream.
        stream: Key,
        /// The group.
        group: Blob,
        /// Its mode.
        found: String,
        /// The mode the operation is for.
        wanted: String,
    },
    /// The cursor is elsewhere.
    #[error("the cursor is at {found}, expected {expected}: another reader moved it, read from there")]
    CursorMoved {
        /// Where it is.
        found: Offset,
        /// Where it was expected.
        expected: Offset,
    },
    /// No task of that name is scheduled.
    #[error("task {task} is not scheduled: it has run, was cancelled, or never was")]
    TaskMissing {
        /// The task.
        task: TaskName,
    },
    /// The instance is not registered.
    #[error("service {service} has no such instance")]
    InstanceMissing {
        /// The service.
        service: ServiceName,
    },
    /// Somebody works on the claim.
    #[error(
        "idempotency key {key} is claimed with token {token} and not completed yet: wait, and claim again"
    )]
    ClaimHeld {
        /// The key.
        key: IdempotencyKey,
        /// The token of the claim.
        token: FencingToken,
    },
    /// The key was used for another request.
    #[error("idempotency key {key} was used for another request: choose a new key")]
    ClaimOther {
        /// The key.
        key: IdempotencyKey,
    },
    /// The claim is not held under this token.
    #[error("idempotency key {key} is not claimed with token {token}: the claim ended, claim it again")]
    ClaimLost {
        /// The key.
        key: IdempotencyKey,
        /// The token offered.
        token: FencingToken,
    },
    /// The memory for idempotency keys is full.
    #[error(
        "{kept} bytes of idempotency keys are kept, {max} are allowed: wait for some to expire or raise the bound"
    )]
    IdempotencyFull {
        /// Bytes kept.
        kept: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The slot is not taken.
    #[error("slot is not taken in {name}")]
    SlotMissing {
        /// The set of slots.
        name: LimitName,
    },
    /// Guards of an inner commit failed, and it has no `else` list.
    #[error("{}", guards_text(.failed))]
    Guards {
        /// Which, and why.
        failed: Vec<(u32, GuardFailed)>,
    },
    /// An operation of an inner commit failed.
    #[error("inner operation {op} failed: {error}")]
    Inner {
        /// Its place in the inner list.
        op: u32,
        /// Why.
        error: Box<OpError>,
    },
    /// A number is outside what is allowed.
    #[error("{what} is {found}, allowed is {min} to {max}")]
    Range {
        /// Which number.
        what: String,
        /// What it is.
        found: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// Not allowed inside another commit.
    #[error("{what} is only allowed on the outermost commit")]
    OutermostOnly {
        /// What.
        what: String,
    },
    /// A call failed.
    #[error("{text}")]
    Call {
        /// Why, as Redis says it: a code in capitals, a space, an explanation.
        text: Blob,
    },
    /// The sender may not do this.
    #[error("{denied}")]
    Denied {
        /// Who may not do what.
        denied: Denied,
    },
    /// The key is not there, and was to keep its value or lease.
    #[error("key {key} does not exist: there is no value or lease to keep, write both")]
    KeyMissing {
        /// The key.
        key: Key,
    },
    /// A group of members does not do what is asked.
    #[error("group {group}: {why}")]
    Group {
        /// The group.
        group: Blob,
        /// Why.
        why: GroupFault,
    },
    /// A producer that numbers its batches is refused.
    #[error("{why}")]
    Produce {
        /// Why.
        why: ProduceError,
    },
}
wire_enum!(OpError {
    1 = LeaseMissing { lease },
    2 = LeaseExists { lease },
    3 = NotInteger { key },
    4 = OutOfBounds { key, found, by, min, max },
    5 = WrongType { key, found, wanted },
    6 = Internal { space },
    7 = Compacted { asked, oldest },
    8 = Future { asked, current },
    9 = LockHeld { lock, held, waiting },
    10 = LockHeldByYou { lock, lease, held },
    11 = NotHolder { lock, offered },
    12 = NotWaiting { lock, lease },
    13 = StreamMissing { stream },
    14 = StreamExists { stream },
    15 = PartitionMissing { stream, partitions, asked },
    16 = PartitionsRemoved { stream, partitions },
    17 = OffsetOutOfRange { stream, partition, first, next, asked },
    18 = KeylessRecord { stream },
    19 = BadPayload { records, why },
    20 = GroupMissing { stream, group },
    21 = GroupExists { stream, group },
    22 = GroupMode { stream, group, found, wanted },
    23 = CursorMoved { found, expected },
    24 = TaskMissing { task },
    25 = InstanceMissing { service },
    26 = ClaimHeld { key, token },
    27 = ClaimOther { key },
    28 = ClaimLost { key, token },
    29 = IdempotencyFull { kept, max },
    30 = SlotMissing { name },
    31 = Guards { failed },
    32 = Inner { op, error },
    33 = Range { what, found, min, max },
    34 = OutermostOnly { what },
    35 = Call { text },
    36 = Denied { denied },
    37 = KeyMissing { key },
    38 = Group { group, why },
    39 = Produce { why },
});

impl crate::codec::Wire for Box<OpError> {
    fn put(&self, out: &mut crate::codec::Writer) {
        (**self).put(out);
    }
    fn take(from: &mut crate::codec::Reader<'_>) -> Result<Self, crate::DecodeError> {
        from.nested(|from| Ok(Self::new(crate::codec::Wire::take(from)?)))
    }
}

/// A service instance as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub instance: Blob,
    /// The lease it hangs on.
    pub lease: LeaseId,
    /// The revision of its last change.
    pub revision: Revision,
    /// What is known of it.
    pub info: Instance,
}
