//! What both ends say before frames flow: who they are, what the connection is for, or why not.
//!
//! ```text
//! dialler   Dial { purpose, target, hello } →                      Begin →  frames…
//! acceptor                                   ← Welcome { hello }             ← frames…
//! ```
//! Either may answer `Reject { reason }` instead and close. A probe ends with the Welcome.
//!
//! Invariant: magic, version and kind, and the shape of a Reject, are the same in every version, so that any two versions can tell
//! each other why they do not talk.
//! Called by: `dial` and `accept`. The bytes are in docs/formats/peers.md.

use crate::error::PeersError;
use crate::notes::printable;
use crate::stream::{self, Stream};
use crate::{FEATURES_BYTES_MAX, Hello};
use bytes::{Buf, BufMut, Bytes};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

pub(crate) const MAGIC: [u8; 8] = *b"QRTPER\r\n";
/// Of this page; a node talks to nodes of the same version only.
pub(crate) const VERSION: u32 = 1;

const HEAD_BYTES: usize = 20;
const CHECKSUM_BYTES: usize = 4;
/// Of a Hello, the features not counted.
const HELLO_BYTES: usize = 16 + 8 + 8 + 8 + 4;
const REASON_BYTES_MAX: usize = 4096;
const BODY_BYTES_MAX: usize = 16 + HELLO_BYTES + FEATURES_BYTES_MAX;
const _: () = assert!(REASON_BYTES_MAX <= BODY_BYTES_MAX);

/// How long, and for how many bytes, somebody who was refused may go on talking. Closing at once would reset the connection, and
/// the reset may overtake the reason.
const PARTING: Duration = Duration::from_secs(1);
const PARTING_BYTES_MAX: usize = 64 << 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Messages = 1,
    Bulk = 2,
    Probe = 3,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// `target` is the node meant; 0 in a probe, which means whoever answers.
    Dial {
        purpose: Purpose,
        target: u64,
        hello: Hello,
    },
    Welcome(Hello),
    Reject(String),
    Begin,
}

/// Why what came is no envelope.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("what answers there is no Quorate node: it begins with {found:02x?}")]
    Magic { found: [u8; 8] },
    #[error(
        "it speaks version {found} of the peer protocol and this node version {VERSION}: upgrade the older of the two"
    )]
    Version { found: u32 },
    #[error("a handshake of {found} bytes was announced, at most {BODY_BYTES_MAX} are taken")]
    TooLong { found: usize },
    #[error("the handshake's checksum is {found:08x}, it says {wanted:08x}: the connection damages bytes")]
    Checksum { found: u32, wanted: u32 },
    #[error("the handshake is malformed: {what}")]
    Malformed { what: &'static str },
    #[error("the connection was closed within the handshake")]
    Closed,
    #[error("{0}")]
    Io(String),
}

/// # Errors
/// [`PeersError::Features`]
pub(crate) fn check_features(hello: &Hello) -> Result<(), PeersError> {
    let found = hello.features.len();
    if found > FEATURES_BYTES_MAX {
        return Err(PeersError::Features { found, max: FEATURES_BYTES_MAX });
    }
    Ok(())
}

