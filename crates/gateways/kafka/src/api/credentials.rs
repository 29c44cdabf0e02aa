//! DescribeUserScramCredentials and AlterUserScramCredentials: the passwords of users, as Kafka's tools look at and set them.
//!
//! A tool tells no password but what PBKDF2 has made of it, for one mechanism or for both. That is enough to make the verifier, and a verifier is enough to check a password that
//! somebody tells: so a user that is made here enters by every protocol, and one that was made elsewhere is shown here. Each mechanism is set and deleted for itself, as in Kafka.
//!
//! Invariant: what one request asks for a user is one change of it: all or nothing.
//! Called by: `api`. Source: KIP-554; Kafka's `ScramControlManager` for what is refused by which error.

use crate::error::{self, Code};
use crate::gateway::{Gateway, Who};
use crate::wire::{Malformed, Reader, Writer};
use bytes::Bytes;
use quorate_runtime::door;
use quorate_types::{Blob, CommandBody, DEFAULT_USER, Outcome, Refusal, Scram, ScramHash, User, UserChange};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds that Kafka takes.
const ROUNDS: std::ops::RangeInclusive<i32> = 4096..=16384;
/// Longest salt; Kafka's tools draw some 26 bytes.
const SALT_BYTES_MAX: usize = 256;

/// Kafka's number of a mechanism.
fn number(hash: ScramHash) -> i8 {
    match hash {
        ScramHash::Sha256 => 1,
        ScramHash::Sha512 => 2,
    }
}

fn hash(number: i8) -> Option<ScramHash> {
    [ScramHash::Sha256, ScramHash::Sha512].into_iter().find(|hash| self::number(*hash) == number)
}

/// Rounds of the verifier that a proof is asked for by, for each mechanism that the user has one of.
fn told(user: &User) -> Vec<(ScramHash, u32)> {
    let narrow = user.scram.iter().rev().find_map(Scram::sha256).map(|by| (ScramHash::Sha256, by.iterations));
    let wide = user.scram.iter().rev().find_map(Scram::sha512).map(|by| (ScramHash::Sha512, by.iterations));
    narrow.into_iter().chain(wide).collect()
}

