# SPDX-License-Identifier: Apache-2.0
"""Several agents and one Redis: nothing that befalls it harms a request, and in the end all agents know the same."""
import http.client
import json
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import BUILD, Agent, wait_for
from events_cluster import SAN, ask, ask_in_turn, blocks, bound, cluster, is_live, redis, secret, under_load  # noqa: F401 (some are fixtures)
from redis_server import Redis

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


@pytest.mark.parametrize("how", ["killed", "flushed", "stopped"])
def test_redis_goes_away_under_load(cluster, under_load, how):
    c = cluster()
    work = under_load(c.agents)
    if how == "killed":
        c.redis.kill()
        work.go_on(60)
        for agent in c.agents:
            assert wait_for(lambda: agent.json("/readyz")["redis"]["state"] == "connecting", "the loss to show") and agent.get("/readyz")[0] == 200
        c.redis.start()
    elif how == "flushed":
        c.redis("FLUSHALL")
    else:
        c.redis.signal(signal.SIGSTOP)
        time.sleep(4 if SAN else 10)
        work.go_on()
        c.redis.signal(signal.SIGCONT)
    work.go_on(60)
    c.live()
    where = c.agree(work.stop())
    c.blocks_agree()
    if how != "stopped":
        assert all(wait_for(lambda: agent.metric('llmd_events_resyncs_total{why="gap"}'), "the gap to be counted") for agent in c.agents)
    # What Redis holds now is enough for an agent that knows nothing, though it was empty in between.
    wait_for(lambda: len(c.redis("KEYS", "llmd:session:*")) >= len(where), "all sessions in the snapshot", 60)
    late = c.agent()
    wait_for(lambda: is_live(late), "the late agent", 60)
    wait_for(lambda: c.known(late, where) == list(where.values()), lambda: f"{c.known(late, where)} to be {list(where.values())}", 60)
    wait_for(lambda: blocks(late) == blocks(c.agents[0]), lambda: f"{blocks(late)} to be {blocks(c.agents[0])}", 60)


def test_emptied_and_the_last_entry_s_number_used_again(cluster):
    """As happens when Redis is emptied and written to within a millisecond."""
    c = cluster()
    ask_in_turn(c.agents, [f"before-{i}" for i in range(9)])
    c.live()
    last = c.redis("XREVRANGE", "llmd:events", "+", "-", "COUNT", 1)[0][0]
    c.redis.connection.many([("MULTI",), ("FLUSHALL",), ("XADD", "llmd:events", last, "v", 1, "t", "hello"), ("EXEC",)])
    assert all(wait_for(lambda a=a: a.metric('llmd_events_resyncs_total{why="gap"}'), "the gap to be counted") for a in c.agents)
    c.agree([f"before-{i}" for i in range(9)])
    c.blocks_agree()
    wait_for(lambda: len(c.redis("KEYS", "llmd:session:*")) == 9, "all sessions in the snapshot", 60)


def test_trimmed_past_a_stopped_agent(cluster, secret):
    c = cluster(options=("--redis-stream-max", "1024"))
    late = c.agents[2]
    late.process.send_signal(signal.SIGSTOP)
    try:
        keys = [f"missed-{i}" for i in range(30)]
        ask_in_turn(c.agents[:2], keys)
        for n in range(1, 9):  # not faster than the others follow
            c.redis.connection.many(("XADD", "llmd:events", "MAXLEN", "~", 1024, "*", "v", 1, "t", "hello") for _ in range(500))
            wait_for(lambda: all(a.metric('llmd_events_applied_total{kind="hello"}') >= 500 * n for a in c.agents[:2]), "the others to follow")
        assert c.redis("XLEN", "llmd:events") < 2000
    finally:
        late.process.send_signal(signal.SIGCONT)
    c.agree(keys)
    c.blocks_agree()
    wait_for(lambda: late.metric('llmd_events_resyncs_total{why="gap"}') >= 1, "the gap to be counted")
    assert sum(a.metric('llmd_events_resyncs_total{why="gap"}') for a in c.agents[:2]) == 0


