//! Looking at what there is: describe, logs, events, explain, discovery, authorization.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Context, LONG, SHORT, eventually};
use serde_json::json;

use crate::manifests::{idle_pod, shell_pod, wait_for};

/// What a follower of logs must see come one by one.
const CHATTER: &str = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); sleep 0.2; done";

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let mut labelled = idle_pod("steady");
    labelled["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "5m"}, "limits": {"memory": "32Mi"}});
    let once = shell_pod("once", "echo to stdout; echo to stderr >&2; exit 0");
    let mut crasher = shell_pod("crasher", "echo run by $HOSTNAME at $(date +%s%N); exit 3");
    crasher["spec"]["restartPolicy"] = json!("Always");
    let mut finished = once;
    finished["spec"]["restartPolicy"] = json!("Never");
    kubectl.apply(&[labelled, finished, crasher, shell_pod("chatter", CHATTER)])?;
    wait_for(kubectl, "Ready", "pod/steady")?;

    kubectl.shows(
        "describe pod steady",
        &[
            "Name:             steady",
            "Status:           Running",
            "QoS Class:",
            "Burstable",
            "Scheduled",
            "Started",
        ],
    )?;
    kubectl.shows(
        "describe node node1",
        &["Name:               node1", "PodCIDR:", "10.244.", "Allocated resources:"],
    )?;
    kubectl.shows("describe namespace inspect", &["Status:       Active"])?;
    logs(context)?;

    let events = eventually("events of the pod", SHORT, || {
        let events = kubectl.run("events --for pod/steady")?;
        ensure!(events.contains("Started"), "{events}");
        Ok(events)
    })?;
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        ensure!(events.contains(reason), "no {reason} in {events}");
    }
    kubectl.shows("get events --field-selector involvedObject.name=steady", &["pod/steady"])?;
    discovery(context)?;
    authorization(context)?;
    let top = kubectl.fail("top pods")?;
    ensure!(top.contains("Metrics API not available"), "{top}");
    Ok(())
}

fn logs(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    kubectl.wait_value("pod/once", ".status.phase", "Succeeded", LONG)?;
    let both = kubectl.run("logs once")?;
    ensure!(both.contains("to stdout\n") && both.contains("to stderr\n"), "{both}");

    let mut follower = kubectl.start("logs -f chatter")?;
    let first = follower.wait_for("line 3\n", LONG)?;
    ensure!(first.starts_with("line 0\nline 1\n"), "{first}");
    follower.wait_for("line 12\n", SHORT)?;
    ensure!(follower.is_running()?, "following ends with the container only");
    let tail = kubectl.run("logs chatter --tail=2")?;
    ensure!(tail.lines().count() == 2, "{tail}");
    let stamped = kubectl.run("logs chatter --timestamps --tail=1")?;
    ensure!(stamped.contains('T') && stamped.contains("Z line "), "{stamped}");
    let limited = kubectl.run("logs chatter --limit-bytes=6")?;
    ensure!(limited == "line 0", "{limited:?}");

    eventually("the container that fails is started again", LONG, || {
        let count: u32 =
            kubectl.value("pod/crasher", ".status.containerStatuses[0].restartCount")?.parse()?;
        ensure!(count >= 1, "restarted {count} times");
        Ok(())
    })?;
    eventually("logs of both runs", Duration::from_secs(30), || {
        let previous = kubectl.run("logs crasher --previous")?;
        ensure!(previous.starts_with("run by crasher at ") && previous.lines().count() == 1, "{previous:?}");
        Ok(())
    })?;
    let none = kubectl.fail("logs steady --previous")?;
    ensure!(none.contains("previous terminated container \"main\" in pod \"steady\" not found"), "{none}");
    Ok(())
}

fn discovery(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let fields = kubectl.run("explain deployment.spec.replicas")?;
    ensure!(fields.contains("FIELD: replicas <integer>") && fields.contains("GROUP:      apps"), "{fields}");
    ensure!(!fields.contains("<empty>"), "a field without description: {fields}");
    kubectl.shows(
        "explain pod.spec --recursive",
        &["containers\t<[]Container> -required-", "terminationGracePeriodSeconds\t<integer>"],
    )?;
    let resources = kubectl.run("api-resources")?;
    for line in
        ["pods po v1 true Pod", "deployments deploy apps/v1 true Deployment", "nodes no v1 false Node"]
    {
        let found =
            resources.lines().any(|row| row.split_ascii_whitespace().collect::<Vec<_>>().join(" ") == line);
        ensure!(found, "no {line:?} in\n{resources}");
    }
    kubectl
        .shows("api-versions", &["apps/v1\n", "batch/v1\n", "rbac.authorization.k8s.io/v1\n", "\nv1\n"])?;
    kubectl.shows("version", &["Server Version: v1.36."])?;
    kubectl.shows("cluster-info", &["is running at"])?;
    Ok(())
}

fn authorization(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    ensure!(kubectl.run("auth can-i create pods")? == "yes\n", "the administrator may");
    let nobody = kubectl.ended("auth can-i create pods --as nobody")?;
    ensure!(nobody.stdout == "no\n" && !nobody.status.success(), "{nobody:?}");
    kubectl.shows("auth whoami", &["system:masters"])?;
    let refused = kubectl.fail("get pods --as nobody")?;
    let wanted = "pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"inspect\"";
    ensure!(refused.contains(wanted), "{refused}");

    kubectl.run("create serviceaccount reader")?;
    kubectl.run("create role reader --verb=get,list --resource=pods")?;
    kubectl.run("create rolebinding reader --role=reader --serviceaccount=inspect:reader")?;
    let token = kubectl.run("create token reader --duration=600s")?;
    ensure!(token.trim().split('.').count() == 3, "not a token: {token}");
    // The administrator's certificate must not speak for the bearer: a kubeconfig with the token alone.
    let server = format!("https://127.0.0.1:{}", context.cluster.port());
    let authority = context.cluster.root().join("pki/ca.crt").display().to_string();
    let bearer = kubectl.with_environment("KUBECONFIG", "/dev/null");
    let common = format!("--server={server} --certificate-authority={authority} --token={}", token.trim());
    eventually("the role works", SHORT, || bearer.run(&format!("get pods {common}")).map(drop))?;
    let refused = bearer.fail(&format!("delete pod steady {common}"))?;
    ensure!(
        refused.contains("User \"system:serviceaccount:inspect:reader\" cannot delete resource"),
        "{refused}"
    );
    let refused = bearer
        .fail(&format!("get pods --server={server} --certificate-authority={authority} --token=x.y.z"))?;
    ensure!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    Ok(())
}
