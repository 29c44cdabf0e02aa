//! What nodes tell each other, read a second time: where in a frame the promises stand, for the checks and for planted bugs.
//!
//! Invariant: nothing here is used by a node; a frame that this reader cannot read through is a finding, since then both sides of the
//! format are not what is written down.
//! Called by: the network, as frames are sent and delivered.

use bytes::Bytes;
use quorate_engine::Member;
use quorate_node::{AdminRequest, Doors};
use quorate_types::codec::{Reader, Wire, Writer};
use quorate_types::{ClusterId, Command, DecodeError, LogIndex, Term};
use std::ops::Range;

/// Kinds of consensus messages, as raft-rs numbers them.
pub(crate) const APPEND: u64 = 3;
pub(crate) const APPEND_RESPONSE: u64 = 4;
pub(crate) const VOTE: u64 = 5;
pub(crate) const VOTE_RESPONSE: u64 = 6;
pub(crate) const HEARTBEAT: u64 = 8;
pub(crate) const TIMEOUT_NOW: u64 = 14;
pub(crate) const PRE_VOTE: u64 = 17;
pub(crate) const PRE_VOTE_RESPONSE: u64 = 18;

/// A consensus message, as far as it is of interest, and where its parts stand in the frame.
#[derive(Debug)]
pub(crate) struct Consensus {
    pub(crate) kind: u64,
    pub(crate) to: u64,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) reject: bool,
    pub(crate) index_at: Range<usize>,
    pub(crate) time_at: Range<usize>,
    /// Bodies of its entries.
    pub(crate) bodies: Vec<Range<usize>>,
}

/// One thing told.
#[derive(Debug)]
pub(crate) enum Part {
    Consensus(Consensus),
    Forward,
    Ping { life_at: Range<usize> },
    Other,
}

/// Everything that a frame tells, in order.
pub(crate) fn parts(frame: &Bytes) -> Result<Vec<Part>, DecodeError> {
    let mut from = Reader::new(frame);
    from.varint()?;
    from.varint()?;
    let mut parts = Vec::new();
    while from.left() > 0 {
        let tag = from.varint()?;
        parts.push(part(tag, &mut from)?);
    }
    Ok(parts)
}

/// The frame with some of its bytes in the place of others.
pub(crate) fn spliced(frame: &Bytes, mut changes: Vec<(Range<usize>, Vec<u8>)>) -> Bytes {
    changes.sort_by_key(|(range, _)| range.start);
    let (mut out, mut at) = (Vec::with_capacity(frame.len() + 16), 0);
    for (range, bytes) in changes {
        out.extend_from_slice(&frame[at..range.start]);
        out.extend_from_slice(&bytes);
        at = range.end;
    }
    out.extend_from_slice(&frame[at..]);
    out.into()
}

/// A number as it stands in a frame.
pub(crate) fn number(value: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.varint(value);
    out.buffer
}

fn part(tag: u64, from: &mut Reader<'_>) -> Result<Part, DecodeError> {
    match tag {
        1 => return consensus(from).map(Part::Consensus),
        2 => {
            let _: (Term, u64) = (Term::take(from)?, from.varint()?);
            let _: (u64, u64) = (from.varint()?, from.varint()?);
            Vec::<Command>::take(from)?;
            return Ok(Part::Forward);
        }
        3 => {
            from.varint()?;
        }
        4 => {
            from.varint()?;
            LogIndex::take(from)?;
        }
        5 => {
            from.varint()?;
            let life = from.position();
            from.varint()?;
            let life_at = life..from.position();
            let _: (LogIndex, LogIndex) = (LogIndex::take(from)?, LogIndex::take(from)?);
            for _ in 0..4 {
                bool::take(from)?;
            }
            from.varint()?;
            String::take(from)?;
            Doors::take(from)?;
            Vec::<(LogIndex, (u64, u64))>::take(from)?;
            return Ok(Part::Ping { life_at });
        }
        6 => {
            let _: (u64, u64) = (from.varint()?, from.varint()?);
            Term::take(from)?;
            <Option<(u64, LogIndex)> as Wire>::take(from)?;
        }
        7 => {
            ClusterId::take(from)?;
            Vec::<Member>::take(from)?;
            LogIndex::take(from)?;
            Vec::<Member>::take(from)?;
        }
        8 => {
            from.varint()?;
            AdminRequest::take(from)?;
        }
        9 => {
            from.varint()?;
            <Option<String> as Wire>::take(from)?;
        }
        10 => {
            LogIndex::take(from)?;
            Vec::<Member>::take(from)?;
        }
        found => return Err(DecodeError::Tag { what: "message between nodes", found }),
    }
    Ok(Part::Other)
}

fn consensus(from: &mut Reader<'_>) -> Result<Consensus, DecodeError> {
    let (kind, to, _from, term, _log_term) =
        (from.varint()?, from.varint()?, from.varint()?, from.varint()?, from.varint()?);
    let at = from.position();
    let index = from.varint()?;
    let index_at = at..from.position();
    for _ in 0..4 {
        from.varint()?;
    }
    i64::take(from)?;
    let reject = bool::take(from)?;
    from.bytes()?;
    let at = from.position();
    from.varint()?;
    let time_at = at..from.position();
    let mut bodies = Vec::new();
    for _ in 0..from.length()? {
        let _: (u64, u64, u64) = (from.varint()?, from.varint()?, from.varint()?);
        from.bytes()?;
        let len = from.length()?;
        let at = from.position();
        from.raw(len)?;
        bodies.push(at..at + len);
    }
    if bool::take(from)? {
        let _: (u64, u64) = (from.varint()?, from.varint()?);
        for _ in 0..4 {
            Vec::<u64>::take(from)?;
        }
        bool::take(from)?;
    }
    Ok(Consensus { kind, to, term, index, reject, index_at, time_at, bodies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splicing_leaves_everything_else_as_it_was() {
        let frame = Bytes::from_static(b"abcdefgh");
        let changed = spliced(&frame, vec![(5..6, b"XYZ".to_vec()), (1..3, Vec::new())]);
        assert_eq!(&changed[..], b"adeXYZgh");
    }
}
