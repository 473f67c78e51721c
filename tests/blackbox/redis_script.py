# SPDX-License-Identifier: Apache-2.0
"""A server that speaks just enough of Redis' protocol to say what a test wants said."""
import socket
import threading

from conftest import Server


CLOSE = object()


def bulk(value):
    value = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(*items):
    return b"*%d\r\n%s" % (len(items), b"".join(items))


class ScriptedRedis(Server):
    """
    @says: called with the words of each command, as bytes; what it returns is sent as it is. CLOSE: the connection is closed.
    Commands for which it returns None are answered as an empty Redis does.
    """

    EMPTY = {b"AUTH": b"+OK\r\n", b"SELECT": b"+OK\r\n", b"CLIENT": b"+OK\r\n", b"TIME": b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n", b"SET": b"+OK\r\n",
             b"GET": b"$-1\r\n", b"MULTI": b"+OK\r\n", b"XADD": b"$3\r\n1-1\r\n", b"EXEC": b"*0\r\n", b"XLEN": b":0\r\n", b"XREVRANGE": b"*0\r\n",
             b"XRANGE": b"*0\r\n", b"MGET": b"*0\r\n", b"EXPIRE": b":1\r\n", b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n", b"DEL": b":0\r\n", b"XREAD": b"*-1\r\n"}

    def __init__(self, says):
        self.says, self.commands, self.ended = says, [], threading.Event()
        super().__init__()
        self.url = f"redis://{self.endpoint}"

    @staticmethod
    def words_of(stream):
        line = stream.readline()
        if line[:1] != b"*":
            raise OSError("no command")
        return [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]

    def serve(self, connection):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = connection.makefile("rb")
            while not self.ended.is_set():
                words = self.words_of(stream)
                self.commands.append(words)
                said = self.says(words)
                if said is CLOSE:
                    break
                if said is None:
                    said = self.EMPTY.get(words[0], b"-ERR unknown command\r\n")
                    if words[0] == b"XREAD":
                        self.ended.wait(1)  # BLOCK 1000
                connection.sendall(said)
        except (OSError, ValueError):
            pass
        connection.close()

    def count(self, name):
        return sum(words[0] == name for words in list(self.commands))

    def end(self):
        self.ended.set()
        super().end()
