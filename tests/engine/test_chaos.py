"""Some of the chaos runs (`make chaos` does hundreds): only instances in a state are billed."""

from dataclasses import replace

import pytest

from chaos.run import Runner
from chaos.scenario import SLOW, Scenario
from emulator.server import EmulatorServer

pytestmark = pytest.mark.engine
# one seed for each kind of kill, with different operations and faults; `make test` runs power-loss, the plugin and the
# CLI, and one Ctrl-C on hosts that pull slowly
QUICK = (31, 78, 125)
RARE = (733, 1278, 1449, 1976, 52, 92, 185, 210, 218, 53, 155, 48)  # the last three are `ops scale`
SEEDS = (*QUICK, *(pytest.param(seed, marks=pytest.mark.all) for seed in RARE))
STAGES = [stage if stage == "pulling" else pytest.param(stage, marks=pytest.mark.all) for stage in SLOW]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    with EmulatorServer(runtime="none", boot_s=0.8, state_dir=folder / "emulator") as market:
        market.control.post("credit", credit=1e6)
        yield Runner(folder / "stack", market.control)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_clean_up_after_chaos_leaves_exactly_what_is_declared(runner, seed):
    result = runner.run(Scenario.from_seed(seed))
    assert result.is_ok, result


@pytest.mark.parametrize("stage", STAGES)
def test_one_ctrl_c_at_a_stage_rents_nothing_more_and_names_what_it_leaves(runner, stage):
    result = runner.run(replace(Scenario.from_seed(7), operation="create").with_sigint_at(stage))
    assert (result.is_ok, result.killed, result.stage) == (True, True, stage), result
