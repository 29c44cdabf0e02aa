//! The commit: guards, then a list of operations, all or nothing.
//!
//! A [`Commit`] is what every gateway builds (`POST /v1/commit`, `MULTI … EXEC`, an etcd `Txn`) and what the machine
//! decides, in this order: idempotency first (a hit replays the stored answer and charges nothing), then every other
//! guard against one state, then the operations in order, each seeing the earlier ones.
//!
//! Invariant: a commit carries no clock reading and no random number; both come from the entry it is logged in.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::membership::{MemberChange, OffsetCommit};
use crate::producers::Produce;
use crate::units::{
    FencingToken, Fingerprint, GroupName, IdempotencyKey, InstanceName, Key, Keyspace, LeaseId, LimitName,
    LockName, LogIndex, Millis, Offset, Revision, ServiceName, TaskName, WallTime,
};
use crate::{wire_enum, wire_struct};
use bytes::Bytes;

/// Guards, then operations; `otherwise` runs instead when a guard fails. All of it or nothing, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Remembers the answer under a key, so that a retry has one effect and one answer. Only on the outermost commit.
    pub idempotency: Option<Idempotency>,
    /// Conditions, all checked against the state before the first operation.
    pub guards: Vec<Guard>,
    /// Operations in order, each seeing the earlier ones.
    pub then: Vec<Op>,
    /// What to do instead when a guard fails; without it the commit is refused.
    pub otherwise: Option<Vec<Op>>,
    /// What a failing operation means.
    pub mode: Mode,
}
wire_struct!(Commit { idempotency, guards, then, otherwise, mode });

impl Commit {
    /// A commit of operations without guards.
    #[must_use]
    pub fn of(then: Vec<Op>) -> Self {
        Self { then, ..Self::default() }
    }

    /// Hash of what is asked for, without the idempotency key itself: equal for a retry, different for another request.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut out = Writer::default();
        let Self { idempotency: _, guards, then, otherwise, mode } = self;
        guards.put(&mut out);
        then.put(&mut out);
        otherwise.put(&mut out);
        mode.put(&mut out);
        Fingerprint(xxhash_rust::xxh3::xxh3_128(&out.buffer))
    }

    /// Whether its mode or a guard of its own came with the rules of the second version.
    pub(crate) fn is_of_calls(&self) -> bool {
        let new = |guard: &Guard| matches!(guard, Guard::Keys { .. } | Guard::Values { .. });
        self.mode == Mode::Foreseen || self.guards.iter().any(new)
    }

    /// Calls `visit` for every operation, nested and scheduled ones and those of riders included, in the order in which they are encoded.
    pub fn for_each_op<'a>(&'a self, visit: &mut dyn FnMut(&'a Op)) {
        for op in self.then.iter().chain(self.otherwise.iter().flatten()) {
            visit(op);
            if let Op::Nested { commit } | Op::Schedule { commit, .. } = op {
                commit.for_each_op(visit);
            }
            if let Op::Produce { produce } = op
                && let Some(rider) = produce.rider()
            {
                rider.for_each_op(visit);
            }
        }
    }

    /// Calls `visit` for every payload in the order in which they are encoded.
    pub fn for_each_payload(&mut self, visit: &mut dyn FnMut(&mut Payload)) {
        for op in self.then.iter_mut().chain(self.otherwise.iter_mut().flatten()) {
            match op {
                Op::Append { append } => visit(&mut append.payload),
                Op::Call { record: Some(record), .. } => visit(record),
                Op::Produce { produce } => {
                    if let Some(append) = produce.append_mut() {
                        visit(&mut append.payload);
                    }
                }
                Op::Nested { commit } => commit.for_each_payload(visit),
                Op::Schedule { commit, on_refused, .. } => {
                    commit.for_each_payload(visit);
                    if let OnRefused::DeadLetter { letter } = on_refused {
                        visit(&mut letter.payload);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Wire for Box<Append> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Append::take(from)?))
    }
}

impl Wire for Box<Commit> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.nested(|from| Ok(Self::new(Commit::take(from)?)))
    }
}

