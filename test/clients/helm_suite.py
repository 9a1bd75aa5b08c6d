"""helm against our server: the life of a release of the chart beside this file."""

import json
import os
import pathlib
import subprocess
import unittest
import uuid

from kubernetes import client, config
from kubernetes.client.rest import ApiException

LIMIT_SECONDS = 120
CHART = pathlib.Path(__file__).resolve().parent / "chart"


class Release(unittest.TestCase):
    def setUp(self):
        config.load_kube_config()
        self.core, self.apps = client.CoreV1Api(), client.AppsV1Api()
        self.namespace = f"helm-{uuid.uuid4().hex[:8]}"
        self.addCleanup(self.core.delete_namespace, self.namespace)

    def helm(self, *arguments, code=0):
        done = subprocess.run([os.environ["HELM"], "-n", self.namespace, *arguments], capture_output=True, text=True,
                              timeout=LIMIT_SECONDS, check=False)
        self.assertEqual(done.returncode, code, f"helm {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if code else "")

    def data(self, name):
        return self.core.read_namespaced_config_map(name, self.namespace).data

    def test_life(self):
        said = self.helm("install", "shop", CHART, "--create-namespace")
        self.assertIn("shop is blue.", said)
        deployment = self.apps.read_namespaced_deployment("shop", self.namespace)
        self.assertEqual(deployment.spec.replicas, 2)
        self.assertEqual(deployment.metadata.annotations["meta.helm.sh/release-name"], "shop")
        self.assertEqual(self.data("shop"), {"colour": "blue", "revision": "1"})
        self.assertEqual(self.data("shop-before"), {"revision": "1"})
        self.assertIn("still in use", self.helm("install", "shop", CHART, code=1))

        said = self.helm("upgrade", "shop", CHART, "--set", "colour=red,replicas=3,ingress.enabled=true")
        self.assertIn("shop is red.", said)
        self.assertEqual(self.data("shop"), {"colour": "red", "revision": "2"})
        self.assertEqual(self.data("shop-before"), {"revision": "2"})
        network = client.NetworkingV1Api()
        self.assertEqual(network.read_namespaced_ingress("shop", self.namespace).spec.default_backend.service.name, "shop")
        self.assertIn("minimum", self.helm("upgrade", "shop", CHART, "--set", "replicas=-1", code=1))

        [listed] = json.loads(self.helm("list", "-o", "json"))
        self.assertEqual((listed["name"], listed["revision"], listed["status"]), ("shop", "2", "deployed"))
        history = json.loads(self.helm("history", "shop", "-o", "json"))
        self.assertEqual([(r["revision"], r["status"]) for r in history], [(1, "superseded"), (2, "deployed")])
        self.assertEqual(json.loads(self.helm("get", "values", "shop", "-o", "json"))["colour"], "red")
        self.assertIn("kind: Ingress", self.helm("get", "manifest", "shop"))
        self.assertIn("pre-install", self.helm("get", "hooks", "shop"))
        self.assertIn("shop is red.", self.helm("get", "notes", "shop"))
        self.assertIn("STATUS: deployed", self.helm("status", "shop"))

        self.helm("rollback", "shop", "1")
        self.assertEqual(self.data("shop"), {"colour": "blue", "revision": "1"})
        self.assertEqual(self.apps.read_namespaced_deployment("shop", self.namespace).spec.replicas, 2)
        with self.assertRaises(ApiException) as caught:
            network.read_namespaced_ingress("shop", self.namespace)
        self.assertEqual(caught.exception.status, 404)
        history = json.loads(self.helm("history", "shop", "-o", "json"))
        self.assertEqual([r["status"] for r in history], ["superseded", "superseded", "deployed"])

        self.helm("uninstall", "shop", "--wait")
        self.assertEqual(json.loads(self.helm("list", "-o", "json")), [])
        self.assertEqual(self.core.list_namespaced_secret(self.namespace, label_selector="owner=helm").items, [])
        for found in (self.apps.list_namespaced_deployment(self.namespace), self.core.list_namespaced_service(self.namespace)):
            self.assertEqual(found.items, [])

    def test_what_somebody_else_has_is_not_taken(self):
        self.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=self.namespace)))
        self.core.create_namespaced_config_map(self.namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="shop")))
        self.assertIn("invalid ownership metadata", self.helm("install", "shop", CHART, code=1))

    def test_waiting_for_what_needs_no_node(self):
        said = self.helm("install", "shop", CHART, "--create-namespace", "--set", "replicas=0", "--wait", "--timeout", "60s")
        self.assertIn("STATUS: deployed", said)
        self.assertIn("has been upgraded", self.helm(
            "upgrade", "shop", CHART, "--server-side=false", "--set", "replicas=0,colour=green", "--wait", "--timeout", "60s"))
        self.assertEqual(self.data("shop")["colour"], "green")
