"""What a rent call's body means: the limits that the API holds it to, the ports it maps, the command it runs. Pure.

Called by `world` (limits, ports) and `runtime` (command).
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from emulator.errors import ServiceError, invalid

IMAGE_LIMIT = 1024
COMMAND_LIMIT = 4096
LABEL_LIMIT = 256
ENV_LIMIT = 32768
PORTS_LIMIT = 64
MIN_DISK_GB = 8
DEFAULT_DISK_GB = 10
PRICE_USD = (0.001, 128.0)
# What an image runs by itself; of other images nothing is known, so their args are the command.
ENTRYPOINTS = {"vllm/vllm-openai": ("vllm", "serve")}
PORT = re.compile(r"-p (\d+):(\d+)(/tcp|/udp)?")


def validate(body: dict[str, Any], disk_free_gb: float) -> None:
    """Hold a body to the API's limits. Raises ServiceError."""
    if not body.get("image"):
        raise invalid("template not found" if body.get("template_hash_id") else "image is required")
    if len(str(body["image"])) > IMAGE_LIMIT:
        raise invalid(f"image is longer than {IMAGE_LIMIT}")
    args = body.get("args")
    if args is not None and not isinstance(args, list):
        raise invalid("args must be a list")
    if any("\0" in str(one) for one in (*(args or []), body.get("args_str"), body.get("onstart"))):
        raise invalid("args, args_str and onstart must not have a zero byte")
    parts = [*(args or []), body.get("args_str") or "", body.get("onstart") or ""]
    size = sum(len(str(part)) for part in parts)
    if size > COMMAND_LIMIT:
        raise invalid(f"combined length of args, args_str and onstart is {size}, the limit is {COMMAND_LIMIT}")
    disk = disk_gb(body)
    if not MIN_DISK_GB <= disk <= disk_free_gb:
        raise invalid(f"disk {disk:g} is not between {MIN_DISK_GB} and {disk_free_gb:g}")
    _validate_env(body)
    if len(str(body.get("label") or "")) > LABEL_LIMIT:
        raise invalid(f"label is longer than {LABEL_LIMIT}")
    if body.get("price") is not None:
        valid_price(body["price"])


def _validate_env(body: dict[str, Any]) -> None:
    env = body.get("env")
    if env is not None and not isinstance(env, dict):
        raise invalid("env must be an object")
    for key, value in (env or {}).items():
        if not key or "\0" in f"{key}{value}" or ("=" in key and not key.startswith("-")):
            raise invalid("env has a name or a value that no process can have")
    size = sum(len(str(key)) + len(str(value)) for key, value in (env or {}).items())
    if size > ENV_LIMIT:
        raise invalid(f"env is longer than {ENV_LIMIT}")
    if len(ports_of(body)) > PORTS_LIMIT:
        raise invalid(f"more than {PORTS_LIMIT} ports")


def valid_price(price: Any) -> float:
    """Return a bid as a number within bounds. Raises ServiceError."""
    low, high = PRICE_USD
    number = float(price)
    if not low <= number <= high:
        raise ServiceError(400, "invalid_price", f"error 400: price {number:g} is not between {low:g} and {high:g}")
    return number


def disk_gb(body: dict[str, Any]) -> float:
    """Return the disk that is asked for."""
    return float(body.get("disk") or DEFAULT_DISK_GB)


def ports_of(body: dict[str, Any]) -> list[int]:
    """Return the TCP ports inside the container that are to be mapped."""
    found = [PORT.fullmatch(str(key).strip()) for key in body.get("env") or {}]
    return [int(match[2]) for match in found if match and match[3] != "/udp"]


def argv_of(body: dict[str, Any]) -> list[str]:
    """Return what the container runs, as docker would: entrypoint and arguments.

    With runtype args, `onstart` replaces the image's entrypoint and is one executable, not a line for a shell. The
    other runtypes run Vast's own entrypoint, which runs `onstart` as a script and stays.
    """
    args = [str(one) for one in body.get("args") or []] or shlex.split(str(body.get("args_str") or ""))
    onstart = body.get("onstart")
    if "args" not in str(body.get("runtype") or ("args" if args else "ssh")):
        return ["bash", "-c", f"{onstart or ':'}\nexec sleep infinity"]
    if onstart:
        return [str(onstart), *args]
    image = str(body.get("image") or "").rpartition("/")[2].partition(":")[0]
    entrypoint = next((one for name, one in ENTRYPOINTS.items() if name.rpartition("/")[2] == image), ())
    return [*entrypoint, *args] or ["sleep", "infinity"]
