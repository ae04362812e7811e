"""The body of a rent call: validation, template, mapped ports, container command. Pure functions.

Called by `world` (validation, template), `boot` (ports), `shapes` and `runtime` (command).
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import Any

from emulator.errors import invalid, refusal

IMAGE_LIMIT = 1024
COMMAND_LIMIT = 4096
LABEL_LIMIT = 256
ENV_LIMIT = 32768
ENV_VALUE_LIMIT = 256
PORTS_LIMIT = 64
MIN_DISK_GB = 8
DEFAULT_DISK_GB = 10
PRICE_USD = (0.001, 128.0)
BID_PER_GPU_USD = 32.0
# The documented values, and two that the official client sends without their last letter. It joins several by blanks.
RUNTYPES = frozenset(
    "ssh jupyter args ssh_proxy ssh_direct jupyter_proxy jupyter_direct ssh_direc jupyter_direc".split()  # noqa: SIM905
)
TARGET_STATES = ("running", "stopped")
SSH_PORT, JUPYTER_PORT = 22, 8888
# Template field -> field of a rent call's body.
FROM_TEMPLATE = {"onstart": "onstart", "runtype": "runtype", "args_str": "args_str", "recommended_disk_space": "disk"}
# The entrypoints of known images; for other images the args are the command.
ENTRYPOINTS = {"vllm/vllm-openai": ("vllm", "serve")}
PORT = re.compile(r"-p (\d+):(\d+)(/tcp|/udp)?")


def validate(body: dict[str, Any], disk_free_gb: float) -> None:
    """Check a body against the API's limits. Raises ServiceError, or ValueError for a wrong type."""
    if not body.get("image"):
        raise invalid("image is required")
    if not set(str(body.get("runtype") or "args").split()) <= RUNTYPES:
        raise invalid(f"runtype is one of {', '.join(sorted(RUNTYPES))}")
    if body.get("target_state", "running") not in (*TARGET_STATES, None):
        raise invalid(f"target_state is one of {', '.join(TARGET_STATES)}")
    if len(str(body["image"])) > IMAGE_LIMIT:
        raise invalid(f"image is longer than {IMAGE_LIMIT}")
    args = body.get("args")
    if args is not None and not isinstance(args, list):
        raise invalid("args must be a list")
    parts = [*(args or []), body.get("args_str") or "", body.get("onstart") or ""]
    if any("\0" in str(part) for part in parts):
        raise invalid("args, args_str and onstart must not have a zero byte")
    size = sum(len(str(part)) for part in parts)
    if size > COMMAND_LIMIT:
        raise invalid(f"combined length of args, args_str and onstart is {size}, the limit is {COMMAND_LIMIT}")
    parse_args(body)  # raises ValueError for a line that shlex cannot split
    disk = disk_gb(body)
    if not MIN_DISK_GB <= disk <= disk_free_gb:
        raise invalid(f"disk {disk:g} is not between {MIN_DISK_GB} and {disk_free_gb:g}")
    _validate_env(body)
    if len(str(body.get("label") or "")) > LABEL_LIMIT:
        raise invalid(f"label is longer than {LABEL_LIMIT}")
    if body.get("price") is not None:
        parse_price(body["price"])


def _validate_env(body: dict[str, Any]) -> None:
    env = body.get("env")
    if env is not None and not isinstance(env, dict):
        raise invalid("env must be an object")
    for key, value in (env or {}).items():
        if not key or "\0" in f"{key}{value}" or ("=" in key and not key.startswith("-")):
            raise invalid("env has a name or a value that no process can have")
        if len(str(value)) > ENV_VALUE_LIMIT:
            raise invalid(f"a value of env is longer than {ENV_VALUE_LIMIT}")
    size = sum(len(str(key)) + len(str(value)) for key, value in (env or {}).items())
    if size > ENV_LIMIT:
        raise invalid(f"env is longer than {ENV_LIMIT}")
    if len(parse_ports(body)) > PORTS_LIMIT:
        raise invalid(f"more than {PORTS_LIMIT} ports")


