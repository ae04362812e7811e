"""Certificates that a real Caddy gets from a real ACME server: had, renewed in time, and said to be missing."""

import dataclasses

import pytest
import requests

from components.caddy.config import gateway_config
from components.caddy.spec import Acme, problems
from components.gateway import GatewayProvider
from components.records import record
from components.vast.identity import fetch_certificate
from emulator.runtime import free_port
from harness.pebble import running_pebble
from harness.wait import until
from tests.client_ca import ClientCa
from tests.gateway.test_resource import props_of

pytestmark = pytest.mark.all
HOST = "localhost"
LIFETIME_S = 15


@pytest.fixture
def port():
    return free_port("127.0.0.1")


@pytest.fixture
def pebble(tmp_path, port):
    with running_pebble(tmp_path / "pebble", port, lifetime_s=LIFETIME_S) as one:
        yield one


def acme_of(pebble, **changes):
    return Acme((HOST,), pebble.directory, pebble.directory_ca_file, **changes)


@pytest.mark.parametrize("client_ca", [None, ClientCa()], ids=["", "client_ca"])
def test_a_certificate_is_renewed_before_its_end(client_ca, pebble, port, caddy, rerankers, front, tmp_path):
    acme = {"acme": acme_of(pebble), "client_ca": client_ca.pem if client_ca else ""}
    one = front(rerankers(1), tiers=1, listen=f":{port}", certificate=None, **acme)
    assert problems(one.gateway) == []
    config = gateway_config(one.gateway)
    config["apps"]["tls"]["automation"]["renew_interval"] = "1s"  # 10 minutes is too long for this one
    caddy.admin.load(config)

    def shown():
        return fetch_certificate(HOST, port, pebble.ca_certificate, HOST)

    first = until(shown)
    assert until(lambda: shown() != first and shown()).ends_at > first.ends_at
    (tmp_path / "acme-ca.pem").write_text(pebble.ca_certificate)
    client = dataclasses.replace(one, url=f"https://{HOST}:{port}", ca=str(tmp_path / "acme-ca.pem"))
    if client_ca:  # the ACME server, like `shown`, has a handshake without one
        with pytest.raises(requests.ConnectionError):
            client.ask()
        client.session.cert = tuple(map(str, client_ca.issue(tmp_path)))
    assert client.ask().status_code == 200


def test_a_name_that_does_not_lead_to_the_gateway_is_said_by_the_deploy(pebble, port, caddy, rerankers, front):
    one = front(rerankers(1), tiers=1, certificate=None, acme=acme_of(pebble))  # at another port than Pebble asks
    elsewhere = {"acme": record(one.gateway.acme), "url": f"https://{HOST}:{port}"}
    props = props_of(caddy, one, **elsewhere, ca_certificate=pebble.ca_certificate, acme_timeout_s=3)
    with pytest.raises(Exception, match=f"must reach {HOST}:443, and this port must lead to 127.0.0.1:"):
        GatewayProvider().create(props)
