# SPDX-License-Identifier: Apache-2.0
"""Devices of other kinds, and ways that change while streams are open."""
import socket
import struct

import pytest

from conftest import only
from lib_agent import PORT
from lib_link import ip_link
from lib_net import CLIENT, CLIENT6, NODE, NODE6, ip, pod_address, pod_address6, wait_for

pytestmark = only("kernel")
STREAMS = dict(up=200, down=4000, chunk=200, gap=100)  # two seconds
TUNNEL_NODE, TUNNEL_POD = "10.6.0.1", "10.6.0.2"


def packets(w, reason):
    return w.agent.metric(f'llmd_packets_total{{reason="{reason}"}}')


def test_vlan_tagged_packets_are_left_alone(world):
    """A SYN to the agent with a tag, which the device below the VLAN's own sees: counted, not touched, nobody's."""
    w = world()
    w.start()
    macs = [bytes.fromhex(ip_link(n, d)["address"].replace(":", "")) for n, d in ((w.node, "n0"), (w.client, "c0"))]
    tcp = struct.pack("!HHLLHHHH", 4000, PORT, 1000, 0, 5 << 12 | 2, 1000, 0, 0)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, socket.IPPROTO_TCP, 0, socket.inet_aton(CLIENT), socket.inet_aton(NODE))
    wire = w.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind(("c0", 0))
    cleaned = packets(w, "syn_cleaned")
    for _ in range(3):
        wire.send(macs[0] + macs[1] + struct.pack("!HHH", 0x8100, 5, 0x0800) + header + tcp)
    wire.close()
    wait_for(lambda: packets(w, "vlan") == 3, "the tagged packets to be counted")
    assert packets(w, "syn_cleaned") == cleaned
    w.load(count=10).all_ok()
    w.assert_handed_over(10)


def test_pods_in_an_overlay(world):
    """Pods of another node: a VXLAN tunnel over the link between both, which carries 50 bytes less."""
    w = world()
    ends = ((w.node, "10.2.0.1", pod_address(0), TUNNEL_NODE), (w.net.pods[0], pod_address(0), "10.2.0.1", TUNNEL_POD))
    for namespace, local, remote, address in ends:
        ip(namespace, f"link add t0 mtu 1450 type vxlan id 7 dstport 4789 local {local} remote {remote}", f"addr add {address}/24 dev t0", "link set t0 up")
    w.netpod()
    w.start_agent(address=lambda i: TUNNEL_POD).ready(1)
    w.load(count=50, up=30_000, down=30_000).all_ok()
    w.load(count=50, up=100, down=2000, gap=10).all_ok()
    w.assert_handed_over(100)


@pytest.mark.parametrize("what", ["route", "device"])
def test_way_to_a_pod_changes_in_mid_stream(world, what):
    """Its address is reached by another device, or the one that led there is gone: open streams go the new way."""
    w = world()
    pod = w.net.pods[0]
    w.start()
    ip(w.node, f"link add q0 type veth peer name eth1 netns {pod.name}", "addr add 10.7.0.1/24 dev q0", "link set q0 up")
    ip(pod, "addr add 10.7.0.2/24 dev eth1", "link set eth1 up")
    wait_for(lambda: "device=q0" in w.agent.text(), "the programs on the new device")  # without, the node answers the pod with RSTs
    load = w.load(count=50, **STREAMS)
    load.wait_heads()
    if what == "route":
        ip(w.node, f"route add {pod_address(0)}/32 via 10.7.0.2")
        ip(pod, f"route add 10.2.0.1/32 via 10.7.0.1 src {pod_address(0)}")
    else:
        ip(pod, f"addr add {pod_address(0)}/32 dev lo", "route del default", f"route add default via 10.7.0.1 src {pod_address(0)}")
        ip(w.node, "link del p0", "addr add 10.2.0.1/32 dev lo", f"route add {pod_address(0)}/32 via 10.7.0.2")
    load.all_ok()
    w.load(count=20).all_ok()
    w.assert_handed_over(60)


def add_way_to_client(w):
    ip(w.node, f"link add m0 type veth peer name c1 netns {w.client.name}", *w.net.addresses("m0", "10.8.0.1/24", "fd00:8::1/64"))
    ip(w.client, *w.net.addresses("c1", "10.8.0.2/24", "fd00:8::2/64"))


def lead_to_client_by_it(w):
    """The client's and the node's addresses stay, the link between them does not."""
    ip(w.client, f"addr add {CLIENT}/32 dev lo", f"addr add {CLIENT6}/128 dev lo", "link del c0",
       f"route add {NODE}/32 via 10.8.0.1 src {CLIENT}", f"route add {NODE6}/128 via fd00:8::1 src {CLIENT6}")
    ip(w.node, f"addr add {NODE}/32 dev lo", f"addr add {NODE6}/128 dev lo", f"route add {CLIENT}/32 via 10.8.0.2",
       f"route add {CLIENT6}/128 via fd00:8::2")


@pytest.mark.parametrize("host, address, agent", [(NODE, pod_address, "there"), (NODE, pod_address, "dead"), (NODE6, pod_address6, "dead")])
def test_device_that_leads_to_a_client_goes_in_mid_stream(world, host, address, agent):
    """What the pod repeats finds the new way; no agent is needed for that."""
    w = world()
    w.netpod()
    w.start_agent(address=address, listen=(f"[::]:{PORT}",)).ready(1)
    add_way_to_client(w)
    wait_for(lambda: "device=m0" in w.agent.text(), "the programs on the new device")
    load = w.load(host=host, count=50, **STREAMS)
    load.wait_heads()
    w.assert_handed_over(50)
    if agent == "dead":
        w.agent.kill()
    lead_to_client_by_it(w)
    load.all_ok()
    if agent == "there":
        w.load(host=host, count=20).all_ok()
        w.assert_handed_over(70)
