//! `quorate user`: who may do what, over every protocol.
//!
//! Invariant: a password or token is read from stdin, never from the command line, where other users of the machine would see it.
//! Called by: `commands`.

use crate::client::{Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::segment;
use crate::output::{Output, shown};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};

/// Say who may do what, over every protocol.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user add root --everything           (asks for a password)
  quorate user add ann
  quorate user allow ann read,write 'orders/*'
  quorate user grant ann clerk                 (a role, of `quorate role`)
  quorate user disable default                 (closes the door on every node and protocol)")]
pub(crate) struct User {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Show(Show),
    Remove(Remove),
    Enable(Enable),
    Disable(Disable),
    Allow(Allow),
    Deny(Deny),
    Passwd(Passwd),
    Grant(Grant),
    Revoke(Revoke),
}

impl User {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match self.command {
            Command::Add(add) => add.run(output),
            Command::List(list) => list.run(output),
            Command::Show(show) => show.run(output),
            Command::Remove(remove) => remove.run(output),
            Command::Enable(enable) => switch(&enable.name, true, &enable.connect, output),
            Command::Disable(disable) => switch(&disable.name, false, &disable.connect, output),
            Command::Allow(allow) => allow.rule.run("allow", output),
            Command::Deny(deny) => deny.rule.run("deny", output),
            Command::Passwd(passwd) => passwd.run(output),
            Command::Grant(grant) => grant.given.run("PUT", "has the role", output),
            Command::Revoke(revoke) => revoke.given.run("DELETE", "no longer has the role", output),
        }
    }
}

/// Make a user that may connect, and nothing more until it is allowed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user add ann                         (asks for a password)
  quorate user add root --everything < password-file
  quorate user disable default                 (closes the door: everybody has to say who it is)

Until the user default is disabled or has a password, whoever does not say who it is may do everything.")]
struct Add {
    /// Name of the user.
    name: String,
    /// Allow everything, users included.
    #[arg(long)]
    everything: bool,
    /// Read a bearer token from stdin instead of a password.
    #[arg(long)]
    with_token: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Add {
    fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        // A user that is there already is not made anew by mistake.
        let path = path(&self.name);
        if let Ok(found) = client.ask(&Request::get(&path)) {
            drop(found);
            let next = "change it with allow, deny and passwd, or remove it first";
            return Err(Failure::new(Exit::Refused, format!("user {} is there already", self.name), next));
        }
        let mut body = json!({"reset": true, "enabled": true});
        if self.everything {
            body["commands"] = json!(["+@all"]);
            body["allow"] = json!([
                {"verbs": ["read", "write"], "names": "*"},
                {"verbs": ["publish", "subscribe"], "names": "*"},
            ]);
        } else {
            body["commands"] = json!(["+@connection", "+@transaction", "-@dangerous"]);
        }
        let secret = secret(if self.with_token { "Token" } else { "Password" })?;
        body[if self.with_token { "access_token" } else { "password" }] = secret.into();
        let answer = client.call(&Request::json("PUT", path, &body).repeatable())?.json()?;
        say(&answer, &self.name, output)
    }
}

/// List users, and say whether the door is open.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user list")]
struct List {
    #[command(flatten)]
    connect: Connect,
}

impl List {
    fn run(self, output: Output) -> Result<(), Failure> {
        let answer = self.connect.client()?.call(&Request::get("/v1/users"))?.json()?;
        output.show(&answer, || {
            let mut text = format!("the door is {}\n", answer["door"].as_str().unwrap_or("?"));
            for user in answer["users"].as_array().into_iter().flatten() {
                text.push_str(&shown(user, "name"));
                text.push('\n');
            }
            text
        })
    }
}

/// Show what a user may do.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user show ann
  quorate user show default                    (whoever does not say who it is)")]
