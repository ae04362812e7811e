import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from components.vast.models import Contract
from ops.exits import OpsError
from ops.notify import ATTEMPT_S, Notice, contract_notices, payload, post, send_notices
from ops.plan import Plan
from ops.status import Bill, account_notices
from reranker.http import HttpTransport
from tests.unit import hostile_server
from tests.unit.webhook import TOKEN, running_webhook

T = datetime(2026, 11, 26, 12, tzinfo=UTC)
DRIFT = Notice("drift", "exited: instance 7: exited (1) <b> & so", "replace reranker")


class Stack:
    """A stack with a config and tags, as `ops.engine.Pulumi` gives them."""

    def __init__(self, url="", form="slack", *, tags=True):
        self.project, self.name, self.short_name, self.kept = "vast-reranker", "prod", "prod", {}
        self.notify = json.dumps({"webhook": url, "format": form}) if url else ""
        self.keeps = tags
        self.stack = SimpleNamespace(list_tags=lambda: self.kept, set_tag=self.kept.__setitem__)

    def config(self, _key):
        return self.notify

    def call(self, method, *args):
        if not self.keeps:
            raise OpsError(1, "this backend has no tags")
        return method(*args)


def send(url):
    return post(url, b"{}", HttpTransport(), sleep=lambda _seconds: None)


def test_a_webhook_is_told_in_slacks_form_or_in_json():
    notices = [DRIFT, Notice("price", "now $0.2/h")]
    slack = json.loads(payload("slack", "vast-reranker/prod", "drift", notices, T))
    assert slack == {
        "text": "`vast-reranker/prod` drift\n*drift*: exited: instance 7: exited (1) &lt;b&gt; &amp; so\n"
        "*price raised*: now $0.2/h"
    }
    assert json.loads(payload("json", "vast-reranker/prod", "drift", notices, T)) == {
        "stack": "vast-reranker/prod",
        "command": "drift",
        "at": "2026-11-26T12:00:00+00:00",
        "events": [{"event": "drift", "text": DRIFT.text}, {"event": "price", "text": "now $0.2/h"}],
    }


def test_the_same_event_is_told_once_and_another_one_at_once(capsys):
    with running_webhook(200) as (url, bodies):
        stack = Stack(url, "json")
        send_notices(stack, "drift", [DRIFT])
        send_notices(stack, "drift", [Notice("drift", "the same, in other words", DRIFT.key)])
        assert len(bodies) == 1
        send_notices(stack, "drift", [DRIFT, Notice("drift", "another", "replace reranker-2"), Notice("credit", "low")])
        assert [one["event"] for one in bodies[1]["events"]] == ["drift", "credit"]
        assert not capsys.readouterr().err
        stack.kept = {key: f"2026-01-01T00:00:00+00:00 {one[-16:]}" for key, one in stack.kept.items()}
        stack.stack.list_tags = lambda: stack.kept
        send_notices(stack, "drift", [Notice("credit", "low")])
        assert len(bodies) == 3


def test_a_backend_without_tags_remembers_nothing():
    with running_webhook(200) as (url, bodies):
        for _ in range(2):
            send_notices(Stack(url, tags=False), "drift", [DRIFT])
        assert len(bodies) == 2


def test_nobody_is_told_without_a_webhook_or_without_news():
    with running_webhook(200) as (url, bodies):
        send_notices(Stack(), "drift", [DRIFT])
        send_notices(Stack(url), "drift", [])
        assert bodies == []


@pytest.mark.parametrize(
    ("statuses", "problem", "calls"),
    [
        ([200], "", 1),
        ([500, 204], "", 2),
        ([429, 200], "", 2),
        ([500], "HTTP 500", 2),
        ([404], "HTTP 404", 1),
        ([302], "HTTP 302", 1),
    ],
)
def test_what_may_pass_is_sent_again_once(statuses, problem, calls):
    with running_webhook(*statuses) as (url, bodies):
        assert send(url) == problem
        assert len(bodies) == calls


def test_a_webhook_that_refuses_is_named_without_its_address():
    with hostile_server.server(lambda *_: None) as url:
        pass
    assert send(f"{url}/{TOKEN}")
    assert TOKEN not in send(f"{url}/{TOKEN}")
    assert TOKEN not in send(f"nonsense {TOKEN}")


@pytest.mark.all
def test_a_webhook_that_hangs_is_given_up_after_two_tries():
    with hostile_server.server(lambda _line, over: over.wait(60)) as url:
        began = time.monotonic()
        assert send(url)
        assert 2 * ATTEMPT_S - 1 < time.monotonic() - began < 2 * ATTEMPT_S + 3


def test_trouble_fails_nothing_shows_no_address_and_is_told_again(capsys):
    with running_webhook(404, 404, 200) as (url, bodies):
        stack = Stack(url)
        send_notices(stack, "drift", [DRIFT])
        assert "no notice was sent to notify.webhook: HTTP 404" in (error := capsys.readouterr().err)
        assert TOKEN not in error
        stack.notify = '["no object"]'
        send_notices(stack, "drift", [DRIFT])
        assert "no notice was sent: AttributeError" in capsys.readouterr().err
        stack.notify = json.dumps({"webhook": url})
        send_notices(stack, "drift", [DRIFT])
        send_notices(stack, "drift", [DRIFT])
        assert len(bodies) == 3


def test_a_plan_tells_of_prices_and_of_contracts_that_end():
    price, ending = "price: now $0.2/h, was $0.1/h", "ending: the contract ends in 2 h"
    plan = Plan((), [ending], (), (), (), (), None, None, [price, "something else"])
    assert [(one.kind, one.text) for one in contract_notices(plan)] == [
        ("price", "now $0.2/h, was $0.1/h"),
        ("ending", "the contract ends in 2 h"),
    ]


def test_status_tells_of_credit_under_the_runway_and_contracts_that_end_within_a_day():
    now = T.timestamp()
    contracts = [Contract(1, end_date=now + 3600), Contract(2, end_date=now + 90000), Contract(3)]
    assert [one.kind for one in account_notices(Bill(10.0, 1.0), 9.0, contracts[1:], now)] == []
    found = account_notices(Bill(10.0, 1.0), 11.0, contracts, now)
    assert [(one.kind, one.key) for one in found] == [("credit", "low"), ("ending", "[1]")]
    assert found[1].text == "instance 1 in 60 min"
