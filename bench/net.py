# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: a client, a pod, and between them a node of its own for each target.

A node each, so that what one target attaches to its devices is not on the way of the others; "direct" is a node that
only routes. Nothing leaves the machine, and leaving the context removes all of it."""
import os
import subprocess

ID = os.getpid()
POD_PORT, LISTEN_PORT = 9000, 8000


def sh(*args):
    subprocess.run(args, check=True)


class Net:
    def __init__(self, targets):
        self.targets = list(targets)
        self.names = []

    def __enter__(self):
        try:
            for name in ("client", "pod"):
                self._add(name)
            # Not so on the nodes, where the kernel data path has ports of its own.
            sh(*self.inside("client", "sysctl", "-qw", "net.ipv4.ip_local_port_range=16384 65535"))
            for index, target in enumerate(self.targets):
                self._add_node(index, target)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
        self.names = []

    @staticmethod
    def namespace(name):
        return f"llmd-bench-{name}-{ID}"

    def _add(self, name):
        sh("ip", "netns", "add", self.namespace(name))
        self.names.append(self.namespace(name))
        sh("ip", "-n", self.namespace(name), "link", "set", "lo", "up")

    def _add_node(self, index, target):
        self._add(target)
        sh(*self.inside(target, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        for end, net in (("client", 91), ("pod", 92)):
            self._join(end, target, f"10.{net}.{index}", f"to{index}")
        sh("ip", "-n", self.namespace("client"), "route", "add", f"10.92.{index}.0/24", "via", f"10.91.{index}.1")
        sh("ip", "-n", self.namespace("pod"), "route", "add", f"10.91.{index}.0/24", "via", f"10.92.{index}.1")

    def _join(self, end, target, net, device):
        far, node = self.namespace(end), self.namespace(target)
        sh("ip", "link", "add", device, "netns", far, "type", "veth", "peer", "name", end, "netns", node)
        for namespace, name, host in ((far, device, 2), (node, end, 1)):
            sh("ip", "-n", namespace, "addr", "add", f"{net}.{host}/24", "dev", name)
            sh("ip", "-n", namespace, "link", "set", name, "up")

    def inside(self, name, *args):
        """A command to be run in a namespace. nsenter, unlike ip netns exec, leaves bpffs and cgroups in view."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}", *args]

    def node(self, target):
        return f"10.91.{self.targets.index(target)}.1"

    def pod(self, target):
        """The pod's address by way of the target's node."""
        return f"10.92.{self.targets.index(target)}.2:{POD_PORT}"

    def url(self, target):
        return f"http://{self.pod(target)}" if target == "direct" else f"http://{self.node(target)}:{LISTEN_PORT}"
