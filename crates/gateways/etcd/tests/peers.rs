//! Beside the real thing: etcdctl as it is, and random requests that etcd and Quorate have to answer alike.
//!
//! The binaries are put into `target/etcd` by `scripts/etcd.sh`: a machine that cannot have them fails the test.
//! `SEEDS=0..500 LENGTH=80` choose other sequences; a failing one is told with what replays it.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use pb::request_op::Request as Asked;
use quorate_etcd::protocol::etcdserverpb as pb;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use support::etcd::{Etcd, Running};
use support::real::{Random, alone, etcdctl, plain, says, seeds, told};
use support::{Client, Server, bytes, end_of, text};

#[tokio::test]
async fn etcdctl_does_what_it_does_with_etcd() {
    alone(story).await;
}

fn story(address: SocketAddr) {
    let says = |words: &[&str]| says(address, words);
    assert_eq!(says(&["put", "a", "1"]), "OK");
    assert_eq!(says(&["put", "--prev-kv", "a", "2"]), "OK\na\n1");
    says(&["put", "b", "3"]);
    assert_eq!(says(&["get", "a"]), "a\n2");
    assert_eq!(says(&["get", "--prefix", "--keys-only", ""]), "a\n\nb");
    assert_eq!(says(&["get", "--rev=2", "a"]), "a\n1");
    assert_eq!(
        says(&["get", "--count-only", "-w=fields", "--from-key", "a"]).lines().last(),
        Some("\"Count\" : 2")
    );
    assert_eq!(
        says(&["get", "--order=DESCEND", "--sort-by=MODIFY", "--prefix", "--print-value-only", ""]),
        "3\n2"
    );
    assert_eq!(says(&["del", "--prev-kv", "b"]), "1\nb\n3");
    let mut txn = etcdctl(address, &["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asks = b"value(\"a\") = \"2\"\n\nput c 9\nget c\n\nget a\n\n";
    txn.stdin.take().unwrap().write_all(asks).unwrap();
    assert_eq!(
        String::from_utf8(txn.wait_with_output().unwrap().stdout).unwrap().trim(),
        "SUCCESS\n\nOK\n\nc\n9"
    );
    let watch =
        etcdctl(address, &["watch", "--rev=2", "--prefix", ""]).stdout(Stdio::piped()).spawn().unwrap();
    let wanted = ["PUT", "a", "1", "PUT", "a", "2", "PUT", "b", "3", "DELETE", "b", "", "PUT", "c", "9"];
    assert_eq!(Running(watch).lines(wanted.len()), wanted);
    // Interactively: a second watch comes onto the stream of the first, then both are asked how far they are.
    let mut watch =
        etcdctl(address, &["watch", "-i"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut asks, out) = (watch.stdin.take().unwrap(), watch.stdout.take().unwrap());
    let _watch = Running(watch);
    let mut told = BufReader::new(out).lines();
    let mut asked = |line: &str, wanted: &[&str]| {
        asks.write_all(format!("{line}\n").as_bytes()).unwrap();
        let answer: Vec<String> = told.by_ref().take(wanted.len()).map(Result::unwrap).collect();
        assert_eq!(answer, wanted, "{line}");
    };
    asked("watch --rev=2 a", &["PUT", "a", "1", "PUT", "a", "2"]);
    asked("watch --prefix --prev-kv --rev=5 b", &["DELETE", "b", "3", "b", ""]);
    asked("progress", &["progress notify: 6"]);
    let granted = says(&["lease", "grant", "60"]);
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    says(&["put", &format!("--lease={lease}"), "l", "1"]);
    let shown = says(&["lease", "timetolive", "--keys", &lease]);
    assert!(shown.contains("granted with TTL(60s)") && shown.contains("attached keys([l])"), "{shown}");
    assert!(says(&["lease", "keep-alive", "--once", &lease]).contains("keepalived with TTL(60)"));
    assert!(says(&["lease", "list"]).contains(&lease));
    says(&["lease", "revoke", &lease]);
    assert_eq!(says(&["get", "l"]), "");
    assert_eq!(says(&["compaction", "4"]), "compacted revision 4");
    let refused = etcdctl(address, &["get", "--rev=2", "a"]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("etcdserver: mvcc: required revision has been compacted"), "{told}");
    assert_eq!(says(&["lock", "mine", "echo", "locked"]), "locked");
    let mut held = Running(etcdctl(address, &["lock", "mine"]).stdout(Stdio::piped()).spawn().unwrap());
    assert!(held.lines(1)[0].starts_with("mine/"));
    let mut second =
        etcdctl(address, &["lock", "mine", "echo", "second"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(second.try_wait().unwrap().is_none(), "it waits");
    let key = says(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", "--limit=1", "mine/"]);
    says(&["del", &key]);
    assert!(second.wait().unwrap().success(), "deleting the holder's key releases the lock");
    let mut leader = Running(etcdctl(address, &["elect", "e", "me"]).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(leader.lines(2)[1], "me");
    let status = says(&["endpoint", "status", "-w=json"]);
    assert!(status.contains("\"version\":\"3.5.17\""), "{status}");
    let health = etcdctl(address, &["endpoint", "health"]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
    assert!(says(&["member", "list"]).contains("started"));
    says(&["defrag"]);
    assert_eq!(says(&["alarm", "list"]), "");
    assert!(says(&["endpoint", "hashkv", "--cluster"]).contains(", "));
    assert_eq!(says(&["move-leader", "1"]), "Leadership transferred from 1 to 1");
    // It reads /metrics before and after 10,000 puts.
    let scaled = says(&["check", "datascale", "--load=s", "--auto-compact=false"]);
    assert!(scaled.contains("PASS: Approximate system memory used"), "{scaled}");
    for member in [
        &["add", "x", "--peer-urls=http://127.0.0.1:9"][..],
        &["remove", "1"],
        &["update", "1", "--peer-urls=http://127.0.0.1:9"],
        &["promote", "1"],
    ] {
        let refused = etcdctl(address, &[&["member"], member].concat()).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && told.contains("change members with `quorate cluster`"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn etcdctl_mirrors_to_a_real_etcd_and_from_it() {
    alone(mirrors).await;
}

fn mirrors(address: SocketAddr) {
    let etcd = Etcd::start();
    let until = |ask: &dyn Fn() -> String, wanted: &str| {
        let deadline = std::time::Instant::now() + support::PATIENCE;
        loop {
            let found = ask();
            if found == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{found} is not {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until(&|| says_at_last(etcd.address, &["put", "probe", "1"]), "OK");
    for (from, to) in [(address, etcd.address), (etcd.address, address)] {
        says(from, &["put", "m/before", "1"]);
        let mut mirror = etcdctl(from, &["make-mirror", "--prefix=m/", "--dest-prefix=copy/"]);
        let _mirror = Running(mirror.arg(to.to_string()).stdout(Stdio::null()).spawn().unwrap());
        until(&|| says(to, &["get", "--prefix", "copy/"]), "copy/before\n1");
        says(from, &["put", "m/after", "2"]);
        says(from, &["del", "m/before"]);
        until(&|| says(to, &["get", "--prefix", "copy/"]), "copy/after\n2");
        says(from, &["del", "--prefix", "m/"]);
        until(&|| says(to, &["get", "--prefix", "copy/"]), "");
    }
}

/// What etcdctl prints, if it has succeeded: the server may not answer yet.
fn says_at_last(address: SocketAddr, words: &[&str]) -> String {
    String::from_utf8_lossy(&etcdctl(address, words).output().unwrap().stdout).trim().to_owned()
}

/// Makes requests about the keys of one seed.
struct Maker {
    random: Random,
    prefix: String,
    /// The revision when it began.
    base: i64,
}

#[derive(Clone, Debug)]
enum Ask {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
}

impl Maker {
    fn key(&mut self) -> bytes::Bytes {
        if self.random.one_in(60) {
            return bytes("");
        }
        const NAMES: [&str; 7] = ["a", "aa", "b", "c", "d", "e", "\u{0}"];
        bytes(&format!("{}{}", self.prefix, NAMES[self.random.below(7) as usize]))
    }
    fn end(&mut self) -> bytes::Bytes {
        match self.random.below(8) {
            0..4 => bytes(""),
            4 => end_of(&self.prefix),
            5 => bytes("\u{0}"),
            _ => self.key(),
        }
    }
    fn value(&mut self) -> bytes::Bytes {
        bytes(["", "1", "2", "10", "x"][self.random.below(5) as usize])
    }
    fn lease(&mut self) -> i64 {
        if self.random.one_in(3) { 1000 + self.random.below(5) as i64 } else { 0 }
    }
    fn revision(&mut self) -> i64 {
        self.base + self.random.below(40) as i64 - 1
    }
    fn bound(&mut self) -> i64 {
        if self.random.one_in(6) { self.revision() } else { 0 }
    }

    fn range(&mut self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: if self.random.one_in(2) { self.random.below(4) as i64 } else { 0 },
            revision: if self.random.one_in(4) { self.revision() } else { 0 },
            sort_order: self.random.below(3) as i32,
            sort_target: self.random.below(5) as i32,
            serializable: self.random.one_in(4),
            keys_only: self.random.one_in(4),
            count_only: self.random.one_in(6),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }
    fn put(&mut self) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.random.one_in(8), self.random.one_in(8));
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && !self.random.one_in(4) { bytes("") } else { self.value() },
            lease: if ignore_lease && !self.random.one_in(4) { 0 } else { self.lease() },
            prev_kv: self.random.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }
    fn delete(&mut self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.random.one_in(2) }
    }
    fn compare(&mut self) -> pb::Compare {
        use pb::compare::TargetUnion as Of;
        let target = self.random.below(5) as i32;
        let union = match target {
            0 => Of::Version(self.random.below(4) as i64 - 1),
            1 => Of::CreateRevision(self.bound()),
            2 => Of::ModRevision(self.bound()),
            3 => Of::Value(self.value()),
            _ => Of::Lease(self.lease()),
        };
        pb::Compare {
            result: self.random.below(4) as i32,
            target,
            key: self.key(),
            target_union: Some(union),
            range_end: self.end(),
        }
    }
    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let list = |maker: &mut Self| -> Vec<pb::RequestOp> {
            let count = maker.random.below(4);
            (0..count).map(|_| maker.op(depth)).collect()
        };
        let (success, failure) = (list(self), list(self));
        let compares = self.random.below(3);
        pb::TxnRequest { compare: (0..compares).map(|_| self.compare()).collect(), success, failure }
    }
    fn op(&mut self, depth: u32) -> pb::RequestOp {
        let request = match self.random.below(8) {
            0 | 1 => Asked::RequestRange(self.range()),
            2..5 => Asked::RequestPut(self.put()),
            5 => Asked::RequestDeleteRange(self.delete()),
            _ if depth < 2 => Asked::RequestTxn(self.txn(depth + 1)),
            _ => Asked::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }
    fn ask(&mut self) -> Ask {
        let id = 1000 + self.random.below(5) as i64;
        match self.random.below(20) {
            0..6 => Ask::Put(self.put()),
            6..10 => Ask::Range(self.range()),
            10..12 => Ask::Delete(self.delete()),
            12..16 => Ask::Txn(self.txn(0)),
            16 => Ask::Grant(pb::LeaseGrantRequest { ttl: 5000, id }),
            17 => Ask::Revoke(pb::LeaseRevokeRequest { id }),
            18 => Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true }),
            _ if self.random.one_in(4) => Ask::Compact(pb::CompactionRequest {
                revision: self.revision(),
                physical: self.random.one_in(2),
            }),
            _ => Ask::Put(self.put()),
        }
    }
}

async fn tell(client: &mut Client, ask: Ask) -> String {
    match ask {
        Ask::Range(asked) => told(client.kv.range(asked).await, |answer| plain(&mut answer.header)),
        Ask::Put(asked) => told(client.kv.put(asked).await, |answer| plain(&mut answer.header)),
        Ask::Delete(asked) => told(client.kv.delete_range(asked).await, |answer| plain(&mut answer.header)),
        Ask::Txn(asked) => told(client.kv.txn(asked).await, |answer| plain(&mut answer.header)),
        Ask::Compact(asked) => told(client.kv.compact(asked).await, |answer| plain(&mut answer.header)),
        Ask::Grant(asked) => told(client.lease.lease_grant(asked).await, |answer| plain(&mut answer.header)),
        Ask::Revoke(asked) => {
            told(client.lease.lease_revoke(asked).await, |answer| plain(&mut answer.header))
        }
        Ask::TimeToLive(asked) => told(client.lease.lease_time_to_live(asked).await, |answer| {
            plain(&mut answer.header);
            answer.ttl = answer.ttl.signum();
            answer.keys.sort();
        }),
    }
}

#[tokio::test]
async fn etcd_and_quorate_answer_alike() {
    let etcd = Etcd::start();
    let server = Server::start().await;
    let mut both = [Client::connect(etcd.address).await, server.client().await];
    let length: u64 = std::env::var("LENGTH").map_or(60, |text| text.parse().unwrap());
    let mut asked = 0;
    for seed in seeds() {
        asked += run(seed, length, &mut both).await;
    }
    println!("{asked} requests were answered alike");
    server.stop().await;
}

async fn run(seed: u64, length: u64, both: &mut [Client; 2]) -> u64 {
    let replay = format!(
        "replay: SEEDS={seed}..{} LENGTH={length} cargo test -p quorate-etcd --test it peers::",
        seed + 1
    );
    let prefix = format!("s{seed:06}/");
    let mut bases = Vec::new();
    let mut watches = Vec::new();
    for client in both.iter_mut() {
        bases.push(client.put(&format!("{prefix}begin"), "").await);
        let create = pb::WatchCreateRequest { prev_kv: true, ..support::prefix_watch(&prefix) };
        watches.push(client.watching(create).await);
    }
    assert_eq!(bases[0], bases[1], "both have come to the same revision; {replay}");
    let mut maker = Maker { random: Random(seed), prefix: prefix.clone(), base: bases[0] };
    for number in 0..length {
        let ask = maker.ask();
        let [etcd, quorate] = both;
        let (wanted, found) = (tell(etcd, ask.clone()).await, tell(quorate, ask.clone()).await);
        assert_eq!(found, wanted, "(found: Quorate, wanted: etcd) request {number}: {ask:?}\n{replay}");
    }
    let mut heard = Vec::new();
    let end = format!("{prefix}end");
    for (client, watch) in both.iter_mut().zip(&mut watches) {
        let revision = client.put(&end, "").await;
        let last = format!("{revision} PUT {end}=");
        let mut events = Vec::new();
        while events.last() != Some(&last) {
            for event in watch.next().await.events {
                let kv = event.kv.as_ref().unwrap();
                assert_eq!(kv.create_revision == 0, event.r#type == 1, "{event:?}");
                events.push(support::shown(&event));
            }
        }
        // From somewhere in the middle on it is the same, unless that is compacted.
        let start_revision = bases[0] + 30;
        if start_revision < revision {
            let create = pb::WatchCreateRequest { start_revision, ..support::prefix_watch(&prefix) };
            let mut again = client.watching(create).await;
            let first = again.next().await;
            events.push(match first.events.first() {
                Some(event) => support::shown(event),
                None => format!("canceled {} at {}", first.canceled, first.compact_revision),
            });
        }
        heard.push(events);
    }
    assert_eq!(heard[1], heard[0], "(Quorate, etcd) events; {replay}");
    assert!(
        heard[0].iter().all(|event| event.contains(&prefix) || event.starts_with("canceled")),
        "{:?}",
        text(b"")
    );
    length
}
