#!/usr/bin/env bash
# Writes caddy.json, which compose.yaml and kubernetes.yaml mount. Upstreams and model from the command line:
#   examples/gateway/render.sh BAAI/bge-reranker-base 203.0.113.7:41025 203.0.113.9:40112
# Keys and certificates are not in it: Caddy reads them from the files that both mount.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -ge 2 ] || { echo "usage: render.sh MODEL HOST:PORT..." >&2; exit 2; }
model="$1"
shift
upstreams=()
for address in "$@"; do upstreams+=(--upstream "$address"); done
"${PYTHON:-python3}" -m components.caddy render --model "$model" "${upstreams[@]}" \
  --inbound-key-file /run/secrets/inbound_key --upstream-key-file /run/secrets/upstream_key \
  --upstream-ca-file /run/secrets/upstream_ca --cert-file /run/secrets/tls_cert --key-file /run/secrets/tls_key \
  >examples/gateway/caddy.json
echo "examples/gateway/caddy.json: $# upstreams" >&2
