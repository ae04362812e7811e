"""The plot of `ops cost`: dollars per day of a month, stacked by use, as SVG. Called by `ops.cost`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from components.vast.bill import USES, Use

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 900, 380, 64, 72, 46, 20
COLOURS: dict[Use, str] = {
    "serving": "#3a6ea5", "boot": "#8cb8de", "boot failed": "#c9480f", "hedge": "#e8a33d", "drain": "#8a8f98",
}  # fmt: skip
LINES = 8  # at most so many grid lines


def svg(title: str, names: Sequence[str], days: Mapping[str, Mapping[Use, float]]) -> str:
    """Return the SVG. `names`: every day of the month, YYYY-MM-DD; `days`: dollars of the days that have costs."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    highest = max((sum(uses.values()) for uses in days.values()), default=0.0)
    step = tick(highest)
    count = max(math.ceil(highest / step - 1e-9), 1)
    digits = max(0, -math.floor(math.log10(step)))
    parts = []
    for number in range(count + 1):
        y = TOP + height * (1 - number / count)
        parts.append(f'<path d="M{LEFT} {y:.1f} H{WIDTH - RIGHT}" stroke="#e3e5e8"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">${number * step:.{digits}f}</text>')
    slot = width / len(names)
    for index, name in enumerate(names):
        x, y = LEFT + slot * index, float(TOP + height)
        for use in USES:
            bar = height * days.get(name, {}).get(use, 0.0) / (step * count)
            y -= bar
            if bar > 0:
                box = f'x="{x + slot * 0.12:.1f}" y="{y:.1f}" width="{slot * 0.76:.1f}" height="{bar:.2f}"'
                parts.append(f'<rect {box} fill="{COLOURS[use]}"/>')
        middle = f'x="{x + slot / 2:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        parts.append(f"<text {middle}>{int(name[-2:])}</text>")
    for index, use in enumerate(USES):
        x = LEFT + 130 * index
        parts.append(f'<rect x="{x}" y="42" width="12" height="12" fill="{COLOURS[use]}"/>')
        parts.append(f'<text x="{x + 18}" y="52">{use}</text>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#30343a">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="26" font-size="15">{title}</text>',
        *parts,
        f'<text x="{LEFT + width / 2}" y="{HEIGHT - 8}" text-anchor="middle">day of {names[0][:7]}, UTC</text>',
        "</svg>\n",
    ])  # fmt: skip


def tick(highest: float) -> float:
    """Return the distance between grid lines: 1, 2 or 5 times a power of ten."""
    rough = max(highest, 1e-4) / LINES
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
