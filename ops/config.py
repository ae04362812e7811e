"""A stack's own config file, Pulumi.<stack>.yaml: values set and copied, the whole of it put back.

Called by roll, rotate-key, review and market. The Pulumi CLI writes it, so that values stay as they are and secrets
encrypted.
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
    """The config file of one stack, as it was when this object was made and as it is."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.path = config_file(pulumi)
        if not self.path.exists():
            raise OpsError(USAGE, f"stack {pulumi.name} has no config file {self.path.name}", "--cwd names its folder")
        self._before = self.path.read_bytes()

    @property
    def changed(self) -> bool:
        """Whether the file is another one than at first."""
        return self.path.read_bytes() != self._before

    def put_back(self) -> None:
        """Write the file as it was, byte for byte."""
        if self.changed:
            self.path.write_bytes(self._before)

    def commit_line(self) -> str:
        """Return what is left to do with a file that was changed."""
        return f"`{self.path.name}` was changed: commit it." if self.changed else ""


def config_file(pulumi: Pulumi) -> Path:
    """Return where a stack's config stands."""
    return pulumi.cwd / f"Pulumi.{pulumi.name.rpartition('/')[2]}.yaml"


def texts(pulumi: Pulumi) -> dict[str, str]:
    """Return a stack's config by key, with the project's name taken off, as Pulumi gives it to a program."""
    prefix = f"{pulumi.project}:"
    found = pulumi.all_config().items()
    return {key.removeprefix(prefix): str(one.get("value") or "") for key, one in found if key.startswith(prefix)}


def copy(source: Pulumi, target: Pulumi) -> None:
    """Set all that a stack's own config file sets on another stack as well, secrets with its own encryption.

    Raises OpsError.
    """
    path = config_file(source)
    if not path.exists():
        raise OpsError(USAGE, f"no {path.name} to copy the config from", "--like names a stack with a config file")
    config = (yaml.safe_load(path.read_text()) or {}).get("config") or {}
    own_keys = {key if ":" in key else f"{source.project}:{key}" for key in config}
    found = {key: one for key, one in source.all_config().items() if key in own_keys}
    target.set_all_config({key: one for key, one in found.items() if not one["secret"]})
    for key, one in found.items():
        if one["secret"]:
            target.set_secret(key, one["value"])


def put(pulumi: Pulumi, values: Mapping[str, Json]) -> None:
    """Set values in clear: lists and maps as such, KEY.PART in the map of that key. Raises OpsError."""
    full = {f"{pulumi.project}:{key}": value for key, value in values.items()}
    if whole := {key: _entry(value) for key, value in full.items() if "." not in key}:
        pulumi.set_all_config(whole)
    for key, value in full.items():
        if key not in whole:
            pulumi.set_config("--path", key, "--plaintext", "--", value)


def _entry(value: Json) -> dict[str, Json]:
    """Return a value as `pulumi config --json` has it."""
    if isinstance(value, list | dict):
        return {"value": json.dumps(value), "objectValue": value}
    return {"value": str(value)}


def assignments(words: Sequence[str]) -> dict[str, Json]:
    """Read KEY=VALUE words; a value that is a JSON list or map is one. Raises OpsError; the program knows the keys."""
    values: dict[str, Json] = {}
    for word in words:
        left, equals, text = word.partition("=")
        key = left.strip().rpartition(":")[2]
        if not equals:
            raise OpsError(USAGE, f"--set {key!r} has no value", "write --set KEY=VALUE")
        if key in secret_keys():
            raise OpsError(
                USAGE,
                f"--set {key}: a secret does not belong on a command line, where every process of the machine sees it",
                f"`pulumi config set --secret {key}` reads it from stdin; then roll without --set",
            )
        try:
            values[key] = json.loads(text) if text.lstrip().startswith(("[", "{")) else text
        except ValueError as error:
            raise OpsError(USAGE, f"--set {key}: not JSON: {error}") from None
    return values
