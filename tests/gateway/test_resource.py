"""The Gateway's verbs on a real Caddy: applied, watched, moved, taken out."""

import concurrent.futures
import json
import re
import threading

import pytest

from components.caddy.admin import CaddyAdmin
from components.gateway import GatewayProvider
from components.records import record
from harness.caddy import running
from harness.load import BODY, LoadGenerator
from harness.wait import until
from reranker.http import HttpTransport, Unanswered
from tests.gateway.upstream import READINESS

OTHER_SITE = {
    "listen": ["127.0.0.1:0"],
    "automatic_https": {"disable": True},
    "routes": [{"handle": [{"handler": "static_response", "body": "another site"}]}],
}


def props_of(caddy, one, **changes):
    gateway = one.gateway
    return {
        "site": gateway.site,
        "listen": gateway.listen,
        "inbound_keys": list(gateway.inbound_keys),
        "certificate": gateway.certificate.certificate if gateway.certificate else "",
        "private_key": gateway.certificate.private_key if gateway.certificate else "",
        "upstreams": record(gateway.upstreams),
        "upstream_ca": gateway.upstream_ca,
        "readiness": record(READINESS),
        "policy": {"check_every_s": 0.5, "retry_for_s": 10, "max_bytes": 20_000},
        "admin_url": caddy.admin_url,
        "admin_key": "",
        "admin_ca": "",
        "drain_timeout_s": 20,
        "settle_s": 0.3,
        "rented": False,
        "sockets": "",
    } | changes


@pytest.fixture
def provider():
    return GatewayProvider()


@pytest.fixture
def two(rerankers):
    return rerankers(2)


@pytest.fixture
def one(two, front):
    return front(two)


@pytest.fixture
def props(caddy, one):
    return props_of(caddy, one)


@pytest.fixture
def made(provider, props, one):
    result = provider.create(props)
    until(lambda: one.ask().status_code == 200)
    return result


def test_what_is_created_serves_and_is_in_sync(provider, props, made):
    read = provider.read(made.id, made.outs)
    assert read.outs["drift"] == ""
    assert not provider.diff(made.id, read.outs, props).changes


def test_unusable_inputs_are_named_all_at_once_and_no_key_is_shown(provider, props):
    wrong = props | {"listen": "nowhere", "inbound_keys": ["short*key-is-secret"],
                     "upstreams": [{"address": "10.0.0.1", "key": "k" * 32}],
                     "admin_url": "localhost:2019",
                     "upstream_ca": "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"}  # fmt: skip
    reasons = [failure.reason for failure in provider.check({}, wrong).failures]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "listen", "inbound_keys, upstreams' keys", "upstreams", "upstream_ca", "admin_url",
    ]  # fmt: skip
    assert not any("secret" in reason for reason in reasons)
    assert provider.check({}, props).failures == []


def test_a_caddy_restarted_empty_is_drift_and_is_restored(provider, props, made, caddy, one):
    caddy.stop()
    read = provider.read(made.id, made.outs)
    assert read.outs["drift"].startswith("unreachable: ")
    caddy.start()
    read = provider.read(made.id, made.outs)
    assert read.outs["drift"].startswith("restarted-empty: ")
    assert provider.diff(made.id, read.outs, props).changes
    updated = provider.update(made.id, read.outs, props)
    assert updated.outs["drift"] == ""
    until(lambda: one.ask().status_code == 200)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("routes/0/handle/0/routes/8/handle/0/routes/0/handle/0/upstreams", [{"dial": "127.0.0.1:1"}], "upstreams: "),
        ("routes/0/handle/0/routes/0", {"handle": []}, "changed by hand at apps.http.servers.test.routes[0]"),
        ("listen", ["127.0.0.1:0"], "changed by hand at apps.http.servers.test.listen[0]"),
        ("read_timeout", "9s", "changed by hand at apps.http.servers.test.read_timeout"),
    ],
)
def test_a_change_by_hand_is_drift_and_is_put_back(provider, props, made, caddy, one, path, value, said):
    def by_hand(config):
        server = config["apps"]["http"]["servers"]["test"]
        *parts, last = path.split("/")
        for part in parts:
            server = server[int(part) if isinstance(server, list) else part]
        server[int(last) if isinstance(server, list) else last] = value
        return config

    caddy.admin.load(by_hand(caddy.admin.config()))
    read = provider.read(made.id, made.outs)
    assert read.outs["drift"].startswith(said)
    assert one.key not in read.outs["drift"]
    assert provider.diff(made.id, read.outs, props).changes
    updated = provider.update(made.id, read.outs, props)
    assert provider.read(made.id, updated.outs).outs["drift"] == ""
    until(lambda: one.ask().status_code == 200)
    assert one.ask(key="wrong").status_code == 401


