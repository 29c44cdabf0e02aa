//! The JSON grammar of a commit: guards and operations, read into the types the machine decides.
//!
//! Invariant: every operation and guard of `quorate-types` can be written here, under one name each ([`OPERATIONS`],
//! [`GUARDS`]); what is not known is refused, never ignored.
//! Called by: `handlers::*`. Read [`commit`] first.

use super::read::{Fields, Node, Read};
use super::units;
use super::write::{Object, Values};
use quorate_types::{
    Append, Blob, Commit, Compare, Delivery, Fingerprint, Format, GroupMode, GroupName, GroupSettings, Guard,
    Header, Idempotency, IdempotencyKey, Instance, InstanceName, Key, KeyField, KeyRange, LeaseId, LimitName,
    LimitPolicy, LockMode, LockName, Millis, Mode, Offset, OnRefused, Op, Order, PartitionChoice, RangeRead,
    Record, Retention, Revision, ServiceName, Sort, StreamSettings, TaskName, When, codec, record,
};

/// How long an answer is remembered when a request names an idempotency key and no time to live.
pub const IDEMPOTENCY_TTL: Millis = Millis(24 * 3600 * 1000);

/// Names of the guards.
pub const GUARDS: [&str; 14] = [
    "version",
    "create_revision",
    "mod_revision",
    "lease",
    "value",
    "absent",
    "exists",
    "unchanged",
    "fence",
    "leader",
    "limit",
    "slots",
    "at_offset",
    "not_after",
];

/// Names of the operations.
pub const OPERATIONS: [&str; 38] = [
    "get",
    "range",
    "put",
    "delete",
    "delete_range",
    "increment",
    "create_stream",
    "alter_stream",
    "delete_stream",
    "append",
    "trim",
    "stream_info",
    "create_group",
    "delete_group",
    "cursor",
    "take",
    "ack",
    "nack",
    "extend",
    "grant",
    "keep_alive",
    "revoke",
    "lease",
    "acquire",
    "release",
    "lock",
    "campaign",
    "proclaim",
    "resign",
    "schedule",
    "cancel",
    "register",
    "deregister",
    "claim",
    "complete",
    "free_slot",
    "limit",
    "commit",
];

/// Reads a commit: `{idempotency, guards, then, else, mode}`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn commit(node: Node<'_, '_>) -> Read<Commit> {
    nested(node, 1)
}

fn nested(node: Node<'_, '_>, depth: u8) -> Read<Commit> {
    // The limits refuse less deep nesting by their own bound; this one keeps the reader's stack finite.
    if depth > codec::DEPTH_MAX {
        return Err(node.error(format!("commits are nested deeper than {}", codec::DEPTH_MAX)));
    }
    node.object(|fields| {
        let idempotency = fields.maybe("idempotency", idempotency)?;
        let guards = fields.maybe("guards", |node| node.list(guard))?.unwrap_or_default();
        let then = fields.maybe("then", |node| operations(node, depth))?.unwrap_or_default();
        let otherwise = fields.maybe("else", |node| operations(node, depth))?;
        let mode = fields.maybe("mode", mode)?.unwrap_or_default();
        let mut commit = Commit { idempotency, guards, then, otherwise, mode };
        let fingerprint = commit.fingerprint();
        if let Some(idempotency) = &mut commit.idempotency {
            idempotency.fingerprint = fingerprint;
        }
        Ok(commit)
    })
}

fn idempotency(node: Node<'_, '_>) -> Read<Idempotency> {
    node.object(|fields| {
        Ok(Idempotency {
            key: IdempotencyKey(fields.need_name("key", "key_base64")?),
            ttl: fields.maybe("ttl", |node| node.duration())?.unwrap_or(IDEMPOTENCY_TTL),
            fingerprint: Fingerprint::default(),
        })
    })
}

fn mode(node: Node<'_, '_>) -> Read<Mode> {
    match node.text()?.as_str() {
        "atomic" => Ok(Mode::Atomic),
        "each" => Ok(Mode::Each),
        other => Err(node.error(format!("wanted \"atomic\" or \"each\", found \"{other}\""))),
    }
}

fn operations(node: Node<'_, '_>, depth: u8) -> Read<Vec<Op>> {
    node.list(|node| operation(node, depth))
}

/// Reads one guard: `{"version": {…}}`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn guard(node: Node<'_, '_>) -> Read<Guard> {
    node.tagged("guard", |name, node| match name {
        "version" => key_guard(node, KeyField::Version),
        "create_revision" => key_guard(node, KeyField::CreateRevision),
        "mod_revision" => key_guard(node, KeyField::ModRevision),
        "lease" => key_guard(node, KeyField::Lease),
        "value" => node.object(value_guard),
        "absent" => node.object(|fields| Ok(version_guard(fields.key()?, Compare::Equal))),
        "exists" => node.object(|fields| Ok(version_guard(fields.key()?, Compare::NotEqual))),
        "unchanged" => node.object(|fields| {
            Ok(Guard::RangeUnchanged { range: range(fields)?, since: revision(fields, "since")? })
        }),
        "fence" => node.object(|fields| {
            let lock = fields.name("lock", "lock_base64")?;
            let election = fields.name("election", "election_base64")?;
            let lock = match (lock, election) {
                (Some(name), None) | (None, Some(name)) => LockName(name),
                _ => return Err(fields.error("wanted exactly one of lock and election")),
            };
            Ok(Guard::Fence { lock, token: token(fields)? })
        }),
        "leader" => node.object(|fields| {
            Ok(Guard::Leadership { election: election_name(fields)?, lease: need_lease(fields)? })
        }),
        "limit" => node.object(|fields| {
            Ok(Guard::Limit {
                name: limit_name(fields)?,
                policy: policy(fields)?,
                cost: fields.number_or("cost", 1)?,
            })
        }),
        "slots" => node.object(|fields| {
            Ok(Guard::Slots {
                name: limit_name(fields)?,
                max: fields.need("max", |node| node.number())?,
                lease: need_lease(fields)?,
                slot: fields.need_name("slot", "slot_base64")?,
            })
        }),
        "at_offset" => node.object(|fields| {
            Ok(Guard::StreamAt {
                stream: fields.stream()?,
                partition: fields.number_or("partition", 0)?,
                next: fields.need("offset", |node| node.number().map(Offset))?,
            })
        }),
        "not_after" => {
            node.object(|fields| Ok(Guard::NotAfter { deadline: fields.need("time", |node| node.time())? }))
        }
        other => Err(node.error(format!("\"{other}\" is no guard; known: {}", GUARDS.join(", ")))),
    })
}

fn version_guard(key: Key, compare: Compare) -> Guard {
    Guard::Key { key, field: KeyField::Version, compare, wanted: 0 }
}

