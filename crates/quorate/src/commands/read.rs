//! `quorate read`: records of a stream, from an offset.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::{path, segment};
use crate::output::{Output, shown};
use serde_json::Value;

/// Most records asked for at once.
const PAGE: u64 = 1000;

/// Read the records of a stream that are there now.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate read orders
  quorate read orders --offset 100 --max 10
  quorate read orders --partition 3 --offset latest

`quorate tail` waits for what comes next.")]
pub(crate) struct Read {
    /// Stream to read.
    stream: String,
    /// First offset: a number, earliest or latest.
    #[arg(long, value_name = "OFFSET", default_value = "earliest")]
    offset: String,
    /// Most records to print.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    max: u64,
    /// Partition to read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u32,
    #[command(flatten)]
    connect: Connect,
}

impl Read {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let (mut offset, mut left) = (self.offset.clone(), self.max);
        while left > 0 {
            let base = format!("/v1/streams/{}/records", segment(&self.stream));
            let query = [
                ("partition", Some(self.partition.to_string())),
                ("offset", Some(offset.clone())),
                ("max", Some(left.min(PAGE).to_string())),
            ];
            let answer = client.call(&Request::get(path(&base, &query)))?.json()?;
            let records =
                answer["records"].as_array().ok_or_else(|| Failure::strange("a page has no records"))?;
            for record in records {
                output.show(record, || record_text(record))?;
            }
            left -= (records.len() as u64).min(left);
            let next = answer["next"].to_string();
            if answer["next"] == answer["end"] || next == offset {
                break;
            }
            offset = next;
        }
        Ok(())
    }
}

/// A record on one line: offset, time, key, value.
pub(crate) fn record_text(record: &Value) -> String {
    let value = if record["tombstone"] == true { "(tombstone)".into() } else { shown(record, "value") };
    format!("{}\t{}\t{}\t{value}", record["offset"], shown(record, "time"), shown(record, "key"))
}
