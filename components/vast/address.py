"""Selects the API address and the API key of a stack, from its config and the environment.

Called by `components.settings` in the program, by `components.plugin.session` and by ops.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from components.errors import ConfigError
from components.vast.client import DEFAULT_API_URL

KEY_ENV = "VAST_API_KEY"
URL_ENV = "VAST_URL"  # of the official CLI; `. scripts/env.sh` sets it to the emulator's address


def choose_api_url(configured: str) -> str:
    """Return the API's address. `configured`: the emulator's address, "" for the real API.

    An emulator's address in the environment takes precedence, so that EMULATOR_PORT moves the emulator and all stacks.
    Raises ConfigError for plain HTTP to another machine, and for a real stack in a shell that is set to the emulator.
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


def check_api_url(url: str, source: str) -> str:
    """Return `url`. Raises ConfigError for plain HTTP to another machine; `source` names the setting in the error."""
    if url.startswith("https://") or is_loopback(url):
        return url
    raise ConfigError(
        [f"{source}: {url} would get the Vast.ai key in clear; accepted: an https:// address, or one of this machine"]
    )


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_key(api_url: str, configured: str | None) -> str:
    """Return the Vast.ai key. The environment takes precedence, because the state may contain an old key. For an
    emulator the config takes precedence, so that a real key is never sent to it."""
    from_env = os.environ.get(KEY_ENV, "").strip()
    config_key = (configured or "").strip()
    return (config_key or from_env) if is_loopback(api_url) else (from_env or config_key)
