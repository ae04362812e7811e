"""The emulator's clock, and the durations of boots: instant, scaled or real. Both are callables for `world`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from emulator.market import Machine

Time = Literal["instant", "scaled", "real"]
IMAGE_GB = 12.6
MEGABITS_PER_GB = 8000
CREATED_S, START_S = 5.0, 15.0
# Long enough for a poll to see each state.
INSTANT_S = (0.02, 0.08, 0.02)


@dataclass
class Clock:
    """Epoch seconds plus an offset. Costs use this clock in every mode: scaled time shortens boots only."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds


@dataclass(frozen=True)
class Timing:
    """Returns the durations of a boot on a machine, in seconds: created, image pull, container start."""

    mode: Time = "instant"
    scale: float = 60.0
    boot_s: float | None = None

    def __call__(self, machine: Machine) -> tuple[float, float, float]:
        if self.boot_s is not None:
            return (self.boot_s * 0.1, self.boot_s * 0.8, self.boot_s * 0.1)
        if self.mode == "instant":
            return INSTANT_S
        factor = self.scale if self.mode == "scaled" else 1.0
        pull_s = IMAGE_GB * MEGABITS_PER_GB / max(machine.facts["inet_down"], 1.0)
        return (CREATED_S / factor, pull_s / factor, START_S / factor)
