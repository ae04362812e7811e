"""Compares the config that a Caddy holds with the one that it should hold: foreign or not, difference in words.

Pure; called by the Gateway resource. A stack owns the whole config of its Caddy but for `admin`, which says how that
Caddy is reached and is set by whoever starts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.vast.json_values import Json

Config = dict[str, Json]
MAX_PATHS = 3


def split_admin(config: Json) -> tuple[Config, Config]:
    """Split a whole config: the part that a gateway owns, and the `admin` part ({} if there is none)."""
    actual = dict(config or {})
    admin = actual.pop("admin", None)
    return actual, {"admin": admin} if admin else {}


def is_empty(actual: Json) -> bool:
    """Whether a config configures nothing."""
    return actual is None or (isinstance(actual, Mapping) and all(is_empty(part) for part in actual.values()))


def is_foreign(actual: Config, site: str) -> bool:
    """Whether a config was put there by something else than the gateway of this name."""
    return not is_empty(actual) and site not in _servers(actual)


def difference(wanted: Config, actual: Config) -> str:
    """Say in words how a Caddy's config differs from what it should be; "" if it does not.

    No value is shown but names of servers and addresses of upstreams.
    """
    if is_empty(actual):
        return "restarted-empty: Caddy holds no config"
    if is_foreign(actual, next(iter(_servers(wanted)))):
        return f"taken: Caddy holds another config, with {_named(actual)}"
    lost = sorted(_upstreams(wanted) - _upstreams(actual))
    extra = sorted(_upstreams(actual) - _upstreams(wanted))
    if lost or extra:
        words = [f"{', '.join(lost)} missing"] if lost else []
        words += [f"{', '.join(extra)} added"] if extra else []
        return f"upstreams: {'; '.join(words)}"
    paths = list(_differing_paths(wanted, actual))
    more = f" and {len(paths) - MAX_PATHS} more" if len(paths) > MAX_PATHS else ""
    return f"changed by hand at {', '.join(paths[:MAX_PATHS])}{more}" if paths else ""


def refusal(actual: Config, where: str) -> str:
    """Say why a Caddy that holds something else is left alone, and what to do."""
    return (
        f"the Caddy at {where} holds a config that this stack did not put there ({_named(actual)}), and a gateway "
        "takes the whole Caddy: start a Caddy for it alone and give its address, or, if nothing there is needed, empty "
        'it (POST /load with {}, or with nothing but its "admin") and repeat'
    )


def _named(actual: Config) -> str:
    names = sorted(_servers(actual))
    return f"servers {', '.join(names)}" if names else f"{', '.join(sorted(actual.get('apps') or actual))}"


def _servers(actual: Config) -> Config:
    http = (actual.get("apps") or {}).get("http") or {}
    return dict(http.get("servers") or {})


def _upstreams(node: Json) -> set[str]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    addresses = {address for child in children for address in _upstreams(child)}
    if isinstance(node, Mapping) and node.get("handler") == "reverse_proxy":
        addresses |= {str(one.get("dial")).rpartition("/")[2] for one in node.get("upstreams") or ()}
    return addresses


def _differing_paths(wanted: Json, actual: Json, at: str = "") -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        for key in sorted({*wanted, *actual}):
            yield from _differing_paths(wanted.get(key), actual.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(wanted, list) and isinstance(actual, list) and len(wanted) == len(actual):
        for index, (left, right) in enumerate(zip(wanted, actual, strict=True)):
            yield from _differing_paths(left, right, f"{at}[{index}]")
    elif wanted != actual:
        yield at
