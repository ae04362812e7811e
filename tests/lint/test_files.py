"""No file that a person reads is long, and no link in the docs leads nowhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MOST_LINES = 400
GENERATED = (
    "requirements/*.lock",
    "tests/*/package-lock.json",
    "tools/pulumi/*/go.*",
    "dashboards/*.json",
    "docs/demo.svg",
)


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=REPO, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path and (REPO / path).exists()]


def test_no_file_is_longer_than_400_lines():
    paths = set(tracked()) - set(tracked(*GENERATED))
    counts = {path: len((REPO / path).read_bytes().splitlines()) for path in paths}
    assert {path: count for path, count in counts.items() if count > MOST_LINES} == {}


def test_the_site_builds_without_a_link_that_leads_nowhere_or_to_another_host_for_its_parts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.glob("*.html"):
        assert re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?://[^"' >]+""", page.read_text()) == []


@pytest.mark.parametrize("page", [path for path in tracked("*.md") if not path.startswith("docs/")])
def test_a_page_outside_the_site_links_only_to_files_that_exist(page):
    text = (REPO / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not (REPO / page).parent.joinpath(target).exists()] == []


def test_every_text_is_checked_out_with_the_ends_of_lines_that_it_is_committed_with():
    command = ["git", "check-attr", "eol", *tracked()]
    checked = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert [line for line in checked.stdout.splitlines() if not line.endswith("eol: lf")] == []
