# SPDX-License-Identifier: Apache-2.0
"""Packets that somebody makes up who knows a stream's addresses and ports: from the client's side, from its pod's device, from another pod's."""
import contextlib
import ipaddress
import itertools
import struct

import pytest

import lib_kernel
from conftest import only
from lib_agent import PORT
from lib_net import NODE, NODE6, pod_address, pod_address6, wait_for
from lib_peer import numbers, post, stream_body
from lib_raw import ACK, FIN, FRAGMENT6, RST, SYN, Wire, packet, segment, too_big

FAR, OLD, NEAR = 1 << 27, -50_000, 5_000  # NEAR: in the receiver's window, but not the next
OTHER_OFFS = [(seq, ack) for seq in (FAR, -FAR, OLD) for ack in (0, FAR, -FAR)] + [(0, FAR), (0, -FAR), (NEAR, FAR)]
FAMILIES = pytest.mark.parametrize("node, address", [(NODE, pod_address), (NODE6, pod_address6)], ids=["IPv4", "IPv6"])


class Side:
    """One direction of a stream as it arrives at the node: between whom, and what is next."""

    def __init__(self, source, target, seq, ack):
        self.source, self.target, self.seq, self.ack = source, target, seq, ack

    def segment(self, flags, seq=0, ack=0, payload=b""):
        return segment(self.source, self.target, self.seq + seq, self.ack + ack, flags, payload)

    def packet(self, *what, **how):
        return packet(self.source[0], self.target[0], self.segment(*what), **how)

    def made_up(self):
        for flags, (seq, ack), payload in itertools.product((FIN | ACK, ACK, FIN, SYN, SYN | ACK, 0), OTHER_OFFS, (b"", b"x" * 100)):
            yield self.packet(flags, seq, ack, payload, label=0xFEDCB)
        for flags, seq in itertools.product((RST, RST | ACK, RST | FIN), (FAR, -FAR, OLD, NEAR)):
            yield self.packet(flags, seq)

    def odd(self):
        """What the programs leave to the stack. Exact numbers: it must not listen either."""
        end = self.segment(RST | ACK)
        if ":" not in self.source[0]:
            yield packet(self.source[0], self.target[0], end, options=b"\1\1\1\0")
            yield packet(self.source[0], self.target[0], end, fragment=0x2000)
            yield packet(self.source[0], self.target[0], end, fragment=3)
            return
        for header in (0, 43, 60):  # hop by hop, routing, destination options
            yield packet(self.source[0], self.target[0], struct.pack("!BBBBL", 6, 0, 1 if header != 43 else 0, 4 if header != 43 else 0, 0) + end, header)
        for offset in (0, 1, 8):
            yield packet(self.source[0], self.target[0], struct.pack("!BBHL", 6, 0, offset, 7) + end, FRAGMENT6)

    def reports(self):
        """About what the other side has sent, of sizes that nobody has."""
        for mtu, seq in itertools.product((0, 1, 68, 1279, 1 << 16, (1 << 32) - 1), (-1, FAR)):
            quoted = packet(self.target[0], self.source[0], segment(self.target, self.source, self.ack + seq, self.seq, ACK))
            yield too_big(self.source[0], self.target[0], mtu, quoted)


def key(entry, end):
    """Address and port of an end of struct flow_key, as bpftool shows it."""
    address = ipaddress.ip_address(struct.pack("=4L", *entry[f"{end}addr"]))
    return str(address.ipv4_mapped or address), struct.unpack("!H", struct.pack("=H", entry[f"{end}port"]))[0]


def sides(w):
    slot = next(v for v in (e["formatted"]["value"] for e in lib_kernel.map_entries(w.pin_dir, "slots")) if v["state"])
    up = next(v for v in (e["formatted"]["value"] for e in lib_kernel.map_entries(w.pin_dir, "flows")) if not v["from_pod"])
    answered = slot["pod_next"] - slot["pod_start"]
    return (Side(key(slot["client"], "s"), key(slot["client"], "d"), slot["client_next"] - up["seq_add"], slot["client_start"] + answered),
            Side(key(slot["pod"], "s"), key(slot["pod"], "d"), slot["pod_next"], slot["client_next"]))


@only("kernel")
@FAMILIES
def test_made_up_packets_end_no_stream(world, node, address):
    w = world(pods=2)
    any_address = "::" if ":" in node else "0.0.0.0"
    w.script(lambda peer: (peer.read_body(), peer.stream_numbers(25)), address=any_address)
    listen = f"[::]:{PORT}" if ":" in node else f"0.0.0.0:{PORT}"
    w.start_agent("--flows-max", "1024", address=address, pods=1, listen=(listen,)).ready(1)
    peer = w.dial(host=node)
    peer.send(post(stream_body()))
    assert peer.read_head()
    w.assert_handed_over(1)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(contextlib.closing(Wire(*ends))) for ends in (
            (w.client, "c0", w.node, "n0"), (w.net.pods[0], "eth0", w.node, "p0"), (w.net.pods[1], "eth0", w.node, "p1"))]
        for side, wire in itertools.product(sides(w), wires):
            for forged in itertools.chain(side.made_up(), side.odd(), side.reports()):
                wire.send(forged)
    assert peer.read_body() == numbers(25)
    counts = {reason: w.agent.metric(f'llmd_packets_total{{reason="{reason}"') for reason in
              ("syn_live", "syn_reused", "synack_stale", "ip_options", "fragment", "too_big", "too_narrow")}
    assert counts.pop("syn_reused") == 0 and all(counts.values()), counts
    peer.close()
    wait_for(lambda: w.kernel_flows() == 0, "the end of the flow")
    w.agent.idle()
