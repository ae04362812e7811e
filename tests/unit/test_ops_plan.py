"""Plans and errors read from what the engine says, without the engine."""

import pytest

from components.vast.models import Offer
from components.vast.ranking import Candidate
from ops import exits, plan, report
from ops.engine import Pulumi
from ops.outputs import Outputs
from ops.preview import price_after
from ops.run import Run
from tests.unit import wire_samples

INSTANCE = "urn:pulumi:dev::p::vast:index:RerankerFleet$pulumi-python:dynamic/vast:Instance::reranker"
TYPE = "pulumi-python:dynamic/vast:Instance"
CHOICE = (
    "first choice: offer 7: RTX 4090 on machine 9, Sweden, SE, $0.3100/h, pull once $0.05, ready in about 4 min 2 s"
)


def step(op, *, old=None, new=None, keys=None, urn=INSTANCE, type_=TYPE):
    meta = {"op": op, "urn": urn, "type": type_, "keys": keys}
    meta["old"] = None if old is None else {"inputs": old}
    meta["new"] = None if new is None else {"inputs": new}
    return {"resourcePreEvent": {"metadata": meta}}


def said(text, severity="info", urn=INSTANCE):
    return {"diagnosticEvent": {"message": f"{text}\n", "severity": severity, "urn": urn}}


def refreshed(drift="", old=None):
    inputs = {"disk_gb": 40} if old is None else old
    outputs = {"metadata": {"op": "refresh", "urn": INSTANCE, "type": TYPE, "new": {"outputs": {"drift": drift}}}}
    return [step("refresh", old=inputs), {"resOutputsEvent": outputs}]


def planned(*events):
    return plan.read(Run(0, list(events), []))


def test_the_choice_is_read_from_what_the_instance_says():
    offer = Offer.parse(wire_samples.offer())
    candidate = Candidate(offer, pull_cost_usd=0.126, ready_s=684.0)
    choice = plan.Choice.parse(f"first choice: {candidate}; 2 machines race, so the boot costs up to 2 times that")
    bid = plan.Choice.parse(f"first choice: {candidate}; bid $0.0321/h (floor $0.0300/h)")
    assert choice is not None
    assert bid is not None
    assert bid.dph_total_usd == 0.0321
    assert (choice.offer_id, choice.machine_id, choice.gpu) == (offer.ask_id, offer.machine_id, offer.gpu_name)
    assert choice.dph_total_usd == pytest.approx(offer.dph_total_usd, abs=5e-5)
    assert (choice.place, choice.pull_cost_usd, choice.ready_in) == (offer.place, 0.13, "11 min")


def test_drift_alone_leaves_nothing_pending():
    found = planned(
        *refreshed("offline: the host is away"),
        said("will be replaced: offline: the host is away", "warning"),
        said(CHOICE),
        step("replace", old={"disk_gb": 40}, new={"disk_gb": 40, "searched_at": 5}, keys=["drift"]),
    )
    assert found.drift == ["offline: the host is away"]
    assert found.pending == []
    assert found.steps == [plan.Step("replace", "vast:Instance", "reranker", ["offline: the host is away"])]
    assert [one.offer_id for one in found.choices] == [7]


def test_a_changed_input_beside_drift_is_pending():
    found = planned(
        *refreshed("offline: the host is away"),
        step("replace", old={"disk_gb": 40}, new={"disk_gb": 41}, keys=["drift", "disk_gb"]),
    )
    assert found.pending == ["reranker: disk_gb: 40 -> 41"]


def test_a_changed_secret_is_pending_although_its_values_are_not_shown():
    secret = {"env": "[secret]"}
    found = planned(*refreshed(old=secret), step("replace", old=secret, new=secret, keys=["env"]))
    assert found.pending == ["reranker: env changed"]


def test_an_instance_that_is_gone_is_drift_and_a_resource_that_was_never_there_is_not():
    gone = "instance 4 is gone: Vast.ai no longer lists it; `pulumi up` rents another"
    found = planned(*refreshed(), said(gone, "warning"), step("create", new={"disk_gb": 40}))
    assert (found.drift, found.pending) == ([f"gone: {gone}"], [])
    assert planned(step("create", new={"disk_gb": 40})).pending == ["reranker: new"]


def test_what_is_only_known_after_a_create_is_no_change():
    found = planned(*refreshed(old={"run": "a"}), step("update", old={"run": "a"}, new={"run": plan.UNKNOWN}))
    assert found.pending == []


