#!/usr/bin/env python3
"""Drives a real kube-apiserver and kube-controller-manager with clients that others wrote.

    run.py [SUITE[.CLASS]...]     suites: python kubectl helm javascript; all of them by default

The environment names the programs: KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBECTL (several, separated by colons),
HELM, JAVASCRIPT (a folder with node_modules). The interpreter has to have the official Python client. Everything is on
loopback and in a directory that goes away.
"""

import contextlib
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True  # the tree stays as it is
HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS = 60
STOP_SECONDS = 30
SUITE_SECONDS = 300


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(log, *command):
    """A process that is ended with the block; what it wrote is shown if it ended before."""
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield child
    finally:
        if child.poll() is not None:
            sys.stderr.write(f"{command[0]} ended with {child.returncode}:\n{log.read_text()[-4000:]}\n")
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def wait(what, done, child):
    """Waits until something is so, or its process has ended."""
    by = time.monotonic() + START_SECONDS
    while not done():
        if child.poll() is not None or time.monotonic() > by:
            raise SystemExit(f"{what} did not come up")
        time.sleep(0.05)


def accepts(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def cluster(directory):
    """A control plane without nodes; the block gets its kubeconfig."""
    server = directory / "server"
    port = free_port()
    kubeconfig = server / "kubeconfig"
    command = [os.environ["KUBE_APISERVER"], "dev", "--dir", server, "--port", str(port)]
    with process(directory / "kube-apiserver.log", *command) as api:
        wait("kube-apiserver", lambda: kubeconfig.exists() and accepts(port), api)
        command = [
            os.environ["KUBE_CONTROLLER_MANAGER"], "--kubeconfig", kubeconfig, "--leader-elect=false",
            "--root-ca-file", server / "ca.crt", "--service-account-private-key-file", server / "sa.key",
            "--secure-port", str(free_port()), "--bind-address", "127.0.0.1",
        ]
        with process(directory / "kube-controller-manager.log", *command):
            yield kubeconfig


def javascript(_):
    """Runs the JavaScript tests in Node's own runner."""
    modules = pathlib.Path(os.environ["JAVASCRIPT"]) / "node_modules"
    with tempfile.TemporaryDirectory() as folder:
        # Modules are found beside the file that asks for them.
        (pathlib.Path(folder) / "node_modules").symlink_to(modules)
        tests = []
        for test in sorted((HERE / "javascript").glob("*.test.mjs")):
            copy = pathlib.Path(folder) / test.name
            copy.write_bytes(test.read_bytes())
            tests.append(copy)
        return subprocess.run(["node", "--test", *tests], check=False, timeout=SUITE_SECONDS).returncode == 0


def python(names):
    """Runs tests by their names."""
    suite = unittest.defaultTestLoader.loadTestsFromName(names)
    return unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()


def kubectl(names):
    """Runs the kubectl tests with each kubectl."""
    results = []
    for program in os.environ["KUBECTL"].split(":"):
        os.environ["KUBECTL_UNDER_TEST"] = program
        print(f"kubectl is {program}", flush=True)
        results.append(python(names))
    return all(results)


SUITES = {"python": python, "kubectl": kubectl, "helm": python, "javascript": javascript}


def main():
    chosen = sys.argv[1:] or list(SUITES)
    if unknown := {name.split(".")[0] for name in chosen} - set(SUITES):
        raise SystemExit(f"unknown suites {sorted(unknown)}\n{__doc__}")
    sys.path.insert(0, str(HERE))
    passed = {}
    with tempfile.TemporaryDirectory(prefix="clients-") as directory:
        with cluster(pathlib.Path(directory)) as kubeconfig:
            os.environ["KUBECONFIG"], os.environ["HOME"] = str(kubeconfig), directory
            for name in chosen:
                print(f"== {name}", flush=True)
                suite, _, tests = name.partition(".")
                passed[name] = SUITES[suite](f"{suite}_suite" + (f".{tests}" if tests else ""))
    print(" ".join(f"{name}: {'passed' if good else 'FAILED'}" for name, good in passed.items()))
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
