//! Unmodified clients and the libraries over them, end to end: each test is a program that an application's author could have written.
//!
//! `REDIS_AT=127.0.0.1:6379` runs them against another server than the Quorate that this test starts. The libraries are put into
//! `target/redis-clients` by `scripts/redis-clients.sh`, the tools into `target/redis` by `scripts/redis.sh`: a machine that cannot have
//! them fails the test. Each story has databases of its own.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

pub(crate) mod libraries;
use crate::differential::quorate;
use crate::differential::servers;

use libraries::program;
use redis::Commands;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

#[test]
fn redis_py_does_what_applications_do_with_it() {
    story("redis_py.py");
}

#[test]
fn celery_runs_every_task_once_its_worker_is_there() {
    story("celery_jobs.py");
}

#[test]
fn rq_runs_jobs_after_what_they_depend_on() {
    story("rq_jobs.py");
}

#[test]
fn locks_and_limits_of_python_hold() {
    story("python_limits.py");
}

#[test]
fn ioredis_does_what_applications_do_with_it() {
    story("ioredis.cjs");
}

#[test]
fn node_redis_does_what_applications_do_with_it() {
    story("node_redis.cjs");
}

#[test]
fn bullmq_completes_every_job_once() {
    story("bullmq.cjs");
}

#[test]
fn redlock_and_rate_limiter_flexible_hold() {
    story("limits.cjs");
}

#[test]
fn redis_rs_does_what_applications_do_with_it() {
    for protocol in ["resp2", "resp3"] {
        let client = redis::Client::open(format!("redis://{}/10?protocol={protocol}", address())).unwrap();
        let mut one = client.get_connection().unwrap();
        redis::cmd("FLUSHDB").exec(&mut one).unwrap();
        let () = one.set("k", "v").unwrap();
        assert_eq!(one.get::<_, Option<String>>("k").unwrap().as_deref(), Some("v"));
        assert_eq!(one.incr::<_, _, i64>("n", 5).unwrap(), 5);
        let () = one.hset_multiple("h", &[("a", 1), ("b", 2)]).unwrap();
        let all: std::collections::BTreeMap<String, i64> = one.hgetall("h").unwrap();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [("a".into(), 1), ("b".into(), 2)]);
        let () = one.zadd_multiple("z", &[(1.5, "low"), (9.0, "high")]).unwrap();
        let scored: Vec<(String, f64)> = one.zrange_withscores("z", 0, -1).unwrap();
        assert_eq!(scored, [("low".into(), 1.5), ("high".into(), 9.0)]);

        let (n, text): (i64, String) =
            redis::pipe().atomic().incr("n", 1).set("t", "x").ignore().get("t").query(&mut one).unwrap();
        assert_eq!((n, text.as_str()), (6, "x"));
        let many: Vec<i64> =
            (0..500).fold(redis::pipe(), |mut pipe, _| pipe.incr("m", 1).clone()).query(&mut one).unwrap();
        assert_eq!(many.last(), Some(&500));

        let mut other = client.get_connection().unwrap();
        let mut tries = 0;
        let (total,): (i64,) = redis::transaction(&mut one, &["n"], |connection, pipe| {
            let n: i64 = connection.get("n")?;
            tries += 1;
            if tries == 1 {
                let () = other.set("n", 100)?; // What was watched changes once: the transaction is tried again.
            }
            pipe.set("n", n * 2).ignore().get("n").query(connection)
        })
        .unwrap();
        assert_eq!((total, tries), (200, 2));

        let script = redis::Script::new("return redis.call('incrby', KEYS[1], ARGV[1]) * 2");
        assert_eq!(script.key("s").arg(21).invoke::<i64>(&mut one).unwrap(), 42);
        let wrong: redis::RedisResult<i64> = one.llen("k");
        assert_eq!(wrong.unwrap_err().code(), Some("WRONGTYPE"));

        let popping = std::thread::spawn(move || other.blpop::<_, (String, String)>(&["q"], 10.0).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(200));
        let () = one.rpush("q", "job").unwrap();
        assert_eq!(popping.join().unwrap(), ("q".into(), "job".into()));

        let mut hearing = client.get_connection().unwrap();
        let mut hub = hearing.as_pubsub();
        hub.subscribe("rs:one").unwrap();
        assert_eq!(one.publish::<_, _, i64>("rs:one", "hi").unwrap(), 1);
        assert_eq!(hub.get_message().unwrap().get_payload::<String>().unwrap(), "hi");
        let mut seen: Vec<String> = one.scan_match::<_, String>("*").unwrap().collect();
        seen.sort();
        assert_eq!(seen, ["h", "k", "m", "n", "s", "t", "z"]);
        redis::cmd("FLUSHDB").exec(&mut one).unwrap();
    }
}

