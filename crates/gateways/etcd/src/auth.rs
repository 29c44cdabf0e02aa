//! Who asks: tokens that Authenticate gives, tokens of the token file, and bearer tokens of users.
//!
//! Invariant: a token that is not known lets nobody in, whatever the door is.
//! Called by: every service, by `Gateway::enter`.

use crate::error;
use crate::gateway::Gateway;
use crate::protocol::etcdserverpb as pb;
use crate::serve::Api;
use quorate_runtime::Consistency;
use quorate_types::Principal;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// How long a token lives that nobody uses.
const TOKEN_TTL: Duration = Duration::from_secs(300);
/// Tokens kept at most; the one that is unused for longest goes first.
const TOKENS_MAX: usize = 10_000;

/// Tokens given by Authenticate, in the memory of this node: whose, and when they were last used.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, (Principal, Instant)>>);

impl Tokens {
    fn give(&self, principal: Principal) -> Result<String, Status> {
        let draw =
            || getrandom::u64().map_err(|why| Status::internal(format!("no entropy for a token: {why}")));
        let token = format!("{:016x}{:016x}", draw()?, draw()?);
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, used)| used.elapsed() < TOKEN_TTL);
        if tokens.len() >= TOKENS_MAX
            && let Some(oldest) =
                tokens.iter().min_by_key(|(_, (_, used))| *used).map(|(token, _)| token.clone())
        {
            tokens.remove(&oldest);
        }
        tokens.insert(token.clone(), (principal, Instant::now()));
        Ok(token)
    }

    fn find(&self, token: &str) -> Option<Principal> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (principal, used) = tokens.get_mut(token).filter(|(_, used)| used.elapsed() < TOKEN_TTL)?;
        *used = Instant::now();
        Some(principal.clone())
    }
}

impl Gateway {
    /// Whose request this is.
    ///
    /// # Errors
    /// The token is nobody's, or one is wanted.
    pub(crate) fn principal(&self, metadata: &MetadataMap) -> Result<Principal, Status> {
        let sent = metadata.get("token").or_else(|| metadata.get("authorization"));
        let Some(sent) = sent.and_then(|value| value.to_str().ok()) else {
            return if self.is_open()? { Ok("anonymous".into()) } else { Err(error::user_empty()) };
        };
        let secret = sent.strip_prefix("Bearer ").unwrap_or(sent);
        if let Some(principal) = self.tokens.find(secret) {
            return Ok(principal);
        }
        if let Some(operator) = self.config.door.as_ref().and_then(|door| door.principal(secret)) {
            return Ok(operator);
        }
        let user = self.handle.token(secret.as_bytes()).map_err(|why| error::runtime(&why))?;
        user.ok_or_else(error::invalid_token)
    }

    /// Whether whoever does not say who it is may enter.
    fn is_open(&self) -> Result<bool, Status> {
        Ok(self.config.door.is_none() && self.handle.door_is_open().map_err(|why| error::runtime(&why))?)
    }
}

/// Why users are not changed here.
const USERS: &str =
    "users and their rights are those of all protocols, change them with `quorate user` or ACL SETUSER";

macro_rules! refused {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl pb::auth_server::Auth for Api {
            async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Result<Response<pb::AuthStatusResponse>, Status> {
                self.0.enter(&request).await?;
                let revision = self.0.look(Consistency::Stale, quorate_machine::Machine::revision).await?;
                let enabled = !self.0.is_open()?;
                Ok(Response::new(pb::AuthStatusResponse { header: Some(self.0.header(revision)), enabled, auth_revision: 1 }))
            }
            async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.0.authenticate(request.get_ref()).await.map(Response::new)
            }
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(error::absent(stringify!($name), USERS))
            })*
        }
    };
}

refused! {
    auth_enable(pb::AuthEnableRequest) -> pb::AuthEnableResponse;
    auth_disable(pb::AuthDisableRequest) -> pb::AuthDisableResponse;
    user_add(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse;
    user_get(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse;
    user_list(pb::AuthUserListRequest) -> pb::AuthUserListResponse;
    user_delete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse;
    user_change_password(pb::AuthUserChangePasswordRequest) -> pb::AuthUserChangePasswordResponse;
    user_grant_role(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse;
    user_revoke_role(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse;
    role_add(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse;
    role_get(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse;
    role_list(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse;
    role_delete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse;
    role_grant_permission(pb::AuthRoleGrantPermissionRequest) -> pb::AuthRoleGrantPermissionResponse;
    role_revoke_permission(pb::AuthRoleRevokePermissionRequest) -> pb::AuthRoleRevokePermissionResponse;
}

impl Gateway {
    async fn authenticate(
        &self,
        asked: &pb::AuthenticateRequest,
    ) -> Result<pb::AuthenticateResponse, Status> {
        if self.is_open()? {
            return Err(error::auth_not_enabled());
        }
        let operator = self.config.door.as_ref().and_then(|door| door.principal(&asked.password));
        let entered = match operator {
            Some(operator) => Some(operator),
            None => self
                .handle
                .enter(asked.name.as_bytes(), asked.password.as_bytes())
                .await
                .map_err(|why| error::runtime(&why))?,
        };
        let principal = entered.ok_or_else(error::auth_failed)?;
        let revision = self.look(Consistency::Stale, quorate_machine::Machine::revision).await?;
        Ok(pb::AuthenticateResponse {
            header: Some(self.header(revision)),
            token: self.tokens.give(principal)?,
        })
    }
}
