"""`python -m bench` (or `make bench`): previews and `up` against their budgets, and how fast a bad host is given up."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench import attack, failover, guard, hot_path, local_vllm, provision, proxy, scale, scale_plot, serving
from bench.load import BenchTarget
from components import measurements
from components.errors import ServingError
from components.vllm.client import RerankClient
from harness.stack import REPO

FILE = click.Path(dir_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
RESULTS = Path("bench/results")


@click.group(invoke_without_command=True, context_settings={"show_default": True, "max_content_width": 120})
@click.pass_context
def main(ctx: click.Context) -> None:
    """Measure this project on this machine; without a command: hot-path and failover."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(failover_command)
        ctx.invoke(hot_path_command)


@main.command("hot-path")
@click.option("--rounds", type=AT_LEAST_1, default=5, help="each command once a round, in turns")
@click.option("--boot-s", type=float, default=20.0, help="boot that the emulator simulates")
@click.option("--venv", type=click.Path(path_type=Path), default=REPO / ".venv", help="the venv to run in")
@click.option("--checkout", type=click.Path(path_type=Path), multiple=True, help="another checkout to measure as well")
def hot_path_command(rounds: int, boot_s: float, venv: Path, checkout: tuple[Path, ...]) -> None:
    """A preview and an `up` beside programs that do nothing; exit code 1 when one is over its budget."""
    checkouts = {"this checkout": REPO} | {one.name: one.resolve() for one in checkout}
    with tempfile.TemporaryDirectory(prefix="vast-reranker-bench-") as folder:
        timings, calls = hot_path.measure(Path(folder), checkouts, venv=venv.resolve(), rounds=rounds, boot_s=boot_s)
    click.echo(f"{hot_path.table(timings)}\n\nAPI calls of an `up`, polls aside: {calls}")
    if over := hot_path.over_budget(timings, calls, boot_s=boot_s):
        raise click.ClickException("; ".join(over))


@main.command("failover")
def failover_command() -> None:
    """From the sign of a bad host to the next rent."""
    click.echo(f"Polled every {failover.POLL_S:g} s:\n\n{failover.table(failover.measure())}\n")


@main.command("provision")
@click.option("--replicas", type=AT_LEAST_1, multiple=True, default=(1, 4, 16, 64), help="fleets")
@click.option("--boot-s", type=float, default=20.0, help="seconds that every boot takes")
@click.option("--plain", is_flag=True, help="without the variants (published pacing, four threads)")
@click.option("--json", "target", type=FILE, default=RESULTS / "provision.json", help="where the figures go")
def provision_command(replicas: tuple[int, ...], boot_s: float, plain: bool, target: Path) -> None:
    """Fleets of 1 to 64 replicas on the emulator: up, looked at, down."""
    fleets, failure = provision.measure(replicas, boot_s=boot_s, variants=not plain)
    if fleets:
        click.echo(f"\n{provision.table(fleets)}")
        keep(target, fleets, boot_s=boot_s)
    if failure:
        raise click.ClickException(failure)


@main.command("serving")
@click.option("--url", help="endpoint to measure, as in `pulumi stack output url`; without: vLLM on this CPU")
@click.option("--ca", type=FILE, help="file with the CA certificate, `pulumi stack output ca_certificate`")
@click.option("--key-env", default="RERANKER_API_KEY", help="variable that holds the key")
@click.option("--model", help="model to ask for; without: the one that is served")
@click.option("--dph", type=float, help="what the endpoint costs per hour, in dollars")
@click.option("--pairs", type=AT_LEAST_1, multiple=True, default=serving.Workload.pairs, help="documents in a request")
@click.option("--words", type=AT_LEAST_1, default=serving.Workload.words, help="words in a document")
@click.option("--in-flight", "users", type=AT_LEAST_1, multiple=True, default=serving.Workload.users, help="at once")
@click.option("--rounds", type=AT_LEAST_1, default=serving.Workload.rounds, help="rounds, of which the median counts")
@click.option("--seconds", type=float, default=serving.Workload.seconds, help="of each measurement at least")
@click.option("--api-servers", type=AT_LEAST_1, multiple=True, help="vLLM on this CPU with so many API servers instead")
@click.option("--json", "target", type=FILE, default=RESULTS / "serving.json", help="where the figures go")
@click.option("--record", "gpu", metavar="GPU", help=f"keep the best pairs/s as this GPU's, in {measurements.FILE}")
def serving_command(
    *,
    url: str | None,
    ca: Path | None,
    key_env: str,
    model: str | None,
    dph: float | None,
    api_servers: tuple[int, ...],
    target: Path,
    gpu: str | None,
    **load: Any,
) -> None:
    """Pairs per second and dollars per million pairs of an endpoint, or what guard, TLS and gateway cost."""
    if gpu and not url:
        raise click.UsageError("--record is of a GPU, at --url")
    loaded = serving.Workload(**load)
    try:
        if url:
            measured = endpoint(url, key_env, ca, model, dph)
            found = serving.measure([measured], loaded)
        else:
            counts = [local_vllm.with_api_servers(count) for count in api_servers]
            with local_vllm.running(counts) if counts else local_vllm.compared() as targets:
                found = serving.measure(targets, loaded)
    except (RuntimeError, ServingError) as error:
        raise click.ClickException(str(error)) from None
    keep(target, found, load=asdict(loaded))
    click.echo(serving.table(found))
    if failed := sum(figure.failed for figure in found):
        raise click.ClickException(f"{failed} requests failed; the figures count what was answered")
    if gpu:
        rate = max(figure.pairs_per_s for figure in found)
        measurements.record_rate(gpu, measured.model, rate)
        click.echo(f"{measurements.FILE}: {gpu}, {measured.model}: {rate:.1f} pairs/s")


