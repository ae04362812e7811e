"""What `vllm` is on a container's PATH: maps the address to the host's, drops what a CPU cannot take, then execs.

Run as `python vllm_shim.py serve MODEL --flags` (or with `--model MODEL`, as the image's own entrypoint is called).
What to exec, and where the container's ports lead, comes in EMULATOR_SHIM (JSON). Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# Flags with a value that only make sense with a GPU.
GPU_ONLY = ("--gpu-memory-utilization", "--tensor-parallel-size", "--pipeline-parallel-size", "--swap-space")
HALF = ("half", "float16", "auto", "bfloat16")


def split(argv: list[str]) -> tuple[str, list[tuple[str, list[str]]]]:
    """Return the model and the flags with their values."""
    rest = argv[1:] if argv[:1] == ["serve"] else list(argv)
    model = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    flags: list[tuple[str, list[str]]] = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        flags.append((name, values))
    named = [values[0] for name, values in flags if name == "--model" and values]
    return model or (named[0] if named else ""), [flag for flag in flags if flag[0] != "--model"]


def command(argv: list[str], shim: dict[str, object]) -> list[str]:
    """Return the command to exec for vLLM's arguments."""
    model, flags = split(argv)
    given = {name: values for name, values in flags}
    port = int((given.get("--port") or ["8000"])[0])
    ports = {int(inner): int(outer) for inner, outer in dict(shim["ports"]).items()}  # type: ignore[call-overload]
    models = dict(shim["models"])  # type: ignore[call-overload]
    path = models.get(model)
    kept = [(name, values) for name, values in flags if name not in ("--host", "--port")]
    kept += [("--host", [str(shim["ip"])]), ("--port", [str(ports.get(port, port))])]
    if path and "--served-model-name" not in given:
        kept.append(("--served-model-name", [model]))
    if shim["runtime"] == "stub":
        head = [str(shim["python"]), "-m", "emulator.stub", model, "--root", path or model]
    else:
        kept = [(name, values) for name, values in kept if name not in GPU_ONLY and name != "--dtype"]
        dtype = (given.get("--dtype") or ["auto"])[0]
        kept.append(("--dtype", ["float32" if dtype in HALF else dtype]))
        head = [str(shim["python"]), "-m", "vllm.entrypoints.openai.api_server", "--model", path or model]
    return head + [part for name, values in kept for part in (name, *values)]


def main() -> None:
    """Become the server."""
    shim = json.loads(os.environ.pop("EMULATOR_SHIM"))
    argv = command(sys.argv[1:], shim)
    if shim["runtime"] == "stub":
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(shim["source"])]))
    else:
        os.environ["PATH"] = os.pathsep.join([str(Path(argv[0]).parent), os.environ["PATH"]])
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if shim["offline"]:
            os.environ["HF_HUB_OFFLINE"] = "1"
    os.execv(argv[0], argv)  # noqa: S606 - that is its purpose


if __name__ == "__main__":
    main()
