//! The gateway as a Redis client sees it, over real sockets.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_redis::{Config, Door};
use quorate_types::Principal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Client, PATIENCE, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_client_reads_what_it_has_written() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v", "OK").await;
    client.check("GET k", "\"v\"").await;
    client.check("GET none", "nil").await;
    client.check("INCR n", "1").await;
    client.check("INCR k", "(error) ERR value is not an integer or out of range").await;
    client.check("LPUSH l a b c", "3").await;
    client.check("LRANGE l 0 -1", "[\"c\", \"b\", \"a\"]").await;
    client.check("GET l", "(error) WRONGTYPE Operation against a key holding the wrong kind of value").await;
    client.check("nope a", "(error) ERR unknown command 'nope', with args beginning with: 'a' ").await;
    client.check("GET", "(error) ERR wrong number of arguments for 'get' command").await;
    client.check("SELECT 1", "OK").await;
    client.check("GET k", "nil").await;
    client.check("SELECT 16", "(error) ERR DB index is out of range").await;
    server.stop().await;
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_whatever_is_in_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut sent = Vec::new();
    for n in 0..500 {
        sent.extend_from_slice(
            format!("SET k{n} {n}\r\nGET k{n}\r\nINCR k{n}\r\nNOPE\r\nGET k{n}\r\nPING {n}\r\n").as_bytes(),
        );
    }
    client.raw(&sent).await;
    for n in 0..500 {
        assert_eq!(client.reply().await, "OK");
        assert_eq!(client.reply().await, format!("\"{n}\""));
        assert_eq!(client.reply().await, (n + 1).to_string());
        assert!(client.reply().await.starts_with("(error) ERR unknown command 'NOPE'"));
        assert_eq!(client.reply().await, format!("\"{}\"", n + 1));
        assert_eq!(client.reply().await, format!("\"{n}\""));
    }
    // One that fails in the midst of writes that travel together is alone with its error.
    client.raw(b"SET a x\r\nINCR a\r\nSET b y\r\nMGET a b\r\n").await;
    assert_eq!(client.reply().await, "OK");
    assert_eq!(client.reply().await, "(error) ERR value is not an integer or out of range");
    assert_eq!(client.reply().await, "OK");
    assert_eq!(client.reply().await, "[\"x\", \"y\"]");
    server.stop().await;
}

#[tokio::test]
async fn thousands_of_writes_in_one_pipeline_all_arrive() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sent: Vec<u8> = (0..5000).flat_map(|_| b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".iter().copied()).collect();
    client.raw(&sent).await;
    for n in 1..=5000 {
        assert_eq!(client.reply().await, n.to_string());
    }
    server.stop().await;
}

