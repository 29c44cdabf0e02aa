//! docs/redis-commands.md says exactly which commands are answered: it is made from the server's own answers, and this fails when they disagree.
//!
//! ```sh
//! UPDATE=1 cargo test -p quorate-redis --test it commands::
//! ```
//!
//! writes the page anew. Every name of our table and of Redis' is sent to a server; what it does not know, or does not serve, stands among the refused, and
//! needs a reason below. A difference is written down in `DIFFERENCES`, in a few words.
//!
//! `tests/data/redis-8.2.txt` lists what COMMAND of a redis-server 8.2.3 lists: a group in each line, its commands and subcommands, each with its arity.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use support::Server;

/// How an answered command differs from Redis. A name may be given for all its subcommands.
const DIFFERENCES: &[(&str, &str)] = &[
    ("acl|getuser acl|list acl|setuser", "passwords are SCRAM verifiers; no selectors: docs/security.md"),
    ("acl|log", "of this node"),
    ("append setrange setbit bitfield", "at most 8 MiB"),
    ("bf.info", "SIZE counts the bits alone"),
    ("bgrewriteaof", "takes a snapshot"),
    ("bgsave", "takes a snapshot; a crash needs none"),
    ("client|pause", "of this node's clients"),
    ("client|list client|kill", "of this node"),
    (
        "client|tracking",
        "no NOLOOP; of a script, the keys that it declares are tracked; what a blocking XREAD gave is invalidated at once",
    ),
    ("command", "no tips and key specifications"),
    ("config|get config|set", "the settings of docs/redis.md; SET lasts until this node restarts"),
    ("copy", "streams are not copied"),
    (
        "dump restore",
        "no streams and Bloom filters; written in the plain forms that every Redis since 7.2 reads",
    ),
    (
        "eval evalsha eval_ro evalsha_ro",
        "runs at apply, on every replica alike; over its budget of instructions, bytes or elements nothing of it happened",
    ),
    (
        "expire pexpire setex psetex getex hexpire hpexpire hsetex hgetex",
        "relative times run in log time: no failover restarts or skips them",
    ),
    ("expireat pexpireat hexpireat hpexpireat", "in wall time"),
    (
        "fcall fcall_ro",
        "as EVAL; the text of its library runs anew before each call: variables outside functions keep nothing from call to call",
    ),
    ("function|kill", "no function is ever found running"),
    (
        "function|load function|restore",
        "256 libraries of 2 MiB in all; FUNCTION DUMP and RESTORE exchange them with Redis",
    ),
    ("flushall flushdb", "leaves protected streams; elements are freed later, in slices"),
    ("hello", "says Redis 7.4: some clients remember what they read only from there on"),
    ("info", "`role:master` on every node, `quorate_*` fields"),
    ("lastsave", "now: whatever was acknowledged is in the log"),
    ("latency|histogram", "empty: nothing is kept by command"),
    ("latency|graph", "no pictures: LATENCY HISTORY has the numbers"),
    ("latency", "one event, `command`, once `latency-monitor-threshold` is set"),
    (
        "cluster|info cluster|keyslot cluster|myid cluster|myshardid cluster|nodes cluster|replicas cluster|shards cluster|slaves cluster|slots",
        "with `--redis-cluster`: the leader has all slots, the others are its replicas",
    ),
    ("memory|doctor memory|purge memory|stats", "little to tell"),
    ("memory|usage", "an estimate"),
    ("module|list", "empty"),
    ("object|idletime", "0"),
    ("publish spublish", "reaches the listeners of every node, counts those of this one"),
    ("readonly", "reads of this connection may be stale, on any node"),
    ("role", "master, on every node"),
    ("scan hscan sscan zscan", "cursors hold on every node; a step looks at 20,000 at most"),
    (
        "hgetall hkeys hvals smembers lrange zrange zrangebyscore zrangebylex zrevrange zrevrangebyscore zrevrangebylex",
        "of any length: handed out in slices, as it was when it was asked for",
    ),
    ("xautoclaim xreadgroup xread", "5,000 records at once"),
    ("script|kill", "no script is ever found running"),
    ("sentinel", "the leader is the master, by any name"),
    ("slowlog", "of this node; writes with the wait for their sync"),
    ("wait waitaof", "how many others have every acknowledged write, at once"),
    ("watch", "deletes and expiries count as changes"),
    (
        "xadd",
        "the pairs `@key`, `@value`, `@h:NAME` are the key, value and headers of the record that other protocols see",
    ),
    ("xdel xdelex xackdel", "leaves a gap in the offsets"),
];

