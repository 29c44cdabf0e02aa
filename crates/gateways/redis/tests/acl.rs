//! Users and their rights as a Redis client sees them, and that nothing is open that should be closed.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_calls::permissions::permissions;
use quorate_calls::{KeyPositions, Kind, lookup};
use support::{Client, Server};

const NOAUTH: &str = "(error) NOAUTH Authentication required.";
const WRONGPASS: &str = "(error) WRONGPASS invalid username-password pair or user is disabled.";
const NOKEY: &str = "(error) NOPERM No permissions to access a key";
const NOCHANNEL: &str = "(error) NOPERM No permissions to access a channel";

async fn entered(server: &Server, user: &str, password: &str) -> Client {
    let mut client = server.client().await;
    client.check(&format!("AUTH {user} {password}"), "OK").await;
    client
}

/// The same transcript was taken from redis-server 8.2.3.
#[tokio::test]
async fn a_user_is_held_to_its_commands_keys_and_channels() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("SET k1 v", "OK").await;
    admin
        .check("ACL SETUSER a on >pw ~k* +get +@connection +eval +multi +exec +publish +subscribe +psubscribe &c1 +@transaction", "OK")
        .await;
    let mut a = server.client().await;
    a.check("AUTH a wrong", WRONGPASS).await;
    a.check("AUTH none wrong", WRONGPASS).await;
    a.check("AUTH a pw", "OK").await;
    a.check("GET x", NOKEY).await;
    a.check("GET k1", "\"v\"").await;
    a.check("SET k1 x", "(error) NOPERM User a has no permissions to run the 'set' command").await;
    a.check("PUBLISH c2 x", NOCHANNEL).await;
    a.check("SUBSCRIBE c2", NOCHANNEL).await;
    a.check("PSUBSCRIBE c*", NOCHANNEL).await;
    a.check("ACL WHOAMI", "(error) NOPERM User a has no permissions to run the 'acl|whoami' command").await;
    a.check("CONFIG GET x", "(error) NOPERM User a has no permissions to run the 'config|get' command").await;
    a.check("MULTI", "OK").await;
    a.check("GET x", NOKEY).await;
    a.check("EXEC", "(error) EXECABORT Transaction discarded because of previous errors.").await;
    a.check("MULTI", "OK").await;
    a.check("GET k1", "QUEUED").await;
    a.check("EXEC", "[\"v\"]").await;
    a.check("HELLO 3 AUTH a wrong", WRONGPASS).await;
    assert!(a.ask("HELLO 3 AUTH a pw").await.contains("\"proto\": 3"));
    let log = admin.ask("ACL LOG").await;
    for told in [
        "\"reason\", \"auth\"",
        "\"object\", \"config|get\"",
        "\"context\", \"multi\"",
        "\"username\", \"a\"",
    ] {
        assert!(log.contains(told), "{told} in {log}");
    }
    assert!(!log.contains("wrong"), "a secret is in {log}");
    admin.check("ACL LOG RESET", "OK").await;
    admin.check("ACL LOG", "[]").await;
    admin.check("ACL DRYRUN a get k1", "OK").await;
    admin.check("ACL DRYRUN a get x1", "\"User a has no permissions to access the 'x1' key\"").await;
    admin.check("ACL DRYRUN a set x1 y", "\"User a has no permissions to run the 'set' command\"").await;
    admin.check("ACL DRYRUN none get x", "(error) ERR User 'none' not found").await;
    admin.check("ACL DRYRUN a nope x", "(error) ERR Command 'nope' not found").await;
    admin.check("ACL DRYRUN a get", "(error) ERR wrong number of arguments for 'get' command").await;
    server.stop().await;
}

