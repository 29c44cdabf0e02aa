//! Clients that remember what they have read are told of every change of it, whoever made it, and after the reply that they remember.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_redis::Config;
use quorate_types::{Command, CommandBody, Commit, LeaseId, Op, Outcome};
use std::collections::{HashMap, HashSet};
use support::{Client, Server};

/// The message that a key may have changed.
fn invalid(name: &str) -> String {
    format!(">[\"invalidate\", [\"{name}\"]]")
}

async fn tracking(server: &Server, options: &str) -> Client {
    let mut client = server.client().await;
    client.ask("HELLO 3").await;
    client.check(&format!("CLIENT TRACKING ON{options}"), "OK").await;
    client
}

/// A commit as other protocols make it.
async fn commit(server: &Server, op: Op) {
    let body = CommandBody::Commit { commit: Commit::of(vec![op]) };
    let outcome = server.data.handle().command(Command::new("somebody".into(), body)).await;
    assert!(matches!(outcome, Ok(Outcome::Committed { .. })), "{outcome:?}");
}

/// The next thing that comes has to be this reply: so nothing was told before.
async fn quiet(client: &mut Client) {
    client.check("PING", "PONG").await;
}

#[tokio::test]
async fn whoever_changes_what_was_read_it_is_told_once() {
    let server = Server::start().await;
    let (mut client, mut other) = (tracking(&server, "").await, server.client().await);
    client.check("GET k", "nil").await;
    other.check("SET k 1", "OK").await;
    assert_eq!(client.reply().await, invalid("k"));
    other.check("SET k 2", "OK").await;
    quiet(&mut client).await;
    client.check("GET k", "\"2\"").await;
    // The reply of one's own change comes first.
    client.check("SET k 3", "OK").await;
    assert_eq!(client.reply().await, invalid("k"));
    // Several keys, some of them twice, one of them not changed.
    client.check("MGET a b a c", "[nil, nil, nil, nil]").await;
    other.check("MSET b 1 a 1 x 1", "OK").await;
    let mut told = [client.reply().await, client.reply().await];
    told.sort();
    assert_eq!(told, [invalid("a"), invalid("b")]);
    // By its time.
    other.check("SET k v PX 60", "OK").await;
    client.check("GET k", "\"v\"").await;
    assert_eq!(client.reply().await, invalid("k"));
    client.check("GET k", "nil").await;
    // A field of a hash by its time.
    other.check("HSETEX h PX 60 FIELDS 2 f 1 g 2", "1").await;
    client.check("HLEN h", "2").await;
    assert_eq!(client.reply().await, invalid("h"));
    // Another protocol.
    let put = Op::Put { key: "k".into(), value: "http".into(), lease: LeaseId(0), prev: false };
    commit(&server, put).await;
    assert_eq!(client.reply().await, invalid("k"));
    client.check("GET k", "\"http\"").await;
    commit(&server, Op::Delete { key: "k".into(), prev: false }).await;
    assert_eq!(client.reply().await, invalid("k"));
    // In a transaction, and by a script.
    client.check("MULTI", "OK").await;
    client.check("GET k", "QUEUED").await;
    client.check("EXEC", "[nil]").await;
    other.check("RPUSH k x", "1").await;
    assert_eq!(client.reply().await, invalid("k"));
    client.send_words(&[b"EVAL", b"return redis.call('LLEN', KEYS[1])", b"1", b"k"]).await;
    assert_eq!(client.reply().await, "1");
    other.check("RPUSH k x", "2").await;
    assert_eq!(client.reply().await, invalid("k"));
    // Streams, too.
    client.check("XLEN s", "0").await;
    other.check("XADD s 1-1 f v", "\"1-1\"").await;
    assert_eq!(client.reply().await, invalid("s"));
    // Everything, at once.
    client.check("GET k2", "nil").await;
    other.check("FLUSHALL", "OK").await;
    assert_eq!(client.reply().await, ">[\"invalidate\", nil]");
    client.check("GET k2", "nil").await;
    client.check("CLIENT TRACKING OFF", "OK").await;
    other.check("SET k2 1", "OK").await;
    quiet(&mut client).await;
    server.stop().await;
}

