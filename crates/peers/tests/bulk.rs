//! Bulk requests and probes beside messages.

#![allow(clippy::unwrap_used)]

use crate::common;

use bytes::Bytes;
use common::*;
use quorate_peers::{
    FETCH_ANSWER_BYTES_MAX, FETCH_REQUEST_BYTES_MAX, FETCHES_IN_FLIGHT_MAX, Host, PeersError,
};
use std::time::Duration;

#[tokio::test]
async fn a_request_is_answered_with_bytes_or_with_the_hosts_reason() {
    let (a, _b) = pair(Node::start(1), Node::start(2)).await;
    let small = a.links.fetch(2, "size 5".into(), PATIENCE).await.unwrap();
    assert!(small.len() == 5 && is_pattern(&small));
    assert!(a.links.fetch(2, "size 0".into(), PATIENCE).await.unwrap().is_empty());
    let error = a.links.fetch(2, "nonsense".into(), PATIENCE).await.unwrap_err();
    assert_eq!(error.to_string(), "node 2 refused the request: what is \"nonsense\"?");
    let error = a.links.fetch(9, "size 5".into(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, PeersError::NotAPeer { node: 9 }));
}

#[tokio::test]
async fn the_largest_answer_passes_and_a_larger_one_is_refused() {
    let (a, _b) = pair(Node::start(1), Node::start(2)).await;
    let size = format!("size {FETCH_ANSWER_BYTES_MAX}");
    let largest = a.links.fetch(2, size.into(), PATIENCE).await.unwrap();
    assert!(largest.len() == FETCH_ANSWER_BYTES_MAX && is_pattern(&largest));
    let size = format!("size {}", FETCH_ANSWER_BYTES_MAX + 1);
    let error = a.links.fetch(2, size.into(), PATIENCE).await.unwrap_err().to_string();
    assert!(error.contains("the answer has 8388609 bytes, at most 8388608"), "{error}");
    let request = Bytes::from(vec![b'x'; FETCH_REQUEST_BYTES_MAX + 1]);
    let error = a.links.fetch(2, request, PATIENCE).await.unwrap_err();
    assert!(matches!(error, PeersError::RequestTooLarge { .. }));
    let request = Bytes::from(vec![b'x'; FETCH_REQUEST_BYTES_MAX]);
    assert!(matches!(a.links.fetch(2, request, PATIENCE).await, Err(PeersError::FetchRefused { .. })));
}

#[tokio::test]
async fn more_requests_than_are_served_at_once_all_get_their_own_answer() {
    let (a, _b) = pair(Node::start(1), Node::start(2)).await;
    let links = std::sync::Arc::new(a.links);
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..10 * FETCHES_IN_FLIGHT_MAX {
        let links = links.clone();
        asked.spawn(async move { (n, links.fetch(2, format!("size {}", n * 1000).into(), PATIENCE).await) });
    }
    while let Some(done) = asked.join_next().await {
        let (n, answer) = done.unwrap();
        assert_eq!(answer.unwrap().len(), n * 1000);
    }
}

#[tokio::test]
async fn a_request_without_an_answer_times_out_and_delays_nothing_else() {
    let (a, mut b) = pair(Node::start(1), Node::start(2)).await;
    let limit = Duration::from_millis(300);
    let never = a.links.fetch(2, "never".into(), limit);
    let beside = async {
        assert_eq!(a.links.fetch(2, "size 3".into(), PATIENCE).await.unwrap().len(), 3);
        assert!(a.links.send(2, "message".into()));
        assert_eq!(b.frame().await, "message");
    };
    let (never, ()) = tokio::join!(never, beside);
    assert!(matches!(never.unwrap_err(), PeersError::FetchTimeout { node: 2, timeout } if timeout == limit));
}

#[tokio::test]
async fn messages_pass_while_large_answers_are_under_way() {
    let (a, mut b) = pair(Node::start(1), Node::start(2)).await;
    let links = std::sync::Arc::new(a.links);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..FETCHES_IN_FLIGHT_MAX {
        let links = links.clone();
        let size = format!("size {FETCH_ANSWER_BYTES_MAX}");
        asked.spawn(async move { links.fetch(2, size.into(), PATIENCE).await.unwrap().len() });
    }
    for n in 0..200u32 {
        assert!(links.send(2, n.to_le_bytes().to_vec().into()));
        assert_eq!(b.frame().await, &n.to_le_bytes()[..]);
    }
    while let Some(done) = asked.join_next().await {
        assert_eq!(done.unwrap(), FETCH_ANSWER_BYTES_MAX);
    }
}

#[tokio::test]
async fn requests_end_with_their_connection_and_the_next_one_dials_anew() {
    let (a, b) = pair(Node::start(1), Node::start(2)).await;
    let address = b.links.local_addr();
    let links = std::sync::Arc::new(a.links);
    // Both requests are sent before the second is answered, which is how we know that the first is being served.
    let pending = tokio::spawn({
        let links = links.clone();
        async move { links.fetch(2, "never".into(), PATIENCE).await }
    });
    links.fetch(2, "size 1".into(), PATIENCE).await.unwrap();
    drop(b);
    assert!(matches!(pending.await.unwrap().unwrap_err(), PeersError::FetchBroken { node: 2 }));
    let again = loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let handle = tokio::runtime::Handle::current();
    let _b = Node::start_on(&handle, again, hello(2, 999), Default::default());
    assert_eq!(links.fetch(2, "size 2".into(), PATIENCE).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_to_nobody_says_who_cannot_be_reached() {
    let a = Node::start(1);
    let gone = listener().local_addr().unwrap().to_string();
    a.links.set_peers(vec![(2, gone.clone())]);
    let error = a.links.fetch(2, "size 1".into(), PATIENCE).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{gone} cannot be reached")), "{error}");
}

#[tokio::test]
async fn one_who_asks_more_than_is_served_at_once_is_told_so() {
    let a = Node::start(1);
    let mut raw = Raw::connect(a.links.local_addr()).await;
    raw.write(&envelope(1, DIAL, &dial_body(BULK, 1, &hello(2, 5)))).await;
    assert_eq!(raw.envelope().await.unwrap().1, WELCOME);
    raw.write(&envelope(1, BEGIN, &[])).await;
    for id in 0..=FETCHES_IN_FLIGHT_MAX as u64 {
        raw.write(&frame(&[&id.to_le_bytes()[..], b"never"].concat())).await;
    }
    let answer = raw.frame().await.unwrap();
    assert_eq!(answer[..9], [FETCHES_IN_FLIGHT_MAX as u8, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(String::from_utf8_lossy(&answer[9..]).contains("8 requests are served already"));
    raw.write(&frame(b"short")).await;
    raw.closed().await;
}

#[tokio::test]
async fn a_probe_tells_who_answers_whether_or_not_it_is_accepted() {
    let (a, mut b) = (Node::start(1), Node::start(2));
    *b.host.refuse.lock().unwrap() = Some("nobody".into());
    b.host.hello.lock().unwrap().cluster = 0;
    assert_eq!(a.links.probe(&b.address()).await.unwrap(), b.host.hello());
    assert!(b.told().is_empty());
    let gone = listener().local_addr().unwrap().to_string();
    let error = a.links.probe(&gone).await.unwrap_err();
    assert!(matches!(error, PeersError::Unreachable { .. }), "{error}");
    let error = a.links.probe("no-port").await.unwrap_err();
    assert!(matches!(error, PeersError::Unreachable { .. }), "{error}");
    // Itself, as a node does that looks whether its own advertised address leads back to it.
    assert_eq!(a.links.probe(&a.address()).await.unwrap().node, 1);
}
