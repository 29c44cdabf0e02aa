//! etcd's authentication over three nodes, as processes: tokens, and what a node says that has lost its leader.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::fleet::{Answer, Fleet, free_port, http};
use support::{PATIENCE, until};

/// How long tokens live here that nobody uses.
const TTL: Duration = Duration::from_secs(4);

/// Three nodes, and where their etcd gateways are.
fn fleet() -> (Fleet, Vec<String>) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let fleet = Fleet::with(3, |id| {
        let etcd = format!("127.0.0.1:{}", ports[id as usize - 1]);
        ["--etcd", &etcd, "--etcd-token-ttl-ms", &TTL.as_millis().to_string()].map(str::to_owned).to_vec()
    });
    (fleet, ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect())
}

/// A call of etcd's JSON gateway with a token, or none.
#[track_caller]
fn ask(node: &str, path: &str, body: &Value, token: &str) -> Answer {
    let header = [("authorization", token)];
    let headers = if token.is_empty() { &[][..] } else { &header };
    http(node, "POST", path, headers, &body.to_string()).expect("the node answers")
}

#[track_caller]
fn enter(node: &str, name: &str, password: &str) -> String {
    let asked = json!({"name": name, "password": password});
    ask(node, "/v3/auth/authenticate", &asked, "").ok()["token"].as_str().unwrap().to_owned()
}

/// Authentication, with the users `root` and `ann`, who may write `a`.
#[track_caller]
fn close(node: &str) {
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "r"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/add", json!({"name": "ann", "password": "p"})),
        ("role/add", json!({"name": "w"})),
        ("role/grant", json!({"name": "w", "perm": {"permType": "READWRITE", "key": "YQ=="}})),
        ("user/grant", json!({"user": "ann", "role": "w"})),
        ("enable", json!({})),
    ] {
        ask(node, &format!("/v3/auth/{path}"), &body, "").ok();
    }
}

fn put(node: &str, token: &str) -> u16 {
    ask(node, "/v3/kv/put", &json!({"key": "YQ==", "value": "MQ=="}), token).status
}

#[test]
fn a_token_is_good_on_every_node_at_once_and_on_none_once_the_password_has_changed() {
    let (_fleet, nodes) = fleet();
    close(&nodes[0]);
    for round in 0..30 {
        // No node may take a token that was just given by another for nobody's.
        let given = enter(&nodes[round % 3], "ann", "p");
        for other in 1..=3 {
            let node = &nodes[(round + other) % 3];
            assert_eq!(put(node, &given), 200, "round {round}");
        }
    }
    let token = enter(&nodes[1], "ann", "p");
    let root = enter(&nodes[2], "root", "r");
    assert_eq!(put(&nodes[0], "nobodys"), 401);
    let asked = json!({"name": "ann", "password": "q"});
    ask(&nodes[0], "/v3/auth/user/changepw", &asked, &root).ok();
    for node in &nodes {
        // The others apply the change a moment later.
        until("the token is gone with its password", || (put(node, &token) == 401).then_some(()));
        let asked = json!({"name": "ann", "password": "p"});
        assert_eq!(ask(node, "/v3/auth/authenticate", &asked, "").status, 400);
        assert_eq!(put(node, &root), 200, "who keeps the password keeps the token");
    }
    assert_eq!(put(&nodes[1], &enter(&nodes[0], "ann", "q")), 200);
}

#[test]
fn a_token_lives_while_it_is_used_and_ends_everywhere_when_it_is_not() {
    let (_fleet, nodes) = fleet();
    close(&nodes[0]);
    let (used, unused) = (enter(&nodes[0], "ann", "p"), enter(&nodes[1], "ann", "p"));
    let begin = Instant::now();
    while begin.elapsed() < TTL * 2 {
        for node in &nodes {
            assert_eq!(put(node, &used), 200, "after {:?}", begin.elapsed());
        }
        std::thread::sleep(TTL / 8);
    }
    for node in &nodes {
        assert_eq!(put(node, &unused), 401);
    }
    // Nor does one live on where nothing happens at all: each look comes after such a silence.
    let deadline = Instant::now() + PATIENCE;
    loop {
        std::thread::sleep(TTL * 2);
        let read =
            |node| ask(node, "/v3/kv/range", &json!({"key": "YQ==", "serializable": true}), &used).status;
        if nodes.iter().all(|node| read(node) == 401) {
            break;
        }
        assert!(Instant::now() < deadline, "a token that nobody uses ends");
    }
}

#[test]
fn without_a_leader_who_wants_one_is_refused_and_who_does_not_is_shown_what_there_is() {
    let (mut fleet, nodes) = fleet();
    assert_eq!(put(&nodes[0], ""), 200);
    let wants = [("grpc-metadata-hasleader", "true")];
    let range = json!({"key": "YQ==", "serializable": true}).to_string();
    let read = |headers| http(&nodes[2], "POST", "/v3/kv/range", headers, &range).unwrap();
    until("every node has what was put", || read(&wants).ok()["count"].as_str().map(|_| ()));
    for id in [1, 2] {
        fleet.node(id).kill();
    }
    let refused = until("the last node notices", || Some(read(&wants)).filter(|answer| answer.status != 200));
    // As etcd says it.
    let wanted = json!({"error": "etcdserver: no leader", "code": 14, "message": "etcdserver: no leader"});
    assert_eq!((refused.status, refused.json()), (503, wanted));
    assert_eq!(read(&[]).ok()["count"], "1");
    // A stream of watches that wants a leader is refused too.
    let create = json!({"create_request": {"key": "YQ=="}}).to_string();
    let watch = http(&nodes[2], "POST", "/v3/watch", &wants, &create).unwrap();
    assert!(watch.body.contains("etcdserver: no leader"), "{watch:?}");
    fleet.restart(1);
    until("a quorum leads again", || (read(&wants).status == 200).then_some(()));
}

