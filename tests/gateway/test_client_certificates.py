"""Client certificates at a real Caddy: without one by the right CA there is no connection, and so no request."""

import socket
import ssl
from dataclasses import replace

import pytest
from cryptography import x509

from components.caddy.config import gateway_config
from harness.wait import until
from reranker import InvalidInput, Reranker, RerankerError
from reranker.command import main
from reranker.errors import Unreachable
from tests.client_ca import ClientCa


@pytest.fixture
def ca():
    return ClientCa()


@pytest.fixture
def site(caddy, rerankers, front, ca, tmp_path):
    one = front(rerankers(1), tiers=1, client_ca=ca.pem)
    caddy.admin.load(gateway_config(one.gateway))
    one.session.cert = tuple(map(str, ca.issue(tmp_path)))
    until(lambda: one.ask().status_code == 200)
    return one


def test_without_a_certificate_by_the_clients_ca_the_handshake_is_refused(site, ca, authority, tmp_path):
    seen = site.gateway.upstreams[0]
    others = [
        None,
        ClientCa().issue(tmp_path),  # another CA of the same name
        ca.issue(tmp_path, x509.OID_SERVER_AUTH),
    ]
    stacks_own = [tmp_path / "own.pem", tmp_path / "own.key"]  # what a rented host has
    for file, text in zip(stacks_own, authority.issue("127.0.0.1", seen.server_name).pem(), strict=True):
        file.write_text(text)
    for files in (*others, stacks_own):
        context = ssl.create_default_context(cafile=site.ca)
        if files:
            context.load_cert_chain(*files)
        host, port = site.url.removeprefix("https://").split(":")
        # in TLS 1.3 a client learns of the refusal when it reads
        with (
            pytest.raises(ssl.SSLError, match="ALERT"),
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.recv(1)


def test_the_certificate_alone_is_not_enough(site):
    assert site.ask(key="").status_code == 401
    assert site.ask(key="x" * 32).status_code == 401
    assert site.ask().status_code == 200


def test_the_library_and_the_command_show_a_certificate(site, ca, tmp_path, monkeypatch, capsys):
    certificate, key = ca.issue(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    for shown in (
        {"client_certificate": certificate, "client_key": key},
        {"client_certificate": both},
        {"client_certificate": certificate.read_text(), "client_key": key.read_text()},
    ):
        with Reranker.from_url(site.url, site.key, site.ca, **shown) as client:
            assert len(client.rerank("q", ["a", "b"])) == 2
            assert key.read_text().splitlines()[1] not in repr(client) + repr(client.endpoint)
    with (
        Reranker.from_url(site.url, site.key, site.ca) as client,
        pytest.raises(RerankerError, match="pass client_certificate"),
    ):
        client.models()

    monkeypatch.setenv("RERANKER_API_KEY", site.key)
    arguments = ["--url", site.url, "--ca", site.ca, "q", "a document"]
    assert main(["--client-cert", str(certificate), "--client-key", str(key), *arguments]) == 0
    assert main(arguments) != 0
    monkeypatch.setenv("RERANKER_CLIENT_CERT", str(both))
    assert main(arguments) == 0
    assert "a document" in capsys.readouterr().out


def test_a_certificate_that_cannot_be_shown_is_named(ca, tmp_path):
    certificate, key = ca.issue(tmp_path)
    _, other = ca.issue(tmp_path, x509.OID_SERVER_AUTH)
    for shown, says in (
        ({"client_key": key}, "a client key requires a client certificate"),
        ({"client_certificate": certificate}, "client certificate and private key are not valid PEM"),
        ({"client_certificate": certificate, "client_key": other}, "are not valid PEM"),
        ({"client_certificate": key}, "contains no certificate in PEM"),
        ({"client_certificate": certificate, "client_key": certificate}, "contains no key in PEM"),
    ):
        with pytest.raises(InvalidInput, match=says):
            Reranker.from_url("https://127.0.0.1:1", "a-key-0123456789", **shown)


def test_a_ca_that_is_taken_out_is_asked_for_no_more(site, caddy):
    def serves():
        try:
            return Reranker.from_url(site.url, site.key, site.ca).models()
        except Unreachable:  # Caddy's old config may still accept a connection
            return []

    caddy.admin.load(gateway_config(replace(site.gateway, client_ca="")))
    until(serves)
