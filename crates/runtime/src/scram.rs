//! SCRAM: a client and the server prove to each other that they know a password, without telling it.
//!
//! The server's half, with SHA-256, for whatever protocol carries the four messages. The verifiers are those of every password
//! ([`crate::door::verifier`]); a hash that came from elsewhere, or a token, is none, and cannot be entered with so.
//!
//! Invariant: an unknown name, a disabled user and a user without a verifier are led through the same steps, and refused in the same words, as a wrong password.
//! Invariant: a proof is good for one exchange: the server's half of the nonce is drawn for each.
//! Called by: the Kafka gateway. Source: RFC 5802 (SCRAM), RFC 7677 (with SHA-256).

use crate::door::{ITERATIONS, same, sha256};
use crate::error::RuntimeError;
use crate::handle::Handle;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_types::{Blob, Digest, Principal, Scram};
use ring::hmac;

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
        "the user is not known or disabled, the password is wrong, or it was given to the server as a hash, which SCRAM cannot check: ask the operator"
    )]
    Proof,
}

/// An exchange of which the server's first message has been sent.
#[derive(Debug)]
pub struct Exchange {
    user: Blob,
    scram: Scram,
    /// Whether there is such a verifier.
    known: bool,
    /// What the client has to say again: its header in base64, and the whole nonce.
    channel: String,
    nonce: String,
    /// The client's first message without its header, and the server's.
    said: String,
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
    pub fn scram(&self, message: &[u8]) -> Result<Result<(Exchange, String), ScramRefused>, RuntimeError> {
        let first = match First::read(message) {
            Ok(first) => first,
            Err(refused) => return Ok(Err(refused)),
        };
        let drawn = STANDARD.encode(crate::door::drawn::<NONCE_BYTES>()?);
        let verifier = self.verifier_now(first.user.as_bytes())?;
        let nobody = self.remembered().salt_of_nobody(first.user.as_bytes());
        Ok(Ok(Exchange::begin(&first, verifier, &nobody[..SALT_BYTES], &drawn)))
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
        let still = self.verifier_now(&exchange.user)?.as_ref() == Some(&exchange.scram);
        Ok(match told {
            Ok(told) if still => Ok((Principal::of_user(&exchange.user), told)),
            Ok(_) => Err(ScramRefused::Proof),
            Err(refused) => Err(refused),
        })
    }

    /// What a user's password is checked by now. Of several passwords it is the one that was added last: which of them a client means cannot be
    /// told before it has proved one.
    fn verifier_now(&self, user: &[u8]) -> Result<Option<Scram>, RuntimeError> {
        let access = self.user(user)?;
        let enabled = access.as_ref().filter(|access| access.user().enabled);
        Ok(enabled.and_then(|access| access.user().scram.last().cloned()))
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

impl Exchange {
    fn begin(first: &First<'_>, verifier: Option<Scram>, nobody: &[u8], drawn: &str) -> (Self, String) {
        let known = verifier.is_some();
        let scram = verifier.unwrap_or_else(|| Scram {
            salt: Blob::copy_from(nobody),
            iterations: ITERATIONS,
            stored_key: Digest::default(),
            server_key: Digest::default(),
        });
        let nonce = format!("{}{drawn}", first.nonce);
        let told = format!("r={nonce},s={},i={}", STANDARD.encode(&scram.salt), scram.iterations);
        let exchange = Self {
            user: Blob::copy_from(first.user.as_bytes()),
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
        let proof = STANDARD.decode(proof).ok().and_then(|proof| <[u8; 32]>::try_from(proof).ok());
        let proof = proof.ok_or(bad("wanted 32 bytes in base64 for a proof"))?;
        let all = format!("{},{said}", self.said);
        let signature =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.scram.stored_key.0), all.as_bytes());
        let key: Vec<u8> =
            proof.iter().zip(signature.as_ref()).map(|(proof, signature)| proof ^ signature).collect();
        // Of nobody it is looked at too, and never right.
        let right = same(&sha256(&key), &self.scram.stored_key);
        if !(right & self.known) {
            return Err(ScramRefused::Proof);
        }
        let signature =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.scram.server_key.0), all.as_bytes());
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

    fn pencil() -> Scram {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        verifier_of(b"pencil", Blob::copy_from(&salt), 4096)
    }

    fn begin(first: &str, verifier: Option<Scram>) -> Result<(Exchange, String), ScramRefused> {
        Ok(Exchange::begin(&First::read(first.as_bytes())?, verifier, b"0123456789abcdef", DRAWN))
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
        let other = verifier_of(b"pencils", pencil().salt, 4096);
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
        let (exchange, _) = Exchange::begin(&first, Some(pencil()), b"", "another");
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
