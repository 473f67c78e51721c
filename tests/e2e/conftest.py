# SPDX-License-Identifier: Apache-2.0
"""Applies deploy/ with simulated pods to the cluster of KUBECONFIG, and removes all of it, whatever happens. The images must be there:
localhost/llmd (scripts/image) and localhost/llmd-e2e-client:1 (tests/e2e/client-image)."""
import os
import signal

import pytest

from lib import OWN, ROOT, Cluster, kubectl, wait_for

WORK = f"{ROOT}/build/e2e"
# A small flow table: the nodes of a test are small. Streams must not wait for tests either.
SETTINGS = ["LLMD_FLOWS_MAX=4096", "LLMD_SESSIONS_MAX=65536", "LLMD_PREFIX_MAP_MAX=65536", "LLMD_LOG_LEVEL=debug", "LLMD_DATAPATH=kernel"]


def settings_lines(settings):
    return ("configMapGenerator:\n- name: llmd\n  namespace: llmd\n  behavior: merge\n  literals:\n" +
            "".join(f"  - {setting}\n" for setting in settings))


def write_overlay(settings):
    os.makedirs(WORK, exist_ok=True)
    with open(f"{WORK}/kustomization.yaml", "w") as f:
        f.write("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../deploy/daemonset/overlays/sim]\n" +
                settings_lines(settings))


def apply(cluster):
    write_overlay(SETTINGS)
    kubectl("apply", "-k", WORK)
    kubectl("rollout", "status", "deployment/vllm", "--timeout", "120s")
    kubectl("rollout", "status", "daemonset/llmd-agent", "--timeout", "120s")
    wait_for(lambda: len(cluster.pods("llmd-keeper")) == len(cluster.nodes), "keepers")


def remove():
    kubectl("delete", "-k", WORK, "--ignore-not-found", "--timeout", "180s", check=False)


@pytest.fixture(scope="session")
def clients():
    kubectl("apply", "-f", f"{ROOT}/tests/e2e/clients.yaml", namespace=OWN)
    try:
        for name in ("client", "node"):
            kubectl("rollout", "status", f"daemonset/{name}", "--timeout", "120s", namespace=OWN)
        yield Cluster()
    finally:
        kubectl("delete", "namespace", OWN, "--ignore-not-found", check=False)


@pytest.fixture(scope="session")
def cluster(clients):
    try:
        apply(clients)
        yield clients
    finally:
        if os.environ.get("LLMD_E2E_LOGS"):
            logs = kubectl("logs", "-l", "app.kubernetes.io/name=llmd-agent", "--tail", "2000", "--prefix", check=False)
            with open(os.environ["LLMD_E2E_LOGS"], "w") as f:
                f.write(logs)
        remove()


def pytest_configure(config):
    config.addinivalue_line("markers", "core: the few that tell whether this version works in a cluster")
    # Told to end, pytest removes what it has applied, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The one that removes all is the last."""
    items.sort(key=lambda item: "removal" in item.name)
