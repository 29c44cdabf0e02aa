//! What may be read of the machine, by gateways and by tests. Nothing here changes anything.
//!
//! Called by: `node` behind its read barrier, so that what is read is linearizable.

use crate::keys::{Changes, RangeAnswer, Selection, view};
use crate::locks::LockView;
use crate::tasks::TaskView;
use crate::{Batches, GroupView, Machine, Now, StreamView, services};
use quorate_types::{
    Commit, FencingToken, GroupName, GroupSettings, Guard, GuardFailed, Key, KeyRange, KeyValue, LeaseId,
    LimitName, LimitPolicy, LimitReport, LockName, LogIndex, LogTime, Millis, Offset, OpError, PayloadRef,
    RangeRead, Refusal, Registered, Revision, ServiceName, Settings, TaskName, WallTime,
};

/// A lease as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub lease: LeaseId,
    /// Its time to live.
    pub ttl: Millis,
    /// What is left of it at the log time of the last entry.
    pub left: Millis,
    /// The keys that hang on it.
    pub keys: Vec<Key>,
    /// The locks and elections it holds, with their tokens.
    pub locks: Vec<(LockName, FencingToken)>,
}

/// How much the machine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of the elements of hashes, lists, sets and sorted sets, about.
    pub element_bytes: u64,
    /// Bytes of key history.
    pub history_bytes: u64,
    /// Leases.
    pub leases: u64,
    /// Locks and elections that are held or waited for.
    pub locks: u64,
    /// Idempotency records.
    pub idempotency_records: u64,
    /// Bytes of idempotency records.
    pub idempotency_bytes: u64,
    /// Limits that are not full.
    pub limits: u64,
    /// Tasks.
    pub tasks: u64,
    /// Streams.
    pub streams: u64,
}

