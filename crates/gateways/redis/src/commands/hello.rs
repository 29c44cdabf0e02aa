//! Who a client is, what it speaks, and which database it means.
//!
//! Called by: `commands::run`.

use super::REDIS_VERSION;
use crate::connection::{Connection, Mute, State, database};
use crate::gateway::locked;
use crate::pubsub::Kind;
use crate::resp::{self, Protocol};
use quorate_calls::Session;
use quorate_runtime::Consistency;
use quorate_types::{Blob, Keyspace, Principal, Reply};

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
    state.consistency = Consistency::Linearizable;
    state.known = connection.gateway.config.door.is_none();
    state.who.principal = Principal::from("anonymous");
    state.who.name = Blob::EMPTY;
    connection.client.note(|seen| {
        seen.name = Blob::EMPTY;
        seen.principal = Principal::from("anonymous");
        (seen.no_evict, seen.no_touch) = (false, false);
    });
    Reply::status("RESET")
}

fn unsubscribe_all(connection: &mut Connection) {
    let id = connection.client.id;
    let mut all = locked(&connection.gateway.subscriptions);
    for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
        for name in std::mem::take(connection.state.names(kind)) {
            all.remove(kind, &name, id);
        }
    }
}

/// `AUTH [user] secret`.
pub(super) fn auth(connection: &mut Connection, words: &[Blob]) -> Reply {
    let (user, secret) = match words {
        [secret] => (None, secret),
        [user, secret] => (Some(user), secret),
        _ => return Reply::error("ERR syntax error"),
    };
    match enter(connection, user, secret) {
        Ok(()) => Reply::ok(),
        Err(reply) => reply,
    }
}

/// Checks a secret, and remembers whose it is.
fn enter(connection: &mut Connection, user: Option<&Blob>, secret: &Blob) -> Result<(), Reply> {
    let is_default = user.is_none_or(|user| **user == *b"default");
    let Some(door) = &connection.gateway.config.door else {
        return match user {
            None => Err(Reply::error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            )),
            Some(_) if is_default => Ok(()),
            Some(_) => Err(Reply::error(WRONGPASS)),
        };
    };
    let principal = secret.as_text().and_then(|secret| door.principal(secret));
    // A name beside the token has to be the one that the token has.
    let principal = principal
        .filter(|principal| is_default || user.is_some_and(|user| *user == principal.0))
        .ok_or_else(|| Reply::error(WRONGPASS))?;
    connection.client.note(|seen| seen.principal = principal.clone());
    connection.state.who.principal = principal;
    connection.state.known = true;
    Ok(())
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
pub(super) fn hello(connection: &mut Connection, words: &[Blob]) -> Reply {
    match greet(connection, words) {
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
                Reply::bulk("standalone"),
                Reply::bulk("role"),
                Reply::bulk("master"),
                Reply::bulk("modules"),
                Reply::array(vec![]),
            ])
        }
        Err(reply) => reply,
    }
}

fn greet(connection: &mut Connection, words: &[Blob]) -> Result<(), Reply> {
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
        enter(connection, Some(&user), &secret)?;
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
