"""`python -m ops.comment`: write a summary as a comment of a pull or merge request; the next one replaces it.

GitHub: GITHUB_REPOSITORY and GITHUB_TOKEN; GitLab: CI_PROJECT_ID and GITLAB_TOKEN, as their CI sets them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.exits import ERROR, OK, OpsError, table
from ops.forge import from_environment, mark_of, marked


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.comment",
        description=__doc__,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--number", type=int, required=True, help="number of the pull or merge request")
    parser.add_argument("--key", required=True, help="what the comment is about; one comment a key")
    parser.add_argument("--file", type=Path, required=True, help="its text, in Markdown")
    args = parser.parse_args(argv)
    try:
        body = marked(args.key, args.file.read_text())
        forge = from_environment(os.environ)
        mark = mark_of(args.key)
        old = next((one for one in forge.comments(args.number) if one.body.startswith(mark)), None)
        where = forge.comment(args.number, body, old)
    except (OpsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code if isinstance(error, OpsError) else ERROR
    print(f"{'updated' if old else 'wrote'} {where}", file=sys.stderr)
    return OK


if __name__ == "__main__":
    sys.exit(main())
