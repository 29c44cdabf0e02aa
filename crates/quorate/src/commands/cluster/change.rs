//! Changes of a cluster: begin one, add a node, remove one, put one in another's place, hand leadership on.
//!
//! Called by: `cluster`.

use super::show::{self, leader, member, role, voters};
use super::{Patience, wait};
use crate::client::{Client, Connect, Request};
use crate::commands::node::dialled;
use crate::failure::{Exit, Failure};
use crate::output::{Output, grouped};
use serde_json::{Value, json};
use std::time::Duration;

/// How long leadership may take to be handed on before a change that needs it is given up.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Begin a cluster with a node that waits for one, and add the nodes it was started with.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate cluster init
  quorate cluster init --server http://10.0.0.1:8400

Run it once, at one node, when all nodes of --peers run. The node becomes a cluster of one and adds the others; an alone server's data
stays with it. It is done when every node of --peers votes.")]
pub(super) struct Init {
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connect: Connect,
}

impl Init {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        client.call(&Request::json("POST", "/v1/cluster/init", &json!({})))?;
        done(&mut client, &self.patience, output, whole)
    }
}

/// Whether a leader is known and every node that this one was started with votes; else what is missing.
pub(crate) fn whole(status: &Value) -> Result<(), String> {
    led(status)?;
    for peer in status["peers"].as_array().into_iter().flatten() {
        let node = peer["id"].as_u64().unwrap_or_default();
        let address = peer["address"].as_str().unwrap_or_default();
        votes(status, node).map_err(|why| format!("{why} (it is dialled at {address})"))?;
    }
    Ok(())
}

fn led(status: &Value) -> Result<(), String> {
    match (leader(status), status["missing"].as_str()) {
        (Some(_), _) => Ok(()),
        (None, Some(missing)) => Err(missing.to_owned()),
        (None, None) => Err("a leader is being elected".to_owned()),
    }
}

fn votes(status: &Value, node: u64) -> Result<(), String> {
    match role(status, node) {
        Some("voter") => Ok(()),
        Some("leaving") => Err(format!("the change that removes node {node} is under way")),
        Some(_) => Err(caught_up(status, node, committed(status))
            .err()
            .unwrap_or_else(|| format!("node {node} becomes a voter"))),
        None => Err(format!("node {node} has not joined yet")),
    }
}

fn committed(status: &Value) -> u64 {
    status["committed"].as_u64().unwrap_or_default()
}

/// Whether a member has applied everything up to an entry; else how far it is.
fn caught_up(status: &Value, node: u64, entry: u64) -> Result<(), String> {
    let Some(found) = member(status, node) else { return Err(format!("node {node} has not joined yet")) };
    let applied = found["applied"].as_u64().unwrap_or_default();
    if found["copying"] == true {
        Err(format!("node {node} copies the log"))
    } else if found["heard_ms"].is_null() {
        Err(format!("node {node} was not heard yet"))
    } else if applied < entry {
        Err(format!("node {node} catches up: entry {} of {}", grouped(applied), grouped(entry)))
    } else {
        Ok(())
    }
}

/// Add a node: it is replicated to, and votes once it has caught up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate serve --node-id 4 --peer-listen 10.0.0.4:8500 --data ./empty …      (on the new machine)
  quorate cluster add 4 10.0.0.4:8500
  quorate cluster add 5 10.0.0.5:8500 --learner

Start the new node first, with an empty folder. A learner is replicated to and serves reads, and never counts for the quorum.")]
pub(super) struct Add {
    /// Number of the node, as its --node-id says.
    id: u64,
    /// Where the other nodes dial it.
    #[arg(value_name = "HOST:PORT", value_parser = dialled)]
    address: String,
    /// Never let it vote.
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connect: Connect,
}

impl Add {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let before = wait::status(&mut client)?;
        add(&mut client, self.id, &self.address, self.learner)?;
        let (node, goal) = (self.id, committed(&before));
        done(&mut client, &self.patience, output, |status| {
            if self.learner { caught_up(status, node, goal) } else { votes(status, node) }
        })
    }
}

fn add(client: &mut Client, node: u64, address: &str, learner: bool) -> Result<(), Failure> {
    let body = json!({"id": node, "address": address, "learner": learner});
    client.call(&Request::json("POST", "/v1/cluster/members", &body)).map(|_| ())
}

/// Remove a node. One that leads hands leadership on first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate cluster remove 3

The quorum shrinks with it. Stop the node afterwards; its folder is of no more use to this cluster.")]
pub(super) struct Remove {
    /// Number of the node.
    id: u64,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connect: Connect,
}

impl Remove {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let node = self.id;
        step_aside(&mut client, node)?;
        client.call(&Request::new("DELETE", format!("/v1/cluster/members/{node}"), ""))?;
        done(&mut client, &self.patience, output, |status| gone(status, node))
    }
}

fn gone(status: &Value, node: u64) -> Result<(), String> {
    led(status)?;
    match role(status, node) {
        None => Ok(()),
        Some(_) => Err(format!("the change that removes node {node} is under way")),
    }
}

/// Sees to it that a node does not lead, if another could.
fn step_aside(client: &mut Client, node: u64) -> Result<(), Failure> {
    let status = wait::status(client)?;
    if leader(&status) != Some(node) || voters(&status).len() < 2 {
        return Ok(());
    }
    eprintln!("node {node} leads: it hands leadership on first");
    client.call(&Request::json("POST", "/v1/cluster/transfer", &json!({})))?;
    wait::until(client, HAND_OVER, |status| match leader(status) {
        Some(leader) if leader != node => Ok(()),
        _ => Err(format!("node {node} hands leadership on")),
    })
    .map(|_| ())
}

