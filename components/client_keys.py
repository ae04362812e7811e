"""ClientKeys: the client keys that the running servers accept, as a resource. A change needs no new container.

The guard of a server stores SHA-256 digests of these keys. Only the server's own key may set them; see
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

COMMON = ("stack_secret", "clients", "ca_certificate", "client_ca")  # a change of these affects every server
WRITE_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 4.0


@dataclass
class ClientKeysArgs:
    """`servers`: name, url, instance_id, nonce. Each server's own key derives from `stack_secret`. `clients`: records
    of `Client`, the current key first. `client_ca` (PEM): clients need a certificate by one of these CAs and a key."""

    servers: pulumi.Input[Sequence[Mapping[str, Any]]]
    stack_secret: pulumi.Input[str]
    clients: pulumi.Input[Sequence[Mapping[str, Any]]]
    ca_certificate: pulumi.Input[str] = ""
    client_ca: str = ""


class ClientKeysProvider(VastProvider):
    """Sets the keys on create and update, compares them on read, removes them on delete."""

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=has_changed(olds, news, COMMON) or bool(olds.get("drift")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), self._apply(props, Server.parse_all(props["servers"]), retired=[]))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Compare the keys that the servers accept. An unreachable server is drift of its Instance, not of this."""
        access = _access(props)

        def is_wrong(server: Server) -> bool | None:
            try:
                return not _client(props, server, READ_TIMEOUT_S).access().is_same(access)
            except ServingError:
                return None

        wrong_by_name = call_servers(Server.parse_all(props.get("servers")), is_wrong)
        names = ", ".join(name for name, wrong in wrong_by_name.items() if wrong)
        # an unreachable server does not clear drift that was found before
        drift = str(props.get("drift") or "") if None in wrong_by_name.values() else ""
        if names:
            drift = f"keys: these servers do not accept exactly the keys of this stack: {names}"
        if drift:
            ENGINE.warn(drift)
        return ReadResult(id_, {**props, "drift": drift})

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        keys = {client.key for client in _clients(news)}
        retired = [client.key for client in _clients(olds) if client.key not in keys]
        servers = Server.parse_all(news["servers"]) if olds.get("drift") else changed_servers(olds, news, COMMON)
        return UpdateResult(self._apply(news, servers, retired=retired))

    @verb
    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove the keys from servers that stay, for example behind a new gateway. Unreachable servers are skipped."""

        def clear(server: Server) -> None:
            with suppress(ServingError):
                _client(props, server, READ_TIMEOUT_S).set_access(Access())

        call_servers(Server.parse_all(props.get("servers")), clear)

    @staticmethod
    def _apply(props: dict[str, Any], servers: Sequence[Server], *, retired: Sequence[str]) -> dict[str, Any]:
        """Set the keys and check that the servers refuse the retired keys. Raises ServingError."""
        clients, access = _clients(props), _access(props)
        refusals = [(key, 401, "a removed key") for key in retired]
        if access.client_ca:
            refusals.append((clients[0].key, 403, "a key without a client certificate"))

        def set_keys(server: Server) -> None:
            client = _client(props, server, WRITE_TIMEOUT_S)
            client.set_access(access)
            for key, status, what in refusals:
                statuses = client.probe_path("/v1/models", key)
                if set(statuses) != {status}:
                    raise ServerUnreachable(f"{client.url} answers {what}: HTTP {max(statuses)}")

        call_servers(servers, set_keys)
        if retired:
            ENGINE.log(f"valid keys: {len(clients)}; removed keys, checked to be refused: {len(retired)}")
        return {**props, "current": clients[0].key, "drift": ""}


class ClientKeys(VastResource, name="ClientKeys"):
    """The keys that the servers accept. `current`: the first key, known after all servers accept it; secret."""

    current: pulumi.Output[str]
    drift: pulumi.Output[str]

    def __init__(self, name: str, args: ClientKeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(ClientKeysProvider(), name, args, opts, secret=("stack_secret", "clients", "current"))


def _clients(props: Mapping[str, Any]) -> list[Client]:
    return [structure(Client, client) for client in props.get("clients") or ()]


def _access(props: Mapping[str, Any]) -> Access:
    return Access(tuple(client.entry() for client in _clients(props)), str(props.get("client_ca") or ""))


def _client(props: Mapping[str, Any], server: Server, timeout_s: float) -> RerankClient:
    own_key, ca = server.own_key(str(props["stack_secret"])), str(props.get("ca_certificate") or "")
    return RerankClient(server.url, own_key, ca=ca, timeout_s=timeout_s)
