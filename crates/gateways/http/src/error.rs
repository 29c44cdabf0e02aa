//! The one place that turns what went wrong into a status and problem+json (RFC 9457).
//!
//! Every problem answers three questions: what was found and wanted, whether it took effect (`took_effect`: `no` or
//! `unknown`), and whether to send it again (`retry`: `no`, `same`, `after`, `ask`).
//!
//! Invariant: no `_` arm over our own errors, so that a new one must be given its place here.
//! Called by: every handler. Read [`Problem`] first.

use crate::json::answer;
use crate::json::read::JsonError;
use crate::json::units::time_text;
use crate::json::write::{Object, Values, list, quoted};
use crate::reply::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use quorate_runtime::RuntimeError;
use quorate_types::{Compare, Denied, GuardFailed, Invalid, KeyField, LimitReport, Millis, OpError, Refusal};

/// Whether a refused or failed request changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TookEffect {
    /// Nothing happened.
    No,
    /// It may or may not have happened: ask by the idempotency key.
    Unknown,
}

/// Whether, and how, to send the request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It will be refused again: change it, or read and decide again.
    No,
    /// The same request may pass later.
    Same,
    /// The same request may pass after this long.
    After(Millis),
    /// Send it again under the same idempotency key, or resolve that key.
    Ask,
}

/// In whose name a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `POST /v1/commit`: what is missing is a conflict with the request, not a wrong address.
    Commit,
    /// A route of one thing, whose absence is a 404.
    Resource,
    /// A route of one key with `If-Match` or `If-None-Match`: a failed key guard is a 412.
    Precondition,
}

/// What went wrong, ready to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable name for programs.
    pub code: &'static str,
    /// What happened, for people: found, wanted, what to do.
    pub detail: String,
    /// Whether it changed anything.
    pub took_effect: TookEffect,
    /// Whether to send it again.
    pub retry: Retry,
    /// Members beyond the fixed ones, as JSON.
    pub members: Vec<(&'static str, String)>,
    /// Headers beyond the fixed ones.
    pub headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// A problem that changed nothing and is not worth repeating.
    #[must_use]
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            took_effect: TookEffect::No,
            retry: Retry::No,
            members: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A request that was not understood.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "bad_request", detail)
    }

    /// Something of this name is not there.
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(404, code, detail)
    }

    /// The same, with how to retry.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same, with a member of the body.
    #[must_use]
    pub fn with(mut self, name: &'static str, json: impl Into<String>) -> Self {
        self.members.push((name, json.into()));
        self
    }

    /// The same, with a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// What a refused command answers.
    #[must_use]
    pub fn of_refusal(refusal: &Refusal, place: Place) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Guards { failed } => of_guards(failed, detail, place),
            Refusal::Operation { op, error } => Self::of_op(error, place, detail)
                .with("op", op.to_string())
                .with("why", quoted(&error.to_string())),
            Refusal::OtherRequest { .. } => Self::new(422, "idempotency_other_request", detail),
            Refusal::Cancelled { .. } => Self::new(409, "idempotency_cancelled", detail),
            Refusal::Claimed { .. } => Self::new(409, "idempotency_claimed", detail),
            Refusal::IdempotencyFull { kept, max } => Self::new(507, "idempotency_full", detail)
                .retry(Retry::Same)
                .with("found", kept.to_string())
                .with("wanted", max.to_string()),
            Refusal::Command { error } => Self::of_op(error, place, detail),
            Refusal::Denied { denied } => Self::of_denied(denied),
            Refusal::LockOut {} => Self::new(409, "would_lock_out", detail),
            Refusal::Access { .. } => Self::new(409, "access_refused", detail),
        }
    }

    /// What is answered to somebody who may not do that.
    #[must_use]
    pub fn of_denied(denied: &Denied) -> Self {
        let problem = match denied {
            Denied::Gone { .. } => return Self::new(401, "unauthorized", denied.to_string()),
            Denied::Command { .. } | Denied::Name { .. } | Denied::Channel { .. } => {
                Self::new(403, "forbidden", denied.to_string())
            }
        };
        let list = |verbs: &quorate_types::Verbs| {
            let names: Vec<String> = verbs.names().map(quoted).collect();
            format!("[{}]", names.join(","))
        };
        match denied {
            Denied::Gone { .. } => problem,
            Denied::Command { command, .. } => problem.with("command", quoted(&command.to_string())),
            Denied::Name { verbs, name, .. } => {
                problem.with("verbs", list(verbs)).with("name", quoted(&name.to_string()))
            }
            Denied::Channel { verbs, channel, .. } => {
                problem.with("verbs", list(verbs)).with("channel", quoted(&channel.to_string()))
            }
        }
    }

    /// What a failed read answers.
    #[must_use]
    pub fn of_read(error: &OpError) -> Self {
        Self::of_op(error, Place::Resource, error.to_string())
    }

    fn of_op(error: &OpError, place: Place, detail: String) -> Self {
        let status = match (place, op_status(error)) {
            // The resource of a commit is the commit: 404, 410 and 416 would speak of its address.
            (Place::Commit, 404 | 410 | 416) => 409,
            (_, status) => status,
        };
        let problem = Self::new(status, op_code(error), detail).retry(op_retry(error));
        let (found, wanted) = op_sides(error);
        let problem = found.into_iter().fold(problem, |problem, found| problem.with("found", found));
        wanted.into_iter().fold(problem, |problem, wanted| problem.with("wanted", wanted))
    }

    /// The body, `application/problem+json`.
    #[must_use]
    pub fn body(&self) -> String {
        let (retry, after) = match self.retry {
            Retry::No => ("no", None),
            Retry::Same => ("same", None),
            Retry::After(after) => ("after", Some(after)),
            Retry::Ask => ("ask", None),
        };
        let kind = if self.status == 429 {
            "https://iana.org/assignments/http-problem-types#quota-exceeded".into()
        } else {
            format!("urn:quorate:problem:{}", self.code)
        };
        let object = Object::new()
            .text("type", &kind)
            .text("title", &title(self.code))
            .plain("status", u64::from(self.status))
            .text("detail", &self.detail)
            .text("error", self.code)
            .text("took_effect", if self.took_effect == TookEffect::No { "no" } else { "unknown" })
            .text("retry", retry);
        let object = after.into_iter().fold(object, |o, after| o.plain("retry_after_ms", after));
        self.members.iter().fold(object, |o, (name, json)| o.json(name, json)).done()
    }

    /// The whole answer.
    #[must_use]
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() =
            StatusCode::from_u16(self.status).expect("statuses in this file are between 400 and 599");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Retry::After(after) = self.retry {
            // Whole seconds, rounded up: retrying early would only be refused again (RFC 9110 §10.2.3).
            headers.insert(RETRY_AFTER, HeaderValue::from(after.0.div_ceil(1000).max(1)));
        }
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(*name, value);
            }
        }
        response
    }
}

