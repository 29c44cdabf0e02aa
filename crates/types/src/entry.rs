//! An entry: the commands that one turn ordered, with the two clocks and the entropy they are decided by.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::{Command, CommandBody};
use crate::outcome::Refusal;
use crate::units::{
    GroupName, IdempotencyKey, Key, LeaseId, LimitName, LockName, LogIndex, LogTime, NodeId, Revision,
    ServiceName, TaskName, Term, WallTime,
};
use crate::{wire_enum, wire_struct};
use bytes::Bytes;

/// Version of the wire form of entries. Version 1 had no origins and is still read; version 0, like an empty body, is the engine's.
pub const ENTRY_VERSION: u64 = 2;

/// What the log holds at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub index: LogIndex,
    /// The term of the leader that ordered it.
    pub term: Term,
    /// Wall time, never decreasing: absolute deadlines and record timestamps.
    pub wall: WallTime,
    /// Log time, never decreasing: time to live, limits and relative timers.
    pub time: LogTime,
    /// Entropy for whatever the commands need to choose.
    pub seed: u64,
    /// Version of the machine's rules that decide this entry.
    pub machine_version: u32,
    /// The commands in order.
    pub commands: Vec<Command>,
    /// Which node took which of the commands from its clients, as runs from the first command on. The machine does not look at it.
    pub origins: Vec<Origin>,
    /// What earlier entries came to, for `why`. The machine does not look at it.
    pub decided: Vec<Decided>,
}

/// Commands that one node took from its clients, next to each other in an entry. The node finds them there when it applies the
/// entry, wherever the entry was ordered, and answers its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The life of its process, drawn at random at each start: a number of an earlier life means nothing to a later one.
    pub life: u64,
    /// The node's number for this batch of commands, rising in each life.
    pub batch: u64,
    /// How many commands.
    pub commands: u32,
}
wire_struct!(Origin { node, life, batch, commands });

/// What an entry came to, as the orderer found when it applied it. Logged with a later entry, so that the log alone can
/// tell why something is as it is; derived, so that losing it changes no state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// The entry.
    pub index: LogIndex,
    /// For each of its commands.
    pub commands: Vec<Verdict>,
    /// Tasks that fired in it.
    pub fired: Vec<FiredTask>,
    /// Keys changed by no command: leases that ended, locks granted to those who waited.
    pub automatic: Vec<AutomaticChange>,
}
wire_struct!(Decided { index, commands, fired, automatic });

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect, or told something.
    Done {
        /// The revision after it.
        revision: Revision,
    },
    /// It was the retry of one that had taken effect.
    Replayed {},
    /// It was refused, for this reason.
    Refused {
        /// Why.
        refusal: Box<Refusal>,
    },
    /// It was refused; this name had so many refusals already that reasons are left out for a while.
    RefusedToo {},
}
wire_enum!(Verdict {
    1 = Done { revision },
    2 = Replayed {},
    3 = Refused { refusal },
    4 = RefusedToo {},
});

/// A task that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiredTask {
    /// Its name.
    pub task: TaskName,
    /// What its commit came to.
    pub verdict: Verdict,
    /// The names that its commit mentions.
    pub names: Vec<Subject>,
}
wire_struct!(FiredTask { task, verdict, names });

/// A key changed by no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutomaticChange {
    /// The key.
    pub key: Key,
    /// When.
    pub revision: Revision,
    /// Whether it was deleted.
    pub deleted: bool,
}
wire_struct!(AutomaticChange { key, revision, deleted });

/// Something with a name that `why` can be asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A key.
    Key {
        /// The key.
        key: Key,
    },
    /// A lock or election.
    Lock {
        /// Its name.
        lock: LockName,
    },
    /// A limit or set of slots.
    Limit {
        /// Its name.
        limit: LimitName,
    },
    /// An idempotency key.
    Idempotency {
        /// The key.
        key: IdempotencyKey,
    },
    /// A stream.
    Stream {
        /// Its name.
        stream: Key,
    },
    /// A task.
    Task {
        /// Its name.
        task: TaskName,
    },
    /// A service.
    Service {
        /// Its name.
        service: ServiceName,
    },
    /// A lease.
    Lease {
        /// Its id.
        lease: LeaseId,
    },
    /// A group of members.
    Group {
        /// Its name.
        group: GroupName,
    },
    /// A name under which producers have transactions.
    Transaction {
        /// The name.
        name: Blob,
    },
}
wire_enum!(Subject {
    1 = Key { key },
    2 = Lock { lock },
    3 = Limit { limit },
    4 = Idempotency { key },
    5 = Stream { stream },
    6 = Task { task },
    7 = Service { service },
    8 = Lease { lease },
    9 = Group { group },
    10 = Transaction { name },
});

