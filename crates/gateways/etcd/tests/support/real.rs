//! What is asked of etcd and of ours, and how their answers are compared: etcdctl as it is, and random choices.

use super::Server;
use super::etcd::folder;
use quorate_etcd::protocol::etcdserverpb as pb;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::process::Command;
use tonic::{Response, Status};

pub(crate) fn etcdctl(address: SocketAddr, words: &[&str]) -> Command {
    let mut command = Command::new(folder().join("etcdctl"));
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://{address}")).args(words);
    command
}

/// Runs a story that blocks, against a server of its own.
pub(crate) async fn alone(story: fn(SocketAddr)) {
    let server = Server::start().await;
    let address = server.address;
    tokio::task::spawn_blocking(move || story(address)).await.unwrap();
    server.stop().await;
}

/// What etcdctl prints; it has to succeed.
pub(crate) fn says(address: SocketAddr, words: &[&str]) -> String {
    let done = etcdctl(address, words).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{words:?}: {out}{err}");
    out.trim().to_owned()
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An answer as text, without what tells one server from another.
pub(crate) fn told<T: Debug>(answer: Result<Response<T>, Status>, tidy: impl FnOnce(&mut T)) -> String {
    match answer {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            tidy(&mut answer);
            format!("{answer:?}")
        }
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

pub(crate) fn plain(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

pub(crate) fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SEEDS") else { return 0..40 };
    let (start, end) = text.split_once("..").expect("SEEDS=0..100");
    start.parse().unwrap()..end.parse().unwrap()
}
