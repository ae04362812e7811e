"""One rented machine on its way to serving: which stage it is in, since when, and when to give it up.

A state machine over looks at the contract: `rental` feeds it, it answers pending, ready or failed. Knows no HTTP, no
clock and no API; time is passed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from components.vast.label import parse_nonce
from components.vast.models import Contract
from components.vast.probe import Probe, ProbeResult
from components.vast.ranking import Candidate, minutes
from components.vast.rental_spec import Deadlines
from components.vast.status import STAGES, Failure, Observation, Stage, observe

AWAY_S = 60.0  # a host without heartbeat this long is given up while it boots
MISSING_S = 45.0  # a new contract may be missing from reads for moments
PROBE_EVERY_S = 1.0  # a server of one's own may be asked as often as one likes
LIST_EVERY_S = 1.5  # the API's list while the next stage is near; Vast.ai takes one read a second (`pacing`)
NEAR_END_PERCENT = 90
LOG_EVERY_S = 60.0  # a server that does not answer yet: the end of its log is read
WORDS: dict[Stage, str] = {
    "rented": "rented",
    "pulling": "pulling",
    "starting": "starting",
    "port": "mapping the port",
    "serving": "loading",
}
DOWNLOADING = re.compile(r"download|fetching \d+ files|\.safetensors|\d+%\|", re.IGNORECASE)


@dataclass(frozen=True)
class StepResult:
    """What a look came to."""

    state: Literal["pending", "ready", "failed"]
    text: str = ""
    failure: Failure | None = None


@dataclass(eq=False, repr=False)
class Attempt:
    """Follows one contract from rented to serving. `rented_at`: by the clock of each `now`."""

    instance_id: int
    container_port: int
    deadlines: Deadlines
    probe: Probe
    rented_at: float
    candidate: Candidate | None = None

    def __post_init__(self) -> None:
        self.contract: Contract | None = None
        self.stage: Stage = "rented"
        self.probed: ProbeResult | None = None
        self.observation: Observation | None = None
        self._progress = ""
        self._stage_since = self._progress_since = self._shown_at = self.rented_at
        self._missing_since: float | None = self.rented_at
        self._away_since: float | None = None
        self._silent_since: float | None = None
        self._shown: Stage | None = None
        self._log, self._log_read_at, self._log_since = "", self.rented_at, self.rented_at

    @property
    def machine_id(self) -> int:
        """The machine that this attempt runs on; 0 while unknown."""
        if self.contract is not None:
            return self.contract.machine_id
        return self.candidate.offer.machine_id if self.candidate else 0

    @property
    def gpu(self) -> str:
        return self.contract.gpu_name if self.contract else (self.candidate.offer.gpu_name if self.candidate else "")

    @property
    def description(self) -> str:
        return f"instance {self.instance_id} on machine {self.machine_id}" + (f" ({self.gpu})" if self.gpu else "")

    def step(self, contract: Contract | None, now: float) -> StepResult:
        """Take one look. `contract` is None when the API does not show the instance (yet, or any more)."""
        if contract is None:
            return self._missing(now)
        self._missing_since = None
        self.contract = contract
        seen = observe(contract, self.container_port)
        self.observation = seen
        if seen.failure is not None:
            return self._failed(seen.failure)
        self._advance(seen, now)
        if seen.away:
            self._away_since = now if self._away_since is None else self._away_since
            if now - self._away_since > AWAY_S:
                return self._failed(Failure("away", f"the host is {contract.actual_status} for over {AWAY_S:g} s"))
        else:
            self._away_since = None
        if seen.stage == "serving" and seen.port is not None:
            self.probed = self.probe(seen.ip, seen.port, parse_nonce(contract.label))
            if self.probed.verdict == "ready":
                return StepResult("ready", f"serves after {minutes(now - self.rented_at)}: {self.description}")
            if self.probed.verdict == "wrong_certificate":
                why = f"{seen.ip}:{seen.port} shows a certificate that is not this instance's: {self.probed.detail}"
                return self._failed(Failure("certificate", why))
            silent = self.probed.verdict == "no_answer"
            self._silent_since = (now if self._silent_since is None else self._silent_since) if silent else None
        return self._late(now) or StepResult("pending", self.progress(now))

    def is_log_due(self, now: float) -> bool:
        """Whether the end of the container's log is to be read: the API says nothing more of a server that loads."""
        return self.stage == "serving" and now - self._log_read_at >= min(LOG_EVERY_S, self.deadlines.stall_s / 2)

    def read_log(self, log: str, now: float) -> StepResult:
        """Take the end of the log, scrubbed: a download that stands still is given up before the server's deadline."""
        self._log_read_at = now
        if log and log != self._log:
            self._log, self._log_since = log, now
        last = log.rpartition("\n")[2][-160:]
        if now - self._log_since < self.deadlines.stall_s or not DOWNLOADING.search(last):
            return StepResult("pending", self.progress(now))
        still = f"the download of the model stands still for {minutes(self.deadlines.stall_s)}: {last}"
        help_ = "another host may be better connected, or set HF_HUB_DISABLE_XET or HF_ENDPOINT in env"
        return self._failed(Failure("download", f"{still}; {help_}", "either"))

    def due_s(self, now: float, poll_s: float) -> float:
        """Return in how many seconds the next look is due, at most `poll_s`.

        Early, and wherever the next stage may be seconds away, more often than in the middle of a long pull.
        """
        if self.stage == "serving":
            return min(poll_s, PROBE_EVERY_S)
        percent = self.observation.percent if self.observation is not None else None
        if self.stage in ("starting", "port") or (percent or 0) >= NEAR_END_PERCENT:
            return min(poll_s, LIST_EVERY_S)
        return min(poll_s, max(LIST_EVERY_S, (now - self.rented_at) / 10))

    def is_news(self, now: float, every_s: float) -> bool:
        """Whether `progress` is of another stage, or was not said for so long; remembers that it was said."""
        if self.stage == self._shown and now - self._shown_at < every_s:
            return False
        self._shown, self._shown_at = self.stage, now
        return True

    def list_age_s(self, now: float, poll_s: float) -> float:
        """Return how old the list may be in a look: once there is an address, the server itself tells more."""
        return poll_s if self.stage == "serving" else self.due_s(now, poll_s) / 2

    def progress(self, now: float) -> str:
        """Return the stage, how far the whole boot is by its estimate, and names last: a row is cut at its end.

        What the host says of its pull is the percentage of one layer, which runs backwards with the next.
        """
        detail = self.probed.detail if self.stage == "serving" and self.probed is not None else ""
        names = f"instance {self.instance_id} on machine {self.machine_id}"
        return ", ".join(filter(None, (f"{WORDS[self.stage]} {self._share(now)}", self.gpu, detail, names)))

    def _share(self, now: float) -> str:
        took_s, estimate_s = now - self.rented_at, self.candidate.ready_s if self.candidate else 0.0
        if not estimate_s:
            return f"for {minutes(took_s)}"
        if took_s >= estimate_s:
            return f"99 %, {minutes(took_s - estimate_s)} over the estimate"
        return f"{min(int(100 * took_s / estimate_s), 99)} %, {minutes(estimate_s - took_s)} left"

    def _advance(self, seen: Observation, now: float) -> None:
        if STAGES.index(seen.stage) > STAGES.index(self.stage):
            self.stage = seen.stage
            self._stage_since = now
        if seen.progress != self._progress:
            self._progress = seen.progress
            self._progress_since = now
        self._progress_since = max(self._progress_since, self._stage_since)

    def _late(self, now: float) -> StepResult | None:
        limit = self.deadlines.of(self.stage)
        if self._silent_since is not None and now - self._silent_since > self.deadlines.port_s:
            limit = self.deadlines.port_s  # packets are dropped on the way: waiting for the server will not help
        if now - self._stage_since > limit:
            return self._failed(self._overdue(f"over its deadline of {minutes(limit)}"))
        # a server that loads weights says nothing through the API: only the deadline ends that stage
        if self.stage != "serving" and now - self._progress_since > self.deadlines.stall_s:
            return self._failed(self._overdue(f"no progress for {minutes(self.deadlines.stall_s)}"))
        return None

    def _overdue(self, why: str) -> Failure:
        last = f"; last seen: {self._progress[:200]}" if self._progress else ""
        if self.stage == "port":
            return Failure("port", f"no port was mapped, {why}{last}")
        if self.stage == "serving":
            saw = self.probed.detail if self.probed else "not probed"
            silent = self.probed is not None and self.probed.verdict == "no_answer"
            if silent:
                return Failure("unreachable", f"its port is mapped but cannot be reached ({saw}), {why}")
            return Failure("not-serving", f"the server does not answer as it should ({saw}), {why}", "either")
        return Failure(self.stage, f"stage '{self.stage}' {why}{last}")

    def _missing(self, now: float) -> StepResult:
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since > MISSING_S:
            return self._failed(Failure("vanished", "the API does not know the instance any more"))
        return StepResult("pending", self.progress(now))

    def _failed(self, failure: Failure) -> StepResult:
        return StepResult("failed", failure.text, failure)
