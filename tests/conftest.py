"""The two suites, the order of the files, and the table at the end of a run. Called by pytest.

Every test is `quick` (`make test`) or `all` (`make test-all` runs both). A test is quick unless the test, its parameter
or its file has the mark `all`. The kind of a test is its folder.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from emulator.access import KEYS_ENV
from harness.stack import EMULATOR_KEY

# The longest kinds run first, so that no worker is idle at the end.
LONGEST_FIRST = ("serving", "engine", "pipelines", "gateway", "lint", "client", "provider", "emulator", "unit")
SLOWEST = 10


def kind_of(nodeid: str) -> str:
    """Return the folder of a test in tests/."""
    return nodeid.split("/")[1]


SUITES = pytest.StashKey[dict[str, set[str]]]()


@pytest.hookimpl(tryfirst=True)  # before -m deselects tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the quick tests, and sort by kind."""
    for item in items:
        if item.get_closest_marker("all") is None:
            item.add_marker("quick")
    config.stash[SUITES] = {
        item.nodeid: {"quick", "all", "alone"} & {mark.name for mark in item.iter_markers()} for item in items
    }
    if unknown := {kind_of(item.nodeid) for item in items} - set(LONGEST_FIRST):
        raise pytest.UsageError(f"tests/{', tests/'.join(unknown)}: add it to LONGEST_FIRST in tests/conftest.py")
    items.sort(key=lambda item: LONGEST_FIRST.index(kind_of(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Run a file on one worker, and all files of tests/serving on one, so that each vLLM server boots once."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - the production environment has no xdist

    class OneWorkerPerFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "serving" if kind_of(nodeid) == "serving" else super()._split_scope(nodeid)

    return OneWorkerPerFile(config, log)


class Summary:
    """The number and time of the tests of each kind, and the slowest tests. With xdist: of all workers."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase of a test: setup, call or teardown."""
        self.seconds[report.nodeid] += report.duration
        counts = self.outcomes.setdefault(kind_of(report.nodeid), Counter())
        if report.when == "call" or report.outcome != "passed":
            counts[report.outcome] += 1

    def lines(self) -> Iterator[str]:
        minutes: Counter[str] = Counter()
        for nodeid, seconds in self.seconds.items():
            minutes[kind_of(nodeid)] += seconds / 60
        yield f"{'kind':<10} {'passed':>6} {'failed':>6} {'skipped':>7} {'minutes':>7}"
        for kind in sorted(self.outcomes, key=lambda kind: -minutes[kind]):
            counts = self.outcomes[kind]
            yield (
                f"{kind:<10} {counts['passed']:>6} {counts['failed']:>6} {counts['skipped']:>7} {minutes[kind]:>7.1f}"
            )
        total = sum(self.outcomes.values(), Counter[str]())
        wall = (time.monotonic() - self.start) / 60
        yield (
            f"{'all':<10} {total['passed']:>6} {total['failed']:>6} {total['skipped']:>7} {sum(minutes.values()):>7.1f}"
            f"  in {wall:.1f} minutes of the clock"
        )
        yield "slowest:"
        for nodeid, seconds in self.seconds.most_common(SLOWEST):
            yield f"{seconds:7.1f} s  {nodeid}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("tests by kind")
        for line in self.lines():
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Print the summary in the main process, not in xdist's workers. Enable SIGINT for child processes. Give every
    emulator the same key."""
    os.environ[KEYS_ENV] = EMULATOR_KEY
    # a shell starts background jobs with SIGINT ignored, and their children inherit this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(), "summary")
