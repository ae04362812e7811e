"""`python -m ops.issue`: keep one issue about a finding: open or update it while there is one, close it when not.

--rc is the exit code of the command that looked: 0 closes, 7 (drift) and 3 (orphans) open or update, any other code
leaves the issue as it is, since nothing was found out. Where and with which token: see `python -m ops.comment --help`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.exits import DRIFT, ERROR, LEFT, OK, OpsError, table
from ops.forge import Forge, from_environment, mark_of, marked

FOUND = (DRIFT, LEFT)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.issue",
        description=__doc__,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--key", required=True, help="what the issue is about, such as drift-dev; one issue a key")
    parser.add_argument("--title", required=True, help="its title")
    parser.add_argument("--label", default="drift", help="its label (default %(default)s)")
    parser.add_argument("--file", type=Path, required=True, help="its text, in Markdown")
    parser.add_argument("--rc", type=int, required=True, help="exit code of the command that looked")
    args = parser.parse_args(argv)
    if args.rc not in (OK, *FOUND):
        print(f"exit code {args.rc} tells nothing about it: the issue is left as it is", file=sys.stderr)
        return OK
    try:
        said = keep(from_environment(os.environ), args)
    except (OpsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code if isinstance(error, OpsError) else ERROR
    print(said, file=sys.stderr)
    return OK


def keep(forge: Forge, args: argparse.Namespace) -> str:
    """Open, update or close; return what was done. Raises OpsError."""
    mark = mark_of(args.key)
    mine = sorted((one for one in forge.issues(args.label) if one.body.startswith(mark)), key=lambda one: one.id)
    body = marked(args.key, args.file.read_text())
    if args.rc == OK:
        for one in mine:
            forge.close(one, f"Closed: nothing is found any more.\n\n{args.file.read_text()}")
        return f"closed {len(mine)} issues" if mine else "no open issue, and none is needed"
    first = mine[0] if mine else None
    where = forge.open(args.title, body, args.label, first)
    for one in mine[1:]:
        forge.close(one, f"Closed: the same as #{first.id if first else ''}.")
    return f"{'updated' if first else 'opened'} {where}"


if __name__ == "__main__":
    sys.exit(main())
