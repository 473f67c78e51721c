# SPDX-License-Identifier: Apache-2.0
"""Connection tracking and DNAT from a service address, as kube-proxy sets them up, by nftables and by iptables."""
import time

import pytest

from conftest import only
from lib_agent import POD_PORT
from lib_net import CLIENT, NODE, wait_for
from lib_peer import content, fetch, stream_body

SERVICE, SERVICE_PORT = "10.96.0.10", 80
NODE_PORT = 30080

NFT = f"""
table ip kube-proxy {{
    chain services {{
        ip daddr {SERVICE} tcp dport {SERVICE_PORT} dnat to {NODE}:8080
        fib daddr type local tcp dport {NODE_PORT} dnat to {NODE}:8080
    }}
    chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0x4000 masquerade; }}
    chain filter-forward {{ type filter hook forward priority -110; ct state invalid drop; }}
    chain filter-input {{ type filter hook input priority -110; ct state invalid drop; }}
}}
"""

IPTABLES = f"""
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {SERVICE}/32 -p tcp -m tcp --dport {SERVICE_PORT} -j DNAT --to-destination {NODE}:8080
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport {NODE_PORT} -j DNAT --to-destination {NODE}:8080
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def add_rules(w, tool):
    if tool == "nft":
        w.node.run("nft", "-f", "-", text=NFT)
    else:
        w.node.run("iptables-restore", "--noflush", text=IPTABLES)


def tracked(w, what):
    """Established connections that are tracked: the client's, or those to pods."""
    return [line for line in w.node.run("conntrack", "-L", "-p", "tcp").splitlines() if "ESTABLISHED" in line and what in line]


def nothing_left(w):
    """What ended, or is the kernel's, leaves no established entry; connections to pods that the agent keeps idle may."""
    idle = len(w.node.connections("dport", "=", f":{POD_PORT}"))
    return not tracked(w, f"src={CLIENT} ") and len(tracked(w, f" dport={POD_PORT} ")) <= idle


@pytest.mark.parametrize("tool", ["nft", "iptables"])
@pytest.mark.parametrize("host, port", [(SERVICE, SERVICE_PORT), (NODE, NODE_PORT), (NODE, 8080)], ids=["service", "nodeport", "direct"])
def test_streams_through_conntrack(world, tool, host, port):
    w = world(pods=2)
    add_rules(w, tool)
    w.start()
    w.load(host=host, port=port, count=1).all_ok()  # the agent learns the service's address from its first connection
    load = w.load(host=host, port=port, count=100, up=500, down=6000, chunk=200, gap=50)
    load.wait_heads()
    if not w.kernel:
        assert len(tracked(w, f"src={CLIENT} ")) >= 100, "tracking is not on"
    wait_for(lambda: not w.kernel or nothing_left(w), "entries deleted at the hand-over", 3)
    load.all_ok()
    w.load(host=host, port=port, count=10, up=300_000, down=300_000).all_ok()
    w.assert_handed_over(110)
    wait_for(lambda: nothing_left(w), "no entry left")


def test_same_port_again_through_conntrack(world):
    """The next connection of the same tuple meets no stale entry: no NAT to elsewhere, no INVALID."""
    w = world()
    add_rules(w, "nft")
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.client.sysctl("net.ipv4.ip_local_port_range", "20000 20050")
    w.start()
    w.load(host=SERVICE, port=SERVICE_PORT, count=2000, concurrency=16, up=300, down=300).all_ok()
    wait_for(lambda: nothing_left(w), "no entry left")
    w.assert_handed_over(1800)


@only("kernel")
def test_slow_stream_through_conntrack(world):
    """A pause longer than the time-out of established entries (five days; two seconds here) does not end a stream: there is
    no entry. (The relay's own connections are tracked like any other.)"""
    w = world()
    add_rules(w, "nft")
    w.node.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", 2)
    pauses = []
    w.script(lambda peer: (peer.read_body(), time.sleep(pauses[-1]), peer.answer(content(100_000))))
    w.start_agent().ready(1)
    for pause in (0, 4):
        pauses.append(pause)
        assert fetch(w.client, stream_body(100), host=SERVICE, port=SERVICE_PORT) == (200, content(100_000))
    w.assert_handed_over(1)
