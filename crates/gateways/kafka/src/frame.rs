//! Frames: a length, then a request with its head; and the heads of answers.
//!
//! Invariant: bytes are taken as they arrive: a frame costs no more than was received of it, and never more than the bound.
//! Invariant: a silent connection owns no buffer.
//! Called by: `connection`; the fuzz target. Source: Kafka's protocol guide, "Protocol Request Structure"; KIP-511 (ApiVersions).

use crate::wire::{Malformed, Reader, Writer};
use bytes::{Bytes, BytesMut};

/// What an answer's length takes.
const LENGTH_BYTES: usize = 4;

/// What has arrived and is not understood yet.
#[derive(Debug, Default)]
pub struct Input {
    bytes: BytesMut,
}

impl Input {
    /// Takes bytes that have arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are not understood yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }

    /// Gives memory back, when a client is silent.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    /// The next whole frame without its length; nothing when more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`]: it says that it has no length, or one beyond `bytes_max`.
    pub fn next(&mut self, bytes_max: u64) -> Result<Option<Bytes>, Malformed> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*length);
        let length = u64::try_from(length).ok().filter(|length| *length <= bytes_max);
        let length = length.ok_or(Malformed("its length is out of bounds"))? as usize;
        if self.bytes.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let mut frame = self.bytes.split_to(LENGTH_BYTES + length).freeze();
        Ok(Some(frame.split_off(LENGTH_BYTES)))
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked for.
    pub key: i16,
    /// In which version.
    pub version: i16,
    /// What the answer has to say again.
    pub correlation: i32,
    /// What the client calls itself.
    pub client: Option<String>,
}

/// Reads a request's head; the rest is its body. `flexible` tells from which version on a request is.
///
/// # Errors
/// [`Malformed`].
pub fn head(
    frame: Bytes,
    flexible: impl FnOnce(i16, i16) -> Option<bool>,
) -> Result<(Head, Reader), Malformed> {
    let mut from = Reader::new(frame);
    let (key, version, correlation) = (from.i16()?, from.i16()?, from.i32()?);
    // What is not known cannot be read further: it is answered by what it is.
    let Some(flexible) = flexible(key, version) else {
        return Ok((Head { key, version, correlation, client: None }, from));
    };
    // The client's name is never in the flexible encoding.
    let client = from.maybe_text()?;
    from.flexible = flexible;
    from.tags()?;
    Ok((Head { key, version, correlation, client }, from))
}

/// Begins an answer. `tags`: whether its head ends with tagged fields, as those of flexible requests do but for ApiVersions.
#[must_use]
pub fn begin(correlation: i32, flexible: bool, tags: bool) -> Writer {
    let mut out = Writer { flexible, ..Writer::default() };
    out.i32(0);
    out.i32(correlation);
    if tags {
        out.tags();
    }
    out
}

/// Ends an answer: its bytes, with their length before them.
#[must_use]
pub fn end(mut out: Writer) -> Vec<u8> {
    let length = (out.bytes.len() - LENGTH_BYTES) as i32;
    out.bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    out.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut all = Vec::new();
        for frame in [&b"one"[..], b"", b"three"] {
            all.extend((frame.len() as i32).to_be_bytes());
            all.extend(frame);
        }
        let mut input = Input::default();
        let mut found = Vec::new();
        for byte in &all {
            input.extend(&[*byte]);
            while let Some(frame) = input.next(5).unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
        assert_eq!(input.pending(), 0);
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_it_is_waited_for() {
        for length in [6, i32::MAX, -1, i32::MIN] {
            let mut input = Input::default();
            input.extend(&length.to_be_bytes());
            assert!(input.next(5).is_err(), "{length}");
        }
    }
}
