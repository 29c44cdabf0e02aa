//! The bounds of what a client may send, checked once, before anything is logged.
//!
//! Invariant: whatever passes [`Limits::check`] fits an entry and is decided in bounded time.

use crate::beats::{Beat, SHARED_MAX, TOPICS_MAX};
use crate::blob::Blob;
use crate::command::{Command, CommandBody};
use crate::commit::{
    Append, Commit, GroupMode, Guard, KeyRange, LimitPolicy, LockMode, Mode, OnRefused, Op, When,
};
use crate::membership::{
    MEMBERS_MAX, METADATA_BYTES_MAX, MemberChange, Membership, OFFSETS_MAX, OffsetCommit, PROTOCOLS_MAX,
};
use crate::producers::{EPOCH_MAX, Numbered, Produce, SEQUENCE_MAX, TRANSACTION_MS_MAX};
use crate::units::{Key, Millis};
use crate::users::UserChange;

/// The configurable bounds. Sizes are in bytes, counts are counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, stream, lock or other name.
    pub name_bytes_max: u64,
    /// Largest value of a key.
    pub value_bytes_max: u64,
    /// Largest payload of one append.
    pub payload_bytes_max: u64,
    /// Largest command in all: names, values and payloads together.
    pub command_bytes_max: u64,
    /// Most operations of a commit, inner ones included.
    pub operations_max: u64,
    /// Most guards of a commit, inner ones included.
    pub guards_max: u64,
    /// Deepest nesting of commits; a commit without inner ones has depth 1.
    pub depth_max: u64,
    /// Shortest time to live of a lease.
    pub lease_ttl_ms_min: u64,
    /// Longest time to live of anything.
    pub ttl_ms_max: u64,
    /// Most partitions of a stream.
    pub partitions_max: u64,
    /// Most records handed out by one take.
    pub take_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name_bytes_max: 4 << 10,
            value_bytes_max: 4 << 20,
            payload_bytes_max: 4 << 20,
            command_bytes_max: 8 << 20,
            operations_max: 10_000,
            guards_max: 10_000,
            depth_max: 4,
            lease_ttl_ms_min: 200,
            ttl_ms_max: 10 * 365 * 24 * 3600 * 1000,
            partitions_max: 4096,
            take_max: 1000,
        }
    }
}

/// A request that breaks a bound: nothing was logged, nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A number or size is out of bounds.
    #[error("{what} is {found}, allowed is {min} to {max}")]
    Bound {
        /// Which.
        what: &'static str,
        /// What was sent.
        found: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// An idempotency key on an inner or scheduled commit.
    #[error("an idempotency key is only allowed on the outermost commit")]
    InnerIdempotency,
    /// A charge of a limit or slot in a commit whose branches are foreseen.
    #[error("mode `foreseen` decides all branches before anything happens, so nothing in it may be charged")]
    ForeseenCharge,
    /// What rides along with a batch is no rider.
    #[error(
        "what rides along with a batch has guards, and puts, deletes and increments of keys, and no more"
    )]
    Rider,
    /// A keyspace that belongs to the server.
    #[error("keyspace {0} belongs to the server: use the operations of locks and services")]
    InternalKeyspace(u16),
}

/// Most words of one call: as many as Redis takes (`PROTO_REQ_MULTIBULK`, 1024 × 1024).
const CALL_WORDS_MAX: u64 = 1 << 20;

impl Limits {
    /// Checks a commit against every bound.
    ///
    /// # Errors
    /// [`Invalid`] names the first bound that is broken.
    pub fn check(&self, commit: &Commit) -> Result<(), Invalid> {
        let mut operations = 0;
        let mut guards = 0;
        if let Some(idempotency) = &commit.idempotency {
            self.name("idempotency key", &idempotency.key.0)?;
            self.ttl("idempotency ttl", idempotency.ttl, 1)?;
        }
        self.walk(commit, 1, &mut operations, &mut guards)
    }

