//! The client: commits, keys, ranges, streams, limits.
//!
//! Invariant: two calls of a method are two requests; only tries of one call share an idempotency key.
//! Called by: programs. Read [`Client::commit`] first.

use crate::commit::{Commit, bytes_of, named};
use crate::error::ClientError;
use crate::session::Session;
use crate::transport::{Ask, Options, Reply, Transport, encoded, new_key};
use crate::watch::Watch;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A client of one server or of several of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    consistency: Consistency,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every commit answered before it began, to whomever. The default.
    #[default]
    Linearizable,
    /// It sees every commit answered so long before it began; whole milliseconds.
    Bounded(Duration),
    /// It sees what the node that answers has applied. Two reads may answer out of order when they reach different nodes.
    Stale,
}

impl Consistency {
    /// Its query parameters, behind `mark`.
    fn query(self, mark: char) -> String {
        match self {
            Self::Linearizable => String::new(),
            Self::Bounded(most) => format!("{mark}consistency=bounded&max_staleness={}ms", most.as_millis()),
            Self::Stale => format!("{mark}consistency=stale"),
        }
    }
}

/// A commit that took effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The revision after it.
    pub revision: u64,
    /// Whether the `else` list ran, because a guard failed.
    pub otherwise: bool,
    /// A result for each operation, in order, as the server writes it.
    pub results: Vec<Value>,
    /// Whether this is the answer of an earlier try.
    pub replayed: bool,
}

/// A key with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Bytes,
    /// Writes since its creation.
    pub version: u64,
    /// Revision of its creation.
    pub create_revision: u64,
    /// Revision of its last write.
    pub mod_revision: u64,
    /// The lease it hangs on; 0 for none.
    pub lease: u64,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// Nothing: the key does not exist.
    Absent,
    /// The key as it was last written at this revision.
    ModRevision(u64),
}

/// Where a record was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
}

/// Records that were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, as the server writes them: `offset`, `time`, `key`, `value`, `headers`.
    pub records: Vec<Value>,
    /// Where to read on.
    pub next: u64,
}

/// What a limit answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was taken; so many units are left.
    Yes {
        /// Units left.
        remaining: u64,
    },
    /// Too little is left.
    No {
        /// When the same could pass; nothing when it never can.
        retry_after: Option<Duration>,
    },
}

impl Client {
    /// A client of these servers, such as `http://127.0.0.1:8400`.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Tls`]. Nothing is sent yet.
    pub fn new<U: Into<String>>(servers: impl IntoIterator<Item = U>) -> Result<Self, ClientError> {
        Self::with(servers, Options::default())
    }

