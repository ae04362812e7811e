"""The blocks of applications.toml, run as they are printed, in the clients' own packages: straight, and by the proxy.

`scripts/setup.sh all` makes the venv. Each block is followed by the call that its application would make.
"""

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from reranker.applications import read_applications
from tests.client.proxying import REPO, running_proxy, write_outputs
from tests.npm import copy_with_packages, npm

pytestmark = pytest.mark.all

PYTHON = REPO / ".tools" / "examples" / "bin" / "python"
LIBRECHAT = "jina-reranker-v2-base-multilingual"
# what ranks in it needs axios only, of the 340 packages that it brings in
LIBRECHAT_AGENTS = "@librechat/agents@3.9.2"
LIBRECHAT_HASH = "sha512-QrCGLdJLZQBprBvS7gNfrNEqykwt0B157A2tMGJflmzdBQa8/TQ0yLydQo3NcA7TtFZJeJNmCo0hsZj4UJbjmw=="
NPM = Path(__file__).with_name("npm")
QUERY = "What is deep learning?"
DOCUMENTS = ["I like pizza.", "The weather is nice.", "Deep learning is machine learning."]
BEFORE = f"import os\nquery, documents = {QUERY!r}, {DOCUMENTS!r}\n"
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
    # its class that ranks, without the two modules beside it that start the whole application
    "open-webui": """
import sys
from importlib.util import find_spec
from types import ModuleType
def module(name, **names):
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(names)
module("open_webui", __path__=find_spec("open_webui").submodule_search_locations)
module("open_webui.env", REQUESTS_VERIFY=True, ENABLE_FORWARD_USER_INFO_HEADERS=False)
module("open_webui.utils.headers", include_user_info_headers=None)
from open_webui.retrieval.models.external import ExternalReranker
names = {"model": "RERANKING_MODEL", "url": "EXTERNAL_RERANKER_URL", "api_key": "EXTERNAL_RERANKER_API_KEY"}
given = {name: os.environ["RAG_" + variable] for name, variable in names.items()}
scores = ExternalReranker(**given).predict([(query, one) for one in documents])
print(max(zip(scores, documents))[1])
""",
    "lightrag": """
import asyncio
from lightrag.rerank import cohere_rerank
names = {"model": "MODEL", "base_url": "BINDING_HOST", "api_key": "BINDING_API_KEY"}
given = {name: os.environ["RERANK_" + variable] for name, variable in names.items()}
found = asyncio.run(cohere_rerank(query, documents, **given))
print(*(documents[one["index"]] for one in found), sep="\\n")
""",
}
# `also` of the table: other clients, and what they are given
ALSO = {
    "langchain-voyageai 0.4.1": """
from langchain_voyageai import VoyageAIRerank
from langchain_core.documents import Document
reranker = VoyageAIRerank(base_url="<URL>/voyage/v1", api_key="<KEY>", model="<MODEL>")
found = reranker.compress_documents([Document(page_content=one) for one in documents], query)
print(*(one.page_content for one in found), sep="\\n")
""",
    "llama-index-postprocessor-jinaai-rerank 0.6.0": f"""
from llama_index.postprocessor.jinaai_rerank import JinaRerank
reranker = JinaRerank(base_url="<URL>/v1", api_key="<KEY>", model="<MODEL>")
{NODES}""",
    "VLLMRanker of vllm-haystack 3.0.1": f"""
import ssl
from haystack.utils import Secret
from haystack_integrations.components.rankers.vllm import VLLMRanker
trust = {{"verify": ssl.create_default_context(cafile=os.environ["CA"])}} if "CA" in os.environ else None
key = Secret.from_token("<KEY>")
reranker = VLLMRanker(model="<MODEL>", api_base_url="<URL>/v1", api_key=key, http_client_kwargs=trust)
{HAYSTACK}""",
    "JinaRanker of jina-haystack 2.0.1": f"""
from haystack.utils import Secret
from haystack_integrations.components.rankers.jina import JinaRanker
reranker = JinaRanker(model="<MODEL>", base_url="<URL>/v1/rerank", api_key=Secret.from_token("<KEY>"))
{HAYSTACK}""",
    "HuggingFaceTEIRanker of huggingface-api-haystack 3.1.0": f"""
from haystack.utils import Secret
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
reranker = HuggingFaceTEIRanker(url="<URL>", token=Secret.from_token("<KEY>"))
{HAYSTACK}""",
    "OAICompatRerankModel of dify-plugin 0.7.4": """
from dify_plugin.interfaces.model.openai_compatible.rerank import OAICompatRerankModel
given = {"endpoint_url": "<URL>/v1", "api_key": "<KEY>"}
found = OAICompatRerankModel([]).invoke("<MODEL>", given, query, documents)
print(*(one.text for one in found.docs), sep="\\n")
""",
}
# LiteLLM's providers: the address below the proxy's, and whether the proxy is needed
LITELLM = {
    "hosted_vllm": ("", False), "cohere": ("", False), "jina_ai": ("", False),
    "huggingface": ("", True), "infinity": ("/infinity", True), "voyage": ("/voyage", True),
}  # fmt: skip
# npm's clients, and whether they need the proxy
NPM_CLIENTS = {
    "ai-sdk": True, "ai-sdk-voyage": True, "voyage": True, "librechat": True,
    "cohere-v1": False, "cohere-v2": False, "langchain": False,
}  # fmt: skip
ROWS = [tuple(row) for one in read_applications().values() for row in one.other_clients]
NEEDS_PROXY = {name for name in CALLS if read_applications()[name].proxy}
NEEDS_PROXY |= {client for client, connection, _ in ROWS if connection == "through the proxy"}


