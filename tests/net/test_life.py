# SPDX-License-Identifier: Apache-2.0
"""The agent dies, hangs, restarts, is upgraded: what the kernel carries goes on, the rest fails in a way that shows."""
import os
import signal
import subprocess
import threading
import time

import pytest

import lib_kernel
from conftest import only
from lib_agent import BUILD, Process
from lib_link import bad_link
from lib_net import CLIENT, run, wait_for
from lib_peer import fetch, post, stream_body

STREAMS = dict(up=200, down=8000, chunk=200, gap=100)  # four seconds
FAILS_BY_ITSELF = ("cut", "reset", "refused", "unreached")  # the client is told, at once


def no_byte_wrong_nobody_hangs(result):
    assert result["wrong"] == 0 and result["timeout"] == 0 and result["status"] == 0, result
    assert result["ok"] + sum(result[k] for k in FAILS_BY_ITSELF) == result["started"], result


def test_kill_with_1000_streams(world):
    w = world(pods=2)
    w.start()
    load = w.load(count=1000, **STREAMS)
    load.wait_heads()
    w.assert_handed_over(1000)
    w.agent.kill()
    if w.kernel:
        load.all_ok()
        assert w.kernel_flows() >= 1000
    else:
        started = time.monotonic()
        result = load.result()
        no_byte_wrong_nobody_hangs(result)
        assert time.monotonic() - started < 3, "the relay's clients must be told at once"


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.3])
def test_kill_during_hand_offs(world, moment):
    """What was handed over by then ends well; what was not may fail, but with a reset or an early end."""
    w = world(pods=2)
    w.start()
    load = w.load(count=1000, up=2000, down=2000, chunk=200, gap=100, timeout=30)
    time.sleep(moment)
    w.agent.kill()
    flows = w.kernel_flows()
    result = load.result()
    no_byte_wrong_nobody_hangs(result)
    assert result["ok"] >= flows - 1, (flows, result)  # one may have had its entries, but not yet its request sent


@only("kernel")
def test_agent_and_pod_die_in_a_hand_off(world):
    """The agent has given the whole request to its socket, the pod has not acknowledged it, and both die: the next agent tells the client."""
    w = world()
    pod = w.netpod()
    w.start_agent("--connect-timeout", "30s", "--flows-max", "1024").ready(1)
    w.silence()
    peer = w.dial(timeout=30)
    peer.send(post(stream_body(500)))

    def is_sent():
        slots = [e["formatted"]["value"] for e in lib_kernel.map_entries(w.pin_dir, "slots")]
        return any(slot["state"] == 2 for slot in slots)  # SLOT_HANDED

    wait_for(is_sent, "the request to be sent")
    w.agent.signal(signal.SIGSTOP)  # it must not hear of its pod's end
    pod.kill()
    w.agent.kill()
    w.agent = w.start_agent()
    with pytest.raises(ConnectionResetError):
        peer.read_head()
    wait_for(lambda: w.kernel_flows() == 0, "the end of the flow")
    w.agent.idle()


def test_kill_and_restart_under_load(world):
    """Again and again. Clients that are refused dial again; what fails was not handed over yet."""
    w = world(pods=2)
    w.start()
    load = w.load(count=1 << 30, concurrency=1000, seconds=6, rate=300, up=2000, down=2000, chunk=200, gap=50, timeout=30, retry_refused=1)
    for _ in range(4):
        time.sleep(1.2)
        w.agent.kill()
        w.agent = w.start_agent()
    result = load.result()
    no_byte_wrong_nobody_hangs(result)
    assert result["ok"] > 200, result
    if w.kernel:  # of 300 a second few are in the middle of a hand-off, or waiting to be accepted, even on a busy machine
        assert result["ok"] >= 0.8 * result["started"], result
    w.load(count=200).all_ok()


