"""One chaos run: an operation on a stack with a fault of the market and a kill of the CLI, then one clean `up`.

After it, exactly the instances in the state are billed. Called by `chaos.__main__` and tests.
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

from chaos.scenario import SIGNALS, SLOW, Difference, RunResult, Scenario
from components.stack_ledger import open_ledger
from components.vast.bill import cost_usd
from components.vast.client import VastClient
from components.vast.label import PENDING, parse_nonce
from components.vast.ledger import Entry, fold, missing_events
from components.vast.models import Contract
from components.vast.pacing import OFF, Pacer
from emulator.client import ControlClient, ControlError
from harness.stack import EMULATOR_KEY, CommandResult, EngineStack
from ops.schedule import DAYS

# counted in reads of the list, not in seconds: the result does not depend on the speed of this machine
LAG = {"reads": 3}
# fault -> the only endpoint that it applies to
ENDPOINTS = {"lost_answer_before": "rent", "lost_answer_after": "rent", "lost_destroy_answer": "destroy"}
TIMEOUTS_S = {"rented": 3, "starting": 3, "port": 3, "serving": 5, "stall": 4, "api": 4}
# largest accepted difference between a contract in the stack's ledger and the emulator's
LEDGER_S, LEDGER_USD = 2.0, 0.02
CONFIG = {f"timeouts.{name}_s": value for name, value in TIMEOUTS_S.items()} | {"min_runway_h": 0, "max_tries": 8}
ENGINE, PLUGIN = b"pulumi", b"pulumi.dynamic"  # words of a command line
MAX_REPLICAS = 2  # a schedule lets `ops scale` go from one to two and back
SCALE = ("--sample-s", "0.1")
ALWAYS = {"days": list(DAYS), "from": "00:00", "to": "00:00"}


class Runner:
    """An emulator and a stack for many runs."""

    def __init__(self, folder: Path, market: ControlClient) -> None:
        self.market = market
        replicas = {"min": 1, "max": MAX_REPLICAS}
        self.stack = EngineStack(folder, market.url, name="chaos", config=CONFIG | {"replicas": replicas}).init()
        self.client = VastClient(EMULATOR_KEY, pacer=Pacer(OFF), api_url=market.url)
        self._variant = 0
        self._valid_sizes = {1}  # accepted numbers of replicas after a run
        self._fired: dict[str, int] = {}

    def run(self, scenario: Scenario) -> RunResult:
        self.market.faults_off()
        self._prepare(scenario)
        if scenario.fault != "none":
            self.market.post("faults", **self._fault_rule(scenario))
        if scenario.server_fault != "none":
            # a rule with a chance applies to servers that start later
            self.market.post("faults", kind=scenario.server_fault, times=scenario.times, chance=1)
        if slow := SLOW.get(scenario.since):
            self.market.post("faults", times=scenario.times, chance=1, **slow)
        self.market.post("requests/reset")
        rented = self._rented_ids()
        result = self._interrupt(self._start(scenario.operation), scenario, rented)
        result.unmarked = self._unmarked_ids() if result.killed else set()
        self.market.faults_off()
        self._clean_up(result)
        result.ledger_problems, result.ledger_difference = self._compare_ledgers()
        fired: dict[str, int] = self._ledger()["fired"]
        result.fired = {kind: count - self._fired.get(kind, 0) for kind, count in fired.items()}
        self._fired = fired
        return result

    def _ledger(self) -> dict[str, Any]:
        return self.market.get("ledger")

    def _compare_ledgers(self) -> tuple[list[str], Difference]:
        """Compare the stack's ledger with the emulator's, before and after the entries that `ops cost` adds."""
        stack, now = f"vast-reranker/{self.stack.name}", time.time()
        ledger, market = open_ledger(stack, self.stack.env, self.stack.project), self._ledger()["contracts"]
        events = ledger.events()
        intents = {event.nonce for event in events if event.kind == "intent"}
        problems = [f"no intent of {row['label']}" for row in market if parse_nonce(row["label"]) not in intents]
        for event in missing_events(
            fold(events), self.client.instances(), self.client.charges(0, now), stack, now, new_s=0
        ):
            ledger.append(event)
        entries, largest = fold(ledger.events()), Difference()
        for row in market:
            entry = entries.get(row["id"])
            if entry is None or (entry.until is None) != (row["destroyed_at"] is None):
                problems.append(f"wrong in the ledger: {entry}, {row}")
                continue
            difference = compare(entry, row)
            largest |= difference
            if difference.seconds > LEDGER_S or difference.usd > LEDGER_USD:
                problems.append(f"{difference}: {entry}, {row}")
        return problems, largest

    def _rented_ids(self) -> set[int]:
        return {contract["id"] for contract in self._ledger()["contracts"]}

    def billed_contracts(self) -> dict[int, dict[str, Any]]:
        return {contract["id"]: contract for contract in self._ledger()["contracts"] if not contract["destroyed_at"]}

    def _unmarked_ids(self) -> set[int]:
        """Return the contracts that boot, are in no state, and have no pending mark in their label. A contract that
        runs already may have been interrupted just before its state was saved."""
        booting = [contract for contract in self.billed_contracts().values() if contract["status"] != "running"]
        unmarked = {contract["id"] for contract in booting if not contract["label"].endswith(PENDING)}
        return unmarked - self.stack.instances()

    def _start(self, operation: str) -> subprocess.Popen[str]:
        if operation == "scale":
            return self.stack.start_ops("scale", *SCALE)
        return self.stack.start("destroy" if operation == "destroy" else "up", "--yes", "--skip-preview")

    def _prepare(self, scenario: Scenario) -> None:
        if scenario.operation == "create":
            self.stack.destroy()
        if scenario.operation == "scale" and not self.stack.instances():
            self.stack.up()
        size = len(self.stack.instances()) or 1
        self._valid_sizes = {1, size} if scenario.operation == "destroy" else {size}
        if scenario.operation == "scale":
            self._valid_sizes = {MAX_REPLICAS if size < MAX_REPLICAS else 1}
            self.stack.write_config(schedule={"windows": [ALWAYS | {"replicas": max(self._valid_sizes)}]})
        if scenario.operation in ("update", "replace"):
            self._variant += 1
        if scenario.operation == "update":
            self.stack.write_config({"timeouts.probe_window_s": 1 + self._variant % 3})
        if scenario.operation == "replace":
            self.stack.write_config(dtype=("float32", "half")[self._variant % 2])
        if scenario.operation == "heal":
            for instance_id in self.billed_contracts():
                with suppress(ControlError):  # the instance no longer exists
                    self.market.instance(instance_id, "kill")

    def _fault_rule(self, scenario: Scenario) -> dict[str, Any]:
        kind = "lost_answer_after" if scenario.fault == "lost_destroy_answer" else scenario.fault
        endpoint = ENDPOINTS.get(scenario.fault)
        params = LAG if kind == "lag" else {}
        return {"kind": kind, "match": {"endpoint": endpoint} if endpoint else {}, "times": scenario.times} | params

    def _interrupt(self, process: subprocess.Popen[str], scenario: Scenario, rented: set[int]) -> RunResult:
        """Kill the process as in the scenario and wait for its end. `rented`: contracts from before the operation.

        After a single interrupt, one rent call may still be in progress, but no further one may follow.
        """
        result, before = RunResult(scenario), set[int]()
        if scenario.kill != "none":
            billed = self.billed_contracts().keys()
            if scenario.since in SLOW:
                self._wait_until(process, lambda: self._current_stage(rented) == scenario.since)
            elif scenario.since == "rented":
                self._wait_until(process, lambda: self.billed_contracts().keys() != billed)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0 if scenario.since in SLOW else scenario.after_s)
        result.killed = scenario.kill != "none" and process.poll() is None
        if result.killed:
            result.stage = self._current_stage(rented) if scenario.since in SLOW else ""
            children = find_pids(self.stack.project, PLUGIN, *[ENGINE] * (scenario.kill == "power-loss"))
            for number, signal_number in enumerate(SIGNALS.get(scenario.kill, ())):
                time.sleep(0.3 * number)
                process.send_signal(signal_number)
            with suppress(subprocess.TimeoutExpired):  # the engine forwards an interrupt to the plugin
                process.communicate(timeout=0.5 if scenario.kill == "sigint" else 0)
            before = self._rented_ids()
            if scenario.kill in ("sigkill-plugin", "power-loss"):
                kill(children)
        text = self._communicate(process)
        self._wait_for_plugins(scenario)
        if result.killed and scenario.kill == "sigint":
            result.rented_after = self._rented_ids() - before
            result.remaining = self.billed_contracts().keys() - rented
            result.unnamed = {instance_id for instance_id in result.remaining if str(instance_id) not in text}
        return result

    def _communicate(self, process: subprocess.Popen[str]) -> str:
        """Return the output of a process. Kill it, its engine and its plugins if it hangs. Raises TimeoutExpired."""
        try:
            return process.communicate(timeout=180)[0]
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            kill(find_pids(self.stack.project, ENGINE, PLUGIN))
            raise

    def _wait_until(self, process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
        """Wait until a condition is true or the process has ended."""
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not condition():
            time.sleep(0.02)

    def _current_stage(self, rented: set[int]) -> str:
        """Return the stage of the operation in the emulator; "" before its first search."""
        new = [contract for instance_id, contract in self.billed_contracts().items() if instance_id not in rented]
        if not new:
            return "searching" if any("/bundles/" in call for call in self.market.requests()) else ""
        last = new[-1]
        if last["status"] != "running":
            return "pulling" if last["status"] == "loading" else "renting"
        if not last["label"].endswith(PENDING):
            return "validating"
        contract = self.client.instance(last["id"])
        return "probing" if contract and is_listening(contract) else "loading"

    def _wait_for_plugins(self, scenario: Scenario) -> None:
        """Wait until engine and plugins have ended. The engine ends when `ops scale` is gone, a plugin
        when its engine is gone. Only a plugin that has made no call yet never ends; it is killed after 10 s."""
        deadline = time.monotonic() + 60
        while pids := find_pids(self.stack.project, PLUGIN, ENGINE):
            if time.monotonic() > deadline - 50:
                kill(pid for pid in find_pids(self.stack.project, PLUGIN) if not has_made_http_call(pid))
            if time.monotonic() > deadline:
                raise TimeoutError(f"seed {scenario.seed}: engine or plugins are still running: pids {pids}")
            time.sleep(0.1)

    def _run_ops(self, *args: str) -> CommandResult:
        process = self.stack.start_ops(*args)
        text = self._communicate(process)
        return CommandResult(process.returncode, text)

    def _clean_up(self, result: RunResult) -> None:
        """Run one clean `up`, or `ops deploy` and `ops scale`, and compare the state with the emulator."""
        self.stack.run("cancel", "--yes")
        if result.scenario.operation == "scale":
            command = self._run_ops("deploy")
            result.leaked = self.billed_contracts().keys() - self.stack.instances()
            command = self._run_ops("scale", *SCALE) if command.rc == 0 else command
        else:
            command = self.stack.up()
        if command.rc != 0:
            result.stuck = command.text[-2000:]
            return
        declared, billed = self.stack.instances(), self.billed_contracts().keys()
        result.leaked |= billed - declared
        result.missing = declared - billed
        for contract in self._ledger()["contracts"]:
            result.leaked_usd += contract["cost_usd"] if contract["id"] in result.leaked else 0
            if contract["id"] in declared and contract["label"].endswith(PENDING):
                result.stuck = f"instance {contract['id']} is in the state, but its label is still pending"
        if len(declared) not in self._valid_sizes:
            result.stuck = f"the state has {len(declared)} instances, expected: {self._valid_sizes}"


def compare(entry: Entry, row: Mapping[str, Any]) -> Difference:
    """Compare a contract in the stack's ledger with its row in the emulator's."""
    late_s = max(abs(entry.since - row["rented_at"]), abs((entry.until or 0.0) - (row["destroyed_at"] or 0.0)))
    return Difference(1, late_s, abs(cost_usd(entry, time.time()) - row["cost_usd"]))


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to processes; ignore processes that have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def find_pids(project: Path, *words: bytes) -> list[int]:
    """Return the processes that run in a project's folder and have one of `words` in their command line."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = {os.path.basename(argument) for argument in (entry / "cmdline").read_bytes().split(b"\0")}
            if arguments & set(words) and (entry / "cwd").resolve() == project.resolve():
                pids.append(int(entry.name))
    return pids


def is_listening(contract: Contract) -> bool:
    """Return whether a server listens on a port of a contract."""
    for port in contract.ports.values():
        with suppress(OSError), socket.create_connection((contract.public_ip, port), timeout=1):
            return True
    return False


def has_made_http_call(pid: int) -> bool:
    """Return whether a plugin has made an HTTP call: the lookup of a host name loads a native module into its maps."""
    with suppress(OSError):
        return "unicodedata" in Path(f"/proc/{pid}/maps").read_text()
    return False
