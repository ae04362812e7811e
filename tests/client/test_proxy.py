"""`rerank proxy` as a process before the guarded TLS server: what applications get, and what it refuses."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer

import cohere
import pytest
import requests

from harness.load import LoadGenerator
from harness.wait import until
from tests.client.asking import DOCUMENTS, QUERY, expected
from tests.client.guarded import KEY, MODEL, guarded_server, refusal
from tests.client.proxying import REPO, running_proxy, write_outputs

LIBRECHAT = "jina-reranker-v2-base-multilingual"


@pytest.fixture(scope="module")
def shared_proxy(shared_server, tmp_path_factory):
    outputs = write_outputs(tmp_path_factory.mktemp("proxy") / "outputs.json", shared_server)
    with running_proxy("--outputs", outputs, "--alias", LIBRECHAT, "--timeout", "10") as one:
        yield one


@pytest.fixture
def proxy(shared_proxy, server):
    return shared_proxy


def post(proxy, path, body, **options):
    return requests.post(f"{proxy.url}{path}", json=body, timeout=20, **options)


def reranked(proxy, path="/rerank", **body):
    answer = post(proxy, path, {"query": QUERY, "documents": DOCUMENTS} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- dialects --------------------------------------------------------------------------------------------------------


def test_scores_are_the_stacks_own_and_the_request_is_in_its_words(proxy, server):
    results = reranked(proxy, model=MODEL, top_n=2)["results"]
    best = [(one["relevance_score"], -one["index"]) for one in results]
    assert best == expected(DOCUMENTS)[:2]
    assert server.requests() == [
        ("/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 2, "model": MODEL, "truncate_prompt_tokens": -1})
    ]


@pytest.mark.parametrize("kind", [cohere.ClientV2, cohere.Client])
def test_coheres_clients_need_an_address_and_neither_ca_nor_key(proxy, kind):
    answer = kind("unused", base_url=proxy.url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=1)
    assert answer.results[0].index == 3
    assert answer.meta.api_version.version in ("1", "2")


def test_coheres_older_client_sends_objects_and_gets_them_back(proxy):
    documents = [{"text": text} for text in DOCUMENTS]
    client = cohere.Client("unused", base_url=proxy.url)
    results = client.rerank(model=MODEL, query=QUERY, documents=documents, return_documents=True).results
    assert results[0].document.text == DOCUMENTS[3]


def test_a_document_comes_back_as_it_was_whatever_its_other_fields_have(proxy):
    documents = [{"text": "a", "title": "\ud800"}]
    assert reranked(proxy, documents=documents, return_documents=True)["results"][0]["document"] == documents[0]


def test_tei_gets_a_bare_list_and_its_info(proxy):
    rows = post(proxy, "/rerank", {"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert rows[0] == {"index": 3, "score": expected(DOCUMENTS)[0][0], "text": DOCUMENTS[3]}
    facts = requests.get(f"{proxy.url}/info", timeout=10).json()
    assert (facts["model_id"], facts["max_input_length"], list(facts["model_type"])) == (MODEL, 512, ["reranker"])


def test_voyage_gets_data_and_no_more_than_top_k(proxy):
    rows = reranked(proxy, "/v1/rerank", top_k=1)["data"]
    assert [row["index"] for row in rows] == [3]
    best, *_ = reranked(proxy, "/voyage/v1/rerank", return_documents=True)["data"]
    assert best["document"] == DOCUMENTS[3]


def test_max_tokens_per_doc_at_the_models_limit_is_dropped_and_below_it_is_sent(proxy, server):
    reranked(proxy, "/v2/rerank", max_tokens_per_doc=4096)  # Haystack always sends it; vLLM answers 400
    reranked(proxy, "/v2/rerank", max_tokens_per_doc=100)
    sent = [body for path, body in server.requests() if path == "/rerank"]
    assert [body.get("max_tokens_per_doc") for body in sent] == [None, 100]


def test_another_models_name_is_404_with_the_remedy_unless_it_is_an_alias(proxy, server):
    assert reranked(proxy, model=LIBRECHAT)["model"] == MODEL
    refused = post(proxy, "/rerank", {"model": "other", "query": "q", "documents": ["d"]})
    assert refused.status_code == 404
    assert f"served: {MODEL}. To accept the name: --alias other" in refused.json()["message"]
    assert len(server.requests()) == 1


def test_score_and_models_go_through(proxy):
    answer = post(proxy, "/v1/score", {"model": MODEL, "text_1": QUERY, "text_2": DOCUMENTS}).json()
    assert [row["score"] for row in answer["data"]] == [
        score for score, _ in sorted(expected(DOCUMENTS), key=lambda one: -one[1])
    ]
    assert requests.get(f"{proxy.url}/v1/models", timeout=10).json()["data"][0]["id"] == MODEL


def test_a_text_that_is_too_long_is_cut(proxy):
    assert len(reranked(proxy, documents=["word " * 1000, "deep"])["results"]) == 2


def test_long_lists_are_split_and_come_back_as_one_ranking(proxy, server):
    documents = [f"deep {'learning ' * (n % 3)} number {n}" for n in range(2500)]
    results = reranked(proxy, documents=documents, top_n=1200, return_documents=False)["results"]
    assert [(one["relevance_score"], -one["index"]) for one in results] == expected(documents)[:1200]
    assert sorted(len(body["documents"]) for _, body in server.requests()) == [500, 1000, 1000]


def test_a_server_with_lower_limits_gets_halves(tmp_path):
    with guarded_server(tmp_path, options={"max_documents": 3}) as server:
        outputs = write_outputs(tmp_path / "outputs.json", server)
        with running_proxy("--outputs", outputs) as proxy:
            assert len(reranked(proxy, documents=DOCUMENTS * 3)["results"]) == 12


def test_what_passes_is_repeated_and_what_does_not_is_an_error_without_the_key(proxy, server):
    server.fail(refusal(503), "drop", refusal(429))
    assert reranked(proxy)["results"]
    server.fail(refusal(500, f"engine of {KEY} is dead"))
    failed = post(proxy, "/rerank", {"query": "q", "documents": ["d"]})
    assert failed.status_code == 502
    assert "engine of [key] is dead" in failed.json()["message"]
    assert KEY not in failed.text
    server.fail(refusal(504, "no reranker answered in time"))
    assert post(proxy, "/rerank", {"query": "q", "documents": ["d"]}).status_code == 504


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/rerank", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", "/rerank", {"json": {"query": "q", "documents": [7]}}, 400),
        ("POST", "/rerank", {"json": {"query": "\ud800", "documents": ["d"]}}, 400),
        ("POST", "/rerank", {"json": {"query": "q", "documents": ["d"], "model": "\ud800"}}, 404),
        ("POST", "/rerank", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", "/rerank", {"json": {}, "headers": {"Host": "attacker.example"}}, 421),
        ("GET", "/rerank", {}, 405),
        ("GET", "/guard/keys", {}, 404),
        ("POST", "/rerank", {"data": b"x" * (33 << 20), "headers": {"Content-Type": "application/json"}}, 413),
    ],
)  # fmt: skip
def test_what_is_no_request_of_an_application_is_refused_and_the_stack_not_asked(
    proxy, server, method, path, options, status
):
    answer = requests.request(method, f"{proxy.url}{path}", timeout=20, **options)
    assert answer.status_code == status
    assert answer.json()["message"]
    assert server.requests() == []


def test_more_requests_at_once_than_allowed_are_503_and_a_body_that_does_not_come_is_408(server, tmp_path):
    release = threading.Event()

    async def hold(faulty):
        while not release.is_set():
            await asyncio.sleep(0.01)

    outputs = write_outputs(tmp_path / "outputs.json", server)
    with running_proxy("--outputs", outputs, "--max-requests", "1", "--timeout", "2") as proxy:
        server.faulty.hold = hold
        first = threading.Thread(target=lambda: post(proxy, "/rerank", {"query": "q", "documents": ["d"]}))
        first.start()
        until(lambda: server.faulty.in_flight, within_s=10)
        full = post(proxy, "/rerank", {"query": "q", "documents": ["d"]})
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        release.set()
        first.join(10)
        with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=20) as slow:
            slow.sendall(b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 9\r\n\r\n{")
            assert b" 408 " in slow.recv(1 << 16)


def test_health_is_that_the_stack_answers_and_metrics_count(proxy, server):
    assert requests.get(f"{proxy.url}/health", timeout=10).json() == {"status": "ok", "model": MODEL}
    server.fail(*[refusal(500)] * 3)
    assert requests.get(f"{proxy.url}/health", timeout=10).status_code == 503
    server.fail()
    reranked(proxy)
    shown = requests.get(f"{proxy.url}/metrics", timeout=10).text
    lines = dict(line.rsplit(" ", 1) for line in shown.splitlines() if not line.startswith("#"))
    assert int(lines['rerank_proxy_requests_total{operation="rerank",status="200"}']) >= 1
    assert int(lines["rerank_proxy_rerank_seconds_count"]) >= int(lines['rerank_proxy_rerank_seconds_bucket{le="0.5"}'])
    assert int(lines["rerank_proxy_documents_total"]) >= len(DOCUMENTS)


# ---- where it listens ------------------------------------------------------------------------------------------------


def refused(*args):
    command = [sys.executable, "-m", "reranker", "proxy", *args]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_beyond_loopback_a_key_is_needed_or_said_to_be_none(server, tmp_path):
    outputs = write_outputs(tmp_path / "outputs.json", server)
    code, said = refused("--outputs", str(outputs), "--listen", "0.0.0.0:0")
    assert (code, "give --key-file FILE, or --no-key" in said) == (2, True)
    key = tmp_path / "key"
    key.write_text("the-proxys-own-key\n")
    with running_proxy("--outputs", outputs, "--key-file", key, listen="0.0.0.0:0") as proxy:
        proxy.url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        body = {"query": "q", "documents": ["d"]}
        assert post(proxy, "/rerank", body).status_code == 401
        assert post(proxy, "/rerank", body, headers={"Authorization": f"Bearer {KEY}"}).status_code == 401
        assert post(proxy, "/rerank", body, headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401
        assert post(proxy, "/rerank", body, headers={"Authorization": "Bearer the-proxys-own-key"}).status_code == 200
        assert requests.get(f"{proxy.url}/metrics", timeout=10).status_code == 401
        assert requests.get(f"{proxy.url}/health", timeout=10).status_code == 200
        twice = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s\r\n" % ((b"Authorization: Bearer %s\r\n",) * 2)
        host, port = proxy.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as line:
            line.sendall(twice.replace(b"%s", b"the-proxys-own-key"))
            assert line.recv(100).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--listen", "8787"), 2, "--listen must be HOST:PORT"),
        (("--outputs", "/nowhere.json"), 3, "the outputs cannot be read: /nowhere.json: No such file"),
        (("--outputs", "/dev/null"), 3, "/dev/null contains no JSON object"),
        (("--outputs", "http://127.0.0.1:1/o?token=s3cret"), 3, "http://127.0.0.1:1/o: the connection is refused"),
        (("--key-file", "/dev/null"), 2, "/dev/null is empty"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(args, code, words):
    done = refused("--listen", "127.0.0.1:0", *args)
    assert (done[0], len(done[1].splitlines())) == (code, 1)
    assert words in done[1]
    assert "s3cret" not in done[1]


def test_without_aiohttp_it_says_what_to_install():
    code = "import sys; sys.modules['aiohttp'] = None; from reranker.command import main; sys.exit(main(['proxy']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stderr == "rerank: the proxy needs aiohttp: pip install 'vast-reranker-client[proxy]'\n"
    assert done.returncode == 2


def test_a_port_that_is_taken_is_one_line(server, tmp_path):
    outputs = write_outputs(tmp_path / "outputs.json", server)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = refused("--outputs", str(outputs), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (code, "cannot listen on" in said, len(said.splitlines())) == (2, True, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_under_way_end_and_takes_no_more(server, tmp_path, number):
    release, answers = threading.Event(), []

    async def hold(faulty):
        while not release.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # it is still computed after the proxy has closed its port

    outputs = write_outputs(tmp_path / "outputs.json", server)
    with running_proxy("--outputs", outputs) as proxy:
        server.faulty.hold = hold
        body = {"query": "q", "documents": ["d"]}
        under_way = threading.Thread(target=lambda: answers.append(post(proxy, "/rerank", body).status_code))
        under_way.start()
        until(lambda: server.faulty.in_flight, within_s=10)
        proxy.process.send_signal(number)

        def closed():
            try:
                socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=1).close()
            except ConnectionRefusedError:
                return True
            return False

        until(closed, within_s=10)
        release.set()
        under_way.join(20)
        assert answers == [200]


# ---- the stack moves -------------------------------------------------------------------------------------------------


class Plain:
    """The proxy as a place for load: no CA, and a key that it ignores."""

    def __init__(self, url):
        self.url, self.key, self.ca = url, "unused", ""


def count(proxy, name):
    text = requests.get(f"{proxy.url}/metrics", timeout=10).text
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"rerank_proxy_{name}_total "))


def set_client_key(server, key):
    """Let the server's guard take this key and no other, but for the stack's own, as a rotation ends."""
    keys = {"keys": [{"name": "client", "sha256": sha256(key.encode()).hexdigest()}]}
    own = {"Authorization": f"Bearer {KEY}"}
    requests.put(
        f"{server.url}/guard/keys", json=keys, headers=own, verify=server.ca_file, timeout=10
    ).raise_for_status()


def test_a_heal_and_a_rotation_under_load_fail_no_request(tmp_path):
    """20 requests a second, while the server goes, another comes with other CA and address, and its key is changed."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    outputs = tmp_path / "outputs.json"
    with contextlib.ExitStack() as servers, guarded_server(folders[1]) as second:
        write_outputs(outputs, servers.enter_context(guarded_server(folders[0])))
        with (
            running_proxy("--outputs", outputs, "--follow", "0") as proxy,
            LoadGenerator(Plain(proxy.url), per_s=20) as load,
        ):
            load.wait_for_requests(20)
            servers.close()  # the first server is gone, which the outputs do not say yet
            until(lambda: count(proxy, "retries") > 5, within_s=10)
            set_client_key(second, "the-clients-key")
            write_outputs(outputs, second, api_key="the-clients-key")
            load.wait_for_requests(40)

            new_key = "the-key-of-the-next-generation"
            set_client_key(second, new_key)  # before the outputs have it: worse than real
            before = count(proxy, "retries")
            until(lambda: count(proxy, "retries") > before + 5, within_s=10)
            write_outputs(outputs, second, api_key=new_key)
            load.wait_for_requests(40)
            assert count(proxy, "moves") == 2
        assert load.failures == []
    said = "".join(proxy.stderr_lines)
    assert f"the stack is at {second.url} now" in said
    assert "same address; its key" in said
    assert new_key not in said
    assert KEY not in said


