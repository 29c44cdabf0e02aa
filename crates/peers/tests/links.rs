//! Links over loopback: order, restarts, replacement, refusals, bounds, liveness.

#![allow(clippy::unwrap_used)]

use crate::common;

use bytes::Bytes;
use common::*;
use quorate_peers::{Host, LinksConfig};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};

fn numbered(n: u64, bytes: usize) -> Bytes {
    let mut frame = n.to_le_bytes().to_vec();
    frame.resize(bytes.max(8), n as u8);
    frame.into()
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[..8].try_into().unwrap())
}

/// A listener for a raw peer, of both kinds' address.
async fn raw_listener() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn frames_arrive_in_order_in_both_directions() {
    let (mut a, mut b) = pair(Node::start(1), Node::start(2)).await;
    let count = 20_000u64;
    for n in 0..count {
        // Sizes on both sides of what is copied, and of what one read brings.
        let bytes = if n % 500 == 0 { 100_000 } else { (n % 300) as usize };
        assert!(a.links.send(2, numbered(n, bytes)));
        assert!(b.links.send(1, numbered(n, bytes)));
    }
    for n in 0..count {
        let (at_a, at_b) = (a.frame().await, b.frame().await);
        assert_eq!((number(&at_a), number(&at_b)), (n, n));
        assert!(at_a[8..].iter().all(|byte| *byte == n as u8), "frame {n}");
    }
}

#[test]
fn frames_of_each_of_many_threads_arrive_in_its_order() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (sending, receiving) = (runtime(), runtime());
    let a = Node::start_on(sending.handle(), listener(), hello(1, 1), LinksConfig::default());
    let handle = sending.handle().clone();
    // The sending side's tasks run on their own thread, as they do in a node.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driver = std::thread::spawn(move || sending.block_on(stopped));
    let (threads, each) = (4u64, 5_000u64);
    receiving.block_on(async {
        let mut b = Node::start_on(&Handle::current(), listener(), hello(2, 2), LinksConfig::default());
        let mut a = a;
        a.links.set_peers(vec![(2, b.address())]);
        a.up(2).await;
        let links = &a.links;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for n in 0..each {
                        assert!(links.send(2, numbered(thread << 32 | n, 50)));
                    }
                });
            }
        });
        let mut next = vec![0; threads as usize];
        for _ in 0..threads * each {
            let got = number(&b.frame().await);
            let (thread, n) = ((got >> 32) as usize, got & 0xffff_ffff);
            assert_eq!(n, next[thread], "of thread {thread}");
            next[thread] += 1;
        }
    });
    drop(handle);
    stop.send(()).unwrap();
    driver.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_restarted_peer_gets_a_link_of_a_new_number() {
    let (mut a, b) = pair(Node::start(1), Node::start(2)).await;
    let address = b.links.local_addr();
    drop(b);
    let (first, _) = a.down(2).await;
    assert!(!a.links.send(2, numbered(0, 8)), "there is no link");
    // The old listener is closed by its task, soon.
    let again = loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut b = Node::start_on(&Handle::current(), again, hello(2, 999), LinksConfig::default());
    let (second, incarnation) = a
        .until("up", |event| match event {
            Event::Up { node: 2, link, incarnation } => Some((*link, *incarnation)),
            _ => None,
        })
        .await;
    assert!(second > first && incarnation == 999);
    assert!(a.links.send(2, numbered(7, 8)));
    assert_eq!(number(&b.frame().await), 7);
}

#[tokio::test]
async fn what_was_queued_on_a_link_that_ended_is_never_delivered() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::start(1);
    a.links.set_peers(vec![(2, address)]);
    let raw = Raw::accept(&listener, &hello(2, 5)).await;
    let first = a.up(2).await;
    // More than the kernel takes while nobody reads.
    for n in 0..1000 {
        assert!(a.links.send(2, numbered(n, 64 << 10)));
    }
    drop(raw);
    assert_eq!(a.down(2).await.0, first);
    assert!(!a.links.send(2, numbered(5000, 8)), "between links nothing is taken");
    let mut raw = Raw::accept(&listener, &hello(2, 5)).await;
    assert!(a.up(2).await > first);
    assert!(a.links.send(2, numbered(6000, 8)));
    assert_eq!(number(&raw.frame().await.unwrap()), 6000);
}

