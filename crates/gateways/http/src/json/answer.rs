//! Answers as JSON: results, keys, locks, limits, records.
//!
//! Invariant: every kind of result has one shape, with members a reader recognises without knowing the operation.
//! Called by: the handlers. Read [`committed`] first.

use super::units;
use super::write::{Object, Values, list, quoted};
use crate::error::{failed_guard, op_code};
use bytes::Bytes;
use quorate_types::{
    Branch, Committed, Compare, Delivery, GroupMode, GroupSettings, Guard, Holder, KeyField, KeyValue,
    LimitReport, LockMode, MemberAnswer, Op, OpResult, PayloadRef, Record, Registered, Reply, Resolution,
    Score, StreamSettings, Taken, WallTime, record,
};
use std::collections::HashMap;

/// Payloads that an answer refers to, fetched before it is written; or why one could not be read.
pub type Payloads = HashMap<PayloadRef, Result<Bytes, String>>;

/// The answer of a commit: `{revision, branch, results, limits, replayed}`.
#[must_use]
pub fn committed(answer: &Committed, payloads: &Payloads, values: Values) -> String {
    Object::new()
        .plain("revision", answer.revision)
        .text("branch", branch(answer.branch))
        .list("results", answer.results.iter().map(|one| result(one, payloads, values)))
        .when(!answer.limits.is_empty(), |o| o.list("limits", answer.limits.iter().map(limit)))
        .when(answer.replayed, |o| o.plain("replayed", true))
        .done()
}

