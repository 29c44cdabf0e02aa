//! An entry: the commands that one turn ordered, with the two clocks and the entropy they are decided by.

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::{Command, CommandBody};
use crate::units::{LogIndex, LogTime, Term, WallTime};
use bytes::Bytes;

/// Version of the wire form of entries.
pub const ENTRY_VERSION: u64 = 1;

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
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are not an entry, or of a version that this build does not read.
    pub fn decode_body(index: LogIndex, term: Term, body: &Bytes) -> Result<Self, DecodeError> {
        let mut from = Reader::new(body);
        let found = from.varint()?;
        if found != ENTRY_VERSION {
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
        };
        from.finish()?;
        Ok(entry)
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
