# SPDX-License-Identifier: Apache-2.0
"""Endpoints from DNS, asked of a server that the test runs (dnslib)."""
import time

import pytest
from conftest import Agent, wait_for
from dns_server import names  # noqa: F401 (a fixture)
from dnslib import AAAA, CNAME, RCODE, SRV, A

NAME = "vllm.test."


def follow(run, names, spec="vllm.test.:8000", *options):
    return run(Agent, [], "--discover-dns", spec, "--dns-server", f"127.0.0.1:{names.port}", *options)


def becomes(agent, wanted):
    wait_for(lambda: {e["address"] for e in agent.json("/v1/endpoints")} == set(wanted), f"{wanted}")


def test_addresses_come_and_go_with_the_ttl(run, names):
    names.records[NAME] = [(1, A("10.2.0.1")), (60, A("10.2.0.2"))]
    agent = follow(run, names)
    becomes(agent, ["10.2.0.1:8000", "10.2.0.2:8000"])
    assert {e["source"] for e in agent.json("/v1/endpoints")} == {"dns"}
    names.records[NAME] = [(1000, A("10.2.0.2")), (1000, A("10.2.0.3"))]
    becomes(agent, ["10.2.0.2:8000", "10.2.0.3:8000"])
    asked = len(names.asked)
    time.sleep(2.5)
    assert len(names.asked) == asked  # the TTL is long now
    times = [t for t, *_ in names.questions("A")]
    assert all(later - earlier >= 0.9 for earlier, later in zip(times, times[1:]))


def test_one_family_is_used(run, names):
    names.records[NAME] = [(1, AAAA("fd00::1")), (1, AAAA("fd00::2"))]
    agent = follow(run, names)
    becomes(agent, ["[fd00::1]:8000", "[fd00::2]:8000"])
    names.records[NAME] += [(1, A("10.2.0.1"))]
    becomes(agent, ["10.2.0.1:8000"])


def test_alias_and_its_ttl(run, names):
    names.records[NAME] = [(1, CNAME("other.test."))]
    names.records["other.test."] = [(600, A("10.2.0.1"))]
    agent = follow(run, names)
    becomes(agent, ["10.2.0.1:8000"])
    names.records[NAME] = [(1, A("10.2.0.9"))]
    becomes(agent, ["10.2.0.9:8000"])


def test_failures_keep_the_last_set(run, names):
    troubles = {"servfail.test.": RCODE.SERVFAIL, "refused.test.": RCODE.REFUSED, "nxdomain.test.": RCODE.NXDOMAIN, "empty.test.": RCODE.NOERROR}
    for name in troubles:
        names.records[name] = [(1, A("10.2.0.1"))]
    agents = [follow(run, names, f"{name}:8000") for name in troubles]
    for agent in agents:
        becomes(agent, ["10.2.0.1:8000"])
    generations = [agent.json("/v1/endpoints")[0]["generation"] for agent in agents]
    names.rcode.update(troubles)
    for agent in agents:
        wait_for(lambda: agent.metric('llmd_discovery_failures_total{source="dns"}') >= 1, "a failure")
        becomes(agent, ["10.2.0.1:8000"])
    names.rcode.clear()
    for name in troubles:
        names.records[name] += [(1, A("10.2.0.2"))]
    for agent, generation in zip(agents, generations):
        becomes(agent, ["10.2.0.1:8000", "10.2.0.2:8000"])
        assert agent.json("/v1/endpoints")[0]["generation"] == generation


def test_more_than_a_datagram_takes(run, names):
    """600 addresses: cut short over UDP, whole over TCP."""
    names.records[NAME] = [(60, A(f"10.2.{i // 200}.{i % 200 + 1}")) for i in range(600)]
    agent = follow(run, names)
    wait_for(lambda: len(agent.json("/v1/endpoints")) == 600, "600 endpoints")
    assert {protocol for *_, protocol in names.asked} == {"udp", "tcp"}


@pytest.mark.parametrize("extra", [True, False], ids=["targets in the answer", "targets asked for"])
def test_services(run, names, extra):
    names.extra = extra
    names.records["_http._tcp.vllm.test."] = [(1, SRV(0, 1, 8000, "a.test.")), (1, SRV(0, 1, 8001, "b.test.")), (1, SRV(5, 1, 8000, "backup.test."))]
    names.records["a.test."] = [(60, A("10.2.0.1"))]
    names.records["b.test."] = [(60, AAAA("fd00::b"))]
    names.records["backup.test."] = [(60, A("10.2.0.99"))]
    agent = follow(run, names, "_http._tcp.vllm.test.")
    becomes(agent, ["10.2.0.1:8000", "[fd00::b]:8001"])
    assert (("a.test.", "A") in {(n, k) for _, n, k, _ in names.asked}) == (not extra)
    names.records["_http._tcp.vllm.test."] = [(1, SRV(5, 1, 8000, "backup.test."))]
    becomes(agent, ["10.2.0.99:8000"])
    del names.records["backup.test."]
    names.extra = False
    wait_for(lambda: agent.metric("llmd_discovery_failures_total") >= 1, "a target without an address")
    becomes(agent, ["10.2.0.99:8000"])


def test_what_is_no_host_s_address_is_no_pod(run, names):
    """A resolver that hides a name says 0.0.0.0: to connect there would reach whatever listens on this node."""
    names.records[NAME] = [(1, A("10.2.0.1"))]
    agent = follow(run, names)
    becomes(agent, ["10.2.0.1:8000"])
    names.records[NAME] = [(1, A("0.0.0.0"))]
    wait_for(lambda: agent.metric("llmd_discovery_failures_total") >= 1, "a failure")
    becomes(agent, ["10.2.0.1:8000"])
    names.records[NAME] = [(1, A(ip)) for ip in ("224.0.0.1", "255.255.255.255", "10.2.0.2")]
    becomes(agent, ["10.2.0.2:8000"])
    names.records[NAME] = [(1, AAAA(ip)) for ip in ("::", "ff02::1", "fd00::1")]
    becomes(agent, ["[fd00::1]:8000"])