/// What an operation that fails means for its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It refuses the commit and is named. The default.
    #[default]
    Atomic,
    /// It is only that operation's result, and the other effects stand (as Redis `EXEC` has it).
    Each,
    /// As `Each`, of operations that only came together (as a pipeline's): each has the budget of a commit for itself.
    Apart,
    /// It refuses the commit, and which lists run is decided for the inner commits too before the first operation (as an etcd `Txn` has
    /// it). A commit without an `else` list runs nothing when a guard fails. Nothing may be charged.
    Foreseen,
}
wire_enum!(Mode { 0 = Atomic {}, 1 = Each {}, 2 = Apart {}, 3 = Foreseen {} });

/// Under which key, and for how long, the answer of a commit is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, scoped by its principal.
    pub key: IdempotencyKey,
    /// How long the answer is kept, in log time.
    pub ttl: Millis,
    /// [`Commit::fingerprint`]; set when the command is accepted, before it is logged.
    pub fingerprint: Fingerprint,
}
wire_struct!(Idempotency { key, ttl, fingerprint });

/// How two values are compared: found `op` wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// Equal. The default.
    #[default]
    Equal,
    /// Not equal.
    NotEqual,
    /// Found is less than wanted.
    Less,
    /// Found is greater than wanted.
    Greater,
}
wire_enum!(Compare { 0 = Equal {}, 1 = NotEqual {}, 2 = Less {}, 3 = Greater {} });

impl Compare {
    /// Whether `found` stands in this relation to `wanted`.
    pub fn holds<T: Ord + ?Sized>(self, found: &T, wanted: &T) -> bool {
        match self {
            Self::Equal => found == wanted,
            Self::NotEqual => found != wanted,
            Self::Less => found < wanted,
            Self::Greater => found > wanted,
        }
    }
}

/// Which number of a key a guard looks at. An absent key has 0 for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyField {
    /// Writes since it was created.
    Version,
    /// Revision of its creation.
    CreateRevision,
    /// Revision of its last write.
    ModRevision,
    /// Lease it hangs on; 0 for none.
    Lease,
}
wire_enum!(KeyField { 0 = Version {}, 1 = CreateRevision {}, 2 = ModRevision {}, 3 = Lease {} });

/// Keys from `start` (included) to `end` (excluded) of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key; also says the keyspace.
    pub start: Key,
    /// Where it ends; `None` is the end of the keyspace.
    pub end: Option<Blob>,
}
wire_struct!(KeyRange { start, end });

impl KeyRange {
    /// One key.
    #[must_use]
    pub fn single(key: Key) -> Self {
        let mut end = key.name.to_vec();
        end.push(0);
        Self { start: key, end: Some(end.into()) }
    }
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: Key) -> Self {
        let end = prefix_end(&prefix.name);
        Self { start: prefix, end }
    }
    /// Whether `key` lies in it.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        key.space == self.start.space
            && key.name >= self.start.name
            && self.end.as_ref().is_none_or(|end| key.name < *end)
    }
}

/// The first key after all that begin with `prefix`; `None` when there is none.
fn prefix_end(prefix: &[u8]) -> Option<Blob> {
    let keep = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end.into())
}

