//! A real server on port 0 over a real runtime on a temporary folder, and clients made from the same protocol files.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure.

pub(crate) mod etcd;
pub(crate) mod real;
#[path = "../../../testing.rs"]
mod testing;

use quorate_etcd::protocol::etcdserverpb as pb;
use quorate_etcd::{Config, serve};
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

pub(crate) use testing::PATIENCE;
use testing::Served;

/// A running server. Dropping it without [`Server::stop`] leaves the end to the process.
pub(crate) struct Server(Served);

impl Deref for Server {
    type Target = Served;
    fn deref(&self) -> &Served {
        &self.0
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self(
            Served::start(|listener, handle, stopped| async move {
                let shutdown = async move {
                    let _ = stopped.await;
                };
                serve(listener, handle, config, shutdown).await.unwrap();
            })
            .await,
        )
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// Clients of all services over one connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) kv: pb::kv_client::KvClient<Channel>,
    pub(crate) lease: pb::lease_client::LeaseClient<Channel>,
    pub(crate) watch: pb::watch_client::WatchClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        let until = Instant::now() + PATIENCE;
        let channel = loop {
            match Channel::from_shared(url.clone()).unwrap().connect().await {
                Ok(channel) => break channel,
                Err(why) => assert!(Instant::now() < until, "nobody answers at {url}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        Self {
            kv: pb::kv_client::KvClient::new(channel.clone()).max_decoding_message_size(1 << 30),
            lease: pb::lease_client::LeaseClient::new(channel.clone()),
            watch: pb::watch_client::WatchClient::new(channel.clone()).max_decoding_message_size(1 << 30),
            channel,
        }
    }

    pub(crate) async fn put(&mut self, key: &str, value: &str) -> i64 {
        let put = pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        self.kv.put(put).await.unwrap().into_inner().header.unwrap().revision
    }

    pub(crate) async fn delete(&mut self, key: &str) -> i64 {
        let delete = pb::DeleteRangeRequest { key: bytes(key), ..Default::default() };
        self.kv.delete_range(delete).await.unwrap().into_inner().header.unwrap().revision
    }

    /// Values of a prefix, in order of the keys.
    pub(crate) async fn values(&mut self, prefix: &str) -> Vec<String> {
        let found = self.kv.range(prefix_range(prefix)).await.unwrap().into_inner();
        found.kvs.iter().map(|kv| text(&kv.value)).collect()
    }

    pub(crate) async fn watches(&mut self) -> Watches {
        let (send, receive) = mpsc::channel(64);
        self.watches_of(send, receive).await
    }

    /// A stream with its first watch: etcd answers nothing before it was asked for one.
    pub(crate) async fn watching(&mut self, create: pb::WatchCreateRequest) -> Watches {
        let (send, receive) = mpsc::channel(64);
        let request = pb::watch_request::RequestUnion::CreateRequest(create);
        send.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
        let mut watches = self.watches_of(send, receive).await;
        let made = watches.next().await;
        assert!(made.created, "{made:?}");
        watches
    }

    async fn watches_of(
        &mut self,
        send: mpsc::Sender<pb::WatchRequest>,
        mut receive: mpsc::Receiver<pb::WatchRequest>,
    ) -> Watches {
        let requests = async_stream(move |cx| receive.poll_recv(cx));
        let answers = self.watch.watch(requests).await.unwrap().into_inner();
        Watches { send, answers }
    }
}

fn async_stream<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Send + 'static,
) -> impl tonic::codegen::tokio_stream::Stream<Item = T> + Send + 'static {
    struct Polled<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin>
        tonic::codegen::tokio_stream::Stream for Polled<F>
    {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Box::pin(Polled(Box::new(poll)))
}

/// One stream of watches.
pub(crate) struct Watches {
    pub(crate) send: mpsc::Sender<pb::WatchRequest>,
    pub(crate) answers: Streaming<pb::WatchResponse>,
}

impl Watches {
    pub(crate) async fn ask(&self, request: pb::watch_request::RequestUnion) {
        self.send.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    pub(crate) async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
        let made = self.next().await;
        assert!(made.created, "{made:?}");
        made
    }

    pub(crate) async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        next.expect("a watch answers in time").unwrap().expect("the stream goes on")
    }

    /// Events of one watch, as `revision PUT key=value` or `revision DELETE key`, until there are so many.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(self.next().await.events.iter().map(shown));
        }
        found
    }

    pub(crate) async fn silent(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(150), self.answers.message()).await;
        assert!(next.is_err(), "{next:?}");
    }
}

pub(crate) fn shown(event: &quorate_etcd::protocol::mvccpb::Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let prev = event.prev_kv.as_ref().map_or(String::new(), |prev| format!(" was {}", text(&prev.value)));
    if event.r#type == 0 {
        format!("{} PUT {}={}{prev}", kv.mod_revision, text(&kv.key), text(&kv.value))
    } else {
        format!("{} DELETE {}{prev}", kv.mod_revision, text(&kv.key))
    }
}

pub(crate) fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The end of the range of a prefix.
pub(crate) fn end_of(prefix: &str) -> bytes::Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    end.into()
}

pub(crate) fn prefix_range(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(prefix), range_end: end_of(prefix), ..Default::default() }
}

pub(crate) fn prefix_watch(prefix: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(prefix), range_end: end_of(prefix), ..Default::default() }
}

/// What was refused, as code and text.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}
