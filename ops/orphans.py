"""`python -m ops orphans`: instances with this project's labels that are in no state, and their cost.

Lists by default; --destroy destroys them after a confirmation, --yes skips the confirmation. The states are those of
every stack of the backend, or files of `pulumi stack export --stack NAME --file FILE`, one per stack that shares the
account. Exit codes: 0 no orphans, or all destroyed; 3 orphans not destroyed.
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

from components.stack_ledger import append_all, open_ledger
from components.vast.address import check_api_url
from components.vast.client import DEFAULT_API_URL, VastClient, destroy_and_verify
from components.vast.label import Label
from components.vast.ledger import Event, fold, missing_events
from components.vast.models import Contract
from components.vast.pacing import PUBLISHED, Pacer
from components.vast.ranking import minutes
from ops import report
from ops.command import Open, Outcome, verb
from ops.destroy import confirm
from ops.exits import OK, ORPHANS, USAGE, OpsError
from ops.fleet import kind
from ops.plan import INSTANCE

# the project's name in Pulumi.yaml is the first part of its labels
PROJECT = Path(__file__).parents[1]
NAMESPACE = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text(encoding="utf-8"))["name"]


@dataclass(frozen=True)
class Orphan:
    """An instance of this project in no state; `cost_usd` so far is at the current price, without bandwidth."""

    instance_id: int
    machine_id: int
    gpu: str
    state: str
    label: str
    age_s: float
    dph_total_usd: float
    cost_usd: float

    @classmethod
    def of(cls, contract: Contract, now: float) -> Orphan:
        age_s = max(now - contract.start_date, 0.0) if contract.start_date else 0.0
        usd_h, state = contract.dph_total_usd, contract.actual_status or "provisioning"
        machine_id, gpu, label = contract.machine_id, contract.gpu_name, contract.label
        return cls(contract.id, machine_id, gpu, state, label, age_s, usd_h, usd_h * age_s / 3600.0)

    def __str__(self) -> str:
        return (
            f"instance {self.instance_id}: {self.gpu} on machine {self.machine_id}, {self.state}, "
            f"{minutes(self.age_s)} old, ${self.dph_total_usd:.4f}/h, about ${self.cost_usd:.2f} so far, "
            f"label {self.label}"
        )


def known_ids(exports: Iterable[str]) -> set[int]:
    """Return the ids of the instances in stack exports (JSON texts), including those with pending deletes."""
    rows = [row for text in exports for row in json.loads(text).get("deployment", {}).get("resources") or []]
    return {int(row["id"]) for row in rows if kind(row) == INSTANCE and str(row.get("id", "")).isdigit()}


def orphans(contracts: Iterable[Contract], ids: set[int], now: float) -> list[Orphan]:
    """Return the instances with this project's label whose id is not in `ids`."""
    labels = [(contract, Label.parse(contract.label)) for contract in contracts if contract.id not in ids]
    return [Orphan.of(contract, now) for contract, label in labels if label and label.base.startswith(f"{NAMESPACE}/")]


@verb("orphans", on_stack=False)
@click.argument("exports", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--min-age-min", type=float, default=60.0, show_default=True, help="Younger ones are only listed.")
@click.option("--destroy", is_flag=True, help="Destroy the orphans, after a confirmation.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--api-url", envvar="VAST_URL", default=DEFAULT_API_URL, show_envvar=True, help="Vast.ai's API.")
def find_orphans(
    open_stack: Open, *, exports: tuple[Path, ...], min_age_min: float, destroy: bool, yes: bool, api_url: str
) -> Outcome:
    """List instances with this project's labels that are in no state, and their cost.

    EXPORTS: files of `pulumi stack export`, one for each stack that shares the account; default: the states of every
    stack of the backend.
    """
    api_url = check_api_url(api_url, "VAST_URL or --api-url")
    client = VastClient(os.environ.get("VAST_API_KEY", ""), pacer=Pacer(PUBLISHED), api_url=api_url)
    texts = [path.read_text() for path in exports]
    if not exports:
        texts = [json.dumps({"deployment": open_stack(name).export()}) for name in open_stack("").stacks()]
    try:
        ids = known_ids(texts)
    except ValueError as error:
        raise OpsError(USAGE, f"not a stack export: {error}", "write one with `pulumi stack export --file`") from None
    contracts = client.instances()
    unknown = orphans(contracts, ids, time.time())
    old = [orphan for orphan in unknown if orphan.age_s >= min_age_min * 60]
    young = [orphan for orphan in unknown if orphan not in old]  # may belong to a running `up`
    if destroy and not ids:
        raise OpsError(
            USAGE,
            "the states contain no instance, so every instance of the project looks like an orphan",
            "pass exports of the stacks that share the account, or use `vastai destroy instance ID`",
        )
    parts = [
        f"Compared with {report.count(len(texts), 'state')}.",
        report.bullets("Orphans", map(str, old)),
        report.bullets(f"Younger than {min_age_min:g} minutes: orphans or part of a running `up`", map(str, young)),
    ]
    headline = f"{len(old) or 'none'}{f', and {len(young)} too young to tell' if young else ''}"
    facts = {"states": len(texts), "orphans": [vars(row) for row in old], "young": [vars(row) for row in young]}
    if not (old and destroy):
        if old:
            parts.append(f"Remove them: `{' '.join(['python -m ops orphans', *map(str, exports)])} --destroy`")
        return Outcome(ORPHANS if old else OK, headline, parts, {**facts, "destroyed": []})
    if not yes:
        click.echo("\n".join(map(str, old)), err=True)
        confirm(f"destroys {report.count(len(old), 'instance')} permanently", "yes")
    for orphan in old:
        end = destroy_and_verify(client, orphan.instance_id)
        click.echo(f"destroyed instance {orphan.instance_id}", err=True)
        _record_end(orphan, contracts, end.at)
    facts["destroyed"] = [orphan.instance_id for orphan in old]
    return Outcome(OK, f"{headline}: all destroyed", parts, facts)


def _record_end(orphan: Orphan, contracts: Iterable[Contract], at: float) -> None:
    """Write the end of an orphan, and its rent if that is missing, to the ledger of the stack in its label."""
    label = Label.parse(orphan.label)
    if label is None:
        return
    ledger, now = open_ledger(label.base, os.environ, PROJECT), time.time()
    end = Event("end", at, instance_id=orphan.instance_id, reason="killed run" if label.pending else "destroyed")
    stack = "/".join(label.base.split("/")[:2])
    try:
        missing = missing_events(fold(ledger.events()), contracts, (), stack, now, new_s=0.0)
        rent = [event for event in missing if event.instance_id == orphan.instance_id]
        if unshared := append_all(ledger, [*rent, end]):
            click.echo(unshared, err=True)
    except OSError as error:
        click.echo(f"its end is not in the ledger {ledger}: {error}", err=True)
