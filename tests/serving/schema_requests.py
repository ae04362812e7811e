"""Requests from a server's OpenAPI description: a valid request with one or a few changes each.

Called by test_stub_and_vllm. The same description always gives the same requests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

Body = Any
SEED = 20_261_126
COMBINED = 150
TEXT = "what is deep learning"
# JSON values of all types; objects and lists also in the forms of documents
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, -2, 1.0, 1.5, "", "1", "yes", "a text", [], [[]], {}, ["a"], ["a", "b", "a"], [""],
    [None], [1], ["a", None], {"text": "a"}, [{"text": "a"}], {"content": []}, {"content": "a"}, {"a": 1},
    {"content": [{"type": "text", "text": "a"}]}, [{"content": [{"type": "text", "text": "a"}]}],
)  # fmt: skip
# properties of the APIs of Cohere and Jina, and of other routes of vLLM; none of them is in the description
UNKNOWN = ("return_documents", "rank_fields", "add_special_tokens", "normalize", "encoding_format", "not_there")


def bodies(spec: dict[str, Any], path: str, limit: int) -> Iterator[Body]:
    """Yield different bodies for a path. `limit`: the token limit of the model, as numbers around it matter."""
    texts = set()
    for body in _bodies(spec, path, limit):
        text = json.dumps(body, sort_keys=True)
        if text not in texts:
            texts.add(text)
            yield body


def _bodies(spec: dict[str, Any], path: str, limit: int) -> Iterator[Body]:
    yield from (None, [], "text", 1, {})
    rng = random.Random(SEED)
    for shape in _objects(spec, spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]):
        first, second = shape["required"]
        valid = {first: TEXT, second: ["pizza", "deep learning", "weather"]}
        yield from (valid, {first: TEXT}, {second: ["a"]}, valid | {"model": "nobody/nothing"})
        for n, m in ((1, 1), (2, 2), (2, 3), (3, 2), (0, 1), (1, 0), (0, 0)):
            yield valid | {first: ["a"] * n, second: ["b"] * m}
        for words in (limit // 8, limit * 3):  # with every tokenizer, the first fits and the second does not
            for options in ({}, *({"truncate_prompt_tokens": cut} for cut in (-1, 0, 5)), {"padding": "max_length"}):
                yield valid | {second: ["word " * words]} | options
                yield valid | {first: "word " * words} | options
        values = {name: list(_values(schema, limit)) for name, schema in shape["properties"].items()}
        values |= {name: [None, True, False, "a"] for name in UNKNOWN}
        for name, candidates in values.items():
            yield from (valid | {name: value} for value in candidates)
        for _ in range(COMBINED):
            names = rng.sample(sorted(values), 3)
            yield valid | {name: rng.choice(values[name]) for name in names}


def _objects(spec: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the object schemas of a schema."""
    if "$ref" in schema:
        yield from _objects(spec, spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    elif "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from _objects(spec, option)
    else:
        yield schema


def _values(schema: dict[str, Any], limit: int) -> Iterator[Any]:
    yield from VALUES
    for option in schema.get("anyOf", [schema]):
        yield from option.get("enum", ())
        if option.get("type") == "integer":
            yield from (limit - 1, limit, limit + 1, str(limit), f"{limit}.0", 2**63 - 1, 2**63, -(2**63), -(2**63) - 1)
        if "maxLength" in option:
            yield from ("x" * count for count in (127, 128, 129, option["maxLength"], option["maxLength"] + 1))
            yield from ("a/b", "a@b", "a\\b", "a\0b")
