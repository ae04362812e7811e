"""Faults of API calls, a function for each. Called by `routes` before and after each call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from emulator.faults import Rule

Answer = web.Response | None


def reply(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer without a charset: the official client refuses a charset."""
    content = {"Content-Type": "application/json", **(headers or {})}
    return web.Response(body=json.dumps(data).encode(), status=status, headers=content)


async def _drop_connection(_rule: Rule, request: web.Request) -> Answer:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _hang(rule: Rule, _request: web.Request) -> Answer:
    await asyncio.sleep(float(rule.params.get("seconds", 30)))
    return None


async def _too_many(rule: Rule, _request: web.Request) -> Answer:
    form, seconds = rule.params.get("form", "text"), rule.params.get("seconds", 1)
    if form == "json":
        return reply({"detail": "API requests too frequent", "retry_after": seconds}, status=429)
    if form == "quota":
        body = {"success": False, "error": "search_quota_exceeded", "msg": "daily search quota exceeded"}
        return reply(body, status=429, headers={"X-RateLimit-Reset": str(int(time.time()) + int(seconds))})
    headers = {"Retry-After": str(seconds)} if form == "header" else {}
    return web.Response(text="API requests too frequent", status=429, headers=headers)


async def _bad_gateway(_rule: Rule, _request: web.Request) -> Answer:
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    return web.Response(text=page, status=502, content_type="text/html")


async def _internal_error(_rule: Rule, _request: web.Request) -> Answer:
    return reply({"msg": "internal error"}, status=500)


async def _custom_error(rule: Rule, _request: web.Request) -> Answer:
    code, msg = rule.params.get("error", "unknown"), rule.params.get("msg", "unknown error")
    return reply({"success": False, "error": code, "msg": msg}, status=int(rule.params.get("status", 400)))


async def _session_expired(_rule: Rule, _request: web.Request) -> Answer:
    msg = "Session expired. Please log in again."
    return reply({"success": False, "error": "auth_error", "msg": msg}, status=404)


async def _truncated_json(_rule: Rule, _request: web.Request) -> Answer:
    return web.Response(body=b'{"success": true, "instances": [', headers={"Content-Type": "application/json"})


HANDLERS: dict[str, Callable[[Rule, web.Request], Awaitable[Answer]]] = {
    "lost_answer_before": _drop_connection,
    "lost_answer_after": _drop_connection,
    "hang": _hang,
    "http_429": _too_many,
    "http_502_html": _bad_gateway,
    "http_500": _internal_error,
    "http_error": _custom_error,
    "auth_expired": _session_expired,
    "malformed_json": _truncated_json,
}
