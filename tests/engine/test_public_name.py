"""A gateway with a certificate that is not by the stack's CA: one of one's own, or one that Caddy gets by ACME."""

import pytest
import requests

from components.vast.identity import Authority
from emulator.runtime import free_port
from harness.caddy import running
from harness.certificates import ca_file
from harness.pebble import running_pebble
from harness.stack import EngineStack
from reranker import Reranker
from reranker.stack import from_outputs
from tests.engine.fleet import endpoint, ops, up

pytestmark = [pytest.mark.engine, pytest.mark.all]
HOST = "localhost"


@pytest.fixture
def port():
    return free_port("127.0.0.1")


@pytest.fixture
def named(tmp_path, market, port):
    """Make a function that returns a stack behind a Caddy of one's own by that name, with more config."""
    with running(tmp_path / "c") as caddy:
        yield lambda **more: EngineStack(
            tmp_path / "stack",
            market.url,
            config={
                "gateway.kind": "caddy",
                "gateway.admin_url": caddy.admin_url,
                "gateway.listen": f":{port}",
                "gateway.url": f"https://{HOST}:{port}",
                **{f"gateway.{key}": value for key, value in more.items()},
            },
        ).init()


def assert_outputs_are_enough(stack, ca_certificate):
    """For a client that trusts this CA and not that of the servers; the servers are known by theirs all the same."""
    out = stack.outputs()
    assert out["ca_certificate"].strip() == ca_certificate.strip()
    with Reranker(from_outputs("", out).endpoint) as client:
        assert client.rerank("deep learning", ["pizza", "deep learning"])[0].index == 1
    assert "--cacert" in out["curl"]
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(out["url"], verify=ca_file(out["servers_ca_certificate"]), timeout=10)
    seen = stack.drift()
    assert seen.rc == 0, seen.text
    status = ops(stack, "status")
    assert status.rc == 0, status.out + status.err


def test_a_certificate_of_ones_own_is_shown_and_its_ca_is_the_output(named):
    authority = Authority.make("a company's", [HOST])
    certificate, private_key = authority.issue(HOST, days=5).pem()
    stack = named(certificate=certificate, ca_certificate=authority.certificate)
    stack.ok("config", "set", "--secret", "--path", "gateway.private_key", f"\n{private_key}")
    up(stack)
    assert_outputs_are_enough(stack, authority.certificate)
    assert private_key.splitlines()[1] not in stack.export()
    assert "gateway.certificate ends in 5 days: set the next one" in stack.preview()


def test_a_certificate_by_acme_is_had_and_clients_need_its_ca_alone(named, tmp_path, port):
    with running_pebble(tmp_path / "pebble", port) as pebble:
        acme = {"names": [HOST], "directory": pebble.directory, "directory_ca_file": pebble.directory_ca_file}
        stack = named(acme=acme, ca_certificate=pebble.ca_certificate)
        up(stack)
        assert_outputs_are_enough(stack, pebble.ca_certificate)
        assert endpoint(stack).ask("wrong" * 8).status_code == 401
