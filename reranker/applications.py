"""Reads applications.toml: the configuration of applications that use a reranker.

Called by `env_command`, and by the script that writes docs/plug-it-into.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("applications.toml")


@dataclass(frozen=True)
class Application:
    """An application: `block` is the configuration to paste, `ca` its lines for the CA.

    `proxy`: why it needs `rerank proxy`. `untested_reason`: why no test runs it. `setting`: the setting that differs
    from the usual one. Each is "" if it does not apply. `other_clients`: (name, connection, untested_reason) each.
    """

    name: str
    title: str
    version: str
    language: str
    block: str
    ca: str = ""
    proxy: str = ""
    note: str = ""
    untested_reason: str = ""
    setting: str = ""
    other_clients: tuple[tuple[str, str, str], ...] = ()

    @property
    def connection(self) -> str:
        """How it connects to a stack: through the proxy, with a setting, or unchanged."""
        return "through the proxy" if self.proxy else f"setting: {self.setting}" if self.setting else "unchanged"

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the block with the values of URL, KEY, MODEL and CA; placeholders without a value stay."""
        text = f"{self.block.strip()}\n{self.ca.strip(chr(10))}" if values.get("CA") and self.ca else self.block.strip()
        for name, value in values.items():
            text = text.replace(f"<{name}>", value)
        return text


def read_applications() -> dict[str, Application]:
    """Return the applications by name, in the order of the file."""
    with TABLE.open("rb") as file:
        return {name: Application(name=name, **fields) for name, fields in tomllib.load(file).items()}
