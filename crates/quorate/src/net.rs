//! One blocking HTTP/1.1 connection (RFC 9112), plain or TLS.
//!
//! The command line sends one request at a time and waits for it: no runtime is needed for that, and a request leaves in one write.
//!
//! Invariant: an error says whether the server can have seen the whole request, so that nobody calls "failed" what may have happened.
//! Called by: `client`.

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS_MAX: usize = 100;
/// Largest body that is collected whole.
const BODY_BYTES_MAX: usize = 1 << 30;
/// Port of a server whose URL names none.
const PORT: u16 = 8400;

/// A server's address, checked.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// `host:port`, as connected to and sent as `Host`.
    authority: String,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT]` or `https://…`; `ca` names a PEM file of authorities to trust instead of the system's.
    pub(crate) fn parse(url: &str, ca: Option<&Path>) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("\"{url}\" is no server URL ({why}): write http://127.0.0.1:8400 or https://HOST:PORT")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("the scheme is missing"))?;
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong("only a host and a port may follow the scheme"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("the port is no number up to 65535"))?)
            }
            _ => (authority, PORT),
        };
        let tls = match scheme {
            "http" => None,
            "https" => {
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name)
                    .map_err(|_| wrong("the host is no name that a certificate can have"))?;
                Some((name, tls_config(ca)?))
            }
            _ => return Err(wrong("the scheme is neither http nor https")),
        };
        Ok(Self { authority: format!("{host}:{port}"), tls })
    }

    /// Opens a connection. Reads that wait longer than `patience` fail.
    pub(crate) fn connect(&self, patience: Duration) -> io::Result<Connection> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience.min(Duration::from_secs(10))) {
                Ok(stream) => return self.open(stream, patience),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn open(&self, stream: TcpStream, patience: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some((name, config)) => {
                let session =
                    ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(session, stream);
                // The handshake comes first, so that its failure is known as "nothing was sent".
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                Stream::Tls(Box::new(tls))
            }
        };
        Ok(Connection { reader: BufReader::new(stream), host: self.authority.clone() })
    }
}

fn tls_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let unreadable =
            |why: String| format!("{}: no certificate in PEM could be read: {why}", path.display());
        let certificates =
            rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))?;
        for certificate in certificates {
            roots
                .add(certificate.map_err(|e| unreadable(e.to_string()))?)
                .map_err(|e| unreadable(e.to_string()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err("no certificate authority is known: name one with --ca FILE".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// A request that broke off.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Whether the server can have received all of it: then it may have happened.
    pub(crate) sent: bool,
    pub(crate) error: io::Error,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    body: Framing,
    /// Whether the connection takes another request after this answer.
    pub(crate) reusable: bool,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Bytes left of the current chunk; nothing before the first.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// An open connection.
pub(crate) struct Connection {
    reader: BufReader<Stream>,
    host: String,
}

impl Connection {
    /// Changes how long a read may wait.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.reader.get_ref().socket().set_read_timeout(Some(patience.max(Duration::from_millis(1))))
    }

    /// Sends a request, and reads the head of its answer.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Head, Broken> {
        self.write(method, path, headers, body).map_err(|error| Broken { sent: false, error })?;
        self.head().map_err(|error| Broken { sent: true, error })
    }

    /// Sends a request. A partial write fails here, and cannot have been acted on: its length was announced.
    pub(crate) fn write(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut request = Vec::with_capacity(256 + path.len() + body.len());
        request.extend_from_slice(format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host).as_bytes());
        for (name, value) in headers {
            if value.bytes().any(|byte| byte.is_ascii_control()) {
                let why = format!("header {name} holds a control character");
                return Err(io::Error::new(ErrorKind::InvalidInput, why));
            }
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || method != "GET" {
            request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        let stream = self.reader.get_mut();
        stream.write_all(&request)?;
        stream.flush()
    }

    fn head(&mut self) -> io::Result<Head> {
        loop {
            let bytes = self.head_bytes()?;
            let head = parse_head(&bytes)?;
            // 1xx are only steps on the way to the answer (RFC 9110 §15.2).
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    fn head_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(512);
        loop {
            let left = (HEAD_BYTES_MAX - bytes.len()) as u64;
            let read = self.reader.by_ref().take(left).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the connection was closed before the answer",
                ));
            }
            if bytes.ends_with(b"\r\n\r\n") || bytes.ends_with(b"\n\n") {
                return Ok(bytes);
            }
            if bytes.len() == HEAD_BYTES_MAX {
                return Err(invalid("the head of the answer is longer than 64 KiB"));
            }
        }
    }

    /// The next piece of an answer's body; nothing at its end.
    pub(crate) fn piece(&mut self, head: &mut Head) -> io::Result<Option<Vec<u8>>> {
        let most = match head.body {
            Framing::Done | Framing::Length(0) => {
                head.body = Framing::Done;
                return Ok(None);
            }
            Framing::UntilClose => u64::MAX,
            Framing::Length(left) => left,
            Framing::Chunked(Some(left)) if left > 0 => left,
            Framing::Chunked(before) => {
                if before.is_some() {
                    self.line()?; // The line end after a chunk's data.
                }
                let line = self.line()?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16)
                    .map_err(|_| invalid("a chunk's size is no hexadecimal number"))?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    head.body = Framing::Done;
                    return Ok(None);
                }
                head.body = Framing::Chunked(Some(size));
                size
            }
        };
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            return match head.body {
                Framing::UntilClose => {
                    head.body = Framing::Done;
                    Ok(None)
                }
                _ => Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the connection was closed within the answer",
                )),
            };
        }
        let take = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer[..take].to_vec();
        self.reader.consume(take);
        match &mut head.body {
            Framing::Length(left) | Framing::Chunked(Some(left)) => *left -= take as u64,
            _ => {}
        }
        Ok(Some(piece))
    }

    /// The whole body.
    pub(crate) fn body(&mut self, head: &mut Head) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(head)? {
            if body.len() + piece.len() > BODY_BYTES_MAX {
                return Err(invalid("the answer is larger than 1 GiB"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(4096).read_until(b'\n', &mut bytes)?;
        if bytes.pop() != Some(b'\n') {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the connection was closed within the answer",
            ));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        String::from_utf8(bytes).map_err(|_| invalid("a line of the answer is not text"))
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut storage);
    let status = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {
            parsed.code.ok_or_else(|| invalid("the answer has no status"))?
        }
        Ok(httparse::Status::Partial) => return Err(invalid("the head of the answer is not whole")),
        Err(error) => return Err(invalid(&format!("this is no HTTP answer ({error})"))),
    };
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut head = Head { status, headers, body: Framing::UntilClose, reusable: parsed.version == Some(1) };
    let closes = head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    head.body = if status < 200 || status == 204 || status == 304 {
        Framing::Done
    } else if head
        .header("transfer-encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"))
    {
        Framing::Chunked(None)
    } else {
        match head.header("content-length") {
            Some(length) => {
                Framing::Length(length.trim().parse().map_err(|_| invalid("content-length is no number"))?)
            }
            None => Framing::UntilClose,
        }
    };
    head.reusable = head.reusable && !closes && head.body != Framing::UntilClose;
    Ok(head)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_owned())
}

