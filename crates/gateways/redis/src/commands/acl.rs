//! ACL: the users of all gateways in Redis' language of rules.
//!
//! Users are state, changed by logged commands: what SETUSER has answered is in force on every node that has applied it, and needs no SAVE.
//! What Redis cannot say of a user (a denial, a rule of one keyspace only) is shown with a sign that SETUSER does not take, and stays when Redis'
//! words change the rest.
//!
//! Invariant: a modifier that the model cannot hold is refused, and then nothing of its command is done.
//! Called by: `commands::run`.

use super::own;
use crate::connection::Connection;
use crate::error;
use crate::resp;
use quorate_calls::permission;
use quorate_calls::permissions::{CATEGORIES, Categories, permissions};
use quorate_machine::{Access, Rights};
use quorate_runtime::door;
use quorate_types::{
    Blob, CommandBody, CommandRule, DEFAULT_USER, Denied, Digest, NameRule, OpResult, Outcome, Principal,
    Reply, Scram, User, UserChange, Verbs,
};
use std::sync::Arc;

pub(super) async fn run(connection: &mut Connection, name: &'static str, words: &[Blob]) -> Reply {
    let done = match name {
        "acl|whoami" => Ok(Reply::bulk(crate::client::user(&connection.state.who.principal))),
        "acl|cat" => cat(words.get(2)),
        "acl|genpass" => genpass(&words[2..]),
        "acl|users" => {
            names(connection).map(|names| Reply::array(names.into_iter().map(Reply::bulk).collect()))
        }
        "acl|list" => list(connection),
        "acl|getuser" => getuser(connection, &words[2]),
        "acl|setuser" => setuser(connection, &words[2], &words[3..]).await,
        "acl|deluser" => deluser(connection, &words[2..]).await,
        "acl|dryrun" => dryrun(connection, &words[2], &words[3..]),
        "acl|log" => log(connection, words.get(2)),
        "acl|help" => Ok(Reply::array(HELP.iter().map(|line| Reply::status(*line)).collect())),
        _ => Err(Reply::error(
            "ERR users are in the replicated log already: what ACL SETUSER has answered is kept, there is no ACL file to load or save",
        )),
    };
    done.unwrap_or_else(|refused| refused)
}

const HELP: &[&str] = &[
    "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAT [<category>]",
    "    List all commands of a category, or all categories.",
    "DELUSER <username> [<username> ...]",
    "    Remove users; their connections end.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Whether the user may run the command, without running it.",
    "GENPASS [<bits>]",
    "    A secret drawn at random.",
    "GETUSER <username>",
    "    What a user may do.",
    "LIST",
    "    All users with their rules.",
    "LOG [<count> | RESET]",
    "    What was refused on this node.",
    "SETUSER <username> <attribute> [<attribute> ...]",
    "    Make or change a user, for every gateway of every node.",
    "USERS",
    "    The names of all users.",
    "WHOAMI",
    "    The user of this connection.",
];

fn user(connection: &Connection, name: &Blob) -> Result<Option<Arc<Access>>, Reply> {
    connection.gateway.handle.user(name).map_err(|why| error::runtime(&why))
}

fn names(connection: &Connection) -> Result<Vec<Blob>, Reply> {
    connection.gateway.handle.user_names().map_err(|why| error::runtime(&why))
}

fn cat(category: Option<&Blob>) -> Result<Reply, Reply> {
    let Some(category) = category else {
        return Ok(Reply::array(CATEGORIES.iter().map(|name| Reply::bulk(*name)).collect()));
    };
    let Some(wanted) = Categories::named(category) else {
        return Err(Reply::error(format!("ERR Unknown category '{}'", String::from_utf8_lossy(category))));
    };
    let of = permissions().iter().filter(|row| row.categories.has(wanted));
    Ok(Reply::array(of.map(|row| Reply::bulk(row.name)).collect()))
}

