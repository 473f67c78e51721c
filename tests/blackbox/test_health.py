# SPDX-License-Identifier: Apache-2.0
"""Pods that die, hang, answer errors, start anew or are slow; what their engines tell; overload."""
import http.client
import json
import random
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest
from conftest import BUILD, Agent, Pod, Process, answer, free_port, wait_for

PROMPT = "The quick brown fox jumps over the lazy dog. " * 40
CHECKS = ("--health-interval", "300ms", "--health-timeout", "200ms", "--scrape-interval", "100ms", "--eject-time", "300ms")


def one_sim(run, endpoint, *options):
    """A pod in a process of its own, to be stopped, killed and started anew at the same address."""
    process = run(Process, f"{BUILD}/llmd-sim", "--listen", endpoint, *options)
    wait_for(lambda: urllib.request.urlopen(f"http://{endpoint}/health", timeout=2).status == 200, "a simulated pod")
    return process


def sims(run, n, *options):
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(n)]
    return endpoints, {e: one_sim(run, e, *options) for e in endpoints}


def ask(agent, session=None, prompt=PROMPT, timeout=60, **body):
    """Status, pod, and the body."""
    data = json.dumps({"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": prompt}], **body}).encode()
    headers = {"X-Session-ID": session} if session else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{agent.url}/v1/chat/completions", data, headers), timeout=timeout) as got:
            return got.status, got.headers["x-sim-pod"], got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Retry-After"), error.read()


def fault(endpoint, **what):
    urllib.request.urlopen(urllib.request.Request(f"http://{endpoint}/sim/fault", json.dumps(what).encode()), timeout=10).close()


def of(agent, endpoint):
    return next(e for e in agent.json("/v1/endpoints") if e["address"] == endpoint)


def state_is(agent, endpoint, *states):
    wait_for(lambda: of(agent, endpoint)["state"] in states, f"{endpoint} to be {' or '.join(states)}", 30)


def session_at(agent, endpoint):
    for i in range(200):
        if ask(agent, f"s{i}", f"{i} {PROMPT}")[1] == endpoint:
            return f"s{i}"
    raise AssertionError("no session came to " + endpoint)


def test_a_stopped_pod_is_ejected_and_its_requests_go_elsewhere(run):
    endpoints, pods = sims(run, 3)
    agent = run(Agent, endpoints, *CHECKS)
    agent.ready(3)
    session = session_at(agent, endpoints[0])
    pods[endpoints[0]].process.send_signal(signal.SIGSTOP)
    try:
        status, pod, _ = ask(agent, session)  # waits for the first byte there when it is ejected
        assert status == 200 and pod != endpoints[0]
        assert of(agent, endpoints[0])["state"] == "ejected" and of(agent, endpoints[0])["why"].startswith("check: ")
        text = open(agent.log).read()
        assert f"endpoint={endpoints[0]} from=ready to=degraded" in text and f"endpoint={endpoints[0]} from=degraded to=ejected" in text
        assert "request leaves its pod" in text
        assert agent.metric('llmd_endpoint_transitions_total{from="degraded",to="ejected"}') == 1
    finally:
        pods[endpoints[0]].process.send_signal(signal.SIGCONT)
    agent.ready(3)
    agent.idle()


def test_only_the_requests_of_an_ejected_pod_leave(run):
    """Two requests wait at two pods, one of which goes out: the other is not asked again."""
    finish, hangs = threading.Event(), []

    def behave(connection, request):
        post = request.startswith(b"POST")
        if post or connection.getsockname() in hangs:
            finish.wait(60)
        connection.sendall(answer(b"{}"))
        return None if post else "close"

    pods = [run(Pod, behave) for _ in range(3)]
    agent = run(Agent, [pod.endpoint for pod in pods], *CHECKS, "--policy", "round-robin")
    agent.ready(3)
    asked = lambda: [sum(r.startswith(b"POST") for r in pod.requests) for pod in pods]
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(agent)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(asked()) == 2, "both requests to wait")
    assert max(asked()) == 1
    out = pods[asked().index(1)]
    hangs.append(out.socket.getsockname())
    state_is(agent, out.endpoint, "ejected")
    wait_for(lambda: sum(asked()) == 3, lambda: f"its request to be elsewhere: {asked()}")
    finish.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200] and sum(asked()) == 3 and open(agent.log).read().count("request leaves its pod") == 1


