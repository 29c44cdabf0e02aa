//! Probes: rare paths that a campaign must have been through, or it has tested less than it seems.
//!
//! Invariant: a name that is reached is listed, and a listed name that no seed reaches fails the campaign.
//! Called by: the driver and the model, by what they observe; the binary and the tests, at the end of a campaign.
//! Source: FoundationDB's `CODE_PROBE`.

use std::collections::BTreeMap;

/// Every path that a campaign over all durabilities must reach.
pub const PROBES: &[&str] = &[
    "ask: a claim completed",
    "ask: a claim held by another",
    "ask: a late original refused after its cancellation",
    "ask: a resolve cancelled",
    "ask: a resolve found the answer",
    "ask: a retry after a crash got the first answer",
    "ask: idempotency memory full",
    "ask: the key used for another request",
    "calls: a commit refused after its first change",
    "calls: a field that ends by itself",
    "calls: a key renamed",
    "calls: a keyspace flushed",
    "calls: a keyspace emptied at once",
    "calls: a member popped at random",
    "calls: a message told",
    "calls: a read past a deadline, before its entry",
    "calls: keys were evicted",
    "calls: a script over its budget taken back",
    "calls: a watched key was left alone",
    "calls: hundreds of elements by one script",
    "calls: one failed",
    "clock: expiries left over for the next entry",
    "clock: stall over a second",
    "clock: wall time jumps back",
    "commit: a branch within a foreseen branch",
    "commit: an else list ran",
    "commit: an operation failed in mode each",
    "commit: an operation refused the commit",
    "disk: a sync fails, the node stops",
    "disk: a write fails, the node stops",
    "disk: background work fails, the node goes on",
    "disk: full, the node stops",
    "disk: nearly full, growth refused",
    "disk: unsynced byte flipped",
    "group: a dead letter",
    "group: a redelivery",
    "keys: compacted by the byte budget",
    "keys: compacted by command",
    "keys: read at an old revision",
    "keys: read below the oldest revision refused",
    "lease: expired",
    "limit: refused",
    "limit: slots refused",
    "lock: a fence held",
    "lock: a fence refused",
    "lock: a wait timed out",
    "lock: granted from the queue",
    "log: a damaged snapshot passed over",
    "log: a segment recycled",
    "log: a torn tail cut",
    "log: cleaned, live payloads moved",
    "log: damage refused",
    "log: entries before the first whole one are gone",
    "overload refused",
    "restart: crash within recovery",
    "restart: power loss",
    "restart: power loss cost an unsynced suffix",
    "restart: process killed",
    "restart: from a snapshot",
    "snapshot: a collection in slices",
    "snapshot: copied while the state went on",
    "task: a dead letter",
    "task: fired by log time",
    "task: fired by wall time",
    "task: tried again",
];

/// Every path that a campaign of clusters must reach.
pub const CLUSTER_PROBES: &[&str] = &[
    "calls: a message told",
    "calls: a read past a deadline, before its entry",
    "calls: keys were evicted",
    "client: gave a proposal up",
    "client: refused after a wait, it did not happen",
    "client: refused, there is no leader",
    "client: told that nobody knows",
    "clock: a wrong wall clock gives leadership up",
    "copy: begun",
    "copy: installed",
    "disk: a damaged log set aside",
    "disk: a synced bit flipped",
    "disk: a write or sync fails, the node stops",
    "election: a pre-vote asked for",
    "election: a pre-vote refused",
    "election: won",
    "forward: a batch sent to the leader",
    "link: stands anew",
    "log: an append refused",
    "log: entries before the first whole one are gone",
    "members: a node is added",
    "members: a node is removed",
    "members: one is replaced by joint change",
    "network: a node away for long",
    "network: a node cut off",
    "network: cut in one direction",
    "network: split in two",
    "pause: a process stood still",
    "read: answered by a follower",
    "recovery: caught up and votes again",
    "recovery: does not vote until caught up",
    "restart: crash within recovery",
    "restart: power loss",
    "restart: power loss everywhere",
    "restart: process killed",
    "time: carried to a new leader by heartbeats",
    "transfer: the successor is told to campaign",
];

/// Paths that a campaign of clusters reaches now and then: counted, not demanded.
pub const CLUSTER_RARE: &[&str] = &[
    "calls: refused before every node knows them",
    "copy: broken off",
    "copy: out of date, not installed",
    "members: seen in a joint change",
];

/// Paths that a campaign of the scenario `users` must reach.
pub const USER_PROBES: &[&str] = &[
    "users: an operation allowed",
    "users: an operation refused",
    "users: one that is gone refused",
    "users: a change of roles refused",
    "door: anybody let in",
    "door: anybody refused",
    "door: a token given",
    "door: a secret of before the last change refused",
    "door: tokens end as it opens",
    "door: tokens end with their user's secret",
];

/// Paths that a campaign of the scenario `alarms` must reach.
pub const ALARM_PROBES: &[&str] = &[
    "alarm: refused for want of room",
    "alarm: refused for corruption",
    "alarm: let go on for want of room",
    "alarm: answered again",
    "alarm: the last of a kind taken down",
];

/// Paths that a campaign of the scenario `members` must reach.
pub const MEMBER_PROBES: &[&str] = &[
    "groups: a generation was given",
    "groups: another generation refused",
    "groups: offsets kept",
    "groups: one that is out refused",
    "groups: told of the next generation",
    "groups: another came under a name",
    "groups: fenced off by another of its name",
    "groups: one that came back was given its own",
    "consumers: told to let go",
    "consumers: given what another let go of",
    "consumers: one with a name has its own at once",
    "consumers: another epoch refused",
    "consumers: offsets of another epoch refused",
    "consumers: a name that is another's refused",
];

/// Paths that a campaign of the scenario `producers` must reach.
pub const PRODUCER_PROBES: &[&str] = &[
    "producer: a batch that came again",
    "producer: a batch that does not follow",
    "producer: an earlier life fenced off",
    "transaction: a batch that came again",
    "transaction: dropped by the next owner of its name",
    "transaction: ended well",
    "transaction: its end asked for again",
    "transaction: dropped for its time",
    "transaction: its owner fenced off after its time",
    "rider: done with its batch",
    "rider: its batch came again",
    "rider: known by its key",
    "rider: done with its transaction",
    "rider: a transaction known by its key",
    "rider: a guard refused it",
    "rider: a second key refused",
];

/// How often each path was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<&'static str, u64>);

impl Probes {
    /// Counts a path.
    ///
    /// # Panics
    /// When the name is not listed: nobody would miss it.
    pub(crate) fn hit(&mut self, name: &'static str) {
        assert!(
            [PROBES, CLUSTER_PROBES, CLUSTER_RARE, USER_PROBES, ALARM_PROBES, MEMBER_PROBES, PRODUCER_PROBES]
                .iter()
                .any(|list| list.contains(&name)),
            "the probe {name:?} is not listed"
        );
        *self.0.entry(name).or_default() += 1;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// How often a path was taken.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Listed paths that were never taken, of a node alone.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing_of(PROBES)
    }

    /// Paths of a list that were never taken.
    #[must_use]
    pub fn missing_of(&self, list: &[&'static str]) -> Vec<&'static str> {
        list.iter().filter(|name| self.count(name) == 0).copied().collect()
    }
}
