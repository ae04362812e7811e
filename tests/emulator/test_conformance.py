"""Every documented operation that the emulator answers, against its description: conformance.yaml has both and says
where, and by whose word, the emulator differs.
"""

import re
from pathlib import Path

import pytest
import yaml

from tests.emulator.client import JSON

TABLE = yaml.safe_load(Path(__file__).with_name("conformance.yaml").read_text())
KINDS = {"integer": int, "number": int | float, "text": str, "boolean": bool, "object": dict, "list": list}
EXCEPTIONS = {(operation, field): shown for operation, field, shown, _source in TABLE["exceptions"]}


class Scene:
    """Makes what a call names, and puts its id there."""

    def __init__(self, vast):
        self.vast = vast
        self.made = {}

    def instance(self):
        return self.vast.running()["id"]

    def stopped(self):
        instance_id = self.instance()
        self.vast.call("PUT", f"0/instances/{instance_id}/", {"state": "stopped"})
        return instance_id

    def bid(self):
        offer = self.vast.offer(type="bid")
        return self.vast.running(ask_id=offer["id"], price=offer["min_bid"] * 1.1)["id"]

    def ask(self):
        return self.vast.offer()["id"]

    def key(self):
        return self.vast.call("POST", "0/ssh/", {"ssh_key": "ssh-ed25519 AAAA"}).json()["key"]["id"]

    def template(self):
        made = self.vast.call("POST", "0/template/", {"name": "a template", "image": "ubuntu"})
        return made.json()["template"]["hash_id"]

    def id_of(self, name):
        if name not in self.made:
            self.made[name] = getattr(self, name)()
        return self.made[name]

    def filled(self, value):
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if value == "LONG":
            return "x" * 1025
        name = re.fullmatch(r"\{(\w+)\}", value) if isinstance(value, str) else None
        return self.id_of(name[1]) if name else value

    def call(self, call, body=None, text=None):
        method, path = re.sub(r"\{(\w+)\}", lambda found: str(self.id_of(found[1])), call).split(" ", 1)
        if text is not None:
            return self.vast.session.request(method, self.vast.url + path, data=text, headers=JSON, timeout=10)
        return self.vast.session.request(method, self.vast.url + path, json=self.filled(body), timeout=10)


def is_a(value, kind):
    if value is None:
        return kind.endswith("/null")
    kind = kind.removesuffix("/null")
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def rows_at(answer, place):
    found = answer[place.removesuffix("[]")] if place.removesuffix("[]") else answer
    return found if place.endswith("[]") else [found]


def described(place, fields):
    """The described type of each field, by its name."""
    return {name: kind.rstrip("+") for kind, names in fields[place].items() for name in names.split()}


@pytest.mark.parametrize("operation", TABLE["operations"])
def test_an_answer_is_what_its_description_says(vast, operation):
    spec = TABLE["operations"][operation]
    scene = Scene(vast)
    for name in spec.get("needs", []):
        scene.id_of(name)
    answer = scene.call(spec["call"], spec.get("body"), spec.get("text"))
    used = {"status"} if EXCEPTIONS.get((operation, "status")) == answer.status_code else set()
    assert used or answer.status_code == spec.get("status", 200), answer.text
    for place in spec.get("fields", {}):
        rows = rows_at(answer.json(), place)
        assert rows
        for name, kind in described(place, spec["fields"]).items():
            assert all(name in row for row in rows), f"{place} has no {name}"
            other = [row[name] for row in rows if not is_a(row[name], kind)]
            if other:
                shown = EXCEPTIONS.get((operation, name), kind)
                assert all(is_a(value, shown) for value in other), f"{name} is {other[0]!r}, described as {kind}"
                used.add(name)
    for name, value in spec.get("says", {}).items():
        if answer.json()[name] != value:
            assert answer.json()[name] == EXCEPTIONS.get((operation, name), value)
            used.add(name)
    assert used == {field for one, field in EXCEPTIONS if one == operation}, "an exception that is none any more"


@pytest.mark.parametrize(("call", "body"), TABLE["enumerated"])
def test_a_value_that_is_not_among_those_described_is_refused(vast, call, body):
    answer = Scene(vast).call(call, body)
    assert (answer.status_code, answer.json()["error"]) in ((400, "invalid_args"), (400, "invalid_request"))
    assert "asks" not in call or vast.rows() == []
