# SPDX-License-Identifier: Apache-2.0
"""What went wrong once in giving an open connection to the kernel, each with a test of its own.

A is the socket to the client, B the one to the pod. Most of these show as stalls of 200 ms or more, not as failures, so the
kernel's counters are looked at. A busy machine makes its own time-outs: a few are let pass, where the trap made hundreds.
"""
import contextlib
import signal
import socket
import threading
import time

import pytest

from lib_agent import forget
from lib_link import bad_link
from lib_net import pod_address, wait_for
from lib_peer import content, dial, fetch, numbers, post, stream_body

SMALL_BUFFER = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)


@contextlib.contextmanager
def at_most(namespaces, **bounds):
    """No counter may grow by more than its bound in these namespaces together."""
    def read():
        counters = [n.counters() for n in namespaces]
        return {k: sum(c.get(k, 0) for c in counters) for k in bounds}

    before = read()
    yield
    grown = {k: v - before[k] for k, v in read().items()}
    assert all(grown[k] <= bound for k, bound in bounds.items()), grown


def port_range(w, ports):
    return ["--port-range", ports] if w.kernel else []


def test_01_b_starves_without_its_acks(world):
    """With its ACKs diverted B never gets past ten segments and repeats all of them."""
    w = world()
    w.start()
    with at_most([w.node], TcpExtTCPTimeouts=2, TcpExtTCPLossUndo=5):
        w.load(count=300, concurrency=10, up=100_000, down=100).all_ok()
    w.assert_handed_over(300)


def test_01_last_ack_opens_the_window(world):
    """The last ACK also shows the pod's window and stands in for the delayed ACK that A never sent: with a small window at
    the client's side, the client must learn it, or it waits."""
    w = world()
    w.script(lambda peer: (peer.read_body(), time.sleep(0.3), peer.answer(content(20_000))), options=SMALL_BUFFER)
    w.start_agent().ready(1)
    with at_most([w.client], TcpExtTCPTimeouts=0):
        for size in (100, 1000, 5000, 50_000):
            assert fetch(w.client, stream_body(size)) == (200, content(20_000))
    w.assert_handed_over(4)


def test_02_client_meets_the_old_a(world):
    """A that is closed late is still there when the client's port is used again: challenge ACK, RST, SYN once more."""
    w = world()
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.client.sysctl("net.ipv4.ip_local_port_range", "20000 20100")
    w.start()
    with at_most([w.node, w.net.pods[0]], TcpExtTCPChallengeACK=0):
        w.load(count=3000, concurrency=16, up=200, down=200).all_ok()


def test_03_forwarded_packets_are_not_the_stacks_own(world):
    """A veth keeps the sender's socket on a packet, so it does not tell what the node's own stack sent: all would be muted.
    What is merely routed through the node passes, too, whatever its ports."""
    w = world()
    w.start()
    load = w.load(count=50, up=100, down=10_000, gap=20)
    load.wait_heads()
    direct = w.load(host=pod_address(0), port=9000, count=50, up=10_000, down=10_000, gap=5)
    direct.all_ok()
    load.all_ok()
    w.assert_handed_over(50, at_most=50)


def test_04_repair_with_unsent_bytes(world):
    """In repair mode with the send queue selected an ACK marks unsent bytes as sent: a hole, and 200 ms."""
    w = world()
    w.start()
    with at_most(w.net.namespaces(), TcpExtTCPTimeouts=50):
        w.load(count=1000, concurrency=20, up=60_000, down=100).all_ok()
    w.assert_handed_over(1000)


def test_05_initial_number_against_time_wait(world):
    """The pod closes first and keeps its port in TIME_WAIT. A new connection from the same port of the agent must have a
    higher initial number, or the pod answers with an ACK, and the SYN goes out once more."""
    w = world()
    w.start(*port_range(w, "15000-15199"))
    with at_most([w.node], TcpExtTCPSynRetrans=2, TcpOutRsts=2):
        w.load(count=3000, concurrency=4, up=100, down=100).all_ok()


@pytest.mark.parametrize("bytes_up", [1, 3000, 30_000])
def test_06_b_is_closed_only_when_its_bytes_arrived(world, tmp_path, bytes_up):
    """Whoever counts from the wrong place closes B while its bytes can still get lost."""
    w = world()
    bad_link(tmp_path, w.net.pods[0], "eth0", drop=8)
    w.start("--connect-timeout", "20s")
    w.load(count=100, concurrency=50, up=bytes_up, down=1000, gap=20, chunk=500).all_ok()
    w.assert_handed_over(100)


