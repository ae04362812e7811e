"""What is wrong before anything is done: one exit code, one line with the remedy, and the same in the comment."""

import json
import re

import pytest

from ops import exits
from ops.report import safe

pytestmark = [pytest.mark.engine, pytest.mark.all]
NOWHERE = "http://127.0.0.1:9"

# what is wrong -> (contexts, config), exit code, what the line says, what it says to do
BY_CONTEXT = {
    "no passphrase": (
        {"secrets.PULUMI_CONFIG_PASSPHRASE": ""},
        exits.SECRET,
        "passphrase must be set",
        "in a pipeline as a secret",
    ),
    "wrong passphrase": (
        {"secrets.PULUMI_CONFIG_PASSPHRASE": "other-one"},
        exits.SECRET,
        "incorrect passphrase",
        "is not this stack's passphrase",
    ),
    "no Vast.ai key": ({"secrets.VAST_API_KEY": ""}, exits.SECRET, "no Vast.ai key", "export VAST_API_KEY=..."),
    "wrong Vast.ai key": (
        {"secrets.VAST_API_KEY": "not-a-key-that-works"},
        exits.SECRET,
        "Vast.ai refuses the key",
        "cloud.vast.ai/manage-keys/",
    ),
    "no backend token": (
        {"vars.PULUMI_BACKEND_URL": "https://api.pulumi.com"},
        exits.SECRET,
        "PULUMI_ACCESS_TOKEN must be set",
        "a backend of your own",
    ),
    "backend away": (
        {"vars.PULUMI_BACKEND_URL": "file:///nowhere/at/all"},
        exits.BUSY,
        "unable to open state directory",
        "check PULUMI_BACKEND_URL",
    ),
    "bucket away": (
        {
            "vars.PULUMI_BACKEND_URL": f"s3://bucket?endpoint={NOWHERE}&region=us-east-1&s3ForcePathStyle=true",
            "secrets.AWS_ACCESS_KEY_ID": "an-id",
            "secrets.AWS_SECRET_ACCESS_KEY": "a-secret-access-key",
        },
        exits.BUSY,
        "connection refused",
        "check PULUMI_BACKEND_URL",
    ),
}
BY_CONFIG = {
    "market without offer": ({"max_dph_usd": "0.001"}, exits.NO_OFFER, "0 of ", "relax the condition"),
    "bad config": ({"prefer": "dearest"}, exits.USAGE, "prefer: is 'dearest'", "Pulumi.<stack>.yaml"),
    "API away": ({"emulator.url": NOWHERE}, exits.BUSY, "cannot reach the Vast.ai API", "emulator.url"),
}


@pytest.fixture(scope="module", autouse=True)
def made(scene):
    scene.stack.init()


def refused(scene, stack, code, says, remedy, **more):
    """Run the pull request's preview; assert exit code, one line, remedy, and the same text in the comment."""
    scene.forge.clear()
    done = scene.job("pull-request", "preview", stack, contexts=more)
    assert done.steps[0] == ("Preview", code), done.log
    assert f"Exit code {code}: {exits.CODES[code]}." in done.log
    # the engine's own diagnostics are indented or stand before a colon; the command's line is the last of its kind
    *_, line = re.findall(r"^error: (.*)$", done.log.partition("--- Comment")[0], re.MULTILINE)
    assert says in line
    assert remedy in line
    (comment,) = scene.forge.texts(7)
    assert safe(says) in comment
    assert remedy.replace("<", "&lt;") in comment
    assert safe(line.split("; ")[0][:300]) in comment
    assert scene.ledger.contracts() == []


@pytest.mark.parametrize("what", BY_CONTEXT)
def test_the_preview_and_its_comment_say_what_is_wrong_with_the_secrets_or_the_backend(scene, what):
    contexts, code, says, remedy = BY_CONTEXT[what]
    refused(scene, "dev", code, says, remedy, **contexts)


@pytest.mark.parametrize("what", BY_CONFIG)
def test_the_preview_and_its_comment_say_what_is_wrong_with_the_config(scene, what, monkeypatch):
    changes, code, says, remedy = BY_CONFIG[what]
    monkeypatch.setitem(scene.env, "VAST_URL", changes.get("emulator.url", scene.env["VAST_URL"]))
    before = {key: scene.stack.config.get(key) for key in changes}
    scene.stack.write_config(changes)
    try:
        refused(scene, "dev", code, says, remedy)
    finally:
        scene.stack.write_config(before)


def test_a_stack_of_another_name_is_refused_and_not_made(scene):
    more = {"vars.PLANS": '["devv"]'}
    refused(scene, "devv", exits.USAGE, "no stack named 'devv' and no Pulumi.devv.yaml", "Pulumi.dev.yaml", **more)


def test_every_rule_that_blocks_is_in_the_line_and_in_the_comment(scene):
    scene.stack.write_limits(rules=["tls-and-guard", "no-bid"], max_disk_gb=10)
    scene.stack.write_config(tls=False, bid="auto")
    try:
        refused(scene, "dev", exits.POLICY, "policy: tls-and-guard: ", "set tls and guard to true")
    finally:
        scene.stack.write_config(tls=None, bid=None)
        scene.stack.write_limits()
    (comment,) = scene.forge.texts(7)
    for rule in ("tls-and-guard", "no-bid", "disk"):
        assert f"policy: {rule}: " in comment


def test_a_lock_of_another_run_stops_a_deploy_and_nothing_is_rented(scene):
    folder = scene.stack.folder / "state/.pulumi/locks/organization/vast-reranker/dev"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "another.json"
    lock.write_text(json.dumps({"pid": 1, "username": "ci", "hostname": "h", "timestamp": "2026-01-01T00:00:00Z"}))
    try:
        done = scene.job("deploy", "dev")
    finally:
        lock.unlink()
    assert done.steps[0] == ("Deploy", exits.BUSY), done.log
    assert "currently locked by 1 lock(s)" in done.summary
    assert "remove its lock with `pulumi cancel --stack NAME`" in done.summary
    assert scene.ledger.contracts() == []


def test_a_forge_that_refuses_fails_the_comment_and_not_silently(scene):
    done = scene.job("pull-request", "preview", "dev", contexts={"github.token": "another"})
    assert ("Preview", 0) in done.steps, done.log
    assert ("Comment", 1) in done.steps
    assert done.rc == 1
