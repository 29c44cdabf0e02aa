//! One stream behind three protocols: what a Kafka client produces is read by Redis and HTTP, and the other way round, in one order.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use std::net::SocketAddr;
use std::path::Path;
use support::{Server, batch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The other gateways over the same data.
struct Others {
    redis: SocketAddr,
    http: SocketAddr,
    stop: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Others {
    async fn start(server: &Server) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (redis, http) = (listen().await, listen().await);
        let mut others = Self {
            redis: redis.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            stop: Vec::new(),
            tasks: Vec::new(),
        };
        let handle = server.data.handle();
        let until = others.stopped();
        others.tasks.push(tokio::spawn(async move {
            quorate_redis::serve(redis, handle, quorate_redis::Config::default(), until).await.unwrap();
        }));
        let handle = server.data.handle();
        let until = others.stopped();
        others.tasks.push(tokio::spawn(async move {
            quorate_http::serve(http, handle, quorate_http::Config::default(), until).await.unwrap();
        }));
        others
    }

    fn stopped(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let (stop, stopped) = oneshot::channel();
        self.stop.push(stop);
        async move {
            let _ = stopped.await;
        }
    }

    async fn stop(self) {
        drop(self.stop);
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// What Redis answers to commands, as its bytes.
    async fn redis(&self, commands: &str) -> String {
        self.exchange(self.redis, &format!("{commands}\r\nQUIT\r\n")).await
    }

    /// What HTTP answers.
    async fn http(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        );
        self.exchange(self.http, &format!("{head}content-length: {length}\r\n\r\n{body}")).await
    }

    async fn exchange(&self, address: SocketAddr, sent: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let read = stream.read_to_end(&mut told);
        tokio::time::timeout(support::PATIENCE, read).await.expect("the server answers").unwrap();
        String::from_utf8(told).unwrap()
    }
}

/// The words of a RESP reply, lengths and counts left out.
fn words(reply: &str) -> Vec<&str> {
    reply.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty()).collect()
}

#[tokio::test]
async fn one_stream_is_the_same_for_three_protocols() {
    let server = Server::start().await;
    let others = Others::start(&server).await;
    let mut client = server.client().await;
    client.make("s").await;
    client.produce("s", 0, batch(&["a", "b"])).await;
    others.redis("XADD s * @key k2 @h:n v @value c").await;
    others.http("POST", "/v1/streams/s/records", r#"{"value":"d","key":"k3"}"#).await;
    client.produce("s", 0, batch(&["e"])).await;

    let values: Vec<String> =
        client.fetch("s", 0, 0).await.values().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["a", "b", "c", "d", "e"]);
    let range = others.redis("XRANGE s - +").await;
    let found: Vec<&str> =
        words(&range).into_iter().filter(|word| !word.contains('-') && *word != "+OK").collect();
    let record = |value| ["@key", "k", "@h:h", "x", "@value", value];
    let mut wanted = [record("a"), record("b")].concat();
    wanted.extend(["@key", "k2", "@h:n", "v", "@value", "c", "@key", "k3", "@value", "d"]);
    wanted.extend(record("e"));
    assert_eq!(found, wanted, "{range}");
    assert!(others.redis("XLEN s").await.starts_with(":5"));
    assert!(others.redis("XREAD COUNT 1 STREAMS s 0").await.contains("\r\na\r\n"));
    let read = others.http("GET", "/v1/streams/s/records?offset=1&max=4", "").await;
    assert!(read.contains(r#""offset":1"#) && read.contains(r#""key":"k""#), "{read}");
    assert!(read.contains(r#""value":"b""#) && read.contains(r#""value":"c""#), "{read}");
    assert!(read.contains(r#"{"name":"h","value":"x"}"#), "{read}");
    // A record of a batch is part of it; a topic is left alone by key commands.
    let first = words(&range)[0];
    assert!(others.redis(&format!("XDEL s {first}")).await.starts_with("-"), "{first}");
    assert!(others.redis("DEL s").await.starts_with('-'));
    others.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_group_takes_records_out_of_batches_and_its_dead_letters_are_batches_here() {
    let server = Server::start().await;
    let others = Others::start(&server).await;
    let mut client = server.client().await;
    client.make("jobs").await;
    client.produce("jobs", 0, batch(&["first", "second"])).await;
    let group = r#"{"mode":"shared","visibility":"1m","deliveries_max":1,"dead_letter":"dead"}"#;
    let made = others.http("PUT", "/v1/streams/jobs/groups/g", group).await;
    assert!(made.contains(" 200 "), "{made}");
    let take = r#"{"consumer":"w","max":2}"#;
    let taken = others.http("POST", "/v1/streams/jobs/groups/g/take", take).await;
    assert!(taken.contains(r#""value":"first""#) && taken.contains(r#""value":"second""#), "{taken}");
    let nack = r#"{"deliveries":[{"partition":0,"offset":1,"attempt":1}]}"#;
    let nacked = others.http("POST", "/v1/streams/jobs/groups/g/nack", nack).await;
    assert!(nacked.contains(" 200 "), "{nacked}");
    let dead = client.fetch("dead", 0, 5000).await;
    assert_eq!(dead.values(), [(0, "second".to_owned())], "one record of the batch, in a batch of its own");
    others.stop().await;
    server.stop().await;
}

/// Compressed by a library that is not ours.
#[tokio::test]
async fn every_compression_is_read_by_redis() {
    let server = Server::start().await;
    let others = Others::start(&server).await;
    let address = server.address;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let done = tokio::task::spawn_blocking(move || {
        let folder = root.join("target/kafka-clients");
        let filled =
            std::process::Command::new(root.join("scripts/kafka-clients.sh")).arg(&folder).output().unwrap();
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        let story = "import sys\nfrom confluent_kafka import Producer\n\
            for codec in ['none', 'gzip', 'snappy', 'lz4', 'zstd']:\n\
            \x20   producer = Producer({'bootstrap.servers': sys.argv[1], 'compression.type': codec, 'linger.ms': 50})\n\
            \x20   for number in range(100):\n\
            \x20       producer.produce('s', f'{codec}:{number} '.encode() * 20, headers=[('h', b'x')])\n\
            \x20   assert producer.flush(20) == 0\n";
        std::process::Command::new(folder.join("venv/bin/python"))
            .args(["-c", story, &address.to_string()])
            .output()
            .unwrap()
    });
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let range = others.redis("XRANGE s - +").await;
    let values: Vec<&str> =
        words(&range).into_iter().filter(|word| word.contains(':') && !word.starts_with('@')).collect();
    let wanted = ["none", "gzip", "snappy", "lz4", "zstd"]
        .iter()
        .flat_map(|codec| (0..100).map(move |number| format!("{codec}:{number} ").repeat(20)));
    assert_eq!(values, wanted.collect::<Vec<_>>());
    others.stop().await;
    server.stop().await;
}
