//! `quorate role`: named ranges of keys with verbs, which users are given; the roles that etcd's clients see too.
//!
//! Called by: `commands`.

use crate::client::{Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::segment;
use crate::output::{Output, shown};
use serde_json::{Value, json};

/// Say what a role allows; users are given roles by `quorate user grant`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role add clerk
  quorate role allow clerk read,write 'orders/*'
  quorate user grant ann clerk")]
pub(crate) struct Role {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Show(Show),
    Remove(Remove),
    Allow(Allow),
    Forbid(Forbid),
}

impl Role {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match self.command {
            Command::Add(add) => {
                say(&add.connect, &Request::json("PUT", path(&add.name), &json!({})), output)
            }
            Command::List(list) => list.run(output),
            Command::Show(show) => say(&show.connect, &Request::get(path(&show.name)), output),
            Command::Remove(remove) => remove.run(output),
            Command::Allow(allow) => allow.run(output),
            Command::Forbid(forbid) => forbid.run(output),
        }
    }
}

/// Make a role, which allows nothing until it is told to.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role add clerk")]
struct Add {
    /// Name of the role.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

/// List roles.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role list")]
struct List {
    #[command(flatten)]
    connect: Connect,
}

impl List {
    fn run(self, output: Output) -> Result<(), Failure> {
        let answer = self.connect.client()?.call(&Request::get("/v1/roles"))?.json()?;
        output.show(&answer, || {
            let roles = answer["roles"].as_array().into_iter().flatten();
            roles.map(|role| shown(role, "name") + "\n").collect()
        })
    }
}

/// Show what a role allows.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role show clerk")]
struct Show {
    /// Name of the role.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

/// Remove a role, from all users too.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role remove clerk")]
struct Remove {
    /// Name of the role.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

impl Remove {
    fn run(self, output: Output) -> Result<(), Failure> {
        let request = Request::new("DELETE", path(&self.name), vec![]);
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || format!("{} removed", self.name))
    }
}

/// Which keys.
#[derive(clap::Args)]
struct Keys {
    /// One key, or with a * at its end all keys that begin so.
    #[arg(required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    pattern: Option<String>,
    /// All keys from this one on.
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Up to before this one.
    #[arg(long, value_name = "KEY", requires = "from")]
    to: Option<String>,
}

impl Keys {
    /// The members of a body that say so.
    fn body(&self) -> Result<Value, Failure> {
        let Some(pattern) = &self.pattern else {
            return Ok(match &self.to {
                None => json!({"from": self.from}),
                Some(to) => json!({"from": self.from, "to": to}),
            });
        };
        let (name, member) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, "prefix"),
            None => (pattern.as_str(), "key"),
        };
        if name.contains('*') {
            let why =
                format!("{pattern}: a role speaks of ranges of keys, so one * stands at the end, or none");
            return Err(Failure::new(
                Exit::Usage,
                why,
                "give a user a rule of its own: `quorate user allow`",
            ));
        }
        Ok(json!({member: name}))
    }
}

/// Have a role allow something.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role allow clerk read 'orders/*'
  quorate role allow clerk read,write orders/today
  quorate role allow clerk read --from a --to b")]
struct Allow {
    /// Name of the role.
    name: String,
    /// What: read, write, or both with a comma between them.
    what: String,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    connect: Connect,
}

impl Allow {
    fn run(self, output: Output) -> Result<(), Failure> {
        let mut body = self.keys.body()?;
        body["verbs"] = self.what.split(',').collect();
        say(&self.connect, &Request::json("POST", path(&self.name) + "/allow", &body), output)
    }
}

/// Take back what a role allows of a range, which is named as it was.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate role forbid clerk 'orders/*'
  quorate role forbid clerk --from a --to b")]
struct Forbid {
    /// Name of the role.
    name: String,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    connect: Connect,
}

impl Forbid {
    fn run(self, output: Output) -> Result<(), Failure> {
        let body = self.keys.body()?;
        say(&self.connect, &Request::json("POST", path(&self.name) + "/forbid", &body), output)
    }
}

fn path(name: &str) -> String {
    format!("/v1/roles/{}", segment(name))
}

/// Asks, and shows the role as it is then.
fn say(connect: &Connect, request: &Request, output: Output) -> Result<(), Failure> {
    let role = connect.client()?.call(request)?.json()?;
    output.show(&role, || text(&role))
}

/// A role as people read it.
fn text(role: &Value) -> String {
    let mut text = shown(role, "name") + "\n";
    for rule in role["allow"].as_array().into_iter().flatten() {
        let verbs: Vec<&str> =
            rule["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has = |member: &str| rule.get(member).is_some() || rule.get(format!("{member}_base64")).is_some();
        let keys = if has("key") {
            shown(rule, "key")
        } else if has("prefix") {
            shown(rule, "prefix") + "*"
        } else if has("to") {
            format!("from {} to before {}", shown(rule, "from"), shown(rule, "to"))
        } else {
            format!("from {} on", shown(rule, "from"))
        };
        text.push_str(&format!("  may {} {keys}\n", verbs.join(" and ")));
    }
    text
}
