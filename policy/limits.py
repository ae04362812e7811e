"""The limits of a stack, read from limits.yaml. Called by the program and the policy pack."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from components.records import structure
from policy.rules import NAMED, PolicyLimits

FILE = Path(__file__).with_name("limits.yaml")


def load_limits(stack: str, path: Path = FILE) -> PolicyLimits:
    """Return the limits of a stack of this name. Raises ValueError with the file and the key."""
    try:
        entries: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"policy/{path.name}: cannot be read: {error}") from None
    by_pattern = {}
    for pattern, entry in entries.items():
        try:
            by_pattern[str(pattern)] = limits = parse(entry or {})
            for rule in set(limits.rules) - set(NAMED):
                near = difflib.get_close_matches(rule, NAMED, 1)
                hint = f" ({near[0]}?)" if near else ""
                raise ValueError(f"rules: has {rule!r}; accepted: {', '.join(NAMED)}{hint}")
        except ValueError as error:
            raise ValueError(f"policy/{path.name}: {pattern}: {error}") from None
    return next(
        (limits for pattern, limits in by_pattern.items() if fnmatch.fnmatchcase(stack, pattern)), PolicyLimits()
    )


def parse(entry: Mapping[str, Any]) -> PolicyLimits:
    limits = structure(PolicyLimits, entry, exact=True)
    for key in ("max_hourly_usd", "max_disk_gb"):
        if (value := getattr(limits, key)) is not None and not value > 0:
            raise ValueError(f"{key}: is {value!r}; accepted: a number above 0")
    return replace(limits, countries=tuple(code.upper() for code in limits.countries))
