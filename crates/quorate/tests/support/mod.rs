//! A server and commands as child processes, with deadlines instead of luck.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure. Not every story uses all of it.

pub(crate) mod fleet;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that anything may take: only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The built binary with these arguments, with nothing of the surroundings in its environment.
pub(crate) fn quorate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).env_remove("QUORATE_SERVER").env_remove("QUORATE_TOKEN_AUTH").env_remove("QUORATE_CA");
    // Tests run beside each other, and beside whoever has the default port.
    command.env("QUORATE_REDIS", "off").env("QUORATE_ETCD", "off").env("QUORATE_KAFKA", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn of(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.out.trim_end()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        self.out.lines().map(read).collect()
    }
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Run {
    Run::of(quorate(args).output().unwrap())
}

/// The folder with the clients of Kafka, filled at first use.
pub(crate) fn kafka_clients() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("target/kafka-clients");
    let filled = Command::new(root.join("scripts/kafka-clients.sh")).arg(&folder).output().unwrap();
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    folder
}

/// Looks again and again until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, running. Dropped, it is killed.
pub(crate) struct Server {
    pub(crate) url: String,
    /// The line that it prints when it is ready.
    pub(crate) ready: Value,
    child: Child,
    err: Receiver<String>,
    data: PathBuf,
    extra: Vec<String>,
    folder: Option<TempDir>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(extra: &[&str]) -> Self {
        Self::with_address("127.0.0.1:0", extra)
    }

    pub(crate) fn with_address(address: &str, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let extra: Vec<String> = extra.iter().map(|one| (*one).to_owned()).collect();
        let (child, ready, err) = serve(&data, address, &extra);
        Server { url: url(&ready), ready, child, err, data, extra, folder: Some(folder) }
    }

    pub(crate) fn on(data: &Path) -> Self {
        let (child, ready, err) = serve(data, "127.0.0.1:0", &[]);
        Server { url: url(&ready), ready, child, err, data: data.to_owned(), extra: vec![], folder: None }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(quorate(args).env("QUORATE_SERVER", &self.url).output().unwrap())
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Run {
        let mut child = quorate(args).env("QUORATE_SERVER", &self.url).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        Run::of(child.wait_with_output().unwrap())
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Run {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done
    }

    /// Starts a command that goes on by itself.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        let mut child = quorate(args).env("QUORATE_SERVER", &self.url).stdin(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child: Some(child), out }
    }

    /// Kills it as a power cut would.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        (self.child, self.ready, self.err) = serve(&self.data, "127.0.0.1:0", &self.extra);
        self.url = url(&self.ready);
    }

    pub(crate) fn restart_on_the_same_port(&mut self) {
        let address = self.address().to_owned();
        (self.child, self.ready, self.err) = serve(&self.data, &address, &self.extra);
    }

    /// Stops it by SIGTERM; its exit code and what it said.
    pub(crate) fn stop(mut self) -> (i32, String) {
        self.end()
    }

    /// Stops it, and keeps its folder until the value is dropped.
    pub(crate) fn stop_and_keep(mut self) -> Option<TempDir> {
        self.end();
        self.folder.take()
    }

    fn end(&mut self) -> (i32, String) {
        terminate(&self.child);
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (code, self.err.iter().collect())
    }

    pub(crate) fn get_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.http("GET", path)).unwrap()
    }

    pub(crate) fn delete(&self, path: &str) {
        self.http("DELETE", path);
    }

    /// The body of the answer to a plain request.
    fn http(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        body.to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn url(ready: &Value) -> String {
    ready["url"].as_str().unwrap().to_owned()
}

fn serve(data: &Path, address: &str, extra: &[String]) -> (Child, Value, Receiver<String>) {
    let mut command = quorate(&["serve", "--http", address, "--data"]);
    let mut child = command.arg(data).args(extra).spawn().unwrap();
    let (send, err) = channel();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || {
        let mut line = String::new();
        while said.read_line(&mut line).is_ok_and(|read| read > 0) {
            // Nobody may want to know.
            let _ = send.send(std::mem::take(&mut line));
        }
    });
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Ok(ready) = serde_json::from_str::<Value>(&line) else {
        panic!("the server did not start: {}", err.iter().collect::<String>());
    };
    (child, ready, err)
}

pub(crate) fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

/// A command that goes on by itself. Dropped, it is killed.
pub(crate) struct Running {
    child: Option<Child>,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// The next line it prints.
    pub(crate) fn text(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The next line it prints, as JSON.
    pub(crate) fn line(&mut self) -> Value {
        let line = self.text();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub(crate) fn terminate(&mut self) {
        terminate(self.child.as_ref().unwrap());
    }

    /// Closes its stdin, and waits for its end.
    pub(crate) fn end(mut self) -> Run {
        Run::of(self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
