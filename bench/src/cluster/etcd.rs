//! A lean client of etcd's v3 API: gRPC over HTTP/2, its few protobuf messages written by hand.
//!
//! Lean so that the generator takes as little as possible from the cores that it shares with the servers, etcd's as well as ours.
//! Source: etcd `api/etcdserverpb/rpc.proto` (PutRequest, RangeRequest, TxnRequest); gRPC over HTTP/2, "Requests" and "Responses".
//! Called by: `load`.

use super::load::Client;
use super::{Failure, VALUE_BYTES};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connections in all, whatever the number of clients: what etcd's own `benchmark --conns=100` uses in its published figures.
pub(crate) const CONNECTIONS_MAX: usize = 100;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// One client of etcd, on a connection that it may share.
#[derive(Clone)]
pub(crate) struct EtcdClient {
    connection: SendRequest<Bytes>,
    authority: String,
}

impl EtcdClient {
    /// Must run inside a `LocalSet`: the connection is driven by a task of its own.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = h2::client::handshake(stream).await?;
        tokio::task::spawn_local(async move {
            // A connection that breaks fails the requests on it, which is where it is reported.
            let _ = driver.await;
        });
        Ok(Self { connection, authority: address.to_string() })
    }

    /// Writes many keys in one transaction.
    pub(crate) async fn fill(&mut self, keys: std::ops::Range<u64>) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        for key in keys {
            let put = put_request(key);
            let mut operation = BytesMut::new();
            field(&mut operation, 2, &put);
            field(&mut message, 2, &operation);
        }
        self.call(TXN, &message).await?;
        Ok(())
    }

    /// A unary call; the bytes of the answer's message.
    async fn call(&mut self, path: &'static str, message: &[u8]) -> Result<usize, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len())?);
        frame.put_slice(message);
        let ready = self.connection.clone().ready().await?;
        self.connection = ready;
        let (answer, mut body) = self.connection.send_request(request, false)?;
        body.send_data(frame.freeze(), true)?;
        let answer = answer.await?;
        let (head, mut body) = answer.into_parts();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            length += chunk.len();
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?;
        succeeded(trailers.as_ref().unwrap_or(&head.headers))?;
        Ok(length.saturating_sub(5))
    }
}

impl Client for EtcdClient {
    async fn put(&mut self, key: u64) -> Result<(), Failure> {
        let request = put_request(key);
        self.call(PUT, &request).await?;
        Ok(())
    }

    async fn get(&mut self, key: u64) -> Result<(), Failure> {
        let mut request = BytesMut::with_capacity(16);
        field(&mut request, 1, name(key).as_bytes());
        // Neither `serializable` nor `limit` is set: a linearizable read, as by default.
        let length = self.call(RANGE, &request).await?;
        if length < VALUE_BYTES {
            return Err(format!("a read brought {length} bytes, too few for the value").into());
        }
        Ok(())
    }
}

fn succeeded(headers: &HeaderMap) -> Result<(), Failure> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("missing").to_owned();
    let status = text("grpc-status");
    if status == "0" { Ok(()) } else { Err(format!("grpc status {status}: {}", text("grpc-message")).into()) }
}

fn name(key: u64) -> String {
    format!("key{key:08}")
}

fn put_request(key: u64) -> BytesMut {
    let mut request = BytesMut::with_capacity(VALUE_BYTES + 24);
    field(&mut request, 1, name(key).as_bytes());
    field(&mut request, 2, &[b'x'; VALUE_BYTES]);
    request
}

/// A length-delimited field (protobuf encoding, wire type 2).
fn field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_length_delimited_with_varint_lengths() {
        let mut out = BytesMut::new();
        field(&mut out, 1, b"abc");
        field(&mut out, 2, &[7; 300]);
        assert_eq!(out[..5], [0x0a, 3, b'a', b'b', b'c']);
        assert_eq!(out[5..8], [0x12, 0xac, 0x02]);
        assert_eq!(out.len(), 5 + 3 + 300);
    }

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
