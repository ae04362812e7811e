"""Two real vLLM behind a real Caddy through the engine: rolled, healed, scaled, re-keyed under load. Many minutes.

Of `make test-all`, alone: five vLLM at once.
"""

import sys
import threading

import pytest

from components.caddy.front import front
from components.caddy.process import Caddy
from components.caddy.record import Certificate
from components.vast.identity import Authority, ca_file
from emulator.runtime import free_port
from emulator.server import EmulatorServer
from harness.stack import EngineStack
from tests.engine.conftest import Ledger
from tests.engine.test_fleet import Balanced, Load, up
from tests.serving.conftest import MODELS, require_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.all, pytest.mark.alone]

SCALED = 5


@pytest.fixture
def balanced(tmp_path):
    port, authority = free_port("127.0.0.1"), Authority.make("door")
    caddy, front_caddy, socket = Caddy(tmp_path / "caddy"), Caddy(tmp_path / "front"), tmp_path / "g.sock"
    caddy.start()
    front_caddy.start(front(f"127.0.0.1:{port}", str(socket), Certificate("pem", *authority.issue("127.0.0.1").pem())))
    with EmulatorServer(
        runtime="vllm",
        time="instant",
        state_dir=tmp_path / "emulator",
        vllm_python=require_vllm(),
        models=MODELS,
        hub="offline",
    ) as market:
        config = {
            "replicas": 2,
            "gateway.kind": "caddy",
            "gateway.admin_url": caddy.admin_url,
            "gateway.listen": f"unix/{socket}|0600",
            "gateway.url": f"https://127.0.0.1:{port}",
            "timeouts.drain_s": 60,
            "timeouts.probe_window_s": 20,
            "timeouts.probe_timeout_s": "120",
            # without the compiler, which would take most of each boot
            "extra_args": ["--enforce-eager"],
        }
        stack = EngineStack(tmp_path / "stack", market.url, config=config).init()
        done = stack.run("up", "--yes", "--skip-preview", "--parallel", "64", timeout_s=1200)
        assert done.rc == 0, done.text
        yield Balanced(stack, Ledger(market.url), caddy, ca_file(authority.certificate))
        assert stack.destroy().rc == 0
    front_caddy.stop()
    caddy.stop()


def test_no_request_to_real_vllm_fails_while_a_fleet_rolls_heals_scales_and_changes_its_key(balanced):
    stack, seen = balanced.stack, {}

    def again():
        done = stack.run("up", "--yes", "--skip-preview", "--parallel", "64", timeout_s=1200)
        assert done.rc == 0, done.text

    def heal():
        victim = stack.outputs()["replicas"][1]["instance_id"]
        balanced.ledger.control(f"instances/{victim}/kill")
        again()
        assert victim not in stack.instances()

    def new_key():
        stack.write_config(api_key_generation=2, keep_previous_key=True)
        up(stack)
        balanced.key = stack.outputs()["api_key"]
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
        with Load(balanced, per_s=1.5, threads=2) as load:
            act()
        seen[name] = load
        sys.stdout.write(f"\n  {name}: {load}\n")
    for name, load in seen.items():
        assert set(load.answers) == {200}, f"{name}: {load}"
