# SPDX-License-Identifier: Apache-2.0
"""Every overlay passes the API server's own validation, strictly; objects of kinds that this cluster does not know are left out, and told."""
import os
import re
import shutil

import pytest

from lib import ROOT, kubectl, run

OVERLAYS = sorted(os.listdir(f"{ROOT}/deploy/daemonset/overlays"))
FOREIGN = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "HTTPRoute", "SecurityContextConstraints", "Pipeline", "PipelineRun"}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory):
    copy = str(tmp_path_factory.mktemp("deploy") / "deploy")
    shutil.copytree(f"{ROOT}/deploy", copy)
    for component, name in (("session-secret", "session-secret"), ("redis", "redis-password")):
        with open(f"{copy}/daemonset/components/{component}/{name}", "w") as f:
            f.write("0123456789abcdef0123456789abcdef\n")
    return copy


def known_kinds():
    return {line.split()[-1] for line in run("kubectl", "api-resources", "--no-headers").splitlines()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_server_takes_it(cluster, deploy, overlay):
    known, left_out, objects = known_kinds(), set(), []
    for part in run("kubectl", "kustomize", f"{deploy}/daemonset/overlays/{overlay}").split("---\n"):
        kind = re.search(r"^kind: (\w+)$", part, re.M)[1]
        if kind in known:
            objects.append(part)
        else:
            left_out.add(kind)
    assert left_out <= FOREIGN and len(objects) >= 9
    said = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", namespace="", input="---\n".join(objects))
    assert said.count("(server dry run)") == len(objects)
    if left_out:
        print("not known to this cluster:", *sorted(left_out))