    /// Bytes that a command takes, about: what admission counts and bounds.
    ///
    /// # Errors
    /// [`Invalid::Bound`] above `command_bytes_max`.
    pub fn weigh(&self, command: &Command) -> Result<u64, Invalid> {
        let own = command.principal.0.len() + command.client.len() + command.trace.len() + 32;
        let body = match &command.body {
            CommandBody::Commit { commit } => weight(commit),
            CommandBody::KeepAlive { leases } => leases.len() as u64 * 10 + 16,
            CommandBody::Wait { wait } => (wait.lock.0.len() + wait.value.len() + 64) as u64,
            CommandBody::CancelWait { lock, .. } => lock.0.len() as u64 + 64,
            CommandBody::Resolve { key, .. } => key.0.len() as u64 + 64,
            CommandBody::Denied { name, .. } => name.0.len() as u64 + 64,
            CommandBody::ChangeUser { name, changes, .. } => {
                let bytes: usize = changes.iter().map(change_bytes).sum();
                (name.len() + bytes + 64) as u64
            }
            CommandBody::ChangeAccess { change, .. } => change.bytes() as u64 + 16,
            CommandBody::RemoveUsers { names, .. } => {
                names.iter().map(|name| name.len() as u64 + 5).sum::<u64>() + 64
            }
            CommandBody::Evict { keys, .. } => {
                keys.iter().map(|name| name.len() as u64 + 8).sum::<u64>() + 64
            }
            CommandBody::Compact { .. }
            | CommandBody::Alarm { .. }
            | CommandBody::LimitMemory { .. }
            | CommandBody::RaiseRevision { .. }
            | CommandBody::RaiseVersion { .. }
            | CommandBody::Configure { .. } => 64,
        };
        let bytes = own as u64 + body;
        bound("command in bytes", bytes, 0, self.command_bytes_max)?;
        Ok(bytes)
    }

    /// Checks the length of a name.
    ///
    /// # Errors
    /// [`Invalid::Bound`] for an empty or too long one.
    pub fn name(&self, what: &'static str, name: &[u8]) -> Result<(), Invalid> {
        bound(what, name.len() as u64, 1, self.name_bytes_max)
    }

    /// Checks a time to live of a lease.
    ///
    /// # Errors
    /// [`Invalid::Bound`].
    pub fn lease_ttl(&self, ttl: Millis) -> Result<(), Invalid> {
        self.ttl("lease ttl in milliseconds", ttl, self.lease_ttl_ms_min)
    }

    fn walk(
        &self,
        commit: &Commit,
        depth: u64,
        operations: &mut u64,
        guards: &mut u64,
    ) -> Result<(), Invalid> {
        bound("depth of nested commits", depth, 1, self.depth_max)?;
        if depth > 1 && commit.idempotency.is_some() {
            return Err(Invalid::InnerIdempotency);
        }
        *guards += commit.guards.len() as u64;
        *operations += (commit.then.len() + commit.otherwise.as_ref().map_or(0, Vec::len)) as u64;
        bound("number of guards", *guards, 0, self.guards_max)?;
        bound("number of operations", *operations, 0, self.operations_max)?;
        for guard in &commit.guards {
            self.guard(guard)?;
            if commit.mode == Mode::Foreseen && matches!(guard, Guard::Limit { .. } | Guard::Slots { .. }) {
                return Err(Invalid::ForeseenCharge);
            }
        }
        for op in commit.then.iter().chain(commit.otherwise.iter().flatten()) {
            self.op(op)?;
            if let Op::Nested { commit: inner } = op
                && (inner.mode == Mode::Foreseen) != (commit.mode == Mode::Foreseen)
            {
                return Err(Invalid::ForeseenCharge);
            }
            if let Op::Nested { commit } | Op::Schedule { commit, .. } = op {
                self.walk(commit, depth + 1, operations, guards)?;
            }
            if let Op::Produce { produce } = op
                && let Some(rider) = produce.rider()
            {
                self.rider(rider, operations, guards)?;
            }
        }
        Ok(())
    }

