//! Who asks, and the service Auth: users, roles, and the door.
//!
//! Users and roles are rows of the machine, which decides what a change needs and who may do what; here are etcd's names for it. "Enabled" is the
//! door: authentication is enabled while the user `default` is closed. Tokens that Authenticate gives are logged as hashes, so that every node
//! knows them, and are renewed while they are used.
//!
//! Invariant: a token that is not known lets nobody in, whatever the door is.
//! Called by: every service, by `Gateway::enter`; `serve`.

use crate::certificate::CommonName;
use crate::error;
use crate::gateway::Gateway;
use crate::protocol::authpb;
use crate::protocol::etcdserverpb as pb;
use crate::serve::Api;
use bytes::Bytes;
use quorate_machine::Machine;
use quorate_runtime::{Consistency, door};
use quorate_types::{
    AccessChange, AccessRefusal, Blob, CommandBody, DEFAULT_USER, Digest, Millis, Outcome, Principal,
    RangeRule, Refusal, Revision, Scram, Verbs,
};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// How often a token is tried for again when users changed meanwhile.
const TRIES: usize = 8;
/// Longest name of a user or role.
const NAME_BYTES_MAX: usize = 256;

/// Who a token is for, and whether it is to be renewed.
struct Known {
    principal: Principal,
    renew: Option<(Blob, u64)>,
}

impl Gateway {
    /// Whose request this is. A token that is not known may have been given by another node just now: it is looked for again once this one has
    /// what was committed before.
    ///
    /// # Errors
    /// The token or certificate is nobody's, or one is wanted.
    pub(crate) async fn principal(
        self: &Arc<Self>,
        metadata: &MetadataMap,
        certificate: Option<&CommonName>,
    ) -> Result<Principal, Status> {
        match self.principal_here(metadata, certificate) {
            Err(status) if status.code() == Code::Unauthenticated => {
                self.look(Consistency::Linearizable, |_| ()).await?;
                self.principal_here(metadata, certificate)
            }
            known => known,
        }
    }

    /// Whose request this is, as far as this node knows: its token says so, and without one, where authentication is enabled, the certificate that its client showed.
    ///
    /// # Errors
    /// The token or certificate is nobody's, or one is wanted.
    pub(crate) fn principal_here(
        self: &Arc<Self>,
        metadata: &MetadataMap,
        certificate: Option<&CommonName>,
    ) -> Result<Principal, Status> {
        let sent = metadata.get("token").or_else(|| metadata.get("authorization"));
        let Some(sent) = sent.and_then(|value| value.to_str().ok()) else {
            if self.is_open() {
                return Ok("anonymous".into());
            }
            return certificate.map_or_else(|| Err(error::user_empty()), |name| self.certified(name));
        };
        let secret = sent.strip_prefix("Bearer ").unwrap_or(sent);
        if let Some(operator) = self.config.door.as_ref().and_then(|door| door.principal(secret)) {
            return Ok(operator);
        }
        let hash = door::sha256(secret.as_bytes());
        let ttl = self.token_ttl();
        match self.handle.allowed(|machine| known(machine, &hash, ttl)).map_err(|why| error::runtime(&why))? {
            Some(Known { principal, renew }) => {
                if let Some((user, revision)) = renew {
                    let gateway = Arc::clone(self);
                    // Should it fail, the next request tries again.
                    tokio::spawn(async move { gateway.give(&user, hash, revision).await.map(drop) });
                }
                Ok(principal)
            }
            None => Err(error::invalid_token()),
        }
    }

    /// The user that a verified certificate names.
    fn certified(&self, CommonName(name): &CommonName) -> Result<Principal, Status> {
        let look = |machine: &Machine| machine.user(name).is_some_and(|access| access.user().enabled);
        match self.handle.allowed(look).map_err(|why| error::runtime(&why))? {
            true => Ok(Principal::of_user(name)),
            false => Err(error::permission_denied()),
        }
    }

    /// Whether whoever does not say who it is may enter.
    pub(crate) fn is_open(&self) -> bool {
        self.config.door.is_none() && self.handle.door_is_open()
    }

    fn token_ttl(&self) -> Millis {
        Millis(u64::try_from(self.config.token_ttl.as_millis()).unwrap_or(u64::MAX))
    }

    /// Logs a token for a user, or renews it; whether users were still those of the revision.
    async fn give(&self, user: &Blob, token: Digest, revision: u64) -> Result<bool, Status> {
        let change = AccessChange::Enter { user: user.clone(), token, ttl: self.token_ttl(), revision };
        let body = CommandBody::ChangeAccess { change, may_lock_out: false };
        match self.outcome(&"server".into(), body).await? {
            Outcome::Refused { refusal: Refusal::Access { why: AccessRefusal::OldRevision {} } } => Ok(false),
            Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
            _ => Ok(true),
        }
    }

