# SPDX-License-Identifier: Apache-2.0
"""
Pods come, drain, die, return and are replaced at random while requests run; the API server misbehaves. After each step the
agent's table equals the truth, and no request fails. LLMD_CHURN_SECONDS: how long; LLMD_CHURN_SEED: to have a run again.
"""
import os
import random
import socket
import threading
import time

from conftest import BUILD, Agent, answer, read_message, wait_for
from k8s_api import Api, endpoint_of, pod_of, slice_of

SECONDS = float(os.environ.get("LLMD_CHURN_SECONDS", 6 if "san" in BUILD else 20))
ADDRESSES = [f"127.1.0.{i}" for i in range(1, 13)]
REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Session-ID: s%d\r\nContent-Length: %d\r\n\r\n%s"


class LivePod:
    """Answers in one piece; kill() resets all that is open."""

    def __init__(self, ip, port):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((ip, port))
        self.listener.listen(64)
        self.open, self.lock, self.dead = set(), threading.Lock(), False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.dead:
                    connection.close()
                    continue
                self.open.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            while read_message(connection) is not None:
                connection.sendall(answer(b"{}"))
        except OSError:
            pass
        with self.lock:
            self.open.discard(connection)
        connection.close()

    def kill(self):
        with self.lock:
            self.dead = True
            for connection in self.open:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.shutdown(socket.SHUT_RDWR)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Load(threading.Thread):
    """Requests of one session after another, each on its own connection."""

    def __init__(self, agent, seed):
        super().__init__(daemon=True)
        self.agent, self.random, self.stop, self.sent, self.failures = agent, random.Random(seed), False, 0, []

    def run(self):
        while not self.stop:
            body = b'{"prompt": "%s"}' % (b"x" * self.random.randrange(1, 3000))
            try:
                with self.agent.connect() as c:
                    c.sendall(REQUEST % (self.random.randrange(50), len(body), body))
                    got = c.recv(4096)
                if b"200 OK" not in got:
                    self.failures.append(got[:300])
            except OSError as error:
                self.failures.append(error)
            self.sent += 1
            time.sleep(0.005)


class Cluster:
    """The truth. An entry of pods: [uid, condition, process]."""

    def __init__(self, api, rng, port):
        self.api, self.random, self.port, self.pods, self.uids = api, rng, port, {}, 0

    def publish(self):
        slices = [[], [], []]
        for i, (ip, (uid, condition, _)) in enumerate(sorted(self.pods.items())):
            slices[i % 3].append(endpoint_of(ip, uid, condition != "unready", condition == "terminating"))
        for i, endpoints in enumerate(slices):
            self.api.put("endpointslices", slice_of(f"s{i}", endpoints, self.port))

    def ready(self):
        return [ip for ip, (_, condition, _) in self.pods.items() if condition == "ready"]

    def of(self, *conditions):
        return [ip for ip, (_, condition, _) in self.pods.items() if condition in conditions]

    def start(self, ip):
        self.uids += 1
        self.pods[ip] = [f"uid-{self.uids}", "ready", LivePod(ip, self.port)]

    def step(self, settled):
        """One random change. @settled() waits until the agent has seen it."""
        free, ready = [ip for ip in ADDRESSES if ip not in self.pods], self.ready()
        spare = ready if len(ready) > 2 else []
        moves = [("start", free), ("terminate", spare), ("vanish", self.of("terminating")), ("unready", spare), ("recover", self.of("unready")),
                 ("annotate", spare), ("unannotate", self.of("annotated")), ("replace", spare), ("die", spare)]
        move, candidates = self.random.choice([m for m in moves if m[1]])
        ip = self.random.choice(candidates)
        pod = self.pods.get(ip)
        if move == "start":
            self.start(ip)
        elif move in ("terminate", "unready"):
            pod[1] = {"terminate": "terminating", "unready": "unready"}[move]
        elif move == "recover":
            pod[1] = "ready"
        elif move in ("annotate", "unannotate"):
            pod[1] = "annotated" if move == "annotate" else "ready"
            self.api.put("pods", pod_of(pod[0], annotations={"llm-d.ai/drain": "true"} if move == "annotate" else {}))
        elif move == "vanish":
            pod[2].kill()
            del self.pods[ip]
        elif move == "die":  # without a word; then the API hears of it
            pod[2].kill()
            del self.pods[ip]
        else:  # drained, gone, and another pod has its address before anybody has looked
            pod[1] = "terminating"
            self.publish()
            settled()
            pod[2].kill()
            self.start(ip)
        self.publish()
        return f"{move} {ip}"