def test_a_gateway_that_follows_its_servers_is_no_change_of_the_program():
    def pending(*, rented=False, **changes):
        gateway = {"upstreams": ["http://a", "http://b"], "admin_url": "https://x", "listen": ":1", "rented": rented}
        return planned(*refreshed(old=gateway), step("update", old=gateway, new=gateway | changes)).pending

    assert pending(upstreams=["http://a", plan.UNKNOWN]) == []
    assert pending(upstreams=["http://a", "http://c"]) == []
    assert pending(admin_url="https://y", rented=True) == []
    assert pending(admin_url="https://y") == ["reranker: admin_url: https://x -> https://y"]
    assert pending(listen=":2") == ["reranker: listen: :1 -> :2"]


def test_the_price_after_is_that_of_what_stays_and_what_is_rented():
    now = Outputs.parse(
        {
            "url": "https://gateway",
            "replicas": [
                {"instance_id": 1, "machine_id": 3, "gpu": "A", "url": "http://a", "hourly_cost_usd": 0.2},
                {"instance_id": 2, "machine_id": 4, "gpu": "B", "url": "http://b", "hourly_cost_usd": 0.2},
            ],
            "hourly_cost_usd": {"gpu": 0.4, "disk": 0.05, "total": 0.45},  # the gateway is rented too
        }
    )
    assert now.gateway
    assert now.gateway_cost_usd == pytest.approx(0.05)
    replaced = planned(*refreshed(), said(CHOICE), step("replace", old={}, new={}, keys=["drift"]))
    assert now.hourly_cost_usd == pytest.approx(0.45)
    assert price_after(now, replaced) == pytest.approx(0.56)
    assert price_after(now, planned()) == pytest.approx(0.45)
    assert price_after(Outputs.parse({}), planned()) is None


def test_a_policy_pack_and_the_programs_guard_are_reported_alike():
    pack = {"policyEvent": {"policyName": "max-price", "message": "too\n dear", "enforcementLevel": "mandatory"}}
    advice = {"policyEvent": {"policyName": "label", "message": "odd", "enforcementLevel": "advisory"}}
    check = "resource 'reranker' has a problem: the policy of this stack refuses it\npolicy: tls: is off; set tls: on"
    run = Run(1, [pack, advice, said(f"pulumi-python:dynamic/vast:Instance {check}", "error")], [])
    assert run.policies() == ["policy: tls: is off; set tls: on", "policy: max-price: too dear"]
    assert planned(advice).warnings == ["policy: label: odd"]
    with pytest.raises(exits.OpsError) as failed:
        run.raise_if_failed()
    assert failed.value.code == exits.POLICY
    assert failed.value.text == "policy: tls: is off; set tls: on; and policy: max-price: too dear"


def test_the_engines_wrapping_is_taken_off_an_error():
    said_ = "error: Preview failed: NoOffer: no offer fits: 0 of 199"
    error = exits.from_pulumi([said_, "error: preview failed"])
    assert (error.code, error.text) == (exits.NO_OFFER, "no offer fits: 0 of 199")
    assert exits.from_pulumi([]).code == exits.ERROR
    assert exits.from_pulumi(["error: something else"]).text == "something else"


def test_an_empty_secret_is_none_and_no_secret_passes_to_the_output(tmp_path, capfd):
    (tmp_path / "Pulumi.yaml").write_text("name: p\n")
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text(
        '#!/bin/bash\necho "key $VAST_API_KEY"; echo "error: pass ${PULUMI_CONFIG_PASSPHRASE-unset}" >&2; exit 1\n'
    )
    pulumi.chmod(0o755)
    env = {"PATH": f"{pulumi.parent}:/usr/bin:/bin", "VAST_API_KEY": "abcdef-123456", "PULUMI_CONFIG_PASSPHRASE": ""}
    with pytest.raises(exits.OpsError, match="pass unset"):
        Pulumi(tmp_path, "dev", env=env).preview()
    assert "key [redacted]" in capfd.readouterr().err


def test_what_a_host_says_cannot_break_a_table_or_mention_anyone():
    shown = report.safe("a | b\n<script>@everyone")
    assert "\n" not in shown
    assert "<" not in shown
    assert "@everyone" not in shown
    assert " | " not in shown.replace("\\|", "")
