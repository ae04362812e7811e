"""The number of replicas of a stack whose config has a minimum and a maximum. Called by `__main__.py`.

The stack's outputs store the number: a deploy from git does not reset it, every backend has outputs, and a failed
update does not change it. `ops scale` passes a new number to its update in the environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pulumi

REPLICAS_ENV = "RERANKER_REPLICAS"
OUTPUT = "replicas"
PAUSES_S = (0.05, 0.2, 0.5, 1.0)
T = TypeVar("T")


def present_replicas() -> int | None:
    """Return the number from the environment, else from the stack's last update; None before the first update."""
    if number := os.environ.get(REPLICAS_ENV):
        return int(number)
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    value = read_with_retries(lambda: pulumi.runtime.invoke("pulumi:pulumi:readStackOutputs", {"name": name}).value)
    return count_replicas(value["outputs"])


def read_with_retries(read: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Read the stack's state; read again if the engine is just writing the file of a file backend."""
    for pause_s in PAUSES_S:
        try:
            return read()
        except Exception:  # noqa: BLE001 - Pulumi raises no narrower error
            sleep(pause_s)
    return read()


def count_replicas(outputs: Mapping[str, Any]) -> int | None:
    return None if outputs.get(OUTPUT) is None else len(outputs[OUTPUT])
