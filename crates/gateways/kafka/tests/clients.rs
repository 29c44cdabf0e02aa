//! Unmodified clients, end to end: each story is a program that an application's author could have written, and checks for itself what it was
//! told. Records that a story leaves are read by the next client too.
//!
//! The clients are put into `target/kafka-clients` by `scripts/kafka-clients.sh`: a machine that cannot have them fails the test.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_types::{Command as Change, CommandBody, CommandRule, NameRule, UserChange, Verbs};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::Server;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

#[tokio::test]
async fn confluent_kafka_produces_consumes_and_administers() {
    story("confluent.py").await;
}

#[tokio::test]
async fn kafka_python_produces_consumes_and_administers() {
    story("kafka_python.py").await;
}

#[tokio::test]
async fn aiokafka_produces_and_consumes() {
    story("aio.py").await;
}

#[tokio::test]
async fn kafkajs_produces_and_administers() {
    story("kafkajs.cjs").await;
}

#[tokio::test]
async fn consumers_of_confluent_kafka_share_a_topic() {
    story("groups_confluent.py").await;
}

#[tokio::test]
async fn consumers_of_confluent_kafka_have_a_topic_divided_by_the_server() {
    let config = quorate_kafka::Config {
        consumer_session: Duration::from_secs(2),
        consumer_heartbeat: Duration::from_millis(200),
        ..quorate_kafka::Config::default()
    };
    let server = Server::with(config).await;
    let address = server.address;
    tokio::task::spawn_blocking(move || run("groups_consumer.py", address, address)).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn consumers_of_kafka_python_share_a_topic() {
    story("groups_kafka_python.py").await;
}

#[tokio::test]
async fn consumers_of_aiokafka_share_a_topic() {
    story("groups_aio.py").await;
}

#[tokio::test]
async fn consumers_of_kafkajs_share_a_topic() {
    story("groups_kafkajs.cjs").await;
}

#[tokio::test]
async fn transactions_of_confluent_kafka_kafka_python_and_aiokafka_are_whole_or_never() {
    story("transactions.py").await;
}

#[tokio::test]
async fn transactions_of_kafkajs_are_whole_or_never() {
    story("transactions.cjs").await;
}

#[tokio::test]
async fn guards_and_changes_of_keys_ride_with_batches_of_confluent_kafka() {
    story("guards.py").await;
}

#[tokio::test]
async fn confluent_kafka_kafka_python_and_aiokafka_prove_who_they_are() {
    by_name("sasl.py").await;
}

#[tokio::test]
async fn clients_speak_tls_to_whom_their_authority_vouches_for() {
    let made = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (ours, other) = (made(), made());
    let key = PrivatePkcs8KeyDer::from(ours.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![ours.cert.der().clone()], key.into())
        .unwrap();
    let tls = Some(Arc::new(tls).into());
    let server = Server::with(quorate_kafka::Config { tls, ..quorate_kafka::Config::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let more = [file("ours.pem", ours.cert.pem()), file("other.pem", other.cert.pem())];
    let address = server.address;
    tokio::task::spawn_blocking(move || run_with("tls.py", address, address, &more)).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn kafkajs_proves_who_it_is() {
    by_name("sasl.cjs").await;
}

#[tokio::test]
async fn a_worker_that_is_killed_again_and_again_does_everything_once() {
    story("exactly_once.py").await;
}

#[tokio::test]
async fn the_crate_rdkafka_produces_consumes_and_moves_records_in_transactions() {
    story("rdkafka-story").await;
}

#[tokio::test]
async fn kcat_reads_what_it_wrote_and_what_others_wrote() {
    let server = Server::start().await;
    let address = server.address;
    let kcat = move |arguments: &[&str], input: &str| {
        let mut child = Command::new(clients().join("kcat"))
            .args(["-b", &address.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let read = tokio::task::spawn_blocking(move || {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            kcat(
                &["-t", "orders", "-P", "-K", ":", "-z", codec, "-H", "by=kcat"],
                &format!("{codec}:value\n"),
            );
        }
        assert!(kcat(&["-L"], "").contains("topic \"orders\" with 1 partitions"));
        // As a member of a group, twice: the second finds nothing that the first has not read.
        let read =
            ["-G", "readers", "-X", "auto.offset.reset=earliest", "-c", "5", "-q", "-f", "%o\\n", "orders"];
        assert_eq!(kcat(&read, "").lines().count(), 5);
        kcat(&["-t", "orders", "-P"], "later\n");
        let next = [
            "-G",
            "readers",
            "-X",
            "auto.offset.reset=earliest",
            "-c",
            "1",
            "-q",
            "-f",
            "%o=%s\\n",
            "orders",
        ];
        assert_eq!(kcat(&next, ""), "5=later\n");
        kcat(&["-t", "orders", "-C", "-e", "-q", "-c", "5", "-f", "%o %k=%s %h\n"], "")
    });
    let wanted = ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate();
    let wanted: Vec<String> = wanted.map(|(at, codec)| format!("{at} {codec}=value by=kcat")).collect();
    assert_eq!(read.await.unwrap().lines().collect::<Vec<_>>(), wanted);
    server.stop().await;
}

/// Runs a program to its good end behind a door that only a user may enter, whose name and password are not the simplest.
async fn by_name(name: &'static str) {
    let server = Server::start().await;
    server.client().await.make("t").await;
    let handle = server.data.handle();
    let scram = handle.verifier("correct horse, é".into(), vec![]).await.unwrap().unwrap();
    let verbs = Verbs::READ.and(Verbs::WRITE);
    let ann = vec![
        UserChange::Enable { on: true },
        UserChange::AddScram { scram },
        UserChange::Command { rule: CommandRule { allow: true, what: "@all".into() } },
        UserChange::Name { rule: NameRule { allow: true, verbs, space: None, pattern: "*".into() } },
    ];
    for (name, changes) in
        [("ann", ann.clone()), ("ann,=é", ann), ("default", vec![UserChange::Enable { on: false }])]
    {
        let body = CommandBody::ChangeUser { name: name.into(), changes, may_lock_out: true };
        handle.command(Change::new("server".into(), body)).await.unwrap();
    }
    let address = server.address;
    tokio::task::spawn_blocking(move || run(name, address, address)).await.unwrap();
    server.stop().await;
}

/// Runs a program of `tests/clients` to its good end.
async fn story(name: &'static str) {
    let server = Server::start().await;
    let address = server.address;
    // What a story changes beside its topics it reads over HTTP.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = listener.local_addr().unwrap();
    let handle = server.data.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let until = async move {
            let _ = stopped.await;
        };
        quorate_http::serve(listener, handle, quorate_http::Config::default(), until).await.unwrap();
    });
    tokio::task::spawn_blocking(move || run(name, address, http)).await.unwrap();
    drop(stop);
    serving.await.unwrap();
    server.stop().await;
}

fn run(name: &str, address: SocketAddr, http: SocketAddr) {
    run_with(name, address, http, &[]);
}

fn run_with(name: &str, address: SocketAddr, http: SocketAddr, more: &[String]) {
    let mut command = match name.rsplit_once('.') {
        Some((_, "py")) => Command::new(clients().join("venv/bin/python")),
        Some(_) => Command::new("node"),
        // Built where the clients are: `scripts/kafka-rdkafka`.
        None => Command::new(clients().join(name)),
    };
    command.env("NODE_PATH", clients().join("node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("QUORATE_HTTP", http.to_string());
    if name.contains('.') {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    }
    let done = command.arg(address.to_string()).args(more).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{name}: {told}{}", String::from_utf8_lossy(&done.stderr));
}

/// The folder with the clients, filled at first use.
fn clients() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let folder = root.join("target/kafka-clients");
        let done = Command::new(root.join("scripts/kafka-clients.sh")).arg(&folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder.canonicalize().unwrap()
    })
}
