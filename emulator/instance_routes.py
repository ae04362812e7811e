"""API calls that change instances or read from their containers. Called by `routes`."""

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
from emulator.request import Route, path_id, read_body
from emulator.world import World

LABEL_LIMIT = 1024
MAX_BLOBS = 100
STATES = ("running", "stopped")


class InstanceRoutes:
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
            Route("POST", f"{base}{{id}}/ssh/", "ssh", self.attach_key, 2.0),
            Route("DELETE", f"{base}{{id}}/ssh/{{key}}/", "ssh", self.detach_key, 2.0),
        ]

    def _contract(self, request: web.Request, missing: str = "no_such_instance") -> Contract:
        return self.world.get_contract(path_id(request), missing)

    # ---- state ---------------------------------------------------------------------------------------------------

    async def manage(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        contract = self._contract(request)
        if not {"label", "state"} & body.keys():
            raise refusal("nothing_to_change")
        state = _parse_state(body) if "state" in body else None
        msg = f"state of {contract.id} set to '{state}'"
        if "label" in body:
            label = str(body["label"] or "")
            if len(label) > LABEL_LIMIT:
                raise refusal("label_too_long")
            contract.label = label
            msg = f"label for {contract.id} set to '{label}'"
        if state:
            await self.world.set_state(contract.id, state)
        return reply({"success": True, "msg": msg})

    async def manage_many(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        state = _parse_state(body)
        return await self._change_each(
            _parse_ids(body, "ids", "instance_ids"), lambda instance_id: self.world.set_state(instance_id, state)
        )

    async def start_many(self, request: web.Request) -> web.Response:
        ids = _parse_ids(await read_body(request), "IDs", "ids")
        return await self._change_each(ids, lambda instance_id: self.world.set_state(instance_id, "running"))

    async def destroy(self, request: web.Request) -> web.Response:
        await self.world.destroy(self._contract(request).id)
        return reply({"success": True})

    async def destroy_many(self, request: web.Request) -> web.Response:
        return await self._change_each(_parse_ids(await read_body(request), "instance_ids"), self.world.destroy)

    async def _change_each(self, ids: list[int], act: Callable[[int], Awaitable[None]]) -> web.Response:
        """Call `act` for each id; the answer lists the failures. Raises the 404 refusal if no id exists."""
        if not {contract.id for contract in self.world.live_contracts()} & set(ids):
            raise refusal("no_such_instances", ids=", ".join(map(str, ids)))
        failed = []
        for instance_id in ids:
            try:
                await act(instance_id)
            except ServiceError as error:
                failed.append({"id": instance_id, **error.body()})
        if not failed:
            return reply({"success": True})
        msg = " ".join(failure["msg"] for failure in failed)
        return reply({"success": False, "error": failed[0]["error"], "msg": msg, "failed": failed})

    async def reboot(self, request: web.Request) -> web.Response:
        """Stop the container and start it again."""
        await self.world.reboot(self._contract(request, "invalid_instance_id").id)
        return reply({"success": True})

    async def recycle(self, request: web.Request) -> web.Response:
        """Destroy the container and create it again."""
        await self.world.reboot(self._contract(request, "no_such_instance_to_recycle").id, recycle=True)
        return reply({"success": True})

    # ---- terms ---------------------------------------------------------------------------------------------------

    async def bid(self, request: web.Request) -> web.Response:
        contract = self._contract(request, "no_such_instance_to_bid")
        await self.world.bid(contract.id, (await read_body(request)).get("price"))
        return reply({"success": True})

    async def prepay(self, request: web.Request) -> web.Response:
        contract = self._contract(request, "no_such_instance_to_prepay")
        self.world.prepay(contract, float((await read_body(request))["amount"]))
        months = contract.prepaid_months()
        return reply({"success": True, "timescale": months, "discount_rate": contract.discount_rate()})

    async def update(self, request: web.Request) -> web.Response:
        """Change image, command or environment, by a recycle (an assumption: it is not documented)."""
        body = await read_body(request)
        contract = self._contract(request)
        changes = {name: body[name] for name in ("image", "env", "onstart") if body.get(name)}
        if body.get("args"):
            changes |= {"args": None, "args_str": str(body["args"])}
        new_body = {**contract.body, **changes}
        validate(new_body, self.world.find_machine(contract).facts["disk_space"])
        contract.body = new_body
        if not contract.is_stopped():
            await self.world.reboot(contract.id, recycle=True)
        row = shapes.instance(contract, self.world.find_machine(contract), self.world.now())
        return reply({"success": True, "updated_instance": row})

    # ---- inside the container ------------------------------------------------------------------------------------

    async def logs(self, request: web.Request) -> web.Response:
        """Store the end of the log and return its URL."""
        contract = self._contract(request, "no_such_instance_to_log")
        body = await read_body(request)
        if body.get("daemon_logs", "true") not in ("true", None):
            raise refusal("invalid_daemon_logs")
        text = self.world.containers.log(contract.id, int(body.get("tail") or 1000))
        if body.get("filter"):
            text = "".join(line for line in text.splitlines(keepends=True) if str(body["filter"]) in line)
        return reply({"success": True, "result_url": self._store_blob(request, text), "msg": ""})

    async def execute(self, request: web.Request) -> web.Response:
        """Run an allowed command, store its output and return the URL."""
        folder = self.world.containers.folder(self._contract(request).id)
        words = command.parse_command((await read_body(request)).get("command"), folder)
        text = await asyncio.get_running_loop().run_in_executor(None, command.run, words, folder)
        msg = "Command is executing, wait a few seconds and then view the result_url"
        url = self._store_blob(request, text)
        return reply({"success": True, "writeable_path": str(folder.resolve()), "result_url": url, "msg": msg})

    async def snapshot(self, request: web.Request) -> web.Response:
        """Accept a snapshot call; no image is created or pushed."""
        contract = self._contract(request)
        repository = (await read_body(request)).get("personal_repo")
        if not repository:
            raise refusal("invalid_args", what="personal_repo is required")
        return reply({"success": True, "msg": f"Snapshot of instance {contract.id} will be pushed to {repository}."})

    def _store_blob(self, request: web.Request, text: str) -> str:
        """Store a text among the newest and return its URL, which needs no key."""
        name = f"{secrets.token_hex(16)}.log"
        self._blobs[name] = text
        while len(self._blobs) > MAX_BLOBS:
            del self._blobs[next(iter(self._blobs))]
        return f"http://{request.host}/blob/{name}"

    async def blob(self, request: web.Request) -> web.Response:
        """Return a stored text."""
        text = self._blobs.get(request.match_info["name"])
        return web.Response(status=404) if text is None else web.Response(text=text)

    # ---- ssh keys ------------------------------------------------------------------------------------------------

    async def keys(self, request: web.Request) -> web.Response:
        """Return the ssh keys of an instance, as JSON in a string (documented)."""
        return reply({"success": True, "ssh_keys": json.dumps(self._contract(request).ssh_keys)})

    async def attach_key(self, request: web.Request) -> web.Response:
        """Attach a key to an instance; add it to the account if it is new."""
        contract = self._contract(request)
        text = str((await read_body(request)).get("ssh_key") or "").strip()
        matches = [key for key in self.world.account.ssh_keys if key["key"] == text]
        key = matches[0] if matches else self.world.account.add_key(text, self.world.now())
        if key["id"] not in [attached["id"] for attached in contract.ssh_keys]:
            contract.ssh_keys.append(key)
        return reply({"success": True, "msg": "SSH key attached successfully"})

    async def detach_key(self, request: web.Request) -> web.Response:
        contract, key_id = self._contract(request), path_id(request, "key")
        if key_id not in [key["id"] for key in contract.ssh_keys]:
            raise refusal("no_such_key")
        contract.ssh_keys = [key for key in contract.ssh_keys if key["id"] != key_id]
        return reply({"success": True, "msg": "SSH key removed from instance."})


def _parse_state(body: dict[str, Any]) -> str:
    if body.get("state") not in STATES:
        raise refusal("invalid_state")
    return str(body["state"])


def _parse_ids(body: dict[str, Any], *names: str) -> list[int]:
    ids: list[Any] = next((body[name] for name in names if body.get(name)), [])
    if not ids:
        raise refusal("no_instance_ids")
    return [int(value) for value in ids]