impl crate::codec::Wire for Box<Refusal> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Refusal::take(from)?))
    }
}

impl Entry {
    /// Numbers the payloads, so that the machine can name each by (log index, sub-index). Decoding does the same.
    pub fn seal(&mut self) {
        let mut next = 0;
        for command in &mut self.commands {
            if let CommandBody::Commit { commit } = &mut command.body {
                commit.for_each_payload(&mut |payload| {
                    payload.sub = next;
                    next += 1;
                });
            }
        }
    }

    /// Appends the body as the log stores it; the index and the term stand in the log's own frame.
    pub fn encode_body(&self, out: &mut Writer) {
        out.varint(ENTRY_VERSION);
        self.wall.put(out);
        self.time.put(out);
        self.seed.put(out);
        self.machine_version.put(out);
        self.commands.put(out);
        self.origins.put(out);
        self.decided.put(out);
    }

    /// Reads a body. What the engine wrote for itself (a leader's first entry, a change of membership) comes as an entry without
    /// commands, with both clocks at zero.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are not an entry, or of a version that this build does not read.
    pub fn decode_body(index: LogIndex, term: Term, body: &Bytes) -> Result<Self, DecodeError> {
        let mut from = Reader::new(body);
        if Self::is_the_engines(body) {
            return Ok(Self { index, term, ..Self::default() });
        }
        let found = from.varint()?;
        if !(1..=ENTRY_VERSION).contains(&found) {
            return Err(DecodeError::Version { what: "entry", found, wanted: ENTRY_VERSION });
        }
        let entry = Self {
            index,
            term,
            wall: Wire::take(&mut from)?,
            time: Wire::take(&mut from)?,
            seed: Wire::take(&mut from)?,
            machine_version: Wire::take(&mut from)?,
            commands: Wire::take(&mut from)?,
            origins: if found == 1 { Vec::new() } else { Wire::take(&mut from)? },
            decided: Wire::take(&mut from)?,
        };
        from.finish()?;
        Ok(entry)
    }

    /// Whether a body holds no commands but something of the engine's own.
    #[must_use]
    pub fn is_the_engines(body: &[u8]) -> bool {
        body.first().is_none_or(|version| *version == 0)
    }

    /// The two clocks of a body, without reading the rest; nothing for one of the engine's own.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are not an entry.
    pub fn peek_clocks(body: &Bytes) -> Result<Option<(WallTime, LogTime)>, DecodeError> {
        if Self::is_the_engines(body) {
            return Ok(None);
        }
        let mut from = Reader::new(body);
        from.varint()?;
        Ok(Some((Wire::take(&mut from)?, Wire::take(&mut from)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{Append, Commit, Format, Op, PartitionChoice, Payload};

    fn append(bytes: &'static [u8]) -> Op {
        Op::Append {
            append: Append {
                stream: "s".into(),
                partition: PartitionChoice::Any,
                format: Format::Records,
                records: 1,
                payload: Payload::from(Bytes::from_static(bytes)),
                create: true,
            },
        }
    }

    #[test]
    fn sealing_and_decoding_number_payloads_alike_and_extents_point_at_them() {
        let inner = Commit {
            then: vec![append(b"two")],
            otherwise: Some(vec![append(b"three")]),
            ..Commit::default()
        };
        let commit =
            Commit::of(vec![append(b"one"), Op::Nested { commit: Box::new(inner) }, append(b"four")]);
        let mut entry = Entry { index: LogIndex(7), term: Term(1), ..Entry::default() };
        entry.commands = vec![commit.into(), Commit::of(vec![append(b"five")]).into()];
        entry.seal();
        let mut out = Writer::default();
        entry.encode_body(&mut out);
        let body = Bytes::from(out.buffer);
        let texts: Vec<&[u8]> =
            out.extents.iter().map(|e| &body[e.offset as usize..(e.offset + e.len) as usize]).collect();
        assert_eq!(texts, [&b"one"[..], b"two", b"three", b"four", b"five"]);
        let mut decoded = Entry::decode_body(LogIndex(7), Term(1), &body).unwrap();
        assert_eq!(decoded, entry);
        let mut subs = Vec::new();
        for command in &mut decoded.commands {
            let CommandBody::Commit { commit } = &mut command.body else { panic!("a commit") };
            commit.for_each_payload(&mut |payload| subs.push(payload.sub));
        }
        assert_eq!(subs, [0, 1, 2, 3, 4]);
    }
}