def test_upgrade_under_load(world):
    """The old agent is told to end, a new one starts: no stream that an agent has accepted is lost."""
    w = world(pods=2)
    w.start()
    load = w.load(count=1 << 30, concurrency=1000, seconds=6, rate=200, up=2000, down=2000, chunk=200, gap=50, timeout=30, retry_refused=1)
    for i in range(3):
        time.sleep(1.5)
        old = w.agent
        old.signal(signal.SIGTERM)
        if w.kernel:
            assert old.process.wait(30) == 0
        else:
            wait_for(lambda old=old: "draining" in old.text(), "the old agent to stop listening")
        w.agent = w.start_agent(admin=9471 + i)
    assert load.all_ok()["ok"] > 500
    w.load(count=200).all_ok()


@only("kernel")
def test_standby_follows_at_once(world):
    """The next agent is there before the old one is told to end: nobody is refused, nobody has to dial again."""
    w = world(pods=2)
    w.start("--standby")
    load = w.load(count=1 << 30, concurrency=1000, seconds=6, rate=200, up=2000, down=2000, chunk=200, gap=50, timeout=30)
    for _ in range(3):
        old = w.agent
        w.agent = w.start_agent("--standby", started=False)
        wait_for(lambda: "standing by" in w.agent.text(), "the next agent")
        time.sleep(0.5)
        assert "listening" not in w.agent.text()
        old.signal(signal.SIGTERM)
        assert old.process.wait(30) == 0
        wait_for(lambda: 'msg="started"' in w.agent.text(), "its start")
    result = load.all_ok()
    assert result["ok"] > 500 and result["refused_dials"] == 0, result
    w.load(count=200).all_ok()


@only("kernel")
def test_restart_adopts(world):
    """The new agent knows sessions, load and flows of the old one, and gives their ports back in the end."""
    w = world(pods=3)
    w.start()
    bound = {}
    for key in map(str, range(12)):
        assert fetch(w.client, stream_body(2000), f"X-Session-ID: {key}\r\n")[0] == 200
        bound[key] = w.agent.json(f"/v1/sessions/{key}")["endpoint"]
    load = w.load(count=300, **STREAMS)
    load.wait_heads()
    w.agent.kill()
    w.agent = w.start_agent()
    w.agent.ready(3)
    known = sum(e["inflight_requests"] for e in w.agent.json("/v1/endpoints"))
    running = sum(s["requests"] - s["answered"] for s in (pod.stats() for pod in w.pods)) - len(w.pods)  # but for those that ask
    assert known >= running > 0, "on a slow machine the first streams have ended"
    assert {key: w.agent.json(f"/v1/sessions/{key}")["endpoint"] for key in bound} == bound
    load.all_ok()
    w.agent.idle()
    wait_for(lambda: w.kernel_flows() == 0, "all flows collected", 90)
    w.load(count=500, concurrency=50).all_ok()


@only("kernel")
def test_second_agent_is_refused(world):
    w = world()
    w.start()
    load = w.load(count=50, **STREAMS)
    load.wait_heads()
    second = w.start_agent(admin=9471, listen=("0.0.0.0:8081",), started=False)
    assert second.process.wait(20) not in (0, -9)
    assert w.pin_dir in second.text()
    w.agents.remove(second)
    load.all_ok()
    w.load(count=50).all_ok()
    assert w.agent.alive()


@only("kernel")
@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_cleanup_leaves_nothing(world, attach):
    w = world(pods=2)
    devices = ["n0", "p0", "p1"]
    before = lib_kernel.tc_state(w.node, devices)
    w.start("--attach", attach)
    w.load(count=50).all_ok()
    w.assert_handed_over(50)
    assert w.agent.end() == 0
    ours = lib_kernel.pinned(w.pin_dir)
    assert ours and ours <= lib_kernel.loaded(), "pinned state outlives the agent"
    assert attach == "tcx" or lib_kernel.tc_state(w.node, devices) != before
    lib_kernel.cleanup(w.node, w.pin_dir)
    assert not os.path.exists(w.pin_dir) or not os.listdir(w.pin_dir)
    assert lib_kernel.tc_state(w.node, devices) == before
    wait_for(lambda: not ours & lib_kernel.loaded(), "programs, links and maps gone")
    lib_kernel.cleanup(w.node, w.pin_dir)  # once more: nothing to do is no failure


