"""The catalog of images and models: what each needs of a machine, how each is launched, what each must get right.

Data in components/catalog/*.yaml; read by settings (is this name usable?), launch (flags), validation (golden pairs).
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
OWN_MODELS = Path("models.yaml")  # beside Pulumi.yaml, where the program and its plugin run
NEEDED = {
    "kind": "cross-encoder, decoder-reranker or bi-encoder",
    "parameters_m": "millions of parameters, from which GPU memory is estimated",
    "weights_gb": "what the download weighs",
    "max_model_len": "tokens of query and document together",
}
TEMPLATED = {"hf_overrides": "--hf-overrides", "chat_template": "the prompt that it was trained with"}
# Beside image and weights: the hub's cache of small files, compiled kernels, logs.
DISK_MARGIN_GB = 5.0
VERSION = re.compile(r"(?:^|[^0-9.])(\d+\.\d+\.\d+)")
T = TypeVar("T")
UNKNOWN_VERSION = "unknown"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image with vLLM in it. `known` is False for one that the user gave and the catalog does not have."""

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
    """A query, texts that answer it and texts that do not: each of the first must score above each of the second."""

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
        """The pair that a server of this model is probed with: of its first golden case."""
        case = self.golden[0]
        return Readiness(self.name, case.query, case.irrelevant[0], case.relevant[0], self.score_limits)


class Catalog:
    """What is known: `images` and `models`, by name.

    >>> catalog = load_catalog()
    >>> catalog.image("vllm/vllm-openai:v0.19.1").cuda_min
    12.9
    """

    def __init__(self, images: Mapping[str, Image], models: Mapping[str, Model], default_image: str) -> None:
        self.images = dict(images)
        self.models = dict(models)
        self.default_image = self.images[default_image]

    def model(self, name: str) -> Model:
        """Return a model by its hub name. Raises ConfigError, with the nearest names, for one that is not known."""
        if problems := self.problems_with_model(name):
            raise ConfigError(problems)
        return self.models[name]

    def image(self, ref: str) -> Image:
        """Return an image by its reference; a pinned one without an entry gets the strictest of the known demands.

        Raises ConfigError for a reference that is not pinned.
        """
        if problems := self.problems_with_image(ref):
            raise ConfigError(problems)
        return self.images.get(ref) or self._image_outside_catalog(ref)

    def problems_with_model(self, name: str) -> list[str]:
        if name in self.models:
            return []
        everything = ", ".join(self.models)
        near = nearest(name, self.models)
        hint = f"nearest: {', '.join(near)}; all: {everything}" if near else f"known: {everything}"
        return [f"unknown model {name!r}; {hint}; or describe it in {OWN_MODELS}, see docs/operations.md"]

    def problems_with_image(self, ref: str) -> list[str]:
        if ref in self.images:
            return []
        known = f"known: {', '.join(self.images)}"
        if not re.fullmatch(r"[^\s@]+(@\S+)?", ref):
            return [f"image {ref!r} is not an image reference (repository:tag); {known}"]
        return [f"{reason}; name a version or a digest; {known}"] if (reason := pin_problem(ref)) else []

    def disk_needed_gb(self, image: Image, model: Model) -> float:
        """Return the disk to rent, in GB: the unpacked image, the weights, and room for caches and logs."""
        return image.disk_gb + model.weights_gb + DISK_MARGIN_GB

    def _image_outside_catalog(self, ref: str) -> Image:
        known = list(self.images.values())
        caps = [image.compute_cap_max for image in known if image.compute_cap_max is not None]
        version = VERSION.search(image_tag(ref))
        return Image(
            ref=ref,
            vllm_version=version[1] if version else UNKNOWN_VERSION,
            cuda_min=max(image.cuda_min for image in known),
            compute_cap_min=max(image.compute_cap_min for image in known),
            compute_cap_max=min(caps) if caps else None,
            download_gb=max(image.download_gb for image in known),
            disk_gb=max(image.disk_gb for image in known),
            note="not in the catalog: its CUDA floor, GPU range and sizes are the strictest of the known images",
            source="given by the user",
            known=False,
        )


def nearest(name: str, known: Mapping[str, object]) -> list[str]:
    """Return up to three known hub names like `name`: by the whole name, then by the part after the slash."""
    lowered = {one.lower(): one for one in known}
    short = {one.rpartition("/")[2]: one for one in lowered}
    wanted = name.lower()
    close = difflib.get_close_matches(wanted, lowered, n=3, cutoff=0.6)
    close += [short[one] for one in difflib.get_close_matches(wanted.rpartition("/")[2], short, n=3, cutoff=0.6)]
    return [lowered[one] for one in dict.fromkeys(close)][:3]


@lru_cache(maxsize=1)
def load_catalog(folder: Path = FOLDER, own: Path = OWN_MODELS) -> Catalog:
    """Read the catalog that ships with the project, and the stack's own models; once per process.

    Raises ConfigError that names file and entry.
    """
    images, models = read_yaml(folder / "images.yaml"), read_yaml(folder / "models.yaml")
    read_images = [
        _entry(Image, "components/catalog/images.yaml", images["sizes"] | entry, "ref") for entry in images["images"]
    ]
    read_models = [_entry(Model, "components/catalog/models.yaml", entry, "name") for entry in models["models"]]
    if own.exists():
        read_models += own_models(own, models)
    return Catalog(
        {image.ref: image for image in read_images}, {model.name: model for model in read_models}, images["default"]
    )


def own_models(path: Path, shipped: Mapping[str, Any]) -> list[Model]:
    """Return the models of a file of the stack's own, in the catalog's form; `shipped` is the catalog's. An entry
    with the name of a shipped model changes that model. Raises ConfigError that names file and entry."""
    import yaml  # noqa: PLC0415 - see read_yaml

    try:
        entries = read_yaml(path)["models"]
        named = {str(one["name"]): dict(one) for one in entries}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UnicodeDecodeError) as error:
        in_yaml = isinstance(error, yaml.YAMLError)
        why = " ".join(str(error).split()) if in_yaml else "accepted: `models:`, a list, each with a name"
        raise ConfigError([f"{path}: {why}"]) from None
    known = {one["name"]: one for one in shipped["models"]}
    read = []
    for name, given in named.items():
        entry = known.get(name, {}) | given
        needed = NEEDED | (TEMPLATED if entry.get("kind") == "decoder-reranker" else {})
        if lacking := [f"{key} ({what})" for key, what in needed.items() if key not in entry]:
            raise ConfigError([f"{path}: {name}: lacks {', '.join(lacking)}"])
        entry = {
            "languages": "", "flags": [], "golden": [*shipped["golden"].values()], "note": "the stack's own",
            "source": str(path), "score_range": "cosine -1..1" if entry["kind"] == "bi-encoder" else "sigmoid 0..1",
        } | entry  # fmt: skip
        read.append(_entry(Model, str(path), entry, "name"))
    return read


def _entry(cls: type[T], file: str, entry: Mapping[str, Any], key: str) -> T:
    try:
        return structure(cls, entry, exact=True)
    except ValueError as error:
        raise ConfigError([f"{file}: {entry.get(key)}: {error}"]) from None


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return a YAML document of the catalog."""
    import yaml  # noqa: PLC0415 - 20 ms that only a reader of the catalog pays

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return cast("Mapping[str, Any]", yaml.load(path.read_text(encoding="utf-8"), Loader=loader))  # noqa: S506 - safe loader
