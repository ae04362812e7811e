"""The `vllm` on a test container's PATH: turns `vllm serve MODEL --flags` into a CPU server on a loopback port.

Run by vLLM's own interpreter. Environment: SHIM_MODELS (JSON, model name -> folder), SHIM_PORT (the host's port).
The launch's flags go through as they are, but for port and host; argparse takes the last of a repeated flag.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Become the server."""
    if sys.argv[1] != "serve":
        sys.exit(f"vllm shim: only `serve` is there, not {sys.argv[1]}")
    model, *flags = sys.argv[2:]
    if model == "--model":
        model, *flags = flags
    folder = json.loads(os.environ["SHIM_MODELS"])[model]
    own = [
        "--model",
        folder,
        "--served-model-name",
        model,
        *flags,
        "--host",
        "127.0.0.1",
        "--port",
        os.environ["SHIM_PORT"],
    ]
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *own])


if __name__ == "__main__":
    main()