def test_an_agent_starts_again(cluster):
    c = cluster()
    keys = [f"user-{i}" for i in range(20)]
    ask_in_turn(c.agents, keys)
    where = c.agree(keys)
    c.agents[1].process.kill()
    c.agents[1].process.wait()
    c.agents[1].process.returncode = 0  # as we wanted
    c.redis("DEL", "llmd:events")  # trimmed away: it is the snapshot that tells
    c.agents[1] = c.agent()
    c.live()
    assert c.agree(keys) == where
    c.blocks_agree()


def refuse_memory(c):
    c.redis("CONFIG", "SET", "maxmemory", "1")
    return lambda: c.redis("CONFIG", "SET", "maxmemory", "0")


def refuse_as_replica(c):
    c.redis("CONFIG", "SET", "replica-serve-stale-data", "yes")
    c.redis("REPLICAOF", "127.0.0.1", "1")
    return lambda: c.redis("REPLICAOF", "NO", "ONE")


def spoil_types(c):
    for key in ("events", *(f"pod:{pod}" for pod in c.pods)):
        c.redis("SET", f"llmd:{key}", "a string")
    return lambda: c.redis("DEL", "llmd:events")  # the pods' keys stay as they are: they hold nothing else up


@pytest.mark.parametrize("fault, name", [(refuse_memory, "oom"), (refuse_as_replica, "readonly"), (spoil_types, "wrong_type")])
def test_redis_refuses(cluster, under_load, fault, name):
    c = cluster(2, 4)
    work = under_load(c.agents)
    mend = fault(c)
    for agent in c.agents:
        wait_for(lambda: agent.metric(f'llmd_redis_refused_total{{why="{name}"}}') > 0, f"{name} to be counted")
        wait_for(lambda: agent.json("/readyz")["redis"]["writes"] is False, "the fault to show")
        assert agent.get("/readyz")[0] == 200
    work.go_on()
    mend()
    c.live()
    c.agree(work.stop())


def test_garbage_in_the_stream(cluster, under_load):
    c = cluster(2, 4)
    work = under_load(c.agents)
    choose = random.Random(7)
    before = [a.metric("process_resident_memory_bytes") for a in c.agents]
    bad = [
        (("v", 2, "t", "bind"), "version"), (("v", "x", "t", "bind"), "version"), (("v", 1, "t", "sing"), "kind"), (("t", "bind"), "missing"),
        (("v", 1, "t", "bind", "s", "0" * 16), "missing"), (("v", 1, "t", "bind", "s", "xyz", "pod", c.pods[0]), "field"),
        (("v", 1, "t", "stored", "pod", "nowhere", "block", 512, "h", b"12345678"), "field"),
        (("v", 1, "t", "stored", "pod", c.pods[0], "block", 512, "h", b"1234567"), "field"),
        (("v", 1, "t", "stored", "pod", c.pods[0], "block", 512, "h", b"x" * (1 << 20)), "field"),
        (("v", 1, "t", "load", "a", "0" * 16, "every", 500, "load", "," * 1000), "field"),
        ((b"\0" * (1 << 20), b"\xff" * (1 << 20), "v", 1), "missing"),
    ]
    for fields, _ in bad:
        c.redis("XADD", "llmd:events", "*", *fields)
    for _ in range(300):
        c.redis("XADD", "llmd:events", "*", *[choose.randbytes(choose.randrange(1, 40)) for _ in range(2 * choose.randrange(1, 8))])
    for _ in range(20):  # an entry of 1 MiB each, next to each other
        c.redis("XADD", "llmd:events", "*", "v", 1, "t", "hello", "x", b"y" * (1 << 20))
    for key, value in (("session:zz", "x"), ("session:" + "1" * 16, "nowhere"), ("session:" + "2" * 16, b"\0\xff"), ("drain:nowhere", "1"), ("pod:1", "x")):
        c.redis("SET", f"llmd:{key}", value)
    for agent, memory in zip(c.agents, before):
        for why in {why for _, why in bad}:
            wait_for(lambda: agent.metric(f'llmd_events_malformed_total{{why="{why}"}}') >= sum(w == why for _, w in bad), f"{why} to be counted", 60)
        wait_for(lambda: agent.metric('llmd_events_applied_total{kind="hello"}') >= 20, "what follows garbage", 60)
        assert agent.metric("process_resident_memory_bytes") < memory + (256 if SAN else 24) * (1 << 20)
    late = c.agent()  # which reads the spoilt snapshot, too
    wait_for(lambda: is_live(late) and late.metric("llmd_events_snapshot_errors_total") >= 4, "the late agent", 60)
    c.agents.append(late)
    c.agree(work.stop())