def ways(needs_proxy):
    """Each client with the ways in which it has to work."""
    return [
        (name, way)
        for name, needed in needs_proxy.items()
        for way in ("proxy", "direct")
        if way == "proxy" or not needed
    ]


@dataclass
class Place:
    """What a client is given: the stack itself, with its CA by the variables that clients read, or the proxy."""

    url: str
    key: str
    model: str
    env: dict

    def fill(self, text):
        for name, value in (("URL", self.url), ("KEY", self.key), ("MODEL", self.model)):
            text = text.replace(f"<{name}>", value)
        return text


@pytest.fixture(scope="module")
def places(shared_server, tmp_path_factory):
    outputs = write_outputs(tmp_path_factory.mktemp("applications") / "outputs.json", shared_server)
    ca = {
        name: str(shared_server.ca_file)
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CA")
    }
    with running_proxy("--outputs", outputs, "--alias", LIBRECHAT) as one:
        yield {
            "proxy": Place(one.url, "unused", shared_server.model, {}),
            "direct": Place(shared_server.url, shared_server.key, shared_server.model, ca),
        }


@pytest.fixture
def python(tmp_path):
    assert PYTHON.exists(), "the examples' venv is not there: scripts/setup.sh all"

    def run(code, **env):
        env = {"HOME": str(tmp_path), "HAYSTACK_TELEMETRY_ENABLED": "False", "PATH": os.environ["PATH"]} | env
        done = subprocess.run([PYTHON, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def variables(place, name):
    """The block of an application that is set up by its environment."""
    return dict(line.split("=", 1) for line in place.fill(read_applications()[name].block).split())


@pytest.mark.parametrize(("name", "way"), ways({name: name in NEEDS_PROXY for name in [*CALLS, *ALSO]}))
def test_a_python_client_ranks(places, python, name, way):
    if name == "open-webui" and sys.version_info >= (3, 13):
        pytest.skip("it takes no Python 3.13")
    place = places[way]
    if name in ALSO:
        code, settings = ALSO[name], {}
    elif read_applications()[name].language == "sh":
        code, settings = CALLS[name], variables(place, name)
    else:
        code, settings = f"{read_applications()[name].block}\n{CALLS[name]}", {}
    assert python(BEFORE + place.fill(code), **place.env, **settings)[0] == DOCUMENTS[2]


@pytest.mark.parametrize(("provider", "way"), ways({name: needed for name, (_, needed) in LITELLM.items()}))
def test_litellms_providers_rank(places, python, provider, way):
    place = places[way]
    address, model = place.url + LITELLM[provider][0], f"{provider}/{place.model}"
    given = f"model={model!r}, api_base={address!r}, api_key={place.key!r}"
    call = f"import litellm\nanswer = litellm.rerank(query=query, documents=documents, {given})\n"
    show = 'print(*(documents[one["index"]] for one in answer.results), sep="\\n")'
    assert python(BEFORE + call + show, **place.env)[0] == DOCUMENTS[2]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """The packages of npm/package-lock.json, in a folder of the test's own, and LibreChat's without what it needs."""
    folder = copy_with_packages(NPM, tmp_path_factory.mktemp("npm"))
    [packed] = json.loads(npm(folder, "pack", "--json", LIBRECHAT_AGENTS))
    assert packed["integrity"] == LIBRECHAT_HASH
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extractall(folder / "librechat", filter="data")
    return folder


@pytest.mark.parametrize(("client", "way"), ways(NPM_CLIENTS))
def test_npm_clients_rank(places, node_modules, client, way):
    place = places[way]
    (node_modules / "block.mjs").write_text(
        f"const query = {QUERY!r}, documents = {DOCUMENTS!r};\n"
        + place.fill(read_applications()["ai-sdk"].block)
        + "\nconsole.log(ranking[0].originalIndex);\n"
    )
    command = ["node", "block.mjs"] if client == "ai-sdk" else ["node", "clients.mjs", place.url, place.model, client]
    env = {"PATH": os.environ["PATH"], "RERANKER_API_KEY": place.key} | place.env | variables(place, "librechat")
    done = subprocess.run(command, cwd=node_modules, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_every_other_client_that_is_said_to_run_is_run():
    said = {client for client, _, why in ROWS if not why}
    elsewhere = {"its providers huggingface, infinity and voyage"}  # LITELLM
    in_npm = {one for one in said if " of npm" in one or one.startswith("@ai-sdk/")}
    assert said - elsewhere - in_npm == set(ALSO)


def test_the_versions_that_are_said_to_run_are_those_that_run(python):
    names = ["cohere", "langchain-cohere", "llama-index-postprocessor-cohere-rerank", "cohere-haystack", "litellm"]
    names += ["voyageai", "llama-index-postprocessor-tei-rerank", "llama-index-postprocessor-jinaai-rerank"]
    names += ["langchain-voyageai", "vllm-haystack", "jina-haystack", "huggingface-api-haystack", "lightrag-hku"]
    names += ["dify-plugin"] + (["open-webui"] if sys.version_info < (3, 13) else [])
    code = f"import importlib.metadata as m\nfor one in {names!r}: print(one, m.version(one))"
    said = " ".join(one.version for one in read_applications().values() if not one.untested_reason)
    said += " ".join(client for client, _, _ in ROWS)
    assert [line for line in python(code) if line.split()[0] not in said or line.split()[1] not in said] == []
    assert installed("cohere") in said, sys.executable
    lock = (NPM / "package-lock.json").read_text()
    npm = [client.split(",")[0].removesuffix(" of npm") for client, _, _ in ROWS if " of npm" in client]
    assert LIBRECHAT_AGENTS in said
    for one in (*read_applications()["ai-sdk"].version.split(", "), *npm):
        name, version = one.split(" ")
        assert f'"node_modules/{name}": {{\n      "version": "{version}"' in lock