impl Envelope {
    /// To bytes. A reason is cut to what fits; features were checked by `check_features`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let kind = match self {
            Envelope::Dial { purpose, target, hello } => {
                body.put_u8(*purpose as u8);
                body.put_bytes(0, 7);
                body.put_u64_le(*target);
                put_hello(&mut body, hello);
                1
            }
            Envelope::Welcome(hello) => {
                put_hello(&mut body, hello);
                2
            }
            Envelope::Reject(reason) => {
                let end =
                    (0..=reason.len().min(REASON_BYTES_MAX)).rev().find(|end| reason.is_char_boundary(*end));
                body.extend_from_slice(&reason.as_bytes()[..end.unwrap_or(0)]);
                3
            }
            Envelope::Begin => 4,
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + CHECKSUM_BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_u8(kind);
        out.put_bytes(0, 3);
        out.put_u32_le(u32::try_from(body.len()).expect("features and reasons are bounded"));
        out.put_slice(&body);
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    /// From the head and what follows it. `rest` is body and checksum, as long as the head said.
    fn decode(head: &[u8; HEAD_BYTES], rest: &[u8]) -> Result<Envelope, HandshakeError> {
        let Some((body, checksum)) = rest.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(HandshakeError::Malformed { what: "no checksum" });
        };
        let (found, wanted) =
            (crc32c::crc32c_append(crc32c::crc32c(head), body), u32::from_le_bytes(*checksum));
        if found != wanted {
            return Err(HandshakeError::Checksum { found, wanted });
        }
        let kind = head[12];
        let version = version_of(head);
        // A reason is understood in any version.
        if version != VERSION && kind != 3 {
            return Err(HandshakeError::Version { found: version });
        }
        match kind {
            1 => decode_dial(body),
            2 => Ok(Envelope::Welcome(take_hello(body)?)),
            3 => Ok(Envelope::Reject(printable(&String::from_utf8_lossy(body)))),
            4 if body.is_empty() => Ok(Envelope::Begin),
            4 => Err(HandshakeError::Malformed { what: "a Begin with a body" }),
            _ => Err(HandshakeError::Malformed { what: "an unknown kind" }),
        }
    }
}

fn version_of(head: &[u8; HEAD_BYTES]) -> u32 {
    u32::from_le_bytes([head[8], head[9], head[10], head[11]])
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.put_u128_le(hello.cluster);
    out.put_u64_le(hello.node);
    out.put_u64_le(hello.instance);
    out.put_u64_le(hello.incarnation);
    out.put_u32_le(u32::try_from(hello.features.len()).expect("features are bounded"));
    out.put_slice(&hello.features);
}

fn decode_dial(mut body: &[u8]) -> Result<Envelope, HandshakeError> {
    if body.len() < 16 {
        return Err(HandshakeError::Malformed { what: "a Dial too short" });
    }
    let purpose = match body.get_u8() {
        1 => Purpose::Messages,
        2 => Purpose::Bulk,
        3 => Purpose::Probe,
        _ => return Err(HandshakeError::Malformed { what: "an unknown purpose" }),
    };
    body.advance(7);
    let target = body.get_u64_le();
    Ok(Envelope::Dial { purpose, target, hello: take_hello(body)? })
}

fn take_hello(mut body: &[u8]) -> Result<Hello, HandshakeError> {
    if body.len() < HELLO_BYTES {
        return Err(HandshakeError::Malformed { what: "a hello too short" });
    }
    let (cluster, node) = (body.get_u128_le(), body.get_u64_le());
    let (instance, incarnation) = (body.get_u64_le(), body.get_u64_le());
    let features = body.get_u32_le() as usize;
    if features != body.len() || features > FEATURES_BYTES_MAX {
        return Err(HandshakeError::Malformed { what: "features of another length than announced" });
    }
    Ok(Hello { cluster, node, instance, incarnation, features: Bytes::copy_from_slice(body) })
}

/// Reads one envelope, and not a byte more: frames follow it.
pub(crate) async fn read(stream: &mut Stream) -> Result<Envelope, HandshakeError> {
    let mut head = [0; HEAD_BYTES];
    fill(stream, &mut head).await?;
    let (magic, rest) = head.split_first_chunk::<8>().expect("a head is longer than its magic");
    if *magic != MAGIC {
        return Err(HandshakeError::Magic { found: *magic });
    }
    if version_of(&head) != VERSION && head[12] != 3 {
        return Err(HandshakeError::Version { found: version_of(&head) }); // What follows may be laid out otherwise.
    }
    let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
    if length > BODY_BYTES_MAX {
        return Err(HandshakeError::TooLong { found: length });
    }
    let mut rest = vec![0; length + CHECKSUM_BYTES];
    fill(stream, &mut rest).await?;
    Envelope::decode(&head, &rest)
}