/// The payloads that results refer to.
#[must_use]
pub fn payloads_of(results: &[OpResult]) -> Vec<PayloadRef> {
    let mut found = Vec::new();
    for result in results {
        match result {
            OpResult::Taken { deliveries } => found.extend(deliveries.iter().map(|taken| taken.at)),
            OpResult::Nested { results, .. } => found.extend(payloads_of(results)),
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn branch(branch: Branch) -> &'static str {
    match branch {
        Branch::Then => "then",
        Branch::Else => "else",
    }
}

/// The result of one operation.
#[must_use]
pub fn result(result: &OpResult, payloads: &Payloads, values: Values) -> String {
    let object = Object::new();
    match result {
        OpResult::Done {} => object.plain("done", true),
        OpResult::Failed { error } => object.text("error", op_code(error)).text("why", &error.to_string()),
        OpResult::Key { found } => match found {
            Some(found) => object.json("found", key_value(found, values)),
            None => object.json("found", "null"),
        },
        OpResult::Keys { keys, count, more } => object
            .list("keys", keys.iter().map(|key| key_value(key, values)))
            .plain("count", *count)
            .plain("more", *more),
        OpResult::Deleted { count, prev } => object
            .plain("deleted", *count)
            .when(!prev.is_empty(), |o| o.list("prev", prev.iter().map(|key| key_value(key, values)))),
        OpResult::Number { value } => object.plain("number", *value),
        OpResult::Appended { partition, first, next } => {
            object.plain("partition", *partition).plain("offset", *first).plain("next", *next)
        }
        OpResult::Stream { partitions } => object.json("partitions", bounds(partitions)),
        OpResult::Taken { deliveries } => {
            object.list("deliveries", deliveries.iter().map(|taken| taken_record(taken, payloads, values)))
        }
        OpResult::Settled { settled, lost } => object
            .plain("settled", *settled)
            .list("lost", lost.iter().map(|one| delivery(*one, Object::new()).done())),
        OpResult::Lease { lease, ttl, left } => {
            object.plain("lease", *lease).plain("ttl_ms", *ttl).plain("left_ms", *left)
        }
        OpResult::Token { token } => object.plain("token", *token),
        OpResult::Lock { holders, waiting } => {
            object.list("holders", holders.iter().map(|one| holder(one, values))).plain("waiting", *waiting)
        }
        OpResult::Scheduled { replaced } => object.plain("replaced", *replaced),
        OpResult::Claim { answer, token } => match answer {
            Some(answer) => object.value("answer", answer, values),
            None => object.plain("token", *token),
        },
        OpResult::Limit { report } => object.json("limit", limit(report)),
        OpResult::Nested { branch: which, results } => object
            .text("branch", branch(*which))
            .list("results", results.iter().map(|one| self::result(one, payloads, values))),
        OpResult::Reply { reply: answer } => object.json("reply", reply(answer)),
        OpResult::Kept { missing } => object.plain("missing", missing.len()),
        OpResult::Member { answer } => member(object, answer),
        OpResult::Producer { producer, epoch } => {
            object.plain("producer", producer.0).plain("epoch", u32::from(*epoch))
        }
    }
    .done()
}

/// What became of a change to a group's members: for `why`, since no route of HTTP makes one.
fn member(object: Object, answer: &MemberAnswer) -> Object {
    match answer {
        MemberAnswer::Named { member } => object.text("named", &member.to_string()),
        MemberAnswer::Joined { member, .. } => object.text("joined", &member.to_string()),
        MemberAnswer::Given { given } => object.plain("given", given.is_some()),
        MemberAnswer::Left { faults } => {
            object.plain("left", faults.iter().filter(|fault| fault.is_none()).count())
        }
        MemberAnswer::Beaten { beaten } => {
            object.text("beaten", &beaten.member.to_string()).plain("epoch", beaten.epoch)
        }
        MemberAnswer::Parted {} => object.plain("left", 1_u64),
    }
}

/// What a call answered, as JSON has it: bytes that are no text lose what no text can hold.
#[must_use]
pub fn reply(answer: &Reply) -> String {
    match answer {
        Reply::Nil | Reply::NilArray => "null".into(),
        Reply::Status { text } | Reply::Bulk { value: text } | Reply::Verbatim { text, .. } => word(text),
        Reply::Error { text } => Object::new().json("error", word(text)).done(),
        Reply::Integer { value } => value.to_string(),
        // JSON has no infinities.
        Reply::Double { value } if *value == Score::MIN || *value == Score::MAX => quoted(&value.to_string()),
        Reply::Double { value } => value.to_string(),
        Reply::Boolean { value } => value.to_string(),
        Reply::Array { items } | Reply::Set { items } => list(items.0.iter().map(reply)),
        Reply::Map { items } | Reply::Pairs { items } | Reply::Named { items } => {
            list(items.0.chunks(2).map(|pair| list(pair.iter().map(reply))))
        }
        // A record is read from its stream; here is which.
        Reply::Record { id, .. } => quoted(&id.to_string()),
    }
}

/// A word of a call as a JSON text.
#[must_use]
pub fn word(bytes: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(bytes))
}

/// A key with its numbers: `{key, value, version, create_revision, mod_revision, lease}`.
#[must_use]
pub fn key_value(found: &KeyValue, values: Values) -> String {
    Object::new()
        .bytes("key", &found.key.name, values)
        .when(found.key.space.0 != 0, |o| o.plain("keyspace", found.key.space.0))
        .value("value", &found.value, values)
        .plain("version", found.version)
        .plain("create_revision", found.create_revision)
        .plain("mod_revision", found.mod_revision)
        .when(found.lease.0 != 0, |o| o.plain("lease", found.lease))
        .done()
}

/// Bounds of a stream's partitions.
#[must_use]
pub fn bounds(partitions: &[(quorate_types::Offset, quorate_types::Offset)]) -> String {
    list(partitions.iter().enumerate().map(|(partition, (first, next))| {
        Object::new().plain("partition", partition).plain("first", *first).plain("next", *next).done()
    }))
}

/// A holder of a lock or leadership.
#[must_use]
pub fn holder(holder: &Holder, values: Values) -> String {
    Object::new()
        .plain("lease", holder.lease)
        .plain("request", holder.request)
        .plain("token", holder.token)
        .json("mode", lock_mode(holder.mode))
        .value("value", &holder.value, values)
        .text("since", &units::time_text(holder.since))
        .done()
}

/// A lock's mode, as it is asked for.
#[must_use]
pub fn lock_mode(mode: LockMode) -> String {
    match mode {
        LockMode::Exclusive => "\"exclusive\"".into(),
        LockMode::Shared => "\"shared\"".into(),
        LockMode::Semaphore { permits } => Object::new().plain("semaphore", permits).done(),
    }
}

/// What a limit has left.
#[must_use]
pub fn limit(report: &LimitReport) -> String {
    Object::new()
        .bytes("name", &report.name.0, Values::Auto)
        .plain("limit", report.limit)
        .plain("remaining", report.remaining)
        .plain("retry_after_ms", report.retry_after)
        .plain("reset_ms", report.reset)
        .done()
}

/// A service instance.
#[must_use]
pub fn registered(found: &Registered, values: Values) -> String {
    let metadata = found
        .info
        .metadata
        .iter()
        .fold(Object::new(), |object, (name, value)| object.text(&name.to_string(), &value.to_string()));
    Object::new()
        .bytes("instance", &found.instance, values)
        .bytes("address", &found.info.address, values)
        .plain("weight", found.info.weight)
        .bytes("zone", &found.info.zone, values)
        .plain("healthy", found.info.healthy)
        .json("metadata", metadata.done())
        .plain("lease", found.lease)
        .plain("revision", found.revision)
        .done()
}

/// A record and its place.
#[must_use]
pub fn placed_record(record: &Record, place: Object, wall: WallTime, values: Values) -> String {
    let object = place.text("time", &units::time_text(wall));
    let object = match &record.key {
        Some(key) => object.bytes("key", key, values),
        None => object,
    };
    let object = match &record.value {
        Some(value) => object.value("value", value, values),
        None => object.plain("tombstone", true),
    };
    if record.headers.is_empty() {
        return object.done();
    }
    object
        .list(
            "headers",
            record.headers.iter().map(|header| {
                Object::new().bytes("name", &header.name, values).bytes("value", &header.value, values).done()
            }),
        )
        .done()
}

fn taken_record(taken: &Taken, payloads: &Payloads, values: Values) -> String {
    let place = delivery(taken.delivery, Object::new());
    let records = match payloads.get(&taken.at) {
        Some(Ok(payload)) => record::decode(payload, taken.records).map_err(|error| error.to_string()),
        Some(Err(why)) => Err(why.clone()),
        None => Err("it was not fetched".into()),
    };
    match records.as_ref().map(|records| records.get(taken.record as usize)) {
        Ok(Some(record)) => placed_record(record, place, taken.wall, values),
        Ok(None) => place.text("error", "the payload holds fewer records than the index says").done(),
        Err(why) => place.text("error", &format!("the payload cannot be read: {why}")).done(),
    }
}

fn delivery(delivery: Delivery, object: Object) -> Object {
    object
        .plain("partition", delivery.partition)
        .plain("offset", delivery.offset)
        .plain("attempt", delivery.attempt)
}

/// Settings of a stream, as they are asked for.
#[must_use]
pub fn stream_settings(settings: &StreamSettings) -> Object {
    let retention = Object::new();
    let retention = match settings.retention.bytes {
        Some(bytes) => retention.plain("bytes", bytes),
        None => retention,
    };
    let retention = match settings.retention.age {
        Some(age) => retention.text("age", &units::duration_text(age)),
        None => retention,
    };
    Object::new()
        .plain("partitions", settings.partitions)
        .json("retention", retention.done())
        .plain("compact", settings.compact)
        .plain("protected", settings.protected)
        .plain("guarded", settings.guarded)
}

/// Settings of a group, as they are asked for.
#[must_use]
pub fn group_settings(settings: &GroupSettings) -> Object {
    let object = match &settings.mode {
        GroupMode::Partitioned => Object::new().text("mode", "partitioned"),
        GroupMode::Shared { visibility, deliveries_max, dead_letter } => {
            let object = Object::new()
                .text("mode", "shared")
                .text("visibility", &units::duration_text(*visibility))
                .plain("deliveries_max", *deliveries_max);
            match dead_letter {
                Some(stream) => object.bytes("dead_letter", &stream.name, Values::Auto),
                None => object,
            }
        }
    };
    object.text("from", if settings.from_start { "start" } else { "end" })
}

/// What became of an idempotency key.
#[must_use]
pub fn resolution(resolution: &Resolution, payloads: &Payloads, values: Values) -> String {
    match resolution {
        Resolution::Committed { committed: answer } => Object::new()
            .text("resolution", "committed")
            .json("answer", committed(answer, payloads, values))
            .done(),
        Resolution::Completed { answer } => {
            Object::new().text("resolution", "completed").value("answer", answer, values).done()
        }
        Resolution::InProgress { token } => {
            Object::new().text("resolution", "in_progress").plain("token", *token).done()
        }
        Resolution::Cancelled {} => Object::new().text("resolution", "cancelled").done(),
    }
}

/// Guards that failed, as they are listed in a problem.
#[must_use]
pub fn failed_guards(failed: &[(u32, quorate_types::GuardFailed)]) -> String {
    list(failed.iter().map(|(guard, why)| failed_guard(*guard, why)))
}

/// The name of an operation, as it is asked for.
#[must_use]
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Get { .. } => "get",
        Op::Range { .. } => "range",
        Op::Put { .. } => "put",
        Op::Delete { .. } => "delete",
        Op::DeleteRange { .. } => "delete_range",
        Op::Increment { .. } => "increment",
        Op::CreateStream { .. } => "create_stream",
        Op::AlterStream { .. } => "alter_stream",
        Op::DeleteStream { .. } => "delete_stream",
        Op::Append { .. } => "append",
        Op::Trim { .. } => "trim",
        Op::StreamInfo { .. } => "stream_info",
        Op::CreateGroup { .. } => "create_group",
        Op::DeleteGroup { .. } => "delete_group",
        Op::CursorCommit { .. } => "cursor",
        Op::Take { .. } => "take",
        Op::Ack { .. } => "ack",
        Op::Nack { .. } => "nack",
        Op::Extend { .. } => "extend",
        Op::LeaseGrant { .. } => "grant",
        Op::LeaseKeepAlive { .. } => "keep_alive",
        Op::LeaseRevoke { .. } => "revoke",
        Op::LeaseInfo { .. } => "lease",
        Op::Acquire { .. } => "acquire",
        Op::Release { .. } => "release",
        Op::LockInfo { .. } => "lock",
        Op::Campaign { .. } => "campaign",
        Op::Proclaim { .. } => "proclaim",
        Op::Resign { .. } => "resign",
        Op::Schedule { .. } => "schedule",
        Op::Cancel { .. } => "cancel",
        Op::Register { .. } => "register",
        Op::Deregister { .. } => "deregister",
        Op::Claim { .. } => "claim",
        Op::Complete { .. } => "complete",
        Op::FreeSlot { .. } => "free_slot",
        Op::LimitPeek { .. } => "limit",
        Op::Nested { .. } => "commit",
        Op::Call { .. } => "call",
        Op::Select { .. } => "select",
        Op::Write { .. } => "write",
        Op::Erase { .. } => "erase",
        Op::CommitOffsets { .. } => "commit_offsets",
        Op::Member { .. } => "member",
        Op::Produce { .. } => "produce",
    }
}

