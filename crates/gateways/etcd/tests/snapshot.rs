//! Moving to etcd: what `etcdctl snapshot save` gets is opened by etcd's own tools, and an etcd that starts from it answers as Quorate did.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::maintenance_client::MaintenanceClient;
use quorate_etcd::protocol::etcdserverpb as pb;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::etcd::{Etcd, folder};
use support::real::{plain, says};
use support::{Client, Server, bytes, prefix_range};
use tonic::Code;

/// Everything that a Range of all keys tells.
async fn all(client: &mut Client) -> pb::RangeResponse {
    let asked = pb::RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() };
    let mut answer = client.kv.range(asked).await.unwrap().into_inner();
    plain(&mut answer.header);
    answer
}

/// Saves with etcdctl, as an operator does.
async fn save(address: SocketAddr, file: &Path) {
    let file = file.to_str().unwrap().to_owned();
    let saved =
        tokio::task::spawn_blocking(move || says(address, &["snapshot", "save", &file])).await.unwrap();
    assert!(saved.contains("Snapshot saved at"), "{saved}");
}

/// What etcdutl tells of a file, whose every page it looks at.
fn status(file: &Path) -> serde_json::Value {
    let mut command = Command::new(folder().join("etcdutl"));
    let done = command.args(["snapshot", "status", "-w=json"]).arg(file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

async fn restored(file: &Path) -> (Etcd, Client) {
    let file = file.to_owned();
    let etcd = tokio::task::spawn_blocking(move || Etcd::restored(&file)).await.unwrap();
    let client = Client::connect(etcd.address).await;
    (etcd, client)
}

fn puts(name: &str, value: &str) -> pb::RequestOp {
    let put = pb::PutRequest { key: bytes(name), value: bytes(value), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

async fn granted(client: &mut Client, id: i64, ttl: i64) {
    let grant = pb::LeaseGrantRequest { id, ttl };
    client.lease.lease_grant(grant).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_starts_from_it_answers_as_quorate_did() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let file = home.path().join("all.db");
    let mut ours = server.client().await;
    granted(&mut ours, 77, 600).await;
    granted(&mut ours, 78, 3600).await;
    // A tree of several levels, leaves of many keys and pages of one, versions, what one transaction wrote, what is gone.
    for number in 0..6000 {
        ours.put(&format!("many/{number:05}"), &"x".repeat(number % 150)).await;
    }
    for version in 0..5 {
        ours.put("again", &version.to_string()).await;
    }
    ours.put("large", &"l".repeat(1 << 20)).await;
    ours.put("pages", &"p".repeat(4096)).await;
    ours.put("empty", "").await;
    for name in ["hangs", "hangs too"] {
        let put = pb::PutRequest { key: bytes(name), value: bytes("on"), lease: 77, ..Default::default() };
        ours.kv.put(put).await.unwrap();
    }
    let together = ["together/b", "together/a", "together/c"].map(|name| puts(name, "one")).to_vec();
    ours.kv.txn(pb::TxnRequest { success: together, ..Default::default() }).await.unwrap();
    ours.put("gone", "soon").await;
    ours.delete("gone").await;
    save(server.address, &file).await;

    let wanted = all(&mut ours).await;
    let told = status(&file);
    // Of the buckets that etcd's tool counts, these three have keys.
    assert_eq!(told["totalKey"].as_i64().unwrap(), wanted.count + 2 + 5, "{told}");
    let last = wanted.kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
    assert_eq!(told["revision"].as_i64().unwrap(), last);

    let (_etcd, mut theirs) = restored(&file).await;
    assert!(all(&mut theirs).await == wanted, "etcd answers otherwise");
    let revision = wanted.header.unwrap().revision;
    let old = pb::RangeRequest { revision: revision - 1, ..prefix_range("many/") };
    assert_eq!(theirs.kv.range(old).await.unwrap_err().code(), Code::OutOfRange);
    for (lease, ttl) in [(77, 600), (78, 3600)] {
        let asked = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
        let theirs = theirs.lease.lease_time_to_live(asked).await.unwrap().into_inner();
        let mut keys: Vec<_> = theirs.keys.iter().map(|key| support::text(key)).collect();
        keys.sort();
        assert_eq!((theirs.granted_ttl, keys.len()), (ttl, if lease == 77 { 2 } else { 0 }), "{keys:?}");
    }
    assert_eq!(theirs.put("next", "1").await, revision + 1);
    theirs.lease.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await.unwrap();
    assert!(theirs.values("hangs").await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_a_snapshot_too() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let file = home.path().join("empty.db");
    save(server.address, &file).await;
    assert_eq!(status(&file)["totalKey"], 5);
    let (_etcd, mut theirs) = restored(&file).await;
    let wanted = all(&mut server.client().await).await;
    assert_eq!(all(&mut theirs).await, wanted);
    server.stop().await;
}

/// Two keys that every transaction changes together, while snapshots are made.
#[tokio::test]
async fn it_is_of_one_revision_while_writes_go_on() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let mut ours = server.client().await;
    for hundred in 0..150 {
        let success = (0..100).map(|one| puts(&format!("b/{hundred:03}/{one}"), "between")).collect();
        ours.kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = {
        let (stop, written, mut ours) = (Arc::clone(&stop), Arc::clone(&written), ours.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = written.fetch_add(1, Ordering::Relaxed).to_string();
                let success = ["a", "z"].map(|name| puts(name, &number)).to_vec();
                ours.kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
            }
        })
    };
    // Read without etcdctl: how the pieces count down, and of which revision the first one says that they are.
    let mut maintenance = MaintenanceClient::new(ours.channel.clone());
    let mut snapshots = Vec::new();
    while snapshots.len() < 2 {
        let begun = written.load(Ordering::Relaxed);
        let mut pieces = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        let (mut file, mut remaining, mut revision) = (Vec::new(), None, 0);
        while let Some(piece) = pieces.message().await.unwrap() {
            let last = remaining == Some(0);
            if let Some(before) = remaining.replace(piece.remaining_bytes) {
                let counted = if last { 0 } else { piece.blob.len() as u64 };
                assert_eq!(before - counted, piece.remaining_bytes);
                assert_eq!(last, piece.blob.len() == 32);
            } else {
                revision = piece.header.unwrap().revision;
            }
            file.extend_from_slice(&piece.blob);
        }
        assert_eq!((remaining, file.len() % 4096), (Some(0), 32));
        // One that nobody wrote beside shows nothing: the next one will do.
        if written.load(Ordering::Relaxed) > begun + 5 {
            let name = home.path().join(format!("{revision}.db"));
            std::fs::write(&name, file).unwrap();
            snapshots.push((name, revision));
        }
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    for (file, revision) in snapshots {
        status(&file);
        let (_etcd, mut theirs) = restored(&file).await;
        let theirs = all(&mut theirs).await;
        let mut asked = pb::RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() };
        asked.revision = revision;
        let ours = ours.kv.range(asked).await.unwrap().into_inner();
        assert_eq!(theirs.header.unwrap().revision, revision);
        assert!(theirs.kvs == ours.kvs, "another state than that of revision {revision}");
    }
    server.stop().await;
}

/// What etcd's tools say of a file that lost a byte, so that what they accept above means something.
#[tokio::test]
async fn a_byte_that_is_flipped_is_found_by_the_hash() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let file = home.path().join("flipped.db");
    save(server.address, &file).await;
    let mut saved = std::fs::read(&file).unwrap();
    saved[5 * 4096 + 100] ^= 1;
    std::fs::write(&file, saved).unwrap();
    let mut restore = Command::new(folder().join("etcdutl"));
    restore.args(["snapshot", "restore"]).arg(&file).arg("--data-dir").arg(home.path().join("data"));
    let done = restore.output().unwrap();
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("expected sha256"));
    server.stop().await;
}
