"""A fake Vast.ai API, used as a transport of the client; a test scripts its answers."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.vast.client import VastClient
from components.vast.instance_cache import InstanceCache
from components.vast.pacing import OFF, Pacer
from reranker.http import Answer, Unanswered
from tests.unit.wire_samples import instance, offer

KEY = "vast-key-that-must-not-leak-0123456789"


class ManualClock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ScriptedApi:
    """Rents offers and stores contracts.

    `life(machine_id, age_s)` returns fields that override those of a running instance of this age, or None for an
    absent instance. `on_rent(ask_id, body)` may return an Answer or raise Unanswered instead of renting.
    """

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.offers = [offer(1001 + n, dph_total=0.09 + n / 100) for n in range(6)]
        self.contracts: dict[int, dict[str, Any]] = {}
        self.rented_at: dict[int, float] = {}
        self.destroyed: list[int] = []
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.life: Callable[[int, float], dict[str, Any] | None] = lambda _machine, _age: {}
        self.on_rent: Callable[[int, dict[str, Any]], Answer | None] = lambda _ask, _body: None
        self.interrupt: Callable[[str, str], Answer | None] = lambda _method, _path: None
        self.log = ""
        self.credit_usd = 100.0
        self._next = 9001

    def client(self, **options: Any) -> VastClient:
        return VastClient(
            options.pop("key", KEY),
            transport=self,
            pacer=options.pop("pacer", None) or Pacer(OFF),
            api_url="http://api.test",
            clock=self.clock,
            sleep=self.clock.sleep,
            **options,
        )

    def instance_cache(self, client: VastClient) -> InstanceCache:
        return InstanceCache(client, clock=self.clock)

    def add(self, label: str, **fields: Any) -> int:
        """Add an instance that was rented before."""
        instance_id, self._next = self._next, self._next + 1
        self.contracts[instance_id] = instance(instance_id, label=label, **fields)
        self.rented_at[instance_id] = self.clock.now
        return instance_id

    def __call__(self, method: str, url: str, *, body: bytes | None = None, **_options: Any) -> Answer:
        return self._answer(method, url, json.loads(body) if body else None)

    def _answer(self, method: str, url: str, body: Any) -> Answer:
        split = urlsplit(url)
        path = split.path
        self.calls[f"{method} {path.split('/')[3] if path.startswith('/api') else path}"] += 1
        answer = self.interrupt(method, path)
        if answer is not None:
            return answer
        if path == "/log":
            return Answer(200, self.log.encode())
        if path.endswith("/bundles/"):
            self.bodies.append(body)
            return _json({"offers": self.offers})
        if "/asks/" in path:
            return self._rent(int(path.split("/")[4]), body)
        if path == "/api/v1/instances/":
            label = json.loads(parse_qs(split.query)["select_filters"][0]).get("label", {}).get("eq")
            rows = [row for row in self._rows() if label is None or row["label"] == label]
            return _json({"success": True, "instances": rows, "next_token": None})
        if path.endswith("/users/current/"):
            return _json({"id": 1, "credit": self.credit_usd})
        if path.endswith("/pending-price-increases/"):
            return _json({"success": True, "pending_price_increases": []})
        if "/request_logs/" in path:
            return _json({"success": True, "result_url": "http://api.test/log"})
        return self._answer_instance(method, int(path.split("/")[4]), body)

    def _rent(self, ask_id: int, body: dict[str, Any]) -> Answer:
        answer = self.on_rent(ask_id, body)
        if answer is not None:
            return answer
        return _json({"success": True, "new_contract": self.make(ask_id, body)})

    def make(self, ask_id: int, body: dict[str, Any]) -> int:
        return self.add(body["label"], machine_id=ask_id + 5000)

    def _answer_instance(self, method: str, instance_id: int, body: Any) -> Answer:
        if method == "GET":
            rows = {row["id"]: row for row in self._rows()}
            return _json({"instances": rows.get(instance_id)})
        if method == "DELETE":
            if self.contracts.pop(instance_id, None) is None:
                return _json({"success": False, "error": "no_such_instance", "msg": "gone"}, 404)
            self.destroyed.append(instance_id)
            return _json({"success": True})
        self.contracts[instance_id].update(body)
        return _json({"success": True})

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for instance_id, row in self.contracts.items():
            fields = self.life(row["machine_id"], self.clock.now - self.rented_at[instance_id])
            if fields is not None:
                rows.append(row | fields)
        return rows


def _json(body: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())


def no_answer(reason: str = "the connection broke", *, sent: bool = True) -> Unanswered:
    return Unanswered(reason, sent=sent)
