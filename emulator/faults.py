"""Faults that a test switches on: rules with a kind, a match and a number of times. Kept apart from the market's rules.

Request faults act on a call (see `http_faults`), boot faults are bound to a contract when it is rented, market faults
act on a contract that runs (see `events`), server faults on the server in its container (see `server_faults`). A new
kind is one entry in a table here and one branch where it acts.
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
    "oci_error",
    "pull_error",
    "stuck_loading",
    "exited_at_boot",
    "app_error",
    "port_never_mapped",
    "port_unreachable",
    "never_serves",
    "download_stalls",
    "offline_at_boot",
)
MARKET = ("outbid", "end_contract", "price_increase")
RENT = ("offer_taken", "lag", "success_false", "no_credit")
OTHER = ("queued_start",)
# in the server: its port, its TLS, its answers. The last two act on any process, the others are the stub's
SERVER = (
    "firewall",
    "hang_after_accept",
    "hang_after_tls",
    "hang_after_request",
    "slow_answer",
    "drip",
    "endless_header",
    "huge_answer",
    "gzip_bomb",
    "redirect",
    "cut_answer",
    "nan_scores",
    "null_scores",
    "wrong_order",
    "frozen",
    "disk_full",
)
KINDS = (*BEFORE, *AFTER, *BOOT, *MARKET, *RENT, *OTHER, *SERVER)
NUMBERS = frozenset(
    {"seconds", "reads", "after_s", "factor", "status", "chance", "every_s", "mb"}
)  # parameters that must be numbers
# What chaos draws from by default: every fault that a client must survive without a person.
NO_CHAOS = ("hang", "auth_expired", "http_error", "no_credit", "end_contract", "disk_full", *SERVER)
CHAOS = tuple(kind for kind in KINDS if kind not in NO_CHAOS)
# The end of vLLM's log when the application is at fault, by variant.
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
    """One fault: how often it still fires (None for always), on what, with which parameters."""

    id: int
    kind: str
    match: dict[str, Any] = field(default_factory=dict)
    times: int | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def fits(self, context: dict[str, Any]) -> bool:
        """Whether it applies to a call or machine described by `context`."""
        return self.times != 0 and all(context.get(key) == value for key, value in self.match.items())


class Faults:
    """The rules that are on, and how often each kind has fired."""

    def __init__(self, seed: int = 0) -> None:
        self.rules: list[Rule] = []
        self.fired: dict[str, int] = {}
        self._ids = itertools.count(1)
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def add(self, kind: str, match: dict[str, Any], times: int | None, params: dict[str, Any]) -> Rule:
        """Switch a fault on. With params["chance"] it fires on that share of the occasions. Raises ValueError."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
        for name in NUMBERS & params.keys():
            if isinstance(params[name], bool) or not isinstance(params[name], int | float):
                raise ValueError(f"{name} must be a number, not {params[name]!r}")
        rule = Rule(next(self._ids), kind, match, times, params)
        self.rules.append(rule)
        return rule

    def chaos(self, seed: int, rate: float, kinds: Iterable[str] = CHAOS) -> None:
        """Let faults of these kinds fire at random, on a share of occasions. Raises ValueError for an unknown kind."""
        self._dice.seed(seed)
        for kind in kinds:
            self.add(kind, {}, None, {"chance": rate})

    def clear(self) -> None:
        self.rules.clear()

    def remove(self, rule_id: int) -> None:
        self.rules = [rule for rule in self.rules if rule.id != rule_id]

    def take(self, *kinds: str, ready: Callable[[Rule], bool] = lambda _: True, **context: Any) -> Rule | None:
        """Return the first rule of these kinds that applies, counting it as fired; None when all is well."""
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
        """Return what a restart must know."""
        return {"rules": [asdict(rule) for rule in self.rules], "fired": self.fired}

    def load(self, kept: dict[str, Any]) -> None:
        """Bring back what `dump` returned."""
        self.rules = [Rule(**raw) for raw in kept["rules"]]
        self.fired = dict(kept["fired"])
        self._ids = itertools.count(max((rule.id for rule in self.rules), default=0) + 1)
