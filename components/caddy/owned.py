"""What of a Caddy's config is one gateway's own: put in, taken out, read back. Pure; called by the Gateway resource.

A Caddy may serve other sites, so a gateway owns exactly: the server named after its site, and in the tls app the
entries whose `@id` begins with the server's. All else is left as it is found. `@id` is Caddy's own marker for objects;
it keeps it in the config it shows and ignores it otherwise. It carries `owner`, made new whenever a gateway is put into
a Caddy, so that what is removed is surely what was put there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping

from components.caddy.config import server, tag
from components.caddy.record import Certificate, Gateway, Json
from components.errors import GatewayConflict


def put(current: Json, gateway: Gateway) -> dict[str, Json]:
    """Return Caddy's config with this gateway in it, in place of whatever gateway the site had before.

    `current` is the whole config, None for an empty Caddy, which then also gets HTTP metrics. Raises GatewayConflict
    when the site's name belongs to a server that is no gateway.
    """
    config: dict[str, Json] = copy.deepcopy(dict(current or {}))
    found = _servers(config).get(gateway.site)
    if found is not None and not _owner(found, gateway.site):
        raise GatewayConflict(
            f"Caddy already has a server named {gateway.site!r} that no gateway made: choose another `site`, "
            f"or remove it (DELETE /config/apps/http/servers/{gateway.site})"
        )
    marked = [found or {}, *(one for holder, key in _tls_lists(_tls(config)) for one in holder[key])]
    for owner in {_owner(one, gateway.site) for one in marked} - {""}:
        config = take_out(config, gateway.site, owner)
    apps = config.setdefault("apps", {})
    http = apps.setdefault("http", {"metrics": {}})
    http.setdefault("servers", {})[gateway.site] = server(gateway)
    if gateway.certificate is not None:
        _put_certificate(apps.setdefault("tls", {}), gateway, gateway.certificate)
    return config


def take_out(current: Json, site: str, owner: str) -> dict[str, Json]:
    """Return Caddy's config without what this owner put there for the site; the same config where it has nothing."""
    config: dict[str, Json] = copy.deepcopy(dict(current or {}))
    if _owner(_servers(config).get(site) or {}, site) == owner:
        del config["apps"]["http"]["servers"][site]
    tls = _tls(config)
    for holder, key in _tls_lists(tls):
        mine = [one for one in holder[key] if _owner(one, site) == owner]
        if not mine:
            continue
        holder[key] = [one for one in holder[key] if one not in mine]
        automate = (tls.get("certificates") or {}).get("automate") or []
        for name in [name for one in mine for name in one.get("subjects") or ()]:
            if name in automate:
                automate.remove(name)
        _prune(holder, key)
        _prune(tls.get("certificates") or {}, "automate")
        for part in ("certificates", "automation"):
            _prune(tls, part)
        _prune(config["apps"], "tls")
    return config


def own(current: Json, site: str) -> dict[str, Json]:
    """Return what the config holds of a site's gateway: its server, and its tls entries; empty if it has none."""
    found = _servers(current or {}).get(site)
    if found is None:
        return {}
    owner = _owner(found, site)
    lists = _tls_lists(_tls(current))
    entries = [one for holder, key in lists for one in holder[key] if owner and _owner(one, site) == owner]
    return {"server": found, "tls": entries}


def digest(part: Json) -> str:
    """Return what tells one config from another without showing it."""
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()


def upstreams(part: Mapping[str, Json]) -> set[str]:
    """Return the addresses that a site's server hands requests to."""
    return {
        str(one["dial"])
        for node in _walk(part.get("server"))
        if isinstance(node, Mapping) and node.get("handler") == "reverse_proxy"
        for one in node.get("upstreams") or ()
    }


def difference(current: Json, gateway: Gateway) -> str:
    """Say in words how a Caddy differs from what it should hold of this gateway; "" if it does not. No value is shown
    but addresses of upstreams."""
    if not current:
        return "restarted-empty: Caddy holds no config at all"
    there = own(current, gateway.site)
    if not there:
        return f"missing: Caddy has no server {gateway.site!r}"
    wanted = own(put(None, gateway), gateway.site)
    if there == wanted:
        return ""
    if there["server"].get("@id") != gateway.id:
        return f"taken: server {gateway.site!r} was put there by another gateway"
    lost = sorted(upstreams(wanted) - upstreams(there))
    extra = sorted(upstreams(there) - upstreams(wanted))
    if lost or extra:
        words = [f"{', '.join(lost)} missing"] if lost else []
        words += [f"{', '.join(extra)} added"] if extra else []
        return f"upstreams: {'; '.join(words)}"
    places = list(_differing(wanted, there))
    return f"changed: by hand at {', '.join(places[:3])}" + (f" and {len(places) - 3} more" if places[3:] else "")


def _put_certificate(tls: dict[str, Json], gateway: Gateway, certificate: Certificate) -> None:
    name = tag(gateway)
    certificates = tls.setdefault("certificates", {})
    if certificate.kind == "internal":
        policy = {"@id": name, "subjects": list(certificate.names), "issuers": [{"module": "internal"}]}
        tls.setdefault("automation", {}).setdefault("policies", []).insert(0, policy)
        certificates.setdefault("automate", []).extend(certificate.names)
        return
    pair = {"@id": name, "certificate": certificate.certificate, "key": certificate.private_key, "tags": [name]}
    certificates.setdefault("load_pem" if certificate.kind == "pem" else "load_files", []).append(pair)


def _servers(config: Mapping[str, Json]) -> dict[str, Json]:
    http = (config.get("apps") or {}).get("http") or {}
    return dict(http.get("servers") or {})


def _tls(config: Mapping[str, Json]) -> dict[str, Json]:
    found: dict[str, Json] = (config.get("apps") or {}).get("tls") or {}
    return found


def _owner(marked: Json, site: str) -> str:
    """Return the owner that an object's `@id` names, if it is of this site."""
    found = re.fullmatch(rf"gateway-{re.escape(site)}-([a-z0-9]+)(-certificate)?", str((marked or {}).get("@id")))
    return found[1] if found else ""


def _tls_lists(tls: Mapping[str, Json]) -> list[tuple[dict[str, Json], str]]:
    certificates, automation = tls.get("certificates") or {}, tls.get("automation") or {}
    found = [(certificates, "load_pem"), (certificates, "load_files"), (automation, "policies")]
    return [(holder, key) for holder, key in found if isinstance(holder.get(key), list)]


def _prune(holder: dict[str, Json], key: str) -> None:
    if key in holder and not holder[key]:
        del holder[key]


def _walk(node: Json) -> Iterator[Json]:
    yield node
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    for child in children:
        yield from _walk(child)


def _differing(wanted: Json, there: Json, at: str = "") -> Iterator[str]:
    """Yield the paths at which two configs differ."""
    if isinstance(wanted, Mapping) and isinstance(there, Mapping):
        for key in sorted({*wanted, *there}):
            yield from _differing(wanted.get(key), there.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        for index, (left, right) in enumerate(zip(wanted, there, strict=True)):
            yield from _differing(left, right, f"{at}[{index}]")
    elif wanted != there:
        yield at