@only("kernel")
def test_cleanup_ends_what_streams(world):
    """Client and pod are told, although neither has anything to say; while an agent runs nothing is touched."""
    aborted = threading.Event()

    def behave(peer):
        peer.read_body()
        peer.answer_chunked()
        try:
            peer.socket.recv(1)
        except ConnectionResetError:
            aborted.set()

    w = world()
    w.script(behave)
    w.start_agent().ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    assert peer.read_head()
    w.assert_handed_over(1)
    with pytest.raises(RuntimeError, match="another agent"):
        lib_kernel.cleanup(w.node, w.pin_dir)
    w.agent.kill()
    assert w.kernel_flows() == 1
    lib_kernel.cleanup(w.node, w.pin_dir)
    with pytest.raises(ConnectionResetError):
        peer.read_end()
    assert aborted.wait(10)


@only("kernel")
def test_cleanup_leaves_what_is_not_its_own(world):
    """A --pin-dir that is one level too high: what others have pinned there stays."""
    w = world()
    w.start()
    assert w.agent.end() == 0
    others = os.path.dirname(w.pin_dir)
    with pytest.raises(RuntimeError, match="not llmd's"):
        lib_kernel.cleanup(w.node, others)
    assert os.path.exists(f"{w.pin_dir}/flows") and lib_kernel.pinned(w.pin_dir)


@only("kernel")
def test_cleanup_without_the_rights_says_so(world):
    """It must not pass for done."""
    w = world()
    w.start()
    assert w.agent.end() == 0
    above = os.path.dirname(w.pin_dir)
    for closed in (w.pin_dir, above):
        os.chmod(closed, 0)
        done = subprocess.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", f"{BUILD}/llmd-agent", "--cleanup", "--pin-dir", w.pin_dir],
                              capture_output=True, text=True)
        os.chmod(closed, 0o700)
        assert done.returncode == 1 and "Permission denied" in done.stderr, done
    assert lib_kernel.pinned(w.pin_dir)


@only("kernel")
def test_keeper_removes_when_the_agents_are_gone_and_only_then(world, tmp_path):
    w = world(pods=1)

    def keeper(number):
        log = str(tmp_path / f"keeper{number}.log")
        process = Process(w.node, log, f"{BUILD}/llmd-agent", "--cleanup-on-term", "1s", "--pin-dir", w.pin_dir)
        wait_for(lambda: "keeper waits" in process.text(), "the keeper")
        return process

    w.start()
    w.load(count=20).all_ok()
    ours = lib_kernel.pinned(w.pin_dir)
    first, second = keeper(1), keeper(2)
    assert first.end() == 0 and "an agent runs" in first.text()
    assert lib_kernel.pinned(w.pin_dir) == ours
    w.load(count=20).all_ok()
    assert w.agent.end() == 0
    assert ours <= lib_kernel.loaded()
    assert second.end() == 0
    wait_for(lambda: not ours & lib_kernel.loaded(), "programs, links and maps gone")
    assert not os.path.exists(w.pin_dir) or not os.listdir(w.pin_dir)


@only("kernel")
@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_foreign_programs_stay(world, tmp_path, attach):
    """What others attached to the same devices works on, before, during and after."""
    w = world()
    devices = ["n0", "p0"]
    for device in devices:
        bad_link(tmp_path, w.node, device, drop=1 << 30)
    before = lib_kernel.tc_state(w.node, devices)
    w.start("--attach", attach)
    w.load(count=50, up=1000, down=1000).all_ok()
    w.assert_handed_over(50)
    w.agent.end()
    lib_kernel.cleanup(w.node, w.pin_dir)
    assert lib_kernel.tc_state(w.node, devices) == before