def test_ids_that_others_have_chosen(cluster):
    """As late as ids can be: what stands there is of now, and does not keep an agent reading the same page for ever."""
    c = cluster(1, 2)
    pod = f"llmd:pod:{c.pods[0]}"
    c.redis.connection.many(("XADD", pod, f"7-{n}", "v", 1, "t", "stored", "pod", c.pods[0], "block", 512, "h", b"%08d" % (n % 10**8))
                            for n in [*range(1, 128), 2**64 - 1])
    late = c.agent()
    wait_for(lambda: is_live(late) and blocks(late)[c.pods[0]] == 128, "the late agent to have read a page that ends there")
    c.agents.append(late)
    for ms in (2**63 - 1, 2**63, 2**64 - 2):
        c.redis("XADD", "llmd:events", f"{ms}-0", "v", 1, "t", "bind", "s", f"{ms:016x}", "pod", c.pods[1])
    for agent in c.agents:
        wait_for(lambda: agent.metric('llmd_events_applied_total{kind="bind"}') == 3, "all three to be taken")
        assert agent.metric("llmd_events_lag_seconds") == 0


def test_what_cannot_be_told_is_bounded(cluster, under_load):
    """More than the queue holds while Redis takes nothing: the oldest go, are counted, and all is told again afterwards."""
    c = cluster(2, 4, options=("--prefix-block", "16", "--endpoint-blocks", "20000"))
    mend = refuse_memory(c)
    n = 30 if SAN else 320
    for i in range(n):  # some 2048 blocks of 16 bytes each, 8 bytes a block, all others than the request before
        assert ask(c.agents[0], f"wide-{i}", f"{i:8}" + "x" * 36000) == 200
    agent = c.agents[0]
    queued = agent.metric("llmd_events_queued_bytes")
    assert 0 < queued <= agent.metric("llmd_events_queue_max_bytes") == 4 << 20
    assert SAN or agent.metric("llmd_events_dropped_total") > 0, queued
    mend()
    c.live()
    c.agree([f"wide-{i}" for i in range(n)])


# ---- all know the same in the end ----


def silence(c):
    """Agents write and cannot read."""
    c.redis("ACL", "SETUSER", "default", "-xread")
    for agent in c.agents:
        wait_for(lambda: agent.json("/readyz")["redis"]["reads"] is False or agent.metric("llmd_redis_lost_connections_total"), "the readers to be refused", 60)
    return lambda: c.redis("ACL", "SETUSER", "default", "+xread")


def told(c):
    wait_for(lambda: all(agent.metric("llmd_events_queued_bytes") == 0 for agent in c.agents), "all to be told", 60)


def post(agent, pod, what):
    connection = http.client.HTTPConnection("127.0.0.1", agent.admin, timeout=60)
    connection.request("POST", f"/v1/endpoints/{pod}/{what}")
    assert connection.getresponse().status == 200
    connection.close()


def view(agent, keys):
    """What an agent knows that all should know."""
    return {"drained": sorted(e["address"] for e in agent.json("/v1/endpoints") if e["state"] == "draining"), "blocks": blocks(agent), "sessions": [bound(agent, k) for k in keys]}


def same(c, keys, note=""):
    views = lambda: [view(agent, keys) for agent in c.agents]
    wait_for(lambda: all(v == views()[0] for v in views()), lambda: f"one view {note}: {views()}", 60)
    return view(c.agents[0], keys)


def test_own_words_that_are_never_read(cluster):
    """Two agents bind the same sessions, hear neither each other nor themselves, and the stream is gone: the snapshot decides."""
    c = cluster(2, 4)
    speak = silence(c)
    keys = [f"deaf-{i}" for i in range(12)]
    for key in keys:
        for agent in c.agents:
            assert ask(agent, key) == 200
    told(c)
    c.redis("DEL", "llmd:events")
    speak()
    c.live()
    c.agree(keys)
    c.redis("FLUSHALL")  # and whose they were they still are: somebody tells them again
    wait_for(lambda: len(c.redis("KEYS", "llmd:session:*")) >= len(keys), "all to be told again", 60)


