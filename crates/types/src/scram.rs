//! What a password is checked by, without being known: the verifiers of SCRAM.
//!
//! A password that the server was told has one by SHA-256 and one by SHA-512, each with a salt of its own, since clients are set to either. One of which somebody
//! else has made the verifiers (Kafka's tools) has those that were made.
//!
//! Invariant: two verifiers in one [`Scram`] are of the same password.
//! Called by: users and roles, which are logged and kept with them; the door, which makes and asks them.
//! Source: RFC 5802 §3 (SCRAM), RFC 7677 (with SHA-256).

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::users::Digest;
use crate::wire_enum;

/// By which hash a client proves that it knows a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SHA-256, of 32 bytes.
    Sha256,
    /// SHA-512, of 64 bytes.
    Sha512,
}
wire_enum!(ScramHash { 1 = Sha256 {}, 2 = Sha512 {} });

/// A verifier by a hash of `N` bytes: with it a password can be checked, not guessed cheaply, and not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier<const N: usize> {
    /// Drawn at random for each.
    pub salt: Blob,
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// The hash of the client key.
    pub stored_key: [u8; N],
    /// What the server proves itself with.
    pub server_key: [u8; N],
}

/// A password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scram {
    /// It is checked by SHA-256 alone, as all were before there was another hash.
    Sha256(Verifier<32>),
    /// It is checked by SHA-512 alone.
    Sha512(Verifier<64>),
    /// By both.
    Both(Verifier<32>, Verifier<64>),
}

/// Beside the rounds of the first verifier: a second one follows, by SHA-512. Rounds have 32 bits, so that what was written before there were two reads as it was.
const SECOND: u64 = 1 << 32;
/// Beside the rounds of the first verifier: it is by SHA-512.
const WIDE: u64 = 1 << 33;

impl Scram {
    /// What proofs by SHA-256 are checked by.
    #[must_use]
    pub fn sha256(&self) -> Option<&Verifier<32>> {
        match self {
            Self::Sha256(verifier) | Self::Both(verifier, _) => Some(verifier),
            Self::Sha512(_) => None,
        }
    }

    /// What proofs by SHA-512 are checked by.
    #[must_use]
    pub fn sha512(&self) -> Option<&Verifier<64>> {
        match self {
            Self::Sha512(verifier) | Self::Both(_, verifier) => Some(verifier),
            Self::Sha256(_) => None,
        }
    }

    /// The password without its verifier by a hash; nothing when it has no other.
    #[must_use]
    pub fn without(self, hash: ScramHash) -> Option<Self> {
        match (self, hash) {
            (Self::Both(verifier, _), ScramHash::Sha512) => Some(Self::Sha256(verifier)),
            (Self::Both(_, verifier), ScramHash::Sha256) => Some(Self::Sha512(verifier)),
            (Self::Sha256(_), ScramHash::Sha256) | (Self::Sha512(_), ScramHash::Sha512) => None,
            (other, _) => Some(other),
        }
    }

    /// What tells it from other passwords of a user: the first 32 bytes of a stored key.
    #[must_use]
    pub fn mark(&self) -> Digest {
        match self {
            Self::Sha256(verifier) | Self::Both(verifier, _) => Digest(verifier.stored_key),
            Self::Sha512(verifier) => {
                let half = verifier.stored_key.first_chunk().expect("64 bytes begin with 32");
                Digest(*half)
            }
        }
    }

    /// About how many bytes it takes in the log.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sha256().map_or(0, |one| one.salt.len() + 80)
            + self.sha512().map_or(0, |one| one.salt.len() + 140)
    }
}

impl Wire for Scram {
    fn put(&self, out: &mut Writer) {
        match self {
            Self::Sha256(verifier) => put(verifier, 0, out),
            Self::Sha512(verifier) => put(verifier, WIDE, out),
            Self::Both(first, second) => {
                put(first, SECOND, out);
                put(second, 0, out);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (salt, head) = (Wire::take(from)?, from.varint()?);
        Ok(match head & (SECOND | WIDE) {
            0 => Self::Sha256(take(salt, head, from)?),
            WIDE => Self::Sha512(take(salt, head - WIDE, from)?),
            SECOND => {
                let first = take(salt, head - SECOND, from)?;
                let (salt, head) = (Wire::take(from)?, from.varint()?);
                Self::Both(first, take(salt, head, from)?)
            }
            _ => return Err(DecodeError::Range { what: "a verifier's rounds", found: head }),
        })
    }
}

fn put<const N: usize>(verifier: &Verifier<N>, flags: u64, out: &mut Writer) {
    verifier.salt.put(out);
    out.varint(u64::from(verifier.iterations) | flags);
    out.raw(&verifier.stored_key);
    out.raw(&verifier.server_key);
}

fn take<const N: usize>(salt: Blob, head: u64, from: &mut Reader<'_>) -> Result<Verifier<N>, DecodeError> {
    let what = "a verifier's rounds";
    let iterations = u32::try_from(head).map_err(|_| DecodeError::Range { what, found: head })?;
    let mut key = || from.raw(N).map(|bytes| <[u8; N]>::try_from(bytes).expect("raw(N) gives N bytes"));
    Ok(Verifier { salt, iterations, stored_key: key()?, server_key: key()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    fn verifier<const N: usize>(of: u8) -> Verifier<N> {
        Verifier { salt: "salt".into(), iterations: u32::MAX, stored_key: [of; N], server_key: [of + 1; N] }
    }

    fn all() -> [Scram; 3] {
        [Scram::Sha256(verifier(1)), Scram::Sha512(verifier(3)), Scram::Both(verifier(5), verifier(7))]
    }

    #[test]
    fn verifiers_read_back_as_written() {
        for scram in all() {
            assert_eq!(decode::<Scram>(&encode(&scram).into()), Ok(scram));
        }
        for bad in [SECOND | WIDE, 1 << 34, u64::MAX] {
            let mut out = Writer::default();
            Blob::from("salt").put(&mut out);
            out.varint(bad);
            out.raw(&[0; 128]);
            assert!(decode::<Scram>(&out.buffer.into()).is_err(), "{bad:x}");
        }
    }

    #[test]
    fn one_of_before_there_were_two_reads_as_it_was() {
        let mut out = Writer::default();
        Blob::from("salt").put(&mut out);
        u32::MAX.put(&mut out);
        out.raw(&[1; 32]);
        out.raw(&[2; 32]);
        assert_eq!(out.buffer, encode(&Scram::Sha256(verifier(1))));
    }

    #[test]
    fn a_password_without_verifiers_is_none() {
        let [narrow, wide, both] = all();
        let (first, second) = (ScramHash::Sha256, ScramHash::Sha512);
        assert_eq!(narrow.clone().without(first), None);
        assert_eq!(wide.clone().without(second), None);
        assert_eq!(narrow.clone().without(second), Some(narrow));
        assert_eq!(wide.clone().without(first), Some(wide));
        assert_eq!(both.clone().without(first), Some(Scram::Sha512(verifier(7))));
        assert_eq!(both.without(second), Some(Scram::Sha256(verifier(5))));
    }
}
