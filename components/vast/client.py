"""A typed client of Vast.ai's API, one method per call. Used by `rental`, the resources and ops.

Endpoints and shapes: Vast.ai API reference. What is decided here is only what every call needs: pacing, retries of
calls that are safe to repeat, and which error an answer is. Renting is never repeated unless it surely did not happen.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from components.errors import (
    ApiError,
    ApiUnreachable,
    AuthError,
    CreateFailed,
    DestroyFailed,
    MalformedAnswer,
    OfferTaken,
    RateLimited,
)
from components.redaction import scrub
from components.vast.json_values import Json, integer, number
from components.vast.models import Account, Contract, Offer
from components.vast.pacing import Pacer
from components.vast.query import Query
from reranker.http import Answer, HttpTransport, Transport, Unanswered, bearer

DEFAULT_API_URL: Final = "https://console.vast.ai"
KEY = re.compile(r"[\x21-\x7e]+")
KEY_HELP: Final = (
    "set it with `export VAST_API_KEY=...` or `pulumi config set --secret vast_api_key ...`; "
    "keys are made at https://cloud.vast.ai/manage-keys/"
)
KEPT_CONNECTIONS: Final = 8
LIST_PAGE: Final = 25  # the API's own maximum
SEARCH_CAP: Final = 64  # offers per search, whatever `limit` says

_TAKEN = ("no_such_ask", "not available", "no longer available")
_RETRIED = (429, 502, 503, 504)


class AmbiguousRent(Exception):
    """The rent call may or may not have made a contract: no answer, or a gateway's. Resolved by label, not by retry."""


@dataclass(frozen=True)
class Page:
    """What one search returned: the offers, and how many more there were that lack an id, a machine or a price."""

    offers: list[Offer]
    unreadable: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.offers) + self.unreadable >= SEARCH_CAP


