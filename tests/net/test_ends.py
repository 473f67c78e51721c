# SPDX-License-Identifier: Apache-2.0
"""How connections end: half-close, resets, pods that die or change, links that flap. The other side must see it at once."""
import socket
import struct
import threading
import time

import pytest

import lib_kernel
from conftest import only
from lib_agent import PORT, forget, reset
from lib_net import NODE, wait_for
from lib_peer import content, dial, fetch, numbers, post, stream_body

AT_ONCE = 5  # s; a guard: nothing here may wait for a time-out of its own
SCRIPT_PORT = 40000


def stream(begun, stop, parts=50):
    """A pod that streams chunks until it is told to stop."""
    def behave(peer):
        peer.read_body()
        peer.answer_chunked()
        for i in range(parts):
            peer.chunk(content(200, i))
            begun.set()
            if stop.wait(0.02):
                break
        peer.send(b"0\r\n\r\n")
    return behave


def expected_stream(parts=50):
    return b"".join(content(200, i) for i in range(parts))


@pytest.mark.parametrize("size", [2, 20_000])
def test_client_half_closes_after_the_request(world, size):
    body, answer = content(size), content(100_000, 1)

    def behave(peer):
        assert peer.read_body() == body
        time.sleep(0.1)
        peer.answer(answer)

    w = world()
    pod = w.script(behave)
    w.start_agent().ready(1)
    for pause in (0, 0.05):
        peer = w.dial()
        peer.send(post(body))
        time.sleep(pause)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.read_head() and peer.status() == 200 and peer.read_body() == answer and peer.at_end()
    assert not pod.errors
    w.assert_handed_over(2)


def test_pod_half_closes_and_client_goes_on(world):
    """The end of an answer without a length is the pod's FIN; the client's side is open until it closes."""
    answer, closed = content(100_000), threading.Event()

    def behave(peer):
        peer.read_body()
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.socket.recv(1)
        closed.set()

    w = world()
    w.script(behave)
    w.start_agent().ready(1)
    peer = w.dial()
    peer.send(post())
    assert peer.read_head() and peer.read_end() == answer
    peer.close()
    assert closed.wait(AT_ONCE)
    w.assert_handed_over(1)
    w.agent.idle()


def streams_on(begun, gone):
    """A pod's behaviour: chunks without end, until it cannot send."""

    def behave(peer):
        peer.read_body()
        peer.answer_chunked()
        try:
            while True:
                peer.chunk(b"x" * 100)
                begun.set()
                time.sleep(0.02)
        except OSError:
            gone.set()

    return behave


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_goes_in_mid_stream(world, how):
    """The pod sees it when it sends, and stops computing."""
    gone, begun = threading.Event(), threading.Event()
    w = world()
    w.script(streams_on(begun, gone))
    w.start_agent().ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    assert peer.read_head() and begun.wait(AT_ONCE)
    (reset if how == "reset" else socket.socket.close)(peer.socket)
    assert gone.wait(AT_ONCE)
    w.assert_handed_over(1)
    w.agent.idle()


@pytest.mark.parametrize("how", ["close", "reset", "process"])
def test_pod_goes_in_mid_stream(world, how):
    """The client sees a broken stream, never one that looks whole."""
    begun = threading.Event()

    def behave(peer):
        peer.read_body()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + content(5000))
        begun.set()
        time.sleep(0.1)
        if how == "reset":
            reset(peer.socket)

    w = world()
    if how == "process":
        pod = w.netpod()
        w.start_agent().ready(1)
        load = w.load(count=20, up=100, down=100_000, gap=20)
        load.wait_heads()
        pod.kill()
        started = time.monotonic()
        result = load.result()
        assert result["cut"] + result["reset"] == 20 and time.monotonic() - started < AT_ONCE, result
    else:
        w.script(behave)
        w.start_agent().ready(1)
        peer = w.dial(timeout=AT_ONCE)
        peer.send(post(stream_body()))
        assert peer.read_head() and begun.wait(AT_ONCE)
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.read(100_000)
        assert content(5000).startswith(peer.buffer)
    w.assert_handed_over(1)
    w.agent.idle()