#[test]
fn leadership_has_gone_over_when_the_call_that_moves_it_is_answered() {
    let (fleet, nodes) = fleet();
    let leads = |node: &str| {
        ask(node, "/v3/maintenance/status", &json!({}), "").ok()["leader"].as_str().unwrap().to_owned()
    };
    let moved =
        |node: &str, to: &str| ask(node, "/v3/maintenance/transfer-leadership", &json!({"targetID": to}), "");
    for round in 0..6 {
        let leader = fleet.leader();
        let (asked, to) = (&nodes[round % 3], (leader % 3 + 1).to_string());
        moved(asked, &to).ok();
        assert_eq!(leads(asked), to, "round {round}");
        moved(asked, &to).ok();
        assert_eq!(leads(asked), to, "who leads already keeps it");
    }
    let refused = moved(&nodes[0], "9").json();
    assert_eq!(
        (&refused["message"], &refused["code"]),
        (&json!("etcdserver: bad leader transferee"), &json!(9))
    );
}

#[test]
fn a_role_of_the_command_line_is_the_one_that_etcd_shows() {
    let (fleet, nodes) = fleet();
    let node = &fleet.nodes[0];
    node.ok(&["role", "add", "clerk"]);
    node.ok(&["role", "allow", "clerk", "read,write", "orders/*"]);
    node.ok(&["role", "allow", "clerk", "read", "one"]);
    node.ok(&["role", "allow", "clerk", "write", "--from", "x"]);
    let told = |words: &[&str]| serde_json::from_str::<Value>(&node.ok(words).out).unwrap();
    assert_eq!(
        told(&["role", "show", "clerk"])["allow"],
        json!([
            {"verbs": ["read"], "key": "one"},
            {"verbs": ["read", "write"], "prefix": "orders/"},
            {"verbs": ["write"], "from": "x"},
        ])
    );
    let role = ask(&nodes[1], "/v3/auth/role/get", &json!({"role": "clerk"}), "").ok();
    assert_eq!(
        role["perm"],
        json!([
            {"key": "b25l"},
            {"permType": "READWRITE", "key": "b3JkZXJzLw==", "range_end": "b3JkZXJzMA=="},
            {"permType": "WRITE", "key": "eA==", "range_end": "AA=="},
        ])
    );
    ask(&nodes[2], "/v3/auth/user/add", &json!({"name": "ann", "password": "p"}), "").ok();
    node.ok(&["user", "grant", "ann", "clerk"]);
    assert_eq!(told(&["user", "show", "ann"])["roles"], json!(["clerk"]));
    let ann = ask(&nodes[1], "/v3/auth/user/get", &json!({"name": "ann"}), "").ok();
    assert_eq!(ann["roles"], json!(["clerk"]));
    ask(&nodes[1], "/v3/auth/role/revoke", &json!({"role": "clerk", "key": "b25l", "range_end": ""}), "")
        .ok();
    node.ok(&["role", "forbid", "clerk", "--from", "x"]);
    let left = json!([{"verbs": ["read", "write"], "prefix": "orders/"}]);
    assert_eq!(told(&["role", "show", "clerk"])["allow"], left);
    node.refused(&["role", "forbid", "clerk", "orders/"], "no rule of that range");
    node.refused(&["role", "allow", "clerk", "read", "a*b"], "one * stands at the end");
    node.ok(&["user", "revoke", "ann", "clerk"]);
    node.refused(&["user", "revoke", "ann", "clerk"], "does not have that role");
    node.ok(&["role", "remove", "clerk"]);
    assert_eq!(told(&["role", "list"]), json!({"roles": []}));
}

#[test]
fn an_alarm_raised_by_hand_refuses_puts_at_every_node_and_outlives_the_leader_and_a_restart() {
    let (mut fleet, nodes) = fleet();
    let alarm = |node: &str, action: &str| {
        let asked = json!({"action": action, "memberID": "7", "alarm": "NOSPACE"});
        ask(node, "/v3/maintenance/alarm", &asked, "").ok()
    };
    assert_eq!(put(&nodes[0], ""), 200);
    alarm(&nodes[1], "ACTIVATE");
    let refused = json!({
        "error": "etcdserver: mvcc: database space exceeded",
        "code": 8,
        "message": "etcdserver: mvcc: database space exceeded",
    });
    for node in &nodes {
        // Decided at its place in the log, so that no node is behind.
        let answer = ask(node, "/v3/kv/put", &json!({"key": "YQ==", "value": "Mg=="}), "");
        assert_eq!((answer.status, answer.json()), (429, refused.clone()));
    }
    let leader = fleet.leader();
    fleet.node(leader).kill();
    let left: Vec<_> = (0..3).filter(|at| *at as u64 + 1 != leader).map(|at| nodes[at].clone()).collect();
    for node in &left {
        until("another leads", || (put(node, "") == 429).then_some(()));
    }
    fleet.restart(leader);
    let back = &nodes[leader as usize - 1];
    until("it serves again", || {
        let headers = [];
        let body = json!({"action": "GET"}).to_string();
        let answer = http(back, "POST", "/v3/maintenance/alarm", &headers, &body)?;
        (answer.status == 200).then(|| answer.json()["alarms"].clone())
    });
    let listed = ask(back, "/v3/maintenance/alarm", &json!({"action": "GET"}), "").ok();
    assert_eq!(listed["alarms"], json!([{"memberID": "7", "alarm": "NOSPACE"}]));
    assert_eq!(put(back, ""), 429);
    alarm(back, "DEACTIVATE");
    for node in &nodes {
        assert_eq!(put(node, ""), 200);
    }
}
