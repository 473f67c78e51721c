# SPDX-License-Identifier: Apache-2.0
"""Discovery against a real Kubernetes API server. scripts/check-k8s says where it comes from."""
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
import uuid

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../blackbox"))
from conftest import Agent, run, wait_for  # noqa: E402, F401
from k8s_api import endpoint_of, slice_of  # noqa: E402

URL, ACCOUNT = os.environ["LLMD_TEST_API"], os.environ["LLMD_TEST_ACCOUNT"]
SLICES, CORE = "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices", "/api/v1/namespaces/{ns}"


def call(method, path, body=None):
    request = urllib.request.Request(URL + path, method=method, data=json.dumps(body).encode() if body else None)
    request.add_header("Authorization", "Bearer " + open(f"{ACCOUNT}/token").read().strip())
    request.add_header("Content-Type", "application/merge-patch+json" if method == "PATCH" else "application/json")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt"), timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def namespace():
    """One of our own, away again after the test."""
    name = f"llmd-check-{uuid.uuid4().hex[:8]}"
    call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        call("POST", CORE.format(ns=name) + "/serviceaccounts", {"metadata": {"name": "default"}})
    except urllib.error.HTTPError as error:
        assert error.code == 409, error  # a controller was faster
    yield name
    for kind in (SLICES, CORE + "/pods"):
        call("DELETE", kind.format(ns=name) + ("?gracePeriodSeconds=0" if "pods" in kind else ""))
    call("DELETE", f"/api/v1/namespaces/{name}")


def in_namespace(namespace, obj):
    obj = dict(obj, metadata=dict(obj["metadata"], namespace=namespace))
    for endpoint in obj.get("endpoints", []):
        endpoint["targetRef"]["namespace"] = namespace
    return obj


def table(agent):
    return {e["address"]: e for e in agent.json("/v1/endpoints")}


def becomes(agent, addresses):
    wait_for(lambda: set(table(agent)) == {f"[{a}]:8000" if ":" in a else f"{a}:8000" for a in addresses}, f"{addresses}", 60)


def follow(run, namespace, service="vllm", account=ACCOUNT):  # noqa: F811
    return run(Agent, [], "--discover-k8s", f"{namespace}/{service}", "--k8s-api", URL, "--k8s-service-account", account)


def test_slices_and_pods(run, namespace):  # noqa: F811
    slices, pods = SLICES.format(ns=namespace), CORE.format(ns=namespace) + "/pods"
    pod = call("POST", pods, {"metadata": {"name": "p", "labels": {"llm-d.ai/role": "decode"}, "annotations": {"llm-d.ai/model": "org/m"}},
                              "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "none:none"}]}})
    uid = pod["metadata"]["uid"]
    call("POST", slices, in_namespace(namespace, slice_of("four", [endpoint_of("10.3.0.1", uid), endpoint_of("10.3.0.2")])))
    call("POST", slices, in_namespace(namespace, slice_of("six", [endpoint_of("fd00::1", uid), endpoint_of("fd00::3")], family="IPv6")))
    call("POST", slices, in_namespace(namespace, slice_of("not-ours", [endpoint_of("10.3.0.9")], service="other")))
    agent = follow(run, namespace)
    becomes(agent, ["10.3.0.1", "10.3.0.2", "fd00::3"])
    first = table(agent)["10.3.0.1:8000"]
    assert (first["role"], first["model"], first["source"]) == ("decode", "org/m", "kubernetes")
    call("PATCH", f"{pods}/p", {"metadata": {"annotations": {"llm-d.ai/drain": "true"}}})
    wait_for(lambda: table(agent)["10.3.0.1:8000"]["state"] == "draining", "the annotation", 60)
    call("PATCH", f"{pods}/p", {"metadata": {"annotations": {"llm-d.ai/drain": None}}})
    wait_for(lambda: table(agent)["10.3.0.1:8000"]["state"] != "draining", "its end", 60)
    call("PATCH", f"{slices}/four", {"endpoints": [endpoint_of("10.3.0.1", uid, terminating=True), endpoint_of("10.3.0.4")]})
    becomes(agent, ["10.3.0.1", "10.3.0.4", "fd00::3"])
    wait_for(lambda: table(agent)["10.3.0.1:8000"]["state"] == "draining", "the terminating pod to drain", 60)
    assert table(agent)["10.3.0.1:8000"]["generation"] == first["generation"]
    call("DELETE", f"{slices}/six")
    call("PATCH", f"{slices}/four", {"endpoints": [endpoint_of("10.3.0.1", "another")]})
    becomes(agent, ["10.3.0.1"])
    wait_for(lambda: table(agent)["10.3.0.1:8000"]["state"] != "draining", "the new pod at the old address", 60)
    assert table(agent)["10.3.0.1:8000"]["role"] == "both"
    assert agent.metric("llmd_discovery_failures_total") == 0


def test_pages(run, namespace):  # noqa: F811
    """More slices than one page of the list has."""
    for i in range(260):
        call("POST", SLICES.format(ns=namespace), in_namespace(namespace, slice_of(f"s{i}", [endpoint_of(f"10.3.{i // 250}.{i % 250 + 1}")])))
    agent = follow(run, namespace)
    becomes(agent, [f"10.3.{i // 250}.{i % 250 + 1}" for i in range(260)])
    assert agent.metric("llmd_discovery_failures_total") == 0


def test_a_token_that_is_not_valid_yet(run, namespace, tmp_path):  # noqa: F811
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(open(f"{ACCOUNT}/ca.crt", "rb").read())
    (account / "token").write_text("no-token")
    call("POST", SLICES.format(ns=namespace), in_namespace(namespace, slice_of("a", [endpoint_of("10.3.0.1")])))
    agent = follow(run, namespace, account=str(account))
    wait_for(lambda: "status=401" in open(agent.log).read(), "the refusal", 60)
    assert not table(agent)
    (account / "token").write_bytes(open(f"{ACCOUNT}/token", "rb").read())
    becomes(agent, ["10.3.0.1"])