    /// A rider is plain: it names what it does to keys, and has no branches.
    fn rider(&self, rider: &Commit, operations: &mut u64, guards: &mut u64) -> Result<(), Invalid> {
        let plain = |op: &Op| matches!(op, Op::Put { .. } | Op::Delete { .. } | Op::Increment { .. });
        if rider.otherwise.is_some() || rider.mode != Mode::Atomic || !rider.then.iter().all(plain) {
            return Err(Invalid::Rider);
        }
        if let Some(idempotency) = &rider.idempotency {
            self.name("idempotency key", &idempotency.key.0)?;
            self.ttl("idempotency ttl", idempotency.ttl, 1)?;
        }
        *guards += rider.guards.len() as u64;
        *operations += rider.then.len() as u64;
        bound("number of guards", *guards, 0, self.guards_max)?;
        bound("number of operations", *operations, 0, self.operations_max)?;
        rider.guards.iter().try_for_each(|guard| self.guard(guard))?;
        rider.then.iter().try_for_each(|op| self.op(op))
    }

    fn guard(&self, guard: &Guard) -> Result<(), Invalid> {
        match guard {
            Guard::Key { key, .. } | Guard::StreamAt { stream: key, .. } => self.key(key),
            Guard::Value { key, wanted, .. } => {
                self.key(key)?;
                bound("value in bytes", wanted.len() as u64, 0, self.value_bytes_max)
            }
            Guard::RangeUnchanged { .. } | Guard::NotAfter { .. } | Guard::Keys { .. } => Ok(()),
            Guard::Values { wanted, .. } => {
                bound("value in bytes", wanted.len() as u64, 0, self.value_bytes_max)
            }
            Guard::Fence { lock, .. } | Guard::Leadership { election: lock, .. } => {
                self.name("lock name", &lock.0)
            }
            Guard::Limit { name, policy, cost } => {
                self.name("limit name", &name.0)?;
                bound("limit cost", *cost, 1, u64::from(u32::MAX))?;
                self.policy(policy)
            }
            Guard::Slots { name, max, slot, .. } => {
                self.name("limit name", &name.0)?;
                self.name("slot name", slot)?;
                bound("slots", *max, 1, u64::from(u32::MAX))
            }
        }
    }

    /// Checks the numbers of a limit's policy.
    ///
    /// # Errors
    /// [`Invalid::Bound`].
    pub fn policy(&self, policy: &LimitPolicy) -> Result<(), Invalid> {
        let (count, period) = match policy {
            LimitPolicy::Bucket { count, period, burst } => {
                bound("burst", *burst, 1, u64::from(u32::MAX))?;
                (count, period)
            }
            LimitPolicy::FixedWindow { count, window } | LimitPolicy::SlidingWindow { count, window } => {
                (count, window)
            }
        };
        bound("units of a limit", *count, 1, 1_000_000_000)?;
        bound("period of a limit in milliseconds", period.0, 1, 366 * 24 * 3600 * 1000)
    }

