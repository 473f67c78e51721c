# SPDX-License-Identifier: Apache-2.0
"""plot.py RESULTS OUT: a panel a figure, a bar a target with its smallest and largest round, as OUT.svg and OUT.png."""
import json
import math
import statistics
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import report  # noqa: E402

COLUMNS, LOG_FROM = 2, 15
COLOURS = {"direct": "#888888", "kernel": "#0b6e4f", "relay": "#2a9d8f"}


def panel(axes, row, samples, targets):
    shown = [target for target in targets if samples[row.key].get(target)]
    middles = [statistics.median(samples[row.key][target]) for target in shown]
    spreads = [report.spread(samples[row.key][target]) for target in shown]
    errors = [[m - low for m, (low, _) in zip(middles, spreads)], [high - m for m, (_, high) in zip(middles, spreads)]]
    axes.barh(shown, middles, xerr=errors, capsize=3, color=[COLOURS.get(target, "#c8ad7f") for target in shown])
    axes.invert_yaxis()
    axes.set_title(row.title, fontsize=8, loc="left")
    if min(middles) > 0 and max(middles) > LOG_FROM * min(middles):
        axes.set_xscale("log")
    axes.set_xlabel(row.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    base = report.median(samples, row.key, "direct")
    for y, (target, middle) in enumerate(zip(shown, middles)):
        if target != "direct" and base and row.compare == "ratio":
            axes.text(1.01, y, f"{middle / base:.2f}x", transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def main():
    with open(sys.argv[1]) as file:
        results = json.load(file)
    rows = [row for row in report.ROWS if len(results["samples"].get(row.key, {})) > 1]
    height = 0.28 * len(results["targets"]) + 1.0
    count = math.ceil(len(rows) / COLUMNS)
    figure, axes = plt.subplots(count, COLUMNS, figsize=(13, height * count), squeeze=False, layout="constrained")
    for place in axes.flat[len(rows):]:
        place.axis("off")
    for place, row in zip(axes.flat, rows):
        panel(place, row, results["samples"], results["targets"])
    for ending in ("svg", "png"):
        figure.savefig(f"{sys.argv[2]}.{ending}", dpi=110)


main()
