"""`python -m bench failover`: for each sign of a bad host, from the sign to the next rent. Called by `bench.__main__`.

The real rental, client and HTTP against the emulator; the first host shows one sign, the second is good. Deadlines are
shortened so that a run is quick: what counts is the time beyond them.
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
# sign -> the deadline that has to pass before it is one, in seconds
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
    """One sign: how long from renting the first host to renting the second, and the deadline in it."""

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
            ledger = market.control.ledger()
            first, second = (one["rented_at"] for one in ledger)
            rows.append(Failover(sign, second - first, deadline))
    return rows


def table(rows: Sequence[Failover]) -> str:
    """Return the rows as Markdown; beyond the deadline is what noticing, destroying and renting took."""
    head = ("sign", "rent to rent", "deadline in it", "beyond it")
    seconds = ((one.sign, one.rent_to_rent_s, one.deadline_s, one.rent_to_rent_s - one.deadline_s) for one in rows)
    return markdown(head, [(sign, *(f"{took:.2f} s" for took in tooks)) for sign, *tooks in seconds])


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
