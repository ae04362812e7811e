"""The default launch, guard and TLS, on real vLLM of two versions; and which routes are open without a guard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from components.guard.rules import ALLOW
from components.vast.identity import Authority
from components.vllm.checks import run_checks
from components.vllm.launch import plan_launch
from components.vllm.route_audit import audit_routes, list_routes, markdown_table, routes_to_audit, unauthorized_callers
from components.vllm.score_checks import CLOSED
from harness.vllm import Vllm, serving
from reranker.endpoint import pem
from tests.serving.conftest import BGE, CATALOG, new_key, require_vllm
from tests.unit.test_route_audit import with_key_in_query

pytestmark = pytest.mark.vllm

# Valid requests, and as many invalid ones, for each of vLLM's operations that the guard lets in; for each other one.
CASES_IN, CASES_OUT = 40, 4


@pytest.fixture(scope="module", params=["0.32.0", pytest.param("0.19.1", marks=pytest.mark.all)])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """The engine's deployment of MiniLM on 0.32.0, and the default launch of a cross-encoder on 0.19.1."""
    if request.param == "0.32.0":
        yield request.getfixturevalue("deployment").server()
        return
    image = CATALOG.image(f"vllm/vllm-openai:v{request.param}")
    launch = plan_launch(CATALOG.model(BGE), image, api_key=new_key(), guard=True, tls=True)
    authority, weights = Authority.make("tests of the default launch"), request.getfixturevalue("weights")
    folder = tmp_path_factory.mktemp("guarded")
    with serving(launch, BGE, weights, require_vllm(request.param), folder, authority=authority) as server:
        yield server


def test_a_guarded_launch_passes_every_check(guarded: Vllm) -> None:
    model = CATALOG.model(guarded.model)
    golden = () if guarded.model == BGE else model.golden  # random weights mean nothing
    report = run_checks(guarded.client, model, golden=golden, routes_closed=True, ca=pem(guarded.ca or ""))
    assert not report.failed
    skipped = [check.name.split(",")[0] for check in report.checks if check.skipped]
    assert skipped == (["/rerank order", "/score order"] if guarded.model == BGE else [])


def test_every_route_that_vllm_registers_is_closed_to_whoever_has_no_key(
    guarded: Vllm, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = list_routes(guarded.client)
    assert {"/rerank", "/score", "/v1/models", "/tokenize"} <= {path for path, _ in routes}
    asked = routes_to_audit(routes)
    asked += [with_key_in_query(one, guarded.key) for one in asked]
    audited = audit_routes(guarded.client, asked, unauthorized_callers(guarded.key))
    assert list(audited[0].statuses) == ["no key", "a wrong key", "the key in a wrong place"]
    with capsys.disabled():
        print(f"\n{markdown_table(audited[: len(audited) // 2])}")
    still_open = [route for route in audited if not {*sum(route.statuses.values(), ())} <= CLOSED]
    assert not still_open, markdown_table(still_open)


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_other_method_and_no_preflight_opens_a_route(guarded: Vllm, method: str) -> None:
    preflight = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    for path in ("/rerank", "/v1/models", "/metrics", "/docs", "/health"):
        answer = requests.request(method, guarded.url + path, headers=preflight, verify=guarded.ca, timeout=30)
        assert answer.status_code in CLOSED
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.all
def test_requests_made_from_vllms_own_description_are_answered_or_refused_but_never_crash(
    guarded: Vllm, cross_encoder: Vllm
) -> None:
    """Random data for each operation of openapi.json, valid and not: closed without a key, no 5xx with one."""
    described = requests.get(f"{cross_encoder.url}/openapi.json", timeout=30).json()
    session, keyed, told = requests.Session(), {"Authorization": f"Bearer {guarded.key}"}, Counter[int]()
    crashes: list[str] = []

    def answered(case: schemathesis.Case, headers: dict[str, str]) -> schemathesis.Response:
        return case.call(base_url=guarded.url, session=session, headers=headers, verify=guarded.ca, timeout=60)

    for found in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = found.ok()
        cases = CASES_IN if operation.path in ALLOW else CASES_OUT
        for mode in GenerationMode:

            @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(mode))
            def each(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = guarded.model  # any other name is 404, whatever else is asked
                assert answered(case, {"Authorization": "Bearer wrong"}).status_code in CLOSED
                answer = answered(case, keyed)
                told[answer.status_code] += 1
                if answer.status_code >= 500:
                    crashes.append(f"{case.method} {case.path} {case.body!r}: {answer.text}"[:400])

            try:
                each()
            except Unsatisfiable:
                continue  # an operation without anything to get wrong
    assert told[200] > 20
    assert told[400] + told[422] > 20
    assert told[404] > 40
    assert not crashes, "\n".join(dict.fromkeys(crashes))
    guarded.client.rerank("alive?", ["yes"], guarded.model)
