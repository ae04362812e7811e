"""`python -m bench` (or `make bench`): commands that measure this project."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from bench import attack, failover, guard, hot_path, local_vllm, provision, proxy, scale, scale_plot, serving
from bench.load import BenchTarget
from bench.serving import Workload
from components import measurements
from components.errors import ServingError
from components.vllm.client import RerankClient
from harness.stack import REPO

FILE = click.Path(dir_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
RESULTS = Path("bench/results")
Targets = AbstractContextManager[Sequence[BenchTarget]]


@click.group(invoke_without_command=True, context_settings={"show_default": True, "max_content_width": 120})
@click.pass_context
def main(ctx: click.Context) -> None:
    """Measure this project on this machine. Without a command: hot-path and failover."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(failover_command)
        ctx.invoke(hot_path_command)


@main.command("hot-path")
@click.option("--rounds", type=AT_LEAST_1, default=5, help="number of rounds; every command runs once in each")
@click.option("--boot-s", type=float, default=20.0, help="boot time that the emulator simulates, in seconds")
@click.option("--venv", type=click.Path(path_type=Path), default=REPO / ".venv", help="virtual environment to use")
@click.option("--checkout", "checkouts", type=click.Path(path_type=Path), multiple=True, help="another checkout")
def hot_path_command(rounds: int, boot_s: float, venv: Path, checkouts: tuple[Path, ...]) -> None:
    """Compare a preview and an `up` with programs that do nothing; exit code 1 if one is over its budget."""
    repos = {"this checkout": REPO} | {path.name: path.resolve() for path in checkouts}
    with tempfile.TemporaryDirectory(prefix="vast-reranker-bench-") as folder:
        timings, calls = hot_path.measure(Path(folder), repos, venv=venv.resolve(), rounds=rounds, boot_s=boot_s)
    click.echo(f"{hot_path.table(timings)}\n\nAPI calls of an `up`, without polls: {calls}")
    if problems := hot_path.over_budget(timings, calls, boot_s=boot_s):
        raise click.ClickException("; ".join(problems))


@main.command("failover")
def failover_command() -> None:
    """Measure the time from a failure on a bad host to the next rental."""
    click.echo(f"Polled every {failover.POLL_S:g} s:\n\n{failover.table(failover.measure())}\n")


@main.command("provision")
@click.option("--replicas", type=AT_LEAST_1, multiple=True, default=(1, 4, 16, 64), help="fleet sizes")
@click.option("--boot-s", type=float, default=20.0, help="boot time of every instance, in seconds")
@click.option("--plain", is_flag=True, help="skip the variants (published pacing, four threads)")
@click.option("--json", "target", type=FILE, default=RESULTS / "provision.json", help="output file")
def provision_command(replicas: tuple[int, ...], boot_s: float, plain: bool, target: Path) -> None:
    """Deploy, preview and destroy fleets of 1 to 64 replicas on the emulator."""
    fleets, failure = provision.measure(replicas, boot_s=boot_s, variants=not plain)
    if fleets:
        click.echo(f"\n{provision.table(fleets)}")
        write_json(target, fleets, boot_s=boot_s)
    if failure:
        raise click.ClickException(failure)


@main.command("serving")
@click.option("--url", help="endpoint to measure, as in `pulumi stack output url`; default: vLLM on this CPU")
@click.option("--ca", type=FILE, help="file with the CA certificate, `pulumi stack output ca_certificate`")
@click.option("--key-env", default="RERANKER_API_KEY", help="environment variable with the key")
@click.option("--model", help="model of the requests; default: the first one that the endpoint serves")
@click.option("--dph", type=float, help="price of the endpoint, in dollars per hour")
@click.option("--pairs", type=AT_LEAST_1, multiple=True, default=Workload.pairs, help="documents per request")
@click.option("--words", type=AT_LEAST_1, default=Workload.words, help="words per document")
@click.option("--in-flight", "users", type=AT_LEAST_1, multiple=True, default=Workload.users, help="parallel requests")
@click.option("--rounds", type=AT_LEAST_1, default=Workload.rounds, help="number of rounds; the median counts")
@click.option("--seconds", type=float, default=Workload.seconds, help="minimum time of each measurement")
@click.option("--api-servers", type=AT_LEAST_1, multiple=True, help="instead: vLLM on this CPU with N API servers")
@click.option("--json", "target", type=FILE, default=RESULTS / "serving.json", help="output file")
@click.option("--record", "gpu", metavar="GPU", help=f"write the best pairs/s for this GPU to {measurements.FILE}")
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
    **workload: Any,
) -> None:
    """Measure pairs per second and dollars per million pairs of an endpoint, or the cost of guard, TLS and gateway."""
    if gpu and not url:
        raise click.UsageError("--record needs --url")
    try:
        if url:
            endpoint = resolve_endpoint(url, key_env, ca, model, dph)
            targets: Targets = nullcontext([endpoint])
        elif api_servers:
            targets = local_vllm.running([local_vllm.api_server_variant(count) for count in api_servers])
        else:
            targets = local_vllm.running_with_gateway()
        figures = measure_serving(targets, Workload(**workload), target)
    except (RuntimeError, ServingError) as error:
        raise click.ClickException(str(error)) from None
    if failed := sum(figure.failed for figure in figures):
        raise click.ClickException(f"{failed} requests failed; the figures count only answered requests")
    if gpu:
        rate = max(figure.pairs_per_s for figure in figures)
        measurements.record_rate(gpu, endpoint.model, rate)
        click.echo(f"{measurements.FILE}: {gpu}, {endpoint.model}: {rate:.1f} pairs/s")


