"""What a person, and a log, sees of an instance that boots slowly: the row of `pulumi up`, by the terminal's width."""

import re

import pytest

from emulator.server import EmulatorServer
from harness.stack import EngineStack
from harness.wait import until
from tests.engine.fleet import AtTerminal

pytestmark = [pytest.mark.engine, pytest.mark.all]
BOOT_S = 15
ROW = re.compile(r"pulumi-python:\S+:Instance ")


@pytest.fixture
def stack(tmp_path):
    with EmulatorServer(runtime="none", boot_s=BOOT_S, state_dir=tmp_path / "emulator") as market:
        yield EngineStack(tmp_path / "stack", market.url, name="dev", config={"prefer": "fastest"}).init()


def rows(shown):
    """Return the rows of the instance in what a terminal was sent, whole ones, without colours and moves."""
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))
    return [" ".join(line.split()) for line in lines[:-1] if ROW.search(line)]


def seen_at(terminal, columns, words):
    """Return the first row with these words that is drawn at a width from now on."""
    since = len(terminal.output)
    terminal.resize(columns)

    def drawn():
        assert terminal.process.poll() is None, (
            f"no {words!r} at {columns} columns: {rows(terminal.output[since:])[-3:]}"
        )
        # the first may have been begun at the width before
        return [row for row in rows(terminal.output[since:])[2:] if re.search(words, row)]

    return until(drawn)[0]


def test_the_row_of_a_boot_has_its_state_at_80_columns_its_stage_at_100_and_time_and_gpu_and_names_beyond(stack):
    terminal = AtTerminal(stack, "up", "--yes", "--skip-preview", program=("pulumi",), columns=160)
    all_of_it = r"pulling \d+ %, \d+ (s|min.*) left, \w+ [\w ]+, instance \d+ on m"
    seen_at(terminal, 160, rf"{ROW.pattern}reranker creating \(\d+s\)\.* {all_of_it}")
    assert "instance" not in seen_at(terminal, 120, r"pulling \d+ %, \d+ (s|min.*) left, \w+ \w+")
    assert "left" not in seen_at(terminal, 100, r"pulling \d+ %, \d+")
    assert "pulling" not in seen_at(terminal, 80, r"creating \(\d+s\)")
    assert terminal.end() == 0
    percents = [int(one) for row in rows(terminal.output) for one in re.findall(r"pulling (\d+) %", row)]
    assert percents == sorted(percents), "a percentage of the whole does not run backwards"
    assert len(set(percents)) > 1, "a terminal sees it move"


def test_where_there_is_no_terminal_a_stage_is_one_line(stack):
    done = stack.up()
    assert done.rc == 0, done.text
    boot = [line for line in done.text.splitlines() if re.search(r"(rented|pulling|starting|loading) \d+ %", line)]
    assert 1 <= len([line for line in boot if "pulling" in line]) <= 2, boot
    assert len(boot) <= 5, boot
