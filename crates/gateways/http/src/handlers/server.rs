//! The server itself: health, status, metrics, why, backup, compaction, its own description.

use crate::call::{Answer, Call, unexpected};
use crate::cluster;
use crate::error::{Place, Problem, Retry};
use crate::handlers::standing::Standing;
use crate::json::show;
use crate::json::units::time_text;
use crate::json::write::{Object, Values, quoted};
use crate::openapi;
use crate::reply::{reply, reply_as};
use quorate_runtime::{RuntimeError, WhyRecord, WhyVerdict, WhyWhat};
use quorate_types::{CommandBody, GroupName, Key, LeaseId, LockName, Outcome, Revision, Subject, TaskName};
use std::path::PathBuf;
use std::time::Duration;

/// Whether the process lives.
pub(crate) async fn healthz(_: Call) -> Answer {
    Ok(reply(200, Object::new().text("status", "alive").done()))
}

/// How long a node that is ready may take to confirm a read.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Whether it serves: a linearizable read comes back within a second. Else what is missing.
pub(crate) async fn readyz(call: Call) -> Answer {
    let handle = &call.gateway.handle;
    let missing = match tokio::time::timeout(READY_WITHIN, handle.ready()).await {
        Ok(Ok(())) => {
            let revision = handle.status().revision;
            return Ok(reply(200, Object::new().text("status", "ready").plain("revision", revision).done()));
        }
        Ok(Err(RuntimeError::NoLeader { why })) => why,
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            let known = handle.cluster_status().and_then(|status| status.missing);
            known.unwrap_or_else(|| "no read was confirmed within a second".to_owned())
        }
    };
    let problem = Problem::new(503, "not_ready", format!("not ready: {missing}"));
    Err(problem.retry(Retry::Same).with("missing", quoted(&missing)))
}

/// Counters of node, log, machine and gateway.
pub(crate) async fn metrics(call: Call) -> Answer {
    let handle = &call.gateway.handle;
    let cluster = handle.cluster_status().map(|status| cluster::metrics(&status)).unwrap_or_default();
    let text = handle.metrics() + &cluster + &call.gateway.metrics.text();
    Ok(reply_as(200, "text/plain; version=0.0.4; charset=utf-8", text))
}

/// The OpenAPI document.
pub(crate) async fn openapi(_: Call) -> Answer {
    Ok(reply(200, openapi::document().to_string()))
}

/// Forgets the history of keys before a revision.
pub(crate) async fn compact(call: Call) -> Answer {
    let before =
        call.json(|node| node.object(|fields| fields.need("before", |node| node.number().map(Revision))))?;
    match call.send(CommandBody::Compact { before }).await? {
        Outcome::Done { revision } => Ok(reply(200, Object::new().plain("revision", revision).done())),
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        other => Err(unexpected(&other)),
    }
}

