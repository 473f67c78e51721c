# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: a client, a node, pods; links, counters, sysctls.

    client c0 -- n0 node p0 -- eth0 pod 0
                         p1 -- eth0 pod 1 ...

The test's own threads enter a namespace for as long as they make sockets there: a socket stays in its namespace. Programs are
started with nsenter, since `ip netns exec` would mount another /sys and hide the BPF file system.
"""
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time

PREFIX = "llmdnet"
CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1
TUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tun.py")
libc = ctypes.CDLL(None, use_errno=True)

CLIENT, NODE = "10.1.0.2", "10.1.0.1"
CLIENT6, NODE6 = "fd00:1::2", "fd00:1::1"


def pod_address(i):
    return f"10.2.{i}.2"


def pod_address6(i):
    return f"fd00:2:{i}::2"


def wait_for(condition, what, seconds=30, pause=0.02):
    """Polls until condition() is true and returns its value; the time is a guard against hangs only.

    what: what is waited for, or a function that tells it in the end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
        except OSError:
            pass
        time.sleep(pause)
    raise AssertionError(f"waited in vain for {what() if callable(what) else what}")


def run(*args, text=None, check=True):
    done = subprocess.run(args, input=text, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout


def ip(namespace, *lines):
    run("ip", "-n", namespace.name, "-batch", "-", text="\n".join(lines) + "\n")


def setns(fd):
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def end_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    count = 0

    def __init__(self, role):
        Namespace.count += 1
        self.name = f"{PREFIX}-{os.getpid()}-{Namespace.count}-{role}"
        self.processes = []
        run("ip", "netns", "add", self.name)
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        ip(self, "link set lo up")

    @contextlib.contextmanager
    def enter(self):
        """This thread lives in the namespace meanwhile."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as here:
            setns(here.fileno())
            try:
                yield self
            finally:
                setns(before.fileno())

    def command(self, *args):
        return ("nsenter", f"--net=/run/netns/{self.name}", *args)

    def run(self, *args, **options):
        return run(*self.command(*args), **options)

    def popen(self, *args, enter=True, **options):
        """Starts a program in the namespace, or (enter=False) one that belongs to it and is ended with it."""
        process = subprocess.Popen(self.command(*args) if enter else args, preexec_fn=end_with_parent, **options)
        self.processes.append(process)
        return process

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
        with self.enter():
            return socket.socket(family, kind, protocol)

    def connect(self, address, port, source=None, timeout=20, options=()):
        s = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.settimeout(timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in options:
            s.setsockopt(*option)
        if source:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(source)
        s.connect((address, port))
        return s

    def listen(self, address, port, backlog=128, options=()):
        s = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            s.setsockopt(*option)
        s.bind((address, port))
        s.listen(backlog)
        return s

    def sysctl(self, name, value):
        with self.enter(), open(f"/proc/sys/{name.replace('.', '/')}", "w") as f:
            f.write(f"{value}\n")

    def counters(self):
        """The kernel's counters by the names that nstat shows, such as TcpRetransSegs and TcpExtTCPTimeouts."""
        values = {}
        with self.enter():
            for file in ("netstat", "snmp"):
                with open(f"/proc/thread-self/net/{file}") as f:
                    for names, numbers in zip(f, f):
                        group, *keys = names.split()
                        values.update({group[:-1] + k: int(v) for k, v in zip(keys, numbers.split()[1:])})
        return values

    def connections(self, *expression, states=("established",)):
        """Lines of `ss` for TCP sockets in these states."""
        args = [x for state in states for x in ("state", state)]
        return self.run("ss", "-Htan", *args, *expression).splitlines()

    def remove(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        run("ip", "netns", "del", self.name, check=False)


def remove_stale():
    """Namespaces and mounts of test runs that were ended before they could clean up."""
    for line in run("ip", "netns", "list").splitlines():
        found = re.match(rf"{PREFIX}-(\d+)-", line)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            run("ip", "netns", "del", line.split()[0], check=False)
    with open("/proc/mounts") as f:
        for path in re.findall(rf"^\S+ (\S*/{PREFIX}-bpffs-\d+)", f.read(), re.M):
            if not os.path.exists(f"/proc/{path.rsplit('-', 1)[1]}"):
                run("umount", path, check=False)


@contextlib.contextmanager
def bpf_file_system(directory):
    """A mount of our own, so that nothing is left in the host's."""
    path = os.path.join(str(directory), f"{PREFIX}-bpffs-{os.getpid()}")
    os.mkdir(path)
    run("mount", "-t", "bpf", "none", path)
    try:
        yield path
    finally:
        run("umount", path)
        os.rmdir(path)


class Net:
    """The topology. l3: pods behind point-to-point TUN devices instead of veth."""

    def __init__(self, pods=1, client_mtu=1500, pod_mtu=1500, l3=False):
        self.l3, self.pod_mtu = l3, pod_mtu
        self.client, self.node, self.pods = Namespace("client"), Namespace("node"), []
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.node.sysctl(name, 1)
        ip(self.node, f"link add n0 mtu {client_mtu} type veth peer name c0 mtu {client_mtu} netns {self.client.name}",
           *self.addresses("n0", f"{NODE}/24", f"{NODE6}/64"))
        ip(self.client, *self.addresses("c0", f"{CLIENT}/24", f"{CLIENT6}/64"), f"route add default via {NODE}", f"route add default via {NODE6}")
        for i in range(pods):
            self.add_pod(i)

    @staticmethod
    def addresses(device, *addresses):
        return [f"link set {device} up", *(f"addr add {a} dev {device}" for a in addresses)]

    def add_pod(self, i):
        """Makes pod i, for the first time or again."""
        pod = Namespace(f"pod{i}")
        if self.l3:
            self.add_tunnel(pod, i)
        else:
            ip(self.node, f"link add p{i} mtu {self.pod_mtu} type veth peer name eth0 mtu {self.pod_mtu} netns {pod.name}")
        ip(self.node, *self.addresses(f"p{i}", f"10.2.{i}.1/24", f"fd00:2:{i}::1/64"))
        ip(pod, *self.addresses("eth0", f"{pod_address(i)}/24", f"{pod_address6(i)}/64"), f"route add default via 10.2.{i}.1",
           f"route add default via fd00:2:{i}::1")
        self.pods[i:i + 1] = [pod]
        return pod

    def remove_pod(self, i):
        """Pod i goes without a word. (The namespace may live on for as long as sockets do, its link does not.)"""
        ip(self.node, f"link del p{i}")
        self.pods[i].remove()

    def add_tunnel(self, pod, i):
        process = pod.popen(sys.executable, TUN, "pair", self.node.name, f"p{i}", pod.name, "eth0", str(self.pod_mtu), enter=False,
                            stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"

    def add_client_address(self, address):
        ip(self.client, f"addr add {address}/24 dev c0")

    def namespaces(self):
        return [self.client, self.node, *self.pods]

    def counters(self):
        """Counters of the kernel's TCP in all namespaces together."""
        total = {}
        for namespace in self.namespaces():
            for key, value in namespace.counters().items():
                total[key] = total.get(key, 0) + value
        return total

    def remove(self):
        for namespace in self.namespaces():
            namespace.remove()
