"""The guard as ASGI sees it."""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from components.vllm import guard as source
from components.vllm.catalog import load_catalog
from components.vllm.launch import plan_launch
from components.vllm.score_checks import judge_closed

KEYS = ["first-key-0123456789", "second-key-0123456789"]


class App:
    """A server that answers everything, and remembers what came through."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        body = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        self.seen.append((scope, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def ask():
    app = App()

    def ask_guard(
        path="/rerank", *, method="POST", key=KEYS[0], headers=None, body=b"{}", raw=None, kind="http", **options
    ):
        guard = source.Guard(app, options, KEYS)
        given = [(b"authorization", f"Bearer {key}".encode())] if key is not None else []
        raw = path.encode() if raw is None else raw
        scope = {"type": kind, "method": method, "path": path, "raw_path": raw, "headers": given + (headers or [])}
        chunks = body if isinstance(body, list) else [body]
        messages = [
            {"type": "http.request", "body": chunk, "more_body": n < len(chunks) - 1} for n, chunk in enumerate(chunks)
        ]
        sent = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        asyncio.run(guard(scope, receive, send))
        status = next((one["status"] for one in sent if one["type"] == "http.response.start"), None)
        text = b"".join(one.get("body", b"") for one in sent if one["type"] == "http.response.body")
        return status, json.loads(text or b"null"), sent

    ask_guard.app = app
    return ask_guard


@pytest.mark.parametrize(
    "path", ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/v1/models", "/metrics"]
)
def test_every_allowed_path_needs_a_key_and_any_of_the_keys_opens_it(ask, path):
    assert ask(path, key=None)[0] == 401
    assert ask(path, key="wrong")[0] == 401
    assert not ask.app.seen
    assert [ask(path, key=key)[0] for key in KEYS] == [200, 200]


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/health", "/version", "/load", "/pooling", "/tokenize", "/rerank/", "//rerank",
     "/RERANK", "/v1/../rerank", "/rerank;x", "/rerank\x00", "/invocations", "/v1/embeddings", "*", ""],
)  # fmt: skip
def test_every_other_path_is_not_there_even_with_a_key(ask, path):
    assert ask(path)[0] == 404
    assert not ask.app.seen


@pytest.mark.parametrize("raw", [b"/%72erank", b"/rerank%00", b"//rerank", b"/x/../rerank"])
def test_a_path_written_in_another_way_is_not_there(ask, raw):
    assert ask("/rerank", raw=raw)[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", KEYS[0].encode())],
        [(b"authorization", b"Basic " + KEYS[0].encode())],
        [(b"authorization", b"Bearer " + KEYS[0].encode() + b" ")],
        [(b"authorization", b"Bearer  " + KEYS[0].encode())],
        [(b"authorization", b"Bearer " + KEYS[0].encode())] * 2,
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", b"")],
        [(b"x-api-key", KEYS[0].encode())],
        [(b"cookie", KEYS[0].encode())],
    ],
)
def test_a_key_in_any_other_shape_or_place_opens_nothing(ask, headers):
    assert ask(key=None, headers=headers)[0] == 401


def test_errors_have_vllms_shape_and_hold_no_key(ask):
    status, answer, sent = ask(key="wrong-key-of-mine")
    assert answer["error"]["code"] == status == 401
    assert "wrong-key-of-mine" not in json.dumps(answer)
    assert KEYS[0] not in str(sent)


def test_liveness_is_open_only_where_it_is_asked_for(ask):
    assert ask("/health", method="GET", key=None)[0] == 404
    assert ask("/health", method="GET", key=None, open_health=True)[0] == 200
    assert ask("/health", method="POST", key=None, open_health=True)[0] == 404
    assert ask("/rerank", key=None, open_health=True)[0] == 401


def test_the_routes_of_the_server_are_listed_to_whoever_has_a_key_and_to_nobody_else(ask):
    for key in KEYS:
        assert ask("/guard/routes", method="GET", key=key)[:2] == (200, {"routes": []})
    assert ask("/guard/routes", method="GET", key=None)[0] == 401
    assert ask("/guard/routes/", method="GET")[0] == 404
    assert not ask.app.seen


def test_a_websocket_is_closed_and_lifespan_passes(ask):
    assert ask("/rerank", kind="websocket")[2] == [{"type": "websocket.close", "code": 1008}]
    ask(kind="lifespan")
    assert ask.app.seen


def test_a_body_is_bounded_whether_its_length_is_declared_or_not(ask):
    assert ask(body=b"x" * 101, max_bytes=100)[0] == 413
    assert ask(body=[b"x" * 60, b"x" * 60], max_bytes=100)[0] == 413
    assert ask(headers=[(b"content-length", b"9" * 30)], max_bytes=100)[0] == 413
    assert not ask.app.seen


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\x00", b'{"query": "\\ud800"}', b"[" * 100_000, b"1" * 5000, b"NaN", b'{"top_n": 1e999}'],
)
def test_what_is_not_json_in_utf_8_is_refused_and_never_an_internal_error(ask, body):
    assert ask(body=body)[0] == 400
    assert not ask.app.seen


@pytest.mark.parametrize("name", ["documents", "text_1", "text_2"])
def test_documents_of_a_request_are_counted(ask, name):
    body = json.dumps({"query": "q", name: ["d"] * 11}).encode()
    assert ask(body=body, max_documents=10)[0] == 400
    assert ask(body=body, max_documents=11)[0] == 200


def test_a_default_for_truncation_is_put_in_and_never_overrides(ask):
    ask(body=b'{"query": "q"}', truncate=-1)
    ask(body=b'{"query": "q", "truncate_prompt_tokens": 7}', truncate=-1)
    bodies = [json.loads(body) for _, body in ask.app.seen]
    assert [one["truncate_prompt_tokens"] for one in bodies] == [-1, 7]
    lengths = [int(dict(scope["headers"])[b"content-length"]) for scope, _ in ask.app.seen]
    assert lengths == [len(body) for _, body in ask.app.seen]


@pytest.fixture
def vllm_032(monkeypatch):
    """The module of vLLM 0.32 that says what a request takes, as far as the guard looks at it."""
    fields = dict.fromkeys(["query", "instruction", "chat_template_kwargs", "max_tokens_per_doc"])
    module = SimpleNamespace(RerankRequest=SimpleNamespace(model_fields=fields))
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.pooling.scoring.protocol", module)


DECODER = {"context": 200, "template": 50, "truncate": -1}


def seen_by_vllm(ask, body, **options):
    status, _, _ = ask(body=json.dumps(body).encode(), **options)
    assert status == 200
    return json.loads(ask.app.seen[-1][1])


@pytest.mark.parametrize("asked", [{}, {"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 190}])
@pytest.mark.parametrize(("one", "other"), [("query", "documents"), ("text_1", "text_2"), ("queries", "documents")])
def test_of_a_model_with_a_template_the_documents_are_cut_and_never_the_prompt(ask, vllm_032, asked, one, other):
    body = {one: "q" * 20, other: ["short", "d" * 500], **asked}
    seen = seen_by_vllm(ask, body, **DECODER)
    assert "truncate_prompt_tokens" not in seen
    assert seen["max_tokens_per_doc"] == asked.get("truncate_prompt_tokens", 200) % 201 - 50 - 20
    assert seen[other] == body[other]


def test_a_template_and_a_query_count_as_bytes_and_a_limit_of_the_request_holds(ask, vllm_032):
    body = {"query": "ä" * 10, "instruction": "i" * 5, "documents": ["d" * 500], "max_tokens_per_doc": 30}
    assert seen_by_vllm(ask, body, **DECODER)["max_tokens_per_doc"] == 30
    body["max_tokens_per_doc"] = 0
    assert seen_by_vllm(ask, body, **DECODER)["max_tokens_per_doc"] == 200 - 50 - 20 - 5


def test_what_fits_anyway_is_sent_as_it_is(ask, vllm_032):
    assert seen_by_vllm(ask, {"query": "q", "documents": ["d"]}, **DECODER) == {"query": "q", "documents": ["d"]}


@pytest.mark.parametrize("limit", [0, -2, 201, "251", True, 1.5, [1]])
def test_a_limit_that_such_a_model_cannot_take_is_refused(ask, vllm_032, limit):
    body = json.dumps({"query": "q", "documents": ["d"], "truncate_prompt_tokens": limit}).encode()
    status, answer, _ = ask(body=body, **DECODER)
    assert (status, not ask.app.seen) == (400, True)
    assert "1 to 200" in answer["error"]["message"]


def test_a_limit_that_leaves_no_room_for_a_document_is_refused_and_the_models_own_is_left_to_vllm(ask, vllm_032):
    body = {"query": "q" * 300, "documents": ["d"], "truncate_prompt_tokens": 100}
    status, answer, _ = ask(body=json.dumps(body).encode(), **DECODER)
    assert (status, not ask.app.seen) == (400, True)
    assert "would cut this model's prompt" in answer["error"]["message"]
    assert seen_by_vllm(ask, body | {"truncate_prompt_tokens": -1}, **DECODER) == {
        "query": "q" * 300,
        "documents": ["d"],
    }


def test_an_older_vllm_that_cannot_cut_documents_never_cuts_the_prompt(ask):
    body = {"query": "q", "documents": ["d" * 500]}
    assert seen_by_vllm(ask, body, **DECODER) == body
    assert ask(body=json.dumps(body | {"truncate_prompt_tokens": 150}).encode(), **DECODER)[0] == 400


@pytest.mark.parametrize(
    "given", [{"instruction": "rank laws"}, {"chat_template_kwargs": {"instruction": "rank laws"}}]
)
def test_an_instruction_reaches_a_template_and_is_refused_where_it_would_be_ignored(ask, vllm_032, given, monkeypatch):
    body = {"query": "q", "documents": ["d"], **given}
    assert seen_by_vllm(ask, body, **DECODER) == body
    status, answer, _ = ask(body=json.dumps(body).encode(), truncate=-1)
    assert (status, answer["error"]["message"]) == (400, f"{next(iter(given))}: this model has no prompt that takes it")
    monkeypatch.delitem(sys.modules, "vllm.entrypoints.pooling.scoring.protocol")
    status, answer, _ = ask(body=json.dumps(body).encode(), **DECODER)
    assert status == 400
    assert "this version of vLLM" in answer["error"]["message"]


def test_a_model_that_is_not_served_is_404_and_says_what_is(ask):
    served = {"models": ["BAAI/bge-reranker-base", "rerank-v3.5"]}
    status, answer, _ = ask(body=b'{"model": "jina", "query": "q", "documents": ["d"]}', **served)
    message = "The model `jina` does not exist; served: BAAI/bge-reranker-base, rerank-v3.5"
    assert (status, answer["error"]["type"], answer["error"]["message"]) == (404, "NotFoundError", message)
    assert not ask.app.seen
    for model in ('"rerank-v3.5"', '"BAAI/bge-reranker-base"', '""', "null"):
        assert ask(body=b'{"model": %s}' % model.encode(), **served)[0] == 200


def test_without_any_key_nothing_is_open():
    guard = source.Guard(App(), {}, [])
    assert guard.keys == []
    with pytest.raises(source.Refusal):
        guard.admit({"path": "/rerank", "method": "POST", "headers": [(b"authorization", b"Bearer ")]})


def test_the_boot_script_unpacks_the_guard_before_it_becomes_the_server(tmp_path):
    catalog = load_catalog()
    launch = plan_launch(catalog.model("BAAI/bge-reranker-base"), catalog.default_image, api_key=KEYS[0], guard=True)
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\necho \"$@\"\npython3 -c 'import guard; print(guard.Guard.__name__)'\n")
    vllm.chmod(0o755)
    python = sys.executable.rpartition("/")[0]
    env = {"PATH": f"{tmp_path}:{python}:/usr/bin:/bin", "TMPDIR": str(tmp_path)} | launch.container_env
    done = subprocess.run(
        [launch.onstart, *launch.args], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    assert "--middleware guard.Guard" in done.stdout
    assert done.stdout.splitlines()[-1] == "Guard"
    assert KEYS[0] not in " ".join(launch.args)
    assert set(launch.env) == {"GUARD_KEYS"}


def test_one_open_door_is_named():
    assert judge_closed("no key", {"/rerank": (404, 401), "/docs": (404, 404)}).passed
    check = judge_closed("no key", {"/rerank": (405, 200), "/docs": (404, 404)})
    assert not check.passed
    assert "/rerank 405" in check.saw
