//! Sockets: made, tuned, wrapped in TLS where it is configured, and their failures in words.
//!
//! Invariant: a plain node and a TLS node tell each other so, instead of failing with a parser's complaint.
//! Called by: `dial` (connect), `accept` (tune, accept), everyone (`explain`).

use crate::config::LinksConfig;
use crate::error::PeersError;
use crate::tls;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls;

/// What is spoken on a connection, below the frames. The indirect call is nothing beside the system call below it.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Either kind of connection.
pub(crate) enum Stream {
    /// A bare socket, on which any thread may write.
    Plain(TcpStream),
    /// TLS.
    Wrapped(Box<dyn Duplex>),
}

impl Stream {
    fn duplex(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp),
            Stream::Wrapped(wrapped) => Pin::new(wrapped.as_mut()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.duplex().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.duplex().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.duplex().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.duplex().poll_shutdown(context)
    }
}

/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What an accepted connection turned out to be.
pub(crate) enum Accepted {
    Stream(Stream),
    /// It speaks, but not as we do: what to tell it, in the clear, and the operator.
    Mismatch(Stream, &'static str),
    /// It was closed without a byte, as port checks do.
    Silent,
}

/// Connects, TLS included. `address` is `host:port`.
///
/// # Errors
/// [`PeersError::Unreachable`], [`PeersError::TlsName`], or [`PeersError::Handshake`] when TLS fails.
pub(crate) async fn connect(address: &str, config: &LinksConfig) -> Result<Stream, PeersError> {
    let tcp = connect_tcp(address, config.connect_timeout)
        .await
        .map_err(|why| PeersError::Unreachable { address: address.into(), why })?;
    tune(&tcp, config.idle_timeout);
    let Some(tls) = &config.tls else { return Ok(Stream::Plain(tcp)) };
    let name = tls.server_name(address)?;
    match tls.connector().connect(name, tcp).await {
        Ok(stream) => Ok(Stream::Wrapped(Box::new(stream))),
        Err(error) => Err(PeersError::Handshake { address: address.into(), why: explain(&error) }),
    }
}

/// Tries each address that the name has, each for as long as the limit says.
async fn connect_tcp(address: &str, limit: Duration) -> Result<TcpStream, String> {
    let found = match timeout(limit, tokio::net::lookup_host(address)).await {
        Err(_) => return Err(format!("its name was not resolved within {limit:?}")),
        Ok(Err(error)) => return Err(format!("its name cannot be resolved: {error}")),
        Ok(Ok(found)) => found,
    };
    let mut why = "its name has no address".to_owned();
    for found in found.take(8) {
        match timeout(limit, TcpStream::connect(found)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no connection within {limit:?}"),
        }
    }
    Err(why)
}

/// Messages are small and wanted at once, and a peer that stopped acknowledging is gone.
pub(crate) fn tune(tcp: &TcpStream, unacknowledged_max: Duration) {
    // Both only make things better: a kernel that refuses them leaves a link that works.
    let _ = tcp.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(unacknowledged_max));
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged_max;
}

/// Looks at the first byte to know what is spoken, then shakes TLS hands when that is configured.
pub(crate) async fn accept(tcp: TcpStream, config: &LinksConfig) -> Result<Accepted, String> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(0) => return Ok(Accepted::Silent),
        Ok(_) => {}
        Err(error) => return Err(explain(&error)),
    }
    match (&config.tls, first[0] == TLS_HANDSHAKE) {
        (None, false) => Ok(Accepted::Stream(Stream::Plain(tcp))),
        (None, true) => Ok(Accepted::Mismatch(
            Stream::Plain(tcp),
            "it speaks TLS and this node does not: configure TLS between nodes on all of them, or on none",
        )),
        (Some(_), false) => Ok(Accepted::Mismatch(
            Stream::Plain(tcp),
            "it does not speak TLS and this node does: configure TLS between nodes on all of them, or on none",
        )),
        (Some(tls), true) => match tls.acceptor().accept(tcp).await {
            Ok(stream) => Ok(Accepted::Stream(Stream::Wrapped(Box::new(stream)))),
            Err(error) => Err(explain(&error)),
        },
    }
}

/// A failure of a connection, in words that help.
pub(crate) fn explain(error: &std::io::Error) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls::explain(tls);
    }
    match error.kind() {
        ErrorKind::UnexpectedEof => "the peer closed the connection".into(),
        _ => error.to_string(),
    }
}