/// State of the server, and every bound in force.
pub(crate) async fn status(call: Call) -> Answer {
    let handle = &call.gateway.handle;
    let (status, config) = (handle.status(), handle.config());
    let sizes = Object::new()
        .plain("keys", status.sizes.keys)
        .plain("history_bytes", status.sizes.history_bytes)
        .plain("leases", status.sizes.leases)
        .plain("locks", status.sizes.locks)
        .plain("idempotency_records", status.sizes.idempotency_records)
        .plain("idempotency_bytes", status.sizes.idempotency_bytes)
        .plain("limits", status.sizes.limits)
        .plain("timers", status.sizes.tasks)
        .plain("streams", status.sizes.streams);
    let limits = &config.limits;
    let bounds = Object::new()
        .plain("name_bytes_max", limits.name_bytes_max)
        .plain("value_bytes_max", limits.value_bytes_max)
        .plain("payload_bytes_max", limits.payload_bytes_max)
        .plain("command_bytes_max", limits.command_bytes_max)
        .plain("operations_max", limits.operations_max)
        .plain("guards_max", limits.guards_max)
        .plain("depth_max", limits.depth_max)
        .plain("lease_ttl_ms_min", limits.lease_ttl_ms_min)
        .plain("ttl_ms_max", limits.ttl_ms_max)
        .plain("partitions_max", limits.partitions_max)
        .plain("take_max", limits.take_max)
        .plain("waiting_commands_max", config.waiting_commands_max)
        .plain("waiting_bytes_max", config.waiting_bytes_max)
        .plain("history_revisions", config.settings.history_revisions)
        .plain("history_age_ms", config.settings.history_age)
        .plain("history_bytes_max", config.settings.history_bytes_max)
        .plain("idempotency_bytes_max", config.settings.idempotency_bytes_max);
    let body = Object::new()
        .text("version", env!("CARGO_PKG_VERSION"))
        .text("durability", &format!("{:?}", config.durability).to_lowercase())
        .plain("revision", status.revision)
        .plain("oldest_revision", status.oldest_revision)
        .plain("applied", status.applied)
        .plain("snapshot", status.snapshot)
        .text("time", &time_text(status.wall))
        .plain("commands", status.commands)
        .plain("refused", status.refused)
        .plain("not_admitted", status.not_admitted)
        .plain("waiting", status.waiting)
        .plain("readers", status.readers)
        .plain("log_bytes", status.log_bytes)
        .plain("log_first", status.log_first)
        .plain("disk_low", status.disk_low)
        .plain("memory_low", status.memory_low)
        .json("sizes", sizes.done())
        .json("bounds", bounds.done())
        .json("http", call.gateway.config.listed());
    Ok(reply(200, body.done()))
}

/// Writes a backup to a folder of the server, which must be new or empty.
pub(crate) async fn backup(call: Call) -> Answer {
    let path = call.json(|node| node.object(|fields| fields.need("path", |node| node.text())))?;
    let report = call
        .gateway
        .handle
        .backup(PathBuf::from(&path))
        .await
        .map_err(|error| Problem::new(409, "backup_failed", error.to_string()))?;
    let body = Object::new()
        .text("path", &path)
        .plain("files", report.files)
        .plain("bytes", report.bytes)
        .plain("entries", report.verified.entries)
        .plain("last", report.verified.last.0);
    Ok(reply(200, body.done()))
}

/// Explains how something came to be as it is: the newest steps of its history, oldest first.
pub(crate) async fn why(call: Call) -> Answer {
    let kind = call.param("kind");
    let subject = subject(&call, &kind.to_string())?;
    let max = call.query_number("limit")?.unwrap_or(100).clamp(1, call.gateway.config.read_records_max);
    let standing = call.read(|machine| Standing::of(machine, &subject)).await?;
    let records = call.gateway.handle.why(subject, max).await?;
    let state = standing.map(|standing| standing.shown(&records, call.values));
    let body = Object::new()
        .text("kind", &kind.to_string())
        .bytes("name", &call.param("name"), call.values)
        .when(state.is_some(), |o| o.json("state", state.as_deref().unwrap_or_default()))
        .list("steps", records.iter().map(|record| step(record, call.values)));
    Ok(reply(200, body.done()))
}

fn subject(call: &Call, kind: &str) -> Result<Subject, Problem> {
    let name = call.param("name");
    Ok(match kind {
        "key" => Subject::Key { key: Key::new(name) },
        "lock" | "election" => Subject::Lock { lock: LockName(name) },
        "limit" => Subject::Limit { limit: name.into() },
        "idempotency" => Subject::Idempotency { key: name.into() },
        "stream" => Subject::Stream { stream: Key::new(name) },
        "timer" => Subject::Task { task: TaskName(name) },
        "service" => Subject::Service { service: name.into() },
        "group" => Subject::Group { group: GroupName(name) },
        "transaction" => Subject::Transaction { name },
        "lease" => Subject::Lease { lease: LeaseId(call.param_number("name")?) },
        other => {
            return Err(Problem::not_found(
                "unknown_kind",
                format!(
                    "\"{other}\" has no history; known: key, lock, election, limit, idempotency, stream, timer, service, group, transaction, lease"
                ),
            ));
        }
    })
}

