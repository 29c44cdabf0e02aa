//! The gateway as a client sees it: every service over a real runtime.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Asked;
use pb::watch_request::RequestUnion;
use quorate_etcd::Config;
use quorate_etcd::protocol::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use quorate_types::{Blob, Command, Commit, Key, Keyspace, Op, Outcome, Reply};
use std::time::{Duration, Instant};
use support::{Server, bytes, end_of, prefix_range, prefix_watch, refused, text};
use tonic::Code;

fn put(key: &str, value: &str) -> pb::RequestOp {
    let put = pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
    pb::RequestOp { request: Some(Asked::RequestPut(put)) }
}
fn get(key: &str) -> pb::RequestOp {
    let range = pb::RangeRequest { key: bytes(key), ..Default::default() };
    pb::RequestOp { request: Some(Asked::RequestRange(range)) }
}
fn inner(txn: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Asked::RequestTxn(txn)) }
}
fn version_is(key: &str, wanted: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: bytes(key),
        target_union: Some(TargetUnion::Version(wanted)),
        range_end: bytes(""),
    }
}

async fn redis(server: &Server, words: &[&str]) -> Reply {
    let words: Vec<Blob> = words.iter().map(|word| Blob::from(*word)).collect();
    let call = Op::Call { space: Keyspace::DEFAULT, words, record: None };
    match server.data.handle().command(Command::commit(Commit::of(vec![call]))).await.unwrap() {
        Outcome::Committed { mut committed } => match committed.results.pop() {
            Some(quorate_types::OpResult::Reply { reply }) => reply,
            other => panic!("{other:?}"),
        },
        Outcome::Refused { refusal } => Reply::error(refusal.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn revisions_begin_at_one_and_count_changes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let empty = client.kv.range(prefix_range("a")).await.unwrap().into_inner();
    let header = empty.header.unwrap();
    assert_eq!((header.revision, empty.count), (1, 0));
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
    assert_eq!(client.put("a", "1").await, 2);
    assert_eq!(client.put("a", "2").await, 3);
    assert_eq!(client.delete("none").await, 3);
    assert_eq!(client.delete("a").await, 4);
    server.stop().await;
}

#[tokio::test]
async fn a_range_is_chosen_sorted_cut_and_counted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (key, value) in [("k/a", "3"), ("k/b", "1"), ("k/c", "2"), ("k/a", "4")] {
        client.put(key, value).await;
    }
    let mut read = async |change: fn(&mut pb::RangeRequest)| {
        let mut asked = prefix_range("k/");
        change(&mut asked);
        let found = client.kv.range(asked).await.unwrap().into_inner();
        let keys: Vec<String> =
            found.kvs.iter().map(|kv| text(&kv.key)[2..].to_owned() + &text(&kv.value)).collect();
        (keys.join(" "), found.more, found.count)
    };
    let told = |keys: &str, more, count| (keys.to_owned(), more, count);
    assert_eq!(read(|_| {}).await, told("a4 b1 c2", false, 3));
    assert_eq!(read(|r| r.limit = 2).await, told("a4 b1", true, 3));
    assert_eq!(read(|r| r.count_only = true).await, told("", false, 3));
    assert_eq!(read(|r| r.keys_only = true).await, told("a b c", false, 3));
    assert_eq!(read(|r| (r.sort_order, r.sort_target) = (2, 4)).await, told("a4 c2 b1", false, 3));
    assert_eq!(read(|r| (r.sort_order, r.sort_target, r.limit) = (2, 2, 1)).await, told("c2", true, 3));
    assert_eq!(read(|r| (r.sort_order, r.sort_target) = (1, 3)).await, told("b1 c2 a4", false, 3));
    assert_eq!(read(|r| r.min_mod_revision = 4).await, told("a4 c2", false, 3));
    assert_eq!(read(|r| r.max_create_revision = 2).await, told("a4", false, 3));
    assert_eq!(read(|r| r.revision = 3).await, told("a3 b1", false, 2));
    assert_eq!(read(|r| (r.key, r.range_end) = (bytes("\0"), bytes("\0"))).await, told("a4 b1 c2", false, 3));
    server.stop().await;
}

#[tokio::test]
async fn a_long_range_is_read_in_slices_of_one_revision() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for chunk in 0..50 {
        let ops = (0..100).map(|at| put(&format!("many/{:05}", chunk * 100 + at), "v")).collect();
        client.kv.txn(pb::TxnRequest { success: ops, ..Default::default() }).await.unwrap();
    }
    let whole = client.kv.range(prefix_range("many/")).await.unwrap().into_inner();
    assert_eq!((whole.kvs.len(), whole.count), (5000, 5000));
    let page = pb::RangeRequest { limit: 10, ..prefix_range("many/") };
    let page = client.kv.range(page).await.unwrap().into_inner();
    assert_eq!((page.kvs.len(), page.count, page.more), (10, 5000, true));
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_decides_all_its_branches_before_its_first_operation() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // The inner comparison sees the state before the outer put.
    let within = pb::TxnRequest {
        compare: vec![version_is("a", 0)],
        success: vec![put("b", "absent")],
        failure: vec![put("b", "there")],
    };
    let txn = pb::TxnRequest {
        compare: vec![version_is("a", 0)],
        success: vec![put("a", "1"), inner(within), get("a")],
        failure: vec![],
    };
    let answer = client.kv.txn(txn.clone()).await.unwrap().into_inner();
    assert!(answer.succeeded);
    assert_eq!(answer.header.unwrap().revision, 2, "one revision for all of it");
    assert_eq!(client.values("b").await, ["absent"]);
    let answer = client.kv.txn(txn).await.unwrap().into_inner();
    assert!(!answer.succeeded && answer.responses.is_empty());
    assert_eq!(answer.header.unwrap().revision, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let gone = pb::PutRequest { key: bytes("b"), lease: 77, ..Default::default() };
    let gone = pb::RequestOp { request: Some(Asked::RequestPut(gone)) };
    let answer =
        client.kv.txn(pb::TxnRequest { success: vec![put("a", "1"), gone], ..Default::default() }).await;
    assert_eq!(refused(answer), (Code::NotFound, "etcdserver: requested lease not found".to_owned()));
    assert!(client.values("a").await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn errors_are_etcds_letter_by_letter() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.put("a", "1").await;
    let told = |code, text: &str| (code, format!("etcdserver: {text}"));
    let invalid = |text| told(Code::InvalidArgument, text);
    assert_eq!(refused(client.kv.put(pb::PutRequest::default()).await), invalid("key is not provided"));
    let put_of = |change: fn(&mut pb::PutRequest)| {
        let mut asked = pb::PutRequest { key: bytes("none"), ..Default::default() };
        change(&mut asked);
        asked
    };
    assert_eq!(refused(client.kv.put(put_of(|put| put.ignore_value = true)).await), invalid("key not found"));
    let both = put_of(|put| (put.ignore_value, put.value) = (true, bytes("v")));
    assert_eq!(refused(client.kv.put(both).await), invalid("value is provided"));
    let both = put_of(|put| (put.ignore_lease, put.lease) = (true, 3));
    assert_eq!(refused(client.kv.put(both).await), invalid("lease is provided"));
    let large = put_of(|put| put.value = vec![0; 1_600_000].into());
    assert_eq!(refused(client.kv.put(large).await), invalid("request is too large"));
    let future = pb::RangeRequest { key: bytes("a"), revision: 99, ..Default::default() };
    let out = |text| told(Code::OutOfRange, text);
    assert_eq!(refused(client.kv.range(future).await), out("mvcc: required revision is a future revision"));
    client.put("a", "2").await;
    client.put("a", "3").await;
    client.kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let at = |revision| pb::RangeRequest { key: bytes("a"), revision, ..Default::default() };
    assert_eq!(refused(client.kv.range(at(2)).await), out("mvcc: required revision has been compacted"));
    assert_eq!(text(&client.kv.range(at(3)).await.unwrap().into_inner().kvs[0].value), "2");
    let compact = |revision| pb::CompactionRequest { revision, physical: false };
    assert_eq!(
        refused(client.kv.compact(compact(3)).await),
        out("mvcc: required revision has been compacted")
    );
    assert_eq!(
        refused(client.kv.compact(compact(9)).await),
        out("mvcc: required revision is a future revision")
    );
    let twice = pb::TxnRequest { success: vec![put("a", "1"), put("a", "2")], ..Default::default() };
    assert_eq!(refused(client.kv.txn(twice).await), invalid("duplicate key given in txn request"));
    let many = pb::TxnRequest { success: vec![get("a"); 129], ..Default::default() };
    assert_eq!(refused(client.kv.txn(many).await), invalid("too many operations in txn request"));
    let long = pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
    assert_eq!(refused(client.lease.lease_grant(long).await), out("too large lease TTL"));
    client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await.unwrap();
    let again = client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await;
    assert_eq!(refused(again), told(Code::FailedPrecondition, "lease already exists"));
    let revoke = client.lease.lease_revoke(pb::LeaseRevokeRequest { id: 6 }).await;
    assert_eq!(refused(revoke), told(Code::NotFound, "requested lease not found"));
    server.stop().await;
}

#[tokio::test]
async fn a_lease_shows_its_keys_and_takes_them_along() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let id =
        client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner().id;
    for key in ["l/b", "l/a"] {
        let put = pb::PutRequest { key: bytes(key), lease: id, ..Default::default() };
        client.kv.put(put).await.unwrap();
    }
    let asked = pb::LeaseTimeToLiveRequest { id, keys: true };
    let found = client.lease.lease_time_to_live(asked).await.unwrap().into_inner();
    let keys: Vec<String> = found.keys.iter().map(|key| text(key)).collect();
    assert_eq!((keys.join(" "), found.granted_ttl), ("l/a l/b".to_owned(), 60));
    assert!((58..=60).contains(&found.ttl), "{found:?}");
    let listed = client.lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.leases, [pb::LeaseStatus { id }]);
    let mut watches = client.watches().await;
    watches.create(prefix_watch("l/")).await;
    let revoked = client.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap().into_inner();
    assert_eq!(revoked.header.unwrap().revision, 4);
    assert_eq!(watches.events(2).await, ["4 DELETE l/a", "4 DELETE l/b"]);
    let gone = client.lease.lease_time_to_live(asked).await.unwrap().into_inner();
    assert_eq!(gone.ttl, -1);
    let alive = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let mut alive = client.lease.lease_keep_alive(alive).await.unwrap().into_inner();
    assert_eq!(alive.message().await.unwrap().unwrap().ttl, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_not_while_it_is_kept_alive() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut ids = Vec::new();
    for key in ["kept", "lost"] {
        let id =
            client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner().id;
        client.kv.put(pb::PutRequest { key: bytes(key), lease: id, ..Default::default() }).await.unwrap();
        ids.push(id);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1600) {
        let ask = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: ids[0] }]);
        let mut alive = client.lease.lease_keep_alive(ask).await.unwrap().into_inner();
        assert_eq!(alive.message().await.unwrap().unwrap().ttl, 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut count = async |key: &str| {
        let asked = pb::RangeRequest { key: bytes(key), ..Default::default() };
        client.kv.range(asked).await.unwrap().into_inner().count
    };
    assert_eq!((count("kept").await, count("lost").await), (1, 0));
    server.stop().await;
}

