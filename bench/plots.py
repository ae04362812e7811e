"""The benches' figures drawn as PNG. Called by `bench.serving` and `bench.provision`, on what they measured or kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bench import records

# how many times as long as for one replica an operation of any fleet may take
BOUNDS = {"up": 1.25, "refresh preview": 2.0}
COLOURS = {"up": "C0", "refresh preview": "C1", "destroy": "C2"}
MARKERS = {"published pacing": "^", "four threads": "s"}


def draw_serving(found: Sequence[records.Figure], path: Path) -> None:
    """Write pairs/s and p99 by requests in flight, and pairs/s by batch size; a line for each target.

    The first two at the middle batch size, the third at the widest in flight. Raises OSError.
    """
    sizes = sorted({one.pairs for one in found})
    middle, widest = sizes[len(sizes) // 2], max(one.users for one in found)
    drawn = Figure(figsize=(15, 4.5), layout="constrained")
    rate, tail, batch = drawn.subplots(1, 3)
    for target in dict.fromkeys(one.target for one in found):
        own = [one for one in found if one.target == target]
        by_users = sorted((one for one in own if one.pairs == middle), key=lambda one: one.users)
        users = [one.users for one in by_users]
        rate.plot(users, [one.pairs_per_s for one in by_users], marker="o", label=target)
        tail.plot(users, [one.p99_ms for one in by_users], marker="o", label=target)
        by_pairs = sorted((one for one in own if one.users == widest), key=lambda one: one.pairs)
        batch.plot([one.pairs for one in by_pairs], [one.pairs_per_s for one in by_pairs], marker="o", label=target)
    widths = sorted({one.users for one in found})
    _label(rate, f"{middle} pairs a request", "requests in flight", "pairs per second", widths)
    _label(tail, f"{middle} pairs a request", "requests in flight", "p99, ms", widths)
    _label(batch, f"{widest} requests in flight", "pairs a request", "pairs per second", sizes)
    for axis in (rate, tail, batch):
        axis.set_ylim(bottom=0)
    _save(drawn, path)


def draw_provision(fleets: Sequence[records.Fleet], boot_s: float, path: Path) -> None:
    """Write seconds of up, refresh preview and destroy by replicas, and their ratio to one replica beside its bounds.

    Lines are fleets without pacing; the variants are points among the seconds. Raises OSError.
    """
    plain = sorted((one for one in fleets if one.variant == records.PLAIN), key=lambda one: one.replicas)
    drawn = Figure(figsize=(12, 5), layout="constrained")
    seconds, ratio = drawn.subplots(1, 2)
    for name, measured in _operations(plain).items():
        counts, took = list(measured), list(measured.values())
        seconds.plot(counts, took, marker="o", color=COLOURS[name], label=name)
        if name in BOUNDS and took:
            ratio.plot(counts, [one / took[0] for one in took], marker="o", color=COLOURS[name], label=name)
            bound = f"bound of {name}, {BOUNDS[name]:g}"
            ratio.axhline(BOUNDS[name], linestyle="--", color=COLOURS[name], label=bound)
    for variant in dict.fromkeys(one.variant for one in fleets if one.variant != records.PLAIN):
        for name, measured in _operations([one for one in fleets if one.variant == variant]).items():
            style = {"marker": MARKERS.get(variant, "x"), "color": COLOURS[name], "label": f"{name}, {variant}"}
            if measured:
                seconds.plot(list(measured), list(measured.values()), linestyle="none", markersize=9, **style)
    counts = sorted({one.replicas for one in fleets})
    _label(seconds, f"every boot {boot_s:g} s", "replicas", "seconds", counts)
    # a paced fleet takes many times what the others do: on a linear axis they would lie on the floor
    seconds.set_yscale("log")
    seconds.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    seconds.yaxis.set_major_formatter("{x:g}")
    seconds.yaxis.set_minor_locator(NullLocator())
    base = plain[0].replicas if plain else 1
    _label(ratio, "pacing off", "replicas", f"times that of {base} replica{'s' * (base != 1)}", counts)
    ratio.set_ylim(bottom=0)
    _save(drawn, path)


def _operations(fleets: Sequence[records.Fleet]) -> dict[str, dict[int, float]]:
    """Return what each operation took: seconds by replicas."""
    return {
        "up": {one.replicas: one.up_s for one in fleets},
        "refresh preview": {one.replicas: one.preview_s for one in fleets if one.preview_s is not None},
        "destroy": {one.replicas: one.destroy_s for one in fleets},
    }


def _label(axis: Axes, title: str, x: str, y: str, ticks: Sequence[int]) -> None:
    """Name an axis of counts that double, with a tick at each that was measured."""
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(one) for one in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(visible=True, alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")


def _save(drawn: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, format="png", dpi=120)
