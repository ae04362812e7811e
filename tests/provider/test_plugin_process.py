"""Each verb through the plugin's own gRPC process: what comes back is what the engine would store."""

import base64
import contextlib
import json
import os
import signal
import threading
import time

import dill
import grpc
import pytest
from google.protobuf import empty_pb2

from components.client_keys import ClientKeysProvider
from components.credentials import ApiKeyProvider
from components.instance import InstanceProvider
from components.offers import OfferQueryProvider
from components.validation import RerankValidationProvider
from components.vast.json_values import as_text
from harness.wait import until
from tests.provider.conftest import Plugin

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
GUIDE = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"
SEARCH = {"query": GUIDE, "constraints": [], "pull_gb": 12, "disk_gb": 40, "prefer": "cheapest", "keep": 8}

# Pickles as they stand in the states of stacks that exist. A provider's module and class never move.
STORED = {
    OfferQueryProvider: "gASVLwAAAAAAAACMEWNvbXBvbmVudHMub2ZmZXJzlIwST2ZmZXJRdWVyeVByb3ZpZGVylJOUKYGULg==",
    ApiKeyProvider: "gASVMAAAAAAAAACMFmNvbXBvbmVudHMuY3JlZGVudGlhbHOUjA5BcGlLZXlQcm92aWRlcpSTlCmBlC4=",
    InstanceProvider: "gASVLwAAAAAAAACME2NvbXBvbmVudHMuaW5zdGFuY2WUjBBJbnN0YW5jZVByb3ZpZGVylJOUKYGULg==",
    RerankValidationProvider: (
        "gASVOQAAAAAAAACMFWNvbXBvbmVudHMudmFsaWRhdGlvbpSMGFJlcmFua1ZhbGlkYXRpb25Qcm92aWRlcpSTlCmBlC4="
    ),
}


def instance_props(**changes):
    return {
        "label_base": "vast-reranker/test/reranker",
        "owner": "0a1b2c3d",
        "search": as_text(SEARCH),
        "image": "vllm/vllm-openai:v0.19.1",
        "disk_gb": 40,
        "ports": ["8000:8000"],
        "args": ["--model", MODEL],
        "env": {"VLLM_API_KEY": "k" * 32},
        "probe": {
            "port": 8000,
            "method": "POST",
            "path": "/rerank",
            "body": {"model": MODEL, "query": "q", "documents": ["d"]},
            "expect_body": "relevance_score",
        },
        "poll_s": 0.1,
        "watch": {"probe_window_s": 0.5},
    } | changes


@pytest.fixture
def found(plugin):
    inputs, failures = plugin.check(OfferQueryProvider(), {}, {"search": SEARCH})
    assert failures == []
    return inputs


def billed(market):
    contracts = market.control.ledger()
    return {one["id"] for one in contracts if not one["destroyed_at"]}


def test_check_finds_offers_and_keeps_them_while_the_query_stays(plugin, found, market):
    searches = market.control.requests()
    again, failures = plugin.check(OfferQueryProvider(), found, {"search": SEARCH})
    assert failures == []
    assert again["candidates"] == found["candidates"]
    assert market.control.requests() == searches


def test_two_plans_of_the_same_thing_are_equal_whenever_they_are_made(plugin, found, market, engine, tmp_path):
    config = {"emulator": json.dumps({"url": market.url}), "vast_api_key": "emulator-key"}
    instance, made_at = plugin.check(InstanceProvider(), {}, instance_props()), time.time()
    other = Plugin(engine, config, {"HOME": str(tmp_path)})  # a later one, whose process has found nothing yet
    try:
        market.control.advance(3600)
        until(lambda: time.time() > made_at + 1)  # a clock of whole seconds would show
        assert other.check(OfferQueryProvider(), {}, {"search": SEARCH}) == (found, [])
        assert other.check(InstanceProvider(), {}, instance_props()) == instance
    finally:
        other.stop()


def test_a_query_that_cannot_be_read_is_a_check_failure_with_the_position(plugin):
    _, failures = plugin.check(OfferQueryProvider(), {}, {"search": {**SEARCH, "query": "num_gpus=1 foo"}})
    assert "position 12" in failures[0]


