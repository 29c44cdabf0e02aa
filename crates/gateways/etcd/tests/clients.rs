//! Unmodified clients, end to end: each story is a program that an application's author could have written, and runs against a real etcd too, so
//! that a wrong story is noticed. Where a story prints what it was told, both servers have to have told the same.
//!
//! The libraries are put into `target/etcd-clients` by `scripts/etcd-clients.sh`: a machine that cannot have them fails the test.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::etcd::{Etcd, folder};
use support::{Client, Server};

#[tokio::test]
async fn python_etcd3_does_what_applications_do_with_it() {
    story("python_etcd3.py").await;
}

#[tokio::test]
async fn etcd3_of_npm_does_what_applications_do_with_it() {
    story("node_etcd3.cjs").await;
}

#[tokio::test]
async fn etcd_client_of_rust_does_what_applications_do_with_it() {
    story("rust_etcd_client").await;
}

#[tokio::test]
async fn patroni_elects_and_hands_over_as_with_etcd() {
    story("patroni_members.py").await;
}

#[tokio::test]
async fn an_apiserver_is_answered_as_by_etcd() {
    story("kubernetes.py").await;
}

/// Runs a program of `tests/clients` to its good end, beside etcd and beside Quorate.
async fn story(name: &'static str) {
    let server = Server::start().await;
    let quorate = server.address;
    let etcd = tokio::task::spawn_blocking(|| {
        folder();
        Etcd::start()
    });
    let etcd = etcd.await.unwrap();
    Client::connect(etcd.address).await;
    let address = etcd.address;
    let told = tokio::task::spawn_blocking(move || [run(name, address), run(name, quorate)]);
    let [wanted, found] = told.await.unwrap();
    assert_eq!(found, wanted, "(found: Quorate, wanted: etcd)");
    server.stop().await;
}

/// What a program prints.
fn run(name: &str, address: SocketAddr) -> String {
    let mut command = match name.rsplit_once('.') {
        Some((_, "py")) => Command::new(libraries().join("venv/bin/python")),
        Some(_) => Command::new("node"),
        None => Command::new(libraries().join("rust/debug/rust-etcd-client")),
    };
    command.env("NODE_PATH", libraries().join("node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
    if name.contains('.') {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    }
    let done = command.arg(address.ip().to_string()).arg(address.port().to_string()).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{name}: {told}{}", String::from_utf8_lossy(&done.stderr));
    told
}

/// The folder with the libraries, filled at first use.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let folder = root.join("target/etcd-clients");
        let done = Command::new(root.join("scripts/etcd-clients.sh")).arg(&folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder.canonicalize().unwrap()
    })
}
