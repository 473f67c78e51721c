# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go while their streams are in the kernel."""
import json
import os
import time

import lib_kernel
from conftest import only
from lib_agent import POD_PORT, PORT
from lib_net import pod_address, wait_for
from lib_peer import fetch, stream_body
from test_life import STREAMS


def write(path, pods):
    path.with_suffix(".new").write_text(json.dumps([f"{pod_address(i)}:{POD_PORT}" for i in pods]))
    os.rename(path.with_suffix(".new"), path)


def follow(w, path, *options):
    return w.start_agent("--endpoints-file", str(path), *options, pods=0)


def start(w, path, pods, *options):
    for i in range(len(w.net.pods)):
        w.netpod(i)
    write(path, pods)
    follow(w, path, *options).ready(len(pods))


def test_streams_of_a_removed_pod_are_reset_and_no_other(world, tmp_path):
    w = world(pods=3)
    path = tmp_path / "pods.yaml"
    start(w, path, range(3), "--drain-timeout", "300ms")
    load = w.load(count=60, **STREAMS)
    load.wait_heads()
    w.assert_handed_over(60)
    mine = {e["address"]: e["inflight_requests"] for e in w.agent.json("/v1/endpoints")}[f"{pod_address(0)}:{POD_PORT}"]
    assert mine > 0
    write(path, [1, 2])
    wait_for(lambda: len(w.agent.json("/v1/endpoints")) == 2, "the pod to go")
    result = load.result()
    assert result["reset"] == mine and result["ok"] == 60 - mine, (mine, result)
    w.agent.idle()
    wait_for(lambda: w.kernel_flows() == 0, "all flows collected", 90)
    write(path, [0, 1, 2])
    w.agent.ready(3)
    w.load(count=60).all_ok()


@only("kernel")
def test_a_client_that_missed_data_is_reset(world, tmp_path):
    """What the pod has sent last is lost on the way to the client, which expects an older number. Nor is it heard when it asks back."""
    w = world(pods=2)
    path = tmp_path / "pods.yaml"
    start(w, path, range(2), "--drain-timeout", "300ms")
    load = w.load(count=20, timeout=10_000, **STREAMS)
    load.wait_heads()
    w.assert_handed_over(20)
    w.client.run("iptables", "-A", "INPUT", "-p", "tcp", "-m", "length", "--length", "100:", "-j", "DROP")
    w.node.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(PORT), "--tcp-flags", "SYN,RST,ACK", "ACK", "-j", "DROP")
    time.sleep(0.3)
    path.write_text("[]")
    result = load.result()
    assert result["reset"] == 20, result
    w.agent.idle()


@only("kernel")
def test_straight_streams_of_a_removed_pod_are_reset(world, tmp_path):
    """With --affinity client-ip the agent has never met these connections."""
    w = world(pods=2)
    path = tmp_path / "pods.yaml"
    start(w, path, range(2), "--affinity", "client-ip", "--drain-timeout", "300ms")
    assert fetch(w.client, stream_body(100))[0] == 200
    wait_for(lambda: lib_kernel.map_entries(w.pin_dir, lib_kernel.AFFINITY), "the client to be known")
    mine = next(i for i, pod in enumerate(w.pods) if pod.stats()["requests"] > 1)  # stats() itself is one
    load = w.load(count=20, **STREAMS)
    load.wait_heads()
    assert w.handed_over() == 1
    write(path, [1 - mine])
    assert load.result()["reset"] == 20, load.result()
    wait_for(lambda: w.kernel_flows() == 0, "all flows collected", 90)


@only("kernel")
def test_a_pod_goes_right_after_its_streams(world, tmp_path):
    """What has just ended still lingers then, and what comes next takes its place: nobody else may lose his stream by that."""
    w = world(pods=2)
    path = tmp_path / "pods.yaml"
    start(w, path, range(2))
    for pods in ([1], [0, 1], [1]):
        w.load(count=100).all_ok()
        write(path, pods)
        wait_for(lambda pods=pods: len(w.agent.json("/v1/endpoints")) == len(pods), "the pods of the file")
        w.load(count=150, **(STREAMS | dict(down=4000))).all_ok()
    w.agent.idle()
    wait_for(lambda: w.kernel_flows() == 0, "all flows collected", 90)


@only("kernel")
def test_a_restart_with_a_source_that_says_nothing_keeps_the_streams(world, tmp_path):
    w = world(pods=2)
    path = tmp_path / "pods.yaml"
    start(w, path, range(2))
    load = w.load(count=100, **STREAMS)
    load.wait_heads()
    w.agent.kill()
    path.write_text("- not: an endpoint\n")
    w.agent = follow(w, path)
    w.agent.ready(2)
    assert {e["source"] for e in w.agent.json("/v1/endpoints")} == {"pinned"}
    assert sum(e["inflight_requests"] for e in w.agent.json("/v1/endpoints")) == 100
    w.load(count=20).all_ok()
    write(path, range(2))
    wait_for(lambda: {e["source"] for e in w.agent.json("/v1/endpoints")} == {"file"}, "the repaired file")
    load.all_ok()
    w.agent.idle()
