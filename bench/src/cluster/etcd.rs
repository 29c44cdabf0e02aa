//! A lean client of etcd's v3 API: gRPC over HTTP/2, its few protobuf messages written by hand.
//!
//! Lean so that the generator takes as little as possible from the cores that it shares with the servers, etcd's as well as ours.
//! Source: etcd `api/etcdserverpb/rpc.proto`, `server/etcdserver/api/v3lock/v3lockpb/v3lock.proto`; gRPC over HTTP/2, "Requests" and "Responses".
//! Called by: `load`, `watchers`, `memory`.

use super::load::{Client, Operation};
use super::protobuf::{bytes as put_bytes, find_bytes, find_number, number as put_number};
use super::{Failure, VALUE_BYTES};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connections in all, whatever the number of clients: what etcd's own `benchmark --conns=100` uses in its published figures.
pub(crate) const CONNECTIONS_MAX: usize = 100;
/// Seconds that a client's lease lives: no measurement takes as long.
const LEASE_TTL: u64 = 3600;

/// A connection, which clients may share.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    /// Must run inside a `LocalSet`: the connection is driven by a task of its own.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
        let (sender, driver) = builder.handshake(stream).await?;
        tokio::task::spawn_local(async move {
            // A connection that breaks fails the requests on it, which is where it is reported.
            let _ = driver.await;
        });
        Ok(Self { sender, authority: address.to_string() })
    }

    /// Writes many keys in one transaction.
    pub(crate) async fn fill(&mut self, keys: std::ops::Range<u64>) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        for key in keys {
            let mut operation = BytesMut::new();
            put_bytes(&mut operation, 2, &put_request(&name(key), &[b'x'; VALUE_BYTES]));
            put_bytes(&mut message, 2, &operation);
        }
        self.call("/etcdserverpb.KV/Txn", &message).await?;
        Ok(())
    }

    /// Writes one key.
    pub(crate) async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Failure> {
        self.call("/etcdserverpb.KV/Put", &put_request(key, value)).await?;
        Ok(())
    }

    /// A call without a message, to a server that does nothing.
    pub(crate) async fn echo(&mut self) -> Result<(), Failure> {
        self.call("/wall/Echo", &[]).await.map(drop)
    }

    /// A unary call; the message of the answer.
    async fn call(&mut self, path: &'static str, message: &[u8]) -> Result<Bytes, Failure> {
        let (answer, mut body) = self.begin(path).await?;
        body.send_data(framed(message)?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut message = match body.data().await {
            Some(chunk) => chunk?,
            None => Bytes::new(),
        };
        body.flow_control().release_capacity(message.len())?;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            message = [message, chunk].concat().into();
        }
        let trailers = body.trailers().await?;
        succeeded(trailers.as_ref().unwrap_or(&head.headers))?;
        message.advance(message.len().min(5));
        Ok(message)
    }

    /// A call whose requests and answers follow each other.
    pub(crate) async fn stream(&mut self, path: &'static str, first: &[u8]) -> Result<Stream, Failure> {
        let (answer, mut send) = self.begin(path).await?;
        // A server may answer no earlier than it has something to say: the first request goes before its headers are awaited.
        send.send_data(framed(first)?, false)?;
        let receive = answer.await?.into_body();
        Ok(Stream { send, receive, waiting: BytesMut::new() })
    }

    async fn begin(
        &mut self,
        path: &'static str,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let ready = self.sender.clone().ready().await?;
        self.sender = ready;
        Ok(self.sender.send_request(request, false)?)
    }
}

/// An open call in both directions.
pub(crate) struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    waiting: BytesMut,
}

impl Stream {
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        Ok(self.send.send_data(framed(message)?, false)?)
    }

    /// The next message.
    ///
    /// # Errors
    /// The stream has ended.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(head) = self.waiting.get(1..5) {
                let length = 5 + u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
                if self.waiting.len() >= length {
                    return Ok(self.waiting.split_to(length).freeze().slice(5..));
                }
            }
            let Some(chunk) = self.receive.data().await else {
                let trailers = self.receive.trailers().await?;
                trailers.as_ref().map_or(Ok(()), succeeded)?;
                return Err("the server has ended a stream".into());
            };
            let chunk = chunk?;
            self.receive.flow_control().release_capacity(chunk.len())?;
            self.waiting.put_slice(&chunk);
        }
    }
}