/// A condition of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A number of a key compares to `wanted`. "Absent" is version = 0, "exists" is version ≠ 0.
    Key {
        /// The key.
        key: Key,
        /// Which number.
        field: KeyField,
        /// How it is compared.
        compare: Compare,
        /// With what.
        wanted: u64,
    },
    /// The value of a key compares to `wanted`, byte by byte. An absent key never passes.
    Value {
        /// The key.
        key: Key,
        /// How it is compared.
        compare: Compare,
        /// With what.
        wanted: Blob,
    },
    /// No key in the range was created, changed or deleted after `since`.
    RangeUnchanged {
        /// The range.
        range: KeyRange,
        /// The revision at which it was read.
        since: Revision,
    },
    /// The lock (or election) is held right now under exactly this token, by a live session.
    Fence {
        /// The lock or election.
        lock: LockName,
        /// The token its grant gave.
        token: FencingToken,
    },
    /// The election is led by this lease.
    Leadership {
        /// The election.
        election: LockName,
        /// The lease of the wanted leader.
        lease: LeaseId,
    },
    /// The limit has `cost` to spare; taken only if every guard passes.
    Limit {
        /// The limit; its state belongs to this name.
        name: LimitName,
        /// What is allowed.
        policy: LimitPolicy,
        /// How much this commit takes.
        cost: u64,
    },
    /// Fewer than `max` slots are in use; this commit takes one until it is freed or the lease ends.
    Slots {
        /// The set of slots.
        name: LimitName,
        /// How many there are.
        max: u64,
        /// The lease on which the slot hangs.
        lease: LeaseId,
        /// Names the slot among those of this lease; taking it twice takes it once.
        slot: Blob,
    },
    /// The partition's next offset is exactly this one: nothing was appended since it was read.
    StreamAt {
        /// The stream.
        stream: Key,
        /// Its partition.
        partition: u32,
        /// The offset that the next record would take.
        next: Offset,
    },
    /// The entry's wall time is not after this one.
    NotAfter {
        /// The deadline.
        deadline: WallTime,
    },
    /// A number of every plain value in a range compares to `wanted`; of none, 0 has to.
    Keys {
        /// The range.
        range: KeyRange,
        /// Which number.
        field: KeyField,
        /// How it is compared.
        compare: Compare,
        /// With what.
        wanted: u64,
    },
    /// Every plain value in a range compares to `wanted`. An empty range never passes.
    Values {
        /// The range.
        range: KeyRange,
        /// How they are compared.
        compare: Compare,
        /// With what.
        wanted: Blob,
    },
}
wire_enum!(Guard {
    1 = Key { key, field, compare, wanted },
    2 = Value { key, compare, wanted },
    3 = RangeUnchanged { range, since },
    4 = Fence { lock, token },
    5 = Leadership { election, lease },
    6 = Limit { name, policy, cost },
    7 = Slots { name, max, lease, slot },
    8 = StreamAt { stream, partition, next },
    9 = NotAfter { deadline },
    10 = Keys { range, field, compare, wanted },
    11 = Values { range, compare, wanted },
});

/// What a limit allows. Times are in log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitPolicy {
    /// Token bucket by the generic cell rate algorithm (ITU-T I.371): `count` per `period`, at most `burst` at once.
    Bucket {
        /// Units per period, 1 or more.
        count: u64,
        /// The period, 1 ms or more.
        period: Millis,
        /// Units that may be taken at one instant, 1 or more.
        burst: u64,
    },
    /// At most `count` in each window, windows beginning at multiples of `window` in log time.
    FixedWindow {
        /// Units per window.
        count: u64,
        /// The window, 1 ms or more.
        window: Millis,
    },
    /// At most `count` in the current window plus the share of the previous one that still overlaps it.
    SlidingWindow {
        /// Units per window.
        count: u64,
        /// The window, 1 ms or more.
        window: Millis,
    },
}
wire_enum!(LimitPolicy {
    1 = Bucket { count, period, burst },
    2 = FixedWindow { count, window },
    3 = SlidingWindow { count, window },
});

