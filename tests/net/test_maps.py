# SPDX-License-Identifier: Apache-2.0
"""llmd-maps beside a real agent, and after it: what it shows is what happens, and a flow that it deletes ends for both sides."""
import json
import os
import subprocess
import threading

import pytest

from conftest import only
from lib_agent import BUILD, PORT
from lib_net import CLIENT, NODE, run, wait_for
from lib_peer import content, fetch, pod_endpoint, post, stream_body
from test_ends import AT_ONCE

pytestmark = [only("kernel"), pytest.mark.skipif(not os.path.exists(f"{BUILD}/llmd-maps"), reason="llmd-maps is not built")]


class Maps:
    def __init__(self, world):
        self.world = world

    def run(self, *words):
        command = self.world.node.command(f"{BUILD}/llmd-maps", *words, "--pin-dir", self.world.pin_dir)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        return done

    def json(self, *words):
        done = self.run("-j", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Stream:
    """A stream through the kernel, a chunk each 20 ms, until stop."""

    def __init__(self, world, fields):
        self.stop, self.ended = threading.Event(), threading.Event()
        world.script(self.behave)
        world.start_agent().ready(1)
        self.peer = world.dial()
        self.peer.send(post(stream_body(3000), fields))
        assert self.peer.read_head() and self.peer.status() == 200
        world.assert_handed_over(1)

    def behave(self, pod):
        pod.read_body()
        pod.answer_chunked()
        try:
            while not self.stop.wait(0.02):
                pod.chunk(content(200))
            pod.send(b"0\r\n\r\n")
        finally:
            self.ended.set()


@pytest.fixture
def streaming(world):
    w = world()
    stream = Stream(w, "x-request-id: req-7\r\nX-Session-ID: user-42\r\n")
    yield w, Maps(w), stream
    stream.stop.set()


def test_what_runs_is_shown_by_name(streaming):
    w, maps, stream = streaming
    client = "%s:%d" % stream.peer.socket.getsockname()
    [flow] = wait_for(lambda: [f for f in maps.json("flow", "list") if f["bytes_down"] > 2000], "bytes of the stream")
    assert flow["client"] == client and flow["client"].startswith(CLIENT) and flow["front"] == f"{NODE}:{PORT}"
    assert flow["pod"] == flow["endpoint"] == pod_endpoint() and flow["phase"] == "open" and flow["status"] == 200
    up = maps.json("flow", "get", client)["entry_up"]
    down = maps.json("flow", "get", "req-7")["entry_down"]
    assert up["seq_add"] == down["ack_sub"] and up["ack_sub"] == down["seq_add"]
    # The key is hashed with the secret that lies in the maps; the agent's own answer tells whether it is the right one.
    wait_for(lambda: maps.run("session", "get", "user-42").returncode == 0, "the session")
    session = maps.json("session", "get", "user-42")
    assert session["session_hash"] == w.agent.json("/v1/sessions/user-42")["session_hash"] and session["endpoint"] == pod_endpoint()
    assert max(p["depth"] for p in maps.json("prefix", "list")) == 5  # 3000 bytes in blocks of 512
    assert maps.json("counter", "get", "forwarded_down")["count"] > 10


def test_works_without_the_agent(streaming):
    w, maps, stream = streaming
    assert maps.json("summary")["agent_runs"]
    wait_for(lambda: maps.json("session", "list"), "the session to be written")  # 50 ms after it was bound
    w.agent.kill()
    summary = maps.json("summary")
    assert not summary["agent_runs"] and f"{NODE}:{PORT}" in summary["fronts"]
    used = {m["map"]: m["used"] for m in summary["maps"]}
    assert (used["flows"], used["slots"], used["endpoints"], used["sessions"]) == (2, 1, 1, 1)
    before = maps.json("flow", "get", "req-7")["bytes_down"]
    wait_for(lambda: maps.json("flow", "get", "req-7")["bytes_down"] > before, "the stream to go on")
    [endpoint] = wait_for(lambda: [e for e in maps.json("endpoint", "list") if e["itl_count"] > 20], "gaps between chunks")
    assert endpoint["flows_now"] == 1 and endpoint["state"] == "ready" and 0 < endpoint["ttft_p50_seconds"] < 1
    assert 0.016 <= endpoint["itl_p50_seconds"] <= 0.033  # 20 ms lie in the bucket [16.4, 32.8) ms


def test_a_deleted_flow_ends_for_both_sides(streaming):
    w, maps, stream = streaming
    w.agent.kill()
    done = maps.run("flow", "delete", "req-7")
    assert done.returncode == 0 and "is cut: the pod is reset when it next sends, the client was" in done.stderr, done.stderr
    stream.peer.socket.settimeout(AT_ONCE)
    with pytest.raises(ConnectionResetError):
        while stream.peer.socket.recv(1 << 16):
            pass
    assert stream.ended.wait(AT_ONCE), "the pod sends on"
    assert maps.run("flow", "delete", "req-7").returncode == 1 and not maps.json("summary")["agent_runs"]


def test_drain_reaches_the_map(streaming):
    w, maps, stream = streaming
    assert maps.json("endpoint", "drain", pod_endpoint())["state"] == "draining"
    wait_for(lambda: maps.json("endpoint", "get", pod_endpoint())["state"] == "draining", "the map to say so")
    assert maps.json("endpoint", "undrain", pod_endpoint())["address"] == pod_endpoint()


def test_doctor_names_devices_with_others_programs(world):
    """The agent's own are no others; they are to a doctor that looks after another pin directory."""
    world = world()
    world.start()

    def others(pin_dir):
        command = world.node.command(f"{BUILD}/llmd-doctor", "-j", "--pin-dir", pin_dir)
        findings = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
        return next(finding for finding in findings if finding["check"] == "others at TC")

    assert others(world.pin_dir)["level"] == "ok"
    told = others(f"{world.pin_dir}/none")
    assert told["level"] == "note" and len(told["found"].split(":")[1].split()) >= 2, told


@pytest.mark.parametrize("flags", [(128, 0, 0, 0), (128, 16, 0, 0)], ids=["ended", "ended_straight"])
def test_a_slot_full_of_garbage_does_not_end_the_agent(streaming, flags):
    """Who may write to the maps breaks the streams that they are about, and no more."""
    w, maps, stream = streaming
    slot = maps.json("flow", "list")[0]["slot"]
    path = os.path.join(w.pin_dir, "slots")
    value = ["255"] * json.loads(run("bpftool", "-j", "map", "show", "pinned", path))["bytes_value"]
    value[4:8] = [str(byte) for byte in flags]
    run("bpftool", "map", "update", "pinned", path, "key", *(str(byte) for byte in slot.to_bytes(4, "little")), "value", *value)
    wait_for(lambda: not w.agent.alive() or all(f["slot"] != slot for f in maps.json("flow", "list")), "the slot free again")
    assert w.agent.alive(), w.agent.text()[-2000:]
    stream.stop.set()
    assert fetch(w.client, timeout=60)[0] == 200
