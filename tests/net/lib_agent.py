# SPDX-License-Identifier: Apache-2.0
"""The agent in the node's namespace, netpod in the pods', netclient in the client's."""
import http.client
import json
import os
import signal
import socket
import subprocess

from lib_net import NODE, pod_address, wait_for

BUILD = os.environ.get("LLMD_BUILD", "build")
NET_BUILD = "build/net"
PORT, ADMIN, POD_PORT = 8080, 9470, 9000
POD_FAULTS = ("wrong", "cut", "reset", "timeout", "refused", "unreached", "status")


class Process:
    """A program in a namespace whose output goes to a file."""

    def __init__(self, namespace, log, *args, **options):
        self.log = str(log)
        self.out = open(self.log, "ab")
        self.process = namespace.popen(*args, stdout=self.out, stderr=subprocess.STDOUT, **options)
        self.pid = self.process.pid

    def alive(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9, and the process is gone when this returns."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def end(self, seconds=30):
        if self.alive():
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self.out.close()
        return self.process.returncode


class Agent(Process):
    def __init__(self, namespace, log, options, admin=ADMIN, prefix=()):
        self.namespace, self.admin, self.options = namespace, admin, options
        quiet = ("--health-interval", "0", "--scrape-interval", "0")  # pods count what they are asked; netpod knows no paths
        super().__init__(namespace, log, *prefix, f"{BUILD}/llmd-agent", "--admin", f"127.0.0.1:{admin}", *quiet, *options)

    def wait_started(self):
        wait_for(lambda: not self.alive() or self.get("/healthz")[0] == 200, "the admin port", 60)
        assert self.alive(), self.text()[-2000:]

    def get(self, path, method="GET"):
        with self.namespace.enter():
            connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
            connection.connect()
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def json(self, path):
        return json.loads(self.get(path)[1])

    def metric(self, name):
        """The sum of all samples whose name and labels begin like that."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics")[1].splitlines() if line.startswith(name))

    def ready(self, n):
        wait_for(lambda: sum(e["state"] == "ready" for e in self.json("/v1/endpoints")) == n, f"{n} ready endpoints")

    def idle(self):
        wait_for(lambda: all(e["inflight_requests"] == 0 and e["inflight_tokens"] == 0 for e in self.json("/v1/endpoints")), "no request in flight", 40)

    def end(self, seconds=30):
        code = super().end(seconds)
        text = self.text()
        assert "Sanitizer" not in text and "runtime error" not in text, text[-4000:]
        return code


class NetPod(Process):
    def __init__(self, namespace, log, port=POD_PORT, backlog=4096):
        self.namespace, self.port = namespace, port
        super().__init__(namespace, log, f"{NET_BUILD}/netpod", f"[::]:{port}", str(backlog))
        wait_for(lambda: "listening" in self.text(), "netpod")

    def stats(self):
        with self.namespace.enter():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            connection.connect()
        connection.request("GET", "/stats")
        return json.loads(connection.getresponse().read())


class NetClient:
    """netclient that runs; result() waits for its end."""

    def __init__(self, namespace, options, host=NODE, port=PORT):
        self.options = options
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.process = namespace.popen(f"{NET_BUILD}/netclient", target, *(f"{k}={int(v)}" for k, v in options.items()), stdout=subprocess.PIPE, text=True)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_heads(self):
        """Returns when the answers of all requests have begun."""
        line = self.process.stdout.readline()
        assert line.startswith("heads"), line

    def result(self):
        out, _ = self.process.communicate(timeout=240)
        return json.loads(out.splitlines()[-1])

    def all_ok(self):
        """All requests must have come to a good end."""
        result = self.result()
        assert not any(result[k] for k in POD_FAULTS), result
        assert result["ok"] == result["started"] and ("seconds" in self.options or result["ok"] == self.options["count"]), result
        return result


def endpoints(n, address=pod_address, port=POD_PORT):
    def text(a):
        return f"[{a}]:{port}" if ":" in a else f"{a}:{port}"
    return [x for i in range(n) for x in ("--endpoint", text(address(i)))]


def reset(connection):
    """Closes with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def forget(connection):
    """Closes without a packet, as when the host loses its state."""
    TCP_REPAIR = 19
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    connection.close()
