"""The policy on the real engine: refused by the preview before anything is rented, in the program and by the pack.

The pack is run by the real engine through its analyzer protocol. The Python language host that can be built from source
is too old to start a pack (it starts the stack's program instead), so the engine is told a runtime of another name, for
which it starts `pulumi-analyzer-policy-<runtime>`: a script that runs the pack as Pulumi's own did.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from emulator.server import EmulatorServer
from harness.stack import REPO, EngineStack, resources_of
from ops.exits import POLICY
from policy.rules import NAMED, RULES
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine

# rule -> what binds it in policy/limits.yaml, and a config that breaks it
BREAKING = {
    "hourly-price": ({"max_hourly_usd": 0.5}, {"max_dph_usd": 0.6}),
    "pinned-image": ({"rules": ["pinned-image"]}, {"image": "vllm/vllm-openai:latest"}),
    "tls-and-guard": ({"rules": ["tls-and-guard"]}, {"guard": False}),
    "no-bid": ({"rules": ["no-bid"]}, {"bid": "auto"}),
    "countries": ({"countries": ["SE"]}, {"require.countries": ["US"]}),
    "hosting": ({"hosting": "datacenter"}, {"query": "num_gpus=1 datacenter=false"}),
    "disk": ({"max_disk_gb": 40}, {"disk_gb": 44}),
    "flags": ({"flags": ["--revision"]}, {"extra_args": ["--max-num-seqs", "64"]}),
    "pins": ({"pins": ["image"]}, {}),
}
KEEPING = {
    "rules": list(NAMED),
    "max_hourly_usd": 0.5,
    "max_disk_gb": 40,
    "countries": ["SE", "NO", "CZ", "DE", "US", "CA"],
    "hosting": "datacenter",
}
# An instance of somebody's own program: a label of its own, and nothing that validates it.
BARE_PROGRAM = """
from components.instance import Instance, InstanceArgs
from components.offers import OfferQuery
from components.vast.market import Search
from components.vast.probe import HttpProbe
from components.vast.rental_spec import Bid

