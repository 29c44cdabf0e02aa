//! Who a client is, what it speaks, and which database it means.
//!
//! Called by: `commands::run`.

use super::{REDIS_VERSION, shown_name};
use crate::connection::{Connection, Mute, State, database};
use crate::error;
use crate::gateway::locked;
use crate::pubsub::Kind;
use crate::resp::{self, Protocol};
use quorate_calls::Session;
use quorate_runtime::Consistency;
use quorate_types::{Blob, DEFAULT_USER, Keyspace, Principal, Reply};

const NOAUTH: &str = "NOAUTH Authentication required.";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// PING: in RESP2, a client that listens is answered in the form of a message.
pub(super) fn ping(state: &State, words: &[Blob]) -> Reply {
    let word = words.get(1);
    if words.len() > 2 {
        return Reply::error("ERR wrong number of arguments for 'ping' command");
    }
    if state.protocol == Protocol::Two && state.subscriptions() > 0 {
        return Reply::array(vec![Reply::bulk("pong"), Reply::bulk(word.cloned().unwrap_or_default())]);
    }
    word.map_or(Reply::status("PONG"), |word| Reply::bulk(word.clone()))
}

pub(super) fn select(connection: &mut Connection, word: &Blob) -> Reply {
    match database(word) {
        Ok(space) => {
            connection.state.session = Session::new(space);
            Reply::ok()
        }
        Err(reply) => reply,
    }
}

pub(super) fn stale(connection: &mut Connection, stale: bool) -> Reply {
    connection.state.consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    Reply::ok()
}

/// RESET: as if the client had just connected.
pub(super) fn reset(connection: &mut Connection) -> Reply {
    unsubscribe_all(connection);
    connection.gateway.monitors.remove(connection.client.id);
    let state = &mut connection.state;
    state.transaction = None;
    state.watched.clear();
    state.protocol = Protocol::Two;
    state.session = Session::new(Keyspace::DEFAULT);
    state.mute = Mute::No;
    state.monitor = false;
    if state.following.take().is_some() {
        crate::tracking::leave(&connection.gateway, connection.client.id);
    }
    state.consistency = Consistency::Linearizable;
    state.known = connection.gateway.is_open();
    state.entered = false;
    state.who.principal = Principal::from("anonymous");
    state.who.name = Blob::EMPTY;
    connection.client.note(|seen| {
        seen.name = Blob::EMPTY;
        seen.principal = Principal::from("anonymous");
        seen.entered = false;
        (seen.no_evict, seen.no_touch) = (false, false);
    });
    match connection.load_rights() {
        Ok(()) => Reply::status("RESET"),
        Err(_) => Reply::error(NOAUTH),
    }
}

fn unsubscribe_all(connection: &mut Connection) {
    let id = connection.client.id;
    let mut all = locked(&connection.gateway.subscriptions);
    for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
        for name in std::mem::take(connection.state.names(kind)) {
            all.remove(kind, &name, id);
        }
    }
    drop(all);
    connection.gateway.listen();
}

/// `AUTH [user] secret`.
pub(super) async fn auth(connection: &mut Connection, words: &[Blob]) -> Reply {
    let (user, secret) = match words {
        [secret] => (None, secret),
        [user, secret] => (Some(user), secret),
        _ => return Reply::error("ERR syntax error"),
    };
    match enter(connection, "AUTH", user, secret).await {
        Ok(()) => Reply::ok(),
        Err(reply) => reply,
    }
}