fn title(code: &str) -> String {
    let mut text = code.replace('_', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match &error {
            JsonError::Syntax { .. } => Self::new(400, "bad_json", error.to_string()),
            JsonError::Field { path, .. } => {
                Self::new(400, "bad_request", error.to_string()).with("at", quoted(path))
            }
        }
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        let detail = error.to_string();
        match error {
            // The sizes that a client may want to split or shrink have the status for it.
            Invalid::Bound { what, found, min, max } if found > max && what.contains("in bytes") => {
                Self::new(413, "too_large", detail)
                    .with("found", found.to_string())
                    .with("wanted", format!("[{min},{max}]"))
            }
            Invalid::Bound { found, min, max, .. } => Self::new(400, "out_of_bounds", detail)
                .with("found", found.to_string())
                .with("wanted", format!("[{min},{max}]")),
            Invalid::InnerIdempotency => Self::new(400, "inner_idempotency", detail),
            Invalid::Rider => Self::new(400, "rider", detail),
            Invalid::ForeseenCharge => Self::new(400, "foreseen_charge", detail),
            Invalid::InternalKeyspace(_) => Self::new(403, "internal_keyspace", detail),
        }
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        let detail = error.to_string();
        match error {
            RuntimeError::Invalid(invalid) => invalid.into(),
            RuntimeError::Overloaded { retry_after_ms, waiting, max } => Self::new(503, "overloaded", detail)
                .retry(Retry::After(Millis(retry_after_ms)))
                .with("found", waiting.to_string())
                .with("wanted", format!("[0,{max}]")),
            RuntimeError::Full { .. } => Self::new(507, "full", detail).retry(Retry::Same),
            RuntimeError::NoLeader { why } => {
                Self::new(503, "leaderless", detail).retry(Retry::Same).with("missing", quoted(&why))
            }
            RuntimeError::Restarting => Self::new(503, "restarting", detail).retry(Retry::Same),
            RuntimeError::Cluster { .. } => Self::new(409, "cluster_refused", detail),
            RuntimeError::Stopped { .. } => Self::new(503, "stopped", detail).retry(Retry::Same),
            RuntimeError::Indeterminate => {
                let mut problem = Self::new(504, "indeterminate", detail);
                problem.took_effect = TookEffect::Unknown;
                problem.retry(Retry::Ask)
            }
            // Only reads of payloads, `why` and backups read the log, and they change nothing.
            RuntimeError::Log(_) => Self::new(500, "log_unreadable", detail).retry(Retry::Same),
        }
    }
}

