//! `quorate at`: reads the past.

use crate::client::Connect;
use crate::commands::{get, range};
use crate::failure::Failure;
use crate::output::Output;

/// Read keys as they were at a revision.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate at 1078 get orders/42
  quorate at 1078 range orders/

Revisions that the configured history no longer keeps are refused with exit code 4.")]
pub(crate) struct At {
    /// Revision to read at.
    revision: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Read a key as it was.
    #[command(after_help = "Example:\n  quorate at 1078 get orders/42")]
    Get {
        #[command(flatten)]
        key: get::GetKey,
        #[command(flatten)]
        connect: Connect,
    },
    /// Read a range of keys as it was.
    #[command(after_help = "Example:\n  quorate at 1078 range orders/")]
    Range {
        #[command(flatten)]
        keys: range::RangeKeys,
        #[command(flatten)]
        connect: Connect,
    },
}

impl At {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let at = Some(self.revision);
        match self.what {
            What::Get { key, connect } => get::Get { key, at, connect }.run(output),
            What::Range { keys, connect } => range::Range { keys, at, connect }.run(output),
        }
    }
}
