# shellcheck shell=bash disable=SC2154
# The environment of `. scripts/env.sh`, which passes its arguments and, in _vr_file, its path. Changes the environment
# and, for the local stack, creates the folder .local/state and the emulator's key in .local/emulator/key.

if [ -n "${BASH_VERSION:-}" ] && [ "$0" = "$_vr_file" ]; then
  echo "env: a command cannot change your shell: source it, \`. scripts/env.sh\`" >&2
  exit 2
fi
_vr_repo="$(CDPATH='' cd "$(dirname "$_vr_file")/.." && pwd)"
_vr_mode="${1:-local}"

# Sets a variable in local mode; in real mode unsets it if it still has the local value.
_vr_set() {
  if [ "$_vr_mode" = local ]; then
    export "$1=$2"
  elif eval "[ \"\${$1:-}\" = \"\$2\" ]"; then
    unset "$1"
  fi
}

# Prints a line; the exit code is not 0 if the environment was not set.
_vr_main() {
  local dir search=":$PATH:"
  case "$_vr_mode" in local | real) ;; *)
    echo "env: unknown mode '$_vr_mode'; known: local (the default), real" >&2
    return 2
    ;;
  esac

  for dir in tools/local .tools/bin .venv/bin; do
    dir=":$_vr_repo/$dir:"
    search="${search//$dir/:}"
  done
  search="${search#:}"
  search="$_vr_repo/.tools/bin:$_vr_repo/.venv/bin:${search%:}"
  if [ "$_vr_mode" = local ]; then search="$_vr_repo/tools/local:$search"; fi
  export PATH="$search" PULUMI_SKIP_UPDATE_CHECK=true VASTAI_NO_UPDATE_CHECK=1
  export PULUMI_PARALLEL="${PULUMI_PARALLEL:-128}" # all replicas boot at once; the engine's default is four per core

  # no proxy for Pulumi's processes, the emulator and the demo's servers, which are on this machine
  local loopback=127.0.0.1,localhost
  case ",${NO_PROXY:-},${no_proxy:-}," in *",$loopback,"*) ;; *)
    loopback="$loopback${NO_PROXY:+,$NO_PROXY}${no_proxy:+,$no_proxy}"
    export NO_PROXY="$loopback" no_proxy="$loopback"
    ;;
  esac

  _vr_set PULUMI_BACKEND_URL "file://$_vr_repo/.local/state?metadata=skip"
  _vr_set PULUMI_HOME "$_vr_repo/.local/pulumi-home"
  _vr_set PULUMI_CONFIG_PASSPHRASE local # public: it protects only the state of an emulator's stack
  _vr_set VAST_URL "http://127.0.0.1:${EMULATOR_PORT:-$(cat "$_vr_repo/.local/emulator.port" 2>/dev/null || echo 8585)}"

  case "${VAST_API_KEY:-}" in emulator-*) unset VAST_API_KEY ;; esac # the key of an emulator
  if [ "$_vr_mode" = local ]; then
    local key="$_vr_repo/.local/emulator/key"
    mkdir -p "$_vr_repo/.local/state" "${key%/*}" # Pulumi does not create its folder
    if [ ! -s "$key" ]; then
      (umask 077 && od -An -N 24 -tx1 /dev/urandom | tr -d ' \n' | sed 's/.*/emulator-&/' >"$key")
    fi
    VAST_API_KEY="$(cat "$key")"
    export VAST_API_KEY
    echo "env: LOCAL: Pulumi's state in .local/state, Vast.ai is the emulator at $VAST_URL" >&2
  elif [ -n "${VAST_API_KEY:-}" ]; then
    echo "env: REAL: rents on Vast.ai with your VAST_API_KEY; your own Pulumi backend and passphrase" >&2
  else
    echo "env: REAL: your own Pulumi backend and passphrase; VAST_API_KEY is not set" >&2
  fi
  [ -z "${PYTHONSAFEPATH:-}" ] || echo "env: PYTHONSAFEPATH is set: scripts of examples/ cannot import each other; unset it to run them" >&2
  [ -z "${PYTHONPATH:-}" ] || echo "env: PYTHONPATH is set: its packages come before this project's; if pip or pulumi fails, unset it" >&2
  [ -x "$_vr_repo/.tools/bin/pulumi" ] || echo "env: the tools are not installed yet: make setup" >&2
}

if _vr_main; then _vr_mode=0; else _vr_mode=$?; fi
unset -f _vr_set _vr_main
unset _vr_shell _vr_file _vr_repo
# Return the exit code and unset its variable.
eval "unset _vr_mode; (exit $_vr_mode)"
