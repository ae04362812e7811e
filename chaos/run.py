"""One chaos run: an operation on a stack, under a fault of the market and a kill of the CLI, then one clean `up`.

What must hold after it: what is billed is exactly what the state declares. Called by `chaos.__main__` and by a test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chaos.scenario import SIGNALS, SLOW, Difference, Result, Scenario
from components.ledger_file import ledger_file
from components.vast.bill import cost_usd
from components.vast.client import VastClient
from components.vast.label import PENDING, parse_nonce
from components.vast.ledger import Entry, fold, missing_events
from components.vast.models import Contract
from components.vast.pacing import OFF, Pacer
from emulator.client import ControlClient, ControlError
from harness.stack import EMULATOR_KEY, Done, EngineStack
from ops.schedule import DAYS

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
        if slow := SLOW.get(scenario.since):
            self.market.post("faults", times=scenario.times, chance=1, **slow)
        self.market.post("requests/reset")
        rented = self._rented()
        met = self._kill(self._start(scenario.operation), scenario, rented)
        met.unmarked = self._unmarked() if met.killed else set()
        self.market.faults_off()
        result = self._judge(met)
        result.unlike, result.off = self._unlike()
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
        texts = [f"no intent of {row['label']}" for row in market if parse_nonce(row["label"]) not in intents]
        for event in missing_events(
            fold(events), self.client.instances(), self.client.charges(0, now), stack, now, new_s=0
        ):
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

    def _kill(self, process: subprocess.Popen[str], scenario: Scenario, rented: set[int]) -> Result:
        """Kill as drawn, wait for the end of it; whether there was still something to kill, and what was rented after
        the one interrupt: a rent call may be on its way then, a second one not. What was rented before is `rented`."""
        result, before = Result(scenario), set[int]()
        if scenario.kill != "none":
            billed = set(self.billed())
            if scenario.since in SLOW:
                self._await(process, lambda: self._stage(rented) == scenario.since)
            elif scenario.since == "rented":
                self._await(process, lambda: set(self.billed()) != billed)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0 if scenario.since in SLOW else scenario.after_s)
        result.killed = scenario.kill != "none" and process.poll() is None
        if result.killed:
            result.stage = self._stage(rented) if scenario.since in SLOW else ""
            children = pids_of(self.stack.project, PLUGIN, *[ENGINE] * (scenario.kill == "power-loss"))
            for number, sent in enumerate(SIGNALS.get(scenario.kill, ())):
                time.sleep(0.3 * number)
                process.send_signal(sent)
            with suppress(subprocess.TimeoutExpired):  # an interrupt reaches the plugin by way of the engine
                process.communicate(timeout=0.5 if scenario.kill == "sigint" else 0)
            before = self._rented()
            if scenario.kill in ("sigkill-plugin", "power-loss"):
                kill(children)
        text, _ = process.communicate(timeout=180)
        self._wait_for_plugins(scenario)
        if result.killed and scenario.kill == "sigint":
            result.rented_after = self._rented() - before
            result.left = self.billed().keys() - rented
            result.unnamed = {id_ for id_ in result.left if str(id_) not in text}
        return result

    def _await(self, process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
        """Wait until this operation is as far as that, or is over."""
        deadline = time.monotonic() + 60
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

    def _judge(self, result: Result) -> Result:
        self.stack.run("cancel", "--yes")
        if result.scenario.operation == "scale":
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
