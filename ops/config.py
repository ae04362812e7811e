"""A stack's config file, Pulumi.<stack>.yaml: set values, copy values, restore the file.

Called by roll, rotate-key, review, scale and market. The Pulumi CLI writes the file, so secrets stay encrypted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from components.config import secret_keys
from components.vast.json_values import Json
from ops.engine import Pulumi
from ops.exits import USAGE, OpsError


class StackConfig:
    """The config file of one stack; remembers its content at construction."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.path = config_file(pulumi)
        if not self.path.exists():
            raise OpsError(USAGE, f"stack {pulumi.name} has no config file {self.path.name}", "--cwd names its folder")
        self._before = self.path.read_bytes()

    @property
    def is_changed(self) -> bool:
        return self.path.read_bytes() != self._before

    def restore(self) -> None:
        """Write the original content back, byte for byte."""
        if self.is_changed:
            self.path.write_bytes(self._before)

    def commit_line(self) -> str:
        """Return a reminder to commit the file if it changed, else ""."""
        return f"`{self.path.name}` was changed: commit it." if self.is_changed else ""


def config_file(pulumi: Pulumi) -> Path:
    return pulumi.cwd / f"Pulumi.{pulumi.short_name}.yaml"


def config_texts(pulumi: Pulumi) -> dict[str, str]:
    """Return a stack's config by key without the project's name, in the form that a program gets from Pulumi."""
    prefix = f"{pulumi.project}:"
    entries = pulumi.all_config().items()
    return {key.removeprefix(prefix): str(entry.get("value") or "") for key, entry in entries if key.startswith(prefix)}


def copy(source: Pulumi, target: Pulumi) -> None:
    """Copy all values of a stack's config file to another stack; secrets are encrypted again. Raises OpsError."""
    path = config_file(source)
    if not path.exists():
        raise OpsError(USAGE, f"no {path.name} to copy the config from", "--like names a stack with a config file")
    config = (yaml.safe_load(path.read_text()) or {}).get("config") or {}
    keys = {key if ":" in key else f"{source.project}:{key}" for key in config}
    entries = {key: entry for key, entry in source.all_config().items() if key in keys}
    target.set_all_config({key: entry for key, entry in entries.items() if not entry["secret"]})
    for key, entry in entries.items():
        if entry["secret"]:
            target.set_secret(key, entry["value"])


def set_values(pulumi: Pulumi, values: Mapping[str, Json]) -> None:
    """Set plaintext values; KEY.PART sets one part of the map KEY. Raises OpsError."""
    full = {f"{pulumi.project}:{key}": value for key, value in values.items()}
    if entries := {key: _entry(value) for key, value in full.items() if "." not in key}:
        pulumi.set_all_config(entries)
    for key, value in full.items():
        if key not in entries:
            pulumi.set_config("--path", key, "--plaintext", "--", value)


def _entry(value: Json) -> dict[str, Json]:
    """Return a value in the form of `pulumi config --json`."""
    if isinstance(value, list | dict):
        return {"value": json.dumps(value), "objectValue": value}
    return {"value": str(value)}


def assignments(words: Sequence[str]) -> dict[str, Json]:
    """Parse KEY=VALUE words; a value in the form of a JSON list or map is parsed as JSON. Raises OpsError.

    Unknown keys are not an error here: the program reports them.
    """
    values: dict[str, Json] = {}
    for word in words:
        name, equals, text = word.partition("=")
        key = name.strip().rpartition(":")[2]
        if not equals:
            raise OpsError(USAGE, f"--set {key!r} has no value", "write --set KEY=VALUE")
        if key in secret_keys():
            raise OpsError(
                USAGE,
                f"--set {key}: no secrets on a command line, which every process of the machine can read",
                f"`pulumi config set --secret {key}` reads it from stdin; then roll without --set",
            )
        try:
            values[key] = json.loads(text) if text.lstrip().startswith(("[", "{")) else text
        except ValueError as error:
            raise OpsError(USAGE, f"--set {key}: not JSON: {error}") from None
    return values
