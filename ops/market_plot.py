"""The scatter plot of `ops market`: $/h against time to ready, both logarithmic, size by speed; as text and as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS, LINES = 68, 18
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 1000, 640, 76, 30, 64
FINE = 2  # drawn so many times as large, then reduced: smooth edges
SIZES = ".oO"  # of the text: a third of the offers each
LARGEST = 15.0  # radius of the fastest
GREY, DOT, MARK, GRID = (48, 52, 58), (58, 110, 165, 110), (201, 72, 15), (225, 228, 232)
TAG = 10  # radius of a letter's disc
MARGIN = 1.12  # an axis ends so far beyond the last value


Spot = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """An offer. `speed` is 0 where it is not known; `marks`: under which preferences it is the best, or ""."""

    ready_min: float
    usd_h: float
    speed: float
    name: str
    marks: str = ""


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """Return an axis that has room for all of some values above 0."""
        return cls(min(values) / MARGIN, max(values) * MARGIN)

    def at(self, value: float) -> float:
        """Return where a value is, 0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Return the values 1, 2, 3, 5 and 7 times powers of ten on the axis."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = [step * 10.0**power for power in powers for step in (1, 2, 3, 5, 7)]
        return [step for step in steps if self.low <= step <= self.high]


@dataclass(frozen=True)
class Scatter:
    """Offers, at least one. Their size is the estimated pairs/s where some are measured, else a relative speed."""

    points: Sequence[Point]
    measured: bool

    @property
    def size(self) -> str:
        """What the size of a point shows."""
        return "estimated pairs/s" if self.measured else "relative speed, not measured"

    @property
    def marked(self) -> list[tuple[str, Point]]:
        """The best offers, each with a letter."""
        best = [one for one in self.points if one.marks]
        return [(chr(ord("A") + number), one) for number, one in enumerate(best)]

    def axes(self) -> tuple[Axis, Axis]:
        return Axis.over([one.ready_min for one in self.points]), Axis.over([one.usd_h for one in self.points])

    def legend(self) -> list[str]:
        """Return a line for each of the best offers."""
        return [
            f"{letter}  {one.name}, ${one.usd_h:.4f}/h, ready in {one.ready_min:.0f} min: best by {one.marks}"
            for letter, one in self.marked
        ]

    def text(self) -> str:
        """Return the plot as a block of code in Markdown."""
        across, up = self.axes()
        rows = [[" "] * COLUMNS for _ in range(LINES)]
        speeds = sorted(one.speed for one in self.points)

        def put(one: Point, sign: str) -> None:
            row = LINES - 1 - round(up.at(one.usd_h) * (LINES - 1))
            rows[row][round(across.at(one.ready_min) * (COLUMNS - 1))] = sign

        for one in sorted(self.points, key=lambda one: one.speed):
            put(one, SIZES[min(speeds.index(one.speed) * len(SIZES) // len(speeds), len(SIZES) - 1)])
        for letter, one in self.marked:
            put(one, letter)
        scale = {LINES - 1 - round(up.at(tick) * (LINES - 1)): f"{tick:g}" for tick in up.ticks()}
        foot = [" "] * (COLUMNS + 4)
        for tick in across.ticks():
            label, place = f"{tick:g}", round(across.at(tick) * (COLUMNS - 1))
            foot[place : place + len(label)] = label
        lines = [f"{scale.get(number, ''):>6} |{''.join(row).rstrip()}" for number, row in enumerate(rows)]
        legend = [f"{' '.join(SIZES)}  by {self.size}, a third of the offers each", *self.legend()]
        body = ["   $/h", *lines, f"{'':>6} +{'-' * COLUMNS}", f"{'':>8}{''.join(foot).rstrip()}  min to ready"]
        return "\n".join(["```text", *body, "", *(one.replace("`", "'") for one in legend), "```"])

    def png(self, path: Path) -> None:
        """Write the plot as a PNG. Raises OSError."""
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - only where a picture is asked for

        legend = [*self.legend(), f"area: {self.size}{self._bounds()}"]
        top = 24 + 22 * len(legend) + 24
        image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), "white")
        draw, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(15 * FINE)
        across, up = self.axes()
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - top - BOTTOM

        def fine(*values: float) -> tuple[float, ...]:
            return tuple(value * FINE for value in values)

        def write(x: float, y: float, text: str, anchor: str, fill: tuple[int, ...] = GREY) -> None:
            draw.text((x * FINE, y * FINE), text, fill=fill, font=font, anchor=anchor)

        def place(one: Point) -> tuple[float, float]:
            return LEFT + wide * across.at(one.ready_min), top + high * (1 - up.at(one.usd_h))

        for number, line in enumerate(legend):
            write(LEFT, 24 + 22 * number, line, "lm")
        for tick in across.ticks():
            x = LEFT + wide * across.at(tick)
            draw.line(fine(x, top, x, top + high), fill=GRID, width=FINE)
            write(x, top + high + 16, f"{tick:g}", "mm")
        for tick in up.ticks():
            y = top + high * (1 - up.at(tick))
            draw.line(fine(LEFT, y, LEFT + wide, y), fill=GRID, width=FINE)
            write(LEFT - 10, y, f"{tick:g}", "rm")
        write(LEFT + wide / 2, HEIGHT - 18, "minutes to ready", "mm")
        write(LEFT - 10, top - 14, "$/h", "rm")
        fastest = max(one.speed for one in self.points) or 1.0
        for one in sorted(self.points, key=lambda one: (bool(one.marks), -one.speed)):
            (x, y), radius = place(one), max(LARGEST * math.sqrt(one.speed / fastest), 3.0)
            box = fine(x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=DOT, outline=MARK if one.marks else DOT[:3], width=FINE * (3 if one.marks else 1))
        box = (LEFT, top, LEFT + wide, top + high)
        spots = tags([place(one) for _, one in self.marked], box)
        for (letter, one), spot in zip(self.marked, spots, strict=True):
            draw.line(fine(*place(one), *spot), fill=MARK, width=FINE)
            draw.ellipse(fine(spot[0] - TAG, spot[1] - TAG, spot[0] + TAG, spot[1] + TAG), fill=MARK)
            write(*spot, letter, "mm", (255, 255, 255))
        image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path)

    def _bounds(self) -> str:
        known = [one.speed for one in self.points if one.speed]
        return f", {min(known):.0f} to {max(known):.0f}" if known and self.measured else ""


def tags(points: Sequence[Spot], box: tuple[float, float, float, float]) -> list[Spot]:
    """Return where the letter of each point goes: near it, in the box, and on no other letter and no marked point."""
    placed: list[Spot] = []
    for x, y in points:
        around = [
            (x + reach * math.cos(turn), y + reach * math.sin(turn))
            for reach in range(24, 200, 20)
            for turn in (math.pi * number / 8 for number in (14, 10, 2, 6, 0, 8, 12, 4, 15, 13, 11, 9, 1, 3, 5, 7))
        ]
        taken = [*placed, *points]
        placed.append(
            next(
                (
                    spot
                    for spot in around
                    if all(math.dist(spot, other) > 2 * TAG for other in taken)
                    and box[0] + TAG <= spot[0] <= box[2] - TAG
                    and box[1] + TAG <= spot[1] <= box[3] - TAG
                ),
                (x, y),  # no room: on the point itself
            )
        )
    return placed
