"""Summaries in Markdown, as they stand in a pull request's comment, an issue or a job's page. Pure; called by commands.

What a host or an API said is data: it is escaped, so that it can neither break a table nor mention anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.vast.models import HOURS_PER_MONTH
from components.vast.ranking import minutes
from ops.exits import CODES, OpsError
from ops.outputs import Outputs
from ops.plan import Plan

Json = Any
MAX_TEXT_CHARS = 600
MAX_ERROR_CHARS = 6000
SIGNS = {"create": "+ create", "update": "~ update", "replace": "± replace", "delete": "- delete"}


def safe(text: object, chars: int = MAX_TEXT_CHARS) -> str:
    """Return text as one line that Markdown shows as it is."""
    line = " ".join(str(text).split())[:chars]
    return line.replace("<", "&lt;").replace("|", "\\|").replace("@", "@\u200b")


def code(text: object) -> str:
    """Return text as code, on one line."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def usd(amount: float | None, *, digits: int = 4) -> str:
    """Return dollars, or a dash for none."""
    return "-" if amount is None else f"${amount:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are escaped already."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def failure(command: str, stack: str, error: OpsError) -> str:
    """Return what is shown when a command could not do its work."""
    parts = [
        f"### {code(stack)} {command}: failed",
        f"**error:** {safe(error.text, MAX_ERROR_CHARS)}",
        *([f"**what to do:** {safe(error.remedy)}"] if error.remedy else []),
        f"Exit code {error.code}: {CODES[error.code]}.",
    ]
    return "\n\n".join(parts)


def plan_line(plan: Plan) -> str:
    """Return the plan's count in words."""
    return ", ".join(f"{count} to {op}" for op, count in plan.counts().items()) or "nothing to change"


def changes(plan: Plan) -> str:
    """Return the table of steps and why."""
    rows = [(SIGNS[one.op], code(one.name), safe(one.type), safe("; ".join(one.reasons) or "-")) for one in plan.steps]
    return table(("change", "resource", "type", "why"), rows)


def prices(now: float | None, after: float | None) -> str:
    """Return the price per hour and month, now and after."""
    delta = "" if now is None or after is None or abs(after - now) < 5e-5 else f" ({after - now:+.4f})"
    monthly = [None if one is None else one * HOURS_PER_MONTH for one in (now, after)]
    rows = [
        ("per hour", usd(now), usd(after) + delta),
        ("per month, 730 h", usd(monthly[0], digits=2), usd(monthly[1], digits=2)),
    ]
    return table(("price", "now", "after"), rows)


def choices(plan: Plan) -> list[str]:
    """Return a line for each offer that would be rented."""
    return [
        f"**Would rent** offer {one.offer_id}: {safe(one.gpu)} on machine {one.machine_id}, {safe(one.place)}, "
        f"{usd(one.dph_total_usd)}/h; the download costs {usd(one.pull_cost_usd, digits=2)} once; "
        f"ready in about {minutes(one.ready_s)}."
        for one in plan.choices
    ]


def offers(found: Sequence[Mapping[str, Json]]) -> str:
    """Return the offers that were considered, folded; each as ranking.Candidate records it."""
    rows = [
        (
            f"{one['ask_contract_id']:.0f}",
            safe(one.get("gpu_name")),
            f"{one['machine_id']:.0f}",
            safe(one.get("geolocation")),
            usd(one["dph_total"]),
            usd(one["pull_cost_usd"], digits=2),
            f"{one['ready_s'] / 60:.0f} min",
        )
        for one in found
    ]
    head = ("offer", "GPU", "machine", "place", "$/h", "download", "ready in")
    return f"<details><summary>Offers considered: {len(found)}</summary>\n\n{table(head, rows)}\n\n</details>"


def bullets(title: str, texts: Iterable[str]) -> list[str]:
    """Return a titled list, or nothing for none."""
    items = [f"- {safe(text)}" for text in texts]
    return [f"**{title}**\n\n" + "\n".join(items)] if items else []


def running(outputs: Outputs) -> str:
    """Return what a stack has running; never its key."""
    hourly, checked = outputs.hourly_cost_usd, f"{'passed' if outputs.validated else 'FAILED'}, {outputs.checks} checks"
    instances = [
        (f"instance {one.instance_id}", f"{safe(one.gpu)} on machine {one.machine_id}, {usd(one.hourly_cost_usd)}/h")
        for one in outputs.replicas
    ]
    rows = [
        ("url", code(outputs.url) if outputs.url else "-"),
        ("model", safe(outputs.model)),
        *instances,
        ("price", f"{usd(hourly)}/h, {usd(hourly * HOURS_PER_MONTH, digits=2)} a month"),
        ("validation", "-" if outputs.validated is None else checked),
        ("weights that ran", safe(outputs.weights or "-")),
    ]
    return table(("output", "value"), rows)
