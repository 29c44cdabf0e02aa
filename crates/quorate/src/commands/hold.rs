//! Running a program while holding a lock or leadership: session, wait, child, release. What `lock` and `elect` share.
//!
//! The lease is kept alive by a thread of its own. It is counted as held until its time to live after the moment at which the
//! last successful keepalive was *sent*, by this machine's monotonic clock: the server ends it no earlier than that.
//! Source: Gray & Cheriton, "Leases", SOSP 1989, §2.
//!
//! Invariant: the program never starts before the grant, and is told to stop when the lease can no longer be counted as held.
//! Invariant: the lease is revoked when the program has ended, so that the next in the queue need not wait for it to run out.

use crate::client::{Attempt, Client, Connect, Problem, Request};
use crate::failure::{Exit, Failure};
use crate::names::{duration, millis, segment};
use crate::signals;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// One request may wait so long at most; a longer wait is made of several.
const WAIT_STEP: Duration = Duration::from_secs(300);

/// How to hold, and what to run.
#[derive(clap::Args)]
pub(crate) struct Hold {
    /// Lock or election.
    pub(crate) name: String,
    /// Time to live of the lease: how long others wait after this machine was lost.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    ttl: Duration,
    /// How long to wait for it; 0s only tries. Without it, as long as it takes.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How long the program has to end after SIGTERM, before SIGKILL.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    grace: Duration,
    #[command(flatten)]
    connect: Connect,
    /// Program to run, with its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What is asked for: the same in words and in the route.
pub(crate) struct Asked {
    /// "lock" or "leadership of".
    pub(crate) what: &'static str,
    /// Collection and verb of the route.
    pub(crate) route: (&'static str, &'static str),
    /// Members of the request beyond lease, wait and request.
    pub(crate) members: Map<String, Value>,
}

/// What happens while the program runs.
enum News {
    /// The program has ended, and waits to be reaped.
    Ended,
    /// The lease counts as held until then.
    HeldUntil(Instant),
    /// The server says that the lease is gone.
    Lost(String),
    /// A signal for this process.
    Signal(u8),
}

impl Hold {
    /// Gets it, runs the program, gives it back.
    pub(crate) fn run(self, asked: &Asked) -> Result<ExitCode, Failure> {
        if self.ttl.is_zero() {
            return Err(Failure::new(Exit::NotHeld, "--ttl is 0s", "choose at least 200ms"));
        }
        let (send, news) = channel();
        let tell = send.clone();
        signals::listen(move |number| tell.send(News::Signal(number)).is_ok())?;
        let mut client = self.connect.client()?;
        let sent = Instant::now();
        let lease = grant(&mut client, self.ttl).map_err(|failure| failure.exit(Exit::NotHeld))?;
        let keeper = Keeper::start(self.connect.client()?, lease, self.ttl, send.clone());
        let held = Held { client: Some(client), connect: &self.connect, lease };
        let outcome = self.hold(asked, held, sent + self.ttl, &news, send);
        drop(keeper);
        outcome
    }

    fn hold(
        &self,
        asked: &Asked,
        mut held: Held<'_>,
        mut until: Instant,
        news: &Receiver<News>,
        send: Sender<News>,
    ) -> Result<ExitCode, Failure> {
        let token = self.acquire(asked, &mut held, &mut until, news)?;
        let (what, name) = (asked.what, &self.name);
        eprintln!("{what} {name} held with token {token}, lease {}", held.lease);
        let mut child = self.start(token, held.lease)?;
        watch_child(&child, send)?;
        let ended = self.guard(asked, &mut child, until, news)?;
        held.release();
        match ended {
            Ended::Itself(status) => Ok(ExitCode::from(code_of(status))),
            Ended::Lost(why) => Err(Failure::new(
                Exit::LeaseLost,
                format!("{what} {name} was lost ({why}), and the program was stopped"),
                "whatever it wrote elsewhere is safe only where its token was checked",
            )),
        }
    }

