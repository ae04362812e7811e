"""What a component's arguments and its program's config come to together."""

import ast
import json

import pytest

from components.component_args import FROM_CONFIG, merge_config
from components.config import secret_keys
from components.config_reading import read
from components.errors import ConfigError
from components.program_config import read_group
from scripts.configuration import ARGS


def test_arguments_are_read_as_config_is():
    args = {"replicas": 2.0, "tls": False, "bid": "auto", "limits": {"max_documents": 5.0}, "extra_args": ["--a"]}
    config, problems = read(merge_config(args, {}))
    assert problems == []
    assert (config.replicas.max, config.tls, config.bid, config.limits.max_documents) == (2, False, "auto", 5)
    assert config.extra_args == ("--a",)


def test_of_the_programs_config_only_what_is_no_argument_is_taken():
    config = {"replicas": "7", "emulator": '{"url": "http://127.0.0.1:1"}', "hub_token": "a-token-of-this-test"}
    raw = merge_config({"model": "m"}, config)
    assert raw == {"model": "m", "emulator": config["emulator"], "hub_token": config["hub_token"]}


def test_a_secret_in_a_group_joins_the_arguments_of_that_group():
    raw = merge_config(
        {"gateway": {"kind": "caddy"}}, {"gateway": '{"admin_key": "a-key-0123456789ab", "kind": "rent"}'}
    )
    assert json.loads(raw["gateway"]) == {"kind": "caddy", "admin_key": "a-key-0123456789ab"}


def test_no_argument_holds_a_secret_or_what_the_provider_reads_by_itself():
    classes = [node for node in ast.parse(ARGS.read_text()).body if isinstance(node, ast.ClassDef)]
    names = {
        ("" if one.name == "RerankerArgs" else f"{one.name.removesuffix('Args').lower()}.") + each.target.id
        for one in classes
        for each in one.body
        if isinstance(each, ast.AnnAssign)
    }
    assert len(names) > 30
    assert not names & {*FROM_CONFIG, *secret_keys()}


@pytest.mark.parametrize("text", ["foo", "[1]", "7", '"x"', '["SECRET-1"]'])
@pytest.mark.parametrize("group", ["notify", "gateway"])
def test_a_group_that_is_no_object_is_named_and_not_quoted(group, text):
    assert read_group({group: text}, group) == {}
    with pytest.raises(ConfigError, match=f"{group}: is not an object") as caught:
        merge_config({"model": "m"}, {group: text})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"{group}: is not an object"):
        merge_config({"model": "m", group: text}, {})
    problems = read({group: text})[1]
    assert len(problems) == 1
    assert problems[0].startswith(f"{group}: is ")
    assert "SECRET" not in problems[0]


@pytest.mark.parametrize("text", ["", "null", "{}"])
def test_an_empty_group_has_no_keys(text):
    assert read_group({"notify": text}, "notify") == {}
    assert read(merge_config({"model": "m"}, {"notify": text}))[1] == []