/// An operation of a commit: a read or an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
    },
    /// Reads a range of keys.
    Range {
        /// What to read.
        read: RangeRead,
    },
    /// Writes a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Blob,
        /// The lease it hangs on: it is deleted when the lease ends. 0 for none.
        lease: LeaseId,
        /// Whether the result shows what was there before.
        prev: bool,
    },
    /// Deletes a key. Deleting what is not there is no change.
    Delete {
        /// The key.
        key: Key,
        /// Whether the result shows what was there before.
        prev: bool,
    },
    /// Deletes every key of a range.
    DeleteRange {
        /// The range.
        range: KeyRange,
        /// Whether the result shows what was there before.
        prev: bool,
    },
    /// Adds to a decimal integer; an absent key counts as 0. Fails when the sum would leave `min..=max`.
    Increment {
        /// The key.
        key: Key,
        /// What is added.
        by: i64,
        /// Smallest sum allowed.
        min: i64,
        /// Largest sum allowed.
        max: i64,
    },
    /// Declares a stream; fails if the name is taken.
    CreateStream {
        /// The stream.
        stream: Key,
        /// Its settings.
        settings: StreamSettings,
    },
    /// Changes the settings of a stream; partitions can only be added.
    AlterStream {
        /// The stream.
        stream: Key,
        /// Its new settings.
        settings: StreamSettings,
    },
    /// Removes a stream with its records and groups.
    DeleteStream {
        /// The stream.
        stream: Key,
    },
    /// Appends a batch of records.
    Append {
        /// What to append, and where.
        append: Append,
    },
    /// Forgets the records of a partition before an offset.
    Trim {
        /// The stream.
        stream: Key,
        /// Its partition.
        partition: u32,
        /// The first offset that stays.
        before: Offset,
    },
    /// Reads where each partition starts and ends.
    StreamInfo {
        /// The stream.
        stream: Key,
    },
    /// Declares a group of readers of a stream.
    CreateGroup {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
        /// Its mode and where it starts.
        settings: GroupSettings,
    },
    /// Removes a group.
    DeleteGroup {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
    },
    /// Moves the cursor of a `partitioned` group: everything before `offset` has been handled.
    CursorCommit {
        /// The stream.
        stream: Key,
        /// The group; made with the defaults when it does not exist.
        group: GroupName,
        /// The partition.
        partition: u32,
        /// The next offset to read.
        offset: Offset,
        /// The cursor the reader believes is there; another one fails the operation.
        expected: Option<Offset>,
    },
    /// Hands records of a `shared` group to a consumer, hidden from others until acked, nacked or timed out.
    Take {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
        /// Who takes them, for people to read.
        consumer: Blob,
        /// At most this many.
        max: u32,
        /// How long they stay hidden; the group's setting when absent.
        visibility: Option<Millis>,
    },
    /// Finishes deliveries.
    Ack {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
        /// What was delivered.
        deliveries: Vec<Delivery>,
    },
    /// Gives deliveries back, to be delivered again after `delay`.
    Nack {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
        /// What was delivered.
        deliveries: Vec<Delivery>,
        /// How long they stay hidden.
        delay: Millis,
    },
    /// Hides deliveries for `visibility` from now.
    Extend {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
        /// What was delivered.
        deliveries: Vec<Delivery>,
        /// How long they stay hidden, from now.
        visibility: Millis,
    },
    /// Makes a lease.
    LeaseGrant {
        /// Its id; 0 lets the machine choose.
        lease: LeaseId,
        /// Its time to live, in log time.
        ttl: Millis,
    },
    /// Renews a lease for its full time to live.
    LeaseKeepAlive {
        /// The lease.
        lease: LeaseId,
    },
    /// Ends a lease and everything that hangs on it.
    LeaseRevoke {
        /// The lease.
        lease: LeaseId,
    },
    /// Reads a lease.
    LeaseInfo {
        /// The lease.
        lease: LeaseId,
    },
    /// Takes a lock if it is free; fails at once if it is not.
    Acquire {
        /// The lock.
        lock: LockName,
        /// The session that will hold it.
        lease: LeaseId,
        /// How it is held.
        mode: LockMode,
        /// Repeating an acquire with the same lease and request gives the same token.
        request: u64,
        /// A value to show beside the holder.
        value: Blob,
    },
    /// Gives a lock back.
    Release {
        /// The lock.
        lock: LockName,
        /// The token of the grant.
        token: FencingToken,
    },
    /// Reads a lock or election.
    LockInfo {
        /// The lock or election.
        lock: LockName,
    },
    /// Becomes leader if nobody is; fails at once if somebody is.
    Campaign {
        /// The election.
        election: LockName,
        /// The session of the candidate.
        lease: LeaseId,
        /// Repeating a campaign with the same lease and request gives the same token.
        request: u64,
        /// What the leader proclaims.
        value: Blob,
    },
    /// Changes what the leader proclaims.
    Proclaim {
        /// The election.
        election: LockName,
        /// The leader's token.
        token: FencingToken,
        /// What it proclaims now.
        value: Blob,
    },
    /// Gives leadership back.
    Resign {
        /// The election.
        election: LockName,
        /// The leader's token.
        token: FencingToken,
    },
    /// Runs a commit later, once. Scheduling a name again replaces it.
    Schedule {
        /// The task.
        task: TaskName,
        /// When it is due.
        when: When,
        /// What it does.
        commit: Box<Commit>,
        /// What happens when that commit is refused.
        on_refused: OnRefused,
    },
    /// Takes a scheduled task back.
    Cancel {
        /// The task.
        task: TaskName,
    },
    /// Enters an instance of a service, or changes it.
    Register {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: InstanceName,
        /// The lease on which the entry hangs.
        lease: LeaseId,
        /// What is known of it.
        info: Instance,
    },
    /// Removes an instance.
    Deregister {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: InstanceName,
    },
    /// Claims an idempotency key for work that spans outside calls.
    Claim {
        /// The key.
        key: IdempotencyKey,
        /// How long the claim, and later its answer, is kept, in log time.
        ttl: Millis,
        /// The claim is free again when this lease ends before it was completed. 0 for none.
        lease: LeaseId,
        /// Tells another request under the same key.
        fingerprint: Fingerprint,
    },
    /// Completes a claim with the answer that every later claim of the key is given.
    Complete {
        /// The key.
        key: IdempotencyKey,
        /// The token the claim gave.
        token: FencingToken,
        /// The answer.
        answer: Blob,
    },
    /// Frees a concurrency slot.
    FreeSlot {
        /// The set of slots.
        name: LimitName,
        /// The lease on which it hangs.
        lease: LeaseId,
        /// The slot.
        slot: Blob,
    },
    /// Reads what a limit has left, taking nothing.
    LimitPeek {
        /// The limit.
        name: LimitName,
        /// What is allowed.
        policy: LimitPolicy,
    },
    /// A commit inside this one, with guards and branches of its own. It sees the earlier operations.
    Nested {
        /// The inner commit.
        commit: Box<Commit>,
    },
    /// A command in Redis' words, decided when it is applied. Fails with [`crate::OpError::Call`], having changed nothing; an answer that is a
    /// [`crate::Reply::Error`] comes from a script whose earlier effects stand (in mode `atomic` it refuses the commit).
    Call {
        /// The keyspace that its keys belong to.
        space: Keyspace,
        /// The command and its arguments.
        words: Vec<Blob>,
        /// The record of an XADD, instead of the words after its id: it stays where it is logged, and the stream refers to it.
        record: Option<Payload>,
    },
    /// Reads the plain values of a range, chosen and sorted; the count is exact.
    Select {
        /// What to read.
        select: Box<Select>,
    },
    /// Writes a plain value as a whole or in part. The keyspace is no longer flushed by those who do not know of it, if `keep` says so.
    Write {
        /// The key.
        key: Key,
        /// Its new value; absent to leave it, which fails for a key that is not there.
        value: Option<Blob>,
        /// The lease it hangs on, 0 for none; absent to leave it, which fails for a key that is not there.
        lease: Option<LeaseId>,
        /// Whether the result shows what was there before.
        prev: bool,
        /// Whether FLUSHDB and FLUSHALL are refused from now on.
        keep: bool,
    },
    /// Deletes the plain values of a range; keys of other types stay.
    Erase {
        /// The range.
        range: KeyRange,
        /// Whether the result shows what was there before.
        prev: bool,
    },
    /// Keeps how far a group is in partitions; those that do not exist are told, and left out.
    CommitOffsets {
        /// How far, and who says so.
        commit: Box<OffsetCommit>,
    },
    /// Changes who is in a group.
    Member {
        /// The change.
        change: Box<MemberChange>,
    },
    /// What a producer that numbers its batches asks for.
    Produce {
        /// What it asks for.
        produce: Box<Produce>,
    },
}
wire_enum!(Op {
    1 = Get { key },
    2 = Range { read },
    3 = Put { key, value, lease, prev },
    4 = Delete { key, prev },
    5 = DeleteRange { range, prev },
    6 = Increment { key, by, min, max },
    7 = CreateStream { stream, settings },
    8 = AlterStream { stream, settings },
    9 = DeleteStream { stream },
    10 = Append { append },
    11 = Trim { stream, partition, before },
    12 = StreamInfo { stream },
    13 = CreateGroup { stream, group, settings },
    14 = DeleteGroup { stream, group },
    15 = CursorCommit { stream, group, partition, offset, expected },
    16 = Take { stream, group, consumer, max, visibility },
    17 = Ack { stream, group, deliveries },
    18 = Nack { stream, group, deliveries, delay },
    19 = Extend { stream, group, deliveries, visibility },
    20 = LeaseGrant { lease, ttl },
    21 = LeaseKeepAlive { lease },
    22 = LeaseRevoke { lease },
    23 = LeaseInfo { lease },
    24 = Acquire { lock, lease, mode, request, value },
    25 = Release { lock, token },
    26 = LockInfo { lock },
    27 = Campaign { election, lease, request, value },
    28 = Proclaim { election, token, value },
    29 = Resign { election, token },
    30 = Schedule { task, when, commit, on_refused },
    31 = Cancel { task },
    32 = Register { service, instance, lease, info },
    33 = Deregister { service, instance },
    34 = Claim { key, ttl, lease, fingerprint },
    35 = Complete { key, token, answer },
    36 = FreeSlot { name, lease, slot },
    37 = LimitPeek { name, policy },
    38 = Nested { commit },
    39 = Call { space, words, record },
    40 = Select { select },
    41 = Write { key, value, lease, prev, keep },
    42 = Erase { range, prev },
    43 = CommitOffsets { commit },
    44 = Member { change },
    45 = Produce { produce },
});

