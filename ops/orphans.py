"""`python -m ops orphans`: instances that carry this project's labels but that no given state knows, and their cost.

Lists by default; destroys with --destroy after asking, or without asking with --yes. States are those of every stack of
the backend, or come from `pulumi stack export --stack NAME --file FILE`, one file per stack that shares the account.
Exit codes: 0 no orphans (or all destroyed), 3 orphans found and left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from components.vast.address import check_api_url
from components.vast.client import DEFAULT_API_URL, VastClient, destroy_and_verify
from components.vast.label import Label
from components.vast.models import Contract
from components.vast.pacing import PUBLISHED, Pacer
from components.vast.ranking import minutes
from ops import report
from ops.command import Open, Outcome, verb
from ops.destroy import confirm
from ops.exits import LEFT, OK, USAGE, OpsError
from ops.fleet import kind
from ops.plan import INSTANCE

# the project's name, from Pulumi.yaml: the first part of its labels
NAMESPACE = yaml.safe_load(Path(__file__).parents[1].joinpath("Pulumi.yaml").read_text(encoding="utf-8"))["name"]


@dataclass(frozen=True)
class Orphan:
    """An instance of ours that no state knows; its cost so far is reckoned at its present price, bandwidth apart."""

    instance_id: int
    machine_id: int
    gpu: str
    state: str
    label: str
    age_s: float
    dph_total_usd: float
    cost_usd: float

    @classmethod
    def of(cls, one: Contract, now: float) -> Orphan:
        age_s = max(now - one.start_date, 0.0) if one.start_date else 0.0
        cost_usd, state = one.dph_total_usd * age_s / 3600.0, one.actual_status or "provisioning"
        return cls(one.id, one.machine_id, one.gpu_name, state, one.label, age_s, one.dph_total_usd, cost_usd)

    def __str__(self) -> str:
        return (
            f"instance {self.instance_id}: {self.gpu} on machine {self.machine_id}, {self.state}, "
            f"{minutes(self.age_s)} old, ${self.dph_total_usd:.4f}/h, about ${self.cost_usd:.2f} so far, "
            f"label {self.label}"
        )


def known_ids(exports: Iterable[str]) -> set[int]:
    """Return the ids of the instances in stack exports (JSON texts), those awaiting deletion included."""
    found = [one for text in exports for one in json.loads(text).get("deployment", {}).get("resources") or []]
    return {int(one["id"]) for one in found if kind(one) == INSTANCE and str(one.get("id", "")).isdigit()}


def orphans(contracts: Iterable[Contract], known: set[int], now: float) -> list[Orphan]:
    """Return instances whose label is this project's, and whose id no state has."""
    labels = [(one, Label.parse(one.label)) for one in contracts if one.id not in known]
    return [Orphan.of(one, now) for one, label in labels if label and label.base.startswith(f"{NAMESPACE}/")]


@verb("orphans", on_stack=False)
@click.argument("exports", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--min-age-min", type=float, default=60.0, show_default=True, help="Leave younger ones alone, minutes.")
@click.option("--destroy", is_flag=True, help="Destroy what is found, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--api-url", envvar="VAST_URL", default=DEFAULT_API_URL, show_envvar=True, help="Vast.ai's API.")
def find_orphans(
    open_stack: Open, *, exports: tuple[Path, ...], min_age_min: float, destroy: bool, yes: bool, api_url: str
) -> Outcome:
    """List instances with this project's labels that no state knows, and their cost.

    EXPORTS: files of `pulumi stack export`, one for each stack that shares the account; without them, every stack of
    the backend is asked.
    """
    api_url = check_api_url(api_url, "VAST_URL or --api-url")
    client = VastClient(os.environ.get("VAST_API_KEY", ""), pacer=Pacer(PUBLISHED), api_url=api_url)
    texts = [path.read_text() for path in exports]
    if not exports:
        texts = [json.dumps({"deployment": open_stack(name).export()}) for name in open_stack("").stacks()]
    try:
        known = known_ids(texts)
    except ValueError as error:
        raise OpsError(USAGE, f"no export of a stack: {error}", "write one by `pulumi stack export --file`") from None
    every = orphans(client.instances(), known, time.time())
    found = [one for one in every if one.age_s >= min_age_min * 60]
    young = [one for one in every if one not in found]  # may belong to an `up` that is running right now
    if destroy and not known:
        raise OpsError(
            USAGE,
            "no state here has an instance, so every instance of the project looks like an orphan",
            "give the exports of the stacks that share the account, or destroy one by `vastai destroy instance ID`",
        )
    parts = [
        f"Compared with {report.count(len(texts), 'state')}.",
        report.bullets("Orphans", map(str, found)),
        report.bullets(f"Younger than {min_age_min:g} minutes, of an `up` that runs now or orphans", map(str, young)),
    ]
    headline = f"{len(found) or 'none'}{f', and {len(young)} too young to tell' if young else ''}"
    destroyed: list[int] = []
    facts = {"states": len(texts), "orphans": [vars(one) for one in found], "young": [vars(one) for one in young]}
    if not (found and destroy):
        if found:
            parts.append(f"Remove them: `{' '.join(['python -m ops orphans', *map(str, exports)])} --destroy`")
        return Outcome(LEFT if found else OK, headline, parts, {**facts, "destroyed": destroyed})
    if not yes:
        click.echo("\n".join(map(str, found)), err=True)
        confirm(f"destroys {report.count(len(found), 'instance')} for good", "yes")
    for one in found:
        destroy_and_verify(client, one.instance_id)
        destroyed.append(one.instance_id)
        click.echo(f"destroyed instance {one.instance_id}", err=True)
    return Outcome(OK, f"{headline}: all destroyed", parts, {**facts, "destroyed": destroyed})