#[tokio::test]
async fn others_have_their_turn_within_a_long_pipeline() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut words = vec!["RPUSH".to_owned(), "l".to_owned()];
    words.extend((0..20_000).map(|n| format!("element:{n}")));
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    client.send_words(&words).await;
    client.reply().await;
    for (command, reply) in [("LPOS l none", "nil"), ("LREM l 0 none", "0")] {
        // Milliseconds each: without turns for others, a second or more.
        let sent = format!("{command}\r\n").repeat(2000);
        client.raw(sent.as_bytes()).await;
        let begun = Instant::now();
        let mut other = server.client().await;
        other.check("PING", "PONG").await;
        other.check("GET none", "nil").await;
        let others = begun.elapsed();
        for _ in 0..2000 {
            assert_eq!(client.reply().await, reply);
        }
        assert!(others < begun.elapsed() / 4, "{others:?} of {:?}: {command}", begun.elapsed());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_what_was_there_when_it_was_asked_for() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let value = "v".repeat(90);
    for from in (0..100_000).step_by(1000) {
        let mut words = vec!["HSET".to_owned(), "h".to_owned()];
        (from..from + 1000).for_each(|n| words.extend([format!("field:{n:06}"), value.clone()]));
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        client.send_words(&words).await;
        assert_eq!(client.reply().await, "1000");
    }
    // Far more than sockets hold, ten times, and nobody reads yet.
    let before = resident_bytes();
    client.raw("HGETALL h\r\n".repeat(10).as_bytes()).await;
    for n in 0..100_000 {
        other.send(&format!("HSET h field:{n:06} new")).await;
    }
    for _ in 0..100_000 {
        assert_eq!(other.reply().await, "0");
    }
    other.check("DEL h", "1").await;
    assert!(resident_bytes() < before + (120 << 20), "{} bytes more", resident_bytes() - before);
    let first = client.reply().await;
    assert_eq!(first.matches(&value).count(), 100_000, "what was changed meanwhile is as it was");
    assert_eq!(first.matches("field:").count(), 100_000);
    for _ in 1..10 {
        assert!(client.reply().await == "[]", "the others were asked once it was gone");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_that_of_a_short_one() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (command, element) in [("HSET h", "HASH"), ("RPUSH l", ""), ("SADD s", ""), ("ZADD z", "SCORE")] {
        let elements = (0..5000).map(|n| match element {
            "HASH" => format!("m{n} {n}"),
            "SCORE" => format!("{} m{n}", n % 100),
            _ => format!("m{n}"),
        });
        let line = format!("{command} {}", elements.collect::<Vec<_>>().join(" "));
        client.check(&line, "5000").await;
    }
    for line in [
        "HGETALL h",
        "HKEYS h",
        "HVALS h",
        "SMEMBERS s",
        "LRANGE l 0 -1",
        "LRANGE l 1000 -500",
        "ZRANGE z 0 -1",
        "ZRANGE z 0 -1 REV",
        "ZRANGE z 100 -1 WITHSCORES",
        "ZRANGE z 0 -1 REV WITHSCORES",
        "ZRANGEBYSCORE z 5 +inf WITHSCORES LIMIT 10 3500",
        "ZREVRANGEBYSCORE z 90 -inf WITHSCORES LIMIT 10 3500",
        "ZREVRANGE z 0 4000",
        "ZRANGEBYLEX z - +",
        "ZREVRANGEBYLEX z + -",
    ] {
        for hello in ["HELLO 2", "HELLO 3"] {
            client.ask(hello).await;
            let long = client.ask(line).await;
            // In a transaction it is answered at once.
            client.check("MULTI", "OK").await;
            client.check(line, "QUEUED").await;
            let short = client.ask("EXEC").await;
            assert!(
                long.len() > 10_000 && format!("[{long}]") == short,
                "{line} after {hello}: {long:.200} {short:.200}"
            );
        }
    }
    client.ask("HELLO 2").await;
    client.check("LRANGE l 5 3", "[]").await;
    client.raw(b"CLIENT REPLY SKIP\r\nHGETALL h\r\nPING\r\n").await;
    assert_eq!(client.reply().await, "PONG");
    server.stop().await;
}

#[tokio::test]
async fn hello_chooses_the_dialect() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("HSET h f v", "1").await;
    client.check("HGETALL h", "[\"f\", \"v\"]").await;
    let greeting = client.ask("HELLO 3 SETNAME me").await;
    assert!(greeting.starts_with("{\"server\": \"redis\", \"version\": \"7."), "{greeting}");
    assert!(greeting.contains("\"proto\": 3, ") && greeting.ends_with("\"modules\": []}"), "{greeting}");
    client.check("HGETALL h", "{\"f\": \"v\"}").await;
    client.check("CLIENT GETNAME", "\"me\"").await;
    client.check("GET none", "nil").await;
    client.check("HELLO 4", "(error) NOPROTO unsupported protocol version").await;
    client.check("HELLO x", "(error) ERR Protocol version is not an integer or out of range").await;
    client.check("HELLO 3 NOPE", "(error) ERR Syntax error in HELLO option 'NOPE'").await;
    assert!(client.ask("HELLO 2").await.starts_with("[\"server\", "));
    client.check("RESET", "RESET").await;
    client.check("CLIENT GETNAME", "nil").await;
    server.stop().await;
}

struct OneToken;

impl Door for OneToken {
    fn principal(&self, secret: &str) -> Option<Principal> {
        (secret == "s3cret").then(|| "ann".into())
    }
}

