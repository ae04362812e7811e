"""Every runbook of docs/operations.md and docs/state.md: what it is for happens, and its commands are pasted.

One stack and one shell for all; after each runbook the stack is in sync, and what is billed is what its state knows.
"""

import json
import re
import signal
import time

import pytest
import requests

from emulator.server import EmulatorServer
from harness.pasted import Shell, commands, section
from harness.stack import EMULATOR_KEY, REPO, EngineStack, resources_of
from harness.wait import until
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine
PAGE = "\n".join((REPO / "docs" / name).read_text() for name in ("operations.md", "state.md"))
TITLES = re.findall(r"^## (.+)$", PAGE, re.M)
NOTHING_TO_RUN = {"A model that the catalog does not have", "A policy blocks it", "The API is down, or refuses"}
HEADERS = {"Authorization": f"Bearer {EMULATOR_KEY}"}


class Scene:
    """A stack named as the page names it, its market, and a terminal."""

    def __init__(self, market, stack):
        self.market, self.stack, self.ledger = market, stack, Ledger(market.control)
        for part in ("ops", "emulator"):
            (stack.project / part).symlink_to(REPO / part)
        env = {"VAST_URL": market.url, "PULUMI_SKIP_CONFIRMATIONS": "true", "VASTAI_NO_UPDATE_CHECK": "1"}
        self.shell = Shell(stack.project, stack.env | env)
        self.state = stack.folder / "state" / ".pulumi" / "stacks" / "vast-reranker" / f"{stack.name}.json"

    @property
    def id(self):
        return self.stack.outputs()["instance_id"]

    def instance(self, action, **body):
        self.ledger.control(f"instances/{self.id}/{action}", **body)

    def host(self, action):
        self.ledger.control(f"hosts/{self.stack.outputs()['machine_id']}/{action}")

    def api(self, method, **body):
        url = f"{self.market.url}/api/v0/instances/{self.id}/"
        requests.request(method, url, json=body, headers=HEADERS, timeout=10).raise_for_status()

    def set(self, *words):
        self.shell.ok(f"pulumi config set --path {' '.join(words)} --stack {self.stack.name}")

    def certificate_ends_soon(self):
        state = json.loads(self.state.read_text())
        for one in resources_of(state["checkpoint"]["latest"]):
            if one["type"].endswith(":Instance"):
                one["outputs"]["certificate_expires_at"] = time.time() + 20 * 86400
        self.state.write_text(json.dumps(state))

    def killed_up(self):
        self.set("disk_gb", "45")
        rented = len(self.ledger.contracts())
        process = self.stack.start("up", "--yes", "--skip-preview")
        until(lambda: len(self.ledger.contracts()) > rented)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def cut_off(self):
        self.state.write_text(self.state.read_text()[:12_000])

    def lose(self):
        self.state.unlink()


def twice(scene):
    """A state that is lost with all its copies: the first step of its runbook finds none."""
    scene.lose()
    for part in ("backups", "history"):
        for path in (scene.state.parents[2] / part).rglob("*.json"):
            path.unlink()
    scene.state.with_name(f"{scene.state.name}.bak").unlink()


HAPPENS = {
    "The host died": lambda scene: scene.instance("kill"),
    "Running, but unreachable": lambda scene: scene.host("unreachable"),
    "The credit is used up, or nearly": lambda scene: scene.api("PUT", state="stopped"),
    "A key has leaked": None,
    "The contract ends": lambda scene: scene.instance("end", seconds=3600),
    "Change the image or flags of a whole fleet": None,
    "The price rises": lambda scene: scene.instance("raise-price"),
    "Interrupted: outbid": lambda scene: scene.instance("outbid"),
    "The market is empty": lambda scene: scene.set("max_dph_usd", "0.01"),
    "The IP or the port changed": lambda scene: scene.host("change-port"),
    "The certificate ends": Scene.certificate_ends_soon,
    "Changed by hand": lambda scene: scene.api("PUT", label="mine now"),
    "Locked, killed, half done": Scene.killed_up,
    "A destroy fails": lambda scene: scene.set("protect", "true"),
    "The state is lost": twice,
    "The state cannot be written": Scene.cut_off,
    "The state was changed": None,
}
# exit codes, other than 0, of commands that ask somebody, or that say what they found
ENDS_WITH = {
    ("A key has leaked", "python -m ops rotate-key --stack prod"): 2,
    ("The state is lost", "python -m ops recover --stack prod"): 3,
    ("The state is lost", "python -m ops orphans --min-age-min 0"): 3,
}


def test_every_runbook_is_tried_or_has_nothing_to_run():
    assert {*HAPPENS, *NOTHING_TO_RUN} == set(TITLES)
    for title in TITLES:
        assert bool(commands(section(PAGE, title))) == (title in HAPPENS), title


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runbooks")
    config = {"timeouts.probe_timeout_s": 1, "timeouts.probe_window_s": 1}
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        scene = Scene(market, EngineStack(folder / "stack", market.url, name="prod", config=config).init())
        scene.stack.write_limits()
        yield scene
        scene.shell.close()


def paste(scene, text, title=""):
    for pasted in commands(text):
        command = pasted.replace("--grace-s 600", "--grace-s 1")
        if "URN-OF-THE-INSTANCE" in command or " ID " in command:
            [urn] = [one["urn"] for one in resources_of(scene.stack.deployment()) if one["type"].endswith(":Instance")]
            command = command.replace("URN-OF-THE-INSTANCE", f"'{urn}'").replace(" ID ", f" {scene.id} ")
        done = scene.shell.run(command)
        expected = ENDS_WITH.get((title, command.partition("#")[0].strip()), 0)
        assert done.rc == expected, f"$ {command}\n{done.text[-4000:]}"


def require_in_sync(scene):
    seen = scene.shell.run("python -m ops drift --stack prod")
    assert seen.rc == 0, seen.text
    assert scene.ledger.billed() == scene.stack.instances()


@pytest.mark.all
def test_the_commands_of_every_day_say_that_all_is_well(scene):
    assert scene.stack.up().rc == 0
    paste(scene, PAGE.partition("\n## ")[0])


@pytest.mark.all
@pytest.mark.parametrize("title", HAPPENS)
def test_the_commands_of_a_runbook_put_things_right(scene, title):
    scene.ledger.control("hosts/all/reachable")  # what happened to one is over: else it is rented again, in vain
    if not scene.stack.instances():
        assert scene.stack.up().rc == 0
    if happens := HAPPENS[title]:
        happens(scene)
    paste(scene, section(PAGE, title), title)
    if title == "A destroy fails":
        assert scene.ledger.billed() == set()
        return
    require_in_sync(scene)
