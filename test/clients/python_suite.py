"""The official Python client against our server."""

import contextlib
import threading
import time
import unittest
import uuid

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

LIMIT_SECONDS = 60


def deployment(name, replicas=2):
    container = client.V1Container(name="main", image="example.com/app:1", ports=[client.V1ContainerPort(container_port=80)])
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels={"app": name}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": name}), spec=client.V1PodSpec(containers=[container]),
            ),
        ),
    )


class Case(unittest.TestCase):
    """Tests in a namespace of their own."""

    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.core, cls.apps, cls.batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
        cls.namespace = f"python-{uuid.uuid4().hex[:8]}"
        cls.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=cls.namespace)))

    @classmethod
    def tearDownClass(cls):
        cls.core.delete_namespace(cls.namespace)

    def until(self, what, check):
        """Waits for controllers."""
        by = time.monotonic() + LIMIT_SECONDS
        while not (found := check()):
            self.assertLess(time.monotonic(), by, what)
            time.sleep(0.05)
        return found

    @contextlib.contextmanager
    def refused(self, code):
        with self.assertRaises(ApiException) as caught:
            yield caught
        self.assertEqual(caught.exception.status, code, caught.exception.body)

    def config_map(self, name, data=None, labels=None):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data or {"a": "1"})
        return self.core.create_namespaced_config_map(self.namespace, body)


class Objects(Case):
    def test_life_of_a_deployment(self):
        made = self.apps.create_namespaced_deployment(self.namespace, deployment("web"))
        self.assertEqual((made.spec.replicas, made.metadata.generation), (2, 1))
        self.assertEqual(made.spec.strategy.type, "RollingUpdate")
        made.spec.replicas = 3
        # Controllers write to it as well, so a conflict is no surprise.
        made.metadata.resource_version = None
        changed = self.apps.replace_namespaced_deployment("web", self.namespace, made)
        self.assertEqual((changed.spec.replicas, changed.metadata.generation), (3, 2))
        pods = self.until("pods of the deployment", lambda: (
            lambda found: found if len(found) == 3 else None
        )(self.core.list_namespaced_pod(self.namespace, label_selector="app=web").items))
        self.assertEqual(pods[0].metadata.owner_references[0].kind, "ReplicaSet")
        self.assertEqual(pods[0].status.phase, "Pending")
        self.apps.delete_namespaced_deployment("web", self.namespace, propagation_policy="Foreground")
        self.until("the deployment is gone", lambda: not self.apps.list_namespaced_deployment(self.namespace).items)
        self.assertEqual(self.core.list_namespaced_pod(self.namespace, label_selector="app=web").items, [])

    def test_typical_kinds(self):
        self.core.create_namespaced_secret(self.namespace, client.V1Secret(
            metadata=client.V1ObjectMeta(name="s"), string_data={"password": "x"}))
        self.assertEqual(self.core.read_namespaced_secret("s", self.namespace).data, {"password": "eA=="})
        service = self.core.create_namespaced_service(self.namespace, client.V1Service(
            metadata=client.V1ObjectMeta(name="svc"),
            spec=client.V1ServiceSpec(selector={"app": "x"}, type="NodePort", ports=[client.V1ServicePort(port=80)])))
        self.assertTrue(service.spec.cluster_ip)
        self.assertGreaterEqual(service.spec.ports[0].node_port, 30000)
        job = self.batch.create_namespaced_job(self.namespace, client.V1Job(
            metadata=client.V1ObjectMeta(generate_name="job-"),
            spec=client.V1JobSpec(template=client.V1PodTemplateSpec(spec=client.V1PodSpec(
                restart_policy="Never", containers=[client.V1Container(name="c", image="example.com/x")])))))
        self.assertRegex(job.metadata.name, "^job-.{5}$")
        account = self.core.create_namespaced_service_account(
            self.namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
        token = self.core.create_namespaced_service_account_token("robot", self.namespace, client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)))
        review = client.AuthenticationV1Api().create_token_review(
            client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token.status.token)))
        self.assertEqual(review.status.user.uid, account.metadata.uid)
        for name in ("s", "none"):
            with self.refused(409) if name == "s" else self.refused(404) as _:
                if name == "s":
                    self.core.create_namespaced_secret(self.namespace, client.V1Secret(metadata=client.V1ObjectMeta(name="s")))
                else:
                    self.core.read_namespaced_secret(name, self.namespace)

    def test_invalid_objects_are_explained(self):
        with self.refused(422) as caught:
            self.config_map("Not A Name")
        self.assertIn("metadata.name: Invalid value", caught.exception.body)
        bad = deployment("bad")
        bad.spec.selector.match_labels = {"app": "other"}
        with self.refused(422) as caught:
            self.apps.create_namespaced_deployment(self.namespace, bad)
        self.assertIn("`selector` does not match template `labels`", caught.exception.body)

    def test_pages(self):
        for number in range(7):
            self.config_map(f"page-{number}", labels={"pages": "yes"})
        names, token, pages = [], None, 0
        while True:
            page = self.core.list_namespaced_config_map(self.namespace, label_selector="pages", limit=3, _continue=token)
            names += [item.metadata.name for item in page.items]
            pages, token = pages + 1, page.metadata._continue
            if not token:
                break
        self.assertEqual((names, pages), ([f"page-{n}" for n in range(7)], 3))
        first = self.core.list_namespaced_config_map(self.namespace, limit=1)
        with self.refused(400):
            self.core.list_namespaced_config_map(self.namespace, limit=1, _continue="no token")
        self.assertTrue(first.metadata._continue)


