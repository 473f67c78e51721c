# SPDX-License-Identifier: Apache-2.0
"""Endpoints from a file: edits of every kind, and what is not taken."""
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import BUILD, Agent, Pod, answer, wait_for

REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Session-ID: %s\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"prompt\": \"x\"}"


def table(agent):
    return {e["address"]: e for e in agent.json("/v1/endpoints")}


def replace(path, text):
    path.with_suffix(".new").write_text(text)
    os.rename(path.with_suffix(".new"), path)


def rewrite(path, text):
    path.write_text(text)


def append(path, text):
    """In small steps, with the file open."""
    with open(path, "w") as f:
        for c in text:
            f.write(c)
            f.flush()


@pytest.mark.parametrize("edit", [replace, rewrite, append])
def test_edits_are_followed(run, tmp_path, edit):
    path = tmp_path / "endpoints.yaml"
    path.write_text("endpoints:\n- address: 127.0.0.1:9\n- address: 127.0.0.1:10\n  role: prefill\n")
    agent = run(Agent, [], "--endpoints-file", str(path))
    assert {a: e["role"] for a, e in table(agent).items()} == {"127.0.0.1:9": "both", "127.0.0.1:10": "prefill"}
    generation = table(agent)["127.0.0.1:9"]["generation"]
    edit(path, json.dumps({"endpoints": [{"address": "127.0.0.1:9", "blocks": 2000, "model": "m"}, "127.0.0.1:11"]}, indent=1))
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:9", "127.0.0.1:11"}, "the edit")
    kept = table(agent)["127.0.0.1:9"]
    assert (kept["generation"], kept["prefix_blocks_capacity"], kept["model"], kept["source"]) == (generation, 2000, "m", "file")
    edit(path, "[]")
    wait_for(lambda: not table(agent), "an empty table")
    assert agent.get("/readyz")[0] == 503


def test_a_file_that_never_rests_is_read(run, tmp_path):
    """Open all the time, and written again and again, each time whole."""
    path = tmp_path / "endpoints.json"
    path.write_text('["127.0.0.1:9"]')
    agent, ended = run(Agent, [], "--endpoints-file", str(path)), threading.Event()

    def write():
        with open(path, "rb+", buffering=0) as f:
            while not ended.wait(0.05):
                os.pwrite(f.fileno(), b'["127.0.0.1:1"]', 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: set(table(agent)) == {"127.0.0.1:1"}, "what is written all the time")
    finally:
        ended.set()
        writer.join()


@pytest.mark.parametrize("text, where", [
    ("", "1:1: the file is empty"),
    ("endpoints:\n- address: 127.0.0.1:9\n  rolle: both\n", "3:3: no such key: \"rolle\""),
    ("- 127.0.0.1:9\n- 127.0.0.1\n", "2:3: must be ADDR:PORT"),
    ("- 127.0.0.1:9\n- 127.0.0.1:9\n", "2:3: 127.0.0.1:9 is given twice"),
    ('{"endpoints": [{"address": "127.0.0.1:9", "drain": 1}]}', "1:52: drain must be true or false"),
    ('{"endpoints": [}', "1:16:"),
])
def test_a_broken_file_keeps_the_last_one_and_says_where(run, tmp_path, text, where):
    path = tmp_path / "endpoints.yaml"
    path.write_text("- 127.0.0.1:77\n")
    agent = run(Agent, [], "--endpoints-file", str(path))
    replace(path, text)
    line, column, what = where.split(":", 2)
    wait_for(lambda: f"at={path}:{line}:{column}" in open(agent.log).read(), "the error")
    assert what.strip().replace('"', '\\"') in open(agent.log).read()
    assert set(table(agent)) == {"127.0.0.1:77"}
    assert agent.metric('llmd_discovery_failures_total{source="file"}') == 1
    checked = subprocess.run([f"{BUILD}/llmd-agent", "--check-config", "--endpoints-file", str(path)], capture_output=True, text=True)
    assert checked.returncode == 2 and f"{path}:{where.split(': ')[0].rstrip(':')}" in checked.stderr
    replace(path, "- 127.0.0.1:78\n")
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:78"}, "the repaired file")