def test_an_instance_is_created_read_and_deleted(plugin, market, engine):
    provider = InstanceProvider()
    props = instance_props()
    id_, outs = plugin.create(provider, props, urn="urn:pulumi:t::p::x::the-row")
    assert billed(market) == {int(id_)}
    assert outs["url"] == f"http://{outs['ip']}:{outs['port']:.0f}"
    assert outs["drift"] == ""

    same_id, read = plugin.read(provider, id_, outs)
    assert (same_id, read["ip"], read["drift"]) == (id_, outs["ip"], "")
    assert plugin.diff(provider, id_, read, props).changes == 1  # DIFF_NONE

    plugin.delete(provider, id_, read)
    assert billed(market) == set()
    plugin.delete(provider, id_, read)  # gone already is success

    gone_id, _ = plugin.read(provider, id_, outs)
    assert gone_id == ""
    rows = {message.urn for message in engine.messages if "serves after" in message.message}
    assert rows == {"urn:pulumi:t::p::x::the-row"}
    assert any(message.ephemeral for message in engine.messages)


def test_an_instance_of_a_lost_state_is_named_before_another_is_rented_and_taken_over_on_request(
    plugin, market, engine
):
    provider = InstanceProvider()
    id_, _ = plugin.create(provider, instance_props(owner="of-the-lost-state"))
    news, failures = plugin.check(provider, {}, instance_props())
    assert failures == []
    (told,) = [one.message for one in engine.messages if "of another state" in one.message]
    assert told.startswith(f"instance {id_}, $")
    assert f"`pulumi config set adopt_instance_id {id_}` adopts it" in told

    adopted, _ = plugin.create(provider, news | {"adopt_instance_id": int(id_)})
    assert billed(market) == {int(id_)} == {int(adopted)}


def test_an_instance_to_adopt_that_does_not_exist_is_refused_before_anything_is_rented(plugin):
    _, failures = plugin.check(InstanceProvider(), {}, instance_props(adopt_instance_id=4711))
    assert failures == ["instance 4711 does not exist: remove it from the config to rent a new one"]


def test_a_deploy_that_fails_after_something_was_rented_says_what_it_costs_and_how_to_go_on(plugin, market):
    id_, outs = plugin.create(InstanceProvider(), instance_props())
    server = {"name": "reranker", "url": "http://127.0.0.1:9", "instance_id": int(id_)}
    keys = {"servers": [server], "stack_secret": "o" * 32, "keys": ["k" * 32]}
    with pytest.raises(grpc.RpcError) as failed:
        plugin.create(ClientKeysProvider(), keys, urn="urn:pulumi:test::vast-reranker::x:y:Z::reranker-keys")
    price = outs["hourly_cost_usd"]["total"]
    assert f"still rented: instance {id_} (${price:.4f}/h); fix the error above and run `pulumi up`, or destroy" in (
        failed.value.details()
    )


def test_an_error_is_one_clean_line_and_leaves_nothing_rented(plugin, market):
    props = instance_props(image="", disk_gb=40)
    with pytest.raises(grpc.RpcError) as caught:
        plugin.create(InstanceProvider(), props)
    assert "Traceback" not in caught.value.details()
    assert caught.value.details().startswith("RentalFailed: ")
    assert billed(market) == set()


def test_more_than_the_stock_four_creates_run_at_once(plugin, market):
    # the market takes long enough that a pool of four would need a second turn
    market.control.fault("stuck_loading")
    provider = InstanceProvider()
    many = 7
    for n in range(many):
        base = f"vast-reranker/test/replica-{n}"
        props = instance_props(label_base=base)
        threading.Thread(target=lambda props=props: _ignore_error(plugin.create, provider, props), daemon=True).start()
    until(lambda: len(billed(market)) == many)


def _ignore_error(call, *args):
    with contextlib.suppress(grpc.RpcError):
        call(*args)


def test_a_plugin_whose_engine_died_destroys_what_it_rented_and_ends(plugin, market, engine):
    market.control.fault("stuck_loading")
    props = instance_props()
    threading.Thread(target=lambda: _ignore_error(plugin.create, InstanceProvider(), props), daemon=True).start()
    until(lambda: billed(market))
    engine.stop()
    until(lambda: plugin.process.poll() is not None)
    assert billed(market) == set()


