"""A fake vLLM for tests: routes and error bodies of 0.32, scores by shared words, faults on request.

It is a transport for clients; `listening()` serves on a loopback port for other processes.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reranker import http

KEY = "serving-key-that-must-not-leak-0123456789"
URL = "http://vllm.test:8000"
Answer = tuple[int, Any]


class FakeVllm:
    """`fault(path, body, answer)` may return another answer, or raise an error of a transport."""

    def __init__(self, model: str = "BAAI/bge-reranker-base", *, context: int = 64, key: str = KEY) -> None:
        self.model, self.context, self.key = model, context, key
        self.fault: Callable[[str, dict[str, Any], Answer], Answer] = lambda _path, _body, answer: answer
        self.requests: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []
        self.options: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        self.requests.append((method, path, body, headers))
        return self.fault(path, body, self._answer(path, body, headers))

    def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        if headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            model = {"id": self.model, "object": "model", "root": "/weights/it", "max_model_len": self.context}
            return 200, {"object": "list", "data": [model]}
        if body.get("model") not in (None, self.model):
            return 404, _error(f"The model `{body['model']}` does not exist.", "NotFoundError", 404)
        if path in ("/rerank", "/v2/rerank"):
            return self._rerank(body)
        if path == "/score":
            firsts, seconds = (x if isinstance(x, list) else [x] for x in (body["text_1"], body["text_2"]))
            firsts = firsts * len(seconds) if len(firsts) == 1 else firsts
            scores = [score(first, second) for first, second in zip(firsts, seconds, strict=True)]
            data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
            return 200, {"id": "score-1", "object": "list", "model": self.model, "data": data}
        return 404, {"detail": "Not Found"}

    def _rerank(self, body: dict[str, Any]) -> Answer:
        if "top_n" in body and not isinstance(body["top_n"], int):
            return 400, _error("1 validation error: Input should be a valid integer", "Bad Request", 400)
        longest = max(len(text.split()) for text in body["documents"])
        if longest > self.context and body.get("truncate_prompt_tokens") != -1:
            text = f"This model's maximum context length is {self.context} tokens. However, your prompt contains more."
            return 400, _error(text, "BadRequestError", 400)
        results = []
        for index, text in enumerate(body["documents"]):
            document, relevance = {"text": text, "multi_modal": None}, score(body["query"], text)
            results.append({"index": index, "document": document, "relevance_score": relevance})
        results.sort(key=lambda result: result["relevance_score"], reverse=True)
        return 200, {"id": "score-2", "model": self.model, "results": results[: body.get("top_n") or None]}

    def __call__(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] = {}, **options: Any
    ) -> http.Answer:
        self.options.append(options)
        status, content = self.answer(method, url.removeprefix(URL), json.loads(body) if body else {}, dict(headers))
        return http.Answer(status, content if isinstance(content, bytes) else json.dumps(content).encode())

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.title(): value for name, value in self.headers.items()}
                status, answer = fake.answer(self.command, self.path, json.loads(body) if body else {}, headers)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = handle_any

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5)


def score(query: str, text: str) -> float:
    """Return the share of the query's words in a text, minus a little for its length, so that texts differ."""
    query_words, words = (set(re.findall(r"[a-z]{4,}", value.lower())) for value in (query, text))
    share = len(query_words & words) / max(1, len(query_words))
    return round(0.01 + 0.95 * share - 0.00001 * min(len(text), 900), 6)


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
