//! `quorate import`: copies a live Redis into Quorate, typed, with times to live.
//!
//! One thread scans the source, `--parallel` workers copy what it names, and the main thread says how far it is. Both sides are spoken to
//! by the Redis protocol, so the target is whichever node is near, with its limits and permissions in force.
//!
//! Invariant: the source is only read.
//! Invariant: without `--replace` no key of the target is overwritten; without any flag a target that holds keys is refused.
//! Called by: `main`.

mod copy;
mod streams;
mod tally;
mod wire;

use crate::failure::{Exit, Failure};
use crate::output::{Output, grouped};
use copy::Copier;
use redis::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tally::{Line, Tally};
use wire::{Place, Wire, items_of, list_of, number_of, text_of};

/// Keys asked for at once.
const SCAN_COUNT: &[u8] = b"512";

/// Copy a live Redis into Quorate: every type, with times to live.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate import redis://10.0.0.5:6379
  quorate import redis://10.0.0.5 --dry-run                        (what it would copy; writes nothing)
  quorate import rediss://app:secret@cache.example:6380/0 --to redis://127.0.0.1:6379
  quorate import redis://10.0.0.5 --databases 0,3 --match 'session:*'
  quorate import redis://10.0.0.5 --skip-existing                  (goes on after one that was broken off)
  quorate import redis://10.0.0.5 --replace                        (again, over what was copied before)

The source is only read. A key that is read in one command (a string, or up to 1,000 elements) is copied as it was at one
moment, with its time to live; a larger one is read in slices, and is named when its size changed meanwhile. Keys that are
written after they were read are not followed: stop the writers, or run again with --replace after they have stopped.
Scripts, functions, users and pub/sub are not copied. What cannot be copied is named on stderr, and the exit code is 1.")]
pub(crate) struct Import {
    /// Redis to read: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss://… for TLS.
    #[arg(value_name = "URL", env = "QUORATE_IMPORT_SOURCE", hide_env_values = true)]
    source: String,
    /// Where to write: Quorate's Redis address.
    #[arg(long, value_name = "URL", env = "QUORATE_IMPORT_TARGET", hide_env_values = true)]
    #[arg(default_value = "redis://127.0.0.1:6379")]
    to: String,
    /// Databases to copy, such as 0,1, or all; otherwise the one in the URL, or all.
    #[arg(long, value_name = "LIST")]
    databases: Option<String>,
    /// Only keys that match this pattern of Redis.
    #[arg(long = "match", value_name = "GLOB")]
    pattern: Option<String>,
    /// Workers that copy at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Replace keys that the target has.
    #[arg(long, conflicts_with = "skip_existing")]
    replace: bool,
    /// Leave keys alone that the target has.
    #[arg(long)]
    skip_existing: bool,
    /// Only count what would be copied.
    #[arg(long)]
    dry_run: bool,
    /// PEM file of certificate authorities to trust for rediss, instead of the system's.
    #[arg(long, value_name = "FILE", env = "QUORATE_CA")]
    ca: Option<PathBuf>,
}

/// What becomes of keys that the target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    /// A database that holds keys is refused.
    Refuse,
    Keep,
    Replace,
}

/// What the workers go by.
struct Plan {
    existing: Existing,
    dry_run: bool,
    /// The source tells absolute deadlines (Redis 7.0).
    tells_deadlines: bool,
    /// The source knows fields with deadlines of their own (Redis 7.4).
    field_deadlines: bool,
    /// The database of the target, when it is not that of the source.
    target_database: Option<i64>,
}

impl Plan {
    fn target_of(&self, database: i64) -> i64 {
        self.target_database.unwrap_or(database)
    }

    fn deadline_command(&self) -> &'static [u8] {
        if self.tells_deadlines { b"PEXPIRETIME" } else { b"PTTL" }
    }

    /// The deadline in wall time; `now` is the source's time, `told` what it answered.
    fn deadline(&self, now: i64, told: i64) -> Option<i64> {
        match told {
            ..0 => None,
            at if self.tells_deadlines => Some(at),
            left => Some(now.saturating_add(left)),
        }
    }
}

impl Import {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let source = Place::parse(&self.source, self.ca.as_deref())?;
        let target = Place::parse(&self.to, self.ca.as_deref())?;
        if source.is_tls() || target.is_tls() {
            // Whoever came first has installed the same one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let named = self.named(&source)?;
        let mut from = source.wire();
        let info = info(&mut from, "server")?;
        let databases = match named {
            Some(databases) => databases,
            None => filled(&mut from)?,
        };
        let plan = self.plan(&mut from, &target, &databases)?;
        let mut to = target.wire();
        if let (Some(one), Some(other)) =
            (field(&info, "run_id"), field(&self::info(&mut to, "server")?, "run_id"))
            && one == other
        {
            let what = format!("{} and {} are the same server", source.shown, target.shown);
            return Err(Failure::new(Exit::Refused, what, "name Quorate's address with --to"));
        }
        check_target(&mut to, &plan, &databases)?;
        let mut sizes = 0;
        for database in &databases {
            sizes += size(&mut from, *database)?;
        }
        let job = Job {
            plan,
            source,
            target,
            databases,
            pattern: self.pattern,
            parallel: self.parallel,
            tally: Mutex::default(),
            all: AtomicU64::new(sizes),
            stop: AtomicBool::new(false),
        };
        job.run(output)
    }

