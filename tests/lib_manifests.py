# SPDX-License-Identifier: Apache-2.0
"""The manifests as an operator has them, for tests of the files (blackbox) and of what a cluster says of them (e2e)."""
import os
import shutil

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OVERLAYS = sorted(os.listdir(f"{ROOT}/deploy/daemonset/overlays"))


@pytest.fixture(scope="module")
def deploy(tmp_path_factory):
    """A copy with the secrets that an operator makes."""
    copy = str(tmp_path_factory.mktemp("deploy") / "deploy")
    shutil.copytree(f"{ROOT}/deploy", copy)
    for component, name in (("session-secret", "session-secret"), ("redis", "redis-password")):
        with open(f"{copy}/daemonset/components/{component}/{name}", "w") as f:
            f.write("0123456789abcdef0123456789abcdef\n")
    return copy