def test_never_the_last_half(run):
    endpoints, pods = sims(run, 4)
    agent = run(Agent, endpoints, *CHECKS)
    agent.ready(4)
    for endpoint in endpoints:
        fault(endpoint, fault="503")
    wait_for(lambda: sorted(e["state"] for e in agent.json("/v1/endpoints")) == ["degraded"] * 2 + ["ejected"] * 2, "half to be out", 30)
    assert agent.metric('llmd_health_events_total{event="spared"}') > 0 and agent.get("/readyz")[0] == 200
    for endpoint in endpoints:
        fault(endpoint, fault="none")
    agent.ready(4)
    for pod in pods.values():  # nobody listens: that is certain
        pod.process.kill()
    wait_for(lambda: {e["state"] for e in agent.json("/v1/endpoints")} == {"ejected"}, "all to be out", 30)
    status, retry_after, body = ask(agent)
    assert status == 503 and retry_after and json.loads(body)["error"]["type"] == "service_unavailable"


def test_a_pod_that_crashes_again_stays_out_unless_it_is_needed(run):
    """For a minute, by its checks it is well all the time; but when another one is gone, too, it is better than nothing."""
    endpoints, pods = sims(run, 3)
    agent = run(Agent, endpoints, *CHECKS[:-2], "--eject-time", "60s")
    agent.ready(3)

    def crash(endpoint):
        pods[endpoint].process.kill()
        pods[endpoint].process.wait()
        state_is(agent, endpoint, "ejected")

    crash(endpoints[0])
    pods[endpoints[0]] = one_sim(run, endpoints[0])
    state_is(agent, endpoints[0], "ready")
    crash(endpoints[0])
    pods[endpoints[0]] = one_sim(run, endpoints[0])
    checks = agent.metric('llmd_health_events_total{event="check_ok"}')
    wait_for(lambda: agent.metric('llmd_health_events_total{event="check_ok"}') > checks + 12, "four checks of each")
    assert of(agent, endpoints[0])["state"] == "ejected"
    crash(endpoints[1])
    state_is(agent, endpoints[0], "ready")
    assert ask(agent)[0] == 200


def test_5xx_streak_ejects(run):
    bad = run(Pod, lambda c, r: c.sendall(answer(b"{}", b"500 Internal Server Error")))
    good = run(Pod, lambda c, r: c.sendall(answer(b"{}")))
    agent = run(Agent, [bad.endpoint, good.endpoint], "--eject-after", "3", "--eject-time", "1h", "--policy", "round-robin")
    agent.ready(2)
    statuses = [ask(agent)[0] for _ in range(20)]
    assert statuses.count(500) == 3 and of(agent, bad.endpoint)["state"] == "ejected"
    assert of(agent, bad.endpoint)["why"] == "answers requests with 500"


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"503 Service Unavailable", b"504 Gateway Timeout"])
def test_other_pods_are_tried_within_the_budget(run, status):
    pods = [run(Pod, lambda c, r: c.sendall(answer(b"{}", status))) for _ in range(2)]
    agent = run(Agent, [p.endpoint for p in pods], "--eject-after", "0", "--retry-budget", "0.1")
    agent.ready(2)
    for _ in range(60):
        assert ask(agent)[0] == int(status[:3])
    tried = sum(len(p.requests) for p in pods)
    retries = agent.metric("llmd_retries_total")
    assert tried == 60 + retries and 10 <= retries < 40 and agent.metric("llmd_retries_refused_total") > 0


def test_no_more_pods_are_tried_than_retries_allow(run):
    pods = [run(Pod, lambda c, r: c.sendall(answer(b"{}", b"503 Service Unavailable"))) for _ in range(5)]
    for retries in (0, 2):
        agent = run(Agent, [p.endpoint for p in pods], "--retries", str(retries))
        agent.ready(5)
        before = [len(p.requests) for p in pods]
        assert ask(agent)[0] == 503
        assert sorted(len(p.requests) - n for p, n in zip(pods, before)) == [0] * (4 - retries) + [1] * (1 + retries)


