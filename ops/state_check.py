"""Finds foreign code in a state: code that is not in this checkout. Pure except for the imports.

Called by ops.engine before each operation. A dynamic provider is a pickle in the state, which the engine's plugin loads
in every preview. Any other provider is a program that the engine downloads and runs. So anyone who can write the state
could run code with access to all secrets. A pickle of this project contains only a module and a class name, so it is
equal in all commits that have the class. This module reads its opcodes and never loads it.
"""

from __future__ import annotations

import base64
import functools
import pickletools
from collections.abc import Iterable, Mapping

from components import client_keys, credentials, gateway, instance, offers, validation
from components.plugin.verbs import VastResource
from components.vast.json_values import Json
from ops.fleet import kind, secret_output

PLUGIN = "pulumi-python"  # the only package of this project's resources
BUILT_IN = "pulumi"  # part of the engine, without a plugin; components.replica_count reads outputs with it
DYNAMIC = f"{PLUGIN}:"
PROVIDER = "__provider"
OVERRIDES = ("name", "parameterization")  # with these, a provider is another package than its type (registry.go)
FRAMING = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT"})  # depend on the version of Python; without effect
BY_REFERENCE = ("STACK_GLOBAL", "EMPTY_TUPLE", "NEWOBJ", "STOP")


@functools.cache
def provider_classes() -> Mapping[str, tuple[str, str]]:
    """Return module and name of each provider class of this checkout, by resource type (Instance)."""
    modules = (client_keys, credentials, gateway, instance, offers, validation)
    classes = [cls for module in modules for cls in vars(module).values() if isinstance(cls, type)]
    return {
        kind({"type": cls._resource_type_name}): (cls.__module__, f"{cls.__name__}Provider")
        for cls in classes
        if issubclass(cls, VastResource) and cls is not VastResource
    }


def foreign_code(resources: Iterable[Mapping[str, Json]]) -> list[str]:
    """Return a text for each resource of a state (with decrypted secrets) that would run code not in this checkout."""
    problems = []
    for resource in resources:
        urn, type_ = str(resource.get("urn")), str(resource.get("type"))
        if type_.startswith("pulumi:providers:"):
            inputs = resource.get("inputs") or {}
            overridden = any(key in str(inputs.get("__internal")) for key in OVERRIDES)
            if type_.rpartition(":")[2] not in (PLUGIN, BUILT_IN) or "pluginDownloadURL" in str(inputs) or overridden:
                problems.append(f"{urn}: a provider that is not this project's")
        elif type_.startswith(DYNAMIC):
            parts = [resource[part] for part in ("inputs", "outputs") if PROVIDER in (resource.get(part) or {})]
            if not all(is_own_pickle(secret_output({"outputs": part}, PROVIDER), kind(resource)) for part in parts):
                problems.append(f"{urn}: its {PROVIDER} is not the pickle of a provider of this project")
        elif resource.get("custom"):
            problems.append(f"{urn}: a resource of another package, {type_}")
    return problems


def is_own_pickle(text: str, kind: str) -> bool:
    """Whether a base64 pickle contains only a reference to the provider class of a resource type (Instance)."""
    try:
        code = [(op.name, value) for op, value, _ in pickletools.genops(base64.b64decode(text, validate=True))]
    except ValueError:
        return False
    code = [(name, value) for name, value in code if name not in FRAMING]
    names = tuple(str(value) for name, value in code if name == "SHORT_BINUNICODE")
    shape = tuple(name for name, _ in code) == ("SHORT_BINUNICODE", "SHORT_BINUNICODE", *BY_REFERENCE)
    return shape and names == provider_classes().get(kind)
