"""Validates large bodies in a second process, because parsing them would block the guard's event loop.

`Worker` is used by `gate`. It starts the process for the first large body; the process runs `main`.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from .rules import JudgedBody, Refusal, Rules, judge

JUDGED_WITHIN_S = 20.0
SIZE = struct.Struct(">I")
# imports this module from the same package; the package name differs between container and repository
START = "import importlib, sys; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).main()"


class Worker:
    """One process, one body at a time."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.lock = asyncio.Lock()

    async def judge(self, path: str, body: bytes, rules: Rules) -> JudgedBody:
        """Call `rules.judge` in the process. Raises Refusal, also after JUDGED_WITHIN_S."""
        async with self.lock:
            try:
                async with asyncio.timeout(JUDGED_WITHIN_S):
                    result = await self._call(pickle.dumps((path, body, rules)))
            except (OSError, asyncio.IncompleteReadError):  # OSError includes TimeoutError
                self.close()
                raise Refusal(503, "the body could not be validated in time", 1) from None
            except asyncio.CancelledError:  # the client disconnected; its result must not go to the next request
                self.close()
                raise
        if isinstance(result, Refusal):
            raise result
        return result

    async def _call(self, request: bytes) -> JudgedBody | Refusal:
        if self.process is None:
            command = (sys.executable, "-c", START, str(Path(__file__).parents[__name__.count(".")]), __name__)
            self.process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env={})
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise OSError("no pipe")
        stdin.write(SIZE.pack(len(request)) + request)
        await stdin.drain()
        (size,) = SIZE.unpack(await stdout.readexactly(SIZE.size))
        result: JudgedBody | Refusal = pickle.loads(await stdout.readexactly(size))  # noqa: S301 - from our own process
        return result

    def close(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.kill()


def main() -> None:
    """Read requests from stdin until its end, and write the results to stdout."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while len(head := stdin.read(SIZE.size)) == SIZE.size:
        path, body, rules = pickle.loads(stdin.read(*SIZE.unpack(head)))  # noqa: S301 - from the guard
        result: JudgedBody | Refusal
        try:
            result = judge(path, body, rules)
        except Refusal as refusal:
            result = refusal
        packed = pickle.dumps(result)
        stdout.write(SIZE.pack(len(packed)) + packed)
        stdout.flush()
