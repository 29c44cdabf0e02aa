//! The gateway over a real socket and a real log: each test is a story a client could tell.

use crate::support;

use quorate_http::{Config, Token};
use quorate_types::{Commit, Op, Outcome};
use serde_json::{Value, json};
use std::time::Duration;
use support::{PATIENCE, Server};

#[tokio::test]
async fn a_key_is_written_read_guarded_and_deleted() {
    let server = Server::start().await;
    server.get("/v1/keys/orders/42").await.problem(404, "key_missing");
    let put = server.send("PUT", "/v1/keys/orders/42", &[("if-none-match", "*")], "{\"a\":1}").await;
    let etag = put.header("etag").to_string();
    assert_eq!(put.header("quorate-revision"), etag.trim_matches('"'));
    put.ok();
    let got = server.get("/v1/keys/orders/42").await;
    assert_eq!((got.status, &got.body[..]), (200, &b"{\"a\":1}"[..]));
    assert_eq!(got.header("etag"), etag);
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("quorate-version"), "1");
    let unchanged = server.send("GET", "/v1/keys/orders/42", &[("if-none-match", &etag)], "").await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));

    let again = server.send("PUT", "/v1/keys/orders/42", &[("if-none-match", "*")], "x").await;
    again.problem(412, "precondition_failed");
    let second = server.send("PUT", "/v1/keys/orders/42", &[("if-match", &etag)], &b"\xff\x00"[..]).await;
    let newer = second.header("etag").to_string();
    assert_ne!(newer, etag);
    let lost = server.send("PUT", "/v1/keys/orders/42", &[("if-match", &etag)], "lost").await;
    let problem = lost.problem(412, "precondition_failed");
    assert_eq!(problem["took_effect"], "no");
    assert_eq!(problem["guards"][0]["found"].to_string(), newer.trim_matches('"'));

    let got = server.get("/v1/keys/orders%2F42").await;
    assert_eq!((&got.body[..], got.header("content-type")), (&b"\xff\x00"[..], "application/octet-stream"));
    let before = server.get(&format!("/v1/keys/orders/42?at={}", etag.trim_matches('"'))).await;
    assert_eq!(&before.body[..], b"{\"a\":1}", "state of an earlier revision");

    let stale = server.send("DELETE", "/v1/keys/orders/42", &[("if-match", &etag)], "").await;
    stale.problem(412, "precondition_failed");
    assert_eq!(server.send("DELETE", "/v1/keys/orders/42", &[], "").await.ok()["deleted"], 1);
    assert_eq!(server.send("DELETE", "/v1/keys/orders/42", &[], "").await.ok()["deleted"], 0);
    server.get("/v1/keys/orders/42?at=999999").await.problem(400, "future_revision");
    server.stop().await;
}

#[tokio::test]
async fn a_key_of_any_bytes_keeps_them() {
    let server = Server::start().await;
    server.send("PUT", "/v1/keys/%ff%00/a%20b", &[], "v").await.ok();
    assert_eq!(server.get("/v1/keys/%FF%00/a%20b").await.body, "v");
    let range = server.get("/v1/range?prefix=%ff").await.ok();
    assert_eq!(range["keys"][0]["key_base64"], "/wAvYSBi");
    let get = server.commit(json!({"then": [{"get": {"key_base64": "/wAvYSBi"}}]})).await.ok();
    assert_eq!(get["results"][0]["found"]["value"], "v");
    server.stop().await;
}

