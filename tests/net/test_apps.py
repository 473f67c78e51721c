# SPDX-License-Identifier: Apache-2.0
"""What people run: the openai package unmodified, simulated vLLM pods, a replayed trace."""
import contextlib
import json
import os
import signal
import time

import openai
import pytest

from lib_agent import BUILD, POD_PORT, Process, reset
from lib_net import NODE, pod_address, wait_for
from lib_peer import fetch, pod_endpoint, stream_body

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def start_sims(w, *options):
    """A simulated pod in every pod's namespace."""
    for i, namespace in enumerate(w.net.pods):
        w.pods.append(Process(namespace, w.directory / f"sim{i}.log", f"{BUILD}/llmd-sim", "--listen", f"{pod_address(i)}:{POD_PORT}", *options))
    for i, namespace in enumerate(w.net.pods):
        wait_for(lambda n=namespace, i=i: n.connect(pod_address(i), POD_PORT).close() is None, f"simulated pod {i}")


@pytest.mark.parametrize("handoff", ["auto", "always"])
def test_openai_package(world, handoff):
    w = world(pods=3)
    start_sims(w, "--model", "m")
    w.start_agent(handoff=handoff).ready(3)
    messages = [{"role": "system", "content": TEXT}, {"role": "user", "content": "hi"}]
    with w.client.enter(), openai.OpenAI(base_url=f"http://{NODE}:8080/v1", api_key="none", timeout=20, max_retries=0) as client:
        whole = client.chat.completions.create(model="m", messages=messages, max_tokens=5)
        assert whole.choices[0].message.content == "tok " * 5 and whole.usage.completion_tokens == 5
        again = client.chat.completions.create(model="m", messages=messages, max_tokens=5)
        assert again.usage.prompt_tokens_details.cached_tokens > 400
        for _ in range(3):
            stream = client.chat.completions.create(model="m", messages=messages, max_tokens=50, stream=True, stream_options={"include_usage": True})
            chunks = list(stream)
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "tok " * 50
            assert chunks[-1].usage.completion_tokens == 50
        assert client.completions.create(model="m", prompt=TEXT, max_tokens=3).choices[0].text == "tok " * 3
        events = [e.type for e in client.responses.create(model="m", input=TEXT, max_output_tokens=3, stream=True)]
        assert events[0] == "response.created" and events[-1] == "response.completed"
        assert [m.id for m in client.models.list()] == ["m"]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=messages)
    w.assert_handed_over(4)
    w.agent.idle()


def test_sessions_stick(world):
    w = world(pods=4)
    start_sims(w)
    w.start_agent().ready(4)
    with w.client.enter(), openai.OpenAI(base_url=f"http://{NODE}:8080/v1", api_key="none", timeout=20) as client:
        for key in map(str, range(8)):
            pods = set()
            for turn in range(4):
                answer = client.chat.completions.with_raw_response.create(model="sim", messages=[{"role": "user", "content": TEXT * (turn + 1)}], max_tokens=2,
                                                                          extra_headers={"X-Session-ID": key})
                pods.add(answer.headers["x-sim-pod"])
            assert len(pods) == 1 and w.agent.json(f"/v1/sessions/{key}")["endpoint"] in pods


def replay(w, trace, *options):
    out = w.client.run(f"{BUILD}/llmd-load", "--json", "-", "--target", f"http://{NODE}:8080", "--trace", str(trace), "--time-scale", "0", "--stream",
                       "--concurrency", "8", *[x for i in range(len(w.net.pods)) for x in ("--pod-metrics", f"{pod_address(i)}:{POD_PORT}")], *options)
    return json.loads(out)


def test_synthetic_trace(world, tmp_path):
    w = world(pods=4)
    trace = tmp_path / "trace.jsonl"
    w.client.run(f"{BUILD}/llmd-load", "--synth", str(trace), "--synth-sessions", "40")
    start_sims(w)
    w.start_agent(handoff="auto").ready(4)
    result = replay(w, trace, "--session", "trace")
    assert result["failed"] == 0 and result["later_turns"] > 20 and result["hit_rate"] > 0.5, result
    w.assert_handed_over(40)
    w.agent.idle()


def test_published_trace(world):
    trace = os.environ.get("LLMD_TRACE")
    if not trace:
        pytest.skip("LLMD_TRACE does not name the Mooncake conversation trace")
    w = world(pods=4)
    start_sims(w, "--block-size", "512", "--kv-blocks", "100000", "--max-tokens", "1")
    w.start_agent("--prefix-blocks-max", "16000000", handoff="auto").ready(4)
    result = replay(w, trace, "--limit", "300")
    assert result["failed"] == 0, result
    w.assert_handed_over(300)
    w.agent.idle()


def test_a_pod_that_resets_streams_is_ejected(world):
    """It answers 200, and checks, but breaks off each stream: the same over both data paths."""
    w = world(pods=2)

    def breaks_off(peer):
        peer.read_body()
        peer.answer_chunked()
        peer.chunk(b"data: 1\n\n")
        time.sleep(0.1)
        reset(peer.socket)

    w.script(breaks_off, 0)
    w.script(lambda peer: (peer.read_body(), peer.answer(b"{}")), 1)
    w.start_agent("--eject-time", "60s", handoff="always")
    state = {e["address"]: e for e in w.agent.json("/v1/endpoints")}
    assert state[pod_endpoint(0)]["state"] in ("starting", "ready")
    for i in range(200):
        with contextlib.suppress(OSError, EOFError):
            fetch(w.client, stream_body(i))
        state = {e["address"]: e for e in w.agent.json("/v1/endpoints")}
        if state[pod_endpoint(0)]["state"] == "ejected":
            break
    assert state[pod_endpoint(0)]["state"] == "ejected", state
    assert state[pod_endpoint(1)]["state"] in ("starting", "ready"), state


@pytest.mark.parametrize("mode", ["keep", "reset"])
def test_streams_of_an_ejected_pod(world, mode):
    """A pod hangs in mid-stream and is ejected: in the kernel its streams are left alone, or cut at once, as configured."""
    w = world(pods=2)
    start_sims(w, "--itl", "20")
    w.start_agent("--health-interval", "300ms", "--health-timeout", "200ms", "--eject-time", "300ms", "--on-eject", mode).ready(2)
    with w.client.enter(), openai.OpenAI(base_url=f"http://{NODE}:8080/v1", api_key="none", timeout=60, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="sim", messages=[{"role": "user", "content": TEXT}], max_tokens=150, stream=True)
        chunks = iter(raw.parse())
        next(chunks)
        w.assert_handed_over(1)
        where = [f"{pod_address(i)}:{POD_PORT}" for i in range(2)].index(raw.headers["x-sim-pod"])
        w.pods[where].signal(signal.SIGSTOP)
        wait_for(lambda: any(e["state"] == "ejected" for e in w.agent.json("/v1/endpoints")), "the pod to be ejected", 30)
        if mode == "reset" and w.kernel:
            with pytest.raises(Exception, match="peer|reset|closed|Connection|incomplete|Error"):
                list(chunks)
            w.pods[where].signal(signal.SIGCONT)
        else:
            w.pods[where].signal(signal.SIGCONT)
            assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) >= 149
    w.agent.ready(2)
    w.agent.idle()
