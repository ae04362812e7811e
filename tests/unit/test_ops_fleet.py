"""What roll and rotate-key read from a state, and what they write to a config, without the engine."""

import pytest

from components.vast.identity import own_key
from ops import exits
from ops.config import assignments
from ops.fleet import Fleet, batches, key_resource, secret_output, server_keys
from ops.plan import Plan, Step
from ops.roll import replicas_to_replace

FLEET = "urn:pulumi:s::p::vast:index:RerankerFleet::reranker"
DYNAMIC = "pulumi-python:dynamic:"


def resource(kind, name, parent, id_="x", **more):
    urn = f"{parent.rpartition('::')[0]}${kind}::{name}"
    return {"urn": urn, "type": kind, "id": id_, "custom": ":index:" not in kind, "parent": parent, **more}


def state(*, left=()):
    found = [{"urn": FLEET, "type": "vast:index:RerankerFleet", "parent": "stack"}]
    found.append(resource(f"{DYNAMIC}OfferQuery", "reranker-offers", FLEET))
    found.append(resource(f"{DYNAMIC}ApiKey", "reranker-own-key", FLEET, outputs={"value": {"plaintext": '"own"'}}))
    found.append(resource(f"{DYNAMIC}ApiKey", "reranker-key", FLEET, outputs={"previous": ""}))
    for number, name in enumerate(("reranker", "reranker-2", "reranker-3"), start=1):
        if name in left:
            found.append(resource(f"{DYNAMIC}Instance", name, FLEET, str(number + 90), delete=True))
        found.append(resource(f"{DYNAMIC}Instance", name, FLEET, str(number)))
    found.append(resource(f"{DYNAMIC}Validation", "reranker-validation", FLEET))
    found.append(resource(f"{DYNAMIC}Instance", "reranker-gateway-instance", FLEET, "50"))
    found.append(resource(f"{DYNAMIC}OfferQuery", "reranker-gateway-offers", FLEET))
    found.append(resource(f"{DYNAMIC}Gateway", "reranker-gateway", FLEET))
    return found


def test_a_batch_is_its_servers_with_what_follows_them_and_the_gateway():
    fleet = Fleet.parse(state())
    assert {name: one.instance_id for name, one in fleet.replicas.items()} == {
        "reranker": 1, "reranker-2": 2, "reranker-3": 3,
    }  # fmt: skip
    names = [urn.rpartition("::")[2] for urn in fleet.targets(["reranker-2"])]
    assert names == ["reranker-2", "reranker-offers", "reranker-validation", "reranker-gateway"]


def test_what_was_left_half_replaced_comes_first_and_all_of_it_at_once():
    fleet = Fleet.parse(state(left=["reranker-3"]))
    assert fleet.replicas["reranker-3"].pending_delete == (93,)
    assert fleet.replicas["reranker-3"].instance_id == 3
    assert batches(fleet, fleet.replicas, 1) == [["reranker-3"], ["reranker"], ["reranker-2"]]
    assert batches(fleet, ["reranker-2"], 9) == [["reranker-3"], ["reranker-2"]]
    two = Fleet.parse(state(left=["reranker", "reranker-3"]))
    assert batches(two, ["reranker", "reranker-2"], 1) == [["reranker", "reranker-3"], ["reranker-2"]]
    assert batches(Fleet.parse(state()), ["reranker-2", "reranker-3", "reranker"], 2) == [
        ["reranker", "reranker-2"],
        ["reranker-3"],
    ]
    assert two.pending_delete == ()


def test_what_else_waits_for_being_destroyed_is_told():
    found = state()
    found[-3]["delete"] = True
    assert Fleet.parse(found).pending_delete == ("reranker-gateway-instance",)


def test_only_servers_of_the_fleet_are_replicas_whatever_else_is_rented():
    found = state()
    other = f"{FLEET.rpartition('::')[0]}::other"
    found += [
        resource(f"{DYNAMIC}Instance", "reranker-4", other, "60"),
        resource(f"{DYNAMIC}Instance", "reranker-x", FLEET, "61"),
        resource(f"{DYNAMIC}Instance", "reranker-2b", FLEET, "62"),
    ]
    assert list(Fleet.parse(found).replicas) == ["reranker", "reranker-2", "reranker-3"]


def plan_of(*steps):
    return Plan(steps, [], [], [], [], [], 0.1, 0.1, [])


def test_a_roll_is_of_servers_only_and_of_one_model():
    fleet = Fleet.parse([one for one in state() if "gateway" not in one["urn"]])
    other = Step("update", "Validation", "reranker-validation", [], {"model": "model changed"})
    with pytest.raises(exits.OpsError, match="another model"):
        replicas_to_replace("s", plan_of(other), fleet, in_place=False)
    server, ca = Step("replace", "Instance", "reranker-2"), Step("delete", "CA", "ca")
    assert replicas_to_replace("s", plan_of(server), fleet, in_place=False) == ["reranker-2"]
    for steps, in_place, says in (
        ((server, ca), False, "a roll only replaces servers, and the plan also changes: ca .delete."),
        ((server,), True, "destroyed before its replacement serves"),
    ):
        with pytest.raises(exits.OpsError, match=says):
            replicas_to_replace("s", plan_of(*steps), fleet, in_place=in_place)
    with pytest.raises(exits.OpsError, match="has no servers yet"):
        replicas_to_replace("s", plan_of(), Fleet.parse([]), in_place=False)


def test_an_empty_state_has_no_fleet():
    assert Fleet.parse([]).replicas == {}
    assert Fleet.parse([]).targets([]) == []


def test_each_servers_own_key_and_the_clients_are_told_apart():
    found = state(left=["reranker-2"])
    for one in found:
        if one["type"].endswith("Instance"):
            one |= {"inputs": {"key_env": "GUARD_KEY"}, "outputs": {"nonce": f"nonce-of-{one['id']}"}}
    assert server_keys(found) == {n: own_key("own", f"nonce-of-{n}") for n in (1, 2, 3)}
    assert server_keys(state()) == {}  # without a guard
    assert secret_output(key_resource(state(), "reranker-key"), "previous") == ""
    assert key_resource([], "reranker-key") == {}


def test_values_to_set_are_read_and_lists_are_lists():
    assert assignments(["image=a=b", 'extra_args=["--max-num-seqs", "64"]', "vast-reranker:disk_gb=50"]) == {
        "image": "a=b", "extra_args": ["--max-num-seqs", "64"], "disk_gb": "50",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("api_key=0123456789abcdef", "no secrets on a command line"),
        ("image", "has no value"),
        ("extra_args=[1", "not JSON"),
    ],
)
def test_a_value_that_cannot_be_set_is_refused_and_not_repeated_if_it_is_a_secret(word, said):
    with pytest.raises(exits.OpsError) as refused:
        assignments([word])
    assert refused.value.code == exits.USAGE
    assert said in str(refused.value)
    assert "0123456789abcdef" not in str(refused.value)
