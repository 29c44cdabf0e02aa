//! SASL: who a client is, by name and password or token.
//!
//! The only mechanism is PLAIN: passwords are kept as verifiers, and checked by the door that all gateways share.
//! Source: RFC 4616 (PLAIN); KIP-43, KIP-152 (SASL inside Kafka's own requests).

use crate::connection::Session;
use crate::error::Code;
use crate::gateway::Gateway;
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::Blob;

const MECHANISM: &str = "PLAIN";
/// Longest name or secret.
const WORD_BYTES_MAX: usize = 4096;

impl Session {
    /// Notes what the client calls itself.
    pub(super) fn name(&mut self, client: &str) {
        if self.who.name.as_slice() != client.as_bytes() {
            self.who.name = Blob::copy_from(&client.as_bytes()[..client.floor_char_boundary(256)]);
        }
    }
}

pub(super) fn handshake(session: &mut Session, body: &mut Reader, out: &mut Writer) -> Result<(), Malformed> {
    let asked = body.text()?;
    session.shaking = asked == MECHANISM;
    let code = if session.shaking { Code::None } else { Code::UnsupportedSaslMechanism };
    out.i16(code.number());
    out.list([MECHANISM], Writer::text);
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
    if !session.shaking {
        return Err(Malformed("SaslAuthenticate comes after SaslHandshake"));
    }
    let found = match plain(&sent) {
        Some((user, secret)) => gateway.enter(user, secret).await.unwrap_or(None),
        None => None,
    };
    let refused = match found {
        Some(principal) => {
            session.who.principal = principal;
            session.entered = true;
            None
        }
        None => {
            session.closing = true;
            Some("the user is not known or disabled, or the password is wrong: ask the operator")
        }
    };
    session.shaking = false;
    out.i16(refused.map_or(Code::None, |_| Code::SaslAuthenticationFailed).number());
    out.maybe_text(refused);
    out.maybe_bytes(Some(&[]));
    if version >= 1 {
        // The session does not end by itself: what its user may do is asked for anew with each request.
        out.i64(0);
    }
    out.tags();
    Ok(())
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
