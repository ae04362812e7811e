"""The catalog of images and models: machine requirements, launch flags, golden pairs.

The data is in components/catalog/*.yaml. Used by settings (names), launch (flags) and validation (golden pairs).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from components.errors import ConfigError
from components.readiness import Readiness, ScoreLimits
from components.records import structure
from policy.rules import image_tag, pin_problem

Kind = Literal["cross-encoder", "decoder-reranker", "bi-encoder"]
ScoreRange = Literal["sigmoid 0..1", "cosine -1..1"]
SCORE_LIMITS: Mapping[ScoreRange, ScoreLimits] = {"sigmoid 0..1": (0.0, 1.0), "cosine -1..1": (-1.0, 1.0)}

FOLDER = Path(__file__).parents[1] / "catalog"
OWN_MODELS = Path("models.yaml")  # next to Pulumi.yaml, the working directory of the program and its plugin
REQUIRED_FIELDS = {
    "kind": "cross-encoder, decoder-reranker or bi-encoder",
    "parameters_m": "millions of parameters, to estimate GPU memory",
    "weights_gb": "size of the download",
    "max_model_len": "tokens of query and document together",
}
DECODER_FIELDS = {"hf_overrides": "--hf-overrides", "chat_template": "the prompt of its training"}
DISK_MARGIN_GB = 5.0  # the hub's cache of small files, compiled kernels, logs
VERSION = re.compile(r"(?:^|[^0-9.])(\d+\.\d+\.\d+)")
T = TypeVar("T")
UNKNOWN_VERSION = "unknown"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image with vLLM. `known` is False for a user's image that is not in the catalog."""

    ref: str
    vllm_version: str
    cuda_min: float
    compute_cap_min: int
    compute_cap_max: int | None = None
    download_gb: float
    disk_gb: float
    note: str
    source: str
    known: bool = True


