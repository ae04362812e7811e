"""`python -m ops metrics FOLDER`: Prometheus' files for a stack, from its outputs. Run it again after each `up`.

Writes prometheus.yml, targets.json and prices.yml; keys and CAs lie beside them in files and are named there. Replicas
are scraped at their own addresses with the stack's own key, which servers take behind a gateway too; the gateway's
/metrics is Caddy's, for a client's key. Prometheus reads targets anew by itself, the rest on SIGHUP.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from components.vast.identity import SERVER_NAME
from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.fleet import servers_key
from ops.outputs import Outputs

Json = Any
REPLICAS, GATEWAY = "reranker", "reranker-gateway"  # jobs, as dashboards/reranker.json asks for them
PRICE = "reranker:hourly_cost_usd"  # a recording rule of our own, by replica


@verb("metrics")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--every-s", type=click.IntRange(min=1), default=15, show_default=True, help="Seconds between scrapes.")
def metrics(pulumi: Pulumi, *, folder: Path, every_s: int) -> Outcome:
    """Write Prometheus' files for a stack into FOLDER, which has to be at the same path for Prometheus."""
    outputs = Outputs.parse(pulumi.outputs())
    if not outputs.replicas:
        raise OpsError(USAGE, f"stack {pulumi.name} has no servers yet", f"python -m ops deploy --stack {pulumi.name}")
    key = servers_key(pulumi.resources(show_secrets=True)) or outputs.api_key
    folder = folder.absolute()
    written = files(pulumi.name, outputs, key, folder, every_s)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        _replace(folder / name, text, 0o600 if name.endswith("_key") else 0o644)
    parts = [f"Start it: `prometheus --config.file={folder / 'prometheus.yml'}`"]
    facts = {"folder": str(folder), "files": sorted(written)}
    return Outcome(OK, f"{len(written)} files written to {report.code(folder)}", parts, facts)


def files(stack: str, outputs: Outputs, key: str, folder: Path, every_s: int) -> dict[str, str]:
    """Return the files' texts by name."""
    jobs, secret = [_job(REPLICAS, stack, folder, "servers_key", outputs)], {"servers_key": key}
    targets, rules = [], []
    for one in outputs.replicas:
        labels = {"replica": str(one.instance_id), "gpu": one.gpu, "machine_id": str(one.machine_id)}
        targets.append(_target(one.url, REPLICAS, **labels))
        priced = {"stack": stack, "replica": str(one.instance_id)}
        rules.append({"record": PRICE, "expr": f"vector({one.hourly_cost_usd:.6f})", "labels": priced})
    if outputs.gateway:
        jobs.append(_job(GATEWAY, stack, folder, "client_key", outputs))
        targets.append(_target(outputs.url, GATEWAY))
        secret["client_key"] = outputs.api_key
    config = {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": [str(folder / "prices.yml")],
        "scrape_configs": jobs,
    }
    return {
        "prometheus.yml": yaml.safe_dump(config, sort_keys=False),
        "prices.yml": yaml.safe_dump({"groups": [{"name": "reranker-prices", "rules": rules}]}, sort_keys=False),
        "targets.json": json.dumps(targets, indent=2) + "\n",
        **secret,
        **({"ca.pem": outputs.ca_certificate} if outputs.ca_certificate else {}),
    }


def _job(name: str, stack: str, folder: Path, key: str, outputs: Outputs) -> Mapping[str, Json]:
    url = outputs.url if name == GATEWAY else outputs.replicas[0].url
    tls = {"ca_file": str(folder / "ca.pem"), **({"server_name": SERVER_NAME} if name == REPLICAS else {})}
    relabel: Sequence[Mapping[str, Json]] = [  # one file holds the targets of both jobs
        {"source_labels": ["job_of"], "regex": name, "action": "keep"},
        {"regex": "job_of", "action": "labeldrop"},
        {"target_label": "stack", "replacement": stack},
    ]
    return {
        "job_name": name,
        "scheme": urlsplit(url).scheme,
        "authorization": {"type": "Bearer", "credentials_file": str(folder / key)},
        **({"tls_config": tls} if outputs.ca_certificate else {}),
        "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "30s"}],
        "relabel_configs": relabel,
    }


def _target(url: str, job: str, **labels: str) -> Mapping[str, Json]:
    return {"targets": [urlsplit(url).netloc], "labels": {"job_of": job, **labels}}


def _replace(path: Path, text: str, mode: int) -> None:
    """Write a file whole: Prometheus may read it at any moment."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)
