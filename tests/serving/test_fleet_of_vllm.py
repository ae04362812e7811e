"""Two real vLLM behind a real Caddy through the engine: rolled, healed, scaled, re-keyed under load. Many minutes.

Of `make test-all`, alone: five vLLM at once.
"""

import sys
import threading

import pytest

from harness.caddy import running_gateway_caddy
from harness.load import LoadGenerator
from tests.engine.conftest import Ledger
from tests.engine.fleet import behind, endpoint, up
from tests.serving.conftest import vllm_market

pytestmark = [pytest.mark.vllm, pytest.mark.all, pytest.mark.alone]

SCALED = 5
UP_WITHIN_S = 1200


@pytest.fixture
def market(tmp_path):
    with vllm_market(tmp_path) as server:
        yield server


@pytest.fixture
def balanced(market, tmp_path):
    with running_gateway_caddy(tmp_path / "g") as gateway_caddy:
        config = {
            "timeouts.drain_s": 60,
            "timeouts.probe_window_s": 20,
            "timeouts.probe_timeout_s": "120",
            # without the compiler, which would take most of each boot
            "extra_args": ["--enforce-eager"],
        }
        stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=2, timeout_s=UP_WITHIN_S, **config)
        yield stack
        assert stack.destroy().rc == 0


def test_no_request_to_real_vllm_fails_while_a_fleet_rolls_heals_scales_and_changes_its_key(balanced, market):
    stack, at, seen = balanced, endpoint(balanced), {}

    def again():
        up(stack, timeout_s=UP_WITHIN_S)

    def heal():
        victim = stack.outputs()["replicas"][1]["instance_id"]
        Ledger(market.control).control(f"instances/{victim}/kill")
        again()
        assert victim not in stack.instances()

    def new_key():
        stack.write_config(api_key_generation=2, keep_previous_key=True)
        up(stack)
        at.key = stack.outputs()["api_key"]
        stack.write_config(keep_previous_key=False)
        up(stack)

    def roll():
        before = stack.instances()
        stack.write_config(extra_args=["--enforce-eager", "--max-num-seqs", "64"])
        again()
        assert not before & stack.instances()

    def scale():
        for replicas in (SCALED, 2):
            stack.write_config(replicas=replicas)
            again()

    acts = {"quiet": lambda: threading.Event().wait(30), "key": new_key, "heal": heal, "roll": roll}
    for name, act in (acts | {f"scale 2-{SCALED}-2": scale}).items():
        with LoadGenerator(at, per_s=1.5, threads=2) as load:
            act()
        seen[name] = load
        sys.stdout.write(f"\n  {name}: {load}\n")
    for name, load in seen.items():
        assert load.failures == [], f"{name}: {load}"
