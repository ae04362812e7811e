#!/usr/bin/env bash
# Lints the CI files: workflows (actionlint, zizmor), their schemas, the GitLab file, and every shell script.
# Called by tests/lint, in a shell prepared by env.sh. actionlint is built once, in the version of tools/actionlint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actionlint=.tools/bin/actionlint
version="$(awk '$1 == "github.com/rhysd/actionlint" { print $2 }' tools/actionlint/go.mod)"

# Its PyPI package downloads a binary, which not every network allows; Go builds it in seconds.
build_actionlint() {
  if [ "$(cat .tools/actionlint.complete 2>/dev/null)" = "$version" ] && [ -x "$actionlint" ]; then return; fi
  if ! command -v go >/dev/null; then
    if [ -n "${CI:-}" ]; then echo "lint: no Go on PATH, which is needed to build actionlint $version" >&2; exit 1; fi
    echo "lint: no Go on PATH: actionlint is skipped here (CI runs it)" >&2
    return
  fi
  echo "lint: building actionlint $version"
  mkdir -p .tools/bin
  (cd tools/actionlint && CGO_ENABLED=0 go build -o ../../.tools/bin/ github.com/rhysd/actionlint/cmd/actionlint) \
    2> >(grep -v "^go: downloading" >&2)
  echo "$version" >.tools/actionlint.complete
}

build_actionlint
if [ -x "$actionlint" ]; then "$actionlint" -shellcheck shellcheck -pyflakes ""; fi
zizmor --offline --persona auditor --quiet --no-progress .
check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
check-jsonschema --quiet --builtin-schema vendor.gitlab-ci .gitlab-ci.yml
shellcheck scripts/*.sh tools/local/vastai .ci/run
