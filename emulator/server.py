"""The emulator as a server: setup, heartbeat, start and stop. Used by `__main__` and, in a thread, by tests.

>>> with EmulatorServer(runtime="stub") as market:
...     market.control.ledger()
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from emulator import boot, heartbeat
from emulator.access import access_middleware, load_keys
from emulator.client import ControlClient
from emulator.clock import Clock, Time, Timing
from emulator.control import Control
from emulator.http_faults import reply
from emulator.market import build
from emulator.routes import Api
from emulator.runtime import Containers, Runtime, RuntimeSettings
from emulator.store import Store
from emulator.world import World

HUB = ("huggingface.co", 443)
HEARTBEAT_S = 0.03
STOP_WITHIN_S = 60.0
LOG = logging.getLogger("emulator")


class EmulatorServer:
    """A Vast.ai on loopback. As a context manager it runs in a thread; `serve` runs it in the current event loop.

    `keys` are the accepted keys. Default: those of the environment (EMULATOR_API_KEYS), else a generated key in the
    state folder. `key` is the first of them.
    """

    def __init__(
        self,
        *,
        runtime: Runtime = "none",
        time: Time = "instant",
        state_dir: Path | str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 7,
        time_scale: float = 60.0,
        boot_s: float | None = None,
        keys: Iterable[str] = (),
        pacing: bool = False,
        vllm_python: Path | str | None = None,
        models: Path | str | None = None,
        hub: str = "auto",
        keep_containers: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.keep_containers = keep_containers
        self._temporary = tempfile.TemporaryDirectory(prefix="emulator-") if state_dir is None else None
        self.folder = Path(self._temporary.name if self._temporary else state_dir or ".").absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keys = tuple(keys) or load_keys(self.folder)
        self._args = (seed, pacing, hub)
        self._timing = Timing(time, time_scale, boot_s)
        served = json.loads(Path(models).read_text()) if models else {}
        python = Path(vllm_python).absolute() if vllm_python else None
        self._settings = RuntimeSettings(runtime, self.folder, python, served)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._power_off = True

    def __str__(self) -> str:
        runtime, time = self._settings.runtime, self._timing.mode
        return f"{self.url} (runtime {runtime}, time {time}, state {self.folder})"

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.url, self.key)

    @property
    def key(self) -> str:
        return self._keys[0]

    # ---- in a thread ---------------------------------------------------------------------------------------------

    def start(self) -> EmulatorServer:
        """Start in a thread; return when the server is ready. Raises the error of a failed start."""
        self._ready.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise TimeoutError("the emulator did not start within 30 s")
        if self._error is not None:
            self.close()
            raise self._error
        return self

    def stop(self) -> None:
        """Stop the thread, and the containers unless `keep_containers`. Raises the error of the thread, if any."""
        if self._thread is not None and self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_WITHIN_S)
            if self._thread.is_alive():
                raise TimeoutError(f"the emulator did not stop within {STOP_WITHIN_S:g} s")
            self._thread = None
        if self._error is not None:
            raise self._error

    def __enter__(self) -> EmulatorServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.close()

    def close(self) -> None:
        """Remove the state folder if it is temporary."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(on_ready=self._ready.set))
        except BaseException as error:  # noqa: BLE001 - raised by start() or stop()
            self._error = error
            self._ready.set()

    # ---- in a loop -----------------------------------------------------------------------------------------------

    async def serve(self, *, on_ready: Callable[[], None] = lambda: None, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set."""
        self._loop = asyncio.get_running_loop()
        self._stop = stop or asyncio.Event()
        store = Store(self.folder)
        try:
            await self._serve(store, on_ready, self._stop)
        finally:
            store.close()

    async def _serve(self, store: Store, on_ready: Callable[[], None], stop: asyncio.Event) -> None:
        seed, pacing, hub_mode = self._args
        clock = Clock(float(store.get("ahead_s") or 0.0))
        created_at = store.get("born") or clock()
        store.put("born", created_at)
        self._settings.offline = not (hub_mode == "online" or (hub_mode == "auto" and is_reachable(*HUB)))
        containers = Containers(self._settings)
        world = World(build(seed, now=created_at), containers, now=clock, timing=self._timing, seed=seed)
        store.load(world)

        def save() -> None:
            store.put("ahead_s", clock.ahead_s)
            store.save(world)

        api = Api(world, keys=self._keys, pacing=pacing, save=save)
        hub = not self._settings.offline
        control = Control(world, api, clock, hub=hub, save=save, delete_contracts=store.delete_contracts)
        check_access = access_middleware(self._keys, self.host, lambda: self.port)
        app = web.Application(middlewares=[check_access, _json_not_found])
        app.add_routes([*api.table(), *control.table()])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port)
            await site.start()  # first: the address may be in use by another emulator
            self.port = runner.addresses[0][1]
            self._power_off = not store.get("kept")
            store.put("kept", True)  # after a crash, containers may still run
            try:
                await self._recover(world)
                save()
                on_ready()
                await self._heartbeat(world, control, save, stop)
            finally:
                await runner.cleanup()
                await self._shut_down(world)
                save()
                store.put("kept", self.keep_containers)
        finally:
            await runner.cleanup()

    @staticmethod
    async def _heartbeat(world: World, control: Control, save: Callable[[], None], stop: asyncio.Event) -> None:
        """Advance the world until stopped. Errors are logged, shown by the control API, and retried."""
        while not stop.is_set():
            try:
                if await heartbeat.advance(world):
                    save()
            except Exception as error:
                if control.heartbeat_error != repr(error):
                    LOG.exception("a heartbeat failed; the emulator goes on")
                control.heartbeat_error = repr(error)
                save()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), HEARTBEAT_S)

    async def _recover(self, world: World) -> None:
        """Restore containers after a restart of the emulator.

        A process that still runs is kept. Containers that the emulator stopped itself start again, others have exited.
        """
        restart = self._power_off or self._settings.runtime == "none"
        for contract in world.live_contracts():
            if not contract.started or contract.actual_status != "running":
                continue
            if contract.process is not None and contract.process.poll() is None:
                continue
            if restart:
                await boot.start(contract, world.find_machine(contract), world)
            elif contract.process is not None:
                contract.set_exited(contract.process.exit_code or -1, world.now())

    async def _shut_down(self, world: World) -> None:
        for contract in world.live_contracts():
            if contract.process is not None:
                if self.keep_containers:
                    continue
                contract.process.kill()
            await world.containers.stop(contract.id)


@web.middleware
async def _json_not_found(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the API's JSON error for paths that are not emulated."""
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        msg = f"{request.method} {request.path} is not emulated"
        return reply({"success": False, "error": "not_found", "msg": msg}, status=error.status)


def is_reachable(host: str, port: int, timeout_s: float = 2.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False
