#!/usr/bin/env bash
# Runs the local Vast.ai in the background: scripts/emulator.sh start|stop. Called by demo.sh and `make demo-down`;
# `make emulator` runs it in the foreground. Safe to repeat.
# Variables: EMULATOR_PORT (default: the last port in this folder, else 8585), EMULATOR_RUNTIME (default: vllm; stub and
# none need no vLLM).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runtime="${EMULATOR_RUNTIME:-vllm}"
pid_file=.local/emulator.pid   # process id and start time, because the system reuses ids
port_file=.local/emulator.port # environment.sh also reads it, so that every shell in this folder uses the same emulator
port="${EMULATOR_PORT:-$(cat "$port_file" 2>/dev/null || echo 8585)}"
log_file=.local/emulator.log
ready_within_s=60
stopped_within_s=30

log() { echo "emulator: $*"; }
die() { echo "emulator: $*" >&2; exit 1; }

command_line() {
  if [ "$runtime" = vllm ] && [ ! -x .tools/vllm-0.32.0/bin/python ]; then die "no vLLM yet: scripts/setup.sh demo"; fi
  unset EMULATOR_API_KEYS # the key is in .local/emulator/key, which scripts/env.sh reads
  command=(.venv/bin/python -m emulator --port "$port" --runtime "$runtime" --time scaled --state .local/emulator
    --vllm-python .tools/vllm-0.32.0/bin/python --models .tools/models.json --keep-containers)
}

start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20; }

# Prints the id of the emulator that this script started, if it is still running.
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
    if [ "$port" = "$(cat "$port_file")" ]; then log "already running (pid $pid)"; return; fi
    die "runs on port $(cat "$port_file") (pid $pid), not on $port: unset EMULATOR_PORT, or scripts/emulator.sh stop"
  fi
  command_line
  mkdir -p .local
  set -m # its own process group, so that Ctrl-C does not stop it
  PYTHONUNBUFFERED=1 nohup "${command[@]}" </dev/null >"$log_file" 2>&1 &
  pid=$!
  set +m
  echo "$pid $(start_time "$pid")" >"$pid_file"
  echo "$port" >"$port_file"
  until grep -q "emulator ready at" "$log_file"; do
    if ! running >/dev/null; then tail -n 20 "$log_file" >&2; die "ended before it was ready; its log is $log_file"; fi
    if [ "$SECONDS" -ge "$deadline" ]; then stop; die "not ready within $ready_within_s s; its log is $log_file"; fi
    sleep 0.1
  done
  log "$(grep -m 1 "emulator ready at" "$log_file") (pid $pid, log $log_file)"
}

stop() {
  local pid deadline=$((SECONDS + stopped_within_s))
  if ! pid="$(running)"; then log "not running"; rm -f "$pid_file"; return; fi
  kill "$pid"
  while running >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || die "pid $pid did not stop within $stopped_within_s s after SIGTERM"
    sleep 0.1
  done
  rm -f "$pid_file"
  log "stopped (pid $pid)"
}

case "${1:-}" in
  start | stop) "$1" ;;
  foreground) command_line && exec "${command[@]}" ;;
  *) die "usage: scripts/emulator.sh start|stop|foreground" ;;
esac
