"""What model, image and dtype require of a GPU, and which flags each version of vLLM has.

Called by settings, before anything is searched. Estimates err to the side of a machine that turns out too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from components.vllm.catalog import FOLDER, Image, Model, read_yaml
from components.vllm.extra_args import name_of
from components.vllm.launch import dtype_for

BFLOAT16_FROM_COMPUTE_CAP = 800
BYTES_PER_PARAMETER = {"float32": 4, "float": 4}
HALF_BYTES = 2
# CUDA's context and kernels, activations of one batch, and for a decoder the cache of one sequence of full length.
OVERHEAD_GB = 2.0
# The share of the memory that vLLM takes by default (--gpu-memory-utilization, 0.9 in 0.19.1).
MEMORY_SHARE = 0.9
# Vast.ai counts a GPU's memory in thousands of what it calls MB.
MB_PER_GB = 1000


def vram_needed_gb(model: Model, dtype: str | None = None) -> float:
    """Return the GPU memory to ask for, in GB: weights as loaded, and what a server needs besides. An estimate."""
    each = BYTES_PER_PARAMETER.get(dtype or dtype_for(model), HALF_BYTES)
    return round((model.parameters_m * 1e6 * each / 1e9 + OVERHEAD_GB) / MEMORY_SHARE, 1)


def compute_cap_floor(image: Image, dtype: str | None = None) -> int:
    """Return the lowest compute capability that will do (Vast's form, 750 is 7.5): bfloat16 exists from 8.0 on."""
    return max(image.compute_cap_min, BFLOAT16_FROM_COMPUTE_CAP if dtype == "bfloat16" else 0)


@dataclass(frozen=True)
class Flags:
    """Which flags `vllm serve` has: in every known version, and in some only."""

    everywhere: frozenset[str]
    only: Mapping[str, frozenset[str]]

    def of(self, version: str) -> frozenset[str] | None:
        """Return the flags of a version; for one between the known ones those of either, for any other None."""
        if version in self.only:
            return self.everywhere | self.only[version]
        known = sorted(map(_ordered, self.only))
        if known[0] < _ordered(version) < known[-1]:
            return self.everywhere.union(*self.only.values())
        return None

    def problems(self, version: str, args: Sequence[str]) -> list[str]:
        """Return a line for each flag that a version does not have: its server would end with a usage message."""
        has = self.of(version)
        if has is None:
            return []
        problems = []
        for arg in args:
            name = name_of(arg)
            if not name.startswith("--") or name in has:
                continue
            elsewhere = [other for other, flags in self.only.items() if name in flags]
            near = get_close_matches(name, has, 1)
            hint = (
                f"vLLM {elsewhere[0]} has it" if elsewhere else f"did you mean {near[0]}?" if near else "see its --help"
            )
            problems.append(f"{name} is not a flag of vLLM {version}; {hint}")
        return problems


@lru_cache(maxsize=1)
def load_flags() -> Flags:
    """Read the flags that ship with the catalog; once per process."""
    raw = read_yaml(FOLDER / "flags.yaml")
    return Flags(
        frozenset(raw["everywhere"].split()),
        {version: frozenset(text.split()) for version, text in raw["only"].items()},
    )


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