def test_a_file_that_is_gone_keeps_the_last_one_and_names_no_line(run, tmp_path):
    path = tmp_path / "endpoints.yaml"
    path.write_text("- 127.0.0.1:77\n")
    agent = run(Agent, [], "--endpoints-file", str(path))
    path.unlink()
    wait_for(lambda: f"at={path} error=\"No such file or directory\"" in open(agent.log).read(), "the error")
    assert set(table(agent)) == {"127.0.0.1:77"}
    path.write_text("- 127.0.0.1:78\n")
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:78"}, "the file that is back")


def test_links_directories_and_hangup(run, tmp_path):
    """A mounted ConfigMap: the file is a link by way of a directory that is replaced."""
    for name, port in (("one", 9), ("two", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pods.yaml").write_text(f"- 127.0.0.1:{port}\n")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "..data").symlink_to("../one")
    (mounted / "pods.yaml").symlink_to("..data/pods.yaml")
    agent = run(Agent, [], "--endpoints-file", str(mounted / "pods.yaml"))
    assert set(table(agent)) == {"127.0.0.1:9"}
    (mounted / "..tmp").symlink_to("../two")
    os.rename(mounted / "..tmp", mounted / "..data")
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:10"}, "the other directory")
    with open(tmp_path / "two" / "pods.yaml", "r+") as f:  # not in the watched directory
        f.write("- 127.0.0.1:12\n")
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:12"}, "SIGHUP")
    os.unlink(mounted / "..data")
    wait_for(lambda: agent.metric("llmd_discovery_failures_total") >= 1, "the missing file to be noticed")
    assert set(table(agent)) == {"127.0.0.1:12"}


def session(agent, key, expect=b"200"):
    with agent.connect() as c:
        c.sendall(REQUEST % key)
        got = b""
        while b"\r\n\r\n" not in got:
            got += c.recv(4096)
        assert expect in got.split(b"\r\n")[0]
        return got


def bound(agent, keys):
    return {key: agent.json(f"/v1/sessions/{key.decode()}").get("endpoint") for key in keys}


def test_sessions_move_only_from_a_pod_that_goes(run, tmp_path):
    pods = [run(Pod, lambda c, r: c.sendall(answer(b"{}"))) for _ in range(4)]
    path = tmp_path / "pods.yaml"
    path.write_text(json.dumps([p.endpoint for p in pods[:3]]))
    agent = run(Agent, [], "--endpoints-file", str(path))
    agent.ready(3)
    keys = [b"session-%d" % i for i in range(60)]
    for key in keys:
        session(agent, key)
    before = bound(agent, keys)
    assert len(set(before.values())) == 3
    replace(path, json.dumps([p.endpoint for p in pods]))
    agent.ready(4)
    for key in keys:
        session(agent, key)
    assert bound(agent, keys) == before
    newer = [b"newer-%d" % i for i in range(60)]  # until the new pod has as much to do as the others
    for key in newer:
        session(agent, key)
    replace(path, json.dumps([p.endpoint for p in pods[1:]]))
    wait_for(lambda: pods[0].endpoint not in table(agent), "the first pod to go")
    lost = [key for key in keys if before[key] == pods[0].endpoint]
    assert lost and all(agent.get(f"/v1/sessions/{key.decode()}")[0] == 404 for key in lost)
    for key in lost + [key for key in keys if key not in lost]:
        session(agent, key)
    after = bound(agent, keys)
    assert all(after[key] == before[key] for key in keys if key not in lost)
    assert pods[0].endpoint not in after.values()
    assert len({after[key] for key in lost}) == 3  # spread over the rest
    agent.idle()


def test_a_stream_ends_in_peace_before_its_pod_goes(run, tmp_path):
    """What is no longer listed drains: the stream goes on, the session moves, then the pod is gone."""
    release = tmp_path / "release"

    def slow(c, request):
        if b"slow" not in request:
            c.sendall(answer(b"{}"))
            return
        c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        while not release.exists():
            time.sleep(0.02)
        c.sendall(b"3\r\nend\r\n0\r\n\r\n")

    one, two = run(Pod, slow), run(Pod, slow)
    path = tmp_path / "pods.yaml"
    path.write_text(json.dumps([one.endpoint]))
    agent = run(Agent, [], "--endpoints-file", str(path), "--drain-timeout", "60s")
    agent.ready(1)
    with agent.connect() as c:
        c.sendall(REQUEST % b"slow")
        got = b""
        while b"begin" not in got:
            got += c.recv(4096)
        replace(path, json.dumps([two.endpoint]))
        wait_for(lambda: table(agent)[one.endpoint]["state"] == "draining" and two.endpoint in table(agent), "the drain")
        assert table(agent)[one.endpoint]["condition"] == "gone"
        session(agent, b"other")
        assert bound(agent, [b"other"])[b"other"] == two.endpoint
        release.touch()
        while b"\r\n0\r\n\r\n" not in got:  # a request id may end with 0, too
            got += c.recv(4096)
        assert b"end" in got
    wait_for(lambda: set(table(agent)) == {two.endpoint}, "the pod to go")
    agent.idle()
    assert agent.metric("llmd_cut_total") == 0


@pytest.mark.parametrize("head, started", [
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n", b"begin"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nbegin", b"begin"),  # ends with the connection
], ids=["chunked", "to the end of the connection"])
def test_a_stream_that_outlasts_the_drain_is_cut_for_all_to_see(run, tmp_path, head, started):
    def endless(c, request):
        c.sendall(head)
        while c.recv(4096):
            pass

    pod = run(Pod, endless)
    path = tmp_path / "pods.yaml"
    path.write_text(json.dumps([pod.endpoint]))
    agent = run(Agent, [], "--endpoints-file", str(path), "--drain-timeout", "300ms")
    agent.ready(1)
    with agent.connect() as c:
        c.sendall(REQUEST % b"x")
        got = b""
        while started not in got:
            got += c.recv(4096)
        replace(path, "[]")
        with pytest.raises(ConnectionResetError):
            while c.recv(4096):
                pass
            raise AssertionError("the stream looks as if it had ended well")
    wait_for(lambda: not table(agent), "the pod to go")
    assert agent.metric('llmd_cut_total{side="pod"}') == 1


def test_drain_by_the_operator_and_by_the_source(run, tmp_path):
    path = tmp_path / "pods.yaml"
    path.write_text("- 127.0.0.1:9\n")
    agent = run(Agent, ["127.0.0.1:10"], "--endpoints-file", str(path))
    maps = [f"{BUILD}/llmd-maps", "--admin", f"127.0.0.1:{agent.admin}", "endpoint"]
    state = lambda: (table(agent)["127.0.0.1:9"]["state"], table(agent)["127.0.0.1:9"]["condition"], table(agent)["127.0.0.1:9"]["drained"])
    subprocess.run([*maps, "drain", "127.0.0.1:9"], check=True, capture_output=True)
    assert state() == ("draining", "ready", True)
    rewrite(path, "- address: 127.0.0.1:9\n  drain: yes\n")
    wait_for(lambda: state() == ("draining", "draining", True), "both to drain it")
    subprocess.run([*maps, "undrain", "127.0.0.1:9"], check=True, capture_output=True)
    assert state() == ("draining", "draining", False)
    rewrite(path, "- address: 127.0.0.1:9\n  drain: no\n")
    wait_for(lambda: state()[0] != "draining", "nobody to drain it")
    rewrite(path, "- address: 127.0.0.1:10\n  role: prefill\n  drain: true\n")
    wait_for(lambda: set(table(agent)) == {"127.0.0.1:10"}, "the flag's endpoint alone")
    assert (table(agent)["127.0.0.1:10"]["source"], table(agent)["127.0.0.1:10"]["role"]) == ("static", "both")
    wait_for(lambda: table(agent)["127.0.0.1:10"]["state"] == "draining", "any source's word to drain")
