//! Users, roles and the door: etcdctl as it is, random requests that etcd and Quorate have to answer alike, and one model behind every protocol.
//!
//! `SEEDS=0..500 LENGTH=80` choose other sequences; a failing one is told with what replays it.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use authpb::permission::Type;
use pb::request_op::Request as Asked;
use quorate_etcd::protocol::{authpb, etcdserverpb as pb};
use quorate_types::{Blob, Command, Commit, Keyspace, Op, OpResult, Outcome, Principal, Refusal, Reply};
use std::collections::HashMap;
use std::net::SocketAddr;
use support::etcd::Etcd;
use support::real::{Random, alone, etcdctl, plain, says, seeds, told};
use support::{Client, Server, bytes, end_of};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A client that says who it is.
struct Known {
    client: Client,
    auth: pb::auth_client::AuthClient<Channel>,
    /// Tokens by name.
    tokens: HashMap<String, String>,
}

impl Known {
    async fn connect(address: SocketAddr) -> Self {
        let client = Client::connect(address).await;
        let auth = pb::auth_client::AuthClient::new(client.channel.clone());
        Self { client, auth, tokens: HashMap::new() }
    }

    /// A request as somebody; as nobody without a name.
    fn by<T>(&self, who: &str, asked: T) -> Request<T> {
        let mut request = Request::new(asked);
        if !who.is_empty() {
            // After its point etcd reads an index of its log, and waits until it is there.
            let token = self.tokens.get(who).map_or("nobody.1", String::as_str);
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }

    async fn enter(&mut self, name: &str, password: &str) -> Result<(), Status> {
        let asked = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let token = self.auth.authenticate(asked).await?.into_inner().token;
        self.tokens.insert(name.to_owned(), token);
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Enable,
    Disable,
    Status,
    Enter(String, String),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(String),
    UserList,
    UserDelete(String),
    Password(String, String),
    Grant(String, String),
    Revoke(String, String),
    RoleAdd(String),
    RoleGet(String),
    RoleList,
    RoleDelete(String),
    Allow(pb::AuthRoleGrantPermissionRequest),
    Forbid(pb::AuthRoleRevokePermissionRequest),
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Watch(pb::WatchCreateRequest),
    LeaseRevoke(i64),
    LeaseGrant(i64),
}

struct Maker {
    random: Random,
}

impl Maker {
    fn of(&mut self, names: &[&str]) -> String {
        names[self.random.below(names.len() as u64) as usize].to_owned()
    }
    fn user(&mut self) -> String {
        self.of(&["root", "root", "u1", "u1", "u2", "u2", "u3", ""])
    }
    fn role(&mut self) -> String {
        self.of(&["root", "r1", "r1", "r2", "r2", ""])
    }
    fn password(&mut self) -> String {
        self.of(&["p", "p", "p", "q"])
    }
    fn key(&mut self) -> bytes::Bytes {
        bytes(&self.of(&["a", "b", "c", "d", "e"]))
    }
    /// A key, and an end that is none or after it.
    fn range(&mut self) -> (bytes::Bytes, bytes::Bytes) {
        let key = self.key();
        let end = match self.random.below(6) {
            0..3 => bytes(""),
            3 => bytes("\0"),
            4 => end_of(std::str::from_utf8(&key).unwrap()),
            _ => bytes("f"),
        };
        (key, end)
    }
    fn put(&mut self) -> pb::PutRequest {
        let lease = if self.random.one_in(4) { 1 + self.random.below(2) as i64 } else { 0 };
        let prev_kv = self.random.one_in(4);
        pb::PutRequest { key: self.key(), value: bytes("v"), lease, prev_kv, ..Default::default() }
    }
    fn get(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.range();
        pb::RangeRequest { key, range_end, serializable: self.random.one_in(3), ..Default::default() }
    }
    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.range();
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.one_in(3) }
    }
    fn ops(&mut self) -> Vec<pb::RequestOp> {
        let request = match self.random.below(4) {
            0 => return Vec::new(),
            // Leases in transactions are looked at by later versions of etcd alone.
            1 => Asked::RequestPut(pb::PutRequest { lease: 0, ..self.put() }),
            2 => Asked::RequestDeleteRange(self.delete()),
            _ => Asked::RequestRange(self.get()),
        };
        vec![pb::RequestOp { request: Some(request) }]
    }
    fn txn(&mut self) -> pb::TxnRequest {
        let (key, range_end) = self.range();
        let compare = pb::Compare {
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            key,
            range_end,
            ..Default::default()
        };
        let compare = if self.random.one_in(3) { vec![compare] } else { Vec::new() };
        pb::TxnRequest { compare, success: self.ops(), failure: self.ops() }
    }
    /// Who asks, and what.
    fn ask(&mut self) -> (String, Ask) {
        let who = self.of(&["", "root", "root", "root", "root", "u1", "u1", "u2", "u3", "ghost"]);
        let data = |maker: &mut Self| match maker.random.below(10) {
            0..3 => Ask::Range(maker.get()),
            3..5 => Ask::Put(maker.put()),
            5 => Ask::Delete(maker.delete()),
            6..8 => Ask::Txn(maker.txn()),
            _ => {
                // Of an open end etcd asks only whether its first key may be read.
                let (key, range_end) = maker.range();
                let range_end = if range_end == "\0" { bytes("f") } else { range_end };
                Ask::Watch(pb::WatchCreateRequest { key, range_end, ..Default::default() })
            }
        };
        let ask = match self.random.below(40) {
            0 | 1 => Ask::Enable,
            2 if self.random.one_in(3) => Ask::Disable,
            3 => Ask::Status,
            4..10 => Ask::Enter(self.user(), self.password()),
            10 | 11 => {
                let name = self.of(&["root", "u1", "u2", "u3", ""]);
                // Only one of them has no password: etcd ignores a new one of such a user without a word.
                let no_password = name == "u3";
                let password = self.password();
                let options = Some(authpb::UserAddOptions { no_password });
                Ask::UserAdd(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
            }
            12 => Ask::UserGet(self.user()),
            13 => Ask::UserList,
            14 => Ask::UserDelete(self.user()),
            15 => Ask::Password(self.of(&["root", "u1", "u2", "none"]), self.password()),
            16..19 => Ask::Grant(self.user(), self.role()),
            19 => Ask::Revoke(self.user(), self.role()),
            20 => Ask::RoleAdd(self.role()),
            21 => Ask::RoleGet(self.role()),
            22 => Ask::RoleList,
            23 if self.random.one_in(2) => Ask::RoleDelete(self.role()),
            24..27 => {
                let (key, range_end) = self.range();
                let perm_type = self.random.below(3) as i32;
                let perm =
                    (!self.random.one_in(20)).then_some(authpb::Permission { perm_type, key, range_end });
                Ask::Allow(pb::AuthRoleGrantPermissionRequest { name: self.role(), perm })
            }
            27 => {
                let (key, range_end) = self.range();
                Ask::Forbid(pb::AuthRoleRevokePermissionRequest { role: self.role(), key, range_end })
            }
            28 => return ("root".to_owned(), Ask::LeaseGrant(1 + self.random.below(2) as i64)),
            // etcd lets those end a lease without keys who may do nothing at all.
            29 => return ("root".to_owned(), Ask::LeaseRevoke(1 + self.random.below(2) as i64)),
            _ => data(self),
        };
        (who, ask)
    }
}

async fn tell(known: &mut Known, who: &str, ask: Ask) -> String {
    macro_rules! auth {
        ($call:ident, $asked:expr) => {{
            let request = known.by(who, $asked);
            told(known.auth.$call(request).await, |answer| plain(&mut answer.header))
        }};
    }
    match ask {
        Ask::Enable => auth!(auth_enable, pb::AuthEnableRequest {}),
        Ask::Disable => auth!(auth_disable, pb::AuthDisableRequest {}),
        Ask::Status => auth!(auth_status, pb::AuthStatusRequest {}),
        Ask::Enter(name, password) => match known.enter(&name, &password).await {
            Ok(()) => "entered".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        },
        Ask::UserAdd(asked) => auth!(user_add, asked),
        Ask::UserGet(name) => auth!(user_get, pb::AuthUserGetRequest { name }),
        Ask::UserList => auth!(user_list, pb::AuthUserListRequest {}),
        Ask::UserDelete(name) => auth!(user_delete, pb::AuthUserDeleteRequest { name }),
        Ask::Password(name, password) => {
            let hashed_password = String::new();
            let asked = pb::AuthUserChangePasswordRequest { name, password, hashed_password };
            auth!(user_change_password, asked)
        }
        Ask::Grant(user, role) => auth!(user_grant_role, pb::AuthUserGrantRoleRequest { user, role }),
        Ask::Revoke(name, role) => auth!(user_revoke_role, pb::AuthUserRevokeRoleRequest { name, role }),
        Ask::RoleAdd(name) => auth!(role_add, pb::AuthRoleAddRequest { name }),
        Ask::RoleGet(role) => {
            let request = known.by(who, pb::AuthRoleGetRequest { role });
            told(known.auth.role_get(request).await, |answer| {
                plain(&mut answer.header);
                // etcd keeps a range twice that was given again after another one with the same start.
                answer.perm.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
            })
        }
        Ask::RoleList => auth!(role_list, pb::AuthRoleListRequest {}),
        Ask::RoleDelete(role) => auth!(role_delete, pb::AuthRoleDeleteRequest { role }),
        Ask::Allow(asked) => auth!(role_grant_permission, asked),
        Ask::Forbid(asked) => auth!(role_revoke_permission, asked),
        Ask::Range(asked) => {
            let request = known.by(who, asked);
            told(known.client.kv.range(request).await, |answer| plain(&mut answer.header))
        }
        Ask::Put(asked) => {
            let request = known.by(who, asked);
            told(known.client.kv.put(request).await, |answer| plain(&mut answer.header))
        }
        Ask::Delete(asked) => {
            let request = known.by(who, asked);
            told(known.client.kv.delete_range(request).await, |answer| plain(&mut answer.header))
        }
        Ask::Txn(asked) => {
            let request = known.by(who, asked);
            told(known.client.kv.txn(request).await, |answer| plain(&mut answer.header))
        }
        Ask::LeaseGrant(id) => {
            let request = known.by(who, pb::LeaseGrantRequest { ttl: 5000, id });
            told(known.client.lease.lease_grant(request).await, |answer| plain(&mut answer.header))
        }
        Ask::LeaseRevoke(id) => {
            let request = known.by(who, pb::LeaseRevokeRequest { id });
            told(known.client.lease.lease_revoke(request).await, |answer| plain(&mut answer.header))
        }
        Ask::Watch(asked) => watch(known, who, asked).await,
    }
}

async fn watch(known: &mut Known, who: &str, asked: pb::WatchCreateRequest) -> String {
    let union = Some(pb::watch_request::RequestUnion::CreateRequest(asked));
    let first = futures_util::stream::iter([pb::WatchRequest { request_union: union }]);
    // The client's side stays open, or etcd might end before it answers.
    let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    let request = known.by(who, stream);
    let first = async {
        let mut answers = known.client.watch.watch(request).await?.into_inner();
        answers.message().await
    };
    match tokio::time::timeout(support::PATIENCE, first).await.expect("a watch is answered in time") {
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
        Ok(told) => {
            let told = told.expect("it answers before it ends");
            // Later versions of etcd than the one beside us say that it is the token, which clients renew then.
            let unknown =
                ["Unauthenticated", "InvalidArgument"].iter().any(|code| told.cancel_reason.contains(code));
            let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied".to_owned();
            let reason = if unknown { denied } else { told.cancel_reason };
            format!("created {} canceled {} {reason}", told.created, told.canceled)
        }
    }
}

#[tokio::test]
async fn etcd_and_quorate_decide_alike_who_may_do_what() {
    let etcd = Etcd::with(&["--bcrypt-cost=4"]);
    let server = Server::start().await;
    let mut both = [Known::connect(etcd.address).await, Known::connect(server.address).await];
    let length: u64 = std::env::var("LENGTH").map_or(120, |text| text.parse().unwrap());
    let mut counts = HashMap::new();
    for seed in seeds() {
        run(seed, length, &mut both, &mut counts).await;
        for known in &mut both {
            clear(known).await;
        }
    }
    println!("{counts:?}");
    let times = |text: &str| counts.get(text).copied().unwrap_or(0);
    assert!(
        std::env::var("SEEDS").is_ok() || times("PermissionDenied") > 50 && times("Unauthenticated") > 20,
        "{counts:?}"
    );
    server.stop().await;
}

async fn run(seed: u64, length: u64, both: &mut [Known; 2], counts: &mut HashMap<String, u64>) {
    let replay = format!(
        "replay: SEEDS={seed}..{} LENGTH={length} cargo test -p quorate-etcd --test it auth::",
        seed + 1
    );
    let mut maker = Maker { random: Random(seed) };
    let mut begin = Vec::new();
    if !seed.is_multiple_of(4) {
        // Most begin where authentication can be enabled, so that they are about more than that it cannot.
        for name in ["root", "u1", "u2"] {
            let password = "p".to_owned();
            begin.push(Ask::UserAdd(pb::AuthUserAddRequest {
                name: name.to_owned(),
                password,
                ..Default::default()
            }));
        }
        begin.extend(["r1", "r2"].map(|role| Ask::RoleAdd(role.to_owned())));
        begin.extend(
            [("root", "root"), ("u1", "r1"), ("u2", "r2")]
                .map(|(user, role)| Ask::Grant(user.to_owned(), role.to_owned())),
        );
        begin.push(Ask::Enable);
        begin.extend(["root", "u1", "u2"].map(|name| Ask::Enter(name.to_owned(), "p".to_owned())));
    }
    let begin = begin.into_iter().map(|ask| (String::new(), ask));
    let mut said = Vec::new();
    let asks: Vec<_> = begin.chain((0..length).map(|_| maker.ask())).collect();
    for (number, (who, ask)) in asks.into_iter().enumerate() {
        let [etcd, quorate] = both;
        let bounded = async |known: &mut Known| {
            let told = tokio::time::timeout(support::PATIENCE, tell(known, &who, ask.clone())).await;
            told.unwrap_or_else(|_| "no answer".to_owned())
        };
        let wanted = bounded(etcd).await;
        let found = bounded(quorate).await;
        said.push(format!("{who}: {ask:?} -> {wanted}"));
        let before = said.len().saturating_sub(12);
        let story = said[before..].join("\n");
        assert_eq!(
            found, wanted,
            "(found: Quorate, wanted: etcd) request {number} by {who:?}\n{story}\n{replay}"
        );
        let kind = wanted.split(':').next().unwrap_or_default();
        *counts.entry(if kind.contains(' ') { "ok".to_owned() } else { kind.to_owned() }).or_insert(0) += 1;
    }
}

/// Back to nobody and nothing.
async fn clear(known: &mut Known) {
    for password in ["p", "q"] {
        let _ = known.enter("root", password).await;
    }
    tell(known, "root", Ask::Disable).await;
    let request = known.by("", pb::AuthUserListRequest {});
    for name in known.auth.user_list(request).await.unwrap().into_inner().users {
        known.auth.user_delete(pb::AuthUserDeleteRequest { name }).await.unwrap();
    }
    for role in known.auth.role_list(pb::AuthRoleListRequest {}).await.unwrap().into_inner().roles {
        known.auth.role_delete(pb::AuthRoleDeleteRequest { role }).await.unwrap();
    }
    let all = pb::DeleteRangeRequest { key: bytes("\0"), range_end: bytes("\0"), prev_kv: false };
    known.client.kv.delete_range(all).await.unwrap();
    for id in [1, 2] {
        let _ = known.client.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await;
    }
    known.tokens.clear();
}

/// What etcdctl is told; it has to fail.
fn refused(address: SocketAddr, words: &[&str]) -> String {
    let done = etcdctl(address, words).output().unwrap();
    assert!(!done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stdout));
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[tokio::test]
async fn etcdctl_manages_users_roles_and_the_door() {
    alone(story).await;
}

fn story(address: SocketAddr) {
    let says = |words: &[&str]| says(address, words);
    let refused = |words: &[&str]| refused(address, words);
    assert_eq!(says(&["user", "add", "root:secret"]), "User root created");
    assert_eq!(says(&["user", "add", "ann", "--new-user-password=apple"]), "User ann created");
    assert!(refused(&["user", "add", "ann:again"]).contains("etcdserver: user name already exists"));
    assert_eq!(says(&["role", "add", "shop"]), "Role shop created");
    assert_eq!(
        says(&["role", "grant-permission", "shop", "--prefix=true", "readwrite", "shop/"]),
        "Role shop updated"
    );
    assert_eq!(says(&["role", "grant-permission", "shop", "read", "rates"]), "Role shop updated");
    assert_eq!(
        says(&["role", "get", "shop"]),
        "Role shop\nKV Read:\n\trates\n\t[shop/, shop0) (prefix shop/)\nKV Write:\n\t[shop/, shop0) (prefix shop/)"
    );
    assert_eq!(says(&["user", "grant-role", "ann", "shop"]), "Role shop is granted to user ann");
    assert!(says(&["auth", "status"]).starts_with("Authentication Status: false"));
    assert_eq!(
        says(&["auth", "enable", "--user=root:secret"]).lines().last(),
        Some("Authentication Enabled")
    );
    let status = says(&["auth", "status", "--user=root:secret"]);
    assert_eq!(status, "Authentication Status: true\nAuthRevision: 9");
    assert!(refused(&["put", "shop/1", "x"]).contains("etcdserver: user name is empty"));
    assert_eq!(says(&["put", "--user=ann:apple", "shop/1", "x"]), "OK");
    assert_eq!(says(&["get", "--user=ann:apple", "--prefix", "shop/"]), "shop/1\nx");
    assert!(refused(&["put", "--user=ann:apple", "rates", "x"]).contains("etcdserver: permission denied"));
    assert!(
        refused(&["get", "--user=ann:apple", "--from-key", "shop/"])
            .contains("etcdserver: permission denied")
    );
    assert!(refused(&["user", "list", "--user=ann:apple"]).contains("etcdserver: permission denied"));
    assert!(
        refused(&["get", "--user=ann:pear", "shop/1"])
            .contains("authentication failed, invalid user ID or password")
    );
    assert_eq!(says(&["user", "get", "--user=ann:apple", "ann"]), "User: ann\nRoles: shop");
    assert_eq!(says(&["user", "list", "--user=root:secret"]), "ann\nroot");
    let lock = says(&["lock", "--user=ann:apple", "shop/lock", "echo", "held"]);
    assert_eq!(lock, "held");
    assert!(
        refused(&["user", "delete", "--user=root:secret", "root"])
            .contains("etcdserver: invalid auth management")
    );
    says(&["role", "revoke-permission", "--user=root:secret", "shop", "--prefix=true", "shop/"]);
    assert!(refused(&["put", "--user=ann:apple", "shop/1", "y"]).contains("etcdserver: permission denied"));
    says(&["user", "revoke-role", "--user=root:secret", "ann", "shop"]);
    says(&["role", "delete", "--user=root:secret", "shop"]);
    says(&["user", "delete", "--user=root:secret", "ann"]);
    assert_eq!(says(&["auth", "disable", "--user=root:secret"]), "Authentication Disabled");
    assert_eq!(says(&["get", "shop/1"]), "shop/1\nx");
}

/// A call of Redis by a user.
async fn redis(server: &Server, user: &str, words: &[&str]) -> Result<Reply, Refusal> {
    let words: Vec<Blob> = words.iter().map(|word| Blob::from(*word)).collect();
    let call = Op::Call { space: Keyspace::DEFAULT, words, record: None };
    let command = Command::new(
        Principal::of_user(&user.into()),
        quorate_types::CommandBody::Commit { commit: Commit::of(vec![call]) },
    );
    match server.data.handle().command(command).await.unwrap() {
        Outcome::Committed { mut committed } => match committed.results.pop() {
            Some(OpResult::Reply { reply }) => Ok(reply),
            other => panic!("{other:?}"),
        },
        Outcome::Refused { refusal } => Err(refusal),
        other => panic!("{other:?}"),
    }
}

/// How calls of Maintenance end for somebody, in words alone: etcd 3.5 hands on what its store of users says without its code.
async fn maintenance(known: &Known, who: &str) -> Vec<String> {
    let mut client = pb::maintenance_client::MaintenanceClient::new(known.client.channel.clone());
    let ended = |status: Status| status.message().rsplit(": ").next().unwrap_or_default().to_owned();
    let mut told = Vec::new();
    macro_rules! ask {
        ($call:ident, $asked:expr) => {
            let answer = client.$call(known.by(who, $asked)).await;
            told.push(answer.map_or_else(ended, |_| "ok".to_owned()));
        };
    }
    ask!(defragment, pb::DefragmentRequest {});
    ask!(hash, pb::HashRequest {});
    ask!(hash_kv, pb::HashKvRequest { revision: 0 });
    // etcd refuses a stream when it is asked for its first message.
    let first = match client.snapshot(known.by(who, pb::SnapshotRequest {})).await {
        Ok(pieces) => pieces.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    told.push(first.map_or_else(ended, |()| "ok".to_owned()));
    told
}

#[tokio::test]
async fn maintenance_is_for_root_alone_as_with_etcd() {
    let etcd = Etcd::with(&["--bcrypt-cost=4"]);
    let server = Server::start().await;
    let mut told = Vec::new();
    for address in [etcd.address, server.address] {
        let mut known = Known::connect(address).await;
        let mut all = vec![maintenance(&known, "").await];
        for name in ["root", "u1"] {
            let asked = pb::AuthUserAddRequest {
                name: name.to_owned(),
                password: "p".to_owned(),
                ..Default::default()
            };
            known.auth.user_add(asked).await.unwrap();
        }
        let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
        known.auth.user_grant_role(grant).await.unwrap();
        known.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        for name in ["root", "u1"] {
            known.enter(name, "p").await.unwrap();
        }
        for who in ["", "u1", "ghost", "root"] {
            all.push(maintenance(&known, who).await);
        }
        told.push(all);
        // Status and alarms are shown to users alone; etcd shows them to everybody.
        let mut client = pb::maintenance_client::MaintenanceClient::new(known.client.channel.clone());
        let mut codes = Vec::new();
        for who in ["", "u1", "root"] {
            let status = client.status(known.by(who, pb::StatusRequest {})).await.map(drop);
            let alarm = client.alarm(known.by(who, pb::AlarmRequest::default())).await.map(drop);
            codes
                .extend([status, alarm].map(|answer| answer.err().map(|status| status.message().to_owned())));
        }
        // A change of leader is root's alone; etcd 3.5 asks nobody who it is.
        let moved = client.move_leader(known.by("u1", pb::MoveLeaderRequest { target_id: 99 })).await;
        let code = moved.unwrap_err().code();
        let ours = address == server.address;
        assert_eq!(code, if ours { Code::PermissionDenied } else { Code::FailedPrecondition });
        let empty = ours.then(|| "etcdserver: user name is empty".to_owned());
        assert_eq!(codes, [empty.clone(), empty, None, None, None, None]);
    }
    assert_eq!(told[1], told[0], "(left: Quorate, right: etcd)");
    server.stop().await;
}

#[tokio::test]
async fn what_a_role_allows_is_allowed_over_every_protocol() {
    let server = Server::start().await;
    let mut known = Known::connect(server.address).await;
    for name in ["root", "ann"] {
        let password = "p".to_owned();
        let asked = pb::AuthUserAddRequest { name: name.to_owned(), password, ..Default::default() };
        known.auth.user_add(asked).await.unwrap();
    }
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    known.auth.user_grant_role(grant("root", "root")).await.unwrap();
    known.auth.role_add(pb::AuthRoleAddRequest { name: "r".to_owned() }).await.unwrap();
    let perm = |kind: Type, key: &str, end: &str| pb::AuthRoleGrantPermissionRequest {
        name: "r".to_owned(),
        perm: Some(authpb::Permission { perm_type: kind.into(), key: bytes(key), range_end: bytes(end) }),
    };
    known.auth.role_grant_permission(perm(Type::Readwrite, "a/", "a0")).await.unwrap();
    known.auth.role_grant_permission(perm(Type::Read, "b", "")).await.unwrap();
    known.auth.user_grant_role(grant("ann", "r")).await.unwrap();
    known.client.put("b", "1").await;
    assert_eq!(redis(&server, "ann", &["SET", "a/1", "x"]).await, Ok(Reply::ok()));
    assert_eq!(redis(&server, "ann", &["HSET", "a/h", "f", "x"]).await, Ok(Reply::Integer { value: 1 }));
    assert_eq!(redis(&server, "ann", &["GET", "b"]).await, Ok(Reply::bulk("1")));
    for words in [
        &["SET", "b", "2"][..],
        &["GET", "c"],
        &["RENAME", "a/1", "c"],
        &["FLUSHALL"],
        &["EVAL", "return 1", "0"],
    ] {
        let answer = redis(&server, "ann", words).await;
        assert!(answer.is_err(), "{words:?}: {answer:?}");
    }
    // The door that etcd's clients close is everybody's, and so is a token of theirs.
    let handle = server.data.handle();
    assert!(handle.door_is_open());
    known.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    assert!(!handle.door_is_open());
    assert!(redis(&server, "default", &["GET", "b"]).await.is_err());
    known.enter("ann", "p").await.unwrap();
    let token = known.tokens["ann"].clone();
    assert_eq!(handle.token(token.as_bytes()).unwrap(), Some("user:ann".into()));
    // A password that Redis' ACL changes ends the token too.
    let changes = vec![quorate_types::UserChange::ForgetPasswords {}];
    let body = quorate_types::CommandBody::ChangeUser { name: "ann".into(), changes, may_lock_out: false };
    handle.command(Command::new("server".into(), body)).await.unwrap();
    assert_eq!(handle.token(token.as_bytes()).unwrap(), None);
    let put = known.by("ann", pb::PutRequest { key: bytes("a/2"), ..Default::default() });
    assert_eq!(known.client.kv.put(put).await.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_with_the_right_to_its_range() {
    let server = Server::start().await;
    let mut known = Known::connect(server.address).await;
    for (name, role) in [("root", "root"), ("ann", "r")] {
        let (name, role) = (name.to_owned(), role.to_owned());
        let asked =
            pb::AuthUserAddRequest { name: name.clone(), password: "p".to_owned(), ..Default::default() };
        known.auth.user_add(asked).await.unwrap();
        known.auth.role_add(pb::AuthRoleAddRequest { name: role.clone() }).await.unwrap();
        known.auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: name, role }).await.unwrap();
    }
    let perm = authpb::Permission { perm_type: Type::Read.into(), key: bytes("a/"), range_end: bytes("a0") };
    let granted = pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: Some(perm) };
    known.auth.role_grant_permission(granted).await.unwrap();
    known.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    for name in ["root", "ann"] {
        known.enter(name, "p").await.unwrap();
    }
    let union = pb::watch_request::RequestUnion::CreateRequest(support::prefix_watch("a/"));
    let first = futures_util::stream::iter([pb::WatchRequest { request_union: Some(union) }]);
    let stream = known.by("ann", futures_util::StreamExt::chain(first, futures_util::stream::pending()));
    let mut answers = known.client.watch.watch(stream).await.unwrap().into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(support::PATIENCE, answers.message()).await;
        next.expect("a watch answers in time").unwrap().expect("the stream goes on")
    };
    assert!(next().await.created);
    let put =
        |known: &Known, key: &str| known.by("root", pb::PutRequest { key: bytes(key), ..Default::default() });
    for key in ["a/1", "a/2"] {
        let asked = put(&known, key);
        known.client.kv.put(asked).await.unwrap();
        let told = next().await;
        assert!(!told.canceled && told.events.len() == 1, "{told:?}");
    }
    let revoked = pb::AuthRoleRevokePermissionRequest {
        role: "r".to_owned(),
        key: bytes("a/"),
        range_end: bytes("a0"),
    };
    let asked = known.by("root", revoked);
    known.auth.role_revoke_permission(asked).await.unwrap();
    let asked = put(&known, "a/3");
    known.client.kv.put(asked).await.unwrap();
    let told = next().await;
    assert!(told.canceled && told.events.is_empty(), "{told:?}");
    assert!(told.cancel_reason.contains("PermissionDenied"), "{told:?}");
    server.stop().await;
}
