//! The OpenAPI 3.1 document, made from the route table and from the shapes of bodies below.
//!
//! Invariant: every route of the table is in the document and nothing else (a test walks both), and the members of
//! every operation and guard are those that the reader takes (a test compares them).
//! Called by: `GET /openapi.json`.

use crate::routes::{Kind, ROUTES, Route, Takes};
use serde_json::{Map, Value, json};

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = route.path.replace("{*", "{");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quorate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Every distributed-systems building block on one replicated log",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "user": {"type": "http", "scheme": "basic"},
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for segment in route.path.split('/') {
        if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            let name = name.trim_start_matches('*');
            parameters
                .push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
        }
    }
    for name in route.parameters() {
        let (kind, what) = member(name);
        parameters.push(json!({"name": name, "in": "query", "description": what, "schema": schema_of(kind)}));
    }
    if route.kind == Kind::Write {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": {"type": "string"},
            "description": "A retry under the same key has one effect and one answer; quoted or bare",
        }));
        parameters.push(json!({
            "name": "Idempotency-TTL", "in": "header", "schema": {"type": "string"},
            "description": "How long the answer is kept; 24h when absent",
        }));
    }
    let mut answers = json!({
        "200": {"description": "Done"},
        "default": {
            "description": "What went wrong, whether it took effect, and whether to retry (RFC 9457)",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    });
    if route.takes == Takes::Json("Limit") || route.takes == Takes::Json("Commit") {
        answers["429"] = json!({
            "description": "A limit has too little left; see Retry-After and RateLimit",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        });
    }
    let mut operation = json!({"summary": route.summary, "parameters": parameters, "responses": answers});
    match route.takes {
        Takes::Nothing => {}
        Takes::Bytes => {
            operation["requestBody"] = json!({"required": true, "content": {"application/octet-stream": {}}});
        }
        Takes::Json(name) => {
            let schema = json!({"$ref": format!("#/components/schemas/{name}")});
            operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
        }
    }
    if route.kind != Kind::Probe {
        operation["security"] = json!([{"token": []}, {"user": []}, {}]);
    }
    operation
}

fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    for shape in BODIES {
        schemas.insert(shape.name.into(), shape.schema());
    }
    schemas.insert("Operation".into(), tagged("One operation, named by its only member", OPERATIONS));
    schemas.insert("Guard".into(), tagged("One guard, named by its only member", GUARDS));
    schemas.insert(
        "Problem".into(),
        json!({
            "type": "object",
            "required": ["type", "title", "status", "detail", "error", "took_effect", "retry"],
            "properties": {
                "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                "detail": {"type": "string"},
                "error": {"type": "string", "description": "A stable name for programs"},
                "took_effect": {"enum": ["no", "unknown"]},
                "retry": {"enum": ["no", "same", "after", "ask"]},
                "retry_after_ms": {"type": "integer"},
                "guard": {"type": "integer"}, "why": {"type": "string"}, "guards": {"type": "array"},
                "op": {"type": "integer"}, "found": {}, "wanted": {}, "at": {"type": "string"},
            },
        }),
    );
    schemas
}

fn tagged(what: &str, shapes: &[Shape]) -> Value {
    let members: Map<String, Value> =
        shapes.iter().map(|shape| (shape.name.to_string(), shape.schema())).collect();
    json!({
        "type": "object", "description": what, "minProperties": 1, "maxProperties": 1,
        "additionalProperties": false, "properties": members,
    })
}

/// An object: its members, and an example that the reader takes.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    what: &'static str,
    pub(crate) members: &'static str,
    pub(crate) example: &'static str,
}

impl Shape {
    fn schema(&self) -> Value {
        let members: Map<String, Value> = self
            .members
            .split_whitespace()
            .map(|name| {
                let (kind, what) = member(name);
                let mut schema = schema_of(kind);
                schema["description"] = what.into();
                (name.to_string(), schema)
            })
            .collect();
        let example: Value = serde_json::from_str(self.example).unwrap_or(Value::Null);
        json!({
            "type": "object", "description": self.what, "additionalProperties": false,
            "properties": members, "examples": [example],
        })
    }
}

