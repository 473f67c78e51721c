# SPDX-License-Identifier: Apache-2.0
"""Endpoints from a Kubernetes API, which a script plays."""
import itertools
import json
import os
import subprocess
import time

import pytest
from conftest import Agent, Pod, answer, wait_for
from k8s_api import Api, endpoint_of, pod_of, slice_of

SLICES, PODS = "endpointslices", "pods"


@pytest.fixture
def api():
    api = Api()
    yield api
    api.end()


def follow(run, api, *options, spec="default/vllm"):
    return run(Agent, [], "--discover-k8s", spec, "--k8s-api", api.url, *options)


def table(agent):
    return {e["address"]: e for e in agent.json("/v1/endpoints")}


def becomes(agent, addresses, port=8000):
    """The table is exactly these addresses."""
    wanted = {f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses}
    wait_for(lambda: set(table(agent)) == wanted, f"{len(wanted)} endpoints")


def draining(agent):
    return {a.rsplit(":", 1)[0] for a, e in table(agent).items() if e["state"] == "draining"}


@pytest.mark.parametrize("split", [0, 1, 7], ids=["whole", "split at every byte", "split at 7 bytes"])
def test_pods_come_drain_and_go(run, api, split):
    api.split = split
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1"), endpoint_of("10.1.0.2")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1", "10.1.0.2"])
    assert all(e["source"] == "kubernetes" and e["condition"] == "ready" for e in table(agent).values())
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1", terminating=True), endpoint_of("10.1.0.2"), endpoint_of("10.1.0.3", ready=False)]))
    becomes(agent, ["10.1.0.1", "10.1.0.2", "10.1.0.3"])
    wait_for(lambda: draining(agent) == {"10.1.0.1", "10.1.0.3"}, "those that terminate or are not ready to drain")
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.2"), endpoint_of("10.1.0.3")]))
    becomes(agent, ["10.1.0.2", "10.1.0.3"])
    wait_for(lambda: not draining(agent), "the ready one to serve")
    api.put(SLICES, slice_of("b", [endpoint_of("10.1.0.4")]))
    becomes(agent, ["10.1.0.2", "10.1.0.3", "10.1.0.4"])
    api.delete(SLICES, "a")
    becomes(agent, ["10.1.0.4"])


def test_an_address_used_again_is_another_endpoint(run, api):
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1", "one"), endpoint_of("10.1.0.2")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1", "10.1.0.2"])
    before = table(agent)
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1", "two"), endpoint_of("10.1.0.2")]))
    wait_for(lambda: table(agent)["10.1.0.1:8000"]["generation"] != before["10.1.0.1:8000"]["generation"], "another generation")
    assert table(agent)["10.1.0.2:8000"]["generation"] == before["10.1.0.2:8000"]["generation"]
    # Both at once, as while the old pod's slice is not yet updated: the one that serves counts.
    api.put(SLICES, slice_of("b", [endpoint_of("10.1.0.1", "three")]))
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1", "two", terminating=True), endpoint_of("10.1.0.2")]))
    wait_for(lambda: not draining(agent) and len(table(agent)) == 2, "the new pod to serve at that address")


def test_nothing_of_the_old_pod_reaches_the_new_one(run, api):
    """Neither its prefixes nor its sessions."""
    pod = run(Pod, lambda c, r: c.sendall(answer(b"{}")))
    port = int(pod.endpoint.split(":")[1])
    api.put(SLICES, slice_of("a", [endpoint_of("127.0.0.1", "old")], port))
    agent = follow(run, api)
    becomes(agent, ["127.0.0.1"], port)
    body = json.dumps({"prompt": "word " * 2000}).encode()
    with agent.connect() as c:
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Session-ID: s\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert b"200 OK" in c.recv(4096)
    assert table(agent)[pod.endpoint]["prefix_blocks"] > 10 and agent.get("/v1/sessions/s")[0] == 200
    api.put(SLICES, slice_of("a", [endpoint_of("127.0.0.1", "new")], port))
    wait_for(lambda: table(agent)[pod.endpoint]["requests"] == 0, "the new pod")
    assert table(agent)[pod.endpoint]["prefix_blocks"] == 0 and agent.get("/v1/sessions/s")[0] == 404
    assert agent.metric("llmd_prefix_blocks ") == 0


