//! The JSON gateway and the probes as `curl` sees them, beside the real thing: etcd and Quorate have to answer the same requests with the same bytes.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::Server;
use support::etcd::{Etcd, Running};

/// What curl prints of an answer: its body, then its status and type.
fn curl(address: SocketAddr, path: &str, body: Option<&str>, more: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "20", "--write-out", " [%{http_code} %{content_type}]"]);
    command.args(body.into_iter().flat_map(|body| ["--data", body])).args(more);
    let done = command.arg(format!("http://{address}{path}")).output().expect("curl is installed");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Takes away what tells one server from another.
fn alike(text: &str) -> String {
    let mut text = text.to_owned();
    for name in ["cluster_id", "member_id", "raft_term"] {
        let head = format!("\"{name}\":\"");
        while let Some(start) = text.find(&head) {
            let end = start + head.len() + text[start + head.len()..].find('"').unwrap() + 1;
            let end = end + usize::from(text[end..].starts_with(','));
            text.replace_range(start..end, "");
        }
    }
    text.replace(",}", "}")
}

/// Requests in order; those that begin with `~` are about streams that go on: so many lines of them are read.
const REQUESTS: &[(&str, &str)] = &[
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","unknown":{"a":[1]},"range_end":null}"#),
    (
        "/v3/kv/range",
        r#"{"key":"Zg==","rangeEnd":"AA==","limit":1,"revision":"2","sortOrder":"DESCEND","sort_target":3}"#,
    ),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","countOnly":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","keys_only":true,"serializable":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"NOPE"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9","limit":"x"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"x"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1.5}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"1e2"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1e2}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":""}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"99999999999999999999"}"#),
    ("/v3/kv/range", r#"{"key":"!!!"}"#),
    ("/v3/kv/range", r#"{"key":"Zm-_"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9vYg"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9vYg=="}"#),
    ("/v3/kv/range", r#"{"key":5}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","serializable":"true"}"#),
    ("/v3/kv/range", "[]"),
    ("/v3/kv/range", "x"),
    ("/v3/kv/range", "{"),
    ("/v3/kv/range", r#"{"key":"Zm9v"} junk"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","key":"Zm9w"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
    ("/v3/kv/range", "{}"),
    ("/v3/kv/range", "null"),
    ("/v3/kv/range", r#""x""#),
    ("/v3/kv/range?limit=1", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/range/", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/nothing", "{}"),
    ("/v3/nothing", "{}"),
    ("/nothing", "{}"),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"CREATE","createRevision":"0","key":"dA==","result":"EQUAL"}],"success":[{"requestPut":{"key":"dA==","value":"MQ=="}}],"failure":[{"request_range":{"key":"dA=="}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"CREATE","create_revision":"0","key":"dA=="}],"success":[{"requestPut":{"key":"dA==","value":"MQ=="}}],"failure":[{"request_range":{"key":"dA=="}},{"request_delete_range":{"key":"dA==","prev_kv":true}},{"request_txn":{}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"VERSION","result":"GREATER","version":0,"key":"Zm9v"},{"target":"MOD","result":"NOT_EQUAL","mod_revision":77,"key":"Zm9v"}],"success":[{"requestPut":{"key":"dA==","value":"MQ=="}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"VALUE","value":"YmF6","key":"Zm9v"}],"success":[{"request_range":{"key":"Zm9v"}}]}"#,
    ),
    ("/v3/kv/txn", r#"{"success":[{}]}"#),
    ("/v3/kv/txn", r#"{"success":[null]}"#),
    ("/v3/kv/txn", r#"{"success":null}"#),
    ("/v3/kv/txn", r#"{"success":{}}"#),
    ("/v3/kv/txn", r#"{"success":[{"requestPut":null}]}"#),
    ("/v3/kv/txn", r#"{"success":[{"requestPut":{"key":"dA=="}},{"requestPut":{"key":"dA=="}}]}"#),
    ("/v3/kv/deleterange", r#"{"key":"bm9uZQ=="}"#),
    ("/v3/lease/grant", r#"{"TTL":5000,"ID":7}"#),
    ("/v3/lease/grant", r#"{"TTL":5000,"ID":"7"}"#),
    ("/v3/lease/grant", r#"{"TTL":"5000","ID":8}"#),
    ("/v3/lease/grant", r#"{"TTL":"9000000001","ID":9}"#),
    ("/v3/kv/put", r#"{"key":"bA==","value":"MQ==","lease":7}"#),
    ("/v3/kv/put", r#"{"key":"bA==","value":"MQ==","lease":777}"#),
    ("/v3/lease/timetolive", r#"{"ID":7,"keys":true}"#),
    ("/v3/kv/lease/timetolive", r#"{"ID":7}"#),
    ("/v3/lease/timetolive", r#"{"ID":777,"keys":true}"#),
    ("/v3/lease/keepalive", r#"{"ID":7}"#),
    ("/v3/lease/keepalive", "{\"ID\":7}{\"ID\":8}\n{\"ID\":777}"),
    ("/v3/lease/keepalive", "x"),
    ("/v3/lease/keepalive", r#"{"ID":"x"}"#),
    ("/v3/lease/keepalive", r#"{"ID":7} x"#),
    ("/v3/lease/revoke", r#"{"ID":7}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/leases", "{}"),
    ("/v3/kv/lease/revoke", r#"{"ID":8}"#),
    ("/v3/lease/revoke", r#"{"ID":777}"#),
    ("~2 /v3/watch", r#"{"create_request":{"key":"dA==","start_revision":1}}"#),
    (
        "~2 /v3/watch",
        r#"{"createRequest":{"key":"dA==","start_revision":1,"filters":["NOPUT"],"prevKv":true}}"#,
    ),
    ("~2 /v3/watch", r#"{"create_request":{"key":"Zm9v","watch_id":5}}{"cancel_request":{"watch_id":5}}"#),
    ("~2 /v3/watch", r#"{"create_request":{"key":"Zm9v"}}{"progress_request":{}}"#),
    (
        "~2 /v3/watch",
        r#"{"create_request":{"key":"Zm9v"}}{"create_request":{"key":"Yg==","range_end":"YQ=="}}"#,
    ),
    ("/v3/watch", "x"),
    ("/v3/lock/lock", r#"{"name":"bg==","lease":"777"}"#),
    ("/v3/lease/grant", r#"{"TTL":5000,"ID":10}"#),
    ("/v3/lock/lock", r#"{"name":"bg==","lease":"10"}"#),
    ("/v3/lock/unlock", r#"{"key":"bi9h"}"#),
    ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    ("/v3/election/campaign", r#"{"name":"ZQ==","value":"dg==","lease":10}"#),
    ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    (
        "/v3/election/proclaim",
        r#"{"leader":{"name":"ZQ==","key":"ZS9h","rev":"1","lease":"10"},"value":"dw=="}"#,
    ),
    ("/v3/election/proclaim", "{}"),
    ("~1 /v3/election/observe", r#"{"name":"ZQ=="}"#),
    ("/v3/election/resign", "{}"),
    ("/v3/lease/revoke", r#"{"ID":10}"#),
    ("/v3/maintenance/alarm", "{}"),
    ("/v3/maintenance/alarm", r#"{"action":"GET","memberID":"0","alarm":"NONE"}"#),
    ("/v3/maintenance/transfer-leadership", "{}"),
    ("/v3/auth/authenticate", r#"{"name":"a","password":"b"}"#),
    ("/v3/kv/compaction", r#"{"revision":"3"}"#),
    ("/v3/kv/compaction", r#"{"revision":"3"}"#),
    ("/v3/kv/compaction", r#"{"revision":"3000"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":1}"#),
];

/// Lines of a stream that goes on.
fn lines(address: SocketAddr, path: &str, body: &str, count: usize) -> String {
    let url = format!("http://{address}{path}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--no-buffer", "--max-time", "20", "--data", body, &url]);
    Running(command.stdout(Stdio::piped()).spawn().unwrap()).lines(count).join("\n")
}

fn ask(address: SocketAddr, path: &str, body: &str) -> String {
    let Some((count, path)) = path.strip_prefix('~').and_then(|rest| rest.split_once(' ')) else {
        return alike(&curl(address, path, Some(body), &[]));
    };
    let mut told: Vec<String> =
        lines(address, path, body, count.parse().unwrap()).lines().map(alike).collect();
    // The answer about progress and the one about past events may come in either order.
    told.sort();
    told.join("\n")
}

/// Waits until somebody answers there.
fn until_up(address: SocketAddr) {
    let until = Instant::now() + support::PATIENCE;
    while !curl(address, "/health", None, &[]).contains("\"true\"") {
        assert!(Instant::now() < until, "nobody answers at {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What clients should not ask, and what lies at the edges: a path and a body on each line, in order. A later etcd may be asked more: 3.5.1 ends when it is
/// asked to sort by a target that it does not have.
const ODD: &str = include_str!("odd_requests.txt");

/// Has a real etcd and Quorate tell the same story: it gets the addresses of both.
async fn beside_etcd(story: impl FnOnce(SocketAddr, SocketAddr) + Send + 'static) {
    let server = Server::start().await;
    let address = server.address;
    let told = tokio::task::spawn_blocking(move || {
        let etcd = Etcd::start();
        until_up(etcd.address);
        story(etcd.address, address);
    });
    told.await.unwrap();
    server.stop().await;
}

/// Asks both, in order; panics with all that differ.
fn compare<'a>(etcd: SocketAddr, ours: SocketAddr, requests: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut differ = Vec::new();
    for (path, body) in requests {
        let (wanted, found) = (ask(etcd, path, body), ask(ours, path, body));
        if wanted != found {
            differ.push(format!("{path} {body}\n  etcd    {wanted}\n  Quorate {found}\n"));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.concat());
}

#[tokio::test]
async fn etcd_and_quorate_answer_odd_requests_alike() {
    let requests = ODD.lines().map(|line| line.split_once(' ').unwrap());
    beside_etcd(|etcd, ours| compare(etcd, ours, requests)).await;
}

#[tokio::test]
async fn etcd_and_quorate_answer_the_same_json() {
    beside_etcd(|etcd, address| {
        compare(etcd, address, REQUESTS.iter().copied());
        for (path, more) in [
            ("/health", &[][..]),
            ("/health?serializable=true&exclude=NOSPACE", &[]),
            ("/health", &["--request", "POST"]),
            ("/v3/kv/range", &[]),
            ("/v3/kv/range", &["--request", "POST"]),
            ("/v3/kv/range", &["--request", "PUT"]),
            ("/nothing", &[]),
        ] {
            let (wanted, found) = (curl(etcd, path, None, more), curl(address, path, None, more));
            assert_eq!(found, wanted, "{path} {more:?}");
        }
        let body = Some(r#"{"key":"Zm9v"}"#);
        for token in ["Authorization: nope", "Grpc-Metadata-Token: nope"] {
            let of = |address| curl(address, "/v3/kv/range", body, &["--header", token]);
            assert_eq!(of(address), of(etcd), "{token}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_takes_more_requests_as_its_body_goes_on_and_ends_with_its_client() {
    let server = Server::start().await;
    let address = server.address;
    let done = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, BufReader, Write};
        let url = format!("http://{address}/v3/watch");
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--no-progress-meter", "-T", ".", &url]);
        let command = command.args(["--request", "POST"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        let _running = Running(child);
        stdin.write_all(br#"{"create_request":{"key":"YQ==","watch_id":1}}{"create_"#).unwrap();
        assert!(told.next().unwrap().unwrap().contains(r#""watch_id":"1","created":true"#));
        stdin.write_all(br#"request":{"key":"Yg==","watch_id":2}}"#).unwrap();
        assert!(told.next().unwrap().unwrap().contains(r#""watch_id":"2","created":true"#));
        curl(address, "/v3/kv/put", Some(r#"{"key":"Yg=="}"#), &[]);
        let event = told.next().unwrap().unwrap();
        assert!(event.contains(r#""watch_id":"2","events":[{"kv":{"key":"Yg==""#), "{event}");
    });
    done.await.unwrap();
    canceled(address, 1).await;
    // One that has said everything, and is told nothing.
    let asked = r#"{"create_request":{"key":"YQ=="}}"#;
    tokio::task::spawn_blocking(move || lines(address, "/v3/watch", asked, 1)).await.unwrap();
    canceled(address, 2).await;
    server.stop().await;
}

/// Waits until so many watches were given up by their clients.
async fn canceled(address: SocketAddr, count: u32) {
    let until = Instant::now() + support::PATIENCE;
    let labels = "grpc_code=\"Canceled\",grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"";
    let wanted = format!("grpc_server_handled_total{{{labels}}} {count}\n");
    loop {
        let told = tokio::task::spawn_blocking(move || curl(address, "/metrics", None, &[])).await.unwrap();
        if told.contains(&wanted) {
            return;
        }
        assert!(Instant::now() < until, "the watch goes on without its client: {told}");
    }
}

#[tokio::test]
async fn probes_tell_how_the_node_is() {
    let server = Server::start().await;
    let address = server.address;
    tokio::task::spawn_blocking(move || {
        let get = |path: &str| curl(address, path, None, &[]);
        let text = "[200 text/plain; charset=utf-8]";
        assert_eq!(
            get("/version"),
            r#"{"etcdserver":"3.5.17","etcdcluster":"3.5.0"} [200 application/json]"#
        );
        assert_eq!(get("/livez"), format!("ok\n {text}"));
        assert_eq!(get("/livez?verbose"), format!("[+]serializable_read ok\nok\n {text}"));
        assert_eq!(
            get("/readyz?verbose"),
            format!("[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n {text}")
        );
        assert_eq!(
            get("/readyz?verbose&exclude=linearizable_read&exclude=nothing"),
            format!("[+]data_corruption ok\n[+]serializable_read ok\nok\n {text}")
        );
        assert_eq!(get("/readyz/linearizable_read"), format!("ok\n {text}"));
        assert!(get("/readyz/nothing").starts_with("404 page not found\n"));
        curl(address, "/v3/kv/put", Some(r#"{"key":"YQ=="}"#), &[]);
        curl(address, "/v3/kv/put", Some("{}"), &[]);
        let metrics = get("/metrics");
        // The key, and the server's own note that its keyspace is not to be flushed.
        for line in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_leader_changes_seen_total 1",
            "etcd_debugging_mvcc_keys_total 2",
            "etcd_debugging_mvcc_current_revision 2",
            "etcd_server_version{server_version=\"3.5.17\"} 1",
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
            "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
            "etcd_server_health_success 5",
            "quorate_revision 2",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
        }
        assert!(metrics.contains("\netcd_disk_wal_fsync_duration_seconds_bucket{le="));
    })
    .await
    .unwrap();
    server.stop().await;
}

/// One secret, of one operator.
struct Operator;

impl quorate_etcd::Door for Operator {
    fn principal(&self, secret: &str) -> Option<quorate_types::Principal> {
        (secret == "open-sesame").then(|| "operator".into())
    }
}

#[tokio::test]
async fn a_closed_door_asks_for_a_token_but_not_to_tell_its_health() {
    let config = quorate_etcd::Config { door: Some(std::sync::Arc::new(Operator)), ..Default::default() };
    let server = Server::with(config).await;
    let address = server.address;
    tokio::task::spawn_blocking(move || {
        let body = Some(r#"{"key":"Zm9v"}"#);
        let with = |path: &str, body, token: &str| {
            curl(address, path, body, &["--header", &format!("Authorization: {token}")])
        };
        let refused = |code, status, text| {
            format!(
                r#"{{"error":"etcdserver: {text}","code":{code},"message":"etcdserver: {text}"}} [{status} application/json]"#
            )
        };
        let stranger = curl(address, "/v3/kv/range", body, &[]);
        assert_eq!(stranger, refused(3, 400, "user name is empty"));
        assert_eq!(with("/v3/kv/range", body, "nope"), refused(16, 401, "invalid auth token"));
        assert!(with("/v3/kv/range", body, "open-sesame").ends_with("[200 application/json]"));
        assert!(with("/v3/kv/range", body, "Bearer open-sesame").ends_with("[200 application/json]"));
        for path in ["/version", "/health", "/livez", "/readyz"] {
            assert!(curl(address, path, None, &[]).contains("[200 "), "{path}");
        }
        assert!(curl(address, "/metrics", None, &[]).ends_with("[401 text/plain; charset=utf-8]"));
        assert!(with("/metrics", None, "nope").ends_with("[401 text/plain; charset=utf-8]"));
        assert!(with("/metrics", None, "open-sesame").contains("etcd_server_has_leader 1"));
    })
    .await
    .unwrap();
    server.stop().await;
}
