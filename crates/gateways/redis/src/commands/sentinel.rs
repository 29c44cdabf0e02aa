//! A Sentinel's answers, so that clients that look for their master by Sentinel find this node.
//!
//! Every node serves everything: whichever is asked names itself as the master, under whatever name, without replicas. A client that
//! loses it asks the next "sentinel" of its list, which is another node.
//!
//! Called by: `commands::run`.

use super::not_served;
use crate::connection::Connection;
use quorate_types::{Blob, Reply};

pub(super) fn run(connection: &Connection, name: &str, words: &[Blob]) -> Reply {
    let (host, port) = connection.gateway.advertised();
    let asked = words.get(2).cloned().unwrap_or_else(|| "mymaster".into());
    match name {
        "sentinel|get-master-addr-by-name" => {
            Reply::array(vec![Reply::bulk(host), Reply::bulk(port.to_string())])
        }
        "sentinel|masters" => Reply::array(vec![master(connection, asked, &host, port)]),
        "sentinel|master" => master(connection, asked, &host, port),
        "sentinel|replicas" | "sentinel|slaves" | "sentinel|sentinels" => Reply::array(vec![]),
        "sentinel|myid" => Reply::bulk(connection.gateway.run_id.clone()),
        "sentinel|ckquorum" => Reply::status("OK the quorum is that of this cluster: see INFO replication"),
        other => not_served(other),
    }
}

fn master(connection: &Connection, name: Blob, host: &str, port: u16) -> Reply {
    let fields: [(&str, Blob); 11] = [
        ("name", name),
        ("ip", host.into()),
        ("port", port.to_string().into()),
        ("runid", connection.gateway.run_id.clone().into()),
        ("flags", "master".into()),
        ("role-reported", "master".into()),
        ("num-slaves", "0".into()),
        ("num-other-sentinels", "0".into()),
        ("quorum", "1".into()),
        ("last-ping-reply", "0".into()),
        ("down-after-milliseconds", "30000".into()),
    ];
    Reply::map(
        fields.into_iter().flat_map(|(field, value)| [Reply::bulk(field), Reply::bulk(value)]).collect(),
    )
}
