"""Compares the config that a Caddy holds with the one that it should hold: foreign or not, difference in words.

Pure; called by the Gateway resource. A stack owns the whole config of its Caddy but for `admin`, which says how that
Caddy is reached and is set by whoever starts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.caddy.spec import Json

Config = dict[str, Json]
MAX_PATHS = 3


def split_admin(config: Json) -> tuple[Config, Config]:
    """Split a whole config: the part that a gateway owns, and the `admin` part ({} if there is none)."""
    own = dict(config or {})
    admin = own.pop("admin", None)
    return own, {"admin": admin} if admin else {}


def is_empty(own: Json) -> bool:
    """Whether a config configures nothing."""
    return own is None or (isinstance(own, Mapping) and all(is_empty(part) for part in own.values()))


def is_foreign(own: Config, site: str) -> bool:
    """Whether a config was put there by something else than the gateway of this name."""
    return not is_empty(own) and site not in _servers(own)


def difference(wanted: Config, own: Config) -> str:
    """Say in words how a Caddy's config differs from what it should be; "" if it does not.

    No value is shown but names of servers and addresses of upstreams.
    """
    if is_empty(own):
        return "restarted-empty: Caddy holds no config"
    if is_foreign(own, next(iter(_servers(wanted)))):
        return f"taken: Caddy holds another config, with {_named(own)}"
    lost = sorted(_upstreams(wanted) - _upstreams(own))
    extra = sorted(_upstreams(own) - _upstreams(wanted))
    if lost or extra:
        words = [f"{', '.join(lost)} missing"] if lost else []
        words += [f"{', '.join(extra)} added"] if extra else []
        return f"upstreams: {'; '.join(words)}"
    paths = list(_differing_paths(wanted, own))
    more = f" and {len(paths) - MAX_PATHS} more" if len(paths) > MAX_PATHS else ""
    return f"changed by hand at {', '.join(paths[:MAX_PATHS])}{more}" if paths else ""


def refusal(own: Config, where: str) -> str:
    """Say why a Caddy that holds something else is left alone, and what to do."""
    return (
        f"the Caddy at {where} holds a config that this stack did not put there ({_named(own)}), and a gateway takes "
        "the whole Caddy: start a Caddy for it alone and give its address, or, if nothing there is needed, empty it "
        '(POST /load with {}, or with nothing but its "admin") and repeat'
    )


def _named(own: Config) -> str:
    names = sorted(_servers(own))
    return f"servers {', '.join(names)}" if names else f"{', '.join(sorted(own.get('apps') or own))}"


def _servers(own: Config) -> Config:
    http = (own.get("apps") or {}).get("http") or {}
    return dict(http.get("servers") or {})


def _upstreams(node: Json) -> set[str]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    found = {address for child in children for address in _upstreams(child)}
    if isinstance(node, Mapping) and node.get("handler") == "reverse_proxy":
        found |= {str(one.get("dial")) for one in node.get("upstreams") or ()}
    return found


def _differing_paths(wanted: Json, own: Json, at: str = "") -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(own, Mapping):
        for key in sorted({*wanted, *own}):
            yield from _differing_paths(wanted.get(key), own.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(wanted, list) and isinstance(own, list) and len(wanted) == len(own):
        for index, (left, right) in enumerate(zip(wanted, own, strict=True)):
            yield from _differing_paths(left, right, f"{at}[{index}]")
    elif wanted != own:
        yield at