#[tokio::test]
async fn two_connections_of_one_peer_never_interleave() {
    let mut a = Node::start(1);
    let address = a.links.local_addr();
    let from = hello(2, 5);
    let mut old = Raw::messages(address, 1, &from).await;
    for round in 1..20u64 {
        // A lot of the old is under way, unread, when the new one is welcomed.
        let old_frames: Vec<u8> = (0..2000).flat_map(|n| frame(&numbered(round << 32 | n, 40))).collect();
        old.write(&old_frames).await;
        let mut new = Raw::messages(address, 1, &from).await;
        // Welcomed: nothing of the old may come any more, even if it goes on.
        let _ =
            tokio::io::AsyncWriteExt::write_all(&mut old.0, &frame(&numbered(round << 32 | 3000, 40))).await;
        new.write(&frame(&numbered(round << 32 | 4000, 40))).await;
        let mut last = None;
        loop {
            let got = number(&a.frame().await);
            assert_eq!(got >> 32, round, "a frame of an older connection");
            let n = got & 0xffff_ffff;
            assert_ne!(n, 3000, "sent on the old connection after the new one was welcomed");
            if n == 4000 {
                break;
            }
            assert_eq!(n, last.map_or(0, |last| last + 1), "the old one's frames are a prefix");
            last = Some(n);
        }
        old.closed().await;
        old = new;
    }
}

#[tokio::test]
async fn a_replaced_connection_is_closed_even_when_it_is_silent() {
    // Longer than the test waits: only the replacement can close it.
    let a = Node::with(1, LinksConfig { idle_timeout: 3 * PATIENCE, ..LinksConfig::default() });
    let mut old = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
    let _new = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
    old.closed().await;
}

#[tokio::test]
async fn a_bad_frame_ends_its_connection_and_is_said() {
    let small = LinksConfig { frame_bytes_max: 1000, ..LinksConfig::default() };
    let mut wrong_checksum = frame(b"damaged");
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let oversize = [&1001u32.to_le_bytes()[..], &[0; 4]].concat();
    let garbage = vec![0xff; 64];
    for (bytes, said) in [
        (wrong_checksum, "a frame of 7 bytes has the checksum"),
        (oversize, "a frame claims 1001 bytes, at most 1000 are taken"),
        (garbage, "a frame claims 4294967295 bytes"),
    ] {
        let mut a = Node::with(1, small.clone());
        let mut raw = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
        raw.write(&[frame(b"good"), bytes, frame(b"behind")].concat()).await;
        assert_eq!(a.frame().await, "good");
        a.note(&["node 2 from 127.0.0.1", said]).await;
        raw.closed().await;
        assert!(
            !a.told().iter().any(|event| matches!(event, Event::Frame { .. })),
            "nothing behind it counts"
        );
    }
}

#[tokio::test]
async fn a_dialler_of_another_version_is_told_both_versions() {
    let mut a = Node::start(1);
    let mut raw = Raw::connect(a.links.local_addr()).await;
    raw.write(&envelope(7, DIAL, b"laid out in ways unknown")).await;
    let (version, kind, reason) = raw.envelope().await.unwrap();
    let reason = String::from_utf8(reason).unwrap();
    assert_eq!((version, kind), (1, REJECT));
    assert!(reason.contains("version 1") && reason.contains("not version 7"), "{reason}");
    a.note(&["127.0.0.1", "version 7", "version 1"]).await;
}

#[tokio::test]
async fn an_acceptor_of_another_version_is_named_with_its_reason() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::start(1);
    a.links.set_peers(vec![(2, address)]);
    let mut raw = Raw(listener.accept().await.unwrap().0);
    raw.envelope().await.unwrap();
    raw.write(&envelope(7, REJECT, b"too old for us")).await;
    a.note(&["node 2: 127.0.0.1:", "refused: too old for us"]).await;
    drop(raw);
    let mut raw = Raw(listener.accept().await.unwrap().0);
    raw.envelope().await.unwrap();
    raw.write(&envelope(7, WELCOME, b"?")).await;
    a.note(&["version 7", "version 1"]).await;
}

