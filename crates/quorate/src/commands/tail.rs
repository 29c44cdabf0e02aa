//! `quorate tail`: records of a stream as they come.

use crate::client::Connect;
use crate::commands::read::record_text;
use crate::commands::watch::follow;
use crate::failure::Failure;
use crate::names::{path, segment};
use crate::output::Output;

/// Follow a stream: print records as they are appended.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate tail orders
  quorate tail orders --offset earliest
  quorate tail orders --partition 3 --count 1")]
pub(crate) struct Tail {
    /// Stream to follow.
    stream: String,
    /// First offset: a number, earliest or latest.
    #[arg(long, value_name = "OFFSET", default_value = "latest")]
    offset: String,
    /// Partition to follow.
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u32,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Tail {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let base = format!("/v1/streams/{}/records", segment(&self.stream));
        let query = [("partition", Some(self.partition.to_string())), ("offset", Some(self.offset.clone()))];
        follow(&self.connect, &path(&base, &query), "record", self.count, |record| {
            output.show(record, || record_text(record))
        })
    }
}
