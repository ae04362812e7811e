"""The command `vllm` in a container: changes the address to the host's, drops flags for GPUs, then execs `vllm serve`.

What it changes and drops, and why, it writes to the container's log. Run as `python vllm_shim.py FILE serve MODEL
--flags` (or with `--model MODEL`, as the image itself would). FILE (JSON, written by `runtime`) says what to exec and
where the container's ports lead. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# What real vLLM is not given on a CPU, and why; every other flag it gets as it is.
DROPPED = {
    "--gpu-memory-utilization": "a share of a GPU's memory: on a CPU vLLM would take it of the whole machine's",
    "--tensor-parallel-size": "a CPU is one device",
    "-tp": "a CPU is one device",
    "--pipeline-parallel-size": "a CPU is one device",
    "--swap-space": "there is no GPU memory to swap",
}
HALF = ("half", "float16", "auto", "bfloat16")
INSIDE_ONLY = ("127.0.0.1", "localhost", "::1")
Flags = list[tuple[str, list[str]]]


def split(argv: list[str]) -> tuple[str, Flags]:
    """Return the model and the flags with their values."""
    rest = argv[1:] if argv[:1] == ["serve"] else list(argv)
    model = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    flags: Flags = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        values = [value] if equals else []
        while rest and not is_flag(rest[0]):
            values.append(rest.pop(0))
        flags.append((name, values))
    named = [values[0] for name, values in flags if name == "--model" and values]
    return model or (named[0] if named else ""), [flag for flag in flags if flag[0] != "--model"]


def is_flag(word: str) -> bool:
    """Whether a word opens a flag: -1 is a value."""
    return word.startswith("--") or (word.startswith("-") and word[1:2].isalpha())


def address(given: dict[str, list[str]], shim: dict[str, Any]) -> tuple[str, str]:
    """Return where to listen: the host's port for a mapped one; else any free one, which nobody outside can know."""
    inner = (given.get("--port") or ["8000"])[0]
    outer = shim["ports"].get(inner)
    if outer is None or (given.get("--host") or [""])[0] in INSIDE_ONLY:
        return "127.0.0.1", "0"
    return str(shim["ip"]), str(outer)


def command(argv: list[str], shim: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the command to exec for vLLM's arguments, and what was changed, a line each."""
    model, flags = split(argv)
    given = dict(flags)
    path = shim["models"].get(model)
    changes: list[str] = []
    kept = [(name, values) for name, values in flags if name not in ("--host", "--port")]
    if "--uds" not in given:
        host, port = address(given, shim)
        changes.append(f"listens at {host}:{port}, where the container's port is mapped")
        kept += [("--host", [host]), ("--port", [port])]
    if path and "--served-model-name" not in given:
        kept.append(("--served-model-name", [model]))
    if shim["runtime"] == "stub":
        head = [shim["python"], "-m", "emulator.stub", model, "--root", path or model]
        head += ["--fault-file", shim["fault_file"]]
    else:
        changes += [f"drops {name}: {DROPPED[name]}" for name in given if name in DROPPED]
        kept = [(name, values) for name, values in kept if name not in (*DROPPED, "--dtype")]
        dtype = (given.get("--dtype") or ["auto"])[0]
        if dtype in HALF:
            changes.append(f"--dtype {dtype} is float32: a CPU computes in half precision slowly, if at all")
        kept.append(("--dtype", ["float32" if dtype in HALF else dtype]))
        head = [shim["python"], "-P", str(Path(__file__).with_name("vllm_cli.py")), "serve", path or model]
    return head + [part for name, values in kept for part in (name, *values)], changes


def main() -> None:
    """Become the server."""
    shim = json.loads(Path(sys.argv[1]).read_text())
    given = sys.argv[2:]
    if given[:1] != ["serve"] and not any(word.partition("=")[0] == "--model" for word in given):
        sys.exit("usage: vllm serve [model_tag] [options]\nvllm: error: only `serve` is there")
    argv, changes = command(given, shim)
    sys.stderr.writelines(f"emulator: {change}\n" for change in changes)
    sys.stderr.flush()
    if shim["runtime"] == "stub":
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), shim["source"]]))
    else:
        os.environ["PATH"] = os.pathsep.join([str(Path(argv[0]).parent), os.environ["PATH"]])
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if shim["offline"]:
            os.environ["HF_HUB_OFFLINE"] = "1"
    os.execv(argv[0], argv)  # noqa: S606 - that is its purpose


if __name__ == "__main__":
    main()