#[tokio::test]
async fn users_are_made_shown_and_removed_in_redis_words() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("ACL WHOAMI", "\"default\"").await;
    admin.check("ACL USERS", "[\"default\"]").await;
    admin.check("ACL LIST", "[\"user default on nopass sanitize-payload ~* &* +@all\"]").await;
    let hash = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4"; // SHA-256 of "pw".
    admin.check(&format!("ACL SETUSER a on #{hash} ~k* +get"), "OK").await;
    admin
        .check(
            "ACL GETUSER a",
            &format!("[\"flags\", [\"on\", \"sanitize-payload\"], \"passwords\", [\"{hash}\"], \"commands\", \"-@all +get\", \"keys\", \"~k*\", \"channels\", \"\", \"selectors\", []]"),
        )
        .await;
    // What only its hash is known of is a password too.
    drop(entered(&server, "a", "pw").await);
    admin
        .check(
            "ACL SETUSER a +nope",
            "(error) ERR Error in ACL SETUSER modifier '+nope': Unknown command or category name in ACL",
        )
        .await;
    admin.check("ACL SETUSER a <nope", "(error) ERR Error in ACL SETUSER modifier '(redacted)': The password you are trying to remove from the user does not exist").await;
    admin.check("ACL SETUSER a >two", "OK").await;
    admin.check("ACL SETUSER a <pw", "OK").await;
    let mut a = server.client().await;
    a.check("AUTH a pw", WRONGPASS).await;
    a.check("AUTH a two", "OK").await;
    let shown = admin.ask("ACL GETUSER a").await;
    assert!(shown.contains("SCRAM-SHA-256$10000:") && !shown.contains("two"), "{shown}");
    admin.check("ACL GETUSER none", "nil").await;
    admin.check("ACL DELUSER default", "(error) ERR The 'default' user cannot be removed").await;
    admin.check("ACL DELUSER none a", "1").await;
    // The connection of a user that is gone ends.
    a.ended().await;
    assert!(admin.ask("ACL SAVE").await.contains("replicated log"));
    assert!(admin.ask("ACL LOAD").await.contains("replicated log"));
    assert_eq!(admin.ask("ACL GENPASS").await.len(), 66);
    assert_eq!(admin.ask("ACL GENPASS 5").await.len(), 4);
    assert!(admin.ask("ACL GENPASS 0").await.contains("a positive number up to 4096"));
    assert!(admin.ask("ACL CAT").await.contains("\"scripting\""));
    assert!(admin.ask("ACL CAT hyperloglog").await.contains("\"pfadd\""));
    admin.check("ACL CAT nope", "(error) ERR Unknown category 'nope'").await;
    server.stop().await;
}