const COMPARES: [(&str, &str, Compare); 4] = [
    ("is", "is_base64", Compare::Equal),
    ("isnt", "isnt_base64", Compare::NotEqual),
    ("lt", "lt_base64", Compare::Less),
    ("gt", "gt_base64", Compare::Greater),
];

fn key_guard(node: Node<'_, '_>, field: KeyField) -> Read<Guard> {
    node.object(|fields| {
        let key = fields.key()?;
        let mut found = Vec::new();
        for (name, _, compare) in COMPARES {
            if let Some(wanted) = fields.maybe(name, |node| node.number::<u64>())? {
                found.push((compare, wanted));
            }
        }
        match found.as_slice() {
            [(compare, wanted)] => Ok(Guard::Key { key, field, compare: *compare, wanted: *wanted }),
            _ => Err(fields.error("wanted exactly one of is, isnt, lt and gt")),
        }
    })
}

fn value_guard(fields: &mut Fields<'_, '_>) -> Read<Guard> {
    let key = fields.key()?;
    let mut found = Vec::new();
    for (name, base64, compare) in COMPARES {
        if let Some(wanted) = fields.value(name, base64)? {
            found.push((compare, wanted));
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some((compare, wanted)), true) => Ok(Guard::Value { key, compare, wanted }),
        _ => Err(fields.error("wanted exactly one of is, isnt, lt and gt, or its base64 twin")),
    }
}

/// Reads one operation: `{"put": {…}}`.
fn operation(node: Node<'_, '_>, depth: u8) -> Read<Op> {
    node.tagged("operation", |name, node| match name {
        "commit" => Ok(Op::Nested { commit: Box::new(nested(node, depth + 1)?) }),
        "schedule" => node.object(|fields| schedule(fields, None, depth)),
        name if OPERATIONS.contains(&name) => node.object(|fields| plain_operation(name, fields)),
        other => Err(node.error(format!("\"{other}\" is no operation; known: {}", OPERATIONS.join(", ")))),
    })
}

/// The operations that hold no commit.
fn plain_operation(name: &str, fields: &mut Fields<'_, '_>) -> Read<Op> {
    Ok(match name {
        "get" => Op::Get { key: fields.key()? },
        "range" => Op::Range { read: range_read(fields)? },
        "put" => Op::Put {
            key: fields.key()?,
            value: fields.need_value("value", "value_base64")?,
            lease: lease(fields)?,
            prev: fields.flag("prev")?,
        },
        "delete" => Op::Delete { key: fields.key()?, prev: fields.flag("prev")? },
        "delete_range" => Op::DeleteRange { range: range(fields)?, prev: fields.flag("prev")? },
        "increment" => Op::Increment {
            key: fields.key()?,
            by: fields.number_or("by", 1)?,
            min: fields.number_or("min", i64::MIN)?,
            max: fields.number_or("max", i64::MAX)?,
        },
        "create_stream" => Op::CreateStream { stream: fields.stream()?, settings: stream_settings(fields)? },
        "alter_stream" => Op::AlterStream { stream: fields.stream()?, settings: stream_settings(fields)? },
        "delete_stream" => Op::DeleteStream { stream: fields.stream()? },
        "append" => {
            let stream = fields.stream()?;
            Op::Append { append: append(fields, stream)? }
        }
        "trim" => Op::Trim {
            stream: fields.stream()?,
            partition: fields.number_or("partition", 0)?,
            before: fields.need("before", |node| node.number().map(Offset))?,
        },
        "stream_info" => Op::StreamInfo { stream: fields.stream()? },
        "create_group" => Op::CreateGroup {
            stream: fields.stream()?,
            group: group_name(fields)?,
            settings: group_settings(fields)?,
        },
        "delete_group" => Op::DeleteGroup { stream: fields.stream()?, group: group_name(fields)? },
        "cursor" | "take" | "ack" | "nack" | "extend" => {
            let (stream, group) = (fields.stream()?, group_name(fields)?);
            group_operation(name, fields, stream, group)?
        }
        "grant" | "keep_alive" | "revoke" | "lease" => lease_operation(name, fields)?,
        "acquire" | "release" | "lock" => {
            let lock = LockName(fields.need_name("lock", "lock_base64")?);
            lock_operation(name, fields, lock)?
        }
        "campaign" | "proclaim" | "resign" => {
            let election = election_name(fields)?;
            election_operation(name, fields, election)?
        }
        "cancel" => Op::Cancel { task: TaskName(fields.need_name("task", "task_base64")?) },
        "register" => {
            let (service, instance) = instance_name(fields)?;
            Op::Register { service, instance, lease: need_lease(fields)?, info: instance_info(fields)? }
        }
        "deregister" => {
            let (service, instance) = instance_name(fields)?;
            Op::Deregister { service, instance }
        }
        "claim" => Op::Claim {
            key: IdempotencyKey(fields.need_name("key", "key_base64")?),
            ttl: fields.maybe("ttl", |node| node.duration())?.unwrap_or(IDEMPOTENCY_TTL),
            lease: lease(fields)?,
            fingerprint: Fingerprint(xxhash_rust::xxh3::xxh3_128(
                &fields.value("request", "request_base64")?.unwrap_or_default(),
            )),
        },
        "complete" => Op::Complete {
            key: IdempotencyKey(fields.need_name("key", "key_base64")?),
            token: token(fields)?,
            answer: fields.need_value("answer", "answer_base64")?,
        },
        "free_slot" => Op::FreeSlot {
            name: limit_name(fields)?,
            lease: need_lease(fields)?,
            slot: fields.need_name("slot", "slot_base64")?,
        },
        "limit" => Op::LimitPeek { name: limit_name(fields)?, policy: policy(fields)? },
        // `operation` handles "commit" and "schedule" and refuses what is not in the list.
        other => return Err(fields.error(format!("\"{other}\" is no operation"))),
    })
}

/// Reads the rest of `cursor`, `take`, `ack`, `nack` or `extend`, once stream and group are known.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn group_operation(name: &str, fields: &mut Fields<'_, '_>, stream: Key, group: GroupName) -> Read<Op> {
    Ok(match name {
        "cursor" => Op::CursorCommit {
            stream,
            group,
            partition: fields.number_or("partition", 0)?,
            offset: fields.need("offset", |node| node.number().map(Offset))?,
            expected: fields.maybe("expected", |node| node.number().map(Offset))?,
        },
        "take" => Op::Take {
            stream,
            group,
            consumer: fields.name("consumer", "consumer_base64")?.unwrap_or_default(),
            max: fields.number_or("max", 1)?,
            visibility: fields.maybe("visibility", |node| node.duration())?,
        },
        "ack" => Op::Ack { stream, group, deliveries: deliveries(fields)? },
        "nack" => Op::Nack {
            stream,
            group,
            deliveries: deliveries(fields)?,
            delay: fields.maybe("delay", |node| node.duration())?.unwrap_or_default(),
        },
        _ => Op::Extend {
            stream,
            group,
            deliveries: deliveries(fields)?,
            visibility: fields.need("visibility", |node| node.duration())?,
        },
    })
}

