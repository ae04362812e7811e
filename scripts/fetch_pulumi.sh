#!/usr/bin/env bash
# Downloads the official Pulumi archive, checks its SHA-256, and unpacks its programs:
#   scripts/fetch_pulumi.sh v3.259.0 FOLDER         called by setup.sh
# The user sets the sum in PULUMI_ARCHIVE_SHA256; PULUMI_ARCHIVE_URL names a mirror. Exit codes: 0 done; 1 refused;
# 3 not available (no sum is set, or no answer), so the CLI is built from source.
set -euo pipefail

version="$1" url="${PULUMI_ARCHIVE_URL:-https://get.pulumi.com/releases/sdk}"
case "$(uname -m)" in x86_64 | amd64) cpu=x64 ;; aarch64 | arm64) cpu=arm64 ;; *) cpu="$(uname -m)" ;; esac
name="pulumi-$version-$(uname -s | tr '[:upper:]' '[:lower:]')-$cpu.tar.gz"

refuse() { echo "setup: $*: refused" >&2; exit 1; }
not_available() { echo "setup: $*"; exit 3; }

case "$url" in https://*) ;; *) refuse "PULUMI_ARCHIVE_URL is $url, which is not https" ;; esac
[ -n "${PULUMI_ARCHIVE_SHA256:-}" ] || not_available "no SHA-256 of $name is set, so it is not downloaded; to use it, set" \
  "PULUMI_ARCHIVE_SHA256 to the sum in pulumi-${version#v}-checksums.txt of its release"
archive="$(mktemp)"
trap 'rm -f "$archive"' EXIT
echo "setup: downloading $url/$name (about 100 MB)"
curl --fail --silent --show-error --location --proto =https --connect-timeout 15 --max-time 600 --max-filesize 500M \
  --output "$archive" "${url%/}/$name" 2>&1 || not_available "$url does not answer as expected"
actual="$({ sha256sum "$archive" 2>/dev/null || shasum -a 256 "$archive"; } | cut -d ' ' -f 1)"
[ "$actual" = "$(tr -d '[:space:]' <<<"$PULUMI_ARCHIVE_SHA256" | tr '[:upper:]' '[:lower:]')" ] ||
  refuse "$name has the SHA-256 $actual, expected $PULUMI_ARCHIVE_SHA256"
tar -xzf "$archive" -C "$2" --strip-components=1