/// Why a command is refused, by its name or by how it begins; the first that fits.
const REFUSED: &[(&str, &str)] = &[
    ("acl|load acl|save", "users are in the replicated log: what SETUSER has answered is kept"),
    ("cluster", "one log, no slots: nothing is assigned, moved or failed over by clients"),
    ("debug pfdebug pfselftest", "for the developers of Redis"),
    ("bf.loadchunk bf.scandump", "a filter's bits are Quorate's own: they are in snapshots and backups"),
    ("restore-asking migrate", "`quorate import redis://…` copies a live Redis"),
    (
        "failover replicaof slaveof psync sync replconf",
        "members change with `quorate cluster add`, `remove` and `transfer`; every node serves everything",
    ),
    (
        "client command config latency lolwut memory module pubsub script slowlog",
        "nothing here that it could tell or do",
    ),
    (
        "save",
        "every acknowledged write is in the log already: BGSAVE takes a snapshot, `quorate backup` copies the data",
    ),
    ("shutdown", "a client does not stop this server: send SIGTERM to its process"),
    ("swapdb", "a database is a keyspace with settings of its own"),
    ("v", "no vector sets"),
];

/// Commands that are known, and refused whatever their words.
const ALWAYS_REFUSED: &[&str] = &[
    "acl|load",
    "acl|save",
    "bf.loadchunk",
    "bf.scandump",
    "debug",
    "failover",
    "replicaof",
    "save",
    "shutdown",
    "slaveof",
];

/// A command: its group, how many words it takes, and whether Redis has it.
struct Known {
    group: String,
    arity: i64,
    redis: bool,
}

#[tokio::test]
async fn the_page_of_commands_says_what_the_server_does() {
    let page = page().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/redis-commands.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs =
        page.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(wanted, found)| wanted != found);
    assert!(
        found == page,
        "docs/redis-commands.md is out of date, at {differs:?}: UPDATE=1 cargo test -p quorate-redis --test it commands::"
    );
}

/// Every command that Redis or our table knows, by name.
fn known() -> BTreeMap<String, Known> {
    let mut all = BTreeMap::new();
    for line in include_str!("data/redis-8.2.txt").lines() {
        let (group, commands) = line.split_once(' ').unwrap();
        for command in commands.split(' ') {
            let (name, arity) = command.rsplit_once(':').unwrap();
            let known = Known { group: group.to_owned(), arity: arity.parse().unwrap(), redis: true };
            all.insert(name.to_owned(), known);
        }
    }
    for spec in quorate_calls::specs() {
        let ours = || Known { group: spec.group.to_owned(), arity: spec.arity, redis: false };
        all.entry(spec.name.to_owned()).or_insert_with(ours);
    }
    all
}

async fn page() -> String {
    let server = Server::start().await;
    let known = known();
    let containers: Vec<&str> = known.keys().filter_map(|name| Some(name.split_once('|')?.0)).collect();
    let (mut answered, mut refused) = (BTreeMap::<&str, Vec<(&str, String)>>::new(), Vec::new());
    for (name, what) in &known {
        // What has subcommands is told by them; `command` is one itself too.
        if containers.contains(&name.as_str()) && name != "command" {
            continue;
        }
        if is_answered(&server, name, what.arity).await {
            answered.entry(&what.group).or_default().push((name, difference(name, what)));
        } else if what.redis {
            refused.push((name.as_str(), reason(name)));
        }
    }
    server.stop().await;
    for (names, _) in DIFFERENCES {
        for name in names.split(' ') {
            let found = known.keys().any(|known| known == name || known.starts_with(&format!("{name}|")));
            assert!(found, "{name} has a difference, and nobody knows it");
        }
    }
    written(&answered, &refused)
}

