import json
import re
from pathlib import Path

import pytest
import yaml

from components.config import Config, groups, inner_groups, secret_keys
from components.config_keys import describe_type, has_secret, is_list, is_map
from components.config_reading import read
from components.errors import ConfigError
from components.program_config import misplaced_keys
from components.settings import load
from components.vast.identity import Authority
from components.vast.models import Offer
from components.vast.query import parse
from components.vast.ranking import Candidate
from components.vast.rental_spec import Bid
from components.vllm.catalog import load_catalog
from scripts.configuration import schema
from tests.unit.wire_samples import offer

REPO = Path(__file__).resolve().parents[2]
PEM = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----"
CA = Authority.make("clients").certificate
LARGE_ENV = {f"VALUE_{number:02}": "x" * 250 for number in range(31)}


def as_the_engine_passes_it(value):
    """Lists and objects are JSON, all else is text."""
    return json.dumps(value) if isinstance(value, list | dict) else str(value).lower() if value is True else str(value)


def settings(hub=True, in_clear=(), **changes):
    raw = {key: as_the_engine_passes_it(value) for key, value in changes.items()}
    return load(raw, load_catalog(), hub_reachable=lambda _url: hub, in_clear=in_clear)


def problems(**changes):
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    return caught.value.problems


def test_the_defaults_in_the_schema_are_those_of_the_model():
    raw = {key: as_the_engine_passes_it(one["default"]) for key, one in schema().items()}
    assert read(raw) == (Config(), [])


def test_the_defaults_are_the_guides_deployment():
    made = settings()
    assert made.model.name == "BAAI/bge-reranker-base"
    assert made.config.disk_gb == 40
    assert parse(made.config.query)["gpu_ram"] == {"gte": 16000.0}


def test_what_the_image_and_the_disk_demand_joins_the_query():
    demands = {str(one) for one in settings().constraints}
    assert "cuda_max_good>=12.9 (image vllm/vllm-openai:v0.19.1)" in demands
    assert "disk_space>=40 (disk_gb)" in demands
    assert "compute_cap>=750 (image vllm/vllm-openai:v0.19.1)" in demands


def test_what_is_required_joins_the_query():
    require = {"min_reliability": 0.95, "gpu_names": ["RTX_4090"], "countries": ["se", "NO"], "hosting": "datacenter"}
    demands = {str(one) for one in settings(require=require | {"min_duration_h": "2"}, max_dph_usd=0.25).constraints}
    assert "dph_total<=0.25 (max_dph_usd)" in demands
    assert "reliability>=0.95 (require.min_reliability)" in demands
    assert any("RTX 4090" in one and one.endswith("(require.gpu_names)") for one in demands)
    assert "geolocation in [SE,NO] (require.countries)" in demands
    assert "datacenter=true (require.hosting)" in demands
    assert any(one.startswith("duration>=") and one.endswith("(require.min_duration_h)") for one in demands)


def test_an_offer_lasts_a_day_longer_than_its_renewal_takes_so_that_no_up_rents_again():
    demands = {str(one) for one in settings(renew={"before_h": 168}).constraints}
    assert "duration>=8 (renew.before_h)" in demands  # shown in days, as it is asked


def test_an_offer_that_by_its_bandwidth_takes_longer_to_pull_than_it_may_is_no_candidate():
    demands = {(one.field, one.because): one.value for one in settings(timeouts={"pulling_s": 60}).constraints}
    wanted = demands["inet_down", "timeouts.pulling_s"]
    made = settings()
    gb = made.image.download_gb + made.model.weights_gb
    slower, slow = (Offer.parse(offer(1, inet_down=mbps)) for mbps in (wanted - 1, wanted))
    ready = [Candidate.of(one, gb, start_s=0).ready_s for one in (slower, slow)]
    assert ready[0] > 60 >= ready[1]


def test_what_the_model_and_its_dtype_demand_of_the_gpu_joins_the_query():
    demands = {(one.field, one.op): one for one in settings(dtype="bfloat16").constraints}
    assert demands["compute_cap", "gte"].value == 800
    assert demands["compute_cap", "gte"].because == "dtype bfloat16"
    assert demands["gpu_ram", "gte"].value == 2800  # (278 M x 2 bytes + 2 GB) / 0.9, in Vast's MB
    assert demands["gpu_ram", "gte"].because == "model BAAI/bge-reranker-base"


