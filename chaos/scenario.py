"""The scenario of a chaos run, drawn from a seed, and its result. Used by `chaos.run`."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field, replace
from typing import Any

OPERATIONS = ("create", "create", "update", "replace", "replace", "heal", "heal", "destroy", "scale", "scale")
KILLS = ("none", "sigint", "sigint-twice", "sigterm", "sigkill-cli", "sigkill-plugin", "power-loss")
# signals to the CLI, 0.3 s apart; sigkill-plugin and power-loss also kill the plugins
SIGNALS = {
    "sigint": [signal.SIGINT], "sigint-twice": [signal.SIGINT] * 2, "sigterm": [signal.SIGTERM],
    "sigkill-cli": [signal.SIGKILL], "power-loss": [signal.SIGKILL],
}  # fmt: skip
# fault rules of the emulator; each fires a limited number of times
FAULTS = (
    "none", "lost_answer_before", "lost_answer_after", "offer_taken", "http_429", "http_502_html", "malformed_json",
    "lag", "oci_error", "pull_error", "stuck_loading", "exited_at_boot", "port_never_mapped", "lost_destroy_answer",
)  # fmt: skip
# faults of the server in the container, also limited
SERVER_FAULTS = (
    *("none",) * 4, "hang_after_accept", "hang_after_tls", "hang_after_request", "frozen", "firewall", "drip",
    "endless_header", "cut_answer", "gzip_bomb", "redirect", "null_scores",
)  # fmt: skip
# the stage of a boot for a single SIGINT -> the fault that keeps the boot in this stage: a slow answer or slow hosts
SLOW: dict[str, dict[str, Any]] = {
    "searching": {"kind": "hang", "match": {"endpoint": "search"}, "seconds": 1},
    "renting": {"kind": "stuck_created"}, "pulling": {"kind": "stuck_loading"},
    "loading": {"kind": "never_serves"}, "probing": {"kind": "null_scores"},
    "validating": {"kind": "slow_answer", "seconds": 0.4},
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One run, decided by the seed. The kill happens `after_s` after `since`: the start, the first rental, or (for a
    single SIGINT) a slow stage of a boot."""

    seed: int
    operation: str
    fault: str
    times: int
    kill: str
    since: str
    after_s: float
    server_fault: str

    @classmethod
    def from_seed(cls, seed: int) -> Scenario:
        rng = random.Random(seed)
        scenario = cls(
            seed=seed,
            operation=rng.choice(OPERATIONS),
            fault=rng.choice(FAULTS),
            times=rng.choice((1, 1, 2, 3)),
            kill=rng.choice(KILLS),
            since=(since := rng.choice(("start", "rented", "rented"))),
            after_s=rng.uniform(0.3, 4.5) if since == "start" else rng.uniform(0.0, 1.4),
            server_fault=rng.choice(SERVER_FAULTS),
        )
        return scenario.with_sigint_at(rng.choice(tuple(SLOW))) if scenario.kill == "sigint" else scenario

    def with_sigint_at(self, stage: str) -> Scenario:
        """Return it with a single SIGINT at a stage that is slow, and no other fault."""
        return replace(self, kill="sigint", since=stage, fault="none", server_fault="none", times=8)


@dataclass(frozen=True)
class Difference:
    """The largest differences between contracts in the stack's ledger and in the emulator's ledger."""

    contracts: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def __or__(self, other: Difference) -> Difference:
        seconds, usd = max(self.seconds, other.seconds), max(self.usd, other.usd)
        return Difference(self.contracts + other.contracts, seconds, usd)

    def __str__(self) -> str:
        return f"{self.contracts} contracts, differences of at most {self.seconds:.2f} s and ${self.usd:.4f}"


@dataclass
class RunResult:
    """The result of a run; sets are contract ids."""

    scenario: Scenario
    leaked: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    leaked_usd: float = 0.0
    unmarked: set[int] = field(default_factory=set)
    stuck: str = ""
    fired: dict[str, int] = field(default_factory=dict)
    killed: bool = False
    stage: str = ""
    remaining: set[int] = field(default_factory=set)
    unnamed: set[int] = field(default_factory=set)
    rented_after: set[int] = field(default_factory=set)
    ledger_problems: list[str] = field(default_factory=list)
    ledger_difference: Difference = Difference()

    @property
    def is_ok(self) -> bool:
        """Whether only the declared instances are billed, nothing was rented after an interrupt, the output names the
        instances that an interrupt left, and the stack's ledger has every contract."""
        contracts = self.leaked | self.missing | self.unmarked | self.rented_after | self.unnamed
        return not (contracts or self.stuck or self.ledger_problems)
