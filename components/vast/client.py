"""A typed client of Vast.ai's API, one method per call. Used by `rental`, the resources and ops.

Endpoints and JSON: Vast.ai API reference. All calls share pacing, retries and the mapping of responses to errors. A
rent call is retried only if it certainly had no effect.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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
from components.redaction import excerpt
from components.vast.json_values import Json
from components.vast.models import Account, Charge, Contract, Offer, PriceIncrease, read
from components.vast.pacing import Pacer
from components.vast.query import Query
from reranker.errors import InvalidInput
from reranker.http import Answer, HttpTransport, Transport, Unanswered, bearer
from reranker.secret import read_secret

DEFAULT_API_URL: Final = "https://console.vast.ai"
KEY_HELP: Final = (
    "set it with `export VAST_API_KEY=...` or `pulumi config set --secret vast_api_key ...`; "
    "keys are made at https://cloud.vast.ai/manage-keys/"
)
SCOPE_HELP: Final = (
    "the key lacks a permission: this stack needs instance_read, instance_write, user_read and misc; "
    "make such a key at https://cloud.vast.ai/manage-keys/"
)
KEPT_CONNECTIONS: Final = 8
LOG_BYTES: Final = 1 << 20
# Log stores, from the API reference and the official client. An emulator stores the logs itself.
LOG_STORE: Final = re.compile(r"https://(?:s3\.amazonaws\.com/(?:public\.)?vast\.ai|(?:[a-z0-9-]+\.)*vast\.ai)/")
LIST_PAGE: Final = 25  # the API's maximum
CHARGES_PAGE: Final = 100  # the API's maximum
SEARCH_CAP: Final = 64  # offers per search, for any `limit`

_BAD_KEY = ("Invalid user key", "Session expired")
_TAKEN = ("no_such_ask", "not available", "no longer available")
_RETRIED = (429, 502, 503, 504)


class AmbiguousRent(Exception):
    """The rent call may have made a contract: no response, or one of a gateway. Resolved by label, not by retry."""


@dataclass(frozen=True)
class Destroyed:
    """An instance that is gone. `confirmed`: Vast.ai has confirmed that it destroyed it; otherwise this account has no
    such instance. `at`: when it was destroyed, in seconds since the epoch; if answers were lost, when the first request
    that may have destroyed it broke, or was sent; 0 if none of these requests did."""

    confirmed: bool
    at: float = 0.0


@dataclass(frozen=True)
class Page:
    """One page of a search: the offers, and the number of rows without an id, a machine or a price."""

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
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._transport: Transport = transport or HttpTransport(keep=KEPT_CONNECTIONS, proxies=True)
        self._pacer = pacer
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self.api_url = api_url.rstrip("/")

    def __repr__(self) -> str:
        return f"VastClient({self.api_url})"

    # ---- calls -----------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """Return the account behind the key. Raises AuthError for a wrong key."""
        return Account.parse(self._object(self._call("show", "GET", "/api/v0/users/current/"), "user"))

    def search(self, query: Query) -> Page:
        """Return a query's offers in its order, at most SEARCH_CAP. Raises MalformedAnswer if no row can be read."""
        rows = self._object(self._call("search", "POST", "/api/v0/bundles/", query.body()), "offers", list)["offers"]
        offers, unreadable = [], []
        for row in rows:
            try:
                offers.append(Offer.parse(row))
            except (MalformedAnswer, AttributeError) as error:  # AttributeError: the row is not an object
                unreadable.append(error)
        if unreadable and not offers:
            raise MalformedAnswer(f"search at {self.api_url}: none of {len(rows)} offers can be read: {unreadable[0]}")
        return Page(offers, len(unreadable))

    def rent(self, ask_id: int, body: Mapping[str, Json]) -> int:
        """Rent an offer and return the contract's id. Raises OfferTaken, CreateFailed (with `leaked_id` if the API made
        a contract anyway), AuthError, RateLimited; AmbiguousRent if a contract may exist."""
        try:
            answer = self._exchange("rent", "PUT", f"/api/v0/asks/{ask_id}/", dict(body), repeatable=False)
        except Unanswered as unanswered:
            raise AmbiguousRent(str(unanswered)) from None
        data = _fields(answer)
        contract_id, refused = data.get("new_contract"), data.get("success") is False
        if answer.status == 200 and contract_id and not refused:
            return int(contract_id)
        if answer.status >= 500 or answer.status == 408 or (answer.status < 300 and not refused):
            raise AmbiguousRent(f"HTTP {answer.status}")
        error = self._error(answer, f"renting offer {ask_id}", CreateFailed)
        if contract_id:
            raise CreateFailed(str(error), status=answer.status, code=error.code, leaked_id=int(contract_id))
        raise error

    def instance(self, instance_id: int) -> Contract | None:
        """Return one instance, or None if the API reports that it does not exist. A 404 for a wrong key is an error."""
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
            raise MalformedAnswer(f"instance {instance_id} at {self.api_url}: the response contains no instance")
        return Contract.parse(row)

    def instances(self) -> list[Contract]:
        """Return all instances of the account, from all pages."""
        args = {"select_filters": {}, "order_by": [{"col": "id", "dir": "asc"}], "limit": LIST_PAGE}
        return [Contract.parse(row) for row in self._pages("list", "/api/v1/instances/", args, "instances")]

    def charges(self, since: float, until: float) -> list[Charge]:
        """Return the charges of each instance between two times (seconds since the epoch), from all pages."""
        span = {"gte": int(since), "lte": math.ceil(until)}
        filters = {"day": span, "type": {"in": ["instance"]}}
        args = {"select_filters": filters, "latest_first": False, "limit": CHARGES_PAGE}
        return [Charge.parse(row) for row in self._pages("charges", "/api/v0/charges/", args, "results")]

    def _pages(self, endpoint: str, path: str, args: Mapping[str, Json], rows: str) -> Iterator[Json]:
        """Yield the rows of all pages of a list."""
        query, tokens = {name: json.dumps(value) for name, value in args.items()}, set[str]()
        while True:
            page = f"{path}?{urlencode(query, quote_via=quote)}"
            data = self._object(self._call(endpoint, "GET", page), rows, list)
            yield from data[rows]
            if not (token := str(data.get("next_token") or "")):
                return
            if token in tokens:
                raise MalformedAnswer(f"{endpoint} at {self.api_url}: a page names an earlier one as the next")
            tokens.add(token)
            query["after_token"] = token

    def price_increases(self) -> dict[int, float]:
        """Return the price increases announced by hosts: contract id -> new $/h for GPU and disk."""
        answer = self._call("prices", "GET", "/api/v0/instances/pending-price-increases/")
        rows = self._object(answer, "price increases").get("pending_price_increases") or []
        return {increase.contract_id: increase.dph_usd for increase in (read(PriceIncrease, row) for row in rows)}

    def set_label(self, instance_id: int, label: str) -> None:
        self._call("manage", "PUT", f"/api/v0/instances/{instance_id}/", {"label": label})

    def change_bid(self, instance_id: int, price_usd: float) -> None:
        self._call("bid", "PUT", f"/api/v0/instances/bid_price/{instance_id}/", {"client_id": "me", "price": price_usd})

    def destroy(self, instance_id: int) -> Destroyed:
        """Destroy an instance, unless it does not exist. Retried for longer, as an instance costs money."""
        path, lost_at = f"/api/v0/instances/{instance_id}/", list[float]()
        try:
            self._call("destroy", "DELETE", path, {}, patience_s=4 * self._patience_s, lost_at=lost_at)
        except ApiError as error:
            if error.status in (404, 410) and not isinstance(error, AuthError):
                return Destroyed(False, *lost_at[:1])
            raise
        return Destroyed(True, self._now())

    def logs(self, instance_id: int, *, lines: int = 100, wait_s: float = 10.0) -> str:
        """Return the end of a container's log, not scrubbed; "" if the host does not upload it within `wait_s`."""
        answer = self._call("logs", "PUT", f"/api/v0/instances/request_logs/{instance_id}/", {"tail": str(lines)})
        url = str(self._object(answer, "logs").get("result_url") or "")
        if not LOG_STORE.match(url) and not url.startswith(f"{self.api_url}/"):
            raise MalformedAnswer(f"not fetched, {excerpt(url.partition('?')[0])!r} is not a log store of Vast.ai")
        deadline = self._clock() + wait_s
        while (left_s := deadline - self._clock()) > 0:
            try:  # without the key: the store is public
                answer = self._transport("GET", url, timeout_s=left_s, max_bytes=LOG_BYTES)
            except Unanswered:
                return ""
            if answer.status == 200:
                return answer.text
            self._sleep(0.3)
        return ""

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _call(
        self,
        endpoint: str,
        method: str,
        path: str,
        body: Json = None,
        *,
        patience_s: float | None = None,
        lost_at: list[float] | None = None,
    ) -> Answer:
        """Make a call that is safe to repeat. Raises ApiError for an error response, ApiUnreachable."""
        answer = self._exchange(endpoint, method, path, body, patience_s=patience_s, lost_at=lost_at)
        if answer.status < 300 and _fields(answer).get("success") is not False:
            return answer
        raise self._error(answer, f"{method} {path.partition('?')[0]}")

    def _exchange(
        self,
        endpoint: str,
        method: str,
        path: str,
        body: Json = None,
        *,
        repeatable: bool = True,
        patience_s: float | None = None,
        lost_at: list[float] | None = None,
    ) -> Answer:
        """Send one request at its allowed time; retry it for `patience_s` if that is safe. A call that is not
        `repeatable` is retried only after a 429 or a failed connection, and raises Unanswered if its answer is lost.
        For each sent request whose answer is lost, `lost_at` gets a time in seconds since the epoch: when its
        connection broke, as the work was done by then, or when it was sent, if no answer came in time."""
        try:
            key = read_secret(self._key, "the Vast.ai key")
        except InvalidInput as error:
            raise AuthError(f"{error}; {KEY_HELP}", status=0, code="no_key") from None
        if not key:
            raise AuthError(f"no Vast.ai key; {KEY_HELP}", status=0, code="no_key")
        data = None if body is None else json.dumps(body).encode()
        patience_s = self._patience_s if patience_s is None else patience_s
        deadline = self._clock() + patience_s
        pause, limited = 0.5, False
        while True:
            deadline += self._pacer.wait(endpoint, retry=limited)  # time in the queue does not count
            answer: Answer | Unanswered
            sent_at = self._now()
            try:
                answer = self._transport(
                    method, self.api_url + path, body=data, headers=bearer(key), timeout_s=self._timeout_s
                )
            except Unanswered as error:
                if error.sent and not repeatable:
                    raise
                if error.sent and lost_at is not None:
                    lost_at.append(self._now() if error.broke else sent_at)
                answer, limited = error, False
            else:
                limited = answer.status == 429
                retry = "search_quota_exceeded" not in answer.text if limited else repeatable
                if not retry or answer.status not in _RETRIED:
                    return answer
            wait = max(pause * random.uniform(0.8, 1.2), _retry_after(answer))  # noqa: S311 - jitter
            if self._clock() + wait >= deadline:
                if isinstance(answer, Answer):
                    return answer
                raise ApiUnreachable(
                    f"cannot reach the Vast.ai API at {self.api_url}: {answer} "
                    f"({method} {path.partition('?')[0]}, tried for {patience_s:g} s); "
                    "is the address (config key emulator.url) right, and the network or the emulator up?"
                )
            if limited:
                self._pacer.hold(endpoint, wait)
            self._sleep(wait)
            pause = min(pause * 2, 8.0)

    def _error(self, answer: Answer, call: str, refusal: type[ApiError] = ApiError) -> ApiError:
        """Return the error for an error response. A 404 alone does not mean "gone": a wrong key gets a 404 as well."""
        fields, status = _fields(answer), answer.status
        code = str(fields.get("error") or "")
        message = str(fields.get("msg") or fields.get("message") or fields.get("detail") or answer.text)
        message = excerpt(message, [self._key.strip()])
        where = f"{call} at {self.api_url}"
        kind, text = refusal, f"{where}: HTTP {status} {code} {message}".rstrip()
        if status in (401, 403) or code == "auth_error" or any(sign in message for sign in _BAD_KEY):
            remedy = SCOPE_HELP if "permission" in message else KEY_HELP
            kind, text = AuthError, f"Vast.ai refuses the key ({where}: HTTP {status} {message}); {remedy}"
        elif status == 429:
            kind, text = RateLimited, f"Vast.ai still says 'too many requests' ({where}: {message}); wait and run again"
        elif status in (400, 404, 410) and any(sign in f"{code} {message}" for sign in _TAKEN):
            kind, text = OfferTaken, f"{where}: the offer is gone ({message})"
        elif 300 <= status < 400:
            target = excerpt(answer.headers.get("location", "elsewhere"))
            kind, text = ApiError, f"{where}: redirected to {target}; set emulator.url to that host"
        return kind(text, status=status, code=code)

    def _object(self, answer: Answer, name: str, kind: type = object) -> dict[str, Json]:
        """Return the JSON object of a response. Raises MalformedAnswer if there is none, or no `kind` under `name`."""
        data = answer.json()
        if not isinstance(data, dict) or not isinstance(data.get(name), kind):
            raise MalformedAnswer(
                f"{self.api_url} answered HTTP {answer.status} without {name} in a JSON object: "
                f"{excerpt(answer.text, [self._key.strip()])}"
            )
        return data


