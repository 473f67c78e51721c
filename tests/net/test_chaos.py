# SPDX-License-Identifier: Apache-2.0
"""Everything at once, in a random order that the seed repeats: LLMD_CHAOS_SEED and LLMD_CHAOS_SECONDS choose another run."""
import os
import random
import signal
import time

from conftest import only
from lib_agent import BUILD, POD_FAULTS
from lib_link import bad_link
from lib_net import wait_for
from lib_peer import fetch, stream_body

SEED = int(os.environ.get("LLMD_CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("LLMD_CHAOS_SECONDS", "12"))
NOUNS = (("summary",), ("flow", "list"), ("session", "list"), ("prefix", "list"), ("endpoint", "list"), ("counter", "list"))


class Chaos:
    def __init__(self, world):
        self.w, self.random, self.log = world, random.Random(SEED), []

    def kill_agent(self):
        self.w.agent.kill()
        self.w.agent = self.w.start_agent()

    def replace_agent(self):
        self.w.agent.signal(signal.SIGTERM)
        wait_for(lambda: not self.w.agent.alive(), "the old agent's end", 60)
        self.w.agent = self.w.start_agent()

    def stop_agent(self):
        self.w.agent.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.05, 0.6))
        self.w.agent.signal(signal.SIGCONT)

    def kill_pod(self):
        i = self.random.randrange(len(self.w.net.pods))
        self.w.pods[i].kill()
        time.sleep(self.random.uniform(0, 0.5))
        self.w.pods.append(self.w.pods[i])  # its log is closed in the end
        self.w.netpod(i)
        self.w.pods[i] = self.w.pods.pop()

    def flap(self):
        device = self.random.choice(["n0", *(f"p{i}" for i in range(len(self.w.net.pods)))])
        self.w.node.run("ip", "link", "set", device, "down")
        time.sleep(self.random.uniform(0.02, 0.3))
        self.w.node.run("ip", "link", "set", device, "up")

    def look(self):
        for noun in NOUNS:
            self.w.node.run(f"{BUILD}/llmd-maps", "-j", "--pin-dir", self.w.pin_dir, *noun)

    def hang_up(self):
        self.w.agent.signal(signal.SIGHUP)

    def rest(self):
        time.sleep(0.4)

    def step(self):
        moves = [self.kill_agent, self.kill_agent, self.replace_agent, self.stop_agent, self.kill_pod, self.flap, self.look, self.hang_up, self.rest]
        move = self.random.choice(moves)
        self.log.append(move.__name__)
        move()
        time.sleep(self.random.uniform(0, 0.4))


@only("kernel")
def test_chaos(world, tmp_path):
    """No byte is wrong, nobody hangs, and in the end nothing is held."""
    w = world(pods=3)
    w.node.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "ACCEPT")
    bad_link(tmp_path, w.client, "c0", drop=200, hold=300)
    bad_link(tmp_path, w.net.pods[0], "eth0", drop=100)
    w.start()
    chaos = Chaos(w)
    always = dict(count=1 << 30, concurrency=2000, seconds=SECONDS, timeout=100, retry_refused=1)
    loads = [w.load(**always, rate=150, up=3000, down=3000, chunk=300, gap=50), w.load(**always, rate=200, up=100, down=100, seed=1 << 20),
             w.load(**always, rate=20, up=300_000, down=200_000, chunk=5000, gap=5, up_chunk=60_000, up_gap=3, seed=1 << 30)]
    w.load(count=1 << 30, concurrency=500, seconds=SECONDS, timeout=1, retry_refused=1, rate=50, down=20_000, chunk=200, gap=40, seed=1 << 40)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        chaos.step()
    for load in loads:
        result = load.result()
        what = f"seed {SEED}: {result}, after {chaos.log}"
        assert result["wrong"] == 0 and result["timeout"] == 0, what
        assert result["ok"] > 0.3 * result["started"], what
    wait_for(lambda: fetch(w.client, stream_body(500))[0] == 200, "an answer after all that")
    w.agent.idle()
    wait_for(lambda: w.kernel_flows() == 0, lambda: f"no flow left, after {chaos.log}: {w.node.run(BUILD + '/llmd-maps', '--pin-dir', w.pin_dir, 'flow', 'list')}", 90)
