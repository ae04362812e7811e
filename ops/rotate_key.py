"""`python -m ops rotate-key`: another client key without an interruption. Both are valid for a time, then the new one.

Two halves: begin (a new key beside the old one) and finish (the old one is refused). What has begun is seen in the
config and the state, so any run, here or in a pipeline, can finish it. Rents nothing, and prints no key.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable

import click

from components.errors import ServingError
from ops import report
from ops.command import Outcome, verb
from ops.config import StackConfig, put
from ops.engine import Pulumi
from ops.exits import ERROR, OK, PENDING, USAGE, OpsError
from ops.fleet import Fleet, key_resource, secret_output
from ops.outputs import StackOutputs
from ops.status import client, trusted

KEY_BYTES = 32
SEEN_WITHIN_S = 30.0  # a gateway's key file or a server's client keys may take a moment
ASK_EVERY_S = 0.5


@verb("rotate-key")
@click.option("--begin", "half", flag_value="begin", help="Only make the new key; the old one stays valid.")
@click.option("--finish", "half", flag_value="finish", help="Only take the old key away.")
@click.option("--grace-s", type=click.FloatRange(0), help="Take the old key away so many seconds after the new one.")
def rotate_key(pulumi: Pulumi, *, half: str | None, grace_s: float | None) -> Outcome:
    """Make a new client key: both are valid for a time, then only the new one. Rents nothing."""
    if half and grace_s is not None:
        raise OpsError(USAGE, "--grace-s goes with neither --begin nor --finish")
    if not half and grace_s is None and not sys.stdin.isatty():
        raise OpsError(
            USAGE,
            "nobody is there to say when the clients have the new key",
            "add --grace-s SECONDS, or run --begin now and --finish when they have it",
        )
    rotation = Rotation(pulumi)
    read = f"pulumi stack output api_key --show-secrets --stack {pulumi.name}"
    if half != "finish":
        rotation.begin()
    if not half:
        wait(rotation, grace_s, read)
        rotation = Rotation(pulumi)
    if half != "begin":
        rotation.finish()
    phase, headline = {
        "begin": ("begun", "a new key is valid beside the old one: give it to the clients, then run it with --finish"),
        "finish": ("finished", "the old key was taken away, and is seen to be refused"),
        None: ("rotated", "the new key is valid; the old one was taken away, and is seen to be refused"),
    }[half]
    facts = {"phase": phase, "url": rotation.outputs.url, "made_by": "stack" if rotation.made else "config"}
    commit = f"{report.code(rotation.config.path.name)} was changed: commit it."
    return Outcome(OK, headline, [f"The key: {report.code(read)}", commit], facts)


def wait(rotation: Rotation, grace_s: float | None, read: str) -> None:
    """Wait until the clients have the new key. Raises OpsError when it is interrupted: both keys stay valid."""
    _say(f"both keys are valid; the new one: {read}")
    try:
        if grace_s is None:
            print("rotate-key: Enter, once the clients have it, to take the old one away: ", end="", file=sys.stderr)
            sys.stderr.flush()
            input()
        else:
            _say(f"the old one is taken away in {grace_s:g} s")
            time.sleep(grace_s)
    except (KeyboardInterrupt, EOFError):
        raise OpsError(ERROR, "interrupted: both keys are valid", f"{rotation.again} --finish") from None


class Rotation:
    """The rotation of one stack's client key, as config and state have it. `made`: the stack makes its keys itself."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.pulumi, self.config = pulumi, StackConfig(pulumi)
        self.again = f"python -m ops rotate-key --stack {pulumi.name}"
        deploy = f"python -m ops deploy --stack {pulumi.name}"
        self.outputs = StackOutputs.parse(pulumi.outputs())
        if not self.outputs.api_key or not self.outputs.url:
            raise OpsError(USAGE, f"stack {pulumi.name} has no server yet", deploy)
        if pulumi.config("guard") in ("off", "false"):
            raise OpsError(
                USAGE,
                "guard is false: vLLM itself knows one key only, from its start, so another key is another container",
                f"set guard: true; or set another api_key_generation (or api_key) and run {deploy}: the new server "
                "takes the new key only, from the moment that it is there",
            )
        configured, self.generation = pulumi.config("api_key"), int(pulumi.config("api_key_generation") or 1)
        self.made = not configured
        # whether the config asks for a second key, and whether the key that it asks for is the one that is deployed
        if self.made:
            state = pulumi.resources(show_secrets=True)
            key = key_resource(state, f"{Fleet.parse(state).name}-key")
            self.previous = secret_output(key, "previous")
            self.two_asked = pulumi.config("keep_previous_key") in ("on", "true")
            self.deployed = int((key.get("inputs") or {}).get("generation") or 1) == self.generation
        else:
            self.previous = pulumi.config("api_key_previous")
            self.two_asked = self.previous not in ("", configured)
            self.deployed = self.outputs.api_key == configured

    def begin(self) -> None:
        """Make another key beside the current one. Raises OpsError."""
        old = self.outputs.api_key
        if self.two_asked and self.deployed:
            raise OpsError(USAGE, "a rotation has begun already: two keys are valid", f"{self.again} --finish")
        if self.two_asked:
            _say("goes on with a begin that was cut off before it was deployed")
            self._refuse_other_changes()
        elif not self.deployed:
            raise self._pending("the config has another key than what runs")
        else:
            self._change(lambda: self._ask_for_two(old))
        self._up("--begin")
        if self.outputs.api_key == old:
            raise OpsError(ERROR, "after the deploy the key is still the old one", "look at pulumi preview --diff")
        self._see(self.outputs.api_key, 200, "the new key")
        self._see(old, 200, "the old key")

    def finish(self) -> None:
        """Take the old key away. Raises OpsError."""
        if not self.two_asked and not self.previous:
            raise OpsError(USAGE, "no rotation has begun: one key is valid", f"{self.again} --begin")
        if not self.deployed:
            raise OpsError(
                USAGE,
                "the new key was never deployed: the run that began was cut off before, and no client can know it",
                f"{self.again} --begin goes on with it",
            )
        self._change(lambda: self.pulumi.remove_config("keep_previous_key" if self.made else "api_key_previous"))
        self._up("--finish")
        if self.previous:
            self._see(self.previous, 401, "the old key")
        self._see(self.outputs.api_key, 200, "the new key")

    def _ask_for_two(self, old: str) -> None:
        if self.made:
            put(self.pulumi, {"api_key_generation": self.generation + 1, "keep_previous_key": "on"})
        else:  # in this order: cut off in between, both are the old one, which is no rotation
            self.pulumi.set_secret("api_key_previous", old)
            self.pulumi.set_secret("api_key", secrets.token_hex(KEY_BYTES))

    def _change(self, change: Callable[[], None]) -> None:
        """Change the config, unless an up would then do more than change keys: it is put back, and OpsError raised."""
        try:
            change()
            self._refuse_other_changes()
        except BaseException:
            self.config.put_back()
            raise

    def _refuse_other_changes(self) -> None:
        plan = self.pulumi.preview().plan()
        if touched := plan.touched():
            raise self._pending("; ".join([*plan.drift, *(f"{one.name} ({one.op})" for one in touched)]))

    def _pending(self, what: str) -> OpsError:
        text = f"more than keys would change in stack {self.pulumi.name}: {what}; the key is as it was"
        return OpsError(PENDING, text, f"first python -m ops heal, deploy or roll --stack {self.pulumi.name}")

    def _up(self, half: str) -> None:
        try:
            self.pulumi.up()
        except OpsError as error:
            remedy = f"{error.remedy or 'put right what failed'}; then go on: {self.again} {half}"
            text = f"{error.text}. {self.config.path.name} asks for the change already"
            raise OpsError(error.code, text, remedy) from None
        self.outputs = StackOutputs.parse(self.pulumi.outputs())

    def _see(self, key: str, status: int, name: str) -> None:
        """See at every address that a key is answered or refused. Raises OpsError."""
        # behind a gateway a server itself takes no client's key
        servers = [] if self.outputs.gateway else [one.url for one in self.outputs.replicas]
        ca = trusted(self.outputs)
        for url in dict.fromkeys([self.outputs.url, *servers]):
            deadline = time.monotonic() + SEEN_WITHIN_S
            while (found := answer(url, key, ca)) != status:
                if time.monotonic() > deadline:
                    raise OpsError(ERROR, f"{url} answers {name} with HTTP {found}, expected {status}")
                time.sleep(ASK_EVERY_S)


def answer(url: str, key: str, ca: str) -> int:
    """Return the HTTP status of a request with a key; 0 where none came."""
    try:
        return client(url, key, ca, 15.0).probe_path("/rerank", key)[1]
    except ServingError:
        return 0


def _say(text: str) -> None:
    print(f"rotate-key: {text}", file=sys.stderr, flush=True)