#[tokio::test]
async fn nobody_enters_without_a_token() {
    let server = Server::with(Config { door: Some(Arc::new(OneToken)), ..Config::default() }).await;
    let mut client = server.client().await;
    client.check("GET k", "(error) NOAUTH Authentication required.").await;
    client.check("PING", "(error) NOAUTH Authentication required.").await;
    client.check("AUTH nope", "(error) WRONGPASS invalid username-password pair or user is disabled.").await;
    client
        .check("AUTH bob s3cret", "(error) WRONGPASS invalid username-password pair or user is disabled.")
        .await;
    assert!(client.ask("HELLO 3").await.starts_with("(error) NOAUTH HELLO must be called"));
    client.check("AUTH ann s3cret", "OK").await;
    client.check("ACL WHOAMI", "\"ann\"").await;
    client.check("SET k v", "OK").await;
    client.check("RESET", "RESET").await;
    client.check("GET k", "(error) NOAUTH Authentication required.").await;
    client.check("AUTH s3cret", "OK").await;
    assert!(client.ask("Q.WHY k").await.contains("\"principal\", \"ann\""));
    let mut other = server.client().await;
    assert!(other.ask("HELLO 3 AUTH default s3cret").await.contains("\"proto\": 3"));
    // Before that, only little may be sent.
    let mut greedy = server.client().await;
    greedy.raw(b"*100\r\n").await;
    assert_eq!(greedy.reply().await, "(error) ERR Protocol error: unauthenticated multibulk length");
    greedy.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_is_one_commit_and_its_errors_are_its_own() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("MULTI", "OK").await;
    client.check("MULTI", "(error) ERR MULTI calls can not be nested").await;
    for line in ["SET k v", "INCR k", "GET k", "SELECT 2", "SET k two", "PING", "PUBLISH c m"] {
        client.check(line, "QUEUED").await;
    }
    let wanted = "[OK, (error) ERR value is not an integer or out of range, \"v\", OK, OK, PONG, 0]";
    client.check("EXEC", wanted).await;
    client.check("GET k", "\"two\"").await;
    client.check("SELECT 0", "OK").await;
    client.check("GET k", "\"v\"").await;
    client.check("EXEC", "(error) ERR EXEC without MULTI").await;
    client.check("DISCARD", "(error) ERR DISCARD without MULTI").await;
    // What cannot be queued refuses all of it.
    client.check("MULTI", "OK").await;
    client.check("SET k w", "QUEUED").await;
    client.check("GET", "(error) ERR wrong number of arguments for 'get' command").await;
    client.check("EXEC", "(error) EXECABORT Transaction discarded because of previous errors.").await;
    client.check("GET k", "\"v\"").await;
    client.check("MULTI", "OK").await;
    client.check("EXEC", "[]").await;
    client.check("MULTI", "OK").await;
    client.check("SET k w", "QUEUED").await;
    client.check("DISCARD", "OK").await;
    client.check("GET k", "\"v\"").await;
    server.stop().await;
}

#[tokio::test]
async fn a_watched_key_that_changed_empties_exec() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    client.check("WATCH k", "OK").await;
    other.check("SET k other", "OK").await;
    client.check("MULTI", "OK").await;
    client.check("WATCH j", "(error) ERR WATCH inside MULTI is not allowed").await;
    client.check("SET k mine", "QUEUED").await;
    client.check("EXEC", "nil").await;
    client.check("GET k", "\"other\"").await;
    // Made and deleted again counts too.
    client.check("WATCH x", "OK").await;
    other.check("SET x 1", "OK").await;
    other.check("DEL x", "1").await;
    client.check("MULTI", "OK").await;
    client.check("PING", "QUEUED").await;
    client.check("EXEC", "nil").await;
    // So does a change of a collection.
    other.check("HSET h a 1 b 2", "2").await;
    client.check("WATCH h", "OK").await;
    other.check("HDEL h a", "1").await;
    client.check("MULTI", "OK").await;
    client.check("EXEC", "nil").await;
    // Nothing changed, or nothing watched any more: it takes effect.
    client.check("WATCH k", "OK").await;
    client.check("MULTI", "OK").await;
    client.check("SET k mine", "QUEUED").await;
    client.check("EXEC", "[OK]").await;
    client.check("WATCH k", "OK").await;
    other.check("SET k other", "OK").await;
    client.check("UNWATCH", "OK").await;
    client.check("MULTI", "OK").await;
    client.check("GET k", "QUEUED").await;
    client.check("EXEC", "[\"other\"]").await;
    server.stop().await;
}

