"""The limits of a stack, read from limits.yaml. Called by the program, the Instance resource and the policy pack."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from policy.rules import NAMED, Limits

FILE = Path(__file__).with_name("limits.yaml")


def limits_of(stack: str, path: Path = FILE) -> Limits:
    """Return what binds a stack of this name. Raises ValueError that names the file and the key."""
    try:
        entries: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"policy/{path.name}: cannot be read: {error}") from None
    found = {}
    for pattern, entry in entries.items():
        try:
            found[str(pattern)] = limits = Limits.parse(entry or {})
            for rule in set(limits.rules) - set(NAMED):
                near = difflib.get_close_matches(rule, NAMED, 1)
                hint = f" ({near[0]}?)" if near else ""
                raise ValueError(f"rules: has {rule!r}; accepted: {', '.join(NAMED)}{hint}")
        except ValueError as error:
            raise ValueError(f"policy/{path.name}: {pattern}: {error}") from None
    return next((limits for pattern, limits in found.items() if fnmatch.fnmatchcase(stack, pattern)), Limits())