fn schema_of(kind: &str) -> Value {
    match kind {
        "text" => json!({"type": "string"}),
        "number" => json!({"type": "integer"}),
        "flag" => json!({"type": "boolean"}),
        "base64" => json!({"type": "string", "contentEncoding": "base64"}),
        "duration" => json!({"type": ["string", "integer"], "examples": ["90s", "250ms", 1500]}),
        "time" => json!({"type": ["string", "integer"], "examples": ["2026-11-22T03:20:12Z"]}),
        "guards" => json!({"type": "array", "items": {"$ref": "#/components/schemas/Guard"}}),
        "operations" => json!({"type": "array", "items": {"$ref": "#/components/schemas/Operation"}}),
        "commit" => json!({"$ref": "#/components/schemas/Commit"}),
        "list" => json!({"type": "array"}),
        "object" => json!({"type": "object"}),
        _ => json!({}),
    }
}

/// The type and meaning of a member or query parameter, by its name: a name means the same everywhere.
fn member(name: &str) -> (&'static str, &'static str) {
    if name.ends_with("_base64") {
        return ("base64", "The same as bytes, in base64");
    }
    let found = MEMBERS.iter().find(|(known, ..)| *known == name);
    found.map_or(("any", "Not described"), |(_, kind, what)| (kind, what))
}

const MEMBERS: &[(&str, &str, &str)] = &[
    ("access_token", "text", "A further bearer token of the user: 16 to 1024 bytes, drawn at random"),
    ("address", "text", "Where the instance listens: host:port or a URL; where a node's peers dial it"),
    ("after", "number", "Begin after this id"),
    (
        "allow",
        "list",
        "Rules {verbs, names, keyspace}: read and write of names, or publish and subscribe of channels",
    ),
    ("answer", "any", "The answer that later claims are given"),
    ("at", "any", "A revision to read at; for a timer, the wall time at which it fires"),
    ("attempt", "number", "Which delivery of the record"),
    ("before", "number", "What lies before this is forgotten"),
    ("burst", "number", "Units that may be taken at one instant; the count when absent"),
    ("by", "number", "What is added; 1 when absent"),
    (
        "commands",
        "list",
        "Rules about commands, as Redis' ACL has them: +get, -@dangerous; the last that speaks of a command decides",
    ),
    ("commit", "commit", "What the timer does"),
    ("compact", "flag", "Keep only the newest record of each key"),
    (
        "consistency",
        "text",
        "linearizable (the default), bounded (give max_staleness), or stale: what this node has applied",
    ),
    ("consumer", "text", "Who takes the records, for people to read"),
    ("cost", "number", "How much is taken; 1 when absent"),
    ("count", "number", "Units per window"),
    ("count_only", "flag", "Only count the keys"),
    ("create", "flag", "Make the stream if it is not there; true when absent"),
    ("dead_letter", "text", "Stream for records that were delivered too often"),
    ("delay", "duration", "How long the records stay hidden"),
    ("deliveries", "list", "Deliveries, each {partition, offset, attempt}"),
    ("deliveries_max", "number", "Deliveries before a record is dead; 0 for no bound"),
    ("deny", "list", "Rules {verbs, names, keyspace}; one of them outweighs all that allow"),
    ("election", "text", "The election"),
    ("else", "operations", "What to do when a guard fails; without it the commit is refused"),
    ("enabled", "flag", "Whether the user may enter and act"),
    ("expected", "number", "The cursor the reader believes is there"),
    ("forget", "list", "passwords, tokens, names, channels or commands: taken back before the rest is done"),
    ("from", "text", "Where it begins, included; for a group start or end"),
    ("group", "text", "The group"),
    ("role", "text", "The role"),
    ("verbs", "list", "What may be done: read, write or both"),
    ("gt", "any", "Passes when what is found is greater"),
    ("guards", "guards", "Conditions, all checked before the first operation"),
    ("headers", "any", "Headers: an object of texts, or a list of {name, value}"),
    ("healthy", "flag", "Whether the instance says that it is well; true when absent"),
    ("id", "number", "The lease's id, chosen by the server when absent; the node's number"),
    ("idempotency", "object", "{key, ttl}: a retry under the same key has one effect and one answer"),
    ("in", "duration", "How long until the timer fires"),
    ("instance", "text", "The instance"),
    ("is", "any", "Passes when what is found is equal"),
    ("isnt", "any", "Passes when what is found is not equal"),
    ("key", "text", "The key"),
    ("keys_only", "flag", "Leave the values out"),
    ("keyspace", "number", "The keyspace; 0, the one all protocols share, when absent"),
    ("lease", "number", "The lease"),
    ("learner", "flag", "Replicate to the node without ever letting it vote by itself"),
    ("limit", "number", "At most this many"),
    ("lock", "text", "The lock"),
    ("lt", "any", "Passes when what is found is less"),
    ("max", "number", "At most this many, or the largest sum allowed"),
    ("max_staleness", "duration", "How much may be missing at most, for consistency=bounded"),
    ("metadata", "object", "Free pairs of texts"),
    ("min", "number", "The smallest sum allowed"),
    ("mode", "any", "atomic or each; exclusive, shared or {\"semaphore\": N}; partitioned or shared"),
    ("name", "text", "The limit or set of slots"),
    ("nopass", "flag", "Whether the user enters without a password"),
    ("offset", "any", "A record's place; when reading also earliest or latest"),
    ("on_refused", "any", "drop, {\"retry\": {attempts, backoff}} or {\"dead_letter\": {stream}}"),
    ("order", "text", "ascending or descending"),
    ("partition", "number", "The partition"),
    ("partitions", "number", "How many partitions; they can be added, not removed"),
    ("password", "text", "The user's only password from now on; SCRAM verifiers of it are kept"),
    ("path", "text", "A folder of the server that does not exist yet"),
    ("per", "duration", "The window"),
    ("prefix", "text", "All that begin with this"),
    ("promote", "number", "The learner that becomes a voter"),
    ("prev", "flag", "Whether the result shows what was there before"),
    (
        "guarded",
        "flag",
        "Headers of what Kafka's producers send name guards and changes of keys (docs/kafka.md)",
    ),
    ("protected", "flag", "Other protocols' key commands must leave the stream alone; true when absent"),
    ("rate", "text", "Units per period: 100/s, 5/10s, 1000/h"),
    ("records", "list", "Records, each {key, value, headers, tombstone}"),
    ("remove", "number", "The member that leaves"),
    ("request", "any", "Tells requests of one session apart; for a claim, what is asked for"),
    ("reset", "flag", "Begin with a user that is disabled and may do nothing"),
    ("retention", "object", "{bytes, age}: what is kept of each partition"),
    ("service", "text", "The service"),
    ("since", "number", "The first revision wanted, or the revision at which a range was read"),
    ("slot", "text", "Names the slot among those of its lease"),
    ("sort", "text", "key, version, create_revision, mod_revision or value"),
    ("stream", "text", "The stream"),
    ("task", "text", "The timer"),
    ("then", "operations", "Operations in order, each seeing the earlier ones"),
    ("time", "time", "The deadline"),
    ("to", "any", "Where it ends, excluded; the node that is to lead"),
    ("token", "number", "The fencing token of the grant"),
    ("tombstone", "flag", "A record without a value: on a compacted stream it deletes its key"),
    ("ttl", "duration", "The time to live"),
    ("value", "any", "A text, or any JSON kept as its compact text"),
    ("values", "text", "base64: answer every value and name as base64"),
    ("visibility", "duration", "How long a delivery stays hidden from others"),
    ("wait", "duration", "How long to wait; not at all when absent"),
    ("weight", "number", "Share of the load; 1 when absent, 0 takes the instance out of rotation"),
    ("window", "text", "fixed or sliding"),
    ("zone", "text", "The failure domain"),
];

