//! `quorate demo`: 69,659 real purchases, delivered at least once, through a crash, and every cent accounted for.
//!
//! The story: a shop's purchases stand in a queue. Workers take them, read the customer, and commit the new total and the event
//! together, under the purchase's id. Some deliveries come twice, some answers never arrive, and half-way the server is killed. At the
//! end what the server holds is compared with what the file says.
//!
//! Invariant: the expected numbers come from the file alone; nothing that a worker counted enters the comparison.

mod check;
mod purchases;
mod server;
mod worker;

use crate::failure::{Exit, Failure};
use crate::output::{Output, grouped};
use crate::progress::Progress;
use check::Found;
use purchases::{Delivery, Purchase};
use serde_json::json;
use server::Server;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use worker::{Counts, Work};

/// Watch 69,659 real purchases go through duplicates, lost answers and a crash, and add up to the cent.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate demo
  quorate demo --purchases 5000 --workers 8
  quorate demo --data ./demo-data             (keeps the data, to look at with `quorate log dump ./demo-data/log`)

Exits with 0 when nothing was lost or doubled, with 1 otherwise.")]
pub(crate) struct Demo {
    /// Folder for the data, new or empty; a temporary one, removed at the end, when absent.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Workers that share the queue.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Connections per worker, each with one purchase under way.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Purchases to deliver, the earliest ones; all of them when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    purchases: Option<u64>,
}

/// When and how long the server was away.
struct Crash {
    after: u64,
    away: Duration,
}

impl Demo {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut purchases = purchases::all()?;
        purchases
            .truncate(self.purchases.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)));
        let deliveries = purchases::deliveries(purchases.len());
        let temporary = match &self.data {
            Some(_) => None,
            None => {
                Some(tempfile::tempdir().map_err(|error| Failure::io("make a temporary folder", &error))?)
            }
        };
        let folder = match (&self.data, &temporary) {
            (Some(folder), _) => empty(folder)?,
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => return Err(Failure::strange("no folder")),
        };
        eprintln!(
            "{} purchases in {} deliveries, {} workers with {} connections each, data in {}",
            grouped(purchases.len() as u64),
            grouped(deliveries.len() as u64),
            self.workers,
            self.connections,
            folder.display()
        );
        // Ended in good order, so that neither the child nor the temporary folder is left behind.
        let (told, signals) = channel();
        crate::signals::listen(move |number| told.send(number).is_ok())?;
        let begun = Instant::now();
        let mut server = Server::start(&folder)?;
        let counts = Counts::default();
        let crash = self.deliver(&purchases, &deliveries, &mut server, &folder, &counts, &signals)?;
        let took = begun.elapsed();
        eprintln!("comparing what the server holds with what the file says");
        let found = check::compare(&purchases, server.url())?;
        server.stop()?;
        let report = Report {
            demo: &self,
            purchases: &purchases,
            deliveries: deliveries.len(),
            counts: &counts,
            crash,
            found,
            took,
        };
        report.show(output)
    }

    /// Delivers everything, with a crash in the middle.
    fn deliver(
        &self,
        purchases: &[Purchase],
        deliveries: &[Delivery],
        server: &mut Server,
        folder: &Path,
        counts: &Counts,
        signals: &Receiver<u8>,
    ) -> Result<Crash, Failure> {
        let url = RwLock::new(server.url().to_owned());
        let work = Work::new(purchases, deliveries, &url, counts);
        let half = purchases.len() as u64 / 2;
        std::thread::scope(|scope| {
            for _ in 0..self.workers * self.connections {
                scope.spawn(|| work.run());
            }
            let (mut crash, mut progress) = (None, Progress::new("demo", "purchases"));
            // Whatever goes wrong here must let the workers end, or the scope would wait for them for ever.
            let outcome = loop {
                let done = counts.committed.load(Ordering::Relaxed);
                progress.at(done, purchases.len() as u64);
                if crash.is_none() && done >= half {
                    progress.end();
                    eprintln!(
                        "{} purchases are in: kill -9 of the server, in the middle of everything",
                        grouped(done)
                    );
                    let begun = Instant::now();
                    match server.kill().and_then(|()| Server::start(folder)) {
                        Ok(again) => *server = again,
                        Err(failure) => break Err(failure),
                    }
                    *url.write().unwrap_or_else(std::sync::PoisonError::into_inner) = server.url().to_owned();
                    crash = Some(Crash { after: done, away: begun.elapsed() });
                    eprintln!(
                        "it is back on the same data after {:.2} s; the workers go on",
                        begun.elapsed().as_secs_f64()
                    );
                }
                if let Ok(signal) = signals.try_recv() {
                    break Err(Failure::new(
                        Exit::Signal(signal),
                        "stopped before everything was delivered",
                        "",
                    ));
                }
                if let Some(failure) = work.failure() {
                    break Err(failure);
                }
                if work.is_done() {
                    break crash.ok_or_else(|| Failure::strange("the queue was empty before the crash"));
                }
                std::thread::sleep(Duration::from_millis(2));
            };
            work.stop();
            outcome
        })
    }
}

