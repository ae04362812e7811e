"""`python -m bench serving`: pairs per second and dollars per million pairs of an endpoint, or what the guard costs.

With --url it measures that endpoint. Without, it starts real vLLM on this machine's CPU three times (plain, with the
guard, with guard and TLS; the last also behind a gateway) and compares them. Each target gets each batch size (--pairs)
at each number of requests in flight. Targets take turns within each round, and what is compared is compared within a
round, so that what else the machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.records import REPO, WIDTHS, Cell, Figure, Load, Target
from components.errors import ServingError
from components.vllm.client import RerankClient

RESULTS = Path("bench/results/serving.json")
BATCHES = (8, 32, 128)
PROGRESS = "progress "


def measure(targets: Sequence[Target], load: Load) -> list[Figure]:
    """Load the targets; return a figure for each, batch size and width. Progress to stderr. Raises RuntimeError."""
    sys.stderr.write(f"{load.describe(len(targets))}\n")
    plan = asdict(load) | {"targets": [asdict(target) for target in targets]}
    with tempfile.TemporaryFile("w+") as cells:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.load"],
            cwd=REPO, stdin=subprocess.PIPE, stdout=cells, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stderr is not None
        with child:
            child.stdin.write(json.dumps(plan))
            child.stdin.close()
            said = []
            for line in child.stderr:
                if line.startswith(PROGRESS):
                    sys.stderr.write(line.removeprefix(PROGRESS))
                else:
                    said.append(line)
        if child.returncode != 0:
            raise RuntimeError(f"the load generator ended with {child.returncode}:\n{''.join(said[-15:])}")
        cells.seek(0)
        read = [Cell(**raw) for raw in json.load(cells)]
    if silent := next((cell for cell in read if not cell.ms and not cell.failures), None):
        what = f"{silent.target} answered nothing within {silent.took_s:.0f} s"
        asked = f"requests of {silent.pairs} pairs, {silent.users} in flight"
        raise RuntimeError(f"{what} ({asked}): try fewer of either\n{''.join(said[-15:])}")
    return figures(read, targets, load)


def figures(cells: Sequence[Cell], targets: Sequence[Target], load: Load) -> list[Figure]:
    """Return what the cells of all rounds say: by batch size, then width, then target."""
    found = []
    for pairs, users in itertools.product(load.pairs, load.users):
        alike = [cell for cell in cells if (cell.pairs, cell.users) == (pairs, users)]
        first = {cell.round: cell.rate for cell in alike if cell.target == targets[0].name}
        for target in targets:
            own = [cell for cell in alike if cell.target == target.name]
            ratios = [cell.rate / first[cell.round] for cell in own if first[cell.round]] or [0.0]
            ms = sorted(one for cell in own for one in cell.ms)
            rate = statistics.median(cell.rate for cell in own)
            figure = Figure(
                target=target.name,
                pairs=pairs,
                users=users,
                requests=len(ms),
                failed=sum(len(cell.failures) for cell in own),
                requests_per_s=rate,
                pairs_per_s=rate * pairs,
                p50_ms=quantile(ms, 0.50),
                p95_ms=quantile(ms, 0.95),
                p99_ms=quantile(ms, 0.99),
                ratio=statistics.median(ratios),
                ratio_low=min(ratios),
                ratio_high=max(ratios),
                usd_per_million_pairs=usd_per_million(target.dph, rate * pairs),
            )
            found.append(figure)
    return found


def usd_per_million(dph: float | None, pairs_per_s: float) -> float | None:
    """Return the dollars that a million pairs cost at this rate; None without a price or a rate."""
    return dph / 3600 / pairs_per_s * 1e6 if dph is not None and pairs_per_s else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ordered values by nearest rank; nan for none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def table(found: Sequence[Figure]) -> str:
    """Return the figures as Markdown."""
    compared = len({figure.target for figure in found}) > 1
    priced = any(figure.usd_per_million_pairs is not None for figure in found)
    head = ["target", "pairs a request", "in flight", "requests/s", "pairs/s", "p50", "p95", "p99", "failed"]
    head += ["rate by the first target's (rounds)"] * compared + ["$ per million pairs"] * priced
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for one in found:
        row = [one.target, str(one.pairs), str(one.users), f"{one.requests_per_s:.1f}", f"{one.pairs_per_s:.0f}"]
        row += [f"{ms:.0f} ms" for ms in (one.p50_ms, one.p95_ms, one.p99_ms)]
        row.append(f"{one.failed} of {one.requests + one.failed}")
        row += [f"{one.ratio:.3f} ({one.ratio_low:.3f} to {one.ratio_high:.3f})"] * compared
        row += [f"{one.usd_per_million_pairs:.4f}" if one.usd_per_million_pairs is not None else "-"] * priced
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Measure (or read what was kept), print the table, keep the figures as JSON, draw them."""
    args = parsed(argv)
    load = Load(args.pairs, args.words, args.in_flight, args.rounds, args.seconds)
    try:
        if args.source:
            found = kept(args.source)
        elif args.url:
            found = measure([endpoint(args)], load)
        else:
            from bench.local_vllm import running  # noqa: PLC0415 - imports the emulator, which a user's bench need not

            with running() as targets:
                found = measure(targets, load)
    except (RuntimeError, ServingError) as error:
        sys.stderr.write(f"bench serving: {error}\n")
        return 1
    print(table(found))
    if not args.source:
        keep(found, load, args.json)
    if args.plot:
        from bench.plots import draw_serving  # noqa: PLC0415 - only who wants a plot pays for matplotlib

        draw_serving(found, args.plot)
    failed = sum(figure.failed for figure in found)
    if failed:
        sys.stderr.write(f"bench serving: {failed} requests failed; the figures count what was answered\n")
    return 1 if failed else 0


