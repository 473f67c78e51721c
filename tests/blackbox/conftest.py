# SPDX-License-Identifier: Apache-2.0
"""Starts llmd-agent, simulated and scripted pods on free loopback ports; ends them by pid whatever happens."""
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

BUILD = os.environ.get("LLMD_BUILD", "build")
collect_ignore = ["test_docs.py"] if "san" in BUILD else []  # it asks nothing of the programs


def free_port():
    """Below those that the kernel gives to connections: nobody takes it before who it is for; other workers choose at random, too."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what() if callable(what) else what}")


class Process:
    def __init__(self, log, *args):
        self.log = log
        self.out = open(log, "wb")
        self.process = subprocess.Popen(args, stdout=self.out, stderr=self.out)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.out.close()
        text = open(self.log, errors="replace").read()
        assert "Sanitizer" not in text and "runtime error" not in text, text[-4000:]
        return self.process.returncode


class Agent(Process):
    before = []  # a command that becomes the agent

    def __init__(self, log, endpoints, *options):
        self.port, self.admin = free_port(), free_port()
        args = [*self.before, f"{BUILD}/llmd-agent", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}", "--drain-timeout", "5s",
                "--datapath", "relay", "--health-interval", "0", "--scrape-interval", "0"]  # scripted pods count what they are asked
        for endpoint in endpoints:
            args += ["--endpoint", endpoint]
        super().__init__(log, *args, *options)
        self.url = f"http://127.0.0.1:{self.port}"
        wait_for(lambda: self.get("/healthz")[0] == 200, "the loop, which begins after all ports listen")

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path):
        return json.loads(self.get(path)[1])

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics")[1].splitlines() if line.startswith(name))

    def ready(self, n):
        wait_for(lambda: sum(e["state"] == "ready" for e in self.json("/v1/endpoints")) == n, f"{n} ready endpoints")

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def idle(self):
        wait_for(lambda: all(e["inflight_requests"] == 0 and e["inflight_tokens"] == 0 for e in self.json("/v1/endpoints")), "no request in flight")


class Server:
    """Calls serve(connection) in a thread of its own for each connection."""

    def __init__(self, endpoint="127.0.0.1:0"):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((endpoint.split(":")[0], int(endpoint.split(":")[1])))
        self.socket.listen(64)
        self.endpoint = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def end(self):
        self.socket.close()


class Pod(Server):
    """A pod whose behaviour is a function of the connection; it gets the socket and the request's bytes."""

    def __init__(self, behave, endpoint="127.0.0.1:0"):
        self.behave, self.requests = behave, []
        super().__init__(endpoint)

    def serve(self, connection):
        try:
            while True:
                request = read_message(connection)
                if request is None:
                    break
                self.requests.append(request)
                if self.behave(connection, request) == "close":
                    break
        except OSError:
            pass
        connection.close()


def read_message(connection):
    """A request with a sized or chunked body, raw."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length:" in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(rest) < length:
            rest += connection.recv(1 << 20)
    elif b"transfer-encoding: chunked" in lower:
        while b"0\r\n" not in rest or not rest.endswith(b"\r\n\r\n"):  # with or without a trailer
            rest += connection.recv(1 << 20)
    return head + b"\r\n\r\n" + rest


def answer(body, status=b"200 OK", extra=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


@pytest.fixture
def run(tmp_path):
    """run(Class, ...) starts something that is ended after the test; the agent must end well."""
    things = []

    def start(what, *args):
        thing = what(*args) if what is Pod else what(str(tmp_path / f"{len(things)}.log"), *args)
        things.append(thing)
        return thing

    yield start
    for thing in reversed(things):
        code = thing.end()
        if isinstance(thing, Agent):
            assert code == 0


@pytest.fixture
def sim(run):
    def start(n, *options):
        endpoints = [f"127.0.0.1:{free_port()}" for _ in range(n)]
        args = [f"{BUILD}/llmd-sim"]
        for endpoint in endpoints:
            args += ["--listen", endpoint]
        run(Process, *args, *options)
        for endpoint in endpoints:
            host, port = endpoint.split(":")
            wait_for(lambda: socket.create_connection((host, int(port)), 1).close() is None, "a simulated pod")
        return endpoints

    return start
