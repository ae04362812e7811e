"""The command `python -m ops VERB`: the options that verbs share, what each prints, how it ends. Verbs register here.

stdout has the summary in Markdown, or with --json one document; stderr has Pulumi's progress and, when something is
wrong, one line with the remedy. --markdown FILE writes the summary to a file as well, also when the command fails, so
that a pipeline's comment says the same as its log.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from components.errors import RerankerError
from ops import report
from ops.engine import Pulumi, drop_empty_secrets, without_secrets
from ops.exits import CODES, ERROR, OpsError, from_error, table

Json = Any


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, machine-readable facts, summary in Markdown."""

    code: int
    facts: Mapping[str, Json]
    markdown: str


Work = Callable[..., Outcome]


@click.group(epilog="Shell completion: https://click.palletsprojects.com/shell-completion/")
@click.version_option(package_name="vast-reranker", message="%(package)s %(version)s", help="Show the version.")
def cli() -> None:
    """Preview, deploy, watch and repair the stacks of this project, as people and pipelines do it."""
    drop_empty_secrets()


def verb(name: str, *, group: click.Group = cli, on_stack: bool = True) -> Callable[[Work], click.Command]:
    """Return a decorator that makes a function a verb: it is given the stack (or the folder), and its own options."""

    def register(work: Work) -> click.Command:
        @functools.wraps(work)
        def run(cwd: Path, as_json: bool, markdown: str | None, stack: str = "", **own: Any) -> None:
            full = f"{group.name} {name}" if group is not cli else name
            outcome = _outcome_of(full, stack, lambda: work(Pulumi(cwd, stack) if on_stack else cwd, **own))
            sys.exit(_shown(full, stack, outcome, as_json=as_json, markdown=markdown))

        options = [
            click.option("--stack", required=True, help="The stack to work on."),
            click.option(
                "--cwd", type=click.Path(path_type=Path), default=Path(), help="Folder of the project (default: here)."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the summary."),
            click.option("--markdown", metavar="FILE", help="Write the summary to a file as well; - for stdout."),
        ]
        wrapped: Callable[..., Any] = run
        for option in reversed(options if on_stack else options[1:]):
            wrapped = option(wrapped)
        return group.command(name, epilog=f"\b\n{table()}")(wrapped)

    return register


def _outcome_of(name: str, stack: str, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except (OpsError, RerankerError, OSError) as error:
        failure = from_error(error)
    except KeyboardInterrupt:
        failure = OpsError(ERROR, "interrupted")
    print(without_secrets(f"error: {failure}"), file=sys.stderr)
    facts = {"error": failure.text, "remedy": failure.remedy}
    return Outcome(failure.code, facts, report.failure(name, stack, failure))


def _shown(name: str, stack: str, outcome: Outcome, *, as_json: bool, markdown: str | None) -> int:
    """Print what came of a command; return its exit code."""
    text = without_secrets(outcome.markdown)
    document = {"command": name, "stack": stack, "exit_code": outcome.code, "means": CODES[outcome.code]}
    if as_json and markdown != "-":
        print(without_secrets(json.dumps({**document, **outcome.facts}, indent=2)))
    else:
        print(text)
    if markdown and markdown != "-":
        try:
            Path(markdown).write_text(text + "\n")
        except OSError as error:
            print(f"error: cannot write {markdown}: {error}", file=sys.stderr)
            return outcome.code or ERROR
    return outcome.code