struct Show {
    /// Name of the user.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

impl Show {
    fn run(self, output: Output) -> Result<(), Failure> {
        let user = self.connect.client()?.call(&Request::get(path(&self.name)))?.json()?;
        output.show(&user, || text(&user))
    }
}

/// Remove a user; its connections end.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user remove ann")]
struct Remove {
    /// Name of the user.
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

/// Let a user in again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user enable ann
  quorate user enable default                  (opens the door to everybody)")]
struct Enable {
    /// Name of the user.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

/// Let a user in no more; open connections of it end.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user disable ann
  quorate user disable default                 (closes the door: everybody has to say who it is)

Refused when nobody would be left who can enter and manage users.")]
struct Disable {
    /// Name of the user.
    name: String,
    #[command(flatten)]
    connect: Connect,
}

fn switch(name: &str, on: bool, connect: &Connect, output: Output) -> Result<(), Failure> {
    let request = Request::json("PUT", path(name), &json!({"enabled": on})).repeatable();
    let answer = connect.client()?.call(&request)?.json()?;
    say(&answer, name, output)
}

/// A rule.
#[derive(clap::Args)]
struct Rule {
    /// Name of the user.
    name: String,
    /// What: read, write, publish, subscribe (several with commas between them), or a command or category of Redis' ACL such as get or @admin.
    what: String,
    /// Names it is about, with * and ? as in Redis; keys, streams, locks, limits, timers and services alike, or channels.
    pattern: Option<String>,
    /// Only in this keyspace.
    #[arg(long, value_name = "N")]
    keyspace: Option<u16>,
    #[command(flatten)]
    connect: Connect,
}

/// Allow a user something.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user allow ann read,write 'orders/*'
  quorate user allow ann publish 'news:*'
  quorate user allow ann @admin
  quorate user allow ann 'config|get'")]
struct Allow {
    #[command(flatten)]
    rule: Rule,
}

/// Deny a user something, whatever else allows it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user deny ann write 'orders/archive/*'
  quorate user deny ann @dangerous
  quorate user deny ann flushall")]
struct Deny {
    #[command(flatten)]
    rule: Rule,
}

impl Rule {
    fn run(self, effect: &'static str, output: Output) -> Result<(), Failure> {
        let verbs: Vec<&str> = self.what.split(',').collect();
        let are_verbs = verbs.iter().all(|verb| matches!(*verb, "read" | "write" | "publish" | "subscribe"));
        let usage = |what: &str, next: &str| Failure::new(Exit::Usage, what, next);
        let body = match (&self.pattern, are_verbs) {
            (Some(pattern), true) => {
                let mut rule = json!({"verbs": verbs, "names": pattern});
                if let Some(keyspace) = self.keyspace {
                    rule["keyspace"] = keyspace.into();
                }
                json!({effect: [rule]})
            }
            (None, false) if self.keyspace.is_none() => {
                let sign = if effect == "allow" { '+' } else { '-' };
                json!({"commands": [format!("{sign}{}", self.what.trim_start_matches(['+', '-']))]})
            }
            (None, true) => {
                return Err(usage(
                    "the names are missing",
                    "add a pattern, such as 'orders/*', or '*' for all",
                ));
            }
            _ => {
                return Err(usage(
                    &format!("{} is a command or category: it is about no names", self.what),
                    "leave pattern and --keyspace out, or say read, write, publish or subscribe",
                ));
            }
        };
        // A user that is not there is not made by a slip of the pen.
        let mut client = self.connect.client()?;
        client.call(&Request::get(path(&self.name)))?;
        let answer = client.call(&Request::json("PUT", path(&self.name), &body).repeatable())?.json()?;
        say(&answer, &self.name, output)
    }
}

/// Give a user another password, read from stdin.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user passwd ann                      (asks for it)
  quorate user passwd ann < password-file
  quorate user passwd ann --with-token < token-file    (a further bearer token)")]
struct Passwd {
    /// Name of the user.
    name: String,
    /// Read a further bearer token instead of the only password.
    #[arg(long)]
    with_token: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Passwd {
    fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        client.call(&Request::get(path(&self.name)))?;
        let secret = secret(if self.with_token { "Token" } else { "Password" })?;
        let member = if self.with_token { "access_token" } else { "password" };
        let request = Request::json("PUT", path(&self.name), &json!({member: secret})).repeatable();
        let answer = client.call(&request)?.json()?;
        say(&answer, &self.name, output)
    }
}

/// A role of a user.
#[derive(clap::Args)]
struct Given {
    /// Name of the user.
    name: String,
    /// Name of the role.
    role: String,
    #[command(flatten)]
    connect: Connect,
}

/// Give a user a role.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user grant ann clerk
  quorate user grant ann root                  (everything, users included)")]
struct Grant {
    #[command(flatten)]
    given: Given,
}

/// Take a role from a user.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate user revoke ann clerk")]
struct Revoke {
    #[command(flatten)]
    given: Given,
}

impl Given {
    fn run(self, method: &'static str, now: &str, output: Output) -> Result<(), Failure> {
        let path = format!("{}/roles/{}", path(&self.name), segment(&self.role));
        let answer = self.connect.client()?.call(&Request::new(method, path, vec![]))?.json()?;
        output.show(&answer, || format!("{} {now} {}", self.name, self.role))
    }
}

fn path(name: &str) -> String {
    format!("/v1/users/{}", segment(name))
}

/// One line of stdin, without its end; whoever sits at a terminal is told what is wanted.
fn secret(what: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(|| Quiet::begin(what));
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line).map_err(|error| Failure::io("read stdin", &error));
    drop(quiet);
    read?;
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            format!("no {} came on stdin", what.to_lowercase()),
            "type it, or send it there",
        ));
    }
    Ok(secret.to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Option<rustix::termios::Termios>);

impl Quiet {
    fn begin(what: &str) -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        eprint!("{what}: ");
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(mut modes) = before.clone() {
            modes.local_modes.remove(LocalModes::ECHO);
            // A terminal that will not be quiet shows it; that is no reason to go without.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &modes);
        }
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
        eprintln!();
    }
}

fn say(answer: &Value, name: &str, output: Output) -> Result<(), Failure> {
    if answer["door"] == "open" && name != "default" {
        eprintln!(
            "the door is open: whoever does not say who it is may do what the user default may; `quorate user disable default` closes it on every node and protocol"
        );
    }
    output.show(answer, || text(&answer["user"]))
}

/// A user as people read it.
fn text(user: &Value) -> String {
    let mut text = format!(
        "{} {}, {} password(s){}, {} token(s)\n",
        shown(user, "name"),
        if user["enabled"] == true { "enabled" } else { "disabled" },
        user["passwords"],
        if user["nopass"] == true { " (enters without one)" } else { "" },
        user["tokens"],
    );
    let words = |list: &Value| {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    text.push_str(&format!("  commands {}\n", words(&user["commands"])));
    if user["roles"].as_array().is_some_and(|roles| !roles.is_empty()) {
        text.push_str(&format!("  roles {}\n", words(&user["roles"])));
    }
    for (effect, member) in [("may", "allow"), ("may not", "deny")] {
        for rule in user[member].as_array().into_iter().flatten() {
            let space = match &rule["keyspace"] {
                Value::Null => String::new(),
                space => format!(" of keyspace {space}"),
            };
            text.push_str(&format!(
                "  {effect} {} {}{space}\n",
                words(&rule["verbs"]).replace(' ', " and "),
                shown(rule, "names")
            ));
        }
    }
    text
}
