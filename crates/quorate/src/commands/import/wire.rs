//! One connection to a server that speaks the Redis protocol: pipelines, errors as text, reconnecting.
//!
//! Invariant: a reply that is an error is a value here; only a connection that broke, or was never made, is an `Err`.
//! Invariant: no password is ever part of a message.
//! Called by: everything in `import`.

use crate::failure::{Exit, Failure};
use redis::{Connection, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, Value};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server that is gone is looked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Wait between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

/// A command: its words.
pub(super) type Words = Vec<Vec<u8>>;

/// Builds a command of text and bytes.
pub(super) fn words(parts: &[&[u8]]) -> Words {
    parts.iter().map(|part| part.to_vec()).collect()
}

/// Where a server is, and who asks.
#[derive(Clone)]
pub(super) struct Place {
    info: ConnectionInfo,
    client: redis::Client,
    /// As messages name it.
    pub(super) shown: String,
    /// The database that the URL names.
    pub(super) database: Option<i64>,
}

impl Place {
    /// Reads `redis://[user:password@]host[:port][/database]` or `rediss://…`; `ca` names a PEM file of authorities to trust.
    pub(super) fn parse(url: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        // The URL may hold a password: it is not repeated.
        let wrong = |why: String| {
            Failure::new(
                Exit::Usage,
                format!("this is no URL of a Redis server: {why}"),
                "write redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss://… for TLS",
            )
        };
        if !["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(wrong("it begins with neither redis:// nor rediss://".into()));
        }
        let info = url.into_connection_info().map_err(|error| wrong(error.to_string()))?;
        let shown = info.addr.to_string();
        let after_host = url.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_host.split_once('/').map_or("", |(_, path)| path);
        let named = !path.trim_matches('/').is_empty();
        let database = named.then_some(info.redis.db);
        let client = match (&info.addr, ca) {
            (ConnectionAddr::TcpTls { .. }, Some(path)) => {
                let pem = std::fs::read(path)
                    .map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
                let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(pem) };
                redis::Client::build_with_tls(info.clone(), certificates)
            }
            _ => redis::Client::open(info.clone()),
        };
        let client = client.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { info, client, shown, database })
    }

    /// Whether bytes travel encrypted.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.info.addr, ConnectionAddr::TcpTls { .. })
    }

    /// A connection, made when it is first used.
    pub(super) fn wire(&self) -> Wire {
        Wire { place: self.clone(), database: self.info.redis.db, open: None }
    }
}

/// A connection broke.
#[derive(Debug)]
pub(super) struct Lost {
    /// Why.
    pub(super) why: String,
    /// What the server said before it closed.
    pub(super) said: Option<String>,
    /// The server refuses whoever asks: trying again does not help.
    pub(super) refused: bool,
    /// Commands may have reached the server.
    pub(super) sent: bool,
}

impl Lost {
    /// The server is there, and cannot do it now.
    pub(super) fn later(why: String) -> Self {
        Self { why, said: None, refused: false, sent: true }
    }
}

/// A reply: a value, or the text of an error.
pub(super) type Answer = Result<Value, String>;

/// A connection.
pub(super) struct Wire {
    pub(super) place: Place,
    database: i64,
    open: Option<Connection>,
}

impl Wire {
    /// Later commands are about this database.
    pub(super) fn choose(&mut self, database: i64) {
        if self.database != database {
            self.database = database;
            self.open = None;
        }
    }

