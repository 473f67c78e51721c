# SPDX-License-Identifier: Apache-2.0
"""Everything at once over links that lose packets, in an order that the seed repeats: LLMD_CHAOS_SEED and LLMD_CHAOS_SECONDS
choose another run. Whatever happens to agent and pods, no byte may be wrong and nobody may wait for ever. (Links do not flap
here: that loses RSTs, for which nobody asks again. See test_ends.py.)"""
import os
import random
import signal
import time

from conftest import only
from lib_agent import BUILD
from lib_link import bad_link
from lib_net import wait_for
from lib_peer import fetch, stream_body

SEED = int(os.environ.get("LLMD_CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("LLMD_CHAOS_SECONDS", "10"))
NOUNS = (("summary",), ("flow", "list"), ("session", "list"), ("prefix", "list"), ("endpoint", "list"), ("counter", "list"))
OPTIONS = ("--on-eject", "reset")  # the more that happens at once the better
HANGS = 60  # s; a guard: packets that are lost again and again are repeated at twice the distance each time


class Chaos:
    def __init__(self, world):
        self.w, self.random, self.log = world, random.Random(SEED), []

    def kill_agent(self):
        self.w.agent.kill()
        self.w.agent = self.w.start_agent(*OPTIONS)

    def replace_agent(self):
        self.w.agent.signal(signal.SIGTERM)
        wait_for(lambda: not self.w.agent.alive(), "the old agent's end", 60)
        self.w.agent = self.w.start_agent(*OPTIONS)

    def stop_agent(self):
        self.w.agent.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.05, 0.6))
        self.w.agent.signal(signal.SIGCONT)

    def kill_pod(self):
        i = self.random.randrange(len(self.w.net.pods))
        self.w.pods[i].kill()
        self.w.pods[i].end()
        time.sleep(self.random.uniform(0, 0.5))
        self.w.netpod(i)
        self.w.pods[i] = self.w.pods.pop()

    def look(self):
        for noun in NOUNS:
            self.w.node.run(f"{BUILD}/llmd-maps", "-j", "--pin-dir", self.w.pin_dir, *noun)

    def hang_up(self):
        self.w.agent.signal(signal.SIGHUP)

    def rest(self):
        time.sleep(0.4)

    def run(self, moves):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            move = self.random.choice(moves)
            self.log.append(move.__name__)
            move()
            time.sleep(self.random.uniform(0, 0.4))


def state(w):
    """What is open, for the message of a failure."""
    text = [w.node.run(f"{BUILD}/llmd-maps", "--pin-dir", w.pin_dir, "flow", "list"), w.node.run("conntrack", "-L", "-p", "tcp", check=False)]
    text += [f"{n.name}\n{n.run('ss', '-tnpoi')}" for n in w.net.namespaces()]
    return "\n".join([*text, w.agent.get("/v1/endpoints")[1], w.agent.text()[-3000:]])


def all_end(w, chaos, loads):
    """Every client has come to an end, good or bad; it does not give up by itself before that."""
    for load in loads:
        wait_for(lambda load=load: load.process.poll() is not None, lambda: f"all clients, seed {SEED}, after {chaos.log}: {state(w)}", HANGS)
    results = [load.result() for load in loads]
    what = f"seed {SEED}, after {chaos.log}: {results}"
    assert not any(r["wrong"] or r["timeout"] for r in results), what
    return results, what


def nothing_is_held(w, chaos):
    wait_for(lambda: fetch(w.client, stream_body(500))[0] == 200, "an answer after all that")
    wait_for(lambda: w.kernel_flows() == 0, lambda: f"no flow left, seed {SEED}, after {chaos.log}: {state(w)}", HANGS)
    wait_for(lambda: all(e["inflight_requests"] == e["inflight_tokens"] == 0 for e in w.agent.json("/v1/endpoints")),
             lambda: f"no request in flight, seed {SEED}, after {chaos.log}: {state(w)}", HANGS)


def begin(world, directory):
    """Three pods; streams, short requests, long prompts sent slowly, and clients that give up in the middle of an answer."""
    w = world(pods=3)
    w.node.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "ACCEPT")  # turns tracking on
    bad_link(directory, w.client, "c0", drop=200, hold=300)
    bad_link(directory, w.net.pods[0], "eth0", drop=100)
    w.start(*OPTIONS)
    always = dict(count=1 << 30, concurrency=2000, seconds=SECONDS, retry_refused=1)
    return w, [w.load(**always, timeout=300, rate=150, up=3000, down=3000, chunk=300, gap=50),
               w.load(**always, timeout=300, rate=200, up=100, down=100, seed=1 << 20),
               w.load(**always, timeout=300, rate=20, up=300_000, down=200_000, chunk=5000, gap=5, up_chunk=60_000, up_gap=3, seed=1 << 30)], \
        w.load(**always, timeout=1, rate=50, down=20_000, chunk=200, gap=40, seed=1 << 40)


@only("kernel")
def test_agents_and_pods_die(world, tmp_path):
    """Agents that are killed, replaced and stopped, pods that are killed; tools that read what the kernel holds."""
    w, loads, _ = begin(world, tmp_path)
    chaos = Chaos(w)
    chaos.run([chaos.kill_agent, chaos.kill_agent, chaos.replace_agent, chaos.stop_agent, chaos.kill_pod, chaos.look, chaos.hang_up, chaos.rest])
    results, what = all_end(w, chaos, loads)
    assert all(r["ok"] > 0 for r in results), what  # how many depends on how long agents take to start on this machine
    nothing_is_held(w, chaos)
