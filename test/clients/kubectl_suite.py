"""Upstream's kubectl against our server: what needs no node."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest
import uuid

LIMIT_SECONDS = 60

# A request for a certificate of the user walker, PEM in base64.
REQUEST = (
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIS01ITUNBUUF3RVRFUE1BMEdBMVVFQXd3R2QyRnNhMlZ5TUZrd0V3WUhLb1"
    "pJemowQ0FRWUlLb1pJemowRApBUWNEUWdBRXNBcDRMaDA2dkZKVVYyNEhoNFNoZFZBMnh3U2YzRjRuWmpDRXN0Z0pqSTZ3NzhaSEd3bUxYU3du"
    "CkMvRmVSa2k5YmpPWUw1Yy95WXFveVBGQlVObTRTcUFBTUFvR0NDcUdTTTQ5QkFNQ0EwY0FNRVFDSUVYZGlVVXcKdzE2WlhKaFg3MHVnajZ3YU"
    "hTT3JsZms1UWZWTGwwa1oxNDZUQWlBelJhR25mclR5UUh5YjByaW9xWFJha3hrSgpTRFhoVCs2cytzTmN2SkhGZGc9PQotLS0tLUVORCBDRVJU"
    "SUZJQ0FURSBSRVFVRVNULS0tLS0K"
)

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {tier: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: example.com/web:1
        env: [{name: COLOUR, value: blue}]
"""


class Case(unittest.TestCase):
    """Tests in a namespace of their own."""

    @classmethod
    def setUpClass(cls):
        cls.program = os.environ["KUBECTL_UNDER_TEST"]
        cls.namespace = f"kubectl-{uuid.uuid4().hex[:8]}"
        cls.run_anywhere("create", "namespace", cls.namespace)

    @classmethod
    def tearDownClass(cls):
        cls.run_anywhere("delete", "namespace", cls.namespace, "--wait=false")

    @classmethod
    def run_anywhere(cls, *arguments, stdin="", code=0):
        done = subprocess.run([cls.program, *arguments], input=stdin, capture_output=True, text=True, timeout=LIMIT_SECONDS,
                              check=False)
        if done.returncode != code:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def kubectl(self, *arguments, stdin="", code=0):
        """What kubectl says in this namespace."""
        return self.run_anywhere("-n", self.namespace, *arguments, stdin=stdin, code=code)

    def apply(self, text, *more, code=0):
        return self.kubectl("apply", "-f", "-", *more, stdin=text, code=code)

    def says(self, words, *arguments, stdin="", code=0):
        self.assertIn(words, self.kubectl(*arguments, stdin=stdin, code=code))


class Explain(Case):
    def test_every_resource(self):
        """The descriptions come from OpenAPI v3, which has to have every kind that discovery has."""
        lines = self.run_anywhere("api-resources", "--no-headers", "-o", "wide").splitlines()
        self.assertGreater(len(lines), 50)
        for line in lines:
            name, version = line.split()[0], next(w for w in line.split() if w == "v1" or "/v" in w)
            with self.subTest(resource=name, version=version):
                text = self.run_anywhere("explain", name, f"--api-version={version}", "--recursive")
                self.assertIn("FIELDS:", text)
                self.assertIn("apiVersion\t<string>", text)

    def test_a_field(self):
        self.says("FIELD: replicas <integer>", "explain", "deployment.spec.replicas")
        self.says('field "nope" does not exist', "explain", "deployment.nope", code=1)