#[tokio::test]
async fn watches_of_one_stream_hear_what_concerns_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.put("w/a", "0").await;
    let mut watches = client.watches().await;
    let all = pb::WatchCreateRequest { prev_kv: true, ..prefix_watch("w/") };
    assert_eq!(watches.create(all).await.watch_id, 0);
    let one = pb::WatchCreateRequest { key: bytes("w/a"), filters: vec![0], ..Default::default() };
    assert_eq!(watches.create(one).await.watch_id, 1);
    client.put("w/a", "1").await;
    assert_eq!(watches.events(1).await, ["3 PUT w/a=1 was 0"]);
    client.delete("w/a").await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        let told = watches.next().await;
        heard.push(format!("{} {}", told.watch_id, support::shown(&told.events[0])));
    }
    heard.sort();
    assert_eq!(heard, ["0 4 DELETE w/a was 1", "1 4 DELETE w/a"]);
    watches.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let told = watches.next().await;
    assert!(told.canceled && told.watch_id == 0, "{told:?}");
    client.put("w/b", "1").await;
    watches.silent().await;
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision_and_says_when_that_is_gone() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for value in ["1", "2", "3"] {
        client.put("h", value).await;
    }
    let mut watches = client.watches().await;
    let from =
        |start_revision| pb::WatchCreateRequest { key: bytes("h"), start_revision, ..Default::default() };
    watches.create(from(3)).await;
    assert_eq!(watches.events(2).await, ["3 PUT h=2", "4 PUT h=3"]);
    client.put("h", "4").await;
    assert_eq!(watches.events(1).await, ["5 PUT h=4"]);
    client.kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await.unwrap();
    watches.create(from(2)).await;
    let told = watches.next().await;
    assert_eq!((told.watch_id, told.canceled, told.compact_revision), (1, true, 4));
    // One of the future hears nothing before it.
    watches.create(from(7)).await;
    client.put("h", "5").await;
    client.put("h", "6").await;
    let mut of_last = Vec::new();
    while of_last.is_empty() {
        let told = watches.next().await;
        of_last.extend(told.events.iter().filter(|_| told.watch_id == 2).map(support::shown));
    }
    assert_eq!(of_last, ["7 PUT h=6"]);
    server.stop().await;
}

