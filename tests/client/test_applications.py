"""The blocks of applications.toml, run as they are printed, in the clients' own packages, by way of `rerank proxy`.

`scripts/setup.sh all` makes the venv. Each block is followed by the call that its application would make.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from reranker.applications import read_applications
from tests.client.guarded import MODEL
from tests.client.proxying import REPO, running_proxy, write_outputs

pytestmark = pytest.mark.all

PYTHON = REPO / ".tools" / "examples" / "bin" / "python"
NPM = Path(__file__).with_name("npm")
QUERY = "What is deep learning?"
DOCUMENTS = ["I like pizza.", "The weather is nice.", "Deep learning is machine learning."]
BEFORE = f"query, documents = {QUERY!r}, {DOCUMENTS!r}\n"
HAYSTACK = """
from haystack import Document
found = reranker.run(query, [Document(content=one) for one in documents])["documents"]
print(*(one.content for one in found), sep="\\n")
"""
NODES = """
from llama_index.core.schema import NodeWithScore, TextNode
nodes = [NodeWithScore(node=TextNode(text=one)) for one in documents]
print(*(one.text for one in reranker.postprocess_nodes(nodes, query_str=query)), sep="\\n")
"""
INDEXES = 'print(*(documents[one.index] for one in answer.results), sep="\\n")'
# name of the block: what its application does with it, printing the documents best first
CALLS = {
    "cohere": INDEXES,
    "langchain": """
from langchain_core.documents import Document
found = reranker.compress_documents([Document(page_content=one) for one in documents], query)
print(*(one.page_content for one in found), sep="\\n")
""",
    "llamaindex": NODES,
    "haystack": HAYSTACK,
    "voyage": INDEXES,
    "tei": NODES,
}
# LiteLLM's providers: the address below the proxy's
LITELLM = {
    "hosted_vllm": "", "cohere": "", "jina_ai": "", "huggingface": "", "infinity": "/infinity", "voyage": "/voyage",
}  # fmt: skip


@pytest.fixture(scope="module")
def proxy(shared_server, tmp_path_factory):
    outputs = write_outputs(tmp_path_factory.mktemp("applications") / "outputs.json", shared_server)
    with running_proxy("--outputs", outputs) as one:
        yield one


@pytest.fixture
def python(tmp_path):
    assert PYTHON.exists(), "the examples' venv is not there: scripts/setup.sh all"

    def run(code):
        env = {"HOME": str(tmp_path), "HAYSTACK_TELEMETRY_ENABLED": "False", "PATH": os.environ["PATH"]}
        done = subprocess.run([PYTHON, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def block_for(name, proxy):
    return read_applications()[name].filled({"URL": proxy.url, "KEY": "unused", "MODEL": MODEL})


@pytest.mark.parametrize("name", CALLS)
def test_a_python_block_ranks(proxy, python, name):
    assert python(f"{BEFORE}{block_for(name, proxy)}\n{CALLS[name]}")[0] == DOCUMENTS[2]


@pytest.mark.parametrize("provider", LITELLM)
def test_litellms_providers_rank(proxy, python, provider):
    given = f"model={f'{provider}/{MODEL}'!r}, api_base={proxy.url + LITELLM[provider]!r}, api_key='unused'"
    call = f"import litellm\nanswer = litellm.rerank(query=query, documents=documents, {given})\n"
    show = 'print(*(documents[one["index"]] for one in answer.results), sep="\\n")'
    assert python(BEFORE + call + show)[0] == DOCUMENTS[2]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """The packages of npm/package-lock.json, in a folder of the test's own."""
    if not shutil.which("npm"):
        pytest.skip("no npm on PATH")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json", "clients.mjs"):
        (folder / name).write_bytes((NPM / name).read_bytes())
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("client", ["ai-sdk", "ai-sdk-voyage", "cohere-v1", "cohere-v2", "voyage"])
def test_npm_clients_rank(proxy, node_modules, client):
    (node_modules / "block.mjs").write_text(
        f"const query = {QUERY!r}, documents = {DOCUMENTS!r};\n"
        + block_for("ai-sdk", proxy)
        + "\nconsole.log(ranking[0].originalIndex);\n"
    )
    command = ["node", "block.mjs"] if client == "ai-sdk" else ["node", "clients.mjs", proxy.url, MODEL, client]
    done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_the_versions_that_are_said_to_run_are_those_that_run(python):
    names = ["cohere", "langchain-cohere", "llama-index-postprocessor-cohere-rerank", "cohere-haystack", "litellm"]
    names += ["voyageai", "llama-index-postprocessor-tei-rerank"]
    code = f"import importlib.metadata as m\nfor one in {names!r}: print(one, m.version(one))"
    said = " ".join(one.version for one in read_applications().values() if one.checked == "run")
    assert [line for line in python(code) if line.split()[0] not in said or line.split()[1] not in said] == []
    assert installed("cohere") in said, sys.executable
    lock = (NPM / "package-lock.json").read_text()
    for one in read_applications()["ai-sdk"].version.split(", "):
        name, version = one.split(" ")
        assert f'"node_modules/{name}": {{\n      "version": "{version}"' in lock
