"""The rented form: the very boot script in a container of the emulator, told what to be through its admin route."""

import asyncio
import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from components.caddy import launch
from components.caddy.admin import CaddyAdmin
from components.caddy.spec import problems
from components.gateway import GatewayProvider
from components.guard.keys import NO_CERTIFICATE
from emulator.runtime import Containers, RuntimeSettings, free_port
from harness.certificates import ca_file
from harness.load import LoadGenerator
from harness.wait import until
from tests.client_ca import ClientCa
from tests.gateway.conftest import Front
from tests.gateway.test_resource import props_of

IP = "127.0.0.1"


class Container:
    """One rented gateway."""

    def __init__(self, folder, authority, client_ca=None):
        self.key = secrets.token_hex(32)
        self.shown = client_ca and tuple(map(str, client_ca.issue(folder)))
        plan = launch.plan_gateway_launch(client_ca.pem if client_ca else "")
        self.env = plan.env | {launch.ADMIN_KEY_ENV: self.key} | authority.issue(IP).env()
        body = {"image": plan.image, "runtype": "args", "onstart": plan.onstart, "args": list(plan.args),
                "env": self.env}  # fmt: skip
        self.folder = folder
        self.port = free_port(IP)
        self.containers = Containers(RuntimeSettings("stub", folder, Path("python3"), {}))
        self.process = asyncio.run(self.containers.start(1, body, IP, {launch.PORT: self.port}))
        self.ca = authority.certificate
        self.probe = replace(launch.admin_probe(), ca_certificate=authority.certificate)
        self.url = self.probe.url(IP, self.port)
        self.admin_url = launch.admin_url(self.url)

    def probed(self):
        return self.probe.check(IP, self.port, self.env)

    def admin(self, key):
        return CaddyAdmin(self.admin_url, ca=self.ca, key=key)

    def stop(self):
        self.process.kill()
        asyncio.run(self.containers.stop(1))


@pytest.fixture
def container(request, tmp_path, authority):
    one = Container(tmp_path, authority, getattr(request, "param", None))
    try:
        until(lambda: one.probed().verdict == "ready")
        yield one
    finally:
        one.stop()


@pytest.fixture
def site(container, rerankers, front):
    """A gateway in the container: its public side, its props, what create returned."""
    one = front(rerankers(2), tiers=1, listen=launch.LISTEN, certificate=None)
    assert problems(one.gateway) == []
    props = props_of(
        container, one, admin_key=container.key, admin_ca=container.ca, rented=True, sockets=launch.SOCKETS
    )
    made = GatewayProvider().create(props)
    public = Front(one.gateway, ca_file(container.ca), container.url, one.key)
    public.session.cert = container.shown
    until(lambda: public.ask().status_code == 200)
    return public, props, made


@pytest.mark.parametrize("container", [ClientCa()], indirect=True)
def test_with_a_client_ca_a_client_needs_a_certificate_and_the_stack_none(site, container, tmp_path):
    public, *_ = site
    without, another = requests.Session(), requests.Session()
    another.cert = tuple(map(str, ClientCa("another").issue(tmp_path)))
    refused = replace(public, session=without).ask()
    assert (refused.status_code, refused.json()["error"]["message"]) == (403, NO_CERTIFICATE)
    for path, key in (("/rerank", ""), ("/rerank", "x" * 32), ("/admin/config/", public.key), ("/health", "")):
        assert replace(public, session=without).ask(path=path, key=key).status_code == 403
    with pytest.raises(requests.ConnectionError):
        replace(public, session=another).ask()
    assert (public.ask(key="x" * 32).status_code, public.ask().status_code) == (401, 200)
    assert container.probed().verdict == "ready"
    assert container.admin(container.key).upstreams()


@pytest.mark.parametrize("client_ca", ["", "".join(ClientCa().pem for _ in range(10))], ids=["", "client_ca"])
def test_the_launch_fits_what_vast_takes(client_ca):
    plan = launch.plan_gateway_launch(client_ca)
    assert sum(map(len, plan.args)) + len(plan.onstart) <= 4096
    assert all(len(value) <= 256 for value in plan.env.values())


def test_the_admin_route_is_404_without_its_own_key(container, site):
    public, _, _ = site
    paths = ("/admin/", "/admin/config/", "/admin/load", "/admin/stop", "/admin/reverse_proxy/upstreams",
             "/admin/metrics", "/admin/debug/pprof/", "/config/", "/ADMIN/config/", "//admin/config/",
             "/rerank/../admin/config/")  # fmt: skip
    hidden = [container.key, public.key, public.gateway.upstreams[0].key]
    for path in paths:
        for key in ("", public.key, public.gateway.upstreams[0].key, container.key[:-1]):
            for method in ("GET", "POST"):
                answer = public.ask(method, path, key=key)
                assert answer.status_code == 404, (method, path)
                assert not any(secret in answer.text for secret in hidden)
    for secret in hidden:
        assert secret not in (container.folder / "containers" / "1" / "log").read_text()
    assert public.ask().status_code == 200
    assert public.ask(key=container.key).status_code == 401


def test_with_its_key_the_admin_route_shows_the_gateway_and_nothing_of_the_front(container, site):
    config = container.admin(container.key).config()
    assert set(config["apps"]["http"]["servers"]) == {"test", *site[0].gateway.dials}
    assert container.key not in json.dumps(config)
    assert {*container.admin(container.key).upstreams()} == {*site[0].gateway.dials}
    headers = {"Authorization": f"Bearer {container.key}"}
    ask = {"headers": headers, "verify": site[0].ca, "timeout": 10}
    healthy = f'caddy_reverse_proxy_upstreams_healthy{{upstream="{launch.SOCKETS}/'
    # Caddy counts them every 10 s, and for the first time when the config is loaded
    until(lambda: healthy in requests.get(f"{container.admin_url}/metrics", **ask).text, within_s=30)


def test_a_roll_through_the_rented_gateway_fails_no_request(container, site):
    public, props, made = site
    provider = GatewayProvider()
    outs = made.outs
    with LoadGenerator(public) as load:
        for turn in range(6):
            kept = props["upstreams"][turn % 2 :][:1]
            outs = provider.update(made.id, outs, {**props, "upstreams": kept, "settle_s": 0.1}).outs
            load.wait_for_requests(15)
    assert load.failures == []
    assert load.rate_per_s >= 50


def test_a_gateway_process_that_dies_comes_back_empty_and_is_restored(container, site):
    public, props, made = site
    provider = GatewayProvider()
    (answer,) = [requests.post(f"{container.admin_url}/stop", headers={"Authorization": f"Bearer {container.key}"},
                               verify=public.ca, timeout=10)]  # fmt: skip
    assert answer.status_code == 200
    read = until(
        lambda: (seen := provider.read(made.id, made.outs)).outs["drift"].startswith("restarted-empty") and seen
    )
    assert public.ask().status_code in (502, 503)
    provider.update(made.id, read.outs, props)
    until(lambda: public.ask().status_code == 200)


def test_a_rented_gateway_that_is_gone_leaves_nothing_to_delete(container, site):
    _, _, made = site
    container.stop()
    GatewayProvider().delete(made.id, made.outs)