#[tokio::test]
async fn progress_is_told_when_asked_for_and_after_silence() {
    let server =
        Server::with(Config { progress_interval: Duration::from_millis(200), ..Config::default() }).await;
    let mut client = server.client().await;
    let mut watches = client.watches().await;
    watches.create(pb::WatchCreateRequest { progress_notify: true, ..prefix_watch("p/") }).await;
    client.put("other", "1").await;
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let told = watches.next().await;
    assert_eq!((told.watch_id, told.header.unwrap().revision, told.events.len()), (-1, 2, 0));
    let told = watches.next().await;
    assert_eq!((told.watch_id, told.header.unwrap().revision, told.events.len()), (0, 2, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_to_who_wants_them() {
    let server =
        Server::with(Config { request_bytes_max: 10_000, operations_max: 500, ..Config::default() }).await;
    let mut client = server.client().await;
    let lease =
        client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 9 }).await.unwrap().into_inner().id;
    for at in 0..30 {
        let key = bytes(&format!("f/{at:02}"));
        let put = pb::PutRequest { key, value: vec![b'v'; 1000].into(), lease, ..Default::default() };
        client.kv.put(put).await.unwrap();
    }
    let mut watches = client.watches().await;
    watches.create(pb::WatchCreateRequest { fragment: true, prev_kv: true, ..prefix_watch("f/") }).await;
    client.lease.lease_revoke(pb::LeaseRevokeRequest { id: lease }).await.unwrap();
    let (mut pieces, mut events) = (0, 0);
    loop {
        let told = watches.next().await;
        (pieces, events) = (pieces + 1, events + told.events.len());
        if !told.fragment {
            break;
        }
    }
    assert!(pieces >= 3 && events == 30, "{pieces} pieces, {events} events");
    server.stop().await;
}

#[tokio::test]
async fn a_slow_watcher_holds_nobody_up_and_misses_nothing() {
    let server = Server::with(Config { watch_bytes_max: 20_000, ..Config::default() }).await;
    let mut client = server.client().await;
    let (mut slow, mut quick) = (server.client().await.watches().await, client.watches().await);
    slow.create(prefix_watch("s/")).await;
    quick.create(prefix_watch("s/")).await;
    // More than the queue, the answers in hand and the windows of HTTP/2 hold.
    let value = "x".repeat(50_000);
    let mut waited = Duration::ZERO;
    for at in 0..400 {
        client.put(&format!("s/{at:03}"), &value).await;
        let began = Instant::now();
        quick.events(1).await;
        waited = waited.max(began.elapsed());
    }
    assert!(waited < Duration::from_secs(2), "the quick one waited {waited:?}");
    let mut heard = Vec::new();
    while heard.len() < 400 {
        heard.extend(slow.next().await.events.into_iter().map(|event| text(&event.kv.unwrap().key)));
    }
    let wanted: Vec<String> = (0..400).map(|at| format!("s/{at:03}")).collect();
    assert_eq!(heard, wanted);
    server.stop().await;
}

#[tokio::test]
async fn one_keyspace_is_seen_by_all_and_other_types_are_left_alone() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut watches = client.watches().await;
    watches.create(prefix_watch("x")).await;
    redis(&server, &["SET", "x1", "from redis"]).await;
    redis(&server, &["HSET", "x2", "field", "value"]).await;
    assert_eq!(watches.events(1).await, ["2 PUT x1=from redis"]);
    assert_eq!(client.values("x").await, ["from redis"]);
    let answer = client.kv.put(pb::PutRequest { key: bytes("x2"), ..Default::default() }).await;
    let (code, why) = refused(answer);
    assert!(code == Code::FailedPrecondition && why.contains("x2 is a hash"), "{code:?} {why}");
    let all = pb::DeleteRangeRequest { key: bytes("x"), range_end: end_of("x"), prev_kv: true };
    assert_eq!(client.kv.delete_range(all).await.unwrap().into_inner().deleted, 1);
    assert_eq!(redis(&server, &["HGET", "x2", "field"]).await, Reply::bulk("value"));
    // A key that becomes one of another type is gone for who sees strings only.
    assert_eq!(watches.events(1).await, ["4 DELETE x1"]);
    client.put("x3", "1").await;
    let read = server.data.handle().read(|machine| machine.get(&Key::from("x3"))).await.unwrap().unwrap();
    assert_eq!((read.mod_revision.0, &*read.value), (5, &b"1"[..]));
    let Reply::Error { text } = redis(&server, &["FLUSHALL"]).await else { panic!("FLUSHALL is refused") };
    assert!(text.to_string().contains("ERR this keyspace holds keys of etcd clients"), "{text}");
    assert_eq!(client.values("x3").await, ["1"]);
    server.stop().await;
}

