"""The client, its command and the examples, against real vLLM behind the stack's own guard and TLS."""

import json
import re

import pytest

from harness.stack import MODEL, REPO

pytestmark = [pytest.mark.engine, pytest.mark.vllm]

EXAMPLES = {
    "score.py": "Deep learning",
    "cohere_rerank.py": "Deep learning",
    "semantic_search.py": "refund",
    "duplicates.py": "2 groups of duplicates among 6 texts",
    "recommend.py": "A history of deep sea diving",
}
HEAVY = {"rag.py": "Gradient descent", "langchain_rerank.py": "book    Deep learning", "llamaindex_rerank.py": "Deep"}
OWN_PYTHON = REPO / ".tools" / "examples" / "bin" / "python"


def ran(deployment, done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployment.key not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", EXAMPLES)
def test_the_examples_run_from_the_stacks_outputs(deployment, script):
    assert EXAMPLES[script] in ran(deployment, deployment.python(REPO / "examples" / script))


@pytest.mark.all
@pytest.mark.parametrize("script", HEAVY)
def test_the_examples_with_heavy_dependencies_run_too(deployment, script):
    assert OWN_PYTHON.exists(), "the examples' venv is not there: scripts/setup.sh all"
    output = ran(deployment, deployment.python(REPO / "examples" / script, python=OWN_PYTHON))
    assert HEAVY[script] in output


@pytest.mark.all
def test_the_embeddings_of_rag_are_those_that_vllm_computes(deployment):
    """The stack serves the same MiniLM, whose score is the cosine: numpy and vLLM have to agree."""
    assert OWN_PYTHON.exists(), "the examples' venv is not there: scripts/setup.sh all"
    output = ran(deployment, deployment.python(REPO / "examples" / "rag.py", python=OWN_PYTHON))
    pairs = re.findall(r"(-?\d\.\d{4})  \(cosine (-?\d\.\d\d)\)", output)
    assert len(pairs) == 6
    assert all(abs(float(score) - float(cosine)) < 0.02 for score, cosine in pairs), pairs


def test_the_command_ranks_more_documents_than_one_request_takes(deployment, tmp_path):
    file = tmp_path / "documents.jsonl"
    lines = [json.dumps({"id": n, "text": f"pizza number {n}"}) for n in range(1100)]
    lines[1050] = json.dumps({"id": "it", "text": "Deep learning is machine learning."})
    file.write_text("\n".join(lines))
    done = deployment.python("-m", "reranker", "What is deep learning?", "--file", file, "--top-n", "1", "--json")
    best = json.loads(ran(deployment, done))
    assert (best["index"], best["document"]["id"]) == (1050, "it")


def test_status_says_what_serves_from_which_weights_at_what_price(deployment):
    facts = json.loads(ran(deployment, deployment.python("-m", "reranker", "status", "--json")))
    assert (facts["serving"], facts["model"], facts["url"]) == (True, MODEL, deployment.url)
    assert [one["instance_id"] for one in facts["replicas"]] == [str(int(deployment.outputs["instance_id"]))]
    assert facts["hourly_cost_usd"] > 0
    assert "minilm" in facts["weights"].lower()
