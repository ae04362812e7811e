"""Parts of answers in Markdown, as they stand in a pull request's comment, an issue or a job's page. Pure.

What a host or an API said is data: it is escaped, so that it can neither break a table nor mention anyone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from components.redaction import plain
from components.vast.models import HOURS_PER_MONTH
from components.vast.ranking import minutes
from ops.outputs import StackOutputs
from ops.plan import Choice, Plan

MAX_TEXT_CHARS = 600
MAX_ERROR_CHARS = 6000
_MARKUP = re.compile(r"[\\`\[\]<&|@]|:(?=//)|(?<=www)\.|[#!](?=\w)", re.IGNORECASE)
_ESCAPES = {"<": "&lt;", "&": "&amp;", "@": "@\u200b", "#": "#\u200b", "!": "!\u200b"}
OFFER_HEAD = (
    "offer", "GPU", "machine", "place", "$/h", "download", "ready in", "pairs/s", "$ per million pairs", "how sure",
)  # fmt: skip
SIGNS = {"create": "+ create", "update": "~ update", "replace": "± replace", "delete": "- delete"}


def safe(text: object, chars: int = MAX_TEXT_CHARS) -> str:
    """Return text as one line that Markdown shows as it is: no link, image, tag, mention or reference comes of it."""
    line = " ".join(plain(str(text)).split())[:chars]
    return _MARKUP.sub(lambda found: _ESCAPES.get(found[0]) or f"\\{found[0]}", line)


def own(text: str) -> str:
    """Return a sentence of ours as one line, with its code marked; <names> in it are no tags."""
    return " ".join(text.split()).replace("<", "&lt;")


def code(text: object) -> str:
    """Return text as code, on one line."""
    return f"`{' '.join(plain(str(text)).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def usd(amount: float | None, *, digits: int = 4) -> str:
    """Return dollars, or a dash for none."""
    return "-" if amount is None else f"${amount:.{digits}f}"


def count(number: int, what: str) -> str:
    """Return a number of things: "1 server", "2 servers"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are escaped already."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bullets(title: str, texts: Iterable[str]) -> str:
    """Return a titled list, or "" for none."""
    items = [f"- {safe(text)}" for text in texts]
    return "\n".join([f"**{title}**\n", *items]) if items else ""


def plan_line(plan: Plan) -> str:
    """Return the plan's count in words."""
    return ", ".join(f"{count} to {op}" for op, count in plan.counts().items()) or "nothing to change"


def changes(plan: Plan) -> list[str]:
    """Return a line for each offer that would be rented, the table of steps and why, the warnings."""
    rent = [
        f"**Would rent** offer {one.ask_contract_id}: {safe(one.gpu)} on machine {one.machine_id}, "
        f"{safe(one.geolocation)}, {usd(one.hourly_usd)}/h; the download costs {usd(one.pull_cost_usd, digits=2)} "
        f"once; ready in about {minutes(one.ready_s)}{speed(one)}."
        for one in plan.choices
    ]
    rows = [(SIGNS[one.op], code(one.name), safe(one.type), safe("; ".join(one.reasons) or "-")) for one in plan.steps]
    steps = table(("change", "resource", "type", "why"), rows) if rows else ""
    return [*rent, steps, bullets("Warnings", plan.warnings)]


def prices(now: float | None, after: float | None) -> str:
    """Return the price per hour and month, now and after."""
    delta = "" if now is None or after is None or abs(after - now) < 5e-5 else f" ({after - now:+.4f})"
    monthly = [usd(None if one is None else one * HOURS_PER_MONTH, digits=2) for one in (now, after)]
    rows = [("per hour", usd(now), usd(after) + delta), (f"per month, {HOURS_PER_MONTH:g} h", *monthly)]
    return table(("price", "now", "after"), rows)


def offers(found: Sequence[Choice]) -> str:
    """Return the offers that were considered, folded."""
    return f"<details><summary>Offers considered: {len(found)}</summary>\n\n{offer_table(found)}\n\n</details>"


def offer_table(found: Sequence[Choice]) -> str:
    """Return offers as a table, with their speed where it is estimated."""
    rows = [
        (str(one.ask_contract_id), safe(one.gpu), str(one.machine_id), safe(one.geolocation), usd(one.hourly_usd),
         usd(one.pull_cost_usd, digits=2), f"{one.ready_s / 60:.0f} min", *_speed_cells(one))
        for one in found
    ]  # fmt: skip
    shown = 10 if any(one.estimate for one in found) else 7
    return table(OFFER_HEAD[:shown], [row[:shown] for row in rows])


def speed(one: Choice) -> str:
    """Return an offer's estimated speed as the end of a sentence, "" where there is no estimate."""
    if one.pairs_per_s is None:
        return f"; pairs/s {safe(one.estimate)}" if one.estimate else ""
    return f"; about {one.pairs_per_s:.0f} pairs/s ({safe(one.estimate)}), {usd(one.usd_per_million)} per million"


def _speed_cells(one: Choice) -> tuple[str, str, str]:
    rate = "-" if one.pairs_per_s is None else f"{one.pairs_per_s:.0f}"
    return rate, usd(one.usd_per_million), safe(one.estimate or "-")


def running(outputs: StackOutputs) -> str:
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
