# SPDX-License-Identifier: Apache-2.0
"""What the programs say of themselves, what they refuse, and what is installed."""
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import urllib.request

import pytest
from conftest import BUILD, Agent, Pod, answer, wait_for

PROGRAMS = ("llmd-agent", "llmd-maps", "llmd-events", "llmd-sim", "llmd-load", "llmd-doctor")
ROOT = os.path.join(os.path.dirname(__file__), "../..")


def call(program, *args, env=None):
    """Options that the tests' own environment sets (LLMD_TRACE) do not count."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LLMD_")}
    return subprocess.run([f"{BUILD}/{program}", *args], capture_output=True, text=True, timeout=20, env={**plain, **(env or {})})


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_manual_agree(program):
    usage, manual = call(program, "--help").stdout, call(program, "--man").stdout
    in_help = re.findall(r"^  (?:-\w, )?--([a-z0-9-]+)", usage, re.M)
    in_manual = [name.replace("\\-", "-") for name in re.findall(r'^\.BI? "(?:\\-\w, )?\\-\\-([a-z0-9\\-]+)', manual, re.M)]
    assert in_help[:-1] == in_manual and len(in_manual) > 6
    assert call(program, "--version").stdout.startswith(f"{program} ")


SAID = [(program, option) for program in PROGRAMS for option in ("--help", "--version", "--man")]


@pytest.mark.parametrize("program, option", [*SAID, ("llmd-agent", "--metrics-doc"), ("llmd-doctor", "-j")])
def test_what_could_not_be_written_is_no_success(program, option):
    with open("/dev/full", "w") as full:
        done = subprocess.run([f"{BUILD}/{program}", option], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and "No space left on device" in done.stderr and "Sanitizer" not in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("program", PROGRAMS)
def test_manual_is_well_formed(program, tmp_path):
    page = tmp_path / "page.8"
    page.write_text(call(program, "--man").stdout)
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "error", str(page)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/') 2>/dev/null; printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(program, *words):
    script = os.path.join(ROOT, "tools", program.removeprefix("llmd-"), f"{program}.bash")
    return subprocess.run(["bash", "-c", COMPLETE, "bash", script, program, *words], capture_output=True, text=True, timeout=20).stdout.split()


@pytest.mark.parametrize("program", ["llmd-maps", "llmd-events"])
def test_completion_knows_every_option(program):
    usage = call(program, "--help").stdout
    assert sorted(complete(program, "--")) == sorted(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(re.findall(r"^  (?:-\w, )?--.*", usage, re.M))))


def test_completion_knows_every_noun_and_verb():
    verbs = {}
    for noun, verb in re.findall(r"^  ([a-z]+) ([a-z]+)\b .*  ", call("llmd-maps", "--help").stdout, re.M):
        verbs.setdefault(noun, []).append(verb)
    assert complete("llmd-maps", "") == list(verbs)
    assert {noun: complete("llmd-maps", noun, "") for noun in verbs} == verbs
    assert complete("llmd-maps", "-j", "flow", "l") == ["list"] and complete("llmd-maps", "flow", "get", "") == []


POD = ("--endpoint", "127.0.0.1:9")
REFUSED = [
    ("llmd-agent", (), "--endpoint", "at least one"),
    ("llmd-agent", (*POD, *POD), '"127.0.0.1:9"', "twice"),
    ("llmd-agent", (*POD, "--listen", "1.2.3.4"), '"1.2.3.4"', "address"),
    ("llmd-agent", (*POD, "--max-connections", "-1"), '"-1"', "from 16"),
    ("llmd-agent", (*POD, "--max-body", "1X"), '"1X"', "16M"),
    ("llmd-agent", (*POD, "--head-timeout", "0"), '"0"', "above 0"),
    ("llmd-agent", (*POD, "--session-ttl", "99999999999999h"), '"99999999999999h"', "duration"),
    ("llmd-agent", (*POD, "--request-buffer", "1K"), '"1K"', "16K to 1G"),
    ("llmd-agent", (*POD, "--weight", "cache=nan,load=1"), '"cache=nan,load=1"', "cache=W"),
    ("llmd-agent", (*POD, "--affinity-threshold", "2"), '"2"', "from 0 to 1"),
    ("llmd-agent", (*POD, "--session-header", "a b"), '"a b"', "field name"),
    ("llmd-agent", (*POD, "--prefix-blocks-max", "1024"), "--endpoint-blocks", "--prefix-blocks-max"),
    ("llmd-agent", (*POD, "--no-such-thing"), "--no-such-thing", "unrecognized"),
    ("llmd-agent", (*POD, "word"), '"word"', "--help"),
    ("llmd-agent", (*POD, "--session-secret-file", "/nonexistent", "--check-config"), "/nonexistent", "No such file"),
    ("llmd-agent", (*POD, "--redis", "http://x"), '"http://x"', "redis://"),
    ("llmd-agent", (*POD, "--redis", "redis://x"), "--redis", "--session-secret-file"),
    ("llmd-agent", (*POD, "--redis-cert-file", "x"), "--redis-key-file", "without the other"),
    ("llmd-events", (), "a word is missing", "tail, inject or snapshot"),
    ("llmd-events", ("tail", "x"), '"x"', "too many"),
    ("llmd-events", ("tail", "--from", "x"), '"x"', "an entry's id"),
    ("llmd-events", ("inject", "sing"), '"sing"', "must be bind, unbind"),
    ("llmd-events", ("inject", "bind", "hash=1", "pod=127.0.0.1:1"), '"1"', "16 hex digits"),
    ("llmd-events", ("inject", "bind", "pod=127.0.0.1:1"), "bind", "a field is missing"),
    ("llmd-events", ("inject", "bind", "session=x", "pod=127.0.0.1:1"), "session", "--session-secret-file"),
    ("llmd-events", ("inject", "stored", "pod=127.0.0.1:1", "hashes=x"), '"x"', "16 hex digits"),
    ("llmd-maps", ("flows",), '"flows"', "must be endpoint, session"),
    ("llmd-maps", ("session", "get", "a", "--interval", "1ms"), '"1ms"', "from 100ms"),
    ("llmd-sim", (), "--listen", "at least one"),
    ("llmd-sim", ("--listen", "x"), '"x"', "ADDR:PORT"),
    ("llmd-load", ("--target", "ftp://a"), '"ftp://a"', "http://"),
    ("llmd-load", ("--dry-run",), "--dry-run", "--trace"),
    ("llmd-load", ("--trace", "/nonexistent"), "/nonexistent", "No such file"),
]


def test_pipes_that_nobody_writes_are_not_waited_for_long(tmp_path):
    """Nor is what must be a file read from one."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "secret").write_text("0" * 32)
    redis = ("--redis", "rediss://127.0.0.1:1", "--session-secret-file", str(tmp_path / "secret"))
    cases = [
        (("--session-secret-file",), "timed out"), ((*redis, "--redis-password-file"), "timed out"), (("--endpoints-file",), "not a regular file"),
        ((*redis, "--redis-ca-file"), "must be a regular file"), ((*redis, "--redis-key-file", "/dev/null", "--redis-cert-file"), "must be a regular file"),
    ]
    running = [subprocess.Popen([f"{BUILD}/llmd-agent", *POD, *words, str(tmp_path / "fifo"), "--check-config"], stderr=subprocess.PIPE, text=True)
               for words, _ in cases]
    try:
        for process, (words, why) in zip(running, cases):
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 2 and why in said, (words, said)
    finally:
        [process.kill() for process in running]


