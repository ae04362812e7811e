"""Faults that a test switches on: rules with a kind, a match and a number of times. Kept apart from the market's rules.

Request faults act on a call (see `routes`), boot faults are bound to a contract when it is rented (see `world`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

REQUEST = (
    "http_429",
    "http_502_html",
    "http_500",
    "malformed_json",
    "lost_answer_before",
    "lost_answer_after",
)
BOOT = (
    "oci_error",
    "pull_error",
    "stuck_loading",
    "exited_at_boot",
    "app_error",
    "port_never_mapped",
    "port_unreachable",
    "never_serves",
    "offline_at_boot",
)
RENT = ("offer_taken", "lag", "success_false", "no_credit")
OTHER = ("queued_start",)
KINDS = (*REQUEST, *BOOT, *RENT, *OTHER)


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

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.fired: dict[str, int] = {}
        self._ids = itertools.count(1)

    def add(self, kind: str, match: dict[str, Any], times: int | None, params: dict[str, Any]) -> Rule:
        """Switch a fault on. Raises ValueError for an unknown kind."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
        rule = Rule(next(self._ids), kind, match, times, params)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Switch everything off."""
        self.rules.clear()

    def take(self, *kinds: str, **context: Any) -> Rule | None:
        """Return the first rule of these kinds that applies, counting it as fired; None when all is well."""
        for rule in self.rules:
            if rule.kind in kinds and rule.fits(context):
                if rule.times is not None:
                    rule.times -= 1
                self.fired[rule.kind] = self.fired.get(rule.kind, 0) + 1
                return rule
        return None
