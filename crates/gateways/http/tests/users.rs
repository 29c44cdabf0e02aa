//! Users over HTTP: made, entered as, held to their rights; and that no route is open that should be closed.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use base64::Engine;
use quorate_http::{Config, Token};
use serde_json::{Value, json};
use support::{Answer, Server};

fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

async fn send(server: &Server, who: &str, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, path, &[("authorization", who)], body).await
}

#[tokio::test]
async fn a_user_may_do_what_it_was_allowed_and_is_told_what_is_missing() {
    let server = Server::start().await;
    let made = server
        .put("/v1/users/ann", json!({"enabled": true, "password": "pencil", "allow": [{"verbs": ["read", "write"], "names": "orders/*"}], "deny": [{"verbs": ["write"], "names": "orders/old/*"}]}))
        .await
        .ok();
    assert_eq!(made["door"], "open");
    assert_eq!(made["user"]["passwords"], 1);
    assert!(!made.to_string().contains("pencil"));
    let ann = basic("ann", "pencil");
    for wrong in [basic("ann", "pen"), basic("bob", "pencil"), "Basic nonsense".into()] {
        send(&server, &wrong, "GET", "/v1/keys/orders/1", Value::Null).await.problem(401, "unauthorized");
    }
    assert_eq!(server.send("PUT", "/v1/keys/orders/1", &[("authorization", &ann)], "x").await.status, 200);
    assert_eq!(send(&server, &ann, "GET", "/v1/keys/orders/1", Value::Null).await.status, 200);
    let refused = server.send("PUT", "/v1/keys/orders/old/1", &[("authorization", &ann)], "x").await;
    let refused = refused.problem(403, "forbidden");
    assert_eq!((&refused["verbs"], &refused["name"]), (&json!(["write"]), &json!("orders/old/1")));
    assert_eq!(refused["took_effect"], "no");
    send(&server, &ann, "GET", "/v1/keys/other", Value::Null).await.problem(403, "forbidden");
    assert_eq!(send(&server, &ann, "GET", "/v1/range?prefix=orders/", Value::Null).await.status, 200);
    send(&server, &ann, "GET", "/v1/range?prefix=", Value::Null).await.problem(403, "forbidden");
    send(&server, &ann, "GET", "/v1/locks", Value::Null).await.problem(403, "forbidden");
    // One operation that is not allowed refuses the whole commit.
    let commit = json!({"then": [{"put": {"key": "orders/2", "value": "x"}}, {"put": {"key": "other", "value": "x"}}]});
    let refused = send(&server, &ann, "POST", "/v1/commit", commit).await.problem(403, "forbidden");
    assert_eq!(refused["name"], "other");
    assert_eq!(server.get("/v1/keys/orders/2").await.status, 404);
    send(&server, &ann, "PUT", "/v1/users/ann", json!({"commands": ["+@all"]}))
        .await
        .problem(403, "forbidden");
    server.stop().await;
}