/// The name of a guard, as it is asked for.
#[must_use]
pub fn guard_name(guard: &Guard) -> &'static str {
    match guard {
        Guard::Key { field, compare, wanted, .. } => match (field, compare, wanted) {
            (KeyField::Version, Compare::Equal, 0) => "absent",
            (KeyField::Version, Compare::NotEqual, 0) => "exists",
            (KeyField::Version, _, _) => "version",
            (KeyField::CreateRevision, _, _) => "create_revision",
            (KeyField::ModRevision, _, _) => "mod_revision",
            (KeyField::Lease, _, _) => "lease",
        },
        Guard::Value { .. } => "value",
        Guard::RangeUnchanged { .. } => "unchanged",
        Guard::Fence { .. } => "fence",
        Guard::Leadership { .. } => "leader",
        Guard::Limit { .. } => "limit",
        Guard::Slots { .. } => "slots",
        Guard::StreamAt { .. } => "at_offset",
        Guard::NotAfter { .. } => "not_after",
        Guard::Keys { .. } => "keys",
        Guard::Values { .. } => "values",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{FencingToken, LeaseId, Millis, Offset, OpError, Revision, Version, WallTime};

    fn check(one: OpResult, wanted: &str) {
        let found = result(&one, &Payloads::new(), Values::Auto);
        assert_eq!(found, wanted);
        serde_json::from_str::<serde_json::Value>(&found).unwrap();
    }

    fn key(name: &str, value: &[u8]) -> KeyValue {
        KeyValue {
            key: name.into(),
            value: value.into(),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            version: Version(2),
            lease: LeaseId(0),
        }
    }

    #[test]
    fn every_result_has_its_shape() {
        let k = r#"{"key":"k","value":"v","version":2,"create_revision":1,"mod_revision":2}"#;
        check(OpResult::Done {}, r#"{"done":true}"#);
        check(
            OpResult::Failed { error: OpError::LeaseMissing { lease: LeaseId(4) } },
            r#"{"error":"lease_missing","why":"lease 4 is not there: it ended or was never granted, and everything it held is lost; grant a new one"}"#,
        );
        check(OpResult::Key { found: None }, r#"{"found":null}"#);
        check(OpResult::Key { found: Some(key("k", b"v")) }, &format!(r#"{{"found":{k}}}"#));
        check(
            OpResult::Keys { keys: vec![key("k", b"v")], count: 5, more: true },
            &format!(r#"{{"keys":[{k}],"count":5,"more":true}}"#),
        );
        check(OpResult::Deleted { count: 0, prev: vec![] }, r#"{"deleted":0}"#);
        check(
            OpResult::Deleted { count: 1, prev: vec![key("k", b"v")] },
            &format!(r#"{{"deleted":1,"prev":[{k}]}}"#),
        );
        check(OpResult::Number { value: -3 }, r#"{"number":-3}"#);
        check(
            OpResult::Appended { partition: 1, first: Offset(5), next: Offset(7) },
            r#"{"partition":1,"offset":5,"next":7}"#,
        );
        check(
            OpResult::Stream { partitions: vec![(Offset(1), Offset(9))] },
            r#"{"partitions":[{"partition":0,"first":1,"next":9}]}"#,
        );
        let delivery = Delivery { partition: 0, offset: Offset(5), attempt: 2 };
        check(
            OpResult::Settled { settled: 1, lost: vec![delivery] },
            r#"{"settled":1,"lost":[{"partition":0,"offset":5,"attempt":2}]}"#,
        );
        check(
            OpResult::Lease { lease: LeaseId(4), ttl: Millis(10), left: Millis(9) },
            r#"{"lease":4,"ttl_ms":10,"left_ms":9}"#,
        );
        check(OpResult::Token { token: FencingToken(7) }, r#"{"token":7}"#);
        let held = Holder {
            lease: LeaseId(4),
            request: 1,
            token: FencingToken(7),
            mode: LockMode::Semaphore { permits: 2 },
            value: "v".into(),
            since: WallTime(0),
        };
        check(
            OpResult::Lock { holders: vec![held], waiting: 3 },
            r#"{"holders":[{"lease":4,"request":1,"token":7,"mode":{"semaphore":2},"value":"v","since":"1970-01-01T00:00:00.000Z"}],"waiting":3}"#,
        );
        check(OpResult::Scheduled { replaced: true }, r#"{"replaced":true}"#);
        check(OpResult::Claim { answer: None, token: FencingToken(7) }, r#"{"token":7}"#);
        check(OpResult::Claim { answer: Some("[1]".into()), token: FencingToken(0) }, r#"{"answer":[1]}"#);
        let report = LimitReport {
            name: "n".into(),
            limit: 10,
            remaining: 9,
            retry_after: Millis(0),
            reset: Millis(100),
        };
        check(
            OpResult::Limit { report },
            r#"{"limit":{"name":"n","limit":10,"remaining":9,"retry_after_ms":0,"reset_ms":100}}"#,
        );
        check(
            OpResult::Nested { branch: Branch::Else, results: vec![OpResult::Done {}] },
            r#"{"branch":"else","results":[{"done":true}]}"#,
        );
    }

    #[test]
    fn a_taken_record_is_read_from_its_payload_or_says_why_not() {
        let at = PayloadRef { index: quorate_types::LogIndex(3), sub: 0 };
        let taken = Taken {
            delivery: Delivery { partition: 0, offset: Offset(5), attempt: 1 },
            at,
            record: 1,
            records: 2,
            wall: WallTime(0),
        };
        let one = OpResult::Nested {
            branch: Branch::Then,
            results: vec![OpResult::Taken { deliveries: vec![taken] }],
        };
        assert_eq!(payloads_of(std::slice::from_ref(&one)), [at]);
        let records =
            ["a", "b"].map(|v| Record { key: Some(v.into()), value: Some(v.into()), headers: vec![] });
        let payloads = Payloads::from([(at, Ok(record::encode(&records).bytes))]);
        let text = result(&one, &payloads, Values::Auto);
        let wanted = r#"{"partition":0,"offset":5,"attempt":1,"time":"1970-01-01T00:00:00.000Z","key":"b","value":"b"}"#;
        assert!(text.contains(wanted), "{text}");
        let gone = Payloads::from([(at, Err("no longer kept".into()))]);
        assert!(result(&one, &gone, Values::Auto).contains("cannot be read: no longer kept"));
        let damaged = Payloads::from([(at, Ok(Bytes::from_static(b"\xff")))]);
        assert!(result(&one, &damaged, Values::Auto).contains("cannot be read"));
    }

    #[test]
    fn a_commit_answers_its_revision_first() {
        let answer = Committed {
            revision: Revision(1078),
            branch: Branch::Then,
            results: vec![OpResult::Done {}],
            limits: vec![],
            replayed: true,
        };
        assert_eq!(
            committed(&answer, &Payloads::new(), Values::Auto),
            r#"{"revision":1078,"branch":"then","results":[{"done":true}],"replayed":true}"#
        );
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        use super::super::{read::parse, request};
        let text = r#"{"partitions":3,"retention":{"bytes":9,"age":"1h"},"compact":true,"protected":false,"guarded":false}"#;
        let settings = parse(text.as_bytes(), |node| node.object(request::stream_settings)).unwrap();
        assert_eq!(stream_settings(&settings).done(), text);
        let text = r#"{"mode":"shared","visibility":"5s","deliveries_max":3,"dead_letter":"d","from":"end"}"#;
        let settings = parse(text.as_bytes(), |node| node.object(request::group_settings)).unwrap();
        assert_eq!(group_settings(&settings).done(), text);
    }
}
