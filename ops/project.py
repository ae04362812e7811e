"""The project's name, from Pulumi.yaml: the namespace of its config keys, and the first part of its labels."""

from __future__ import annotations

from pathlib import Path

import yaml

NAMESPACE = str(yaml.safe_load(Path(__file__).parents[1].joinpath("Pulumi.yaml").read_text(encoding="utf-8"))["name"])
