"""`prefer: value` and `ops market` through the real engine: the measurements that program, plugin and ops read."""

import pytest

from components.measurements import record_rate
from harness.stack import EngineStack
from tests.engine.fleet import ops

pytestmark = [pytest.mark.engine, pytest.mark.all]


def test_an_offer_is_chosen_by_dollars_per_million_pairs_once_a_gpu_was_measured(market, ledger, tmp_path):
    stack = EngineStack(tmp_path / "stack", market.url, config={"prefer": "value"}).init()
    done = stack.preview()
    assert done.rc == 0, done.text
    assert "pairs/s relative, not measured" in done
    picture = tmp_path / "market.png"
    before = ops(stack, "market", "--query", "num_gpus=1 gpu_ram>=20", "--png", str(picture)).document
    assert (before["exit_code"], before["measured"]) == (0, False)
    assert picture.read_bytes().startswith(b"\x89PNG")
    model = before["model"]
    slow = before["best"]["value"][0]["gpu_name"]
    fast = next(one["gpu_name"] for one in before["offers"] if one["gpu_name"] != slow)
    for gpu, rate in ((slow, 1.0), (fast, 100_000.0)):
        record_rate(gpu, model, rate, stack.project / "throughput.yaml")
    found = ops(stack, "market", "--query", "num_gpus=1 gpu_ram>=20").document["best"]["value"]
    assert found[0]["gpu_name"] == fast
    assert slow not in {one["gpu_name"] for one in found}
    stack.write_config(query="num_gpus=1 gpu_ram>=20")
    plan = ops(stack, "preview").document
    [chosen] = plan["choices"]
    assert (chosen["gpu_name"], chosen["estimate"]) == (fast, "measured on this GPU")
    assert chosen["usd_per_million"] == pytest.approx(
        chosen["dph_total"] / 3600 / chosen["pairs_per_s"] * 1e6, rel=1e-3
    )
    assert ledger.contracts() == []
