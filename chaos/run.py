"""One chaos run: an operation on a stack, under a fault of the market and a kill of the CLI, then one clean `up`.

What must hold after it: what is billed is exactly what the state declares. Called by `chaos.__main__` and by a test.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.ledger_file import ledger_file
from components.vast.bill import cost_usd
from components.vast.client import VastClient
from components.vast.label import PENDING, nonce_of
from components.vast.ledger import Entry, fold, missing
from components.vast.models import Contract
from components.vast.pacing import OFF, Pacer
from emulator.client import ControlClient, ControlError
from harness.stack import EMULATOR_KEY, EngineStack

OPERATIONS = ("create", "create", "update", "replace", "replace", "heal", "heal", "destroy")
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
# of the reads of the list: in seconds it would come to something else on a machine of another speed, as boots are short
LAG = {"reads": 3}
# fault -> the only endpoint that it meets
ENDPOINTS = {"lost_answer_before": "rent", "lost_answer_after": "rent", "lost_destroy_answer": "destroy"}
TIMEOUTS_S = {"rented": 3, "starting": 3, "port": 3, "serving": 5, "stall": 4, "api": 4}
# a contract in the stack's ledger differs by no more from what the market billed
LEDGER_S, LEDGER_USD = 2.0, 0.02
CONFIG = {f"timeouts.{name}_s": value for name, value in TIMEOUTS_S.items()} | {"min_runway_h": 0, "max_tries": 8}


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

    @property
    def good(self) -> bool:
        """Whether exactly the declared instances are billed, nothing was rented after an interrupt, what one left is
        named in the output, and the stack's ledger has every contract."""
        lost = self.leaked | self.missing | self.unmarked | self.rented_after | self.unnamed
        return not (lost or self.stuck or self.unlike)


