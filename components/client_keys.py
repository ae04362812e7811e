"""ClientKeys: which client keys the running servers accept, as a resource. They come and go without a new container.

A server's guard holds SHA-256 digests of the keys beside that server's own key, which alone may set them; see
components.guard.keys. Used by RerankerFleet, between its Instances and RerankValidation.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from components.clients import Client
from components.errors import ServerUnreachable, ServingError
from components.guard.keys import Access
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, verb
from components.records import structure
from components.servers import Server, call_servers, changed_servers, has_changed
from components.vllm.client import RerankClient

COMMON = ("stack_secret", "clients", "ca_certificate", "client_ca")  # a change of these is one for every server
ASK_TIMEOUT_S = 15.0
LOOK_TIMEOUT_S = 4.0


@dataclass
class ClientKeysArgs:
    """The servers (name, url, instance_id, nonce), the stack's secret, from which each one's own key derives, and the
    clients' keys (records of `Client`), the current one first. `client_ca` (PEM): beside one of these keys a client
    has to show a certificate by one of these CAs."""

    servers: pulumi.Input[Sequence[Mapping[str, Any]]]
    stack_secret: pulumi.Input[str]
    clients: pulumi.Input[Sequence[Mapping[str, Any]]]
    ca_certificate: pulumi.Input[str] = ""
    client_ca: str = ""


class ClientKeysProvider(VastProvider):
    """Sets the keys on create and update, looks at them on read, takes them away on delete."""

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=has_changed(olds, news, COMMON) or bool(olds.get("drift")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), self._applied(props, Server.parse_all(props["servers"]), retired=[]))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """See which keys the servers accept. One that cannot be asked is the Instance's matter, not drift here."""
        wanted = _access(props)

        def wrong(server: Server) -> bool | None:
            try:
                return not _client(props, server, LOOK_TIMEOUT_S).access().is_same(wanted)
            except ServingError:
                return None

        wrong_by_name = call_servers(Server.parse_all(props.get("servers")), wrong)
        named = ", ".join(name for name, is_wrong in wrong_by_name.items() if is_wrong)
        # what was wrong is not put right by a server's silence
        drift = str(props.get("drift") or "") if None in wrong_by_name.values() else ""
        if named:
            drift = f"keys: these servers do not accept exactly the keys of this stack: {named}"
        if drift:
            ENGINE.warn(drift)
        return ReadResult(id_, {**props, "drift": drift})

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        keys = {one.key for one in _clients(news)}
        gone = [one.key for one in _clients(olds) if one.key not in keys]
        servers = Server.parse_all(news["servers"]) if olds.get("drift") else changed_servers(olds, news, COMMON)
        return UpdateResult(self._applied(news, servers, retired=gone))

    @verb
    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Take the keys away from servers that stay, as where a gateway comes in front; one that is gone needs none."""

        def forget(server: Server) -> None:
            with suppress(ServingError):
                _client(props, server, LOOK_TIMEOUT_S).set_access(Access())

        call_servers(Server.parse_all(props.get("servers")), forget)

    @staticmethod
    def _applied(props: dict[str, Any], servers: Sequence[Server], *, retired: Sequence[str]) -> dict[str, Any]:
        clients, access = _clients(props), _access(props)
        refusals = [(key, 401, "a key that was taken away") for key in retired]
        if access.client_ca:
            refusals.append((clients[0].key, 403, "a key without a client certificate"))

        def tell(server: Server) -> None:
            client = _client(props, server, ASK_TIMEOUT_S)
            client.set_access(access)
            for key, status, what in refusals:
                statuses = client.probe_path("/v1/models", key)
                if set(statuses) != {status}:
                    raise ServerUnreachable(f"{client.url} answers {what}: HTTP {max(statuses)}")

        call_servers(servers, tell)
        if retired:
            ENGINE.log(f"keys that are valid: {len(clients)}; taken away, and seen to be refused: {len(retired)}")
        return {**props, "current": clients[0].key, "drift": ""}


class ClientKeys(VastResource, name="ClientKeys"):
    """The keys that the servers accept. `current`: the first one, known once all of them accept it; secret."""

    current: pulumi.Output[str]
    drift: pulumi.Output[str]

    def __init__(self, name: str, args: ClientKeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(ClientKeysProvider(), name, args, opts, secret=("stack_secret", "clients", "current"))


def _clients(props: Mapping[str, Any]) -> list[Client]:
    return [structure(Client, one) for one in props.get("clients") or ()]


def _access(props: Mapping[str, Any]) -> Access:
    return Access(tuple(one.entry() for one in _clients(props)), str(props.get("client_ca") or ""))


def _client(props: Mapping[str, Any], server: Server, timeout_s: float) -> RerankClient:
    own_key, ca = server.own_key(str(props["stack_secret"])), str(props.get("ca_certificate") or "")
    return RerankClient(server.url, own_key, ca=ca, timeout_s=timeout_s)