def parse_price(price: Any) -> float:
    """Return the price of a rent call as a number. Raises ServiceError if it is out of bounds."""
    low, high = PRICE_USD
    number = _number(price)
    if not low <= number <= high:
        raise refusal("invalid_price", price=number, low=low, high=high)
    return number


def parse_bid(price: Any, num_gpus: int) -> float:
    """Return a changed bid as a number. Raises ServiceError if it is out of bounds."""
    number, high = _number(price), BID_PER_GPU_USD * num_gpus
    if not number >= PRICE_USD[0]:  # also true for nan
        raise refusal("bid_too_small")
    if number > high:
        raise refusal("bid_too_large", high=high)
    return number


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def apply_template(body: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """Return a body completed by a template. The body has priority; the environments are merged by name."""
    image = template["image"] if ":" in template["image"] else f"{template['image']}:{template['tag']}"
    base = {to: template[name] for name, to in FROM_TEMPLATE.items() if template.get(name)}
    if template.get("ssh_direct"):
        base["runtype"] = f"{base.get('runtype', '')} ssh_direct".strip()
    fields = {name: value for name, value in body.items() if value is not None}
    env = _parse_env(template.get("env") or "") | (body.get("env") or {})
    source = {"template_id": template["id"], "template_hash_id": template["hash_id"], "template_name": template["name"]}
    return {"image": image, **base, **fields, **source, "env": env}


def _parse_env(flags: str) -> dict[str, str]:
    """Return the environment of a template's docker flags: `-e NAME=value` and `-p 80:80`."""
    env: dict[str, str] = {}
    for flag, value in pairwise(shlex.split(flags)):
        name, _, text = value.partition("=")
        env |= {"-e": {name: text}, "-p": {f"-p {value}": "1"}}.get(flag, {})
    return env


def disk_gb(body: dict[str, Any]) -> float:
    return float(body.get("disk") or DEFAULT_DISK_GB)


def resolve_runtype(body: dict[str, Any]) -> str:
    """Return the runtype; the default is args for a body with arguments, else ssh."""
    return str(body.get("runtype") or ("args" if parse_args(body) else "ssh"))


def parse_args(body: dict[str, Any]) -> list[str]:
    """Return the arguments, from a list (args) or a line (args_str)."""
    return [str(arg) for arg in body.get("args") or []] or shlex.split(str(body.get("args_str") or ""))


def parse_ports(body: dict[str, Any]) -> list[int]:
    """Return the TCP ports inside the container to map: those in env, and those of direct ssh and jupyter."""
    matches = [PORT.fullmatch(str(key).strip()) for key in body.get("env") or {}]
    ports = [int(match[2]) for match in matches if match and match[3] != "/udp"]
    runtype = resolve_runtype(body)
    direct = {SSH_PORT: "_direc" in runtype, JUPYTER_PORT: "jupyter_direc" in runtype}
    return [*ports, *(port for port, is_mapped in direct.items() if is_mapped and port not in ports)]


def build_argv(body: dict[str, Any]) -> list[str]:
    """Return the container's command: entrypoint and arguments.

    With runtype args, `onstart` is an executable that replaces the image's entrypoint, not a shell script. The other
    runtypes start Vast.ai's entrypoint, which runs `onstart` as a script and does not exit.
    """
    args = parse_args(body)
    onstart = body.get("onstart")
    if "args" not in resolve_runtype(body):
        return ["bash", "-c", f"{onstart or ':'}\nexec sleep infinity"]
    if onstart:
        return [str(onstart), *args]
    image = str(body.get("image") or "").rpartition("/")[2].partition(":")[0]
    entrypoint = next((words for name, words in ENTRYPOINTS.items() if name.rpartition("/")[2] == image), ())
    return [*entrypoint, *args] or ["sleep", "infinity"]
