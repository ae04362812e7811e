"""The examples, run as people run them: as scripts, against the guarded TLS server.

Those with heavy dependencies, and the installed client, run in the examples' own venv (`scripts/setup.sh all`).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.guarded import KEY, MODEL, guarded_server

REPO = Path(__file__).parents[2]
OWN_VENV = REPO / ".tools" / "examples" / "bin"
QUERY = "What is deep learning?"


@pytest.fixture
def stack(server, tmp_path):
    """A PATH with a `pulumi` that knows the stack `local` and nothing else."""
    return a_stack(server, tmp_path)


def a_stack(server, folder):
    outputs = {"url": server.url, "api_key": KEY, "ca_certificate": server.ca, "model": MODEL}
    wanted = ["stack", "output", "--json", "--show-secrets", "--non-interactive", "--stack", "local"]
    script = f"import sys\nassert sys.argv[1:] == {wanted!r}, sys.argv\nprint({json.dumps(outputs)!r})\n"
    (folder / "pulumi").write_text(f"#!{sys.executable}\n{script}")
    (folder / "pulumi").chmod(0o755)
    return folder


def run(script, *args, path, python=sys.executable, **changes):
    env = {"PATH": str(path), "HOME": str(path), "PYTHONPATH": str(REPO)} | changes
    command = [python, REPO / "examples" / script, *args]
    return subprocess.run(command, env=env, cwd=path, capture_output=True, text=True, check=False, timeout=120)


def shown(script, stack, *args, **options):
    done = run(script, "--stack", "local", *args, path=stack, **options)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done.stdout


def texts(output):
    """Return what comes after the numbers of each result."""
    return [re.sub(r"^\s+[\d.]+\s+(\[\d+\]\s+)?", "", line) for line in output.splitlines() if re.match(r"\s+\d", line)]


@pytest.fixture
def own_python():
    assert (OWN_VENV / "rerank").exists(), "the examples' venv is not there: scripts/setup.sh all"
    return OWN_VENV / "python"


# ---- with the client alone -------------------------------------------------------------------------------------------


def test_score_prints_documents_best_first_with_bands(stack, server):
    lines = shown("score.py", stack, "--query", "deep learning", "pizza", "deep learning, that is").splitlines()
    assert lines[0] == f"deep learning  ({MODEL} at {server.url})"
    assert lines[1].endswith("high        deep learning, that is")
    assert lines[2].endswith("low         pizza")
    assert "estimates" in lines[3]


def test_cohere_client_reranks_and_its_documents_are_dicts(stack):
    output = shown("cohere_rerank.py", stack, "--top-n", "2")
    assert [text.startswith("Deep learning") for text in texts(output)] == [True, True]


def test_cohere_example_without_a_top_n_gets_all_documents_and_sends_no_null(stack):
    assert len(texts(shown("cohere_rerank.py", stack))) == 4


def test_semantic_search_finds_what_answers_the_query(stack, tmp_path):
    assert [("refund" in text) for text in texts(shown("semantic_search.py", stack, "--top-n", "2"))] == [True, True]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('"pizza"\n{"text": "deep learning"}\n')
    assert texts(shown("semantic_search.py", stack, QUERY, "--file", str(corpus)))[0] == "deep learning"


def test_duplicates_are_grouped_each_text_once(stack):
    output = shown("duplicates.py", stack)
    assert output.startswith("2 groups of duplicates among 6 texts, 15 pairs")
    assert re.findall(r"\[(\d)\]", output) == ["0", "2", "1", "4"]
    chain = shown("duplicates.py", stack, "a b c d", "a b c e", "a b f e", "--min-score", "0.7")
    assert re.findall(r"\[(\d)\]", chain) == ["0", "1", "2"]


def test_recommendations_follow_what_was_liked_and_leave_that_out(stack):
    best = texts(shown("recommend.py", stack, "--liked", "A guide to neural networks", "--top-n", "1"))
    assert best == ["A guide to neural networks for beginners  (you liked: A guide to neural networks)"]
    liked = "A guide to neural networks for beginners"
    assert liked not in [text.partition("  (")[0] for text in texts(shown("recommend.py", stack, "--liked", liked))]


LIGHT = ["score.py", "cohere_rerank.py", "semantic_search.py", "duplicates.py", "recommend.py"]


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory):
    with guarded_server(tmp_path_factory.mktemp("plain"), tls=False) as one:
        yield one


@pytest.mark.parametrize("script", ["score.py", "cohere_rerank.py", "recommend.py"])
def test_a_stack_without_tls_works_as_well(script, plain_server, tmp_path):
    assert "eep " in shown(script, a_stack(plain_server, tmp_path))


@pytest.mark.all
@pytest.mark.parametrize("script", ["langchain_rerank.py", "llamaindex_rerank.py"])
def test_a_stack_without_tls_works_with_the_others_too(script, plain_server, tmp_path, own_python):
    assert len(texts(shown(script, a_stack(plain_server, tmp_path), python=own_python))) == 2


@pytest.mark.parametrize("script", LIGHT)
def test_a_wrong_key_is_one_line(script, server, tmp_path):
    known = {"RERANKER_API_KEY": "wrong-key", "RERANKER_CA": str(server.ca_file)}
    done = run(script, "--url", server.url, "--model", MODEL, path=tmp_path, **known)
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "wrong-key" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["score.py", "cohere_rerank.py"])
def test_a_server_that_is_gone_is_one_line(script, tmp_path):
    done = run(script, "--url", "http://127.0.0.1:1", "--model", "m", path=tmp_path, RERANKER_API_KEY="k")
    assert done.returncode == 1
    assert "cannot reach http://127.0.0.1:1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", LIGHT)
def test_missing_pulumi_says_how_to_go_on(script, tmp_path):
    done = run(script, path=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "put Pulumi on PATH, or give a URL" in done.stderr


# ---- in their own venv -----------------------------------------------------------------------------------------------


@pytest.mark.all
def test_rag_keeps_what_answers_the_question_and_drops_what_sounds_alike(stack, own_python):
    output = shown("rag.py", stack, python=own_python)
    kept = re.findall(r"keep .*\)  (.*)", output)
    dropped = re.findall(r"drop .*\)  (.*)", output)
    assert len(kept) == len(dropped) == 3
    assert all("deep learning" in text.lower() for text in kept)
    assert any("deep sea" in text for text in dropped)
    prompt = output.partition("Answer from these passages only:")[2]
    assert all(text in prompt for text in kept)
    assert not any(text in prompt for text in dropped)


@pytest.mark.all
def test_minilm_says_what_the_model_says(own_python, tmp_path):
    # cosines of sentence-transformers' own pipeline (PyTorch) for these texts: 0.8278, 0.0137
    book = "Deep learning is a subset of machine learning that uses neural networks with many layers."
    code = (
        "from minilm import MiniLM;"
        f"vectors = MiniLM().embed({[QUERY, book, 'I like pizza.']!r});"
        "print(*(vectors[0] @ vectors[1:].T))"
    )
    done = subprocess.run(
        [own_python, "-c", code],
        env={"PYTHONPATH": str(REPO / "examples"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [float(one) for one in done.stdout.split()] == pytest.approx([0.8278, 0.0137], abs=0.001)


@pytest.mark.all
def test_langchain_compresses_documents_and_keeps_their_metadata(stack, own_python):
    best = texts(shown("langchain_rerank.py", stack, python=own_python))
    assert len(best) == 2
    assert re.match(r"book +Deep learning", best[0])


@pytest.mark.all
def test_llamaindex_postprocesses_nodes_and_the_environment_stays_as_it_was(stack, own_python):
    best = texts(shown("llamaindex_rerank.py", stack, python=own_python))
    assert len(best) == 2
    assert best[0].startswith("Deep learning")


@pytest.mark.all
def test_cohere_example_runs_with_the_older_client_that_langchain_needs(stack, own_python):
    assert len(texts(shown("cohere_rerank.py", stack, python=own_python))) == 4


@pytest.mark.all
def test_the_installed_client_is_a_command_and_typed_and_needs_certifi_only(stack, own_python):
    env = {"PATH": str(stack), "HOME": str(stack)}
    command = [OWN_VENV / "rerank", "--stack", "local", QUERY, "pizza", "deep learning"]
    done = subprocess.run(command, env=env, cwd=stack, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert texts(done.stdout)[0] == "deep learning"
    code = (
        "import importlib.metadata as m, reranker, pathlib, sys;"
        "at = pathlib.Path(reranker.__file__).parent;"
        "print(m.requires('vast-reranker-client'), (at / 'py.typed').exists(), 'site-packages' in str(at),"
        " 'components' in sys.modules)"
    )
    said = subprocess.run([own_python, "-c", code], env=env, cwd=stack, capture_output=True, text=True, check=True)
    assert said.stdout == "['certifi>=2024.2.2', 'aiohttp>=3.13; extra == \"proxy\"'] True True False\n"


def test_every_example_is_in_the_examples_readme():
    readme = (REPO / "examples" / "README.md").read_text()
    scripts = {path.name for path in (REPO / "examples").glob("*.py")}
    assert scripts <= set(re.findall(r"`(\w+\.py)`", readme)), os.linesep