    fn op(&self, op: &Op) -> Result<(), Invalid> {
        match op {
            Op::Put { key, value, .. } => {
                self.writable(key)?;
                bound("value in bytes", value.len() as u64, 0, self.value_bytes_max)
            }
            Op::Get { key } => self.key(key),
            Op::Delete { key, .. } | Op::Increment { key, .. } => self.writable(key),
            Op::DeleteRange { range, .. } | Op::Erase { range, .. } => inner_space(&range.start),
            Op::Write { key, value, .. } => {
                self.writable(key)?;
                bound(
                    "value in bytes",
                    value.as_ref().map_or(0, |value| value.len() as u64),
                    0,
                    self.value_bytes_max,
                )
            }
            Op::Range { .. }
            | Op::Select { .. }
            | Op::LeaseInfo { .. }
            | Op::LeaseKeepAlive { .. }
            | Op::LeaseRevoke { .. } => Ok(()),
            Op::CreateStream { stream, settings } | Op::AlterStream { stream, settings } => {
                self.writable(stream)?;
                if let Some(age) = settings.retention.age {
                    self.ttl("retention age in milliseconds", age, 1)?;
                }
                bound("partitions", u64::from(settings.partitions), 1, self.partitions_max)
            }
            Op::DeleteStream { stream } | Op::Trim { stream, .. } | Op::StreamInfo { stream } => {
                self.writable(stream)
            }
            Op::Append { append } => self.append(append),
            Op::Produce { produce } => self.produce(produce),
            Op::CreateGroup { stream, group, settings } => {
                self.writable(stream)?;
                self.name("group name", &group.0)?;
                if let GroupMode::Shared { visibility, dead_letter, .. } = &settings.mode {
                    self.ttl("visibility in milliseconds", *visibility, 1)?;
                    dead_letter.as_ref().map_or(Ok(()), |stream| self.writable(stream))?;
                }
                Ok(())
            }
            Op::DeleteGroup { stream, group } | Op::CursorCommit { stream, group, .. } => {
                self.writable(stream)?;
                self.name("group name", &group.0)
            }
            Op::Take { stream, group, consumer, max, visibility } => {
                self.writable(stream)?;
                self.name("group name", &group.0)?;
                bound("consumer name in bytes", consumer.len() as u64, 0, self.name_bytes_max)?;
                bound("records of a take", u64::from(*max), 1, self.take_max)?;
                visibility.map_or(Ok(()), |v| self.ttl("visibility in milliseconds", v, 1))
            }
            Op::Ack { stream, group, deliveries } => {
                self.settle(stream, &group.0, deliveries.len(), Millis(0))
            }
            Op::Nack { stream, group, deliveries, delay } => {
                self.settle(stream, &group.0, deliveries.len(), *delay)
            }
            Op::Extend { stream, group, deliveries, visibility } => {
                self.settle(stream, &group.0, deliveries.len(), *visibility)
            }
            Op::LeaseGrant { ttl, .. } => self.lease_ttl(*ttl),
            Op::Acquire { lock, mode, value, .. } => {
                self.name("lock name", &lock.0)?;
                if let LockMode::Semaphore { permits } = mode {
                    bound("permits", u64::from(*permits), 1, u64::from(u32::MAX))?;
                }
                bound("value in bytes", value.len() as u64, 0, self.value_bytes_max)
            }
            Op::Campaign { election, value, .. } | Op::Proclaim { election, value, .. } => {
                self.name("election name", &election.0)?;
                bound("value in bytes", value.len() as u64, 0, self.value_bytes_max)
            }
            Op::Release { lock, .. } | Op::LockInfo { lock } | Op::Resign { election: lock, .. } => {
                self.name("lock name", &lock.0)
            }
            Op::Schedule { task, when, on_refused, .. } => {
                self.name("task name", &task.0)?;
                if let OnRefused::DeadLetter { letter } = on_refused {
                    self.append(letter)?;
                }
                match when {
                    When::In { after } => self.ttl("delay in milliseconds", *after, 0),
                    When::At { .. } => Ok(()),
                }
            }
            Op::Cancel { task } => self.name("task name", &task.0),
            Op::Register { service, instance, info, .. } => {
                self.name("service name", &service.0)?;
                self.name("instance name", &instance.0)?;
                let metadata: usize =
                    info.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
                let size = info.address.len() + info.zone.len() + metadata;
                bound("instance in bytes", size as u64, 0, self.value_bytes_max)
            }
            Op::Deregister { service, instance } => {
                self.name("service name", &service.0)?;
                self.name("instance name", &instance.0)
            }
            Op::Claim { key, ttl, .. } => {
                self.name("idempotency key", &key.0)?;
                self.ttl("idempotency ttl", *ttl, 1)
            }
            Op::Complete { key, answer, .. } => {
                self.name("idempotency key", &key.0)?;
                bound("value in bytes", answer.len() as u64, 0, self.value_bytes_max)
            }
            Op::FreeSlot { name, slot, .. } => {
                self.name("limit name", &name.0)?;
                self.name("slot name", slot)
            }
            Op::LimitPeek { name, policy } => {
                self.name("limit name", &name.0)?;
                self.policy(policy)
            }
            Op::Nested { .. } => Ok(()),
            Op::Call { space, words, record } => {
                inner_space(&Key { space: *space, name: Blob::EMPTY })?;
                bound("words of a call", words.len() as u64, 1, CALL_WORDS_MAX)?;
                let longest = words.iter().map(|word| word.len()).max().unwrap_or_default();
                bound("word of a call in bytes", longest as u64, 0, self.value_bytes_max)?;
                let record = record.as_ref().map_or(1, |record| record.bytes.len() as u64);
                bound("payload in bytes", record, 1, self.payload_bytes_max)
            }
            Op::CommitOffsets { commit } => self.offsets(commit),
            Op::Member { change } => self.member(change),
        }
    }

