# SPDX-License-Identifier: Apache-2.0
"""Every overlay passes the API server's own validation, strictly; objects of kinds that this cluster does not know are left out, and told."""
import re
import sys

import pytest

from lib import ROOT, kubectl, run

sys.path.append(f"{ROOT}/tests")
from lib_manifests import OVERLAYS, deploy  # noqa: E402,F401 (a fixture)

FOREIGN = {"ServiceMonitor", "PrometheusRule", "HTTPRoute", "SecurityContextConstraints", "Pipeline", "PipelineRun"}


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
