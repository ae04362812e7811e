"""An operation of the Pulumi CLI that has ended, as its event log tells it. Pure; made by `ops.engine`.

Events are JSON lines, apitype.EngineEvent of pulumi/sdk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.exits import POLICY, OpsError, from_pulumi, strip_prefixes

Json = Any


@dataclass(frozen=True)
class Run:
    """An operation that has ended: its exit code, its events, and the lines that began with "error:"."""

    rc: int
    events: list[Mapping[str, Json]] = field(repr=False)
    errors: list[str]

    def raise_if_failed(self, *, accept: Sequence[int] = (0,)) -> Run:
        """Return itself, or raise the OpsError that its messages amount to."""
        if self.rc in accept:
            return self
        if blocked := self.policies():
            raise OpsError(POLICY, "; and ".join(blocked))
        raise from_pulumi([*self.diagnostics("error"), *self.errors])

    def diagnostics(self, severity: str) -> list[str]:
        """Return the messages of one severity (error, warning, info, info#err), each once, in order."""
        found = [one["diagnosticEvent"] for one in self.events if "diagnosticEvent" in one]
        texts = [str(one.get("message") or "").strip() for one in found if one.get("severity") == severity]
        return list(dict.fromkeys(text for text in texts if text))

    def policies(self) -> list[str]:
        """Return what policies object to, as "policy: RULE: what": from the program's guard or from a policy pack."""
        lines = [line.strip() for text in self.diagnostics("error") for line in text.splitlines()]
        said = [line for line in map(strip_prefixes, lines) if line.startswith("policy: ")]
        return list(dict.fromkeys([*said, *self._from_packs(("mandatory", "remediate"))]))

    def advice(self) -> list[str]:
        """Return what policy packs advise against, and do not block."""
        return list(dict.fromkeys(self._from_packs(("advisory",))))

    def _from_packs(self, levels: Sequence[str]) -> Iterator[str]:
        for one in self.events:
            event = one.get("policyEvent")
            if event and event.get("enforcementLevel") in levels:
                message = " ".join(str(event.get("message")).split())
                yield message if message.startswith("policy: ") else f"policy: {event.get('policyName')}: {message}"