fn of_guards(failed: &[(u32, GuardFailed)], detail: String, place: Place) -> Problem {
    let limits: Vec<&LimitReport> = failed.iter().filter_map(|(_, why)| limit_report(why)).collect();
    let only_limits = !failed.is_empty() && limits.len() == failed.len();
    let key_guards = failed.iter().all(|(_, why)| matches!(why, GuardFailed::Key { .. }));
    let problem = if only_limits {
        // After the last of them: all must pass at once. A cost that can never pass is not worth a retry.
        let never = failed.iter().any(|(_, why)| never_passes(why));
        let after = limits.iter().map(|report| report.retry_after).max().unwrap_or_default();
        let retry = if never { Retry::No } else { Retry::After(after) };
        let policies = list(limits.iter().map(|report| quoted(&sf_text(&report.name.0))));
        let problem = Problem::new(429, "limited", detail).retry(retry).with("violated-policies", policies);
        limits.iter().fold(problem, |problem, report| problem.header("ratelimit", rate_limit(report)))
    } else if place == Place::Precondition && key_guards {
        Problem::new(412, "precondition_failed", detail)
    } else if failed.iter().all(|(_, why)| matches!(why, GuardFailed::Slots { .. })) {
        Problem::new(409, "guard_failed", detail).retry(Retry::Same)
    } else {
        Problem::new(409, "guard_failed", detail)
    };
    let problem = match failed.first() {
        Some((guard, why)) => problem.with("guard", guard.to_string()).with("why", quoted(&why.to_string())),
        None => problem,
    };
    problem.with("guards", answer::failed_guards(failed))
}

fn limit_report(why: &GuardFailed) -> Option<&LimitReport> {
    match why {
        GuardFailed::Limit { report, .. } => Some(report),
        GuardFailed::Key { .. }
        | GuardFailed::Value { .. }
        | GuardFailed::Range { .. }
        | GuardFailed::RangeUnknown { .. }
        | GuardFailed::Fence { .. }
        | GuardFailed::Leadership { .. }
        | GuardFailed::Slots { .. }
        | GuardFailed::LeaseGone { .. }
        | GuardFailed::StreamAt { .. }
        | GuardFailed::NotAfter { .. }
        | GuardFailed::Some { .. } => None,
    }
}

fn never_passes(why: &GuardFailed) -> bool {
    matches!(why, GuardFailed::Limit { report, cost } if *cost > report.limit)
}

/// A failed guard as JSON: `{guard, kind, why, found, wanted}`.
#[must_use]
pub fn failed_guard(guard: u32, why: &GuardFailed) -> String {
    let object = Object::new().plain("guard", guard);
    let object = match why {
        GuardFailed::Key { key, field, compare, found, wanted } => object
            .text("kind", field_name(*field))
            .bytes("key", &key.name, Values::Auto)
            .plain("found", *found)
            .json("wanted", Object::new().plain(compare_name(*compare), *wanted).done()),
        GuardFailed::Value { key, found, .. } => object
            .text("kind", "value")
            .bytes("key", &key.name, Values::Auto)
            .json("found", Object::new().plain("mod_revision", *found).done()),
        GuardFailed::Range { key, changed, since } => object
            .text("kind", "unchanged")
            .bytes("key", &key.name, Values::Auto)
            .plain("found", *changed)
            .plain("wanted", *since),
        GuardFailed::RangeUnknown { since, oldest, current } => object
            .text("kind", "unchanged")
            .json("found", Object::new().plain("oldest", *oldest).plain("current", *current).done())
            .plain("wanted", *since),
        GuardFailed::Some { key } => {
            let object = object.text("kind", "keys");
            match key {
                Some(key) => object.bytes("found", &key.name, Values::Auto),
                None => object,
            }
        }
        GuardFailed::Fence { lock, held, offered } => object
            .text("kind", "fence")
            .bytes("lock", &lock.0, Values::Auto)
            .plain("found", *held)
            .plain("wanted", *offered),
        GuardFailed::Leadership { election, leader, wanted } => object
            .text("kind", "leader")
            .bytes("election", &election.0, Values::Auto)
            .plain("found", *leader)
            .plain("wanted", *wanted),
        GuardFailed::Limit { report, cost } => {
            object.text("kind", "limit").json("found", answer::limit(report)).plain("wanted", *cost)
        }
        GuardFailed::Slots { name, max } => object
            .text("kind", "slots")
            .bytes("name", &name.0, Values::Auto)
            .plain("found", *max)
            .json("wanted", Object::new().plain("lt", *max).done()),
        GuardFailed::LeaseGone { lease } => object.text("kind", "slots").plain("lease", *lease),
        GuardFailed::StreamAt { stream, partition, found, wanted } => object
            .text("kind", "at_offset")
            .bytes("stream", &stream.name, Values::Auto)
            .plain("partition", *partition)
            .plain("found", *found)
            .plain("wanted", *wanted),
        GuardFailed::NotAfter { now, deadline } => object
            .text("kind", "not_after")
            .text("found", &time_text(*now))
            .text("wanted", &time_text(*deadline)),
    };
    object.text("why", &why.to_string()).done()
}

