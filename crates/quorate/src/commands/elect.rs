//! `quorate elect`: runs a program while being leader.

use crate::commands::hold::{Asked, Hold};
use crate::failure::Failure;
use crate::names::value_member;
use serde_json::Map;
use std::process::ExitCode;

/// Run a program while being the leader of an election.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate elect scheduler -- ./scheduler
  quorate elect scheduler --value \"$(hostname):9000\" --ttl 3s -- ./scheduler

Others see the value as what the leader proclaims. Everything else is as with `quorate lock`: the fencing token is in
QUORATE_TOKEN, and the program is stopped when leadership is lost.")]
pub(crate) struct Elect {
    /// What to proclaim while leading, such as an address.
    #[arg(long, default_value = "")]
    value: String,
    #[command(flatten)]
    hold: Hold,
}

impl Elect {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mut members = Map::new();
        value_member(&mut members, "value", self.value.into_bytes());
        self.hold.run(&Asked { what: "leadership of", route: ("elections", "campaign"), members })
    }
}
