//! A lean HTTP/1.1 client (RFC 9112): one connection, one request at a time, one write and usually one read for each.
//!
//! Only what the measured server answers is understood: a `content-length` body. Anything else is an error, never a guess.
//! Called by: `load`, `servers`.

use super::load::{Client, Operation};
use super::{Failure, VALUE_BYTES};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One client of Quorate.
pub(crate) struct HttpClient {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl HttpClient {
    pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::with_capacity(1024), answer: Vec::with_capacity(4096) })
    }

    /// Writes many keys in one commit.
    pub(crate) async fn fill(&mut self, keys: std::ops::Range<u64>) -> Result<(), Failure> {
        let value = "x".repeat(VALUE_BYTES);
        let puts: Vec<_> =
            keys.map(|key| format!(r#"{{"put":{{"key":"key{key:08}","value":"{value}"}}}}"#)).collect();
        let body = format!(r#"{{"then":[{}]}}"#, puts.join(","));
        let head = format!("POST /v1/commit HTTP/1.1\r\nhost: q\r\ncontent-length: {}\r\n\r\n", body.len());
        self.request.clear();
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(body.as_bytes());
        let (status, _) = self.call().await?;
        self.expect(status, 200)
    }

    /// Sends what is in `request`; the status, and the length of the body, which ends `answer`.
    async fn call(&mut self) -> std::io::Result<(u16, usize)> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            if let Some((status, head, body)) = framed(&self.answer)?
                && self.answer.len() >= head + body
            {
                return Ok((status, body));
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the answer is too large"));
            }
        }
    }

    fn expect(&self, found: u16, wanted: u16) -> Result<(), Failure> {
        if found == wanted {
            return Ok(());
        }
        Err(format!("status {found}: {}", String::from_utf8_lossy(&self.answer)).into())
    }
}

impl Client for HttpClient {
    async fn run(&mut self, operation: Operation, key: u64) -> Result<(), Failure> {
        match operation {
            Operation::Put => self.put(key).await,
            Operation::Get => self.get(key).await,
            other => {
                Err(format!("{} is measured over etcd's protocol: add --over etcd", other.name()).into())
            }
        }
    }
}

impl HttpClient {
    async fn put(&mut self, key: u64) -> Result<(), Failure> {
        self.request.clear();
        let head =
            format!("PUT /v1/keys/key{key:08} HTTP/1.1\r\nhost: q\r\ncontent-length: {VALUE_BYTES}\r\n\r\n");
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(&[b'x'; VALUE_BYTES]);
        let (status, _) = self.call().await?;
        self.expect(status, 200)
    }

    async fn get(&mut self, key: u64) -> Result<(), Failure> {
        self.request.clear();
        let head = format!("GET /v1/keys/key{key:08} HTTP/1.1\r\nhost: q\r\n\r\n");
        self.request.extend_from_slice(head.as_bytes());
        let (status, body) = self.call().await?;
        self.expect(status, 200)?;
        if body != VALUE_BYTES {
            return Err(format!("a read brought {body} bytes, not {VALUE_BYTES}").into());
        }
        Ok(())
    }
}

/// One request on a connection of its own: status and body.
pub(crate) async fn once(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), Failure> {
    let asking = async {
        let mut client = HttpClient::connect(address).await?;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: q\r\ncontent-length: {}\r\n\r\n", body.len());
        client.request = (head + body).into_bytes();
        let (status, body) = client.call().await?;
        let text = String::from_utf8_lossy(&client.answer[client.answer.len() - body..]).into_owned();
        Ok::<_, Failure>((status, text))
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), asking).await?
}

/// Status, bytes of the head, bytes of the body; nothing while the head is incomplete.
fn framed(bytes: &[u8]) -> std::io::Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let wrong = |why: &str| Error::new(ErrorKind::InvalidData, why.to_owned());
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the head of the answer is no text"))?;
    let status = head.get(9..12).and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| wrong("the answer does not begin with a status line"))?;
    let length = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match length {
        Some(Ok(length)) => Ok(Some((status, end + 4, length))),
        Some(Err(_)) => Err(wrong("the content-length of the answer is no number")),
        None if status == 204 => Ok(Some((status, end + 4, 0))),
        None => Err(wrong("the answer has no content-length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_framed_by_its_length_and_nothing_is_guessed() {
        assert_eq!(framed(b"HTTP/1.1 200 OK\r\nContent-Len").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\na: b\r\nContent-Length: 12\r\n\r\nabc";
        assert_eq!(framed(whole).unwrap(), Some((200, whole.len() - 3, 12)));
        assert!(framed(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(framed(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(framed(b"nonsense\r\n\r\n").is_err());
    }
}
