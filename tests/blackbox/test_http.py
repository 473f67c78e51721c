# SPDX-License-Identifier: Apache-2.0
"""The agent as a proxy: framing, persistence, failures, over raw sockets."""
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading

import pytest
import conftest
from conftest import BUILD, Agent, Pod, answer, free_port, read_message, wait_for


def echo(connection, request):
    connection.sendall(answer(request))


def recv_all(connection):
    data = b""
    while True:
        try:
            more = connection.recv(1 << 20)
        except ConnectionResetError:
            return data + b"<reset>"
        if not more:
            return data
        data += more


def recv_answer(connection):
    return read_message(connection)


def post(body, fields="", path="/v1/chat/completions"):
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}".encode()


CHAT = '{"model":"m","messages":[{"role":"user","content":"hello"}]}'


def test_keep_alive_and_pipelining_in_order(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(r.rsplit(b"\r\n\r\n", 1)[1])))
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(b"".join(post(str(i)) for i in range(20)))
        assert [recv_answer_body(c) for _ in range(20)] == [str(i).encode() for i in range(20)]
    assert agent.metric('llmd_upstream_events_total{event="reused"}') >= 19


def recv_answer_body(c):
    """One sized answer, byte by byte, so that the next one stays in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += c.recv(1)
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += c.recv(length - len(body))
    return body


def test_requests_cut_at_every_byte(run):
    pod = run(Pod, echo)
    agent = run(Agent, [pod.endpoint])
    for request in (post("abc"), b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"):
        with agent.connect() as c:
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for cut in range(1, len(request)):
                c.sendall(request[:cut])
                c.sendall(request[cut:])
                assert recv_answer_body(c).endswith(request.split(b"\r\n\r\n", 1)[1])


def test_what_the_pod_sees(run):
    pod = run(Pod, echo)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(post("x", "Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\nx_forwarded_for: 6.6.6.6\r\nX-Prefiller-Host-Port: e:1\r\nx-request-id: me-1\r\n"))
        seen = recv_answer_body(c).decode()
    assert "X-A" not in seen and "6.6.6.6" not in seen and "refiller" not in seen
    assert "X-B: 2\r\n" in seen and "X-Forwarded-For: 127.0.0.1\r\n" in seen and "x-request-id: me-1\r\n" in seen


def test_100_continue_head_and_http_1_0(run):
    def behave(c, r):
        if r.startswith(b"HEAD"):
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        else:
            c.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert c.recv(100).startswith(b"HTTP/1.1 100 ")
        c.sendall(b"hi")
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += c.recv(1000)
        assert data.startswith(b"HTTP/1.1 103 ") and b"HTTP/1.1 200 OK" in data
        assert b"Expect" not in pod.requests[0]
        c.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = recv_all(c)
        assert data.count(b"HTTP/1.1 200") == 2 and b"Content-Length: 1000" in data
    with agent.connect() as c:
        c.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = recv_all(c)
        assert b"ransfer-" not in data and data.endswith(b"\r\n\r\nabc")


def test_half_close_after_the_request(run):
    pod = run(Pod, echo)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(post("abc"))
        c.shutdown(socket.SHUT_WR)
        assert recv_all(c).endswith(b"abc")


def test_events_pass_one_by_one(run):
    go = threading.Semaphore(0)

    def behave(c, r):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(5):
            c.sendall(b"9\r\ndata: %d\n\n\r\n" % i)
            go.acquire()
        c.sendall(b"0\r\n\r\n")

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(post(CHAT))
        data = b""
        for i in range(5):
            while b"data: %d\n\n" % i not in data:
                data += c.recv(1000)
            assert b"data: %d" % (i + 1) not in data
            go.release()
        while not data.endswith(b"0\r\n\r\n"):
            data += c.recv(1000)


def resident(agent):
    with open(f"/proc/{agent.process.pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


def test_big_bodies_both_ways_with_bounded_memory(run):
    size = 60 << 20
    block = os.urandom(1 << 20)
    digest = hashlib.sha256(block * 60).hexdigest()
    seen = {}

    def behave(c, r):
        seen["up"] = hashlib.sha256(r.split(b"\r\n\r\n", 1)[1]).hexdigest()
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(60):
            c.sendall(block)

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    agent.ready(1)
    before = resident(agent)
    with agent.connect() as c:
        c.sendall(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(60):
            c.sendall(block)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += c.recv(1)
        assert resident(agent) - before < 40 << 20  # the pod sends, nobody reads
        down, left = hashlib.sha256(), size
        while left:
            data = c.recv(min(left, 1 << 20))
            down.update(data)
            left -= len(data)
    assert seen["up"] == digest and down.hexdigest() == digest
    assert resident(agent) - before < 40 << 20
    assert agent.metric("llmd_spliced_bytes_total") > size


def test_client_gone_closes_the_pod_and_releases_all(run):
    gone = threading.Event()

    def behave(c, r):
        c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                c.sendall(b"1\r\nx\r\n")
                threading.Event().wait(0.01)
        except OSError:
            gone.set()
            raise

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    c = agent.connect()
    c.sendall(post(CHAT))
    c.recv(100)
    assert agent.json("/v1/endpoints")[0]["inflight_requests"] == 1
    c.close()
    assert gone.wait(20)
    agent.idle()
    assert agent.metric('llmd_cut_total{side="client"}') == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_pod_gone_in_mid_stream_shows(run, framing):
    def behave(c, r):
        c.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + (b"5\r\nhello\r\n" if b"chunked" in framing else b"hello"))
        threading.Event().wait(0.2)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return "close"

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        c.sendall(post(CHAT))
        data = recv_all(c)
    assert b"hello" in data and (data.endswith(b"<reset>") or framing) and not data.endswith(b"0\r\n\r\n")
    agent.idle()


def reset(c, r):
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return "close"


@pytest.mark.parametrize("bad", [reset, lambda c, r: c.sendall(answer(b"", b"503 No")), lambda c, r: c.sendall(b"nonsense\r\n\r\n"), None])
def test_another_pod_is_tried(run, bad):
    good = run(Pod, lambda c, r: c.sendall(answer(b"good")))
    other = run(Pod, bad).endpoint if bad else f"127.0.0.1:{free_port()}"
    agent = run(Agent, [good.endpoint, other])
    for i in range(12):
        with agent.connect() as c:
            c.sendall(post(CHAT, f"X-Session-ID: {i}\r\n"))
            assert recv_answer_body(c) == b"good"
    agent.idle()


def test_stale_pod_connection_is_no_failure(run):
    def once(c, r):
        c.sendall(answer(b"ok"))
        c.recv(1)  # the next request: closed without an answer, as by a pod whose idle timer has run out
        return "close"

    pod = run(Pod, once)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c:
        for _ in range(4):
            c.sendall(post(CHAT))
            assert recv_answer_body(c) == b"ok"
    assert agent.metric("llmd_retries_total") == 0


def test_no_pod_left_and_back_again(run):
    port = free_port()
    agent = run(Agent, [f"127.0.0.1:{port}"])
    wait_for(lambda: agent.get("/readyz")[0] == 503, "not ready")
    with agent.connect() as c:
        c.sendall(post(CHAT))
        data = recv_all(c)
    assert data.startswith(b"HTTP/1.1 503 ") and re.search(rb"\r\nRetry-After: [1-9][0-9]*\r\n", data)
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["code"] == 503
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(8)
    agent.ready(1)
    listener.close()


SMUGGLING = [
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400", "length_and_coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400", "content_length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", b"400", "transfer_coding"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", b"400", "obs_fold"),
    (b"GET / HTTP/1.1\nHost: a\n\n", b"400", "line_end"),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"400", "field"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", b"400", "field"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20000 + b"\r\n\r\n", b"431", "head_too_large"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", b"413", "body_too_large"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400", "chunk"),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"501", "upgrade"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"501", "upgrade"),
]


def test_a_request_that_comes_back_is_refused(run, monkeypatch):
    """By an agent whose pod is itself, and by two of which each has the other as its pod; without a bound it would take all connections."""
    ports = [free_port() for _ in range(6)]
    monkeypatch.setattr(conftest, "free_port", iter(ports).__next__)
    itself, one, other = (run(Agent, [f"127.0.0.1:{ports[pod]}"], "--max-connections", "100") for pod in (0, 4, 2))
    for agent in (itself, one, other):
        agent.ready(1)
    for agent in (itself, one):
        with agent.connect() as c:
            c.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nVia: 1.1 else\r\nConnection: close, via\r\n\r\n")
            data = recv_all(c)
        assert data.startswith(b"HTTP/1.1 508 Loop Detected\r\n") and b"the request has come back" in data
        assert agent.metric('llmd_rejected_total{rule="loop"}') == 1 and "a request has come back" in open(agent.log).read()
    assert other.metric("llmd_rejected_total") == 0
    assert not any(e["state"] in ("degraded", "ejected") for agent in (itself, one, other) for e in agent.json("/v1/endpoints"))


def test_refused_requests_touch_nobody(run):
    pod = run(Pod, echo)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as other:
        for raw, status, rule in SMUGGLING:
            with agent.connect() as c:
                c.sendall(raw)
                data = recv_all(c)
                assert data.startswith(b"HTTP/1.1 " + status), (raw, data)
                assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "invalid_request_error"
            assert agent.metric(f'llmd_rejected_total{{rule="{rule}"}}') >= 1
            other.sendall(post("abc"))
            assert recv_answer_body(other).endswith(b"abc")
    assert len(pod.requests) == len(SMUGGLING)


def test_dribbled_head_and_body_time_out(run):
    pod = run(Pod, echo)
    agent = run(Agent, [pod.endpoint], "--head-timeout", "300ms", "--body-timeout", "300ms")
    for part in (b"GET / HT", post("abc")[:-1]):
        with agent.connect() as c:
            c.sendall(part)
            assert recv_all(c).startswith(b"HTTP/1.1 408 ")
    assert not pod.requests


def test_content_that_is_not_understood_still_goes(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(b"ok")))
    agent = run(Agent, [pod.endpoint])
    for body, result in (("not json", "not_json"), ('{"x":1}', "unknown_shape"), ('{"messages":' + "[" * 100, "too_deep")):
        with agent.connect() as c:
            c.sendall(post(body))
            assert recv_answer_body(c) == b"ok"
        assert agent.metric(f'llmd_prompts_total{{result="{result}"}}') == 1


def test_drain_lets_a_stream_end(run):
    go = threading.Event()

    def behave(c, r):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        go.wait(20)
        c.sendall(b"cd")

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint])
    with agent.connect() as c, agent.connect() as idle:
        c.sendall(post(CHAT))
        begun = b""
        while not begun.endswith(b"\r\n\r\nab"):
            begun += c.recv(1) or pytest.fail("the answer does not begin")
        agent.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        wait_for(lambda: agent.get("/readyz")[0] == 503, "not ready")
        go.set()
        assert recv_all(c) == b"cd"
    agent.process.wait(20)


def test_bad_options_name_themselves():
    for option, value, word in (("--policy", "best", "round-robin"), ("--endpoint", "nowhere", "ADDR:PORT"), ("--session-ttl", "2", "duration"),
                                ("--pin-dir", "some/where", "from /"), ("--pin-dir", "", "from /"), ("--pin-dir", "/" + "x" * 400, "400")):
        done = subprocess.run([f"{BUILD}/llmd-agent", option, value], capture_output=True, text=True)
        assert done.returncode == 2 and option in done.stderr and value[:30] in done.stderr and word in done.stderr
