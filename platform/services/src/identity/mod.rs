//! Who is calling, and what they may do. Tokens are random, stored as hashes, and have scopes, an expiry
//! and a revocation.

pub(crate) mod api;
pub(crate) mod store;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use odeon_protocol::OrganizationId;
use uuid::Uuid;

use crate::Platform;
use crate::api::ApiError;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// See assets, operations, logs.
    Read,
    /// Publish, deploy, roll back, undeploy.
    Deploy,
    /// Create and revoke tokens, see the audit trail.
    Admin,
    /// Add organizations. Only the first token of an installation has it, and those made with that one.
    Operator,
}

impl Scope {
    /// The scope as tokens carry it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }
    /// All scopes there are.
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Deploy, Self::Admin, Self::Operator];
    /// What an organization may do by itself.
    pub(crate) const OF_ORGANIZATION: [Self; 3] = [Self::Read, Self::Deploy, Self::Admin];
}

/// Proof that a request carries a valid token of an organization.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) organization: OrganizationId,
    /// Which token it is.
    pub(crate) token: Uuid,
    /// `token:<name>`, for the audit trail.
    pub(crate) actor: String,
    scopes: Vec<String>,
}

impl Caller {
    /// Refuses unless the token has `scope`.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.iter().any(|have| have == scope.as_str()) {
            Ok(())
        } else {
            Err(ApiError::forbidden(scope.as_str()))
        }
    }
}

impl FromRequestParts<Arc<Platform>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, platform: &Arc<Platform>) -> Result<Self, ApiError> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(ApiError::unauthorized)?;
        let found = store::find_token(&platform.database, token).await?.ok_or_else(ApiError::unauthorized)?;
        Ok(Self {
            organization: found.organization,
            token: found.id,
            actor: format!("token:{}", found.name),
            scopes: found.scopes,
        })
    }
}
