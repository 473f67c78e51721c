# SPDX-License-Identifier: Apache-2.0
"""The demo with a real Prometheus beside it: its rules load, and every query of every dashboard returns data under load."""
import glob
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOAD_S, HOLD_S, WINDOW = 20, 300, "15s"

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed")


def queries():
    for path in sorted(glob.glob(f"{ROOT}/deploy/monitoring/dashboards/*.json")):
        with open(path) as f:
            board = json.load(f)
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield board["title"], panel["title"], target["expr"]


def get(url, path, **query):
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)["data"]


def next_line(process, word):
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"the demo has ended without {word!r}")


@pytest.fixture
def prometheus(tmp_path):
    """The URL, after the load has run; rates are then asked for at the time of its end."""
    # The suite's LLMD_TRACE would be an option of the demo's programs, too.
    environment = dict({k: v for k, v in os.environ.items() if not k.startswith("LLMD_")}, DASHBOARD="1",
                       DASHBOARD_SECONDS=str(LOAD_S), DASHBOARD_HOLD=str(HOLD_S))
    with open(tmp_path / "demo.err", "w") as errors:
        demo = subprocess.Popen([f"{ROOT}/scripts/demo"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            url = next_line(demo, "Prometheus: ").split()[1]
            next_line(demo, "Load has ended")
            yield url, time.time()
        finally:
            demo.send_signal(signal.SIGTERM)
            demo.wait(60)


def test_every_panel_shows_something(prometheus):
    url, end = prometheus
    groups = get(url, "/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {group["name"] for group in groups} == {"llmd-recording", "llmd-alerts"}
    broken = [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"]
    assert not broken
    targets = get(url, "/api/v1/targets")["activeTargets"]
    assert len(targets) >= 9 and all(target["health"] == "up" for target in targets)
    empty = []
    for board, panel, expr in queries():
        asked = expr.replace("$__rate_interval", WINDOW).replace("$instance", ".*")
        # Within the load: some queries divide by what is only then above zero.
        points = get(url, "/api/v1/query_range", query=asked, start=end - LOAD_S / 2, end=end, step=1)["result"]
        if not any(value != "NaN" for series in points for _, value in series["values"]):
            empty.append((board, panel, asked))
    assert not empty, "\n".join(map(str, empty))
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    missing = [name for name in recorded if not get(url, "/api/v1/query", query=name, time=end)["result"]]
    assert not missing