#[tokio::test]
async fn whoever_is_no_node_is_named_as_such() {
    let mut a = Node::start(1);
    let mut raw = Raw::connect(a.links.local_addr()).await;
    raw.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    a.note(&["127.0.0.1", "no Quorate node"]).await;
    raw.closed().await;
    // Damage within a handshake, each byte of it, never harms.
    let good = envelope(1, DIAL, &dial_body(MESSAGES, 1, &hello(2, 5)));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x80;
        let mut raw = Raw::connect(a.links.local_addr()).await;
        raw.write(&bytes).await;
        tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await.unwrap();
        raw.closed().await;
    }
    let mut raw = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
    raw.write(&frame(b"still here")).await;
    assert_eq!(a.frame().await, "still here");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_with_the_hosts_reason_at_both_ends() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.host.hello.lock().unwrap().cluster = 0xC2;
    a.links.set_peers(vec![(2, b.address())]);
    b.note(&["node 1 from 127.0.0.1", "it is of cluster c1, this node of c2"]).await;
    a.note(&["node 2: 127.0.0.1:", "refused: it is of cluster c1, this node of c2"]).await;
    // It becomes a member while it runs, and the link comes up by itself.
    b.host.hello.lock().unwrap().cluster = CLUSTER;
    a.up(2).await;
}

#[tokio::test]
async fn an_acceptor_that_the_dialler_refuses_is_told_why() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    *a.host.refuse.lock().unwrap() = Some("another data folder".into());
    a.links.set_peers(vec![(2, b.address())]);
    a.note(&["node 2 at 127.0.0.1:", "is not accepted: another data folder"]).await;
    b.note(&["node 1 from 127.0.0.1", "it refused us: another data folder"]).await;
}

#[tokio::test]
async fn a_wrong_node_at_an_address_is_refused_with_both_ids_and_the_address() {
    let (mut a, mut b) = pair(Node::start(1), Node::start(2)).await;
    let address = b.address();
    a.links.set_peers(vec![(2, address.clone()), (3, address.clone())]);
    a.note(&[&address, "node 3 was dialled, where node 2 answers"]).await;
    b.note(&["node 1 from", "node 3 was dialled, where node 2 answers"]).await;
    // The good link is not disturbed by the wrong one.
    assert!(a.links.send(2, numbered(1, 8)));
    assert_eq!(number(&b.frame().await), 1);
    assert!(!a.told().iter().any(|event| matches!(event, Event::Down { node: 2, .. })));
}

#[tokio::test]
async fn an_acceptor_that_does_not_check_is_refused_by_the_dialler() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::start(1);
    a.links.set_peers(vec![(2, address.clone())]);
    let mut raw = Raw(listener.accept().await.unwrap().0);
    raw.envelope().await.unwrap();
    raw.write(&envelope(1, WELCOME, &hello_body(&hello(9, 5)))).await;
    let (_, kind, reason) = raw.envelope().await.unwrap();
    assert_eq!(kind, REJECT);
    let said = format!("node 2 was dialled at {address}, where node 9 answers");
    assert!(String::from_utf8(reason).unwrap().contains(&said));
    drop(raw);
    a.note(&[&said]).await;
}

#[tokio::test]
async fn two_nodes_with_one_id_tell_each_other() {
    let (mut a, mut b) = (Node::start(1), Node::start(1));
    a.links.set_peers(vec![(1, b.address())]);
    a.note(&["both ends say that they are node 1"]).await;
    b.note(&["both ends say that they are node 1"]).await;
}

