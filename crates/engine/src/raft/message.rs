//! The consensus library's messages in our own wire form. The library's protobuf parser never sees a byte from outside.
//!
//! Invariant: decode(encode(x)) = x for every message that the library sends; any bytes decode or fail.
//! Called by: `node`, which sends them to peers.

use super::members::{put_conf, take_conf};
use bytes::Bytes;
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{DecodeError, LogTime, NodeId};
use raft::eraftpb::{Entry, EntryType, Message as Inner, MessageType};

/// A message of the consensus library, and the leader's log time when it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub(crate) inner: Inner,
    /// Of a leader's appends and heartbeats; zero in others.
    pub(crate) time: LogTime,
}

impl Message {
    /// The sender.
    #[must_use]
    pub fn from(&self) -> NodeId {
        NodeId(self.inner.from)
    }

    /// The receiver.
    #[must_use]
    pub fn to(&self) -> NodeId {
        NodeId(self.inner.to)
    }
}

impl Wire for Message {
    fn put(&self, out: &mut Writer) {
        let m = &self.inner;
        out.varint(m.msg_type as u64);
        for number in [m.to, m.from, m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint] {
            out.varint(number);
        }
        out.varint(m.request_snapshot);
        m.priority.put(out);
        m.reject.put(out);
        out.bytes(&m.context);
        self.time.put(out);
        out.varint(m.entries.len() as u64);
        for entry in &*m.entries {
            out.varint(entry.entry_type as u64);
            out.varint(entry.term);
            out.varint(entry.index);
            out.bytes(&entry.context);
            out.bytes(&entry.data);
        }
        let snapshot = m.has_snapshot();
        snapshot.put(out);
        if snapshot {
            let metadata = m.get_snapshot().get_metadata();
            out.varint(metadata.index);
            out.varint(metadata.term);
            put_conf(metadata.get_conf_state(), out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut m = Inner::default();
        let kind = from.varint()?;
        m.msg_type = message_type(kind).ok_or(DecodeError::Tag { what: "consensus message", found: kind })?;
        m.to = from.varint()?;
        m.from = from.varint()?;
        m.term = from.varint()?;
        // The library takes term 0 for a message of this node to itself.
        if m.term == 0 {
            return Err(DecodeError::Range { what: "term of a consensus message", found: 0 });
        }
        m.log_term = from.varint()?;
        m.index = from.varint()?;
        m.commit = from.varint()?;
        m.commit_term = from.varint()?;
        m.reject_hint = from.varint()?;
        m.request_snapshot = from.varint()?;
        m.priority = i64::take(from)?;
        m.reject = bool::take(from)?;
        m.context = from.shared()?;
        let time = LogTime::take(from)?;
        let count = from.length()?;
        let mut entries = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let mut entry = Entry::default();
            let kind = from.varint()?;
            entry.entry_type =
                entry_type(kind).ok_or(DecodeError::Tag { what: "consensus entry", found: kind })?;
            entry.term = from.varint()?;
            entry.index = from.varint()?;
            entry.context = from.shared()?;
            entry.data = from.shared()?;
            if entry.entry_type == EntryType::EntryNormal
                && take_extents(&entry.context, entry.data.len()).is_none()
            {
                return Err(DecodeError::Range { what: "extent of a consensus entry", found: entry.index });
            }
            // The library trusts that the entries of a message follow each other; a peer's bytes have to prove it.
            let place = m.index.checked_add(1 + entries.len() as u64);
            if entry.term == 0 || entry.term > m.term {
                return Err(DecodeError::Range { what: "term of a consensus entry", found: entry.term });
            }
            if Some(entry.index) != place {
                return Err(DecodeError::Range { what: "index of a consensus entry", found: entry.index });
            }
            entries.push(entry);
        }
        m.set_entries(entries.into());
        if bool::take(from)? {
            let metadata = m.mut_snapshot().mut_metadata();
            metadata.index = from.varint()?;
            metadata.term = from.varint()?;
            metadata.set_conf_state(take_conf(from)?);
        }
        Ok(Self { inner: m, time })
    }
}

/// Those that travel between nodes; the library's local ones are not among them.
fn message_type(kind: u64) -> Option<MessageType> {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgRequestPreVote,
        MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse, MsgSnapshot, MsgTimeoutNow,
    };
    [
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgTimeoutNow,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ]
    .into_iter()
    .find(|known| *known as u64 == kind)
}

fn entry_type(kind: u64) -> Option<EntryType> {
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2]
        .into_iter()
        .find(|known| *known as u64 == kind)
}

