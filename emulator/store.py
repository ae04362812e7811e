"""The emulator's memory: one SQLite file, so that stacks outlive a terminal. Read at start, written on change."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emulator.contract import Contract
from emulator.process import Process
from emulator.world import World

MACHINE_KEPT = ("ip", "alive", "stalled", "unreachable", "rented_by", "dph_base_usd", "min_bid_usd", "end_date")


class Store:
    """Keeps a World between runs of the emulator."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "emulator.sqlite", check_same_thread=False)
        self._db.execute("create table if not exists world (name text primary key, value text not null)")

    def get(self, name: str) -> Any:
        """Return a stored value, or None."""
        row = self._db.execute("select value from world where name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, name: str, value: Any) -> None:
        """Store a value."""
        with self._db:
            self._db.execute("insert or replace into world values (?, ?)", (name, json.dumps(value)))

    def save(self, world: World) -> None:
        """Write everything that a restart must know."""
        self.put("contracts", [asdict(one) for one in world.contracts.values()])
        self.put("account", {"credit_usd": world.credit_usd, "next_id": world.next_id})
        self.put(
            "machines",
            {str(key): {name: getattr(one, name) for name in MACHINE_KEPT} for key, one in world.machines.items()},
        )

    def load(self, world: World) -> None:
        """Bring a World back to what was saved; processes that still live are found again."""
        account = self.get("account")
        if account is None:
            return
        world.credit_usd, world.next_id = account["credit_usd"], account["next_id"]
        for key, kept in self.get("machines").items():
            for name, value in kept.items():
                setattr(world.machines[int(key)], name, value)
        for raw in self.get("contracts"):
            process = raw.pop("process")
            raw["ports"] = {int(inner): outer for inner, outer in raw["ports"].items()}
            contract = Contract(**raw)
            contract.process = Process(**process) if process else None
            world.contracts[contract.id] = contract

    def close(self) -> None:
        """Close the file."""
        self._db.close()
