"""A command of ops/: its flags, what it prints, how it ends. Every script here is `sys.exit(Command(...).main())`.

stdout has the summary in Markdown, or with --json one document; stderr has the progress of pulumi and, when something
is wrong, one line with the remedy. --markdown FILE writes the summary to a file as well, also when the command fails,
so that a pipeline's comment says the same as its log.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import ApiUnreachable, AuthError, ConfigError, NoOffer, RateLimited, RerankerError
from ops import report
from ops.engine import Pulumi
from ops.exits import BUSY, CODES, ERROR, NO_OFFER, SECRET, USAGE, OpsError, table

Json = Any


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, machine-readable facts, summary in Markdown."""

    code: int
    facts: Mapping[str, Json]
    markdown: str


Work = Callable[[Pulumi, argparse.Namespace], Outcome]


@dataclass(frozen=True)
class Command:
    """A command on one stack: `work` does it; `flags` adds its own flags."""

    name: str
    about: str
    work: Work
    flags: Callable[[argparse.ArgumentParser], object] = field(default=lambda parser: None)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Parse, run, print; return the exit code."""
        parser = argparse.ArgumentParser(
            prog=f"python -m ops.{self.name}",
            description=self.about,
            epilog=table(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--stack", required=True, help="the stack to work on")
        add_output_flags(parser)
        self.flags(parser)
        args = parser.parse_args(argv)
        return run_command(self.name, args.stack, args, lambda: self.work(Pulumi(args.cwd, args.stack), args))


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add what all commands have in common: --cwd, --json, --markdown."""
    parser.add_argument("--cwd", type=Path, default=Path(), help="folder of the project (default: the current one)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")
    parser.add_argument("--markdown", metavar="FILE", help="write the summary to a file as well; - for stdout")


def run_command(name: str, stack: str, args: argparse.Namespace, work: Callable[[], Outcome]) -> int:
    """Run `work`, print what came of it, return the exit code."""
    try:
        outcome = work()
    except (OpsError, RerankerError, OSError) as error:
        failure = as_ops_error(error)
        print(f"error: {failure}", file=sys.stderr)
        facts = {"error": failure.text, "remedy": failure.remedy}
        outcome = Outcome(failure.code, facts, report.failure(name, stack, failure))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return ERROR
    document = {"command": name, "stack": stack, "exit_code": outcome.code, "means": CODES[outcome.code]}
    if args.json and args.markdown != "-":
        print(json.dumps({**document, **outcome.facts}, indent=2))
    else:
        print(outcome.markdown)
    if args.markdown and args.markdown != "-":
        try:
            Path(args.markdown).write_text(outcome.markdown + "\n")
        except OSError as error:
            print(f"error: cannot write {args.markdown}: {error}", file=sys.stderr)
            return outcome.code or ERROR
    return outcome.code


def as_ops_error(error: Exception) -> OpsError:
    """Return any error that is expected here with its exit code."""
    if isinstance(error, OpsError):
        return error
    for kinds, code in (
        ((AuthError,), SECRET),
        ((ApiUnreachable, RateLimited), BUSY),
        ((NoOffer,), NO_OFFER),
        ((ConfigError,), USAGE),
    ):
        if isinstance(error, kinds):
            return OpsError(code, " ".join(str(error).split()))
    return OpsError(ERROR, " ".join(str(error).split()))