#[tokio::test]
async fn our_own_words_guard_a_transaction() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let token = client.ask("Q.LOCK job 60000").await;
    client.check("Q.LOCK job 60000", "nil").await;
    client.check("MULTI", "OK").await;
    client.check(&format!("Q.FENCE job {token}"), "QUEUED").await;
    client.check("Q.VERSION k 0", "QUEUED").await;
    client.check("Q.LIMIT tenant 1 60000 2", "QUEUED").await;
    client.check("SET k v", "QUEUED").await;
    client.check("EXEC", "[OK, OK, 1, OK]").await;
    client.check("MULTI", "OK").await;
    client.check("Q.VERSION k 0", "QUEUED").await;
    client.check("SET k w", "QUEUED").await;
    assert!(client.ask("EXEC").await.starts_with("(error) CONFLICT key k has version 1, wanted exactly 0"));
    client.check("Q.KEEP job 999999", "0").await;
    client.check(&format!("Q.KEEP job {token}"), "1").await;
    client.check(&format!("Q.UNLOCK job {token}"), "1").await;
    client.check(&format!("Q.UNLOCK job {token}"), "0").await;
    client.check("MULTI", "OK").await;
    client.check(&format!("Q.FENCE job {token}"), "QUEUED").await;
    client.check("SET k w", "QUEUED").await;
    assert!(client.ask("EXEC").await.starts_with("(error) FENCED nobody holds lock job"));
    // The bucket has one left, then none.
    for wanted in ["[0, 2]", "(error) LIMITED"] {
        client.check("MULTI", "OK").await;
        client.check("Q.LIMIT tenant 1 60000 2", "QUEUED").await;
        client.check(if wanted.starts_with('[') { "STRLEN two" } else { "SET k w" }, "QUEUED").await;
        let found = client.ask("EXEC").await;
        assert!(found.starts_with(if wanted.starts_with('[') { "[0, 0]" } else { wanted }), "{found}");
    }
    // Any error refuses all of it, when asked for.
    client.check("MULTI", "OK").await;
    client.check("Q.ATOMIC", "QUEUED").await;
    client.check("SET k w", "QUEUED").await;
    client.check("INCR k", "QUEUED").await;
    client.check("EXEC", "(error) ERR value is not an integer or out of range").await;
    client.check("GET k", "\"v\"").await;
    client.check("Q.FENCE job 1", "(error) ERR Q.FENCE stands between MULTI and EXEC").await;
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_transaction_is_done_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..2 {
        client.check("MULTI", "OK").await;
        client.check("Q.IDEMPOTENT pay-1 60000", "QUEUED").await;
        client.check("INCR n", "QUEUED").await;
        client.check("Q.AFTER 1 INCR later", "QUEUED").await;
        client.check("EXEC", "[OK, 1, OK]").await;
    }
    client.check("GET n", "\"1\"").await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_for_later_happens_later_and_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert!(client.ask("Q.AFTER 200 INCR n").await.starts_with("\"redis/"));
    client.check("GET n", "nil").await;
    let begun = Instant::now();
    while client.ask("GET n").await == "nil" {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(150));
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.check("GET n", "\"1\"").await;
    server.stop().await;
}

#[tokio::test]
async fn a_lock_goes_to_who_waited_longest() {
    let server = Server::start().await;
    let (mut holder, mut first, mut second) =
        (server.client().await, server.client().await, server.client().await);
    let token: u64 = holder.ask("Q.LOCK l 60000").await.parse().unwrap();
    first.send("Q.LOCK l 300 WAIT 20000").await;
    // Longer than the first's own time to live: its lease is kept while it waits.
    tokio::time::sleep(Duration::from_millis(700)).await;
    second.send("Q.LOCK l 60000 WAIT 20000").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    holder.check(&format!("Q.UNLOCK l {token}"), "1").await;
    let next: u64 = first.reply().await.parse().unwrap();
    assert!(next > token);
    // It is not kept any longer: its time passes, and the second has it.
    let last: u64 = second.reply().await.parse().unwrap();
    assert!(last > next);
    let begun = Instant::now();
    holder.check("Q.LOCK l 60000 WAIT 100", "nil").await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    server.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_list_is_served_in_order_and_on_time() {
    let server = Server::start().await;
    let mut pusher = server.client().await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        let mut waiter = server.client().await;
        waiter.send("BLPOP other l 0").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        waiters.push(waiter);
    }
    assert!(pusher.ask("INFO clients").await.contains("blocked_clients:3\r\n"));
    pusher.check("RPUSH l a b", "2").await;
    assert_eq!(waiters[0].reply().await, "[\"l\", \"a\"]");
    assert_eq!(waiters[1].reply().await, "[\"l\", \"b\"]");
    assert!(waiters[2].is_silent().await);
    pusher.check("RPUSH other c", "1").await;
    assert_eq!(waiters[2].reply().await, "[\"other\", \"c\"]");
    let begun = Instant::now();
    pusher.check("BLPOP l 0.2", "nil").await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(400), "{took:?}");
    pusher.check("BLPOP l x", "(error) ERR timeout is not a float or out of range").await;
    pusher.check("BLPOP l -1", "(error) ERR timeout is negative").await;
    pusher.check("SET s v", "OK").await;
    pusher
        .check("BLPOP s 0", "(error) WRONGTYPE Operation against a key holding the wrong kind of value")
        .await;
    pusher.check("BLMOVE a b UP LEFT 0", "(error) ERR syntax error").await;
    server.stop().await;
}

