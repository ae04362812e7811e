"""`python -m ops metrics FOLDER`: Prometheus' files for a stack, from its outputs. Run it again after each `up`.

Writes prometheus.yml, a file of targets for each job, and prices.yml; keys and CAs lie beside them and are named there.
Replicas are scraped at their own addresses, each in a job with its own key, which it takes behind a gateway too; the
gateway at its admin API with that one's key, for its metrics name the servers' addresses. Prometheus reads targets and
keys anew by itself, the rest on SIGHUP.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click
import yaml

from components.vast.json_values import Json
from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.fleet import GATEWAY as GATEWAY_TYPE
from ops.fleet import kind, own_keys, secret_output
from ops.outputs import StackOutputs

REPLICAS, GATEWAY = "reranker", "reranker-gateway"  # the label `job`, as dashboards/reranker.json asks for it
PRICE = "reranker:hourly_cost_usd"  # a recording rule of our own, by replica


@dataclass(frozen=True)
class Admin:
    """The admin API of a gateway's Caddy: its address, its key if it has one, whether the stack's CA signed for it."""

    url: str
    key: str = field(default="", repr=False)
    own_ca: bool = False

    @classmethod
    def parse(cls, resources: Sequence[Mapping[str, Json]]) -> Admin | None:
        """Read it from a state with secrets in clear; None where Prometheus cannot ask: no gateway, or a socket."""
        found = next((one for one in resources if kind(one) == GATEWAY_TYPE), None)
        if found is None or not (url := secret_output(found, "admin_url")).startswith("http"):
            return None
        return cls(url.rstrip("/"), secret_output(found, "admin_key"), bool(secret_output(found, "admin_ca")))


@verb("metrics")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--every-s", type=click.IntRange(min=1), default=15, show_default=True, help="Seconds between scrapes.")
def metrics(pulumi: Pulumi, *, folder: Path, every_s: int) -> Outcome:
    """Write Prometheus' files for a stack into FOLDER, which has to be at the same path for Prometheus."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        raise OpsError(USAGE, f"stack {pulumi.name} has no servers yet", f"python -m ops deploy --stack {pulumi.name}")
    resources = pulumi.resources(show_secrets=True)
    keys, admin = own_keys(resources), Admin.parse(resources)
    folder = folder.absolute()
    written = files(pulumi.name, outputs, keys, folder, every_s, admin=admin)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        replace_file(folder / name, text, 0o600 if name.endswith("_key") else 0o644)
    parts = [f"Start it: `prometheus --config.file={folder / 'prometheus.yml'}`"]
    if outputs.gateway and admin is None:
        parts.append("The gateway is left out: Prometheus reads no socket, which its `gateway.admin_url` is")
    facts = {"folder": str(folder), "files": sorted(written)}
    return Outcome(OK, f"{len(written)} files written to {report.code(folder)}", parts, facts)


def files(
    stack: str,
    outputs: StackOutputs,
    keys: Mapping[int, str],
    folder: Path,
    every_s: int,
    *,
    admin: Admin | None = None,
) -> dict[str, str]:
    """Return the files' texts by name. `keys`: the servers' own, by instance; one without takes the clients'."""
    targets: dict[str, list[Json]] = {}
    secret = {}
    jobs = []
    ca = {"ca_file": str(folder / "ca.pem")} if outputs.ca_certificate else {}
    rules = []
    for number, one in enumerate(outputs.replicas, start=1):
        name, labels = f"{REPLICAS}-{number}", {"stack": stack, "replica": str(one.instance_id)}
        more = {"job": REPLICAS, "gpu": one.gpu, "machine_id": str(one.machine_id)}
        targets[name] = [_target(one.url, labels | more)]
        secret[f"{name}_key"] = keys.get(one.instance_id, outputs.api_key)
        jobs.append(_job(name, folder, one.url, path="/metrics", credentials=f"{name}_key", tls=ca))
        rules.append({"record": PRICE, "expr": f"vector({one.hourly_cost_usd:.6f})", "labels": labels})
    if admin:
        targets[GATEWAY] = [_target(admin.url, {"stack": stack})]
        path, credentials = urlsplit(admin.url).path + "/metrics", "admin_key" if admin.key else ""
        tls = ca if admin.own_ca else {}
        jobs.append(_job(GATEWAY, folder, admin.url, path=path, credentials=credentials, tls=tls))
        secret |= {"admin_key": admin.key} if admin.key else {}
    config = {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": [str(folder / "prices.yml")],
        "scrape_configs": jobs,
    }
    return {
        "prometheus.yml": yaml.safe_dump(config, sort_keys=False),
        "prices.yml": yaml.safe_dump({"groups": [{"name": "reranker-prices", "rules": rules}]}, sort_keys=False),
        **{f"{name}.json": json.dumps(found, indent=2) + "\n" for name, found in targets.items()},
        **secret,
        **({"ca.pem": outputs.ca_certificate} if outputs.ca_certificate else {}),
    }


def _job(
    name: str, folder: Path, url: str, *, path: str, credentials: str, tls: Mapping[str, str]
) -> Mapping[str, Json]:
    by = {"type": "Bearer", "credentials_file": str(folder / credentials)}
    return {
        "job_name": name,
        "scheme": urlsplit(url).scheme,
        "metrics_path": path,
        **({"authorization": by} if credentials else {}),
        **({"tls_config": tls} if tls else {}),
        "file_sd_configs": [{"files": [str(folder / f"{name}.json")], "refresh_interval": "30s"}],
    }


def _target(url: str, labels: Mapping[str, str]) -> Mapping[str, Json]:
    return {"targets": [urlsplit(url).netloc], "labels": labels}


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole: Prometheus may read it at any moment."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)
