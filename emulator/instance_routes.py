"""Calls that change instances, or look into their containers. Parses, calls a rule of `world`, shapes the answer."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from emulator import command, shapes
from emulator.contract import Contract
from emulator.errors import ServiceError, refusal
from emulator.http_faults import reply
from emulator.rental import validate
from emulator.request import Route, body_of, path_id
from emulator.world import World

LABEL_LIMIT = 1024
BLOBS_KEPT = 100
STATES = ("running", "stopped")


class InstanceRoutes:
    """Handlers of calls that change instances over one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._blobs: dict[str, str] = {}

    def routes(self) -> list[Route]:
        base = "/api/v0/instances/"
        return [
            Route("PUT", base, "manage", self.manage_many),
            Route("DELETE", base, "destroy", self.destroy_many, 3.0),
            Route("POST", f"{base}start/", "manage", self.start_many),
            Route("PUT", f"{base}{{id}}/", "manage", self.manage),
            Route("DELETE", f"{base}{{id}}/", "destroy", self.destroy, 3.0),
            Route("PUT", f"{base}reboot/{{id}}/", "manage", self.reboot),
            Route("PUT", f"{base}recycle/{{id}}/", "manage", self.recycle),
            Route("PUT", f"{base}bid_price/{{id}}/", "bid", self.bid, 5.5),
            Route("PUT", f"{base}update_template/{{id}}/", "manage", self.update),
            Route("PUT", f"{base}prepay/{{id}}/", "prepay", self.prepay, 2.0),
            Route("PUT", f"{base}request_logs/{{id}}/", "logs", self.logs),
            Route("PUT", f"{base}command/{{id}}/", "execute", self.execute, 1.5),
            Route("POST", f"{base}take_snapshot/{{id}}/", "snapshot", self.snapshot),
            Route("GET", f"{base}{{id}}/ssh/", "ssh", self.keys, 2.0),
            Route("POST", f"{base}{{id}}/ssh/", "ssh", self.key_attached, 2.0),
            Route("DELETE", f"{base}{{id}}/ssh/{{key}}/", "ssh", self.key_detached, 2.0),
        ]

    def _contract(self, request: web.Request, missing: str = "no_such_instance") -> Contract:
        return self.world.contract(path_id(request), missing)

    # ---- state ---------------------------------------------------------------------------------------------------

    async def manage(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        contract = self._contract(request)
        if not {"label", "state"} & body.keys():
            raise refusal("nothing_to_change")
        state = _state(body) if "state" in body else None
        done = f"state of {contract.id} set to '{state}'"
        if "label" in body:
            label = str(body["label"] or "")
            if len(label) > LABEL_LIMIT:
                raise refusal("label_too_long")
            contract.label = label
            done = f"label for {contract.id} set to '{label}'"
        if state:
            await self.world.set_state(contract.id, state)
        return reply({"success": True, "msg": done})

    async def manage_many(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        state = _state(body)
        return await self._each(_ids(body, "ids", "instance_ids"), lambda one: self.world.set_state(one, state))

    async def start_many(self, request: web.Request) -> web.Response:
        ids = _ids(await body_of(request), "IDs", "ids")
        return await self._each(ids, lambda one: self.world.set_state(one, "running"))

    async def destroy(self, request: web.Request) -> web.Response:
        await self.world.destroy(self._contract(request).id)
        return reply({"success": True})

    async def destroy_many(self, request: web.Request) -> web.Response:
        return await self._each(_ids(await body_of(request), "instance_ids"), self.world.destroy)

    async def _each(self, ids: list[int], act: Callable[[int], Awaitable[None]]) -> web.Response:
        """Act on each; the answer says for which it failed, and is 404 where none of them is there."""
        if not {contract.id for contract in self.world.live()} & set(ids):
            raise refusal("no_such_instances", ids=", ".join(map(str, ids)))
        failed = []
        for one in ids:
            try:
                await act(one)
            except ServiceError as error:
                failed.append({"id": one, **error.body()})
        if not failed:
            return reply({"success": True})
        msg = " ".join(one["msg"] for one in failed)
        return reply({"success": False, "error": failed[0]["error"], "msg": msg, "failed": failed})

    async def reboot(self, request: web.Request) -> web.Response:
        """Stop the container and start it again."""
        await self.world.reboot(self._contract(request, "invalid_instance_id").id)
        return reply({"success": True})

    async def recycle(self, request: web.Request) -> web.Response:
        """Make the container anew, in place."""
        await self.world.reboot(self._contract(request, "no_such_instance_to_recycle").id, recycle=True)
        return reply({"success": True})

    # ---- terms ---------------------------------------------------------------------------------------------------

    async def bid(self, request: web.Request) -> web.Response:
        contract = self._contract(request, "no_such_instance_to_bid")
        await self.world.bid(contract.id, (await body_of(request)).get("price"))
        return reply({"success": True})

    async def prepay(self, request: web.Request) -> web.Response:
        contract = self._contract(request, "no_such_instance_to_prepay")
        self.world.prepay(contract, float((await body_of(request))["amount"]))
        months = contract.prepaid_months()
        return reply({"success": True, "timescale": months, "discount_rate": contract.discount_rate()})

    async def update(self, request: web.Request) -> web.Response:
        """Change image, command or environment; taken to happen by recycling, which is not documented."""
        body = await body_of(request)
        contract = self._contract(request)
        changes = {name: body[name] for name in ("image", "env", "onstart") if body.get(name)}
        if body.get("args"):
            changes |= {"args": None, "args_str": str(body["args"])}
        changed = {**contract.body, **changes}
        validate(changed, self.world.machine_of(contract).facts["disk_space"])
        contract.body = changed
        if not contract.is_stopped():
            await self.world.reboot(contract.id, recycle=True)
        row = shapes.instance(contract, self.world.machine_of(contract), self.world.now())
        return reply({"success": True, "updated_instance": row})

    # ---- inside the container ------------------------------------------------------------------------------------

    async def logs(self, request: web.Request) -> web.Response:
        """Put the end of a log where it can be fetched."""
        contract = self._contract(request, "no_such_instance_to_log")
        body = await body_of(request)
        if body.get("daemon_logs", "true") not in ("true", None):
            raise refusal("invalid_daemon_logs")
        text = self.world.containers.log(contract.id, int(body.get("tail") or 1000))
        if body.get("filter"):
            text = "".join(line for line in text.splitlines(keepends=True) if str(body["filter"]) in line)
        return reply({"success": True, "result_url": self._stored(request, text), "msg": ""})

    async def execute(self, request: web.Request) -> web.Response:
        """Run one of the few commands that are allowed; what it writes can be fetched."""
        folder = self.world.containers.folder(self._contract(request).id)
        words = command.arguments_of((await body_of(request)).get("command"), folder)
        text = await asyncio.get_running_loop().run_in_executor(None, command.run, words, folder)
        msg = "Command is executing, wait a few seconds and then view the result_url"
        url = self._stored(request, text)
        return reply({"success": True, "writeable_path": str(folder.resolve()), "result_url": url, "msg": msg})

    async def snapshot(self, request: web.Request) -> web.Response:
        """Take the order for a snapshot; no registry is called, no image is made."""
        contract = self._contract(request)
        repository = (await body_of(request)).get("personal_repo")
        if not repository:
            raise refusal("invalid_args", what="personal_repo is required")
        return reply({"success": True, "msg": f"Snapshot of instance {contract.id} will be pushed to {repository}."})

    def _stored(self, request: web.Request, text: str) -> str:
        """Keep a text for a while and return its URL, which needs no key."""
        name = f"{secrets.token_hex(16)}.log"
        self._blobs[name] = text
        while len(self._blobs) > BLOBS_KEPT:
            del self._blobs[next(iter(self._blobs))]
        return f"http://{request.host}/blob/{name}"

    async def blob(self, request: web.Request) -> web.Response:
        """A stored text, for whoever knows its name."""
        text = self._blobs.get(request.match_info["name"])
        return web.Response(status=404) if text is None else web.Response(text=text)

    # ---- ssh keys ------------------------------------------------------------------------------------------------

    async def keys(self, request: web.Request) -> web.Response:
        """An instance's keys: a text with JSON in it, as the description says."""
        return reply({"success": True, "ssh_keys": json.dumps(self._contract(request).ssh_keys)})

    async def key_attached(self, request: web.Request) -> web.Response:
        """Let a key in; one that the account has not is added to it."""
        contract = self._contract(request)
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        known = [one for one in self.world.account.ssh_keys if one["key"] == text]
        key = known[0] if known else self.world.account.add_key(text, self.world.now())
        if key["id"] not in [one["id"] for one in contract.ssh_keys]:
            contract.ssh_keys.append(key)
        return reply({"success": True, "msg": "SSH key attached successfully"})

    async def key_detached(self, request: web.Request) -> web.Response:
        contract, key_id = self._contract(request), path_id(request, "key")
        if key_id not in [one["id"] for one in contract.ssh_keys]:
            raise refusal("no_such_key")
        contract.ssh_keys = [one for one in contract.ssh_keys if one["id"] != key_id]
        return reply({"success": True, "msg": "SSH key removed from instance."})


def _state(body: dict[str, Any]) -> str:
    if body.get("state") not in STATES:
        raise refusal("invalid_state")
    return str(body["state"])


def _ids(body: dict[str, Any], *names: str) -> list[int]:
    ids: list[Any] = next((body[name] for name in names if body.get(name)), [])
    if not ids:
        raise refusal("no_instance_ids")
    return [int(one) for one in ids]