/// Checks a secret, and remembers whose it is: a token of an operator, a password or a token of a user.
async fn enter(
    connection: &mut Connection,
    command: &'static str,
    user: Option<&Blob>,
    secret: &Blob,
) -> Result<(), Reply> {
    let gateway = std::sync::Arc::clone(&connection.gateway);
    let named = user.cloned().unwrap_or_else(|| DEFAULT_USER.into());
    let is_default = *named == *DEFAULT_USER.as_bytes();
    // A name beside a token has to be the one that the token has.
    let fits = |principal: &Principal| is_default || shown_name(principal).as_bytes() == named.as_slice();
    let text = secret.as_text();
    let operator = gateway.config.door.as_ref().zip(text).and_then(|(door, text)| door.principal(text));
    let mut found = operator.filter(|principal| fits(principal));
    if found.is_none() {
        found = gateway.handle.token(secret).map_err(|why| error::runtime(&why))?.filter(fits);
    }
    let open = gateway.is_open();
    if found.is_none() && is_default && open {
        return match user {
            Some(_) => Ok(()),
            None => Err(Reply::error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            )),
        };
    }
    if found.is_none() {
        // With a token file nobody enters without a secret, whatever the default user needs.
        let nopass = gateway.config.door.is_some()
            && gateway.handle.user(&named).ok().flatten().is_some_and(|access| access.user().nopass);
        if !nopass {
            found = gateway.handle.enter(&named, secret).await.map_err(|why| error::runtime(&why))?;
        }
    }
    let Some(principal) = found else {
        gateway.acl_log.wrong_password(command, &named, &connection.client);
        return Err(Reply::error(WRONGPASS));
    };
    connection.client.note(|seen| (seen.principal, seen.entered) = (principal.clone(), true));
    connection.state.who.principal = principal;
    (connection.state.known, connection.state.entered) = (true, true);
    connection.state.made = None;
    connection.load_rights().map_err(|_| Reply::error(WRONGPASS))
}

/// A name that CLIENT LIST can show.
pub(super) fn set_name(connection: &mut Connection, name: &Blob) -> Result<(), Reply> {
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err(Reply::error("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    connection.client.note(|seen| seen.name = name.clone());
    connection.state.who.name = name.clone();
    Ok(())
}

/// `HELLO [2|3 [AUTH user secret] [SETNAME name]]`.
pub(super) async fn hello(connection: &mut Connection, words: &[Blob]) -> Reply {
    match greet(connection, words).await {
        Ok(()) => {
            let protocol = connection.state.protocol;
            Reply::map(vec![
                Reply::bulk("server"),
                Reply::bulk("redis"),
                Reply::bulk("version"),
                Reply::bulk(REDIS_VERSION),
                Reply::bulk("proto"),
                Reply::integer(i64::from(protocol.number())),
                Reply::bulk("id"),
                Reply::integer(connection.client.id as i64),
                Reply::bulk("mode"),
                Reply::bulk(super::server::mode(&connection.gateway)),
                Reply::bulk("role"),
                Reply::bulk("master"),
                Reply::bulk("modules"),
                Reply::array(vec![]),
            ])
        }
        Err(reply) => reply,
    }
}

async fn greet(connection: &mut Connection, words: &[Blob]) -> Result<(), Reply> {
    let mut protocol = connection.state.protocol;
    if let Some(word) = words.first() {
        protocol = match resp::integer(word) {
            Some(2) => Protocol::Two,
            Some(3) => Protocol::Three,
            Some(_) => return Err(Reply::error("NOPROTO unsupported protocol version")),
            None => return Err(Reply::error("ERR Protocol version is not an integer or out of range")),
        };
    }
    let (mut login, mut name, mut at) = (None, None, 1);
    while let Some(option) = words.get(at) {
        match (words.get(at + 1), words.get(at + 2)) {
            (Some(user), Some(secret)) if option.eq_ignore_ascii_case(b"auth") => {
                login = Some((user.clone(), secret.clone()));
                at += 3;
            }
            (Some(word), _) if option.eq_ignore_ascii_case(b"setname") => {
                name = Some(word.clone());
                at += 2;
            }
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(Reply::error(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        }
    }
    if let Some((user, secret)) = login {
        enter(connection, "HELLO", Some(&user), &secret).await?;
    }
    if !connection.state.known {
        return Err(Reply::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        set_name(connection, &name)?;
    }
    if protocol != connection.state.protocol {
        connection.state.protocol = protocol;
        connection.client.note(|seen| seen.protocol = protocol);
        // What is published from now on is in the new dialect.
        let mut all = locked(&connection.gateway.subscriptions);
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            for name in connection.state.names(kind).clone() {
                all.add(kind, &name, &connection.client, protocol);
            }
        }
    }
    Ok(())
}