def test_a_planned_move_is_followed_while_the_old_server_still_answers(tmp_path, server):
    outputs = write_outputs(tmp_path / "outputs.json", server)
    with guarded_server(tmp_path) as second, running_proxy("--outputs", outputs, "--follow", "0.1") as proxy:
        reranked(proxy)
        write_outputs(outputs, second)
        until(lambda: count(proxy, "moves") == 1, within_s=10)
        reranked(proxy)
        assert len(second.requests()) == len(server.requests()) == 1


def test_a_key_that_stays_refused_is_no_401_to_the_application_and_says_what_is_wrong(tmp_path, server):
    outputs = write_outputs(tmp_path / "outputs.json", server, api_key="another-key")
    with running_proxy("--outputs", outputs, "--timeout", "1") as proxy:
        answer = post(proxy, "/rerank", {"query": "q", "documents": ["d"]})
    assert answer.status_code == 502
    assert "the server refuses the key in the stack's outputs" in answer.json()["message"]
    assert "another-key" not in answer.text


@pytest.mark.parametrize("status", [200, 403])
def test_the_outputs_may_be_at_an_address_that_needs_a_key(tmp_path, server, status):
    file = write_outputs(tmp_path / "outputs.json", server)

    class Place(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") == "Bearer outputs-key"
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(file.read_bytes() if known else b"")

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Place) as place:
        threading.Thread(target=place.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{place.server_port}/outputs.json"
        if status == 200:
            with running_proxy("--outputs", address, RERANKER_OUTPUTS_KEY="outputs-key") as proxy:
                assert reranked(proxy)["results"]
        else:
            assert f"{address} answered HTTP 403" in refused("--outputs", address)[1]
        place.shutdown()
