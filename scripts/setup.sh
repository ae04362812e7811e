#!/usr/bin/env bash
# Prepares a checkout: the project's Python packages in .venv and the Pulumi engine in .tools/bin.
# Called by `make setup`; demo.sh adds --vllm (real vLLM for CPU as well, see setup_vllm.sh), `make setup-vllm` adds
# --vllm-all (that and an older one, which only tests use). Safe to repeat:
# what is ready is left alone, which takes well under a second.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo="$PWD"
vllm_version="0.32.0" # of the local stack
older_vllm="0.19.1" # that of the catalog's default image, on which the tests run the launch as well
oldest_pulumi="3.200.0" # of a CLI that is already installed; otherwise the one pinned in tools/pulumi is fetched or built

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# --- Python packages -------------------------------------------------------------------------------------------------

find_python() {
  local candidate seen=""
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
    seen+="$("$candidate" --version 2>/dev/null | sed "s|.*|, $candidate is &|" || true)"
  done
  die "needs Python 3.11 or newer with its venv module (Debian, Ubuntu: python3-venv)${seen:-, found none}"
}

# The stamp is the requirements themselves and the checkout's place, since a venv does not survive being moved.
wanted_packages() { echo "$repo"; cat requirements.txt requirements-dev.txt policy/requirements.txt; }

setup_venv() {
  local python
  if [ -x .venv/bin/python ] && wanted_packages | cmp -s - .venv/.complete; then return; fi
  SECONDS=0
  if ! grep -qsF "$repo/.venv/bin/python" .venv/bin/pip; then
    python="$(find_python)"
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
  fi
  say "installing requirements-dev.txt into .venv (about a minute)"
  rm -f .venv/.complete
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements-dev.txt
  wanted_packages >.venv/.complete
  say ".venv is ready after ${SECONDS}s"
}

# --- Pulumi ----------------------------------------------------------------------------------------------------------

pinned_pulumi="$(awk '$1 == "github.com/pulumi/pulumi/pkg/v3" { print $2 }' tools/pulumi/cli/go.mod)"
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# 1. A CLI that is installed already, recent enough and with its Python language host beside it.
link_installed() {
  local pulumi version file
  while IFS= read -r pulumi; do
    case "$pulumi" in "$repo"/.tools/*) continue ;; esac
    [ -x "${pulumi%/*}/pulumi-language-python" ] || continue
    version="$(PULUMI_SKIP_UPDATE_CHECK=true "$pulumi" version 2>/dev/null)" || continue
    at_least "${version#v}" "$oldest_pulumi" || continue
    for file in "$pulumi" "${pulumi%/*}"/pulumi-*; do ln -s "$file" "$1/${file##*/}"; done
    how="$version found at $pulumi"
    return
  done < <(type -ap pulumi)
  return 1
}

# 2. The official archive, where it can be reached.
download_archive() {
  local rc=0
  .venv/bin/python scripts/fetch_pulumi.py "$pinned_pulumi" "$1" || rc=$?
  [ "$rc" -ne 1 ] || die "stopped: see the line above; remove what is at fault and repeat"
  how="$pinned_pulumi from the official archive"
  return "$rc"
}

# 3. The same version from source. Its Python language host left the sdk module after v3.75.0, hence the second go.mod;
# the two scripts beside it are files of the sdk that the CLI was built with.
build_from_source() {
  local go_version sdk ldflags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$pinned_pulumi"
  local needs="Pulumi's archive cannot be reached, and building it from source needs Go 1.25 or newer"
  command -v go >/dev/null || die "$needs: no 'go' on PATH. Or install the Pulumi CLI $oldest_pulumi or newer yourself"
  go_version="$(go env GOVERSION)"
  at_least "${go_version#go}" 1.25 || die "$needs: this is $go_version"
  say "building pulumi $pinned_pulumi from source with $go_version: about 4 minutes on 2 cores"
  go_build() { # folder of go.mod, package; the names of some 300 downloads are left out
    (cd "$1" && CGO_ENABLED=0 go build -ldflags "$ldflags" -o "$new/" "$2") 2> >(grep -v "^go: downloading" >&2)
  }
  go_build tools/pulumi/cli github.com/pulumi/pulumi/pkg/v3/cmd/pulumi
  say "building its Python language host: about a minute"
  go_build tools/pulumi/language github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python
  sdk="$(cd tools/pulumi/cli && go list -m -f '{{.Dir}}' github.com/pulumi/pulumi/sdk/v3)"
  install -m 755 "$sdk/python/cmd/pulumi-language-python-exec" "$sdk/python/dist/pulumi-resource-pulumi-python" "$1/"
  how="$pinned_pulumi built from source"
}

setup_pulumi() {
  local new how=""
  if [ -x .tools/bin/pulumi ] && [ "$(head -n 1 .tools/pulumi.complete 2>/dev/null)" = "$pinned_pulumi" ]; then return; fi
  SECONDS=0
  new="$(mktemp -d "$repo/.tools/new.XXXXXX")"
  # shellcheck disable=SC2064 # the name is wanted as it is now
  trap "rm -rf '$new'" EXIT
  link_installed "$new" || download_archive "$new" || build_from_source "$new"
  "$new/pulumi" version >/dev/null || die "pulumi $how does not run on this machine"
  mkdir -p .tools/bin
  rm -f .tools/pulumi.complete .tools/bin/pulumi*
  mv "$new"/pulumi* .tools/bin/
  printf '%s\n%s\n' "$pinned_pulumi" "$how" >.tools/pulumi.complete
  say ".tools/bin/pulumi is ready after ${SECONDS}s: $how"
}

# ---------------------------------------------------------------------------------------------------------------------

case "${1:-}" in
  "") versions=() ;;
  --vllm) versions=("$vllm_version") ;;
  --vllm-all) versions=("$vllm_version" "$older_vllm") ;;
  *) die "unknown argument $1; known: --vllm, --vllm-all" ;;
esac
mkdir -p .tools
if command -v flock >/dev/null; then exec 9>.tools/.setup.lock && flock 9; fi # a second call waits for the first
setup_venv
setup_pulumi
for version in "${versions[@]+"${versions[@]}"}"; do
  PYTHON="$repo/.venv/bin/python" scripts/setup_vllm.sh "$version"
done
say "ready: .venv, $(sed -n 's/^/pulumi /;2p' .tools/pulumi.complete)"
