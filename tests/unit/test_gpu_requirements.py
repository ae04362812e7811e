"""What model, image and dtype demand of a GPU, and which flags a version of vLLM has."""

import pytest

from components.vllm.catalog import load_catalog
from components.vllm.gpu_requirements import compute_cap_floor, load_flags, vram_needed_gb
from components.vllm.launch import plan_launch

CATALOG = load_catalog()
IMAGE = CATALOG.default_image


def test_the_vram_estimate_grows_with_parameters_and_with_their_width():
    needed = {name: vram_needed_gb(model) for name, model in CATALOG.models.items()}
    by_size = sorted(CATALOG.models.values(), key=lambda model: model.parameters_m)
    assert [needed[model.name] for model in by_size] == sorted(needed.values())
    large = CATALOG.model("BAAI/bge-reranker-large")
    assert vram_needed_gb(large) == 3.5  # (560 M x 2 bytes + 2 GB) / 0.9
    assert vram_needed_gb(large, "float32") == 4.7
    assert vram_needed_gb(large, "bfloat16") == vram_needed_gb(large, "half")


def test_bfloat16_asks_for_a_gpu_that_has_it():
    assert compute_cap_floor(IMAGE) == compute_cap_floor(IMAGE, "half") == 750
    assert compute_cap_floor(IMAGE, "bfloat16") == 800


@pytest.mark.parametrize("version", ["0.19.1", "0.20.2", "0.32.0"])
def test_the_flags_of_every_catalog_model_are_those_of_every_catalog_image(version):
    for model in CATALOG.models.values():
        assert load_flags().problems(version, plan_launch(model, IMAGE, api_key=None, form="plain").args) == []
    assert load_flags().problems(version, ["--middleware", "x", "--ssl-certfile", "x", "--ssl-keyfile", "x"]) == []


def test_a_flag_that_a_version_does_not_have_is_named_with_where_it_is_or_what_was_meant():
    newer = ["--max-num-queued-reqs", "8", "--calculate-kv-scales"]
    assert load_flags().problems("0.19.1", newer) == [
        "--max-num-queued-reqs is not a flag of vLLM 0.19.1; vLLM 0.32.0 has it"
    ]
    assert load_flags().problems("0.32.0", newer) == [
        "--calculate-kv-scales is not a flag of vLLM 0.32.0; vLLM 0.19.1 has it"
    ]
    assert load_flags().problems("0.32.0", ["--max-model-length=9"]) == [
        "--max-model-length is not a flag of vLLM 0.32.0; did you mean --max-model-len?"
    ]
    assert load_flags().problems("0.20.2", newer) == []  # either may be true of it


@pytest.mark.parametrize(
    "args", [["--max_model_len", "9"], ["--max-model-len=9"], ["--hf-overrides.a.b", "1"], ["-O3"]]
)
def test_a_flag_is_known_however_it_is_written(args):
    assert load_flags().problems("0.19.1", args) == []


@pytest.mark.parametrize("version", ["unknown", "0.18.0", "1.0.0", "0.32.1"])
def test_of_a_version_that_nobody_asked_nothing_is_said(version):
    assert load_flags().problems(version, ["--nonsense"]) == []