impl Wire for Box<Select> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Select::take(from)?))
    }
}

/// What [`Op::Select`] asks for. Of each pair of revisions the first is the smallest and the second the largest that is shown; 0 for no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Which keys.
    pub range: KeyRange,
    /// At most this many; 0 for no limit.
    pub limit: u64,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count them.
    pub count_only: bool,
    /// By what they are sorted.
    pub sort: Sort,
    /// In which order. Without one the limit cuts by key before it is sorted, one key beyond the limit taken along.
    pub order: Option<Order>,
    /// Read at this revision; the current one when absent.
    pub at: Option<Revision>,
    /// Bounds of the mod revision.
    pub modified: (Revision, Revision),
    /// Bounds of the create revision.
    pub created: (Revision, Revision),
}
wire_struct!(Select { range, limit, keys_only, count_only, sort, order, at, modified, created });

impl Select {
    /// Everything in `range`, ascending by key.
    #[must_use]
    pub fn of(range: KeyRange) -> Self {
        let all = (Revision::ZERO, Revision::ZERO);
        Self {
            range,
            limit: 0,
            keys_only: false,
            count_only: false,
            sort: Sort::Key,
            order: None,
            at: None,
            modified: all,
            created: all,
        }
    }

    /// How many keys have to be looked at, in the order of their names, before the answer is known; nothing for all.
    #[must_use]
    pub fn enough(&self) -> Option<u64> {
        let all = (Revision::ZERO, Revision::ZERO);
        let whole = self.limit == 0 || self.order.is_some() || self.modified != all || self.created != all;
        if whole { None } else { Some(self.limit.saturating_add(1)) }
    }
}

