"""The scatter plot of `ops market` as text and PNG: $/h against time to ready, logarithmic; point size is speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS, LINES = 68, 18
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 1000, 640, 76, 30, 64
SCALE = 2  # the PNG is drawn at this scale and reduced, for smooth edges
SIZES = ".oO"  # point sizes of the text plot, a third of the offers each
MAX_RADIUS = 15.0  # of the fastest offer
GREY, DOT, MARK, GRID = (48, 52, 58), (58, 110, 165, 110), (201, 72, 15), (225, 228, 232)
TAG = 10  # radius of a letter's disc
MARGIN = 1.12  # ratio of an axis' end to the last value


Spot = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """An offer. `speed` is 0 if unknown; `marks`: the preferences for which it is the best, or ""."""

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
        """Return an axis for these values, which are above 0."""
        return cls(min(values) / MARGIN, max(values) * MARGIN)

    def at(self, value: float) -> float:
        """Return a value's position: 0 at the low end, 1 at the high end."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Return the axis' values of 1, 2, 3, 5 and 7 times powers of ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = [step * 10.0**power for power in powers for step in (1, 2, 3, 5, 7)]
        return [step for step in steps if self.low <= step <= self.high]


@dataclass(frozen=True)
class Scatter:
    """At least one offer. Point size is the estimated pairs/s if `measured`, else a relative speed."""

    points: Sequence[Point]
    measured: bool

    @property
    def size(self) -> str:
        """The meaning of a point's size."""
        return "estimated pairs/s" if self.measured else "relative speed, not measured"

    @property
    def marked(self) -> list[tuple[str, Point]]:
        """The best offers, each with a letter."""
        best = [point for point in self.points if point.marks]
        return [(chr(ord("A") + number), point) for number, point in enumerate(best)]

    def axes(self) -> tuple[Axis, Axis]:
        return Axis.over([point.ready_min for point in self.points]), Axis.over([point.usd_h for point in self.points])

    def legend(self) -> list[str]:
        return [
            f"{letter}  {point.name}, ${point.usd_h:.4f}/h, ready in {point.ready_min:.0f} min: best by {point.marks}"
            for letter, point in self.marked
        ]

    def text(self) -> str:
        """Return the plot as a Markdown code block."""
        x_axis, y_axis = self.axes()
        rows = [[" "] * COLUMNS for _ in range(LINES)]
        speeds = sorted(point.speed for point in self.points)

        def put(point: Point, sign: str) -> None:
            row = LINES - 1 - round(y_axis.at(point.usd_h) * (LINES - 1))
            rows[row][round(x_axis.at(point.ready_min) * (COLUMNS - 1))] = sign

        for point in sorted(self.points, key=lambda point: point.speed):
            put(point, SIZES[min(speeds.index(point.speed) * len(SIZES) // len(speeds), len(SIZES) - 1)])
        for letter, point in self.marked:
            put(point, letter)
        labels = {LINES - 1 - round(y_axis.at(tick) * (LINES - 1)): f"{tick:g}" for tick in y_axis.ticks()}
        foot = [" "] * (COLUMNS + 4)
        for tick in x_axis.ticks():
            label, column = f"{tick:g}", round(x_axis.at(tick) * (COLUMNS - 1))
            foot[column : column + len(label)] = label
        lines = [f"{labels.get(number, ''):>6} |{''.join(row).rstrip()}" for number, row in enumerate(rows)]
        legend = [f"{' '.join(SIZES)}  by {self.size}, a third of the offers each", *self.legend()]
        body = ["   $/h", *lines, f"{'':>6} +{'-' * COLUMNS}", f"{'':>8}{''.join(foot).rstrip()}  min to ready"]
        return "\n".join(["```text", *body, "", *(line.replace("`", "'") for line in legend), "```"])

    def png(self, path: Path) -> None:
        """Write the plot as a PNG. Raises OSError."""
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - only for --png

        legend = [*self.legend(), f"area: {self.size}{self._bounds()}"]
        top = 24 + 22 * len(legend) + 24
        image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        draw, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(15 * SCALE)
        x_axis, y_axis = self.axes()
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - top - BOTTOM

        def scaled(*values: float) -> tuple[float, ...]:
            return tuple(value * SCALE for value in values)

        def write(x: float, y: float, text: str, anchor: str, fill: tuple[int, ...] = GREY) -> None:
            draw.text((x * SCALE, y * SCALE), text, fill=fill, font=font, anchor=anchor)

        def position(point: Point) -> Spot:
            return LEFT + width * x_axis.at(point.ready_min), top + height * (1 - y_axis.at(point.usd_h))

        for number, line in enumerate(legend):
            write(LEFT, 24 + 22 * number, line, "lm")
        for tick in x_axis.ticks():
            x = LEFT + width * x_axis.at(tick)
            draw.line(scaled(x, top, x, top + height), fill=GRID, width=SCALE)
            write(x, top + height + 16, f"{tick:g}", "mm")
        for tick in y_axis.ticks():
            y = top + height * (1 - y_axis.at(tick))
            draw.line(scaled(LEFT, y, LEFT + width, y), fill=GRID, width=SCALE)
            write(LEFT - 10, y, f"{tick:g}", "rm")
        write(LEFT + width / 2, HEIGHT - 18, "minutes to ready", "mm")
        write(LEFT - 10, top - 14, "$/h", "rm")
        fastest = max(point.speed for point in self.points) or 1.0
        for point in sorted(self.points, key=lambda point: (bool(point.marks), -point.speed)):
            (x, y), radius = position(point), max(MAX_RADIUS * math.sqrt(point.speed / fastest), 3.0)
            color, line_width = (MARK, 3 * SCALE) if point.marks else (DOT[:3], SCALE)
            draw.ellipse(scaled(x - radius, y - radius, x + radius, y + radius), DOT, outline=color, width=line_width)
        spots = tags([position(point) for _, point in self.marked], (LEFT, top, LEFT + width, top + height))
        for (letter, point), (x, y) in zip(self.marked, spots, strict=True):
            draw.line(scaled(*position(point), x, y), fill=MARK, width=SCALE)
            draw.ellipse(scaled(x - TAG, y - TAG, x + TAG, y + TAG), fill=MARK)
            write(x, y, letter, "mm", (255, 255, 255))
        image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path)

    def _bounds(self) -> str:
        speeds = [point.speed for point in self.points if point.speed]
        return f", {min(speeds):.0f} to {max(speeds):.0f}" if speeds and self.measured else ""


def tags(points: Sequence[Spot], box: tuple[float, float, float, float]) -> list[Spot]:
    """Return a position for each point's letter: near the point, in the box, not on another letter or marked point."""
    spots: list[Spot] = []
    for x, y in points:
        candidates = [
            (x + distance * math.cos(angle), y + distance * math.sin(angle))
            for distance in range(24, 200, 20)
            for angle in (math.pi * number / 8 for number in (14, 10, 2, 6, 0, 8, 12, 4, 15, 13, 11, 9, 1, 3, 5, 7))
        ]
        free = (
            spot
            for spot in candidates
            if all(math.dist(spot, other) > 2 * TAG for other in (*spots, *points))
            and box[0] + TAG <= spot[0] <= box[2] - TAG
            and box[1] + TAG <= spot[1] <= box[3] - TAG
        )
        spots.append(next(free, (x, y)))  # if nothing is free: the point itself
    return spots
