import json
from dataclasses import replace

import pytest
import requests

from components.redaction import scrub, tail
from components.vast import change, drift, json_values
from components.vast.drift import Drift, Watch
from components.vast.label import Label, new_nonce
from components.vast.models import Contract, Offer
from components.vast.probe import ProbeResult
from components.vast.query import official_parser, unmet_conditions
from components.vast.rental_spec import Spec
from components.vast.status import observe
from emulator.server import EmulatorServer
from tests.unit.wire_samples import instance, offer

NOW = 1_900_000_000.0
SEARCH = {"query": "num_gpus=1", "constraints": [], "pull_gb": 12, "disk_gb": 40, "prefer": "balanced"}
INPUTS = {
    "image": "vllm/vllm-openai:v0.19.1",
    "args": ["-c", "exec vllm serve m"],
    "env": {"K": "v"},
    "ports": ["8000:8000"],
    "disk_gb": 40,
    "search": json_values.as_text(SEARCH),
    "candidates": [{"ask_contract_id": 1}],
    "probe": {"port": 8000},
    "label_base": "p/s/n",
    "owner": "0a1b",
}
OUTS = {
    **change.record_inputs(INPUTS),
    "drift": "",
    "image_uuid": "vllm/vllm-openai:v0.19.1",
    "offer": json_values.as_text(offer()),
    "ip": "127.0.1.9",
    "port": 40123,
    "dph_total_usd": 0.09,
}


def asking(**changes):
    return {**INPUTS, "search": json_values.as_text({**SEARCH, **changes})}


def test_nothing_changed_is_no_change_even_after_the_engine_turned_ints_into_floats():
    news = {**INPUTS, "disk_gb": 40.0, "search": json_values.as_text({**SEARCH, "pull_gb": 12.0, "constraints": []})}
    assert not change.plan(OUTS, news, now=NOW).any


FULL = {key: INPUTS.get(key, f"{key}-as-declared") for key in change.TABLE} | {"bid": {"factor": 1.25}}
COMPARED = [key for key, effect in change.TABLE.items() if effect != "ignore"]


def test_what_outputs_keep_of_the_inputs_survives_json_and_is_no_change():
    kept = json.loads(json.dumps(change.record_inputs(FULL)))
    assert not change.plan(kept, json.loads(json.dumps(FULL)), now=NOW).any
    assert set(kept) == {*change.COPIED_KEYS, "declared"}


@pytest.mark.parametrize("key", COMPARED)
def test_an_input_that_is_taken_away_or_comes_back_is_a_change_of_it_alone(key):
    without = {name: value for name, value in FULL.items() if name != key}
    for before, after in ((FULL, without), (without, FULL)):
        plan = change.plan(change.record_inputs(before), after, now=NOW)
        assert [*plan.replaces, *plan.updates] == [key]


@pytest.mark.parametrize("key", COMPARED)
def test_what_is_not_known_yet_is_no_change(key):
    assert not change.plan(change.record_inputs(FULL), {**FULL, key: object()}, now=NOW, unknown=[key]).any


def test_outputs_hold_nothing_of_the_environment_in_clear():
    secret = "a-secret-of-the-environment"
    assert secret not in json.dumps(change.record_inputs({**FULL, "env": {"K": secret}, "image_login": f"-p {secret}"}))


def test_who_guesses_a_secret_input_cannot_tell_by_state_or_label_that_it_is_right():
    guess = {**FULL, "image_login": "-u robot -p Summer2026!"}
    theirs, own = (change.record_inputs(guess | {"stack_secret": key * 64}) for key in "01")
    shown, other = (json.loads(one["declared"]) for one in (theirs, own))
    assert all(shown[key] != other[key] for key in shown)
    assert json_values.digest(guess["image_login"]) not in theirs["declared"]
    spec = Spec(image="i:1", disk_gb=40, image_login=guess["image_login"], stack_secret="0" * 64)
    assert spec.digest() != replace(spec, stack_secret="1" * 64).digest() != replace(spec, stack_secret="").digest()


def test_a_plan_before_the_stacks_secret_is_known_compares_what_it_can():
    news = {**FULL, "image": "other", "watch": {"heal_on": "never"}, "stack_secret": object()}
    assert change.plan(change.record_inputs(FULL), news, now=NOW, unknown=["stack_secret"]).updates == ["watch"]


