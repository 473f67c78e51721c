# SPDX-License-Identifier: Apache-2.0
"""A redis-server of the test's own, on a socket in a directory of its own, and just enough of its protocol."""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class RedisError(Exception):
    pass


class Connection:
    """One connection; arguments are str, bytes or numbers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    @staticmethod
    def encode(*args):
        parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)

    def reply(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed by Redis")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def __call__(self, *args):
        self.socket.sendall(self.encode(*args))
        return self.reply()

    def many(self, commands):
        """Pipelined; the answers are read and dropped."""
        commands = list(commands)
        self.socket.sendall(b"".join(self.encode(*c) for c in commands))
        for _ in commands:
            self.reply()


class Redis:
    def __init__(self, *options):
        self.directory = tempfile.mkdtemp(prefix="llmd-redis-")  # a socket's path must be short
        self.path = os.path.join(self.directory, "socket")
        self.url = f"unix://{self.path}"
        self.options = options
        self.process = self.connection = None
        self.start()

    def start(self):
        out = open(os.path.join(self.directory, "log"), "ab")
        self.process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--dir", self.directory,
                                         *self.options], stdout=out, stderr=out)
        out.close()
        end = time.monotonic() + 30
        while True:
            try:
                connection = Connection(self.path)
                connection("CLIENT", "LIST") if "--requirepass" not in self.options else None
                break
            except (OSError, RedisError):
                assert self.process.poll() is None and time.monotonic() < end, open(os.path.join(self.directory, "log")).read()
                time.sleep(0.02)
        self.connection = connection

    def __call__(self, *args):
        return self.connection(*args)

    def connect(self):
        return Connection(self.path)

    def add(self, *fields, connection=None):
        return (connection or self)("XADD", "llmd:events", "*", "v", 1, *fields)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9: what it held in memory is gone."""
        self.connection.close()
        self.signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
