"""The emulator's memory: one SQLite file, so that stacks outlive a terminal. Read at start, written on change."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from emulator.account import Account
from emulator.contract import Contract
from emulator.process import Process
from emulator.world import World

MACHINE_KEPT = ("ip", "alive", "stalled", "unreachable", "rented_by", "dph_base_usd", "min_bid_usd", "end_date")

CONTRACT = tuple(one.name for one in fields(Contract))


class StoreInUse(OSError):
    """Another emulator keeps its memory there: the two would take each other's containers for their own."""


class Store:
    """Keeps a World between runs of the emulator. Only what differs from the last save is written."""

    def __init__(self, folder: Path) -> None:
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StoreInUse(f"another emulator uses {folder}") from None
        file = folder / "emulator.sqlite"
        file.touch(mode=0o600)  # it holds what containers are given in their environment
        self._db = sqlite3.connect(file, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute("create table if not exists world (name text primary key, value text not null)")
        self._written: dict[str, str] = {}
        self._machines: dict[int, tuple[Any, ...]] = {}  # what was last written of each
        self._over: set[int] = set()  # destroyed contracts that are written: they change no more

    def get(self, name: str) -> Any:
        row = self._db.execute("select value from world where name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, name: str, value: Any) -> None:
        self._put([(name, value)])

    def save(self, world: World) -> None:
        """Write everything that a restart must know. Takes as long as there are live contracts, not ever made ones."""
        values: list[tuple[str, Any]] = [
            ("account", {"credit_usd": world.credit_usd, "next_id": world.next_id}),
            ("profile", world.account),
            ("faults", world.faults.dump()),
        ]
        for key, one in world.machines.items():
            kept = tuple(getattr(one, name) for name in MACHINE_KEPT)
            if self._machines.get(key) != kept:
                values.append((f"machine {key}", dict(zip(MACHINE_KEPT, kept, strict=True))))
                self._machines[key] = kept
        changing = [one for one in world.contracts.values() if one.id not in self._over]
        values += [(f"contract {one.id}", {name: getattr(one, name) for name in CONTRACT}) for one in changing]
        self._put(values)
        self._over.update(one.id for one in changing if one.destroyed_at is not None)

    def forget(self) -> None:
        """Drop every contract."""
        with self._db:
            self._db.execute("delete from world where name like 'contract %'")
        self._written.clear()
        self._over.clear()

    def load(self, world: World) -> None:
        """Bring a World back to what was saved; processes that still live are found again."""
        account = self.get("account")
        if account is None:
            return
        world.credit_usd, world.next_id = account["credit_usd"], account["next_id"]
        world.account = Account(**self.get("profile"))
        world.faults.load(self.get("faults"))
        for key, machine in world.machines.items():
            for name, value in (self.get(f"machine {key}") or {}).items():
                setattr(machine, name, value)
        rows = self._db.execute("select value from world where name like 'contract %'").fetchall()
        for contract in sorted((_contract(json.loads(row[0])) for row in rows), key=lambda one: one.id):
            world.contracts[contract.id] = contract

    def close(self) -> None:
        """Close the file, and let others use it."""
        self._db.close()
        self._lock.close()

    def _put(self, values: Iterable[tuple[str, Any]]) -> None:
        texts = {name: json.dumps(value, default=asdict) for name, value in values}
        news = [(name, text) for name, text in texts.items() if self._written.get(name) != text]
        if news:
            with self._db:
                self._db.executemany("insert or replace into world values (?, ?)", news)
            self._written.update(news)


def _contract(raw: dict[str, Any]) -> Contract:
    process = raw.pop("process")
    raw["ports"] = {int(inner): outer for inner, outer in raw["ports"].items()}
    contract = Contract(**raw)
    contract.process = Process(**process) if process else None
    return contract
