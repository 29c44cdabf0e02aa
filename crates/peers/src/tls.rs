//! Mutual TLS 1.3 between nodes, from PEM files, by rustls with ring.
//!
//! Both ends show a certificate and verify the other's against the same CA. The dialler also verifies that the acceptor's
//! certificate names the host it dialled. That a certificate's holder may call itself node *n* is not checked: whoever holds a
//! certificate of this CA is trusted to be a node, so use a CA that signs nodes of this cluster only.
//!
//! Invariant: there is no half TLS: certificate, key and CA are all given, or none.
//! Called by: `stream`; the runtime loads it from its options.

use crate::error::PeersError;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    self, AlertDescription, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Both ends are Quorate: nothing older needs to be spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A node's certificate and whom it trusts. Cheap to clone.
#[derive(Clone)]
pub struct PeerTls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: Option<ServerName<'static>>,
}

// Without the key, which the configurations hold.
impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads this node's certificate chain, its key, and the CA of all nodes, in PEM. Certificates that restrict their use must allow
    /// both server and client authentication, since each node is both.
    ///
    /// # Errors
    /// [`PeersError::TlsFile`] and [`PeersError::TlsUnusable`] name the file.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<PeerTls, PeersError> {
        let chain = certificates(cert, "certificate in PEM")?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| PeersError::TlsFile {
            path: key.into(),
            wanted: "private key in PEM",
            why: error.to_string(),
        })?;
        let roots = Arc::new(roots(ca)?);
        let unusable = |why: String| PeersError::TlsUnusable { path: cert.into(), why };
        let provider = Arc::new(ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(|error| unusable(error.to_string()))?;
        // Each connection shows its certificates anew: links live long, and a revoked CA must not be outlived by tickets.
        client.resumption = Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| PeersError::TlsUnusable { path: ca.into(), why: error.to_string() })?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|error| unusable(error.to_string()))?;
        server.send_tls13_tickets = 0;
        Ok(PeerTls { client: Arc::new(client), server: Arc::new(server), name: None })
    }

    /// [`PeerTls::load`] when all three are given, none when none is.
    ///
    /// # Errors
    /// [`PeersError::TlsHalf`] names what is missing; otherwise as `load`.
    pub fn from_options(
        cert: Option<&Path>,
        key: Option<&Path>,
        ca: Option<&Path>,
    ) -> Result<Option<PeerTls>, PeersError> {
        match (cert, key, ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(ca)) => PeerTls::load(cert, key, ca).map(Some),
            _ => {
                let parts = [(cert, "the certificate"), (key, "the private key"), (ca, "the CA")];
                let missing: Vec<&str> =
                    parts.iter().filter(|(given, _)| given.is_none()).map(|(_, name)| *name).collect();
                let verb = if missing.len() == 1 { "is" } else { "are" };
                Err(PeersError::TlsHalf { missing: format!("{} {verb}", missing.join(" and ")) })
            }
        }
    }

    /// Verifies this name in the certificate of every peer, instead of the host that was dialled.
    ///
    /// # Errors
    /// [`PeersError::TlsName`]
    pub fn with_server_name(mut self, name: &str) -> Result<PeerTls, PeersError> {
        self.name = Some(parse_name(name)?);
        Ok(self)
    }

    /// The name that the certificate of whoever is dialled at `host:port` must carry.
    pub(crate) fn server_name(&self, address: &str) -> Result<ServerName<'static>, PeersError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        parse_name(host.trim_start_matches('[').trim_end_matches(']'))
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.client.clone())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server.clone())
    }
}

/// What went wrong with TLS, and on whose side.
pub(crate) fn explain(error: &rustls::Error) -> String {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS and this node does: configure TLS between nodes on all of them, or on none"
                .into()
        }
        rustls::Error::NoCertificatesPresented => {
            "it shows no certificate: give every node one, signed by the CA of the nodes".into()
        }
        rustls::Error::InvalidCertificate(why) => format!("its certificate is not accepted: {why}"),
        rustls::Error::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::DecryptError
            | Alert::AccessDenied),
        ) => format!("it does not accept our certificate ({alert:?}): have it signed by the CA of the nodes"),
        other => format!("TLS failed: {other}"),
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, PeersError> {
    ServerName::try_from(name.to_owned()).map_err(|_| PeersError::TlsName { name: name.into() })
}

fn roots(path: &Path) -> Result<RootCertStore, PeersError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "CA certificate in PEM")? {
        roots
            .add(certificate)
            .map_err(|error| PeersError::TlsUnusable { path: path.into(), why: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, wanted: &'static str) -> Result<Vec<CertificateDer<'static>>, PeersError> {
    let wrong = |why: String| PeersError::TlsFile { path: path.into(), wanted, why };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("the file holds none".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_configured_tls_names_what_is_missing() {
        let path = Some(Path::new("/nowhere/file.pem"));
        let said = |cert, key, ca| PeerTls::from_options(cert, key, ca).unwrap_err().to_string();
        assert!(said(path, path, None).contains("the CA is missing"));
        assert!(said(path, None, path).contains("the private key is missing"));
        assert!(said(None, path, path).contains("the certificate is missing"));
        assert!(said(None, None, path).contains("the certificate and the private key are missing"));
        assert!(PeerTls::from_options(None, None, None).unwrap().is_none());
        assert!(said(path, path, path).starts_with("/nowhere/file.pem: no certificate in PEM"));
    }
}
