//! The cluster as clients and operators are told it: the leader's address on every answer, its state as JSON and as metrics.
//!
//! Invariant: looking for the leader costs an answer a short lock and a copy of a few bytes; the node is asked at most every
//! [`FRESH`].
//! Called by: `dispatch`, `handlers::cluster`, `handlers::server`.

use crate::json::write::{Object, list};
use hyper::header::HeaderValue;
use quorate_runtime::{ClusterStatus, Handle, MemberStatus};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old the leader's address may be. It is a hint: whoever follows an old one is served all the same.
const FRESH: Duration = Duration::from_millis(50);

/// Where the leader is, as last seen.
#[derive(Default)]
pub(crate) struct Leader {
    seen: Mutex<Option<(Instant, Option<HeaderValue>)>>,
}

impl Leader {
    /// The value of `Quorate-Leader`; nothing on a node that runs alone, or while no leader is known.
    pub(crate) fn header(&self, handle: &Handle) -> Option<HeaderValue> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((at, leader)) if now.duration_since(*at) < FRESH => leader.clone(),
            _ => {
                // A URL that no header can hold is of no use to a client either.
                let url = handle.leader_url().filter(|url| !url.is_empty());
                let leader = url.and_then(|url| HeaderValue::from_str(&url).ok());
                *seen = Some((now, leader.clone()));
                leader
            }
        }
    }
}

/// The state of the cluster as JSON. `peers` are the nodes that this one was started with.
pub(crate) fn json(status: &ClusterStatus, peers: &[(u64, String)]) -> String {
    let text = |object: Object, name: &str, text: Option<&str>| match text {
        Some(text) => object.text(name, text),
        None => object.json(name, "null"),
    };
    let object =
        Object::new().plain("node", status.node.0).text("cluster", &format!("{:016x}", status.cluster.0));
    let object = object.plain("term", status.standing.term.0);
    let object = maybe(object, "leader", status.standing.leader.map(|leader| leader.0));
    let object = text(object, "leader_url", status.leader_url.as_deref());
    let object = object.plain("recovering", status.recovering);
    let object = text(object, "missing", status.missing.as_deref());
    let peers =
        peers.iter().map(|(node, address)| Object::new().plain("id", *node).text("address", address).done());
    object
        .plain("committed", status.committed)
        .plain("last", status.last)
        .list("members", status.members.iter().map(member))
        .json("peers", list(peers))
        .done()
}

fn member(status: &MemberStatus) -> String {
    let object = Object::new()
        .plain("id", status.member.node.0)
        .text("address", &status.member.address)
        .text("http", &status.url)
        .text("role", &role(status));
    let object = maybe(object, "matched", status.matched.map(|matched| matched.0));
    let object = object.plain("applied", status.applied);
    let object = maybe(object, "heard_ms", status.heard_ms);
    let object = object.plain("copying", status.copying).plain("recovering", status.recovering);
    match status.ahead_ms {
        Some(ahead) => object.json("clock_ahead_ms", ahead.to_string()),
        None => object.json("clock_ahead_ms", "null"),
    }
    .done()
}

fn maybe(object: Object, name: &str, number: Option<u64>) -> Object {
    match number {
        Some(number) => object.plain(name, number),
        None => object.json(name, "null"),
    }
}

/// What a member may do, in one word: `voter`, `learner` or `leaving`.
fn role(status: &MemberStatus) -> String {
    format!("{:?}", status.member.role).to_lowercase()
}

/// The state of the cluster in Prometheus' text format.
pub(crate) fn metrics(status: &ClusterStatus) -> String {
    let mut out = String::new();
    let standing = &status.standing;
    for (name, help, value) in [
        ("term", "Term of consensus: it rises with every election.", standing.term.0),
        ("is_leader", "1 on the node that leads.", u64::from(standing.leads)),
        ("has_leader", "1 while a leader is known.", u64::from(standing.leader.is_some())),
        ("committed_index", "Last log index known to be committed.", status.committed.0),
        ("last_index", "Last log index of this node's log.", status.last.0),
        ("members", "Members of the cluster.", status.members.len() as u64),
        (
            "voters",
            "Members that count for the quorum.",
            status.members.iter().filter(|member| role(member) == "voter").count() as u64,
        ),
        (
            "recovering",
            "1 while this node does not vote because it may have lost what it acknowledged.",
            u64::from(status.recovering),
        ),
    ] {
        let _ = writeln!(
            out,
            "# HELP quorate_raft_{name} {help}\n# TYPE quorate_raft_{name} gauge\nquorate_raft_{name} {value}"
        );
    }
    let mut peers = |name: &str, help: &str, value: &dyn Fn(&MemberStatus) -> Option<f64>| {
        let _ = writeln!(out, "# HELP quorate_raft_{name} {help}\n# TYPE quorate_raft_{name} gauge");
        for member in status.members.iter().filter(|member| member.member.node != status.node) {
            if let Some(value) = value(member) {
                let _ = writeln!(out, "quorate_raft_{name}{{node=\"{}\"}} {value}", member.member.node);
            }
        }
    };
    peers("peer_matched", "Last log index known to be on the peer's disk; on the leader only.", &|member| {
        member.matched.map(|matched| matched.0 as f64)
    });
    peers("peer_applied", "Last log index that the peer told to have applied.", &|member| {
        Some(member.applied.0 as f64)
    });
    peers("peer_heard_seconds", "Time since the peer was last heard; absent until it was.", &|member| {
        member.heard_ms.map(|heard| heard as f64 / 1000.0)
    });
    peers("peer_clock_ahead_seconds", "How far the peer's wall clock is ahead.", &|member| {
        member.ahead_ms.map(|ahead| ahead as f64 / 1000.0)
    });
    out
}