def test_pod_is_drained_and_streams_end_well(world):
    """A draining pod gets no new requests; what runs there runs on."""
    begun, stop = threading.Event(), threading.Event()
    w = world(pods=2)
    for i in range(2):
        w.script(stream(begun, stop), i)
    w.start_agent().ready(2)
    peers = [w.dial() for _ in range(8)]
    for peer in peers:
        peer.send(post(stream_body()))
        assert peer.read_head()
    assert w.agent.get("/v1/endpoints/10.2.0.2:9000/drain", "POST")[0] in (200, 202, 204)
    assert all(peer.read_chunked() == expected_stream() for peer in peers)
    before = w.pods[0].requests
    stop.set()
    for _ in range(4):
        assert fetch(w.client, stream_body())[0] == 200
    assert w.pods[0].requests == before


def test_address_of_a_pod_is_used_again(world):
    """A pod goes without a word, another one gets its address: it serves, and old connections find no second life there."""
    begun, stop = threading.Event(), threading.Event()
    w = world()
    old = w.script(stream(begun, stop, 100_000))
    w.start_agent().ready(1)
    peer = w.dial(timeout=30)
    peer.send(post(stream_body()))
    assert peer.read_head() and begun.wait(AT_ONCE)
    w.net.remove_pod(0)
    stop.set()
    old.end()
    w.net.add_pod(0)
    new = w.script(lambda peer: (peer.read_body(), peer.answer(b"new")))
    wait_for(lambda: fetch(w.client)[0] == 200, "the new pod", 30)
    assert all(fetch(w.client) == (200, b"new") for _ in range(20))
    if w.kernel:
        peer.send(b"anybody there?")  # relayed, nothing is sent to a pod that has its whole request
        with pytest.raises(ConnectionResetError):
            peer.read_chunked()
    assert not new.errors
    reset(peer.socket)
    w.agent.idle()


@pytest.mark.parametrize("link", ["pod", "client"])
def test_link_flaps(world, link):
    w = world()
    w.start("--connect-timeout", "10s")
    device = "p0" if link == "pod" else "n0"
    load = w.load(count=50, up=100, down=20_000, chunk=200, gap=20)
    load.wait_heads()
    for _ in range(2):
        w.node.run("ip", "link", "set", device, "down")
        time.sleep(0.3)
        w.node.run("ip", "link", "set", device, "up")
        time.sleep(0.3)
    load.all_ok()
    w.load(count=20, up=1000, down=1000).all_ok()
    w.assert_handed_over(70)


def test_route_to_a_pod_changes(world):
    """A pod moves behind another device: new connections follow the route."""
    w = world(pods=2)
    w.script(lambda peer: (peer.read_body(), peer.answer(b"first")), 0)
    w.start_agent(pods=1).ready(1)
    assert fetch(w.client) == (200, b"first")
    w.net.pods[1].run("ip", "address", "add", "10.2.0.2/32", "dev", "lo")
    w.script(lambda peer: (peer.read_body(), peer.answer(b"second")), 1)
    w.node.run("ip", "route", "add", "10.2.0.2/32", "via", "10.2.1.2")
    wait_for(lambda: fetch(w.client) == (200, b"second"), "the new route")
    before = w.handed_over() or 0
    assert all(fetch(w.client, stream_body()) == (200, b"second") for _ in range(10))
    w.assert_handed_over(before + 10)


def test_finished_port_is_used_again_at_once(world):
    """A client without TIME_WAIT comes back from the same port for every request."""
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer(content(3000), "Connection: close\r\n")))
    w.start_agent().ready(1)
    for _ in range(20):
        peer = dial(w.client, source=("0.0.0.0", SCRIPT_PORT))
        peer.send(post(fields="Connection: close\r\n"))
        assert peer.read_head() and peer.read_body() == content(3000) and peer.at_end()
        reset(peer.socket)
    w.assert_handed_over(20)


@only("kernel")
def test_nothing_of_a_carried_stream_is_left_in_user_space(world):
    """After the hand-over neither socket exists on the node, and the agent holds no descriptor for it."""
    w = world()
    w.start()
    before = w.agent.metric("process_open_fds")
    load = w.load(count=50, up=1000, down=40_000, chunk=200, gap=20)
    load.wait_heads()
    wait_for(lambda: not w.node.connections("sport", "=", f":{PORT}"), "no socket of a client")
    wait_for(lambda: not w.node.connections("dport", "=", ":9000"), "no socket to a pod")
    assert w.agent.metric("process_open_fds") <= before + 2
    load.all_ok()
    w.assert_handed_over(50)


