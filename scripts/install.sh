#!/usr/bin/env bash
# Installs a locked set of packages into a venv, and creates the venv if needed:
#   scripts/install.sh VENV SET [PART...]      SET: a file requirements/SET.lock; PART: sets that it contains
# pip checks every archive against the lock's hashes, and installs only packages of the lock. Does nothing if this lock
# is already installed. Called by setup.sh and lock.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$(dirname "$1")"
venv="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
if [ -d "$venv" ]; then venv="$(cd "$venv" && pwd -P)"; fi # resolve a link
locks="${LOCKS:-requirements}" # folder of the locks; tests use others
shift

log() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

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

# A set's stamp contains its lock and the venv's path, because a moved venv does not work.
contents() { echo "$venv"; cat "$locks/$1.lock"; }
is_installed() { [ -x "$venv/bin/python" ] && contents "$1" | cmp -s - "$venv/.installed-$1"; }
stamp() { contents "$1" >"$venv/.installed-$1"; }

pip_install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
    --require-hashes -r "$locks/$1.lock" || die "requirements/$1.lock could not be installed into $venv: see above"
}

are_installed() { local set; for set in "$@"; do is_installed "$set" || return 1; done; }
if are_installed "$@"; then exit 0; fi
SECONDS=0
if ! grep -qsF "$venv/bin/python" "$venv/bin/pip"; then
  python="$(find_python)"
  log "creating $venv with $("$python" --version)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
for installed in "$venv"/.installed-*; do # this installation may change packages of other sets
  case "$installed" in *-pip | *-checkout) ;; *) rm -f "$installed" ;; esac
done
if ! is_installed pip; then
  pip_install pip
  stamp pip
fi
log "requirements/$1.lock into $venv"
pip_install "$1"
for part in "$@"; do stamp "$part"; done
log "$1: $("$venv/bin/python" -m pip list --format freeze --disable-pip-version-check | wc -l) packages, $(du -sm "$venv" | cut -f 1) MB after ${SECONDS}s"
