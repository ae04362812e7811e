"""Each rule of the policy: what breaks it, what passes it, when it binds, and what the pack's config adds."""

import re
from dataclasses import replace

import pytest

from components.errors import ConfigError
from components.records import record, structure
from components.settings import load
from components.vast.rental_spec import Bid
from components.vllm.catalog import Catalog, load_catalog
from components.vllm.score_checks import judge_latency
from policy.facts import instance_facts
from policy.limits import load_limits, parse
from policy.pack import policies
from policy.rules import NAMED, RULES, Facts, PolicyLimits, violations

SWEDEN = {
    "machine_id": 7, "gpu_name": "RTX 4090", "dph_total": 0.4, "geolocation": "Sweden, SE", "hosting_type": 1
}  # fmt: skip
PINNED = "vllm/vllm-openai:v0.19.1"

# rule -> its limits, then facts that break it (with what is said) and facts that pass
CASES = {
    "hourly-price": (
        PolicyLimits(max_hourly_usd=0.5),
        [
            (Facts(config_hourly_usd=0.6), r"lets the stack cost \$0.6/h; \$0.5/h is allowed"),
            (Facts(offers=[SWEDEN], machines=2), r"RTX 4090 on machine 7 costs 2 x \$0.4000/h"),
            (Facts(offers=[SWEDEN, SWEDEN | {"dph_total": 0.51, "machine_id": 8}]), "machine 8"),
        ],
        [Facts(), Facts(config_hourly_usd=0.5), Facts(offers=[SWEDEN])],
    ),
    "pinned-image": (
        PolicyLimits(rules=("pinned-image",)),
        [
            (Facts(image="vllm/vllm-openai"), "has no tag, which means latest"),
            (Facts(image="registry:5000/vllm"), "has no tag"),
            (Facts(image="vllm/vllm-openai:latest"), "a tag that moves"),
            (Facts(image="vllm/vllm-openai:v1-nightly"), "a tag that moves"),
            (Facts(image="vllm/vllm-openai@sha256:abc"), "not sha256: and 64 hex digits"),
        ],
        [Facts(), Facts(image=PINNED), Facts(image=f"vllm/vllm-openai@sha256:{'0' * 64}")],
    ),
    "tls-and-guard": (
        PolicyLimits(rules=("tls-and-guard",)),
        [
            (Facts(tls=False, guard=True), "tls off"),
            (Facts(tls=True, guard=False), "guard off"),
            (Facts(tls=False, guard=False), "tls and guard off"),
        ],
        [Facts(), Facts(tls=True, guard=True)],
    ),
    "no-bid": (
        PolicyLimits(rules=("no-bid",)),
        [(Facts(interruptible=True), "interruptible")],
        [Facts(), Facts(interruptible=False)],
    ),
    "countries": (
        PolicyLimits(countries=("SE", "NO")),
        [
            (Facts(config_countries=["SE", "us"]), "the config asks for us; SE, NO are allowed"),
            (Facts(offers=[SWEDEN, {"machine_id": 8, "geolocation": "Texas, US"}]), "machine 8 is in US"),
            (Facts(offers=[{"machine_id": 9}]), "machine 9 is in an unknown country"),
        ],
        [Facts(), Facts(config_countries=["se"]), Facts(offers=[SWEDEN])],
    ),
    "hosting": (
        PolicyLimits(hosting="datacenter"),
        [
            (Facts(config_hosting="private"), "asks for private hosts; datacenter is required"),
            (Facts(offers=[SWEDEN | {"hosting_type": 0}]), "machine 7 is not in a datacenter"),
            (Facts(offers=[{"machine_id": 9}]), "machine 9 is not in a datacenter"),
        ],
        [Facts(), Facts(config_hosting=""), Facts(config_hosting="datacenter"), Facts(offers=[SWEDEN])],
    ),
    "label": (
        PolicyLimits(rules=("label",)),
        [
            (Facts(label=""), "is not <project>/<stack>/<name>"),
            (Facts(label="mine"), "is not <project>/<stack>/<name>"),
        ],
        [Facts(), Facts(label="vast-reranker/prod/reranker")],
    ),
    "disk": (
        PolicyLimits(max_disk_gb=50),
        [(Facts(disk_gb=50.5), "disk_gb is 50.5; 50 are allowed")],
        [Facts(), Facts(disk_gb=50)],
    ),
    "flags": (
        PolicyLimits(flags=("--max-num-seqs", "--revision")),
        [(Facts(flags=["--max-num-seqs", "--worker-cls", "--worker-cls"]), "has --worker-cls; --max")],
        [Facts(), Facts(flags=[]), Facts(flags=["--revision"])],
    ),
    "pins": (
        PolicyLimits(pins=("image", "model")),
        [
            (Facts(image=PINNED), "image not pinned by digest or commit"),
            (Facts(image=f"vllm/vllm-openai:v1@sha256:{'0' * 64}", revision="main"), "model not pinned"),
            (Facts(image=PINNED, revision=""), "image and model not pinned"),
        ],
        [Facts(), Facts(image=f"vllm/vllm-openai:v1@sha256:{'0' * 64}", revision="0" * 40)],
    ),
    "validation": (
        PolicyLimits(rules=("validation",)),
        [(Facts(validated=False), "no check validates the server.s answers")],
        [Facts(), Facts(validated=True)],
    ),
}  # fmt: skip
BROKEN = [(rule, limits, facts, says) for rule, (limits, broken, _) in CASES.items() for facts, says in broken]
PASSING = [(rule, limits, facts) for rule, (limits, _, passing) in CASES.items() for facts in passing]
EVERYTHING = PolicyLimits(NAMED, max_hourly_usd=0.5, max_disk_gb=50, countries=("SE",), hosting="datacenter")


