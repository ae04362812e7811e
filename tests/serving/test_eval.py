"""`rerank eval` on two models that real vLLM serves: MiniLM, and a cross-encoder of random weights."""

import json
import subprocess
import sys

import pytest

from harness.stack import REPO

pytestmark = [pytest.mark.vllm, pytest.mark.all]
SAMPLE = REPO / "examples" / "queries.jsonl"


def test_two_models_are_compared_in_a_table_and_a_plot(minilm, cross_encoder, tmp_path):
    places = []
    for name, server in (("minilm", minilm), ("random", cross_encoder)):
        place = tmp_path / name
        outputs = {"url": server.url, "api_key": server.key, "model": server.model, "hourly_cost_usd": {"total": 0.36}}
        place.write_text(json.dumps(outputs))
        places += ["--outputs", name]
    command = [sys.executable, "-m", "reranker", "eval", "--queries", str(SAMPLE), "--k", "3", *places]
    options = {"cwd": tmp_path, "env": {"PYTHONPATH": str(REPO)}, "capture_output": True, "text": True, "timeout": 120}
    shown = subprocess.run(command, **options, check=False)
    assert shown.returncode == 0, shown.stderr
    print(shown.stdout)
    assert [line.split()[0] for line in shown.stdout.splitlines()[:3]] == ["stack", "minilm", "random"]
    assert "\nnDCG@3, 1 is best\n" in shown.stdout
    assert "\n$ per 1,000 queries, less is better\n" in shown.stdout
    found = subprocess.run([*command, "--json"], **options, check=False).stdout.splitlines()
    good, random = map(json.loads, found)
    assert (good["model"], random["model"]) == (minilm.model, cross_encoder.model)
    assert good["ndcg"] > 0.9 > random["ndcg"] > 0
    assert good["pairs_per_s"] > 0
    assert random["usd_per_1000_queries"] > 0
