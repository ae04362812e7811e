#!/usr/bin/env bash
# Writes requirements/*.lock: versions and SHA-256 hashes of all packages for requirements.txt and requirements/*.in,
# for Python 3.11 and newer. Called by `make locks` after a change of those files; --upgrade selects newer versions of
# unpinned packages. production and demo take their versions from test, so that deployed versions are tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock() { # source, name of the lock, more arguments
  local source="$1" out="requirements/$2.lock" extra=()
  [ -e "requirements/$2.overrides" ] && extra+=(--overrides "requirements/$2.overrides")
  [ -e "requirements/$2.excludes" ] && extra+=(--excludes "requirements/$2.excludes")
  echo "lock: $out"
  .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --custom-compile-command "make locks" --output-file "$out" "${extra[@]+"${extra[@]}"}" "${@:3}" "$source"
}

scripts/install.sh .tools/uv uv
lock requirements/test.in test "$@"
for set in demo examples clients audit pip uv vllm-0.32.0 vllm-0.19.1; do
  case "$set" in demo) constraint=(-c requirements/test.lock) ;; *) constraint=() ;; esac
  lock "requirements/$set.in" "$set" "${constraint[@]+"${constraint[@]}"}" "$@"
done
lock requirements/applications.in applications --no-deps -c requirements/examples.lock "$@"
lock requirements.txt production -c requirements/test.lock "$@"
