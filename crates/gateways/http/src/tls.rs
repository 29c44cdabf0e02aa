//! TLS 1.2 and 1.3 from PEM files, by rustls with ring.
//!
//! Called by: `serve`, once; the server's `main`, for other gateways under the same certificate.

use crate::config::TlsFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the kind wanted.
    #[error("{}: no {wanted} could be read: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What went wrong.
        why: String,
    },
    /// A certificate of the file is none that could sign others.
    #[error("{} cannot be used: {why}", .path.display())]
    Authority {
        /// The certificates of those who sign.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("{} and its key {} cannot be used: {why}", .certificates.display(), .key.display())]
    Unusable {
        /// The certificate chain.
        certificates: PathBuf,
        /// The key.
        key: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// What shakes hands with clients; `protocols` are offered to those that ask for one, the first best (RFC 7301). With `authority`, certificates in PEM,
/// every client has to show a certificate that one of them has signed.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn acceptor(
    files: &TlsFiles,
    protocols: &[&[u8]],
    authority: Option<&Path>,
) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&files.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::File {
        path: files.key.clone(),
        wanted: "private key in PEM",
        why: error.to_string(),
    })?;
    let unusable = |why: String| TlsError::Unusable {
        certificates: files.certificates.clone(),
        key: files.key.clone(),
        why,
    };
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?;
    let config = match authority {
        None => config.with_no_client_auth(),
        Some(path) => {
            let wrong = |why: String| TlsError::Authority { path: path.into(), why };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| wrong(error.to_string()))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let mut config = config.with_single_cert(chain, key).map_err(|error| unusable(error.to_string()))?;
    if authority.is_some() {
        // Each connection shows its certificate anew: a session that is taken up again would outlive it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File { path: path.into(), wanted: "certificate in PEM", why };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("the file holds none".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let missing = TlsFiles { certificates: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
        let error = acceptor(&missing, &[], None).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("/nowhere/cert.pem: no certificate in PEM could be read"), "{error}");
    }
}
