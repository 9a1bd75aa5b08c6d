//! Requests as the cluster's administrator, and what an answer has to look like.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

/// Longest wait for an answer or a watch event.
const LIMIT: Duration = Duration::from_secs(30);

/// Characters of a body that are quoted.
const TOLD: usize = 300;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, by merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Patch {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    kube: kube::Client,
}

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    what: String,
    /// Status code.
    pub(crate) code: u16,
    /// The whole body.
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.json()["message"].as_str() {
            Some(message) => message.to_owned(),
            None => text.chars().take(TOLD).collect(),
        }
    }

    /// The body, if the status is this one.
    pub(crate) fn expect(&self, code: u16) -> anyhow::Result<Value> {
        ensure!(self.code == code, "{}: {} instead of {code}: {}", self.what, self.code, self.told());
        Ok(self.json())
    }

    /// The Status of a refusal for this reason.
    pub(crate) fn refused(&self, code: u16, reason: &str) -> anyhow::Result<Value> {
        let status = self.expect(code)?;
        ensure!(
            status["kind"] == "Status"
                && status["apiVersion"] == "v1"
                && status["status"] == "Failure"
                && status["reason"] == reason
                && status["code"] == code,
            "{}: {status} instead of {reason}",
            self.what
        );
        Ok(status)
    }

    /// A refusal that says so in these words.
    pub(crate) fn refused_with(&self, code: u16, reason: &str, words: &str) -> anyhow::Result<()> {
        let status = self.refused(code, reason)?;
        let message = status["message"].as_str().unwrap_or("");
        ensure!(message.contains(words), "{}: {message:?} does not say {words:?}", self.what);
        Ok(())
    }
}

impl Client {
    pub(crate) fn new(kube: kube::Client) -> Self {
        Self { kube }
    }

    /// Sends a request with headers and returns the whole answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body))?;
        let answer = async {
            let (parts, body) = self.kube.send(request).await?.into_parts();
            let bytes = body.collect().await?.to_bytes().to_vec();
            anyhow::Ok(Answer { what: what.clone(), code: parts.status.as_u16(), bytes })
        };
        tokio::time::timeout(LIMIT, answer).await.with_context(|| format!("{what}: no answer"))?.context(what)
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, &[], Vec::new()).await
    }

    /// Reads in another form.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, &[("accept", accept)], Vec::new()).await
    }

    /// Sends an object with a method.
    pub(crate) async fn object(&self, method: &str, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.send(method, path, &[("content-type", "application/json")], object.to_string().into_bytes())
            .await
    }

    /// Creates.
    pub(crate) async fn post(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.object("POST", path, object).await
    }

    /// Replaces.
    pub(crate) async fn put(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.object("PUT", path, object).await
    }

    /// Patches.
    pub(crate) async fn patch(&self, path: &str, form: Patch, patch: &Value) -> anyhow::Result<Answer> {
        let headers = [("content-type", form.content_type())];
        self.send("PATCH", path, &headers, patch.to_string().into_bytes()).await
    }

    /// Deletes, with options unless null.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<Answer> {
        if options.is_null() {
            return self.send("DELETE", path, &[], Vec::new()).await;
        }
        self.object("DELETE", path, options).await
    }

    /// Opens a watch; the path has `watch=true` in its query.
    pub(crate) async fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let request = Request::builder().method("GET").uri(path).body(Body::empty())?;
        let response =
            tokio::time::timeout(LIMIT, self.kube.send(request)).await.with_context(|| path.to_owned())??;
        ensure!(response.status() == 200, "watch {path}: {}", response.status());
        Ok(Watch { path: path.to_owned(), body: response.into_body(), read: Vec::new() })
    }
}

/// An open watch.
pub(crate) struct Watch {
    path: String,
    body: Body,
    read: Vec<u8>,
}

impl Watch {
    /// The next event, which has to be of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> anyhow::Result<Value> {
        let event = tokio::time::timeout(LIMIT, self.next())
            .await
            .with_context(|| format!("watch {}: no {kind}", self.path))??;
        ensure!(event["type"] == kind, "watch {}: {} instead of {kind}", self.path, event["type"]);
        Ok(event["object"].clone())
    }

    async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).context("event");
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None => bail!("watch {}: ended", self.path),
            }
        }
    }
}
