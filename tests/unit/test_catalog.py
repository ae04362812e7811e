"""The catalog: names, references, and the data itself."""

import json
from dataclasses import replace

import pytest

from components.errors import ConfigError
from components.vllm.catalog import FOLDER, load_catalog
from components.vllm.launch import plan_launch

CATALOG = load_catalog()
REQUIRED = {
    "BAAI/bge-reranker-base",
    "BAAI/bge-reranker-v2-m3",
    "BAAI/bge-reranker-large",
    "Qwen/Qwen3-Reranker-0.6B",
    "mixedbread-ai/mxbai-rerank-base-v2",
    "sentence-transformers/all-MiniLM-L6-v2",
}


def test_catalog_has_the_models_and_images_that_the_project_promises() -> None:
    assert set(CATALOG.models) >= REQUIRED
    assert CATALOG.default_image.ref == "vllm/vllm-openai:v0.19.1"
    assert "vllm/vllm-openai:v0.32.0" in CATALOG.images


def test_unknown_model_is_refused_with_the_nearest_names_and_all_of_them() -> None:
    (problem,) = CATALOG.problems_with_model("BAAI/bge-reranker-bse")
    assert problem.startswith("unknown model 'BAAI/bge-reranker-bse'; nearest: BAAI/bge-reranker-base")
    assert all(name in problem.split("all: ")[1] for name in REQUIRED)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3"),
        ("qwen/qwen3-reranker-0.6b", "Qwen/Qwen3-Reranker-0.6B"),
        ("mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-base-v2"),
        ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_name_without_owner_or_in_another_case_finds_the_model_that_was_meant(asked: str, meant: str) -> None:
    assert CATALOG.problems_with_model(asked)[0].split("nearest: ")[1].startswith(meant)


def test_unknown_model_that_resembles_none_lists_what_is_known() -> None:
    (problem,) = CATALOG.problems_with_model("zzz")
    assert "nearest" not in problem
    assert "known: BAAI/bge-reranker-base" in problem


def test_asking_for_an_unknown_model_raises_a_config_error_not_a_key_error() -> None:
    with pytest.raises(ConfigError, match="unknown model 'nope'") as caught:
        CATALOG.model("nope")
    assert not isinstance(caught.value, KeyError)


@pytest.mark.parametrize("ref", ["vllm/vllm-openai", "localhost:5000/vllm", "vllm/vllm-openai:"])
def test_image_without_a_tag_is_refused_and_told_why(ref: str) -> None:
    (problem,) = CATALOG.problems_with_image(ref)
    assert "has no tag, which means latest" in problem
    assert "vllm/vllm-openai:v0.19.1" in problem


@pytest.mark.parametrize("tag", ["latest", "latest-cu129", "nightly", "cu130-nightly", "x86_64-latest"])
def test_image_with_a_tag_that_moves_is_refused(tag: str) -> None:
    assert "tag that moves" in CATALOG.problems_with_image(f"vllm/vllm-openai:{tag}")[0]
    with pytest.raises(ConfigError, match="tag that moves"):
        CATALOG.image(f"vllm/vllm-openai:{tag}")


@pytest.mark.parametrize("ref", ["", "  ", "vllm/vllm openai:v1", "vllm/x:v1 "])
def test_image_that_is_no_reference_is_refused(ref: str) -> None:
    assert "is not an image reference" in CATALOG.problems_with_image(ref)[0]


@pytest.mark.parametrize("digest", ["sha256:abc", "sha1:" + "a" * 64, "sha256:" + "A" * 64])
def test_image_with_a_malformed_digest_is_refused(digest: str) -> None:
    assert "digest" in CATALOG.problems_with_image(f"vllm/vllm-openai@{digest}")[0]


