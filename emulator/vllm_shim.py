"""The command `vllm` in a container: changes the address to the host's, drops GPU flags, then execs `vllm serve`.

It writes each change to the container's log. Run as `python vllm_shim.py FILE serve MODEL --flags`, or with `--model
MODEL` as the image does. FILE (JSON, written by `runtime`) has the interpreter and the port mapping. Standard library
only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# Flags that real vLLM on a CPU does not get, and the reason.
DROPPED = {
    "--gpu-memory-utilization": "on a CPU, vLLM applies the share to the memory of the machine",
    "--tensor-parallel-size": "a CPU is a single device",
    "-tp": "a CPU is a single device",
    "--pipeline-parallel-size": "a CPU is a single device",
    "--swap-space": "a CPU has no GPU memory to swap",
}
HALF = ("half", "float16", "auto", "bfloat16")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Flags = list[tuple[str, list[str]]]


def split(argv: list[str]) -> tuple[str, Flags]:
    """Return the model, and the flags with their values."""
    words = argv[1:] if argv[:1] == ["serve"] else list(argv)
    model = words.pop(0) if words and not words[0].startswith("-") else ""
    flags: Flags = []
    while words:
        name, equals, value = words.pop(0).partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        values = [value] if equals else []
        while words and not is_flag(words[0]):
            values.append(words.pop(0))
        if name != "--model":
            flags.append((name, values))
        elif values:
            model = model or values[0]
    return model, flags


def is_flag(word: str) -> bool:
    """Return whether a word is a flag: -1 is a value."""
    return word.startswith("--") or (word.startswith("-") and word[1:2].isalpha())


def listen_address(flags: dict[str, list[str]], shim: dict[str, Any]) -> tuple[str, str]:
    """Return the address to listen on: the host's port of a mapped port, else any free port on loopback."""
    outer = shim["ports"].get((flags.get("--port") or ["8000"])[0])
    if outer is None or (flags.get("--host") or [""])[0] in LOOPBACK:
        return "127.0.0.1", "0"
    return str(shim["ip"]), str(outer)


def command(argv: list[str], shim: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the command to exec for vLLM's arguments, and a line for each change."""
    model, flags = split(argv)
    values_by_flag = dict(flags)
    path = shim["models"].get(model)
    changes: list[str] = []
    flags = [(name, values) for name, values in flags if name not in ("--host", "--port")]
    if "--uds" not in values_by_flag:
        host, port = listen_address(values_by_flag, shim)
        changes.append(f"listens at {host}:{port}, where the container's port is mapped")
        flags += [("--host", [host]), ("--port", [port])]
    if path and "--served-model-name" not in values_by_flag:
        flags.append(("--served-model-name", [model]))
    if shim["runtime"] == "stub":
        program = [shim["python"], "-m", "emulator.stub", model, "--root", path or model]
        program += ["--fault-file", shim["fault_file"]]
    else:
        changes += [f"drops {name}: {DROPPED[name]}" for name in values_by_flag if name in DROPPED]
        flags = [(name, values) for name, values in flags if name not in (*DROPPED, "--dtype")]
        dtype = (values_by_flag.get("--dtype") or ["auto"])[0]
        if dtype in HALF:
            changes.append(f"--dtype {dtype} is float32: half precision is slow or unsupported on a CPU")
        flags.append(("--dtype", ["float32" if dtype in HALF else dtype]))
        program = [shim["python"], "-P", str(Path(__file__).with_name("vllm_cli.py")), "serve", path or model]
    return program + [part for name, values in flags for part in (name, *values)], changes


def main() -> None:
    shim = json.loads(Path(sys.argv[1]).read_text())
    args = sys.argv[2:]
    if args[:1] != ["serve"] and not any(word.partition("=")[0] == "--model" for word in args):
        sys.exit("usage: vllm serve [model_tag] [options]\nvllm: error: only `serve` is supported")
    argv, changes = command(args, shim)
    sys.stderr.writelines(f"emulator: {change}\n" for change in changes)
    sys.stderr.flush()
    if shim["runtime"] == "stub":
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), shim["source"]]))
    else:
        os.environ["PATH"] = os.pathsep.join([str(Path(argv[0]).parent), os.environ["PATH"]])
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if shim["offline"]:
            os.environ["HF_HUB_OFFLINE"] = "1"
    os.execv(argv[0], argv)  # noqa: S606 - fixed command


if __name__ == "__main__":
    main()
