//! ResourceQuotas: what a namespace may use altogether. The usage is written before the object is, so that two requests
//! at once cannot both fit into what only one fits in; the quota controller gives back what was never used.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/resourcequota`.

mod usage;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, at, name, resource_version};
use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::amounts::{Amounts, add, amounts, print};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};
use usage::{concerns, in_scopes, is_about, unsaid, usage};

/// Locks that keep requests in one namespace from fighting over its quotas.
const LOCKS: usize = 64;
/// Attempts to write a usage that others write too.
const MAX_ATTEMPTS: usize = 4;

/// Counts what is used.
pub(super) struct ResourceQuota {
    source: Arc<dyn ObjectSource>,
    locks: Vec<Mutex<()>>,
}

/// What a request adds to a quota.
fn delta(request: &AdmissionRequest<'_>, resource: &GroupResource, quota: &Value) -> Amounts {
    let mut delta = usage(resource, request.object());
    let old = request.old();
    let counted_before = request.operation == Operation::Update
        && !resource_version(old).is_empty()
        && in_scopes(resource, old, quota);
    if counted_before {
        for (name, before) in usage(resource, old) {
            if let Some(now) = delta.get(&name).copied() {
                // what shrinks is given back by the controller
                let more = now.checked_sub(before).filter(|d| *d > Quantity::default()).unwrap_or_default();
                delta.insert(name, more);
            }
        }
    }
    delta.retain(|_, quantity| *quantity != Quantity::default());
    delta
}

fn names(list: &BTreeSet<String>) -> String {
    list.iter().cloned().collect::<Vec<_>>().join(",")
}

/// The quota's usage with the request in it: `Ok(None)` when the request does not concern it.
fn charge(
    request: &AdmissionRequest<'_>,
    resource: &GroupResource,
    quota: &Value,
) -> Result<Option<Amounts>, Status> {
    let (hard, used) = (amounts(at(quota, &["status", "hard"])), amounts(at(quota, &["status", "used"])));
    let counted: BTreeSet<String> = hard.keys().filter(|n| is_about(resource, n)).cloned().collect();
    if counted.is_empty() || !in_scopes(resource, request.object(), quota) {
        return Ok(None);
    }
    let deny = |why: String| Err(request.forbidden(&why));
    if resource.group.is_empty()
        && resource.resource == "pods"
        && let Some(why) = unsaid(request.object(), &counted)
    {
        return deny(format!("failed quota: {}: {why}", name(quota)));
    }
    if !counted.iter().all(|n| used.contains_key(n)) {
        return deny(format!("status unknown for quota: {}, resources: {}", name(quota), names(&counted)));
    }
    let negative: BTreeSet<String> = usage(resource, request.object())
        .into_iter()
        .filter(|(_, q)| *q < Quantity::default())
        .map(|(n, _)| n)
        .collect();
    if !negative.is_empty() {
        return deny(format!("quota usage is negative for resource(s): {}", names(&negative)));
    }
    let mut requested = delta(request, resource, quota);
    requested.retain(|n, _| hard.contains_key(n));
    if requested.is_empty() {
        return Ok(None);
    }
    let mut total = used.clone();
    add(&mut total, &requested);
    let exceeded: Vec<&String> = requested.keys().filter(|n| total[*n] > hard[*n]).collect();
    if !exceeded.is_empty() {
        let only = |all: &Amounts| {
            let kept = all.iter().filter(|(n, _)| exceeded.contains(n));
            print(&kept.map(|(n, q)| (n.clone(), *q)).collect())
        };
        return deny(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            name(quota),
            only(&requested),
            only(&used),
            only(&hard)
        ));
    }
    Ok(Some(total))
}