class Apply(Case):
    def test_three_way(self):
        self.assertIn("deployment.apps/web created", self.apply(DEPLOYMENT))
        self.assertIn("deployment.apps/web unchanged", self.apply(DEPLOYMENT))
        # Somebody scales it; what is not in the file stays, what leaves the file goes.
        self.kubectl("label", "deployment/web", "by=hand")
        without = DEPLOYMENT.replace("tier: front", "shelf: top").replace(
            "        env: [{name: COLOUR, value: blue}]\n", "        ports: [{containerPort: 80}]\n")
        self.assertIn("configured", self.apply(without))
        labels = self.kubectl("get", "deployment/web", "-o", "jsonpath={.metadata.labels}")
        self.assertEqual(json.loads(labels), {"by": "hand", "shelf": "top"})
        container = json.loads(self.kubectl("get", "deployment/web", "-o", "jsonpath={.spec.template.spec.containers[0]}"))
        self.assertNotIn("env", container)
        self.assertEqual(container["ports"], [{"containerPort": 80, "protocol": "TCP"}])
        self.assertIn("web", self.kubectl("apply", "view-last-applied", "deployment/web"))

    def test_server_side(self):
        text = DEPLOYMENT.replace("web", "served")
        self.assertIn("serverside-applied", self.apply(text, "--server-side"))
        other = text.replace("replicas: 2", "replicas: 5")
        conflict = self.apply(other, "--server-side", "--field-manager=other", code=1)
        self.assertIn('conflict with "kubectl": .spec.replicas', conflict)
        self.apply(other, "--server-side", "--field-manager=other", "--force-conflicts")
        self.assertEqual(self.kubectl("get", "deployment/served", "-o", "jsonpath={.spec.replicas}"), "5")
        fields = self.kubectl("get", "deployment/served", "--show-managed-fields", "-o", "yaml")
        self.assertIn("manager: other", fields)

    def test_the_client_side_becomes_server_side(self):
        text = DEPLOYMENT.replace("web", "moved")
        self.apply(text)
        self.apply(text.replace("        env: [{name: COLOUR, value: blue}]\n", ""), "--server-side")
        env = self.kubectl("get", "deployment/moved", "-o", "jsonpath={.spec.template.spec.containers[0].env}")
        self.assertEqual(env, "")

    def test_diff(self):
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: compared}\ndata: {a: '%s'}\n"
        self.apply(text % 1)
        self.assertEqual(self.kubectl("diff", "-f", "-", stdin=text % 1), "")
        changed = self.kubectl("diff", "-f", "-", stdin=text % 2, code=1)
        self.assertRegex(changed, '(?m)^-  a: "1"$')
        self.assertRegex(changed, '(?m)^\\+  a: "2"$')
        self.assertRegex(self.kubectl("diff", "--server-side", "-f", "-", stdin=text % 2, code=1), '(?m)^\\+  a: "2"$')

    def test_prune_and_dry_runs(self):
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {set: pruned}}\n"
        self.apply(text % "one" + "---\n" + text % "two")
        self.assertIn("configmap/two pruned", self.apply(
            text % "one", "--prune", "-l", "set=pruned", "--prune-allowlist=core/v1/ConfigMap"))
        self.assertIn("(server dry run)", self.apply(text % "three", "--dry-run=server"))
        self.says("NotFound", "get", "configmap/three", code=1)

    def test_validation(self):
        wrong = DEPLOYMENT.replace("replicas: 2", "replica: 2")
        self.assertIn('unknown field "spec.replica"', self.apply(wrong, code=1))
        self.assertIn('unknown field "spec.replica"', self.apply(wrong.replace("web", "warned"), "--validate=warn"))


