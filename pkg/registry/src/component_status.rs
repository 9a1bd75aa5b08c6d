//! `componentstatuses`: deprecated, made up on every read by looking at the store, the scheduler and the controllers.
//! Source: `k8s.io/kubernetes/pkg/registry/core/{componentstatus,rest}`.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use apiserver::{Call, ResourceStore, SubresourceHandler};
use async_trait::async_trait;
use component::http::{Body, empty};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::connect::{Connector, Location, Trust};

/// Longest a component may take to say how it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most of its answer that is shown.
const MAX_ANSWER_BYTES: usize = 10 << 10;
/// Components on the server's machine and their ports.
const LOCAL: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
/// The store.
const STORE: &str = "etcd-0";

/// Looks at the components.
pub(crate) struct ComponentStatus {
    connector: Arc<Connector>,
}

fn object(name: &str, health: Result<String, String>) -> Value {
    let condition = match health {
        Ok(message) => json!({"type": "Healthy", "status": "True", "message": message}),
        Err(error) => json!({"type": "Healthy", "status": "False", "message": error}),
    };
    json!({"metadata": {"name": name}, "conditions": [condition]})
}

impl ComponentStatus {
    pub(crate) fn new(connector: Arc<Connector>) -> Self {
        Self { connector }
    }

    async fn local(&self, port: u16) -> Result<String, String> {
        let location = Location {
            secure: true,
            host: "127.0.0.1".into(),
            port,
            path: "/healthz".into(),
            query: String::new(),
            trust: Trust::Anything,
        };
        let request = Request::builder()
            .uri("/healthz")
            .header(http::header::HOST, location.authority())
            .body(empty())
            .map_err(|e| e.to_string())?;
        let answer = self.connector.send(&location, request).await;
        let answer = answer.map_err(|e| format!("Get {:?}: {e}", location.url()))?;
        let code = answer.status();
        let text = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).into_owned()).unwrap_or_default();
        if code.is_success() { Ok(text) } else { Err(text) }
    }

    async fn look(&self, store: &ResourceStore, name: &str) -> Option<Value> {
        let probe = async {
            match LOCAL.iter().find(|(known, _)| *known == name) {
                Some((_, port)) => Some(self.local(*port).await),
                None if name == STORE => {
                    let revision = store.storage().current_revision().await;
                    Some(revision.map(|_| "ok".to_owned()).map_err(|e| e.to_string()))
                }
                None => None,
            }
        };
        let health = tokio::time::timeout(PROBE_TIMEOUT, probe).await;
        health.unwrap_or_else(|_| Some(Err("timed out".into()))).map(|health| object(name, health))
    }
}

/// Whether the client wants a Table, as kubectl does.
fn wants_table(request: &Request<Body>) -> bool {
    let accept = request.headers().get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    accept.contains("as=Table") && accept.contains("g=meta.k8s.io")
}

fn table(items: &[Value]) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let condition = &item["conditions"][0];
            let healthy = condition["status"] == "True";
            let message = condition["message"].as_str().unwrap_or("");
            let (status, message, error) =
                if healthy { ("Healthy", message, "") } else { ("Unhealthy", "", message) };
            json!({"cells": [item["metadata"]["name"], status, message, error],
                   "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "rows": rows, "columnDefinitions": [
        column("Name", "name", "Name of the component."),
        column("Status", "", "Whether it is healthy."),
        column("Message", "", "What it says of itself."),
        column("Error", "", "What is wrong with it."),
    ]})
}

#[async_trait]
impl SubresourceHandler for ComponentStatus {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let (store, wanted) = (call.store.clone(), call.context.info.name.clone());
        if !wanted.is_empty() {
            let found = self.look(&store, &wanted).await;
            let mut found = found
                .ok_or_else(|| Status::not_found(&GroupResource::new("", "componentstatuses"), &wanted))?;
            found["kind"] = json!("ComponentStatus");
            found["apiVersion"] = json!("v1");
            if wants_table(&call.request) {
                return Ok(crate::names::json(StatusCode::OK, &table(&[found])));
            }
            return call.respond(StatusCode::OK, &found);
        }
        let names = LOCAL.iter().map(|(name, _)| *name).chain([STORE]);
        let items = futures::future::join_all(names.map(|name| self.look(&store, name))).await;
        let items: Vec<Value> = items.into_iter().flatten().collect();
        if wants_table(&call.request) {
            return Ok(crate::names::json(StatusCode::OK, &table(&items)));
        }
        let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
        Ok(crate::names::json(StatusCode::OK, &list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_health() {
        assert_eq!(object("a", Ok("ok".into()))["conditions"][0]["status"], "True");
        assert_eq!(object("a", Err("gone".into()))["conditions"][0]["message"], "gone");
        let table = table(&[object("a", Ok("ok".into())), object("b", Err("gone".into()))]);
        assert_eq!(table["rows"][0]["cells"], json!(["a", "Healthy", "ok", ""]));
        assert_eq!(table["rows"][1]["cells"], json!(["b", "Unhealthy", "", "gone"]));
    }
}
