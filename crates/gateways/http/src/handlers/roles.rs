//! Roles: named ranges of keys with verbs, which users are given. The same roles as etcd's clients see, by the same changes.
//!
//! Each request is one change, made at its place in the log, or refused with what is missing.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem};
use crate::json::read::{Fields, Read};
use crate::json::request::range;
use crate::json::write::{Object, Values, quoted};
use crate::reply::reply;
use quorate_types::{
    AccessChange, AccessRefusal, Blob, CommandBody, Key, KeyRange, Keyspace, Outcome, RangeRule, Refusal,
    Role, Verbs,
};

/// Bytes of the name of a role.
const NAME_BYTES_MAX: usize = 256;

/// Lists roles.
pub(crate) async fn index(call: Call) -> Answer {
    let names = call.read(quorate_machine::Machine::role_names).await?;
    let names = names.iter().map(|name| Object::new().bytes("name", name, call.values).done());
    Ok(reply(200, Object::new().list("roles", names).done()))
}

/// Looks at a role.
pub(crate) async fn get(call: Call) -> Answer {
    let name = call.param("name");
    match call.read(|machine| machine.role(&name).cloned()).await? {
        Some(role) => Ok(reply(200, shown(&name, &role, call.values))),
        None => Err(missing(&AccessRefusal::RoleMissing {}).expect("a role that is not there is not found")),
    }
}

/// Makes a role that allows nothing; one that is there stays as it is.
pub(crate) async fn put(call: Call) -> Answer {
    let name = call.param("name");
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.iter().any(|byte| matches!(byte, b' ' | 0)) {
        return Err(Problem::bad_request(format!(
            "the name of a role has 1 to {NAME_BYTES_MAX} bytes, and no space or zero byte among them"
        )));
    }
    call.json(|node| node.object(|_| Ok(())))?;
    match change(&call, AccessChange::AddRole { name: name.clone() }).await? {
        None | Some(AccessRefusal::RoleExists {}) => as_it_is(&call, name).await,
        Some(why) => Err(refused(why)),
    }
}

/// Removes a role, from all users too.
pub(crate) async fn delete(call: Call) -> Answer {
    done(change(&call, AccessChange::RemoveRole { name: call.param("name") }).await?)?;
    Ok(reply(200, Object::new().plain("removed", true).done()))
}

/// Has a role allow something.
pub(crate) async fn allow(call: Call) -> Answer {
    let role = call.param("name");
    let rule = call.json(|node| node.object(rule))?;
    let most = call.gateway.handle.limits().name_bytes_max;
    if rule.start.len().max(rule.end.len()) as u64 > most {
        return Err(Problem::bad_request(format!("the names of a range have at most {most} bytes")));
    }
    done(change(&call, AccessChange::Allow { role: role.clone(), rule }).await?)?;
    as_it_is(&call, role).await
}

/// Takes back what a role allows of a range.
pub(crate) async fn forbid(call: Call) -> Answer {
    let role = call.param("name");
    let RangeRule { start, end, .. } = call.json(|node| node.object(of_range))?;
    done(change(&call, AccessChange::Forbid { role: role.clone(), start, end }).await?)?;
    as_it_is(&call, role).await
}

/// Gives a user a role.
pub(crate) async fn grant(call: Call) -> Answer {
    call.json(|node| node.object(|_| Ok(())))?;
    let (user, role) = (call.param("name"), call.param("role"));
    done(change(&call, AccessChange::GrantRole { user, role }).await?)?;
    Ok(reply(200, Object::new().plain("granted", true).done()))
}

/// Takes a role from a user.
pub(crate) async fn revoke(call: Call) -> Answer {
    let (user, role) = (call.param("name"), call.param("role"));
    done(change(&call, AccessChange::RevokeRole { user, role }).await?)?;
    Ok(reply(200, Object::new().plain("revoked", true).done()))
}