#[tokio::test]
async fn the_door_closes_for_everybody_and_nobody_is_locked_out() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    let mut other = server.client().await;
    other.check("SET k v", "OK").await;
    let refused = admin.ask("ACL SETUSER default off").await;
    assert!(refused.contains("nobody who may manage users could enter"), "{refused}");
    admin.check("ACL SETUSER root on >secret +@all ~* &*", "OK").await;
    admin.check("ACL SETUSER default off", "OK").await;
    // Whoever had come in without saying who it is has to say so now.
    other.check("GET k", NOAUTH).await;
    admin.check("GET k", NOAUTH).await;
    let mut late = server.client().await;
    late.check("GET k", NOAUTH).await;
    assert!(late.ask("HELLO 3").await.starts_with("(error) NOAUTH HELLO must be called"));
    late.check("AUTH root secret", "OK").await;
    late.check("GET k", "\"v\"").await;
    let refused = late.ask("ACL SETUSER root off").await;
    assert!(refused.contains("nobody who may manage users could enter"), "{refused}");
    late.check("ACL SETUSER default on >pw", "OK").await;
    other.check("AUTH pw", "OK").await;
    other.check("GET k", "\"v\"").await;
    other.check("ACL WHOAMI", "\"default\"").await;
    server.stop().await;
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_on_open_connections_too() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("ACL SETUSER a on >pw ~* &* +@all", "OK").await;
    let mut a = entered(&server, "a", "pw").await;
    a.check("SET k v", "OK").await;
    let mut listener = entered(&server, "a", "pw").await;
    assert!(listener.ask("SUBSCRIBE news").await.contains("subscribe"));
    let mut blocked = entered(&server, "a", "pw").await;
    blocked.send("BLPOP nothing 0").await;
    a.check("MULTI", "OK").await;
    a.check("SET k w", "QUEUED").await;
    admin.check("ACL SETUSER a resetchannels -set", "OK").await;
    listener.ended().await;
    // What was queued when it was allowed is decided when it is done.
    a.check("EXEC", "[(error) NOPERM User a has no permissions to run the 'set' command]").await;
    a.check("SET k x", "(error) NOPERM User a has no permissions to run the 'set' command").await;
    a.check("GET k", "\"v\"").await;
    admin.check("ACL DELUSER a", "1").await;
    a.ended().await;
    blocked.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn a_script_is_held_to_what_its_caller_may_do() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("ACL SETUSER a on >pw ~k* +get +@scripting", "OK").await;
    let mut a = entered(&server, "a", "pw").await;
    let run = async |client: &mut Client, script: &str| {
        client.send_words(&[b"EVAL", script.as_bytes(), b"0"]).await;
        client.reply().await
    };
    let told = run(&mut a, "return redis.call('get','x')").await;
    assert!(told.starts_with("(error) ERR ACL failure in script: No permissions to access a key"), "{told}");
    let told = run(&mut a, "return redis.call('set','k1','x')").await;
    assert!(
        told.starts_with(
            "(error) ERR ACL failure in script: User a has no permissions to run the 'set' command"
        ),
        "{told}"
    );
    assert_eq!(run(&mut a, "return redis.acl_check_cmd('set','k1','x')").await, "nil");
    assert_eq!(run(&mut a, "return redis.acl_check_cmd('get','k1')").await, "1");
    assert_eq!(run(&mut a, "return redis.acl_check_cmd('get','x')").await, "nil");
    let told = run(&mut a, "return redis.acl_check_cmd('nope')").await;
    assert!(told.contains("Invalid command passed to redis.acl_check_cmd()"), "{told}");
    assert_eq!(run(&mut a, "return redis.pcall('get','k1')").await, "nil");
    server.stop().await;
}

#[tokio::test]
async fn a_scan_shows_only_what_one_may_do_something_to() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("MSET a1 1 a2 2 b1 3", "OK").await;
    admin.check("ACL SETUSER a on >pw ~a* +@all", "OK").await;
    let mut a = entered(&server, "a", "pw").await;
    let keys = a.ask("KEYS *").await;
    assert!(keys.contains("a1") && keys.contains("a2") && !keys.contains("b1"), "{keys}");
    assert!(!a.ask("SCAN 0 COUNT 100").await.contains("b1"));
    for _ in 0..20 {
        assert_ne!(a.ask("RANDOMKEY").await, "\"b1\"");
    }
    a.check("FLUSHALL", NOKEY).await;
    a.check("FLUSHDB", NOKEY).await;
    server.stop().await;
}

#[tokio::test]
async fn secrets_are_neither_monitored_nor_in_the_slowlog() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("CONFIG SET slowlog-log-slower-than 0", "OK").await;
    let mut watcher = server.client().await;
    watcher.check("MONITOR", "OK").await;
    admin.check("ACL SETUSER a on >topsecret +@all", "OK").await;
    admin.check("AUTH a topsecret", "OK").await;
    admin.check("ECHO end", "\"end\"").await;
    loop {
        let line = watcher.reply().await;
        assert!(!line.contains("topsecret"), "{line}");
        if line.contains("end") {
            break;
        }
    }
    let slow = admin.ask("SLOWLOG GET 100").await;
    assert!(!slow.contains("topsecret") && slow.contains("(redacted)"), "{slow}");
    server.stop().await;
}

/// Words of a command that pass its arity, made from the table.
fn words(name: &str, count: usize) -> Vec<String> {
    let mut words: Vec<String> = name.split('|').map(str::to_owned).collect();
    while words.len() < count {
        words.push("1".into());
    }
    words
}

