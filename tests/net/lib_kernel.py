# SPDX-License-Identifier: Apache-2.0
"""What the tests know of the kernel data path: options, names of maps and metrics. Nothing else of it is known elsewhere."""
import functools
import json
import os
import shutil
import subprocess

from lib_agent import BUILD
from lib_net import run

FLOWS, AFFINITY = "flows", "affinity"
HANDOFFS = 'llmd_handoffs_total{result="handed"'
KEYS_PER_FLOW = 2


@functools.lru_cache(maxsize=None)
def agent_help():
    return subprocess.run([f"{BUILD}/llmd-agent", "--help"], capture_output=True, text=True).stdout


def agent_has(option):
    return any(line.split()[0] == option for line in agent_help().splitlines() if line.strip())


def missing():
    """Why the kernel data path can't be tested here; empty if it can."""
    if not agent_has("--datapath"):
        return "this llmd-agent has no --datapath"
    if not shutil.which("bpftool"):
        return "bpftool is not installed"
    return ""


def datapath_options(datapath, pin_dir, handoff):
    if not agent_has("--datapath"):
        return []
    if datapath == "relay":
        return ["--datapath", "relay"]
    small = ["--sessions-max", "65536", "--prefix-map-max", "65536"]  # maps of a million entries are a third of what a start takes
    return ["--datapath", "kernel", "--handoff", handoff, "--pin-dir", pin_dir, *small]


def map_entries(pin_dir, name):
    """Entries of a pinned map, as bpftool prints them."""
    path = os.path.join(pin_dir, name)
    return json.loads(run("bpftool", "-j", "map", "dump", "pinned", path)) if os.path.exists(path) else []


def flows(pin_dir):
    """How many connections the kernel carries (or has carried and not yet forgotten)."""
    return len(map_entries(pin_dir, FLOWS)) // KEYS_PER_FLOW


def handed_over(agent):
    """Connections that the agent has given to the kernel since its start; None: it does not tell."""
    return int(agent.metric(HANDOFFS)) if "llmd_handoffs_total" in agent.get("/metrics")[1] else None


def handoff_results(agent):
    """What became of hand-offs, for messages."""
    return [line for line in agent.get("/metrics")[1].splitlines() if line.startswith("llmd_handoffs_total") and not line.endswith(" 0")]


def cleanup(namespace, pin_dir):
    if os.path.exists(pin_dir):
        namespace.run(f"{BUILD}/llmd-agent", "--cleanup", "--pin-dir", pin_dir)


def pinned(pin_dir):
    """What is pinned, and the programs of the pinned links: {("map", 7), ("link", 8), ("prog", 9)}."""
    found = set()
    for directory, _, files in os.walk(pin_dir):
        for file in files:
            kind = "link" if directory.endswith("/links") else "map"
            shown = json.loads(run("bpftool", "-j", kind, "show", "pinned", os.path.join(directory, file)))
            found.add((kind, shown["id"]))
            found |= {("prog", shown["prog_id"])} if kind == "link" else set()
    return found


def loaded():
    """All maps, links and programs that the kernel holds."""
    return {(kind, entry["id"]) for kind in ("map", "link", "prog") for entry in json.loads(run("bpftool", "-j", kind, "show"))}


def tc_state(namespace, devices):
    """Queueing disciplines and filters, as `tc` shows them."""
    return [namespace.run("tc", *what) for device in devices for what in
            (("qdisc", "show", "dev", device), ("filter", "show", "dev", device, "ingress"), ("filter", "show", "dev", device, "egress"))]
