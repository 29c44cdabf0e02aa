//! Alarms: those that somebody has raised, which are state of the machine, and this node's own findings, which are none.
//!
//! Invariant: what is told of a node's own disk and memory is what refuses growth there; it cannot be disarmed, since it ends by itself.
//! Called by: `cluster` (Alarm, Status), `probe` (`/health`, `/readyz`).

use crate::gateway::Gateway;
use crate::protocol::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;
use quorate_runtime::Consistency;
use quorate_types::{AlarmKind, CommandBody, NodeId, Revision};
use std::sync::Arc;
use tonic::{Request, Status};

impl Gateway {
    /// Shows alarms, raises one, or takes one down.
    ///
    /// # Errors
    /// The sender may not; the alarm or the action is none that there is.
    pub(crate) async fn alarm(
        self: &Arc<Self>,
        request: &Request<pb::AlarmRequest>,
    ) -> Result<pb::AlarmResponse, Status> {
        let asked = request.get_ref();
        let no = |what: &str, found: i32| Status::invalid_argument(format!("there is no {what} {found}"));
        let action = AlarmAction::try_from(asked.action).map_err(|_| no("alarm action", asked.action))?;
        let alarm = pb::AlarmType::try_from(asked.alarm).map_err(|_| no("alarm", asked.alarm))?;
        let up = match action {
            AlarmAction::Get => {
                self.enter(request).await?;
                // As fresh as the answers to those who have raised one.
                let revision = self.look(Consistency::Linearizable, |machine| machine.revision()).await?;
                let mut alarms = self.alarms();
                alarms.retain(|one| alarm == pb::AlarmType::None || one.alarm() == alarm);
                return Ok(self.told(revision, alarms));
            }
            AlarmAction::Activate => true,
            AlarmAction::Deactivate => false,
        };
        let who = self.operator(request).await?;
        let (member, kind) = (NodeId(asked.member_id), kind(alarm));
        let was_up = self
            .look(Consistency::Linearizable, |machine| machine.alarms().any(|one| one == (member, kind)))
            .await?;
        self.command(&who, CommandBody::Alarm { member, kind, up }).await?;
        let one = pb::AlarmMember { member_id: member.0, alarm: alarm.into() };
        let told = if up || was_up { vec![one] } else { Vec::new() };
        Ok(self.told(self.handle.status().revision, told))
    }

    fn told(&self, revision: Revision, alarms: Vec<pb::AlarmMember>) -> pb::AlarmResponse {
        pb::AlarmResponse { header: Some(self.header(revision)), alarms }
    }

    /// What is up as far as this node knows: what was raised, by member, and what it has found out about itself.
    pub(crate) fn alarms(&self) -> Vec<pb::AlarmMember> {
        let status = self.handle.status();
        let own = self.header(status.revision).member_id;
        let mut all = self.handle.alarms();
        let found = (NodeId(own), AlarmKind::NoSpace);
        if (status.disk_low || status.memory_low) && !all.contains(&found) {
            all.push(found);
            all.sort_unstable();
        }
        let told = |(member, kind): (NodeId, AlarmKind)| pb::AlarmMember {
            member_id: member.0,
            alarm: match kind {
                AlarmKind::None => pb::AlarmType::None,
                AlarmKind::NoSpace => pb::AlarmType::Nospace,
                AlarmKind::Corrupt => pb::AlarmType::Corrupt,
            }
            .into(),
        };
        all.into_iter().map(told).collect()
    }
}

fn kind(alarm: pb::AlarmType) -> AlarmKind {
    match alarm {
        pb::AlarmType::None => AlarmKind::None,
        pb::AlarmType::Nospace => AlarmKind::NoSpace,
        pb::AlarmType::Corrupt => AlarmKind::Corrupt,
    }
}

/// An alarm as Status tells it: what is zero is left out, as Go's text form of a message does.
pub(crate) fn text(one: pb::AlarmMember) -> String {
    let member = if one.member_id == 0 { String::new() } else { format!("memberID:{} ", one.member_id) };
    match one.alarm() {
        pb::AlarmType::None => member,
        alarm => format!("{member}alarm:{} ", alarm.as_str_name()),
    }
}