impl ResourceQuota {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, locks: (0..LOCKS).map(|_| Mutex::new(())).collect() }
    }

    fn lock(&self, namespace: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        &self.locks[hasher.finish() as usize % LOCKS]
    }

    /// One attempt on these quotas; `false` when another writer was faster.
    async fn attempt(&self, request: &AdmissionRequest<'_>, quotas: Vec<Value>) -> Result<bool, Status> {
        let resource = request.group_resource();
        let mut charged = Vec::new();
        for quota in quotas {
            if let Some(total) = charge(request, &resource, &quota)? {
                charged.push((quota, total));
            }
        }
        if request.dry_run {
            return Ok(true);
        }
        let gr = GroupResource::new("", "resourcequotas");
        for (mut quota, total) in charged {
            let used: apimachinery::Map =
                total.iter().map(|(n, q)| (n.clone(), json!(q.to_string()))).collect();
            quota["status"]["used"] = Value::Object(used);
            match self.source.update(&gr, "status", quota).await {
                Ok(_) => {}
                Err(status) if status.code == 409 => return Ok(false),
                // a quota that is gone counts nothing
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let gr = GroupResource::new("", "resourcequotas");
        if !concerns(request) {
            return Ok(());
        }
        let parse =
            |objects: Vec<auth::CachedObject>| objects.iter().filter_map(auth::CachedObject::value).collect();
        let cached: Vec<Value> = parse(self.source.list(&gr, Some(&request.namespace)));
        if cached.is_empty() {
            return Ok(());
        }
        let _turn = self.lock(&request.namespace).lock().await;
        // the cache may not have seen what the last holder of the lock wrote
        for _ in 0..MAX_ATTEMPTS {
            let quotas = parse(self.source.list_live(&gr, Some(&request.namespace)).await?);
            if self.attempt(request, quotas).await? {
                return Ok(());
            }
        }
        Err(Status::conflict(&gr, "", "the quotas of the namespace change too fast; please try again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    fn quota(name: &str, hard: Value, used: Value, scopes: Value) -> Value {
        json!({"metadata": {"namespace": "ns", "name": name, "resourceVersion": "1"}, "spec": {"scopes": scopes}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: Option<&str>) -> Value {
        let requests = cpu.map_or(json!({}), |cpu| json!({"cpu": cpu}));
        json!({"metadata": {"namespace": "ns", "name": "p", "resourceVersion": "1"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    #[tokio::test]
    async fn usage_is_counted_and_bounded() {
        let user = UserInfo::default();
        let cases = [
            (
                json!({"pods": "2", "cpu": "2"}),
                json!({"pods": "1", "cpu": "1"}),
                pod(Some("1")),
                Ok(json!({"pods": "2", "cpu": "2"})),
            ),
            (
                json!({"pods": "1"}),
                json!({"pods": "1"}),
                pod(None),
                Err("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
            ),
            (
                json!({"pods": "5", "cpu": "2"}),
                json!({"pods": "1", "cpu": "1500m"}),
                pod(Some("1")),
                Err("exceeded quota: q, requested: cpu=1, used: cpu=1500m, limited: cpu=2"),
            ),
            (
                json!({"cpu": "2"}),
                json!({"cpu": "0"}),
                pod(None),
                Err("failed quota: q: must specify cpu for: c"),
            ),
            (json!({"pods": "2"}), json!({}), pod(None), Err("status unknown for quota: q, resources: pods")),
            (json!({"secrets": "2"}), json!({"secrets": "2"}), pod(None), Ok(Value::Null)),
        ];
        for (hard, used, object, expected) in cases {
            let source = Source::new([("", "resourcequotas", quota("q", hard, used, json!([])))]);
            let plugin = ResourceQuota::new(source.clone());
            let got = run(&plugin, request(Operation::Create, "/pods", &user, Some(object), None)).await;
            let written = source.written.lock().first().map_or(Value::Null, |q| q["status"]["used"].clone());
            let got = got.map(|_| written).map_err(|m| m.replace("pods \"p\" is forbidden: ", ""));
            assert_eq!(got, expected.map_err(str::to_owned));
        }
    }

    #[tokio::test]
    async fn dry_runs_and_updates() {
        let user = UserInfo::default();
        let source = Source::new([(
            "",
            "resourcequotas",
            quota("q", json!({"requests.storage": "3Gi"}), json!({"requests.storage": "1Gi"}), json!([])),
        )]);
        let plugin = ResourceQuota::new(source.clone());
        let claim = |size: &str| json!({"metadata": {"namespace": "ns", "name": "c", "resourceVersion": "1"}, "spec": {"resources": {"requests": {"storage": size}}}});
        let mut dry = request(Operation::Create, "/persistentvolumeclaims", &user, Some(claim("1Gi")), None);
        dry.dry_run = true;
        run(&plugin, dry).await.expect("fits");
        assert!(source.written.lock().is_empty());
        let old = claim("1Gi");
        let grow =
            request(Operation::Update, "/persistentvolumeclaims", &user, Some(claim("2Gi")), Some(&old));
        run(&plugin, grow).await.expect("fits");
        assert_eq!(source.written.lock()[0]["status"]["used"], json!({"requests.storage": "2Gi"}));
        let too_much =
            request(Operation::Update, "/persistentvolumeclaims", &user, Some(claim("4Gi")), Some(&old));
        assert!(run(&plugin, too_much).await.expect_err("too much").contains("exceeded quota"));
        let shrink =
            request(Operation::Update, "/persistentvolumeclaims", &user, Some(claim("1Gi")), Some(&old));
        run(&plugin, shrink).await.expect("nothing new");
        assert_eq!(source.written.lock().len(), 1);
    }
}
