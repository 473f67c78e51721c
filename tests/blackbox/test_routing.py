# SPDX-License-Identifier: Apache-2.0
"""Routing with simulated pods: the openai package unmodified, sessions, the admin port, a trace."""
import http.client
import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import openai
import pytest
from conftest import BUILD, Agent, Pod, answer, free_port, wait_for

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def client_of(agent, **options):
    return openai.OpenAI(base_url=f"{agent.url}/v1", api_key="none", timeout=20, **options)


def test_openai_package(run, sim):
    agent = run(Agent, sim(3, "--model", "m"))
    client = client_of(agent)
    messages = [{"role": "system", "content": TEXT}, {"role": "user", "content": "hi"}]
    whole = client.chat.completions.create(model="m", messages=messages, max_tokens=5)
    assert whole.choices[0].message.content == "tok " * 5 and whole.usage.completion_tokens == 5
    again = client.chat.completions.create(model="m", messages=messages, max_tokens=5)
    assert again.usage.prompt_tokens_details.cached_tokens > 400
    chunks = list(client.chat.completions.create(model="m", messages=messages, max_tokens=5, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "tok " * 5
    assert chunks[-1].usage.completion_tokens == 5
    assert client.completions.create(model="m", prompt=TEXT, max_tokens=3).choices[0].text == "tok " * 3
    assert client.responses.create(model="m", input=TEXT, max_output_tokens=3).output_text == "tok " * 3
    events = [e.type.removeprefix("response.") for e in client.responses.create(model="m", input=TEXT, max_output_tokens=3, stream=True)]
    assert events == ["created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 3, "output_text.done",
                      "content_part.done", "output_item.done", "completed"]
    with client.responses.stream(model="m", input=TEXT, max_output_tokens=2000) as stream:  # puts them together by what announces them
        assert [e.sequence_number for e in stream] == list(range(2008))
        assert stream.get_final_response().output_text == "tok " * 2000
    assert len(client.embeddings.create(model="m", input="x").data[0].embedding) == 8
    assert [m.id for m in client.models.list()] == ["m"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=messages)
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", body={"model": "m"}, cast_to=object)


def fault(endpoint, **what):
    request = urllib.request.Request(f"http://{endpoint}/sim/fault", json.dumps(what).encode())
    urllib.request.urlopen(request, timeout=10).close()


def test_openai_package_sees_failures(run, sim):
    endpoints = sim(2, "--model", "m")
    agent = run(Agent, endpoints)
    ask = dict(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=50)
    fault(endpoints[0], fault="503")
    for i in range(8):
        client_of(agent, max_retries=0).chat.completions.create(**ask, extra_headers={"X-Session-ID": str(i)})
    fault(endpoints[1], fault="503")
    with pytest.raises(openai.InternalServerError):
        client_of(agent, max_retries=1).chat.completions.create(**ask)
    fault(endpoints[0], fault="die", after=3)
    fault(endpoints[1], fault="die", after=3)
    with pytest.raises((openai.APIError, Exception)) as error:
        list(client_of(agent, max_retries=0).chat.completions.create(**ask, stream=True))
    assert "incomplete" in str(error.value) or "peer closed" in str(error.value) or "Connection" in type(error.value).__name__ + str(error.value)
    agent.idle()


def test_openai_package_retries(run):
    """Once the pod is overloaded, once there is no pod: the client comes back by itself, the second time after Retry-After."""
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "here"}}]}).encode()
    statuses = [b"503 Service Unavailable"]
    pod = run(Pod, lambda c, r: c.sendall(answer(body, *(statuses and [statuses.pop()]))))
    ask = dict(model="m", messages=[{"role": "user", "content": "hi"}])
    assert client_of(run(Agent, [pod.endpoint]), max_retries=2).chat.completions.create(**ask).choices[0].message.content == "here"
    assert len(pod.requests) == 2
    late = f"127.0.0.1:{free_port()}"
    agent = run(Agent, [late])
    wait_for(lambda: agent.get("/readyz")[0] == 503, "not ready")
    start = threading.Timer(0.3, lambda: run(Pod, lambda c, r: c.sendall(answer(body)), late))
    start.start()
    assert client_of(agent, max_retries=3).chat.completions.create(**ask).choices[0].message.content == "here"
    start.join()


@pytest.mark.parametrize("kind", ["refuse", "hang"])
def test_pods_that_refuse_or_hang(run, sim, kind):
    endpoints = sim(2, "--model", "m")
    agent = run(Agent, endpoints)
    agent.ready(2)
    ask = dict(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=5)
    control = http.client.HTTPConnection(endpoints[0])  # a pod that refuses keeps what is connected
    control.request("POST", "/sim/fault", json.dumps({"fault": kind}))
    assert control.getresponse().read() == b""
    slow = 0
    for i in range(6):
        try:
            client_of(agent, max_retries=0).with_options(timeout=0.5).chat.completions.create(**ask, extra_headers={"X-Session-ID": str(i)})
        except openai.APITimeoutError:
            slow += 1
    assert slow == 0 if kind == "refuse" else 0 < slow < 6
    agent.idle()  # the clients that gave up are noticed
    control.request("POST", "/sim/fault", json.dumps({"fault": "none"}))
    assert control.getresponse().read() == b""
    control.close()
    agent.ready(2)


