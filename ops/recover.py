"""`python -m ops recover`: restore the last good copy of a damaged state, and adopt instances that are not in it.

In a folder backend, Pulumi keeps copies of a state: NAME.json.bak, the previous write, and one per earlier update. If
no copy is complete, the resources of a truncated file are used; they are in the order of creation. Without
`metadata=skip` in the backend's URL, Pulumi 3.259 writes FILE.attrs before each FILE, and can read no FILE beside an
incomplete FILE.attrs.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from components.plugin.session import open_session
from components.state_folder import room_problem, state_folder
from components.vast.json_values import Json
from components.vast.label import Label
from ops import report
from ops.command import Outcome, verb
from ops.deploy import deploy_summary
from ops.engine import Pulumi
from ops.exits import BUSY, OK, ORPHANS, USAGE, OpsError
from ops.fleet import kind
from ops.plan import INSTANCE, OFFERS

RESOURCES = '"resources":'


@verb("recover")
def recover(pulumi: Pulumi) -> Outcome:
    """Restore a damaged state; adopt the instances that are not in it with an `up`; list those it cannot adopt."""
    folder = state_folder(os.environ, pulumi.cwd)
    if folder is None:
        raise OpsError(
            USAGE,
            "the state of this stack is not in a folder",
            f"restore an older .pulumi/stacks/{pulumi.project}/{pulumi.short_name}.json with the tools of its store",
        )
    if problem := room_problem(folder):
        raise OpsError(BUSY, problem)
    remove_broken_attributes(folder / ".pulumi")  # first, or Pulumi could not cancel a killed run's lock either
    _unlock(folder / ".pulumi", pulumi)
    source = restore(folder / ".pulumi", pulumi.project, pulumi.short_name)
    pulumi.ensure()
    resources = pulumi.resources()
    ids = {str(resource["id"]) for resource in resources if kind(resource) == INSTANCE}
    owners = {str(resource["id"]) for resource in resources if kind(resource) == OFFERS}
    contracts = open_session(pulumi.config).client.instances()
    labels = [(contract, Label.parse(contract.label)) for contract in contracts if str(contract.id) not in ids]
    base = f"{pulumi.project}/{pulumi.short_name}/"
    missing = [(contract, label.owner in owners) for contract, label in labels if label and label.base.startswith(base)]
    foreign = {contract.id: report.usd(contract.dph_total_usd) for contract, is_owned in missing if not is_owned}
    outcome = Outcome(OK, "nothing to adopt")
    if any(is_owned for _, is_owned in missing):
        outcome = deploy_summary(pulumi, pulumi.up())
    parts = [
        *outcome.parts,
        report.bullets(
            "Not adopted, because they belong to a lost state",
            (f"instance {id_}, {usd}/h: `vastai destroy instance {id_}` destroys it" for id_, usd in foreign.items()),
        ),
    ]
    facts = {"restored_from": source, "left": list(foreign), **outcome.facts}
    headline = f"{source}; {outcome.headline}"
    return replace(outcome, code=ORPHANS if foreign else OK, headline=headline, parts=parts, facts=facts)


def restore(folder: Path, project: str, stack: str) -> str:
    """Replace an unreadable state with its last good copy; return a text about the result.

    `folder`: .pulumi of the backend. The unreadable file is kept as NAME.json.cut-off. Without a usable copy the stack
    has no state. Raises OpsError for a compressed state.
    """
    path = folder / "stacks" / project / f"{stack}.json"
    if packed := [*path.parent.glob(f"{path.name}.gz"), *path.parent.glob(f"{path.name}.zst")]:
        raise OpsError(USAGE, f"{packed[0]} is compressed; only an uncompressed state can be repaired", "unpack a copy")
    if _read_checkpoint(path) is not None:
        return "the state is complete"
    older = [
        copy for part in ("backups", "history") for copy in (folder / part / project / stack).glob(f"{stack}[.-]*.json")
    ]
    older.sort(key=lambda copy: copy.stat().st_mtime, reverse=True)
    copies = [copy for copy in (path.with_name(f"{path.name}.bak"), *older) if copy.exists()]
    damaged = ""
    if path.exists():
        damaged = path.read_text(errors="replace")
        path.rename(path.with_name(f"{path.name}.cut-off"))
    for copy in copies:
        if (state := _read_checkpoint(copy)) is not None:
            _write(path, state)
            return f"the state is restored from {copy.relative_to(folder)}"
    for copy, text in [(path, damaged), *((copy, copy.read_text(errors="replace")) for copy in copies)]:
        if (state := salvage(text)) is not None:
            _write(path, state)
            return f"the state has the first {len(state['checkpoint']['latest']['resources'])} resources of {copy.name}"
    return "no copy of the state was complete: it is empty now"


def remove_broken_attributes(folder: Path) -> None:
    """Remove the .attrs files that a killed Pulumi has not completed. Without one, Pulumi reads the file beside it."""
    for path in folder.glob("**/*.attrs"):
        try:
            json.loads(path.read_text(errors="replace"))
        except ValueError:
            path.unlink()


def salvage(text: str) -> Json | None:
    """Return a state with the complete resources of a truncated one, or None if it has none."""
    head, separator, rest = text.partition(RESOURCES)
    decoder, resources = json.JSONDecoder(), []
    rest = rest.lstrip().removeprefix("[").lstrip()
    try:
        while True:
            resource, end = decoder.raw_decode(rest)
            resources.append(resource)
            rest = rest[end:].lstrip().removeprefix(",").lstrip()
    except ValueError:
        return json.loads(f"{head}{separator}{json.dumps(resources)}}}}}}}") if resources else None


def _read_checkpoint(path: Path) -> Json | None:
    try:
        state = json.loads(path.read_text())
        return state if isinstance(state["checkpoint"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path, state: Json) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(state, indent=4))
    new.rename(path)


def _unlock(folder: Path, pulumi: Pulumi) -> None:
    """Remove an empty lock file, left by a full disk. Raises OpsError for any other lock."""
    for lock in (folder / "locks").glob(f"**/{pulumi.project}/{pulumi.short_name}/*.json"):
        if lock.read_text().strip():
            raise OpsError(BUSY, f"stack {pulumi.name} is locked by {lock}", "wait; if nothing runs, `pulumi cancel`")
        lock.unlink()
