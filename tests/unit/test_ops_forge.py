"""Comments and issues are found again, changed in place and closed, on both forges; a mark alone is not trusted."""

import os
import subprocess
import sys

import pytest

from harness.stack import REPO
from ops import exits
from ops.forge import PAGE, marked
from tests.pipelines.fake_forge import FakeForge

PLATFORMS = ("github", "gitlab")


@pytest.fixture(params=PLATFORMS)
def forge(request):
    with FakeForge() as server:
        names = {
            "github": {"GITHUB_REPOSITORY": "a/b", "GITHUB_API_URL": server.url, "GITHUB_TOKEN": server.token},
            "gitlab": {"CI_PROJECT_ID": "5", "CI_API_V4_URL": server.url, "GITLAB_TOKEN": server.token},
        }
        server.env = names[request.param] | {"PATH": os.environ["PATH"], "GITHUB_ACTIONS": "true"}
        yield server


@pytest.fixture
def text(tmp_path):
    return tmp_path / "text.md"


def ops(forge, *args):
    done = subprocess.run(
        [sys.executable, "-m", *args], cwd=REPO, env=forge.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert forge.token not in done.stdout + done.stderr
    return done


def comment(forge, text, body, key="preview-dev"):
    text.write_text(body)
    return ops(forge, "ops.comment", "--number", "7", "--key", key, "--file", str(text))


def issue(forge, text, rc, body="found"):
    text.write_text(body)
    return ops(forge, "ops.issue", "--key", "drift-dev", "--title", "Drift", "--rc", str(rc), "--file", str(text))


def test_a_comment_is_changed_in_place_even_behind_a_hundred_others(forge, text):
    for _ in range(PAGE):
        forge.add_comment(7, "chatter")
    assert comment(forge, text, "first").returncode == 0
    assert comment(forge, text, "other", key="review").returncode == 0
    assert comment(forge, text, "second").returncode == 0
    mine = [body for body in forge.texts(7) if body != "chatter"]
    assert mine == [marked("preview-dev", "second"), marked("review", "other")]


def test_an_issue_is_opened_once_updated_and_closed(forge, text):
    assert issue(forge, text, 0).returncode == 0
    assert forge.issues == {}
    for body in ("first", "second"):
        assert issue(forge, text, exits.DRIFT, body).returncode == 0
    (one,) = forge.open_issues()
    assert one["body"] == marked("drift-dev", "second")
    assert issue(forge, text, exits.BUSY, "cannot tell").returncode == 0
    assert forge.open_issues() == [one]
    assert issue(forge, text, 0, "in sync").returncode == 0
    assert forge.open_issues() == []
    assert "in sync" in one["comments"][0]


def test_two_issues_of_one_key_become_one(forge, text):
    issue(forge, text, exits.DRIFT)
    (one,) = forge.open_issues()
    forge.issues[99] = {**one, "comments": []}
    issue(forge, text, exits.DRIFT, "again")
    assert forge.open_issues() == [forge.issues[1]]


def test_a_wrong_token_names_the_right_that_is_needed(forge, text):
    real, forge.token = forge.token, "another-token"
    done = comment(forge, text, "x")
    forge.token = real
    assert done.returncode == exits.SECRET
    assert "pull-requests: write" in done.stderr


def test_a_mark_that_a_person_wrote_on_github_is_not_taken_for_ones_own(text):
    with FakeForge() as forge:
        forge.env = {
            "GITHUB_REPOSITORY": "a/b", "GITHUB_API_URL": forge.url, "GITHUB_TOKEN": forge.token,
            "GITHUB_ACTIONS": "true", "PATH": os.environ["PATH"],
        }  # fmt: skip
        forge.add_comment(7, marked("preview-dev", "mine?"), user="User")
        comment(forge, text, "real")
        assert forge.texts(7) == [marked("preview-dev", "mine?"), marked("preview-dev", "real")]


def test_without_a_forge_the_command_says_what_to_set(text):
    with FakeForge() as forge:
        forge.env = {"PATH": os.environ["PATH"]}
        done = comment(forge, text, "x")
    assert done.returncode == exits.USAGE
    assert "GITHUB_REPOSITORY" in done.stderr
