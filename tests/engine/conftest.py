import pytest

from emulator.server import EmulatorServer
from harness.caddy import running_gateway_caddy
from harness.stack import EngineStack


@pytest.fixture
def market(tmp_path):
    """A Vast.ai of the test's own; its containers are real processes that speak as vLLM does."""
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path / "emulator") as server:
        yield server


@pytest.fixture
def stack(market, tmp_path):
    return EngineStack(tmp_path / "stack", market.url).init()


@pytest.fixture
def gateway_caddy(tmp_path_factory):
    """A Caddy for a stack's gateway and the front before it; a short folder, as the path of a socket is bounded."""
    with running_gateway_caddy(tmp_path_factory.mktemp("g")) as started:
        yield started


@pytest.fixture
def ledger(market):
    """Contracts by what is billed now."""
    return Ledger(market.control)


class Ledger:
    """What the market says is rented, by a client of its control API."""

    def __init__(self, control):
        self._control = control

    def contracts(self):
        return self._control.ledger()

    def billed(self):
        return {one["id"] for one in self.contracts() if not one["destroyed_at"]}

    def fault(self, kind, **rule):
        self.control("faults", kind=kind, **rule)

    def clear_faults(self):
        self._control.faults_off()

    def control(self, path, **body):
        return self._control.post(path, **body)