@pytest.mark.parametrize("text", ["true", "on", "True", True, "yes"])
def test_the_words_for_true_mean_the_same(text):
    assert settings(tls=text, limits={"open_health": text}).config.tls
    assert settings(limits={"open_health": text}).guard_options["open_health"]


@pytest.mark.parametrize("text", ["false", "off", "False", False, "no"])
def test_the_words_for_false_mean_the_same(text):
    assert not settings(tls=text, limits={"open_health": text}).config.tls


def test_a_key_of_a_group_leaves_the_others_at_their_defaults():
    made = settings(timeouts={"stall_s": 600})
    assert made.deadlines.stall_s == 600
    assert made.deadlines.rented_s == 180


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "BAAI/bge-reranker-bse"}, "model: unknown model .*nearest: BAAI/bge-reranker-base"),
        ({"image": "vllm/vllm-openai:latest"}, "image: .*moves"),
        ({"image": "vllm/vllm-openai"}, "image: .*no tag"),
        ({"disk_gb": "20"}, "disk_gb: is 20, but .* needs at least 3. GB"),
        ({"query": "gpu_ram>=16 oops"}, "query: cannot be read at position 13"),
        ({"max_dph_usd": "-0.1"}, "max_dph_usd: is '-0.1'; accepted: a number of at least 0.001"),
        ({"max_dph_usd": "nan"}, "max_dph_usd: "),
        ({"prefer": "best"}, "prefer: is 'best'; accepted: cheapest, fastest, balanced"),
        ({"form": "x"}, "form: is 'x'; accepted: script, plain"),
        ({"form": "plain"}, "guard: is true, but form plain does not support it; accepted: guard false"),
        ({"require": {"min_reliability": 98}}, "require.min_reliability: is 98; accepted: a number from 0 to 1"),
        ({"require": {"countries": ["USA"]}}, "require.countries: is 'USA'; accepted: two-letter codes"),
        ({"require": {"countries": [False]}}, "require.countries: is False; .*YAML reads NO, .* write them in quotes"),
        ({"emulator": {"url": "console.vast.ai"}}, "emulator.url: .*http"),
        ({"revision": "--evil"}, "revision: is '--evil'; accepted: text: a commit, tag or branch"),
        ({"emulator": {"url": "http://console.vast.ai"}}, "emulator.url: .* would get the Vast.ai key in clear"),
        ({"emulator": {"url": "http://127.0.0.1.evil.example:8585"}}, "emulator.url: .* would get the Vast.ai key"),
        ({"extra_args": ["--api-key", "x"]}, "extra_args: --api-key is set by the stack"),
        (
            {"extra_args": ["--log-level", "x"]},
            "extra_args: --log-level is not a flag of vLLM 0.19.1; vLLM 0.32.0 has it",
        ),
        ({"hedge": "9"}, "hedge: is '9'; accepted: a whole number from 1 to 4"),
        ({"bid": "cheap"}, "bid: is 'cheap'; accepted: auto or a number of at least 0.001"),
        ({"schedule": {"windows": [{"days": ["mon"], "to": "06:00"}]}}, "schedule.windows.0.from: is not given"),
        ({"modle": "x"}, "modle: is not a config key; did you mean model?"),
        ({"timeouts": {"stal_s": 3}}, "timeouts.stal_s: is not a config key; did you mean stall_s?"),
        ({"gateway": {"kind": "caddy", "url": "https://x"}}, "gateway.admin_url: is empty"),
        ({"gateway": {"kind": "caddy", "admin_url": "http://x"}}, "gateway.url: is empty"),
        ({"gateway": {"kind": "rent"}, "guard": "off"}, "guard: is false, but the gateway"),
        ({"gateway": {"kind": "rent"}, "tls": "off"}, "tls: is false, but a rented gateway presents a certificate"),
        ({"gateway": {"url": "https://x:1"}}, "gateway.url: is for a gateway, but gateway.kind is off; accepted: "),
        ({"gateway": {"listen": ":9"}}, "gateway.listen: is for a gateway, but gateway.kind is off"),
        ({"budget_refuses": True}, "budget_refuses: is true, but budget_usd_month is not set"),
        ({"keep_previous_key": True}, "keep_previous_key: is true, but api_key_generation 1 has no previous key"),
        ({"client_ca": PEM}, "client_ca: holds no certificates in PEM that can be read"),
        ({"client_ca": CA * 20}, r"client_ca: is \d+ characters; accepted: 8192"),
        ({"client_ca": CA, "tls": "off"}, "client_ca: is set, but tls is false"),
        ({"client_ca": CA, "guard": "off"}, "client_ca: is set, but vLLM itself checks no certificate"),
        (
            {"client_ca": CA, "gateway": {"kind": "caddy", "listen": "unix//x"}},
            "client_ca: is set, but gateway.listen is a socket",
        ),
        ({"client_keys": {"a b": {}}}, "client_keys: is 'a b'; accepted: names such as search or batch-2"),
        ({"client_keys": {"management": None}}, "client_keys: .*; management is the name of a key that every"),
        ({"client_keys": {"a": {"expires": "soon"}}}, "client_keys.a.expires: is 'soon'; accepted: a date such as"),
        ({"client_keys": {"a": {"pairs_per_min": 0}}}, "client_keys.a.pairs_per_min: is 0; accepted: a number of at"),
        ({"client_keys": {"a": {"routes": ["/metrics"]}}}, "client_keys.a.routes: is '/metrics'; accepted: among /rer"),
        ({"client_keys": {"a": {"expire": 1}}}, "client_keys.a.expire: is not a config key; did you mean expires?"),
        ({"client_keys": {"a": {"keep_previous": True}}}, "client_keys.a.keep_previous: is true, but generation 1 has"),
        ({"client_keys": {f"a{n}": {} for n in range(31)}}, "client_keys: are 31 keys, .*; accepted: 30 at most"),
        (
            {"client_keys": {"a": {}}, "guard": "off", "tls": "off"},
            "client_keys: are set, but vLLM itself accepts only",
        ),
        (
            {"renew": {"certificate_before_d": 400}},
            "renew.certificate_before_d: is 400; accepted: a number from 0 to 30",
        ),
        ({"renew": {"before_h": 99999}}, "renew.before_h: is 99999; accepted: a number from 0 to 4380"),
        ({"timeouts": {"serving_s": 1e8}}, "timeouts.serving_s: is .*; accepted: a number from 1 to 86400"),
        ({"limits": {"max_body_mb": 99999}}, "limits.max_body_mb: is 99999; accepted: a number from 0.01 to 64"),
        ({"replicas": 100000}, "replicas: is 100000; accepted: a whole number from 0 to 256, or an object of min, max"),
        (
            {"in_clear": ["api_key"]},
            "api_key: is a secret but stored unencrypted; set it with `pulumi config set --secret",
        ),
    ],
)
def test_a_bad_value_is_named_by_its_key_with_what_is_accepted(changes, says):
    assert any(re.match(says, one) for one in problems(**changes)), problems(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "env: .*HF_TOKEN is set by the stack"),
        ({"env": {"GUARD_KEY": "x"}}, "env: .*GUARD_KEY is set by the stack"),
        ({"env": {"FILES_0_00": "x"}}, "env: .*FILES_0_00 is set by the stack"),
        ({"env": {"TLS_KEY": "x"}}, "env: .*TLS_KEY is set by the stack"),
        ({"env": {"VLLM_API_KEY": "x"}}, "env: .*VLLM_API_KEY is set by the stack"),
        ({"env": {"LD_PRELOAD": "x"}}, "env: .*LD_PRELOAD .*would run other code"),
        ({"env": {"PYTHONSTARTUP": "x"}}, "env: .*PYTHONSTARTUP .*would run other code"),
        ({"env": {"A B": "x"}}, "env: .*names such as HF_ENDPOINT"),
        ({"env": {"A": "x" * 257}}, "env: .*1 to 256 characters"),
        ({"env": {"A": "x\ny"}}, "env: .*in one line"),
        ({"env": LARGE_ENV, "hub_token": "s3cret-s3cret"}, "env: has 8019 characters .*accepted: 8000 at most"),
        ({"secret_env": {"A": "s3cret-s3cret\n1"}}, r"secret_env: is \(it is not shown\); .*in one line"),
        ({"secret_env": {"GUARD_KEY": "s3cret-s3cret"}}, r"secret_env: is \(it is not shown\); GUARD_KEY is set"),
        ({"served_model_names": ["a b"]}, "served_model_names: .*names without blanks"),
        ({"served_model_names": ["a" * 200]}, "served_model_names: are too long in total for Vast.ai: remove at least"),
    ],
)
def test_an_environment_or_a_name_that_a_server_cannot_have_is_refused(changes, says):
    found = problems(**changes)
    assert any(re.match(says, one) for one in found), found
    assert "s3cret-s3cret" not in "".join(found)