    fn offsets(&self, commit: &OffsetCommit) -> Result<(), Invalid> {
        self.name("group name", &commit.group.0)?;
        self.speaker(&commit.by)?;
        bound("offsets", commit.count(), 0, OFFSETS_MAX)?;
        for stream in &commit.offsets {
            self.writable(&stream.stream)?;
            for (_, offset) in &stream.partitions {
                bound("metadata in bytes", offset.metadata.len() as u64, 0, METADATA_BYTES_MAX)?;
            }
        }
        Ok(())
    }

    fn speaker(&self, by: &Membership) -> Result<(), Invalid> {
        let instance = by.instance.as_ref().map_or(0, |name| name.len());
        let longest = by.member.len().max(instance);
        bound("id of a member in bytes", longest as u64, 0, self.name_bytes_max)
    }

    fn member(&self, change: &MemberChange) -> Result<(), Invalid> {
        self.name("group name", &change.group().0)?;
        let pairs = |pairs: &[(Blob, Blob)], max| {
            bound("pairs", pairs.len() as u64, 0, max)?;
            pairs.iter().try_for_each(|(name, value)| {
                bound("id of a member in bytes", name.len() as u64, 0, self.name_bytes_max)?;
                bound("value in bytes", value.len() as u64, 0, self.value_bytes_max)
            })
        };
        let speaker = |member: &Blob, instance: &Option<Blob>| {
            let by = Membership { generation: None, member: member.clone(), instance: instance.clone() };
            self.speaker(&by)
        };
        match change {
            MemberChange::Join { join } => {
                speaker(&join.member, &join.instance)?;
                let longest = join.client.len().max(join.host.len()).max(join.kind.len());
                bound("client, host or kind in bytes", longest as u64, 0, self.name_bytes_max)?;
                self.lease_ttl(join.session)?;
                self.ttl("rebalance timeout in milliseconds", join.rebalance, 1)?;
                pairs(&join.protocols, PROTOCOLS_MAX)
            }
            MemberChange::Sync { by, given, agreed, .. } => {
                self.speaker(by)?;
                pairs(agreed.as_slice(), 1)?;
                pairs(given, MEMBERS_MAX)
            }
            MemberChange::Leave { members, .. } => {
                bound("members", members.len() as u64, 0, MEMBERS_MAX)?;
                members.iter().try_for_each(|(member, instance)| speaker(member, instance))
            }
            MemberChange::Delete { .. } => Ok(()),
            MemberChange::Beat { beat } => self.beat(beat),
            MemberChange::Part { member, instance, .. } => speaker(member, instance),
            MemberChange::Forget { partitions, .. } => {
                bound("offsets", partitions.len() as u64, 0, OFFSETS_MAX)?;
                partitions.iter().try_for_each(|(stream, _)| self.writable(stream))
            }
        }
    }

