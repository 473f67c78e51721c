# SPDX-License-Identifier: Apache-2.0
"""--affinity client-ip: connections that never meet the agent, and their ends."""
import json
import os
import threading

import pytest

from conftest import only
from lib_agent import POD_PORT, PORT, forget
from lib_net import NODE, NODE6, pod_address, pod_address6, wait_for
from lib_peer import content, fetch, post, stream_body

QUICK = "X-Quick: 1\r\n"  # answered at once; other requests wait until the test lets them go on
FAMILIES = pytest.mark.parametrize("host, address", [(NODE, pod_address), (NODE6, pod_address6)], ids=["IPv4", "IPv6"])


def packets(w, reason):
    return w.agent.metric(f'llmd_packets_total{{reason="{reason}"}}')


class Straight:
    """A world whose client is known: its next connections go straight to pod 0."""

    def __init__(self, w, *options, host=NODE, address=pod_address, ports=(PORT,), pods=None):
        self.w, self.host, self.go_on = w, host, threading.Event()
        any_address, listen = ("::", "[::]") if ":" in host else ("0.0.0.0", "0.0.0.0")
        for i in range(len(w.net.pods)):
            w.script(self.behave, i, address=any_address)
        w.start_agent("--affinity", "client-ip", *options, address=address, listen=[f"{listen}:{port}" for port in ports], pods=pods).ready(1)
        assert fetch(w.client, fields=QUICK, host=host)[0] == 200

    def behave(self, peer):
        peer.read_body()
        if peer.header("x-quick"):
            peer.answer(b"quick")
            return
        peer.answer_chunked()
        peer.chunk(content(1000))
        assert self.go_on.wait(60)
        peer.send(b"0\r\n\r\n")

    def dial(self, **options):
        return self.w.dial(host=self.host, **options)

    def stream(self, **options):
        """A stream that has begun."""
        peer = self.dial(**options)
        peer.send(post(stream_body()))
        assert peer.read_head() and peer.status() == 200
        return peer

    def end(self, *streams):
        self.go_on.set()
        for peer in streams:
            assert peer.read_body() == content(1000)
            peer.close()
        wait_for(lambda: self.w.kernel_flows() == 0, "the end of all flows", 60)


def list_pods(path, pods):
    path.with_suffix(".new").write_text(json.dumps([f"[{pod_address6(i)}]:{POD_PORT}" for i in pods]))
    os.rename(path.with_suffix(".new"), path)


@only("kernel")
def test_straight_connections_of_a_removed_pod_are_reset(world, tmp_path):
    """Over IPv6; those, too, that have not said anything yet. The next one finds another pod."""
    path = tmp_path / "pods.yaml"
    list_pods(path, [0])
    w = world(pods=2)
    straight = Straight(w, "--endpoints-file", str(path), "--drain-timeout", "300ms", host=NODE6, address=pod_address6, pods=0)
    peers = [straight.stream(), straight.dial()]
    assert packets(w, "affinity_straight") == 2
    list_pods(path, [1])
    for peer in peers:
        with pytest.raises(ConnectionResetError):
            peer.read_end()
    assert fetch(w.client, fields=QUICK, host=NODE6)[0] == 200
    straight.end()


@only("kernel")
@FAMILIES
def test_more_straight_connections_than_slots(world, host, address):
    """The others meet the agent, and slots are used again."""
    w = world()
    straight = Straight(w, "--affinity-ports", "10000-10001", host=host, address=address)
    for i in range(1, 3):
        streams = [straight.stream() for _ in range(5)]
        assert packets(w, "affinity_straight") == 2 * i and packets(w, "affinity_full") == 3 * i
        straight.end(*streams)
        straight.go_on.clear()


@only("kernel")
def test_each_front_knows_its_own_clients(world):
    w = world()
    straight = Straight(w, ports=(PORT, PORT + 1))
    assert fetch(w.client, fields=QUICK, port=PORT + 1)[0] == 200 and packets(w, "affinity_straight") == 0
    assert fetch(w.client, fields=QUICK, port=PORT + 1)[0] == 200 and packets(w, "affinity_straight") == 1
    streams = [straight.stream(port=port) for port in (PORT, PORT + 1)]
    assert packets(w, "affinity_straight") == 3
    straight.end(*streams)


@only("kernel")
def test_straight_connections_without_a_request_end(world):
    """They keep a slot and a port; whoever only opens connections could have them all."""
    w = world()
    straight = Straight(w, "--keepalive-timeout", "1s")
    stream, left, gone = straight.stream(), straight.dial(), straight.dial()
    assert packets(w, "affinity_straight") == 3
    forget(gone.socket)
    with pytest.raises(ConnectionResetError):
        left.read_end()
    wait_for(lambda: w.kernel_flows() == 1, "the end of those without a request")
    straight.end(stream)
