"""The clients people already use, unchanged, against the guarded TLS server: address, key, CA, and that is all."""

import json
import ssl
import subprocess

import cohere
import httpx
import pytest
import requests
from cohere.core.api_error import ApiError

from tests.client.guarded import KEY, MODEL, OWN_NAME

QUERY = "What is deep learning?"
DOCUMENTS = [
    "I like pizza.",
    "Deep learning enables computers to learn from large amounts of data.",
    "The weather is nice today.",
]
BODY = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS}
HEADERS = {"Authorization": f"Bearer {KEY}"}


def trusting(server):
    """What httpx takes as `verify`; a path is deprecated there."""
    return ssl.create_default_context(cafile=server.ca_file)


def test_requests_posts_to_rerank_and_reads_each_text_under_document(server):
    answer = requests.post(f"{server.url}/rerank", json=BODY, headers=HEADERS, verify=server.ca_file, timeout=10)
    results = answer.json()["results"]
    assert results[0]["index"] == 1
    assert results[0]["document"]["text"] == DOCUMENTS[1]
    assert results[0]["relevance_score"] > 0.5 > results[1]["relevance_score"]


def test_requests_posts_pairs_to_score_and_reads_them_in_order(server):
    body = {"model": MODEL, "text_1": QUERY, "text_2": DOCUMENTS}
    answer = requests.post(f"{server.url}/score", json=body, headers=HEADERS, verify=server.ca_file, timeout=10)
    scores = [one["score"] for one in answer.json()["data"]]
    assert max(scores) == scores[1]


def test_requests_with_verify_by_environment_needs_no_argument(server, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    assert requests.post(f"{server.url}/rerank", json=BODY, headers=HEADERS, timeout=10).status_code == 200


def test_httpx_reranks(server):
    with httpx.Client(verify=trusting(server), headers=HEADERS) as client:
        results = client.post(f"{server.url}/v1/rerank", json=BODY).json()["results"]
    assert results[0]["index"] == 1


def test_httpx_trusts_the_file_that_ssl_cert_file_names(server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
    assert httpx.post(f"{server.url}/rerank", json=BODY, headers=HEADERS).status_code == 200


@pytest.mark.parametrize(
    ("kind", "path", "text_of"),
    [
        (cohere.ClientV2, "/v2/rerank", lambda document: document["text"]),
        (cohere.Client, "/v1/rerank", lambda document: document.text),
    ],
)
def test_coheres_clients_rerank_and_v2_gives_documents_as_dicts(server, kind, path, text_of):
    with httpx.Client(verify=trusting(server)) as http:
        client = kind(KEY, base_url=server.url, httpx_client=http)
        results = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2).results
    assert results[0].index == 1
    assert len(results) == 2
    assert text_of(results[0].document) == DOCUMENTS[1]
    assert server.requests()[0][0] == path


def test_coheres_client_trusts_the_file_that_ssl_cert_file_names(server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
    results = cohere.ClientV2(KEY, base_url=server.url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=1)
    assert results.results[0].index == 1


@pytest.mark.parametrize("given", [{}, {"max_tokens_per_doc": None}])
def test_what_coheres_client_does_not_give_it_sends_as_null_and_that_is_taken(server, given):
    with httpx.Client(verify=trusting(server)) as http:
        client = cohere.ClientV2(KEY, base_url=server.url, httpx_client=http)
        assert len(client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=None, **given).results) == 3
    assert "top_n" not in server.requests()[0][1], "vLLM 0.32 refuses null, so the guard takes it out"


@pytest.mark.parametrize("kind", [cohere.ClientV2, cohere.Client])
def test_coheres_clients_with_a_wrong_key_are_refused(server, kind):
    with httpx.Client(verify=trusting(server)) as http:
        client = kind("wrong", base_url=server.url, httpx_client=http)
        with pytest.raises(ApiError) as caught:
            client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=1)
    assert caught.value.status_code == 401


@pytest.mark.parametrize("flag", ["--cacert", "--proxy-cacert"])
def test_curl_reranks_with_cacert_and_without_it_sends_nothing(server, flag):
    done = subprocess.run(
        ["curl", "-sS", flag, server.ca_file, f"{server.url}/rerank", "--config", "-"],
        input=f'header = "Content-Type: application/json"\nheader = "Authorization: Bearer {KEY}"\n'
        f"data = {json.dumps(json.dumps(BODY))}\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if flag == "--cacert":
        assert json.loads(done.stdout)["results"][0]["index"] == 1, done.stderr
    else:
        assert done.returncode == 60
        assert server.requests() == []


def test_curl_by_a_servers_own_name_needs_only_an_address_for_it(server):
    port = server.url.rpartition(":")[2]
    done = subprocess.run(
        ["curl", "-sS", "--cacert", server.ca_file, "--resolve", f"{OWN_NAME}:{port}:127.0.0.1"]  # noqa: RUF005
        + ["-o", "/dev/null", "-w", "%{http_code}", f"https://{OWN_NAME}:{port}/v1/models"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "401", done.stderr


@pytest.mark.parametrize("client", [requests.get, httpx.get])
def test_a_client_without_the_ca_refuses_to_talk(server, client):
    with pytest.raises((requests.exceptions.SSLError, httpx.ConnectError)):
        client(f"{server.url}/v1/models", headers=HEADERS)
    assert server.requests() == []
