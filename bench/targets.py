# SPDX-License-Identifier: Apache-2.0
"""What is compared: how each is started, and why one is left out. One thread or worker each, no logs."""
import os
import shutil
import signal
import subprocess
import time

from machine import tree
from net import LISTEN_PORT

HERE = os.path.dirname(os.path.abspath(__file__))
AGENT = "build/llmd-agent"
BARE = "build/bench/bare"
VENV = "build/bench/venv/bin"
ADMIN = "127.0.0.1:9470"


class Target:
    """@command: arguments for a node's address, the pod's address and a folder for files; None: no proxy at all.
    @missing: why it cannot run here, or None. @cleanup: a command after its end."""

    def __init__(self, command=None, missing=lambda: None, env=(), cleanup=None):
        self.command, self.missing, self.env, self.cleanup = command, missing, dict(env), cleanup


def _has_program(program):
    return lambda: None if shutil.which(program) else f"{program} is not installed"


def _agent_knows(option):
    def missing():
        text = subprocess.run([AGENT, "--help"], capture_output=True, text=True, check=False).stdout
        return None if f"--{option}" in text else f"{AGENT} has no --{option}"
    return missing


def _pins():
    return f"/sys/fs/bpf/llmd-bench-{os.getpid()}"


def _agent(*options):
    def command(node, pod, _work):
        return [AGENT, "--listen", f"{node}:{LISTEN_PORT}", "--endpoint", pod, "--admin", ADMIN, "--log-level", "warn", *options]
    return command


def _relay(node, pod, work):
    options = () if _agent_knows("datapath")() else ("--datapath", "relay")
    return _agent(*options)(node, pod, work)


def _kernel(*options):
    return Target(lambda *place: _agent("--datapath", "kernel", "--pin-dir", _pins(), *options)(*place), _agent_knows("datapath"),
                  cleanup=lambda: [AGENT, "--cleanup", "--pin-dir", _pins()])


def _with_file(name, *args):
    """A program whose configuration is a file here, with its place filled in."""
    def command(node, pod, work):
        text = open(os.path.join(HERE, name)).read()
        host, port = pod.split(":")
        for mark, value in (("@NODE@", node), ("@LISTEN@", str(LISTEN_PORT)), ("@POD@", pod), ("@POD_HOST@", host), ("@POD_PORT@", port),
                            ("@WORK@", work)):
            text = text.replace(mark, value)
        path = f"{work}/{name}"
        open(path, "w").write(text)
        return [arg.replace("@WORK@", work).replace("@FILE@", path) for arg in args]
    return command


def _vllm_router(policy):
    def command(node, pod, _work):
        return [f"{VENV}/vllm-router", "--host", node, "--port", str(LISTEN_PORT), "--worker-urls", f"http://{pod}", "--policy", policy,
                "--worker-startup-check-interval", "1", "--disable-retries", "--log-level", "error"]
    return Target(command, _has_program(f"{VENV}/vllm-router"), env={"TOKIO_WORKER_THREADS": "1"})


def _bare(node, pod, _work):
    return [BARE, node, str(LISTEN_PORT), *pod.split(":")]


TARGETS = {
    "direct": Target(),
    "bare": Target(_bare, _has_program(BARE)),
    "kernel": _kernel(),
    "relay": Target(_relay),
    "haproxy": Target(_with_file("haproxy.cfg", "haproxy", "-db", "-f", "@FILE@"), _has_program("haproxy")),
    "nginx": Target(_with_file("nginx.conf", "nginx", "-p", "@WORK@", "-c", "@FILE@", "-g", "daemon off;"), _has_program("nginx")),
    "envoy": Target(_with_file("envoy.yaml", f"{VENV}/envoy", "-c", "@FILE@", "--concurrency", "1", "--disable-hot-restart", "-l", "off"),
                    _has_program(f"{VENV}/envoy")),
    "vllm-router-hash": _vllm_router("consistent_hash"),
    "vllm-router-cache": _vllm_router("cache_aware"),
}


class Running:
    """The targets' processes. All but the one that is measured are stopped (SIGSTOP), so that none works beside it."""

    def __init__(self, net, work, names):
        self.net, self.work, self.names = net, work, names
        self.process = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.process):
            self.stop(name)

    def start(self, name):
        target = TARGETS[name]
        if not target.command:
            return
        work = f"{self.work}/{name}"
        os.makedirs(work, exist_ok=True)
        args = target.command(self.net.node(name), self.net.pod(name), work)
        log = open(f"build/bench/{name}.log", "ab")
        self.process[name] = subprocess.Popen(self.net.inside(name, *args), stdout=log, stderr=log, env={**os.environ, **target.env})
        self._await(name, log.name)

    def _await(self, name, log):
        url = self.net.url(name) + "/v1/models"
        for _ in range(200):
            done = subprocess.run(self.net.inside("client", "curl", "-sf", "-m", "2", "-o", "/dev/null", url), check=False)
            if not done.returncode:
                return
            if self.process[name].poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"{name} does not serve: {open(log, errors='replace').read()[-2000:]}")

    def stop(self, name):
        process = self.process.pop(name, None)
        if not process:
            return
        pids = tree(process.pid)
        self._signal(pids, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            self._signal(pids, signal.SIGKILL)
            process.wait()
        if TARGETS[name].cleanup:
            subprocess.run(self.net.inside(name, *TARGETS[name].cleanup()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def restart(self, name):
        self.stop(name)
        self.start(name)

    def only(self, name):
        """Lets one run and halts the others."""
        for other in self.process:
            self._signal(self.pids(other), signal.SIGCONT if other == name else signal.SIGSTOP)

    def pids(self, name):
        return tree(self.process[name].pid) if name in self.process else set()

    @staticmethod
    def _signal(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
