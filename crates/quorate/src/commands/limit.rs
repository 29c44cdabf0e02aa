//! `quorate limit`: takes from a rate limit, or says when to come back.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::segment;
use crate::output::Output;
use serde_json::json;

/// Take from a rate limit.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate limit tenant/acme --rate 100/s
  quorate limit mails --rate 10/m --burst 3 --cost 2 && ./send-mails

Exits with 4 when the limit is used up, and says when it will pass.")]
pub(crate) struct Limit {
    /// Limit to take from.
    name: String,
    /// Units per period: 100/s, 5/10s, 60/m, 1000/h.
    #[arg(long)]
    rate: String,
    /// Units that may be taken at once; as many as the rate names when absent.
    #[arg(long, value_name = "N")]
    burst: Option<u64>,
    /// Units to take.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cost: u64,
    #[command(flatten)]
    connect: Connect,
}

impl Limit {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut policy = json!({"rate": self.rate, "cost": self.cost});
        if let Some(burst) = self.burst {
            policy["burst"] = burst.into();
        }
        let path = format!("/v1/limits/{}/take", segment(&self.name));
        let answer = self.connect.client()?.call(&Request::json("POST", path, &policy).once()?)?.json()?;
        let limit = &answer["limit"];
        output.show(limit, || {
            format!(
                "{} taken from {}, {} of {} left",
                self.cost, self.name, limit["remaining"], limit["limit"]
            )
        })
    }
}
