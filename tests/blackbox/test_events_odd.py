# SPDX-License-Identifier: Apache-2.0
"""What calls itself Redis says odd things, by a script: agents stay bounded and serve, llmd-events ends with what was wrong."""
import itertools
import threading
import time

import pytest
from conftest import Agent, Pod, answer, wait_for
from events_cluster import ask, is_live, secret  # noqa: F401 (a fixture)
from redis_script import ScriptedRedis, array, bulk

numbers = itertools.count(1)


def entry(id_, *fields):
    return array(bulk(id_), array(*[bulk(f) for f in fields or ("v", 1, "t", "hello")]))


def newer():
    return entry(f"{next(numbers)}-0")


def scanned(cursor, *keys):
    return array(bulk(cursor), array(*[bulk(k) for k in keys]))


def read(*entries):
    return array(array(bulk("llmd:events"), array(*entries)))


def checks(words):
    """Asked is whether an entry is still there, and not for the newest one."""
    return words[0] == b"XREVRANGE" and words[2] != b"+"


NIL, NONE = b"*-1\r\n", b"*0\r\n"
# What is said to some commands; to the others what an empty Redis says.
RESTLESS = {
    "nothing, at once": lambda w: {b"XREAD": NIL}.get(w[0]),
    "an answer to another question": lambda w: {b"XREAD": b"+OK\r\n", b"XREVRANGE": b"+OK\r\n"}.get(w[0]),
    "the same entry": lambda w: {b"XREAD": read(entry("5-0")), b"XREVRANGE": array(entry("5-0"))}.get(w[0]),
    "always a gap": lambda w: {b"XREAD": NIL, b"XREVRANGE": NONE if checks(w) else array(entry("9-0"))}.get(w[0]),
    "always back in time": lambda w: {b"XREAD": read(newer()), b"XREVRANGE": array(entry("1-0" if checks(w) else "9-0"))}.get(w[0]),
    "a stream that is full and empty": lambda w: {b"XREAD": NIL, b"XLEN": b":99999999\r\n"}.get(w[0]),
}
ENDLESS = {
    "cursors": lambda w: scanned(next(numbers)) if w[0] == b"SCAN" else None,
    "a pod's pages": lambda w: scanned(0, "llmd:pod:127.0.0.1:9") if w[0] == b"SCAN" else array(*[newer() for _ in range(128)]) if w[0] == b"XRANGE" else None,
    "a pod's same page": lambda w: scanned(0, "llmd:pod:127.0.0.1:9") if w[0] == b"SCAN" else array(*[entry("5-0")] * 128) if w[0] == b"XRANGE" else None,
}


@pytest.fixture
def says():
    started = []

    def start(script):
        started.append(ScriptedRedis(script))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def agents(run, says, secret):
    """An agent with a Redis of its own for each of the scripts, all at once."""

    def start(scripts):
        pod = run(Pod, lambda c, r: c.sendall(answer(b"{}"))).endpoint
        out = {}
        for name, script in scripts.items():
            server = says(script)
            out[name] = run(Agent, [pod], "--redis", server.url, "--session-secret-file", secret()), server
        return out

    return start


def test_what_brings_nothing_is_not_asked_all_the_time(agents):
    started = agents(RESTLESS)
    for name, (agent, server) in started.items():
        wait_for(lambda: server.count(b"XREAD") >= 2, f"reads with {name}")
    before = {name: len(server.commands) for name, (_, server) in started.items()}
    time.sleep(2)
    for name, (agent, server) in started.items():
        assert len(server.commands) - before[name] < 100, f"{name}: {server.commands[-20:]}"
        assert ask(agent) == 200
        assert len(open(agent.log).read().splitlines()) < 100, name


def test_a_snapshot_without_end(agents):
    """What was found must do: the stream is read in the end."""
    for name, (agent, server) in agents(ENDLESS).items():
        assert ask(agent) == 200
        wait_for(lambda: is_live(agent), f"the agent to read on after {name}", 90)
        assert ask(agent) == 200
        assert ("too many keys in Redis" in open(agent.log).read()) == ("cursor" in name)


def test_the_first_agent_has_missed_nothing(run, says, secret):
    """Also if it can write long before it can read."""
    epoch, lock = [], threading.Lock()

    def script(words):
        if words[0] == b"CLIENT" and words[2] == b"llmd-agent-reader":
            time.sleep(0.5)
        with lock:
            if words[0] == b"SET" and not epoch:
                epoch.append(words[2])
            return bulk(epoch[0]) if words[0] == b"GET" and epoch else None

    agent = run(Agent, ["127.0.0.1:9"], "--redis", says(script).url, "--session-secret-file", secret())
    wait_for(lambda: is_live(agent), "the agent")
    assert agent.metric('llmd_events_resyncs_total{why="start"}') == 1 and agent.metric('llmd_events_resyncs_total{why="gap"}') == 0
    assert "were missed" not in open(agent.log).read()
