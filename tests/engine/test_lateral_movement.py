"""A host that looks for more: all that was in its container is tried at every other server, and at the gateway."""

import threading

import pytest
import requests

from components.caddy.front_proxy import ADMIN_PREFIX
from components.container_files import ENV_PREFIX
from harness.certificates import ca_file
from harness.stack import EMULATOR_KEY, EngineStack
from tests.engine.fleet import up

pytestmark = pytest.mark.engine
PUBLIC = ENV_PREFIX, "BACK_", "FRONT_"  # the guard's source and Caddy's configs, in pieces
METHODS = ("GET", "POST", "PUT")
PATHS = ("/guard/keys", "/guard/routes", "/rerank", "/v1/models", "/metrics", f"{ADMIN_PREFIX}/config/")


class Hosts(threading.Thread):
    """Reads, in a block, what each rented container was given, by instance: of those too that are soon gone."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.env, self._end = url, {}, threading.Event()

    def run(self):
        headers = {"Authorization": f"Bearer {EMULATOR_KEY}"}
        while not self._end.wait(0.02):
            rows = requests.get(f"{self.url}/api/v1/instances/", headers=headers, timeout=10).json()["instances"]
            self.env |= {row["id"]: dict(row["extra_env"]) for row in rows}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join()


def opened(url, ca, key):
    """Return the paths of a server that a key opens, by any method."""
    with requests.Session() as session:  # the guard limits connections without a valid key
        answers = {
            (method, path): session.request(
                method, url + path, json={"keys": []}, headers={"Authorization": f"Bearer {key}"}, verify=ca, timeout=10
            )
            for path in PATHS
            for method in METHODS
        }
    return {path for (_, path), answer in answers.items() if answer.status_code not in (401, 404)}


@pytest.mark.parametrize("kind", [pytest.param("off", marks=pytest.mark.all), "rent"])
def test_what_a_host_was_given_opens_its_own_server_alone_and_nothing_once_it_was_given_up(
    kind, market, ledger, tmp_path
):
    stack = EngineStack(tmp_path / "stack", market.url, config={"replicas": 2, "gateway.kind": kind}).init()
    ledger.fault("exited_at_boot", times=1)
    with Hosts(market.url) as hosts:
        up(stack)
    out = stack.outputs()
    ca = ca_file(out["ca_certificate"])
    urls = {one["instance_id"]: one["url"] for one in out["replicas"]}
    if kind == "rent":
        [gateway] = stack.instances() - set(urls)
        urls[gateway] = out["url"]
    tried = set(hosts.env) - stack.instances()
    assert len(tried) == 1
    for host, env in hosts.env.items():
        given = {value for name, value in env.items() if len(value) >= 16 and not name.startswith(PUBLIC)}
        assert stack.own_key("reranker") in given or host != out["instance_id"]  # so what is tried is what opens
        for server, url in urls.items():
            paths = set().union(*(opened(url, ca, value) for value in given))
            assert bool(paths) == (host == server), (host, server, paths)