fn field_name(field: KeyField) -> &'static str {
    match field {
        KeyField::Version => "version",
        KeyField::CreateRevision => "create_revision",
        KeyField::ModRevision => "mod_revision",
        KeyField::Lease => "lease",
    }
}

fn compare_name(compare: Compare) -> &'static str {
    match compare {
        Compare::Equal => "is",
        Compare::NotEqual => "isnt",
        Compare::Less => "lt",
        Compare::Greater => "gt",
    }
}

/// The stable name of an operation's error.
#[must_use]
pub fn op_code(error: &OpError) -> &'static str {
    op_row(error).0
}

fn op_status(error: &OpError) -> u16 {
    op_row(error).1
}

fn op_retry(error: &OpError) -> Retry {
    op_row(error).2
}

/// Code, status (of a route of one thing) and retry of each error.
fn op_row(error: &OpError) -> (&'static str, u16, Retry) {
    match error {
        OpError::LeaseMissing { .. } => ("lease_missing", 404, Retry::No),
        OpError::LeaseExists { .. } => ("lease_exists", 409, Retry::No),
        OpError::NotInteger { .. } => ("not_integer", 409, Retry::No),
        OpError::OutOfBounds { .. } => ("number_out_of_bounds", 409, Retry::No),
        OpError::WrongType { .. } => ("wrong_type", 409, Retry::No),
        OpError::Internal { .. } => ("internal_keyspace", 403, Retry::No),
        OpError::Compacted { .. } => ("compacted", 410, Retry::No),
        OpError::Future { .. } => ("future_revision", 400, Retry::No),
        OpError::LockHeld { .. } => ("lock_held", 409, Retry::Same),
        OpError::LockHeldByYou { .. } => ("lock_held_by_you", 409, Retry::No),
        OpError::NotHolder { .. } => ("not_holder", 409, Retry::No),
        OpError::NotWaiting { .. } => ("not_waiting", 404, Retry::No),
        OpError::StreamMissing { .. } => ("stream_missing", 404, Retry::No),
        OpError::StreamExists { .. } => ("stream_exists", 409, Retry::No),
        OpError::PartitionMissing { .. } => ("partition_missing", 404, Retry::No),
        OpError::PartitionsRemoved { .. } => ("partitions_removed", 409, Retry::No),
        OpError::OffsetOutOfRange { first, asked, .. } => {
            ("offset_out_of_range", if asked < first { 410 } else { 416 }, Retry::No)
        }
        OpError::KeylessRecord { .. } => ("keyless_record", 409, Retry::No),
        OpError::Produce { .. } => ("producer_refused", 409, Retry::No),
        OpError::BadPayload { .. } => ("bad_payload", 400, Retry::No),
        OpError::GroupMissing { .. } => ("group_missing", 404, Retry::No),
        OpError::GroupExists { .. } => ("group_exists", 409, Retry::No),
        OpError::GroupMode { .. } => ("group_mode", 409, Retry::No),
        OpError::CursorMoved { .. } => ("cursor_moved", 409, Retry::No),
        OpError::TaskMissing { .. } => ("task_missing", 404, Retry::No),
        OpError::InstanceMissing { .. } => ("instance_missing", 404, Retry::No),
        OpError::ClaimHeld { .. } => ("claim_held", 409, Retry::Same),
        OpError::ClaimOther { .. } => ("idempotency_other_request", 422, Retry::No),
        OpError::ClaimLost { .. } => ("claim_lost", 409, Retry::No),
        OpError::IdempotencyFull { .. } => ("idempotency_full", 507, Retry::Same),
        OpError::SlotMissing { .. } => ("slot_missing", 404, Retry::No),
        OpError::Guards { .. } => ("guard_failed", 409, Retry::No),
        OpError::Inner { error, .. } => op_row(error),
        OpError::Range { .. } => ("out_of_bounds", 400, Retry::No),
        OpError::OutermostOnly { .. } => ("outermost_only", 400, Retry::No),
        OpError::Denied { .. } => ("forbidden", 403, Retry::No),
        OpError::Call { text } if text.starts_with(b"NOPERM") => ("forbidden", 403, Retry::No),
        OpError::Call { text } if text.starts_with(b"WRONGTYPE") => ("wrong_type", 409, Retry::No),
        OpError::Call { .. } => ("call_failed", 409, Retry::No),
        OpError::KeyMissing { .. } => ("key_missing", 404, Retry::No),
        OpError::Group { .. } => ("group_refused", 409, Retry::No),
    }
}

