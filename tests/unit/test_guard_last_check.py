"""A gateway's check of a server that is busy: the answer to the last one stands while requests are served."""

import pytest
import requests

from components.guard.last_check import CHECK, MAX_AGE_S, LastCheck
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded
from tests.unit.guard_requests import KEYS

ASKED = {"query": "capital of France", "documents": ["Paris is the capital of France.", "Bread needs flour."]}


@pytest.mark.parametrize(
    ("served_at", "body", "now", "stands"),
    [
        (0.0, b"check", 105.0, False),  # nothing served since
        (99.0, b"check", 105.0, False),  # served before it
        (101.0, b"check", 105.0, True),
        (101.0, b"another", 105.0, False),
        (101.0, b"check", 100.0 + MAX_AGE_S + 1, False),
    ],
)
def test_a_check_that_passed_stands_for_the_same_one_while_requests_are_served(served_at, body, now, stands):
    last = LastCheck()
    last.store(b"check", b"answer", 100.0)
    last.served_at = served_at
    assert (last.cached_answer(body, now) == b"answer") is stands
    assert last.cached_answer(body, now + 1) is None  # the same served request stands for one check


class Counted(Stub):
    asked = 0

    async def __call__(self, scope, receive, send):
        self.asked += scope["path"] == "/rerank"
        await super().__call__(scope, receive, send)


def test_only_a_check_by_the_management_key_is_answered_without_vllm():
    with guarded(app := Counted(Served(("m",))), KEYS[0], {"max_documents": 9}) as guard:

        def ask(key, check=True, **body):
            headers = {"Authorization": f"Bearer {key}", **({CHECK.decode(): "1"} if check else {})}
            url, before = f"http://127.0.0.1:{guard.port}", app.asked
            answer = requests.post(f"{url}/rerank", json=ASKED | body, headers=headers, timeout=5)
            return answer.status_code, answer.json(), app.asked - before

        put = {"keys": [{"name": "search", "sha256": ""}]}
        url = f"http://127.0.0.1:{guard.port}/guard/keys"
        assert requests.put(url, json=put, headers={"Authorization": f"Bearer {KEYS[0]}"}, timeout=5).ok
        status, first, asked = ask(KEYS[0])
        assert (status, asked) == (200, 1)
        assert ask(KEYS[0])[2] == 1  # nothing was served between the two
        assert ask(KEYS[0], check=False, query="another")[2] == 1
        again = ask(KEYS[0])
        assert (again[0], again[2]) == (200, 0)
        assert [one["relevance_score"] for one in again[1]["results"]] == [
            one["relevance_score"] for one in first["results"]
        ]
        assert ask(KEYS[0])[2] == 1
        ask(KEYS[0], check=False)
        assert ask("wrong")[0] == 401
        assert ask(KEYS[0], check=False)[2] == 1
