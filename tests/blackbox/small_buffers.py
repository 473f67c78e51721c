# SPDX-License-Identifier: Apache-2.0
"""Bodies of all sizes where sockets take little at a time, as on a real network; run by test_hostile.py in a namespace."""
import hashlib
import pathlib
import sys
import threading
import time

from conftest import Agent, Pod, answer
from test_http import CHAT, recv_answer_body

SIZES = (1000, 150_000, 300_000, 1_040_000, 1_060_000, 2_500_000)


def digest_of(body):
    return hashlib.sha256(body).hexdigest().encode()


def chat(size):
    return CHAT.replace("hello", "x" * size).encode()


def sized(body):
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def slow(connection, request):
    """Reads the request late, so that all buffers on the way are full."""
    connection.sendall(answer(digest_of(request.split(b"\r\n\r\n", 1)[1])))


class SlowPod(Pod):
    def serve(self, connection):
        time.sleep(0.3)
        super().serve(connection)


def bodies_arrive(agent):
    for size in SIZES:
        body = chat(size)
        with agent.connect() as c:
            c.sendall(sized(body))
            assert recv_answer_body(c) == digest_of(body), size


def slow_clients_do_not_mix_up(agent):
    """The body comes in pieces, at times while the pod's connection is not there yet."""
    body = chat(200_000)
    request = sized(body)
    with agent.connect() as c:
        for at in range(0, len(request), 20_000):
            c.sendall(request[at : at + 20_000])
            time.sleep(0.002)
        assert recv_answer_body(c) == digest_of(body)


def main(folder):
    good = SlowPod(slow)
    failing = Pod(lambda c, r: "close")
    for n, options in enumerate(([], ["--request-buffer", "16K"], ["--request-buffer", "4M"])):
        # Requests that fit the buffer survive a pod that reads all and closes.
        endpoints = [good.endpoint] + ([failing.endpoint] if n == 2 else [])
        agent = Agent(f"{folder}/small-{n}.log", endpoints, *options)
        try:
            agent.ready(len(endpoints))
            if n < 2:
                bodies_arrive(agent)
            slow_clients_do_not_mix_up(agent)
            agent.idle()
        finally:
            assert agent.end() == 0


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
    main(sys.argv[1])
    assert threading.active_count() < 100
