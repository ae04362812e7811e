#!/usr/bin/env bash
# Runs the local Vast.ai in the background: scripts/emulator.sh start|stop. Called by demo.sh and `make
# demo-down`; `make emulator` runs the same in the foreground instead. Safe to repeat.
# EMULATOR_PORT (where it was last started here, else 8585) and EMULATOR_RUNTIME (vllm; stub and none need no vLLM) change
# what is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runtime="${EMULATOR_RUNTIME:-vllm}"
pid_file=.local/emulator.pid   # the process's id and start time: an id alone may long be another process's
port_file=.local/emulator.port # read by environment.sh too, so that every shell in this folder asks the same emulator
port="${EMULATOR_PORT:-$(cat "$port_file" 2>/dev/null || echo 8585)}"
log=.local/emulator.log
ready_within_s=60
stopped_within_s=30

say() { echo "emulator: $*"; }
die() { echo "emulator: $*" >&2; exit 1; }

command_line() {
  if [ "$runtime" = vllm ] && [ ! -x .tools/vllm-0.32.0/bin/python ]; then die "no vLLM yet: scripts/setup.sh demo"; fi
  unset EMULATOR_API_KEYS # the key is that of the folder, which scripts/env.sh reads
  command=(.venv/bin/python -m emulator --port "$port" --runtime "$runtime" --time scaled --state .local/emulator
    --vllm-python .tools/vllm-0.32.0/bin/python --models .tools/models.json --keep-containers)
}

start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20; }

# The id of the emulator that this script started, if that very process still lives.
running() {
  local pid started
  read -r pid started 2>/dev/null <"$pid_file" || return 1
  kill -0 "$pid" 2>/dev/null || return 1
  [ "$(start_time "$pid")" = "$started" ] || return 1
  case "$(ps -o args= -p "$pid")" in *" -m emulator "*) echo "$pid" ;; *) return 1 ;; esac
}

start() {
  local pid command deadline=$((SECONDS + ready_within_s))
  if pid="$(running)"; then
    if [ "$port" = "$(cat "$port_file")" ]; then say "already running (pid $pid)"; return; fi
    die "runs at port $(cat "$port_file") (pid $pid), and not at $port: unset EMULATOR_PORT, or scripts/emulator.sh stop"
  fi
  command_line
  mkdir -p .local
  set -m # a process group of its own, so that ^C on whatever called this does not reach it
  PYTHONUNBUFFERED=1 nohup "${command[@]}" </dev/null >"$log" 2>&1 &
  pid=$!
  set +m
  echo "$pid $(start_time "$pid")" >"$pid_file"
  echo "$port" >"$port_file"
  until grep -q "emulator ready at" "$log"; do
    if ! running >/dev/null; then tail -n 20 "$log" >&2; die "ended before it was ready; its log is $log"; fi
    if [ "$SECONDS" -ge "$deadline" ]; then stop; die "not ready within $ready_within_s s; its log is $log"; fi
    sleep 0.1
  done
  say "$(grep -m 1 "emulator ready at" "$log") (pid $pid, log $log)"
}

stop() {
  local pid deadline=$((SECONDS + stopped_within_s))
  if ! pid="$(running)"; then say "not running"; rm -f "$pid_file"; return; fi
  kill "$pid"
  while running >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || die "pid $pid does not end within $stopped_within_s s of SIGTERM"
    sleep 0.1
  done
  rm -f "$pid_file"
  say "stopped (pid $pid)"
}

case "${1:-}" in
  start | stop) "$1" ;;
  foreground) command_line && exec "${command[@]}" ;;
  *) die "usage: scripts/emulator.sh start|stop|foreground" ;;
esac
