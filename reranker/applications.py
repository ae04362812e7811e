"""What to paste into an application that takes a reranker: applications.toml, as records and with values in place.

Read by `env_command`, and by the script that writes docs/plug-it-into.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("applications.toml")


@dataclass(frozen=True)
class Application:
    """An application: the block to paste, and the lines for the CA.

    `proxy` is why it needs `rerank proxy`, `why` no test runs it, each "" where that is not so. `setting`: what else
    has to be as in the block. `also`: other clients of it, each with how it works, and why no test runs it.
    """

    name: str
    title: str
    version: str
    language: str
    block: str
    ca: str = ""
    proxy: str = ""
    note: str = ""
    why: str = ""
    setting: str = ""
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def works(self) -> str:
        """How it works with a stack: unchanged, by a setting, or by the proxy."""
        return "by the proxy" if self.proxy else f"by a setting: {self.setting}" if self.setting else "unchanged"

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the block with values for URL, KEY, MODEL, and CA where there is one; what is not given stays."""
        text = f"{self.block.strip()}\n{self.ca.strip(chr(10))}" if values.get("CA") and self.ca else self.block.strip()
        for name, value in values.items():
            text = text.replace(f"<{name}>", value)
        return text


def read_applications() -> dict[str, Application]:
    """Return all applications by name, in the order of the table."""
    with TABLE.open("rb") as file:
        return {name: Application(name=name, **fields) for name, fields in tomllib.load(file).items()}
