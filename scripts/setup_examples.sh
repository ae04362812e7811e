#!/usr/bin/env bash
# Builds .tools/examples: a venv for the examples whose dependencies are heavy (LangChain, LlamaIndex, numpy), with the
# client of this checkout installed as anyone would install it. Called by setup.sh. A second call only installs the
# client again: a few seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh .tools/examples examples
# from a copy: setuptools leaves its build folder where it works, and in it files of an older state
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
cp -r reranker "$copy"
.tools/examples/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-index --no-deps \
  --no-build-isolation --force-reinstall "$copy/reranker"