/// Makes a change; why it was not made, when what it speaks of is not as it has to be.
async fn change(call: &Call, change: AccessChange) -> Result<Option<AccessRefusal>, Problem> {
    // Whoever holds a token of the file has another way in.
    let may_lock_out = !call.gateway.config.tokens.is_empty();
    match call.send(CommandBody::ChangeAccess { change, may_lock_out }).await? {
        Outcome::Done { .. } => Ok(None),
        Outcome::Refused { refusal: Refusal::Access { why } } => Ok(Some(why)),
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        other => Err(unexpected(&other)),
    }
}

fn done(why: Option<AccessRefusal>) -> Result<(), Problem> {
    why.map_or(Ok(()), |why| Err(refused(why)))
}

fn refused(why: AccessRefusal) -> Problem {
    missing(&why).unwrap_or_else(|| Problem::of_refusal(&Refusal::Access { why }, Place::Resource))
}

/// Of a change that speaks of what is not there.
fn missing(why: &AccessRefusal) -> Option<Problem> {
    let code = match why {
        AccessRefusal::UserMissing {} => "user_missing",
        AccessRefusal::RoleMissing {} => "role_missing",
        AccessRefusal::RoleNotGranted {} => "role_not_granted",
        AccessRefusal::RuleMissing {} => "rule_missing",
        _ => return None,
    };
    Some(Problem::not_found(code, why.to_string()))
}

/// The role as it is now: the change was applied before it was answered, here or at the leader.
async fn as_it_is(call: &Call, name: Blob) -> Answer {
    let role = call.read(|machine| machine.role(&name).cloned()).await?.unwrap_or_default();
    Ok(reply(200, shown(&name, &role, call.values)))
}

fn rule(fields: &mut Fields<'_, '_>) -> Read<RangeRule> {
    let mut verbs = Verbs::NONE;
    for verb in fields.need("verbs", |node| node.list(|node| node.text()))? {
        verbs = verbs.and(match verb.as_str() {
            "read" => Verbs::READ,
            "write" => Verbs::WRITE,
            _ => return Err(fields.error(format!("verbs: \"{verb}\" is not known; known: read, write"))),
        });
    }
    if verbs == Verbs::NONE {
        return Err(fields.error("verbs: wanted read, write or both"));
    }
    Ok(RangeRule { verbs, ..of_range(fields)? })
}

/// A range as roles keep it, in etcd's form.
fn of_range(fields: &mut Fields<'_, '_>) -> Read<RangeRule> {
    let range = range(fields)?;
    if range.start.space != Keyspace::DEFAULT {
        return Err(fields.error("keyspace: roles speak of the keyspace default alone"));
    }
    let end = match &range.end {
        None => Blob::copy_from(&[0]),
        Some(_) if range == KeyRange::single(range.start.clone()) => Blob::EMPTY,
        Some(end) => end.clone(),
    };
    // No key has the empty name: all of them are those from the zero byte on.
    let start = if range.start.name.is_empty() { Blob::copy_from(&[0]) } else { range.start.name };
    Ok(RangeRule { start, end, verbs: Verbs::NONE })
}

/// A role as JSON, its ranges in the form in which they are sent.
fn shown(name: &Blob, role: &Role, values: Values) -> String {
    let rule = |rule: &RangeRule| {
        let object = Object::new().list("verbs", rule.verbs.names().map(quoted));
        let (start, end) = rule.stretch();
        let start = if *start == [0] { Blob::EMPTY } else { start };
        let range = KeyRange { start: Key { space: Keyspace::DEFAULT, name: start.clone() }, end };
        if rule.end.is_empty() {
            object.bytes("key", &start, values).done()
        } else if range == KeyRange::prefix(range.start.clone()) {
            object.bytes("prefix", &start, values).done()
        } else {
            let object = object.bytes("from", &start, values);
            match &range.end {
                Some(end) => object.bytes("to", end, values).done(),
                None => object.done(),
            }
        }
    };
    Object::new().bytes("name", name, values).list("allow", role.rules.iter().map(rule)).done()
}