/// Whether the server does something with a command of this name and so many words.
async fn is_answered(server: &Server, name: &str, arity: i64) -> bool {
    let mut words: Vec<String> = name.split('|').map(str::to_owned).collect();
    // A word that is neither an integer nor a name; as a time to wait it is short.
    let count = usize::try_from(arity.abs()).unwrap();
    words.resize(words.len().max(count), "0.01".to_owned());
    let mut client = server.client().await;
    client.send(&words.join(" ")).await;
    let reply = client.next().await.unwrap_or_default();
    let unknown = [
        "(error) ERR unknown command",
        "(error) ERR unknown subcommand",
        "(error) ERR wrong number of arguments",
    ];
    let refused = unknown.iter().any(|text| reply.starts_with(text)) || reply.contains(" is not served here");
    assert!(
        !ALWAYS_REFUSED.contains(&name) || reply.starts_with("(error)"),
        "{name} is said to be refused: {reply}"
    );
    !refused && !ALWAYS_REFUSED.contains(&name)
}

fn difference(name: &str, what: &Known) -> String {
    let container = name.split('|').next().unwrap_or(name);
    let fits = |names: &&str| names.split(' ').any(|listed| listed == name || listed == container);
    let told = DIFFERENCES.iter().find(|(names, _)| fits(names)).map_or("", |(_, text)| text);
    match (told, what.redis) {
        ("", true) => "as Redis".to_owned(),
        ("", false) => {
            let summary = quorate_calls::lookup(name.as_bytes()).map_or("", |spec| spec.summary);
            format!("not in Redis 8.2. {summary}")
        }
        (told, _) => told.to_owned(),
    }
}

fn reason(name: &str) -> &'static str {
    let fits = |names: &str| names.split(' ').any(|start| name.starts_with(start));
    let found = REFUSED.iter().find(|(names, _)| fits(names));
    found.unwrap_or_else(|| panic!("{name} is refused: say why in REFUSED")).1
}

fn written(answered: &BTreeMap<&str, Vec<(&str, String)>>, refused: &[(&str, &str)]) -> String {
    let shown = |name: &str| name.replace('|', " ").to_ascii_uppercase();
    let count: usize = answered.values().map(Vec::len).sum();
    let mut out = format!(
        "# Redis commands\n\n\
         {count} commands and subcommands are answered. \"As Redis\" means as Redis 7.2 (for what came later, 8.2 or 8.4) answers it: same replies, same\n\
         errors, in RESP2 and RESP3. What holds for all of them stands in [redis.md](redis.md#differences): sizes, and how many elements one command may\n\
         touch. A name that is not here is refused as unknown.\n"
    );
    for (group, commands) in answered {
        write!(out, "\n## {group}\n\n| command | |\n| --- | --- |\n").unwrap();
        // Those that are as in Redis share a row.
        let same: Vec<String> =
            commands.iter().filter(|(_, told)| told == "as Redis").map(|(name, _)| shown(name)).collect();
        if !same.is_empty() {
            writeln!(out, "| {} | as Redis |", same.join(", ")).unwrap();
        }
        let mut by_difference: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, told) in commands.iter().filter(|(_, told)| told != "as Redis") {
            by_difference.entry(told).or_default().push(shown(name));
        }
        let mut rows: Vec<_> =
            by_difference.into_iter().map(|(told, names)| (names.join(", "), told)).collect();
        rows.sort();
        rows.iter().for_each(|(names, told)| writeln!(out, "| {names} | {told} |").unwrap());
    }
    out += "\n## Refused\n\nOf what Redis 8.2 has:\n\n| command | why |\n| --- | --- |\n";
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    refused.iter().for_each(|(name, why)| by_reason.entry(why).or_default().push(shown(name)));
    let mut rows: Vec<_> = by_reason.into_iter().map(|(why, names)| (names.join(", "), why)).collect();
    rows.sort();
    rows.iter().for_each(|(names, why)| writeln!(out, "| {names} | {why} |").unwrap());
    out += "\nModules are not loaded: JSON.\\*, FT.\\*, TS.\\* are unknown commands here.\n\n\
            This page is made from what a server answers: `UPDATE=1 cargo test -p quorate-redis --test it commands::` writes it anew, and `cargo test` fails\n\
            while it is out of date.\n";
    out
}
