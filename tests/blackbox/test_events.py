# SPDX-License-Identifier: Apache-2.0
"""Several agents and one Redis, a real one: what one learns the others know, and nothing that befalls Redis harms a request."""
import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest
from conftest import BUILD, Agent, Pod, answer, wait_for
from redis_server import Redis, RedisError
from test_routing import load

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
SECRET, OTHER_SECRET = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
SAN = "san" in BUILD


@pytest.fixture
def redis():
    started = []

    def start(*options):
        started.append(Redis(*options))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def secret(tmp_path):
    def write(text=SECRET):
        path = tmp_path / f"secret-{text[:4]}"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def cluster(run, sim, redis, secret):
    """cluster(agents, pods) starts them, with one Redis, live."""

    def start(n=3, pods=8, options=(), server=None):
        return Cluster(run, redis() if server is None else server, sim(pods), n, ["--session-secret-file", secret(), *options])

    return start


class Cluster:
    def __init__(self, run, redis, pods, n, options):
        self.run, self.redis, self.pods, self.options = run, redis, pods, options
        self.agents = [self.agent() for _ in range(n)]
        self.live()

    def agent(self):
        agent = self.run(Agent, self.pods, "--redis", self.redis.url, *self.options)
        agent.ready(len(self.pods))
        return agent

    def live(self):
        for agent in self.agents:
            wait_for(lambda: is_live(agent), "the agent to follow the stream", 60)

    def agree(self, keys, seconds=60):
        """All agents know the same of these sessions, and that all of them are bound."""
        wait_for(lambda: len({json.dumps(self.known(agent, keys)) for agent in self.agents}) == 1 and all(self.known(self.agents[0], keys)),
                 lambda: f"agreement: {[self.known(agent, keys) for agent in self.agents]}", seconds)
        return dict(zip(keys, self.known(self.agents[0], keys)))

    def blocks_agree(self):
        wait_for(lambda: len({json.dumps(blocks(agent)) for agent in self.agents}) == 1, "equal prefix indexes", 60)
        return blocks(self.agents[0])

    @staticmethod
    def known(agent, keys):
        return [bound(agent, key) for key in keys]


def is_live(agent):
    redis = agent.json("/readyz")["redis"]
    return redis["state"] == "live" and redis["writes"]


def bound(agent, key):
    return agent.json(f"/v1/sessions/{key}").get("endpoint")


def blocks(agent):
    return {e["address"]: e["prefix_blocks"] for e in agent.json("/v1/endpoints")}