/// Time left until a deadline, at least a little, so that a timeout is never "none".
pub(crate) fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that sends these bytes to its one client and closes.
    fn answered(bytes: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
            stream.write_all(bytes).unwrap();
        });
        Endpoint::parse(&url, None).unwrap().connect(Duration::from_secs(10)).unwrap()
    }

    fn whole(bytes: &'static [u8]) -> Result<(u16, Vec<u8>, bool), String> {
        let mut connection = answered(bytes);
        let mut head = connection.send("GET", "/", &[], b"").map_err(|broken| broken.error.to_string())?;
        let body = connection.body(&mut head).map_err(|error| error.to_string())?;
        Ok((head.status, body, head.reusable))
    }

    #[test]
    fn bodies_come_by_length_in_chunks_or_until_the_end() {
        let length = whole(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd");
        assert_eq!(length, Ok((200, b"abc".to_vec(), true)));
        let chunks = whole(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: v\r\n\r\n");
        assert_eq!(chunks, Ok((200, b"abc".to_vec(), true)));
        let close = whole(b"HTTP/1.1 404 Not Found\r\n\r\nabc");
        assert_eq!(close, Ok((404, b"abc".to_vec(), false)));
        let none = whole(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(none, Ok((204, vec![], true)));
        let closing = whole(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(closing, Ok((200, vec![], false)));
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for (bytes, wanted) in [
            (&b""[..], "closed before the answer"),
            (b"220 mail.example ESMTP\r\n\r\n", "no HTTP answer"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", "content-length is no number"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "closed within the answer"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "hexadecimal"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", "closed within the answer"),
        ] {
            let error = whole(bytes).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn an_answer_that_never_came_may_have_happened() {
        let broken = answered(b"").send("GET", "/", &[], b"").unwrap_err();
        assert!(broken.sent);
    }

    #[test]
    fn a_server_url_has_a_scheme_a_host_and_perhaps_a_port() {
        let authority = |url: &str| Endpoint::parse(url, None).map(|endpoint| endpoint.authority);
        assert_eq!(authority("http://127.0.0.1:9"), Ok("127.0.0.1:9".into()));
        assert_eq!(authority("http://example/"), Ok("example:8400".into()));
        assert_eq!(authority("http://[::1]"), Ok("[::1]:8400".into()));
        assert_eq!(authority("http://[::1]:9"), Ok("[::1]:9".into()));
        for bad in
            ["127.0.0.1:9", "http://", "ftp://x", "http://x:y", "http://x:70000", "http://x/y", "http://a@b"]
        {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }
}
