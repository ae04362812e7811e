"""`python -m ops.rotate_key`: another client key without an interruption. Both are valid for a time, then the new one.

Two halves: begin (a new key beside the old one) and finish (the old one is refused). What has begun is seen in the
config and the state, so any run, here or in a pipeline, can finish it. Rents nothing, and prints no key.
"""

from __future__ import annotations

import argparse
import sys
import time

from ops import report
from ops.command import Command, Outcome
from ops.config import StackConfig
from ops.engine import Pulumi
from ops.exits import ERROR, OK, USAGE, OpsError
from ops.rotation import Rotation


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Do one half, or both with time in between. Raises OpsError."""
    whole = not (args.begin or args.finish)
    if args.grace_s is not None and (args.grace_s < 0 or not whole):
        raise OpsError(USAGE, "--grace-s takes seconds, and goes with neither --begin nor --finish")
    if whole and args.grace_s is None and not sys.stdin.isatty():
        raise OpsError(
            USAGE,
            "nobody is there to say when the clients have the new key",
            "add --grace-s SECONDS, or run --begin now and --finish when they have it",
        )
    config = StackConfig(pulumi)
    rotation = Rotation(pulumi, config, _say)
    read = f"pulumi stack output api_key --show-secrets --stack {pulumi.stack}"
    said = []
    if not args.finish:
        said.append(rotation.begin())
    if whole:
        wait(pulumi, args.grace_s, read)
    if not args.begin:
        if args.finish:
            said.append("a rotation that had begun is continued")
        said.append(rotation.finish() if args.finish else Rotation(pulumi, StackConfig(pulumi), _say).finish())
    parts = [
        f"### {report.code(pulumi.stack)} rotate_key: {'; '.join(said)}",
        f"The key: {report.code(read)}",
        *(["Give it to the clients, then run it with --finish."] if args.begin else []),
        f"{report.code(config.path.name)} was changed: commit it.",
    ]
    phase = "begun" if args.begin else "finished" if args.finish else "rotated"
    facts = {"phase": phase, "url": rotation.outputs.url, "made_by": "stack" if rotation.made else "config"}
    return Outcome(OK, facts, "\n\n".join(parts))


def wait(pulumi: Pulumi, grace_s: float | None, read: str) -> None:
    """Wait until the clients have the new key. Raises OpsError when it is interrupted: both keys stay valid."""
    _say(f"both keys are valid; the new one: {read}")
    try:
        if grace_s is None:
            print("rotate_key: Enter, once the clients have it, to take the old one away: ", end="", file=sys.stderr)
            sys.stderr.flush()
            input()
        else:
            _say(f"the old one is taken away in {grace_s:g} s")
            time.sleep(grace_s)
    except (KeyboardInterrupt, EOFError):
        raise OpsError(
            ERROR, "interrupted: both keys are valid", f"python -m ops.rotate_key --stack {pulumi.stack} --finish"
        ) from None


def flags(parser: argparse.ArgumentParser) -> None:
    """Add --grace-s, --begin and --finish."""
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--begin", action="store_true", help="only make the new key; the old one stays valid")
    half.add_argument("--finish", action="store_true", help="only take the old key away")
    parser.add_argument("--grace-s", type=float, metavar="N", help="take the old key away N seconds after the new one")


def _say(text: str) -> None:
    print(f"rotate_key: {text}", file=sys.stderr, flush=True)


COMMAND = Command(
    "rotate_key", "Make a new client key: both are valid for a time, then only the new one. Rents nothing.", work, flags
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
