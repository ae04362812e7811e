"""The load of a fleet, read from its servers' own /metrics: vLLM's gauges and counters, in which a pair is a request.

Called by ops.scale. Servers are asked at their own addresses with their own keys, behind a gateway too.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from components.scaling import Sample
from ops.outputs import Replica, StackOutputs
from reranker.http import HttpTransport, Unanswered, bearer

TIMEOUT_S = 10.0
MAX_CONCURRENCY = 32
READS = 5  # for each sample: a gauge is of one moment
LINE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LE = re.compile(r'\ble="([^"]+)"')
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
ANSWERED, BUCKET = "vllm:request_success_total", "vllm:e2e_request_latency_seconds_bucket"


@dataclass(frozen=True)
class Scrape:
    """One look at some servers: pairs running and waiting, pairs answered since their start, and these by latency."""

    running: float = 0.0
    waiting: float = 0.0
    answered: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Read a scrape in Prometheus' text form; what it does not have is 0."""
        values: defaultdict[str, float] = defaultdict(float)
        buckets: defaultdict[float, float] = defaultdict(float)
        for name, labels, value in LINE.findall(text):
            values[name] += float(value)
            if name == BUCKET and (bound := LE.search(labels)):
                buckets[float(bound[1])] += float(value)
        return cls(values[RUNNING], values[WAITING], values[ANSWERED], buckets)

    @classmethod
    def total(cls, found: Sequence[Scrape], servers: int) -> Scrape:
        """Return what all servers have together, if those that did not answer have as much as the others."""
        share = servers / len(found)
        buckets: defaultdict[float, float] = defaultdict(float)
        for bound, count in (each for one in found for each in one.buckets.items()):
            buckets[bound] += count
        return cls(
            share * sum(one.running for one in found),
            share * sum(one.waiting for one in found),
            share * sum(one.answered for one in found),
            buckets,
        )


def sample(reads: Sequence[Scrape], took_s: float, at_s: float) -> Sample:
    """Return the mean of some reads, and by the difference of first and last what was answered meanwhile."""
    first, last = reads[0], reads[-1]
    queue = sum(one.waiting for one in reads) / len(reads)
    in_flight = sum(one.running for one in reads) / len(reads) + queue
    answered = max(last.answered - first.answered, 0.0)
    counts = {bound: count - first.buckets.get(bound, 0.0) for bound, count in sorted(last.buckets.items())}
    all_pairs = max(counts.values(), default=0.0)
    p95_s = next((bound for bound, count in counts.items() if count >= 0.95 * all_pairs), None) if all_pairs else None
    return Sample(at_s, in_flight, queue, p95_s, answered / took_s if took_s else None)


def samples(outputs: StackOutputs, keys: Mapping[int, str], *, count: int, sample_s: float) -> list[Sample]:
    """Return samples of `sample_s` each; fewer where no server answers. `keys`: the servers' own, by instance."""
    transport = HttpTransport(ca=outputs.ca_certificate, keep=MAX_CONCURRENCY)

    def ask(one: Replica) -> Scrape | None:
        headers = bearer(keys.get(one.instance_id, outputs.api_key))
        try:
            answer = transport("GET", f"{one.url}/metrics", headers=headers, timeout_s=TIMEOUT_S)
        except Unanswered:
            return None
        return Scrape.parse(answer.text) if answer.status == 200 else None

    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        return [made for _ in range(count) if (made := _one(lambda: list(pool.map(ask, outputs.replicas)), sample_s))]


def _one(read: Callable[[], list[Scrape | None]], sample_s: float) -> Sample | None:
    reads, began = [], time.monotonic()
    for number in range(READS):
        time.sleep(max(began + number * sample_s / (READS - 1) - time.monotonic(), 0))
        rows = read()
        if found := [one for one in rows if one is not None]:
            reads.append(Scrape.total(found, len(rows)))
    return sample(reads, time.monotonic() - began, time.time()) if reads else None
