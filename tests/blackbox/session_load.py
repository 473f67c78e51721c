# SPDX-License-Identifier: Apache-2.0
"""Requests all the time while something else happens; of the tests on the loopback and of those in network namespaces."""
import random
import threading
import time


class Load:
    """Sessions that come through any of @targets. @ask: ask(target, session, text) returns the status. stop() says which sessions there were."""

    def __init__(self, ask, targets, threads=2, sessions=40):
        self.ask, self.targets, self.sessions, self.ended = ask, list(targets), sessions, threading.Event()
        self.used, self.failures, self.done = set(), [], 0
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, seed):
        choose = random.Random(seed)
        while not self.ended.is_set():
            session = f"load-{choose.randrange(self.sessions)}"
            try:
                status = self.ask(choose.choice(self.targets), session, session * 300)
            except Exception as error:  # whatever it is, it is a failed request
                status = error
            self.used.add(session)
            self.done += 1
            if status != 200:
                self.failures.append((session, status))

    def go_on(self, n=30):
        enough, end = self.done + n, time.monotonic() + 60
        while self.done < enough:
            assert time.monotonic() < end, "requests do not go on"
            time.sleep(0.02)

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def stop(self):
        self.end()
        assert not self.failures, self.failures[:5]
        return sorted(self.used)
