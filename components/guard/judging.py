"""Judges large bodies in a process beside, since JSON of that size would keep the guard's loop from all others.

`Worker` is used by `gate`; the process, started when it is first needed, runs `main`.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import IO

from .rules import Judged, Refusal, Rules, judge

JUDGED_WITHIN_S = 20.0
HEAD = struct.Struct(">I")
# a package that the guard itself came from, whatever it is called there
START = "import importlib, sys; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).main()"


class Worker:
    """One process, one body at a time."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.lock = asyncio.Lock()

    async def judge(self, path: str, body: bytes, rules: Rules) -> Judged:
        """Judge as `rules.judge` does. Raises Refusal, also where it takes too long."""
        async with self.lock:
            try:
                async with asyncio.timeout(JUDGED_WITHIN_S):
                    found = await self._ask(pickle.dumps((path, body, rules)))
            except (OSError, asyncio.IncompleteReadError):  # with OSError also the end of the time
                self.close()
                raise Refusal(503, "the body could not be judged in time", 1) from None
            except asyncio.CancelledError:  # its client is gone; the answer must not come to be the next one's
                self.close()
                raise
        if isinstance(found, Refusal):
            raise found
        return found

    async def _ask(self, asked: bytes) -> Judged | Refusal:
        if self.process is None:
            command = (sys.executable, "-c", START, str(Path(__file__).parents[__name__.count(".")]), __name__)
            self.process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env={})
        tell, told = self.process.stdin, self.process.stdout
        if tell is None or told is None:
            raise OSError("no pipe")
        tell.write(HEAD.pack(len(asked)) + asked)
        await tell.drain()
        (size,) = HEAD.unpack(await told.readexactly(HEAD.size))
        found: Judged | Refusal = pickle.loads(await told.readexactly(size))  # noqa: S301 - from our own process
        return found

    def close(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.kill()


def main() -> None:
    """Judge what comes by stdin until it ends."""
    ask, tell = sys.stdin.buffer, sys.stdout.buffer
    while len(head := ask.read(HEAD.size)) == HEAD.size:
        path, body, rules = pickle.loads(ask.read(*HEAD.unpack(head)))  # noqa: S301 - from the guard
        try:
            _send(tell, judge(path, body, rules))
        except Refusal as refusal:
            _send(tell, refusal)


def _send(tell: IO[bytes], found: object) -> None:
    packed = pickle.dumps(found)
    tell.write(HEAD.pack(len(packed)) + packed)
    tell.flush()