    async fn authenticate(
        &self,
        asked: &pb::AuthenticateRequest,
    ) -> Result<pb::AuthenticateResponse, Status> {
        if self.is_open() {
            return Err(error::auth_not_enabled());
        }
        if self.config.door.as_ref().is_some_and(|door| door.principal(&asked.password).is_some()) {
            // An operator's secret is its token.
            let header = Some(self.header(self.handle.status().revision));
            return Ok(pb::AuthenticateResponse { header, token: asked.password.clone() });
        }
        let name = Blob::copy_from(asked.name.as_bytes());
        for _ in 0..TRIES {
            // A user that was just made at another node is known here then.
            let look = |machine: &Machine| {
                let user = machine.user(&name);
                let by_password = user.is_none_or(|user| {
                    let user = user.user();
                    user.nopass || !user.scram.is_empty() || !user.sha256.is_empty()
                });
                (machine.access_revision(), by_password, machine.revision())
            };
            let (revision, by_password, current) = self.look(Consistency::Linearizable, look).await?;
            if !by_password {
                return Err(error::no_password_user());
            }
            let entered = self.handle.enter(asked.name.as_bytes(), asked.password.as_bytes()).await;
            if entered.map_err(|why| error::runtime(&why))?.is_none() {
                return Err(error::auth_failed());
            }
            let token = door::secret(16).map_err(|why| error::runtime(&why))?;
            if self.give(&name, door::sha256(token.as_bytes()), revision).await? {
                return Ok(pb::AuthenticateResponse { header: Some(self.header(current)), token });
            }
        }
        Err(error::auth_old_revision())
    }

    /// Makes a change of users or roles: the revision after it.
    async fn change_access(
        &self,
        who: &Principal,
        change: AccessChange,
    ) -> Result<pb::ResponseHeader, Status> {
        // Whoever holds a token of the file has another way in.
        let may_lock_out = self.config.door.is_some();
        match self.command(who, CommandBody::ChangeAccess { change, may_lock_out }).await? {
            Outcome::Done { revision } => Ok(self.header(revision)),
            other => Err(Status::internal(format!("a change of users was answered with {other:?}"))),
        }
    }

    /// Reads something about users; `own` says that it is about the one who asks.
    async fn look_at_access<R>(
        &self,
        who: &Principal,
        own: impl FnOnce(&Machine, &[u8]) -> bool,
        look: impl FnOnce(&Machine) -> Result<R, Status>,
    ) -> Result<(R, pb::ResponseHeader), Status> {
        let read = |machine: &Machine| {
            let allowed = machine.rights(who).command("acl|getuser");
            let own = who.user().is_some_and(|name| own(machine, name));
            if !own {
                allowed.map_err(|denied| error::denied(&denied))?;
            }
            Ok::<_, Status>((look(machine)?, machine.revision()))
        };
        let (found, revision): (R, Revision) = self.look(Consistency::Linearizable, read).await??;
        Ok((found, self.header(revision)))
    }

    /// A password as it is kept; nothing for none.
    async fn kept(&self, password: &str, hashed: &str) -> Result<Scram, Status> {
        if password.is_empty() && !hashed.is_empty() {
            return Err(Status::invalid_argument(
                "hashedPassword is not taken: passwords are kept as SCRAM verifiers, send the password",
            ));
        }
        let made = self.handle.verifier(Blob::copy_from(password.as_bytes()), Vec::new()).await;
        let made = made.map_err(|why| error::runtime(&why))?;
        made.ok_or_else(|| Status::internal("a password was taken for one that is known"))
    }
}

fn known(machine: &Machine, hash: &Digest, ttl: Millis) -> Option<Known> {
    let user = machine.user_of_token(hash)?;
    if !machine.user(user).is_some_and(|access| access.user().enabled) {
        return None;
    }
    let left = machine.token(hash).map(|token| token.until.millis_since(machine.log_time()));
    let renew = left.filter(|left| left.0 < ttl.0 / 2);
    let renew = renew.map(|_| (user.clone(), machine.access_revision()));
    Some(Known { principal: Principal::of_user(user), renew })
}

fn name(text: &str) -> Result<Blob, Status> {
    if text.len() > NAME_BYTES_MAX || text.bytes().any(|byte| matches!(byte, b' ' | 0)) {
        return Err(Status::invalid_argument(format!(
            "the name of a user or role has at most {NAME_BYTES_MAX} bytes, and no space or zero byte among them"
        )));
    }
    Ok(Blob::copy_from(text.as_bytes()))
}

fn blob(text: &str) -> Blob {
    Blob::copy_from(text.as_bytes())
}

fn rule(asked: &authpb::Permission) -> Result<RangeRule, Status> {
    use authpb::permission::Type;
    let kind = Type::try_from(asked.perm_type);
    let verbs = match kind.map_err(|_| Status::invalid_argument("the type of the permission is unknown"))? {
        Type::Read => Verbs::READ,
        Type::Write => Verbs::WRITE,
        Type::Readwrite => Verbs::READ.and(Verbs::WRITE),
    };
    Ok(RangeRule { start: Blob::copy_from(&asked.key), end: Blob::copy_from(&asked.range_end), verbs })
}