    fn beat(&self, beat: &Beat) -> Result<(), Invalid> {
        let words = [&beat.member, &beat.client, &beat.host];
        let maybe = [&beat.instance, &beat.rack, &beat.regex];
        let all = words.into_iter().chain(maybe.into_iter().flatten());
        let longest = all.map(|word| word.len()).max().unwrap_or_default();
        bound("id, client or expression in bytes", longest as u64, 0, self.name_bytes_max)?;
        self.lease_ttl(beat.session)?;
        if let Some(rebalance) = beat.rebalance {
            self.ttl("rebalance timeout in milliseconds", rebalance, 1)?;
        }
        for names in [&beat.names, &beat.matched].into_iter().flatten() {
            bound("streams of a member", names.len() as u64, 0, TOPICS_MAX)?;
            names.iter().try_for_each(|name| self.name("stream name", name))?;
        }
        let owned = beat.owned.iter().flatten().map(|(_, each)| 1 + each.len() as u64).sum();
        bound("partitions of a member", owned, 0, 2 * SHARED_MAX)
    }

    fn produce(&self, produce: &Produce) -> Result<(), Invalid> {
        if let Some(name) = produce.name() {
            self.name("transactional id", name)?;
        }
        match produce {
            Produce::Begin {} | Produce::End { .. } => Ok(()),
            Produce::TakeOver { timeout, .. } => {
                bound("timeout of transactions in milliseconds", timeout.0, 1, TRANSACTION_MS_MAX)
            }
            Produce::Enlist { parts, groups, .. } => {
                parts.iter().try_for_each(|(stream, _)| self.writable(stream))?;
                groups.iter().try_for_each(|group| self.name("group name", &group.0))
            }
            Produce::HoldOffsets { commit, .. } => self.offsets(commit),
            Produce::Hold { append, by, .. } => {
                self.numbered(by)?;
                self.append(append)
            }
            Produce::Append { append, by } | Produce::HoldWith { append, by, .. } => {
                self.numbered(by)?;
                self.append(append)
            }
            Produce::AppendWith { append, by, .. } => {
                by.as_ref().map_or(Ok(()), |by| self.numbered(by))?;
                self.append(append)
            }
        }
    }

    fn numbered(&self, by: &Numbered) -> Result<(), Invalid> {
        bound("epoch of a producer", u64::from(by.epoch), 0, u64::from(EPOCH_MAX))?;
        bound("number of a record", u64::from(by.first), 0, u64::from(SEQUENCE_MAX))
    }

    fn append(&self, append: &Append) -> Result<(), Invalid> {
        self.writable(&append.stream)?;
        bound("records of a batch", u64::from(append.records), 1, u64::from(u32::MAX))?;
        bound("payload in bytes", append.payload.bytes.len() as u64, 1, self.payload_bytes_max)
    }

    fn settle(&self, stream: &Key, group: &[u8], deliveries: usize, delay: Millis) -> Result<(), Invalid> {
        self.writable(stream)?;
        self.name("group name", group)?;
        self.ttl("delay in milliseconds", delay, 0)?;
        bound("deliveries", deliveries as u64, 1, self.operations_max)
    }

    fn ttl(&self, what: &'static str, ttl: Millis, min: u64) -> Result<(), Invalid> {
        bound(what, ttl.0, min, self.ttl_ms_max)
    }

    fn key(&self, key: &Key) -> Result<(), Invalid> {
        self.name("key", &key.name)
    }

    fn writable(&self, key: &Key) -> Result<(), Invalid> {
        inner_space(key)?;
        self.key(key)
    }
}

/// What a commit takes in an entry, never less: a name counts wherever it stands.
#[must_use]
pub fn weight(commit: &Commit) -> u64 {
    let idempotency = commit.idempotency.as_ref().map_or(0, |i| 64 + i.key.0.len());
    let guards: usize = commit.guards.iter().map(|guard| 64 + guard_bytes(guard)).sum();
    let ops = commit.then.iter().chain(commit.otherwise.iter().flatten());
    ops.fold((16 + idempotency + guards) as u64, |bytes, op| bytes + 64 + op_bytes(op))
}

