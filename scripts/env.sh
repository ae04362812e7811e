# shellcheck shell=bash disable=SC2154
# Sets up a shell for this project's `pulumi`, `vastai` and `python`. Source it from bash or zsh, in any folder:
#   . scripts/env.sh         for the local stack: the emulator on this machine, no account, no cost
#   . scripts/env.sh real    for your own backend and account: sets only PATH
# Also used by the Makefile and demo.sh. The code is in environment.sh, because fish parses a whole file before it runs
# the first line; this file has only syntax that fish accepts. Only fish has a command `string`.

string length --quiet fish 2>/dev/null || eval '_vr_shell="${BASH_VERSION:-}${ZSH_VERSION:-}"'
test -n "$_vr_shell" || echo "env: scripts/env.sh is for bash and zsh, and this shell is neither: start one of them, and source it there" >&2
test -n "$_vr_shell" || return 2
eval 'if [ -n "${BASH_VERSION:-}" ]; then _vr_file="${BASH_SOURCE[0]}"; else eval "_vr_file=\${(%):-%x}"; fi'
eval '. "$(dirname "$_vr_file")/environment.sh"'