class Watches(Case):
    def test_events_come_in_order_and_are_resumed(self):
        start = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version
        self.config_map("watched", {"n": "0"})
        for number in range(1, 6):
            self.core.patch_namespaced_config_map("watched", self.namespace, {"data": {"n": str(number)}})
        self.core.delete_namespaced_config_map("watched", self.namespace)

        def read(since, count):
            found, stream = [], watch.Watch()
            for event in stream.stream(
                self.core.list_namespaced_config_map, self.namespace, resource_version=since,
                field_selector="metadata.name=watched", timeout_seconds=LIMIT_SECONDS,
            ):
                found.append((event["type"], event["object"].data["n"], event["object"].metadata.resource_version))
                if len(found) == count:
                    stream.stop()
            return found

        whole = read(start, 7)
        self.assertEqual([kind for kind, _, _ in whole], ["ADDED"] + ["MODIFIED"] * 5 + ["DELETED"])
        self.assertEqual([n for _, n, _ in whole], ["0", "1", "2", "3", "4", "5", "5"])
        self.assertEqual(read(whole[2][2], 4), whole[3:])

    def test_bookmarks_and_initial_events(self):
        self.config_map("first", labels={"marks": "yes"})
        kinds, stream = [], watch.Watch()
        for event in stream.stream(
            self.core.list_namespaced_config_map, self.namespace, label_selector="marks", send_initial_events=True,
            allow_watch_bookmarks=True, resource_version_match="NotOlderThan", timeout_seconds=LIMIT_SECONDS,
        ):
            kinds.append(event["type"])
            if event["type"] == "BOOKMARK":
                notes = event["raw_object"]["metadata"]["annotations"]
                self.assertEqual(notes, {"k8s.io/initial-events-end": "true"})
                stream.stop()
        self.assertEqual(kinds, ["ADDED", "BOOKMARK"])


