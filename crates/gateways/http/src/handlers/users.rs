//! Users: who may do what, over every protocol. A body changes a user; what it does not name stays.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem};
use crate::json::read::{Fields, Node, Read};
use crate::json::write::{Object, Values, list};
use crate::reply::reply;
use quorate_calls::permissions::{Categories, permissions};
use quorate_machine::Access;
use quorate_runtime::door;
use quorate_types::{
    Blob, CommandBody, CommandRule, DEFAULT_USER, Keyspace, NameRule, OpResult, Outcome, UserChange, Verbs,
};

/// Lists users.
pub(crate) async fn index(call: Call) -> Answer {
    let (names, open) = call.read(|machine| (machine.user_names(), machine.door_is_open())).await?;
    let open = open && call.gateway.config.tokens.is_empty();
    let names = names.iter().map(|name| Object::new().bytes("name", name, call.values).done());
    let body = Object::new().text("door", if open { "open" } else { "closed" }).list("users", names);
    Ok(reply(200, body.done()))
}

/// Looks at a user. What is kept of its secrets is told by number only.
pub(crate) async fn get(call: Call) -> Answer {
    let name = call.param("name");
    let found = call.read(|machine| machine.user(&name)).await?;
    match found {
        Some(access) => Ok(reply(200, shown(&access, call.values))),
        None => Err(missing(&name)),
    }
}

fn missing(name: &Blob) -> Problem {
    Problem::not_found("user_missing", format!("there is no user {name}: `quorate user list` names them"))
}

/// A user as JSON.
fn shown(access: &Access, values: Values) -> String {
    let user = access.user();
    let command = |rule: &CommandRule| {
        let text = format!("{}{}", if rule.allow { '+' } else { '-' }, rule.what);
        crate::json::write::quoted(&text)
    };
    let rule = |rule: &NameRule| {
        let verbs = rule.verbs.names().map(crate::json::write::quoted);
        let object = Object::new().list("verbs", verbs).bytes("names", &rule.pattern, values);
        let object = match rule.space {
            Some(space) => object.plain("keyspace", u64::from(space.0)),
            None => object,
        };
        object.done()
    };
    let rules = |allow: bool| user.names.iter().filter(move |rule| rule.allow == allow).map(rule);
    Object::new()
        .bytes("name", access.name(), values)
        .plain("enabled", user.enabled)
        .plain("nopass", user.nopass)
        .plain("passwords", (user.scram.len() + user.sha256.len()) as u64)
        .plain("passwords_without_scram", user.sha256.len() as u64)
        .plain("tokens", user.tokens.len() as u64)
        .json("commands", list(user.commands.iter().map(command)))
        .json("allow", list(rules(true)))
        .json("deny", list(rules(false)))
        .list("roles", user.roles.iter().map(|role| crate::json::write::quoted(&role.to_string())))
        .done()
}

/// What a body asks for, in the order in which it is done.
struct Wanted {
    changes: Vec<UserChange>,
    password: Option<String>,
    token: Option<String>,
}

/// Makes or changes a user.
pub(crate) async fn put(call: Call) -> Answer {
    let name = call.param("name");
    if !door::is_user_name(&name) {
        return Err(Problem::bad_request(door::USER_NAME));
    }
    let Wanted { mut changes, password, token } = call.json(|node| node.object(wanted))?;
    if let Some(password) = password {
        changes.push(UserChange::ForgetPasswords {});
        let made = call.gateway.handle.verifier(password.into(), Vec::new()).await?;
        changes.extend(made.map(|scram| UserChange::AddScram { scram }));
    }
    changes.extend(token.map(|token| UserChange::AddToken { hash: door::sha256(token.as_bytes()) }));
    let may_lock_out = !call.gateway.config.tokens.is_empty();
    let body = CommandBody::ChangeUser { name: name.clone(), changes, may_lock_out };
    match call.send(body).await? {
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        _ => {
            // Applied before it was answered, here or at the leader; as it is now is what is shown.
            let (found, open) = call.read(|machine| (machine.user(&name), machine.door_is_open())).await?;
            let user = found.as_ref().map_or_else(|| "null".into(), |access| shown(access, call.values));
            let open = open && call.gateway.config.tokens.is_empty();
            let door = if open { "open" } else { "closed" };
            Ok(reply(200, Object::new().text("door", door).json("user", user).done()))
        }
    }
}

fn wanted(fields: &mut Fields<'_, '_>) -> Read<Wanted> {
    let mut changes = Vec::new();
    if fields.flag("reset")? {
        changes.push(UserChange::Reset {});
    }
    for what in fields.maybe("forget", |node| node.list(|node| node.text()))?.unwrap_or_default() {
        changes.push(match what.as_str() {
            "passwords" => UserChange::ForgetPasswords {},
            "tokens" => UserChange::ForgetTokens {},
            "names" => UserChange::ForgetNames {},
            "channels" => UserChange::ForgetChannels {},
            "commands" => UserChange::Command { rule: CommandRule { allow: false, what: "@all".into() } },
            _ => {
                return Err(fields.error("forget: known are passwords, tokens, names, channels and commands"));
            }
        });
    }
    if let Some(on) = fields.maybe("enabled", |node| node.boolean())? {
        changes.push(UserChange::Enable { on });
    }
    if let Some(on) = fields.maybe("nopass", |node| node.boolean())? {
        changes.push(UserChange::NoPassword { on });
    }
    let commands = fields.maybe("commands", |node| node.list(command))?.unwrap_or_default();
    changes.extend(commands.into_iter().map(|rule| UserChange::Command { rule }));
    for (member, allow) in [("allow", true), ("deny", false)] {
        let rules =
            fields.maybe(member, |node| node.list(|node| node.object(|fields| name_rule(fields, allow))))?;
        for rule in rules.unwrap_or_default() {
            // What may be done to a name is of no use without the commands that do it.
            let categories = [("@read", Verbs::READ), ("@write", Verbs::WRITE), ("@pubsub", Verbs(12))];
            let needed = categories.into_iter().filter(|(_, verbs)| allow && rule.verbs.any(*verbs));
            changes.extend(needed.map(|(what, _)| UserChange::Command {
                rule: CommandRule { allow: true, what: what.into() },
            }));
            changes.push(UserChange::Name { rule });
        }
    }
    let password = fields.maybe("password", |node| node.text())?;
    if password.as_ref().is_some_and(|password| password.is_empty() || password.len() > 1024) {
        return Err(fields.error("password: wanted 1 to 1024 bytes"));
    }
    let token = fields.maybe("access_token", |node| node.text())?;
    if token.as_ref().is_some_and(|token| token.len() < 16 || token.len() > 1024) {
        return Err(fields.error("access_token: wanted 16 to 1024 bytes, drawn at random"));
    }
    Ok(Wanted { changes, password, token })
}

