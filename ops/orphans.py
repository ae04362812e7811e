"""`python -m ops.orphans`: instances that carry this project's labels but that no given state knows, and their cost.

Lists by default; destroys with --destroy after asking, or without asking with --yes. States come from
`pulumi stack export --stack NAME --file FILE`, one file per stack that shares the account, or with --all-stacks from
every stack of the backend. Exit codes: 0 no orphans (or all destroyed), 3 orphans found and left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import RerankerError
from components.vast.client import DEFAULT_API_URL, VastClient, destroy_and_verify
from components.vast.label import Label
from components.vast.models import Contract
from components.vast.pacing import PUBLISHED, Pacer
from components.vast.ranking import minutes
from ops import report
from ops.command import as_ops_error
from ops.engine import Pulumi
from ops.exits import LEFT, OK, OpsError, table
from ops.project import NAMESPACE

INSTANCE_TYPE = "dynamic/vast:Instance"


@dataclass(frozen=True)
class Orphan:
    """An instance of ours that no state knows."""

    contract: Contract
    label: Label
    age_s: float

    @property
    def cost_usd(self) -> float:
        """What it has cost so far, at its present price, bandwidth apart."""
        return self.contract.dph_total_usd * self.age_s / 3600.0

    def __str__(self) -> str:
        one = self.contract
        return (
            f"instance {one.id}: {one.gpu_name} on machine {one.machine_id}, {one.actual_status or 'provisioning'}, "
            f"{minutes(self.age_s)} old, ${one.dph_total_usd:.4f}/h, about ${self.cost_usd:.2f} so far, "
            f"label {one.label}"
        )


def known_ids(exports: Iterable[str]) -> set[int]:
    """Return the ids of the instances in stack exports (JSON texts), those awaiting deletion included."""
    ids = set()
    for text in exports:
        for resource in json.loads(text).get("deployment", {}).get("resources") or []:
            if str(resource.get("type", "")).endswith(INSTANCE_TYPE) and str(resource.get("id", "")).isdigit():
                ids.add(int(resource["id"]))
    return ids


def orphans(
    contracts: Iterable[Contract], known: set[int], *, prefix: str, min_age_s: float, now: float
) -> list[Orphan]:
    """Return instances whose label starts with `prefix`, is ours, and whose id no state has.

    Younger ones than `min_age_s` may belong to an `up` that is running right now, and are left out.
    """
    found = []
    for contract in contracts:
        label = Label.parse(contract.label)
        if label is None or contract.id in known or not label.base.startswith(prefix):
            continue
        age_s = max(now - contract.start_date, 0.0) if contract.start_date else 0.0
        if age_s >= min_age_s:
            found.append(Orphan(contract, label, age_s))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.orphans",
        description=__doc__,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("exports", nargs="*", type=Path, help="files of `pulumi stack export`, one per stack")
    parser.add_argument("--prefix", default=f"{NAMESPACE}/", help="only labels that start so (default %(default)s)")
    parser.add_argument("--min-age-min", type=float, default=60.0, help="leave younger ones alone (default 60 minutes)")
    parser.add_argument("--destroy", action="store_true", help="destroy what is found, after asking")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--all-stacks", action="store_true", help="compare with every stack of the backend as well")
    parser.add_argument("--cwd", type=Path, default=Path(), help="with --all-stacks: the project's folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--markdown", metavar="FILE", help="write a summary to a file as well")
    parser.add_argument("--api-url", default=os.environ.get("VAST_URL") or DEFAULT_API_URL, help="default: VAST_URL")
    args = parser.parse_args(argv)
    try:
        key = os.environ.get("VAST_API_KEY", "")
        client = VastClient(key, pacer=Pacer(PUBLISHED), api_url=args.api_url)
        exports = [path.read_text() for path in args.exports]
        if args.all_stacks:
            names = Pulumi(args.cwd, "").stacks()
            exports += [json.dumps(Pulumi(args.cwd, name).export()) for name in names]
        known = known_ids(exports)
        found = orphans(client.instances(), known, prefix=args.prefix, min_age_s=args.min_age_min * 60, now=time.time())
        if args.destroy and not known:
            raise ValueError(
                "--destroy needs the export of at least one stack that has an instance: without it every "
                "instance of the project looks like an orphan"
            )
        if args.markdown:
            Path(args.markdown).write_text(_summary(found, len(exports)))
        _show(found, as_json=args.json, states=len(exports))
        if not found or not args.destroy:
            return LEFT if found else OK
        if not args.yes and input(f"destroy these {len(found)} instances for good? [y/N] ").strip().lower() != "y":
            print("nothing was destroyed", file=sys.stderr)
            return LEFT
        for orphan in found:
            destroy_and_verify(client, orphan.contract.id)
            if args.markdown:
                with Path(args.markdown).open("a") as file:
                    file.write(f"\nDestroyed: instance {orphan.contract.id}\n")
            print(f"destroyed instance {orphan.contract.id}", file=sys.stderr)
    except (OpsError, RerankerError, OSError, ValueError) as error:
        failure = as_ops_error(error)
        print(f"error: {failure}", file=sys.stderr)
        if args.markdown:
            Path(args.markdown).write_text(report.failure("orphans", "account", failure) + "\n")
        return failure.code
    return OK


def _summary(found: Sequence[Orphan], states: int) -> str:
    title = f"### orphans: {len(found) or 'none'}"
    lines = "".join(f"- {report.safe(one)}\n" for one in found)
    next_step = "Remove them: `python -m ops.orphans --all-stacks --destroy`\n" if found else ""
    return f"{title}\n\nCompared with {states} states.\n\n{lines}\n{next_step}"


def _show(found: Sequence[Orphan], *, as_json: bool, states: int) -> None:
    if as_json:
        rows = [
            {
                "instance_id": one.contract.id,
                "machine_id": one.contract.machine_id,
                "label": one.contract.label,
                "age_s": round(one.age_s),
                "dph_total_usd": one.contract.dph_total_usd,
                "cost_usd": round(one.cost_usd, 4),
            }
            for one in found
        ]
        print(json.dumps(rows, indent=2))
        return
    if not states:
        print("no state export was given: every instance with our labels counts as an orphan", file=sys.stderr)
    print("\n".join(map(str, found)) if found else "no orphans")


if __name__ == "__main__":
    sys.exit(main())
