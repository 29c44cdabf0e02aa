//! What etcd answers beside its API, to whoever asks by HTTP: the version, the health, and numbers for Prometheus.
//!
//! Invariant: a probe changes nothing and needs no secret; numbers do where the door is closed, as at every other gateway.
//! Called by: `serve`, for requests that are neither gRPC nor below `/v3/`.

use crate::cluster::VERSION;
use crate::error;
use crate::gateway::Gateway;
use crate::json::plain;
use crate::metrics::Calls;
use crate::protocol::etcdserverpb::AlarmType;
use quorate_machine::Machine;
use quorate_node::ClusterStatus;
use quorate_runtime::Consistency;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderValue, Method, StatusCode, header, request::Parts};
use tonic::metadata::MetadataMap;

/// The version that a cluster of this one has: the rules that all its members follow.
const CLUSTER_VERSION: &str = "3.5.0";
/// How often it is looked who leads.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was counted by the probes.
#[derive(Default)]
pub(crate) struct Seen {
    leader: AtomicU64,
    leader_changes: AtomicU64,
    healthy: AtomicU64,
    unhealthy: AtomicU64,
}

/// One thing that a probe looks at.
#[derive(Clone, Copy)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
        }
    }

    async fn run(self, gateway: &Gateway) -> Result<(), String> {
        match self {
            // Replicas compare their trails, and one that differs stops rather than serve.
            Self::DataCorruption => {
                let stopped = gateway.handle.status().stopped.is_some();
                let raised = || gateway.alarms().iter().any(|one| one.alarm() == AlarmType::Corrupt);
                if stopped || raised() { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::SerializableRead => read(gateway, Consistency::Stale).await,
            Self::LinearizableRead => read(gateway, Consistency::Linearizable).await,
        }
    }
}

async fn read(gateway: &Gateway, consistency: Consistency) -> Result<(), String> {
    let read = gateway.look(consistency, Machine::revision).await;
    read.map(drop).map_err(|status| status.message().to_owned())
}

/// Answers what is no call of the API.
pub(crate) async fn answer(gateway: &Arc<Gateway>, calls: &Calls, head: &Parts) -> http::Response<Body> {
    let path = head.uri.path();
    let query = head.uri.query().unwrap_or_default();
    let known = matches!(path, "/version" | "/health" | "/metrics");
    let check = |name: &str| CHECKS.into_iter().find(|check| check.name() == name);
    let (probe, checks) = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "livez"] => ("/livez", vec![Check::SerializableRead]),
        ["", "readyz"] => ("/readyz", CHECKS.to_vec()),
        ["", "livez", "serializable_read"] => ("/livez/serializable_read", vec![Check::SerializableRead]),
        ["", "readyz", name] => match check(name) {
            Some(check) => (path, vec![check]),
            None => return plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
        _ if known => (path, Vec::new()),
        _ => return plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if head.method != Method::GET {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match probe {
        "/version" => {
            let text = format!("{{\"etcdserver\":\"{VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\"}}");
            typed(plain(StatusCode::OK, text), "application/json")
        }
        "/health" => gateway.seen.told(health(gateway, query).await),
        "/metrics" => metrics(gateway, calls, head),
        _ => gateway.seen.told(checked(gateway, &checks, query).await),
    }
}

const CHECKS: [Check; 3] = [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead];

fn typed(mut answer: http::Response<Body>, kind: &'static str) -> http::Response<Body> {
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The values of a parameter; the empty one where it is there without.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}

/// etcd's `/health`: nothing is alarmed, a leader is known, a read is answered.
async fn health(gateway: &Gateway, query: &str) -> http::Response<Body> {
    let serializable = values(query, "serializable").next() == Some("true");
    let excluded = |alarm: &str| values(query, "exclude").any(|value| value == alarm);
    let consistency = if serializable { Consistency::Stale } else { Consistency::Linearizable };
    let alarms = gateway.alarms();
    let alarm = alarms.iter().map(|one| one.alarm().as_str_name()).find(|alarm| !excluded(alarm));
    let reason = if let Some(alarm) = alarm {
        format!("ALARM {}", if alarm == AlarmType::None.as_str_name() { "UNKNOWN" } else { alarm })
    } else if !serializable && leader(gateway) == 0 {
        "RAFT NO LEADER".to_owned()
    } else {
        read(gateway, consistency).await.err().map(|why| format!("RANGE ERROR:{why}")).unwrap_or_default()
    };
    if reason.is_empty() {
        return plain(StatusCode::OK, "{\"health\":\"true\",\"reason\":\"\"}");
    }
    let reason = reason.replace(['"', '\\'], "'");
    plain(StatusCode::SERVICE_UNAVAILABLE, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"))
}

/// `/livez` and `/readyz`, as etcd has them since 3.5.11.
async fn checked(gateway: &Gateway, checks: &[Check], query: &str) -> http::Response<Body> {
    let (mut text, mut failed) = (String::new(), false);
    for check in checks.iter().filter(|check| values(query, "exclude").all(|value| value != check.name())) {
        let done = match check.run(gateway).await {
            Ok(()) => writeln!(text, "[+]{} ok", check.name()),
            Err(why) => {
                failed = true;
                writeln!(text, "[-]{} failed: {why}", check.name())
            }
        };
        done.expect("a string takes everything");
    }
    if failed {
        return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"));
    }
    let verbose = values(query, "verbose").next().is_some();
    plain(StatusCode::OK, if verbose { format!("{text}ok\n") } else { "ok\n".to_owned() })
}

/// Who leads as far as this node knows; 0 for nobody.
fn leader(gateway: &Gateway) -> u64 {
    leader_of(gateway.handle.cluster_status().as_ref())
}

fn leader_of(cluster: Option<&ClusterStatus>) -> u64 {
    // A node alone leads itself.
    cluster.map_or(1, |cluster| cluster.standing.leader.map_or(0, |node| node.0))
}

impl Seen {
    fn told(&self, answer: http::Response<Body>) -> http::Response<Body> {
        let counter = if answer.status().is_success() { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Looks from time to time who leads, as long as nobody ends it.
    pub(crate) async fn watch(gateway: &Gateway) {
        loop {
            let now = leader(gateway);
            let before = gateway.seen.leader.swap(now, Ordering::Relaxed);
            if now != 0 && now != before {
                gateway.seen.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn metrics(gateway: &Arc<Gateway>, calls: &Calls, head: &Parts) -> http::Response<Body> {
    let allowed =
        gateway.principal_here(&MetadataMap::from_headers(head.headers.clone()), None).and_then(|who| {
            let rights = gateway.handle.rights(&who).map_err(|why| error::runtime(&why))?;
            rights.command("info").map_err(|denied| error::denied(&denied))
        });
    if let Err(status) = allowed {
        let code = match status.code() {
            tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
            tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        };
        return plain(code, format!("{}\n", status.message()));
    }
    let own = gateway.handle.metrics();
    let text = numbers(gateway, &own) + &calls.text() + &own;
    typed(plain(StatusCode::OK, text), "text/plain; version=0.0.4; charset=utf-8")
}

/// The numbers that dashboards and alerts of etcd ask for, those that are true here; `own` are the runtime's.
fn numbers(gateway: &Gateway, own: &str) -> String {
    let (status, cluster) = (gateway.handle.status(), gateway.handle.cluster_status());
    let header = gateway.header(status.revision);
    let standing = cluster.as_ref().map(|cluster| &cluster.standing);
    let committed = cluster.as_ref().map_or(status.applied.0, |cluster| cluster.committed.0);
    let in_use = (status.sizes.element_bytes + status.sizes.history_bytes).min(status.log_bytes);
    let learner = gateway.members().iter().any(|member| member.id == header.member_id && member.is_learner);
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut out = String::new();
    for (name, kind, help, value) in [
        (
            "server_has_leader",
            "gauge",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            u64::from(leader_of(cluster.as_ref()) != 0),
        ),
        (
            "server_is_leader",
            "gauge",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            u64::from(standing.is_none_or(|standing| standing.leads)),
        ),
        (
            "server_is_learner",
            "gauge",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            u64::from(learner),
        ),
        (
            "server_leader_changes_seen_total",
            "counter",
            "The number of leader changes seen.",
            read(&gateway.seen.leader_changes),
        ),
        (
            "server_proposals_committed_total",
            "gauge",
            "The total number of consensus proposals committed.",
            committed,
        ),
        (
            "server_proposals_applied_total",
            "gauge",
            "The total number of consensus proposals applied.",
            status.applied.0,
        ),
        (
            "server_proposals_pending",
            "gauge",
            "The current number of pending proposals to commit.",
            status.waiting,
        ),
        (
            "server_health_success",
            "counter",
            "The total number of successful health checks.",
            read(&gateway.seen.healthy),
        ),
        (
            "server_health_failures",
            "counter",
            "The total number of failed health checks.",
            read(&gateway.seen.unhealthy),
        ),
        ("mvcc_db_total_size_in_bytes", "gauge", "Total size of the log's files in bytes.", status.log_bytes),
        (
            "mvcc_db_total_size_in_use_in_bytes",
            "gauge",
            "Bytes of elements and history, at most those of the files.",
            in_use,
        ),
        (
            "debugging_mvcc_keys_total",
            "gauge",
            "Total number of keys, those of other protocols included.",
            status.sizes.keys,
        ),
        ("debugging_mvcc_current_revision", "gauge", "The current revision of store.", status.revision.0),
        (
            "debugging_mvcc_compact_revision",
            "gauge",
            "The revision of the last compaction in store.",
            status.oldest_revision.0,
        ),
    ] {
        let _ = writeln!(out, "# HELP etcd_{name} {help}\n# TYPE etcd_{name} {kind}\netcd_{name} {value}");
    }
    let id = format!("{:x}", header.member_id);
    for (name, label, value) in [
        ("server_id", "server_id", id.as_str()),
        ("server_version", "server_version", VERSION),
        ("cluster_version", "cluster_version", "3.5"),
    ] {
        let _ = writeln!(out, "# TYPE etcd_{name} gauge\netcd_{name}{{{label}=\"{value}\"}} 1");
    }
    // Under the name that Go's programs have for it: `etcdctl check datascale` asks for it.
    if let Some(bytes) = quorate_runtime::resident_bytes() {
        let name = "process_resident_memory_bytes";
        let help = "Resident memory size in bytes, of all that this node serves.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {bytes}");
    }
    // A group commit's write and sync is what etcd measures as its write-ahead log's.
    for line in own.lines().filter(|line| line.contains(SYNCS)) {
        let _ = writeln!(out, "{}", line.replace(SYNCS, "etcd_disk_wal_fsync_duration_seconds"));
    }
    out
}

/// The runtime's own name for it.
const SYNCS: &str = "quorate_log_write_seconds";