def test_stopped_agent(world):
    """SIGSTOP in mid-stream: what the kernel carries does not notice; the relay's streams wait and are right in the end."""
    w = world()
    w.start()
    load = w.load(count=100, **STREAMS)
    load.wait_heads()
    w.agent.signal(signal.SIGSTOP)
    time.sleep(5)
    answered = w.pods[0].stats()["answered"]
    finished = w.kernel and load.result()
    w.agent.signal(signal.SIGCONT)
    if w.kernel:
        assert answered >= 100 and finished["ok"] == 100 and finished["gap_max_ms"] < 2000, finished
    else:
        load.all_ok()


@only("kernel")
def test_capabilities(world):
    """The agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and nothing else of root's."""
    w = world()
    keep = "bpf,+net_admin,+perfmon"
    w.netpod()
    w.start_agent(prefix=("setpriv", f"--bounding-set=-all,+{keep}", f"--inh-caps=-all,+{keep}")).ready(1)
    with open(f"/proc/{w.agent.pid}/status") as f:
        effective = next(int(line.split()[1], 16) for line in f if line.startswith("CapEff"))
    assert effective == 1 << 12 | 1 << 38 | 1 << 39
    w.load(count=50, up=1000, down=1000).all_ok()
    w.assert_handed_over(50)


@only("kernel")
def test_idle_flows_are_collected(world):
    """A stream that says nothing for --idle-timeout is reset on both sides."""
    w = world()
    w.start("--idle-timeout", "2s")
    load = w.load(count=20, up=100, down=400, chunk=200, gap=20_000, timeout=15)
    load.wait_heads()
    result = load.result()
    assert result["reset"] == 20, result
    wait_for(lambda: w.pods[0].stats()["aborted"] >= 20, "the pod is told")
    w.agent.idle()
    wait_for(lambda: w.kernel_flows() == 0, "all flows collected", 90)


@only("kernel")
def test_without_bpf_file_system(world):
    """A pin directory that can't be used is said at once, by name."""
    w = world()
    done = subprocess.run(w.node.command(f"{BUILD}/llmd-agent", "--endpoint", "10.2.0.2:9000", "--listen", "0.0.0.0:8080",
                                         *lib_kernel.datapath_options("kernel", "/proc/llmd", "always")), capture_output=True, text=True, timeout=20)
    assert done.returncode not in (0, -6, -11) and "/proc/llmd" in done.stdout + done.stderr


@only("kernel")
@pytest.mark.parametrize("first, then", [("tcx", "clsact"), ("clsact", "tcx")])
def test_programs_are_attached_in_another_manner(world, first, then):
    """What the earlier agent has attached goes, but not before the new programs are there."""
    w = world()
    w.start("--attach", first)
    load = w.load(count=100, **STREAMS)
    load.wait_heads()
    w.agent.kill()
    w.agent = w.start_agent("--attach", then)
    w.agent.ready(1)
    links = {name.split("_")[0] for name in os.listdir(os.path.join(w.pin_dir, "links"))}
    assert ("filter" in links) == (then == "clsact") and ("ingress" in links) == ("egress" in links) == (then == "tcx"), links
    for device in ("n0", "p0"):
        for way in ("ingress", "egress"):
            assert ("llmd" in w.node.run("tc", "filter", "show", "dev", device, way)) == (then == "clsact")
    load.all_ok()
    w.load(count=20).all_ok()
    w.assert_handed_over(20)


@only("kernel")
def test_counters_of_a_build_with_fewer_reasons(world):
    """They begin anew, and an upgrade needs no --cleanup."""
    w = world()
    os.makedirs(w.pin_dir)
    run("bpftool", "map", "create", os.path.join(w.pin_dir, "counters"), "type", "percpu_array", "key", "4", "value", "8", "entries", "5", "name", "counters")
    w.start()
    w.load(count=3).all_ok()
    w.assert_handed_over(3)
    assert w.agent.metric('llmd_packets_total{reason="forwarded_down"}') > 0
    assert 'llmd_packets_total{reason="too_big"} 0' in w.agent.get("/metrics")[1]