/// One client of etcd's API, on a connection that it may share.
pub(crate) struct EtcdClient {
    connection: Connection,
    /// Its place among the clients: the name of its lock.
    number: usize,
    lease: u64,
    alive: Option<Stream>,
}

impl EtcdClient {
    /// A client that is ready for `operation`.
    pub(crate) async fn new(
        mut connection: Connection,
        operation: Operation,
        number: usize,
    ) -> Result<Self, Failure> {
        let mut lease = 0;
        if operation.wants_lease() {
            let mut request = BytesMut::new();
            put_number(&mut request, 1, LEASE_TTL);
            let answer = connection.call("/etcdserverpb.Lease/LeaseGrant", &request).await?;
            lease = find_number(&answer, 2)?;
        }
        Ok(Self { connection, number, lease, alive: None })
    }

    async fn get(&mut self, key: u64, serializable: bool) -> Result<(), Failure> {
        let mut request = BytesMut::with_capacity(24);
        put_bytes(&mut request, 1, name(key).as_bytes());
        if serializable {
            put_number(&mut request, 7, 1);
        }
        let answer = self.connection.call("/etcdserverpb.KV/Range", &request).await?;
        if answer.len() < VALUE_BYTES {
            return Err(format!("a read brought {} bytes, too few for the value", answer.len()).into());
        }
        Ok(())
    }

    /// Takes a lock and gives it back.
    async fn lock(&mut self, name: &str) -> Result<(), Failure> {
        let mut request = BytesMut::with_capacity(64);
        put_bytes(&mut request, 1, name.as_bytes());
        put_number(&mut request, 2, self.lease);
        let held = self.connection.call("/v3lockpb.Lock/Lock", &request).await?;
        let mut request = BytesMut::with_capacity(64);
        put_bytes(&mut request, 1, find_bytes(&held, 2)?);
        self.connection.call("/v3lockpb.Lock/Unlock", &request).await?;
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), Failure> {
        let mut request = BytesMut::with_capacity(16);
        put_number(&mut request, 1, self.lease);
        let stream = match &mut self.alive {
            Some(stream) => {
                stream.send(&request)?;
                stream
            }
            none => {
                let stream = self.connection.stream("/etcdserverpb.Lease/LeaseKeepAlive", &request).await?;
                none.insert(stream)
            }
        };
        let answer = stream.next().await?;
        if find_number(&answer, 3)? == 0 {
            return Err("a lease that was kept alive is gone".into());
        }
        Ok(())
    }
}

impl Client for EtcdClient {
    async fn run(&mut self, operation: Operation, key: u64) -> Result<(), Failure> {
        match operation {
            Operation::Put => self.connection.put(&name(key), &[b'x'; VALUE_BYTES]).await,
            Operation::Get => self.get(key, false).await,
            Operation::Serializable => self.get(key, true).await,
            Operation::Lock => self.lock(&format!("lock{}", self.number)).await,
            Operation::Handoff => self.lock("contended").await,
            Operation::KeepAlive => self.keep_alive().await,
            Operation::Echo => self.connection.echo().await,
        }
    }
}

fn succeeded(headers: &HeaderMap) -> Result<(), Failure> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("missing").to_owned();
    let status = text("grpc-status");
    if status == "0" { Ok(()) } else { Err(format!("grpc status {status}: {}", text("grpc-message")).into()) }
}

pub(crate) fn name(key: u64) -> String {
    format!("key{key:08}")
}

fn put_request(key: &str, value: &[u8]) -> BytesMut {
    let mut request = BytesMut::with_capacity(value.len() + key.len() + 8);
    put_bytes(&mut request, 1, key.as_bytes());
    put_bytes(&mut request, 2, value);
    request
}

/// A message behind gRPC's prefix: not compressed, and its length.
fn framed(message: &[u8]) -> Result<Bytes, Failure> {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len())?);
    frame.put_slice(message);
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_status_zero_is_a_success() {
        let mut headers = HeaderMap::new();
        assert!(succeeded(&headers).is_err());
        headers.insert("grpc-status", "14".parse().unwrap());
        assert!(succeeded(&headers).unwrap_err().to_string().contains("14"));
        headers.insert("grpc-status", "0".parse().unwrap());
        assert!(succeeded(&headers).is_ok());
    }
}
