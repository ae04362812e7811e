"""A stack's own config file, Pulumi.<stack>.yaml: values set and removed in it, the whole of it put back.

Called by the commands of ops/ that change it: roll and rotate_key. Written by the Pulumi CLI, which encrypts; a secret
goes through its stdin.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.config import Config, groups, secret_keys
from ops.engine import Pulumi
from ops.exits import USAGE, OpsError
from ops.project import NAMESPACE

Json = Any


class StackConfig:
    """The config file of one stack, as it was when this object was made and as it is."""

    def __init__(self, pulumi: Pulumi) -> None:
        self._pulumi = pulumi
        self.path: Path = pulumi.cwd / f"Pulumi.{pulumi.stack.rpartition('/')[2]}.yaml"
        if not self.path.exists():
            raise OpsError(USAGE, f"stack {pulumi.stack} has no config file {self.path.name}", "--cwd names its folder")
        self._before = self.path.read_bytes()

    def get(self, key: str) -> str:
        """Return a value in clear, a default of Pulumi.yaml included."""
        return self._pulumi.config(key)

    def put(self, values: Mapping[str, Json]) -> None:
        """Set values in clear, lists as lists. Raises OpsError; the file is then as it was."""
        if not values:
            return
        entries = {
            f"{NAMESPACE}:{key}": {"value": json.dumps(value), "objectValue": value}
            if isinstance(value, list)
            else {"value": str(value)}
            for key, value in values.items()
        }
        self._pulumi.ask("config", "set-all", "--json", json.dumps(entries))

    def put_secret(self, key: str, value: str) -> None:
        """Set a secret."""
        self._pulumi.ask("config", "set", "--secret", key, given=value)

    def remove(self, key: str) -> None:
        """Set a key no longer, if it is set."""
        self._pulumi.ask("config", "rm", key)

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


def assignments(words: Sequence[str]) -> dict[str, Json]:
    """Read KEY=VALUE words; a value that is a JSON list is one. Raises OpsError: unknown keys, secrets."""
    keys = {*Config.model_fields, *(f"{group}.{key}" for group, kind in groups().items() for key in kind.model_fields)}
    values: dict[str, Json] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().removeprefix(f"{NAMESPACE}:")
        if not equals:
            raise OpsError(USAGE, f"--set {key!r} has no value", "write --set KEY=VALUE")
        if key in secret_keys():
            raise OpsError(
                USAGE,
                f"--set {key}: a secret does not belong on a command line, where every process of the machine sees it",
                f"`pulumi config set --secret {key}` reads it from stdin; then roll without --set",
            )
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            raise OpsError(USAGE, f"--set {key}: not a config key", f"did you mean {near[0]}?" if near else "")
        values[key] = text
        if text.lstrip().startswith("["):
            try:
                values[key] = [str(one) for one in json.loads(text)]
            except ValueError as error:
                raise OpsError(USAGE, f"--set {key}: not a JSON list: {error}") from None
    return values