#[tokio::test]
async fn a_range_is_read_in_pages_at_one_revision() {
    let server = Server::start().await;
    for name in ["a/1", "a/2", "a/3", "b/1"] {
        server.send("PUT", &format!("/v1/keys/{name}"), &[], name).await.ok();
    }
    let first = server.get("/v1/range?prefix=a/&limit=2").await.ok();
    assert_eq!(first["more"], true);
    assert_eq!(first["keys"][1]["key"], "a/2");
    let revision = first["revision"].as_u64().unwrap();
    server.send("DELETE", "/v1/keys/a/3", &[], "").await.ok();
    let next = first["next"].as_str().unwrap().replace('\0', "%00");
    let second = server.get(&format!("/v1/range?prefix=a/&from={next}&at={revision}")).await.ok();
    assert_eq!(second["keys"].as_array().unwrap().len(), 1, "{second}");
    assert_eq!((&second["keys"][0]["key"], &second["more"]), (&json!("a/3"), &json!(false)));
    let count = server.get("/v1/range?prefix=&count_only=true").await.ok();
    assert_eq!((&count["count"], &count["keys"]), (&json!(3), &json!([])));
    let keys = server.get("/v1/range?from=a/2&to=c&keys_only&order=descending").await.ok();
    assert_eq!(keys["keys"][0]["key"], "b/1");
    assert_eq!(keys["keys"][0]["value"], Value::Null);
    server.get("/v1/range").await.problem(400, "bad_request");
    server.get("/v1/range?prefix=a&colour=red").await.problem(400, "bad_request");
    server.get("/v1/range?prefix=a&sort=size").await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn one_commit_changes_state_events_limits_and_timers_together() {
    let server = Server::start().await;
    let lease = server.lease("30s").await;
    let lock = server.post("/v1/locks/orders%2F42/acquire", json!({"lease": lease})).await.ok();
    let token = lock["token"].as_u64().unwrap();
    let commit = json!({
        "idempotency": {"key": "pay-7f3a", "ttl": "24h"},
        "guards": [{"fence": {"lock": "orders/42", "token": token}},
                   {"version": {"key": "orders/42", "is": 0}},
                   {"limit": {"name": "tenant/acme", "rate": "100/s", "cost": 1}}],
        "then": [{"put": {"key": "orders/42", "value": {"state": "paid"}}},
                 {"append": {"stream": "orders", "key": "42", "value": {"type": "OrderPaid"}}},
                 {"schedule": {"task": "remind/42", "in": "72h", "commit": {"then": [
                     {"append": {"stream": "reminders", "value": {"order": 42}}}]}}},
                 {"release": {"lock": "orders/42", "token": token}}],
    });
    let answer = server.commit(commit.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("ratelimit-policy"), "\"tenant/acme\";q=100;w=1");
    assert!(answer.header("ratelimit").starts_with("\"tenant/acme\";r=99;"), "{answer:?}");
    let first = answer.json();
    assert_eq!(first["results"][1], json!({"partition": 0, "offset": 0, "next": 1}));
    assert_eq!(first["limits"][0]["remaining"], 99);

    let replay = server.commit(commit.clone()).await;
    assert_eq!(replay.header("idempotent-replayed"), "true");
    let mut again = replay.json();
    again.as_object_mut().unwrap().remove("replayed");
    assert_eq!(again, first, "a retry has one effect and one answer");
    let mut other = commit;
    other["then"][0]["put"]["value"] = json!("other");
    server.commit(other).await.problem(422, "idempotency_other_request");

    let records = server.get("/v1/streams/orders/records").await.ok();
    assert_eq!(records["records"].as_array().unwrap().len(), 1);
    assert_eq!(records["records"][0]["value"], json!({"type": "OrderPaid"}));
    let timer = server.get("/v1/timers/remind%2F42").await.ok();
    assert_eq!(timer["commit"]["then"][0]["append"]["stream"], "reminders", "{timer}");
    assert_eq!(server.get("/v1/locks/orders%2F42").await.ok()["holders"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_header_replays_and_resolves() {
    let server = Server::start().await;
    let key = [("idempotency-key", "\"a-1\"")];
    let first = server.send("POST", "/v1/streams/s/records", &key, r#"{"value":"x"}"#).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let bare = [("idempotency-key", "a-1")];
    let second = server.send("POST", "/v1/streams/s/records", &bare, r#"{"value":"x"}"#).await;
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(first.json()["appended"], second.json()["appended"]);
    let other = server.send("POST", "/v1/streams/s/records", &key, r#"{"value":"y"}"#).await;
    other.problem(422, "idempotency_other_request");
    assert_eq!(server.get("/v1/streams/s/records").await.ok()["end"], 1);

    let resolved = server.post("/v1/idempotency/a-1/resolve", json!({})).await.ok();
    assert_eq!(resolved["resolution"], "committed");
    assert_eq!(resolved["answer"]["results"][0]["offset"], 0);
    let cancelled = server.post("/v1/idempotency/a-2/resolve", json!({"ttl": "1h"})).await.ok();
    assert_eq!(cancelled["resolution"], "cancelled");
    let late = server.send("PUT", "/v1/keys/k", &[("idempotency-key", "a-2")], "v").await;
    late.problem(409, "idempotency_cancelled");
    let both = json!({"idempotency": {"key": "x"}, "then": []}).to_string();
    server.send("POST", "/v1/commit", &[("idempotency-key", "y")], both).await.problem(400, "bad_request");
    server.send("PUT", "/v1/keys/k", &[("idempotency-key", "\"")], "v").await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn a_holder_whose_lease_ended_is_fenced_off() {
    let server = Server::start().await;
    let old = server.lease("30s").await;
    let token = server.post("/v1/locks/l/acquire", json!({"lease": old})).await.ok()["token"].clone();
    let again = server.post("/v1/locks/l/acquire", json!({"lease": old})).await.ok()["token"].clone();
    assert_eq!(token, again, "repeating an acquire gives the same token");
    server.send("DELETE", &format!("/v1/leases/{old}"), &[], "").await.ok();
    let newer = server.post("/v1/locks/l/acquire", json!({"ttl": "30s"})).await.ok();
    assert!(newer["token"].as_u64() > token.as_u64());
    let late = server
        .commit(json!({"guards": [{"fence": {"lock": "l", "token": token}}], "then": [{"put": {"key": "k", "value": 1}}]}))
        .await
        .problem(409, "guard_failed");
    assert_eq!(
        (&late["guard"], &late["took_effect"], &late["retry"]),
        (&json!(0), &json!("no"), &json!("no"))
    );
    assert_eq!(late["guards"][0]["found"], newer["token"]);
    assert!(late["why"].as_str().unwrap().contains("acquire the lock again"), "{late}");
    server.get("/v1/keys/k").await.problem(404, "key_missing");
    server.post("/v1/locks/l/release", json!({"token": token})).await.problem(409, "not_holder");
    server.stop().await;
}

#[tokio::test]
async fn a_waiter_gets_the_lock_when_its_holder_gives_it_back() {
    let server = Server::start().await;
    let first = server.post("/v1/locks/l/acquire", json!({"ttl": "30s", "value": "first"})).await.ok();
    let held = server.post("/v1/locks/l/acquire", json!({"ttl": "30s"})).await.problem(409, "lock_held");
    assert_eq!(held["retry"], "same");
    let lease = server.lease("30s").await;
    let waits = server.post("/v1/locks/l/acquire", json!({"lease": lease, "wait": "20s"}));
    let gives = async {
        // The queue is visible: once the waiter stands in it, the holder leaves.
        loop {
            let lock = server.get("/v1/locks/l").await.ok();
            if lock["waiting"][0]["lease"] == lease {
                assert_eq!(lock["holders"][0]["value"], "first");
                break;
            }
        }
        server.post("/v1/locks/l/release", json!({"token": first["token"]})).await.ok();
    };
    let (granted, ()) = tokio::join!(waits, gives);
    let granted = granted.ok();
    assert_eq!(granted["lease"], lease);
    assert!(granted["token"].as_u64() > first["token"].as_u64());
    // A session made for the lock alone ends with a refusal: nothing is left behind.
    let leases = server.get("/v1/leases").await.ok()["leases"].as_array().unwrap().len();
    server.post("/v1/locks/l/acquire", json!({"ttl": "30s", "wait": "50ms"})).await.problem(409, "lock_held");
    assert_eq!(server.get("/v1/leases").await.ok()["leases"].as_array().unwrap().len(), leases);
    server.post("/v1/locks/l/acquire", json!({"wait": "1s"})).await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn a_waiter_that_hangs_up_leaves_the_queue() {
    let server = Server::start().await;
    let first = server.post("/v1/locks/l/acquire", json!({"ttl": "30s"})).await.ok();
    let lease = server.lease("30s").await;
    let mut waits = Box::pin(server.post("/v1/locks/l/acquire", json!({"lease": lease, "wait": "20s"})));
    let seen = |count: usize| {
        let server = &server;
        async move {
            while server.get("/v1/locks/l").await.ok()["waiting"].as_array().unwrap().len() != count {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        answer = &mut waits => panic!("the lock is held: {answer:?}"),
        () = seen(1) => {}
    }
    drop(waits);
    tokio::time::timeout(PATIENCE, seen(0)).await.expect("the queue is empty again");
    server.post("/v1/locks/l/release", json!({"token": first["token"]})).await.ok();
    assert_eq!(server.get("/v1/locks/l").await.ok()["holders"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn an_election_is_observed() {
    let server = Server::start().await;
    server.get("/v1/elections/e").await.problem(404, "no_leader");
    let mut events = server.events("/v1/elections/e/observe", &[]).await;
    assert_eq!(events.named("leader").await.data["leader"], Value::Null);
    let led = server.post("/v1/elections/e/campaign", json!({"ttl": "30s", "value": "node-1"})).await.ok();
    let seen = events.named("leader").await.data;
    assert_eq!((&seen["leader"]["value"], &seen["leader"]["token"]), (&json!("node-1"), &led["token"]));
    let proclaim = json!({"token": led["token"], "value": {"address": "a:1"}});
    server.post("/v1/elections/e/proclaim", proclaim).await.ok();
    assert_eq!(events.named("leader").await.data["leader"]["value"], json!({"address": "a:1"}));
    let guard = json!([{"leader": {"election": "e", "lease": led["lease"]}}]);
    server.commit(json!({"guards": guard, "then": []})).await.ok();
    server.post("/v1/elections/e/resign", json!({"token": led["token"]})).await.ok();
    assert_eq!(events.named("leader").await.data["leader"], Value::Null);
    server.commit(json!({"guards": guard, "then": []})).await.problem(409, "guard_failed");
    server.stop().await;
}

#[tokio::test]
async fn a_lease_keeps_what_hangs_on_it() {
    let server = Server::start().await;
    let lease = server.lease("30s").await;
    server.send("PUT", &format!("/v1/keys/session/a?lease={lease}"), &[], "v").await.ok();
    assert_eq!(server.get("/v1/keys/session/a").await.header("quorate-lease"), lease.to_string());
    let alive = server.post(&format!("/v1/leases/{lease}/keepalive"), json!({})).await.ok();
    assert_eq!(alive["ttl_ms"], 30_000);
    let view = server.get(&format!("/v1/leases/{lease}")).await.ok();
    assert_eq!(view["keys"], json!([{"key": "session/a"}]));
    server.send("DELETE", &format!("/v1/leases/{lease}"), &[], "").await.ok();
    server.get("/v1/keys/session/a").await.problem(404, "key_missing");
    server.post(&format!("/v1/leases/{lease}/keepalive"), json!({})).await.problem(404, "lease_missing");
    server.get(&format!("/v1/leases/{lease}")).await.problem(404, "lease_missing");
    server.get("/v1/leases/x").await.problem(400, "bad_request");
    server.post("/v1/leases", json!({"ttl": "1ms"})).await.problem(400, "out_of_bounds");
    server.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_not_kept_alive_ends_by_itself() {
    let server = Server::start().await;
    let mut events = server.events("/v1/watch?prefix=session/", &[]).await;
    events.named("open").await;
    let lease = server.lease("250ms").await;
    server.send("PUT", &format!("/v1/keys/session/a?lease={lease}"), &[], "v").await.ok();
    assert_eq!(events.named("change").await.data["kind"], "put");
    assert_eq!(events.named("change").await.data["kind"], "delete");
    server.get(&format!("/v1/leases/{lease}")).await.problem(404, "lease_missing");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_cut() {
    let server = Server::start().await;
    let mut events = server.events("/v1/watch?prefix=a/", &[]).await;
    events.named("open").await;
    let two =
        json!({"then": [{"put": {"key": "a/1", "value": 1}}, {"put": {"key": "a/2", "value": {"x": 2}}}]});
    let first = server.commit(two).await.ok()["revision"].as_u64().unwrap();
    server.send("PUT", "/v1/keys/b", &[], "elsewhere").await.ok();
    server.send("DELETE", "/v1/keys/a/1", &[], "").await.ok();
    let one = events.named("change").await;
    assert_eq!((one.id, &one.data["key"]), (None, &json!("a/1")), "the revision is not whole yet");
    let two = events.named("change").await;
    assert_eq!(two.id, Some(first.to_string()));
    assert_eq!(two.data["now"]["value"], json!({"x": 2}));
    drop(events);

    let mut resumed = server.events("/v1/watch?prefix=a/", &[("last-event-id", &first.to_string())]).await;
    resumed.named("open").await;
    let three = resumed.named("change").await;
    assert_eq!((&three.data["kind"], &three.data["key"]), (&json!("delete"), &json!("a/1")));
    assert_eq!(three.data["prev"]["value"], "1");

    let mut whole = server.events(&format!("/v1/watch?prefix=a/&since={first}"), &[]).await;
    whole.named("open").await;
    for _ in 0..3 {
        whole.named("change").await;
    }
    let newest = server.get("/v1/status").await.ok()["revision"].as_u64().unwrap();
    server.post("/v1/compact", json!({"before": newest})).await.ok();
    let mut lost = server.events(&format!("/v1/watch?prefix=a/&since={first}"), &[]).await;
    lost.named("open").await;
    let compacted = lost.named("compacted").await;
    assert_eq!(compacted.data["error"], "compacted");
    assert!(lost.next().await.is_none(), "the stream ends after that");
    server.stop().await;
}

#[tokio::test]
async fn a_reader_waits_for_a_record_and_tails_a_stream() {
    let server = Server::start().await;
    server.put("/v1/streams/s", json!({"partitions": 1, "retention": {"age": "7d"}})).await.ok();
    server.put("/v1/streams/s", json!({"partitions": 2})).await.ok();
    server.put("/v1/streams/s", json!({"partitions": 1})).await.problem(409, "partitions_removed");
    let idle = server.get("/v1/streams/s/records?partition=1&offset=latest&wait=30ms").await;
    assert_eq!((idle.status, idle.header("stream-next-offset")), (204, "0"));
    let empty = server.get("/v1/streams/s/records?partition=1").await;
    assert_eq!(empty.header("stream-up-to-date"), "true");
    assert_eq!(empty.ok()["records"], json!([]));

    let waits = server.get("/v1/streams/s/records?partition=1&offset=0&wait=20s");
    let appends = async {
        while server.get("/v1/status").await.ok()["readers"] == 0 {
            tokio::task::yield_now().await;
        }
        let record = json!({"partition": 1, "value": {"n": 1}, "headers": {"h": "x"}});
        server.post("/v1/streams/s/records", record).await.ok()
    };
    let (woken, appended) = tokio::join!(waits, appends);
    assert_eq!(appended["appended"], json!([{"partition": 1, "offset": 0, "next": 1}]));
    assert_eq!(woken.header("stream-next-offset"), "1");
    let page = woken.ok();
    assert_eq!(page["records"][0]["value"], json!({"n": 1}));
    assert_eq!(page["records"][0]["headers"], json!([{"name": "h", "value": "x"}]));

    let more: Vec<Value> = (2..6).map(|n| json!({"value": {"n": n}})).collect();
    server.post("/v1/streams/s/records", json!({"partition": 1, "records": more})).await.ok();
    let page = server.get("/v1/streams/s/records?partition=1&offset=2&max=2").await;
    assert_eq!(page.header("stream-next-offset"), "4");
    assert!(!page.headers.contains_key("stream-up-to-date"));
    let page = page.ok();
    assert_eq!(page["records"][0]["offset"], 2, "a read may begin inside a batch");
    assert_eq!((&page["records"][1]["value"], &page["end"]), (&json!({"n": 4}), &json!(5)));

    let mut tail = server.events("/v1/streams/s/records?partition=1", &[("last-event-id", "3")]).await;
    tail.named("open").await;
    let record = tail.named("record").await;
    assert_eq!((record.id.as_deref(), &record.data["value"]), (Some("4"), &json!({"n": 5})));
    server.post("/v1/streams/s/records", json!({"partition": 1, "value": "six"})).await.ok();
    assert_eq!(tail.named("record").await.data["value"], "six");

    server.post("/v1/streams/s/trim", json!({"partition": 1, "before": 5})).await.ok();
    let gone =
        server.get("/v1/streams/s/records?partition=1&offset=0").await.problem(410, "offset_out_of_range");
    assert_eq!(gone["found"], json!([5, 6]));
    server.get("/v1/streams/s/records?partition=1&offset=7").await.problem(416, "offset_out_of_range");
    server.get("/v1/streams/s/records?partition=9").await.problem(404, "partition_missing");
    server.get("/v1/streams/none/records").await.problem(404, "stream_missing");
    let info = server.get("/v1/streams/s").await.ok();
    assert_eq!((&info["partitions"][1]["first"], &info["settings"]["protected"]), (&json!(5), &json!(true)));
    assert_eq!(server.get("/v1/streams").await.ok()["streams"], json!([{"stream": "s"}]));
    server.send("DELETE", "/v1/streams/s", &[], "").await.ok();
    server.get("/v1/streams/s").await.problem(404, "stream_missing");
    server.stop().await;
}

#[tokio::test]
async fn records_of_different_keys_go_to_the_partitions_of_their_keys() {
    let server = Server::start().await;
    server.put("/v1/streams/s", json!({"partitions": 4})).await.ok();
    let records: Vec<Value> = (0..40).map(|n| json!({"key": format!("k{}", n % 8), "value": n})).collect();
    server.post("/v1/streams/s/records", json!({"records": records})).await.ok();
    let mut seen = Vec::new();
    for partition in 0..4 {
        let page = server.get(&format!("/v1/streams/s/records?partition={partition}")).await.ok();
        for record in page["records"].as_array().unwrap() {
            let (key, value) =
                (record["key"].as_str().unwrap().to_string(), record["value"].as_str().unwrap());
            seen.push((key, partition, value.parse::<u32>().unwrap()));
        }
    }
    assert_eq!(seen.len(), 40);
    for n in 0..8 {
        let of_key: Vec<_> = seen.iter().filter(|(key, ..)| *key == format!("k{n}")).collect();
        assert!(of_key.windows(2).all(|pair| pair[0].1 == pair[1].1 && pair[0].2 < pair[1].2), "{of_key:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_shared_group_hands_each_record_to_one_consumer_until_it_is_acked() {
    let server = Server::start().await;
    server.put("/v1/streams/s", json!({})).await.ok();
    let settings = json!({"mode": "shared", "visibility": "30s", "deliveries_max": 2, "dead_letter": "dead"});
    server.put("/v1/streams/s/groups/g", settings.clone()).await.ok();
    server.put("/v1/streams/s/groups/g", settings).await.ok();
    server.put("/v1/streams/s/groups/g", json!({"mode": "shared"})).await.problem(409, "group_exists");
    let empty = server.post("/v1/streams/s/groups/g/take", json!({"wait": "30ms"})).await.ok();
    assert_eq!(empty["deliveries"], json!([]));

    let waits =
        server.post("/v1/streams/s/groups/g/take", json!({"max": 10, "wait": "20s", "consumer": "c1"}));
    let appends = async {
        while server.get("/v1/status").await.ok()["readers"] == 0 {
            tokio::task::yield_now().await;
        }
        server.post("/v1/streams/s/records", json!({"records": [{"value": "a"}, {"value": "b"}]})).await.ok();
    };
    let (taken, ()) = tokio::join!(waits, appends);
    let taken = taken.ok();
    let (a, b) = (&taken["deliveries"][0], &taken["deliveries"][1]);
    assert_eq!((&a["value"], &b["value"], &a["attempt"]), (&json!("a"), &json!("b"), &json!(1)));
    let other = server.post("/v1/streams/s/groups/g/take", json!({"max": 10})).await.ok();
    assert_eq!(other["deliveries"], json!([]), "hidden from other consumers");

    let delivery = |one: &Value| json!({"partition": 0, "offset": one["offset"], "attempt": one["attempt"]});
    let acked = server.post("/v1/streams/s/groups/g/ack", json!({"deliveries": [delivery(a)]})).await.ok();
    assert_eq!(acked, json!({"settled": 1, "lost": []}));
    let twice = server.post("/v1/streams/s/groups/g/ack", json!({"deliveries": [delivery(a)]})).await.ok();
    assert_eq!(twice["lost"], json!([delivery(a)]));
    let longer = json!({"deliveries": [delivery(b)], "visibility": "60s"});
    assert_eq!(server.post("/v1/streams/s/groups/g/extend", longer).await.ok()["settled"], 1);
    server.post("/v1/streams/s/groups/g/nack", json!({"deliveries": [delivery(b)]})).await.ok();
    let again = server.post("/v1/streams/s/groups/g/take", json!({"max": 10})).await.ok();
    assert_eq!(
        (&again["deliveries"][0]["value"], &again["deliveries"][0]["attempt"]),
        (&json!("b"), &json!(2))
    );
    let view = server.get("/v1/streams/s/groups/g").await.ok();
    assert_eq!(
        (&view["settings"]["mode"], &view["partitions"][0]["in_flight"]),
        (&json!("shared"), &json!(1))
    );
    let b = &again["deliveries"][0];
    server.post("/v1/streams/s/groups/g/nack", json!({"deliveries": [delivery(b)]})).await.ok();
    assert_eq!(server.post("/v1/streams/s/groups/g/take", json!({})).await.ok()["deliveries"], json!([]));
    let dead = server.get("/v1/streams/dead/records").await.ok();
    assert_eq!(dead["records"][0]["value"], "b", "after two deliveries it is dead: {dead}");
    server.send("DELETE", "/v1/streams/s/groups/g", &[], "").await.ok();
    server.post("/v1/streams/s/groups/g/take", json!({"wait": "20s"})).await.problem(404, "group_missing");
    server.stop().await;
}

#[tokio::test]
async fn a_partitioned_group_keeps_a_cursor() {
    let server = Server::start().await;
    server.post("/v1/streams/s/records", json!({"records": [{"value": 1}, {"value": 2}]})).await.ok();
    server.post("/v1/streams/s/groups/g/cursor", json!({"offset": 1})).await.ok();
    let moved = json!({"offset": 2, "expected": 0});
    server.post("/v1/streams/s/groups/g/cursor", moved).await.problem(409, "cursor_moved");
    server.post("/v1/streams/s/groups/g/cursor", json!({"offset": 2, "expected": 1})).await.ok();
    assert_eq!(server.get("/v1/streams/s/groups/g").await.ok()["partitions"][0]["cursor"], 2);
    server.post("/v1/streams/s/groups/g/take", json!({})).await.problem(409, "group_mode");
    server.stop().await;
}

#[tokio::test]
async fn a_limit_says_when_to_come_back() {
    let server = Server::start().await;
    let take = json!({"rate": "2/h", "cost": 1});
    let peek = server.get("/v1/limits/api?rate=2/h").await;
    assert_eq!(peek.header("ratelimit-policy"), "\"api\";q=2;w=3600");
    assert_eq!(peek.ok()["limit"]["remaining"], 2);
    for left in [1, 0] {
        let answer = server.post("/v1/limits/api/take", take.clone()).await;
        assert!(answer.header("ratelimit").starts_with(&format!("\"api\";r={left};t=")), "{answer:?}");
        answer.ok();
    }
    let refused = server.post("/v1/limits/api/take", take).await;
    let after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1700..=1800).contains(&after), "half an hour gives one unit back: {after}");
    assert!(refused.header("ratelimit").starts_with("\"api\";r=0;t="));
    assert_eq!(refused.header("ratelimit-policy"), "\"api\";q=2;w=3600");
    let problem = refused.problem(429, "limited");
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!((&problem["retry"], &problem["violated-policies"]), (&json!("after"), &json!(["api"])));
    let never = server.post("/v1/limits/api/take", json!({"rate": "2/h", "cost": 3})).await;
    assert!(!never.headers.contains_key("retry-after"));
    assert_eq!(never.problem(429, "limited")["retry"], "no");
    server.post("/v1/limits/api/take", json!({})).await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn a_timer_runs_its_commit_once() {
    let server = Server::start().await;
    let mut events = server.events("/v1/watch?key=fired", &[]).await;
    events.named("open").await;
    let commit = json!({"then": [{"increment": {"key": "fired"}}]});
    let timer = json!({"in": "50ms", "commit": commit});
    assert_eq!(server.put("/v1/timers/t", timer).await.ok()["replaced"], false);
    assert_eq!(events.named("change").await.data["now"]["value"], "1");
    server.get("/v1/timers/t").await.problem(404, "task_missing");
    server.put("/v1/timers/u", json!({"at": "2999-01-01T00:00:00Z", "commit": commit})).await.ok();
    assert_eq!(server.get("/v1/timers").await.ok()["timers"][0]["at"], "2999-01-01T00:00:00.000Z");
    server.send("DELETE", "/v1/timers/u", &[], "").await.ok();
    server.send("DELETE", "/v1/timers/u", &[], "").await.problem(404, "task_missing");
    assert_eq!(server.get("/v1/keys/fired").await.body, "1");
    server.stop().await;
}

#[tokio::test]
async fn a_service_is_watched_as_its_instances_come_and_go() {
    let server = Server::start().await;
    let mut events = server.events("/v1/services/web/watch", &[]).await;
    assert_eq!(events.named("instances").await.data["instances"], json!([]));
    let instance = json!({"ttl": "30s", "address": "10.0.0.7:80", "zone": "a", "metadata": {"v": "1"}});
    let entered = server.put("/v1/services/web/i1", instance).await.ok();
    let seen = events.named("instances").await.data;
    assert_eq!(
        (&seen["instances"][0]["instance"], &seen["instances"][0]["weight"]),
        (&json!("i1"), &json!(1))
    );
    assert_eq!(server.get("/v1/services/web").await.ok()["instances"][0]["metadata"], json!({"v": "1"}));
    assert_eq!(server.get("/v1/services").await.ok()["services"], json!([{"service": "web"}]));
    server.send("DELETE", &format!("/v1/leases/{}", entered["lease"]), &[], "").await.ok();
    assert_eq!(events.named("instances").await.data["instances"], json!([]), "it went with its lease");
    server.send("DELETE", "/v1/services/web/i1", &[], "").await.problem(404, "instance_missing");
    server.stop().await;
}

#[tokio::test]
async fn why_tells_what_a_transaction_is_by_which_entry_and_what_it_waits_for() {
    use quorate_types::{Author, Millis, OpResult, Produce};
    let server = Server::start().await;
    let produce = async |produce| {
        let commit = Commit::of(vec![Op::Produce { produce: Box::new(produce) }]);
        match server.data.handle().command(commit.into()).await.unwrap() {
            Outcome::Committed { committed } => committed.results[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    let why = async || server.get("/v1/why/transaction/billing-1").await.ok();
    let none = why().await;
    assert_eq!((&none["state"], &none["steps"]), (&Value::Null, &json!([])));
    let name: quorate_types::Blob = "billing-1".into();
    let take = Produce::TakeOver { name: name.clone(), timeout: Millis(60_000), known: None };
    let OpResult::Producer { producer, epoch } = produce(take.clone()).await else { panic!() };
    server.commit(json!({"then": [{"create_stream": {"stream": "orders"}}]})).await.ok();
    let author = Author { name: name.clone(), producer, epoch };
    produce(Produce::Enlist {
        author: author.clone(),
        parts: vec![("orders".into(), 0)],
        groups: vec!["billing".into()],
    })
    .await;
    let open = why().await;
    assert_eq!(
        (&open["state"]["state"], &open["state"]["partitions"]),
        (&json!("open"), &json!(["orders/0"]))
    );
    assert_eq!(open["state"]["entry"], open["steps"][1]["index"], "{open}");
    assert!(open["state"]["waits_for"].as_str().unwrap().contains("is to end it"), "{open}");
    // The group that it names has that step in its history too.
    let group = server.get("/v1/why/group/billing").await.ok();
    assert_eq!(group["steps"][0]["index"], open["steps"][1]["index"], "{group}");
    produce(Produce::End { author, commits: true }).await;
    let ended = why().await;
    assert_eq!(ended["state"]["state"], "committed");
    assert_eq!(ended["state"]["entry"], ended["steps"][2]["index"], "{ended}");
    assert_eq!(ended["state"]["waits_for"], Value::Null);
    // One that is dropped for its time is told so, though no command did it.
    let take = Produce::TakeOver { name: name.clone(), timeout: Millis(1), known: None };
    let OpResult::Producer { producer, epoch } = produce(take).await else { panic!() };
    let author = Author { name, producer, epoch };
    produce(Produce::Enlist { author, parts: vec![("orders".into(), 0)], groups: vec![] }).await;
    let dropped = loop {
        let found = why().await;
        if found["state"]["state"] == "dropped" {
            break found;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&dropped["state"]["by"], &dropped["state"]["entry"]),
        (&json!("its time was up"), &Value::Null)
    );
    server.stop().await;
}

#[tokio::test]
async fn why_tells_what_a_group_is_and_whom_it_waits_for() {
    use quorate_types::{Join, MemberAnswer, MemberChange, Membership, Millis, OpResult};
    let server = Server::start().await;
    let change = async |change| {
        let commit = Commit::of(vec![Op::Member { change: Box::new(change) }]);
        match server.data.handle().command(commit.into()).await.unwrap() {
            Outcome::Committed { committed } => committed.results[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    let why = async || server.get("/v1/why/group/billing").await.ok();
    let join = MemberChange::Join {
        join: Box::new(Join {
            group: "billing".into(),
            client: "worker".into(),
            session: Millis(60_000),
            rebalance: Millis(60_000),
            kind: "consumer".into(),
            protocols: vec![("range".into(), "".into())],
            ..Join::default()
        }),
    };
    let OpResult::Member { answer: MemberAnswer::Joined { member, .. } } = change(join).await else {
        panic!()
    };
    let assigning = loop {
        // First members wait for others, a tenth of a second.
        let found = why().await;
        if found["state"]["state"] == "assigning" {
            break found;
        }
        assert_eq!(found["state"]["state"], "joining");
        tokio::task::yield_now().await;
    };
    let state = &assigning["state"];
    assert_eq!((&state["entry"], &state["protocol"]), (&assigning["steps"][0]["index"], &json!("classic")));
    assert_eq!(state["missing"], json!([{ "member": member.to_string() }]), "{state}");
    assert!(state["waits_for"].as_str().unwrap().starts_with("its leader to say who reads what"), "{state}");
    let by = Membership { generation: Some(1), member: member.clone(), instance: None };
    change(MemberChange::Sync {
        group: "billing".into(),
        by,
        agreed: None,
        given: vec![(member, "all".into())],
    })
    .await;
    let stable = why().await;
    assert_eq!((&stable["state"]["state"], &stable["state"]["waits_for"]), (&json!("stable"), &Value::Null));
    assert_eq!(stable["state"]["entry"], stable["steps"][1]["index"]);
    assert_eq!(stable["state"]["members"][0]["client"], "worker");
    server.stop().await;
}

#[tokio::test]
async fn why_tells_who_changed_a_key_and_who_was_refused() {
    let server = Server::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("quorate-client", "billing"), ("traceparent", trace)];
    let put = server.send("PUT", "/v1/keys/k", &headers, "v").await.ok();
    server
        .commit(json!({"guards": [{"absent": {"key": "k"}}], "then": [{"delete": {"key": "k"}}]}))
        .await
        .problem(409, "guard_failed");
    let why = server.get("/v1/why/key/k").await.ok();
    let steps = why["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "{why}");
    assert_eq!((&steps[0]["client"], &steps[0]["traceparent"]), (&json!("billing"), &json!(trace)));
    assert_eq!((&steps[0]["verdict"], &steps[0]["revision"]), (&json!("done"), &put["revision"]));
    assert_eq!(steps[0]["commit"]["then"][0]["put"], json!({"key": "k", "value": "v"}));
    assert_eq!(steps[1]["verdict"], "refused");
    assert!(steps[1]["refusal"]["why"].as_str().unwrap().contains("key k has version 1"), "{why}");
    server.get("/v1/why/colour/k").await.problem(404, "unknown_kind");
    let bad = server.send("PUT", "/v1/keys/k", &[("traceparent", "00-zz")], "v").await;
    bad.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_4xx_that_says_so() {
    let server = Server::with(Config { body_bytes_max: 1000, ..Config::default() }).await;
    for (body, code, detail) in [
        ("", "bad_request", "the body is empty"),
        ("{", "bad_json", "not JSON"),
        ("\u{7f}", "bad_json", "not JSON"),
        ("[]", "bad_request", "wanted an object, found a list"),
        (r#"{"them":[]}"#, "bad_request", "unknown member \"them\""),
        (r#"{"then":[{"put":{"key":"k","value":1,"ttl":5}}]}"#, "bad_request", "unknown member \"ttl\""),
        (
            r#"{"then":[{"put":{"key":7,"value":1}}]}"#,
            "bad_request",
            "then[0].put.key: wanted a text, found 7",
        ),
        (
            r#"{"idempotency":{"key":"k","ttl":"soon"}}"#,
            "bad_request",
            "idempotency.ttl: \"soon\" is no duration",
        ),
        (r#"{"then":[{"put":{"key":"","value":1}}]}"#, "out_of_bounds", "key is 0"),
        (
            r#"{"then":[{"put":{"key":"k","keyspace":65281,"value":1}}]}"#,
            "internal_keyspace",
            "belongs to the server",
        ),
    ] {
        let answer = server.send("POST", "/v1/commit", &[], body).await;
        let status = if code == "internal_keyspace" { 403 } else { 400 };
        let problem = answer.problem(status, code);
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
        assert_eq!((&problem["took_effect"], &problem["retry"]), (&json!("no"), &json!("no")));
    }
    let not_text = server.send("POST", "/v1/commit", &[], &b"{\"then\":\"\xff\"}"[..]).await;
    not_text.problem(400, "bad_json");
    let large = server.send("PUT", "/v1/keys/k", &[], vec![b'x'; 1001]).await;
    large.problem(413, "too_large");
    server.send("PUT", "/v1/keys/k", &[], vec![b'x'; 1000]).await.ok();
    server.get("/v2/commit").await.problem(404, "no_route");
    server.get("/v1/commit").await.problem(405, "method_not_allowed");
    server.send("GET", "/v1/status", &[], "body").await.problem(400, "bad_request");
    server.get("/v1/status?verbose=1").await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn an_operation_that_fails_is_named_and_in_mode_each_it_is_its_own_result() {
    let server = Server::start().await;
    let ops = json!([{"put": {"key": "text", "value": "x"}}, {"increment": {"key": "text"}}, {"put": {"key": "b", "value": 1}}]);
    let refused = server.commit(json!({"then": ops})).await.problem(409, "not_integer");
    assert_eq!(refused["op"], 1);
    server.get("/v1/keys/text").await.problem(404, "key_missing");
    let each = server.commit(json!({"mode": "each", "then": ops})).await.ok();
    assert_eq!(each["results"][1]["error"], "not_integer");
    assert_eq!(server.get("/v1/keys/b").await.body, "1");
    let otherwise =
        json!({"guards": [{"absent": {"key": "b"}}], "then": [], "else": [{"get": {"key": "b"}}]});
    let branch = server.commit(otherwise).await.ok();
    assert_eq!((&branch["branch"], &branch["results"][0]["found"]["value"]), (&json!("else"), &json!("1")));
    let coded = server
        .send("POST", "/v1/commit?values=base64", &[], json!({"then": [{"get": {"key": "b"}}]}).to_string())
        .await;
    assert_eq!(coded.json()["results"][0]["found"]["value_base64"], "MQ==");
    server.stop().await;
}

#[tokio::test]
async fn tokens_close_every_route_but_the_probes() {
    let tokens = vec![Token::of("ann".into(), "secret")];
    let server = Server::with(Config { tokens, ..Config::default() }).await;
    server.get("/healthz").await.ok();
    server.get("/readyz").await.ok();
    for path in ["/v1/status", "/metrics", "/openapi.json", "/v1/keys/k"] {
        let refused = server.get(path).await;
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
        refused.problem(401, "unauthorized");
    }
    for sent in ["Bearer wrong", "Bearer", "Basic c2VjcmV0", "secret"] {
        server.send("PUT", "/v1/keys/k", &[("authorization", sent)], "v").await.problem(401, "unauthorized");
    }
    let right = [("authorization", "bearer secret")];
    server.send("PUT", "/v1/keys/k", &right, "v").await.ok();
    let why = server.send("GET", "/v1/why/key/k", &right, "").await.ok();
    assert_eq!(why["steps"][0]["principal"], "ann");
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_an_unknown_origin_may_not_call() {
    let server =
        Server::with(Config { origins: vec!["https://app.example".into()], ..Config::default() }).await;
    let evil = server.send("PUT", "/v1/keys/k", &[("origin", "https://evil.example")], "v").await;
    evil.problem(403, "origin_refused");
    server.get("/v1/keys/k").await.problem(404, "key_missing");
    let known = [("origin", "https://app.example")];
    let answer = server.send("PUT", "/v1/keys/k", &known, "v").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    let preflight = server.send("OPTIONS", "/v1/keys/k", &known, "").await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-methods")),
        (204, "GET, PUT, POST, DELETE")
    );
    server
        .send("OPTIONS", "/v1/keys/k", &[("origin", "https://evil.example")], "")
        .await
        .problem(405, "method_not_allowed");
    server.stop().await;
}

#[tokio::test]
async fn status_metrics_and_description_tell_of_the_server() {
    let server = Server::start().await;
    server.send("PUT", "/v1/keys/k", &[], "v").await.ok();
    let status = server.get("/v1/status").await.ok();
    assert_eq!(
        (&status["revision"], &status["sizes"]["keys"], &status["durability"]),
        (&json!(1), &json!(1), &json!("always"))
    );
    assert_eq!(status["bounds"]["depth_max"], 4);
    assert_eq!(status["http"]["body_bytes_max"], 16 << 20);
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    let line = "quorate_http_requests_total{method=\"PUT\",route=\"/v1/keys/{*key}\",class=\"2xx\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let names: Vec<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    assert!(names.iter().all(|name| name.starts_with("quorate_")), "{names:?}");
    assert_eq!(server.get("/openapi.json").await.ok()["openapi"], "3.1.0");
    server.stop().await;
}

#[tokio::test]
async fn a_read_is_as_fresh_as_asked_for_and_says_what_it_saw() {
    let server = Server::start().await;
    server.send("PUT", "/v1/keys/k", &[], "v").await.ok();
    for path in [
        "/v1/keys/k",
        "/v1/range?prefix=",
        "/v1/leases",
        "/v1/locks",
        "/v1/locks/l",
        "/v1/streams",
        "/v1/timers",
        "/v1/services",
        "/v1/services/s",
        "/v1/limits/l?rate=1/s",
    ] {
        let mark = if path.contains('?') { '&' } else { '?' };
        for consistency in ["linearizable", "stale", "bounded&max_staleness=500ms"] {
            let read = server.get(&format!("{path}{mark}consistency={consistency}")).await;
            assert_eq!(read.status, 200, "{path} {consistency}: {read:?}");
            assert!(read.header("quorate-applied").parse::<u64>().unwrap() > 0, "{path}");
        }
        for (wrong, wanted) in [
            ("eventual", "known: linearizable (the default), bounded, stale"),
            ("bounded", "max_staleness is missing"),
            ("stale&max_staleness=1s", "only consistency=bounded takes it"),
            ("bounded&max_staleness=soon", "is no duration"),
        ] {
            let read = server.get(&format!("{path}{mark}consistency={wrong}")).await;
            let problem = read.problem(400, "bad_request");
            assert!(problem["detail"].as_str().unwrap().contains(wanted), "{path} {wrong}: {problem}");
        }
    }
    let missing = server.get("/v1/keys/none?consistency=stale").await;
    assert!(missing.header("quorate-applied").parse::<u64>().unwrap() > 0, "what is not there was read too");
    server.send("PUT", "/v1/keys/k?consistency=stale", &[], "v").await.problem(400, "bad_request");
    server.send("PUT", "/v1/streams/s", &[], "{}").await.ok();
    server.get("/v1/streams/s/records?consistency=stale").await.ok();
    let poll = server.get("/v1/streams/s/records?consistency=stale&wait=1s").await;
    assert!(poll.problem(400, "bad_request")["detail"].as_str().unwrap().contains("not both"));
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_runs_alone_says_how_to_make_it_part_of_a_cluster() {
    let server = Server::start().await;
    for (method, path, body) in [
        ("GET", "/v1/cluster", ""),
        ("POST", "/v1/cluster/init", ""),
        ("POST", "/v1/cluster/members", r#"{"id":2,"address":"127.0.0.1:1"}"#),
        ("DELETE", "/v1/cluster/members/2", ""),
        ("POST", "/v1/cluster/swap", r#"{"remove":1,"promote":2}"#),
        ("POST", "/v1/cluster/transfer", ""),
    ] {
        let answer = server.send(method, path, &[], body).await;
        let problem = answer.problem(409, "cluster_refused");
        assert!(problem["detail"].as_str().unwrap().contains("start it with --node-id"), "{problem}");
    }
    let read = server.get("/v1/keys/k").await;
    assert!(read.headers.get("quorate-leader").is_none(), "{read:?}");
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(!metrics.contains("quorate_raft"), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn a_command_whose_outcome_stays_open_is_said_to_be_indeterminate() {
    let config = Config { command_timeout: Duration::ZERO, ..Config::default() };
    let server = Server::with(config).await;
    // Even a patience of nothing is looked at after the first poll, and a commit can be quicker: not a thousand of them.
    let mut answers = 0;
    let answer = loop {
        let answer = server.send("PUT", "/v1/keys/k", &[], "v").await;
        answers += 1;
        if answer.status != 200 || answers == 1000 {
            break answer;
        }
    };
    let problem = answer.problem(504, "indeterminate");
    assert_eq!((&problem["took_effect"], &problem["retry"]), (&"unknown".into(), &"ask".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_backup_is_taken_while_the_server_runs() {
    let server = Server::start().await;
    server.send("PUT", "/v1/keys/k", &[], "v").await.ok();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let report = server.post("/v1/backup", json!({"path": path})).await.ok();
    assert!(report["files"].as_u64() > Some(0), "{report}");
    server.post("/v1/backup", json!({"path": path})).await.problem(409, "backup_failed");
    let copy = quorate_runtime::Quorate::open(&path, quorate_runtime::Config::default(), |_, _| {}).unwrap();
    let found = copy.read(|machine| machine.get(&"k".into())).unwrap().unwrap();
    assert_eq!(found.value, "v".into());
    copy.close();
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_waits_and_event_streams() {
    let server = Server::start().await;
    let mut events = server.events("/v1/watch?prefix=", &[]).await;
    events.named("open").await;
    server.post("/v1/locks/l/acquire", json!({"ttl": "30s"})).await.ok();
    let lease = server.lease("30s").await;
    let body = json!({"lease": lease, "wait": "60s"}).to_string();
    let mut waits = Box::pin(server.open("POST", "/v1/locks/l/acquire", &[], body));
    let queued = async {
        while server.get("/v1/locks/l").await.ok()["waiting"] == json!([]) {
            tokio::task::yield_now().await;
        }
    };
    // Only polled until the request stands in the queue; its connection lives in a task of its own.
    let waiting = tokio::select! {
        _ = &mut waits => None,
        () = queued => Some(()),
    };
    assert!(waiting.is_some(), "the lock is held");
    drop(waits);
    let begun = std::time::Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "the stop waited for the wait");
    while let Some(event) = events.next().await {
        assert_eq!(event.name, "change");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::with(Config { connections_max: 1, ..Config::default() }).await;
    let mut events = server.events("/v1/watch?prefix=", &[]).await;
    events.named("open").await;
    // The server may close before the request is sent whole; either way the answer is there to read.
    use tokio::io::AsyncReadExt;
    let mut second = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, second.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("too_many_connections"));
    drop(events);
    server.stop().await;
}