fn lease_operation(name: &str, fields: &mut Fields<'_, '_>) -> Read<Op> {
    Ok(match name {
        "grant" => Op::LeaseGrant { lease: lease(fields)?, ttl: fields.need("ttl", |node| node.duration())? },
        "keep_alive" => Op::LeaseKeepAlive { lease: need_lease(fields)? },
        "revoke" => Op::LeaseRevoke { lease: need_lease(fields)? },
        _ => Op::LeaseInfo { lease: need_lease(fields)? },
    })
}

fn lock_operation(name: &str, fields: &mut Fields<'_, '_>, lock: LockName) -> Read<Op> {
    Ok(match name {
        "acquire" => Op::Acquire {
            lock,
            lease: need_lease(fields)?,
            mode: lock_mode(fields)?,
            request: fields.number_or("request", 0)?,
            value: fields.value("value", "value_base64")?.unwrap_or_default(),
        },
        "release" => Op::Release { lock, token: token(fields)? },
        _ => Op::LockInfo { lock },
    })
}

fn election_operation(name: &str, fields: &mut Fields<'_, '_>, election: LockName) -> Read<Op> {
    Ok(match name {
        "campaign" => Op::Campaign {
            election,
            lease: need_lease(fields)?,
            request: fields.number_or("request", 0)?,
            value: fields.value("value", "value_base64")?.unwrap_or_default(),
        },
        "proclaim" => Op::Proclaim {
            election,
            token: token(fields)?,
            value: fields.need_value("value", "value_base64")?,
        },
        _ => Op::Resign { election, token: token(fields)? },
    })
}

/// Reads the members of `schedule`: `task` (unless the path named it), `in` or `at`, `commit`, `on_refused`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn schedule(fields: &mut Fields<'_, '_>, task: Option<TaskName>, depth: u8) -> Read<Op> {
    let task = match task {
        Some(task) => task,
        None => TaskName(fields.need_name("task", "task_base64")?),
    };
    let after = fields.maybe("in", |node| node.duration())?;
    let time = fields.maybe("at", |node| node.time())?;
    let when = match (after, time) {
        (Some(after), None) => When::In { after },
        (None, Some(time)) => When::At { time },
        _ => return Err(fields.error("wanted exactly one of in (a duration) and at (a time)")),
    };
    let commit = fields.need("commit", |node| nested(node, depth + 1))?;
    let on_refused = fields.maybe("on_refused", |node| on_refused(node, &task))?.unwrap_or_default();
    Ok(Op::Schedule { task, when, commit: Box::new(commit), on_refused })
}

fn on_refused(node: Node<'_, '_>, task: &TaskName) -> Read<OnRefused> {
    if node.is_text() {
        return match node.text()?.as_str() {
            "drop" => Ok(OnRefused::Drop),
            other => Err(node.error(format!(
                "wanted \"drop\", {{\"retry\": …}} or {{\"dead_letter\": …}}, found \"{other}\""
            ))),
        };
    }
    node.tagged("policy", |name, node| match name {
        "retry" => node.object(|fields| {
            Ok(OnRefused::Retry {
                attempts: fields.need("attempts", |node| node.number())?,
                backoff: fields.need("backoff", |node| node.duration())?,
            })
        }),
        "dead_letter" => node.object(|fields| {
            let stream = fields.stream()?;
            Ok(OnRefused::DeadLetter { letter: Box::new(dead_letter(stream, task)) })
        }),
        other => Err(node.error(format!("\"{other}\" is no policy; known: drop, retry, dead_letter"))),
    })
}

/// The record that is appended when a task's commit is refused: its key and its value name the task.
fn dead_letter(stream: Key, task: &TaskName) -> Append {
    let value = Object::new().bytes("task", &task.0, Values::Auto).done();
    let letter = Record { key: Some(task.0.clone()), value: Some(value.into()), headers: vec![] };
    let partition = PartitionChoice::Hash { hash: record::partition_hash(&task.0) };
    append_of(stream, partition, &[letter], true)
}

/// Reads a range of keys: `key`, `prefix`, or `from` with or without `to`, or their base64 twins.
///
/// # Errors
/// None of them is there, or they do not fit together.
pub fn range(fields: &mut Fields<'_, '_>) -> Read<KeyRange> {
    let space = fields.keyspace()?;
    let key = fields.name("key", "key_base64")?;
    let prefix = fields.name("prefix", "prefix_base64")?;
    let from = fields.name("from", "from_base64")?;
    let to = fields.name("to", "to_base64")?;
    match (key, prefix, from, to) {
        (Some(name), None, None, None) => Ok(KeyRange::single(Key { space, name })),
        (None, Some(name), None, None) => Ok(KeyRange::prefix(Key { space, name })),
        (None, None, None, None) => {
            Err(fields.error("the range is missing: send key, prefix, or from and to"))
        }
        (None, None, from, end) => Ok(KeyRange { start: Key { space, name: from.unwrap_or_default() }, end }),
        _ => Err(fields.error("wanted one range: key, or prefix, or from and to")),
    }
}

fn range_read(fields: &mut Fields<'_, '_>) -> Read<RangeRead> {
    Ok(RangeRead {
        range: range(fields)?,
        limit: fields.number_or("limit", 0)?,
        keys_only: fields.flag("keys_only")?,
        count_only: fields.flag("count_only")?,
        sort: fields
            .maybe("sort", |node| sort(&node.text()?).map_err(|why| node.error(why)))?
            .unwrap_or_default(),
        order: fields
            .maybe("order", |node| order(&node.text()?).map_err(|why| node.error(why)))?
            .unwrap_or_default(),
        at: fields.maybe("at", |node| node.number().map(Revision))?,
    })
}

/// Reads the name of a sort key.
///
/// # Errors
/// Lists the names.
pub fn sort(text: &str) -> Result<Sort, String> {
    match text {
        "key" => Ok(Sort::Key),
        "version" => Ok(Sort::Version),
        "create_revision" => Ok(Sort::Create),
        "mod_revision" => Ok(Sort::Mod),
        "value" => Ok(Sort::Value),
        other => {
            Err(format!("\"{other}\" is no sort; known: key, version, create_revision, mod_revision, value"))
        }
    }
}

