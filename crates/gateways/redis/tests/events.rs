//! Keyspace events: what subscribers are told of every kind of command, as Redis 8.2.3 tells it.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use support::{Client, Server};

/// Commands and the events that redis-server 8.2.3 made of them, recorded from it: `event key`, with `@n` for another database than 0.
const TOLD: &str = include_str!("events.txt");

/// A client that hears of everything that happens to keys.
async fn listener(server: &Server, classes: &str) -> Client {
    let mut client = server.client().await;
    client.check(&format!("CONFIG SET notify-keyspace-events {classes}"), "OK").await;
    let mut listener = server.client().await;
    listener.check("PSUBSCRIBE __key*__:*", r#"["psubscribe", "__key*__:*", 1]"#).await;
    listener
}

/// What was told until a mark: channel and message of each.
async fn told(client: &mut Client, listener: &mut Client) -> Vec<(String, String)> {
    client.ask("PUBLISH __key__:end .").await;
    let mut told = Vec::new();
    loop {
        let message = listener.reply().await;
        let parts: Vec<&str> =
            message.trim_matches(['[', ']']).split(", ").map(|part| part.trim_matches('"')).collect();
        if parts[2] == "__key__:end" {
            return told;
        }
        told.push((parts[2].to_owned(), parts[3].to_owned()));
    }
}

#[tokio::test]
async fn every_command_tells_what_redis_tells_in_its_order() {
    let server = Server::start().await;
    let mut listener = listener(&server, "KEAn").await;
    let mut client = server.client().await;
    let mut different = Vec::new();
    for line in TOLD.lines() {
        let (command, wanted) = line.split_once(" =>").unwrap();
        client.ask(command).await;
        let told = told(&mut client, &mut listener).await;
        let by_event = told.iter().filter_map(|(channel, key)| {
            let (database, event) = channel.strip_prefix("__keyevent@")?.split_once("__:")?;
            Some(if database == "0" { format!("{event} {key}") } else { format!("{event} {key}@{database}") })
        });
        let found = by_event.collect::<Vec<_>>().join(", ");
        if found != wanted.trim() {
            different.push(format!("{command}: Redis tells [{}], Quorate [{found}]", wanted.trim()));
        }
        let by_key = told.iter().filter(|(channel, _)| channel.starts_with("__keyspace@")).count();
        assert_eq!(by_key * 2, told.len(), "{command}: each event is told by key too: {told:?}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    server.stop().await;
}

#[tokio::test]
async fn keys_that_end_or_make_room_are_told_of() {
    let server = Server::start().await;
    let mut listener = listener(&server, "Exe").await;
    let mut client = server.client().await;
    client.check("SET gone v PX 20", "OK").await;
    let message = listener.reply().await;
    assert_eq!(
        message, r#"["pmessage", "__key*__:*", "__keyevent@0__:expired", "gone"]"#,
        "nobody had to look"
    );
    client.check("CONFIG SET maxmemory 3000 maxmemory-policy allkeys-lru", "OK").await;
    for n in 0..30 {
        client.check(&format!("SET k{n} v"), "OK").await;
    }
    let message = listener.reply().await;
    assert!(message.starts_with(r#"["pmessage", "__key*__:*", "__keyevent@0__:evicted", "k"#), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn only_the_classes_asked_for_are_told_and_only_of_what_took_effect() {
    let server = Server::start().await;
    let mut listener = listener(&server, "K$").await;
    let mut client = server.client().await;
    for (line, reply) in [
        ("SET a 1", "OK"),
        ("RPUSH l 1", "1"),
        ("MULTI", "OK"),
        ("SET b 1", "QUEUED"),
        ("DISCARD", "OK"),
        ("LPUSH a 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("DEL a", "1"),
    ] {
        client.check(line, reply).await;
    }
    assert_eq!(told(&mut client, &mut listener).await, [("__keyspace@0__:a".to_owned(), "set".to_owned())]);
    client
        .check(
            "CONFIG SET notify-keyspace-events q",
            "(error) ERR CONFIG SET failed (possibly related to argument 'notify-keyspace-events') - Invalid event class character. Use 'Ag$lshzxeKEtmdn'.",
        )
        .await;
    client.check("CONFIG GET notify-keyspace-events", r#"["notify-keyspace-events", "$K"]"#).await;
    server.stop().await;
}
