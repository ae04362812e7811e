"""A `--middleware` for tests: lists a real vLLM's routes where no guard does, and leaves every other request alone."""

from __future__ import annotations

from typing import Any

from components.vllm.guard import ROUTES, answer, registered


class RouteList:
    """ASGI middleware that answers the guard's own list of routes to anyone."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == ROUTES:
            await answer(send, 200, {"routes": list(registered(scope["app"]))})
        else:
            await self.app(scope, receive, send)