/// What an error found and wanted, as JSON, where it is more than its text says.
fn op_sides(error: &OpError) -> (Option<String>, Option<String>) {
    let both = |found: String, wanted: String| (Some(found), Some(wanted));
    match error {
        OpError::OutOfBounds { found, min, max, .. } => both(found.to_string(), format!("[{min},{max}]")),
        OpError::WrongType { found, wanted, .. } | OpError::GroupMode { found, wanted, .. } => {
            both(quoted(found), quoted(wanted))
        }
        OpError::Compacted { asked, oldest } => both(oldest.to_string(), asked.to_string()),
        OpError::Future { asked, current } => both(current.to_string(), asked.to_string()),
        OpError::LockHeld { held, .. } | OpError::LockHeldByYou { held, .. } => {
            (Some(held.to_string()), None)
        }
        OpError::NotHolder { offered, .. } => (None, Some(offered.to_string())),
        OpError::PartitionMissing { partitions, asked, .. } => {
            both(partitions.to_string(), asked.to_string())
        }
        OpError::PartitionsRemoved { partitions, .. } => (Some(partitions.to_string()), None),
        OpError::OffsetOutOfRange { first, next, asked, .. } => {
            both(format!("[{first},{next}]"), asked.to_string())
        }
        OpError::CursorMoved { found, expected } => both(found.to_string(), expected.to_string()),
        OpError::ClaimHeld { token, .. } => (Some(token.to_string()), None),
        OpError::ClaimLost { token, .. } => (None, Some(token.to_string())),
        OpError::IdempotencyFull { kept, max } => both(kept.to_string(), max.to_string()),
        OpError::Guards { failed } => (Some(answer::failed_guards(failed)), None),
        OpError::Inner { error, .. } => op_sides(error),
        OpError::Range { found, min, max, .. } => both(found.to_string(), format!("[{min},{max}]")),
        OpError::LeaseMissing { .. }
        | OpError::LeaseExists { .. }
        | OpError::NotInteger { .. }
        | OpError::Internal { .. }
        | OpError::NotWaiting { .. }
        | OpError::StreamMissing { .. }
        | OpError::StreamExists { .. }
        | OpError::KeylessRecord { .. }
        | OpError::Produce { .. }
        | OpError::BadPayload { .. }
        | OpError::GroupMissing { .. }
        | OpError::GroupExists { .. }
        | OpError::TaskMissing { .. }
        | OpError::InstanceMissing { .. }
        | OpError::ClaimOther { .. }
        | OpError::SlotMissing { .. }
        | OpError::OutermostOnly { .. }
        | OpError::Denied { .. }
        | OpError::Group { .. }
        | OpError::KeyMissing { .. }
        | OpError::Call { .. } => (None, None),
    }
}

/// A `RateLimit` item (draft-ietf-httpapi-ratelimit-headers): what is left, and when it is full again, in seconds.
#[must_use]
pub fn rate_limit(report: &LimitReport) -> String {
    let reset = report.reset.0.div_ceil(1000);
    format!("\"{}\";r={};t={reset}", sf_text(&report.name.0), report.remaining)
}

