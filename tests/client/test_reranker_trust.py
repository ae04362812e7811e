"""Whom the client trusts with its key, what it refuses to send, and what it takes for no answer."""

import json
import pickle

import pytest

from reranker import InvalidInput, KeyRefused, MalformedAnswer, Reranker, ServerError, Untrusted
from reranker.endpoint import Endpoint
from reranker.http import tls_context
from tests.client.guarded import KEY, certificates, guarded_server, refusal

# ---- trust and keys --------------------------------------------------------------------------------------------------


def test_the_ca_is_given_as_text_or_as_a_path(server):
    for ca in (server.ca, server.ca_file, str(server.ca_file)):
        with Reranker.from_url(server.url, KEY, ca) as client:
            assert client.models()


@pytest.mark.parametrize("ca", ["", certificates("127.0.0.1")[0]], ids=["public CAs", "another CA"])
def test_a_server_of_another_ca_is_not_trusted_and_is_sent_nothing(server, ca):
    with Reranker.from_url(server.url, KEY, ca) as client, pytest.raises(Untrusted, match="certificate is not trusted"):
        client.rerank("q", ["d"])
    assert server.requests() == []


def test_no_public_ca_is_trusted_beside_the_stacks_own(reranker):
    reranker.models()
    context = tls_context(reranker.endpoint.ca_certificate)
    assert [dict(*one["subject"])["commonName"] for one in context.get_ca_certs()] == ["test"]


def test_a_certificate_of_another_address_is_not_trusted(tmp_path):
    with guarded_server(tmp_path, address="127.0.0.2") as server:
        with pytest.raises(Untrusted, match=r"certificate is not trusted \(.*IP address mismatch"):
            Reranker.from_url(server.url, KEY, server.ca).models()
        assert server.requests() == []


def test_a_wrong_key_is_refused_and_not_repeated(server):
    waits = []
    client = Reranker.from_url(server.url, "wrong-key", server.ca, sleep=waits.append)
    with pytest.raises(KeyRefused, match=r"HTTP 401: .*the API key is missing or invalid") as caught:
        client.rerank("q", ["d"])
    assert caught.value.status == 401
    assert (waits, server.requests()) == ([], [])  # refused before vLLM, and not asked again


def test_the_key_is_in_no_repr_and_in_no_error_even_where_the_server_echoes_it(server, reranker):
    assert KEY not in repr(reranker) + repr(reranker.endpoint) + str(reranker.__dict__)
    server.fail(refusal(400, f"you sent Bearer {KEY} and \x1b[31m"))
    with pytest.raises(ServerError) as caught:
        reranker.rerank("q", ["d"])
    assert "you sent Bearer [key]" in str(caught.value)
    assert KEY not in str(caught.value) + repr(caught.value) + caught.value.message
    assert "\x1b" not in str(caught.value)


def test_a_redirect_is_not_followed_so_the_key_stays_here(server, reranker):
    server.fail((307, [(b"location", b"https://127.0.0.9:1/rerank")], b""))
    with pytest.raises(ServerError, match="HTTP 307"):
        reranker.rerank("q", ["d"])


def test_proxies_and_netrc_of_the_environment_are_left_alone(server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert Reranker.from_url(server.url, KEY, server.ca).models()


# ---- what is refused before it is sent, and what is no answer --------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "documents", "options", "words"),
    [
        ("q", "one string", {}, "documents is one string"),
        ("q", 7, {}, "documents is int, not a list"),
        ("q", ["d", None], {}, r"documents\[1\] is NoneType, not a string"),
        ("q", ["d", "\ud800"], {}, r"documents\[1\] contains an unpaired surrogate"),
        (None, ["d"], {}, r"query\[0\] is NoneType"),
        ("\ud800", ["d"], {}, r"query\[0\] contains an unpaired surrogate"),
        ("q", ["d"], {"truncate_prompt_tokens": "5"}, "truncate_prompt_tokens must be a number of tokens"),
        ("q", ["d"], {"truncate_prompt_tokens": 1.5}, "truncate_prompt_tokens must be a number of tokens"),
        ("q", ["d"], {"top_n": 0}, "top_n must be a whole number from 1"),
        ("q", ["d"], {"top_n": True}, "top_n must be a whole number from 1"),
    ],
)
def test_input_that_cannot_be_sent_is_named(server, query, documents, options, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Reranker.from_url(server.url, KEY, server.ca).rerank(query, documents, **options)
    assert isinstance(caught.value, ValueError)
    assert server.requests() == []


def test_lists_of_two_lengths_cannot_be_pairs(reranker):
    with pytest.raises(InvalidInput, match="text_1 has 2 texts and text_2 has 3"):
        reranker.score(["a", "b"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("url", "key", "ca", "words"),
    [
        ("nonsense", KEY, "", "is not the address of a server"),
        ("ftp://x", KEY, "", "is not the address of a server"),
        ("https://x:port", KEY, "", "not a URL"),
        ("https://user:pass@x", KEY, "", "contains a user or password"),
        ("https://x", "", "", "API key is empty"),
        ("https://x", KEY + "\nX: y", "", "as HTTP headers require"),
        ("https://x", KEY + " " + KEY, "", "as HTTP headers require"),
        ("https://x", KEY, "/nowhere/ca.pem", "cannot read the CA certificate '/nowhere/ca.pem': No such file"),
        ("https://x", KEY, json.__file__, "contains no certificate in PEM"),
        ("https://x", KEY, "\u0151 -----BEGIN CERTIFICATE-----\nnope\n-----END CERTIFICATE-----\n", "not valid PEM"),
    ],
)
def test_an_endpoint_that_can_be_none_is_named_without_its_secrets(url, key, ca, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Reranker.from_url(url, key, ca)
    assert KEY not in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"results": null}',
        b'{"results": []}',
        b'{"results": [{"index": 1, "relevance_score": 0.5}]}',
        b'{"results": [{"index": -1, "relevance_score": 0.5}]}',
        b'{"results": [{"index": true, "relevance_score": 0.5}]}',
        b'{"results": [{"index": 0, "relevance_score": "0.5"}]}',
        b'{"results": [{"index": 0, "relevance_score": NaN}]}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.5}]}',
    ],
)
def test_a_body_that_is_no_rerankers_is_an_error_that_says_so(server, reranker, body):
    server.fail((200, [], body))
    with pytest.raises(MalformedAnswer, match=r"check the address"):
        reranker.rerank("q", ["d"])


@pytest.mark.parametrize(
    "body", [b'{"data": []}', b'{"data": [{"index": 1, "score": 1}]}', b'{"data": [{"index": 0}]}']
)
def test_scores_that_are_not_those_asked_for_are_an_error(server, reranker, body):
    server.fail((200, [], body))
    with pytest.raises(MalformedAnswer):
        reranker.score("q", "d")


def test_errors_cross_processes(server, reranker):
    server.fail(refusal(400, "no"))
    with pytest.raises(ServerError) as caught:
        reranker.rerank("q", ["d"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status, again.message) == (str(caught.value), 400, "no")


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n"])
def test_a_key_from_a_file_is_used_without_the_blanks_around_it(around):
    assert Endpoint("https://x", around.format(KEY)).api_key == KEY
