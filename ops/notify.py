"""Sends notices to a webhook (config `notify`): one POST at the end of a run, in Slack's format or JSON.

Called by `ops.command` for every verb; it never fails a command. A tag of the stack stores the last notice per kind, so
that it is not repeated within AGAIN_H. If the backend has no tags, every run sends it.
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
    """A message for the webhook; notices with the same `key` are about the same event."""

    kind: Kind
    text: str
    key: str = ""

    def digest(self) -> str:
        return hashlib.sha256((self.key or self.text).encode()).hexdigest()[:16]


def contract_notices(plan: Plan) -> list[Notice]:
    """Return notices for a plan's warnings about raised prices and ending contracts."""
    drifts = [drift for text in (*plan.warnings, *plan.drift) if (drift := Drift.parse(text))]
    prices = [Notice("price", drift.reason) for drift in drifts if drift.kind == "price"]
    endings = [Notice("ending", drift.reason, "plan") for drift in drifts if drift.kind == "ending"]
    return [*prices, *endings[:1]]


def send_notices(pulumi: Pulumi, command: str, notices: Sequence[Notice]) -> None:
    """Send the notices that were not sent recently to the stack's webhook, if any; an error is a warning on stderr."""
    try:
        settings = json.loads(pulumi.config("notify") or "{}") if notices else {}
        if not (url := str(settings.get("webhook") or "").strip()):
            return
        now = datetime.now(UTC)
        if not (new := [notice for notice in notices if not _was_sent(pulumi, notice, now)]):
            return
        body = payload(
            str(settings.get("format") or "slack"), f"{pulumi.project}/{pulumi.short_name}", command, new, now
        )
        if problem := post(url, body, HttpTransport(proxies=True)):
            print(f"warning: no notice was sent to notify.webhook: {problem}", file=sys.stderr)
            return
        for notice in new:
            stack_tags.set_text(pulumi, _tag(notice), f"{now.isoformat(timespec='seconds')} {notice.digest()}")
    except (OpsError, VastRerankerError, OSError, ValueError, AttributeError) as error:
        print(without_secrets(f"warning: no notice was sent: {type(error).__name__}"), file=sys.stderr)


def payload(form: str, stack: str, command: str, notices: Sequence[Notice], now: datetime) -> bytes:
    """Return the body of the POST: {"text"} for Slack, else stack, command, at, events."""
    texts = [without_secrets(notice.text)[:MAX_TEXT_CHARS] for notice in notices]
    if form == "slack":
        lines = (f"*{TITLES[notice.kind]}*: {_slack(text)}" for notice, text in zip(notices, texts, strict=True))
        return json.dumps({"text": "\n".join([f"`{stack}` {command}", *lines])}).encode()
    events = [{"event": notice.kind, "text": text} for notice, text in zip(notices, texts, strict=True)]
    at = now.isoformat(timespec="seconds")
    return json.dumps({"stack": stack, "command": command, "at": at, "events": events}).encode()


def post(url: str, body: bytes, transport: Transport, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Send a body, at most twice, within 11 s; return the problem, or "". The problem never contains the URL."""
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
        problem = f"HTTP {answer.status}"
        if answer.status < 500 and answer.status != 429:
            break
    return problem


def _was_sent(pulumi: Pulumi, notice: Notice, now: datetime) -> bool:
    when, _, digest = stack_tags.get_text(pulumi, _tag(notice)).partition(" ")
    return digest == notice.digest() and datetime.fromisoformat(when) > now - timedelta(hours=AGAIN_H)


def _tag(notice: Notice) -> str:
    return f"ops:told-{notice.kind}"


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
