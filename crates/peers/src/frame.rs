//! Frames: length, checksum, payload. The unit of every connection after its handshake.
//!
//! Invariant: the buffer grows with the bytes that came, never by what a length claims.
//! Invariant: a frame is handed out whole and with the checksum it was sent with, or the connection is at its end.
//! Called by: `pump`. The bytes are in docs/formats/peers.md.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length and crc32c, four bytes each, little-endian.
pub(crate) const HEADER_BYTES: usize = 8;
/// A frame without payload: length 0, and the crc32c of nothing, which is 0.
pub(crate) const KEEPALIVE: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

const CHUNK_BYTES_MIN: usize = 16 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Why the bytes of a connection are no frames.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame claims {found} bytes, at most {max} are taken")]
    TooLong { found: usize, max: usize },
    #[error("a frame of {bytes} bytes has the checksum {found:08x}, its header says {wanted:08x}")]
    Checksum { bytes: usize, found: u32, wanted: u32 },
}

/// Appends the header of a frame. The payload's length is at most `u32::MAX`, as the outbox sees to.
pub(crate) fn put_header(out: &mut BytesMut, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("the outbox takes no frame above frame_bytes_max");
    out.put_u32_le(length);
    out.put_u32_le(crc32c::crc32c(payload));
}

/// Bytes in, frames out.
pub(crate) struct Decoder {
    buffer: BytesMut,
    frame_bytes_max: usize,
    chunk: usize,
}

impl Decoder {
    pub(crate) fn new(frame_bytes_max: usize) -> Decoder {
        Decoder { buffer: BytesMut::new(), frame_bytes_max, chunk: CHUNK_BYTES_MIN }
    }

    /// Where the next read goes, with room for it: a chunk, or what a frame under way still lacks if that is more, up to as much as
    /// has come of it. So a claimed length costs a sender what it costs us.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let lacking = match self.buffer.first_chunk::<4>() {
            Some(length) => {
                (u32::from_le_bytes(*length) as usize).saturating_add(HEADER_BYTES) - self.buffer.len()
            }
            None => 0,
        };
        let wanted = self.chunk.max(lacking.min(self.buffer.len()));
        // A rest of at least half a chunk is used up first: small reads then share one buffer.
        if self.buffer.capacity() - self.buffer.len() < wanted / 2 {
            self.buffer.reserve(wanted);
        }
        &mut self.buffer
    }

    /// Learns how much a read brought, to make the next one's room fit.
    pub(crate) fn came(&mut self, bytes: usize) {
        if bytes >= self.chunk {
            self.chunk = (self.chunk * 2).min(CHUNK_BYTES_MAX);
        } else if bytes < self.chunk / 4 {
            self.chunk = (self.chunk / 2).max(CHUNK_BYTES_MIN);
        }
    }

    /// The next frame; none: more bytes are needed. A keep-alive is an empty frame.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h] = *header;
        let (length, wanted) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLong { found: length, max: self.frame_bytes_max });
        }
        if self.buffer.len() - HEADER_BYTES < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        let found = crc32c::crc32c(&payload);
        if found != wanted {
            return Err(FrameError::Checksum { bytes: length, found, wanted });
        }
        Ok(Some(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for payload in payloads {
            put_header(&mut out, payload);
            out.put_slice(payload);
        }
        out.to_vec()
    }

    fn feed(decoder: &mut Decoder, bytes: &[u8]) {
        decoder.room().extend_from_slice(bytes);
        decoder.came(bytes.len());
    }

    fn drain(decoder: &mut Decoder) -> Result<Vec<Bytes>, FrameError> {
        std::iter::from_fn(|| decoder.next().transpose()).collect()
    }

    #[test]
    fn every_truncation_gives_the_whole_frames_and_waits_for_the_rest() {
        let large = vec![7u8; 300];
        let tables: [&[&[u8]]; 5] =
            [&[b""], &[b"x"], &[b"ab", b"", b"cde"], &[&large], &[b"1", &large, b"2"]];
        for payloads in tables {
            let bytes = encoded(payloads);
            for cut in 0..=bytes.len() {
                let mut decoder = Decoder::new(1000);
                feed(&mut decoder, &bytes[..cut]);
                let mut got = drain(&mut decoder).unwrap();
                let mut end = 0;
                let whole = payloads.iter().take_while(|payload| {
                    end += HEADER_BYTES + payload.len();
                    end <= cut
                });
                assert_eq!(got.len(), whole.count(), "{cut} of {} bytes", bytes.len());
                feed(&mut decoder, &bytes[cut..]);
                got.extend(drain(&mut decoder).unwrap());
                assert_eq!(got, payloads, "cut at {cut}");
            }
        }
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same_frames() {
        let payloads: [&[u8]; 3] = [b"first", b"", b"third"];
        let mut decoder = Decoder::new(1000);
        let mut got = Vec::new();
        for byte in encoded(&payloads) {
            feed(&mut decoder, &[byte]);
            got.extend(drain(&mut decoder).unwrap());
        }
        assert_eq!(got, payloads);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_refused_or_waits_for_bytes_that_it_claims() {
        let bytes = encoded(&[b"payload"]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::new(1000);
            feed(&mut decoder, &damaged);
            let got = drain(&mut decoder);
            assert!(got.is_err() || got.unwrap().is_empty(), "bit {bit} was taken for good");
        }
    }

    #[test]
    fn a_keepalive_is_an_empty_frame() {
        assert_eq!(encoded(&[b""]), KEEPALIVE);
    }

    #[test]
    fn a_claimed_length_does_not_grow_the_buffer() {
        let mut decoder = Decoder::new(64 << 20);
        feed(&mut decoder, &(64u32 << 20).to_le_bytes());
        feed(&mut decoder, &[0; 100]);
        assert!(decoder.next().unwrap().is_none());
        assert!(decoder.room().capacity() <= 2 * CHUNK_BYTES_MIN, "{}", decoder.buffer.capacity());
    }

    #[test]
    fn a_length_above_the_limit_is_refused_at_the_header() {
        let mut decoder = Decoder::new(10);
        feed(&mut decoder, &[11, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decoder.next(), Err(FrameError::TooLong { found: 11, max: 10 }));
    }
}
