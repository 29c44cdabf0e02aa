//! A Sentinel's answers, so that clients that look for their master by Sentinel find this node.
//!
//! Every node serves everything; the leader is named as the master, under whatever name, and the others as its replicas. Where nobody is known
//! to lead, the node that is asked names itself. A client that loses its master asks the next "sentinel" of its list, which is another node.
//!
//! Called by: `commands::run`.

use super::cluster::{Node, Nodes};
use super::not_served;
use crate::connection::Connection;
use quorate_types::{Blob, Reply};

pub(super) fn run(connection: &Connection, name: &str, words: &[Blob]) -> Reply {
    let nodes = Nodes::of(&connection.gateway, &[]);
    let Node { host, port } = nodes.master.clone();
    let asked = words.get(2).cloned().unwrap_or_else(|| "mymaster".into());
    match name {
        "sentinel|get-master-addr-by-name" => {
            Reply::array(vec![Reply::bulk(host), Reply::bulk(port.to_string())])
        }
        "sentinel|masters" => Reply::array(vec![master(connection, asked, &nodes)]),
        "sentinel|master" => master(connection, asked, &nodes),
        "sentinel|replicas" | "sentinel|slaves" => {
            Reply::array(nodes.replicas.iter().map(|node| replica(node, &nodes.master)).collect())
        }
        "sentinel|sentinels" => Reply::array(vec![]),
        "sentinel|myid" => Reply::bulk(connection.gateway.run_id.clone()),
        "sentinel|ckquorum" => Reply::status("OK the quorum is that of this cluster: see INFO replication"),
        other => not_served(other),
    }
}

fn replica(node: &Node, master: &Node) -> Reply {
    shown(vec![
        ("name", format!("{}:{}", node.host, node.port).into()),
        ("ip", node.host.as_str().into()),
        ("port", node.port.to_string().into()),
        ("flags", "slave".into()),
        ("role-reported", "slave".into()),
        ("master-link-status", "ok".into()),
        ("master-host", master.host.as_str().into()),
        ("master-port", master.port.to_string().into()),
    ])
}

fn master(connection: &Connection, name: Blob, nodes: &Nodes) -> Reply {
    shown(vec![
        ("name", name),
        ("ip", nodes.master.host.as_str().into()),
        ("port", nodes.master.port.to_string().into()),
        ("runid", connection.gateway.run_id.clone().into()),
        ("flags", "master".into()),
        ("role-reported", "master".into()),
        ("num-slaves", nodes.replicas.len().to_string().into()),
        ("num-other-sentinels", "0".into()),
        ("quorum", "1".into()),
        ("last-ping-reply", "0".into()),
        ("down-after-milliseconds", "30000".into()),
    ])
}

fn shown(fields: Vec<(&str, Blob)>) -> Reply {
    Reply::map(
        fields.into_iter().flat_map(|(field, value)| [Reply::bulk(field), Reply::bulk(value)]).collect(),
    )
}
