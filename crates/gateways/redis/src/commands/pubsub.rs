//! SUBSCRIBE and its like, and PUBSUB.
//!
//! Called by: `commands::run`.

use super::not_served;
use crate::connection::Connection;
use crate::gateway::locked;
use crate::pubsub::Kind;
use crate::resp;
use quorate_types::{Blob, Reply};

/// Subscribes, or unsubscribes: one confirmation for each name.
pub(super) fn change(connection: &mut Connection, name: &'static str, names: &[Blob]) {
    let (kind, on) = match name {
        "subscribe" => (Kind::Channel, true),
        "unsubscribe" => (Kind::Channel, false),
        "psubscribe" => (Kind::Pattern, true),
        "punsubscribe" => (Kind::Pattern, false),
        "ssubscribe" => (Kind::Shard, true),
        _ => (Kind::Shard, false),
    };
    let all: Vec<Blob> = if names.is_empty() {
        connection.state.names(kind).iter().cloned().collect()
    } else {
        names.to_vec()
    };
    if all.is_empty() {
        return confirm(connection, kind, on, None);
    }
    for name in all {
        if on {
            connection.state.names(kind).insert(name.clone());
            let protocol = connection.state.protocol;
            locked(&connection.gateway.subscriptions).add(kind, &name, &connection.client, protocol);
        } else {
            connection.state.names(kind).remove(&name);
            locked(&connection.gateway.subscriptions).remove(kind, &name, connection.client.id);
        }
        confirm(connection, kind, on, Some(&name));
    }
    connection.gateway.listen();
}

fn confirm(connection: &mut Connection, kind: Kind, on: bool, name: Option<&Blob>) {
    let state = &connection.state;
    let count = match kind {
        Kind::Shard => state.shards.len(),
        Kind::Channel | Kind::Pattern => state.channels.len() + state.patterns.len(),
    };
    let protocol = state.protocol;
    let out = &mut connection.out;
    resp::push_head(3, protocol, out);
    resp::bulk(kind.word(on).as_bytes(), out);
    resp::write(&Reply::bulk_or_nil(name.cloned()), protocol, out);
    resp::number(b':', count as i64, out);
}

/// PUBSUB.
pub(super) fn ask(connection: &Connection, name: &str, words: &[Blob]) -> Reply {
    let all = locked(&connection.gateway.subscriptions);
    let sharded = name.contains("shard");
    match name {
        "pubsub|channels" | "pubsub|shardchannels" => {
            Reply::array(all.channels(sharded, words.get(2)).into_iter().map(Reply::bulk).collect())
        }
        "pubsub|numsub" | "pubsub|shardnumsub" => Reply::map(
            words[2..]
                .iter()
                .flat_map(|channel| [Reply::bulk(channel.clone()), Reply::count(all.count(sharded, channel))])
                .collect(),
        ),
        "pubsub|numpat" => Reply::count(all.patterns()),
        other => not_served(other),
    }
}
