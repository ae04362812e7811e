"""Compares Caddy's actual config with the desired one, and describes the difference.

Pure; called by the Gateway resource. A stack owns the whole config of its Caddy except `admin`: this part configures
the admin API itself and is set by the process that starts Caddy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.vast.json_values import Json

Config = dict[str, Json]
MAX_PATHS = 3


def split_admin(config: Json) -> tuple[Config, Config]:
    """Split a config into the part that a gateway owns and the `admin` part ({} if there is none)."""
    actual = dict(config or {})
    admin = actual.pop("admin", None)
    return actual, {"admin": admin} if admin else {}


def is_empty(actual: Json) -> bool:
    return actual is None or (isinstance(actual, Mapping) and all(is_empty(part) for part in actual.values()))


def is_foreign(actual: Config, site: str) -> bool:
    """Whether the config was not written by the gateway with this site name."""
    return not is_empty(actual) and site not in _servers(actual)


def difference(desired: Config, actual: Config) -> str:
    """Describe how a config differs from the desired one; "" if it does not.

    The text contains server names and upstream addresses, and no other values.
    """
    if is_empty(actual):
        return "restarted-empty: Caddy holds no config"
    if is_foreign(actual, next(iter(_servers(desired)))):
        return f"taken: Caddy holds another config, with {_describe(actual)}"
    missing = sorted(_upstreams(desired) - _upstreams(actual))
    added = sorted(_upstreams(actual) - _upstreams(desired))
    if missing or added:
        changes = [f"{', '.join(missing)} missing"] if missing else []
        changes += [f"{', '.join(added)} added"] if added else []
        return f"upstreams: {'; '.join(changes)}"
    paths = list(_differing_paths(desired, actual))
    more = f" and {len(paths) - MAX_PATHS} more" if len(paths) > MAX_PATHS else ""
    return f"changed by hand at {', '.join(paths[:MAX_PATHS])}{more}" if paths else ""


def refusal(actual: Config, where: str) -> str:
    """Explain why the stack does not overwrite a foreign config, and what to do."""
    return (
        f"the Caddy at {where} holds a config that this stack did not write ({_describe(actual)}); a gateway needs a "
        "Caddy of its own: start another one and set its address, or, if this config is not needed, clear it "
        '(POST /load with {}, or with only its "admin" part) and repeat'
    )


def _describe(actual: Config) -> str:
    names = sorted(_servers(actual))
    return f"servers {', '.join(names)}" if names else f"{', '.join(sorted(actual.get('apps') or actual))}"


def _servers(actual: Config) -> Config:
    http = (actual.get("apps") or {}).get("http") or {}
    return dict(http.get("servers") or {})


def _upstreams(node: Json) -> set[str]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    addresses = {address for child in children for address in _upstreams(child)}
    if isinstance(node, Mapping) and node.get("handler") == "reverse_proxy":
        addresses |= {str(upstream.get("dial")).rpartition("/")[2] for upstream in node.get("upstreams") or ()}
    return addresses


def _differing_paths(desired: Json, actual: Json, at: str = "") -> Iterator[str]:
    if isinstance(desired, Mapping) and isinstance(actual, Mapping):
        for key in sorted({*desired, *actual}):
            yield from _differing_paths(desired.get(key), actual.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(desired, list) and isinstance(actual, list) and len(desired) == len(actual):
        for index, (left, right) in enumerate(zip(desired, actual, strict=True)):
            yield from _differing_paths(left, right, f"{at}[{index}]")
    elif desired != actual:
        yield at
