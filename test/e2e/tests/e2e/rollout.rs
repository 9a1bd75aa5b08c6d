//! Changing a Deployment: scale, set, rollout, expose.

use anyhow::ensure;
use e2e::{Context, LONG, eventually};

use crate::manifests::server_deployment;

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let status =
        || kubectl.shows("rollout status deployment/web --timeout=90s", &["successfully rolled out"]);
    kubectl.apply(&[server_deployment("web", 2)])?;
    status()?;

    kubectl.shows("scale deployment/web --replicas=4", &["deployment.apps/web scaled"])?;
    kubectl.wait_value("deployment/web", ".status.readyReplicas", "4", LONG)?;
    let refused = kubectl.fail("scale deployment/web --current-replicas=9 --replicas=1")?;
    ensure!(refused.contains("Expected replicas to be 9, was 4"), "{refused}");
    kubectl.run("scale deployment/web --replicas=2")?;
    let two_left = || {
        eventually("two pods are left", LONG, || {
            let pods = kubectl.run("get pods -l app=web -o name")?;
            ensure!(pods.lines().count() == 2, "{pods}");
            Ok(())
        })
    };
    two_left()?;

    kubectl.shows("set env deployment/web COLOUR=blue", &["env updated"])?;
    status()?;
    // The old pods are on their way out for a moment.
    two_left()?;
    let pod = kubectl.run(
        "get pods -l app=web --field-selector status.phase=Running -o jsonpath={.items[0].metadata.name}",
    )?;
    let colour = kubectl.run(["exec", &pod, "--", "sh", "-c", "echo $COLOUR"])?;
    ensure!(colour == "blue\n", "{colour}");

    // An image that no node has: the rollout stops before it harms, and is undone.
    kubectl.run("set image deployment/web web=kubewright.test/absent:1")?;
    eventually("the new pod cannot get its image", LONG, || {
        let reasons = kubectl.run([
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}",
        ])?;
        ensure!(reasons.contains("ErrImagePull") || reasons.contains("ImagePullBackOff"), "{reasons:?}");
        Ok(())
    })?;
    let available = kubectl.value("deployment/web", ".status.availableReplicas")?;
    ensure!(available == "2", "{available} replicas are available while a bad image is rolled out");
    let stuck = kubectl.fail("rollout status deployment/web --timeout=1s")?;
    ensure!(stuck.contains("timed out waiting for the condition"), "{stuck}");

    let history = kubectl.run("rollout history deployment/web")?;
    let revisions: Vec<&str> =
        history.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(revisions == ["1", "2", "3"], "{history}");
    kubectl.shows("rollout history deployment/web --revision=2", &["COLOUR:", "blue"])?;
    kubectl.shows("rollout undo deployment/web", &["rolled back"])?;
    status()?;
    let image = kubectl.value("deployment/web", ".spec.template.spec.containers[0].image")?;
    ensure!(image == e2e::TESTSERVER, "{image}");
    let history = kubectl.run("rollout history deployment/web")?;
    ensure!(
        history.lines().any(|line| line.starts_with('4'))
            && !history.lines().any(|line| line.starts_with('2')),
        "{history}"
    );
    kubectl.run("rollout undo deployment/web --to-revision=1")?;
    status()?;
    let environment = kubectl.value("deployment/web", ".spec.template.spec.containers[0].env")?;
    ensure!(environment.is_empty(), "{environment}");

    let before = kubectl.run("get pods -l app=web -o jsonpath={.items[*].metadata.uid}")?;
    kubectl.shows("rollout restart deployment/web", &["restarted"])?;
    status()?;
    eventually("every pod is a new one", LONG, || {
        let after = kubectl.run("get pods -l app=web -o jsonpath={.items[*].metadata.uid}")?;
        ensure!(!after.split(' ').any(|uid| before.contains(uid)), "{before} and {after}");
        Ok(())
    })?;

    kubectl.run("rollout pause deployment/web")?;
    kubectl.run("set env deployment/web LATER=yes")?;
    let paused = kubectl.value("deployment/web", ".spec.paused")?;
    ensure!(paused == "true", "{paused:?}");
    kubectl.run("rollout resume deployment/web")?;
    status()?;

    kubectl.run("expose deployment/web --name=front --port=80 --target-port=http")?;
    let selector = kubectl.value("service/front", ".spec.selector.app")?;
    let address = kubectl.value("service/front", ".spec.clusterIP")?;
    ensure!(selector == "web" && address.starts_with("10.96."), "{selector} {address}");
    kubectl.run("autoscale deployment/web --min=1 --max=3 --cpu=50%")?;
    let most = kubectl.value("hpa/web", ".spec.maxReplicas")?;
    ensure!(most == "3", "{most}");
    Ok(())
}
