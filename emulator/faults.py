"""Faults for tests: rules with a kind, a match and a number of times.

Request faults act on a call (see `http_faults`). Boot faults are bound to a contract at its rent (see `boot`). Market
faults act on a running contract (see `events`), server faults on the server in its container (see `server_faults`). A
new kind needs an entry in a table here and a branch in the module that applies it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

BEFORE = ("http_429", "http_502_html", "http_500", "http_error", "auth_expired", "hang", "lost_answer_before")
AFTER = ("lost_answer_after", "malformed_json")
BOOT = (
    "oci_error", "pull_error", "stuck_created", "stuck_loading", "exited_at_boot", "app_error", "port_never_mapped",
    "port_unreachable", "never_serves", "download_stalls", "offline_at_boot",
)  # fmt: skip
MARKET = ("outbid", "end_contract", "price_increase")
RENT = ("offer_taken", "lag", "success_false", "no_credit")
OTHER = ("queued_start",)
# On the server: its port, TLS, answers. The last two work with any process, the others with the stub only.
SERVER = (
    "firewall", "hang_after_accept", "hang_after_tls", "hang_after_request", "slow_answer", "drip", "endless_header",
    "huge_answer", "gzip_bomb", "redirect", "cut_answer", "nan_scores", "null_scores", "wrong_order", "frozen",
    "disk_full",
)  # fmt: skip
KINDS = (*BEFORE, *AFTER, *BOOT, *MARKET, *RENT, *OTHER, *SERVER)
NUMERIC_PARAMS = frozenset({"seconds", "reads", "after_s", "factor", "status", "chance", "every_s", "mb"})
# Chaos uses the other kinds by default: a client must survive those without an operator.
NO_CHAOS = ("hang", "auth_expired", "http_error", "no_credit", "end_contract", "disk_full", *SERVER)
CHAOS = tuple(kind for kind in KINDS if kind not in NO_CHAOS)
# The end of vLLM's log after an application error, by variant.
APP_ERRORS = {
    "unknown_flag": "vllm serve: error: unrecognized arguments: --no-such-flag",
    "unknown_model": (
        "OSError: nobody/no-such-model is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'"
    ),
    "out_of_memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.70 "
        "GiB of which 1.12 GiB is free.\nRuntimeError: Engine core initialization failed."
    ),
    "disk_full": "OSError: [Errno 28] No space left on device",
}


@dataclass
class Rule:
    """A fault: its kind, its match, its remaining count (None: unlimited), its parameters."""

    id: int
    kind: str
    match: dict[str, Any] = field(default_factory=dict)
    times: int | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def fits(self, context: dict[str, Any]) -> bool:
        """Return whether it applies to the call or machine described by `context`."""
        return self.times != 0 and all(context.get(key) == value for key, value in self.match.items())


class Faults:
    """The active rules, and how often each kind fired."""

    def __init__(self, seed: int = 0) -> None:
        self.rules: list[Rule] = []
        self.fired: dict[str, int] = {}
        self._ids = itertools.count(1)
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def add(self, kind: str, match: dict[str, Any], times: int | None, params: dict[str, Any]) -> Rule:
        """Add a fault. params["chance"] is its probability to fire. Raises ValueError."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
        for name in NUMERIC_PARAMS & params.keys():
            if isinstance(params[name], bool) or not isinstance(params[name], int | float):
                raise ValueError(f"{name} must be a number, not {params[name]!r}")
        rule = Rule(next(self._ids), kind, match, times, params)
        self.rules.append(rule)
        return rule

    def chaos(self, seed: int, rate: float, kinds: Iterable[str] = CHAOS) -> None:
        """Add faults that fire at random with probability `rate`. Raises ValueError for an unknown kind."""
        self._dice.seed(seed)
        for kind in kinds:
            self.add(kind, {}, None, {"chance": rate})

    def clear(self) -> None:
        self.rules.clear()

    def remove(self, rule_id: int) -> None:
        self.rules = [rule for rule in self.rules if rule.id != rule_id]

    def take(self, *kinds: str, ready: Callable[[Rule], bool] = lambda _: True, **context: Any) -> Rule | None:
        """Return the first rule of these kinds that applies, and count it as fired; None if no rule applies."""
        for rule in self.rules:
            if rule.kind in kinds and rule.fits(context) and ready(rule):
                if self._dice.random() >= float(rule.params.get("chance", 1.0)):
                    continue
                if rule.times is not None:
                    rule.times -= 1
                self.fired[rule.kind] = self.fired.get(rule.kind, 0) + 1
                return rule
        return None

    def dump(self) -> dict[str, Any]:
        """Return the state to save."""
        return {"rules": [asdict(rule) for rule in self.rules], "fired": self.fired}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the state that `dump` returned."""
        self.rules = [Rule(**fields) for fields in state["rules"]]
        self.fired = dict(state["fired"])
        self._ids = itertools.count(max((rule.id for rule in self.rules), default=0) + 1)
