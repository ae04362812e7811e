"""Writes docs/plug-it-into.md from reranker/applications.toml: `make docs`, or `python -m scripts.applications`.

tests/client/test_env.py says where the page is not what it should be.
"""

from __future__ import annotations

from pathlib import Path

from reranker.applications import Application, read_applications

PAGE = Path(__file__).resolve().parents[1] / "docs" / "plug-it-into.md"
HEAD = """\
# Plug it into

What to paste into applications that take a reranker. `rerank env --stack prod --for NAME` prints a block with the
values of a stack in it. This page is made from `reranker/applications.toml` by `make docs`; a test compares them.

| in a block | is |
| --- | --- |
| `<URL>` | the output `url`; or the address of `rerank proxy`, `http://127.0.0.1:8787` |
| `<KEY>` | `pulumi stack output api_key --show-secrets`; with the proxy any text |
| `<MODEL>` | the output `model` |
| `<CA>` | a file with the output `ca_certificate`; not needed with the proxy, or where that is empty: a public name |

## Straight or by the proxy

A stack has a CA of its own, and with one server its address changes when the server is replaced. An application that
can be told a CA, before a stack with a [gateway](gateway.md), needs nothing else. For all others there is the proxy:

```console
$ pip install './reranker[proxy]'
$ rerank proxy --stack prod
http://127.0.0.1:8787
```

It takes plain HTTP on loopback and speaks TLS to the stack; it splits long lists, repeats what failed for the moment,
cuts texts at the model's length, and translates Cohere v1 and v2, Jina, TEI (`texts`), Voyage (`top_k`, `data`) and
Infinity (documents as text). Where the fields of a request do not tell which one, the path does: `<URL>/voyage/v1`,
`<URL>/infinity`, `<URL>/tei`, `<URL>/cohere`, `<URL>/jina`. An unknown model's name is 404, unless `--alias NAME` says
that it means the stack's model; `--alias '*'` takes any.

It reads the outputs again every 30 seconds, and at once where nothing answers or the key is refused, so that a heal or
a rotation of the key fails no request that can wait for it (`--timeout`, 60 seconds). Pulumi is not needed where it
runs: the pipeline that deploys writes `rerank env --stack prod --write reranker.json` (it holds the
key) and brings it to `rerank proxy --outputs reranker.json`, a file or an address.

Beyond loopback it asks for a key of its own (`--key-file`), or to be told that there is none (`--no-key`), as in a
network of containers. `GET /health` asks the stack, `GET /metrics` is for Prometheus. `reranker/Dockerfile` makes an
image, and `examples/open-webui/compose.yaml` puts it beside Open WebUI; neither was built where this was written.

What it adds, by `python -m bench proxy` in one run, with 32 documents before a server of 5 ms: 4 ms at the median with
one request in flight (9 to 13 ms), 11 ms with 32 (214 to 225 ms), on 2 cores that had other work.

## Applications

"run": a test runs this client in that version against real vLLM. Of the others this is what their source says, in that
version. "unchanged": address, key, model, and the CA (by the variable in its block) unless the name is public.

| application | version | works | run, or why not |
| --- | --- | --- | --- |
"""
NOT_POSSIBLE = """
## Not possible

The address of the reranker is fixed in n8n's Cohere node, Flowise, langchain-community's `JinaRerank` and Weaviate's
`reranker-jinaai`. A service in the cloud (Dify Cloud, Weaviate Cloud, Zilliz, Vercel's edge) can be given neither a CA
nor a proxy: it needs a [public name](gateway.md). OpenSearch and Elasticsearch take a request of one's own as a
template, which was not tried.
"""


def page() -> str:
    """Return docs/plug-it-into.md."""
    applications = read_applications().values()
    rows = [
        row
        for one in applications
        for row in (
            f"| [{one.title}](#{one.name}) | {one.version} | {one.works} | {one.why or one.checked} |",
            *(f"| | {client} | {works} | {why or 'run'} |" for client, works, why in one.also),
        )
    ]
    return HEAD + "\n".join(rows) + "\n" + "".join(map(_section, applications)) + NOT_POSSIBLE


def _section(one: Application) -> str:
    parts = [f"### {one.name}", f"```{one.language}\n{one.block.strip()}\n```"]
    if one.ca:
        parts.append(f"Without the proxy, for the CA:\n\n```{one.language}\n{one.ca.strip(chr(10))}\n```")
    if one.proxy:
        parts.append(f"By the proxy: {one.proxy}.")
    if one.note:
        parts.append(one.note)
    return "\n" + "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
