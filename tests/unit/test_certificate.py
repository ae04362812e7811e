"""What is said of a certificate of one's own before anything is rented."""

import datetime
import re

import pytest

from components.caddy.certificate import certificate_problems
from components.credentials import ServerCertificateProvider
from components.vast.identity import Authority
from tests.unit.test_settings import problems as config_problems

NOW = datetime.datetime.now(datetime.UTC)
OURS, OTHER = Authority.make("ours"), Authority.make("another")
CERTIFICATE, KEY = OURS.issue("rerank.example.com", "*.example.org", "127.0.0.1").pem()


def problems(certificate=CERTIFICATE, key=KEY, ca=OURS.certificate, host="rerank.example.com", now=NOW):
    return certificate_problems(certificate, key, ca, host, now)


@pytest.mark.parametrize("host", ["rerank.example.com", "any.example.org", "127.0.0.1"])
def test_a_pair_that_serves_its_host_is_taken(host):
    assert problems(host=host) == []
    assert problems(CERTIFICATE + OURS.certificate, host=host) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"certificate": "PEM"}, "gateway.certificate: holds no certificate in PEM"),
        ({"certificate": OURS.certificate}, "gateway.certificate: names no host"),
        ({"key": "PEM"}, "gateway.private_key: is not a PEM key"),
        ({"key": OURS.private_key}, "gateway.private_key: is not that of gateway.certificate"),
        ({"now": NOW + datetime.timedelta(days=31)}, "gateway.certificate: is valid from"),
        ({"now": NOW - datetime.timedelta(days=1)}, "gateway.certificate: is valid from"),
        ({"host": "example.com"}, "gateway.certificate: is for rerank.example.com, *.example.org, 127.0.0.1, but"),
        ({"host": "a.b.example.org"}, "gateway.certificate: is for rerank.example.com, *.example.org, 127.0.0.1, but"),
        ({"certificate": CERTIFICATE + OTHER.certificate}, "gateway.certificate: its certificate 1 is not signed by"),
        ({"ca": "PEM"}, "gateway.ca_certificate: holds no certificate in PEM"),
        ({"ca": OTHER.certificate}, "gateway.ca_certificate: has not signed the last certificate"),
    ],
)
def test_a_pair_that_does_not_serve_is_refused_by_what_is_wrong(given, said):
    found = problems(**given)
    assert found[0].startswith(said), found
    assert not any(line in " ".join(found) for line in KEY.splitlines())


AT_X = {"kind": "caddy", "admin_url": "http://x", "url": "https://x"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gateway": {**AT_X, "acme": {}}}, "gateway.acme.names: is not given; accepted: a list"),
        (
            {"gateway": {**AT_X, "acme": {"names": ["y"]}}},
            "gateway.acme: names must contain the host of gateway.url, x",
        ),
        (
            {"gateway": {**AT_X, "acme": {"names": ["*.x"]}}},
            r"gateway.acme.names: is '\*.x'; accepted: host names, without a",
        ),
        (
            {"gateway": {**AT_X, "acme": {"names": ["x"]}, "certificate": "PEM"}},
            "gateway.acme: cannot be set together with",
        ),
        ({"gateway": {**AT_X, "acme": {"names": ["x"]}, "listen": "unix//s"}}, "gateway.listen: is a socket, so the"),
        ({"gateway": {**AT_X, "certificate": "PEM"}}, "gateway.private_key: is empty, but gateway.certificate is not"),
        ({"gateway": {"kind": "rent", "acme": {"names": ["x"]}}}, "gateway.acme: is for gateway.kind caddy: a rented"),
        (
            {"gateway": {"kind": "rent", "certificate": "PEM"}},
            "gateway.certificate: is for gateway.kind caddy: a rented",
        ),
    ],
)
def test_a_certificate_that_a_gateway_cannot_show_is_refused(changes, says):
    found = config_problems(**changes)
    assert any(re.match(says, one) for one in found), found


@pytest.mark.parametrize(("before_d", "due"), [(0.0, False), (20.0, False), (31.0, True)])
def test_a_gateways_certificate_is_renewed_as_many_days_before_its_end_as_the_config_says(before_d, due):
    authority = Authority.make("test", ["gateway.example"])
    inputs = {
        "names": ["gateway.example"],
        "authority": {"certificate": authority.certificate, "private_key": authority.private_key},
        "renew_before_d": before_d,
    }
    provider = ServerCertificateProvider()
    assert provider.diff("id", provider.create(inputs).outs, inputs).changes is due
