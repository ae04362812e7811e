"""`python -m ops logs`: what the containers of a stack write, scrubbed, a line with its replica's name before it.

Vast.ai delivers the end of a log, without times; a line's time is read where the server itself writes one.
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
MAX_CHARS = 4000  # of a line
FENCE = "`````"
FOLLOW_EVERY_S = 5.0
AGE = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# as vLLM writes it: INFO 11-26 18:00:01 [api_server.py:1]; UTC in its image
VLLM_TIME = re.compile(r"(?:\([^)]*\) )?[A-Z]+ (\d\d-\d\d \d\d:\d\d:\d\d) ")


@verb("logs")
@click.option("--replica", "names", multiple=True, metavar="NAME", help="Of this replica only; can be repeated.")
@click.option("--lines", type=click.IntRange(1, MAX_LINES), default=100, show_default=True, help="Of each replica.")
@click.option("--since", default="", metavar="AGE", help="Not older than this, as 90s, 10m, 2h or 1d.")
@click.option("--key", metavar="NAME", help="Only the guard's access log of the client key with this name.")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
def logs(pulumi: Pulumi, *, names: Sequence[str], lines: int, since: str, key: str | None, follow: bool) -> Outcome:
    """Show what the stack's servers write, without secrets."""
    ids = {name: one.instance_id for name, one in Fleet.parse(pulumi.resources()).replicas.items()}
    if unknown := [name for name in names if name not in ids]:
        raise OpsError(USAGE, f"no replica {', '.join(unknown)}", f"there are: {', '.join(ids) or 'none'}")
    oldest = datetime.now(UTC) - age(since) if since else None
    client = open_session(pulumi.config).client

    def wanted(found: Sequence[str]) -> Sequence[str]:
        return of_key(recent(found, oldest), key)

    if follow:
        _follow(lambda name: client.logs(ids[name], lines=lines), names or list(ids), wanted)
    shown = {name: wanted(client.logs(ids[name], lines=lines).splitlines()) for name in names or ids}
    text = {name: [printable(line) for line in found] for name, found in shown.items()}
    blocks = [
        "\n".join([f"{FENCE}text", *(f"{name}  {line}" for line in found), FENCE]) for name, found in text.items()
    ]
    silent = [name for name, found in text.items() if not found]
    headline = f"nothing of {', '.join(silent)}" if silent else report.count(sum(map(len, text.values())), "line")
    return Outcome(OK, headline, blocks, {"lines": text})


def _follow(
    read: Callable[[str], str], names: Sequence[str], wanted: Callable[[Sequence[str]], Sequence[str]]
) -> NoReturn:
    """Print what comes, until Ctrl-C; what is passing does not end it."""
    before: dict[str, list[str]] = {}
    try:
        while True:
            for name in names:
                try:
                    found = read(name).splitlines()
                except (ApiUnreachable, RateLimited) as error:
                    click.echo(str(error), err=True)
                    continue
                for line in wanted(added(before.get(name, []), found)):
                    click.echo(f"{name}  {printable(line)}")
                before[name] = found
            time.sleep(FOLLOW_EVERY_S)
    except KeyboardInterrupt:
        sys.exit(OK)


def age(text: str) -> timedelta:
    """Read an age like 10m. Raises OpsError for anything else."""
    if not (found := AGE.fullmatch(text)):
        raise OpsError(USAGE, f"--since: is {text!r}", "a number and s, m, h or d: --since 10m")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def added(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """Return the lines at the end of a log that were not there when it was read before; all, if none of them was."""
    for overlap in range(min(len(before), len(now)), 0, -1):
        if list(before[-overlap:]) == list(now[:overlap]):
            return now[overlap:]
    return now


def recent(lines: Sequence[str], oldest: datetime | None) -> Sequence[str]:
    """Return the lines from the first one on that is not older; one without a time is as old as the one before it."""
    if oldest is None:
        return lines
    for number, line in enumerate(lines):
        if (written := written_at(line, oldest.year)) and written >= oldest:
            return lines[number:]
    return ()


def of_key(lines: Sequence[str], key: str | None) -> Sequence[str]:
    """Return the lines of the guard's access log that are of a client key's name; all lines for no name."""
    return lines if key is None else [line for line in lines if _access(line).get("key") == key]


def written_at(line: str, year: int) -> datetime | None:
    """Return when a line was written, by its own words: the guard's (`time`, in seconds since the epoch) or vLLM's,
    which has no year."""
    try:
        if at := _access(line).get("time"):
            return datetime.fromtimestamp(float(at), UTC)
        if found := VLLM_TIME.match(line):
            return datetime.strptime(f"{year}-{found[1]}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    return None


def _access(line: str) -> Mapping[str, Any]:
    """Return a line of the guard's access log: an object in JSON; of any other line nothing."""
    try:
        found = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def printable(line: str) -> str:
    """Return a line without secrets, and without what a terminal or a runner would obey, or a fence end at."""
    return without_secrets(scrub(line[:MAX_CHARS])).replace(FENCE, "'" * len(FENCE))
