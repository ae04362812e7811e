"""`python -m ops logs`: the container logs of a stack, without secrets, each line after its replica's name.

Vast.ai returns the end of a log, without times. A line has a time only if the server writes one into it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import click

from components.errors import ApiUnreachable, RateLimited
from components.plugin.session import open_session
from components.redaction import scrub
from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi, without_secrets
from ops.exits import OK, USAGE, OpsError
from ops.fleet import Fleet

MAX_LINES = 5000
MAX_CHARS = 4000  # per line
FENCE = "`````"
FOLLOW_EVERY_S = 5.0
AGE = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# vLLM's format: INFO 11-26 18:00:01 [api_server.py:1]; its image uses UTC
VLLM_TIME = re.compile(r"(?:\([^)]*\) )?[A-Z]+ (\d\d-\d\d \d\d:\d\d:\d\d) ")


@verb("logs")
@click.option("--replica", "names", multiple=True, metavar="NAME", help="Only this replica; can be repeated.")
@click.option("--lines", type=click.IntRange(1, MAX_LINES), default=100, show_default=True, help="Lines per replica.")
@click.option("--since", default="", metavar="AGE", help="Only lines not older than AGE: 90s, 10m, 2h or 1d.")
@click.option("--key", metavar="NAME", help="Only the guard's access log of the client key with this name.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
def logs(pulumi: Pulumi, *, names: Sequence[str], lines: int, since: str, key: str | None, follow: bool) -> Outcome:
    """Show the logs of the stack's servers, without secrets."""
    ids = {name: replica.instance_id for name, replica in Fleet.parse(pulumi.resources()).replicas.items()}
    if unknown := [name for name in names if name not in ids]:
        raise OpsError(USAGE, f"no replica {', '.join(unknown)}", f"the replicas are: {', '.join(ids) or 'none'}")
    oldest = datetime.now(UTC) - parse_age(since) if since else None
    client = open_session(pulumi.config).client

    def read(name: str) -> list[str]:
        return client.logs(ids[name], lines=lines).splitlines()

    def select(log: Sequence[str]) -> list[str]:
        return [printable(line) for line in filter_key(filter_recent(log, oldest, datetime.now(UTC)), key)]

    if follow:
        _follow(read, names or list(ids), select)
    selected = {name: select(read(name)) for name in names or ids}
    blocks = [
        "\n".join([f"{FENCE}text", *(f"{name}  {line}" for line in log), FENCE]) for name, log in selected.items()
    ]
    empty = [name for name, log in selected.items() if not log]
    headline = f"no lines of {', '.join(empty)}" if empty else report.count(sum(map(len, selected.values())), "line")
    return Outcome(OK, headline, blocks, {"lines": selected})


def _follow(
    read: Callable[[str], list[str]], names: Sequence[str], select: Callable[[Sequence[str]], list[str]]
) -> NoReturn:
    """Print new lines until Ctrl-C; temporary errors do not end it."""
    before: dict[str, list[str]] = {}
    try:
        while True:
            for name in names:
                try:
                    log = read(name)
                except (ApiUnreachable, RateLimited) as error:
                    click.echo(str(error), err=True)
                    continue
                for line in select(new_lines(before.get(name, []), log)):
                    click.echo(f"{name}  {line}")
                before[name] = log
            time.sleep(FOLLOW_EVERY_S)
    except KeyboardInterrupt:
        sys.exit(OK)


def parse_age(text: str) -> timedelta:
    """Parse an age like 10m. Raises OpsError."""
    if not (match := AGE.fullmatch(text)):
        raise OpsError(USAGE, f"--since: is {text!r}", "a number and s, m, h or d: --since 10m")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def new_lines(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """Return the lines after the overlap with the previous read; all lines if nothing overlaps."""
    for overlap in range(min(len(before), len(now)), 0, -1):
        if list(before[-overlap:]) == list(now[:overlap]):
            return now[overlap:]
    return now


def filter_recent(lines: Sequence[str], oldest: datetime | None, now: datetime) -> Sequence[str]:
    """Return the first line with a time of `oldest` or later, and all lines after it."""
    if oldest is None:
        return lines
    for number, line in enumerate(lines):
        for year in {oldest.year, now.year}:  # vLLM's times have no year
            if (
                (time_ := parse_time(line, year))
                and time_ >= oldest
                and (year == oldest.year or time_ <= now + timedelta(days=1))
            ):
                return lines[number:]
    return ()


def filter_key(lines: Sequence[str], key: str | None) -> Sequence[str]:
    """Return the guard's access log of the client key with this name; all lines for None."""
    return lines if key is None else [line for line in lines if _parse_access(line).get("key") == key]


def parse_time(line: str, year: int) -> datetime | None:
    """Return the time in a line of the guard (`time`, seconds since the epoch) or of vLLM, which has no year."""
    try:
        if seconds := _parse_access(line).get("time"):
            return datetime.fromtimestamp(float(seconds), UTC)
        if match := VLLM_TIME.match(line):
            return datetime.strptime(f"{year}-{match[1]}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    return None


def _parse_access(line: str) -> Mapping[str, Any]:
    """Return a line of the guard's access log, a JSON object; {} for any other line."""
    try:
        entry = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def printable(line: str) -> str:
    """Return a line without secrets, terminal sequences, runner commands and Markdown fences."""
    return without_secrets(scrub(line[:MAX_CHARS])).replace(FENCE, "'" * len(FENCE))