/// Reads the name of an order.
///
/// # Errors
/// Lists the names.
pub fn order(text: &str) -> Result<Order, String> {
    match text {
        "ascending" => Ok(Order::Ascending),
        "descending" => Ok(Order::Descending),
        other => Err(format!("\"{other}\" is no order; known: ascending, descending")),
    }
}

/// Reads `partitions`, `retention`, `compact` and `protected`. A stream declared here is protected unless it says no.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn stream_settings(fields: &mut Fields<'_, '_>) -> Read<StreamSettings> {
    let retention = fields.maybe("retention", |node| {
        node.object(|fields| {
            Ok(Retention {
                bytes: fields.maybe("bytes", |node| node.number())?,
                age: fields.maybe("age", |node| node.duration())?,
            })
        })
    })?;
    Ok(StreamSettings {
        partitions: fields.number_or("partitions", 1)?,
        retention: retention.unwrap_or_default(),
        compact: fields.flag("compact")?,
        protected: fields.maybe("protected", |node| node.boolean())?.unwrap_or(true),
        guarded: fields.flag("guarded")?,
    })
}

/// Reads `mode`, `from`, and for a shared group `visibility`, `deliveries_max` and `dead_letter`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn group_settings(fields: &mut Fields<'_, '_>) -> Read<GroupSettings> {
    let shared = fields.maybe("mode", |node| match node.text()?.as_str() {
        "partitioned" => Ok(false),
        "shared" => Ok(true),
        other => Err(node.error(format!("wanted \"partitioned\" or \"shared\", found \"{other}\""))),
    })?;
    let from_start = fields.maybe("from", |node| match node.text()?.as_str() {
        "start" => Ok(true),
        "end" => Ok(false),
        other => Err(node.error(format!("wanted \"start\" or \"end\", found \"{other}\""))),
    })?;
    let mode = if shared.unwrap_or(false) {
        GroupMode::Shared {
            visibility: fields.maybe("visibility", |node| node.duration())?.unwrap_or(Millis(30_000)),
            deliveries_max: fields.number_or("deliveries_max", 0)?,
            dead_letter: fields.name("dead_letter", "dead_letter_base64")?.map(Key::new),
        }
    } else {
        GroupMode::Partitioned
    };
    Ok(GroupSettings { mode, from_start: from_start.unwrap_or(true) })
}

/// Reads the members of an append after its stream: one record, or `records`; `partition`, `create`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn append(fields: &mut Fields<'_, '_>, stream: Key) -> Read<Append> {
    let sent = records(fields)?;
    let partition = fields.maybe("partition", |node| node.number())?;
    let create = fields.maybe("create", |node| node.boolean())?.unwrap_or(true);
    let partition = match partition {
        Some(partition) => PartitionChoice::Number { partition },
        None => partition_of(&sent).ok_or_else(|| {
            fields.error("the records have different keys: name the partition, or append each key by itself")
        })?,
    };
    Ok(append_of(stream, partition, &sent, create))
}

/// The append of `records` to one partition.
#[must_use]
pub fn append_of(stream: Key, partition: PartitionChoice, records: &[Record], create: bool) -> Append {
    Append {
        stream,
        partition,
        format: Format::Records,
        records: u32::try_from(records.len()).unwrap_or(u32::MAX),
        payload: record::encode(records),
        create,
    }
}

/// Where records without a named partition go; nothing when their keys differ.
fn partition_of(records: &[Record]) -> Option<PartitionChoice> {
    let first = records.first().and_then(|record| record.key.as_ref());
    if records.iter().any(|record| record.key.as_ref() != first) {
        return None;
    }
    Some(
        first.map_or(PartitionChoice::Any, |key| PartitionChoice::Hash { hash: record::partition_hash(key) }),
    )
}

/// Reads the records of an append: the members of one, or the list `records`.
///
/// # Errors
/// Both or neither are there, or the list is empty.
pub fn records(fields: &mut Fields<'_, '_>) -> Read<Vec<Record>> {
    let list = fields.maybe("records", |node| node.list(|node| node.object(record_of)))?;
    let key = fields.name("key", "key_base64")?;
    let value = fields.value("value", "value_base64")?;
    let tombstone = fields.flag("tombstone")?;
    let headers = fields.maybe("headers", headers)?;
    let one = key.is_some() || value.is_some() || tombstone || headers.is_some();
    match (list, one) {
        (Some(list), false) if list.is_empty() => Err(fields.error("records is empty: append one or more")),
        (Some(list), false) => Ok(list),
        (Some(_), true) => {
            Err(fields.error("has both records and the members of one record: send one of them"))
        }
        (None, _) => Ok(vec![whole_record(fields, key, value, tombstone, headers)?]),
    }
}

fn record_of(fields: &mut Fields<'_, '_>) -> Read<Record> {
    let key = fields.name("key", "key_base64")?;
    let value = fields.value("value", "value_base64")?;
    let tombstone = fields.flag("tombstone")?;
    let headers = fields.maybe("headers", headers)?;
    whole_record(fields, key, value, tombstone, headers)
}

fn whole_record(
    fields: &Fields<'_, '_>,
    key: Option<Blob>,
    value: Option<Blob>,
    tombstone: bool,
    headers: Option<Vec<Header>>,
) -> Read<Record> {
    if value.is_some() == tombstone {
        let why =
            "wanted exactly one of value, value_base64 and tombstone: true (a tombstone deletes its key)";
        return Err(fields.error(why));
    }
    let value = value.map(|value| bytes::Bytes::copy_from_slice(&value));
    Ok(Record { key, value, headers: headers.unwrap_or_default() })
}

/// Headers: `{"name": "text"}`, or a list of `{name, value}` where names repeat or values are binary.
fn headers(node: Node<'_, '_>) -> Read<Vec<Header>> {
    if node.is_object() {
        return node.pairs(|name, node| Ok(Header { name: name.into(), value: node.text()?.into() }));
    }
    node.list(|node| {
        node.object(|fields| {
            Ok(Header {
                name: fields.need_name("name", "name_base64")?,
                value: fields.need_name("value", "value_base64")?,
            })
        })
    })
}

/// Reads `deliveries`: a list of `{partition, offset, attempt}`.
fn deliveries(fields: &mut Fields<'_, '_>) -> Read<Vec<Delivery>> {
    fields.need("deliveries", |node| {
        node.list(|node| {
            node.object(|fields| {
                Ok(Delivery {
                    partition: fields.number_or("partition", 0)?,
                    offset: fields.need("offset", |node| node.number().map(Offset))?,
                    attempt: fields.number_or("attempt", 1)?,
                })
            })
        })
    })
}

