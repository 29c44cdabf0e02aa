//! A small HTTP/1.1 client (RFC 9112) that never calls "failed" what may have happened.
//!
//! Invariant: `Refused` and `NotSent` are said only when nothing can have happened: the server said so itself, or no connection came
//! about. Everything else without a success is `Unclear`.
//! Called by: `work`, `probe`, `fleet`. Read `Client::ask` first.

use serde_json::Value;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long a connection may take to come about; on one machine it takes none, unless the peer is cut off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A success.
    Done(Answer),
    /// The server says that nothing happened.
    Refused(Answer),
    /// No connection: nothing can have happened.
    NotSent(String),
    /// It may have happened, or may yet.
    Unclear(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(answer) => write!(f, "done: {}", answer.text()),
            Outcome::Refused(answer) => write!(f, "refused: {}", answer.text()),
            Outcome::NotSent(why) => write!(f, "not sent: {why}"),
            Outcome::Unclear(why) => write!(f, "unclear: {why}"),
        }
    }
}

impl Outcome {
    /// Why there is no success, in few enough words to be counted.
    pub(crate) fn reason(&self) -> Option<String> {
        let code = |text: &str| {
            let problem: Value = text
                .split_once(' ')
                .map_or(Value::Null, |(_, body)| serde_json::from_str(body).unwrap_or(Value::Null));
            problem["error"].as_str().map_or_else(|| text.chars().take(60).collect(), str::to_owned)
        };
        match self {
            Outcome::Done(_) => None,
            Outcome::Refused(answer) => Some(format!("refused: {}", code(&answer.text()))),
            Outcome::NotSent(why) => Some(format!("not sent: {why}")),
            Outcome::Unclear(why) => Some(format!("unclear: {}", code(why))),
        }
    }
}

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[cfg(test)]
impl Outcome {
    /// What a client makes of an answer.
    pub(crate) fn of(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        classify(Answer { status, headers, body: body.into() })
    }
}

impl Answer {
    /// A header that is a number.
    pub(crate) fn number(&self, header: &str) -> Option<u64> {
        self.headers.iter().find(|(name, _)| name == header).and_then(|(_, value)| value.parse().ok())
    }

    /// The body as JSON; `Null` when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body for a message.
    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A client of one node, with at most one connection.
pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<TcpStream>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends a request, and waits for its answer for at most `patience`.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &[u8], patience: Duration) -> Outcome {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => match timeout(CONNECT_TIMEOUT.min(patience), TcpStream::connect(self.address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Outcome::NotSent(error.to_string()),
                Err(_) => return Outcome::NotSent("no connection in time".into()),
            },
        };
        // A connection without it works too, only more slowly.
        let _ = stream.set_nodelay(true);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        match timeout(patience, exchange(&mut stream, &request)).await {
            Ok(Ok((answer, reusable))) => {
                self.connection = reusable.then_some(stream);
                classify(answer)
            }
            Ok(Err(error)) => Outcome::Unclear(error.to_string()),
            Err(_) => Outcome::Unclear("no answer in time".into()),
        }
    }
}

fn classify(answer: Answer) -> Outcome {
    if (200..300).contains(&answer.status) {
        return Outcome::Done(answer);
    }
    // RFC 9457 problems of the server say themselves whether anything happened.
    match answer.json()["took_effect"].as_str() {
        Some("no") => Outcome::Refused(answer),
        _ => Outcome::Unclear(answer.text()),
    }
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<(Answer, bool)> {
    stream.write_all(request).await?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        if let Some((mut answer, head, length)) = framed(&bytes)? {
            if length > ANSWER_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, format!("an answer of {length} bytes")));
            }
            while bytes.len() < head + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Err(Error::new(ErrorKind::UnexpectedEof, "the answer broke off"));
                }
            }
            let closing = answer.headers.iter().any(|(name, value)| name == "connection" && value == "close");
            answer.body = bytes.split_off(head);
            return Ok((answer, !closing));
        }
    }
}

/// The head, its bytes, and the bytes of the body; nothing while the head is incomplete.
fn framed(bytes: &[u8]) -> std::io::Result<Option<(Answer, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > 1 << 16 {
            return Err(Error::new(ErrorKind::InvalidData, "the head of the answer does not end"));
        }
        return Ok(None);
    };
    let wrong = |why: &str| Error::new(ErrorKind::InvalidData, why.to_owned());
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the head of the answer is no text"))?;
    let status: u16 =
        head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(|| wrong("no status line"))?;
    let headers: Vec<(String, String)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = match headers.iter().find(|(name, _)| name == "content-length") {
        Some((_, value)) => value.parse().map_err(|_| wrong("the content-length is no number"))?,
        None if status == 204 || status == 304 => 0,
        None => return Err(wrong("the answer has no content-length")),
    };
    Ok(Some((Answer { status, headers, body: Vec::new() }, end + 4, length)))
}

/// A path segment, percent-encoded (RFC 3986, unreserved characters stay).
pub(crate) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Outcome {
        let (mut answer, head, length) = framed(text.as_bytes()).unwrap().unwrap();
        answer.body = text.as_bytes()[head..head + length].to_vec();
        classify(answer)
    }

    #[test]
    fn only_the_servers_own_word_makes_a_request_refused() {
        let no = "HTTP/1.1 409 Conflict\r\nContent-Length: 20\r\n\r\n{\"took_effect\":\"no\"}";
        assert!(matches!(answer(no), Outcome::Refused(_)));
        let unknown = "HTTP/1.1 504 X\r\nContent-Length: 25\r\n\r\n{\"took_effect\":\"unknown\"}";
        assert!(matches!(answer(unknown), Outcome::Unclear(_)));
        let strange = "HTTP/1.1 502 X\r\nContent-Length: 2\r\n\r\nno";
        assert!(matches!(answer(strange), Outcome::Unclear(_)));
        let done = "HTTP/1.1 200 OK\r\nQuorate-Revision: 7\r\nContent-Length: 2\r\n\r\n{}";
        let Outcome::Done(answer) = answer(done) else { panic!("a success") };
        assert_eq!((answer.number("quorate-revision"), answer.body), (Some(7), b"{}".to_vec()));
    }

    #[test]
    fn a_head_without_a_length_is_an_error_and_half_a_head_is_waited_for() {
        assert!(framed(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(framed(b"HTTP/1.1 200 OK\r\n").unwrap().is_none());
    }

    #[test]
    fn names_become_one_path_segment() {
        assert_eq!(segment("a/b c"), "a%2Fb%20c");
    }
}
