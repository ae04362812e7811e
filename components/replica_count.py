"""How many replicas a stack is to have, where its config gives a least and a most. Called by `__main__.py`.

The number is kept in the stack's own outputs: no deploy from git resets it, each backend has them, and an update that
fails leaves it as it was. `ops scale` gives another one to the update that it runs, by the environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pulumi

REPLICAS_ENV = "RERANKER_REPLICAS"
OUTPUT = "replicas"  # the list of servers
PAUSES_S = (0.05, 0.2, 0.5, 1.0)
T = TypeVar("T")


def present_replicas() -> int | None:
    """Return what the environment says, else how many the stack's last update had; None where there was none."""
    if told := os.environ.get(REPLICAS_ENV):
        return int(told)
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    found = read_with_retries(lambda: pulumi.runtime.invoke("pulumi:pulumi:readStackOutputs", {"name": name}).value)
    return count_replicas(found["outputs"])


def read_with_retries(read: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Read the stack's own state, of a file backend, which the engine may be writing: what is cut off is read again."""
    for pause_s in PAUSES_S:
        try:
            return read()
        except Exception:  # noqa: BLE001 - pulumi raises no narrower one
            sleep(pause_s)
    return read()


def count_replicas(outputs: Mapping[str, Any]) -> int | None:
    """Return how many replicas a stack's outputs list."""
    return None if outputs.get(OUTPUT) is None else len(outputs[OUTPUT])
