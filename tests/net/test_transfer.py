# SPDX-License-Identifier: Apache-2.0
"""One connection at a time: bodies of all sizes both ways, every byte checked; slow ends, odd orders, HTTP's corners."""
import socket
import threading
import time

import pytest

from conftest import only
from lib_link import bad_link, one_segment_packets
from lib_net import NODE6, pod_address6
from lib_peer import content, fetch, head, post, sha, stream_body

SMALL_BUFFER = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)


@pytest.mark.parametrize("up, down", [(1, 1), (1, 1 << 20), (1 << 20, 1), (1000, 65535), (65536, 65537), (300_000, 300_000), (8 << 20, 8 << 20)])
def test_bodies(world, up, down):
    w = world()
    w.start()
    w.load(count=3, up=up, down=down).all_ok()
    w.assert_handed_over(3)
    w.agent.idle()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_gigabyte(world, way):
    w = world()
    w.start("--max-body", "2G")
    w.load(count=1, **{"up": 1, "down": 1, way: 1 << 30}, timeout=200).all_ok()
    w.assert_handed_over(1)


@only("kernel")
def test_long_answers_that_do_not_stream_are_counted(world):
    """Not handed over: nobody knows before how long an answer will be. But it can be seen whether --handoff always would pay."""
    w = world()

    def behave(peer):
        peer.read_body()
        peer.answer(content(60_000 if peer.header("x-short") else 70_000))
        return "keep"  # a request that meets the end of its connection is sent again, and its hand-off counts again

    w.script(behave)
    w.start_agent(handoff="auto").ready(1)
    assert fetch(w.client, fields="X-Short: 1\r\n") == (200, content(60_000))
    assert fetch(w.client) == (200, content(70_000))
    w.agent.idle()
    assert w.agent.metric("llmd_long_answers_total") == 1 and w.agent.metric('llmd_handoffs_total{result="not_streamed"}') == 2


@pytest.mark.parametrize("client_mtu, pod_mtu", [(1500, 1450), (9000, 1500), (1500, 9000), (1280, 1500)])
def test_mtu(world, client_mtu, pod_mtu):
    """The two paths carry segments of different sizes; nobody sends an ICMP that a redirected packet is too big."""
    w = world(client_mtu=client_mtu, pod_mtu=pod_mtu)
    w.start()
    w.load(count=20, up=200_000, down=200_000).all_ok()
    w.load(count=20, up=100, down=20_000, chunk=2000, gap=10).all_ok()
    w.assert_handed_over(40)


def test_ipv6(world):
    w = world()
    w.start(address=pod_address6, listen=("[::]:8080",))
    w.load(host=NODE6, count=50, up=100_000, down=100_000).all_ok()
    w.load(host=NODE6, count=50, up=100, down=2000, gap=10).all_ok()
    w.assert_handed_over(100)


def test_ipv4_by_a_listener_of_both_families(world):
    w = world()
    w.start(listen=("[::]:8080",))
    w.load(count=50, up=100_000, down=100_000).all_ok()
    w.load(count=50, up=100, down=2000, gap=10).all_ok()
    w.assert_handed_over(100)


def test_pods_behind_devices_without_ethernet(world):
    w = world(l3=True)
    w.start()
    w.load(count=20, up=50_000, down=50_000).all_ok()
    w.load(count=20, up=100, down=2000, gap=10).all_ok()
    w.assert_handed_over(40)


@pytest.mark.parametrize("segments", ["offloaded", "single"])
@pytest.mark.parametrize("link", [{"drop": 100}, {"hold": 50}], ids=["loss", "reordering"])
def test_bad_link(world, tmp_path, link, segments):
    """One percent lost both ways, or one in fifty late both ways: slower, but right."""
    w = world()
    if segments == "single":
        one_segment_packets(w.net)
    bad_link(tmp_path, w.client, "c0", **link)
    bad_link(tmp_path, w.net.pods[0], "eth0", **link)
    w.start("--connect-timeout", "10s")
    w.load(count=200, up=1000, down=10_000, chunk=1000, gap=20).all_ok()
    w.load(count=8, up=500_000, down=500_000).all_ok()
    w.assert_handed_over(208)


def test_slow_reader(world):
    """The client's window closes; the pod waits, and no byte is lost."""
    body = content(3_000_000)
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer(body)))
    w.start_agent().ready(1)
    peer = w.dial(options=SMALL_BUFFER)
    peer.send(post(stream_body()))
    time.sleep(0.5)
    peer.read_head()
    digest = []
    for size in (1, 100, 10_000, 100_000):
        digest.append(peer.read(size))
        time.sleep(0.3)
    digest.append(peer.read(len(body) - 110_101))
    assert sha(b"".join(digest)) == sha(body)
    w.assert_handed_over(1)