#[tokio::test]
async fn a_slow_reader_fills_the_queue_and_sends_are_dropped_within_bounds() {
    let (listener, address) = raw_listener().await;
    let queue = 4 << 20;
    let config = LinksConfig { queue_bytes_max: queue, frame_bytes_max: 1 << 20, ..LinksConfig::default() };
    let mut a = Node::with(1, config);
    a.links.set_peers(vec![(2, address)]);
    let mut raw = Raw::accept(&listener, &hello(2, 5)).await;
    a.up(2).await;
    let (mut taken, mut dropped) = (0u64, 0u64);
    let chunk = 16usize << 10;
    for round in 0..200 {
        for _ in 0..100 {
            if a.links.send(2, numbered(taken, chunk)) { taken += 1 } else { dropped += 1 }
        }
        if round % 10 == 0 {
            tokio::task::yield_now().await; // The link's task writes what the kernel takes.
        }
    }
    // 320 MB were offered: the queue's bound and what a socket pair buffers were taken.
    let bytes = taken as usize * chunk;
    assert!(dropped > 0 && bytes < queue + (32 << 20), "{bytes} bytes taken, {dropped} frames dropped");
    // What was taken arrives, in order and without a gap, once the reader reads; then there is room again.
    for n in 0..taken {
        assert_eq!(number(&raw.frame().await.unwrap()), n);
    }
    while !a.links.send(2, numbered(taken, 8)) {
        tokio::task::yield_now().await;
    }
    assert_eq!(number(&raw.frame().await.unwrap()), taken);
    a.note(&["node 2 at", "reads slower than we send"]).await;
    assert!(!a.links.send(2, Bytes::from(vec![0; (1 << 20) + 1])), "larger than a frame may be");
    assert!(a.links.send(2, numbered(0, 8)));
    a.note(&["a message of 1048577 bytes was dropped: links carry at most 1048576"]).await;
}

#[tokio::test]
async fn the_largest_frame_passes() {
    let config = LinksConfig { frame_bytes_max: 64 << 20, ..LinksConfig::default() };
    let (a, mut b) = pair(Node::with(1, config.clone()), Node::with(2, config)).await;
    let large = Bytes::from(vec![5; 64 << 20]);
    assert!(a.links.send(2, large.clone()) && a.links.send(2, numbered(1, 8)));
    assert!(b.frame().await == large);
    assert_eq!(number(&b.frame().await), 1);
}

fn quick_idle() -> LinksConfig {
    LinksConfig {
        idle_timeout: Duration::from_millis(600),
        keepalive_interval: Duration::from_millis(50),
        ..LinksConfig::default()
    }
}

#[tokio::test]
async fn a_peer_that_goes_silent_is_dropped_by_either_end() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::with(1, quick_idle());
    a.links.set_peers(vec![(2, address)]);
    // It reads nothing and says nothing, as a stopped process does; the kernel would keep the connection.
    let _acceptor = Raw::accept(&listener, &hello(2, 5)).await;
    a.up(2).await;
    assert_eq!(a.down(2).await.1, "nothing was heard for 600ms");
    let mut dialler = Raw::messages(a.links.local_addr(), 1, &hello(3, 5)).await;
    a.note(&["node 3 from", "nothing was heard for 600ms"]).await;
    dialler.closed().await;
}

#[tokio::test]
async fn an_idle_link_stands() {
    let (mut a, mut b) = pair(Node::with(1, quick_idle()), Node::with(2, quick_idle())).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ended = |event: &Event| matches!(event, Event::Down { .. } | Event::Frame { .. });
    assert!(
        !a.told().iter().any(ended) && !b.told().iter().any(ended),
        "keep-alives keep it and are not delivered"
    );
    assert!(a.links.send(2, numbered(3, 8)));
    assert_eq!(number(&b.frame().await), 3);
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_and_hinders_nobody() {
    let config = LinksConfig { handshake_timeout: Duration::from_millis(300), ..LinksConfig::default() };
    let (mut a, b) = (Node::with(1, config), Node::start(2));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(a.links.local_addr()).await);
    }
    b.links.set_peers(vec![(1, a.address())]);
    let mut b = b;
    b.up(1).await;
    a.note(&["127.0.0.1", "did not say who it is within 300ms"]).await;
    for mut raw in silent {
        raw.closed().await;
    }
    assert!(!a.told().iter().any(|event| matches!(event, Event::Note(_))), "said once, not a hundred times");
}

#[tokio::test]
async fn a_peer_that_dials_us_is_redialled_at_once() {
    let (listener, address) = raw_listener().await;
    let config = LinksConfig { redial_max: Duration::from_secs(600), ..LinksConfig::default() };
    let a = Node::with(1, config);
    a.links.set_peers(vec![(2, address)]);
    for _ in 0..7 {
        drop(tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap());
    }
    // The next dial is 2.4 s away at least: 50 ms doubled six times, less a quarter.
    let heard = Instant::now();
    let _dialler = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
    let _acceptor = Raw::accept(&listener, &hello(2, 5)).await;
    assert!(heard.elapsed() < Duration::from_secs(2), "{:?}", heard.elapsed());
}