def test_overload_is_refused(run):
    hold = threading.Event()

    def behave(connection, request):
        hold.wait(60)
        connection.sendall(answer(b"{}"))

    pods = [run(Pod, behave) for _ in range(2)]
    agent = run(Agent, [p.endpoint for p in pods], "--max-inflight", "2", "--max-inflight-total", "5")
    total = run(Agent, [p.endpoint for p in pods], "--max-inflight-total", "3")
    for a in (agent, total):
        a.ready(2)
    try:
        for a, n, code, kind in ((agent, 4, 503, "overloaded_error"), (total, 3, 429, "rate_limit_error")):
            threads = [threading.Thread(target=ask, args=(a,)) for _ in range(n)]
            for thread in threads:
                thread.start()
            wait_for(lambda: sum(e["inflight_requests"] for e in a.json("/v1/endpoints")) == n, "requests in flight")
            status, retry_after, body = ask(a)
            assert status == code and retry_after and json.loads(body)["error"]["type"] == kind
            assert a.metric("llmd_overload_total") == 1
    finally:
        hold.set()
    for a in (agent, total):
        a.idle()
        assert ask(a)[0] == 200


def test_engines_tell(run, sim):
    endpoints = sim(2, "--kv-blocks", "640", "--block-size", "16", "--model", "base", "--model", "sql")
    agent = run(Agent, [endpoints[0], endpoints[1] + ",blocks=77"], *CHECKS)
    wait_for(lambda: of(agent, endpoints[0])["prefix_blocks_capacity"] == 640 * 16 * 4 // 512, "the capacity to be told")
    assert of(agent, endpoints[1])["prefix_blocks_capacity"] == 77
    engine = of(agent, endpoints[0])["engine"]
    assert engine["fresh"] and engine["running"] == 0 and engine["capacity_tokens"] == 640 * 16
    assert agent.metric("llmd_endpoint_kv_usage") == 0 and agent.metric('llmd_engine_events_total{event="failed"}') == 0
    assert ask(agent, model="sql")[0] == 200 and ask(agent, model="nobody's")[0] == 404


def test_models_are_learnt(run):
    one, other = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    one_sim(run, one, "--model", "a"), one_sim(run, other, "--model", "b")
    agent = run(Agent, [one, other], *CHECKS)
    wait_for(lambda: {ask(agent, prompt=str(random.random()), model="a")[1] for _ in range(8)} == {one}, "the models to be known")
    assert {ask(agent, prompt=str(i), model="b")[1] for i in range(8)} == {other}


def test_a_restart_clears_prefixes(run):
    endpoints, pods = sims(run, 2)
    agent = run(Agent, endpoints, *CHECKS)
    agent.ready(2)
    session = session_at(agent, endpoints[0])
    assert of(agent, endpoints[0])["prefix_blocks"] > 0
    wait_for(lambda: "engine" in of(agent, endpoints[0]), "a scrape")
    pods[endpoints[0]].process.kill()
    pods[endpoints[0]].process.wait()
    time.sleep(1.1)  # a start time that is told apart
    one_sim(run, endpoints[0])
    wait_for(lambda: of(agent, endpoints[0]).get("engine", {}).get("restarts") == 1, "the restart to be noticed", 30)
    assert of(agent, endpoints[0])["prefix_blocks"] == 0
    state_is(agent, endpoints[0], "ready")
    assert agent.json(f"/v1/sessions/{session}")["endpoint"] in endpoints
    session_at(agent, endpoints[1])
    assert of(agent, endpoints[1])["prefix_blocks"] > 0
    scraped = agent.metric('llmd_engine_events_total{event="scraped"}')
    wait_for(lambda: agent.metric('llmd_engine_events_total{event="scraped"}') > scraped + 6, "its counters to be seen")
    urllib.request.urlopen(urllib.request.Request(f"http://{endpoints[1]}/sim/reset-cache", b"", method="POST")).close()
    wait_for(lambda: of(agent, endpoints[1])["engine"]["restarts"] == 1, "counters that went back to be noticed", 30)
    assert of(agent, endpoints[1])["prefix_blocks"] == 0


def test_stale_numbers_fall_back(run):
    silent = threading.Event()

    def behave(connection, request):
        if request.startswith(b"GET /metrics") and silent.is_set():
            time.sleep(60)
        body = b"vllm:num_requests_waiting 50\nvllm:num_requests_running 1\n" if request.startswith(b"GET /metrics") else b"{}"
        connection.sendall(answer(body))

    pods = [run(Pod, behave), run(Pod, lambda c, r: c.sendall(answer(b"{}")))]
    agent = run(Agent, [p.endpoint for p in pods], *CHECKS)
    wait_for(lambda: of(agent, pods[0].endpoint).get("engine", {}).get("waiting") == 50, "the queue to be told")
    silent.set()
    wait_for(lambda: of(agent, pods[0].endpoint)["engine"]["fresh"] is False, "the numbers to be stale", 30)
    assert of(agent, pods[0].endpoint)["state"] == "ready" and ask(agent)[0] == 200


def test_one_of_eight_is_killed_again_and_again(run):
    """What a client sees of it: streams that were answering on the killed pod. Nothing else fails."""
    options = ("--itl", "5")
    endpoints, pods = sims(run, 8, *options)
    agent = run(Agent, endpoints, *CHECKS, "--retry-budget", "1")
    agent.ready(8)
    end, lock = threading.Event(), threading.Lock()
    failures, done = [], [0]

    def client(number):
        turn = 0
        while not end.is_set():
            turn += 1
            began, where = False, None
            try:
                connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
                body = json.dumps({"model": "sim", "stream": True, "max_tokens": 20,
                                   "messages": [{"role": "user", "content": f"{number} {turn} {PROMPT}"}]})
                connection.request("POST", "/v1/chat/completions", body, {"X-Session-ID": f"{number}-{turn // 5}"})
                got = connection.getresponse()
                where, began = got.headers["x-sim-pod"], got.status == 200
                text = got.read()
                ok = got.status == 200 and b"[DONE]" in text
                why = f"{got.status} {text[:200]}"
            except (OSError, http.client.HTTPException) as error:
                ok, why = False, repr(error)
            with lock:
                done[0] += 1
                if not ok:
                    failures.append((began, where, why))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    killed = []
    try:
        for victim in endpoints[:4]:
            pods[victim].process.send_signal(signal.SIGKILL)
            pods[victim].process.wait()
            killed.append(victim)
            time.sleep(2)
            one_sim(run, victim, *options)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert done[0] > 50
    assert [f for f in failures if not f[0] or f[1] not in killed] == [], f"{len(failures)} of {done[0]}"
    agent.ready(8)
    agent.idle()


def test_a_slow_pod_gets_its_share(run, sim):
    """Five times slower than three others: about a sixteenth of the tokens to compute, in place of a fourth."""
    endpoints = sim(4, "--prefill-rate", "40000", "--itl", "1")
    agent = run(Agent, endpoints, *CHECKS)
    agent.ready(4)
    fault(endpoints[0], slow=5)
    numbers = iter(range(10**6))
    lock = threading.Lock()

    def some(n):
        for _ in range(n):
            with lock:
                number = next(numbers)
            assert ask(agent, prompt=f"{number} {PROMPT * 4}")[0] == 200

    def all_of(n):
        before = {e["address"]: e["requests"] for e in agent.json("/v1/endpoints")}
        threads = [threading.Thread(target=some, args=(n,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {e["address"]: e["requests"] - before[e["address"]] for e in agent.json("/v1/endpoints")}

    first = all_of(15)
    assert first[endpoints[0]] > 0 and of(agent, endpoints[0])["slowness"] > 1.5
    counts = all_of(25)  # what it was given before it was known to be slow is still in its load
    assert counts[endpoints[0]] < 0.6 * sum(counts[e] for e in endpoints[1:]) / 3, counts
