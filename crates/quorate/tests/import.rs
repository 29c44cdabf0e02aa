//! `quorate import` against real servers: Redis as `scripts/redis.sh` puts it into `target/redis`, and the built binary.
//!
//! Every comparison reads both sides by the Redis protocol, RESP2 and RESP3, and takes everything: names, types, deadlines, contents.

#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use redis::{Connection, Value, cmd};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use support::{Run, Server, quorate, until};

/// The largest collections here.
const LARGE: usize = 100_000;

#[test]
fn every_key_of_every_type_and_database_arrives_with_its_deadline() {
    let (source, target) = (Redis::start("redis-server", &[]), Target::start());
    fill(&source);
    let done = import(&source.url(), &target.redis, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    let keys: usize = [0, 1, 3].iter().map(|database| same(&source.url(), &target.redis, *database)).sum();
    let json = done.json();
    assert_eq!(json["databases"], serde_json::json!([0, 1, 3]));
    assert_eq!(json["keys"], keys);
    assert_eq!(json["scanned"].as_u64().unwrap(), counted(&json), "{json}");
    assert_eq!(
        (&json["failed"], &json["changed_while_read"], &json["sliced"]),
        (&0.into(), &0.into(), &5.into())
    );
    assert_eq!(json["types"]["zset"]["elements"], LARGE + 6 + 1);
    assert_eq!(json["with_ttl"], 7);

    // The same keys by the other protocol.
    assert_eq!(target.server.ok(&["get", "text", "--raw"]).out, "hello, world");
    let bytes = target.server.run(&["get", "any bytes"]).json();
    assert!(bytes["value_base64"].is_string(), "{bytes}");
    // What Redis keeps inside a string is understood as well.
    let mut at = connect(&target.redis, 0);
    let (mut from, hyper) = (connect(&source.url(), 0), ["PFCOUNT", "hyper"]);
    assert_eq!(ask(&mut at, &hyper), ask(&mut from, &hyper));
}

#[test]
fn a_second_run_leaves_alone_or_replaces_what_is_there_as_it_is_told() {
    let (source, target) = (Redis::start("redis-server", &[]), Target::start());
    let mut from = connect(&source.url(), 0);
    for n in 0..1500 {
        ask(&mut from, &["SET", &format!("key:{n}"), "first"]);
    }
    ask(&mut from, &["RPUSH", "list", "a", "b"]);
    rows(&mut from, "SADD", "large", 5000, 1);
    assert_eq!(import(&source.url(), &target.redis, &[]).code, 0);

    ask(&mut from, &["SET", "key:7", "second"]);
    ask(&mut from, &["SET", "new", "one", "PX", "3600000"]);
    ask(&mut from, &["RPUSH", "list", "c"]);
    ask(&mut from, &["SADD", "large", "another"]);
    let refused = import(&source.url(), &target.redis, &[]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("1,502 keys") && refused.err.contains("--skip-existing"), "{refused:?}");
    let dry = import(&source.url(), &target.redis, &["--skip-existing", "--dry-run"]);
    assert_eq!((dry.code, dry.json()["keys"].clone()), (0, 1.into()), "{dry:?}");
    let mut at = connect(&target.redis, 0);
    assert_eq!(ask(&mut at, &["EXISTS", "new"]), Value::Int(0));

    let skipped = import(&source.url(), &target.redis, &["--skip-existing"]);
    assert_eq!((skipped.code, skipped.json()["keys"].clone()), (0, 1.into()), "{skipped:?}");
    assert_eq!(skipped.json()["skipped"]["already at the target"], 1502);
    assert_eq!(ask(&mut at, &["GET", "key:7"]), Value::BulkString(b"first".to_vec()));
    assert_eq!(ask(&mut at, &["LLEN", "list"]), Value::Int(2));

    let replaced = import(&source.url(), &target.redis, &["--replace"]);
    assert_eq!((replaced.code, replaced.json()["keys"].clone()), (0, 1503.into()), "{replaced:?}");
    assert_eq!(same(&source.url(), &target.redis, 0), 1503);
}

#[test]
fn a_run_that_is_killed_leaves_no_half_key_and_the_next_one_ends_it() {
    let (source, target) = (Redis::start("redis-server", &[]), Target::start());
    fill(&source);
    let mut child = command(&source.url(), &target.redis, &["--parallel", "1"]).spawn().unwrap();
    let mut at = connect(&target.redis, 0);
    until("a large key grows at the target", || {
        let names = ask(&mut at, &["KEYS", "quorate:import:*"]);
        (child.try_wait().unwrap().is_some() || names != Value::Array(vec![])).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let mut from = connect(&source.url(), 0);
    let mut half = 0;
    for key in keys(&mut at) {
        if key.starts_with(b"quorate:import:") {
            half += 1;
            let Value::Int(left) = ask_bytes(&mut at, &[b"PTTL", &key]) else { panic!("PTTL of {key:?}") };
            assert!((1..=3_600_000).contains(&left), "what is unfinished goes away by itself: {left}");
        } else {
            assert_eq!(
                contents(&mut at, &key),
                contents(&mut from, &key),
                "{}",
                String::from_utf8_lossy(&key)
            );
        }
    }
    assert!(half <= 1, "one worker has one unfinished key, not {half}");
    let done = import(&source.url(), &target.redis, &["--skip-existing"]);
    assert_eq!(done.code, 0, "{done:?}");
    for key in keys(&mut at) {
        if key.starts_with(b"quorate:import:") {
            ask_bytes(&mut at, &[b"DEL", &key]);
        }
    }
    for database in [0, 1, 3] {
        same(&source.url(), &target.redis, database);
    }
}

#[test]
fn a_key_that_the_target_refuses_is_named_and_the_others_are_copied() {
    let (source, target) = (Redis::start("redis-server", &[]), Target::start());
    let mut from = connect(&source.url(), 0);
    for (name, length) in [("beyond a value", 5 << 20), ("beyond a command", 20 << 20)] {
        ask(&mut from, &["SETRANGE", name, &(length - 1).to_string(), "x"]);
    }
    for n in 0..300 {
        ask(&mut from, &["SET", &format!("key:{n}"), "value"]);
    }
    let done = import(&source.url(), &target.redis, &["--parallel", "2"]);
    assert_eq!(done.code, 1, "{done:?}");
    let json = done.json();
    assert_eq!((&json["keys"], &json["failed"]), (&300.into(), &2.into()), "{json}");
    let mut failed: Vec<&str> =
        json["failures"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["beyond a command", "beyond a value"]);
    assert!(done.err.contains("failed: \"beyond a value\" in database 0: the target refuses it"), "{done:?}");
    assert_eq!(json["scanned"].as_u64().unwrap(), counted(&json));
}

#[test]
fn chosen_databases_and_patterns_are_copied_and_nothing_else() {
    let (source, target) = (Redis::start("redis-server", &["--databases", "32"]), Target::start());
    for database in [0, 1, 20] {
        let mut from = connect(&source.url(), database);
        ask(&mut from, &["SET", "session:1", "a"]);
        ask(&mut from, &["SET", "other", "b"]);
    }
    let beyond = import(&source.url(), &target.redis, &[]);
    assert_eq!(beyond.code, 4, "{beyond:?}");
    assert!(beyond.err.contains("has no database 20"), "{beyond:?}");
    let dry = import(&source.url(), &target.redis, &["--databases", "0,1", "--dry-run"]);
    assert_eq!(
        (dry.code, dry.json()["keys"].clone(), dry.json()["dry_run"].clone()),
        (0, 4.into(), true.into())
    );
    let done = import(&source.url(), &target.redis, &["--databases", "1", "--match", "session:*"]);
    assert_eq!((done.code, done.json()["keys"].clone()), (0, 1.into()), "{done:?}");
    let moved = import(&format!("{}/20", source.url()), &format!("{}/2", target.redis), &[]);
    assert_eq!((moved.code, moved.json()["keys"].clone()), (0, 2.into()), "{moved:?}");
    let sizes = [0, 1, 2].map(|database| keys(&mut connect(&target.redis, database)).len());
    assert_eq!(sizes, [0, 1, 2]);
}

#[test]
fn a_source_that_tells_only_what_is_left_of_a_deadline_is_enough() {
    let (source, target) = (Redis::start("redis-server", &[]), Target::start());
    let mut from = connect(&source.url(), 0);
    ask(&mut from, &["SET", "short", "a", "PX", "1800000"]);
    ask(&mut from, &["HSET", "hash", "a", "b"]);
    ask(&mut from, &["PEXPIRE", "hash", "7200000"]);
    ask(
        &mut from,
        &["ACL", "SETUSER", "old", "on", ">before7", "~*", "+@all", "-pexpiretime", "-expiretime"],
    );
    let url = source.url().replace("redis://", "redis://old:before7@");
    let done = import(&url, &target.redis, &[]);
    assert_eq!((done.code, done.json()["with_ttl"].clone()), (0, 2.into()), "{done:?}");
    let mut at = connect(&target.redis, 0);
    for key in ["short", "hash"] {
        let told = [&mut from, &mut at].map(|side| match ask(side, &["PEXPIRETIME", key]) {
            Value::Int(told) => told,
            other => panic!("{other:?}"),
        });
        assert!((told[0] - told[1]).abs() < 1000, "{key}: {told:?}");
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do_and_without_a_password() {
    let source = Redis::start("redis-server", &["--requirepass", "the-secret"]);
    let target = Target::start();
    let port = source.port;
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    for (from, to, code, said) in [
        (nobody.clone(), target.redis.clone(), 6, "check that a server listens there"),
        (source.url(), target.redis.clone(), 4, "NOAUTH"),
        (
            format!("redis://:wrong-secret@127.0.0.1:{port}"),
            target.redis.clone(),
            4,
            "check user and password",
        ),
        (format!("redis://:the-secret@127.0.0.1:{port}"), nobody, 6, "does not answer"),
        (target.redis.clone(), target.redis.clone(), 4, "are the same server"),
        (
            format!("http://the-secret@127.0.0.1:{port}"),
            target.redis.clone(),
            2,
            "neither redis:// nor rediss://",
        ),
        (
            format!("redis://:the-secret@127.0.0.1:{port}/x"),
            target.redis.clone(),
            2,
            "no URL of a Redis server",
        ),
    ] {
        let done = import(&from, &to, &[]);
        assert_eq!((done.code, done.out.as_str()), (code, ""), "{from}: {done:?}");
        assert!(done.err.contains(said), "{from}: {done:?}");
        assert!(!done.err.contains("secret"), "{done:?}");
    }
    let right = format!("redis://:the-secret@127.0.0.1:{port}");
    let both = import(&format!("{right}/1"), &target.redis, &["--databases", "1"]);
    assert_eq!(both.code, 2, "{both:?}");
    assert_eq!(import(&right, &target.redis, &["--databases", "one"]).code, 2);
    let empty = import(&right, &target.redis, &[]);
    assert_eq!((empty.code, empty.json()["keys"].clone()), (0, 0.into()), "{empty:?}");
}

#[test]
fn both_sides_may_be_reached_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = file("cert.pem", &certified.cert.pem());
    let key = file("key.pem", &certified.signing_key.serialize_pem());
    let tokens = file("tokens", "ann a-token-of-some-length\n");
    let source = Redis::start("redis-server", &[]);
    ask(&mut connect(&source.url(), 0), &["SET", "a", "1"]);
    let target = Target::with(&["--tls-cert", &cert, "--tls-key", &key, "--token-file", &tokens]);
    let url = target.redis.replace("redis://127.0.0.1", "rediss://ann:a-token-of-some-length@localhost");
    let stranger = import(&source.url(), &url, &[]);
    assert_eq!(stranger.code, 6, "a certificate of an unknown authority: {stranger:?}");
    let done = import(&source.url(), &url, &["--ca", &cert]);
    assert_eq!((done.code, done.json()["keys"].clone()), (0, 1.into()), "{done:?}");
    // And back, read from there.
    let other = Redis::start("redis-server", &[]);
    let back = import(&url, &other.url(), &["--ca", &cert]);
    assert_eq!((back.code, back.json()["keys"].clone()), (0, 1.into()), "{back:?}");
    same(&source.url(), &other.url(), 0);
}

#[test]
fn streams_arrive_with_ids_groups_and_what_is_pending() {
    let (source, other) = (Redis::start("redis-server", &[]), Redis::start("redis-new", &[]));
    let mut from = connect(&source.url(), 0);
    for n in 1..=2500 {
        ask(&mut from, &["XADD", "orders", &format!("{n}-1"), "number", &n.to_string(), "text", "paid"]);
    }
    ask(&mut from, &["XDEL", "orders", "2500-1", "17-1"]);
    ask(&mut from, &["XGROUP", "CREATE", "orders", "mail", "0"]);
    ask(&mut from, &["XREADGROUP", "GROUP", "mail", "ann", "COUNT", "700", "STREAMS", "orders", ">"]);
    ask(&mut from, &["XREADGROUP", "GROUP", "mail", "bob", "COUNT", "3", "STREAMS", "orders", ">"]);
    ask(&mut from, &["XACK", "orders", "mail", "1-1", "3-1"]);
    ask(&mut from, &["XGROUP", "CREATE", "empty", "waiting", "$", "MKSTREAM"]);
    ask(&mut from, &["PEXPIRE", "empty", "3600000"]);
    let target = Target::start();
    for to in [other.url(), target.redis.clone()] {
        let done = import(&source.url(), &to, &[]);
        assert_eq!((done.code, done.json()["types"]["stream"]["keys"].clone()), (0, 2.into()), "{done:?}");
        assert_eq!(done.json()["types"]["stream"]["elements"], 2498);
        same(&source.url(), &to, 0);
        let mut at = connect(&to, 0);
        for question in [
            &["XINFO", "GROUPS", "orders"][..],
            &["XINFO", "GROUPS", "empty"],
            &["XPENDING", "orders", "mail"],
            &["XPENDING", "orders", "mail", "-", "+", "2"],
        ] {
            let mut found = [&mut from, &mut at].map(|side| ask(side, question));
            // How long ago a record was delivered goes on.
            found.iter_mut().for_each(without_idle);
            assert_eq!(found[0], found[1], "{question:?}");
        }
        let newest = [&mut from, &mut at].map(|side| ask(side, &["XADD", "orders", "2500-1", "a", "b"]));
        assert!(
            newest.iter().all(|reply| matches!(reply, Value::ServerError(_))),
            "a used id stays used: {newest:?}"
        );
    }
}

#[test]
fn fields_that_expire_by_themselves_move_to_who_knows_them_and_are_named_elsewhere() {
    let (source, other, target) =
        (Redis::start("redis-new", &[]), Redis::start("redis-new", &[]), Target::start());
    let older = Redis::start("redis-server", &[]);
    let mut from = connect(&source.url(), 0);
    rows(&mut from, "HSET", "large", 3000, 2);
    rows(&mut from, "HSET", "small", 5, 2);
    ask(&mut from, &["SET", "plain", "1"]);
    for key in ["large", "small"] {
        let set = ["HPEXPIREAT", key, "4000000000123", "FIELDS", "2", "1", "3"];
        assert_eq!(ask(&mut from, &set), Value::Array(vec![Value::Int(1), Value::Int(1)]));
    }
    for to in [other.url(), target.redis.clone()] {
        let done = import(&source.url(), &to, &[]);
        assert_eq!((done.code, done.json()["keys"].clone()), (0, 3.into()), "{done:?}");
        same(&source.url(), &to, 0);
        let mut at = connect(&to, 0);
        for key in ["large", "small"] {
            let question = ["HPEXPIRETIME", key, "FIELDS", "3", "1", "2", "3"];
            let told = Value::Array([4_000_000_000_123, -1, 4_000_000_000_123].map(Value::Int).to_vec());
            assert_eq!(ask(&mut at, &question), told, "{key} at {to}");
        }
    }
    let refused = import(&source.url(), &older.url(), &[]);
    let json = refused.json();
    assert_eq!((refused.code, &json["keys"], &json["failed"]), (1, &1.into(), &2.into()), "{refused:?}");
    assert!(refused.err.to_lowercase().contains("hpexpireat"), "{refused:?}");
    assert_eq!(keys(&mut connect(&older.url(), 0)), [b"plain".to_vec()], "nothing is there in part");
}

#[test]
fn a_target_that_is_gone_for_a_moment_misses_nothing_and_has_nothing_twice() {
    for flags in [&[][..], &["--replace"]] {
        let (source, mut target) = (Redis::start("redis-server", &[]), Target::start());
        fill(&source);
        let mut child = command(&source.url(), &target.redis, flags).spawn().unwrap();
        let mut at = connect(&target.redis, 0);
        until("a large key grows at the target", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
            (ask(&mut at, &["KEYS", "quorate:import:*"]) != Value::Array(vec![])).then_some(())
        });
        target.server.crash();
        std::thread::sleep(std::time::Duration::from_secs(2));
        target.server.restart();
        let done = Run::of(child.wait_with_output().unwrap());
        assert_eq!(done.code, 0, "{done:?}");
        let keys: usize =
            [0, 1, 3].iter().map(|database| same(&source.url(), &target.redis, *database)).sum();
        assert_eq!((done.json()["keys"].clone(), done.json()["scanned"].clone()), (keys.into(), keys.into()));
    }
}

#[test]
fn a_node_of_a_redis_cluster_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--cluster-enabled", "yes", "--dir", folder.path().to_str().unwrap()];
    let (source, target) = (Redis::start("redis-server", &options), Target::start());
    let mut from = connect(&source.url(), 0);
    ask(&mut from, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the cluster takes writes", || {
        matches!(ask(&mut from, &["SET", "first", "1"]), Value::Okay).then_some(())
    });
    for n in 0..50 {
        ask(&mut from, &["SET", &format!("key:{n}"), "value"]);
    }
    rows(&mut from, "HSET", "large", 3000, 2);
    let done = import(&source.url(), &target.redis, &[]);
    assert_eq!((done.code, done.json()["keys"].clone()), (0, 52.into()), "{done:?}");
    assert_eq!(same(&source.url(), &target.redis, 0), 52);
}

/// A Redis of a test's own.
struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    fn start(name: &str, more: &[&str]) -> Self {
        let binary = redis_folder().join(name);
        let port = free_port();
        let child = Command::new(&binary)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--loglevel", "warning", "--daemonize", "no"])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        until("Redis answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { port, child }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Quorate, with its Redis address.
struct Target {
    server: Server,
    redis: String,
}

impl Target {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(more: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let server = Server::with(&[&["--redis", &address][..], more].concat());
        Self { server, redis: format!("redis://{address}") }
    }
}

/// The folder with Redis, filled at first use: a machine that cannot have it fails the test.
fn redis_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = root.join("target/redis");
        let done = Command::new(root.join("scripts/redis.sh")).arg(&folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(from: &str, to: &str, more: &[&str]) -> Command {
    let mut command = quorate(&[&["import", from, "--to", to][..], more].concat());
    command.env_remove("QUORATE_IMPORT_SOURCE").env_remove("QUORATE_IMPORT_TARGET");
    command
}

fn import(from: &str, to: &str, more: &[&str]) -> Run {
    Run::of(command(from, to, more).output().unwrap())
}

/// Every type, small and large, with and without deadlines, in databases 0, 1 and 3.
fn fill(source: &Redis) {
    let mut to = connect(&source.url(), 0);
    let every: Vec<u8> = (0..=255).collect();
    ask(&mut to, &["SET", "text", "hello, world"]);
    ask(&mut to, &["SET", "number", "-17"]);
    ask(&mut to, &["SET", "nothing", ""]);
    ask_bytes(&mut to, &[b"SET", b"any bytes", &every]);
    ask_bytes(&mut to, &[b"SET", &every, b"a name of any bytes"]);
    ask_bytes(&mut to, &[b"SET", b"2 MiB", &vec![7; 2 << 20]]);
    ask(&mut to, &["SETBIT", "bits", "100000", "1"]);
    for n in 0..3000 {
        ask(&mut to, &["PFADD", "hyper", &n.to_string()]);
    }
    ask_bytes(&mut to, &[b"HSET", b"hash", b"a", b"1", &every, &every, b"", b""]);
    ask_bytes(&mut to, &[b"RPUSH", b"list", b"z", b"a", &every, b"", b"z"]);
    ask(&mut to, &["SADD", "numbers", "3", "1", "2"]);
    ask_bytes(&mut to, &[b"SADD", b"set", b"one", &every, b""]);
    ask(&mut to, &["ZADD", "zset", "inf", "a", "-inf", "b", "0.1", "c", "-0", "d", "1e300", "e", "3", ""]);
    rows(&mut to, "HSET", "large hash", LARGE, 2);
    rows(&mut to, "RPUSH", "large list", LARGE, 1);
    rows(&mut to, "SADD", "large set", LARGE, 1);
    rows(&mut to, "ZADD", "large zset", LARGE, 2);
    rows(&mut to, "RPUSH", "list of 2 slices", 2000, 1);
    for (n, key) in
        ["text", "hash", "list", "set", "zset", "large set", "list of 2 slices"].iter().enumerate()
    {
        ask(&mut to, &["PEXPIREAT", key, &(4_000_000_000_123 + n as u64).to_string()]);
    }
    let mut to = connect(&source.url(), 1);
    ask(&mut to, &["ZADD", "text", "1.5", "a sorted set of the same name"]);
    let mut to = connect(&source.url(), 3);
    for n in 0..3000 {
        ask(&mut to, &["SET", &format!("key:{n}"), &n.to_string()]);
    }
}

/// Fills a collection with numbered elements; two words for each where it has pairs.
fn rows(to: &mut Connection, name: &str, key: &str, count: usize, pair: usize) {
    for from in (0..count).step_by(1000) {
        let mut command = cmd(name);
        command.arg(key);
        for n in from..(from + 1000).min(count) {
            match pair {
                1 => command.arg(format!("element {n}")),
                // A score is a number, and a field may be.
                _ => command.arg(n).arg(format!("element {n}")),
            };
        }
        let _: Value = command.query(to).unwrap();
    }
}

fn connect(url: &str, database: i64) -> Connection {
    let open = || redis::Client::open(format!("{url}/{database}")).unwrap().get_connection();
    let connection = until("a connection", || open().ok());
    connection.set_read_timeout(Some(support::PATIENCE)).unwrap();
    connection
}

fn ask(of: &mut Connection, words: &[&str]) -> Value {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    ask_bytes(of, &words)
}

/// The reply as it came, errors too.
fn ask_bytes(of: &mut Connection, words: &[&[u8]]) -> Value {
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
    of.send_packed_command(&redis::pack_command(&words)).unwrap();
    of.recv_response().unwrap()
}

fn keys(of: &mut Connection) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = cmd("KEYS").arg("*").query(of).unwrap();
    keys.sort();
    keys
}

/// Type, deadline and everything in a key, in an order of its own.
fn contents(of: &mut Connection, key: &[u8]) -> (Value, Value, Value) {
    let kind = ask_bytes(of, &[b"TYPE", key]);
    let Value::SimpleString(name) = &kind else { panic!("TYPE of {key:?}: {kind:?}") };
    let all = match name.as_str() {
        "string" => ask_bytes(of, &[b"GET", key]),
        "hash" => ask_bytes(of, &[b"HGETALL", key]),
        "list" => ask_bytes(of, &[b"LRANGE", key, b"0", b"-1"]),
        "set" => ask_bytes(of, &[b"SMEMBERS", key]),
        "zset" => ask_bytes(of, &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
        "stream" => ask_bytes(of, &[b"XRANGE", key, b"-", b"+"]),
        other => panic!("a key of type {other}"),
    };
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    let all = match (name.as_str(), all) {
        ("hash", Value::Array(flat)) => {
            let pairs: BTreeMap<Vec<u8>, Value> =
                flat.chunks(2).map(|pair| (bytes(&pair[0]), pair[1].clone())).collect();
            Value::Map(pairs.into_iter().map(|(name, value)| (Value::BulkString(name), value)).collect())
        }
        ("hash", Value::Map(mut pairs)) => {
            pairs.sort_by_key(|(name, _)| bytes(name));
            Value::Map(pairs)
        }
        ("set", Value::Array(mut members) | Value::Set(mut members)) => {
            members.sort_by_key(bytes);
            Value::Array(members)
        }
        // Redis 7.0 writes scores with all the digits that tell them apart, later ones with the fewest.
        ("zset", Value::Array(flat)) if matches!(flat.first(), Some(Value::BulkString(_))) => {
            let score = |score: &Value| std::str::from_utf8(&bytes(score)).unwrap().parse().unwrap();
            let pairs = flat.chunks(2).flat_map(|pair| [pair[0].clone(), Value::Double(score(&pair[1]))]);
            Value::Array(pairs.collect())
        }
        (_, other) => other,
    };
    (kind, ask_bytes(of, &[b"PEXPIRETIME", key]), all)
}

/// Asserts that both sides hold the same keys, by both versions of the protocol; how many.
#[track_caller]
fn same(source: &str, target: &str, database: i64) -> usize {
    let (mut from, mut at) = (connect(source, database), connect(target, database));
    let names = keys(&mut from);
    assert_eq!(keys(&mut at), names, "the keys of database {database}");
    for version in ["2", "3"] {
        for side in [&mut from, &mut at] {
            let _: Value = cmd("HELLO").arg(version).query(side).unwrap();
        }
        for key in &names {
            let (wanted, found) = (contents(&mut from, key), contents(&mut at, key));
            let name = String::from_utf8_lossy(key);
            // Compared first, printed shortened: a large collection is no message.
            assert!(
                wanted == found,
                "{name} in database {database}: {:.900?} is not {:.900?}",
                found,
                wanted
            );
        }
    }
    names.len()
}

/// Every key of the summary, however it ended.
fn counted(json: &Json) -> u64 {
    let skipped: u64 =
        json["skipped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    let rest: u64 = ["keys", "vanished", "failed"].iter().map(|name| json[name].as_u64().unwrap()).sum();
    skipped + rest
}

/// Blanks the idle times of XPENDING's long form.
fn without_idle(reply: &mut Value) {
    if let Value::Array(rows) = reply {
        for row in rows {
            if let Value::Array(row) = row
                && let [Value::BulkString(_), Value::BulkString(_), idle @ Value::Int(_), Value::Int(_)] =
                    row.as_mut_slice()
            {
                *idle = Value::Nil;
            }
        }
    }
}
