"""The emulator's clock and how long things take: instant, scaled or real. Passed to the world as functions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from emulator.market import Machine

Time = Literal["instant", "scaled", "real"]
IMAGE_GB = 12.6
CREATED_S, START_S = 5.0, 15.0


@dataclass
class Clock:
    """Epoch seconds that can jump ahead."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.time() + self.ahead_s

    def advance(self, seconds: float) -> None:
        """Jump."""
        self.ahead_s += seconds


@dataclass(frozen=True)
class Timing:
    """How long a boot takes on a machine: contract made, image pulled, container started."""

    mode: Time = "instant"
    scale: float = 60.0
    boot_s: float | None = None

    def __call__(self, machine: Machine) -> tuple[float, float, float]:
        """Return the seconds of each phase."""
        pull = IMAGE_GB * 8000 / max(machine.facts["inet_down"], 1.0)
        phases = (CREATED_S, pull, START_S)
        if self.boot_s is not None:
            return (self.boot_s * 0.1, self.boot_s * 0.8, self.boot_s * 0.1)
        if self.mode == "instant":
            return (0.02, 0.08, 0.02)
        factor = self.scale if self.mode == "scaled" else 1.0
        return tuple(phase / factor for phase in phases)  # type: ignore[return-value]