/// Put a new node in the place of another, without a moment of fewer voters.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate serve --node-id 4 --peer-listen 10.0.0.4:8500 --data ./empty …      (on the new machine)
  quorate cluster replace 2 4 10.0.0.4:8500

The new node learns first; once it has caught up, one joint change makes it a voter and removes the old one. The old one may be dead
already. Run again, it goes on where it was.")]
pub(super) struct Replace {
    /// Number of the node that leaves.
    old: u64,
    /// Number of the node that takes its place, as its --node-id says.
    id: u64,
    /// Where the other nodes dial it.
    #[arg(value_name = "HOST:PORT", value_parser = dialled)]
    address: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connect: Connect,
}

impl Replace {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let (old, new) = (self.old, self.id);
        let mut client = self.connect.client()?;
        let before = wait::status(&mut client)?;
        self.check(&before)?;
        if role(&before, new).is_none() {
            add(&mut client, new, &self.address, true)?;
        }
        if self.patience.no_wait {
            let next = format!(
                "run `quorate cluster replace {old} {new} {}` again once it has caught up",
                self.address
            );
            eprintln!("node {new} learns: {next}");
            let status = wait::status(&mut client)?;
            return output.show(&status, || show::text(&status));
        }
        let goal = committed(&before);
        wait::until(&mut client, self.patience.wait, |status| caught_up(status, new, goal))?;
        step_aside(&mut client, old)?;
        client.call(&Request::json("POST", "/v1/cluster/swap", &json!({"remove": old, "promote": new})))?;
        done(&mut client, &self.patience, output, |status| {
            votes(status, new)?;
            gone(status, old)
        })
    }

    fn check(&self, status: &Value) -> Result<(), Failure> {
        let refused = |what: String, next: &str| Err(Failure::new(Exit::Refused, what, next));
        match (role(status, self.old), role(status, self.id)) {
            _ if self.old == self.id => refused(
                format!("node {} cannot replace itself", self.old),
                "give the new node a number of its own",
            ),
            (None, _) => refused(
                format!("node {} is not a member of this cluster: nothing happened", self.old),
                "see `quorate cluster status`; a node that is only missing is added with `quorate cluster add`",
            ),
            (Some(_), Some("voter")) => refused(
                format!("node {} votes already: nothing happened", self.id),
                "remove the old one with `quorate cluster remove`",
            ),
            (Some(_), _) => Ok(()),
        }
    }
}

/// Hand leadership to another voter, as before work on the leader's machine.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate cluster transfer
  quorate cluster transfer 3")]
pub(super) struct Transfer {
    /// Number of the node that is to lead; the one best up to date when absent.
    id: Option<u64>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connect: Connect,
}

impl Transfer {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let mut client = self.connect.client()?;
        let before = leader(&wait::status(&mut client)?);
        let body = self.id.map_or_else(|| json!({}), |node| json!({"to": node}));
        client.call(&Request::json("POST", "/v1/cluster/transfer", &body))?;
        done(&mut client, &self.patience, output, |status| match (leader(status), self.id) {
            (Some(leader), Some(node)) if leader == node => Ok(()),
            (Some(leader), None) if Some(leader) != before => Ok(()),
            (_, Some(node)) => Err(format!("node {node} takes over")),
            (_, None) => Err("another node takes over".to_owned()),
        })
    }
}

/// Waits for the end of a change unless told otherwise, and shows the cluster.
fn done(
    client: &mut Client,
    patience: &Patience,
    output: Output,
    look: impl FnMut(&Value) -> Result<(), String>,
) -> Result<(), Failure> {
    let status =
        if patience.no_wait { wait::status(client)? } else { wait::until(client, patience.wait, look)? };
    output.show(&status, || show::text(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(leader: Value, roles: &[(u64, &str, u64)]) -> Value {
        let members: Vec<Value> = roles
            .iter()
            .map(|(node, role, applied)| {
                json!({"id": node, "role": role, "applied": applied, "heard_ms": 1, "copying": false})
            })
            .collect();
        json!({"leader": leader, "missing": null, "committed": 100, "members": members,
            "peers": [{"id": 1, "address": "a:1"}, {"id": 2, "address": "b:1"}]})
    }

    #[test]
    fn a_cluster_is_whole_when_it_is_led_and_every_named_node_votes() {
        let both = [(1, "voter", 100), (2, "voter", 100)];
        assert_eq!(whole(&status(1.into(), &both)), Ok(()));
        assert!(whole(&status(Value::Null, &both)).unwrap_err().contains("elected"));
        let one = whole(&status(1.into(), &both[..1])).unwrap_err();
        assert!(one.contains("node 2 has not joined yet") && one.contains("b:1"), "{one}");
        let learns = whole(&status(1.into(), &[(1, "voter", 100), (2, "learner", 40)])).unwrap_err();
        assert!(learns.contains("entry 40 of 100"), "{learns}");
    }

    #[test]
    fn a_removed_node_is_gone_only_when_the_joint_change_is_over() {
        assert!(gone(&status(1.into(), &[(1, "voter", 1), (2, "leaving", 1)]), 2).is_err());
        assert_eq!(gone(&status(1.into(), &[(1, "voter", 1)]), 2), Ok(()));
        assert!(gone(&status(Value::Null, &[(1, "voter", 1)]), 2).is_err());
    }
}