fn empty(folder: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::io(format!("make {}", folder.display()), &error))?;
    let mut found = std::fs::read_dir(folder)
        .map_err(|error| Failure::io(format!("look into {}", folder.display()), &error))?;
    match found.next() {
        None => Ok(folder.to_owned()),
        Some(_) => Err(Failure::new(
            Exit::Refused,
            format!("{} is not empty: the demo needs to begin with nothing", folder.display()),
            "choose a new folder",
        )),
    }
}

struct Report<'a> {
    demo: &'a Demo,
    purchases: &'a [Purchase],
    deliveries: usize,
    counts: &'a Counts,
    crash: Crash,
    found: Found,
    took: Duration,
}

impl Report<'_> {
    fn show(&self, output: Output) -> Result<(), Failure> {
        let get = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (counts, found) = (self.counts, &self.found);
        let json = json!({
            "purchases": self.purchases.len(),
            "customers": found.customers,
            "deliveries": self.deliveries,
            "workers": self.demo.workers,
            "commits_sent": get(&counts.sent),
            "replayed": get(&counts.replayed),
            "recognised": get(&counts.recognised),
            "conflicts_retried": get(&counts.conflicts),
            "limited_retried": get(&counts.limited),
            "answers_lost": get(&counts.lost),
            "crash_after": self.crash.after,
            "away_seconds": self.crash.away.as_secs_f64(),
            "lost": found.lost,
            "doubled": found.doubled,
            "customers_wrong": found.customers_wrong,
            "total_cents": found.total_cents,
            "expected_cents": found.expected_cents,
            "seconds": self.took.as_secs_f64(),
            "good": found.is_good(),
        });
        output.show(&json, || self.text())?;
        if found.is_good() {
            return Ok(());
        }
        let what = format!(
            "the server's data is not what the file says; the first difference: {}",
            found.first_difference.as_deref().unwrap_or("the totals")
        );
        Err(Failure::new(Exit::Failed, what, "keep the data with --data, and report it with the lines above"))
    }

    fn text(&self) -> String {
        let get = |count: &std::sync::atomic::AtomicU64| grouped(count.load(Ordering::Relaxed));
        let (counts, found) = (self.counts, &self.found);
        let per_second = (self.purchases.len() as f64 / self.took.as_secs_f64()) as u64;
        let dollars = |cents: u64| format!("${}.{:02}", grouped(cents / 100), cents % 100);
        format!(
            "
What was shown
  A shop's purchases (CDNOW, 1997-98) were delivered at least once by {workers} workers. Each purchase was one commit:
  its id as idempotency key, a guard on the customer's version, a rate limit, the customer's new total, and an
  event in the stream `purchases`: all of it or nothing, on disk before the answer. Half-way the server was killed.

  purchases              {purchases:>10}   by {customers} customers
  deliveries             {deliveries:>10}   some on purpose twice
  commits sent           {sent:>10}
  answered from memory   {replayed:>10}   the same request again: the first answer came back, nothing was done twice
  recognised             {recognised:>10}   the same purchase by another worker: refused, as it is in already
  conflicts retried      {conflicts:>10}   another worker had changed the customer: read again, decided again
  answers lost           {lost_answers:>10}   connection gone after sending, crash included: asked again under the same id
  crash                  after {crash} purchases: kill -9, serving again {away:.2} s later
  time                   {seconds:>10.1} s, {per_second} purchases a second, each durable

Compared with the file, to the cent
  purchases lost         {lost:>10}
  purchases doubled      {doubled:>10}
  customers wrong        {wrong:>10}
  total                  {total:>10}   the file says {expected}

{verdict}",
            workers = self.demo.workers,
            purchases = grouped(self.purchases.len() as u64),
            customers = grouped(found.customers),
            deliveries = grouped(self.deliveries as u64),
            sent = get(&counts.sent),
            replayed = get(&counts.replayed),
            recognised = get(&counts.recognised),
            conflicts = get(&counts.conflicts),
            lost_answers = get(&counts.lost),
            crash = grouped(self.crash.after),
            away = self.crash.away.as_secs_f64(),
            seconds = self.took.as_secs_f64(),
            per_second = grouped(per_second),
            lost = found.lost,
            doubled = found.doubled,
            wrong = found.customers_wrong,
            total = dollars(found.total_cents),
            expected = dollars(found.expected_cents),
            verdict = if found.is_good() { "Everything is there, once." } else { "SOMETHING IS WRONG." },
        )
    }
}