class Runner:
    """A market and a stack that live through many runs."""

    def __init__(self, folder: Path, market: ControlClient) -> None:
        self.market = market
        self.stack = EngineStack(folder, market.url, name="chaos", config=CONFIG).init()
        self.client = VastClient(EMULATOR_KEY, pacer=Pacer(OFF), api_url=market.url)
        self._variant = 0
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
        if slow := SLOW.get(scenario.since):
            self.market.post("faults", times=scenario.times, chance=1, **slow)
        self.market.post("requests/reset")
        rented = self._rented()
        operation = "destroy" if scenario.operation == "destroy" else "up"
        met = self._kill(self.stack.start(operation, "--yes", "--skip-preview"), scenario, rented)
        met.unmarked = self._unmarked() if met.killed else set()
        self.market.faults_off()
        result = self._judge(met)
        result.unlike = self._unlike()
        fired: dict[str, int] = self._ledger()["fired"]
        result.fired = {kind: count - self._fired.get(kind, 0) for kind, count in fired.items()}
        self._fired = fired
        return result

    def _ledger(self) -> dict[str, Any]:
        return self.market.get("ledger")

    def _unlike(self) -> list[str]:
        """Return how the stack's ledger differs from the market's, before and after what `ops cost` adds to it."""
        stack, now = f"vast-reranker/{self.stack.name}", time.time()
        ledger, market = ledger_file(stack, self.stack.env, self.stack.project), self._ledger()["contracts"]
        events = ledger.events()
        intents = {one.nonce for one in events if one.kind == "intent"}
        unknown = [f"no intent of {row['label']}" for row in market if nonce_of(row["label"]) not in intents]
        for event in missing(fold(events), self.client.instances(), self.client.charges(0, now), stack, now, new_s=0):
            ledger.append(event)
        entries = fold(ledger.events())
        return unknown + [text for row in market if (text := differs(entries.get(row["id"]), row))]

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

    def _prepare(self, scenario: Scenario) -> None:
        if scenario.operation == "create":
            self.stack.destroy()
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

    def _kill(self, process: subprocess.Popen[str], scenario: Scenario, rented: set[int]) -> Result:
        """Kill as drawn, wait for the end of it; whether there was still something to kill, and what was rented after
        the one interrupt: a rent call may be on its way then, a second one not. What was rented before is `rented`."""
        result, before = Result(scenario), set[int]()
        if scenario.kill != "none":
            if scenario.since in SLOW:
                self._await(process, lambda: self._stage(rented) == scenario.since)
            elif scenario.since == "rented":
                self._await(process, lambda: self._rented() > rented)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0 if scenario.since in SLOW else scenario.after_s)
        result.killed = scenario.kill != "none" and process.poll() is None
        if result.killed:
            result.stage = self._stage(rented) if scenario.since in SLOW else ""
            plugins = plugin_pids(self.stack.project)
            for number, sent in enumerate(SIGNALS.get(scenario.kill, ())):
                time.sleep(0.3 * number)
                process.send_signal(sent)
            with suppress(subprocess.TimeoutExpired):  # an interrupt reaches the plugin by way of the engine
                process.communicate(timeout=0.5 if scenario.kill == "sigint" else 0)
            before = self._rented()
            if scenario.kill in ("sigkill-plugin", "power-loss"):
                kill(plugins)
        text, _ = process.communicate(timeout=180)
        self._wait_for_plugins(scenario)
        if result.killed and scenario.kill == "sigint":
            result.rented_after = self._rented() - before
            result.left = self.billed().keys() - rented
            result.unnamed = {id_ for id_ in result.left if str(id_) not in text}
        return result

    def _await(self, process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
        """Wait until this operation is as far as that, or is over."""
        deadline = time.monotonic() + 15
        while process.poll() is None and time.monotonic() < deadline and not reached():
            time.sleep(0.02)

    def _stage(self, rented: set[int]) -> str:
        """Return where an operation is, by the market: "" before its first search."""
        new = [one for one in self._ledger()["contracts"] if one["id"] not in rented and not one["destroyed_at"]]
        if not new:
            return "searching" if any("/bundles/" in call for call in self.market.requests()) else ""
        last = new[-1]
        if last["status"] != "running":
            return "pulling" if last["status"] == "loading" else "renting"
        if not last["label"].endswith(PENDING):
            return "validating"
        contract = self.client.instance(last["id"])
        return "probing" if contract and takes_connections(contract) else "loading"

    def _wait_for_plugins(self, scenario: Scenario) -> None:
        """A plugin that lost its engine cleans up and ends by itself; one that never came to run a verb of ours knows
        nothing to clean up, and idles for ever, as Pulumi's do: it is ended here."""
        deadline = time.monotonic() + 60
        while pids := plugin_pids(self.stack.project):
            if time.monotonic() > deadline - 50:
                kill(pid for pid in pids if not has_called_out(pid))
            if time.monotonic() > deadline:
                raise TimeoutError(f"seed {scenario.seed}: a plugin lives on without its engine")
            time.sleep(0.1)

    def _judge(self, result: Result) -> Result:
        self.stack.run("cancel", "--yes")
        done = self.stack.up()
        if done.rc != 0:
            result.stuck = done.text[-2000:]
            return result
        declared, billed = self.stack.instances(), set(self.billed())
        result.leaked = billed - declared
        result.missing = declared - billed
        for one in self._ledger()["contracts"]:
            result.leaked_usd += one["cost_usd"] if one["id"] in result.leaked else 0
            if one["id"] in declared and one["label"].endswith(PENDING):
                result.stuck = f"instance {one['id']} is in the state, but its label still says pending"
        if len(declared) != 1:
            result.stuck = f"the state declares {len(declared)} instances, one is wanted"
        return result


def differs(entry: Entry | None, row: Mapping[str, Any]) -> str:
    """Return how a contract in the ledger differs from the market's own row of it, or ""."""
    if entry is None:
        return f"contract {row['id']} ({row['label']}) is not in the ledger"
    ends = row["destroyed_at"], entry.until
    late = max(abs(entry.since - row["rented_at"]), abs(ends[1] - ends[0]) if None not in ends else 0.0)
    off = cost_usd(entry, time.time()) - row["cost_usd"]
    if (None in ends and ends[0] != ends[1]) or late > LEDGER_S or abs(off) > LEDGER_USD:
        return f"{late:.1f} s and ${off:.4f} off: {entry}, {row}"
    return ""


def kill(pids: Iterable[int]) -> None:
    """End processes at once; those that are gone already are no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def plugin_pids(project: Path) -> list[int]:
    """Return the plugin processes of a project: `python -m pulumi.dynamic` with its folder as working directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"pulumi.dynamic" in arguments and (entry / "cwd").resolve() == project.resolve():
                found.append(int(entry.name))
    return found


def takes_connections(contract: Contract) -> bool:
    """Whether something listens at the one port that a contract has."""
    for port in contract.ports.values():
        with suppress(OSError), socket.create_connection((contract.public_ip, port), timeout=1):
            return True
    return False


def has_called_out(pid: int) -> bool:
    """Whether a plugin has made an HTTP call: the look-up of a host loads a native module, which its maps then show."""
    with suppress(OSError):
        return "unicodedata" in Path(f"/proc/{pid}/maps").read_text()
    return False