/// Every command there is, so that a new one cannot be forgotten: a user without rights is refused each, and nothing has changed.
#[tokio::test]
async fn a_user_without_rights_is_refused_every_command() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("SET 1 1", "OK").await;
    admin.check("ACL SETUSER nobody on >pw", "OK").await;
    let state = || {
        server.data.read(|machine| (machine.revision(), machine.user_names(), machine.sizes().keys)).unwrap()
    };
    let before = state();
    let mut nobody = entered(&server, "nobody", "pw").await;
    let mut refused = 0;
    for row in permissions() {
        if matches!(row.name, "auth" | "hello" | "quit" | "reset") {
            continue; // Before somebody has said who it is there are no rights.
        }
        let spec = lookup(row.name.as_bytes());
        if spec.is_some_and(|spec| matches!(spec.kind, Kind::Container)) {
            continue; // One of its subcommands is called.
        }
        let mut answered = None;
        for count in 1..14 {
            let words = words(row.name, count);
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            nobody.send_words(&words).await;
            let reply = nobody.reply().await;
            if !reply.contains("wrong number of arguments") {
                answered = Some(reply);
                break;
            }
        }
        let reply = answered.unwrap_or_else(|| panic!("{} takes more words than were tried", row.name));
        let absent = reply.contains("unknown command") || reply.contains("unknown subcommand");
        let wanted =
            format!("(error) NOPERM User nobody has no permissions to run the '{}' command", row.name);
        // What other protocols only can do has no words here.
        let told = reply.contains(&wanted["(error) ".len()..]); // EXEC says what it was discarded for.
        assert!(told || absent || reply.contains("is not served here"), "{}: {reply}", row.name);
        refused += usize::from(told);
    }
    assert!(refused > 280, "only {refused} commands were there to be refused");
    assert_eq!(state(), before, "nothing has changed");
    server.stop().await;
}

/// With every command and no key, whatever names a key is refused.
#[tokio::test]
async fn a_user_without_keys_is_refused_every_command_that_names_one() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.check("SET 1 1", "OK").await;
    admin.check("ACL SETUSER keyless on >pw +@all", "OK").await;
    let state = || server.data.read(|machine| (machine.revision(), machine.sizes().keys)).unwrap();
    let before = state();
    let mut keyless = entered(&server, "keyless", "pw").await;
    for spec in quorate_calls::specs() {
        if matches!(spec.keys, KeyPositions::None) || matches!(spec.kind, Kind::Connection | Kind::Container)
        {
            continue;
        }
        for count in spec.arity.unsigned_abs() as usize..spec.arity.unsigned_abs() as usize + 3 {
            let mut words = words(spec.name, count);
            if matches!(spec.keys, KeyPositions::Streams) {
                words = [words[0].clone(), "STREAMS".into(), "1".into(), "0".into()].to_vec();
                if spec.name == "xreadgroup" {
                    words = ["xreadgroup", "GROUP", "g", "c", "STREAMS", "1", "0"].map(String::from).to_vec();
                }
            }
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            keyless.send_words(&words).await;
            let reply = keyless.reply().await;
            let misread = ["wrong number", "syntax", "Number of keys", "numkeys", "GT 0", "not an integer"];
            let wrong = misread.iter().any(|why| reply.contains(why));
            // To Redis a shard channel is a key.
            assert!(
                reply == NOKEY
                    || reply == NOCHANNEL
                    || reply.contains("ACL failure")
                    || wrong
                    || is_keyless(&words),
                "{} with {count} words: {reply}",
                spec.name
            );
        }
    }
    assert_eq!(state(), before, "nothing has changed");
    server.stop().await;
}

/// EVAL and its like with no keys among their words name none.
fn is_keyless(words: &[&[u8]]) -> bool {
    let name = String::from_utf8_lossy(words[0]).to_lowercase();
    name.starts_with("eval") || name == "fcall" || name == "fcall_ro"
}
