"""What the pipelines' files promise: pinned actions, no cancelled up, deadlines that fit, commands that exist."""

import re
import shlex

import pytest
import yaml
from click.testing import CliRunner

from components.config import Config
from harness.stack import REPO
from ops import exits
from ops.__main__ import cli
from tests.pipelines import workflow

FILES = sorted(path.name for path in workflow.WORKFLOWS.glob("*.yml"))
SCRIPTS = {
    **{name: (workflow.WORKFLOWS / name).read_text() for name in FILES},
    ".gitlab-ci.yml": (REPO / ".gitlab-ci.yml").read_text(),
}
RENTING = re.compile(r"-m ops (deploy|heal|review create)\b")
SETUP_S = 20 * 60


def jobs():
    return [(name, job, body) for name in FILES for job, body in workflow.load(name)["jobs"].items()]


def longest_up_s():
    """Every machine that may be tried, each up to the last of its deadlines, by default."""
    config = Config()
    stages = ("rented_s", "pulling_s", "starting_s", "port_s", "serving_s")
    return config.max_tries * sum(getattr(config.timeouts, stage) for stage in stages)


def test_every_action_is_pinned_by_commit_and_says_its_version():
    texts = [*SCRIPTS.values(), (REPO / ".github/actions/setup/action.yml").read_text()]
    used = [line.strip() for text in texts for line in text.splitlines() if "uses:" in line]
    assert used
    for line in used:
        assert re.search(r"uses: (\./\.github/actions/\w+$|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$)", line), line


def test_no_expression_stands_in_a_run_step():
    for name, job, step in workflow.all_run_steps():
        assert "${{" not in step["run"], f"{name} {job}"


@pytest.mark.parametrize(("name", "job", "body"), jobs(), ids=lambda one: one if isinstance(one, str) else "")
def test_a_job_that_may_rent_outlasts_every_deadline_and_is_never_cancelled(name, job, body):
    assert "timeout-minutes" in body
    if not any(RENTING.search(step.get("run", "")) for step in body["steps"]):
        return
    assert body["timeout-minutes"] * 60 >= longest_up_s() + SETUP_S
    assert body["concurrency"]["cancel-in-progress"] is False


def test_gitlab_gives_an_up_the_same_time():
    gitlab = yaml.safe_load(SCRIPTS[".gitlab-ci.yml"])
    for name, body in gitlab.items():
        if isinstance(body, dict) and RENTING.search(str(body.get("script"))):
            hours, minutes = re.fullmatch(r"(\d+) hours (\d+) minutes", body["timeout"]).groups()
            assert int(hours) * 3600 + int(minutes) * 60 >= longest_up_s() + SETUP_S, name


def test_workflows_ask_for_no_more_than_they_use():
    for name, job, body in jobs():
        assert workflow.load(name)["permissions"] == {}
        runs = " ".join(step.get("run", "") for step in body["steps"])
        granted = set(body["permissions"])
        assert ("pull-requests" in granted) == ("forge.sh comment" in runs), f"{name} {job}"
        assert ("issues" in granted) == ("forge.sh issue" in runs), f"{name} {job}"
        assert granted <= {"contents", "pull-requests", "issues"}
        assert body["permissions"]["contents"] == "read"


def commands(text):
    """Return the `python -m ops VERB ...` commands of a file, as words."""
    joined = re.sub(r"\\+\n\s*", " ", text)
    for found in re.findall(r"python -m ops ([^\n]*)", joined):
        bare = re.split(r" \|\| |\"\)|$", found.replace("${flags[@]}", "--yes"))[0]
        yield [re.sub(r"\$\{?[\w.]+\}?", "7", word) for word in shlex.split(bare)]


@pytest.mark.parametrize("file", [file for file, text in SCRIPTS.items() if "python -m ops " in text])
def test_every_ops_command_in_a_pipeline_file_is_one_that_the_command_takes(file):
    asked = list(commands(SCRIPTS[file]))
    assert asked
    for words in asked:  # a stack's folder that is none ends it before it does anything
        done = CliRunner().invoke(cli, [*words, "--no-such-flag"])
        assert done.exit_code == exits.USAGE
        assert done.output.strip().endswith("No such option '--no-such-flag'."), f"{words}: {done.output}"


def test_all_platforms_call_the_same_commands():
    called = {file: {words[0] for words in commands(text)} for file, text in SCRIPTS.items()}
    github = set().union(*(called[name] for name in FILES))
    assert called[".gitlab-ci.yml"] == github


def test_the_documented_exit_codes_are_the_codes():
    table = dict(re.findall(r"^\| (\d) \| (.*?) \|$", (REPO / "docs" / "pipelines.md").read_text(), re.MULTILINE))
    assert table == {str(code): meaning for code, meaning in exits.CODES.items()}


def test_every_verb_is_documented_and_tells_its_exit_codes():
    documented = (REPO / "docs" / "pipelines.md").read_text()
    for name, command in cli.commands.items():
        assert f"python -m ops {name}" in documented, name
        if not hasattr(command, "commands"):
            shown = CliRunner().invoke(cli, [name, "--help"]).output
            assert [meaning for meaning in exits.CODES.values() if meaning not in shown] == [], name


def test_the_command_has_a_version_and_a_completion():
    version = CliRunner().invoke(cli, ["--version"])
    assert re.fullmatch(r"vast-reranker \d+\.\d+\.\d+\n", version.output)
    done = CliRunner().invoke(cli, env={"_OPS_COMPLETE": "bash_source"}, prog_name="ops")
    assert "_OPS_COMPLETE=bash_complete" in done.output