def destroy_and_verify(
    client: VastClient,
    instance_id: int,
    *,
    verify_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Destroyed:
    """Destroy an instance and verify it. Raises DestroyFailed, with the id."""
    try:
        destroyed = client.destroy(instance_id)
        deadline = clock() + verify_s
        while client.instance(instance_id) is not None:
            if clock() >= deadline:
                raise ApiError(f"it still exists {verify_s:g} s after the destroy call", status=200)
            sleep(1.0)
    except (ApiError, ApiUnreachable, MalformedAnswer) as error:
        raise DestroyFailed(
            f"instance {instance_id} could not be destroyed and MAY STILL BE BILLED: {error}; "
            f"remove it with `vastai destroy instance {instance_id}`",
            instance_id=instance_id,
        ) from None
    return destroyed


def _fields(answer: Answer) -> dict[str, Json]:
    """Return the JSON object of a response; {} if it has none."""
    data = answer.json()
    return data if isinstance(data, dict) else {}


def _retry_after(answer: Answer | Unanswered) -> float:
    """Return the wait in seconds that the API requests: the header, or `retry_after` in the body; else 0."""
    if isinstance(answer, Answer):
        for wait in (answer.headers.get("retry-after"), _fields(answer).get("retry_after")):
            with suppress(TypeError, ValueError):
                return min(float(wait or ""), 60.0)
    return 0.0