def settings(limits, catalog=None, **changes):
    return load(changes, catalog or load_catalog(), hub_reachable=lambda _url: True, limits=parse(limits))


def refusals(limits, catalog=None, **changes):
    with pytest.raises(ConfigError) as caught:
        settings(limits, catalog, **changes)
    return [one for one in caught.value.problems if one.startswith("policy: ")]


def test_pins_binds_what_it_names():
    assert violations(Facts(image=PINNED, revision=""), PolicyLimits(pins=("model",)))
    assert not violations(Facts(image=PINNED, revision="0" * 40), PolicyLimits(pins=("model",)))


def test_flags_and_revision_are_those_of_extra_args_in_any_spelling():
    allowed = {"flags": ["--revision"], "pins": ["model"]}
    assert settings(allowed, extra_args=f'["--revision={"0" * 40}"]')
    assert settings({"pins": ["model"]}, revision="0" * 40)
    found = refusals(allowed, extra_args='["--revision", "main", "--enforce_eager"]')
    assert "extra_args has --enforce-eager" in found[0]
    assert "model not pinned" in found[1]


def test_every_rule_has_cases_here():
    assert [rule.name for rule in RULES] == list(CASES)


@pytest.mark.parametrize(("rule", "limits", "facts", "says"), BROKEN)
def test_what_breaks_a_rule_is_said_in_one_line_with_the_remedy(rule, limits, facts, says):
    (line,) = violations(facts, limits)
    assert line.startswith(f"policy: {rule}: ")
    assert "\n" not in line
    assert line.endswith(f"; {next(one.remedy for one in RULES if one.name == rule)}")
    assert re.search(says, line), line


@pytest.mark.parametrize(("rule", "limits", "facts"), PASSING)
def test_what_keeps_a_rule_or_is_not_known_passes(rule, limits, facts):
    assert violations(facts, limits) == []


@pytest.mark.parametrize(("rule", "limits", "facts", "says"), BROKEN)
def test_a_rule_that_does_not_bind_says_nothing(rule, limits, facts, says):
    assert violations(facts, PolicyLimits()) == []


def test_several_broken_rules_are_all_named():
    facts = Facts(image="x", interruptible=True, disk_gb=99, offers=[SWEDEN | {"geolocation": "Texas, US"}])
    rules = [line.split(": ")[1] for line in violations(facts, EVERYTHING)]
    assert rules == ["pinned-image", "no-bid", "countries", "disk"]


def test_limits_survive_their_record():
    assert structure(PolicyLimits, record(EVERYTHING)) == parse(record(EVERYTHING)) == EVERYTHING
    assert structure(PolicyLimits, record(PolicyLimits())) == parse({}) == PolicyLimits()


# ---- in the program, by config


@pytest.mark.parametrize(
    ("rule", "binding", "breaking"),
    [
        ("hourly-price", {"max_hourly_usd": 0.5}, {"max_dph_usd": "0.6"}),
        ("hourly-price", {"max_hourly_usd": 0.5}, {"max_dph_usd": "0.3", "hedge": "2"}),
        ("hourly-price", {"max_hourly_usd": 0.5}, {"max_hourly_usd": "0.6"}),
        ("hourly-price", {"max_hourly_usd": 0.5}, {"bid": "0.6"}),
        ("pinned-image", {"rules": ["pinned-image"]}, {"image": "vllm/vllm-openai:latest"}),
        ("tls-and-guard", {"rules": ["tls-and-guard"]}, {"guard": "off"}),
        ("no-bid", {"rules": ["no-bid"]}, {"bid": "auto"}),
        ("countries", {"countries": ["se"]}, {"require": '{"countries": ["US"]}'}),
        ("countries", {"countries": ["SE"]}, {"query": "num_gpus=1 geolocation=US"}),
        ("countries", {"countries": ["SE"]}, {"query": 'num_gpus=1 geolocation in [SE,US]'}),
        ("hosting", {"hosting": "datacenter"}, {"query": "num_gpus=1 datacenter=false"}),
        ("disk", {"max_disk_gb": 40}, {"disk_gb": "41"}),
    ],
)  # fmt: skip
def test_a_config_that_breaks_a_rule_is_refused_and_one_that_does_not_is_loaded(rule, binding, breaking):
    (line,) = refusals(binding, **breaking)
    assert line.startswith(f"policy: {rule}: ")
    settings(binding)


