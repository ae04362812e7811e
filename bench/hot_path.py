"""`python -m bench hot-path`: the time of a preview and an `up`, compared with programs that do nothing.

Baselines: an empty program, and one with a dynamic resource whose provider does nothing. They show the time of Pulumi
itself. Called by `bench.__main__`, which also compares the results with the budgets.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY, EngineStack
from ops.report import table as markdown

EMPTY = "import pulumi\n"
DYNAMIC_RESOURCE = """import pulumi
from nothing import Nothing

Nothing("nothing", {"value": 1})
"""
NOTHING = """from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class NothingProvider(ResourceProvider):
    def create(self, props):
        return CreateResult("1", props)

    def diff(self, _id, _olds, _news):
        return DiffResult(changes=False)


class Nothing(Resource):
    def __init__(self, name, props):
        super().__init__(NothingProvider(), name, props)
"""

# A wait repeats these calls; their number depends only on how long it takes.
POLLS = ("GET /api/v1/instances/", "GET /api/v0/instances/{id}/")
PREVIEW_S, UP_BEYOND_BOOT_S, CALLS = 3.0, 4.0, 6


@dataclass
class CommandTiming:
    """Wall-clock and CPU seconds of a command, one value for each round."""

    command: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self, run: Callable[[], object]) -> None:
        """Run the command once and record its times, which include those of its child processes."""
        before, start = os.times(), time.perf_counter()
        run()
        self.wall_s.append(time.perf_counter() - start)
        after = os.times()
        self.cpu_s.append(after.children_user + after.children_system - before.children_user - before.children_system)


def baseline_stack(folder: Path, url: str, venv: Path, **files: str) -> EngineStack:
    """Return a stack of another program. `files`: module name -> source."""
    stack = EngineStack(folder, url, cached_pip_list=False, venv=venv)
    for name, source in files.items():
        path = stack.project / f"{name}.py"
        path.unlink(missing_ok=True)
        path.write_text(source)
    return stack.init()


def project_stack(folder: Path, url: str, venv: Path, repo: Path) -> EngineStack:
    """Return a stack of a checkout, with the project's defaults for polling, pacing and probing."""
    config = dict.fromkeys(("timeouts.poll_s", "timeouts.probe_window_s", "timeouts.api_s")) | {"emulator.pacing": True}
    return EngineStack(folder, url, config=config, cached_pip_list=False, venv=venv, repo=repo).init()


def measure(
    folder: Path, checkouts: dict[str, Path], *, venv: Path, rounds: int, boot_s: float
) -> tuple[list[CommandTiming], int]:
    """Run every command once in each round; return the timings, and the API calls of one `up` without polls.

    The destroy after each `up` is not counted.
    """
    timings: dict[str, CommandTiming] = {}

    def measure_command(name: str, stack: EngineStack, *args: str) -> None:
        timings.setdefault(name, CommandTiming(name)).measure(lambda: stack.ok(*args))

    with EmulatorServer(
        runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator", keys=[EMULATOR_KEY]
    ) as market:
        running = {
            "empty program": baseline_stack(folder / "empty", market.url, venv, __main__=EMPTY),
            "one dynamic resource": baseline_stack(
                folder / "one", market.url, venv, __main__=DYNAMIC_RESOURCE, nothing=NOTHING
            ),
        }
        recreated = {}
        for name, repo in checkouts.items():
            running[name] = project_stack(folder / f"running-{name}", market.url, venv, repo)
            recreated[name] = project_stack(folder / f"recreated-{name}", market.url, venv, repo)
        for stack in running.values():
            market.control.post("requests/reset")
            stack.ok("up", "--yes", "--skip-preview")
        counts = market.control.requests()
        for _ in range(rounds):
            for name, stack in running.items():
                measure_command(f"preview, {name}", stack, "preview", "--expect-no-changes")
            for name, stack in recreated.items():
                measure_command(f"up with {boot_s:g} s of boot, {name}", stack, "up", "--yes")
                stack.ok("destroy", "--yes", "--skip-preview")
        for stack in running.values():
            stack.ok("destroy", "--yes", "--skip-preview")
    return list(timings.values()), sum(count for name, count in counts.items() if name not in POLLS)


def table(timings: list[CommandTiming]) -> str:
    """Return Markdown: medians, the range of the rounds, and the ratio to the preview of the empty program."""
    base = statistics.median(timings[0].wall_s)
    rows = []
    for timing in timings:
        wall = statistics.median(timing.wall_s)
        spread = f"{min(timing.wall_s):.2f} to {max(timing.wall_s):.2f} s"
        ratio = f"{wall / base:.2f}" if timing.command.startswith("preview") else ""
        rows.append((timing.command, f"{wall:.2f} s", spread, ratio, f"{statistics.median(timing.cpu_s):.2f} s"))
    return markdown(("what", "median", "least to most", "to the empty program", "CPU"), rows)


def over_budget(timings: list[CommandTiming], calls: int, *, boot_s: float) -> list[str]:
    """Return a message for each result that is over its budget."""
    budgets = {"preview, ": PREVIEW_S, "up ": boot_s + UP_BEYOND_BOOT_S}
    messages = [
        f"{timing.command}: {median_s:.2f} s, the budget is {budget_s:g} s"
        for timing in timings
        for prefix, budget_s in budgets.items()
        if timing.command.startswith(prefix) and (median_s := statistics.median(timing.wall_s)) > budget_s
    ]
    return messages + [f"API calls of an `up`: {calls}, the budget is {CALLS}"] * (calls > CALLS)
