"""Typed records: what an engine makes of them comes back as the same record."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from components.instance import InstanceArgs
from components.records import record, structure
from components.translation import Declared
from components.vast.assignment import ReplicaSlot
from components.vast.drift import Watch
from components.vast.market import Search
from components.vast.money import Budget
from components.vast.probe import HttpProbe
from components.vast.query import Constraint
from components.vast.rental_spec import Bid, Deadlines, Order, Spec


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float = 1.0
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    anything: Any = None


def carried(value):
    """What an engine makes of plain data: ints are floats, tuples are lists."""
    return json.loads(json.dumps(record(value)), parse_int=float)


@pytest.mark.parametrize(
    "made",
    [
        Outer("n"),
        Outer("n", 2, Inner(3, "b"), (Inner(1), Inner(2)), {"k": "v"}, {"x": [1.0, None]}),
        HttpProbe(8000, "POST", "/rerank", {"Authorization": "Bearer ${KEY}"}, ["yes"], "score", None, "", 15.0),
        Deadlines(rented_s=1),
        Watch("never", 20.0, 1.0, 2.0),
        Budget(0.5, 24),
        Bid(0.2, 1.25, 0.3),
        ReplicaSlot(1, 3, "country"),
        Search("num_gpus=1", 40, 12.6, (Constraint("gpu_ram", "gte", 16.0, "why"),), "cheapest", keep=9),
        Search({"num_gpus": {"eq": 1.0}}, 40, 12.6),
    ],
)  # fmt: skip
def test_a_record_comes_back_from_the_engine_as_it_was(made):
    back = structure(type(made), carried(made))
    assert back == made
    assert repr(back) == repr(structure(type(made), record(made)))


def test_whole_numbers_are_whole_again():
    assert repr(structure(Inner, {"size": 8.0}).size) == "8"


def test_what_is_missing_or_null_keeps_its_default_and_what_is_unknown_is_left_out():
    assert structure(Outer, {"name": "n", "ratio": None, "inner": None, "of another version": 1}) == Outer("n")


@pytest.mark.parametrize("raw", [{}, {"name": None}, {"name": "n", "inner": {}}])
def test_what_has_no_default_has_to_be_there(raw):
    with pytest.raises(TypeError, match="missing"):
        structure(Outer, raw)


@pytest.mark.parametrize("raw", [{"name": "n", "ratio": "x"}, {"name": "n", "inner": {"size": 1, "kind": "c"}}])
def test_a_value_that_is_not_of_its_type_is_an_error(raw):
    with pytest.raises(ValueError, match=r"'[xc]'"):
        structure(Outer, raw)


def test_the_verbs_read_every_input_that_an_instance_is_declared_with():
    read = {*Declared.__dataclass_fields__, *Spec.__dataclass_fields__, *Order.__dataclass_fields__}
    assert {*InstanceArgs.__dataclass_fields__} - read == {"ca_private_key", "policy", "replace"}