def test_a_model_without_golden_pairs_breaks_the_rule_of_validation():
    known = load_catalog()
    blank = replace(known.models["BAAI/bge-reranker-base"], golden=())
    catalog = Catalog(known.images, {blank.name: blank}, known.default_image.ref)
    (line,) = refusals({"rules": ["validation"]}, catalog)
    assert line.startswith("policy: validation: ")
    settings({"rules": ["validation"]})


def test_what_the_policy_demands_of_a_machine_joins_the_query():
    made = settings({"max_hourly_usd": 0.5, "countries": ["se", "NO"], "hosting": "datacenter"}, hedge="2")
    demands = {str(one) for one in made.constraints}
    assert "dph_total<=0.25 (policy max_hourly_usd)" in demands
    assert "geolocation in [SE,NO] (policy countries)" in demands
    assert "datacenter=true (policy hosting)" in demands


def test_a_bid_without_a_cap_is_bounded_by_the_policys_price():
    assert settings({"max_hourly_usd": 0.5}, bid="auto").bid == Bid(cap_usd=0.5)
    assert settings({"max_hourly_usd": 0.5}, bid="auto", max_dph_usd="0.2").bid == Bid(cap_usd=0.2)


# ---- limits.yaml


def limits_from(tmp_path, text, stack="dev"):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    return load_limits(stack, path)


def test_the_first_pattern_that_fits_the_stacks_name_binds_it(tmp_path):
    text = "dev: {max_disk_gb: 1}\n'review-*': {max_disk_gb: 2}\n'*': {max_disk_gb: 3}\n"
    assert [limits_from(tmp_path, text, name).max_disk_gb for name in ("dev", "review-7", "prod")] == [1, 2, 3]
    assert limits_from(tmp_path, "dev: {max_disk_gb: 1}\n", "prod") == PolicyLimits()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{rules: [no-bids]}", r"rules: has 'no-bids'; accepted: .*\(no-bid\?\)"),
        ("{countries: [SE, NO]}", "countries: is False; accepted: text; YAML reads NO without quotes as the word no"),
        ("{max_disk: 3}", "max_disk: accepted: rules, max_hourly_usd"),
        ("{max_disk_gb: true}", "max_disk_gb: is True; accepted: a number"),
        ("{hosting: home}", "hosting: is 'home', which is none of '', 'datacenter'"),
        ("{max_hourly_usd: 0}", "max_hourly_usd: is 0.0; accepted: a number above 0"),
        ("{rules: label}", "rules: is 'label'; accepted: a list"),
        ("[", "cannot be read"),
    ],
)
def test_a_mistake_in_the_limits_is_an_error_for_every_stack_that_names_file_and_key(tmp_path, entry, says):
    for name in ("dev", "another"):
        with pytest.raises(ValueError, match=f"policy/limits.yaml: (dev: )?{says}"):
            limits_from(tmp_path, f"dev: {entry}", name)


# ---- in the resource and in the pack


def test_the_facts_of_an_instance_are_read_off_its_inputs():
    inputs = {
        "image": PINNED,
        "disk_gb": 40.0,
        "label_base": "a/b/c",
        "hedge": 2.0,
        "bid": {"price_usd": 0.2},
        "probe": {"headers": {"Authorization": "Bearer ${RERANK_API_KEYS}"}},
    }
    facts = instance_facts(inputs, [SWEDEN], tls=True)
    assert facts == Facts(PINNED, True, True, True, "a/b/c", 40.0, None, 0.4, offers=[SWEDEN], machines=2)
    own_key = {"headers": {"Authorization": "Bearer ${VLLM_API_KEY}"}}
    assert instance_facts({"probe": own_key}).guard is False
    assert instance_facts({"probe": {"path": "/health"}}).guard is False
    assert instance_facts({}).guard is None


def test_the_pack_has_every_rule_as_a_mandatory_policy_with_its_remedy():
    made = {one.name: one for one in policies()}
    assert list(made) == [rule.name for rule in RULES]
    for rule in RULES:
        assert rule.remedy in made[rule.name].description
        assert made[rule.name].enforcement_level.name == "MANDATORY"


@pytest.mark.parametrize(("limit_ms", "passed"), [(49, False), (50, True)])
def test_the_median_of_what_requests_took_is_held_against_the_limit(limit_ms, passed):
    check = judge_latency(limit_ms, [10, 50, 900])
    assert check.passed is passed
    assert check.saw == f"median 50 ms of 3, limit {limit_ms}"
    assert bool(check.advice) is not passed
