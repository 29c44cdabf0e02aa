//! `quorate get`: one key, now or at a revision.

use crate::client::{Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::{path, segment};
use crate::output::{Output, shown};

/// Read a key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate get orders/42
  quorate get orders/42 --raw > order.json
  quorate get orders/42 --at 1078              (as it was at revision 1078)

Exits with 3 when the key is not there.")]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) key: GetKey,
    /// Revision to read at, instead of now.
    #[arg(long, value_name = "REVISION")]
    pub(crate) at: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// Which key, and how to print it.
#[derive(clap::Args)]
pub(crate) struct GetKey {
    /// Key to read.
    pub(crate) key: String,
    /// Print the value's bytes as they are, and nothing else.
    #[arg(long)]
    pub(crate) raw: bool,
}

impl Get {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let at = self.at.map(|at| at.to_string());
        if self.key.raw {
            let path = path(&format!("/v1/keys/{}", segment(&self.key.key)), &[("at", at)]);
            return output.bytes(&client.call(&Request::get(path))?.body);
        }
        let path = path("/v1/range", &[("key", Some(self.key.key.clone())), ("at", at)]);
        let answer = client.call(&Request::get(path))?.json()?;
        let Some(found) = answer["keys"].get(0) else {
            let when = self.at.map_or(String::new(), |at| format!(" at revision {at}"));
            let what = format!("key {} does not exist{when}", self.key.key);
            return Err(Failure::new(Exit::Missing, what, ""));
        };
        output.show(found, || shown(found, "value"))
    }
}
