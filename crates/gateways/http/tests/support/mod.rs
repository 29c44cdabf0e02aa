//! A real server on port 0 over a real runtime on a temporary folder, and a plain client that sees every byte.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure.

#[path = "../../../testing.rs"]
mod testing;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use quorate_http::{Config, serve};
use serde_json::Value;
use std::ops::Deref;
use tokio::net::TcpStream;

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

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["error"], code, "{body}");
        assert_eq!(body["status"], status);
        body
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

    /// Stops serving, and waits until it has ended.
    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .expect("an answer in time")
            .unwrap()
            .to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends a request on a connection of its own, and gives the answer once its head is there.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .expect("an answer in time")
            .unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[], body.to_string()).await
    }
    pub(crate) async fn commit(&self, body: Value) -> Answer {
        self.post("/v1/commit", body).await
    }
    pub(crate) async fn lease(&self, ttl: &str) -> u64 {
        let granted = self.post("/v1/leases", serde_json::json!({"ttl": ttl})).await.ok();
        granted["lease"].as_u64().unwrap()
    }

    /// Opens an event stream.
    pub(crate) async fn events(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let headers: Vec<_> = headers.iter().copied().chain([("accept", "text/event-stream")]).collect();
        let response = self.open("GET", path, &headers, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), read: String::new() }
    }
}

/// An event as a client sees it.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An open event stream.
pub(crate) struct Events {
    body: Incoming,
    read: String,
}

impl Events {
    /// The next event that is no comment and no `progress`; nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((text, rest)) = self.read.split_once("\n\n") {
                let mut event = Event::default();
                for line in text.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => event.id = Some(id.into()),
                        Some(("event", name)) => event.name = name.into(),
                        Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.read = rest.into();
                if !event.name.is_empty() && event.name != "progress" {
                    return Some(event);
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            let data = frame.unwrap().into_data().unwrap();
            self.read.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next event, which must have this name.
    pub(crate) async fn named(&mut self, name: &str) -> Event {
        let event = self.next().await.expect("the stream goes on");
        assert_eq!(event.name, name, "{event:?}");
        event
    }
}
