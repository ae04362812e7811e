"""Plans, prices and errors from what the engine's events say, without the engine."""

import pytest
from pulumi.automation.events import EngineEvent

from ops import exits, plan, report
from ops.plan import Run

INSTANCE = "urn:pulumi:dev::p::vast:index:RerankerFleet$pulumi-python:dynamic:Instance::"
TYPE = "pulumi-python:dynamic:Instance"


def candidate(usd, **more):
    offer = {"ask_contract_id": 7.0, "machine_id": 9.0, "gpu_name": "RTX 4090", "geolocation": "Sweden, SE"}
    return offer | {"dph_total": usd, "num_gpus": 1.0, "pull_cost_usd": 0.05, "ready_s": 242.0} | more


def event(**fields):
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, **fields})


def state(inputs, outputs=None):
    return None if inputs is None else {"inputs": inputs, "outputs": outputs or {}, "id": "4"}


def step(op, old=None, new=None, *, name="reranker", keys=None, paid=None, type_=TYPE):
    outputs = {"hourly_cost_usd": {"gpu": paid, "disk": 0, "total": paid}} if paid else {}
    meta = {"op": op, "urn": INSTANCE + name, "type": type_, "keys": keys}
    return event(resourcePreEvent={"metadata": meta | {"old": state(old, outputs), "new": state(new)}})


def said(text, severity="info", name="reranker"):
    return event(diagnosticEvent={"message": f"{text}\n", "severity": severity, "urn": INSTANCE + name})


def refreshed(drift="", inputs=None, *, gone=False):
    inputs = {"disk_gb": 40} if inputs is None else inputs
    meta = {"op": "refresh", "urn": INSTANCE + "reranker", "type": TYPE, "old": state(inputs)}
    meta["new"] = None if gone else state(inputs, {"drift": drift})
    return [step("refresh", inputs), event(resOutputsEvent={"metadata": meta})]


def planned(*events):
    return Run(events).plan()


def test_drift_alone_leaves_nothing_pending_and_names_the_offer():
    found = planned(
        *refreshed("offline: the host is away"),
        said("will be replaced: offline: the host is away", "warning"),
        step("replace", {"disk_gb": 40}, {"disk_gb": 40, "candidates": [candidate(0.31)]}, keys=["drift"]),
    )
    assert (found.drift, found.pending, found.warnings) == (["offline: the host is away"], [], [])
    assert found.steps == [plan.Step("replace", "Instance", "reranker", ["offline: the host is away"])]
    assert found.choices == [plan.Choice(7, 9, "RTX 4090", "Sweden, SE", 1, 0.31, 0.0, 0.05, 242.0)]


def test_a_changed_input_beside_drift_is_pending():
    found = planned(
        *refreshed("offline: the host is away"),
        step("replace", {"disk_gb": 40}, {"disk_gb": 41}, keys=["drift", "disk_gb"]),
    )
    assert found.pending == ["reranker: disk_gb: 40 -> 41"]
    assert found.steps[0].changed == {"disk_gb": "disk_gb: 40 -> 41"}


def test_a_changed_secret_is_pending_although_its_values_are_not_shown():
    secret = {"env": "[secret]"}
    assert planned(*refreshed("", secret), step("replace", secret, secret, keys=["env"])).pending == [
        "reranker: env changed"
    ]


def test_an_instance_that_is_gone_is_drift_and_a_resource_that_was_never_there_is_not():
    found = planned(*refreshed(gone=True), step("create", new={"disk_gb": 40}))
    assert (found.drift, found.pending) == (["gone: reranker (4): Vast.ai no longer lists the instance"], [])
    assert planned(step("create", new={"disk_gb": 40})).pending == ["reranker: new"]


def test_what_is_only_known_after_a_create_is_no_change():
    found = planned(*refreshed("", {"run": "a"}), step("update", {"run": "a"}, {"run": plan.UNKNOWN}))
    assert (found.pending, len(found.steps)) == ([], 1)


def test_a_gateway_that_follows_its_servers_is_no_change_of_the_program():
    def pending(*, rented=False, **changes):
        gateway = {"upstreams": ["http://a", "http://b"], "admin_url": "https://x", "listen": ":1", "rented": rented}
        return planned(*refreshed("", gateway), step("update", gateway, gateway | changes)).pending

    assert pending(upstreams=["http://a", plan.UNKNOWN]) == []
    assert pending(upstreams=["http://a", "http://c"]) == []
    assert pending(admin_url="https://y", rented=True) == []
    assert pending(admin_url="https://y") == ["reranker: admin_url: https://x -> https://y"]
    assert pending(listen=":2") == ["reranker: listen: :1 -> :2"]


def same(name, paid):
    return step("same", {}, {}, name=name, paid=paid)


def rented(op, name, usd, paid=None, **more):
    old = None if op == "create" else {}
    return step(op, old, {"candidates": [candidate(usd, **more)]}, name=name, paid=paid)


GATEWAY = "reranker-gateway-instance"