offers = OfferQuery("offers", Search(query="num_gpus=1", disk_gb=40, pull_gb=10), ["bare"])
Instance(
    "bare",
    InstanceArgs(
        label_base="mine",
        owner=offers.id,
        search=offers.search_text,
        image="vllm/vllm-openai:latest",
        disk_gb=40,
        ports=["8000/tcp"],
        probe=HttpProbe(8000, path="/health"),
        stack_secret="a secret of this program",
        bid=Bid(factor=1.2),
        POLICY
    ),
)
"""


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    with EmulatorServer(
        runtime="none", time="instant", state_dir=tmp_path_factory.mktemp("market") / "emulator"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def scene(market, tmp_path_factory):
    """One stack for all that is refused: nothing of it is ever rented."""
    return EngineStack(tmp_path_factory.mktemp("policy"), market.url).init()


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The pack as it is, under a runtime that no language host has, and the script that runs it."""
    folder = tmp_path_factory.mktemp("pack")
    shutil.copytree(REPO / "policy", folder / "policy", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = folder / "policy" / "PulumiPolicy.yaml"
    manifest.write_text(manifest.read_text().replace("runtime: python", "runtime: analyzer"))
    runner = folder / "bin" / "pulumi-analyzer-policy-analyzer"
    runner.parent.mkdir()
    runner.write_text('#!/bin/sh\nexec python -u -m pulumi.policy "$1" "$2"\n')
    runner.chmod(0o755)
    return folder


def with_pack(stack, pack, **limits):
    """Return the arguments that make a stack's command run the pack, with limits of its own for every stack."""
    if str(pack) not in stack.env["PATH"]:
        stack.env["PATH"] = f"{pack / 'bin'}:{stack.env['PATH']}"
    (pack / "policy" / "limits.yaml").write_text(yaml.safe_dump({"*": limits}))
    return ["--policy-pack", str(pack / "policy")]


def bare(market, folder, *, policy):
    """A stack of BARE_PROGRAM; `policy` is the source of the Instance's policy argument."""
    stack = EngineStack(folder, market.url)
    program = stack.project / "__main__.py"
    program.unlink()
    program.write_text(BARE_PROGRAM.replace("POLICY", policy))
    return stack.init()


def refusals(text):
    """Return the lines that a pipeline reads: each broken rule once, however often the engine prints it."""
    lines = (line.strip() for line in text.splitlines())
    return {line.split(": ")[1]: line for line in lines if line.startswith("policy: ")}


def refused_by_pack(text):
    """Return the rules that the engine says a pack found broken."""
    return set(re.findall(r"\[mandatory\]\s+(\S+)", text))


def ops_preview(stack):
    """Run the preview of pipelines on a stack."""
    command = [sys.executable, "-m", "ops", "preview", "--stack", stack.name, "--cwd", str(stack.project)]
    return subprocess.run(command, cwd=REPO, env=stack.env, capture_output=True, text=True, timeout=120, check=False)


def test_a_config_that_breaks_every_rule_is_told_each_of_them_at_once_and_nothing_is_rented(scene, market):
    everything = {name: value for _, changes in BREAKING.values() for name, value in changes.items()}
    limits = {name: value for binding, _ in BREAKING.values() for name, value in binding.items()}
    scene.write_limits(**limits | {"rules": [rule for one, _ in BREAKING.values() for rule in one.get("rules", ())]})
    scene.write_config(everything)
    done = ops_preview(scene)
    scene.write_config(dict.fromkeys(everything))
    scene.write_limits()
    said = done.stdout + done.stderr
    assert done.returncode == POLICY, said
    assert set(re.findall(r"policy: ([\w-]+): ", said)) == set(BREAKING), said
    for rule in RULES:
        assert (rule.remedy in said) == (rule.name in BREAKING), rule.name
    assert Ledger(market.control).contracts() == []


@pytest.mark.all
@pytest.mark.parametrize("rule", BREAKING)
def test_a_config_that_breaks_a_rule_is_refused_by_the_preview(scene, market, rule):
    limits, changes = BREAKING[rule]
    scene.write_limits(**limits)
    scene.write_config(changes)
    done = ops_preview(scene)
    scene.write_config(dict.fromkeys(changes))
    scene.write_limits()
    said = done.stdout + done.stderr
    assert done.returncode == POLICY, said
    assert set(re.findall(r"policy: ([\w-]+): ", said)) == {rule}, said
    assert next(one.remedy for one in RULES if one.name == rule) in said
    assert "Traceback" not in said
    assert Ledger(market.control).contracts() == []


@pytest.mark.all
def test_a_stack_that_keeps_every_rule_is_rented_within_them_and_stays_in_sync(market, tmp_path):
    stack = EngineStack(tmp_path, market.url).init()
    stack.write_limits(**KEEPING)
    seen = ops_preview(stack)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    done = stack.up()
    assert done.rc == 0, done.text
    [offer] = [one["outputs"]["offer"] for one in resources_of(stack.deployment()) if one["type"].endswith(":Instance")]
    offer = json.loads(offer)
    assert offer["hosting_type"] == 1
    assert offer["geolocation"][-2:] in KEEPING["countries"]
    assert offer["dph_total"] <= 0.5
    assert stack.drift().rc == 0
    elsewhere = [code for code in KEEPING["countries"] if code != offer["geolocation"][-2:]]
    stack.write_limits(**KEEPING | {"countries": elsewhere})
    seen = stack.preview()
    assert "the machine no longer satisfies: geolocation in [" in seen, seen.text
    assert stack.destroy().rc == 0


@pytest.mark.all
def test_an_instance_of_a_program_of_its_own_is_refused_before_it_is_rented(market, tmp_path):
    policy = 'policy={"rules": ["label", "pinned-image", "no-bid"], "countries": ["IS"], "max_hourly_usd": 0.001}'
    stack = bare(market, tmp_path, policy=policy)
    before = Ledger(market.control).billed()
    for done in (stack.preview(), stack.up()):
        assert done.rc != 0
        assert set(refusals(done.text)) == {"label", "pinned-image", "no-bid", "countries", "hourly-price"}, done.text
        assert "nothing is rented" in done
    assert Ledger(market.control).billed() == before


@pytest.mark.all
def test_an_instance_to_adopt_is_judged_as_well_and_left_as_it_is(market, tmp_path):
    owner = EngineStack(tmp_path / "owner", market.url, config={"require.gpu_names": ["RTX 4090"]}).init()
    assert owner.up().rc == 0
    adopted, price = (owner.outputs()[name] for name in ("instance_id", "hourly_cost_usd"))
    stack = EngineStack(tmp_path / "adopter", market.url).init()
    stack.write_config(adopt_instance_id=adopted)
    stack.write_limits(max_hourly_usd=price["total"] * 0.95)
    done = stack.up()
    assert done.rc != 0
    assert set(refusals(done.text)) == {"hourly-price"}, done.text
    assert adopted in Ledger(market.control).billed()
    assert owner.destroy().rc == 0


def test_the_pack_passes_a_stack_that_keeps_every_rule(scene, pack):
    limits = KEEPING | {"countries": ["CZ", "SE", "US"]}
    scene.write_limits(**limits)
    args = with_pack(scene, pack, **limits | {"hosting": ""})
    done = scene.preview(*args)
    scene.write_limits()
    assert done.rc == 0, done.text
    assert "✅ vast-reranker@v1.0.0" in done, done.text
    assert "can't run policy" not in done


def test_the_pack_refuses_what_breaks_its_own_limits_whatever_the_stacks_own_say(scene, pack, market):
    scene.write_config(guard=False, bid="auto", disk_gb=44)
    limits = {"max_hourly_usd": 0.01, "max_disk_gb": 40, "countries": ["IS"], "hosting": "datacenter"}
    args = with_pack(scene, pack, rules=["tls-and-guard", "no-bid"], **limits)
    broken = {"hourly-price", "tls-and-guard", "no-bid", "countries", "disk"}
    before = Ledger(market.control).billed()
    for done in (scene.preview(*args), scene.up(*args)):
        assert done.rc != 0
        assert refused_by_pack(done.text) - {"hosting"} == broken, done.text
        assert "❌ vast-reranker@v1.0.0" in done
    scene.write_config(guard=None, bid=None, disk_gb=None)
    assert Ledger(market.control).billed() == before


@pytest.mark.all
def test_the_pack_refuses_a_program_that_says_nothing_of_policy_and_validates_nothing(market, pack, tmp_path):
    stack = bare(market, tmp_path, policy="")
    done = stack.preview(*with_pack(stack, pack, **KEEPING | {"countries": ["IS"]}))
    assert done.rc != 0
    assert refused_by_pack(done.text) >= {"pinned-image", "tls-and-guard", "no-bid", "label", "validation", "countries"}


@pytest.mark.all
def test_the_pack_judges_the_whole_stack_too_by_the_limits_of_its_name(market, pack, tmp_path):
    stack = bare(market, tmp_path, policy="")
    program = stack.project / "__main__.py"
    program.write_text(program.read_text().replace('"mine"', '"a/b/mine"').replace("8000/tcp", "8000:8000"))
    args = with_pack(stack, pack, rules=["label"])
    for done in (stack.up(*args), stack.preview(*args)):
        assert done.rc == 0, done.text
        assert "✅ vast-reranker@v1.0.0" in done, done.text
    assert stack.destroy().rc == 0


def test_every_rule_is_broken_here(pack):
    by_pack = {"label", "validation"}
    assert set(BREAKING) | by_pack == {rule.name for rule in RULES}


def environment(name):
    """Return the config of a stack file that ships, on an emulator."""
    return yaml.safe_load((REPO / f"Pulumi.{name}.yaml").read_text())["config"]


@pytest.mark.parametrize(
    "name", [pytest.param("dev", marks=pytest.mark.all), pytest.param("staging", marks=pytest.mark.all), "prod"]
)
def test_each_environment_finds_a_machine_that_its_policy_allows(market, tmp_path, name):
    own = {
        f"{key}.{inner}" if inner else key: one
        for key, value in environment(name).items()
        for inner, one in (value.items() if isinstance(value, dict) else [("", value)])
    }
    stack = EngineStack(tmp_path, market.url, name=name, config=own).init()
    done = stack.preview()
    assert done.rc == 0, done.text
    assert "first choice: offer" in done


@pytest.mark.all
def test_a_protected_stack_is_healed_but_not_destroyed_until_protect_is_off(market, tmp_path):
    ledger = Ledger(market.control)
    stack = EngineStack(tmp_path, market.url, config={"protect": True, "replace": "in_place"}).init()
    assert stack.up().rc == 0
    first = stack.outputs()["instance_id"]
    done = stack.destroy()
    assert done.rc != 0
    assert "because it is protected" in done
    assert first in ledger.billed()
    assert stack.drift().rc == 0

    ledger.control(f"instances/{first}/kill")
    done = stack.up()
    assert done.rc == 0, done.text
    second = stack.outputs()["instance_id"]
    assert second != first

    stack.write_config(protect=False)
    assert stack.up().rc == 0
    done = stack.destroy()
    assert done.rc == 0, done.text
    assert not {first, second} & ledger.billed()


@pytest.mark.all
def test_an_answer_that_takes_too_long_fails_the_deploy_and_a_bound_that_is_kept_shows_in_the_report(market, tmp_path):
    stack = EngineStack(tmp_path, market.url, config={"max_latency_ms": 60000}).init()
    assert stack.up().rc == 0
    assert "limit 60000" in stack.validation_report()["latency"]
    stack.write_config(max_latency_ms=0)
    assert stack.up().rc == 0
    assert "latency" not in stack.validation_report()
    assert stack.destroy().rc == 0


@pytest.mark.all
def test_a_rented_gateway_stands_where_the_policy_allows_and_needs_no_validation_of_its_own(scene, pack):
    limits = {"countries": ["CZ", "SE", "US"], "hosting": "datacenter", "rules": list(NAMED), "max_hourly_usd": 1}
    scene.write_limits(**limits)
    scene.write_config({"gateway.kind": "rent", "replicas": 2})
    done = scene.preview(*with_pack(scene, pack, **limits))
    scene.write_config(dict.fromkeys(("gateway.kind", "replicas")))
    scene.write_limits()
    assert done.rc == 0, done.text
    assert "✅ vast-reranker@v1.0.0" in done, done.text