fn command(node: Node<'_, '_>) -> Read<CommandRule> {
    let text = node.text()?.to_ascii_lowercase();
    let (allow, what) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(what), _) => (true, what),
        (_, Some(what)) => (false, what),
        _ => {
            return Err(
                node.error(format!("\"{text}\": wanted +COMMAND, -COMMAND, +@CATEGORY or -@CATEGORY"))
            );
        }
    };
    let known = match what.strip_prefix('@') {
        Some("all") => true,
        Some(category) => Categories::named(category.as_bytes()).is_some(),
        None => permissions().iter().any(|row| row.name == what || row.name.split('|').next() == Some(what)),
    };
    if !known {
        return Err(
            node.error(format!("\"{what}\" is no command or category: `ACL CAT` over Redis lists them"))
        );
    }
    Ok(CommandRule { allow, what: what.into() })
}

fn name_rule(fields: &mut Fields<'_, '_>, allow: bool) -> Read<NameRule> {
    let mut verbs = Verbs::NONE;
    for verb in fields.need("verbs", |node| node.list(|node| node.text()))? {
        let known = Verbs::named(&verb);
        verbs = verbs.and(known.ok_or_else(|| {
            fields.error(format!("verbs: \"{verb}\" is not known; known: read, write, publish, subscribe"))
        })?);
    }
    let of_channels = verbs.of_channels();
    if verbs == Verbs::NONE || (of_channels && verbs.any(Verbs(3))) {
        return Err(fields
            .error("verbs: wanted read and write, or publish and subscribe, not both kinds in one rule"));
    }
    let pattern = fields.need_name("names", "names_base64")?;
    let space = fields.maybe("keyspace", |node| node.number().map(Keyspace))?;
    Ok(NameRule { allow, verbs, space, pattern })
}

/// Removes a user.
pub(crate) async fn delete(call: Call) -> Answer {
    let name = call.param("name");
    if *name == *DEFAULT_USER.as_bytes() {
        return Err(Problem::bad_request(
            "the user default is not removed: disable it with {\"enabled\":false} to close the door",
        ));
    }
    let may_lock_out = !call.gateway.config.tokens.is_empty();
    match call.send(CommandBody::RemoveUsers { names: vec![name.clone()], may_lock_out }).await? {
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        Outcome::Committed { committed } => match committed.results.first() {
            Some(OpResult::Deleted { count: 1.., .. }) => {
                Ok(reply(200, Object::new().plain("removed", true).done()))
            }
            _ => Err(missing(&name)),
        },
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::User;

    fn read(text: &str) -> Result<User, String> {
        let wanted = crate::json::read::parse(text.as_bytes(), |node| node.object(wanted));
        let mut user = User::default();
        wanted.map_err(|why| why.to_string())?.changes.iter().for_each(|change| user.change(change));
        Ok(user)
    }

    #[test]
    fn what_is_allowed_brings_the_commands_that_do_it() {
        let user = read(r#"{"enabled":true,"allow":[{"verbs":["read"],"names":"orders/*"}],"deny":[{"verbs":["read","write"],"names":"orders/x","keyspace":2}]}"#).unwrap();
        assert!(user.enabled);
        assert_eq!(user.commands, [CommandRule { allow: true, what: "@read".into() }]);
        assert_eq!(
            user.names[0],
            NameRule { allow: true, verbs: Verbs::READ, space: None, pattern: "orders/*".into() }
        );
        assert_eq!(
            user.names[1],
            NameRule { allow: false, verbs: Verbs(3), space: Some(Keyspace(2)), pattern: "orders/x".into() }
        );
    }

    #[test]
    fn a_body_that_asks_for_what_there_is_not_says_so() {
        for (body, why) in [
            (r#"{"commands":["get"]}"#, "wanted +COMMAND"),
            (r#"{"commands":["+nope"]}"#, "no command or category"),
            (r#"{"commands":["+@nope"]}"#, "no command or category"),
            (r#"{"allow":[{"verbs":["eat"],"names":"*"}]}"#, "not known; known: read"),
            (r#"{"allow":[{"verbs":[],"names":"*"}]}"#, "not both kinds"),
            (r#"{"allow":[{"verbs":["read","publish"],"names":"*"}]}"#, "not both kinds"),
            (r#"{"forget":["everything"]}"#, "known are passwords"),
            (r#"{"password":""}"#, "1 to 1024"),
            (r#"{"access_token":"short"}"#, "16 to 1024"),
            (r#"{"pasword":"x"}"#, "pasword"),
        ] {
            let found = read(body).unwrap_err();
            assert!(found.contains(why), "{body}: {found}");
        }
    }
}