/// Reads a limit's policy: `rate` and `burst`, or `window`, `count` and `per`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn policy(fields: &mut Fields<'_, '_>) -> Read<LimitPolicy> {
    let rate = fields.maybe("rate", |node| units::rate(&node.text()?).map_err(|why| node.error(why)))?;
    let burst = fields.maybe("burst", |node| node.number())?;
    let window = fields.maybe("window", |node| match node.text()?.as_str() {
        "fixed" => Ok(false),
        "sliding" => Ok(true),
        other => Err(node.error(format!("wanted \"fixed\" or \"sliding\", found \"{other}\""))),
    })?;
    let count = fields.maybe("count", |node| node.number())?;
    let per = fields.maybe("per", |node| node.duration())?;
    match (rate, burst, window, count, per) {
        (Some((count, period)), burst, None, None, None) => {
            Ok(LimitPolicy::Bucket { count, period, burst: burst.unwrap_or(count) })
        }
        (None, None, Some(false), Some(count), Some(window)) => Ok(LimitPolicy::FixedWindow { count, window }),
        (None, None, Some(true), Some(count), Some(window)) => Ok(LimitPolicy::SlidingWindow { count, window }),
        _ => Err(fields.error(
            "wanted a policy: rate (\"100/s\") with or without burst, or window (\"fixed\", \"sliding\") with count and per",
        )),
    }
}

/// Reads `mode` of a lock: `"exclusive"` (the default), `"shared"` or `{"semaphore": N}`.
///
/// # Errors
/// It is none of them.
pub fn lock_mode(fields: &mut Fields<'_, '_>) -> Read<LockMode> {
    let mode = fields.maybe("mode", |node| {
        if node.is_text() {
            return match node.text()?.as_str() {
                "exclusive" => Ok(LockMode::Exclusive),
                "shared" => Ok(LockMode::Shared),
                other => Err(node.error(format!(
                    "wanted \"exclusive\", \"shared\" or {{\"semaphore\": N}}, found \"{other}\""
                ))),
            };
        }
        node.tagged("mode", |name, node| match name {
            "semaphore" => Ok(LockMode::Semaphore { permits: node.number()? }),
            other => Err(node.error(format!("\"{other}\" is no mode; known: exclusive, shared, semaphore"))),
        })
    })?;
    Ok(mode.unwrap_or(LockMode::Exclusive))
}

/// Reads what is known of an instance: `address`, `weight`, `zone`, `healthy`, `metadata`.
///
/// # Errors
/// Names the place and what was wanted there.
pub fn instance_info(fields: &mut Fields<'_, '_>) -> Read<Instance> {
    Ok(Instance {
        address: fields.need_name("address", "address_base64")?,
        weight: fields.number_or("weight", 1)?,
        zone: fields.name("zone", "zone_base64")?.unwrap_or_default(),
        healthy: fields.maybe("healthy", |node| node.boolean())?.unwrap_or(true),
        metadata: fields
            .maybe("metadata", |node| node.pairs(|name, node| Ok((name.into(), node.text()?.into()))))?
            .unwrap_or_default(),
    })
}

fn instance_name(fields: &mut Fields<'_, '_>) -> Read<(ServiceName, InstanceName)> {
    let service = ServiceName(fields.need_name("service", "service_base64")?);
    Ok((service, InstanceName(fields.need_name("instance", "instance_base64")?)))
}

fn group_name(fields: &mut Fields<'_, '_>) -> Read<GroupName> {
    fields.need_name("group", "group_base64").map(GroupName)
}

fn limit_name(fields: &mut Fields<'_, '_>) -> Read<LimitName> {
    fields.need_name("name", "name_base64").map(LimitName)
}

fn election_name(fields: &mut Fields<'_, '_>) -> Read<LockName> {
    fields.need_name("election", "election_base64").map(LockName)
}

fn revision(fields: &mut Fields<'_, '_>, name: &'static str) -> Read<Revision> {
    fields.need(name, |node| node.number().map(Revision))
}

/// Reads `token`.
///
/// # Errors
/// Absent, or no number.
pub fn token(fields: &mut Fields<'_, '_>) -> Read<quorate_types::FencingToken> {
    fields.need("token", |node| node.number().map(quorate_types::FencingToken))
}

/// Reads `lease`; none when absent.
///
/// # Errors
/// It is no number.
pub fn lease(fields: &mut Fields<'_, '_>) -> Read<LeaseId> {
    fields.number_or("lease", 0).map(LeaseId)
}

