//! Redis calls in the simulator: what clients say ([`words`]) and what it must have come to ([`model`]).
//!
//! Three keyspaces. Of [`JUDGED`] a naive model knows every key, and judges every answer in log order. In [`QUEUE`] elements are only pushed and
//! popped, so that clients can count what became of theirs. In [`FREE`] everything else is said; there replicas only have to agree.
//!
//! Invariant: a command in a judged keyspace is one that the model knows.
//! Called by: the workload, the model of everything, both drivers.

pub(crate) mod model;
pub(crate) mod words;

use quorate_types::{Blob, Key, Keyspace, Op};

/// Every key here is told a second time.
pub(crate) const JUDGED: Keyspace = Keyspace(1);
/// Here nothing is said that only replicas' agreement can judge.
pub(crate) const FREE: Keyspace = Keyspace(2);
/// Elements that are pushed once and popped once; nobody deletes them.
pub(crate) const QUEUE: Keyspace = Keyspace(3);

/// Whether the model knows every key of a keyspace.
pub(crate) fn is_judged(space: Keyspace) -> bool {
    space == JUDGED || space == QUEUE
}

/// A call as an operation.
pub(crate) fn call(space: Keyspace, words: &[&str]) -> Op {
    Op::Call { space, words: words.iter().map(|word| Blob::from(*word)).collect(), record: None }
}

/// Scripts whose effects the model knows.
pub(crate) mod scripts {
    /// Counts and pushes; the second may fail, and then the first stands.
    pub(crate) const COUNT_AND_PUSH: &str =
        "local n = redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], ARGV[1]) return n";
    /// Fills a list in one go.
    pub(crate) const FILL: &str = "for i = 1, tonumber(ARGV[1]) do redis.call('RPUSH', KEYS[1], ARGV[2] .. i) end \
         redis.call('PEXPIRE', KEYS[1], ARGV[3]) return redis.call('LLEN', KEYS[1])";
    /// Tells subscribers from within.
    pub(crate) const TELL: &str = "return redis.call('PUBLISH', KEYS[1], ARGV[1])";
    /// Goes over its budget after its first change: nothing of it may be seen.
    pub(crate) const OVER_BUDGET: &str = "redis.call('SET', KEYS[1], 'lost') redis.call('RPUSH', KEYS[2], 'lost') return #string.rep('x', 1000000000)";
}

/// A key of a keyspace.
pub(crate) fn key(space: Keyspace, name: &Blob) -> Key {
    Key { space, name: name.clone() }
}
