# SPDX-License-Identifier: Apache-2.0
"""The conversation trace of the Mooncake project (FAST '25 release), where LLMD_TRACE names it: what docs/testing.md says."""
import os
import re
import subprocess

import pytest
from conftest import BUILD, Agent
from test_routing import load

TRACE = os.environ.get("LLMD_TRACE")
pytestmark = pytest.mark.skipif(not TRACE, reason="LLMD_TRACE does not name the Mooncake conversation trace")


def dry_run(*options):
    """Hit rate in percent of blocks, hot spot."""
    done = subprocess.run([f"{BUILD}/llmd-load", "--dry-run", "--trace", TRACE, *options], capture_output=True, text=True, check=True)
    return [float(re.search(rf"^{name} +([0-9.]+)", done.stdout, re.M).group(1)) for name in ("hit rate", "hot spot")]


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
@pytest.mark.parametrize(
    "options, least",
    [
        ((), 36.2),
        (("--session", "none"), 35.8),
        (("--blocks", "4000"), 32.8),
        (("--session", "none", "--blocks", "4000"), 32.4),
    ],
)
def test_dry_run_of_the_whole_trace(options, least):
    hits, hot_spot = dry_run(*options)
    assert hits >= least and hot_spot <= 1.03


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
@pytest.mark.parametrize("session", ["infer", "none"])
def test_a_capacity_that_is_not_told_is_learnt(session):
    told, _ = dry_run("--session", session, "--blocks", "4000")
    untold, hot_spot = dry_run("--session", session, "--blocks", "4000", "--untold")
    assert untold > told - 1 and hot_spot <= 1.03


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
def test_two_of_eight_pods_half_as_fast():
    def p95(policy):
        done = subprocess.run([f"{BUILD}/llmd-load", "--dry-run", "--trace", TRACE, "--slow", "2", "--prefill-rate", "8000", "--policy", policy],
                              capture_output=True, text=True, check=True)
        return float(re.search(r"p95 ([0-9.]+) s", done.stdout).group(1))

    ours = p95("prefix-cache-aware")
    assert p95("session") >= 2 * ours and p95("round-robin") >= 2 * ours


@pytest.mark.skipif("san" in BUILD, reason="once is enough")
def test_round_robin_beside_it():
    hits, _ = dry_run("--policy", "round-robin")
    assert 13.5 < hits < 13.7


@pytest.mark.parametrize("session", ["infer", "none"])
def test_http_hits_as_the_dry_run_does(run, sim, session):
    limit = ("--limit", "300" if "san" in BUILD else "2000")
    pods = sim(8, "--block-size", "512", "--kv-blocks", "100000")
    agent = run(Agent, [f"{pod},blocks=400000" for pod in pods])
    agent.ready(8)
    result = load("--target", agent.url, "--trace", TRACE, *limit, "--session", session, "--time-scale", "0", "--concurrency", "8",
                  "--output-max", "1", *[x for pod in pods for x in ("--pod-metrics", pod)])
    hits, _ = dry_run(*limit, "--session", session)
    assert result["failed"] == 0 and result["hot_spot"] < (1.2 if "san" in BUILD else 1.03)
    assert abs(100 * result["hit_rate"] - hits) < 1
    if session == "infer":
        free = result["later_turns"] - agent.metric('llmd_decisions_total{reason="session_saturated"}')
        assert agent.metric('llmd_decisions_total{reason="session"}') == free and result["sticky_turns"] >= 0.999 * free
