//! Alarms raised by hand, beside a real etcd that is asked the same.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::alarm_request::AlarmAction;
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request as Asked;
use quorate_etcd::protocol::etcdserverpb as pb;
use std::net::SocketAddr;
use support::etcd::Etcd;
use support::real::{plain, says, told};
use support::{Client, Server, bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says of one server after the other what it answers to each step of a story about one alarm.
struct Story {
    client: Client,
    address: SocketAddr,
    lines: Vec<String>,
}

impl Story {
    fn tell(&mut self, step: &str, answer: String) {
        self.lines.push(format!("{step}: {answer}"));
    }

    async fn alarm(&mut self, action: AlarmAction, member_id: u64, alarm: pb::AlarmType) {
        let asked = pb::AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
        let answer = MaintenanceClient::new(self.client.channel.clone()).alarm(asked).await;
        self.tell(
            &format!("{action:?} {member_id} {alarm:?}"),
            told(answer, |answer| {
                plain(&mut answer.header);
                // etcd walks a map.
                answer.alarms.sort_by_key(|one| (one.member_id, one.alarm));
            }),
        );
    }

    async fn put(&mut self) {
        let put = pb::PutRequest { key: bytes("a"), value: bytes("1"), ..Default::default() };
        let answer = self.client.kv.put(put).await;
        self.tell("put", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn delete(&mut self, key: &str) {
        let delete = pb::DeleteRangeRequest { key: bytes(key), ..Default::default() };
        let answer = self.client.kv.delete_range(delete).await;
        self.tell("delete", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn read(&mut self, serializable: bool) {
        let range = pb::RangeRequest { key: bytes("k"), serializable, ..Default::default() };
        let answer = self.client.kv.range(range).await;
        self.tell("range", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn txn(&mut self, ops: Vec<Asked>) {
        let op = |op| pb::RequestOp { request: Some(op) };
        let success = ops.into_iter().map(op).collect();
        let answer = self.client.kv.txn(pb::TxnRequest { success, ..Default::default() }).await;
        self.tell("txn", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn grant(&mut self, id: i64) {
        let answer = self.client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await;
        self.tell("grant", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn revoke(&mut self, id: i64) {
        let answer = self.client.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await;
        self.tell("revoke", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn keep_alive(&mut self, id: i64) {
        let asked = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut answers = self.client.lease.lease_keep_alive(asked).await.unwrap().into_inner();
        let ttl = answers.message().await.unwrap().unwrap().ttl;
        self.tell("keep-alive", ttl.to_string());
    }

    async fn compact(&mut self, revision: i64) {
        let asked = pb::CompactionRequest { revision, physical: false };
        let answer = self.client.kv.compact(asked).await;
        self.tell("compact", told(answer, |answer| plain(&mut answer.header)));
    }

    async fn lock(&mut self) {
        let mut locks =
            quorate_etcd::protocol::v3lockpb::lock_client::LockClient::new(self.client.channel.clone());
        let asked = quorate_etcd::protocol::v3lockpb::LockRequest { name: bytes("l"), lease: 1 };
        let answer = locks.lock(asked).await;
        self.tell("lock", told(answer, |answer| answer.header = None));
    }

    async fn status(&mut self) {
        let status = MaintenanceClient::new(self.client.channel.clone()).status(pb::StatusRequest {}).await;
        let mut errors = status.unwrap().into_inner().errors;
        errors.sort();
        self.tell("errors", format!("{errors:?}"));
    }

    /// What is answered to whoever asks by HTTP.
    async fn probe(&mut self, path: &str) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned();
        self.tell(path, format!("{status} {body}"));
    }

    async fn of(address: SocketAddr) -> Vec<String> {
        use AlarmAction::{Activate, Deactivate, Get};
        use pb::AlarmType::{Corrupt, None, Nospace};
        let mut story = Self { client: Client::connect(address).await, address, lines: Vec::new() };
        let put = || Asked::RequestPut(pb::PutRequest { key: bytes("a"), ..Default::default() });
        let delete =
            || Asked::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes("gone"), ..Default::default() });
        let range = || Asked::RequestRange(pb::RangeRequest { key: bytes("k"), ..Default::default() });
        story.client.put("k", "v").await;
        story.client.put("d", "v").await;
        story.grant(1).await;
        story.alarm(Get, 0, None).await;
        story.alarm(Deactivate, 7, Nospace).await;
        story.alarm(Activate, 7, Nospace).await;
        story.alarm(Activate, 7, Nospace).await;
        story.alarm(Get, 0, None).await;
        story.alarm(Get, 0, Corrupt).await;
        story.alarm(Get, 3, Nospace).await;
        story.status().await;
        for path in ["/health", "/health?exclude=NOSPACE"] {
            story.probe(path).await;
        }
        story.put().await;
        story.txn(vec![range(), put()]).await;
        story.txn(vec![range(), delete()]).await;
        story.grant(2).await;
        story.lock().await;
        story.keep_alive(1).await;
        story.read(false).await;
        story.read(true).await;
        story.delete("d").await;
        story.compact(2).await;
        story.alarm(Deactivate, 8, Nospace).await;
        story.put().await;
        story.alarm(Deactivate, 7, Nospace).await;
        story.put().await;
        story.txn(vec![put()]).await;
        story.alarm(Activate, 9, Corrupt).await;
        story.alarm(Get, 0, None).await;
        story.status().await;
        for path in ["/health", "/health?exclude=CORRUPT"] {
            story.probe(path).await;
        }
        story.put().await;
        story.delete("a").await;
        story.txn(vec![put()]).await;
        story.txn(vec![range()]).await;
        story.read(false).await;
        story.grant(3).await;
        story.keep_alive(1).await;
        story.revoke(1).await;
        story.compact(3).await;
        story.alarm(Deactivate, 9, Corrupt).await;
        story.put().await;
        story.alarm(Get, 0, None).await;
        story.status().await;
        story.probe("/health").await;
        story.lines
    }
}

#[tokio::test]
async fn alarms_refuse_what_etcds_refuse_with_its_words_until_they_are_disarmed() {
    let etcd = Etcd::start();
    let server = Server::start().await;
    let wanted = Story::of(etcd.address).await;
    let found = Story::of(server.address).await;
    let differ: Vec<_> = wanted.iter().zip(&found).filter(|(wanted, found)| wanted != found).collect();
    assert!(differ.is_empty() && wanted.len() == found.len(), "etcd's answers and ours: {differ:#?}");
    let refused = |text: &str| found.iter().filter(|line| line.contains(text)).count();
    assert_eq!((refused("database space exceeded"), refused("corrupt cluster")), (5, 6), "{found:#?}");
    server.stop().await;
}

#[tokio::test]
async fn etcdctl_shows_and_disarms_what_was_raised_and_calls_the_node_unhealthy() {
    let server = Server::start().await;
    let (address, client) = (server.address, server.client().await);
    for (member_id, alarm) in [(1, pb::AlarmType::Nospace), (2, pb::AlarmType::Corrupt)] {
        let (action, alarm) = (AlarmAction::Activate.into(), alarm.into());
        let asked = pb::AlarmRequest { action, member_id, alarm };
        MaintenanceClient::new(client.channel.clone()).alarm(asked).await.unwrap();
    }
    tokio::task::spawn_blocking(move || {
        let listed = "memberID:1 alarm:NOSPACE \nmemberID:2 alarm:CORRUPT";
        assert_eq!(says(address, &["alarm", "list"]), listed);
        let health = support::real::etcdctl(address, &["endpoint", "health"]).output().unwrap();
        let text = String::from_utf8_lossy(&health.stderr).into_owned();
        assert!(!health.status.success() && text.contains("NOSPACE"), "{text}");
        let disarmed = says(address, &["alarm", "disarm"]);
        assert_eq!(disarmed, listed);
        assert_eq!(says(address, &["alarm", "list"]), "");
        assert_eq!(says(address, &["put", "a", "1"]), "OK");
    })
    .await
    .unwrap();
    server.stop().await;
}

/// The etcd that is compared with is older than these paths (3.5.11).
#[tokio::test]
async fn a_corrupt_alarm_makes_a_node_unready_but_not_dead() {
    let server = Server::start().await;
    let (client, address) = (server.client().await, server.address);
    let mut story = Story { client, address, lines: Vec::new() };
    for kind in [pb::AlarmType::Nospace, pb::AlarmType::Corrupt] {
        story.alarm(AlarmAction::Activate, 1, kind).await;
        for path in ["/livez", "/readyz", "/readyz?exclude=data_corruption"] {
            story.probe(path).await;
        }
    }
    story.lines.retain(|line| line.starts_with('/'));
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok";
    let wanted = ["/livez: 200 ok", "/readyz: 200 ok", "/readyz?exclude=data_corruption: 200 ok"];
    assert_eq!(story.lines[..3], wanted);
    assert_eq!(story.lines[3], wanted[0]);
    assert_eq!(story.lines[4], format!("/readyz: 503 {failed}"));
    assert_eq!(story.lines[5], wanted[2]);
    server.stop().await;
}

#[tokio::test]
async fn an_alarm_of_no_kind_that_there_is_is_refused() {
    let server = Server::start().await;
    let mut maintenance = MaintenanceClient::new(server.client().await.channel);
    for (action, alarm) in [(1, 3), (1, -1), (3, 1)] {
        let (code, _) =
            support::refused(maintenance.alarm(pb::AlarmRequest { action, member_id: 1, alarm }).await);
        assert_eq!(code, tonic::Code::InvalidArgument);
    }
    server.stop().await;
}