def test_07_request_and_fin_at_once(world):
    """A FIN counts in the numbers, but is no byte to read."""
    w = world()
    w.start()
    for i in range(10):
        w.load(count=300, up=10 if i % 2 else 3000, down=300, half_close=1, seed=1000 * i).all_ok()
    w.assert_handed_over(3000)


def test_07_fin_after_the_hand_over(world):
    """The client's FIN comes a moment later, at each of the hand-over's steps."""
    w = world()
    pod = w.script(lambda peer: (peer.read_body(), time.sleep(0.02), peer.answer(b"x" * 100)))
    w.start_agent().ready(1)
    for i in range(100):
        peer = dial(w.client)
        peer.send(post())
        time.sleep(i / 20_000)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.read_head() and peer.read_body() == b"x" * 100 and peer.at_end()
        peer.close()
    assert not pod.errors
    w.assert_handed_over(100)


def test_07_pod_goes_without_a_word_as_the_client_half_closes(world):
    """Its FIN comes to the agent, its last ACK to the client. Whichever the agent knows first, the client hears of the end."""
    w = world()
    w.script(lambda peer: peer.read_body())
    w.start_agent("--retries", "0", "--eject-after", "0").ready(1)
    for _ in range(300):
        peer = dial(w.client)
        peer.send(post())
        peer.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert not peer.read_head() or peer.status() == 502
        peer.close()
    w.agent.idle()