@main.command("guard")
@click.option("--rounds", type=AT_LEAST_1, default=10, help="each of the three once a round, in turns")
@click.option("--seconds", type=float, default=2.0, help="of each measurement at least")
@click.option("--json", "target", type=FILE, default=RESULTS / "guard.json", help="where the figures go")
def guard_command(rounds: int, seconds: float, target: Path) -> None:
    """What the guard and TLS cost before a server of 5 ms a request, with 32 documents, at 1, 8 and 32 in flight."""
    load = serving.Workload(pairs=(32,), users=(1, 8, 32), rounds=rounds, seconds=seconds)
    with guard.running() as targets:
        found = serving.measure(targets, load)
    keep(target, found, load=asdict(load))
    click.echo(serving.table(found))


@main.command("attack")
@click.argument("served", type=click.Choice(["vllm", "gateway"]))
@click.option("--attack", "attacks", type=click.Choice([*attack.ATTACKS]), multiple=True, default=[*attack.ATTACKS])
@click.option("--seconds", type=float, default=30.0, help="of each attack, and of the quiet before it")
@click.option("--json", "target", type=FILE, default=RESULTS / "attack.json", help="where the figures go")
def attack_command(served: attack.Served, attacks: tuple[str, ...], seconds: float, target: Path) -> None:
    """Attack vLLM or a gateway without a key, with this project's bounds and without; what another client meets."""
    try:
        with attack.running(served) as targets:
            found = attack.measure(targets, attacks, seconds)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    keep(target, found, seconds=seconds)
    click.echo(attack.table(found))


@main.command("scale")
@click.option("--csv", "file", type=FILE, help="a load of yours: lines of time_s,pairs_per_s; without: a seeded day")
@click.option("--seed", type=int, default=1, help="of the day and of the chances")
@click.option("--pairs-per-s", type=click.FloatRange(0, min_open=True), default=scale.World.pairs_per_s,
              help="what one replica answers")  # fmt: skip
@click.option("--most", type=AT_LEAST_1, default=9, help="the largest fleet")
@click.option("--choose", is_flag=True, help="also try other targets than the default on seven seeded days")
@click.option("--plot", type=FILE, default=RESULTS / "scale.svg", help="where the picture goes")
@click.option("--json", "target", type=FILE, default=RESULTS / "scale.json", help="where the figures go")
def scale_command(
    *, file: Path | None, seed: int, pairs_per_s: float, most: int, choose: bool, plot: Path, target: Path
) -> None:
    """A simulated day: fixed fleets of 1 to --most replicas against `ops scale`; cost, wait, refused, boots."""
    world, curve = scale.World(pairs_per_s=pairs_per_s, seed=seed), scale.Curve(seed=seed)
    try:
        rates = scale.read_csv(file) if file else curve.rates()
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{world}\n{file or curve}\n{scale.DEFAULT}\n")
    found = scale.compare(world, rates, most)
    click.echo(f"{scale.table(found)}\n\n{scale.verdict(found)}")
    keep(target, found, world=asdict(world), load=str(file) if file else asdict(curve))
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(scale_plot.svg(rates, found[-1].replicas, world.pairs_per_s, scale.STEP_S))
    click.echo(f"picture: {plot}")
    if choose:
        days = [scale.Curve(seed=number).rates() for number in range(1, 8)]
        click.echo(f"\n{scale.choice_table(scale.choose(world, days, most))}")


@main.command("proxy")
@click.option("--rounds", type=AT_LEAST_1, default=10, help="each of the two once a round, in turns")
@click.option("--seconds", type=float, default=2.0, help="of each measurement at least")
@click.option("--json", "target", type=FILE, default=RESULTS / "proxy.json", help="where the figures go")
def proxy_command(rounds: int, seconds: float, target: Path) -> None:
    """What `rerank proxy` adds to TLS before a server of 5 ms a request, with 32 documents, at 1 and 32 in flight."""
    load = serving.Workload(pairs=(32,), users=(1, 32), rounds=rounds, seconds=seconds)
    with proxy.running() as targets:
        found = serving.measure(targets, load)
    keep(target, found, load=asdict(load))
    click.echo(serving.table(found))


def endpoint(url: str, key_env: str, ca: Path | None, model: str | None, dph: float | None) -> BenchTarget:
    """Return the endpoint that the command line names; asks it what it serves. Raises ServingError, ClickException."""
    key = os.environ.get(key_env)
    if key is None:
        raise click.ClickException(f"{key_env} is not in the environment: export the key, or name it with --key-env")
    served = model or RerankClient(url, key, ca=str(ca or "")).models()[0].id
    return BenchTarget("endpoint", url.rstrip("/"), served, key, str(ca or ""), dph)


def keep(path: Path, figures: Sequence[Any], **settings: Any) -> None:
    """Write what was measured, and how, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**settings, "figures": [asdict(one) for one in figures]}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(prog_name="python -m bench"))
