"""The guard of the server: runs inside the container, as vLLM's `--middleware guard.Guard`. Standard library only.

Every path but an allow list is 404; every allowed path needs a key. vLLM's own key covers /v1 and /v2 alone.
Options come as JSON in GUARD, keys as a comma-separated list in GUARD_KEYS. No key and no document is ever logged.

The first key is the stack's own: by GET and PUT on /guard/keys it, and no other, reads and sets the SHA-256 digests of
further keys, {"keys": [hex]}, so that keys come and go while the server runs. They are kept in the file GUARD_STORE.
With any key, /guard/routes lists what the server behind the guard registers, for the validation to request.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from hashlib import sha256
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SCORED = ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score")
ALLOW = (*SCORED, "/v1/models", "/metrics")
KEYS = "/guard/keys"
ROUTES = "/guard/routes"
MAX_KEYS = 32
LISTS = ("documents", "text_1", "text_2", "queries", "data_1", "data_2")
QUERIES = ("query", "text_1", "queries", "data_1", "instruction", "chat_template_kwargs")
DOCUMENTS = ("documents", "text_2", "data_2")
# what a request hands to a chat template
TO_TEMPLATE = ("instruction", "chat_template_kwargs")
SCORING = ("vllm.entrypoints.pooling.scoring.protocol", "vllm.entrypoints.pooling.score.protocol")


class Refusal(Exception):
    """An answer that is given instead of vLLM's: status and message."""


class Guard:
    """ASGI middleware. `options` and `keys` are for tests; in a container they come from the environment."""

    def __init__(self, app: Any, options: dict[str, Any] | None = None, keys: list[str] | None = None) -> None:
        options = json.loads(os.environ.get("GUARD") or "{}") if options is None else options
        keys = os.environ.get("GUARD_KEYS", "").split(",") if keys is None else keys
        self.app = app
        self.keys = [sha256(key.strip().encode()).digest() for key in keys if key.strip()]
        self.store = os.environ.get("GUARD_STORE", "")
        if os.path.exists(self.store):
            with open(self.store) as file:
                self.keys[1:] = [bytes.fromhex(line) for line in file.read().split()]
        self.allow = frozenset(options.get("allow", ALLOW))
        self.open = frozenset(["/health"] if options.get("open_health") else [])
        self.max_bytes = options.get("max_bytes", 8 << 20)
        self.max_documents = options.get("max_documents", 1000)
        self.truncate, self.models = options.get("truncate"), options.get("models")
        # of a model with a chat template: the tokens that it reads, and those that the template takes at most
        self.context, self.template = options.get("context", 0), options.get("template", 0)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse, or hand the request on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            path = self.admit(scope)
            if path == KEYS:
                body = await self.read(scope, receive) if scope["method"] == "PUT" else b""
                await answer(send, 200, self.managed(body))
                return
            if path == ROUTES:
                await answer(send, 200, {"routes": list(registered(scope.get("app")))})
                return
            if path in SCORED and scope["method"] == "POST":
                body = self.checked(await self.read(scope, receive))
                scope, receive = replaced(scope, receive, body)
        except Refusal as refusal:
            await refuse(send, *refusal.args)
        except ConnectionError:
            return
        else:
            await self.app(scope, receive, send)

    def admit(self, scope: Message) -> str:
        """Return the path that is asked for, if it may be."""
        path: str = scope["path"]
        raw = scope.get("raw_path")
        plain = raw is None or raw.partition(b"?")[0] == path.encode("utf-8", "replace")
        if plain and path in self.open and scope["method"] in ("GET", "HEAD"):
            return path
        if not plain or path not in (*self.allow, KEYS, ROUTES):
            raise Refusal(404, "Not Found")
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = sha256(key).digest()
        # every key is compared, in constant time: neither which one nor how much of it matched can be measured
        valid = [hmac.compare_digest(digest, known) for known in (self.keys[:1] if path == KEYS else self.keys)]
        if scheme.lower() != b"bearer" or not any(valid):
            raise Refusal(401, "a valid key is needed: Authorization: Bearer <key>")
        return path

    def managed(self, body: bytes) -> dict[str, Any]:
        """Set the further keys, if a body says which, and return them."""
        if body:
            try:
                found = [bytes.fromhex(one) for one in json.loads(body)["keys"]]
            except (ValueError, TypeError, LookupError, RecursionError):
                found = [b""]
            if len(found) > MAX_KEYS or any(len(one) != 32 for one in found):
                raise Refusal(400, f"keys: a list of up to {MAX_KEYS} SHA-256 digests, in hex")
            self.keys[1:] = found
            if self.store:
                with open(self.store, "w") as file:
                    file.write("\n".join(one.hex() for one in found))
        return {"keys": [one.hex() for one in self.keys[1:]]}

    async def read(self, scope: Message, receive: Receive) -> bytes:
        """Return the body, as long as it is not larger than allowed."""
        too_large = Refusal(413, f"the body is larger than {self.max_bytes} bytes")
        declared = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(value.isdigit() and int(value[:20]) > self.max_bytes for value in declared):
            raise too_large  # uvicorn reads on to the body's end, so that the answer is read
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                raise too_large
            if not message.get("more_body"):
                return bytes(body)

    def checked(self, body: bytes) -> bytes:
        """Return the body as vLLM is to get it: JSON that can be encoded again, of allowed size."""
        try:
            asked = json.loads(body)
            # NaN and Infinity are Python's, not JSON's
            clean = json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is not valid JSON in UTF-8") from None
        if not isinstance(asked, dict):
            return clean
        count = max(len(asked[name]) if isinstance(asked.get(name), list) else 0 for name in LISTS)
        if count > self.max_documents:
            raise Refusal(400, f"{count} documents in one request; at most {self.max_documents} are taken")
        # Cohere's clients send null for what is not given, which vLLM 0.32 refuses for top_n and max_tokens_per_doc
        given = {name: value for name, value in asked.items() if value is not None}
        if self.models and given.get("model") and given["model"] not in self.models:
            raise Refusal(404, f"The model `{given['model']}` does not exist; served: {', '.join(self.models)}")
        self.judge_template_fields(given)
        if self.template:
            self.cut_documents(given)
        elif self.truncate is not None:
            given.setdefault("truncate_prompt_tokens", self.truncate)
        return clean if given == asked else json.dumps(given, ensure_ascii=False).encode()

    def judge_template_fields(self, given: dict[str, Any]) -> None:
        """Refuse what would be ignored without a word: by a model without a template, or by an older vLLM."""
        for name in (one for one in TO_TEMPLATE if one in given):
            if not self.template:
                raise Refusal(400, f"{name}: this model has no prompt that takes it")
            if not takes(name):
                raise Refusal(400, f"{name}: this version of vLLM takes none for /rerank and /score")

    def cut_documents(self, given: dict[str, Any]) -> None:
        """Have documents cut instead of the whole prompt, which would lose the template's ending and score wrongly.

        A text has no more tokens than bytes, so that query and template are counted as bytes.
        """
        limit = given.pop("truncate_prompt_tokens", self.truncate)
        if limit is None:
            return
        if isinstance(limit, bool) or not isinstance(limit, int) or not (limit == -1 or 0 < limit <= self.context):
            raise Refusal(400, f"truncate_prompt_tokens: -1 or 1 to {self.context}, the tokens that this model reads")
        room = (
            (self.context if limit == -1 else limit) - self.template - sum(longest(given.get(one)) for one in QUERIES)
        )
        if all(longest(given.get(one)) <= room for one in DOCUMENTS):
            return
        if room > 0 and takes("max_tokens_per_doc"):
            given["max_tokens_per_doc"] = min(room, whole(given.get("max_tokens_per_doc")) or room)
        elif limit != -1:
            raise Refusal(
                400, "truncate_prompt_tokens: would cut this model's prompt; send a shorter query or documents"
            )


