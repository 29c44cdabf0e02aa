//! CLUSTER's answers, so that clients in cluster mode work unmodified where `--redis-cluster` names the nodes.
//!
//! There is one log and there are no slots: every node serves everything. So whichever is asked names itself as the master of all slots, and the
//! others as its replicas: a client that loses it asks those, and finds another master. Nothing is ever moved, and commands over keys of
//! several slots are executed as any others.
//!
//! Invariant: a node has the same id in the answers of every node, and after a restart.
//! Called by: `commands::run`.

use super::not_served;
use crate::connection::Connection;
use crate::gateway::Gateway;
use quorate_types::{Blob, Reply};
use std::fmt::Write;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Slots of a Redis cluster.
const SLOTS: u16 = 16_384;

pub(super) fn run(connection: &Connection, name: &str, words: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    let Some(others) = &gateway.config.cluster else {
        return Reply::error("ERR This instance has cluster support disabled");
    };
    let (host, port) = gateway.advertised();
    let own = Node { host, port };
    let others = others.iter().filter_map(|told| Node::of(told)).filter(|node| *node != own);
    let others: Vec<Node> = others.collect();
    match name {
        "cluster|info" => text(&info(gateway, others.len() + 1)),
        "cluster|keyslot" => Reply::integer(i64::from(slot(&words[2]))),
        "cluster|myid" | "cluster|myshardid" => Reply::bulk(own.id()),
        "cluster|nodes" => text(&own.lines(&others)),
        "cluster|shards" => Reply::array(vec![Reply::map(vec![
            Reply::bulk("slots"),
            Reply::array(vec![Reply::integer(0), Reply::integer(i64::from(SLOTS) - 1)]),
            Reply::bulk("nodes"),
            Reply::array(
                std::iter::once(own.shown("master"))
                    .chain(others.iter().map(|node| node.shown("replica")))
                    .collect(),
            ),
        ])]),
        "cluster|slots" => {
            let mut row = vec![Reply::integer(0), Reply::integer(i64::from(SLOTS) - 1), own.listed()];
            row.extend(others.iter().map(Node::listed));
            Reply::array(vec![Reply::array(row)])
        }
        "cluster|replicas" | "cluster|slaves" if *words[2] == *own.id().as_bytes() => {
            let lines = others.iter().map(|node| Reply::bulk(node.line(&own.replica())));
            Reply::array(lines.collect())
        }
        "cluster|replicas" | "cluster|slaves" => {
            Reply::error(format!("ERR Unknown node {}", String::from_utf8_lossy(&words[2])))
        }
        "cluster|countkeysinslot" | "cluster|getkeysinslot" => {
            Reply::error("ERR keys are not kept by slots here: SCAN finds them all, on any node")
        }
        other => not_served(other),
    }
}

fn text(text: &str) -> Reply {
    Reply::Verbatim { format: "txt".into(), text: text.into() }
}

/// Whether this node can do what it is asked, as clients in cluster mode want to know it.
fn info(gateway: &Gateway, nodes: usize) -> String {
    let leads = gateway.handle.cluster_status().is_none_or(|status| status.standing.leader.is_some());
    let state = if leads { "ok" } else { "fail" };
    let slots = if leads { SLOTS } else { 0 };
    let mut out = String::new();
    for (name, value) in [
        ("cluster_enabled", "1".to_owned()),
        ("cluster_state", state.to_owned()),
        ("cluster_slots_assigned", SLOTS.to_string()),
        ("cluster_slots_ok", slots.to_string()),
        ("cluster_slots_pfail", "0".to_owned()),
        ("cluster_slots_fail", (SLOTS - slots).to_string()),
        ("cluster_known_nodes", nodes.to_string()),
        ("cluster_size", "1".to_owned()),
        ("cluster_current_epoch", "1".to_owned()),
        ("cluster_my_epoch", "1".to_owned()),
    ] {
        let _ = write!(out, "{name}:{value}\r\n"); // A string takes everything.
    }
    out
}

/// A node as its clients reach it.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    host: String,
    port: u16,
}

impl Node {
    fn of(told: &str) -> Option<Self> {
        let (host, port) = told.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { host, port: port.parse().ok()? })
    }

    /// Forty hexadecimal digits that follow from its address.
    fn id(&self) -> String {
        let address = format!("{}:{}", self.host, self.port);
        format!("{:032x}{:08x}", xxh3_128(address.as_bytes()), xxh3_64(address.as_bytes()) as u32)
    }

    fn listed(&self) -> Reply {
        Reply::array(vec![
            Reply::bulk(self.host.clone()),
            Reply::integer(i64::from(self.port)),
            Reply::bulk(self.id()),
            Reply::array(vec![]),
        ])
    }

    fn shown(&self, role: &'static str) -> Reply {
        Reply::map(vec![
            Reply::bulk("id"),
            Reply::bulk(self.id()),
            Reply::bulk("port"),
            Reply::integer(i64::from(self.port)),
            Reply::bulk("ip"),
            Reply::bulk(self.host.clone()),
            Reply::bulk("endpoint"),
            Reply::bulk(self.host.clone()),
            Reply::bulk("role"),
            Reply::bulk(role),
            Reply::bulk("replication-offset"),
            Reply::integer(0),
            Reply::bulk("health"),
            Reply::bulk("online"),
        ])
    }

    /// What CLUSTER NODES says of a replica of this one.
    fn replica(&self) -> String {
        format!("slave {} 0 0 1 connected", self.id())
    }

    /// A line of CLUSTER NODES.
    fn line(&self, rest: &str) -> String {
        // The second port is that of a bus that there is not: clients pass over it.
        format!("{} {}:{}@{} {rest}", self.id(), self.host, self.port, self.port)
    }

    fn lines(&self, others: &[Self]) -> String {
        let mut out = self.line("myself,master - 0 0 1 connected 0-16383\n");
        for node in others {
            out += &node.line(&self.replica());
            out.push('\n');
        }
        out
    }
}

/// The slot of a key: CRC-16 (XMODEM) of its name, or of what stands in its first braces, if anything does.
fn slot(name: &[u8]) -> u16 {
    let open = name.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let rest = &name[open + 1..];
        rest.iter().position(|byte| *byte == b'}').map(|end| &rest[..end]).filter(|tag| !tag.is_empty())
    });
    let mut crc: u16 = 0;
    for byte in tag.unwrap_or(name) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        for (name, wanted) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("{foo}bar", 12182),
            ("x{foo}{bar}", 12182),
            ("", 0),
            ("{}foo", 9500),
            ("{foo", 13308),
        ] {
            assert_eq!(slot(name.as_bytes()), wanted % SLOTS, "{name}");
        }
    }

    #[test]
    fn a_node_is_the_same_to_all() {
        let [one, two] = ["a:1", "[::1]:6379"].map(|told| Node::of(told).unwrap());
        assert_eq!((one.id().len(), two.host.as_str()), (40, "::1"));
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id(), Node::of("a:1").unwrap().id());
        let lines = one.lines(&[two]);
        assert!(lines.contains("a:1@1 myself,master - 0 0 1 connected 0-16383\n"), "{lines}");
        assert!(lines.ends_with(&format!("::1:6379@6379 slave {} 0 0 1 connected\n", one.id())), "{lines}");
        assert_eq!(Node::of("nothing"), None);
    }
}