    /// As [`Self::new`], with options.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with<U: Into<String>>(
        servers: impl IntoIterator<Item = U>,
        options: Options,
    ) -> Result<Self, ClientError> {
        let servers = servers.into_iter().map(Into::into).collect();
        Ok(Self { transport: Transport::new(servers, options)?, consistency: Consistency::default() })
    }

    /// The same client, whose [`Self::get`], [`Self::get_at`], [`Self::range`], and [`Self::read`] without a wait are as fresh as this. Any
    /// node serves what is less than linearizable, without asking the others.
    #[must_use]
    pub fn reading(&self, consistency: Consistency) -> Self {
        Self { transport: self.transport.clone(), consistency }
    }

    /// A read of the state at this path, which has its query begun already when `mark` is `&`.
    fn read_of(&self, path: &str, mark: char) -> Ask {
        let relaxed = self.consistency != Consistency::Linearizable;
        Ask::new(Method::GET, format!("{path}{}", self.consistency.query(mark))).anywhere(relaxed)
    }

    /// Commits. Tried under one idempotency key until the answer is known, so that it has at most one effect.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `guard_failed`, `limited` and so on: nothing happened. [`ClientError::Indeterminate`]
    /// names the key to [`Self::resolve`].
    pub async fn commit(&self, commit: Commit) -> Result<Committed, ClientError> {
        let key = commit.named_key().map_or_else(new_key, String::from);
        self.commit_json(&commit.body(), key).await
    }

    /// Commits a body of `POST /v1/commit` that names no idempotency key, under this key.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn commit_json(&self, body: &Value, key: String) -> Result<Committed, ClientError> {
        let reply = self.transport.call(&Ask::new(Method::POST, "/v1/commit").json(body).keyed(key)).await?;
        committed(&reply, &reply.json()?)
    }

    /// Asks what became of an idempotency key. If nothing did, nothing will: a late original is refused.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resolve(&self, key: &str) -> Result<Option<Committed>, ClientError> {
        let path = format!("/v1/idempotency/{}/resolve", encoded(key.as_bytes(), false));
        let reply = self.transport.call(&Ask::new(Method::POST, path).json(&json!({}))).await?;
        let body = reply.json()?;
        match body["resolution"].as_str() {
            Some("committed") => committed(&reply, &body["answer"]).map(Some),
            Some("cancelled") => Ok(None),
            other => {
                Err(reply.unexpected(format!("the key belongs to a claim, or the answer is new: {other:?}")))
            }
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyValue>, ClientError> {
        self.read_key(key.as_ref(), "").await
    }

    /// Reads a key as it was at a revision.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `compacted` or `future_revision`.
    pub async fn get_at(
        &self,
        key: impl AsRef<[u8]>,
        revision: u64,
    ) -> Result<Option<KeyValue>, ClientError> {
        self.read_key(key.as_ref(), &format!("?at={revision}")).await
    }

    async fn read_key(&self, key: &[u8], query: &str) -> Result<Option<KeyValue>, ClientError> {
        let path = format!("/v1/keys/{}{query}", encoded(key, true));
        let mark = if query.is_empty() { '?' } else { '&' };
        let reply = match self.transport.call(&self.read_of(&path, mark)).await {
            Err(error) if error.code() == Some("key_missing") => return Ok(None),
            reply => reply?,
        };
        let number = |name| reply.number(name).ok_or_else(|| reply.unexpected(format!("no header {name}")));
        Ok(Some(KeyValue {
            key: key.to_vec(),
            value: reply.body.clone(),
            version: number("quorate-version")?,
            create_revision: number("quorate-create-revision")?,
            mod_revision: number("quorate-mod-revision")?,
            lease: reply.number("quorate-lease").unwrap_or(0),
        }))
    }

    /// Writes a key; the revision of the write.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<u64, ClientError> {
        self.put_if(key, value, Expect::Any).await
    }

    /// Writes a key if it is as expected; the revision of the write.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `precondition_failed`: read it again and decide again.
    pub async fn put_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        expect: Expect,
    ) -> Result<u64, ClientError> {
        let mut ask =
            Ask::new(Method::PUT, format!("/v1/keys/{}", encoded(key.as_ref(), true))).keyed(new_key());
        ask.body = value.into();
        let ask = match expect {
            Expect::Any => ask,
            Expect::Absent => ask.header("if-none-match", "*"),
            Expect::ModRevision(revision) => ask.header("if-match", format!("\"{revision}\"")),
        };
        let reply = self.transport.call(&ask).await?;
        reply.number("quorate-revision").ok_or_else(|| reply.unexpected("no header quorate-revision"))
    }

    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        let path = format!("/v1/keys/{}", encoded(key.as_ref(), true));
        let reply = self.transport.call(&Ask::new(Method::DELETE, path).keyed(new_key())).await?;
        Ok(reply.json()?["deleted"] != 0)
    }

    /// Reads all keys with a prefix, at one revision, in as many pages as it takes.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `compacted` when the range takes longer to read than history is kept.
    pub async fn range(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<KeyValue>, ClientError> {
        let first = format!("/v1/range?values=base64&prefix={}", encoded(prefix.as_ref(), false));
        let (mut found, mut path) = (Vec::new(), first.clone());
        loop {
            let reply = self.transport.call(&self.read_of(&path, '&')).await?;
            let body = reply.json()?;
            for key in body["keys"].as_array().into_iter().flatten() {
                found.push(key_value(&reply, key)?);
            }
            let (Some(next), true) = (bytes_of(&body, "next"), body["more"] == true) else {
                return Ok(found);
            };
            path = format!("{first}&at={}&from={}", body["revision"], encoded(&next, false));
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn append(
        &self,
        stream: impl AsRef<[u8]>,
        key: Option<&str>,
        value: impl AsRef<[u8]>,
    ) -> Result<Appended, ClientError> {
        let mut body = named("value", value.as_ref());
        if let Some(key) = key {
            body.insert("key".into(), key.into());
        }
        let path = format!("/v1/streams/{}/records", encoded(stream.as_ref(), false));
        let ask = Ask::new(Method::POST, path).json(&Value::Object(body)).keyed(new_key());
        let reply = self.transport.call(&ask).await?;
        let body = reply.json()?;
        let one = &body["appended"][0];
        match (one["partition"].as_u64().and_then(|n| u32::try_from(n).ok()), one["offset"].as_u64()) {
            (Some(partition), Some(offset)) => Ok(Appended { partition, offset }),
            _ => Err(reply.unexpected("an append without an offset")),
        }
    }

    /// Reads records of a partition from an offset, waiting for at most `wait` until there is one.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `offset_out_of_range` once retention has removed them.
    pub async fn read(
        &self,
        stream: impl AsRef<[u8]>,
        partition: u32,
        offset: u64,
        wait: Duration,
    ) -> Result<Page, ClientError> {
        let stream = encoded(stream.as_ref(), false);
        let path = format!("/v1/streams/{stream}/records?partition={partition}&offset={offset}");
        let ask = match wait.as_millis() {
            0 => self.read_of(&path, '&'),
            // What waits begins with a linearizable read, on any node.
            wait_ms => Ask::new(Method::GET, format!("{path}&wait={wait_ms}")).wait(wait),
        };
        let reply = self.transport.call(&ask).await?;
        let next = reply
            .number("stream-next-offset")
            .ok_or_else(|| reply.unexpected("no header stream-next-offset"))?;
        if reply.status == 204 {
            return Ok(Page { records: Vec::new(), next });
        }
        let records = reply.json()?["records"].as_array().cloned().unwrap_or_default();
        Ok(Page { records, next })
    }

    /// Takes from a limit, such as `"100/s"`.
    ///
    /// # Errors
    /// [`ClientError`]; that too little is left is an answer, not an error.
    pub async fn take(&self, limit: impl AsRef<[u8]>, rate: &str, cost: u64) -> Result<Taken, ClientError> {
        let path = format!("/v1/limits/{}/take", encoded(limit.as_ref(), false));
        let ask = Ask::new(Method::POST, path).json(&json!({"rate": rate, "cost": cost})).keyed(new_key());
        match self.transport.call(&ask).await {
            Ok(reply) => match reply.json()?["limit"]["remaining"].as_u64() {
                Some(remaining) => Ok(Taken::Yes { remaining }),
                None => Err(reply.unexpected("a limit without what is left")),
            },
            Err(ClientError::Problem(problem)) if problem.status == 429 => {
                Ok(Taken::No { retry_after: problem.retry_after })
            }
            Err(error) => Err(error),
        }
    }

    /// Grants a lease and keeps it alive until the session is closed or dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn session(&self, ttl: Duration) -> Result<Session, ClientError> {
        Session::open(self.clone(), ttl).await
    }

    /// Watches keys with a prefix, from a revision on, or from now.
    #[must_use]
    pub fn watch(&self, prefix: impl AsRef<[u8]>, since: Option<u64>) -> Watch {
        Watch::new(self.clone(), prefix.as_ref(), since)
    }
}

fn committed(reply: &Reply, body: &Value) -> Result<Committed, ClientError> {
    match (body["revision"].as_u64(), body["results"].as_array()) {
        (Some(revision), Some(results)) => Ok(Committed {
            revision,
            otherwise: body["branch"] == "else",
            results: results.clone(),
            replayed: body["replayed"] == true,
        }),
        _ => Err(reply.unexpected("a commit without revision or results")),
    }
}

fn key_value(reply: &Reply, key: &Value) -> Result<KeyValue, ClientError> {
    let number =
        |name: &str| key[name].as_u64().ok_or_else(|| reply.unexpected(format!("a key without {name}")));
    let bytes =
        |name: &str| bytes_of(key, name).ok_or_else(|| reply.unexpected(format!("a key without {name}")));
    Ok(KeyValue {
        key: bytes("key")?,
        value: bytes("value")?.into(),
        version: number("version")?,
        create_revision: number("create_revision")?,
        mod_revision: number("mod_revision")?,
        lease: key["lease"].as_u64().unwrap_or(0),
    })
}