def test_the_environment_of_a_server_is_text_whatever_yaml_made_of_it_and_secrets_are_in_it():
    env = {"HF_HUB_DISABLE_XET": 1, "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_DO_NOT_TRACK": True}
    config = settings(env=env, secret_env={"PROXY_KEY": "s3cret-s3cret"}, hub_token="hf-s3cret").config
    assert config.server_env() == {
        "HF_HUB_DISABLE_XET": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_DO_NOT_TRACK": "true",
        "PROXY_KEY": "s3cret-s3cret",
        "HF_TOKEN": "hf-s3cret",
    }
    assert "s3cret" not in repr(config)


def test_what_is_too_long_is_cut_unless_it_is_to_be_refused_and_of_a_decoder_the_guard_knows_the_prompt():
    assert settings().guard_options["truncate"] == -1
    assert settings(limits={"truncate_prompt_tokens": 100}).guard_options["truncate"] == 100
    assert "truncate" not in settings(limits={"truncate_prompt_tokens": "refuse"}).guard_options
    assert "template" not in settings().guard_options
    made = settings(model="Qwen/Qwen3-Reranker-0.6B", extra_args=["--max-model-len", "16k"])
    assert made.guard_options["context"] == 16000
    assert made.guard_options["template"] == len(made.model.chat_template.encode())
    assert made.guard_options["models"] == ["Qwen/Qwen3-Reranker-0.6B"]