fn permission(rule: &RangeRule) -> authpb::Permission {
    use authpb::permission::Type;
    let kind = match (rule.verbs.has(Verbs::READ), rule.verbs.has(Verbs::WRITE)) {
        (true, true) => Type::Readwrite,
        (false, true) => Type::Write,
        _ => Type::Read,
    };
    authpb::Permission {
        perm_type: kind.into(),
        key: Bytes::copy_from_slice(&rule.start),
        range_end: Bytes::copy_from_slice(&rule.end),
    }
}

fn texts(names: impl IntoIterator<Item = Blob>) -> Vec<String> {
    names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
}

#[tonic::async_trait]
impl pb::auth_server::Auth for Api {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let header = Some(self.0.change_access(&who, AccessChange::CloseDoor {}).await?);
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let who = self.0.enter(&request).await?;
        if self.0.config.door.is_some() {
            return Err(Status::failed_precondition(
                "this node was started with --token-file, which lets nobody in without a secret: start it without",
            ));
        }
        let header = Some(self.0.change_access(&who, AccessChange::OpenDoor {}).await?);
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let look = |machine: &Machine| Ok(machine.access_revision());
        let (auth_revision, header) = self.0.look_at_access(&who, |_, _| false, look).await?;
        let enabled = !self.0.is_open();
        Ok(Response::new(pb::AuthStatusResponse { header: Some(header), enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.0.authenticate(request.get_ref()).await.map(Response::new)
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let name = name(&asked.name)?;
        let scram = match asked.options.is_some_and(|options| options.no_password) {
            true => None,
            false => Some(self.0.kept(&asked.password, &asked.hashed_password).await?),
        };
        let header = Some(self.0.change_access(&who, AccessChange::AddUser { name, scram }).await?);
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = request.get_ref().name.as_bytes();
        let look = |machine: &Machine| {
            let user = machine.user(name).filter(|_| *name != *DEFAULT_USER.as_bytes());
            user.map(|user| user.user().roles.clone()).ok_or_else(error::user_missing)
        };
        let (roles, header) = self.0.look_at_access(&who, |_, own| own == name, look).await?;
        Ok(Response::new(pb::AuthUserGetResponse { header: Some(header), roles: texts(roles) }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let look = |machine: &Machine| Ok(machine.user_names());
        let (names, header) = self.0.look_at_access(&who, |_, _| false, look).await?;
        let names = names.into_iter().filter(|name| **name != *DEFAULT_USER.as_bytes());
        Ok(Response::new(pb::AuthUserListResponse { header: Some(header), users: texts(names) }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = blob(&request.get_ref().name);
        let header = Some(self.0.change_access(&who, AccessChange::RemoveUser { name }).await?);
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let scram = self.0.kept(&asked.password, &asked.hashed_password).await?;
        let change = AccessChange::ChangePassword { name: blob(&asked.name), scram };
        let header = Some(self.0.change_access(&who, change).await?);
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let change = AccessChange::GrantRole { user: blob(&asked.user), role: blob(&asked.role) };
        let header = Some(self.0.change_access(&who, change).await?);
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let change = AccessChange::RevokeRole { user: blob(&asked.name), role: blob(&asked.role) };
        let header = Some(self.0.change_access(&who, change).await?);
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = name(&request.get_ref().name)?;
        let header = Some(self.0.change_access(&who, AccessChange::AddRole { name }).await?);
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = request.get_ref().role.as_bytes();
        let look = |machine: &Machine| machine.role(name).cloned().ok_or_else(error::role_missing);
        let has = |machine: &Machine, own: &[u8]| {
            machine.user(own).is_some_and(|user| user.user().roles.iter().any(|role| **role == *name))
        };
        let (role, header) = self.0.look_at_access(&who, has, look).await?;
        let perm = role.rules.iter().map(permission).collect();
        Ok(Response::new(pb::AuthRoleGetResponse { header: Some(header), perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let look = |machine: &Machine| Ok(machine.role_names());
        let (names, header) = self.0.look_at_access(&who, |_, _| false, look).await?;
        Ok(Response::new(pb::AuthRoleListResponse { header: Some(header), roles: texts(names) }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = blob(&request.get_ref().role);
        let header = Some(self.0.change_access(&who, AccessChange::RemoveRole { name }).await?);
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let rule = rule(asked.perm.as_ref().ok_or_else(error::permission_not_given)?)?;
        let limits = self.0.handle.limits();
        for end in [&rule.start, &rule.end] {
            if end.len() as u64 > limits.name_bytes_max {
                return Err(error::too_large());
            }
        }
        let change = AccessChange::Allow { role: blob(&asked.name), rule };
        let header = Some(self.0.change_access(&who, change).await?);
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.get_ref();
        let (start, end) = (Blob::copy_from(&asked.key), Blob::copy_from(&asked.range_end));
        let change = AccessChange::Forbid { role: blob(&asked.role), start, end };
        let header = Some(self.0.change_access(&who, change).await?);
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}
