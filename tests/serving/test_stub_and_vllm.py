"""The stub beside the real vLLM that it stands in for: the same requests, the same statuses and shapes.

Not compared: scores and counts of tokens, which take a model and its tokenizer; the words of errors (the stub does not
know the name of a model's architecture); routes that the stub does not have, as nothing here asks for them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from emulator.runtime import free_port
from harness.vllm import IP, Vllm
from harness.wait import until
from tests.emulator.client import answers
from tests.serving.conftest import CATALOG, REPO
from tests.serving.schema_requests import bodies

pytestmark = [pytest.mark.vllm, pytest.mark.all]

PAIR = b'{"query": "a", "documents": ["b"], "text_1": "a", "text_2": "b"}'
JSON = {"content-type": "application/json"}
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE")
PATHS = ("/health", "/ping", "/version", "/load", "/metrics", "/v1/models", "/rerank", "/score", "/nope", "/v1/x")
# what no schema makes: bodies and types of bodies that are no JSON, or other JSON than they say
RAW: tuple[tuple[bytes, dict[str, str]], ...] = (
    (b'{"model":', JSON),
    (b"", JSON),
    (b'{"query": "\xff", "documents": ["b"]}', JSON),
    (b'{"query": NaN, "documents": ["b"]}', JSON),
    (b'{"query": "a", "documents": ["b"], "top_n": NaN}', JSON),
    (b'{"query": "\\ud800", "documents": ["b"]}', JSON),
    (PAIR, {}),
    (PAIR, {"content-type": "text/plain"}),
    (PAIR, {"content-type": "application/vnd.x+json"}),
    (PAIR, {"content-type": "Application/JSON; charset=utf-8"}),
    (PAIR, {**JSON, "x-request-id": "mine"}),
)


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def calls(server: Vllm, kind: str, limit: int) -> Iterator[Call]:
    spec = requests.get(f"{server.url}/openapi.json", timeout=30).json()
    for path in ("/rerank", "/score") if kind == "cross_encoder" else ("/rerank",):
        yield from (Call("POST", path, json.dumps(body).encode(), JSON) for body in bodies(spec, path, limit))
    yield from (Call("POST", path, *raw) for path, raw in itertools.product(("/rerank", "/score"), RAW))
    yield from (Call("POST", path, PAIR, JSON) for path in ("/v1/rerank", "/v2/rerank", "/v1/score"))
    yield from (Call(method, path, b"") for path, method in itertools.product(PATHS, METHODS))


def shape(value: Any) -> Any:
    """Return what clients rely on: names, types, how many; of an error, type and parameter as well."""
    if isinstance(value, dict):
        told = {name: value[name] for name in ("type", "param", "code") if "code" in value}
        return {name: shape(one) for name, one in value.items()} | told
    if isinstance(value, list):
        return [len(value), *(shape(one) for one in value[:1])]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def answer(session: requests.Session, url: str, call: Call) -> tuple[int, str, Any]:
    got = session.request(call.method, url + call.path, data=call.body, headers=call.headers, timeout=120)
    kind = got.headers.get("content-type", "").partition(";")[0]
    return got.status_code, kind, shape(got.json()) if kind == "application/json" and got.content else bool(got.content)


@contextlib.contextmanager
def stub(server: Vllm, limit: int, *flags: str) -> Iterator[str]:
    port = free_port(IP)
    argv = [sys.executable, "-m", "emulator.stub", server.model, "--host", IP, "--port", str(port)]
    process = subprocess.Popen([*argv, "--max-model-len", str(limit), "--api-key", server.key, *flags], cwd=REPO)
    try:
        until(lambda: answers(f"http://{IP}:{port}"))
        yield f"http://{IP}:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["cross_encoder", "minilm", "decoder"])
def test_the_stub_refuses_what_vllm_refuses_and_answers_in_its_shapes(
    kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    server: Vllm = request.getfixturevalue(kind)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {server.key}"
    limit = session.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["max_model_len"]
    template = CATALOG.model(server.model).chat_template
    agreed, wrong = 0, []
    with stub(server, limit, *(("--chat-template", template) if template else ())) as url:
        for call in calls(server, kind, limit):
            real, ours = answer(session, server.url, call), answer(session, url, call)
            if real == ours:
                agreed += 1
            else:
                wrong.append(f"{call.method} {call.path} {call.body[:300]!r}\n  vLLM {real}\n  stub {ours}")
    with capsys.disabled():
        print(f"\n{kind}: {agreed + len(wrong)} requests, {agreed} agree")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])
