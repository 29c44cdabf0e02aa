//! What goes wrong: machines, disks, clocks, the network, and operators who change the membership meanwhile.
//!
//! Invariant: under `interval` never more than a minority is without what it acknowledged at the same time, and damage to synced bytes
//! never hits more than a minority either: that is what is promised.
//! Called by: the cluster's world.

use super::plant::ClusterPlant;
use super::world::{Event, Flight, MS, World};
use crate::model::Check;
use quorate_engine::{Change, Durability, Member, Role};
use quorate_log::{Disk, Op as DiskOp};
use quorate_node::AdminRequest;
use quorate_types::{ClusterId, NodeId};

/// Members at most, and voters at least, that churn leaves.
const MEMBERS_MAX: usize = 6;
const VOTERS_MIN: usize = 3;

impl World {
    pub(super) fn fault(&mut self) -> Check {
        let Some(node) = self.some_member() else { return Ok(()) };
        match self.random.below(34) {
            0..=3 => self.die(node, false),
            4..=6 if self.may_lose(node) => self.die(node, true),
            7 if self.durability == Durability::Always => {
                self.probes.hit("restart: power loss everywhere");
                let nodes: Vec<NodeId> = self.servers.keys().copied().collect();
                nodes.into_iter().try_for_each(|node| self.die(node, true))
            }
            8 | 9 if self.may_lose(node) => {
                let at = self.random.below(80);
                if let Some(server) = self.servers.get_mut(&node).filter(|server| server.process.is_some()) {
                    server.disk.crash_at(at);
                    server.armed = true;
                    // Under `interval` what it costs is counted from now on.
                    server.lossy |= self.durability == Durability::Interval;
                }
                Ok(())
            }
            10 | 11 => {
                let long = if self.random.chance(3) { 4_000 } else { 600 };
                let pause = (20 + self.random.below(long)) * MS;
                self.probes.hit("pause: a process stood still");
                if let Some(server) = self.servers.get_mut(&node) {
                    server.paused_until = self.now_ns + pause;
                }
                Ok(())
            }
            12..=15 => self.isolate(node),
            16 => self.split(),
            17 | 18 => {
                let Some(other) = self.some_member().filter(|other| *other != node) else { return Ok(()) };
                self.probes.hit("network: cut in one direction");
                let lasts = self.lasts();
                self.cut(node, other, lasts)
            }
            19 | 20 => {
                let Some(other) = self.some_member().filter(|other| *other != node) else { return Ok(()) };
                self.break_link(node, other)
            }
            21 => {
                let slowness = self.random.between(5, 200);
                for ((from, to), link) in &mut self.network.links {
                    if *from == node || *to == node {
                        link.slowness = slowness;
                    }
                }
                self.later_unslow(node);
                Ok(())
            }
            22 => {
                let slowness = self.random.between(10, 300);
                if let Some(server) = self.servers.get_mut(&node) {
                    server.slowness = slowness;
                }
                self.later_unslow(node);
                Ok(())
            }
            23 => {
                let skew = self.random.below(8_000) as i64 - 4_000;
                if let Some(server) = self.servers.get_mut(&node) {
                    server.skew_ms = skew;
                }
                let lasts = self.lasts() * 2;
                self.after_ns(lasts, Event::Unskew(node));
                Ok(())
            }
            24..=26 => self.churn(),
            27 | 28 => self.transfer(),
            29 => self.call(node, |process, _| process.snapshot_soon()),
            30 if self.may_lose(node) => self.flip(node),
            31 => {
                let op = if self.random.chance(2) { DiskOp::Write } else { DiskOp::Sync };
                if let Some(server) = self.servers.get_mut(&node).filter(|server| server.process.is_some()) {
                    server.failing = true;
                    server.disk.fail_next(op);
                }
                Ok(())
            }
            32 => {
                // Long enough for the others' logs to be cleaned behind it.
                self.probes.hit("network: a node away for long");
                let lasts = (4_000 + self.random.below(8_000)) * MS;
                self.isolate_for(node, lasts)
            }
            _ => Ok(()),
        }
    }

    fn some_member(&mut self) -> Option<NodeId> {
        let members: Vec<NodeId> = self.members().iter().map(|member| member.node).collect();
        self.random.pick(&members).copied()
    }

    fn lasts(&mut self) -> u64 {
        let long = if self.random.chance(4) { 5_000 } else { 900 };
        (50 + self.random.below(long)) * MS
    }

    fn later_unslow(&mut self, node: NodeId) {
        let lasts = self.lasts();
        self.after_ns(lasts, Event::Unslow(node));
    }

