"""The settings of the component that programs in other languages use: its arguments, and its program's config.

Called by package/__main__.py. The arguments are the keys of components.config that hold no secret, see package/args.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.config import secret_keys
from components.program_config import keys_in_clear, stack_config
from components.settings import Settings, emulator_hub_reachable, load
from components.vllm.catalog import load_catalog

# Keys that the provider's process or ops read by themselves: they are given no arguments, but the program's config.
FROM_CONFIG = ("emulator", "timeouts", "notify")
# Keys of a stack of this project alone: `ops scale` sizes no component, whose `replicas` is a number.
OF_STACKS = ("schedule",)


def component_settings(args: Mapping[str, Any]) -> Settings:
    """Return what a component of these arguments wants.

    Secrets, `emulator`, `timeouts` and `notify` are config keys of the program that uses it, in its own namespace.
    Raises ConfigError with every problem found.
    """
    raw = merge_config(args, stack_config())
    return load(raw, load_catalog(), hub_reachable=emulator_hub_reachable, in_clear=keys_in_clear())


def merge_config(args: Mapping[str, Any], config: Mapping[str, str]) -> dict[str, str]:
    """Return arguments and those of the config's keys that are no arguments, as config is given to a program."""
    raw = {key: _as_text(value) for key, value in args.items()}
    for key in (*FROM_CONFIG, *secret_keys()):
        group, _, inner = key.rpartition(".")
        if not group and key in config:
            raw[key] = config[key]
        elif group and (value := json.loads(config.get(group) or "{}").get(inner)):
            raw[group] = json.dumps({**json.loads(raw.get(group, "{}")), inner: value})
    return raw


def _as_text(value: Any) -> str:
    # the engine has no whole numbers
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return plain if isinstance(plain, str) else json.dumps(plain)
