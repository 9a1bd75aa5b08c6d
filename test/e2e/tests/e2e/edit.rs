//! Changing objects: label, annotate, edit, patch, apply on the server, diff, wait, replace.

use anyhow::ensure;
use e2e::{Context, SHORT};
use serde_json::json;

use crate::manifests::server_deployment;

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    // Nothing here needs pods.
    kubectl.apply(&[server_deployment("web", 0)])?;
    let label = || kubectl.value("deployment/web", ".metadata.labels.colour");
    let note = || kubectl.value("deployment/web", ".metadata.annotations.note");

    kubectl.shows("label deployment/web colour=red", &["deployment.apps/web labeled"])?;
    ensure!(label()? == "red", "labelled");
    let refused = kubectl.fail("label deployment/web colour=blue")?;
    ensure!(refused.contains("already has a value (red), and --overwrite is false"), "{refused}");
    kubectl.run(["annotate", "deployment/web", "note=a b"])?;
    ensure!(note()? == "a b", "annotated");
    kubectl.run("annotate deployment/web note-")?;
    ensure!(note()?.is_empty(), "the annotation is gone");

    let editor = kubectl.with_environment("KUBE_EDITOR", "sed -i 's/colour: red/colour: green/'");
    editor.shows("edit deployment/web", &["deployment.apps/web edited"])?;
    ensure!(label()? == "green", "edited");
    let unchanged = editor.ended("edit deployment/web")?;
    ensure!(unchanged.stderr.contains("Edit cancelled, no changes made"), "{unchanged:?}");

    patch(context)?;
    server_side(context)?;

    let mut changed = server_deployment("web", 0);
    changed["spec"]["minReadySeconds"] = json!(7);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("web.json");
    std::fs::write(&file, changed.to_string())?;
    let file = file.display().to_string();
    let difference = kubectl.ended(["diff", "-f", &file])?;
    ensure!(difference.status.code() == Some(1), "{difference:?}");
    ensure!(difference.stdout.contains("+  minReadySeconds: 7"), "{}", difference.stdout);
    let seconds = kubectl.value("deployment/web", ".spec.minReadySeconds")?;
    ensure!(seconds.is_empty(), "a diff changes nothing");
    kubectl.run(["apply", "-f", &file])?;
    let same = kubectl.ended(["diff", "-f", &file])?;
    ensure!(same.status.success() && same.stdout.is_empty(), "{same:?}");

    kubectl.run("wait deployment/web --for=jsonpath={.spec.minReadySeconds}=7 --timeout=10s")?;
    let late = kubectl.fail("wait deployment/web --for=jsonpath={.spec.minReadySeconds}=8 --timeout=1s")?;
    ensure!(late.contains("timed out waiting for the condition"), "{late}");
    kubectl.run("create configmap kept --from-literal=key=one")?;
    let kept = kubectl.json("get configmap kept")?;
    let mut replaced = kept.clone();
    replaced["data"]["key"] = json!("two");
    kubectl.run_with("replace -f -", &replaced.to_string())?;
    let mut conflict = kubectl.start("replace -f -")?;
    conflict.write(&kept.to_string())?;
    conflict.close_input();
    let conflict = conflict.end()?.failure()?;
    ensure!(conflict.contains("the object has been modified"), "{conflict}");

    let invalid = kubectl.fail(["patch", "deployment/web", "-p", "{\"spec\":{\"replicas\":-1}}"])?;
    ensure!(
        invalid.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{invalid}"
    );
    let mut unknown = server_deployment("typo", 0);
    unknown["spec"]["replica"] = json!(1);
    let mut strict = kubectl.start("create -f -")?;
    strict.write(&unknown.to_string())?;
    strict.close_input();
    let strict = strict.end()?.failure()?;
    ensure!(strict.contains("strict decoding error: unknown field \"spec.replica\""), "{strict}");
    Ok(())
}

fn patch(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let patch = |kind: &str, body: serde_json::Value| {
        kubectl.run(["patch", "deployment/web", "--type", kind, "-p", &body.to_string()])
    };
    let names = || kubectl.value("deployment/web", ".spec.template.spec.containers[*].env[*].name");
    patch("json", json!([{"op": "replace", "path": "/metadata/labels/colour", "value": "white"}]))?;
    kubectl.wait_value("deployment/web", ".metadata.labels.colour", "white", SHORT)?;
    let failed = kubectl.fail([
        "patch",
        "deployment/web",
        "--type=json",
        "-p",
        r#"[{"op":"test","path":"/metadata/labels/colour","value":"x"}]"#,
    ])?;
    ensure!(
        failed.contains("the server rejected our request") || failed.contains("testing value"),
        "{failed}"
    );
    patch("merge", json!({"metadata": {"labels": {"colour": null, "size": "l"}}}))?;
    let labels = kubectl.value("deployment/web", ".metadata.labels")?;
    ensure!(labels.contains("\"size\":\"l\"") && !labels.contains("colour"), "{labels}");
    // A strategic merge joins lists by key, a merge patch replaces them.
    for name in ["FIRST", "SECOND"] {
        let containers = json!([{"name": "web", "env": [{"name": name, "value": "1"}]}]);
        patch("strategic", json!({"spec": {"template": {"spec": {"containers": containers}}}}))?;
    }
    ensure!(names()? == "SECOND FIRST" || names()? == "FIRST SECOND", "{}", names()?);
    let containers = json!([{"name": "web", "env": [{"name": "FIRST", "$patch": "delete"}]}]);
    patch("strategic", json!({"spec": {"template": {"spec": {"containers": containers}}}}))?;
    ensure!(names()? == "SECOND", "{}", names()?);
    kubectl.run([
        "patch",
        "deployment/web",
        "--subresource=scale",
        "--type=merge",
        "-p",
        r#"{"spec":{"replicas":0}}"#,
    ])?;
    Ok(())
}

fn server_side(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let map = |key: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}, "data": {key: value}})
            .to_string()
    };
    let apply = |manager: &str, text: &str| {
        kubectl.run_with(&format!("apply --server-side --field-manager={manager} -f -"), text)
    };
    let created = apply("one", &map("a", "1"))?;
    ensure!(created == "configmap/owned serverside-applied\n", "{created}");
    apply("two", &map("b", "2"))?;
    let data = kubectl.value("configmap/owned", ".data")?;
    ensure!(data == r#"{"a":"1","b":"2"}"#, "{data}");
    let mut conflict = kubectl.start("apply --server-side --field-manager=two -f -")?;
    conflict.write(&map("a", "9"))?;
    conflict.close_input();
    let conflict = conflict.end()?.failure()?;
    ensure!(conflict.contains("conflict with \"one\": .data.a"), "{conflict}");
    kubectl.run_with("apply --server-side --field-manager=two --force-conflicts -f -", &map("a", "9"))?;
    // What a manager no longer applies and nobody else owns goes away.
    let data = kubectl.value("configmap/owned", ".data")?;
    ensure!(data == r#"{"a":"9"}"#, "{data}");
    Ok(())
}
