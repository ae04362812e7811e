"""The config of the running program from the engine, and checks of its keys. Called by `__main__.py` and by the host
of a component."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env, is_config_secret

from components.config import secret_keys


def stack_config() -> dict[str, str]:
    """Return the running program's config, without the project's name before the keys.

    A program has its config in the environment, the host of a component in the SDK's record.
    """
    prefix = f"{pulumi.get_project()}:"
    config = get_config_env() | CONFIG.get()
    return {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}


def misplaced_keys(keys: Iterable[str], project: str) -> list[str]:
    """Return a problem for each key (`namespace:key`) whose namespace is similar to the project's name."""
    split = [key.partition(":") for key in keys]
    near = {
        space for space, _, _ in split if space != project and difflib.get_close_matches(space, [project], cutoff=0.8)
    }
    return [
        f"{space}:{key}: is in an unknown namespace; did you mean {project}:{key}?"
        for space, _, key in split
        if space in near
    ]


def is_group(config: Mapping[str, str], key: str) -> bool:
    """Whether the text of a key is a JSON object, or empty."""
    try:
        return isinstance(json.loads(config.get(key) or "{}") or {}, dict)
    except ValueError:
        return False


def read_group(config: Mapping[str, str], key: str) -> Mapping[str, Any]:
    """Return the keys of a group; none if its text is not a JSON object, which others report."""
    return (json.loads(config.get(key) or "{}") or {}) if is_group(config, key) else {}


def keys_in_clear() -> list[str]:
    """Return the config keys that hold a secret but are stored unencrypted."""
    stored, namespace = stack_config(), pulumi.get_project()
    encrypted = {key.rpartition(":")[2] for key in get_config_secret_keys_env()}
    encrypted |= {key for key in stored if is_config_secret(f"{namespace}:{key}")}

    def is_set(key: str) -> bool:
        group, _, inner = key.rpartition(".")
        return bool(read_group(stored, group).get(inner)) if group else key in stored

    return [key for key in secret_keys() if key.partition(".")[0] not in encrypted and is_set(key)]