type Told = (String, Code, Option<&'static str>, Vec<(ScramHash, u32)>);

pub(super) async fn describe(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.maybe_list(|body| {
        let name = body.text()?;
        body.tags()?;
        Ok(name)
    })?;
    body.tags()?;
    let found = gateway.read(|machine| {
        machine
            .rights(&who.principal)
            .command("acl|getuser")
            .map_err(|_| Code::ClusterAuthorizationFailed)?;
        let of = |name: &[u8]| machine.user(name).map_or(Vec::new(), |access| told(access.user()));
        let Some(names) = asked.as_ref().filter(|names| !names.is_empty()) else {
            let all = machine.user_names().into_iter().filter_map(|name| {
                let verifiers = of(&name);
                let name = std::str::from_utf8(&name).ok()?.to_owned();
                (!verifiers.is_empty()).then_some((name, Code::None, None, verifiers))
            });
            return Ok(all.collect::<Vec<Told>>());
        };
        let mut named: BTreeMap<&String, usize> = BTreeMap::new();
        names.iter().for_each(|name| *named.entry(name).or_default() += 1);
        let one = |(name, times): (&String, usize)| match of(name.as_bytes()) {
            _ if times > 1 => {
                (name.clone(), Code::DuplicateResource, Some("the user is named twice"), Vec::new())
            }
            none if none.is_empty() => {
                (name.clone(), Code::ResourceNotFound, Some("the user has no SCRAM credentials"), none)
            }
            verifiers => (name.clone(), Code::None, None, verifiers),
        };
        Ok(named.into_iter().map(one).collect())
    });
    let found: Result<Vec<Told>, Code> = found.await.and_then(|found| found);
    out.i32(0);
    out.i16(Code::of(&found).number());
    out.maybe_text(None);
    out.list(found.unwrap_or_default(), |out, (name, code, why, verifiers)| {
        out.text(&name);
        out.i16(code.number());
        out.maybe_text(why);
        out.list(verifiers, |out, (hash, rounds)| {
            out.i8(number(hash));
            out.i32(i32::try_from(rounds).unwrap_or(i32::MAX));
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

/// What is asked for one user.
#[derive(Default)]
struct Wanted {
    /// Mechanisms to delete.
    deleted: Vec<i8>,
    set: Vec<Set>,
}

/// A mechanism, with what its verifier is made of.
struct Set {
    mechanism: i8,
    rounds: i32,
    salt: Bytes,
    salted: Bytes,
}

type Refused = (Code, &'static str);

pub(super) async fn alter(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let deleted = body.list(|body| {
        let one = (body.text()?, body.i8()?);
        body.tags()?;
        Ok(one)
    })?;
    let set = body.list(|body| {
        let (name, mechanism, rounds) = (body.text()?, body.i8()?, body.i32()?);
        let bytes = |body: &mut Reader| body.maybe_bytes()?.ok_or(Malformed("bytes are missing"));
        let (salt, salted) = (bytes(body)?, bytes(body)?);
        body.tags()?;
        Ok((name, Set { mechanism, rounds, salt, salted }))
    })?;
    body.tags()?;
    let mut users: BTreeMap<String, Wanted> = BTreeMap::new();
    for (name, mechanism) in deleted {
        users.entry(name).or_default().deleted.push(mechanism);
    }
    for (name, one) in set {
        users.entry(name).or_default().set.push(one);
    }
    let mut results: Vec<(String, Result<(), Refused>)> = Vec::with_capacity(users.len());
    for (name, wanted) in users {
        let result = change(gateway, who, &name, &wanted).await;
        results.push((name, result));
    }
    out.i32(0);
    out.list(results, |out, (name, result)| {
        let (code, why) = result.err().map_or((Code::None, None), |(code, why)| (code, Some(why)));
        out.text(&name);
        out.i16(code.number());
        out.maybe_text(why.filter(|why| !why.is_empty()));
        out.tags();
    });
    out.tags();
    Ok(())
}

/// Changes one user.
async fn change(gateway: &Gateway, who: &Who, name: &str, wanted: &Wanted) -> Result<(), Refused> {
    let mut changes = changes(name, wanted)?;
    let found = gateway.read(|machine| {
        let rights = machine.rights(&who.principal);
        rights.command("acl|setuser").map_err(|_| Code::ClusterAuthorizationFailed)?;
        Ok(machine.user(name.as_bytes()))
    });
    let found = found.await.and_then(|found| found).map_err(|code| (code, ""))?;
    let has = found.as_ref().map_or(Vec::new(), |access| told(access.user()));
    let lacks = |mechanism: &i8| !has.iter().any(|(hash, _)| number(*hash) == *mechanism);
    if wanted.deleted.iter().any(lacks) {
        return Err((Code::ResourceNotFound, "the user has no such credential"));
    }
    if found.is_none() {
        // It may enter, and do nothing until somebody allows it to.
        changes.push(UserChange::Enable { on: true });
    }
    let name = Blob::from(name);
    let body = CommandBody::ChangeUser { name, changes, may_lock_out: gateway.config.door.is_some() };
    match gateway.command(who, body).await.map_err(|code| (error::coordinator(code), ""))? {
        Outcome::Refused { refusal: Refusal::Denied { .. } } => {
            Err((Code::ClusterAuthorizationFailed, "users may not be changed"))
        }
        Outcome::Refused { refusal: Refusal::LockOut {} } => {
            Err((Code::UnacceptableCredential, "nobody could enter and manage users any more"))
        }
        Outcome::Refused { refusal } => Err((error::refusal(&refusal), "")),
        _ => Ok(()),
    }
}

/// What is asked for a user, as changes of it.
fn changes(name: &str, wanted: &Wanted) -> Result<Vec<UserChange>, Refused> {
    let refuse = |why| Err((Code::UnacceptableCredential, why));
    if !door::is_user_name(name.as_bytes()) {
        return refuse(door::USER_NAME);
    }
    if name == DEFAULT_USER {
        return refuse("the user default is whoever has not said who it is: `quorate user` changes it");
    }
    let named: Vec<i8> =
        wanted.deleted.iter().copied().chain(wanted.set.iter().map(|one| one.mechanism)).collect();
    if named.iter().any(|mechanism| hash(*mechanism).is_none()) {
        return Err((Code::UnsupportedSaslMechanism, "wanted SCRAM-SHA-256 (1) or SCRAM-SHA-512 (2)"));
    }
    if named.iter().collect::<BTreeSet<_>>().len() < named.len() {
        return Err((Code::DuplicateResource, "a mechanism is named twice for the user"));
    }
    let deleted = wanted.deleted.iter().filter_map(|mechanism| hash(*mechanism));
    let mut changes: Vec<UserChange> = deleted.map(|hash| UserChange::DropScram { hash }).collect();
    for one in &wanted.set {
        if one.rounds < *ROUNDS.start() {
            return refuse("too few iterations: 4096 at least");
        }
        if one.rounds > *ROUNDS.end() {
            return refuse("too many iterations: 16384 at most");
        }
        if one.salt.is_empty() || one.salt.len() > SALT_BYTES_MAX {
            return refuse("a salt has 1 to 256 bytes");
        }
        let scram = made(one).ok_or((
            Code::UnacceptableCredential,
            "a salted password has as many bytes as the hash: 32 or 64",
        ))?;
        changes.push(UserChange::PutScram { scram });
    }
    Ok(changes)
}

fn made(one: &Set) -> Option<Scram> {
    let (salt, rounds) = (Blob::copy_from(&one.salt), one.rounds.unsigned_abs());
    Some(match hash(one.mechanism)? {
        ScramHash::Sha256 => {
            Scram::Sha256(door::verifier_of_salted::<32>(one.salted.as_ref().try_into().ok()?, salt, rounds))
        }
        ScramHash::Sha512 => {
            Scram::Sha512(door::verifier_of_salted::<64>(one.salted.as_ref().try_into().ok()?, salt, rounds))
        }
    })
}
