# SPDX-License-Identifier: Apache-2.0
"""Several agents and one Redis: what one learns the others know. What befalls Redis: test_events_faults.py."""
import http.client
import json
import os
import random
import shutil
import struct
import subprocess
import threading

import pytest
from conftest import BUILD, Agent, Pod, answer, wait_for
from events_cluster import OTHER_SECRET, SAN, ask, blocks, bound, cluster, is_live, redis, secret  # noqa: F401 (some are fixtures)
from test_routing import load

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


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
    for agent in (stranger, c.agents[0]):
        agent.process.kill()
        agent.process.wait()
        agent.process.returncode = 0
    assert c.redis("KEYS", "llmd:session:*") and c.redis("DEL", "llmd:events")
    late = run(Agent, c.pods, "--redis", c.redis.url, "--session-secret-file", secret(OTHER_SECRET))
    wait_for(lambda: late.metric("llmd_events_other_secret"), "the snapshot to tell")


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
    for content, why in ((None, "No such file"), ("\n", "No data available"), ("x" * 5000, "File too large")):
        bad = tmp_path / "bad"
        bad.write_text(content) if content else bad.unlink(missing_ok=True)
        said = subprocess.run([f"{BUILD}/llmd-agent", "--check-config", "--redis", server.url, "--redis-password-file", str(bad), "--endpoint", pods[0], *options],
                              capture_output=True, text=True, timeout=60)
        assert said.returncode and "option=--redis-password-file" in said.stderr and why in said.stderr and str(bad) in said.stderr, said.stderr
    from_pipe = subprocess.run(["bash", "-c", f"exec {BUILD}/llmd-events --redis {server.url} --redis-password-file <(sleep 0.2; echo 'p@ss word') snapshot -j"],
                               capture_output=True, text=True, timeout=60)
    assert from_pipe.returncode == 0 and json.loads(from_pipe.stdout)["entries"] == 0, from_pipe.stderr
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
    said = subprocess.run([f"{BUILD}/llmd-agent", "--check-config", "--redis", f"rediss://localhost:{port}", "--redis-ca-file", f"{tmp_path}/none", "--endpoint", pods[0], *options],
                          capture_output=True, text=True, timeout=60)
    assert said.returncode and "--redis-ca-file" in said.stderr, said.stderr
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
    wait_for(lambda: len(c.redis("KEYS", "llmd:pod:*")) == 1, "all to be told")
    events = [json.loads(line) for line in tool(c.redis, "tail", "--from", "0", "--count", str(c.redis("XLEN", "llmd:events")), "-j").splitlines()]
    kinds = [e["kind"] for e in events]
    assert kinds[0] == "hello" and kinds.count("hello") >= 2 and set(kinds) - {"load"} == {"hello", "bind", "stored"}
    [bind], [stored] = ([e for e in events if e["kind"] == kind] for kind in ("bind", "stored"))
    assert bind["session_hash"] == c.agents[0].json("/v1/sessions/user")["session_hash"] and bind["pod"] == stored["pod"] == there
    assert len(stored["hashes"]) == 4 and stored["block"] == 512
    assert "kind=bind" in tool(c.redis, "tail", "--from", "0", "--count", "4")
    with open("/dev/full", "w") as full:  # it would go on for ever, and nobody be told
        assert subprocess.run([f"{BUILD}/llmd-events", "--redis", c.redis.url, "tail", "--from", "0"], stdout=full, timeout=60).returncode == 1
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
    assert {p["pod"] for p in snapshot["pods"]} == {a, b} and snapshot["drains"] == [{"pod": there, "on": True}] and snapshot["entries"] > 4
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
