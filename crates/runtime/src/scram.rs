//! SCRAM: a client and the server prove to each other that they know a password, without telling it.
//!
//! The server's half, with SHA-256 or SHA-512, for whatever protocol carries the four messages. The verifiers are those of every password
//! ([`crate::door::verifier`]); a hash that came from elsewhere, or a token, is none, and cannot be entered with so.
//!
//! Invariant: an unknown name, a disabled user and a user without a verifier are led through the same steps, and refused in the same words, as a wrong password.
//! Invariant: a proof is good for one exchange: the server's half of the nonce is drawn for each.
//! Called by: the Kafka gateway. Source: RFC 5802 (SCRAM), RFC 7677 (with SHA-256).

use crate::door::{ITERATIONS, Suite, by_sha256, by_sha512, same};
use crate::error::RuntimeError;
use crate::handle::Handle;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_types::{Blob, Principal, ScramHash, User, Verifier};
use ring::{digest, hmac};

/// Longest message that is looked at.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of the server's half of a nonce.
const NONCE_BYTES: usize = 18;
/// Bytes of a salt that nobody has.
const SALT_BYTES: usize = 16;

/// Why an exchange ends without letting somebody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramRefused {
    /// A message is none of SCRAM's.
    #[error("the message is none of SCRAM's: {0}")]
    Malformed(&'static str),
    /// The proof is not that of the password, or there is no such user that may enter so.
    #[error(
        "the user is not known or disabled, the password is wrong, or the server has no verifier of it for this mechanism (it was given as a hash, or before the mechanism was served): ask the operator to set the password anew"
    )]
    Proof,
}

/// An exchange of which the server's first message has been sent.
#[derive(Debug)]
pub struct Exchange {
    user: Blob,
    hash: ScramHash,
    scram: Keys,
    /// Whether there is such a verifier.
    known: bool,
    /// What the client has to say again: its header in base64, and the whole nonce.
    channel: String,
    nonce: String,
    /// The client's first message without its header, and the server's.
    said: String,
}

/// A verifier by either hash.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys {
    salt: Blob,
    iterations: u32,
    stored: Vec<u8>,
    server: Vec<u8>,
}

/// What a client's first message says.
struct First<'a> {
    header: &'a str,
    bare: &'a str,
    user: String,
    nonce: &'a str,
}

impl Handle {
    /// Takes a client's first message: the exchange, and the server's first message.
    ///
    /// # Errors
    /// [`ScramRefused::Malformed`]; outside of that [`RuntimeError`], when the node has stopped.
    pub fn scram(
        &self,
        hash: ScramHash,
        message: &[u8],
    ) -> Result<Result<(Exchange, String), ScramRefused>, RuntimeError> {
        let first = match First::read(message) {
            Ok(first) => first,
            Err(refused) => return Ok(Err(refused)),
        };
        let drawn = STANDARD.encode(crate::door::drawn::<NONCE_BYTES>()?);
        let verifier = self.verifier_now(hash, first.user.as_bytes())?;
        let nobody = self.remembered().salt_of_nobody(hash, first.user.as_bytes());
        Ok(Ok(Exchange::begin(hash, &first, verifier, &nobody[..SALT_BYTES], &drawn)))
    }

    /// Takes a client's last message: who it is, and the server's last message.
    ///
    /// # Errors
    /// [`ScramRefused`]; outside of that [`RuntimeError`], when the node has stopped.
    pub fn scram_end(
        &self,
        exchange: &Exchange,
        message: &[u8],
    ) -> Result<Result<(Principal, String), ScramRefused>, RuntimeError> {
        let told = exchange.end(message);
        // It may have been changed since the exchange began.
        let still = self.verifier_now(exchange.hash, &exchange.user)?.as_ref() == Some(&exchange.scram);
        Ok(match told {
            Ok(told) if still => Ok((Principal::of_user(&exchange.user), told)),
            Ok(_) => Err(ScramRefused::Proof),
            Err(refused) => Err(refused),
        })
    }

    /// What a user's password is checked by now. Of several passwords it is the one that was added last: which of them a client means cannot be
    /// told before it has proved one.
    fn verifier_now(&self, hash: ScramHash, user: &[u8]) -> Result<Option<Keys>, RuntimeError> {
        let access = self.user(user)?;
        let enabled = access.as_ref().filter(|access| access.user().enabled);
        Ok(enabled.and_then(|access| Keys::last(hash, access.user())))
    }
}

