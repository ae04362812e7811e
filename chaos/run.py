"""One chaos run: an operation on a stack, under a fault of the market and a kill of the CLI, then one clean `up`.

What must hold after it: what is billed is exactly what the state declares. Called by `chaos.__main__` and by a test.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.ledger_file import ledger_file
from components.vast.bill import cost_usd
from components.vast.client import VastClient
from components.vast.label import PENDING, nonce_of
from components.vast.ledger import Entry, fold, missing
from components.vast.pacing import OFF, Pacer
from emulator.client import ControlClient, ControlError
from harness.stack import EMULATOR_KEY, Done, EngineStack
from ops.schedule import DAYS

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
# of the reads of the list: in seconds it would come to something else on a machine of another speed, as boots are short
LAG = {"reads": 3}
# fault -> the only endpoint that it meets
ENDPOINTS = {"lost_answer_before": "rent", "lost_answer_after": "rent", "lost_destroy_answer": "destroy"}
TIMEOUTS_S = {"rented": 3, "starting": 3, "port": 3, "serving": 5, "stall": 4, "api": 4}
# a contract in the stack's ledger differs by no more from what the market billed
LEDGER_S, LEDGER_USD = 2.0, 0.02
CONFIG = {f"timeouts.{name}_s": value for name, value in TIMEOUTS_S.items()} | {"min_runway_h": 0, "max_tries": 8}
ENGINE, PLUGIN = b"pulumi", b"pulumi.dynamic"  # as a command line has them
MOST_REPLICAS = 2  # `ops scale` goes from one to two and back, by a schedule
SCALE = ("--sample-s", "0.1")
ALWAYS = {"days": list(DAYS), "from": "00:00", "to": "00:00"}


@dataclass(frozen=True)
class Scenario:
    """What one run does, all of it decided by the seed; the kill comes `after_s` after the start, or the first rent."""

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
        return cls(
            seed=seed,
            operation=dice.choice(OPERATIONS),
            fault=dice.choice(FAULTS),
            times=dice.choice((1, 1, 2, 3)),
            kill=dice.choice(KILLS),
            since=(since := dice.choice(("start", "rented", "rented"))),
            after_s=dice.uniform(0.3, 4.5) if since == "start" else dice.uniform(0.0, 1.4),
            server_fault=dice.choice(SERVER_FAULTS),
        )


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
    rented_after: set[int] = field(default_factory=set)
    unlike: list[str] = field(default_factory=list)
    off: Difference = Difference()

    @property
    def good(self) -> bool:
        """Whether exactly the declared instances are billed, nothing was rented after an interrupt, and the stack's
        ledger has every contract."""
        return not (self.leaked or self.missing or self.stuck or self.unmarked or self.rented_after or self.unlike)


class Runner:
    """A market and a stack that live through many runs."""

    def __init__(self, folder: Path, market: ControlClient) -> None:
        self.market = market
        replicas = {"min": 1, "max": MOST_REPLICAS}
        self.stack = EngineStack(folder, market.url, name="chaos", config=CONFIG | {"replicas": replicas}).init()
        self.client = VastClient(EMULATOR_KEY, pacer=Pacer(OFF), api_url=market.url)
        self._variant = 0
        self._wanted = {1}  # how many replicas there may be after a run
        self._fired: dict[str, int] = {}

    def run(self, scenario: Scenario) -> Result:
        self.market.faults_off()
        self._prepare(scenario)
        if scenario.fault != "none":
            self.market.post("faults", **self._rule(scenario))
        if scenario.server_fault != "none":
            # with a chance: of servers that start from here on
            rule = {"kind": scenario.server_fault, "times": scenario.times, "chance": 1}
            self.market.post("faults", **rule)
        killed, after = self._kill(self._start(scenario.operation), scenario)
        unmarked = self._unmarked() if killed else set()
        self.market.faults_off()
        result = self._judge(scenario)
        result.unlike, result.off = self._unlike()
        result.unmarked, result.killed, result.rented_after = unmarked, killed, after
        fired: dict[str, int] = self._ledger()["fired"]
        result.fired = {kind: count - self._fired.get(kind, 0) for kind, count in fired.items()}
        self._fired = fired
        return result

    def _ledger(self) -> dict[str, Any]:
        return self.market.get("ledger")

    def _unlike(self) -> tuple[list[str], Difference]:
        """Return how the stack's ledger differs from the market's, before and after what `ops cost` adds to it."""
        stack, now = f"vast-reranker/{self.stack.name}", time.time()
        ledger, market = ledger_file(stack, self.stack.env, self.stack.project), self._ledger()["contracts"]
        events = ledger.events()
        intents = {one.nonce for one in events if one.kind == "intent"}
        texts = [f"no intent of {row['label']}" for row in market if nonce_of(row["label"]) not in intents]
        for event in missing(fold(events), self.client.instances(), self.client.charges(0, now), stack, now, new_s=0):
            ledger.append(event)
        entries, most = fold(ledger.events()), Difference()
        for row in market:
            entry = entries.get(row["id"])
            if entry is None or (entry.until is None) != (row["destroyed_at"] is None):
                texts.append(f"not so in the ledger: {entry}, {row}")
                continue
            found = difference(entry, row)
            most |= found
            if found.seconds > LEDGER_S or found.usd > LEDGER_USD:
                texts.append(f"{found}: {entry}, {row}")
        return texts, most

    def _rented(self) -> set[int]:
        return {one["id"] for one in self._ledger()["contracts"]}

    def billed(self) -> dict[int, dict[str, Any]]:
        """Return the contracts that cost something now, by id."""
        return {one["id"]: one for one in self._ledger()["contracts"] if not one["destroyed_at"]}

    def _unmarked(self) -> set[int]:
        """Return contracts that boot, that no state knows, and whose label does not say so: the mark would be missing
        to whoever finds them. (One that serves already may have been cut off just before its state was saved.)"""
        booting = {id_: one for id_, one in self.billed().items() if one["status"] != "running"}
        return {id_ for id_, one in booting.items() if not one["label"].endswith(PENDING)} - self.stack.instances()

    # ---- one step each -------------------------------------------------------------------------------------------

    def _start(self, operation: str) -> subprocess.Popen[str]:
        if operation == "scale":
            return self.stack.start_ops("scale", *SCALE)
        return self.stack.start("destroy" if operation == "destroy" else "up", "--yes", "--skip-preview")

    def _prepare(self, scenario: Scenario) -> None:
        if scenario.operation == "create":
            self.stack.destroy()
        if scenario.operation == "scale" and not self.stack.instances():
            self.stack.up()
        present = len(self.stack.instances()) or 1
        self._wanted = {1, present} if scenario.operation == "destroy" else {present}
        if scenario.operation == "scale":
            self._wanted = {MOST_REPLICAS if present < MOST_REPLICAS else 1}
            self.stack.write_config(schedule={"windows": [ALWAYS | {"replicas": max(self._wanted)}]})
        if scenario.operation in ("update", "replace"):
            self._variant += 1
        if scenario.operation == "update":
            self.stack.write_config({"timeouts.probe_window_s": 1 + self._variant % 3})
        if scenario.operation == "replace":
            self.stack.write_config(dtype=("float32", "half")[self._variant % 2])
        if scenario.operation == "heal":
            for instance_id in self.billed():
                with suppress(ControlError):  # it is gone
                    self.market.instance(instance_id, "kill")

    def _rule(self, scenario: Scenario) -> dict[str, Any]:
        kind = "lost_answer_after" if scenario.fault == "lost_destroy_answer" else scenario.fault
        endpoint = ENDPOINTS.get(scenario.fault)
        params = LAG if kind == "lag" else {}
        return {"kind": kind, "match": {"endpoint": endpoint} if endpoint else {}, "times": scenario.times} | params

    def _kill(self, process: subprocess.Popen[str], scenario: Scenario) -> tuple[bool, set[int]]:
        """Kill as drawn, wait for the end of it; whether there was still something to kill, and what was rented after
        the one interrupt: a rent call may be on its way then, a second one not."""
        before: set[int] = set()
        if scenario.kill != "none":
            if scenario.since == "rented":
                self._await_contract(process)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=scenario.after_s)
        alive = scenario.kill != "none" and process.poll() is None
        if alive:
            children = pids_of(self.stack.project, PLUGIN, *[ENGINE] * (scenario.kill == "power-loss"))
            for number, sent in enumerate(SIGNALS.get(scenario.kill, ())):
                time.sleep(0.3 * number)
                process.send_signal(sent)
            with suppress(subprocess.TimeoutExpired):  # an interrupt reaches the plugin by way of the engine
                process.communicate(timeout=0.5 if scenario.kill == "sigint" else 0)
            before = self._rented()
            if scenario.kill in ("sigkill-plugin", "power-loss"):
                kill(children)
        process.communicate(timeout=180)
        self._wait_for_plugins(scenario)
        return alive, self._rented() - before if alive and scenario.kill == "sigint" else set()

    def _await_contract(self, process: subprocess.Popen[str]) -> None:
        """Wait until this operation has rented or destroyed something, or is over."""
        before, deadline = set(self.billed()), time.monotonic() + 15
        while process.poll() is None and time.monotonic() < deadline and set(self.billed()) == before:
            time.sleep(0.02)

    def _wait_for_plugins(self, scenario: Scenario) -> None:
        """An engine that lost `ops scale`, and a plugin that lost its engine, end by themselves in good order; a plugin
        that never came to run a verb of ours knows nothing to clean up, and idles for ever, as Pulumi's do: it is ended
        here."""
        deadline = time.monotonic() + 60
        while pids := pids_of(self.stack.project, PLUGIN, ENGINE):
            if time.monotonic() > deadline - 50:
                kill(pid for pid in pids_of(self.stack.project, PLUGIN) if not has_called_out(pid))
            if time.monotonic() > deadline:
                raise TimeoutError(f"seed {scenario.seed}: {pids} live on, of an engine and its plugins")
            time.sleep(0.1)

    def _ops(self, *args: str) -> Done:
        process = self.stack.start_ops(*args)
        text, _ = process.communicate(timeout=180)
        return Done(process.returncode, text)

    def _judge(self, scenario: Scenario) -> Result:
        result = Result(scenario)
        self.stack.run("cancel", "--yes")
        if scenario.operation == "scale":
            done = self._ops("deploy")
            result.leaked = set(self.billed()) - self.stack.instances()
            done = self._ops("scale", *SCALE) if done.rc == 0 else done
        else:
            done = self.stack.up()
        if done.rc != 0:
            result.stuck = done.text[-2000:]
            return result
        declared, billed = self.stack.instances(), set(self.billed())
        result.leaked |= billed - declared
        result.missing = declared - billed
        for one in self._ledger()["contracts"]:
            result.leaked_usd += one["cost_usd"] if one["id"] in result.leaked else 0
            if one["id"] in declared and one["label"].endswith(PENDING):
                result.stuck = f"instance {one['id']} is in the state, but its label still says pending"
        if len(declared) not in self._wanted:
            result.stuck = f"the state declares {len(declared)} instances, wanted are {self._wanted}"
        return result


def difference(entry: Entry, row: Mapping[str, Any]) -> Difference:
    """Return how a contract in the ledger differs from the market's own row of it."""
    late = max(abs(entry.since - row["rented_at"]), abs((entry.until or 0.0) - (row["destroyed_at"] or 0.0)))
    return Difference(1, late, abs(cost_usd(entry, time.time()) - row["cost_usd"]))


def kill(pids: Iterable[int]) -> None:
    """End processes at once; those that are gone already are no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids_of(project: Path, *words: bytes) -> list[int]:
    """Return the processes in a project's folder that have one of some words on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            given = {os.path.basename(one) for one in (entry / "cmdline").read_bytes().split(b"\0")}
            if given & set(words) and (entry / "cwd").resolve() == project.resolve():
                found.append(int(entry.name))
    return found


def has_called_out(pid: int) -> bool:
    """Whether a plugin has made an HTTP call: the look-up of a host loads a native module, which its maps then show."""
    with suppress(OSError):
        return "unicodedata" in Path(f"/proc/{pid}/maps").read_text()
    return False
