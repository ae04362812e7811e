"""A stack's own config file, Pulumi.<stack>.yaml: values set, copied and removed, the whole of it put back.

Called by roll, rotate-key and review. The Pulumi CLI writes it, so that values stay as they are and secrets encrypted.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from components.config import secret_keys
from ops.engine import Pulumi
from ops.exits import USAGE, OpsError

Json = Any


class StackConfig:
    """The config file of one stack, as it was when this object was made and as it is."""

    def __init__(self, pulumi: Pulumi) -> None:
        self._pulumi = pulumi
        self.path = config_file(pulumi)
        if not self.path.exists():
            raise OpsError(USAGE, f"stack {pulumi.name} has no config file {self.path.name}", "--cwd names its folder")
        self._before = self.path.read_bytes()

    def get(self, key: str) -> str:
        """Return a value in clear, a default of Pulumi.yaml included."""
        return self._pulumi.config(key)

    def put(self, values: Mapping[str, Json]) -> None:
        """Set values in clear: lists and maps as such, KEY.PART in the map of that key. Raises OpsError."""
        put(self._pulumi, {f"{self._pulumi.project}:{key}": entry(value) for key, value in values.items()})

    def put_secret(self, key: str, value: str) -> None:
        self._pulumi.set_secret(key, value)
        self._pulumi.forget_config()

    def remove(self, key: str) -> None:
        """Set a key no longer, if it is set."""
        self._pulumi.ask(self._pulumi.stack.remove_config, key)
        self._pulumi.forget_config()

    @property
    def changed(self) -> bool:
        """Whether the file is another one than at first."""
        return self.path.read_bytes() != self._before

    def put_back(self) -> None:
        """Write the file as it was, byte for byte."""
        beside = self.path.with_name(f".{self.path.name}.new")
        try:
            beside.write_bytes(self._before)
            beside.chmod(self.path.stat().st_mode & 0o777)
            os.replace(beside, self.path)
        finally:
            with suppress(FileNotFoundError):
                beside.unlink()
        self._pulumi.forget_config()


def config_file(pulumi: Pulumi) -> Path:
    """Return where a stack's config stands."""
    return pulumi.cwd / f"Pulumi.{pulumi.name.rpartition('/')[2]}.yaml"


def copy(source: Pulumi, target: Pulumi) -> None:
    """Set all that a stack's own config file sets on another stack as well, secrets with its own encryption.

    Raises OpsError.
    """
    path = config_file(source)
    if not path.exists():
        raise OpsError(USAGE, f"no {path.name} to copy the config from", "--like names a stack with a config file")
    own = (yaml.safe_load(path.read_text()) or {}).get("config") or {}
    own_keys = {key if ":" in key else f"{source.project}:{key}" for key in own}
    found = {key: one for key, one in source.all_config().items() if key in own_keys}
    put(target, {key: one for key, one in found.items() if not one["secret"]})
    for key, one in found.items():
        if one["secret"]:
            target.set_secret(key, one["value"])


def put(pulumi: Pulumi, entries: Mapping[str, Mapping[str, Json]]) -> None:
    """Set values, as `pulumi config --json` has them, in clear and by full key. Raises OpsError."""
    whole = {key: one for key, one in entries.items() if "." not in key}
    if whole:
        pulumi.ask(pulumi.workspace.set_all_config_json, pulumi.name, json.dumps(whole))
    for key, one in entries.items():
        if key not in whole:
            words = ["config", "set", "--path", key, "--plaintext", "--stack", pulumi.name, "--", one["value"]]
            pulumi.ask(pulumi.command.run, words, str(pulumi.cwd), {})
    pulumi.forget_config()


def entry(value: Json) -> dict[str, Json]:
    """Return a value as `pulumi config --json` has it."""
    if isinstance(value, list | dict):
        return {"value": json.dumps(value), "objectValue": value}
    return {"value": str(value)}


def assignments(words: Sequence[str], project_file: Path) -> dict[str, Json]:
    """Read KEY=VALUE words; a value that is a JSON list or map is one. Raises OpsError: unknown keys, secrets."""
    project = yaml.safe_load(project_file.read_text())
    keys = [key.rpartition(":")[2] for key in project.get("config") or ()]
    values: dict[str, Json] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().removeprefix(f"{project['name']}:")
        top = key.partition(".")[0]
        if not equals:
            raise OpsError(USAGE, f"--set {key!r} has no value", "write --set KEY=VALUE")
        if key in secret_keys():
            raise OpsError(
                USAGE,
                f"--set {key}: a secret does not belong on a command line, where every process of the machine sees it",
                f"`pulumi config set --secret {key}` reads it from stdin; then roll without --set",
            )
        if top not in keys:
            near = difflib.get_close_matches(top, keys, 1)
            raise OpsError(USAGE, f"--set {key}: not a config key", f"did you mean {near[0]}?" if near else "")
        values[key] = text
        if text.lstrip().startswith(("[", "{")):
            try:
                values[key] = json.loads(text)
            except ValueError as error:
                raise OpsError(USAGE, f"--set {key}: not JSON: {error}") from None
    return values
