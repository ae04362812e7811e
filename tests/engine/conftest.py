import pytest

from emulator.server import EmulatorServer
from harness.caddy import running_gateway_caddy
from harness.stack import EngineStack


@pytest.fixture
def market(tmp_path):
    """An emulator for one test; its containers are real processes with vLLM's HTTP API."""
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path / "emulator") as server:
        yield server


@pytest.fixture
def stack(market, tmp_path):
    return EngineStack(tmp_path / "stack", market.url).init()


@pytest.fixture
def gateway_caddy(tmp_path_factory):
    """A Caddy for a stack's gateway, and its front proxy; the folder is short, as the path of a socket is limited."""
    with running_gateway_caddy(tmp_path_factory.mktemp("g")) as gateway:
        yield gateway


@pytest.fixture
def ledger(market):
    return Ledger(market.control)


class Ledger:
    """The contracts in the emulator, from its control API."""

    def __init__(self, control):
        self._control = control

    def contracts(self):
        return self._control.ledger()

    def billed(self):
        return {contract["id"] for contract in self.contracts() if not contract["destroyed_at"]}

    def fault(self, kind, **rule):
        self.control("faults", kind=kind, **rule)

    def clear_faults(self):
        self._control.faults_off()

    def control(self, path, **body):
        return self._control.post(path, **body)
