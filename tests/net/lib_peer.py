# SPDX-License-Identifier: Apache-2.0
"""Pods and clients in Python, for what netpod and netclient don't do: odd orders, slow ends, broken ends."""
import functools
import hashlib
import random
import socket
import threading
import time

from lib_agent import POD_PORT, PORT
from lib_net import NODE, pod_address

ROUTE = "/v1/chat/completions"


@functools.lru_cache(maxsize=16)
def content(size, seed=0):
    """Bytes that differ at every place and for every seed."""
    return random.Random(seed).randbytes(size)


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Pod:
    """behave(peer) is called for each request, whose head has been read; it may return "keep" to wait for another one.
    greeting: what it says as soon as somebody connects."""

    def __init__(self, namespace, behave, address="0.0.0.0", port=POD_PORT, backlog=128, options=(), greeting=b""):
        self.listener = namespace.listen(address, port, backlog, options)
        self.behave, self.greeting, self.errors, self.requests = behave, greeting, [], 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.settimeout(60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(connection)
        try:
            connection.sendall(self.greeting)
            while peer.read_head():
                self.requests += 1
                if self.behave(peer) != "keep":
                    break
        except (OSError, EOFError) as error:
            self.errors.append(error)
        except AssertionError as error:
            self.errors.append(error)
            raise
        finally:
            connection.close()

    def end(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()


class Peer:
    """One end of an HTTP connection; reads exactly what it is asked for."""

    def __init__(self, connection):
        self.socket, self.head, self.buffer = connection, b"", b""

    def more(self, size=1 << 18):
        data = self.socket.recv(size)
        self.buffer += data
        return bool(data)

    def read_head(self):
        """False at the end of the stream."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more(65536):
                if self.buffer:
                    raise EOFError(f"within a head: {self.buffer[:200]}")
                return False
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.head = head + b"\r\n"
        return True

    def header(self, name):
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None

    def status(self):
        return int(self.head.split()[1])

    def read(self, size):
        pieces, left = [], size
        while left:
            if not self.buffer and not self.more(min(max(left, 1), 1 << 18)):
                raise EOFError(f"{left} of {size} bytes missing")
            piece, self.buffer = self.buffer[:left], self.buffer[left:]
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def read_line(self):
        while b"\r\n" not in self.buffer:
            if not self.more():
                raise EOFError("within a line")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def read_chunked(self):
        body = b""
        while size := int(self.read_line().split(b";")[0], 16):
            body += self.read(size)
            assert self.read_line() == b""
        while self.read_line():
            pass
        return body

    def read_body(self):
        """A body by its length or in chunks, or up to the end of the stream."""
        if self.header("transfer-encoding"):
            return self.read_chunked()
        if self.header("content-length"):
            return self.read(int(self.header("content-length")))
        return self.read_end()

    def read_end(self):
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def send(self, data):
        self.socket.sendall(data)

    def answer(self, body=b"", fields="", status="200 OK"):
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)

    def answer_chunked(self, fields=""):
        self.send(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{fields}\r\n".encode())

    def chunk(self, data):
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def stream_numbers(self, n):
        """A chunk each, ten a second: an answer whose body is numbers(n)."""
        self.answer_chunked()
        for i in range(n):
            self.chunk(b"%02d" % i)
            time.sleep(0.1)
        self.send(b"0\r\n\r\n")

    def at_end(self):
        """The other side has closed in an orderly way and nothing is left to read."""
        return not self.buffer and self.socket.recv(1) == b""

    def close(self):
        self.socket.close()


def numbers(n):
    return b"".join(b"%02d" % i for i in range(n))


def dial(namespace, host=NODE, port=PORT, **options):
    return Peer(namespace.connect(host, port, **options))


def head(length=None, fields="", path=ROUTE):
    """A request's head. Without a length: chunked."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: llm\r\nContent-Type: application/json\r\n{framing}\r\n{fields}\r\n".encode()


def post(body=b"{}", fields="", path=ROUTE):
    return head(len(body), fields, path) + body


def stream_body(size=0):
    """A prompt of that size that asks for a stream."""
    text = sha(b"prompt") * (size // 64 + 1)
    return b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%s"}]}' % text[:size].encode()


def fetch(namespace, body=b"{}", fields="", **options):
    """One whole exchange: status, body."""
    peer = dial(namespace, **options)
    peer.send(post(body, fields))
    assert peer.read_head(), "no answer"
    result = peer.status(), peer.read_body()
    peer.close()
    return result


def pod_endpoint(i=0, port=POD_PORT):
    return f"{pod_address(i)}:{port}"
