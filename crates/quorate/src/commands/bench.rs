//! `quorate bench`: a quick load against a server, to see what this machine and disk give.

use crate::client::{Attempt, Client, Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::{fresh_key, segment};
use crate::output::{Output, grouped};
use crate::progress::Progress;
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Load a server for a few seconds, and print operations per second and latencies.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate bench
  quorate bench --clients 64 --seconds 10 --op commit
  quorate bench --op get --keys 100000

Each client has one connection and sends its next request when the last is answered. `commit` is one commit with an
idempotency key, a limit guard, a put and an append. The keys bench/… and the stream bench are written.")]
pub(crate) struct Bench {
    /// Clients at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// How long to go on, in seconds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// What every client does.
    #[arg(long, value_name = "OP", default_value = "put")]
    op: Op,
    /// Keys to spread over.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Op {
    /// Write a key.
    Put,
    /// Read a key.
    Get,
    /// A commit of four parts.
    Commit,
}

#[derive(Default)]
struct Seen {
    latencies_us: Vec<u64>,
    errors: u64,
    first_error: Option<Failure>,
}

impl Bench {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let run = fresh_key()?;
        self.connect.client()?.call(&Request::get("/v1/status"))?;
        if self.op == Op::Get {
            self.fill()?;
        }
        let all = Mutex::new(Seen::default());
        let begun = Instant::now();
        let until = begun + Duration::from_secs(self.seconds);
        std::thread::scope(|scope| {
            for number in 0..self.clients {
                let (bench, run, all) = (&self, &run, &all);
                scope.spawn(move || {
                    let seen = bench.load(number, run, until);
                    let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    all.latencies_us.extend(seen.latencies_us);
                    all.errors += seen.errors;
                    all.first_error = all.first_error.take().or(seen.first_error);
                });
            }
            let mut progress = Progress::new("bench", "seconds");
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(100).min(until - Instant::now().min(until)));
                progress.at(begun.elapsed().as_secs(), self.seconds);
            }
        });
        let took = begun.elapsed();
        self.report(all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), took, output)
    }

    /// Writes the keys that will be read.
    fn fill(&self) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let value = "v".repeat(self.value_bytes);
        let keys: Vec<u64> = (0..self.keys).collect();
        for some in keys.chunks(1000) {
            let puts: Vec<_> = some
                .iter()
                .map(|key| json!({"put": {"key": format!("bench/{key}"), "value": value}}))
                .collect();
            client.call(&Request::json("POST", "/v1/commit", &json!({"then": puts})).once()?)?;
        }
        Ok(())
    }

    fn load(&self, number: u64, run: &str, until: Instant) -> Seen {
        let mut seen = Seen::default();
        let mut client = match self.connect.client() {
            Ok(client) => client,
            Err(failure) => return Seen { errors: 1, first_error: Some(failure), ..seen },
        };
        let mut turn = 0u64;
        while Instant::now() < until {
            // A multiplicative hash spreads keys evenly, and the same run asks for the same ones.
            let key = (turn * self.clients + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys;
            let request = self.request(key, &format!("{run}-{number}-{turn}"));
            turn += 1;
            let begun = Instant::now();
            match one(&mut client, &request) {
                Ok(()) => seen.latencies_us.push(begun.elapsed().as_micros() as u64),
                Err(failure) => {
                    seen.errors += 1;
                    let gone = failure.exit == Exit::Unreachable;
                    seen.first_error = seen.first_error.or(Some(failure));
                    if gone {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        }
        seen
    }

    fn request(&self, key: u64, id: &str) -> Request {
        let name = format!("bench/{key}");
        match self.op {
            Op::Get => Request::get(format!("/v1/keys/{}", segment(&name))),
            Op::Put => {
                Request::new("PUT", format!("/v1/keys/{}", segment(&name)), vec![b'v'; self.value_bytes])
            }
            Op::Commit => {
                let value = "v".repeat(self.value_bytes);
                let commit = json!({
                    "idempotency": {"key": id, "ttl": "1m"},
                    "guards": [{"limit": {"name": "bench", "rate": "1000000/s"}}],
                    "then": [
                        {"put": {"key": name, "value": value}},
                        {"append": {"stream": "bench", "key": key.to_string(), "value": value}},
                    ],
                });
                Request::json("POST", "/v1/commit", &commit)
            }
        }
    }

    fn report(&self, mut seen: Seen, took: Duration, output: Output) -> Result<(), Failure> {
        seen.latencies_us.sort_unstable();
        let done = seen.latencies_us.len();
        if let (0, Some(failure)) = (done, &seen.first_error) {
            return Err(failure.clone());
        }
        let at = |part: f64| {
            let place = ((done as f64 * part).ceil() as usize).saturating_sub(1);
            seen.latencies_us.get(place).copied().unwrap_or_default()
        };
        let per_second = done as f64 / took.as_secs_f64();
        let op = format!("{:?}", self.op).to_lowercase();
        let json = json!({
            "op": op, "clients": self.clients, "seconds": took.as_secs_f64(), "operations": done, "errors": seen.errors,
            "per_second": per_second, "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0),
        });
        let ms = |us: u64| us as f64 / 1000.0;
        output.show(&json, || {
            format!(
                "{op}, {} clients, {:.1} s: {} operations, {} per second, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, {} errors",
                self.clients,
                took.as_secs_f64(),
                grouped(done as u64),
                grouped(per_second as u64),
                ms(at(0.5)),
                ms(at(0.99)),
                ms(at(1.0)),
                seen.errors,
            )
        })?;
        if let Some(failure) = seen.first_error {
            eprintln!("the first error was: {failure}");
        }
        Ok(())
    }
}

fn one(client: &mut Client, request: &Request) -> Result<(), Failure> {
    match client.attempt(request, Duration::from_secs(30)) {
        Attempt::Answered(_) => Ok(()),
        Attempt::Refused(problem) => Err(problem.into()),
        Attempt::NotSent(error) => Err(Failure::new(Exit::Unreachable, format!("not sent: {error}"), "")),
        Attempt::Lost(error) => Err(Failure::new(Exit::Unreachable, format!("no answer: {error}"), "")),
    }
}