def test_what_someone_adds_to_the_gateways_caddy_is_drift_and_is_taken_out(provider, props, made, caddy, one):
    config = caddy.admin.config()
    config["apps"]["http"]["servers"]["other"] = OTHER_SITE
    caddy.admin.load(config)
    read = provider.read(made.id, made.outs)
    assert read.outs["drift"] == "changed by hand at apps.http.servers.other"
    provider.update(made.id, read.outs, props)
    assert sorted(caddy.admin.config()["apps"]["http"]["servers"]) == sorted(["test", *one.gateway.dials])


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"apps": {"http": {"servers": {"other": OTHER_SITE}}}}, "servers other"),
        ({"apps": {"tls": {"certificates": {"automate": ["a.internal"]}}}}, "tls"),
        ({"logging": {"logs": {"default": {"level": "ERROR"}}}}, "logging"),
    ],
)
def test_a_caddy_that_holds_another_config_is_neither_taken_nor_emptied(
    provider, props, made, caddy, tmp_path, there, named
):
    with running(tmp_path / "foreign", there) as foreign:
        before = foreign.admin.config()
        with pytest.raises(Exception, match="holds a config that this stack did not write") as refused:
            provider.create(props | {"admin_url": foreign.admin_url})
        assert f"({named})" in str(refused.value)
        with pytest.raises(Exception, match="a gateway needs a Caddy of its own"):
            provider.update(made.id, made.outs, props | {"admin_url": foreign.admin_url})
        elsewhere = made.outs | {"admin_url": foreign.admin_url}
        assert provider.read(made.id, elsewhere).outs["drift"] == f"taken: Caddy holds another config, with {named}"
        provider.delete(made.id, elsewhere)
        assert foreign.admin.config() == before
    assert provider.read(made.id, made.outs).outs["drift"] == ""


def test_a_caddy_keeps_the_admin_api_that_it_was_started_with(provider, props, tmp_path):
    with running(tmp_path / "own", {"apps": {}}) as own:
        admin = own.admin.config()["admin"]
        made = provider.create(props | {"admin_url": own.admin_url})
        assert own.admin.config()["admin"] == admin
        assert provider.read(made.id, made.outs).outs["drift"] == ""
        provider.delete(made.id, made.outs)
        assert own.admin.config() == {"admin": admin}


def test_what_a_killed_create_left_is_taken_over(provider, props, made, caddy):
    again = provider.create({**props, "policy": {"check_every_s": 0.7}})
    assert provider.read(again.id, again.outs).outs["drift"] == ""
    provider.delete(again.id, again.outs)
    assert not caddy.admin.config()
    assert provider.read(again.id, again.outs).outs["drift"].startswith("restarted-empty: ")


def test_a_config_that_caddy_refuses_changes_nothing_and_shows_no_key(provider, props, made, one, two):
    taken = {**props, "listen": two[0].address}
    with pytest.raises(Exception, match="address already in use") as refused:
        provider.update(made.id, made.outs, taken)
    for secret in (one.key, one.gateway.upstreams[0].key):
        assert secret not in str(refused.value)
    assert provider.read(made.id, made.outs).outs["drift"] == ""
    assert one.ask().status_code == 200


