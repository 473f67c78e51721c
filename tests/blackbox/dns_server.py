# SPDX-License-Identifier: Apache-2.0
"""A DNS server (dnslib) whose answers the test writes and may change at any time."""
import threading
import time

import pytest
from conftest import free_port
from dnslib import QTYPE, RCODE, RR
from dnslib.server import BaseResolver, DNSServer


class Names(BaseResolver):
    """records: name -> [(ttl, data)]; rcode: name -> what is answered instead; extra: targets are in the additional section."""

    def __init__(self):
        self.records, self.rcode, self.asked, self.extra = {}, {}, [], False

    def resolve(self, request, handler):
        name, kind = str(request.q.qname).lower(), QTYPE[request.q.qtype]
        self.asked.append((time.monotonic(), name, kind, handler.protocol))
        reply = request.reply()
        if name in self.rcode:
            reply.header.rcode = self.rcode[name]
            return reply
        if name not in self.records:
            reply.header.rcode = RCODE.NXDOMAIN
        for ttl, data in self.records.get(name, []):
            of = type(data).__name__
            if of in (kind, "CNAME"):
                reply.add_answer(RR(name, getattr(QTYPE, of), ttl=ttl, rdata=data))
            if of == "CNAME":
                for more, target in self.records[str(data.label)]:
                    if type(target).__name__ == kind:
                        reply.add_answer(RR(str(data.label), request.q.qtype, ttl=more, rdata=target))
            if of == "SRV" and kind == "SRV" and self.extra:
                for more, target in self.records.get(str(data.target), []):
                    reply.add_ar(RR(str(data.target), getattr(QTYPE, type(target).__name__), ttl=more, rdata=target))
        return reply

    def questions(self, kind=None):
        return [q for q in self.asked if kind in (None, q[2])]


class Quiet:
    def __getattr__(self, name):
        return lambda *args: None


def serve_both(resolver):
    """UDP and TCP on one port, which must be free for both."""
    while True:
        resolver.port = free_port()
        servers = []
        try:
            for tcp in (False, True):
                servers.append(DNSServer(resolver, address="127.0.0.1", port=resolver.port, tcp=tcp, logger=Quiet()))
            return servers
        except OSError:
            for server in servers:
                server.server.server_close()


@pytest.fixture
def names():
    resolver = Names()
    servers = serve_both(resolver)
    for server in servers:
        threading.Thread(target=server.server.serve_forever, args=(0.05,), daemon=True).start()
    yield resolver
    for server in servers:
        server.server.shutdown()
        server.server.server_close()