@main.command("guard")
@click.option("--rounds", type=AT_LEAST_1, default=10, help="number of rounds; every target once in each")
@click.option("--seconds", type=float, default=2.0, help="minimum time of each measurement")
@click.option("--json", "target", type=FILE, default=RESULTS / "guard.json", help="output file")
def guard_command(rounds: int, seconds: float, target: Path) -> None:
    """Measure the cost of guard and TLS: a server of 5 ms per request, 32 documents, 1, 8 and 32 in flight."""
    measure_serving(guard.running(), Workload(pairs=(32,), users=(1, 8, 32), rounds=rounds, seconds=seconds), target)


@main.command("proxy")
@click.option("--rounds", type=AT_LEAST_1, default=10, help="number of rounds; every target once in each")
@click.option("--seconds", type=float, default=2.0, help="minimum time of each measurement")
@click.option("--json", "target", type=FILE, default=RESULTS / "proxy.json", help="output file")
def proxy_command(rounds: int, seconds: float, target: Path) -> None:
    """Measure the cost of `rerank proxy`: a TLS server of 5 ms per request, 32 documents, 1 and 32 in flight."""
    measure_serving(proxy.running(), Workload(pairs=(32,), users=(1, 32), rounds=rounds, seconds=seconds), target)


@main.command("attack")
@click.argument("served", type=click.Choice(get_args(attack.Served)))
@click.option("--attack", "attacks", type=click.Choice([*attack.ATTACKS]), multiple=True, default=[*attack.ATTACKS])
@click.option("--rounds", type=AT_LEAST_1, default=3, help="number of rounds; every target once in each")
@click.option("--seconds", type=float, default=30.0, help="time of each attack, and of the quiet period before it")
@click.option("--json", "target", type=FILE, default=RESULTS / "attack.json", help="output file")
def attack_command(served: attack.Served, attacks: tuple[str, ...], rounds: int, seconds: float, target: Path) -> None:
    """Attack vLLM, the guard alone, or a gateway without a key, also without this project's limits; measure another
    client."""
    try:
        with attack.running(served) as targets:
            figures = attack.measure(targets, attacks, rounds, seconds)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    write_json(target, figures, rounds=rounds, seconds=seconds)
    click.echo(attack.table(figures))


@main.command("scale")
@click.option("--csv", "file", type=FILE, help="load to simulate: lines of time_s,pairs_per_s; default: a seeded day")
@click.option("--seed", type=int, default=1, help="seed of the day and of the random events")
@click.option("--pairs-per-s", type=click.FloatRange(0, min_open=True), default=scale.SimulationSettings.pairs_per_s,
              help="rate of one replica")  # fmt: skip
@click.option("--most", "max_replicas", type=AT_LEAST_1, default=9, help="size of the largest fleet")
@click.option("--choose", is_flag=True, help="also compare other load targets with the default, on seven seeded days")
@click.option("--plot", type=FILE, default=RESULTS / "scale.svg", help="output file of the plot")
@click.option("--json", "target", type=FILE, default=RESULTS / "scale.json", help="output file")
def scale_command(
    *, file: Path | None, seed: int, pairs_per_s: float, max_replicas: int, choose: bool, plot: Path, target: Path
) -> None:
    """Simulate a day with fixed fleets of 1 to --most replicas and with `ops scale`: cost, wait, refused, boots."""
    settings, curve = scale.SimulationSettings(pairs_per_s=pairs_per_s, seed=seed), scale.Curve(seed=seed)
    try:
        rates = scale.read_csv(file) if file else curve.rates()
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{settings}\n{file or curve}\n{scale.DEFAULT}\n")
    results = scale.compare(settings, rates, max_replicas)
    click.echo(f"{scale.table(results)}\n\n{scale.verdict(results)}")
    write_json(target, results, world=asdict(settings), load=str(file) if file else asdict(curve))
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(scale_plot.svg(rates, results[-1].replicas, settings.pairs_per_s, scale.STEP_S))
    click.echo(f"plot: {plot}")
    if choose:
        days = [scale.Curve(seed=number).rates() for number in range(1, 8)]
        click.echo(f"\n{scale.target_table(scale.try_targets(settings, days, max_replicas))}")


def resolve_endpoint(url: str, key_env: str, ca: Path | None, model: str | None, dph: float | None) -> BenchTarget:
    """Return the endpoint of the command line; without a model, its first. Raises ServingError, ClickException."""
    key = os.environ.get(key_env)
    if key is None:
        raise click.ClickException(f"{key_env} is not in the environment: export the key, or name it with --key-env")
    model = model or RerankClient(url, key, ca=str(ca or "")).models()[0].id
    return BenchTarget("endpoint", url.rstrip("/"), model, key, str(ca or ""), dph)


def measure_serving(running: Targets, load: Workload, file: Path) -> list[serving.ServingFigure]:
    """Measure targets; write the figures to a file and print them."""
    with running as targets:
        figures = serving.measure(targets, load)
    write_json(file, figures, load=asdict(load))
    click.echo(serving.table(figures))
    return figures


def write_json(path: Path, figures: Sequence[Any], **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**settings, "figures": [asdict(figure) for figure in figures]}, indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m bench")
