"""`python -m ops recover`: restore the last good copy of a state that was cut off, and adopt what it does not know.

Pulumi keeps copies of a state in a folder: NAME.json.bak, one write back, and one of each earlier update. Where none is
whole, what a file that was cut off still has is taken: resources stand in it in the order of their making.
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
from ops.exits import BUSY, LEFT, OK, USAGE, OpsError
from ops.fleet import kind
from ops.plan import INSTANCE, OFFERS

RESOURCES = '"resources":'


@verb("recover")
def recover(pulumi: Pulumi) -> Outcome:
    """Restore a state that was cut off; adopt, by an up, what it does not know and name what it cannot adopt."""
    folder = state_folder(os.environ, pulumi.cwd)
    if folder is None:
        raise OpsError(
            USAGE,
            "the state of this stack is in no folder",
            f"restore an older .pulumi/stacks/{pulumi.project}/{pulumi.name}.json with the store's own tools",
        )
    if problem := room_problem(folder):
        raise OpsError(BUSY, problem)
    _unlock(folder / ".pulumi", pulumi)
    source = restore(folder / ".pulumi", pulumi.project, pulumi.name)
    pulumi.ensure()
    resources = pulumi.resources()
    known = {str(one["id"]) for one in resources if kind(one) == INSTANCE}
    owners = {str(one["id"]) for one in resources if kind(one) == OFFERS}
    rented = open_session(pulumi.config).client.instances()
    labels = [(one, Label.parse(one.label)) for one in rented if str(one.id) not in known]
    base = f"{pulumi.project}/{pulumi.name}/"
    strays = [(one, label.owner in owners) for one, label in labels if label and label.base.startswith(base)]
    foreign = {one.id: report.usd(one.dph_total_usd) for one, ours in strays if not ours}
    done = Outcome(OK, "nothing to adopt")
    if any(ours for _, ours in strays):
        done = deploy_summary(pulumi, pulumi.up())
    parts = [
        *done.parts,
        report.bullets(
            "Rented under a state that is lost, so not adopted",
            (f"instance {one}, {usd}/h: `vastai destroy instance {one}` ends it" for one, usd in foreign.items()),
        ),
    ]
    facts = {"restored_from": source, "left": list(foreign), **done.facts}
    return replace(done, code=LEFT if foreign else OK, headline=f"{source}; {done.headline}", parts=parts, facts=facts)


def restore(folder: Path, project: str, stack: str) -> str:
    """Put the last good copy of a stack's state in the place of one that cannot be read; return in words what was done.

    `folder`: .pulumi of the backend. What cannot be read is kept beside it. Without any copy there is no state after.
    Raises OpsError for a compressed state.
    """
    state = folder / "stacks" / project / f"{stack}.json"
    if packed := [*state.parent.glob(f"{state.name}.gz"), *state.parent.glob(f"{state.name}.zst")]:
        raise OpsError(USAGE, f"{packed[0]} is compressed, and only a plain state can be put together", "unpack a copy")
    if _checkpoint(state) is not None:
        return "the state is whole"
    older = [
        one for part in ("backups", "history") for one in (folder / part / project / stack).glob(f"{stack}[.-]*.json")
    ]
    older.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    backup = state.with_name(f"{state.name}.bak")
    copies = [one for one in (backup, *older) if one.exists()]
    cut_off = ""
    if state.exists():
        cut_off = state.read_text(errors="replace")
        state.rename(state.with_name(f"{state.name}.cut-off"))
    for copy in copies:
        if (found := _checkpoint(copy)) is not None:
            _write(state, found)
            return f"the state is that of {copy.relative_to(folder)}"
    for copy, text in [(state, cut_off), *((one, one.read_text(errors="replace")) for one in copies)]:
        if (found := salvaged(text)) is not None:
            _write(state, found)
            return f"the state has the first {len(found['checkpoint']['latest']['resources'])} resources of {copy.name}"
    return "no copy of the state was whole: it is empty now"


def salvaged(text: str) -> Json | None:
    """Return a state with those resources that a cut-off text of one has whole, or None where there is not even one."""
    head, found, rest = text.partition(RESOURCES)
    decoder, resources = json.JSONDecoder(), []
    rest = rest.lstrip().removeprefix("[").lstrip()
    try:
        while True:
            resource, end = decoder.raw_decode(rest)
            resources.append(resource)
            rest = rest[end:].lstrip().removeprefix(",").lstrip()
    except ValueError:
        return json.loads(f"{head}{found}{json.dumps(resources)}}}}}}}") if resources else None


def _checkpoint(path: Path) -> Json | None:
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
    """Remove a lock that was itself cut off, and so holds nobody's name. Raises OpsError for any other."""
    for lock in (folder / "locks").glob(f"**/{pulumi.project}/{pulumi.name}/*.json"):
        if lock.read_text().strip():
            raise OpsError(BUSY, f"stack {pulumi.name} is locked by {lock}", "wait; if nothing runs, `pulumi cancel`")
        lock.unlink()