impl<'a> First<'a> {
    fn read(message: &'a [u8]) -> Result<Self, ScramRefused> {
        let text = text(message)?;
        let bad = ScramRefused::Malformed;
        let mut parts = text.splitn(3, ',');
        let (binding, acting) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let bare = parts.next().ok_or(bad("its header does not end"))?;
        let header = &text[..text.len() - bare.len()];
        if !matches!(binding, "n" | "y") {
            return Err(bad("channel binding is not offered"));
        }
        let mut words = bare.split(',');
        let user = words.next().and_then(|word| word.strip_prefix("n=")).ok_or(bad("wanted a name"))?;
        let user = name(user)?;
        let acting = acting.strip_prefix("a=").map(name).transpose()?.filter(|other| *other != user);
        if acting.is_some() {
            return Err(bad("nobody acts as somebody else here"));
        }
        let nonce = words.next().and_then(|word| word.strip_prefix("r=")).filter(|nonce| is_nonce(nonce));
        let nonce = nonce.ok_or(bad("wanted a nonce"))?;
        Ok(Self { header, bare, user, nonce })
    }
}

impl Keys {
    fn of<const N: usize>(verifier: &Verifier<N>) -> Self {
        let (stored, server) = (verifier.stored_key.to_vec(), verifier.server_key.to_vec());
        Self { salt: verifier.salt.clone(), iterations: verifier.iterations, stored, server }
    }

    /// Those of the password that was added last of those that have any by this hash.
    fn last(hash: ScramHash, user: &User) -> Option<Self> {
        let mut newest = user.scram.iter().rev();
        match hash {
            ScramHash::Sha256 => newest.find_map(|scram| scram.sha256().map(Self::of)),
            ScramHash::Sha512 => newest.find_map(|scram| scram.sha512().map(Self::of)),
        }
    }
}

fn suite(hash: ScramHash) -> Suite {
    match hash {
        ScramHash::Sha256 => by_sha256(),
        ScramHash::Sha512 => by_sha512(),
    }
}

impl Exchange {
    fn begin(
        hash: ScramHash,
        first: &First<'_>,
        verifier: Option<Keys>,
        nobody: &[u8],
        drawn: &str,
    ) -> (Self, String) {
        let known = verifier.is_some();
        let zeros = vec![0; suite(hash).hash.output_len()];
        let scram = verifier.unwrap_or_else(|| Keys {
            salt: Blob::copy_from(nobody),
            iterations: ITERATIONS,
            stored: zeros.clone(),
            server: zeros,
        });
        let nonce = format!("{}{drawn}", first.nonce);
        let told = format!("r={nonce},s={},i={}", STANDARD.encode(&scram.salt), scram.iterations);
        let exchange = Self {
            user: Blob::copy_from(first.user.as_bytes()),
            hash,
            scram,
            known,
            channel: STANDARD.encode(first.header),
            nonce,
            said: format!("{},{told}", first.bare),
        };
        (exchange, told)
    }

    fn end(&self, message: &[u8]) -> Result<String, ScramRefused> {
        let bad = ScramRefused::Malformed;
        let text = text(message)?;
        let (said, proof) = text.rsplit_once(",p=").ok_or(bad("wanted a proof at its end"))?;
        let mut words = said.split(',');
        let channel =
            words.next().and_then(|word| word.strip_prefix("c=")).ok_or(bad("wanted its header"))?;
        let nonce = words.next().and_then(|word| word.strip_prefix("r=")).ok_or(bad("wanted the nonce"))?;
        if channel != self.channel || nonce != self.nonce {
            return Err(bad("it does not continue this exchange"));
        }
        let Suite { hash, hmac: by, .. } = suite(self.hash);
        let proof = STANDARD.decode(proof).ok().filter(|proof| proof.len() == hash.output_len());
        let proof = proof.ok_or(bad("wanted a proof of the hash's length, in base64"))?;
        let all = format!("{},{said}", self.said);
        let signature = hmac::sign(&hmac::Key::new(by, &self.scram.stored), all.as_bytes());
        let key: Vec<u8> =
            proof.iter().zip(signature.as_ref()).map(|(proof, signature)| proof ^ signature).collect();
        // Of nobody it is looked at too, and never right.
        let right = same(digest::digest(hash, &key).as_ref(), &self.scram.stored);
        if !(right & self.known) {
            return Err(ScramRefused::Proof);
        }
        let signature = hmac::sign(&hmac::Key::new(by, &self.scram.server), all.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature)))
    }
}

