"""`make audit`: check the deployed packages for security advisories.

    python scripts/audit.py PIP-AUDIT LOCK

Exit codes: 0 no advisories, 1 advisories, 3 some packages could not be checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(program: str, lock: str) -> int:
    """Run pip-audit on a lock, print its advisories, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json", "-r", lock]
        done = subprocess.run([program, *options, "-o", str(report)], capture_output=True, text=True, check=False)
        if not report.exists() or not report.read_text():
            last = (done.stderr.strip().splitlines() or ["pip-audit printed no error"])[-1]
            print(f"audit: the advisories cannot be reached, so nothing was checked: {last[:300]}", file=sys.stderr)
            return 3
        packages = json.loads(report.read_text())["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    advisories = [(package, advisory) for package in packages for advisory in package.get("vulns", ())]
    for package, advisory in advisories:
        fixed = ", ".join(advisory["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    if skipped:
        text = f"{len(skipped)} of {len(packages)} packages were not checked, the first: {skipped[0]['skip_reason']}"
        print(f"audit: {text}", file=sys.stderr)
    print(f"audit: {len(packages) - len(skipped)} packages of {lock} checked, {len(advisories)} advisories")
    return 1 if advisories else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
