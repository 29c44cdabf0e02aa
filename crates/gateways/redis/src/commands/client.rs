//! CLIENT: what a connection says of itself, and what it may do to others.
//!
//! Called by: `commands::run`.

use super::{hello, not_served};
use crate::client::{Client, Unblock, user};
use crate::connection::{Connection, Mute};
use crate::resp;
use crate::tracking;
use quorate_types::{Blob, Reply};
use std::sync::Arc;
use std::time::Duration;

pub(super) async fn run(connection: &mut Connection, name: &'static str, words: &[Blob]) -> Option<Reply> {
    let client = Arc::clone(&connection.client);
    Some(match name {
        "client|id" => Reply::integer(client.id as i64),
        "client|getname" => {
            let name = client.seen().name;
            Reply::bulk_or_nil(Some(name).filter(|name| !name.is_empty()))
        }
        "client|setname" => {
            hello::set_name(connection, &words[2]).map_or_else(|reply| reply, |()| Reply::ok())
        }
        "client|setinfo" => set_info(&client, &words[2], &words[3]),
        "client|info" => text(format!("{}\n", client.line())),
        "client|list" => list(connection, &words[2..]),
        "client|kill" => kill(connection, &words[2..]),
        "client|reply" => return reply(connection, &words[2]),
        "client|no-evict" => switch(&words[2], |on| client.note(|seen| seen.no_evict = on)),
        "client|no-touch" => switch(&words[2], |on| client.note(|seen| seen.no_touch = on)),
        "client|pause" => pause(connection, &words[2..]),
        "client|unpause" => {
            connection.gateway.pause.end();
            Reply::ok()
        }
        "client|unblock" => unblock(connection, &words[2..]),
        "client|getredir" => tracking::redirect(connection),
        "client|trackinginfo" => tracking::info(connection),
        "client|tracking" => tracking::track(connection, &words[2..]),
        "client|caching" => tracking::caching(connection, &words[2]),
        // Clients that ask for it take an error for "there is nothing of the kind", and go on.
        "client|maint_notifications" => Reply::error("ERR there are no maintenance notifications here"),
        other => not_served(other),
    })
}

fn text(text: String) -> Reply {
    Reply::Verbatim { format: "txt".into(), text: text.into() }
}

fn switch(word: &Blob, set: impl FnOnce(bool)) -> Reply {
    if word.eq_ignore_ascii_case(b"on") {
        set(true);
    } else if word.eq_ignore_ascii_case(b"off") {
        set(false);
    } else {
        return Reply::error("ERR syntax error");
    }
    Reply::ok()
}

fn set_info(client: &Client, field: &Blob, value: &Blob) -> Reply {
    let shown = String::from_utf8_lossy(field);
    if value.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Reply::error(format!("ERR {shown} cannot contain spaces, newlines or special characters."));
    }
    if field.eq_ignore_ascii_case(b"lib-name") {
        client.note(|seen| seen.library = value.clone());
    } else if field.eq_ignore_ascii_case(b"lib-ver") {
        client.note(|seen| seen.library_version = value.clone());
    } else {
        return Reply::error(format!("ERR Unrecognized option '{shown}'"));
    }
    Reply::ok()
}

fn reply(connection: &mut Connection, word: &Blob) -> Option<Reply> {
    if word.eq_ignore_ascii_case(b"on") {
        connection.state.mute = Mute::No;
        Some(Reply::ok())
    } else if word.eq_ignore_ascii_case(b"off") {
        connection.state.mute = Mute::All;
        None
    } else if word.eq_ignore_ascii_case(b"skip") {
        if connection.state.mute == Mute::No {
            connection.state.mute = Mute::Next;
        }
        None
    } else {
        Some(Reply::error("ERR syntax error"))
    }
}

fn id(word: &Blob) -> Option<u64> {
    resp::integer(word).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0)
}

fn list(connection: &Connection, options: &[Blob]) -> Reply {
    let all = connection.gateway.connected();
    let wanted: Vec<Arc<Client>> = match options {
        [] => all,
        [option, kind] if option.eq_ignore_ascii_case(b"type") => match kind_of(kind) {
            Some(kind) => all.into_iter().filter(|client| client.kind() == kind).collect(),
            None => return unknown_kind(kind),
        },
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let mut wanted = Vec::new();
            for word in ids {
                let Some(id) = id(word) else { return Reply::error("ERR Invalid client ID") };
                wanted.extend(all.iter().find(|client| client.id == id).cloned());
            }
            wanted
        }
        _ => return Reply::error("ERR syntax error"),
    };
    let mut lines = String::new();
    for client in wanted {
        lines.push_str(&client.line());
        lines.push('\n');
    }
    text(lines)
}