def test_08_window_beyond_the_pods(world):
    """In mid-body A has promised more window than the pod has: what is beyond it is dropped."""
    body, pod_seen = stream_body(2_000_000), []

    def behave(peer):
        for _ in range(20):
            peer.read(100_000)
            time.sleep(0.02)
        pod_seen.append(peer.read(len(body) - 2_000_000) == body[2_000_000:])
        peer.answer(b"ok")

    w = world()
    w.script(behave, options=SMALL_BUFFER)
    w.start_agent().ready(1)
    with at_most(w.net.pods, TcpExtBeyondWindow=0):
        threads = [threading.Thread(target=fetch, args=(w.client, body)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert pod_seen == [True] * 4
    w.assert_handed_over(4)


def test_09_pod_speaks_first(world):
    """Bytes of the pod before it has the request shift its numbers."""
    w = world()
    pod = w.script(lambda peer: (peer.read_body(), peer.answer(content(5000))), greeting=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    w.start_agent().ready(1)
    for _ in range(20):
        peer = w.dial()
        peer.send(post(stream_body(500)))
        assert peer.read_head()
        while peer.status() == 103:
            assert peer.read_head()
        assert peer.status() == 200 and peer.read_body() == content(5000)
    assert pod.requests == 20


def test_09_pod_answers_at_once(world):
    """The answer is on its way before the request's last bytes are."""
    w = world()
    w.start()
    w.load(count=2000, concurrency=8, up=1, down=1).all_ok()
    w.assert_handed_over(2000)


def test_10_syn_on_a_live_entry(world):
    """A client that forgot its connection dials again from the same port: the pod's challenge ACK finds out."""
    first, gone = threading.Event(), threading.Event()

    def behave(peer):
        peer.read_body()
        if first.is_set():
            peer.answer(b"second")
            return
        first.set()
        peer.answer_chunked()
        try:
            while True:
                peer.chunk(b"first" * 10)
                time.sleep(0.02)
        except OSError:
            gone.set()

    w = world()
    w.script(behave)
    w.start_agent().ready(1)
    source = ("0.0.0.0", 40001)
    peer = dial(w.client, source=source)
    peer.send(post(stream_body()))
    assert peer.read_head() and peer.read_line() == b"32"
    forget(peer.socket)
    peer = w.dial(source=source, timeout=10)
    peer.send(post(stream_body()))
    assert peer.read_head() and peer.read_body() == b"second"
    assert gone.wait(10)
    w.assert_handed_over(2)


@pytest.mark.parametrize("forgets", [False, True])
def test_10_syn_on_a_finished_entry(world, forgets):
    """Both have said FIN: the entry gives way, and late packets of the old connection don't reach the new one."""
    w = world()
    w.script(lambda peer: (peer.read_body(), peer.answer(content(30_000), "Connection: close\r\n")))
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.start_agent().ready(1)
    for _ in range(30):
        peer = dial(w.client, source=("0.0.0.0", 40002), timeout=10)
        peer.send(post(stream_body(), "Connection: close\r\n"))
        assert peer.read_head() and peer.read_body() == content(30_000) and peer.at_end()
        if forgets:
            peer.socket.shutdown(socket.SHUT_WR)
            forget(peer.socket)
        else:
            peer.close()
    w.assert_handed_over(30)


def test_10_stream_from_the_address_of_a_finished_entry(world):
    """The finished one is collected a second later: its entries, not those of the new connection."""
    def behave(peer):
        peer.read_body()
        if pod.requests == 1:
            peer.answer(b"first", "Connection: close\r\n")
            return
        peer.stream_numbers(25)

    w = world()
    pod = w.script(behave)
    w.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)
    w.start_agent().ready(1)
    peer = dial(w.client, source=("0.0.0.0", 40003), timeout=10)
    peer.send(post(stream_body(), "Connection: close\r\n"))
    assert peer.read_head() and peer.read_body() == b"first" and peer.at_end()
    peer.close()
    peer = w.dial(source=("0.0.0.0", 40003), timeout=10)
    peer.send(post(stream_body()))
    assert peer.read_head() and peer.read_body() == numbers(25)
    w.assert_handed_over(2)


def test_11_own_ports_run_out(world):
    """More connections than ports of the agent's own: the rest is relayed, none is refused."""
    w = world()
    w.start(*port_range(w, "15000-15031"))
    w.load(count=300, up=100, down=4000, chunk=200, gap=20).all_ok()
    w.assert_handed_over(32)
    w.load(count=2000, concurrency=16).all_ok()
    if w.kernel:
        # What has ended gives its port back; the connections from other ports that were made meanwhile go by and by.
        wait_for(lambda: w.load(count=10, concurrency=2).all_ok() and w.handed_over() >= 100, "each port to be used three times", 60)


def test_12_address_can_be_used_again_at_once(world):
    """The end of repair mode clears SO_REUSEADDR: a new agent could not listen beside old connections."""
    w = world()
    w.netpod()
    for i in range(5):
        agent = w.start_agent()
        agent.ready(1)
        load = w.load(count=50, up=100, down=2000, gap=20)
        load.wait_heads()
        agent.kill()
        result = load.result()
        assert not w.kernel or result["ok"] == 50, result


@pytest.mark.parametrize("side, lost", [("client", "fins"), ("pod", "fins"), ("client", "last")])
def test_13_fin_or_last_ack_is_lost(world, tmp_path, side, lost):
    """The FIN is repeated after 200 ms: until then the entry must live, or the repeated one draws a RST from the node. (That of a
    client whose FIN crosses the pod's repeated one is TCP's own.)"""
    w = world()
    namespace, device = (w.client, "c0") if side == "client" else (w.net.pods[0], "eth0")
    bad_link(tmp_path, namespace, device, **{lost: 1})
    w.start()
    with at_most([w.node], TcpOutRsts=8):
        w.load(count=60, concurrency=6, up=100, down=1000).all_ok()
        time.sleep(0.5)
    w.assert_handed_over(60)


@pytest.mark.parametrize("pods", [1, 2])
def test_14_full_backlog(world, pods):
    """B is connected, but the pod has dropped the last ACK, since its queue is full, and does not know of it."""
    w = world(pods=pods)
    w.net.pods[0].sysctl("net.core.somaxconn", 8)
    w.start("--connect-timeout", "20s")
    w.pods[0].signal(signal.SIGSTOP)
    load = w.load(count=24, up=500, down=500, timeout=100)
    time.sleep(1.2)
    w.pods[0].signal(signal.SIGCONT)
    load.all_ok()


def test_14_backlog_of_the_agent_is_full(world):
    """The client is connected, but the agent's machine has dropped the last ACK. Few enough that TCP's repeats find room."""
    w = world()
    w.node.sysctl("net.core.somaxconn", 8)
    w.start()
    w.agent.signal(signal.SIGSTOP)
    load = w.load(count=24, up=500, down=500, timeout=100)
    wait_for(lambda: w.node.counters().get("TcpExtListenOverflows", 0), "a full backlog")
    w.agent.signal(signal.SIGCONT)
    load.all_ok()
