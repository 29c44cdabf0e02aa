//! The leader of three nodes is killed while applications work: what was accepted is not lost, and what excludes each other still does.
//!
//! Each story is a program of `tests/clients/failover`, all of them run at the same time against the same nodes, in databases of their own. The test
//! kills whoever leads with SIGKILL, starts it again, and waits until the cluster is whole; at the end each story checks what came of its work.
//! One kill in `cargo test`; more of them with
//!
//! ```sh
//! cargo build --release -p quorate
//! QUORATE=target/release/quorate KILLS=20 cargo test -p quorate-redis --test it failover:: -- --nocapture
//! ```
//!
//! which prints the counts of each story.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // Test code: a failure here is the test's failure.

use crate::clients::libraries;
use crate::fleet;

use fleet::Fleet;
use libraries::{libraries, program};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const STORIES: [&str; 5] = ["bullmq.cjs", "limits.cjs", "plain.py", "celery_jobs.py", "rq_jobs.py"];

/// How long a story may take to begin, and to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn applications_go_on_when_the_leader_is_killed() {
    let kills: u64 = std::env::var("KILLS").map_or(1, |text| text.parse().expect("KILLS is a number"));
    let wanted = std::env::var("STORIES").unwrap_or_else(|_| STORIES.join(","));
    libraries();
    let mut fleet = Fleet::start(3, &[]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kills"), "0").unwrap();
    let (first, _) = fleet.leader();
    // The one that will be killed comes first in every list, so that most clients are connected to it.
    let mut order: Vec<usize> = (0..3).collect();
    order.rotate_left(first);
    let nodes: Vec<String> = order.iter().map(|node| fleet.nodes[*node].redis.to_string()).collect();
    let stories: Vec<Story> =
        wanted.split(',').map(|name| Story::start(name, &nodes.join(","), folder.path())).collect();
    let mut stories: Vec<Story> = stories.into_iter().map(Story::ready).collect();
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(700 + kill * 577 % 1500));
        let (leader, term) = fleet.leader();
        std::fs::write(folder.path().join("kills"), kill.to_string()).unwrap();
        fleet.kill(leader);
        let begun = Instant::now();
        fleet.whole();
        println!(
            "kill {kill}: node {} led in term {term}; writes at every node again after {:?}",
            leader + 1,
            begun.elapsed()
        );
        std::thread::sleep(Duration::from_millis(300 + kill * 911 % 2000));
        fleet.start_one(leader);
        fleet.whole();
        stories.iter_mut().for_each(Story::goes_on);
    }
    std::thread::sleep(Duration::from_secs(1));
    stories.iter_mut().for_each(Story::stop);
    let said: Vec<String> = stories.into_iter().map(Story::end).collect();
    println!("{}", said.join("\n"));
    assert_eq!(fleet.died(), Vec::<String>::new());
}

/// A program that runs. Dropped, it is killed.
struct Story {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: std::path::PathBuf,
}

impl Story {
    fn start(name: &str, nodes: &str, folder: &Path) -> Self {
        let mut command = program(&format!("failover/{name}"));
        let errors = folder.join(format!("{name}.err"));
        command
            .arg(nodes)
            .env("NODES", nodes)
            .env("RAN", folder.join("ran"))
            .env("KILLS", folder.join("kills"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&errors).unwrap());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = lines_of(child.stdout.take().unwrap());
        Self { name: name.to_owned(), child, lines, errors }
    }

    /// Waits until its load flows.
    fn ready(self) -> Self {
        let line = self.lines.recv_timeout(PATIENCE);
        assert_eq!(line.as_deref(), Ok("ready"), "{}: {}", self.name, self.errors());
        self
    }

    fn goes_on(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "{} ended: {}", self.name, self.errors());
    }

    /// Tells it to end, and goes on at once.
    fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; what it counted.
    fn end(mut self) -> String {
        let mut said = String::new();
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            said += &line;
        }
        let status = self.child.try_wait().unwrap().or_else(|| {
            std::thread::sleep(Duration::from_secs(2));
            self.child.try_wait().unwrap()
        });
        assert!(
            status.is_some_and(|status| status.success()),
            "{}: {status:?} {said}\n{}",
            self.name,
            self.errors()
        );
        let counts = said.strip_prefix("counts ").unwrap_or_else(|| panic!("{}: {said}", self.name));
        format!("{}: {counts}", self.name)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // Its input ends first, so that it may end those whom it has started.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(out: ChildStdout) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        while out.read_line(&mut line).is_ok_and(|read| read > 0) {
            if tell.send(std::mem::take(&mut line).trim_end().to_owned()).is_err() {
                return;
            }
        }
        let _ = out.read_to_end(&mut Vec::new());
    });
    told
}
