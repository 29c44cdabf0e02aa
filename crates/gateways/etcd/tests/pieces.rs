//! RangeStream: what its pieces come to, that they are of one revision, and that they wait for their client.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::request_op::Request as Asked;
use quorate_etcd::protocol::etcdserverpb as pb;
use support::real::Random;
use support::{Client, PATIENCE, Server, bytes, prefix_range, refused};
use tonic::{Code, Status, Streaming};

/// All pieces, merged as protobuf merges messages.
async fn merged(
    mut pieces: Streaming<pb::RangeStreamResponse>,
) -> Result<(pb::RangeResponse, usize), Status> {
    let (mut whole, mut count) = (pb::RangeResponse::default(), 0);
    while let Some(piece) = pieces.message().await? {
        let piece = piece.range_response.unwrap();
        assert!(whole.header.is_none(), "a piece after the last");
        whole.kvs.extend(piece.kvs);
        (whole.header, whole.count, whole.more) = (piece.header, piece.count, piece.more);
        count += 1;
    }
    Ok((whole, count))
}

/// Names in order with values of these bytes, so many in a transaction.
async fn fill(client: &mut Client, keys: usize, value_bytes: usize, together: usize) {
    let put = |n: usize| {
        let (key, value) = (bytes(&format!("k/{n:05}")), bytes(&"v".repeat(value_bytes)));
        let put = pb::PutRequest { key, value, ..Default::default() };
        pb::RequestOp { request: Some(Asked::RequestPut(put)) }
    };
    for from in (0..keys).step_by(together) {
        let success = (from..keys.min(from + together)).map(put).collect();
        client.kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
}

#[tokio::test]
async fn the_pieces_merge_into_what_a_range_answers() {
    let server = Server::start().await;
    let mut client = server.client().await;
    fill(&mut client, 6000, 1, 100).await;
    for n in 0..500 {
        client.put(&format!("k/{:05}", n * 7), "again").await;
    }
    client.delete("k/00003").await;
    let mut random = Random(7);
    let mut many = 0;
    for _ in 0..300 {
        let mut asked = prefix_range("k/");
        let name = |random: &mut Random| bytes(&format!("k/{:05}", random.below(6000)));
        match random.below(4) {
            0 => (asked.key, asked.range_end) = (name(&mut random), bytes("")),
            1 => (asked.key, asked.range_end) = (name(&mut random), name(&mut random)),
            2 => (asked.key, asked.range_end) = (bytes("\0"), bytes("\0")),
            _ => {}
        }
        asked.limit = [0, 0, 1, 5998, 5999, 6000, random.below(6000) as i64][random.below(7) as usize];
        asked.revision = [0, 0, 30, 100, 400, 9999][random.below(6) as usize];
        asked.keys_only = random.one_in(3);
        asked.count_only = random.one_in(5);
        asked.serializable = random.one_in(3);
        asked.sort_order = random.below(2) as i32; // None, or ascending by key: the order that it has anyhow.
        if random.one_in(3) {
            asked.min_mod_revision = random.below(500) as i64;
        }
        if random.one_in(4) {
            asked.max_create_revision = random.below(70) as i64;
        }
        let wanted = client.kv.range(asked.clone()).await.map(tonic::Response::into_inner);
        let found = match client.kv.range_stream(asked.clone()).await {
            Ok(pieces) => merged(pieces.into_inner()).await,
            Err(status) => Err(status),
        };
        match (found, wanted) {
            (Ok((found, pieces)), Ok(wanted)) => {
                assert_eq!(found, wanted, "{asked:?}");
                many += usize::from(pieces > 3);
            }
            (found, wanted) => assert_eq!(refused(found), refused(wanted), "{asked:?}"),
        }
    }
    assert!(many > 50, "{many} answers of more than three pieces");
    let empty = client.kv.range_stream(prefix_range("none")).await.unwrap().into_inner();
    let (empty, pieces) = merged(empty).await.unwrap();
    assert_eq!((pieces, empty.count, empty.header.is_some()), (1, 0, true));
    for (sort_order, sort_target) in [(2, 0), (1, 1), (0, 3), (9, 0)] {
        let asked = pb::RangeRequest { sort_order, sort_target, ..prefix_range("k/") };
        let code = refused(client.kv.range_stream(asked).await).0;
        assert_eq!(code, if sort_order == 9 { Code::InvalidArgument } else { Code::Unimplemented });
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_waits_for_its_client_and_shows_one_revision_until_that_is_compacted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // 48 MB: far more than the windows of HTTP/2 and what waits on either side.
    fill(&mut client, 480, 100_000, 10).await;
    let whole = client.kv.range(prefix_range("k/")).await.unwrap().into_inner();
    let mut reading = client.kv.range_stream(prefix_range("k/")).await.unwrap().into_inner();
    let mut stalled = client.kv.range_stream(prefix_range("k/")).await.unwrap().into_inner();
    for pieces in [&mut reading, &mut stalled] {
        let first = pieces.message().await.unwrap().unwrap().range_response.unwrap();
        assert!(!first.kvs.is_empty() && first.header.is_none());
    }
    // What is changed meanwhile is not shown.
    let revision = client.put("k/00479", "later").await;
    client.put("k/00480", "new").await;
    client.delete("k/00478").await;
    let (rest, pieces) = tokio::time::timeout(PATIENCE, merged(reading)).await.unwrap().unwrap();
    assert_eq!(rest.kvs.last(), whole.kvs.last());
    assert_eq!((rest.count, rest.header), (480, whole.header));
    assert!(pieces > 40, "{pieces} pieces of at most half a megabyte and a key");
    // Who read nothing meanwhile had nothing read ahead: what it wants next is gone with the revision.
    let compact = pb::CompactionRequest { revision, physical: false };
    client.kv.compact(compact).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, merged(stalled)).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted".to_owned();
    assert_eq!(refused(ended), (Code::OutOfRange, compacted));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_right_to_read_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    fill(&mut client, 480, 100_000, 10).await;
    let mut pieces = client.kv.range_stream(prefix_range("k/")).await.unwrap().into_inner();
    pieces.message().await.unwrap().unwrap();
    let changes = vec![quorate_types::UserChange::Enable { on: false }];
    let body = quorate_types::CommandBody::ChangeUser { name: "default".into(), changes, may_lock_out: true };
    server.data.handle().command(quorate_types::Command::new("server".into(), body)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, merged(pieces)).await.unwrap();
    let code = refused(ended).0;
    assert!(matches!(code, Code::PermissionDenied | Code::Unauthenticated), "{code:?}");
    server.stop().await;
}
