"""The plot of `python -m bench scale`: a load, and the replicas of `ops scale`. Called by `bench.__main__`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 900, 360, 60, 50, 50, 20
LOAD, REPLICAS = "#8a8f98", "#d9480f"
MAX_POINTS = 450


def svg(rates: Sequence[float], replicas: Sequence[int], pairs_per_s: float, step_s: float) -> str:
    """Return an SVG of a load, in multiples of a replica's rate, and of the replicas; the x axis is in hours."""
    load = [rate / pairs_per_s for rate in rates]
    top, hours = int(max(*load, *replicas)) + 1, len(load) * step_s / 3600
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def point(index: float, value: float) -> str:
        return f"{LEFT + width * index / len(load):.1f},{TOP + height * (1 - value / top):.1f}"

    stride = max(len(load) // MAX_POINTS, 1)
    curve = " ".join(point(index, max(load[index : index + stride])) for index in range(0, len(load), stride))
    steps = [point(0, replicas[0])]
    for index, (before, after) in enumerate(pairwise(replicas), start=1):
        steps += [point(index, before), point(index, after)] if after != before else []
    steps.append(point(len(replicas), replicas[-1]))
    grid = [
        f'<path d="M{LEFT} {y} H{WIDTH - RIGHT}" stroke="#e3e5e8"/>'
        f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value}</text>'
        for value in range(0, top + 1, max(top // 8, 1))
        for y in [round(TOP + height * (1 - value / top), 1)]
    ]
    ticks = [
        f'<text x="{LEFT + width * tick / 8:.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{hours * tick / 8:.3g}</text>"
        for tick in range(9)
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#30343a">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *grid, *ticks,
        f'<polyline points="{curve}" fill="none" stroke="{LOAD}"/>',
        f'<polyline points="{" ".join(steps)}" fill="none" stroke="{REPLICAS}" stroke-width="2"/>',
        f'<text x="{LEFT}" y="24" fill="{LOAD}">load, in replicas of {pairs_per_s:g} pairs/s</text>',
        f'<text x="{LEFT + 240}" y="24" fill="{REPLICAS}">replicas of ops scale</text>',
        f'<text x="{LEFT + width / 2}" y="{HEIGHT - 10}" text-anchor="middle">hours</text>',
        "</svg>\n",
    ])  # fmt: skip
