"""GPU requirements of model, image and dtype, and the flags of each version of vLLM.

Called by settings, before the offer search. Estimates are too large rather than too small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from components.vllm.catalog import FOLDER, Image, Model, read_yaml
from components.vllm.extra_args import flag_name
from components.vllm.launch import dtype_for

BFLOAT16_FROM_COMPUTE_CAP = 800
BYTES_PER_PARAMETER = {"float32": 4, "float": 4}
HALF_BYTES = 2
# CUDA's context and kernels, activations of one batch, and for a decoder the cache of one sequence of full length.
OVERHEAD_GB = 2.0
MEMORY_SHARE = 0.9  # vLLM's default of --gpu-memory-utilization (0.19.1)
MB_PER_GB = 1000  # Vast.ai's gpu_ram


def vram_needed_gb(model: Model, dtype: str | None = None) -> float:
    """Return the estimated GPU memory in GB: loaded weights, and OVERHEAD_GB."""
    parameter_bytes = BYTES_PER_PARAMETER.get(dtype or dtype_for(model), HALF_BYTES)
    return round((model.parameters_m * 1e6 * parameter_bytes / 1e9 + OVERHEAD_GB) / MEMORY_SHARE, 1)


def compute_cap_floor(image: Image, dtype: str | None = None) -> int:
    """Return the lowest compute capability (Vast's form: 750 is 7.5). bfloat16 needs 8.0."""
    return max(image.compute_cap_min, BFLOAT16_FROM_COMPUTE_CAP if dtype == "bfloat16" else 0)


@dataclass(frozen=True)
class Flags:
    """The flags of `vllm serve`: those in every known version, and the further ones of each version."""

    everywhere: frozenset[str]
    only: Mapping[str, frozenset[str]]

    def for_version(self, version: str) -> frozenset[str] | None:
        """Return the flags of a version. Between known versions: the flags of all of them. Otherwise None."""
        if version in self.only:
            return self.everywhere | self.only[version]
        known = sorted(map(_version_key, self.only))
        if known[0] < _version_key(version) < known[-1]:
            return self.everywhere.union(*self.only.values())
        return None

    def problems(self, version: str, args: Sequence[str]) -> list[str]:
        """Return a line for each flag that a version does not have: `vllm serve` exits on it."""
        flags = self.for_version(version)
        if flags is None:
            return []
        problems = []
        for arg in args:
            name = flag_name(arg)
            if not name.startswith("--") or name in flags:
                continue
            others = [other for other, other_flags in self.only.items() if name in other_flags]
            near = get_close_matches(name, flags, 1)
            hint = f"vLLM {others[0]} has it" if others else f"did you mean {near[0]}?" if near else "see its --help"
            problems.append(f"{name} is not a flag of vLLM {version}; {hint}")
        return problems


@lru_cache(maxsize=1)
def load_flags() -> Flags:
    raw = read_yaml(FOLDER / "flags.yaml")
    only = {version: frozenset(text.split()) for version, text in raw["only"].items()}
    return Flags(frozenset(raw["everywhere"].split()), only)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
