"""`python -m ops rotate-key`: rotate the client key without downtime: for a time both keys are valid.

Two steps: begin adds a new key, finish removes the old key. The config and the state store the progress, so another
run, local or in a pipeline, can finish a rotation. Rents nothing, and prints no key.
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
from ops.config import StackConfig, set_values
from ops.engine import Pulumi
from ops.exits import ERROR, OK, PENDING, USAGE, OpsError
from ops.fleet import Fleet, key_resource, secret_output
from ops.outputs import StackOutputs
from ops.status import create_client, trusted_certificates

KEY_BYTES = 32
CHECK_TIMEOUT_S = 30.0  # a gateway or server may apply a new key list with a delay
CHECK_EVERY_S = 0.5


@verb("rotate-key")
@click.option("--begin", "step", flag_value="begin", help="Only create the new key; the old one stays valid.")
@click.option("--finish", "step", flag_value="finish", help="Only remove the old key.")
@click.option("--grace-s", type=click.FloatRange(0), help="Seconds from adding the new key to removing the old one.")
def rotate_key(pulumi: Pulumi, *, step: str | None, grace_s: float | None) -> Outcome:
    """Rotate the client key: both keys are valid for a time, then only the new one. Rents nothing."""
    if step and grace_s is not None:
        raise OpsError(USAGE, "--grace-s cannot be combined with --begin or --finish")
    if not step and grace_s is None and not sys.stdin.isatty():
        raise OpsError(
            USAGE,
            "no terminal to confirm that the clients have the new key",
            "add --grace-s SECONDS, or run --begin now and --finish when they have it",
        )
    rotation = Rotation(pulumi)
    read_command = f"pulumi stack output api_key --show-secrets --stack {pulumi.name}"
    if step != "finish":
        rotation.begin()
    if not step:
        wait(rotation, grace_s, read_command)
        rotation = Rotation(pulumi)
    if step != "begin":
        rotation.finish()
    phase, headline = {
        "begin": ("begun", "the new key and the old key are valid: give the new one to the clients, then run --finish"),
        "finish": ("finished", "the old key is removed, and requests with it are refused"),
        None: ("rotated", "the new key is valid; the old key is removed, and requests with it are refused"),
    }[step]
    facts = {"phase": phase, "url": rotation.outputs.url, "made_by": "stack" if rotation.is_generated else "config"}
    commit = f"{report.code(rotation.config.path.name)} was changed: commit it."
    return Outcome(OK, headline, [f"The key: {report.code(read_command)}", commit], facts)


def wait(rotation: Rotation, grace_s: float | None, read_command: str) -> None:
    """Wait until the clients have the new key. Raises OpsError if interrupted: both keys stay valid."""
    _log(f"both keys are valid; the new one: {read_command}")
    try:
        if grace_s is None:
            prompt = "rotate-key: press Enter when the clients have it, to remove the old key: "
            print(prompt, end="", file=sys.stderr, flush=True)
            input()
        else:
            _log(f"the old key is removed in {grace_s:g} s")
            time.sleep(grace_s)
    except (KeyboardInterrupt, EOFError):
        raise OpsError(ERROR, "interrupted: both keys are valid", f"{rotation.command} --finish") from None


class Rotation:
    """The rotation of one stack's client key, read from config and state.

    `is_generated`: the stack generates its keys, else they are in the config. `is_begun`: the config has two keys.
    `is_deployed`: the config's current key is deployed.
    """

    def __init__(self, pulumi: Pulumi) -> None:
        self.pulumi, self.config = pulumi, StackConfig(pulumi)
        self.command = f"python -m ops rotate-key --stack {pulumi.name}"
        deploy = f"python -m ops deploy --stack {pulumi.name}"
        self.outputs = StackOutputs.parse(pulumi.outputs())
        if not self.outputs.api_key or not self.outputs.url:
            raise OpsError(USAGE, f"stack {pulumi.name} has no server yet", deploy)
        if pulumi.config("guard") in ("off", "false"):
            raise OpsError(
                USAGE,
                "guard is false: vLLM has one fixed key, so another key needs another container",
                f"set guard: true; or set another api_key_generation (or api_key) and run {deploy}: the new server "
                "accepts only the new key, as soon as it serves",
            )
        configured, self.generation = pulumi.config("api_key"), int(pulumi.config("api_key_generation") or 1)
        self.is_generated = not configured
        if self.is_generated:
            state = pulumi.resources(show_secrets=True)
            key = key_resource(state, f"{Fleet.parse(state).name}-key")
            self.previous = secret_output(key, "previous")
            self.is_begun = pulumi.config("keep_previous_key") in ("on", "true")
            self.is_deployed = int((key.get("inputs") or {}).get("generation") or 1) == self.generation
        else:
            self.previous = pulumi.config("api_key_previous")
            self.is_begun = self.previous not in ("", configured)
            self.is_deployed = self.outputs.api_key == configured

    def begin(self) -> None:
        """Add a new key and keep the current one. Raises OpsError."""
        old = self.outputs.api_key
        if self.is_begun and self.is_deployed:
            raise OpsError(USAGE, "a rotation has already begun: two keys are valid", f"{self.command} --finish")
        if self.is_begun:
            _log("continues a begin that was interrupted before the deploy")
            self._refuse_other_changes()
        elif not self.is_deployed:
            raise self._pending("the config's key is not deployed")
        else:
            self._change(lambda: self._add_key(old))
        self._up("--begin")
        if self.outputs.api_key == old:
            raise OpsError(ERROR, "after the deploy the key is still the old one", "see pulumi preview --diff")
        self._check_key(self.outputs.api_key, 200, "the new key")
        self._check_key(old, 200, "the old key")

    def finish(self) -> None:
        """Remove the old key. Raises OpsError."""
        if not self.is_begun and not self.previous:
            raise OpsError(USAGE, "no rotation has begun: one key is valid", f"{self.command} --begin")
        if not self.is_deployed:
            raise OpsError(
                USAGE,
                "the new key was never deployed: the begin was interrupted, so no client can have the key",
                f"{self.command} --begin continues it",
            )
        key = "keep_previous_key" if self.is_generated else "api_key_previous"
        self._change(lambda: self.pulumi.remove_config(key))
        self._up("--finish")
        if self.previous:
            self._check_key(self.previous, 401, "the old key")
        self._check_key(self.outputs.api_key, 200, "the new key")

    def _add_key(self, old: str) -> None:
        if self.is_generated:
            set_values(self.pulumi, {"api_key_generation": self.generation + 1, "keep_previous_key": "on"})
        else:  # in this order: after an interrupt in between both are the old key, so no rotation has begun
            self.pulumi.set_secret("api_key_previous", old)
            self.pulumi.set_secret("api_key", secrets.token_hex(KEY_BYTES))

    def _change(self, change: Callable[[], None]) -> None:
        """Change the config. If an `up` would change more than keys, restore the config and raise OpsError."""
        try:
            change()
            self._refuse_other_changes()
        except BaseException:
            self.config.restore()
            raise

    def _refuse_other_changes(self) -> None:
        plan = self.pulumi.preview().plan()
        if steps := plan.instance_steps():
            raise self._pending("; ".join([*plan.drift, *(f"{step.name} ({step.op})" for step in steps)]))

    def _pending(self, problem: str) -> OpsError:
        text = f"more than keys would change in stack {self.pulumi.name}: {problem}; the key is unchanged"
        return OpsError(PENDING, text, f"first python -m ops heal, deploy or roll --stack {self.pulumi.name}")

    def _up(self, flag: str) -> None:
        try:
            self.pulumi.up()
        except OpsError as error:
            remedy = f"{error.remedy or 'fix the failure'}; then continue: {self.command} {flag}"
            text = f"{error.text}. {self.config.path.name} already contains the change"
            raise OpsError(error.code, text, remedy) from None
        self.outputs = StackOutputs.parse(self.pulumi.outputs())

    def _check_key(self, key: str, status: int, name: str) -> None:
        """Check at every address that a request with a key gets a status. Raises OpsError."""
        # behind a gateway, servers accept no client key
        servers = [] if self.outputs.has_gateway else [replica.url for replica in self.outputs.replicas]
        ca = trusted_certificates(self.outputs)
        for url in dict.fromkeys([self.outputs.url, *servers]):
            deadline = time.monotonic() + CHECK_TIMEOUT_S
            while (actual := key_status(url, key, ca)) != status:
                if time.monotonic() > deadline:
                    raise OpsError(ERROR, f"{url} answers {name} with HTTP {actual}, expected {status}")
                time.sleep(CHECK_EVERY_S)


def key_status(url: str, key: str, ca: str) -> int:
    """Return the HTTP status of a request with a key; 0 without an answer."""
    try:
        return create_client(url, key, ca, 15.0).probe_path("/rerank", key)[1]
    except ServingError:
        return 0


def _log(text: str) -> None:
    print(f"rotate-key: {text}", file=sys.stderr, flush=True)
