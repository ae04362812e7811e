"""Parts of results in Markdown, for a pull request's comment, an issue or a job's page. Pure.

Text from a host or an API is escaped, so that it can neither break a table nor mention anyone.
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
    "offer", "GPU", "machine", "location", "$/h", "download", "ready in", "pairs/s", "$ per million pairs", "basis",
)  # fmt: skip
SIGNS = {"create": "+ create", "update": "~ update", "replace": "± replace", "delete": "- delete"}


def safe(text: object, chars: int = MAX_TEXT_CHARS) -> str:
    """Return text as one line of Markdown, with links, images, tags, mentions and references escaped."""
    line = " ".join(plain(str(text)).split())[:chars]
    return _MARKUP.sub(lambda match: _ESCAPES.get(match[0]) or f"\\{match[0]}", line)


def sentence(text: str) -> str:
    """Return a text of this project as one line of Markdown; only <names> are escaped."""
    return " ".join(text.split()).replace("<", "&lt;")


def code(text: object) -> str:
    """Return text as inline code."""
    return f"`{' '.join(plain(str(text)).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def usd(amount: float | None, *, digits: int = 4) -> str:
    """Return dollars, or a dash for none."""
    return "-" if amount is None else f"${amount:.{digits}f}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 server", "2 servers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells must be escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bullets(title: str, texts: Iterable[str]) -> str:
    """Return a titled list, or "" for none."""
    items = [f"- {safe(text)}" for text in texts]
    return "\n".join([f"**{title}**\n", *items]) if items else ""


def plan_line(plan: Plan) -> str:
    return ", ".join(f"{count} to {op}" for op, count in plan.counts().items()) or "nothing to change"


def changes(plan: Plan) -> list[str]:
    """Return a line for each offer to rent, the table of steps with reasons, and the warnings."""
    rent = [
        f"**Would rent** offer {offer.ask_contract_id}: {safe(offer.gpu)} on machine {offer.machine_id}, "
        f"{safe(offer.geolocation)}, {usd(offer.hourly_usd)}/h; the download costs "
        f"{usd(offer.pull_cost_usd, digits=2)} once; ready in about {minutes(offer.ready_s)}{speed(offer)}."
        for offer in plan.choices
    ]
    rows = [
        (SIGNS[step.op], code(step.name), safe(step.type), safe("; ".join(step.reasons) or "-")) for step in plan.steps
    ]
    steps = table(("change", "resource", "type", "why"), rows) if rows else ""
    return [*rent, steps, bullets("Warnings", plan.warnings)]


def prices(now: float | None, after: float | None) -> str:
    delta = "" if now is None or after is None or abs(after - now) < 5e-5 else f" ({after - now:+.4f})"
    monthly = [usd(None if hourly is None else hourly * HOURS_PER_MONTH, digits=2) for hourly in (now, after)]
    rows = [("per hour", usd(now), usd(after) + delta), (f"per month, {HOURS_PER_MONTH:g} h", *monthly)]
    return table(("price", "now", "after"), rows)


def offers(choices: Sequence[Choice]) -> str:
    """Return the considered offers as a collapsed table."""
    return f"<details><summary>Offers considered: {len(choices)}</summary>\n\n{offer_table(choices)}\n\n</details>"


def offer_table(choices: Sequence[Choice]) -> str:
    """Return offers as a table, with speeds if any is estimated."""
    rows = [
        (str(offer.ask_contract_id), safe(offer.gpu), str(offer.machine_id), safe(offer.geolocation),
         usd(offer.hourly_usd), usd(offer.pull_cost_usd, digits=2), f"{offer.ready_s / 60:.0f} min",
         "-" if offer.pairs_per_s is None else f"{offer.pairs_per_s:.0f}", usd(offer.usd_per_million),
         safe(offer.estimate or "-"))
        for offer in choices
    ]  # fmt: skip
    columns = 10 if any(offer.estimate for offer in choices) else 7
    return table(OFFER_HEAD[:columns], [row[:columns] for row in rows])


def speed(offer: Choice) -> str:
    """Return an offer's estimated speed as the end of a sentence, or "" without an estimate."""
    if offer.pairs_per_s is None:
        return f"; pairs/s {safe(offer.estimate)}" if offer.estimate else ""
    return f"; about {offer.pairs_per_s:.0f} pairs/s ({safe(offer.estimate)}), {usd(offer.usd_per_million)} per million"


def running(outputs: StackOutputs) -> str:
    """Return the table of a stack's outputs, without its key."""
    hourly, result = outputs.hourly_cost_usd, f"{'passed' if outputs.validated else 'FAILED'}, {outputs.checks} checks"
    instances = [
        (f"instance {row.instance_id}", f"{safe(row.gpu)} on machine {row.machine_id}, {usd(row.hourly_cost_usd)}/h")
        for row in outputs.replicas
    ]
    rows = [
        ("url", code(outputs.url) if outputs.url else "-"),
        ("model", safe(outputs.model)),
        *instances,
        ("price", f"{usd(hourly)}/h, {usd(hourly * HOURS_PER_MONTH, digits=2)} a month"),
        ("validation", "-" if outputs.validated is None else result),
        ("weights that ran", safe(outputs.weights or "-")),
    ]
    return table(("output", "value"), rows)
