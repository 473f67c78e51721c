# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the network tests. They run as root, and make every namespace and mount that they use."""
import os
import re
import shutil

import pytest

import lib_kernel
import lib_net
from lib_agent import BUILD, NET_BUILD
from lib_world import World

TOOLS = ("ip", "tc", "ss", "nsenter", "clang", "nft", "iptables", "conntrack")


def cannot_run():
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [t for t in TOOLS if not shutil.which(t)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if not os.path.exists(f"{BUILD}/llmd-agent") or not os.path.exists(f"{NET_BUILD}/netclient"):
        return "not built: make check-net builds what is needed"
    return ""


def pytest_collection_modifyitems(items):
    reason = cannot_run()
    for item in items if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def clean_host():
    if not cannot_run():
        lib_net.remove_stale()
    yield


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory):
    """A BPF file system of this run."""
    with lib_net.bpf_file_system(tmp_path_factory.mktemp("mount")) as path:
        yield path


@pytest.fixture(params=["relay", "kernel"])
def datapath(request):
    if request.param == "kernel" and lib_kernel.missing():
        pytest.skip(lib_kernel.missing())
    return request.param


@pytest.fixture
def world(request, datapath, tmp_path, bpffs):
    """world(pods=1, client_mtu=1500, ...) makes one; agents that were not killed must end well."""
    made = []

    def make(**net):
        name = re.sub(r"\W+", "_", request.node.name)
        made.append(World(datapath, tmp_path, os.path.join(bpffs, name), **net))
        return made[-1]

    yield make
    for thing in made:
        assert not any(thing.end())


def only(datapath):
    """For tests of what only one data path has."""
    return pytest.mark.parametrize("datapath", [datapath], indirect=True)
