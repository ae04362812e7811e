"""Pairs/s that users have measured, by GPU and model, in throughput.yaml next to Pulumi.yaml. The project has none.

Read for the ranking of offers and by `ops market`; written by `python -m bench serving --record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.errors import ConfigError

FILE = Path("throughput.yaml")  # in the folder of the program and its plugin
FORM = "accepted: GPU: {model: pairs per second}, as `python -m bench serving --record GPU` writes it"
HEAD = "# Pairs/s by GPU, as Vast.ai names it, and model: the best of `python -m bench serving --record GPU`.\n"

Measured = Mapping[str, Mapping[str, float]]


def read_rates(path: Path = FILE) -> Measured:
    """Return pairs/s by GPU and model; empty without the file. Raises ConfigError."""
    if not path.exists():
        return {}
    import yaml  # noqa: PLC0415 - takes 20 ms, only needed with the file

    try:
        measured = {
            str(gpu): {str(model): float(rate) for model, rate in rates.items()}
            for gpu, rates in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items()
        }
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())}; {FORM}"]) from None
    if wrong := [f"{gpu}, {model}" for gpu, rates in measured.items() for model, rate in rates.items() if not rate > 0]:
        raise ConfigError([f"{path}: {'; '.join(wrong)}: is not above 0; {FORM}"])
    return measured


def rates_of_model(model: str, path: Path = FILE) -> dict[str, float]:
    return {gpu: rates[model] for gpu, rates in read_rates(path).items() if model in rates}


def record_rate(gpu: str, model: str, pairs_per_s: float, path: Path = FILE) -> None:
    """Write a measurement to the file; it replaces an earlier one. Raises ConfigError if the file is unreadable."""
    import yaml  # noqa: PLC0415 - as above

    rates_by_gpu = {name: dict(rates) for name, rates in read_rates(path).items()}
    rates_by_gpu.setdefault(gpu, {})[model] = round(pairs_per_s, 1)
    path.write_text(HEAD + yaml.safe_dump(rates_by_gpu), encoding="utf-8")
