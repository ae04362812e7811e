"""The emulator as a server: assembly, heartbeat, start and stop. Used by `__main__` and, in a thread, by tests.

>>> with EmulatorServer(runtime="stub") as market:
...     requests.get(f"{market.url}/_emulator/ledger")
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from emulator.clock import Clock, Time, Timing
from emulator.control import Control
from emulator.market import build
from emulator.routes import Api
from emulator.runtime import Containers, Runtime, Settings
from emulator.store import Store
from emulator.world import World

DEFAULT_KEY = "emulator-key"
HUB = ("huggingface.co", 443)
HEARTBEAT_S = 0.03


class EmulatorServer:
    """A Vast.ai on loopback. As a context manager it runs in a thread of its own; `serve` runs it in a given loop."""

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
        keys: Iterable[str] = (DEFAULT_KEY,),
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
        self._args = (seed, set(keys), pacing, hub)
        self._timing = Timing(time, time_scale, boot_s)
        served = json.loads(Path(models).read_text()) if models else {}
        python = Path(vllm_python).absolute() if vllm_python else None
        self._settings = Settings(runtime, self.folder, python, served)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://{self.host}:{self.port}"

    # ---- in a thread ---------------------------------------------------------------------------------------------

    def start(self) -> EmulatorServer:
        """Start in a thread; returns when it answers."""
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)
        self._thread.start()
        self._ready.wait(30)
        if self._failed is not None:
            raise self._failed
        return self

    def stop(self) -> None:
        """Stop the thread; containers end too unless they are kept."""
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            self._thread = None

    def __enter__(self) -> EmulatorServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve(on_ready=self._ready.set))
        except BaseException as error:  # noqa: BLE001 - handed to whoever started the thread
            self._failed = error
            self._ready.set()

    # ---- in a loop -----------------------------------------------------------------------------------------------

    async def serve(self, *, on_ready: Callable[[], None] = lambda: None, stop: asyncio.Event | None = None) -> None:
        """Serve until stopped."""
        self._loop = asyncio.get_running_loop()
        self._stop = stop or asyncio.Event()
        self.folder.mkdir(parents=True, exist_ok=True)
        seed, keys, pacing, hub = self._args
        store = Store(self.folder)
        clock = Clock(float(store.get("ahead_s") or 0.0))
        born = store.get("born") or clock()
        store.put("born", born)
        self._settings.offline = not (hub == "online" or (hub == "auto" and reachable(*HUB)))
        containers = Containers(self._settings)
        world = World(build(seed, now=born), containers, now=clock, timing=self._timing, seed=seed)
        store.load(world)
        await self._recover(world)
        dirty = asyncio.Event()
        api = Api(world, keys=keys, pacing=pacing, changed=dirty.set)
        control = Control(world, api, clock, hub=not self._settings.offline, changed=dirty.set)
        app = web.Application(middlewares=[_one_slash])
        app.add_routes([*api.table(), *control.table()])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self.host, self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        on_ready()
        try:
            await self._heartbeat(world, store, clock, dirty)
        finally:
            await runner.cleanup()
            await self._shut_down(world)
            store.put("ahead_s", clock.ahead_s)
            store.save(world)
            store.close()

    async def _heartbeat(self, world: World, store: Store, clock: Clock, dirty: asyncio.Event) -> None:
        assert self._stop is not None  # noqa: S101 - set by serve
        while not self._stop.is_set():
            if await world.advance() or dirty.is_set():
                dirty.clear()
                store.put("ahead_s", clock.ahead_s)
                store.save(world)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), HEARTBEAT_S)

    async def _recover(self, world: World) -> None:
        """After a restart: containers that still run are found again; the others start again, as after a power cut."""
        for contract in world.live():
            gone = contract.process is None or contract.process.poll() is not None
            if contract.started and gone and contract.actual_status == "running":
                contract.process, contract.started = None, False
                contract.booted_at, contract.pull_s = world.now(), 0.0

    async def _shut_down(self, world: World) -> None:
        for contract in world.live():
            await world.containers.stop(contract.id)
            if contract.process is not None and not self.keep_containers:
                contract.process.kill()


@web.middleware
async def _one_slash(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serve //api/… as /api/…: the official client does not strip a slash at the end of its address."""
    if request.path.startswith("//"):
        clone = request.clone(rel_url=request.rel_url.with_path("/" + request.path.lstrip("/"), keep_query=True))
        found = await request.app.router.resolve(clone)
        clone._match_info = found
        found.add_app(request.app)
        return await found.handler(clone)
    return await handler(request)


def reachable(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether a TCP connection to an address can be made."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False
