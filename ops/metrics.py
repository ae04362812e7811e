"""`python -m ops metrics FOLDER`: Prometheus' files for a stack, from its outputs. Run it again after each `up`.

Writes prometheus.yml, a targets file per job, prices.yml, and files with keys and CAs. Each replica has a job with its
own address and key, also behind a gateway. The gateway's job uses its admin API and key, because its metrics contain
the servers' addresses. Prometheus reloads targets and keys by itself, and the other files on SIGHUP.
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
from ops.fleet import kind, secret_output, server_keys
from ops.outputs import StackOutputs

REPLICAS, GATEWAY = "reranker", "reranker-gateway"  # values of the label `job` in dashboards/reranker.json
PRICE = "reranker:hourly_cost_usd"  # a recording rule, per replica


@dataclass(frozen=True)
class Admin:
    """The admin API of a gateway's Caddy: its address, its key or "", whether the stack's CA signed its certificate."""

    url: str
    key: str = field(default="", repr=False)
    own_ca: bool = False

    @classmethod
    def parse(cls, resources: Sequence[Mapping[str, Json]]) -> Admin | None:
        """Read it from a state with decrypted secrets; None if there is no gateway, or if its admin API is a socket."""
        gateway = next((resource for resource in resources if kind(resource) == GATEWAY_TYPE), None)
        if gateway is None or not (url := secret_output(gateway, "admin_url")).startswith("http"):
            return None
        return cls(url.rstrip("/"), secret_output(gateway, "admin_key"), bool(secret_output(gateway, "admin_ca")))


@verb("metrics")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--every-s", type=click.IntRange(min=1), default=15, show_default=True, help="Seconds between scrapes.")
def metrics(pulumi: Pulumi, *, folder: Path, every_s: int) -> Outcome:
    """Write Prometheus' files for a stack into FOLDER. Prometheus has to see FOLDER under the same path."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        raise OpsError(USAGE, f"stack {pulumi.name} has no servers yet", f"python -m ops deploy --stack {pulumi.name}")
    resources = pulumi.resources(show_secrets=True)
    keys, admin = server_keys(resources), Admin.parse(resources)
    folder = folder.absolute()
    texts = render_files(pulumi.short_name, outputs, keys, folder, every_s, admin=admin)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        replace_file(folder / name, text, 0o600 if name.endswith("_key") else 0o644)
    parts = [f"Start it: `prometheus --config.file={folder / 'prometheus.yml'}`"]
    if outputs.has_gateway and admin is None:
        parts.append("The gateway is not included: its `gateway.admin_url` is a socket, which Prometheus cannot scrape")
    facts = {"folder": str(folder), "files": sorted(texts)}
    return Outcome(OK, f"{len(texts)} files written to {report.code(folder)}", parts, facts)


def render_files(
    stack: str, outputs: StackOutputs, keys: Mapping[int, str], folder: Path, every_s: int, *, admin: Admin | None
) -> dict[str, str]:
    """Return the files' texts by name. `keys`: server keys by instance id; a server without one takes a client key."""
    targets: dict[str, list[Json]] = {}
    key_files = {}
    jobs = []
    ca = {"ca_file": str(folder / "ca.pem")} if outputs.ca_certificate else {}
    rules = []
    for number, replica in enumerate(outputs.replicas, start=1):
        name, labels = f"{REPLICAS}-{number}", {"stack": stack, "replica": str(replica.instance_id)}
        machine = {"job": REPLICAS, "gpu": replica.gpu, "machine_id": str(replica.machine_id)}
        targets[name] = [_target(replica.url, labels | machine)]
        key_files[f"{name}_key"] = keys.get(replica.instance_id, outputs.api_key)
        jobs.append(_job(name, folder, replica.url, path="/metrics", credentials=f"{name}_key", tls=ca))
        rules.append({"record": PRICE, "expr": f"vector({replica.hourly_cost_usd:.6f})", "labels": labels})
    if admin:
        targets[GATEWAY] = [_target(admin.url, {"stack": stack})]
        path, credentials = urlsplit(admin.url).path + "/metrics", "admin_key" if admin.key else ""
        tls = ca if admin.own_ca else {}
        jobs.append(_job(GATEWAY, folder, admin.url, path=path, credentials=credentials, tls=tls))
        key_files |= {"admin_key": admin.key} if admin.key else {}
    config = {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": [str(folder / "prices.yml")],
        "scrape_configs": jobs,
    }
    return {
        "prometheus.yml": yaml.safe_dump(config, sort_keys=False),
        "prices.yml": yaml.safe_dump({"groups": [{"name": "reranker-prices", "rules": rules}]}, sort_keys=False),
        **{f"{name}.json": json.dumps(target, indent=2) + "\n" for name, target in targets.items()},
        **key_files,
        **({"ca.pem": outputs.ca_certificate} if outputs.ca_certificate else {}),
    }


def _job(
    name: str, folder: Path, url: str, *, path: str, credentials: str, tls: Mapping[str, str]
) -> Mapping[str, Json]:
    authorization = {"type": "Bearer", "credentials_file": str(folder / credentials)}
    return {
        "job_name": name,
        "scheme": urlsplit(url).scheme,
        "metrics_path": path,
        **({"authorization": authorization} if credentials else {}),
        **({"tls_config": tls} if tls else {}),
        "file_sd_configs": [{"files": [str(folder / f"{name}.json")], "refresh_interval": "30s"}],
    }


def _target(url: str, labels: Mapping[str, str]) -> Mapping[str, Json]:
    return {"targets": [urlsplit(url).netloc], "labels": labels}


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically, because Prometheus may read it at any time."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)
