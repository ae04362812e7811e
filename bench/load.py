"""The load of the serving bench, by locust: a plan as JSON on stdin, figures as JSON on stdout. Run by `bench.serving`.

A process of its own, because locust's gevent patches the interpreter it runs in. A plan on stdin, so that no key is on
a command line. The loop is closed: each user sends its next request when its last one is answered.
"""

from __future__ import annotations

import itertools
import json
import random
import ssl
import sys
import time
from typing import Any

import gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment

from bench.serving import PROGRESS

WORDS = (
    *("deep", "learning", "network", "model", "neural", "data", "weather", "city", "river", "bread", "stone", "light"),
    *("market", "engine", "garden", "window", "letter", "music", "winter", "paper", "summer", "forest"),
)
TIMEOUT_S = 120.0
WARM_UP_S = 0.5
POLL_S = 0.02


class Reranking(FastHttpUser):
    """Sends /rerank requests, each with other texts, so that no cache answers."""

    abstract = True
    wait_time = constant(0)
    connection_timeout = network_timeout = TIMEOUT_S
    insecure = False  # certificates are checked
    target: dict[str, Any]
    pairs: int
    words: int
    serial = itertools.count()

    @task
    def rerank(self) -> None:
        """Send one request."""
        dice = random.Random(next(self.serial))
        texts = [" ".join(dice.choices(WORDS, k=self.words)) for _ in range(self.pairs)]
        body = {"model": self.target["model"], "query": f"what is {dice.choice(WORDS)}?", "documents": texts}
        headers = {"Authorization": f"Bearer {self.target['key']}"} if self.target["key"] else {}
        with self.client.post("/rerank", json=body, headers=headers, catch_response=True) as answer:
            if answer.status_code == 200 and len((answer.json() or {}).get("results") or ()) == self.pairs:
                answer.success()
            else:
                answer.failure(f"HTTP {answer.status_code}")


def run(plan: dict[str, Any], target: dict[str, Any], pairs: int, users: int) -> dict[str, Any]:
    """Return one cell: latencies in ms of what was answered within the time, how many requests failed, and why.

    It lasts the plan's seconds, and longer until as many requests have ended as are in flight: a batch that takes
    longer than that would seem never to be answered. Not longer than the plan's seconds and a request's timeout.
    """
    context = staticmethod(lambda: ssl.create_default_context(cafile=target["ca"]))
    attributes = {"host": target["url"], "target": target, "ssl_context_factory": context}
    user = type("User", (Reranking,), attributes | {"pairs": pairs, "words": plan["words"]})
    environment = Environment(user_classes=[user])
    runner = environment.create_local_runner()
    latencies: list[float] = []
    failures: list[str] = []

    def noted(response_time: float, exception: Exception | None, **_: Any) -> None:
        if exception is None:
            latencies.append(response_time)
        else:
            failures.append(str(exception)[:200])

    environment.events.request.add_listener(noted)  # type: ignore[no-untyped-call]
    runner.start(users, spawn_rate=max(users, 1))
    gevent.sleep(WARM_UP_S)
    latencies.clear()
    start = time.perf_counter()
    gevent.sleep(plan["seconds"])
    while len(latencies) + len(failures) < users and time.perf_counter() - start < plan["seconds"] + TIMEOUT_S:
        gevent.sleep(POLL_S)
    took_s, done = time.perf_counter() - start, list(latencies)
    runner.quit()
    told = {"target": target["name"], "pairs": pairs, "users": users}
    return told | {"took_s": took_s, "ms": done, "failures": list(failures)}


def main() -> None:
    """Run the plan: each round has every target at each batch size and width, their order turned by one each round."""
    plan = json.load(sys.stdin)
    cells = []
    for number in range(plan["rounds"]):
        turn = number % len(plan["targets"])
        turned = plan["targets"][turn:] + plan["targets"][:turn]
        for pairs, users, target in itertools.product(plan["pairs"], plan["users"], turned):
            cell = run(plan, target, pairs, users)
            cells.append(cell | {"round": number})
            rate = len(cell["ms"]) / cell["took_s"]
            where = f"round {number + 1}/{plan['rounds']}, {pairs} pairs, {users} in flight, {target['name']}"
            sys.stderr.write(f"{PROGRESS}{where}: {rate:.1f} requests/s\n")
    json.dump(cells, sys.stdout)


if __name__ == "__main__":
    main()
