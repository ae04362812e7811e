"""The default launch, guard and TLS, on real vLLM of two versions; and which doors are open without a guard."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from components.vast.identity import Authority
from components.vllm.catalog import load_catalog
from components.vllm.checks import run_checks
from components.vllm.doors import doors_of, routes_of, strangers, table, tried
from components.vllm.guard import ALLOW
from components.vllm.judges import CLOSED
from components.vllm.launch import plan_launch
from tests.serving.conftest import HERE, REPO, Server, new_key, require_vllm, serving

pytestmark = pytest.mark.vllm

CATALOG = load_catalog()
BGE = "BAAI/bge-reranker-base"
# Valid requests, and as many invalid ones, for each of vLLM's operations that the guard lets in; for each other one.
CASES_IN, CASES_OUT = 40, 4
IMAGES = {"0.32.0": "vllm/vllm-openai:v0.32.0", "0.19.1": "vllm/vllm-openai:v0.19.1"}
# What the guide's form leaves open, of what a stranger could use or learn from.
OPEN_WITHOUT_GUARD = {"/rerank", "/score", "/metrics", "/openapi.json", "/docs", "/version", "/tokenize", "/pooling"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bge's architecture with seeded random weights; either version reads it."""
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([require_vllm(), HERE / "seeded_cross_encoder.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=list(IMAGES))
def guarded(
    request: pytest.FixtureRequest, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The default launch on a version of vLLM."""
    python = require_vllm(request.param)
    launch = plan_launch(
        CATALOG.model(BGE), CATALOG.image(IMAGES[request.param]), api_key=new_key(), guard=True, tls=True
    )
    authority = Authority.make("tests of the default launch")
    with serving(launch, BGE, weights, python, tmp_path_factory.mktemp("guarded"), authority=authority) as server:
        yield server


@pytest.fixture(scope="module")
def unguarded(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same in the guide's form, with vLLM's own key, plus a list of its routes."""
    launch = plan_launch(
        CATALOG.model(BGE),
        CATALOG.image(IMAGES["0.32.0"]),
        api_key=new_key(),
        extra_args=["--middleware", "tests.serving.route_list.RouteList"],
    )
    launch.env["PYTHONPATH"] = str(REPO)
    with serving(launch, BGE, weights, require_vllm(), tmp_path_factory.mktemp("unguarded")) as server:
        yield server


def test_the_default_launch_passes_every_check_on_both_versions(guarded: Server) -> None:
    report = run_checks(guarded.client, CATALOG.model(BGE), golden=(), doors_closed=True, ca_file=guarded.ca)
    assert report.passed, report.text()
    skipped = [check.name.split(",")[0] for check in report.checks if check.skipped]
    assert skipped == ["/rerank order", "/score order"]  # random weights mean nothing


def test_every_route_that_vllm_registers_is_closed_to_whoever_has_no_key(
    guarded: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = routes_of(guarded.client)
    assert {"/rerank", "/score", "/v1/models", "/metrics", "/docs", "/openapi.json"} <= {path for path, _ in routes}
    doors = tried(guarded.client, doors_of(routes), strangers(guarded.key, in_query=True))
    assert list(doors[0].statuses) == ["no key", "a wrong key", "the key in a wrong place"]
    with capsys.disabled():
        print(f"\n{table(doors)}")
    still_open = [door for door in doors if not {*sum(door.statuses.values(), ())} <= CLOSED]
    assert not still_open, table(still_open)


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_other_method_and_no_preflight_opens_a_route(guarded: Server, method: str) -> None:
    preflight = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    for path in ("/rerank", "/v1/models", "/metrics", "/docs", "/health"):
        answer = requests.request(method, guarded.url + path, headers=preflight, verify=guarded.ca, timeout=30)
        assert answer.status_code in CLOSED
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_without_the_guard_the_doors_of_the_guides_form_are_open(
    unguarded: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = routes_of(unguarded.client)
    doors = tried(unguarded.client, doors_of(routes), {"no key": strangers(None)["no key"]})
    with capsys.disabled():
        print(f"\n{table(doors)}")
    answered = {door.path for door in doors if not {*door.statuses["no key"]} <= CLOSED}
    assert answered >= OPEN_WITHOUT_GUARD
    assert not answered & {path for path in ALLOW if path.startswith("/v1")}, "vLLM's own key covers these"
    assert all(200 in door.statuses["no key"] for door in doors if door.path in ("/rerank", "/score", "/metrics"))


def test_the_list_of_routes_holds_all_that_vllms_own_description_does(unguarded: Server) -> None:
    described = requests.get(f"{unguarded.url}/openapi.json", timeout=30).json()["paths"]
    listed: dict[str, set[str]] = {}
    for path, methods in routes_of(unguarded.client):
        listed.setdefault(path, set()).update(method.lower() for method in methods or ("GET", "POST"))
    assert len(described) > 10
    assert not {path for path in described if path not in listed}
    assert not [path for path, methods in described.items() if not set(methods) <= listed[path]]


def test_requests_made_from_vllms_own_description_are_answered_or_refused_but_never_crash(
    guarded: Server, unguarded: Server
) -> None:
    """Random data for each operation of openapi.json, valid and not: closed without a key, no 5xx with one."""
    described = requests.get(f"{unguarded.url}/openapi.json", timeout=30).json()
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
                    case.body["model"] = BGE  # any other name is 404, whatever else is asked
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
    guarded.client.rerank("alive?", ["yes"], BGE)
