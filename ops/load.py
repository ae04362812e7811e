"""The load of a fleet, from its servers' /metrics: gauges and counters of vLLM, which counts each pair as a request.

Called by ops.scale and ops.status. Requests go to each server's address with its own key, also behind a gateway.
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
READS = 5  # per sample, because a gauge is a momentary value
LINE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LE = re.compile(r'\ble="([^"]+)"')
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
ANSWERED, BUCKET = "vllm:request_success_total", "vllm:e2e_request_latency_seconds_bucket"


@dataclass(frozen=True)
class Scrape:
    """Metrics of some servers: pairs running and waiting; pairs answered since the server's start, also by latency."""

    running: float = 0.0
    waiting: float = 0.0
    answered: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Parse Prometheus' text format; a missing metric is 0."""
        values: defaultdict[str, float] = defaultdict(float)
        buckets: defaultdict[float, float] = defaultdict(float)
        for name, labels, value in LINE.findall(text):
            values[name] += float(value)
            if name == BUCKET and (bound := LE.search(labels)):
                buckets[float(bound[1])] += float(value)
        return cls(values[RUNNING], values[WAITING], values[ANSWERED], buckets)

    @classmethod
    def total(cls, scrapes: Sequence[Scrape], servers: int) -> Scrape:
        """Return the total for all servers; those without an answer count as the average of the others."""
        share = servers / len(scrapes)
        buckets: defaultdict[float, float] = defaultdict(float)
        for scrape in scrapes:
            for bound, count in scrape.buckets.items():
                buckets[bound] += count
        return cls(
            share * sum(scrape.running for scrape in scrapes),
            share * sum(scrape.waiting for scrape in scrapes),
            share * sum(scrape.answered for scrape in scrapes),
            buckets,
        )


def sample(reads: Sequence[Scrape], took_s: float, at_s: float) -> Sample:
    """Return the mean of the gauges, and rates from the difference between the last and the first read."""
    first, last = reads[0], reads[-1]
    queue = sum(read.waiting for read in reads) / len(reads)
    in_flight = sum(read.running for read in reads) / len(reads) + queue
    answered = max(last.answered - first.answered, 0.0)
    counts = {bound: count - first.buckets.get(bound, 0.0) for bound, count in sorted(last.buckets.items())}
    total = max(counts.values(), default=0.0)
    p95_s = next((bound for bound, count in counts.items() if count >= 0.95 * total), None) if total else None
    return Sample(at_s, in_flight, queue, p95_s, answered / took_s if took_s else None)


def take_samples(outputs: StackOutputs, keys: Mapping[int, str], *, count: int, sample_s: float) -> list[Sample]:
    """Take `count` samples of `sample_s` each; fewer if no server answers. `keys`: server keys by instance id."""
    transport = HttpTransport(ca=outputs.ca_certificate, keep=MAX_CONCURRENCY)

    def scrape(replica: Replica) -> Scrape | None:
        headers = bearer(keys.get(replica.instance_id, outputs.api_key))
        try:
            answer = transport("GET", f"{replica.url}/metrics", headers=headers, timeout_s=TIMEOUT_S)
        except Unanswered:
            return None
        return Scrape.parse(answer.text) if answer.status == 200 else None

    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        results = [_take_sample(lambda: list(pool.map(scrape, outputs.replicas)), sample_s) for _ in range(count)]
    return [result for result in results if result]


def _take_sample(scrape_all: Callable[[], list[Scrape | None]], sample_s: float) -> Sample | None:
    reads, start = [], time.monotonic()
    for number in range(READS):
        time.sleep(max(start + number * sample_s / (READS - 1) - time.monotonic(), 0))
        rows = scrape_all()
        if scrapes := [row for row in rows if row is not None]:
            reads.append(Scrape.total(scrapes, len(rows)))
    return sample(reads, time.monotonic() - start, time.time()) if reads else None