def test_slow_pod(world):
    """The pod's window closes while the client sends a long prompt."""
    body, seen = stream_body(3_000_000), []

    def behave(peer):
        pieces = []
        for size in (1, 100, 10_000, 100_000):
            pieces.append(peer.read(size))
            time.sleep(0.3)
        pieces.append(peer.read(len(body) - 110_101))
        seen.append(sha(b"".join(pieces)))
        peer.answer(b"ok")

    w = world()
    w.script(behave, options=SMALL_BUFFER)
    w.start_agent().ready(1)
    assert fetch(w.client, body, timeout=60) == (200, b"ok")
    assert seen == [sha(body)]
    w.assert_handed_over(1)


def test_long_prompts_sent_slowly(world):
    w = world()
    w.start()
    w.load(count=30, up=40_000, up_chunk=2000, up_gap=30, down=1000).all_ok()
    w.load(count=30, up=300, up_chunk=100, up_gap=200, down=1000).all_ok()
    w.assert_handed_over(60)


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize("sizes", [(1, 2, 3), (5000, 1, 70_000, 1400), (1 << 20,)], ids=str)
def test_chunked_upload(world, sizes, pause):
    body, seen = content(sum(sizes)), []

    def behave(peer):
        seen.append(sha(peer.read_body()))
        peer.answer(body)

    w = world()
    w.script(behave)
    w.start_agent().ready(1)
    peer = w.dial()
    peer.send(head())
    at = 0
    for size in sizes:
        time.sleep(pause)
        peer.chunk(body[at:at + size])
        at += size
    time.sleep(pause)
    peer.send(b"0\r\n\r\n")
    assert peer.read_head() and peer.status() == 200 and peer.read_body() == body
    assert seen == [sha(body)]


@pytest.mark.parametrize("size", [2, 500_000])
def test_expect_100_continue(world, size):
    body = content(size)

    def behave(peer):
        assert peer.read_body() == body
        peer.answer(body)

    w = world()
    pod = w.script(behave)
    w.start_agent().ready(1)
    peer = w.dial()
    peer.send(head(size, "Expect: 100-continue\r\n"))
    assert peer.read_head() and peer.status() == 100
    peer.send(body)
    assert peer.read_head() and peer.status() == 200 and peer.read_body() == body
    assert not pod.errors


@pytest.mark.parametrize("rest", ["read", "left"])
def test_pod_answers_before_the_body_ends(world, rest):
    """As a pod that refuses a request after its head, and reads the rest or closes. The client gets the whole answer."""
    body, answer, answered = content(200_000), content(50_000, 1), threading.Event()

    def behave(peer):
        peer.read(1000)
        peer.answer(answer, status="401 Unauthorized")
        answered.set()
        if rest == "read":
            peer.read_end()
        time.sleep(0.3)  # closing with unread bytes sends a RST, which may overtake what has been sent

    w = world()
    w.script(behave)
    w.start_agent("--request-buffer", "64K").ready(1)
    peer = w.dial()
    peer.send(head(len(body)) + body[:100_000])
    assert answered.wait(20)
    assert peer.read_head() and peer.status() == 401 and peer.read_body() == answer
    try:
        peer.send(body[100_000:])
        assert peer.at_end()
    except OSError:
        pass  # nobody takes the rest
    w.agent.idle()


def test_pod_streams_while_the_body_still_comes(world):
    """An answer that begins before the request has ended goes on after it; the client sees each part when it is sent."""
    body, parts = content(100_000), [content(5000, i) for i in range(4)]

    def behave(peer):
        peer.read(len(body) // 2)
        peer.answer_chunked()
        peer.chunk(parts[0])
        peer.read(len(body) - len(body) // 2)
        for part in parts[1:]:
            peer.chunk(part)
            time.sleep(0.1)
        peer.send(b"0\r\n\r\n")

    w = world()
    pod = w.script(behave)
    w.start_agent("--request-buffer", "64K").ready(1)
    peer = w.dial()
    peer.send(head(len(body)) + body[:80_000])
    assert peer.read_head() and peer.status() == 200
    assert peer.read_line() == b"1388" and peer.read(5000) == parts[0] and peer.read_line() == b""
    peer.send(body[80_000:])
    assert peer.read_chunked() == b"".join(parts[1:])
    assert not pod.errors


def test_chunks_pass_one_by_one(world):
    """No chunk waits for the next one, and none is joined to it by somebody's buffer."""
    go = threading.Semaphore(0)

    def behave(peer):
        peer.read_body()
        peer.answer_chunked()
        for i in range(20):
            assert go.acquire(timeout=20)
            peer.chunk(b"data: %d\n\n" % i)
        peer.send(b"0\r\n\r\n")

    w = world()
    w.script(behave)
    w.start_agent(handoff="auto").ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    for i in range(20):
        go.release()
        if not i:
            assert peer.read_head()
        assert int(peer.read_line(), 16) and peer.read_line() == b"data: %d\n\n" % i
    assert peer.read_chunked() == b""
    w.assert_handed_over(1)
