# SPDX-License-Identifier: Apache-2.0
"""The tests' own tools must see what they are there to see: otherwise the other tests would say nothing."""
import pytest

from conftest import only
from lib_agent import POD_PORT, NetClient, reset
from lib_link import bad_link
from lib_net import pod_address, wait_for
from lib_peer import Pod, fetch, post

LETTERS = 3000


def spoil(world, change, **options):
    """What netclient says of a pod whose answer, taken from a real netpod, was changed on the way."""
    net = world.net
    world.netpod(port=POD_PORT + 1)

    def behave(peer):
        body = peer.read_body()
        real = net.pods[0].connect("127.0.0.1", POD_PORT + 1)
        real.sendall(peer.head + b"\r\n" + body)
        answer = b""
        while data := real.recv(65536):
            answer += data
        change(peer, answer)

    Pod(net.pods[0], behave)
    return NetClient(world.client, {"count": 1, "up": LETTERS, "down": LETTERS, "timeout": 1, **options}, host=pod_address(0), port=POD_PORT).result()


def swap_last(peer, answer):
    peer.send(answer[:-9] + answer[-1:] + answer[-8:-1] + answer[-9:-8])


@only("relay")
@pytest.mark.parametrize("end, change", [
    ("ok", lambda peer, answer: peer.send(answer)),
    ("wrong", swap_last),
    ("wrong", lambda peer, answer: peer.send(answer + b"a")),
    ("wrong", lambda peer, answer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\nX-Up: bytes=3069 wrong=7\r\n\r\n")),
    ("cut", lambda peer, answer: peer.send(answer[:-1])),
    ("cut", lambda peer, answer: None),
    ("reset", lambda peer, answer: (peer.send(answer[:-1]), reset(peer.socket))),
    ("timeout", lambda peer, answer: (peer.send(answer[:-1]), peer.socket.recv(1))),
    ("status", lambda peer, answer: peer.send(answer.replace(b"200 OK", b"503 No"))),
])
def test_netclient_sees(world, end, change):
    result = spoil(world(), change)
    assert result[end] == 1, result


@only("relay")
def test_netpod_sees_a_wrong_body(world):
    w = world()
    pod = w.netpod()
    plan = "X-Plan: seed=1 up=10 down=10 chunk=1 gap=0\r\n"
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"abcdefghij"}]}'
    peer_status, _ = fetch(w.client, body, plan, host=pod_address(0), port=POD_PORT)
    assert peer_status == 200 and pod.stats()["wrong"] == 1
    assert post(body, plan).endswith(body)


@only("relay")
@pytest.mark.parametrize("link, counter", [({"drop": 20}, "TcpRetransSegs"), ({"hold": 20}, "TcpExtTCPOFOQueue"), ({"fins": 1}, "TcpRetransSegs")])
def test_bad_links_are_bad(world, tmp_path, link, counter):
    w = world()
    w.netpod()
    bad_link(tmp_path, w.net.pods[0], "eth0", **link)
    before = w.net.counters()
    NetClient(w.client, {"count": 50, "up": 20000, "down": 20000}, host=pod_address(0), port=POD_PORT).all_ok()
    wait_for(lambda: w.net.counters()[counter] > before[counter], counter)
