# SPDX-License-Identifier: Apache-2.0
"""llmd in a cluster: the ways in, sessions, streams in the kernel, and what happens to them when something goes away."""
import collections
import os
import re
import subprocess
import time
import uuid

import pytest

from conftest import WORK
from lib import POD_PORT, PORT, PodStream, Probe, Stream, from_outside, from_pod, kubectl, objects, wait_for

WAYS = {
    "host port, from outside": (from_outside, "host"),
    "NodePort, from outside": (from_outside, "nodeport"),
    "host port, from a pod": (from_pod("client"), "host"),
    "ClusterIP, from a pod": (from_pod("client"), "clusterip"),
    "ClusterIP, from the node": (from_pod("node"), "clusterip"),
}
CORE_WAYS = {"host port, from outside", "NodePort, from outside", "ClusterIP, from a pod"}
# Enough to tell in two minutes whether this version works in a cluster; `make check` runs these where it can have one (scripts/check).
core = pytest.mark.core
NODE_EXEC = os.environ.get("LLMD_NODE_EXEC", "").split()


def name():
    return f"s-{uuid.uuid4().hex[:12]}"


def target(cluster, node, kind):
    cluster_ip, node_port = cluster.service()
    return {"host": (cluster.nodes[node], PORT), "nodeport": (cluster.nodes[node], node_port), "clusterip": (cluster_ip, 80)}[kind]


def bound(cluster, node, session):
    return wait_for(lambda: cluster.maps(node, "session", "get", session)["endpoint"], f"session {session} in the map")


@pytest.mark.parametrize("way", [pytest.param(way, marks=core) if way in CORE_WAYS else way for way in WAYS])
def test_session_stays_at_its_pod(cluster, way):
    request, kind = WAYS[way]
    for node in cluster.nodes:
        session, before = name(), cluster.answered()
        for _ in range(4):
            text = request(cluster, node, *target(cluster, node, kind), session)
            assert text.count('"content":"tok') == 10 and "data: [DONE]" in text, (node, text)
        after = cluster.answered()
        grown = {pod: after[pod] - before[pod] for pod in after if after[pod] != before[pod]}
        assert grown == {bound(cluster, node, session): 4}, node


def test_node_port_from_a_pod(cluster):
    """kube-proxy sends a pod that comes by a NodePort to any node's agent: it is served, but agents that share nothing do not know its session."""
    for node in cluster.nodes:
        text = from_pod("client")(cluster, node, *target(cluster, node, "nodeport"), name())
        assert text.count('"content":"tok') == 10 and "data: [DONE]" in text, (node, text)


def flows(cluster, node, *sessions):
    ids = {f"id-{session}" for session in sessions}
    return [flow for flow in cluster.maps(node, "flow", "list") if flow["request_id"] in ids]


def open_streams(cluster, each, tokens, kind="host", from_pods=False):
    """On every node, by a way that the programs know."""
    streams = {}
    for node in cluster.nodes:
        address, port = target(cluster, node, kind)
        streams[node] = [PodStream(cluster, node, address, port, name(), tokens) if from_pods else Stream(address, port, name(), tokens)
                         for _ in range(each)]
    for node, some in streams.items():
        for stream in some:
            assert stream.begun.wait(60) and not stream.error, stream.error
        in_kernel = flows(cluster, node, *(s.session for s in some))
        assert len(in_kernel) == each, in_kernel
    return streams


def end_whole(streams):
    for some in streams.values():
        for stream in some:
            stream.join(180)
    lost = [(node, s.session, s.tokens(), s.error) for node, some in streams.items() for s in some if not s.whole()]
    assert not lost


BRIDGE_CALLS = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def translates_on_the_bridge(cluster, node):
    """Where netfilter also sees what passes a bridge, a pod's packet to a Service is translated before it comes to the bridge's TC programs, and
    what goes back is not: the two addresses of such a connection are not known to be one, and it is relayed."""
    return cluster.on_node(node, "sh", "-c", f"cat {BRIDGE_CALLS} 2>/dev/null", check=False).strip() == "1"


@pytest.fixture
def routed(cluster):
    """As on nodes whose pods are routed, not bridged: netfilter sees packets once, behind the TC programs."""
    changed = [node for node in cluster.nodes if translates_on_the_bridge(cluster, node)]
    try:
        for node in changed:
            cluster.on_node(node, "sh", "-c", f"echo 0 >{BRIDGE_CALLS}")
        yield
    finally:
        for node in changed:
            cluster.on_node(node, "sh", "-c", f"echo 1 >{BRIDGE_CALLS}", check=False)


def test_service_behind_a_filtering_bridge_is_relayed(cluster):
    """Whole, and not in the kernel: what docs/deployment.md says of it."""
    nodes = [node for node in cluster.nodes if translates_on_the_bridge(cluster, node)]
    if not nodes:
        pytest.skip("no bridge whose packets netfilter sees")
    for node in nodes:
        stream = PodStream(cluster, node, *target(cluster, node, "clusterip"), name(), 200)
        assert stream.begun.wait(60) and not flows(cluster, node, stream.session)
        stream.join(60)
        assert stream.whole(), stream.error


