"""State machine of one rented instance, from rented to serving: its stage, its deadlines, its failure.

`rental` passes in each observation of the contract; the result is pending, ready or failed. Uses no HTTP, clock or API.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from components.vast.label import parse_nonce
from components.vast.models import Contract, Offer
from components.vast.probe import Probe, ProbeResult
from components.vast.ranking import Candidate, minutes
from components.vast.rental_spec import Deadlines
from components.vast.status import STAGES, Failure, Observation, Stage, observe

AWAY_S = 60.0  # a booting host without heartbeat for this long has failed
MISSING_S = 45.0  # a new contract may be absent from the API's list for a short time
PROBE_EVERY_S = 1.0  # the rented server has no rate limit
LIST_EVERY_S = 1.5  # the API's list, if the next stage is near; Vast.ai allows one read per second (`pacing`)
NEAR_END_PERCENT = 90
LOG_EVERY_S = 60.0  # how often the log of a loading server is read
STAGE_NAMES: dict[Stage, str] = {
    "rented": "rented",
    "pulling": "pulling",
    "starting": "starting",
    "port": "mapping the port",
    "serving": "loading",
}
DOWNLOADING = re.compile(r"download|fetching \d+ files|\.safetensors|\d+%\|", re.IGNORECASE)


@dataclass(frozen=True)
class StepResult:
    """The state of an attempt after one observation."""

    state: Literal["pending", "ready", "failed"]
    text: str = ""
    failure: Failure | None = None


@dataclass(eq=False, repr=False)
class Attempt:
    """Follows one contract from rented to serving. `rented_at` is in seconds of the same clock as each `now`."""

    instance_id: int
    container_port: int
    deadlines: Deadlines
    probe: Probe
    rented_at: float
    candidate: Candidate | None = None

    def __post_init__(self) -> None:
        self.contract: Contract | None = None
        self.stage: Stage = "rented"
        self.probe_result: ProbeResult | None = None
        self.observation: Observation | None = None
        self._progress = ""
        self._stage_since = self._progress_since = self._reported_at = self.rented_at
        self._missing_since: float | None = self.rented_at
        self._away_since: float | None = None
        self._unreachable_since: float | None = None
        self._reported_stage: Stage | None = None
        self._log, self._log_read_at, self._log_since = "", self.rented_at, self.rented_at

    @property
    def _machine(self) -> Contract | Offer:
        return self.contract or (self.candidate.offer if self.candidate else Contract(self.instance_id))

    @property
    def machine_id(self) -> int:
        """The machine of this attempt; 0 if unknown."""
        return self._machine.machine_id

    @property
    def description(self) -> str:
        gpu = self._machine.gpu_name
        return f"instance {self.instance_id} on machine {self.machine_id}" + (f" ({gpu})" if gpu else "")

    def step(self, contract: Contract | None, now: float) -> StepResult:
        """Process one observation. `contract`: None if the API does not list the instance."""
        if contract is None:
            self._missing_since = now if self._missing_since is None else self._missing_since
            if now - self._missing_since > MISSING_S:
                return _failed(Failure("vanished", "the API no longer lists the instance"))
            return StepResult("pending", self.progress(now))
        self._missing_since = None
        self.contract = contract
        observation = self.observation = observe(contract, self.container_port)
        if observation.failure is not None:
            return _failed(observation.failure)
        self._advance(observation, now)
        if observation.is_away:
            self._away_since = now if self._away_since is None else self._away_since
            if now - self._away_since > AWAY_S:
                return _failed(Failure("away", f"the host is {contract.actual_status} for over {AWAY_S:g} s"))
        else:
            self._away_since = None
        if observation.stage == "serving" and observation.port is not None:
            ip, port = observation.ip, observation.port
            self.probe_result = self.probe(ip, port, parse_nonce(contract.label))
            verdict = self.probe_result.verdict
            if verdict == "ready":
                return StepResult("ready", f"serves after {minutes(now - self.rented_at)}: {self.description}")
            if verdict == "wrong_certificate":
                why = f"{ip}:{port} presents a certificate that is not this instance's: {self.probe_result.detail}"
                return _failed(Failure("certificate", why))
            if verdict != "no_answer":
                self._unreachable_since = None
            elif self._unreachable_since is None:
                self._unreachable_since = now
        return self._check_deadlines(now) or StepResult("pending", self.progress(now))

    def is_log_due(self, now: float) -> bool:
        """Whether to read the end of the container's log now. The API reports nothing else about a loading server."""
        return self.stage == "serving" and now - self._log_read_at >= min(LOG_EVERY_S, self.deadlines.stall_s / 2)

    def read_log(self, log: str, now: float) -> StepResult:
        """Process the end of the log, scrubbed. A stalled download fails before the deadline of the serving stage."""
        self._log_read_at = now
        if log and log != self._log:
            self._log, self._log_since = log, now
        last_line = log.rpartition("\n")[2][-160:]
        if now - self._log_since < self.deadlines.stall_s or not DOWNLOADING.search(last_line):
            return StepResult("pending", self.progress(now))
        stalled = f"the download of the model stands still for {minutes(self.deadlines.stall_s)}: {last_line}"
        remedy = "another host may have a better connection, or set HF_HUB_DISABLE_XET or HF_ENDPOINT in env"
        return _failed(Failure("download", f"{stalled}; {remedy}", "either"))

    def due_s(self, now: float, poll_s: float) -> float:
        """Return the seconds until the next observation, at most `poll_s`.
        Shorter at the start, and if the next stage may be seconds away; longer in the middle of a long pull."""
        if self.stage == "serving":
            return min(poll_s, PROBE_EVERY_S)
        percent = self.observation.percent if self.observation is not None else None
        if self.stage in ("starting", "port") or (percent or 0) >= NEAR_END_PERCENT:
            return min(poll_s, LIST_EVERY_S)
        return min(poll_s, max(LIST_EVERY_S, (now - self.rented_at) / 10))

    def is_report_due(self, now: float, every_s: float) -> bool:
        """Whether to report `progress` now: the stage is new, or the last report is old. Records the report."""
        if self.stage == self._reported_stage and now - self._reported_at < every_s:
            return False
        self._reported_stage, self._reported_at = self.stage, now
        return True

    def list_age_s(self, now: float, poll_s: float) -> float:
        """Return how old the API's list may be. Once the address is known, the probe reports more than the list."""
        return poll_s if self.stage == "serving" else self.due_s(now, poll_s) / 2

    def progress(self, now: float) -> str:
        """Return the stage, the share of the estimated boot time, and last the ids, as Pulumi cuts a long row.
        The host's own percentage is not used: it is of one layer and starts again with the next."""
        detail = self.probe_result.detail if self.stage == "serving" and self.probe_result is not None else ""
        stage, ids = STAGE_NAMES[self.stage], f"instance {self.instance_id} on machine {self.machine_id}"
        return ", ".join(filter(None, (f"{stage} {self._boot_share(now)}", self._machine.gpu_name, detail, ids)))

    def _boot_share(self, now: float) -> str:
        elapsed_s, estimate_s = now - self.rented_at, self.candidate.ready_s if self.candidate else 0.0
        if not estimate_s:
            return f"for {minutes(elapsed_s)}"
        if elapsed_s >= estimate_s:
            return f"99 %, {minutes(elapsed_s - estimate_s)} over the estimate"
        return f"{min(int(100 * elapsed_s / estimate_s), 99)} %, {minutes(estimate_s - elapsed_s)} left"

    def _advance(self, observation: Observation, now: float) -> None:
        if STAGES.index(observation.stage) > STAGES.index(self.stage):
            self.stage = observation.stage
            self._stage_since = now
        if observation.progress != self._progress:
            self._progress = observation.progress
            self._progress_since = now
        self._progress_since = max(self._progress_since, self._stage_since)

    def _check_deadlines(self, now: float) -> StepResult | None:
        limit_s, stall_s = self.deadlines.of(self.stage), self.deadlines.stall_s
        if self._unreachable_since is not None and now - self._unreachable_since > self.deadlines.port_s:
            limit_s = self.deadlines.port_s  # the network drops packets, so a longer wait for the server is useless
        if now - self._stage_since > limit_s:
            return _failed(self._timeout(f"over its deadline of {minutes(limit_s)}"))
        # the API reports no progress of a server that loads weights: only the deadline ends that stage
        if self.stage != "serving" and now - self._progress_since > stall_s:
            return _failed(self._timeout(f"no progress for {minutes(stall_s)}"))
        return None

    def _timeout(self, why: str) -> Failure:
        last = f"; last status: {self._progress[:200]}" if self._progress else ""
        if self.stage == "port":
            return Failure("port", f"no port was mapped, {why}{last}")
        if self.stage == "serving":
            detail = self.probe_result.detail if self.probe_result else "not probed"
            if self.probe_result and self.probe_result.verdict == "no_answer":
                return Failure("unreachable", f"its port is mapped but cannot be reached ({detail}), {why}")
            return Failure("not-serving", f"the server does not answer as it should ({detail}), {why}", "either")
        return Failure(self.stage, f"stage '{self.stage}' {why}{last}")


def _failed(failure: Failure) -> StepResult:
    return StepResult("failed", failure.text, failure)
