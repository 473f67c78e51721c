# SPDX-License-Identifier: Apache-2.0
"""A way that carries less than the devices at its ends say, behind the node: routers tell the sender, who must understand it.

    far client -- client's namespace, a router -- node -- pod's namespace, a router -- far pod
"""
import pytest

from lib_agent import NetClient, PORT
from lib_net import CLIENT, CLIENT6, NODE, NODE6, Namespace, ip, pod_address, pod_address6, wait_for
from lib_peer import Pod, content, dial, post, stream_body

FAR_CLIENT, FAR_CLIENT6 = "10.3.0.2", "fd00:3::2"
FAR_POD, FAR_POD6 = "10.4.0.2", "fd00:4::2"
MTU = 1400


def add_far(w, router, role, address, address6, via, via6):
    """A namespace behind router, which can send it packets of no more than MTU bytes; all devices say 1500."""
    far = Namespace(role)
    w.net.pods.append(far)  # ends with the others
    gateway, gateway6 = address.rsplit(".", 1)[0] + ".1", address6.rsplit("::", 1)[0] + "::1"
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        router.sysctl(name, 1)
    ip(router, f"link add f0 type veth peer name f1 netns {far.name}", *w.net.addresses("f0", f"{gateway}/24", f"{gateway6}/64"),
       f"route add {address}/32 dev f0 mtu lock {MTU}", f"route add {address6}/128 dev f0 mtu lock {MTU}")
    ip(far, *w.net.addresses("f1", f"{address}/24", f"{address6}/64"), f"route add default via {gateway}", f"route add default via {gateway6}")
    ip(w.node, f"route add {address}/32 via {via}", f"route add {address6}/128 via {via6}")
    return far


def too_big(w):
    return int(w.agent.metric('llmd_packets_total{reason="too_big"}')) if w.kernel else 0


@pytest.mark.parametrize("family", [4, 6])
def test_answers_to_a_client_behind_a_narrow_way(world, family):
    w = world()
    far = add_far(w, w.client, "far", FAR_CLIENT, FAR_CLIENT6, CLIENT, CLIENT6)
    w.netpod()
    w.start_agent("--listen", f"[::]:{PORT + 1}", address=pod_address if family == 4 else pod_address6).ready(1)
    host, port = (NODE, PORT) if family == 4 else (NODE6, PORT + 1)
    early = dial(w.client, host, port, timeout=30)
    w.peers.append(early)
    for count in (1, 10):
        client = NetClient(far, dict(count=count, concurrency=1, up=1000, down=300_000, timeout=30), host=host, port=port)
        w.clients.append(client)
        client.all_ok()
    assert not w.kernel or too_big(w) > 0
    # The pod has learnt that the way to the node is narrow, and takes less, too. One that was told more is relayed, later ones are told less.
    w.load(host=host, port=port, count=20, concurrency=1, up=1000, down=100_000).all_ok()
    w.assert_handed_over(29)
    if w.kernel:
        before = w.agent.metric('llmd_handoffs_total{result="mss"}')
        early.send(post(stream_body(10)))
        wait_for(lambda: w.agent.metric('llmd_handoffs_total{result="mss"}') == before + 1, "the one that was told more before, to be relayed")


@pytest.mark.parametrize("family", [4, 6])
def test_later_requests_to_a_pod_behind_a_narrow_way(world, family):
    """On a connection that stays at its pod (--keepalive pin) the client's next request goes through the kernel."""
    w = world()
    far = add_far(w, w.net.pods[0], "farpod", FAR_POD, FAR_POD6, pod_address(0), pod_address6(0))
    bodies = []

    def behave(peer):
        bodies.append(peer.read_body())
        peer.answer(content(2000))
        return "keep"

    w.pods.append(Pod(far, behave, address="::", port=9000))
    address = FAR_POD if family == 4 else FAR_POD6
    w.start_agent("--listen", f"[::]:{PORT + 1}", *(("--keepalive", "pin") if w.kernel else ()), address=lambda i: address, pods=1).ready(1)
    peer = dial(w.client, *((NODE, PORT) if family == 4 else (NODE6, PORT + 1)), timeout=30)
    w.peers.append(peer)
    for body in (stream_body(500), stream_body(200_000), stream_body(300_000)):
        peer.send(post(body))
        assert peer.read_head() and peer.status() == 200 and peer.read_body() == content(2000)
        assert bodies.pop() == body
    w.assert_handed_over(1)
    assert not w.kernel or too_big(w) > 0