@pytest.mark.parametrize("kind,from_pods", [("host", False), pytest.param("nodeport", False, marks=core), ("host", True), ("clusterip", True)],
                         ids=["host port", "NodePort", "host port, from pods", "ClusterIP, from pods"])
def test_streams_are_in_the_kernel(cluster, routed, kind, from_pods):
    request = from_pod("client") if from_pods else from_outside
    for node in cluster.nodes:
        text = request(cluster, node, *target(cluster, node, kind), name())  # a way that is not known yet is learnt
        assert text.count('"content":"tok') == 10
    streams = open_streams(cluster, 3, 900, kind, from_pods)
    for node, some in streams.items():
        session = some[0].session
        seen = wait_for(lambda: flows(cluster, node, session), "the stream among the flows")[0]
        assert seen["pod"] == bound(cluster, node, session)
        later = wait_for(lambda: flows(cluster, node, session), "the stream among the flows")[0]
        assert later["packets_down"] > seen["packets_down"], "packets through the kernel"
    end_whole(streams)


@core
def test_rollout_restart_loses_no_stream(cluster):
    before = {node: cluster.agent(node)["metadata"]["uid"] for node in cluster.nodes}
    streams = open_streams(cluster, 4, 1500)
    kubectl("rollout", "restart", "daemonset/llmd-agent")
    kubectl("rollout", "status", "daemonset/llmd-agent", "--timeout", "180s")
    assert all(cluster.agent(node)["metadata"]["uid"] != uid for node, uid in before.items())
    running = sum(stream.is_alive() for some in streams.values() for stream in some)
    assert running == 8, "the streams have ended before the rollout"
    end_whole(streams)


def test_rollout_refuses_no_connection(cluster):
    """New connections all through a rollout: by the nodes' ports, and from pods by the Service, which leads to the own node's agent alone."""
    probes = [Probe(cluster, node, *target(cluster, node, kind)) for node in cluster.nodes for kind in ("host", "clusterip")]
    time.sleep(2)
    kubectl("rollout", "restart", "daemonset/llmd-agent")
    kubectl("rollout", "status", "daemonset/llmd-agent", "--timeout", "180s")
    time.sleep(2)
    for probe in probes:
        seen = probe.end()
        failed = [line for line in seen if line[0] != 200]
        print(f"{probe.where}: {len(seen)} requests, {len(failed)} failed, slowest {max(line[1] for line in seen):.2f} s to connect")
        assert len(seen) > 20 and not failed, (probe.where, failed)


def test_session_survives_the_rollout(cluster):
    """With the kernel's maps as the only memory."""
    sessions = {}
    for node in cluster.nodes:
        for session in (name() for _ in range(4)):
            assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, session)
            sessions[session] = (node, bound(cluster, node, session))
    kubectl("rollout", "restart", "daemonset/llmd-agent")
    kubectl("rollout", "status", "daemonset/llmd-agent", "--timeout", "180s")
    before = cluster.answered()
    for session, (node, _) in sessions.items():
        assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, session)
    after = cluster.answered()
    want = collections.Counter(pod for _, pod in sessions.values())
    assert {pod: after[pod] - before[pod] for pod in after if after[pod] != before[pod]} == want


@pytest.mark.parametrize("how", [["--grace-period", "0", "--force"], []], ids=["at once", "in peace"])
def test_agent_pod_deleted(cluster, how):
    streams = open_streams(cluster, 3, 600)
    node = next(iter(cluster.nodes))
    old = cluster.agent(node)["metadata"]
    kubectl("delete", "pod", old["name"], *how)
    new = wait_for(lambda: next((p for p in cluster.pods("llmd-agent") if p["spec"]["nodeName"] == node and p["metadata"]["uid"] != old["uid"]), None),
                   "a new agent")
    assert new["metadata"]["uid"] != old["uid"]
    end_whole(streams)
    assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, name())


def test_decode_pod_deleted(cluster):
    """Its sessions go elsewhere, those of others stay where they are; what was streaming there is cut, not stuck."""
    node = next(iter(cluster.nodes))
    sessions = [name() for _ in range(12)]
    for session in sessions:
        assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, session)
    where = {session: bound(cluster, node, session) for session in sessions}
    victim = where[sessions[0]]
    kubectl("delete", "pod", cluster.decode_pods()[victim]["metadata"]["name"], "--wait=true", "--grace-period", "1")
    for session in sessions:
        assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, session), session
    now = {session: bound(cluster, node, session) for session in sessions}
    assert all(now[s] == where[s] for s in sessions if where[s] != victim)
    assert all(now[s] != victim for s in sessions if where[s] == victim)


