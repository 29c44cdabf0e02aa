//! Services: instances on leases, listed and watched.

use super::leases::{session, session_fields};
use crate::call::{Answer, Call, Gateway};
use crate::error::{Place, Problem};
use crate::json::answer::registered;
use crate::json::request;
use crate::json::write::{Object, Values, list};
use crate::reply::{name, reply, with_commit, with_header};
use crate::sse::{self, Event, Source};
use quorate_machine::service_range;
use quorate_runtime::Interest;
use quorate_types::{Commit, InstanceName, LeaseId, Op, Registered, Revision, ServiceName};
use std::time::Duration;

/// Enters an instance, or changes it.
pub(crate) async fn register(call: Call) -> Answer {
    let ((lease, ttl), info) = call
        .json(|node| node.object(|fields| Ok((session_fields(fields)?, request::instance_info(fields)?))))?;
    let (service, instance) = (ServiceName(call.param("service")), InstanceName(call.param("instance")));
    if let (LeaseId(0), Some(ttl)) = (lease, ttl) {
        // The session is the request's own; its grant carries the idempotency key, so a retry finds the same lease.
        let lease = session(&call, lease, Some(ttl)).await?;
        let commit = Commit::of(vec![Op::Register { service, instance, lease, info }]);
        let body = quorate_types::CommandBody::Commit { commit };
        return match call.send(body).await? {
            quorate_types::Outcome::Committed { committed } => registered_answer(lease, committed),
            quorate_types::Outcome::Refused { refusal } => {
                Err(Problem::of_refusal(&refusal, Place::Resource))
            }
            other => Err(crate::call::unexpected(&other)),
        };
    }
    let lease = session(&call, lease, ttl).await?;
    let commit = Commit::of(vec![Op::Register { service, instance, lease, info }]);
    let committed = call.commit(commit, Place::Resource).await?;
    registered_answer(lease, committed)
}

fn registered_answer(lease: LeaseId, committed: quorate_types::Committed) -> Answer {
    let body = Object::new().plain("revision", committed.revision).plain("lease", lease).done();
    Ok(with_commit(reply(200, body), &committed))
}

/// Removes an instance.
pub(crate) async fn deregister(call: Call) -> Answer {
    let (service, instance) = (ServiceName(call.param("service")), InstanceName(call.param("instance")));
    let commit = Commit::of(vec![Op::Deregister { service, instance }]);
    let committed = call.commit(commit, Place::Resource).await?;
    Ok(with_commit(reply(200, Object::new().plain("revision", committed.revision).done()), &committed))
}

/// Lists the instances of a service; none when nothing is registered.
pub(crate) async fn instances(call: Call) -> Answer {
    let service = ServiceName(call.param("service"));
    let name = service.clone();
    let (revision, found) = call.read(move |machine| (machine.revision(), machine.instances(&name))).await?;
    let body = instances_json(&service, &found, call.values);
    Ok(with_header(reply(200, body), name::REVISION, revision))
}

fn instances_json(service: &ServiceName, found: &[Registered], values: Values) -> String {
    Object::new()
        .bytes("service", &service.0, values)
        .list("instances", found.iter().map(|one| registered(one, values)))
        .done()
}

/// Lists the services that have instances.
pub(crate) async fn index(call: Call) -> Answer {
    let values = call.values;
    let found = call.read(|machine| machine.services()).await?;
    let names = found.iter().map(|service| Object::new().bytes("service", &service.0, values).done());
    Ok(reply(200, Object::new().json("services", list(names)).done()))
}

/// Follows a service: its instances now, and again after each change.
pub(crate) async fn watch(call: Call) -> Answer {
    let source = Watch {
        service: ServiceName(call.param("service")),
        known: None,
        silence: call.gateway.config.sse_keepalive,
        values: call.values,
        over: false,
    };
    sse::respond(&call, source)
}

struct Watch {
    service: ServiceName,
    known: Option<Vec<Registered>>,
    silence: Duration,
    values: Values,
    over: bool,
}

impl Source for Watch {
    async fn next(&mut self, gateway: &Gateway) -> Option<Vec<Event>> {
        if self.over {
            return None;
        }
        let (service, known) = (self.service.clone(), self.known.take());
        let before = known.clone();
        let changed = move |machine: &quorate_machine::Machine| -> Option<(Revision, Vec<Registered>)> {
            let found = machine.instances(&service);
            (known.as_ref() != Some(&found)).then(|| (machine.revision(), found))
        };
        match sse::wait(gateway, Interest::Keys(service_range(&self.service)), self.silence, changed).await {
            Ok(Some((revision, found))) => {
                let data = instances_json(&self.service, &found, self.values);
                self.known = Some(found);
                Some(vec![Event::named("instances", data).id(revision.to_string())])
            }
            Ok(None) => {
                self.known = before;
                Some(vec![Event::comment()])
            }
            Err(error) => {
                self.over = true;
                Some(vec![Event::named("error", Problem::from(error).body())])
            }
        }
    }
}
