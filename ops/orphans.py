"""`python -m ops orphans`: instances that carry this project's labels but that no given state knows, and their cost.

Lists by default; destroys with --destroy after asking, or without asking with --yes. States come from
`pulumi stack export --stack NAME --file FILE`, one file per stack that shares the account, or with --all-stacks from
every stack of the backend. Exit codes: 0 no orphans (or all destroyed), 3 orphans found and left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from components.vast.client import DEFAULT_API_URL, VastClient, destroy_and_verify
from components.vast.label import Label
from components.vast.models import Contract
from components.vast.pacing import PUBLISHED, Pacer
from components.vast.ranking import minutes
from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import LEFT, OK, USAGE, OpsError
from ops.fleet import kind
from ops.plan import INSTANCE

Json = Any
# the project's name, from Pulumi.yaml: the first part of its labels
NAMESPACE = yaml.safe_load(Path(__file__).parents[1].joinpath("Pulumi.yaml").read_text(encoding="utf-8"))["name"]


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

    def record(self) -> dict[str, Json]:
        return {
            "instance_id": self.contract.id,
            "machine_id": self.contract.machine_id,
            "label": self.contract.label,
            "age_s": round(self.age_s),
            "dph_total_usd": self.contract.dph_total_usd,
            "cost_usd": round(self.cost_usd, 4),
        }

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
            if kind(resource) == INSTANCE and str(resource.get("id", "")).isdigit():
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


@verb("orphans", on_stack=False)
@click.argument("exports", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--prefix", default=f"{NAMESPACE}/", show_default=True, help="Only labels that start so.")
@click.option("--min-age-min", type=float, default=60.0, show_default=True, help="Leave younger ones alone, minutes.")
@click.option("--destroy", is_flag=True, help="Destroy what is found, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--all-stacks", is_flag=True, help="Compare with every stack of the backend as well.")
@click.option("--api-url", envvar="VAST_URL", default=DEFAULT_API_URL, show_envvar=True, help="Vast.ai's API.")
def find_orphans(
    cwd: Path,
    *,
    exports: tuple[Path, ...],
    prefix: str,
    min_age_min: float,
    destroy: bool,
    yes: bool,
    all_stacks: bool,
    api_url: str,
) -> Outcome:
    """List instances with this project's labels that no state knows, and their cost.

    EXPORTS: files of `pulumi stack export`, one for each stack that shares the account.
    """
    key = os.environ.get("VAST_API_KEY", "")
    client = VastClient(key, pacer=Pacer(PUBLISHED), api_url=api_url)
    texts = [path.read_text() for path in exports]
    if all_stacks:
        texts += [json.dumps({"deployment": Pulumi(cwd, name).export()}) for name in Pulumi(cwd, "").stacks()]
    try:
        known = known_ids(texts)
    except ValueError as error:
        raise OpsError(USAGE, f"no export of a stack: {error}", "write one by `pulumi stack export --file`") from None
    found = orphans(client.instances(), known, prefix=prefix, min_age_s=min_age_min * 60, now=time.time())
    if destroy and not known:
        raise OpsError(
            USAGE,
            "--destroy needs the export of at least one stack that has an instance: without it every instance of the "
            "project looks like an orphan",
        )
    lines = "".join(f"- {report.safe(one)}\n" for one in found)
    text = f"### orphans: {len(found) or 'none'}\n\nCompared with {len(texts)} states.\n\n{lines}"
    destroyed: list[int] = []
    facts = {"states": len(texts), "orphans": [one.record() for one in found], "destroyed": destroyed}
    if not found:
        return Outcome(OK, facts, text)
    next_step = f"{text}\nRemove them: `python -m ops orphans --all-stacks --destroy`"
    if not destroy:
        return Outcome(LEFT, facts, next_step)
    if not yes:
        click.echo(text, err=True)
        if not click.confirm(f"destroy these {len(found)} instances for good?", err=True):
            return Outcome(LEFT, facts, f"{next_step}\n\nNothing was destroyed.")
    for one in found:
        destroy_and_verify(client, one.contract.id)
        destroyed.append(one.contract.id)
        click.echo(f"destroyed instance {one.contract.id}", err=True)
        text += f"\nDestroyed: instance {one.contract.id}\n"
    return Outcome(OK, facts, text)
