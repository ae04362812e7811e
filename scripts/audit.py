"""`make audit`: whether advisories are known of what is deployed; says so where there was nobody to ask.

    python scripts/audit.py PIP-AUDIT LOCK

Exit codes: 0 none is known, 1 some are, 3 not all could be asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(program: str, lock: str) -> int:
    """Run pip-audit on a lock, print what it found, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json", "-r", lock]
        done = subprocess.run([program, *words, "-o", str(report)], capture_output=True, text=True, check=False)
        if not report.exists() or not report.read_text():
            last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
            print(f"audit: the advisories cannot be reached, so nothing was checked: {last[:300]}", file=sys.stderr)
            return 3
        packages = json.loads(report.read_text())["dependencies"]
    skipped = [one for one in packages if "skip_reason" in one]
    bad = [(one, advisory) for one in packages for advisory in one.get("vulns", ())]
    for one, advisory in bad:
        fixed = ", ".join(advisory["fix_versions"]) or "no version"
        print(f"{one['name']} {one['version']}: {advisory['id']}, fixed in {fixed}")
    if skipped:
        why = f"{len(skipped)} of {len(packages)} packages were not checked, the first: {skipped[0]['skip_reason']}"
        print(f"audit: {why}", file=sys.stderr)
    print(f"audit: {len(packages) - len(skipped)} packages of {lock} checked, {len(bad)} advisories")
    return 1 if bad else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