    /// Waits for the grant in steps, on a thread, so that a signal is heard meanwhile.
    fn acquire(
        &self,
        asked: &Asked,
        held: &mut Held<'_>,
        until: &mut Instant,
        news: &Receiver<News>,
    ) -> Result<u64, Failure> {
        let mut client = held.client.take().ok_or_else(|| Failure::strange("no connection"))?;
        let path = format!("/v1/{}/{}/{}", asked.route.0, segment(&self.name), asked.route.1);
        let (mut body, lease) = (asked.members.clone(), held.lease);
        body.insert("lease".into(), lease.into());
        body.insert("request".into(), 1.into());
        let wait = self.wait;
        let (done, granted) = channel();
        // When a signal ends the wait, the lease is revoked, and with it the place in the queue: the thread may be left behind.
        std::thread::spawn(move || {
            let _ = done.send((wait_for(&mut client, &path, body, wait), client));
        });
        loop {
            match granted.recv_timeout(Duration::from_millis(20)) {
                Ok((token, client)) => {
                    held.client = Some(client);
                    return token;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::strange("the wait ended without an answer"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            match news.try_recv() {
                Ok(News::Signal(signal)) => {
                    let what = format!("stopped while waiting for {} {}", asked.what, self.name);
                    return Err(Failure::new(Exit::Signal(signal), what, ""));
                }
                Ok(News::Lost(why)) => return Err(Failure::new(Exit::NotHeld, why, "try again")),
                Ok(News::HeldUntil(time)) => *until = time,
                Ok(News::Ended) | Err(_) => {}
            }
            if Instant::now() >= *until {
                let what = "the lease ran out while waiting: the server did not answer keepalives";
                return Err(Failure::new(Exit::NotHeld, what, "try again"));
            }
        }
    }

    fn start(&self, token: u64, lease: u64) -> Result<Child, Failure> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| Failure::strange("no program"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("QUORATE_TOKEN", token.to_string())
            .env("QUORATE_LEASE", lease.to_string())
            .env("QUORATE_NAME", &self.name)
            .env("QUORATE_SERVER", &self.connect.server);
        command.spawn().map_err(|error| {
            let exit =
                if error.kind() == std::io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
            Failure::io(format!("run {}", program.to_string_lossy()), &error).exit(exit)
        })
    }

    /// Waits for the program's end, and stops it when the lease is lost.
    fn guard(
        &self,
        asked: &Asked,
        child: &mut Child,
        mut until: Instant,
        news: &Receiver<News>,
    ) -> Result<Ended, Failure> {
        let reap =
            |child: &mut Child| child.wait().map_err(|error| Failure::io("wait for the program", &error));
        let (mut lost, mut kill_at): (Option<String>, Option<Instant>) = (None, None);
        let mut interrupted = false;
        loop {
            let wake = kill_at.unwrap_or(until);
            match news.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(News::Ended) => {
                    let status = reap(child)?;
                    return Ok(lost.map_or(Ended::Itself(status), Ended::Lost));
                }
                Ok(News::HeldUntil(time)) if lost.is_none() => until = time,
                Ok(News::Lost(why)) if lost.is_none() => {
                    eprintln!("{} {}: {why}; stopping the program", asked.what, self.name);
                    tell(child, Signal::TERM);
                    (lost, kill_at) = (Some(why), Some(Instant::now() + self.grace));
                }
                // A terminal sends ctrl-c to the program too; one that stays is told again, and in other words.
                Ok(News::Signal(2)) if !interrupted => interrupted = true,
                Ok(News::Signal(_)) => tell(child, Signal::TERM),
                Ok(News::HeldUntil(_) | News::Lost(_)) => {}
                Err(RecvTimeoutError::Timeout) if lost.is_some() => {
                    eprintln!("the program did not end within {} ms: SIGKILL", millis(self.grace));
                    tell(child, Signal::KILL);
                    kill_at = Some(Instant::now() + Duration::from_secs(3600));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let why = "keepalives were not answered for the lease's time to live".to_owned();
                    eprintln!("{} {}: {why}; stopping the program", asked.what, self.name);
                    tell(child, Signal::TERM);
                    (lost, kill_at) = (Some(why), Some(Instant::now() + self.grace));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    tell(child, Signal::TERM);
                    return Ok(Ended::Itself(reap(child)?));
                }
            }
        }
    }
}

/// How the program ended.
enum Ended {
    /// By itself, or by a signal that was passed on.
    Itself(ExitStatus),
    /// Because the lease was lost.
    Lost(String),
}

/// A lease that is revoked when this ends, in whatever way.
struct Held<'a> {
    client: Option<Client>,
    connect: &'a Connect,
    lease: u64,
}

impl Held<'_> {
    fn release(self) {}
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let client = self.client.take().map_or_else(|| self.connect.client(), Ok);
        let request = Request::new("DELETE", format!("/v1/leases/{}", self.lease), vec![]).repeatable();
        let done = client.map(|mut client| client.attempt(&request, Duration::from_secs(5)));
        match done {
            Ok(Attempt::Answered(_)) => {}
            Ok(Attempt::Refused(problem)) if problem.code == "lease_missing" => {}
            _ => eprintln!(
                "warning: lease {} could not be given back; it ends with its time to live",
                self.lease
            ),
        }
    }
}

