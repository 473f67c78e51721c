# SPDX-License-Identifier: Apache-2.0
"""Clients and pods that break the rules, or leave without a word: who sees what, and nothing stays behind."""
import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import BUILD, Agent, Pod, Process, answer, free_port, wait_for
from test_http import CHAT, post, recv_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ok(connection, request):
    connection.sendall(answer(b"ok"))


def talk(agent, *parts, shut=True):
    """Sends the parts one by one, then perhaps half-closes; all that comes back."""
    with agent.connect() as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            c.sendall(part)
            time.sleep(0.05)
        if shut:
            c.shutdown(socket.SHUT_WR)
        return recv_all(c)


# ---- clients ----


def test_all_pipelined_requests_before_a_half_close_are_answered(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(r.rsplit(b"\r\n\r\n", 1)[1])))
    agent = run(Agent, [pod.endpoint])
    bodies = [b"%d;" % i for i in range(2000)]
    data = []
    with agent.connect() as c:
        reader = threading.Thread(target=lambda: data.append(recv_all(c)))
        c.sendall(b"".join(post(b.decode()) for b in bodies))  # more than is read ahead
        c.shutdown(socket.SHUT_WR)
        reader.start()
        reader.join(60)
    got = [part.split(b"\r\n\r\n", 1)[1] for part in data[0].split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert got == bodies


@pytest.mark.parametrize(
    "parts, statuses",
    [
        ((b"\r", b"\n" + GET), [200]),
        ((b"\r", b"\n", GET), [200]),
        ((b"\r", b"\n"), []),
        ((b"\r\n\r\n", GET, b"\r\n", GET), [200, 200]),
        ((post("x"), b"garbage\r\n\r\n"), [200, 400]),
        ((post("x") + b"GET / HT",), [200]),  # the half head is nobody's request
        ((b"GET / HT",), []),
        ((b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"), [200, 200]),
        ((b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",), [200]),
        ((b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",), [200]),
        ((b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n", b"0\r\n\r\n"), [100, 200]),
        ((b"POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"hi"), [200]),
        ((b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",), [413]),
        ((b"GET http://a/v1/models HTTP/1.1\r\nHost: b\r\n\r\n",), [200]),
        ((b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",), [200]),
        ((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), [505]),
        ((b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",), [200]),
    ],
)
def test_what_clients_do(run, parts, statuses):
    agent = run(Agent, [run(Pod, ok).endpoint])
    data = talk(agent, *parts)
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", data)] == statuses
    agent.idle()


def test_pods_are_not_blamed_for_the_agents_own_limits(run):
    agent = run(Agent, [run(Pod, ok).endpoint])
    agent.ready(1)
    limit = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    clients = [agent.connect() for _ in range(3)]
    wait_for(lambda: agent.metric('llmd_connections{side="client"}') == 3, "the clients")
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (3, limit[1]))  # what is open stays so, nothing can be added
    clients[0].sendall(post(CHAT))
    data = recv_all(clients[0])
    assert data.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in data
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, limit)
    assert agent.json("/v1/endpoints")[0]["state"] == "ready" and "pod failed" not in open(agent.log).read()
    clients[1].sendall(post(CHAT, "Connection: close\r\n"))
    assert recv_all(clients[1]).startswith(b"HTTP/1.1 200 ")
    agent.idle()


def descriptors(agent):
    return len(os.listdir(f"/proc/{agent.process.pid}/fd"))


def test_connections_to_the_admin_ports_are_bounded(run):
    """Whoever holds them open; who asks is answered all the same."""
    port = free_port()
    agent = run(Agent, [run(Pod, ok).endpoint], "--metrics-listen", f"127.0.0.1:{port}")
    for listener in (agent.admin, port):
        before = descriptors(agent)
        held = [socket.create_connection(("127.0.0.1", listener), 20) for _ in range(600)]
        held[-1].sendall(GET.replace(b"/", b"/healthz", 1))
        assert held[-1].recv(100).startswith(b"HTTP/1.1 200 ") and descriptors(agent) - before <= 256
        for c in held:
            c.close()


@pytest.mark.parametrize("path", [b"healthz", b"metrics", b"v1/endpoints", b"nothing"])
def test_the_admin_port_sends_no_content_to_head(run, path):
    agent = run(Agent, [run(Pod, ok).endpoint])
    with socket.create_connection(("127.0.0.1", agent.admin), 20) as c:
        c.sendall(b"HEAD" + GET.replace(b"/", b"/" + path, 1)[3:] + CLOSE.replace(b"/", b"/healthz", 1))
        head, _, next_answer = recv_all(c).partition(b"\r\n\r\n")
    assert re.search(rb"\r\nContent-Length: [1-9]", head) and next_answer.startswith(b"HTTP/1.1 200 OK\r\n") and next_answer.endswith(b"\r\n\r\nok\n")


def test_out_of_descriptors_the_admin_port_pauses(run):
    """It does not fill log and processor with tries."""
    agent = run(Agent, [run(Pod, ok).endpoint])
    limit = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (3, limit[1]))
    with socket.create_connection(("127.0.0.1", agent.admin), 20) as c:
        c.sendall(GET.replace(b"/", b"/healthz", 1))
        wait_for(lambda: "accepting connections paused" in open(agent.log).read(), "the pause")
        time.sleep(0.5)
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, limit)
        assert c.recv(100).startswith(b"HTTP/1.1 200 ")
    assert os.path.getsize(agent.log) < 10000


def test_without_standard_files(tmp_path):
    """What was closed at the start is not given to a socket, into which log lines would go then."""
    port, admin = free_port(), free_port()
    args = (f"{BUILD}/llmd-agent", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--endpoint", "127.0.0.1:1", "--datapath", "relay")
    agent = Process(str(tmp_path / "log"), "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *args)
    wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, "the agent")
    files = [os.readlink(f"/proc/{agent.process.pid}/fd/{fd}") for fd in range(3)]
    assert agent.end() == 0 and files == ["/dev/null"] * 3


def test_no_more_clients_than_open_files_allow(tmp_path):
    """A client takes one, its pod another."""
    args = ("prlimit", "--nofile=200", f"{BUILD}/llmd-agent", "--listen", f"127.0.0.1:{free_port()}", "--admin", f"127.0.0.1:{free_port()}")
    agent = Process(str(tmp_path / "log"), *args, "--endpoint", "127.0.0.1:1", "--datapath", "relay")
    wait_for(lambda: "max-connections=100" in open(agent.log).read(), "the warning")
    wait_for(lambda: "started" in open(agent.log).read(), "the loop")
    assert agent.end() == 0


def test_tls_is_refused_at_once(run):
    agent = run(Agent, [run(Pod, ok).endpoint], "--head-timeout", "60s")
    assert talk(agent, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300, shut=False).startswith(b"HTTP/1.1 400 ")


CHUNKS = [b"3 \r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"\r\n\r\n", b"3\nabc\r\n0\r\n\r\n",
          b"3\r\nabcd\r\n0\r\n\r\n", b"f" * 17 + b"\r\n", b"0" * 2000 + b"\r\n\r\n", b"0\r\nA: b\r\n c\r\n\r\n", b"0\r\nA: b\n\r\n", b"0\r\nA\r\n\r\n",
          b"0\r\nA : b\r\n\r\n", b"0\r\nA: b\r\nx-prefiller-host-port: b\r\n\r\n", b"0\r\nContent_Length: 3\r\n\r\n",
          b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n", b"1;" + b"a" * 2000 + b"\r\na\r\n0\r\n\r\n"]


def test_bad_chunks_are_refused(run):
    pod = run(Pod, ok)
    agent = run(Agent, [pod.endpoint])
    for chunk in CHUNKS:
        data = talk(agent, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, shut=False)
        assert data.startswith(b"HTTP/1.1 400 "), (chunk, data)
    assert not pod.requests and agent.metric('llmd_rejected_total{rule="chunk"}') == len(CHUNKS)


@pytest.mark.parametrize("body", [b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])
def test_half_a_body_is_no_request(run, body):
    pod = run(Pod, ok)
    agent = run(Agent, [pod.endpoint])
    assert b"200 OK" not in talk(agent, b"POST / HTTP/1.1\r\nHost: a\r\n" + body)
    assert not pod.requests
    agent.idle()


@pytest.mark.parametrize("sent", [65536, 70000, 200000])
def test_a_client_that_stops_in_a_large_body_times_out(run, sent):
    """Where the buffer ends, too: what comes next is waited for, not for ever."""
    agent = run(Agent, [run(Pod, ok).endpoint], "--request-buffer", "64K", "--body-timeout", "300ms")
    data = talk(agent, b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * sent, shut=False)
    assert data.startswith(b"HTTP/1.1 408 ")
    agent.idle()


class Deaf(Pod):
    """Takes connections, and no bytes."""

    def __init__(self):
        self.connections = []
        super().__init__(self.connections.append)

    def serve(self, connection):
        self.behave(connection)


def send_what_goes(connection, data):
    with contextlib.suppress(OSError):
        connection.sendall(data)


@pytest.mark.parametrize("buffer", ["64K", "16M"])
def test_a_pod_that_takes_no_bytes_has_failed(run, buffer):
    """Not the client: it would go on sending, or has sent all."""
    pod = Deaf()
    agent = run(Agent, [pod.endpoint], "--request-buffer", buffer, "--body-timeout", "500ms", "--retries", "0")
    with agent.connect() as c:
        threading.Thread(target=send_what_goes, args=(c, post("x" * 12000000)), daemon=True).start()
        assert c.recv(100).startswith(b"HTTP/1.1 504 ")
    agent.idle()
    pod.end()


class Silent(Pod):
    """Takes a whole request, then says nothing; notes when its connection ends."""

    def __init__(self, seconds):
        self.gone = threading.Event()
        super().__init__(lambda c, r: self.compute(c, seconds))

    def compute(self, connection, seconds):
        connection.settimeout(seconds)
        try:
            if connection.recv(1) == b"":
                self.gone.set()
        except socket.timeout:
            connection.sendall(answer(b"late"))
        except OSError:
            self.gone.set()
        return "close"


@pytest.mark.parametrize("how", ["reset", "close"])
def test_client_that_leaves_before_the_answer_is_noticed(run, how):
    pod = Silent(60)
    agent = run(Agent, [pod.endpoint])
    c = agent.connect()
    c.sendall(post(CHAT))
    wait_for(lambda: pod.requests, "the request")
    if how == "reset":
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.close()
    assert pod.gone.wait(10)
    agent.idle()
    assert agent.metric('llmd_cut_total{side="client"}') == 1
    pod.end()


def test_client_that_never_takes_its_answer_is_let_go(run):
    """It acknowledges, so its kernel would keep it, and its place at the pod, for ever."""
    agent = run(Agent, [run(Pod, lambda c, r: c.sendall(answer(b"x" * 50000000))).endpoint], "--idle-timeout", "1s")
    with agent.connect() as c:
        c.sendall(post(CHAT))
        wait_for(lambda: agent.metric('llmd_cut_total{side="client"}') == 1, "the end of the client")
    agent.idle()


def test_client_that_half_closed_gets_a_late_answer(run):
    pod = Silent(4)
    agent = run(Agent, [pod.endpoint])
    data = talk(agent, post(CHAT))
    assert data.count(b"HTTP/1.1 100 ") == 1 and data.endswith(b"late") and b"HTTP/1.1 200 OK" in data
    pod.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_bodies_where_sockets_take_little(tmp_path):
    script = os.path.join(os.path.dirname(__file__), "small_buffers.py")
    inside = "ip link set lo up && sysctl -qw net.ipv4.tcp_wmem='4096 16384 65536' && exec \"$@\""
    done = subprocess.run(["unshare", "--net", "sh", "-c", inside, "sh", sys.executable, script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- pods ----

BAD_ANSWERS = {
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "big head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"Content-Length: 2\r\n\r\nok",
    "nothing": b"",
    "interim answers only": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3,
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_answers_that_are_refused(run, bad):
    def behave(c, r):
        c.sendall(BAD_ANSWERS[bad])
        return "close"

    agent = run(Agent, [run(Pod, behave).endpoint], "--retries", "0")
    data = talk(agent, GET, shut=False)
    last = data[data.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 502 ") and json.loads(last.split(b"\r\n\r\n", 1)[1])["error"]["code"] == 502
    agent.idle()


GOOD_ANSWERS = {
    "no reason": (CLOSE, b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "1.0 until close": (GET, b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    "1.1 until close": (GET, b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
    "surplus is cut off": (CLOSE, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", b"ok"),
    "body to HEAD is cut off": (b"HEAD" + CLOSE[3:], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b""),
    "HEAD with a coding": (b"HEAD" + CLOSE[3:], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    "204": (CLOSE, b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304 with a length": (CLOSE, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
}


@pytest.mark.parametrize("good", GOOD_ANSWERS)
def test_answers_that_are_taken(run, good):
    request, raw, body = GOOD_ANSWERS[good]

    def behave(c, r):
        c.sendall(raw)
        return "close"

    agent = run(Agent, [run(Pod, behave).endpoint])
    data = talk(agent, request, shut=False)
    assert data.startswith(b"HTTP/1.1 " + raw[9:12]) and data.split(b"\r\n\r\n", 1)[1] == body
    agent.idle()


@pytest.mark.parametrize("request_line", [GET, b"GET / HTTP/1.0\r\n\r\n"])
@pytest.mark.parametrize("rest", [b"zz\r\n", b""])
def test_a_broken_stream_is_no_whole_one(run, request_line, rest):
    def behave(c, r):
        c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        time.sleep(0.2)
        c.sendall(rest)
        return "close"

    agent = run(Agent, [run(Pod, behave).endpoint])
    data = talk(agent, request_line, shut=False)
    assert b"ok" in data and data.endswith(b"<reset>")
    assert agent.metric('llmd_cut_total{side="pod"}') == 1
    agent.idle()


@pytest.mark.parametrize("lingers", [True, False])
def test_a_pod_may_answer_before_the_upload_is_whole(run, lingers):
    class Hasty(Pod):
        def serve(self, connection):
            connection.recv(100000)
            connection.sendall(answer(b"no", b"413 Content Too Large"))
            time.sleep(0.3 if lingers else 0)
            connection.close()

    pod = Hasty(None)
    agent = run(Agent, [pod.endpoint])
    head = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 33000000\r\n\r\n"
    with agent.connect() as c:
        c.sendall(head + b"x" * 3000000)
        data = recv_all(c)
    assert data.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in data and data.split(b"\r\n\r\n", 1)[1].startswith(b"no")
    agent.idle()
    pod.end()


def test_interim_answers_are_as_strict_as_the_last_one(run):
    early = b"HTTP/1.0 103 Early\r\nConnection: X-Hop, close\r\nX-Hop: a\r\nContent-Length: 3\r\nLink: x\r\n\r\n"
    agent = run(Agent, [run(Pod, lambda c, r: c.sendall(early + answer(b"ok"))).endpoint])
    assert talk(agent, CLOSE, shut=False).startswith(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_pod_that_fails_all_the_time_does_not_fill_the_log(run):
    agent = run(Agent, [run(Pod, lambda c, r: "close").endpoint], "--retries", "0")
    for _ in range(200):
        with agent.connect() as c:
            c.sendall(CLOSE)
            assert recv_all(c).startswith(b"HTTP/1.1 502 ")
    text = open(agent.log).read()
    assert 1 <= text.count('"pod failed"') < 100 and agent.metric('llmd_upstream_events_total{event="failed"}') >= 200


class Recorder(Pod):
    """Answers the first bytes of each connection with its number, and notes what it receives."""

    def __init__(self, surplus=b""):
        self.received, self.surplus = [], surplus
        super().__init__(None)

    def serve(self, connection):
        try:
            data = connection.recv(1 << 20)
            if not data:
                return  # only a check
            i = len(self.received)
            self.received.append(data)
            connection.sendall(answer(b"ok %d" % i) + self.surplus)
            while data := connection.recv(1 << 20):
                self.received[i] += data
        except OSError:
            pass
        finally:
            connection.close()


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"x"])
def test_a_pod_that_said_too_much_is_not_asked_on_that_connection(run, surplus):
    """What it says next could be taken for the answer to somebody else's request."""
    pod = Recorder(surplus)
    agent = run(Agent, [pod.endpoint])
    for i in range(3):
        assert talk(agent, CLOSE, shut=False).endswith(b"ok %d" % i)
    assert [data.count(b"GET /") for data in pod.received] == [1, 1, 1]
    pod.end()


def test_a_pod_connection_with_half_a_request_is_not_used_again(run):
    """The pod has answered early, and would take the next request for the rest of the body."""
    pod = Recorder()
    agent = run(Agent, [pod.endpoint], "--request-buffer", "64K")
    with agent.connect() as c:
        c.sendall(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 33000000\r\n\r\n" + b"x" * 70000)
        assert recv_all(c).endswith(b"ok 0")
        assert talk(agent, CLOSE, shut=False).endswith(b"ok 1")
    assert b"GET /" not in pod.received[0] and pod.received[1].startswith(b"GET /")
    agent.idle()
    pod.end()


def test_refused_head_requests_get_no_body(run):
    agent = run(Agent, ["127.0.0.1:1"])
    wait_for(lambda: agent.get("/readyz")[0] == 503, "not ready")
    head, _, body = talk(agent, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", shut=False).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"Content-Length: " in head and body == b""
