# SPDX-License-Identifier: Apache-2.0
"""Samples to a Markdown table: medians, the smallest and largest round, and how that compares with direct."""
import statistics

from figures import FIGURES

ROWS = [row for figure in FIGURES for row in figure.rows]


def median(samples, key, target):
    values = samples.get(key, {}).get(target)
    return statistics.median(values) if values else None


def spread(values):
    return min(values), max(values)


def _cell(row, samples, target):
    values = samples[row.key].get(target)
    if not values:
        return ""
    low, high = spread(values)
    middle, base = statistics.median(values), median(samples, row.key, "direct")
    text = f"{middle:.{row.digits}f} ({low:.{row.digits}f} to {high:.{row.digits}f})"
    if target == "direct" or base is None or not row.compare:
        return text
    if row.compare == "difference":
        return f"{text}, {middle - base:+.{row.digits}f}"
    return f"{text}, **{middle / base:.2f}x**"


def _ratio(a, b):
    return a / b if b > 0 else float("inf")


def handoff_lines(samples):
    """What a hand-off costs, and from how many chunks on that is won back."""
    short = {target: median(samples, "short_cpu", target) for target in ("kernel", "relay")}
    chunk = {target: median(samples, "chunk_cpu", target) for target in ("kernel", "relay")}
    if None in short.values():
        return []
    extra = short["kernel"] - short["relay"]
    lines = [f"One hand-off costs {extra:.1f} us of CPU (whole box) beyond relaying the same request."]
    if None not in chunk.values():
        won = chunk["relay"] - chunk["kernel"]
        lines.append(f"A chunk costs {won:.1f} us less afterwards: it pays from {_ratio(extra, won):.1f} chunks on.")
    return lines


def table(samples, targets):
    lines = ["| figure | unit | " + " | ".join(targets) + " |", "|---|---|" + "---|" * len(targets)]
    for row in ROWS:
        if row.key in samples:
            cells = [_cell(row, samples, target) for target in targets]
            lines.append(f"| {row.title} | {row.unit} | " + " | ".join(cells) + " |")
    return lines


def markdown(results):
    samples, targets = results["samples"], results["targets"]
    lines = [*table(samples, targets), "", *handoff_lines(samples)]
    for what in results["failed"]:
        lines.append(f"No sample, because requests failed: {what}.")
    for name, why in results["skipped"].items():
        lines.append(f"Left out: {name} ({why}).")
    lines.append(f"Medians of {results['rounds']} interleaved rounds (smallest to largest), and their ratio to direct. "
                 f"Others had at most {100 * results['foreign']:.1f} % of the CPU during a sample.")
    lines.append(", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".")
    return "\n".join(lines) + "\n"