/// What a range read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// Which keys.
    pub range: KeyRange,
    /// At most this many; 0 for no limit but the server's.
    pub limit: u32,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count them.
    pub count_only: bool,
    /// The order of the answer.
    pub sort: Sort,
    /// Ascending or descending.
    pub order: Order,
    /// Read at this revision; the current one when absent.
    pub at: Option<Revision>,
}
wire_struct!(RangeRead { range, limit, keys_only, count_only, sort, order, at });

impl RangeRead {
    /// Everything in `range`, ascending by key.
    #[must_use]
    pub fn of(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            keys_only: false,
            count_only: false,
            sort: Sort::Key,
            order: Order::Ascending,
            at: None,
        }
    }
}

/// By what a range is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value.
    Value,
}
wire_enum!(Sort { 0 = Key {}, 1 = Version {}, 2 = Create {}, 3 = Mod {}, 4 = Value {} });

/// Ascending or descending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}
wire_enum!(Order { 0 = Ascending {}, 1 = Descending {} });

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Alone.
    Exclusive,
    /// Together with other shared holders.
    Shared,
    /// As one of at most `permits` holders.
    Semaphore {
        /// How many may hold it, 1 or more. The first holder's number stands until all have left.
        permits: u32,
    },
}
wire_enum!(LockMode { 0 = Exclusive {}, 1 = Shared {}, 2 = Semaphore { permits } });

