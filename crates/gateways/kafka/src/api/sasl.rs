//! SASL: who a client is, by name and password or token.
//!
//! PLAIN takes passwords and tokens as they are; SCRAM-SHA-256 and SCRAM-SHA-512 a proof of the password, against the verifiers that all gateways share.
//! Source: RFC 4616 (PLAIN), RFC 5802, RFC 7677 (SCRAM); KIP-43, KIP-84, KIP-152 (SASL inside Kafka's own requests).

use crate::connection::Session;
use crate::error::Code;
use crate::gateway::Gateway;
use crate::wire::{Malformed, Reader, Writer};
use quorate_runtime::scram::Exchange;
use quorate_types::{Blob, Principal, ScramHash};

const PLAIN: &str = "PLAIN";
const SCRAM_256: &str = "SCRAM-SHA-256";
const SCRAM_512: &str = "SCRAM-SHA-512";
/// Longest name or secret.
const WORD_BYTES_MAX: usize = 4096;
/// Why PLAIN is refused.
const WRONG: &str = "the user is not known or disabled, or the password is wrong: ask the operator";

/// How far a client is in saying who it is.
#[derive(Default)]
pub(crate) enum Shaking {
    /// It has not begun, or has ended.
    #[default]
    Not,
    Plain,
    Scram(ScramHash),
    /// It has been sent what it is to prove its password by.
    Proving(Box<Exchange>),
}

/// What a client's message comes to.
enum Step {
    Enters(Principal, String),
    GoesOn(Box<Exchange>, String),
}

impl Session {
    /// Notes what the client calls itself.
    pub(super) fn name(&mut self, client: &str) {
        if self.who.name.as_slice() != client.as_bytes() {
            self.who.name = Blob::copy_from(&client.as_bytes()[..client.floor_char_boundary(256)]);
        }
    }
}

pub(super) fn handshake(
    session: &mut Session,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    session.shaking = match body.text()?.as_str() {
        PLAIN => Shaking::Plain,
        SCRAM_256 => Shaking::Scram(ScramHash::Sha256),
        SCRAM_512 => Shaking::Scram(ScramHash::Sha512),
        _ => Shaking::Not,
    };
    let refused = matches!(session.shaking, Shaking::Not);
    session.bare = version == 0 && !refused;
    out.i16(if refused { Code::UnsupportedSaslMechanism } else { Code::None }.number());
    out.list([PLAIN, SCRAM_256, SCRAM_512], Writer::text);
    Ok(())
}

pub(super) async fn authenticate(
    gateway: &Gateway,
    session: &mut Session,
    version: i16,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let sent = body.maybe_bytes()?.unwrap_or_default();
    body.tags()?;
    let (code, refused, told) = match step(gateway, session, &sent).await? {
        Ok(told) => (Code::None, None, told),
        Err(why) => {
            session.closing = true;
            (Code::SaslAuthenticationFailed, Some(why), String::new())
        }
    };
    out.i16(code.number());
    out.maybe_text(refused.as_deref());
    out.maybe_bytes(Some(told.as_bytes()));
    if version >= 1 {
        // The session does not end by itself: what its user may do is asked for anew with each request.
        out.i64(0);
    }
    out.tags();
    Ok(())
}

/// Takes a message that is a frame of its own, as it was before SaslAuthenticate (after version 0 of SaslHandshake): what is answered, as a frame.
///
/// # Errors
/// The client does not enter: the connection ends, since such clients know no other way to be told.
pub(crate) async fn bare(
    gateway: &Gateway,
    session: &mut Session,
    sent: &[u8],
) -> Result<Vec<u8>, Malformed> {
    let told = step(gateway, session, sent).await?.map_err(|_| Malformed("the client does not enter"))?;
    session.bare = !matches!(session.shaking, Shaking::Not);
    let length = i32::try_from(told.len()).map_err(|_| Malformed("the answer is too long"))?;
    Ok([&length.to_be_bytes(), told.as_bytes()].concat())
}

/// Takes one message of the client: what it is told, or why it does not enter.
async fn step(
    gateway: &Gateway,
    session: &mut Session,
    sent: &[u8],
) -> Result<Result<String, String>, Malformed> {
    let step = match std::mem::take(&mut session.shaking) {
        Shaking::Not => return Err(Malformed("a message of SASL comes after SaslHandshake")),
        Shaking::Plain => by_plain(gateway, sent).await,
        Shaking::Scram(hash) => begins(gateway, hash, sent),
        Shaking::Proving(exchange) => proves(gateway, &exchange, sent),
    };
    Ok(step.map(|step| match step {
        Step::Enters(principal, told) => {
            session.who.principal = principal;
            session.entered = true;
            told
        }
        Step::GoesOn(exchange, told) => {
            session.shaking = Shaking::Proving(exchange);
            told
        }
    }))
}

async fn by_plain(gateway: &Gateway, sent: &[u8]) -> Result<Step, String> {
    let found = match plain(sent) {
        Some((user, secret)) => gateway.enter(user, secret).await.unwrap_or(None),
        None => None,
    };
    found.map(|principal| Step::Enters(principal, String::new())).ok_or_else(|| WRONG.to_owned())
}

fn begins(gateway: &Gateway, hash: ScramHash, sent: &[u8]) -> Result<Step, String> {
    let begun = gateway.handle.scram(hash, sent).map_err(|why| why.to_string())?;
    let (exchange, told) = begun.map_err(|why| why.to_string())?;
    Ok(Step::GoesOn(Box::new(exchange), told))
}

fn proves(gateway: &Gateway, exchange: &Exchange, sent: &[u8]) -> Result<Step, String> {
    let proved = gateway.handle.scram_end(exchange, sent).map_err(|why| why.to_string())?;
    let (principal, told) = proved.map_err(|why| why.to_string())?;
    Ok(Step::Enters(principal, told))
}

/// Name and secret of a PLAIN message; nothing when it is none, or asks to act as somebody else.
fn plain(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut words = message.split(|byte| *byte == 0);
    let (acting, user, secret) = (words.next()?, words.next()?, words.next()?);
    let fits = words.next().is_none() && (acting.is_empty() || acting == user);
    (fits && user.len() <= WORD_BYTES_MAX && secret.len() <= WORD_BYTES_MAX).then_some((user, secret))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_plain_message_has_three_words() {
        assert_eq!(plain(b"\0ann\0secret"), Some((&b"ann"[..], &b"secret"[..])));
        assert_eq!(plain(b"ann\0ann\0"), Some((&b"ann"[..], &b""[..])));
        for bad in [&b""[..], b"ann", b"\0ann", b"bob\0ann\0secret", b"\0ann\0secret\0"] {
            assert_eq!(plain(bad), None);
        }
    }
}
