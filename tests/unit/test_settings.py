import json
import re
from pathlib import Path

import pytest
import yaml

from components.errors import ConfigError
from components.plugin.session import choose_key, is_loopback
from components.settings import KEYS, SECRET_KEYS, load
from components.vast.query import parse
from components.vllm.catalog import load_catalog

REPO = Path(__file__).resolve().parents[2]
SCHEMA = yaml.safe_load((REPO / "Pulumi.yaml").read_text())["config"]
DEFAULTS = {
    key: json.dumps(one["default"]) if isinstance(one["default"], list) else str(one["default"])
    for key, one in SCHEMA.items()
}


def settings(hub=True, in_clear=(), **changes):
    return load(DEFAULTS | changes, load_catalog(), hub_reachable=lambda _url: hub, in_clear=in_clear)


def problems(**changes):
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    return caught.value.problems


def test_the_schema_and_the_settings_know_the_same_keys():
    assert set(SCHEMA) | set(SECRET_KEYS) == set(KEYS)


def test_the_defaults_are_the_guides_deployment():
    made = settings()
    assert made.model.name == "BAAI/bge-reranker-base"
    assert made.disk_gb == 40
    assert parse(made.query)["gpu_ram"] == {"gte": 16000.0}


def test_what_the_image_and_the_disk_demand_joins_the_query():
    demands = {str(one) for one in settings().constraints}
    assert "cuda_max_good>=12.9 (image vllm/vllm-openai:v0.19.1)" in demands
    assert "disk_space>=40 (disk_gb)" in demands
    assert "compute_cap>=750 (image vllm/vllm-openai:v0.19.1)" in demands


def test_what_the_model_and_its_dtype_demand_of_the_gpu_joins_the_query():
    demands = {(one.field, one.op): one for one in settings(dtype="bfloat16").constraints}
    assert demands["compute_cap", "gte"].value == 800
    assert demands["compute_cap", "gte"].because == "dtype bfloat16"
    assert demands["gpu_ram", "gte"].value == 2800  # (278 M x 2 bytes + 2 GB) / 0.9, in Vast's MB
    assert demands["gpu_ram", "gte"].because == "model BAAI/bge-reranker-base"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "BAAI/bge-reranker-bse"}, "vast-reranker:model: unknown model .*nearest: BAAI/bge-reranker-base"),
        ({"image": "vllm/vllm-openai:latest"}, "vast-reranker:image: .*moves"),
        ({"image": "vllm/vllm-openai"}, "vast-reranker:image: .*no tag"),
        ({"disk_gb": "20"}, "vast-reranker:disk_gb: is 20, but .* needs 3. GB at least"),
        ({"query": "gpu_ram>=16 oops"}, "vast-reranker:query: cannot be read at position 13"),
        ({"max_dph_usd": "-0.1"}, "vast-reranker:max_dph_usd: is '-0.1'; accepted: a number of at least 0.001"),
        ({"max_dph_usd": "nan"}, "vast-reranker:max_dph_usd: "),
        ({"prefer": "best"}, "vast-reranker:prefer: is 'best'; accepted: cheapest, fastest, balanced"),
        ({"form": "x"}, "vast-reranker:form: is 'x'; accepted: script, plain"),
        ({"min_reliability": "98"}, "vast-reranker:min_reliability: is 98; accepted: 0 to 1"),
        ({"countries": '["USA"]'}, "vast-reranker:countries: has USA"),
        ({"api_url": "console.vast.ai"}, "vast-reranker:api_url: .*http"),
        ({"extra_args": '["--api-key", "x"]'}, "vast-reranker:extra_args: --api-key is set by the stack"),
        ({"extra_args": '["--grpc"]'}, "extra_args: --grpc is not a flag of vLLM 0.19.1; vLLM 0.32.0 has it"),
        ({"gateway": "caddy", "gateway_url": "host:8443"}, "vast-reranker:gateway_url: is 'host:8443'; .*https"),
        ({"gateway": "caddy"}, "vast-reranker:gateway_admin_url: is empty"),
        ({"hedge": "9"}, "vast-reranker:hedge: is 9; accepted: 1 to 4"),
        ({"bid": "cheap"}, "vast-reranker:bid: is 'cheap'"),
        ({"modle": "x"}, "vast-reranker:modle: is not a config key; did you mean model?"),
        ({"in_clear": ["api_key"]}, "vast-reranker:api_key: is a secret but stored in clear"),
    ],
)
def test_a_bad_value_is_named_by_its_key_with_what_is_accepted(changes, says):
    assert any(re.search(says, one) for one in problems(**changes)), problems(**changes)


def test_all_bad_values_are_reported_at_once():
    assert len(problems(model="x", image="y", prefer="z", disk_gb="1", max_dph_usd="-1")) == 5


def test_a_bad_client_key_is_refused_without_showing_it():
    (problem,) = problems(api_key="short-secret")
    assert "short-secret" not in problem


def test_secrets_are_in_no_repr():
    made = settings(api_key="k" * 40, hub_token="hf_abcdefgh")
    assert "k" * 40 not in repr(made)
    assert "hf_abcdefgh" not in repr(made)


@pytest.mark.parametrize(
    ("hub", "served"), [(True, "BAAI/bge-reranker-base"), (False, "sentence-transformers/all-MiniLM-L6-v2")]
)
def test_without_the_hub_the_offline_model_is_served_under_its_own_name(hub, served):
    made = settings(hub=hub, offline_model="sentence-transformers/all-MiniLM-L6-v2")
    assert made.model.name == served


def test_a_bid_is_bounded_by_the_price_cap():
    assert settings(bid="auto", max_dph_usd="0.2").bid == {"factor": 1.25, "cap_usd": 0.2}
    assert settings(bid="0.1").offer_type == "bid"
    assert settings().offer_type == "on-demand"


def test_every_stack_file_of_the_repo_has_only_known_keys():
    for path in REPO.glob("Pulumi.*.yaml"):
        keys = {key.removeprefix("vast-reranker:") for key in yaml.safe_load(path.read_text())["config"]}
        assert keys <= set(KEYS), path


@pytest.mark.parametrize(
    ("url", "configured", "ambient", "chosen"),
    [
        ("https://console.vast.ai", "from-config", "from-env", "from-env"),
        ("https://console.vast.ai", "from-config", "", "from-config"),
        ("http://127.0.0.1:8585", "from-config", "from-env", "from-config"),
        ("http://127.0.0.1:8585", "", "from-env", "from-env"),
    ],
)
def test_the_environments_key_comes_first_but_never_goes_to_an_emulator_that_has_its_own(
    url, configured, ambient, chosen, monkeypatch
):
    monkeypatch.setenv("VAST_API_KEY", ambient)
    assert choose_key(url, configured) == chosen


def test_loopback_is_told_apart():
    assert is_loopback("http://127.0.0.1:8585")
    assert is_loopback("http://localhost:1")
    assert not is_loopback("https://console.vast.ai")
