"""Which environments a merge deploys, for every list of them that the variable ENVIRONMENTS may hold; and which job
sees which secrets, on GitHub and GitLab, as the table of docs/pipelines.md says."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
ORDER = ("dev", "staging", "prod")
FILES = {path.name: yaml.safe_load(path.read_text()) for path in (REPO / ".github" / "workflows").glob("*.yml")}
JOBS = {name: FILES["deploy.yml"]["jobs"][name] for name in ORDER}
GITLAB = yaml.safe_load((REPO / ".gitlab-ci.yml").read_text())
PAGE = (REPO / "docs" / "pipelines.md").read_text()
SECRETS = {
    "VAST_API_KEY", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
}  # fmt: skip


def deployed(named, failing=()):
    """Return the jobs that run, by GitHub's rule: without a status function in its condition, a job runs only if all
    that it needs has run well; with one, `failure()` is whether a job before it, at any distance, has failed."""
    ran, failed = [], set()
    for name, job in JOBS.items():
        needs = job.get("needs")
        condition = job["if"]
        wanted = (
            re.search(r"contains\(fromJSON\(vars\.ENVIRONMENTS \|\| '\[\"dev\"\]'\), '(\w+)'\)", condition)[1] in named
        )
        if "!failure() && !cancelled() && " in condition:
            runs = not failed
        else:
            runs = needs is None or (needs in ran and needs not in failed)
        if runs and wanted:
            ran.append(name)
            failed |= {name} & set(failing)
    return ran


@pytest.mark.parametrize(
    "named", [list(one) for size in range(4) for one in itertools.combinations(ORDER, size)], ids="-".join
)
def test_each_environment_that_is_named_is_deployed_in_order_and_no_other(named):
    assert deployed(named) == named


def test_what_follows_an_environment_that_failed_is_not_deployed():
    assert deployed(ORDER, failing=["dev"]) == ["dev"]
    assert deployed(["dev", "prod"], failing=["dev"]) == ["dev"]


# ---- which job sees which secrets ----------------------------------------------------------------------------------


def documented():
    """Return the table: by job of GitHub, of GitLab, for what it runs and in which environment."""
    rows = re.findall(r"^\| `([\w.-]+: [\w-]+)` \| (.+?) \| (main|own pull requests|any) \| (.+?) \|$", PAGE, re.M)
    return {
        job: (re.findall(r"`([\w-]+)`", gitlab), runs, environment.strip("`"))
        for job, gitlab, runs, environment in rows
    }


def seen_by(job):
    """Return the secrets of the forge that a job of GitHub names, at whatever depth."""
    return set(re.findall(r"secrets\.(\w+)", yaml.safe_dump(job)))


def environment_of(job):
    found = job.get("environment")
    return (found["name"] if isinstance(found, dict) else found) or "none"


def runs_for(job):
    condition = str(job.get("if", ""))
    if (
        re.search(r"(^|&& )github\.ref == 'refs/heads/main'( &&|$)", condition)
        and "||" not in condition.partition("vars.")[0]
    ):
        return "main"
    people = (
        "github.event.pull_request.head.repo.full_name == github.repository",
        "github.event.pull_request.user.type == 'User' && github.event.sender.type == 'User'",
        "!contains(fromJSON(vars.BOTS || '[]'), github.event.pull_request.user.login)",
    )
    return "own pull requests" if all(f"&& {one}" in f"&& {condition}" for one in people) else "any"


def test_the_table_of_jobs_and_environments_is_that_of_the_workflows():
    jobs = {f"{name}: {job}": body for name, file in FILES.items() for job, body in file["jobs"].items()}
    found = {name: (runs_for(body), environment_of(body)) for name, body in jobs.items()}
    assert found == {name: (runs, environment) for name, (_, runs, environment) in documented().items()}
    for name, body in jobs.items():
        assert seen_by(body) == (set() if environment_of(body) == "none" else SECRETS), name
        assert not seen_by(body) or runs_for(body) != "any", name
    for file in FILES.values():
        assert not seen_by({key: value for key, value in file.items() if key != "jobs"})


def test_no_job_of_a_pull_request_shares_an_environment_with_one_that_sees_prod():
    by_runs = {}
    for _, runs, environment in documented().values():
        by_runs.setdefault(runs, set()).add(environment)
    assert by_runs["own pull requests"] == {"pull-request", "review"}
    assert by_runs["main"] == {"plan", "watch", "review", *ORDER}
    assert by_runs["any"] == {"none"}


BOT = "$GITLAB_USER_LOGIN =~ /(^|[-_])bot([-_]|$)|renovate|dependabot/i"
FOREIGN = '$CI_PIPELINE_SOURCE != "merge_request_event" || $CI_MERGE_REQUEST_SOURCE_PROJECT_ID != $CI_PROJECT_ID'


def gitlab_job(name):
    """Return a job with what it extends."""
    body = GITLAB[name] if isinstance(GITLAB[name], dict) else {}
    return {**(gitlab_job(body["extends"]) if "extends" in body else {}), **body}


def gitlab_runs_for(job):
    rules = job["rules"]
    if all(rule["if"].startswith("$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && ") for rule in rules):
        return "main"
    never = [rule["if"] for rule in rules if rule.get("when") == "never"]
    return "own pull requests" if never == [FOREIGN, BOT] == [rule["if"] for rule in rules[:2]] else "any"


def test_gitlab_has_the_same_table():
    names = [name for name in GITLAB if name[0] != "." and "script" in gitlab_job(name)]
    told = {one: (runs, where) for gitlab, runs, where in documented().values() for one in gitlab}
    assert set(told) == set(names)
    for name in names:
        job = gitlab_job(name)
        environment = environment_of(job).partition("/")[0]  # review/7: the variables of review/*
        assert (gitlab_runs_for(job), environment) == told[name], name
