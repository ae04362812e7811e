"""Query, documents, patience and clock of the tests of the client."""

from emulator.scoring import overlap
from reranker import Patience, Reranker
from tests.client.guarded import KEY

QUERY = "What is deep learning?"
DOCUMENTS = ["I like pizza.", "Deep learning is machine learning.", "The weather is nice.", "Deep learning?"]
QUICK = Patience(connect_s=2, timeout_s=5, deadline_s=10, first_wait_s=0.01, longest_wait_s=0.05)


class Clock:
    """A clock that advances only in `sleep`."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def on_clock(server, clock, **options):
    options = {"patience": Patience(first_wait_s=1, longest_wait_s=4, deadline_s=20)} | options
    return Reranker.from_url(server.url, KEY, server.ca, clock=clock, sleep=clock.sleep, chance=lambda: 0.0, **options)


def expected(documents, query=QUERY):
    return sorted(((overlap(query, text), -index) for index, text in enumerate(documents)), reverse=True)
