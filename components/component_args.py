"""Settings of the component that programs in other languages use, from its arguments and its program's config.

Called by package/__main__.py. The arguments are the keys of components.config that hold no secret, see package/args.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.config import secret_keys
from components.errors import ConfigError
from components.program_config import is_group, keys_in_clear, read_group, stack_config
from components.settings import Settings, emulator_hub_reachable, load
from components.vllm.catalog import load_catalog

# The provider's process and ops read these keys from the program's config, so they are no arguments.
FROM_CONFIG = ("emulator", "timeouts", "notify")
# Keys for `ops scale`, which scales only stacks of this project; `replicas` of a component is a number.
OF_STACKS = ("schedule",)


def component_settings(args: Mapping[str, Any]) -> Settings:
    """Return the settings of a component with these arguments.

    Secrets, `emulator`, `timeouts` and `notify` come from the config of the program, in its own namespace.
    Raises ConfigError with all problems.
    """
    raw = merge_config(args, stack_config())
    return load(raw, load_catalog(), hub_reachable=emulator_hub_reachable, in_clear=keys_in_clear())


def merge_config(args: Mapping[str, Any], config: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments and the config keys that are no arguments, as texts like those of a program's config.

    Raises ConfigError for a group with secrets that is not an object; its text is not shown.
    """
    raw = {key: _as_text(value) for key, value in args.items()}
    groups = {key.partition(".")[0] for key in secret_keys() if "." in key}
    if broken := [key for key in sorted(groups) if not (is_group(config, key) and is_group(raw, key))]:
        raise ConfigError([f"{key}: is not an object" for key in broken])
    for key in (*FROM_CONFIG, *secret_keys()):
        group, _, inner = key.rpartition(".")
        if not group and key in config:
            raw[key] = config[key]
        elif group and (value := read_group(config, group).get(inner)):
            raw[group] = json.dumps({**read_group(raw, group), inner: value})
    return raw


def _as_text(value: Any) -> str:
    # the engine has no whole numbers
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return plain if isinstance(plain, str) else json.dumps(plain)