macro_rules! shapes {
    ($($name:literal, $what:literal, $members:literal, $example:literal;)*) => {
        &[$(Shape { name: $name, what: $what, members: $members, example: $example }),*]
    };
}

const BODIES: &[Shape] = shapes! {
    "Commit", "Guards, then operations, all or nothing", "idempotency guards then else mode",
        r#"{"guards":[{"absent":{"key":"k"}}],"then":[{"put":{"key":"k","value":{"state":"new"}}}]}"#;
    "Empty", "Nothing", "", "{}";
    "Grant", "A lease", "id ttl", r#"{"ttl":"30s"}"#;
    "Acquire", "A lock: by a lease, or by one granted with ttl", "lease ttl mode wait request value value_base64",
        r#"{"ttl":"30s","wait":"10s"}"#;
    "Campaign", "Leadership: by a lease, or by one granted with ttl", "lease ttl wait request value value_base64",
        r#"{"ttl":"30s","wait":"10s","value":"node-1"}"#;
    "Release", "What to give back", "token", r#"{"token":1077}"#;
    "Proclaim", "What the leader says now", "token value value_base64", r#"{"token":1077,"value":"node-1"}"#;
    "Stream", "Settings of a stream", "partitions retention compact protected guarded",
        r#"{"partitions":4,"retention":{"age":"7d"}}"#;
    "Append", "One record, or many",
        "records key key_base64 value value_base64 tombstone headers partition create",
        r#"{"key":"42","value":{"type":"OrderPaid"}}"#;
    "Trim", "How far to forget", "partition before", r#"{"before":1000}"#;
    "Group", "Settings of a group", "mode from visibility deliveries_max dead_letter dead_letter_base64",
        r#"{"mode":"shared","visibility":"30s","deliveries_max":5,"dead_letter":"orders.dead"}"#;
    "Cursor", "How far a partition is handled", "partition offset expected", r#"{"offset":17}"#;
    "Take", "How many records to take", "consumer consumer_base64 max visibility wait", r#"{"max":10,"wait":"20s"}"#;
    "Ack", "What is finished", "deliveries", r#"{"deliveries":[{"partition":0,"offset":17,"attempt":1}]}"#;
    "Nack", "What is given back", "deliveries delay", r#"{"deliveries":[{"partition":0,"offset":17,"attempt":1}]}"#;
    "Extend", "What stays hidden", "deliveries visibility",
        r#"{"deliveries":[{"partition":0,"offset":17,"attempt":1}],"visibility":"60s"}"#;
    "Limit", "A policy, and how much to take", "rate burst window count per cost", r#"{"rate":"100/s","cost":1}"#;
    "Timer", "When, and what", "in at commit on_refused",
        r#"{"in":"72h","commit":{"then":[{"append":{"stream":"reminders","value":{"order":42}}}]}}"#;
    "Register", "An instance, on a lease or on one granted with ttl",
        "lease ttl address address_base64 weight zone zone_base64 healthy metadata",
        r#"{"ttl":"30s","address":"10.0.0.7:8080","zone":"a"}"#;
    "Resolve", "How long a cancellation is remembered", "ttl", "{}";
    "Backup", "Where to", "path", r#"{"path":"/var/backups/quorate/monday"}"#;
    "Member", "A node, and where the others dial it", "id address learner", r#"{"id":4,"address":"10.0.0.4:8500"}"#;
    "Swap", "Who leaves, and which learner takes its vote", "remove promote", r#"{"remove":2,"promote":4}"#;
    "Transfer", "To whom; the voter best up to date when absent", "to", r#"{"to":2}"#;
    "Compact", "How far to forget", "before", r#"{"before":1000}"#;
    "User", "Changes of a user, done in this order", "reset forget enabled nopass commands allow deny password access_token",
        r#"{"enabled":true,"password":"correct horse battery staple","allow":[{"verbs":["read","write"],"names":"orders/*"}]}"#;
    "RoleRule", "What a role allows: verbs, and a range of keys",
        "verbs keyspace key key_base64 prefix prefix_base64 from from_base64 to to_base64",
        r#"{"verbs":["read"],"prefix":"orders/"}"#;
    "RoleRange", "A range of a role, as it was given",
        "keyspace key key_base64 prefix prefix_base64 from from_base64 to to_base64", r#"{"prefix":"orders/"}"#;
};

