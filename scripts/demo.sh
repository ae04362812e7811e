#!/usr/bin/env bash
# The demo: installs the tools, starts the local Vast.ai, runs a real `pulumi up` on it, and sends a query with Cohere's
# client and to /score. Called by `make demo`; `scripts/demo.sh down` (`make demo-down`) removes everything again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
  local name="$1" rc=0
  shift
  printf '\n=== %s\n' "$name"
  "$@" || rc=$?
  if [ "$rc" -ne 0 ]; then
    echo "demo: FAILED at '$name' (exit code $rc). Its output is above; 'make demo' continues from here" >&2
    exit "$rc"
  fi
}

up() {
  SECONDS=0
  step "tools" scripts/setup.sh demo
  . scripts/env.sh local
  step "local Vast.ai" scripts/emulator.sh start
  step "stack" pulumi stack select --create local
  step "pulumi up" pulumi up --yes --stack local
  step "rerank with Cohere's client" python examples/cohere_rerank.py --stack local
  step "scores" python examples/score.py --stack local
  cat <<END

=== done in ${SECONDS}s
More commands, in a shell prepared by '. scripts/env.sh':
  pulumi stack output --stack local       url, machine, price, validation; the key with --show-secrets
  pulumi preview --stack local --diff     pending changes: none after an up
  vastai show instances                   the official CLI, on the emulator
  tail -f .local/emulator.log             requests to the emulator
Stop and remove everything: make demo-down
END
}

down() {
  . scripts/env.sh local
  if compgen -G ".local/state/.pulumi/stacks/*/local.json" >/dev/null; then
    step "local Vast.ai" scripts/emulator.sh start # the destroy needs it
    step "pulumi destroy" pulumi destroy --yes --stack local
  fi
  step "stop the local Vast.ai" scripts/emulator.sh stop
}

case "${1:-up}" in
  up | down) "${1:-up}" ;;
  *) echo "usage: scripts/demo.sh [up|down]" >&2; exit 2 ;;
esac