    /// Sends commands in one go, and reads their replies.
    ///
    /// # Errors
    /// [`Lost`]: some of them may have taken effect.
    pub(super) fn ask(&mut self, commands: &[Words]) -> Result<Vec<Answer>, Lost> {
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(redis::pack_command(command));
        }
        let sent = connection.send_packed_command(&bytes);
        let mut answers = Vec::with_capacity(commands.len());
        let mut said = None;
        for _ in commands {
            match connection.recv_response() {
                Ok(Value::ServerError(error)) => {
                    let text = match error.details() {
                        Some(detail) => format!("{} {detail}", error.code()),
                        None => error.code().to_owned(),
                    };
                    said = Some(text.clone());
                    answers.push(Err(text));
                }
                Ok(value) => answers.push(Ok(value)),
                Err(error) => return Err(Lost { why: broken(&error), said, refused: false, sent: true }),
            }
        }
        sent.map_err(|error| Lost { why: broken(&error), said, refused: false, sent: true })?;
        self.open = Some(connection);
        Ok(answers)
    }

    /// Sends commands that may be sent twice, again and again while the server is away for a while.
    pub(super) fn ask_again(&mut self, commands: &[Words]) -> Result<Vec<Answer>, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.ask(commands) {
                Ok(answers) => return Ok(answers),
                Err(lost) if lost.refused || Instant::now() >= until => return Err(self.gone(&lost)),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Sends one command, whose reply must not be an error.
    pub(super) fn ask_one(&mut self, parts: &[&[u8]]) -> Result<Value, Failure> {
        let answer = self.ask(&[words(parts)]).map_err(|lost| self.gone(&lost))?.pop();
        answer.unwrap_or_else(|| Err("no reply".into())).map_err(|text| {
            let name = String::from_utf8_lossy(parts.first().copied().unwrap_or_default()).into_owned();
            Failure::new(Exit::Refused, format!("{} refuses {name}: {text}", self.place.shown), "")
        })
    }

    /// The same, of a reply that may be an error.
    pub(super) fn try_one(&mut self, parts: &[&[u8]]) -> Result<Answer, Failure> {
        let mut answers = self.ask_again(&[words(parts)])?;
        Ok(answers.pop().unwrap_or_else(|| Err("no reply".into())))
    }

    /// What a lost connection means for the whole command.
    pub(super) fn gone(&self, lost: &Lost) -> Failure {
        let shown = &self.place.shown;
        if lost.refused {
            let next = "check user and password in the URL: redis://USER:PASSWORD@HOST:PORT";
            return Failure::new(Exit::Refused, format!("{shown} lets nobody in: {}", lost.why), next);
        }
        let scheme = if self.place.is_tls() {
            "it is asked for TLS (rediss://)"
        } else {
            "it is asked without TLS (redis://)"
        };
        Failure::new(
            Exit::Unreachable,
            format!("{shown} does not answer: {}", lost.why),
            format!("check that a server listens there; {scheme}"),
        )
    }

    fn connect(&self) -> Result<Connection, Lost> {
        let mut info = self.place.client.get_connection_info().clone();
        info.redis.db = self.database;
        let client = redis::Client::open(info).map_err(|error| Lost {
            why: broken(&error),
            said: None,
            refused: true,
            sent: false,
        })?;
        let connected = client.get_connection_with_timeout(CONNECT_TIMEOUT).and_then(|connection| {
            connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
            connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
            Ok(connection)
        });
        connected.map_err(|error| {
            let code = error.code().unwrap_or_default();
            let refused = error.kind() == ErrorKind::AuthenticationFailed
                || matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
                || (error.kind() == ErrorKind::ResponseError && !error.is_io_error());
            Lost { why: broken(&error), said: None, refused, sent: false }
        })
    }
}

fn broken(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) if !error.to_string().contains(detail) => format!("{error} ({detail})"),
        _ => error.to_string(),
    }
}

/// A text or bytes.
pub(super) fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        Value::SimpleString(text) => Some(text.clone().into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        Value::Okay => Some(b"OK".to_vec()),
        _ => None,
    }
}

/// A text.
pub(super) fn text_of(value: &Value) -> Option<String> {
    bytes_of(value).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// A whole number, also one that is text.
pub(super) fn number_of(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text_of(other)?.parse().ok(),
    }
}

/// The items of an array.
pub(super) fn items_of(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        Value::Map(pairs) => Some(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect()),
        _ => None,
    }
}

/// The bytes of every item of an array.
pub(super) fn list_of(value: Value) -> Option<Vec<Vec<u8>>> {
    items_of(value)?
        .into_iter()
        .map(|item| match item {
            Value::BulkString(bytes) => Some(bytes),
            other => bytes_of(&other),
        })
        .collect()
}

/// The text of an error, also of one inside EXEC's array.
pub(super) fn error_of(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) => Some(match error.details() {
            Some(detail) => format!("{} {detail}", error.code()),
            None => error.code().to_owned(),
        }),
        _ => None,
    }
}

/// A member of an array of names and values.
pub(super) fn member(of: &[Value], name: &str) -> Option<Value> {
    of.chunks_exact(2).find(|pair| text_of(&pair[0]).as_deref() == Some(name)).map(|pair| pair[1].clone())
}

/// Whether an error passes by itself when the command is sent again.
pub(super) fn passes(error: &str) -> bool {
    ["CLUSTERDOWN", "LOADING", "TRYAGAIN", "INDETERMINATE", "MASTERDOWN", "BUSY "]
        .iter()
        .any(|code| error.starts_with(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_a_host_and_perhaps_the_rest_and_its_password_is_never_shown() {
        let place = Place::parse("redis://me:secret@localhost:7000/3", None).unwrap();
        assert_eq!((place.shown.as_str(), place.database), ("localhost:7000", Some(3)));
        let place = Place::parse("redis://127.0.0.1", None).unwrap();
        assert_eq!((place.shown.as_str(), place.database, place.is_tls()), ("127.0.0.1:6379", None, false));
        assert!(Place::parse("rediss://example:6380/", None).unwrap().is_tls());
        for bad in
            ["localhost:6379", "http://x", "redis://secret@", "redis://:secret@host/x", "redis://h:secret"]
        {
            let failure = Place::parse(bad, None).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(!failure.to_string().contains("secret"), "{failure}");
        }
    }

    #[test]
    fn an_error_that_passes_is_told_from_one_that_stays() {
        assert!(passes("CLUSTERDOWN no leader") && passes("INDETERMINATE the node stopped"));
        assert!(!passes("WRONGTYPE Operation") && !passes("ERR syntax error") && !passes("BUSYKEY x"));
    }
}
