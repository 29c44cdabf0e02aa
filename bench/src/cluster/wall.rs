//! The wall: a server of gRPC that does nothing. What it costs is what HTTP/2 costs, with nobody behind it.
//!
//! It is h2, the library beneath Quorate's gateway and this generator, on one thread of a process of its own: no service, no decoding, no state. A
//! call is answered with an empty message once it has come.
//! Called by: `load`, which measures it; `main`, which is it.

use super::Failure;
use crate::processes::{Processes, free_addresses};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// A message of no bytes, behind gRPC's prefix.
const EMPTY: &[u8] = &[0; 5];

/// A wall in a process of its own.
pub(crate) struct Wall {
    pub(crate) process: Processes,
    pub(crate) address: SocketAddr,
}

impl Wall {
    pub(crate) async fn start(folder: &Path) -> Result<Self, Failure> {
        let address = free_addresses(1)?[0];
        let mut process = Processes::new(folder)?;
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["wall", &address.to_string()]);
        process.spawn(command, "wall")?;
        let until = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(address).await {
            if Instant::now() > until {
                return Err(format!("{address}: {error}; {}", process.last_words()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, address })
    }
}

/// Is the wall, until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection that ends, however, is its client's affair.
            tokio::spawn(async move { connection(stream).await.is_ok() });
        }
    })
}

async fn connection(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(next) = connection.accept().await {
        let (request, mut respond) = next?;
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(bytes) = body.data().await {
                body.flow_control().release_capacity(bytes?.len())?;
            }
            let mut head = Response::new(());
            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let mut send = respond.send_response(head, false)?;
            send.send_data(Bytes::from_static(EMPTY), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::etcd::Connection;
    use super::*;

    #[test]
    fn the_wall_answers_every_call_with_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move { connection(listener.accept().await.unwrap().0).await });
            let mut client = Connection::open(address).await.unwrap();
            for _ in 0..3 {
                client.echo().await.unwrap();
            }
            drop(client);
            serving.await.unwrap().unwrap();
        });
    }
}
