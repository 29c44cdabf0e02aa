//! A real server on port 0 over a real runtime on a temporary folder, and a plain client that sees every byte.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure.

#[path = "../../../testing.rs"]
mod testing;

use quorate_redis::{Config, serve};
use std::ops::Deref;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// A connection that shows replies as text: `OK`, `(error) …`, `5`, `"bytes"`, `nil`, `[a, b]`, `{k: v}`, `~[…]`, `>[…]`, `,1.5`, `#t`.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: std::net::SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Over a connection to any server.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends words that are separated by spaces, as an array.
    pub(crate) async fn send(&mut self, line: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.send_words(&words).await;
    }

    pub(crate) async fn send_words(&mut self, words: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.raw(&bytes).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a command, and reads its reply.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.reply().await
    }

    /// Sends a command whose reply must be this.
    #[track_caller]
    pub(crate) fn check<'a>(&'a mut self, line: &'a str, wanted: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let found = self.ask(line).await;
            assert_eq!(found, wanted, "{line} at {caller}");
        }
    }

    /// The next reply or push.
    pub(crate) async fn reply(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.next())
            .await
            .expect("a reply in time")
            .expect("the connection goes on")
    }

    /// The next reply; nothing when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let mut at = 0;
            if let Some(shown) = show(&self.read, &mut at) {
                self.read.drain(..at);
                return Some(shown);
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(150), self.next()).await.is_err()
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn ended(&mut self) {
        let ended = async { while self.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the connection is closed");
    }
}

fn show(bytes: &[u8], at: &mut usize) -> Option<String> {
    let end = *at + bytes.get(*at..)?.windows(2).position(|two| two == b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[*at + 1..end]).into_owned();
    let kind = bytes[*at];
    *at = end + 2;
    let items = |count: usize, at: &mut usize| -> Option<Vec<String>> {
        (0..count).map(|_| show(bytes, at)).collect()
    };
    Some(match kind {
        b'+' => line,
        b'-' => format!("(error) {line}"),
        b':' => line,
        b',' => format!(",{line}"),
        b'#' => format!("#{line}"),
        b'_' => "nil".into(),
        b'$' | b'=' => {
            if line == "-1" {
                return Some("nil".into());
            }
            let length: usize = line.parse().unwrap();
            let value = bytes.get(*at..*at + length)?;
            bytes.get(*at + length..*at + length + 2)?;
            *at += length + 2;
            format!("\"{}\"", String::from_utf8_lossy(value))
        }
        b'*' if line == "-1" => "nil".into(),
        b'*' => format!("[{}]", items(line.parse().unwrap(), at)?.join(", ")),
        b'~' => format!("~[{}]", items(line.parse().unwrap(), at)?.join(", ")),
        b'>' => format!(">[{}]", items(line.parse().unwrap(), at)?.join(", ")),
        b'%' => {
            let all = items(line.parse::<usize>().unwrap() * 2, at)?;
            let pairs: Vec<String> = all.chunks(2).map(|pair| format!("{}: {}", pair[0], pair[1])).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => panic!("a reply begins with {other}"),
    })
}
