# SPDX-License-Identifier: Apache-2.0
"""What is deployed: manifests, image, Debian package, llmd-doctor, the keeper."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import BUILD, Agent, Pod, Process, answer, free_port, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(f"{ROOT}/tests")
from lib_manifests import OVERLAYS, deploy  # noqa: E402,F401 (a fixture)

CACHE = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
once = pytest.mark.skipif("san" in BUILD, reason="once is enough")


def kustomize():
    """kustomize, or the one that is in kubectl."""
    path = os.environ["PATH"] + f":{CACHE}/k8s-from-source/v1.34.4/bin"
    if shutil.which("kustomize"):
        return [shutil.which("kustomize"), "build"]
    kubectl = shutil.which("kubectl", path=path)
    return [kubectl, "kustomize"] if kubectl else None


def build(directory):
    return subprocess.run([*kustomize(), directory], capture_output=True, text=True)


@once
@pytest.mark.skipif(not kustomize(), reason="neither kustomize nor kubectl is installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_builds(deploy, overlay):
    done = build(f"{deploy}/daemonset/overlays/{overlay}")
    assert done.returncode == 0, done.stderr
    kinds = re.findall(r"^kind: (\w+)$", done.stdout, re.M)
    assert kinds.count("DaemonSet") == 2 and "ClusterRole" in kinds
    assert "image: llmd\n" not in done.stdout, "an image without its registry and tag"
    privileged = "privileged: true" in done.stdout
    assert privileged == (overlay == "privileged")


@once
@pytest.mark.skipif(not kustomize(), reason="neither kustomize nor kubectl is installed")
def test_base_grants_what_is_documented_and_no_more(deploy):
    done = build(f"{deploy}/daemonset")
    assert done.returncode == 0, done.stderr
    role = next(part for part in done.stdout.split("---\n") if "kind: ClusterRole\n" in part)
    assert re.findall(r"^  - (\w+)$", role, re.M) == ["endpointslices", "get", "list", "watch", "pods", "get", "list", "watch"]
    for workload in (part for part in done.stdout.split("---\n") if "kind: DaemonSet\n" in part):
        assert re.search(r"capabilities:\n\s+add:\n\s+- BPF\n\s+- NET_ADMIN\n\s+- PERFMON\n\s+drop:\n\s+- ALL\n", workload)
        assert "hostPort" not in workload, "two agents of a rollout could not be on one node"
        assert "readOnlyRootFilesystem: true" in workload and "type: RuntimeDefault" in workload and "allowPrivilegeEscalation: false" in workload


@once
@pytest.mark.skipif(not kustomize(), reason="neither kustomize nor kubectl is installed")
def test_options_of_the_manifests_are_the_agents(deploy):
    """Those that this agent has, with values that it takes."""
    known = set(re.findall(r"^  --([a-z0-9-]+)", subprocess.run([f"{BUILD}/llmd-agent", "--help"], capture_output=True, text=True).stdout, re.M))
    built = build(f"{deploy}/daemonset").stdout
    options = dict(re.findall(r'^  (LLMD_\w+): "?([^"\n]+)"?$', built, re.M))
    assert len(options) > 4
    assert {name[5:].lower().replace("_", "-") for name in options} <= known
    done = subprocess.run([f"{BUILD}/llmd-agent", "--check-config", "--standby"], env={**os.environ, **options}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@once
@pytest.mark.skipif(not (shutil.which("umoci") and shutil.which("skopeo")), reason="umoci and skopeo are not installed")
def test_image_is_small_and_the_same_twice(tmp_path):
    sizes = []
    for _ in range(2):
        done = subprocess.run([f"{ROOT}/scripts/image"], env={**os.environ, "ENGINE": "none", "IMAGE": "localhost/llmd:test", "OUT": str(tmp_path / "image")}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sizes.append(re.search(r"(\d+) bytes, sha256 (\w+)", done.stdout).groups())
    assert sizes[0] == sizes[1] and int(sizes[0][0]) < 60_000_000
    root = str(tmp_path / "image/root")
    assert not os.path.exists(f"{root}/bin/sh") and not os.path.exists(f"{root}/usr/bin/sh")
    # In the image's own root, with nothing of this machine's.
    for program in ("llmd-agent", "llmd-maps", "llmd-sim", "llmd-load", "llmd-doctor", "llmd-events") if os.geteuid() == 0 else ():
        done = subprocess.run([f"/usr/bin/{program}", "--version"], preexec_fn=lambda: os.chroot(root), cwd="/", capture_output=True, text=True)
        assert done.stdout.startswith(program), done.stderr


@once
@pytest.mark.skipif(not shutil.which("dpkg-shlibdeps"), reason="this is no Debian")
def test_debian_package(tmp_path):
    done = subprocess.run([f"{ROOT}/scripts/deb"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package = f"{ROOT}/{done.stdout.split(':')[0]}"
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    control = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^Depends: .*libbpf1.*libevent-2.1-7", control, re.M)
    for path in ("usr/bin/llmd-agent", "usr/bin/llmd-doctor", "usr/lib/systemd/system/llmd-agent.service", "etc/default/llmd-agent",
                 "usr/share/man/man8/llmd-doctor.8.gz", "usr/share/bash-completion/completions/llmd-maps"):
        assert os.path.exists(tmp_path / path), path
    unit = (tmp_path / "usr/lib/systemd/system/llmd-agent.service").read_text()
    assert "ExecStart=/usr/bin/llmd-agent" in unit


def doctor(*options, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LLMD_", "KUBERNETES_"))}
    return subprocess.run([f"{BUILD}/llmd-doctor", *options], capture_output=True, text=True, env={**plain, **environment}, timeout=60)


def test_doctor_finds_what_is_wrong(run, sim, tmp_path):
    agent = run(Agent, sim(1))
    agent.ready(1)
    nobody, pod = f"127.0.0.1:{free_port()}", agent.json("/v1/endpoints")[0]["address"]
    done = doctor("-j", "--pin-dir", str(tmp_path), "--endpoint", pod, "--endpoint", nobody, "--admin", f"127.0.0.1:{agent.admin}", "--redis",
                  f"redis://user:p@{nobody}/0", "--port-range", "20000-33000")
    assert done.returncode == 1, done.stderr
    found = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
        assert finding["level"] == "ok" or (finding["why"] and finding["cure"]), finding
    assert found["bpffs"][0]["level"] == "bad"
    assert found["pod"][0]["level"] == "warn" and nobody in found["pod"][0]["found"]
    assert found["pods"][0]["found"] == "1 of 2 can be reached"
    assert found["agent"][0]["level"] == "ok"
    assert found["redis"][0]["level"] == "warn" and found["redis"][0]["found"] == f"{nobody}: Connection refused"
    assert found["ports"][0]["level"] in ("bad", "warn") and found["ports"][1]["level"] == "ok"
    assert found["api server"][0]["found"] == "not in a Kubernetes pod"


@pytest.mark.parametrize("reply, level", [(b"+PONG\r\n", "ok"), (b"-NOAUTH Authentication required.\r\n", "ok"), (b"-LOADING\r\n", "warn"), (b"", "warn")])
def test_doctor_asks_redis(tmp_path, reply, level):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            connection, _ = server.accept()
            with connection:
                if connection.recv(100) == b"PING\r\n":
                    connection.sendall(reply)
        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        findings = json.loads(doctor("-j", "--pin-dir", str(tmp_path), "--redis", f"redis://127.0.0.1:{port}").stdout)
    redis = next(finding for finding in findings if finding["check"] == "redis")
    assert redis["level"] == level, redis


def test_doctor_reads_the_agents_environment(tmp_path):
    nobody = f"127.0.0.1:{free_port()}"
    done = doctor("--timeout", "500ms", LLMD_PIN_DIR=str(tmp_path), LLMD_ENDPOINT=f"{nobody},model=m 127.0.0.1:1", KUBERNETES_SERVICE_HOST="127.0.0.1",
                  KUBERNETES_SERVICE_PORT="1")
    assert done.returncode == 1
    assert "none of 2 can be reached" in done.stdout and "api server" in done.stdout and f"{tmp_path} is not on a BPF file system" in done.stdout
    assert re.search(r"^\d+ ok, \d+ notes, \d+ warnings, \d+ bad$", done.stdout, re.M)


@pytest.mark.parametrize("options", [("--cleanup-on-term", "500ms"), ("--datapath", "relay", "--drain-timeout", "0s")], ids=["keeper", "agent"])
def test_told_to_end_before_it_is_ready(tmp_path, options):
    """It is caught in its first line of log: nobody reads it."""
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(ours, b" " * 4096)
    os.set_blocking(ours, True)
    args = [f"{BUILD}/llmd-agent", "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{free_port()}", "--endpoint", "127.0.0.1:1", "--pin-dir", str(tmp_path / "none")]
    process = subprocess.Popen([*args, *options], stderr=ours)
    os.close(ours)
    wait_for(lambda: "pipe_write" in open(f"/proc/{process.pid}/wchan").read(), "a line of log that blocks")
    process.send_signal(signal.SIGTERM)
    text = os.fdopen(theirs, "rb").read().decode()
    assert process.wait(30) == 0, text.strip()
    assert ("keeper was told to end" if "keeper" in text else "draining") in text


def test_a_directory_that_is_no_pin_directory_stays(tmp_path):
    done = subprocess.run([f"{BUILD}/llmd-agent", "--cleanup", "--pin-dir", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no pin directory" in done.stderr and os.path.isdir(tmp_path), done.stderr


def test_keeper_waits_and_removes_what_nobody_uses(run, tmp_path):
    """Without a BPF file system: that it waits, looks and ends. What it removes from the kernel: tests/net, tests/e2e."""
    log = str(tmp_path / "keeper.log")
    keeper = Process(log, f"{BUILD}/llmd-agent", "--cleanup-on-term", "1s", "--pin-dir", str(tmp_path / "none"))
    wait_for(lambda: "keeper waits" in open(log).read(), "the keeper")
    assert keeper.process.poll() is None
    assert keeper.end() == 0 and "keeper was told to end" in open(log).read()


def test_standby_waits_and_follows(run, tmp_path):
    """Relaying: the successor serves as soon as the old agent drains, not when its last request has ended."""
    finish = threading.Event()

    def behave(connection, _):
        finish.wait(30)
        connection.sendall(answer(b"late"))

    pod = run(Pod, behave)
    first = run(Agent, [pod.endpoint], "--standby")
    arguments = ["--listen", f"127.0.0.1:{first.port}", "--admin", f"127.0.0.1:{first.admin}", "--datapath", "relay", "--endpoint", pod.endpoint, "--standby"]
    logs = [str(tmp_path / f"standby{i}.log") for i in (1, 2)]
    unneeded, second = (Process(log, f"{BUILD}/llmd-agent", *arguments) for log in logs)
    try:
        for log in logs:
            wait_for(lambda log=log: "standing by" in open(log).read(), "standing by")
        assert unneeded.end() == 0
        with first.connect() as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda: pod.requests, "the request at the pod")
            first.process.send_signal(signal.SIGTERM)
            wait_for(lambda: 'msg="started"' in open(logs[1]).read(), "the successor")
            assert first.process.poll() is None
            finish.set()
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        first.process.wait(20)
        assert "listening" in open(logs[1]).read() and "listening" not in open(logs[0]).read()
    finally:
        unneeded.end(), second.end()