class Output(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_anywhere("-n", cls.namespace, "create", "configmap", "shown", "--from-literal=a=1", "--from-literal=b=2")
        cls.run_anywhere("-n", cls.namespace, "label", "configmap/shown", "colour=red")

    def test_formats(self):
        found = json.loads(self.kubectl("get", "configmap/shown", "-o", "json"))
        self.assertEqual(found["data"], {"a": "1", "b": "2"})
        self.assertNotIn("managedFields", found["metadata"])
        self.says('data:\n  a: "1"\n  b: "2"\n', "get", "configmap/shown", "-o", "yaml")
        for arguments, wanted in [
            (("-o", "name"), "configmap/shown\n"),
            (("-o", "jsonpath={.data.b}"), "2"),
            (("-o", "go-template={{range $k, $v := .data}}{{$k}}={{$v}};{{end}}"), "a=1;b=2;"),
            (("-o", "custom-columns=N:.metadata.name,A:.data.a"), "N       A\nshown   1\n"),
        ]:
            self.assertEqual(self.kubectl("get", "configmap/shown", *arguments), wanted)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "template"
            file.write_text("{.metadata.name}")
            self.assertEqual(self.kubectl("get", "configmap/shown", "-o", f"jsonpath-file={file}"), "shown")
            file.write_text("N\n.metadata.name\n")
            self.assertEqual(self.kubectl("get", "configmap/shown", "-o", f"custom-columns-file={file}"), "N\nshown\n")

    def test_tables(self):
        table = self.kubectl("get", "configmaps", "shown", "-L", "colour").splitlines()
        self.assertEqual(table[0].split(), ["NAME", "DATA", "AGE", "COLOUR"])
        self.assertEqual([table[1].split()[i] for i in (0, 1, 3)], ["shown", "2", "red"])
        wide = self.kubectl("get", "services", "-A", "-o", "wide").splitlines()
        self.assertEqual(wide[0].split(), ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"])
        self.assertIn("kubernetes", wide[1])
        self.assertEqual(self.kubectl("get", "configmaps", "-l", "colour=red", "--no-headers", "-o", "name"), "configmap/shown\n")
        sorted_names = self.run_anywhere("get", "namespaces", "--sort-by=.metadata.name", "-o", "name").split()
        self.assertEqual(sorted_names, sorted(sorted_names))
        self.says("configmap/shown", "get", "configmaps,secrets", "--show-kind", "--ignore-not-found")
        self.says("Name:         shown", "describe", "configmap", "shown")

    def test_watch(self):
        command = [self.program, "-n", self.namespace, "get", "configmaps", "-w", "-o", "name", "--field-selector=metadata.name=later"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                self.kubectl("create", "configmap", "later")
                self.assertEqual(child.stdout.readline(), "configmap/later\n")
                self.kubectl("annotate", "configmap/later", "a=b")
                self.assertEqual(child.stdout.readline(), "configmap/later\n")
            finally:
                child.terminate()

    def test_raw_and_versions(self):
        self.assertEqual(self.run_anywhere("get", "--raw", "/readyz"), "ok")
        self.assertIn("Server Version: v1.36", self.run_anywhere("version"))
        self.assertIn("apps/v1", self.run_anywhere("api-versions"))


class Change(Case):
    def test_patches(self):
        self.apply(DEPLOYMENT.replace("web", "patched"))
        self.kubectl("patch", "deployment/patched", "-p", '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x"}]}}}}')
        names = "jsonpath={.spec.template.spec.containers[*].name}"
        self.assertEqual(sorted(self.kubectl("get", "deployment/patched", "-o", names).split()), ["main", "side"])
        self.kubectl("patch", "deployment/patched", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":7}]')
        self.kubectl("patch", "deployment/patched", "--type=merge", "-p", '{"metadata":{"labels":{"merged":"yes"}}}')
        self.kubectl("patch", "deployment/patched", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":3}}')
        self.assertEqual(self.kubectl("get", "deployment/patched", "-o", "jsonpath={.spec.replicas} {.metadata.labels.merged}"), "3 yes")
        self.kubectl("scale", "deployment/patched", "--replicas=1")
        self.kubectl("set", "image", "deployment/patched", "main=example.com/web:2")
        self.kubectl("set", "env", "deployment/patched", "COLOUR=red")
        self.kubectl("set", "resources", "deployment/patched", "--limits=cpu=1")
        self.says("COLOUR=red", "set", "env", "deployment/patched", "--list")
        self.kubectl("autoscale", "deployment/patched", "--min=1", "--max=3")
        self.kubectl("expose", "deployment/patched", "--port=80")
        self.says("patched", "get", "hpa,service", "-o", "name")

    def test_replace(self):
        self.kubectl("create", "configmap", "old", "--from-literal=a=1")
        uid = self.kubectl("get", "configmap/old", "-o", "jsonpath={.metadata.uid}")
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\ndata: {a: '2'}\n"
        self.assertIn("configmap/old replaced", self.kubectl("replace", "-f", "-", stdin=text))
        self.assertEqual(self.kubectl("get", "configmap/old", "-o", "jsonpath={.metadata.uid}"), uid)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            said = self.kubectl("replace", "--force", "-f", file.name)
        self.assertIn('configmap "old" deleted', said)
        self.assertNotEqual(self.kubectl("get", "configmap/old", "-o", "jsonpath={.metadata.uid}"), uid)

    def test_wait_and_delete(self):
        self.kubectl("create", "deployment", "waited", "--image=example.com/x", "--replicas=0")
        self.says("condition met", "wait", "deployment/waited", "--for=condition=Available", "--timeout=30s")
        self.says("condition met", "wait", "deployment/waited", "--for=jsonpath={.spec.replicas}=0", "--timeout=30s")
        self.says("successfully rolled out", "rollout", "status", "deployment/waited", "--timeout=30s")
        self.says("timed out", "wait", "deployment/waited", "--for=condition=No", "--timeout=1s", code=1)
        self.kubectl("rollout", "restart", "deployment/waited")
        self.kubectl("delete", "deployment", "waited", "--cascade=foreground")
        self.says("NotFound", "get", "deployment/waited", code=1)
        self.kubectl("create", "deployment", "kept", "--image=example.com/x", "--replicas=0")
        by = time.monotonic() + LIMIT_SECONDS
        while not (sets := self.kubectl("get", "replicasets", "-l", "app=kept", "-o", "name")).startswith("replicaset"):
            self.assertLess(time.monotonic(), by, "no replica set")
        self.kubectl("delete", "deployment", "kept", "--cascade=orphan")
        self.assertEqual(self.kubectl("get", "replicasets", "-l", "app=kept", "-o", "name"), sets)

    def test_generators(self):
        for kind, *arguments in [
            ("clusterrole", "made", "--verb=get", "--resource=pods"), ("clusterrolebinding", "made", "--clusterrole=view", "--user=u"),
            ("configmap", "made", "--from-literal=a=b"), ("cronjob", "made", "--image=x", "--schedule=0 1 * * *"),
            ("deployment", "made", "--image=x"), ("ingress", "made", "--rule=example.com/*=svc:80"),
            ("job", "made", "--image=x"), ("poddisruptionbudget", "made", "--selector=a=b", "--min-available=1"),
            ("priorityclass", f"made-{self.namespace}", "--value=5"), ("quota", "made", "--hard=services=9"),
            ("role", "made", "--verb=get", "--resource=pods"), ("rolebinding", "made", "--role=made", "--user=u"),
            ("secret", "generic", "made", "--from-literal=a=b"),
            ("secret", "docker-registry", "registry", "--docker-username=u", "--docker-password=p"),
            ("service", "clusterip", "made", "--tcp=80"), ("service", "nodeport", "ported", "--tcp=80"),
            ("service", "externalname", "named", "--external-name=example.com"), ("serviceaccount", "made"),
        ]:
            cluster_wide = kind in ("clusterrole", "clusterrolebinding", "priorityclass")
            if cluster_wide and "made" in arguments:
                arguments[arguments.index("made")] = self.namespace
            with self.subTest(kind=kind, arguments=arguments):
                self.assertIn("created", self.kubectl("create", kind, *arguments))
        self.says(".", "create", "token", "made")
        self.says("pod/made created", "run", "made", "--image=x")

    def test_rights(self):
        table = self.kubectl("auth", "can-i", "--list")
        self.assertIn("*.*", table)
        self.assertEqual(self.kubectl("auth", "can-i", "create", "pods"), "yes\n")
        said = self.kubectl("auth", "can-i", "create", "pods", "--as=nobody", code=1)
        self.assertIn("no", said)
        self.assertIn("kubernetes-admin", self.run_anywhere("auth", "whoami"))
        self.says("cannot list resource", "get", "pods", "--as=nobody", code=1)


class Operate(Case):
    """What operators do: edit, roll back, mark nodes, approve."""

    def test_edit(self):
        self.kubectl("create", "configmap", "edited", "--from-literal=a=before")
        os.environ["KUBE_EDITOR"] = "sed -i s/before/after/"
        self.addCleanup(os.environ.pop, "KUBE_EDITOR")
        self.says("configmap/edited edited", "edit", "configmap/edited")
        self.assertEqual(self.kubectl("get", "configmap/edited", "-o", "jsonpath={.data.a}"), "after")

    def test_rollout(self):
        self.kubectl("create", "deployment", "rolled", "--image=example.com/x:1", "--replicas=0")
        self.kubectl("rollout", "status", "deployment/rolled", "--timeout=30s")
        self.kubectl("set", "image", "deployment/rolled", "*=example.com/x:2")
        self.kubectl("rollout", "status", "deployment/rolled", "--timeout=30s")
        self.says("REVISION", "rollout", "history", "deployment/rolled")
        self.says("example.com/x:1", "rollout", "history", "deployment/rolled", "--revision=1")
        self.kubectl("rollout", "undo", "deployment/rolled")
        image = self.kubectl("get", "deployment/rolled", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
        self.assertEqual(image, "example.com/x:1")
        self.kubectl("rollout", "pause", "deployment/rolled")
        self.kubectl("rollout", "resume", "deployment/rolled")

    def test_nodes(self):
        node = self.namespace
        self.kubectl("create", "-f", "-", stdin=f"apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n")
        self.addCleanup(self.run_anywhere, "delete", "node", node)
        self.says("cordoned", "cordon", node)
        self.says("SchedulingDisabled", "get", "node", node)
        self.says("drained", "drain", node, "--ignore-daemonsets", "--timeout=30s")
        self.says("uncordoned", "uncordon", node)
        self.says("tainted", "taint", "nodes", node, "walk=yes:NoSchedule")
        self.says("walk=yes:NoSchedule", "describe", "node", node)
        self.says("untainted", "taint", "nodes", node, "walk-")

    def test_certificates(self):
        name = self.namespace
        body = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
                "spec": {"request": REQUEST, "signerName": "example.com/walk",
                         "usages": ["client auth"]}}
        self.kubectl("create", "-f", "-", stdin=json.dumps(body))
        self.addCleanup(self.run_anywhere, "delete", "csr", name)
        self.says("Pending", "get", "csr", name)
        self.says("approved", "certificate", "approve", name)
        self.says("Approved", "get", "csr", name)

    def test_several_at_once(self):
        text = "".join(f"---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: many, labels: {{many: 'yes'}}}}\n"
                       for kind in ("ConfigMap", "Secret", "ServiceAccount"))
        self.kubectl("create", "-f", "-", stdin=text)
        self.says("configmap/many labeled", "label", "-f", "-", "more=yes", stdin=text)
        self.says("secret/many annotated", "annotate", "secret,configmap", "-l", "many=yes", "note=x")
        self.assertEqual(len(self.kubectl("get", "-f", "-", "-o", "name", stdin=text).split()), 3)
        self.says("deleted", "delete", "configmap,secret,serviceaccount", "-l", "many=yes")
        self.says("No resources found", "get", "configmap,secret,serviceaccount", "-l", "many=yes")

    def test_events_and_missing_metrics(self):
        self.says("No events found", "events", "--for", "pod/none")
        self.says("Metrics API not available", "top", "nodes", code=1)
        self.assertIn("Kubernetes control plane", self.run_anywhere("cluster-info"))


if __name__ == "__main__":
    unittest.main()