fn genpass(words: &[Blob]) -> Result<Reply, Reply> {
    let bits = match words {
        [] => Some(256),
        [bits] => resp::integer(bits).and_then(|bits| usize::try_from(bits).ok()),
        _ => return Err(Reply::error("ERR wrong number of arguments for 'acl|genpass' command")),
    };
    let Some(bits @ 1..=4096) = bits else {
        return Err(Reply::error(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
        ));
    };
    let digits = bits.div_ceil(4);
    let mut text = door::secret(digits.div_ceil(2)).map_err(|why| error::runtime(&why))?;
    text.truncate(digits);
    Ok(Reply::bulk(text))
}

fn list(connection: &Connection) -> Result<Reply, Reply> {
    let mut lines = Vec::new();
    for name in names(connection)? {
        if let Some(access) = user(connection, &name)? {
            lines.push(Reply::bulk(line(access.user(), &name)));
        }
    }
    Ok(Reply::array(lines))
}

/// A user as a line of ACL LIST.
fn line(user: &User, name: &Blob) -> String {
    let mut words = vec!["user".to_owned(), String::from_utf8_lossy(name).into_owned()];
    words.extend(flags(user));
    words.extend(user.sha256.iter().map(|hash| format!("#{}", hex(&hash.0))));
    words.extend(user.scram.iter().map(shown));
    words.extend(Some(keys(user)).filter(|keys| !keys.is_empty()));
    let channels = channels(user);
    if channels != "&*" {
        words.push("resetchannels".into());
    }
    words.extend(Some(channels).filter(|channels| !channels.is_empty()));
    words.push(commands(user));
    words.join(" ")
}

fn flags(user: &User) -> Vec<String> {
    let mut flags = vec![if user.enabled { "on".to_owned() } else { "off".to_owned() }];
    flags.extend(user.nopass.then(|| "nopass".to_owned()));
    flags.push("sanitize-payload".to_owned());
    // Roles that etcd's clients gave it; Redis has no word for them.
    flags.extend(user.roles.iter().map(|role| format!("role:{role}")));
    flags
}

