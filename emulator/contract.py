"""A contract: the rental, the state of its container, its cost. No HTTP, no clock: callers pass the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from emulator.market import HOURS_PER_MONTH
from emulator.process import Process

DISCOUNT_MAX, DISCOUNT_PER_MONTH = 0.4, 0.1
LAYERS = ("4f4fb700ef54", "a3ed95caeb02", "1b930d010525", "8f6b7c9d0e11", "c2adabaecedb")


@dataclass
class Contract:
    """A rented machine. Times are seconds of the emulator's clock."""

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
    hidden_reads: int = 0
    ports: dict[int, int] = field(default_factory=dict)
    boot_fault: str = ""
    fault_params: dict[str, Any] = field(default_factory=dict)
    server_fault: dict[str, Any] = field(default_factory=dict)  # a ServerFault's fields
    # the API's status fields
    actual_status: str | None = None
    intended_status: str = "running"
    cur_state: str = "running"
    next_state: str = "running"
    status_msg: str = ""
    # actual_status at the start of a boot, start of the boot, start of running
    transient: str | None = None
    booted_at: float = 0.0
    running_since: float | None = None
    ran_s: float = 0.0
    ran_usd: float = 0.0
    offline_since: float | None = None
    status_when_back: str | None = None
    offline_s: float = 0.0
    pulls: int = 1
    outbid: bool = False
    destroyed_at: float | None = None
    announced_dph_usd: float | None = None
    started: bool = False
    process: Process | None = None
    ssh_keys: list[dict[str, Any]] = field(default_factory=list)
    # the deposit, and the cost of the contract at the time of the deposit
    prepaid_usd: float = 0.0
    cost_before_usd: float = 0.0

    @property
    def image(self) -> str:
        return str(self.body.get("image") or "")

    @property
    def gpu_dph_usd(self) -> float:
        """The price of the GPU per hour of running: the bid, or the rental price."""
        return self.price_usd if self.is_bid else self.dph_base_usd

    def phase(self, now: float) -> str:
        """Return the phase of the boot: created, pulling, starting or due."""
        age = now - self.booted_at
        if age < self.created_s:
            return "created"
        if age < self.created_s + self.pull_s:
            return "pulling"
        return "starting" if age < self.created_s + self.pull_s + self.start_s else "due"

    def first_status(self, now: float) -> str | None:
        """Return the status before the pull: None in the first half of this phase."""
        return self.transient if now - self.booted_at < self.created_s / 2 else self.transient or "created"

    def pull_message(self, now: float) -> str:
        """Return docker's message about the pull, layer by layer."""
        share = (now - self.booted_at - self.created_s) / max(self.pull_s, 1e-9)
        done = min(int(share * len(LAYERS)), len(LAYERS) - 1)
        percent = max(0, min(int((share * len(LAYERS) - done) * 100), 100))
        return f"{LAYERS[done]}: {'Pull complete' if percent >= 95 else f'Downloading {percent}%'}\n"

    def cost_usd(self, now: float) -> float:
        """Return the cost: GPU while running, disk while it exists and its host is online, each started pull."""
        until = self.destroyed_at if self.destroyed_at is not None else now
        running = max(until - self.running_since, 0.0) if self.running_since is not None else 0.0
        offline = self.offline_s + (max(until - self.offline_since, 0.0) if self.offline_since is not None else 0.0)
        pulls = self.pulls if until - self.booted_at > self.created_s or not self.pull_s else self.pulls - 1
        gpu = self.ran_usd + running / 3600 * self.gpu_dph_usd
        return gpu + max(until - self.rented_at - offline, 0.0) / 3600 * self.dph_disk_usd + pulls * self.pull_cost_usd

    def prepay(self, usd: float, now: float) -> None:
        self.prepaid_usd, self.cost_before_usd = self.deposit_usd(now) + usd, self.cost_usd(now)

    def deposit_usd(self, now: float) -> float:
        """Return the remaining deposit."""
        if self.destroyed_at is not None:
            return 0.0
        return max(self.prepaid_usd - (self.cost_usd(now) - self.cost_before_usd), 0.0)

    def prepaid_months(self) -> float:
        """Return the months of running that the deposit covers."""
        return self.prepaid_usd / ((self.gpu_dph_usd + self.dph_disk_usd) * HOURS_PER_MONTH)

    def discount_rate(self) -> float:
        """Return the displayed discount for a deposit; costs here do not include it."""
        return min(self.prepaid_months() * DISCOUNT_PER_MONTH, DISCOUNT_MAX)

    def halt(self, now: float) -> None:
        """Stop counting GPU time."""
        if self.running_since is not None:
            ran = max(now - self.running_since, 0.0)
            self.ran_s += ran
            self.ran_usd += ran / 3600 * self.gpu_dph_usd
            self.running_since = None

    def reprice(self, now: float, *, base_usd: float | None = None, bid_usd: float | None = None) -> None:
        """Change the price of the GPU from now on."""
        was_running = self.running_since is not None
        self.halt(now)
        if base_usd is not None:
            self.dph_base_usd = base_usd
        if bid_usd is not None:
            self.price_usd = bid_usd
        self.running_since = now if was_running else None

    def set_status(self, status: str | None) -> None:
        """Set the container's status; while its host is offline, set the status for its return."""
        if self.offline_since is None:
            self.actual_status = status
        else:
            self.status_when_back = status

    def go_offline(self, now: float) -> None:
        """Mark the host as offline: nothing is billed."""
        self.halt(now)
        if self.offline_since is None:
            self.status_when_back, self.offline_since = self.actual_status, now
        self.actual_status = "offline"

    def go_online(self, now: float) -> None:
        if self.offline_since is not None:
            self.offline_s += max(now - self.offline_since, 0.0)
            self.offline_since = None
            self.actual_status = self.status_when_back

    def boot(self, now: float, *, transient: str | None, pull_s: float) -> None:
        """Begin a boot: after a start, a reboot, a recycle or a power cycle."""
        self.intended_status = self.cur_state = self.next_state = "running"
        self.transient = self.actual_status = transient
        self.status_msg = ""
        self.booted_at = now
        self.pull_s = pull_s
        self.pulls += 1 if pull_s else 0
        self.started = self.outbid = False
        self.process = None

    def create_stopped(self, status: str) -> None:
        """Set the state of a contract that was created stopped, with no image pull."""
        self.intended_status = self.cur_state = self.next_state = "stopped"
        self.actual_status = status
        self.pulls, self.pull_s = 0, 0.0

    def fail_creation(self, reason: str) -> None:
        """Set the state after docker failed to create the container: created, without a GPU."""
        self.actual_status, self.cur_state, self.started = "created", "stopped", False
        self.status_msg = f"Error response from daemon: OCI runtime create failed: {reason}"

    def set_exited(self, code: int, now: float) -> None:
        self.halt(now)
        self.started = True
        self.process = None
        self.actual_status = "exited"
        self.status_msg = f"exited ({code})\n"

    def is_stopped(self) -> bool:
        """Return whether it holds no GPU."""
        return self.cur_state == "stopped"