fn grant(client: &mut Client, ttl: Duration) -> Result<u64, Failure> {
    let request = Request::json("POST", "/v1/leases", &json!({"ttl": millis(ttl)})).once()?;
    let answer = client.call(&request)?.json()?;
    answer["lease"].as_u64().ok_or_else(|| Failure::strange("a grant names no lease"))
}

/// Asks for the lock until it is granted, refused, or the wait is over.
fn wait_for(
    client: &mut Client,
    path: &str,
    mut body: Map<String, Value>,
    wait: Option<Duration>,
) -> Result<u64, Failure> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    loop {
        let left = deadline.map_or(WAIT_STEP, |deadline| deadline.saturating_duration_since(Instant::now()));
        let step = left.min(WAIT_STEP);
        body.insert("wait".into(), millis(step).into());
        // The same lease and request number give the same place in the queue, or the same token: asking again is harmless.
        let request = Request::json("POST", path, &Value::Object(body.clone())).waiting(step).repeatable();
        let problem: Problem = match client.ask(&request) {
            Ok(answer) => {
                let answer = answer.json()?;
                return answer["token"].as_u64().ok_or_else(|| Failure::strange("a grant names no token"));
            }
            Err(Ok(problem)) => problem,
            Err(Err(failure)) => return Err(failure.exit(Exit::NotHeld)),
        };
        let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if over || !problem.says_held() {
            return Err(Failure::from(problem).exit(Exit::NotHeld));
        }
    }
}

/// The thread that keeps a lease alive. Dropped, it ends.
struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    fn start(mut client: Client, lease: u64, ttl: Duration, news: Sender<News>) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let request =
                Request::json("POST", format!("/v1/leases/{lease}/keepalive"), &json!({})).repeatable();
            let mut pause = ttl / 3;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                let sent = Instant::now();
                let (word, next) = match client.attempt(&request, ttl / 3) {
                    Attempt::Answered(_) => (Some(News::HeldUntil(sent + ttl)), ttl / 3),
                    Attempt::Refused(problem) if problem.code == "lease_missing" => {
                        (Some(News::Lost(Failure::from(problem).what)), ttl)
                    }
                    // Trouble on the way: the lease may still be there, so it is tried again soon.
                    Attempt::Refused(_) | Attempt::NotSent(_) | Attempt::Lost(_) => (None, ttl / 20),
                };
                pause = next;
                if word.is_some_and(|word| news.send(word).is_err()) {
                    return;
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already; the lease then ended by its time to live.
            let _ = thread.join();
        }
    }
}

/// Tells when the program has ended, without reaping it: until then its process id is its own.
fn watch_child(child: &Child, news: Sender<News>) -> Result<(), Failure> {
    let pid = pid_of(child).ok_or_else(|| Failure::strange("a process without an id"))?;
    std::thread::spawn(move || {
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), exited) {}
        let _ = news.send(News::Ended);
    });
    Ok(())
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn tell(child: &Child, signal: Signal) {
    // It may have ended in this moment, which is what was wanted. It is not reaped yet, so the id is nobody else's.
    if let Some(pid) = pid_of(child) {
        let _ = kill_process(pid, signal);
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_exit_code_is_passed_on() {
        let run = |script: &str| code_of(Command::new("sh").args(["-c", script]).status().unwrap());
        assert_eq!(run("exit 0"), 0);
        assert_eq!(run("exit 42"), 42);
        assert_eq!(run("kill -TERM $$"), 143);
    }
}
