//! The one table of routes: the router, the OpenAPI document and the metrics are all made from it.
//!
//! Invariant: every route stands in it once; a path and a method find at most one.
//! Called by: `dispatch` looks routes up; `openapi` and `metrics` list them.

use crate::access::Need;
use crate::call::{Answer, Call};
use crate::handlers::{
    cluster, commit, groups, keys, leases, limits, locks, roles, server, services, streams, tasks, users,
};
use hyper::Method;
use quorate_types::Verbs;
use std::pin::Pin;

/// What answers a route.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The body that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None; one that is sent is refused.
    Nothing,
    /// JSON of the shape of this name in `openapi`.
    Json(&'static str),
    /// Any bytes.
    Bytes,
}

/// Who may call a route, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read of the state: takes `consistency` and `max_staleness`.
    State,
    /// Another read, answered at once.
    Read,
    /// A change, answered at once; takes an idempotency key.
    Write,
    /// May wait as long as the client asks, up to the bound.
    Wait,
    /// A change of the cluster or of users, answered at once; takes no idempotency key, since saying it twice is refused or does no harm.
    Admin,
    /// A health probe: needs no token.
    Probe,
}

/// One route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// `{name}` takes one segment, `{*key}` the rest of the path.
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    /// Names of the query parameters beside those of its kind; described in `openapi`.
    pub(crate) query: &'static [&'static str],
    pub(crate) takes: Takes,
    pub(crate) kind: Kind,
    /// What whoever asks has to be allowed.
    pub(crate) need: Need,
    pub(crate) handler: Handler,
}

/// Query parameters of every read of the state.
pub(crate) const CONSISTENCY: [&str; 2] = ["consistency", "max_staleness"];

impl Route {
    /// Names of all its query parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = if self.kind == Kind::State { &CONSISTENCY } else { &[] };
        self.query.iter().chain(more).copied()
    }
}

macro_rules! routes {
    ($($method:ident $path:literal ($kind:ident $(, $takes:expr)?) [$($query:literal),*] $handler:path, $need:expr, $summary:literal;)*) => {
        /// Every route of the gateway.
        pub(crate) static ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            summary: $summary,
            query: &[$($query),*],
            takes: routes!(@takes $($takes)?),
            kind: Kind::$kind,
            need: $need,
            handler: |call| Box::pin($handler(call)),
        }),*];
    };
    (@takes) => { Takes::Nothing };
    (@takes $takes:expr) => { $takes };
}

use Need::{All, Entry, Key, Lease, Name, Nothing, Range, Run};
use Takes::{Bytes as Raw, Json};

const READ: Verbs = Verbs::READ;
const WRITE: Verbs = Verbs::WRITE;

