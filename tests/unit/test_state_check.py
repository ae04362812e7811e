"""What of a state is refused before an engine reads it: providers that are other code than this checkout's."""

import base64
import pickle
import pickletools
import re

import pytest
from pulumi.dynamic.dynamic import serialize_provider

from components.credentials import ApiKeyProvider
from components.instance import InstanceProvider
from harness.stack import REPO
from ops.state_check import foreign_code, is_own_pickle, provider_classes

SECRET = "4dabf18193072939515e22adb298388d"


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (print, ("ran",))


class WithState(InstanceProvider):
    """What `__init__` keeps goes into the pickle."""

    def __init__(self):
        self.hook = "x"


def text(one, protocol=4):
    return base64.b64encode(pickle.dumps(one, protocol=protocol)).decode()


def instance(given, part="outputs"):
    return {"urn": "urn::one", "type": "pulumi-python:dynamic:Instance", "custom": True, part: {"__provider": given}}


def test_every_provider_of_this_checkout_as_pulumi_writes_it_is_its_own_of_its_type_only():
    source = "\n".join(path.read_text() for path in (REPO / "components").glob("*.py"))
    assert {name for _, name in provider_classes().values()} == set(re.findall(r"^class (\w+Provider)\(", source, re.M))
    for kind, provider in (("Instance", InstanceProvider()), ("ApiKey", ApiKeyProvider())):
        assert is_own_pickle(serialize_provider(provider), kind)
        assert not is_own_pickle(serialize_provider(provider), "Gateway")


@pytest.mark.parametrize("protocol", [4, 5])
def test_the_version_of_the_pickle_does_not_matter(protocol):
    assert is_own_pickle(text(InstanceProvider(), protocol), "Instance")


@pytest.mark.parametrize(
    "given",
    [
        text(Payload()),
        text([InstanceProvider(), Payload()]),
        text(WithState()),
        text(InstanceProvider),
        text("components.instance"),
        base64.b64encode(pickletools.optimize(pickle.dumps(Payload(), 2))).decode(),
        "not base64",
        "",
    ],
)
@pytest.mark.parametrize("stored", ["plain", "secret"])
@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_any_other_pickle_is_refused_by_its_resource_in_clear_or_as_a_secret(given, stored, part):
    value = given if stored == "plain" else {SECRET: "1b47061264138c4ac30d75fd1eb44270", "plaintext": f'"{given}"'}
    [found] = foreign_code([instance(value, part)])
    assert found.startswith("urn::one: ")


@pytest.mark.parametrize(
    "one",
    [
        {"type": "pulumi:providers:command", "custom": True},
        {"type": "pulumi:providers:pulumi-python", "custom": True, "inputs": {"pluginDownloadURL": "https://x"}},
        {"type": "pulumi:providers:pulumi-python", "inputs": {"__internal": {"pluginDownloadURL": "https://x"}}},
        {"type": "pulumi:providers:pulumi-python", "inputs": {"__internal": {"name": "command"}}},
        {"type": "pulumi:providers:pulumi", "inputs": {"__internal": {"parameterization": "e30="}}},
        {"type": "command:local:Command", "custom": True},
    ],
)
def test_a_program_that_the_engine_would_fetch_is_refused(one):
    assert len(foreign_code([{"urn": "urn::two", **one}])) == 1


def test_components_the_stack_the_plugins_own_provider_and_the_engines_are_not():
    kinds = ("pulumi:pulumi:Stack", "vast:index:RerankerFleet")
    plugin = {
        "urn": "p",
        "type": "pulumi:providers:pulumi-python",
        "custom": True,
        "inputs": {"vast-reranker:model": "m"},
    }
    built_in = {"urn": "b", "type": "pulumi:providers:pulumi", "custom": True, "inputs": {}}
    assert foreign_code([*({"urn": kind, "type": kind, "custom": False} for kind in kinds), plugin, built_in]) == []