fn guard_bytes(guard: &Guard) -> usize {
    match guard {
        Guard::Value { key, wanted, .. } => key.name.len() + wanted.len(),
        Guard::Key { key, .. } | Guard::StreamAt { stream: key, .. } => key.name.len(),
        Guard::RangeUnchanged { range, .. } | Guard::Keys { range, .. } => range_bytes(range),
        Guard::Values { range, wanted, .. } => range_bytes(range) + wanted.len(),
        Guard::Fence { lock, .. } | Guard::Leadership { election: lock, .. } => lock.0.len(),
        Guard::Limit { name, .. } => name.0.len(),
        Guard::Slots { name, slot, .. } => name.0.len() + slot.len(),
        Guard::NotAfter { .. } => 0,
    }
}

fn op_bytes(op: &Op) -> u64 {
    let bytes = match op {
        Op::Nested { commit } => return weight(commit),
        Op::Schedule { task, commit, on_refused, .. } => {
            let letter = match on_refused {
                OnRefused::DeadLetter { letter } => append_bytes(letter),
                OnRefused::Drop | OnRefused::Retry { .. } => 0,
            };
            return weight(commit) + (task.0.len() + letter) as u64;
        }
        Op::Put { key, value, .. } => key.name.len() + value.len(),
        Op::Get { key } | Op::Delete { key, .. } | Op::Increment { key, .. } => key.name.len(),
        Op::Range { read } => range_bytes(&read.range),
        Op::DeleteRange { range, .. } | Op::Erase { range, .. } => range_bytes(range),
        Op::Select { select } => range_bytes(&select.range),
        Op::Write { key, value, .. } => key.name.len() + value.as_ref().map_or(0, |value| value.len()),
        Op::CreateStream { stream, .. }
        | Op::AlterStream { stream, .. }
        | Op::DeleteStream { stream }
        | Op::Trim { stream, .. }
        | Op::StreamInfo { stream } => stream.name.len(),
        Op::Append { append } => append_bytes(append),
        Op::Produce { produce } => produce_bytes(produce),
        Op::CreateGroup { stream, group, settings } => {
            let letters = match &settings.mode {
                GroupMode::Shared { dead_letter: Some(letters), .. } => letters.name.len(),
                GroupMode::Shared { .. } | GroupMode::Partitioned => 0,
            };
            stream.name.len() + group.0.len() + letters
        }
        Op::DeleteGroup { stream, group } | Op::CursorCommit { stream, group, .. } => {
            stream.name.len() + group.0.len()
        }
        Op::Take { stream, group, consumer, .. } => stream.name.len() + group.0.len() + consumer.len(),
        Op::Ack { stream, group, deliveries }
        | Op::Nack { stream, group, deliveries, .. }
        | Op::Extend { stream, group, deliveries, .. } => {
            stream.name.len() + group.0.len() + deliveries.len() * 20
        }
        Op::Acquire { lock: name, value, .. }
        | Op::Campaign { election: name, value, .. }
        | Op::Proclaim { election: name, value, .. } => name.0.len() + value.len(),
        Op::Release { lock, .. } | Op::LockInfo { lock } | Op::Resign { election: lock, .. } => lock.0.len(),
        Op::Cancel { task } => task.0.len(),
        Op::Register { service, instance, info, .. } => {
            let metadata: usize =
                info.metadata.iter().map(|(name, value)| 20 + name.len() + value.len()).sum();
            service.0.len() + instance.0.len() + info.address.len() + info.zone.len() + metadata
        }
        Op::Deregister { service, instance } => service.0.len() + instance.0.len(),
        Op::Claim { key, .. } => key.0.len(),
        Op::Complete { key, answer, .. } => key.0.len() + answer.len(),
        Op::FreeSlot { name, slot, .. } => name.0.len() + slot.len(),
        Op::LimitPeek { name, .. } => name.0.len(),
        Op::Call { words, record, .. } => {
            let record = record.as_ref().map_or(0, |record| record.bytes.len() + 32);
            words.iter().map(|word| word.len() + 5).sum::<usize>() + record
        }
        Op::CommitOffsets { commit } => commit.bytes(),
        Op::Member { change } => change.bytes(),
        Op::LeaseGrant { .. } | Op::LeaseKeepAlive { .. } | Op::LeaseRevoke { .. } | Op::LeaseInfo { .. } => {
            0
        }
    };
    bytes as u64
}

