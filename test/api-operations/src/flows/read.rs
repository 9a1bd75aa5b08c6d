//! Get, list, watch.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Subject;
use crate::client::Patch;
use crate::compare::contains;

/// Pages are followed this far.
const MOST_PAGES: usize = 100;

fn names(list: &Value) -> BTreeSet<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .map(|i| {
            format!(
                "{}/{}",
                i["metadata"]["namespace"].as_str().unwrap_or(""),
                i["metadata"]["name"].as_str().unwrap_or("")
            )
        })
        .collect()
}

impl Subject<'_> {
    fn identity(&self, number: u32, namespace: Option<&str>) -> String {
        format!("{}/{}", namespace.unwrap_or(""), self.sample.name(number))
    }

    /// GET of one, in all its forms.
    pub(super) async fn get(&self, created: &Value) -> anyhow::Result<()> {
        let path = self.item(0);
        let read = self.read(0).await?;
        contains(&read, &json!({"apiVersion": self.resource.group_version, "kind": self.resource.kind}))?;
        contains(
            &read["metadata"],
            &json!({"uid": created["metadata"]["uid"], "name": self.sample.name(0)}),
        )?;
        ensure!(read["metadata"]["namespace"].as_str() == self.first(), "{}", read["metadata"]["namespace"]);

        let absent = format!("{}/no-such-object", self.collection(self.first()));
        let status = self.client.get(&absent).await?.refused(404, "NotFound")?;
        let said = format!("{} \"no-such-object\" not found", self.resource.qualified());
        ensure!(status["message"] == said, "{} instead of {said:?}", status["message"]);
        contains(&status["details"], &json!({"name": "no-such-object", "kind": self.resource.plural}))?;

        let table =
            self.client.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await?.expect(200)?;
        contains(&table, &json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"}))?;
        let columns = table["columnDefinitions"].as_array().context("no columns")?;
        ensure!(!columns.is_empty(), "no columns");
        let row = &table["rows"][0];
        ensure!(row["cells"].as_array().map(Vec::len) == Some(columns.len()), "cells do not match columns");
        contains(
            &row["object"],
            &json!({"kind": "PartialObjectMetadata", "metadata": {"name": self.sample.name(0)}}),
        )?;
        let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let partial = self.client.get_as(&path, accept).await?.expect(200)?;
        contains(
            &partial,
            &json!({"kind": "PartialObjectMetadata", "metadata": {"uid": created["metadata"]["uid"]}}),
        )?;
        ensure!(partial["spec"].is_null(), "a partial object has a spec");
        let proto = self.client.get_as(&path, "application/vnd.kubernetes.protobuf").await?;
        ensure!(proto.code == 200 && proto.bytes.starts_with(b"k8s\0"), "no protobuf");
        let yaml = self.client.get_as(&path, "application/yaml").await?;
        let text = String::from_utf8_lossy(&yaml.bytes);
        ensure!(text.contains(&format!("kind: {}\n", self.resource.kind)), "no YAML: {text}");
        Ok(())
    }

    /// GET of a collection: contents, selectors, pages, and the watch from there on.
    pub(super) async fn list(&self) -> anyhow::Result<()> {
        let collection = self.collection(self.first());
        self.make(1, self.first(), &[]).await?;
        let list = self.client.get(&collection).await?.expect(200)?;
        self.list_form(&list)?;
        let both: BTreeSet<_> = [0, 1].map(|n| self.identity(n, self.first())).into();
        ensure!(names(&list).is_superset(&both), "not listed: {both:?} in {:?}", names(&list));
        if self.first().is_some() && self.sample.free_names() && self.resource.plural != "serviceaccounts" {
            ensure!(names(&list) == both, "{:?} in an own namespace", names(&list));
        }
        let one: BTreeSet<_> = [self.identity(1, self.first())].into();
        for query in [
            "labelSelector=walk%3Dn1".to_owned(),
            "labelSelector=walk+in+(n1,n7),walk+notin+(n0)".to_owned(),
            format!("fieldSelector=metadata.name%3D{}", self.sample.name(1)),
        ] {
            let found = self.client.get(&format!("{collection}?{query}")).await?.expect(200)?;
            ensure!(names(&found) == one, "{query}: {:?}", names(&found));
        }
        let wrong = self.client.get(&format!("{collection}?fieldSelector=no.such%3Dfield")).await?;
        wrong.refused(400, "BadRequest")?;
        // Other walks may come and go in a cluster-wide collection.
        let settled = if self.resource.namespaced { names(&list) } else { both };
        self.pages(&settled).await?;
        let table = self
            .client
            .get_as(
                &format!("{collection}?labelSelector=walk"),
                "application/json;as=Table;v=v1;g=meta.k8s.io",
            )
            .await?
            .expect(200)?;
        ensure!(table["rows"].as_array().map(Vec::len) == Some(2), "table: {table}");
        self.watch(&list).await?;
        self.remove(1).await?;
        self.gone(1).await
    }

    fn list_form(&self, list: &Value) -> anyhow::Result<()> {
        let kind = format!("{}List", self.resource.kind);
        contains(list, &json!({"kind": kind, "apiVersion": self.resource.group_version}))?;
        ensure!(list["metadata"]["resourceVersion"].is_string(), "a list without resourceVersion");
        let items = list["items"].as_array().context("no items")?;
        ensure!(items.iter().all(|i| i["metadata"]["uid"].is_string()), "an item without uid");
        Ok(())
    }

    async fn pages(&self, all: &BTreeSet<String>) -> anyhow::Result<()> {
        let collection = self.collection(self.first());
        let mut found = BTreeSet::new();
        let mut next = String::new();
        for page in 0..MOST_PAGES {
            let path = format!("{collection}?limit=1&continue={next}");
            let list = self.client.get(&path).await?.expect(200)?;
            ensure!(list["items"].as_array().map(Vec::len) == Some(1), "page {page} is not of one");
            found.extend(names(&list));
            let left = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize;
            ensure!(
                left + page + 1 == all.len() || !self.resource.namespaced,
                "{left} remain after page {page} of {}",
                all.len()
            );
            match list["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => token.clone_into(&mut next),
                _ => break,
            }
        }
        ensure!(found.is_superset(all), "pages have {found:?} of {all:?}");
        Ok(())
    }

    /// An object's life as a watch tells it.
    async fn watch(&self, list: &Value) -> anyhow::Result<()> {
        let collection = self.collection(self.first());
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("");
        let selected = format!("fieldSelector=metadata.name%3D{}", self.sample.name(2));
        let mut watch = self
            .client
            .watch(&format!("{collection}?watch=true&resourceVersion={version}&{selected}&timeoutSeconds=60"))
            .await?;
        let made = self.make(2, self.first(), &[]).await?;
        let added = watch.expect("ADDED").await?;
        self.watch_by_path(&made).await?;
        contains(&added, &json!({"kind": self.resource.kind, "metadata": {"uid": made["metadata"]["uid"]}}))?;
        let note = json!({"metadata": {"annotations": {"watched": "yes"}}});
        self.client.patch(&self.item(2), Patch::Merge, &note).await?.expect(200)?;
        loop {
            let modified = watch.expect("MODIFIED").await?;
            if modified["metadata"]["annotations"]["watched"] == "yes" {
                break;
            }
            ensure!(self.sample.settles, "modified by somebody else: {modified}");
        }
        self.remove(2).await?;
        if self.lingers() {
            let marked = watch.expect("MODIFIED").await?;
            ensure!(marked["metadata"]["deletionTimestamp"].is_string(), "watch: no deletionTimestamp");
            self.release(2).await?;
        }
        let deleted = watch.expect("DELETED").await?;
        contains(&deleted["metadata"], &json!({"uid": made["metadata"]["uid"]}))
    }

    /// The path that watches had before they were a parameter.
    async fn watch_by_path(&self, made: &Value) -> anyhow::Result<()> {
        let collection = self.collection(self.first());
        let path = collection.replacen(&self.resource.root(), &format!("{}/watch", self.resource.root()), 1);
        let mut watch =
            self.client.watch(&format!("{path}/{}?timeoutSeconds=60", self.sample.name(2))).await?;
        contains(&watch.expect("ADDED").await?["metadata"], &json!({"uid": made["metadata"]["uid"]}))
    }

    /// GET of all namespaces.
    pub(super) async fn list_everywhere(&self) -> anyhow::Result<()> {
        let everywhere = self.collection(None);
        self.make(6, self.second(), &[]).await?;
        let list = self.client.get(&everywhere).await?.expect(200)?;
        self.list_form(&list)?;
        let both: BTreeSet<_> = [self.identity(0, self.first()), self.identity(6, self.second())].into();
        ensure!(names(&list).is_superset(&both), "not listed: {both:?}");
        let one: BTreeSet<_> = [self.identity(6, self.second())].into();
        let query = format!("fieldSelector=metadata.namespace%3D{}", self.second().unwrap_or(""));
        let found =
            self.client.get(&format!("{everywhere}?{query}&labelSelector=walk")).await?.expect(200)?;
        ensure!(names(&found) == one, "{query}: {:?}", names(&found));
        Ok(())
    }
}