def pod_of(agent, headers=(), **body):
    data = json.dumps({"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": TEXT}], **body}).encode()
    request = urllib.request.Request(f"{agent.url}/v1/chat/completions", data, dict(headers))
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["x-sim-pod"]


@pytest.mark.parametrize("where", ["header", "other header", "cookie", "body session_id", "body user"])
def test_sessions_stick(run, sim, where):
    agent = run(Agent, sim(4), "--log-level", "debug")
    agent.ready(4)
    pods = set()
    for key in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        ask = {"header": lambda: pod_of(agent, {"X-Session-ID": key}), "other header": lambda: pod_of(agent, {"session-id": key}),
               "cookie": lambda: pod_of(agent, {"Cookie": f"a=b; session={key}"}), "body session_id": lambda: pod_of(agent, session_id=key),
               "body user": lambda: pod_of(agent, user=key)}[where]
        first = ask()
        assert [ask() for _ in range(5)] == [first] * 5
        assert agent.json(f"/v1/sessions/{key}")["endpoint"] == first
        pods.add(first)
    assert agent.get("/v1/sessions/unknown")[0] == 404


def test_admin_port(run, sim):
    endpoints = sim(2)
    agent = run(Agent, endpoints)
    agent.ready(2)
    first = pod_of(agent, {"X-Session-ID": "s"})
    assert agent.get("/healthz")[0] == 200 and agent.get("/readyz")[0] == 200
    decision = agent.json("/v1/decisions?last=1")[0]
    assert decision["endpoint"] == first and decision["reason"] == "score" and decision["status"] == 200
    assert [c["endpoint"] for c in decision["candidates"]][0] == first and len(decision["candidates"]) == 2
    assert agent.get("/v1/decisions?last=0")[0] == 400 and agent.get("/nothing")[0] == 404 and agent.get(f"/v1/endpoints/{first}/drain")[0] == 405
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{agent.admin}/v1/endpoints/{first}/drain", b"", method="POST")).close()
    assert pod_of(agent, {"X-Session-ID": "s"}) != first
    assert agent.json("/v1/decisions?last=1")[0]["reason"] == "session_lost"


def maps_tool(agent, *words):
    return subprocess.run([f"{BUILD}/llmd-maps", "endpoint", *words, "--admin", f"127.0.0.1:{agent.admin}"], capture_output=True, text=True)


def test_llmd_maps_drains(run, sim):
    endpoints = sim(2)
    agent = run(Agent, endpoints)
    agent.ready(2)
    done = maps_tool(agent, "drain", "-j", endpoints[0])
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "draining", done.stderr
    assert {pod_of(agent) for _ in range(8)} == {endpoints[1]}
    done = maps_tool(agent, "undrain", endpoints[0])
    assert done.returncode == 0 and f"{endpoints[0]}\n" in done.stdout, done.stderr
    agent.ready(2)
    done = maps_tool(agent, "drain", "[2001:db8::1]:80")
    assert done.returncode == 1 and "answered 404: no such endpoint" in done.stderr and not done.stdout


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian package prometheus) is not installed")
def test_metrics_are_valid(run, sim):
    agent = run(Agent, sim(2))
    pod_of(agent)
    done = subprocess.run(["promtool", "check", "metrics"], input=agent.get("/metrics")[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def status_of(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_scrapers_of_other_machines_see_metrics_and_nothing_else(run, sim):
    port = free_port()
    agent = run(Agent, sim(1), "--metrics-listen", f"127.0.0.1:{port}")
    agent.ready(1)
    open_url = f"http://127.0.0.1:{port}"
    answers = {path: status_of(open_url + path) for path in
               ("/metrics", "/healthz", "/readyz", "/v1/endpoints", "/v1/decisions", "/v1/sessions/x", "/v1/endpoints/127.0.0.1:1/drain")}
    assert answers == {"/metrics": 200, "/healthz": 200, "/readyz": 200, "/v1/endpoints": 404, "/v1/decisions": 404, "/v1/sessions/x": 404,
                       "/v1/endpoints/127.0.0.1:1/drain": 404}
    assert status_of(f"{open_url}/v1/endpoints/{agent.json('/v1/endpoints')[0]['address']}/drain", b"") == 404
    assert agent.get("/readyz")[0] == 200


def test_metrics_document_is_current():
    document = subprocess.run([f"{BUILD}/llmd-agent", "--metrics-doc"], capture_output=True, text=True, check=True).stdout
    assert document in open(os.path.join(os.path.dirname(__file__), "../../docs/metrics.md")).read()


def load(*args):
    done = subprocess.run([f"{BUILD}/llmd-load", "--json", "-", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(done.stdout)


def test_synthetic_trace(run, sim, tmp_path):
    trace = str(tmp_path / "trace.jsonl")
    subprocess.run([f"{BUILD}/llmd-load", "--synth", trace, "--synth-sessions", "40"], check=True, capture_output=True)
    endpoints = sim(4)
    agent = run(Agent, endpoints)
    agent.ready(4)
    result = load("--target", agent.url, "--trace", trace, "--time-scale", "0", "--concurrency", "4", "--session", "trace", "--stream",
                  *[x for e in endpoints for x in ("--pod-metrics", e)])
    assert result["failed"] == 0 and result["later_turns"] > 20 and result["hit_rate"] > 0.5
    assert agent.metric('llmd_decisions_total{reason="session_lost"}') == 0
    agent.idle()
