# SPDX-License-Identifier: Apache-2.0
"""Three nodes, one Redis: what one agent learns is in the pinned maps of all, also after Redis was killed under load."""
import json
import os
import shutil
import subprocess
import sys

import pytest

from lib_agent import BUILD, POD_PORT
from lib_net import pod_address, wait_for
from lib_world import World

sys.path.append(os.path.join(os.path.dirname(__file__), "../blackbox"))
from redis_server import Redis  # noqa: E402
from session_load import Load  # noqa: E402

pytestmark = [pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed"),
              pytest.mark.skipif(not os.path.exists(f"{BUILD}/llmd-maps"), reason="llmd-maps is not built")]
PODS = 2


@pytest.fixture
def nodes(tmp_path, bpffs):
    """Nodes that each reach pods of the same addresses: to the agents it is one cluster."""
    (tmp_path / "secret").write_text("00112233445566778899aabbccddeeff")
    redis, made = Redis(), []
    try:
        for i in range(3):
            (tmp_path / f"node{i}").mkdir()
            made.append(World("kernel", tmp_path / f"node{i}", os.path.join(bpffs, f"events{i}"), pods=PODS))
            made[-1].start("--redis", redis.url, "--session-secret-file", str(tmp_path / "secret"), handoff="auto")
        live(made)
        yield redis, made
    finally:
        codes = [world.end() for world in made]
        redis.end()
    assert not any(code for each in codes for code in each)


def live(worlds):
    for world in worlds:
        wait_for(lambda: world.agent.json("/readyz")["redis"]["state"] == "live", "the agent to follow the stream", 60)


def dump(world, noun, key):
    done = subprocess.run(world.node.command(f"{BUILD}/llmd-maps", noun, "list", "-j", "--pin-dir", world.pin_dir), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {entry[key]: entry for entry in json.loads(done.stdout)}


def maps(world):
    """Which pod each session and each block is at, by name."""
    sessions = {key: entry["endpoint"] for key, entry in dump(world, "session", "session_hash").items()}
    blocks = {key: sorted(json.dumps(e) for e in entry["endpoints"]) for key, entry in dump(world, "prefix", "prefix_hash").items()}
    return json.dumps([sessions, blocks], sort_keys=True)


def agree(worlds):
    wait_for(lambda: len({maps(world) for world in worlds}) == 1, "equal maps", 60, pause=0.2)
    return json.loads(maps(worlds[0]))


def post(world, session, text):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    peer = world.client.connect("10.1.0.1", 8080)
    try:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Session-ID: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (session.encode(), len(body)) + body)
        return int(peer.recv(65536).split(b" ")[1])
    finally:
        peer.close()


def test_the_maps_of_all_nodes_are_equal_after_redis_was_killed(nodes):
    redis, worlds = nodes
    load = Load(post, worlds, sessions=50)
    try:
        load.go_on(100)
        redis.kill()
        load.go_on(100)
        redis.start()
        load.go_on(100)
        live(worlds)
    finally:
        load.end()
    assert len(load.stop()) == 50
    sessions, blocks = agree(worlds)
    assert len(sessions) == 50 and len(blocks) >= 50 and set(sessions.values()) <= {f"{pod_address(i)}:{POD_PORT}" for i in range(PODS)}
    # An event of a stranger reaches the maps of all, too.
    one = next(iter(sessions))
    elsewhere = next(f"{pod_address(i)}:{POD_PORT}" for i in range(PODS) if f"{pod_address(i)}:{POD_PORT}" != sessions[one])
    redis.add("t", "bind", "s", one, "pod", elsewhere)
    wait_for(lambda: all(json.loads(maps(world))[0][one] == elsewhere for world in worlds), "the session to move in all maps")