/// A kind as CLIENT LIST TYPE names it: there are no replicas here, so nobody is of theirs.
fn kind_of(word: &Blob) -> Option<&'static str> {
    ["normal", "pubsub", "master", "replica", "slave"]
        .into_iter()
        .find(|kind| word.eq_ignore_ascii_case(kind.as_bytes()))
}

fn unknown_kind(word: &Blob) -> Reply {
    Reply::error(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(word)))
}

fn kill(connection: &mut Connection, options: &[Blob]) -> Reply {
    let own = connection.client.id;
    let all = connection.gateway.connected();
    if let [address] = options {
        let found = all.iter().find(|client| client.address.to_string().as_bytes() == &**address);
        return match found {
            Some(client) => {
                end(connection, client);
                Reply::ok()
            }
            None => Reply::error("ERR No such client"),
        };
    }
    let (mut chosen, mut spare_own) = (all, true);
    if !options.len().is_multiple_of(2) {
        return Reply::error("ERR syntax error");
    }
    for option in options.chunks_exact(2) {
        let (name, value) = (option[0].to_ascii_lowercase(), &option[1]);
        let text = String::from_utf8_lossy(value).into_owned();
        match name.as_slice() {
            b"id" => match id(value) {
                Some(id) => chosen.retain(|client| client.id == id),
                None => return Reply::error("ERR client-id should be greater than 0"),
            },
            b"type" => match kind_of(value) {
                Some(kind) => chosen.retain(|client| client.kind() == kind),
                None => return unknown_kind(value),
            },
            b"addr" => chosen.retain(|client| client.address.to_string() == text),
            b"laddr" => chosen.retain(|client| client.local.to_string() == text),
            b"user" => chosen.retain(|client| user(&client.seen().principal) == text),
            b"maxage" => match resp::integer(value).and_then(|age| u64::try_from(age).ok()) {
                Some(age) => chosen.retain(|client| client.age() >= age),
                None => return Reply::error("ERR maxage is not an integer or out of range"),
            },
            b"skipme" if text.eq_ignore_ascii_case("yes") => spare_own = true,
            b"skipme" if text.eq_ignore_ascii_case("no") => spare_own = false,
            _ => return Reply::error("ERR syntax error"),
        }
    }
    chosen.retain(|client| !spare_own || client.id != own);
    for client in &chosen {
        end(connection, client);
    }
    Reply::count(chosen.len())
}

fn end(connection: &mut Connection, client: &Client) {
    if client.id == connection.client.id {
        // It is told first.
        connection.state.closing = true;
    } else {
        client.kill();
    }
}

fn pause(connection: &Connection, words: &[Blob]) -> Reply {
    let time = resp::integer(&words[0]).and_then(|time| u64::try_from(time).ok());
    let Some(time) = time else { return Reply::error("ERR timeout is not an integer or out of range") };
    let all = match words.get(1) {
        None => true,
        Some(mode) if mode.eq_ignore_ascii_case(b"all") => true,
        Some(mode) if mode.eq_ignore_ascii_case(b"write") => false,
        Some(_) => return Reply::error("ERR CLIENT PAUSE mode must be WRITE or ALL"),
    };
    connection.gateway.pause.begin(Duration::from_millis(time), all);
    Reply::ok()
}

fn unblock(connection: &Connection, words: &[Blob]) -> Reply {
    let how = match words.get(1) {
        None => Unblock::Timeout,
        Some(word) if word.eq_ignore_ascii_case(b"timeout") => Unblock::Timeout,
        Some(word) if word.eq_ignore_ascii_case(b"error") => Unblock::Error,
        Some(_) => return Reply::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
    };
    let Some(id) = resp::integer(&words[0]) else {
        return Reply::error("ERR value is not an integer or out of range");
    };
    let found = connection.gateway.connected().into_iter().find(|client| i64::try_from(client.id) == Ok(id));
    Reply::flag(found.is_some_and(|client| client.unblock(how)))
}
