"""Fetch the official Pulumi archive, check it against a SHA-256 that its user states, unpack it.

Called by scripts/setup.sh: `fetch_pulumi.py v3.259.0 FOLDER`. The sum is taken from PULUMI_ARCHIVE_SHA256, never
from the server that the archive comes from. PULUMI_ARCHIVE_URL names a mirror.
Exit codes: 0 done; 1 refused; 3 not to be had (no sum is stated, or no answer), so the CLI is built from source.
"""

import hashlib
import io
import os
import platform
import shutil
import sys
import tarfile
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

ARCHIVE_URL = os.environ.get("PULUMI_ARCHIVE_URL", "https://get.pulumi.com/releases/sdk").rstrip("/")
TIMEOUT_S = 15  # of the connection and of each read
DEADLINE_S = 600
MAX_BYTES = 500 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
REFUSED, NOT_AVAILABLE = 1, 3


def main(version: str, folder: Path) -> int:
    """Leave the archive's programs in the folder, or say why not."""
    machine = platform.machine().lower()
    name = f"pulumi-{version}-{platform.system().lower()}-{ARCHITECTURES.get(machine, machine)}.tar.gz"
    if not ARCHIVE_URL.startswith("https://"):
        print(f"setup: PULUMI_ARCHIVE_URL is {ARCHIVE_URL}, which is not https: refused", file=sys.stderr)
        return REFUSED
    stated = os.environ.get("PULUMI_ARCHIVE_SHA256", "").strip().lower()
    if not stated:
        print(
            f"setup: no SHA-256 of {name} is stated, so it is not fetched; to use it, set PULUMI_ARCHIVE_SHA256 to the "
            f"sum in pulumi-{version.removeprefix('v')}-checksums.txt of its release",
            flush=True,
        )
        return NOT_AVAILABLE
    print(f"setup: fetching {ARCHIVE_URL}/{name} (some 100 MB)", flush=True)
    try:
        archive = get(f"{ARCHIVE_URL}/{name}")
    except (OSError, HTTPException) as error:
        print(f"setup: {ARCHIVE_URL} does not answer as expected ({error})", flush=True)
        return NOT_AVAILABLE
    came = hashlib.sha256(archive).hexdigest()
    if came != stated:
        print(f"setup: {name} has the SHA-256 {came}, stated is {stated}: refused", file=sys.stderr)
        return REFUSED
    unpack(archive, folder)
    return 0


def get(url: str) -> bytes:
    """Return a body of at most MAX_BYTES that arrives within DEADLINE_S. Raises OSError, HTTPException."""
    deadline, body = time.monotonic() + DEADLINE_S, bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        whole = answer.length
        if not answer.url.startswith("https://"):
            raise OSError(f"redirected to {answer.url}, which is not https")
        while chunk := answer.read(CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BYTES or time.monotonic() > deadline:
                raise OSError(f"more than {MAX_BYTES >> 20} MiB, or longer than {DEADLINE_S} s")
    if whole is not None and len(body) != whole:
        raise OSError(f"cut off after {len(body)} of {whole} bytes")
    return bytes(body)


def unpack(archive: bytes, folder: Path) -> None:
    """Write every program of the archive flat into the folder, whatever folder it has inside."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() else None
            target = folder / Path(member.name).name
            if source and target.name.startswith("pulumi"):
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                target.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