fn change_bytes(change: &UserChange) -> usize {
    match change {
        UserChange::Command { rule } => rule.what.len() + 8,
        UserChange::Name { rule } | UserChange::RemoveName { rule } => rule.pattern.len() + 16,
        UserChange::AddScram { scram } | UserChange::PutScram { scram } => scram.bytes(),
        _ => 40,
    }
}

fn produce_bytes(produce: &Produce) -> usize {
    let name = produce.name().map_or(0, |name| name.len());
    let places = match produce {
        Produce::Enlist { parts, groups, .. } => {
            parts.iter().map(|(stream, _)| stream.name.len() + 16).sum::<usize>()
                + groups.iter().map(|group| group.0.len() + 5).sum::<usize>()
        }
        Produce::HoldOffsets { commit, .. } => commit.bytes(),
        _ => 0,
    };
    let rider = produce.rider().map_or(0, weight) as usize;
    produce.append().map_or(0, append_bytes) + name + places + rider + 64
}

fn append_bytes(append: &Append) -> usize {
    append.stream.name.len() + append.payload.bytes.len() + 32
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start.name.len() + range.end.as_ref().map_or(0, |end| end.len())
}

fn inner_space(key: &Key) -> Result<(), Invalid> {
    if key.space.is_internal() { Err(Invalid::InternalKeyspace(key.space.0)) } else { Ok(()) }
}

fn bound(what: &'static str, found: u64, min: u64, max: u64) -> Result<(), Invalid> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(Invalid::Bound { what, found, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Idempotency;
    use crate::units::{Fingerprint, LeaseId};

    fn put(key: &str, value: usize) -> Op {
        Op::Put { key: key.into(), value: vec![0; value].into(), lease: LeaseId(0), prev: false }
    }

    #[test]
    fn every_bound_is_named_when_broken() {
        let limits = Limits { value_bytes_max: 10, operations_max: 2, depth_max: 2, ..Limits::default() };
        let check = |commit: Commit| limits.check(&commit).map_err(|e| e.to_string());
        assert_eq!(check(Commit::of(vec![put("k", 10)])), Ok(()));
        assert_eq!(
            check(Commit::of(vec![put("k", 11)])),
            Err("value in bytes is 11, allowed is 0 to 10".into())
        );
        assert_eq!(check(Commit::of(vec![put("", 1)])), Err("key is 0, allowed is 1 to 4096".into()));
        assert!(check(Commit::of(vec![put("k", 1), put("k", 1), put("k", 1)])).is_err());
        let mut inner = Commit::of(vec![put("k", 1)]);
        inner.idempotency =
            Some(Idempotency { key: "x".into(), ttl: Millis(1), fingerprint: Fingerprint(0) });
        let nested = Commit::of(vec![Op::Nested { commit: Box::new(inner) }]);
        assert_eq!(limits.check(&nested), Err(Invalid::InnerIdempotency));
    }

    #[test]
    fn the_machines_own_keyspaces_cannot_be_written() {
        let key = Key { space: crate::Keyspace::LOCKS, name: "x".into() };
        let commit = Commit::of(vec![Op::Delete { key, prev: false }]);
        assert_eq!(Limits::default().check(&commit), Err(Invalid::InternalKeyspace(0xff01)));
    }
}