def test_scaled_up_and_down(cluster):
    try:
        for replicas in (6, 3):
            kubectl("scale", "deployment/vllm", "--replicas", str(replicas))
            kubectl("rollout", "status", "deployment/vllm", "--timeout", "120s")
            wait_for(lambda: len(objects("pods", "-l", "app.kubernetes.io/name=vllm-sim")) == replicas, f"{replicas} pods")
            want = set(cluster.decode_pods())
            for node in cluster.nodes:
                wait_for(lambda: {e["endpoint"] for e in cluster.maps(node, "endpoint", "list") if e["state"] in ("ready", "starting")} == want,
                         f"{replicas} endpoints on {node}")
                for _ in range(6):
                    assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, name())
    finally:
        kubectl("scale", "deployment/vllm", "--replicas", "4")
        kubectl("rollout", "status", "deployment/vllm", "--timeout", "120s")


def test_node_drained(cluster):
    """Agents stay, pods leave; new requests are served on both nodes."""
    node = list(cluster.nodes)[1]
    try:
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", "120s")
        kubectl("rollout", "status", "deployment/vllm", "--timeout", "120s")
        for at in cluster.nodes:
            wait_for(lambda: "[DONE]" in from_outside(cluster, at, cluster.nodes[at], PORT, name()), f"an answer at {at}")
        assert all(p["spec"]["nodeName"] != node for p in cluster.decode_pods().values())
    finally:
        kubectl("uncordon", node)


@pytest.mark.skipif(not NODE_EXEC, reason="LLMD_NODE_EXEC does not say how to run a command on a node")
@pytest.mark.parametrize("daemon", ["kubelet", "containerd"])
def test_daemon_of_the_node_restarted(cluster, daemon):
    node = next(iter(cluster.nodes))
    uid = cluster.agent(node)["metadata"]["uid"]
    streams = open_streams(cluster, 3, 400)
    subprocess.run([*NODE_EXEC, node, "sh", "-c", f"kill -9 $(pidof -s {daemon})"], check=True)
    end_whole(streams)
    wait_for(lambda: cluster.agent(node)["metadata"]["uid"] == uid, "the same agent")
    wait_for(lambda: "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, name()), "an answer")


@core
def test_exactly_three_capabilities(cluster):
    for node in cluster.nodes:
        # The keeper is one, too; each process of that name on the node.
        status = cluster.on_node(node, "sh", "-c", "for p in $(pidof llmd-agent); do grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$p/status; done")
        fields = collections.defaultdict(set)
        for line in status.splitlines():
            key, value = line.split(":")
            fields[key].add(value.strip())
        wanted = f"{1 << 12 | 1 << 38 | 1 << 39:016x}"  # NET_ADMIN, PERFMON, BPF
        assert fields == {"CapEff": {wanted}, "CapBnd": {wanted}, "NoNewPrivs": {"1"}, "Seccomp": {"2"}}


# ---- last ----

LIST_PINNED = """for f in $(find /sys/fs/bpf/llmd); do bpftool -j map show pinned $f; bpftool -j link show pinned $f; done 2>/dev/null"""


def pinned_ids(cluster, node):
    """Ids of all maps that are pinned, and of the programs that pinned links hold."""
    out = cluster.on_node(node, "sh", "-c", LIST_PINNED, check=False)
    return {"map": set(re.findall(r'^\{"id":(\d+),"type":"(?!tcx|cgroup)', out, re.M)), "prog": set(re.findall(r'"prog_id":(\d+)', out))}


def still_there(cluster, node, ids):
    script = "; ".join(f"bpftool -j {kind} show id {number}" for kind in ids for number in sorted(ids[kind]))
    return re.findall(r'"id":\d+', cluster.on_node(node, "sh", "-c", script, check=False))


@core
def test_removal_leaves_nothing(cluster):
    for node in cluster.nodes:
        assert "[DONE]" in from_outside(cluster, node, cluster.nodes[node], PORT, name())
    held = {node: pinned_ids(cluster, node) for node in cluster.nodes}
    assert all(ids["map"] and ids["prog"] and still_there(cluster, node, ids) for node, ids in held.items()), held
    pods = list(cluster.decode_pods())
    kubectl("delete", "-k", WORK, "--timeout", "240s", timeout=300)
    for node, ids in held.items():
        wait_for(lambda: "llmd" not in cluster.on_node(node, "ls", "/sys/fs/bpf"), f"no pins on {node}")
        wait_for(lambda: not still_there(cluster, node, ids), f"programs and maps gone on {node}", 30)
        assert "llmd" not in cluster.on_node(node, "bpftool", "net", "show")
        tracked = cluster.on_node(node, "conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED", check=False)
        left = [line for line in tracked.splitlines() if any(f"dst={pod.split(':')[0]} " in line and f"dport={POD_PORT}" in line for pod in pods)]
        assert not left, left