routes! {
    POST "/v1/commit" (Write, Json("Commit")) ["values"] commit::commit, Entry,
        "Run a commit: guards, then operations, all or nothing";
    GET "/v1/keys/{*key}" (State) ["at", "keyspace"] keys::get, Key("get", READ, "key"), "Read a key; its ETag is its mod revision";
    PUT "/v1/keys/{*key}" (Write, Raw) ["lease", "keyspace"] keys::put, Key("set", WRITE, "key"), "Write a key; If-Match and If-None-Match guard it";
    DELETE "/v1/keys/{*key}" (Write) ["keyspace"] keys::delete, Key("del", WRITE, "key"), "Delete a key; If-Match guards it";
    GET "/v1/range" (State) ["key", "key_base64", "prefix", "prefix_base64", "from", "from_base64", "to", "to_base64",
        "limit", "at", "keys_only", "count_only", "sort", "order", "keyspace", "values"] keys::range, Range("q.range", READ),
        "Read a range of keys, now or at a revision";
    GET "/v1/watch" (Wait) ["key", "key_base64", "prefix", "prefix_base64", "from", "from_base64", "to", "to_base64",
        "since", "keyspace", "values"] keys::watch, Range("q.follow", READ),
        "Follow the changes of keys from a revision on, as server-sent events";
    GET "/v1/leases" (State) ["limit", "after"] leases::index, All("q.info", READ), "List leases";
    POST "/v1/leases" (Write, Json("Grant")) [] leases::grant, Run("q.lock"), "Grant a lease";
    GET "/v1/leases/{id}" (State) ["values"] leases::get, Lease("q.info", READ), "Look at a lease: what is left of it, what hangs on it";
    DELETE "/v1/leases/{id}" (Write) [] leases::revoke, Lease("q.unlock", WRITE), "End a lease and everything that hangs on it";
    POST "/v1/leases/{id}/keepalive" (Write, Json("Empty")) [] leases::keep_alive, Run("q.keep"), "Renew a lease for its full time to live";
    GET "/v1/locks" (State) ["values"] locks::index, All("q.info", READ), "List the locks and elections that are held or waited for";
    GET "/v1/locks/{name}" (State) ["values"] locks::get, Name("q.info", READ, "name"), "Look at a lock: who holds it, who waits";
    POST "/v1/locks/{name}/acquire" (Wait, Json("Acquire")) ["values"] locks::acquire, Name("q.lock", WRITE, "name"),
        "Take a lock, waiting in its fair queue for at most wait";
    POST "/v1/locks/{name}/release" (Write, Json("Release")) [] locks::release, Name("q.unlock", WRITE, "name"), "Give a lock back";
    GET "/v1/elections/{name}" (State) ["values"] locks::leader, Name("q.info", READ, "name"), "Who leads";
    GET "/v1/elections/{name}/observe" (Wait) ["values"] locks::observe, Name("q.follow", READ, "name"), "Follow an election, as server-sent events";
    POST "/v1/elections/{name}/campaign" (Wait, Json("Campaign")) ["values"] locks::campaign, Name("q.lock", WRITE, "name"),
        "Become leader, waiting for at most wait";
    POST "/v1/elections/{name}/proclaim" (Write, Json("Proclaim")) [] locks::proclaim, Name("q.lock", WRITE, "name"), "Change what the leader proclaims";
    POST "/v1/elections/{name}/resign" (Write, Json("Release")) [] locks::resign, Name("q.unlock", WRITE, "name"), "Give leadership back";
    GET "/v1/streams" (State) ["prefix", "values"] streams::index, All("q.info", READ), "List streams";
    GET "/v1/streams/{stream}" (State) ["keyspace", "values"] streams::get, Key("xinfo|stream", READ, "stream"), "Look at a stream: settings, offsets, groups";
    PUT "/v1/streams/{stream}" (Write, Json("Stream")) ["keyspace"] streams::put, Key("q.stream", WRITE, "stream"), "Declare a stream, or change its settings";
    DELETE "/v1/streams/{stream}" (Write) ["keyspace"] streams::delete, Key("q.stream", WRITE, "stream"), "Remove a stream with its records and groups";
    GET "/v1/streams/{stream}/records" (Wait) ["partition", "offset", "max", "wait", "keyspace", "values",
        "consistency", "max_staleness"] streams::read, Key("xrange", READ, "stream"),
        "Read records from an offset: at once, by long poll, or as server-sent events (Accept: text/event-stream)";
    POST "/v1/streams/{stream}/records" (Write, Json("Append")) ["keyspace"] streams::append, Key("xadd", WRITE, "stream"), "Append one record or many";
    POST "/v1/streams/{stream}/trim" (Write, Json("Trim")) ["keyspace"] streams::trim, Key("xtrim", WRITE, "stream"), "Forget the records before an offset";
    GET "/v1/streams/{stream}/groups/{group}" (State) ["keyspace", "values"] groups::get, Key("xinfo|groups", READ, "stream"), "Look at a group: how far it is";
    PUT "/v1/streams/{stream}/groups/{group}" (Write, Json("Group")) ["keyspace"] groups::put, Key("xgroup|create", WRITE, "stream"), "Declare a group of readers";
    DELETE "/v1/streams/{stream}/groups/{group}" (Write) ["keyspace"] groups::delete, Key("xgroup|destroy", WRITE, "stream"), "Remove a group";
    POST "/v1/streams/{stream}/groups/{group}/cursor" (Write, Json("Cursor")) ["keyspace"] groups::cursor, Key("xack", WRITE, "stream"),
        "Move the cursor of a partitioned group";
    POST "/v1/streams/{stream}/groups/{group}/take" (Wait, Json("Take")) ["keyspace", "values"] groups::take, Key("xreadgroup", READ, "stream"),
        "Take records for a consumer of a shared group, waiting for at most wait";
    POST "/v1/streams/{stream}/groups/{group}/ack" (Write, Json("Ack")) ["keyspace"] groups::ack, Key("xack", WRITE, "stream"), "Finish deliveries";
    POST "/v1/streams/{stream}/groups/{group}/nack" (Write, Json("Nack")) ["keyspace"] groups::nack, Key("xclaim", WRITE, "stream"), "Give deliveries back";
    POST "/v1/streams/{stream}/groups/{group}/extend" (Write, Json("Extend")) ["keyspace"] groups::extend, Key("xclaim", WRITE, "stream"),
        "Hide deliveries from others for longer";
    GET "/v1/limits/{name}" (State) ["rate", "burst", "window", "count", "per", "cost"] limits::peek, Name("q.info", READ, "name"),
        "Look at a limit, taking nothing";
    POST "/v1/limits/{name}/take" (Write, Json("Limit")) [] limits::take, Name("q.limit", WRITE, "name"), "Take from a limit: 200, or 429 with when to come back";
    GET "/v1/timers" (State) ["limit", "values"] tasks::index, All("q.info", READ), "List timers";
    GET "/v1/timers/{name}" (State) ["values"] tasks::get, Name("q.info", READ, "name"), "Look at a timer";
    PUT "/v1/timers/{name}" (Write, Json("Timer")) [] tasks::put, Name("q.after", WRITE, "name"), "Schedule a commit, once";
    DELETE "/v1/timers/{name}" (Write) [] tasks::delete, Name("q.after", WRITE, "name"), "Take a timer back";
    GET "/v1/services" (State) ["values"] services::index, All("q.info", READ), "List the services that have instances";
    GET "/v1/services/{service}" (State) ["values"] services::instances, Name("q.info", READ, "service"), "List the instances of a service";
    GET "/v1/services/{service}/watch" (Wait) ["values"] services::watch, Name("q.follow", READ, "service"), "Follow a service, as server-sent events";
    PUT "/v1/services/{service}/{instance}" (Write, Json("Register")) [] services::register, Name("q.register", WRITE, "service"),
        "Enter an instance of a service, or change it";
    DELETE "/v1/services/{service}/{instance}" (Write) [] services::deregister, Name("q.register", WRITE, "service"), "Remove an instance";
    POST "/v1/idempotency/{key}/resolve" (Write, Json("Resolve")) ["values"] commit::resolve, Run("q.idempotent"),
        "Ask what became of an idempotency key; if nothing did, nothing will";
    GET "/v1/users" (State) ["values"] users::index, Run("acl|list"), "List users, and whether the door is open";
    GET "/v1/users/{name}" (State) ["values"] users::get, Run("acl|getuser"), "Look at a user; its secrets are told by number only";
    PUT "/v1/users/{name}" (Admin, Json("User")) ["values"] users::put, Run("acl|setuser"),
        "Make or change a user, for every protocol; what the body does not name stays";
    DELETE "/v1/users/{name}" (Admin) [] users::delete, Run("acl|deluser"), "Remove a user; its connections end";
    PUT "/v1/users/{name}/roles/{role}" (Admin, Json("Empty")) [] roles::grant, Run("acl|setuser"), "Give a user a role";
    DELETE "/v1/users/{name}/roles/{role}" (Admin) [] roles::revoke, Run("acl|setuser"), "Take a role from a user";
    GET "/v1/roles" (State) ["values"] roles::index, Run("acl|list"), "List roles";
    GET "/v1/roles/{name}" (State) ["values"] roles::get, Run("acl|getuser"), "Look at a role: what it allows";
    PUT "/v1/roles/{name}" (Admin, Json("Empty")) ["values"] roles::put, Run("acl|setuser"), "Make a role that allows nothing; one that is there stays";
    DELETE "/v1/roles/{name}" (Admin) [] roles::delete, Run("acl|setuser"), "Remove a role, from all users too";
    POST "/v1/roles/{name}/allow" (Admin, Json("RoleRule")) ["values"] roles::allow, Run("acl|setuser"),
        "Have a role allow something to be done to a range of keys";
    POST "/v1/roles/{name}/forbid" (Admin, Json("RoleRange")) ["values"] roles::forbid, Run("acl|setuser"),
        "Take back what a role allows of a range, given as it was";
    GET "/v1/why/{kind}/{name}" (Read) ["limit", "values"] server::why, All("q.why", READ), "Explain how something came to be as it is";
    GET "/v1/status" (Read) [] server::status, Run("info"), "State of the server, and every bound in force";
    GET "/v1/cluster" (Read) [] cluster::status, Run("info"), "How the cluster is, as this node sees it";
    POST "/v1/cluster/init" (Admin, Json("Empty")) [] cluster::init, Run("q.cluster"),
        "Begin a cluster with this node, then add the others that it was started with";
    POST "/v1/cluster/members" (Admin, Json("Member")) [] cluster::add, Run("q.cluster"),
        "Add a node, which becomes a voter by itself once it has caught up";
    DELETE "/v1/cluster/members/{id}" (Admin) [] cluster::remove, Run("q.cluster"), "Remove a member";
    POST "/v1/cluster/swap" (Admin, Json("Swap")) [] cluster::swap, Run("q.cluster"),
        "Make a learner a voter and remove another member, in one change";
    POST "/v1/cluster/transfer" (Admin, Json("Transfer")) [] cluster::transfer, Run("q.cluster"), "Hand leadership to another voter";
    POST "/v1/backup" (Wait, Json("Backup")) [] server::backup, Run("q.backup"), "Write a backup to a folder of the server, while it runs";
    POST "/v1/compact" (Write, Json("Compact")) [] server::compact, Run("q.compact"), "Forget the history of keys before a revision";
    GET "/healthz" (Probe) [] server::healthz, Nothing, "Whether the process lives";
    GET "/readyz" (Probe) [] server::readyz, Nothing, "Whether it serves reads and writes";
    GET "/metrics" (Read) [] server::metrics, Run("info"), "Counters in Prometheus text format";
    GET "/openapi.json" (Read) [] server::openapi, Run("command"), "This interface as an OpenAPI 3.1 document";
}

