"""Which API a stack asks, and with which key, by its config and the environment.

Called by `components.settings` in the program, by `components.plugin.session` and by ops.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from components.errors import ConfigError
from components.vast.client import DEFAULT_API_URL

KEY_ENV = "VAST_API_KEY"
URL_ENV = "VAST_URL"  # the official CLI's own; `. scripts/env.sh` sets it to the emulator's


def choose_api_url(configured: str) -> str:
    """Return the API's address. `configured`: of the emulator, "" for the real one.

    An emulator's address is the environment's, if that has one, so that EMULATOR_PORT moves emulator and stacks alike.
    Raises ConfigError where a shell that is prepared for the emulator meets a stack that rents on the real one, and for
    plain HTTP to another machine.
    """
    from_env = os.environ.get(URL_ENV, "").strip().rstrip("/")
    emulator = from_env if is_loopback(from_env) else ""
    if configured:
        return check_api_url(emulator if emulator and is_loopback(configured) else configured, "emulator.url")
    if emulator:
        raise ConfigError([
            f"emulator.url: is not set, so this stack rents on the real Vast.ai, but this shell is prepared for the "
            f"emulator ({URL_ENV} is {emulator}); accepted: another stack, or `. scripts/env.sh real` first"
        ])  # fmt: skip
    return DEFAULT_API_URL


def check_api_url(url: str, named: str) -> str:
    """Return an API's address, known as `named`. Raises ConfigError for plain HTTP to another machine."""
    if url.startswith("https://") or is_loopback(url):
        return url
    raise ConfigError(
        [f"{named}: {url} would get the Vast.ai key in clear; accepted: an https:// address, or one of this machine"]
    )


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, as an emulator's is."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_key(api_url: str, configured: str | None) -> str:
    """Return the Vast key: the environment's first, since state may hold an old one; for an emulator the config's
    first, so that a real key is never sent to it by accident."""
    from_env = os.environ.get(KEY_ENV, "").strip()
    config_key = (configured or "").strip()
    return (config_key or from_env) if is_loopback(api_url) else (from_env or config_key)
