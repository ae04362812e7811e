"""Which environments a merge deploys, for every list of them that the variable ENVIRONMENTS may hold."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
ORDER = ("dev", "staging", "prod")
JOBS = yaml.safe_load((REPO / ".github" / "workflows" / "deploy.yml").read_text())["jobs"]


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