#[tokio::test]
async fn every_blocking_form_waits_and_is_served() {
    let server = Server::start().await;
    let (mut waiter, mut other) = (server.client().await, server.client().await);
    for (wait, push, wanted) in [
        ("BRPOP l 0", "RPUSH l a b", "[\"l\", \"b\"]"),
        ("BLMOVE src dst LEFT RIGHT 0", "RPUSH src x", "\"x\""),
        ("BRPOPLPUSH src dst 0", "RPUSH src y", "\"y\""),
        ("BLMPOP 0 2 m n LEFT COUNT 2", "RPUSH n p q r", "[\"n\", [\"p\", \"q\"]]"),
        ("BZPOPMIN z 0", "ZADD z 2 b 1 a", "[\"z\", \"a\", \"1\"]"),
        ("BZPOPMAX y 0", "ZADD y 2 b 1 a", "[\"y\", \"b\", \"2\"]"),
        ("BZMPOP 0 1 w MAX", "ZADD w 2 b 1 a", "[\"w\", [[\"b\", \"2\"]]]"),
    ] {
        waiter.send(wait).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        other.ask(push).await;
        assert_eq!(waiter.reply().await, wanted, "{wait}");
    }
    // Inside a transaction nobody waits.
    waiter.check("MULTI", "OK").await;
    waiter.check("BLPOP nothing 0", "QUEUED").await;
    waiter.check("EXEC", "[nil]").await;
    server.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_its_connection_or_by_request() {
    let server = Server::start().await;
    let (mut gone, mut waiter, mut other) =
        (server.client().await, server.client().await, server.client().await);
    gone.send("BLPOP l 0").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = waiter.ask("CLIENT ID").await;
    waiter.send("BLPOP l 0").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(gone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.check("RPUSH l a", "1").await;
    assert_eq!(waiter.reply().await, "[\"l\", \"a\"]");
    waiter.send("BLPOP l 0").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.check(&format!("CLIENT UNBLOCK {id}"), "1").await;
    assert_eq!(waiter.reply().await, "nil");
    waiter.send("BLPOP l 0").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.check(&format!("CLIENT UNBLOCK {id} ERROR"), "1").await;
    assert_eq!(waiter.reply().await, "(error) UNBLOCKED client unblocked via CLIENT UNBLOCK");
    other.check(&format!("CLIENT UNBLOCK {id}"), "0").await;
    // What is sent behind a wait is done after it.
    waiter.raw(b"BLPOP l 0\r\nPING\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.check("RPUSH l z", "1").await;
    assert_eq!(waiter.reply().await, "[\"l\", \"z\"]");
    assert_eq!(waiter.reply().await, "PONG");
    server.stop().await;
}

#[tokio::test]
async fn what_is_published_reaches_who_listens() {
    let server = Server::start().await;
    let (mut two, mut three, mut sender) =
        (server.client().await, server.client().await, server.client().await);
    two.check("SUBSCRIBE news", "[\"subscribe\", \"news\", 1]").await;
    two.check("PSUBSCRIBE n*", "[\"psubscribe\", \"n*\", 2]").await;
    three.ask("HELLO 3").await;
    three.check("SUBSCRIBE news", ">[\"subscribe\", \"news\", 1]").await;
    three.check("SSUBSCRIBE shard", ">[\"ssubscribe\", \"shard\", 1]").await;
    sender.check("PUBLISH news hi", "3").await;
    assert_eq!(two.reply().await, "[\"message\", \"news\", \"hi\"]");
    assert_eq!(two.reply().await, "[\"pmessage\", \"n*\", \"news\", \"hi\"]");
    assert_eq!(three.reply().await, ">[\"message\", \"news\", \"hi\"]");
    sender.check("SPUBLISH shard s", "1").await;
    assert_eq!(three.reply().await, ">[\"smessage\", \"shard\", \"s\"]");
    // RESP3 goes on with other commands, RESP2 does not.
    three.check("GET k", "nil").await;
    two.check(
        "GET k",
        "(error) ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
    )
    .await;
    two.check("PING", "[\"pong\", \"\"]").await;
    sender.check("PUBSUB CHANNELS", "[\"news\"]").await;
    sender.check("PUBSUB NUMSUB news none", "[\"news\", 2, \"none\", 0]").await;
    sender.check("PUBSUB NUMPAT", "1").await;
    sender.check("PUBSUB SHARDCHANNELS", "[\"shard\"]").await;
    two.check("UNSUBSCRIBE", "[\"unsubscribe\", \"news\", 1]").await;
    two.check("PUNSUBSCRIBE n*", "[\"punsubscribe\", \"n*\", 0]").await;
    two.check("UNSUBSCRIBE", "[\"unsubscribe\", nil, 0]").await;
    two.check("GET k", "nil").await;
    sender.check("MULTI", "OK").await;
    sender.check("PUBLISH news later", "QUEUED").await;
    assert!(three.is_silent().await);
    sender.check("EXEC", "[1]").await;
    assert_eq!(three.reply().await, ">[\"message\", \"news\", \"later\"]");
    drop(three);
    tokio::time::sleep(Duration::from_millis(50)).await;
    sender.check("PUBLISH news nobody", "0").await;
    server.stop().await;
}

#[tokio::test]
async fn a_listener_that_does_not_listen_is_cut_off() {
    let server = Server::with(Config { pushes_bytes_max: 1 << 20, ..Config::default() }).await;
    let (mut slow, mut sender) = (server.client().await, server.client().await);
    slow.check("SUBSCRIBE c", "[\"subscribe\", \"c\", 1]").await;
    let message = vec![b'x'; 100_000];
    let begun = Instant::now();
    loop {
        sender.send_words(&[b"PUBLISH", b"c", &message]).await;
        if sender.reply().await == "0" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it was never cut off");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let server = Server::start().await;
    let (mut slow, mut other) = (server.client().await, server.client().await);
    let value = vec![b'x'; 1 << 20];
    other.send_words(&[b"SET", b"big", &value]).await;
    assert_eq!(other.reply().await, "OK");
    // Asks for far more than buffers hold, and reads nothing: its requests stay in the socket.
    for _ in 0..200 {
        slow.raw(b"GET big\r\n").await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let bytes = resident_bytes();
    assert!(bytes < 400 << 20, "the process holds {bytes} bytes");
    other.check("PING", "PONG").await;
    // Nothing is lost: once it reads, all is there.
    for _ in 0..200 {
        assert_eq!(slow.reply().await.len(), value.len() + 2);
    }
    server.stop().await;
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn what_is_no_protocol_is_told_and_ended() {
    let server = Server::start().await;
    for (bytes, wanted) in [
        (&b"*1\r\n:1\r\n"[..], "(error) ERR Protocol error: expected '$', got ':'"),
        (b"*9999999999\r\n", "(error) ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$99999999999\r\n", "(error) ERR Protocol error: invalid bulk length"),
        (b"SET \"a\r\n", "(error) ERR Protocol error: unbalanced quotes in request"),
    ] {
        let mut client = server.client().await;
        client.raw(b"PING\r\n").await;
        client.raw(bytes).await;
        assert_eq!(client.reply().await, "PONG");
        assert_eq!(client.reply().await, wanted);
        client.ended().await;
    }
    // A web page that posts here gets nothing.
    let mut page = server.client().await;
    page.raw(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n").await;
    page.ended().await;
    let mut client = server.client().await;
    client.check("GET k", "nil").await;
    // A word that is announced, and never comes, takes no memory.
    let before = resident_bytes();
    let mut announced = Vec::new();
    for _ in 0..100 {
        let mut client = server.client().await;
        client.raw(b"*2\r\n$3\r\nGET\r\n$16000000\r\nx").await;
        announced.push(client);
    }
    client.check("PING", "PONG").await;
    assert!(resident_bytes() < before + (64 << 20));
    server.stop().await;
}

#[tokio::test]
async fn a_word_that_is_too_long_is_refused_and_the_rest_goes_on() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let value = vec![b'x'; 5 << 20];
    client.send_words(&[b"SET", b"k", &value]).await;
    assert!(
        client.reply().await.starts_with("(error) ERR a word of 5242880 bytes is longer than the 4194304")
    );
    client.check("SET k v", "OK").await;
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_idle_connections_cost_little_and_harm_nobody() {
    idle(1000).await;
}

#[tokio::test]
#[ignore = "needs 20,000 file descriptors: ulimit -n 25000, then cargo test -- --ignored"]
async fn ten_thousand_idle_connections_cost_little_and_harm_nobody() {
    idle(9990).await;
}

async fn idle(count: usize) {
    let server = Server::start().await;
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = server.client().await;
        client.check("PING", "PONG").await;
        clients.push(client);
    }
    // Other tests of this process may have given back more meanwhile than these took.
    let each = resident_bytes().saturating_sub(before) / count as u64;
    println!("{each} bytes for each of {count} connections, the test's own end of each included");
    assert!(each < 20_000, "{each} bytes for a connection");
    let mut client = server.client().await;
    client.check("SET k v", "OK").await;
    assert!(client.ask("INFO clients").await.contains(&format!("connected_clients:{}\r\n", count + 1)));
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::with(Config { connections_max: 1, ..Config::default() }).await;
    let mut client = server.client().await;
    client.check("PING", "PONG").await;
    let mut other = server.client().await;
    assert_eq!(other.reply().await, "(error) ERR max number of clients reached");
    other.ended().await;
    client.check("CONFIG SET maxclients 2", "OK").await;
    let mut other = server.client().await;
    other.check("PING", "PONG").await;
    server.stop().await;
}

#[tokio::test]
async fn clients_see_and_end_each_other() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    one.check("CLIENT SETNAME one", "OK").await;
    two.check("CLIENT SETINFO LIB-NAME lib", "OK").await;
    one.check(
        "CLIENT SETNAME a\tb",
        "(error) ERR Client names cannot contain spaces, newlines or special characters.",
    )
    .await;
    let id = two.ask("CLIENT ID").await;
    let list = one.ask("CLIENT LIST").await;
    assert!(list.contains(" name=one ") && list.contains(" lib-name=lib "), "{list}");
    assert!(one.ask("CLIENT INFO").await.contains(" name=one "));
    one.check(&format!("CLIENT KILL ID {id}"), "1").await;
    two.ended().await;
    one.check("CLIENT KILL 1.2.3.4:5", "(error) ERR No such client").await;
    one.check("CLIENT KILL TYPE normal SKIPME no", "1").await;
    one.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_may_do_without_replies() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.raw(b"CLIENT REPLY OFF\r\nSET k v\r\nGET k\r\nNOPE\r\nCLIENT REPLY ON\r\n").await;
    assert_eq!(client.reply().await, "OK");
    client.raw(b"CLIENT REPLY SKIP\r\nINCR n\r\nINCR n\r\nCLIENT REPLY SKIP\r\nGET n\r\nGET n\r\n").await;
    assert_eq!(client.reply().await, "2");
    assert_eq!(client.reply().await, "\"2\"");
    server.stop().await;
}

#[tokio::test]
async fn a_pause_holds_commands_back() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    one.check("CLIENT PAUSE 60000 WRITE", "OK").await;
    two.send("SET k v").await;
    assert!(two.is_silent().await);
    one.check("GET k", "nil").await;
    one.check("CLIENT UNPAUSE", "OK").await;
    assert_eq!(two.reply().await, "OK");
    let begun = Instant::now();
    one.check("CLIENT PAUSE 200", "OK").await;
    two.check("GET k", "\"v\"").await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    server.stop().await;
}

#[tokio::test]
async fn the_server_tells_what_clients_look_for() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v", "OK").await;
    let info = client.ask("INFO").await;
    for wanted in [
        "redis_version:7.",
        "\r\nloading:0\r\n",
        "\r\nrole:master\r\n",
        "\r\nmaxmemory_policy:noeviction\r\n",
        "\r\ncluster_enabled:0\r\n",
        "\r\ndb0:keys=1\r\n",
        "\r\nquorate_version:",
    ] {
        assert!(info.contains(wanted), "{wanted} in {info}");
    }
    assert!(!client.ask("INFO server").await.contains("# Stats"));
    client.check("CONFIG GET save", "[\"save\", \"\"]").await;
    client.check("CONFIG GET append*", "[\"appendfsync\", \"always\", \"appendonly\", \"yes\"]").await;
    client.check("CONFIG SET maxmemory-policy noeviction", "OK").await;
    assert!(
        client.ask("CONFIG SET maxmemory-policy whatever").await.starts_with("(error) ERR CONFIG SET failed")
    );
    assert!(client.ask("CONFIG SET nope 1").await.starts_with("(error) ERR Unknown option"));
    client.check("ROLE", "[\"master\", 0, []]").await;
    client.check("WAIT 0 100", "0").await;
    client.check("WAITAOF 1 0 100", "[1, 0]").await;
    client.check("COMMAND GETKEYS MSET a 1 b 2", "[\"a\", \"b\"]").await;
    assert!(client.ask("COMMAND INFO get").await.starts_with("[[\"get\", 2, [readonly, fast], 1, 1, 1, "));
    assert!(client.ask("COMMAND DOCS get").await.contains("\"summary\""));
    let count: usize = client.ask("COMMAND COUNT").await.parse().unwrap();
    assert!(count > 200, "{count}");
    let port = server.address.port();
    client.check("SENTINEL get-master-addr-by-name mymaster", &format!("[\"127.0.0.1\", \"{port}\"]")).await;
    for refused in [
        "SHUTDOWN",
        "REPLICAOF a 1",
        "DEBUG SLEEP 1",
        "CLIENT TRACKING on NOLOOP",
        "CLIENT MAINT_NOTIFICATIONS on",
    ] {
        assert!(client.ask(refused).await.starts_with("(error) ERR "), "{refused}");
    }
    client.check("CLIENT NOPE", "(error) ERR unknown subcommand 'NOPE'. Try CLIENT HELP.").await;
    client.check("READONLY", "OK").await;
    client.check("GET k", "\"v\"").await;
    client.check("QUIT", "OK").await;
    client.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn slow_commands_are_noted_and_all_are_shown_to_monitors() {
    let server = Server::start().await;
    let (mut client, mut monitor) = (server.client().await, server.client().await);
    client.check("CONFIG SET slowlog-log-slower-than 0", "OK").await;
    client.check("SET k v", "OK").await;
    let log = client.ask("SLOWLOG GET 10").await;
    assert!(log.contains("[\"SET\", \"k\", \"v\"]"), "{log}");
    client.check("CONFIG SET slowlog-log-slower-than -1", "OK").await;
    client.check("SLOWLOG RESET", "OK").await;
    client.check("SLOWLOG LEN", "0").await;
    monitor.check("MONITOR", "OK").await;
    client.check("SET k \u{7}", "OK").await;
    client.check("GET k", "\"\u{7}\"").await;
    assert!(monitor.reply().await.ends_with("\"SET\" \"k\" \"\\a\""));
    assert!(monitor.reply().await.ends_with("\"GET\" \"k\""));
    server.stop().await;
}

#[tokio::test]
async fn commands_arrive_however_they_are_cut() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\n\x00\xff\r\n" {
        client.raw(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply().await, "OK");
    client.check("STRLEN k", "5").await;
    server.stop().await;
}

#[tokio::test]
async fn sixty_four_clients_lose_no_increment() {
    let server = Arc::new(Server::start().await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut client: Client = server.client().await;
                for _ in 0..50 {
                    client.ask("INCR n").await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut client = server.client().await;
    client.check("GET n", "\"3200\"").await;
}

#[tokio::test]
async fn a_time_to_live_passes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v PX 150", "OK").await;
    client.check("GET k", "\"v\"").await;
    tokio::time::sleep(Duration::from_millis(160)).await;
    client.check("GET k", "nil").await;
    client.check("DBSIZE", "0").await;
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_every_connection() {
    let server = Server::start().await;
    let (mut waiting, mut idle) = (server.client().await, server.client().await);
    waiting.send("BLPOP l 0").await;
    idle.check("PING", "PONG").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop().await;
    waiting.ended().await;
    idle.ended().await;
    let _ = idle.stream.write_all(b"PING\r\n").await;
    let mut rest = Vec::new();
    let _ = idle.stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
