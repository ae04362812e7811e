"""What a rent call's body means: the limits that the API holds it to, the ports it maps, the command it runs. Pure.

Called by `world` (limits, template, ports), `shapes` and `runtime` (command).
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
PORTS_LIMIT = 64
MIN_DISK_GB = 8
DEFAULT_DISK_GB = 10
PRICE_USD = (0.001, 128.0)
BID_PER_GPU_USD = 32.0
# Documented, and the two that the official client writes without their last letter; it sends several, by blanks.
RUNTYPES = frozenset(
    (
        "ssh",
        "jupyter",
        "args",
        "ssh_proxy",
        "ssh_direct",
        "jupyter_proxy",
        "jupyter_direct",
        "ssh_direc",
        "jupyter_direc",
    )
)
TARGET_STATES = ("running", "stopped")
SSH_PORT, JUPYTER_PORT = 22, 8888
# A template's fields that a rent call's body has too, by the name there.
FROM_TEMPLATE = {"onstart": "onstart", "runtype": "runtype", "args_str": "args_str", "recommended_disk_space": "disk"}
# What an image runs by itself; of other images nothing is known, so their args are the command.
ENTRYPOINTS = {"vllm/vllm-openai": ("vllm", "serve")}
PORT = re.compile(r"-p (\d+):(\d+)(/tcp|/udp)?")


def validate(body: dict[str, Any], disk_free_gb: float) -> None:
    """Hold a body to the API's limits. Raises ServiceError, and ValueError for what has the wrong type."""
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
    if any("\0" in str(one) for one in (*(args or []), body.get("args_str"), body.get("onstart"))):
        raise invalid("args, args_str and onstart must not have a zero byte")
    parts = [*(args or []), body.get("args_str") or "", body.get("onstart") or ""]
    size = sum(len(str(part)) for part in parts)
    if size > COMMAND_LIMIT:
        raise invalid(f"combined length of args, args_str and onstart is {size}, the limit is {COMMAND_LIMIT}")
    args_of(body)  # a line that cannot be split is refused here, not at each read
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
    """Return the price of a rent call as a number within bounds. Raises ServiceError."""
    low, high = PRICE_USD
    number = _number(price)
    if not low <= number <= high:
        raise refusal("invalid_price", price=number, low=low, high=high)
    return number


def valid_bid(price: Any, num_gpus: int) -> float:
    """Return a changed bid as a number within bounds. Raises ServiceError."""
    number, high = _number(price), BID_PER_GPU_USD * num_gpus
    if not number >= PRICE_USD[0]:  # also when it is not a number at all
        raise refusal("bid_too_small")
    if number > high:
        raise refusal("bid_too_large", high=high)
    return number


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def with_template(body: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """Return a body completed by a template: what the body gives wins, the environment is merged by name."""
    image = template["image"] if ":" in template["image"] else f"{template['image']}:{template['tag']}"
    base = {to: template[name] for name, to in FROM_TEMPLATE.items() if template.get(name)}
    if template.get("ssh_direct"):
        base["runtype"] = f"{base.get('runtype', '')} ssh_direct".strip()
    given = {name: value for name, value in body.items() if value is not None}
    env = _env_of(template.get("env") or "") | (body.get("env") or {})
    named = {"template_id": template["id"], "template_hash_id": template["hash_id"], "template_name": template["name"]}
    return {"image": image, **base, **given, **named, "env": env}


def _env_of(flags: str) -> dict[str, str]:
    """Return the environment that a template's docker flags mean: `-e NAME=value` and `-p 80:80`."""
    found: dict[str, str] = {}
    for flag, value in pairwise(shlex.split(flags)):
        name, _, text = value.partition("=")
        found |= {"-e": {name: text}, "-p": {f"-p {value}": "1"}}.get(flag, {})
    return found


def disk_gb(body: dict[str, Any]) -> float:
    """Return the disk that is asked for."""
    return float(body.get("disk") or DEFAULT_DISK_GB)


def runtype_of(body: dict[str, Any]) -> str:
    """Return how a container is started: what is asked for, else args where there are some, else ssh."""
    return str(body.get("runtype") or ("args" if args_of(body) else "ssh"))


def args_of(body: dict[str, Any]) -> list[str]:
    """Return the arguments, which are given as a list or as a line."""
    return [str(one) for one in body.get("args") or []] or shlex.split(str(body.get("args_str") or ""))


def ports_of(body: dict[str, Any]) -> list[int]:
    """Return the TCP ports inside the container that are to be mapped: those asked for, and those of direct access."""
    found = [PORT.fullmatch(str(key).strip()) for key in body.get("env") or {}]
    ports = [int(match[2]) for match in found if match and match[3] != "/udp"]
    runtype = runtype_of(body)
    direct = {SSH_PORT: "_direc" in runtype, JUPYTER_PORT: "jupyter_direc" in runtype}
    return [*ports, *(port for port, wanted in direct.items() if wanted and port not in ports)]


def argv_of(body: dict[str, Any]) -> list[str]:
    """Return what the container runs, as docker would: entrypoint and arguments.

    With runtype args, `onstart` replaces the image's entrypoint and is one executable, not a line for a shell. The
    other runtypes run Vast's own entrypoint, which runs `onstart` as a script and stays.
    """
    args = args_of(body)
    onstart = body.get("onstart")
    if "args" not in runtype_of(body):
        return ["bash", "-c", f"{onstart or ':'}\nexec sleep infinity"]
    if onstart:
        return [str(onstart), *args]
    image = str(body.get("image") or "").rpartition("/")[2].partition(":")[0]
    entrypoint = next((one for name, one in ENTRYPOINTS.items() if name.rpartition("/")[2] == image), ())
    return [*entrypoint, *args] or ["sleep", "infinity"]