@pytest.mark.parametrize(
    ("events", "now", "after"),
    [
        ([], None, None),
        ([rented("create", "reranker", 0.31)], None, 0.31),
        ([same("reranker", 0.2), same("reranker-2", 0.3)], 0.5, 0.5),
        # three replicas become four: nothing is replaced
        ([*(same(f"reranker-{n}", 0.2) for n in "123"), rented("create", "reranker-4", 0.5)], 0.6, 1.1),
        ([same("reranker", 0.2), step("delete", {}, name="reranker-2", paid=0.3)], 0.5, 0.2),
        ([rented("replace", "reranker", 0.31, paid=0.2), same("reranker-2", 0.3)], 0.5, 0.61),
        ([step("update", {}, {}, paid=0.2), same(GATEWAY, 0.05)], 0.25, 0.25),
        # the gateway is paid for as well, and may be what is rented
        ([same("reranker", 0.2), rented("create", GATEWAY, 0.04)], 0.2, 0.24),
        ([same("reranker", 0.2), rented("replace", GATEWAY, 0.04, paid=0.05)], 0.25, 0.24),
        ([step("delete", {}, name="reranker", paid=0.2)], 0.2, 0.0),
        # an interruptible one costs what is bid
        ([rented("create", "reranker", 0.31, bid_usd=0.12)], None, 0.12),
        # which offer is taken is not known
        ([same("reranker", 0.2), step("create", new={}, name="reranker-2")], 0.2, None),
    ],
)
def test_the_price_now_and_after_is_reckoned_by_what_is_done_with_each_instance(events, now, after):
    found = planned(*events)
    assert (found.now_usd, found.after_usd) == (now, after)


def test_a_policy_pack_and_the_programs_guard_are_reported_alike():
    def pack(rule, message, level):
        names = {"policyName": rule, "message": message, "enforcementLevel": level, "color": "never"}
        return event(policyEvent=names | {"policyPackName": "p", "policyPackVersion": "", "policyPackVersionTag": ""})

    check = "resource 'reranker' has a problem: the policy of this stack refuses it\npolicy: tls: is off; set tls: on"
    run = Run([pack("max-price", "too\n dear", "mandatory"), pack("label", "odd", "advisory"), said(check, "error")])
    assert run.policies() == ["policy: tls: is off; set tls: on", "policy: max-price: too dear"]
    assert run.warnings() == ["policy: label: odd"]


def test_the_counts_are_those_of_the_closing_event():
    summary = {"maybeCorrupt": False, "durationSeconds": 1, "resourceChanges": {"same": 4, "create": 2, "update": 1}}
    assert Run([event(summaryEvent=summary)]).counts() == {"create": 2, "update": 1}
    assert Run([]).counts() == {}


@pytest.mark.parametrize(
    ("messages", "rc", "code", "text"),
    [
        (["error: Preview failed: NoOffer: no offer fits", "x"], 1, exits.NO_OFFER, "no offer fits"),
        (["a resource 'r' has a problem: NoOffer: none"], 1, exits.NO_OFFER, "none"),
        (["an unhandled error occurred: program exited", "ConfigError: no:\nk: is x"], 1, exits.USAGE, "no: k: is x"),
        (["ApiUnreachable: cannot reach it"], 1, exits.BUSY, "cannot reach it"),
        (["AuthError: no key"], 1, exits.SECRET, "no key"),
        (["DestroyFailed: instance 4"], 1, exits.ERROR, "instance 4"),
        (["error: get stack secrets manager: incorrect passphrase"], 1, exits.SECRET, None),
        (["error: PULUMI_ACCESS_TOKEN must be set"], 3, exits.SECRET, "PULUMI_ACCESS_TOKEN must be set"),
        (['error: unable to open state directory "file:///x"'], 1, exits.BUSY, None),
        (["error: something else"], 1, exits.ERROR, "something else"),
        ([], 1, exits.ERROR, "pulumi failed without a message"),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_class_and_pulumis_own_by_its_exit_code_or_words(messages, rc, code, text):
    error = exits.from_messages(messages, rc)
    assert error.code == code
    assert text in (None, error.text)


def test_what_a_host_says_cannot_break_a_table_or_mention_anyone():
    shown = report.safe("a | b\n<script>@everyone")
    assert "\n" not in shown
    assert "<" not in shown
    assert "@everyone" not in shown
    assert " | " not in shown.replace("\\|", "")


def test_what_an_operation_rented_and_did_not_destroy_again_is_known_by_its_events():
    def ended(op, old="", new="", type_=TYPE):
        ids = {"old": old and {"id": old}, "new": new and {"id": new}}
        return event(resOutputsEvent={"metadata": {"op": op, "urn": INSTANCE, "type": type_, **ids}})

    planned = {"op": "create", "urn": INSTANCE, "type": TYPE, "new": {"id": ""}}
    planned_only = event(resOutputsEvent={"metadata": planned})
    events = [
        ended("create", new="1"), ended("create-replacement", old="7", new="2"), ended("create", new="3", type_="a:b"),
        ended("same", old="4", new="4"), ended("update", old="5", new="5"), ended("delete-replaced", old="7"),
        ended("create", new="6"), ended("delete", old="6"), ended("create"), planned_only, event(),
    ]  # fmt: skip
    assert Run(events).rented() == ["1", "2"]
