# SPDX-License-Identifier: Apache-2.0
"""A cluster as the tests see it: kubectl, the pods of each node, requests that come from anywhere."""
import http.client
import json
import os
import re
import subprocess
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMESPACE, OWN = "llmd", "llmd-e2e"
PORT, POD_PORT = 8080, 8000


def run(*command, check=True, input=None, timeout=300):
    done = subprocess.run(command, capture_output=True, text=True, input=input, timeout=timeout)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def kubectl(*words, namespace=NAMESPACE, **options):
    return run("kubectl", *(["--namespace", namespace] if namespace else []), *words, **options)


def objects(*words, namespace=NAMESPACE):
    return json.loads(kubectl("get", "-o", "json", *words, namespace=namespace))["items"]


def wait_for(condition, what, seconds=120):
    end, error = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
        except (OSError, AssertionError, KeyError, ValueError) as e:
            error = e
        time.sleep(0.3)
    raise AssertionError(f"waited in vain for {what}" + (f": {error}" if error else ""))


def address_of(pod):
    return f"{pod['status']['podIP']}:{POD_PORT}"


def is_ready(pod):
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


class Cluster:
    def __init__(self):
        self.nodes = {}
        for node in objects("nodes"):
            if not node["spec"].get("taints"):
                self.nodes[node["metadata"]["name"]] = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")

    def pods(self, app):
        return [p for p in objects("pods", "-l", f"app.kubernetes.io/name={app}") if is_ready(p)]

    def agent(self, node):
        return wait_for(lambda: next((p for p in self.pods("llmd-agent") if p["spec"]["nodeName"] == node), None), f"an agent on {node}")

    def decode_pods(self):
        return {address_of(p): p for p in self.pods("vllm-sim")}

    def own_pod(self, app, node):
        pods = objects("pods", "-l", f"app={app}", namespace=OWN)
        return next(p["metadata"]["name"] for p in pods if p["spec"]["nodeName"] == node and is_ready(p))

    def maps(self, node, *words):
        """llmd-maps in the agent's container, as an operator would call it."""
        out = kubectl("exec", self.agent(node)["metadata"]["name"], "-c", "agent", "--", "llmd-maps", "-j", *words)
        return json.loads(out)

    def on_node(self, node, *command, check=True):
        return kubectl("exec", self.own_pod("node", node), "--", *command, namespace=OWN, check=check)

    def service(self):
        service = json.loads(kubectl("get", "service", "llmd", "-o", "json"))["spec"]
        return service["clusterIP"], service["ports"][0]["nodePort"]

    def answered(self):
        """How many answers each decode pod has given, by its own count."""
        return {address: self.answers_of(pod) for address, pod in self.decode_pods().items()}

    def answers_of(self, pod):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:{POD_PORT}/proxy/metrics"
        text = run("kubectl", "get", "--raw", path)
        return sum(float(value) for value in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M))


def body_of(tokens, text="hello", stream=True):
    return json.dumps({"model": "sim", "stream": stream, "max_tokens": tokens, "messages": [{"role": "user", "content": text}]})


class Stream(threading.Thread):
    """A stream to a test from outside of the cluster; read to its end in a thread."""

    def __init__(self, address, port, session, tokens=10):
        super().__init__(daemon=True)
        self.address, self.port, self.session, self.want = address, port, session, tokens
        self.text, self.error = "", None
        self.begun = threading.Event()
        self.start()

    def run(self):
        try:
            connection = http.client.HTTPConnection(self.address, self.port, timeout=180)
            connection.request("POST", "/v1/chat/completions", body_of(self.want),
                               {"X-Session-ID": self.session, "x-request-id": f"id-{self.session}", "Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while piece := answer.read1(65536):
                self.text += piece.decode()
                self.begun.set()
        except Exception as error:  # whatever it is, the test tells
            self.error = error
        self.begun.set()

    def tokens(self):
        return self.text.count('"content":"tok')

    def whole(self):
        return not self.error and self.tokens() == self.want and self.text.count("data: [DONE]") == 1


class PodStream(Stream):
    """The same from a pod of the tests on a node."""

    def __init__(self, cluster, node, address, port, session, tokens=10):
        self.pod = cluster.own_pod("client", node)
        super().__init__(address, port, session, tokens)

    def run(self):
        command = ["kubectl", "--namespace", OWN, "exec", self.pod, "--", "curl", "-sN", "-m", "180", "-H", f"X-Session-ID: {self.session}", "-H",
                   f"x-request-id: id-{self.session}", "-d", body_of(self.want), f"http://{self.address}:{self.port}/v1/chat/completions"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
            for line in curl.stdout:
                self.text += line
                self.begun.set()
        self.error = curl.returncode or None
        self.begun.set()


PROBE = """while [ -e {file} ]; do
    curl -s -o {file}.out -m 20 -w '%{{http_code}} %{{time_connect}} %{{time_total}}\\n' -H 'Connection: close' -d '{body}' {url} || true
    sleep 0.05
done"""


class Probe:
    """New connections one after the other from a pod of the tests on a node, each with a short request, until end()."""

    def __init__(self, cluster, node, address, port):
        self.where, self.pod, self.file = f"{node} to {address}:{port}", cluster.own_pod("client", node), f"/tmp/probe-{address}"
        script = f"touch {self.file}; " + PROBE.format(file=self.file, body=body_of(1, stream=False), url=f"http://{address}:{port}/v1/chat/completions")
        self.process = subprocess.Popen(["kubectl", "--namespace", OWN, "exec", self.pod, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)

    def end(self):
        """Return: (status or 0, seconds to connect, seconds in all) of each."""
        kubectl("exec", self.pod, "--", "rm", self.file, namespace=OWN)
        lines = self.process.communicate(timeout=60)[0].split("\n")
        return [(int(code), float(connect), float(total)) for code, connect, total in (line.split() for line in lines if line)]


def from_outside(cluster, node, address, port, session):
    stream = Stream(address, port, session)
    stream.join(180)
    return stream.text if not stream.error else f"{stream.error}"


def from_pod(app):
    def request(cluster, node, address, port, session):
        return kubectl("exec", cluster.own_pod(app, node), "--", "curl", "-sN", "-m", "60", "-H", f"X-Session-ID: {session}", "-H",
                       "Content-Type: application/json", "-d", body_of(10), f"http://{address}:{port}/v1/chat/completions", namespace=OWN,
                       check=False)
    return request