def test_nulls_in_maps_and_the_order_of_keys_do_not_show_in_a_digest():
    assert json_values.digest({"a": 1, "b": None, "c": [1.0]}) == json_values.digest({"c": (1,), "a": 1.0})
    assert json_values.digest({"a": True}) != json_values.digest({"a": 1})
    assert json_values.digest(["a", "b"]) != json_values.digest(["b", "a"])


@pytest.mark.parametrize("key", [key for key, effect in change.TABLE.items() if effect == "replace"])
def test_every_key_of_the_container_replaces(key):
    assert change.plan(OUTS, {**INPUTS, key: "other"}, now=NOW).replaces == [key]


@pytest.mark.parametrize("key", [key for key, effect in change.TABLE.items() if effect == "update" and key != "bid"])
def test_every_key_of_its_care_updates_in_place(key):
    plan = change.plan(OUTS, {**INPUTS, key: "other"}, now=NOW)
    assert (plan.replaces, plan.updates) == ([], [key])


@pytest.mark.parametrize(("old", "new"), [(None, {"factor": 1.25}), ({"price_usd": 0.1, "factor": 1.25}, None)])
def test_on_demand_and_interruptible_are_not_the_same_contract(old, new):
    assert change.plan({**OUTS, "bid": old}, {**INPUTS, "bid": new}, now=NOW).replaces == ["bid"]


def test_another_price_of_a_bid_updates_in_place():
    old, new = ({"price_usd": price, "factor": 1.25} for price in (0.1, 0.2))
    assert change.plan({**OUTS, "bid": old}, {**INPUTS, "bid": new}, now=NOW).updates == ["bid"]


def test_a_query_cannot_judge_an_adopted_machine_of_which_nothing_is_recorded():
    plan = change.plan(
        {**OUTS, "offer": ""}, {**INPUTS, "search": json_values.as_text({**SEARCH, "query": "num_gpus=8"})}, now=NOW
    )
    assert (plan.replaces, plan.updates) == ([], ["search"])


def test_a_moving_market_is_no_change():
    news = {**INPUTS, "candidates": [{"ask_contract_id": 2}]}
    assert not change.plan(OUTS, news, now=NOW).any


def test_whatever_a_query_may_ask_of_an_offer_is_recorded_and_judges_the_machine_later():
    with EmulatorServer(runtime="none") as market:
        headers = {"Authorization": "Bearer emulator-key"}
        rows = requests.post(f"{market.url}/api/v0/bundles/", json={}, headers=headers, timeout=10).json()["offers"]
    of_offers_only = {"id", "rentable", "rented"}
    asked = set(official_parser().offers_fields) - of_offers_only
    for row in rows:
        record = Offer.parse(row).record()
        for field in asked:  # no machine has that value, so the condition is broken wherever the field is known
            filters = {field: {"eq": "no such thing"}}
            assert unmet_conditions(filters, record, now=NOW) == unmet_conditions(filters, row, now=NOW), field


def test_a_new_query_names_what_is_not_known_of_the_machine_instead_of_taking_it_as_satisfied_in_silence():
    plan = change.plan(OUTS, {**INPUTS, "search": json_values.as_text({**SEARCH, "query": "disk_bw>=500"})}, now=NOW)
    assert (plan.replaces, plan.updates) == ([], ["search"])
    assert any("disk_bw>=500" in one for one in plan.warnings)


def test_a_new_query_keeps_a_machine_that_still_satisfies_it():
    plan = change.plan(
        OUTS, {**INPUTS, "search": json_values.as_text({**SEARCH, "query": "num_gpus=1 gpu_ram>=16"})}, now=NOW
    )
    assert (plan.replaces, plan.updates) == ([], ["search"])


def test_a_new_query_replaces_a_machine_that_breaks_it_and_says_by_what():
    cap = {"field": "dph_total", "op": "lte", "value": 0.05, "because": "max_dph_usd"}
    plan = change.plan(OUTS, asking(constraints=[cap]), now=NOW)
    assert plan.replaces == ["search"]
    assert "dph_total<=0.05 (it has 0.09)" in plan.reasons[0]