#[tokio::test]
async fn a_link_to_an_earlier_process_is_dropped_when_the_new_one_dials() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::start(1);
    a.links.set_peers(vec![(2, address)]);
    let _old = Raw::accept(&listener, &hello(2, 5)).await;
    let first = a.up(2).await;
    let _same = Raw::messages(a.links.local_addr(), 1, &hello(2, 5)).await;
    let _new = Raw::messages(a.links.local_addr(), 1, &hello(2, 6)).await;
    assert_eq!(a.down(2).await, (first, "it has restarted".into()));
    let _link = Raw::accept(&listener, &hello(2, 6)).await;
    assert!(a.up(2).await > first);
}

#[tokio::test]
async fn peers_that_are_no_more_are_closed_and_those_that_stay_are_left_alone() {
    let (mut a, b) = pair(Node::start(1), Node::start(2)).await;
    let (c, moved) = (Node::start(3), Node::start(3));
    a.links.set_peers(vec![(2, b.address()), (3, c.address())]);
    let first = a.up(3).await;
    a.links.set_peers(vec![(2, b.address()), (3, moved.address())]);
    assert_eq!(a.down(3).await, (first, "its address changed".into()));
    assert!(a.up(3).await > first);
    a.links.set_peers(vec![(2, b.address())]);
    assert!(!a.links.send(3, numbered(0, 8)));
    assert_eq!(a.down(3).await.1, "it is no peer any more");
    a.links.set_peers(vec![(2, b.address()), (3, c.address())]);
    a.up(3).await;
    assert!(a.links.send(2, numbered(0, 8)));
    a.links.stop();
    assert!(!a.links.send(2, numbered(0, 8)));
    assert_eq!(a.down(2).await.1, "the links were stopped", "and before only by the stop");
}

#[tokio::test]
async fn an_acceptor_that_sends_messages_on_our_link_is_dropped() {
    let (listener, address) = raw_listener().await;
    let mut a = Node::start(1);
    a.links.set_peers(vec![(2, address)]);
    let mut raw = Raw::accept(&listener, &hello(2, 5)).await;
    raw.write(&frame(b"wrong way")).await;
    assert!(a.down(2).await.1.contains("ours to send on"));
    assert!(!a.told().iter().any(|event| matches!(event, Event::Frame { .. })));
}

#[tokio::test]
async fn a_host_may_send_from_inside_up() {
    struct Eager(std::sync::Mutex<Option<std::sync::Weak<quorate_peers::Links>>>);
    impl Host for Eager {
        fn hello(&self) -> quorate_peers::Hello {
            hello(1, 1)
        }
        fn accept(&self, _: &quorate_peers::Hello, _: Option<u64>) -> Result<(), String> {
            Ok(())
        }
        fn up(&self, node: u64, _: quorate_peers::Hello, _: u64) {
            let links = self.0.lock().unwrap().as_ref().unwrap().upgrade().unwrap();
            assert!(links.send(node, Bytes::from_static(b"first")));
        }
        fn down(&self, _: u64, _: u64, _: &str) {}
        fn frames(&self, _: u64, _: &quorate_peers::Hello, _: &mut Vec<Bytes>) {}
        fn fetch(&self, _: u64, _: Bytes) -> quorate_peers::BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(async { Ok(Bytes::new()) })
        }
        fn note(&self, _: String) {}
    }
    let host = std::sync::Arc::new(Eager(Default::default()));
    let config = LinksConfig::default();
    let links = quorate_peers::Links::start(&Handle::current(), listener(), host.clone(), config).unwrap();
    let links = std::sync::Arc::new(links);
    *host.0.lock().unwrap() = Some(std::sync::Arc::downgrade(&links));
    let mut b = Node::start(2);
    links.set_peers(vec![(2, b.address())]);
    assert_eq!(b.frame().await, "first");
}