    /// The databases that were asked for; none when it is to be all that hold keys.
    fn named(&self, source: &Place) -> Result<Option<Vec<i64>>, Failure> {
        let Some(list) = &self.databases else { return Ok(source.database.map(|one| vec![one])) };
        if source.database.is_some() {
            let what = "the URL names a database, and so does --databases";
            return Err(Failure::new(Exit::Usage, what, "leave one of them out"));
        }
        if list == "all" {
            return Ok(None);
        }
        let numbers: Option<Vec<i64>> =
            list.split(',').map(|one| one.trim().parse().ok().filter(|n| (0..=65_535).contains(n))).collect();
        let mut numbers = numbers.ok_or_else(|| {
            let what = format!("--databases {list} is no list of numbers");
            Failure::new(Exit::Usage, what, "write --databases 0,1 or --databases all")
        })?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(Some(numbers))
    }

    fn plan(&self, from: &mut Wire, target: &Place, databases: &[i64]) -> Result<Plan, Failure> {
        if target.database.is_some() && databases.len() > 1 {
            let what = format!("{} databases cannot go into the one that --to names", databases.len());
            return Err(Failure::new(
                Exit::Usage,
                what,
                "leave the number out of --to, or name one database",
            ));
        }
        let knows = |answer: Result<Value, String>| answer.is_ok();
        Ok(Plan {
            existing: match (self.replace, self.skip_existing) {
                (true, _) => Existing::Replace,
                (_, true) => Existing::Keep,
                _ => Existing::Refuse,
            },
            dry_run: self.dry_run,
            tells_deadlines: knows(from.try_one(&[b"PEXPIRETIME", b"quorate:import"])?),
            field_deadlines: knows(from.try_one(&[
                b"HPEXPIRETIME",
                b"quorate:import",
                b"FIELDS",
                b"1",
                b"f",
            ])?),
            target_database: target.database,
        })
    }
}

/// The text of one section of INFO.
fn info(wire: &mut Wire, section: &str) -> Result<String, Failure> {
    let info = wire.ask_one(&[b"INFO", section.as_bytes()])?;
    Ok(match &info {
        Value::VerbatimString { text, .. } => text.clone(),
        other => text_of(other).unwrap_or_default(),
    })
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
        .filter(|text| !text.is_empty())
}

/// The databases that hold keys, in order.
fn filled(from: &mut Wire) -> Result<Vec<i64>, Failure> {
    let info = info(from, "keyspace")?;
    let number = |line: &str| line.strip_prefix("db")?.split_once(':')?.0.parse().ok();
    let mut databases: Vec<i64> = info.lines().filter_map(number).collect();
    databases.sort_unstable();
    Ok(databases)
}

fn size(wire: &mut Wire, database: i64) -> Result<u64, Failure> {
    let number = database.to_string();
    let chosen = wire.ask_one(&[b"SELECT", number.as_bytes()]).map_err(|mut failure| {
        if failure.exit == Exit::Refused {
            failure.next =
                format!("{} has no database {database}: choose others with --databases", wire.place.shown);
        }
        failure
    });
    chosen?;
    Ok(number_of(&wire.ask_one(&[b"DBSIZE"])?).and_then(|size| u64::try_from(size).ok()).unwrap_or(0))
}

/// Every database is there, and is empty unless a flag says what becomes of its keys.
fn check_target(to: &mut Wire, plan: &Plan, databases: &[i64]) -> Result<(), Failure> {
    for database in databases {
        let database = plan.target_of(*database);
        let keys = size(to, database)?;
        if keys > 0 && plan.existing == Existing::Refuse {
            let keys = grouped(keys);
            let what = format!(
                "database {database} of {} holds {keys} keys already; nothing was written",
                to.place.shown
            );
            let next =
                "--skip-existing leaves them alone and copies what is missing, --replace copies over them";
            return Err(Failure::new(Exit::Refused, what, next));
        }
    }
    Ok(())
}

/// A page of a scan: the database, and the keys.
type Page = (i64, Vec<Vec<u8>>);

/// Everything that the threads share.
struct Job {
    plan: Plan,
    source: Place,
    target: Place,
    databases: Vec<i64>,
    pattern: Option<String>,
    parallel: u16,
    tally: Mutex<Tally>,
    /// Keys of the source when it began.
    all: AtomicU64,
    stop: AtomicBool,
}

