"""`python -m bench failover`: the time from each sign of a bad host to the next rental. Called by `bench.__main__`.

Runs the real rental code and client against the emulator. The first host shows one sign, the second host is good.
Deadlines are short to save time; the result is the time beyond the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from components.vast.client import VastClient
from components.vast.instance_cache import InstanceCache
from components.vast.label import Label
from components.vast.market import Search
from components.vast.pacing import OFF, Pacer
from components.vast.probe import HttpProbe
from components.vast.rental import Rental
from components.vast.rental_spec import Deadlines, Order, Spec
from emulator.clock import IMAGE_GB
from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY
from ops.report import table as markdown

POLL_S = 0.2
DEADLINES = Deadlines(rented_s=2, pulling_s=3, starting_s=2, port_s=1, serving_s=2, stall_s=1)
# sign -> the deadline after which the host counts as bad, in seconds
SIGNS = {
    "oci_error": 0.0,
    "pull_error": 0.0,
    "exited_at_boot": 0.0,
    "stuck_loading": DEADLINES.stall_s,
    "port_never_mapped": DEADLINES.port_s,
    "never_serves": DEADLINES.serving_s,
}


@dataclass(frozen=True)
class Failover:
    """One sign: the time between the rentals of the first and the second host, and the deadline within it."""

    sign: str
    rent_to_rent_s: float
    deadline_s: float


def measure() -> list[Failover]:
    """Return one row for each sign."""
    rows = []
    for sign, deadline in SIGNS.items():
        with EmulatorServer(runtime="none", time="instant", keys=[EMULATOR_KEY]) as market:
            market.control.fault(sign, times=1)
            _rent(market.url)
            first, second = (contract["rented_at"] for contract in market.control.ledger())
            rows.append(Failover(sign, second - first, deadline))
    return rows


def table(rows: Sequence[Failover]) -> str:
    """Return the rows as Markdown. The time beyond the deadline is that of detecting, destroying and renting."""
    head = ("sign", "rent to rent", "deadline in it", "beyond it")
    times = [(row.rent_to_rent_s, row.deadline_s, row.rent_to_rent_s - row.deadline_s) for row in rows]
    return markdown(head, [(row.sign, *(f"{s:.2f} s" for s in row_s)) for row, row_s in zip(rows, times, strict=True)])


def _rent(url: str) -> None:
    client = VastClient(EMULATOR_KEY, pacer=Pacer(OFF), api_url=url)
    search = Search("num_gpus=1 gpu_ram>=16", disk_gb=40, pull_gb=IMAGE_GB)
    spec = Spec(image="vllm/vllm-openai:v0.19.1", disk_gb=40, args=("--model", "m"), ports=("8000:8000",))
    probe = HttpProbe(8000, "POST", "/rerank", body={"query": "q", "documents": ["d"]}, timeout_s=1)
    order = Order(spec, Label("bench/failover/x", "0", spec.digest()), 8000, DEADLINES, poll_s=POLL_S)
    Rental(
        client,
        InstanceCache(client),
        order,
        probe=lambda ip, port, _nonce: probe.check(ip, port, {}),
        candidates=search.run(client, now=time.time),
        search=list,
    ).run()