def test_an_interrupted_create_destroys_what_boots_at_once_and_rents_nothing_new(plugin, market):
    market.control.fault("stuck_loading")
    ended = []

    def create():
        try:
            plugin.create(InstanceProvider(), instance_props())
        except grpc.RpcError as error:
            ended.append(error.details())

    threading.Thread(target=create, daemon=True).start()
    (booting,) = until(lambda: billed(market))
    plugin.stub.Cancel(empty_pb2.Empty())
    until(lambda: ended)
    assert f"Interrupted: the operation was interrupted: booting instances destroyed: {booting}" in ended[0]
    assert billed(market) == set()
    contracts = market.control.ledger()
    assert [one["id"] for one in contracts] == [booting]


def test_a_create_after_a_killed_plugin_adopts_what_it_rented(plugin, market, engine, tmp_path):
    from tests.provider.conftest import Plugin  # noqa: PLC0415

    market.control.fault("stuck_loading")
    props = instance_props()
    threading.Thread(target=lambda: _ignore_error(plugin.create, InstanceProvider(), props), daemon=True).start()
    left = until(lambda: billed(market))
    os.kill(plugin.process.pid, signal.SIGKILL)
    plugin.process.wait(10)
    market.control.faults_off()

    config = {"emulator": json.dumps({"url": market.url}), "vast_api_key": "emulator-key"}
    second = Plugin(engine, config, {"HOME": str(tmp_path)})
    try:
        id_, outs = second.create(InstanceProvider(), props)
    finally:
        second.stop()
    assert {int(id_)} == left == billed(market)
    assert outs["adopted"]


def test_what_a_killed_run_rented_and_nothing_declares_is_destroyed_once_the_state_has_been_read(
    plugin, market, engine, tmp_path
):
    from tests.provider.conftest import Plugin  # noqa: PLC0415

    first, outs = plugin.create(InstanceProvider(), instance_props())
    declared, _ = plugin.create(InstanceProvider(), instance_props(label_base="vast-reranker/test/reranker-2"))
    left, _ = plugin.create(InstanceProvider(), instance_props(label_base="vast-reranker/test/reranker-3"))
    others, _ = plugin.create(
        InstanceProvider(), instance_props(label_base="vast-reranker/test/reranker-3", owner="another0")
    )
    config = {"emulator": json.dumps({"url": market.url}), "vast_api_key": "emulator-key"}
    later = Plugin(engine, config, {"HOME": str(tmp_path)})
    owner, query = instance_props()["owner"], {"search": SEARCH, "instances": ["reranker", "reranker-2"]}
    try:
        unread = later.diff(OfferQueryProvider(), owner, query, query)
        later.read(InstanceProvider(), first, outs)
        found = later.diff(OfferQueryProvider(), owner, query, query)
        later.update(OfferQueryProvider(), owner, query, query)
        after = later.diff(OfferQueryProvider(), owner, query, query)
    finally:
        later.stop()
    assert [one.changes for one in (unread, found, after)] == [1, 2, 1]  # 1: none, 2: some
    assert billed(market) == {int(first), int(declared), int(others)}
    assert any(one.message.startswith(f"instance {left} (vast-reranker/test/reranker-3@") for one in engine.messages)


def test_an_instance_that_a_later_create_adopts_outlives_the_deletion_of_the_resource_that_had_it(
    plugin, market, engine, tmp_path
):
    """A replacement failed and the config went back: the state has the instance twice, once to be deleted."""
    from tests.provider.conftest import Plugin  # noqa: PLC0415

    provider, props = InstanceProvider(), instance_props()
    id_, outs = plugin.create(provider, props)
    config = {"emulator": json.dumps({"url": market.url}), "vast_api_key": "emulator-key"}
    for step in ("create", "diff"):  # of the same update, and of a later one where that did not come to the deletion
        later = Plugin(engine, config, {"HOME": str(tmp_path)})
        try:
            if step == "create":
                same_id, adopted = later.create(provider, props)
                assert same_id == id_
            else:
                later.diff(provider, id_, adopted, props)
            later.delete(provider, id_, outs)
        finally:
            later.stop()
        assert billed(market) == {int(id_)}, step
    last = Plugin(engine, config, {"HOME": str(tmp_path)})
    try:
        last.diff(provider, id_, adopted, props)  # as the refresh at the start of an update asks for it
        last.delete(provider, id_, adopted)
    finally:
        last.stop()
    assert billed(market) == set()


@pytest.mark.parametrize("provider", STORED)
def test_a_provider_stored_in_a_state_of_old_still_loads(provider):
    assert isinstance(dill.loads(base64.b64decode(STORED[provider])), provider)