def test_a_word_that_is_lost_is_not_waited_for(cluster):
    """Own binds vanish from the stream, unread, and nothing shows that: what is said later is heard all the same."""
    c = cluster(2, 3)
    speak = silence(c)
    for agent in c.agents:
        assert ask(agent, "user") == 200
    told(c)
    session = c.agents[0].json("/v1/sessions/user")["session_hash"]
    binds = [id_ for id_, fields in c.redis("XRANGE", "llmd:events", "-", "+") if b"bind" in fields]
    assert len(binds) == 2 and c.redis("XDEL", "llmd:events", *binds) == 2
    c.redis.add("t", "bind", "s", session, "pod", c.pods[2])
    speak()
    c.live()
    wait_for(lambda: [bound(agent, "user") for agent in c.agents] == [c.pods[2]] * 2, "what was said later", 60)


def test_what_is_told_again_is_older_than_what_was_said_since(cluster, secret):
    """Redis was emptied, and before the agent has read on, another one has bound its session elsewhere: there it stays."""
    c = cluster(2, 3)
    assert ask(c.agents[0], "user") == 200
    old = c.agree(["user"])["user"]
    new = next(pod for pod in c.pods if pod != old)
    speak = silence(c)
    c.redis("FLUSHALL")
    subprocess.run([f"{BUILD}/llmd-events", "--redis", c.redis.url, "inject", "bind", "session=user", f"pod={new}", "--session-secret-file", secret()],
                   check=True, capture_output=True)
    c.redis("CLIENT", "KILL", "TYPE", "normal")  # who connects anew sees that Redis was emptied
    wait_for(lambda: c.redis("EXISTS", "llmd:epoch") and all(a.json("/readyz")["redis"]["writes"] for a in c.agents), "the agents to write again", 60)
    time.sleep(0.5)
    speak()
    c.live()
    told(c)
    time.sleep(0.5)
    assert c.agree(["user"]) == {"user": new}


def test_what_is_taken_back_while_an_agent_is_away(cluster, secret):
    c = cluster(2, 3, options=("--redis-stream-max", "1024"))
    here, there, _ = c.pods
    assert ask(c.agents[0], "user", "hello " * 400) == 200
    at = c.agree(["user"])["user"]
    assert sum(c.blocks_agree().values()) > 0
    post(c.agents[0], here, "drain")
    assert same(c, ["user"])["drained"] == [here]
    speak = silence(c)
    post(c.agents[0], here, "undrain")
    post(c.agents[1], there, "drain")
    told(c)
    for words in (("cleared", f"pod={at}"), ("unbind", "session=user")):
        subprocess.run([f"{BUILD}/llmd-events", "--redis", c.redis.url, "inject", *words, "--session-secret-file", secret()], check=True, capture_output=True)
    c.redis("DEL", "llmd:events")
    speak()
    c.live()
    seen = same(c, ["user"])
    assert seen == {"drained": [there], "blocks": {pod: 0 for pod in c.pods}, "sessions": [None]}
    c.redis("FLUSHALL")  # with it that a pod is drained, which those who come later must know
    late = c.run(Agent, c.pods, "--redis", c.redis.url, *c.options)
    wait_for(lambda: is_live(late) and view(late, ["user"]) == seen, lambda: f"{view(late, ['user'])} to be {seen}", 60)


def test_the_last_word_on_a_drain_stands(cluster):
    """One agent is told to drain before it has heard that another one was told not to."""
    c = cluster(2, 2)
    mend = refuse_memory(c)
    post(c.agents[0], c.pods[0], "drain")
    wait_for(lambda: c.agents[0].json("/readyz")["redis"]["fault"] == "oom", "the fault to show")
    mend()
    c.redis.add("t", "drain", "pod", c.pods[0], "on", 0)  # earlier in the stream than what the agent has still to tell
    told(c)
    assert same(c, [])["drained"] == [c.pods[0]]