def test_forgotten_connection_does_not_outlive_its_pod(world):
    """A client that vanished: the pod's next bytes draw a RST from its host, and the pod is told."""
    gone, begun = threading.Event(), threading.Event()
    w = world()
    w.script(streams_on(begun, gone))
    w.start_agent().ready(1)
    peer = dial(w.client)
    peer.send(post(stream_body()))
    assert peer.read_head() and begun.wait(AT_ONCE)
    forget(peer.socket)
    assert gone.wait(AT_ONCE)
    w.assert_handed_over(1)
    w.agent.idle()


def test_nobody_listens(world):
    """Without an agent the node refuses; the test's own view of a refusal."""
    w = world()
    with pytest.raises(ConnectionRefusedError):
        w.dial(host=NODE)


def forge_reset(w, peer):
    """A RST with the right number but a wrong checksum: the programs note an end, the pod does not believe it."""
    slot = next(e["formatted"]["value"] for e in lib_kernel.map_entries(w.pin_dir, "slots") if e["formatted"]["value"]["state"])
    up = next(e["formatted"]["value"] for e in lib_kernel.map_entries(w.pin_dir, "flows") if not e["formatted"]["value"]["from_pod"])
    number = (slot["client_next"] - up["seq_add"]) % 2**32
    header = struct.pack("!HHLLHHHH", peer.socket.getsockname()[1], PORT, number, 0, 5 << 12 | 4, 0, 0x1234, 0)
    w.client.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_TCP).sendto(header, (NODE, 0))


@only("kernel")
def test_forged_reset_does_not_end_a_stream(world):
    """What goes on is carried on."""
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.stream_numbers(35)))
    w.start_agent("--flows-max", "1024").ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    assert peer.read_head()
    w.assert_handed_over(1)
    time.sleep(0.3)
    forge_reset(w, peer)
    assert peer.read_body() == numbers(35)
    peer.close()
    wait_for(lambda: w.kernel_flows() == 0, "the end of the flow")
    w.agent.idle()


@only("kernel")
def test_true_reset_behind_a_refused_one_ends_a_stream(world):
    """The stream goes on behind the first one, and nothing tells of a second end: it must not be taken for a life."""
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.stream_numbers(1000)))
    w.start_agent("--flows-max", "1024").ready(1)
    peers = [w.dial() for _ in range(2)]
    for peer in peers:
        peer.send(post(stream_body()))
        assert peer.read_head()
        w.assert_handed_over(1)
        forge_reset(w, peer)
        time.sleep(0.9)
        reset(peer.socket)  # within the second for which the agent waits
        wait_for(lambda: w.kernel_flows() == 0, "the end of the flow")
    w.agent.idle()


@only("kernel")
def test_client_that_vanishes_at_the_end_of_its_answer(world):
    """Nobody acknowledges the pod's FIN: its kernel gives up after a while, and so does the agent, long before --idle-timeout."""
    goes, gone = threading.Event(), threading.Event()
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer_chunked(), goes.set(), gone.wait(20), peer.send(b"0\r\n\r\n")))
    w.start_agent("--fin-timeout", "1s").ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    assert peer.read_head() and goes.wait(AT_ONCE)
    w.assert_handed_over(1)
    forget(peer.socket)
    w.client.run("ip", "link", "set", "c0", "down")
    gone.set()
    wait_for(lambda: w.kernel_flows() == 0, "the end of the flow")
    assert not w.net.pods[0].connections(states=("fin-wait-1", "fin-wait-2"))
    w.agent.idle()


@only("kernel")
def test_client_that_reads_its_answer_late(world):
    """It has all of it, and nobody waits for its own end: it is not told of one either."""
    answer = content(20_000)
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer(answer)))
    w.start_agent("--fin-timeout", "1s").ready(1)
    peer = w.dial()
    peer.send(post(stream_body()))
    wait_for(lambda: w.handed_over() == 1 and w.kernel_flows() == 0, "the flow to be forgotten")
    assert "CLOSE-WAIT" in w.client.run("ss", "-Htan")
    assert peer.read_head() and peer.read_body() == answer and peer.at_end()
