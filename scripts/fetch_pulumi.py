"""Fetch the official Pulumi archive, check it against the published checksums and unpack its programs into a folder.

Called by scripts/setup.sh: `fetch_pulumi.py v3.259.0 FOLDER`. Exit code 0: done; 3: the archive cannot be reached or
does not exist for this machine, which is no error, as the CLI can be built instead; 1: what came is not what was
published. PULUMI_ARCHIVE_URL names a mirror.
"""

import hashlib
import io
import os
import platform
import shutil
import sys
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

ARCHIVE_URL = os.environ.get("PULUMI_ARCHIVE_URL", "https://get.pulumi.com/releases/sdk").rstrip("/")
FIRST_TIMEOUT_S = 5  # a machine without a way out should learn so at once
ARCHIVES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
NOT_REACHED = 3


def main(version: str, folder: Path) -> int:
    """Leave the archive's programs in the folder, or say why not."""
    machine = f"{platform.system().lower()}-{ARCHIVES.get(platform.machine().lower(), platform.machine())}"
    name = f"pulumi-{version}-{machine}.tar.gz"
    try:
        checksums = get(f"pulumi-{version.removeprefix('v')}-checksums.txt", FIRST_TIMEOUT_S).decode().split()
        wanted = dict(zip(checksums[1::2], checksums[::2], strict=True))  # "digest  file" a line
        if name not in wanted:
            print(f"setup: {ARCHIVE_URL} publishes no {name}", flush=True)
            return NOT_REACHED
        print(f"setup: fetching {ARCHIVE_URL}/{name} (some 100 MB)", flush=True)
        archive = get(name, timeout_s=60)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not checksums, but some gateway's page
        print(f"setup: {ARCHIVE_URL} does not answer as expected ({error})", flush=True)
        return NOT_REACHED
    found = hashlib.sha256(archive).hexdigest()
    if found != wanted[name]:
        print(f"setup: {name} has the SHA-256 {found}, published is {wanted[name]}: not used", file=sys.stderr)
        return 1
    unpack(archive, folder)
    return 0


def get(file: str, timeout_s: float) -> bytes:
    """Body of a file beside the archive."""
    with urllib.request.urlopen(f"{ARCHIVE_URL}/{file}", timeout=timeout_s) as answer:
        body: bytes = answer.read()
        return body


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