def longest(value: Any) -> int:
    """Return the bytes of a text, the longest of several, or an object."""
    texts = value if isinstance(value, list) else [value] if value else []
    return max((len((text if isinstance(text, str) else json.dumps(text)).encode()) for text in texts), default=0)


def whole(value: Any) -> int:
    """Return a whole number that is given, 0 for anything else."""
    return value if isinstance(value, int) and value > 0 else 0


def takes(field: str) -> bool:
    """Whether requests of the vLLM that runs here have a field: the versions differ in what they take."""
    found = [getattr(sys.modules.get(name), "RerankRequest", None) for name in SCORING]
    return any(field in one.model_fields for one in found if one is not None)


def replaced(scope: Message, receive: Receive, body: bytes) -> tuple[Message, Receive]:
    """Return scope and receive for the same request with another body."""
    drop = (b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in drop]
    headers.append((b"content-length", str(len(body)).encode()))
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return {**scope, "headers": headers}, replay


def registered(app: Any) -> Iterator[list[Any]]:
    """Yield path and methods of every route of a Starlette or FastAPI application; no methods: any, or a websocket."""
    for route in getattr(app, "routes", ()):
        # FastAPI from 0.137 keeps an included router as one route that has no path; its routes are behind a method
        inner = getattr(route, "effective_route_contexts", None)
        for one in inner() if inner else [route]:
            found = getattr(one, "starlette_route", None) or one
            yield [getattr(found, "path", "?"), sorted(getattr(found, "methods", None) or ())]


async def refuse(send: Send, status: int, message: str) -> None:
    """Send an error in vLLM's own shape."""
    kinds = {401: "AuthenticationError", 404: "NotFoundError", 413: "RequestTooLarge"}
    error = {"message": message, "type": kinds.get(status, "BadRequestError"), "param": None, "code": status}
    await answer(send, status, {"error": error})


async def answer(send: Send, status: int, document: dict[str, Any]) -> None:
    """Send JSON."""
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