impl Machine {
    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }
    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
    /// The oldest revision that can be read.
    #[must_use]
    pub fn oldest_revision(&self) -> Revision {
        self.keys.compacted()
    }
    /// Log time of the last entry, in nanoseconds.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.time
    }
    /// Wall time of the last entry, in milliseconds since the epoch.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.wall
    }
    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<KeyValue> {
        self.keys.get(key).map(|row| view(key, row, false))
    }
    /// Reads a key as the plain value it should be.
    ///
    /// # Errors
    /// [`OpError::WrongType`].
    pub fn get_plain(&self, key: &Key) -> Result<Option<KeyValue>, OpError> {
        self.plain(key)?;
        Ok(self.get(key))
    }
    /// Reads a key as it was at a revision.
    ///
    /// # Errors
    /// [`OpError::WrongType`]; [`OpError::Compacted`] below the oldest retained, [`OpError::Future`] above the current one.
    pub fn get_at(&self, key: &Key, at: Revision) -> Result<Option<KeyValue>, OpError> {
        self.keys.get_at(key, at, self.revision)
    }
    /// Reads a range of keys.
    ///
    /// # Errors
    /// As [`Machine::get_at`], for a read at a revision.
    pub fn range(&self, read: &RangeRead) -> Result<RangeAnswer, OpError> {
        self.keys.range(read, self.revision)
    }
    /// Begins a read of plain values, or goes on with one at the name where it stopped, looking at `max` keys at most; where to go on. Slices of
    /// one read see one state when `at` is the same.
    ///
    /// # Errors
    /// As [`Machine::get_at`], for a read at a revision.
    pub fn gather(
        &self,
        into: &mut Selection,
        start: quorate_types::Blob,
        at: Revision,
        max: usize,
    ) -> Result<Option<quorate_types::Blob>, OpError> {
        self.keys.gather(into, start, at, self.revision, max)
    }
    /// Changes of plain values of a keyspace, or of a range of it, from revision `from` on: until `bytes_max` of them were found or `lines_max`
    /// changes of anything looked at; whole revisions only.
    ///
    /// # Errors
    /// [`OpError::Compacted`] when some of them are no longer retained.
    pub fn plain_changes(
        &self,
        space: quorate_types::Keyspace,
        range: Option<&KeyRange>,
        from: Revision,
        lines_max: usize,
        bytes_max: usize,
    ) -> Result<Changes, OpError> {
        self.keys.plain_changes(space, range, from, (lines_max, bytes_max), self.revision)
    }
    /// Changes of the keys of a range from revision `from` on: about `max` of them, whole revisions only.
    ///
    /// # Errors
    /// [`OpError::Compacted`] when some of them are no longer retained.
    pub fn changes(&self, range: &KeyRange, from: Revision, max: usize) -> Result<Changes, OpError> {
        self.keys.changes(range, from, max, self.revision)
    }
    /// The revision up to which changes are no longer retained.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.keys.compacted()
    }
    /// Keys changed at or after a revision, each as often as it changed: whose watchers to wake.
    pub fn touched_since(&self, from: Revision) -> impl Iterator<Item = &Key> {
        self.keys.touched_since(from)
    }

    /// Reads a lease.
    #[must_use]
    pub fn lease(&self, lease: LeaseId) -> Option<LeaseView> {
        let found = self.leases.get(lease)?;
        Some(LeaseView {
            lease,
            ttl: found.ttl,
            left: found.deadline.millis_since(self.time),
            keys: self.keys.keys_of(lease),
            locks: self.locks.of_lease(lease).0,
        })
    }
    /// All leases, in order of their ids.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.ids()
    }
    /// So many leases and their times to live, in order of their ids, from beyond one on.
    #[must_use]
    pub fn leases_after(&self, after: LeaseId, max: usize) -> Vec<(LeaseId, Millis)> {
        self.leases.after(after).take(max).collect()
    }
    /// Reads a lock or election; nothing when nobody holds it or waits for it.
    #[must_use]
    pub fn lock(&self, lock: &LockName) -> Option<LockView> {
        self.locks.view(lock)
    }
    /// Locks and elections that are held or waited for, in order of their names.
    pub fn locks(&self) -> impl Iterator<Item = &LockName> {
        self.locks.names()
    }

    /// What a limit has left, and how many denials were counted since it was last full.
    #[must_use]
    pub fn limit_report(&self, name: &LimitName, policy: &LimitPolicy, cost: u64) -> (LimitReport, u64) {
        (self.limits.report(name, policy, cost, self.time), self.limits.denied(name))
    }

    /// The refusal that a commit would get from limits alone at these times, if it would. Limits only ever get fuller by entries
    /// that are under way, so telling it needs no entry. Commits that remember their answer or have an `else` list are not told.
    #[must_use]
    pub fn denied_by_limits(&self, commit: &Commit, wall: WallTime, time: LogTime) -> Option<Refusal> {
        let limited = commit.guards.iter().any(|guard| matches!(guard, Guard::Limit { .. }));
        if !limited || commit.idempotency.is_some() || commit.otherwise.is_some() {
            return None;
        }
        let now = Now { index: self.applied, wall: wall.max(self.wall), time: time.max(self.time), seed: 0 };
        let mut failed = Vec::new();
        for (number, guard) in commit.guards.iter().enumerate() {
            match self.check_guard(guard, &now) {
                Ok(()) => {}
                Err(why @ GuardFailed::Limit { .. }) => failed.push((number as u32, why)),
                Err(_) => return None,
            }
        }
        (!failed.is_empty()).then_some(Refusal::Guards { failed })
    }

    /// Reads a task.
    #[must_use]
    pub fn task(&self, task: &TaskName) -> Option<TaskView> {
        self.tasks.view(task)
    }
    /// The first `max` tasks, in order of their names.
    #[must_use]
    pub fn tasks(&self, max: usize) -> Vec<TaskView> {
        self.tasks.list(max)
    }

    /// Instances of a service, in order of their names.
    #[must_use]
    pub fn instances(&self, service: &ServiceName) -> Vec<Registered> {
        self.registered(&services::service_range(service)).into_iter().map(|(_, instance)| instance).collect()
    }
    /// All services that have instances.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> =
            self.registered(&services::services_range()).into_iter().map(|(service, _)| service).collect();
        names.dedup();
        names
    }

    fn registered(&self, range: &KeyRange) -> Vec<(ServiceName, Registered)> {
        let found = self.keys.range(&RangeRead::of(range.clone()), self.revision);
        let rows = found.expect("the current revision can always be read").keys;
        rows.iter().filter_map(services::registered).collect()
    }

    /// Reads a stream.
    #[must_use]
    pub fn stream(&self, stream: &Key) -> Option<StreamView> {
        self.streams.view(stream)
    }
    /// Groups of a stream with their settings, in order of their names.
    #[must_use]
    pub fn groups(&self, stream: &Key) -> Vec<(GroupName, GroupSettings)> {
        self.groups
            .iter(&self.streams, stream)
            .map(|(name, settings)| (name.clone(), settings.clone()))
            .collect()
    }
    /// Streams, in order of their names.
    #[must_use]
    pub fn streams(&self) -> Vec<Key> {
        self.streams.iter().map(|(name, _)| name.clone()).collect()
    }
    /// Batches of a partition from an offset on; the payloads are read from the log.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`], [`OpError::OffsetOutOfRange`].
    pub fn records(
        &self,
        stream: &Key,
        partition: u32,
        from: Offset,
        max_records: u64,
        max_bytes: u64,
    ) -> Result<Batches, OpError> {
        self.streams.records(stream, partition, from, max_records, max_bytes)
    }
    /// The first offset of a partition that is kept of a batch appended at `wall` or later.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`].
    pub fn offset_at(
        &self,
        stream: &Key,
        partition: u32,
        wall: quorate_types::WallTime,
    ) -> Result<Option<Offset>, OpError> {
        self.streams.offset_at(stream, partition, wall)
    }
    /// Reads a group.
    #[must_use]
    pub fn group(&self, stream: &Key, group: &GroupName) -> Option<GroupView> {
        self.groups.view(&self.streams, stream, group)
    }
    /// Whether a take from a shared group would give something now.
    #[must_use]
    pub fn group_has_ready(&self, stream: &Key, group: &GroupName) -> bool {
        self.groups.has_ready(&self.streams, stream, group)
    }

    /// Bytes of payloads in a stretch of the log that something still refers to.
    #[must_use]
    pub fn live_bytes(&self, first: LogIndex, last: LogIndex) -> u64 {
        let of_tasks = self.tasks.payloads();
        let scheduled =
            of_tasks.iter().filter(|(at, _)| (first..=last).contains(&at.index)).map(|(_, bytes)| bytes);
        let held = self.transactions.payloads(first, last).map(|(_, bytes)| bytes);
        self.streams.live_bytes(first, last) + scheduled.sum::<u64>() + held.sum::<u64>()
    }
    /// Payloads in a stretch of the log that something still refers to, in order.
    #[must_use]
    pub fn live_payloads(&self, first: LogIndex, last: LogIndex) -> Vec<PayloadRef> {
        let mut live = self.streams.live(first, last);
        live.extend(
            self.tasks.payloads().iter().map(|(at, _)| *at).filter(|at| (first..=last).contains(&at.index)),
        );
        live.extend(self.transactions.payloads(first, last).map(|(at, _)| at));
        live.sort_unstable();
        live.dedup();
        live
    }

    /// How much the machine holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            keys: self.keys.len(),
            element_bytes: self.bodies.bytes(),
            history_bytes: self.keys.history_bytes(),
            leases: self.leases.len() as u64,
            locks: self.locks.len() as u64,
            idempotency_records: self.idempotency.len() as u64,
            idempotency_bytes: self.idempotency.bytes(),
            limits: self.limits.len() as u64,
            tasks: self.tasks.len() as u64,
            streams: self.streams.iter().count() as u64,
        }
    }

    /// Panics when an index disagrees with its rows: for tests and the simulator, after any entry.
    pub fn check(&self) {
        let live = |lease| self.leases.get(lease).is_some();
        self.keys.check();
        self.bodies.check(self.keys.bodied().map(|(_, body)| body));
        self.leases.check();
        self.locks.check(live);
        self.idempotency.check();
        self.limits.check(live);
        self.tasks.check();
        self.streams.check();
        self.groups.check();
        self.numbered.check();
        self.transactions.check(self.numbered.next());
        self.xgroups.check(|id| self.streams.is_stream(id));
        self.producers.check(|id| self.streams.is_stream(id));
        self.offsets.check(|id| self.streams.is_stream(id));
        self.members.check(live, |group| self.offsets.is_held(group));
        let other = |group: &_| self.members.has(group);
        self.consumers.check(live, |group| self.offsets.is_held(group), other);
        assert!(self.rows_fit_streams(), "rows and streams go together");
        let mut bytes: std::collections::BTreeMap<quorate_types::Keyspace, u64> = Default::default();
        for (key, row) in self.keys.rows() {
            let elements = if row.kind.has_body() { self.bodies.get(row.body).bytes() } else { 0 };
            *bytes.entry(key.space).or_default() += crate::keys::row_bytes(key, row) + elements;
        }
        assert_eq!(bytes, *self.keys.all_bytes(), "keyspaces count their bytes");
        let window = self.settings.history_bytes_max;
        assert!(self.keys.history_bytes() <= window, "history stays within {window} bytes");
    }
}
