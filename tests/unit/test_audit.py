"""What `make audit` says of pip-audit's report, and that `make sbom` lists what is deployed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
GOOD = {"name": "certifi", "version": "1", "vulns": []}
BAD = {"name": "idna", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]}
UNASKED = {"name": "rich", "skip_reason": "Dependency not found on PyPI"}


def audit(folder, report):
    """Run the script with a program in pip-audit's place that writes a report, or only an error."""
    program = folder / "pip-audit"
    write = f"cat > \"${{@: -1}}\" <<'END'\n{json.dumps({'dependencies': report})}\nEND" if report else ""
    program.write_text(f"#!/bin/bash\n{write}\necho 'ConnectionError: no route' >&2\nexit 1\n")
    program.chmod(0o755)
    command = [sys.executable, str(REPO / "scripts" / "audit.py"), str(program), "a.lock"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("report", "rc", "says"),
    [
        ([GOOD], 0, "1 packages of a.lock checked, 0 advisories"),
        ([GOOD, BAD], 1, "idna 2: PYSEC-1, fixed in 3"),
        ([GOOD, BAD, UNASKED], 1, "1 of 3 packages were not checked"),
        ([UNASKED], 3, "1 of 1 packages were not checked, the first: Dependency not found on PyPI"),
        ([], 3, "cannot be reached, so nothing was checked: ConnectionError: no route"),
    ],
)
def test_what_was_not_checked_is_never_said_to_be_well(tmp_path, report, rc, says):
    done = audit(tmp_path, report)
    assert done.returncode == rc, done.stderr
    assert says in done.stdout + done.stderr


@pytest.mark.all
def test_the_bill_of_materials_has_every_package_of_the_lock_with_its_hashes():
    subprocess.run(["make", "sbom"], cwd=REPO, capture_output=True, timeout=300, check=True)
    found = json.loads((REPO / ".local" / "sbom.json").read_text())
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == ("CycloneDX", "vast-reranker")
    listed = {f"{one['name']}=={one['version']}" for one in found["components"]}
    assert listed == set(
        re.findall(r"^([\w.-]+==[^ ;]+)", (REPO / "requirements" / "production.lock").read_text(), re.M)
    )
    assert all(one["externalReferences"][0]["hashes"] for one in found["components"])