def test_a_pod_with_two_families_is_one_endpoint(run, api):
    api.put(SLICES, slice_of("six", [endpoint_of("fd00::1", "p"), endpoint_of("fd00::2", "only6")], family="IPv6"))
    api.put(SLICES, slice_of("four", [endpoint_of("10.1.0.1", "p")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1", "fd00::2"])
    api.delete(SLICES, "four")
    becomes(agent, ["fd00::1", "fd00::2"])
    generation = table(agent)["[fd00::1]:8000"]["generation"]
    api.put(SLICES, slice_of("four", [endpoint_of("10.1.0.1", "p"), endpoint_of("10.1.0.9", "q")]))
    becomes(agent, ["10.1.0.9", "fd00::1", "fd00::2"])  # stays where its sessions are
    assert table(agent)["[fd00::1]:8000"]["generation"] == generation


def test_labels_and_annotations_of_pods(run, api):
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1", "p1"), endpoint_of("10.1.0.2", "p2"), endpoint_of("10.1.0.3", "p3")]))
    api.put(PODS, pod_of("p1", {"llm-d.ai/role": "prefill"}, {"llm-d.ai/model": "org/name"}))
    api.put(PODS, pod_of("p2", {"llm-d.ai/role": "decode", "inference.networking.k8s.io/engine-type": "sglang"}))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1", "10.1.0.2", "10.1.0.3"])
    seen = table(agent)
    assert [seen[f"10.1.0.{i}:8000"]["role"] for i in (1, 2, 3)] == ["prefill", "decode", "both"]
    assert seen["10.1.0.1:8000"]["model"] == "org/name"
    assert [seen[f"10.1.0.{i}:8000"]["engine_type"] for i in (1, 2, 3)] == ["unknown", "sglang", "unknown"]
    api.put(PODS, pod_of("p3", annotations={"llm-d.ai/drain": "true", "llm-d.ai/engine-type": "vllm"}))
    wait_for(lambda: draining(agent) == {"10.1.0.3"}, "the annotated pod to drain")
    assert table(agent)["10.1.0.3:8000"]["engine_type"] == "vllm"
    api.put(PODS, pod_of("p3"))
    wait_for(lambda: not draining(agent), "the pod to serve again")
    api.delete(PODS, "pod-p1")
    wait_for(lambda: table(agent)["10.1.0.1:8000"]["role"] == "both", "what was said to be taken back")
    assert table(agent)["10.1.0.1:8000"]["generation"] == seen["10.1.0.1:8000"]["generation"]


def test_pods_that_may_not_be_read_are_done_without(run, api):
    api.refuse_pods = 403
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1"])
    assert agent.metric('llmd_discovery_failures_total{source="kubernetes"}') >= 1


def test_selector_and_ports(run, api):
    both = [{"name": "metrics", "port": 9000}, {"name": "http", "port": 8000, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}]
    for name, team in (("a", "x"), ("b", "y")):
        obj = slice_of(name, [endpoint_of(f"10.1.0.{1 if team == 'x' else 2}")], ports=both)
        obj["metadata"]["labels"]["team"] = team
        api.put(SLICES, obj)
    becomes(follow(run, api, spec="default?team=x"), ["10.1.0.1"])
    becomes(follow(run, api, spec="default?team=x:metrics"), ["10.1.0.1"], 9000)
    becomes(follow(run, api, spec="default/vllm:8443"), ["10.1.0.1", "10.1.0.2"], 8443)
    selectors = {query.get("labelSelector") for path, query, _ in api.requests if path.endswith(SLICES)}
    assert selectors == {"team=x", "kubernetes.io/service-name=vllm"}


def test_cuts_refusals_and_garbage_keep_the_last_set(run, api):
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1"])
    generation = table(agent)["10.1.0.1:8000"]["generation"]
    for i, trouble in enumerate([b"HTTP/1.1 500", b'{"type": "ADDED", "object": ', b"[]", b'{"type": "NEWS", "object": {}}', b"{" * 100, b'{"a": "\xff\x00"}']):
        failures = agent.metric("llmd_discovery_failures_total")
        api.garbage = trouble
        with api.lock:
            api.lock.notify_all()
        if trouble.endswith(b": "):
            time.sleep(0.2)  # in the middle of an object; a cut is a failure in any case
            api.cut()
        wait_for(lambda: agent.metric("llmd_discovery_failures_total") > failures, f"a failure of {trouble!r}")
        api.garbage = None
        api.put(SLICES, slice_of("b", [endpoint_of(f"10.1.0.{2 + i}")]))
        becomes(agent, ["10.1.0.1", f"10.1.0.{2 + i}"])
    api.refuse = 503
    failures = agent.metric("llmd_discovery_failures_total")
    api.cut()
    wait_for(lambda: agent.metric("llmd_discovery_failures_total") > failures + 1, "refusals")
    assert "10.1.0.1:8000" in table(agent)
    api.put(SLICES, slice_of("b", []))
    api.refuse = None
    becomes(agent, ["10.1.0.1"])
    assert table(agent)["10.1.0.1:8000"]["generation"] == generation


def test_a_version_that_is_too_old_means_to_list_anew(run, api):
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    api.put(SLICES, slice_of("b", [endpoint_of("10.1.0.2")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1", "10.1.0.2"])
    generation = table(agent)["10.1.0.1:8000"]["generation"]
    api.refuse = 500  # what happens now is not seen
    api.cut()
    api.delete(SLICES, "b")
    api.put(SLICES, slice_of("c", [endpoint_of("10.1.0.3")]))
    api.compact()
    api.refuse = None
    becomes(agent, ["10.1.0.1", "10.1.0.3"])
    assert table(agent)["10.1.0.1:8000"]["generation"] == generation


def test_versions_that_are_none(run, api):
    """An object without one leaves the version as it was; one that the server does not know means to list anew."""
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1"])
    for i, metadata in enumerate([{}, {"resourceVersion": "9" * 200}, {"resourceVersion": "no & version #"}]):
        wait_for(lambda: api.watches >= 2 * (i + 1), "both watches")
        failures = agent.metric("llmd_discovery_failures_total")
        with api.lock:
            api.garbage = b"".join(json.dumps({"type": t, "object": {"metadata": metadata}}).encode() for t in ("BOOKMARK", "NEWS"))
            api.lock.notify_all()
        wait_for(lambda: agent.metric("llmd_discovery_failures_total") >= failures + 2, "the end of both")
        api.garbage = None
        api.put(SLICES, slice_of("b", [endpoint_of(f"10.1.0.{2 + i}")]))
        becomes(agent, ["10.1.0.1", f"10.1.0.{2 + i}"])
    odd = {q.get("resourceVersion", "") for _, q, _ in api.requests if "watch" in q and not q.get("resourceVersion", "").isdigit()}
    assert odd == {"no & version #"}


def test_bookmarks_move_the_version(run, api):
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1"])
    api.put(SLICES, slice_of("other", [], service="not-ours"))  # only a bookmark tells of it
    seen = api.version
    wait_for(lambda: api.watches >= 2, "both watches")
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.2")]))
    becomes(agent, ["10.1.0.2"])
    watches = api.watches
    api.cut()
    wait_for(lambda: api.watches > watches, "another watch")
    versions = [int(q["resourceVersion"]) for path, q, _ in api.requests if "watch" in q and path.endswith(SLICES)]
    wait_for(lambda: max(int(q["resourceVersion"]) for p, q, _ in api.requests if "watch" in q and p.endswith(SLICES)) >= seen, "a watch from the bookmark")
    assert versions == sorted(versions)


def test_five_thousand_endpoints_in_pages(run, api):
    """The table takes 1024; what is left out is counted and logged, and gets in when there is room."""
    api.page = 7
    for i in range(50):
        api.put(SLICES, slice_of(f"s{i:02}", [endpoint_of(f"10.{i}.1.{k}") for k in range(1, 101)]))
    api.gone_pages = 1  # one snapshot is too old in the middle
    agent = follow(run, api)
    wait_for(lambda: len(table(agent)) == 1024, "a full table", 60)
    assert agent.metric("llmd_discovery_endpoints") == 5000
    assert agent.metric("llmd_discovery_left_out") == 5000 - 1024
    assert "endpoints do not fit" in open(agent.log).read()
    assert any("continue" in query for _, query, _ in api.requests)
    first = table(agent)
    api.put(SLICES, slice_of("s49", [endpoint_of("10.49.2.1")]))  # 100 are replaced by one
    wait_for(lambda: agent.metric("llmd_discovery_endpoints") == 4901, "the update")
    kept = table(agent)
    assert len(kept) == 1024 and all(kept[a]["generation"] == first[a]["generation"] for a in set(kept) & set(first))
    for i in range(1, 50):
        api.delete(SLICES, f"s{i:02}")
    wait_for(lambda: len(table(agent)) == 100, "the last slice alone", 60)
    assert agent.metric("llmd_discovery_left_out") == 0


@pytest.mark.parametrize("moves", [False, True], ids=["tells nothing", "goes ahead"])
def test_watches_that_end_at_once(run, api, moves):
    """They are bounded; and who goes ahead is still followed."""
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    agent = follow(run, api)
    becomes(agent, ["10.1.0.1"])

    def bookmark():
        with api.lock:
            api.version += moves
            return "BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(api.version)}}

    api.short = bookmark
    api.cut()
    wait_for(lambda: api.watches > 4, "watches that end")
    before = api.watches
    time.sleep(1)
    assert api.watches - before <= (30 if moves else 12)
    api.short = None
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.2")]))
    becomes(agent, ["10.1.0.2"])


@pytest.mark.parametrize("tokens", [itertools.repeat("again"), map(str, itertools.count(1))], ids=["the same token", "ever more tokens"])
def test_a_list_without_end(run, api, tokens):
    """What was known stays, and the list is begun again after a pause."""
    pod = run(Pod, lambda c, r: c.sendall(answer(b"{}")))
    port = int(pod.endpoint.split(":")[1])
    api.put(SLICES, slice_of("a", [endpoint_of("127.0.0.1")], port))
    agent = follow(run, api)
    becomes(agent, ["127.0.0.1"], port)
    failures = agent.metric("llmd_discovery_failures_total")
    api.tokens = tokens
    api.compact()
    api.cut()
    wait_for(lambda: agent.metric("llmd_discovery_failures_total") > failures and "the list does not end" in open(agent.log).read(), "a list to be given up", 60)
    with agent.connect() as c:
        c.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in c.recv(4096)
    api.tokens = None
    api.put(SLICES, slice_of("b", [endpoint_of("127.0.0.2")], port))
    becomes(agent, ["127.0.0.1", "127.0.0.2"], port)


@pytest.fixture
def authority(tmp_path):
    """A certificate for 127.0.0.1, a service account that trusts it, and one that trusts another."""
    for name in ("ours", "other"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", f"{tmp_path}/{name}.key", "-out", f"{tmp_path}/{name}.crt"],
                       check=True, capture_output=True)
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text((tmp_path / f"{name}.crt").read_text())
        (tmp_path / name / "token").write_text("first\n")
    return tmp_path


def test_tls_with_a_token_that_changes(run, authority):
    api = Api((f"{authority}/ours.crt", f"{authority}/ours.key"), "first")
    try:
        api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
        stranger = follow(run, api, "--k8s-service-account", f"{authority}/other")
        agent = follow(run, api, "--k8s-service-account", f"{authority}/ours")
        becomes(agent, ["10.1.0.1"])
        wait_for(lambda: stranger.metric("llmd_discovery_failures_total") >= 2, "a certificate that is not trusted")
        assert not table(stranger) and not any(h.get("Authorization") is None for _, _, h in api.requests)
        api.token = "second"
        api.cut()
        wait_for(lambda: "status=401" in open(agent.log).read(), "the old token to be refused")
        (authority / "ours" / "token").write_text("second")
        api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.2")]))
        becomes(agent, ["10.1.0.2"])
        assert "first" not in open(agent.log).read() and "second" not in open(agent.log).read().replace("seconds", "")
    finally:
        api.end()


def test_a_token_that_nobody_writes(run, api, tmp_path):
    """The loop, which reads it for each request, does not wait for it."""
    for name in ("token", "ca.crt"):
        os.mkfifo(tmp_path / name)
    api.put(SLICES, slice_of("a", [endpoint_of("10.1.0.1")]))
    becomes(follow(run, api, "--k8s-service-account", str(tmp_path)), ["10.1.0.1"])