/// A verifier by what tells it from others; nobody can guess a password with that.
fn shown(scram: &Scram) -> String {
    match scram {
        Scram::Sha256(by) | Scram::Both(by, _) => {
            format!("SCRAM-SHA-256${}:{}", by.iterations, hex(&by.salt))
        }
        Scram::Sha512(by) => format!("SCRAM-SHA-512${}:{}", by.iterations, hex(&by.salt)),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn commands(user: &User) -> String {
    let mut words = Vec::new();
    if user.commands.first().is_none_or(|rule| *rule.what != *b"@all") {
        words.push("-@all".to_owned());
    }
    words.extend(user.commands.iter().map(|rule| format!("{}{}", sign(rule.allow), rule.what)));
    words.join(" ")
}

fn sign(allow: bool) -> char {
    if allow { '+' } else { '-' }
}

/// Rules about names; a denial begins with `!`, and a rule of one keyspace says which before its pattern.
fn keys(user: &User) -> String {
    let rules = user.names.iter().filter(|rule| !rule.verbs.of_channels());
    let shown = rules.map(|rule| {
        let verbs = match (rule.verbs.has(Verbs::READ), rule.verbs.has(Verbs::WRITE)) {
            (true, false) => "%R",
            (false, true) => "%W",
            _ => "",
        };
        let space = rule.space.map(|space| format!("{{{}}}", space.0)).unwrap_or_default();
        format!("{}{verbs}~{space}{}", denial(rule), String::from_utf8_lossy(&rule.pattern))
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn channels(user: &User) -> String {
    let rules = user.names.iter().filter(|rule| rule.verbs.of_channels());
    let shown = rules.map(|rule| {
        let verbs = match (rule.verbs.has(Verbs::PUBLISH), rule.verbs.has(Verbs::SUBSCRIBE)) {
            (true, false) => "%P",
            (false, true) => "%S",
            _ => "",
        };
        format!("{}{verbs}&{}", denial(rule), String::from_utf8_lossy(&rule.pattern))
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn denial(rule: &NameRule) -> &'static str {
    if rule.allow { "" } else { "!" }
}

fn getuser(connection: &Connection, name: &Blob) -> Result<Reply, Reply> {
    let Some(access) = user(connection, name)? else { return Ok(Reply::Nil) };
    let user = access.user();
    let hashes = user.sha256.iter().map(|hash| hex(&hash.0));
    let passwords = hashes.chain(user.scram.iter().map(shown)).map(Reply::bulk);
    Ok(Reply::map(vec![
        Reply::bulk("flags"),
        Reply::set(flags(user).into_iter().map(Reply::bulk).collect()),
        Reply::bulk("passwords"),
        Reply::array(passwords.collect()),
        Reply::bulk("commands"),
        Reply::bulk(commands(user)),
        Reply::bulk("keys"),
        Reply::bulk(keys(user)),
        Reply::bulk("channels"),
        Reply::bulk(channels(user)),
        Reply::bulk("selectors"),
        Reply::array(vec![]),
    ]))
}

/// What a modifier asks for.
#[derive(Debug, PartialEq, Eq)]
enum Modifier {
    Changes(Vec<UserChange>),
    AddPassword(Blob),
    RemovePassword(Blob),
}

async fn setuser(connection: &mut Connection, name: &Blob, modifiers: &[Blob]) -> Result<Reply, Reply> {
    if name.iter().any(|byte| matches!(byte, b' ' | 0)) {
        return Err(Reply::error("ERR Usernames can't contain spaces or null characters"));
    }
    // What the changes come to is followed here, because a modifier may be wrong after another one.
    let mut after = user(connection, name)?.map(|access| access.user().clone()).unwrap_or_default();
    let mut changes = Vec::new();
    for word in modifiers {
        let wrong = |why: &str| {
            let shown = if matches!(word.first(), Some(b'>' | b'<')) {
                "(redacted)".into()
            } else {
                String::from_utf8_lossy(word)
            };
            Reply::error(format!("ERR Error in ACL SETUSER modifier '{shown}': {why}"))
        };
        let next = match modifier(&after, word).map_err(|why| wrong(&why))? {
            Modifier::Changes(changes) => changes,
            Modifier::AddPassword(password) => add_password(connection, &after, password).await?,
            Modifier::RemovePassword(password) => {
                vec![remove_password(&after, &password).ok_or_else(|| {
                    wrong("The password you are trying to remove from the user does not exist")
                })?]
            }
        };
        next.iter().for_each(|change| after.change(change));
        changes.extend(next);
    }
    let may_lock_out = connection.gateway.config.door.is_some();
    let body = CommandBody::ChangeUser { name: name.clone(), changes, may_lock_out };
    match connection.gateway.command(&connection.state.who, body).await? {
        Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
        _ => Ok(Reply::ok()),
    }
}

async fn add_password(
    connection: &Connection,
    user: &User,
    password: Blob,
) -> Result<Vec<UserChange>, Reply> {
    let known = user.scram.clone();
    let made = connection.gateway.handle.verifier(password, known).await;
    let added = made.map_err(|why| error::runtime(&why))?;
    // One that is a password already only ends that none is needed.
    Ok(added.map_or_else(
        || vec![UserChange::NoPassword { on: false }],
        |scram| vec![UserChange::AddScram { scram }],
    ))
}

fn remove_password(user: &User, password: &Blob) -> Option<UserChange> {
    let hash = door::sha256(password);
    if user.sha256.contains(&hash) {
        return Some(UserChange::RemoveSha256 { hash });
    }
    let scram = user.scram.iter().find(|scram| door::verifies(scram, password))?;
    Some(UserChange::RemoveScram { stored_key: scram.mark() })
}

const KEYS: Verbs = Verbs(3);
const CHANNELS: Verbs = Verbs(12);

/// Reads one modifier. What is wrong with it is said in Redis' words.
fn modifier(user: &User, word: &Blob) -> Result<Modifier, String> {
    let syntax = || "Syntax error".to_owned();
    let lower = String::from_utf8_lossy(word).to_ascii_lowercase();
    let one = |change| Ok(Modifier::Changes(vec![change]));
    match lower.as_str() {
        "on" => return one(UserChange::Enable { on: true }),
        "off" => return one(UserChange::Enable { on: false }),
        "nopass" => return one(UserChange::NoPassword { on: true }),
        "resetpass" => return one(UserChange::ForgetPasswords {}),
        "reset" => return one(UserChange::Reset {}),
        "allkeys" => return Ok(Modifier::Changes(all(user, KEYS))),
        "resetkeys" => return Ok(Modifier::Changes(without(user, KEYS))),
        "allchannels" => return Ok(Modifier::Changes(all(user, CHANNELS))),
        "resetchannels" => return Ok(Modifier::Changes(without(user, CHANNELS))),
        "allcommands" => return one(rule(true, "@all")),
        "nocommands" => return one(rule(false, "@all")),
        // There are no selectors, and nothing is restored from a payload that would have to be looked through.
        "clearselectors" | "sanitize-payload" | "skip-sanitize-payload" => {
            return Ok(Modifier::Changes(vec![]));
        }
        _ => {}
    }
    let (Some(first), rest) = (word.first().copied(), word.get(1..).unwrap_or_default()) else {
        return Err(syntax());
    };
    match first {
        b'>' => Ok(Modifier::AddPassword(Blob::copy_from(rest))),
        b'<' => Ok(Modifier::RemovePassword(Blob::copy_from(rest))),
        b'#' => one(UserChange::AddSha256 { hash: hash(rest)? }),
        b'!' => {
            let hash = hash(rest)?;
            if !user.sha256.contains(&hash) {
                return Err("The password you are trying to remove from the user does not exist".into());
            }
            one(UserChange::RemoveSha256 { hash })
        }
        b'~' => pattern(user, KEYS, rest, KEYS),
        b'%' => {
            let at = rest.iter().position(|byte| *byte == b'~').ok_or_else(syntax)?;
            let mut verbs = Verbs::NONE;
            for flag in &rest[..at] {
                verbs = verbs.and(match flag.to_ascii_uppercase() {
                    b'R' => Verbs::READ,
                    b'W' => Verbs::WRITE,
                    _ => return Err(syntax()),
                });
            }
            if verbs == Verbs::NONE {
                return Err(syntax());
            }
            pattern(user, verbs, &rest[at + 1..], KEYS)
        }
        b'&' => pattern(user, CHANNELS, rest, CHANNELS),
        b'+' | b'-' => {
            let what = command(rest)?;
            one(UserChange::Command { rule: CommandRule { allow: first == b'+', what } })
        }
        b'(' => Err("selectors are not kept here: make a user for each set of rules".into()),
        _ => Err(syntax()),
    }
}

fn rule(allow: bool, what: &str) -> UserChange {
    UserChange::Command { rule: CommandRule { allow, what: what.into() } }
}

/// Rules of a kind that Redis can say are taken back; others stay.
fn without(user: &User, kind: Verbs) -> Vec<UserChange> {
    let own = user.names.iter().filter(|rule| rule.verbs.any(kind) && rule.allow);
    own.cloned().map(|rule| UserChange::RemoveName { rule }).collect()
}

fn all(user: &User, kind: Verbs) -> Vec<UserChange> {
    let mut changes = without(user, kind);
    let rule = NameRule { allow: true, verbs: kind, space: None, pattern: "*".into() };
    changes.push(UserChange::Name { rule });
    changes
}

/// A pattern; of the same pattern, what was allowed before stays allowed.
fn pattern(user: &User, verbs: Verbs, pattern: &[u8], kind: Verbs) -> Result<Modifier, String> {
    if pattern == b"*" && verbs == kind {
        return Ok(Modifier::Changes(all(user, kind)));
    }
    let allows = |rule: &&NameRule| rule.allow && rule.space.is_none() && rule.verbs.any(kind);
    let of =
        |pattern: &[u8]| user.names.iter().filter(allows).find(|rule| *rule.pattern == *pattern).cloned();
    if of(b"*").is_some_and(|rule| rule.verbs.has(kind)) {
        let (what, flag, list, reset) = if kind == KEYS {
            ("pattern", "allkeys", "patterns", "resetkeys")
        } else {
            ("pattern", "allchannels", "channels", "resetchannels")
        };
        return Err(format!(
            "Adding a {what} after the * pattern (or the '{flag}' flag) is not valid and does not have any effect. Try '{reset}' to start with an empty list of {list}"
        ));
    }
    let mut changes = Vec::new();
    let mut verbs = verbs;
    if let Some(before) = of(pattern) {
        verbs = verbs.and(before.verbs);
        changes.push(UserChange::RemoveName { rule: before });
    }
    let rule = NameRule { allow: true, verbs, space: None, pattern: Blob::copy_from(pattern) };
    changes.push(UserChange::Name { rule });
    Ok(Modifier::Changes(changes))
}

fn hash(hex: &[u8]) -> Result<Digest, String> {
    let wrong =
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: Option<Vec<u8>> = hex.iter().map(digit).collect();
    let digits = digits.filter(|digits| digits.len() == 64).ok_or(wrong)?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(Digest(bytes))
}

/// A command or category that a rule names.
fn command(word: &[u8]) -> Result<Blob, String> {
    let unknown = || Err("Unknown command or category name in ACL".to_owned());
    let lower = word.to_ascii_lowercase();
    if let Some(category) = lower.strip_prefix(b"@") {
        let known = category == b"all" || Categories::named(category).is_some();
        return if known { Ok(lower.into()) } else { unknown() };
    }
    let is_container =
        |name: &[u8]| permissions().iter().any(|row| row.name.as_bytes().starts_with(&[name, b"|"].concat()));
    match lower.iter().position(|byte| *byte == b'|') {
        _ if permission(&lower).is_some() || is_container(&lower) => Ok(lower.into()),
        Some(at) if permission(&lower[..at]).is_some() && !is_container(&lower[..at]) => {
            Err("rules about a command's first argument are not kept here: allow the whole command".into())
        }
        _ => unknown(),
    }
}

async fn deluser(connection: &mut Connection, names: &[Blob]) -> Result<Reply, Reply> {
    if names.iter().any(|name| **name == *DEFAULT_USER.as_bytes()) {
        return Err(Reply::error("ERR The 'default' user cannot be removed"));
    }
    let may_lock_out = connection.gateway.config.door.is_some();
    let body = CommandBody::RemoveUsers { names: names.to_vec(), may_lock_out };
    match connection.gateway.command(&connection.state.who, body).await? {
        Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
        Outcome::Committed { committed } => match committed.results.first() {
            Some(OpResult::Deleted { count, .. }) => {
                Ok(Reply::integer(i64::try_from(*count).unwrap_or(i64::MAX)))
            }
            _ => Ok(Reply::integer(0)),
        },
        _ => Ok(Reply::integer(0)),
    }
}

fn dryrun(connection: &Connection, name: &Blob, words: &[Blob]) -> Result<Reply, Reply> {
    let Some(access) = user(connection, name)? else {
        return Err(Reply::error(format!("ERR User '{}' not found", String::from_utf8_lossy(name))));
    };
    let unknown = || Reply::error(format!("ERR Command '{}' not found", String::from_utf8_lossy(&words[0])));
    let (command, spec) = match quorate_calls::check(words) {
        Ok(spec) if !matches!(spec.kind, quorate_calls::Kind::Connection) && !super::is_ours(spec.name) => {
            (spec.name, Some(spec))
        }
        found => match (own(words), found) {
            (Some(Ok(name)), _) => (name, None),
            (Some(Err(reply)), _) => return Err(reply),
            (None, Err(refused)) if refused.text().starts_with(b"ERR wrong number") => {
                return Err(Reply::Error { text: refused.text().clone() });
            }
            (None, _) => return Err(unknown()),
        },
    };
    let rights: Rights = access.as_if_enabled();
    let space = connection.state.session.space;
    Ok(match crate::acl::allowed(&rights, space, command, spec, words) {
        Ok(()) => Reply::ok(),
        Err(denied) => Reply::bulk(verbose(&denied)),
    })
}

fn verbose(denied: &Denied) -> String {
    let user = String::from_utf8_lossy;
    match denied {
        Denied::Gone { user: name } => format!("User {} is disabled", user(name)),
        Denied::Command { user: name, command } => {
            format!("User {} has no permissions to run the '{command}' command", user(name))
        }
        Denied::Name { user: name, name: key, .. } => {
            format!("User {} has no permissions to access the '{}' key", user(name), user(&key.name))
        }
        Denied::Channel { user: name, channel, .. } => {
            format!("User {} has no permissions to access the '{}' channel", user(name), user(channel))
        }
    }
}

fn log(connection: &Connection, word: Option<&Blob>) -> Result<Reply, Reply> {
    let log = &connection.gateway.acl_log;
    match word {
        None => Ok(log.newest(10)),
        Some(word) if word.eq_ignore_ascii_case(b"reset") => {
            log.clear();
            Ok(Reply::ok())
        }
        Some(word) => {
            let count = resp::integer(word);
            let count = count.ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))?;
            Ok(log.newest(usize::try_from(count).unwrap_or_default()))
        }
    }
}

/// The user of a principal that this gateway let in; an operator's name is its own.
pub(crate) fn shown_name(principal: &Principal) -> String {
    let name = principal.user().unwrap_or(&principal.0);
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(modifiers: &str) -> Result<User, String> {
        let mut user = User::default();
        for word in modifiers.split(' ') {
            match modifier(&user, &word.into())? {
                Modifier::Changes(changes) => changes.iter().for_each(|change| user.change(change)),
                other => panic!("{other:?} needs a connection"),
            }
        }
        Ok(user)
    }

    /// As redis-server 8.2.3 shows the same modifiers.
    #[test]
    fn rules_are_shown_as_redis_shows_them() {
        for (modifiers, shown) in [
            ("on", "user u on sanitize-payload resetchannels -@all"),
            ("on ~k* +get", "user u on sanitize-payload ~k* resetchannels -@all +get"),
            ("nopass allkeys allchannels allcommands", "user u off nopass sanitize-payload ~* &* +@all"),
            (
                "%R~x %W~y %RW~z &ch* &x +@all -get +@read +config|get -config",
                "user u off sanitize-payload %R~x %W~y ~z resetchannels &ch* &x +@all -get +@read -config",
            ),
            ("%R~x %W~x", "user u off sanitize-payload ~x resetchannels -@all"),
            ("~a ~* resetkeys %W~b", "user u off sanitize-payload %W~b resetchannels -@all"),
            ("+@all ~* &* reset", "user u off sanitize-payload resetchannels -@all"),
            ("+GET -@ALL +SET", "user u off sanitize-payload resetchannels -@all +set"),
        ] {
            assert_eq!(line(&after(modifiers).unwrap(), &"u".into()), shown, "{modifiers}");
        }
    }

    #[test]
    fn what_is_no_rule_is_said_in_redis_words() {
        let unknown = "Unknown command or category name in ACL";
        let hash = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
        for (modifiers, why) in [
            ("foo", "Syntax error"),
            ("", "Syntax error"),
            ("+nope", unknown),
            ("+@nope", unknown),
            ("+config|nope", unknown),
            ("+get|x", "first argument"),
            ("#zz", hash),
            ("%X~q", "Syntax error"),
            ("%~q", "Syntax error"),
            ("~* ~a", "after the * pattern (or the 'allkeys' flag)"),
            ("&* &a", "after the * pattern (or the 'allchannels' flag)"),
            ("(+get", "selectors are not kept here"),
        ] {
            let found = after(modifiers).unwrap_err();
            assert!(found.contains(why), "{modifiers}: {found}");
        }
    }

    #[test]
    fn a_denial_that_redis_cannot_say_outlives_its_words() {
        let mut user = after("~a*").unwrap();
        let rule = NameRule { allow: false, verbs: KEYS, space: None, pattern: "ab*".into() };
        user.change(&UserChange::Name { rule: rule.clone() });
        let Ok(Modifier::Changes(changes)) = modifier(&user, &"allkeys".into()) else { panic!("changes") };
        changes.iter().for_each(|change| user.change(change));
        assert_eq!(keys(&user), "!~ab* ~*");
        assert!(user.names.contains(&rule));
    }
}