def keep(found: Sequence[Figure], load: Load, path: Path) -> None:
    """Write load and figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"load": asdict(load), "figures": [asdict(one) for one in found]}, indent=2) + "\n")


def kept(path: Path) -> list[Figure]:
    """Return the figures that `keep` wrote. Raises RuntimeError for a file that has none."""
    try:
        found = [Figure(**raw) for raw in json.loads(path.read_text())["figures"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{path} is not what this bench keeps with --json: {error!r}") from None
    if not found:
        raise RuntimeError(f"{path} has no figures: measure first")
    return found


def endpoint(args: argparse.Namespace) -> Target:
    """Return the endpoint that the command line names; asks it what it serves. Raises ServingError, RuntimeError."""
    key = os.environ.get(args.key_env)
    if key is None:
        raise RuntimeError(f"{args.key_env} is not in the environment: export the key there, or name it with --key-env")
    model = args.model or RerankClient(args.url, key, ca=str(args.ca or "")).models()[0].id
    return Target("endpoint", args.url.rstrip("/"), model, key, str(args.ca.resolve()) if args.ca else None, args.dph)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench serving", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="endpoint to measure, as in `pulumi stack output url`; default: vLLM on this CPU")
    source.add_argument(
        "--from", type=Path, metavar="JSON", dest="source", help="show figures that --json kept instead of measuring"
    )
    parser.add_argument("--ca", type=Path, help="file with the CA certificate, `pulumi stack output ca_certificate`")
    parser.add_argument("--key-env", default="RERANKER_API_KEY", metavar="NAME", help="variable that holds the key")
    parser.add_argument("--model", help="model to ask for (default: the one that is served)")
    parser.add_argument("--dph", type=float, help="what the endpoint costs per hour, in dollars")
    parser.add_argument(
        "--pairs", type=positive, nargs="+", default=BATCHES, help="documents in a request (default 8 32 128)"
    )
    parser.add_argument("--words", type=positive, default=30, help="words in a document (default 30)")
    parser.add_argument(
        "--in-flight", type=positive, nargs="+", default=WIDTHS, help="requests at once (default 1 8 32)"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="rounds, of which the median counts (default 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each measurement at least (default 10)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where the figures go (default {RESULTS})")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw them")
    args = parser.parse_args(argv)
    args.pairs, args.in_flight = (tuple(sorted(set(values))) for values in (args.pairs, args.in_flight))
    return args


def positive(text: str) -> int:
    """Read a whole number above zero."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
