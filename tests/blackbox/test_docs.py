# SPDX-License-Identifier: Apache-2.0
"""The documentation names what the code names, and its links lead somewhere."""
import os
import re

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENTS = ["README.md", "bench/README.md", *(f"docs/{name}" for name in sorted(os.listdir(f"{ROOT}/docs")) if name.endswith(".md"))]


def text(name):
    with open(f"{ROOT}/{name}") as f:
        return f.read()


@pytest.mark.parametrize("header, unexplained", [("include/llmd/abi.h", {"none", "not_ours"}), ("agent/handoff.h", set())])
def test_every_reason_is_explained(header, unexplained):
    names = {label for name, label in re.findall(r'X\(([A-Z0-9_]+), "([a-z0-9_]+)", "', text(header)) if name != "NAME"} - unexplained
    assert len(names) > 10
    assert names <= set(re.findall(r"^\| `(\w+)` \|", text("docs/reasons.md"), re.M))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document):
    here = os.path.dirname(f"{ROOT}/{document}")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text(document)):
        assert link.startswith("http") or os.path.exists(os.path.join(here, link)), link
