# SPDX-License-Identifier: Apache-2.0
"""Agents that share through one Redis, a real one: fixtures and what the tests ask of them."""
import http.client
import json

import pytest
from conftest import BUILD, Agent, wait_for
from redis_server import Redis
from session_load import Load

SECRET, OTHER_SECRET = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
SAN = "san" in BUILD


@pytest.fixture
def redis():
    started = []

    def start(*options):
        started.append(Redis(*options))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def secret(tmp_path):
    def write(text=SECRET):
        path = tmp_path / f"secret-{text[:4]}"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def cluster(run, sim, redis, secret):
    """cluster(agents, pods) starts them, with one Redis, live."""

    def start(n=3, pods=8, options=(), server=None):
        return Cluster(run, redis() if server is None else server, sim(pods), n, ["--session-secret-file", secret(), *options])

    return start


class Cluster:
    def __init__(self, run, redis, pods, n, options):
        self.run, self.redis, self.pods, self.options = run, redis, pods, options
        self.agents = [self.agent() for _ in range(n)]
        self.live()

    def agent(self):
        agent = self.run(Agent, self.pods, "--redis", self.redis.url, *self.options)
        agent.ready(len(self.pods))
        return agent

    def live(self):
        for agent in self.agents:
            wait_for(lambda: is_live(agent), "the agent to follow the stream", 60)

    def agree(self, keys, seconds=60):
        """All agents know the same of these sessions, and that all of them are bound."""
        wait_for(lambda: len({json.dumps(self.known(agent, keys)) for agent in self.agents}) == 1 and all(self.known(self.agents[0], keys)),
                 lambda: f"agreement: {[self.known(agent, keys) for agent in self.agents]}", seconds)
        return dict(zip(keys, self.known(self.agents[0], keys)))

    def blocks_agree(self):
        wait_for(lambda: len({json.dumps(blocks(agent)) for agent in self.agents}) == 1, "equal prefix indexes", 60)
        return blocks(self.agents[0])

    @staticmethod
    def known(agent, keys):
        return [bound(agent, key) for key in keys]


def is_live(agent):
    redis = agent.json("/readyz")["redis"]
    return redis["state"] == "live" and redis["writes"]


def bound(agent, key):
    return agent.json(f"/v1/sessions/{key}").get("endpoint")


def blocks(agent):
    return {e["address"]: e["prefix_blocks"] for e in agent.json("/v1/endpoints")}


def ask(agent, session=None, text="hello", tokens=1):
    """The status of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
    headers = {"X-Session-ID": session} if session else {}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": "sim", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}), headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def ask_in_turn(agents, keys):
    """A request of each session, through one agent after the other."""
    for i, key in enumerate(keys):
        assert ask(agents[i % len(agents)], key, f"{key} " * 200) == 200


@pytest.fixture
def under_load():
    loads = []

    def start(agents):
        loads.append(Load(ask, agents))
        loads[-1].go_on()
        return loads[-1]

    yield start
    for thing in loads:
        thing.end()
