//! Ten thousand watches of ranges on one stream: who hears of which change.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::watch_request::RequestUnion;
use quorate_etcd::protocol::etcdserverpb as pb;
use std::time::Instant;
use support::{Server, bytes};

#[tokio::test]
async fn ten_thousand_ranges_hear_of_what_is_in_them_alone() {
    const RANGES: usize = 10_000;
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut watches = client.watches().await;
    let wide = [("r/", "r0"), ("r/02", "r/05"), ("r/0500", "\0"), ("q", "r/0100")];
    let create = |key: &str, end: &str| pb::WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    };
    for number in 0..RANGES {
        let (key, end) = (format!("r/{number:05}/"), format!("r/{number:05}0"));
        assert_eq!(watches.create(create(&key, &end)).await.watch_id, number as i64);
    }
    for (key, end) in wide {
        watches.create(create(key, end)).await;
    }
    // Some leave again.
    let gone = |number: usize| number % 10 == 3;
    for number in (0..RANGES).filter(|number| gone(*number)) {
        watches.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: number as i64 })).await;
        assert!(watches.next().await.canceled);
    }
    let begin = Instant::now();
    for step in 0..300 {
        let number = step * 7919 % RANGES;
        let key = format!("r/{number:05}/x");
        let revision = client.put(&key, "v").await;
        let within =
            |(start, end): &(&str, &str)| key.as_str() >= *start && (*end == "\0" || key.as_str() < *end);
        let own = (!gone(number)).then_some(number as i64);
        let others = wide.iter().enumerate().filter(|(_, range)| within(range));
        let mut wanted: Vec<i64> =
            own.into_iter().chain(others.map(|(at, _)| (RANGES + at) as i64)).collect();
        let mut heard = Vec::new();
        for _ in 0..wanted.len() {
            let told = watches.next().await;
            assert_eq!((told.events.len(), told.header.unwrap().revision), (1, revision));
            heard.push(told.watch_id);
        }
        heard.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(heard, wanted, "{key}");
    }
    println!("{:?} from a put to all who hear of it", begin.elapsed() / 300);
    watches.silent().await;
    server.stop().await;
}
