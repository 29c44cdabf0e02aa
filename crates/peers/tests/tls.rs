//! Links over mutual TLS, and what those are told who speak it wrongly or not at all.

#![allow(clippy::unwrap_used)]

use crate::common;

use common::*;
use quorate_peers::{LinksConfig, PeerTls, PeersError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A CA and what it signs, as files.
struct Ca {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Ca { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key for a name.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{name}.{kind}.pem"));
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        (path("cert"), path("key"))
    }

    /// A node of this CA, that trusts `trusted`.
    fn config(&self, name: &str, trusted: &Path) -> LinksConfig {
        let (cert, key) = self.sign(name);
        let tls = PeerTls::from_options(Some(&cert), Some(&key), Some(trusted)).unwrap();
        LinksConfig { tls, ..LinksConfig::default() }
    }
}

#[tokio::test]
async fn nodes_of_one_ca_exchange_messages_bulk_and_probes() {
    let ca = Ca::new("ours");
    let config = || ca.config("127.0.0.1", &ca.ca());
    let (mut a, mut b) = pair(Node::with(1, config()), Node::with(2, config())).await;
    for n in 0..2000u32 {
        let frame = n.to_le_bytes().repeat(1 + n as usize % 20_000);
        assert!(a.links.send(2, frame.clone().into()) && b.links.send(1, frame.clone().into()));
        if n % 100 == 99 {
            for n in n - 99..=n {
                let wanted = n.to_le_bytes().repeat(1 + n as usize % 20_000);
                assert!(a.frame().await == wanted && b.frame().await == wanted, "frame {n}");
            }
        }
    }
    let bulk = a.links.fetch(2, "size 8388608".into(), PATIENCE).await.unwrap();
    assert!(bulk.len() == 8 << 20 && is_pattern(&bulk));
    assert_eq!(a.links.probe(&b.address()).await.unwrap().node, 2);
}

#[tokio::test]
async fn plain_and_tls_nodes_tell_each_other_what_to_configure() {
    let ca = Ca::new("ours");
    let (mut plain, mut tls) = (Node::start(1), Node::with(2, ca.config("127.0.0.1", &ca.ca())));
    plain.links.set_peers(vec![(2, tls.address())]);
    plain.note(&["node 2: 127.0.0.1:", "refused: this node wants TLS"]).await;
    tls.note(&["127.0.0.1", "it does not speak TLS and this node does"]).await;
    tls.links.set_peers(vec![(1, plain.address())]);
    tls.note(&["node 1: 127.0.0.1:", "it does not speak TLS and this node does"]).await;
    plain.note(&["127.0.0.1", "it speaks TLS and this node does not"]).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_by_either_end() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    // It trusts us, we do not trust it.
    let mut a = Node::with(1, ours.config("127.0.0.1", &ours.ca()));
    let mut b = Node::with(2, theirs.config("127.0.0.1", &ours.ca()));
    a.links.set_peers(vec![(2, b.address())]);
    a.note(&["node 2: 127.0.0.1:", "its certificate is not accepted", "UnknownIssuer"]).await;
    b.note(&["127.0.0.1", "it does not accept our certificate", "UnknownCA"]).await;
    b.links.set_peers(vec![(1, a.address())]);
    a.note(&["127.0.0.1: ", "its certificate is not accepted", "UnknownIssuer"]).await;
    b.note(&["node 1: 127.0.0.1:", "it does not accept our certificate"]).await;
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Ca::new("ours");
    let mut a = Node::with(1, ca.config("127.0.0.1", &ca.ca()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.ca()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(a.links.local_addr()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
    // In TLS 1.3 the client is done before the server has seen its certificates: the refusal comes with the first read.
    let _ = stream.write_all(&envelope(1, DIAL, &dial_body(MESSAGES, 1, &hello(2, 5)))).await;
    assert!(stream.read(&mut [0; 64]).await.is_err());
    a.note(&["127.0.0.1", "it shows no certificate"]).await;
    assert!(!a.told().iter().any(|event| matches!(event, Event::Frame { .. })));
}

#[tokio::test]
async fn the_dialled_host_must_be_in_the_certificate_unless_another_name_is_set() {
    let ca = Ca::new("ours");
    let named = |name: &str| ca.config(name, &ca.ca());
    let b = Node::with(2, named("node-2.example"));
    let mut a = Node::with(1, named("node-1.example"));
    a.links.set_peers(vec![(2, b.address())]);
    a.note(&["node 2: 127.0.0.1:", "its certificate is not accepted"]).await;
    let mut config = named("node-3.example");
    config.tls = config.tls.map(|tls| tls.with_server_name("node-2.example").unwrap());
    let mut c = Node::with(3, config);
    c.links.set_peers(vec![(2, b.address())]);
    c.up(2).await;
}

#[tokio::test]
async fn rubbish_behind_a_tls_first_byte_is_refused() {
    let ca = Ca::new("ours");
    let mut a = Node::with(1, ca.config("127.0.0.1", &ca.ca()));
    let mut raw = Raw::connect(a.links.local_addr()).await;
    raw.write(&[22; 500]).await;
    a.note(&["127.0.0.1", "a connection was refused"]).await;
    raw.closed().await;
}

#[test]
fn files_that_do_not_fit_together_are_named() {
    let ca = Ca::new("ours");
    let (cert, key) = ca.sign("one.example");
    let (_, other) = ca.sign("other.example");
    let error = PeerTls::load(&cert, &other, &ca.ca()).unwrap_err();
    assert!(matches!(error, PeersError::TlsUnusable { .. }), "{error}");
    assert!(error.to_string().starts_with(&cert.display().to_string()), "{error}");
    let error = PeerTls::load(&cert, &cert, &ca.ca()).unwrap_err().to_string();
    assert!(error.contains("no private key in PEM"), "{error}");
    let error = PeerTls::load(&cert, &key, &key).unwrap_err().to_string();
    assert!(error.contains("no CA certificate in PEM"), "{error}");
    let tls = PeerTls::load(&cert, &key, &ca.ca()).unwrap();
    assert!(!format!("{tls:?}").contains("PRIVATE"), "nothing secret is shown");
    assert!(matches!(tls.with_server_name("not a name"), Err(PeersError::TlsName { .. })));
}
