# SPDX-License-Identifier: Apache-2.0
"""What is measured: a function each, and a table that says which pod it wants and which rows it fills."""
import dataclasses
import json
import subprocess
import time
from typing import Callable

from machine import Window, kernel_kib, resident_kib
from targets import ADMIN

STREAMS, RATE, CHUNK = 500, 50, 200  # streams, chunks a second of each, bytes of a chunk
OPEN_STREAMS = 1000
PROMPT = 220_000
SECONDS = "2s"  # of a closed loop


class Failed(Exception):
    """Requests failed: what was measured then is worth nothing."""


class Bench:
    """One target at a time: load for it, and what it costs. @foreign: largest share of the box that others had."""

    def __init__(self, net, running):
        self.net, self.running = net, running
        self.foreign = 0.0

    def begin_load(self, target, *options):
        args = ["build/llmd-load", "--target", self.net.url(target), "--json", "-", *map(str, options)]
        return subprocess.Popen(self.net.inside("client", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end_load(self, target, process):
        out, err = process.communicate()
        result = json.loads(out) if out else {}
        if process.returncode:
            kinds = {kind: n for kind, n in result.get("failures", {}).items() if n}
            raise Failed(f"{kinds or err[-300:].strip()} of {result.get('requests')} requests, status {result.get('status')}")
        return result

    def load(self, target, *options):
        """A whole run of llmd-load. Return: its result and the CPU of the box, in seconds."""
        with Window() as window:
            result = self.end_load(target, self.begin_load(target, *options))
        self.foreign = max(self.foreign, window.foreign)
        return result, window.busy_s

    def metrics(self, target):
        done = subprocess.run(self.net.inside(target, "curl", "-sf", f"http://{ADMIN}/metrics"), capture_output=True, text=True, check=False)
        return done.stdout


def kept_alive(bench, target):
    result, _ = bench.load(target, "--requests", 4000, "--warmup", 300)
    return {"kept_alive": result["e2e_s"]["p50"] * 1e6}


def new_connection(bench, target):
    result, _ = bench.load(target, "--requests", 2000, "--warmup", 100, "--new-connection")
    return {"new_connection": result["e2e_s"]["p50"] * 1e6}


def stream_head(bench, target):
    before = bench.metrics(target)
    result, _ = bench.load(target, "--requests", 2000, "--warmup", 100, "--new-connection", "--stream")
    out = {"stream_head": result["head_s"]["p50"] * 1e6}
    handed = histogram_p50(before, bench.metrics(target), "llmd_handoff_duration_seconds")
    return out if handed is None else {**out, "handover": handed * 1e6}


def closed_loop(bench, target):
    result, busy_s = bench.load(target, "--concurrency", 64, "--duration", SECONDS)
    return {"loop_cpu": busy_s / result["requests"] * 1e6, "loop_rate": result["requests_per_s"]}


def short_streams(bench, target):
    result, busy_s = bench.load(target, "--concurrency", 64, "--duration", SECONDS, "--new-connection", "--stream")
    return {"short_cpu": busy_s / result["requests"] * 1e6, "short_rate": result["requests_per_s"]}


def streams(bench, target):
    """Streams begin at random, so that their chunks are spread; CPU is taken while all are there."""
    ramp_s, window_s, rest_s = 1.6, 4, 1.4
    tokens = int(RATE * (ramp_s + window_s + rest_s))
    process = bench.begin_load(target, "--rate", STREAMS, "--requests", STREAMS, "--stream", "--output-tokens", tokens)
    time.sleep(ramp_s)
    with Window() as window:
        time.sleep(window_s)
    bench.foreign = max(bench.foreign, window.foreign)
    result = bench.end_load(target, process)
    delay = result["delay_s"]
    return {"chunk_cpu": window.busy_s / (STREAMS * RATE * window.seconds) * 1e6, "chunk_delay_p50": delay["p50"] * 1e6,
            "chunk_delay_p99": delay["p99"] * 1e6}


def prompt(bench, target):
    result, busy_s = bench.load(target, "--concurrency", 20, "--duration", SECONDS, "--prompt-bytes", PROMPT)
    return {"prompt_ttft": result["ttft_s"]["p50"] * 1e6, "prompt_cpu": busy_s / result["requests"] * 1e6}


def open_streams(bench, target):
    """Growth with the second thousand, while the first is open: what requests need while they come in is there by then. A fresh process,
    since freed memory of an earlier round would be used again."""
    if target in bench.running.process:
        bench.running.restart(target)
    bench.load(target, "--requests", 20, "--stream")
    loads, held = [], []
    for tokens in (7, 4):
        loads.append(bench.begin_load(target, "--rate", OPEN_STREAMS, "--requests", OPEN_STREAMS, "--stream", "--output-tokens", tokens))
        time.sleep(2.2)
        held.append((resident_kib(bench.running.pids(target)), kernel_kib()))
    for load in loads:
        bench.end_load(target, load)
    resident, kernel = (after - before for before, after in zip(*held))
    return {"stream_resident": resident / OPEN_STREAMS, "stream_kernel": kernel / OPEN_STREAMS}


def _buckets(text, name):
    """Cumulative counts by upper bound, over all label sets, of a Prometheus histogram."""
    out = {}
    for line in text.splitlines():
        if line.startswith(name + "_bucket"):
            bound = float(line.partition('le="')[2].partition('"')[0])
            out[bound] = out.get(bound, 0) + float(line.rpartition(" ")[2])
    return out


def histogram_p50(before, after, name):
    """Of what came between two scrapes, interpolated within a bucket; None if nothing came."""
    start, end = _buckets(before, name), _buckets(after, name)
    lower, below = 0.0, 0.0
    total = max((end[b] - start.get(b, 0) for b in end), default=0)
    for bound in sorted(end):
        upto = end[bound] - start.get(bound, 0)
        if total and upto >= total / 2:
            return lower if bound == float("inf") else lower + (bound - lower) * (total / 2 - below) / (upto - below)
        lower, below = bound, upto
    return None


@dataclasses.dataclass
class Row:
    """@compare: "ratio" or "difference" to direct, "" without. @digits: after the point."""
    key: str
    title: str
    unit: str
    digits: int = 1
    compare: str = "ratio"


@dataclasses.dataclass
class Figure:
    """@pod: options of the simulated pod."""
    name: str
    measure: Callable
    rows: list
    pod: tuple = ()


AT_ONCE = ("--skim", "--max-num-seqs", "100000")
SPREAD = (*AT_ONCE, "--itl", str(1000 // RATE), "--chunk-bytes", str(CHUNK), "--stamp")
SLOW = (*AT_ONCE, "--itl", "1000")

FIGURES = [
    Figure("kept_alive", kept_alive, [Row("kept_alive", "kept-alive small request, p50", "us")], AT_ONCE),
    Figure("new_connection", new_connection, [Row("new_connection", "new connection and small request, p50", "us")], AT_ONCE),
    Figure("stream_head", stream_head, [Row("stream_head", "streamed request on a new connection, head of the answer, p50", "us"),
                                        Row("handover", "hand-over (from connected to both map entries in), p50", "us", compare="")], AT_ONCE),
    Figure("closed_loop", closed_loop, [Row("loop_cpu", "64 connections, closed loop: CPU of the box per small request", "us"),
                                        Row("loop_rate", "64 connections, closed loop: requests", "1/s", 0)], AT_ONCE),
    Figure("short_streams", short_streams,
           [Row("short_cpu", "64 at a time, streamed, one chunk, new connection each: CPU of the box per request", "us"),
            Row("short_rate", "64 at a time, streamed, one chunk, new connection each: requests (hand-offs with kernel)", "1/s", 0)], AT_ONCE),
    Figure("prompt", prompt, [Row("prompt_ttft", f"{PROMPT // 1000} KB prompt, 20 at a time, TTFT p50", "us", 0),
                              Row("prompt_cpu", f"{PROMPT // 1000} KB prompt, 20 at a time, CPU of the box per request", "us", 0)], AT_ONCE),
    Figure("streams", streams, [Row("chunk_cpu", f"{STREAMS} streams x {RATE}/s x {CHUNK} B: CPU of the box per chunk", "us"),
                                Row("chunk_delay_p50", f"{STREAMS} streams x {RATE}/s x {CHUNK} B: delay of a chunk, p50", "us"),
                                Row("chunk_delay_p99", f"{STREAMS} streams x {RATE}/s x {CHUNK} B: delay of a chunk, p99", "us")], SPREAD),
    Figure("open_streams", open_streams, [Row("stream_resident", "memory of the proxy per open stream", "KiB", 2, ""),
                                          Row("stream_kernel", "memory of the kernel per open stream, client and pod included", "KiB", 1,
                                              "difference")], SLOW),
]
