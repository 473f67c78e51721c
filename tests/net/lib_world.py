# SPDX-License-Identifier: Apache-2.0
"""One test's world: namespaces, pods, the agent with one of the data paths; all of it is gone after the test."""
import contextlib
import os
import shutil
import signal

import lib_kernel
from lib_agent import POD_PORT, PORT, Agent, NetClient, NetPod, endpoints
from lib_net import Net, pod_address, wait_for
from lib_peer import Pod, dial


class World:
    def __init__(self, datapath, directory, bpffs, **net):
        self.datapath, self.directory, self.kernel = datapath, directory, datapath == "kernel"
        self.pin_dir = os.path.join(bpffs, "v1")
        if self.kernel:
            os.makedirs(bpffs, exist_ok=True)  # a test that is run again
        self.net = Net(**net)
        self.client, self.node = self.net.client, self.net.node
        self.pods, self.agents, self.clients, self.peers = [], [], [], []
        self.agent = None

    # -- starting things

    def netpod(self, i=0, **options):
        pod = NetPod(self.net.pods[i], self.directory / f"pod{i}-{len(self.pods)}.log", **options)
        self.pods.append(pod)
        return pod

    def silence(self, i=0):
        """From now on the pod's node takes connections, and no data."""
        self.net.pods[i].run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(POD_PORT), "-m", "length", "--length", "100:", "-j", "DROP")

    def script(self, behave, i=0, **options):
        """A pod that is a function of the request."""
        pod = Pod(self.net.pods[i], behave, **options)
        self.pods.append(pod)
        return pod

    def start_agent(self, *options, handoff="always", address=pod_address, listen=(f"0.0.0.0:{PORT}",), pods=None, started=True, pin_dir=None, **more):
        """An agent for the pods of the net; the first one is self.agent."""
        n = len(self.net.pods) if pods is None else pods
        arguments = [x for a in listen for x in ("--listen", a)] + endpoints(n, address)
        arguments += lib_kernel.datapath_options(self.datapath, pin_dir or self.pin_dir, handoff)
        agent = Agent(self.node, self.directory / f"agent{len(self.agents)}.log", [*arguments, *options], **more)
        self.agents.append(agent)
        if started:
            agent.wait_started()
        self.agent = self.agent or agent
        return agent

    def start(self, *options, **more):
        """netpod in every pod and the agent, ready."""
        for i in range(len(self.net.pods)):
            self.netpod(i)
        agent = self.start_agent(*options, **more)
        agent.ready(len(self.net.pods))
        return agent

    def load(self, host=None, port=PORT, **options):
        arguments = {"host": host} if host else {}
        client = NetClient(self.client, options, port=port, **arguments)
        self.clients.append(client)
        return client

    def dial(self, **options):
        """A connection to the agent; closed in the end."""
        peer = dial(self.client, **options)
        self.peers.append(peer)
        return peer

    # -- asking things

    def handed_over(self):
        counts = [lib_kernel.handed_over(agent) for agent in self.agents if agent.alive()]
        return None if None in counts else sum(counts)

    def assert_handed_over(self, n, at_most=None):
        """That many connections really went to the kernel; the relay has none."""
        if not self.kernel or self.handed_over() is None:
            return
        wait_for(lambda: self.handed_over() >= n, lambda: f"{n} handed over, not only {lib_kernel.handoff_results(self.agent)}", 10)
        assert at_most is None or self.handed_over() <= at_most

    def kernel_flows(self):
        return lib_kernel.flows(self.pin_dir) if self.kernel else 0

    # -- the end

    def end(self):
        """Ends all, whatever fails; exit codes of the agents that were not killed."""
        codes = []
        with contextlib.ExitStack() as stack:  # runs last to first
            stack.callback(shutil.rmtree, self.pin_dir, ignore_errors=True)
            stack.callback(self.net.remove)
            if self.kernel:
                stack.callback(lib_kernel.cleanup, self.node, self.pin_dir)
            for pod in self.pods:
                stack.callback(pod.end)
            for agent in self.agents:
                stack.callback(self.end_agent, agent, codes)
            for peer in self.peers:
                stack.callback(peer.close)
            for client in self.clients:
                stack.callback(client.end)
        return codes

    @staticmethod
    def end_agent(agent, codes):
        if agent.alive() or agent.process.returncode != -signal.SIGKILL:
            codes.append(agent.end())