    /// Whether a node may lose what it had acknowledged, or its synced bytes, with the promises still standing.
    pub(super) fn may_lose(&self, node: NodeId) -> bool {
        let members = self.members();
        let voters: Vec<&Member> = members.iter().filter(|member| member.role != Role::Learner {}).collect();
        let leaving = members.iter().any(|member| member.role == Role::Leaving {});
        let lossy = |node: NodeId| self.servers.get(&node).is_some_and(|server| server.lossy);
        let others = voters.iter().filter(|member| member.node != node && lossy(member.node)).count();
        let calm =
            self.changing.is_none() && !leaving && !members.iter().any(|m| m.role == (Role::Learner {}));
        // A removal that is under way makes the quorum smaller before anybody else sees it.
        let fewer =
            usize::from(self.removing.is_some_and(|node| voters.iter().any(|member| member.node == node)));
        let minority = voters.len().saturating_sub(1 + fewer) / 2;
        if self.durability == Durability::Always && !lossy(node) && others == 0 {
            // A power loss costs nothing that was synced; a flip does, and asks once more.
            return true;
        }
        calm && others < minority
    }

    fn isolate(&mut self, node: NodeId) -> Check {
        self.probes.hit("network: a node cut off");
        let lasts = self.lasts();
        self.isolate_for(node, lasts)
    }

