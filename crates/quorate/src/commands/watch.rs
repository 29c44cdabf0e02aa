//! `quorate watch`: follows changes of keys; goes on by itself where it was cut off.

use crate::client::{Connect, Event, Request};
use crate::failure::{Exit, Failure};
use crate::names::path;
use crate::output::{Output, shown};
use serde_json::Value;
use std::time::Duration;

/// A server says something at least this often, unless it is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Follow the changes of keys, as they happen.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate watch orders/
  quorate watch orders/ --since 1078       (from revision 1078 on, then what comes)
  quorate watch '' --count 10              (every key, ten changes)")]
pub(crate) struct Watch {
    /// Prefix of the keys; an empty one names every key.
    prefix: String,
    /// First revision wanted; what comes from now on when absent.
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// Stop after so many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Watch {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let since = self.since.map(|since| since.to_string());
        let path = path("/v1/watch", &[("prefix", Some(self.prefix.clone())), ("since", since)]);
        follow(&self.connect, &path, "change", self.count, |change| {
            output.show(change, || {
                let value = shown(&change["now"], "value");
                format!(
                    "{}\t{}\t{}\t{value}",
                    change["revision"],
                    shown(change, "kind"),
                    shown(change, "key")
                )
            })
        })
    }
}

/// Follows an event stream, and reconnects where it was cut off. `each` is called with the events named `wanted`.
pub(crate) fn follow(
    connect: &Connect,
    path: &str,
    wanted: &str,
    count: Option<u64>,
    mut each: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut client, mut seen, mut left) = (connect.client()?, None::<String>, count.unwrap_or(u64::MAX));
    let (mut first, mut pause) = (true, Duration::from_millis(100));
    while left > 0 {
        let request = match &seen {
            Some(seen) => Request::get(path).header("last-event-id", seen.clone()),
            None => Request::get(path),
        };
        let mut events = match client.events(&request, SILENCE) {
            Ok(events) => events,
            Err(failure) if first || failure.exit != Exit::Unreachable => return Err(failure),
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(2));
                continue;
            }
        };
        (first, pause) = (false, Duration::from_millis(100));
        while let Ok(Some(event)) = events.next() {
            seen = event.id.clone().or(seen);
            match event.name.as_str() {
                name if name == wanted => {
                    each(&data(&event)?)?;
                    left -= 1;
                    if left == 0 {
                        return Ok(());
                    }
                }
                "compacted" | "error" => {
                    let detail = shown(&data(&event)?, "detail");
                    return Err(Failure::new(Exit::Refused, detail, "begin again from what is there now"));
                }
                _ => {}
            }
        }
        eprintln!("the connection ended, connecting again");
        std::thread::sleep(pause);
    }
    Ok(())
}

fn data(event: &Event) -> Result<Value, Failure> {
    serde_json::from_str(&event.data).map_err(Failure::strange)
}
