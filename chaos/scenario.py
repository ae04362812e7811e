"""What a chaos run does, drawn from a seed, and what it came to. Used by `chaos.run`."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field, replace
from typing import Any

OPERATIONS = ("create", "create", "update", "replace", "replace", "heal", "heal", "destroy", "scale", "scale")
KILLS = ("none", "sigint", "sigint-twice", "sigterm", "sigkill-cli", "sigkill-plugin", "power-loss")
# what the CLI gets, 0.3 s apart; the last two kills end the plugins as well
SIGNALS = {
    "sigint": [signal.SIGINT], "sigint-twice": [signal.SIGINT] * 2, "sigterm": [signal.SIGTERM],
    "sigkill-cli": [signal.SIGKILL], "power-loss": [signal.SIGKILL],
}  # fmt: skip
# each is a rule of the emulator that fires a bounded number of times
FAULTS = (
    "none", "lost_answer_before", "lost_answer_after", "offer_taken", "http_429", "http_502_html", "malformed_json",
    "lag", "oci_error", "pull_error", "stuck_loading", "exited_at_boot", "port_never_mapped", "lost_destroy_answer",
)  # fmt: skip
# of the server in the container, bounded likewise: what it does to whoever waits for it to serve
SERVER_FAULTS = (
    *("none",) * 4, "hang_after_accept", "hang_after_tls", "hang_after_request", "frozen", "firewall", "drip",
    "endless_header", "cut_answer", "gzip_bomb", "redirect", "null_scores",
)  # fmt: skip
# where a single SIGINT comes, and the fault of slow hosts that keeps a boot there
SLOW: dict[str, dict[str, Any]] = {
    "searching": {}, "renting": {}, "pulling": {"kind": "stuck_loading"}, "loading": {"kind": "never_serves"},
    "probing": {"kind": "null_scores"}, "validating": {"kind": "slow_answer", "seconds": 0.4},
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """What one run does, all of it decided by the seed; the kill comes `after_s` after the start or the first rent, a
    single SIGINT at a stage of a boot on slow hosts."""

    seed: int
    operation: str
    fault: str
    times: int
    kill: str
    since: str
    after_s: float
    server_fault: str

    @classmethod
    def of(cls, seed: int) -> Scenario:
        dice = random.Random(seed)
        drawn = cls(
            seed=seed,
            operation=dice.choice(OPERATIONS),
            fault=dice.choice(FAULTS),
            times=dice.choice((1, 1, 2, 3)),
            kill=dice.choice(KILLS),
            since=(since := dice.choice(("start", "rented", "rented"))),
            after_s=dice.uniform(0.3, 4.5) if since == "start" else dice.uniform(0.0, 1.4),
            server_fault=dice.choice(SERVER_FAULTS),
        )
        return drawn.at(dice.choice(tuple(SLOW))) if drawn.kill == "sigint" else drawn

    def at(self, stage: str) -> Scenario:
        """Return the same with a single SIGINT at a stage, on hosts that are slow there and have no other fault."""
        return replace(self, kill="sigint", since=stage, fault="none", server_fault="none", times=8)


@dataclass(frozen=True)
class Difference:
    """How far contracts in the stack's ledger are at most from the market's own rows of them."""

    contracts: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def __or__(self, other: Difference) -> Difference:
        seconds, usd = max(self.seconds, other.seconds), max(self.usd, other.usd)
        return Difference(self.contracts + other.contracts, seconds, usd)

    def __str__(self) -> str:
        return f"{self.contracts} contracts, at most {self.seconds:.2f} s and ${self.usd:.4f} off"


@dataclass
class Result:
    """What a run came to."""

    scenario: Scenario
    leaked: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    leaked_usd: float = 0.0
    unmarked: set[int] = field(default_factory=set)
    stuck: str = ""
    fired: dict[str, int] = field(default_factory=dict)
    killed: bool = False
    stage: str = ""
    left: set[int] = field(default_factory=set)
    unnamed: set[int] = field(default_factory=set)
    rented_after: set[int] = field(default_factory=set)
    unlike: list[str] = field(default_factory=list)
    off: Difference = Difference()

    @property
    def good(self) -> bool:
        """Whether exactly the declared instances are billed, nothing was rented after an interrupt, what one left is
        named in the output, and the stack's ledger has every contract."""
        lost = self.leaked | self.missing | self.unmarked | self.rented_after | self.unnamed
        return not (lost or self.stuck or self.unlike)
