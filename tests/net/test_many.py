# SPDX-License-Identifier: Apache-2.0
"""Many connections: at once, one after the other, from few ports, to pods that can't keep up."""
import pytest

from conftest import only
from lib_link import bad_link
from lib_net import pod_address, run


def resident_kib(agent):
    with open(f"/proc/{agent.pid}/status") as f:
        return int(next(line for line in f if line.startswith("VmRSS:")).split()[1])


def test_2000_at_once(world):
    w = world(pods=2)
    w.start()
    w.load(count=2000, up=300, down=4000, chunk=200, gap=50).all_ok()
    w.assert_handed_over(2000)
    w.agent.idle()


def test_10000_in_a_row(world):
    w = world(pods=2)
    w.start()
    w.load(count=2000, concurrency=32).all_ok()  # more than later: what so many need at once stays allocated
    before = resident_kib(w.agent)
    w.load(count=8000, concurrency=4).all_ok()
    assert resident_kib(w.agent) - before < 4096
    w.assert_handed_over(10_000)
    w.agent.idle()


def test_large_prompts_at_once(world):
    w = world()
    w.start()
    w.load(count=400, concurrency=20, up=220_000, down=1000).all_ok()
    w.assert_handed_over(400)


def test_mixed_load(world):
    """Streams, short answers and long prompts beside each other, each as if it were alone."""
    w = world(pods=3)
    w.start(handoff="auto")
    loads = [w.load(count=300, rate=300, up=500, down=10_000, chunk=200, gap=20, seed=1 << 20),
             w.load(count=1500, concurrency=4, up=100, down=500, seed=1 << 30),
             w.load(count=60, concurrency=6, up=150_000, down=150_000, seed=1 << 40)]
    for load in loads:
        load.all_ok()
    w.agent.idle()


def test_few_client_ports_without_time_wait(world):
    """Each port is used again at once, many times over."""
    w = world()
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.client.sysctl("net.ipv4.ip_local_port_range", "20000 20300")
    w.start()
    w.load(count=6000, concurrency=64, up=200, down=200).all_ok()
    w.assert_handed_over(5900)  # without a free port of its own a connection may be relayed


def test_more_clients_than_ports(world):
    """Clients that find all their ports in use come later; nothing of an earlier connection gets into a later one."""
    w = world()
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.client.sysctl("net.ipv4.ip_local_port_range", "20000 20099")
    w.start()
    w.load(count=1000, concurrency=300, up=100, down=1000, chunk=200, gap=10).all_ok()


@pytest.mark.parametrize("ecn", [(1, 1), (1, 0), (0, 1)], ids=["both", "client", "pod"])
def test_ecn(world, ecn):
    """One end speaks ECN, the other may not."""
    w = world()
    for namespace, value in zip((w.client, w.net.pods[0]), ecn):
        namespace.sysctl("net.ipv4.tcp_ecn", value)
    w.start()
    w.load(count=50, up=50_000, down=50_000).all_ok()
    w.assert_handed_over(50)


def test_packets_steered_over_processors(world):
    """Receive packet steering takes packets of a flow through the backlog of another processor."""
    w = world()
    for device in ("n0", "p0"):
        run("ip", "netns", "exec", w.node.name, "sh", "-c", f"echo 3 >/sys/class/net/{device}/queues/rx-0/rps_cpus")
    w.start()
    w.load(count=300, up=300, down=4000, chunk=200, gap=20).all_ok()
    w.load(count=20, up=300_000, down=300_000).all_ok()
    w.assert_handed_over(320)


@pytest.mark.parametrize("option, value", [("tcp_window_scaling", 0), ("tcp_sack", 0), ("tcp_timestamps", 0), ("tcp_rmem", "4096 8192 16384")])
@pytest.mark.parametrize("where", ["client", "pod"])
def test_plain_stacks(world, where, option, value):
    """An end without window scaling, SACK or timestamps, or with next to no buffer."""
    w = world()
    (w.client if where == "client" else w.net.pods[0]).sysctl(f"net.ipv4.{option}", value)
    w.start()
    w.load(count=10, up=200_000, down=200_000).all_ok()
    w.load(count=10, up=100, down=2000, gap=10).all_ok()
    w.assert_handed_over(20)


@only("kernel")
def test_what_sockets_tell_of_the_ways_to_pods(world, tmp_path):
    """Connects, round-trip times and retransmissions are those of the agent's own connections, whoever else is in its cgroup."""
    w = world()
    w.start("--pool-idle", "0", "--connect-timeout", "20s", handoff="never")
    if "sockops attached" not in w.agent.text():
        pytest.skip("no cgroup2 hierarchy to attach sockops to")
    before = w.agent.metric("llmd_pod_connects_total")
    w.load(host=pod_address(0), port=9000, count=50).all_ok()  # from the client's namespace to the same address
    assert w.agent.metric("llmd_pod_connects_total") == before
    bad_link(tmp_path, w.net.pods[0], "eth0", drop=10)
    w.load(count=60, concurrency=8, up=20_000, down=100).all_ok()
    assert w.agent.metric("llmd_pod_connects_total") >= before + 60
    assert w.agent.metric("llmd_pod_rtt_seconds_count") >= 60 and w.agent.metric("llmd_pod_retransmits_total") > 0
