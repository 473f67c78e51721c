# SPDX-License-Identifier: Apache-2.0
"""Frames that no stack would send: any addresses, numbers and headers, into any device."""
import ipaddress
import json
import socket
import struct

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, ICMP, ICMP6, FRAGMENT6 = 6, 1, 58, 44
ETH_IPV4, ETH_IPV6 = 0x800, 0x86DD


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def segment(source, target, seq, ack, flags, payload=b""):
    """source, target: address and port."""
    def head(check):
        return struct.pack("!HHLLHHHH", source[1], target[1], seq % 2**32, ack % 2**32, 5 << 12 | flags, 1000, check, 0)
    pseudo = packed(source[0]) + packed(target[0]) + struct.pack("!LL", 20 + len(payload), TCP)
    return head(checksum(pseudo + head(0) + payload)) + payload


def packet(source, target, payload, protocol=TCP, options=b"", fragment=0, label=0):
    """source, target: addresses. options: of IPv4. label: traffic class and flow label, or the type of service."""
    if ":" in source:
        return struct.pack("!LHBB", 6 << 28 | label, len(payload), protocol, 64) + packed(source) + packed(target) + payload

    def head(check):
        return struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, label & 0xFF, 20 + len(options) + len(payload), 7, fragment, 64, protocol,
                           check) + packed(source) + packed(target) + options
    return head(checksum(head(0))) + payload


def too_big(source, target, mtu, quoted):
    """A router's report, about a packet that target has sent."""
    if ":" in source:
        message = struct.pack("!BBHL", 2, 0, 0, mtu) + quoted
        check = checksum(packed(source) + packed(target) + struct.pack("!LL", len(message), ICMP6) + message)
        return packet(source, target, message[:2] + struct.pack("!H", check) + message[4:], ICMP6)
    message = struct.pack("!BBHL", 3, 4, 0, mtu & 0xFFFF) + quoted
    return packet(source, target, message[:2] + struct.pack("!H", checksum(message)) + message[4:], ICMP)


class Wire:
    """Sends IP packets from a namespace's device to the node's device at its other end."""

    def __init__(self, namespace, device, node, node_device):
        def mac(where, name):
            link = json.loads(where.run("ip", "-j", "link", "show", "dev", name))[0]
            return bytes.fromhex(link["address"].replace(":", ""))
        self.addresses = mac(node, node_device) + mac(namespace, device)
        self.socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((device, 0))

    def send(self, ip):
        self.socket.send(self.addresses + struct.pack("!H", ETH_IPV6 if ip[0] >> 4 == 6 else ETH_IPV4) + ip)

    def close(self):
        self.socket.close()
