//! A connection that speaks RESP, and a parser of replies of its own: it shares no line with the gateway that it judges.
//!
//! Invariant: every reply keeps its RESP type, so that a map never equals an array of the same values.
//! Called by: `run`, `proxy`.

use std::fmt::{self, Display, Formatter};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest wait for a reply: only a server that hangs lets it pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A reply, as typed on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reply {
    Status(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    NilBulk,
    NilArray,
    Double(Vec<u8>),
    Boolean(bool),
    Verbatim(Vec<u8>),
    Big(Vec<u8>),
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    /// Keys and values in turn.
    Map(Vec<Reply>),
    Push(Vec<Reply>),
}

impl Reply {
    /// The values of an aggregate.
    pub(crate) fn items(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Map(items) | Self::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The bytes of a text-like scalar.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Status(text)
            | Self::Error(text)
            | Self::Bulk(text)
            | Self::Double(text)
            | Self::Verbatim(text)
            | Self::Big(text) => Some(text),
            _ => None,
        }
    }

    /// Every scalar in it, in order.
    pub(crate) fn leaves(&self) -> Vec<&Reply> {
        match self.items() {
            Some(items) => items.iter().flat_map(Reply::leaves).collect(),
            None => vec![self],
        }
    }

    /// Its RESP type, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Error(_) => "error",
            Self::Integer(_) => "integer",
            Self::Bulk(_) => "bulk",
            Self::Nil | Self::NilBulk | Self::NilArray => "nil",
            Self::Double(_) => "double",
            Self::Boolean(_) => "boolean",
            Self::Verbatim(_) => "verbatim",
            Self::Big(_) => "big",
            Self::Array(_) => "array",
            Self::Set(_) => "set",
            Self::Map(_) => "map",
            Self::Push(_) => "push",
        }
    }
}

impl Display for Reply {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(text) => write!(out, "+{}", text.escape_ascii()),
            Self::Error(text) => write!(out, "-{}", text.escape_ascii()),
            Self::Integer(value) => write!(out, ":{value}"),
            Self::Bulk(text) => write!(out, "{}", shown(text)),
            Self::Nil => write!(out, "_"),
            Self::NilBulk => write!(out, "$-1"),
            Self::NilArray => write!(out, "*-1"),
            Self::Double(text) => write!(out, ",{}", text.escape_ascii()),
            Self::Boolean(value) => write!(out, "#{value}"),
            Self::Verbatim(text) => write!(out, "={}", shown(text)),
            Self::Big(text) => write!(out, "({}", text.escape_ascii()),
            Self::Array(items) => list(out, '*', items),
            Self::Set(items) => list(out, '~', items),
            Self::Map(items) => list(out, '%', items),
            Self::Push(items) => list(out, '>', items),
        }
    }
}

fn list(out: &mut Formatter<'_>, sign: char, items: &[Reply]) -> fmt::Result {
    write!(out, "{sign}[")?;
    for (at, item) in items.iter().enumerate() {
        if at == 60 {
            write!(out, " … {} in all", items.len())?;
            break;
        }
        write!(out, "{}{item}", if at == 0 { "" } else { " " })?;
    }
    write!(out, "]")
}

/// Bytes as redis-cli reads them back; long ones shortened.
pub(crate) fn shown(text: &[u8]) -> String {
    if text.len() > 200 {
        return format!("\"{}…\"({} bytes)", text[..60].escape_ascii(), text.len());
    }
    format!("\"{}\"", text.escape_ascii())
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("connect to {address}: {error}"))?;
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Result<Self, String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self { stream, buffer: Vec::new(), at: 0 })
    }

    pub(crate) fn send(&mut self, words: &[Vec<u8>]) -> Result<(), String> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.write(&bytes)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("send: {error}"))
    }

    /// The next reply.
    pub(crate) fn receive(&mut self) -> Result<Reply, String> {
        self.receive_raw().map(|(reply, _)| reply)
    }

    /// The next reply with its bytes. A call, which a client sends, reads as an array of bulk strings.
    pub(crate) fn receive_raw(&mut self) -> Result<(Reply, Vec<u8>), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut at = self.at;
            if let Some(reply) = parse(&self.buffer, &mut at)? {
                let raw = self.buffer[self.at..at].to_vec();
                self.at = at;
                if self.at == self.buffer.len() {
                    self.buffer.clear();
                    self.at = 0;
                }
                return Ok((reply, raw));
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(size) => self.buffer.extend_from_slice(&chunk[..size]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if Instant::now() >= until => return Err(format!("no reply: {error}")),
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
    }

    pub(crate) fn ask(&mut self, words: &[Vec<u8>]) -> Result<Reply, String> {
        self.send(words)?;
        self.receive()
    }
}

/// A reply from `at` on, which moves behind it; nothing when more bytes are needed.
fn parse(bytes: &[u8], at: &mut usize) -> Result<Option<Reply>, String> {
    let Some(end) = bytes[*at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &bytes[*at..*at + end];
    let Some((sign, rest)) = line.split_first() else {
        return Err("an empty line where a reply should be".into());
    };
    *at += end + 2;
    let rest = rest.to_vec();
    let size = |text: &[u8]| -> Result<i64, String> {
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("not a length: {}{}", *sign as char, text.escape_ascii()))
    };
    let reply = match sign {
        b'+' => Reply::Status(rest),
        b'-' => Reply::Error(rest),
        b':' => Reply::Integer(size(&rest)?),
        b',' => Reply::Double(rest),
        b'(' => Reply::Big(rest),
        b'_' => Reply::Nil,
        b'#' => Reply::Boolean(rest == b"t"),
        b'$' | b'=' => {
            let size = size(&rest)?;
            if size < 0 {
                return Ok(Some(Reply::NilBulk));
            }
            let size = usize::try_from(size).map_err(|error| error.to_string())?;
            if bytes.len() < *at + size + 2 {
                return Ok(None);
            }
            let text = bytes[*at..*at + size].to_vec();
            if &bytes[*at + size..*at + size + 2] != b"\r\n" {
                return Err(format!("a string of {size} bytes does not end where it says"));
            }
            *at += size + 2;
            if *sign == b'$' { Reply::Bulk(text) } else { Reply::Verbatim(text) }
        }
        b'*' | b'~' | b'%' | b'>' => {
            let size = size(&rest)?;
            if size < 0 {
                return Ok(Some(Reply::NilArray));
            }
            let count = if *sign == b'%' { size * 2 } else { size };
            let mut items = Vec::new();
            for _ in 0..count {
                match parse(bytes, at)? {
                    Some(item) => items.push(item),
                    None => return Ok(None),
                }
            }
            match sign {
                b'*' => Reply::Array(items),
                b'~' => Reply::Set(items),
                b'%' => Reply::Map(items),
                _ => Reply::Push(items),
            }
        }
        other => return Err(format!("{:?} opens no reply: {}", *other as char, line.escape_ascii())),
    };
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Option<Reply> {
        parse(text, &mut 0).unwrap()
    }

    #[test]
    fn replies_keep_their_types() {
        assert_eq!(read(b"*1\r\n$1\r\nx\r\n"), Some(Reply::Array(vec![Reply::Bulk(b"x".to_vec())])));
        assert_eq!(
            read(b"%1\r\n+k\r\n:5\r\n"),
            Some(Reply::Map(vec![Reply::Status(b"k".to_vec()), Reply::Integer(5)]))
        );
        assert_eq!(read(b"$5\r\nab"), None, "more bytes are needed");
        assert_eq!(read(b"_\r\n"), Some(Reply::Nil));
        assert!(parse(b"!x\r\n", &mut 0).is_err());
    }
}