def fields():
    for key, field in Config.model_fields.items():
        if key in groups():
            for inner, one in groups()[key].model_fields.items():
                yield key, inner, one
        else:
            yield key, "", field


# any text is read: the catalog and the query's parser judge it, or it is a key of somebody else's service
ANY_TEXT = ("model", "image", "query", "vast_api_key", "hub_token")


@pytest.mark.parametrize(
    ("group", "key", "field"),
    [pytest.param(*one, id=".".join(filter(None, one[:2]))) for one in fields() if one[0] not in ANY_TEXT],
)
def test_each_key_refuses_what_it_does_not_take_and_says_what_it_takes(group, key, field):
    name = f"{group}.{key}" if key else group
    wrong = [5] if is_list(field) or is_map(field) else 5 if key in inner_groups() else {"x": 1}
    if not key and wrong != [5]:
        wrong = "\x00,"
    raw = {group: json.dumps({key: wrong}) if key else as_the_engine_passes_it(wrong)}
    _, found = read(raw)
    assert len(found) == 1, found
    assert found[0].startswith(f"{name}: is "), found
    assert "accepted: " in found[0]
    if has_secret(field):
        assert "it is not shown" in found[0]
    elif not re.search("two-letter|http", found[0]):
        assert f"accepted: {describe_type(field)}" in found[0]


def test_a_key_in_a_namespace_that_is_nearly_the_projects_is_refused_and_others_are_left_alone():
    keys = ["vast-reranker:model", "vast-rerank:replicas", "aws:region", "pulumi:tags"]
    (problem,) = misplaced_keys(keys, "vast-reranker")
    assert problem == ("vast-rerank:replicas: is in an unknown namespace; did you mean vast-reranker:replicas?")
    with pytest.raises(ConfigError, match="vast-rerank:replicas"):
        load({}, load_catalog(), hub_reachable=lambda _url: True, misplaced=[problem])
    assert misplaced_keys(["aws:region"], "anything") == misplaced_keys([], "anything") == []


def test_all_bad_values_are_reported_at_once():
    assert len(problems(model="x", image="y", prefer="z", disk_gb="1", max_dph_usd="-1", limits={"nope": 1})) == 6


@pytest.mark.parametrize("key", ["api_key", "api_key_previous", "image_login"])
@pytest.mark.parametrize("value", ["short-secret", "short-secret\n"])
def test_a_bad_secret_is_refused_without_showing_it(key, value):
    (problem,) = problems(**{key: value})
    assert "short-secret" not in problem


