//! What is about the connection or the server, and not about data: a file per family.
//!
//! Invariant: a name that is listed in [`OWN`] is executed by [`run`].
//! Called by: `connection` (one by one) and `transaction` (after its commit).

mod acl;
mod client;
mod cluster;
mod command;
mod hello;
mod pubsub;
mod sentinel;
mod server;

pub(crate) use acl::shown_name;

use crate::connection::{Connection, Gone};
use crate::transaction::Transaction;
use quorate_types::{Blob, Reply};

/// The version of Redis that clients are told: the one whose commands and replies these are.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// What the table of calls does not know: name, and how many words as COMMAND INFO has it.
const OWN: &[(&str, i64)] = &[
    ("asking", 1),
    ("auth", -2),
    ("acl|cat", -2),
    ("acl|deluser", -3),
    ("acl|dryrun", -4),
    ("acl|genpass", -2),
    ("acl|getuser", 3),
    ("acl|help", 2),
    ("acl|list", 2),
    ("acl|load", 2),
    ("acl|log", -2),
    ("acl|save", 2),
    ("acl|setuser", -3),
    ("acl|users", 2),
    ("acl|whoami", 2),
    ("bgrewriteaof", 1),
    ("bgsave", -1),
    ("client|caching", 3),
    ("client|getname", 2),
    ("client|getredir", 2),
    ("client|id", 2),
    ("client|info", 2),
    ("client|kill", -3),
    ("client|list", -2),
    ("client|maint_notifications", -2),
    ("client|no-evict", 3),
    ("client|no-touch", 3),
    ("client|pause", -3),
    ("client|reply", 3),
    ("client|setinfo", 4),
    ("client|setname", 3),
    ("client|tracking", -3),
    ("client|trackinginfo", 2),
    ("client|unblock", -3),
    ("client|unpause", 2),
    ("cluster|countkeysinslot", 3),
    ("cluster|getkeysinslot", 4),
    ("cluster|info", 2),
    ("cluster|keyslot", 3),
    ("cluster|myid", 2),
    ("cluster|myshardid", 2),
    ("cluster|nodes", 2),
    ("cluster|replicas", 3),
    ("cluster|shards", 2),
    ("cluster|slaves", 3),
    ("cluster|slots", 2),
    ("command", -1),
    ("command|count", 2),
    ("command|docs", -2),
    ("command|getkeys", -3),
    ("command|info", -2),
    ("command|list", -2),
    ("config|get", -3),
    ("config|resetstat", 2),
    ("config|rewrite", 2),
    ("config|set", -4),
    ("debug", -2),
    ("discard", 1),
    ("echo", 2),
    ("exec", 1),
    ("failover", -1),
    ("hello", -1),
    ("info", -1),
    ("lastsave", 1),
    ("latency|doctor", 2),
    ("latency|graph", 3),
    ("latency|help", 2),
    ("latency|histogram", -2),
    ("latency|history", 3),
    ("latency|latest", 2),
    ("latency|reset", -2),
    ("memory|doctor", 2),
    ("memory|purge", 2),
    ("memory|stats", 2),
    ("module|list", 2),
    ("monitor", 1),
    ("multi", 1),
    ("ping", -1),
    ("psubscribe", -2),
    ("publish", 3),
    ("pubsub|channels", -2),
    ("pubsub|numpat", 2),
    ("pubsub|numsub", -2),
    ("pubsub|shardchannels", -2),
    ("pubsub|shardnumsub", -2),
    ("punsubscribe", -1),
    ("quit", -1),
    ("readonly", 1),
    ("readwrite", 1),
    ("replicaof", 3),
    ("reset", 1),
    ("role", 1),
    ("save", 1),
    ("select", 2),
    ("sentinel|ckquorum", 3),
    ("sentinel|get-master-addr-by-name", 3),
    ("sentinel|master", 3),
    ("sentinel|masters", 2),
    ("sentinel|myid", 2),
    ("sentinel|replicas", 3),
    ("sentinel|sentinels", 3),
    ("sentinel|slaves", 3),
    ("shutdown", -1),
    ("slaveof", 3),
    ("slowlog|get", -2),
    ("slowlog|len", 2),
    ("slowlog|reset", 2),
    ("spublish", 3),
    ("ssubscribe", -2),
    ("subscribe", -2),
    ("sunsubscribe", -1),
    ("time", 1),
    ("unsubscribe", -1),
    ("unwatch", 1),
    ("wait", 3),
    ("waitaof", 4),
    ("watch", -2),
    ("q.after", -3),
    ("q.atomic", 1),
    ("q.fence", 3),
    ("q.idempotent", 3),
    ("q.keep", 3),
    ("q.limit", -5),
    ("q.lock", -3),
    ("q.unlock", 3),
    ("q.version", 3),
    ("q.why", -2),
];

