# SPDX-License-Identifier: Apache-2.0
"""Every overlay passes the API server's own validation, strictly. Definitions of others' kinds come from Go modules, where there is a go command; objects
of kinds that are then not known are left out, and told."""
import json
import re
import shutil
import subprocess
import sys

import pytest

from lib import ROOT, kubectl, run, wait_for

sys.path.append(f"{ROOT}/tests")
from lib_manifests import OVERLAYS, deploy  # noqa: E402,F401 (a fixture)

OPERATOR = "example/prometheus-operator-crd/monitoring.coreos.com_"
DEFINITIONS = {
    "github.com/prometheus-operator/prometheus-operator@v0.79.2": [f"{OPERATOR}servicemonitors.yaml", f"{OPERATOR}prometheusrules.yaml"],
    "sigs.k8s.io/gateway-api@v1.2.1": ["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
}
FOREIGN = {"ServiceMonitor", "PrometheusRule", "HTTPRoute", "SecurityContextConstraints", "Pipeline", "PipelineRun"}


def known_kinds():
    return {line.split()[-1] for line in run("kubectl", "api-resources", "--no-headers").splitlines()}


def module_directory(module):
    if shutil.which("go"):
        done = subprocess.run(["go", "mod", "download", "-json", module], cwd="/", capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            return json.loads(done.stdout)["Dir"]
    return None


def define(file):
    """Return: whether it was not there before."""
    name = run("kubectl", "create", "--dry-run=client", "-o", "name", "-f", file).strip()
    if run("kubectl", "get", name, "--ignore-not-found"):
        return False
    run("kubectl", "create", "-f", file)
    # Not "kubectl wait": while the new object has no conditions at all yet, that fails at once.
    established = "jsonpath={.status.conditions[?(@.type=='Established')].status}"
    wait_for(lambda: run("kubectl", "get", name, "-o", established) == "True", f"{name} to be established", seconds=60)
    return True


@pytest.fixture(scope="module")
def definitions():
    """Of kinds that are not the API server's own; what the cluster has already stays as it is."""
    made = []
    try:
        for module, files in DEFINITIONS.items():
            if directory := module_directory(module):
                made += [path for path in (f"{directory}/{file}" for file in files) if define(path)]
        yield len(made)
    finally:
        for path in made:
            run("kubectl", "delete", "-f", path, check=False)


def test_a_wrong_field_of_a_definition_is_refused(cluster, definitions):
    """That the others' definitions are in force, so that the tests below say something."""
    if not definitions:
        pytest.skip("no definition of others' kinds was made: no go command, no module proxy, or the cluster has its own")
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "wrong"}, "spec": {"groops": []}}
    done = subprocess.run(["kubectl", "apply", "--dry-run=server", "--validate=strict", "-n", "llmd", "-f", "-"], input=json.dumps(rule), capture_output=True,
                          text=True, timeout=60)
    assert done.returncode and "groops" in done.stderr, done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_server_takes_it(cluster, definitions, deploy, overlay):
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