def test_a_private_key_that_caddy_cannot_read_is_refused_without_showing_it(provider, props, made, authority):
    certificate, key = authority.issue("127.0.0.1").pem()
    wrong = {**props, "certificate": certificate, "private_key": key.replace("PRIVATE", "PUBLIC")}
    with pytest.raises(Exception, match="key") as refused:
        provider.update(made.id, made.outs, wrong)
    assert not any(line in str(refused.value) for line in key.splitlines()[1:-1])
    assert provider.read(made.id, made.outs).outs["drift"] == ""


def test_an_update_returns_when_the_old_upstream_has_answered_its_last_request(provider, props, made, caddy, one, two):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(one.ask, delay_s=2) for _ in range(6)]
        until(lambda: sum(caddy.admin.upstreams().values()) == 6)
        kept = {**props, "upstreams": [record(two[1].upstream)]}
        updated = provider.update(made.id, made.outs, kept)
        assert caddy.admin.upstreams()[two[0].address] == 0
        two[0].kill()
        assert [each.result().status_code for each in asked] == [200] * 6
        assert {each.result().headers["x-upstream"] for each in asked} == {two[0].name, two[1].name}
    assert updated.outs["upstreams"] == [record(two[1].upstream)]
    assert one.ask().headers["x-upstream"] == two[1].name


def test_what_is_drained_stays_in_caddys_config_where_its_requests_are_counted_exactly(
    provider, props, made, caddy, one, two
):
    """Caddy's count of an address that left its config loses requests: the old server would be destroyed too early.

    It keeps no socket: a reload may hold Caddy's lock of all unix sockets until a connection arrives at one of them.
    """

    def retired():
        servers = caddy.admin.config()["apps"]["http"]["servers"]
        unreachable = servers[one.gateway.site]["routes"][2:]  # after those for allowed paths and for all others
        dials = [upstream["dial"] for route in unreachable for upstream in route["handle"][0]["upstreams"]]
        assert not set(dials) & set(servers)
        return dials

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        asked = [pool.submit(one.ask, delay_s=2) for _ in range(6)]
        until(lambda: sum(caddy.admin.upstreams().values()) == 6)
        update = pool.submit(provider.update, made.id, made.outs, {**props, "upstreams": [record(two[1].upstream)]})
        until(lambda: retired() == [two[0].address])
        assert caddy.admin.upstreams()[two[0].address] == 3
        assert [each.result().status_code for each in asked] == [200] * 6
        updated = update.result()
    assert retired() == [two[0].address]
    assert provider.read(made.id, updated.outs).outs["drift"] == ""
    kept = {**props, "upstreams": [record(two[1].upstream)]}
    assert not provider.diff(made.id, updated.outs, kept).changes
    again = provider.update(made.id, updated.outs, kept)
    assert retired() == []
    assert provider.read(made.id, again.outs).outs["drift"] == ""


def test_reading_while_caddys_config_changes_finds_no_broken_connection(made, caddy):
    """Each change replaces the admin listener; a read that the old one had accepted is closed without an answer."""
    config = caddy.admin.config()
    done = threading.Event()

    def change():
        try:
            for turn in range(60):
                caddy.admin.load({**config, "logging": {"logs": {f"turn-{turn}": {}}}})
        finally:
            done.set()

    def read():
        while not done.is_set():
            caddy.admin.upstreams()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        pool.submit(change).result()
        for reader in readers:
            reader.result()


def test_the_wait_for_the_last_request_is_bounded(provider, props, made, caddy, one, two):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(one.ask, delay_s=4) for _ in range(2)]
        until(lambda: sum(caddy.admin.upstreams().values()) == 2)
        provider.update(made.id, made.outs, {**props, "upstreams": [record(two[1].upstream)], "drain_timeout_s": 0.5})
        assert not all(each.done() for each in asked)
        assert [each.result().status_code for each in asked] == [200, 200]


