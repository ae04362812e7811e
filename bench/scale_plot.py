"""The picture of `python -m bench scale`: a load and the replicas that `ops scale` has for it. Called by `bench`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 900, 360, 60, 50, 50, 20
LOAD, REPLICAS = "#8a8f98", "#d9480f"
POINTS = 450  # of a line


def svg(rates: Sequence[float], replicas: Sequence[int], pairs_per_s: float, step_s: float) -> str:
    """Return, over the hours, a load by what one replica answers, and the replicas, as SVG."""
    load = [rate / pairs_per_s for rate in rates]
    top, hours = int(max(*load, *replicas)) + 1, len(load) * step_s / 3600
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(index: float, value: float) -> str:
        return f"{LEFT + wide * index / len(load):.1f},{TOP + high * (1 - value / top):.1f}"

    every = max(len(load) // POINTS, 1)
    curve = " ".join(at(index, max(load[index : index + every])) for index in range(0, len(load), every))
    stairs = [at(0, replicas[0])]
    for index, (before, now) in enumerate(pairwise(replicas), start=1):
        stairs += [at(index, before), at(index, now)] if now != before else []
    stairs.append(at(len(replicas), replicas[-1]))
    grid = [
        f'<path d="M{LEFT} {y} H{WIDTH - RIGHT}" stroke="#e3e5e8"/>'
        f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value}</text>'
        for value in range(0, top + 1, max(top // 8, 1))
        for y in [round(TOP + high * (1 - value / top), 1)]
    ]
    ticks = [
        f'<text x="{LEFT + wide * tick / 8:.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{hours * tick / 8:.3g}</text>"
        for tick in range(9)
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#30343a">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *grid, *ticks,
        f'<polyline points="{curve}" fill="none" stroke="{LOAD}"/>',
        f'<polyline points="{" ".join(stairs)}" fill="none" stroke="{REPLICAS}" stroke-width="2"/>',
        f'<text x="{LEFT}" y="24" fill="{LOAD}">load, in replicas of {pairs_per_s:g} pairs/s</text>',
        f'<text x="{LEFT + 240}" y="24" fill="{REPLICAS}">replicas that serve, by ops scale</text>',
        f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 10}" text-anchor="middle">hours</text>',
        "</svg>\n",
    ])  # fmt: skip
