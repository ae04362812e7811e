"""What the pipelines' files promise: pinned actions, no cancelled up, deadlines that fit, commands that exist."""

import importlib
import re
import shlex

import pytest
import yaml

from components.config import Config
from harness.stack import REPO
from ops import exits
from tests.pipelines import workflow

FILES = sorted(path.name for path in workflow.WORKFLOWS.glob("*.yml"))
SCRIPTS = {
    **{name: (workflow.WORKFLOWS / name).read_text() for name in FILES},
    ".gitlab-ci.yml": (REPO / ".gitlab-ci.yml").read_text(),
}
RENTING = re.compile(r"-m ops\.(deploy|heal)\b|-m ops\.review create")
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
        assert ("pull-requests" in granted) == ("ops.comment" in runs), f"{name} {job}"
        assert ("issues" in granted) == ("ops.issue" in runs), f"{name} {job}"
        assert granted <= {"contents", "pull-requests", "issues"}
        assert body["permissions"]["contents"] == "read"


def commands(text):
    """Return the `python -m ops.X ...` commands of a file, as words."""
    joined = re.sub(r"\\+\n\s*", " ", text)
    found = re.findall(r"python -m ops\.(\w+) ([^\n]*)", joined)
    for name, rest in found:
        bare = re.split(r" \|\| |\"\)|$", rest.replace("${flags[@]}", "--all-stacks"))[0]
        yield name, [re.sub(r"\$\{?[\w.]+\}?", "7", word) for word in shlex.split(bare)]


def ended(name, words, capsys):
    """Give words to a command that ends before it does anything; return its exit code and what it printed."""
    module = importlib.import_module(f"ops.{name}")
    main = module.COMMAND.main if hasattr(module, "COMMAND") else module.main
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    return stopped.value.code, printed.out + printed.err


@pytest.mark.parametrize("file", [file for file, text in SCRIPTS.items() if "python -m ops." in text])
def test_every_ops_command_in_a_pipeline_file_is_one_that_the_command_takes(file, capsys):
    asked = list(commands(SCRIPTS[file]))
    assert asked
    for name, words in asked:  # argparse judges all that it knows before it refuses a flag that it does not
        code, text = ended(name, [*words, "--no-such-flag"], capsys)
        assert code == exits.USAGE
        assert text.endswith("error: unrecognized arguments: --no-such-flag\n"), f"{name} {words}: {text}"


def test_all_platforms_call_the_same_commands():
    called = {file: {name for name, _ in commands(text)} for file, text in SCRIPTS.items()}
    github = set().union(*(called[name] for name in FILES))
    assert called[".gitlab-ci.yml"] == github


def test_the_documented_exit_codes_are_the_codes():
    table = dict(re.findall(r"^\| (\d) \| (.*?) \|$", (REPO / "docs" / "pipelines.md").read_text(), re.MULTILINE))
    assert table == {str(code): meaning for code, meaning in exits.CODES.items()}


@pytest.mark.parametrize("name", ["preview", "deploy", "drift", "heal", "destroy", "orphans", "status", "review"])
def test_every_command_tells_its_exit_codes(name, capsys):
    code, text = ended(name, ["--help"], capsys)
    assert code == 0
    assert exits.table() in text
