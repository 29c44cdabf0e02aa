//! Every bound and switch of the gateway, with its default, and the rule of where it may listen.
//!
//! Invariant: an address beyond loopback is served only with TLS and tokens, or when a person said `insecure`.
//! Called by: the server's `main`, and `serve`.

use crate::json::write::Object;
use quorate_types::Principal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the gateway. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest request body; a larger one is a 413.
    pub body_bytes_max: usize,
    /// Connections at once; one more is answered 503 and closed.
    pub connections_max: usize,
    /// How long a client may take to send the head of its next request, or to shake hands by TLS; longer ends its connection.
    pub header_timeout: Duration,
    /// How long a request may take, its asked-for wait not counted.
    pub request_timeout: Duration,
    /// How long a command or the confirmation of a read may stay open, a lock's wait not counted; then its outcome is said to be
    /// indeterminate.
    pub command_timeout: Duration,
    /// Longest wait a request may ask for (locks, long polls).
    pub wait_max: Duration,
    /// Most keys of one range answer, and its default.
    pub range_keys_max: u32,
    /// Most records of one read or changes of one watch step.
    pub read_records_max: usize,
    /// Most payload bytes of one read; a single larger batch is still answered whole.
    pub read_bytes_max: usize,
    /// Silence after which an event stream sends a sign of life.
    pub sse_keepalive: Duration,
    /// How long open requests may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Origins of web pages that may call (`https://app.example`, or `*`); requests from others are refused.
    pub origins: Vec<String>,
    /// Bearer tokens; when there is one, every request but the health probes needs one.
    pub tokens: Vec<Token>,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Whether the node is one of a cluster, or waits to become one.
    pub clustered: bool,
    /// The nodes that this one was started to form a cluster with, as `(number, address)`: told by `/v1/cluster`, so that whoever
    /// begins a cluster knows when it is whole.
    pub peers: Vec<(u64, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            connections_max: 10_000,
            header_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(10),
            wait_max: Duration::from_secs(300),
            range_keys_max: 10_000,
            read_records_max: 1000,
            read_bytes_max: 4 << 20,
            sse_keepalive: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(10),
            origins: Vec::new(),
            tokens: Vec::new(),
            tls: None,
            clustered: false,
            peers: Vec::new(),
        }
    }
}

impl Config {
    /// The bounds as JSON, as `/v1/status` lists them.
    #[must_use]
    pub fn listed(&self) -> String {
        let millis = |duration: Duration| duration.as_millis().min(u128::from(u64::MAX)) as u64;
        Object::new()
            .plain("body_bytes_max", self.body_bytes_max)
            .plain("connections_max", self.connections_max)
            .plain("header_timeout_ms", millis(self.header_timeout))
            .plain("request_timeout_ms", millis(self.request_timeout))
            .plain("command_timeout_ms", millis(self.command_timeout))
            .plain("wait_ms_max", millis(self.wait_max))
            .plain("range_keys_max", self.range_keys_max)
            .plain("read_records_max", self.read_records_max)
            .plain("read_bytes_max", self.read_bytes_max)
            .plain("sse_keepalive_ms", millis(self.sse_keepalive))
            .plain("shutdown_grace_ms", millis(self.shutdown_grace))
            .done()
    }
}

/// A bearer token's hash, and whose it is. The token itself is kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who presents it.
    pub principal: Principal,
    /// SHA-256 of the token's bytes.
    pub sha256: [u8; 32],
}

impl Token {
    /// The entry for a token in clear.
    #[must_use]
    pub fn of(principal: Principal, token: &str) -> Self {
        Self { principal, sha256: sha256(token.as_bytes()) }
    }
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Whose token this is. Every entry is compared, in time that does not depend on where the bytes differ.
#[must_use]
pub fn principal_of<'a>(tokens: &'a [Token], presented: &str) -> Option<&'a Principal> {
    let hash = sha256(presented.as_bytes());
    let mut found = None;
    for token in tokens {
        let difference = token.sha256.iter().zip(hash).fold(0, |all, (a, b)| all | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            found = Some(&token.principal);
        }
    }
    found
}

/// PEM files of a server's certificate chain and private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificates: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// Why an address is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindRefused {
    /// Anybody on the network could read and write.
    #[error(
        "{address} is reachable from other machines, but {missing} missing: configure both TLS and tokens, listen on 127.0.0.1, or say --insecure"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
        /// What is missing, with its verb.
        missing: &'static str,
    },
}

/// Checks that an address may be served.
///
/// # Errors
/// [`BindRefused::Exposed`] beyond loopback, unless both TLS and tokens are configured or `insecure` was said.
pub fn check_bind(address: SocketAddr, tls: bool, tokens: bool, insecure: bool) -> Result<(), BindRefused> {
    let missing = match (tls, tokens) {
        (true, true) => return Ok(()),
        _ if insecure || address.ip().to_canonical().is_loopback() => return Ok(()),
        (true, false) => "tokens are",
        (false, true) => "TLS is",
        (false, false) => "TLS and tokens are",
    };
    Err(BindRefused::Exposed { address, missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_beyond_loopback_needs_tls_and_tokens_or_a_clear_word() {
        let check = |address: &str, tls, tokens, insecure| {
            check_bind(address.parse().unwrap(), tls, tokens, insecure)
        };
        for loopback in ["127.0.0.1:8400", "127.9.9.9:1", "[::1]:8400", "[::ffff:127.0.0.1]:8400"] {
            assert_eq!(check(loopback, false, false, false), Ok(()), "{loopback}");
        }
        for exposed in
            ["0.0.0.0:8400", "[::]:8400", "10.0.0.1:8400", "[fe80::1]:8400", "[::ffff:10.0.0.1]:8400"]
        {
            assert_eq!(check(exposed, true, true, false), Ok(()), "{exposed}");
            assert_eq!(check(exposed, false, false, true), Ok(()), "{exposed}");
            for (tls, tokens, missing) in
                [(false, false, "TLS and tokens are"), (true, false, "tokens are"), (false, true, "TLS is")]
            {
                let address = exposed.parse().unwrap();
                assert_eq!(
                    check(exposed, tls, tokens, false),
                    Err(BindRefused::Exposed { address, missing })
                );
            }
        }
    }

    #[test]
    fn a_token_names_its_principal_and_is_not_kept() {
        let tokens = [Token::of("ann".into(), "secret-a"), Token::of("bob".into(), "secret-b")];
        assert_eq!(principal_of(&tokens, "secret-b"), Some(&"bob".into()));
        assert_eq!(principal_of(&tokens, "secret-c"), None);
        assert_eq!(principal_of(&tokens, ""), None);
        assert!(!format!("{tokens:?}").contains("secret"));
        // FIPS 180-4, the empty message.
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }
}
