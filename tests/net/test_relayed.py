# SPDX-License-Identifier: Apache-2.0
"""What stays relayed although the kernel could be used: the answer is right, and the reason is counted once for each try."""
import contextlib
import json
import socket

import pytest

import lib_kernel
from conftest import only
from lib_agent import PORT
from lib_net import ip, pod_address6, wait_for
from lib_peer import Peer, content, dial, fetch, post, stream_body

ANSWER = content(3000)
NODE2 = "10.2.0.1"  # another address of the node


def results(w):
    return {line.split('"')[1]: int(float(line.rsplit(" ", 1)[1])) for line in lib_kernel.handoff_results(w.agent)}


@contextlib.contextmanager
def counted(w, **expected):
    before = results(w)

    def grown():
        return {k: v - before.get(k, 0) for k, v in results(w).items() if v != before.get(k, 0)}

    yield
    wait_for(lambda: sum(grown().values()) >= sum(expected.values()), "the requests to be counted")  # perhaps later than answered
    assert grown() == expected


def behave(peer):
    peer.read_body()
    peer.answer(ANSWER)
    return "" if peer.header("connection") == "close" else "keep"


def start(world, **options):
    w = world()
    w.script(behave, address="::")
    w.start_agent(**options).ready(1)
    return w


def start_with_silent_pod(world):
    w = world(pods=2)
    w.start("--body-timeout", "2s")
    w.silence()
    return w


def ask(w, body, **options):
    assert fetch(w.client, body, **options) == (200, ANSWER)


@only("kernel")
@pytest.mark.parametrize("handoff, streamed, other", [("auto", "handed", "not_streamed"), ("always", "handed", "handed"), ("never", "off", "off")])
def test_what_does_not_stream(world, handoff, streamed, other):
    w = start(world, handoff=handoff)
    with counted(w, **{streamed: 1}):
        ask(w, stream_body(100))
    with counted(w, **{other: 1}):
        ask(w, b'{"model":"m","messages":[]}')
    w.agent.idle()


@only("kernel")
def test_http_1_0(world):
    w = start(world)
    with counted(w, http10=1):
        peer = w.dial()
        peer.send(post(stream_body()).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert peer.read_head() and peer.status() == 200 and peer.read(len(ANSWER)) == ANSWER
    w.agent.idle()


@only("kernel")
def test_pipelined_requests(world):
    """The second one's bytes are here already: only it can be handed over."""
    w = start(world)
    with counted(w, pipelined=1, handed=1):
        peer = w.dial()
        peer.send(post(stream_body(10)) + post(stream_body(20)))
        for _ in range(2):
            assert peer.read_head() and peer.status() == 200 and peer.read_body() == ANSWER
    w.agent.idle()


@only("kernel")
def test_client_on_the_nodes_loopback(world):
    w = start(world)
    with counted(w, loopback=1):
        peer = dial(w.node, "127.0.0.1")
        peer.send(post(stream_body()))
        assert peer.read_head() and peer.status() == 200 and peer.read_body() == ANSWER
    peer.close()
    w.agent.idle()


@only("kernel")
def test_client_with_a_link_local_address(world):
    """Without its device it could be told of no end, nor taken back."""
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer(ANSWER)), address="::")
    w.start_agent("--affinity", "client-ip", address=pod_address6, listen=(f"[::]:{PORT}",)).ready(1)
    device = json.loads(w.client.run("ip", "-j", "link", "show", "dev", "c0"))[0]["ifindex"]
    shown = json.loads(w.node.run("ip", "-j", "addr", "show", "dev", "n0"))[0]["addr_info"]
    node = next(a["local"] for a in shown if a["scope"] == "link")
    with counted(w, loopback=2):
        for _ in range(2):
            connection = w.client.socket(socket.AF_INET6)
            connection.settimeout(20)
            connection.connect((node, PORT, 0, device))
            peer = Peer(connection)
            peer.send(post(stream_body()))
            assert peer.read_head() and peer.status() == 200 and peer.read_body() == ANSWER
            peer.close()
    w.agent.idle()


@only("kernel")
def test_pod_of_another_family(world):
    w = start(world, address=pod_address6)
    with counted(w, family=1):
        ask(w, stream_body())
    w.agent.idle()


@only("kernel")
def test_table_is_full(world):
    """What has no slot is relayed; once there is room, requests are handed over again."""
    w = world()
    w.start("--flows-max", "1024")
    with counted(w, handed=1024, table_full=76):
        w.load(count=1100, up=100, down=4000, chunk=200, gap=100).all_ok()
    wait_for(lambda: w.kernel_flows() == 0, "free slots")
    with counted(w, handed=10):
        w.load(count=10).all_ok()
    w.agent.idle()


@only("kernel")
def test_client_on_a_device_without_programs(world):
    """As the veth of a pod that is a client: it has no address here. The first connection teaches it; later ones are handed over."""
    w = start(world)
    ip(w.node, f"link add u0 type veth peer name u1 netns {w.client.name}", "link set u0 addrgenmode none up", "route add 10.9.0.2/32 dev u0")
    ip(w.client, "link set u1 up", "addr add 10.9.0.2/32 dev u1", f"route add {NODE2}/32 dev u1 src 10.9.0.2")
    assert "device=u0" not in w.agent.text()

    def ask_from_there():
        ask(w, stream_body(), host=NODE2, source=("10.9.0.2", 0))
        return results(w).get("handed")

    wait_for(ask_from_there, "a hand-off")
    assert results(w)["unseen_client"] >= 1 and "device=u0" in w.agent.text()
    w.agent.idle()


@only("kernel")
def test_tried_at_another_pod_counts_there_again(world):
    """A pod that takes connections and nothing else: none hangs, neither when it is handed over nor when it is relayed. What was
    taken back is relayed by another pod."""
    w = start_with_silent_pod(world)
    w.load(count=8, concurrency=1, up=500).all_ok()
    w.agent.idle()
    counts = results(w)
    assert counts["failed"] >= 1 and counts["handed"] + counts["unseen_client"] == 8 and counts["unseen_client"] == counts["failed"], counts
    assert w.agent.metric("llmd_requests_total") == 8


@pytest.mark.parametrize("datapath", ["relay"], indirect=True)
def test_pod_that_takes_connections_and_nothing_else(world):
    """What it does not acknowledge is not repeated for a quarter of an hour: after --body-timeout another pod is tried."""
    w = start_with_silent_pod(world)
    w.load(count=8, up=500, timeout=50).all_ok()
    w.agent.idle()
    assert w.agent.metric("llmd_retries_total") >= 1
