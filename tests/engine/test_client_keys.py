"""Keys by name in a stack: one is added, exchanged and taken away on machines that stay, and no request fails."""

from datetime import date

import pytest
import requests

from harness.load import LoadGenerator
from tests.client_ca import ClientCa
from tests.engine.fleet import Endpoint, behind, endpoint, up

pytestmark = [pytest.mark.engine, pytest.mark.all]


def come_and_go(stack, ledger):
    at, rented = endpoint(stack), stack.instances()

    def deploy(**client_keys):
        stack.write_config(client_keys=client_keys or None)
        up(stack)
        return stack.outputs()["client_keys"]

    def statuses(*keys):
        return [at.ask(key).status_code for key in keys]

    search = deploy(search=None)["search"]
    with (
        LoadGenerator(at, per_s=20, threads=2) as unnamed,
        LoadGenerator(Endpoint(at.url, search, at.ca), per_s=20, threads=2) as named,
    ):
        first = deploy(search=None, batch={"requests_per_s": 50})
        second = deploy(search=None, batch={"requests_per_s": 50, "generation": 2, "keep_previous": True})
        assert first["search"] == second["search"] == search
        assert len({search, first["batch"], second["batch"], at.key}) == 4
        assert statuses(first["batch"], second["batch"]) == [200, 200]
        assert deploy(search=None, batch={"generation": 2}) == second
        assert statuses(first["batch"], second["batch"]) == [401, 200]
        deploy(search=None, batch={"generation": 2, "expires": date(2020, 1, 1)})
        assert statuses(second["batch"], search) == [401, 200]
        assert deploy(search=None) == {"search": search}
        assert statuses(second["batch"]) == [401]
        assert stack.drift().rc == 0
        for load in (unnamed, named):
            load.wait_for_requests(20)
    for load in (unnamed, named):
        assert load.failures == [], str(load)
    assert deploy() == {}
    assert statuses(search, at.key) == [401, 200]
    assert stack.instances() == rented
    assert len(ledger.contracts()) == len(rented)
    shown = stack.run("stack", "output").text
    assert not {search, at.key} & set(shown.split())


def test_at_a_server(stack, ledger):
    assert stack.up().rc == 0
    come_and_go(stack, ledger)


def test_behind_a_gateway(gateway_caddy, market, ledger, tmp_path):
    stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=2)
    come_and_go(stack, ledger)
    stack.write_config(client_keys={"search": None})
    up(stack)
    # what ends the keys of servers that had some is the last step before the gateway takes them
    assert "Validation" in " ".join(dependencies(stack, "ClientKeys"))
    assert "ClientKeys" in " ".join(dependencies(stack, "Gateway"))


def dependencies(stack, kind):
    [found] = [one["dependencies"] for one in stack.deployment()["resources"] if one["type"].endswith(f":{kind}")]
    return found


def test_client_certificates_at_a_server_are_asked_for_and_no_more_while_it_runs(stack, tmp_path):
    ca, another = ClientCa(), ClientCa("another")
    stack.write_config(client_ca=ca.pem, client_keys={"search": None})
    up(stack)
    at, rented = endpoint(stack), stack.instances()
    keys = [at.key, stack.outputs()["client_keys"]["search"]]
    shown = [tuple(map(str, one.issue(tmp_path))) for one in (ca, another)]
    assert [at.ask(key).status_code for key in keys] == [403, 403]
    assert [at.ask(key, cert=shown[0]).status_code for key in keys] == [200, 200]
    assert stack.drift().rc == 0
    stack.write_config(client_ca=another.pem)
    up(stack)
    with pytest.raises(requests.ConnectionError):
        at.ask(cert=shown[0])
    assert at.ask(cert=shown[1]).status_code == 200
    stack.write_config(client_ca=None)
    up(stack)
    assert [at.ask(key).status_code for key in keys] == [200, 200]
    assert stack.instances() == rented