/// The routes by path, then by method.
pub(crate) struct Routes {
    paths: matchit::Router<Vec<usize>>,
}

/// What stands where no route was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing.
    Path,
    /// Routes of these methods, as an `Allow` header lists them.
    Method(String),
}

impl Routes {
    /// The routes of [`ROUTES`].
    pub(crate) fn new() -> Self {
        let mut paths = matchit::Router::new();
        for (number, route) in ROUTES.iter().enumerate() {
            if ROUTES[..number].iter().any(|earlier| earlier.path == route.path) {
                continue;
            }
            let same = (number..ROUTES.len()).filter(|other| ROUTES[*other].path == route.path);
            paths
                .insert(route.path, same.collect())
                .expect("the paths of the table do not contradict each other");
        }
        Self { paths }
    }

    /// The number of a request's route. `HEAD` is answered as `GET` is, without the body.
    ///
    /// # Errors
    /// What stands there instead.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Result<usize, Missing> {
        let numbers = self.paths.at(path).map_err(|_| Missing::Path)?.value;
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let found = numbers.iter().find(|number| ROUTES[**number].method == method);
        found.copied().ok_or_else(|| {
            let mut methods: Vec<&str> = numbers.iter().map(|number| ROUTES[*number].method).collect();
            if methods.contains(&"GET") {
                methods.push("HEAD");
            }
            Missing::Method(methods.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_stands_once_and_is_found() {
        let routes = Routes::new();
        for (number, route) in ROUTES.iter().enumerate() {
            assert!(["GET", "PUT", "POST", "DELETE"].contains(&route.method), "{}", route.path);
            let same = |other: &Route| other.path == route.path && other.method == route.method;
            assert_eq!(ROUTES.iter().position(same), Some(number), "{} {}", route.method, route.path);
            let path: String = route.path.replace("{*", "{");
            let path: Vec<&str> =
                path.split('/').map(|segment| if segment.starts_with('{') { "x" } else { segment }).collect();
            let method = route.method.parse().unwrap();
            assert_eq!(routes.find(&method, &path.join("/")), Ok(number), "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_there_under_other_methods() {
        let routes = Routes::new();
        let find = |method: Method, path: &str| routes.find(&method, path).map(|number| ROUTES[number].path);
        assert_eq!(find(Method::GET, "/v1/keys/a/b/c"), Ok("/v1/keys/{*key}"));
        assert_eq!(find(Method::HEAD, "/v1/keys/a"), Ok("/v1/keys/{*key}"));
        assert_eq!(find(Method::GET, "/v1/nothing"), Err(Missing::Path));
        assert_eq!(find(Method::GET, "/v1/keys/"), Err(Missing::Path));
        let allow = |text: &str| Err(Missing::Method(text.to_owned()));
        assert_eq!(find(Method::PATCH, "/v1/keys/a"), allow("GET, PUT, DELETE, HEAD"));
        assert_eq!(find(Method::GET, "/v1/commit"), allow("POST"));
        assert_eq!(find(Method::HEAD, "/v1/commit"), allow("POST"));
    }
}
