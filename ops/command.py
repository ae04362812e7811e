"""The command `python -m ops VERB`: shared options, output and exit codes. Each verb registers itself with `verb`.

The result is formatted on a terminal, is Markdown elsewhere, and is one JSON document with --json. --markdown FILE also
writes it to a file, even if the command fails, so that a pipeline's comment matches its log.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markdown import Markdown

from components.errors import VastRerankerError
from components.vast.json_values import Json
from components.vast.status import without_numbers
from ops import report
from ops.engine import Pulumi, prepare_environment, without_secrets
from ops.exits import CODES, ERROR, PENDING, USAGE, OpsError, from_error, table
from ops.notify import Notice, send_notices

RENTING = ("deploy", "heal")  # a failure of these verbs sends a notice
Open = Callable[[str], Pulumi]  # opens a stack by name


@dataclass(frozen=True)
class Outcome:
    """The result of a command: exit code, headline, parts in Markdown (an empty part is skipped), machine-readable
    facts, and notices for the webhook."""

    code: int
    headline: str
    parts: Sequence[str] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    notices: Sequence[Notice] = ()


Work = Callable[..., Outcome]


@click.group(epilog="Shell completion: https://click.palletsprojects.com/shell-completion/")
@click.version_option(package_name="vast-reranker", message="%(package)s %(version)s", help="Show the version.")
def cli() -> None:
    """Preview, deploy, watch and repair the stacks of this project."""
    prepare_environment()


def verb(name: str, *, group: click.Group = cli, on_stack: bool = True) -> Callable[[Work], click.Command]:
    """Return a decorator that makes a function a verb. The function gets the stack (or `Open`) and its options."""
    full_name = f"{group.name} {name}" if group is not cli else name

    def register(work: Work) -> click.Command:
        @functools.wraps(work)
        def run(cwd: Path, as_json: bool, markdown: str, verbose: bool, stack: str = "", **arguments: Any) -> None:
            opener, pulumi = functools.partial(Pulumi, cwd, verbose=verbose), None
            try:
                pulumi = opener(stack) if on_stack else None
                outcome = work(pulumi or opener, **arguments)
            except (OpsError, VastRerankerError, OSError) as error:
                outcome = _report_error(from_error(error))
                if name in RENTING and outcome.code not in (USAGE, PENDING):
                    failure = Notice("failed", outcome.facts["error"], without_numbers(outcome.facts["error"]))
                    outcome = replace(outcome, notices=[failure])
            except (KeyboardInterrupt, click.Abort):
                outcome = _report_error(OpsError(ERROR, "interrupted"))
            code = outcome.code
            try:
                _print_outcome(full_name, stack, outcome, as_json=as_json, markdown=markdown)
            except OSError as error:
                click.echo(f"error: cannot write {markdown}: {error}", err=True)
                code = code or ERROR
            if pulumi:
                send_notices(pulumi, full_name, outcome.notices)
            sys.exit(code)

        options = [
            click.option("--stack", required=True, help="The stack to work on."),
            click.option("--cwd", type=click.Path(path_type=Path), default=Path(), help="Project folder (default: .)."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document."),
            click.option("--markdown", metavar="FILE", default="", help="Also write the result to FILE; -: stdout."),
            click.option("-v", "--verbose", is_flag=True, envvar="CI", help="Show Pulumi's output; default in CI."),
        ]
        wrapped: Callable[..., Any] = run
        for option in reversed(options if on_stack else options[1:]):
            wrapped = option(wrapped)
        return group.command(name, epilog=f"\b\n{table()}")(wrapped)

    return register


def draw(name: str, stack: str, outcome: Outcome, console: Console) -> None:
    """Print the result on a terminal."""
    console.print(Markdown(as_markdown(name, stack, outcome)))


def _report_error(error: OpsError) -> Outcome:
    click.echo(without_secrets(f"error: {error}"), err=True)
    parts = [
        f"**error:** {report.safe(error.text, report.MAX_ERROR_CHARS)}",
        f"**what to do:** {report.sentence(error.remedy)}" if error.remedy else "",
        f"Exit code {error.code}: {CODES[error.code]}.",
    ]
    return Outcome(error.code, "failed", parts, {"error": error.text, "remedy": error.remedy})


def _print_outcome(name: str, stack: str, outcome: Outcome, *, as_json: bool, markdown: str) -> None:
    text = as_markdown(name, stack, outcome)
    document = {"command": name, "stack": stack, "exit_code": outcome.code, "means": CODES[outcome.code]}
    if as_json and markdown != "-":
        print(without_secrets(json.dumps({**document, **outcome.facts}, indent=2)))
    elif markdown == "-" or not sys.stdout.isatty():
        print(text)
    elif "error" not in outcome.facts or not sys.stderr.isatty():  # stderr already shows an error on the terminal
        draw(name, stack, outcome, Console())
    if markdown not in ("", "-"):
        Path(markdown).write_text(text + "\n")


def as_markdown(name: str, stack: str, outcome: Outcome) -> str:
    """Return the result with its title, without this environment's secrets."""
    title = f"### {f'{report.code(stack)} ' if stack else ''}{name}: {outcome.headline}"
    return without_secrets("\n\n".join([title, *filter(None, outcome.parts)]))