def trouble(agent, api, rng):
    what = rng.choice(["none"] * 12 + ["cut", "compact", "garbage", "split", "refuse"])
    if what == "cut":
        api.cut()
    elif what == "compact":
        api.cut()
        api.compact()
    elif what == "garbage":
        failures = agent.metric("llmd_discovery_failures_total")
        api.garbage = rng.choice([b"garbage %d" % rng.randrange(10**6), b'{"type": "ADDED" %d' % rng.randrange(10**6)])
        with api.lock:
            api.lock.notify_all()
        wait_for(lambda: agent.metric("llmd_discovery_failures_total") > failures, "the garbage to be noticed", 60)
        api.garbage = None
    elif what == "split":
        api.split = rng.choice([0, 1, 3, 100])
    elif what == "refuse":
        api.refuse = 503
        api.cut()
        time.sleep(0.05)
        api.refuse = None
    return what


def numbers(agent):
    return [line.rsplit(" ", 1) for line in agent.get("/metrics")[1].splitlines() if not line.startswith("#")]


def test_churn(run):
    seed = int(os.environ.get("LLMD_CHURN_SEED", random.randrange(2**31)))
    rng, api = random.Random(seed), Api()
    with socket.socket() as s:
        s.bind(("127.1.0.1", 0))
        cluster = Cluster(api, rng, s.getsockname()[1])
    for ip in ADDRESSES[:4]:
        cluster.start(ip)
    cluster.publish()
    agent = run(Agent, [], "--discover-k8s", "default/vllm", "--k8s-api", api.url, "--retries", "3")
    history, generations = [], {}

    def is_true():
        seen = {e["address"].split(":")[0]: e for e in agent.json("/v1/endpoints")}
        if set(seen) != set(cluster.pods):
            return False
        return all((seen[ip]["state"] == "draining") == (condition != "ready") for ip, (_, condition, _) in cluster.pods.items())

    def settled():
        wait_for(is_true, f"the truth after {history[-5:]} (seed {seed}): {cluster.pods}", 60)
        for e in agent.json("/v1/endpoints"):
            uid = cluster.pods[e["address"].split(":")[0]][0]
            assert generations.setdefault(uid, (e["index"], e["generation"])) == (e["index"], e["generation"]), (uid, history, seed)

    settled()
    agent.ready(4)
    loads = [Load(agent, seed + i) for i in range(3)]
    for load in loads:
        load.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        history.append((cluster.step(settled), trouble(agent, api, rng)))
        settled()
        assert not any(load.failures for load in loads), ([load.failures for load in loads], history[-5:], seed)
    for load in loads:
        load.stop = True
    for load in loads:
        load.join()
    assert not any(load.failures for load in loads), ([load.failures for load in loads], history[-5:], seed)
    assert len(history) > 3 and sum(load.sent for load in loads) > 100
    assert len(set(generations.values())) == len(generations)  # no two pods were taken for one
    agent.idle()
    assert all(float(value) >= 0 and float(value) < 2**60 for _, value in numbers(agent))
    print(f"{len(history)} steps, {sum(load.sent for load in loads)} requests, {len(generations)} pods, seed {seed}")
    for _, _, pod in cluster.pods.values():
        pod.kill()
    api.end()
