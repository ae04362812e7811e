"""A contract: what was rented, in which state its container is, what it has cost. Rules by time, no HTTP, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from emulator.process import Process

LAYERS = ("4f4fb700ef54", "a3ed95caeb02", "1b930d010525", "8f6b7c9d0e11", "c2adabaecedb")


@dataclass
class Contract:
    """One rented machine. Times are seconds of the emulator's clock."""

    id: int
    machine_id: int
    ask_id: int
    body: dict[str, Any]
    label: str
    rented_at: float
    created_s: float
    pull_s: float
    start_s: float
    dph_base_usd: float
    dph_disk_usd: float
    pull_cost_usd: float
    end_date: float
    api_key: str
    is_bid: bool = False
    price_usd: float = 0.0
    visible_at: float = 0.0
    ports: dict[int, int] = field(default_factory=dict)
    boot_fault: str = ""
    fault_params: dict[str, Any] = field(default_factory=dict)
    # what the API's four fields say
    actual_status: str | None = None
    intended_status: str = "running"
    cur_state: str = "running"
    next_state: str = "running"
    status_msg: str = ""
    booted_at: float = 0.0
    running_since: float | None = None
    ran_s: float = 0.0
    destroyed_at: float | None = None
    announced_dph_usd: float | None = None
    started: bool = False
    process: Process | None = None

    @property
    def image(self) -> str:
        """The image that it runs."""
        return str(self.body.get("image") or "")

    def phase(self, now: float) -> str:
        """Return created, pulling, starting or due by the time since the boot began."""
        age = now - self.booted_at
        if age < self.created_s:
            return "created"
        if age < self.created_s + self.pull_s:
            return "pulling"
        return "starting" if age < self.created_s + self.pull_s + self.start_s else "due"

    def pull_message(self, now: float) -> str:
        """Return what docker says of the pull, layer by layer."""
        share = (now - self.booted_at - self.created_s) / max(self.pull_s, 1e-9)
        done = min(int(share * len(LAYERS)), len(LAYERS) - 1)
        percent = int((share * len(LAYERS) - done) * 100)
        return f"{LAYERS[done]}: Downloading {max(0, min(percent, 99))}%"

    def cost_usd(self, now: float) -> float:
        """Return what it has cost: GPU while running, disk while it exists, the pull once it began."""
        until = self.destroyed_at if self.destroyed_at is not None else now
        ran = self.ran_s + (max(until - self.running_since, 0.0) if self.running_since is not None else 0.0)
        pulled = self.pull_cost_usd if until - self.rented_at > self.created_s else 0.0
        price = self.price_usd if self.is_bid else self.dph_base_usd
        return ran / 3600 * price + max(until - self.rented_at, 0.0) / 3600 * self.dph_disk_usd + pulled

    def halt(self, now: float) -> None:
        """Stop counting GPU time."""
        if self.running_since is not None:
            self.ran_s += max(now - self.running_since, 0.0)
            self.running_since = None

    def is_stopped(self) -> bool:
        """Whether it holds no GPU."""
        return self.cur_state == "stopped"
