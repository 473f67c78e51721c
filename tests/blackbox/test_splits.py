# SPDX-License-Identifier: Apache-2.0
"""Where TCP cuts what is sent means nothing: all that clients and pods say, with each byte in turn coming alone, is taken as if it had come in one."""
import concurrent.futures
import contextlib
import itertools
import os
import random
import re
import socket
import struct
import time

import pytest
from conftest import Agent, Pod, answer, wait_for
from test_hostile import CLOSE, GET, recv_all
from test_http import CHAT, post

APART = 0.004  # seconds: enough for the agent to have read the first part, mostly
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"

CLIENTS = {
    "one": post(CHAT),
    "two": post(CHAT, "X-Session-ID: a\r\n") + post("x"),
    "empty lines": b"\r\n\r\n" + GET + b"\r\n" + GET,
    "chunked, and another": CHUNKED + b"\r\n3;a=b\r\n{ \"\r\n1\r\n}\r\n0\r\nX-Sum: 1\r\n\r\n" + GET,
    "told to go on": CHUNKED + b"Expect: 100-continue\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "1.0": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "HEAD": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE,
    "no request": b"garbage\r\n\r\n",
    "a request, and none": GET + b"\x16\x03\x01\x02\x00",
    "no end": GET + b"GET / HT",
    "no length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "bad chunk": CHUNKED + b"\r\n2\r\nabc\r\n0\r\n\r\n",
    "bad trailer": CHUNKED + b"\r\n0\r\nContent-Length: 3\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

PODS = {
    "sized": answer(b"ok"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    "events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer(b"ok"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "until the end": b"HTTP/1.0 200 OK\r\n\r\nok",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    "cut in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
    "no answer": b"garbage\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
    "error": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno",
}


def cuts(text):
    return [[part for part in (text[:i], text[i : i + 1], text[i + 1 :]) if part] for i in range(len(text))]


def send_parts(connection, parts):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        connection.sendall(part)
        time.sleep(APART)


def told(data):
    """What differs from one answer to the next is left out, and that the agent had to ask for the body."""
    return re.sub(rb"x-request-id: [^\r]*\r\n|^HTTP/1.1 100 Continue\r\n\r\n", b"", data, flags=re.I)


def ask(agent, parts):
    with agent.connect() as c:
        try:
            send_parts(c, parts)
            c.shutdown(socket.SHUT_WR)
        except OSError:  # refused already
            pass
        return told(recv_all(c))


def in_parallel(function, cases):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, cases))


@pytest.mark.parametrize("name", CLIENTS)
def test_what_clients_say_may_come_in_parts(run, name):
    pod = run(Pod, lambda c, r: c.sendall(answer(r.split(b" ", 1)[0] if not r.startswith(b"HEAD") else b"")))
    agent = run(Agent, [pod.endpoint], "--max-inflight", "0")
    whole = ask(agent, [CLIENTS[name]])
    for parts, data in zip(cuts(CLIENTS[name]), in_parallel(lambda parts: ask(agent, parts), cuts(CLIENTS[name]))):
        assert data == whole, parts
    agent.idle()


@pytest.mark.parametrize("name", PODS)
def test_what_pods_say_may_come_in_parts(run, name):
    parts = {}

    def behave(connection, request):
        send_parts(connection, parts[re.search(rb"GET /(\d+) ", request).group(1)])
        return "close"

    pod = run(Pod, behave)
    agent = run(Agent, [pod.endpoint], "--retries", "0", "--eject-after", "0")
    for i, case in zip(itertools.count(), [[PODS[name]], *cuts(PODS[name])]):
        parts[b"%d" % i] = case
    answers = in_parallel(lambda i: ask(agent, [CLOSE.replace(b"/", b"/" + i, 1)]), parts)
    for case, data in zip(parts.values(), answers):
        assert data == answers[0], case
    agent.idle()


# ---- anybody may stop anywhere ----

UNFINISHED = ("cut", "cut in a chunk", "until the end", "no answer")  # a pod that goes on after these would be silent without end
LARGE_REQUEST, LARGE_ANSWER = post(CHAT[:-4] + "x" * 300000 + '"}]}'), answer(b"z" * 400000)


def say_some(connection, text, chance):
    """In random parts; at times only a part of it. Return: whether all was said, and more may follow."""
    at = sorted(chance.randrange(len(text) + 1) for _ in range(chance.choice([0, 1, 2, 4])))
    for begin, end in itertools.pairwise([0, *at, len(text)]):
        connection.sendall(text[begin:end])
        time.sleep(chance.choice([0, chance.random() * 0.01]))
        stop = chance.random()
        if stop < 0.03:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        if stop < 0.06:
            return False
    return True


def converse(agent, chance, end):
    while time.monotonic() < end:
        with contextlib.suppress(OSError), agent.connect() as c:
            while say_some(c, chance.choice([*CLIENTS.values(), LARGE_REQUEST]), chance) and chance.random() < 0.5:
                c.recv(chance.choice([1, 100, 100000]))
            if chance.random() < 0.5:
                c.shutdown(socket.SHUT_WR)
                recv_all(c)


def test_whoever_stops_wherever_leaves_nothing_behind(run):
    seed = int(os.environ.get("LLMD_SEED", time.time_ns()))
    print("LLMD_SEED", seed)
    chance = random.Random(seed)

    def behave(connection, request):
        name = chance.choice([*PODS, "large"])
        said = say_some(connection, PODS.get(name, LARGE_ANSWER), chance)
        return None if said and name not in UNFINISHED and chance.random() < 0.5 else "close"

    agent = run(Agent, [run(Pod, behave).endpoint for _ in range(3)], "--max-inflight", "8", "--request-buffer", "64K")
    end = time.monotonic() + 4
    in_parallel(lambda n: converse(agent, random.Random(seed + n), end), range(16))
    agent.idle()
    wait_for(lambda: agent.metric('llmd_connections{side="client"}') == 0, "all clients to be gone")
