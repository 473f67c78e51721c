# SPDX-License-Identifier: Apache-2.0
"""The documentation names what the code names, and its links lead somewhere."""
import os
import re
import shutil
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENTS = ["README.md", "bench/README.md", *(f"docs/{name}" for name in sorted(os.listdir(f"{ROOT}/docs")) if name.endswith(".md"))]


def text(name):
    with open(f"{ROOT}/{name}") as f:
        return f.read()


def names_of(header):
    """Labels of the X() list of a header, in its order: lines of their own, so that the comment above it does not count."""
    return re.findall(r'^\tX\([A-Z0-9_]+, "([a-z0-9_]+)", "', text(header), re.M)


def test_every_reason_of_a_packet_is_explained_under_its_number():
    names = names_of("include/llmd/abi.h")
    assert len(names) > 20
    explained = re.findall(r"^\| (\d+) \| `(\w+)` \| \S", text("docs/troubleshooting.md"), re.M)
    assert explained == [(str(number), name) for number, name in enumerate(names)]


def test_every_result_of_a_handoff_is_explained():
    names = names_of("agent/handoff.h")
    assert len(names) > 10
    for document in ("docs/troubleshooting.md", "docs/architecture.md"):
        missing = [name for name in names if f"`{name}`" not in text(document)]
        assert not missing, document


def test_every_alert_is_explained_and_fires_in_a_test():
    alerts = re.findall(r"^  - alert: (\w+)$", text("deploy/monitoring/rules.yml"), re.M)
    assert len(alerts) > 10
    links = re.findall(r"runbook_url: docs/troubleshooting.md#(\w+)$", text("deploy/monitoring/rules.yml"), re.M)
    assert links == [alert.lower() for alert in alerts]
    assert set(links) <= anchors(f"{ROOT}/docs/troubleshooting.md")
    fired = re.findall(r"^  - alertname: (\w+)\n    eval_time: \w+\n    exp_alerts:\n    - exp_labels", text("deploy/monitoring/rules_test.yml"), re.M)
    assert sorted(fired) == sorted(alerts)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian package prometheus) is not installed")
def test_rules():
    done = subprocess.run(["promtool", "test", "rules", "rules_test.yml"], cwd=f"{ROOT}/deploy/monitoring", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_are_what_is_generated():
    done = subprocess.run([f"{ROOT}/deploy/monitoring/generate", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_metrics_in_rules_and_dashboards_exist():
    known = set(re.findall(r"^\| `(\w+)` \|", text("docs/metrics.md"), re.M))
    for name in ("deploy/monitoring/rules.yml", *(f"deploy/monitoring/dashboards/{board}" for board in os.listdir(f"{ROOT}/deploy/monitoring/dashboards"))):
        used = set(re.findall(r"\b(llmd_[a-z_]+)\b", text(name))) - {"llmd_agent"}
        unknown = {metric for metric in used if metric not in known and re.sub("_(bucket|sum|count)$", "", metric) not in known}
        assert not unknown, (name, unknown)


def test_every_document_is_found_from_the_readme():
    readme = text("README.md")
    assert not [name for name in DOCUMENTS[1:] if f"]({name})" not in readme]


def test_the_readmes_demo_is_the_one_that_is_explained():
    shown = re.search(r"^ +round-robin +prefix-cache-aware\n.*?^  at the end the client has .*?$", text("README.md"), re.M | re.S)[0]
    for part in shown.split("\n\n"):
        assert part in text("docs/demo.md")


def test_the_demo_prints_what_is_shown():
    """Headings and labels of the transcript, each in the script that prints it."""
    printed = text("scripts/demo") + text("scripts/demo-table") + text("scripts/dashboard.bash")
    labels = ("the kernel carries the streams", "one stream of 80 tokens in 8 s, and the agent is stopped in its middle", "kernel has sent on",
              "at the end the client has", "largest pod's uncached tokens / mean", "turns at the pod of the turn before", "Grafana: not installed")
    for label in labels:
        assert label in printed and label in text("docs/demo.md"), label


def anchors(path):
    """Of the headings, as GitHub makes them."""
    with open(path) as f:
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", f.read(), re.M)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document):
    here = os.path.dirname(f"{ROOT}/{document}")
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text(document))
    for link, anchor in links:
        if link.startswith("http"):
            continue
        path = os.path.join(here, link) if link else f"{ROOT}/{document}"
        assert os.path.exists(path), link
        assert not anchor or anchor in anchors(path), f"{link}#{anchor}"