CADDY = {"kind": "caddy", "url": "https://x:1", "admin_url": "http://127.0.0.1:2019"}


def given(key, value):
    group, _, inner = key.rpartition(".")
    return {group: {inner: value}} if group else {key: value}


SECRET_VALUES = {
    "image_login": "-u robot -p 0123456789abcdef registry.example.org", "secret_env": {"TOKEN": "0123456789abcdef"}
}  # fmt: skip


def within(value, form):
    """Return a secret, or each of an object's, with a text around it."""
    return {name: form.format(one) for name, one in value.items()} if isinstance(value, dict) else form.format(value)


@pytest.mark.parametrize("key", sorted(set(secret_keys()) - {"gateway.private_key"}))
def test_every_secret_is_read_without_the_blanks_around_it_and_refused_with_one_inside(key):
    bare = SECRET_VALUES.get(key, "0123456789abcdef")
    for around in ("{}\n", " {}", "{}\r", "{}\r\n", "\t{} "):
        around_it = given(key, within(bare, around))
        config, found = read({name: as_the_engine_passes_it(one) for name, one in around_it.items()})
        for part in key.split("."):
            config = getattr(config, part)
        plain = config.get_secret_value() if key != "secret_env" else {"TOKEN": config["TOKEN"].get_secret_value()}
        assert (plain, found) == (bare, [])
    in_one_line = ["{}\n{}", "{}\x07", "{}\r{}"]
    for spoilt in in_one_line if key == "secret_env" else [*in_one_line, "{} {}", "{}\u00e9"]:
        (problem,) = problems(**given(key, within(bare, spoilt.replace("{}", "{0}"))))
        assert problem.startswith(f"{key}: is (it is not shown); accepted: ")
        assert ("in one line" if key == "secret_env" else "printable ASCII") in problem
        assert "0123456789abcdef" not in problem


def test_secrets_are_in_no_repr():
    made = settings(api_key="k" * 40, hub_token="hf_abcdefgh", gateway={**CADDY, "admin_key": "admin-secret"})
    made_too, _ = read({"gateway": json.dumps({"private_key": (pem := Authority.make("x").private_key)})})
    assert pem.splitlines()[1] not in repr(made_too)
    for secret in ("k" * 40, "hf_abcdefgh", "admin-secret"):
        assert secret not in repr(made)
    assert set(secret_keys()) == {
        "vast_api_key", "api_key", "api_key_previous", "secret_env", "hub_token", "image_login", "gateway.admin_key",
        "gateway.private_key", "notify.webhook",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hub", "served"), [(True, "BAAI/bge-reranker-base"), (False, "sentence-transformers/all-MiniLM-L6-v2")]
)
def test_without_the_hub_the_offline_model_is_served_under_its_own_name(hub, served):
    made = settings(hub=hub, emulator={"offline_model": "sentence-transformers/all-MiniLM-L6-v2"})
    assert made.model.name == served


def test_a_bid_is_bounded_by_the_price_cap():
    assert settings(bid="auto", max_dph_usd="0.2").bid == Bid(cap_usd=0.2)
    assert settings(bid="0.1").bid == Bid(0.1)
    assert settings().bid is None


def test_the_stack_files_name_no_project_so_that_a_renamed_one_keeps_its_config():
    for path in REPO.glob("Pulumi.*.yaml"):
        for key in yaml.safe_load(path.read_text())["config"]:
            assert key in Config.model_fields, (path, key)


def test_a_revision_is_of_the_model_that_is_named_and_not_of_the_one_offline():
    assert settings(revision="5b4f1d2").model.revision == "5b4f1d2"
    offline = settings(
        hub=False, revision="5b4f1d2", emulator={"offline_model": "sentence-transformers/all-MiniLM-L6-v2"}
    )
    assert offline.model.revision == ""


EMULATOR = "http://127.0.0.1:8585"


def test_a_stack_on_the_real_one_is_refused_in_a_shell_that_is_prepared_for_the_emulator(monkeypatch):
    monkeypatch.setenv("VAST_URL", EMULATOR)
    assert any(
        one.startswith("emulator.url: is not set, so this stack rents on the real Vast.ai") for one in problems()
    )
    monkeypatch.delenv("VAST_URL")
    assert settings()