def test_a_roll_and_a_key_rotation_under_load_fail_no_request(provider, props, made, rerankers, one, two):
    new_key = "n" * 64
    new = rerankers(2)
    for each in new:
        (each.folder / "key").write_text(f"{each.key},{new_key}")
    with LoadGenerator(one) as load:
        load.wait_for_requests(50)
        outs = provider.update(made.id, made.outs, {**props, "upstreams": [record(each.upstream) for each in new]}).outs
        for each in two:
            each.kill()
        load.wait_for_requests(100)
        both = {**props, "upstreams": [record(each.upstream) for each in new], "inbound_keys": [one.key, "k" * 64]}
        outs = provider.update(made.id, outs, both).outs
        load.wait_for_requests(50)
    assert load.failures == []
    assert load.rate_per_s >= 50
    assert one.ask(key="k" * 64).status_code == 200
    outs = provider.update(made.id, outs, {**both, "inbound_keys": ["k" * 64]}).outs
    assert one.ask().status_code == 401
    assert outs["drift"] == ""


def test_a_request_of_the_old_config_is_answered_at_the_new_socket_of_an_upstream_that_stays(
    provider, props, made, caddy, one, two
):
    """It comes from the listener of the old config. The socket of an upstream that goes is closed: see `retired`."""
    config = caddy.admin.config()["apps"]["http"]["servers"]
    routes = json.dumps(config[one.gateway.site]["routes"])
    shown = re.search(r'"set": {"Authorization": \["(Bearer [0-9a-f]{64})"', routes)
    sockets = [config[each.upstream.dial]["listen"][0].partition("|")[0].removeprefix("unix/@") for each in two]
    new = {"upstreams": [record(two[1].upstream)], "inbound_keys": ["k" * 64]}
    provider.update(made.id, made.outs, props | new)

    def ask(name):
        late = HttpTransport(unix_socket=f"\0{name}")
        headers = {"Authorization": shown[1], "Content-Type": "application/json"}
        return late("POST", "http://localhost/rerank", body=json.dumps(BODY).encode(), headers=headers, timeout_s=10)

    assert ask(sockets[1]).status == 200
    with pytest.raises(Unanswered, match="the connection is refused"):
        ask(sockets[0])


def test_another_admin_address_of_the_same_caddy_loses_nothing(provider, props, made, caddy, one):
    alias = caddy.folder / "alias.sock"
    alias.symlink_to(caddy.folder / "admin.sock")
    updated = provider.update(made.id, made.outs, {**props, "admin_url": f"unix://{alias}"})
    assert provider.read(made.id, updated.outs).outs["drift"] == ""
    assert one.ask().status_code == 200


def test_a_gateway_that_moves_to_another_caddy_leaves_the_old_one_as_it_was(provider, props, made, caddy, tmp_path):
    before = caddy.admin.config()
    with running(tmp_path / "new") as new:
        listen = f"unix/{tmp_path}/new.sock|0600"
        moved = provider.update(made.id, made.outs, {**props, "admin_url": new.admin_url, "listen": listen})
        assert provider.read(made.id, moved.outs).outs["drift"] == ""
        assert caddy.admin.config() == before


def test_a_caddy_that_is_gone_keeps_a_delete_from_success_unless_it_was_rented(provider, made, caddy):
    caddy.stop()
    with pytest.raises(Exception, match="start that Caddy and repeat"):
        provider.delete(made.id, made.outs)
    provider.delete(made.id, made.outs | {"rented": True})


def test_no_secret_is_in_the_repr_of_anything(one, made):
    texts = [repr(one.gateway), repr(CaddyAdmin("http://127.0.0.1:1", key=one.key))]
    for secret in one.gateway.secrets():
        assert not any(secret in text for text in texts)
        assert secret not in json.dumps(made.outs["digest"])