#[tokio::test]
async fn an_open_event_stream_ends_when_its_right_is_taken_away() {
    let server = Server::start().await;
    let allow = json!([{"verbs": ["read"], "names": "a/*"}]);
    server
        .put("/v1/users/ann", json!({"enabled": true, "access_token": "0123456789abcdef", "allow": allow}))
        .await
        .ok();
    let bearer = "Bearer 0123456789abcdef";
    let mut events = server.events("/v1/watch?prefix=a/", &[("authorization", bearer)]).await;
    events.named("open").await;
    server.put("/v1/keys/a/1", json!(1)).await.ok();
    events.named("change").await;
    server.put("/v1/users/ann", json!({"forget": ["names"]})).await.ok();
    server.put("/v1/keys/a/2", json!(2)).await.ok();
    let end = events.named("error").await;
    assert_eq!(end.data["error"], "forbidden");
    assert!(events.next().await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn the_door_is_closed_by_disabling_default_and_never_on_everybody() {
    let server = Server::start().await;
    let refused = server.put("/v1/users/default", json!({"enabled": false})).await;
    refused.problem(409, "would_lock_out");
    let all = json!([{"verbs": ["read", "write"], "names": "*"}, {"verbs": ["publish", "subscribe"], "names": "*"}]);
    server
        .put("/v1/users/root", json!({"enabled": true, "password": "s", "commands": ["+@all"], "allow": all}))
        .await
        .ok();
    let closed = server.put("/v1/users/default", json!({"enabled": false})).await;
    // It was done, and whoever asked may look no more.
    assert!(closed.status == 401 || closed.status == 200, "{closed:?}");
    server.get("/v1/users").await.problem(401, "unauthorized");
    server.get("/v1/keys/k").await.problem(401, "unauthorized");
    assert_eq!(server.get("/healthz").await.status, 200);
    let root = basic("root", "s");
    let listed = send(&server, &root, "GET", "/v1/users", Value::Null).await.ok();
    assert_eq!(listed, json!({"door": "closed", "users": [{"name": "default"}, {"name": "root"}]}));
    send(&server, &root, "DELETE", "/v1/users/root", Value::Null).await.problem(409, "would_lock_out");
    send(&server, &root, "DELETE", "/v1/users/default", Value::Null).await.problem(400, "bad_request");
    send(&server, &root, "DELETE", "/v1/users/none", Value::Null).await.problem(404, "user_missing");
    server.stop().await;
}

#[tokio::test]
async fn an_operators_token_may_do_everything_whatever_users_there_are() {
    let tokens = vec![Token::of("ops".into(), "operator-token-1")];
    let server = Server::with(Config { tokens, ..Config::default() }).await;
    let ops = "Bearer operator-token-1";
    server.get("/v1/users").await.problem(401, "unauthorized");
    // It has another way in, so it may close the door on all users.
    assert_eq!(send(&server, ops, "PUT", "/v1/users/default", json!({"enabled": false})).await.status, 200);
    send(&server, ops, "PUT", "/v1/users/ops", json!({"enabled": true, "password": "x"})).await.ok();
    assert_eq!(send(&server, ops, "GET", "/v1/users/ops", Value::Null).await.status, 200);
    send(&server, &basic("ops", "x"), "GET", "/v1/users/ops", Value::Null).await.problem(403, "forbidden");
    server.stop().await;
}

#[tokio::test]
async fn a_role_allows_its_users_what_it_says_until_it_is_taken_back() {
    let server = Server::start().await;
    server.put("/v1/users/ann", json!({"enabled": true, "password": "pencil", "deny": [{"verbs": ["read"], "names": "orders/x"}]})).await.ok();
    let ann = basic("ann", "pencil");
    let reads = async |path: &str| send(&server, &ann, "GET", path, Value::Null).await.status;
    assert_eq!(server.put("/v1/roles/clerk", json!({})).await.ok(), json!({"name": "clerk", "allow": []}));
    // Said twice it does no harm.
    assert_eq!(server.put("/v1/roles/clerk", json!({})).await.status, 200);
    let rule = json!({"verbs": ["read"], "prefix": "orders/"});
    server.post("/v1/roles/clerk/allow", rule.clone()).await.ok();
    assert_eq!(reads("/v1/range?prefix=orders/a").await, 403, "it has no role yet");
    assert_eq!(server.put("/v1/users/ann/roles/clerk", json!({})).await.ok(), json!({"granted": true}));
    assert_eq!(reads("/v1/range?prefix=orders/a").await, 200);
    assert_eq!(reads("/v1/keys/orders/x").await, 403, "its own denial outweighs the role");
    assert_eq!(reads("/v1/range?prefix=other").await, 403);
    assert_eq!(server.get("/v1/users/ann").await.ok()["roles"], json!(["clerk"]));
    // One of the same range takes its place; each form of a range is shown as it was sent.
    let rules = [
        json!({"verbs": ["write"], "from": "a", "to": "c"}),
        json!({"verbs": ["read", "write"], "key": "one"}),
        json!({"verbs": ["read", "write"], "prefix": "orders/"}),
        json!({"verbs": ["read"], "from": "x"}),
    ];
    let mut role = Value::Null;
    for rule in &rules {
        role = server.post("/v1/roles/clerk/allow", rule.clone()).await.ok();
    }
    assert_eq!(role["allow"], json!(rules), "in order of their names");
    let written = server.send("PUT", "/v1/keys/orders/1", &[("authorization", &ann)], "x").await;
    assert_eq!(written.status, 200);
    server.post("/v1/roles/clerk/forbid", json!({"from": "orders"})).await.problem(404, "rule_missing");
    let left = server.post("/v1/roles/clerk/forbid", json!({"prefix": "orders/"})).await.ok();
    assert_eq!(left["allow"].as_array().unwrap().len(), 3);
    assert_eq!(reads("/v1/range?prefix=orders/a").await, 403);
    // All keys there are.
    server.post("/v1/roles/clerk/allow", json!({"verbs": ["read"], "prefix": ""})).await.ok();
    assert_eq!(reads("/v1/range?prefix=other").await, 200);
    assert_eq!(
        server.get("/v1/roles/clerk").await.ok()["allow"][0],
        json!({"verbs": ["read"], "prefix": ""})
    );
    let revoke = "/v1/users/ann/roles/clerk";
    assert_eq!(server.send("DELETE", revoke, &[], "").await.ok(), json!({"revoked": true}));
    assert_eq!(reads("/v1/range?prefix=other").await, 403);
    server.send("DELETE", revoke, &[], "").await.problem(404, "role_not_granted");
    assert_eq!(server.get("/v1/roles").await.ok(), json!({"roles": [{"name": "clerk"}]}));
    assert_eq!(server.send("DELETE", "/v1/roles/clerk", &[], "").await.ok(), json!({"removed": true}));
    server.get("/v1/roles/clerk").await.problem(404, "role_missing");
    server.put("/v1/users/ann/roles/clerk", json!({})).await.problem(404, "role_missing");
    server.put("/v1/users/bob/roles/root", json!({})).await.problem(404, "user_missing");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_rule_of_a_role_is_refused() {
    let server = Server::start().await;
    server.put("/v1/roles/clerk", json!({})).await.ok();
    for (body, why) in [
        (json!({"verbs": ["read"]}), "the range is missing"),
        (json!({"verbs": ["read"], "key": "a", "prefix": "b"}), "one range"),
        (json!({"verbs": ["read"], "key": "a", "keyspace": 1}), "keyspace default alone"),
        (json!({"verbs": ["publish"], "key": "a"}), "known: read, write"),
        (json!({"verbs": [], "key": "a"}), "read, write or both"),
        (json!({"verbs": ["read"], "key": "a", "names": "a*"}), "names"),
    ] {
        let told = server.post("/v1/roles/clerk/allow", body.clone()).await;
        assert_eq!(told.status, 400, "{body}: {told:?}");
        assert!(told.json()["detail"].as_str().unwrap().contains(why), "{body}: {told:?}");
    }
    let backwards = json!({"verbs": ["read"], "from": "b", "to": "a"});
    server.post("/v1/roles/clerk/allow", backwards).await.problem(409, "access_refused");
    let long = json!({"verbs": ["read"], "key": "k".repeat(5000)});
    server.post("/v1/roles/clerk/allow", long).await.problem(400, "bad_request");
    server
        .post("/v1/roles/none/allow", json!({"verbs": ["read"], "key": "a"}))
        .await
        .problem(404, "role_missing");
    server.put("/v1/roles/a%20b", json!({})).await.problem(400, "bad_request");
    assert_eq!(server.get("/v1/roles/clerk").await.ok()["allow"], json!([]));
    server.stop().await;
}

/// Every route there is, so that a new one cannot be forgotten.
#[tokio::test]
async fn a_user_without_rights_is_refused_every_route() {
    let server = Server::start().await;
    server.put("/v1/keys/1", json!(1)).await.ok();
    server.put("/v1/users/nobody", json!({"enabled": true, "password": "x"})).await.ok();
    let nobody = basic("nobody", "x");
    let state =
        || server.data.read(|machine| (machine.revision(), machine.user_names(), machine.applied())).unwrap();
    let before = state();
    let document = quorate_http::openapi::document();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if matches!(path.as_str(), "/healthz" | "/readyz") {
                continue; // Probes say nothing of anybody's data.
            }
            let mut target: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "1" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            if target == "/v1/range" || target == "/v1/watch" {
                target.push_str("?prefix=");
            }
            let body = match target.as_str() {
                "/v1/commit" => json!({"then": [{"put": {"key": "1", "value": "2"}}]}).to_string(),
                _ => methods[method]["requestBody"].as_object().map_or(String::new(), |_| "{}".into()),
            };
            let answer =
                server.send(&method.to_uppercase(), &target, &[("authorization", &nobody)], body).await;
            answer.problem(403, "forbidden");
            asked += 1;
        }
    }
    assert!(asked > 60, "only {asked} routes were asked");
    assert_eq!(state(), before, "nothing was done, and nothing was logged");
    server.stop().await;
}
