"""The whole pipeline in the order in which a team lives it, by the workflows' own steps, against the emulator."""

import re

import pytest
import requests

from emulator.runtime import free_port
from harness.stack import PASSPHRASE
from tests.pipelines.conftest import HEAL, VAST_KEY, local_stack, pipelines
from tests.unit.webhook import TOKEN, running_webhook

pytestmark = pytest.mark.engine
REVIEW = {"github.event.pull_request.labels.*.name": ["review"], "github.event.action": "labeled"}


@pytest.fixture
def scene(tmp_path):
    with pipelines(tmp_path) as one:
        yield one


@pytest.mark.all
def test_a_change_is_previewed_deployed_watched_healed_and_ended_and_nothing_is_left_billed(scene):
    a_pull_request_shows_plan_offer_and_price(scene)
    what_is_merged_is_deployed(scene)
    with running_webhook(200) as (url, told):
        scene.stack.ok("config", "set", "--secret", "--path", "notify.webhook", url)
        a_host_that_dies_is_one_issue_and_exit_code_7(scene)
        what_drifted_is_healed_and_the_issue_closed(scene, 1)
    assert [re.findall(r"\*(.+?)\*: (\w+)", one["text"]) for one in told] == [
        [("drift", "offline")], [("repaired", "offline")],
    ]  # fmt: skip
    the_end(scene)


@pytest.mark.all
def test_a_change_lives_from_its_pull_request_to_its_end_and_nothing_is_left_billed(scene):
    a_fork_is_previewed_without_secrets(scene)
    a_pull_request_shows_plan_offer_and_price(scene)
    what_is_merged_is_deployed(scene)
    a_change_shows_its_diff_in_the_same_comment(scene)
    a_host_that_dies_is_one_issue_and_exit_code_7(scene)
    what_drifted_is_healed_and_the_issue_closed(scene, 3)
    a_review_stack_lives_and_ends_with_its_label(scene)
    the_nightly_sweep_ends_what_expired_and_what_nobody_knows(scene)
    the_end(scene)


def a_fork_is_previewed_without_secrets(scene):
    port = free_port("127.0.0.1")
    local_stack(scene.checkout, port)
    fork = {"github.event.pull_request.head.repo.full_name": "someone/reranker"}
    assert not scene.job("pull-request", "preview", "dev", contexts=fork).ran
    login = "github.event.pull_request.user.login"
    for bot in ({"github.event.sender.type": "Bot"}, {login: "renovate-of-ours", "vars.BOTS": '["renovate-of-ours"]'}):
        assert not scene.job("pull-request", "preview", "dev", contexts=bot).ran
        assert not scene.job("review", "up", contexts=REVIEW | bot).ran

    env, scene.env = scene.env, scene.env | {"EMULATOR_PORT": str(port)}
    done = scene.job("pull-request", "preview-fork", contexts=fork | {"secrets.VAST_API_KEY": ""})
    scene.env = env
    assert done.rc == 0, done.log
    assert "### `local` preview: " in done.summary
    assert "**Would rent** offer " in done.summary
    assert scene.forge.comments == {}
    assert scene.ledger.contracts() == []


def a_pull_request_shows_plan_offer_and_price(scene):
    done = scene.job("pull-request", "preview", "dev")
    assert done.rc == 0, done.log
    text = scene.comment()
    assert re.search(r"### `dev` preview: \d+ to create", text)
    assert re.search(r"\| per hour \| - \| \$0\.\d{4} \|", text)
    assert re.search(r"\*\*Would rent\*\* offer \d+: .+ on machine \d+, .+, \$0\.\d{4}/h; the download costs \$", text)
    assert "Offers considered: " in text
    assert "**Policy:** nothing is blocked." in text
    assert text.split("\n", 1)[1].strip() == done.summary.strip()
    assert scene.ledger.contracts() == []


def what_is_merged_is_deployed(scene):
    assert not scene.job("deploy", "staging").ran
    assert not scene.job("deploy", "dev", contexts={"github.ref": "refs/heads/a-branch"}).ran
    done = scene.job("deploy", "plan", "dev")
    assert done.rc == 0, done.log
    assert "**Would rent** offer " in done.summary
    done = scene.job("deploy", "dev")
    assert done.rc == 0, done.log
    out = scene.outputs()
    assert out["url"] in done.summary
    assert "| validation | passed, " in done.summary
    assert scene.ledger.billed() == {out["instance_id"]}
    status = scene.ops("status", "--stack", "dev", "--json", "--all-stacks", "--html", str(scene.checkout / "all.html"))
    page = (scene.checkout / "all.html").read_text()
    assert "every server answers" in page
    assert f"<td>{out['instance_id']}</td>" in page
    assert "pairs in flight" in page
    assert page.count("<section") == 3
    (row,) = status["instances"]
    assert row["took_ms"] > 0
    cost = scene.ops("cost", "--stack", "dev", "--json")
    assert {one["instance_id"] for one in cost["contracts"]} == {one["id"] for one in scene.ledger.contracts()}
    assert cost["spent_usd"] == pytest.approx(sum(cost["charged_usd"].values()), abs=0.02)
    assert cost["hourly_usd"] == pytest.approx(out["hourly_cost_usd"]["total"], abs=1e-4)
    assert (row["instance_id"], row["state"], status["exit_code"]) == (out["instance_id"], "running", 0)
    assert row["hourly_cost_usd"] == pytest.approx(out["hourly_cost_usd"]["total"], abs=1e-4)
    assert row["contract_end"]


