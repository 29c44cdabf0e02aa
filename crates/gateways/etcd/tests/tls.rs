//! TLS as etcdctl and curl see it, beside the real thing: certificates of servers and of clients, and whom those of clients name.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use quorate_etcd::Config;
use quorate_http::TlsFiles;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::etcd::{Etcd, folder};
use support::{PATIENCE, Server};

/// An authority, and the files of what it has signed.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    folder: PathBuf,
    name: &'static str,
}

impl Authority {
    fn new(folder: &Path, name: &'static str) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let own = Self { issuer: rcgen::Issuer::new(params, key), folder: folder.to_owned(), name };
        std::fs::write(own.file("ca"), pem).unwrap();
        own
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}-{kind}.pem", self.name))
    }

    /// Signs a certificate for this machine with a common name; without one when it is empty.
    fn sign(&self, common: &str) {
        let mut params =
            rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common.is_empty() {
            params.distinguished_name.push(rcgen::DnType::CommonName, common);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{common}-cert")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{common}-key")), key.serialize_pem()).unwrap();
    }

    fn cert(&self, common: &str) -> PathBuf {
        self.file(&format!("{common}-cert"))
    }

    fn key(&self, common: &str) -> PathBuf {
        self.file(&format!("{common}-key"))
    }

    /// What shakes hands as `server`, and asks for certificates of this authority when `mutual`.
    fn config(&self, mutual: bool) -> Config {
        let files = TlsFiles { certificates: self.cert("server"), key: self.key("server") };
        let ca = self.file("ca");
        let authority = mutual.then_some(ca.as_path());
        let acceptor = quorate_http::acceptor(&files, &[b"h2", b"http/1.1"], authority).unwrap();
        Config { tls: Some(acceptor), ..Config::default() }
    }

    /// The same, as etcd is told.
    fn arguments(&self, mutual: bool) -> Vec<String> {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut words = vec!["--cert-file".to_owned(), path(self.cert("server")), "--key-file".to_owned()];
        words.push(path(self.key("server")));
        if mutual {
            words.extend(["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned()]);
            words.push(path(self.file("ca")));
        }
        words
    }
}

/// A client: whom it believes, and what it shows.
#[derive(Clone, Copy)]
struct Papers<'a> {
    believes: &'a Authority,
    shows: Option<(&'a Authority, &'a str)>,
}

impl Papers<'_> {
    /// What etcdctl prints, and whether it succeeded.
    fn etcdctl(&self, address: SocketAddr, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(folder().join("etcdctl"));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=https://{address}"));
        command.args(["--dial-timeout=3s", "--command-timeout=3s"]);
        command.arg("--cacert").arg(self.believes.file("ca"));
        if let Some((authority, common)) = self.shows {
            command.arg("--cert").arg(authority.cert(common)).arg("--key").arg(authority.key(common));
        }
        let done = command.args(words).output().unwrap();
        let text = if done.status.success() { &done.stdout } else { &done.stderr };
        (done.status.success(), String::from_utf8_lossy(text).trim().to_owned())
    }

    /// It has to succeed.
    fn says(&self, address: SocketAddr, words: &[&str]) -> String {
        let (done, text) = self.etcdctl(address, words);
        assert!(done, "{words:?}: {text}");
        text
    }

    /// It has to fail: etcd's own text of why.
    fn refused(&self, address: SocketAddr, words: &[&str]) -> String {
        let (done, text) = self.etcdctl(address, words);
        assert!(!done, "{words:?}: {text}");
        text.rsplit("desc = ").next().unwrap().trim_end_matches('}').trim_matches('"').to_owned()
    }

    /// What curl is answered with: a version of HTTP, a status and the body; the number of curl's error where it is none.
    fn curl(&self, address: SocketAddr, path: &str, more: &[&str]) -> Result<String, i32> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--write-out", " [%{http_version} %{http_code}]"]);
        command.arg("--cacert").arg(self.believes.file("ca")).args(more);
        if let Some((authority, common)) = self.shows {
            command.arg("--cert").arg(authority.cert(common)).arg("--key").arg(authority.key(common));
        }
        let done = command.arg(format!("https://{address}{path}")).output().expect("curl is installed");
        match done.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            code => Err(code.unwrap()),
        }
    }
}