def ask(agent, session=None, text="hello", tokens=1):
    """The status of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
    headers = {"X-Session-ID": session} if session else {}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": "sim", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}), headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


class Load:
    """Requests all the time, with sessions that come through any agent; stop() says which sessions there were."""

    def __init__(self, agents, threads=2, sessions=40):
        self.agents, self.sessions, self.ended = list(agents), sessions, threading.Event()
        self.used, self.failures, self.done = set(), [], 0
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, seed):
        choose = random.Random(seed)
        while not self.ended.is_set():
            session = f"load-{choose.randrange(self.sessions)}"
            try:
                status = ask(choose.choice(self.agents), session, session * 300)
            except OSError as error:
                status = error
            self.used.add(session)
            self.done += 1
            if status != 200:
                self.failures.append((session, status))

    def go_on(self, n=30):
        done = self.done
        wait_for(lambda: self.done >= done + n, "requests to go on", 60)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures[:5]
        return sorted(self.used)


@pytest.fixture
def under_load():
    loads = []

    def start(agents):
        loads.append(Load(agents))
        loads[-1].go_on()
        return loads[-1]

    yield start
    for thing in loads:
        thing.ended.set()


def test_a_session_goes_on_through_any_agent(cluster):
    c = cluster()
    keys = [f"user-{i}" for i in range(40)]
    for i, key in enumerate(keys):
        assert ask(c.agents[i % 3], key, f"conversation {i} " * 200) == 200
    where = c.agree(keys)
    assert len(set(where.values())) == 8
    for agent in c.agents:
        for i, key in enumerate(keys):
            assert ask(agent, key, f"conversation {i} " * 200 + "and on") == 200
            assert bound(agent, key) == where[key]
        assert agent.metric('llmd_decisions_total{reason="session"}') >= 40
    assert c.agree(keys) == where
    assert sum(c.blocks_agree().values()) >= 40 * 5
    hits = [a.metric("llmd_prefix_blocks_hit_total") / a.metric("llmd_prefix_blocks_queried_total") for a in c.agents]
    assert min(hits) > 0.6, hits  # two thirds of the prompts were sent through another agent before


def test_prefixes_route_without_a_session(cluster):
    c = cluster()
    for i in range(24):
        assert ask(c.agents[0], None, f"document {i} " * 300) == 200
    c.blocks_agree()
    for i in range(24):
        assert ask(c.agents[1 + i % 2], None, f"document {i} " * 300) == 200
    assert sum(a.metric('llmd_decisions_total{reason="prefix"}') for a in c.agents[1:]) == 24


# ---- what befalls Redis ----


@pytest.mark.parametrize("how", ["killed", "flushed", "stopped"])
def test_redis_goes_away_under_load(cluster, under_load, how):
    c = cluster()
    work = under_load(c.agents)
    if how == "killed":
        c.redis.kill()
        work.go_on(60)
        for agent in c.agents:
            assert wait_for(lambda: agent.json("/readyz")["redis"]["state"] == "connecting", "the loss to show") and agent.get("/readyz")[0] == 200
        c.redis.start()
    elif how == "flushed":
        c.redis("FLUSHALL")
    else:
        c.redis.signal(signal.SIGSTOP)
        time.sleep(4 if SAN else 10)
        work.go_on()
        c.redis.signal(signal.SIGCONT)
    work.go_on(60)
    c.live()
    where = c.agree(work.stop())
    c.blocks_agree()
    if how != "stopped":
        assert all(wait_for(lambda: agent.metric('llmd_events_resyncs_total{why="gap"}'), "the gap to be counted") for agent in c.agents)
    # What Redis holds now is enough for an agent that knows nothing, though it was empty in between.
    wait_for(lambda: len(c.redis("KEYS", "llmd:session:*")) >= len(where), "all sessions in the snapshot", 60)
    late = c.agent()
    wait_for(lambda: is_live(late), "the late agent", 60)
    wait_for(lambda: c.known(late, where) == list(where.values()), lambda: f"{c.known(late, where)} to be {list(where.values())}", 60)
    wait_for(lambda: blocks(late) == blocks(c.agents[0]), lambda: f"{blocks(late)} to be {blocks(c.agents[0])}", 60)


def test_trimmed_past_a_stopped_agent(cluster, secret):
    c = cluster(options=("--redis-stream-max", "1024"))
    late = c.agents[2]
    late.process.send_signal(signal.SIGSTOP)
    try:
        keys = [f"missed-{i}" for i in range(30)]
        for i, key in enumerate(keys):
            assert ask(c.agents[i % 2], key, f"{key} " * 200) == 200
        for n in range(1, 9):  # not faster than the others follow
            c.redis.connection.many(("XADD", "llmd:events", "MAXLEN", "~", 1024, "*", "v", 1, "t", "hello") for _ in range(500))
            wait_for(lambda: all(a.metric('llmd_events_applied_total{kind="hello"}') >= 500 * n for a in c.agents[:2]), "the others to follow")
        assert c.redis("XLEN", "llmd:events") < 2000
    finally:
        late.process.send_signal(signal.SIGCONT)
    c.agree(keys)
    c.blocks_agree()
    wait_for(lambda: late.metric('llmd_events_resyncs_total{why="gap"}') >= 1, "the gap to be counted")
    assert sum(a.metric('llmd_events_resyncs_total{why="gap"}') for a in c.agents[:2]) == 0


def test_an_agent_starts_again(cluster):
    c = cluster()
    keys = [f"user-{i}" for i in range(20)]
    for i, key in enumerate(keys):
        assert ask(c.agents[i % 3], key, f"{key} " * 200) == 200
    where = c.agree(keys)
    c.agents[1].process.kill()
    c.agents[1].process.wait()
    c.agents[1].process.returncode = 0  # as we wanted
    c.redis("DEL", "llmd:events")  # trimmed away: it is the snapshot that tells
    c.agents[1] = c.agent()
    c.live()
    assert c.agree(keys) == where
    c.blocks_agree()


def refuse_memory(c):
    c.redis("CONFIG", "SET", "maxmemory", "1")
    return lambda: c.redis("CONFIG", "SET", "maxmemory", "0")


def refuse_as_replica(c):
    c.redis("CONFIG", "SET", "replica-serve-stale-data", "yes")
    c.redis("REPLICAOF", "127.0.0.1", "1")
    return lambda: c.redis("REPLICAOF", "NO", "ONE")


def spoil_types(c):
    for key in ("events", *(f"pod:{pod}" for pod in c.pods)):
        c.redis("SET", f"llmd:{key}", "a string")
    return lambda: c.redis("DEL", "llmd:events")  # the pods' keys stay as they are: they hold nothing else up


@pytest.mark.parametrize("fault, name", [(refuse_memory, "oom"), (refuse_as_replica, "readonly"), (spoil_types, "wrong_type")])
def test_redis_refuses(cluster, under_load, fault, name):
    c = cluster(2, 4)
    work = under_load(c.agents)
    mend = fault(c)
    for agent in c.agents:
        wait_for(lambda: agent.metric(f'llmd_redis_refused_total{{why="{name}"}}') > 0, f"{name} to be counted")
        wait_for(lambda: agent.json("/readyz")["redis"]["writes"] is False, "the fault to show")
        assert agent.get("/readyz")[0] == 200
    work.go_on()
    mend()
    c.live()
    c.agree(work.stop())


def test_garbage_in_the_stream(cluster, under_load):
    c = cluster(2, 4)
    work = under_load(c.agents)
    choose = random.Random(7)
    before = [a.metric("process_resident_memory_bytes") for a in c.agents]
    bad = [
        (("v", 2, "t", "bind"), "version"), (("v", "x", "t", "bind"), "version"), (("v", 1, "t", "sing"), "kind"), (("t", "bind"), "missing"),
        (("v", 1, "t", "bind", "s", "0" * 16), "missing"), (("v", 1, "t", "bind", "s", "xyz", "pod", c.pods[0]), "field"),
        (("v", 1, "t", "stored", "pod", "nowhere", "block", 512, "h", b"12345678"), "field"),
        (("v", 1, "t", "stored", "pod", c.pods[0], "block", 512, "h", b"1234567"), "field"),
        (("v", 1, "t", "stored", "pod", c.pods[0], "block", 512, "h", b"x" * (1 << 20)), "field"),
        (("v", 1, "t", "load", "a", "0" * 16, "every", 500, "load", "," * 1000), "field"),
        ((b"\0" * (1 << 20), b"\xff" * (1 << 20), "v", 1), "missing"),
    ]
    for fields, _ in bad:
        c.redis("XADD", "llmd:events", "*", *fields)
    for _ in range(300):
        c.redis("XADD", "llmd:events", "*", *[choose.randbytes(choose.randrange(1, 40)) for _ in range(2 * choose.randrange(1, 8))])
    for _ in range(20):  # an entry of 1 MiB each, next to each other
        c.redis("XADD", "llmd:events", "*", "v", 1, "t", "hello", "x", b"y" * (1 << 20))
    for key, value in (("session:zz", "x"), ("session:" + "1" * 16, "nowhere"), ("session:" + "2" * 16, b"\0\xff"), ("drain:nowhere", "1"), ("pod:1", "x")):
        c.redis("SET", f"llmd:{key}", value)
    for agent, memory in zip(c.agents, before):
        for why in {why for _, why in bad}:
            wait_for(lambda: agent.metric(f'llmd_events_malformed_total{{why="{why}"}}') >= sum(w == why for _, w in bad), f"{why} to be counted", 60)
        wait_for(lambda: agent.metric('llmd_events_applied_total{kind="hello"}') >= 20, "what follows garbage", 60)
        assert agent.metric("process_resident_memory_bytes") < memory + (256 if SAN else 24) * (1 << 20)
    late = c.agent()  # which reads the spoilt snapshot, too
    wait_for(lambda: is_live(late) and late.metric("llmd_events_snapshot_errors_total") >= 4, "the late agent", 60)
    c.agents.append(late)
    c.agree(work.stop())


def test_what_cannot_be_told_is_bounded(cluster, under_load):
    """More than the queue holds while Redis takes nothing: the oldest go, are counted, and all is told again afterwards."""
    c = cluster(2, 4, options=("--prefix-block", "16", "--endpoint-blocks", "20000"))
    mend = refuse_memory(c)
    n = 30 if SAN else 320
    for i in range(n):  # some 2048 blocks of 16 bytes each, 8 bytes a block, all others than the request before
        assert ask(c.agents[0], f"wide-{i}", f"{i:8}" + "x" * 36000) == 200
    agent = c.agents[0]
    queued = agent.metric("llmd_events_queued_bytes")
    assert 0 < queued <= agent.metric("llmd_events_queue_max_bytes") == 4 << 20
    assert SAN or agent.metric("llmd_events_dropped_total") > 0, queued
    mend()
    c.live()
    c.agree([f"wide-{i}" for i in range(n)])


# ---- who writes what ----


def packed(*hashes):
    return struct.pack(f">{len(hashes)}Q", *hashes)


def test_anybody_may_produce_events(cluster):
    c = cluster(2, 2)
    a, b = c.pods
    c.redis.add("t", "stored", "pod", a, "block", 512, "h", packed(*range(1, 101)))
    wait_for(lambda: all(blocks(agent) == {a: 100, b: 0} for agent in c.agents), "what is stored")
    c.redis.add("t", "removed", "pod", a, "block", 512, "h", packed(*range(51, 101)))
    wait_for(lambda: all(blocks(agent) == {a: 50, b: 0} for agent in c.agents), "what is removed")
    c.redis.add("t", "cleared", "pod", a)
    wait_for(lambda: all(blocks(agent) == {a: 0, b: 0} for agent in c.agents), "what is cleared")
    assert ask(c.agents[0], "user") == 200
    there = c.agree(["user"])["user"]
    elsewhere = b if there == a else a
    hash_ = c.agents[0].json("/v1/sessions/user")["session_hash"]
    c.redis.add("t", "bind", "s", hash_, "pod", elsewhere)
    wait_for(lambda: all(bound(agent, "user") == elsewhere for agent in c.agents), "the session to move")
    assert ask(c.agents[1], "user") == 200 and bound(c.agents[1], "user") == elsewhere
    c.redis.add("t", "unbind", "s", hash_)
    wait_for(lambda: all(bound(agent, "user") is None for agent in c.agents), "the session to go")
    c.redis.add("t", "drain", "pod", a, "on", 1)
    state = lambda agent: {e["address"]: e["state"] for e in agent.json("/v1/endpoints")}[a]
    wait_for(lambda: all(state(agent) == "draining" for agent in c.agents), "the drain")
    c.redis.add("t", "drain", "pod", a, "on", 0)
    wait_for(lambda: all(state(agent) == "ready" for agent in c.agents), "its end")
    ignored = c.agents[0].metric('llmd_events_ignored_total{why="unknown_pod"}')
    c.redis.add("t", "bind", "s", hash_, "pod", "10.9.9.9:1")
    wait_for(lambda: c.agents[0].metric('llmd_events_ignored_total{why="unknown_pod"}') == ignored + 1, "a foreign pod to be counted")
    c.redis.add("t", "stored", "pod", a, "block", 64, "h", packed(1))
    wait_for(lambda: c.agents[0].metric('llmd_events_ignored_total{why="other_block_size"}') == 1, "other blocks to be counted")


def test_a_drain_reaches_all_and_who_comes_later(cluster):
    c = cluster(2, 3)
    path = f"/v1/endpoints/{c.pods[0]}"
    state = lambda agent: {e["address"]: e["state"] for e in agent.json("/v1/endpoints")}[c.pods[0]]

    def post(agent, what):
        connection = http.client.HTTPConnection("127.0.0.1", agent.admin, timeout=20)
        connection.request("POST", f"{path}/{what}")
        assert connection.getresponse().status == 200
        connection.close()

    post(c.agents[0], "drain")
    wait_for(lambda: state(c.agents[1]) == "draining", "the drain")
    late = c.run(Agent, c.pods, "--redis", c.redis.url, *c.options)
    wait_for(lambda: state(late) == "draining", "the drain at the late agent")
    post(c.agents[1], "undrain")
    wait_for(lambda: state(c.agents[0]) == "ready" and state(late) == "ready", "its end")


def test_later_in_the_stream_wins(cluster):
    """Agents and strangers bind the same sessions at the same time: all agents end where the stream does."""
    c = cluster(3, 4)
    keys = [f"fought-{i}" for i in range(12)]
    hashes = []
    for key in keys:
        assert ask(c.agents[0], key) == 200
        hashes.append(c.agents[0].json(f"/v1/sessions/{key}")["session_hash"])

    def strangers(seed):
        choose, connection = random.Random(seed), c.redis.connect()
        for _ in range(400):
            c.redis.add("t", "bind", "s", choose.choice(hashes), "pod", choose.choice(c.pods), connection=connection)
        connection.close()

    def clients(seed):
        choose = random.Random(seed)
        for _ in range(60):
            assert ask(choose.choice(c.agents), choose.choice(keys)) == 200

    threads = [threading.Thread(target=f, args=(i,)) for i in range(3) for f in (strangers, clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    last = {}
    wait_for(lambda: all(a.metric("llmd_events_queued_bytes") == 0 for a in c.agents), "all to be told")
    for _, fields in c.redis("XRANGE", "llmd:events", "-", "+"):
        event = dict(zip(fields[::2], fields[1::2]))
        if event[b"t"] == b"bind":
            last[event[b"s"].decode()] = event[b"pod"].decode()
    wait_for(lambda: all(c.known(agent, keys) == [last[h] for h in hashes] for agent in c.agents), "what the stream says last")


def test_load_of_the_others_counts_until_they_die(run, redis, secret):
    release = threading.Event()

    def slow(connection, request):
        release.wait(60)
        connection.sendall(answer(b"{}"))

    pods = [run(Pod, slow).endpoint for _ in range(2)]
    server = redis()
    agents = [run(Agent, pods, "--redis", server.url, "--session-secret-file", secret()) for _ in range(2)]
    for agent in agents:
        agent.ready(2)
        wait_for(lambda: is_live(agent), "the agent")
    thread = threading.Thread(target=lambda: pytest.raises((OSError, http.client.HTTPException), ask, agents[0], None, "x" * 40000))
    thread.start()
    remote = lambda: sum(e["remote_inflight_tokens"] for e in agents[1].json("/v1/endpoints"))
    wait_for(lambda: remote() >= 10000, "the load of the other agent")
    busy = max(agents[1].json("/v1/endpoints"), key=lambda e: e["remote_inflight_tokens"])["address"]
    agents[0].process.kill()
    agents[0].process.wait()
    agents[0].process.returncode = 0
    assert agents[1].metric(f'llmd_remote_inflight_tokens{{pod="{busy}"}}') >= 10000 or remote() == 0
    wait_for(lambda: remote() == 0, "the dead agent's load to be forgotten")
    release.set()
    thread.join()


def test_another_secret_is_not_mixed(cluster, run, secret):
    c = cluster(1, 2)
    stranger = run(Agent, c.pods, "--redis", c.redis.url, "--session-secret-file", secret(OTHER_SECRET))
    wait_for(lambda: stranger.metric("llmd_events_other_secret") and c.agents[0].metric("llmd_events_other_secret"), "both to notice")
    assert ask(c.agents[0], "user", "hello " * 200) == 200
    wait_for(lambda: stranger.metric('llmd_events_applied_total{kind="stored"}'), "its prefixes, which need no secret")
    assert stranger.metric('llmd_events_applied_total{kind="bind"}') == 0 and stranger.metric("llmd_sessions{") + stranger.metric("llmd_sessions ") == 0
    assert stranger.json("/readyz")["redis"]["other_secret"] is True
    assert "hashes sessions with another secret" in open(stranger.log).read()


def test_login(run, sim, redis, secret, tmp_path):
    server = redis("--requirepass", "p@ss word")
    pods = sim(1)
    options = ["--session-secret-file", secret()]
    wrong = run(Agent, pods, "--redis", server.url, *options)
    wait_for(lambda: "login refused" in open(wrong.log).read(), "the refusal in the log")
    assert ask(wrong) == 200
    in_url = run(Agent, pods, "--redis", server.url.replace("unix://", "unix://default:p%40ss%20word@") + "?db=3", *options)
    wait_for(lambda: is_live(in_url), "the agent with the password in the URL")
    (tmp_path / "password").write_text("p@ss word\n")
    in_file = run(Agent, pods, "--redis", server.url + "?db=3", "--redis-password-file", str(tmp_path / "password"), *options)
    wait_for(lambda: is_live(in_file), "the agent with the password from a file")
    server("AUTH", "p@ss word")
    assert b"db=3 " in server("CLIENT", "LIST") and b"name=llmd-agent-reader" in server("CLIENT", "LIST")
    assert server("EXISTS", "llmd:events") == 0


def make_certificate(directory):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=redis",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem"],
                   check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls_checks_the_server(run, sim, redis, secret, tmp_path):
    from conftest import free_port

    make_certificate(tmp_path)
    port = free_port()
    redis("--tls-port", str(port), "--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem",
          "--tls-ca-cert-file", f"{tmp_path}/cert.pem", "--tls-auth-clients", "yes", "--bind", "127.0.0.1")
    pods, options = sim(1), ["--session-secret-file", secret(), "--redis-cert-file", f"{tmp_path}/cert.pem", "--redis-key-file", f"{tmp_path}/key.pem"]
    good = run(Agent, pods, "--redis", f"rediss://localhost:{port}", "--redis-ca-file", f"{tmp_path}/cert.pem", *options)
    wait_for(lambda: is_live(good), "the agent over TLS, by name")
    other_name = run(Agent, pods, "--redis", f"rediss://127.0.0.1:{port}", "--redis-ca-file", f"{tmp_path}/cert.pem", *options)
    unknown_authority = run(Agent, pods, "--redis", f"rediss://localhost:{port}", *options)
    for agent in (other_name, unknown_authority):
        wait_for(lambda: "certificate verify failed" in open(agent.log).read(), "the refusal")
        assert agent.json("/readyz")["redis"]["state"] == "connecting" and ask(agent) == 200


# ---- llmd-events ----


def tool(redis, *words, status=0):
    done = subprocess.run([f"{BUILD}/llmd-events", "--redis", redis.url, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status and "Sanitizer" not in done.stderr, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_llmd_events(cluster, secret):
    c = cluster(2, 2)
    a, b = c.pods
    assert ask(c.agents[0], "user", "hello " * 400) == 200
    there = c.agree(["user"])["user"]
    elsewhere = b if there == a else a
    events = [json.loads(line) for line in tool(c.redis, "tail", "--from", "0", "--count", "4", "-j").splitlines()]
    assert [e["kind"] for e in events[:2]] == ["hello", "hello"] and {e["kind"] for e in events[2:]} == {"bind", "stored"}
    [bind], [stored] = ([e for e in events if e["kind"] == kind] for kind in ("bind", "stored"))
    assert bind["session_hash"] == c.agents[0].json("/v1/sessions/user")["session_hash"] and bind["pod"] == stored["pod"] == there
    assert len(stored["hashes"]) == 4 and stored["block"] == 512
    assert "kind=bind" in tool(c.redis, "tail", "--from", "0", "--count", "4")
    inject = lambda *words: tool(c.redis, "inject", *words, "--session-secret-file", secret())
    assert "-" in inject("bind", "session=user", f"pod={elsewhere}")
    wait_for(lambda: all(bound(agent, "user") == elsewhere for agent in c.agents), "the session to move")
    inject("removed", f"pod={there}", "hashes=" + ",".join(stored["hashes"]))
    inject("stored", f"pod={elsewhere}", "hashes=" + ",".join(stored["hashes"]), "tokens=500")
    wait_for(lambda: all(blocks(agent) == {there: 0, elsewhere: 4} for agent in c.agents), "the blocks to move")
    inject("drain", f"pod={there}", "on=1")
    late = c.run(Agent, c.pods, "--redis", c.redis.url, *c.options)
    wait_for(lambda: is_live(late) and bound(late, "user") == elsewhere and blocks(late) == {there: 0, elsewhere: 4}, "a late agent to know all that")
    assert {e["address"]: e["state"] for e in late.json("/v1/endpoints")}[there] == "draining"
    snapshot = json.loads(tool(c.redis, "snapshot", "-j"))
    assert snapshot["sessions"] == [{"session_hash": bind["session_hash"], "pod": elsewhere, "secret": bind["secret"]}]
    assert {p["pod"] for p in snapshot["pods"]} == {a, b} and snapshot["drains"] == [{"pod": there}] and snapshot["entries"] > 4
    assert elsewhere in tool(c.redis, "snapshot")
    inject("load", "agent=00000000000000aa", "every=60000", f"load={a} 1234 5")
    wait_for(lambda: all(agent.metric(f'llmd_remote_inflight_tokens{{pod="{a}"}}') == 1234 for agent in c.agents), "the load")
    inject("load", "agent=00000000000000aa", "every=60000", "load=")
    inject("unbind", "session=user")
    inject("cleared", f"pod={elsewhere}")
    wait_for(lambda: all(bound(agent, "user") is None and not any(blocks(agent).values()) for agent in c.agents), "all to be gone")
    assert "WRONGTYPE" in (c.redis("SET", "llmd:events", "x") and tool(c.redis, "tail", status=1))
    c.redis.kill()
    assert "no connection" in tool(c.redis, "snapshot", status=1)


# ---- a trace through three ----


@pytest.mark.skipif(SAN, reason="once is enough")
def test_a_trace_spread_over_three_agents(cluster, sim, run, tmp_path):
    trace = str(tmp_path / "trace.jsonl")
    subprocess.run([f"{BUILD}/llmd-load", "--synth", trace, "--synth-sessions", "150"], check=True, capture_output=True)

    def replay(targets, pods):
        return load(*[x for t in targets for x in ("--target", t.url)], "--trace", trace, "--time-scale", "0", "--concurrency", "4", "--session", "trace",
                    "--output-max", "1", *[x for pod in pods for x in ("--pod-metrics", pod)])

    c = cluster(3, 8)
    three = replay(c.agents, c.pods)
    pods = sim(8)
    alone = run(Agent, pods)
    alone.ready(8)
    one = replay([alone], pods)
    assert three["failed"] == one["failed"] == 0
    assert abs(three["hit_rate"] - one["hit_rate"]) < 0.01, (three["hit_rate"], one["hit_rate"])


# ---- what docs/redis.md says ----


def test_the_document_s_lines(run, redis, secret):
    document = open(os.path.join(os.path.dirname(__file__), "../../docs/redis.md")).read()
    by_hand, to_last = [block.split("\n```")[0] for block in document.split("```redis\n")[1:]]
    a, b = "127.0.0.1:8000", "127.0.0.1:8001"
    server = redis()
    start = lambda: run(Agent, [a, b], "--redis", server.url, "--session-secret-file", secret())
    agent = start()
    wait_for(lambda: is_live(agent), "the agent")
    before = {kind: agent.metric(f'llmd_events_applied_total{{kind="{kind}"}}') for kind in ("hello",)}
    for lines in (by_hand, to_last):
        done = subprocess.run(["redis-cli", "-s", server.path], input=lines + "\n", capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "ERR" not in done.stdout + done.stderr, done.stdout + done.stderr
    for line in by_hand.splitlines():
        kind = line.split(" t ")[1].split()[0]
        wait_for(lambda: agent.metric(f'llmd_events_applied_total{{kind="{kind}"}}') > before.get(kind, 0), f"{kind} to be applied")
    assert agent.metric(f'llmd_remote_inflight_tokens{{pod="{a}"}}') == 1200
    wait_for(lambda: blocks(agent) == {a: 0, b: 1}, "the blocks that are left")
    server("DEL", "llmd:events")
    late = start()
    wait_for(lambda: is_live(late) and blocks(late) == {a: 0, b: 1}, "a late agent to know what was to last")