@pytest.mark.parametrize("halves", [("00112233445566778899aabbccddeeff",), ("00112233445566778", "899aabbccddeeff")], ids=["at once", "in two"])
def test_a_secret_from_a_pipe(halves):
    script = "; ".join(f"sleep 0.2; printf {half}" for half in halves)
    command = f"exec {BUILD}/llmd-agent {' '.join(POD)} --check-config --session-secret-file <({script})"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_pipe_is_read_once(run, tmp_path):
    """SIGHUP does not ask it again: that would wait."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    threading.Thread(target=path.write_text, args=("0" * 32,), daemon=True).start()
    agent = run(Agent, ["127.0.0.1:9"], "--session-secret-file", str(path))
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "files read again" in open(agent.log).read(), "SIGHUP to be heard")
    assert agent.get("/healthz")[0] == 200


@pytest.mark.parametrize("program, args, what, allowed", REFUSED)
def test_refusals_name_option_value_and_what_is_allowed(program, args, what, allowed):
    done = call(program, *args)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert what in done.stderr and allowed in done.stderr


def test_environment_stands_for_options():
    good = {"LLMD_ENDPOINT": "127.0.0.1:1 127.0.0.1:2", "LLMD_POLICY": "session"}
    assert call("llmd-agent", "--check-config", env=good).returncode == 0
    bad = call("llmd-agent", "--check-config", env={**good, "LLMD_POLICY": "best"})
    assert bad.returncode == 2 and "--policy" in bad.stderr and '"best"' in bad.stderr
    assert call("llmd-agent", "--check-config", "--policy", "session", env={**good, "LLMD_POLICY": "best"}).returncode == 0


def test_logs_are_json(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(b"ok")))
    agent = run(Agent, [pod.endpoint], "--log-format", "json", "--log-level", "debug")
    body = json.dumps({"model": 'quo"te\n', "user": "\t", "messages": [{"role": "user", "content": "x"}]}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{agent.url}/v1/chat/completions", body), timeout=10).close()
    with agent.connect() as c:
        c.sendall(b"GET / HTTP/1.1\r\n\xff: a\r\n\r\n")
        c.recv(100)
    lines = [json.loads(line) for line in open(agent.log, encoding="utf-8")]
    request = [line for line in lines if line["msg"] == "request"]
    assert request[0]["status"] == 200 and request[0]["pod"] == pod.endpoint and request[0]["session"] == "body user"
    assert any(line["msg"] == "request refused" and line["rule"] == "field" for line in lines)


def test_access_log_is_a_sample(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(b"ok")))
    agent = run(Agent, [pod.endpoint], "--log-format", "json", "--access-log", "4")
    for i in range(10):
        urllib.request.urlopen(urllib.request.Request(f"{agent.url}/x", headers={"x-request-id": f"r{i}"}), timeout=10).close()
    wait_for(lambda: agent.metric("llmd_requests_total") == 10, "ten requests")
    logged = [line["id"] for line in map(json.loads, open(agent.log, encoding="utf-8")) if line["msg"] == "request"]
    assert logged == ["r0", "r4", "r8"]


def test_decisions_are_utf_8_whatever_the_model_is_called(run):
    pod = run(Pod, lambda c, r: c.sendall(answer(b"ok")))
    agent = run(Agent, [pod.endpoint])
    body = b'{"model":"\xff' + "\u00e4".encode() * 40 + b'","messages":[]}'
    urllib.request.urlopen(urllib.request.Request(f"{agent.url}/v1/chat/completions", body), timeout=10).close()
    assert agent.json("/v1/decisions?last=1")[0]["model"].startswith("??")


def read_until(terminal, text):
    shown = ""
    while text not in shown:
        shown += os.read(terminal, 65536).decode()
    return shown.replace("\r\n", "\n")


def demo_on_a_terminal(**environment):
    """What the demo shows, and what its printed lines answer while it waits."""
    terminal, other = pty.openpty()
    demo = subprocess.Popen([os.path.join(ROOT, "scripts/demo")], stdin=other, stdout=other, stderr=other,
                            env={**os.environ, "LIMIT": "60", **environment}, start_new_session=True)
    os.close(other)
    try:
        shown = read_until(terminal, "Enter ends the demo.")
        lines = re.findall(r"^  (.*(?:curl|llmd-maps) .*)$", shown, re.M)
        answers = [subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30, cwd=ROOT).stdout for line in lines]
        os.write(terminal, b"\n")
        assert demo.wait(20) == 0
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(20)
        os.close(terminal)
    return demo.pid, shown, answers


def check_demo(shown, answers, pods):
    chat, session, decisions, metrics, endpoints = answers[:5]
    table = dict(re.findall(r"^(hit rate|TTFT p50|TTFT p95|TTFT p99|hot spot|sticky|failed)  .*?([0-9.]+)  [a-z%]", shown, re.M))
    assert len(table) == 7 and float(table["failed"]) == 0
    assert "== round-robin" in shown and "== prefix-cache-aware" in shown and " done, " in shown
    assert json.loads(chat)["choices"] and json.loads(session)["uses"] == 1
    assert len(json.loads(decisions)) == 3 and "llmd_build_info" in metrics and len(json.loads(endpoints)) == pods


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
def test_demo_on_the_loopback():
    _, shown, answers = demo_on_a_terminal(DATAPATH="relay")
    assert "the agent relays" in shown and len(answers) == 5
    check_demo(shown, answers, 8)


def may_use_the_kernel():
    """Root that may mount and load programs; not so in most containers."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--net", "sh", "-c", "mount -t bpf bpf /mnt && bpftool prog"],
                                                capture_output=True).returncode == 0