def test_pinned_image_that_is_not_in_the_catalog_gets_the_strictest_known_demands() -> None:
    image = CATALOG.image("registry.test:5000/me/vllm:v0.27.1-cu129")
    known = CATALOG.images.values()
    assert not image.known
    assert image.vllm_version == "0.27.1"
    assert image.cuda_min == max(one.cuda_min for one in known) == 13.0
    assert image.compute_cap_min == max(one.compute_cap_min for one in known)
    assert image.compute_cap_max == min(one.compute_cap_max for one in known if one.compute_cap_max is not None)
    assert "not in the catalog" in image.note


@pytest.mark.parametrize("suffix", ["", ":v0.32.0"])
def test_image_given_by_digest_is_pinned(suffix: str) -> None:
    image = CATALOG.image(f"vllm/vllm-openai{suffix}@sha256:{'0' * 64}")
    assert not image.known
    assert image.vllm_version == ("0.32.0" if suffix else "unknown")


def test_cuda_floor_follows_the_tag_line() -> None:
    floors = {ref.rpartition(":")[2]: image.cuda_min for ref, image in CATALOG.images.items()}
    assert floors == {"v0.19.1": 12.9, "v0.20.2-cu129": 12.9, "v0.20.2": 13.0, "v0.32.0": 13.0}


def test_disk_needed_is_image_and_weights_and_a_margin_and_fits_the_guides_40_gb() -> None:
    image, model = CATALOG.default_image, CATALOG.model("BAAI/bge-reranker-base")
    needed = CATALOG.disk_needed_gb(image, model)
    assert image.disk_gb + model.weights_gb < needed < 40
    heavier = replace(model, weights_gb=model.weights_gb + 3)
    assert CATALOG.disk_needed_gb(image, heavier) == pytest.approx(needed + 3)


@pytest.mark.parametrize("name", sorted(CATALOG.models))
def test_every_model_can_be_checked_and_launched(name: str) -> None:
    model = CATALOG.model(name)
    assert model.golden
    for case in model.golden:
        assert case.query
        assert case.relevant
        assert case.irrelevant
        assert not set(case.relevant) & set(case.irrelevant)
    assert model.score_range == ("cosine -1..1" if model.kind == "bi-encoder" else "sigmoid 0..1")
    assert (model.chat_template is not None) == (model.hf_overrides is not None) == (model.kind == "decoder-reranker")
    assert json.loads(json.dumps(model.hf_overrides)) == model.hf_overrides
    assert model.source
    assert model.note
    assert plan_launch(model, CATALOG.default_image, api_key=None).args


def test_every_image_says_where_its_facts_come_from() -> None:
    for ref, image in CATALOG.images.items():
        assert image.ref == ref
        assert image.source
        assert image.note
        assert image.compute_cap_max is None or image.compute_cap_max >= image.compute_cap_min
        assert CATALOG.problems_with_image(ref) == []


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "missing 2 required keyword-only arguments: 'flags' and 'golden'"),
        ({"flags": [], "golden": [], "chat_templates": "x"}, "chat_templates: accepted: name, kind, "),
        ({"flags": "--runner", "golden": []}, "flags: is '--runner'; accepted: a list"),
        ({"flags": [], "golden": [{"query": 3}]}, "golden: query: is 3; accepted: text"),
    ],
)
def test_a_mistake_in_an_entry_is_one_line_that_names_the_file_the_entry_and_the_key(tmp_path, entry, says) -> None:
    whole = {"name": "me/model", "kind": "cross-encoder", "parameters_m": 1, "weights_gb": 1, "max_model_len": 512}
    whole |= {"languages": "", "score_range": "sigmoid 0..1", "note": "n", "source": "s"}
    (tmp_path / "models.yaml").write_text(json.dumps({"models": [whole | entry]}))
    (tmp_path / "images.yaml").write_text((FOLDER / "images.yaml").read_text())
    with pytest.raises(ConfigError) as caught:
        load_catalog(tmp_path)
    (line,) = caught.value.problems
    assert line.startswith(f"components/catalog/models.yaml: me/model: {says}")
