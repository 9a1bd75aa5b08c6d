//! The real kubectl, over the network with TLS and a client certificate. Skipped where there is none.

use integration::Cluster;

const MANIFESTS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: nginx, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_at_home() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    // arguments, standard input, what must be in the output
    let steps: [(&[&str], &str, &str); 24] = [
        (&["get", "ns"], "", "kube-system"),
        (&["create", "ns", "team"], "", "namespace/team created"),
        (&["apply", "-f", "-"], MANIFESTS, "deployment.apps/web created"),
        (&["apply", "-f", "-"], MANIFESTS, "deployment.apps/web unchanged"),
        (&["get", "deploy", "-o", "wide"], "", "web    0/2"),
        (&["get", "deploy", "web", "-o", "jsonpath={.metadata.generation}"], "", "1"),
        (&["scale", "deploy", "web", "--replicas=3"], "", "scaled"),
        (&["set", "image", "deploy/web", "c=nginx:2"], "", "image updated"),
        (&["patch", "deploy", "web", "-p", r#"{"spec":{"replicas":4}}"#], "", "patched"),
        (&["patch", "deploy", "web", "--type=merge", "-p", r#"{"spec":{"paused":true}}"#], "", "patched"),
        (
            &["patch", "deploy", "web", "--type=json", "-p", r#"[{"op":"remove","path":"/spec/paused"}]"#],
            "",
            "patched",
        ),
        (&["apply", "--server-side", "--force-conflicts", "-f", "-"], MANIFESTS, "serverside-applied"),
        (&["diff", "-f", "-"], MANIFESTS, ""),
        (&["explain", "deployment.spec.strategy"], "", "rollingUpdate"),
        (&["api-resources"], "", "Deployment"),
        (&["label", "cm", "settings", "x=y"], "", "labeled"),
        (&["get", "cm", "-l", "x=y", "-o", "name"], "", "configmap/settings"),
        (&["annotate", "cm", "settings", "a=b"], "", "annotated"),
        (&["auth", "can-i", "create", "pods"], "", "yes"),
        (&["get", "--raw", "/readyz"], "", "ok"),
        (&["version"], "", "Server Version: v1.36"),
        (&["get", "cm", "settings", "-o", "yaml", "--show-managed-fields"], "", "manager: kubectl"),
        (&["wait", "--for=jsonpath={.spec.replicas}=2", "deploy/web", "--timeout=5s"], "", "condition met"),
        (&["delete", "-f", "-"], MANIFESTS, "deleted"),
    ];
    for (arguments, stdin, expected) in steps {
        let Some(output) = cluster.kubectl(arguments, stdin).await? else {
            cluster.stop().await;
            return Ok(());
        };
        assert!(output.contains(expected), "kubectl {arguments:?}: {output}");
    }
    cluster.stop().await;
    Ok(())
}