/// When a task is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After this much log time.
    In {
        /// How long.
        after: Millis,
    },
    /// At this wall time.
    At {
        /// When.
        time: WallTime,
    },
}
wire_enum!(When { 0 = In { after }, 1 = At { time } });

/// What happens when the commit of a due task is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnRefused {
    /// It is dropped; `why` shows the refusal.
    #[default]
    Drop,
    /// It is tried again after `backoff`, doubled each time, at most `attempts` times in all; then dropped.
    Retry {
        /// Tries in all, 1 or more.
        attempts: u32,
        /// Wait before the second try.
        backoff: Millis,
    },
    /// This record is appended: it was logged with the task, names it, and so outlives it. `why` tells the refusal.
    DeadLetter {
        /// What to append, and to which stream.
        letter: Box<Append>,
    },
}
wire_enum!(OnRefused { 0 = Drop {}, 1 = Retry { attempts, backoff }, 2 = DeadLetter { letter } });

/// One instance of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens, as `host:port` or a URL.
    pub address: Blob,
    /// Its share of the load; 0 takes it out of rotation.
    pub weight: u32,
    /// Its failure domain.
    pub zone: Blob,
    /// Whether it says that it is well.
    pub healthy: bool,
    /// Free pairs.
    pub metadata: Vec<(Blob, Blob)>,
}
wire_struct!(Instance { address, weight, zone, healthy, metadata });

/// Settings of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// How many partitions, 1 or more.
    pub partitions: u32,
    /// What is kept.
    pub retention: Retention,
    /// Keep only the newest record of each key; a record with an empty value deletes its key.
    pub compact: bool,
    /// Other protocols' key commands (Redis SET, DEL, FLUSH…) must leave it alone.
    pub protected: bool,
    /// Headers of what Kafka's producers send name guards, and changes of keys, that are one commit with the batch.
    pub guarded: bool,
}

/// What is told by one bit each, in the byte that was `protected` alone.
const PROTECTED: u8 = 1;
const GUARDED: u8 = 2;

impl Wire for StreamSettings {
    fn put(&self, out: &mut Writer) {
        let Self { partitions, retention, compact, protected, guarded } = self;
        partitions.put(out);
        retention.put(out);
        compact.put(out);
        out.raw(&[(u8::from(*protected) * PROTECTED) | (u8::from(*guarded) * GUARDED)]);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (partitions, retention, compact) = (Wire::take(from)?, Wire::take(from)?, Wire::take(from)?);
        let bits = u8::take(from)?;
        if bits > PROTECTED | GUARDED {
            return Err(DecodeError::Tag { what: "settings of a stream", found: u64::from(bits) });
        }
        let (protected, guarded) = (bits & PROTECTED != 0, bits & GUARDED != 0);
        Ok(Self { partitions, retention, compact, protected, guarded })
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            partitions: 1,
            retention: Retention::default(),
            compact: false,
            protected: false,
            guarded: false,
        }
    }
}

/// How much of a stream is kept; absent bounds do not bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of payload per partition.
    pub bytes: Option<u64>,
    /// Age by wall time.
    pub age: Option<Millis>,
}
wire_struct!(Retention { bytes, age });

/// Settings of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `partitioned` or `shared`.
    pub mode: GroupMode,
    /// Start with the records that are there already (`true`) or with those appended from now on.
    pub from_start: bool,
}
wire_struct!(GroupSettings { mode, from_start });

impl Default for GroupSettings {
    fn default() -> Self {
        Self { mode: GroupMode::Partitioned, from_start: true }
    }
}

