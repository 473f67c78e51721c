# SPDX-License-Identifier: Apache-2.0
"""What calls itself Redis says odd things, by a script: agents stay bounded and serve, llmd-events ends with what was wrong."""
import itertools
import json
import subprocess
import threading
import time

import pytest
from conftest import BUILD, Agent, Pod, answer, wait_for
from events_cluster import ask, is_live, secret  # noqa: F401 (a fixture)
from redis_script import CLOSE, ScriptedRedis, array, bulk

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


def but_client(said):
    return lambda w: b"+OK\r\n" if w[0] == b"CLIENT" else said


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
    time.sleep(1)
    for name, (agent, server) in started.items():
        assert len(server.commands) - before[name] < 150, f"{name}: {server.commands[-20:]}"
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


UNREADY = {
    "LOADING": but_client(b"-LOADING Redis is loading the dataset in memory\r\n"), "MOVED": but_client(b"-MOVED 1 127.0.0.1:1\r\n"),
    "not what Redis says": lambda w: b"HTTP/1.1 400 Bad Request\r\n\r\n", "a value too large": but_client(b"$9437184\r\n" + b"x" * (9 << 20)),
}


def test_a_redis_that_loads_or_is_none(agents):
    """At start: the agent serves, says why it shares nothing, and shares once Redis is there, though it has nothing to tell."""
    ready = threading.Event()
    started = agents({why: lambda w, odd=odd: None if ready.is_set() else odd(w) for why, odd in UNREADY.items()})
    for why, (agent, _) in started.items():
        wait_for(lambda: why in open(agent.log).read(), f"{why} in the log")
        assert agent.get("/readyz")[0] == 200 and not is_live(agent)
    ready.set()
    for why, (agent, _) in started.items():
        wait_for(lambda: is_live(agent), f"the agent after {why}", 60)
        assert ask(agent) == 200


# ---- llmd-events ----

TAIL, SNAPSHOT, INJECT = ["tail", "--from", "0", "--count", "1"], ["snapshot", "-j"], ["inject", "drain", "pod=10.0.0.1:1", "on=1"]
ALL = [TAIL, SNAPSHOT, INJECT]


def to(name, said):
    return lambda w: said if w[0] == name else None


REFUSED = [
    ("a web server", lambda w: b"HTTP/1.1 400 Bad Request\r\n\r\n", ALL, "not what Redis says"),
    ("a closed connection", lambda w: CLOSE, ALL, "closed by Redis"),
    ("closed in the middle", lambda w: None if w[0] == b"CLIENT" else CLOSE, ALL, "closed by Redis"),
    ("a length beyond 64 bits", lambda w: b"$999999999999999999999\r\n", ALL, "not what Redis says"),
    ("a length below nothing", but_client(b"*-7\r\n"), ALL, "not what Redis says"),
    ("lists without end", but_client(b"*1\r\n" * 50), [TAIL], "not what Redis says"),
    ("a string of 9 MiB", but_client(b"$9437184\r\n" + b"x" * (9 << 20) + b"\r\n"), ALL, "a value too large"),
    ("no login", lambda w: b"-NOAUTH Authentication required.\r\n", ALL, "login refused: NOAUTH"),
    ("a cluster", but_client(b"-MOVED 3999 127.0.0.1:6381\r\n"), ALL, "Redis says: MOVED"),
    ("loading", but_client(b"-LOADING Redis is loading the dataset in memory\r\n"), ALL, "Redis says: LOADING"),
    ("a replica", to(b"XADD", b"-READONLY You can't write against a read only replica.\r\n"), [INJECT], "Redis says: READONLY"),
    ("all right", lambda w: b"+OK\r\n", ALL, "not an answer to what was asked"),
    ("a number", but_client(b":1\r\n"), ALL, "not an answer to what was asked"),
    ("a transaction that was not", to(b"EXEC", NIL), [INJECT], "not an answer to what was asked"),
    ("a transaction of nothing", lambda w: {b"XADD": b"+QUEUED\r\n", b"SET": b"+QUEUED\r\n"}.get(w[0]), [INJECT], "where it stands in the stream"),
    ("a scan without a cursor", to(b"SCAN", NONE), [SNAPSHOT], "not an answer to what was asked"),
    ("a scan without end", to(b"SCAN", scanned(7)), [SNAPSHOT], "too many keys"),
    ("what a terminal would obey", but_client(b"-ERR \x1b]0;yours\x07\r\n"), ALL, "ERR ?]0;yours?"),
]


def tool(server, words):
    done = subprocess.run([f"{BUILD}/llmd-events", "--redis", server.url, *words], capture_output=True, timeout=60)
    assert b"Sanitizer" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("script, commands, why", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_llmd_events_says_what_was_wrong(says, script, commands, why):
    server = says(script)
    for words in commands:
        status, out, err = tool(server, words)
        assert status == 1 and why in err and len(err.splitlines()) == 1, (words, out, err)
        assert not out or "too many" in why, out


def test_llmd_events_shows_nothing_that_a_terminal_would_obey(says):
    nasty = b"\x1b]0;yours\x07\xff\n"
    keys = scanned(0, b"llmd:session:" + nasty, b"llmd:drain:" + nasty, b"llmd:pod:" + nasty)
    server = says(lambda w: {b"SCAN": keys, b"GET": bulk(nasty)}.get(w[0]))
    for words in (SNAPSHOT, ["snapshot"]):
        status, out, _ = tool(server, words)
        assert status == 0 and out.count(b"?]0;yours???") == 4 and all(c == 10 or 32 <= c < 127 for c in out), out
    assert json.loads(tool(server, SNAPSHOT)[1])["sessions"][0]["malformed"] is True


def test_llmd_events_asks_with_pauses(says):
    server = says(lambda w: NIL if w[0] == b"XREAD" else None)
    tail = subprocess.Popen([f"{BUILD}/llmd-events", "--redis", server.url, "tail", "--from", "0"])
    try:
        wait_for(lambda: server.count(b"XREAD") > 1, "a read")
        time.sleep(0.5)
        assert server.count(b"XREAD") < 30
    finally:
        tail.terminate()
        tail.wait()
