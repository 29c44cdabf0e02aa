//! CLUSTER's answers, so that clients in cluster mode work unmodified where `--redis-cluster` names the nodes.
//!
//! There is one log and there are no slots: every node serves everything. The leader is named as the master of all slots, and the others as its
//! replicas: what clients send there need not be sent on. Where nobody is known to lead, whoever is asked names itself: a client that has lost
//! the leader asks the others, and finds another master. Nothing is ever moved, and commands over keys of several slots are executed as any
//! others.
//!
//! Nodes tell each other where clients reach them. Where a node runs alone, or has heard of nobody yet, it goes by what `--redis-cluster` names.
//!
//! Invariant: a node has the same id in the answers of every node, and after a restart.
//! Called by: `commands::run`, `sentinel`.

use super::not_served;
use crate::connection::Connection;
use crate::gateway::Gateway;
use quorate_runtime::MemberStatus;
use quorate_types::{Blob, Reply};
use std::fmt::Write;
use std::net::IpAddr;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// A leader that was not heard for so long is not named any more: clients would wait for it in vain.
const SILENT_MS: u64 = 1_000;
/// Slots of a Redis cluster.
const SLOTS: u16 = 16_384;

pub(super) fn run(connection: &Connection, name: &str, words: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    let Some(others) = &gateway.config.cluster else {
        return Reply::error("ERR This instance has cluster support disabled");
    };
    let nodes = Nodes::of(gateway, others);
    let Nodes { own, master, replicas } = &nodes;
    match name {
        "cluster|info" => text(&info(gateway, replicas.len() + 1)),
        "cluster|keyslot" => Reply::integer(i64::from(slot(&words[2]))),
        "cluster|myid" | "cluster|myshardid" => Reply::bulk(own.id()),
        "cluster|nodes" => text(&nodes.lines()),
        "cluster|shards" => Reply::array(vec![Reply::map(vec![
            Reply::bulk("slots"),
            Reply::array(vec![Reply::integer(0), Reply::integer(i64::from(SLOTS) - 1)]),
            Reply::bulk("nodes"),
            Reply::array(
                std::iter::once(master.shown("master"))
                    .chain(replicas.iter().map(|node| node.shown("replica")))
                    .collect(),
            ),
        ])]),
        "cluster|slots" => {
            let mut row = vec![Reply::integer(0), Reply::integer(i64::from(SLOTS) - 1), master.listed()];
            row.extend(replicas.iter().map(Node::listed));
            Reply::array(vec![Reply::array(row)])
        }
        "cluster|replicas" | "cluster|slaves" if *words[2] == *master.id().as_bytes() => {
            Reply::array(replicas.iter().map(|node| Reply::bulk(nodes.replica(node))).collect())
        }
        "cluster|replicas" | "cluster|slaves"
            if replicas.iter().any(|node| *words[2] == *node.id().as_bytes()) =>
        {
            Reply::error("ERR The specified node is not a master")
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

/// The nodes as clients are told of them.
pub(super) struct Nodes {
    own: Node,
    pub(super) master: Node,
    /// All others, the one that is asked among them unless it is the master.
    pub(super) replicas: Vec<Node>,
}

impl Nodes {
    /// What is known at this node; `named` says of others only where nothing was heard of any.
    pub(super) fn of(gateway: &Gateway, named: &[String]) -> Self {
        let (host, port) = gateway.advertised();
        let own = Node { host, port };
        let status = gateway.handle.cluster_status();
        // What is told of a loopback address means another machine's own, unless all are on one.
        let told = |member: &MemberStatus| {
            Node::of(&member.doors.redis).filter(|node| own.is_local() || !node.is_local())
        };
        let mut others: Vec<Node> =
            status.iter().flat_map(|status| status.members.iter().filter_map(told)).collect();
        let heard = |member: &&MemberStatus| member.heard_ms.is_some_and(|ago| ago < SILENT_MS);
        let leader = status.as_ref().and_then(|status| {
            let leads = |member: &&MemberStatus| Some(member.member.node) == status.standing.leader;
            status.members.iter().find(leads).filter(heard).and_then(told)
        });
        others.retain(|node| *node != own);
        if others.is_empty() {
            others.extend(named.iter().filter_map(|told| Node::of(told)).filter(|node| *node != own));
        }
        let master = leader.unwrap_or_else(|| own.clone());
        let mut replicas = others;
        replicas.retain(|node| *node != master);
        if master != own {
            replicas.push(own.clone());
        }
        replicas.sort_unstable();
        Self { own, master, replicas }
    }

    /// A line of CLUSTER NODES, of a replica.
    fn replica(&self, node: &Node) -> String {
        let myself = if *node == self.own { "myself," } else { "" };
        node.line(&format!("{myself}slave {} 0 0 1 connected", self.master.id()))
    }

    fn lines(&self) -> String {
        let myself = if self.master == self.own { "myself," } else { "" };
        let mut out = self.master.line(&format!("{myself}master - 0 0 1 connected 0-16383"));
        out.push('\n');
        for node in &self.replicas {
            out += &self.replica(node);
            out.push('\n');
        }
        out
    }
}

/// A node as its clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Node {
    fn of(told: &str) -> Option<Self> {
        let (host, port) = told.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { host, port: port.parse().ok()? })
    }

    /// Whether only programs on the same machine reach it.
    fn is_local(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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

    /// A line of CLUSTER NODES.
    fn line(&self, rest: &str) -> String {
        // The second port is that of a bus that there is not: clients pass over it.
        format!("{} {}:{}@{} {rest}", self.id(), self.host, self.port, self.port)
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
        let id = one.id();
        let nodes = Nodes { own: one.clone(), master: one.clone(), replicas: vec![two.clone()] };
        let lines = nodes.lines();
        assert!(lines.contains("a:1@1 myself,master - 0 0 1 connected 0-16383\n"), "{lines}");
        assert!(lines.ends_with(&format!("::1:6379@6379 slave {id} 0 0 1 connected\n")), "{lines}");
        let lines = Nodes { own: two.clone(), master: one.clone(), replicas: vec![two] }.lines();
        assert!(lines.contains("a:1@1 master - 0 0 1 connected 0-16383\n"), "{lines}");
        assert!(lines.ends_with(&format!("::1:6379@6379 myself,slave {id} 0 0 1 connected\n")), "{lines}");
        assert_eq!(Node::of("nothing"), None);
    }
}
