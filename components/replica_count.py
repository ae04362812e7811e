"""How many replicas a stack is to have, where its config gives a least and a most. Called by `__main__.py`.

The number is kept in the stack's own outputs: no deploy from git resets it, each backend has them, and an update that
fails leaves it as it was. `ops scale` gives another one to the update that it runs, by the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pulumi

REPLICAS_ENV = "RERANKER_REPLICAS"
OUTPUT = "replicas"  # the list of servers


def present_replicas() -> int | None:
    """Return what the environment says, else how many the stack's last update had; None where there was none."""
    if told := os.environ.get(REPLICAS_ENV):
        return int(told)
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    return listed(pulumi.runtime.invoke("pulumi:pulumi:readStackOutputs", {"name": name}).value["outputs"])


def listed(outputs: Mapping[str, Any]) -> int | None:
    """Return how many replicas a stack's outputs list."""
    return None if outputs.get(OUTPUT) is None else len(outputs[OUTPUT])
