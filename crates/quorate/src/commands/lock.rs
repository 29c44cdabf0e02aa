//! `quorate lock`: runs a program while holding a lock.

use crate::commands::hold::{Asked, Hold};
use crate::failure::Failure;
use serde_json::{Map, json};
use std::process::ExitCode;

/// Run a program while holding a lock.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate lock reports -- ./nightly-report
  quorate lock reports --wait 0s -- ./nightly-report        (only if nobody holds it)
  quorate lock db --shared -- ./read-things                 (others may share it)
  quorate lock gpu --permits 4 -- ./train                   (four at once)
  quorate lock orders/42 -- sh -c 'curl -H \"x-token: $QUORATE_TOKEN\" https://store.example'

The program finds its fencing token in QUORATE_TOKEN and its lease in QUORATE_LEASE; hand the token to whatever it changes,
so that a holder that was paused too long is refused there. The lease is kept alive meanwhile; when it is lost, the program
gets SIGTERM, then SIGKILL after --grace. Exits as the program does; 124 when the lease was lost, 125 when the lock was not got.")]
pub(crate) struct Lock {
    /// Hold it together with other shared holders.
    #[arg(long, conflicts_with = "permits")]
    shared: bool,
    /// Hold one of N permits; every holder must name the same N.
    #[arg(long, value_name = "N")]
    permits: Option<u32>,
    #[command(flatten)]
    hold: Hold,
}

impl Lock {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mode = match self.permits {
            Some(permits) => json!({"semaphore": permits}),
            None if self.shared => json!("shared"),
            None => json!("exclusive"),
        };
        let members = Map::from_iter([("mode".to_owned(), mode)]);
        self.hold.run(&Asked { what: "lock", route: ("locks", "acquire"), members })
    }
}