impl Job {
    fn run(self, output: Output) -> Result<(), Failure> {
        let mut line = Line::new();
        let fatal = self.copy(&mut line);
        let took = line.elapsed();
        let mut tally = self.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        line.say(&mut tally, self.all.load(Ordering::Relaxed));
        line.clear();
        let dry = self.plan.dry_run;
        output.show(&tally.json(dry, &self.databases, took), || tally.human(dry, took))?;
        if let Some(mut fatal) = fatal {
            fatal.what = format!("broken off: {}", fatal.what);
            fatal.next = format!("{}; then go on with --skip-existing", fatal.next);
            return Err(fatal);
        }
        match tally.failures() {
            0 => Ok(()),
            failed => Err(Failure::new(
                Exit::Failed,
                format!("{} keys were not copied, or not whole", grouped(failed)),
                "mend what the lines above name, and run again with --skip-existing or --replace",
            )),
        }
    }

    /// Runs the threads; the failure that ended it early.
    fn copy(&self, line: &mut Line) -> Option<Failure> {
        let mut draw = [0; 8];
        if let Err(error) = getrandom::fill(&mut draw) {
            return Some(Failure::new(
                Exit::Failed,
                format!("the system gives no random numbers: {error}"),
                "",
            ));
        }
        let run = u64::from_le_bytes(draw);
        let (send, pages) = sync_channel::<Page>(usize::from(self.parallel) * 2);
        let pages = Arc::new(Mutex::new(pages));
        let (ended, ends) = channel::<Option<Failure>>();
        std::thread::scope(|scope| {
            let scanned = ended.clone();
            scope.spawn(move || {
                let result = self.scan(&send);
                drop(send);
                let _ = scanned.send(result.err());
            });
            for number in 0..self.parallel {
                let (pages, ended) = (pages.clone(), ended.clone());
                scope.spawn(move || {
                    let _ = ended.send(self.work(run, number, &pages).err());
                });
            }
            drop(ended);
            let mut fatal = None;
            loop {
                match ends.recv_timeout(Duration::from_millis(100)) {
                    Ok(None) | Err(RecvTimeoutError::Timeout) => {}
                    Ok(Some(failure)) => {
                        self.stop.store(true, Ordering::Relaxed);
                        fatal.get_or_insert(failure);
                    }
                    Err(RecvTimeoutError::Disconnected) => return fatal,
                }
                let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
                line.say(&mut tally, self.all.load(Ordering::Relaxed));
            }
        })
    }

    /// Names every key of every database.
    fn scan(&self, send: &SyncSender<Page>) -> Result<(), Failure> {
        let mut from = self.source.wire();
        for database in &self.databases {
            from.choose(*database);
            let mut cursor = b"0".to_vec();
            loop {
                let mut command = wire::words(&[b"SCAN", &cursor, b"COUNT", SCAN_COUNT]);
                if let Some(pattern) = &self.pattern {
                    command.extend(wire::words(&[b"MATCH", pattern.as_bytes()]));
                }
                let answer = from.ask_again(&[command])?.pop().unwrap_or_else(|| Err("no reply".into()));
                let refused = |why: String| {
                    Failure::new(Exit::Refused, format!("{} refuses SCAN: {why}", self.source.shown), "")
                };
                let answer = answer.map_err(refused)?;
                let mut parts = items_of(answer).unwrap_or_default().into_iter();
                let (Some(next), Some(keys)) =
                    (parts.next().as_ref().and_then(wire::bytes_of), parts.next().and_then(list_of))
                else {
                    return Err(refused("its answer is not understood".into()));
                };
                self.tally.lock().unwrap_or_else(PoisonError::into_inner).seen += keys.len() as u64;
                if !keys.is_empty() && !self.hand(send, (*database, keys)) {
                    return Ok(());
                }
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    }

    /// Hands a page to the workers, when one has room; whether to go on.
    fn hand(&self, send: &SyncSender<Page>, page: Page) -> bool {
        let mut page = page;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            match send.try_send(page) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => {
                    page = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn work(&self, run: u64, number: u16, pages: &Mutex<Receiver<Page>>) -> Result<(), Failure> {
        let mut copier = Copier {
            source: self.source.wire(),
            target: self.target.wire(),
            plan: &self.plan,
            tally: &self.tally,
            unfinished: format!("quorate:import:{run:016x}:{number}").into_bytes(),
            database: 0,
        };
        while !self.stop.load(Ordering::Relaxed) {
            let page = pages.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((database, keys)) = page else { break };
            copier.page(database, keys)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tells_deadlines: bool) -> Plan {
        let existing = Existing::Refuse;
        Plan { existing, dry_run: false, tells_deadlines, field_deadlines: false, target_database: None }
    }

    #[test]
    fn a_deadline_is_absolute_whether_the_source_tells_it_or_what_is_left() {
        assert_eq!(plan(true).deadline(1000, 1500), Some(1500));
        assert_eq!(plan(false).deadline(1000, 1500), Some(2500));
        assert_eq!((plan(true).deadline(1000, -1), plan(false).deadline(1000, -2)), (None, None));
    }

    #[test]
    fn a_field_of_info_is_found_by_its_whole_name() {
        let info = "# Server\r\nrun_id_other:1\r\nrun_id:abc\r\nempty:\r\n";
        assert_eq!(
            (field(info, "run_id"), field(info, "empty"), field(info, "run")),
            (Some("abc"), None, None)
        );
    }
}