pub(crate) const GUARDS: &[Shape] = shapes! {
    "version", "How often the key was written", "keyspace key key_base64 is isnt lt gt", r#"{"key":"k","is":3}"#;
    "create_revision", "When the key was made", "keyspace key key_base64 is isnt lt gt", r#"{"key":"k","is":3}"#;
    "mod_revision", "When the key was last written", "keyspace key key_base64 is isnt lt gt", r#"{"key":"k","is":3}"#;
    "lease", "The lease the key hangs on", "keyspace key key_base64 is isnt lt gt", r#"{"key":"k","is":3}"#;
    "value", "The key's value, compared byte by byte",
        "keyspace key key_base64 is is_base64 isnt isnt_base64 lt lt_base64 gt gt_base64", r#"{"key":"k","is":"v"}"#;
    "absent", "The key does not exist", "keyspace key key_base64", r#"{"key":"k"}"#;
    "exists", "The key exists", "keyspace key key_base64", r#"{"key":"k"}"#;
    "unchanged", "No key of the range changed after the revision",
        "keyspace key key_base64 prefix prefix_base64 from from_base64 to to_base64 since",
        r#"{"prefix":"orders/","since":1000}"#;
    "fence", "The lock or election is held under this token", "lock lock_base64 election election_base64 token",
        r#"{"lock":"orders/42","token":1077}"#;
    "leader", "The election is led by this lease", "election election_base64 lease", r#"{"election":"e","lease":7}"#;
    "limit", "The limit has this much to spare", "name name_base64 rate burst window count per cost",
        r#"{"name":"tenant/acme","rate":"100/s","cost":1}"#;
    "slots", "A concurrency slot is free; this commit takes it", "name name_base64 max lease slot slot_base64",
        r#"{"name":"workers","max":4,"lease":7,"slot":"a"}"#;
    "at_offset", "Nothing was appended since", "keyspace stream stream_base64 partition offset",
        r#"{"stream":"orders","offset":17}"#;
    "not_after", "It is not later than this", "time", r#"{"time":"2026-11-22T03:20:12Z"}"#;
};

