# SPDX-License-Identifier: Apache-2.0
"""Bad links: loss and reordering at the ingress of a namespace's device, by loss.bpf.c."""
import json
import os
import platform
import subprocess
import sys

from lib_net import TUN, ip, run

HERE = os.path.dirname(os.path.abspath(__file__))


def build(directory, **parameters):
    name = "-".join(f"{k}{v}" for k, v in sorted(parameters.items())).lower()
    path = os.path.join(str(directory), f"loss-{name}.o")
    if not os.path.exists(path):
        run("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I/usr/include/{platform.machine()}-linux-gnu", "-Wall", "-Werror",
            *(f"-D{k}={v}" for k, v in parameters.items()), "-c", os.path.join(HERE, "loss.bpf.c"), "-o", path)
    return path


def one_segment_packets(net):
    """Turns segmentation offload off between all: then a lost packet is one segment, not up to 45 of them."""
    for namespace, devices in [(net.client, ["c0"]), (net.node, ["n0", *(f"p{i}" for i in range(len(net.pods)))]), *((p, ["eth0"]) for p in net.pods)]:
        ip(namespace, *(f"link set {d} gso_max_segs 1" for d in devices))


def bad_link(directory, namespace, device, drop=0, fins=0, last=0, hold=0, hold_ms=2, mtu=1500):
    """What namespace receives on device loses one packet in drop, of each connection the first FIN (fins=1) or what comes behind one (last=1); one in hold comes hold_ms late."""
    detour = add_detour(namespace, device, hold_ms, mtu) if hold else 0
    program = build(directory, DROP=drop, FINS=fins, LAST=last, HOLD=hold, DETOUR=detour)
    namespace.run("tc", "qdisc", "add", "dev", device, "clsact")
    namespace.run("tc", "filter", "add", "dev", device, "ingress", "bpf", "direct-action", "object-file", program, "section", "tc")


def add_detour(namespace, device, ms, mtu):
    """A device that returns after a while what is sent on it. It has the other one's address, so the stack takes what comes."""
    mac = ip_link(namespace, device)["address"]
    process = namespace.popen(sys.executable, TUN, "hold", namespace.name, "detour", mac, str(mtu), str(ms), enter=False, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    namespace.sysctl("net.ipv4.conf.detour.arp_ignore", 8)
    return ip_link(namespace, "detour")["ifindex"]


def ip_link(namespace, device):
    return json.loads(namespace.run("ip", "-j", "link", "show", "dev", device))[0]