/// How the readers of a group share a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupMode {
    /// A cursor per partition; readers divide the partitions (as Kafka's groups do).
    Partitioned,
    /// A queue: each record goes to one consumer and is acked by itself.
    Shared {
        /// How long a delivery stays hidden from others before it is delivered again.
        visibility: Millis,
        /// After this many deliveries without an ack the record is dead; 0 for no bound.
        deliveries_max: u32,
        /// Where dead records go; without it they are dropped.
        dead_letter: Option<Key>,
    },
}
wire_enum!(GroupMode { 0 = Partitioned {}, 1 = Shared { visibility, deliveries_max, dead_letter } });

/// One delivery of a record, to be acked, nacked or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// The partition.
    pub partition: u32,
    /// The record.
    pub offset: Offset,
    /// Which delivery of it: 1 for the first. An ack for an earlier one is refused.
    pub attempt: u32,
}
wire_struct!(Delivery { partition, offset, attempt });

/// A batch of records for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The stream.
    pub stream: Key,
    /// Which partition.
    pub partition: PartitionChoice,
    /// How the payload is laid out.
    pub format: Format,
    /// Records in the payload, 1 or more.
    pub records: u32,
    /// The records, stored and served as they came.
    pub payload: Payload,
    /// Make the stream with the default settings when it does not exist.
    pub create: bool,
}
wire_struct!(Append { stream, partition, format, records, payload, create });

/// Which partition a batch goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartitionChoice {
    /// Partitions in turn.
    #[default]
    Any,
    /// This one.
    Number {
        /// Its number.
        partition: u32,
    },
    /// By the hash of a record key, modulo the number of partitions.
    Hash {
        /// The hash.
        hash: u32,
    },
}
wire_enum!(PartitionChoice { 0 = Any {}, 1 = Number { partition }, 2 = Hash { hash } });

/// How a payload is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// As [`crate::record`] writes it.
    #[default]
    Records,
    /// One of Kafka's record batches (magic 2), with a mark for its base offset: as `quorate-batch` stores it.
    RecordBatch,
}
wire_enum!(Format { 0 = Records {}, 1 = RecordBatch {} });

/// Bytes that live in the log once; state refers to them by [`PayloadRef`].
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// Where the bytes were logged, once they were: set when a scheduled commit is kept for later.
    pub at: Option<PayloadRef>,
    /// The place of the bytes among the payloads of the entry they travel in; see [`crate::Entry::seal`].
    pub sub: u32,
    /// The bytes.
    pub bytes: Bytes,
}

impl PartialEq for Payload {
    // `sub` is where it travels, not what it is.
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at && self.bytes == other.bytes
    }
}
impl Eq for Payload {}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self { at: None, sub: 0, bytes }
    }
}

impl Wire for Payload {
    fn put(&self, out: &mut Writer) {
        self.at.put(out);
        out.payload(&self.bytes);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = <Option<PayloadRef> as Wire>::take(from)?;
        let sub = from.next_payload();
        Ok(Self { at, sub, bytes: from.shared()? })
    }
}

/// Names a payload in the log: the entry, and which of its payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadRef {
    /// The entry.
    pub index: LogIndex,
    /// Which of its payloads, counting from 0.
    pub sub: u32,
}
wire_struct!(PayloadRef { index, sub });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn a_prefix_ends_at_the_next_sibling() {
        assert_eq!(prefix_end(b"ab"), Some(Blob::from("ac")));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(Blob::from("b")));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn the_fingerprint_ignores_the_key_and_sees_the_rest() {
        let put = |value: &str| {
            Commit::of(vec![Op::Put { key: "k".into(), value: value.into(), lease: LeaseId(0), prev: false }])
        };
        let mut keyed = put("a");
        keyed.idempotency =
            Some(Idempotency { key: "x".into(), ttl: Millis(1), fingerprint: Fingerprint::default() });
        assert_eq!(put("a").fingerprint(), keyed.fingerprint());
        assert_ne!(put("a").fingerprint(), put("b").fingerprint());
    }

    #[test]
    fn commits_nested_too_deep_are_refused_when_read() {
        let mut commit = Commit::default();
        for _ in 0..20 {
            commit = Commit::of(vec![Op::Nested { commit: Box::new(commit) }]);
        }
        assert_eq!(decode::<Commit>(&encode(&commit).into()), Err(DecodeError::Depth));
    }
}