pub(crate) async fn write(stream: &mut Stream, envelope: &Envelope) -> Result<(), HandshakeError> {
    let io = |error: std::io::Error| HandshakeError::Io(stream::explain(&error));
    stream.write_all(&envelope.encode()).await.map_err(io)?;
    stream.flush().await.map_err(io)
}

/// Tells the other end why not, and sees it off.
pub(crate) async fn reject(mut stream: Stream, reason: String) {
    let parting = async {
        write(&mut stream, &Envelope::Reject(reason)).await.ok()?;
        see_off(&mut stream).await
    };
    // Nobody to tell if even that fails: the caller notes the reason here.
    let _ = timeout(PARTING, parting).await;
}

/// Closes our half and reads until the other end has closed its own.
async fn see_off(stream: &mut Stream) -> Option<()> {
    stream.shutdown().await.ok()?;
    let (mut scratch, mut left) = ([0; 4096], PARTING_BYTES_MAX);
    while left > 0 {
        let bytes = stream.read(&mut scratch).await.ok()?;
        if bytes == 0 {
            break;
        }
        left = left.saturating_sub(bytes);
    }
    Some(())
}

/// Waits a moment for the other end to close, after a probe was answered.
pub(crate) async fn part(mut stream: Stream) {
    let _ = timeout(PARTING, see_off(&mut stream)).await;
}

async fn fill(stream: &mut Stream, buffer: &mut [u8]) -> Result<(), HandshakeError> {
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(HandshakeError::Closed),
        Err(error) => Err(HandshakeError::Io(stream::explain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(features: &'static [u8]) -> Hello {
        Hello {
            cluster: 0xC1,
            node: 2,
            instance: 3,
            incarnation: u64::MAX,
            features: Bytes::from_static(features),
        }
    }

    fn samples() -> Vec<Envelope> {
        vec![
            Envelope::Dial { purpose: Purpose::Messages, target: 9, hello: hello(b"") },
            Envelope::Dial { purpose: Purpose::Probe, target: 0, hello: hello(b"v1") },
            Envelope::Welcome(hello(&[7; FEATURES_BYTES_MAX])),
            Envelope::Reject("another cluster".into()),
            Envelope::Begin,
        ]
    }

    /// What `read` makes of these bytes and the end of the connection.
    fn parse(bytes: Vec<u8>) -> Result<Envelope, HandshakeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            near.write_all(&bytes).await.unwrap();
            drop(near);
            read(&mut Stream::Wrapped(Box::new(far))).await
        })
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        for sample in samples() {
            assert_eq!(parse(sample.encode()).unwrap(), sample);
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error_that_names_it() {
        for sample in samples() {
            let bytes = sample.encode();
            for cut in 0..bytes.len() {
                let error = parse(bytes[..cut].to_vec()).unwrap_err();
                assert!(matches!(error, HandshakeError::Closed), "cut at {cut}: {error}");
            }
            for bit in 0..bytes.len().min(100) * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(parse(damaged).is_err(), "bit {bit} of {sample:?}");
            }
        }
    }

    #[test]
    fn another_version_is_named_and_its_reasons_are_understood() {
        let with_version = |envelope: Envelope| {
            let mut bytes = envelope.encode();
            bytes.truncate(bytes.len() - CHECKSUM_BYTES);
            bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes);
            bytes.put_u32_le(checksum);
            bytes
        };
        let error = parse(with_version(Envelope::Begin)).unwrap_err().to_string();
        assert!(error.contains("version 7") && error.contains("version 1"), "{error}");
        let reason = Envelope::Reject("too old".into());
        assert_eq!(parse(with_version(reason.clone())).unwrap(), reason);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let bytes = Envelope::Reject("é".repeat(5000)).encode();
        assert!(matches!(parse(bytes), Ok(Envelope::Reject(text)) if text.chars().all(|c| c == 'é')));
    }
}