fn text(message: &[u8]) -> Result<&str, ScramRefused> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramRefused::Malformed("it is too long"));
    }
    std::str::from_utf8(message).map_err(|_| ScramRefused::Malformed("it is not UTF-8"))
}

/// A name, in which `,` and `=` stand as `=2C` and `=3D`.
fn name(escaped: &str) -> Result<String, ScramRefused> {
    let mut parts = escaped.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (letter, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(ScramRefused::Malformed("a name has an escape that is none")),
        };
        name.push(letter);
        name.push_str(rest);
    }
    if name.is_empty() { Err(ScramRefused::Malformed("wanted a name")) } else { Ok(name) }
}

fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::verifier_of;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const DRAWN: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn pencil() -> Keys {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Keys::of(&verifier_of::<32>(b"pencil", Blob::copy_from(&salt), 4096))
    }

    fn begin(first: &str, verifier: Option<Keys>) -> Result<(Exchange, String), ScramRefused> {
        let first = First::read(first.as_bytes())?;
        Ok(Exchange::begin(ScramHash::Sha256, &first, verifier, b"0123456789abcdef", DRAWN))
    }

    /// What a client that knows a password proves it by, worked out from RFC 5802 §3 by itself.
    fn proof(hash: ScramHash, exchange: &Exchange, password: &[u8], said: &str) -> String {
        let Suite { hash, hmac: by, .. } = suite(hash);
        let block = [&exchange.scram.salt[..], &[0, 0, 0, 1]].concat();
        let key = hmac::Key::new(by, password);
        let mut round = hmac::sign(&key, &block).as_ref().to_vec();
        let mut salted = round.clone();
        for _ in 1..exchange.scram.iterations {
            round = hmac::sign(&key, &round).as_ref().to_vec();
            salted.iter_mut().zip(&round).for_each(|(all, one)| *all ^= one);
        }
        let client = hmac::sign(&hmac::Key::new(by, &salted), b"Client Key");
        let stored = digest::digest(hash, client.as_ref());
        let all = format!("{},{said}", exchange.said);
        let signature = hmac::sign(&hmac::Key::new(by, stored.as_ref()), all.as_bytes());
        let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        STANDARD.encode(proof)
    }

    #[test]
    fn a_proof_by_either_hash_opens_what_it_is_made_for_alone() {
        let keys = |hash| match hash {
            ScramHash::Sha256 => Keys::of(&verifier_of::<32>(b"pencil", "salt".into(), 100)),
            ScramHash::Sha512 => Keys::of(&verifier_of::<64>(b"pencil", "salt".into(), 100)),
        };
        for hash in [ScramHash::Sha256, ScramHash::Sha512] {
            let first = First::read(FIRST.as_bytes()).unwrap();
            let (exchange, _) = Exchange::begin(hash, &first, Some(keys(hash)), b"", DRAWN);
            let said = LAST.rsplit_once(",p=").unwrap().0;
            let last = |hash, password| format!("{said},p={}", proof(hash, &exchange, password, said));
            assert!(exchange.end(last(hash, b"pencil").as_bytes()).is_ok(), "{hash:?}");
            assert_eq!(exchange.end(last(hash, b"pencils").as_bytes()), Err(ScramRefused::Proof));
            let other = if hash == ScramHash::Sha256 { ScramHash::Sha512 } else { ScramHash::Sha256 };
            assert!(matches!(
                exchange.end(last(other, b"pencil").as_bytes()),
                Err(ScramRefused::Malformed(_))
            ));
        }
    }

    #[test]
    fn of_several_passwords_the_last_with_a_verifier_by_the_hash_is_asked_for() {
        use quorate_types::Scram;
        let narrow = |of: &[u8]| verifier_of::<32>(of, "salt".into(), 1);
        let wide = |of: &[u8]| verifier_of::<64>(of, "salt".into(), 1);
        let scram = vec![
            Scram::Both(narrow(b"a"), wide(b"a")),
            Scram::Both(narrow(b"b"), wide(b"b")),
            Scram::Sha256(narrow(b"c")),
        ];
        let user = User { scram, ..User::default() };
        assert_eq!(Keys::last(ScramHash::Sha256, &user), Some(Keys::of(&narrow(b"c"))));
        assert_eq!(Keys::last(ScramHash::Sha512, &user), Some(Keys::of(&wide(b"b"))));
        let old = User { scram: vec![Scram::Sha256(narrow(b"c"))], ..User::default() };
        assert_eq!(Keys::last(ScramHash::Sha512, &old), None, "a password of before has none");
    }

    #[test]
    fn an_exchange_is_that_of_the_rfc() {
        // RFC 7677 §3.
        let (exchange, told) = begin(FIRST, Some(pencil())).unwrap();
        assert_eq!(
            told,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(exchange.end(LAST.as_bytes()).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_wrong_password_and_nobody_come_to_the_same() {
        let other = Keys::of(&verifier_of::<32>(b"pencils", pencil().salt, 4096));
        for verifier in [Some(other), None] {
            let (exchange, told) = begin(FIRST, verifier).unwrap();
            assert!(told.starts_with("r=rOprNGfwEbeRWgbNEkqO%hv"), "{told}");
            assert_eq!(exchange.end(LAST.as_bytes()), Err(ScramRefused::Proof));
        }
        // Nobody's stored key is all zeros: a proof made for it opens nothing.
        let (exchange, _) = begin(FIRST, None).unwrap();
        let said = LAST.rsplit_once(",p=").unwrap().0;
        let all = format!("{},{said}", exchange.said);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), all.as_bytes());
        let forged = format!("{said},p={}", STANDARD.encode(signature));
        assert_eq!(exchange.end(forged.as_bytes()), Err(ScramRefused::Proof));
    }

    #[test]
    fn a_proof_of_another_exchange_is_refused() {
        let first = First::read(FIRST.as_bytes()).unwrap();
        let (exchange, _) = Exchange::begin(ScramHash::Sha256, &first, Some(pencil()), b"", "another");
        assert!(matches!(exchange.end(LAST.as_bytes()), Err(ScramRefused::Malformed(_))));
        // With the nonce put right the proof is that of other messages.
        let mended = LAST.replace(DRAWN, "another");
        assert_eq!(exchange.end(mended.as_bytes()), Err(ScramRefused::Proof));
    }

    #[test]
    fn names_are_unescaped() {
        let read = |first: &str| First::read(first.as_bytes()).map(|first| first.user);
        assert_eq!(read("n,,n=a=2Cb=3Dc,r=x"), Ok("a,b=c".to_owned()));
        assert_eq!(read("y,a=ann,n=ann,r=x,ext=1"), Ok("ann".to_owned()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!("n,,n=user,r={}", "x".repeat(5000));
        for first in [
            "",
            "n",
            "n,,",
            "n,,n=,r=x",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,r=x,n=user",
            "p=tls-unique,,n=user,r=x",
            "n,a=bob,n=user,r=x",
            "n,,m=ext,n=user,r=x",
            "n,,n=a=2c,r=x",
            "n,,n=a=,r=x",
            "n,,n=user,r=\u{e9}",
            &long,
        ] {
            assert!(matches!(begin(first, None), Err(ScramRefused::Malformed(_))), "{first}");
        }
        let (exchange, _) = begin(FIRST, Some(pencil())).unwrap();
        let nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        for last in [
            String::new(),
            "c=biws".to_owned(),
            format!("c=biws,{nonce}"),
            format!("c=eSws,{nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
            format!("c=biws,{nonce},p="),
            format!("c=biws,{nonce},p=AAAA"),
            format!("c=biws,{nonce},p=!"),
            format!("{nonce},c=biws,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
        ] {
            assert!(matches!(exchange.end(last.as_bytes()), Err(ScramRefused::Malformed(_))), "{last}");
        }
        assert!(matches!(First::read(b"n,,n=\xff,r=x"), Err(ScramRefused::Malformed(_))));
    }
}