/// Whether it is executed here, though scripts may call it too.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, "ping" | "publish" | "spublish" | "time")
}

/// The own command that these words are, if they are one.
pub(crate) fn own(words: &[Blob]) -> Option<Result<&'static str, Reply>> {
    let first = words.first()?;
    let exact = OWN.iter().find(|(name, _)| first.eq_ignore_ascii_case(name.as_bytes()));
    let contained = |name: &str| {
        name.split_once('|').is_some_and(|(container, sub)| {
            first.eq_ignore_ascii_case(container.as_bytes())
                && words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(sub.as_bytes()))
        })
    };
    let found = OWN
        .iter()
        .find(|(name, _)| contained(name))
        .or(exact.filter(|_| words.len() == 1 || !is_container(first)));
    let Some((name, arity)) = found else {
        return is_container(first).then(|| Err(unknown_subcommand(first, words.get(1))));
    };
    let count = i64::try_from(words.len()).unwrap_or(i64::MAX);
    if (*arity >= 0 && count != *arity) || count < -*arity {
        return Some(Err(Reply::error(format!("ERR wrong number of arguments for '{name}' command"))));
    }
    Some(Ok(name))
}

fn is_container(first: &[u8]) -> bool {
    OWN.iter().any(|(name, _)| {
        name.split_once('|').is_some_and(|(container, _)| first.eq_ignore_ascii_case(container.as_bytes()))
    })
}

fn unknown_subcommand(container: &Blob, sub: Option<&Blob>) -> Reply {
    let container = String::from_utf8_lossy(container);
    match sub {
        None => Reply::error(format!(
            "ERR wrong number of arguments for '{}' command",
            container.to_ascii_lowercase()
        )),
        Some(sub) => {
            let shown: String = String::from_utf8_lossy(sub).chars().take(128).collect();
            Reply::error(format!(
                "ERR unknown subcommand '{shown}'. Try {} HELP.",
                container.to_ascii_uppercase()
            ))
        }
    }
}

/// Whether a client that listens in RESP2 may send it.
pub(crate) fn while_listening(name: &str) -> bool {
    matches!(
        name,
        "subscribe"
            | "unsubscribe"
            | "psubscribe"
            | "punsubscribe"
            | "ssubscribe"
            | "sunsubscribe"
            | "ping"
            | "quit"
            | "reset"
    )
}

/// Whether a transaction may contain it.
pub(crate) fn in_transactions(name: &str) -> bool {
    !while_listening(name)
        && !matches!(
            name,
            "monitor"
                | "hello"
                | "auth"
                | "client|reply"
                | "client|pause"
                | "q.lock"
                | "q.unlock"
                | "q.keep"
                | "q.why"
        )
        || name == "ping"
}

