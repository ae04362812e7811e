"""The saved state of the emulator: a SQLite file, read at start and written on change. Used by `server`."""

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

MACHINE_FIELDS = ("ip", "alive", "stalled", "unreachable", "rented_by", "dph_base_usd", "min_bid_usd", "end_date")
CONTRACT_FIELDS = tuple(field.name for field in fields(Contract))


class StoreInUse(OSError):
    """Another emulator uses this state folder."""


class Store:
    """Saves a World. A save writes changed values only."""

    def __init__(self, folder: Path) -> None:
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StoreInUse(f"another emulator uses {folder}") from None
        file = folder / "emulator.sqlite"
        file.touch(mode=0o600)  # it contains the environment of containers, with keys
        self._db = sqlite3.connect(file, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute("create table if not exists world (name text primary key, value text not null)")
        self._saved: dict[str, str] = {}
        self._saved_machines: dict[int, tuple[Any, ...]] = {}
        self._saved_destroyed: set[int] = set()  # ids of destroyed contracts: they no longer change

    def get(self, name: str) -> Any:
        row = self._db.execute("select value from world where name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, name: str, value: Any) -> None:
        self._put([(name, value)])

    def save(self, world: World) -> None:
        """Save the world. The duration depends on the number of live contracts, not of all contracts."""
        values: list[tuple[str, Any]] = [
            ("account", {"credit_usd": world.credit_usd, "next_id": world.next_id}),
            ("profile", world.account),
            ("faults", world.faults.dump()),
        ]
        for key, machine in world.machines.items():
            state = tuple(getattr(machine, name) for name in MACHINE_FIELDS)
            if self._saved_machines.get(key) != state:
                values.append((f"machine {key}", dict(zip(MACHINE_FIELDS, state, strict=True))))
                self._saved_machines[key] = state
        contracts = [contract for contract in world.contracts.values() if contract.id not in self._saved_destroyed]
        for contract in contracts:
            values.append((f"contract {contract.id}", {name: getattr(contract, name) for name in CONTRACT_FIELDS}))
        self._put(values)
        self._saved_destroyed.update(contract.id for contract in contracts if contract.destroyed_at is not None)

    def delete_contracts(self) -> None:
        with self._db:
            self._db.execute("delete from world where name like 'contract %'")
        self._saved.clear()
        self._saved_destroyed.clear()

    def load(self, world: World) -> None:
        """Load the saved state into a world."""
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
        for contract in sorted((_build_contract(json.loads(row[0])) for row in rows), key=lambda contract: contract.id):
            world.contracts[contract.id] = contract

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def _put(self, values: Iterable[tuple[str, Any]]) -> None:
        texts = {name: json.dumps(value, default=asdict) for name, value in values}
        changes = [(name, text) for name, text in texts.items() if self._saved.get(name) != text]
        if changes:
            with self._db:
                self._db.executemany("insert or replace into world values (?, ?)", changes)
            self._saved.update(changes)


def _build_contract(values: dict[str, Any]) -> Contract:
    process = values.pop("process")
    values["ports"] = {int(inner): outer for inner, outer in values["ports"].items()}
    contract = Contract(**values)
    contract.process = Process(**process) if process else None
    return contract