/// Until etcd answers, so that what follows is about what it answers.
fn wait_for(papers: Papers<'_>, address: SocketAddr) {
    let until = Instant::now() + PATIENCE;
    while papers.curl(address, "/health", &[]).is_err() {
        assert!(Instant::now() < until, "nobody answers at {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn grpc_and_json_are_served_by_tls_to_those_who_know_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    ours.sign("server");
    let server = Server::with(ours.config(false)).await;
    let address = server.address;
    let story = move || {
        let (knows, stranger) =
            (Papers { believes: &ours, shows: None }, Papers { believes: &theirs, shows: None });
        wait_for(knows, address);
        assert_eq!(knows.says(address, &["put", "a", "1"]), "OK");
        assert_eq!(knows.says(address, &["get", "a"]), "a\n1");
        let members = knows.says(address, &["member", "list"]);
        assert!(members.contains(&format!("https://{address}")), "{members}");
        // JSON by either protocol: clients that ask for both are given h2, as gRPC is.
        let body = r#"{"key":"YQ==","keys_only":true}"#;
        for (version, answered) in [("--http1.1", "[1.1 200]"), ("--http2", "[2 200]")] {
            let told = knows.curl(address, "/v3/kv/range", &[version, "--data", body]).unwrap();
            assert!(told.contains(r#""key":"YQ==""#) && told.ends_with(answered), "{told}");
        }
        for (version, answered) in
            [("--http1.1", "Not Found\n [1.1 404]"), ("--http2", "Not Found\n [2 404]")]
        {
            assert_eq!(knows.curl(address, "/v3/nothing", &[version, "--data", body]).unwrap(), answered);
        }
        assert_eq!(
            knows.curl(address, "/health", &["--http1.1"]).unwrap(),
            r#"{"health":"true","reason":""} [1.1 200]"#
        );
        // curl's 60: the server's certificate is of an authority that the client does not know.
        assert_eq!(stranger.curl(address, "/health", &[]), Err(60));
        let (done, text) = stranger.etcdctl(address, &["get", "a"]);
        assert!(!done, "{text}");
        // Without TLS nobody is answered.
        let mut plain = Command::new("curl");
        plain.args(["--silent", "--max-time", "20"]).arg(format!("http://{address}/health"));
        let plain = plain.output().unwrap();
        assert!(!plain.status.success() && plain.stdout.is_empty(), "{plain:?}");
    };
    tokio::task::spawn_blocking(story).await.unwrap();
    server.stop().await;
}

/// What a server that asks for certificates does, told by what its clients are.
fn who_is_who(address: SocketAddr, ours: &Authority, theirs: &Authority) -> Vec<String> {
    let by = |common| Papers { believes: ours, shows: Some((ours, common)) };
    let json = |papers: Papers<'_>, more: &[&str]| {
        let asked = [&["--data", r#"{"key":"YQ=="}"#], more].concat();
        let told = papers.curl(address, "/v3/kv/range", &asked).unwrap();
        if told.contains("kvs") { "answered".to_owned() } else { told }
    };
    let mut told = Vec::new();
    // Before authentication is enabled a certificate opens the door, whatever it says.
    told.push(by("stranger").says(address, &["put", "a", "1"]));
    told.push(json(by("stranger"), &[]));
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "ann", "--no-password"],
        &["user", "add", "bob:pear"],
        &["role", "add", "r"],
        &["role", "grant-permission", "r", "read", "a"],
        &["user", "grant-role", "ann", "r"],
        &["auth", "enable"],
    ] {
        told.push(by("root").says(address, words).lines().last().unwrap().to_owned());
    }
    // From then on its common name is the user.
    told.push(by("ann").says(address, &["get", "a"]));
    told.push(by("ann").refused(address, &["put", "a", "2"]));
    told.push(by("bob").refused(address, &["get", "a"]));
    told.push(by("stranger").refused(address, &["get", "a"]));
    told.push(by("").refused(address, &["get", "a"]));
    told.push(by("root").says(address, &["put", "a", "2"]));
    told.push(by("root").says(address, &["user", "list"]));
    told.push(by("ann").says(address, &["user", "get", "ann"]));
    told.push(by("ann").refused(address, &["user", "list"]));
    told.push(by("ann").says(address, &["lease", "list"]));
    told.push(by("ann").refused(address, &["watch", "b"]).lines().last().unwrap().to_owned());
    // A password outweighs it, and one that is wrong is no way to the certificate's rights.
    told.push(by("ann").says(address, &["--user=root:secret", "put", "a", "3"]));
    told.push(by("root").refused(address, &["--user=bob:pear", "get", "a"]));
    told.push(by("root").refused(address, &["--user=bob:apple", "get", "a"]));
    // In JSON a name is not heard, and who shows one is told so, by whatever token it comes; who shows none comes by token.
    let body = r#"{"name":"root","password":"secret"}"#;
    let entered = by("").curl(address, "/v3/auth/authenticate", &["--data", body]).unwrap();
    let token = entered.split(r#""token":""#).nth(1).unwrap().split('"').next().unwrap();
    let header = format!("Authorization: {token}");
    for (papers, more) in [
        (by("ann"), &[][..]),
        (by("root"), &[]),
        (by("root"), &["--header", header.as_str()]),
        (by(""), &["--header", header.as_str()]),
    ] {
        told.push(json(papers, more));
    }
    told.push(by("root").curl(address, "/health", &[]).unwrap());
    // Nobody comes in without a certificate, or with one of another authority.
    for shows in [None, Some((theirs, "root"))] {
        let papers = Papers { believes: ours, shows };
        told.push(format!(
            "{} {}",
            papers.etcdctl(address, &["get", "a"]).0,
            papers.curl(address, "/health", &[]).is_ok()
        ));
    }
    told.push(by("root").says(address, &["user", "delete", "ann"]));
    told.push(by("ann").refused(address, &["get", "a"]));
    told.push(by("root").says(address, &["auth", "disable"]));
    told.push(by("ann").says(address, &["get", "a"]));
    told
}

#[tokio::test]
async fn the_certificate_of_a_client_says_who_it_is_as_with_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    for common in ["server", "root", "ann", "bob", "stranger", ""] {
        ours.sign(common);
    }
    theirs.sign("root");
    let arguments = ours.arguments(true);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let etcd = Etcd::with(&arguments);
    let server = Server::with(ours.config(true)).await;
    let (wanted, found) = (etcd.address, server.address);
    let story = move || {
        wait_for(Papers { believes: &ours, shows: Some((&ours, "root")) }, wanted);
        let tell = |address| who_is_who(address, &ours, &theirs);
        (tell(wanted), tell(found))
    };
    let (wanted, found) = tokio::task::spawn_blocking(story).await.unwrap();
    assert_eq!(found, wanted, "(found: Quorate, wanted: etcd)");
    let unheard = wanted.iter().filter(|told| told.contains("will be ignored")).count();
    assert_eq!((unheard, wanted.iter().filter(|told| *told == "answered").count()), (3, 2), "{wanted:#?}");
    server.stop().await;
}