/// The content of a Structured Field string (RFC 9651 §3.3.3): printable ASCII, the rest percent-encoded.
#[must_use]
pub fn sf_text(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(*byte as char);
            }
            0x20..=0x7e => out.push(*byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{FencingToken, Key, LeaseId, LockName, Offset, Revision, WallTime};

    fn key() -> Key {
        "k".into()
    }
    fn lock() -> LockName {
        "l".into()
    }
    fn report(limit: u64, retry_after: u64) -> LimitReport {
        let (retry_after, reset) = (Millis(retry_after), Millis(1500));
        LimitReport { name: "n\"é".into(), limit, remaining: 0, retry_after, reset }
    }
    fn parsed(problem: &Problem) -> serde_json::Value {
        serde_json::from_str(&problem.body()).unwrap()
    }

    /// Every error of an operation: its status on a route of its own, its code, and whether to retry.
    fn operations() -> Vec<(OpError, u16, &'static str, &'static str)> {
        let (lease, stream) = (LeaseId(4), key());
        let (first, next) = (Offset(5), Offset(9));
        let offset = |asked| OpError::OffsetOutOfRange {
            stream: key(),
            partition: 0,
            first,
            next,
            asked: Offset(asked),
        };
        let held = FencingToken(7);
        vec![
            (OpError::LeaseMissing { lease }, 404, "lease_missing", "no"),
            (OpError::LeaseExists { lease }, 409, "lease_exists", "no"),
            (OpError::NotInteger { key: key() }, 409, "not_integer", "no"),
            (
                OpError::OutOfBounds { key: key(), found: 1, by: 2, min: 0, max: 2 },
                409,
                "number_out_of_bounds",
                "no",
            ),
            (
                OpError::WrongType { key: key(), found: "a".into(), wanted: "b".into() },
                409,
                "wrong_type",
                "no",
            ),
            (OpError::Internal { space: 0xff00 }, 403, "internal_keyspace", "no"),
            (OpError::Compacted { asked: Revision(1), oldest: Revision(5) }, 410, "compacted", "no"),
            (OpError::Future { asked: Revision(9), current: Revision(5) }, 400, "future_revision", "no"),
            (OpError::LockHeld { lock: lock(), held, waiting: 2 }, 409, "lock_held", "same"),
            (OpError::LockHeldByYou { lock: lock(), lease, held }, 409, "lock_held_by_you", "no"),
            (OpError::NotHolder { lock: lock(), offered: held }, 409, "not_holder", "no"),
            (OpError::NotWaiting { lock: lock(), lease }, 404, "not_waiting", "no"),
            (OpError::StreamMissing { stream: stream.clone() }, 404, "stream_missing", "no"),
            (OpError::StreamExists { stream: stream.clone() }, 409, "stream_exists", "no"),
            (
                OpError::PartitionMissing { stream: stream.clone(), partitions: 1, asked: 3 },
                404,
                "partition_missing",
                "no",
            ),
            (
                OpError::PartitionsRemoved { stream: stream.clone(), partitions: 4 },
                409,
                "partitions_removed",
                "no",
            ),
            (offset(4), 410, "offset_out_of_range", "no"),
            (offset(10), 416, "offset_out_of_range", "no"),
            (OpError::KeylessRecord { stream: stream.clone() }, 409, "keyless_record", "no"),
            (OpError::BadPayload { records: 2, why: "short".into() }, 400, "bad_payload", "no"),
            (OpError::GroupMissing { stream: stream.clone(), group: "g".into() }, 404, "group_missing", "no"),
            (OpError::GroupExists { stream: stream.clone(), group: "g".into() }, 409, "group_exists", "no"),
            (
                OpError::GroupMode { stream, group: "g".into(), found: "a".into(), wanted: "b".into() },
                409,
                "group_mode",
                "no",
            ),
            (OpError::CursorMoved { found: first, expected: next }, 409, "cursor_moved", "no"),
            (OpError::TaskMissing { task: "t".into() }, 404, "task_missing", "no"),
            (OpError::InstanceMissing { service: "s".into() }, 404, "instance_missing", "no"),
            (OpError::ClaimHeld { key: "i".into(), token: held }, 409, "claim_held", "same"),
            (OpError::ClaimOther { key: "i".into() }, 422, "idempotency_other_request", "no"),
            (OpError::ClaimLost { key: "i".into(), token: held }, 409, "claim_lost", "no"),
            (OpError::IdempotencyFull { kept: 2, max: 1 }, 507, "idempotency_full", "same"),
            (OpError::SlotMissing { name: "n".into() }, 404, "slot_missing", "no"),
            (OpError::Guards { failed: vec![] }, 409, "guard_failed", "no"),
            (
                OpError::Inner { op: 1, error: Box::new(OpError::TaskMissing { task: "t".into() }) },
                404,
                "task_missing",
                "no",
            ),
            (OpError::Range { what: "n".into(), found: 3, min: 1, max: 2 }, 400, "out_of_bounds", "no"),
            (OpError::OutermostOnly { what: "it".into() }, 400, "outermost_only", "no"),
        ]
    }

    #[test]
    fn every_operation_error_has_its_status_code_and_retry() {
        for (error, status, code, retry) in operations() {
            let problem = Problem::of_read(&error);
            let body = parsed(&problem);
            let detail = error.to_string();
            assert_eq!((problem.status, problem.code), (status, code), "{error}");
            assert_eq!(body["retry"], retry, "{error}");
            assert_eq!(body["took_effect"], "no");
            assert_eq!(body["detail"], detail);
            assert_eq!(body["type"], format!("urn:quorate:problem:{code}"));

            let refusal = Refusal::Operation { op: 3, error };
            let problem = Problem::of_refusal(&refusal, Place::Commit);
            let body = parsed(&problem);
            let in_commit = if [404, 410, 416].contains(&status) { 409 } else { status };
            assert_eq!(
                (problem.status, problem.code),
                (in_commit, code),
                "a commit's address is never missing"
            );
            assert_eq!((&body["op"], &body["why"]), (&3.into(), &detail.into()));
        }
    }

    #[test]
    fn errors_say_what_was_found_and_wanted() {
        let sides = |error: &OpError| {
            let body = parsed(&Problem::of_read(error));
            (body["found"].to_string(), body["wanted"].to_string())
        };
        let compacted = OpError::Compacted { asked: Revision(1), oldest: Revision(5) };
        assert_eq!(sides(&compacted), ("5".into(), "1".into()));
        let wrong = OpError::WrongType { key: key(), found: "stream".into(), wanted: "string".into() };
        assert_eq!(sides(&wrong), ("\"stream\"".into(), "\"string\"".into()));
        let bounds = OpError::OutOfBounds { key: key(), found: 1, by: 2, min: 0, max: 2 };
        assert_eq!(sides(&bounds), ("1".into(), "[0,2]".into()));
    }

    #[test]
    fn every_guard_tells_its_kind_what_was_found_and_what_was_wanted() {
        let fence =
            GuardFailed::Fence { lock: lock(), held: FencingToken(1081), offered: FencingToken(1077) };
        for (why, kind, found, wanted) in [
            (
                GuardFailed::Key {
                    key: key(),
                    field: KeyField::Version,
                    compare: Compare::Equal,
                    found: 4,
                    wanted: 3,
                },
                "version",
                "4",
                r#"{"is":3}"#,
            ),
            (
                GuardFailed::Value { key: key(), compare: Compare::Equal, found: Revision(9) },
                "value",
                r#"{"mod_revision":9}"#,
                "null",
            ),
            (
                GuardFailed::Range { key: key(), changed: Revision(9), since: Revision(5) },
                "unchanged",
                "9",
                "5",
            ),
            (
                GuardFailed::RangeUnknown { since: Revision(1), oldest: Revision(5), current: Revision(9) },
                "unchanged",
                r#"{"oldest":5,"current":9}"#,
                "1",
            ),
            (fence.clone(), "fence", "1081", "1077"),
            (
                GuardFailed::Leadership { election: lock(), leader: LeaseId(1), wanted: LeaseId(2) },
                "leader",
                "1",
                "2",
            ),
            (GuardFailed::Slots { name: "n".into(), max: 3 }, "slots", "3", r#"{"lt":3}"#),
            (GuardFailed::LeaseGone { lease: LeaseId(4) }, "slots", "null", "null"),
            (
                GuardFailed::StreamAt { stream: key(), partition: 0, found: Offset(9), wanted: Offset(8) },
                "at_offset",
                "9",
                "8",
            ),
            (
                GuardFailed::NotAfter { now: WallTime(1000), deadline: WallTime(0) },
                "not_after",
                r#""1970-01-01T00:00:01.000Z""#,
                r#""1970-01-01T00:00:00.000Z""#,
            ),
        ] {
            let refusal = Refusal::Guards { failed: vec![(2, why.clone())] };
            let problem = Problem::of_refusal(&refusal, Place::Commit);
            let body = parsed(&problem);
            assert_eq!((problem.status, problem.code), (409, "guard_failed"), "{why}");
            assert_eq!((&body["guard"], &body["why"]), (&2.into(), &why.to_string().into()));
            let one = &body["guards"][0];
            let side = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!((&one["kind"], &one["guard"]), (&kind.into(), &2.into()), "{why}");
            assert_eq!((&one["found"], &one["wanted"]), (&side(found), &side(wanted)), "{why}");
        }
        let text = parsed(&Problem::of_refusal(&Refusal::Guards { failed: vec![(0, fence)] }, Place::Commit));
        assert!(text["why"].as_str().unwrap().starts_with("lock l is held with token 1081, offered 1077"));
    }

    #[test]
    fn a_failed_limit_is_a_429_only_when_nothing_else_failed() {
        let limit = |limit, after, cost| GuardFailed::Limit { report: report(limit, after), cost };
        let both = Refusal::Guards { failed: vec![(0, limit(5, 300, 1)), (1, limit(5, 2500, 1))] };
        let problem = Problem::of_refusal(&both, Place::Commit);
        let body = parsed(&problem);
        assert_eq!((problem.status, problem.code), (429, "limited"));
        assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!((&body["retry"], &body["retry_after_ms"]), (&"after".into(), &2500.into()));
        assert_eq!(body["violated-policies"][0], r#"n\"%C3%A9"#);
        assert_eq!(body["guards"].as_array().unwrap().len(), 2);
        let response = problem.response();
        assert_eq!(response.headers()["retry-after"], "3");
        assert_eq!(response.headers().get_all("ratelimit").iter().count(), 2);
        assert_eq!(response.headers()["ratelimit"], r#""n\"%C3%A9";r=0;t=2"#);

        let never = Refusal::Guards { failed: vec![(0, limit(5, 0, 6))] };
        let problem = Problem::of_refusal(&never, Place::Commit);
        assert_eq!((problem.status, problem.retry), (429, Retry::No));

        let fence = GuardFailed::Fence { lock: lock(), held: FencingToken(0), offered: FencingToken(1) };
        let mixed = Refusal::Guards { failed: vec![(0, limit(5, 300, 1)), (1, fence)] };
        assert_eq!(Problem::of_refusal(&mixed, Place::Commit).status, 409);
    }

    #[test]
    fn a_failed_precondition_is_a_412_and_other_guards_are_not() {
        let key = GuardFailed::Key {
            key: key(),
            field: KeyField::ModRevision,
            compare: Compare::Equal,
            found: 4,
            wanted: 3,
        };
        let refusal = Refusal::Guards { failed: vec![(0, key)] };
        let problem = Problem::of_refusal(&refusal, Place::Precondition);
        assert_eq!((problem.status, problem.code), (412, "precondition_failed"));
        assert_eq!(Problem::of_refusal(&refusal, Place::Commit).status, 409);
    }

    #[test]
    fn idempotency_refusals_have_their_statuses() {
        for (refusal, status, code) in [
            (Refusal::OtherRequest { key: "i".into() }, 422, "idempotency_other_request"),
            (Refusal::Cancelled { key: "i".into() }, 409, "idempotency_cancelled"),
            (Refusal::Claimed { key: "i".into() }, 409, "idempotency_claimed"),
            (Refusal::IdempotencyFull { kept: 2, max: 1 }, 507, "idempotency_full"),
            (Refusal::Command { error: OpError::LeaseMissing { lease: LeaseId(1) } }, 404, "lease_missing"),
        ] {
            let problem = Problem::of_refusal(&refusal, Place::Resource);
            assert_eq!((problem.status, problem.code), (status, code), "{refusal}");
        }
    }

    #[test]
    fn what_breaks_a_bound_is_a_413_by_size_and_a_400_otherwise() {
        let check = |error: Invalid| {
            let problem = Problem::from(error);
            (problem.status, problem.code)
        };
        let bound = |what, found| Invalid::Bound { what, found, min: 1, max: 10 };
        assert_eq!(check(bound("value in bytes", 11)), (413, "too_large"));
        assert_eq!(check(bound("value in bytes", 0)), (400, "out_of_bounds"));
        assert_eq!(check(bound("partitions", 11)), (400, "out_of_bounds"));
        assert_eq!(check(Invalid::InnerIdempotency), (400, "inner_idempotency"));
        assert_eq!(check(Invalid::InternalKeyspace(0xff00)), (403, "internal_keyspace"));
    }

    #[test]
    fn the_runtime_says_whether_it_happened() {
        let overloaded = RuntimeError::Overloaded { waiting: 10, max: 10, retry_after_ms: 1500 };
        let stopped = RuntimeError::Stopped { why: "asked to".into() };
        for (error, status, code, effect, retry) in [
            (RuntimeError::Invalid(Invalid::InnerIdempotency), 400, "inner_idempotency", "no", "no"),
            (overloaded.clone(), 503, "overloaded", "no", "after"),
            (RuntimeError::Full { what: "the disk" }, 507, "full", "no", "same"),
            (RuntimeError::NoLeader { why: "1 of 3".into() }, 503, "leaderless", "no", "same"),
            (RuntimeError::Restarting, 503, "restarting", "no", "same"),
            (RuntimeError::Cluster { why: "the last voter".into() }, 409, "cluster_refused", "no", "no"),
            (stopped, 503, "stopped", "no", "same"),
            (RuntimeError::Indeterminate, 504, "indeterminate", "unknown", "ask"),
        ] {
            let problem = Problem::from(error);
            let body = parsed(&problem);
            assert_eq!((problem.status, problem.code), (status, code));
            assert_eq!((&body["took_effect"], &body["retry"]), (&effect.into(), &retry.into()), "{code}");
        }
        assert_eq!(Problem::from(overloaded).response().headers()["retry-after"], "2");
    }

    #[test]
    fn json_errors_name_their_place() {
        let field = JsonError::Field { path: "then[0].put.key".into(), why: "wanted a text, found 1".into() };
        let body = parsed(&field.into());
        assert_eq!((&body["at"], &body["error"]), (&"then[0].put.key".into(), &"bad_request".into()));
        let syntax = Problem::from(JsonError::Syntax { why: "EOF".into() });
        assert_eq!((syntax.status, syntax.code), (400, "bad_json"));
    }
}
