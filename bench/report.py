"""What the benches share: their table, the file that figures are kept in, their picture, numbers on a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

Points = Sequence[tuple[float, float]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def keep(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")


class Counts(click.ParamType[tuple[int, ...]]):
    """Whole numbers above zero, by commas: each once, in order."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = sorted({int(text) for text in value.split(",")})
        except ValueError:
            found = [0]
        if found[0] < 1:
            self.fail(f"{value!r} is not whole numbers above zero, by commas", param, ctx)
        return tuple(found)


@dataclass(frozen=True)
class Panel:
    """One plot: lines by name, each a list of x and y, over counts that double; bounds are dashed, at a height."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    bounds: Mapping[str, float] = field(default_factory=dict)
    log_y: bool = False


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write the panels side by side as PNG. Raises OSError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who wants a plot pays for matplotlib
    from matplotlib.ticker import NullLocator  # noqa: PLC0415

    drawn = Figure(figsize=(5 * len(panels), 4.5), layout="constrained")
    for axis, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        ticks = sorted({x for line in panel.lines.values() for x, _ in line})
        for name, line in panel.lines.items():
            axis.plot([x for x, _ in line], [y for _, y in line], marker="o", label=name)
        for name, height in panel.bounds.items():
            axis.axhline(height, linestyle="--", color="grey", label=name)
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{one:g}" for one in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        if panel.log_y:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
        if panel.lines:
            axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, format="png", dpi=120)
