//! The client against a real server, with a proxy in between that cuts connections where it hurts.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use quorate_client::{Client, ClientError, Commit, Consistency, Expect, Options, SessionState, Taken};
use quorate_http::{Config, serve};
use quorate_runtime::Quorate;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    data: Option<Quorate>,
    _folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = Quorate::open(folder.path(), quorate_runtime::Config::default(), |_, _| {}).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = data.handle();
        let task = tokio::spawn(async move {
            serve(listener, handle, config, async move {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        });
        Self { address, stop: Some(stop), task, data: Some(data), _folder: folder }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self) -> Client {
        Client::new([self.url()]).unwrap()
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
        let data = self.data.take().unwrap();
        tokio::task::spawn_blocking(move || data.close()).await.unwrap();
    }
}

/// Passes bytes on, but cuts the first `cuts` connections after `bytes` of the server's answer: the rest is lost.
async fn proxy(server: SocketAddr, cuts: usize, bytes: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut inner, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut outer = TcpStream::connect(server).await.unwrap();
                if number >= cuts {
                    let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                    return;
                }
                let (mut from_client, mut to_client) = inner.split();
                let (mut from_server, mut to_server) = outer.split();
                let answer = async {
                    // The first byte of the answer: the request has taken effect.
                    let first = [from_server.read_u8().await?];
                    let mut some = first.chain(from_server).take(bytes);
                    tokio::io::copy(&mut some, &mut to_client).await
                };
                tokio::select! {
                    biased;
                    _ = answer => {}
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    (address, accepted)
}

/// Answers every request on every connection with these bytes, and counts the connections.
async fn stub(answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut read = Vec::new();
            let mut byte = [0; 1];
            while !read.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                read.push(byte[0]);
            }
            // The whole request, so that closing does not reset the connection under the answer.
            let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            if stream.read_exact(&mut body).await.is_ok() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (address, accepted)
}

fn impatient() -> Options {
    Options {
        patience: Duration::from_millis(300),
        try_timeout: Duration::from_millis(200),
        ..Options::default()
    }
}

#[tokio::test]
async fn keys_are_written_read_and_guarded() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(client.get("a/b c").await, Ok(None));
    let first = client.put_if("a/b c", "one", Expect::Absent).await.unwrap();
    let second = client.put_if("a/b c", &b"\xff"[..], Expect::ModRevision(first)).await.unwrap();
    let lost = client.put_if("a/b c", "three", Expect::ModRevision(first)).await.unwrap_err();
    assert_eq!(lost.code(), Some("precondition_failed"));
    assert!(!lost.may_have_happened());
    let found = client.get("a/b c").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.version, found.mod_revision), (&b"\xff"[..], 2, second));
    assert_eq!(client.get_at("a/b c", first).await.unwrap().unwrap().value, "one");
    assert_eq!(client.delete("a/b c").await, Ok(true));
    assert_eq!(client.delete("a/b c").await, Ok(false));
    server.stop().await;
}

#[tokio::test]
async fn a_range_is_read_whole_at_one_revision() {
    let server = Server::with(Config { range_keys_max: 3, ..Config::default() }).await;
    let client = server.client();
    let mut commit = Commit::new();
    for n in 0..10 {
        commit = commit.put(format!("k/{n}"), format!("{n}"));
    }
    client.commit(commit.put("z", "")).await.unwrap();
    let found = client.range("k/").await.unwrap();
    let keys: Vec<String> = found.iter().map(|key| String::from_utf8(key.key.clone()).unwrap()).collect();
    assert_eq!(keys, (0..10).map(|n| format!("k/{n}")).collect::<Vec<_>>());
    assert!(found.iter().all(|key| key.key.ends_with(&key.value)));
    assert_eq!(client.range("").await.unwrap().len(), 11);
    server.stop().await;
}