fn need_lease(fields: &mut Fields<'_, '_>) -> Read<LeaseId> {
    fields.need("lease", |node| node.number().map(LeaseId))
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;
    use quorate_types::{FencingToken, WallTime};

    fn read(text: &str) -> Result<Commit, String> {
        parse(text.as_bytes(), commit).map_err(|error| error.to_string())
    }

    fn check_op(text: &str, wanted: Op) {
        let found =
            read(&format!(r#"{{"then":[{text}]}}"#)).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found, Commit::of(vec![wanted]), "{text}");
    }

    fn check_guard(text: &str, wanted: Guard) {
        let found =
            read(&format!(r#"{{"guards":[{text}]}}"#)).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found, Commit { guards: vec![wanted], ..Commit::default() }, "{text}");
    }

    fn check_error(text: &str, wanted: &str) {
        let error = read(text).expect_err(text);
        assert!(error.contains(wanted), "{text}\n found: {error}\nwanted: {wanted}");
    }

    fn one_append(stream: &str, key: Option<&str>, value: &'static str) -> Op {
        let record = Record { key: key.map(Blob::from), value: Some(value.into()), headers: vec![] };
        let partition = key.map_or(PartitionChoice::Any, |key| PartitionChoice::Hash {
            hash: record::partition_hash(key.as_bytes()),
        });
        Op::Append { append: append_of(stream.into(), partition, &[record], true) }
    }

    #[test]
    fn the_example_of_the_design_builds_its_commit() {
        let text = r#"
        { "idempotency": {"key": "pay-7f3a", "ttl": "24h"},
          "guards":  [ {"fence":   {"lock": "orders/42", "token": 1077}},
                       {"version": {"key": "orders/42", "is": 3}},
                       {"limit":   {"name": "tenant/acme", "rate": "100/s", "cost": 1}} ],
          "then":    [ {"put":     {"key": "orders/42", "value": {"state": "paid"}}},
                       {"append":  {"stream": "orders", "key": "42", "value": {"type": "OrderPaid"}}},
                       {"schedule":{"task": "remind/42", "in": "72h", "commit": {"then": [
                                      {"append": {"stream": "reminders", "value": {"order": 42}}}]}}},
                       {"release": {"lock": "orders/42", "token": 1077}} ] }"#;
        let mut wanted = Commit {
            idempotency: None,
            guards: vec![
                Guard::Fence { lock: "orders/42".into(), token: FencingToken(1077) },
                Guard::Key {
                    key: "orders/42".into(),
                    field: KeyField::Version,
                    compare: Compare::Equal,
                    wanted: 3,
                },
                Guard::Limit {
                    name: "tenant/acme".into(),
                    policy: LimitPolicy::Bucket { count: 100, period: Millis(1000), burst: 100 },
                    cost: 1,
                },
            ],
            then: vec![
                Op::Put {
                    key: "orders/42".into(),
                    value: r#"{"state":"paid"}"#.into(),
                    lease: LeaseId(0),
                    prev: false,
                },
                one_append("orders", Some("42"), r#"{"type":"OrderPaid"}"#),
                Op::Schedule {
                    task: "remind/42".into(),
                    when: When::In { after: Millis(72 * 3600 * 1000) },
                    commit: Box::new(Commit::of(vec![one_append("reminders", None, r#"{"order":42}"#)])),
                    on_refused: OnRefused::Drop,
                },
                Op::Release { lock: "orders/42".into(), token: FencingToken(1077) },
            ],
            otherwise: None,
            mode: Mode::Atomic,
        };
        wanted.idempotency = Some(Idempotency {
            key: "pay-7f3a".into(),
            ttl: Millis(24 * 3600 * 1000),
            fingerprint: wanted.fingerprint(),
        });
        assert_eq!(read(text), Ok(wanted));
    }

    #[test]
    fn guards_follow_their_grammar() {
        let key = |field, compare, wanted| Guard::Key { key: "k".into(), field, compare, wanted };
        check_guard(r#"{"version":{"key":"k","is":3}}"#, key(KeyField::Version, Compare::Equal, 3));
        check_guard(r#"{"version":{"key":"k","isnt":3}}"#, key(KeyField::Version, Compare::NotEqual, 3));
        check_guard(
            r#"{"create_revision":{"key":"k","lt":3}}"#,
            key(KeyField::CreateRevision, Compare::Less, 3),
        );
        check_guard(
            r#"{"mod_revision":{"key":"k","gt":3}}"#,
            key(KeyField::ModRevision, Compare::Greater, 3),
        );
        check_guard(r#"{"lease":{"key":"k","is":0}}"#, key(KeyField::Lease, Compare::Equal, 0));
        check_guard(r#"{"absent":{"key":"k"}}"#, key(KeyField::Version, Compare::Equal, 0));
        check_guard(r#"{"exists":{"key_base64":"aw=="}}"#, key(KeyField::Version, Compare::NotEqual, 0));
        let value = |compare, wanted: &[u8]| Guard::Value { key: "k".into(), compare, wanted: wanted.into() };
        check_guard(r#"{"value":{"key":"k","is":"x"}}"#, value(Compare::Equal, b"x"));
        check_guard(r#"{"value":{"key":"k","gt":{"a": 1}}}"#, value(Compare::Greater, br#"{"a":1}"#));
        check_guard(r#"{"value":{"key":"k","isnt_base64":"/w=="}}"#, value(Compare::NotEqual, b"\xff"));
        check_guard(
            r#"{"unchanged":{"prefix":"a/","since":9}}"#,
            Guard::RangeUnchanged { range: KeyRange::prefix("a/".into()), since: Revision(9) },
        );
        check_guard(
            r#"{"unchanged":{"from":"a","to":"b","keyspace":2,"since":9}}"#,
            Guard::RangeUnchanged {
                range: KeyRange {
                    start: Key { space: quorate_types::Keyspace(2), name: "a".into() },
                    end: Some("b".into()),
                },
                since: Revision(9),
            },
        );
        let fence = Guard::Fence { lock: "l".into(), token: FencingToken(7) };
        check_guard(r#"{"fence":{"lock":"l","token":7}}"#, fence.clone());
        check_guard(r#"{"fence":{"election":"l","token":7}}"#, fence);
        check_guard(
            r#"{"leader":{"election":"e","lease":4}}"#,
            Guard::Leadership { election: "e".into(), lease: LeaseId(4) },
        );
        let limit = |policy, cost| Guard::Limit { name: "n".into(), policy, cost };
        check_guard(
            r#"{"limit":{"name":"n","rate":"5/10s","burst":9,"cost":2}}"#,
            limit(LimitPolicy::Bucket { count: 5, period: Millis(10_000), burst: 9 }, 2),
        );
        check_guard(
            r#"{"limit":{"name":"n","window":"fixed","count":3,"per":"1m"}}"#,
            limit(LimitPolicy::FixedWindow { count: 3, window: Millis(60_000) }, 1),
        );
        check_guard(
            r#"{"limit":{"name":"n","window":"sliding","count":3,"per":500}}"#,
            limit(LimitPolicy::SlidingWindow { count: 3, window: Millis(500) }, 1),
        );
        check_guard(
            r#"{"slots":{"name":"n","max":2,"lease":4,"slot":"s"}}"#,
            Guard::Slots { name: "n".into(), max: 2, lease: LeaseId(4), slot: "s".into() },
        );
        check_guard(
            r#"{"at_offset":{"stream":"s","partition":1,"offset":8}}"#,
            Guard::StreamAt { stream: "s".into(), partition: 1, next: Offset(8) },
        );
        check_guard(
            r#"{"not_after":{"time":"1970-01-01T00:00:01Z"}}"#,
            Guard::NotAfter { deadline: WallTime(1000) },
        );
        check_guard(r#"{"not_after":{"time":1000}}"#, Guard::NotAfter { deadline: WallTime(1000) });
    }

    #[test]
    fn key_operations_follow_their_grammar() {
        check_op(r#"{"get":{"key":"k"}}"#, Op::Get { key: "k".into() });
        check_op(
            r#"{"range":{"prefix":"a","limit":5,"keys_only":true,"sort":"mod_revision","order":"descending","at":3}}"#,
            Op::Range {
                read: RangeRead {
                    limit: 5,
                    keys_only: true,
                    sort: Sort::Mod,
                    order: Order::Descending,
                    at: Some(Revision(3)),
                    ..RangeRead::of(KeyRange::prefix("a".into()))
                },
            },
        );
        check_op(
            r#"{"put":{"key":"k","value_base64":"/w==","lease":3,"prev":true}}"#,
            Op::Put { key: "k".into(), value: (&[0xff][..]).into(), lease: LeaseId(3), prev: true },
        );
        check_op(r#"{"delete":{"key":"k","prev":true}}"#, Op::Delete { key: "k".into(), prev: true });
        check_op(
            r#"{"delete_range":{"from":"a"}}"#,
            Op::DeleteRange { range: KeyRange { start: "a".into(), end: None }, prev: false },
        );
        check_op(
            r#"{"increment":{"key":"k","by":-2,"min":0}}"#,
            Op::Increment { key: "k".into(), by: -2, min: 0, max: i64::MAX },
        );
    }

    #[test]
    fn stream_and_group_operations_follow_their_grammar() {
        let settings = StreamSettings {
            partitions: 3,
            retention: Retention { bytes: Some(9), age: Some(Millis(1000)) },
            compact: true,
            protected: true,
            guarded: true,
        };
        let text =
            r#""stream":"s","partitions":3,"retention":{"bytes":9,"age":"1s"},"compact":true,"guarded":true"#;
        check_op(
            &format!(r#"{{"create_stream":{{{text}}}}}"#),
            Op::CreateStream { stream: "s".into(), settings: settings.clone() },
        );
        check_op(
            &format!(r#"{{"alter_stream":{{{text}}}}}"#),
            Op::AlterStream { stream: "s".into(), settings },
        );
        check_op(r#"{"delete_stream":{"stream":"s"}}"#, Op::DeleteStream { stream: "s".into() });
        let header = |name: &str, value: &[u8]| Header { name: name.into(), value: value.into() };
        let records = [
            Record { key: Some("a".into()), value: Some("1".into()), headers: vec![header("h", b"x")] },
            Record {
                key: Some("b".into()),
                value: None,
                headers: vec![header("h", b"\xff"), header("h", b"y")],
            },
        ];
        check_op(
            r#"{"append":{"stream":"s","partition":2,"create":false,"records":[
                {"key":"a","value":1,"headers":{"h":"x"}},
                {"key":"b","tombstone":true,"headers":[{"name":"h","value_base64":"/w=="},{"name":"h","value":"y"}]}]}}"#,
            Op::Append {
                append: append_of("s".into(), PartitionChoice::Number { partition: 2 }, &records, false),
            },
        );
        check_op(
            r#"{"trim":{"stream":"s","before":8}}"#,
            Op::Trim { stream: "s".into(), partition: 0, before: Offset(8) },
        );
        check_op(r#"{"stream_info":{"stream":"s"}}"#, Op::StreamInfo { stream: "s".into() });
        let (stream, group) = (Key::new("s"), GroupName::from("g"));
        check_op(
            r#"{"create_group":{"stream":"s","group":"g","mode":"shared","from":"end","visibility":"5s","deliveries_max":3,"dead_letter":"d"}}"#,
            Op::CreateGroup {
                stream: stream.clone(),
                group: group.clone(),
                settings: GroupSettings {
                    mode: GroupMode::Shared {
                        visibility: Millis(5000),
                        deliveries_max: 3,
                        dead_letter: Some("d".into()),
                    },
                    from_start: false,
                },
            },
        );
        check_op(
            r#"{"delete_group":{"stream":"s","group":"g"}}"#,
            Op::DeleteGroup { stream: stream.clone(), group: group.clone() },
        );
        check_op(
            r#"{"cursor":{"stream":"s","group":"g","partition":1,"offset":5,"expected":4}}"#,
            Op::CursorCommit {
                stream: stream.clone(),
                group: group.clone(),
                partition: 1,
                offset: Offset(5),
                expected: Some(Offset(4)),
            },
        );
        check_op(
            r#"{"take":{"stream":"s","group":"g","max":10,"visibility":"9s","consumer":"c"}}"#,
            Op::Take {
                stream: stream.clone(),
                group: group.clone(),
                consumer: "c".into(),
                max: 10,
                visibility: Some(Millis(9000)),
            },
        );
        let deliveries = vec![Delivery { partition: 0, offset: Offset(5), attempt: 2 }];
        let list = r#""stream":"s","group":"g","deliveries":[{"offset":5,"attempt":2}]"#;
        check_op(
            &format!(r#"{{"ack":{{{list}}}}}"#),
            Op::Ack { stream: stream.clone(), group: group.clone(), deliveries: deliveries.clone() },
        );
        check_op(
            &format!(r#"{{"nack":{{{list},"delay":"1s"}}}}"#),
            Op::Nack {
                stream: stream.clone(),
                group: group.clone(),
                deliveries: deliveries.clone(),
                delay: Millis(1000),
            },
        );
        check_op(
            &format!(r#"{{"extend":{{{list},"visibility":"1s"}}}}"#),
            Op::Extend { stream, group, deliveries, visibility: Millis(1000) },
        );
    }

    #[test]
    fn lease_lock_and_election_operations_follow_their_grammar() {
        let lease = LeaseId(4);
        check_op(r#"{"grant":{"ttl":"10s"}}"#, Op::LeaseGrant { lease: LeaseId(0), ttl: Millis(10_000) });
        check_op(r#"{"keep_alive":{"lease":4}}"#, Op::LeaseKeepAlive { lease });
        check_op(r#"{"revoke":{"lease":4}}"#, Op::LeaseRevoke { lease });
        check_op(r#"{"lease":{"lease":4}}"#, Op::LeaseInfo { lease });
        let acquire = |mode, request, value: &str| Op::Acquire {
            lock: "l".into(),
            lease,
            mode,
            request,
            value: value.into(),
        };
        check_op(r#"{"acquire":{"lock":"l","lease":4}}"#, acquire(LockMode::Exclusive, 0, ""));
        check_op(
            r#"{"acquire":{"lock":"l","lease":4,"mode":"shared","request":2,"value":"v"}}"#,
            acquire(LockMode::Shared, 2, "v"),
        );
        check_op(
            r#"{"acquire":{"lock":"l","lease":4,"mode":{"semaphore":3}}}"#,
            acquire(LockMode::Semaphore { permits: 3 }, 0, ""),
        );
        let token = FencingToken(7);
        check_op(r#"{"release":{"lock":"l","token":7}}"#, Op::Release { lock: "l".into(), token });
        check_op(r#"{"lock":{"lock":"l"}}"#, Op::LockInfo { lock: "l".into() });
        check_op(
            r#"{"campaign":{"election":"e","lease":4,"value":"me"}}"#,
            Op::Campaign { election: "e".into(), lease, request: 0, value: "me".into() },
        );
        check_op(
            r#"{"proclaim":{"election":"e","token":7,"value":"we"}}"#,
            Op::Proclaim { election: "e".into(), token, value: "we".into() },
        );
        check_op(r#"{"resign":{"election":"e","token":7}}"#, Op::Resign { election: "e".into(), token });
    }

    #[test]
    fn the_other_operations_follow_their_grammar() {
        let schedule = |when, on_refused| Op::Schedule {
            task: "t".into(),
            when,
            commit: Box::new(Commit::default()),
            on_refused,
        };
        check_op(
            r#"{"schedule":{"task":"t","at":5,"commit":{},"on_refused":{"retry":{"attempts":3,"backoff":"1s"}}}}"#,
            schedule(When::At { time: WallTime(5) }, OnRefused::Retry { attempts: 3, backoff: Millis(1000) }),
        );
        check_op(
            r#"{"schedule":{"task":"t","in":5,"commit":{},"on_refused":{"dead_letter":{"stream":"d"}}}}"#,
            schedule(
                When::In { after: Millis(5) },
                OnRefused::DeadLetter { letter: Box::new(dead_letter("d".into(), &"t".into())) },
            ),
        );
        check_op(r#"{"cancel":{"task":"t"}}"#, Op::Cancel { task: "t".into() });
        check_op(
            r#"{"register":{"service":"s","instance":"i","lease":4,"address":"h:1","zone":"z","metadata":{"a":"b"}}}"#,
            Op::Register {
                service: "s".into(),
                instance: "i".into(),
                lease: LeaseId(4),
                info: Instance {
                    address: "h:1".into(),
                    weight: 1,
                    zone: "z".into(),
                    healthy: true,
                    metadata: vec![("a".into(), "b".into())],
                },
            },
        );
        check_op(
            r#"{"deregister":{"service":"s","instance":"i"}}"#,
            Op::Deregister { service: "s".into(), instance: "i".into() },
        );
        check_op(
            r#"{"claim":{"key":"k","ttl":"1h","lease":4,"request":{"a": 1}}}"#,
            Op::Claim {
                key: "k".into(),
                ttl: Millis(3_600_000),
                lease: LeaseId(4),
                fingerprint: Fingerprint(xxhash_rust::xxh3::xxh3_128(br#"{"a":1}"#)),
            },
        );
        check_op(
            r#"{"complete":{"key":"k","token":7,"answer":[1]}}"#,
            Op::Complete { key: "k".into(), token: FencingToken(7), answer: "[1]".into() },
        );
        check_op(
            r#"{"free_slot":{"name":"n","lease":4,"slot":"s"}}"#,
            Op::FreeSlot { name: "n".into(), lease: LeaseId(4), slot: "s".into() },
        );
        check_op(
            r#"{"limit":{"name":"n","rate":"1/s"}}"#,
            Op::LimitPeek {
                name: "n".into(),
                policy: LimitPolicy::Bucket { count: 1, period: Millis(1000), burst: 1 },
            },
        );
        check_op(
            r#"{"commit":{"mode":"each","else":[]}}"#,
            Op::Nested {
                commit: Box::new(Commit { mode: Mode::Each, otherwise: Some(vec![]), ..Commit::default() }),
            },
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        check_error("[]", "body: wanted an object, found a list");
        check_error(
            r#"{"them":[]}"#,
            r#"body: has the unknown member "them"; known here: idempotency, guards"#,
        );
        check_error(
            r#"{"then":[{"putt":{}}]}"#,
            r#"then[0].putt: "putt" is no operation; known: get, range"#,
        );
        check_error(r#"{"then":[{"put":{},"get":{}}]}"#, "then[0]: wanted an object with one member");
        check_error(
            r#"{"then":[{"put":{"key":"k"}}]}"#,
            "then[0].put: the member value or value_base64 is missing",
        );
        check_error(r#"{"then":[{"put":{"key":1,"value":1}}]}"#, "then[0].put.key: wanted a text, found 1");
        check_error(r#"{"then":[{"grant":{"ttl":"1 h"}}]}"#, "then[0].grant.ttl: \"1 h\" is no duration");
        check_error(r#"{"guards":[{"lock":{}}]}"#, r#""lock" is no guard; known: version"#);
        check_error(r#"{"guards":[{"version":{"key":"k"}}]}"#, "exactly one of is, isnt, lt and gt");
        check_error(
            r#"{"guards":[{"version":{"key":"k","is":1,"gt":0}}]}"#,
            "exactly one of is, isnt, lt and gt",
        );
        check_error(
            r#"{"guards":[{"value":{"key":"k","is":1,"gt":0}}]}"#,
            "exactly one of is, isnt, lt and gt",
        );
        check_error(r#"{"guards":[{"fence":{"token":1}}]}"#, "exactly one of lock and election");
        check_error(r#"{"guards":[{"limit":{"name":"n"}}]}"#, "wanted a policy");
        check_error(
            r#"{"guards":[{"limit":{"name":"n","rate":"x"}}]}"#,
            "guards[0].limit.rate: \"x\" is no rate",
        );
        check_error(r#"{"guards":[{"unchanged":{"since":1}}]}"#, "the range is missing");
        check_error(r#"{"then":[{"delete_range":{"key":"a","prefix":"b"}}]}"#, "wanted one range");
        check_error(
            r#"{"then":[{"append":{"stream":"s"}}]}"#,
            "exactly one of value, value_base64 and tombstone",
        );
        check_error(r#"{"then":[{"append":{"stream":"s","records":[]}}]}"#, "records is empty");
        check_error(
            r#"{"then":[{"append":{"stream":"s","records":[],"value":1}}]}"#,
            "both records and the members",
        );
        check_error(
            r#"{"then":[{"append":{"stream":"s","records":[{"key":"a","value":1},{"key":"b","value":1}]}}]}"#,
            "different keys",
        );
        check_error(r#"{"then":[{"schedule":{"task":"t","commit":{}}}]}"#, "exactly one of in");
        check_error(
            r#"{"then":[{"acquire":{"lock":"l","lease":1,"mode":"both"}}]}"#,
            "then[0].acquire.mode: wanted",
        );
        check_error(r#"{"mode":"maybe"}"#, "mode: wanted \"atomic\" or \"each\"");
        check_error(
            r#"{"then":[{"create_group":{"stream":"s","group":"g","visibility":"1s"}}]}"#,
            "has the unknown member \"visibility\"",
        );
        let deep = r#"{"then":[{"commit":"#.repeat(9) + "{}" + &"}]}".repeat(9);
        check_error(&deep, "nested deeper than 8");
    }

    #[test]
    fn every_listed_name_is_read() {
        for name in OPERATIONS {
            let error = read(&format!(r#"{{"then":[{{"{name}":{{"surely unknown":1}}}}]}}"#)).unwrap_err();
            assert!(!error.contains("is no operation"), "{name}: {error}");
        }
        for name in GUARDS {
            let error = read(&format!(r#"{{"guards":[{{"{name}":{{"surely unknown":1}}}}]}}"#)).unwrap_err();
            assert!(!error.contains("is no guard"), "{name}: {error}");
        }
    }
}