/// An entry of the library as the log keeps it: a body, and where the payloads lie in it.
///
/// A body of commands is the entry's own form, and its context the extents. What the library adds for itself is empty or begins
/// with a zero, which no version of an entry does.
pub(crate) fn to_body(entry: &Entry, scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    if entry.entry_type == EntryType::EntryNormal {
        return false;
    }
    let mut out = Writer { buffer: std::mem::take(scratch), extents: Vec::new() };
    out.varint(0);
    out.varint(entry.entry_type as u64);
    out.bytes(&entry.data);
    out.bytes(&entry.context);
    *scratch = out.buffer;
    true
}

/// The library's entry from what the log kept.
pub(crate) fn from_body(
    index: u64,
    term: u64,
    body: &Bytes,
    extents: &[quorate_log::Extent],
) -> Result<Entry, DecodeError> {
    let mut entry = Entry { index, term, ..Entry::default() };
    if body.first() == Some(&0) {
        let mut from = Reader::new(body);
        from.varint()?;
        let kind = from.varint()?;
        entry.entry_type = entry_type(kind).ok_or(DecodeError::Tag { what: "kind of entry", found: kind })?;
        entry.data = from.shared()?;
        entry.context = from.shared()?;
        from.finish()?;
    } else {
        entry.data = body.clone();
        entry.context = put_extents(extents.iter().map(|extent| (extent.offset, extent.len))).into();
    }
    Ok(entry)
}

/// The entry with memory of its own.
pub(crate) fn copied(mut entry: Entry) -> Entry {
    entry.data = Bytes::copy_from_slice(&entry.data);
    entry.context = Bytes::copy_from_slice(&entry.context);
    entry
}

pub(crate) fn put_extents(extents: impl Iterator<Item = (u32, u32)>) -> Vec<u8> {
    extents.flat_map(|(offset, len)| [offset.to_le_bytes(), len.to_le_bytes()].concat()).collect()
}

/// Extents from a context; nothing when they do not lie in a body of `len` bytes.
pub(crate) fn take_extents(context: &[u8], len: usize) -> Option<Vec<quorate_log::Extent>> {
    let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let extents = context.chunks(8).map(|bytes| {
        let extent = (bytes.len() == 8)
            .then(|| quorate_log::Extent { offset: number(&bytes[..4]), len: number(&bytes[4..]) })?;
        (u64::from(extent.offset) + u64::from(extent.len) <= len as u64).then_some(extent)
    });
    extents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::codec::{decode, encode};

    fn append() -> Message {
        let mut inner =
            Inner { to: 2, from: 1, term: 7, log_term: 6, index: 9, commit: 8, ..Inner::default() };
        inner.set_msg_type(MessageType::MsgAppend);
        let mut one = Entry { index: 10, term: 7, ..Entry::default() };
        one.data = Bytes::from_static(b"body");
        one.context = put_extents([(1, 2)].into_iter()).into();
        let mut two = Entry { index: 11, term: 7, ..Entry::default() };
        two.set_entry_type(EntryType::EntryConfChangeV2);
        inner.set_entries(vec![one, two].into());
        Message { inner, time: LogTime(5) }
    }

    #[test]
    fn a_message_reads_back_as_written_and_no_truncation_passes() {
        let message = append();
        let bytes = Bytes::from(encode(&message));
        assert_eq!(decode::<Message>(&bytes), Ok(message));
        for end in 0..bytes.len() {
            assert!(decode::<Message>(&bytes.slice(..end)).is_err(), "{end}");
        }
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        let mut message = append();
        message.inner.mut_entries()[1].index = 13;
        assert!(decode::<Message>(&encode(&message).into()).is_err());
    }

    #[test]
    fn what_the_library_adds_survives_the_log() {
        let message = append();
        for entry in &*message.inner.entries {
            let mut scratch = Vec::new();
            let body =
                if to_body(entry, &mut scratch) { Bytes::from(scratch.clone()) } else { entry.data.clone() };
            let extents = if entry.entry_type == EntryType::EntryNormal {
                take_extents(&entry.context, entry.data.len()).unwrap()
            } else {
                Vec::new()
            };
            assert_eq!(from_body(entry.index, entry.term, &body, &extents), Ok(entry.clone()));
        }
        assert_eq!(take_extents(&[0; 7], 100), None, "half an extent");
        assert_eq!(take_extents(&put_extents([(90, 11)].into_iter()), 100), None, "beyond the body");
    }
}
