//! `quorate range`: keys in order, page by page, all at one revision.

use crate::client::{Client, Connect, Request};
use crate::failure::Failure;
use crate::names::path;
use crate::output::{Output, shown};
use serde_json::Value;

/// Most keys asked for at once.
const PAGE: u64 = 1000;

/// Read a range of keys, in order.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate range orders/
  quorate range orders/ --limit 10 --keys-only
  quorate range --from a --to b                (from a, before b)
  quorate range '' --at 1078                   (every key, as it was at revision 1078)")]
pub(crate) struct Range {
    #[command(flatten)]
    pub(crate) keys: RangeKeys,
    /// Revision to read at, instead of now.
    #[arg(long, value_name = "REVISION")]
    pub(crate) at: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// Which keys.
#[derive(clap::Args)]
pub(crate) struct RangeKeys {
    /// Prefix of the keys; an empty one names every key.
    #[arg(required_unless_present_any = ["from", "to"], conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// First key.
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Key before which to stop.
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Most keys to print.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Leave values out.
    #[arg(long)]
    keys_only: bool,
}

impl Range {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let keys_only = self.keys.keys_only;
        self.keys.each(&mut client, self.at, |key| {
            output.show(key, || match keys_only {
                true => shown(key, "key"),
                false => format!("{}\t{}", shown(key, "key"), shown(key, "value")),
            })
        })
    }
}

impl RangeKeys {
    /// Calls `each` with every key, as of one revision.
    fn each(
        &self,
        client: &mut Client,
        at: Option<u64>,
        mut each: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut at, mut next, mut left) = (at, None, self.limit);
        while left > 0 {
            let answer = client.call(&Request::get(self.page(at, next.as_ref(), left.min(PAGE))))?.json()?;
            let keys = answer["keys"].as_array().ok_or_else(|| Failure::strange("a range has no keys"))?;
            keys.iter().try_for_each(&mut each)?;
            left -= (keys.len() as u64).min(left);
            if answer["more"] != true || keys.is_empty() {
                break;
            }
            // Later pages are read at the revision of the first, so that together they are one picture.
            at = at.or(answer["revision"].as_u64());
            next = Some(("from", answer["next"].as_str()).1.map_or_else(
                || ("from_base64", answer["next_base64"].as_str().unwrap_or_default().to_owned()),
                |text| ("from", text.to_owned()),
            ));
        }
        Ok(())
    }

    fn page(&self, at: Option<u64>, next: Option<&(&'static str, String)>, limit: u64) -> String {
        let mut query = vec![("limit", Some(limit.to_string())), ("at", at.map(|at| at.to_string()))];
        query.push(("prefix", self.prefix.clone()));
        query.push(("to", self.to.clone()));
        match next {
            Some((name, value)) => query.push((name, Some(value.clone()))),
            None => query.push(("from", self.from.clone())),
        }
        if self.keys_only {
            query.push(("keys_only", Some("true".into())));
        }
        path("/v1/range", &query)
    }
}