#[tokio::test]
async fn a_keyspace_that_is_emptied_at_once_is_told_as_changed_and_every_watched_key_of_it() {
    let server = Server::start().await;
    let (mut client, mut other) = (tracking(&server, "").await, server.client().await);
    for from in (0..5_000).step_by(1_000) {
        let all = (from..from + 1_000).fold("MSET".to_owned(), |text, at| format!("{text} k{at} v"));
        other.check(&all, "OK").await;
    }
    let mut waiting = server.client().await;
    waiting.check("WATCH k7", "OK").await;
    client.check("MGET k1 none", "[\"v\", nil]").await;
    other.check("FLUSHALL", "OK").await;
    assert_eq!(client.reply().await, ">[\"invalidate\", nil]");
    client.check("MGET k1 k2", "[nil, nil]").await;
    waiting.check("MULTI", "OK").await;
    waiting.check("SET k8 1", "QUEUED").await;
    waiting.check("EXEC", "nil").await;
    // What is written where a row lies still is told as ever.
    other.check("SET k1 1", "OK").await;
    assert_eq!(client.reply().await, invalid("k1"));
    other.check("SADD k2 m", "1").await;
    assert_eq!(client.reply().await, invalid("k2"));
    other.check("DBSIZE", "2").await;
    server.stop().await;
}