#[tokio::test]
async fn a_commit_whose_answers_are_lost_has_exactly_one_effect() {
    let server = Server::start().await;
    let (between, accepted) = proxy(server.address, 2, 0).await;
    let client = Client::new([format!("http://{between}")]).unwrap();
    let commit = Commit::new().increment("n", 1).append("s", None, "x");
    let committed = client.commit(commit).await.unwrap();
    assert!(committed.replayed, "the first try had taken effect");
    assert_eq!(accepted.load(Ordering::SeqCst), 3, "two answers were lost, the third came through");
    let direct = server.client();
    assert_eq!(direct.get("n").await.unwrap().unwrap().value, "1");
    assert_eq!(direct.read("s", 0, 0, Duration::ZERO).await.unwrap().records.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_indeterminate_and_can_be_resolved() {
    let server = Server::start().await;
    let (between, _) = proxy(server.address, usize::MAX, 0).await;
    let client = Client::with([format!("http://{between}")], impatient()).unwrap();
    let error = client.commit(Commit::new().key("pay-1").put("k", "v")).await.unwrap_err();
    assert!(error.may_have_happened());
    assert!(matches!(&error, ClientError::Indeterminate { key, .. } if key == "pay-1"), "{error}");
    let direct = server.client();
    let committed = direct.resolve("pay-1").await.unwrap().expect("it had taken effect");
    assert_eq!(direct.get("k").await.unwrap().unwrap().mod_revision, committed.revision);
    assert_eq!(direct.resolve("pay-2").await, Ok(None));
    let late = direct.commit(Commit::new().key("pay-2").put("k", "late")).await.unwrap_err();
    assert_eq!(late.code(), Some("idempotency_cancelled"));
    server.stop().await;
}

#[tokio::test]
async fn what_was_never_sent_did_not_happen() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::with([format!("http://{closed}")], impatient()).unwrap();
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(!error.may_have_happened());
    let server = Server::start().await;
    let both = Client::with([format!("http://{closed}"), server.url()], Options::default()).unwrap();
    both.put("k", "v").await.expect("the second server answers");
    server.stop().await;
}

#[tokio::test]
async fn a_redirect_to_the_leader_is_followed_and_remembered() {
    let server = Server::start().await;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nquorate-leader: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        server.url()
    );
    let (follower, accepted) = stub(redirect).await;
    let client = Client::new([format!("http://{follower}")]).unwrap();
    client.put("a", "1").await.unwrap();
    client.put("b", "2").await.unwrap();
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "the second request went to the leader at once");
    assert_eq!(server.client().range("").await.unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_another_is_tried() {
    let server = Server::start().await;
    let body =
        r#"{"error":"overloaded","detail":"busy","took_effect":"no","retry":"after","retry_after_ms":10}"#;
    let busy = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let (overloaded, accepted) = stub(busy).await;
    let alone = Client::with([format!("http://{overloaded}")], impatient()).unwrap();
    let error = alone.put("k", "v").await.unwrap_err();
    assert!(!error.may_have_happened(), "{error}");
    assert!(accepted.load(Ordering::SeqCst) > 2, "it was asked again");
    let both = Client::new([format!("http://{overloaded}"), server.url()]).unwrap();
    both.put("k", "v").await.expect("the other server answers");
    server.stop().await;
}

#[tokio::test]
async fn a_session_outlives_its_time_to_live_while_it_is_kept() {
    let server = Server::start().await;
    let client = server.client();
    let ttl = Duration::from_secs(1);
    let session = client.session(ttl).await.unwrap();
    let first = session.held_until();
    // Held for longer than it would have been without a renewal.
    let renewed = async {
        while tokio::time::Instant::now() < first + ttl / 2 {
            tokio::time::sleep(ttl / 50).await;
        }
    };
    tokio::select! {
        () = renewed => {}
        state = session.not_held() => panic!("it was kept: {state:?}"),
    }
    assert_eq!(session.state(), SessionState::Held);
    session.close().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_session_is_lost_and_its_lock_is_fenced() {
    let server = Server::start().await;
    let client = server.client();
    let session = client.session(Duration::from_millis(600)).await.unwrap();
    let lock = session.lock("l", Duration::ZERO).await.unwrap();
    assert!(lock.is_held());
    client.commit(Commit::new().guard(lock.fence()).put("k", "held")).await.unwrap();
    client.commit(Commit::new().op(json!({"revoke": {"lease": session.lease()}}))).await.unwrap();
    let state = tokio::time::timeout(PATIENCE, lock.not_held()).await.unwrap();
    assert_eq!(state, SessionState::Lost);
    let error = client.commit(Commit::new().guard(lock.fence()).put("k", "late")).await.unwrap_err();
    assert_eq!(error.code(), Some("guard_failed"));
    assert_eq!(lock.release().await.unwrap_err().code(), Some("not_holder"));
    session.close().await.expect("a session that has ended is closed");
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_cannot_reach_its_server_is_uncertain() {
    let server = Server::start().await;
    let client = Client::with([server.url()], impatient()).unwrap();
    let session = client.session(Duration::from_millis(400)).await.unwrap();
    let until = session.held_until();
    server.stop().await;
    let state = tokio::time::timeout(PATIENCE, session.not_held()).await.unwrap();
    assert_eq!(state, SessionState::Uncertain);
    assert!(tokio::time::Instant::now() >= until, "it was held for as long as that was certain");
}

#[tokio::test]
async fn a_lock_is_handed_over_when_it_is_released_or_dropped() {
    let server = Server::start().await;
    let (ann, bob) = (server.client(), server.client());
    let ann = ann.session(Duration::from_secs(30)).await.unwrap();
    let bob = bob.session(Duration::from_secs(30)).await.unwrap();
    let first = ann.lock("orders/42", Duration::ZERO).await.unwrap();
    assert_eq!(bob.lock("orders/42", Duration::ZERO).await.err().unwrap().code(), Some("lock_held"));
    let (second, released) = tokio::join!(bob.lock("orders/42", PATIENCE), async {
        let token = first.token();
        first.release().await.map(|()| token)
    });
    let second = second.unwrap();
    assert!(second.token() > released.unwrap());
    drop(second);
    let third = ann.lock("orders/42", PATIENCE).await.unwrap();
    third.release().await.unwrap();
    let leader = bob.campaign("e", "bob", Duration::ZERO).await.unwrap();
    leader.release().await.unwrap();
    ann.close().await.unwrap();
    bob.close().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_after_its_connection_was_cut() {
    let server = Server::start().await;
    let client = server.client();
    // Two connections are cut in the middle of some event, the third lives.
    let (between, accepted) = proxy(server.address, 2, 600).await;
    let mut watch = Client::new([format!("http://{between}")]).unwrap().watch("a/", None);
    watch.open().await.unwrap();
    for n in 0..5 {
        client
            .commit(Commit::new().put(format!("a/{n}"), format!("{n}")).put("b", "elsewhere"))
            .await
            .unwrap();
    }
    client.delete("a/0").await.unwrap();
    for n in 0..5 {
        let change = watch.next().await.unwrap();
        assert_eq!((change.key, change.value), (format!("a/{n}").into_bytes(), Some(format!("{n}").into())));
    }
    assert_eq!(watch.next().await.unwrap().value, None);
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
    let mut from_start = client.watch("a/", Some(1));
    assert_eq!(from_start.next().await.unwrap().key, b"a/0");
    server.stop().await;
}

#[tokio::test]
async fn streams_and_limits_are_used_by_their_methods() {
    let server = Server::start().await;
    let client = server.client();
    let first = client.append("s", Some("k"), "one").await.unwrap();
    assert_eq!((first.partition, first.offset), (0, 0));
    let page = client.read("s", 0, 0, Duration::ZERO).await.unwrap();
    assert_eq!((page.next, &page.records[0]["value"]), (1, &json!("one")));
    let idle = client.read("s", 0, 1, Duration::from_millis(20)).await.unwrap();
    assert_eq!((idle.next, idle.records.len()), (1, 0));
    assert_eq!(client.take("api", "1/h", 1).await, Ok(Taken::Yes { remaining: 0 }));
    let Ok(Taken::No { retry_after: Some(after) }) = client.take("api", "1/h", 1).await else {
        panic!("nothing is left");
    };
    assert!(after > Duration::from_secs(3000));
    assert_eq!(client.take("api", "1/h", 2).await, Ok(Taken::No { retry_after: None }));
    server.stop().await;
}

/// An answer to a write, as a follower gives it that knows this leader.
fn led_by(leader: &str) -> String {
    let body = "{\"revision\":1}";
    format!(
        "HTTP/1.1 200 OK\r\nquorate-revision: 1\r\nquorate-version: 1\r\nquorate-create-revision: 1\r\nquorate-mod-revision: 1\r\nquorate-leader: {leader}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Accepts connections and closes them at once, counting them.
async fn closed() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn the_leader_that_an_answer_names_gets_the_next_request() {
    let leader = Server::start().await;
    let (follower, accepted) = stub(led_by(&leader.url())).await;
    let client = Client::new([format!("http://{follower}")]).unwrap();
    assert_eq!(client.put("k", "at the follower").await, Ok(1));
    client.put("k", "at the leader").await.unwrap();
    assert_eq!(leader.client().get("k").await.unwrap().unwrap().value, "at the leader");
    client.put("k", "still at the leader").await.unwrap();
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    leader.stop().await;
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_left_alone_for_a_while() {
    let (leader, tried) = closed().await;
    let (follower, accepted) = stub(led_by(&format!("http://{leader}"))).await;
    let client = Client::new([format!("http://{follower}")]).unwrap();
    for n in 1..=4 {
        assert_eq!(client.put("k", "v").await, Ok(1));
        assert_eq!(accepted.load(Ordering::SeqCst), n);
    }
    assert_eq!(tried.load(Ordering::SeqCst), 1, "its address does not work here");
}

#[tokio::test]
async fn a_write_that_one_node_loses_or_refuses_is_done_once_at_another() {
    let server = Server::start().await;
    let busy = r#"{"type":"urn:quorate:problem:leaderless","title":"Leaderless","status":503,"detail":"no leader","error":"leaderless","took_effect":"no","retry":"same"}"#;
    let refusal = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{busy}",
        busy.len()
    );
    let (leaderless, _) = stub(refusal).await;
    // The answer of the first try is lost on the way, so the write has happened when it is sent again.
    let (lossy, lost) = proxy(server.address, 1, 10).await;
    let urls = [format!("http://{leaderless}"), format!("http://{lossy}"), server.url()];
    let client = Client::new(urls).unwrap();
    let done = client.commit(Commit::new().append("s", None, "once")).await.unwrap();
    assert!(done.replayed, "{done:?}");
    assert_eq!(lost.load(Ordering::SeqCst), 1);
    assert_eq!(client.read("s", 0, 0, Duration::ZERO).await.unwrap().records.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn reads_that_may_be_stale_stay_with_the_node_that_answers() {
    let leader = Server::start().await;
    let (follower, accepted) = stub(led_by(&leader.url())).await;
    let client = Client::new([format!("http://{follower}")]).unwrap();
    for consistency in [Consistency::Stale, Consistency::Bounded(Duration::from_millis(500))] {
        let reader = client.reading(consistency);
        for _ in 0..2 {
            assert!(reader.get("k").await.unwrap().is_some(), "the follower has it");
        }
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
    client.put("j", "v").await.unwrap();
    assert_eq!(client.get("k").await, Ok(None), "the leader has nothing");
    let real = leader.client().reading(Consistency::Bounded(Duration::from_millis(500)));
    real.put("k", "v").await.unwrap();
    assert_eq!(real.get("k").await.unwrap().unwrap().value, "v");
    assert_eq!(real.get_at("k", 1).await.unwrap().unwrap().value, "v");
    assert_eq!(real.range("").await.unwrap().len(), 1);
    leader.stop().await;
}
