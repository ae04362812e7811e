#!/usr/bin/env bash
# Lints what runs in CI: workflows (actionlint, zizmor), their schemas, the GitLab file, and every shell script.
# Called by tests/lint, in a shell prepared by env.sh. actionlint is built once from the version in tools/actionlint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actionlint=.tools/bin/actionlint
version="$(awk '$1 == "github.com/rhysd/actionlint" { print $2 }' tools/actionlint/go.mod)"

# Its PyPI package fetches a binary at install time, which not every machine can; Go builds it in seconds.
build_actionlint() {
  if [ "$(cat .tools/actionlint.complete 2>/dev/null)" = "$version" ] && [ -x "$actionlint" ]; then return; fi
  if ! command -v go >/dev/null; then
    if [ -n "${CI:-}" ]; then echo "lint: actionlint $version needs Go to be built, and there is none" >&2; exit 1; fi
    echo "lint: no Go on PATH, so .github/workflows is not linted by actionlint here (CI does)" >&2
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
