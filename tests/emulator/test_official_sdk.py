"""The unmodified official SDK: `VastAI`, `SyncClient`, and `AsyncClient` with another address for its certificate."""

import asyncio
import json

import pytest
import requests
from vastai import VastAI
from vastai.async_.client import AsyncClient
from vastai.data.instance import InstanceConfig
from vastai.data.query import Query
from vastai.sync.client import SyncClient

from harness.wait import until
from tests.emulator.client import IMAGE, KEY, MODEL

KEY_TEXT, OTHER_KEY = "ssh-ed25519 AAAAC3 someone", "ssh-ed25519 BBBBC3 other"


@pytest.fixture
def sdk(vast):
    return VastAI(api_key=KEY, server_url=vast.url)


def test_offers_are_searched_and_the_first_is_launched(sdk, vast):
    found = sdk.search_offers(query="num_gpus=1 gpu_name=RTX_3090 disk_space>=10", order="dph_total", storage=10)
    assert {one["gpu_name"] for one in found} == {"RTX 3090"}
    made = sdk.launch_instance("RTX_3090", "1", IMAGE, order="dph_total", disk=10, args=["--model", MODEL])
    row = sdk.show_instance(made["new_contract"])
    assert (row["machine_id"], row["image_runtype"]) == (found[0]["machine_id"], "args")
    assert [one["id"] for one in sdk.show_instances()] == [made["new_contract"]]


def test_an_instance_is_labelled_stopped_started_rebooted_and_destroyed(sdk, vast):
    instance_id = vast.running()["id"]
    assert sdk.label_instance(instance_id, "mine")["msg"] == f"label for {instance_id} set to 'mine'"
    assert sdk.stop_instance(instance_id)["success"]
    assert sdk.start_instance(instance_id)["success"]
    vast.wait(instance_id)
    assert sdk.reboot_instance(instance_id)["success"]
    assert sdk.recycle_instance(instance_id)["success"]
    assert sdk.show_instance(instance_id)["label"] == "mine"
    assert sdk.destroy_instance(instance_id)["success"]
    assert sdk.show_instance(instance_id) is None


def test_an_instance_that_is_prepaid_shows_its_deposit(sdk, vast):
    instance_id = vast.rent()
    paid = sdk.prepay_instance(instance_id, 10)
    assert paid["timescale"] > 0
    assert 0 < paid["discount_rate"] <= 0.4
    assert sdk.show_deposit(instance_id)["refundable_deposit"] == pytest.approx(10, abs=0.5)
    assert sdk.show_user()["credit"] < 15.01


def test_a_snapshot_is_ordered_and_a_command_runs_on_the_containers_files_alone(sdk, stub):
    row = stub.running(onstart="bash", args=["-c", "touch mark; exec sleep 100"])
    sdk = VastAI(api_key=KEY, server_url=stub.url)
    assert sdk.take_snapshot(row["id"], repo="me/mine")["success"]
    until(lambda: "mark" in sdk.execute(row["id"], "ls /"))
    assert sdk.execute(row["id"], "rm mark") == ""
    assert "mark" not in sdk.execute(row["id"], "ls")
    for command in ("cat log", "ls ../..", "rm -rf /../..", "ls 'x", "", "ls " + "x" * 600):
        answer = stub.call("PUT", f"0/instances/command/{row['id']}/", {"command": command})
        assert (answer.status_code, answer.json()["msg"]) == (400, "Invalid command given.")


def test_ssh_keys_are_added_changed_attached_detached_and_deleted(sdk, vast):
    instance_id = vast.rent()
    key = sdk.create_ssh_key(KEY_TEXT)["key"]
    assert [one["public_key"] for one in sdk.show_ssh_keys()] == [KEY_TEXT]
    sdk.attach_ssh(instance_id, OTHER_KEY)
    sdk.detach_ssh(instance_id, str(key["id"]))
    attached = json.loads(vast.call("GET", f"0/instances/{instance_id}/ssh/").json()["ssh_keys"])
    assert [one["public_key"] for one in attached] == [OTHER_KEY]
    assert sdk.update_ssh_key(key["id"], OTHER_KEY)["key"]["key"] == OTHER_KEY
    sdk.delete_ssh_key(key["id"])
    assert len(sdk.show_ssh_keys()) == 1  # the attached one came into the account as well


def test_templates_are_created_once_changed_and_deleted(sdk, vast):
    made = sdk.create_template(name="mine", image="vllm/vllm-openai", env="-e A=b", disk_space=20)["template"]
    again = sdk.create_template(name="mine", image="vllm/vllm-openai", env="-e A=b", disk_space=20)["template"]
    assert (again["id"], again["hash_id"]) == (made["id"], made["hash_id"])
    changed = sdk.update_template(made["hash_id"], name="yours", image="vllm/vllm-openai")["template"]
    assert (changed["id"], changed["hash_id"] == made["hash_id"]) == (made["id"], False)
    assert [one["name"] for one in sdk.search_templates("name=yours")] == ["yours"]
    sdk.delete_template(template_id=made["id"])
    assert sdk.search_templates() == []


def test_invoices_and_charges_are_listed(sdk, vast):
    instance_id = vast.rent()
    vast.control("time/advance", seconds=60)
    span = {"start_date": "2020-01-01", "end_date": "2099-01-01"}
    assert [one["amount"] for one in sdk.show_invoices_v1(**span)["results"]] == [-25]
    [charge] = sdk.show_invoices_v1(charges=True, **span)["results"]
    assert (charge["type"], charge["source"]) == ("instance", f"instance-{instance_id}")
    with pytest.warns(DeprecationWarning, match="show_invoices_v1"):
        assert {one["type"] for one in sdk.show_invoices(**span)["invoices"]} == {"payment", "charge"}
    assert sdk.show_subaccounts() == []


def test_the_typed_client_searches_rents_and_destroys(vast):
    client = SyncClient(api_key=KEY, vast_server=vast.url)
    offer = client.search(Query({}), order=[["dph_total", "asc"]], allocated_storage=40)[0]
    made = offer.create_instance(InstanceConfig(image=IMAGE, disk=10, args=["--model", MODEL]))
    assert (made.machine_id, made.image_runtype) == (offer.machine_id, "args")
    made.destroy()
    assert client.show_instances() == []


def test_the_asynchronous_client_searches_rents_and_destroys(vast):
    class Here(AsyncClient):
        SSL_CERT_URL = f"{vast.url}/static/jvastai_root.cer"

    async def live():
        async with Here(api_key=KEY, vast_server=vast.url) as client:
            offer = (await client.search(Query({}), order=[["dph_total", "asc"]], limit=1))[0]
            made = await offer.create_instance(InstanceConfig(image=IMAGE, disk=10))
            there = [one.id for one in await client.show_instances()]
            await made.destroy()
            return made.id in there, await client.show_instances()

    assert asyncio.run(live()) == (True, [])


def test_the_certificate_needs_no_key(vast):
    assert "BEGIN CERTIFICATE" in requests.get(f"{vast.url}/static/jvastai_root.cer", timeout=5).text
