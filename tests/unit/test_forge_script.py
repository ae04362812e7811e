"""scripts/forge.sh: comments and issues are found again, changed in place and closed, on both forges."""

import os
import subprocess

import pytest

from harness.stack import REPO
from ops import exits
from tests.pipelines.fake_forge import FakeForge

PLATFORMS = {"github": "GITHUB_REPOSITORY", "gitlab": "CI_PROJECT_ID"}


@pytest.fixture(params=PLATFORMS)
def forge(request, tmp_path):
    made = FakeForge(tmp_path / "forge")
    where = {"github": {"GITHUB_REPOSITORY": "a/b"}, "gitlab": {"CI_PROJECT_ID": "5"}}[request.param]
    made.env = {**where, "GH_TOKEN": made.token, "GITLAB_TOKEN": made.token, "PATH": f"{made.bin}:{os.environ['PATH']}"}
    made.platform = request.param
    return made


@pytest.fixture
def file(tmp_path):
    return tmp_path / "text.md"


def run(forge, *words):
    command = [str(REPO / "scripts" / "forge.sh"), *map(str, words)]
    done = subprocess.run(command, env=forge.env, capture_output=True, text=True, timeout=60, check=False)
    assert forge.token not in done.stdout + done.stderr
    return done


def comment(forge, file, text, key="preview-dev"):
    file.write_text(text)
    return run(forge, "comment", 7, key, file)


def issue(forge, file, rc, text="found"):
    file.write_text(text)
    done = run(forge, "issue", "drift-dev", "Drift in dev", "drift", rc, file)
    assert done.returncode == 0, done.stderr


def marked(key, text):
    return f"<!-- vast-reranker: {key} -->\n{text}"


def test_a_comment_is_changed_in_place_even_behind_a_hundred_others(forge, file):
    for _ in range(101):
        forge.add_comment(7, "chatter")
    for text, key in (("first", "preview-dev"), ("other", "review"), ("second", "preview-dev")):
        done = comment(forge, file, text, key)
        assert done.returncode == 0, done.stderr
    mine = [body for body in forge.texts(7) if body != "chatter"]
    assert mine == [marked("preview-dev", "second"), marked("review", "other")]


def test_an_issue_is_opened_once_updated_and_closed(forge, file):
    issue(forge, file, exits.OK)
    assert forge.issues == {}
    for text in ("first", "second"):
        issue(forge, file, exits.DRIFT, text)
    (one,) = forge.open_issues()
    assert (one["title"], one["body"], one["labels"]) == ("Drift in dev", marked("drift-dev", "second"), ["drift"])
    issue(forge, file, exits.BUSY, "cannot tell")
    assert forge.open_issues() == [one]
    issue(forge, file, exits.OK, "in sync")
    assert forge.open_issues() == []
    (one,) = forge.issues.values()
    assert one["comments"] == ["Closed: the check finds nothing any more."]


def test_two_issues_of_one_key_become_one(forge, file):
    issue(forge, file, exits.DRIFT)
    body = {"title": "Drift", "body": marked("drift-dev", "found"), "labels[]": "drift"}
    forge.change("POST", ["issues"], body)
    assert len(forge.open_issues()) == 2
    issue(forge, file, exits.DRIFT, "again")
    assert [one["body"] for one in forge.open_issues()] == [marked("drift-dev", "again")]


def test_a_mark_that_a_person_wrote_is_not_taken_for_ones_own_where_the_forge_tells_bots_from_people(forge, file):
    forge.add_comment(7, marked("preview-dev", "mine?"), user="User")
    comment(forge, file, "real")
    theirs = [marked("preview-dev", "mine?")] if forge.platform == "github" else []
    assert forge.texts(7) == [*theirs, marked("preview-dev", "real")]


def test_a_text_that_is_too_long_is_cut(forge, file):
    assert comment(forge, file, "x" * 100_000).returncode == 0
    assert 60_000 < len(forge.texts(7)[0]) < 61_000


def test_a_wrong_token_and_no_forge_fail(forge, file):
    forge.env["GH_TOKEN"] = forge.env["GITLAB_TOKEN"] = "another-token"
    assert "401" in comment(forge, file, "x").stderr
    assert comment(forge, file, "x").returncode != 0
    for name in PLATFORMS.values():
        forge.env.pop(name, None)
    done = comment(forge, file, "x")
    assert done.returncode == exits.USAGE
    assert "GITHUB_REPOSITORY" in done.stderr
