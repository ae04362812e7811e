"""`python -m ops.metrics FOLDER --stack NAME`: Prometheus' files for a stack, from its outputs, in a folder.

Writes prometheus.yml, targets.json, prices.yml, the keys (api_key, gateway_api_key; mode 0600) and the CAs (ca.pem,
gateway_ca.pem). Run it again after each `pulumi up`: Prometheus reads targets anew by itself, and the rest on SIGHUP.
Outputs that are read: url, api_key, ca_certificate, gpu, machine_id, hourly_cost_usd, or `replicas` (a list of records
with name, url, gpu, machine_id, hourly_cost_usd), and where there is a gateway gateway_url, gateway_api_key,
gateway_ca_certificate. `dashboards/reranker.json` is for Grafana, with that Prometheus as its data source.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from components.monitoring.prometheus import Access, Replica, price_rules, scrape_config, targets


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files. Exit codes: 0 done, 1 the stack has no such outputs."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write; Prometheus must find the same path")
    parser.add_argument("--stack", default="local", help="Pulumi stack whose outputs to read (default: local)")
    args = parser.parse_args(argv)
    try:
        write(args.folder.absolute(), args.stack, outputs_of(args.stack))
    except (LookupError, ValueError, TypeError) as error:
        print(
            f"stack {args.stack!r} has no running reranker in its outputs ({type(error).__name__} {error})",
            file=sys.stderr,
        )
        return 1
    print(f"written to {args.folder}: prometheus --config.file={args.folder / 'prometheus.yml'}")
    return 0


def write(folder: Path, stack: str, outputs: Mapping[str, Any]) -> None:
    """Write all files for these outputs. Raises LookupError and ValueError for outputs that lack what is needed."""
    replicas = replicas_of(outputs)
    folder.mkdir(parents=True, exist_ok=True)
    access = _access(folder, "", outputs["api_key"], outputs.get("ca_certificate"))
    gateway = gateway_address = None
    if outputs.get("gateway_url"):
        gateway = _access(folder, "gateway_", outputs["gateway_api_key"], outputs.get("gateway_ca_certificate"))
        gateway_address = urlsplit(outputs["gateway_url"]).netloc
    files = {
        "prometheus.yml": scrape_config(
            stack,
            targets_file=str(folder / "targets.json"),
            rules_file=str(folder / "prices.yml"),
            replicas=access,
            gateway=gateway,
        ),
        "prices.yml": price_rules(stack, replicas),
        "targets.json": targets(replicas, gateway_address or ""),
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False)
        _replace(folder / name, text + "\n", 0o644)


def replicas_of(outputs: Mapping[str, Any]) -> list[Replica]:
    """Read the replicas from a stack's outputs, of a fleet or of a single server."""
    records = outputs.get("replicas") or [{"name": "reranker", **outputs}]
    return [
        Replica(
            name=str(one["name"]),
            address=urlsplit(one["url"]).netloc,
            hourly_cost_usd=_total(one["hourly_cost_usd"]),
            gpu=str(one.get("gpu") or ""),
            machine_id=int(one.get("machine_id") or 0),
        )
        for one in records
    ]


def outputs_of(stack: str) -> dict[str, Any]:
    """Ask Pulumi for a stack's outputs. Exits with one line where it cannot say."""
    command = ["pulumi", "stack", "output", "--json", "--show-secrets", "--stack", stack]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("pulumi is not on PATH: run `. scripts/env.sh` first")
    if done.returncode != 0:
        sys.exit(f"cannot read stack {stack!r}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout))


def _total(price: Any) -> float:
    return float(price["total"] if isinstance(price, Mapping) else price)


def _access(folder: Path, prefix: str, key: str, ca: str | None) -> Access:
    _replace(folder / f"{prefix}api_key", str(key), 0o600)
    if ca:
        _replace(folder / f"{prefix}ca.pem", ca, 0o644)
    return Access(str(folder / f"{prefix}api_key"), str(folder / f"{prefix}ca.pem") if ca else "")


def _replace(path: Path, text: str, mode: int) -> None:
    """Write a file whole: Prometheus may read it at any moment."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
