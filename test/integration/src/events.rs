//! What a watch says, event by event.

use std::time::Duration;

use ::component::http::{Body, empty};
use anyhow::ensure;
use auth::UserInfo;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::Cluster;

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events of a watch, line by line.
pub struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// Opens a watch as the administrator.
    pub async fn open(cluster: &Cluster, path: &str) -> anyhow::Result<Self> {
        let admin = UserInfo::new("admin", &["system:masters"]);
        let response = cluster.open(admin, "GET", path, empty(), &[]).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(Self { body: response.into_body(), rest: Vec::new() })
    }

    /// The next event, `None` at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match tokio::time::timeout(PATIENCE, self.body.frame()).await? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|e| anyhow::anyhow!(e))?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The object of the next event, which must be of this type and name.
    pub async fn expect(&mut self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let event = self.next().await?.unwrap_or_default();
        let seen = (event["type"].as_str(), event["object"]["metadata"]["name"].as_str());
        ensure!(seen == (Some(kind), Some(name)), "wanted {kind} {name}, not {event}");
        Ok(event["object"].clone())
    }

    /// The events up to the end, as `TYPE NAME`, or `TYPE` alone for objects without a name.
    pub async fn rest(mut self) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await? {
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or("");
            all.push(format!("{} {name}", event["type"].as_str().unwrap_or("")).trim_end().to_owned());
        }
        Ok(all)
    }
}