@pytest.mark.parametrize(("kind", "row"), drift.TABLE.items())
def test_what_up_does_about_drift_is_what_the_table_says(kind, row):
    plan = change.plan({**OUTS, "drift": f"{kind}: because"}, INPUTS, now=NOW)
    expected = {"replace": (["drift"], []), "update": ([], ["drift"])}.get(row[0], ([], []))
    assert (plan.replaces, plan.updates) == expected


def judge(**fields):
    contract = Contract.parse(instance(**fields))
    return drift.from_state(contract, observe(contract, 8000))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"actual_status": "exited", "status_msg": "exit 137"}, "exited"),
        ({"actual_status": "stopped"}, "stopped"),
        ({"cur_state": "stopped", "intended_status": "stopped", "next_state": "stopped"}, "stopped"),
        ({"actual_status": "offline"}, "offline"),
        ({"actual_status": "unknown"}, "offline"),
        ({"actual_status": "scheduling"}, "not-running"),
        ({"is_bid": True, "cur_state": "stopped", "actual_status": "stopped"}, "outbid"),
        ({"ports": {}}, "not-running"),
    ],
)
def test_the_api_state_alone_tells_what_is_wrong(fields, kind):
    found = judge(**fields)
    assert found is not None
    assert found.kind == kind
    assert "9001" in found.reason


def test_a_running_instance_with_a_port_is_in_order_as_far_as_the_api_can_tell():
    assert judge() is None


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("ready", None),
        ("dead", "engine-dead"),
        ("wrong_certificate", "engine-dead"),
        ("busy", "engine-dead"),
        ("no_answer", "unreachable"),
    ],
)
def test_silence_of_the_address_is_told_apart_from_a_server_that_hangs_or_is_dead(verdict, kind):
    contract = Contract.parse(instance())
    found = drift.from_probe(contract, observe(contract, 8000), ProbeResult(verdict, "detail"))
    assert (found.kind if found else None) == kind


@pytest.mark.parametrize("recorded", ["dead", "unreachable", "never"])
@pytest.mark.parametrize(
    ("heal_on", "kind", "replaces"),
    [
        ("dead", "exited", True),
        ("dead", "unreachable", False),
        ("unreachable", "unreachable", True),
        ("unreachable", "engine-dead", True),
        ("never", "exited", False),
        ("never", "unreachable", False),
        ("never", "image", True),
    ],
)
def test_the_config_of_now_decides_about_drift_whatever_the_state_was_made_with(recorded, heal_on, kind, replaces):
    olds = {**OUTS, "watch": {"heal_on": recorded}, "drift": f"{kind}: because"}
    plan = change.plan(olds, {**INPUTS, "watch": {"heal_on": heal_on}}, now=NOW)
    assert plan.replaces == (["drift"] if replaces else [])
    assert any("because" in one for one in (plan.reasons if replaces else plan.warnings))


def test_a_new_term_for_renewal_acts_in_the_plan_that_brings_it():
    olds = {**OUTS, "watch": {"renew_before_h": 0.0}, "end_date": NOW + 3600}
    plan = change.plan(olds, {**INPUTS, "watch": {"renew_before_h": 2.0}}, now=NOW)
    assert (plan.replaces, plan.reasons) == (["drift"], ["ending: the contract ends in 60 min"])


def terms(watch=None, **fields):
    label = "p/s/n@0a1b:abc"
    contract = Contract.parse(instance(**{"label": label} | fields))
    recorded = {**OUTS, "label": label}
    found = drift.from_terms(contract, observe(contract, 8000), recorded, watch or Watch(), now=NOW)
    return [one.kind for one in found]


def test_terms_that_moved_are_each_named():
    assert terms() == []
    assert terms(public_ipaddr="127.0.1.10") == ["address"]
    assert terms(ports={"8000/tcp": [{"HostPort": "40999"}]}) == ["address"]
    assert terms(image_uuid="vllm/vllm-openai:v0.18.0") == ["image"]
    assert terms(label="mine now") == ["label"]
    assert terms(dph_total=0.12) == ["price"]
    assert terms(Watch(renew_before_h=24), end_date=NOW + 3600) == ["ending"]


PEMS = [f"-----BEGIN CERTIFICATE-----\n{n}\n-----END CERTIFICATE-----\n" for n in range(3)]
TAKES = {"ca_certificate": PEMS[0], "certificate_path": "/renew"}


