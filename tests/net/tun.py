# SPDX-License-Identifier: Apache-2.0
"""Devices whose other end is this program.

    tun.py pair NAMESPACE DEVICE NAMESPACE DEVICE MTU     a point-to-point link without ethernet headers
    tun.py hold NAMESPACE DEVICE MAC MTU MS               what is sent out of DEVICE comes back in after MS milliseconds

Says "ready" when the devices are there.
"""
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 2, 0x1000, 0x40000000


def device(namespace, name, flags, *settings):
    with open(f"/run/netns/{namespace}") as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "txqueuelen", "10000", *settings, "up"], check=True)
    return fd


def write(fd, packet):
    try:
        os.write(fd, packet)
    except OSError:  # the queue is full, or the device is down: packets get lost
        pass


def read_all(fd):
    while True:
        try:
            yield os.read(fd, 65536)
        except OSError:
            return


def pair(a, device_a, b, device_b, mtu):
    fds = [device(a, device_a, IFF_TUN, "mtu", mtu), device(b, device_b, IFF_TUN, "mtu", mtu)]
    other = {fds[0]: fds[1], fds[1]: fds[0]}
    print("ready", flush=True)
    while True:
        for fd in select.select(fds, [], [])[0]:
            for packet in read_all(fd):
                write(other[fd], packet)


def hold(namespace, name, mac, mtu, ms):
    fd = device(namespace, name, IFF_TAP, "address", mac, "mtu", mtu)
    held, count = [], 0
    print("ready", flush=True)
    while True:
        wait = max(0, held[0][0] - time.monotonic()) if held else None
        if select.select([fd], [], [], wait)[0]:
            for packet in read_all(fd):
                count += 1
                heapq.heappush(held, (time.monotonic() + int(ms) / 1000, count, packet))
        while held and held[0][0] <= time.monotonic():
            write(fd, heapq.heappop(held)[2])


if __name__ == "__main__":
    {"pair": pair, "hold": hold}[sys.argv[1]](*sys.argv[2:])