    fn isolate_for(&mut self, node: NodeId, lasts: u64) -> Check {
        let others: Vec<NodeId> = self.servers.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            self.cut(node, other, lasts)?;
            self.cut(other, node, lasts)?;
        }
        Ok(())
    }

    fn split(&mut self) -> Check {
        self.probes.hit("network: split in two");
        let lasts = self.lasts();
        let nodes: Vec<(NodeId, bool)> = self
            .servers
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|node| (node, self.random.chance(2)))
            .collect();
        for (from, one) in &nodes {
            for (to, other) in &nodes {
                if one != other {
                    self.cut(*from, *to, lasts)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing passes for a while: the connection ends at once, or only stands still and goes on or ends later.
    fn cut(&mut self, from: NodeId, to: NodeId, lasts: u64) -> Check {
        if self.random.chance(2) {
            self.network.link(from, to).stalled = true;
            let breaks = self.random.chance(2);
            self.after_ns(lasts, Event::Unstall(from, to, breaks));
            return Ok(());
        }
        self.network.link(from, to).cut = true;
        self.after_ns(lasts, Event::Uncut(from, to));
        self.break_link(from, to)
    }

    /// Flips a synced bit of a log and starts the node on it.
    fn flip(&mut self, node: NodeId) -> Check {
        let minority = (self.members().iter().filter(|m| m.role == (Role::Voter {})).count().max(1) - 1) / 2;
        let lossy = self.servers.values().filter(|server| server.lossy).count();
        let learners = self.members().iter().any(|member| member.role != (Role::Voter {}));
        if lossy >= minority || learners || self.changing.is_some() {
            return Ok(());
        }
        let (one, two, three) = (self.random.next(), self.random.next(), self.random.below(8));
        let Some(server) = self.servers.get_mut(&node) else { return Ok(()) };
        let idle = server.is_idle() && server.copying.is_none();
        let Some(process) = server.process.as_mut().filter(|process| idle && !process.wants_reopening())
        else {
            return Ok(());
        };
        // Only a mark tells the last synced batch from one that was never finished.
        let Some(mark) = process.take_mark_job() else { return Ok(()) };
        if process.complete(mark.run()).is_err() {
            return self.die(node, false);
        }
        let number = process.identity().map_or(0, |identity| identity.log);
        // What the cluster may lose is counted from here on.
        let disk =
            if number == 0 { Ok(server.disk.clone()) } else { server.disk.sub(&format!("log-{number}")) };
        let Ok(disk) = disk else { return self.die(node, true) };
        let ours =
            |name: &str| ["seg-", "snap-", "kept-", "manifest"].iter().any(|kind| name.starts_with(kind));
        let files = disk.list().unwrap_or_default();
        let files: Vec<_> = files.into_iter().filter(|file| file.bytes > 0 && ours(&file.name)).collect();
        if let Some(file) = files.get((one % files.len().max(1) as u64) as usize) {
            // Near the beginning, where the bytes in use are.
            let (offset, mask) = (two % file.bytes.min(6_000), 1 << three);
            disk.flip(&file.name, offset, mask);
            let folder = if number == 0 { String::new() } else { format!("log-{number}/") };
            server.flipped = Some((folder + &file.name, offset, mask));
            server.lossy = true;
            self.probes.hit("disk: a synced bit flipped");
        }
        self.die(node, false)
    }

    // Operators.

    fn admin(&mut self, request: AdminRequest, removes: Option<NodeId>, adds: Option<NodeId>) -> Check {
        let Some(at) = self.some_member() else { return Ok(()) };
        let up = self.servers.get(&at).is_some_and(|server| server.process.is_some());
        if !up || self.changing.is_some() {
            return Ok(());
        }
        let op = self.next_op;
        self.next_op += 1;
        self.changing = Some(op);
        self.removing = removes.or(self.removing);
        self.flights.insert(op, (at, Flight::Admin { removes, adds }));
        self.call(at, |process, _| process.admin(request, op))
    }

    pub(super) fn admin_done(
        &mut self,
        removes: Option<NodeId>,
        adds: Option<NodeId>,
        reply: &quorate_node::Reply,
    ) {
        self.changing = None;
        if !matches!(reply, quorate_node::Reply::Admin(None)) {
            return;
        }
        if adds.is_some() {
            self.probes.hit("members: a node is added");
        }
        if let Some(node) = removes {
            self.probes.hit("members: a node is removed");
            let pause = (200 + self.random.below(2_000)) * MS;
            self.after_ns(pause, Event::Retire(node));
        }
    }

    /// Has a fresh folder learn, and vote once it has caught up if it shall.
    pub(super) fn learn(&mut self, node: NodeId, vote: bool) -> Check {
        let Some(change) = self.learning(node, vote) else { return Ok(()) };
        self.admin(AdminRequest::Change { changes: vec![change] }, None, Some(node))
    }

    fn learning(&self, node: NodeId, vote: bool) -> Option<Change> {
        let identity = self.servers.get(&node)?.process.as_ref()?.identity()?;
        if identity.cluster != ClusterId::ZERO {
            return None;
        }
        Some(Change::Learn { node, address: format!("node-{node}"), instance: identity.instance, vote })
    }

    fn churn(&mut self) -> Check {
        let members = self.members();
        let voters: Vec<NodeId> = members
            .iter()
            .filter(|member| member.role == (Role::Voter {}))
            .map(|member| member.node)
            .collect();
        let lossy = self.servers.values().any(|server| server.lossy);
        if self.changing.is_some() || lossy || members.iter().any(|member| member.role == (Role::Leaving {}))
        {
            return Ok(());
        }
        // Nodes that nobody admitted are tried again before new ones are made.
        let stranger = self.servers.values().find(|server| {
            let identity = server.process.as_ref().and_then(|process| process.identity());
            !server.retired && identity.is_some_and(|identity| identity.cluster == ClusterId::ZERO)
        });
        let stranger = stranger.map(|server| server.node);
        if let Some(node) = stranger.filter(|node| !members.iter().any(|member| member.node == *node)) {
            // One that shall not vote by itself takes another's place later, in one joint change.
            let vote = self.random.chance(3);
            return self.learn(node, vote);
        }
        let leader = self.leader();
        let fit: Vec<NodeId> = voters.iter().copied().filter(|node| Some(*node) != leader).collect();
        let learner = members.iter().find(|member| member.role == (Role::Learner {}) && !member.vote);
        if let (Some(learner), Some(old)) =
            (learner.map(|member| member.node), self.random.pick(&fit).copied())
        {
            self.probes.hit("members: one is replaced by joint change");
            let changes = vec![Change::Promote { node: learner }, Change::Remove { node: old }];
            return self.admin(AdminRequest::Change { changes }, Some(old), None);
        }
        if voters.len() > VOTERS_MIN && self.random.chance(2) {
            let Some(old) = self.random.pick(&fit).copied() else { return Ok(()) };
            let changes = vec![Change::Remove { node: old }];
            return self.admin(AdminRequest::Change { changes }, Some(old), None);
        }
        if members.len() < MEMBERS_MAX {
            let node = NodeId(self.servers.keys().max().map_or(1, |node| node.0 + 1));
            self.add_server(node);
            return self.start(node);
        }
        Ok(())
    }

    fn transfer(&mut self) -> Check {
        let to = if self.random.chance(2) { Some(NodeId::ZERO) } else { self.some_member() };
        let Some(to) = to else { return Ok(()) };
        self.admin(AdminRequest::Transfer { to }, None, None)
    }

    // Planted bugs that live on the disk.

    /// Before a start: what a planted bug brings back from earlier.
    pub(super) fn spoil(&mut self, node: NodeId) {
        let plant = self.options.plant;
        let Some(server) = self.servers.get_mut(&node) else { return };
        match plant {
            Some(ClusterPlant::ForgottenVote) => {
                if let Some(identity) = server.old_identity.take() {
                    server.disk.put("cluster.qid", &identity);
                }
            }
            Some(ClusterPlant::TailDropped) => {
                let Some(files) = server.old_disk.take() else { return };
                for file in server.disk.list().unwrap_or_default() {
                    if file.name != "cluster.qid" && !files.iter().any(|(name, _)| *name == file.name) {
                        let _ = server.disk.remove(&file.name);
                    }
                }
                for (name, bytes) in files.iter().filter(|(name, _)| name != "cluster.qid") {
                    server.disk.put(name, bytes);
                }
            }
            _ => {}
        }
    }

    /// Now and then: what a planted bug will bring back.
    pub(super) fn remember(&mut self, node: NodeId) {
        let (plant, now) = (self.options.plant, self.random.chance(30));
        let Some(server) = self.servers.get_mut(&node).filter(|_| now) else { return };
        let member = server.process.as_ref().and_then(|process| process.identity());
        if member.is_none_or(|identity| identity.cluster == ClusterId::ZERO || identity.log > 0) {
            return;
        }
        match plant {
            Some(ClusterPlant::ForgottenVote) => server.old_identity = server.disk.bytes("cluster.qid"),
            Some(ClusterPlant::TailDropped) => {
                let files = server.disk.list().unwrap_or_default();
                let files = files
                    .into_iter()
                    .filter_map(|file| Some((file.name.clone(), server.disk.bytes(&file.name)?)));
                server.old_disk = Some(files.collect());
            }
            _ => {}
        }
    }
}