class VastClient:
    """Calls the API with one key.

    >>> client = VastClient(key, pacer=Pacer())
    >>> client.search(Query(parse("gpu_ram>=16"))).offers[0].gpu_name
    """

    def __init__(
        self,
        key: str,
        *,
        pacer: Pacer,
        transport: Transport | None = None,
        api_url: str = DEFAULT_API_URL,
        patience_s: float = 30.0,
        timeout_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key.strip()  # a file or a secret store may end it with a newline
        self._transport: Transport = transport or HttpTransport(keep=KEPT_CONNECTIONS, proxies=True)
        self._pacer = pacer
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self.api_url = api_url.rstrip("/")

    def __repr__(self) -> str:
        return f"VastClient({self.api_url})"

    # ---- calls -----------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """Return the account behind the key. Raises AuthError for a wrong key."""
        return Account.parse(self._object(self._call("show", "GET", "/api/v0/users/current/"), "user"))

    def search(self, query: Query) -> Page:
        """Return the offers that satisfy the query, at most 64 (the API's cap), in the query's order. Raises
        MalformedAnswer where none of them can be read."""
        data = self._object(self._call("search", "POST", "/api/v0/bundles/", query.body()), "offers")
        rows = data.get("offers")
        if not isinstance(rows, list):
            raise MalformedAnswer(f"search at {self.api_url} answered without a list of offers: {str(data)[:200]}")
        offers, unreadable = [], []
        for row in rows:
            try:
                offers.append(Offer.parse(row))
            except (MalformedAnswer, AttributeError) as error:  # AttributeError: a row that is no object
                unreadable.append(error)
        if unreadable and not offers:
            raise MalformedAnswer(f"search at {self.api_url}: none of {len(rows)} offers can be read: {unreadable[0]}")
        return Page(offers, len(unreadable))

    def rent(self, ask_id: int, body: Mapping[str, Json]) -> int:
        """Rent an offer and return the contract's id.

        Raises OfferTaken, CreateFailed (with `leaked_id` where a contract was made all the same), AuthError,
        RateLimited; AmbiguousRent when nobody can tell whether a contract exists.
        """
        try:
            answer = self._call("rent", "PUT", f"/api/v0/asks/{ask_id}/", dict(body), repeatable=False, judge=False)
        except Unanswered as unanswered:
            raise AmbiguousRent(str(unanswered)) from None
        data = answer.json()
        made = data.get("new_contract") if isinstance(data, dict) else None
        if answer.status == 200 and isinstance(data, dict) and data.get("success") is not False and made:
            return int(made)
        refused = isinstance(data, dict) and data.get("success") is False
        if answer.status >= 500 or answer.status == 408 or (answer.status < 300 and not refused):
            raise AmbiguousRent(f"HTTP {answer.status}")
        error = self._error(answer, f"renting offer {ask_id}")
        if made:
            failed = CreateFailed(str(error), status=answer.status, code=getattr(error, "code", ""))
            failed.leaked_id = int(made)
            raise failed
        raise error

    def instance(self, instance_id: int) -> Contract | None:
        """Return one instance, or None where the API says on its own authority that it does not exist."""
        try:
            answer = self._call("show", "GET", f"/api/v0/instances/{instance_id}/?owner=me")
        except ApiError as error:
            gone = error.code in ("no_such_instance", "not_found") and error.status == 404
            if gone and not isinstance(error, AuthError):
                return None
            raise
        data = self._object(answer, "instances")
        row = data.get("instances", data)
        if row is None:
            return None
        if not isinstance(row, dict) or "id" not in row:
            raise MalformedAnswer(f"instance {instance_id} at {self.api_url}: the answer describes no instance")
        return Contract.parse(row)

    def instances(self) -> list[Contract]:
        """Return all instances of the account, every page."""
        rows: list[Contract] = []
        token: str | None = None
        while True:
            order = [{"col": "id", "dir": "asc"}]
            args = {"select_filters": "{}", "order_by": json.dumps(order), "limit": str(LIST_PAGE)}
            query = urlencode(args | ({"after_token": token} if token else {}), quote_via=quote)
            data = self._object(self._call("list", "GET", f"/api/v1/instances/?{query}"), "instances")
            found = data.get("instances")
            if not isinstance(found, list):
                raise MalformedAnswer(f"the list of instances at {self.api_url} has no list in it")
            rows.extend(Contract.parse(row) for row in found)
            token = data.get("next_token")
            if not token:
                return rows

    def price_increases(self) -> dict[int, float]:
        """Return the price increases that hosts have announced: contract id -> new $/h for GPU and disk.

        Source: the official SDK's price_increase module; prices there are per second. {} where the API has no such
        endpoint.
        """
        try:
            answer = self._call("prices", "GET", "/api/v0/instances/pending-price-increases/")
        except AuthError:
            raise
        except ApiError as error:
            if error.status == 404:
                return {}
            raise
        rows = self._object(answer, "price increases").get("pending_price_increases") or []
        parts = ("new_gpu_costpersec", "new_disk_ram_costpersec")
        return {integer(row, "contract_id"): sum(number(row, part, 0.0) for part in parts) * 3600.0 for row in rows}

    def set_label(self, instance_id: int, label: str) -> None:
        self._call("manage", "PUT", f"/api/v0/instances/{instance_id}/", {"label": label})

    def change_bid(self, instance_id: int, price_usd: float) -> None:
        self._call("bid", "PUT", f"/api/v0/instances/bid_price/{instance_id}/", {"client_id": "me", "price": price_usd})

    def destroy(self, instance_id: int) -> bool:
        """Destroy an instance for good; False when it was gone already. Repeats hard: what stays is billed."""
        try:
            path = f"/api/v0/instances/{instance_id}/"
            self._call("destroy", "DELETE", path, {}, patience_s=4 * self._patience_s)
        except ApiError as error:
            if error.status in (404, 410) and not isinstance(error, AuthError):
                return False
            raise
        return True

    def logs(self, instance_id: int, *, lines: int = 100, wait_s: float = 10.0) -> str:
        """Return the end of a container's log; "" when the host does not deliver it in time. Not yet scrubbed."""
        data = self._object(
            self._call("logs", "PUT", f"/api/v0/instances/request_logs/{instance_id}/", {"tail": str(lines)}), "logs"
        )
        url = data.get("result_url")
        if not isinstance(url, str):
            return ""
        deadline = self._clock() + wait_s
        while True:
            try:
                answer = self._transport("GET", url, timeout_s=10.0)  # no key: the log lies on a public store
            except Unanswered:
                return ""
            if answer.status == 200:
                return answer.text
            if self._clock() >= deadline:
                return ""
            self._sleep(0.3)

    # ---- what every call needs ---------------------------------------------------------------------------------------

    def _call(
        self,
        endpoint: str,
        method: str,
        path: str,
        body: Json = None,
        *,
        repeatable: bool = True,
        judge: bool = True,
        patience_s: float | None = None,
    ) -> Answer:
        """Send one request, waiting for its turn; repeat it within the patience where that is safe.

        A call that is not `repeatable` is sent again only after a 429 or a connection that was never made, and its
        Unanswered is left to the caller. With `judge`, an answer that is an error is raised as one.
        """
        if not self._key:
            raise AuthError(f"no Vast.ai key; {KEY_HELP}", status=0, code="no_key")
        if not KEY.fullmatch(self._key):
            raise AuthError(
                f"the Vast.ai key holds a blank or a character that no header can carry; {KEY_HELP}",
                status=0,
                code="no_key",
            )
        sent = None if body is None else json.dumps(body).encode()
        deadline = self._clock() + (self._patience_s if patience_s is None else patience_s)
        pause, limited = 0.5, False
        while True:
            deadline += self._pacer.wait(endpoint, again=limited)  # in a queue it is not the API that is slow
            answer = unanswered = None
            try:
                answer = self._transport(
                    method, self.api_url + path, body=sent, headers=bearer(self._key), timeout_s=self._timeout_s
                )
            except Unanswered as error:
                unanswered = error
            if answer is not None and not self._repeat(answer, repeatable):
                return self._judged(answer, f"{method} {path.partition('?')[0]}") if judge else answer
            if unanswered is not None and not repeatable and unanswered.sent:
                raise unanswered
            wait = max(pause * random.uniform(0.8, 1.2), _retry_after(answer) or 0.0)  # noqa: S311 - jitter
            if self._clock() + wait >= deadline:
                if unanswered is not None:
                    raise ApiUnreachable(
                        f"cannot reach the Vast.ai API at {self.api_url}: {unanswered} "
                        f"({method} {path.partition('?')[0]}, tried for {self._patience_s:g} s); "
                        "is the address (config key emulator.url) right, and the network or the emulator up?"
                    )
                assert answer is not None  # noqa: S101 - one of the two is set
                return self._judged(answer, f"{method} {path.partition('?')[0]}") if judge else answer
            if limited := answer is not None and answer.status == 429:
                self._pacer.hold(endpoint, wait)
            self._sleep(wait)
            pause = min(pause * 2, 8.0)

    @staticmethod
    def _repeat(answer: Answer, repeatable: bool) -> bool:
        if answer.status == 429:
            return "search_quota_exceeded" not in answer.text
        return repeatable and answer.status in _RETRIED

    def _judged(self, answer: Answer, doing: str) -> Answer:
        data = answer.json()
        if answer.status < 300 and not (isinstance(data, dict) and data.get("success") is False):
            return answer
        raise self._error(answer, doing)

    def _error(self, answer: Answer, doing: str) -> ApiError:
        """Return the error that an answer is. A 404 alone never means "gone": a wrong key answers 404 as well."""
        data = answer.json()
        fields = data if isinstance(data, dict) else {}
        code = str(fields.get("error") or "")
        message = str(fields.get("msg") or fields.get("message") or fields.get("detail") or answer.text[:200]).strip()
        message = scrub(message, [self._key])
        where = f"{doing} at {self.api_url}"
        status = answer.status
        if (
            status in (401, 403)
            or code == "auth_error"
            or "Invalid user key" in message
            or "Session expired" in message
        ):
            return AuthError(
                f"Vast.ai refuses the key ({where}: HTTP {status} {message}); {KEY_HELP}", status=status, code=code
            )
        if status == 429:
            limited = RateLimited(
                f"Vast.ai still says 'too many requests' ({where}: {message}); wait and run again",
                status=status,
                code=code,
            )
            limited.retry_after_s = _retry_after(answer)
            return limited
        if status in (400, 404, 410) and any(sign in f"{code} {message}" for sign in _TAKEN):
            return OfferTaken(f"{where}: the offer is gone ({message})", status=status, code=code)
        if 300 <= status < 400:
            target = answer.headers.get("location", "elsewhere")
            return ApiError(
                f"{where}: redirected to {target}; set emulator.url to that host",
                status=status,
                code=code,
            )
        cls = CreateFailed if doing.startswith("renting") else ApiError
        return cls(f"{where}: HTTP {status} {code} {message}".rstrip(), status=status, code=code)

    def _object(self, answer: Answer, what: str) -> dict[str, Json]:
        data = answer.json()
        if not isinstance(data, dict):
            raise MalformedAnswer(
                f"{self.api_url} answered HTTP {answer.status} with no JSON object where {what} was asked for"
            )
        return data


def destroy_and_verify(
    client: VastClient,
    instance_id: int,
    *,
    verify_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Destroy an instance and see that it is gone; False when it was gone before. Raises DestroyFailed, with the id."""
    try:
        existed = client.destroy(instance_id)
        deadline = clock() + verify_s
        while client.instance(instance_id) is not None:
            if clock() >= deadline:
                raise ApiError(f"it is still there {verify_s:g} s after it was destroyed", status=200)
            sleep(1.0)
    except (ApiError, ApiUnreachable, MalformedAnswer) as error:
        raise DestroyFailed(
            f"instance {instance_id} could not be destroyed and MAY STILL BE BILLED: {error}; "
            f"remove it with `vastai destroy instance {instance_id}`",
            instance_id=instance_id,
        ) from None
    return existed


def _retry_after(answer: Answer | None) -> float | None:
    """Return what the server asks to wait, in seconds: the header, or `retry_after` in the body; else None."""
    if answer is None:
        return None
    body = answer.json()
    for asked in (answer.headers.get("retry-after"), body.get("retry_after") if isinstance(body, dict) else None):
        try:
            return min(float(asked), 60.0)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return None