class Patches(Case):
    def setUp(self):
        self.apps.create_namespaced_deployment(self.namespace, deployment("patched", 0))
        self.addCleanup(self.apps.delete_namespaced_deployment, "patched", self.namespace)

    def test_all_forms(self):
        def send(kind, body):
            return self.apps.patch_namespaced_deployment("patched", self.namespace, body, _content_type=kind)

        merged = send("application/merge-patch+json", {"metadata": {"labels": {"merge": "yes", "app": None}}})
        self.assertEqual(merged.metadata.labels, {"merge": "yes"})
        side = {"name": "side", "image": "example.com/side:1"}
        strategic = send("application/strategic-merge-patch+json", {"spec": {"template": {"spec": {"containers": [side]}}}})
        self.assertEqual(sorted(c.name for c in strategic.spec.template.spec.containers), ["main", "side"])
        by_json = send("application/json-patch+json", [
            {"op": "test", "path": "/metadata/labels/merge", "value": "yes"},
            {"op": "add", "path": "/spec/minReadySeconds", "value": 4}])
        self.assertEqual(by_json.spec.min_ready_seconds, 4)

    def test_apply_conflicts_are_told_and_forced(self):
        api = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")

        def apply(value, manager, force=False):
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": self.namespace},
                    "data": {"key": value}}
            return api.server_side_apply(body, namespace=self.namespace, field_manager=manager, force_conflicts=force)

        self.assertEqual(apply("1", "one").data.key, "1")
        with self.assertRaises(dynamic.exceptions.ConflictError) as caught:
            apply("2", "two")
        self.assertIn('conflict with \\"one\\": .data.key', str(caught.exception.body))
        self.assertEqual(apply("2", "two", force=True).data.key, "2")
        managers = [entry.manager for entry in api.get("applied", self.namespace).metadata.managedFields]
        self.assertEqual(managers, ["two"])

    def test_subresources(self):
        scale = self.apps.read_namespaced_deployment_scale("patched", self.namespace)
        scale.spec.replicas = 1
        self.assertEqual(self.apps.replace_namespaced_deployment_scale("patched", self.namespace, scale).spec.replicas, 1)
        self.assertEqual(self.apps.read_namespaced_deployment("patched", self.namespace).spec.replicas, 1)
        body = {"spec": {"replicas": 9}, "status": {"conditions": [
            {"type": "Progressing", "status": "Unknown", "reason": "Test", "message": "by a test"}]}}
        status = self.apps.patch_namespaced_deployment_status("patched", self.namespace, body)
        self.assertEqual(status.spec.replicas, 1)
        self.assertIn("by a test", [c.message for c in status.status.conditions])
        pod = self.until("its pod", lambda: self.core.list_namespaced_pod(self.namespace, label_selector="app=patched").items)[0]
        eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=pod.metadata.name, namespace=self.namespace))
        self.core.create_namespaced_pod_eviction(pod.metadata.name, self.namespace, eviction)
        self.until("the evicted pod is gone", lambda: pod.metadata.uid not in [
            p.metadata.uid for p in self.core.list_namespaced_pod(self.namespace).items])


class Dynamic(Case):
    def test_every_group_is_discovered(self):
        found = dynamic.DynamicClient(client.ApiClient()).resources.search(kind="Deployment")
        self.assertEqual([r.group_version for r in found if r.kind == "Deployment"], ["apps/v1"])

    def test_objects_without_types(self):
        api = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="batch/v1", kind="CronJob")
        body = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"}, "spec": {
            "schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "example.com/x"}]}}}}}}
        made = api.create(body=body, namespace=self.namespace)
        self.assertEqual(made.spec.concurrencyPolicy, "Allow")
        api.patch(body={"spec": {"suspend": True}}, name="nightly", namespace=self.namespace,
                  content_type="application/merge-patch+json")
        self.assertIs(api.get(name="nightly", namespace=self.namespace).spec.suspend, True)
        for event in api.watch(namespace=self.namespace, timeout=LIMIT_SECONDS):
            self.assertEqual((event["type"], event["object"].metadata.name), ("ADDED", "nightly"))
            break
        api.delete(name="nightly", namespace=self.namespace)
        self.assertEqual(api.get(namespace=self.namespace).items, [])


class Election(Case):
    def test_one_leads_and_the_next_takes_over(self):
        led, ended = [], threading.Event()

        def candidate(name, stop):
            def started():
                led.append(name)
                if stop:
                    return
                ended.set()

            lock = ConfigMapLock("leader", self.namespace, name)
            leaderelection.LeaderElection(electionconfig.Config(
                lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=started,
                onstopped_leading=lambda: None)).run()

        first = threading.Thread(target=candidate, args=("one", True), daemon=True)
        first.start()
        self.until("the first leads", lambda: led == ["one"])
        second = threading.Thread(target=candidate, args=("two", False), daemon=True)
        second.start()
        record = self.core.read_namespaced_config_map("leader", self.namespace)
        self.assertIn('"holderIdentity": "one"', str(record.metadata.annotations))
        # Somebody else takes the lock, which is what a leader that was too slow finds; then nobody renews it.
        text = record.metadata.annotations["control-plane.alpha.kubernetes.io/leader"].replace('"one"', '"gone"')
        self.until("the lock is taken", lambda: self.take(text))
        self.assertTrue(ended.wait(LIMIT_SECONDS), "nobody took over")
        self.assertIn("two", led)

    def take(self, text):
        notes = {"control-plane.alpha.kubernetes.io/leader": text}
        try:
            self.core.patch_namespaced_config_map("leader", self.namespace, {"metadata": {"annotations": notes}})
        except ApiException as error:
            return error.status != 409
        return True
