# SPDX-License-Identifier: Apache-2.0
"""A Redis behind a name: the agent asks a DNS server of the test's, by a resolv.conf that only this agent sees."""
import os
import shutil
import subprocess

import pytest
from conftest import Agent, free_port, wait_for
from dns_server import names  # noqa: F401 (a fixture)
from dnslib import A
from events_cluster import ask, bound, is_live, redis, secret  # noqa: F401 (some are fixtures)

NAME = "redis.test."
# The file lies over the system's in a mount namespace that ends with the agent.
OVER = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"']

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


@pytest.fixture
def ask_names(names, tmp_path):  # noqa: F811
    """Agents that ask @names."""
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver 127.0.0.1:{names.port}\n")
    done = subprocess.run([*OVER, str(path), "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no resolv.conf of its own for the agent: {done.stderr.strip()}")
    return type("AgentThatAsks", (Agent,), {"before": [*OVER, str(path)]})


def agents_in(server):
    return sum(b"name=llmd-agent" in line for line in server("CLIENT", "LIST").splitlines())


def test_a_redis_that_moved_is_found_by_its_name(run, sim, redis, secret, names, ask_names):  # noqa: F811
    port, pods = free_port(), sim(4)
    old = redis("--port", str(port), "--bind", "127.0.0.1")
    names.records[NAME] = [(0, A("127.0.0.1"))]
    agent = run(ask_names, pods, "--redis", f"redis://redis.test:{port}", "--session-secret-file", secret())
    wait_for(lambda: is_live(agent) and agents_in(old) == 2, "the agent to follow the stream")
    assert ask(agent, "user") == 200
    where = bound(agent, "user")
    wait_for(lambda: old("KEYS", "llmd:session:*"), "the session in Redis")

    new = redis("--port", str(port), "--bind", "127.0.0.2")
    names.records[NAME] = [(0, A("127.0.0.2"))]
    old.kill()
    wait_for(lambda: agents_in(new) == 2 and is_live(agent), "the agent to follow the name", 60)
    wait_for(lambda: new("KEYS", "llmd:session:*"), "what it knows in the new Redis", 60)
    old.start()

    del names.records[NAME]
    new("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_for(lambda: "name not resolved" in open(agent.log).read(), "the name's end to show", 60)
    assert ask(agent, "user") == 200 and bound(agent, "user") == where
    names.records[NAME] = [(0, A("127.0.0.2"))]
    wait_for(lambda: agents_in(new) == 2 and is_live(agent), "the name to be asked for again", 60)
    assert agents_in(old) == 0  # it never went back to where the name led first