def a_change_shows_its_diff_in_the_same_comment(scene):
    scene.stack.write_config(disk_gb=45)
    done = scene.job("pull-request", "preview", "dev")
    assert done.rc == 0, done.log
    text = scene.comment()
    assert "1 to replace" in text
    assert "disk_gb: 40 -> 45" in text
    assert re.search(r"\| per hour \| \$0\.\d{4} \| \$0\.\d{4} \([+-]0\.\d{4}\) \|", text)
    scene.stack.write_config(disk_gb=None)


def a_host_that_dies_is_one_issue_and_exit_code_7(scene):
    assert scene.job("drift", "drift", "dev").rc == 0
    assert scene.forge.issues == {}
    scene.host("die")
    done = scene.job("drift", "drift", "dev")
    assert done.rc == 7, done.log
    assert done.outputs["drift.rc"] == "7"
    (issue,) = scene.forge.open_issues()
    assert issue["title"] == "Drift in dev"
    assert "offline: instance" in issue["body"]
    assert re.search(r"First seen 20\d\d-\d\d-\d\d \d\d:\d\d UTC, .+ ago\.", issue["body"])
    assert "Repair: `python -m ops heal --stack dev`" in issue["body"]


def what_drifted_is_healed_and_the_issue_closed(scene, times):
    drifts = (
        (lambda: None, "offline: instance"),
        (lambda: scene.host("change-port"), "address: moved from "),
        (scene.destroy_by_hand, "gone: reranker ("),
    )
    for disturb, says in drifts[:times]:
        disturb()
        done = scene.job("drift", "drift", "dev", contexts=HEAL)
        assert done.rc == 0, done.log
        assert scene.forge.open_issues() == []
        *_, last = scene.forge.issues.values()
        assert says in last["body"], last
        assert "Closed: the check finds nothing any more." in last["comments"][0]
        assert scene.ledger.billed() == {scene.outputs()["instance_id"]}
    assert len(scene.forge.issues) == times  # one each, however often it was looked at


def a_review_stack_lives_and_ends_with_its_label(scene):
    mine = scene.outputs()["instance_id"]
    assert not scene.job("review", "down", contexts=REVIEW).ran
    done = scene.job("review", "up", contexts=REVIEW)
    assert done.rc == 0, done.log
    reviewed = scene.outputs("review-7")["instance_id"]
    assert scene.ledger.billed() == {mine, reviewed}
    (text,) = [text for text in scene.forge.texts(7) if "vast-reranker: review" in text]
    assert "### `review-7` review create: " in text
    assert "Expires 20" in text

    (scene.checkout / "Pulumi.review-7.yaml").unlink()  # every job has a checkout of its own
    ended = {"github.event.action": "closed"}
    assert not scene.job("review", "up", contexts={**REVIEW, **ended}).ran
    done = scene.job("review", "down", contexts=ended)
    assert done.rc == 0, done.log
    assert scene.ledger.billed() == {mine}
    (text,) = [text for text in scene.forge.texts(7) if "vast-reranker: review" in text]
    assert f"1 instance destroyed: {reviewed}; " in text


def the_nightly_sweep_ends_what_expired_and_what_nobody_knows(scene):
    mine = scene.outputs()["instance_id"]
    done = scene.job("review", "up", contexts={**REVIEW, "vars.REVIEW_TTL_H": "0"})
    assert done.rc == 0, done.log
    (scene.checkout / "Pulumi.review-7.yaml").unlink()
    stray = rented_by_hand(scene)
    assert len(scene.ledger.billed()) == 3

    at_once = {"vars.ORPHAN_MIN_AGE_MIN": "0"}
    done = scene.job("orphans", "expire")
    assert done.rc == 0, done.log
    assert "1 expired and destroyed" in done.summary
    done = scene.job("orphans", "sweep", contexts=at_once)
    assert done.rc == 3, done.log
    assert scene.ledger.billed() == {mine, stray}
    (issue,) = scene.forge.open_issues()
    assert f"instance {stray}: " in issue["body"]

    done = scene.job("orphans", "sweep", contexts=at_once | {"vars.DESTROY_ORPHANS": "true"})
    assert done.rc == 0, done.log
    assert scene.forge.open_issues() == []
    assert scene.ledger.billed() == {mine}


def rented_by_hand(scene):
    """Leave an instance with a label of this project's, as a state that was lost does."""
    headers = {"Authorization": f"Bearer {VAST_KEY}"}
    (known,) = [one for one in scene.ledger.contracts() if one["id"] == scene.outputs()["instance_id"]]
    label = re.sub(r"@\w+:", "@0badc0de:", known["label"])
    found = requests.post(f"{scene.market.url}/api/v0/bundles/", json={"limit": 5}, headers=headers, timeout=10).json()
    body = {"image": "vllm/vllm-openai:v0.19.1", "disk": 40, "label": label, "runtype": "args", "client_id": "me"}
    url = f"{scene.market.url}/api/v0/asks/{found['offers'][0]['id']}/"
    answer = requests.put(url, json=body, headers=headers, timeout=10)
    assert answer.ok, answer.text
    return answer.json()["new_contract"]


def the_end(scene):
    key = scene.outputs()["api_key"]
    rented = scene.ledger.billed()
    refused = scene.ops("destroy", "--stack", "dev", "--json")
    assert (refused["exit_code"], refused["remedy"]) == (2, "add --yes")
    assert scene.ledger.billed() == rented
    done = scene.ops("destroy", "--stack", "dev", "--yes", "--remove", "--json")
    assert (done["exit_code"], set(done["instances"]), done["removed"]) == (0, rented, True)
    assert scene.ledger.billed() == set()
    seen = scene.logs + "".join(scene.forge.written)
    for secret in (key, VAST_KEY, PASSPHRASE, scene.forge.token, TOKEN):
        assert secret not in seen
