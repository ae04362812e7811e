"""The secret hunt: the whole life of a stack at its loudest, with marked secrets, and then a search of every byte."""

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from emulator.client import ControlClient
from harness.stack import REPO, EngineStack
from harness.wait import until
from ops.engine import SECRET_ENV

pytestmark = pytest.mark.engine
# From -v 9 on the engine itself logs each property that passes through it, in clear (pulumi/sdk, plugin/rpc.go).
LOUD = ("--debug", "--diff", "--logtostderr", "-v", "8")
MARKED = {
    "vast_api_key": "marked-vast-key-5d1f0c9e8b7a",
    "api_key": "marked-client-key-77ab01cd45ef",
    "api_key_previous": "marked-previous-key-19ac83be52",
    "hub_token": "hf_markedHubToken0123456789abcdefgh",
    "image_login": "-u robot -p marked-registry-token-6620 registry.example.org",
}
PASSPHRASE = "marked-passphrase-3e9b1a77"
# how files and secret stores end a value, how a pasted one begins, how Windows ends it
AROUND = ("{}\n", " {}", "{}\r")


class Argv(threading.Thread):
    """Reads the command line of every process of this machine until told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen = set()
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        self.seen.add((entry / "cmdline").read_bytes())
                    except OSError:
                        continue
            self.stop.wait(0.02)


def spellings(secret):
    """Return the forms in which a secret could be written: as it is, and in base64 at each alignment."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    for shift in range(3):
        # what does not depend on the neighbours
        yield base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]


def hits(secrets, data):
    return sorted({name for name, secret in secrets.items() for form in spellings(secret) if form in data})


def files_with(secrets, folder):
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (names := hits(secrets, path.read_bytes())):
            found[str(path.relative_to(folder))] = names
    return found


