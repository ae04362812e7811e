"""The config of the running program, as the engine passes it, and what is wrong with its keys. Called by `__main__.py`
and by the host of a component."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env, is_config_secret

from components.config import secret_keys


def stack_config() -> dict[str, str]:
    """Return the running program's config, its namespace, the project's name, taken off.

    A program has it in its environment, the host of a component in the SDK's own record.
    """
    prefix = f"{pulumi.get_project()}:"
    known = get_config_env() | CONFIG.get()
    return {key.removeprefix(prefix): value for key, value in known.items() if key.startswith(prefix)}


def misplaced_keys(keys: Iterable[str], project: str) -> list[str]:
    """Return what is wrong with keys, `namespace:key` of all namespaces, whose namespace is nearly the project's."""
    split = [key.partition(":") for key in keys]
    near = {
        space for space, _, _ in split if space != project and difflib.get_close_matches(space, [project], cutoff=0.8)
    }
    return [
        f"{space}:{key}: is in a namespace that nobody reads; did you mean {project}:{key}?"
        for space, _, key in split
        if space in near
    ]


def keys_in_clear() -> list[str]:
    """Return the config keys that are stored in clear although they are secrets."""
    stored, namespace = stack_config(), pulumi.get_project()
    encrypted = {key.rpartition(":")[2] for key in get_config_secret_keys_env()}
    encrypted |= {key for key in stored if is_config_secret(f"{namespace}:{key}")}

    def is_set(key: str) -> bool:
        group, _, inner = key.rpartition(".")
        return bool(json.loads(stored.get(group) or "{}").get(inner)) if group else key in stored

    return [key for key in secret_keys() if key.partition(".")[0] not in encrypted and is_set(key)]