fn step(record: &WhyRecord, values: Values) -> String {
    let object = Object::new()
        .plain("index", record.index)
        .text("time", &time_text(record.wall))
        .bytes("principal", &record.principal.0, values)
        .when(!record.client.is_empty(), |o| o.bytes("client", &record.client, values))
        .when(!record.trace.is_empty(), |o| o.bytes("traceparent", &record.trace, values));
    let object = match &record.what {
        WhyWhat::Command(body) => command(body, object, values),
        WhyWhat::Fired(task) => object.text("what", "timer_fired").bytes("task", &task.0, values),
        WhyWhat::Automatic(change) => object
            .text("what", "followed")
            .bytes("key", &change.key.name, values)
            .text("kind", if change.deleted { "delete" } else { "put" }),
    };
    match &record.verdict {
        WhyVerdict::Done(revision) => object.text("verdict", "done").plain("revision", *revision),
        WhyVerdict::Replayed => object.text("verdict", "replayed"),
        WhyVerdict::Refused(Some(refusal)) => object
            .text("verdict", "refused")
            .json("refusal", Problem::of_refusal(refusal, Place::Commit).body()),
        WhyVerdict::Refused(None) => object.text("verdict", "refused"),
        WhyVerdict::Unknown => object.text("verdict", "unknown"),
    }
    .done()
}

fn command(body: &CommandBody, object: Object, values: Values) -> Object {
    match body {
        CommandBody::Commit { commit } => {
            object.text("what", "commit").json("commit", show::commit(commit, values))
        }
        CommandBody::Wait { wait } => object
            .text("what", "wait")
            .bytes("lock", &wait.lock.0, values)
            .plain("lease", wait.lease)
            .plain("request", wait.request),
        CommandBody::CancelWait { lock, lease, request } => object
            .text("what", "cancel_wait")
            .bytes("lock", &lock.0, values)
            .plain("lease", *lease)
            .plain("request", *request),
        CommandBody::KeepAlive { leases } => {
            object.text("what", "keep_alive").list("leases", leases.iter().map(|lease| lease.to_string()))
        }
        CommandBody::Resolve { key, .. } => object.text("what", "resolve").bytes("key", &key.0, values),
        CommandBody::Compact { before } => object.text("what", "compact").plain("before", *before),
        CommandBody::Denied { name, count } => {
            object.text("what", "denied").bytes("limit", &name.0, values).plain("count", *count)
        }
        CommandBody::RaiseRevision { to } => object.text("what", "raise_revision").plain("to", *to),
        CommandBody::RaiseVersion { to } => object.text("what", "raise_version").plain("to", u64::from(*to)),
        CommandBody::ChangeUser { name, changes, .. } => object
            .text("what", "change_user")
            .bytes("user", name, values)
            .list("changes", changes.iter().map(|change| quoted(change.kind()))),
        CommandBody::RemoveUsers { names, .. } => object
            .text("what", "remove_users")
            .list("users", names.iter().map(|name| quoted(&name.to_string()))),
        CommandBody::ChangeAccess { change, .. } => {
            let (kind, name) = change.told();
            let object = object.text("what", "change_access").text("change", kind);
            match name {
                Some(name) => object.bytes("name", name, values),
                None => object,
            }
        }
        CommandBody::Alarm { member, kind, up } => {
            object.text("what", "alarm").plain("member", member.0).text("alarm", kind.name()).plain("up", *up)
        }
        CommandBody::Configure { .. } => object.text("what", "configure"),
        CommandBody::LimitMemory { space, bytes_max, eviction } => object
            .text("what", "limit_memory")
            .plain("keyspace", u64::from(space.0))
            .plain("bytes_max", bytes_max.unwrap_or_default())
            .text("eviction", eviction.unwrap_or_default().name()),
        CommandBody::Evict { space, keys } => object
            .text("what", "evict")
            .plain("keyspace", u64::from(space.0))
            .plain("keys", keys.len() as u64),
    }
}
