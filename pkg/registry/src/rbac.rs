//! Writes of roles and bindings: nobody grants what they do not have.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::status::Status;
use apiserver::extension::Nothing;
use apiserver::{Write, WriteFinish, WriteHook};
use async_trait::async_trait;
use auth::authz::rbac::{EscalationGuard, RoleWrite};

/// Asks the guard before every write.
pub(crate) struct RoleHook {
    guard: Arc<EscalationGuard>,
}

impl RoleHook {
    pub(crate) fn new(guard: Arc<EscalationGuard>) -> Self {
        Self { guard }
    }

    async fn check(&self, write: &Write<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        self.guard
            .check(RoleWrite {
                user: &write.context.user,
                resource: &write.descriptor.plural,
                namespace: apimachinery::meta::namespace(object),
                object,
                old,
            })
            .await
    }
}

#[async_trait]
impl WriteHook for RoleHook {
    async fn begin_create(
        &self,
        write: &Write<'_>,
        object: &mut Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        self.check(write, object, None).await?;
        Ok(Box::new(Nothing))
    }

    async fn begin_update(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        self.check(write, new, Some(old)).await?;
        Ok(Box::new(Nothing))
    }
}
