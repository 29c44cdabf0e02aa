//! The processes that are measured: started, counted, ended.
//!
//! Invariant: no process outlives its `Processes`, whatever happens.
//! Called by: `cluster::servers`, `redis`, `kafka`; `machine` for its own memory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// Running processes, each with a log in one folder.
pub(crate) struct Processes {
    folder: PathBuf,
    running: Vec<Child>,
}

impl Processes {
    /// None yet; their logs go into `folder`, which is made.
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into(), running: Vec::new() })
    }

    /// Starts one more; `option` names it on the command line.
    pub(crate) fn spawn(&mut self, mut command: Command, option: &str) -> Result<(), Failure> {
        let log = std::fs::File::create(self.log(self.running.len()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            format!("{program} cannot be started: {error}; build it, or name it with --{option}")
        })?;
        self.running.push(child);
        Ok(())
    }

    /// How many were started.
    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// CPU seconds that all have used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.running.iter().map(|child| cpu_seconds(&child.id().to_string())).sum()
    }

    /// Resident memory of all, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.running.iter().map(|child| resident_bytes(&child.id().to_string())).sum()
    }

    /// The end of what each printed.
    pub(crate) fn last_words(&self) -> String {
        let tail = |number: usize| {
            let text = std::fs::read_to_string(self.log(number)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("node {number}: {}", lines[lines.len().saturating_sub(5)..].join("\n  "))
        };
        (0..self.running.len()).map(tail).collect::<Vec<_>>().join("\n")
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.log"))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.running {
            // Fails only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `quorate serve` as node number `node` of those that listen for their peers at `peers`; alone when there is one.
pub(crate) fn quorate(
    binary: &Path,
    folder: &Path,
    node: usize,
    http: SocketAddr,
    peers: &[SocketAddr],
) -> Command {
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data").arg(folder.join(node.to_string()));
    command.args(["--http", &http.to_string()]);
    if peers.len() > 1 {
        let all: Vec<_> =
            peers.iter().enumerate().map(|(at, address)| format!("{}={address}", at + 1)).collect();
        command.args(["--node-id", &(node + 1).to_string()]);
        command.args(["--peer-listen", &peers[node].to_string(), "--peers", &all.join(",")]);
    }
    command
}

/// Makes a cluster of nodes that run, of which one answers HTTP there, and waits until all of them have a vote.
pub(crate) fn form_cluster(binary: &Path, http: SocketAddr, nodes: usize) -> Result<(), String> {
    let url = format!("http://{http}");
    let end = Instant::now() + Duration::from_secs(30);
    let ask =
        |words: &[&str]| Command::new(binary).arg("cluster").args(words).args(["--server", &url]).output();
    while Instant::now() < end {
        // Refused once it is made.
        let _ = ask(&["init"]);
        if let Ok(said) = ask(&["status", "--json"])
            && String::from_utf8_lossy(&said.stdout).matches("\"voter\"").count() >= nodes
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("no cluster of {nodes} voters"))
}

/// What a binary says it is.
pub(crate) fn version(binary: &Path) -> Result<String, Failure> {
    let said = Command::new(binary).arg("--version").output().map_err(|error| {
        format!(
            "{} cannot be run: {error}; build it with `cargo build --release -p quorate`, or name another",
            binary.display()
        )
    })?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or("unknown").to_owned())
}

/// User and system time of a process in seconds (proc(5), stat); `self` is this one. Zero when it is gone.
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    /// Linux shows times to user space in this unit on every architecture it runs on today (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces: count from behind it. utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Resident memory of a process (proc(5), statm), in bytes; `self` is this one. Zero when it is gone.
pub(crate) fn resident_bytes(process: &str) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}

/// Addresses of this machine that nobody listens on; all are held until the last is found, so that they differ.
pub(crate) fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_grows_with_work() {
        let before = cpu_seconds("self");
        let begun = Instant::now();
        let mut sum = 0u64;
        while begun.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        assert!(cpu_seconds("self") > before);
        assert!(cpu_seconds("0") == 0.0, "no such process");
    }
}
