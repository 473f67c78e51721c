# SPDX-License-Identifier: Apache-2.0
"""Agents that share through the Redis of overlays/redis: a session is at its pod whichever node it comes to, and Redis may go away. Its image is the
one of the tests' pods, which has Debian's redis-server."""
import os
import re
import sys
import urllib.request

import pytest

from conftest import SETTINGS, settings_lines
from lib import PORT, ROOT, from_outside, from_pod, kubectl, wait_for
from test_cluster import bound, end_whole, name, open_streams, target

sys.path.append(f"{ROOT}/tests")
from lib_manifests import deploy  # noqa: E402,F401 (a fixture)

OVERLAY = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../daemonset/base]
components: [../daemonset/components/sim, ../daemonset/components/session-secret, ../daemonset/components/redis]
images:
- {name: redis, newName: localhost/llmd-e2e-client, newTag: "1"}
"""


def metric(address, what):
    with urllib.request.urlopen(f"http://{address}:9471/metrics", timeout=10) as answer:
        values = re.findall(rf"^{re.escape(what)}\S* (\S+)$", answer.read().decode(), re.M)
    return [float(value) for value in values]


def connected(cluster):
    return all(values and min(values) == 1 for values in (metric(a, "llmd_redis_connected") for a in cluster.nodes.values()))


@pytest.fixture(scope="module")
def shared(cluster, deploy):  # noqa: F811
    os.mkdir(f"{deploy}/e2e")
    with open(f"{deploy}/e2e/kustomization.yaml", "w") as f:
        f.write(OVERLAY + settings_lines(SETTINGS))
    kubectl("apply", "-k", f"{deploy}/e2e")
    kubectl("rollout", "status", "deployment/llmd-redis", "--timeout", "120s")
    kubectl("rollout", "status", "daemonset/llmd-agent", "--timeout", "180s")
    wait_for(lambda: connected(cluster), "connections to Redis")
    return cluster


def sticks_over_nodes(cluster, way=from_outside, kind="host"):
    """A session that each node begins is continued at its pod by every node, by the pods' own count."""
    for first in cluster.nodes:
        session = name()
        assert "[DONE]" in from_outside(cluster, first, cluster.nodes[first], PORT, session)
        pod = bound(cluster, first, session)
        for node in cluster.nodes:
            wait_for(lambda node=node: cluster.maps(node, "session", "get", session)["endpoint"] == pod, f"the session of {first} on {node}")
        before = cluster.answered()
        for node in cluster.nodes:
            for _ in range(2):
                assert "[DONE]" in way(cluster, node, *target(cluster, node, kind), session), node
        after = cluster.answered()
        assert {at: after[at] - before[at] for at in after if after[at] != before[at]} == {pod: 2 * len(cluster.nodes)}


def test_session_sticks_over_nodes(shared):
    sticks_over_nodes(shared)


def test_session_sticks_through_the_node_port_of_any_node(shared):
    """kube-proxy chooses the agent, the agents agree about the pod."""
    sticks_over_nodes(shared, from_pod("client"), "nodeport")


def test_redis_goes_and_comes_back(shared):
    """Streams go on, each node serves with what it knows, and they agree again with a Redis that has forgotten all."""
    session, node = name(), next(iter(shared.nodes))
    assert "[DONE]" in from_outside(shared, node, shared.nodes[node], PORT, session)
    pod = bound(shared, node, session)
    streams = open_streams(shared, 3, 600)
    try:
        kubectl("scale", "deployment/llmd-redis", "--replicas", "0")
        for address in shared.nodes.values():
            wait_for(lambda address=address: max(metric(address, "llmd_redis_connected")) == 0, "the agents to notice")
        for at, address in shared.nodes.items():
            assert "[DONE]" in from_outside(shared, at, address, PORT, name())
        assert "[DONE]" in from_outside(shared, node, shared.nodes[node], PORT, session) and bound(shared, node, session) == pod
    finally:
        kubectl("scale", "deployment/llmd-redis", "--replicas", "1")
        kubectl("rollout", "status", "deployment/llmd-redis", "--timeout", "120s")
    end_whole(streams)
    wait_for(lambda: connected(shared), "connections to the next Redis")
    sticks_over_nodes(shared)