def planned(path="/renew", *, trusted=PEMS[0], ends_in_d=30.0, drifted=""):
    olds = {
        **OUTS,
        **TAKES,
        "certificate_path": path,
        "certificate_expires_at": NOW + ends_in_d * 86400,
        "drift": drifted,
    }
    news = {
        **INPUTS,
        "ca_certificate": trusted,
        "certificate_path": path,
        "watch": {"renew_certificate_before_d": 10.0},
    }
    plan = change.plan({**olds, "watch": news["watch"]}, news, now=NOW)
    return plan.replaces, plan.updates, plan.renewal


def test_a_certificate_that_ends_soon_is_renewed_where_it_runs_if_the_server_takes_another():
    assert planned() == ([], [], "")
    found = next(drift.expiry_drifts({**TAKES, "certificate_expires_at": NOW + 9 * 86400}, 0, Watch(), NOW))
    assert str(found) == "renewal: it ends in 9 days"
    assert planned(drifted=str(found)) == ([], ["drift"], "it ends in 9 days")
    found = next(drift.expiry_drifts({"certificate_expires_at": NOW + 9 * 86400}, 0, Watch(), NOW))
    assert planned(path="", drifted=str(found)) == (["drift"], [], "")
    assert planned(drifted="engine-dead: because") == (["drift"], [], "")


@pytest.mark.parametrize("path", ["/renew", ""])
def test_a_machine_stays_as_long_as_the_authority_that_signed_its_certificate_is_trusted(path):
    assert planned(path, trusted=PEMS[0] + PEMS[1]) == ([], ["ca_certificate"], "")
    assert planned(path, trusted=PEMS[1] + PEMS[0]) == ([], ["ca_certificate"], "")
    assert planned(path, trusted=PEMS[2] + PEMS[1]) == (["ca_certificate"], [], "")


@pytest.mark.parametrize(("path", "kind"), [("/renew", "renewal"), ("", "certificate")])
def test_an_ip_that_moved_is_one_that_the_certificate_does_not_name(path, kind):
    contract = Contract.parse(instance(public_ipaddr="127.0.1.10"))
    outs = {**OUTS, "certificate_expires_at": NOW, "certificate_path": path}
    assert drift.from_move(contract, observe(contract, 8000), outs).kind == kind


def test_a_drift_survives_the_trip_through_state():
    assert Drift.parse(str(Drift("exited", "instance 1: exit 137"))) == Drift("exited", "instance 1: exit 137")
    assert Drift.parse("") is None
    assert Drift.parse("nonsense") is None


def test_labels_are_read_back_and_those_of_others_are_not_ours():
    label = Label("vast-reranker/dev/reranker", "0a1b2c3d", "abc", pending=True)
    for one in (label, replace(label, pending=False), replace(label, nonce=new_nonce()), replace(label, nonce="")):
        assert Label.parse(str(one)) == one
    for other in ("", "my box", "a/b:c", "a@b:c", "vast-reranker/dev/reranker"):
        assert Label.parse(other) is None


def test_the_digest_changes_with_secrets_but_shows_none():
    spec = Spec(image="i:1", disk_gb=40, env={"KEY": "s3cret-value"})
    assert spec.digest() != Spec(image="i:1", disk_gb=40, env={"KEY": "another"}).digest()
    assert spec.digest() == Spec(image="i:1", disk_gb=40.0, env={"KEY": "s3cret-value"}).digest()
    assert "s3cret" not in repr(spec) + spec.digest()


def test_text_for_people_holds_no_secret():
    log = "key=abc123secret Authorization: Bearer zzzz9999 HF_TOKEN=hf_abcdefghij VLLM_API_KEY='qqqqqqqq' done"
    clean = scrub(log, ["abc123secret"])
    for secret in ("abc123secret", "zzzz9999", "hf_abcdefghij", "qqqqqqqq"):
        assert secret not in clean
    assert clean.endswith("done")
    assert tail("\n".join(map(str, range(100))), lines=3) == "97\n98\n99"


def test_what_a_host_says_of_a_container_holds_none_of_its_environment():
    env = [["GUARD_KEY", "s3cret-of-the-stack"], ["-p 8000:8000", "1"]]
    found = judge(actual_status="exited", status_msg="run -e GUARD_KEY=s3cret-of-the-stack: exit 1", extra_env=env)
    assert "s3cret" not in str(found)
    assert "exit" in str(found)