def test_of_a_pod_that_went_nothing_is_waited_for(cluster, tmp_path):
    """A bind to a pod that is gone before it could be told: what others say of that session is heard."""
    c = cluster(2, 2)
    a, b = c.pods
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps([a]))
    agent = c.run(Agent, [], "--endpoints-file", str(path), "--redis", c.redis.url, *c.options)
    wait_for(lambda: is_live(agent), "the agent", 60)
    mend = refuse_memory(c)
    assert ask(agent, "user") == 200 and bound(agent, "user") == a
    session = agent.json("/v1/sessions/user")["session_hash"]
    path.write_text(json.dumps([b]))
    wait_for(lambda: [e["address"] for e in agent.json("/v1/endpoints")] == [b], "the other pod", 60)
    mend()
    wait_for(lambda: agent.metric("llmd_events_queued_bytes") == 0, "the queue to be empty", 60)
    c.redis.add("t", "bind", "s", session, "pod", b)
    wait_for(lambda: bound(agent, "user") == b, "the session to be where others say", 60)


def test_redis_goes_back_in_time(cluster, tmp_path):
    """An old dump, as with a replica that lagged: what was told since is told again."""
    c = cluster(2, 2, server=Redis("--dbfilename", "old.rdb"))
    try:
        assert ask(c.agents[0], "before") == 200
        c.agree(["before"])
        c.redis("SAVE")
        assert ask(c.agents[0], "since") == 200
        c.agree(["since"])
        c.redis.kill()
        c.redis.start()
        c.live()
        wait_for(lambda: len(c.redis("KEYS", "llmd:session:*")) == 2, "what was lost to be told again", 60)
        late = c.agent()
        wait_for(lambda: is_live(late) and c.known(late, ["before", "since"]) == c.known(c.agents[0], ["before", "since"]), "the late agent", 60)
    finally:
        c.redis.end()


def stop_for_a_moment(process):
    process.send_signal(signal.SIGSTOP)
    return lambda: process.send_signal(signal.SIGCONT)


def restart(c):
    c.redis.kill()
    return c.redis.start


def spoil_stream(c):
    c.redis("SET", "llmd:events", "a string")
    return lambda: c.redis("DEL", "llmd:events")


def drain_any(c, choose):
    post(choose.choice(c.agents), choose.choice(c.pods[1:]), choose.choice(["drain", "undrain"]))  # one pod is left for all


def test_all_agree_whatever_befell_redis(cluster, under_load):
    """Faults at random, each for a moment, under load and with pods that are drained and not: at the end all agents know the same."""
    c = cluster(3, 4)
    work, seed = under_load(c.agents), random.randrange(1 << 32)
    choose, done = random.Random(seed), []
    at_once = lambda *words: lambda: c.redis(*words) and None
    faults = {
        "lost connections": at_once("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), "stream deleted": at_once("DEL", "llmd:events"),
        "flushed": at_once("FLUSHALL"), "trimmed": at_once("XTRIM", "llmd:events", "MAXLEN", 1), "full": lambda: refuse_memory(c),
        "another type": lambda: spoil_stream(c), "restarted": lambda: restart(c), "hangs": lambda: stop_for_a_moment(c.redis.process),
        "an agent hangs": lambda: stop_for_a_moment(choose.choice(c.agents).process), "not readable": lambda: silence(c),
    }
    for name in choose.sample(list(faults) * 2, 10):
        done.append(name)
        mend = faults[name]()
        drain_any(c, choose) if name != "an agent hangs" else None
        time.sleep(choose.random() / 2)
        if mend:
            mend()
        time.sleep(choose.random() / 4)
    work.go_on()
    c.live()
    keys = work.stop()
    told(c)
    assert all(same(c, keys, f"after {done}, seed {seed}")["sessions"])


def test_a_drain_that_flaps_does_not_fill_the_log(cluster):
    """Anybody may say so in the stream, as fast as he likes."""
    c = cluster(1, 2)
    n = 500
    c.redis.connection.many(("XADD", "llmd:events", "*", "v", 1, "t", "drain", "pod", c.pods[0], "on", i % 2) for i in range(2 * n + 1))
    c.redis.add("t", "drain", "pod", c.pods[0], "on", 1)
    wait_for(lambda: c.agents[0].metric('llmd_events_applied_total{kind="drain"}') == 2 * n + 2, "all to be applied")
    assert same(c, [])["drained"] == [c.pods[0]]
    changes = open(c.agents[0].log).read().count(f'"endpoint state changed" endpoint={c.pods[0]}')
    assert 5 < changes < n
    assert c.agents[0].metric('llmd_endpoint_transitions_total{from="starting",to="draining"}') >= n
