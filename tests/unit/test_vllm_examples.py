"""The examples, run as people run them: as scripts, against a server that answers as vLLM does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake_vllm import KEY, FakeVllm

REPO = Path(__file__).parents[2]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def url() -> Iterator[str]:
    with FakeVllm().listening() as address:
        yield address


def run(script: str, *args: str, path: Path | None = None, key: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(path or ""), "HOME": os.environ.get("HOME", "/")}
    if key is not None:
        env["RERANKER_API_KEY"] = key
    command = [sys.executable, str(REPO / "examples" / script), *args]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False, timeout=60)


def pulumi(folder: Path, script: str) -> None:
    """Put a `pulumi` on PATH."""
    (folder / "pulumi").write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    (folder / "pulumi").chmod(0o755)


def outputs(folder: Path, **values: str) -> None:
    """Put a `pulumi` on PATH that prints these outputs to the very command that shows them, and only to that."""
    wanted = ["stack", "output", "--json", "--show-secrets", "--stack", "local"]
    pulumi(folder, f"assert sys.argv[1:] == {wanted!r}, sys.argv\nprint({json.dumps(values)!r})")


def test_score_prints_documents_best_first_with_bands(url: str) -> None:
    done = run("score.py", "--url", url, "--query", "deep learning", "pizza", "deep learning, that is", key=KEY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"deep learning  (BAAI/bge-reranker-base at {url})"
    assert lines[1].endswith("high        deep learning, that is")
    assert lines[2].endswith("irrelevant  pizza")
    assert "rule of thumb" in lines[3]


def test_score_reads_address_key_and_model_from_the_stack(url: str, bin_dir: Path) -> None:
    outputs(bin_dir, url=url, api_key=KEY, model="BAAI/bge-reranker-base")
    done = run("score.py", "--stack", "local", path=bin_dir)
    assert done.returncode == 0, done.stderr
    assert "high        Deep learning enables computers" in done.stdout.splitlines()[1]
    assert KEY not in done.stdout + done.stderr


def test_score_shows_no_bands_for_a_model_that_answers_with_cosines() -> None:
    with FakeVllm(MINILM).listening() as url:
        done = run("score.py", "--url", url, key=KEY)
    assert "cosine" in done.stdout.splitlines()[1]
    assert "there are no bands" in done.stdout


def test_cohere_client_reranks_and_its_documents_are_dicts(url: str, bin_dir: Path) -> None:
    outputs(bin_dir, url=url, api_key=KEY, model="BAAI/bge-reranker-base")
    done = run("cohere_rerank.py", "--stack", "local", "--top-n", "2", path=bin_dir)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "[1]  Deep learning enables computers" in lines[1]


def test_cohere_example_without_a_top_n_gets_all_documents_and_sends_no_null(url: str) -> None:
    done = run("cohere_rerank.py", "--url", url, key=KEY)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize("script", ["score.py", "cohere_rerank.py"])
def test_wrong_key_is_one_line(script: str, url: str, bin_dir: Path) -> None:
    outputs(bin_dir, url=url, api_key="wrong", model="BAAI/bge-reranker-base")
    done = run(script, "--stack", "local", path=bin_dir)
    assert done.returncode == 1
    assert "answered 401" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["score.py", "cohere_rerank.py"])
def test_server_that_is_gone_is_one_line(script: str, bin_dir: Path) -> None:
    with FakeVllm().listening() as url:
        outputs(bin_dir, url=url, api_key=KEY, model="m")
    done = run(script, "--stack", "local", path=bin_dir)
    assert done.returncode == 1
    assert f"cannot reach {url}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_pulumi_says_how_to_get_it(bin_dir: Path) -> None:
    done = run("score.py", path=bin_dir)
    assert done.stderr == "pulumi is not on PATH: run `. scripts/env.sh` first, or give --url\n"


def test_unknown_stack_shows_what_pulumi_said(bin_dir: Path) -> None:
    pulumi(bin_dir, "sys.exit('error: no stack named nope found')")
    assert run("score.py", "--stack", "nope", path=bin_dir).stderr == (
        "cannot read stack 'nope': error: no stack named nope found\n"
    )


def test_stack_that_is_not_up_says_to_bring_it_up(bin_dir: Path) -> None:
    outputs(bin_dir, api_key=KEY)
    assert run("score.py", path=bin_dir).stderr == (
        "stack 'local' has no output 'url': bring it up first (pulumi up --stack local)\n"
    )


def test_url_without_a_key_says_which_variable_to_set(url: str) -> None:
    assert run("score.py", "--url", url).stderr.startswith("no API key: set RERANKER_API_KEY")


def test_url_and_stack_exclude_each_other(url: str) -> None:
    assert "not allowed with" in run("score.py", "--url", url, "--stack", "dev", key=KEY).stderr