pub(crate) const OPERATIONS: &[Shape] = shapes! {
    "get", "Read a key", "keyspace key key_base64", r#"{"key":"k"}"#;
    "range", "Read a range of keys",
        "keyspace key key_base64 prefix prefix_base64 from from_base64 to to_base64 limit keys_only count_only sort order at",
        r#"{"prefix":"orders/","limit":10}"#;
    "put", "Write a key", "keyspace key key_base64 value value_base64 lease prev", r#"{"key":"k","value":{"a":1}}"#;
    "delete", "Delete a key", "keyspace key key_base64 prev", r#"{"key":"k"}"#;
    "delete_range", "Delete a range of keys",
        "keyspace key key_base64 prefix prefix_base64 from from_base64 to to_base64 prev", r#"{"prefix":"tmp/"}"#;
    "increment", "Add to a decimal integer", "keyspace key key_base64 by min max", r#"{"key":"stock","by":-1,"min":0}"#;
    "create_stream", "Declare a stream", "keyspace stream stream_base64 retention partitions compact protected guarded",
        r#"{"stream":"orders","partitions":4}"#;
    "alter_stream", "Change the settings of a stream",
        "keyspace stream stream_base64 retention partitions compact protected guarded", r#"{"stream":"orders","partitions":8}"#;
    "delete_stream", "Remove a stream", "keyspace stream stream_base64", r#"{"stream":"orders"}"#;
    "append", "Append one record or many to one partition",
        "keyspace stream stream_base64 records key key_base64 value value_base64 tombstone headers partition create",
        r#"{"stream":"orders","key":"42","value":{"type":"OrderPaid"}}"#;
    "trim", "Forget the records before an offset", "keyspace stream stream_base64 partition before",
        r#"{"stream":"orders","before":1000}"#;
    "stream_info", "Read the bounds of a stream's partitions", "keyspace stream stream_base64", r#"{"stream":"orders"}"#;
    "create_group", "Declare a group of readers",
        "keyspace stream stream_base64 group group_base64 mode from visibility deliveries_max dead_letter dead_letter_base64",
        r#"{"stream":"orders","group":"mail","mode":"shared"}"#;
    "delete_group", "Remove a group", "keyspace stream stream_base64 group group_base64",
        r#"{"stream":"orders","group":"mail"}"#;
    "cursor", "Move the cursor of a partitioned group",
        "keyspace stream stream_base64 group group_base64 partition offset expected",
        r#"{"stream":"orders","group":"mail","offset":17}"#;
    "take", "Take records of a shared group",
        "keyspace stream stream_base64 group group_base64 consumer consumer_base64 max visibility",
        r#"{"stream":"orders","group":"mail","max":10}"#;
    "ack", "Finish deliveries", "keyspace stream stream_base64 group group_base64 deliveries",
        r#"{"stream":"orders","group":"mail","deliveries":[{"offset":17,"attempt":1}]}"#;
    "nack", "Give deliveries back", "keyspace stream stream_base64 group group_base64 deliveries delay",
        r#"{"stream":"orders","group":"mail","deliveries":[{"offset":17,"attempt":1}],"delay":"5s"}"#;
    "extend", "Hide deliveries for longer", "keyspace stream stream_base64 group group_base64 deliveries visibility",
        r#"{"stream":"orders","group":"mail","deliveries":[{"offset":17,"attempt":1}],"visibility":"60s"}"#;
    "grant", "Grant a lease", "lease ttl", r#"{"ttl":"30s"}"#;
    "keep_alive", "Renew a lease", "lease", r#"{"lease":7}"#;
    "revoke", "End a lease", "lease", r#"{"lease":7}"#;
    "lease", "Read a lease", "lease", r#"{"lease":7}"#;
    "acquire", "Take a lock if it is free", "lock lock_base64 lease mode request value value_base64",
        r#"{"lock":"orders/42","lease":7}"#;
    "release", "Give a lock back", "lock lock_base64 token", r#"{"lock":"orders/42","token":1077}"#;
    "lock", "Read a lock", "lock lock_base64", r#"{"lock":"orders/42"}"#;
    "campaign", "Become leader if nobody is", "election election_base64 lease request value value_base64",
        r#"{"election":"scheduler","lease":7,"value":"node-1"}"#;
    "proclaim", "Change what the leader says", "election election_base64 token value value_base64",
        r#"{"election":"scheduler","token":1077,"value":"node-1"}"#;
    "resign", "Give leadership back", "election election_base64 token", r#"{"election":"scheduler","token":1077}"#;
    "schedule", "Run a commit later, once", "task task_base64 in at commit on_refused",
        r#"{"task":"remind/42","in":"72h","commit":{"then":[{"delete":{"key":"cart/42"}}]}}"#;
    "cancel", "Take a timer back", "task task_base64", r#"{"task":"remind/42"}"#;
    "register", "Enter an instance of a service",
        "service service_base64 instance instance_base64 lease address address_base64 weight zone zone_base64 healthy metadata",
        r#"{"service":"web","instance":"a","lease":7,"address":"10.0.0.7:8080"}"#;
    "deregister", "Remove an instance", "service service_base64 instance instance_base64",
        r#"{"service":"web","instance":"a"}"#;
    "claim", "Claim an idempotency key for work outside", "key key_base64 ttl lease request request_base64",
        r#"{"key":"mail-42","ttl":"24h","request":{"to":"ann"}}"#;
    "complete", "Complete a claim with its answer", "key key_base64 token answer answer_base64",
        r#"{"key":"mail-42","token":1077,"answer":{"sent":true}}"#;
    "free_slot", "Free a concurrency slot", "name name_base64 lease slot slot_base64",
        r#"{"name":"workers","lease":7,"slot":"a"}"#;
    "limit", "Read what a limit has left", "name name_base64 rate burst window count per",
        r#"{"name":"tenant/acme","rate":"100/s"}"#;
    "commit", "A commit inside this one", "idempotency guards then else mode",
        r#"{"guards":[{"absent":{"key":"k"}}],"then":[],"else":[]}"#;
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::read::parse;
    use crate::json::request;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let mut found = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                found.insert((path.clone(), method.to_ascii_uppercase()));
            }
        }
        let wanted: BTreeSet<_> =
            ROUTES.iter().map(|route| (route.path.replace("{*", "{"), route.method.to_string())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_name_is_described() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(target)) = members.get("$ref") {
                        let name = target.strip_prefix("#/components/schemas/").unwrap();
                        assert!(schemas.contains_key(name), "{target}");
                    }
                    assert_ne!(members.get("description"), Some(&"Not described".into()), "{members:?}");
                    open.extend(members.values());
                }
                Value::Array(values) => open.extend(values),
                Value::Null => panic!("an example is not JSON"),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }

    /// What the reader says it knows, when it is given the example and one unknown member.
    fn known(list: &str, shape: &Shape) -> BTreeSet<String> {
        let read = |content: &str| {
            let body = format!(r#"{{"{list}":[{{"{}":{content}}}]}}"#, shape.name);
            parse(body.as_bytes(), request::commit).map_err(|error| error.to_string())
        };
        read(shape.example).unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        let more = if shape.example == "{}" { "" } else { "," };
        let unknown = shape.example.replacen('{', &format!("{{\"surely unknown\":1{more}"), 1);
        let error = read(&unknown).unwrap_err();
        let (_, names) = error.split_once("known here: ").unwrap_or_else(|| panic!("{error}"));
        names.split(", ").map(String::from).collect()
    }

    #[test]
    fn the_shapes_of_operations_and_guards_are_those_that_are_read() {
        for (list, shapes, names) in
            [("then", OPERATIONS, &request::OPERATIONS[..]), ("guards", GUARDS, &request::GUARDS[..])]
        {
            assert_eq!(shapes.iter().map(|shape| shape.name).collect::<Vec<_>>(), names);
            for shape in shapes {
                let wanted: BTreeSet<String> = shape.members.split_whitespace().map(String::from).collect();
                let mut found = known(list, shape);
                if shape.name == "create_group" {
                    // Only a shared group knows these; the example is one.
                    assert!(found.contains("dead_letter"));
                }
                found.retain(|name| !name.is_empty());
                assert_eq!(found, wanted, "{}", shape.name);
            }
        }
    }
}