@only("kernel")
def test_client_affinity(world):
    """--affinity client-ip: the first connection of a client meets the agent, the later ones go straight to its pod."""
    w = world(pods=3)
    addresses = [f"10.1.0.{i}" for i in range(10, 22)]
    for address in addresses:
        w.net.add_client_address(address)
    w.start("--affinity", "client-ip")
    for address in addresses:
        assert fetch(w.client, stream_body(100), source=(address, 0))[0] == 200
    wait_for(lambda: w.agent.metric("llmd_requests_total") == 12, "the ends of the first requests")
    served = [pod.stats()["requests"] for pod in w.pods]
    for _ in range(5):
        for address in addresses:
            assert fetch(w.client, stream_body(100), source=(address, 0))[0] == 200
    assert w.agent.metric("llmd_requests_total") == 12, "known clients must not meet the agent"
    more = [pod.stats()["requests"] - n for pod, n in zip(w.pods, served)]
    assert sum(more) - len(w.pods) == 60 and all(n % 5 in (0, 1) for n in more), more  # stats() itself is one request
    w.agent.kill()
    for address in addresses:
        assert fetch(w.client, stream_body(100), source=(address, 0))[0] == 200


@only("kernel")
def test_client_affinity_beside_a_connection_of_the_agent(world):
    """A known client dials from a port whose last connection the node still remembers: that is the agent's again."""
    w = world()
    w.start("--affinity", "client-ip")
    refused = w.dial(source=(CLIENT, 40000))
    refused.send(b"no request\r\n\r\n")
    assert refused.read_head() and refused.status() == 400 and refused.read_body() and refused.at_end()
    refused.close()
    wait_for(lambda: ":40000" in w.node.run("ss", "-tn", "state", "time-wait"), "the agent's TIME_WAIT")
    assert fetch(w.client, stream_body(100))[0] == 200
    assert fetch(w.client, stream_body(100), source=(CLIENT, 40001))[0] == 200
    assert w.agent.metric("llmd_kernel_flows_total") == 2
    assert fetch(w.client, stream_body(100), source=(CLIENT, 40000))[0] == 200
    assert w.agent.metric('llmd_packets_total{reason="affinity_taken"}') == 1


@only("kernel")
def test_client_affinity_to_a_dead_pod(world):
    """Clients of a pod that is gone go back to the agent, which finds them another one."""
    w = world(pods=2)
    addresses = [f"10.1.0.{i}" for i in range(10, 18)]
    for address in addresses:
        w.net.add_client_address(address)
    w.start("--affinity", "client-ip")
    for address in addresses:
        assert fetch(w.client, source=(address, 0))[0] == 200
    w.pods[0].kill()

    def all_served():
        return all(fetch(w.client, source=(address, 0))[0] == 200 for address in addresses)

    wait_for(all_served, "another pod for all", 30)
    assert all_served()


@only("kernel")
@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_another_schema(world, attach):
    """An agent whose maps are of another schema has a directory of its own: the old programs serve their streams, then they go."""
    w = world(pods=2)
    w.start("--attach", attach)
    load = w.load(count=200, **STREAMS)
    load.wait_heads()
    w.agent.kill()
    newer = os.path.join(os.path.dirname(w.pin_dir), "v2")
    w.agent = w.start_agent("--attach", attach, pin_dir=newer)
    w.agent.ready(2)
    w.load(count=300, concurrency=16, up=300, down=300).all_ok()
    w.assert_handed_over(300)
    load.all_ok()
    wait_for(lambda: not os.path.exists(w.pin_dir), "the old programs to be removed", 60)
    w.load(count=50).all_ok()
    assert w.agent.end() == 0
    lib_kernel.cleanup(w.node, newer)