/// Executes one.
pub(crate) async fn run(
    connection: &mut Connection,
    name: &'static str,
    words: &[Blob],
) -> Result<Option<Reply>, Gone> {
    let reply = match name {
        "ping" => hello::ping(&connection.state, words),
        "echo" => Reply::bulk(words[1].clone()),
        "quit" => {
            connection.state.closing = true;
            Reply::ok()
        }
        "reset" => hello::reset(connection),
        "select" => hello::select(connection, &words[1]),
        "auth" => hello::auth(connection, &words[1..]).await,
        "hello" => hello::hello(connection, &words[1..]).await,
        "readonly" => hello::stale(connection, true),
        "readwrite" => hello::stale(connection, false),
        "asking" => Reply::ok(),
        "multi" => match connection.state.transaction {
            Some(_) => Reply::error("ERR MULTI calls can not be nested"),
            None => {
                connection.state.transaction = Some(Transaction::new(connection.state.session.space));
                Reply::ok()
            }
        },
        "exec" => return connection.exec().await,
        "discard" => match connection.state.transaction.take() {
            None => Reply::error("ERR DISCARD without MULTI"),
            Some(_) => {
                connection.state.watched.clear();
                Reply::ok()
            }
        },
        "watch" => connection.watch(&words[1..]).await,
        "unwatch" => {
            connection.state.watched.clear();
            Reply::ok()
        }
        "subscribe" | "psubscribe" | "ssubscribe" | "unsubscribe" | "punsubscribe" | "sunsubscribe" => {
            pubsub::change(connection, name, &words[1..]);
            return Ok(None);
        }
        "publish" | "spublish" => {
            let sent = connection.gateway.publish(&words[1], &words[2], name == "spublish");
            sent.map_or_else(|reply| reply, Reply::count)
        }
        "monitor" => {
            connection.state.monitor = true;
            connection.gateway.monitors.add(&connection.client);
            Reply::ok()
        }
        "q.lock" => connection.lock(words).await?,
        "q.unlock" => connection.unlock(words).await,
        "q.keep" => connection.keep(words).await,
        "q.why" => connection.why(words).await,
        "q.after" => connection.after(words).await,
        "q.fence" | "q.version" | "q.limit" | "q.idempotent" | "q.atomic" => {
            Reply::error(format!("ERR {} stands between MULTI and EXEC", name.to_ascii_uppercase()))
        }
        _ => match name.split_once('|').map_or(name, |(container, _)| container) {
            "acl" => acl::run(connection, name, words).await,
            "client" => return Ok(client::run(connection, name, words).await),
            "cluster" => cluster::run(connection, name, words),
            "command" => command::run(name, words),
            "pubsub" => pubsub::ask(connection, name, words),
            "sentinel" => sentinel::run(connection, name, words),
            _ => server::run(connection, name, words).await,
        },
    };
    Ok(Some(reply))
}

/// Of a command that is listed, and refused whatever its words.
pub(crate) fn not_served(name: &str) -> Reply {
    Reply::error(format!("ERR '{}' is not served here", name.replace('|', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: Option<Result<&str, &str>>) {
        let words: Vec<Blob> = text.split(' ').map(Blob::from).collect();
        let found = own(&words).map(|found| {
            found.map_err(|reply| match reply {
                Reply::Error { text } => text.to_string(),
                other => format!("{other:?}"),
            })
        });
        let wanted = wanted.map(|wanted| wanted.map_err(str::to_owned));
        assert_eq!(found, wanted, "{text}");
    }

    #[test]
    fn names_are_found_in_any_case_with_their_subcommands() {
        check("PING", Some(Ok("ping")));
        check("Client List", Some(Ok("client|list")));
        check("command", Some(Ok("command")));
        check("COMMAND COUNT", Some(Ok("command|count")));
        check("nope", None);
        check("client nope", Some(Err("ERR unknown subcommand 'nope'. Try CLIENT HELP.")));
        check("client", Some(Err("ERR wrong number of arguments for 'client' command")));
        check("select", Some(Err("ERR wrong number of arguments for 'select' command")));
    }
}
