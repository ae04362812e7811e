"""Whether a state holds anything that would run code which this checkout does not have. Pure but for the imports.

Called by ops.engine before each operation. A dynamic provider is a pickle in the state, which the engine's plugin loads
in every preview, and any other provider is a program that the engine fetches and runs: whoever writes the state could
run code with all secrets. A pickle of this project says one thing, a module and a class, so it is the same for every
commit that has the class. It is read opcode by opcode here, and never loaded.
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

PLUGIN = "pulumi-python"  # the one package that this project's resources need
BUILT_IN = "pulumi"  # the engine's own, of which it runs no plugin; components.replica_count reads outputs by it
DYNAMIC = f"{PLUGIN}:"
PROVIDER = "__provider"
OTHER = ("name", "parameterization")  # by these a provider is another package than its type says (registry.go)
FRAMING = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT"})  # differ by version of Python, and mean nothing
BY_REFERENCE = ("STACK_GLOBAL", "EMPTY_TUPLE", "NEWOBJ", "STOP")


@functools.cache
def provider_classes() -> Mapping[str, tuple[str, str]]:
    """Return module and name of each provider of this checkout, by the kind of its resource."""
    modules = (client_keys, credentials, gateway, instance, offers, validation)
    found = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    return {
        kind({"type": one._resource_type_name}): (one.__module__, f"{one.__name__}Provider")
        for one in found
        if issubclass(one, VastResource) and one is not VastResource
    }


def foreign_code(resources: Iterable[Mapping[str, Json]]) -> list[str]:
    """Return, by resource, what is in a state (its secrets in clear) that would run other code than this checkout's."""
    found = []
    for one in resources:
        urn, what = str(one.get("urn")), str(one.get("type"))
        if what.startswith("pulumi:providers:"):
            inputs = one.get("inputs") or {}
            others = "pluginDownloadURL" in str(inputs) or any(key in str(inputs.get("__internal")) for key in OTHER)
            if what.rpartition(":")[2] not in (PLUGIN, BUILT_IN) or others:
                found.append(f"{urn}: a provider that is not this project's")
        elif what.startswith(DYNAMIC):
            parts = [one[part] for part in ("inputs", "outputs") if PROVIDER in (one.get(part) or {})]
            if not all(is_ours(secret_output({"outputs": part}, PROVIDER), kind(one)) for part in parts):
                found.append(f"{urn}: its {PROVIDER} is not the pickle of a provider of this project")
        elif one.get("custom"):
            found.append(f"{urn}: a resource of another package, {what}")
    return found


def is_ours(text: str, kind: str) -> bool:
    """Whether a pickle, in base64, does no more than name the provider class of a resource type (Instance)."""
    try:
        code = [(op.name, value) for op, value, _ in pickletools.genops(base64.b64decode(text, validate=True))]
    except ValueError:
        return False
    code = [(name, value) for name, value in code if name not in FRAMING]
    names = tuple(str(value) for name, value in code if name == "SHORT_BINUNICODE")
    shape = tuple(name for name, _ in code) == ("SHORT_BINUNICODE", "SHORT_BINUNICODE", *BY_REFERENCE)
    return shape and names == provider_classes().get(kind)