#[test]
fn redis_benchmark_runs_all_its_tests() {
    let at = address();
    for more in [&["-P", "1"], &["-P", "16"]] {
        let mut command = Command::new(servers::folder().join("redis-benchmark"));
        command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string(), "--dbnum", "11"]);
        let said = run(command.args(["-n", "2000", "-c", "20", "-r", "1000", "-q"]).args(more));
        assert!(!said.contains("Error") && !said.contains("ERR"), "{said}");
        for test in [
            "PING_INLINE",
            "SET",
            "GET",
            "INCR",
            "LPUSH",
            "LPOP",
            "SADD",
            "HSET",
            "SPOP",
            "ZADD",
            "ZPOPMIN",
            "LRANGE_600",
            "MSET",
        ] {
            assert!(said.contains(test), "{test} is missing: {said}");
        }
    }
}

#[test]
fn redis_cli_walks_the_keys() {
    let at = address();
    let cli = |words: &[&str], input: Option<&str>| -> String {
        let mut command = Command::new(servers::folder().join("redis-cli"));
        command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string(), "-n", "12"]).args(words);
        match input {
            None => run(&mut command),
            Some(input) => {
                let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
                let file = folder.join("redis-cli-input");
                std::fs::write(&file, input).unwrap();
                run(command.stdin(std::fs::File::open(&file).unwrap()))
            }
        }
    };
    cli(&["FLUSHDB"], None);
    let piped: String = (0..500).map(|at| format!("SET piped:{at} {at}\r\n")).collect();
    let said = cli(&["--pipe"], Some(&piped));
    assert!(said.contains("errors: 0, replies: 500"), "{said}");
    assert_eq!(cli(&["DBSIZE"], None).trim(), "500");
    cli(&["RPUSH", "list", "a", "b", "c"], None);
    assert_eq!(cli(&["--scan", "--pattern", "piped:*"], None).lines().count(), 500);
    assert_eq!(
        cli(&["-3", "LRANGE", "list", "0", "-1"], None).split_whitespace().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    let said = cli(&["--bigkeys"], None);
    assert!(said.contains("Sampled 501 keys") && said.contains("list"), "{said}");
    assert_eq!(
        cli(&["--eval", "/dev/stdin", "k", ",", "v"], Some("return {KEYS[1], ARGV[1]}"))
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["k", "v"]
    );
    assert!(cli(&["INFO"], None).contains("redis_version:"));
    cli(&["FLUSHDB"], None);
}

/// Runs a program of `tests/clients` to its good end.
#[track_caller]
fn story(name: &str) {
    let at = address();
    println!("{}", run(program(name).arg(at.ip().to_string()).arg(at.port().to_string())));
}

/// What a program says on both its outputs, once it has ended well.
#[track_caller]
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {}\n{said}", done.status);
    said
}

/// The server under test.
fn address() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| match std::env::var("REDIS_AT") {
        Ok(text) => text.parse().expect("REDIS_AT is HOST:PORT"),
        Err(_) => quorate::start("clients"),
    })
}
