"""Tells a webhook (config `notify`) what a command found or did: one POST at the end of a run, Slack's form or JSON.

Called by `ops.command` for every verb. It never fails a command. What was told is kept as a tag of the stack, by kind,
so that the same is not told again within AGAIN_H; where a backend has no tags, every run tells.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.errors import VastRerankerError
from components.vast.drift import Drift
from ops import stack_tags
from ops.engine import Pulumi, without_secrets
from ops.exits import OpsError
from ops.plan import Plan
from reranker.http import HttpTransport, Transport, Unanswered

Kind = Literal["drift", "heal", "failed", "price", "credit", "budget", "ending"]
TITLES: dict[Kind, str] = {
    "drift": "drift",
    "heal": "repaired",
    "failed": "failed",
    "price": "price raised",
    "credit": "credit runs out",
    "budget": "over budget",
    "ending": "contract ends",
}
AGAIN_H = 24
ATTEMPTS, ATTEMPT_S, PAUSE_S = 2, 5.0, 1.0
MAX_ANSWER_BYTES = 1 << 16
MAX_TEXT_CHARS = 1000


@dataclass(frozen=True)
class Notice:
    """What somebody is told, in a line or some; `key` is the same for the same event, told in other words."""

    kind: Kind
    text: str
    key: str = ""

    def digest(self) -> str:
        return hashlib.sha256((self.key or self.text).encode()).hexdigest()[:16]


def terms(plan: Plan) -> list[Notice]:
    """Return the notices of prices that were raised and contracts that end, which a plan warns of."""
    found = [Drift.parse(text) for text in (*plan.warnings, *plan.drift)]
    prices = [Notice("price", one.reason) for one in found if one and one.kind == "price"]
    endings = [Notice("ending", one.reason, "plan") for one in found if one and one.kind == "ending"]
    return [*prices, *endings[:1]]


def tell(pulumi: Pulumi, command: str, notices: Sequence[Notice], *, transport: Transport | None = None) -> None:
    """Send what was not told lately to the webhook of a stack's config, if it has one; on trouble a line on stderr."""
    try:
        given = json.loads(pulumi.config("notify") or "{}") if notices else {}
        if not (url := str(given.get("webhook") or "").strip()):
            return
        now = datetime.now(UTC)
        if not (fresh := [one for one in notices if not _told(pulumi, one, now)]):
            return
        body = payload(str(given.get("format") or "slack"), f"{pulumi.project}/{pulumi.name}", command, fresh, now)
        if problem := post(url, body, transport or HttpTransport(proxies=True)):
            print(f"warning: the webhook of notify.webhook was not told: {problem}", file=sys.stderr)
            return
        for one in fresh:
            stack_tags.set_text(pulumi, _tag(one), f"{now.isoformat(timespec='seconds')} {one.digest()}")
    except (OpsError, VastRerankerError, OSError, ValueError, AttributeError) as error:
        print(without_secrets(f"warning: nobody was told: {type(error).__name__}"), file=sys.stderr)


def payload(form: str, stack: str, command: str, notices: Sequence[Notice], now: datetime) -> bytes:
    """Return the body of the POST: {"text"} for Slack, else stack, command, at, events."""
    texts = [without_secrets(one.text)[:MAX_TEXT_CHARS] for one in notices]
    if form == "slack":
        lines = (f"*{TITLES[one.kind]}*: {_slack(text)}" for one, text in zip(notices, texts, strict=True))
        return json.dumps({"text": "\n".join([f"`{stack}` {command}", *lines])}).encode()
    events = [{"event": one.kind, "text": text} for one, text in zip(notices, texts, strict=True)]
    at = now.isoformat(timespec="seconds")
    return json.dumps({"stack": stack, "command": command, "at": at, "events": events}).encode()


def post(url: str, body: bytes, transport: Transport, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Send a body, twice at most, within 11 s; return why it was not taken, or "". The URL is in no text."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(PAUSE_S)
        try:
            answer = transport("POST", url, body=body, timeout_s=ATTEMPT_S, max_bytes=MAX_ANSWER_BYTES)
        except Unanswered as error:
            problem = str(error)
            continue
        if answer.status < 300:
            return ""
        problem = f"it answered HTTP {answer.status}"
        if answer.status < 500 and answer.status != 429:
            break
    return problem


def _told(pulumi: Pulumi, one: Notice, now: datetime) -> bool:
    when, _, digest = stack_tags.get_text(pulumi, _tag(one)).partition(" ")
    return digest == one.digest() and datetime.fromisoformat(when) > now - timedelta(hours=AGAIN_H)


def _tag(one: Notice) -> str:
    return f"ops:told-{one.kind}"


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
