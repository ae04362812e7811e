# shellcheck shell=bash disable=SC2154
# A shell in which `pulumi`, `vastai` and `python` are this project's. To be sourced, from bash or zsh, in any folder:
#   . scripts/env.sh         they work on the local stack: the emulator on this machine, no account, no cost
#   . scripts/env.sh real    they work on whatever you are logged in to: only PATH is set
# Also used by the Makefile and demo.sh. What it does is in environment.sh: fish, whose `string` is no other shell's,
# reads a file whole before it runs a line of it, so that this one has nothing that it cannot read.

string length --quiet fish 2>/dev/null || eval '_vr_shell="${BASH_VERSION:-}${ZSH_VERSION:-}"'
test -n "$_vr_shell" || echo "env: scripts/env.sh is for bash and zsh, and this shell is neither: start one of them, and source it there" >&2
test -n "$_vr_shell" || return 2
eval 'if [ -n "${BASH_VERSION:-}" ]; then _vr_file="${BASH_SOURCE[0]}"; else eval "_vr_file=\${(%):-%x}"; fi'
eval '. "$(dirname "$_vr_file")/environment.sh"'
