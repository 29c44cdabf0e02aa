//! A keyspace as a cache: limits, refusals, evictions, and how good they are beside Redis'.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

use crate::differential::resp;
use crate::fleet;
use crate::support;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use support::{Client, Server};
use tokio::net::TcpStream;

fn number(info: &str, name: &str) -> u64 {
    let line = info.split("\r\n").find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.and_then(|value| value.trim_end_matches('"').parse().ok())
        .unwrap_or_else(|| panic!("{name} in {info}"))
}

async fn info(client: &mut Client, name: &str) -> u64 {
    number(&client.ask("INFO").await, name)
}

/// Sends commands as one pipeline; the replies.
async fn all(client: &mut Client, lines: &[String]) -> Vec<String> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    client.raw(&bytes).await;
    let mut replies = Vec::new();
    for _ in lines {
        replies.push(client.reply().await);
    }
    replies
}

#[tokio::test]
async fn settings_of_memory_belong_to_the_selected_keyspace() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("CONFIG GET maxmemory*", r#"["maxmemory", "0", "maxmemory-policy", "noeviction"]"#).await;
    client.check("SELECT 1", "OK").await;
    client.check("CONFIG SET maxmemory 10mb maxmemory-policy ALLKEYS-LFU", "OK").await;
    client.check("CONFIG GET maxmemory", r#"["maxmemory", "10485760"]"#).await;
    client.check("CONFIG GET maxmemory-policy", r#"["maxmemory-policy", "allkeys-lfu"]"#).await;
    client.check("SELECT 0", "OK").await;
    client.check("CONFIG GET maxmemory", r#"["maxmemory", "0"]"#).await;
    client
        .check(
            "CONFIG SET maxmemory-policy nothing",
            "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory-policy') - argument(s) must be one of the following: \
             volatile-lru, volatile-lfu, volatile-random, volatile-ttl, allkeys-lru, allkeys-lfu, allkeys-random, noeviction",
        )
        .await;
    client
        .check(
            "CONFIG SET maxmemory much",
            "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value",
        )
        .await;
    server.stop().await;
}

#[tokio::test]
async fn without_eviction_a_full_keyspace_refuses_growth_in_redis_words() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET a 1", "OK").await;
    client.check("CONFIG SET maxmemory 1", "OK").await;
    client.check("SET b 1", "(error) OOM command not allowed when used memory > 'maxmemory'.").await;
    let refused = client.ask("EVAL return(redis.call('set',KEYS[1],1)) 1 b").await;
    assert!(refused.contains("OOM command not allowed"), "{refused}");
    client.check("GET a", "\"1\"").await;
    client.check("DEL a", "1").await;
    client.check("SET b 1", "OK").await;
    server.stop().await;
}

#[tokio::test]
async fn a_cache_stays_at_its_limit_and_refuses_nothing() {
    const LIMIT: u64 = 1 << 20;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SELECT 2", "OK").await;
    client.check(&format!("CONFIG SET maxmemory {LIMIT} maxmemory-policy allkeys-lru"), "OK").await;
    let value = "x".repeat(300);
    for batch in 0..40 {
        let lines: Vec<String> = (0..500).map(|n| format!("SET key:{batch}:{n} {value}")).collect();
        let replies = all(&mut client, &lines).await;
        assert!(
            replies.iter().all(|reply| reply == "OK"),
            "{:?}",
            replies.iter().find(|reply| *reply != "OK")
        );
        let held = info(&mut client, "used_memory_dataset").await;
        assert!(held <= LIMIT + LIMIT / 16, "{held} bytes are held");
    }
    let held = info(&mut client, "used_memory_dataset").await;
    let evicted = info(&mut client, "evicted_keys").await;
    assert!(held > LIMIT * 3 / 4, "{held} bytes are held of {LIMIT}");
    assert!(evicted > 15_000, "{evicted} keys were evicted");
    client.check("EXISTS key:39:499", "1").await;
    client.check("EXISTS key:0:0", "0").await;
    // A limit that is lowered is kept without another write.
    client.check(&format!("CONFIG SET maxmemory {}", LIMIT / 8), "OK").await;
    for _ in 0..100 {
        if info(&mut client, "used_memory_dataset").await <= LIMIT / 8 {
            return server.stop().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{} bytes are still held", info(&mut client, "used_memory_dataset").await);
}

#[tokio::test]
async fn transactions_and_scripts_are_refused_as_redis_refuses_them() {
    const OOM: &str = "(error) OOM command not allowed when used memory > 'maxmemory'.";
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    client.check("MSET k 1 j 2", "OK").await;
    client.check("MULTI", "OK").await;
    client.check("SET q 1", "QUEUED").await;
    other.check("CONFIG SET maxmemory 1", "OK").await;
    client.check("GET k", "QUEUED").await;
    let aborted = OOM.replace("OOM", "EXECABORT Transaction discarded because of: OOM");
    client.check("EXEC", &aborted).await;
    client.check("EXISTS q", "0").await;
    client.check("MULTI", "OK").await;
    client.check("SET q 1", OOM).await;
    client.check("GET k", "QUEUED").await;
    client.check("EXEC", "(error) EXECABORT Transaction discarded because of previous errors.").await;
    client.check("MULTI", "OK").await;
    client.check("DEL k", "QUEUED").await;
    client.check("GET j", "QUEUED").await;
    client.check("EXEC", r#"[1, "2"]"#).await;
    // What a script has begun it may finish.
    let script = "redis.call('del','nothing')return(redis.call('set',KEYS[1],'5'))";
    client.check(&format!("EVAL {script} 1 j"), "OK").await;
    let eval = async |client: &mut Client, script: &str| {
        client.send_words(&[b"EVAL", script.as_bytes(), b"1", b"j"]).await;
        client.reply().await
    };
    assert_eq!(eval(&mut client, "#!lua\nreturn 1").await, OOM);
    assert_eq!(eval(&mut client, "#!lua flags=no-writes\nreturn 1").await, "1");
    assert_eq!(eval(&mut client, "#!lua flags=allow-oom\nreturn redis.call('set',KEYS[1],'6')").await, "OK");
    let caught = eval(&mut client, "return redis.pcall('set',KEYS[1],'7')['err']").await;
    assert_eq!(caught, format!("\"{}\"", OOM.trim_start_matches("(error) ")));
    client.check("GET j", "\"6\"").await;
    server.stop().await;
}

#[tokio::test]
async fn functions_are_refused_as_redis_refuses_them() {
    const OOM: &str = "(error) OOM command not allowed when used memory > 'maxmemory'.";
    let library = "#!lua name=lib
        redis.register_function('plain', function(keys) return redis.call('get', keys[1]) end)
        redis.register_function('grows', function(keys) return redis.call('set', keys[1], '7') end)
        redis.register_function{function_name='reads', callback=function(keys) return redis.call('get', keys[1]) end, flags={'no-writes'}}
        redis.register_function{function_name='free', callback=function(keys) return redis.call('set', keys[1], '8') end, flags={'allow-oom'}}";
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send_words(&[b"FUNCTION", b"LOAD", library.as_bytes()]).await;
    assert_eq!(client.reply().await, "\"lib\"");
    client.check("FCALL grows 1 j", "OK").await;
    client.check("CONFIG SET maxmemory 1", "OK").await;
    // Whatever one without flags would do.
    client.check("FCALL plain 1 j", OOM).await;
    client.check("FCALL grows 1 j", OOM).await;
    client.check("FCALL_RO plain 1 j", OOM).await;
    client.check("FCALL reads 1 j", "\"7\"").await;
    client.check("FCALL_RO reads 1 j", "\"7\"").await;
    client.check("FCALL free 1 j", "OK").await;
    client.check("FCALL reads 1 j", "\"8\"").await;
    let writes = "(error) ERR Can not execute a script with write flag using *_ro command.";
    client.check("FCALL_RO free 1 j", writes).await;
    client.send_words(&[b"FUNCTION", b"LOAD", b"REPLACE", library.as_bytes()]).await;
    assert_eq!(client.reply().await, OOM);
    client.check("CONFIG SET maxmemory 0", "OK").await;
    client.check("FCALL grows 1 j", "OK").await;
    server.stop().await;
}

/// What a node of a fleet says of database 0: held bytes, keys, and its limit.
fn held(fleet: &fleet::Fleet, node: usize) -> (u64, String) {
    let at = fleet.nodes[node].redis;
    let told = |words: &[&str]| fleet::ask(at, words).map(|reply| format!("{reply:?}")).unwrap_or_default();
    let resp::Reply::Bulk(info) = fleet::ask(at, &["INFO", "memory"]).unwrap() else { panic!("a text") };
    let bytes = number(&String::from_utf8_lossy(&info), "used_memory_dataset");
    (bytes, told(&["CONFIG", "GET", "maxmemory*"]) + &told(&["DBSIZE"]))
}

#[test]
fn a_limit_holds_on_every_node_while_the_leader_is_killed() {
    const LIMIT: u64 = 1 << 20;
    let mut fleet = fleet::Fleet::start(3, &[]);
    let limit = LIMIT.to_string();
    let set = ["CONFIG", "SET", "maxmemory", &limit, "maxmemory-policy", "allkeys-lfu"];
    fleet::ask(fleet.nodes[0].redis, &set).unwrap();
    let value = "x".repeat(1000);
    // Each time half as much again as may be held: nothing of the time before has to be left.
    let write = |fleet: &fleet::Fleet, node: usize, from: usize| {
        let mut wire = resp::Wire::connect(fleet.nodes[node].redis).unwrap();
        for n in (from..from + 1_500).step_by(20) {
            let mut words = vec![b"MSET".to_vec()];
            for n in n..n + 20 {
                words.extend([format!("key:{n}").into_bytes(), value.clone().into_bytes()]);
            }
            let reply = wire.ask(&words).unwrap();
            assert!(matches!(reply, resp::Reply::Status(_)), "{reply:?}");
        }
    };
    let bound = LIMIT + LIMIT / 16;
    let agree = |fleet: &mut fleet::Fleet| {
        fleet.wait("every node holds the same", |fleet| {
            let all: Vec<_> = (0..3).map(|node| held(fleet, node)).collect();
            assert!(all.iter().all(|(bytes, _)| *bytes <= bound), "{all:?}");
            all[0].0 > LIMIT / 2 && all.iter().all(|one| *one == all[0])
        });
    };
    write(&fleet, 0, 0);
    agree(&mut fleet);
    let (leader, _) = fleet.leader();
    fleet.kill(leader);
    fleet.whole();
    // Whoever leads now has seen other uses, and chooses by them.
    write(&fleet, (leader + 1) % 3, 10_000);
    fleet.start_one(leader);
    fleet.whole();
    write(&fleet, leader, 20_000);
    agree(&mut fleet);
    // All at once: what they hold then is what their folders say.
    (0..3).for_each(|node| fleet.kill(node));
    (0..3).for_each(|node| fleet.start_one(node));
    fleet.whole();
    agree(&mut fleet);
    assert!(held(&fleet, 0).1.contains(&format!("{:?}", limit.as_bytes())), "{:?}", held(&fleet, 0));
    assert_eq!(fleet.died(), Vec::<String>::new());
}

/// A redis-server of this test's own.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A generator that repeats: keys of a Zipf distribution with exponent 1 among `KEYS`.
struct Trace {
    state: u64,
    sums: Vec<f64>,
}

const KEYS: usize = 20_000;

impl Trace {
    fn new() -> Self {
        let mut sum = 0.0;
        let sums = (1..=KEYS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { state: 42, sums: sums.collect() }
    }

    fn next(&mut self) -> usize {
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let draw = (self.state >> 11) as f64 / (1u64 << 53) as f64 * self.sums[KEYS - 1];
        let rank = self.sums.partition_point(|sum| *sum < draw);
        // Neighbours in rank are no neighbours in name.
        rank * 7919 % KEYS
    }
}

/// Fills with as many keys as should fit, limits memory to what they take, and replays the trace: hits among 100.
async fn hit_rate(client: &mut Client, used: &str, policy: &str, fit: usize) -> f64 {
    let value = "x".repeat(100);
    let before = info(client, used).await;
    for start in (0..fit).step_by(500) {
        let lines: Vec<String> = (start..start + 500).map(|n| format!("SET fill:{n:06} {value}")).collect();
        all(client, &lines).await;
    }
    let limit = info(client, used).await;
    assert!(limit > before);
    client.check(&format!("CONFIG SET maxmemory {limit} maxmemory-policy {policy}"), "OK").await;
    let (mut trace, mut hits, mut asked) = (Trace::new(), 0, 0);
    for round in 0..400 {
        let keys: Vec<usize> = (0..250).map(|_| trace.next()).collect();
        let lines: Vec<String> = keys.iter().map(|key| format!("GET k:{key:06}")).collect();
        let replies = all(client, &lines).await;
        let missed = keys.iter().zip(&replies).filter(|(_, reply)| *reply == "nil");
        let lines: Vec<String> = missed.map(|(key, _)| format!("SET k:{key:06} {value}")).collect();
        for (at, reply) in all(client, &lines).await.into_iter().enumerate() {
            let held = info(client, used).await;
            assert_eq!(
                reply,
                "OK",
                "{policy}, {used}: {at} of {} in round {round}, {held} of {limit}",
                lines.len()
            );
        }
        if round >= 200 {
            asked += 250;
            hits += 250 - lines.len();
        }
    }
    hits as f64 * 100.0 / asked as f64
}

#[tokio::test]
#[ignore = "needs the redis-server of scripts/redis.sh, and minutes: run it alone"]
async fn evictions_are_about_as_good_as_those_of_redis() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/redis");
    let folder = std::env::var_os("QUORATE_REDIS").map_or(folder, Into::into);
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let arguments = ["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--databases", "3"];
        let child =
            Command::new(folder.join("redis-new")).args(arguments).stdout(Stdio::null()).spawn().unwrap();
        let redis = Redis(child);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let theirs = hit_rate(&mut Client::over(stream), "used_memory", policy, 2_000).await;
        drop(redis);
        let server = Server::start().await;
        let ours = hit_rate(&mut server.client().await, "used_memory_dataset", policy, 2_000).await;
        server.stop().await;
        println!("{policy}: Redis {theirs:.2} % hits, Quorate {ours:.2} %");
        assert!(ours > theirs - 3.0, "{policy}: {ours} beside {theirs}");
    }
}