@pytest.mark.skipif("san" in BUILD or not may_use_the_kernel(), reason="once is enough, and not without BPF")
def test_demo_in_the_kernel():
    pid, shown, answers = demo_on_a_terminal()
    check_demo(shown, answers, 9)
    assert "forwarded_down" in answers[5]
    stopped = re.findall(r"^  SIGSTOP.* agent stopped +kernel has sent on +(\d+) packets, client has +(\d+) chunks$", shown, re.M)
    packets, chunks = zip(*[(int(sent), int(had)) for sent, had in stopped])
    assert len(stopped) == 3 and packets[0] < packets[1] and chunks[0] < chunks[1]  # the last may be past the end on a slow machine
    assert "the client has 80 of 80 tokens and 1 end mark" in shown
    assert f"llmd-demo-{pid}-" not in " ".join(os.listdir("/run/netns")) and re.search(r"/tmp/llmd-demo\.\w+", shown)[0] not in open("/proc/mounts").read()


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
def test_what_is_installed(tmp_path):
    done = subprocess.run(["make", "-C", ROOT, "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/x"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = {os.path.relpath(os.path.join(folder, name), tmp_path) for folder, _, names in os.walk(tmp_path) for name in names}
    wanted = {f"opt/x/bin/{p}" for p in PROGRAMS} | {"opt/x/share/man/man8/llmd-agent.8", "opt/x/lib/systemd/system/llmd-agent.service"}
    assert wanted <= there and all(os.access(tmp_path / "opt/x/bin" / p, os.X_OK) for p in PROGRAMS)
    assert "ExecStart=/opt/x/bin/llmd-agent\n" in (tmp_path / "opt/x/lib/systemd/system/llmd-agent.service").read_text()
