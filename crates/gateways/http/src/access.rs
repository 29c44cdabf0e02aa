//! Who asks, and what a route needs that whoever asks may do.
//!
//! Invariant: a route says what it needs in the table of routes; a handler runs only when that was allowed, and what a read found leaves only if it
//! is allowed still. Commands are checked once more by the machine, operation by operation, and there it is decided.
//! Called by: `dispatch`, `sse`.

use crate::call::Gateway;
use crate::config::principal_of;
use crate::error::Problem;
use base64::Engine;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use quorate_machine::Machine;
use quorate_types::{Blob, Denied, KeyRange, Keyspace, LeaseId, Principal, Verbs};

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: a probe.
    Nothing,
    /// To be let in: what the request asks for is checked piece by piece.
    Entry,
    /// To run this command.
    Run(&'static str),
    /// To run this command, and to do this to the name in the path.
    Name(&'static str, Verbs, &'static str),
    /// The same to the key or stream in the path, of the request's keyspace.
    Key(&'static str, Verbs, &'static str),
    /// The same to the range of keys in the query.
    Range(&'static str, Verbs),
    /// The same to all names there are.
    All(&'static str, Verbs),
    /// The same to everything that hangs on the lease in the path.
    Lease(&'static str, Verbs),
}

/// Who asks, as far as the request itself tells.
#[derive(Clone, Debug)]
pub(crate) struct Entered {
    pub(crate) principal: Principal,
    /// It came without a secret that is known here: what to tell it unless the door stands open.
    unless_open: Option<&'static str>,
}

impl Entered {
    /// Somebody of whom nothing is asked: a probe.
    pub(crate) fn anybody() -> Self {
        Self::known("anonymous".into())
    }

    /// The server itself.
    pub(crate) fn server() -> Self {
        Self::known("server".into())
    }

    fn known(principal: Principal) -> Self {
        Self { principal, unless_open: None }
    }

    fn by_the_door(unless_open: &'static str) -> Self {
        Self { principal: "anonymous".into(), unless_open: Some(unless_open) }
    }
}

/// What a request needs, with the names that it brought.
#[derive(Clone, Debug)]
pub(crate) struct Permit {
    principal: Principal,
    unless_open: Option<&'static str>,
    command: Option<&'static str>,
    on: On,
}

#[derive(Clone, Debug)]
pub(crate) enum On {
    Nothing,
    Name(Verbs, Keyspace, Blob),
    Range(Verbs, KeyRange),
    All(Verbs),
    Lease(Verbs, LeaseId),
}

impl Permit {
    pub(crate) fn new(entered: Entered, command: Option<&'static str>, on: On) -> Self {
        let Entered { principal, unless_open } = entered;
        Self { principal, unless_open, command, on }
    }

    /// Whether it is allowed in this state.
    ///
    /// # Errors
    /// 401: whoever asks is not known, and the door is closed. 403, which names what is missing.
    pub(crate) fn check(&self, machine: &Machine) -> Result<(), Problem> {
        if let Some(detail) = self.unless_open.filter(|_| !machine.door_is_open()) {
            return Err(unauthorized(detail));
        }
        self.rights(machine).map_err(|denied| Problem::of_denied(&denied))
    }

    fn rights(&self, machine: &Machine) -> Result<(), Denied> {
        let rights = machine.rights(&self.principal);
        rights.alive()?;
        if let Some(command) = self.command {
            rights.command(command)?;
        }
        match &self.on {
            On::Nothing => Ok(()),
            On::Name(verbs, space, name) => rights.name(*verbs, *space, name),
            On::Range(verbs, range) => rights.range(*verbs, range),
            On::All(verbs) => rights.everything(*verbs),
            On::Lease(verbs, lease) => machine.lease_allowed(&rights, *verbs, *lease),
        }
    }

    /// Whether it is allowed in the state that this node has applied.
    ///
    /// # Errors
    /// As [`Permit::check`].
    pub(crate) fn check_now(&self, gateway: &Gateway) -> Result<(), Problem> {
        gateway.handle.allowed(|machine| self.check(machine))?
    }
}

/// Who asks. Whether the door stands open is looked at with the rights, in the same state.
///
/// # Errors
/// 401: a token or a name with password is wanted, or the one that was sent is not known.
pub(crate) async fn enter(gateway: &Gateway, headers: &HeaderMap) -> Result<Entered, Problem> {
    let tokens = &gateway.config.tokens;
    // With a token file nobody enters without a secret.
    let by_the_door = |unless_open: &'static str| {
        if tokens.is_empty() { Ok(Entered::by_the_door(unless_open)) } else { Err(unauthorized(unless_open)) }
    };
    let Some(sent) = headers.get(AUTHORIZATION) else {
        return by_the_door(
            "a token, or a user with password, is wanted: send Authorization: Bearer TOKEN, or Basic",
        );
    };
    let sent = sent.to_str().unwrap_or_default();
    let (scheme, secret) = sent.split_once(' ').unwrap_or((sent, ""));
    let secret = secret.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        if let Some(operator) = principal_of(tokens, secret) {
            return Ok(Entered::known(operator.clone()));
        }
        if let Some(user) = gateway.handle.token(secret.as_bytes())? {
            return Ok(Entered::known(user));
        }
        // A token that nobody checks opens what is open to everybody.
        return by_the_door("the token is not known: ask the operator for one");
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(secret).unwrap_or_default();
        let at = decoded.iter().position(|byte| *byte == b':');
        let (name, password) = at.map_or((&decoded[..], &b""[..]), |at| (&decoded[..at], &decoded[at + 1..]));
        let nopass =
            !tokens.is_empty() && gateway.handle.user(name)?.is_some_and(|access| access.user().nopass);
        let entered = if nopass { None } else { gateway.handle.enter(name, password).await? };
        return entered.map(Entered::known).ok_or_else(|| {
            unauthorized("the user is not known or disabled, or the password is wrong: ask the operator")
        });
    }
    by_the_door("wanted Authorization: Bearer TOKEN, or Basic with user and password")
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(401, "unauthorized", detail)
        .header("www-authenticate", "Bearer realm=\"quorate\", Basic realm=\"quorate\", charset=\"UTF-8\"")
}
