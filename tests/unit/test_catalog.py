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


OWN = {"name": "me/model", "kind": "cross-encoder", "parameters_m": 22, "weights_gb": 0.1, "max_model_len": 256}


def own_catalog(tmp_path, *entries, text=None):
    (tmp_path / "models.yaml").write_text(json.dumps({"models": entries}) if text is None else text)
    return load_catalog(own=tmp_path / "models.yaml")


def test_a_model_of_the_stacks_own_needs_few_facts_and_is_launched_and_checked(tmp_path) -> None:
    model = own_catalog(tmp_path, OWN).model("me/model")
    assert (model.score_range, len(model.golden), model.flags) == ("sigmoid 0..1", 3, ())
    assert model.readiness.model == "me/model"
    assert "vllm serve me/model" in plan_launch(model, CATALOG.default_image, api_key=None).args[1]
    assert set(own_catalog(tmp_path, OWN).models) == {*CATALOG.models, "me/model"}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": None}, "me/model: lacks kind (cross-encoder, decoder-reranker or bi-encoder)"),
        ({"weights_gb": None, "max_model_len": None}, "me/model: lacks weights_gb (size of the download), max_m"),
        ({"kind": "decoder-reranker"}, "me/model: lacks hf_overrides (--hf-overrides), chat_template (the prompt of"),
        ({"kind": "reranker"}, "me/model: kind: is 'reranker', which is none of 'cross-encoder', 'decoder-reranker'"),
        ({"parameters_m": "22M"}, "me/model: parameters_m: is '22M'; accepted: "),
        ({"max_len": 3}, "me/model: max_len: accepted: name, kind, "),
        ({"name": None}, "accepted: `models:`, a list, each with a name"),
    ],
)
def test_an_incomplete_entry_of_the_stacks_own_is_one_clear_line(tmp_path, entry, says) -> None:
    given = {key: value for key, value in (OWN | entry).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        own_catalog(tmp_path, given)
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path}/models.yaml: {says}")
    assert "\n" not in line


@pytest.mark.parametrize("text", ["", "models: 3", "models: [3]", "[]", "a: [", "models: {a: b}", "\x00"])
def test_a_file_of_models_that_is_none_is_one_line(tmp_path, text) -> None:
    with pytest.raises(ConfigError) as caught:
        own_catalog(tmp_path, text=text)
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path}/models.yaml: ")
    assert "\n" not in line


@pytest.mark.parametrize("name", ["me/model", "BAAI/bge-reranker-base"])
def test_a_revision_is_served_of_weights_and_tokenizer(tmp_path, name) -> None:
    entry = (OWN if name == "me/model" else {"name": name}) | {"revision": "5b4f1d2"}
    model = own_catalog(tmp_path, entry).model(name)
    assert (
        "--revision 5b4f1d2 --tokenizer-revision 5b4f1d2"
        in plan_launch(model, CATALOG.default_image, api_key=None).args[1]
    )
    assert (
        "--revision"
        not in plan_launch(CATALOG.model("BAAI/bge-reranker-base"), CATALOG.default_image, api_key=None).args[1]
    )


def test_an_unknown_model_is_told_where_it_can_be_described() -> None:
    assert "describe it in models.yaml" in CATALOG.problems_with_model("me/other")[0]