@pytest.fixture
def emulator(tmp_path):
    """An emulator as people run it, with a log; what it stores is Vast.ai's own, what it logs is not."""
    log, address = tmp_path / "emulator.log", tmp_path / "address"
    command = [sys.executable, "-m", "emulator", "--state", str(tmp_path / "emulator"), "--url-file", str(address)]
    env = os.environ | {"EMULATOR_API_KEYS": MARKED["vast_api_key"]}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPO, stdout=out, stderr=out, env=env)
        try:
            yield until(lambda: address.exists() and address.read_text().strip()), log
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.all
def test_no_secret_is_written_anywhere_in_the_whole_life_of_a_stack(emulator, tmp_path):
    url, log = emulator
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {
        "TMPDIR": str(temporary),
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "VAST_API_KEY": MARKED["vast_api_key"],
        "PULUMI_DEBUG_COMMANDS": "true",
    }
    stack = EngineStack(tmp_path / "stack", url, env=env).init()
    for key, value in MARKED.items():
        done = subprocess.run(
            ["pulumi", "config", "set", "--secret", key, "--stack", stack.name],
            cwd=stack.project, env=stack.env, input=value, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    argv = Argv()
    argv.start()
    said = []

    def run(*args, rc=0):
        done = stack.run(*args)
        said.append(done.text)
        assert done.rc == rc if rc is not None else done.rc != 0, done.text[-3000:]

    def control(path, **body):
        ControlClient(url, MARKED["vast_api_key"]).post(path, **body)

    run("preview", *LOUD, "--save-plan", str(tmp_path / "plan.json"))
    control("faults", kind="exited_at_boot", times=1)
    run("up", "--yes", *LOUD)
    out = stack.outputs()
    headers = {"Authorization": f"Bearer {MARKED['vast_api_key']}"}
    row = requests.get(f"{url}/api/v0/instances/{out['instance_id']}/", headers=headers, timeout=10).json()["instances"]
    contract_env = dict(row["extra_env"])
    control(f"instances/{out['instance_id']}/kill")
    run("preview", "--expect-no-changes", *LOUD, rc=7)
    run("up", "--yes", *LOUD)
    control("faults", kind="lost_answer_after", match={"endpoint": "rent"}, times=1)
    stack.write_config(extra_args=["--no-such-flag"])
    run("up", "--yes", *LOUD, rc=None)  # refused before anything is rented
    control("faults", kind="app_error", times=1)
    stack.write_config(extra_args=["--max-num-seqs", "5"])
    run("up", "--yes", *LOUD, rc=None)  # refused by the server's own log
    stack.write_config(extra_args=None)
    run("up", "--yes", *LOUD)
    run("stack", "export", "--file", str(tmp_path / "export.json"))
    run("stack", "output", "--json")
    run("stack", "history")
    secret_state = stack.run("stack", "export", "--show-secrets").text
    run("destroy", "--yes", *LOUD)
    argv.stop.set()
    argv.join()

    secrets = {"passphrase": PASSPHRASE} | MARKED | made_on_the_way(secret_state, contract_env)
    secrets["image_login"] = "marked-registry-token-6620"
    assert {"reranker-ca", "reranker-own-key", "leaf"} <= set(secrets)
    # the search finds what is there: the state with its secrets shown, and the command lines
    assert set(hits(secrets, secret_state.encode())) >= set(secrets) - {"passphrase", "vast_api_key", "leaf"}
    assert any(b"components" in line or b"pulumi" in line for line in argv.seen)

    assert hits(secrets, "\n".join(said).encode()) == []
    assert hits(secrets, b"\n".join(argv.seen)) == []
    assert hits(secrets, log.read_bytes()) == []
    assert hits(secrets, (tmp_path / "export.json").read_bytes() + (tmp_path / "plan.json").read_bytes()) == []
    for folder in ("stack", "tmp"):
        assert files_with(secrets, tmp_path / folder) == {}, folder


def made_on_the_way(secret_state, contract_env):
    """Return the secrets that nobody gave: the keys in the state, and the one in the container."""
    found = {"leaf": contract_env["TLS_KEY"]}
    for one in json.loads(secret_state)["deployment"]["resources"]:
        for name in ("value", "private_key"):
            held = (one.get("outputs") or {}).get(name)
            if isinstance(held, dict) and "plaintext" in held:
                text = json.loads(held["plaintext"])
                found[one["urn"].rpartition("::")[2]] = text.splitlines()[1] if "PRIVATE" in text else text
    return found


@pytest.mark.all
def test_no_secret_of_the_environment_is_shown_or_refused_for_what_stands_around_it(emulator, tmp_path):
    """By the commands that pipelines run, whose answers they publish; in sync, after a server has died, with a key that
    is none, and while the API sends errors."""
    url, log = emulator
    answer = tmp_path / "answer.md"
    marked = {name: f"marked-{name.lower()}-5d1f0c9e" for name in SECRET_ENV} | {"VAST_API_KEY": MARKED["vast_api_key"]}
    of_config = MARKED | {"notify.webhook": "https://127.0.0.1:1/marked-webhook-91c2"}
    del of_config["vast_api_key"]  # an emulator's comes before the environment's
    secrets = marked | of_config | {"image_login": "marked-registry-token-6620"}
    passphrase = f" {marked['PULUMI_CONFIG_PASSPHRASE']}\r\n"  # Pulumi takes it as it is
    stack = EngineStack(tmp_path / "stack", url, env=marked | {"PULUMI_CONFIG_PASSPHRASE": passphrase}).init()
    for key, value in of_config.items():
        stack.ok("config", "set", "--secret", "--path", key, f" {value}\r\n")
    shown = [stack.ok("up", "--yes").text]

    def ops(*words, env):
        command = [sys.executable, "-m", "ops", *words, "--cwd", str(stack.project), "--markdown", str(answer)]
        done = subprocess.run(command, cwd=REPO, env=env, text=True, capture_output=True, check=False)
        shown.append(done.stdout + done.stderr + answer.read_text())
        return done.returncode

    for around in AROUND:
        env = stack.env | {name: around.format(value) for name, value in marked.items()}
        env["PULUMI_CONFIG_PASSPHRASE"] = passphrase
        assert ops("orphans", "--api-url", url, env=env) == 0, shown[-1]
        assert ops("drift", "--stack", stack.name, env=env) in (0, 7), shown[-1]
        spoilt = env | {"VAST_API_KEY": around.format(f"{marked['VAST_API_KEY']}\x07{marked['VAST_API_KEY']}")}
        assert ops("orphans", "--api-url", url, env=spoilt) == 4, shown[-1]
        ControlClient(url, MARKED["vast_api_key"]).post("faults", kind="http_502_html", times=8)
        assert ops("status", "--stack", stack.name, env=env) != 0, shown[-1]
        ControlClient(url, MARKED["vast_api_key"]).faults_off()
        if around == AROUND[0]:
            ControlClient(url, MARKED["vast_api_key"]).instance(stack.outputs()["instance_id"], "kill")
    assert any("no notice was sent to notify.webhook" in one for one in shown)
    assert ops("destroy", "--stack", stack.name, "--yes", env=env) == 0, shown[-1]
    assert hits(secrets, "\n".join(shown).encode() + log.read_bytes()) == []
    assert files_with(secrets, tmp_path / "stack") == {}