@dataclass(frozen=True)
class GoldenCase:
    """A query with relevant and irrelevant texts: every relevant text must score above every irrelevant one."""

    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that vLLM serves on /rerank and /score. `max_model_len` counts tokens of query and document together."""

    name: str
    kind: Kind
    parameters_m: float
    weights_gb: float
    max_model_len: int
    languages: str
    flags: tuple[str, ...]
    hf_overrides: Mapping[str, Any] | None = None
    chat_template: str | None = None
    score_range: ScoreRange
    golden: tuple[GoldenCase, ...]
    note: str
    source: str
    longest_len: int | None = None
    revision: str = ""

    @property
    def score_limits(self) -> ScoreLimits:
        return SCORE_LIMITS[self.score_range]

    @property
    def readiness(self) -> Readiness:
        """The readiness probe of this model: a pair of its first golden case."""
        case = self.golden[0]
        return Readiness(self.name, case.query, case.irrelevant[0], case.relevant[0], self.score_limits)


class Catalog:
    """The known images and models, by name.

    >>> catalog = load_catalog()
    >>> catalog.image("vllm/vllm-openai:v0.19.1").cuda_min
    12.9
    """

    def __init__(self, images: Mapping[str, Image], models: Mapping[str, Model], default_image: str) -> None:
        self.images = dict(images)
        self.models = dict(models)
        self.default_image = self.images[default_image]

    def model(self, name: str) -> Model:
        """Return a model by its hub name. Raises ConfigError with the nearest names for an unknown model."""
        if problems := self.problems_with_model(name):
            raise ConfigError(problems)
        return self.models[name]

    def image(self, ref: str) -> Image:
        """Return an image by its reference. A pinned image outside the catalog gets the strictest requirements of the
        known images. Raises ConfigError for a reference that is not pinned.
        """
        if problems := self.problems_with_image(ref):
            raise ConfigError(problems)
        return self.images.get(ref) or self._image_outside_catalog(ref)

    def problems_with_model(self, name: str) -> list[str]:
        if name in self.models:
            return []
        known = ", ".join(self.models)
        near = nearest_names(name, self.models)
        hint = f"nearest: {', '.join(near)}; all: {known}" if near else f"known: {known}"
        return [f"unknown model {name!r}; {hint}; or describe it in {OWN_MODELS}, see docs/operations.md"]

    def problems_with_image(self, ref: str) -> list[str]:
        if ref in self.images:
            return []
        known = f"known: {', '.join(self.images)}"
        if not re.fullmatch(r"[^\s@]+(@\S+)?", ref):
            return [f"image {ref!r} is not an image reference (repository:tag); {known}"]
        return [f"{reason}; name a version or a digest; {known}"] if (reason := pin_problem(ref)) else []

    def disk_needed_gb(self, image: Image, model: Model) -> float:
        """Return the disk to rent, in GB: unpacked image, weights, DISK_MARGIN_GB."""
        return image.disk_gb + model.weights_gb + DISK_MARGIN_GB

    def _image_outside_catalog(self, ref: str) -> Image:
        images = list(self.images.values())
        caps = [image.compute_cap_max for image in images if image.compute_cap_max is not None]
        version = VERSION.search(image_tag(ref))
        return Image(
            ref=ref,
            vllm_version=version[1] if version else UNKNOWN_VERSION,
            cuda_min=max(image.cuda_min for image in images),
            compute_cap_min=max(image.compute_cap_min for image in images),
            compute_cap_max=min(caps) if caps else None,
            download_gb=max(image.download_gb for image in images),
            disk_gb=max(image.disk_gb for image in images),
            note="not in the catalog: its CUDA floor, GPU range and sizes are the strictest of the known images",
            source="given by the user",
            known=False,
        )


def nearest_names(name: str, known: Mapping[str, object]) -> list[str]:
    """Return up to three known hub names like `name`: by the full name, then by the part after the slash."""
    by_lower = {hub_name.lower(): hub_name for hub_name in known}
    by_short = {lower.rpartition("/")[2]: lower for lower in by_lower}
    lower = name.lower()
    matches = difflib.get_close_matches(lower, by_lower, n=3, cutoff=0.6)
    short_matches = difflib.get_close_matches(lower.rpartition("/")[2], by_short, n=3, cutoff=0.6)
    matches += [by_short[match] for match in short_matches]
    return [by_lower[match] for match in dict.fromkeys(matches)][:3]


@lru_cache(maxsize=1)
def load_catalog(folder: Path = FOLDER, own: Path = OWN_MODELS) -> Catalog:
    """Read the project's catalog and the stack's own models, once per process.

    Raises ConfigError with file and entry.
    """
    images, models = read_yaml(folder / "images.yaml"), read_yaml(folder / "models.yaml")
    file = "components/catalog/images.yaml"
    catalog_images = [_parse_entry(Image, file, images["sizes"] | entry, "ref") for entry in images["images"]]
    catalog_models = [
        _parse_entry(Model, "components/catalog/models.yaml", entry, "name") for entry in models["models"]
    ]
    if own.exists():
        catalog_models += load_own_models(own, models)
    by_ref = {image.ref: image for image in catalog_images}
    return Catalog(by_ref, {model.name: model for model in catalog_models}, images["default"])


def load_own_models(path: Path, shipped: Mapping[str, Any]) -> list[Model]:
    """Read the stack's own models. `shipped`: the document of the catalog. An entry with the name of a shipped model
    overrides its fields. Raises ConfigError with file and entry."""
    import yaml  # noqa: PLC0415 - see read_yaml

    try:
        own_entries = {str(entry["name"]): dict(entry) for entry in read_yaml(path)["models"]}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UnicodeDecodeError) as error:
        is_yaml_error = isinstance(error, yaml.YAMLError)
        reason = " ".join(str(error).split()) if is_yaml_error else "accepted: `models:`, a list, each with a name"
        raise ConfigError([f"{path}: {reason}"]) from None
    shipped_entries = {entry["name"]: entry for entry in shipped["models"]}
    models = []
    for name, own_entry in own_entries.items():
        entry = shipped_entries.get(name, {}) | own_entry
        required = REQUIRED_FIELDS | (DECODER_FIELDS if entry.get("kind") == "decoder-reranker" else {})
        if missing := [f"{key} ({meaning})" for key, meaning in required.items() if key not in entry]:
            raise ConfigError([f"{path}: {name}: lacks {', '.join(missing)}"])
        entry = {
            "languages": "", "flags": [], "golden": [*shipped["golden"].values()], "note": "the stack's own",
            "source": str(path), "score_range": "cosine -1..1" if entry["kind"] == "bi-encoder" else "sigmoid 0..1",
        } | entry  # fmt: skip
        models.append(_parse_entry(Model, str(path), entry, "name"))
    return models


def _parse_entry(cls: type[T], file: str, entry: Mapping[str, Any], key: str) -> T:
    try:
        return structure(cls, entry, exact=True)
    except ValueError as error:
        raise ConfigError([f"{file}: {entry.get(key)}: {error}"]) from None


def read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - takes 20 ms; only readers of the catalog need it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return cast("Mapping[str, Any]", yaml.load(path.read_text(encoding="utf-8"), Loader=loader))  # noqa: S506 - safe loader