/// Another client's write goes in the same entry as a transaction that reads, or just behind it: whatever the transaction did not see, it is told.
#[tokio::test]
async fn what_a_transaction_reads_is_remembered_before_it_commits() {
    let server = Server::start().await;
    let (mut client, mut other) = (tracking(&server, "").await, server.client().await);
    let (mut told, mut missed, mut seen) = (HashSet::new(), HashSet::new(), 0);
    for round in 0..300 {
        let (read, write) = (format!("MULTI\r\nGET k{round}\r\nEXEC\r\n"), format!("SET k{round} 1\r\n"));
        if round % 3 == 0 {
            other.raw(write.as_bytes()).await;
            client.raw(read.as_bytes()).await;
        } else {
            client.raw(read.as_bytes()).await;
            other.raw(write.as_bytes()).await;
        }
        let mut replies = Vec::new();
        while replies.len() < 3 {
            let reply = client.reply().await;
            if reply.starts_with('>') {
                told.insert(reply);
            } else {
                replies.push(reply);
            }
        }
        match replies[2].as_str() {
            "[nil]" => {
                missed.insert(invalid(&format!("k{round}")));
            }
            "[\"1\"]" => seen += 1,
            other => panic!("{other}"),
        }
        assert_eq!(other.reply().await, "OK");
    }
    assert!(missed.len() > 50, "the test has not come between: {} missed, {seen} seen", missed.len());
    while !missed.is_subset(&told) {
        told.insert(client.reply().await);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_is_evicted_is_told_like_one_that_is_deleted() {
    let server = Server::start().await;
    let mut other = server.client().await;
    other.check("MSET a 1 b 2", "OK").await;
    let mut client = tracking(&server, "").await;
    client.check("MGET a b none", "[\"1\", \"2\", nil]").await;
    quiet(&mut client).await;
    // A limit that holds nothing, and no other command: who goes does so by an eviction.
    other.check("CONFIG SET maxmemory 1 maxmemory-policy allkeys-random", "OK").await;
    let mut told = [client.reply().await, client.reply().await];
    told.sort();
    assert_eq!(told, [invalid("a"), invalid("b")]);
    client.check("MGET a b", "[nil, nil]").await;
    assert!(other.ask("INFO stats").await.contains("evicted_keys:2"));
    quiet(&mut client).await;
    server.stop().await;
}

#[tokio::test]
async fn what_counts_can_be_chosen() {
    let server = Server::start().await;
    let mut other = server.client().await;
    let mut client = tracking(&server, " OPTIN").await;
    client.check("GET a", "nil").await;
    client.check("CLIENT CACHING YES", "OK").await;
    client.check("GET b", "nil").await;
    client.check("GET c", "nil").await;
    client.check("CLIENT CACHING YES", "OK").await;
    client.check("MULTI", "OK").await;
    client.check("GET d", "QUEUED").await;
    client.check("GET e", "QUEUED").await;
    client.check("EXEC", "[nil, nil]").await;
    for key in ["a", "b", "c", "d", "e"] {
        other.check(&format!("SET {key} 1"), "OK").await;
    }
    for key in ["b", "d", "e"] {
        assert_eq!(client.reply().await, invalid(key));
    }
    quiet(&mut client).await;
    let mut client = tracking(&server, " OPTOUT").await;
    client.check("CLIENT CACHING NO", "OK").await;
    client.raw(b"GET a\r\nGET b\r\n").await;
    assert_eq!((client.reply().await, client.reply().await), ("\"1\"".to_owned(), "\"1\"".to_owned()));
    other.check("MSET a 2 b 2", "OK").await;
    assert_eq!(client.reply().await, invalid("b"));
    quiet(&mut client).await;
    let mut client = tracking(&server, " BCAST PREFIX x: PREFIX y:").await;
    other.check("MSET x:1 1 z:1 1 x:2 2", "OK").await;
    assert_eq!(client.reply().await, ">[\"invalidate\", [\"x:1\", \"x:2\"]]");
    other.check("SET y:1 1", "OK").await;
    assert_eq!(client.reply().await, invalid("y:1"));
    let shown = client.ask("CLIENT TRACKINGINFO").await;
    assert_eq!(shown, "{\"flags\": ~[\"on\", \"bcast\"], \"redirect\": 0, \"prefixes\": [\"x:\", \"y:\"]}");
    let info = other.ask("INFO clients").await;
    assert!(info.contains("tracking_clients:3"), "{info}");
    server.stop().await;
}

#[tokio::test]
async fn another_connection_can_be_told_instead() {
    let server = Server::start().await;
    let (mut listener, mut client, mut other) =
        (server.client().await, server.client().await, server.client().await);
    let id = listener.ask("CLIENT ID").await;
    listener.send("SUBSCRIBE __redis__:invalidate").await;
    listener.reply().await;
    client.check(&format!("CLIENT TRACKING ON REDIRECT {id}"), "OK").await;
    client.check("CLIENT GETREDIR", &id).await;
    client.check("GET k", "nil").await;
    other.check("SET k 1", "OK").await;
    assert_eq!(listener.reply().await, "[\"message\", \"__redis__:invalidate\", [\"k\"]]");
    other.check("FLUSHDB", "OK").await;
    assert_eq!(listener.reply().await, "[\"message\", \"__redis__:invalidate\", nil]");
    quiet(&mut client).await;
    client.ask("HELLO 3").await;
    client.check("GET k", "nil").await;
    drop(listener);
    while !client.ask("CLIENT TRACKINGINFO").await.contains("broken_redirect") {
        tokio::task::yield_now().await;
    }
    other.check("SET k 1", "OK").await;
    assert_eq!(client.reply().await, format!(">[\"tracking-redir-broken\", {id}]"));
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_makes_room_is_told_as_if_it_had_changed() {
    let server = Server::start().await;
    let mut client = tracking(&server, "").await;
    client.check("CONFIG SET tracking-table-max-keys 2", "OK").await;
    for key in ["a", "b", "c"] {
        client.check(&format!("GET {key}"), "nil").await;
    }
    assert_eq!(client.reply().await, invalid("a"));
    let info = client.ask("INFO stats").await;
    assert!(info.contains("tracking_total_keys:2"), "{info}");
    server.stop().await;
}

#[tokio::test]
async fn options_are_refused_as_redis_refuses_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let again = "before disabling tracking for this client, and then re-enabling it with a different mode.";
    for (line, wanted) in [
        ("FOO", "ERR syntax error".to_owned()),
        ("ON FOO", "ERR syntax error".to_owned()),
        ("ON REDIRECT 9999", "ERR The client ID you want redirect to does not exist".to_owned()),
        ("ON REDIRECT abc", "ERR value is not an integer or out of range".to_owned()),
        ("ON PREFIX a", "ERR PREFIX option requires BCAST mode to be enabled".to_owned()),
        ("ON OPTIN OPTOUT", "ERR You can't specify both OPTIN mode and OPTOUT mode".to_owned()),
        ("ON BCAST OPTIN", "ERR OPTIN and OPTOUT are not compatible with BCAST".to_owned()),
        (
            "ON BCAST PREFIX a PREFIX ab",
            "ERR Prefix 'a' overlaps with another provided prefix 'ab'. Prefixes for a single client must not overlap.".to_owned(),
        ),
        ("ON NOLOOP", "ERR NOLOOP is not served here: a client is told of its own changes too, ask without it".to_owned()),
    ] {
        client.check(&format!("CLIENT TRACKING {line}"), &format!("(error) {wanted}")).await;
    }
    client.check("CLIENT TRACKING ON OPTIN", "OK").await;
    let only = "(error) ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";
    client.check("CLIENT CACHING NO", only).await;
    let switched = format!("(error) ERR You can't switch OPTIN/OPTOUT mode {again}");
    client.check("CLIENT TRACKING ON OPTOUT", &switched).await;
    let switched = format!("(error) ERR You can't switch BCAST mode on/off {again}");
    client.check("CLIENT TRACKING ON BCAST", &switched).await;
    client.check("CLIENT TRACKING OFF", "OK").await;
    let only = "(error) ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled";
    client.check("CLIENT CACHING YES", only).await;
    server.stop().await;
}

/// What a client library remembers: values as they were shown, and which of them it was told to forget.
#[derive(Default)]
struct Memory(HashMap<String, String>);

impl Memory {
    fn hear(&mut self, push: &str) -> bool {
        let name = push.strip_prefix(">[\"invalidate\", [\"");
        if let Some(name) = name {
            self.0.remove(name.trim_end_matches("\"]]"));
        }
        name.is_some()
    }

    /// Reads keys, in a transaction or a pipeline.
    async fn read(&mut self, client: &mut Client, keys: &[String], in_exec: bool) {
        let line = if in_exec {
            format!("MULTI\r\nGET {}\r\nEXEC\r\n", keys[0])
        } else {
            keys.iter().map(|key| format!("GET {key}\r\n")).collect()
        };
        client.raw(line.as_bytes()).await;
        let mut wanted = keys[..if in_exec { 1 } else { keys.len() }].iter();
        let mut next = wanted.next();
        while let Some(key) = next {
            let reply = client.reply().await;
            if !self.hear(&reply) && reply != "OK" && reply != "QUEUED" {
                self.0.insert(key.clone(), reply.trim_matches(['[', ']']).to_owned());
                next = wanted.next();
            }
        }
    }

    /// Whatever is older than what is there now is told of before long.
    async fn settle(&mut self, client: &mut Client, other: &mut Client) {
        let mut there = HashMap::new();
        for key in self.0.keys() {
            there.insert(key.clone(), other.ask(&format!("GET {key}")).await);
        }
        let number = |text: &String| text.trim_matches('"').parse::<u64>().unwrap_or(0);
        let begun = std::time::Instant::now();
        loop {
            client.send("PING").await;
            while self.hear(&client.reply().await) {}
            let is_old = |(key, value): &(&String, &String)| number(value) < number(&there[*key]);
            let Some(old) = self.0.iter().find(is_old) else { return };
            assert!(begun.elapsed() < support::PATIENCE, "never told: {old:?}, {}", there[old.0]);
        }
    }
}

/// Reads keys of others that write them, in pipelines and transactions, and remembers what a client library remembers.
#[tokio::test]
async fn nothing_that_is_remembered_stays_old() {
    let server = Server::with(Config::default()).await;
    let (mut client, mut other) = (tracking(&server, "").await, server.client().await);
    let address = server.address;
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            tokio::spawn(async move {
                let mut other = Client::connect(address).await;
                for round in 0_u32.. {
                    other.ask(&format!("INCR k{}", (round * 5 + writer) % 12)).await;
                }
            })
        })
        .collect();
    let mut memory = Memory::default();
    for round in 0..3000_u32 {
        let keys = [0, 1, 2].map(|part| format!("k{}", (round * 7 + part * 5) % 12));
        memory.read(&mut client, &keys, round % 2 == 0).await;
        if round % 12 == 0 {
            memory.settle(&mut client, &mut other).await;
        }
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    memory.settle(&mut client, &mut other).await;
    server.stop().await;
}
