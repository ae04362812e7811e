"""KeyRing: which client keys a running server accepts, as a resource. Keys come and go without a new container.

The server's guard holds SHA-256 digests of the keys beside the stack's own key, which alone may set them; see
components.vllm.guard. Used by the Reranker component, between Instance and RerankValidation.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.errors import ServerUnreachable, ServingError
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, known, verb
from components.vast.change import same
from components.vast.identity import ca_file
from components.vllm.client import RerankClient

WATCHED = ("url", "instance_id", "own_key", "keys", "ca_certificate")
ASK_TIMEOUT_S = 15.0
LOOK_TIMEOUT_S = 4.0


@dataclass
class KeyRingArgs:
    """Where the server is, the stack's own key, and the keys that its clients may present, the current one first."""

    url: pulumi.Input[str]
    instance_id: pulumi.Input[int]
    own_key: pulumi.Input[str]
    keys: Sequence[pulumi.Input[str]]
    ca_certificate: pulumi.Input[str] = ""


class KeyRingProvider(VastProvider):
    """Sets the keys on create and update, and looks at them on read."""

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare what should be accepted with what was, and with what `read` saw."""
        changed = any(not known(news.get(key)) or not same(olds.get(key), news.get(key)) for key in WATCHED)
        return DiffResult(changes=changed or bool(olds.get("drift")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Set the keys. Raises ServerUnreachable, ServerError, ValidationFailed."""
        return CreateResult(secrets.token_hex(4), self._applied(props, retired=[]))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """See which keys the server accepts. One that cannot be asked is the Instance's matter, not drift here."""
        try:
            held = _client(props, LOOK_TIMEOUT_S).held_keys()
        except ServingError:
            return ReadResult(id_, props)
        wrong = set(held) != set(_digests(_keys(props)))
        drift = "keys: the server does not accept exactly the keys of this stack" if wrong else ""
        if drift:
            ENGINE.log(drift, severity="warning")
        return ReadResult(id_, {**props, "drift": drift})

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Set the keys, and see that those which are no longer among them are refused."""
        gone = [key for key in _keys(olds) if key not in _keys(news)]
        return UpdateResult(self._applied(news, retired=gone))

    @staticmethod
    def _applied(props: dict[str, Any], *, retired: Sequence[str]) -> dict[str, Any]:
        client, keys = _client(props, ASK_TIMEOUT_S), _keys(props)
        client.hold_keys(_digests(keys))
        for key in retired:
            statuses = client.knock("/v1/models", key)
            if set(statuses) - {401}:
                raise ServerUnreachable(f"{client.url} still answers a key that was taken away: HTTP {max(statuses)}")
        if retired:
            ENGINE.log(f"{len(keys)} keys are valid; {len(retired)} taken away, and seen to be refused")
        return {**props, "current": keys[0], "drift": ""}


class KeyRing(Resource, module="vast", name="KeyRing"):
    """The keys that a server accepts. `current`: the first one, known once the server accepts it; secret."""

    current: pulumi.Output[str]
    drift: pulumi.Output[str]

    def __init__(self, name: str, args: KeyRingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        inputs = {
            **vars(args),
            "own_key": pulumi.Output.secret(args.own_key),
            "keys": [pulumi.Output.secret(key) for key in args.keys],
        }
        secret = pulumi.ResourceOptions(additional_secret_outputs=["current"])
        outputs = {"current": None, "drift": None}
        super().__init__(KeyRingProvider(), name, {**outputs, **inputs}, pulumi.ResourceOptions.merge(secret, opts))


def _keys(props: dict[str, Any]) -> list[str]:
    return [str(key) for key in props.get("keys") or () if key]


def _digests(keys: Sequence[str]) -> list[str]:
    return [sha256(key.encode()).hexdigest() for key in keys]


def _client(props: dict[str, Any], timeout_s: float) -> RerankClient:
    ca = str(props.get("ca_certificate") or "")
    return RerankClient(props["url"], props["own_key"], verify=ca_file(ca) if ca else True, timeout_s=timeout_s)
