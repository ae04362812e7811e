"""Two environments on one account, deployed, healed, changed and destroyed side by side by the workflows' own steps."""

import pytest

from chaos.run import ALWAYS
from tests.pipelines.conftest import HEAL, make_stack

pytestmark = [pytest.mark.engine, pytest.mark.all]


def test_two_environments_on_one_account_never_touch_each_others_instances(scene):
    """Both heal, change and go side by side; each time only the instance of the one that is meant moves."""
    staging = make_stack("staging", scene.stack.folder, scene.market.url)
    both = {"vars.ENVIRONMENTS": '["dev", "staging"]'}
    for name in ("dev", "staging"):
        done = scene.job("deploy", name, contexts=both)
        assert done.rc == 0, done.log
    dev, other = (scene.outputs(name)["instance_id"] for name in ("dev", "staging"))
    assert scene.ledger.billed() == {dev, other}

    scene.host("die", "dev")
    assert scene.job("drift", "drift", "staging", contexts=both).rc == 0
    assert scene.job("drift", "drift", "dev", contexts=both | HEAL).rc == 0
    healed = scene.outputs("dev")["instance_id"]
    assert scene.ledger.billed() == {healed, other}

    staging.write_config(disk_gb=50)
    assert scene.job("deploy", "staging", contexts=both).rc == 0
    moved = scene.outputs("staging")["instance_id"]
    assert scene.ledger.billed() == {healed, moved}
    assert moved != other

    assert not scene.job("scale", "scale").ran
    scene.stack.write_config(schedule={"windows": [ALWAYS | {"replicas": 2}]}, replicas={"min": 1, "max": 2})
    assert scene.job("deploy", "dev").rc == 0  # with replicas, other offers are within the policy's price
    done = scene.job("scale", "scale", "dev", contexts={"vars.SCALE": '["dev"]'})
    assert (done.rc, len(scene.ledger.billed())) == (0, 3), done.log
    assert "1 -> 2: 2 to 2 are allowed now, 1 are running" in done.summary

    assert scene.stack.destroy().rc == 0
    assert scene.ledger.billed() == {moved}
    assert staging.destroy().rc == 0
    assert scene.ledger.billed() == set()