#[tokio::test]
async fn a_keyspace_is_flushed_where_that_was_allowed() {
    let server = Server::with(Config { may_be_flushed: true, ..Config::default() }).await;
    let mut client = server.client().await;
    client.put("x", "1").await;
    assert_eq!(redis(&server, &["FLUSHALL"]).await, Reply::ok());
    assert!(client.values("x").await.is_empty());
    server.stop().await;
}

async fn lease_of(client: &mut support::Client, ttl: i64) -> i64 {
    client.lease.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.unwrap().into_inner().id
}

#[tokio::test]
async fn locks_of_the_server_and_of_the_recipe_are_one() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut locks = lock::lock_client::LockClient::new(client.channel.clone());
    // The recipe's own key comes first.
    let recipe = lease_of(&mut client, 60).await;
    let own = format!("job/{recipe:x}");
    client.kv.put(pb::PutRequest { key: bytes(&own), lease: recipe, ..Default::default() }).await.unwrap();
    let lease = lease_of(&mut client, 60).await;
    let (mut waiting, name) = (locks.clone(), bytes("job"));
    let mut waiter = tokio::spawn(async move { waiting.lock(lock::LockRequest { name, lease }).await });
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiter).await.is_err(), "it waits");
    // A third stands behind both.
    let third = lease_of(&mut client, 60).await;
    let (mut waiting, name) = (locks.clone(), bytes("job"));
    let mut last = tokio::spawn(async move { waiting.lock(lock::LockRequest { name, lease: third }).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.delete(&own).await;
    let held = waiter.await.unwrap().unwrap().into_inner();
    assert_eq!(text(&held.key), format!("job/{lease:x}"));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut last).await.is_err(), "it waits");
    // A session that ends gives its lock up.
    client.lease.lease_revoke(pb::LeaseRevokeRequest { id: lease }).await.unwrap();
    let held = last.await.unwrap().unwrap().into_inner();
    locks.unlock(lock::UnlockRequest { key: held.key }).await.unwrap();
    assert!(client.values("job/").await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_holder_that_stands_in_line_again_lets_the_next_one_in() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (holder, waiter) = (lease_of(&mut client, 60).await, lease_of(&mut client, 60).await);
    let ask = |lease| lock::LockRequest { name: bytes("again"), lease };
    let mut locks = lock::lock_client::LockClient::new(client.channel.clone());
    let held = locks.lock(ask(holder)).await.unwrap().into_inner();
    let waiting = tokio::spawn(async move { locks.lock(ask(waiter)).await });
    let queue = prefix_range("again/");
    let until = Instant::now() + support::PATIENCE;
    while client.kv.range(queue.clone()).await.unwrap().into_inner().count < 2 {
        assert!(Instant::now() < until, "the waiter does not stand in the queue");
        tokio::task::yield_now().await;
    }
    // Given back and asked for again in one commit: the key is never away, and yet another one.
    let key = Key::new(Blob::copy_from(&held.key));
    let delete = Op::Delete { key: key.clone(), prev: false };
    let put = Op::Put { key, value: Blob::EMPTY, lease: quorate_types::LeaseId(holder as u64), prev: false };
    let again = Commit::of(vec![delete, put]);
    server.data.handle().command(Command::commit(again)).await.unwrap();
    let granted = tokio::time::timeout(support::PATIENCE, waiting).await;
    granted.expect("the next in line waits for a key that is behind it").unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn nodes_with_the_same_history_have_the_same_checksum_at_each_revision() {
    let (one, other) = (Server::start().await, Server::start().await);
    let (mut first, mut second) = (one.client().await, other.client().await);
    async fn hash(client: &mut support::Client, revision: i64) -> Result<pb::HashKvResponse, tonic::Status> {
        let mut maintenance = pb::maintenance_client::MaintenanceClient::new(client.channel.clone());
        maintenance.hash_kv(pb::HashKvRequest { revision }).await.map(tonic::Response::into_inner)
    }
    for client in [&mut first, &mut second] {
        client.put("a", "1").await;
        client.put("b", "2").await;
        client.put("a", "3").await;
    }
    let early = hash(&mut first, 3).await.unwrap();
    assert_eq!((early.compact_revision, early.hash_revision), (-1, 3));
    assert_eq!(hash(&mut second, 3).await.unwrap().hash, early.hash);
    assert_ne!(hash(&mut first, 0).await.unwrap().hash, early.hash);
    assert_eq!(hash(&mut first, 0).await.unwrap().hash, hash(&mut first, 4).await.unwrap().hash);
    // What moves between a name and its value, or from one key to the next, is another state.
    first.put("ab", "c").await;
    second.put("a", "bc").await;
    assert_ne!(hash(&mut first, 5).await.unwrap().hash, hash(&mut second, 5).await.unwrap().hash);
    assert_eq!(hash(&mut first, 3).await.unwrap().hash, early.hash);
    assert_eq!(
        refused(hash(&mut first, 6).await).1,
        "etcdserver: mvcc: required revision is a future revision"
    );
    first.kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    assert_eq!(
        refused(hash(&mut first, 3).await).1,
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(hash(&mut first, 5).await.unwrap().compact_revision, 4);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_waiter_whose_session_ends_is_told_and_is_never_granted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut locks = lock::lock_client::LockClient::new(client.channel.clone());
    let first = lease_of(&mut client, 60).await;
    let held = locks.lock(lock::LockRequest { name: bytes("j"), lease: first }).await.unwrap().into_inner();
    let short = lease_of(&mut client, 1).await;
    let answer = locks.lock(lock::LockRequest { name: bytes("j"), lease: short }).await;
    assert_eq!(refused(answer).1, "mutex: session is expired");
    // Who holds it asks again, and has it still; a call that is given up leaves no key behind.
    let again = locks.lock(lock::LockRequest { name: bytes("j"), lease: first }).await.unwrap().into_inner();
    assert_eq!(again.key, held.key);
    let lease = lease_of(&mut client, 60).await;
    let given_up = locks.lock(lock::LockRequest { name: bytes("j"), lease });
    assert!(tokio::time::timeout(Duration::from_millis(200), given_up).await.is_err());
    let until = Instant::now() + support::PATIENCE;
    while client.values("j/").await.len() != 1 {
        assert!(Instant::now() < until, "the place of the call that was given up goes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_election_is_led_proclaimed_observed_and_resigned() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut elections = election::election_client::ElectionClient::new(client.channel.clone());
    let who = |name: &str| election::LeaderRequest { name: bytes(name) };
    assert_eq!(refused(elections.leader(who("e")).await).1, "election: no leader");
    let mut observed = elections.observe(who("e")).await.unwrap().into_inner();
    let one = lease_of(&mut client, 60).await;
    let campaign =
        |lease, value: &str| election::CampaignRequest { name: bytes("e"), lease, value: bytes(value) };
    let led = elections.campaign(campaign(one, "first")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!((text(&led.key), led.rev), (format!("e/{one:x}"), 2));
    let mut seen = async || text(&observed.message().await.unwrap().unwrap().kv.unwrap().value);
    assert_eq!(seen().await, "first");
    let proclaim = |value: &str, leader: &election::LeaderKey| election::ProclaimRequest {
        leader: Some(leader.clone()),
        value: bytes(value),
    };
    elections.proclaim(proclaim("still first", &led)).await.unwrap();
    assert_eq!(seen().await, "still first");
    let two = lease_of(&mut client, 60).await;
    let mut other = elections.clone();
    let next = tokio::spawn(async move { other.campaign(campaign(two, "second")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    elections.resign(election::ResignRequest { leader: Some(led.clone()) }).await.unwrap();
    let leads = next.await.unwrap().unwrap().into_inner().leader.unwrap();
    assert_eq!(seen().await, "second");
    assert!(leads.rev > led.rev);
    assert_eq!(refused(elections.proclaim(proclaim("ghost", &led)).await).1, "election: not leader");
    let found = elections.leader(who("e")).await.unwrap().into_inner().kv.unwrap();
    assert_eq!(text(&found.value), "second");
    server.stop().await;
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(client.channel.clone());
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.version.as_str(), status.leader, status.errors.len()), ("3.5.17", 1, 0));
    let mut cluster = pb::cluster_client::ClusterClient::new(client.channel.clone());
    let asked = pb::MemberListRequest { linearizable: true };
    let members = cluster.member_list(asked).await.unwrap().into_inner().members;
    assert_eq!(members[0].client_ur_ls, [format!("http://{}", server.address)]);
    use quorate_etcd::protocol::grpc::health::v1 as health;
    let mut check = health::health_client::HealthClient::new(client.channel.clone());
    let answer = check.check(health::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
    server.stop().await;
}
